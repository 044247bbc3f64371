"""The algorithm keeps tether's contract, and its filter keeps what it should."""

import jax
import jax.numpy as jnp
from own_algorithm.crr import CRR

from tether import Spec
from tether.testing import check_algorithm
from tether.types import Transition


def test_it_keeps_the_contract() -> None:
    networks = {"critic", "target_critic", "critic_optimiser", "actor", "actor_optimiser"}
    check_algorithm(
        CRR(hidden_sizes=(8,), actions=2),
        changes={"train": networks},
        targets=(("target_critic", "critic", "target_rate"),),
        deterministic=True,
    )


def test_an_action_is_kept_where_it_beats_the_policys_own() -> None:
    """With Q(s, a) = a_1, the upper half of the box is better than the mean of the policy's actions, 0."""
    algorithm, spec, key = CRR(actions=1000), Spec(3, 2), jax.random.key(0)
    actor = jax.tree.map(jnp.zeros_like, algorithm.init(spec, key).actor)  # mean 0

    class FirstCoordinate:
        def least(self, observation: jax.Array, action: jax.Array) -> jax.Array:
            return action[0]

    action = jnp.array([[0.9, 0.0], [-0.9, 0.0], [0.5, 0.5], [-0.5, 0.9]])
    zeros = jnp.zeros(4)
    batch = Transition(jnp.zeros((4, 3)), action, zeros, jnp.zeros((4, 3)), zeros)
    kept = algorithm.better_than_its_own(actor, FirstCoordinate(), batch, key)  # pyright: ignore[reportArgumentType]
    assert kept.tolist() == [1.0, 0.0, 1.0, 0.0]
