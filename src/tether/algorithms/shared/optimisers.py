"""Adam with the learning rate as a traced number, so that it can be swept over lanes and scheduled; delayed updates."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from tether.errors import InputError
from tether.types import Array, Int, Metrics, Scalar

__all__ = [
    "adam_init",
    "adam_step",
    "adamw_step",
    "clip_by_global_norm",
    "clipped_adam_step",
    "cosine_decay",
    "decay_factor",
    "update_when_due",
]

T = TypeVar("T")
State = TypeVar("State", bound=Any)

ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)


def adam_init(parameters: Any) -> optax.OptState:
    """Zero moments for `parameters`. Raises InputError where one of them is no array."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        if not hasattr(leaf, "dtype"):
            raise InputError(
                f"parameters{jax.tree_util.keystr(path)} is {leaf!r}, no array (equinox.nn.MLP keeps its activation "
                "so): use a network of tether.networks, or one whose functions are static fields"
            )
    return ADAM.init(parameters)


def adam_step(
    parameters: T, gradients: T, state: optax.OptState, learning_rate: float | Scalar
) -> tuple[T, optax.OptState]:
    """One step of Adam (0.9, 0.999, 1e-8): no weight decay, no clipping."""
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the integer step count
        directions, state = ADAM.update(gradients, state)  # pyright: ignore[reportArgumentType]
    return jax.tree.map(lambda p, d: p - learning_rate * d, parameters, directions), state


def adamw_step(
    parameters: T,
    gradients: T,
    state: optax.OptState,
    learning_rate: float | Scalar,
    weight_decay: float | Scalar,
) -> tuple[T, optax.OptState]:
    """`adam_step`, and every parameter smaller by `learning_rate * weight_decay` of itself (arXiv 1711.05101)."""
    stepped, state = adam_step(parameters, gradients, state, learning_rate)
    return jax.tree.map(lambda new, old: new - learning_rate * weight_decay * old, stepped, parameters), state


def clipped_adam_step(
    parameters: T, gradients: T, state: optax.OptState, learning_rate: float | Scalar, limit: float | Scalar = 1.0
) -> tuple[T, optax.OptState]:
    """`adam_step` on gradients clipped to `limit`, all leaves as one: an ensemble is one. DAC and BDPO clip to 1."""
    return adam_step(parameters, clip_by_global_norm(gradients, limit), state, learning_rate)


def cosine_decay(step: Int[Array, ""], decay_updates: float | Scalar) -> Scalar:
    """Factor ½ (1 + cos(pi step / decay_updates)): 1 at step 0, 0 from `decay_updates` on."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(step.astype(jnp.float32) / decay_updates, 1.0)))


def decay_factor(step: Int[Array, ""], decays: bool, decay_updates: int | None, train_updates: int) -> float | Scalar:
    """What learning rates are multiplied with: 1, or `cosine_decay` over `decay_updates` (None: the whole phase)."""
    horizon = train_updates if decay_updates is None else decay_updates
    return cosine_decay(step, float(horizon)) if decays else 1.0


def clip_by_global_norm(gradients: T, limit: float | Scalar) -> T:
    """`gradients` scaled down, all leaves by one factor, so that their joint L2 norm is at most `limit`."""
    norm = optax.tree.norm(gradients)
    factor = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda gradient: factor * gradient, gradients)


def update_when_due(
    update: Callable[[State], tuple[State, Metrics]], state: State, step: Int[Array, ""], warmup: int, interval: int
) -> tuple[State, Metrics]:
    """`update(state)` in every `interval`-th step from `warmup` on; else the state as it is and zeros for metrics.

    Metrics are multiplied by `interval`, because rows average over all steps. Keep it in a static field that is named
    `...update_interval`: losses on held-out episodes are then those of every minibatch (`training/validation.py`).
    """

    def due(state: State) -> tuple[State, Metrics]:
        state, metrics = update(state)
        return state, {name: value * interval for name, value in metrics.items()}

    shapes = jax.eval_shape(due, state)[1]
    zeros = {name: jnp.zeros(metric.shape, metric.dtype) for name, metric in shapes.items()}
    return jax.lax.cond((step >= warmup) & (step % interval == 0), due, lambda state: (state, zeros), state)
