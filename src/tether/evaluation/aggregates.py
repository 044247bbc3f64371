"""Aggregates over tasks and seeds: performance profiles, optimality gap, probability of improvement, with intervals.

Definitions of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264)
and of their library rliable. A score is of one run: a seed of a task. Tasks may have different numbers of seeds;
resampling is stratified: seeds are drawn with replacement within each task.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tether.errors import InputError
from tether.evaluation.statistics import interquartile_mean
from tether.types import Float

__all__ = [
    "interval_of",
    "optimality_gap",
    "performance_profile",
    "pooled_interquartile_mean",
    "pooled_mean",
    "probability_of_improvement",
    "profile_band",
]

Scores = Sequence[np.ndarray]
"""One array (seeds,) for each task; tasks may have different numbers of seeds."""
RESAMPLES = 2000


def pooled_mean(scores: Scores) -> float:
    """Mean of the tasks' means."""
    return float(np.mean([np.mean(task) for task in _checked(scores)]))


def pooled_interquartile_mean(scores: Scores) -> float:
    """Interquartile mean of all runs of all tasks together."""
    return interquartile_mean(np.concatenate(_checked(scores)))


def optimality_gap(scores: Scores, goal: float = 100.0) -> float:
    """goal - E[min(score, goal)], over runs, then tasks: how much is missing to the goal; smaller is better."""
    return float(np.mean([goal - np.minimum(task, goal).mean() for task in _checked(scores)]))


def performance_profile(scores: Scores, thresholds: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """The share of runs that score more than each threshold, mean over tasks."""
    shares = [(task[:, None] > thresholds[None, :]).mean(axis=0) for task in _checked(scores)]
    return np.mean(shares, axis=0)


def probability_of_improvement(ours: Scores, theirs: Scores) -> float:
    """P(a run of ours scores more than one of theirs), ties half, mean over tasks: the Mann-Whitney U statistic.

    ours, theirs: of the same tasks in the same order; seeds need not be paired.
    """
    ours, theirs = _checked(ours), _checked(theirs)
    if len(ours) != len(theirs):
        raise InputError(f"probability of improvement: {len(ours)} tasks against {len(theirs)}")
    pairs = []
    for mine, other in zip(ours, theirs, strict=True):
        difference = mine[:, None] - other[None, :]
        pairs.append((difference > 0).mean() + 0.5 * (difference == 0).mean())
    return float(np.mean(pairs))


def interval_of(
    statistic: Callable[..., float], *scores: Scores, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of one or several methods' scores, by a stratified bootstrap.

    With one seed for each task there is nothing to draw, and the interval is a point.
    """
    generator = np.random.default_rng(seed)
    values = [statistic(*(_drawn(method, generator) for method in scores)) for _ in range(resamples)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def profile_band(
    scores: Scores, thresholds: Float[np.ndarray, " points"], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Pointwise 95 % interval of a performance profile."""
    generator = np.random.default_rng(seed)
    drawn = [performance_profile(_drawn(scores, generator), thresholds) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def _drawn(scores: Scores, generator: np.random.Generator) -> list[np.ndarray]:
    return [task[generator.integers(len(task), size=len(task))] for task in scores]


def _checked(scores: Scores) -> list[np.ndarray]:
    found = [np.asarray(task, np.float64).reshape(-1) for task in scores]
    if not found or any(task.size == 0 or not np.isfinite(task).all() for task in found):
        raise InputError("aggregates need at least one finite score for each task")
    return found
