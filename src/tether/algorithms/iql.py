"""IQL: implicit Q-learning (Kostrikov, Nair and Levine 2021, arXiv 2110.06169).

    value   E[ L_tau( min_i Q_i,target(s, a) - V(s) ) ],   L_tau(u) = |tau - 1{u < 0}| u^2
    actor   -E[ min(exp(beta A), 100) log pi(a|s) ],       A = min_i Q_i,target(s, a) - V(s), V after its update
    critic  sum_i E[ (Q_i(s, a) - y)^2 ],                  y = r + gamma (1 - d) V(s')

Nothing is ever asked about an action that the data do not hold. The order is value, actor, critic, target.

Deviations. None from the authors' code but names: their "temperature" is the inverse temperature beta.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Hyperparameter, Network, Phase, network_field
from tether.algorithms.ranges import (
    Fraction,
    Interval,
    NonNegative,
    Sizes,
    StaticFractionBelowOne,
    Updates,
    check_ranges,
)
from tether.algorithms.shared.losses import (
    advantage_weights,
    clip_actions,
    expectile_loss,
    polyak,
    q_regression,
    td_target,
)
from tether.algorithms.shared.optimisers import adam_init, adam_step, decay_factor
from tether.networks import FLAX_EPSILON, FreeGaussianActor, QEnsemble, ValueNetwork, orthogonal
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = [
    "IQL",
    "IQLState",
    "InSampleCritic",
    "init_critic",
    "init_in_sample",
    "least_q",
    "step_actor",
    "step_critic",
    "step_value",
    "update_critic",
    "weighted_cloning_loss",
]

WEIGHT_LIMIT = 100.0


# --- shared with the other in-sample methods: SQL, EQL, XQL ---


class IQLState(NamedTuple):
    """Everything that training carries; array leaves only."""

    critic: QEnsemble
    target_critic: QEnsemble  # Polyak average
    value: ValueNetwork
    actor: FreeGaussianActor
    critic_optimiser: optax.OptState
    value_optimiser: optax.OptState
    actor_optimiser: optax.OptState


def init_in_sample(
    spec: Spec,
    key: PRNGKey,
    hidden_sizes: tuple[int, ...],
    *,
    value_layer_norm: bool = False,
    actor_dropout: float = 0.0,
    networks: tuple[Network, Network] = ("mlp", "mlp"),
) -> IQLState:
    """Fresh networks with orthogonal(sqrt 2) weights; the target starts as a copy. networks: critic's, actor's."""
    critic_key, value_key, actor_key = jax.random.split(key, 3)
    how: dict[str, Any] = {"initialiser": orthogonal(2.0**0.5), "network": networks[0]}
    sizes = spec.observation_size, spec.action_size, hidden_sizes
    critic = QEnsemble(critic_key, *sizes, activation=jax.nn.relu, layer_norm=False, **how)
    normed = how | {"layer_norm": value_layer_norm, "norm_epsilon": FLAX_EPSILON}
    value = ValueNetwork(value_key, spec.observation_size, hidden_sizes, jax.nn.relu, **normed)
    how |= {"network": networks[1], "dropout_rate": actor_dropout}
    actor = FreeGaussianActor(actor_key, *sizes, spec.max_action, **how)
    return IQLState(critic, critic, value, actor, adam_init(critic), adam_init(value), adam_init(actor))


def least_q(state: IQLState, batch: Transition) -> Float[Array, " batch"]:
    """min_i Q_i,target(s, a) at the data's actions."""
    return jax.vmap(state.target_critic.least)(batch.observation, batch.action)


def step_value(
    state: IQLState,
    observation: Float[Array, "rows observation"],
    loss: Callable[[Array], Scalar],
    rate: Hyperparameter,
) -> tuple[IQLState, Metrics]:
    """One Adam step of V on `loss`, a function of V at `observation`."""

    def loss_of_network(value: ValueNetwork) -> tuple[Scalar, Array]:
        values: Float[Array, " rows"] = jax.vmap(value)(observation)
        return loss(values), values

    (value_loss, values), gradients = eqx.filter_value_and_grad(loss_of_network, has_aux=True)(state.value)
    value, optimiser = adam_step(state.value, gradients, state.value_optimiser, rate)
    metrics = {"critic/value_loss": value_loss, "critic/value": jnp.mean(values)}
    return state._replace(value=value, value_optimiser=optimiser), metrics


