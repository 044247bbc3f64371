"""DTQL: Diffusion Trusted Q-Learning (Chen, Wang and Zhou 2024, arXiv 2405.19690).

Three learners share every minibatch (s, a, r, s', terminal):

    critic    L_V = E[ L_tau(min_i Q_i(s,a) - V(s)) ],  L_Q = sum_i E[ (Q_i(s,a) - r - gamma (1-terminal) V(s'))^2 ]
    denoiser  L_BC = E[ (D(a + sigma eps, sigma | s) - a)^2 / c_out^2 ]                       never sampled from
    policy    L_pi = alpha L_TR - E[ min_i Q_i(s, a_pi) ] + lambda L_NLL,   a_pi ~ pi(.|s)
              L_TR = E[ (D(a_pi + sigma eps, sigma | s) - a_pi)^2 / c_out^2 ]    gradient through both places of a_pi

L_TR is small where the behaviour is dense: a mode-seeking, soft trust region. To act, draw 1024 actions from
the policy and keep one with probability softmax(Q).

Deviations. From the paper, all following the authors' code, which made the published numbers:
  1. The squared norms of eqs. 2 and 4 are means over action coordinates; the published alphas need that.
  2. The denoised action is clipped to the action box (not in the 2-D problems: `clip_denoised`).
  3. The Q target is r + gamma (1 - terminal) V(s'); eq. 7 prints gamma r and no terminal mask.
  4. The critic learns at 3e-4 whatever the policy's rate; Q heads have LayerNorm, V has none.
  5. V regresses on the online Q heads, and no loss reads a target network: targets only choose actions.
  6. The NLL is that of the Gaussian before tanh, without the Jacobian (same gradient).
  7. Target heads are not moved in pretraining nor synchronised after it.
From the authors' code:
  8. `q_normalization="mean-abs"` divides the Q term by the batch mean of |Q| (as TD3+BC and Diffusion-QL do).
     With raw Q in the hundreds the published alphas let the Q term win at first and the policy leaves the data
     for tens of thousands of updates (docs/algorithms/dtql.md). Every preset of the paper keeps "none"; it is
     the default only where no preset exists.
  9. The unused averaged copies of denoiser and policy are not built; training stops after `train_updates`
     (the code runs one more); sigma is drawn in float32.
 10. Implicit policy: its raw output can leave the action box; to act it is clipped to it, before Q ranks it.
"""

from typing import Any, Literal, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Hyperparameter, Network, Phase, acting_field, network_field
from tether.algorithms.ranges import (
    Count,
    EmbeddingSize,
    Fraction,
    Interval,
    NonNegative,
    Positive,
    Sizes,
    Updates,
    check_ranges,
)
from tether.algorithms.shared.losses import expectile_loss, polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step, decay_factor
from tether.diffusion import edm
from tether.errors import InputError
from tether.networks import Denoiser, GaussianActor, ImplicitActor, QEnsemble, ValueNetwork
from tether.policies.selection import sample_by_min_q
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["DTQL", "Critic", "DTQLPolicy", "DTQLState", "q_term", "update_behaviour"]

Actor = GaussianActor | ImplicitActor
State = TypeVar("State", bound=Any)


class Critic(NamedTuple):
    """Trained jointly by one optimiser."""

    q: QEnsemble
    value: ValueNetwork


class DTQLState(NamedTuple):
    """Everything that training carries; array leaves only."""

    critic: Critic
    target_q: QEnsemble  # Polyak average of critic.q, read only when acting
    denoiser: Denoiser
    actor: Actor
    critic_optimiser: optax.OptState
    denoiser_optimiser: optax.OptState
    actor_optimiser: optax.OptState


def critic_loss(
    critic: Critic, batch: Transition, expectile: Hyperparameter, discount: Hyperparameter
) -> tuple[Scalar, Metrics]:
    """L_V + L_Q, paper eqs. 6 and 7: in-sample expectile regression; one forward pass of Q serves both."""
    value: Float[Array, " batch"] = jax.vmap(critic.value)(batch.observation)
    next_value: Float[Array, " batch"] = jax.vmap(critic.value)(batch.next_observation)
    target = td_target(batch.reward, discount, batch.terminal, next_value)
    q_loss, q = q_regression(critic.q, batch, target)
    value_loss = expectile_loss(jax.lax.stop_gradient(q.min(axis=1)) - value, expectile)
    return value_loss + q_loss, {
        "critic/q_loss": q_loss,
        "critic/value_loss": value_loss,
        "critic/q": jnp.mean(q),
        "critic/value": jnp.mean(value),
    }


