"""From logged decisions to what their like is judged by."""

from typing import NamedTuple

import numpy as np

from tether.data.decisions import CALIBRATION, FITTING, SCALING, Decisions
from tether.trust.behaviour import fit_behaviour, has_density
from tether.trust.support import (
    FARTHEST,
    NEIGHBOURS,
    Support,
    behaviour,
    nearest,
    off_limits,
    parts_of,
    residual,
    score,
    standardise,
    threshold,
)

__all__ = ["Calibrated", "calibrate"]

MOST_REFERENCES = 2048
MOST_NUMBERS = 2_000_000  # of all references together: 8 MB
MOST_UPDATES = 8000  # of the network
MOST_RELATED = 512  # columns that are related to each other: a matrix of as many numbers squared is kept
RIDGE = 0.01  # variances; how surely a column is made of the others
COLUMN_SHARE = 1e-3  # of the scaling decisions exceed the limit of a column
SCORE_SHARES = (1.5e-3, 5e-4, 8e-3)  # of columns, combination and action: actions are the hardest to tell apart
SMALLEST = 0.01  # deviations
RESOLUTION = 1e-4  # of an action in [-1, 1], and deviations of a column: what differs by less does not differ
NARROWEST_RESIDUAL = 10 * RESOLUTION  # deviation that is whitened: a constant action does not drown the others
FLAGGED = 0.01
SEED = 0


class Calibrated(NamedTuple):
    """What judges decisions, and what is known of how it does."""

    support: Support
    pieces: int  # episodes, or stretches of them, that the calibrating decisions are from
    stretch_rows: int | None  # how long stretches are; None where they are whole episodes
    held_out: bool  # whether they were held out from training, too
    flagged_in_pieces: tuple[float, float, float]  # share flagged at 1 %, of the least, median and most flagged piece

    @property
    def is_finite(self) -> bool:
        """Whether limits and calibration are numbers: without them nothing is told apart."""
        support = self.support
        known = (support.column_limits, support.limits, support.relation_limits, support.calibration)
        return all(part is None or bool(np.isfinite(part).all()) for part in known)


def calibrate(decisions: Decisions, most_updates: int = MOST_UPDATES) -> Calibrated:
    """Fit, scale and calibrate on parts of the data that share no episode.

    most_updates: of the regression of actions; fewer make actions harder to judge, the rate of flags stays right.
    """
    fitting, scaling, calibrating = (decisions.of(part) for part in (FITTING, SCALING, CALIBRATION))
    support, references = _with_states(fitting)
    support = _with_actions(support, fitting, references, min(most_updates, MOST_UPDATES))
    support = _with_limits(_with_own(_with_relations(support, fitting)), scaling)
    total = score(support, calibrating.observation, calibrating.action).total
    support = support._replace(calibration=np.sort(total))
    flagged, rows = (np.bincount(calibrating.piece, w) for w in (total > threshold(support, FLAGGED), None))
    shares = flagged[rows > 0] / rows[rows > 0]
    spread = float(shares.min()), float(np.median(shares)), float(shares.max())
    return Calibrated(support, len(shares), decisions.stretch_rows, decisions.held_out, spread)


