"""OGBench's single-task data: small files, recorded in the package's own environments, against what those pay."""

import importlib.metadata
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from make_data import tether

from tether.algorithms import FQL, IFQL
from tether.data import load_dataset
from tether.environments.ids import find_environment
from tether.errors import InputError
from tether.presets import preset_names
from tether.presets.recipes import find_recipe

ogbench = pytest.importorskip("ogbench")  # not for Python 3.13
STEPS = 30
Columns = dict[str, np.ndarray]


def play(environment_id: str, starts: list[Any]) -> tuple[Columns, np.ndarray, np.ndarray]:
    """Random trajectories in OGBench's file layout; the rewards that the environment paid, and where it ended.

    `starts`: for each trajectory what moves the simulation to where it begins.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium tells that it rounds bounds, each time it is asked for a space
        return _play(gymnasium.make(environment_id, disable_env_checker=True), starts)


def _play(environment: gymnasium.Env, starts: list[Any]) -> tuple[Columns, np.ndarray, np.ndarray]:
    rows: dict[str, list[Any]] = {name: [] for name in ("observations", "actions", "terminals", "qpos", "qvel")}
    rewards, ended = [], []
    inner: Any = environment.unwrapped
    environment.action_space.seed(0)
    for start in starts:
        environment.reset(seed=0)
        observation = start(inner)
        for step in range(STEPS + 1):
            rows["observations"].append(observation)
            rows["qpos"].append(inner._data.qpos.copy() if hasattr(inner, "_data") else inner.data.qpos.copy())
            rows["qvel"].append(inner._data.qvel.copy() if hasattr(inner, "_data") else inner.data.qvel.copy())
            rows["terminals"].append(float(step == STEPS))
            action = environment.action_space.sample()
            rows["actions"].append(action)
            if step < STEPS:  # the last action is a filler: nothing follows it in the file
                observation, reward, terminated, _, _ = inner.step(action)
                rewards.append(reward)
                ended.append(terminated)
    environment.close()
    return {name: np.asarray(values, np.float32) for name, values in rows.items()}, np.array(rewards), np.array(ended)


@pytest.fixture(scope="module")
def maze() -> tuple[Columns, np.ndarray, np.ndarray]:
    """PointMaze's first task: one trajectory far from the goal, one that begins in it."""

    def at_start(inner: Any) -> np.ndarray:
        return inner.get_ob()

    def at_goal(inner: Any) -> np.ndarray:
        inner.set_xy(np.asarray(inner.cur_goal_xy) + 0.3)
        return inner.get_ob()

    return play("pointmaze-medium-singletask-task1-v0", [at_start, at_goal])


def write(folder: Path, name: str, columns: Columns) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", **columns)
    return folder


def test_point_maze_is_what_the_environment_paid(tmp_path: Path, maze: Any) -> None:
    columns, rewards, ended = maze
    write(tmp_path, "pointmaze-medium-navigate-v0", columns)
    data = load_dataset(f"ogbench:{tmp_path}/pointmaze-medium-navigate-singletask-v0")
    assert data.name == "pointmaze-medium-navigate-singletask-v0"
    assert len(data) == 2 * STEPS
    kept = columns["terminals"] == 0
    np.testing.assert_array_equal(data.observations, columns["observations"][kept])
    np.testing.assert_array_equal(data.actions, columns["actions"][kept])
    np.testing.assert_array_equal(
        data.next_observations[:-1][data.timeouts[:-1] == 0], data.observations[1:][~data.timeouts[:-1]]
    )
    np.testing.assert_array_equal(data.next_observations[data.timeouts], columns["observations"][~kept])
    # success - 1, of the state before the action, and nothing is bootstrapped from a success
    np.testing.assert_array_equal(data.rewards, rewards)
    np.testing.assert_array_equal(data.terminals, ended)
    np.testing.assert_array_equal(data.rewards, data.terminals - 1.0)
    assert 0 < data.terminals.sum() < STEPS
    # the recording goes on after a success: still two trajectories, and every row is trained on
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [STEPS - 1, 2 * STEPS - 1])
    np.testing.assert_array_equal(data.episode_lengths(), [STEPS, STEPS])
    table = data.transitions()
    np.testing.assert_array_equal(table.terminal, data.terminals)
    np.testing.assert_array_equal(table.next_observation, data.next_observations)
    assert len(table.reward) == 2 * STEPS
    written = load_dataset(str(data.to_hdf5(tmp_path / "written.hdf5")))
    assert written.recorded_in == data.recorded_in  # scored by success, in percent


