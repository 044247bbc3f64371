"""The adapted environments: how each differs from the maintained one, and D4RL's numbers."""

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import mujoco as mujoco_bindings
import numpy as np
import pytest

from tether import InputError
from tether.data.schema import ActionBox
from tether.environments import TASKS, get_task
from tether.environments.actions import action_limits, bounded_limits
from tether.environments.antmaze import GOAL_CELLS, AntMaze
from tether.environments.make import make_environment
from tether.environments.mazes import LAYOUTS, cells
from tether.environments.pointmaze import GOALS, PointMaze

mujoco: Any = mujoco_bindings

robotics = pytest.mark.skipif(
    importlib.util.find_spec("gymnasium_robotics") is None, reason="gymnasium-robotics is not installed"
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """gymnasium and gymnasium-robotics warn of their own affairs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def bare(name: str) -> Any:
    """The environment of a task without its time limit."""
    return make_environment(get_task(name)).unwrapped


# --- mazes --------------------------------------------------------------------------------------------------

OPEN_CELLS = {  # of the D4RL package, copied by hand: row -> columns
    "umaze": {1: [1, 2, 3], 2: [3], 3: [1, 2, 3]},
    "medium": {
        1: [1, 2, 5, 6],
        2: [1, 2, 4, 5, 6],
        3: [2, 3, 4],
        4: [1, 2, 4, 5, 6],
        5: [1, 3, 4, 6],
        6: [1, 2, 3, 5, 6],
    },
    "large": {
        1: [1, 2, 3, 4, 6, 7, 8, 9, 10],
        2: [1, 4, 6, 8, 10],
        3: [1, 2, 3, 4, 5, 6, 8, 9, 10],
        4: [1, 6, 10],
        5: [1, 2, 4, 6, 7, 8, 9, 10],
        6: [2, 4, 6, 8],
        7: [1, 2, 4, 5, 6, 8, 9, 10],
    },
}
SIZES = {"umaze": (5, 5), "medium": (8, 8), "large": (9, 12)}


@pytest.mark.parametrize("maze", OPEN_CELLS)
def test_layouts_are_the_specification(maze: str) -> None:
    expected = {(row, column) for row, columns in OPEN_CELLS[maze].items() for column in columns}
    assert set(cells(LAYOUTS[maze], ".")) == expected
    assert (len(LAYOUTS[maze]), len(LAYOUTS[maze][0])) == SIZES[maze]


@pytest.mark.parametrize("maze", LAYOUTS)
def test_mazes_are_closed_and_every_cell_can_be_reached(maze: str) -> None:
    rows = LAYOUTS[maze]
    assert len({len(row) for row in rows}) == 1
    border = rows[0] + rows[-1] + "".join(row[0] + row[-1] for row in rows)
    assert set(border) == {"#"}
    open_cells = set(cells(rows, "."))
    reached, new = set(), {GOALS[maze]}
    while new:
        reached |= new
        new = {(i + a, j + b) for i, j in new for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))} & open_cells - reached
    assert reached == open_cells


@robotics
def test_layouts_are_those_of_gymnasium_robotics() -> None:
    from gymnasium_robotics.envs.maze import maps

    for maze in ("umaze", "medium", "large"):
        theirs = getattr(maps, {"umaze": "U_MAZE"}.get(maze, f"{maze.upper()}_MAZE"))
        ours = [[int(cell == "#") for cell in row] for row in LAYOUTS[maze]]
        assert ours == [[int(cell == 1) for cell in row] for row in theirs]


# --- AntMaze ------------------------------------------------------------------------------------------------


def test_the_ant_is_gymnasiums_body_with_d4rls_motors_and_clock() -> None:
    """D4RL's ant: same body; +-30 torque at gear 1, 0.02 s, RK4, five steps per action."""
    theirs = gymnasium.make("Ant-v4").unwrapped.model  # pyright: ignore[reportAttributeAccessIssue]
    ours = AntMaze("umaze").model
    for name in ("body_mass", "body_inertia", "body_pos", "jnt_axis", "jnt_range", "dof_armature", "dof_damping"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(ours.actuator_trnid, theirs.actuator_trnid)  # the order of the motors
    np.testing.assert_allclose(ours.qpos0, theirs.qpos0)
    assert (ours.actuator_gear[:, 0] == 1).all()
    assert (ours.actuator_ctrlrange == [-30, 30]).all()
    assert ours.opt.timestep == 0.02
    assert ours.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    ant = theirs.ngeom - 1  # all of Ant-v4's geoms but the floor
    for name in ("geom_size", "geom_friction", "geom_contype", "geom_conaffinity", "geom_condim", "geom_margin"):
        np.testing.assert_allclose(getattr(ours, name)[-ant:], getattr(theirs, name)[-ant:], err_msg=name)
    environment = AntMaze("umaze")
    environment.reset(seed=0)
    environment.step(np.zeros(8))
    assert environment.data.time == pytest.approx(0.1)


@pytest.mark.parametrize("maze", GOAL_CELLS)
def test_antmaze_walls(maze: str) -> None:
    """A box of half-width 2 and half-height 1 at (4 (column - 1), 4 (row - 1), 1) for every closed cell."""
    model = AntMaze(maze).model
    boxes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_BOX)
    closed = [(4.0 * (j - 1), 4.0 * (i - 1), 1.0) for i, j in cells(LAYOUTS[maze], "#")]
    assert sorted(map(tuple, model.geom_pos[boxes])) == sorted(closed)
    assert (model.geom_size[boxes] == [2, 2, 1]).all()
    assert (model.geom_conaffinity[boxes] == 1).all()


@pytest.mark.parametrize(("maze", "base"), [("umaze", (0, 8)), ("medium", (20, 20)), ("large", (32, 24))])
def test_antmaze_goals(maze: str, base: tuple[int, int]) -> None:
    """base + U(0, 1) + U(0, 0.5) per axis, another one at each reset, the same ones for the same seed."""
    environment = AntMaze(maze)
    goals = np.array([environment.reset(seed=seed)[1]["goal"] for seed in range(300)]) - base
    assert (goals >= 0).all()
    assert (goals <= 1.5).all()
    np.testing.assert_allclose(goals.mean(axis=0), 0.75, atol=0.06)  # standard error 0.019
    np.testing.assert_allclose(goals.var(axis=0), (1 + 0.25) / 12, atol=0.025)
    np.testing.assert_array_equal(environment.reset(seed=7)[1]["goal"] - base, goals[7])
    assert (environment.reset()[1]["goal"] != environment.reset()[1]["goal"]).all()


def test_antmaze_starts_around_the_default_pose() -> None:
    environment = AntMaze("large")
    starts = np.array([environment.reset(seed=seed)[0] for seed in range(200)])
    pose = [0, 0, 0.75, 1, *[0] * 11]
    offsets = starts[:, :15] - pose
    assert np.abs(offsets).max() <= 0.1
    np.testing.assert_allclose(offsets.std(axis=0), 0.2 / np.sqrt(12), rtol=0.15)
    np.testing.assert_allclose(starts[:, 15:].std(axis=0), 0.1, rtol=0.2)


def test_antmaze_observes_positions_then_velocities() -> None:
    environment = AntMaze("umaze")
    environment.reset(seed=1)
    observation = environment.step(np.full(8, 0.3))[0]
    np.testing.assert_array_equal(observation, [*environment.data.qpos, *environment.data.qvel])
    assert observation.shape == (29,)
    environment.data.qpos[:2] = 3.0, 8.0
    np.testing.assert_allclose(environment.step(np.zeros(8))[0][:2], [3.0, 8.0], atol=0.5)


def test_antmaze_scales_and_clips_actions() -> None:
    environment = AntMaze("umaze")
    environment.reset(seed=0)
    environment.step(np.array([-1, -0.5, 0, 0.1, 0.5, 1, 2, -7]))
    np.testing.assert_allclose(environment.data.ctrl, [-30, -15, 0, 3, 15, 30, 30, -30])


def test_antmaze_pays_and_ends_within_half_a_metre() -> None:
    environment = AntMaze("umaze")
    for distance, reached in ((0.3, True), (0.8, False)):  # the ant moves little in its first tenth of a second
        environment.reset(seed=0, options={"goal": (8.0, 4.0)})
        environment.data.qpos[:2] = 8.0 - distance, 4.0
        observation, reward, terminated, truncated, info = environment.step(np.zeros(8))
        assert (np.linalg.norm(observation[:2] - [8, 4]) <= 0.5) == reached
        assert (reward, terminated, truncated, info["success"]) == (float(reached), reached, False, reached)


def test_antmaze_goes_on_when_the_ant_falls_over() -> None:
    environment = AntMaze("umaze")
    environment.reset(seed=0)
    environment.data.qpos[3:7] = 0, 1, 0, 0  # on its back
    steps = [environment.step(np.zeros(8)) for _ in range(20)]
    assert steps[-1][0][2] < 0.6  # gymnasium's ant would also end below 0.2 or above 1
    assert not any(terminated or truncated for _, _, terminated, truncated, _ in steps)


def test_the_ant_is_held_by_walls_and_floor() -> None:
    """Thrown at a wall at 8 m/s, the torso (radius 0.25) stays in its cell and above the floor."""
    environment = AntMaze("umaze")
    environment.reset(seed=0)
    environment.data.qvel[:2] = -8.0, 0.0
    path = np.array([environment.step(np.zeros(8))[0][:3] for _ in range(30)])
    assert path[:, 0].min() < -1.0  # it did get there
    assert path[:, 0].min() > -2.0
    assert path[:, 2].min() > 0.15


def test_mazes_of_other_names() -> None:
    with pytest.raises(InputError, match="unknown maze 'gigantic'"):
        AntMaze("gigantic")
    with pytest.raises(InputError, match="unknown maze 'open'"):
        AntMaze("open")  # a point maze only
    with pytest.raises(InputError, match="unknown reward 'densest'; did you mean dense"):
        PointMaze("umaze", "densest")


def test_environments_of_a_maze_do_not_share_their_state() -> None:
    first, second = AntMaze("umaze"), AntMaze("umaze")
    start, _ = second.reset(seed=3)
    alone = [second.step(np.full(8, 0.5))[0] for _ in range(3)]
    np.testing.assert_array_equal(second.reset(seed=3)[0], start)
    first.reset(seed=4)
    for expected in alone:
        first.step(np.full(8, -1.0))
        np.testing.assert_array_equal(second.step(np.full(8, 0.5))[0], expected)


# --- Maze2D -------------------------------------------------------------------------------------------------


@robotics
@pytest.mark.parametrize("maze", ["umaze", "large"])
def test_pointmaze_moves_as_gymnasium_robotics_does(maze: str) -> None:
    """The same forces from the same place give the same path, walls included, but for the frame."""
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

    rows = [[int(cell == "#") for cell in row] for row in LAYOUTS[maze]]
    theirs = PointMazeEnv(maze_map=rows)
    ours = PointMaze(maze)
    height, width = len(rows), len(rows[0])

    def in_their_frame(observation: np.ndarray) -> np.ndarray:
        row, column, row_speed, column_speed = np.add(observation, [0.2, 0.2, 0, 0])  # the particle's frame
        return np.array([column + 0.5 - width / 2, height / 2 - row - 0.5, column_speed, -row_speed])

    theirs.reset(seed=0)
    observation, _ = ours.reset(seed=0)
    start = in_their_frame(observation)
    theirs.point_env.set_state(start[:2], start[2:])
    rng = np.random.default_rng(0)
    force, touched = np.zeros(2), 0
    for step in range(400):
        if step % 10 == 0:
            force = rng.uniform(-1.5, 1.5, 2)  # clipped by both
        observation = ours.step(force)[0]
        expected = theirs.step(np.array([force[1], -force[0]]))[0]["observation"]
        np.testing.assert_allclose(in_their_frame(observation), expected, atol=1e-6)
        touched += ours.data.ncon
    assert touched > 10  # it did bump into walls
    theirs.close()
    os.unlink(theirs.tmp_xml_file_path)


@pytest.mark.parametrize("maze", GOALS)
def test_pointmaze_starts_and_goal(maze: str) -> None:
    environment = PointMaze(maze)
    resets = [environment.reset(seed=seed) for seed in range(200)]
    starts = np.array([observation for observation, _ in resets])
    nearest = np.rint(starts[:, :2])
    assert np.abs(starts[:, :2] - nearest).max() <= 0.1
    found, wanted = set(map(tuple, nearest.astype(int))), set(cells(LAYOUTS[maze], "."))
    assert found <= wanted
    assert len(found) > 0.8 * len(wanted)
    np.testing.assert_allclose(starts[:, 2:].std(axis=0), 0.1, rtol=0.2)
    assert {tuple(info["goal"]) for _, info in resets} == {GOALS[maze]}
    assert GOALS[maze] in wanted


def test_pointmaze_rewards() -> None:
    """1 within 0.5 of the goal, or exp(-distance), of the state after the action; no episode ends."""
    sparse, dense = PointMaze("umaze"), PointMaze("umaze", "dense")
    rewards = []
    for environment in (sparse, dense):
        environment.reset(seed=0, options={"start": (1.0, 2.0)})
        for _ in range(60):
            observation, reward, terminated, truncated, _ = environment.step(np.array([0.0, -0.2]))
            distance = np.linalg.norm(observation[:2] - [1, 1])
            expected = np.exp(-distance) if environment.dense else float(distance <= 0.5)
            assert reward == pytest.approx(expected)
            assert not terminated
            assert not truncated
            rewards.append(reward)
    assert rewards[0] == 0
    assert rewards[59] == 1  # it arrives, is paid every step, and the episode goes on


def test_pointmaze_limits_speed() -> None:
    environment = PointMaze("open")
    environment.reset(seed=0, options={"start": (2.0, 1.0)})
    environment.data.qvel[:] = 0.0, 50.0
    column = environment.data.qpos[1]
    environment.step(np.zeros(2))
    assert environment.data.qpos[1] - column == pytest.approx(5.0 * 0.01, rel=0.01)


def test_maze2d_tasks_name_maze_and_reward() -> None:
    made = {name: make_environment(task) for name, task in TASKS.items() if name.startswith("maze2d")}
    for name, environment in made.items():
        point = environment.unwrapped
        assert isinstance(point, PointMaze)
        maze = name.removeprefix("maze2d-").rpartition("-v")[0].removesuffix("-dense")
        np.testing.assert_array_equal(point.goal, GOALS[maze])
        assert point.dense == ("dense" in name)
    limits = {name: environment.spec.max_episode_steps for name, environment in made.items() if environment.spec}
    assert limits["maze2d-open-v0"] == 150
    assert limits["maze2d-umaze-v1"] == 300
    assert limits["maze2d-medium-dense-v1"] == 600
    assert limits["maze2d-eval-large-v1"] == 800


def test_a_time_limit_is_no_end() -> None:
    environment = make_environment(get_task("maze2d-open-v0"))
    environment.reset(seed=0)
    steps = [environment.step(np.zeros(2)) for _ in range(150)]
    assert [truncated for _, _, _, truncated, _ in steps] == [False] * 149 + [True]
    assert not any(terminated for _, _, terminated, _, _ in steps)


# --- the gym ant --------------------------------------------------------------------------------------------


def test_ant_observes_111_numbers_as_recorded() -> None:
    """The data have zeros where contact forces would be (MuJoCo 2.0), and no contact cost."""
    ours, plain = make_environment(get_task("ant")), gymnasium.make("Ant-v4")
    first, second = ours.reset(seed=0)[0], plain.reset(seed=0)[0]
    for _ in range(10):
        np.testing.assert_array_equal(first, [*second, *[0.0] * 84])
        action = np.full(8, 0.5)
        first, reward, *_ = ours.step(action)
        second, expected, *_ = plain.step(action)
        assert reward == expected


# --- Adroit -------------------------------------------------------------------------------------------------

HANDS = ("pen", "door", "hammer", "relocate")


def positions(environment: Any, kind: str, *names: str) -> list[np.ndarray]:
    """World positions of bodies or sites, read from the simulator and not from observations."""
    found = [getattr(environment.data, kind)(name).xpos for name in names]
    return [np.array(position) for position in found]


def d4rl_reward(hand: str, environment: Any) -> float:
    """D4RL's reward of the simulator's present state (the equations of its environments, written down anew)."""
    if hand == "door":
        palm, handle = positions(environment, "site", "S_grasp", "S_handle")
        angle = environment.data.joint("door_hinge").qpos[0]
        bonus = 2 * (angle > 0.2) + 8 * (angle > 1.0) + 10 * (angle > 1.35)
        speed = 1e-5 * np.sum(environment.data.qvel**2)
        return -0.1 * np.linalg.norm(palm - handle) - 0.1 * (angle - 1.57) ** 2 - speed + bonus
    if hand == "hammer":
        palm, head, nail, goal = positions(environment, "site", "S_grasp", "tool", "S_target", "nail_goal")
        (hammer,) = positions(environment, "body", "Object")
        depth = np.linalg.norm(nail - goal)
        bonus = 2 * (hammer[2] > 0.04 and head[2] > 0.04) + 25 * (depth < 0.02) + 75 * (depth < 0.01)
        costs = 0.1 * np.linalg.norm(palm - hammer) + np.linalg.norm(head - nail) + 10 * depth
        return bonus - costs - 0.01 * np.linalg.norm(environment.data.qvel)
    palm, target = positions(environment, "site", "S_grasp", "target")
    (ball,) = positions(environment, "body", "Object")
    lifted = 1 - 0.5 * np.linalg.norm(palm - target) - 0.5 * np.linalg.norm(ball - target)
    near = np.linalg.norm(ball - target)
    return -0.1 * np.linalg.norm(palm - ball) + (ball[2] > 0.04) * lifted + 10 * (near < 0.1) + 20 * (near < 0.05)


@robotics
@pytest.mark.parametrize("hand", ["door", "hammer", "relocate"])
def test_adroit_pays_for_reaching_with_d4rls_sign(hand: str) -> None:
    environment = make_environment(get_task(hand))
    rng = np.random.default_rng(0)
    for seed in range(2):
        environment.reset(seed=seed)
        for _ in range(15):
            reward = environment.step(rng.uniform(-1, 1, environment.action_space.shape).astype(np.float32))[1]
            assert float(reward) == pytest.approx(d4rl_reward(hand, environment.unwrapped), abs=1e-9)
    environment.close()


@robotics
@pytest.mark.parametrize(("hand", "tolerance"), [("door", 2), ("hammer", 10), ("relocate", 8)])
def test_random_actions_return_d4rls_reference(hand: str, tolerance: float) -> None:
    """Score 0 is what random actions return, in D4RL's simulator: an independent check of rewards and time limits."""
    task, rng = get_task(hand), np.random.default_rng(0)
    environment = make_environment(task)
    returns = []
    for seed in range(3):
        environment.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, over, _ = environment.step(rng.uniform(-1, 1, task.action_size))
            total += float(reward)
            assert not terminated
        returns.append(total)
    assert np.mean(returns) == pytest.approx(task.reference_min, abs=tolerance)
    environment.close()


# The first row of D4RL's door-human-v0 (CC BY 4.0): from zero positions and velocities, with the handle there, this
# action paid this reward.
DOOR_HANDLE = [0.140432, 0.093598001, 0.356252998]
DOOR_ACTION = np.fromstring(
    """
    -0.268590897 -0.00516000763 -0.0381103866 -0.228053287 0.939548016 -0.110600337 -0.117138676
    0.0386940837 -0.771647274 -0.980726898 0.17883268 -0.102834612 -0.457541347 -0.629491925
    -0.049541235 -0.512908518 -0.436158687 -0.456047565 -0.472170174 -0.406550318 -0.643268287
    -0.0604694933 -0.215983152 0.24564375 0.313654006 0.958727539 -0.908352733 0.496146947
    """,
    sep=" ",
)
DOOR_REWARD = -0.2873746


@robotics
def test_door_repeats_a_row_of_d4rl() -> None:
    from tether.environments.adroit import Adroit

    environment = Adroit("door")
    environment.reset(seed=0)
    door: Any = environment.env
    state = {"qpos": np.zeros(30), "qvel": np.zeros(30), "door_body_pos": np.zeros(3)}
    door.set_env_state(state)
    (handle,) = positions(door, "site", "S_handle")
    door.set_env_state({**state, "door_body_pos": DOOR_HANDLE - handle})
    _, reward, terminated, _, _ = environment.step(DOOR_ACTION)
    assert reward == pytest.approx(DOOR_REWARD, abs=1e-6)
    assert not terminated
    environment.close()


@robotics
def test_pen_ends_when_it_is_dropped() -> None:
    """D4RL: below 0.075 m, with a penalty of 5; Gymnasium-Robotics' never ends."""
    environment = make_environment(get_task("pen"))
    environment.reset(seed=0)
    pen: Any = environment.unwrapped
    rewards, ended = [], False
    while not ended:
        observation, reward, terminated, truncated, _ = environment.step(np.ones(24, np.float32))
        (centre,) = positions(pen, "body", "Object")
        np.testing.assert_allclose(observation[24:27], centre)
        assert terminated == (centre[2] < 0.075)
        rewards.append(float(reward))
        ended = terminated or truncated
        if len(rewards) == 5:
            pen.data.qpos[-6:-3] = [0.4, 0.0, 0.0]  # off the hand
    assert terminated  # pyright: ignore[reportPossiblyUnboundVariable]
    assert len(rewards) < 100
    assert rewards[-1] < -4
    assert min(rewards[:-1]) > -4
    environment.close()


@robotics
def test_adroit_time_limits() -> None:
    for hand, steps in zip(HANDS, (100, 200, 200, 200), strict=True):
        spec = make_environment(get_task(hand)).spec
        assert spec is not None
        assert spec.max_episode_steps == steps
    with pytest.raises(InputError, match="unknown Adroit task 'nail'"):
        gymnasium.make("tether/Adroit-v0", hand="nail")


# --- Kitchen ------------------------------------------------------------------------------------------------

ELEMENTS = {  # of the D4RL package, copied by hand: places among the 30 positions, goal
    "bottom burner": ([11, 12], [-0.88, -0.01]),
    "light switch": ([17, 18], [-0.69, -0.05]),
    "slide cabinet": ([19], [0.37]),
    "microwave": ([22], [-0.75]),
    "kettle": ([23, 24, 25, 26, 27, 28, 29], [-0.23, 0.75, 1.62, 0.99, 0, 0, -0.06]),
}
KITCHEN_TASKS = {
    "kitchen-complete": {"microwave", "kettle", "light switch", "slide cabinet"},
    "kitchen-partial": {"microwave", "kettle", "light switch", "slide cabinet"},
    "kitchen-mixed": {"microwave", "kettle", "bottom burner", "light switch"},
}


def put(environment: Any, task: str) -> None:
    """Bring a task's elements to their goal (the simulator's positions are the observation's)."""
    places, goal = ELEMENTS[task]
    environment.unwrapped.data.qpos[places] = goal


@robotics
@pytest.mark.parametrize("name", KITCHEN_TASKS)
def test_kitchen_observes_d4rls_60_numbers(name: str) -> None:
    environment = make_environment(get_task(name))
    observation, info = environment.reset(seed=0)
    assert set(info["left"]) == KITCHEN_TASKS[name]
    goal = np.zeros(30)
    for task in KITCHEN_TASKS[name]:
        places, values = ELEMENTS[task]
        goal[places] = values
    for _ in range(3):
        kitchen: Any = environment.unwrapped
        np.testing.assert_allclose(observation[:30], kitchen.data.qpos, atol=0.0101)
        np.testing.assert_array_equal(observation[30:], goal)
        observation = environment.step(np.full(9, 0.2, np.float32))[0]


@robotics
def test_kitchen_noise_is_a_tenth_of_what_is_stated() -> None:
    """Uniform; +-0.01 for the robot; for objects a tenth of the amplitudes in D4RL's configuration."""
    environment = make_environment(get_task("kitchen-mixed"))
    kitchen: Any = environment.unwrapped
    noise = np.array([environment.reset(seed=seed)[0][:30] - kitchen.data.qpos for seed in range(300)])
    stated = [0.1] * 9 + [0.005] * 2 + [0.0005] * 6 + [0.005] * 3 + [0.1] * 3 + [0.005] * 3 + [0.1] * 3 + [0.005]
    amplitude = 0.1 * np.array(stated)
    assert (np.abs(noise) <= amplitude + 1e-12).all()
    np.testing.assert_allclose(noise.std(axis=0), amplitude / np.sqrt(3), rtol=0.15)
    correlation = np.corrcoef(noise.T) - np.eye(30)
    assert np.abs(correlation).max() < 0.3  # of 300 samples, 0.058 is one standard error


@robotics
def test_kitchen_pays_each_task_once_and_ends_after_all() -> None:
    environment = make_environment(get_task("kitchen-mixed"))
    environment.reset(seed=0)
    still = np.zeros(9, np.float32)
    paid, ends = [], []
    for tasks in (["microwave"], [], ["microwave"], ["light switch", "bottom burner"], ["kettle"]):
        for task in tasks:
            put(environment, task)
        _, reward, terminated, truncated, info = environment.step(still)
        paid.append(reward)
        ends.append(terminated)
        assert not truncated
    assert paid == [1, 0, 0, 2, 1]
    assert ends == [False] * 4 + [True]
    assert info["left"] == []
    environment.reset(seed=0)
    put(environment, "slide cabinet")  # not one of mixed's tasks
    assert environment.step(still)[1] == 0
    put(environment, "microwave")  # a new episode pays again
    assert environment.step(still)[1] == 1
    assert get_task("kitchen-mixed").normalized_score(sum(paid)) == 100


@robotics
def test_kitchens_share_a_model_but_no_state() -> None:
    """As a kitchen of Gymnasium-Robotics that shares nothing moves, with another one moving beside it."""
    theirs: Any = gymnasium.make("FrankaKitchen-v1", robot_noise_ratio=0.1, object_noise_ratio=0.0).unwrapped
    first, second = (make_environment(get_task("kitchen-mixed")) for _ in range(2))
    expected, _ = theirs.reset(seed=5)
    first.reset(seed=9)
    found, _ = second.reset(seed=5)
    rng = np.random.default_rng(0)
    assert second.unwrapped.model is first.unwrapped.model  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(2):
        np.testing.assert_array_equal(found[:9], expected["observation"][:9])
        action = rng.uniform(-1, 1, 9)
        # Its noise of objects, though times zero, is drawn from the generator that the next joints' noise comes from.
        theirs.robot_env.np_random.uniform(-1, 1, 21)
        expected = theirs.step(action)[0]
        found = second.step(action)[0]
        first.step(-action)
    np.testing.assert_allclose(found[9:30], expected["observation"][18:39], atol=0.0101)
    theirs.close()


# --- all ----------------------------------------------------------------------------------------------------


class Odd(gymnasium.Env):
    """Its actions are 2 to 4 and -10 to 0; it observes them."""

    action_space = gymnasium.spaces.Box(np.array([2.0, -10.0]), np.array([4.0, 0.0]), dtype=np.float64)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.asarray(action), 0.0, False, False, {}


def test_the_limits_of_actions_are_the_environments_own() -> None:
    assert action_limits(Odd()) == ActionBox((2.0, -10.0), (4.0, 0.0))
    assert action_limits(PointMaze("open")).is_unit()
    odd = Odd()
    odd.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    assert action_limits(odd) == ActionBox((-np.inf,) * 2, (np.inf,) * 2)
    with pytest.raises(InputError, match="a bounded box is needed"):
        bounded_limits(odd)
    odd.action_space = gymnasium.spaces.Discrete(4)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="its actions are Discrete"):
        action_limits(odd)


