"""Collection: rows as the environment gave them, flags right, two layouts that say the same, exact continuation."""

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from make_data import snapshot, tether

from tether import load_policy
from tether.collect import CollectOptions, collect
from tether.collect.behaviours import play_episode, random_actions
from tether.collect.environments import find_place
from tether.collect.mazes import NOISE, Planner, cell_of, play_stream, shortest_way
from tether.collect.rows import Log, joined
from tether.data import load_dataset
from tether.doctor import check
from tether.environments.mazes import cells, layout
from tether.environments.pointmaze import GOAL_RADIUS, GOALS
from tether.errors import InputError

SMALL = {"hidden_sizes": "16,16"}
FAST: dict[str, Any] = {
    "batch_size": 16, "random_steps": 300, "eval_every_steps": 400, "eval_episodes": 1, "set": SMALL, "horizon": 100
}  # fmt: skip


class Cartesian(gymnasium.Env):
    """Three numbers to act with, a dictionary to see; falls when it has gone too far. Its dynamics are known."""

    observation_space = gymnasium.spaces.Dict(
        {
            "place": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64),
            "speed": gymnasium.spaces.Box(-np.inf, np.inf, (), np.float64),
        }
    )
    action_space = gymnasium.spaces.Box(np.float32([-2, 0, 1]), np.float32([2, 10, 5]))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 3)
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(np.float32(action))
        self.state = self.state + 0.1 * np.asarray(action, np.float64)
        fallen = bool(self.state[1] > 3.0)
        return self._seen(), float(self.state[0]), fallen, False, {"success": bool(self.state[0] > 0)}

    def _seen(self) -> dict[str, Any]:
        return {"place": self.state[:2].copy(), "speed": self.state[2]}


@pytest.fixture(scope="module", autouse=True)
def cartesian() -> Any:
    gymnasium.register("Cartesian-v0", "test_collect:Cartesian", max_episode_steps=30)
    yield
    del gymnasium.registry["Cartesian-v0"]


def collected(folder: Path, environment: str = "Cartesian-v0", **changes: Any) -> Path:
    """The one file of a small collection."""
    made = collect(CollectOptions(environment, folder, **{"rows": 200, **changes}), quiet=True)
    assert not made.failure
    return made.files[0][0]


def arrays(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: found.update({name: node[()]}) if getattr(node, "shape", ()) else None)
    return found


# --- what is in a file --------------------------------------------------------------------------------------


def test_rows_are_those_of_the_environment(tmp_path: Path) -> None:
    """Played again with the recorded actions, the environment says what was recorded."""
    path = collected(tmp_path / "set", policy="random")
    assert path.name == "cartesian-v0-random.hdf5"
    data = load_dataset(str(path))
    columns = arrays(path)
    box = data.schema.box
    assert (box.low, box.high) == ((-2.0, 0.0, 1.0), (2.0, 10.0, 5.0))
    assert list(data.schema.observation.items()) == [("place", (0, 2)), ("speed", (2, 3))]
    assert len(data) == 200
    actions = data.actions * box.scale + box.offset
    np.testing.assert_allclose(
        columns["next_observations"], data.observations + 0.1 * actions, atol=1e-5
    )  # also across time-outs
    np.testing.assert_allclose(data.rewards, columns["next_observations"][:, 0], atol=1e-6)
    np.testing.assert_array_equal(data.terminals, columns["next_observations"][:, 1] > 3.0)
    np.testing.assert_array_equal(columns["infos/success"], data.rewards > 0)
    assert data.terminals.any()
    bounds = data.episode_bounds()
    assert not bounds.last_is_partial  # the cut at 200 rows is marked
    lengths = bounds.ends - bounds.starts
    timed_out = data.timeouts[bounds.ends - 1]
    assert (lengths[timed_out][:-1] == 30).all()
    assert (lengths <= 30).all()
    assert not (data.terminals & data.timeouts).any()
    inside = np.ones(200, bool)
    inside[bounds.ends - 1] = False
    np.testing.assert_array_equal(columns["next_observations"][inside], data.observations[1:][inside[:-1]])


