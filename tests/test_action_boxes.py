"""Actions reach the environment as the policy means them: what an evaluation reports is what a plain loop with the
saved policy gives, to the last bit, whatever the boxes of data and environment, by every route."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import jax
import numpy as np
import pytest
from make_data import rows, tether, write_d4rl

import tether as package
from tether.algorithms import BC
from tether.data.schema import SCHEMA_KEY, ActionBox, Schema, inner_float32, layout_of
from tether.errors import InputError
from tether.runs.evaluations import evaluation_key

STEPS = 10
SMALL: dict[str, Any] = {"hidden_sizes": (8,), "train_updates": 40}
QUICK = package.Options(batch_size=16, eval_every_updates=20, eval_episodes=3, log_every_updates=20)


class Pays(gymnasium.Env):
    """Pays the sum of the actions that it gets, unclipped, and shows the last of them; refuses nothing."""

    def __init__(self, low: Any = (-1.0,), high: Any = (1.0,), dtype: str = "float32") -> None:
        self.action_space = gymnasium.spaces.Box(
            np.asarray(low, dtype), np.asarray(high, dtype), dtype=np.dtype(dtype).type
        )
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def _observe(self, first: float) -> np.ndarray:
        return np.array([first, self.np_random.uniform(-1, 1)], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(0.0), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._observe(0.01 * float(action[0])), float(np.sum(action, dtype=np.float64)), False, False, {}


def environment(low: Any, high: Any, dtype: str = "float32") -> str:
    """The id of such an environment, registered in this process."""
    name = f"Pays-{abs(hash((tuple(low), tuple(high), dtype)))}-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, Pays, max_episode_steps=STEPS, kwargs={"low": low, "high": high, "dtype": dtype})
    return name


def data(path: Path, low: Any, high: Any, box: ActionBox | None) -> Path:
    """Uniform actions between low and high, in the environment's units, kept as [-1, 1] of `box`."""
    generator, size = np.random.default_rng(3), len(low)
    actions = generator.uniform(low, high, (200, size)).astype(np.float32)
    timeouts = np.arange(200) % STEPS == STEPS - 1
    columns = {"observations": generator.uniform(-1, 1, (200, 2)).astype(np.float32), "timeouts": timeouts}
    columns |= {"rewards": actions.sum(axis=1), "terminals": np.zeros(200, bool)}
    write_d4rl(path, actions=actions if box is None else box.to_unit(actions), **columns)
    if box is not None:
        names = layout_of({f"u{i}": 1 for i in range(size)})
        with h5py.File(path, "a") as file:
            file[SCHEMA_KEY] = json.dumps(Schema(layout_of({"x": 1, "y": 1}), names, box).to_json())
    return path


def plain_loop(policy: Any, gymnasium_id: str, seed: int, update: int, episodes: int) -> list[float]:
    """What anybody would write."""
    returns = []
    for episode in range(episodes):
        made = gymnasium.make(gymnasium_id)
        observation, _ = made.reset(seed=100 + episode)
        key, total, over, step = evaluation_key(seed, update, episode), 0.0, False, 0
        while not over:
            action = policy(observation, jax.random.fold_in(key, step))
            observation, reward, terminated, truncated, _ = made.step(action)
            total, over, step = total + float(reward), terminated or truncated, step + 1
        returns.append(total)
    return returns


BOXES = {
    # name: data between, box of the data, box of the environment
    "probe": ([0.4], [0.6], ActionBox((-4.0,), (4.0,)), ([-4.0], [4.0])),
    "half-open": ([0.4], [0.6], ActionBox((0.0,), (1.0,)), ([-4.0], [4.0])),
    "none": ([0.4], [0.6], None, ([-4.0], [4.0])),
    "asymmetric": ([-1.0, 3.0], [2.0, 7.0], ActionBox((-1.0, 3.0), (2.0, 7.0)), ([-1.5, 2.0], [2.0, 9.0])),
    "narrower": ([-3.0], [3.0], ActionBox((-3.0,), (3.0,)), ([-0.3], [0.7])),
    "unit data, other box": ([0.1, -0.2], [0.9, 0.8], None, ([0.0, -0.5], [1.0, 0.3])),
    "doubles": ([-0.3], [0.1], ActionBox((-0.3,), (0.1,)), ([-0.3], [0.1])),
}


