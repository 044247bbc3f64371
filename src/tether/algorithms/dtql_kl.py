"""DTQL-KL: DTQL's KL-distillation variant (Chen, Wang and Zhou 2024, arXiv 2405.19690, Algorithm 2).

The comparison that the paper draws for its trust region. Critic and denoiser are DTQL's. The policy is a noise-fed
network, held to the behaviour by the KL divergence of their noised laws, whose gradient needs both scores: the
behaviour's from the denoiser D_phi, the policy's own from a second, "fake" denoiser D_xi trained on policy actions.

    policy    L_pi = alpha L_KL - E[ min_i Q_i(s, a_theta) ],          a_theta = F_theta(2.5 noise, s, 2.5)
              L_KL = 1/2 E[ (a_theta - sg[a_theta - g])^2 ],           so that the gradient on a_theta is g
              g = (D_xi(a_sigma) - D_phi(a_sigma)) / mean_coordinates |a_theta - D_phi(a_sigma)|
    fake      L_BC of D_xi on sg[a_theta]

The trust region seeks a mode; this KL covers them all (docs/gallery).

Deviations. From the paper, following the authors' code: DTQL's 1 to 7 but 6 (no likelihood here), and its 9;
  1. The weight of the score difference is sigma^2 A / |D_phi - a_theta|_1, as in distribution matching distillation.
  2. Policy and fake denoiser start as copies of the denoiser when training begins; the paper's 2-D runs start from
     random weights (`start_from_denoiser`).
From the code:
  3. The weight's denominator has 1e-8 added: it can be zero.
  4. To act, the raw output is clipped to the action box, before Q ranks it.
  5. `q_normalization` as in DTQL (its deviation 8). kl_weight 1 beside a normalised Q is ours: no number is published.
  6. `fake_updates` above 1 lets the fake denoiser keep up with the policy (as DMD2 does,
     arXiv 2405.14867); the default 1 is Algorithm 2. Tight coverage of many modes needs more (docs/gallery).
"""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.dtql import Critic, DTQLPolicy, q_term, update_behaviour
from tether.algorithms.interface import Hyperparameter, Network, Phase, acting_field, network_field
from tether.algorithms.ranges import (
    Count,
    Depth,
    EmbeddingSize,
    Fraction,
    Interval,
    NonNegative,
    Positive,
    Sizes,
    Updates,
    check_ranges,
)
from tether.algorithms.shared.losses import polyak
from tether.algorithms.shared.optimisers import adam_init, adam_step, decay_factor
from tether.diffusion import edm
from tether.errors import InputError
from tether.networks import Denoiser, ImplicitActor, QEnsemble, ValueNetwork
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["DTQLKL", "DTQLKLState", "distillation_gradient"]

WEIGHT_FLOOR = 1e-8  # deviation 3


class DTQLKLState(NamedTuple):
    """Everything that training carries; array leaves only."""

    critic: Critic
    target_q: QEnsemble  # Polyak average of critic.q, read only when acting
    denoiser: Denoiser  # D_phi, of the data's actions
    fake_denoiser: Denoiser  # D_xi, of the policy's
    actor: ImplicitActor
    critic_optimiser: optax.OptState
    denoiser_optimiser: optax.OptState
    fake_optimiser: optax.OptState
    actor_optimiser: optax.OptState


def distillation_gradient(
    action: Float[Array, "batch action"], real: Float[Array, "batch action"], fake: Float[Array, "batch action"]
) -> Float[Array, "batch action"]:
    """g: the weighted difference of the two denoised actions, per row."""
    weight = jnp.mean(jnp.abs(action - real), axis=1, keepdims=True) + WEIGHT_FLOOR
    return (fake - real) / weight


def distillation_loss(action: Float[Array, "batch action"], gradient: Float[Array, "batch action"]) -> Scalar:
    """L_KL: its value is that of g squared, its gradient on the action g / (batch action)."""
    target = jax.lax.stop_gradient(action - gradient)
    return 0.5 * jnp.mean((action - target) ** 2)


