"""What others register (the examples of docs/extending.md) is used from end to end; in this process, in those that it
begins, and again when a run is resumed. And nothing that a file names is imported."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import pytest
from make_data import columns, data_file, digest, rows, tether, write_d4rl

import tether as package
from tether import BC, InputError, Options, api
from tether.algorithms.catalogue import OTHERS, catalogue, entry_of
from tether.algorithms.registry import ALGORITHMS, check_recorded, name_of, parse_fields, recover_class
from tether.bench.counting import synthetic, update_flops
from tether.bench.suite import usable_algorithms
from tether.data import View, load_dataset, prepare, view_of
from tether.data.views import ViewKind
from tether.environments.tasks import find_task
from tether.machine import plugins
from tether.machine import registry as machine_registry
from tether.machine.registry import KINDS, register, registry
from tether.policies.folder import load_policy
from tether.studies import compare
from tether.studies.sweep import load_spec
from tether.studies.sweep.jobs import SweepFolder
from tether.studies.sweep.slurm import write_script
from tether.types import Spec, Transition

SOURCE = str(Path(package.__file__).parents[1])

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
PLUGIN = "\n\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))
"""The examples of the page, one module."""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the working folder, which nobody has imported; afterwards nobody knows of it."""
    name = f"kinds_of_{abs(hash(str(tmp_path))) % 10**8}"
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(plugins.PLUGINS, raising=False)
    path = list(sys.path)
    yield name
    forget(name)
    sys.path[:] = path
    os.environ.pop(plugins.PLUGINS, None)


def forget(module: str) -> None:
    """As a process that never heard of a plug-in."""
    import gymnasium

    for kind in KINDS:
        registry(kind)._registered.clear()
    sys.modules.pop(module, None)
    gymnasium.registry.pop("Count-v0", None)


QUICK = ("--updates", "6", "--batch-size", "4", "--eval-every-updates", "3", "--eval-episodes", "2", "--quiet")
HOW = "--environment count --reward-transform doubled --observation-transform thirds --logger lines"
TRAIN = ("train", "timid", "dice:3", *QUICK, *HOW.split(), "--log-every-updates", "3")
TRAIN += ("--set", "hidden_sizes=4", "actor_network=sines")


def test_all_kinds_from_end_to_end(plugin: str) -> None:
    assert tether(*TRAIN, "--out", "unknown")[0] == 2
    code, _, err = tether(*TRAIN, "--out", "run", "--plugin", plugin)
    assert code == 0, err
    config = json.loads(Path("run/config.json").read_text())
    assert (config["algorithm"], config["algorithm_class"]) == ("timid", f"{plugin}:Timid")
    data = config["data"]
    assert (data["source"], data["in_memory"]) == ("dice:3", False)
    assert data["reward_transform"] == {"name": "doubled", "factor": 2.0}
    assert data["normaliser"] == {"mean": [1.0, 1.0], "std": [3.0, 3.0]}
    assert config["environment"] == "count"
    assert {row["return"] for row in rows(Path("run/evaluations.jsonl"))} == {1.0 + 2.0 + 3.0 + 4.0}
    assert {row["normalized_score"] for row in rows(Path("run/evaluations.jsonl"))} == {50.0}
    assert config["hyperparameters"]["actor_network"] == "sines"
    assert Path("run/lines.txt").read_text().splitlines() == ["3", "6"]
    # The view: training saw the second episode alone, so another first one changes nothing.
    prepared = prepare(load_dataset("dice:3"), view=view_of(ALGORITHMS["timid"]()))
    assert prepared.transitions.rows == prepared.record["transitions"] == 38 - 38 // 2

    forget(plugin)
    os.environ.pop(plugins.PLUGINS, None)
    code, _, err = tether("resume", "run", "--updates", "9", "--quiet")
    assert code == 2
    assert f"made by {plugin}:Timid, which is not registered here; import it: --plugin {plugin}" in err
    os.environ[plugins.PLUGINS] = plugin
    assert tether("resume", "run", "--updates", "9", "--quiet")[0] == 0
    changed = [word if word != "6" else "9" for word in TRAIN]
    assert tether(*changed, "--out", "whole", "--plugin", plugin)[0] == 0
    assert digest(Path("run/policy/policy.safetensors")) == digest(Path("whole/policy/policy.safetensors"))


