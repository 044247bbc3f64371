"""Is row i+1 the successor of row i? A score for every pair of neighbouring rows, and what it would be by chance.

A linear model predicts the change of the observation from observation and action. The score of a pair is the mean over
columns of log(1 + |error| / typical error): the logarithm keeps a single column that jumps for good reason (a contact)
from ruling, while a change of place moves most columns far beyond their typical error. The same score of pairs of
unrelated rows tells what a pair looks like that is no transition. Where the two overlap, nothing can be said and there
are no `thresholds`.
"""

from typing import NamedTuple

import numpy as np

from tether.doctor.regression import Regression, fit
from tether.types import Bool, Float, Int

__all__ = ["FEW", "StepScores", "explained_share", "score_steps"]

FIT_ROWS = 20_000
RANDOM_PAIRS = 10_000
CHUNK = 1 << 16
FEW = 1 / 3
"""Share of the columns that a jump moves more than."""
TRIMMED = 0.1
"""Share of the pairs with the largest errors that the second fit leaves out: unmarked ends must not shape it."""


class StepScores(NamedTuple):
    """Scores of the pairs (i, i+1).

    Attributes:
        scores: (N-1,) of every pair of neighbouring rows.
        unrelated: the score that 98 % of the pairs of unrelated rows exceed.
        usual: the score that 99 % of the pairs inside episodes stay below.
        thresholds: scores that 98 %, 90 % and 75 % of the pairs of unrelated rows exceed, of those that stand out
            clearly from the pairs inside episodes.
    """

    scores: Float[np.ndarray, " steps"]
    unrelated: float
    usual: float
    thresholds: tuple[float, ...]
    model: Regression
    scale: Float[np.ndarray, " observation"]
    spread: Float[np.ndarray, " observation"]

    def score(self, observation: np.ndarray, action: np.ndarray, following: np.ndarray) -> Float[np.ndarray, " pairs"]:
        """Scores of pairs of the caller's choice."""
        return _score(_errors(self.model, observation, action, following), self.scale)

    def moved(
        self, observation: np.ndarray, action: np.ndarray, following: np.ndarray, known: np.ndarray, rests: np.ndarray
    ) -> Float[np.ndarray, " pairs"]:
        """The share of the columns that ever change in which a pair errs by more than three typical errors, and by more
        than a quarter of the column's spread; 0 where no more than `FEW` do so of all columns but set points and what
        follows from them.

        known: (rows, O) observations that tell what follows from what. rests: (O,) columns that hardly ever change.
        """
        moving = np.isfinite(self.scale)
        error = _errors(self.model, observation, action, following)
        far = error > np.maximum(3 * self.scale, 0.25 * self.spread)
        moved = far[:, moving].mean(axis=1)
        own = moving & ~rests
        if not own.any() or not (moving & rests).any():
            return moved
        steadiest_first = np.argsort(error[:, own].mean(axis=0) / self.spread[own], kind="stable")
        own &= ~_following(known, np.flatnonzero(moving & rests), np.flatnonzero(own)[steadiest_first])
        return np.where(far[:, own].mean(axis=1) > FEW, moved, 0.0)


def score_steps(observations: np.ndarray, actions: np.ndarray, inside: Bool[np.ndarray, " steps"]) -> StepScores | None:
    """Fits the model to pairs inside episodes and scores all pairs.

    Args:
        observations: (N, O) float32; actions: (N, A) float32, A may be 0.
        inside: (N-1,) pairs that are claimed to be transitions.

    Returns: None for fewer than 50 such pairs, or if no column ever changes.
    """
    claimed = np.flatnonzero(inside)
    spread = observations.std(axis=0, dtype=np.float64)
    if len(claimed) < 50 or not (spread > 0).any():
        return None
    generator = np.random.default_rng(0)  # a fixed sample: the same file gets the same report
    sample = np.sort(generator.choice(claimed, min(len(claimed), FIT_ROWS), replace=False))
    model, scale = _robust_fit(observations, actions, sample, spread)

    def pairs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return _score(_errors(model, observations[left], actions[left], observations[right]), scale)

    chunks = [np.arange(start, min(start + CHUNK, len(inside))) for start in range(0, len(inside), CHUNK)]
    scores = np.concatenate([pairs(rows, rows + 1) for rows in chunks])
    left, right = (generator.integers(0, len(observations), RANDOM_PAIRS) for _ in range(2))
    apart = np.abs(left - right) > 1
    by_chance = np.quantile(pairs(left[apart], right[apart]), (0.02, 0.1, 0.25)).tolist()
    usual = float(np.quantile(scores[claimed], 0.99))
    # A twentieth of the claimed transitions may be unmarked ends, so the bulk is judged by its 95 % quantile.
    bulk = float(np.quantile(scores[claimed], 0.95))
    thresholds = tuple(threshold for threshold in by_chance if threshold > 1.3 * bulk)
    return StepScores(scores, by_chance[0], min(usual, by_chance[0]), thresholds, model, scale, spread)


