"""Identities that the baselines must satisfy, beside the contract suite and the bandit."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms import ALGORITHMS, AWAC, BC, BCQ, BEAR, CQL, DQL, EDP, FQL, IQL, SRPO, TD3BC, Onestep, ReBRAC
from tether.algorithms.cql import PART_ROWS, Proposals, conservative_gap
from tether.algorithms.ivr import eql_value_loss, sql_value_loss
from tether.algorithms.registry import parse_fields
from tether.algorithms.rem import mixture_weights
from tether.algorithms.shared.losses import (
    advantage_weights,
    expectile_loss,
    grad_in_parts,
    mmd,
    smoothed_action,
)
from tether.algorithms.xql import gumbel_loss
from tether.diffusion import vp, vp_sde
from tether.diffusion.flow import euler_flow, flow_loss
from tether.networks import DeterministicActor, FreeGaussianActor, GaussianActor, QEnsemble, ValueNetwork, orthogonal
from tether.networks.vae import vae_loss
from tether.policies.acting import BestOfSamples
from tether.policies.samplers import NoiseSampler
from tether.presets import load_presets
from tether.types import Array, Spec, Transition

SPEC, ROWS = Spec(observation_size=3, action_size=2), 16
SIZES: dict[str, Any] = {"hidden_sizes": (8,)}
BOTH_SIZES = SIZES | {"actor_hidden_sizes": (8,)}


def batch(**changes: Any) -> Transition:
    keys = jax.random.split(jax.random.key(7), 4)
    action = jnp.tanh(jax.random.normal(keys[1], (ROWS, 2)))
    usual = Transition(
        jax.random.normal(keys[0], (ROWS, 3)),
        action,
        jax.random.normal(keys[2], (ROWS,)),
        jax.random.normal(keys[3], (ROWS, 3)),
        jnp.zeros(ROWS),
        next_action=jnp.roll(action, -1, axis=0),
    )
    return usual._replace(**changes)


def same(one: Any, two: Any) -> bool:
    return bool(eqx.tree_equal(one, two))


class ConstantQ(QEnsemble):
    """Two heads, 1.5 and 2.5 everywhere."""

    def __init__(self):
        self.heads = ()

    def __call__(self, observation: Array, action: Array) -> Array:
        return jnp.asarray([1.5, 2.5]) + 0.0 * action.sum()

    def first(self, observation: Array, action: Array) -> Array:
        return self(observation, action)[0]


class LinearQ(ConstantQ):
    """Two heads, both slope.a."""

    slope: Array

    def __init__(self, *slope: float):
        super().__init__()
        self.slope = jnp.asarray(slope, jnp.float32)

    def __call__(self, observation: Array, action: Array) -> Array:
        return jnp.broadcast_to(self.slope @ action, (2,))


# --- policies and their densities ---


@pytest.mark.parametrize("max_action", [1.0, 0.5])
def test_tanh_gaussian_density_integrates_to_one(max_action: float) -> None:
    actor = GaussianActor(jax.random.key(0), 1, 1, (4,), max_action, log_std_range=(-1.0, 0.0))
    law = actor(jnp.ones(1))
    edges = np.linspace(-max_action, max_action, 20_001)
    middle = jnp.asarray((edges[1:] + edges[:-1]) / 2, jnp.float32)[:, None]
    density = jnp.exp(jax.vmap(law.log_density)(middle))
    assert float(density.sum()) * (edges[1] - edges[0]) == pytest.approx(1.0, abs=2e-3)
    noise = jnp.linspace(-2.0, 2.0, 9)[:, None]
    actions = jax.vmap(law.transform)(noise)
    np.testing.assert_allclose(
        jax.vmap(law.log_density_of_noise)(noise), jax.vmap(law.log_density)(actions), rtol=1e-3, atol=1e-3
    )


def test_log_std_is_squashed_or_clamped_into_its_range() -> None:
    far = jnp.full(3, 1e3)
    for squashed in (False, True):
        how: dict[str, Any] = {"log_std_range": (-5.0, 0.0), "squashed_log_std": squashed}
        law = GaussianActor(jax.random.key(0), 3, 2, (8,), 1.0, **how)(far)
        assert ((law.log_std >= -5.0) & (law.log_std <= 0.0)).all()
    law = GaussianActor(jax.random.key(0), 3, 2, (8,), 1.0, mean_limit=9.0)(1e3 * far)
    assert jnp.abs(law.mean).max() == 9.0


def test_free_gaussian_is_a_plain_normal() -> None:
    actor = FreeGaussianActor(jax.random.key(0), 3, 2, (8,), 1.0, initialiser=orthogonal(1.0))
    x, a = jnp.ones(3), jnp.asarray([0.3, -0.4])
    expected = -0.5 * jnp.sum((a - actor.mode(x)) ** 2) - jnp.log(2 * jnp.pi)
    assert float(actor.log_density(x, a)) == pytest.approx(float(expected), rel=1e-5)
    draws = actor.sample(x, jax.random.key(1), 500)
    assert jnp.abs(draws).max() <= 1.0
    assert draws.std() > 0.3


# --- BC: a linear-Gaussian toy reaches the noise floor ---


def test_cloning_reaches_the_noise_floor() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (512, 3))
    noise = 0.1 * jax.random.normal(keys[1], (512, 2))
    action = jnp.clip(0.3 * x[:, :2] + noise, -1.0, 1.0)
    data = Transition(x, action, jnp.zeros(512), x, jnp.zeros(512))
    algorithm = BC(hidden_sizes=(32,), learning_rate=3e-3)
    state = algorithm.init(SPEC, jax.random.key(1))

    @jax.jit
    def train(state: Any) -> tuple[Any, Array]:
        def one(state: Any, step: Array) -> tuple[Any, Array]:
            state, metrics = algorithm.update(state, data, jax.random.key(0), step)
            return state, metrics["actor/loss"]

        return jax.lax.scan(one, state, jnp.arange(1500, dtype=jnp.int32))

    losses = train(state)[1]
    assert float(losses[-1]) == pytest.approx(float(jnp.mean(noise**2)), rel=0.15)


# --- TD3+BC, ReBRAC ---


def test_td3_bc_leaves_actor_and_targets_alone_in_odd_updates() -> None:
    algorithm = TD3BC(**SIZES)
    state = algorithm.init(SPEC, jax.random.key(0))
    update = jax.jit(algorithm.update)
    odd, _ = update(state, batch(), jax.random.key(1), jnp.int32(1))
    even, _ = update(state, batch(), jax.random.key(1), jnp.int32(2))
    for field in ("actor", "target_actor", "target_critic"):
        assert same(getattr(odd, field), getattr(state, field))
        assert not same(getattr(even, field), getattr(state, field))
    assert same(odd.critic, even.critic)


def test_td3_bc_normaliser_has_no_gradient() -> None:
    """Scaling Q leaves the gradient as it is, which a gradient through lambda would not."""
    algorithm = TD3BC(**SIZES)
    actor = algorithm.init(SPEC, jax.random.key(0)).actor
    one, ten = (
        eqx.filter_grad(algorithm.actor_loss, has_aux=True)(actor, LinearQ(k * 0.7, k * -0.3), batch())[0]
        for k in (1, 10)
    )
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(ten), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_smoothing_noise_is_clipped_twice() -> None:
    action = jnp.full((4000, 1), 0.9)
    moved = smoothed_action(action, jax.random.key(0), 10.0, 0.25, 1.0)
    assert float(moved.max()) == 1.0
    assert float(moved.min()) == pytest.approx(0.65)


def test_rebrac_target_pays_for_leaving_the_datas_next_action() -> None:
    algorithm = ReBRAC(**SIZES, critic_penalty=0.5, target_noise=0.0, discount=1.0)
    state = algorithm.init(SPEC, jax.random.key(0))._replace(target_critic=ConstantQ())
    data = batch(reward=jnp.zeros(ROWS))
    action = jax.vmap(state.target_actor)(data.next_observation)
    assert data.next_action is not None
    expected = 1.5 - 0.5 * jnp.sum((action - data.next_action) ** 2, axis=1)
    np.testing.assert_allclose(algorithm.critic_target(state, data, jax.random.key(0)), expected, rtol=1e-5)


# --- IQL, SQL, EQL, XQL, AWAC ---

Q = jnp.asarray(np.random.default_rng(0).normal(size=400), jnp.float32)


def minimiser(loss: Any) -> float:
    """The v that minimises loss(v, Q), by bisection of its slope."""
    slope = jax.jit(jax.grad(lambda v: loss(jnp.full_like(Q, v), Q)))
    low, high = -20.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if float(slope(middle)) > 0 else (middle, high)
    return (low + high) / 2


def test_iql_with_expectile_one_half_regresses_the_mean() -> None:
    found = minimiser(lambda v, q: expectile_loss(q - v, 0.5))
    assert found == pytest.approx(float(Q.mean()), abs=1e-4)


def test_sql_lies_between_mean_and_maximum() -> None:
    mean, middle, sharp = (minimiser(lambda v, q, a=a: sql_value_loss(v, q, a)) for a in (100.0, 1.0, 1e-5))
    assert mean == pytest.approx(float(Q.mean()), abs=1e-2)
    assert mean <= middle + 1e-3 < sharp
    assert sharp == pytest.approx(float(Q.max()), abs=0.02)


def xql_value_loss(value: Array, q: Array, alpha: float) -> Array:
    return gumbel_loss(value, q, alpha, 7.0)


@pytest.mark.parametrize("loss", [eql_value_loss, xql_value_loss])
def test_eql_and_xql_are_the_soft_maximum(loss: Any) -> None:
    alpha = 2.0  # no clip is active: Q reaches 3 alpha nowhere
    expected = alpha * float(jax.nn.logsumexp(Q / alpha) - np.log(len(Q)))
    assert minimiser(lambda v, q: loss(v, q, alpha)) == pytest.approx(expected, abs=2e-3)


def test_exponential_values_stay_finite_far_from_their_optimum() -> None:
    for loss in (eql_value_loss, xql_value_loss):
        for v in (-1e4, 1e4):
            value, slope = jax.value_and_grad(lambda v, loss=loss: loss(jnp.full_like(Q, v), Q, 0.1))(v)
            assert jnp.isfinite(value)
            assert jnp.isfinite(slope)


def test_advantage_weights_are_limited_before_they_overflow() -> None:
    np.testing.assert_allclose(
        advantage_weights(jnp.asarray([0.0, 0.5, 1e6]), 3.0, 100.0), [1.0, np.exp(1.5), 100.0], rtol=1e-5
    )
    assert jax.grad(lambda a: advantage_weights(a[None], 3.0, 100.0).sum())(0.5) == 0.0


@pytest.mark.parametrize(
    ("algorithm", "cloning"),
    [(IQL(**SIZES, inverse_temperature=0.0), "beta 0"), (AWAC(**SIZES, temperature=1e9), "lambda infinite")],
)
def test_without_advantage_it_is_cloning(algorithm: Any, cloning: str) -> None:
    state = algorithm.init(SPEC, jax.random.key(0))
    _, metrics = algorithm.update(state, batch(), jax.random.key(1), jnp.int32(0))
    log_density = jax.vmap(state.actor.log_density)(batch().observation, batch().action)
    assert float(metrics["actor/weight"]) == pytest.approx(1.0, abs=1e-6)
    assert float(metrics["actor/loss"]) == pytest.approx(-float(log_density.mean()), rel=1e-4)


# --- Onestep: SARSA with the data's own next action ---


def test_sarsa_uses_the_next_action_of_the_data() -> None:
    algorithm = Onestep(**SIZES, discount=0.5)
    state = algorithm.init(SPEC, jax.random.key(0))._replace(target_critic=LinearQ(1.0, 2.0))
    data = batch()
    assert data.next_action is not None
    expected = data.reward + 0.5 * data.next_action @ jnp.asarray([1.0, 2.0])
    np.testing.assert_allclose(algorithm.critic_target(state, data), expected, rtol=1e-5)


# --- CQL ---


def gap_of(critic: Any, proposals: Proposals, floor: float | None = None) -> Array:
    """The gap on `batch()`."""
    rows = batch()
    q = jax.vmap(critic)(rows.observation, rows.action)
    return conservative_gap(critic, rows.observation, q, proposals, floor)


def test_conservative_gap_is_a_log_sum() -> None:
    """Constant Q and uniform proposals: Z = Q + log(count) + A log 2."""
    count = 30
    actions = jax.random.uniform(jax.random.key(0), (ROWS, count, 2), minval=-1.0, maxval=1.0)
    proposals = Proposals(actions, jnp.full((ROWS, count), -2 * np.log(2.0), jnp.float32))
    np.testing.assert_allclose(gap_of(ConstantQ(), proposals), np.log(count) + 2 * np.log(2), rtol=1e-5)


def test_cql_proposals_carry_their_densities_and_no_gradient() -> None:
    algorithm = CQL(**BOTH_SIZES, proposals=3)
    actor = algorithm.init(SPEC, jax.random.key(0)).actor
    proposals = algorithm.propose(actor, batch(), jax.random.key(1))
    assert proposals.actions.shape == (ROWS, 9, 2)
    np.testing.assert_allclose(proposals.log_density[:, :3], -2 * np.log(2.0), rtol=1e-5)
    for first, observation in ((3, batch().observation), (6, batch().next_observation)):
        law = jax.vmap(actor)(observation)
        expected = law.log_density(proposals.actions[:, first], 1e-7)
        np.testing.assert_allclose(proposals.log_density[:, first], expected, rtol=2e-2, atol=2e-2)
    gradient = eqx.filter_grad(lambda a: sum(x.sum() for x in algorithm.propose(a, batch(), jax.random.key(1))[:2]))(
        actor
    )
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_cql_without_penalty_is_sac_without_entropy_in_the_backup() -> None:
    algorithm = CQL(**BOTH_SIZES, penalty_weight=0.0, proposals=2)
    state = algorithm.init(SPEC, jax.random.key(0))
    target = algorithm.critic_target(state, batch(), jax.random.key(2))
    proposals = algorithm.propose(state.actor, batch(), jax.random.key(3))
    loss, _ = algorithm.critic_loss(state.critic, batch(), target, proposals, None)
    q = jax.vmap(state.critic)(batch().observation, batch().action)
    assert float(loss) == pytest.approx(float(jnp.sum(jnp.mean((q - target[:, None]) ** 2, axis=0))), rel=1e-5)


class CrossedQ(QEnsemble):
    """Two heads that disagree about which action is the better one."""

    def __init__(self):
        self.heads = ()

    def __call__(self, observation: Array, action: Array) -> Array:
        return jnp.stack([action[0], -action[0]])


def test_the_max_q_backup_of_cql_is_of_the_least_heads() -> None:
    """min_i Q_i = -|a_0| here: its best action is the one nearest to 0, whatever the heads' own best are."""
    algorithm = CQL(**BOTH_SIZES, max_q_backup=True, proposals=4, discount=1.0)
    state = algorithm.init(SPEC, jax.random.key(0))._replace(target_critic=CrossedQ())
    data, key = batch()._replace(terminal=jnp.zeros(ROWS)), jax.random.key(1)
    value = algorithm.critic_target(state, data, key) - data.reward
    draw = jax.vmap(lambda o, k: state.actor.sample(o, k, 4))
    actions = draw(data.next_observation, jax.random.split(key, ROWS))
    np.testing.assert_allclose(value, -jnp.abs(actions[:, :, 0]).min(axis=1), atol=1e-6)


