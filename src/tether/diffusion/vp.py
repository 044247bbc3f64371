"""Discrete variance-preserving diffusion (Ho et al. 2020, arXiv 2006.11239), with DAC's and BDPO's schedule.

    a_n = sqrt(abar_n) a_0 + sqrt(1 - abar_n) eps,  n = 1..N,  eps ~ N(0, I)
    beta_n = 1 - alpha_n,  alpha_n = exp(-beta_min/N - (beta_max - beta_min)(2n - 1)/(2 N^2)),  abar_n = prod alpha

A network predicts the noise: eps(a_n, observation, n). Reverse step, on the way to a_0:

    x0 = clip((a_n - sqrt(1 - abar_n) eps) / sqrt(abar_n))
    mean = (sqrt(abar_{n-1}) beta_n x0 + sqrt(alpha_n) (1 - abar_{n-1}) a_n) / (1 - abar_n)
    a_{n-1} = mean + 1[n > 1] sqrt(beta_n) xi

Both papers' code takes beta_n as the variance, not the posterior's beta_n (1 - abar_{n-1}) / (1 - abar_n) as
Diffusion-QL does (`variance`), and no noise in the last step, so a_0 is the clipped x0 and lies in the action box. IDQL
has another dialect, `sample_direct`. Everything is for one sample; `vmap` it over batches.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.types import Array, Float, Int, PRNGKey, Scalar

__all__ = [
    "LEAST_LINEAR_STEPS",
    "VP",
    "Diffused",
    "NoisePredictor",
    "Path",
    "add_noise",
    "ddim_step",
    "diffuse",
    "diffuse_evenly",
    "kernel_kl",
    "linear_schedule",
    "noise_loss",
    "predict_clean",
    "reverse_mean",
    "reverse_step",
    "sample",
    "sample_direct",
    "sample_path",
    "vp_schedule",
]

NoisePredictor = Callable[[Array, Array, Array], Array]
"""(noisy action [action], observation [observation], step n []) -> predicted noise [action]."""

Step = Int[Array, ""]


class VP(NamedTuple):
    """The schedule; entry n belongs to step n, entry 0 to the clean action (beta 0, alpha and abar 1)."""

    beta: Float[np.ndarray, " steps_and_one"]
    alpha: Float[np.ndarray, " steps_and_one"]
    alpha_bar: Float[np.ndarray, " steps_and_one"]
    deviation: Float[np.ndarray, " steps_and_one"]  # of the reverse step's noise: 0 in the last step, n = 1

    @property
    def steps(self) -> int:
        """N."""
        return len(self.beta) - 1


Variance = Literal["beta", "posterior"]


def vp_schedule(steps: int, beta_min: float = 0.1, beta_max: float = 10.0, variance: Variance = "beta") -> VP:
    """N-step schedule; abar_N = exp(-(beta_min + beta_max)/2) for every N."""
    n = np.arange(1, steps + 1)
    return _schedule(np.exp(-beta_min / steps - (beta_max - beta_min) * (2 * n - 1) / (2 * steps**2)), variance)


LEAST_LINEAR_STEPS = 21  # with fewer the last beta of the linear schedule reaches 1


def linear_schedule(steps: int, variance: Variance = "posterior") -> VP:
    """beta from 1e-4 to 0.02 in equal steps, both times 1000/N ("scaled linear": EDP, arXiv 2305.20081).

    Raises ValueError for fewer than `LEAST_LINEAR_STEPS`.
    """
    if steps < LEAST_LINEAR_STEPS:
        raise ValueError(f"linear_schedule: {steps} steps; at least {LEAST_LINEAR_STEPS}, or the last beta reaches 1")
    return _schedule(1.0 - np.linspace(1e-4, 0.02, steps) * 1000 / steps, variance)


def _schedule(alpha: np.ndarray, variance: Variance) -> VP:
    alpha = np.concatenate([[1.0], alpha])
    beta, alpha_bar = 1.0 - alpha, np.cumprod(alpha)
    before = np.concatenate([[1.0], alpha_bar[:-1]])
    left = np.maximum(1.0 - alpha_bar, 1e-20)  # entry 0: nothing is divided by 0 noise
    deviation = np.sqrt(beta if variance == "beta" else beta * (1.0 - before) / left)
    deviation[:2] = 0.0
    return VP(*(array.astype(np.float32) for array in (beta, alpha, alpha_bar, deviation)))


class _Level(NamedTuple):
    """The schedule's numbers at one step, and abar of the step before it."""

    beta: Scalar
    alpha: Scalar
    alpha_bar: Scalar
    deviation: Scalar
    previous_alpha_bar: Scalar


