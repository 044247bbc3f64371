"""REM: random ensemble mixtures (Agarwal, Schuurmans and Norouzi 2020, arXiv 1907.04543) on TD3, with two trunks.

    w ~ U(0, 1)^H, normalised to sum 1, for each of two trunks k with H heads each
    Q_w^k(s, a) = sum_h w_h^k Q_h^k(s, a)
    target  y = r + gamma (1 - d) min_k Q_w,target^k(s', a'),  a' as TD3's: the target actor with clipped noise
    critic  sum_k E[ (Q_w^k(s, a) - y)^2 ], the same w as in the target
    actor   every second update: -E[ mean_h Q_h^1(s, pi(s)) ]

No pessimism and no tether: its D4RL scores are near 0, and that is what it is listed for.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Network, Phase, network_field
from tether.algorithms.ranges import Count, Fraction, Interval, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import polyak, smoothed_action, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step, update_when_due
from tether.networks import DeterministicActor, Layers, make_network
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["REM", "REMState", "mixture_weights"]

TRUNKS = 2


class REMState(NamedTuple):
    """Everything that training carries; array leaves only. Targets are Polyak averages."""

    critic: tuple[Layers, ...]  # a trunk with H outputs each
    target_critic: tuple[Layers, ...]
    actor: DeterministicActor
    target_actor: DeterministicActor
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState


def mixture_weights(key: PRNGKey, head_count: int) -> Float[Array, "trunks heads"]:
    """One convex combination per trunk, for the whole batch."""
    draw = jax.random.uniform(key, (TRUNKS, head_count), jnp.float32)
    return draw / draw.sum(axis=1, keepdims=True)


def mixed_q(
    trunks: tuple[Layers, ...], weights: Float[Array, "trunks heads"], observation: Array, action: Array
) -> Float[Array, "batch trunks"]:
    """Q_w^k for every row."""
    x = jnp.concatenate([observation, action], axis=1)
    return jnp.stack([jax.vmap(trunk)(x) @ weight for trunk, weight in zip(trunks, weights, strict=True)], axis=1)


class REM(eqx.Module):
    """Hyper-parameters of REM; the defaults are its authors' for continuous control."""

    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 1e-3  # Adam, actor
    critic_learning_rate: NonNegative = 1e-3  # Adam, Q
    target_rate: Fraction = 0.005  # Polyak step of all targets, in the actor's updates
    target_noise: NonNegative = 0.2  # standard deviation of the smoothing noise
    target_noise_limit: NonNegative = 0.5

    head_count: Count = eqx.field(static=True, default=100)  # H
    actor_update_interval: Interval = eqx.field(static=True, default=2)
    critic_network: Network = network_field(scalar=True)  # of Q
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(400, 300))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> REMState:
        """Fresh networks; targets start as copies."""
        actor_key, *trunk_keys = jax.random.split(key, 1 + TRUNKS)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        how = sizes[:2], self.hidden_sizes, self.head_count
        critic = tuple(make_network(self.critic_network, k, *how, activation=jax.nn.relu) for k in trunk_keys)
        actor = DeterministicActor(actor_key, *sizes, spec.max_action, network=self.actor_network)
        return REMState(critic, critic, actor, actor, adam_init(critic), adam_init(actor))

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: REMState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[REMState, Metrics]:
        """The critic; every second time actor and targets, too."""
        weight_key, noise_key = jax.random.split(key)
        weights = mixture_weights(weight_key, self.head_count)
        target = self.critic_target(state, batch, weights, noise_key)

        def loss(critic: tuple[Layers, ...]) -> tuple[Scalar, Array]:
            q = mixed_q(critic, weights, batch.observation, batch.action)
            return jnp.sum(jnp.mean((q - target[:, None]) ** 2, axis=0)), q

        (q_loss, q), gradients = eqx.filter_value_and_grad(loss, has_aux=True)(state.critic)
        critic, optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.critic_learning_rate)
        state = state._replace(critic=critic, critic_optimiser=optimiser)
        state, metrics = update_when_due(
            lambda state: self._update_actor(state, batch.observation), state, step, 0, self.actor_update_interval
        )
        return state, {"critic/q_loss": q_loss, "critic/q": jnp.mean(q)} | metrics

    def policy(self, state: REMState) -> Mode:
        """The online actor."""
        return Mode(state.actor)

    def critic_target(
        self, state: REMState, batch: Transition, weights: Float[Array, "trunks heads"], key: PRNGKey
    ) -> Float[Array, " batch"]:
        """y, from the target actor with smoothing noise."""
        action, limit = jax.vmap(state.target_actor)(batch.next_observation), state.actor.max_action
        action = smoothed_action(action, key, self.target_noise * limit, self.target_noise_limit * limit, limit)
        q = mixed_q(state.target_critic, weights, batch.next_observation, action)
        return td_target(batch.reward, self.discount, batch.terminal, q.min(axis=1))

    def _update_actor(
        self, state: REMState, observation: Float[Array, "batch observation"]
    ) -> tuple[REMState, Metrics]:
        def loss(actor: DeterministicActor) -> Scalar:
            x = jnp.concatenate([observation, jax.vmap(actor)(observation)], axis=1)
            return -jnp.mean(jax.vmap(state.critic[0])(x))

        value, gradients = eqx.filter_value_and_grad(loss)(state.actor)
        actor, optimiser = adam_step(state.actor, gradients, state.actor_optimiser, self.learning_rate)
        return state._replace(
            actor=actor,
            actor_optimiser=optimiser,
            target_actor=polyak(state.target_actor, actor, self.target_rate),
            target_critic=polyak(state.target_critic, state.critic, self.target_rate),
        ), {"actor/loss": value}
