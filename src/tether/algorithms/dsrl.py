"""DSRL: a frozen flow policy, steered by the noise it begins with (Wagenmaker et al. 2025, arXiv 2506.15799).

    behaviour  E[ |v(s, x_t, t) - (a - x_0)|^2 ]:  cloning by flow matching, in a phase of its own; then it is frozen
               and pi_dp(s, w) is the action that its 10-step Euler flow leads to from the noise w
    policy     w = b u,  u ~ pi(.|s), a Gaussian squashed by a tanh:  noise in the box [-b, b], action pi_dp(s, w)
    critic     sum_i E[ (Q_i(s, a) - y)^2 ],
               y = r + gamma (1 - d) (min_i Q_i,target(s', pi_dp(s', b u')) - alpha log pi(u'|s')),  u' ~ pi(.|s')
    noise      sum_i E[ (Q^W_i(s, w / b) - Q_i(s, pi_dp(s, w)))^2 ],  w ~ N(0, I)
    actor      E[ alpha log pi(u|s) - min_i Q^W_i(s, u) ]; alpha by its entropy target, as SAC

This is their noise-aliased form, DSRL-NA: many noises lead to one action, so values are learnt of actions, from any
data, and only distilled into values of noise, through which the actor climbs. The flow is never differentiated. What it
does from no noise within the box, the policy does not do: b is how far it may go.

As in the authors' code, LayerNorm and tanh follow every layer of actor and critics, which start as PyTorch's.

Deviations. From the authors' code:
  1. The behaviour is a flow, which is trained first; theirs come trained, and are chains of DDIM.
  2. Q^W is distilled once in every update; theirs ten times after twenty updates of the rest.
  3. alpha descends as SAC's does here, its slope times alpha. The critics' losses are without their factor 1/2, which
     Adam does not feel.
  4. In their locomotion runs the box of actions is that of the data's least and greatest, of each coordinate; rewards
     of a chunk are added up without a discount; time-outs are terminal; their replay holds a row for each decision.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Hyperparameter, Network, Phase, network_field
from tether.algorithms.ranges import Count, Fraction, NonNegative, Positive, Sizes, Updates, check_ranges
from tether.algorithms.sac import LOG_STD_RANGE, soft_actor_step
from tether.algorithms.shared.losses import clip_actions, polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.diffusion.flow import euler_flow, flow_loss
from tether.networks import GaussianActor, QEnsemble, VelocityNetwork, torch_uniform
from tether.policies.acting import Sampled
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["DSRL", "DSRLState", "SteeredFlow", "noise_critic_loss"]


class DSRLState(NamedTuple):
    """Everything that training carries; array leaves only."""

    flow: VelocityNetwork  # the behaviour
    critic: QEnsemble  # of actions
    target_critic: QEnsemble  # Polyak average
    noise_critic: QEnsemble  # Q^W, of u
    actor: GaussianActor  # of u, in the unit box
    log_entropy_weight: Float[Array, ""]  # log alpha
    flow_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    noise_optimiser: optax.OptState
    actor_optimiser: optax.OptState
    entropy_optimiser: optax.OptState


class SteeredFlow(eqx.Module):
    """pi_dp, and what chooses the noise that it begins with: a sampler of actions."""

    flow: VelocityNetwork
    actor: GaussianActor
    noise_bound: Float[Array, ""]  # b
    flow_steps: int = eqx.field(static=True)

    @property
    def max_action(self) -> float:
        """Of the actions it draws."""
        return self.flow.max_action

    def sample(
        self, observation: Float[Array, " observation"], key: PRNGKey, count: int
    ) -> Float[Array, "{count} action"]:
        """`count` actions, each from a noise of its own."""
        units = self.actor.sample(observation, key, count)
        return jax.vmap(lambda unit: self.steer(observation, self.noise_bound * unit))(units)

    def steer(self, observation: Float[Array, " observation"], noise: Float[Array, " action"]) -> Array:
        """pi_dp(s, w)."""
        return euler_flow(self.flow, noise, observation, self.flow_steps, self.max_action)


def noise_critic_loss(
    noise_critic: QEnsemble,
    observation: Float[Array, "batch observation"],
    unit: Float[Array, "batch action"],
    values: Float[Array, "batch ensemble"],
) -> Scalar:
    """sum_i E[ (Q^W_i(s, u) - Q_i)^2 ], each head towards that of its number."""
    found: Float[Array, "batch ensemble"] = jax.vmap(noise_critic)(observation, unit)
    return jnp.sum(jnp.mean((found - values) ** 2, axis=0))


class DSRL(eqx.Module):
    """Hyper-parameters of DSRL; the defaults are the authors' for HalfCheetah."""

    noise_bound: Positive = 1.5  # b; to be tuned per task
    entropy_target: Hyperparameter = 0.0  # per coordinate of the noise, whose box is the unit's
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, actor and temperature
    critic_learning_rate: NonNegative = 3e-4  # Adam, both critics
    behaviour_learning_rate: NonNegative = 3e-4  # Adam, flow
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    ensemble_size: Count = eqx.field(static=True, default=2)
    flow_steps: Count = eqx.field(static=True, default=10)
    critic_network: Network = network_field(beyond="the policy's entropy is in the targets")  # of Q
    noise_critic_network: Network = network_field(scalar=True)  # of Q^W
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(1024, 1024, 1024))  # actor and critics
    behaviour_hidden_sizes: Sizes = eqx.field(static=True, default=(512, 512, 512, 512))
    pretrain_updates: Updates = eqx.field(static=True, default=500_000)
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> DSRLState:
        """Fresh networks, alpha 1; the target starts as a copy."""
        flow_key, critic_key, noise_key, actor_key = jax.random.split(key, 4)
        flow = VelocityNetwork(flow_key, spec, self.behaviour_hidden_sizes, timed=True)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        how: dict[str, Any] = {"activation": jnp.tanh, "layer_norm": True}
        heads: dict[str, Any] = {"ensemble_size": self.ensemble_size, **how}
        critic = QEnsemble(critic_key, *sizes, network=self.critic_network, **heads)
        noise_critic = QEnsemble(noise_key, *sizes, network=self.noise_critic_network, **heads)
        how |= {"initialiser": torch_uniform, "log_std_range": LOG_STD_RANGE, "network": self.actor_network}
        actor = GaussianActor(actor_key, *sizes, 1.0, **how)
        log_weight = jnp.zeros((), jnp.float32)
        moments = map(adam_init, (flow, critic, noise_critic, actor, log_weight))
        return DSRLState(flow, critic, critic, noise_critic, actor, log_weight, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """The behaviour, then policy and critics."""
        return (
            Phase("pretrain", self.pretrain_updates, self.pretrain_update, reads_rewards=False),
            Phase("train", self.train_updates, self.update),
        )

    def pretrain_update(
        self, state: DSRLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[DSRLState, Metrics]:
        """The behaviour alone."""
        batch = clip_actions(batch, state.flow.max_action)
        loss, gradients = eqx.filter_value_and_grad(flow_loss)(state.flow, batch.action, batch.observation, key)
        flow, optimiser = adam_step(state.flow, gradients, state.flow_optimiser, self.behaviour_learning_rate)
        return state._replace(flow=flow, flow_optimiser=optimiser), {"behaviour/loss": loss}

    def update(
        self, state: DSRLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[DSRLState, Metrics]:
        """Critic, noise critic, actor, temperature, target."""
        target_key, noise_key, actor_key = jax.random.split(key, 3)
        target = self.critic_target(state, batch, target_key)
        (q_loss, q), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(state.critic, batch, target)
        critic, optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.critic_learning_rate)
        state = state._replace(critic=critic, critic_optimiser=optimiser)
        state, noise_loss = self._distil(state, batch, noise_key)
        state, actor_metrics = soft_actor_step(self, state, state.noise_critic, batch, actor_key)
        state = state._replace(target_critic=polyak(state.target_critic, critic, self.target_rate))
        metrics = {"critic/q_loss": q_loss, "critic/q": jnp.mean(q), "critic/noise_loss": noise_loss}
        return state, metrics | actor_metrics

    def policy(self, state: DSRLState) -> Sampled:
        """The flow from a noise that the actor draws."""
        return Sampled(self.steered(state))

    def steered(self, state: DSRLState) -> SteeredFlow:
        """The flow and its actor."""
        bound = jnp.asarray(self.noise_bound, jnp.float32)
        return SteeredFlow(state.flow, state.actor, bound, self.flow_steps)

    def critic_target(self, state: DSRLState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """y, from one noise of the actor per next state."""
        law = jax.vmap(state.actor)(batch.next_observation)
        normal = jax.random.normal(key, batch.action.shape, batch.action.dtype)
        noise = self.noise_bound * law.transform(normal)
        action = jax.vmap(self.steered(state).steer)(batch.next_observation, noise)
        q = jax.vmap(state.target_critic.least)(batch.next_observation, action)
        entropy_term = jnp.exp(state.log_entropy_weight) * law.log_density_of_noise(normal)
        return td_target(batch.reward, self.discount, batch.terminal, q - entropy_term)

    def _distil(self, state: DSRLState, batch: Transition, key: PRNGKey) -> tuple[DSRLState, Scalar]:
        noise = jax.random.normal(key, batch.action.shape, batch.action.dtype)
        action = jax.vmap(self.steered(state).steer)(batch.observation, noise)
        values, unit = jax.vmap(state.critic)(batch.observation, action), noise / self.noise_bound
        loss, gradients = eqx.filter_value_and_grad(noise_critic_loss)(
            state.noise_critic, batch.observation, unit, values
        )
        rate = self.critic_learning_rate
        noise_critic, optimiser = adam_step(state.noise_critic, gradients, state.noise_optimiser, rate)
        return state._replace(noise_critic=noise_critic, noise_optimiser=optimiser), loss