def weighted_cloning_loss(
    actor: FreeGaussianActor, batch: Transition, weight: Float[Array, " batch"], dropout_key: PRNGKey | None = None
) -> Scalar:
    """-E[ w log pi(a|s) ]."""
    keys = None if dropout_key is None else jax.random.split(dropout_key, len(weight))
    return -jnp.mean(weight * jax.vmap(actor.log_density)(batch.observation, batch.action, keys))


def step_actor(
    state: IQLState, batch: Transition, weight: Float[Array, " batch"], rate: Hyperparameter, key: PRNGKey
) -> tuple[IQLState, Metrics]:
    """One Adam step of weighted cloning; `key` is that of the dropout."""
    loss, gradients = eqx.filter_value_and_grad(weighted_cloning_loss)(state.actor, batch, weight, key)
    actor, optimiser = adam_step(state.actor, gradients, state.actor_optimiser, rate)
    metrics = {"actor/loss": loss, "actor/weight": jnp.mean(weight)}
    return state._replace(actor=actor, actor_optimiser=optimiser), metrics


def step_critic(
    state: IQLState,
    batch: Transition,
    discount: Hyperparameter,
    rate: Hyperparameter,
    target_rate: Hyperparameter,
    loss: Callable[[QEnsemble, Transition, Array], tuple[Scalar, Array]] = q_regression,
) -> tuple[IQLState, Metrics]:
    """One Adam step of Q towards r + gamma (1 - d) V(s'), then the target's."""
    next_value: Float[Array, " batch"] = jax.vmap(state.value)(batch.next_observation)
    target = td_target(batch.reward, discount, batch.terminal, next_value)
    (q_loss, q), gradients = eqx.filter_value_and_grad(loss, has_aux=True)(state.critic, batch, target)
    critic, optimiser = adam_step(state.critic, gradients, state.critic_optimiser, rate)
    target_critic = polyak(state.target_critic, critic, target_rate)
    state = state._replace(critic=critic, critic_optimiser=optimiser, target_critic=target_critic)
    return state, {"critic/q_loss": q_loss, "critic/q": jnp.mean(q)}


# --- shared with the methods that take this critic and another policy: IDQL, SRPO, IFQL ---


class InSampleCritic(NamedTuple):
    """Q and V together."""

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
    goal = jax.vmap(target_q.least)(batch.observation, batch.action)

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

    expectile: Fraction = 0.7  # tau
    inverse_temperature: NonNegative = 3.0  # beta of the advantage weights; 0 is cloning
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, actor
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q and V, constant
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    actor_dropout: StaticFractionBelowOne = eqx.field(static=True, default=0.0)  # in the actor's loss only
    cosine_decay: bool = eqx.field(static=True, default=True)  # the actor's rate falls to 0
    decay_updates: Interval | None = eqx.field(static=True, default=None)  # horizon of the decay; None: train_updates
    critic_network: Network = network_field()  # of Q and V
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> IQLState:
        """Fresh networks."""
        networks = self.critic_network, self.actor_network
        return init_in_sample(spec, key, self.hidden_sizes, actor_dropout=self.actor_dropout, networks=networks)

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: IQLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[IQLState, Metrics]:
        """Value, actor, critic, target."""
        batch = clip_actions(batch, state.actor.max_action)
        q = least_q(state, batch)
        state, value_metrics = step_value(
            state, batch.observation, lambda value: expectile_loss(q - value, self.expectile), self.critic_learning_rate
        )
        advantage = q - jax.vmap(state.value)(batch.observation)
        weight = advantage_weights(advantage, self.inverse_temperature, WEIGHT_LIMIT)
        rate = self.learning_rate * decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)
        state, actor_metrics = step_actor(state, batch, weight, rate, key)
        state, critic_metrics = step_critic(state, batch, self.discount, self.critic_learning_rate, self.target_rate)
        return state, value_metrics | actor_metrics | critic_metrics

    def policy(self, state: IQLState) -> Mode:
        """The mean of the actor."""
        return Mode(state.actor)
