"""BDPO: Behavior-Regularized Diffusion Policy Optimization (Gao et al., ICML 2025, arXiv 2502.04778).

Maximise E[ sum_t gamma^t (r_t - eta sum_n l_n) ]: the KL to the behaviour, taken over whole denoising paths, where it
is a sum of Gaussian kernel KLs l_n = KL[ pi(a_{n-1}|a_n,s) || nu(a_{n-1}|a_n,s) ]. Its optimum is that of the ordinary
KL-regularised problem (Theorem 4.2). Two time scales, environment steps (Q) and diffusion steps (V_n, V_0 = Q):

    pretrain  nu by noise regression; then the actor starts as a copy of nu's average
    Q         y = r + gamma (1 - terminal) ( LCB_k( mean_M Qbar_k(s', a'_0) ) - eta mean_M sum_n l_n(s', a'_n) )
    V         y = LCB_k( mean_M Vbar_k(s, a_{n-1}, n-1) ) - eta l_n(s, a_n),   a_n noised from the data's action
    actor     maximise the same right-hand side, differentiated through one reparametrised reverse step

All targets use averaged networks. To act: 10 samples of the averaged actor, the best by the averaged Q.

Deviations. From the paper, following the authors' code:
  1. Kernels have variance beta_n in sampling and penalty (with the posterior's, step n = 1 costs infinity).
  2. Losses are means over the ensemble; every optimiser clips its gradient's global norm to 1.
  3. M = 10 samples in targets and actor loss; LayerNorm in V; orthogonal(sqrt 2) weights.
Where the code has changed since the paper appeared:
  4. `penalty_order` "discounted" is eq. 13, and the code's since November 2025; before it was "separate",
     r + gamma (1 - terminal) q - eta penalty.
  5. `behaviour_in_training` "fixed" is the paper's algorithm and the first code's; since May 2025 it is "continuing":
     nu is trained on.
  6. As the code now, not as its first release: averaged actor and Q act (before, the online ones), nu's rate is
     constant (it had a cosine), V's time embedding has a hidden layer of 128 (until February 2026 of 64).
From the code:
  7. The actor's rate follows the cosine of training, as the paper says, and reaches 0 with the last update; the code
     counts optimiser steps against 2M, of which a fifth happen, and ends at 0.91 of the rate. In the mean over a whole
     run it is 0.49 of the rate, theirs 0.97.
  8. Minibatches are drawn with replacement, not by passes over a permutation: a row has no part in 1/e of the passes.
  9. The noise networks' inputs are action, observation, time, and sines come before cosines; in the code action, time,
     observation, and cosines first. A renaming of random weights: the law of a fresh network is the same.
 10. LayerNorm in Q (AntMaze) adds 1e-5 to the variance, Flax 1e-6: with the same fresh weights that changes Q by 2e-5
     of its size. Q is part of the policy, and policies on disk shall act as they did. V's LayerNorm is Flax's.
 11. The heads' standard deviation is at least 1e-6 (`losses.py: aggregate_heads`). Where heads agree more closely the
     bound is lower by up to that times rho; without the floor the gradient of equal heads is NaN.
From both:
 12. In the losses of V and of the actor a minibatch has every diffusion step n equally often (up to one row, at
     random), where they draw n for each row. The expectation is the same; as it is known which rows have n = 1, Q is
     evaluated for them and V for the others, not both for all.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Network, Phase, acting_field, network_field
from tether.algorithms.ranges import Count, EmbeddingSize, Fraction, Interval, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import aggregate_heads, clip_actions, polyak, td_target
from tether.algorithms.shared.optimisers import adam_init, clipped_adam_step, decay_factor, update_when_due
from tether.diffusion import vp
from tether.errors import InputError
from tether.networks import DiffusionValueEnsemble, NoiseNetwork, QEnsemble, orthogonal
from tether.policies.acting import BestOfSamples
from tether.policies.samplers import NoiseSampler
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["BDPO", "BDPOState", "Critics", "q_loss"]


class Critics(NamedTuple):
    """Action value and diffusion values, equally many heads each."""

    q: QEnsemble
    value: DiffusionValueEnsemble


class BDPOState(NamedTuple):
    """Everything that training carries; array leaves only. Targets are Polyak averages."""

    critics: Critics
    target_critics: Critics
    behaviour: NoiseNetwork
    target_behaviour: NoiseNetwork
    actor: NoiseNetwork
    target_actor: NoiseNetwork
    q_optimiser: optax.OptState
    value_optimiser: optax.OptState
    behaviour_optimiser: optax.OptState
    actor_optimiser: optax.OptState


def q_loss(q: QEnsemble, batch: Transition, target: Float[Array, " batch"]) -> tuple[Scalar, Metrics]:
    """Mean over heads and batch of (Q_k(s, a) - y)^2."""
    values: Float[Array, "batch ensemble"] = jax.vmap(q)(batch.observation, batch.action)
    loss = jnp.mean((values - target[:, None]) ** 2)
    return loss, {"critic/q_loss": loss, "critic/q": jnp.mean(values), "critic/q_std": jnp.mean(values.std(axis=1))}


def value_loss(
    value: DiffusionValueEnsemble, observation: Array, diffused: vp.Diffused, target: Float[Array, " batch"]
) -> tuple[Scalar, Metrics]:
    """Mean over heads and batch of (V_k(s, a_n, n) - y)^2."""
    values = jax.vmap(value)(observation, diffused.noisy_action, diffused.step)
    loss = jnp.mean((values - target[:, None]) ** 2)
    return loss, {"critic/value_loss": loss, "critic/value": jnp.mean(values)}


def mean_values(
    critics: Critics,
    observation: Float[Array, "batch observation"],
    actions: Float[Array, "batch samples action"],
    step: Int[Array, " batch"],
    clean_rows: tuple[int, int],
) -> Float[Array, "batch ensemble"]:
    """mean_M V_n(s, a_n), where V_0 is Q.

    clean_rows: how many rows at the start have n = 0 for certain, and how many may have it. Q is evaluated for all that
    may, V for all but the certain ones, instead of both for all.
    """
    least, most = clean_rows

    def mean(ensemble: Callable, *columns: Array) -> Float[Array, "rows ensemble"]:
        of_samples = jax.vmap(ensemble, in_axes=(None, 0, *[None] * (len(columns) - 2)))
        return jax.vmap(of_samples)(*columns).mean(axis=1)

    q = mean(critics.q, observation[:most], actions[:most])
    value = mean(critics.value, observation[least:], actions[least:], step[least:])
    either = jnp.where(step[least:most, None] == 0, q[least:], value[: most - least])
    return jnp.concatenate([q[:least], either, value[most - least :]])


class BDPO(eqx.Module):
    """Hyper-parameters of BDPO; defaults are the paper's common ones for locomotion, eta and rho those of walker2d."""

    eta: NonNegative = 0.15  # weight of the path KL; smaller is greedier until it becomes unstable
    pessimism: NonNegative = 1.0  # rho of the lower confidence bound
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 1e-5  # Adam, actor
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q and V
    behaviour_learning_rate: NonNegative = 3e-4  # Adam, behaviour, constant
    target_rate: Fraction = 0.005  # Polyak step of all averages

    penalty_order: Literal["discounted", "separate"] = eqx.field(static=True, default="discounted")
    behaviour_in_training: Literal["fixed", "continuing"] = eqx.field(static=True, default="fixed")
    max_q_backup: bool = eqx.field(static=True, default=False)  # best instead of mean of the next actions (AntMaze)
    q_layer_norm: bool = eqx.field(static=True, default=False)  # on for AntMaze
    value_layer_norm: bool = eqx.field(static=True, default=True)  # off: sharper, can grow beyond where data are dense
    bootstrap: bool = eqx.field(static=True, default=True)  # False: one-step problems, the target is the reward alone
    cosine_decay: bool = eqx.field(static=True, default=True)  # actor's and critics' rates fall to 0
    decay_updates: Interval | None = eqx.field(static=True, default=None)  # horizon of the decay; None: train_updates
    actor_warmup_updates: Updates = eqx.field(static=True, default=50_000)  # critics alone at first
    actor_update_interval: Interval = eqx.field(static=True, default=5)
    clip_denoised: bool = eqx.field(static=True, default=True)  # clip the clean action while sampling
    diffusion_steps: Count = eqx.field(static=True, default=5)  # N
    ensemble_size: Count = eqx.field(static=True, default=10)  # K, of Q and of V
    samples: Count = eqx.field(static=True, default=10)  # M, in targets and actor loss
    candidates: Count = acting_field(10)  # samples when acting
    critic_network: Network = network_field(scalar=True)  # of Q and V
    actor_network: Network = network_field(scalar=True)  # the behaviour, too
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))  # critics
    noise_hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256, 256))
    time_embedding_size: EmbeddingSize = eqx.field(static=True, default=64)
    pretrain_updates: Updates = eqx.field(static=True, default=2_000_000)
    train_updates: Updates = eqx.field(static=True, default=2_000_000)

    def __check_init__(self):
        check_ranges(self)
        if not self.bootstrap and self.penalty_order == "separate":
            raise InputError("bootstrap=False leaves out the chain whose penalty penalty_order 'separate' charges")

    def init(self, spec: Spec, key: PRNGKey) -> BDPOState:
        """Fresh networks; averages and actor start as copies."""
        q_key, value_key, behaviour_key = jax.random.split(key, 3)
        initialiser, size = orthogonal(2.0**0.5), self.time_embedding_size
        critics = Critics(
            QEnsemble(
                q_key,
                spec.observation_size,
                spec.action_size,
                self.hidden_sizes,
                ensemble_size=self.ensemble_size,
                layer_norm=self.q_layer_norm,
                initialiser=initialiser,
                network=self.critic_network,
            ),
            DiffusionValueEnsemble(
                value_key,
                spec.observation_size,
                spec.action_size,
                self.hidden_sizes,
                ensemble_size=self.ensemble_size,
                time_features=size,
                initialiser=initialiser,
                layer_norm=self.value_layer_norm,
                network=self.critic_network,
            ),
        )
        behaviour = NoiseNetwork(
            behaviour_key,
            spec,
            self.noise_hidden_sizes,
            time_features=size,
            time_sizes=(size, size),
            activate_time=True,
            initialiser=initialiser,
            network=self.actor_network,
        )
        moments = adam_init(critics.q), adam_init(critics.value), adam_init(behaviour), adam_init(behaviour)
        return BDPOState(critics, critics, behaviour, behaviour, behaviour, behaviour, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """The behaviour, then everything else."""
        return (
            Phase("pretrain", self.pretrain_updates, self.pretrain_update, reads_rewards=False, gives_policy=True),
            Phase("train", self.train_updates, self.update),
        )

    def pretrain_update(
        self, state: BDPOState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[BDPOState, Metrics]:
        """Noise regression on the data. The actor goes along: a run may end here, its policy being the behaviour."""
        state, metrics = self._update_behaviour(state, clip_actions(batch, state.actor.max_action), key)
        return _start_actor(state), metrics

    def update(
        self, state: BDPOState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[BDPOState, Metrics]:
        """Critics and their averages every time; then, at its interval after the warm-up, the actor."""
        q_key, value_key, actor_key, behaviour_key = jax.random.split(key, 4)
        batch = clip_actions(batch, state.actor.max_action)
        state = jax.lax.cond(step == 0, _start_actor, lambda s: s, state)
        rate_factor = decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)
        state, q_metrics = self._update_q(state, batch, q_key, rate_factor)
        state, value_metrics = self._update_value(state, batch, value_key, rate_factor)
        state = state._replace(target_critics=polyak(state.target_critics, state.critics, self.target_rate))

        def with_actor(state: BDPOState) -> tuple[BDPOState, Metrics]:
            state, metrics = self._update_actor(state, batch, actor_key, rate_factor)
            if self.behaviour_in_training == "continuing":
                state = self._update_behaviour(state, batch, behaviour_key)[0]
            return state, metrics

        warmup, interval = self.actor_warmup_updates, self.actor_update_interval
        state, actor_metrics = update_when_due(with_actor, state, step, warmup, interval)
        return state, q_metrics | value_metrics | actor_metrics

    def policy(self, state: BDPOState) -> BestOfSamples:
        """The averaged actor with the averaged ensemble as judge."""
        sampler = NoiseSampler(state.target_actor, self.diffusion_steps, self.clip_denoised)
        return BestOfSamples(sampler, state.target_critics.q, self.candidates)

    # --- targets ---

    def q_target(self, state: BDPOState, batch: Transition, key: PRNGKey) -> tuple[Float[Array, " batch"], Scalar]:
        """y_Q (eq. 13) and the mean path penalty, from M chains of the averaged actor per next state."""
        if not self.bootstrap:
            nothing = jnp.zeros_like(batch.reward)
            return td_target(batch.reward, self.discount, batch.terminal, nothing), jnp.zeros((), jnp.float32)
        schedule, bound = self._schedule(), self._bound(state)
        steps = jnp.arange(schedule.steps, 0, -1, jnp.int32)

        def chain(observation: Array, key: PRNGKey) -> tuple[Float[Array, " ensemble"], Scalar]:
            actor = state.target_actor
            path = vp.sample_path(schedule, actor, observation, key, actor.action_size, bound)
            behaviour = jax.vmap(lambda a, n: state.target_behaviour(a, observation, n))(path.noisy_actions, steps)
            kls = jax.vmap(lambda n, e, b: vp.kernel_kl(schedule, n, e, b))(steps, path.predicted_noises, behaviour)
            return state.target_critics.q(observation, path.action), kls.sum()

        def row(observation: Array, key: PRNGKey) -> tuple[Float[Array, " ensemble"], Scalar]:
            q, penalty = jax.vmap(chain, in_axes=(None, 0))(observation, jax.random.split(key, self.samples))
            return (q.max(axis=0) if self.max_q_backup else q.mean(axis=0)), penalty.mean()

        keys = jax.random.split(key, batch.reward.shape[0])
        q, penalty = jax.vmap(row)(batch.next_observation, keys)
        value = aggregate_heads(q.T, "lcb", self.pessimism)
        if self.penalty_order == "discounted":
            target = td_target(batch.reward, self.discount, batch.terminal, value - self.eta * penalty)
        else:
            target = td_target(batch.reward, self.discount, batch.terminal, value) - self.eta * penalty
        return target, jnp.mean(penalty)

    def one_step_value(
        self,
        actor: NoiseNetwork,
        state: BDPOState,
        observation: Array,
        diffused: vp.Diffused,
        key: PRNGKey,
        evenly: bool = False,
    ) -> tuple[Float[Array, " batch"], Scalar]:
        """LCB( mean_M V_{n-1}(s, a_{n-1}) ) - eta l_n(s, a_n) after one reverse step of `actor` -> (it, mean l_n).

        The target of V_n with the averaged actor, the actor's objective with the online one (eqs. 14 and 15):
        differentiable in `actor` through the step and the penalty. evenly: the steps are those of `vp.diffuse_evenly`.
        """
        schedule, bound = self._schedule(), self._bound(state)

        def row(observation: Array, noisy_action: Array, step: Array, key: PRNGKey) -> tuple[Array, Scalar]:
            predicted = actor(noisy_action, observation, step)
            penalty = vp.kernel_kl(schedule, step, predicted, state.target_behaviour(noisy_action, observation, step))
            noises = jax.random.normal(key, (self.samples, *noisy_action.shape), noisy_action.dtype)
            reverse = jax.vmap(lambda z: vp.reverse_step(schedule, noisy_action, step, predicted, z, bound))
            return reverse(noises), penalty

        rows = len(observation)
        keys = jax.random.split(key, rows)
        following, penalty = jax.vmap(row)(observation, diffused.noisy_action, diffused.step, keys)
        clean_rows = (rows // schedule.steps, -(-rows // schedule.steps)) if evenly else (0, rows)
        values = mean_values(state.target_critics, observation, following, diffused.step - 1, clean_rows)
        return aggregate_heads(values.T, "lcb", self.pessimism) - self.eta * penalty, jnp.mean(penalty)

    def actor_loss(
        self,
        actor: NoiseNetwork,
        state: BDPOState,
        observation: Array,
        diffused: vp.Diffused,
        key: PRNGKey,
        evenly: bool = False,
    ) -> tuple[Scalar, Metrics]:
        """Minus the mean one-step value of the online actor."""
        value, penalty = self.one_step_value(actor, state, observation, diffused, key, evenly)
        loss = -jnp.mean(value)
        return loss, {"actor/loss": loss, "actor/step_kl": penalty}

    # --- updates ---

    def _update_q(
        self, state: BDPOState, batch: Transition, key: PRNGKey, rate_factor: float | Scalar
    ) -> tuple[BDPOState, Metrics]:
        target, penalty = self.q_target(state, batch, key)
        gradients, metrics = eqx.filter_grad(q_loss, has_aux=True)(state.critics.q, batch, target)
        rate = self.critic_learning_rate * rate_factor
        q, optimiser = clipped_adam_step(state.critics.q, gradients, state.q_optimiser, rate)
        state = state._replace(critics=state.critics._replace(q=q), q_optimiser=optimiser)
        return state, metrics | {"critic/path_kl": penalty}

    def _update_value(
        self, state: BDPOState, batch: Transition, key: PRNGKey, rate_factor: float | Scalar
    ) -> tuple[BDPOState, Metrics]:
        noise_key, step_key = jax.random.split(key)
        diffused = vp.diffuse_evenly(self._schedule(), batch.action, noise_key)
        target, _ = self.one_step_value(state.target_actor, state, batch.observation, diffused, step_key, evenly=True)
        gradients, metrics = eqx.filter_grad(value_loss, has_aux=True)(
            state.critics.value, batch.observation, diffused, target
        )
        rate = self.critic_learning_rate * rate_factor
        value, optimiser = clipped_adam_step(state.critics.value, gradients, state.value_optimiser, rate)
        return state._replace(critics=state.critics._replace(value=value), value_optimiser=optimiser), metrics

    def _update_actor(
        self, state: BDPOState, batch: Transition, key: PRNGKey, rate_factor: float | Scalar
    ) -> tuple[BDPOState, Metrics]:
        noise_key, step_key = jax.random.split(key)
        diffused = vp.diffuse_evenly(self._schedule(), batch.action, noise_key)
        loss = eqx.filter_grad(self.actor_loss, has_aux=True)
        gradients, metrics = loss(state.actor, state, batch.observation, diffused, step_key, evenly=True)
        rate = self.learning_rate * rate_factor
        actor, optimiser = clipped_adam_step(state.actor, gradients, state.actor_optimiser, rate)
        target_actor = polyak(state.target_actor, actor, self.target_rate)
        return state._replace(actor=actor, actor_optimiser=optimiser, target_actor=target_actor), metrics

    def _update_behaviour(self, state: BDPOState, batch: Transition, key: PRNGKey) -> tuple[BDPOState, Metrics]:
        diffused = vp.diffuse(self._schedule(), batch.action, key)
        loss, gradients = eqx.filter_value_and_grad(vp.noise_loss)(state.behaviour, batch.observation, diffused)
        rate = self.behaviour_learning_rate
        behaviour, optimiser = clipped_adam_step(state.behaviour, gradients, state.behaviour_optimiser, rate)
        target_behaviour = polyak(state.target_behaviour, behaviour, self.target_rate)
        state = state._replace(behaviour=behaviour, behaviour_optimiser=optimiser, target_behaviour=target_behaviour)
        return state, {"behaviour/loss": loss}

    def _schedule(self) -> vp.VP:
        return vp.vp_schedule(self.diffusion_steps)

    def _bound(self, state: BDPOState) -> float | None:
        return state.actor.max_action if self.clip_denoised else None


def _start_actor(state: BDPOState) -> BDPOState:
    """The hand-over after pretraining: actor and its average become the behaviour's average."""
    return state._replace(actor=state.target_behaviour, target_actor=state.target_behaviour)
