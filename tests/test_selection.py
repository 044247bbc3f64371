"""Candidate selection: exact probabilities, and the short cut that must not change a single choice."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.networks import QEnsemble
from tether.policies.selection import SHORTLIST, sample_by_min_q, sample_by_q, sample_without_replacement

CANDIDATES = 4 * SHORTLIST


def test_choice_follows_softmax_of_q_itself():
    # softmax(0, ln 3) = (1/4, 3/4); a second softmax would give (0.38, 0.62).
    actions = jnp.asarray([[0.0], [1.0]])
    keys = jax.random.split(jax.random.key(0), 20_000)
    chosen = jax.vmap(lambda key: sample_by_q(key, actions, jnp.log(jnp.asarray([1.0, 3.0]))))(keys)
    assert abs(float(chosen.mean()) - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 20_000)


def test_drawing_without_replacement_follows_the_weights_that_are_left():
    """First and second of three with weights 3, 2 and 1: p_i p_j / (1 - p_i), and never the same one twice."""
    actions, weight = jnp.asarray([[0.0], [1.0], [2.0]]), np.array([3.0, 2.0, 1.0]) / 6
    keys = jax.random.split(jax.random.key(2), 20_000)
    drawn = jax.vmap(lambda key: sample_without_replacement(key, actions, jnp.log(jnp.asarray(weight)), 2))(keys)
    first, second = np.asarray(drawn[:, 0, 0], int), np.asarray(drawn[:, 1, 0], int)
    for i in range(3):
        for j in range(3):
            exact = 0.0 if i == j else weight[i] * weight[j] / (1 - weight[i])
            assert abs(np.mean((first == i) & (second == j)) - exact) <= 4 * np.sqrt(exact / 20_000)


def offset(critic: QEnsemble, head: int, by: float) -> QEnsemble:
    """`critic` with a constant added to one head."""
    return eqx.tree_at(lambda q: q.heads[head].layers[-1].bias, critic, replace_fn=lambda bias: bias + by)


@pytest.mark.parametrize("ensemble_size", [1, 2, 3])
@pytest.mark.parametrize("by", [-30.0, -3.0, 0.0, 3.0])  # -30: no certificate, everything is evaluated
@pytest.mark.parametrize("candidates", [64, pytest.param(CANDIDATES, marks=pytest.mark.long)])
def test_shortlist_changes_no_choice(ensemble_size, by, candidates):
    critic = QEnsemble(jax.random.key(0), 3, 2, (16,), ensemble_size=ensemble_size)
    critic = offset(critic, ensemble_size - 1, by)
    # Heads that disagree by about one from candidate to candidate.
    critic = eqx.tree_at(
        lambda q: [head.layers[-1].weight for head in q.heads], critic, replace_fn=lambda weight: 5.0 * weight
    )

    @jax.jit
    def both(key):
        observation_key, action_key, choose_key = jax.random.split(key, 3)
        observation = jax.random.normal(observation_key, (3,))
        actions = jax.random.uniform(action_key, (candidates, 2), minval=-1.0)
        q = jax.vmap(lambda action: critic(observation, action).min())(actions)
        return sample_by_q(choose_key, actions, q), sample_by_min_q(choose_key, critic, observation, actions)

    plain, short = jax.lax.map(both, jax.random.split(jax.random.key(1), 40))
    np.testing.assert_array_equal(plain, short)
