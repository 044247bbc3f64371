"""The variance-preserving SDE in continuous time (Song et al. 2021, arXiv 2011.13456), as SfBC, QGPO and SRPO have it.

    a_t = alpha_t a_0 + sigma_t eps,   t in (0, 1]
    log alpha_t = -t^2 (beta_1 - beta_0) / 4 - t beta_0 / 2,   sigma_t^2 = 1 - alpha_t^2,   beta_0 = 0.1, beta_1 = 20

A network predicts the noise, eps(a_t, observation, t); the score is -eps / sigma_t. The sampler is the second-order
single-step DPM-Solver in data-prediction form (Lu et al. 2022, arXiv 2211.01095), 15 network calls on times equally
spaced from 1 to 1e-3: seven second-order steps and one of first order. Everything is for one sample.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tether.types import Array, Float, PRNGKey, Scalar

__all__ = ["Diffused", "Predictor", "diffuse", "dpm_solver", "marginal", "noise_loss"]

BETA_0, BETA_1 = 0.1, 20.0
FIRST_TIME, CALLS = 1e-3, 15

Predictor = Callable[[Array, Array, Array], Array]
"""(noisy action [action], observation [observation], time []) -> predicted noise [action]."""


def marginal(time: Float[Array, "*batch"]) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """(alpha_t, sigma_t)."""
    log_alpha = -0.25 * time**2 * (BETA_1 - BETA_0) - 0.5 * time * BETA_0
    # 1 - alpha^2 without cancellation where t is small
    return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2.0 * log_alpha))


class Diffused(NamedTuple):
    """A batch of noised actions."""

    noisy_action: Float[Array, "batch action"]
    time: Float[Array, " batch"]
    noise: Float[Array, "batch action"]


def diffuse(
    action: Float[Array, "batch action"], key: PRNGKey, earliest: float = FIRST_TIME, latest: float = 1.0
) -> Diffused:
    """For every row its own time, uniform in [earliest, latest], and its own noise."""
    time_key, noise_key = jax.random.split(key)
    time = jax.random.uniform(time_key, action.shape[:1], action.dtype, minval=earliest, maxval=latest)
    noise = jax.random.normal(noise_key, action.shape, action.dtype)
    alpha, sigma = marginal(time)
    return Diffused(alpha[:, None] * action + sigma[:, None] * noise, time, noise)


def noise_loss(network: Predictor, observation: Float[Array, "batch observation"], diffused: Diffused) -> Scalar:
    """E[ |eps(a_t, s, t) - eps|^2 ], summed over coordinates."""
    predicted = jax.vmap(network)(diffused.noisy_action, observation, diffused.time)
    return jnp.mean(jnp.sum((predicted - diffused.noise) ** 2, axis=1))


def dpm_solver(
    network: Predictor, start: Float[Array, " action"], observation: Float[Array, " observation"], calls: int = CALLS
) -> Float[Array, " action"]:
    """The action that the probability flow leads to from `start` ~ N(0, I); an odd number of network calls."""
    if calls % 2 == 0:
        raise ValueError(f"dpm_solver: {calls} calls; an odd number is needed")
    times = jnp.linspace(1.0, FIRST_TIME, calls + 1, dtype=jnp.float32)

    def clean(x: Array, time: Scalar) -> Array:
        alpha, sigma = marginal(time)
        return (x - sigma * network(x, observation, time)) / alpha

    def log_ratio(time: Scalar) -> Scalar:
        alpha, sigma = marginal(time)
        return jnp.log(alpha / sigma)

    def move(x: Array, begin: Scalar, end: Scalar, direction: Array) -> Array:
        """The exact solution for a constant clean prediction."""
        (_, sigma), (new_alpha, new_sigma) = marginal(begin), marginal(end)
        h = log_ratio(end) - log_ratio(begin)
        return new_sigma / sigma * x - new_alpha * jnp.expm1(-h) * direction

    def second_order(x: Array, index: Array) -> tuple[Array, None]:
        begin, middle, end = times[2 * index], times[2 * index + 1], times[2 * index + 2]
        first = clean(x, begin)
        inner = move(x, begin, middle, first)
        ratio = (log_ratio(middle) - log_ratio(begin)) / (log_ratio(end) - log_ratio(begin))
        direction = first + (clean(inner, middle) - first) / (2.0 * ratio)
        return move(x, begin, end, direction), None

    x, _ = jax.lax.scan(second_order, start, jnp.arange(calls // 2))
    return move(x, times[-2], times[-1], clean(x, times[-2]))