def _following(
    known: Float[np.ndarray, "rows observation"],
    resting: Int[np.ndarray, " resting"],
    others: Int[np.ndarray, " others"],
) -> Bool[np.ndarray, " observation"]:
    """Columns that the resting ones and earlier `others` tell exactly, and those alone do not: such as a control error,
    which is set point minus measurement and jumps with the set point."""
    found = np.zeros(known.shape[1], np.bool_)
    if len(known) < 10 * (len(resting) + len(others)):
        return found
    z = known.astype(np.float64) - known.mean(axis=0, dtype=np.float64)
    z /= np.maximum(z.std(axis=0), 1e-30)

    def told_exactly(upper: np.ndarray) -> np.ndarray:
        return np.abs(np.diagonal(upper)) / np.sqrt(len(z)) < 1e-3

    told = told_exactly(np.asarray(np.linalg.qr(z[:, [*resting, *others]], mode="r")))[len(resting) :]
    if told.all():
        return found
    own, candidates = z[:, others[~told]], others[told]
    left = z[:, candidates] - own @ np.linalg.lstsq(own, z[:, candidates], rcond=None)[0]
    found[candidates[left.std(axis=0) >= 1e-3]] = True
    return found


def explained_share(observations: np.ndarray, actions: np.ndarray, left: Int[np.ndarray, " pairs"], lag: int) -> float:
    """R^2 of the observation `lag` rows later, predicted linearly, on pairs that the fit has not seen.

    That of the best-predicted column: 0 if rows `lag` apart have nothing to do with each other.
    """
    x = _inputs(observations[left], actions[left]).astype(np.float64)
    y = observations[left + lag].astype(np.float64)
    seen = np.arange(len(left)) % 2 == 0
    error = ((fit(x[seen], y[seen]).predict(x[~seen]) - y[~seen]) ** 2).mean(axis=0)
    spread = y[~seen].var(axis=0)
    share = 1 - error[spread > 0] / spread[spread > 0]
    return float(share.max(initial=0.0))


def _robust_fit(
    observations: np.ndarray, actions: np.ndarray, sample: np.ndarray, spread: np.ndarray
) -> tuple[Regression, np.ndarray]:
    """The model and each column's typical error, from the pairs of `sample` without the strangest."""
    here, action, there = observations[sample], actions[sample], observations[sample + 1]

    def fitted(kept: np.ndarray) -> tuple[Regression, np.ndarray, np.ndarray]:
        model = fit(_inputs(here, action)[kept], (there - here)[kept])
        error = _errors(model, here, action, there)
        typical = 1.4826 * np.median(error, axis=0)
        # Constant columns say nothing: with an infinite scale their error counts as 0.
        scale = np.where(spread > 0, np.maximum(typical, 1e-3 * spread), np.inf).astype(np.float32)
        return model, scale, _score(error, scale)

    _, _, score = fitted(np.ones(len(sample), np.bool_))
    model, scale, _ = fitted(score <= np.quantile(score, 1 - TRIMMED))
    return model, scale


def _inputs(observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.concatenate([observation, action], axis=1)


def _errors(model: Regression, observation: np.ndarray, action: np.ndarray, following: np.ndarray) -> np.ndarray:
    return np.abs(model.predict(_inputs(observation, action)) - (following - observation))


def _score(error: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.log1p(error / scale).mean(axis=1)
