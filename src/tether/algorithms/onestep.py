"""Onestep RL: one step of policy improvement on the behaviour's own value.

Brandfonbrener et al. 2021, arXiv 2106.08909. Three phases, each frozen when the next begins:

    behaviour  -E[ log beta(a|s) ]
    critic     E[ (Q(s, a) - y)^2 ],  y = r + gamma (1 - d) Q_target(s', a'_data): SARSA, the value of the behaviour
    train      by `operator`:
        exp-weight  -E[ min(exp(eta (Q(s, a) - V(s))), 100) log pi(a|s) ],  V: mean of Q over 10 actions of beta
        reverse-kl  -E[ Q(s, b) ] + alpha E[ log pi(b|s) - log beta(b|s) ],  10 actions b of pi
        easy-bcq    nothing is trained: the best of M actions of beta acts

Deviations.
  1. beta and pi are tanh-Gaussians with log standard deviation in [-5, 0]; the code has a normal and a truncated one.
  2. The target moves at every update with tau = 0.0025, instead of every second one with 0.005.
  3. The paper picks operator and number per environment family; they are not in the specification: `exp-weight`, eta 1
     here (released default 0.01, of unnormalised rewards).
"""

from typing import ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.acting import BestOfSamples, Mode
from tether.algorithms.interface import Hyperparameter, Phase
from tether.losses import advantage_weights, polyak, q_regression, td_target
from tether.networks import GaussianActor, QEnsemble, torch_uniform
from tether.optimisers import adam_init, adam_step
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["Onestep", "OnestepState"]

WEIGHT_LIMIT, DATA_MARGIN = 100.0, 1e-3


class OnestepState(NamedTuple):
    """Everything that training carries; array leaves only."""

    behaviour: GaussianActor
    critic: QEnsemble  # one head
    target_critic: QEnsemble  # Polyak average
    actor: GaussianActor
    behaviour_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState


