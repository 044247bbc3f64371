"""Equations of SAC, BRAC, IFQL and diffusion cloning, each against what it says by hand."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from make_batch import ROWS, SPEC, batch

from tether.algorithms import BRACP, BRACV, DQL, IFQL, IQL, SAC, DiffusionBC
from tether.algorithms.brac import sampled_kl
from tether.algorithms.iql import update_critic
from tether.algorithms.sac import entropy_weight_step, soft_actor_loss, soft_q_target
from tether.algorithms.shared.optimisers import adam_init
from tether.diffusion.flow import flow_loss
from tether.networks import QEnsemble
from tether.types import Array

SIZES: dict[str, Any] = {"hidden_sizes": (8,)}
STEP = jnp.asarray(0, jnp.int32)


class LinearQ(QEnsemble):
    """Two heads, slope.a and slope.a + 1."""

    slope: Array

    def __init__(self, *slope: float):
        self.heads = ()
        self.slope = jnp.asarray(slope, jnp.float32)

    def __call__(self, observation: Array, action: Array) -> Array:
        return self.slope @ action + jnp.asarray([0.0, 1.0])


def constant_law(actor: Any, mean: list[float], log_std: list[float]) -> Any:
    """The actor whose output is this law in every state."""
    zeroed = jax.tree.map(jnp.zeros_like, actor)
    last = jnp.asarray(mean + log_std, jnp.float32)
    return eqx.tree_at(lambda a: a.network.layers[-1].bias, zeroed, last)


def log_density(before_tanh: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """Of tanh(u): log N(u) - log(1 - tanh(u)^2), summed."""
    normal = scipy.stats.norm.logpdf(before_tanh, mean, std)
    return (normal - np.log1p(-(np.tanh(before_tanh) ** 2))).sum(axis=-1)


# --- SAC ---


def test_soft_target_by_hand() -> None:
    state, mean, std = SAC(**SIZES).init(SPEC, jax.random.key(0)), [0.3, -0.5], [0.5, 0.2]
    actor = constant_law(state.actor, mean, np.log(std).tolist())
    state = state._replace(actor=actor, target_critic=LinearQ(2.0, -1.0))
    key, rows = jax.random.key(5), batch()
    before_tanh = np.asarray(mean) + np.asarray(std) * np.asarray(jax.random.normal(key, (ROWS, 2)))
    soft_value = np.tanh(before_tanh) @ [2.0, -1.0] - 0.7 * log_density(before_tanh, mean, std)  # the lower head
    expected = np.asarray(rows.reward) + 0.9 * (1 - np.asarray(rows.terminal)) * soft_value
    np.testing.assert_allclose(soft_q_target(state, rows, 0.9, 0.7, key), expected, rtol=2e-5, atol=2e-5)


def test_sac_actor_loss_is_the_soft_kl_by_hand() -> None:
    """E[alpha log pi - min Q] of many draws is the integral over the law, for Q linear in the action."""
    mean, std, alpha = [0.3, -0.5], [0.5, 0.2], 0.7
    actor = constant_law(SAC(**SIZES).init(SPEC, jax.random.key(0)).actor, mean, np.log(std).tolist())
    many = jax.tree.map(lambda column: jnp.repeat(column, 2000, axis=0), batch())
    loss, log_pi = soft_actor_loss(actor, LinearQ(2.0, -1.0), many, jnp.asarray(alpha), jax.random.key(1))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    entropy = sum(weights @ log_density((m + s * nodes)[:, None], m, s) for m, s in zip(mean, std, strict=True))
    value = sum(c * (weights @ np.tanh(m + s * nodes)) for c, m, s in zip([2.0, -1.0], mean, std, strict=True))
    assert float(log_pi) == pytest.approx(entropy, abs=0.02)
    assert float(loss) == pytest.approx(alpha * entropy - value, abs=0.03)


def test_temperature_rises_while_the_entropy_is_below_its_target() -> None:
    log_weight = jnp.asarray(np.log(0.5), jnp.float32)
    for log_density_, direction in ((3.0, 1), (-3.0, -1)):  # entropies -3 and 3 around a target of 1
        stepped, _ = entropy_weight_step(log_weight, jnp.asarray(log_density_), 1.0, adam_init(log_weight), 1e-3)
        assert float(stepped - log_weight) == pytest.approx(direction * 1e-3, rel=1e-3)  # Adam's first step is the rate


# --- BRAC ---


def test_brac_divergence_of_a_law_from_itself_is_zero() -> None:
    state = BRACP(**SIZES).init(SPEC, jax.random.key(0))
    narrow = constant_law(state.actor, [0.2, -0.4], [-3.0, -3.0])  # inside the margin of the box
    noise = jax.random.normal(jax.random.key(1), (64, 2))
    assert float(sampled_kl(narrow(jnp.ones(3)), narrow(jnp.ones(3)), noise)) == pytest.approx(0.0, abs=1e-3)


def test_brac_divergence_is_that_of_the_normals_before_tanh() -> None:
    """A divergence does not change under an invertible map, so tanh drops out."""
    state = BRACP(**SIZES).init(SPEC, jax.random.key(0))

    def law(mean: list[float], std: list[float]) -> Any:
        low, high = -5.0, 0.0  # log_std = low + (high - low) (tanh(x) + 1) / 2
        squashed = np.arctanh(2 * (np.log(std) - low) / (high - low) - 1)
        return constant_law(state.actor, mean, squashed.tolist())

    mean, std, other_mean, other_std = [0.2, -0.4], [0.3, 0.1], [0.0, -0.5], [0.4, 0.2]
    terms = [
        np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5
        for m, s, n, t in zip(mean, std, other_mean, other_std, strict=True)
    ]
    noise = jax.random.normal(jax.random.key(1), (50_000, 2))
    estimate = sampled_kl(law(mean, std)(jnp.ones(3)), law(other_mean, other_std)(jnp.ones(3)), noise)
    assert float(estimate) == pytest.approx(sum(terms), abs=0.01)


def test_brac_v_pays_the_divergence_in_the_target_and_brac_p_does_not() -> None:
    """With one row, equal keys and a critic at 0, the losses of both differ by the penalty alone."""
    rows = batch(reward=jnp.zeros(ROWS), terminal=jnp.zeros(ROWS))
    losses = {}
    for weight in (0.0, 2.0):
        for cls in (BRACP, BRACV):
            algorithm = cls(**SIZES, actor_hidden_sizes=(8,), kl_weight=weight)
            state = algorithm.init(SPEC, jax.random.key(0))
            zero = jax.tree.map(jnp.zeros_like, state.critic)
            state = state._replace(critic=zero, target_critic=zero)
            losses[cls, weight] = float(algorithm.update(state, rows, jax.random.key(2), STEP)[1]["critic/q_loss"])
    assert losses[BRACP, 0.0] == losses[BRACP, 2.0] == losses[BRACV, 0.0] == 0.0
    algorithm, key = BRACV(**SIZES, actor_hidden_sizes=(8,), kl_weight=2.0), jax.random.key(2)
    state = algorithm.init(SPEC, jax.random.key(0))
    noise = jax.random.normal(jax.random.split(key)[0], (ROWS, algorithm.samples, 2), jnp.float32)
    kl = jax.vmap(lambda o, n: sampled_kl(state.actor(o), state.behaviour(o), n))(rows.next_observation, noise)
    assert losses[BRACV, 2.0] == pytest.approx(2 * float(jnp.mean((0.99 * 2.0 * kl) ** 2)), rel=1e-5)  # two heads


@pytest.mark.parametrize("cls", [BRACP, BRACV])
def test_brac_begins_with_the_divergence_alone(cls: Any) -> None:
    algorithm = cls(**SIZES, actor_hidden_sizes=(8,), kl_weight=0.0, warmup_updates=100)
    state = algorithm.init(SPEC, jax.random.key(0))
    for step, moves in ((99, False), (100, True)):
        after, _ = algorithm.update(state, batch(), jax.random.key(2), jnp.asarray(step, jnp.int32))
        assert bool(eqx.tree_equal(after.actor, state.actor)) is not moves  # without its weight nothing else pulls
        assert eqx.tree_equal(after.behaviour, state.behaviour)


# --- IFQL ---


def test_ifql_clones_whatever_the_rewards_and_its_critic_is_iqls() -> None:
    algorithm = IFQL(**SIZES)
    state, key = algorithm.init(SPEC, jax.random.key(0)), jax.random.key(3)
    one, metrics = algorithm.update(state, batch(), key, STEP)
    two, _ = algorithm.update(state, batch(reward=jnp.ones(ROWS) * 50.0), key, STEP)
    assert eqx.tree_equal(one.actor, two.actor)
    assert not eqx.tree_equal(one.critic, two.critic)
    assert float(metrics["actor/loss"]) == pytest.approx(
        float(flow_loss(state.actor, batch().action, batch().observation, key)), rel=1e-6
    )
    critic, _, _ = update_critic(
        state.critic, state.target_critic, state.critic_optimiser, batch(), 0.9, IQL().discount, 3e-4
    )
    assert eqx.tree_equal(critic, one.critic)


def test_ifql_acts_by_its_best_sample() -> None:
    algorithm = IFQL(**SIZES, candidates=16)
    state, key, observation = algorithm.init(SPEC, jax.random.key(0)), jax.random.key(4), jnp.ones(3)
    policy = eqx.tree_at(lambda p: p.critic, algorithm.policy(state), LinearQ(1.0, -2.0))
    drawn = jnp.clip(policy.actor.sample(observation, key, 16), -1.0, 1.0)
    np.testing.assert_array_equal(policy(observation, key), drawn[jnp.argmax(drawn @ jnp.asarray([1.0, -2.0]))])


# --- diffusion cloning ---


@pytest.mark.long
def test_diffusion_cloning_is_dql_without_its_critic() -> None:
    """Equal noise, equal loss, equal gradient (eta = 0 equals Diffusion-BC)."""
    dql, cloning = DQL(**SIZES, diffusion_steps=3, q_weight=0.0), DiffusionBC(**SIZES, diffusion_steps=3)
    critic_state, key = dql.init(SPEC, jax.random.key(0)), jax.random.key(1)
    state = cloning.init(SPEC, jax.random.key(2))._replace(actor=critic_state.actor)
    grad = eqx.filter_value_and_grad(dql.actor_loss, has_aux=True)
    (loss, _), _ = grad(critic_state.actor, critic_state.critic, batch(), key)
    after, metrics = cloning.update(state, batch(), jax.random.split(key, 3)[0], STEP)
    assert float(metrics["actor/loss"]) == pytest.approx(float(loss), rel=1e-6)
    # Adam's first step has the gradient's sign and the rate's size.
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), after.actor, state.actor)
    assert max(map(float, jax.tree.leaves(moved))) == pytest.approx(3e-4, rel=1e-2)
    averaged = jax.tree.map(lambda new, old: 0.005 * new + 0.995 * old, after.actor, state.target_actor)
    for ours, expected in zip(jax.tree.leaves(after.target_actor), jax.tree.leaves(averaged), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-7)


def test_diffusion_cloning_does_not_look_at_rewards() -> None:
    algorithm = DiffusionBC(**SIZES, diffusion_steps=3)
    state, key = algorithm.init(SPEC, jax.random.key(0)), jax.random.key(1)
    one, _ = algorithm.update(state, batch(), key, STEP)
    two, _ = algorithm.update(state, batch(reward=jnp.full(ROWS, 1e6), terminal=jnp.ones(ROWS)), key, STEP)
    assert eqx.tree_equal(one, two)
