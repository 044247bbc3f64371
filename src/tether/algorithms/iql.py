"""IQL: implicit Q-learning (Kostrikov, Nair and Levine 2021, arXiv 2110.06169).

    value   E[ L_tau( min_i Q_i,target(s, a) - V(s) ) ],   L_tau(u) = |tau - 1{u < 0}| u^2
    actor   -E[ min(exp(beta A), 100) log pi(a|s) ],       A = min_i Q_i,target(s, a) - V(s), V after its update
    critic  sum_i E[ (Q_i(s, a) - y)^2 ],                  y = r + gamma (1 - d) V(s')

Nothing is ever asked about an action that the data do not hold. Dropout in the actor (the authors' 0.1 on Adroit and
Kitchen) is left out: CORL's runs, which reach the published scores, ignore it, too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.acting import Mode
from tether.algorithms.interface import Hyperparameter, Phase
from tether.losses import advantage_weights, clip_actions, expectile_loss, polyak, q_regression, td_target
from tether.networks import FreeGaussianActor, QEnsemble, ValueNetwork, orthogonal
from tether.optimisers import adam_init, adam_step, decay_factor
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = [
    "IQL",
    "IQLState",
    "InSampleCritic",
    "init_critic",
    "init_in_sample",
    "update_critic",
    "update_in_sample",
    "weighted_cloning_loss",
]

WEIGHT_LIMIT = 100.0


class IQLState(NamedTuple):
    """Everything that training carries; array leaves only. Shared with the other in-sample methods."""

    critic: QEnsemble
    target_critic: QEnsemble  # Polyak average
    value: ValueNetwork
    actor: FreeGaussianActor
    critic_optimiser: optax.OptState
    value_optimiser: optax.OptState
    actor_optimiser: optax.OptState


def init_in_sample(
    spec: Spec, key: PRNGKey, hidden_sizes: tuple[int, ...], *, value_layer_norm: bool = False
) -> IQLState:
    """Fresh networks with orthogonal(sqrt 2) weights; the target starts as a copy."""
    critic_key, value_key, actor_key = jax.random.split(key, 3)
    sizes, initialiser = (spec.observation_size, spec.action_size, hidden_sizes), orthogonal(2.0**0.5)
    critic = QEnsemble(critic_key, *sizes, activation=jax.nn.relu, layer_norm=False, initialiser=initialiser)
    value = ValueNetwork(
        value_key,
        spec.observation_size,
        hidden_sizes,
        jax.nn.relu,
        initialiser=initialiser,
        layer_norm=value_layer_norm,
    )
    actor = FreeGaussianActor(actor_key, *sizes, spec.max_action, initialiser=initialiser)
    return IQLState(critic, critic, value, actor, adam_init(critic), adam_init(value), adam_init(actor))


def weighted_cloning_loss(actor: FreeGaussianActor, batch: Transition, weight: Float[Array, " batch"]) -> Scalar:
    """-E[ w log pi(a|s) ]."""
    return -jnp.mean(weight * jax.vmap(actor.log_density)(batch.observation, batch.action))


def update_in_sample(
    state: IQLState,
    batch: Transition,
    value_loss: Callable[[Array, Array], Scalar],
    actor_weights: Callable[[Array, Array], Array],
    discount: Hyperparameter,
    target_rate: Hyperparameter,
    critic_rate: Hyperparameter,
    actor_rate: Hyperparameter,
) -> tuple[IQLState, Metrics]:
    """Value, actor, critic, target, in the authors' order.

    value_loss: (V(s), min Q) -> scalar.
    actor_weights: (V(s), min Q) -> weights of the data's actions, [batch].
    """
    batch = clip_actions(batch, state.actor.max_action)
    q = jax.vmap(state.target_critic)(batch.observation, batch.action).min(axis=1)

    def loss_of_value(value: ValueNetwork) -> Scalar:
        return value_loss(jax.vmap(value)(batch.observation), q)

    loss, gradients = eqx.filter_value_and_grad(loss_of_value)(state.value)
    value, value_optimiser = adam_step(state.value, gradients, state.value_optimiser, critic_rate)

    values: Float[Array, " batch"] = jax.vmap(value)(batch.observation)
    weight = jax.lax.stop_gradient(actor_weights(values, q))
    actor_loss, gradients = eqx.filter_value_and_grad(weighted_cloning_loss)(state.actor, batch, weight)
    actor, actor_optimiser = adam_step(state.actor, gradients, state.actor_optimiser, actor_rate)

    next_value: Float[Array, " batch"] = jax.vmap(value)(batch.next_observation)
    target = td_target(batch.reward, discount, batch.terminal, next_value)
    (q_loss, heads), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(state.critic, batch, target)
    critic, critic_optimiser = adam_step(state.critic, gradients, state.critic_optimiser, critic_rate)
    target_critic = polyak(state.target_critic, critic, target_rate)
    return IQLState(critic, target_critic, value, actor, critic_optimiser, value_optimiser, actor_optimiser), {
        "critic/q_loss": q_loss,
        "critic/value_loss": loss,
        "critic/q": jnp.mean(heads),
        "critic/value": jnp.mean(values),
        "actor/loss": actor_loss,
        "actor/weight": jnp.mean(weight),
    }


class InSampleCritic(NamedTuple):
    """Q and V together, for the methods that take IQL's critic and another policy (IDQL, SRPO, IFQL)."""

    q: QEnsemble
    value: ValueNetwork


