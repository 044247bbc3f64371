"""DAC: Diffusion Actor-Critic (Fang et al., ICLR 2025, arXiv 2405.20555).

KL-constrained policy iteration: pi_{k+1} = argmax E[Q] subject to KL(pi || behaviour) <= bound. Its solution
behaviour * exp(Q / eta) has a score that is the behaviour's plus the gradient of Q, so it is learned as a diffusion
model by noise regression (paper Theorem 2), without a behaviour model of its own:

    critic   y = r + gamma (1 - terminal) LCB_h( mean_j Qbar_h(s', a'_j) ),  a'_j from the averaged actor
             L_Q = mean_h E[ (Q_h(s,a) - y)^2 ]
    actor    L_pi = eta E[ (eps(x_t, s, t) - eps)^2 ] + E[ sigma_t < grad_x Q(s, x_t)/C, eps(x_t, s, t) > ]
             x_t = sqrt(abar_t) a + sigma_t eps;  C = E|Qbar|, eta fixed or by dual ascent on the noise error

The guidance is "soft": sigma_t fades it out towards the clean action, so samples stay on the data. "hard" leaves
sigma_t out; "denoised" back-propagates Q through the whole chain (Diffusion-QL). To act: 10 samples, the best by Q.

Deviations. From the paper, following the authors' code:
  1. Norms are means over action coordinates; Theorem 2's eta is twice the eta of this loss.
  2. 10 next actions per state instead of one, averaged (or maximised) per head before the LCB.
  3. eta moves by 0.001 times the noise error minus the bound, clipped to ±1. The error is the actor's before its step.
From the code:
  4. Minibatches are drawn with replacement, not by passes over a permutation: a row has no part in 1/e of the passes.
  5. The noise network's inputs are action, observation, time, and sines come before cosines; in the code observation,
     action, time, and cosines first. A renaming of random weights: the law of a fresh network is the same.
  6. "denoised" clips its chain only where sampling does (`clip_denoised`); the code always clips it.
  7. The heads' standard deviation is at least 1e-6 (`losses.py: aggregate_heads`). Where heads agree more closely y is
     lower by that times rho; without the floor the gradient of equal heads is NaN.
"""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Network, Phase, acting_field, network_field
from tether.algorithms.ranges import Count, EmbeddingSize, Fraction, Interval, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import aggregate_heads, average_when_due, clip_actions, polyak, q_errors, td_target
from tether.algorithms.shared.optimisers import adam_init, clipped_adam_step, decay_factor
from tether.diffusion import vp
from tether.networks import NoiseNetwork, QEnsemble, glorot_uniform
from tether.policies.acting import BestOfSamples
from tether.policies.samplers import NoiseSampler, ancestral_sampler
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["DAC", "DACState"]

FIRST_AVERAGE, AVERAGE_INTERVAL = 1005, 5  # updates of the actor's average
ETA_RANGE = (1e-3, 100.0)


class DACState(NamedTuple):
    """Everything that training carries; array leaves only."""

    critic: QEnsemble
    target_critic: QEnsemble  # Polyak average, read by targets, guidance and policy
    actor: NoiseNetwork
    target_actor: NoiseNetwork  # Polyak average, read by critic targets only
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState
    eta: Scalar  # the multiplier of the behaviour constraint


def critic_loss(critic: QEnsemble, batch: Transition, target: Float[Array, " batch"]) -> tuple[Scalar, Metrics]:
    """mean over heads and batch of (Q_h(s, a) - y)^2."""
    errors, q = q_errors(critic, batch, target)
    loss = jnp.mean(errors)
    return loss, {"critic/loss": loss, "critic/q": jnp.mean(q), "critic/q_std": jnp.mean(q.std(axis=1))}


def guided_loss(
    actor: vp.NoisePredictor,
    observation: Float[Array, "batch observation"],
    diffused: vp.Diffused,
    guidance: Float[Array, "batch action"],
    eta: Scalar,
) -> tuple[Scalar, Metrics]:
    """eta E[(eps_theta - eps)^2] + E[<guidance, eps_theta>], expectations over coordinates, too (paper eq. 14).

    Pointwise minimum: eps_theta = E[eps | x_t, s] - guidance / (2 eta).
    """
    predicted = jax.vmap(actor)(diffused.noisy_action, observation, diffused.step)
    noise_error = jnp.mean((predicted - diffused.noise) ** 2)
    pull = jnp.mean(guidance * predicted)
    return eta * noise_error + pull, {"actor/noise_error": noise_error, "actor/guidance": pull}


