"""The public names: listed, documented, typed, quick to import; misspelt and old ones are answered."""

import ast
import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_data import SETTINGS, algorithm, columns, finished_run, rows
from test_docs import generate

import tether
from tether import ALGORITHMS, Dataset, InputError, Options, api
from tether._version import __version__
from tether.errors import ArgumentError
from tether.machine.deprecation import renamed_keywords
from tether.machine.keywords import explain_keywords
from tether.presets.recipes import TrainRequest
from tether.runs.curves import read_curves
from tether.studies import compare as studies_compare
from tether.studies import start
from tether.studies.sweep.spec import spec_text

SOURCE = Path(tether.__file__)
OWN = [cls for cls in ALGORITHMS.values() if cls.__module__.startswith("tether.")]


def imported_for_type_checkers() -> set[str]:
    """What `if TYPE_CHECKING:` in `tether/__init__.py` imports."""
    block = next(node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    return {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_every_public_name_is_there_and_documented() -> None:
    assert len(set(tether.__all__)) == len(tether.__all__)
    assert imported_for_type_checkers() == {*tether.__all__, *tether._MODULES}
    assert {cls.__name__ for cls in OWN} <= set(tether.__all__)
    for name in tether.__all__:
        assert name in dir(tether)
        thing = getattr(tether, name)
        assert (thing.__doc__ or "").strip(), name
    module = generate()
    listed = [name for names in module.PUBLIC.values() for name in names] + [cls.__name__ for cls in OWN]
    assert sorted(listed) == sorted(tether.__all__)
    page = (SOURCE.parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == module.api_page(), "run `python docs/generate.py`"


def test_modules_need_no_import_of_their_own() -> None:
    """Pages write `tether.doctor.check`; in a fresh process, where nothing else has imported the module."""
    for name in tether._MODULES:
        subprocess.run([sys.executable, "-c", f"import tether; tether.{name}.__all__"], check=True)
    with pytest.raises(AttributeError, match="no attribute"):
        tether.cli_()  # pyright: ignore


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("tether").joinpath("py.typed").is_file()


# --- quick --------------------------------------------------------------------------------------------------


def processor_seconds(*command: str) -> float:
    """Of a fresh process, the best of five: others warm the disk, and some share the core with a neighbour."""
    best = float("inf")
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = os.times()
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
    return best


def test_import_and_help_take_no_time() -> None:
    """The targets; 0.02 s and 0.15 s where nothing else runs."""
    assert processor_seconds("-c", "import tether") < 0.2
    assert processor_seconds("-m", "tether", "--help") < 0.4


def test_import_brings_nothing_large() -> None:
    program = "import sys, tether; print([m for m in ('jax', 'numpy', 'equinox', 'rich', 'tyro') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


# --- misspelt -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", OWN, ids=lambda cls: cls.__name__)
def test_a_misspelt_hyper_parameter_is_answered_with_near_names(cls: type) -> None:
    name = dataclasses.fields(cls)[0].name  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        TypeError, match=rf"unknown hyper-parameter of {cls.__name__} '{name[:-1]}x'.*\b{name}\b"
    ) as caught:
        cls(**{f"{name[:-1]}x": 1})
    assert isinstance(caught.value, InputError)


def test_so_it_is_for_registered_classes_of_others_and_for_options() -> None:
    @tether.register("test-public-mine")
    class Mine(tether.IQL):
        """A user's own."""

        sharpness: float = 1.0

    assert tether.register("test-public-mine")(Mine) is Mine  # a cell of a notebook that runs twice
    assert Mine(sharpness=2.0, expectile=0.9).sharpness == 2.0
    assert dataclasses.replace(Mine(), sharpness=3.0).sharpness == 3.0
    with pytest.raises(ArgumentError, match="hyper-parameter of Mine 'sharpnes'; did you mean sharpness"):
        Mine(sharpnes=2.0)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ArgumentError, match="of Options 'batchsize'; did you mean batch_size"):
        Options(batchsize=32)  # pyright: ignore[reportCallIssue]
    assert TrainRequest("test-public-mine", "mine.hdf5").resolve()[2] is None  # no presets of its own
    with pytest.raises(InputError, match="test-public-mine preset 'hopper-medium-v2'"):
        tether.find_preset(Mine, "hopper-medium-v2")


def test_a_class_that_takes_any_keyword_is_left_alone() -> None:
    class Anything:
        def __init__(self, **keywords: Any):
            self.keywords = keywords

    assert explain_keywords(Anything)(x=1).keywords == {"x": 1}


@pytest.mark.parametrize(
    ("name", "near"),
    [("dtql", "DTQL"), ("DTQLL", "DTQL"), ("dtql_kl", "DTQLKL"), ("trian", "train"), ("Phases", "Phase")],
)
def test_a_misspelt_name_is_answered(name: str, near: str) -> None:
    with pytest.raises(AttributeError, match=rf"'tether' has no attribute '{name}'; did you mean .*\b{near}\b"):
        getattr(tether, name)
    assert not hasattr(tether, "__wrapped__")


# --- old names ----------------------------------------------------------------------------------------------


DEPRECATED = {
    "Settings": "0.3",
    "train(settings=)": "0.3",
    "evaluate(settings=)": "0.3",
    "LoadedPolicy.with_settings": "0.3",
}
"""Old name -> the version that no longer has it."""


def test_old_names_go_when_they_were_to_go() -> None:
    for name, version in DEPRECATED.items():
        assert numbers(__version__) < numbers(version), f"remove {name}"


def numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def test_old_names_work_and_say_what_to_write(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"tether.Settings is deprecated .* tether 0.3: use tether.Options"):
        assert tether.Settings is Options  # pyright: ignore[reportAttributeAccessIssue]
    wrong: dict[str, Any] = {"settings": Options()}
    with (
        pytest.warns(DeprecationWarning, match=r"use train\(options=\)"),
        pytest.raises(InputError, match="nowhere"),
    ):
        tether.train(algorithm(), "nowhere.hdf5", **wrong)
    with pytest.warns(DeprecationWarning, match=r"use evaluate\(acting=\)"), pytest.raises(InputError, match="nowhere"):
        tether.evaluate(tmp_path / "nowhere", **{"settings": {"candidates": 2}})
    policy = tether.load_policy(finished_run())
    with pytest.warns(DeprecationWarning, match="use LoadedPolicy.with_acting"):
        changed = policy.with_settings(candidates=2)
    assert changed.algorithm.candidates == 2


def test_an_old_and_a_new_keyword_are_not_both_taken() -> None:
    @renamed_keywords("9.0", old="new")
    def double(new: int = 1) -> int:
        return 2 * new

    assert double(new=4) == double(4) == 8
    with pytest.warns(DeprecationWarning, match=r"double\(old=\) .* 9.0: use double\(new=\)"):
        assert double(**{"old": 3}) == 6
    with pytest.warns(DeprecationWarning, match="old"), pytest.raises(TypeError, match="give new alone"):
        double(**{"old": 3, "new": 4})


# --- curves -------------------------------------------------------------------------------------------------


def test_curves_are_the_rows_of_a_run() -> None:
    curves = read_curves(finished_run())
    assert curves.updates.tolist() == [100, 200, 250]
    assert curves.scores.shape == curves.returns.shape == curves.lengths.shape == (2, 3, SETTINGS.eval_episodes)
    for row in rows(finished_run() / "evaluations.jsonl"):
        place = row["lane"], curves.updates.tolist().index(row["update"]), row["episode"]
        found = curves.scores[place], curves.returns[place], curves.lengths[place]
        assert found == (row["normalized_score"], row["return"], row["length"])
    result = json.loads((finished_run() / "result.json").read_text())
    np.testing.assert_allclose(curves.scores[:, -1].mean(axis=1), [lane["score"] for lane in result["lanes"]])
    metrics = rows(finished_run() / "metrics.jsonl")
    assert sum(np.isfinite(series.values).sum() for series in curves.losses.values()) == sum(
        len(row) - 3 for row in metrics
    )
    last = metrics[-1]
    for name in last.keys() - {"phase", "update", "lane"}:
        series = curves.losses[f"train/{name}"]
        assert series.updates[-1] == last["update"] == 250
        assert series.values[last["lane"], -1] == last[name]
    assert any(name.startswith("pretrain/") for name in curves.losses)


def test_curves_of_lanes_that_diverged_and_of_no_evaluation(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"algorithm": "iql", "data": {"dataset": "mine"}, "lanes": [{}, {}]})
    )
    assert read_curves(tmp_path).scores.shape == (2, 0, 0)
    played = [
        {"update": 10, "lane": lane, "episode": 0, "return": 3.0, "length": 7, "normalized_score": None}
        for lane in (0, 1)
    ]
    played.append({"update": 20, "lane": 1, "episode": 0, "return": 5.0, "length": 2, "normalized_score": None})
    logged = [{"phase": "train", "update": 5, "lane": 0, "q_loss": None}, {"phase": "train", "update": 5, "lane": 1}]
    for name, lines in (("evaluations", played), ("metrics", logged)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = read_curves(tmp_path)
    np.testing.assert_array_equal(curves.scores[:, :, 0], [[3.0, np.nan], [3.0, 5.0]])  # returns: no references
    np.testing.assert_array_equal(curves.losses["train/q_loss"].values, [[np.nan], [np.nan]])
    with pytest.raises(InputError, match="not a run folder"):
        read_curves(tmp_path / "nowhere")


# --- presets and studies ------------------------------------------------------------------------------------


def test_find_preset_is_what_the_command_line_takes() -> None:
    preset = tether.find_preset("dtql", "hopper-medium-v2", candidates=7)
    expected, arguments, name = TrainRequest("dtql", "d4rl:hopper-medium-v2", {"candidates": 7}).resolve()
    assert (preset.name, preset.algorithm) == (name, expected)
    assert preset.algorithm.candidates == 7
    assert preset.arguments == {key: value for key, value in arguments.items() if key != "environment"}
    named = Dataset.from_arrays(**columns(), name="hopper-medium-v2")
    assert tether.find_preset(tether.DTQL, named).name == "hopper-medium-v2"
    for wrong, message in (
        (("dtql", "hoper-medium-v2"), "dtql preset 'hoper-medium-v2'; did you mean hopper-medium-v2"),
        (("dtqll", "hopper-medium-v2"), "algorithm 'dtqll'; did you mean dtql"),
    ):
        with pytest.raises(InputError, match=message):
            tether.find_preset(*wrong)
    with pytest.raises(InputError, match="hyper-parameter of dtql 'candidate'"):
        tether.find_preset("dtql", "hopper-medium-v2", candidate=7)


SMALL = {"hidden_sizes": (8, 8)}


@pytest.mark.long
def test_compare_from_python_on_data_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = functools.partial(studies_compare.choose, updates=20)  # the ranking has tests of its own
    monkeypatch.setattr(studies_compare, "choose", quick)
    data, out = Dataset.from_arrays(**columns(rows=120)), tmp_path / "both"
    arguments: dict[str, Any] = {"seeds": 2, "updates": 3, "batch_size": 8, "environment": "none", "quiet": True}
    special = {"hyperparameters": SMALL | {"td3-bc": {"q_weight": 1.5}}}
    done = tether.compare(["bc", tether.TD3BC], data, out=out, **arguments, **special)
    assert done.succeeded
    assert [row.algorithm for row in done.rows()] == ["bc", "td3-bc"]
    assert "td3-bc" in str(done)
    config = json.loads((out / "bc" / "config.json").read_text())
    assert (config["data"]["in_memory"], config["data"]["sha256"]) == (True, data.content_sha256())
    assert config["hyperparameters"]["hidden_sizes"] == [8, 8]
    assert json.loads((out / "td3-bc" / "config.json").read_text())["hyperparameters"]["q_weight"] == 1.5
    asked = {"hyperparameters": SMALL}
    before = (out / "bc" / "result.json").stat().st_mtime_ns
    again = tether.compare(["bc"], Dataset.from_arrays(**columns(rows=120)), out=out, **arguments, **asked)
    assert (out / "bc" / "result.json").stat().st_mtime_ns == before
    assert len(again.rows()) == 2
    with pytest.raises(InputError, match="sha256"):
        tether.compare(["bc"], data.replace(rewards=data.rewards * 2), out=out, **arguments, **asked)
    with pytest.raises(InputError, match="'bcc'; did you mean bc"):
        tether.compare(["bcc"], data)
    with pytest.raises(InputError, match=r"not registered: @tether\.register"):
        tether.compare([Options], data)


def test_sweep_from_python(tmp_path: Path) -> None:
    source = str(Dataset.from_arrays(**columns(rows=120)).to_hdf5(tmp_path / "own.hdf5"))
    arguments: dict[str, Any] = {
        "out": tmp_path / "sweep",
        "seeds": (0, 4),
        "hyperparameters": SMALL,
        "sweep": {"learning_rate": [1e-3, 1e-4]},
        "options": {"updates": 2, "batch_size": 8, "environment": "none", "preset": "none"},
        "workers": 0,
        "quiet": True,
    }
    found = tether.sweep([tether.BC], [source], **arguments)
    assert [(row.algorithm, row.settings["learning_rate"], row.seeds, row.finished) for row in found] == [
        ("bc", 1e-3, 2, 2),
        ("bc", 1e-4, 2, 2),
    ]
    (folder,) = [path for path in (tmp_path / "sweep" / "jobs").iterdir() if path.is_dir()]
    before = (folder / "result.json").stat().st_mtime_ns
    assert tether.sweep(["bc"], [source], **arguments) == found  # what is done is not done again
    assert (folder / "result.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="another sweep"):
        tether.sweep(["bc"], [source], **arguments | {"seeds": 3})
    for changes, message in (
        ({"sweep": {"learning_rat": [1.0]}}, "learning_rat"),
        ({"options": {"update": 2}}, "did you mean updates"),
        ({"hyperparameters": {"hidden_sizes": object()}}, "hidden_sizes"),
        ({"workers": -1}, "workers -1"),
    ):
        with pytest.raises(InputError, match=message):
            tether.sweep(["bc"], [source], **arguments | {"out": tmp_path / "other"} | changes)
    with pytest.raises(InputError, match="Dataset in memory: write it with to_hdf5"):
        start._sources([Dataset.from_arrays(**columns())])


def test_a_spec_is_spelled_as_the_file_would_be() -> None:
    text = spec_text(
        {"algorithms": ["bc"], "set": {"a": 1e-5, "b": True}, "algorithm": {"td3-bc": {"set": {"c": "x"}}}}
    )
    import tomllib

    assert tomllib.loads(text) == {
        "algorithms": ["bc"],
        "set": {"a": 1e-5, "b": True},
        "algorithm": {"td3-bc": {"set": {"c": "x"}}},
    }
    assert not re.search("e-05'", text)


def test_train_says_that_it_takes_an_instance() -> None:
    for given, words in (
        ("dtql", "algorithm 'dtql': give an instance, such as DTQL()"),
        (tether.IQL, "algorithm 'IQL': give an instance, such as IQL()"),
        ({"name": "bc"}, "algorithm dict: has no init, phases, policy"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            api._check_algorithm(given)