def _level(schedule: VP, step: Step) -> _Level:
    beta, alpha, alpha_bar, deviation = (jnp.asarray(array) for array in schedule)
    return _Level(beta[step], alpha[step], alpha_bar[step], deviation[step], alpha_bar[step - 1])


def add_noise(
    schedule: VP, action: Float[Array, " action"], step: Step, noise: Float[Array, " action"]
) -> Float[Array, " action"]:
    """a_n for a clean action and standard normal noise."""
    level = _level(schedule, step)
    return jnp.sqrt(level.alpha_bar) * action + jnp.sqrt(1.0 - level.alpha_bar) * noise


class Diffused(NamedTuple):
    """A batch of noised actions."""

    noisy_action: Float[Array, "batch action"]  # a_n
    step: Int[Array, " batch"]  # n
    noise: Float[Array, "batch action"]  # eps


def diffuse(schedule: VP, action: Float[Array, "batch action"], key: PRNGKey) -> Diffused:
    """For every row its own step n, uniform in 1..N, and its own noise."""
    step_key, noise_key = jax.random.split(key)
    step = jax.random.randint(step_key, action.shape[:1], 1, schedule.steps + 1, jnp.int32)
    return _diffused(schedule, action, step, noise_key)


def diffuse_evenly(schedule: VP, action: Float[Array, "batch action"], key: PRNGKey) -> Diffused:
    """As `diffuse`, with steps in ascending order: each for batch/N rows, rounded down or up at random.

    Over the draws every row and step meet as often as any others do where rows are in random order.
    """
    step_key, noise_key = jax.random.split(key)
    rows, steps = len(action), schedule.steps
    offset = jax.random.randint(step_key, (), 0, steps, jnp.int32)
    step = 1 + (jnp.arange(rows, dtype=jnp.int32) * steps + offset) // rows
    return _diffused(schedule, action, step, noise_key)


def _diffused(schedule: VP, action: Array, step: Array, key: PRNGKey) -> Diffused:
    noise = jax.random.normal(key, action.shape, action.dtype)
    noisy_action = jax.vmap(lambda a, n, e: add_noise(schedule, a, n, e))(action, step, noise)
    return Diffused(noisy_action, step, noise)


def noise_loss(network: NoisePredictor, observation: Float[Array, "batch observation"], diffused: Diffused) -> Scalar:
    """Mean over batch and coordinates of (eps(a_n, n, s) - eps)^2: cloning by noise regression."""
    predicted = jax.vmap(network)(diffused.noisy_action, observation, diffused.step)
    return jnp.mean((predicted - diffused.noise) ** 2)


def predict_clean(
    schedule: VP,
    noisy_action: Float[Array, " action"],
    step: Step,
    predicted_noise: Float[Array, " action"],
    bound: float | None,
) -> Float[Array, " action"]:
    """x0 that the predicted noise implies, clipped to ±bound unless `bound` is None."""
    level = _level(schedule, step)
    clean = (noisy_action - jnp.sqrt(1.0 - level.alpha_bar) * predicted_noise) / jnp.sqrt(level.alpha_bar)
    return clean if bound is None else jnp.clip(clean, -bound, bound)


def reverse_mean(
    schedule: VP,
    noisy_action: Float[Array, " action"],
    step: Step,
    predicted_noise: Float[Array, " action"],
    bound: float | None,
) -> Float[Array, " action"]:
    """Mean of the reverse kernel p(a_{n-1} | a_n)."""
    clean = predict_clean(schedule, noisy_action, step, predicted_noise, bound)
    level = _level(schedule, step)
    towards_clean = jnp.sqrt(level.previous_alpha_bar) * level.beta * clean
    kept = jnp.sqrt(level.alpha) * (1.0 - level.previous_alpha_bar) * noisy_action
    return (towards_clean + kept) / (1.0 - level.alpha_bar)


def reverse_step(
    schedule: VP,
    noisy_action: Float[Array, " action"],
    step: Step,
    predicted_noise: Float[Array, " action"],
    noise: Float[Array, " action"],
    bound: float | None,
) -> Float[Array, " action"]:
    """a_{n-1}, reparametrised by standard normal `noise`, of which the last step (n = 1) takes none."""
    deviation = _level(schedule, step).deviation
    return reverse_mean(schedule, noisy_action, step, predicted_noise, bound) + deviation * noise


