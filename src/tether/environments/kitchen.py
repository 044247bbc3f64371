"""The kitchen as D4RL evaluates in it, on Gymnasium-Robotics' FrankaKitchen-v1 (arXiv 2004.07219).

- Observations are D4RL's 60 numbers: 9 joint positions, 21 object positions, 30 goal entries that are zero except for
  the four tasks' elements. FrankaKitchen has 59 others and the goals in a dictionary.
- Sensor noise is D4RL's: uniform, a tenth of what the robot's configuration states. FrankaKitchen's is a hundredth
  for the robot and less than a thousandth for objects, whose entries are shifted by one besides.
- Each task pays 1 once, when its elements, as observed with noise, come within 0.3 of the goal (D4RL looks at the
  noisy numbers, FrankaKitchen at the exact ones); the episode ends after all four. The horizon is 280 steps.

The model is FrankaKitchen's, so this is an approximation of D4RL's kitchen still.
"""

import functools
from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco as mujoco_bindings
import numpy as np

from tether.environments.robotics import make_robotics
from tether.errors import unknown

mujoco: Any = mujoco_bindings  # C bindings, which type checkers do not see

__all__ = ["GOALS", "Kitchen", "make_kitchen"]

GOALS: dict[str, tuple[int, tuple[float, ...]]] = {  # task -> first place among the 30 positions, values there
    "bottom burner": (11, (-0.88, -0.01)),
    "top burner": (15, (-0.92, -0.01)),
    "light switch": (17, (-0.69, -0.05)),
    "slide cabinet": (19, (0.37,)),
    "hinge cabinet": (20, (0.0, 1.45)),
    "microwave": (22, (-0.75,)),
    "kettle": (23, (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
}
THRESHOLD = 0.3
JOINTS, OBJECTS = slice(0, 9), slice(18, 39)  # where in FrankaKitchen's observation
NOISE_RATIO = 0.1
OBJECT_NOISE = np.array([0.005] * 2 + [0.0005] * 6 + [0.005] * 3 + [0.1] * 3 + [0.005] * 3 + [0.1] * 3 + [0.005])
"""Stated amplitudes of the 21 object positions (D4RL's franka_config.xml, qpos9 to qpos29); robot joints have 0.1."""


class Kitchen(gymnasium.Wrapper):
    """Acts by 9 joint velocities in [-1, 1]."""

    def __init__(self, tasks: Sequence[str]) -> None:
        """tasks: keys of `GOALS`."""
        for task in tasks:
            if task not in GOALS:
                raise unknown("kitchen task", task, GOALS)
        kitchen = _kitchen()
        super().__init__(kitchen)
        self.generator = lambda: kitchen.robot_env.np_random
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (60,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (9,), np.float32)
        self.elements = {task: slice(GOALS[task][0], GOALS[task][0] + len(GOALS[task][1])) for task in tasks}
        self.goal = np.zeros(30)
        for task, elements in self.elements.items():
            self.goal[elements] = GOALS[task][1]
        self.left = set(tasks)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """The robot before its kitchen, always in the same pose; no task is done."""
        observation, _ = self.env.reset(seed=seed)
        self.left = set(self.elements)
        return self._observed(observation), {"left": sorted(self.left)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; the reward is the number of tasks that are done for the first time."""
        observation, _, _, truncated, _ = self.env.step(action)
        observed = self._observed(observation)
        positions = observed[:30]
        done = {
            task
            for task in self.left
            if np.linalg.norm(positions[self.elements[task]] - self.goal[self.elements[task]]) < THRESHOLD
        }
        self.left -= done
        return observed, float(len(done)), not self.left, truncated, {"left": sorted(self.left)}

    def _observed(self, observation: dict[str, Any]) -> np.ndarray:
        """D4RL's 60 numbers. The joints come with their noise, since it also enters their control."""
        numbers = observation["observation"]
        noise = NOISE_RATIO * OBJECT_NOISE * self.generator().uniform(-1.0, 1.0, 21)
        return np.concatenate([numbers[JOINTS], numbers[OBJECTS] + noise, self.goal])


@functools.cache
def _compiled_kitchen() -> Any:
    """One kitchen, never stepped: its model takes a second to compile and 65 MB, so that all others share it."""
    options = {"terminate_on_tasks_completed": False, "remove_task_when_completed": False}
    noise = {"robot_noise_ratio": NOISE_RATIO, "object_noise_ratio": 0.0}  # that of objects is added here
    return make_robotics("FrankaKitchen-v1", **options, **noise)[1]


def _kitchen() -> Any:
    """A kitchen with a state of its own."""
    kitchen = _twin(_compiled_kitchen())
    robot = kitchen.robot_env = _twin(kitchen.robot_env)
    kitchen.data = robot.data = mujoco.MjData(robot.model)
    robot.init_qvel = np.zeros(robot.model.nv)  # else a view of the first one's velocities
    kitchen.step_task_completions, kitchen.episode_task_completions = [], []
    kitchen._np_random = robot._np_random = None  # drawn afresh if nobody seeds it
    return kitchen


def _twin(original: Any) -> Any:
    """A shallow copy; `copy.copy` would construct the kitchen anew (EzPickle)."""
    twin = object.__new__(type(original))
    twin.__dict__.update(original.__dict__)
    return twin


def make_kitchen(tasks: Sequence[str]) -> Kitchen:
    """`Kitchen`, for gymnasium."""
    return Kitchen(tasks)