def test_a_run_is_evaluated_where_a_task_lists_its_data(plugin: str) -> None:
    write_d4rl(Path("count-demos.hdf5"), **columns(observation_size=2, action_size=1))
    code, _, err = tether("train", "bc", "count-demos.hdf5", *QUICK, "--out", "run", "--plugin", plugin)
    assert code == 0, err
    assert json.loads(Path("run/config.json").read_text())["environment"] == "count"
    assert {row["return"] for row in rows(Path("run/evaluations.jsonl"))} == {10.0}


def test_it_is_in_the_tables(plugin: str) -> None:
    """Without family, presets and costs."""
    code, out, _ = tether("algorithms", "--plugin", plugin)
    assert code == 0
    assert "timid" in out
    assert "cloning of actions half as large" in out
    entry = catalogue()["timid"]
    assert (entry.family, entry.paper) == (OTHERS, "")
    code, out, err = tether("train", "timd", "dice:3", "--plugin", plugin)
    assert code == 2
    assert "timid" in err
    assert "dice:NAME" in tether("data", "show", "no-such-thing", "--plugin", plugin)[2]


def test_the_check_of_the_page_passes(plugin: str) -> None:
    """As it is written there."""
    plugins.load_plugins([plugin])
    (call,) = re.findall(r"`(tether\.check_algorithm\(Timid.*?\))`", PAGE.read_text())
    report = eval(call, vars(sys.modules[plugin]))
    assert report.failures == ()


