"""CRR: critic regularised regression in its binary form (Wang et al. 2020, arXiv 2006.15134).

    critic  sum_i E[ (Q_i(s, a) - y)^2 ],   y = r + gamma (1 - d) min_i Q_i,target(s', a'),   a' ~ pi(.|s')
    actor   -E[ 1[Q(s, a) > mean_j Q(s, a_j)] log pi(a|s) ],   a_j ~ pi(.|s),   Q = min_i Q_i

The policy imitates those actions of the data that are better than its own.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Network, Phase, network_field
from tether.algorithms.ranges import Count, Fraction, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.networks import GaussianActor, QEnsemble
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["CRR", "CRRState"]


class CRRState(NamedTuple):
    """Everything that training carries; array leaves only."""

    critic: QEnsemble
    target_critic: QEnsemble  # Polyak average
    actor: GaussianActor
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState


class CRR(eqx.Module):
    """Hyper-parameters of CRR."""

    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, actor and Q
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    actions: Count = eqx.field(static=True, default=4)  # of the policy, in the mean that the data's must exceed
    critic_network: Network = network_field()  # of Q
    actor_network: Network = network_field()  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256))
    train_updates: Updates = eqx.field(static=True, default=500_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> CRRState:
        """Fresh networks; the target starts as a copy."""
        critic_key, actor_key = jax.random.split(key)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        critic = QEnsemble(critic_key, *sizes, activation=jax.nn.relu, layer_norm=False, network=self.critic_network)
        actor = GaussianActor(actor_key, *sizes, spec.max_action, network=self.actor_network)
        return CRRState(critic, critic, actor, adam_init(critic), adam_init(actor))

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: CRRState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[CRRState, Metrics]:
        """Critic, actor, target."""
        target_key, actor_key = jax.random.split(key)
        target = self.critic_target(state, batch, target_key)
        (q_loss, q), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(state.critic, batch, target)
        critic, critic_optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.learning_rate)

        better = self.better_than_its_own(state.actor, critic, batch, actor_key)
        loss, gradients = eqx.filter_value_and_grad(filtered_cloning_loss)(state.actor, batch, better)
        actor, actor_optimiser = adam_step(state.actor, gradients, state.actor_optimiser, self.learning_rate)
        target_critic = polyak(state.target_critic, critic, self.target_rate)
        metrics = {"critic/q_loss": q_loss, "critic/q": jnp.mean(q), "actor/loss": loss, "actor/kept": jnp.mean(better)}
        return CRRState(critic, target_critic, actor, critic_optimiser, actor_optimiser), metrics

    def policy(self, state: CRRState) -> Mode:
        """The actor without noise."""
        return Mode(state.actor)

    def critic_target(self, state: CRRState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """y."""
        noise = jax.random.normal(key, batch.action.shape, jnp.float32)
        action = jax.vmap(state.actor)(batch.next_observation).transform(noise)
        q = jax.vmap(state.target_critic.least)(batch.next_observation, action)
        return td_target(batch.reward, self.discount, batch.terminal, q)

    def better_than_its_own(
        self, actor: GaussianActor, critic: QEnsemble, batch: Transition, key: PRNGKey
    ) -> Float[Array, " batch"]:
        """1[Q(s, a) > mean_j Q(s, a_j)]."""

        def advantage(observation: Array, action: Array, key: PRNGKey) -> Scalar:
            own = actor.sample(observation, key, self.actions)
            baseline = jnp.mean(jax.vmap(critic.least, in_axes=(None, 0))(observation, own))
            return critic.least(observation, action) - baseline

        keys = jax.random.split(key, len(batch.action))
        return (jax.vmap(advantage)(batch.observation, batch.action, keys) > 0).astype(jnp.float32)


def filtered_cloning_loss(actor: GaussianActor, batch: Transition, kept: Float[Array, " batch"]) -> Scalar:
    """-E[ 1[...] log pi(a|s) ]; of the Gaussian before tanh, which has the same gradient."""
    return -jnp.mean(kept * jax.vmap(actor)(batch.observation).log_likelihood(batch.action))