def test_the_log_std_of_cql_starts_at_minus_one() -> None:
    law = jax.vmap(CQL(**BOTH_SIZES).init(SPEC, jax.random.key(0)).actor)(batch().observation)
    np.testing.assert_allclose(law.log_std, -1.0, atol=0.1)
    np.testing.assert_allclose(law.mean, 0.0, atol=0.1)


def test_rows_below_the_floor_of_the_gap_count_as_it_and_push_nothing() -> None:
    actions, dense = jnp.zeros((ROWS, 3, 2)), jnp.full((ROWS, 3), 1e3, jnp.float32)  # Z - Q is log 3 - 1000
    half = Proposals(actions, dense.at[: ROWS // 2].set(0.0))
    expected = 0.5 * np.log(3.0) + 0.5 * -200.0
    np.testing.assert_allclose(gap_of(ConstantQ(), half, -200.0), expected, rtol=1e-5)
    everywhere = Proposals(actions, dense)
    slope = jax.grad(lambda g: gap_of(LinearQ(g, g), everywhere, -200.0).sum())(0.3)
    assert slope == 0.0


@pytest.mark.parametrize(("target", "direction"), [(-1e3, 1), (1e3, -1)])
def test_the_multiplier_of_cql_rises_while_the_weighted_gap_is_above_its_target(target: float, direction: int) -> None:
    algorithm = CQL(**BOTH_SIZES, lagrange=True, penalty_weight=2.0, penalty_target=target, proposals=2)
    state = algorithm.init(SPEC, jax.random.key(0))
    y, proposals = jnp.zeros(ROWS), algorithm.propose(state.actor, batch(), jax.random.key(3))
    gap = 2.0 * gap_of(state.critic, proposals)
    plain, _ = algorithm.critic_loss(state.critic, batch(), y, proposals, None)
    weighted, _ = algorithm.critic_loss(state.critic, batch(), y, proposals, jnp.asarray(3.0))
    expected = float(plain - gap.sum() + 3.0 * (gap - target).sum())
    assert float(weighted) == pytest.approx(expected, rel=1e-5)
    after, _ = algorithm._update_critic(state, batch(), y, proposals)
    assert np.sign(after.multiplier.log_value - state.multiplier.log_value) == direction


@pytest.mark.parametrize("rows", [3 * PART_ROWS, 3 * PART_ROWS + 1])
def test_parts_of_a_minibatch_have_the_gradient_of_all_of_it(rows: int) -> None:
    algorithm = CQL(**BOTH_SIZES, lagrange=True, proposals=2)
    state = algorithm.init(SPEC, jax.random.key(0))
    whole = jax.tree.map(lambda x: jax.random.normal(jax.random.key(7), (rows, *x.shape[1:])), batch())
    y, proposals = 3.0 * whole.reward, algorithm.propose(state.actor, whole, jax.random.key(3))

    columns, constants = (whole, y, proposals), {"multiplier": jnp.asarray(3.0)}
    grad = grad_in_parts(algorithm.critic_loss, PART_ROWS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        grad(state.critic, *columns, **constants),
        eqx.filter_grad(algorithm.critic_loss, has_aux=True)(state.critic, *columns, **constants),
    )
    loops = "scan" in str(jax.make_jaxpr(lambda columns: grad(state.critic, *columns, **constants))(columns))
    assert loops == (rows % PART_ROWS == 0)


# --- BCQ, BEAR, REM ---


def test_bcq_with_one_candidate_and_no_perturbation_is_the_vae() -> None:
    algorithm = BCQ(**SIZES, vae_hidden_sizes=(8,), perturbation_size=0.0, candidates=1)
    state = algorithm.init(SPEC, jax.random.key(0))
    key, observation = jax.random.key(5), jnp.ones(3)
    latent = state.vae.draw_latents(key, 1)[0]
    expected = state.vae.decode(observation, latent)
    np.testing.assert_allclose(algorithm.policy(state)(observation, key), expected, rtol=1e-6)
    assert jnp.abs(latent).max() <= 0.5


def test_vae_divergence_is_a_mean_over_latents() -> None:
    """A latent law that is the prior's has no divergence left: the loss is the reconstruction's alone."""
    vae = BCQ(**SIZES, vae_hidden_sizes=(8,)).init(SPEC, jax.random.key(0)).vae
    last = vae.encoder.layers[-1]
    zero = eqx.tree_at(lambda m: (m.weight, m.bias), last, (jnp.zeros_like(last.weight), jnp.zeros_like(last.bias)))
    vae = eqx.tree_at(lambda v: v.encoder.layers[-1], vae, zero)
    data, key = batch(), jax.random.key(3)
    latent = jax.random.normal(key, (ROWS, 4))
    error = jnp.mean((jax.vmap(vae.decode)(data.observation, latent) - data.action) ** 2)
    assert float(vae_loss(vae, data.observation, data.action, key)) == pytest.approx(float(error), rel=1e-5)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian"])
def test_mmd_of_equal_samples_is_its_floor(kernel: str) -> None:
    x = jax.random.normal(jax.random.key(0), (4, 2))
    assert float(mmd(x, x, kernel, 20.0)) == pytest.approx(1e-3, rel=0.2)
    one, two = jnp.zeros((1, 1)), jnp.ones((1, 1))
    assert float(mmd(one, two, kernel, 0.5)) == pytest.approx(np.sqrt(2 - 2 * np.exp(-1.0)), rel=1e-4)


class TwoMinds(QEnsemble):
    """One head likes the first coordinate of the action, the other dislikes it ten times as much."""

    def __init__(self):
        self.heads = tuple(lambda x, k=k: k * x[3:4] for k in (1.0, -10.0))


def test_bear_acts_by_its_first_head() -> None:
    algorithm = BEAR(**SIZES, vae_hidden_sizes=(8,), candidates=64)
    state = algorithm.init(SPEC, jax.random.key(0))._replace(critic=TwoMinds())
    draws = state.actor.sample(jnp.ones(3), jax.random.key(5), 64)
    assert algorithm.policy(state)(jnp.ones(3), jax.random.key(5))[0] == draws[:, 0].max()


def test_mmd_of_normal_samples_is_the_closed_form() -> None:
    """E k(x, y) of N(m, v) and N(n, w) with exp(-(x-y)^2 / (2 s)) is sqrt(s / (s+v+w)) exp(-(m-n)^2 / (2 (s+v+w)))."""
    m, v, n, w, s = 0.3, 0.5, -0.6, 0.2, 2.0
    keys = jax.random.split(jax.random.key(0))
    x, y = (a + np.sqrt(b) * jax.random.normal(k, (3000, 1)) for a, b, k in ((m, v, keys[0]), (n, w, keys[1])))

    def kernel(distance: float, variance: float) -> float:
        return np.sqrt(s / (s + variance)) * np.exp(-(distance**2) / (2 * (s + variance)))

    expected = np.sqrt(kernel(0.0, 2 * v) + kernel(0.0, 2 * w) - 2 * kernel(m - n, v + w))
    assert float(mmd(x, y, "gaussian", s)) == pytest.approx(expected, rel=0.03)


def test_mixture_weights_are_convex() -> None:
    weights = mixture_weights(jax.random.key(0), 100)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)
    assert (weights >= 0).all()
    assert not (weights[0] == weights[1]).all()


# --- diffusion ---


def test_posterior_variance_and_the_linear_schedule() -> None:
    five = vp.vp_schedule(5, variance="posterior")
    expected = five.beta[2:] * (1 - five.alpha_bar[1:-1]) / (1 - five.alpha_bar[2:])
    np.testing.assert_allclose(five.deviation[2:] ** 2, expected, rtol=1e-5)
    assert (five.deviation[:2] == 0).all()
    linear = vp.linear_schedule(100)
    np.testing.assert_allclose(linear.beta[[1, 100]], [1e-3, 0.2], rtol=1e-5)
    with pytest.raises(ValueError, match="at least 21"):
        vp.linear_schedule(20)


def test_one_step_chain_without_predicted_noise() -> None:
    """eps = 0 and T = 1: the sampler returns clip(a_1 / sqrt(abar_1), +-1)."""
    schedule = vp.vp_schedule(1, variance="posterior")
    key = jax.random.key(0)
    start = jax.random.normal(jax.random.split(key)[0], (2,), jnp.float32)
    action = vp.sample(schedule, lambda a, o, n: jnp.zeros(2), jnp.zeros(3), key, 2, 1.0)
    np.testing.assert_allclose(action, jnp.clip(start / np.sqrt(schedule.alpha_bar[1]), -1, 1), rtol=1e-5)


def test_direct_dialect_reproduces_a_gaussian() -> None:
    """Exact noise prediction for N(0, 0.3^2): the sampler's spread is near it; the two dialects differ."""
    schedule, std = vp.vp_schedule(50), 0.3

    def network(a: Array, o: Array, n: Array) -> Array:
        abar = jnp.asarray(schedule.alpha_bar)[n]
        return jnp.sqrt(1 - abar) * a / (abar * std**2 + 1 - abar)

    keys = jax.random.split(jax.random.key(0), 4000)
    draw = jax.jit(jax.vmap(lambda key: vp.sample_direct(schedule, network, jnp.zeros(3), key, 1, 5.0)))
    assert float(draw(keys).std()) == pytest.approx(std, rel=0.12)


def test_dql_without_q_is_diffusion_cloning_and_q_reaches_every_step() -> None:
    algorithm = DQL(**SIZES, diffusion_steps=3)
    state, key = algorithm.init(SPEC, jax.random.key(0)), jax.random.key(1)
    loss, metrics = DQL(**SIZES, diffusion_steps=3, q_weight=0.0).actor_loss(state.actor, state.critic, batch(), key)
    noise_key = jax.random.split(key, 3)[0]
    schedule = vp.vp_schedule(3, variance="posterior")
    cloning = vp.noise_loss(state.actor, batch().observation, vp.diffuse(schedule, batch().action, noise_key))
    assert float(loss) == pytest.approx(float(cloning), rel=1e-6)
    assert float(metrics["actor/cloning_loss"]) == pytest.approx(float(cloning), rel=1e-6)
    # The bias that each step adds to its prediction has a slope: the gradient runs through the whole chain.
    draw = algorithm._draw()

    def value(shifts: Array) -> Array:
        def shifted(a: Array, o: Array, n: Array) -> Array:
            return 0.1 * a + shifts[n - 1]

        action = vp.sample(schedule, shifted, jnp.zeros(3), jax.random.key(4), 2, None)
        return action.sum()

    assert callable(draw)
    assert (jnp.abs(jax.grad(value)(jnp.zeros((3, 2)))) > 1e-3).all()


def test_edp_reconstruction_with_the_true_noise_is_the_clean_action() -> None:
    schedule, action = vp.linear_schedule(100), batch().action
    diffused = vp.diffuse(schedule, action, jax.random.key(0))
    clean = jax.vmap(lambda a, n, e: vp.predict_clean(schedule, a, n, e, 1.0))(
        diffused.noisy_action, diffused.step, diffused.noise
    )
    # a late step divides float32 noise by sqrt(abar_100) = 0.0045
    np.testing.assert_allclose(clean, action, atol=2e-4)


@pytest.mark.parametrize("mode", ["crr", "iql"])
def test_edp_weighted_modes_pull_the_reconstruction_to_good_actions(mode: Any) -> None:
    algorithm = EDP(**SIZES, mode=mode, diffusion_steps=21)
    state = algorithm.init(SPEC, jax.random.key(0))
    loss, metrics = algorithm.actor_loss(state.actor, state, batch(), jax.random.key(1))
    assert float(loss) > float(metrics["actor/cloning_loss"])  # -w log N is a positive distance


def test_one_sample_is_diffusion_cloning() -> None:
    """IDQL with N = 1, and any best-of-samples policy: the critic has no say."""
    actor = DQL(**SIZES).init(SPEC, jax.random.key(0)).actor
    sampler, key = NoiseSampler(actor, 3), jax.random.key(9)
    one = BestOfSamples(sampler, LinearQ(1.0, 1.0), 1)(jnp.ones(3), key)
    assert same(one, BestOfSamples(sampler, LinearQ(-1.0, 5.0), 1)(jnp.ones(3), key))
    np.testing.assert_array_equal(one, jnp.clip(sampler.sample(jnp.ones(3), key, 1)[0], -1, 1))


# --- continuous time ---


def test_vp_sde_marginal() -> None:
    alpha, sigma = vp_sde.marginal(jnp.asarray([1e-3, 0.5, 1.0]))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-5)
    np.testing.assert_allclose(alpha[2], np.exp(-0.25 * 19.9 - 0.05), rtol=1e-5)
    np.testing.assert_allclose(sigma[0], np.sqrt(-np.expm1(-2 * (0.25e-6 * 19.9 + 0.5e-3 * 0.1))), rtol=1e-4)


