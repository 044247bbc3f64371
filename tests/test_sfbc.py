"""SfBC: planning along trajectories against numbers worked out by hand, and the choice among candidates."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms.sfbc import SfBC, SfBCPolicy, SfBCState, planned_returns, standardised
from tether.data.views import returns_to_go
from tether.diffusion import vp_sde
from tether.errors import InputError
from tether.networks import QEnsemble, ScoreNetwork
from tether.policies.samplers import SDESampler
from tether.training.derive import derive_columns
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.types import Array, Spec, Transition

SPEC = Spec(observation_size=2, action_size=2, max_action=0.5)
TINY: dict[str, Any] = {"hidden_sizes": (8,), "score_widths": (16, 8), "solver_calls": 3}
FIRST, SECOND = np.array([1.0, 0.0]), np.array([0.0, 1.0])


class LinearQ(QEnsemble):
    """One head: the first coordinate of the action, and of the observation."""

    def __init__(self):
        self.heads = ()

    def first(self, observation: Array, action: Array) -> Array:
        return action[0] + observation[0]


class Point(ScoreNetwork):
    """The behaviour that only knows the action 0.2, -0.1, whatever the noise."""

    def __init__(self):
        self.action_size, self.max_action = 2, 0.5
        self.observation = self.time = self.condition = self.middle = self.last = None  # pyright: ignore
        self.down = self.up = ()

    def __call__(self, noisy_action: Array, observation: Array, time: Array) -> Array:
        alpha, sigma = vp_sde.marginal(time)
        return (noisy_action - alpha * jnp.asarray([0.2, -0.1])) / sigma


@functools.cache
def fresh() -> SfBCState:
    return jax.jit(lambda key: SfBC(**TINY).init(SPEC, key))(jax.random.key(0))


def two_steps(trajectories: int = 8) -> Transition:
    """first -> second -> end; the last step pays 1 in every other trajectory."""
    state = np.tile([FIRST, SECOND], (trajectories, 1))
    reward = np.repeat(np.arange(trajectories) % 2, 2) * np.tile([0.0, 1.0], trajectories)
    terminal = np.tile([0.0, 1.0], trajectories)
    action = np.where(reward[:, None] > 0, 0.4, -0.4) * np.ones((1, 2))
    columns = state, action, reward, np.where(terminal[:, None] > 0, state, SECOND), terminal
    table = Transition(*(jnp.asarray(column, jnp.float32) for column in columns))
    returns = returns_to_go(reward, np.arange(2, len(reward) + 1, 2), 0.9)
    return table._replace(
        return_to_go=jnp.asarray(returns, jnp.float32), trajectory_end=jnp.asarray(terminal, jnp.float32)
    )


def test_planned_returns_by_hand() -> None:
    reward, end = jnp.asarray([1.0, 2.0, 0.0, 4.0]), jnp.asarray([0.0, 1.0, 0.0, 1.0])
    nothing = jnp.full(4, -100.0)
    np.testing.assert_allclose(planned_returns(reward, nothing, end, 0.5), [2.0, 2.0, 2.0, 4.0])
    # a better way on from row 3 counts there and, discounted, in the row before; never across the end in row 1
    value = jnp.asarray([-100.0, -100.0, -100.0, 10.0])
    np.testing.assert_allclose(planned_returns(reward, value, end, 0.5), [2.0, 2.0, 5.0, 10.0])
    value = jnp.asarray([-100.0, 3.0, 100.0, -100.0])
    np.testing.assert_allclose(planned_returns(reward, value, end, 0.5), [2.5, 3.0, 100.0, 4.0])


def test_without_better_values_planning_gives_the_datas_returns() -> None:
    data = two_steps()
    assert data.return_to_go is not None
    planned = SfBC(**TINY, discount=0.9).plan(jnp.full(16, -1e3), data)
    np.testing.assert_allclose(planned, standardised(data.return_to_go)[0], atol=1e-6)
    np.testing.assert_allclose(data.return_to_go[:4], [0.0, 0.0, 0.9, 1.0], atol=1e-6)


def test_standard_deviations_are_at_least_a_tenth() -> None:
    scaled, mean, std = standardised(jnp.asarray([0.01, -0.01]))
    assert (float(mean), float(std)) == (0.0, pytest.approx(0.1))
    np.testing.assert_allclose(scaled, [0.1, -0.1], rtol=1e-5)


def test_planning_joins_the_best_parts_of_trajectories() -> None:
    """Half of the trajectories fail on their second step. A critic that knows so values the second state at 1 in all
    of them, so all first steps are worth the discount: they lead to a state from which one can succeed."""
    algorithm, data = SfBC(**TINY, discount=0.9), two_steps()
    assert data.return_to_go is not None
    _, mean, std = standardised(data.return_to_go)
    value = jnp.where(data.observation[:, 1] > 0, 1.0, 0.0)  # V in the units of the rewards
    planned = algorithm.plan((value - mean) / std, data)
    raw = np.tile([0.9, 1.0], 8)  # worked out: second states 1, first states 0.9
    np.testing.assert_allclose(planned, (raw - raw.mean()) / 0.1, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("inverse_temperature", [0.0, 20.0])
def test_value_is_the_soft_maximum_over_the_behaviours_actions(inverse_temperature: float) -> None:
    algorithm = SfBC(**TINY, inverse_temperature=inverse_temperature, support_actions=5)
    state = fresh()._replace(first_critic=LinearQ())
    value = eqx.filter_jit(algorithm.value)
    row, key = jax.tree.map(lambda column: column[1], two_steps()), jax.random.key(3)
    actions = SDESampler(state.behaviour, 3, 3).sample(row.observation, key, 5)
    weight = jax.nn.softmax(inverse_temperature * actions[:, 0])
    assert float(value(state, row, key)) == pytest.approx(float(weight @ actions[:, 0]), rel=1e-5)
    known = state._replace(behaviour=Point())
    assert float(value(known, row, key)) == pytest.approx(0.2, abs=2e-2)


def test_phases_regress_standardised_returns_of_their_own() -> None:
    """Before phase `critic` those of the data, before `train` the planned ones, of all rows and each lane's own."""
    algorithm = SfBC(**TINY, discount=0.9)
    data, lanes = two_steps(), stack_lanes(algorithm, [Lane(0, {}), Lane(1, {})])
    keys = jnp.stack([jax.random.key(seed) for seed in (0, 1)])
    state = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), fresh())
    assert derive_columns(lanes, state, keys, data, phase=0) is None
    returns = derive_columns(lanes, state, keys, data, phase=1)
    expected = (np.asarray(data.return_to_go) - np.mean(data.return_to_go)) / np.std(data.return_to_go)  # pyright: ignore[reportCallIssue]
    np.testing.assert_allclose(returns, np.stack([expected, expected]), atol=1e-5)
    far = state._replace(first_critic=jax.tree.map(lambda leaf: 0.0 * leaf, state.first_critic))
    # a critic that knows nothing says 0: the mean return, 0.475, which is better than what fails
    planned = derive_columns(lanes, far, keys, data, phase=2)
    mean = float(np.mean(data.return_to_go))  # pyright: ignore[reportCallIssue]
    raw = np.tile([mean, mean, 0.9, 1.0], 4)
    np.testing.assert_allclose(take_lane(planned, 1), (raw - raw.mean()) / max(raw.std(), 0.1), atol=1e-5)


def test_the_mean_of_the_best_candidates_is_played() -> None:
    """With all the weight on the largest Q, `chosen` candidates are averaged; one is the best itself."""
    behaviour = fresh().behaviour
    sampler, observation, key = SDESampler(behaviour, 3, 3), jnp.asarray([0.3, 0.1]), jax.random.key(4)
    actions = sampler.sample(observation, jax.random.split(key)[0], 16)
    actions = np.clip(0.3 * np.asarray(actions) / np.abs(actions).max(), -0.5, 0.5)

    class Fixed(SDESampler):
        """Sixteen known candidates."""

        def sample(self, observation: Array, key: Array, count: int) -> Array:
            return jnp.asarray(actions)

    order = np.argsort(-actions[:, 0])
    for chosen in (1, 4):
        policy = SfBCPolicy(Fixed(behaviour, 3, 3), LinearQ(), jnp.asarray(1e6), 16, chosen)
        np.testing.assert_allclose(policy(observation, key), actions[order[:chosen]].mean(axis=0), rtol=1e-5)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="chosen 40"):
        SfBC(chosen=40)
    with pytest.raises(InputError, match="multiple of 3"):
        SfBC(solver_calls=10)
