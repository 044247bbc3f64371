"""IVR: implicit value regularisation, SQL and EQL, and extreme Q-learning, XQL (three value losses on IQL's loop).

SQL and EQL: Xu et al. 2023, arXiv 2303.15810; XQL: Garg et al. 2023, arXiv 2301.02328. With Q = min_i Q_i,target(s, a):

    SQL  u = 1 + (Q - V) / (2 alpha)      V-loss E[ 1{u > 0} u^2 + V / alpha ]     weight min(max(Q - V, 0), 100)
    EQL  u = min((Q - V) / alpha, 5)      V-loss E[ e^(u-c) + e^(-c) V / alpha ]   weight min(e^(10 (Q-V)/alpha), 100)
    XQL  u as EQL's                       V-loss E[ e^(u-c) - e^(-c) (u + 1) ]     weight min(e^(beta (Q-V)), 100)

c = max(batch max of u, -1) keeps the exponentials in range and has no gradient; u is clipped before the exponential.
Actor, critic and order of updates are IQL's. The value network has LayerNorm, as in the authors' code.

Deviations.
  1. SQL's weight is Q - V as in the authors' code; the paper's 1 + (Q - V) / (2 alpha) is a multiple of it, shifted.
  2. XQL follows baselines.md 7.5, which gives it from memory: EQL's clip and shift, alpha and beta unverified.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.acting import Mode
from tether.algorithms.interface import Hyperparameter, Phase
from tether.algorithms.iql import WEIGHT_LIMIT, IQLState, init_in_sample, update_in_sample
from tether.losses import advantage_weights
from tether.optimisers import decay_factor
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["EQL", "SQL", "XQL", "eql_value_loss", "sql_value_loss", "xql_value_loss"]

EXPONENT_LIMIT = 5.0


def sql_value_loss(value: Float[Array, " batch"], q: Float[Array, " batch"], alpha: Hyperparameter) -> Scalar:
    """E[ 1{u > 0} u^2 + V / alpha ]: V is between E[Q] (alpha large) and the largest Q of the data (alpha -> 0)."""
    u = 1.0 + (q - value) / (2.0 * alpha)
    return jnp.mean(jnp.where(u > 0.0, u**2, 0.0) + value / alpha)


def eql_value_loss(value: Float[Array, " batch"], q: Float[Array, " batch"], alpha: Hyperparameter) -> Scalar:
    """E[ e^(u-c) + e^(-c) V / alpha ]: V = alpha log E[ e^(Q/alpha) ]."""
    u, shift = _exponent(value, q, alpha)
    return jnp.mean(jnp.exp(u - shift) + jnp.exp(-shift) * value / alpha)


def xql_value_loss(value: Float[Array, " batch"], q: Float[Array, " batch"], alpha: Hyperparameter) -> Scalar:
    """Gumbel regression E[ e^u - u - 1 ], scaled by e^-c: EQL's minimiser."""
    u, shift = _exponent(value, q, alpha)
    return jnp.mean(jnp.exp(u - shift) - jnp.exp(-shift) * (u + 1.0))


def _exponent(value: Array, q: Array, alpha: Hyperparameter) -> tuple[Float[Array, " batch"], Scalar]:
    u = jnp.minimum((q - value) / alpha, EXPONENT_LIMIT)
    return u, jax.lax.stop_gradient(jnp.maximum(u.max(), -1.0))


class SQL(eqx.Module):
    """Hyper-parameters of SQL; the default alpha is the authors' for locomotion."""

    alpha: Hyperparameter = 1.0  # the smaller, the nearer V is to the best action of the data
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
        return init_in_sample(spec, key, self.hidden_sizes, value_layer_norm=True)

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
            lambda value, q: sql_value_loss(value, q, self.alpha),
            lambda value, q: jnp.clip(q - value, 0.0, WEIGHT_LIMIT),
            self.discount,
            self.target_rate,
            self.critic_learning_rate,
            self.learning_rate * rate_factor,
        )

    def policy(self, state: IQLState) -> Mode:
        """The mean of the actor."""
        return Mode(state.actor)


class EQL(eqx.Module):
    """Hyper-parameters of EQL; the default alpha is the authors' for locomotion."""

    alpha: Hyperparameter = 2.0  # temperature of V; the smaller, the nearer V is to the best action of the data
    sharpness: Hyperparameter = 10.0  # of the actor's weights: e^(sharpness (Q - V) / alpha)
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
        return init_in_sample(spec, key, self.hidden_sizes, value_layer_norm=True)

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
            lambda value, q: eql_value_loss(value, q, self.alpha),
            lambda value, q: advantage_weights(q - value, self.sharpness / self.alpha, WEIGHT_LIMIT),
            self.discount,
            self.target_rate,
            self.critic_learning_rate,
            self.learning_rate * rate_factor,
        )

    def policy(self, state: IQLState) -> Mode:
        """The mean of the actor."""
        return Mode(state.actor)


class XQL(eqx.Module):
    """Hyper-parameters of XQL; the defaults are the paper's for locomotion, from memory (baselines.md tags them so)."""

    alpha: Hyperparameter = 2.0  # temperature of V (beta in the paper's Gumbel regression)
    inverse_temperature: Hyperparameter = 3.0  # of the actor's weights
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
        return init_in_sample(spec, key, self.hidden_sizes, value_layer_norm=True)

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
            lambda value, q: xql_value_loss(value, q, self.alpha),
            lambda value, q: advantage_weights(q - value, self.inverse_temperature, WEIGHT_LIMIT),
            self.discount,
            self.target_rate,
            self.critic_learning_rate,
            self.learning_rate * rate_factor,
        )

    def policy(self, state: IQLState) -> Mode:
        """The mean of the actor."""
        return Mode(state.actor)
