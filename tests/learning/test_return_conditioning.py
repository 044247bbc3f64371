"""A Decision Transformer where the right answer is known: it returns what it is asked for.

Every step pays the action itself and the data's actions are independent and alike. So whatever is known of the past,
given that n steps are left and R is still to come, the mean action is R / n: that is what regression must find. And who
acts by it is paid R / n at every step, up to R in all.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms import DT
from tether.data import Dataset, Source, View, prepare
from tether.training.lanes import make_lanes, stack_lanes, take_lane
from tether.training.loop import NEVER, init_lanes, run_updates
from tether.types import Array, Spec

EPISODE, EPISODES, UPDATES = 4, 1000, 1500
SPEC = Spec(observation_size=1, action_size=1)
TARGETS = [-1.5, 0.0, 2.0]


@functools.cache
def trained() -> tuple[Any, Any]:
    """Algorithm and state."""
    generator = np.random.default_rng(0)
    actions = generator.uniform(-0.9, 0.9, (EPISODE * EPISODES, 1))
    ends = np.tile(np.arange(EPISODE) == EPISODE - 1, EPISODES)
    nothing = np.zeros_like(actions)
    data = Dataset("sums", nothing, actions, actions[:, 0], ends, np.zeros_like(ends), None, Source("memory", "0" * 64))
    algorithm = DT(
        **{"width": 32, "block_count": 1, "context_length": 2, "episode_length": EPISODE, "return_scale": 1.0},
        **{"dropout": 0.0, "learning_rate": 2e-3, "warmup_updates": 50, "train_updates": UPDATES},
    )
    lanes = stack_lanes(algorithm, make_lanes(algorithm, [0], {}))
    table = prepare(data, view=View("trajectories", steps=2)).transitions
    keys = jax.random.key(0)[None]
    state, zero = init_lanes(lanes, SPEC, keys), jnp.asarray(0, jnp.int32)
    how = {"phase": 0, "batch_size": 64, "sequential": True}
    count, alive = jnp.asarray(UPDATES, jnp.int32), jnp.ones(1, bool)
    state, _, first = run_updates(lanes, state, keys, alive, jax.tree.map(jnp.asarray, table), zero, count, **how)
    assert (first == NEVER).all()
    return algorithm, take_lane(state, 0)


@jax.jit
def play(algorithm: DT, state: Any, targets: Array) -> Array:
    """(targets, EPISODE) actions of an episode, each paid by itself."""

    def one_target(target: Array) -> Array:
        policy = dataclasses.replace(algorithm, target_return=target).policy(state)

        def step(carry: Any, _: None) -> Any:
            memory, reward = carry
            action, memory = policy(jnp.zeros(1), jax.random.key(0), memory, reward)
            return (memory, action[0]), action[0]

        return jax.lax.scan(step, (policy.initial_memory(), jnp.zeros(())), None, length=EPISODE)[1]

    return jax.vmap(one_target)(targets)


@pytest.mark.long
def test_it_returns_what_it_is_asked_for() -> None:
    actions = np.asarray(play(*trained(), jnp.asarray(TARGETS)))
    np.testing.assert_allclose(actions.sum(axis=1), TARGETS, atol=0.1)
    np.testing.assert_allclose(actions, np.repeat(np.array(TARGETS)[:, None] / EPISODE, EPISODE, axis=1), atol=0.15)