def test_other_tasks_have_other_goals(tmp_path: Path, maze: Any) -> None:
    write(tmp_path, "pointmaze-medium-navigate-v0", maze[0])
    first = load_dataset(f"ogbench:{tmp_path}/pointmaze-medium-navigate-singletask-task1-v0")
    other = load_dataset(f"ogbench:{tmp_path}/pointmaze-medium-navigate-singletask-task2-v0")
    assert first.rewards.sum() > other.rewards.sum()
    np.testing.assert_array_equal(first.observations, other.observations)
    assert first.source.sha256 == other.source.sha256


def test_a_cube(tmp_path: Path) -> None:
    def at_start(inner: Any) -> np.ndarray:
        return inner.compute_observation()

    def solved(inner: Any) -> np.ndarray:
        inner._data.joint("object_joint_0").qpos[:3] = inner._data.mocap_pos[0]
        return inner.compute_observation()

    columns, rewards, _ = play("cube-single-singletask-v0", [at_start, solved])
    write(tmp_path, "cube-single-play-v0", columns)
    data = load_dataset(f"ogbench:{tmp_path}/cube-single-play-singletask-v0")
    assert data.observations.shape == (2 * STEPS, 28)
    np.testing.assert_array_equal(data.rewards[:STEPS], -1.0)
    np.testing.assert_array_equal(data.rewards[STEPS], 0.0)  # n satisfied - n
    np.testing.assert_array_equal(data.rewards, data.terminals - 1.0)
    np.testing.assert_array_equal(data.rewards, rewards)


def test_where_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maze: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "pointmaze-medium-navigate-singletask-v0"
    with pytest.raises(InputError) as caught:
        load_dataset(f"ogbench:{name}")
    for words in (
        "pointmaze-medium-navigate-v0.npz is not there",
        "ogbench.download_datasets",
        f"ogbench:FOLDER/{name}",
    ):
        assert words in str(caught.value)
    assert not (tmp_path / ".ogbench").exists()
    write(tmp_path / ".ogbench" / "data", "pointmaze-medium-navigate-v0", maze[0])
    write(tmp_path / ".ogbench" / "data", "pointmaze-medium-navigate-v0-val", maze[0])
    assert len(load_dataset(f"ogbench:{name}")) == 2 * STEPS
    assert f"ogbench:{name} " in tether("data", "list")[1]
    assert "-val" not in tether("data", "list")[1]
    code, out, err = tether("data", "show", f"ogbench:{name}")
    assert (code, err) == (0, "")
    assert "ogbench:pointmaze-medium-singletask-v0" in out
    assert "normalised score" in out
    assert "none: trajectories head for many goals" in " ".join(out.split())
    assert "50.0% of the episodes" in out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cube-single-play-v0", "name one: ogbench:cube-single-play-singletask-v0"),
        ("cube-singel-play-singletask-v0", "unknown OGBench environment 'cube-singel-singletask-v0'; did you mean"),
        ("visual-cube-single-play-singletask-v0", "observations are images"),
        ("singletask-v0", "without a single task"),
        ("", "without a single task"),
    ],
)
def test_names_that_are_none(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_dataset(f"ogbench:{name}")


def test_damaged_files(tmp_path: Path, maze: Any) -> None:
    source = f"ogbench:{tmp_path}/pointmaze-medium-navigate-singletask-v0"
    path = write(tmp_path, "pointmaze-medium-navigate-v0", maze[0]) / "pointmaze-medium-navigate-v0.npz"
    whole = path.read_bytes()
    for data in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="cannot be read as npz"):
            load_dataset(source)
    for name in ("actions", "qpos"):
        write(tmp_path, "pointmaze-medium-navigate-v0", {k: v for k, v in maze[0].items() if k != name})
        with pytest.raises(InputError, match=f"no '{name}' in it; it holds observations"):
            load_dataset(source)
    damaged = bytearray(whole)
    damaged[200:260] = bytes(60)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="cannot be read as"):
        load_dataset(source)
    open_end = {**maze[0], "terminals": maze[0]["terminals"] * 0}
    write(tmp_path, "pointmaze-medium-navigate-v0", open_end)
    with pytest.raises(InputError, match="rows"):
        load_dataset(source)


# --- training ---