class Path(NamedTuple):
    """A sampled chain from noise to action; row i of the first two belongs to step n = N - i."""

    noisy_actions: Float[Array, "steps action"]  # a_N .. a_1
    predicted_noises: Float[Array, "steps action"]
    action: Float[Array, " action"]  # a_0


def sample_path(
    schedule: VP,
    network: NoisePredictor,
    observation: Float[Array, " observation"],
    key: PRNGKey,
    action_size: int,
    bound: float | None,
) -> Path:
    """Ancestral sampling from a_N ~ N(0, I), the chain kept."""
    start_key, noise_key = jax.random.split(key)
    start = jax.random.normal(start_key, (action_size,), jnp.float32)
    noises = jax.random.normal(noise_key, (schedule.steps, action_size), jnp.float32)

    def body(noisy_action, step_and_noise):
        step, noise = step_and_noise
        predicted = network(noisy_action, observation, step)
        following = reverse_step(schedule, noisy_action, step, predicted, noise, bound)
        return following, (noisy_action, predicted)

    steps = jnp.arange(schedule.steps, 0, -1, jnp.int32)
    action, (noisy_actions, predicted_noises) = jax.lax.scan(body, start, (steps, noises))
    return Path(noisy_actions, predicted_noises, action)


def sample(
    schedule: VP,
    network: NoisePredictor,
    observation: Float[Array, " observation"],
    key: PRNGKey,
    action_size: int,
    bound: float | None,
) -> Float[Array, " action"]:
    """One action by ancestral sampling."""
    return sample_path(schedule, network, observation, key, action_size, bound).action


def sample_direct(
    schedule: VP,
    network: NoisePredictor,
    observation: Float[Array, " observation"],
    key: PRNGKey,
    action_size: int,
    bound: float,
) -> Float[Array, " action"]:
    """One action in IDQL's dialect: x0 is never formed, the running sample is clipped after every step.

    a_{n-1} = clip( (a_n - beta_n / sqrt(1 - abar_n) eps) / sqrt(alpha_n) + deviation_n xi ).
    """
    start_key, noise_key = jax.random.split(key)
    start = jax.random.normal(start_key, (action_size,), jnp.float32)
    noises = jax.random.normal(noise_key, (schedule.steps, action_size), jnp.float32)

    def body(noisy_action, step_and_noise):
        step, noise = step_and_noise
        level = _level(schedule, step)
        predicted = network(noisy_action, observation, step)
        mean = noisy_action - level.beta / jnp.sqrt(1.0 - level.alpha_bar) * predicted
        following = mean / jnp.sqrt(level.alpha) + level.deviation * noise
        return jnp.clip(following, -bound, bound), None

    return jax.lax.scan(body, start, (jnp.arange(schedule.steps, 0, -1, jnp.int32), noises))[0]


def ddim_step(
    schedule: VP,
    noisy_action: Float[Array, " action"],
    step: Step,
    predicted_noise: Float[Array, " action"],
    bound: float | None,
) -> Float[Array, " action"]:
    """a_{n-1} without noise (Song et al. 2021, arXiv 2010.02502, eq. 12 with sigma 0)."""
    level = _level(schedule, step)
    clean = predict_clean(schedule, noisy_action, step, predicted_noise, bound)
    # The noise that leads from the clipped x0 to a_n, so that clipping moves the whole chain and not x0 alone.
    noise = (noisy_action - jnp.sqrt(level.alpha_bar) * clean) / jnp.sqrt(1.0 - level.alpha_bar)
    return jnp.sqrt(level.previous_alpha_bar) * clean + jnp.sqrt(1.0 - level.previous_alpha_bar) * noise


def kernel_kl(
    schedule: VP,
    step: Step,
    policy_noise: Float[Array, " action"],
    behaviour_noise: Float[Array, " action"],
) -> Scalar:
    """KL between two reverse kernels at the same a_n, from the two noise predictions there (BDPO eq. 17).

    sum over coordinates of beta_n / (2 alpha_n (1 - abar_n)) (eps_policy - eps_behaviour)^2: the means are taken
    without clipping, and the variance is beta_n, with which the penalty of the noiseless step n = 1 is finite.
    """
    level = _level(schedule, step)
    weight = level.beta / (2.0 * level.alpha * (1.0 - level.alpha_bar))
    return weight * jnp.sum((policy_noise - behaviour_noise) ** 2)
