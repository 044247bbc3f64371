"""The conditional denoiser of DTQL: F(noisy action, observation, noise level) -> action-sized output."""

import math
import statistics
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.networks.factories import Network, make_network
from tether.networks.layers import Layers, Linear, mish, torch_uniform
from tether.types import Array, Float, PRNGKey, Scalar

__all__ = ["Denoiser", "fixed_frequencies", "fourier_embedding", "sinusoidal_embedding"]


def sinusoidal_embedding(noise_level: Scalar, size: int) -> Float[Array, " size"]:
    """[sin(u f_0) .. sin(u f_h-1), cos(u f_0) .. cos(u f_h-1)], f_i = 10000^(-i/(h-1)), h = size/2."""
    frequencies = jnp.exp(-math.log(10_000.0) * jnp.linspace(0.0, 1.0, size // 2, dtype=jnp.float32))
    angles = noise_level * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


def fourier_embedding(time: Scalar, frequencies: Float[Array, " half"]) -> Float[Array, " size"]:
    """[sin(2 pi t f_0) .., cos(2 pi t f_0) ..]; frequencies in cycles per unit of time."""
    angles = 2.0 * math.pi * time * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


def fixed_frequencies(count: int, deviation: float) -> Float[np.ndarray, " {count}"]:
    """The `count` middle quantiles of |N(0, deviation^2)|: what fixed "Gaussian" frequencies are here.

    The papers' codes draw them once and never train them. The quantiles are the same features without a constant that
    an optimiser must leave alone and a checkpoint carry; a frequency's sign only changes that of its sine.
    """
    law = statistics.NormalDist(0.0, deviation)
    return np.array([law.inv_cdf(0.5 + (index + 0.5) / (2 * count)) for index in range(count)], np.float32)


class Denoiser(eqx.Module):
    """The raw network F of DTQL's denoiser (arXiv 2405.19690).

    The first affine map has no activation behind it (the authors' code; the paper says a 4-layer Mish
    MLP), so it composes with the second: 5 affine maps, 3 Mish. No normalisation, dropout or residuals.
    """

    time_in: Linear  # embedding -> 2 embedding, Mish
    time_out: Linear  # 2 embedding -> embedding
    stem: Linear  # action + observation + embedding -> hidden, no activation
    trunk: Layers
    time_embedding_size: int = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKey,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        time_embedding_size: int,
        *,
        network: Network = "mlp",
    ):
        """network: of the trunk."""
        in_key, out_key, stem_key, trunk_key = jax.random.split(key, 4)
        self.time_in = Linear(in_key, time_embedding_size, 2 * time_embedding_size, torch_uniform)
        self.time_out = Linear(out_key, 2 * time_embedding_size, time_embedding_size, torch_uniform)
        in_size = action_size + observation_size + time_embedding_size
        self.stem = Linear(stem_key, in_size, hidden_sizes[0], torch_uniform)
        self.trunk = make_network(network, trunk_key, hidden_sizes[:1], hidden_sizes, action_size, activation=mish)
        self.time_embedding_size = time_embedding_size

    def __call__(
        self,
        noisy_action: Float[Array, " action"],
        observation: Float[Array, " observation"],
        noise_level: Scalar,
    ) -> Float[Array, " action"]:
        embedding = sinusoidal_embedding(noise_level, self.time_embedding_size)
        embedding = self.time_out(mish(self.time_in(embedding)))
        return self.trunk(self.stem(jnp.concatenate([noisy_action, observation, embedding])))
