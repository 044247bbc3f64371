"""One episode of an OGBench data set, played by the oracles of the `ogbench` package (arXiv 2410.20092).

The loop is ours; who acts in it, and in what world, is the package's. As published:

- play: an oracle lays a plan through key frames, with smooth noise, and follows it; when it is done the environment
  draws another thing to do. noisy: an oracle without memory, Gaussian noise on each action (of a size that is drawn
  for the episode; three times as much on the yaw, ten times on the gripper), and now and then a uniform action.
- The first action towards a new target is chosen by what was known before it was drawn.
- Scene: an episode in which the cube leaves the place where it can be seen is thrown away and another one is played.
- Mazes: the oracle's next cell, straight towards it, with noise. navigate: a new goal whenever one is reached; stitch:
  one goal, four cells away.
- An episode has `steps` observations; the last action leads nowhere and is there for the layout alone.

Deviation: every episode has a seed of its own, so that episodes can be played in any order and by several processes.
The oracles draw from NumPy's global generator, which is seeded for each episode and put back afterwards.
"""

import contextlib
import json
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import safetensors.numpy

from tether.collect.recipes import Recipe
from tether.collect.rows import Columns
from tether.environments.make import ignore_ogbench, silent_mujoco
from tether.machine.files import atomic_write_bytes

__all__ = ["Played", "close_by", "crossings", "episode_path", "open_world", "play", "write_episode"]

# Probability that a cube is put on another one, drawn for each episode between these two.
STACKING = {"single": (0.0, 0.0), "double": (0.0, 0.25), "triple": (0.05, 0.35), "quadruple": (0.1, 0.5)}
STACKING_ELSEWHERE = (0.5, 0.5)
NOISE_PROPORTIONS = np.array([1.0, 1.0, 1.0, 3.0, 10.0])  # x, y, z, yaw, gripper
STITCH_CELLS = 4
CUBE = slice(14, 17)  # where in scene's qpos the cube is
RIGHTMOST, LEFTMOST, DRAWER_HEIGHT = 0.29, -0.3, (0.06, 0.08)

Cell = tuple[int, int]


class Played(NamedTuple):
    """An episode."""

    columns: Columns  # observations, actions, terminals, qpos, qvel, button_states: (steps, ...) each
    report: dict[str, Any]  # attempts; targets: kind -> [finished, of which reached]


@contextlib.contextmanager
def open_world(recipe: Recipe) -> Iterator[gymnasium.Env]:
    """The environment of a recipe, ready to be recorded."""
    import ogbench  # noqa: F401  (registers its environments)

    how: dict[str, Any] = {"max_episode_steps": recipe.steps, "disable_env_checker": True, "terminate_at_goal": False}
    if not _is_maze(recipe):
        how["mode"] = "data_collection"
    with warnings.catch_warnings(), silent_mujoco():
        ignore_ogbench()
        warnings.simplefilter("ignore", DeprecationWarning)
        environment = gymnasium.make(recipe.environment, **how)
        with contextlib.closing(environment):
            yield environment


def play(environment: gymnasium.Env, recipe: Recipe, seed: int, episode: int) -> Played:
    """Episode number `episode` of the data set with this seed: the same in whatever process and order."""
    attempts, one = 0, _navigate if _is_maze(recipe) else _manipulate
    while True:
        numbers = np.random.SeedSequence([seed, episode, attempts]).generate_state(3).tolist()
        with _global_generator(numbers[0]):
            environment.action_space.seed(numbers[1])  # mazes shake themselves with it
            columns, targets = one(environment, recipe, numbers[1], np.random.default_rng(numbers[2]))
        attempts += 1
        if not recipe.environment.startswith("scene") or _cube_stays(columns["qpos"]):
            return Played(columns, {"attempts": attempts, "targets": targets})


def episode_path(folder: Path, episode: int) -> Path:
    """Where a finished episode is kept."""
    return folder / f"episode-{episode:06d}.safetensors"