class DTQLKL(eqx.Module):
    """Hyper-parameters of DTQL-KL; defaults as DTQL's."""

    kl_weight: NonNegative = 1.0  # alpha, weight of L_KL against Q; ours for "mean-abs"
    expectile: Fraction = 0.7  # tau of the value regression
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, both denoisers and policy
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q and V
    target_rate: Fraction = 0.005  # Polyak step of the target heads, each update
    sigma_data: Positive = 0.5  # EDM: standard deviation assumed of the actions
    sigma_min: Positive = 0.002  # EDM: smallest noise level
    sigma_max: Positive = 80.0  # EDM: largest noise level

    q_normalization: Literal["none", "mean-abs"] = eqx.field(static=True, default="mean-abs")
    start_from_denoiser: bool = eqx.field(static=True, default=True)  # deviation 2
    fake_updates: Depth = eqx.field(static=True, default=1)  # of the fake denoiser per policy update; deviation 6
    cosine_decay: bool = eqx.field(static=True, default=False)  # all rates fall to 0 over the train phase
    decay_updates: Interval | None = eqx.field(static=True, default=None)  # horizon of the decay; None: train_updates
    clip_denoised: bool = eqx.field(static=True, default=True)  # clamp both D to the action box
    candidates: Count = acting_field(1024)  # actions drawn when acting
    critic_network: Network = network_field()  # of Q and V
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))  # critic
    denoiser_hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))  # policy, too
    time_embedding_size: EmbeddingSize = eqx.field(static=True, default=16)
    pretrain_updates: Updates = eqx.field(static=True, default=50_000)
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)
        if self.start_from_denoiser and self.actor_network != "mlp" and not self._fits_denoiser():
            raise InputError(
                f"actor_network {self.actor_network!r}: the policy starts as a copy of the denoiser, whose network is "
                "of another kind; start_from_denoiser=False lets it start from weights of its own"
            )

    def init(self, spec: Spec, key: PRNGKey) -> DTQLKLState:
        """Fresh networks and zero moments; the target heads start as a copy of the online ones."""
        q_key, value_key, denoiser_key, fake_key, actor_key = jax.random.split(key, 5)
        observation_size, action_size, max_action = spec
        critic = Critic(
            QEnsemble(q_key, observation_size, action_size, self.hidden_sizes, network=self.critic_network),
            ValueNetwork(value_key, observation_size, self.hidden_sizes, network=self.critic_network),
        )
        sizes = observation_size, action_size, self.denoiser_hidden_sizes
        denoiser = Denoiser(denoiser_key, *sizes, self.time_embedding_size)
        fake_denoiser = Denoiser(fake_key, *sizes, self.time_embedding_size)
        actor = ImplicitActor(actor_key, *sizes, max_action, self.time_embedding_size, network=self.actor_network)
        moments = (adam_init(network) for network in (critic, denoiser, fake_denoiser, actor))
        return DTQLKLState(critic, critic.q, denoiser, fake_denoiser, actor, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """Pretraining fits behaviour and critic; training adds the policy and its denoiser."""
        return (
            Phase("pretrain", self.pretrain_updates, self.pretrain_update),
            Phase("train", self.train_updates, self.update),
        )

    def pretrain_update(
        self, state: DTQLKLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[DTQLKLState, Metrics]:
        """Critic and denoiser only, at constant learning rates; the rest stays."""
        return self._update_behaviour(state, batch, key, rate_factor=1.0)

    def update(
        self, state: DTQLKLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[DTQLKLState, Metrics]:
        """One iteration of Algorithm 2: critic, denoiser, policy, fake denoiser, then the targets."""
        behaviour_key, actor_key, fake_key = jax.random.split(key, 3)
        if self.start_from_denoiser:
            state = jax.lax.cond(step == 0, _start_from_denoiser, lambda s: s, state)
        rate_factor = decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)
        rate = self.learning_rate * rate_factor
        state, metrics = self._update_behaviour(state, batch, behaviour_key, rate_factor)

        loss = eqx.filter_grad(self.actor_loss, has_aux=True)
        gradients, (action, actor_metrics) = loss(state.actor, state, batch.observation, actor_key)
        actor, actor_optimiser = adam_step(state.actor, gradients, state.actor_optimiser, rate)

        # The same actions that moved the policy: Algorithm 2 draws them once.
        state, fake_loss = self._update_fake(state, action, batch.observation, fake_key, rate)
        target_q = polyak(state.target_q, state.critic.q, self.target_rate)
        state = state._replace(actor=actor, actor_optimiser=actor_optimiser, target_q=target_q)
        return state, metrics | actor_metrics | {"fake_denoiser/loss": fake_loss}

    def policy(self, state: DTQLKLState) -> DTQLPolicy:
        """The actor with the target heads as judge."""
        return DTQLPolicy(state.actor, state.target_q, self.candidates)

    def actor_loss(
        self, actor: ImplicitActor, state: DTQLKLState, observation: Float[Array, "batch observation"], key: PRNGKey
    ) -> tuple[Scalar, tuple[Float[Array, "batch action"], Metrics]]:
        """alpha L_KL - Q -> (it, (the policy's actions, metrics)). The same action enters both."""
        action_key, sigma_key, noise_key = jax.random.split(key, 3)
        noise = jax.random.normal(action_key, (len(observation), actor.action_size), jnp.float32)
        action: Float[Array, "batch action"] = jax.vmap(actor)(observation, noise)
        gradient = self.score_difference(jax.lax.stop_gradient(action), state, observation, sigma_key, noise_key)
        distillation = distillation_loss(action, gradient)
        q: Float[Array, " batch"] = jax.vmap(state.critic.q.least)(observation, action)
        loss = self.kl_weight * distillation - q_term(q, self.q_normalization)
        metrics = {"actor/loss": loss, "actor/kl_loss": distillation, "actor/q": jnp.mean(q)}
        return loss, (jax.lax.stop_gradient(action), metrics)

    def score_difference(
        self,
        action: Float[Array, "batch action"],
        state: DTQLKLState,
        observation: Float[Array, "batch observation"],
        sigma_key: PRNGKey,
        noise_key: PRNGKey,
    ) -> Float[Array, "batch action"]:
        """g at `action`, one noise level and one noise per row, shared by the two denoisers."""
        schedule, bound = self._schedule(), self._bound(state)
        sigma = edm.sample_sigma(schedule, sigma_key, len(action))
        noisy = action + sigma[:, None] * jax.random.normal(noise_key, action.shape, action.dtype)

        def denoised(network: Denoiser) -> Float[Array, "batch action"]:
            return jax.vmap(lambda a, level, s: edm.denoise(schedule, network, a, level, s, bound))(
                noisy, sigma, observation
            )

        return distillation_gradient(action, denoised(state.denoiser), denoised(state.fake_denoiser))

    def fake_loss(
        self, fake_denoiser: Denoiser, action: Array, observation: Array, key: PRNGKey, bound: float | None
    ) -> Scalar:
        """L_BC of the fake denoiser on the policy's actions."""
        return edm.denoising_loss(self._schedule(), fake_denoiser, action, observation, key, bound)

    def _update_fake(
        self, state: DTQLKLState, action: Array, observation: Array, key: PRNGKey, rate: Hyperparameter
    ) -> tuple[DTQLKLState, Scalar]:
        """`fake_updates` steps of the fake denoiser on the policy's actions, noised anew in each -> (it, mean loss)."""

        def one(state: DTQLKLState, key: PRNGKey) -> tuple[DTQLKLState, Scalar]:
            fake, bound = state.fake_denoiser, self._bound(state)
            loss, gradients = eqx.filter_value_and_grad(self.fake_loss)(fake, action, observation, key, bound)
            fake, optimiser = adam_step(fake, gradients, state.fake_optimiser, rate)
            return state._replace(fake_denoiser=fake, fake_optimiser=optimiser), loss

        state, losses = jax.lax.scan(one, state, jax.random.split(key, self.fake_updates))
        return state, jnp.mean(losses)

    def _update_behaviour(
        self, state: DTQLKLState, batch: Transition, key: PRNGKey, rate_factor: float | Scalar
    ) -> tuple[DTQLKLState, Metrics]:
        rates = self.critic_learning_rate * rate_factor, self.learning_rate * rate_factor
        schedule, bound = self._schedule(), self._bound(state)
        return update_behaviour(state, batch, key, schedule, bound, self.expectile, self.discount, *rates)

    def _fits_denoiser(self) -> bool:
        """Whether the policy's network has the layers of the denoiser's."""

        def layers(network: Network) -> Any:
            sizes = 1, 1, self.denoiser_hidden_sizes, self.time_embedding_size
            return jax.eval_shape(lambda: Denoiser(jax.random.key(0), *sizes, network=network))

        own, denoiser = layers(self.actor_network), layers("mlp")
        same_shapes = jax.tree.leaves(own) == jax.tree.leaves(denoiser)
        return same_shapes and jax.tree.structure(own) == jax.tree.structure(denoiser)

    def _schedule(self) -> edm.EDM:
        return edm.EDM(self.sigma_data, self.sigma_min, self.sigma_max)

    def _bound(self, state: DTQLKLState) -> float | None:
        return state.actor.max_action if self.clip_denoised else None


def _start_from_denoiser(state: DTQLKLState) -> DTQLKLState:
    """theta <- phi and xi <- phi; weights only, moments stay those of networks not trained yet."""
    actor = eqx.tree_at(lambda actor: actor.network, state.actor, state.denoiser)
    return state._replace(actor=actor, fake_denoiser=state.denoiser)
