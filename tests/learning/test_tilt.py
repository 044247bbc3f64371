"""The eight Gaussians of QGPO's paper, tilted by exp(beta Q): shares of the modes against their exact values.

Behaviour and Q are exact, so that what is compared is the method's own part: the energy that QGPO learns and samples
with, SfBC's choice among candidates.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms.qgpo import QGPO
from tether.algorithms.sfbc import SfBC
from tether.bandits import get_problem
from tether.bandits.problems import EIGHT_DEVIATION
from tether.diffusion import vp_sde
from tether.networks import QEnsemble, ScoreNetwork
from tether.policies.samplers import SDESampler
from tether.training.derive import derive_columns
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.training.loop import NEVER, run_updates
from tether.types import Array, Spec, Transition

PROBLEM = get_problem("8gaussians")
SCALE, BETA, DRAWS, UPDATES = 4.0, 3.0, 2048, 8000
assert PROBLEM.modes is not None
CENTRES = jnp.asarray(PROBLEM.modes / SCALE, jnp.float32)
ENERGIES = jnp.asarray(PROBLEM.energy(PROBLEM.modes), jnp.float32)
SIZES: dict[str, Any] = {"hidden_sizes": (2,), "score_widths": (4, 2)}  # of what is replaced anyway
SPEC, STATE = Spec(observation_size=1, action_size=2), jnp.ones(1)


class Behaviour(ScoreNetwork):
    """The exact noise prediction of the mixture."""

    def __init__(self):
        self.action_size, self.max_action, self.down, self.up = 2, 1.0, (), ()
        self.observation = self.time = self.condition = self.middle = self.last = None  # pyright: ignore

    def __call__(self, noisy_action: Array, observation: Array, time: Array) -> Array:
        alpha, sigma = vp_sde.marginal(time)
        variance = (alpha * EIGHT_DEVIATION / SCALE) ** 2 + sigma**2
        away = noisy_action[None] - alpha * CENTRES
        share = jax.nn.softmax(-0.5 * jnp.sum(away**2, axis=1) / variance)
        return sigma * share @ away / variance


class NearestQ(QEnsemble):
    """Two heads, both the energy of the nearest centre."""

    def __init__(self):
        self.heads = ()

    def __call__(self, observation: Array, action: Array) -> Array:
        return jnp.broadcast_to(self.first(observation, action), (2,))

    def first(self, observation: Array, action: Array) -> Array:
        return ENERGIES[jnp.argmin(jnp.sum((action[None] - CENTRES) ** 2, axis=1))]


class LinearQ(NearestQ):
    """Two heads, both the first coordinate."""

    def first(self, observation: Array, action: Array) -> Array:
        return action[0]


def exact_energy(noisy_action: Array, observation: Array, time: Array) -> Array:
    """log E[ exp(beta Q) | a_t ] where Q is that of a mode."""
    alpha, sigma = vp_sde.marginal(time)
    variance = (alpha * EIGHT_DEVIATION / SCALE) ** 2 + sigma**2
    likelihood = -0.5 * jnp.sum((noisy_action[None] - alpha * CENTRES) ** 2, axis=1) / variance
    return jax.nn.logsumexp(likelihood + BETA * ENERGIES) - jax.nn.logsumexp(likelihood)


def shares(actions: Array) -> np.ndarray:
    """Of the modes: the nearest centre's."""
    distance = np.linalg.norm(np.asarray(actions)[:, None] - np.asarray(CENTRES), axis=2)
    return np.bincount(distance.argmin(axis=1), minlength=8) / len(actions)


def draw(policy: Any) -> Array:
    return jax.jit(jax.vmap(lambda key: policy(STATE, key)))(jax.random.split(jax.random.key(1), DRAWS))


def assert_shares(found: np.ndarray, exact: Array | np.ndarray, bias: float) -> None:
    """Within four standard errors, and a `bias` of the method's own."""
    exact = np.asarray(exact)
    assert np.abs(found - exact).max() < 4 * np.sqrt(exact.max() / DRAWS) + bias, (found, exact)


def test_the_tilt_is_the_problems_own_target() -> None:
    np.testing.assert_allclose(jax.nn.softmax(BETA * ENERGIES), PROBLEM.mode_weights(1 / BETA), atol=2e-3)


def test_the_exact_energy_guides_to_the_exact_shares() -> None:
    guided = vp_sde.guided(Behaviour(), exact_energy, 1.0)
    starts = jax.random.normal(jax.random.key(2), (DRAWS, 2))
    actions = jax.jit(jax.vmap(lambda x: vp_sde.dpm_solver(guided, x, STATE)))(starts)
    assert_shares(shares(actions), jax.nn.softmax(BETA * ENERGIES), 0.0)


@pytest.mark.long
def test_qgpo_learns_the_energy_and_without_guidance_it_is_the_behaviour() -> None:
    """Q is linear here, as so small an energy network smooths steps; the target is again eight Gaussians."""
    algorithm = QGPO(**SIZES, energy_hidden_sizes=(64, 64), inverse_temperature=BETA, learning_rate=3e-3)
    state = algorithm.init(SPEC, jax.random.key(0))._replace(behaviour=Behaviour(), target_critic=LinearQ())  # pyright: ignore[reportCallIssue]
    lanes, keys = stack_lanes(algorithm, [Lane(0, {})]), jax.random.key(0)[None]
    stacked, ones = jax.tree.map(lambda leaf: leaf[None], state), jnp.ones((256, 1))
    data = Transition(ones, jnp.zeros((256, 2)), jnp.zeros(256), ones, jnp.ones(256))
    derived = derive_columns(lanes, stacked, keys, data, phase=2)
    how: dict[str, Any] = {"phase": 2, "batch_size": 64, "sequential": True, "derived": derived}
    stretch = jnp.ones(1, bool), data, jnp.int32(0), jnp.int32(UPDATES)
    trained, _, first = run_updates(lanes, stacked, keys, *stretch, **how)
    assert (first == NEVER).all()
    state = take_lane(trained, 0)
    policies = [dataclasses.replace(algorithm, guidance=w).policy(state) for w in (1.0, 0.0)]
    guided, plain = map(draw, policies)  # one program: the weight is an array
    assert_shares(shares(guided), jax.nn.softmax(BETA * CENTRES[:, 0]), 0.03)
    assert_shares(shares(plain), jnp.full(8, 1 / 8), 0.0)
    assert np.abs(shares(guided) - 1 / 8).max() > 0.2
    keys = jax.random.split(jax.random.key(1), DRAWS)
    behaviour = jax.jit(jax.vmap(lambda key: SDESampler(Behaviour(), 15, 2).sample(STATE, key, 1)[0]))(keys)
    np.testing.assert_allclose(plain, jnp.clip(behaviour, -1, 1), atol=1e-5)


@pytest.mark.parametrize("sharpness", [0.0, BETA])
def test_sfbc_with_many_candidates_samples_the_tilted_mixture(sharpness: float) -> None:
    """One drawn of many with weights exp(beta Q) is an importance sample; its bias falls like 1 / candidates."""
    algorithm = SfBC(**SIZES, candidates=64, chosen=1, sharpness=sharpness)
    state = algorithm.init(SPEC, jax.random.key(0))._replace(behaviour=Behaviour(), critic=NearestQ())
    assert_shares(shares(draw(algorithm.policy(state))), jax.nn.softmax(sharpness * ENERGIES), 0.01)
