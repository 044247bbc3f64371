"""TD3+BC: a deterministic policy that maximises Q and stays near the data (Fujimoto and Gu 2021, arXiv 2106.06860).

    target  a' = clip(pi_target(s') + clip(0.2 noise, +-0.5), +-1),   y = r + gamma (1 - d) min_i Q_i,target(s', a')
    critic  sum_i E[ (Q_i(s, a) - y)^2 ]
    actor   every second update:  E[ (pi(s) - a)^2 ] - lambda E[ Q_1(s, pi(s)) ],   lambda = 2.5 / E|Q_1(s, pi(s))|

lambda has no gradient; actor and all targets move in the actor's updates only.

Deviation. From the authors' and CORL's code (arXiv 2210.07105):
  1. Actor and targets move in updates 0, 2, 4, ..., theirs in 1, 3, 5, ...: ours have made one step more after an odd
     number of updates. Runs on disk shall go on as they began.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Network, Phase, network_field
from tether.algorithms.ranges import Fraction, Interval, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import polyak, q_regression, smoothed_action, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step, update_when_due
from tether.networks import DeterministicActor, QEnsemble
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["TD3BC", "TD3BCState"]


class TD3BCState(NamedTuple):
    """Everything that training carries; array leaves only. Targets are Polyak averages."""

    critic: QEnsemble
    target_critic: QEnsemble
    actor: DeterministicActor
    target_actor: DeterministicActor
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState


class TD3BC(eqx.Module):
    """Hyper-parameters of TD3+BC; the defaults are the paper's for every task."""

    q_weight: NonNegative = 2.5  # alpha: weight of the normalised Q against cloning
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, actor
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q
    target_rate: Fraction = 0.005  # Polyak step of all targets, in the actor's updates
    target_noise: NonNegative = 0.2  # standard deviation of the smoothing noise
    target_noise_limit: NonNegative = 0.5

    actor_update_interval: Interval = eqx.field(static=True, default=2)
    critic_network: Network = network_field()  # of Q
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> TD3BCState:
        """Fresh networks; targets start as copies."""
        critic_key, actor_key = jax.random.split(key)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        critic = QEnsemble(critic_key, *sizes, activation=jax.nn.relu, layer_norm=False, network=self.critic_network)
        actor = DeterministicActor(actor_key, *sizes, spec.max_action, network=self.actor_network)
        return TD3BCState(critic, critic, actor, actor, adam_init(critic), adam_init(actor))

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: TD3BCState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[TD3BCState, Metrics]:
        """The critic; every second time actor and targets, too."""
        target = self.critic_target(state, batch, key)
        (loss, q), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(state.critic, batch, target)
        critic, optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.critic_learning_rate)
        state = state._replace(critic=critic, critic_optimiser=optimiser)
        state, actor_metrics = update_when_due(
            lambda state: self._update_actor(state, batch), state, step, 0, self.actor_update_interval
        )
        return state, {"critic/q_loss": loss, "critic/q": jnp.mean(q)} | actor_metrics

    def policy(self, state: TD3BCState) -> Mode:
        """The online actor."""
        return Mode(state.actor)

    # --- losses ---

    def critic_target(self, state: TD3BCState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """y, from the target actor with smoothing noise."""
        action = jax.vmap(state.target_actor)(batch.next_observation)
        limit = state.actor.max_action
        action = smoothed_action(action, key, self.target_noise * limit, self.target_noise_limit * limit, limit)
        q = jax.vmap(state.target_critic.least)(batch.next_observation, action)
        return td_target(batch.reward, self.discount, batch.terminal, q)

    def actor_loss(self, actor: DeterministicActor, critic: QEnsemble, batch: Transition) -> tuple[Scalar, Metrics]:
        """E[(pi - a)^2] - lambda E[Q_1(s, pi)]."""
        action: Float[Array, "batch action"] = jax.vmap(actor)(batch.observation)
        q: Float[Array, " batch"] = jax.vmap(critic.first)(batch.observation, action)
        scale = self.q_weight / jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))
        cloning = jnp.mean((action - batch.action) ** 2)
        loss = cloning - scale * jnp.mean(q)
        return loss, {"actor/loss": loss, "actor/cloning_loss": cloning, "actor/q": jnp.mean(q)}

    def _update_actor(self, state: TD3BCState, batch: Transition) -> tuple[TD3BCState, Metrics]:
        gradients, metrics = eqx.filter_grad(self.actor_loss, has_aux=True)(state.actor, state.critic, batch)
        actor, optimiser = adam_step(state.actor, gradients, state.actor_optimiser, self.learning_rate)
        return state._replace(
            actor=actor,
            actor_optimiser=optimiser,
            target_actor=polyak(state.target_actor, actor, self.target_rate),
            target_critic=polyak(state.target_critic, state.critic, self.target_rate),
        ), metrics
