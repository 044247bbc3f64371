"""What D4RL's families of files mean, on small files in their layouts, loaded by name.

Every layout is also compared with the D4RL package's Q-learning view, written down here as a loop.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from rich.console import Console

from tether import load_dataset
from tether.data import Dataset, Downloads
from tether.data.readers.d4rl_names import d4rl_file
from tether.data.show import summary_table
from tether.environments import get_task

Columns = dict[str, Any]


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str, Columns], Dataset]:
    """Writes columns as the file of a D4RL data set, where downloads would lie, and loads it by name."""

    def load(name: str, columns: Columns) -> Dataset:
        path = tmp_path / "cache" / "d4rl" / d4rl_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            for key, column in columns.items():
                file[key] = column
        return load_dataset(f"d4rl:{name}", downloads=Downloads(cache=tmp_path / "cache", offline=True))

    return load


def qlearning_view(columns: Columns, horizon: int) -> dict[str, np.ndarray]:
    """D4RL's `qlearning_dataset`, `terminate_on_end` off, without its miscount after terminals (`read_d4rl_hdf5`)."""
    terminals = np.ravel(columns["terminals"])
    rows, step = [], 0
    for i in range(len(terminals) - 1):
        last = columns["timeouts"][i] if "timeouts" in columns else step == horizon - 1
        step = 0 if last or terminals[i] else step + 1
        if not last:
            rows.append(i)
    table = {name: np.asarray(columns[f"{name}s"])[rows] for name in ("observation", "action")}
    return table | {
        "reward": np.ravel(columns["rewards"])[rows],
        "next_observation": np.asarray(columns["observations"])[np.array(rows) + 1],
        "terminal": terminals[rows],
    }


def check_view(data: Dataset, columns: Columns, name: str) -> None:
    """Ours is D4RL's, but for the next observation of terminal rows (where D4RL has another episode's)."""
    ours, theirs = data.transitions()._asdict(), qlearning_view(columns, get_task(name).horizon or 0)
    running = theirs["terminal"] == 0
    for column, expected in theirs.items():
        found = np.asarray(ours[column])
        if column == "next_observation":
            assert (found[~running] == ours["observation"][~running]).all()
            found, expected = found[running], expected[running]
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=column)


def shown(data: Dataset) -> str:
    text = io.StringIO()
    Console(width=400, file=text).print(summary_table(data))
    return text.getvalue()


def rows(name: str, count: int) -> Columns:
    """Observations and actions of the right sizes, all different."""
    task, rng = get_task(name), np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(count, task.observation_size)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(count, task.action_size)).astype(np.float32),
    }


# --- AntMaze ------------------------------------------------------------------------------------------------

GOAL = np.array([0.7, 8.9])


def antmaze(ends: list[int]) -> Columns:
    """Three recordings of 8 rows that walk past the goal and go on; labels from the *next* row, the last one 0.

    ends: rows with a time-out.
    """
    columns = rows("antmaze-umaze-v2", 24)
    walk = np.stack([np.full(8, 0.7), np.linspace(7.4, 10.2, 8)], axis=1)  # 0.4 a step: 3 steps within reach
    columns["observations"][:, :2] = np.concatenate([walk, walk[::-1], walk])
    reached = np.linalg.norm(columns["observations"][1:, :2] - GOAL, axis=1) <= 0.5
    labels = np.append(reached, False).astype(np.float32)
    return columns | {
        "rewards": labels,
        "terminals": labels[:, None],
        "timeouts": np.isin(np.arange(24), ends).astype(np.float32),
        "infos/goal": np.tile(GOAL, (24, 1)),
        "infos/qpos": columns["observations"][:, :15],
        "infos/qvel": columns["observations"][:, 15:],
    }