@pytest.mark.parametrize(
    "words", [("--plugin", "no_such_module"), ("--plugin=no.such",), ("--plugin", "3x"), ("--plugin",)]
)
def test_a_plugin_that_is_none_is_one_line(words: tuple[str, ...]) -> None:
    code, out, err = tether("algorithms", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words[-1].rpartition("=")[2] in err


def test_a_plugin_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_plugin.py").write_text("import tether\ntether.register('bc')(int)\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = tether("algorithms", "--plugin", "failing_plugin")
    said = "plugin 'failing_plugin': algorithm 'bc' is tether's own; register yours under another name"
    assert (code, err) == (2, f"tether: error: {said}\n")


@pytest.mark.parametrize("code", [0, 3])
def test_a_plugin_that_exits_is_one_line(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exiting_plugin.py").write_text(f"import sys\nsys.exit({code})\n")
    monkeypatch.chdir(tmp_path)
    said = f"tether: error: plugin 'exiting_plugin': SystemExit {code}\n"
    assert tether("algorithms", "--plugin", "exiting_plugin") == (2, "", said)


TAKEN = {
    "algorithm": "bc",
    "reader": "minari",
    "reward_transform": "standardise",
    "observation_transform": "minmax",
    "environment": "Ant_Maze-umaze",
    "view": "sarsa",
    "logger": "wandb",
    "network": "64x64",
}


@pytest.mark.parametrize(("kind", "name"), TAKEN.items())
def test_names_of_tethers_own_are_refused_also_before_the_library_is_there(kind: str, name: str) -> None:
    """A plug-in is the first that is imported."""
    program = f"import tether\ntether.register({name!r}, kind={kind!r})(lambda *_: None)"
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    said = f"InputError: {kind.replace('_', ' ')} {name!r} is tether's own; register yours under another name"
    assert done.stderr.splitlines()[-1].endswith(said)


# --- installed packages ---


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a package: (name, its entry points by kind, the text of its module)."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def install(name: str, entries: dict[str, str], text: str = "") -> None:
        (site / f"{name}.py").write_text(text)
        about = site / f"{name}-0.1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        groups = (f"[{KINDS[kind].group}]\n{entry}\n" for kind, entry in entries.items())
        (about / "entry_points.txt").write_text("".join(groups))
        machine_registry._entry_points.cache_clear()

    yield install
    machine_registry._entry_points.cache_clear()


def test_a_broken_package_is_a_row_that_says_why(installed: Callable[..., None]) -> None:
    """And disables nothing but itself."""
    installed("licensed_pkg", {"algorithm": "licensed = licensed_pkg:Licensed"}, "raise RuntimeError('no licence')\n")
    installed("leaving_pkg", {"algorithm": "leaving = leaving_pkg:Leaving"}, "import sys\nsys.exit(0)\n")
    installed("module_pkg", {"algorithm": "module = module_pkg"})
    code, out, err = tether("algorithms")
    assert (code, err) == (0, "")
    for name, why in (
        ("licensed", "of licensed_pkg:Licensed: cannot be imported: RuntimeError no licence"),
        ("leaving", "of leaving_pkg:Leaving: cannot be imported: SystemExit 0"),
        ("module", "of module_pkg: is not a class"),
    ):
        assert f"cannot be used: algorithm '{name}' {why}" in out
    assert entry_of("bc").family == "cloning"
    assert entry_of("gone").what.startswith("cannot be used: unknown algorithm 'gone'")
    assert name_of(Louder) == "Louder"  # beside an entry point that is a module
    heard: list[str] = []
    assert usable_algorithms(heard.append) == [name for name in ALGORITHMS if ALGORITHMS.is_ours(name)]
    assert {line.split(":")[0] for line in heard} == {"licensed", "leaving", "module"}


def test_packages_that_share_a_name_are_one_line(installed: Callable[..., None]) -> None:
    installed("one_pkg", {"reader": "shared = one_pkg:read"})
    installed("two_pkg", {"reader": "shared = two_pkg:read"})
    code, out, err = tether("data", "show", "shared:x")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(part in err for part in ("one_pkg 0.1 (one_pkg:read)", "two_pkg 0.1 (two_pkg:read)", "the same name"))


def test_a_package_does_not_take_a_name_of_tethers_own(installed: Callable[..., None]) -> None:
    installed("taking_pkg", {"algorithm": "bc = taking_pkg:BC"})
    with pytest.warns(UserWarning, match=r"'bc' of taking_pkg 0.1 \(taking_pkg:BC\) is not used: the name is tether's"):
        assert ALGORITHMS.is_ours("bc")
    assert ALGORITHMS["bc"] is BC


# --- what is registered and is wrong ---


def fails(*arguments: Any) -> Any:
    raise ValueError("one\ntwo")


def test_what_a_reader_raises_is_one_line() -> None:
    register("failing", kind="reader")(fails)
    code, out, err = tether("data", "show", "failing:x")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("tether: error: reader 'failing': ValueError one two (test_extending.py line ")


@pytest.mark.parametrize(
    ("kind", "thing", "said"),
    [
        ("observation_transform", fails, "observation transform 'wrong': ValueError one two"),
        ("observation_transform", lambda o: None, "observation transform 'wrong': gives a NoneType; needs Normaliser"),
        ("observation_transform", lambda o: (0, 1, 2), "observation transform 'wrong': gives a tuple; needs Normal"),
        ("observation_transform", lambda o: ("x", "y"), "observation transform 'wrong': ValueError could not convert"),
        ("reward_transform", fails, "reward transform 'wrong': ValueError one two"),
        ("reward_transform", lambda table: (fails, {}), "reward transform 'wrong': ValueError one two"),
        ("reward_transform", lambda table: (np.sign, {"name": 5.0}), "'wrong': call none of its numbers 'name'"),
        ("reward_transform", lambda table: (np.sign, {"x": {1}}), "reward transform 'wrong': TypeError Object of type"),
    ],
)
def test_what_a_transform_does_wrong_is_one_line(kind: str, thing: Any, said: str) -> None:
    register("wrong", kind=kind)(thing)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        prepare(load_dataset(str(data_file())), **{kind: "wrong"})
    assert "\n" not in str(caught.value)


def test_what_an_environment_or_a_view_does_wrong_is_one_line() -> None:
    register("wrong", kind="environment")(fails)
    with pytest.raises(InputError, match="environment 'wrong': ValueError one two"):
        find_task("wrong")
    for name, build, said in (
        ("raising", fails, "view 'raising': ValueError one two"),
        ("numbers", lambda *_: np.zeros(3), r"view 'numbers': builds a ndarray without rows and take\(indices\)"),
    ):
        register(name, kind="view")(ViewKind(build))
        with pytest.raises(InputError, match=said):
            prepare(load_dataset(str(data_file())), view=View(name))
    with pytest.raises(InputError, match="has no table, describe: register a "):
        register("half", kind="view")(SimpleNamespace(build=fails))


def test_algorithms_that_cannot_be_made_are_refused_where_they_are_registered() -> None:
    class Plain:
        init = phases = policy = fails

    class Needs(BC):
        need: int = eqx.field(static=True, kw_only=True)

    with pytest.raises(InputError, match=r"Plain'> is no equinox\.Module, nor another dataclass"):
        register("plain")(Plain)
    with pytest.raises(InputError, match="has no default for need: every hyper-parameter needs one"):
        register("needs")(Needs)


# --- registered views ---


class Pairs(NamedTuple):
    """What a view of one's own may make: no `Transition`."""

    first: Any
    second: Any

    @property
    def rows(self) -> int:
        return self.first.shape[0]

    def take(self, indices: Any) -> "Pairs":
        return Pairs(self.first[indices], self.second[indices])


class PairClone(BC):
    """BC of what its view calls otherwise."""

    view = "pairs"

    def update(self, state: Any, batch: Any, key: Any, step: Any) -> Any:
        zeros = batch.first[:, 0]
        return super().update(state, Transition(batch.first, batch.second, zeros, batch.first, zeros), key, step)


@pytest.fixture
def pairs() -> None:
    register("pairs", kind="view")(ViewKind(lambda view, data, rows, table, rewards: Pairs(*table[:2])))
    register("pair-clone")(PairClone)


@pytest.mark.usefixtures("pairs")
def test_a_registered_view_is_counted_and_forecast() -> None:
    assert update_flops(PairClone(), 0, Spec(2, 1), 16) == update_flops(BC(), 0, Spec(2, 1), 16)
    assert synthetic(view_of(PairClone()), Spec(2, 1), jax.random.key(0)).first.shape[1] == 2
    code, out, err = tether("train", "pair-clone", str(data_file()), "--environment", "none", "--dry-run")
    assert (code, err) == (0, "")
    assert "pair-clone, its defaults" in out


@pytest.mark.usefixtures("pairs")
def test_a_comparison_trains_also_what_it_cannot_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "update_flops", fails)
    monkeypatch.setattr(compare, "_choose", lambda *_: None)  # ranking the seeds takes a minute
    request = compare.Request(
        str(data_file()),
        ("pair-clone",),
        seeds=1,
        updates=2,
        batch_size=4,
        environment="none",
        assignments=("hidden_sizes=4",),
    )
    done = compare.start_comparison(request, tmp_path / "both", quiet=True)
    assert [(row.algorithm, row.status, row.gflop_per_update) for row in done.rows()] == [("pair-clone", "done", None)]


# --- identity ---


class Louder(BC):
    """BC that learns ten times as fast: a subclass of a registered class."""

    def update(self, state: Any, batch: Any, key: Any, step: Any) -> Any:
        return dataclasses.replace(BC(), learning_rate=10 * self.learning_rate).update(state, batch, key, step)


def louder(out: Path, updates: int = 4, algorithm: Any = Louder) -> Path:
    options = Options(batch_size=8, log_every_updates=2, eval_every_updates=4)
    made = algorithm(hidden_sizes=(8,), train_updates=updates)
    return api.train(made, str(data_file()), options=options, environment="none", out=out, quiet=True).folder


def test_a_subclass_is_recorded_and_resumed_as_itself(tmp_path: Path) -> None:
    assert name_of(Louder) == "Louder"
    folder, whole, parent = (
        louder(tmp_path / name, updates, cls)
        for name, updates, cls in (("run", 4, Louder), ("whole", 8, Louder), ("parent", 8, BC))
    )
    config = json.loads((folder / "config.json").read_text())
    assert (config["algorithm"], config["algorithm_class"]) == ("Louder", f"{__name__}:Louder")
    for attempt in (lambda: api.resume(folder, updates=8, quiet=True), lambda: load_policy(folder)):
        with pytest.raises(InputError, match=f"made by {__name__}:Louder.*algorithm=Louder"):
            attempt()
    with pytest.raises(InputError, match=r"Louder, not by tether\.algorithms\.bc:BC"):
        api.resume(folder, updates=8, quiet=True, algorithm=BC)
    api.resume(folder, updates=8, quiet=True, algorithm=Louder)
    one, two, other = (digest(run / "policy" / "policy.safetensors") for run in (folder, whole, parent))
    assert one == two != other
    assert type(load_policy(folder, algorithm=Louder).algorithm) is Louder


def test_a_registered_subclass_is_found_by_its_name(tmp_path: Path) -> None:
    register("louder")(Louder)
    try:
        folder = louder(tmp_path / "run")
        assert json.loads((folder / "config.json").read_text())["algorithm"] == "louder"
        assert type(load_policy(folder).algorithm) is Louder
    finally:
        registry("algorithm")._registered.pop("louder")


class ManyKinds(BC):
    """Static fields of the kinds that people annotate."""

    blocks: tuple = eqx.field(static=True, default=(8, "wide", (1, 2)))
    none: tuple[int, ...] = eqx.field(static=True, default=())
    width: int | str = eqx.field(static=True, default="auto")
    kind: tuple[int, str] = eqx.field(static=True, default=(3, "x"))
    scale: int | float = eqx.field(static=True, default=0.5)
    anything: object = eqx.field(static=True, default=(1, 2))
    flag: int | bool = eqx.field(static=True, default=True)


def test_all_kinds_of_static_fields_are_read_back(tmp_path: Path) -> None:
    folder = louder(tmp_path / "run", algorithm=ManyKinds)
    found = load_policy(folder, algorithm=ManyKinds).algorithm
    assert found == ManyKinds(hidden_sizes=(8,), train_updates=4)
    assert api.resume(folder, updates=6, quiet=True, algorithm=ManyKinds).updates == 6
    words = {"blocks": "4,wide,0.5", "width": "7", "kind": "(4, y)", "scale": "0.25", "anything": "x", "flag": "true"}
    expected = {"blocks": (4, "wide", 0.5), "width": 7, "kind": (4, "y"), "scale": 0.25, "anything": "x", "flag": True}
    assert parse_fields(ManyKinds, words) == expected
    for name, value in (("kind", "4"), ("kind", "4,y,z"), ("kind", "y,4"), ("scale", "x")):
        with pytest.raises(InputError, match=f"{name}='{value}': expected "):
            parse_fields(ManyKinds, {name: value})


def test_records_give_all_of_tethers_own_back() -> None:
    for name in ALGORITHMS:
        check_recorded(ALGORITHMS[name]())


def test_what_no_record_gives_back_is_not_trained(tmp_path: Path) -> None:
    class Lost(BC):
        sizes: tuple[int, ...] = eqx.field(static=True, default=("4",))  # pyright: ignore[reportAssignmentType]
        rows: Any = eqx.field(static=True, default=frozenset({1}))

    with pytest.raises(InputError, match=r"Lost cannot be recorded, .*frozenset is not JSON"):
        louder(tmp_path / "run", algorithm=Lost)
    with pytest.raises(InputError, match=r"sizes=\('4',\) comes back as \(4,\); annotate it"):
        louder(tmp_path / "run", algorithm=functools.partial(Lost, rows=1))
    assert not (tmp_path / "run").exists()


def test_a_class_of_a_script_is_not_offered_as_a_plugin() -> None:
    record = {"algorithm": "Mine", "algorithm_class": "__main__:Mine", "algorithm_distribution": None}
    with pytest.raises(
        InputError, match="defined in a script or notebook: define it again and pass algorithm=Mine"
    ) as caught:
        recover_class(record, None)
    assert "--plugin" not in str(caught.value)


def test_an_installed_one_is_named_with_its_package() -> None:
    record = {"algorithm": "mine", "algorithm_class": "theirs.mine:Mine", "algorithm_distribution": "theirs 1.2"}
    with pytest.raises(
        InputError, match=r"made by theirs\.mine:Mine of theirs 1\.2, .*install theirs 1\.2, or import it"
    ):
        recover_class(record, None)


# --- nothing that a file names is imported ---


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(algorithm="trap", algorithm_class="trap_in_a_file:Trap"),
        lambda config: config["hyperparameters"].update(actor_network="trap_in_a_file:make"),
        lambda config: config["data"].update(source="trap_in_a_file:data"),
        lambda config: config["data"]["reward_transform"].update(name="trap_in_a_file:scale"),
        lambda config: config["data"]["observation_transform"].update(name="trap_in_a_file"),
        lambda config: config.update(environment="trap_in_a_file:Trap-v0"),
    ],
    ids=["algorithm", "network", "reader", "rewards", "observations", "environment"],
)
def test_a_name_in_a_config_is_never_imported(
    change: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap_in_a_file.py").write_text("from pathlib import Path\nPath('sprung').write_text('')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # it could be imported
    folder = louder(tmp_path / "run", algorithm=BC)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="trap"):
        api.resume(folder, updates=8, quiet=True)
    assert "trap_in_a_file" not in sys.modules
    assert not Path("sprung").exists()


