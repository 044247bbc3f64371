"""IFQL: IDQL with a flow instead of a diffusion model (Park, Li and Levine 2025, arXiv 2502.02538, their baseline).

flow     E[ |v(s, x_t, t) - (a - x_0)|^2 ]: pure cloning, independent of the critic
critic   IQL's Q and V (expectile tau)
acting   argmax over N samples of the flow of min_i Q_i

As in the authors' code, LayerNorm follows the GELU in Q and V, all layers start Glorot-uniform, the target moves
towards the critic as it was before its step, and data actions are clipped to 1e-5 inside the box.

Deviation. From the code:
  1. LayerNorm adds 1e-5 to the variance, Flax 1e-6: with the same fresh weights that changes Q by 9e-5 of its size. Q
     is part of the policy, and policies on disk shall act as they did.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import optax

from tether.algorithms.interface import Network, Phase, acting_field, network_field
from tether.algorithms.iql import InSampleCritic, init_critic, update_critic
from tether.algorithms.ranges import Count, Fraction, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import clip_actions, polyak
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.diffusion.flow import flow_loss
from tether.networks import QEnsemble, VelocityNetwork, glorot_uniform
from tether.policies.acting import BestOfSamples
from tether.policies.samplers import FlowSampler
from tether.types import Array, Int, Metrics, PRNGKey, Spec, Transition

__all__ = ["IFQL", "IFQLState"]


class IFQLState(NamedTuple):
    """Everything that training carries; array leaves only."""

    critic: InSampleCritic
    target_critic: QEnsemble  # Polyak average of critic.q
    actor: VelocityNetwork
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState


class IFQL(eqx.Module):
    """Hyper-parameters of IFQL; the defaults are FQL's paper's."""

    expectile: Fraction = 0.9  # tau
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, flow
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q and V
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    flow_steps: Count = acting_field(10)
    candidates: Count = acting_field(32)  # N
    critic_network: Network = network_field()  # of Q and V
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(512, 512, 512, 512))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> IFQLState:
        """Fresh networks; the target starts as a copy."""
        critic_key, actor_key = jax.random.split(key)
        how = {"layer_norm": True, "norm_last": True, "initialiser": glorot_uniform}
        critic = init_critic(spec, critic_key, self.hidden_sizes, jax.nn.gelu, network=self.critic_network, **how)
        actor = VelocityNetwork(actor_key, spec, self.hidden_sizes, timed=True, network=self.actor_network)
        return IFQLState(critic, critic.q, actor, adam_init(critic), adam_init(actor))

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: IFQLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[IFQLState, Metrics]:
        """Critic, flow and target, all against the state before, as one joint loss would."""
        batch = clip_actions(batch, state.actor.max_action)
        critic, critic_optimiser, metrics = update_critic(
            state.critic,
            state.target_critic,
            state.critic_optimiser,
            batch,
            self.expectile,
            self.discount,
            self.critic_learning_rate,
        )
        loss, gradients = eqx.filter_value_and_grad(flow_loss)(state.actor, batch.action, batch.observation, key)
        actor, actor_optimiser = adam_step(state.actor, gradients, state.actor_optimiser, self.learning_rate)
        target_critic = polyak(state.target_critic, state.critic.q, self.target_rate)
        return IFQLState(critic, target_critic, actor, critic_optimiser, actor_optimiser), metrics | {
            "actor/loss": loss
        }

    def policy(self, state: IFQLState) -> BestOfSamples:
        """The best of N samples by the online heads' minimum."""
        return BestOfSamples(FlowSampler(state.actor, self.flow_steps), state.critic.q, self.candidates, "min")