def test_a_missing_extra_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)  # what an import of it then finds
    with pytest.raises(InputError, match=r'pip install "tether-rl\[robotics\]"') as caught:
        make_environment(get_task("pen"))
    assert "\n" not in str(caught.value)
    assert make_environment(get_task("antmaze-umaze")) is not None  # needs nothing more


def test_gymnasium_robotics_is_imported_by_those_alone_that_need_it(tmp_path: Path) -> None:
    program = (
        "import sys, tether, tether.cli, tether.api\n"
        "from tether.environments import get_task\n"
        "from tether.evaluation.rollout import make_environment\n"
        "[make_environment(get_task(name)) for name in ('hopper', 'antmaze-umaze', 'maze2d-umaze-v1')]\n"
        "assert 'gymnasium_robotics' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("name", ["antmaze-medium", "maze2d-large-v1", "pen", "kitchen-partial"])
def test_the_same_seed_repeats_an_episode_in_a_used_environment(name: str) -> None:
    """A fresh environment and one that has played before play the same episode: evaluation can be repeated."""
    if get_task(name).extra and importlib.util.find_spec("gymnasium_robotics") is None:
        pytest.skip("gymnasium-robotics is not installed")
    fresh, used = make_environment(get_task(name)), make_environment(get_task(name))
    used.reset(seed=1)
    action = np.full(fresh.action_space.shape or (), 0.3, np.float32)
    for _ in range(3):
        used.step(-action)
    observations = fresh.reset(seed=2)[0], used.reset(seed=2)[0]
    for _ in range(4):
        np.testing.assert_array_equal(*observations)
        observations = fresh.step(action)[0], used.step(action)[0]
    fresh.close()
    used.close()
