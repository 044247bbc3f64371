"""How unlike the data's own decisions a decision is: pure functions of NumPy arrays.

A decision is an observation and the action taken at it. Of each, three things are looked at, given the k logged states
that resemble its observation most (the distance of a column counts up to CLIP deviations, so that one that is off does
not choose the neighbours):

    columns      how far each lies from its mean in these states; and from what the other columns make it, linearly
    combination  how far the k-th of these states is
    action       how far the action is from all that was done in these states, in what a regression of actions on
                 observations leaves, whitened: not how far from the mean, as behaviour has modes; and how unlikely it
                 is by a density p(a|s), where rows were many enough to fit one. The smaller counts: a network is sure
                 of itself where it has seen little, and neighbours are few where there are many columns

Some states are rare and some actions noisy, so what neighbours say is divided by the root of what it is for these
states themselves among their own neighbours; then each by what few of the data's own decisions exceed. The largest is
the decision's score.
Its trust is the share of calibrating decisions, of which nothing was fitted, that score as high (split conformal
prediction: Vovk et al. 2005; Angelopoulos and Bates 2023, arXiv 2107.07511).

This file stands in `tether` and, the same to the letter, in `tether_runtime`, which runs without tether.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "PLAIN",
    "SATURATING",
    "Scores",
    "Support",
    "behaviour",
    "log_density",
    "nearest",
    "off_limits",
    "parts_of",
    "reasons",
    "residual",
    "score",
    "standardise",
    "threshold",
    "trust_of",
]

Array = np.ndarray
CLIP = 3.0
MOST_DEVIATIONS = 1e9  # of a column
FARTHEST = 10.0  # deviations of a column that the regression is shown
NEIGHBOURS = 16
NUMBERS_AT_ONCE = 2**18  # of distances: what a core's cache holds
NAMED = 3  # columns of a reason that concerns many
PLAIN, SATURATING = 4, 2  # Gaussians of the density: of actions, and of actions whose tanh is taken
INNERMOST = 1e-3  # from the ends of [-1, 1], nearer to which a saturated action is not told apart
NARROWEST, WIDEST = 0.1, 7.0  # standard deviations of the Gaussians, in those of the actions
LARGEST_EXPONENT = 60.0  # below which float32 does not overflow
NO_DIFFERENCE, TIED = 0.1, 1e-3  # scores, and their relative differences, that round-off may make


class Support(NamedTuple):
    """What is known of the data's decisions, float32 arrays."""

    observation_mean: Array  # (observation,)
    observation_scale: Array  # (observation,) standard deviations; of a constant column, what it does not exceed
    observation_low: Array  # (observation,) of the fitted decisions, as the log has them
    observation_high: Array  # (observation,)
    observations: Array  # (references, observation), standardised
    actions: Array  # (references, action), in [-1, 1]
    residuals: Array  # (references, action), whitened
    whitening: Array  # (action, action)
    weights: tuple[Array, ...]  # (out, in) of each layer of an MLP with ReLU: the regression, and behind it the density
    biases: tuple[Array, ...]  # (out,)
    own_columns: Array  # (references, observation) the three of each reference among its neighbours
    own_distance: Array  # (references,)
    own_action: Array  # (references,)
    column_limits: Array  # (observation,) what few decisions exceed
    limits: Array  # (3,) the same of columns, combination and action; (4,) and of -log density
    calibration: Array  # (calibrated,) sorted scores of the calibrating decisions
    relations: Array | None = None  # (observation, observation) states @ relations: what others leave of each column
    relation_limits: Array | None = None  # (observation,) what few decisions exceed of it
    action_scale: Array | None = None  # (action,) deviations; None: no density is known


class Scores(NamedTuple):
    """Of a batch of decisions; above 1 is rare."""

    columns: Array  # (batch, observation)
    combination: Array  # (batch,)
    action: Array  # (batch,)
    neighbours: Array  # (batch, k) indices of references

    @property
    def total(self) -> Array:
        """(batch,)."""
        return np.maximum(self.columns.max(axis=1), np.maximum(self.combination, self.action))


class Parts(NamedTuple):
    """What scores are made of, before they are held against limits."""

    columns: Array  # (batch, observation)
    related: Array | None  # (batch, observation)
    combination: Array  # (batch,)
    action: Array  # (batch,)
    surprise: Array | None  # (batch,) -log p(a|s)
    neighbours: Array  # (batch, k)


def score(support: Support, observation: Array, action: Array) -> Scores:
    """observation: (batch, observation), as the log has it. action: (batch, action), in [-1, 1]."""
    parts, limits = parts_of(support, observation, action), support.limits
    unlike = parts.action / limits[2]
    if parts.surprise is not None:
        unlike = np.minimum(unlike, _rarity(parts.surprise - limits[3], action.shape[1]))
    columns = off_limits(support, parts) / limits[0]
    return Scores(columns, parts.combination / limits[1], unlike, parts.neighbours)


