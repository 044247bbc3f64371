"""Variance-exploding diffusion with EDM preconditioning (Karras et al. 2022, arXiv 2206.00364), DTQL's settings.

    a_sigma = a + sigma eps,  eps ~ N(0, I)
    D(a_sigma, sigma | s) = c_skip a_sigma + c_out F(c_in a_sigma, s, c_noise)      F: the raw network
    loss = E[ (D(a + sigma eps, sigma | s) - a)^2 / c_out^2 ]                       mean over coordinates

Deviations from the DTQL paper (both follow the authors' code):
  1. c_in has the square root that the paper's Appendix B omits.
  2. ln sigma is logistic *truncated* to [sigma_min, sigma_max]; the paper states the untruncated law.
One from the code: sigma is drawn in float32, not float64; near sigma_max its relative error is 1e-3.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.types import Array, Float, PRNGKey, Scalar

__all__ = ["EDM", "Scalings", "denoise", "denoising_loss", "sample_sigma", "scalings"]

LOGISTIC_SCALE = 0.5

RawNetwork = Callable[[Array, Array, Array], Array]
"""(scaled noisy action [action], observation [observation], c_noise []) -> [action]."""


class EDM(eqx.Module):
    """The schedule's three numbers, in the units of the actions."""

    sigma_data: float | Scalar = 0.5  # standard deviation that the preconditioning assumes of the data
    sigma_min: float | Scalar = 0.002
    sigma_max: float | Scalar = 80.0


class Scalings(NamedTuple):
    """Preconditioning factors at one noise level (EDM Table 1)."""

    skip: Scalar
    out: Scalar
    input: Scalar
    noise: Scalar


def scalings(schedule: EDM, sigma: Scalar) -> Scalings:
    """c_skip, c_out, c_in and c_noise at `sigma`."""
    variance = sigma**2 + schedule.sigma_data**2
    deviation = jnp.sqrt(variance)
    return Scalings(
        skip=schedule.sigma_data**2 / variance,
        out=sigma * schedule.sigma_data / deviation,
        input=1.0 / deviation,
        noise=jnp.log(sigma) / 4.0,
    )


def sample_sigma(schedule: EDM, key: PRNGKey, count: int) -> Float[Array, " {count}"]:
    """Noise levels: ln sigma ~ Logistic(ln sigma_data, 0.5), truncated to [sigma_min, sigma_max].

    Inverse CDF: u uniform between the two ends' probabilities, sigma = sigma_data odds(u)^0.5.
    """
    location = jnp.log(schedule.sigma_data)
    low = jax.nn.sigmoid((jnp.log(schedule.sigma_min) - location) / LOGISTIC_SCALE)
    high = jax.nn.sigmoid((jnp.log(schedule.sigma_max) - location) / LOGISTIC_SCALE)
    u = low + (high - low) * jax.random.uniform(key, (count,), jnp.float32)
    return jnp.exp(location + LOGISTIC_SCALE * jax.scipy.special.logit(u))


def denoise(
    schedule: EDM,
    network: RawNetwork,
    noisy_action: Float[Array, " action"],
    sigma: Scalar,
    observation: Float[Array, " observation"],
    bound: float | None,
) -> Float[Array, " action"]:
    """D(a_sigma, sigma | s) of one sample, clamped to ±bound unless `bound` is None.

    The clamp is an ordinary one: no gradient where the estimate lies outside the box.
    """
    c = scalings(schedule, sigma)
    clean = c.skip * noisy_action + c.out * network(c.input * noisy_action, observation, c.noise)
    return clean if bound is None else jnp.clip(clean, -bound, bound)


def denoising_loss(
    schedule: EDM,
    network: RawNetwork,
    action: Float[Array, "batch action"],
    observation: Float[Array, "batch observation"],
    key: PRNGKey,
    bound: float | None,
) -> Scalar:
    """Mean over batch and coordinates of (D(a + sigma eps, sigma | s) - a)^2 / c_out^2, fresh sigma and eps."""
    sigma_key, noise_key = jax.random.split(key)
    sigma = sample_sigma(schedule, sigma_key, action.shape[0])
    noise = jax.random.normal(noise_key, action.shape, action.dtype)

    def squared_error(action, observation, sigma, noise):
        clean = denoise(schedule, network, action + sigma * noise, sigma, observation, bound)
        return jnp.mean((clean - action) ** 2) / scalings(schedule, sigma).out ** 2

    return jnp.mean(jax.vmap(squared_error)(action, observation, sigma, noise))
