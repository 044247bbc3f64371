"""IVR: in-sample learning by implicit value regularisation, SQL and EQL (Xu et al., ICLR 2023, arXiv 2303.15810).

IQL's loop with another value loss and another weight of the actor's regression. With Q = min_i Q_i,target(s, a):

    SQL  u = 1 + (Q - V) / (2 alpha)      V-loss E[ 1{u > 0} u^2 + V / alpha ]     weight min(max(Q - V, 0), 100)
    EQL  u = min((Q - V) / alpha, 5)      V-loss E[ e^(u-c) + e^(-c) V / alpha ]   weight min(e^(10 (Q-V)/alpha), 100)

SQL regularises by the chi-square divergence: actions with Q below V get no weight at all. EQL's is the KL divergence:
V = alpha log E[ e^(Q/alpha) ]. c = max(batch max of u, -1) keeps the exponentials in range and has no gradient; u is
clipped before the exponential. The value network has LayerNorm.

Deviations. From the paper, following the authors' code:
  1. SQL's weight is Q - V instead of 1 + (Q - V) / (2 alpha); EQL's exponent is 10 times the paper's.
From the code:
  2. Its value dropout of 0.5 for AntMaze is not there: no training flag is passed, so it never acts.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.algorithms.interface import Hyperparameter, Network, Phase, network_field
from tether.algorithms.iql import (
    WEIGHT_LIMIT,
    IQLState,
    init_in_sample,
    least_q,
    step_actor,
    step_critic,
    step_value,
)
from tether.algorithms.ranges import (
    Fraction,
    Interval,
    NonNegative,
    Positive,
    Sizes,
    StaticFractionBelowOne,
    Updates,
    check_ranges,
)
from tether.algorithms.shared.losses import advantage_weights, clip_actions, limited_exponent
from tether.algorithms.shared.optimisers import decay_factor
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["EQL", "SQL", "eql_value_loss", "sql_value_loss"]

EXPONENT_LIMIT = 5.0
SHARPNESS = 10.0  # of EQL's weights


def sql_value_loss(value: Float[Array, " batch"], q: Float[Array, " batch"], alpha: Hyperparameter) -> Scalar:
    """E[ 1{u > 0} u^2 + V / alpha ]: V is between E[Q] (alpha large) and the largest Q of the data (alpha -> 0)."""
    u = 1.0 + (q - value) / (2.0 * alpha)
    return jnp.mean(jnp.where(u > 0.0, u**2, 0.0) + value / alpha)


def eql_value_loss(value: Float[Array, " batch"], q: Float[Array, " batch"], alpha: Hyperparameter) -> Scalar:
    """E[ e^(u-c) + e^(-c) V / alpha ]: V = alpha log E[ e^(Q/alpha) ]."""
    u, shift = limited_exponent((q - value) / alpha, EXPONENT_LIMIT)
    return jnp.mean(jnp.exp(u - shift) + jnp.exp(-shift) * value / alpha)


class SQL(eqx.Module):
    """SQL: in-sample learning by implicit value regularisation with the chi-square divergence.

    The default alpha is the authors' for locomotion.
    """

    alpha: Positive = 1.0  # the smaller, the nearer V is to the best action of the data
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
        how = {"actor_dropout": self.actor_dropout, "networks": (self.critic_network, self.actor_network)}
        return init_in_sample(spec, key, self.hidden_sizes, value_layer_norm=True, **how)

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
            state, batch.observation, lambda value: sql_value_loss(value, q, self.alpha), self.critic_learning_rate
        )
        advantage = q - jax.vmap(state.value)(batch.observation)
        weight = jax.lax.stop_gradient(jnp.clip(advantage, 0.0, WEIGHT_LIMIT))
        rate = self.learning_rate * decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)
        state, actor_metrics = step_actor(state, batch, weight, rate, key)
        state, critic_metrics = step_critic(state, batch, self.discount, self.critic_learning_rate, self.target_rate)
        return state, value_metrics | actor_metrics | critic_metrics

    def policy(self, state: IQLState) -> Mode:
        """The mean of the actor."""
        return Mode(state.actor)


class EQL(eqx.Module):
    """EQL: in-sample learning by implicit value regularisation with the KL divergence.

    The default alpha is the authors' for locomotion.
    """

    alpha: Positive = 2.0  # temperature of V; the smaller, the nearer V is to the best action of the data
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
        how = {"actor_dropout": self.actor_dropout, "networks": (self.critic_network, self.actor_network)}
        return init_in_sample(spec, key, self.hidden_sizes, value_layer_norm=True, **how)

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
            state, batch.observation, lambda value: eql_value_loss(value, q, self.alpha), self.critic_learning_rate
        )
        advantage = q - jax.vmap(state.value)(batch.observation)
        weight = advantage_weights(advantage, SHARPNESS / self.alpha, WEIGHT_LIMIT)
        rate = self.learning_rate * decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)
        state, actor_metrics = step_actor(state, batch, weight, rate, key)
        state, critic_metrics = step_critic(state, batch, self.discount, self.critic_learning_rate, self.target_rate)
        return state, value_metrics | actor_metrics | critic_metrics

    def policy(self, state: IQLState) -> Mode:
        """The mean of the actor."""
        return Mode(state.actor)
