"""FQL: flow Q-learning (Park, Li and Levine 2025, arXiv 2502.02538).

    flow      E[ |v(s, x_t, t) - (a - x_0)|^2 ]:  behaviour cloning by flow matching, without any gradient from Q
    distil    E[ (mu(s, z) - flow_z)^2 ],  flow_z: the 10-step Euler flow of v from the same noise z, clipped
    actor     flow + alpha distil - E[ mean_i Q_i(s, clip mu(s, z)) ],  one Adam for both networks
    critic    mean_i E[ (Q_i(s, a) - y)^2 ],  y = r + gamma (1 - d) agg_i Q_i,target(s', clip mu(s', z'))

Acting: mu with fresh noise. agg is the mean; the minimum on Adroit and OGBench's large and giant ant mazes.

As in the authors' code, Flax's LayerNorm follows the GELU in the critics, all layers start Glorot-uniform, the target
moves towards the critic as it was before its step, and data actions are clipped to 1e-5 inside the box.

Deviations. None known: tests/parity has the numbers of the authors' updates. With chunks those of best_of_n.py.
"""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Network, Phase, network_field
from tether.algorithms.ranges import Count, Fraction, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import aggregate_heads, clip_actions, mean_q_regression, polyak, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.diffusion.flow import euler_flow, flow_loss
from tether.networks import FLAX_EPSILON, QEnsemble, VelocityNetwork, glorot_uniform
from tether.policies.acting import Sampled
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["FQL", "Actors", "FQLState", "OneStepSampler"]


class Actors(NamedTuple):
    """The behaviour's flow and the one-step policy."""

    flow: VelocityNetwork
    one_step: VelocityNetwork  # mu(s, z): its time input is absent


class FQLState(NamedTuple):
    """Everything that training carries; array leaves only."""

    critic: QEnsemble
    target_critic: QEnsemble  # Polyak average
    actors: Actors
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState


class OneStepSampler(eqx.Module):
    """mu as a sampler of actions."""

    network: VelocityNetwork

    @property
    def max_action(self) -> float:
        """Of the actions it draws."""
        return self.network.max_action

    def sample(
        self, observation: Float[Array, " observation"], key: PRNGKey, count: int
    ) -> Float[Array, "{count} action"]:
        """`count` independent actions, clipped to the box."""
        noise = jax.random.normal(key, (count, self.network.action_size), jnp.float32)
        return jax.vmap(lambda z: one_step_action(self.network, observation, z))(noise)


def one_step_action(
    network: VelocityNetwork, observation: Float[Array, " observation"], noise: Float[Array, " action"]
) -> Float[Array, " action"]:
    """clip mu(s, z)."""
    return jnp.clip(network(noise, observation, None), -network.max_action, network.max_action)


class FQL(eqx.Module):
    """Hyper-parameters of FQL; the default distillation weight is that of D4RL's small mazes."""

    distillation_weight: NonNegative = 10.0  # alpha; to be tuned per task
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, actors
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    aggregation: Literal["mean", "min"] = eqx.field(static=True, default="mean")  # of the target heads
    normalize_q: bool = eqx.field(static=True, default=False)  # divide the actor's Q by the mean of |Q|
    flow_steps: Count = eqx.field(static=True, default=10)
    critic_network: Network = network_field()  # of Q
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(512, 512, 512, 512))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> FQLState:
        """Fresh networks; the target starts as a copy."""
        critic_key, flow_key, one_step_key = jax.random.split(key, 3)
        how = {"activation": jax.nn.gelu, "initialiser": glorot_uniform, "network": self.critic_network}
        how |= {"layer_norm": True, "norm_last": True, "norm_epsilon": FLAX_EPSILON}
        critic = QEnsemble(critic_key, spec.observation_size, spec.action_size, self.hidden_sizes, **how)
        actors = Actors(
            VelocityNetwork(flow_key, spec, self.hidden_sizes, timed=True, network=self.actor_network),
            VelocityNetwork(one_step_key, spec, self.hidden_sizes, timed=False, network=self.actor_network),
        )
        return FQLState(critic, critic, actors, adam_init(critic), adam_init(actors))

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: FQLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[FQLState, Metrics]:
        """Critic, actors and target, all against the state before, as one joint loss would."""
        target_key, actor_key = jax.random.split(key)
        batch = clip_actions(batch, state.actors.flow.max_action)
        target = self.critic_target(state, batch, target_key)
        grad = eqx.filter_value_and_grad(mean_q_regression, has_aux=True)
        (q_loss, q), gradients = grad(state.critic, batch, target)
        critic, critic_optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.critic_learning_rate)
        gradients, metrics = eqx.filter_grad(self.actor_loss, has_aux=True)(
            state.actors, state.critic, batch, actor_key
        )
        actors, actor_optimiser = adam_step(state.actors, gradients, state.actor_optimiser, self.learning_rate)
        target_critic = polyak(state.target_critic, state.critic, self.target_rate)
        state = FQLState(critic, target_critic, actors, critic_optimiser, actor_optimiser)
        return state, {"critic/q_loss": q_loss, "critic/q": jnp.mean(q)} | metrics

    def policy(self, state: FQLState) -> Sampled:
        """The one-step policy with fresh noise."""
        return Sampled(OneStepSampler(state.actors.one_step))

    def critic_target(self, state: FQLState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """y, from one action of the one-step policy per next state."""
        noise = jax.random.normal(key, batch.action.shape, batch.action.dtype)
        action = jax.vmap(lambda o, z: one_step_action(state.actors.one_step, o, z))(batch.next_observation, noise)
        q: Float[Array, "batch ensemble"] = jax.vmap(state.target_critic)(batch.next_observation, action)
        return td_target(batch.reward, self.discount, batch.terminal, aggregate_heads(q.T, self.aggregation))

    def actor_loss(self, actors: Actors, critic: QEnsemble, batch: Transition, key: PRNGKey) -> tuple[Scalar, Metrics]:
        """flow + alpha distil - Q."""
        flow_key, noise_key = jax.random.split(key)
        cloning = flow_loss(actors.flow, batch.action, batch.observation, flow_key)
        noise = jax.random.normal(noise_key, batch.action.shape, batch.action.dtype)
        bound = actors.flow.max_action
        goal = jax.vmap(lambda z, o: euler_flow(actors.flow, z, o, self.flow_steps, bound))(noise, batch.observation)
        action = jax.vmap(lambda z, o: actors.one_step(z, o, None))(noise, batch.observation)
        distillation = jnp.mean((action - jax.lax.stop_gradient(goal)) ** 2)
        q = jax.vmap(critic)(batch.observation, jnp.clip(action, -bound, bound)).mean(axis=1)
        scale = jax.lax.stop_gradient(jnp.mean(jnp.abs(q))) if self.normalize_q else 1.0
        loss = cloning + self.distillation_weight * distillation - jnp.mean(q) / scale
        return loss, {
            "actor/loss": loss,
            "actor/flow_loss": cloning,
            "actor/distillation_loss": distillation,
            "actor/q": jnp.mean(q),
        }
