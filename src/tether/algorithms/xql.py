"""XQL: extreme Q-learning, in-sample soft values by Gumbel regression (Garg et al., ICLR 2023, arXiv 2301.02328).

IQL's loop with another value loss. With Q = min_i Q_i,target(s, a) and u = min((Q - V) / alpha, limit):

    value   E[ e^(u-c) - e^(-c) (u + 1) ],  c = max(batch max of u, -1), without gradient
    actor   -E[ min(exp(beta (Q - V)), 100) log pi(a|s) ]
    critic  sum_i E[ H(Q_i(s, a) - y) ],    y = r + gamma (1 - d) V(s'),  H = Huber's loss, quadratic up to 20

e^u - u - 1 is the negative log-likelihood of Gumbel noise: its minimiser is V = alpha log E[ e^(Q/alpha) ], EQL's. Two
ways to smooth Q where V is fitted, each for single tasks: `uniform_actions` adds as many rows again with uniform
actions, `noisy_actions` adds clipped noise to the data's. The value network has LayerNorm.

The formulas and settings are those of the authors' code of 2023.

Deviations. From the code:
  1. Its value dropout of 0.5 for AntMaze is not there: no training flag is passed, so it never acts.
  2. Both ways of smoothing at once add noise to the data's actions only; the code would fail.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

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
    Depth,
    Fraction,
    Interval,
    NonNegative,
    Positive,
    Sizes,
    StaticFractionBelowOne,
    Updates,
    check_ranges,
)
from tether.algorithms.shared.losses import advantage_weights, clip_actions, limited_exponent, smoothed_action
from tether.algorithms.shared.optimisers import decay_factor
from tether.networks import QEnsemble
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["XQL", "gumbel_loss"]

HUBER_LIMIT = 20.0
ACTION_NOISE, NOISE_LIMIT = 0.1, 0.5  # in units of the action box


def gumbel_loss(
    value: Float[Array, " rows"], q: Float[Array, " rows"], alpha: Hyperparameter, limit: Hyperparameter
) -> Scalar:
    """E[ e^u - u - 1 ], scaled by e^(-c): the paper's Gumbel regression."""
    u, shift = limited_exponent((q - value) / alpha, limit)
    return jnp.mean(jnp.exp(u - shift) - jnp.exp(-shift) * (u + 1.0))


def huber_regression(
    critic: QEnsemble, batch: Transition, target: Float[Array, " batch"]
) -> tuple[Scalar, Float[Array, "batch ensemble"]]:
    """sum_i mean H(Q_i(s, a) - y) -> (it, the values Q_i(s, a))."""
    q: Float[Array, "batch ensemble"] = jax.vmap(critic)(batch.observation, batch.action)
    return jnp.sum(jnp.mean(optax.losses.huber_loss(q - target[:, None], delta=HUBER_LIMIT), axis=0)), q


class XQL(eqx.Module):
    """Hyper-parameters of XQL; the default alpha is the paper's common one for locomotion ("X-QL C")."""

    alpha: Positive = 2.0  # temperature of V; the smaller, the nearer V is to the best action of the data
    exponent_limit: Positive = 7.0  # of u
    inverse_temperature: NonNegative = 3.0  # beta of the actor's weights
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, actor
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q and V, constant
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    uniform_actions: bool = eqx.field(static=True, default=False)  # V is fitted to half data, half uniform actions
    noisy_actions: bool = eqx.field(static=True, default=False)  # V is fitted at the data's actions plus noise
    value_updates: Depth = eqx.field(static=True, default=1)  # steps of V per update, on the same minibatch
    actor_dropout: StaticFractionBelowOne = eqx.field(static=True, default=0.0)  # in the actor's loss only
    cosine_decay: bool = eqx.field(static=True, default=True)  # the actor's rate falls to 0
    decay_updates: Interval | None = eqx.field(static=True, default=None)  # horizon of the decay; None: train_updates
    critic_network: Network = network_field(scalar=True)  # of Q and V
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
        smoothing_key, dropout_key = jax.random.split(key)
        batch = clip_actions(batch, state.actor.max_action)
        rows = self.value_rows(batch, smoothing_key, state.actor.max_action)
        q_of_rows, value_metrics = least_q(state, rows), {}
        for _ in range(self.value_updates):
            state, value_metrics = step_value(
                state,
                rows.observation,
                lambda value: gumbel_loss(value, q_of_rows, self.alpha, self.exponent_limit),
                self.critic_learning_rate,
            )
        q = q_of_rows if rows is batch else least_q(state, batch)
        advantage = q - jax.vmap(state.value)(batch.observation)
        weight = advantage_weights(advantage, self.inverse_temperature, WEIGHT_LIMIT)
        rate = self.learning_rate * decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)
        state, actor_metrics = step_actor(state, batch, weight, rate, dropout_key)
        rates = self.critic_learning_rate, self.target_rate
        state, critic_metrics = step_critic(state, batch, self.discount, *rates, huber_regression)
        return state, value_metrics | actor_metrics | critic_metrics

    def policy(self, state: IQLState) -> Mode:
        """The mean of the actor."""
        return Mode(state.actor)

    def value_rows(self, batch: Transition, key: PRNGKey, max_action: float) -> Transition:
        """The states and actions that V is fitted to."""
        noise_key, uniform_key = jax.random.split(key)
        if self.noisy_actions:
            noise = ACTION_NOISE * max_action, NOISE_LIMIT * max_action
            batch = batch._replace(action=smoothed_action(batch.action, noise_key, *noise, max_action))
        if self.uniform_actions:
            uniform = max_action * jax.random.uniform(uniform_key, batch.action.shape, batch.action.dtype, -1.0, 1.0)
            actions = jnp.concatenate([batch.action, uniform])
            batch = jax.tree.map(lambda column: jnp.concatenate([column, column]), batch)._replace(action=actions)
        return batch
