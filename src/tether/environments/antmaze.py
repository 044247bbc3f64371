"""AntMaze as D4RL evaluates in it: its own ant, walls and goals (arXiv 2004.07219).

Gymnasium's and Gymnasium-Robotics' ants differ in torque (30 here) and time step (0.1 s here), so D4RL's policies do
not carry over to them. Where this differs from the specification or from D4RL:

1. Reset pose. The specification has height 0.55 and ankles at +-1 rad, the `init_qpos` that D4RL's model file
   carries as a custom number. Neither MuJoCo nor gym reads that number (gymnasium's own ant carries the same one and
   also starts at 0.75): episodes start from the compiled model's pose, height 0.75 with straight joints.
2. Contacts. The specification leaves out that D4RL's model file sets solref = 0.02 1 and solimp = 0.8 0.8 0.01.
3. Goals are drawn by the environment's own generator, so that `reset(seed=...)` repeats them; D4RL draws them by
   NumPy's global one. They are drawn at each reset, as in v2 (v0 kept the first goal for the whole run).
"""

import functools
from typing import Any

import gymnasium
import mujoco as mujoco_bindings
import numpy as np

from tether.environments.mazes import cells, layout

mujoco: Any = mujoco_bindings  # C bindings, which type checkers do not see

__all__ = ["AntMaze"]

TORQUE = 30.0
STEPS_PER_ACTION = 5
CELL = 4.0
GOAL_RADIUS = 0.5
GOAL_CELLS = {"umaze": (3, 1), "medium": (6, 6), "large": (7, 9)}
START_CELL = (1, 1)

LEGS = (  # name, the two signs of its diagonal, axis of the ankle, range of the ankle in degrees
    ("1", (1, 1), "-1 1 0", "30 70"),
    ("2", (-1, 1), "1 1 0", "-70 -30"),
    ("3", (-1, -1), "-1 1 0", "-70 -30"),
    ("4", (1, -1), "1 1 0", "30 70"),
)
MOTOR_ORDER = ("4", "1", "2", "3")


def _position(cell: tuple[int, int]) -> tuple[float, float]:
    """xy of a cell's centre: the start cell is the origin, x grows with the column and y with the row."""
    row, column = cell
    return CELL * (column - START_CELL[1]), CELL * (row - START_CELL[0])


def _leg(name: str, sign: tuple[int, int], axis: str, ankle_range: str) -> str:
    x, y = sign
    reach, foot = f"{0.2 * x} {0.2 * y} 0", f"{0.4 * x} {0.4 * y} 0"
    return f"""
      <body>
        <geom type="capsule" size="0.08" fromto="0 0 0 {reach}"/>
        <body pos="{reach}">
          <joint name="hip_{name}" axis="0 0 1" range="-30 30"/>
          <geom type="capsule" size="0.08" fromto="0 0 0 {reach}"/>
          <body pos="{reach}">
            <joint name="ankle_{name}" axis="{axis}" range="{ankle_range}"/>
            <geom type="capsule" size="0.08" fromto="0 0 0 {foot}"/>
          </body>
        </body>
      </body>"""


def _wall(cell: tuple[int, int]) -> str:
    x, y = _position(cell)
    return f'<geom type="box" pos="{x} {y} {CELL / 4}" size="{CELL / 2} {CELL / 2} {CELL / 4}" conaffinity="1"/>'


def _model_xml(maze: str) -> str:
    """The ant in its maze, as MJCF. The ant collides with floor and walls, not with itself (conaffinity)."""
    motors = (f'<motor joint="{joint}_{leg}"/>' for leg in MOTOR_ORDER for joint in ("hip", "ankle"))
    return f"""
<mujoco>
  <compiler angle="degree" inertiafromgeom="true"/>
  <option timestep="0.02" integrator="RK4"/>
  <default>
    <joint limited="true" armature="1" damping="1"/>
    <geom conaffinity="0" margin="0.01" friction="1 0.5 0.5" solref="0.02 1" solimp="0.8 0.8 0.01" density="5"/>
    <motor ctrllimited="true" ctrlrange="-{TORQUE} {TORQUE}"/>
  </default>
  <worldbody>
    <geom name="floor" type="plane" size="40 40 40" conaffinity="1"/>
    {"".join(_wall(cell) for cell in cells(layout(maze, GOAL_CELLS), "#"))}
    <body name="torso" pos="0 0 0.75">
      <freejoint/>
      <geom type="sphere" size="0.25"/>{"".join(_leg(*leg) for leg in LEGS)}
    </body>
  </worldbody>
  <actuator>{"".join(motors)}</actuator>
</mujoco>"""


@functools.cache
def _model(maze: str) -> Any:
    """Compiled once: nothing changes it, so all environments of a maze share it."""
    return mujoco.MjModel.from_xml_string(_model_xml(maze))


class AntMaze(gymnasium.Env):
    """Observes 15 positions (xy first) and 14 velocities; reaching the goal, which is not observed, pays 1 and ends.

    Falling over does not end an episode; a time limit is up to the caller (umaze 700, medium and large 1000).
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (gymnasium's own attribute)

    def __init__(self, maze: str = "umaze") -> None:
        """maze: umaze, medium or large."""
        self.model = _model(maze)
        self.data = mujoco.MjData(self.model)
        self.goal = np.zeros(2)
        self.goal_cell = GOAL_CELLS[maze]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (8,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """The ant near the start cell's centre, and another goal; `options={"goal": (x, y)}` fixes it."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] += self.np_random.uniform(-0.1, 0.1, self.model.nq)
        self.data.qvel[:] = 0.1 * self.np_random.standard_normal(self.model.nv)
        mujoco.mj_forward(self.model, self.data)
        drawn = np.array(_position(self.goal_cell))
        drawn = np.maximum(drawn + self.np_random.uniform(0.0, 1.0, 2) + self.np_random.uniform(0.0, 0.5, 2), 0.0)
        self.goal = np.array((options or {}).get("goal", drawn), np.float64)
        return self._observation(), {"goal": self.goal.copy()}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """`action`: fractions of the largest torque, clipped to [-1, 1]."""
        self.data.ctrl[:] = TORQUE * np.clip(action, -1.0, 1.0)
        mujoco.mj_step(self.model, self.data, STEPS_PER_ACTION)
        reached = bool(np.linalg.norm(self.data.qpos[:2] - self.goal) <= GOAL_RADIUS)
        return self._observation(), float(reached), reached, False, {"success": reached}

    def _observation(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])
