"""BEAR: bootstrapping error accumulation reduction (Kumar et al. 2019, arXiv 1906.00949).

    target   10 actions of the policy at s', q_j = 0.75 min_i Q_i + 0.25 max_i Q_i of the targets,
             y = r + gamma (1 - d) max_j q_j;   critic sum_i E[ (Q_i(s, a) - y)^2 ]
    MMD^2    mean k(x, x') + mean k(y, y') - 2 mean k(x, y),  x: 4 actions of a VAE of the data, y: 4 of the policy,
             both before tanh; self-pairs included, as in the code;  MMD = sqrt(MMD^2 + 1e-6)
    actor    -E[ min_i Q_i(s, b) ] + alpha (E[MMD] - 0.05);  the first 40,000 updates the MMD term alone
    dual     alpha = exp(l), ascent on alpha (E[MMD] - 0.05), l in [-5, 10]
    acting   the best of 100 actions of the policy by the first head

There is no averaged policy: D4RL's code, whose settings these are, draws the target's actions from the online one (the
authors' first code averages it). It also takes the first head's maximum to act.

Deviations. From D4RL's code:
  1. Layers start as PyTorch's do. rlkit, below that code, starts hidden biases at 0.1, hidden weights within one over
     the root of their number of outputs (first layers three to five times narrower on locomotion) and last layers
     within 0.003 (Q) and 0.001 (policy); its target critics do not start as copies.
  2. The policy's mean is clipped to +-9 wherever it is used; the code clips it where a density is asked for, which
     BEAR never does. tanh makes the actions the same, MMD sees the clipped ones.
  3. The actor sees the critics after their step; the code takes their values before it.
"""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Network, Phase, acting_field, network_field
from tether.algorithms.ranges import Count, Fraction, NonNegative, Positive, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import aggregate_heads, mmd, polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.networks import GaussianActor, QEnsemble, torch_uniform
from tether.networks.vae import ActionVAE, vae_loss
from tether.policies.acting import BestOfSamples
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["BEAR", "BEARState"]

MEAN_LIMIT = 9.0
LOG_MULTIPLIER_RANGE = (-5.0, 10.0)


class BEARState(NamedTuple):
    """Everything that training carries; array leaves only."""

    vae: ActionVAE
    critic: QEnsemble
    target_critic: QEnsemble  # Polyak average
    actor: GaussianActor
    log_multiplier: Float[Array, ""]  # log alpha
    vae_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState
    multiplier_optimiser: optax.OptState


