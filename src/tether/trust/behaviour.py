"""The regression of actions on observations that trust looks at actions by."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.algorithms.shared.optimisers import adam_init, adam_step, cosine_decay
from tether.networks.layers import MLP
from tether.types import Array, Float, Scalar

__all__ = ["HIDDEN_SIZES", "fit_behaviour"]

HIDDEN_SIZES = (256, 256)
BATCH_SIZE = 256
MOST_EPOCHS = 50
FEWEST_UPDATES = 500  # worth a network, and a program to be compiled
PENALTY = 1e-3
LEARNING_RATE = 2e-3  # Adam, falling to 0 by a cosine
SEED = 0


def fit_behaviour(
    states: Float[np.ndarray, "rows observation"], actions: Float[np.ndarray, "rows action"], updates: int
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Weights (out, in) and biases (out,) of the layers, by mean squared error.

    updates: at most so many; of few, or of few rows, the regression is affine.
    """
    updates = min(updates, MOST_EPOCHS * len(states) // BATCH_SIZE)
    if updates < FEWEST_UPDATES:
        return _affine(states.astype(np.float64), actions.astype(np.float64))
    network_key, key = jax.random.split(jax.random.key(SEED))
    network = MLP(network_key, states.shape[1], HIDDEN_SIZES, actions.shape[1], activation=jax.nn.relu)
    fitted = _fit(network, jnp.asarray(states), jnp.asarray(actions), key, jnp.int32(updates))
    layers = jax.device_get(fitted.layers)
    return tuple(layer.weight for layer in layers), tuple(layer.bias for layer in layers)


def _affine(states: np.ndarray, actions: np.ndarray) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """One layer, by least squares."""
    mean, middle = states.mean(axis=0), actions.mean(axis=0)
    square = (states - mean).T @ (states - mean) / len(states) + PENALTY * np.eye(states.shape[1])
    weight = np.linalg.solve(square, (states - mean).T @ (actions - middle) / len(states)).T
    return (weight.astype(np.float32),), ((middle - weight @ mean).astype(np.float32),)


@jax.jit
def _fit(network: MLP, states: Array, actions: Array, key: Array, updates: Array) -> MLP:
    def loss(network: MLP, rows: Array) -> Scalar:
        return jnp.mean((jax.vmap(network)(states[rows]) - actions[rows]) ** 2)

    def update(i: Array, carry: tuple[MLP, Any]) -> tuple[MLP, Any]:
        rows = jax.random.randint(jax.random.fold_in(key, i), (BATCH_SIZE,), 0, len(states), jnp.int32)
        rate = LEARNING_RATE * cosine_decay(i, updates.astype(jnp.float32))
        return adam_step(carry[0], eqx.filter_grad(loss)(carry[0], rows), carry[1], rate)

    return jax.lax.fori_loop(0, updates, update, (network, adam_init(network)))[0]