def _with_states(fitting: Decisions) -> tuple[Support, np.ndarray]:
    """Scale and references, and which rows these are; all that comes later is empty."""
    columns, actions = fitting.observation.astype(np.float64), fitting.action.shape[1]
    mean, deviation = columns.mean(axis=0), columns.std(axis=0)
    constant = 1e-6 * np.maximum(np.abs(mean), 1.0)  # what differs from it by more is foreign
    scale = np.maximum(deviation, constant)
    size = columns.shape[1]
    count = min(MOST_REFERENCES, -(-len(columns) // 2), max(NEIGHBOURS, MOST_NUMBERS // (size + 2 * actions)))
    references = np.sort(np.random.default_rng(SEED).permutation(len(columns))[:count])
    empty = np.zeros((0, actions), np.float32)
    support = Support(
        observation_mean=mean.astype(np.float32),
        observation_scale=scale.astype(np.float32),
        observation_low=fitting.observation.min(axis=0),
        observation_high=fitting.observation.max(axis=0),
        observations=((columns[references] - mean) / scale).astype(np.float32),
        actions=empty,
        residuals=empty,
        whitening=np.eye(actions, dtype=np.float32),
        weights=(),
        biases=(),
        own_columns=np.ones((count, size), np.float32),
        own_distance=np.ones(count, np.float32),
        own_action=np.ones(count, np.float32),
        column_limits=np.ones(size, np.float32),
        limits=np.ones(3, np.float32),
        calibration=np.zeros(0, np.float32),
    )
    return support, references


def _with_actions(support: Support, fitting: Decisions, references: np.ndarray, updates: int) -> Support:
    """The regression of actions on observations, and what it leaves at the references, which it has not seen."""
    states = standardise(support, fitting.observation).clip(-FARTHEST, FARTHEST)
    others = np.setdiff1d(np.arange(len(states)), references)
    deviation = np.maximum(fitting.action.std(axis=0), SMALLEST).astype(np.float32)
    scale = deviation if has_density(len(states), updates) else None
    weights, biases = fit_behaviour(states[others], fitting.action[others], updates, scale)
    support = support._replace(weights=weights, biases=biases, action_scale=scale)
    left = residual(behaviour(support, states[references]), fitting.action[references])
    whitening = _whitening(left.astype(np.float64)).astype(np.float32)
    return support._replace(actions=fitting.action[references], residuals=left @ whitening, whitening=whitening)


def _whitening(residuals: np.ndarray) -> np.ndarray:
    """The matrix that makes residuals uncorrelated, of variance 1 unless they are too small for it."""
    values, vectors = np.linalg.eigh(residuals.T @ residuals / len(residuals))
    return vectors / np.maximum(np.sqrt(np.maximum(values, 0.0)), NARROWEST_RESIDUAL)


def _with_relations(support: Support, fitting: Decisions) -> Support:
    """What each column is by the others, linearly: the inverse of their covariance says it of all at once."""
    if fitting.observation.shape[1] > MOST_RELATED:
        return support
    states = standardise(support, fitting.observation).clip(-FARTHEST, FARTHEST).astype(np.float64)
    precision = np.linalg.inv(states.T @ states / len(states) + RIDGE * np.eye(states.shape[1]))
    return support._replace(
        relations=(precision / np.diag(precision)).astype(np.float32),
        relation_limits=np.ones(states.shape[1], np.float32),
    )


def _with_own(support: Support) -> Support:
    """How foreign each reference would look among the others, with the median of all added: nothing is nearly 0."""
    states, itself = support.observations, np.arange(len(support.observations))
    neighbours, distance = nearest(support, states)
    count = neighbours.shape[1]
    others = (states[neighbours].sum(axis=1) - states) / max(count - 1, 1)
    beside = np.sum((support.residuals[:, None] - support.residuals[neighbours]) ** 2, axis=2)
    beside[neighbours == itself[:, None]] = np.inf if count > 1 else 1.0
    columns, action = np.abs(states - others), np.sqrt(beside.min(axis=1))
    return support._replace(
        own_columns=(columns + np.maximum(np.median(columns, axis=0), SMALLEST)).astype(np.float32),
        own_distance=(distance + max(np.median(distance), SMALLEST)).astype(np.float32),
        own_action=(action + max(np.median(action), SMALLEST)).astype(np.float32),
    )


def _with_limits(support: Support, scaling: Decisions) -> Support:
    """What few of the scaling decisions exceed, so that columns, combination and action are flagged alike."""
    parts = parts_of(support, scaling.observation, scaling.action)

    def limits(columns: np.ndarray) -> np.ndarray:
        return np.maximum(np.quantile(columns, 1 - COLUMN_SHARE, axis=0), SMALLEST).astype(np.float32)

    related = None if parts.related is None else limits(parts.related)
    support = support._replace(column_limits=limits(parts.columns), relation_limits=related)
    worst = off_limits(support, parts).max(axis=1)
    scores = worst, parts.combination, parts.action
    quantiles = [np.quantile(part, 1 - share) for part, share in zip(scores, SCORE_SHARES, strict=True)]
    lowest = _lowest_limits(support)
    support = support._replace(limits=np.maximum(quantiles, lowest).astype(np.float32))
    if parts.surprise is None:
        return support
    rarest = np.quantile(parts.surprise, 1 - SCORE_SHARES[2])
    support = support._replace(limits=np.append(support.limits, rarest).astype(np.float32))
    # Fewer decisions exceed both limits of actions than one, so both are lowered until as many do.
    both = float(np.quantile(score(support, scaling.observation, scaling.action).action, 1 - SCORE_SHARES[2]))
    columns, combination, action, surprise = support.limits
    both = max(both, lowest[2] / float(action))
    surprise += scaling.action.shape[1] * np.log(both)
    return support._replace(limits=np.array([columns, combination, action * both, surprise], np.float32))


def _lowest_limits(support: Support) -> tuple[float, float, float]:
    """What a difference of RESOLUTION makes of columns, combination and action: where decisions recur, all else would
    be round-off."""
    apart = RESOLUTION / np.sqrt(SMALLEST)  # by the least that `_with_own` divides by
    whitened = RESOLUTION * float(np.linalg.norm(support.whitening, 2))
    return apart / SMALLEST, apart, whitened / float(np.sqrt(np.median(support.own_action)))
