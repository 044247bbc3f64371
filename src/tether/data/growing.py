"""An episode that is being lived through, whose steps become rows to train on as soon as they are complete.

The rows are made by the code that makes those of a data set (`transforms.py: Change`), so framing, transforms and views
mean the same for new episodes as for old ones.
"""

from typing import Any

import numpy as np

from tether.data.dataset import Dataset
from tether.data.source import Source
from tether.data.transforms import Change
from tether.errors import InputError
from tether.types import Float

__all__ = ["GrowingEpisode"]

Step = tuple[np.ndarray, np.ndarray, float, np.ndarray, bool]
"""(observation, action in [-1, 1], reward, next observation, whether the task truly ended)."""


class GrowingEpisode:
    """Steps of one episode, and how far they have become rows.

    A row of the view "transitions" is complete when what its decision reaches has been seen: the next observation, or
    the n steps of a return or a chunk. Other views look further (next actions, returns to go), so their rows are made
    when the episode is over.
    """

    def __init__(self, change: Change, rows_done: int = 0):
        """rows_done: rows of its first steps were made before."""
        self._change = change
        self.rows_done = rows_done
        self._steps: list[Step] = []  # from number `_first` on: none before are needed
        self._first = 0

    def add(
        self,
        observation: Float[np.ndarray, " observation"],
        action: Float[np.ndarray, " action"],
        reward: float,
        next_observation: Float[np.ndarray, " observation"],
        terminal: bool,
    ) -> None:
        """One more step; `action` in [-1, 1], the rest as the environment gave it."""
        self._steps.append((observation, action, reward, next_observation, terminal))

    def new_rows(self, over: bool) -> Any:
        """The rows that have become complete since the last call, in the order of their steps, as the view's columns;
        None where none has. over: no step will follow."""
        if not self._steps or not (over or self._change.view.name == "transitions"):
            return None
        try:
            rows, begins = self._change.rows_of(self._dataset(over))
        except InputError:  # too short for a single row, so far or for good
            return None
        begins = begins + self._first
        order = np.argsort(begins, kind="stable")
        order = order[begins[order] >= self.rows_done]
        if not len(order):
            return None
        self.rows_done = int(begins[order[-1]]) + 1
        self._forget()
        return type(rows)(*(None if column is None else np.asarray(column)[order] for column in rows))

    def _dataset(self, over: bool) -> Dataset:
        observations, actions, rewards, following, terminals = map(np.asarray, zip(*self._steps, strict=True))
        timeouts = np.zeros(len(terminals), bool)
        timeouts[-1] = over and not terminals[-1]
        return Dataset(
            name="episode",
            observations=observations,
            actions=actions,
            rewards=rewards,
            terminals=terminals,
            timeouts=timeouts,
            next_observations=following,
            source=Source.memory("episode"),
            exact_next_observations=True,
            continuous=True,
        )

    def _forget(self) -> None:
        """Drop steps that no later row looks at: those before the history of the next one."""
        keep = max(self.rows_done - (self._change.view.framing.history - 1), self._first)
        self._steps, self._first = self._steps[keep - self._first :], keep