def off_limits(support: Support, parts: Parts) -> Array:
    """(batch, observation): how far beyond the limits of the columns each is, 1 at them."""
    columns = parts.columns / support.column_limits
    return columns if parts.related is None else np.maximum(columns, parts.related / support.relation_limits)


def _rarity(surprise: Array, actions: int) -> Array:
    """How rare an action is, as a length: what -log p(a|s) is above a limit, for each coordinate."""
    return np.exp(np.clip(surprise / actions, -LARGEST_EXPONENT, LARGEST_EXPONENT))


def parts_of(support: Support, observation: Array, action: Array) -> Parts:
    """The parts of the scores of a batch."""
    states = standardise(support, observation)
    neighbours, farthest = nearest(support, states)
    seen = support.observations[neighbours]
    off = np.abs(states - seen.mean(axis=1)) / np.sqrt(support.own_columns[neighbours].mean(axis=1))
    far = farthest / np.sqrt(support.own_distance[neighbours].mean(axis=1))
    given = behaviour(support, states)
    left = residual(given, action) @ support.whitening
    beside = np.sum((left[:, None] - support.residuals[neighbours]) ** 2, axis=2)
    unlike = np.sqrt(beside.min(axis=1)) / np.sqrt(support.own_action[neighbours].mean(axis=1))
    related = None if support.relations is None else np.abs(_unrelated(support.relations, states))
    surprise = None if support.action_scale is None else -log_density(given, action, support.action_scale)
    return Parts(off, related, far, unlike, surprise, neighbours)


def _unrelated(relations: Array, states: Array) -> Array:
    """(batch, observation): each column less what the others make it."""
    return np.clip(states, -FARTHEST, FARTHEST) @ relations


def standardise(support: Support, observation: Array) -> Array:
    """Observations as the log has them, in deviations of the columns."""
    with np.errstate(over="ignore"):  # a sensor may say anything
        states = (observation - support.observation_mean) / support.observation_scale
    return np.clip(states, -MOST_DEVIATIONS, MOST_DEVIATIONS).astype(np.float32)


