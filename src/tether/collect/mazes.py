"""Maze2D's data as D4RL made them: a planner walks from sub-goal to sub-goal, in one stream.

As in D4RL's sets (arXiv 2004.07219): time-outs mark that a sub-goal was reached, nothing is terminal, and
a row's reward is that of its own observation, not of the next one. The planner is ours: the shortest way through open
cells, a spring and a damper towards the next cell's centre, and noise on the forces. Deviation: after BLOCK_ROWS rows
the point is put somewhere else, so that collection can be resumed exactly; D4RL's stream is never interrupted.
"""

from collections import deque
from typing import Any

import gymnasium
import numpy as np

from tether.collect.rows import Columns, Recorder
from tether.environments.mazes import cells, layout
from tether.environments.pointmaze import GOAL_RADIUS, GOALS

__all__ = ["BLOCK_ROWS", "MAZE_ID", "Planner", "cell_of", "play_stream", "shortest_way"]

MAZE_ID = "tether/PointMaze-v0"
BLOCK_ROWS = 10_000
FRAME = 0.2  # a cell's centre is observed this much below its numbers (environments/pointmaze.py)
STIFFNESS, DAMPING = 10.0, 1.0  # force per cell of distance and per unit of speed; saturates at 1
NOISE = 0.5  # standard deviation of what is added to each force
WAYPOINT_RADIUS = 0.25  # so near to a cell's centre the next one is aimed at
SUBGOAL_RADIUS = 0.1
SUBGOAL_SPREAD = 0.1  # sub-goals are a cell's numbers and +- this

Cell = tuple[int, int]


def cell_of(position: np.ndarray) -> Cell:
    """The cell that a position lies in."""
    row, column = np.floor(np.asarray(position, np.float64) + FRAME + 0.5).astype(int).tolist()
    return row, column


def shortest_way(rows: tuple[str, ...], start: Cell, goal: Cell) -> list[Cell]:
    """Open cells from `start` to `goal`, both included, each beside the one before; [] where there is no way."""
    came_from: dict[Cell, Cell] = {goal: goal}  # sought from the goal, so that following it leads there
    queue = deque([goal])
    while queue and start not in came_from:
        row, column = queue.popleft()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if rows[cell[0]][cell[1]] == "." and cell not in came_from:
                came_from[cell] = (row, column)
                queue.append(cell)
    if start not in came_from:
        return []
    way = [start]
    while way[-1] != goal:
        way.append(came_from[way[-1]])
    return way


class Planner:
    """Walks through a maze to sub-goals that it draws itself."""

    def __init__(self, maze: str, random: np.random.Generator):
        self.rows = layout(maze, GOALS)
        self.open = [*cells(self.rows, ".")]
        self.random = random
        self.goal = np.zeros(2)
        self.way: list[Cell] = []  # from the cell where it was planned to the sub-goal's
        self.aim = 0  # which cell of it is aimed at

    def draw_goal(self) -> None:
        """A new sub-goal in any open cell."""
        cell = self.open[self.random.integers(len(self.open))]
        self.goal = np.asarray(cell, np.float64) + self.random.uniform(-SUBGOAL_SPREAD, SUBGOAL_SPREAD, 2)
        self.way = []

    def reached(self, observation: np.ndarray) -> bool:
        """Whether the point is at the sub-goal."""
        return bool(np.linalg.norm(observation[:2] - self.goal) <= SUBGOAL_RADIUS)

    def action(self, observation: np.ndarray, noise: float = NOISE) -> np.ndarray:
        """Forces in [-1, 1] towards the sub-goal."""
        position, speed = observation[:2], observation[2:]
        here, end = cell_of(position), cell_of(self.goal)
        if here not in self.way:  # at the start, or pushed off the way
            self.way, self.aim = shortest_way(self.rows, here, end) or [here, end], 0
        last = len(self.way) - 1
        while self.aim < last and np.linalg.norm(position - self._centre(self.way[self.aim])) < WAYPOINT_RADIUS:
            self.aim += 1
        target = self.goal if self.aim == last else self._centre(self.way[self.aim])
        force = STIFFNESS * (target - position) - DAMPING * speed
        return np.clip(force + noise * self.random.standard_normal(2), -1.0, 1.0).astype(np.float32)

    def _centre(self, cell: Cell) -> np.ndarray:
        return np.asarray(cell, np.float64) - FRAME


def play_stream(environment: gymnasium.Env, random: np.random.Generator) -> Columns:
    """BLOCK_ROWS rows in a maze, on the way from one sub-goal to the next."""
    maze: Any = environment.unwrapped
    planner, recorder = Planner(maze.maze, random), Recorder()
    observation, _ = maze.reset(seed=int(random.integers(2**31)))
    planner.draw_goal()
    for _ in range(BLOCK_ROWS):
        action = planner.action(observation)
        recorder.add(maze, observation, action)
        recorder.rows[-1]["infos/goal"] = planner.goal.astype(np.float32)
        distance = float(np.linalg.norm(observation[:2] - maze.goal))
        reward = np.exp(-distance) if maze.dense else float(distance <= GOAL_RADIUS)
        observation, _, _, _, _ = maze.step(action)
        reached = planner.reached(observation)
        recorder.finish(observation, reward, terminated=False, truncated=reached, info={})
        if reached:
            planner.draw_goal()
    recorder.rows[-1]["timeouts"] = True
    return recorder.columns()