def init_critic(
    spec: Spec, key: PRNGKey, hidden_sizes: tuple[int, ...], activation: Callable = jax.nn.relu, **how: Any
) -> InSampleCritic:
    """Fresh Q and V; `how` as of `QEnsemble`, default without LayerNorm."""
    q_key, value_key = jax.random.split(key)
    how = {"layer_norm": False} | how
    return InSampleCritic(
        QEnsemble(q_key, spec.observation_size, spec.action_size, hidden_sizes, activation=activation, **how),
        ValueNetwork(value_key, spec.observation_size, hidden_sizes, activation, **how),
    )


def update_critic(
    critic: InSampleCritic,
    target_q: QEnsemble,
    optimiser: optax.OptState,
    batch: Transition,
    expectile: Hyperparameter,
    discount: Hyperparameter,
    rate: Hyperparameter,
) -> tuple[InSampleCritic, optax.OptState, Metrics]:
    """One Adam step of V and Q. y takes V from before its update, so that one gradient serves both."""
    goal = jax.vmap(target_q)(batch.observation, batch.action).min(axis=1)

    def loss(critic: InSampleCritic) -> tuple[Scalar, Metrics]:
        value: Float[Array, " batch"] = jax.vmap(critic.value)(batch.observation)
        next_value = jax.lax.stop_gradient(jax.vmap(critic.value)(batch.next_observation))
        value_loss = expectile_loss(goal - value, expectile)
        target = td_target(batch.reward, discount, batch.terminal, next_value)
        q_loss, q = q_regression(critic.q, batch, target)
        metrics = {"critic/q_loss": q_loss, "critic/value_loss": value_loss}
        return q_loss + value_loss, metrics | {"critic/q": jnp.mean(q), "critic/value": jnp.mean(value)}

    gradients, metrics = eqx.filter_grad(loss, has_aux=True)(critic)
    critic, optimiser = adam_step(critic, gradients, optimiser, rate)
    return critic, optimiser, metrics


class IQL(eqx.Module):
    """Hyper-parameters of IQL; the defaults are the paper's for locomotion."""

    expectile: Hyperparameter = 0.7  # tau
    inverse_temperature: Hyperparameter = 3.0  # beta of the advantage weights; 0 is cloning
    discount: Hyperparameter = 0.99  # gamma
    learning_rate: Hyperparameter = 3e-4  # Adam, actor
    critic_learning_rate: Hyperparameter = 3e-4  # Adam, Q and V, constant
    target_rate: Hyperparameter = 0.005  # Polyak step of the target critic

    cosine_decay: bool = eqx.field(static=True, default=True)  # the actor's rate falls to 0
    decay_updates: int | None = eqx.field(static=True, default=None)  # horizon of the decay; None: train_updates
    hidden_sizes: tuple[int, ...] = eqx.field(static=True, default=(256, 256))
    train_updates: int = eqx.field(static=True, default=1_000_000)

    def init(self, spec: Spec, key: PRNGKey) -> IQLState:
        """Fresh networks."""
        return init_in_sample(spec, key, self.hidden_sizes)

    def phases(self) -> tuple[Phase, ...]:
        """One."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: IQLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[IQLState, Metrics]:
        """One iteration; nothing in it is random."""
        rate_factor = decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)
        return update_in_sample(
            state,
            batch,
            lambda value, q: expectile_loss(q - value, self.expectile),
            lambda value, q: advantage_weights(q - value, self.inverse_temperature, WEIGHT_LIMIT),
            self.discount,
            self.target_rate,
            self.critic_learning_rate,
            self.learning_rate * rate_factor,
        )

    def policy(self, state: IQLState) -> Mode:
        """The mean of the actor."""
        return Mode(state.actor)
