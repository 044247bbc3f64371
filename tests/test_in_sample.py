"""Cloning, in-sample and weighted regression: what one update must do, and where small problems must end.

Beside the contract suite, the identities of test_baselines.py and the bandit of learning/test_one_bandit.py.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tether.algorithms import AWAC, AWR, BC, EQL, IQL, SQL, XQL, Onestep
from tether.algorithms.awr import lambda_returns
from tether.algorithms.iql import weighted_cloning_loss
from tether.algorithms.shared.losses import clip_actions, limited_exponent
from tether.algorithms.xql import gumbel_loss, huber_regression
from tether.networks import MLP, BoxGaussian, BoxGaussianActor, FreeGaussianActor, QEnsemble, torch_uniform
from tether.policies.acting import sample_each
from tether.presets import load_presets
from tether.types import Array, Spec, Transition

SPEC, ROWS = Spec(observation_size=3, action_size=2, max_action=0.5), 16
TINY: dict[str, Any] = {"hidden_sizes": (8,)}
IN_SAMPLE = {"iql": IQL(**TINY), "sql": SQL(**TINY), "eql": EQL(**TINY), "xql": XQL(**TINY)}


@functools.cache
def batch() -> Transition:
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    action = SPEC.max_action * jnp.tanh(normal(ROWS, 2))
    terminal = jnp.asarray(generator.random(ROWS) < 0.3, jnp.float32)
    columns = normal(ROWS, 3), action, 3 * normal(ROWS), normal(ROWS, 3), terminal
    return Transition(*columns, next_action=jnp.roll(action, -1, axis=0), return_to_go=10 * normal(ROWS))


def start(algorithm: Any, seed: int = 0) -> Any:
    return algorithm.init(SPEC, jax.random.key(seed))


@jax.jit
def update(algorithm: Any, state: Any, data: Transition, key: Array, step: int = 0) -> tuple[Any, dict[str, Array]]:
    """One of the last phase."""
    return algorithm.phases()[-1].update(state, data, key, jnp.asarray(step, jnp.int32))


def same(one: Any, two: Any) -> bool:
    return bool(eqx.tree_equal(one, two))


# --- order and weights of one update ---

WEIGHTS = {
    "iql": lambda a: np.minimum(np.exp(3 * a), 100),
    "sql": lambda a: np.clip(a, 0, 100),
    "eql": lambda a: np.minimum(np.exp(10 * a / 2), 100),
    "xql": lambda a: np.minimum(np.exp(3 * a), 100),
}


@pytest.mark.parametrize("name", IN_SAMPLE)
def test_actor_and_critic_read_the_value_after_its_update(name: str) -> None:
    """Value first; the weights take the target critic from before its own move, the target of Q the new V."""
    algorithm, data = IN_SAMPLE[name], clip_actions(batch(), SPEC.max_action)
    before = start(algorithm)
    before = before._replace(target_critic=start(algorithm, 1).critic)  # no copy of the online one
    after, metrics = update(algorithm, before, data, jax.random.key(0))
    assert not same(after.value, before.value)
    q = np.asarray(jax.vmap(before.target_critic)(data.observation, data.action).min(axis=1))
    advantage = q - np.asarray(jax.vmap(after.value)(data.observation))
    np.testing.assert_allclose(metrics["actor/weight"], WEIGHTS[name](advantage).mean(), rtol=1e-4)
    target = data.reward + 0.99 * (1 - data.terminal) * jax.vmap(after.value)(data.next_observation)
    error = jax.vmap(before.critic)(data.observation, data.action) - target[:, None]
    huber = jnp.where(jnp.abs(error) <= 20.0, error**2 / 2, 20.0 * (jnp.abs(error) - 10.0))
    loss = huber if name == "xql" else error**2
    np.testing.assert_allclose(metrics["critic/q_loss"], loss.mean(axis=0).sum(), rtol=1e-4)
    np.testing.assert_allclose(
        metrics["actor/loss"],
        -np.mean(WEIGHTS[name](advantage) * jax.vmap(before.actor.log_density)(data.observation, data.action)),
        rtol=1e-4,
    )


def test_awac_compares_with_its_own_action_under_the_updated_critic() -> None:
    algorithm = AWAC(**TINY, temperature=0.5)
    before = start(algorithm)
    after, metrics = update(algorithm, before, batch(), jax.random.key(3))
    own = sample_each(before.actor, batch().observation, jax.random.split(jax.random.key(3))[1])
    advantage = algorithm.advantage(after.critic, batch(), own)
    np.testing.assert_allclose(metrics["actor/weight"], np.minimum(np.exp(2 * advantage), 100).mean(), rtol=1e-4)


# --- dropout ---


def test_dropout_keeps_the_mean_of_every_hidden_activation() -> None:
    network = MLP(jax.random.key(0), 1, (200,), 1, activation=jax.nn.relu, initialiser=torch_uniform)
    ones = jax.tree.map(jnp.ones_like, network)
    ones = eqx.tree_at(lambda m: [layer.bias for layer in m.layers], ones, [jnp.zeros(200), jnp.zeros(1)])
    outputs = np.asarray(jax.vmap(lambda key: ones(jnp.ones(1), 0.2, key)[0])(jax.random.split(jax.random.key(1), 500)))
    kept = outputs * 0.8  # so many activations, each 1 / 0.8
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-2)
    assert abs(kept.mean() - 160) < 5 * np.sqrt(200 * 0.2 * 0.8 / 500)
    assert kept.std() == pytest.approx(np.sqrt(200 * 0.2 * 0.8), rel=0.2)
    assert ones(jnp.ones(1), 0.2)[0] == ones(jnp.ones(1), 0.0, jax.random.key(0))[0] == 200


def test_dropout_acts_in_the_loss_alone() -> None:
    how: dict[str, Any] = {"initialiser": torch_uniform}
    data, weight, keys = batch(), jnp.ones(ROWS), jax.random.split(jax.random.key(0))
    for rate, equal in ((0.0, True), (0.5, False)):
        actor = FreeGaussianActor(jax.random.key(1), 3, 2, (32,), 0.5, dropout_rate=rate, **how)
        one, two = (weighted_cloning_loss(actor, data, weight, key) for key in keys)
        assert (one == two) == equal
        plain = FreeGaussianActor(jax.random.key(1), 3, 2, (32,), 0.5, **how)
        np.testing.assert_array_equal(actor.mode(data.observation[0]), plain.mode(data.observation[0]))


# --- XQL ---


def test_gumbel_loss_is_scaled_by_its_largest_exponent() -> None:
    """Its slope is that of E[e^u - u - 1] times e^(-c), where no exponent is limited; above the limit it is 0."""
    q, value, alpha = jnp.asarray([0.5, 1.0, 3.0]), jnp.asarray([0.0, 0.7, 0.1]), 1.5
    assert float(limited_exponent((q - value) / alpha, 7.0)[1]) == pytest.approx(2.9 / 1.5)
    plain = jax.grad(lambda v: jnp.mean(jnp.exp((q - v) / alpha) - (q - v) / alpha - 1.0))(value)
    scaled = jax.grad(lambda v: gumbel_loss(v, q, alpha, 7.0))(value)
    np.testing.assert_allclose(scaled, plain * np.exp(-2.9 / 1.5), rtol=1e-5)
    limited = jax.grad(lambda v: gumbel_loss(v, q, alpha, 1.0))(value)
    assert limited[2] == 0
    assert limited[0] != 0
    assert float(limited_exponent(jnp.asarray([-9.0, -4.0]), 7.0)[1]) == -1.0


class ZeroQ(QEnsemble):
    """Two heads that are 0 everywhere."""

    def __init__(self):
        self.heads = ()

    def __call__(self, observation: Array, action: Array) -> Array:
        return jnp.zeros(2)


def test_huber_regression_by_hand() -> None:
    three = jax.tree.map(lambda column: column[:3], batch())
    loss, _ = huber_regression(ZeroQ(), three, jnp.asarray([1.0, -3.0, 30.0]))
    assert float(loss) == pytest.approx(2 * np.mean([0.5, 4.5, 400.0]))


def test_xql_fits_v_to_smoothed_actions() -> None:
    data, key = batch(), jax.random.key(0)
    assert same(XQL(**TINY).value_rows(data, key, 0.5), data)
    uniform = XQL(**TINY, uniform_actions=True).value_rows(data, key, 0.5)
    assert same(jax.tree.map(lambda column: column[:ROWS], uniform), data)
    np.testing.assert_array_equal(uniform.observation[ROWS:], data.observation)
    many = jax.tree.map(lambda column: jnp.tile(column, (200,) + (1,) * (column.ndim - 1)), data)
    others = np.asarray(XQL(**TINY, uniform_actions=True).value_rows(many, key, 0.5).action[200 * ROWS :])
    assert scipy.stats.kstest(others.ravel(), "uniform", (-0.5, 1.0)).pvalue > 1e-3
    noisy = XQL(**TINY, noisy_actions=True).value_rows(many, key, 0.5).action
    assert jnp.abs(noisy).max() <= 0.5
    inside = jnp.abs(many.action).max(axis=1) < 0.3  # four deviations from the bounds
    assert float((noisy - many.action)[inside].std()) == pytest.approx(0.05, rel=0.05)


def test_xql_takes_so_many_steps_of_v() -> None:
    once, twice = (
        update(XQL(**TINY, value_updates=count), start(XQL(**TINY)), batch(), jax.random.key(0))[0] for count in (1, 2)
    )
    assert int(once.value_optimiser.count) == 1
    assert int(twice.value_optimiser.count) == 2
    assert int(twice.critic_optimiser.count) == 1
    assert not same(once.value, twice.value)


# --- AWR ---


def test_lambda_returns_by_definition() -> None:
    """Rows 0-2 end in a terminal, rows 3-4 are cut; between them (1 - lambda) sum_n lambda^(n-1) R^(n)."""
    reward, following = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0]), jnp.asarray([7.0, 8.0, 0.0, 9.0, 6.0])
    end = jnp.asarray([0.0, 0.0, 1.0, 0.0, 1.0])
    g, trace = 0.9, 0.7
    one, two, three = 1 + g * 7, 1 + g * 2 + g**2 * 8, 1 + g * 2 + g**2 * 3
    first = (1 - trace) * (one + trace * two) + trace**2 * three
    cut = (1 - trace) * (4 + g * 9) + trace * (4 + g * 5 + g**2 * 6)
    found = lambda_returns(reward, following, end, g, trace)
    np.testing.assert_allclose(found[jnp.asarray([0, 2, 3, 4])], [first, 3, cut, 5 + g * 6], rtol=1e-6)
    whole = lambda_returns(reward, following, end, g, 1.0)
    np.testing.assert_allclose(whole[0], three, rtol=1e-6)
    np.testing.assert_allclose(lambda_returns(reward, following, end, g, 0.0), reward + g * following, rtol=1e-6)


def test_awr_standardises_advantages_over_the_data_and_pays_for_leaving_the_box() -> None:
    algorithm, data = AWR(**TINY, temperature=2.0), batch()
    state = start(algorithm)
    values = jax.vmap(algorithm.values, in_axes=(None, 0, None))(state, data, jax.random.key(0))
    np.testing.assert_allclose(values.here, 100 * jax.vmap(state.value)(data.observation), rtol=1e-5)
    assert (np.asarray(values.following)[np.asarray(data.terminal) == 1] == 0).all()
    advantage = algorithm.advantages(values, data._replace(trajectory_end=data.terminal.at[-1].set(1.0)))
    assert float(advantage.mean()) == pytest.approx(0, abs=1e-5)
    assert float(advantage.std()) == pytest.approx(1, rel=1e-4)
    _, metrics = update(algorithm, state, data._replace(derived=advantage), jax.random.key(0))
    weight = np.minimum(np.exp(np.asarray(advantage) / 2), 20)
    np.testing.assert_allclose(metrics["actor/weight"], weight.mean(), rtol=1e-4)
    far = eqx.tree_at(lambda a: a.network.layers[-1].bias, state.actor, jnp.asarray([0.8, 0.0]))
    outside = np.maximum(np.abs(jax.vmap(far.mode)(data.observation)) - 0.5, 0)
    assert outside.max() > 0.1
    loss = algorithm.actor_loss(far, data, jnp.zeros(ROWS))
    np.testing.assert_allclose(loss, 5 * np.mean(np.sum(outside**2, axis=1)), rtol=1e-4)


# --- Onestep ---


class LinearQ(QEnsemble):
    """slope . a"""

    slope: Array

    def __init__(self, *slope: float):
        self.heads, self.slope = (), jnp.asarray(slope, jnp.float32)

    def first(self, observation: Array, action: Array) -> Array:
        return self.slope @ action


class FixedLaw(BoxGaussianActor):
    """The same law in every state."""

    mean: Array
    log_std: Array

    def __init__(self, mean: float, std: float, truncated: bool):
        self.network = MLP(jax.random.key(0), 1, (), 1, activation=jax.nn.relu)  # not used
        self.max_action, self.truncated = 1.0, truncated
        self.mean, self.log_std = jnp.full(1, mean), jnp.log(jnp.full(1, std))

    def __call__(self, observation: Array) -> BoxGaussian:
        return BoxGaussian(self.mean, jnp.exp(self.log_std), 1.0, self.truncated)


def test_reverse_kl_has_its_optimum_at_the_tilted_normal() -> None:
    """Behaviour N(mu, sd^2) well inside the box and Q = k a: pi = beta e^(Q/alpha) = N(mu + k sd^2 / alpha, sd^2)."""
    mean, std, slope, alpha = 0.1, 0.1, 3.0, 0.3
    algorithm = Onestep(**TINY, kl_weight=alpha, samples=2)
    state = start(algorithm)._replace(behaviour=FixedLaw(mean, std, False), critic=LinearQ(slope))
    data = Transition(*(jnp.zeros(shape) for shape in ((4000, 3), (4000, 1), (4000,), (4000, 3), (4000,))))

    @jax.jit
    def gradient(law: FixedLaw) -> FixedLaw:
        return jax.grad(lambda pi: algorithm.reverse_kl_loss(pi, state, data, jax.random.key(0)))(law)

    best = FixedLaw(mean + slope * std**2 / alpha, std, True)
    at_best = gradient(best)
    scale = slope  # of a gradient by the mean
    assert abs(float(at_best.mean[0])) < 0.02 * scale
    assert abs(float(at_best.log_std[0])) < 0.07 * alpha  # four deviations of the estimate
    assert float(gradient(eqx.tree_at(lambda law: law.mean, best, best.mean - 0.05)).mean[0]) < -0.3 * scale
    assert float(gradient(eqx.tree_at(lambda law: law.mean, best, best.mean + 0.05)).mean[0]) > 0.3 * scale
    assert float(gradient(eqx.tree_at(lambda law: law.log_std, best, best.log_std - 0.3)).log_std[0]) < -0.1 * alpha


def test_the_policy_starts_as_the_behaviour_when_its_phase_begins() -> None:
    algorithm = Onestep(**TINY, learning_rate=0.0)
    state = start(algorithm)._replace(behaviour=start(algorithm, 1).behaviour)
    after, _ = update(algorithm, state, batch(), jax.random.key(0), 0)
    assert same(after.actor.network, state.behaviour.network)
    assert (after.actor.truncated, after.behaviour.truncated) == (True, False)
    later, _ = update(algorithm, state, batch(), jax.random.key(0), 1)
    assert same(later.actor.network, state.actor.network)


def test_without_advantage_exp_weight_is_cloning() -> None:
    algorithm = Onestep(**TINY, operator="exp-weight", inverse_temperature=0.0)
    state = start(algorithm)
    _, metrics = update(algorithm, state, batch(), jax.random.key(0))
    expected = -jnp.mean(jax.vmap(state.actor)(batch().observation).log_density(batch().action))
    np.testing.assert_allclose(metrics["actor/loss"], expected, rtol=1e-5)


def test_easy_bcq_trains_nothing_and_takes_the_best_of_the_behaviour() -> None:
    algorithm = Onestep(**TINY, operator="easy-bcq", samples=64)
    state = start(algorithm)
    assert same(update(algorithm, state, batch(), jax.random.key(0))[0], state)
    critic = eqx.tree_at(lambda c: c.heads[0].layers[0].weight, state.critic, jnp.zeros((8, 5)).at[:, 3].set(1.0))
    critic = eqx.tree_at(lambda c: c.heads[0].layers[0].bias, critic, jnp.ones(8))
    critic = eqx.tree_at(lambda c: c.heads[0].layers[1].weight, critic, jnp.ones((1, 8)))
    policy = algorithm.policy(state._replace(critic=critic))  # Q grows with the action's first coordinate
    key, observation = jax.random.key(2), jnp.ones(3)
    candidates = state.behaviour.sample(observation, key, 64)
    np.testing.assert_array_equal(policy(observation, key), candidates[jnp.argmax(candidates[:, 0])])


# --- problems with known answers: whole data sets as minibatches, so that little is random ---


@functools.partial(jax.jit, static_argnames=("phase", "updates"))
def train(algorithm: Any, state: Any, data: Transition, *, phase: int, updates: int) -> Any:
    def one(state: Any, step: Array) -> tuple[Any, None]:
        key = jax.random.fold_in(jax.random.key(7), step)
        return algorithm.phases()[phase].update(state, data, key, step)[0], None

    return jax.lax.scan(one, state, jnp.arange(updates, dtype=jnp.int32))[0]


def table(observation: Any, action: Any, reward: Any, following: Any, terminal: Any, **extra: Any) -> Transition:
    columns = [np.asarray(x, np.float32) for x in (observation, action, reward, following, terminal)]
    extra = {name: jnp.asarray(column, jnp.float32) for name, column in extra.items()}
    return Transition(*map(jnp.asarray, columns), **extra)


def test_sarsa_is_the_value_of_the_behaviour_and_not_the_best() -> None:
    """A -> B -> end. In B a = 0.5 pays 1 and a = -0.5 nothing, half of the time each: Q(A) = 0.8 / 2 and not 0.8."""
    row = np.arange(64)
    in_a, good, good_next = row % 2 == 0, row % 4 < 2, row % 8 < 4  # independent of each other
    observation = np.where(in_a[:, None], [1.0, 0.0], [0.0, 1.0])
    action = np.where(good, 0.5, -0.5)[:, None]
    data = table(
        observation,
        action,
        ~in_a & good,
        np.where(in_a[:, None], [0.0, 1.0], 20.0),  # what "follows" the end is far away and must be masked
        ~in_a,
        next_action=np.where(in_a, np.where(good_next, 0.5, -0.5), 20.0)[:, None],
    )
    algorithm = Onestep(hidden_sizes=(32,), discount=0.8, learning_rate=1e-2, target_rate=0.2)
    state = algorithm.init(Spec(2, 1), jax.random.key(0))
    critic = train(algorithm, state, data, phase=1, updates=600).critic
    a, b = jnp.asarray([1.0, 0.0]), jnp.asarray([0.0, 1.0])
    for place, act, value in ((b, 0.5, 1.0), (b, -0.5, 0.0), (a, 0.5, 0.4), (a, -0.5, 0.4)):
        assert float(critic(place, jnp.full(1, act))[0]) == pytest.approx(value, abs=0.03)


def small(state: Any, field: str) -> Any:
    """Weights a tenth as large: with a first deviation of 0.01 the likelihood's gradients would start in the
    thousands, which Adam takes thousands of steps to forget."""
    return state._replace(**{field: jax.tree.map(lambda leaf: 0.1 * leaf, getattr(state, field))})


def clusters() -> Transition:
    """One state: 70 % of the actions around -0.5 earn nothing, 30 % around 0.5 earn 1."""
    good, rows = np.arange(100) < 30, np.ones((100, 1))
    action = np.where(good, 0.5, -0.5)[:, None] + 0.05 * np.random.default_rng(0).standard_normal((100, 1))
    return table(rows, action, good, rows, np.ones(100), next_action=np.zeros((100, 1)))


def test_exp_weight_matches_the_weighted_moments() -> None:
    """Q is 1 or 0, so good rows weigh e^eta times the others; a truncated normal's likelihood fits the mean."""
    eta, data = 1.5, clusters()
    how: dict[str, Any] = {"hidden_sizes": (16,), "learning_rate": 3e-3, "target_rate": 1.0}
    algorithm = Onestep(operator="exp-weight", inverse_temperature=eta, **how)
    state = small(algorithm.init(Spec(1, 1), jax.random.key(0)), "behaviour")
    for phase in range(3):
        state = train(algorithm, state, data, phase=phase, updates=1500)
    behaviour = state.behaviour(jnp.ones(1))
    np.testing.assert_allclose(behaviour.mean, data.action.mean(), atol=0.01)  # maximum likelihood of a plain normal
    np.testing.assert_allclose(behaviour.std, data.action.std(), rtol=0.03)
    weight = np.where(np.asarray(data.reward) > 0, np.exp(eta), 1.0)
    expected = np.average(np.asarray(data.action)[:, 0], weights=weight)
    assert expected > 0.05  # and not the behaviour's -0.2
    np.testing.assert_allclose(state.actor.mode(jnp.ones(1)), expected, atol=0.03)


