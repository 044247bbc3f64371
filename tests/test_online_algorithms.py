"""Equations of the methods that are made for fine-tuning, each against what it says by hand."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms import BestOfN, CalQL
from tether.algorithms.cal_ql import calibrated
from tether.algorithms.cql import Proposals, conservative_gap
from tether.networks import QEnsemble
from tether.policies.samplers import FlowSampler
from tether.types import Array, Spec, Transition

SPEC, ROWS = Spec(observation_size=3, action_size=2), 16
SIZES: dict[str, Any] = {"hidden_sizes": (8,)}
BOTH_SIZES: dict[str, Any] = SIZES | {"actor_hidden_sizes": (8,)}


def batch(**changes: Any) -> Transition:
    keys = jax.random.split(jax.random.key(7), 4)
    usual = Transition(
        jax.random.normal(keys[0], (ROWS, 3)),
        jnp.tanh(jax.random.normal(keys[1], (ROWS, 2))),
        jax.random.normal(keys[2], (ROWS,)),
        jax.random.normal(keys[3], (ROWS, 3)),
        (jnp.arange(ROWS) % 4 == 0).astype(jnp.float32),
    )
    return usual._replace(**changes)


class LinearQ(QEnsemble):
    """Two heads, slopes[i].a + i."""

    slopes: Array

    def __init__(self, *slopes: tuple[float, ...]):
        self.heads = ()
        self.slopes = jnp.asarray(slopes, jnp.float32)

    def __call__(self, observation: Array, action: Array) -> Array:
        return self.slopes @ action + jnp.arange(2.0)


def without_velocity(network: Any) -> Any:
    """The flow that leaves the noise as it is."""
    return jax.tree.map(jnp.zeros_like, network)


@eqx.filter_jit
def draws(policy: Any, count: int) -> Array:
    """So many actions of the policy for the observation 0."""
    return jax.vmap(lambda key: policy(jnp.zeros(1), key))(jax.random.split(jax.random.key(1), count))


# --- best-of-N ---


@pytest.mark.parametrize("aggregation", ["mean", "min"])
def test_the_online_critic_chooses_and_the_target_critic_values(aggregation: Any) -> None:
    algorithm = BestOfN(**SIZES, flow_steps=2, next_candidates=5, aggregation=aggregation, discount=0.9)
    online, target = LinearQ((2.0, -1.0), (-3.0, 0.5)), LinearQ((-1.0, 0.5), (0.3, 2.0))
    state = algorithm.init(SPEC, jax.random.key(0))._replace(critic=online, target_critic=target)
    rows, key = batch(), jax.random.key(5)
    aggregate, expected = getattr(np, aggregation), []
    for observation, k in zip(rows.next_observation, jax.random.split(key, ROWS), strict=True):
        actions = np.asarray(FlowSampler(state.flow, 2).sample(observation, k, 5))
        best = actions[np.argmax(aggregate(actions @ np.asarray(online.slopes).T + [0.0, 1.0], axis=1))]
        expected.append(aggregate(np.asarray(target.slopes) @ best + [0.0, 1.0]))
    y = np.asarray(rows.reward) + 0.9 * (1.0 - np.asarray(rows.terminal)) * np.asarray(expected)
    np.testing.assert_allclose(algorithm.critic_target(state, rows, key), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("candidates", "mean"), [(1, 0.0), (4, 1.0293754), (32, 2.0696688)])
def test_the_policy_is_the_greatest_of_n_draws(candidates: int, mean: float) -> None:
    """Of standard normals, as the flow stands still: the means of their order statistics are known."""
    algorithm = BestOfN(**SIZES, flow_steps=1, candidates=candidates)
    state = algorithm.init(Spec(1, 1, max_action=10.0), jax.random.key(0))
    state = state._replace(flow=without_velocity(state.flow), critic=LinearQ((1.0,), (1.0,)))
    assert float(draws(algorithm.policy(state), 20_000).mean()) == pytest.approx(mean, abs=0.03)


# --- Cal-QL ---


def test_returns_that_bind_nowhere_leave_cql() -> None:
    """To the last bit."""
    algorithm = CalQL(**BOTH_SIZES, proposals=3)
    state, rows, key = algorithm.init(SPEC, jax.random.key(0)), batch(), jax.random.key(1)
    update, step = jax.jit(algorithm.update), jnp.zeros((), jnp.int32)
    low, _ = update(state, rows._replace(return_to_go=jnp.full(ROWS, -1e9)), key, step)
    plain, _ = jax.jit(algorithm.conservative.update)(state, rows, key, step)
    assert all(bool((a == b).all()) for a, b in zip(jax.tree.leaves(low), jax.tree.leaves(plain), strict=True))
    other, _ = update(state, rows._replace(return_to_go=jnp.full(ROWS, 1.0)), key, step)
    assert any(bool((a != b).any()) for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(plain), strict=True))


def test_the_calibrated_gap_by_hand() -> None:
    """Uniform proposals count as they are, the policy's as the row's return where Q is lower: then none is pushed."""
    generator, critic = np.random.default_rng(0), LinearQ((2.0, -1.0), (0.5, 1.0))
    actions, density = generator.uniform(-1, 1, (ROWS, 5, 2)), generator.normal(size=(ROWS, 5))
    returns, rows, no_q = generator.normal(size=ROWS), batch(), jnp.zeros((ROWS, 2))
    proposals = Proposals(jnp.asarray(actions, jnp.float32), jnp.asarray(density, jnp.float32))
    bounded = calibrated(proposals, jnp.asarray(returns, jnp.float32), uniform=2)
    q = actions @ np.asarray(critic.slopes).T + [0.0, 1.0]
    q[:, 2:] = np.maximum(q[:, 2:], returns[:, None, None])
    expected = np.log(np.exp(q - density[..., None]).sum(axis=1)).mean(axis=0)
    np.testing.assert_allclose(conservative_gap(critic, rows.observation, no_q, bounded), expected, rtol=1e-5)

    def gap(actions: Array) -> Array:
        return conservative_gap(critic, rows.observation, no_q, bounded._replace(actions=actions)).sum()

    binds = (q[:, 2:] == returns[:, None, None]).all(axis=-1)
    pushed = np.abs(np.asarray(jax.grad(gap)(proposals.actions))).sum(axis=-1) > 0
    assert pushed[:, :2].all()
    np.testing.assert_array_equal(pushed[:, 2:], ~binds)
    assert 0.1 < binds.mean() < 0.9