def test_both_layouts_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    collected(tmp_path / "set", policy="random", layouts=("d4rl", "minari"))
    one = load_dataset(str(tmp_path / "set" / "cartesian-v0-random.hdf5"))
    other = load_dataset(str(tmp_path / "set" / "minari" / "cartesian-v0" / "random-v0"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "set" / "minari"))
    by_id = load_dataset("minari:cartesian-v0/random-v0")
    for data in (other, by_id):
        for name in ("observations", "rewards", "terminals", "timeouts"):
            np.testing.assert_array_equal(getattr(one, name), getattr(data, name), err_msg=name)
        np.testing.assert_allclose(one.actions, data.actions, atol=1e-6)
        np.testing.assert_array_equal(one.next_observations, data.next_observations)
        assert data.schema.observation == one.schema.observation
        assert data.schema.box == one.schema.box
        np.testing.assert_array_equal(data.successes, one.rewards > 0)
    stored = minari.load_dataset("cartesian-v0/random-v0")
    assert stored.spec.action_space == Cartesian.action_space
    assert stored.total_steps == 200
    assert stored.env_spec.id == "Cartesian-v0"
    assert set(stored[0].observations) == {"place", "speed"}


def test_doctor_finds_no_error(tmp_path: Path) -> None:
    for environment, changes in {
        "Cartesian-v0": {"policy": "random", "layouts": ("d4rl", "minari")},
        "maze2d-umaze-v1": {"controller": "waypoints", "rows": 2000},
        "hopper": {"policy": "random", "rows": 1000},
    }.items():
        made = collect(CollectOptions(environment, tmp_path / environment, **{"rows": 200, **changes}), quiet=True)
        for path, _ in made.files:
            report = check(str(path), lambda what: None)
            assert report.count("error") == 0, report.findings


def test_provenance(tmp_path: Path) -> None:
    path = collected(tmp_path / "set", "hopper", policy="random", seed=3)
    with h5py.File(path) as file:
        inside = json.loads(file["metadata/collect"][()])  # pyright: ignore[reportIndexIssue]
    assert inside == json.loads((tmp_path / "set" / "collect.json").read_text())["files"][path.stem]
    data = load_dataset(str(path))
    assert inside["environment"] == {"id": "Hopper-v4", "options": {}, "horizon": 1000}
    assert (inside["seed"], inside["rows"], inside["kind"]) == (3, 200, "random")
    assert inside["behaviour"] == "uniform random actions" == data.metadata["behaviour"]
    assert {"tether", "gymnasium", "mujoco", "jax"} <= set(inside["versions"])
    returns = data.episode_returns()
    assert inside["episodes"] == len(returns)
    assert inside["return_mean"] == pytest.approx(returns.mean())
    assert inside["mean_score"] == pytest.approx(100 * (returns.mean() + 20.272305) / (3234.3 + 20.272305))
    columns = arrays(path)
    assert columns["infos/qpos"].shape == (200, 6)
    np.testing.assert_allclose(columns["infos/qpos"][:, 1:], data.observations[:, :5], atol=1e-5)  # before the action


