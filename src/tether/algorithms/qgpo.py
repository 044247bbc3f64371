"""QGPO: Q-guided policy optimisation by contrastive energy prediction (Lu et al. 2023, arXiv 2304.12824).

The policy behaviour * exp(beta Q) is sampled from the behaviour's diffusion model, whose score is tilted at every noise
level by the gradient of an energy that is learned by comparing actions (its exact value is log E[exp(beta Q) | a_t]):

    behaviour  E[ |eps(a_t, s, t) - eps|^2 ] on the VP-SDE, summed over coordinates; then M actions of it are drawn once
               for every state and next state of the data, a_j and a'_j
    critic     y = r + gamma (1 - d) sum_j softmax_j(kappa Q_j) Q_j,  Q_j = min_i Q_i,target(s', a'_j)
               1/2 sum_i E[ (Q_i(s, a) - y)^2 ];  the energy is trained from here on
    train      the energy alone, Q fixed: with one t for all M noised actions a_j,t of a state,
               -E[ sum_j softmax_j(beta min_i Q_i,target(s, a_j)) log softmax_j q(a_j,t, s, t) ]

Acting: one action by the probability flow of eps - w sigma_t grad q, clipped to the box. w = 1 samples the target.

Deviations.
  1. All phases use one batch size; the published behaviour phase has 4096 and the others 256.
  2. The frequencies of the time features are quantiles, not draws (networks/denoiser.py: fixed_frequencies).
  3. The last half draws its M actions anew; the code keeps those of the first half.
  4. Minibatches are drawn with replacement, not by passes over a permutation: a row has no part in 1/e of the passes.
  5. On locomotion rewards are divided by the range of returns of trajectories as IQL cuts them. Theirs are cut every
     1,000 rows of a table in which a timed-out episode has 999, so that they mix episodes: their factor is 1.17 of ours
     on a protocol set of halfcheetah-medium, and the same on three other sets.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Derive, Network, Phase, acting_field, network_field
from tether.algorithms.ranges import Count, Fraction, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.diffusion import vp_sde
from tether.networks import EnergyNetwork, QEnsemble, ScoreNetwork
from tether.policies.acting import Sampled
from tether.policies.samplers import SDESampler
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["QGPO", "Guided", "QGPOState", "Support", "contrastive_loss", "soft_value"]


class QGPOState(NamedTuple):
    """Everything that training carries; array leaves only."""

    behaviour: ScoreNetwork
    critic: QEnsemble
    target_critic: QEnsemble  # Polyak average
    energy: EnergyNetwork
    behaviour_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    energy_optimiser: optax.OptState


class Support(NamedTuple):
    """Actions of the behaviour, drawn once; in a batch they have its leading axis."""

    here: Float[Array, "... support action"]
    following: Float[Array, "... support action"] | None  # in the next state; None where no critic is trained


def soft_value(q: Float[Array, "*batch support"], inverse_temperature: float | Scalar) -> Float[Array, "*batch"]:
    """sum_j softmax_j(kappa q_j) q_j: between the mean (0) and the maximum (infinity)."""
    return jnp.sum(jax.nn.softmax(inverse_temperature * q, axis=-1) * q, axis=-1)


def support_q(
    critic: QEnsemble, observation: Float[Array, "batch observation"], actions: Float[Array, "batch support action"]
) -> Float[Array, "batch support"]:
    """min_i Q_i(s, a_j)."""
    return jax.vmap(jax.vmap(critic.least, in_axes=(None, 0)))(observation, actions)


def contrastive_loss(
    energy: vp_sde.Energy,
    observation: Float[Array, "batch observation"],
    actions: Float[Array, "batch support action"],
    logits: Float[Array, "batch support"],
    key: PRNGKey,
) -> Scalar:
    """Cross entropy between softmax_j(logits) and softmax_j q(a_j,t, s, t); a state's actions share one t."""
    time_key, noise_key = jax.random.split(key)
    first = vp_sde.FIRST_TIME
    time = jax.random.uniform(time_key, observation.shape[:1], actions.dtype, minval=first, maxval=1.0)
    noise = jax.random.normal(noise_key, actions.shape, actions.dtype)
    times = jnp.broadcast_to(time[:, None], logits.shape)
    noisy = vp_sde.add_noise(actions, times, noise)
    predicted = jax.vmap(jax.vmap(energy, in_axes=(0, None, 0)))(noisy, observation, times)
    return -jnp.mean(jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(predicted), axis=1))


class Guided(eqx.Module):
    """The behaviour's noise prediction, tilted by the energy."""

    behaviour: ScoreNetwork
    energy: EnergyNetwork
    weight: Scalar  # w

    @property
    def action_size(self) -> int:
        """Of the actions it stands for, as is the next."""
        return self.behaviour.action_size

    @property
    def max_action(self) -> float:
        """The bound of every coordinate."""
        return self.behaviour.max_action

    def __call__(
        self, noisy_action: Float[Array, " action"], observation: Float[Array, " observation"], time: Scalar
    ) -> Float[Array, " action"]:
        return vp_sde.guided(self.behaviour, self.energy, self.weight)(noisy_action, observation, time)


