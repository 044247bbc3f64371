"""BDPO-unimodal: BDPO with a deterministic or Gaussian actor (Gao et al. 2025, arXiv 2502.04778, figures 8 and 17).

The paper's ablation of its actor: critics, pessimism and schedule are BDPO's, but behaviour nu and policy pi are one
network evaluation each, so there is one penalty D instead of a path of them, and no diffusion value functions.

    behaviour  deterministic  L_nu = E[ |nu(s) - a|^2 ]          gaussian  L_nu = -E[ log nu(a | s) ]
    penalty    deterministic  D(s) = 1/2 |pi(s) - nu(s)|^2       gaussian  D(s) = KL[ pi(.|s) || nu(.|s) ], closed form
    critic     y = R + gamma E_pi[ LCB_k Q_k(s', a') ] - eta D(s'),   L_Q = mean_k E[ (Q_k(s, a) - y)^2 ]
    actor      max  gamma E_pi[ LCB_k Q_k(s, a) ] - eta D(s)

Deviations. The ablation's code is not published; the paper leaves open and we chose:
  1. The penalty in y is taken at s', as BDPO's is, and not charged after terminal rows. As printed it is not
     discounted; `penalty_order` "discounted" moves it into gamma (1 - d) (...), as BDPO's own target has it.
  2. Networks: three ReLU layers of 256. Policies are tanh-squashed; the KL is that of the Gaussians before tanh, which
     equals that of the actions, as tanh is invertible.
  3. The Gaussian actor acts like BDPO: the best of 10 samples by the mean of the averaged heads. The deterministic one
     acts as it is.
  4. Policies start orthogonal with gain 1, log standard deviations lie in [-5, 2].
  5. Everything else (M = 10 samples, K = 10 heads, order of steps, warm-up, interval, rates, clipping) is BDPO's.
"""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.bdpo import q_loss
from tether.algorithms.interface import Network, Phase, acting_field, network_field
from tether.algorithms.ranges import Count, Fraction, Interval, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import aggregate_heads, clip_actions, polyak, td_target
from tether.algorithms.shared.optimisers import adam_init, clipped_adam_step, decay_factor, update_when_due
from tether.networks import GaussianActor, QEnsemble, TanhGaussian, orthogonal
from tether.policies.selection import best_by_q
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["BDPOUnimodal", "BDPOUnimodalState", "UnimodalPolicy", "gaussian_kl", "squared_distance"]


class BDPOUnimodalState(NamedTuple):
    """Everything that training carries; array leaves only. Targets are Polyak averages."""

    critic: QEnsemble
    target_critic: QEnsemble
    behaviour: GaussianActor
    target_behaviour: GaussianActor
    actor: GaussianActor
    target_actor: GaussianActor
    critic_optimiser: optax.OptState
    behaviour_optimiser: optax.OptState
    actor_optimiser: optax.OptState


def gaussian_kl(policy: TanhGaussian, behaviour: TanhGaussian) -> Scalar:
    """KL[ pi || nu ] = sum_j log(s_nu / s_pi) + (s_pi^2 + (m_pi - m_nu)^2) / (2 s_nu^2) - 1/2, for one state."""
    ratio = jnp.exp(2.0 * (policy.log_std - behaviour.log_std))
    distance = (policy.mean - behaviour.mean) * jnp.exp(-behaviour.log_std)
    return jnp.sum(behaviour.log_std - policy.log_std + 0.5 * (ratio + distance**2 - 1.0))


def squared_distance(policy: TanhGaussian, behaviour: TanhGaussian) -> Scalar:
    """1/2 |pi(s) - nu(s)|^2, for one state: between the actions without noise."""
    return 0.5 * jnp.sum((policy.mode() - behaviour.mode()) ** 2)


class UnimodalPolicy(eqx.Module):
    """The mode of the law (deterministic), or the best of several samples by the mean of the heads."""

    actor: GaussianActor
    critic: QEnsemble
    candidates: int = eqx.field(static=True)
    deterministic: bool = eqx.field(static=True)

    def __call__(self, observation: Float[Array, " observation"], key: PRNGKey) -> Float[Array, " action"]:
        if self.deterministic:
            return self.actor.mode(observation)
        return best_by_q(self.critic, observation, self.actor.sample(observation, key, self.candidates))


