"""Two small regressions, fitted on one half of the data and judged on the other: linear, and with random features."""

from typing import NamedTuple

import numpy as np

from tether.types import Float

__all__ = ["Regression", "fit"]

RANDOM_FEATURES, SQUARED = 200, 256
LARGEST = 8.0
"""Standardised inputs are clipped here for the flexible regression, which must not extrapolate squares."""


class Regression(NamedTuple):
    """y = W f((x - mean) / std), f the identity with a constant, or that with random features and, up to `SQUARED`
    inputs, squares."""

    mean: Float[np.ndarray, " inputs"]
    std: Float[np.ndarray, " inputs"]
    random: tuple[np.ndarray, np.ndarray] | None
    weights: np.ndarray

    def predict(self, x: Float[np.ndarray, "n inputs"]) -> Float[np.ndarray, "n outputs"]:
        return self._features(x) @ self.weights

    def _features(self, x: np.ndarray) -> np.ndarray:
        z = (x - self.mean) / self.std
        ones = np.ones((len(z), 1), z.dtype)
        if self.random is None:
            return np.concatenate([ones, z], axis=1)
        z = np.clip(z, -LARGEST, LARGEST)
        directions, offsets = self.random
        squares = [z**2] if z.shape[1] <= SQUARED else []
        return np.concatenate([ones, z, *squares, np.tanh(z @ directions + offsets)], axis=1)


def fit(
    x: Float[np.ndarray, "n inputs"], y: Float[np.ndarray, "n outputs"], flexible: bool = False, ridge: float = 1e-6
) -> Regression:
    """Ridge regression of `y` on `x` in the precision of `x`; constant inputs are ignored.

    flexible: also squares and 200 random tanh features, enough for smooth rewards of a transition.
    ridge: relative to the number of rows; inputs have spread 1.
    """
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    # float32 rounding gives constant inputs a tiny spread: dividing by it would make noise of them.
    std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-30), std, np.inf)
    random = None
    if flexible:
        generator = np.random.default_rng(0)
        directions = generator.normal(size=(x.shape[1], RANDOM_FEATURES)) / np.sqrt(x.shape[1])
        random = (directions.astype(x.dtype), generator.uniform(-1, 1, RANDOM_FEATURES).astype(x.dtype))
    empty = Regression(mean.astype(x.dtype), std.astype(x.dtype), random, np.zeros(0))
    features = empty._features(x).astype(np.float64)
    gram = features.T @ features
    gram[np.diag_indices_from(gram)] += ridge * len(x)
    weights = np.linalg.solve(gram, features.T @ y.astype(np.float64))
    return empty._replace(weights=weights.astype(x.dtype))