@pytest.mark.parametrize("name", BOXES)
def test_an_evaluation_is_a_plain_loop_with_the_saved_policy(name: str, tmp_path: Path) -> None:
    low, high, box, limits = BOXES[name]
    dtype = "float64" if name == "doubles" else "float32"
    where = environment(*limits, dtype=dtype)
    source = str(data(tmp_path / "set.hdf5", low, high, box))
    made = {"options": QUICK, "environment": where, "quiet": True}
    run = package.train(BC(**SMALL), source, seeds=2, out=tmp_path / "run", **made).folder
    played = {(row["update"], row["lane"], row["episode"]): row["return"] for row in rows(run / "evaluations.jsonl")}
    for lane in (0, 1):
        policy = package.load_policy(run / "policies" / f"lane-{lane}")
        expected = plain_loop(policy, where, seed=lane, update=40, episodes=3)
        assert [played[40, lane, episode] for episode in range(3)] == expected
        outcome, _ = package.evaluate(run, episodes=3, quiet=True)
        assert outcome.returns[lane].tolist() == expected
        assert gymnasium.make(where).action_space.contains(policy(np.array([1e3, -1e3], np.float32)).astype(dtype))


@pytest.mark.parametrize("limits", [([-4.0], [4.0]), None])
def test_case_1_pays_what_the_data_earn(limits: Any, tmp_path: Path) -> None:
    """A probe that pays the action it gets: the data earn 5.0 in ten steps, and so does their clone."""
    box = None if limits is None else ActionBox(tuple(limits[0]), tuple(limits[1]))
    source, where = str(data(tmp_path / "set.hdf5", [0.4], [0.6], box)), environment([-4.0], [4.0])
    often = dataclasses.replace(QUICK, batch_size=128)
    clone, made = BC(train_updates=300), {"options": often, "environment": where, "quiet": True}
    report = package.train(clone, source, out=tmp_path / "run", **made)
    assert report.last is not None
    assert 4.9 < report.last.mean < 5.1


def test_policies_with_noise_of_their_own_too(tmp_path: Path) -> None:
    """A policy that draws: the keys of an evaluation's episodes are public."""
    where = environment([-2.0, 0.0], [2.0, 5.0])
    source = str(data(tmp_path / "set.hdf5", [-2.0, 1.0], [1.0, 5.0], ActionBox((-2.0, 0.0), (2.0, 5.0))))
    small = package.DTQL(
        hidden_sizes=(8,), denoiser_hidden_sizes=(8,), candidates=4, pretrain_updates=20, train_updates=40
    )
    run = package.train(small, source, options=QUICK, environment=where, out=tmp_path / "run", quiet=True).folder
    played = [row["return"] for row in rows(run / "evaluations.jsonl") if row["update"] == 40]
    assert played == plain_loop(package.load_policy(run), where, seed=0, update=40, episodes=3)


def test_every_other_route(tmp_path: Path) -> None:
    """Compared and collected: the same returns as a loop's."""
    where = environment([-3.0], [5.0])
    source = data(tmp_path / "set.hdf5", [1.0], [5.0], ActionBox((1.0,), (5.0,)))
    words = [
        "--updates",
        40,
        "--batch-size",
        16,
        "--eval-every-updates",
        20,
        "--eval-episodes",
        3,
        "--seeds",
        1,
        "--quiet",
    ]
    made = ["--data", source, "--algorithms", "bc", "--environment", where, "--out", tmp_path / "all"]
    code, _, err = tether("compare", *made, *words, "--set", "bc.hidden_sizes=8")
    assert code == 0, err
    run = next((tmp_path / "all").rglob("evaluations.jsonl")).parent
    played = [row["return"] for row in rows(run / "evaluations.jsonl") if row["update"] == 40]
    policy = package.load_policy(run)
    assert played == plain_loop(policy, where, seed=0, update=40, episodes=3)
    code, _, err = tether(
        *("data", "collect", where, "--policy", run / "policy", "--rows", 40, "--out", tmp_path / "made", "--quiet")
    )
    assert code == 0, err
    collected = package.load_dataset(str(next((tmp_path / "made").glob("*.hdf5"))))
    assert collected.schema is not None
    box = collected.schema.box
    assert (box.low, box.high) == ((-3.0,), (5.0,))
    # What was paid is what the policy said; what is kept of it is that, as numbers in [-1, 1].
    said = np.stack([policy(observation) for observation in collected.observations])
    np.testing.assert_array_equal(said[:, 0], collected.rewards)
    np.testing.assert_allclose(box.from_unit(collected.actions), said, atol=1e-6)