def q_term(q: Float[Array, " batch"], normalization: str) -> Scalar:
    """What the policy maximises: the batch mean of Q, divided by that of |Q| where asked (deviation 8)."""
    if normalization == "mean-abs":
        return jnp.mean(q) / (jax.lax.stop_gradient(jnp.mean(jnp.abs(q))) + 1e-8)
    return jnp.mean(q)


def update_behaviour(
    state: State,
    batch: Transition,
    key: PRNGKey,
    schedule: edm.EDM,
    bound: float | None,
    expectile: Hyperparameter,
    discount: Hyperparameter,
    critic_rate: Hyperparameter,
    rate: Hyperparameter,
) -> tuple[State, Metrics]:
    """Steps 1 and 2 of an iteration, the same in Algorithms 1 and 2: the critic, then the denoiser (L_BC, eq. 2).

    state: of DTQL or of its KL variant; `bound` is that of the denoised action.
    """
    gradients, metrics = eqx.filter_grad(critic_loss, has_aux=True)(state.critic, batch, expectile, discount)
    critic, critic_optimiser = adam_step(state.critic, gradients, state.critic_optimiser, critic_rate)
    state = state._replace(critic=critic, critic_optimiser=critic_optimiser)

    def denoiser_loss(denoiser: Denoiser) -> Scalar:
        return edm.denoising_loss(schedule, denoiser, batch.action, batch.observation, key, bound)

    behaviour_loss, gradients = eqx.filter_value_and_grad(denoiser_loss)(state.denoiser)
    denoiser, denoiser_optimiser = adam_step(state.denoiser, gradients, state.denoiser_optimiser, rate)
    state = state._replace(denoiser=denoiser, denoiser_optimiser=denoiser_optimiser)
    return state, metrics | {"denoiser/loss": behaviour_loss}


class DTQLPolicy(eqx.Module):
    """Draws `candidates` actions and keeps one with probability softmax(min Q) (paper section 4.2)."""

    actor: Actor
    target_q: QEnsemble
    candidates: int = eqx.field(static=True)

    def __call__(self, observation: Float[Array, " observation"], key: PRNGKey) -> Float[Array, " action"]:
        draw_key, choose_key = jax.random.split(key)
        bound = self.actor.max_action
        actions = jnp.clip(self.actor.sample(observation, draw_key, self.candidates), -bound, bound)
        return sample_by_min_q(choose_key, self.target_q, observation, actions)


