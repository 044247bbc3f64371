"""BRAC: behaviour-regularised actor-critic, its policy form BRAC-p and value form BRAC-v.

Wu, Tucker and Nachum 2019, arXiv 1911.11361, with the primal KL divergence.

    behaviour  a tanh-Gaussian b trained as `bc` trains its own, frozen afterwards
    KL         K(s) = mean over 4 actions of pi of log pi(a|s) - log b(a|s)
    target     y = r + gamma (1 - d) [ min_i Q_i,target(s', a') - v alpha K(s') ],   v = 0 in BRAC-p, 1 in BRAC-v
    critic     sum_i E[ (Q_i(s, a) - y)^2 ]
    actor      E[ alpha K(s) - min_i Q_i(s, b) ];  the first 20,000 updates alpha K alone

No entropy term of SAC. Acting: the mode. The behaviour's 300,000 updates are those of the authors' script.

Deviations.
  1. log pi of the policy's own draws is exact; b's density is asked for the draw moved to 0.001 inside the box. The
     authors' code does the same. With both at the moved draw K would fall without bound as the policy's mean leaves
     the box.
  2. The first of the 4 actions of K is also the one that Q sees; the code draws one more.
  3. Targets move after the critic's step, in the code before it; they start as copies, there by themselves.
  4. Adam is that of the paper; Keras', below the code, adds 1e-7 before the bias is corrected.
From D4RL's runs of it:
  5. Their loader drops terminal rows and takes the next row's flag in place of a row's, bootstraps beyond time-outs,
     and trains on the first 1,000,000 rows. Here rows are what the file says.
  6. They also score the best of 10 actions by the first critic; which of the two their tables have is not said.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.bc import DATA_MARGIN, gaussian_cloning_loss
from tether.algorithms.interface import Hyperparameter, Network, Phase, network_field
from tether.algorithms.ranges import Count, Fraction, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.sac import entropy_weight_step
from tether.algorithms.shared.losses import polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.networks import GaussianActor, QEnsemble, TanhGaussian, glorot_uniform
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["BRACP", "BRACV", "BRACState"]


class BRACState(NamedTuple):
    """Everything that training carries; array leaves only."""

    behaviour: GaussianActor
    log_entropy_weight: Float[Array, ""]  # of the behaviour's training
    critic: QEnsemble
    target_critic: QEnsemble  # Polyak average
    actor: GaussianActor
    behaviour_optimiser: optax.OptState
    entropy_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState


def init_state(
    spec: Spec,
    key: PRNGKey,
    hidden_sizes: tuple[int, ...],
    actor_hidden_sizes: tuple[int, ...],
    networks: tuple[Network, Network],
) -> BRACState:
    """Fresh networks; the target starts as a copy. networks: the critic's, the actors'."""
    behaviour_key, critic_key, actor_key = jax.random.split(key, 3)
    sizes = spec.observation_size, spec.action_size
    how = {"activation": jax.nn.relu, "layer_norm": False, "initialiser": glorot_uniform, "network": networks[0]}
    critic = QEnsemble(critic_key, *sizes, hidden_sizes, **how)

    def gaussian(key: PRNGKey) -> GaussianActor:
        how = {"log_std_range": (-5.0, 0.0), "squashed_log_std": True, "network": networks[1]}
        return GaussianActor(key, *sizes, actor_hidden_sizes, spec.max_action, initialiser=glorot_uniform, **how)

    behaviour, actor, zero = gaussian(behaviour_key), gaussian(actor_key), jnp.zeros((), jnp.float32)
    moments = adam_init(behaviour), adam_init(zero), adam_init(critic), adam_init(actor)
    return BRACState(behaviour, zero, critic, critic, actor, *moments)


def update_behaviour(
    state: BRACState, batch: Transition, key: PRNGKey, rate: Hyperparameter, entropy_target: Hyperparameter
) -> tuple[BRACState, Metrics]:
    """One step of Gaussian cloning and of its entropy weight."""
    weight = jnp.exp(state.log_entropy_weight)
    grad = eqx.filter_value_and_grad(gaussian_cloning_loss, has_aux=True)
    (loss, entropy), gradients = grad(state.behaviour, batch, weight, key)
    behaviour, behaviour_optimiser = adam_step(state.behaviour, gradients, state.behaviour_optimiser, rate)
    log_weight, entropy_optimiser = entropy_weight_step(
        state.log_entropy_weight, -entropy, entropy_target * batch.action.shape[1], state.entropy_optimiser, rate
    )
    state = state._replace(
        behaviour=behaviour,
        behaviour_optimiser=behaviour_optimiser,
        log_entropy_weight=log_weight,
        entropy_optimiser=entropy_optimiser,
    )
    return state, {"behaviour/loss": loss, "behaviour/entropy": entropy}


def sampled_kl(law: TanhGaussian, behaviour: TanhGaussian, noise: Float[Array, "samples action"]) -> Scalar:
    """K(s) of the policy's and the behaviour's law there; differentiable in `law`, through the actions too."""
    actions = jax.vmap(law.transform)(noise)
    behaviours = jax.vmap(lambda action: behaviour.log_density(action, DATA_MARGIN))(actions)
    return jnp.mean(jax.vmap(law.log_density_of_noise)(noise) - behaviours)


def update_policy(
    state: BRACState,
    batch: Transition,
    key: PRNGKey,
    step: Int[Array, ""],
    *,
    kl_weight: Hyperparameter,
    value_penalty: float,
    discount: Hyperparameter,
    target_rate: Hyperparameter,
    critic_rate: Hyperparameter,
    rate: Hyperparameter,
    samples: int,
    warmup_updates: int,
) -> tuple[BRACState, Metrics]:
    """Critic, actor, target; the behaviour is frozen."""
    target_key, actor_key = jax.random.split(key)
    shape = (len(batch.reward), samples, batch.action.shape[1])

    def row_target(observation: Array, noise: Array) -> Scalar:
        law = state.actor(observation)
        q = state.target_critic.least(observation, law.transform(noise[0]))
        if value_penalty == 0.0:
            return q
        return q - value_penalty * kl_weight * sampled_kl(law, state.behaviour(observation), noise)

    noise = jax.random.normal(target_key, shape, jnp.float32)
    target = td_target(batch.reward, discount, batch.terminal, jax.vmap(row_target)(batch.next_observation, noise))
    (q_loss, q), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(state.critic, batch, target)
    critic, critic_optimiser = adam_step(state.critic, gradients, state.critic_optimiser, critic_rate)

    def actor_loss(actor: GaussianActor) -> tuple[Scalar, Scalar]:
        def row(observation: Array, noise: Array) -> tuple[Scalar, Scalar]:
            law = actor(observation)
            kl = sampled_kl(law, state.behaviour(observation), noise)
            return kl, critic.least(observation, law.transform(noise[0]))

        noise = jax.random.normal(actor_key, shape, jnp.float32)
        kl, values = jax.vmap(row)(batch.observation, noise)
        q_weight = jnp.where(step >= warmup_updates, 1.0, 0.0)
        return jnp.mean(kl_weight * kl - q_weight * values), jnp.mean(kl)

    (loss, kl), gradients = eqx.filter_value_and_grad(actor_loss, has_aux=True)(state.actor)
    actor, actor_optimiser = adam_step(state.actor, gradients, state.actor_optimiser, rate)
    state = state._replace(
        critic=critic,
        target_critic=polyak(state.target_critic, critic, target_rate),
        actor=actor,
        critic_optimiser=critic_optimiser,
        actor_optimiser=actor_optimiser,
    )
    return state, {"critic/q_loss": q_loss, "critic/q": jnp.mean(q), "actor/loss": loss, "actor/kl": kl}


class BRACP(eqx.Module):
    """BRAC-p: behaviour-regularised actor-critic, the divergence in the policy's loss alone.

    The default weight is the middle of the authors' sweep.
    """

    kl_weight: NonNegative = 1.0  # alpha
    entropy_target: Hyperparameter = -1.0  # of the behaviour, per coordinate of the action
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-5  # Adam, actor
    critic_learning_rate: NonNegative = 1e-3  # Adam, Q
    behaviour_learning_rate: NonNegative = 5e-4  # Adam, behaviour
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    samples: Count = eqx.field(static=True, default=4)  # actions per state in the KL
    warmup_updates: Updates = eqx.field(static=True, default=20_000)  # with the KL alone
    critic_network: Network = network_field()  # of Q
    actor_network: Network = network_field(scalar=True)  # the behaviour, too
    hidden_sizes: Sizes = eqx.field(static=True, default=(300, 300))  # Q
    actor_hidden_sizes: Sizes = eqx.field(static=True, default=(200, 200))  # behaviour, too
    pretrain_updates: Updates = eqx.field(static=True, default=300_000)
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> BRACState:
        """Fresh networks."""
        networks = self.critic_network, self.actor_network
        return init_state(spec, key, self.hidden_sizes, self.actor_hidden_sizes, networks)

    def phases(self) -> tuple[Phase, ...]:
        """The behaviour, then policy and critic."""
        return (
            Phase("pretrain", self.pretrain_updates, self.pretrain_update, reads_rewards=False),
            Phase("train", self.train_updates, self.update),
        )

    def pretrain_update(
        self, state: BRACState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[BRACState, Metrics]:
        """The behaviour alone."""
        return update_behaviour(state, batch, key, self.behaviour_learning_rate, self.entropy_target)

    def update(
        self, state: BRACState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[BRACState, Metrics]:
        """Critic and actor."""
        return update_policy(
            state,
            batch,
            key,
            step,
            kl_weight=self.kl_weight,
            value_penalty=0.0,
            discount=self.discount,
            target_rate=self.target_rate,
            critic_rate=self.critic_learning_rate,
            rate=self.learning_rate,
            samples=self.samples,
            warmup_updates=self.warmup_updates,
        )

    def policy(self, state: BRACState) -> Mode:
        """The actor without noise."""
        return Mode(state.actor)


class BRACV(eqx.Module):
    """BRAC-v: behaviour-regularised actor-critic, the divergence in the policy's loss and in the value.

    The default weight is the middle of the authors' sweep.
    """

    kl_weight: NonNegative = 1.0  # alpha
    entropy_target: Hyperparameter = -1.0  # of the behaviour, per coordinate of the action
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-5  # Adam, actor
    critic_learning_rate: NonNegative = 1e-3  # Adam, Q
    behaviour_learning_rate: NonNegative = 5e-4  # Adam, behaviour
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    samples: Count = eqx.field(static=True, default=4)  # actions per state in the KL
    warmup_updates: Updates = eqx.field(static=True, default=20_000)  # with the KL alone
    critic_network: Network = network_field(beyond="the KL is taken off the targets")  # of Q
    actor_network: Network = network_field(scalar=True)  # the behaviour, too
    hidden_sizes: Sizes = eqx.field(static=True, default=(300, 300))  # Q
    actor_hidden_sizes: Sizes = eqx.field(static=True, default=(200, 200))  # behaviour, too
    pretrain_updates: Updates = eqx.field(static=True, default=300_000)
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> BRACState:
        """Fresh networks."""
        networks = self.critic_network, self.actor_network
        return init_state(spec, key, self.hidden_sizes, self.actor_hidden_sizes, networks)

    def phases(self) -> tuple[Phase, ...]:
        """The behaviour, then policy and critic."""
        return (
            Phase("pretrain", self.pretrain_updates, self.pretrain_update, reads_rewards=False),
            Phase("train", self.train_updates, self.update),
        )

    def pretrain_update(
        self, state: BRACState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[BRACState, Metrics]:
        """The behaviour alone."""
        return update_behaviour(state, batch, key, self.behaviour_learning_rate, self.entropy_target)

    def update(
        self, state: BRACState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[BRACState, Metrics]:
        """Critic and actor."""
        return update_policy(
            state,
            batch,
            key,
            step,
            kl_weight=self.kl_weight,
            value_penalty=1.0,
            discount=self.discount,
            target_rate=self.target_rate,
            critic_rate=self.critic_learning_rate,
            rate=self.learning_rate,
            samples=self.samples,
            warmup_updates=self.warmup_updates,
        )

    def policy(self, state: BRACState) -> Mode:
        """The actor without noise."""
        return Mode(state.actor)