class BDPOUnimodal(eqx.Module):
    """Hyper-parameters of the ablation; defaults as BDPO's, eta the Gaussian's for walker2d."""

    eta: NonNegative = 0.25  # weight of the penalty
    pessimism: NonNegative = 1.0  # rho of the lower confidence bound
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 1e-5  # Adam, actor
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q
    behaviour_learning_rate: NonNegative = 3e-4  # Adam, behaviour, constant
    target_rate: Fraction = 0.005  # Polyak step of all averages

    actor_kind: Literal["gaussian", "deterministic"] = eqx.field(static=True, default="gaussian")
    penalty_order: Literal["separate", "discounted"] = eqx.field(static=True, default="separate")  # deviation 1
    bootstrap: bool = eqx.field(static=True, default=True)  # False: one-step problems, the target is the reward alone
    cosine_decay: bool = eqx.field(static=True, default=True)  # actor's and critic's rates fall to 0
    decay_updates: Interval | None = eqx.field(static=True, default=None)  # horizon of the decay; None: train_updates
    actor_warmup_updates: Updates = eqx.field(static=True, default=50_000)  # critic alone at first
    actor_update_interval: Interval = eqx.field(static=True, default=5)
    ensemble_size: Count = eqx.field(static=True, default=10)  # K
    samples: Count = eqx.field(static=True, default=10)  # M, in target and actor loss; the deterministic actor needs 1
    candidates: Count = acting_field(10)  # samples when acting
    critic_network: Network = network_field(scalar=True)  # of Q
    actor_network: Network = network_field(scalar=True)  # the behaviour, too
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))  # critic
    actor_hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))  # behaviour, too
    pretrain_updates: Updates = eqx.field(static=True, default=2_000_000)
    train_updates: Updates = eqx.field(static=True, default=2_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> BDPOUnimodalState:
        """Fresh networks; averages and actor start as copies."""
        critic_key, behaviour_key = jax.random.split(key)
        critic = QEnsemble(
            critic_key,
            spec.observation_size,
            spec.action_size,
            self.hidden_sizes,
            ensemble_size=self.ensemble_size,
            layer_norm=False,
            initialiser=orthogonal(2.0**0.5),
            network=self.critic_network,
        )
        sizes = spec.observation_size, spec.action_size, self.actor_hidden_sizes
        behaviour = GaussianActor(behaviour_key, *sizes, spec.max_action, network=self.actor_network)
        moments = adam_init(critic), adam_init(behaviour), adam_init(behaviour)
        return BDPOUnimodalState(critic, critic, behaviour, behaviour, behaviour, behaviour, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """The behaviour, then everything else."""
        return (
            Phase("pretrain", self.pretrain_updates, self.pretrain_update, reads_rewards=False, gives_policy=True),
            Phase("train", self.train_updates, self.update),
        )

    def pretrain_update(
        self, state: BDPOUnimodalState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[BDPOUnimodalState, Metrics]:
        """Regression or maximum likelihood on the data. The actor goes with it: a run may end here, with the behaviour
        as its policy."""
        batch = clip_actions(batch, state.actor.max_action)
        loss, gradients = eqx.filter_value_and_grad(self.behaviour_loss)(state.behaviour, batch)
        rate = self.behaviour_learning_rate
        behaviour, optimiser = clipped_adam_step(state.behaviour, gradients, state.behaviour_optimiser, rate)
        average = polyak(state.target_behaviour, behaviour, self.target_rate)
        state = state._replace(behaviour=behaviour, behaviour_optimiser=optimiser, target_behaviour=average)
        return _start_actor(state), {"behaviour/loss": loss}

    def update(
        self, state: BDPOUnimodalState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[BDPOUnimodalState, Metrics]:
        """The critic and its average every time; then, at its interval after the warm-up, the actor."""
        critic_key, actor_key = jax.random.split(key)
        batch = clip_actions(batch, state.actor.max_action)
        state = jax.lax.cond(step == 0, _start_actor, lambda s: s, state)
        rate_factor = decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)

        target, penalty = self.q_target(state, batch, critic_key)
        gradients, metrics = eqx.filter_grad(q_loss, has_aux=True)(state.critic, batch, target)
        rate = self.critic_learning_rate * rate_factor
        critic, optimiser = clipped_adam_step(state.critic, gradients, state.critic_optimiser, rate)
        average = polyak(state.target_critic, critic, self.target_rate)
        state = state._replace(critic=critic, critic_optimiser=optimiser, target_critic=average)

        def with_actor(state: BDPOUnimodalState) -> tuple[BDPOUnimodalState, Metrics]:
            return self._update_actor(state, batch.observation, actor_key, rate_factor)

        warmup, interval = self.actor_warmup_updates, self.actor_update_interval
        state, actor_metrics = update_when_due(with_actor, state, step, warmup, interval)
        return state, metrics | {"critic/penalty": penalty} | actor_metrics

    def policy(self, state: BDPOUnimodalState) -> UnimodalPolicy:
        """The averaged actor with the averaged ensemble as judge."""
        deterministic = self.actor_kind == "deterministic"
        return UnimodalPolicy(state.target_actor, state.target_critic, self.candidates, deterministic)

    # --- losses ---

    def behaviour_loss(self, behaviour: GaussianActor, batch: Transition) -> Scalar:
        """L_nu: squared error of the mode (deterministic) or negative log-likelihood, mean over the batch."""
        laws = jax.vmap(behaviour)(batch.observation)
        if self.actor_kind == "deterministic":
            return jnp.mean(jnp.sum((laws.mode() - batch.action) ** 2, axis=1))
        return -jnp.mean(laws.log_likelihood(batch.action))

    def penalty(self, policy: TanhGaussian, behaviour: TanhGaussian) -> Scalar:
        """D(s) of one state."""
        distance = squared_distance if self.actor_kind == "deterministic" else gaussian_kl
        return distance(policy, behaviour)

    def value(
        self,
        actor: GaussianActor,
        state: BDPOUnimodalState,
        observation: Float[Array, "batch observation"],
        key: PRNGKey,
    ) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
        """(E_pi[ LCB Q(s, a) ], D(s)) of `actor`; differentiable in it through the reparametrised action."""

        def row(observation: Array, key: PRNGKey) -> tuple[Float[Array, " ensemble"], Scalar]:
            law = actor(observation)
            if self.actor_kind == "deterministic":
                actions = law.mode()[None]
            else:
                actions = jax.vmap(law.transform)(
                    jax.random.normal(key, (self.samples, law.mean.shape[0]), jnp.float32)
                )
            q = jax.vmap(state.target_critic, in_axes=(None, 0))(observation, actions)
            return q.mean(axis=0), self.penalty(law, state.target_behaviour(observation))

        q, penalty = jax.vmap(row)(observation, jax.random.split(key, len(observation)))
        return aggregate_heads(q.T, "lcb", self.pessimism), penalty

    def q_target(
        self, state: BDPOUnimodalState, batch: Transition, key: PRNGKey
    ) -> tuple[Float[Array, " batch"], Scalar]:
        """y, from the averaged actor at the next state, and the mean penalty there."""
        if not self.bootstrap:
            nothing = jnp.zeros_like(batch.reward)
            return td_target(batch.reward, self.discount, batch.terminal, nothing), jnp.zeros((), jnp.float32)
        value, penalty = self.value(state.target_actor, state, batch.next_observation, key)
        if self.penalty_order == "discounted":
            target = td_target(batch.reward, self.discount, batch.terminal, value - self.eta * penalty)
        else:
            target = td_target(batch.reward, self.discount, batch.terminal, value)
            target = target - self.eta * (1.0 - batch.terminal) * penalty
        return target, jnp.mean(penalty)

    def actor_loss(
        self,
        actor: GaussianActor,
        state: BDPOUnimodalState,
        observation: Float[Array, "batch observation"],
        key: PRNGKey,
    ) -> tuple[Scalar, Metrics]:
        """-( gamma E_pi[ LCB Q ] - eta D ), mean over the batch."""
        value, penalty = self.value(actor, state, observation, key)
        loss = jnp.mean(self.eta * penalty - self.discount * value)
        return loss, {"actor/loss": loss, "actor/penalty": jnp.mean(penalty)}

    def _update_actor(
        self, state: BDPOUnimodalState, observation: Array, key: PRNGKey, rate_factor: float | Scalar
    ) -> tuple[BDPOUnimodalState, Metrics]:
        loss = eqx.filter_grad(self.actor_loss, has_aux=True)
        gradients, metrics = loss(state.actor, state, observation, key)
        rate = self.learning_rate * rate_factor
        actor, optimiser = clipped_adam_step(state.actor, gradients, state.actor_optimiser, rate)
        average = polyak(state.target_actor, actor, self.target_rate)
        return state._replace(actor=actor, actor_optimiser=optimiser, target_actor=average), metrics


def _start_actor(state: BDPOUnimodalState) -> BDPOUnimodalState:
    """The hand-over after pretraining: actor and its average become the behaviour's average."""
    return state._replace(actor=state.target_behaviour, target_actor=state.target_behaviour)
