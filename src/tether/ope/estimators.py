"""Model-free estimates of a policy's value from logs with propensities: importance sampling and doubly robust.

Definitions: Precup, Sutton and Singh 2000; Jiang and Li 2016 (arXiv 1511.03722); Thomas and Brunskill 2016
(arXiv 1604.00923). rho_t = pi(a_t|s_t) / mu(a_t|s_t), w_t = product of rho up to and with t.

    per decision        V = mean_i sum_t gamma^t w_it r_it
    weighted            with w_it / sum_i w_it in the place of w_it / episodes
    doubly robust       V = mean_i sum_t gamma^t ( w_it (r_it - q_it) + w_i,t-1 v_it )

Decisions of one step are episodes of length 1.
"""

from typing import NamedTuple

import numpy as np

from tether.errors import InputError
from tether.types import Bool, Float

__all__ = ["Estimate", "doubly_robust", "importance_sampling"]


class Estimate(NamedTuple):
    """A value, and how far the weights let it be trusted."""

    value: float  # discounted return from the first states of the episodes
    contributions: Float[np.ndarray, " episodes"]  # whose sum is `value`: for intervals over episodes
    effective_episodes: float  # (sum w)^2 / sum w^2 at the last step that any episode has


def importance_sampling(
    ratio: Float[np.ndarray, "episodes steps"],
    reward: Float[np.ndarray, "episodes steps"],
    valid: Bool[np.ndarray, "episodes steps"],
    discount: float = 1.0,
    *,
    weighted: bool = True,
) -> Estimate:
    """Per-decision importance sampling; weighted: self-normalised at each step, biased but bounded by the rewards.

    ratio: pi(a|s) / mu(a|s) of each step. valid: steps that are there; the rest of a shorter episode is padding.
    Raises InputError for ratios that are negative or not finite.
    """
    weights, shares = _weights(ratio, valid, weighted)
    gains = discount ** np.arange(reward.shape[1]) * np.where(valid, reward, 0.0)
    contributions = np.sum(shares * gains, axis=1)
    return Estimate(float(contributions.sum()), contributions, _effective(weights))


def doubly_robust(
    ratio: Float[np.ndarray, "episodes steps"],
    reward: Float[np.ndarray, "episodes steps"],
    valid: Bool[np.ndarray, "episodes steps"],
    q: Float[np.ndarray, "episodes steps"],
    v: Float[np.ndarray, "episodes steps"],
    discount: float = 1.0,
    *,
    weighted: bool = True,
) -> Estimate:
    """Doubly robust: right where either the ratios or the model (q of the logged action, v of the policy) are.

    q: Q(s, a) of the logged actions; v: E_{a ~ pi}[Q(s, a)]; both of each step. Otherwise as `importance_sampling`.
    """
    weights, shares = _weights(ratio, valid, weighted)
    first = np.full((len(ratio), 1), 1.0 / len(ratio))
    before = np.concatenate([first, shares[:, :-1]], axis=1)
    powers = discount ** np.arange(reward.shape[1])
    terms = np.where(valid, shares * (reward - q) + before * v, 0.0)
    contributions = np.sum(powers * terms, axis=1)
    return Estimate(float(contributions.sum()), contributions, _effective(weights))


def _weights(ratio: np.ndarray, valid: np.ndarray, weighted: bool) -> tuple[np.ndarray, np.ndarray]:
    """(w_t, what w_t is divided by to be a share), both (episodes, steps); an episode that is over keeps its weight."""
    if not np.isfinite(ratio).all() or (ratio < 0).any():
        raise InputError("importance ratios: each must be a finite number of at least 0")
    weights = np.cumprod(np.where(valid, ratio, 1.0), axis=1)
    if not weighted:
        return weights, weights / len(weights)
    total = weights.sum(axis=0)
    return weights, np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def _effective(weights: np.ndarray) -> float:
    last = weights[:, -1]
    squares = float(np.sum(last**2))
    return float(np.sum(last)) ** 2 / squares if squares > 0 else 0.0
