"""DTQL-KL against the specification's section 12."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms import DTQL, DTQLKL
from tether.algorithms.dtql_kl import WEIGHT_FLOOR, distillation_gradient, distillation_loss
from tether.errors import InputError
from tether.networks.factories import mlp
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.training.loop import NEVER, init_lanes, run_updates
from tether.types import Spec, Transition

SMALL = DTQLKL(hidden_sizes=(16,), denoiser_hidden_sizes=(16,), time_embedding_size=4)
SPEC = Spec(observation_size=2, action_size=3)


def draws(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


def batch(rows=32):
    zeros = jnp.zeros(rows)
    return Transition(
        draws(rows, 2), jnp.clip(0.5 * draws(rows, 3, seed=1), -1, 1), zeros, draws(rows, 2, seed=2), zeros
    )


def test_gradient_on_the_action_is_g_over_rows_and_coordinates():
    action, real, fake = draws(5, 3), draws(5, 3, seed=1), draws(5, 3, seed=2)
    g = distillation_gradient(action, real, fake)
    gradient = jax.grad(lambda a: distillation_loss(a, g))(action)
    np.testing.assert_allclose(gradient, g / 15, rtol=1e-5, atol=1e-8)


def test_weight_is_the_mean_distance_of_the_row():
    action, real, fake = jnp.asarray([[1.0, 3.0]]), jnp.asarray([[0.0, 0.0]]), jnp.asarray([[1.0, -1.0]])
    np.testing.assert_allclose(distillation_gradient(action, real, fake), [[0.5, -0.5]], rtol=1e-6)


def test_g_is_the_weighted_difference_of_scores():
    """Gaussian laws N(m, v): D = (v x + sigma^2 m)/(v + sigma^2), score = (m - x)/(v + sigma^2) = (D - x)/sigma^2."""
    sigma, action, noise = 0.7, draws(4, 3), draws(4, 3, seed=1)
    noisy = action + sigma * noise

    def law(mean, variance):
        denoised = (variance * noisy + sigma**2 * mean) / (variance + sigma**2)
        return denoised, (mean - noisy) / (variance + sigma**2)

    (real, real_score), (fake, fake_score) = law(0.3, 0.2), law(-0.1, 0.5)
    weight = sigma**2 * 3 / jnp.abs(real - action).sum(axis=1, keepdims=True)
    expected = weight * (fake_score - real_score)
    np.testing.assert_allclose(distillation_gradient(action, real, fake), expected, rtol=2e-5)


def test_a_perfect_reconstruction_does_not_divide_by_zero():
    action = draws(4, 3)
    g = distillation_gradient(action, action, action)
    np.testing.assert_array_equal(g, jnp.zeros((4, 3)))
    assert WEIGHT_FLOOR < 1e-6


def test_no_pull_where_policy_and_behaviour_have_the_same_denoiser():
    state = SMALL.init(SPEC, jax.random.key(0))
    state = state._replace(fake_denoiser=state.denoiser)
    keys = jax.random.split(jax.random.key(1))
    g = SMALL.score_difference(draws(8, 3), state, draws(8, 2), *keys)
    np.testing.assert_array_equal(g, jnp.zeros((8, 3)))


def test_policy_loss_reaches_the_policy_alone():
    state = SMALL.init(SPEC, jax.random.key(0))

    def loss(state):
        return SMALL.actor_loss(state.actor, state, batch().observation, jax.random.key(2))[0]

    gradients = eqx.filter_grad(loss)(state)

    def largest(tree):
        return max((float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree)), default=0.0)

    assert largest(gradients.actor) > 0
    assert largest(gradients.denoiser) == 0
    assert largest(gradients.fake_denoiser) == 0
    assert largest(gradients.target_q) == 0
    assert largest(gradients.critic.value) == 0


def test_training_starts_from_the_denoiser():
    """With learning rate 0 the hand-over at step 0 is all that happens to policy and fake denoiser."""
    frozen = eqx.tree_at(lambda a: a.learning_rate, SMALL, 0.0)
    state = frozen.init(SPEC, jax.random.key(0))
    after = frozen.update(state, batch(), jax.random.key(1), jnp.asarray(0, jnp.int32))[0]
    for network in (after.actor.network, after.fake_denoiser):
        for got, expected in zip(jax.tree.leaves(network), jax.tree.leaves(state.denoiser), strict=True):
            np.testing.assert_array_equal(got, expected)
    later = frozen.update(state, batch(), jax.random.key(1), jnp.asarray(1, jnp.int32))[0]
    assert eqx.tree_equal(later.actor, state.actor)
    assert eqx.tree_equal(later.fake_denoiser, state.fake_denoiser)


@pytest.mark.parametrize("network", ["residual", "gelu", "512x512", "layernorm"])
def test_an_actor_of_another_kind_starts_from_weights_of_its_own(network):
    with pytest.raises(InputError, match=f"^actor_network '{network}': .* start_from_denoiser=False "):
        DTQLKL(actor_network=network)
    own = DTQLKL(actor_network=network, start_from_denoiser=False)
    assert jax.eval_shape(lambda key: own.init(SPEC, key), jax.random.key(0)).actor.network is not None


@pytest.mark.parametrize("network", ["mish", "256x256x256", mlp])
def test_an_actor_of_the_denoisers_kind_by_another_name_starts_from_it(network):
    algorithm, step = DTQLKL(actor_network=network), jnp.asarray(0, jnp.int32)
    state = jax.eval_shape(lambda key: algorithm.init(SPEC, key), jax.random.key(0))
    after, _ = jax.eval_shape(algorithm.update, state, batch(), jax.random.key(0), step)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_fake_denoiser_learns_from_policy_actions_and_not_from_the_data():
    state = SMALL.init(SPEC, jax.random.key(0))
    step = jnp.asarray(1, jnp.int32)
    one = SMALL.update(state, batch(), jax.random.key(1), step)[0]
    other_actions = batch()._replace(action=-batch().action)
    two = SMALL.update(state, other_actions, jax.random.key(1), step)[0]
    assert not eqx.tree_equal(one.denoiser, two.denoiser)  # the data's actions do reach the denoiser
    other_policy = state._replace(actor=SMALL.init(SPEC, jax.random.key(9)).actor)
    three = SMALL.update(other_policy, batch(), jax.random.key(1), step)[0]
    assert not eqx.tree_equal(one.fake_denoiser, three.fake_denoiser)
    assert eqx.tree_equal(one.fake_denoiser, two.fake_denoiser)


@pytest.mark.long
@pytest.mark.parametrize("algorithm", [DTQLKL, DTQL])
def test_kl_covers_both_modes_and_the_trust_region_one(algorithm):
    """Behaviour: two equal modes at +-0.5, no reward."""
    trust_region = algorithm is DTQL
    # The fake denoiser must keep up with the policy, so the KL variant wants a small rate and more updates.
    settings = {
        **{"hidden_sizes": (16, 16), "denoiser_hidden_sizes": (64, 64), "time_embedding_size": 8, "candidates": 1},
        **{"q_normalization": "none", "sigma_data": 0.25, "pretrain_updates": 800},
        **({"actor_kind": "implicit", "trust_region_weight": 1.0} if trust_region else {}),
        **({"learning_rate": 1e-3, "train_updates": 800} if trust_region else {}),
        **({} if trust_region else {"learning_rate": 3e-4, "train_updates": 6000}),
    }
    one, rows = algorithm(**settings), 1024
    sides = jnp.where(jnp.arange(rows) % 2 == 0, 0.5, -0.5)[:, None]
    ones = jnp.ones((rows, 1))
    action = sides + 0.05 * draws(rows, 1)
    data = Transition(ones, action, jnp.zeros(rows), ones, jnp.ones(rows))
    lanes = stack_lanes(one, [Lane(0, {})])
    keys = jax.random.split(jax.random.key(3), 2)
    state, alive = init_lanes(lanes, Spec(1, 1), keys[:1]), jnp.ones(1, bool)
    for index, phase in enumerate(one.phases()):
        span = jnp.asarray(0, jnp.int32), jnp.asarray(phase.updates, jnp.int32)
        progress = run_updates(lanes, state, keys[1:], alive, data, *span, phase=index, batch_size=128, sequential=True)
        assert int(progress.first_nonfinite[0]) == NEVER
        state = progress.state
    policy = one.policy(take_lane(state, 0))
    samples = jax.vmap(policy, in_axes=(None, 0))(jnp.ones(1), jax.random.split(jax.random.key(4), 400))
    left, right = (float(jnp.mean(jnp.abs(samples - centre) < 0.25)) for centre in (-0.5, 0.5))
    if trust_region:
        assert max(left, right) > 0.95
    else:
        assert min(left, right) > 0.2