class DAC(eqx.Module):
    """Hyper-parameters of DAC; defaults are the paper's for locomotion."""

    noise_bound: NonNegative = 1.0  # b, allowed noise error per coordinate; 1 is loose, 0.05 nearly imitation
    pessimism: NonNegative = 1.0  # rho of the lower confidence bound
    eta_init: NonNegative = 1.0  # first multiplier of the behaviour term; large imitates, small is greedy
    eta_learning_rate: NonNegative = 1e-3  # of dual ascent; 0 keeps eta fixed (AntMaze)
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, actor
    critic_learning_rate: NonNegative = 3e-4  # Adam, critics
    target_rate: Fraction = 0.005  # Polyak step of critic and actor averages

    guidance: Literal["soft", "hard", "denoised"] = eqx.field(static=True, default="soft")
    head_aggregation: Literal["lcb", "min", "convex"] = eqx.field(static=True, default="lcb")
    max_q_backup: bool = eqx.field(static=True, default=False)  # best instead of mean of the next actions (AntMaze)
    bootstrap: bool = eqx.field(static=True, default=True)  # False: one-step problems, the target is the reward alone
    cosine_decay: bool = eqx.field(static=True, default=True)  # both rates fall to 0 over training
    decay_updates: Interval | None = eqx.field(static=True, default=None)  # horizon of the decay; None: train_updates
    clip_denoised: bool = eqx.field(static=True, default=True)  # clip the clean action while sampling
    diffusion_steps: Count = eqx.field(static=True, default=5)  # T
    ensemble_size: Count = eqx.field(static=True, default=10)  # H
    next_actions: Count = eqx.field(static=True, default=10)  # samples per next state in the critic's target
    candidates: Count = acting_field(10)  # samples when acting
    critic_network: Network = network_field()  # of Q
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))
    time_embedding_size: EmbeddingSize = eqx.field(static=True, default=16)
    train_updates: Updates = eqx.field(static=True, default=2_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> DACState:
        """Fresh networks; averages start as copies."""
        critic_key, actor_key = jax.random.split(key)
        critic = QEnsemble(
            critic_key,
            spec.observation_size,
            spec.action_size,
            self.hidden_sizes,
            ensemble_size=self.ensemble_size,
            layer_norm=False,
            initialiser=glorot_uniform,
            network=self.critic_network,
        )
        size = self.time_embedding_size
        actor = NoiseNetwork(
            actor_key,
            spec,
            self.hidden_sizes,
            time_features=size,
            time_sizes=(2 * size, 2 * size),
            activate_time=False,
            initialiser=glorot_uniform,
            network=self.actor_network,
        )
        eta = jnp.asarray(self.eta_init, jnp.float32)
        return DACState(critic, critic, actor, actor, adam_init(critic), adam_init(actor), eta)

    def phases(self) -> tuple[Phase, ...]:
        """One: nothing is pretrained."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: DACState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[DACState, Metrics]:
        """Critic, then actor against the moved targets, then eta and the actor's average."""
        critic_key, actor_key = jax.random.split(key)
        batch = clip_actions(batch, state.actor.max_action)
        rate_factor = decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)
        state, critic_metrics = self._update_critic(state, batch, critic_key, rate_factor)
        state, actor_metrics = self._update_actor(state, batch, actor_key, rate_factor)
        target_actor = average_when_due(
            state.target_actor, state.actor, self.target_rate, step, FIRST_AVERAGE, AVERAGE_INTERVAL
        )
        return state._replace(target_actor=target_actor), critic_metrics | actor_metrics

    def policy(self, state: DACState) -> BestOfSamples:
        """The online actor with the target ensemble as judge."""
        sampler = NoiseSampler(state.actor, self.diffusion_steps, self.clip_denoised)
        return BestOfSamples(sampler, state.target_critic, self.candidates)

    def critic_target(self, state: DACState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """y: 10 next actions, reduced per head first, then over heads; no gradient."""
        if not self.bootstrap:
            return td_target(batch.reward, self.discount, batch.terminal, jnp.zeros_like(batch.reward))
        draw = ancestral_sampler(vp.vp_schedule(self.diffusion_steps), self.clip_denoised)

        def next_value(observation: Array, key: PRNGKey) -> Float[Array, " ensemble"]:
            keys = jax.random.split(key, self.next_actions)
            actions = jax.vmap(draw, in_axes=(None, None, 0))(state.target_actor, observation, keys)
            q = jax.vmap(state.target_critic, in_axes=(None, 0))(observation, actions)  # [next_actions, ensemble]
            return q.max(axis=0) if self.max_q_backup else q.mean(axis=0)

        keys = jax.random.split(key, batch.reward.shape[0])
        values: Float[Array, "batch ensemble"] = jax.vmap(next_value)(batch.next_observation, keys)
        value = aggregate_heads(values.T, self.head_aggregation, self.pessimism)
        return td_target(batch.reward, self.discount, batch.terminal, value)

    def guidance_field(
        self, target_critic: QEnsemble, batch: Transition, diffused: vp.Diffused
    ) -> tuple[Float[Array, "batch action"], Scalar]:
        """Gradient of the heads' mean at the *noisy* action over C, C = mean |Q| at the data -> (g, C).

        Soft guidance is multiplied by sigma_t, hard is not.
        """
        q: Float[Array, "batch ensemble"] = jax.vmap(target_critic)(batch.observation, batch.action)
        scale = jnp.mean(jnp.abs(q)) + 1e-6
        slope = jax.grad(lambda action, observation: target_critic(observation, action).mean())
        field = jax.vmap(slope)(diffused.noisy_action, batch.observation) / scale
        if self.guidance == "soft":
            alpha_bar = jnp.asarray(vp.vp_schedule(self.diffusion_steps).alpha_bar)
            field = jnp.sqrt(1.0 - alpha_bar[diffused.step])[:, None] * field
        return field, scale

    def _update_critic(
        self, state: DACState, batch: Transition, key: PRNGKey, rate_factor: float | Scalar
    ) -> tuple[DACState, Metrics]:
        target = self.critic_target(state, batch, key)
        gradients, metrics = eqx.filter_grad(critic_loss, has_aux=True)(state.critic, batch, target)
        rate = self.critic_learning_rate * rate_factor
        critic, critic_optimiser = clipped_adam_step(state.critic, gradients, state.critic_optimiser, rate)
        target_critic = polyak(state.target_critic, critic, self.target_rate)
        state = state._replace(critic=critic, critic_optimiser=critic_optimiser, target_critic=target_critic)
        return state, metrics | {"critic/target": jnp.mean(target)}

    def _update_actor(
        self, state: DACState, batch: Transition, key: PRNGKey, rate_factor: float | Scalar
    ) -> tuple[DACState, Metrics]:
        noise_key, chain_key = jax.random.split(key)
        diffused = vp.diffuse(vp.vp_schedule(self.diffusion_steps), batch.action, noise_key)
        if self.guidance == "denoised":
            loss = eqx.filter_grad(self.denoised_loss, has_aux=True)
            gradients, metrics = loss(state.actor, state.target_critic, batch, diffused, state.eta, chain_key)
        else:
            field, _ = self.guidance_field(state.target_critic, batch, diffused)
            loss = eqx.filter_grad(guided_loss, has_aux=True)
            gradients, metrics = loss(state.actor, batch.observation, diffused, field, state.eta)
        rate = self.learning_rate * rate_factor
        actor, actor_optimiser = clipped_adam_step(state.actor, gradients, state.actor_optimiser, rate)
        # Dual ascent on the constraint noise error <= b (deviation 3).
        excess = jnp.clip(metrics["actor/noise_error"] - self.noise_bound, -1.0, 1.0)
        eta = jnp.where(
            self.eta_learning_rate > 0,
            jnp.clip(state.eta + self.eta_learning_rate * excess, *ETA_RANGE),
            state.eta,
        )
        state = state._replace(actor=actor, actor_optimiser=actor_optimiser, eta=eta)
        return state, metrics | {"actor/eta": eta}

    def denoised_loss(
        self,
        actor: NoiseNetwork,
        target_critic: QEnsemble,
        batch: Transition,
        diffused: vp.Diffused,
        eta: Scalar,
        key: PRNGKey,
    ) -> tuple[Scalar, Metrics]:
        """eta E[(eps_theta - eps)^2] - E[Q(s, a_theta)]/C, a_theta through the whole chain (Diffusion-QL)."""
        draw = ancestral_sampler(vp.vp_schedule(self.diffusion_steps), self.clip_denoised)
        action = jax.vmap(draw, in_axes=(None, 0, 0))(
            actor, batch.observation, jax.random.split(key, batch.reward.shape[0])
        )
        q = jnp.mean(jax.vmap(target_critic)(batch.observation, action))
        scale = jnp.mean(jnp.abs(jax.vmap(target_critic)(batch.observation, batch.action))) + 1e-6
        noise_error = vp.noise_loss(actor, batch.observation, diffused)
        return eta * noise_error - q / scale, {"actor/noise_error": noise_error, "actor/guidance": -q / scale}
