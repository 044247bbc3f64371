"""AWR: advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177), offline.

    value   E[ (V(s) - R)^2 ],  R the data's discounted return to go; V is learned in units of 1 / (1 - gamma)
    actor   -E[ min(exp(A / beta), 20) log pi(a|s) ] + 5 E[ |mean(s) outside the box|^2 ],
            pi normal with a fixed standard deviation;  A = R_lambda - V(s), standardised over the data, where
            R_lambda = r + gamma (1 - d) ((1 - lambda) V(s') + lambda R_lambda'), V(s') at a trajectory's last row

Deviations. From the authors' code:
  1. It alternates 200 steps of V towards R_lambda with 1000 of the actor. With a fixed buffer V is fitted first, to
     Monte-Carlo returns (phase `pretrain`), advantages are computed once from it, and the actor follows. An episode
     that was cut short counts what was recorded, so V is too low near its end.
  2. Adam at 3e-4 for both instead of momentum SGD at hand-set rates.
  3. The price of leaving the box is 5 times the squared distance: the code's weight of 10 is of half of it.
  4. Layers start as PyTorch's do, the code's Xavier-uniform, the actor's last one within 0.01.
  5. Settings are those of the code's configurations for gym's robots. D4RL's runs used this code, but its names are not
     in that table: by its defaults std was 0.2, V took 500 steps in turn, and the buffer held the last 50,000 rows of
     the data alone, cut into paths that straddle episodes. Numbers in D4RL's tables are of those.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Derive, Hyperparameter, Network, Phase, network_field
from tether.algorithms.ranges import (
    Fraction,
    NonNegative,
    Positive,
    Sizes,
    StaticFractionBelowOne,
    Updates,
    check_ranges,
)
from tether.algorithms.shared.losses import advantage_weights
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.networks import Layers, ValueNetwork, make_network
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["AWR", "AWRState", "FixedGaussianActor", "lambda_returns"]

WEIGHT_LIMIT, BOX_WEIGHT = 20.0, 5.0


class FixedGaussianActor(eqx.Module):
    """Normal policy with a standard deviation that is not trained; its mean is not bounded."""

    network: Layers
    max_action: float = eqx.field(static=True)

    def mode(self, observation: Float[Array, " observation"]) -> Float[Array, " action"]:
        """The mean."""
        return self.network(observation)


class AWRState(NamedTuple):
    """Everything that training carries; array leaves only."""

    value: ValueNetwork
    actor: FixedGaussianActor
    value_optimiser: optax.OptState
    actor_optimiser: optax.OptState


class Values(NamedTuple):
    """V of one transition's two states, in units of the rewards."""

    here: Scalar
    following: Scalar  # 0 after a terminal row


