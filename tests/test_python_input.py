"""Bad input from Python: one line, an InputError, that names the value, the place and the choices; nothing written."""

import dataclasses
import os
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pandas
import pytest

import tether
from tether import BC, IQL, Dataset, EarlyStopping, InputError, KeepBest, Options, ReBRAC, api
from tether.algorithms import ALGORITHMS, AWR, DT, EDP, EQL, SQL, XQL
from tether.algorithms.callables import is_callable
from tether.algorithms.registry import make_algorithm
from tether.data.transforms import REWARD_TRANSFORMS, prepare
from tether.ranges import check_ranges, ranges_of
from tether.runs.config import fresh_folder
from tether.runs.folder import make_fresh
from tether.runs.plan import Plan
from tether.training.lanes import make_lanes

GENERATOR = np.random.default_rng(0)
ARRAYS = {
    "observations": GENERATOR.normal(size=(60, 3)),
    "actions": GENERATOR.uniform(-1, 1, (60, 2)),
    "rewards": GENERATOR.normal(size=60),
    "terminals": np.zeros(60),
    "episodes": np.arange(60) // 20,
}
DATA = Dataset.from_arrays(**ARRAYS)
SMALL = BC(train_updates=2, hidden_sizes=(4,))


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of these tests nobody checks annotations at run time."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def refused(call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BC(hidden_sizes=8), ["hidden_sizes 8", "1 to 100 numbers", "(8,)"]),  # pyright: ignore
        (lambda: BC(hidden_sizes=(8.0,)), ["hidden_sizes (8.0,)", "whole"]),  # pyright: ignore
        (lambda: BC(train_updates=20.0), ["train_updates 20.0", "whole"]),  # pyright: ignore
        (lambda: BC(learning_rate="a"), ["learning_rate a", "at least 0"]),  # pyright: ignore
        (lambda: BC(learning_rate=float("nan")), ["learning_rate nan", "at least 0"]),
        (lambda: BC(learing_rate=1), ["'learing_rate'", "learning_rate"]),  # pyright: ignore
        (lambda: IQL(discount=2), ["discount 2", "0 to 1"]),
        (lambda: IQL(discount=True), ["discount True", "0 to 1"]),
        (lambda: Options(batch_size=8.0), ["batch_size 8.0", "whole"]),  # pyright: ignore
        (lambda: AWR(discount=1), ["discount 1", "0 to below 1"]),
        (lambda: make_lanes(AWR(), [0], {"discount": [0.9, 1.0]}), ["'discount'", "cannot be swept"]),
        (lambda: EDP(diffusion_steps=20), ["diffusion_steps 20", "21 to 100,000"]),
        *(
            (lambda cls=cls: cls(time_embedding_size=15), ["time_embedding_size 15", "2 to 100,000, even"])
            for cls in (tether.DTQL, tether.DTQLKL, tether.DAC, tether.BDPO)
        ),
        (lambda: DT(dropout=1), ["dropout 1", "0 to below 1"]),
        (lambda: make_lanes(DT(), [0], {"dropout": [0.5, 1]}), ["dropout 1", "0 to below 1"]),
        *((lambda cls=cls: cls(actor_dropout=1), ["actor_dropout 1", "0 to below 1"]) for cls in (IQL, SQL, EQL, XQL)),
    ],
)
def test_hyperparameters(make: Callable[[], Any], words: list[str]) -> None:
    refused(make, *words)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_option_is_checked(name: str) -> None:
    """Each hyper-parameter without a range: what is none of its values would be taken for one, and could not be loaded
    again."""
    cls = ALGORITHMS[name]
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name in ranges_of(cls) or is_callable(field):
            continue
        kind = hints[field.name]
        choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
        if choices:
            right, wrong, words = choices, (choices[0].capitalize(), choices[0][:-1], None, 0), ", ".join(choices)
        elif kind is bool:
            right, wrong, words = (True, False), ("false", 1, 0.0, None), "true or false"
        else:
            right, wrong, words = (-2, 0.5), (np.nan, np.inf, "1", True, [0.0, np.nan]), "a finite number"
        for value in right:
            assert getattr(cls(**{field.name: value}), field.name) == value
        for value in wrong:
            refused(lambda field=field, value=value: cls(**{field.name: value}), f"{field.name}=", "expected ", words)


def test_the_words_are_those_of_the_command_line() -> None:
    for options in ({"guidance": "sofft"}, {"bootstrap": "maybe"}):
        for make in (tether.DAC, lambda options=options, **_: make_algorithm("dac", options)):
            refused(lambda make=make, options=options: make(**options), "='", "': expected ")


def test_options_that_may_be_left_out() -> None:
    @dataclasses.dataclass
    class Mine:
        kind: typing.Literal["a", "b"] | None = None
        flag: bool | None = None
        other: typing.Literal[2, None] = None
        floor: float | None = None

    check_ranges(Mine())
    check_ranges(Mine("b", False, 2, -1.0))
    for wrong in (Mine(kind="c"), Mine(flag=0), Mine(other=3), Mine(floor=np.nan)):  # pyright: ignore
        refused(lambda wrong=wrong: check_ranges(wrong), ": expected ")