def test_ranges_that_do_not_meet_are_refused(tmp_path: Path) -> None:
    source = str(data(tmp_path / "set.hdf5", [5.0], [10.0], ActionBox((5.0,), (10.0,))))
    with pytest.raises(InputError, match="the data's lie in 5 to 10, the environment takes -1 to 1: none fits"):
        package.train(BC(**SMALL), source, options=QUICK, environment=environment([-1.0], [1.0]), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bounds_that_float32_does_not_have_are_rounded_inwards() -> None:
    for low, high in itertools.product((-0.3, -1 / 3, 0.1), (0.3, 0.7, 1 / 3)):
        inner = inner_float32([low], [high])
        assert low <= float(inner[0][0]) <= float(inner[1][0]) <= high
        assert inner[0].dtype == inner[1].dtype == np.float32


def test_an_environment_without_a_time_limit_needs_a_horizon(tmp_path: Path) -> None:
    """It is kept with the run: an evaluation afterwards plays as many steps."""
    gymnasium.register("Endless-v0", Pays, kwargs={"low": [-1.0], "high": [1.0]})
    source = str(data(tmp_path / "set.hdf5", [0.4], [0.6], None))
    made = {"options": QUICK, "environment": "Endless-v0", "quiet": True}
    with pytest.raises(InputError, match="no time limit; say where its episodes are cut: --horizon N"):
        package.train(BC(**SMALL), source, out=tmp_path / "run", **made)
    run = package.train(BC(**SMALL), source, horizon=7, out=tmp_path / "run", **made).folder
    assert {row["length"] for row in rows(run / "evaluations.jsonl")} == {7}
    outcome, _ = package.evaluate(run, episodes=2, quiet=True)
    assert outcome.lengths.tolist() == [[7, 7]]
    words = ["--data", source, "--algorithms", "bc", "--environment", "Endless-v0", "--horizon", 4, "--seeds", 1]
    words += ["--observation-transform", "standardise", "--reward-transform", "minmax_pm1", "--updates", 20]
    code, _, err = tether(
        "compare", *words, "--batch-size", 16, "--eval-episodes", 2, "--out", tmp_path / "all", "--quiet"
    )
    assert code == 0, err
    assert {row["length"] for row in rows(tmp_path / "all" / "bc" / "evaluations.jsonl")} == {4}
    config = json.loads((tmp_path / "all" / "bc" / "config.json").read_text())
    assert config["data"]["observation_transform"]["name"] == "standardise"
    assert config["data"]["reward_transform"]["name"] == "minmax_pm1"


def test_data_that_state_no_range_are_taken_as_the_environments_own(tmp_path, capsys):
    import tether

    flags = np.arange(60) % 20 == 19
    generator = np.random.default_rng(0)
    data = tether.Dataset.from_arrays(
        generator.normal(size=(60, 3)),
        generator.uniform(-1, 1, (60, 1)),
        np.ones(60),
        np.zeros(60, bool),
        timeouts=flags,
    )
    algorithm = tether.BC(hidden_sizes=(8,), train_updates=2)
    options = tether.Options(batch_size=8, eval_episodes=1)
    tether.train(algorithm, data, environment="Pendulum-v1", options=options, out=tmp_path / "run", quiet=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "the data state no range of actions" in said
    assert "it takes -2 to 2" in said
    action = tether.load_policy(tmp_path / "run")(np.zeros(3))
    assert abs(action) <= 1
