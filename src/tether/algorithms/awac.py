"""AWAC: advantage-weighted actor-critic (Nair et al. 2020, arXiv 2006.09359), offline.

    target  y = r + gamma (1 - d) min_i Q_i,target(s', a'),   a' ~ pi(.|s')
    critic  sum_i E[ (Q_i(s, a) - y)^2 ]
    actor   -E[ min(exp(A / lambda), 100) log pi(a|s) ],      A = min_i Q_i(s, a) - min_i Q_i(s, b),   b ~ pi(.|s)

The policy is a normal whose mean is not squashed, with a free standard deviation; actions are clipped to the box when
they are drawn. Order: critic, actor, target. Hyper-parameters are those of CORL (arXiv 2210.07105).

Deviations. From CORL (tests/parity):
  1. The mean is clipped to the action box when acting, too; CORL leaves that to the environment.
  2. The exponent is limited before exp, CORL limits the exponential: the same numbers without overflow.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Network, Phase, network_field
from tether.algorithms.iql import WEIGHT_LIMIT
from tether.algorithms.ranges import Fraction, NonNegative, Positive, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import advantage_weights, polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.networks import FreeGaussianActor, QEnsemble, torch_uniform
from tether.policies.acting import Mode, sample_each
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["AWAC", "AWACState"]


class AWACState(NamedTuple):
    """Everything that training carries; array leaves only."""

    critic: QEnsemble
    target_critic: QEnsemble  # Polyak average
    actor: FreeGaussianActor
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState


class AWAC(eqx.Module):
    """Hyper-parameters of AWAC; the default temperature is CORL's for locomotion."""

    temperature: Positive = 1.0 / 3.0  # lambda; the larger, the nearer to cloning
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, actor
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    critic_network: Network = network_field()  # of Q
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> AWACState:
        """Fresh networks; the target starts as a copy."""
        critic_key, actor_key = jax.random.split(key)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        critic = QEnsemble(critic_key, *sizes, activation=jax.nn.relu, layer_norm=False, network=self.critic_network)
        how = {"squashed_mean": False, "log_std_range": (-20.0, 2.0), "network": self.actor_network}
        actor = FreeGaussianActor(actor_key, *sizes, spec.max_action, initialiser=torch_uniform, **how)
        return AWACState(critic, critic, actor, adam_init(critic), adam_init(actor))

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: AWACState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[AWACState, Metrics]:
        """Critic, actor, target."""
        target_key, actor_key = jax.random.split(key)
        target = self.critic_target(state, batch, target_key)
        (q_loss, q), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(state.critic, batch, target)
        critic, critic_optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.critic_learning_rate)
        state = state._replace(critic=critic, critic_optimiser=critic_optimiser)

        grad = eqx.filter_value_and_grad(self.actor_loss, has_aux=True)
        (actor_loss, weight), gradients = grad(state.actor, critic, batch, actor_key)
        actor, actor_optimiser = adam_step(state.actor, gradients, state.actor_optimiser, self.learning_rate)
        state = state._replace(
            actor=actor,
            actor_optimiser=actor_optimiser,
            target_critic=polyak(state.target_critic, critic, self.target_rate),
        )
        return state, {
            "critic/q_loss": q_loss,
            "critic/q": jnp.mean(q),
            "actor/loss": actor_loss,
            "actor/weight": jnp.mean(weight),
        }

    def policy(self, state: AWACState) -> Mode:
        """The mean of the actor, clipped to the box."""
        return Mode(state.actor)

    def critic_target(self, state: AWACState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """y, from one action of the actor per next state."""
        action = sample_each(state.actor, batch.next_observation, key)
        q = jax.vmap(state.target_critic.least)(batch.next_observation, action)
        return td_target(batch.reward, self.discount, batch.terminal, q)

    def actor_loss(
        self, actor: FreeGaussianActor, critic: QEnsemble, batch: Transition, key: PRNGKey
    ) -> tuple[Scalar, Float[Array, " batch"]]:
        """-E[ w log pi(a|s) ] -> (it, w). One pass of the actor gives the density and the action of the baseline."""
        mean: Float[Array, "batch action"] = jax.vmap(actor.mode)(batch.observation)
        keys = jax.random.split(key, len(mean))
        own = jax.lax.stop_gradient(jax.vmap(lambda m, k: actor.sample_around(m, k, 1)[0])(mean, keys))
        advantage = self.advantage(critic, batch, own)
        weight = advantage_weights(advantage, 1.0 / self.temperature, WEIGHT_LIMIT)
        return -jnp.mean(weight * jax.vmap(actor.log_density_around)(mean, batch.action)), weight

    def advantage(
        self, critic: QEnsemble, batch: Transition, own: Float[Array, "batch action"]
    ) -> Float[Array, " batch"]:
        """A of the data's actions, against one action of the actor in each state."""
        q = jax.vmap(critic.least)(batch.observation, batch.action)
        return q - jax.vmap(critic.least)(batch.observation, own)
