"""Model-free estimates of a policy's value from logs with propensities: importance sampling and doubly robust.

Definitions: Precup, Sutton and Singh 2000; Jiang and Li 2016 (arXiv 1511.03722); Thomas and Brunskill 2016
(arXiv 1604.00923). rho_t = pi(a_t|s_t) / mu(a_t|s_t), w_t = product of rho up to and with t.

    per decision        V = mean_i sum_t gamma^t w_it r_it
    weighted            with w_it / sum_i w_it in the place of w_it / episodes
    doubly robust       V = mean_i sum_t gamma^t ( w_it (r_it - q_it) + w_i,t-1 v_it )

Decisions of one step are episodes of length 1. The logs of ratios are added, and shares made of these: products over
long episodes overflow.
"""

import math
from typing import NamedTuple

import numpy as np

from tether.errors import InputError
from tether.types import Float

__all__ = ["Estimate", "doubly_robust", "importance_sampling"]


class Estimate(NamedTuple):
    """A value, and how far the weights let it be trusted."""

    value: float  # discounted return from the first states of the episodes
    contributions: Float[np.ndarray, " episodes"]  # whose sum is `value`
    effective_episodes: float  # (sum w)^2 / sum w^2 at the last step that any episode has
    standard_error: float  # over episodes, of weighted estimates to first order; infinite where there is one episode


def importance_sampling(
    ratio: np.ndarray,
    reward: np.ndarray,
    valid: np.ndarray,
    discount: float = 1.0,
    *,
    weighted: bool = True,
) -> Estimate:
    """Per-decision importance sampling; weighted: self-normalised at each step, biased but bounded by the rewards.

    ratio: pi(a|s) / mu(a|s) of each step. valid: flags of the steps that are there; the rest of a shorter episode is
    padding, in which anything may stand. All arrays are (episodes, steps).
    Raises InputError for arrays of other shapes, gaps between the steps of an episode, ratios that are negative,
    numbers that are not finite, and a discount outside of [0, 1].
    """
    ratio, reward = _checked(valid, discount, ratio=ratio, reward=reward)
    logs, shares = _weights(ratio, weighted)
    return _estimate(((shares, reward),), logs, discount, weighted)


def doubly_robust(
    ratio: np.ndarray,
    reward: np.ndarray,
    valid: np.ndarray,
    q: np.ndarray,
    v: np.ndarray,
    discount: float = 1.0,
    *,
    weighted: bool = True,
) -> Estimate:
    """Doubly robust: right where either the ratios or the model (q of the logged action, v of the policy) are.

    q: Q(s, a) of the logged actions; v: E_{a ~ pi}[Q(s, a)]; both of each step. Otherwise as `importance_sampling`.
    """
    ratio, reward, q, v = _checked(valid, discount, ratio=ratio, reward=reward, q=q, v=v)
    logs, shares = _weights(ratio, weighted)
    before = np.concatenate([np.full((len(ratio), 1), 1.0 / len(ratio)), shares[:, :-1]], axis=1)
    return _estimate(((shares, reward - q), (before, v)), logs, discount, weighted)


# Not annotated by shape: a checker would refuse a wrong one before this can say what is wrong.
def _checked(valid: np.ndarray, discount: float, **numbers: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each of `numbers` in float64, 0 where no step is; ratios 1."""
    valid = np.asarray(valid)
    if valid.dtype != np.bool_ or valid.ndim != 2 or 0 in valid.shape:
        raise InputError(f"valid: {valid.dtype} of shape {valid.shape}; flags of shape (episodes, steps) are needed")
    if not valid[:, 0].all() or (valid[:, 1:] & ~valid[:, :-1]).any():
        raise InputError("valid: the steps of an episode follow each other from the first on, padding comes last")
    if not 0 <= discount <= 1:
        raise InputError(f"discount {discount}: must be at least 0 and at most 1")
    found = []
    for name, array in numbers.items():
        if np.shape(array) != valid.shape:
            raise InputError(f"{name}: of shape {np.shape(array)}; that of valid is {valid.shape}")
        array = np.where(valid, np.asarray(array, np.float64), name == "ratio")
        if not np.isfinite(array).all() or (name == "ratio" and (array < 0).any()):
            kind = "importance ratios: each must be a finite number of at least 0"
            raise InputError(kind if name == "ratio" else f"{name}: holds numbers that are not finite")
        found.append(array)
    return tuple(found)


def _weights(ratio: np.ndarray, weighted: bool) -> tuple[np.ndarray, np.ndarray]:
    """(log w_t, the shares that weights are of), both (episodes, steps); an episode that is over keeps its weight."""
    with np.errstate(divide="ignore"):
        logs = np.cumsum(np.log(ratio), axis=1)
    if not weighted:
        return logs, np.exp(logs) / len(logs)
    weights = _scaled(logs)
    total = weights.sum(axis=0)
    return logs, np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def _scaled(logs: np.ndarray) -> np.ndarray:
    """Weights of episodes beside the largest of each step, which is 1, if any is above 0."""
    largest = logs.max(axis=0)
    return np.exp(logs - np.where(np.isfinite(largest), largest, 0.0))


def _estimate(
    parts: tuple[tuple[np.ndarray, np.ndarray], ...], logs: np.ndarray, discount: float, weighted: bool
) -> Estimate:
    """parts: (shares, gains), both (episodes, steps), whose products are added up."""
    powers = discount ** np.arange(logs.shape[1])
    contributions = sum(shares * gains for shares, gains in parts) @ powers
    value, count = float(contributions.sum()), len(logs)
    if weighted:  # an episode also moves the sum that the others are shares of
        pulls = sum(shares * (gains - np.sum(shares * gains, axis=0)) for shares, gains in parts) @ powers
    else:
        pulls = contributions - value / count
    error = math.sqrt(float(np.sum(pulls**2)) * count / (count - 1)) if count > 1 else math.inf
    last = _scaled(logs[:, -1:])[:, 0]
    squares = float(np.sum(last**2))
    return Estimate(value, contributions, float(np.sum(last)) ** 2 / squares if squares > 0 else 0.0, error)
