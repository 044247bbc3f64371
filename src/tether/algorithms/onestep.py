"""Onestep RL: one step of policy improvement on the behaviour's own value.

Brandfonbrener et al. 2021, arXiv 2106.08909. Three phases, each frozen when the next begins:

    behaviour  -E[ log beta(a|s) ],  beta a normal
    critic     E[ (Q(s, a) - y)^2 ],  y = r + gamma (1 - d) Q_target(s', a'_data): SARSA, the value of the behaviour
    train      of pi, a normal truncated to the action box that starts as beta, by `operator`:
        reverse-kl  -E[ Q(s, b) ] + alpha E[ log pi(b|s) - log beta(b|s) ],  10 actions b of pi
        exp-weight  -E[ min(exp(eta (Q(s, a) - V(s))), 100) log pi(a|s) ],  V: mean of Q over 10 actions of beta
        easy-bcq    nothing is trained: the best of M actions of beta acts

Rows whose next action is unknown (time-outs, the end of the file) are dropped.

Deviations. From the authors' code:
  1. reverse-kl: Q is averaged over the 10 actions of the divergence; the code draws another single one.
  2. exp-weight: data actions are not moved 1e-4 inside the box; the truncated density is finite at its bounds.
  3. The target moves in updates 0, 2, 4, ...; the code's in 1, 3, 5, ...
  4. pi is truncated, as its settings say. The code copies beta's network as it is, so its pi is a plain normal, whose
     mean acts; a truncated one acts with the mean that truncation leaves (0.74 for N(0.95, 0.3)).
  5. exp-weight: beta's actions are clipped to the box before Q judges them.
From the paper:
  6. It reports the best operator and number per environment family, chosen by evaluation. Presets take the released
     defaults: reverse-kl, alpha 1. The sweeps were alpha 0.03 to 10, eta 0.1 to 30, M 2 to 100.
"""

from typing import ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Network, Phase, network_field
from tether.algorithms.ranges import Count, Fraction, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import advantage_weights, polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.networks import BoxGaussianActor, QEnsemble
from tether.policies.acting import BestOfSamples, Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["Onestep", "OnestepState"]

WEIGHT_LIMIT = 100.0
TARGET_EVERY_UPDATES = 2


class OnestepState(NamedTuple):
    """Everything that training carries; array leaves only."""

    behaviour: BoxGaussianActor
    critic: QEnsemble  # one head
    target_critic: QEnsemble  # Polyak average
    actor: BoxGaussianActor
    behaviour_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState


class Onestep(eqx.Module):
    """Hyper-parameters of one-step RL."""

    view: ClassVar[str] = "sarsa"

    kl_weight: NonNegative = 1.0  # alpha of reverse-kl; large imitates
    inverse_temperature: NonNegative = 0.01  # eta of exp-weight; 0 is cloning
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 1e-4  # Adam, all networks
    target_rate: Fraction = 0.005  # Polyak step of the target critic, every second update

    operator: Literal["reverse-kl", "exp-weight", "easy-bcq"] = eqx.field(static=True, default="reverse-kl")
    samples: Count = eqx.field(static=True, default=10)  # actions per state, in V, KL and acting by easy-bcq
    critic_network: Network = network_field()  # of Q
    actor_network: Network = network_field(scalar=True)  # the behaviour, too
    hidden_sizes: Sizes = eqx.field(static=True, default=(1024, 1024))
    behaviour_updates: Updates = eqx.field(static=True, default=500_000)
    critic_updates: Updates = eqx.field(static=True, default=2_000_000)
    train_updates: Updates = eqx.field(static=True, default=100_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> OnestepState:
        """Fresh networks; the target starts as a copy, the policy as one of the behaviour when its phase begins."""
        behaviour_key, critic_key = jax.random.split(key)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        box, network = spec.max_action, self.actor_network
        behaviour = BoxGaussianActor(behaviour_key, *sizes, box, truncated=False, network=network)
        actor = BoxGaussianActor(behaviour_key, *sizes, box, truncated=True, network=network)  # of the same parameters
        how = {"activation": jax.nn.relu, "layer_norm": False, "network": self.critic_network}
        critic = QEnsemble(critic_key, *sizes, ensemble_size=1, **how)
        moments = adam_init(behaviour), adam_init(critic), adam_init(actor)
        return OnestepState(behaviour, critic, critic, actor, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """Behaviour, its value, one improvement."""
        return (
            Phase("behaviour", self.behaviour_updates, self.behaviour_update, reads_rewards=False),
            Phase("critic", self.critic_updates, self.critic_update),
            Phase("train", self.train_updates, self.update),
        )

    def behaviour_update(
        self, state: OnestepState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[OnestepState, Metrics]:
        """One step of maximum likelihood."""

        def loss(behaviour: BoxGaussianActor) -> Scalar:
            return -jnp.mean(jax.vmap(behaviour)(batch.observation).log_density(batch.action))

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
        target_critic = jax.lax.cond(
            step % TARGET_EVERY_UPDATES == 0,
            lambda: polyak(state.target_critic, critic, self.target_rate),
            lambda: state.target_critic,
        )
        state = state._replace(critic=critic, critic_optimiser=optimiser, target_critic=target_critic)
        return state, {"critic/q_loss": q_loss, "critic/q": jnp.mean(q)}

    def update(
        self, state: OnestepState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[OnestepState, Metrics]:
        """One step of the policy."""
        if self.operator == "easy-bcq":
            return state, {"actor/loss": jnp.zeros((), jnp.float32)}
        actor = state.actor
        network = jax.lax.cond(step == 0, lambda: state.behaviour.network, lambda: actor.network)
        actor = eqx.tree_at(lambda a: a.network, actor, network)
        if self.operator == "exp-weight":
            weight = self.weights(state, batch, key)
            loss, gradients = eqx.filter_value_and_grad(self.weighted_loss)(actor, batch, weight)
        else:
            loss, gradients = eqx.filter_value_and_grad(self.reverse_kl_loss)(actor, state, batch, key)
        actor, optimiser = adam_step(actor, gradients, state.actor_optimiser, self.learning_rate)
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

    def weighted_loss(self, actor: BoxGaussianActor, batch: Transition, weight: Float[Array, " batch"]) -> Scalar:
        """-E[ w log pi(a|s) ]."""
        return -jnp.mean(weight * jax.vmap(actor)(batch.observation).log_density(batch.action))

    def reverse_kl_loss(self, actor: BoxGaussianActor, state: OnestepState, batch: Transition, key: PRNGKey) -> Scalar:
        """-E[ Q ] + alpha KL, by several reparametrised actions per state."""

        def row(observation: Array, uniform: Float[Array, "samples action"]) -> Scalar:
            law, behaviour = actor(observation), state.behaviour(observation)
            actions = jax.vmap(law.transform)(uniform)
            q = jax.vmap(state.critic.first, in_axes=(None, 0))(observation, actions)
            kl = jax.vmap(law.log_density)(actions) - jax.vmap(behaviour.log_density)(actions)
            return jnp.mean(self.kl_weight * kl - q)

        shape = (len(batch.observation), self.samples, batch.action.shape[1])
        return jnp.mean(jax.vmap(row)(batch.observation, jax.random.uniform(key, shape, jnp.float32)))