class Onestep(eqx.Module):
    """Hyper-parameters of one-step RL."""

    view: ClassVar[str] = "sarsa"

    inverse_temperature: Hyperparameter = 1.0  # eta of exp-weight
    kl_weight: Hyperparameter = 1.0  # alpha of reverse-kl
    discount: Hyperparameter = 0.99  # gamma
    learning_rate: Hyperparameter = 1e-4  # Adam, all networks
    target_rate: Hyperparameter = 0.0025  # Polyak step of the target critic

    operator: Literal["exp-weight", "reverse-kl", "easy-bcq"] = eqx.field(static=True, default="exp-weight")
    samples: int = eqx.field(static=True, default=10)  # actions per state, in V, KL and acting by easy-bcq
    hidden_sizes: tuple[int, ...] = eqx.field(static=True, default=(1024, 1024))
    behaviour_updates: int = eqx.field(static=True, default=500_000)
    critic_updates: int = eqx.field(static=True, default=2_000_000)
    train_updates: int = eqx.field(static=True, default=100_000)

    def init(self, spec: Spec, key: PRNGKey) -> OnestepState:
        """Fresh networks; the target starts as a copy, the policy as one of the behaviour when its phase begins."""
        behaviour_key, critic_key = jax.random.split(key)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        how = {"log_std_range": (-5.0, 0.0), "squashed_log_std": True}
        behaviour = GaussianActor(behaviour_key, *sizes, spec.max_action, initialiser=torch_uniform, **how)
        critic = QEnsemble(critic_key, *sizes, ensemble_size=1, activation=jax.nn.relu, layer_norm=False)
        moments = adam_init(behaviour), adam_init(critic), adam_init(behaviour)
        return OnestepState(behaviour, critic, critic, behaviour, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """Behaviour, its value, one improvement."""
        return (
            Phase("behaviour", self.behaviour_updates, self.behaviour_update),
            Phase("critic", self.critic_updates, self.critic_update),
            Phase("train", self.train_updates, self.update),
        )

    def behaviour_update(
        self, state: OnestepState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[OnestepState, Metrics]:
        """One step of maximum likelihood."""

        def loss(behaviour: GaussianActor) -> Scalar:
            return -jnp.mean(jax.vmap(behaviour)(batch.observation).log_density(batch.action, DATA_MARGIN))

        value, gradients = eqx.filter_value_and_grad(loss)(state.behaviour)
        behaviour, optimiser = adam_step(state.behaviour, gradients, state.behaviour_optimiser, self.learning_rate)
        return state._replace(behaviour=behaviour, behaviour_optimiser=optimiser), {"behaviour/loss": value}

    def critic_update(
        self, state: OnestepState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[OnestepState, Metrics]:
        """One step of SARSA."""
        target = self.critic_target(state, batch)
        (q_loss, q), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(state.critic, batch, target)
        critic, optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.learning_rate)
        target_critic = polyak(state.target_critic, critic, self.target_rate)
        state = state._replace(critic=critic, critic_optimiser=optimiser, target_critic=target_critic)
        return state, {"critic/q_loss": q_loss, "critic/q": jnp.mean(q)}

    def update(
        self, state: OnestepState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[OnestepState, Metrics]:
        """One step of the policy."""
        state = jax.lax.cond(step == 0, lambda s: s._replace(actor=s.behaviour), lambda s: s, state)
        if self.operator == "exp-weight":
            weight = self.weights(state, batch, key)
            loss, gradients = eqx.filter_value_and_grad(self.weighted_loss)(state.actor, batch, weight)
        elif self.operator == "reverse-kl":
            loss, gradients = eqx.filter_value_and_grad(self.reverse_kl_loss)(state.actor, state, batch, key)
        else:
            return state, {"actor/loss": jnp.zeros((), jnp.float32)}
        actor, optimiser = adam_step(state.actor, gradients, state.actor_optimiser, self.learning_rate)
        return state._replace(actor=actor, actor_optimiser=optimiser), {"actor/loss": loss}

    def policy(self, state: OnestepState) -> Mode | BestOfSamples:
        """The policy without noise, or the best of several actions of the behaviour."""
        if self.operator == "easy-bcq":
            return BestOfSamples(state.behaviour, state.critic, self.samples)
        return Mode(state.actor)

    def critic_target(self, state: OnestepState, batch: Transition) -> Float[Array, " batch"]:
        """y at the data's own next action."""
        assert batch.next_action is not None
        q = jax.vmap(state.target_critic.first)(batch.next_observation, batch.next_action)
        return td_target(batch.reward, self.discount, batch.terminal, q)

    def weights(self, state: OnestepState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """min(exp(eta (Q - V)), 100)."""

        def advantage(observation: Array, action: Array, key: PRNGKey) -> Scalar:
            others = state.behaviour.sample(observation, key, self.samples)
            value = jax.vmap(state.critic.first, in_axes=(None, 0))(observation, others).mean()
            return state.critic.first(observation, action) - value

        keys = jax.random.split(key, len(batch.action))
        advantages = jax.vmap(advantage)(batch.observation, batch.action, keys)
        return advantage_weights(advantages, self.inverse_temperature, WEIGHT_LIMIT)

    def weighted_loss(self, actor: GaussianActor, batch: Transition, weight: Float[Array, " batch"]) -> Scalar:
        """-E[ w log pi(a|s) ]."""
        return -jnp.mean(weight * jax.vmap(actor)(batch.observation).log_density(batch.action, DATA_MARGIN))

    def reverse_kl_loss(self, actor: GaussianActor, state: OnestepState, batch: Transition, key: PRNGKey) -> Scalar:
        """-E[ Q ] + alpha KL, by several reparametrised actions per state."""

        def row(observation: Array, noise: Float[Array, "samples action"]) -> Scalar:
            law, behaviour = actor(observation), state.behaviour(observation)
            actions = jax.vmap(law.transform)(noise)
            q = jax.vmap(state.critic.first, in_axes=(None, 0))(observation, actions)
            others = jax.vmap(lambda action: behaviour.log_density(action, DATA_MARGIN))(actions)
            kl = jax.vmap(law.log_density_of_noise)(noise) - others
            return jnp.mean(self.kl_weight * kl - q)

        shape = (len(batch.observation), self.samples, batch.action.shape[1])
        return jnp.mean(jax.vmap(row)(batch.observation, jax.random.normal(key, shape, jnp.float32)))
