"""QGPO's equations against numbers worked out by hand; what it learns is in tests/learning."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms.qgpo import QGPO, Support, contrastive_loss, soft_value
from tether.errors import InputError
from tether.networks import QEnsemble
from tether.types import Array, Spec, Transition

SPEC = Spec(observation_size=3, action_size=2)
TINY: dict[str, Any] = {"hidden_sizes": (4,), "energy_hidden_sizes": (4,), "score_widths": (4, 2), "solver_calls": 3}


class LinearQ(QEnsemble):
    """Two heads: the sum of the action, and 1 more."""

    def __init__(self):
        self.heads = ()

    def __call__(self, observation: Array, action: Array) -> Array:
        return action.sum() + jnp.asarray([1.0, 0.0])


def batch() -> Transition:
    keys = jax.random.split(jax.random.key(0), 3)
    support = Support(jax.random.normal(keys[0], (4, 5, 2)), jax.random.normal(keys[1], (4, 5, 2)))
    rows = jnp.zeros((4, 3)), jnp.zeros((4, 2)), jax.random.normal(keys[2], (4,)), jnp.zeros((4, 3))
    return Transition(*rows, jnp.asarray([0.0, 0.0, 0.0, 1.0]), derived=support)


def test_soft_value_lies_between_mean_and_maximum() -> None:
    q = jnp.asarray([[1.0, 3.0, -2.0], [0.0, 0.0, 6.0]])
    np.testing.assert_allclose(soft_value(q, 0.0), q.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(soft_value(q, 1e3), q.max(axis=1), rtol=1e-6)
    weight = np.exp([1.0, 3.0, -2.0])
    expected = weight @ np.array([1.0, 3.0, -2.0]) / weight.sum()
    np.testing.assert_allclose(soft_value(q, 1.0)[0], expected, rtol=1e-5)


def test_target_is_the_soft_value_of_the_lowest_head_in_the_next_state() -> None:
    algorithm, data = QGPO(**TINY, discount=0.5, value_inverse_temperature=2.0), batch()
    state = algorithm.init(SPEC, jax.random.key(0))._replace(target_critic=LinearQ())
    q = np.asarray(data.derived.following, np.float64).sum(axis=2)  # the lowest head is the sum
    weight = np.exp(2 * q) / np.exp(2 * q).sum(axis=1, keepdims=True)
    expected = np.asarray(data.reward) + 0.5 * np.array([1, 1, 1, 0]) * (weight * q).sum(axis=1)
    np.testing.assert_allclose(algorithm.critic_target(state, data), expected, rtol=1e-5)


def test_contrast_compares_the_actions_of_a_state_at_one_time() -> None:
    """An energy of the time alone says nothing, whatever the labels: the loss is log M, which it would not be with a
    time for each action. And a constant changes nothing."""
    data, logits = batch(), jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)

    def loss(energy: Any) -> float:
        return float(contrastive_loss(energy, data.observation, data.derived.here, logits, jax.random.key(1)))

    assert loss(lambda a, o, t: 50.0 * jnp.sin(9.0 * t)) == pytest.approx(np.log(5), rel=1e-5)
    assert loss(lambda a, o, t: a[0]) == pytest.approx(loss(lambda a, o, t: a[0] + 3.0), rel=1e-5)


def test_the_labels_are_the_least_of_the_contrast() -> None:
    """Far apart, noised actions still tell which they were: an energy that knows reaches the labels' entropy."""
    far = 1e4 * jnp.arange(5.0)
    actions = jnp.broadcast_to(far[:, None], (4, 5, 1))
    label = jax.nn.log_softmax(jnp.asarray([0.3, -1.0, 2.0, 0.0, 0.5]))
    known = lambda a, o, t: label[jnp.argmin(jnp.abs(a / decay(t) - far))]  # noqa: E731
    logits = jnp.broadcast_to(label, (4, 5))
    entropy = -float(jnp.sum(jnp.exp(label) * label))
    observation = jnp.zeros((4, 3))
    found = float(contrastive_loss(known, observation, actions, logits, jax.random.key(1)))
    assert found == pytest.approx(entropy, rel=1e-5)
    wrong = lambda a, o, t: -known(a, o, t)  # noqa: E731
    assert float(contrastive_loss(wrong, observation, actions, logits, jax.random.key(1))) > entropy + 0.5


def decay(time: Array) -> Array:
    """alpha_t."""
    return jnp.exp(-0.25 * time**2 * 19.9 - 0.05 * time)


def test_an_even_number_of_solver_calls_is_refused() -> None:
    with pytest.raises(InputError, match="odd"):
        QGPO(solver_calls=10)
