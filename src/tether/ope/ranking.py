"""From values of an ensemble to what can be said: intervals, how probably each candidate is the best, how sure a choice
is.

    V_c = mean_m v_mc,   v_mc = mean_e first_mce

Members have seen other samples of the episodes, so v_m spreads as the values of other logs would; few members know
their spread badly, so it is taken with Student's t. The first states are a sample, too. Both are drawn for all
candidates at once, because their errors are alike: what is uncertain of two values is less so of their difference.
"""

from typing import NamedTuple

import numpy as np

from tether.ope.fitted_q import Values
from tether.types import Float

__all__ = ["Ranking", "rank"]

DRAWS, CONFIDENCE = 4000, 0.9


class Ranking(NamedTuple):
    """Of each candidate, in the units of discounted returns."""

    value: Float[np.ndarray, " candidates"]
    low: Float[np.ndarray, " candidates"]  # of the 90 % interval
    high: Float[np.ndarray, " candidates"]
    spread: Float[np.ndarray, " candidates"]  # standard deviation over the ensemble: how far its members disagree
    draws: Float[np.ndarray, "draws candidates"]  # of the values that might be the true ones

    def best(self, among: np.ndarray) -> Float[np.ndarray, " candidates"]:
        """How probably each is the best of `among`, bool (candidates,); 0 for the others."""
        chosen = np.argmax(np.where(among, self.draws, -np.inf), axis=1)
        return np.bincount(chosen, minlength=len(self.value)) / len(self.draws)

    def above(self, one: int, other: int) -> float:
        """How probably one is worth more than another."""
        return float(np.mean(self.draws[:, one] > self.draws[:, other]))


def rank(values: Values, scale: float = 1.0, seed: int = 0, known: float | None = None) -> Ranking:
    """What the values of `fit_values`, times `scale`, say of the candidates.

    known: the true value of the last one, the log's own policy. By as much as it is missed each of the others may be
    wrong, too, beside what the ensemble knows.
    """
    first = values.first * scale
    members, candidates, episodes = first.shape
    random, own = np.random.default_rng(seed), first.mean(axis=2)
    value, states = own.mean(axis=0), first.mean(axis=0)
    draws = np.tile(value, (DRAWS, 1))
    if members > 1:
        student = random.normal(size=(DRAWS, members)) / np.sqrt(
            random.chisquare(members - 1, size=(DRAWS, 1)) / (members - 1)
        )
        draws += student @ (own - value) / np.sqrt(members - 1)
    if episodes > 1:
        draws += random.normal(size=(DRAWS, episodes)) @ (states - value[:, None]).T / episodes
    if known is not None:
        draws += (value[-1] - known) * random.normal(size=draws.shape)
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    spread = own.std(axis=0, ddof=1) if members > 1 else np.zeros(candidates)
    return Ranking(value, low, high, spread, draws)
