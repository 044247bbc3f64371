"""SAC: soft actor-critic with automatic temperature (Haarnoja et al. 2018, arXiv 1812.05905).

    target       a' ~ pi(.|s'),  y = r + gamma (1 - d) (min_i Q_i,target(s', a') - alpha log pi(a'|s'))
    critic       sum_i E[ (Q_i(s, a) - y)^2 ]
    actor        E[ alpha log pi(b|s) - min_i Q_i(s, b) ],   b ~ pi(.|s), reparametrised
    temperature  E[ alpha (-log pi(b|s) - entropy_target) ],  minimised over log alpha

Offline it is the baseline that overestimates: nothing keeps it near the data. Online (`tether data collect`) it is what
D4RL's own data were made with. The same update serves both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Hyperparameter, Network, Phase, network_field
from tether.algorithms.ranges import Fraction, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.networks import GaussianActor, QEnsemble, torch_uniform
from tether.policies.acting import Mode, Sampled
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["SAC", "SACState", "entropy_weight_step", "soft_actor_loss", "soft_actor_step", "soft_q_target"]

S = TypeVar("S", bound=Any)

LOG_STD_RANGE = (-20.0, 2.0)


class SACState(NamedTuple):
    """Everything that training carries; array leaves only."""

    critic: QEnsemble
    target_critic: QEnsemble  # Polyak average
    actor: GaussianActor
    log_entropy_weight: Float[Array, ""]  # log alpha
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState
    entropy_optimiser: optax.OptState


def soft_q_target(
    state: SACState, batch: Transition, discount: Hyperparameter, entropy_weight: float | Scalar, key: PRNGKey
) -> Float[Array, " batch"]:
    """y, from one action of the actor per next state."""
    law = jax.vmap(state.actor)(batch.next_observation)
    noise = jax.random.normal(key, batch.action.shape, batch.action.dtype)
    q = jax.vmap(state.target_critic.least)(batch.next_observation, law.transform(noise))
    entropy_term = entropy_weight * law.log_density_of_noise(noise)
    return td_target(batch.reward, discount, batch.terminal, q - entropy_term)


def soft_actor_loss(
    actor: GaussianActor, critic: QEnsemble, batch: Transition, entropy_weight: Scalar, key: PRNGKey
) -> tuple[Scalar, Scalar]:
    """E[ alpha log pi(b|s) - min_i Q_i(s, b) ] -> (it, E[log pi(b|s)])."""
    law = jax.vmap(actor)(batch.observation)
    noise = jax.random.normal(key, batch.action.shape, batch.action.dtype)
    log_density = law.log_density_of_noise(noise)
    q = jax.vmap(critic.least)(batch.observation, law.transform(noise))
    return jnp.mean(entropy_weight * log_density - q), jnp.mean(log_density)


def entropy_weight_step(
    log_weight: Scalar, log_density: Scalar, target: float | Scalar, state: optax.OptState, rate: float | Scalar
) -> tuple[Scalar, optax.OptState]:
    """One Adam step of log alpha on alpha (-log pi - target): up while the entropy is below its target."""
    slope = jnp.exp(log_weight) * (-log_density - target)
    return adam_step(log_weight, slope, state, rate)


def soft_actor_step(
    algorithm: Any,
    state: S,
    critic: QEnsemble,
    batch: Transition,
    key: PRNGKey,
    loss: Callable[..., Any] = soft_actor_loss,
) -> tuple[S, Metrics]:
    """One Adam step of the actor against `critic`, and one of its temperature.

    algorithm: has `learning_rate` and `entropy_target`; state: has actor, log_entropy_weight and their optimisers.
    """
    weight = jnp.exp(state.log_entropy_weight)
    grad = eqx.filter_value_and_grad(loss, has_aux=True)
    (actor_loss, log_density), gradients = grad(state.actor, critic, batch, weight, key)
    actor, actor_optimiser = adam_step(state.actor, gradients, state.actor_optimiser, algorithm.learning_rate)
    log_weight, entropy_optimiser = entropy_weight_step(
        state.log_entropy_weight,
        log_density,
        algorithm.entropy_target * batch.action.shape[1],
        state.entropy_optimiser,
        algorithm.learning_rate,
    )
    changes = {"actor": actor, "actor_optimiser": actor_optimiser}
    changes |= {"log_entropy_weight": log_weight, "entropy_optimiser": entropy_optimiser}
    metrics = {"actor/loss": actor_loss, "actor/entropy": -log_density, "actor/entropy_weight": weight}
    return state._replace(**changes), metrics


class SAC(eqx.Module):
    """Hyper-parameters of SAC; the defaults are the usual ones for MuJoCo."""

    entropy_target: Hyperparameter = -1.0  # per coordinate of the action
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, actor and temperature
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    critic_network: Network = network_field(beyond="the policy's entropy is in the targets")  # of Q
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> SACState:
        """Fresh networks, alpha 1; the target starts as a copy."""
        critic_key, actor_key = jax.random.split(key)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        critic = QEnsemble(critic_key, *sizes, activation=jax.nn.relu, layer_norm=False, network=self.critic_network)
        how = {"initialiser": torch_uniform, "log_std_range": LOG_STD_RANGE, "network": self.actor_network}
        actor = GaussianActor(actor_key, *sizes, spec.max_action, **how)
        log_weight = jnp.zeros((), jnp.float32)
        moments = adam_init(critic), adam_init(actor), adam_init(log_weight)
        return SACState(critic, critic, actor, log_weight, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: SACState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[SACState, Metrics]:
        """Critic, actor, temperature, target."""
        target_key, actor_key = jax.random.split(key)
        weight = jnp.exp(state.log_entropy_weight)
        target = soft_q_target(state, batch, self.discount, weight, target_key)
        (q_loss, q), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(state.critic, batch, target)
        critic, critic_optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.critic_learning_rate)
        state, actor_metrics = soft_actor_step(self, state, critic, batch, actor_key)
        target_critic = polyak(state.target_critic, critic, self.target_rate)
        state = state._replace(critic=critic, critic_optimiser=critic_optimiser, target_critic=target_critic)
        return state, {"critic/q_loss": q_loss, "critic/q": jnp.mean(q)} | actor_metrics

    def policy(self, state: SACState) -> Mode:
        """The actor without noise."""
        return Mode(state.actor)

    def behaviour(self, state: SACState) -> Sampled:
        """The actor with its noise: what collects data."""
        return Sampled(state.actor)
