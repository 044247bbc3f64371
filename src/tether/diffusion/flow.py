"""Flow matching on the straight path from noise to action (Lipman et al. 2023, arXiv 2210.02747).

    x_t = (1 - t) x_0 + t a,  x_0 ~ N(0, I),  t ~ U(0, 1);   the velocity network regresses a - x_0
    sample: x' = v(x, s, t) from t = 0 to 1, in equal Euler steps

Everything is for one sample; `vmap` it over batches.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tether.types import Array, Float, PRNGKey, Scalar

__all__ = ["Velocity", "euler_flow", "flow_loss"]

Velocity = Callable[[Array, Array, Array], Array]
"""(x [action], observation [observation], time []) -> velocity [action]."""


def flow_loss(
    network: Velocity,
    action: Float[Array, "batch action"],
    observation: Float[Array, "batch observation"],
    key: PRNGKey,
) -> Scalar:
    """Mean over batch and coordinates of (v(x_t, s, t) - (a - x_0))^2; own noise and time for every row."""
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, action.shape, action.dtype)
    time = jax.random.uniform(time_key, action.shape[:1], action.dtype)
    between = (1.0 - time[:, None]) * noise + time[:, None] * action
    velocity = jax.vmap(network)(between, observation, time)
    return jnp.mean((velocity - (action - noise)) ** 2)


def euler_flow(
    network: Velocity,
    noise: Float[Array, " action"],
    observation: Float[Array, " observation"],
    steps: int,
    bound: float,
) -> Float[Array, " action"]:
    """The action that `noise` flows to in `steps` equal Euler steps, clipped to the box at the end."""

    def body(x, step):
        return x + network(x, observation, step.astype(jnp.float32) / steps) / steps, None

    end = jax.lax.scan(body, noise, jnp.arange(steps, dtype=jnp.int32))[0]
    return jnp.clip(end, -bound, bound)
