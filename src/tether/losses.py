"""Equations that several algorithms share. Each works on a whole batch and says its shapes."""

from typing import TypeVar

import jax
import jax.numpy as jnp

from tether.types import Array, Float, Scalar, Transition

__all__ = ["aggregate_heads", "clip_actions", "expectile_loss", "polyak", "td_target"]

T = TypeVar("T")

ACTION_MARGIN = 1e-5  # data actions are clipped to ±(max_action - this)


def expectile_loss(difference: Float[Array, " batch"], expectile: float | Scalar) -> Scalar:
    """mean of |tau - 1{u < 0}| u^2 (IQL, arXiv 2110.06169, eq. 5); u = target - prediction."""
    weight = jnp.where(difference > 0, expectile, 1.0 - expectile)
    return jnp.mean(weight * difference**2)


def td_target(
    reward: Float[Array, " batch"],
    discount: float | Scalar,
    terminal: Float[Array, " batch"],
    next_value: Float[Array, " batch"],
) -> Float[Array, " batch"]:
    """r + gamma (1 - terminal) V(s'), without gradient.

    Raises ValueError for anything but three vectors of one length: (B, 1) rewards would otherwise
    broadcast against (B,) values to a (B, B) target, the classic silent fault of TD losses.
    """
    if not reward.shape == terminal.shape == next_value.shape or reward.ndim != 1:
        raise ValueError(
            "reward, terminal and next value must be vectors of one length, "
            f"got shapes {reward.shape}, {terminal.shape} and {next_value.shape}"
        )
    return jax.lax.stop_gradient(reward + discount * (1.0 - terminal) * next_value)


def polyak(target: T, online: T, rate: float | Scalar) -> T:
    """rate * online + (1 - rate) * target, leaf by leaf."""
    return jax.tree.map(lambda t, o: rate * o + (1.0 - rate) * t, target, online)


def clip_actions(batch: Transition, max_action: float) -> Transition:
    """`batch` with its actions a hair inside the action box, as DAC's and BDPO's codes read their data."""
    limit = max_action - ACTION_MARGIN
    return batch._replace(action=jnp.clip(batch.action, -limit, limit))


def aggregate_heads(q: Float[Array, "ensemble *batch"], how: str, pessimism: float | Scalar) -> Float[Array, "*batch"]:
    """One value from the heads of an ensemble.

    "lcb": mean - pessimism * std, the population's (ddof 0; pessimism 0 is the mean); "min": the lowest head;
    "convex": pessimism * min + (1 - pessimism) * max.
    """
    if how == "lcb":
        # The floor keeps the square root's gradient finite where all heads agree.
        deviation = jnp.sqrt(jnp.maximum(q.var(axis=0), 1e-12))
        return q.mean(axis=0) - pessimism * deviation
    if how == "min":
        return q.min(axis=0)
    return pessimism * q.min(axis=0) + (1.0 - pessimism) * q.max(axis=0)