class BEAR(eqx.Module):
    """Hyper-parameters of BEAR; the defaults are D4RL's script's."""

    mmd_limit: NonNegative = 0.05  # the largest MMD that costs nothing
    kernel_width: Positive = 50.0  # sigma
    pessimism: Fraction = 0.75  # lambda: weight of the lower head in the target
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 1e-4  # Adam, actor
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q and VAE
    multiplier_learning_rate: NonNegative = 1e-3  # Adam, log alpha
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    kernel: Literal["gaussian", "laplacian"] = eqx.field(static=True, default="gaussian")
    warmup_updates: Updates = eqx.field(static=True, default=40_000)  # with the MMD term alone
    mmd_samples: Count = eqx.field(static=True, default=4)
    next_actions: Count = eqx.field(static=True, default=10)
    candidates: Count = acting_field(100)  # when acting
    critic_network: Network = network_field()  # of Q
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256))  # Q and actor
    vae_hidden_sizes: Sizes = eqx.field(static=True, default=(750, 750))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> BEARState:
        """Fresh networks, alpha 1; the target starts as a copy."""
        vae_key, critic_key, actor_key = jax.random.split(key, 3)
        vae = ActionVAE(vae_key, spec, self.vae_hidden_sizes)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        critic = QEnsemble(critic_key, *sizes, activation=jax.nn.relu, layer_norm=False, network=self.critic_network)
        how = {"initialiser": torch_uniform, "mean_limit": MEAN_LIMIT, "network": self.actor_network}
        actor = GaussianActor(actor_key, *sizes, spec.max_action, **how)
        zero = jnp.zeros((), jnp.float32)
        moments = adam_init(vae), adam_init(critic), adam_init(actor), adam_init(zero)
        return BEARState(vae, critic, critic, actor, zero, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: BEARState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[BEARState, Metrics]:
        """VAE, critic, actor and multiplier, target."""
        vae_key, target_key, actor_key = jax.random.split(key, 3)
        grad = eqx.filter_value_and_grad(vae_loss)
        vae_value, gradients = grad(state.vae, batch.observation, batch.action, vae_key)
        vae, vae_optimiser = adam_step(state.vae, gradients, state.vae_optimiser, self.critic_learning_rate)
        state = state._replace(vae=vae, vae_optimiser=vae_optimiser)

        target = self.critic_target(state, batch, target_key)
        (q_loss, q), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(state.critic, batch, target)
        critic, optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.critic_learning_rate)
        state = state._replace(critic=critic, critic_optimiser=optimiser)

        q_weight = jnp.where(step >= self.warmup_updates, 1.0, 0.0)
        gradients, (distance, metrics) = eqx.filter_grad(self.actor_loss, has_aux=True)(
            state.actor, state, batch.observation, q_weight, actor_key
        )
        actor, actor_optimiser = adam_step(state.actor, gradients, state.actor_optimiser, self.learning_rate)
        slope = -jnp.exp(state.log_multiplier) * (distance - self.mmd_limit)
        log_multiplier, multiplier_optimiser = adam_step(
            state.log_multiplier, slope, state.multiplier_optimiser, self.multiplier_learning_rate
        )
        state = state._replace(
            actor=actor,
            actor_optimiser=actor_optimiser,
            log_multiplier=jnp.clip(log_multiplier, *LOG_MULTIPLIER_RANGE),
            multiplier_optimiser=multiplier_optimiser,
            target_critic=polyak(state.target_critic, critic, self.target_rate),
        )
        return state, {"critic/q_loss": q_loss, "critic/q": jnp.mean(q), "vae/loss": vae_value} | metrics

    def policy(self, state: BEARState) -> BestOfSamples:
        """The best of many actions of the policy by the first head."""
        return BestOfSamples(state.actor, state.critic, self.candidates, "first")

    def critic_target(self, state: BEARState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """y, from the best of several actions of the policy."""

        def row(observation: Array, key: PRNGKey) -> Scalar:
            actions = state.actor.sample(observation, key, self.next_actions)
            q = jax.vmap(state.target_critic, in_axes=(None, 0))(observation, actions)
            return aggregate_heads(q.T, "convex", self.pessimism).max()

        value = jax.vmap(row)(batch.next_observation, jax.random.split(key, len(batch.next_observation)))
        return td_target(batch.reward, self.discount, batch.terminal, value)

    def actor_loss(
        self,
        actor: GaussianActor,
        state: BEARState,
        observation: Float[Array, "batch observation"],
        q_weight: Scalar,
        key: PRNGKey,
    ) -> tuple[Scalar, tuple[Scalar, Metrics]]:
        """-q_weight E[min Q] + alpha (E[MMD] - limit) -> (it, (E[MMD], metrics))."""

        def row(observation: Array, key: PRNGKey) -> tuple[Scalar, Scalar]:
            latent_key, noise_key = jax.random.split(key)
            latents = state.vae.draw_latents(latent_key, self.mmd_samples)
            behaviour = jax.vmap(lambda z: state.vae.before_tanh(observation, z))(latents)
            law = actor(observation)
            noise = jax.random.normal(noise_key, (self.mmd_samples, law.mean.shape[0]), jnp.float32)
            own = jax.vmap(lambda n: law.mean + jnp.exp(law.log_std) * n)(noise)
            distance = mmd(behaviour, own, self.kernel, self.kernel_width)
            return distance, state.critic.least(observation, law.transform(noise[0]))

        distances, q = jax.vmap(row)(observation, jax.random.split(key, len(observation)))
        distance, multiplier = jnp.mean(distances), jnp.exp(state.log_multiplier)
        loss = multiplier * (distance - self.mmd_limit) - q_weight * jnp.mean(q)
        return loss, (distance, {"actor/loss": loss, "actor/mmd": distance, "actor/multiplier": multiplier})
