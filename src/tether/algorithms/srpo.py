"""SRPO: score-regularised policy optimisation (Chen et al. 2023, arXiv 2310.07297).

A deterministic policy distilled from a diffusion model that is frozen by then, in three phases:

    behaviour  E[ |eps(a_t, s, t) - z|^2 ] on the VP-SDE, summed over coordinates
    critic     IQL's Q and V
    train      L = E[ sigma_t^2 sg(eps(a_t, s, t)) . a - beta sg(grad_a Q(s, a)) . a ],  a = pi(s),
               a_t = alpha_t a + sigma_t z,  t ~ U(0.02, 0.98);  Q is the mean of the target heads

Deviations. From the authors' code:
  1. No dropout (networks/residual.py).
  2. All phases use one batch size; the published behaviour phase has 2048.
  3. `normalize_gradient` (AntMaze) divides grad_a Q by its root mean square plus 1e-8; the code adds nothing.
  4. The frequencies of the time features are quantiles, not draws (networks/denoiser.py: fixed_frequencies).
  5. Minibatches are drawn with replacement, not by passes over a permutation: a row has no part in 1/e of the passes.
  6. On locomotion rewards are divided by the range of returns of trajectories as IQL cuts them. Theirs are cut every
     1,000 rows of a table in which a timed-out episode has 999, so that they mix episodes: their factor is 1.17 of ours
     on a protocol set of halfcheetah-medium, and the same on three other sets.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Network, Phase, network_field
from tether.algorithms.iql import InSampleCritic, init_critic, update_critic
from tether.algorithms.ranges import Count, Depth, Fraction, Interval, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import polyak
from tether.algorithms.shared.optimisers import adam_init, adam_step, adamw_step, decay_factor
from tether.diffusion import vp_sde
from tether.networks import DeterministicActor, QEnsemble, ResidualNoiseNetwork
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["SRPO", "SRPOState"]

EARLIEST, LATEST = 0.02, 0.98
WEIGHT_DECAY = 0.01  # of the behaviour: PyTorch's default of AdamW


class SRPOState(NamedTuple):
    """Everything that training carries; array leaves only."""

    behaviour: ResidualNoiseNetwork
    critic: InSampleCritic
    target_critic: QEnsemble  # Polyak average of critic.q
    actor: DeterministicActor
    behaviour_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState


class SRPO(eqx.Module):
    """Hyper-parameters of SRPO; the default beta is the paper's for halfcheetah-medium."""

    q_weight: NonNegative = 0.2  # beta, the inverse strength of the tether
    expectile: Fraction = 0.7  # tau
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, policy
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q and V
    behaviour_learning_rate: NonNegative = 3e-4  # AdamW, behaviour
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    normalize_gradient: bool = eqx.field(static=True, default=False)  # of Q; on for AntMaze
    cosine_decay: bool = eqx.field(static=True, default=True)  # the policy's rate falls to 0
    decay_updates: Interval | None = eqx.field(static=True, default=None)  # horizon of the decay; None: train_updates
    critic_network: Network = network_field()  # of Q and V
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256))  # Q and V
    actor_hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256))  # policy
    width: Count = eqx.field(static=True, default=256)  # of the behaviour's residual network
    block_count: Depth = eqx.field(static=True, default=3)
    behaviour_updates: Updates = eqx.field(static=True, default=2_000_000)
    critic_updates: Updates = eqx.field(static=True, default=1_500_000)
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> SRPOState:
        """Fresh networks; the target starts as a copy."""
        behaviour_key, critic_key, actor_key = jax.random.split(key, 3)
        how = {"frequency_scale": 30.0, "frequencies_train": False}
        behaviour = ResidualNoiseNetwork(behaviour_key, spec, width=self.width, block_count=self.block_count, **how)
        critic = init_critic(spec, critic_key, self.hidden_sizes, network=self.critic_network)
        sizes = spec.observation_size, spec.action_size, self.actor_hidden_sizes
        actor = DeterministicActor(actor_key, *sizes, spec.max_action, network=self.actor_network)
        moments = adam_init(behaviour), adam_init(critic), adam_init(actor)
        return SRPOState(behaviour, critic, critic.q, actor, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """Behaviour, critic, policy: each is frozen when the next begins."""
        return (
            Phase("behaviour", self.behaviour_updates, self.behaviour_update, reads_rewards=False),
            Phase("critic", self.critic_updates, self.critic_update),
            Phase("train", self.train_updates, self.update),
        )

    def behaviour_update(
        self, state: SRPOState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[SRPOState, Metrics]:
        """One step of noise regression."""
        diffused = vp_sde.diffuse(batch.action, key)
        grad = eqx.filter_value_and_grad(vp_sde.noise_loss)
        loss, gradients = grad(state.behaviour, batch.observation, diffused)
        rate = self.behaviour_learning_rate
        behaviour, optimiser = adamw_step(state.behaviour, gradients, state.behaviour_optimiser, rate, WEIGHT_DECAY)
        return state._replace(behaviour=behaviour, behaviour_optimiser=optimiser), {"behaviour/loss": loss}

    def critic_update(
        self, state: SRPOState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[SRPOState, Metrics]:
        """One step of IQL's critic."""
        critic, optimiser, metrics = update_critic(
            state.critic,
            state.target_critic,
            state.critic_optimiser,
            batch,
            self.expectile,
            self.discount,
            self.critic_learning_rate,
        )
        target = polyak(state.target_critic, critic.q, self.target_rate)
        return state._replace(critic=critic, critic_optimiser=optimiser, target_critic=target), metrics

    def update(
        self, state: SRPOState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[SRPOState, Metrics]:
        """One step of the policy; everything else is frozen."""
        gradients, metrics = eqx.filter_grad(self.actor_loss, has_aux=True)(state.actor, state, batch.observation, key)
        rate = self.learning_rate * decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)
        actor, optimiser = adam_step(state.actor, gradients, state.actor_optimiser, rate)
        return state._replace(actor=actor, actor_optimiser=optimiser), metrics

    def policy(self, state: SRPOState) -> Mode:
        """The deterministic policy."""
        return Mode(state.actor)

    def actor_loss(
        self, actor: DeterministicActor, state: SRPOState, observation: Float[Array, "batch observation"], key: PRNGKey
    ) -> tuple[Scalar, Metrics]:
        """sg(direction) . a: only its gradient means something."""
        action: Float[Array, "batch action"] = jax.vmap(actor)(observation)
        fixed = jax.lax.stop_gradient(action)
        diffused = vp_sde.diffuse(fixed, key, EARLIEST, LATEST)
        predicted = jax.vmap(state.behaviour)(diffused.noisy_action, observation, diffused.time)
        away = vp_sde.marginal(diffused.time)[1][:, None] ** 2 * predicted

        def mean_q(action: Array, observation: Array) -> Scalar:
            return state.target_critic(observation, action).mean()

        q, uphill = jax.vmap(jax.value_and_grad(mean_q))(fixed, observation)
        if self.normalize_gradient:
            uphill = uphill / (jnp.sqrt(jnp.mean(uphill**2, axis=1, keepdims=True)) + 1e-8)
        direction = jax.lax.stop_gradient(away - self.q_weight * uphill)
        loss = jnp.mean(jnp.sum(direction * action, axis=1))
        return loss, {"actor/loss": loss, "actor/q": jnp.mean(q), "actor/noise": jnp.mean(predicted**2)}