class QGPO(eqx.Module):
    """Hyper-parameters of QGPO; the defaults are the paper's for locomotion."""

    inverse_temperature: NonNegative = 3.0  # beta
    value_inverse_temperature: NonNegative = 1.0  # kappa, of the critic's target
    guidance: NonNegative = acting_field(1.0, static=False)  # w; the paper reports the best of several per task
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, energy
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q
    behaviour_learning_rate: NonNegative = 1e-4  # Adam, behaviour
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    support_actions: Count = eqx.field(static=True, default=16)  # M; 32 for AntMaze
    solver_calls: Count = eqx.field(static=True, default=15)  # evaluations of the network per sample, an odd number
    critic_network: Network = network_field()  # of Q
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))  # Q
    energy_hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256, 256))
    score_widths: Sizes = eqx.field(static=True, default=(512, 256, 128))  # of the behaviour's U
    behaviour_updates: Updates = eqx.field(static=True, default=600_000)
    critic_updates: Updates = eqx.field(static=True, default=500_000)
    train_updates: Updates = eqx.field(static=True, default=500_000)

    def __check_init__(self):
        check_ranges(self)
        vp_sde.check_calls(self.solver_calls, 2)

    def init(self, spec: Spec, key: PRNGKey) -> QGPOState:
        """Fresh networks; the target starts as a copy."""
        behaviour_key, critic_key, energy_key = jax.random.split(key, 3)
        behaviour = ScoreNetwork(behaviour_key, spec, self.score_widths)
        how = {"activation": jax.nn.relu, "layer_norm": False, "network": self.critic_network}
        critic = QEnsemble(critic_key, spec.observation_size, spec.action_size, self.hidden_sizes, **how)
        energy = EnergyNetwork(energy_key, spec, self.energy_hidden_sizes)
        return QGPOState(behaviour, critic, critic, energy, adam_init(behaviour), adam_init(critic), adam_init(energy))

    def phases(self) -> tuple[Phase, ...]:
        """The behaviour; critic and energy; the energy alone. Support actions are drawn before the second and third."""
        return (
            Phase("behaviour", self.behaviour_updates, self.behaviour_update, reads_rewards=False),
            Phase("critic", self.critic_updates, self.critic_update, Derive(self.draw_both_supports)),
            Phase("train", self.train_updates, self.update, Derive(self.draw_support)),
        )

    def draw_support(self, state: QGPOState, row: Transition, key: PRNGKey) -> Support:
        """M actions of the behaviour in the state of one transition."""
        return Support(self._sampler(state).sample(row.observation, key, self.support_actions), None)

    def draw_both_supports(self, state: QGPOState, row: Transition, key: PRNGKey) -> Support:
        """And M in its next state."""
        here_key, following_key = jax.random.split(key)
        here = self._sampler(state).sample(row.observation, here_key, self.support_actions)
        following = self._sampler(state).sample(row.next_observation, following_key, self.support_actions)
        return Support(here, following)

    def behaviour_update(
        self, state: QGPOState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[QGPOState, Metrics]:
        """One step of noise regression."""
        diffused = vp_sde.diffuse(batch.action, key)
        grad = eqx.filter_value_and_grad(vp_sde.noise_loss)
        loss, gradients = grad(state.behaviour, batch.observation, diffused)
        rate = self.behaviour_learning_rate
        behaviour, optimiser = adam_step(state.behaviour, gradients, state.behaviour_optimiser, rate)
        return state._replace(behaviour=behaviour, behaviour_optimiser=optimiser), {"behaviour/loss": loss}

    def critic_update(
        self, state: QGPOState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[QGPOState, Metrics]:
        """One step of the critic, then one of the energy against the moved target."""
        target = self.critic_target(state, batch)

        def critic_loss(critic: QEnsemble) -> tuple[Scalar, Array]:
            loss, q = q_regression(critic, batch, target)
            return 0.5 * loss, q

        (q_loss, q), gradients = eqx.filter_value_and_grad(critic_loss, has_aux=True)(state.critic)
        critic, optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.critic_learning_rate)
        target_critic = polyak(state.target_critic, critic, self.target_rate)
        state = state._replace(critic=critic, critic_optimiser=optimiser, target_critic=target_critic)
        state, metrics = self.update(state, batch, key, step)
        return state, {"critic/q_loss": q_loss, "critic/q": jnp.mean(q)} | metrics

    def update(
        self, state: QGPOState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[QGPOState, Metrics]:
        """One step of the energy."""
        actions = batch.derived.here
        logits = self.inverse_temperature * support_q(state.target_critic, batch.observation, actions)
        grad = eqx.filter_value_and_grad(contrastive_loss)
        loss, gradients = grad(state.energy, batch.observation, actions, logits, key)
        energy, optimiser = adam_step(state.energy, gradients, state.energy_optimiser, self.learning_rate)
        # The entropy of the labels is the loss's least value.
        least = -jnp.mean(jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits), axis=1))
        metrics = {"energy/loss": loss, "energy/excess_loss": loss - least}
        return state._replace(energy=energy, energy_optimiser=optimiser), metrics

    def policy(self, state: QGPOState) -> Sampled:
        """One guided sample."""
        guided = Guided(state.behaviour, state.energy, jnp.asarray(self.guidance, jnp.float32))
        return Sampled(SDESampler(guided, self.solver_calls, 2))

    def critic_target(self, state: QGPOState, batch: Transition) -> Float[Array, " batch"]:
        """y, from the behaviour's actions in the next state; no gradient."""
        q = support_q(state.target_critic, batch.next_observation, batch.derived.following)
        return td_target(batch.reward, self.discount, batch.terminal, soft_value(q, self.value_inverse_temperature))

    def _sampler(self, state: QGPOState) -> SDESampler:
        return SDESampler(state.behaviour, self.solver_calls, 2)