@pytest.mark.parametrize(("std", "entropy"), [(0.06, -1.0), (0.2, np.log(0.2 * np.sqrt(2 * np.pi * np.e)))])
def test_gaussian_cloning_keeps_its_entropy_up(std: float, entropy: float) -> None:
    """Narrow data: the entropy is held at its target, -1. Wide data: the weight dies away and it is the data's own."""
    quantiles = scipy.stats.norm.ppf((np.arange(100) + 0.5) / 100)
    rows = np.ones((100, 1))
    data = table(rows, 0.1 + std * quantiles[:, None], np.zeros(100), rows, np.ones(100))
    algorithm = BC(actor_kind="gaussian", hidden_sizes=(16,), learning_rate=3e-3, entropy_learning_rate=3e-3)
    state = small(algorithm.init(Spec(1, 1), jax.random.key(0)), "actor")
    state = train(algorithm, state, data, phase=0, updates=1000)
    law = jax.vmap(state.actor)(jnp.ones((4000, 1)))
    noise = jax.random.normal(jax.random.key(1), (4000, 1))
    assert float(-law.log_density_of_noise(noise).mean()) == pytest.approx(entropy, abs=0.1)
    np.testing.assert_allclose(state.actor.mode(jnp.ones(1)), 0.1, atol=0.02)