@pytest.mark.parametrize("name", ["antmaze-umaze-v2", "antmaze-large-diverse-v0"])
def test_antmaze_clusters_of_terminals(load: Callable[..., Dataset], name: str) -> None:
    columns = antmaze(ends=[7, 15, 23])
    data = load(name, columns)
    assert data.name == name
    np.testing.assert_array_equal(data.rewards == 1, data.terminals)  # as labelled: nothing is changed
    np.testing.assert_array_equal(data.rewards, columns["rewards"])
    clusters = np.flatnonzero(np.diff(data.terminals.astype(int), prepend=0) == 1)
    assert len(clusters) == 3
    assert data.terminals.sum() > 2 * len(clusters)  # rows after the first success are real, and stay
    table = data.transitions()
    assert table.terminal.sum() == data.terminals.sum()
    np.testing.assert_array_equal(table.reward, table.terminal)
    check_view(data, columns, name)
    moved = np.linalg.norm(np.asarray(table.next_observation - table.observation)[:, :2], axis=1)
    assert moved.max() < 1  # no transition leads from one recording into the next
    assert data.episode_returns().max() == 1
    assert "none: every row within reach of the goal is terminal" in shown(data)


def test_antmaze_success_on_the_last_step_is_kept(load: Callable[..., Dataset]) -> None:
    """Section 4, pitfall 2: D4RL drops a row that is terminal and time-out."""
    first_success = int(np.flatnonzero(antmaze([])["rewards"])[0])
    columns = antmaze(ends=[first_success, 15, 23])
    data = load("antmaze-umaze-v2", columns)
    assert data.terminals[first_success]
    assert data.timeouts[first_success]
    table, theirs = data.transitions(), qlearning_view(columns, 700)
    assert table.reward.sum() == theirs["reward"].sum() + 1
    assert len(table.reward) == len(theirs["reward"]) + 1


# --- Kitchen ------------------------------------------------------------------------------------------------


def kitchen() -> Columns:
    """Two demonstrations; rewards count the subtasks that are done now, as (N, 1) and float flags."""
    columns = rows("kitchen-mixed-v0", 11)
    columns["observations"][:, 30:] = np.arange(30)
    occupied = [0, 1, 1, 2, 3, 4, 0, 0, 1, 1, 2]
    ends = np.isin(np.arange(11), [5, 10])
    return columns | {
        "rewards": np.array(occupied, np.float32)[:, None],
        "terminals": ends.astype(np.float32)[:, None],
    }


@pytest.mark.parametrize("timeouts", [None, np.zeros(11, bool)])
def test_kitchen_occupancy_rewards(load: Callable[..., Dataset], timeouts: np.ndarray | None) -> None:
    """`timeouts` may be there or not: demonstrations end with a terminal row either way."""
    columns = kitchen() | ({} if timeouts is None else {"timeouts": timeouts})
    data = load("kitchen-mixed-v0", columns)
    np.testing.assert_array_equal(data.episode_lengths(), [6, 5])
    np.testing.assert_array_equal(data.episode_returns(), [11, 4])  # paid again at every step: no score of 275
    assert set(data.rewards) <= {0, 1, 2, 3, 4}
    assert data.terminals.sum() == 2
    assert not data.timeouts.any()
    assert np.ptp(data.observations[:, 30:], axis=0).max() == 0
    assert len(data.transitions().reward) == 10  # D4RL loses the last row, here the end of a demonstration
    check_view(data, columns, "kitchen-mixed-v0")
    assert "none: the data pay for every step that a subtask stays done, the environment once" in shown(data)


def test_kitchen_demonstrations_longer_than_the_horizon(load: Callable[..., Dataset]) -> None:
    """Without stored time-outs, D4RL cuts where evaluation would: after 280 steps."""
    columns = rows("kitchen-complete-v0", 400) | {"rewards": np.zeros((400, 1)), "terminals": np.zeros((400, 1))}
    columns["terminals"][-1] = 1
    data = load("kitchen-complete-v0", columns)
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [279])
    check_view(data, columns, "kitchen-complete-v0")


