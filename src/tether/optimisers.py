"""Adam with the learning rate as a traced number, so that it can be swept over lanes and scheduled."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from tether.types import Array, Int, Scalar

__all__ = ["adam_init", "adam_step", "clip_by_global_norm", "cosine_decay"]

T = TypeVar("T")

ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)


def adam_init(parameters: Any) -> optax.OptState:
    """Zero moments for `parameters`."""
    return ADAM.init(parameters)


def adam_step(
    parameters: T, gradients: T, state: optax.OptState, learning_rate: float | Scalar
) -> tuple[T, optax.OptState]:
    """One step of Adam (0.9, 0.999, 1e-8): no weight decay, no clipping."""
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the integer step count
        directions, state = ADAM.update(gradients, state)  # pyright: ignore[reportArgumentType]
    return jax.tree.map(lambda p, d: p - learning_rate * d, parameters, directions), state


def cosine_decay(step: Int[Array, ""], decay_updates: float | Scalar) -> Scalar:
    """Factor ½ (1 + cos(pi step / decay_updates)): 1 at step 0, 0 at `decay_updates`."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * step.astype(jnp.float32) / decay_updates))


def clip_by_global_norm(gradients: T, limit: float | Scalar) -> T:
    """`gradients` scaled down, all leaves by one factor, so that their joint L2 norm is at most `limit`."""
    norm = optax.tree.norm(gradients)
    factor = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda gradient: factor * gradient, gradients)
