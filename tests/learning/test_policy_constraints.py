"""What the policy-constraint, conservative and ensemble methods must converge to, from their equations.

One state and one step unless a test says otherwise; the reward is a known function of the action.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms import ALGORITHMS
from tether.networks import TanhGaussian
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.training.loop import NEVER, init_lanes, run_updates
from tether.types import Spec, Transition

ROWS, BATCH, UPDATES = 1024, 128, 1000
SMALL: dict[str, Any] = {"hidden_sizes": (32, 32), "actor_hidden_sizes": (32, 32)}
FAST = SMALL | {"learning_rate": 3e-3, "critic_learning_rate": 3e-3}
ONE = jnp.ones(1)  # the state


def bandit(action: np.ndarray, reward: np.ndarray) -> Transition:
    """The data: one state, every row the last of its episode."""
    ones = np.ones((ROWS, 1))
    return Transition(*(jnp.asarray(column, jnp.float32) for column in (ones, action, reward, ones, np.ones(ROWS))))


def uniform(size: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1.0, 1.0, (ROWS, size))


def train(name: str, data: Transition, settings: dict[str, Any], updates: int = UPDATES) -> tuple[Any, Any]:
    """(algorithm, state) after `updates` updates of each phase."""
    cls = ALGORITHMS[name]
    algorithm = cls(**({key: value for key, value in FAST.items() if key in cls.__dataclass_fields__} | settings))
    spec = Spec(observation_size=1, action_size=data.action.shape[1])
    lanes, keys = stack_lanes(algorithm, [Lane(0, {})]), jax.random.key(0)[None]
    state, alive, start = init_lanes(lanes, spec, keys), jnp.ones(1, bool), jnp.asarray(0, jnp.int32)
    for phase in range(len(algorithm.phases())):
        how = {"phase": phase, "batch_size": BATCH, "sequential": True}
        state, _, first = run_updates(lanes, state, keys, alive, data, start, jnp.int32(updates), **how)
        assert (first == NEVER).all()
    return take_lane(lanes, 0), take_lane(state, 0)


def fixed_point(improve: Callable[[np.ndarray], np.ndarray], start: np.ndarray) -> np.ndarray:
    for _ in range(500):
        start = 0.5 * (start + improve(start))
    return start


# --- TD3+BC and ReBRAC: where the pull of Q and of the data are equal ---

SLOPE = np.array([0.5, -0.25])
GENTLE = {"critic_learning_rate": 1e-3}  # the answer hangs on the critic's slope at one point


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "settings", "weight"),
    [
        ("td3-bc", {"q_weight": 0.8}, 0.8),  # its distance is a mean over the two coordinates: d/dpi = pi - a
        ("rebrac", {"actor_penalty": 0.5}, 1.0),  # a sum: 2 beta_1 (pi - a)
    ],
)
def test_q_and_cloning_balance(name: str, settings: dict[str, Any], weight: float) -> None:
    """Q = 1 + g.a: pi - mean(a) = weight g / (1 + g.pi). A gradient through the normaliser would give mean(a)."""
    action = uniform(2)
    data = bandit(action, 1.0 + action @ SLOPE)
    data = data._replace(next_action=data.action)  # ReBRAC's; of no account where every row is the last
    algorithm, state = train(name, data, settings | GENTLE, updates=1500)
    mean = action.mean(axis=0)
    expected = fixed_point(lambda pi: mean + weight * SLOPE / (1.0 + pi @ SLOPE), mean)
    assert abs(expected - mean).min() > 0.1
    # twice or half the weight would be off by 0.16 and more
    np.testing.assert_allclose(algorithm.policy(state)(ONE, jax.random.key(0)), expected, atol=0.08)


# --- SAC ---


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "settings"), [("sac", {}), ("rlpd", {"actor_update_interval": 1, "entropy_target": -1.0})]
)
def test_soft_optimum_has_the_entropy_asked_for(name: str, settings: dict[str, Any]) -> None:
    """A policy as narrow as an entropy of -1 sits on the best action: normal with log s = -1 - log(2 pi e) / 2."""
    action = uniform()
    data = bandit(action, -8.0 * (action[:, 0] - 0.3) ** 2)
    algorithm, state = train(name, data, {"learning_rate": 1e-2} | settings)
    draws = jax.vmap(lambda key: algorithm.behaviour(state)(ONE, key))(jax.random.split(jax.random.key(0), 4096))
    assert float(algorithm.policy(state)(ONE, jax.random.key(0))[0]) == pytest.approx(0.3, abs=0.04)
    assert float(draws.mean()) == pytest.approx(0.3, abs=0.04)
    assert float(draws.std()) == pytest.approx(np.exp(-1.0) / np.sqrt(2 * np.pi * np.e), rel=0.15)


# --- CQL ---


@pytest.mark.long
def test_conservative_values_solve_their_equation() -> None:
    """The minimum over Q(a) of E[(Q - r)^2] + w (log int e^Q - E[Q]) is Q = r + w/2 (1 - e^Q / (int e^Q p(a))).

    p = 1/2 is the data's density. The actor stands still, so proposals are what they were; they must not matter.
    """
    action, weight = uniform(), 2.0
    settings = {"penalty_weight": weight, "proposals": 8, "learning_rate": 0.0}
    _, state = train("cql", bandit(action, action[:, 0]), settings, updates=800)
    grid = np.linspace(-1.0, 1.0, 401)

    def improve(q: np.ndarray) -> np.ndarray:
        density = np.exp(q) / np.trapezoid(np.exp(q), grid)
        return grid + weight / 2 * (1.0 - density / 0.5)

    expected = fixed_point(improve, grid)
    assert np.abs(expected - grid).max() > 0.3
    found = jax.vmap(lambda a: state.critic(ONE, a[None]))(jnp.asarray(grid, jnp.float32))
    inside = slice(20, -20)  # at the ends of the data a small network rounds the corner off
    for head in found.T:
        np.testing.assert_allclose(head[inside], expected[inside], atol=0.15)


@pytest.mark.long
def test_calibrated_values_solve_their_equation() -> None:
    """Cal-QL's minimum over Q(a), R being the return of the row: with S_R = int e^Q + 2 max(e^Q, e^R) and p as above

    Q = r + w/2 (1 - e^Q E_R[ (1 + 2 [Q > R]) / S_R ] / p).
    """
    action, weight = uniform(), 4.0
    data = bandit(action, action[:, 0])._replace(return_to_go=jnp.asarray(action[:, 0], jnp.float32))
    settings = {"penalty_weight": weight, "proposals": 32, "learning_rate": 0.0, "lagrange": False}
    _, state = train("cal-ql", data, settings | {"max_q_backup": False}, updates=800)
    grid = np.linspace(-1.0, 1.0, 401)

    def improve(q: np.ndarray, calibrated: bool = True) -> np.ndarray:
        returns = grid[:, None] if calibrated else np.full((401, 1), -np.inf)
        total = np.asarray(np.trapezoid(np.exp(q) + 2.0 * np.exp(np.maximum(q, returns)), grid, axis=1))
        pushed = np.trapezoid((1.0 + 2.0 * (q > returns)) / total[:, None], grid, axis=0) / 2.0
        return grid + weight / 2 * (1.0 - np.exp(q) * pushed / 0.5)

    expected = fixed_point(improve, grid)
    conservative = fixed_point(lambda q: improve(q, False), grid)
    assert np.abs(expected - conservative).max() > 0.5
    found = jax.vmap(lambda a: state.critic(ONE, a[None]))(jnp.asarray(grid, jnp.float32))
    inside = slice(40, -40)  # where the policy hardly ever acts, its proposals are few
    for head in found.T:
        np.testing.assert_allclose(head[inside], expected[inside], atol=0.2)


# --- REM ---


def test_every_head_learns_the_reward() -> None:
    """All convex combinations of the heads fit one target only if each head does."""
    action = uniform()
    data = bandit(action, 1.0 - 2.0 * (action[:, 0] - 0.3) ** 2)
    algorithm, state = train("rem", data, {"head_count": 4})
    assert float(algorithm.policy(state)(ONE, jax.random.key(0))[0]) == pytest.approx(0.3, abs=0.06)
    grid = jnp.linspace(-0.9, 0.9, 19)
    for trunk in state.critic:
        heads = jax.vmap(lambda a, trunk=trunk: trunk(jnp.stack([ONE[0], a])))(grid)
        np.testing.assert_allclose(heads, np.repeat(1.0 - 2.0 * (np.asarray(grid)[:, None] - 0.3) ** 2, 4, 1), atol=0.2)


# --- BCQ, BEAR: as far as the constraint lets them ---


def near(centre: float, spread: float) -> np.ndarray:
    return np.clip(centre + spread * np.random.default_rng(0).standard_normal((ROWS, 1)), -1.0, 1.0)


@pytest.mark.long
def test_bcq_goes_one_perturbation_beyond_the_data() -> None:
    """One coordinate does not pay for a latent (KL), so the VAE decodes the mean, 0.2; more action is more reward."""
    action = near(0.2, 0.1)
    settings = {"vae_hidden_sizes": (32, 32), "perturbation_size": 0.15, "next_candidates": 2, "candidates": 10}
    algorithm, state = train("bcq", bandit(action, action[:, 0]), settings)
    assert float(algorithm.policy(state)(ONE, jax.random.key(0))[0]) == pytest.approx(0.2 + 0.15, abs=0.04)


@pytest.mark.long
def test_bear_goes_as_far_as_the_mmd_allows() -> None:
    """The VAE decodes one action, u = 0 before tanh. A narrow policy at u has MMD^2 = 2 - 2 exp(-u^2 / (2 sigma)): with
    sigma 1 and limit 0.5, u = sqrt(-2 log 0.875) = 0.52."""
    action = near(0.0, 0.05)
    settings = {
        "vae_hidden_sizes": (32, 32),
        "kernel_width": 1.0,
        "mmd_limit": 0.5,
        "warmup_updates": 200,
        "multiplier_learning_rate": 1e-2,
        "next_actions": 2,
    }
    _, state = train("bear", bandit(action, action[:, 0]), settings)
    law = state.actor(ONE)
    assert float(jnp.exp(law.log_std[0])) < 0.3
    assert float(law.mean[0]) == pytest.approx(np.sqrt(-2.0 * np.log(0.875)), abs=0.1)


# --- BRAC ---


def best_regularised_mean(behaviour: TanhGaussian, weight: float) -> float:
    """argmax over (m, s) of E[tanh(m + s z)] - weight KL(N(m, s) || behaviour before tanh), by a grid."""
    z, probability = np.polynomial.hermite_e.hermegauss(41)
    probability = probability / probability.sum()
    mean, std = float(behaviour.mean[0]), float(jnp.exp(behaviour.log_std[0]))
    m, s = np.meshgrid(np.linspace(-1.0, 1.5, 501), np.linspace(0.02, 0.6, 117), indexing="ij")
    gain = np.tanh(m[..., None] + s[..., None] * z) @ probability
    kl = np.log(std / s) + (s**2 + (m - mean) ** 2) / (2 * std**2) - 0.5
    return float(m.ravel()[np.argmax(gain - weight * kl)])


BRAC: dict[str, Any] = {"actor_hidden_sizes": (32, 32), "warmup_updates": 0, "target_rate": 0.05}


@pytest.mark.long
def test_brac_reaches_the_kl_regularised_optimum() -> None:
    action = np.tanh(near(0.0, 0.2))
    settings = BRAC | {"kl_weight": 0.1, "behaviour_learning_rate": 3e-3}
    _, state = train("brac-p", bandit(action, action[:, 0]), settings)
    behaviour = state.behaviour(ONE)
    assert float(jnp.exp(behaviour.log_std[0])) == pytest.approx(0.2, rel=0.15)
    expected = best_regularised_mean(behaviour, 0.1)
    assert expected > 0.25
    assert float(state.actor(ONE).mean[0]) == pytest.approx(expected, abs=0.06)


@pytest.mark.long
@pytest.mark.parametrize(("name", "penalised"), [("brac-p", 0.0), ("brac-v", 1.0)])
def test_only_brac_v_charges_the_kl_to_values(name: str, penalised: float) -> None:
    """first -> second -> end without rewards and an actor that stands still: Q(first) is -gamma alpha KL(second)."""
    first = np.arange(ROWS) % 2 == 0
    state_column = np.where(first, 1.0, -1.0)[:, None]
    columns = state_column, uniform(), np.zeros(ROWS), -state_column, ~first
    data = Transition(*(jnp.asarray(column, jnp.float32) for column in columns))
    settings = BRAC | {"kl_weight": 0.7, "discount": 0.9, "learning_rate": 0.0, "behaviour_learning_rate": 3e-4}
    _, state = train(name, data, settings, updates=600)
    second = -ONE
    pi, b = state.actor(second), state.behaviour(second)
    kl = b.log_std - pi.log_std + 0.5 * jnp.exp(-2 * b.log_std) * (jnp.exp(2 * pi.log_std) + (pi.mean - b.mean) ** 2)
    kl = float(kl[0]) - 0.5
    assert kl > 0.1
    values = jax.jit(jax.vmap(state.critic, in_axes=(None, 0)))
    actions = jnp.linspace(-0.9, 0.9, 9)[:, None]
    np.testing.assert_allclose(values(ONE, actions), -penalised * 0.9 * 0.7 * kl, atol=0.05 + 0.05 * kl)
    np.testing.assert_allclose(values(second, actions), 0.0, atol=0.05)