@pytest.mark.parametrize("std", [0.3, 1.0])
def test_dpm_solver_maps_noise_to_a_gaussian(std: float) -> None:
    """For N(mean, std^2) the probability flow is affine: quantile to quantile; 15 calls fall a little short of it."""
    mean = 0.4

    def network(a: Array, o: Array, t: Array) -> Array:
        alpha, sigma = vp_sde.marginal(t)
        return sigma * (a - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    start = jnp.asarray([[-2.0], [-0.5], [0.0], [1.0], [2.0]])
    for calls, tolerance in ((15, 0.14), (201, 0.005)):
        solve = jax.jit(jax.vmap(lambda x, calls=calls: vp_sde.dpm_solver(network, x, jnp.zeros(3), calls)))
        np.testing.assert_allclose(solve(start), mean + std * start, atol=tolerance)
    with pytest.raises(ValueError, match="odd"):
        vp_sde.dpm_solver(network, start[0], jnp.zeros(3), calls=4)


def test_srpo_fixed_point() -> None:
    """Behaviour N(mu, v) with exact noise, Q = q.a: a = mu + beta q / E_t[sigma^3 alpha / (alpha^2 v + sigma^2)]."""
    mu, v, beta, slope = 0.1, 0.09, 0.05, np.asarray([0.8, -0.4])
    algorithm = SRPO(**BOTH_SIZES, q_weight=beta, width=8, block_count=1)
    state = algorithm.init(SPEC, jax.random.key(0))

    class Exact(eqx.Module):
        def __call__(self, a: Array, o: Array, t: Array) -> Array:
            alpha, sigma = vp_sde.marginal(t)
            return sigma * (a - alpha * mu) / (alpha**2 * v + sigma**2)

    class Constant(DeterministicActor):
        action: Array

        def __init__(self, action: Array):
            self.action, self.max_action, self.network = action, 10.0, None  # pyright: ignore

        def __call__(self, observation: Array) -> Array:
            return self.action

    t = np.linspace(0.02, 0.98, 20_001)
    alpha, sigma = (np.asarray(x, np.float64) for x in vp_sde.marginal(jnp.asarray(t, jnp.float32)))
    factor = np.mean(sigma**3 * alpha / (alpha**2 * v + sigma**2))
    fixed = jnp.asarray(mu + beta * slope / factor, jnp.float32)
    frozen = state._replace(target_critic=LinearQ(*slope), behaviour=Exact())
    rows = jnp.zeros((200_000, 3))  # the gradient's own noise is then a twentieth of `scale`
    gradient = jax.jit(jax.grad(lambda a: algorithm.actor_loss(Constant(a), frozen, rows, jax.random.key(0))[0]))
    scale = float(jnp.abs(gradient(fixed + 0.2)).max())
    assert float(jnp.abs(gradient(fixed)).max()) < 0.15 * scale


# --- flows ---


def test_flow_of_a_point_mass_and_its_loss() -> None:
    """v = (a - x) / (1 - t) carries all noise to a, and has no loss where all actions are a."""
    target = jnp.asarray([0.3, -0.6])

    def velocity(x: Array, o: Array, t: Array) -> Array:
        return (target - x) / (1.0 - t)

    end = euler_flow(velocity, jnp.asarray([2.0, -1.0]), jnp.zeros(3), 10, 1.0)
    np.testing.assert_allclose(end, target, atol=1e-5)
    actions = jnp.broadcast_to(target, (64, 2))
    assert float(flow_loss(velocity, actions, jnp.zeros((64, 3)), jax.random.key(0))) < 1e-6


def test_fql_gives_the_flow_no_gradient_from_q_and_distils_its_euler_map() -> None:
    algorithm = FQL(**SIZES, distillation_weight=1e6, flow_steps=10)
    state = algorithm.init(SPEC, jax.random.key(0))
    grad = eqx.filter_grad(algorithm.actor_loss, has_aux=True)
    strong, _ = grad(state.actors, LinearQ(100.0, 100.0), batch(), jax.random.key(1))
    weak, _ = grad(state.actors, LinearQ(0.0, 0.0), batch(), jax.random.key(1))
    assert same(strong.flow, weak.flow)
    assert not same(strong.one_step, weak.one_step)


# --- presets ---


@functools.cache
def baselines() -> list[str]:
    return [name for name in ALGORITHMS if name not in ("dtql", "dtql-kl", "dac", "bdpo", "bdpo-unimodal")]


@pytest.mark.parametrize("name", baselines())
def test_presets_are_fields(name: str) -> None:
    from tether.data import OBSERVATION_TRANSFORMS, REWARD_TRANSFORMS
    from tether.environments import d4rl_datasets

    own = {"batch_size", "eval_every_updates", "eval_episodes", "reward_transform", "observation_transform"}
    fields = set(ALGORITHMS[name].__dataclass_fields__)
    presets = load_presets(name)
    ogbench = {task for task in presets if "-singletask-" in task}  # tests/test_ogbench.py
    assert set(presets) - ogbench <= set(d4rl_datasets()) | {task.replace("-v2", "-v0") for task in d4rl_datasets()}
    for settings in presets.values():
        assert set(settings) <= fields | own
        ALGORITHMS[name](**parse_fields(ALGORITHMS[name], {k: v for k, v in settings.items() if k in fields}))
        assert settings["reward_transform"] in REWARD_TRANSFORMS
        assert settings["observation_transform"] in OBSERVATION_TRANSFORMS


def test_value_networks_of_ivr_have_layer_norm() -> None:
    for name in ("sql", "eql", "xql"):
        value = ALGORITHMS[name](**SIZES).init(SPEC, jax.random.key(0)).value
        assert isinstance(value, ValueNetwork)
        assert value.network.norms  # pyright: ignore[reportFunctionMemberAccess]