def write_episode(folder: Path, environment: gymnasium.Env, recipe: Recipe, seed: int, episode: int) -> None:
    """Play an episode and put it, with its report, into the folder: whole or not at all. Raises OSError."""
    played = play(environment, recipe, seed, episode)
    data = safetensors.numpy.save(played.columns, metadata={"report": json.dumps(played.report)})
    atomic_write_bytes(episode_path(folder, episode), data)


def _is_maze(recipe: Recipe) -> bool:
    return recipe.kind in ("navigate", "stitch")


@contextlib.contextmanager
def _global_generator(seed: int) -> Iterator[None]:
    before = np.random.get_state()  # noqa: NPY002  (what the package's oracles draw from)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _cube_stays(qpos: np.ndarray) -> bool:
    """Whether scene's cube is always in sight: on the table, or on the left in the drawer."""
    _, y, z = qpos[:, CUBE].T
    lost = (y <= LEFTMOST) & ((z < DRAWER_HEIGHT[0]) | (z > DRAWER_HEIGHT[1]))
    return not ((y >= RIGHTMOST) | lost).any()


class _Rows:
    """The rows of an episode in OGBench's layout."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []

    def add(self, observation: np.ndarray, action: np.ndarray, over: bool, info: dict[str, Any]) -> None:
        """The state is the one before the action, as the observation is."""
        row = (observation, action, over, info["prev_qpos"], info["prev_qvel"], info.get("prev_button_states"))
        self.rows.append(row)

    def columns(self) -> Columns:
        observations, actions, terminals, qpos, qvel, buttons = zip(*self.rows, strict=True)
        numbers = {"observations": observations, "actions": actions, "qpos": qpos, "qvel": qvel}
        columns: Columns = {name: np.asarray(values, np.float32) for name, values in numbers.items()}
        columns["terminals"] = np.asarray(terminals, bool)
        if buttons[0] is not None:
            columns["button_states"] = np.asarray(buttons, np.int64)
        return columns


# --- arms ---------------------------------------------------------------------------------------------------


def _manipulate(
    environment: gymnasium.Env, recipe: Recipe, seed: int, random: np.random.Generator
) -> tuple[Columns, dict[str, list[int]]]:
    """One thing to do after the other, until the episode is over."""
    world: Any = environment.unwrapped
    rows, over, oracles = _Rows(), False, _oracles(environment, recipe)
    observation, info = environment.reset(seed=seed)
    stacking = random.uniform(*STACKING.get(_size(recipe), STACKING_ELSEWHERE))
    noise = random.uniform(0.0, recipe.noise) * NOISE_PROPORTIONS if recipe.kind == "noisy" else None
    target = info["privileged/target_task"]
    targets = {kind: [0, 0] for kind in oracles}
    oracles[target].reset(observation, info)
    while not over:
        if random.random() < recipe.random_actions:
            action = random.uniform(-1.0, 1.0, 5)
        else:
            action = np.array(oracles[target].select_action(observation, info))
            if noise is not None:
                action += random.normal(0.0, noise)
        action = np.clip(action, -1.0, 1.0)
        next_observation, _, terminated, truncated, info = environment.step(action)
        over = terminated or truncated
        if oracles[target].done:
            targets[target][0] += 1
            targets[target][1] += bool(info["success"])
            seen, known = world.set_new_target(p_stack=stacking)
            target = known["privileged/target_task"]
            oracles[target].reset(seen, known)
        rows.add(observation, action, over, info)
        observation = next_observation
    return rows.columns(), targets


def _size(recipe: Recipe) -> str:
    """single, double, ... of cubes; whatever comes second elsewhere."""
    return recipe.environment.split("-")[1]


def _oracles(environment: gymnasium.Env, recipe: Recipe) -> dict[str, Any]:
    """Who can do what in this world."""
    world = recipe.environment.split("-")[0]
    closed = {"gripper_always_closed": True} if world == "puzzle" else {}
    if recipe.kind == "play":
        from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

        how = {"env": environment, "noise": recipe.noise, "noise_smoothing": recipe.noise_smoothing}
        made = {
            "cube": lambda: cube_plan.CubePlanOracle(**how),
            "button": lambda: button_plan.ButtonPlanOracle(**how, **closed),
            "drawer": lambda: drawer_plan.DrawerPlanOracle(**how),
            "window": lambda: window_plan.WindowPlanOracle(**how),
        }
    else:
        from ogbench.manipspace.oracles.markov import button_markov, cube_markov, drawer_markov, window_markov

        how = {"env": environment, "min_norm": recipe.least_move}
        made = {
            "cube": lambda: cube_markov.CubeMarkovOracle(**how, max_step=100 if world == "scene" else 200),
            "button": lambda: button_markov.ButtonMarkovOracle(**how, **closed),
            "drawer": lambda: drawer_markov.DrawerMarkovOracle(**how),
            "window": lambda: window_markov.WindowMarkovOracle(**how),
        }
    kinds = {"cube": ("cube",), "puzzle": ("button",), "scene": ("cube", "button", "drawer", "window")}[world]
    return {kind: made[kind]() for kind in kinds}


# --- mazes --------------------------------------------------------------------------------------------------


def _navigate(
    environment: gymnasium.Env, recipe: Recipe, seed: int, random: np.random.Generator
) -> tuple[Columns, dict[str, list[int]]]:
    """From any cell to a crossing, and on to the next; or to a cell nearby."""
    world: Any = environment.unwrapped
    walls = np.asarray(world.maze_map)
    open_cells, meeting = _cells(walls), crossings(walls)
    start = open_cells[random.integers(len(open_cells))]
    goals = close_by(walls, start) if recipe.kind == "stitch" else meeting
    goal = goals[random.integers(len(goals))]
    observation, _ = environment.reset(seed=seed, options={"task_info": {"init_ij": start, "goal_ij": goal}})
    rows, over, targets = _Rows(), False, {"goal": [0, 0]}
    while not over:
        here = world.get_xy()
        way = world.get_oracle_subgoal(here, world.cur_goal_xy)[0] - here
        way = way / (np.linalg.norm(way) + 1e-6)
        action = np.clip(way + random.normal(0.0, recipe.noise, 2), -1.0, 1.0)
        next_observation, _, terminated, truncated, info = environment.step(action)
        over = terminated or truncated
        if info["success"] and (recipe.kind == "navigate" or not targets["goal"][1]):
            targets["goal"] = [targets["goal"][0] + 1, targets["goal"][1] + 1]
        if info["success"] and recipe.kind == "navigate":
            goal = meeting[random.integers(len(meeting))]
            place = world.ij_to_xy(goal)
            world.set_goal(goal_xy=world.add_noise(place) if world._add_noise_to_goal else place)
        rows.add(observation, action, over, info)
        observation = next_observation
    if recipe.kind == "stitch":
        targets["goal"][0] = 1
    return rows.columns(), targets


def _cells(walls: np.ndarray) -> list[Cell]:
    return [(int(i), int(j)) for i, j in np.argwhere(walls == 0)]


def crossings(walls: np.ndarray) -> list[Cell]:
    """Open cells of a maze (0: open) that are no part of a straight corridor."""

    def is_corridor(i: int, j: int) -> bool:
        up, down, left, right = walls[i - 1, j], walls[i + 1, j], walls[i, j - 1], walls[i, j + 1]
        return (up, down, left, right) in ((0, 0, 1, 1), (1, 1, 0, 0))

    return [cell for cell in _cells(walls) if not is_corridor(*cell)]


def close_by(walls: np.ndarray, start: Cell) -> list[Cell]:
    """Open cells that are STITCH_CELLS steps from `start`; `start` itself where there is none."""
    steps, queue = {start: 0}, deque([start])
    while queue:
        i, j = queue.popleft()
        for cell in ((i - 1, j), (i, j - 1), (i + 1, j), (i, j + 1)):
            if walls[cell] == 0 and cell not in steps:
                steps[cell] = steps[i, j] + 1
                queue.append(cell)
    return [cell for cell, count in steps.items() if count == STITCH_CELLS] or [start]