def test_numbers_may_be_whole() -> None:
    """An ablation with 0 is no count that must be 1."""
    assert BC(entropy_target=-1, learning_rate=0).entropy_target == -1
    assert (IQL(discount=0).discount, ReBRAC(actor_penalty=0).actor_penalty) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seeds": 1.5}, ["seeds 1.5", "whole"]),
        ({"seeds": "12"}, ["seeds '12'", "whole"]),
        ({"seeds": [0.5]}, ["seeds [0.5]", "whole"]),
        ({"sweep": {"learning_rate": "abc"}}, ["sweep learning_rate='abc'", "finite numbers"]),
        ({"sweep": {"learning_rate": 0.1}}, ["sweep learning_rate=0.1", "finite numbers", "[0.1, 0.3]"]),
        ({"sweep": ["learning_rate"]}, ["sweep ['learning_rate']", "dictionary"]),
        ({"dataset": ARRAYS}, ["dataset is a dict", "Dataset.from_arrays"]),
        ({"options": {"batch_size": 8}}, ["options {'batch_size': 8}", "tether.Options("]),
        ({"seed": 3}, ["argument of train 'seed'", "seeds"]),
        ({"callbacks": KeepBest()}, ["KeepBest", "list"]),
        ({"callbacks": [EarlyStopping()]}, ["EarlyStopping", "evaluations", "environment"]),
        ({"callbacks": [KeepBest()]}, ["KeepBest", "evaluations", "environment"]),
    ],
)
def test_train(tmp_path: Path, arguments: dict[str, Any], words: list[str]) -> None:
    given = {"algorithm": SMALL, "dataset": DATA, "environment": "none", "out": tmp_path / "run", **arguments}
    refused(lambda: tether.train(**given), *words)
    assert not (tmp_path / "run").exists()


def test_a_data_set_does_not_choose_where_its_runs_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name may be somebody else's, such as a Minari data set's id."""
    monkeypatch.chdir(tmp_path)
    for name, inside in (("x/../../../owned", "bc-x-..-..-..-owned"), ("D4RL/door/human-v2", "bc-D4RL-door-human-v2")):
        folder = fresh_folder(f"bc-{name}")
        assert folder.parent == Path("runs")
        assert folder.name.startswith(f"{inside}-2")


def test_runs_of_one_second_have_their_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes the folder after this one has chosen it."""
    monkeypatch.chdir(tmp_path)
    written = api.config_of

    def slower(plan: Plan) -> dict[str, Any]:
        plan.folder.mkdir(parents=True)
        (plan.folder / "config.json").write_text("theirs")
        return written(plan)

    monkeypatch.setattr(api, "config_of", slower)
    report = tether.train(SMALL, DATA, environment="none", options=Options(batch_size=4), quiet=True)
    theirs, ours = sorted((tmp_path / "runs").iterdir())
    assert (ours.name, report.folder) == (f"{theirs.name}-2", Path("runs") / ours.name)
    assert os.listdir(theirs) == ["config.json"]
    assert (ours / "result.json").exists()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make_fresh, [Path("runs/x")] * 8))
    assert {path.name for path in made} == {"x", *(f"x-{count}" for count in range(2, 9))}


def test_other_functions_name_the_argument_that_is_near(tmp_path: Path) -> None:
    refused(lambda: tether.resume(tmp_path, data=DATA), "argument of resume 'data'", "dataset")  # pyright: ignore
    refused(lambda: tether.evaluate(tmp_path, episode=3), "argument of evaluate 'episode'", "episodes")  # pyright: ignore


def test_somebodys_reward_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it gives is checked under its name."""
    for given, words in (
        (np.zeros(3), "a ndarray"),
        ((lambda rewards: rewards[:3], {}), "for each"),
        ((lambda rewards: rewards * np.nan, {}), "finite"),
    ):
        monkeypatch.setattr(REWARD_TRANSFORMS, "find", lambda name, given=given: lambda table: given)
        refused(lambda: prepare(DATA, "mine"), "reward transform 'mine'", words)


def test_frames() -> None:
    frame = pandas.DataFrame({"x": GENERATOR.normal(size=9), "u": GENERATOR.uniform(-1, 1, 9), "t": np.arange(9)})
    how: dict[str, Any] = {"observation": "x", "action": "u", "reward": "none", "episode": "none", "time": "t"}
    refused(lambda: Dataset.from_frame(frame, **how, missing="dropp"), "missing 'dropp'", "did you mean drop")  # pyright: ignore
    refused(lambda: Dataset.from_frame(frame, **how, max_gap="1"), "max_gap '1'", "a number above 0")  # pyright: ignore
