"""Maze2D as D4RL evaluates in it: a point that is pushed through a maze, paid while it is near a fixed goal.

Gymnasium-Robotics' PointMaze has the same point and walls (tests/test_environments.py compares the two) but another
frame, other starts and goals, radius 0.45, and a dictionary to observe; it is not needed here. The
paper (arXiv 2004.07219) gives horizons and reference returns only; frame, starts and goals are those of the D4RL
package:

- Positions are (row, column) of a cell. The particle's frame is 0.2 off: cell (1, 1) is observed as (0.8, 0.8) at its
  centre, and "at (1, 1)" means 0.2 beyond it. The data have that, too.
- Starts: any open cell, +-0.1 on both positions, 0.1 N(0, 1) on both velocities.
- The goal is the same point in every episode: `reset_target` is off in every registered task.
- Reward of the state after the action: 1 within 0.5 of the goal, or exp(-distance) where it is dense. (The data pay
  for the state before the action.) No episode ends before its time limit.
"""

import functools
from typing import Any

import gymnasium
import mujoco as mujoco_bindings
import numpy as np

from tether.environments.mazes import cells, layout
from tether.errors import unknown

mujoco: Any = mujoco_bindings  # C bindings, which type checkers do not see

__all__ = ["PointMaze"]

LARGEST_SPEED = 5.0  # per axis, before each step
GOAL_RADIUS = 0.5
GOALS = {
    "open": (2, 3),
    "umaze": (1, 1),
    "medium": (6, 6),
    "large": (7, 9),
    "eval-umaze": (1, 3),
    "eval-medium": (1, 6),
    "eval-large": (1, 9),
}
REWARDS = ("sparse", "dense")


@functools.cache
def _model(maze: str) -> Any:
    """Compiled once: nothing changes it, so all environments of a maze share it."""
    walls = (
        f'<geom type="box" pos="{i + 1} {j + 1} 0" size="0.5 0.5 0.2"/>' for i, j in cells(layout(maze, GOALS), "#")
    )
    xml = f"""
<mujoco>
  <compiler angle="radian" inertiafromgeom="true"/>
  <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
  <default>
    <joint type="slide" damping="1" limited="false"/>
    <geom friction="0.5 0.1 0.1" density="1000" margin="0.002" condim="1" contype="2" conaffinity="1"/>
    <motor ctrllimited="true" ctrlrange="-1 1" gear="100"/>
  </default>
  <worldbody>
    {"".join(walls)}
    <body pos="1.2 1.2 0">
      <joint name="row" axis="1 0 0"/>
      <joint name="column" axis="0 1 0"/>
      <geom type="sphere" size="0.1" contype="1"/>
    </body>
  </worldbody>
  <actuator><motor joint="row"/><motor joint="column"/></actuator>
</mujoco>"""
    return mujoco.MjModel.from_xml_string(xml)


class PointMaze(gymnasium.Env):
    """Observes two positions and two velocities; acts by two forces."""

    metadata = {"render_modes": []}  # noqa: RUF012  (gymnasium's own attribute)

    def __init__(self, maze: str = "umaze", reward: str = "sparse") -> None:
        """maze: a key of `GOALS`; reward: sparse or dense."""
        if reward not in REWARDS:
            raise unknown("reward", reward, REWARDS)
        self.model = _model(maze)
        self.maze = maze
        self.data = mujoco.MjData(self.model)
        self.starts = np.array([*cells(layout(maze, GOALS), ".")], np.float64)
        self.goal = np.array(GOALS[maze], np.float64)
        self.dense = reward == "dense"
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """The point in one of the open cells; `options={"start": (row, column)}` names it."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        drawn = self.starts[self.np_random.integers(len(self.starts))]
        start = np.array((options or {}).get("start", drawn), np.float64)
        self.data.qpos[:] = start + self.np_random.uniform(-0.1, 0.1, 2)
        self.data.qvel[:] = 0.1 * self.np_random.standard_normal(2)
        mujoco.mj_forward(self.model, self.data)
        return self._observation(), {"goal": self.goal.copy()}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """`action`: fractions of the largest force, clipped to [-1, 1]."""
        self.data.qvel[:] = np.clip(self.data.qvel, -LARGEST_SPEED, LARGEST_SPEED)
        self.data.ctrl[:] = np.clip(action, -1.0, 1.0)
        mujoco.mj_step(self.model, self.data)
        distance = float(np.linalg.norm(self.data.qpos - self.goal))
        reached = distance <= GOAL_RADIUS
        reward = float(np.exp(-distance)) if self.dense else float(reached)
        return self._observation(), reward, False, False, {"success": reached}

    def _observation(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])
