"""Equations that several algorithms share. Each works on a whole batch and says its shapes."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.networks import QEnsemble
from tether.types import Array, Float, Int, PRNGKey, Scalar, Transition

__all__ = [
    "advantage_weights",
    "aggregate_heads",
    "average_when_due",
    "clip_actions",
    "expectile_loss",
    "grad_in_parts",
    "limited_exponent",
    "mean_q_regression",
    "mmd",
    "polyak",
    "q_errors",
    "q_regression",
    "smoothed_action",
    "td_target",
]

T = TypeVar("T")

ACTION_MARGIN = 1e-5  # data actions are clipped to ±(max_action - this), unless said otherwise


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


def q_errors(
    critic: QEnsemble, batch: Transition, target: Float[Array, " batch"]
) -> tuple[Float[Array, "batch ensemble"], Float[Array, "batch ensemble"]]:
    """(Q_i(s, a) - y)^2, or what distributional heads have in its place -> (it, the values Q_i(s, a))."""
    q: Float[Array, "batch ensemble"] = jax.vmap(critic)(batch.observation, batch.action)
    if critic.is_distributional:
        return jax.vmap(critic.errors)(batch.observation, batch.action, target), q
    return (q - target[:, None]) ** 2, q


def q_regression(
    critic: QEnsemble, batch: Transition, target: Float[Array, " batch"]
) -> tuple[Scalar, Float[Array, "batch ensemble"]]:
    """sum_i mean (Q_i(s, a) - y)^2 -> (it, the values Q_i(s, a))."""
    errors, q = q_errors(critic, batch, target)
    return jnp.sum(jnp.mean(errors, axis=0)), q


def mean_q_regression(
    critic: QEnsemble, batch: Transition, target: Float[Array, " batch"]
) -> tuple[Scalar, Float[Array, "batch ensemble"]]:
    """`q_regression`, of which the loss is a mean over heads."""
    loss, q = q_regression(critic, batch, target)
    return loss / q.shape[1], q


def smoothed_action(
    action: Float[Array, "batch action"],
    key: PRNGKey,
    noise: float | Scalar,
    noise_limit: float | Scalar,
    max_action: float,
) -> Float[Array, "batch action"]:
    """TD3's target action: `action` plus clipped normal noise, clipped to the action box (arXiv 1802.09477, eq. 14)."""
    draw = jnp.clip(noise * jax.random.normal(key, action.shape, action.dtype), -noise_limit, noise_limit)
    return jnp.clip(action + draw, -max_action, max_action)


def advantage_weights(
    advantage: Float[Array, " batch"], temperature: float | Scalar, limit: float | Scalar
) -> Float[Array, " batch"]:
    """min(exp(temperature A), limit), without gradient (arXiv 1910.00177). The limit acts before exp can overflow."""
    exponent = jnp.minimum(temperature * advantage, jnp.log(limit))
    return jax.lax.stop_gradient(jnp.exp(exponent))


def limited_exponent(u: Float[Array, " rows"], limit: float | Scalar) -> tuple[Float[Array, " rows"], Scalar]:
    """(min(u, limit), c) with c = max(batch max of that, -1), without gradient: e^(u-c) is at most 1.

    How the codes of EQL (arXiv 2303.15810) and XQL (arXiv 2301.02328) keep exponential losses finite: scaled by e^(-c).
    """
    u = jnp.minimum(u, limit)
    return u, jax.lax.stop_gradient(jnp.maximum(u.max(), -1.0))


def mmd(
    x: Float[Array, "samples action"],
    y: Float[Array, "others action"],
    kernel: str,
    width: float | Scalar,
) -> Scalar:
    """sqrt(MMD^2 + 1e-6) of two samples, self-pairs included (BEAR, arXiv 1906.00949).

    kernel: "gaussian" exp(-|x-y|_2^2 / (2 width)) or "laplacian" exp(-|x-y|_1 / (2 width)).
    """

    def mean_kernel(a: Array, b: Array) -> Scalar:
        difference = a[:, None, :] - b[None, :, :]
        distance = jnp.sum(difference**2 if kernel == "gaussian" else jnp.abs(difference), axis=-1)
        return jnp.mean(jnp.exp(-distance / (2.0 * width)))

    squared = mean_kernel(x, x) + mean_kernel(y, y) - 2.0 * mean_kernel(x, y)
    return jnp.sqrt(jnp.maximum(squared, 0.0) + 1e-6)


def polyak(target: T, online: T, rate: float | Scalar) -> T:
    """rate * online + (1 - rate) * target, leaf by leaf."""
    return jax.tree.map(lambda t, o: rate * o + (1.0 - rate) * t, target, online)


def average_when_due(average: T, online: T, rate: float | Scalar, step: Int[Array, ""], first: int, interval: int) -> T:
    """`polyak(average, online, rate)` in update `first` and every `interval`-th after it; else the average as it is."""
    due = (step >= first) & ((step - first) % interval == 0)
    return jax.lax.cond(due, lambda: polyak(average, online, rate), lambda: average)


def grad_in_parts(loss: Callable, part_rows: int) -> Callable:
    """`eqx.filter_grad(loss, has_aux=True)` of a `loss(network, *columns, **constants)` that is a mean over rows.

    On CPU a minibatch goes through it in equal parts of `part_rows`, so that wide layers stay in the cache. An
    accelerator, and a minibatch that does not divide, has one part. What the loss returns beside itself are means, too.
    """

    def grad(network: Any, *columns: Any, **constants: Any) -> Any:
        def of(rows: Any) -> Any:
            return eqx.filter_grad(loss, has_aux=True)(network, *rows, **constants)

        count = len(jax.tree.leaves(columns)[0])
        if jax.default_backend() != "cpu" or count % part_rows:
            return of(columns)
        parts = jax.tree.map(lambda column: column.reshape(-1, part_rows, *column.shape[1:]), columns)
        like = jax.eval_shape(of, jax.tree.map(lambda column: column[0], parts))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        total, _ = jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, of(part)), None), zeros, parts)
        return jax.tree.map(lambda leaf: leaf * (part_rows / count), total)

    return grad


def clip_actions(batch: Transition, max_action: float, margin: float = ACTION_MARGIN) -> Transition:
    """`batch` with its actions a hair inside the action box, as DAC's and BDPO's codes read their data."""
    limit = max_action - margin
    return batch._replace(action=jnp.clip(batch.action, -limit, limit))


def aggregate_heads(
    q: Float[Array, "ensemble *batch"], how: str, pessimism: float | Scalar = 0.0
) -> Float[Array, "*batch"]:
    """One value from the heads of an ensemble.

    "mean"; "min": the lowest head; "lcb": mean - pessimism * std, the population's (ddof 0; pessimism 0 is the mean);
    "convex": pessimism * min + (1 - pessimism) * max.
    """
    if how == "mean":
        return q.mean(axis=0)
    if how == "lcb":
        # The floor keeps the square root's gradient finite where all heads agree.
        deviation = jnp.sqrt(jnp.maximum(q.var(axis=0), 1e-12))
        return q.mean(axis=0) - pessimism * deviation
    if how == "min":
        return q.min(axis=0)
    return pessimism * q.min(axis=0) + (1.0 - pessimism) * q.max(axis=0)