# --- other processes ---

SPEC = """
algorithms = ["timid"]
datasets = ["dice:3"]
seeds = 2
lanes_per_job = 1
[options]
updates = 4
batch_size = 4
environment = "count"
eval_every_updates = 4
eval_episodes = 1
eval_workers = 1
reward_transform = "doubled"
[set]
hidden_sizes = [4]
"""


def test_a_slurm_script_names_the_plugins(plugin: str, tmp_path: Path) -> None:
    plugins.load_plugins([plugin])
    (tmp_path / "spec.toml").write_text(SPEC)
    script = write_script(SweepFolder.open(tmp_path / "sweep", load_spec(tmp_path / "spec.toml"))).read_text()
    assert f"--plugin {plugin} --job $SLURM_ARRAY_TASK_ID" in script


def sweep(engine: list[str], plugin: str, folder: Path) -> None:
    (folder / "spec.toml").write_text(SPEC)
    command = [sys.executable, "-m", "tether", "sweep", "spec.toml", "--out", "sweep", *engine, "--plugin", plugin]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([SOURCE, str(folder)])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    table = json.loads((folder / "sweep" / "table.json").read_text())
    assert [(row["finished"], row["mean"]) for row in table] == [(2, 50.0)]
    for timeline in (folder / "sweep" / "jobs").glob("*/timeline.jsonl"):
        played = [row for row in rows(timeline) if row["process"].startswith("worker") and row["what"] == "evaluate"]
        assert played, "the episodes were not played by a worker process"
    assert np.isfinite(table[0]["mean"])


@pytest.mark.long
def test_jobs_on_this_machine_and_their_workers_import_it(plugin: str, tmp_path: Path) -> None:
    sweep(["--local", "--workers", "2"], plugin, tmp_path)


@pytest.mark.long
def test_jobs_on_ray_import_it(plugin: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    sweep([], plugin, tmp_path)


@pytest.mark.long
def test_a_comparison_and_a_bench_take_it(plugin: str) -> None:
    words = ("compare", "--data", "dice:3", "--algorithms", "timid,bc", "--seeds", "1", "--updates", "4")
    words += ("--out", "both", "--batch-size", "4", "--set", "hidden_sizes=4")
    code, out, err = tether(*words, "--environment", "count", "--eval-episodes", "1", "--quiet", "--plugin", plugin)
    assert code == 0, err
    assert OTHERS in Path("both/comparison.md").read_text()
    code, out, err = tether("bench", "timid", "--seconds", "0.1", "--lanes", "1", "--plugin", plugin)
    assert code == 0, err
    assert "timid" in out
