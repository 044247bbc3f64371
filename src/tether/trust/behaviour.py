"""What was done in a state, as a network learns it: the expected action, and where rows are many the density of all."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.algorithms.shared.optimisers import adam_init, adam_step, cosine_decay
from tether.networks.layers import MLP
from tether.trust.support import INNERMOST, NARROWEST, PLAIN, SATURATING, WIDEST
from tether.types import Array, Float, Scalar

__all__ = ["HIDDEN_SIZES", "fit_behaviour", "has_density"]

HIDDEN_SIZES = (256, 256)
BATCH_SIZE = 256
MOST_EPOCHS = 25
FEWEST_UPDATES = 250  # worth a network, and a program to be compiled
FEWEST_ROWS, FEWEST_OF_DENSITY = 10_000, 1500  # rows and updates that a density is worth
PENALTY = 1e-3
LEARNING_RATE = 4e-3  # Adam, falling to 0 by a cosine
SEED = 0

Layers = tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]
"""Weights (out, in) and biases (out,) of each layer."""


def _updates(rows: int, most: int) -> int:
    return min(most, MOST_EPOCHS * rows // BATCH_SIZE)


def has_density(rows: int, most_updates: int) -> bool:
    """Whether so many rows, and updates, are worth fitting a density to."""
    return rows >= FEWEST_ROWS and _updates(rows, most_updates) >= FEWEST_OF_DENSITY


def fit_behaviour(
    states: Float[np.ndarray, "rows observation"],
    actions: Float[np.ndarray, "rows action"],
    updates: int,
    scale: Float[np.ndarray, " action"] | None = None,
) -> Layers:
    """The expected action, by squared error; with `scale` the density as well, by its likelihood.

    updates: at most so many; of few, or of few rows, the regression is affine.
    scale: deviations of the actions, the unit of the density.
    """
    updates = _updates(len(states), updates)
    if updates < FEWEST_UPDATES:
        return _affine(states.astype(np.float64), actions.astype(np.float64))
    network_key, key = jax.random.split(jax.random.key(SEED))
    size = actions.shape[1]
    outputs = size if scale is None else size + (PLAIN + SATURATING) * (1 + 2 * size)
    network = MLP(network_key, states.shape[1], HIDDEN_SIZES, outputs, activation=jax.nn.relu)
    unit = None if scale is None else jnp.asarray(scale)
    fitted = _fit(network, jnp.asarray(states), jnp.asarray(actions), unit, key, jnp.int32(updates))
    layers = jax.device_get(fitted.layers)
    return tuple(layer.weight for layer in layers), tuple(layer.bias for layer in layers)


def _affine(states: np.ndarray, actions: np.ndarray) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """One layer, by least squares."""
    mean, middle = states.mean(axis=0), actions.mean(axis=0)
    square = (states - mean).T @ (states - mean) / len(states) + PENALTY * np.eye(states.shape[1])
    weight = np.linalg.solve(square, (states - mean).T @ (actions - middle) / len(states)).T
    return (weight.astype(np.float32),), ((middle - weight @ mean).astype(np.float32),)


@jax.jit
def _fit(network: MLP, states: Array, actions: Array, scale: Array | None, key: Array, updates: Array) -> MLP:
    def loss(network: MLP, rows: Array) -> Scalar:
        given, action = jax.vmap(network)(states[rows]), actions[rows]
        error = given[:, : action.shape[1]] - action
        if scale is None:
            return jnp.mean(error**2)
        return jnp.mean(jnp.sum((error / scale[None]) ** 2, axis=1) - log_density(given, action, scale))

    def update(i: Array, carry: tuple[MLP, Any]) -> tuple[MLP, Any]:
        rows = jax.random.randint(jax.random.fold_in(key, i), (BATCH_SIZE,), 0, len(states), jnp.int32)
        rate = LEARNING_RATE * cosine_decay(i, updates.astype(jnp.float32))
        return adam_step(carry[0], eqx.filter_grad(loss)(carry[0], rows), carry[1], rate)

    return jax.lax.fori_loop(0, updates, update, (network, adam_init(network)))[0]


def log_density(given: Array, action: Array, scale: Array) -> Float[Array, " batch"]:
    """`tether.trust.support.log_density`, to be differentiated."""
    count, size = PLAIN + SATURATING, action.shape[1]
    logits, means, logs = jnp.split(given[:, size:], [count, count + count * size], axis=1)
    means, logs = (part.reshape(-1, count, size) for part in (means, logs))
    logs = jnp.clip(logs, np.log(NARROWEST), np.log(WIDEST))
    inner = jnp.clip(action, INNERMOST - 1.0, 1.0 - INNERMOST)
    places = jnp.stack([action] * PLAIN + [jnp.arctanh(inner)] * SATURATING, axis=1) / scale[None, None]
    volume = jnp.sum(jnp.log1p(-inner * inner), axis=1, keepdims=True)
    volumes = jnp.concatenate([jnp.zeros_like(volume)] * PLAIN + [volume] * SATURATING, axis=1)
    each = logits - volumes - jnp.sum(0.5 * ((places - means) / jnp.exp(logs)) ** 2 + logs, axis=2)
    return jax.scipy.special.logsumexp(each, axis=1) - jax.scipy.special.logsumexp(logits, axis=1)