def nearest(support: Support, states: Array) -> tuple[Array, Array]:
    """(batch, k) indices of the references that resemble each standardised state, and the distance of the k-th."""
    references = support.observations
    count = min(NEIGHBOURS, len(references))
    at_once = max(1, NUMBERS_AT_ONCE // references.size)
    indices = np.empty((len(states), count), np.int64)
    distance = np.empty(len(states), np.float32)
    for start in range(0, len(states), at_once):
        rows = slice(start, start + at_once)
        apart = np.abs(states[rows, None] - references)
        np.minimum(apart, CLIP, out=apart)
        squared = np.einsum("nro,nro->nr", apart, apart)
        found = np.argpartition(squared, count - 1, axis=1)[:, :count]
        indices[rows] = found
        distance[rows] = np.sqrt(np.take_along_axis(squared, found, axis=1).max(axis=1))
    return indices, distance


def behaviour(support: Support, states: Array) -> Array:
    """(batch, outputs) of the network: the expected action, and what the density is made of."""
    given = np.clip(states, -FARTHEST, FARTHEST)  # beyond it, nothing is known
    for layer in range(len(support.weights)):
        given = given @ support.weights[layer].T + support.biases[layer]
        if layer < len(support.weights) - 1:
            given = np.maximum(given, 0.0)
    return given


def residual(given: Array, action: Array) -> Array:
    """(batch, action): the action less what the regression expects."""
    return action - np.clip(given[:, : action.shape[1]], -1.0, 1.0)


def log_density(given: Array, action: Array, scale: Array) -> Array:
    """(batch,) log p(a|s), but for a constant, of a mixture of Gaussians, of some the tanh; given: behind the expected
    action a logit, means and log standard deviations for each, in units of `scale`."""
    count, size = PLAIN + SATURATING, action.shape[1]
    logits, given = given[:, size : size + count], given[:, size + count :]
    means, logs = np.split(given.reshape(len(given), 2, count, size), 2, axis=1)
    logs = np.clip(logs[:, 0], math.log(NARROWEST), math.log(WIDEST))
    inner = np.clip(action, INNERMOST - 1.0, 1.0 - INNERMOST)
    places = np.stack([action] * PLAIN + [np.arctanh(inner)] * SATURATING, axis=1) / scale
    each = logits - np.sum(0.5 * ((places - means[:, 0]) / np.exp(logs)) ** 2 + logs, axis=2)
    each[:, PLAIN:] -= np.sum(np.log1p(-inner * inner), axis=1, keepdims=True)
    return _log_sum(each) - _log_sum(logits)


def _log_sum(logs: Array) -> Array:
    largest = logs.max(axis=1)
    return largest + np.log(np.sum(np.exp(logs - largest[:, None]), axis=1))


def trust_of(support: Support, total: Array) -> Array:
    """(batch,) share of the data's decisions that score so high, itself counted: for decisions like those calibrated
    on, at most a share p of them has a trust of at most p. Of a score that is NaN the least."""
    calibration = _with_ties(support.calibration)
    numbers = calibration[~np.isnan(calibration)]  # nothing is as high as NaN
    as_high = len(numbers) - np.searchsorted(numbers, total, side="left")
    return (1.0 + as_high) / (len(calibration) + 1.0)


def threshold(support: Support, share: float) -> float:
    """The score beyond which trust is at most `share`; infinite where too few decisions were calibrated on."""
    count = len(support.calibration)
    most = math.floor(share * (count + 1) + 1e-9) - 1
    return math.inf if most < 0 else float(_with_ties(support.calibration)[max(count - 1 - most, 0)])


def _with_ties(calibration: Array) -> Array:
    """The scores up to which a decision is no more unlike than the calibrating ones: where decisions recur, many score
    the same, but for round-off (of units, and of a batch of another size)."""
    return np.maximum(calibration, NO_DIFFERENCE) * (1 + TIED)


def reasons(
    support: Support,
    observation: Array,
    action: Array,
    scores: Scores,
    share: float,
    names: tuple[Sequence[str], Sequence[str]],
    in_units: Callable[[Array], Array],
) -> list[list[str]]:
    """For each decision what makes its trust at most `share`, in the log's words; nothing for the others.

    names: of each number of an observation and of an action. in_units: actions in [-1, 1] -> as the log has them.
    """
    limit = threshold(support, share)
    found: list[list[str]] = [[] for _ in range(len(observation))]
    for row in np.flatnonzero(~(scores.total <= limit)):
        own = Scores(*(part[row] for part in scores))
        found[row] = _of_columns(support, observation[row], own, limit, names[0])
        if not found[row] and not own.combination <= limit:
            found[row] = [_of_combination(support, observation[row], own, names[0])]
        if not own.action <= limit:
            found[row] += _of_action(support, action[row], own, names[1], in_units)
    return found


def _of_columns(support: Support, observation: Array, own: Scores, limit: float, names: Sequence[str]) -> list[str]:
    """`T_reactor_C 95: seen 15.2 to 27.1`, the worst first; where no column is unlike its neighbours, the one that the
    others contradict most."""
    low, high = support.observation_low, support.observation_high
    state = standardise(support, observation[None])
    similar = support.observations[own.neighbours] * support.observation_scale + support.observation_mean
    off = np.abs(state[0] - support.observations[own.neighbours].mean(axis=0))
    off /= np.sqrt(support.own_columns[own.neighbours].mean(axis=0)) * support.column_limits * support.limits[0]
    worst = np.argsort(-own.columns).tolist()
    if support.relations is not None and own.columns[worst[0]] > limit and not (off > limit).any():
        others = (state - _unrelated(support.relations, state))[0] * support.observation_scale
        j, made = worst[0], others + support.observation_mean
        return [f"{names[j]} {observation[j]:.4g}: {made[j]:.4g} by the other columns"]
    lines = []
    for j in (j for j in worst if not off[j] <= limit):
        value = f"{names[j]} {observation[j]:.4g}"
        if not low[j] <= observation[j] <= high[j]:
            lines.append(f"{value}: seen {low[j]:.4g} to {high[j]:.4g}")
        else:
            lines.append(f"{value}: {similar[:, j].min():.4g} to {similar[:, j].max():.4g} in similar logged states")
    return lines


def _of_combination(support: Support, observation: Array, own: Scores, names: Sequence[str]) -> str:
    state = standardise(support, observation[None])[0]
    apart = np.abs(state - support.observations[own.neighbours].mean(axis=0))
    farthest = ", ".join(f"{names[j]} {observation[j]:.4g}" for j in np.argsort(-apart)[:NAMED].tolist())
    return f"{farthest}: no logged state is similar"


def _of_action(
    support: Support, action: Array, own: Scores, names: Sequence[str], in_units: Callable[[Array], Array]
) -> list[str]:
    """`pump 900: 430 to 470 in similar logged states`."""
    done = support.actions[own.neighbours]
    low, high = done.min(axis=0), done.max(axis=0)
    value, lowest, highest = in_units(action), in_units(low), in_units(high)
    lines = [
        f"{names[j]} {value[j]:.4g}: {lowest[j]:.4g} to {highest[j]:.4g} in similar logged states"
        for j in np.flatnonzero((action < low) | (action > high)).tolist()
    ]
    together = ", ".join(f"{names[j]} {value[j]:.4g}" for j in range(min(NAMED, len(names))))
    return lines or [f"{together}{', ...' if len(names) > NAMED else ''}: not done together in similar logged states"]
