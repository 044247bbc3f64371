"""Problems whose answers are known in closed form: seconds each, three seeds as three lanes of one program.

All share one network size, one number of rows and one compiled program per phase. Training ends with a learning
rate of 0, so what is compared has settled.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms import DTQL
from tether.training.lanes import make_lanes, stack_lanes
from tether.training.loop import NEVER, init_lanes, run_updates
from tether.types import Array, Spec, Transition

SEEDS, SPEC, ROWS, BATCH = [0, 1, 2], Spec(observation_size=2, action_size=1), 1024, 128
UPDATES, DRAWS = 600, 4096
FIXED: dict[str, Any] = {
    "hidden_sizes": (32, 32),
    "denoiser_hidden_sizes": (32, 32),
    "time_embedding_size": 4,
    "candidates": 32,
    "cosine_decay": True,
    "train_updates": UPDATES,
}
RATES = {"learning_rate": 3e-3, "critic_learning_rate": 3e-3, "target_rate": 0.05}
FIRST, SECOND = np.array([1.0, 0.0]), np.array([0.0, 1.0])  # the two states there are


def table(
    state: np.ndarray, action: np.ndarray, reward: Any, following: Any = FIRST, terminal: Any = 1.0
) -> Transition:
    """ROWS transitions; what is given once stands in every row."""
    shapes = [(ROWS, 2), (ROWS, 1), (ROWS,), (ROWS, 2), (ROWS,)]
    columns = state, action.reshape(-1, 1), reward, following, terminal
    return Transition(
        *(jnp.asarray(np.broadcast_to(c, shape), jnp.float32) for c, shape in zip(columns, shapes, strict=True))
    )


class Trained:
    """Three lanes after UPDATES updates of each of these phases."""

    def __init__(self, data: Transition, *phases: str, **settings: float):
        self.algorithm = DTQL(**(FIXED | RATES | settings))
        lanes = stack_lanes(self.algorithm, make_lanes(self.algorithm, SEEDS, {}))
        keys = jax.vmap(jax.random.key)(jnp.asarray(SEEDS))
        state, alive, start = init_lanes(lanes, SPEC, keys), jnp.ones(len(SEEDS), bool), jnp.asarray(0, jnp.int32)
        for phase in phases:
            count, number = jnp.asarray(UPDATES, jnp.int32), ["pretrain", "train"].index(phase)
            how = {"phase": number, "batch_size": BATCH, "sequential": True}
            state, _, first = run_updates(lanes, state, keys, alive, data, start, count, **how)
            assert (first == NEVER).all()
        self.state = state

    def value(self, observation: np.ndarray) -> np.ndarray:
        """V(s) of each lane."""
        return np.asarray(values(self.state.critic.value, jnp.asarray(observation, jnp.float32)))

    def actions(self) -> np.ndarray:
        """(lanes, draws) from the actor itself, without the choice by Q, in the first state."""
        return np.asarray(draws(self.state.actor))

    def chosen(self) -> np.ndarray:
        """(lanes, draws) from the policy that is deployed, in the first state."""
        return np.asarray(choices(self.algorithm.policy(self.state)))


@jax.jit
def values(networks: Any, observation: Array) -> Array:
    return jax.vmap(lambda network: network(observation))(networks)


@jax.jit
def draws(actors: Any) -> Array:
    sample = jax.vmap(lambda actor: actor.sample(jnp.asarray(FIRST, jnp.float32), jax.random.key(0), DRAWS))
    return sample(actors)[..., 0]


@jax.jit
def choices(policies: Any) -> Array:
    observation, keys = jnp.asarray(FIRST, jnp.float32), jax.random.split(jax.random.key(0), 64)
    return jax.vmap(lambda policy: jax.vmap(lambda key: policy(observation, key))(keys))(policies)[..., 0]


# --- the critic ---


@pytest.mark.long
def test_values_of_a_two_step_problem() -> None:
    """first -> second -> end with reward 1 on the last step: V(second) = 1, V(first) = gamma.

    What "follows" the end is far away and must be masked.
    """
    odd = np.arange(ROWS) % 2 == 1
    state = np.where(odd[:, None], SECOND, FIRST)
    following = np.where(odd[:, None], 20.0, SECOND)
    data = table(state, generator().uniform(-1, 1, ROWS), odd, following, odd)
    trained = Trained(data, "pretrain", discount=0.8, expectile=0.7)
    np.testing.assert_allclose(trained.value(SECOND), 1.0, atol=0.08)
    np.testing.assert_allclose(trained.value(FIRST), 0.8, atol=0.08)


@functools.cache
def two_actions() -> Transition:
    """In the first state a > 0 pays 1 and a < 0 nothing, half of the rows each; in the second, twice as much."""
    row = np.arange(ROWS)
    second, action = row % 2 == 1, np.where(row % 4 < 2, -0.5, 0.5)
    return table(np.where(second[:, None], SECOND, FIRST), action, np.where(second, 2.0, 1.0) * (action > 0))


@pytest.mark.long
@pytest.mark.parametrize(("expectile", "value"), [(0.5, 0.5), (0.9, 0.9), (0.99, 0.99)])
def test_value_is_the_expectile_over_actions(expectile: float, value: float) -> None:
    """tau = 0.5 and gamma = 0: E[r|s]. tau -> 1: the best action in the data. Between them, of {0, 1} with equal
    weight, tau itself."""
    trained = Trained(two_actions(), "pretrain", discount=0.0, expectile=expectile)
    np.testing.assert_allclose(trained.value(FIRST), value, atol=0.1)
    np.testing.assert_allclose(trained.value(SECOND), 2 * value, atol=0.2)


# --- the policy ---


def two_modes(share: float) -> Transition:
    """Behaviour N(-0.5, 0.1^2) with probability `share`, else N(0.5, 0.1^2); the action is the reward."""
    rng = generator()
    action = np.where(rng.random(ROWS) < share, -0.5, 0.5) + 0.1 * rng.normal(size=ROWS)
    return table(FIRST, np.clip(action, -1, 1), action)


@np.vectorize
def exact_trust_region(action: float, share: float) -> float:
    """L_TR of that behaviour's perfect denoiser, by quadrature.

    It is least not quite at ±0.5: with much noise the best guess of an action leans to the other mode.
    """
    quantile = 1.6e-5 + (np.arange(400) + 0.5) / 400 * (0.99996 - 1.6e-5)
    sigma = 0.5 * np.sqrt(quantile / (1 - quantile))[:, None]
    noise, weight = np.polynomial.hermite_e.hermegauss(41)
    variance, noisy = 0.01 + sigma**2, action + sigma * noise
    lower = 1 / (1 + (1 - share) / share * np.exp(np.clip(noisy / variance, -500, 500)))  # mode's probability
    denoised = (0.01 * noisy + sigma**2 * (0.5 - lower)) / variance
    return np.mean((denoised - action) ** 2 @ weight / weight.sum() * (1 + 0.25 / sigma[:, 0] ** 2) / 0.25)


@pytest.mark.long
def test_the_better_mode_is_found_and_not_left() -> None:
    """Reward grows beyond the mode, up to the bound 1. With Q = a divided by its mean size, slope 1/|a|, and a
    trust region of 1 there is one place of rest, wherever training starts: the least of L_TR - ln a, at 0.55."""
    trained = Trained(two_modes(0.5), "pretrain", "train", trust_region_weight=1.0)
    grid = np.arange(0.2, 1.0, 0.01)
    goal = grid[np.argmin(exact_trust_region(grid, 0.5) - np.log(grid))]
    assert 0.5 < goal < 0.6
    for actions in (trained.actions(), trained.chosen()):
        np.testing.assert_allclose(actions.mean(axis=1), goal, atol=0.08)
        assert (np.abs(actions - 0.5) < 0.2).mean() > 0.99  # the mode's support, two deviations


@pytest.mark.long
def test_trust_region_alone_seeks_the_larger_mode() -> None:
    """With a weight of 1000 Q does not count, though it favours the smaller mode; nor is the mean (-0.25) sought."""
    trained = Trained(two_modes(0.75), "pretrain", "train", trust_region_weight=1000.0)
    actions, grid = trained.actions(), np.arange(-1.0, 1.0, 0.01)
    goal = grid[np.argmin(exact_trust_region(grid, 0.75))]
    assert -0.5 < goal < -0.4
    np.testing.assert_allclose(actions.mean(axis=1), goal, atol=0.08)
    assert actions.std(axis=1).max() < 0.05  # seeks the mode; to imitate it would take 0.1


@pytest.mark.long
def test_value_and_trust_region_balance_where_theory_says() -> None:
    """Behaviour N(0, 0.2^2), Q = 1 + a divided by its mean: alpha C(v) 2a = 1/(1 + a), C(0.04) = 5.63 (spec section
    5). With alpha = 0.5: a = 0.154. A small network after few updates has C to a third, which is 0.05."""
    action = 0.2 * generator().normal(size=ROWS)
    data = table(FIRST, np.clip(action, -1, 1), 1 + action)
    trained = Trained(data, "pretrain", "train", trust_region_weight=0.5)
    np.testing.assert_allclose(trained.actions().mean(axis=1), 0.154, atol=0.05)


@pytest.mark.long
def test_likelihood_alone_imitates() -> None:
    """No trust region and a weight of 100 for the NLL: mean and deviation of artanh(a / 1.001) in the data."""
    action = np.tanh(0.3 + 0.5 * generator().normal(size=ROWS))
    settings = {"trust_region_weight": 0.0, "log_likelihood_weight": 100.0}
    trained = Trained(table(FIRST, action, 0.0), "train", **settings)
    z, data = np.arctanh(trained.actions() / 1.001), np.arctanh(action / 1.001)
    np.testing.assert_allclose(z.mean(axis=1), data.mean(), atol=0.05)
    np.testing.assert_allclose(z.std(axis=1), data.std(), rtol=0.1)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)
