"""Equations of the methods that are made for fine-tuning, each against what it says by hand."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from make_batch import ROWS, SPEC, batch

from tether.algorithms import DSRL, RLPD, BestOfN, CalQL
from tether.algorithms.cal_ql import calibrated
from tether.algorithms.cql import Proposals, conservative_gap
from tether.algorithms.dsrl import noise_critic_loss
from tether.algorithms.rlpd import mean_actor_loss
from tether.algorithms.sac import soft_q_target
from tether.errors import InputError
from tether.networks import QEnsemble, stack_heads
from tether.policies.samplers import FlowSampler
from tether.types import Array, Spec

SIZES: dict[str, Any] = {"hidden_sizes": (8,)}
BOTH_SIZES: dict[str, Any] = SIZES | {"actor_hidden_sizes": (8,)}


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


# --- RLPD ---


class FourHeads(QEnsemble):
    """Of which head i says i^2 a."""

    def __init__(self):
        self.heads = tuple(jnp.asarray(i, jnp.float32) for i in range(4))

    def __call__(self, observation: Array, action: Array) -> Array:
        numbers = jnp.stack(self.heads) if isinstance(self.heads, tuple) else self.heads
        return numbers**2 * action[0]


@pytest.mark.parametrize("stacked", [False, True])
def test_a_subset_is_the_heads_asked_for(stacked: bool) -> None:
    critic = QEnsemble(jax.random.key(0), 3, 2, (8,), ensemble_size=5)
    rows = batch()
    every = jax.vmap(critic)(rows.observation, rows.action)
    chosen = jax.jit(lambda ensemble, i: jax.vmap(ensemble.subset(i))(rows.observation, rows.action))
    few = chosen(stack_heads(critic) if stacked else critic, jnp.asarray([3, 1]))
    np.testing.assert_allclose(few, every[:, [3, 1]], rtol=1e-5, atol=1e-6)


def test_targets_are_the_least_of_two_different_heads() -> None:
    """y of head i is i^2: the least of two of four is 0, 1 or 4, half, a third and a sixth of the time."""
    algorithm = RLPD(**SIZES, ensemble_size=4, entropy_backup=False, discount=1.0)
    state = algorithm.init(Spec(3, 2), jax.random.key(0))
    last = jnp.asarray([20.0, 0.0, 0.0, 0.0])  # a' is 1 in the first coordinate
    actor = eqx.tree_at(lambda a: a.network.layers[-1].bias, without_velocity(state.actor), last)
    state = state._replace(target_critic=FourHeads(), actor=actor)
    row = jax.tree.map(lambda column: column[:1], batch(reward=jnp.zeros(ROWS), terminal=jnp.zeros(ROWS)))
    target = jax.jit(jax.vmap(lambda key: algorithm.critic_target(state, row, key)[0]))
    y = np.asarray(target(jax.random.split(jax.random.key(1), 3000))).round(4)
    values, counts = np.unique(y, return_counts=True)
    np.testing.assert_array_equal(values, [0.0, 1.0, 4.0])
    np.testing.assert_allclose(counts / 3000, [1 / 2, 1 / 3, 1 / 6], atol=0.04)


def test_all_of_two_heads_are_the_target_of_sac() -> None:
    algorithm, rows, key = RLPD(**SIZES, ensemble_size=2, target_heads=2), batch(), jax.random.key(1)
    state = algorithm.init(SPEC, jax.random.key(0))
    state = state._replace(log_entropy_weight=jnp.asarray(-0.7))
    soft = soft_q_target(state, rows, 0.99, jnp.exp(jnp.asarray(-0.7)), jax.random.split(key)[1])
    np.testing.assert_allclose(algorithm.critic_target(state, rows, key), soft, rtol=1e-6)
    hard = dataclasses.replace(algorithm, entropy_backup=False).critic_target(state, rows, key)
    assert (np.abs(hard - soft)[rows.terminal == 0] > 1e-3).all()


def test_the_actor_climbs_the_mean_of_the_heads_in_the_last_of_g_updates() -> None:
    algorithm, rows = RLPD(**SIZES, ensemble_size=3, actor_update_interval=3), batch()
    state, key = algorithm.init(SPEC, jax.random.key(0)), jax.random.key(1)
    loss, log_density = mean_actor_loss(state.actor, LinearQ((1.0, 0.0), (3.0, 2.0)), rows, jnp.asarray(0.5), key)
    law = jax.vmap(state.actor)(rows.observation)
    noise = jax.random.normal(key, rows.action.shape)
    expected = 0.5 * law.log_density_of_noise(noise) - law.transform(noise) @ jnp.asarray([2.0, 1.0]) - 0.5
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(log_density, law.log_density_of_noise(noise).mean(), rtol=1e-6)
    update, moved = jax.jit(algorithm.update), []
    for step in range(4):
        after, _ = update(state, rows, key, jnp.asarray(step, jnp.int32))
        leaves = zip(jax.tree.leaves(after.actor), jax.tree.leaves(state.actor), strict=True)
        moved.append(any(bool((a != b).any()) for a, b in leaves))
        state = after
    assert moved == [False, False, True, False]


def test_more_heads_in_the_target_than_there_are_are_refused() -> None:
    with pytest.raises(InputError, match="target_heads 3: there are 2"):
        RLPD(ensemble_size=2, target_heads=3)


# --- DSRL ---


def steered_by(mean: list[float], log_std: list[float], **settings: Any) -> tuple[DSRL, Any]:
    """DSRL whose flow stands still and whose actor has one law in every state."""
    algorithm = DSRL(**SIZES, behaviour_hidden_sizes=(8,), flow_steps=2, **settings)
    state = algorithm.init(SPEC, jax.random.key(0))
    last = jnp.asarray(mean + log_std, jnp.float32)
    actor = eqx.tree_at(lambda a: a.network.layers[-1].bias, without_velocity(state.actor), last)
    return algorithm, state._replace(flow=without_velocity(state.flow), actor=actor)


def test_the_target_of_dsrl_by_hand() -> None:
    """y = r + gamma (1 - d) (min_i Q_i(s', b tanh(...)) - alpha log pi), as the flow leaves the noise as it is."""
    mean, std, slopes = np.asarray([0.3, -0.5]), np.asarray([0.5, 0.2]), ((2.0, -1.0), (0.5, 1.0))
    algorithm, state = steered_by(mean.tolist(), np.log(std).tolist(), noise_bound=0.8, discount=0.9)
    state = state._replace(target_critic=LinearQ(*slopes), log_entropy_weight=jnp.asarray(np.log(0.7), jnp.float32))
    rows, key = batch(), jax.random.key(5)
    before = mean + std * np.asarray(jax.random.normal(key, (ROWS, 2)))
    q = 0.8 * np.tanh(before) @ np.asarray(slopes).T + [0.0, 1.0]
    log_density = (scipy.stats.norm.logpdf(before, mean, std) - np.log1p(-(np.tanh(before) ** 2))).sum(axis=1)
    expected = np.asarray(rows.reward) + 0.9 * (1 - np.asarray(rows.terminal)) * (q.min(axis=1) - 0.7 * log_density)
    np.testing.assert_allclose(algorithm.critic_target(state, rows, key), expected, rtol=2e-5, atol=2e-5)


def test_values_of_noise_are_those_of_the_actions_it_leads_to() -> None:
    """Q_i(s, w) = g.w for a flow that stands still, so Q^W_i(s, u) = b g.u has no loss; another bound has one."""
    generator, bound = np.random.default_rng(0), 0.5
    unit = jnp.asarray(generator.normal(size=(ROWS, 2)), jnp.float32)
    slopes = np.asarray(((2.0, -1.0), (0.5, 1.0)))
    values = jax.vmap(LinearQ(*slopes))(batch().observation, bound * unit)
    right = noise_critic_loss(LinearQ(*(bound * slopes)), batch().observation, unit, values)
    wrong = noise_critic_loss(LinearQ(*slopes), batch().observation, unit, values)
    swapped = noise_critic_loss(LinearQ(*(bound * slopes)), batch().observation, unit, values[:, ::-1])
    assert float(right) < 1e-10
    assert float(wrong) > 0.1
    assert float(swapped) > 0.1


@pytest.mark.parametrize("bound", [0.2, 0.9])
def test_noise_stays_in_its_box(bound: float) -> None:
    algorithm, state = steered_by([0.0, 0.0], [1.0, 1.0], noise_bound=bound)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(algorithm.policy(state)))  # as folders need it
    actions = np.asarray(eqx.filter_jit(algorithm.steered(state).sample)(jnp.zeros(3), jax.random.key(0), 1000))
    assert 0.99 * bound < np.abs(actions).max() <= bound