# --- Adroit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["door-human-v1", "pen-cloned-v1"])
def test_adroit_demonstrations_end_with_timeouts(load: Callable[..., Dataset], name: str) -> None:
    """Their lengths differ from the environment's limit, which therefore must not cut them; nothing is terminal."""
    lengths = [300, 130, 70]
    ends = np.cumsum(lengths) - 1
    count = sum(lengths)
    rewards = np.linspace(-1, 20, count).astype(np.float32)
    columns = rows(name, count) | {
        "rewards": rewards,
        "terminals": np.zeros(count, bool),
        "timeouts": np.isin(np.arange(count), ends),
        "infos/qpos": np.zeros((count, 30), np.float32),
        "infos/qvel": np.zeros((count, 30), np.float32),
        "infos/desired_orien": np.zeros((count, 4), np.float32),
    }
    columns["actions"][::7] = 1.0  # a few sit exactly on the bound
    data = load(name, columns)
    np.testing.assert_array_equal(data.episode_lengths(), lengths)
    assert not data.terminals.any()
    assert len(data.transitions().reward) == count - 3
    check_view(data, columns, name)
    scores = get_task(name).normalized_score(data.episode_returns())
    assert f"mean {scores.mean():.1f}" in shown(data)


# --- Maze2D -------------------------------------------------------------------------------------------------


def maze2d(name: str, count: int) -> Columns:
    """One stream towards changing sub-goals; `r_i` is that of `o_i`, nothing is terminal."""
    columns = rows(name, count)
    columns["observations"][:, :2] = np.cumsum(np.full((count, 2), 0.05), axis=0)
    near = np.linalg.norm(columns["observations"][:, :2] - [1, 1], axis=1) <= 0.5
    return columns | {
        "rewards": near.astype(np.float32),
        "terminals": np.zeros(count, bool),
        "infos/goal": np.ones((count, 2)),
        "infos/qpos": columns["observations"][:, :2],
        "infos/qvel": columns["observations"][:, 2:],
    }


def test_maze2d_is_one_stream(load: Callable[..., Dataset]) -> None:
    columns = maze2d("maze2d-umaze-v1", 40) | {"timeouts": np.isin(np.arange(40), [11, 29])}
    data = load("maze2d-umaze-v1", columns)
    assert not data.terminals.any()
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [11, 29])  # far from the horizon of 300
    assert data.episode_bounds().last_is_partial
    table = data.transitions()
    assert len(table.reward) == 40 - 2 - 1
    check_view(data, columns, "maze2d-umaze-v1")
    near = np.linalg.norm(np.asarray(table.observation)[:, :2] - [1, 1], axis=1) <= 0.5
    np.testing.assert_array_equal(table.reward, near)  # of the state before the action, as recorded
    assert "none: the data are one stream towards changing sub-goals" in shown(data)


def test_maze2d_without_timeouts_is_cut_at_the_horizon(load: Callable[..., Dataset]) -> None:
    columns = maze2d("maze2d-open-v0", 320)
    data = load("maze2d-open-v0", columns)
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [149, 299])
    assert data.metadata["timeouts"] == "not stored; every 150 steps of an episode"
    check_view(data, columns, "maze2d-open-v0")


# --- gym ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v0", "v1", "v2"])
def test_gym_generations(load: Callable[..., Dataset], version: str) -> None:
    """v2 stores time-outs and next observations; v1 may have terminals only; v0 has no time-outs at all."""
    name = f"hopper-medium-{version}"
    count = 1300
    ends = np.array([99, 249])
    columns = rows(name, count) | {
        "rewards": np.ones(count, np.float32),
        "terminals": np.isin(np.arange(count), ends),
    }
    expected = [1249]  # 1000 steps after the last terminal row
    if version != "v0":
        expected = [] if version == "v1" else [700, 740]  # v2 medium-replay: blocks end after a few steps, too
        columns["timeouts"] = np.isin(np.arange(count), expected)
        columns["next_observations"] = np.roll(columns["observations"], -1, axis=0)
    data = load(name, columns)
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), expected)
    np.testing.assert_array_equal(np.flatnonzero(data.terminals), ends)
    table, theirs = data.transitions(), qlearning_view(columns, 1000)
    for column in ("observation", "action", "reward", "terminal"):
        np.testing.assert_array_equal(getattr(table, column), theirs[column])
    np.testing.assert_array_equal(
        table.next_observation[table.terminal == 0], theirs["next_observation"][theirs["terminal"] == 0]
    )
