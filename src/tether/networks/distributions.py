"""Critics that learn a distribution and answer with its mean: one more kind of Q head, for all methods with TD critics.

    hl-gauss     logits over bins of a fixed range; Q = sum_i p_i z_i with z_i the bins' centres. The loss of a target y
                 is the cross-entropy to the histogram of N(y, sigma^2), sigma = 0.75 of a bin's width (HL-Gauss:
                 Imani and White, arXiv 1806.04613; Farebrother et al., arXiv 2403.03950, eqs. 8 to 10)
    quantile     N quantiles; Q is their mean. The loss is the quantile Huber loss at the levels (i - 1/2) / N
                 (QR-DQN: Dabney et al., arXiv 1710.10044, eqs. 9 and 10), summed over quantiles, with one sample y

A head's output is that of any other, the mean alone. `error` takes the place of the squared error in
`tether.algorithms.shared.losses.q_errors`. Targets beyond the bins' range count as its ends.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.networks.layers import Layers
from tether.types import Array, Float, Scalar

__all__ = ["BINS", "HL_GAUSS", "QUANTILE", "Distribution", "HLGauss", "Quantiles", "has_distinct_bins"]

HL_GAUSS, QUANTILE = "hl-gauss", "quantile"

BINS = 101
SMOOTHING = 0.75  # sigma in widths of a bin: a target touches about six
QUANTILES = 32


def bin_edges(low: float, high: float) -> np.ndarray:
    """(BINS + 1,), float32, even."""
    return np.linspace(low, high, BINS + 1).astype(np.float32)


def has_distinct_bins(low: float, high: float) -> bool:
    """Whether float32 has a centre and a width for each of the bins."""
    with np.errstate(over="ignore"):
        edges = bin_edges(low, high)
        return bool(np.isfinite(edges[1:] + edges[:-1]).all() and (np.diff(edges) > 0).all())


class Distribution(eqx.Module):
    """What distributional heads have in common: x[in] -> [1], the mean."""

    network: Layers  # x[in] -> the numbers of the distribution

    def mean(self, outputs: Float[Array, " outputs"]) -> Scalar:
        """Of the distribution that these describe."""
        raise NotImplementedError

    def error(self, x: Float[Array, " in"], target: Scalar) -> Scalar:
        """The loss of one target."""
        raise NotImplementedError

    def __call__(self, x: Float[Array, " in"], *rest: Any) -> Float[Array, "1"]:
        return self.mean(self.network(x, *rest))[None]


class HLGauss(Distribution):
    """A histogram over [low, high]."""

    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)

    outputs = BINS

    @property
    def edges(self) -> np.ndarray:
        """(bins + 1,), float32."""
        return bin_edges(self.low, self.high)

    def mean(self, outputs: Float[Array, " outputs"]) -> Scalar:
        edges = self.edges
        return jnp.sum(jax.nn.softmax(outputs) * (edges[1:] + edges[:-1]) / 2)

    def histogram(self, target: Scalar) -> Float[Array, " outputs"]:
        """The probability of each bin under N(target, sigma^2), of what lies within the range."""
        sigma = SMOOTHING * (self.high - self.low) / BINS
        target = jnp.clip(target, self.low, self.high)
        below = jax.scipy.special.ndtr((self.edges - target) / sigma)
        return jnp.diff(below) / (below[-1] - below[0])

    def error(self, x: Float[Array, " in"], target: Scalar) -> Scalar:
        return -jnp.sum(self.histogram(target) * jax.nn.log_softmax(self.network(x)))


class Quantiles(Distribution):
    """Equally likely values."""

    outputs = QUANTILES

    def mean(self, outputs: Float[Array, " outputs"]) -> Scalar:
        return jnp.mean(outputs)

    def error(self, x: Float[Array, " in"], target: Scalar) -> Scalar:
        levels = (np.arange(QUANTILES, dtype=np.float32) + 0.5) / QUANTILES
        difference = target - self.network(x)
        huber = jnp.where(jnp.abs(difference) <= 1.0, 0.5 * difference**2, jnp.abs(difference) - 0.5)
        return jnp.sum(jnp.where(difference < 0, 1 - levels, levels) * huber)
