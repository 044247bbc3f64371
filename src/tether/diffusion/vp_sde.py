"""The variance-preserving SDE in continuous time (Song et al. 2021, arXiv 2011.13456), as SfBC, QGPO and SRPO have it.

    a_t = alpha_t a_0 + sigma_t eps,   t in (0, 1]
    log alpha_t = -t^2 (beta_1 - beta_0) / 4 - t beta_0 / 2,   sigma_t^2 = 1 - alpha_t^2,   beta_0 = 0.1, beta_1 = 20

A network predicts the noise, eps(a_t, observation, t); the score is -eps / sigma_t. Samples follow the probability flow
by the single-step DPM-Solver on times equally spaced from 1 to 1e-3: of order 3 on the noise prediction (Lu et al.
2022, arXiv 2206.00927; SfBC) or of order 2 on the clean prediction ("++", arXiv 2211.01095; QGPO). With 15 calls the
last interval, of first order, is long: narrow laws come out narrower than they are. Everything is for one sample.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from tether.errors import InputError
from tether.types import Array, Float, PRNGKey, Scalar

__all__ = [
    "Diffused",
    "Energy",
    "Predictor",
    "add_noise",
    "check_calls",
    "diffuse",
    "dpm_solver",
    "guided",
    "marginal",
    "noise_loss",
]

BETA_0, BETA_1 = 0.1, 20.0
FIRST_TIME, CALLS = 1e-3, 15

Predictor = Callable[[Array, Array, Array], Array]
"""(noisy action [action], observation [observation], time []) -> predicted noise [action]."""

Energy = Callable[[Array, Array, Array], Array]
"""(noisy action [action], observation [observation], time []) -> log of the tilt, []."""


def marginal(time: Float[Array, "*batch"]) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """(alpha_t, sigma_t)."""
    log_alpha = -0.25 * time**2 * (BETA_1 - BETA_0) - 0.5 * time * BETA_0
    # 1 - alpha^2 without cancellation where t is small
    return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2.0 * log_alpha))


def add_noise(
    action: Float[Array, "*batch action"], time: Float[Array, "*batch"], noise: Float[Array, "*batch action"]
) -> Float[Array, "*batch action"]:
    """a_t for clean actions and standard normal noise."""
    alpha, sigma = marginal(time)
    return alpha[..., None] * action + sigma[..., None] * noise


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
    return Diffused(add_noise(action, time, noise), time, noise)


def noise_loss(network: Predictor, observation: Float[Array, "batch observation"], diffused: Diffused) -> Scalar:
    """E[ |eps(a_t, s, t) - eps|^2 ], summed over coordinates."""
    predicted = jax.vmap(network)(diffused.noisy_action, observation, diffused.time)
    return jnp.mean(jnp.sum((predicted - diffused.noise) ** 2, axis=1))


def guided(network: Predictor, energy: Energy, weight: float | Scalar) -> Predictor:
    """The noise prediction of the density tilted by exp(weight energy_t): eps - sigma_t weight grad energy_t."""

    def predict(noisy_action: Array, observation: Array, time: Array) -> Array:
        uphill = jax.grad(energy)(noisy_action, observation, time)
        return network(noisy_action, observation, time) - weight * marginal(time)[1] * uphill

    return predict


def check_calls(calls: int, order: int) -> None:
    """Raises InputError for a number of network calls that a solver of this order cannot take."""
    if calls < 1 or calls % order != (1 if order == 2 else 0):
        wanted = "an odd number" if order == 2 else "a multiple of 3"
        raise InputError(f"solver calls {calls}: order {order} needs {wanted}")


def dpm_solver(
    network: Predictor,
    start: Float[Array, " action"],
    observation: Float[Array, " observation"],
    calls: int = CALLS,
    order: Literal[2, 3] = 2,
) -> Float[Array, " action"]:
    """The action that the probability flow leads to from `start` ~ N(0, I), in `calls` evaluations of the network.

    order 2: steps of second order on the clean prediction, then one of first order; an odd number of calls.
    order 3: steps of third order on the noise prediction, then one of second and one of first; a multiple of 3.
    A step of order k takes k intervals of the time grid, its inner nodes are the grid's. Raises InputError for other
    calls.
    """
    check_calls(calls, order)
    times = jnp.linspace(1.0, FIRST_TIME, calls + 1, dtype=jnp.float32)
    alphas, sigmas = marginal(times)
    log_ratios = jnp.log(alphas / sigmas)
    # Both forms have the exact solution a_q = (c_q / c_p) a_p - d_q (e^g - 1) prediction for a constant prediction.
    carried, driven, sign = (sigmas, alphas, -1.0) if order == 2 else (alphas, sigmas, 1.0)

    def predict(x: Array, node: Array) -> Array:
        noise = network(x, observation, times[node])
        return noise if order == 3 else (x - sigmas[node] * noise) / alphas[node]

    def exponent(begin: Array, end: Array) -> Scalar:
        return sign * (log_ratios[end] - log_ratios[begin])

    def move(x: Array, begin: Array, end: Array, prediction: Array) -> Array:
        growth = jnp.expm1(exponent(begin, end))
        return carried[end] / carried[begin] * x - driven[end] * growth * prediction

    def second_order(x: Array, begin: Array) -> Array:
        first = predict(x, begin)
        second = predict(move(x, begin, begin + 1, first), begin + 1)
        share = exponent(begin, begin + 1) / exponent(begin, begin + 2)
        return move(x, begin, begin + 2, first + (second - first) / (2.0 * share))

    def third_order(x: Array, begin: Array) -> Array:
        first = predict(x, begin)
        second = predict(move(x, begin, begin + 1, first), begin + 1)

        def curved(end: Array, slope: Array) -> Array:
            """`move` for a prediction that changes by `slope` until `end`, linearly in log(alpha/sigma)."""
            g = exponent(begin, end)
            return move(x, begin, end, first) - driven[end] * (jnp.expm1(g) / g - 1.0) * slope

        grown = exponent(begin, begin + 2) / exponent(begin, begin + 1)
        third = predict(curved(begin + 2, grown * (second - first)), begin + 2)
        grown = exponent(begin, begin + 3) / exponent(begin, begin + 2)
        return curved(begin + 3, grown * (third - first))

    highest = second_order if order == 2 else third_order
    steps = calls // 2 if order == 2 else calls // 3 - 1
    begins = order * jnp.arange(steps, dtype=jnp.int32)
    x, _ = jax.lax.scan(lambda x, begin: (highest(x, begin), None), start, begins)
    if order == 3:
        x = second_order(x, jnp.asarray(calls - 3, jnp.int32))
    last = jnp.asarray(calls - 1, jnp.int32)
    return move(x, last, last + 1, predict(x, last))
