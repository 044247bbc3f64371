"""ReBRAC: TD3+BC with decoupled penalties, LayerNorm and larger batches (Tarasov et al. 2023, arXiv 2305.09836).

    target  a' = clip(pi_target(s') + clipped noise),
            y = r + gamma (1 - d) ( min_i Q_i,target(s', a') - beta_2 |a' - a'_data|^2 )
    critic  sum_i E[ (Q_i(s, a) - y)^2 ]
    actor   every second update:  E[ beta_1 |pi(s) - a|^2 ] - E[ min_i Q_i(s, pi(s)) ] / E|min_i Q_i(s, pi(s))|

Squared norms are sums over coordinates. a'_data is the data's own next action.

As in the authors' code, where the paper leaves it open: the actor maximises the lower head; the critics have Flax's
LayerNorm after the ReLU; hidden biases start at 0.1, last layers within 0.001 (actor) and 0.003 (critics). The target
actor moves towards the actor as it was before its step, the target critics towards the critics after theirs.

Deviations. None known: tests/parity has the numbers of the authors' updates.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.algorithms.interface import Network, Phase, network_field
from tether.algorithms.ranges import Fraction, Interval, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import polyak, q_regression, smoothed_action, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step, update_when_due
from tether.algorithms.td3_bc import TD3BCState
from tether.networks import FLAX_EPSILON, DeterministicActor, QEnsemble, fan_in_uniform, uniform
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["ReBRAC"]


class ReBRAC(eqx.Module):
    """Hyper-parameters of ReBRAC; the default penalties are the paper's for halfcheetah-medium."""

    view: ClassVar[str] = "sarsa"

    actor_penalty: NonNegative = 0.001  # beta_1
    critic_penalty: NonNegative = 0.01  # beta_2
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 1e-3  # Adam, actor
    critic_learning_rate: NonNegative = 1e-3  # Adam, Q
    target_rate: Fraction = 0.005  # Polyak step of all targets, in the actor's updates
    target_noise: NonNegative = 0.2  # standard deviation of the smoothing noise
    target_noise_limit: NonNegative = 0.5

    actor_update_interval: Interval = eqx.field(static=True, default=2)
    critic_network: Network = network_field(beyond="critic_penalty is taken off the targets")  # of Q
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> TD3BCState:
        """Fresh networks, the critics with LayerNorm; targets start as copies."""
        critic_key, actor_key = jax.random.split(key)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        hidden, how = fan_in_uniform(bias=0.1), {"layer_norm": True, "norm_last": True, "norm_epsilon": FLAX_EPSILON}
        how: dict[str, Any] = how | {"activation": jax.nn.relu, "network": self.critic_network}
        critic = QEnsemble(critic_key, *sizes, initialiser=hidden, last_initialiser=uniform(0.003), **how)
        how = {"initialiser": hidden, "last_initialiser": uniform(0.001), "network": self.actor_network}
        actor = DeterministicActor(actor_key, *sizes, spec.max_action, **how)
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

    def critic_target(self, state: TD3BCState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """y, penalised where the target actor leaves the data's next action."""
        assert batch.next_action is not None
        action, limit = jax.vmap(state.target_actor)(batch.next_observation), state.actor.max_action
        action = smoothed_action(action, key, self.target_noise * limit, self.target_noise_limit * limit, limit)
        q = jax.vmap(state.target_critic.least)(batch.next_observation, action)
        penalty = jnp.sum((action - batch.next_action) ** 2, axis=1)
        return td_target(batch.reward, self.discount, batch.terminal, q - self.critic_penalty * penalty)

    def actor_loss(self, actor: DeterministicActor, critic: QEnsemble, batch: Transition) -> tuple[Scalar, Metrics]:
        """beta_1 |pi - a|^2 - normalised Q."""
        action: Float[Array, "batch action"] = jax.vmap(actor)(batch.observation)
        q = jax.vmap(critic.least)(batch.observation, action)
        scale = jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))
        cloning = jnp.mean(jnp.sum((action - batch.action) ** 2, axis=1))
        loss = self.actor_penalty * cloning - jnp.mean(q) / scale
        return loss, {"actor/loss": loss, "actor/cloning_loss": cloning, "actor/q": jnp.mean(q)}

    def _update_actor(self, state: TD3BCState, batch: Transition) -> tuple[TD3BCState, Metrics]:
        gradients, metrics = eqx.filter_grad(self.actor_loss, has_aux=True)(state.actor, state.critic, batch)
        actor, optimiser = adam_step(state.actor, gradients, state.actor_optimiser, self.learning_rate)
        return state._replace(
            actor=actor,
            actor_optimiser=optimiser,
            target_actor=polyak(state.target_actor, state.actor, self.target_rate),
            target_critic=polyak(state.target_critic, state.critic, self.target_rate),
        ), metrics
