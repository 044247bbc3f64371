"""How much of what a policy does is what the log has seen done.

For a state of the log: the `NEIGHBOURS` rows of other episodes whose states lie nearest, and the distance from an
action to the nearest of theirs. The log's own decisions set the measure: one is off the support where that distance is
beyond what 99 of 100 of them have. Actions that differ by little are the same: a log of a few levels has no distances.
"""

import numpy as np

from tether.ope.evidence import Evidence, spread_of
from tether.types import Bool, Float, Int

__all__ = ["OWN_SHARE", "Support"]

OWN_SHARE = 0.01  # of the log's own decisions are off the support, by definition
NEIGHBOURS, MOST_ROWS, AT_ONCE = 20, 50_000, 100
SAME, LEAST, MOST = 0.1, 0.005, 0.05  # of an action's spread, and within these parts of its range's half


class Support:
    """What the log has seen done, near some of its states."""

    def __init__(self, evidence: Evidence, seed: int = 0):
        """Finds the neighbours of the states at `Evidence.places`."""
        random, rows, places = np.random.default_rng(seed), evidence.rows, evidence.places
        known = np.sort(random.permutation(len(evidence.episode))[:MOST_ROWS])
        observation, action = np.asarray(rows.observation), np.asarray(rows.action)
        std = action.std(axis=0)
        self._scale, self._same = std + 1e-3, np.clip(SAME * std, LEAST, MOST)
        spread = spread_of(observation)
        states, pool = observation[places] / spread, observation[known] / spread
        other = evidence.recording[places][:, None] != evidence.recording[known]
        other |= ~other.any(axis=1, keepdims=True) & (places[:, None] != known)  # a single episode
        self._near = action[known][_nearest(states, pool, other)]  # (states, neighbours, action)
        own = self._distance(action[places])
        self._limit = float(np.quantile(own, 1 - OWN_SHARE))

    def off(self, action: Float[np.ndarray, "states action"]) -> float:
        """The share of actions, one at each of these states, that are off the support."""
        return float(np.mean(self._distance(action) > self._limit))

    def _distance(self, action: np.ndarray) -> np.ndarray:
        apart = np.abs(action[:, None] - self._near)
        return ((np.where(apart > self._same, apart, 0.0) / self._scale) ** 2).sum(axis=2).min(axis=1)


def _nearest(
    states: Float[np.ndarray, "states observation"],
    pool: Float[np.ndarray, "known observation"],
    allowed: Bool[np.ndarray, "states known"],
) -> Int[np.ndarray, "states neighbours"]:
    """Rows of the pool; fewer where it is small."""
    count, lengths = min(NEIGHBOURS, pool.shape[0]), (pool**2).sum(axis=1)
    found = np.empty((len(states), count), np.int64)
    for start in range(0, len(states), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        distance = lengths - 2 * states[part] @ pool.T
        distance[~allowed[part]] = np.inf
        found[part] = np.argpartition(distance, count - 1, axis=1)[:, :count]
    return found
