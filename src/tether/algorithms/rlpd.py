"""RLPD: online learning with prior data, SAC with an ensemble of critics (Ball et al. 2023, arXiv 2302.02948).

    target       a' ~ pi(.|s'),  y = r + gamma (1 - d) (min_{i in Z} Q_i,target(s', a') - alpha log pi(a'|s')),
                 Z: 2 of 10 heads, drawn anew in every update; without the entropy on AntMaze and Adroit
    critic       mean_i E[ (Q_i(s, a) - y)^2 ],  LayerNorm before every ReLU
    actor        E[ alpha log pi(b|s) - mean_i Q_i(s, b) ],  b ~ pi(.|s), once in G updates
    temperature  E[ alpha (-log pi(b|s) - entropy_target) ],  with the actor

It is made for minibatches of which half are old data and half new ones, and for G = 20 updates of the critic to a step
of the environment. There is no offline phase; what is trained on data alone overestimates, as SAC does:

    tether train rlpd DATA --updates 1
    tether finetune RUN --env-steps 100000 --updates-per-step 20

As in the authors' code, weights start Glorot-uniform, of mean and log std as two layers, the target follows every step
of the critic, and data actions are clipped to 1e-5 inside the box.

tests/parity has the numbers of the authors' updates; their G is `--updates-per-step` and `actor_update_interval` here.

Deviations. From the authors' code, none in an update:
  1. Their first 5,000 steps act uniformly at random, without updates. `--warmup-env-steps 5000` acts with the actor as
     it is: tanh of about N(0, 1) where nothing was trained before.
  2. Collecting goes on while the device updates: rows are learnt up to two pieces later, which are of 5 steps with
     G = 20 (docs/finetune.md).
  3. Collected actions are clipped to 1e-5 inside the box as the data's are; theirs are not.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.algorithms.interface import Hyperparameter, Network, Phase, network_field
from tether.algorithms.ranges import Count, Fraction, Interval, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.sac import LOG_STD_RANGE, SACState, soft_actor_step, soft_q_target
from tether.algorithms.shared.losses import clip_actions, mean_q_regression, polyak
from tether.algorithms.shared.optimisers import adam_init, adam_step, update_when_due
from tether.errors import InputError
from tether.networks import FLAX_EPSILON, GaussianActor, QEnsemble, glorot_uniform
from tether.policies.acting import Mode, Sampled
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["RLPD", "mean_actor_loss"]


def two_layers(key: PRNGKey, in_features: int, out_features: int) -> tuple[Array, Array]:
    """The actor's last layer, drawn as one for the mean and one for the log standard deviation."""
    halves = [glorot_uniform(half_key, in_features, out_features // 2) for half_key in jax.random.split(key)]
    weight, bias = (jnp.concatenate(parts) for parts in zip(*halves, strict=True))
    return weight, bias


def mean_actor_loss(
    actor: GaussianActor, critic: QEnsemble, batch: Transition, entropy_weight: Scalar, key: PRNGKey
) -> tuple[Scalar, Scalar]:
    """E[ alpha log pi(b|s) - mean_i Q_i(s, b) ] -> (it, E[log pi(b|s)])."""
    law = jax.vmap(actor)(batch.observation)
    noise = jax.random.normal(key, batch.action.shape, batch.action.dtype)
    log_density = law.log_density_of_noise(noise)
    q: Float[Array, "batch ensemble"] = jax.vmap(critic)(batch.observation, law.transform(noise))
    return jnp.mean(entropy_weight * log_density - q.mean(axis=1)), jnp.mean(log_density)


class RLPD(eqx.Module):
    """Hyper-parameters of RLPD; the defaults are the paper's for locomotion."""

    entropy_target: Hyperparameter = -0.5  # per coordinate of the action
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, actor and temperature
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    ensemble_size: Count = eqx.field(static=True, default=10)
    target_heads: Count = eqx.field(static=True, default=2)  # how many Z holds
    entropy_backup: bool = eqx.field(static=True, default=True)  # the target counts the policy's entropy
    actor_update_interval: Interval = eqx.field(static=True, default=20)  # G, in updates
    critic_network: Network = network_field(beyond="the policy's entropy is in the targets (entropy_backup)")  # of Q
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)
        if self.target_heads > self.ensemble_size:
            raise InputError(f"target_heads {self.target_heads}: there are {self.ensemble_size} (ensemble_size)")

    def init(self, spec: Spec, key: PRNGKey) -> SACState:
        """Fresh networks, alpha 1; the target starts as a copy."""
        critic_key, actor_key = jax.random.split(key)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        how = {"ensemble_size": self.ensemble_size, "network": self.critic_network, "initialiser": glorot_uniform}
        critic = QEnsemble(critic_key, *sizes, activation=jax.nn.relu, norm_epsilon=FLAX_EPSILON, **how)
        how = {"log_std_range": LOG_STD_RANGE, "network": self.actor_network}
        how |= {"initialiser": glorot_uniform, "last_initialiser": two_layers}
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
        """Critic and target; in the last of G updates the actor and the temperature, too."""
        target_key, actor_key = jax.random.split(key)
        batch = clip_actions(batch, state.actor.max_action)
        target = self.critic_target(state, batch, target_key)
        grad = eqx.filter_value_and_grad(mean_q_regression, has_aux=True)
        (q_loss, q), gradients = grad(state.critic, batch, target)
        critic, optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.critic_learning_rate)
        target_critic = polyak(state.target_critic, critic, self.target_rate)
        state = state._replace(critic=critic, critic_optimiser=optimiser, target_critic=target_critic)
        state, actor_metrics = update_when_due(
            lambda state: soft_actor_step(self, state, state.critic, batch, actor_key, mean_actor_loss),
            state,
            step + 1,
            0,
            self.actor_update_interval,
        )
        return state, {"critic/q_loss": q_loss, "critic/q": jnp.mean(q)} | actor_metrics

    def policy(self, state: SACState) -> Mode:
        """The actor without noise."""
        return Mode(state.actor)

    def behaviour(self, state: SACState) -> Sampled:
        """The actor with its noise: what collects data."""
        return Sampled(state.actor)

    def critic_target(self, state: SACState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """y, of heads that are drawn for the whole minibatch."""
        subset_key, action_key = jax.random.split(key)
        drawn = jax.random.choice(subset_key, self.ensemble_size, (self.target_heads,), replace=False)
        drawn_heads = state._replace(target_critic=state.target_critic.subset(drawn))
        weight = jnp.exp(state.log_entropy_weight) if self.entropy_backup else 0.0
        return soft_q_target(drawn_heads, batch, self.discount, weight, action_key)