def lambda_returns(
    reward: Float[Array, " rows"],
    next_value: Float[Array, " rows"],
    end: Float[Array, " rows"],
    discount: float,
    trace_decay: Hyperparameter,
) -> Float[Array, " rows"]:
    """R_i = r_i + gamma ((1 - lambda) V_{i+1} + lambda R_{i+1}), rows in recording order; V_{i+1} alone where `end`.

    next_value: of each row's next state; 0 after a terminal row.
    """

    def step(following: Scalar, row: tuple[Scalar, Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        reward, next_value, end = row
        kept = trace_decay * (1.0 - end)
        total = reward + discount * ((1.0 - kept) * next_value + kept * following)
        return total, total

    return jax.lax.scan(step, jnp.zeros((), reward.dtype), (reward, next_value, end), reverse=True)[1]


class AWR(eqx.Module):
    """Hyper-parameters of AWR; the defaults are those of its locomotion runs, but for the deviations."""

    view: ClassVar[str] = "returns"

    temperature: Positive = 1.0  # beta
    trace_decay: Fraction = 0.95  # lambda of the returns in the advantage
    std: Positive = 0.4  # of the policy, in action boxes
    learning_rate: NonNegative = 3e-4  # Adam, actor
    value_learning_rate: NonNegative = 3e-4  # Adam, V

    discount: StaticFractionBelowOne = eqx.field(static=True, default=0.99)  # gamma: decides a column of the data
    critic_network: Network = network_field(scalar=True)  # of V
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(128, 64))
    pretrain_updates: Updates = eqx.field(static=True, default=100_000)
    train_updates: Updates = eqx.field(static=True, default=500_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> AWRState:
        """Fresh networks."""
        value_key, actor_key = jax.random.split(key)
        size = spec.observation_size
        value = ValueNetwork(value_key, size, self.hidden_sizes, jax.nn.relu, network=self.critic_network)
        sizes = (size,), self.hidden_sizes, spec.action_size
        network = make_network(self.actor_network, actor_key, *sizes, activation=jax.nn.relu)
        actor = FixedGaussianActor(network, spec.max_action)
        return AWRState(value, actor, adam_init(value), adam_init(actor))

    def phases(self) -> tuple[Phase, ...]:
        """The value, then the actor."""
        return (
            Phase("pretrain", self.pretrain_updates, self.pretrain_update),
            Phase("train", self.train_updates, self.update, Derive(self.values, self.advantages)),
        )

    def pretrain_update(
        self, state: AWRState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[AWRState, Metrics]:
        """One step of the value. Raises ValueError for columns of unequal shape, which would broadcast."""
        if batch.return_to_go is None or not batch.return_to_go.shape == batch.reward.shape == batch.terminal.shape:
            raise ValueError("reward, terminal and return to go must be vectors of one length")
        target = (1.0 - self.discount) * batch.return_to_go

        def loss(value: ValueNetwork) -> Scalar:
            return jnp.mean((target - jax.vmap(value)(batch.observation)) ** 2)

        value_loss, gradients = eqx.filter_value_and_grad(loss)(state.value)
        value, optimiser = adam_step(state.value, gradients, state.value_optimiser, self.value_learning_rate)
        return state._replace(value=value, value_optimiser=optimiser), {"critic/value_loss": value_loss}

    def values(self, state: AWRState, row: Transition, key: PRNGKey) -> Values:
        """V of one transition's states."""
        here, following = state.value(row.observation), state.value(row.next_observation)
        scale = 1.0 / (1.0 - self.discount)
        return Values(scale * here, scale * (1.0 - row.terminal) * following)

    def advantages(self, values: Values, data: Transition) -> Float[Array, " rows"]:
        """A of all rows, standardised."""
        assert data.trajectory_end is not None
        returns = lambda_returns(data.reward, values.following, data.trajectory_end, self.discount, self.trace_decay)
        advantage = returns - values.here
        return (advantage - advantage.mean()) / (advantage.std() + 1e-5)

    def update(
        self, state: AWRState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[AWRState, Metrics]:
        """One step of the actor."""
        weight = advantage_weights(batch.derived, 1.0 / self.temperature, WEIGHT_LIMIT)
        loss, gradients = eqx.filter_value_and_grad(self.actor_loss)(state.actor, batch, weight)
        actor, optimiser = adam_step(state.actor, gradients, state.actor_optimiser, self.learning_rate)
        metrics = {"actor/loss": loss, "actor/weight": jnp.mean(weight)}
        return state._replace(actor=actor, actor_optimiser=optimiser), metrics

    def policy(self, state: AWRState) -> Mode:
        """The mean, clipped to the box."""
        return Mode(state.actor)

    def actor_loss(self, actor: FixedGaussianActor, batch: Transition, weight: Float[Array, " batch"]) -> Scalar:
        """Weighted negative log-likelihood, without its constant, and the price of leaving the box."""
        mean: Float[Array, "batch action"] = jax.vmap(actor.mode)(batch.observation)
        log_density = -0.5 * jnp.sum(((batch.action - mean) / (self.std * actor.max_action)) ** 2, axis=1)
        outside = jnp.sum(jnp.maximum(jnp.abs(mean) - actor.max_action, 0.0) ** 2, axis=1)
        return jnp.mean(BOX_WEIGHT * outside - weight * log_density)