def test_seeds(tmp_path: Path) -> None:
    first, again, other = (
        arrays(collected(tmp_path / name, policy="random", seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["observations"], other["observations"])
    starts = first["observations"][np.flatnonzero(first["terminals"] | first["timeouts"])[:-1] + 1]
    assert len(np.unique(starts, axis=0)) == len(starts)  # each episode begins elsewhere


# --- who acts -----------------------------------------------------------------------------------------------


def test_scripted_controllers_act_in_the_environments_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scripts.py").write_text(
        "def push(environment, random):\n"
        "    target = random.uniform(-1, 1)\n"
        "    return lambda observation: [2.0 * target, 0.5, 3.0]\n"
        "def wrong(environment, random):\n"
        "    return lambda observation: [1.0]\n"
        "def nothing(environment, random):\n"
        "    return None\n"
    )
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    path = collected(tmp_path / "set", controller="scripts:push")
    assert path.name == "cartesian-v0-push.hdf5"
    data = load_dataset(str(path))
    actions = data.actions * data.schema.box.scale + data.schema.box.offset
    np.testing.assert_allclose(actions[:, 1:], np.tile([0.5, 3.0], (200, 1)), atol=1e-6)
    starts = data.episode_bounds().starts
    assert len(np.unique(actions[starts, 0])) == len(starts)  # its own for each episode
    for name, words in (("wrong", "3 finite numbers"), ("nothing", "not a function"), ("absent", "no attribute")):
        with pytest.raises(InputError, match=words):
            collected(tmp_path / name, controller=f"scripts:{name}")
    with pytest.raises(InputError, match="plans through maze2d's mazes, not in Cartesian-v0"):
        collected(tmp_path / "x", controller="waypoints")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small training run; tests that change something copy it."""
    return trained(tmp_path_factory.mktemp("first") / "set")


def test_a_policy_acts_as_its_folder_does(tmp_path: Path, first: Path) -> None:
    folder = first / "policies" / "last"
    path = collected(tmp_path / "second", policy=str(folder), noise=False, name="mine")
    assert path.name == "cartesian-v0-mine.hdf5"
    data = load_dataset(str(path))
    policy = load_policy(folder)
    actions = policy(data.observations)
    np.testing.assert_allclose(data.actions * data.schema.box.scale + data.schema.box.offset, actions, atol=1e-4)
    noisy = load_dataset(str(collected(tmp_path / "third", policy=str(folder))))
    assert (
        np.abs(noisy.actions - (policy(noisy.observations) - data.schema.box.offset) / data.schema.box.scale).max()
        > 0.1
    )
    with pytest.raises(InputError, match="takes 3 numbers, gives 3; hopper has 11 and 3"):
        collected(tmp_path / "fourth", "hopper", policy=str(folder))


# --- mazes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maze", ["open", "umaze", "medium", "large", "eval-umaze", "eval-medium", "eval-large"])
def test_shortest_ways(maze: str) -> None:
    rows = layout(maze, GOALS)
    open_cells = [*cells(rows, ".")]
    for goal in open_cells[:: max(1, len(open_cells) // 6)]:
        lengths = {cell: len(shortest_way(rows, cell, goal)) for cell in open_cells}
        assert lengths[goal] == 1
        for cell in open_cells:
            way = shortest_way(rows, cell, goal)
            assert (way[0], way[-1]) == (cell, goal)
            steps = np.abs(np.diff(np.asarray(way), axis=0)).sum(axis=1) if len(way) > 1 else np.ones(1)
            assert (steps == 1).all()
            assert all(rows[i][j] == "." for i, j in way)
            neighbours = [(cell[0] + i, cell[1] + j) for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0))]
            near = [lengths[other] for other in neighbours if other in lengths]
            assert lengths[cell] == 1 or lengths[cell] == 1 + min(near)  # nothing is shorter
    assert shortest_way(("####", "#.##", "##.#", "####"), (1, 1), (2, 2)) == []


@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_the_planner_reaches_every_goal(noise: float) -> None:
    environment: Any = find_place("maze2d-large-v1").open().unwrapped
    random = np.random.default_rng(4)
    open_cells = [*cells(layout("large", GOALS), ".")]
    planner = Planner("large", random)
    observation, _ = environment.reset(seed=0)
    for cell in open_cells[::7]:
        planner.draw_goal()
        planner.goal = np.asarray(cell, np.float64)
        for _ in range(600):  # the longest way has 32 cells
            observation = environment.step(planner.action(observation, noise))[0]
            if planner.reached(observation):
                break
        assert planner.reached(observation), cell


def test_a_stream_is_d4rls(tmp_path: Path) -> None:
    place = find_place("maze2d-umaze-v1")
    columns = play_stream(place.open(), np.random.default_rng(0))
    ends = np.flatnonzero(columns["timeouts"])
    assert len(ends) > 20
    assert not columns["terminals"].any()
    # One stream: the row after a reached sub-goal goes on from there.
    np.testing.assert_array_equal(columns["next_observations"][:-1], columns["observations"][1:])
    reached = np.linalg.norm(columns["next_observations"][ends[:-1], :2] - columns["infos/goal"][ends[:-1]], axis=1)
    assert reached.max() <= 0.1 + 1e-6
    changes = np.flatnonzero(np.any(columns["infos/goal"][1:] != columns["infos/goal"][:-1], axis=1))
    np.testing.assert_array_equal(changes, ends[:-1])
    # A reward is that of the row's own observation.
    distance = np.linalg.norm(columns["observations"][:, :2] - np.array(GOALS["umaze"]), axis=1)
    clear = np.abs(distance - GOAL_RADIUS) > 1e-5
    np.testing.assert_array_equal(columns["rewards"][clear], (distance <= GOAL_RADIUS)[clear])
    assert 0 < columns["rewards"].mean() < 1
    visited = {cell_of(position) for position in columns["observations"][:, :2]}
    assert visited == {*cells(layout("umaze", GOALS), ".")}


# --- online SAC ---------------------------------------------------------------------------------------------


def trained(folder: Path, **changes: Any) -> Path:
    options = {**FAST, "steps": 700, "kinds": ("full-replay",), **changes}
    collected(folder, options.pop("environment", "Cartesian-v0"), **{**options, "horizon": None})
    return folder


def test_the_protocol(tmp_path: Path) -> None:
    kinds = ("random", "medium", "medium-replay", "full-replay", "medium-expert", "expert")
    options = {**FAST, "steps": 900, "rows": 150, "kinds": kinds, "checkpoint_at": (-1e9,)}
    made = collect(
        CollectOptions("Pendulum-v1", tmp_path / "set", **options), quiet=True, command="tether data collect ..."
    )
    assert not made.failure
    files = {path.stem.removeprefix("pendulum-v1-"): load_dataset(str(path)) for path, _ in made.files}
    document = load_policy(tmp_path / "set" / "policies" / "at--1e+09").document
    level, seen = document["notes"], document["observation_statistics"]
    assert {kind: len(data) for kind, data in files.items()} == {
        "random": 150, "medium": 150, "medium-replay": level["step"], "full-replay": 900, "medium-expert": 300,
        "expert": 150,
    }  # fmt: skip
    assert level["step"] == 400
    full, replay, mixed = files["full-replay"], files["medium-replay"], files["medium-expert"]
    np.testing.assert_array_equal(full.observations[: len(replay)], replay.observations)
    learnt_from = full.observations[: level["step"]]
    np.testing.assert_array_equal([seen["low"], seen["high"]], [learnt_from.min(axis=0), learnt_from.max(axis=0)])
    np.testing.assert_array_equal(mixed.actions, np.concatenate([files["medium"].actions, files["expert"].actions]))
    np.testing.assert_array_equal(np.flatnonzero(full.timeouts), np.arange(99, 900, 100))
    assert not full.terminals.any()
    uniform, learning = full.actions[:300], full.actions[300:]
    assert abs(uniform.std() - 3**-0.5) < 0.06
    assert len(np.unique(learning)) > 500
    rows = [json.loads(line) for line in (tmp_path / "set" / "training" / "evaluations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [400, 800, 900]
    assert [row["updates"] for row in rows] == [100, 500, 600]
    assert not (tmp_path / "set" / "partial").exists()
    before = snapshot(tmp_path / "set")
    again = collect(CollectOptions("Pendulum-v1", tmp_path / "set", **options), quiet=True)  # nothing is left to do
    assert [path for path, _ in again.files] == [path for path, _ in made.files]
    after = snapshot(tmp_path / "set")
    assert {name for name in before if before[name] != after[name]} <= {"collect.json"}


def test_levels_are_of_the_policy_that_collects(tmp_path: Path) -> None:
    """D4RL's medium score by default; judged with the actor's noise, but as before in a collection of tether 0.1.0."""
    options = {**FAST, "kinds": ("medium",), "steps": 400}
    made = collect(CollectOptions("hopper", tmp_path / "set", **options), quiet=True)
    assert "level 44.3 was not reached" in made.failure  # (1422 + 20.3) / 3254.6
    path = tmp_path / "set" / "collect.json"
    config = json.loads(path.read_text())
    assert config["settings"]["judged_with_noise"]
    noisy = (tmp_path / "set" / "training" / "evaluations.jsonl").read_text()
    collect(CollectOptions("hopper", tmp_path / "mode", **options, noise=False), quiet=True)
    assert noisy != (tmp_path / "mode" / "training" / "evaluations.jsonl").read_text()
    with pytest.raises(InputError, match="was begun with judged_with_noise True, not False"):
        collect(CollectOptions("hopper", tmp_path / "set", **options, noise=False), quiet=True)
    del config["settings"]["judged_with_noise"]
    path.write_text(json.dumps(config))
    assert "level 44.3" in collect(CollectOptions("hopper", tmp_path / "set", **options), quiet=True).failure


def test_protocol_sets_stand_beside_what_d4rl_published(tmp_path: Path) -> None:
    made = collect(
        CollectOptions("hopper", tmp_path, kinds=("medium",), rows=60, **{**FAST, "checkpoint_at": (-10.0,)})
    )
    found = made.files[0][1]
    assert found["set"] == "D4RL's protocol, not D4RL's data: a protocol set"
    assert (found["d4rl"]["return_mean"], round(found["d4rl"]["length_mean"])) == (1422, 457)
    assert 1 < found["length_mean"] <= 60


def test_a_level_that_is_not_reached_fails_and_more_steps_go_on(tmp_path: Path) -> None:
    options = {**FAST, "checkpoint_at": (1e6,), "kinds": ("medium-replay",)}
    made = collect(CollectOptions("Pendulum-v1", tmp_path / "set", steps=500, **options), quiet=True)
    assert not made.files
    assert "after 500 steps the best evaluation is" in made.failure
    made = collect(CollectOptions("Pendulum-v1", tmp_path / "set", steps=900, **options), quiet=True)
    assert "after 900 steps" in made.failure
    kinds = {**options, "kinds": ("full-replay",), "checkpoint_at": ()}
    more = collect(CollectOptions("Pendulum-v1", tmp_path / "set", steps=900, **kinds), quiet=True).files[0][0]
    whole = collect(CollectOptions("Pendulum-v1", tmp_path / "whole", steps=900, **kinds), quiet=True).files[0][0]
    np.testing.assert_array_equal(arrays(more)["actions"], arrays(whole)["actions"])


def test_a_layout_can_be_asked_for_later(tmp_path: Path) -> None:
    pytest.importorskip("minari")
    options = {**FAST, "steps": 500, "kinds": ("full-replay",)}
    ((first, _),) = collect(CollectOptions("Pendulum-v1", tmp_path / "set", **options), quiet=True).files
    before = first.read_bytes()
    more = collect(CollectOptions("Pendulum-v1", tmp_path / "set", **options, layouts=("d4rl", "minari")), quiet=True)
    (_, _), (folder, _) = more.files
    assert first.read_bytes() == before
    np.testing.assert_allclose(load_dataset(str(folder)).actions, load_dataset(str(first)).actions, atol=1e-6)


def test_another_training_in_the_same_folder_is_refused(tmp_path: Path, first: Path) -> None:
    shutil.copytree(first, tmp_path / "set")
    for changes, words in (
        ({"seed": 1}, "seed 0, not 1"),
        ({"set": {}}, "algorithm"),
        ({"batch_size": 8}, "batch_size"),
    ):
        with pytest.raises(InputError, match=rf"set: was begun with {words}"):
            trained(tmp_path / "set", **changes)
    with pytest.raises(InputError, match="was begun with environment"):
        collected(tmp_path / "set", "hopper", policy="random")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match="is not empty and no collection"):
        trained(tmp_path / "other")


COMMAND = [
    *("data", "collect", "Pendulum-v1", "--checkpoint-at=-1e9", "--kinds", "full-replay", "medium", "--steps", "1500"),
    *("--rows", "1000", "--batch-size", "16", "--random-steps", "300", "--eval-every-steps", "400", "--eval-episodes"),
    *("1", "--horizon", "100", "--set", "hidden_sizes=16,16"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("undisturbed") / "set"
    assert tether(*COMMAND, "--out", folder)[0] == 0
    return {path.name: arrays(path) for path in sorted(folder.glob("*.hdf5"))}


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL])
def test_a_stopped_collection_goes_on_exactly(
    tmp_path: Path, number: signal.Signals, undisturbed: dict[str, dict[str, np.ndarray]]
) -> None:
    folder = tmp_path / "set"
    program = (
        "import sys; from tether import cli; from tether.collect import online, plan;"
        "online.CHECKPOINT_STEPS = 200; plan.SAVE_ROWS = 200; cli.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, *COMMAND, "--out", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not any(folder.glob("training/checkpoints/train-*/manifest.json")):
            time.sleep(0.005)
        os.kill(process.pid, number)
        _, err = process.communicate()
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert "continue with the same command" in err
    else:
        assert process.returncode == -9
    assert not any(folder.glob("*.hdf5"))
    code, _, _ = tether(*COMMAND, "--out", folder)
    assert code == 0
    assert {path.name for path in folder.glob("*.hdf5")} == set(undisturbed)
    for name, columns in undisturbed.items():
        found = arrays(folder / name)
        assert set(found) == set(columns)
        for column, values in columns.items():
            np.testing.assert_array_equal(found[column], values, err_msg=f"{name}: {column}")


def test_rollouts_go_on_exactly(tmp_path: Path) -> None:
    place = find_place("Cartesian-v0")
    behaviour = random_actions(place)
    blocks = [behaviour.play(place.open(), np.random.default_rng([0, 1, block])) for block in range(6)]
    log = Log(tmp_path / "log")
    for block in blocks[:3]:
        log.append(block)
    log.save()
    log.append(blocks[3])  # lost
    again = Log(tmp_path / "log")
    again.restore()
    assert (again.blocks, again.rows) == (3, sum(len(block["rewards"]) for block in blocks[:3]))
    for block in blocks[3:]:
        again.append(block)
    for name, column in again.columns().items():
        np.testing.assert_array_equal(column, joined(blocks)[name])
    again.save()
    with pytest.raises(InputError, match="its checkpoint 10"):
        Log(tmp_path / "log").restore(10)


# --- which environment --------------------------------------------------------------------------------------


def test_ids_of_tasks_have_references() -> None:
    for name in ("hopper", "Hopper-v4"):
        place = find_place(name)
        assert (place.label, place.task.has_references, place.task.horizon) == ("hopper", True, 1000)
    place = find_place("Hopper-v5")
    assert (place.label, place.task.has_references) == ("hopper-v5", False)  # another environment
    place = find_place("Pendulum-v1")
    assert (place.task.observation_size, place.task.action_size, place.task.horizon) == (3, 1, 200)
    assert find_place("Pendulum-v1", horizon=50).task.horizon == 50


def test_refused_environments(tmp_path: Path) -> None:
    gymnasium.register("Endless-v0", Cartesian)
    try:
        for name, words in {
            "Pendulum-v11": "unknown environment 'Pendulum-v11'.*Pendulum-v1",
            "CartPole-v1": "a vector of continuous numbers",
            "Endless-v0": "no time limit.*--horizon",
            "no_such_module:Env-v0": "no_such_module",
        }.items():
            with pytest.raises(InputError, match=words) as caught:
                find_place(name)
            assert "\n" not in str(caught.value)
        assert find_place("Endless-v0", 20).task.horizon == 20
    finally:
        del gymnasium.registry["Endless-v0"]


def test_the_command(tmp_path: Path) -> None:
    words = ["data", "collect", "Pendulum-v1", "--out", tmp_path / "set"]
    code, out, err = tether(*words)
    assert (code, out) == (2, "")
    assert "no reference returns" in err
    assert "--checkpoint-at" in err
    for extra, problem in {
        ("--kinds", "mediun"): "unknown kind 'mediun'",
        ("--layouts", "rlds"): "unknown layout",
        ("--rows", "0", "--policy", "random"): "--rows 0",
        ("--checkpoint-at", "much"): "write numbers",
        ("--policy", "random", "--controller", "a:b"): "one of them acts",
        ("--policy", str(tmp_path / "none")): "none",
        ("--controller", "push"): "module:function",
    }.items():
        code, out, err = tether(*words, *extra)
        assert (code, out) == (2, ""), extra
        assert problem in err
        assert err.count("\n") == 1
    code, out, err = tether(*words, "--policy", "random", "--rows", "300", "--quiet")
    assert (code, err) == (0, "")
    assert "pendulum-v1-random.hdf5: 300 rows, 2 episodes, mean return -" in out
    code, out, _ = tether(*words, "--policy", "random", "--rows", "300", "--quiet")
    assert code == 0  # it is there


def test_success_that_is_told_late() -> None:
    place = find_place("Cartesian-v0")
    with contextlib.closing(place.open()) as environment:
        columns = play_episode(
            environment, np.random.default_rng(0), lambda e, r: lambda o, reward: np.float32([0, 5, 3]), np.asarray
        )
    assert columns["infos/success"].dtype == bool
    assert len(columns["rewards"]) <= 30


def test_a_simulator_that_warns_is_heard_once() -> None:
    class Cold(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        action_space = observation_space

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
            warnings.warn("the motors are cold", stacklevel=1)
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
            return np.zeros(1, np.float32), 0.0, True, False, {}

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")  # once for each place that warns, as users have it
        for episode in range(3):
            random = np.random.default_rng(episode)
            play_episode(Cold(), random, lambda e, r: lambda o, reward: np.zeros(1, np.float32), np.asarray)
    assert [str(warning.message) for warning in heard] == ["the motors are cold"]