def test_policies_are_evaluated_where_the_rewards_are_paid(tmp_path: Path, maze: Any) -> None:
    folder, run = write(tmp_path / "data", "pointmaze-medium-navigate-v0", maze[0]), tmp_path / "run"
    source = f"ogbench:{folder}/pointmaze-medium-navigate-singletask-task3-v0"
    how = ("--batch-size", "16", "--updates", "4", "--eval-episodes", "2", "--eval-every-updates", "4", "--out", run)
    code, _, err = tether("train", "bc", source, *map(str, how))
    assert code == 0, err
    config = json.loads((run / "config.json").read_text())
    assert config["environment"] == "ogbench:pointmaze-medium-singletask-task3-v0"
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:  # 1 for a success, after which an episode ends
        assert row["return"] == (row["length"] < 1000)
        assert row["normalized_score"] == 100 * row["return"]
        assert 0 < row["length"] <= 1000
    assert config["score"] == "success rate"
    assert config["versions"]["ogbench"] == importlib.metadata.version("ogbench")
    assert tether("evaluate", str(run), "--episodes", "1")[0] == 0


def test_environments_by_module_and_id() -> None:
    task = find_environment("ogbench:cube-single-singletask-v0")
    assert (task.horizon, task.observation_size, task.action_size) == (200, 28, 5)
    for name in ("ogbench:cube-singel-singletask-v0", "no_such_module:cube-single-singletask-v0"):
        with pytest.raises(InputError, match=f"environment {name}"):
            find_environment(name)


# FQL, arXiv 2502.02538: alpha, aggregation, discount.
OGBENCH = {
    "antmaze-large-navigate": (10, "min", 0.99),
    "antmaze-giant-navigate": (10, "min", 0.995),
    "humanoidmaze-medium-navigate": (30, "mean", 0.995),
    "humanoidmaze-large-navigate": (30, "mean", 0.995),
    "antsoccer-arena-navigate": (10, "mean", 0.995),
    "cube-single-play": (300, "mean", 0.99),
    "cube-double-play": (300, "mean", 0.99),
    "scene-play": (300, "mean", 0.99),
    "puzzle-3x3-play": (1000, "mean", 0.99),
    "puzzle-4x4-play": (1000, "mean", 0.99),
}
LARGER_CUBES = ("cube-triple-play", "cube-quadruple-play")  # on which QC's authors ran FQL


@pytest.mark.parametrize("name", OGBENCH)
def test_presets(name: str) -> None:
    alpha, aggregation, discount = OGBENCH[name]
    for task in ("", "-task1", "-task5"):
        source = f"ogbench:{name}-singletask{task}-v0"
        recipe = find_recipe("fql", source)
        assert recipe == find_recipe("fql", f"ogbench:/a/folder/{name}-singletask{task}-v0")
        assert recipe.preset == f"{name}-singletask-v0"
        algorithm = FQL(**recipe.hyperparameters)
        assert (algorithm.distillation_weight, algorithm.aggregation) == (alpha, aggregation)
        assert (algorithm.discount, algorithm.train_updates) == (discount, 1_000_000)
        assert recipe.options["reward_transform"] == "none"
        flow = find_recipe("ifql", source)
        algorithm = IFQL(**flow.hyperparameters)
        assert (algorithm.discount, algorithm.candidates, algorithm.expectile) == (discount, 32, 0.9)
        assert (algorithm.train_updates, flow.options["reward_transform"]) == (1_000_000, "none")


def test_presets_are_for_environments_that_exist() -> None:
    for algorithm, names in (("fql", {*OGBENCH, *LARGER_CUBES}), ("ifql", {*OGBENCH})):
        tasks = {task for task in preset_names(algorithm) if "-singletask-" in task}
        assert tasks == {f"{name}-singletask-v0" for name in names}
    for name in LARGER_CUBES:
        assert (
            FQL(**find_recipe("fql", f"ogbench:{name}-singletask-task2-v0").hyperparameters).distillation_weight == 300
        )
    for name in (*OGBENCH, *LARGER_CUBES):
        assert f"{name.rpartition('-')[0]}-singletask-task5-v0" in gymnasium.registry
    # D4RL's maze of nearly the same name has settings of its own
    d4rl = find_recipe("fql", "d4rl:antmaze-large-play-v2")
    assert d4rl.options["reward_transform"] == "iql_antmaze"
    assert FQL(**d4rl.hyperparameters).aggregation == "mean"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ogbench.__name__ == "ogbench"
    monkeypatch.setitem(sys.modules, "ogbench", None)
    with pytest.raises(InputError, match=r"needs the package ogbench: pip install 'tether-rl\[ogbench\]'"):
        load_dataset("ogbench:cube-single-play-singletask-v0")