class DTQL(eqx.Module):
    """Hyper-parameters of DTQL; defaults are the paper's common ones where a number is common to all tasks."""

    trust_region_weight: NonNegative = 0.2  # alpha, weight of L_TR against Q; 0.2 is ours for "mean-abs"
    expectile: Fraction = 0.7  # tau of the value regression; 0.5 is the mean, 1 the best action seen
    discount: Fraction = 0.99  # gamma
    log_likelihood_weight: NonNegative = 0.0  # lambda of the NLL term; the paper uses 1 on AntMaze
    learning_rate: NonNegative = 3e-4  # Adam, denoiser and policy
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q and V
    target_rate: Fraction = 0.005  # Polyak step of the target heads, each update
    sigma_data: Positive = 0.5  # EDM: standard deviation assumed of the actions
    sigma_min: Positive = 0.002  # EDM: smallest noise level
    sigma_max: Positive = 80.0  # EDM: largest noise level

    q_normalization: Literal["none", "mean-abs"] = eqx.field(static=True, default="mean-abs")
    actor_kind: Literal["gaussian", "implicit"] = eqx.field(static=True, default="gaussian")
    cosine_decay: bool = eqx.field(static=True, default=False)  # all rates fall to 0 over the train phase
    decay_updates: Interval | None = eqx.field(static=True, default=None)  # horizon of the decay; None: train_updates
    clip_denoised: bool = eqx.field(static=True, default=True)  # clamp D to the action box
    candidates: Count = acting_field(1024)  # actions drawn when acting
    critic_network: Network = network_field()  # of Q and V
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))  # critic and Gaussian actor
    denoiser_hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))
    time_embedding_size: EmbeddingSize = eqx.field(static=True, default=16)
    pretrain_updates: Updates = eqx.field(static=True, default=50_000)
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)
        weight = self.log_likelihood_weight
        if self.actor_kind == "implicit" and isinstance(weight, int | float) and weight != 0:
            raise InputError("log_likelihood_weight must be 0 with actor_kind 'implicit', which has no density")

    def init(self, spec: Spec, key: PRNGKey) -> DTQLState:
        """Fresh networks and zero moments; the target heads start as a copy of the online ones."""
        q_key, value_key, denoiser_key, actor_key = jax.random.split(key, 4)
        observation_size, action_size, max_action = spec
        critic = Critic(
            QEnsemble(q_key, observation_size, action_size, self.hidden_sizes, network=self.critic_network),
            ValueNetwork(value_key, observation_size, self.hidden_sizes, network=self.critic_network),
        )
        denoiser = Denoiser(
            denoiser_key, observation_size, action_size, self.denoiser_hidden_sizes, self.time_embedding_size
        )
        if self.actor_kind == "gaussian":
            sizes = self.hidden_sizes, max_action
            actor = GaussianActor(actor_key, observation_size, action_size, *sizes, network=self.actor_network)
        else:
            sizes = self.denoiser_hidden_sizes, max_action, self.time_embedding_size
            actor = ImplicitActor(actor_key, observation_size, action_size, *sizes, network=self.actor_network)
        moments = adam_init(critic), adam_init(denoiser), adam_init(actor)
        return DTQLState(critic, critic.q, denoiser, actor, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """Pretraining fits behaviour and critic; training adds the policy."""
        return (
            Phase("pretrain", self.pretrain_updates, self.pretrain_update),
            Phase("train", self.train_updates, self.update),
        )

    def pretrain_update(
        self, state: DTQLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[DTQLState, Metrics]:
        """Critic and denoiser only, at constant learning rates; actor and targets stay (deviation 7)."""
        return self._update_behaviour(state, batch, key, rate_factor=1.0)

    def update(
        self, state: DTQLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[DTQLState, Metrics]:
        """One iteration: critic, denoiser, policy against both just updated, then the targets."""
        behaviour_key, actor_key = jax.random.split(key)
        rate_factor = decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)
        state, metrics = self._update_behaviour(state, batch, behaviour_key, rate_factor)

        loss = eqx.filter_grad(self.actor_loss, has_aux=True)
        gradients, actor_metrics = loss(state.actor, state.critic.q, state.denoiser, batch, actor_key)
        rate = self.learning_rate * rate_factor
        actor, actor_optimiser = adam_step(state.actor, gradients, state.actor_optimiser, rate)
        target_q = polyak(state.target_q, state.critic.q, self.target_rate)
        state = state._replace(actor=actor, actor_optimiser=actor_optimiser, target_q=target_q)
        return state, metrics | actor_metrics

    def policy(self, state: DTQLState) -> DTQLPolicy:
        """The actor with the target heads as judge."""
        return DTQLPolicy(state.actor, state.target_q, self.candidates)

    def actor_loss(
        self, actor: Actor, q: QEnsemble, denoiser: Denoiser, batch: Transition, key: PRNGKey
    ) -> tuple[Scalar, Metrics]:
        """alpha L_TR - Q + lambda L_NLL, paper eqs. 4 and 8. The same action enters L_TR and Q."""
        action_key, diffusion_key = jax.random.split(key)
        noise = jax.random.normal(action_key, batch.action.shape, batch.action.dtype)
        if isinstance(actor, GaussianActor):
            law = jax.vmap(actor)(batch.observation)
            action = law.transform(noise)
            negative_log_likelihood = -jnp.mean(law.log_likelihood(batch.action))
            metrics = {"actor/nll": negative_log_likelihood, "actor/log_std": jnp.mean(law.log_std)}
        else:
            action = jax.vmap(actor)(batch.observation, noise)
            negative_log_likelihood, metrics = 0.0, {}

        observation = batch.observation
        trust_region = edm.denoising_loss(
            self._schedule(), denoiser, action, observation, diffusion_key, self._bound(actor)
        )
        q_of_policy: Float[Array, " batch"] = jax.vmap(q.least)(observation, action)
        loss = self.trust_region_weight * trust_region - q_term(q_of_policy, self.q_normalization)
        loss = loss + self.log_likelihood_weight * negative_log_likelihood
        return loss, metrics | {
            "actor/loss": loss,
            "actor/trust_region_loss": trust_region,
            "actor/q": jnp.mean(q_of_policy),
        }

    def _update_behaviour(
        self, state: DTQLState, batch: Transition, key: PRNGKey, rate_factor: float | Scalar
    ) -> tuple[DTQLState, Metrics]:
        rates = self.critic_learning_rate * rate_factor, self.learning_rate * rate_factor
        schedule, bound = self._schedule(), self._bound(state.actor)
        return update_behaviour(state, batch, key, schedule, bound, self.expectile, self.discount, *rates)

    def _schedule(self) -> edm.EDM:
        return edm.EDM(self.sigma_data, self.sigma_min, self.sigma_max)

    def _bound(self, actor: Actor) -> float | None:
        return actor.max_action if self.clip_denoised else None
