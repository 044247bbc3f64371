"""Environments that observe dictionaries are laid out by the names that the data have for their columns."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from make_data import tether as command

import tether
from tether.data.schema import Schema, layout_of, unit_box
from tether.environments.make import make_environment
from tether.environments.tasks import Task

Box = gymnasium.spaces.Box
NAME = "tether-test/Follow-v0"


class Follow(gymnasium.Env):
    """Pays for an action that equals the position."""

    observation_space = gymnasium.spaces.Dict(
        {"velocity": Box(-1, 1, (1,), np.float32), "arm": gymnasium.spaces.Dict({"q": Box(-1, 1, (2, 2), np.float32)})}
    )
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.q = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        return self._seen(), {}

    def _seen(self) -> dict[str, Any]:
        return {"velocity": np.zeros(1, np.float32), "arm": {"q": self.q}}

    def step(self, action: np.ndarray) -> Any:
        paid = -abs(float(action[0]) - float(self.q[0, 1]))
        self.q = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        return self._seen(), paid, False, False, {}


@pytest.fixture(autouse=True)
def _registered():
    gymnasium.register(NAME, entry_point=Follow, max_episode_steps=5)
    yield
    del gymnasium.registry[NAME]


def data(names: list[str]) -> tether.Dataset:
    """Rows whose action is the second number of the arm, columns in this order."""
    generator = np.random.default_rng(0)
    columns = {f"arm/q/{i}": generator.uniform(-1, 1, 400).astype(np.float32) for i in range(4)}
    columns |= {"velocity": np.zeros(400, np.float32), "other": np.zeros(400, np.float32)}
    made = tether.Dataset.from_arrays(
        np.stack([columns[name] for name in names], axis=1),
        columns["arm/q/1"][:, None],
        columns["arm/q/0"],
        np.zeros(400, bool),
        timeouts=np.arange(400) % 5 == 4,
        name="follow",
    )
    schema = Schema(layout_of(dict.fromkeys(names, 1)), layout_of({"action": 1}), unit_box(1))
    return dataclasses.replace(made, schema=schema)


ORDERS = [
    ["velocity", "arm/q/0", "arm/q/1", "arm/q/2", "arm/q/3"],
    ["arm/q/3", "arm/q/1", "velocity", "arm/q/0", "arm/q/2"],
]


@pytest.mark.parametrize("names", ORDERS)
def test_evaluation_is_what_a_loop_with_the_environments_dictionaries_gives(
    names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    algorithm = tether.BC(hidden_sizes=(64, 64), train_updates=400, learning_rate=3e-3)
    report = tether.train(algorithm, data(names), environment=NAME, out=tmp_path / "run", quiet=True)
    assert report.last is not None
    assert report.last.mean > -1.0  # 5 steps; -3.3 for one that looks at another number
    assert "taken in the order" not in capsys.readouterr().err
    policy, environment = tether.load_policy(tmp_path / "run"), gymnasium.make(NAME)
    returns = []
    for episode in range(10):
        observation, _ = environment.reset(seed=100 + episode)
        total, over = 0.0, False
        while not over:
            seen = {"velocity": observation["velocity"], "arm": {"q": observation["arm"]["q"].ravel()}}
            observation, reward, terminated, truncated, _ = environment.step(policy(seen))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    played = json.loads((tmp_path / "run" / "result.json").read_text())["lanes"][0]["returns"]
    np.testing.assert_allclose(played, returns, atol=1e-5)


def test_where_the_names_are_others_the_order_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    algorithm, names = tether.BC(hidden_sizes=(8,), train_updates=2), ["other", *ORDERS[0][1:]]
    tether.train(algorithm, data(names), environment=NAME, out=tmp_path / "run", quiet=True)
    said = " ".join(capsys.readouterr().err.split())
    assert f"environment {NAME}: its observations are a dictionary and the data name them other, arm/q/0" in said
    assert "taken in the order" in said


def test_without_names_it_is_gymnasiums_own_order() -> None:
    """As `gymnasium.wrappers.FlattenObservation` records them."""
    made = make_environment(Task(NAME, 0, 0, gymnasium_id=NAME))
    flat = gymnasium.wrappers.FlattenObservation(gymnasium.make(NAME))
    np.testing.assert_array_equal(made.reset(seed=3)[0], flat.reset(seed=3)[0])


def test_workers_and_resumed_runs_lay_out_alike(tmp_path: Path) -> None:
    """The names travel with the task."""
    source = tmp_path / "follow.hdf5"
    data(ORDERS[1]).to_hdf5(source)
    algorithm = tether.BC(hidden_sizes=(64, 64), train_updates=300, learning_rate=3e-3)
    report = tether.train(algorithm, str(source), environment=NAME, out=tmp_path / "run", quiet=True)
    outcome, _ = tether.evaluate(tmp_path / "run", episodes=10, quiet=True)
    assert outcome.returns.mean() == pytest.approx(report.lane_scores[0], abs=1e-5)
    code, _, errors = command("evaluate", tmp_path / "run", "--episodes", 2)
    assert code == 0, errors
