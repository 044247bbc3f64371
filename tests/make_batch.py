"""A small minibatch for tests of equations."""

from typing import Any

import jax
import jax.numpy as jnp

from tether.types import Spec, Transition

SPEC, ROWS = Spec(observation_size=3, action_size=2), 16


def batch(**changes: Any) -> Transition:
    """Random rows, every fourth of them terminal; `changes` are columns to put in."""
    keys = jax.random.split(jax.random.key(7), 4)
    usual = Transition(
        jax.random.normal(keys[0], (ROWS, 3)),
        jnp.tanh(jax.random.normal(keys[1], (ROWS, 2))),
        jax.random.normal(keys[2], (ROWS,)),
        jax.random.normal(keys[3], (ROWS, 3)),
        (jnp.arange(ROWS) % 4 == 0).astype(jnp.float32),
    )
    return usual._replace(**changes)