# --- presets ---


def test_xql_presets_are_those_of_its_scripts() -> None:
    """Typed in a second time: temperature, limit, batch, and what single tasks add."""
    presets = load_presets("xql")
    assert len(presets) == 19
    rows = {
        "halfcheetah-medium-v2": (1.0, 7.0, 1024, {"noisy_actions"}),
        "halfcheetah-medium-replay-v2": (1.0, 5.0, 256, set()),
        "halfcheetah-medium-expert-v2": (1.0, 5.0, 1024, set()),
        "hopper-medium-v2": (5.0, 7.0, 1024, set()),
        "hopper-medium-replay-v2": (2.0, 7.0, 256, set()),
        "hopper-medium-expert-v2": (2.0, 7.0, 1024, {"uniform_actions"}),
        "walker2d-medium-v2": (10.0, 7.0, 1024, set()),
        "walker2d-medium-replay-v2": (5.0, 5.0, 1024, set()),
        "walker2d-medium-expert-v2": (2.0, 5.0, 256, set()),
        "antmaze-umaze-v0": (2.0, 7.0, 256, set()),
        "antmaze-umaze-diverse-v0": (5.0, 7.0, 256, {"uniform_actions"}),
        "antmaze-medium-play-v0": (0.8, 5.0, 256, set()),
        "antmaze-medium-diverse-v0": (0.6, 7.0, 256, {"value_updates"}),
        "antmaze-large-play-v0": (0.6, 5.0, 1024, set()),
        "antmaze-large-diverse-v0": (0.55, 5.0, 1024, set()),
        "kitchen-complete-v0": (2.0, 7.0, 1024, set()),
        "kitchen-partial-v0": (5.0, 7.0, 1024, set()),
        "kitchen-mixed-v0": (8.0, 7.0, 1024, set()),
    }
    for task, (alpha, limit, size, extra) in rows.items():
        found = presets[task]
        assert (found["alpha"], found["exponent_limit"], found["batch_size"]) == (alpha, limit, size), task
        assert {"noisy_actions", "uniform_actions", "value_updates"} & set(found) == extra, task


@pytest.mark.parametrize("name", ["iql", "sql", "eql", "xql"])
def test_dropout_is_where_the_authors_have_it(name: str) -> None:
    for task, settings in load_presets(name).items():
        domain = task.split("-")[0]
        drops = domain in ("kitchen", "pen", "door", "hammer", "relocate")
        assert settings.get("actor_dropout", 0.0) == (0.1 if drops else 0.0), task
