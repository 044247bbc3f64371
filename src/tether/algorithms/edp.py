"""EDP: efficient diffusion policies (Kang et al. 2023, arXiv 2305.20081).

Diffusion-QL with the chain in the actor's loss replaced by one-shot reconstruction of the action:

    x0      = clip( (a_k - sqrt(1 - abar_k) eps(a_k, k, s)) / sqrt(abar_k) ),  from the noised batch of L_BC itself
    L_BC    = E[ (eps(a_k, k, s) - eps)^2 ]
    td3     L_BC - lambda E[ Q_i(s, x0) ],  lambda = 2 / E|Q_i(s, x0)|,  i a random head;   critic as Diffusion-QL's
    crr     L_BC - E[ min(exp(A), 20) log N(a; x0, I) ],  A = min Q(s, a) - mean_j min Q(s, x0 + N_j), 10 draws N(0, I)
    iql     L_BC - E[ min(exp(3 A), 100) log N(a; x0, I) ],  A = min Q_target(s, a) - V(s);  critic and V as IQL's

Deviations.
  1. The noise network is Diffusion-QL's. It is given the step n = 1..T, theirs n - 1, and its frequencies end at
     1/10,000, theirs at 1/3,162: with the same fresh weights that changes its output by 0.3 of its size. Inputs and
     features come in another order: a renaming of random weights. Policies on disk shall act as they did. The constants
     of log N are dropped: they have no gradient.
  2. Acting samples 50 ancestral chains of all T = 100 steps; the 15-call solver of the authors' 1000-step variant is
     not built. One is chosen with probability softmax(min Q) of the online critic, as published.
  3. x0 + N_j is not clipped to the box, as in the authors' code.
  4. The target actor moves from the first update, in the authors' code after 1,000. The actor's loss sees the critic
     after its step, theirs before it.
"""

from typing import Annotated, Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.dql import chain_q_target, dql_noise_network
from tether.algorithms.interface import Network, Phase, acting_field, network_field
from tether.algorithms.ranges import Count, Fraction, NonNegative, Positive, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import (
    advantage_weights,
    average_when_due,
    clip_actions,
    expectile_loss,
    polyak,
    q_regression,
    td_target,
)
from tether.algorithms.shared.optimisers import adam_init, adam_step, clip_by_global_norm, clipped_adam_step
from tether.diffusion import vp
from tether.networks import NoiseNetwork, QEnsemble, ValueNetwork, lecun_normal
from tether.policies.acting import BestOfSamples
from tether.policies.samplers import NoiseSampler, ancestral_sampler
from tether.ranges import between
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["EDP", "EDPState"]

AVERAGE_INTERVAL = 5  # updates of the actor's average
ACTION_MARGIN = 1e-3  # in action boxes: data actions are clipped to ±0.999
Steps = Annotated[int, between(vp.LEAST_LINEAR_STEPS, 100_000)]
CRR_LIMIT, IQL_LIMIT, IQL_INVERSE_TEMPERATURE = 20.0, 100.0, 3.0


class EDPState(NamedTuple):
    """Everything that training carries; array leaves only. Targets are Polyak averages."""

    critic: QEnsemble
    target_critic: QEnsemble
    value: ValueNetwork  # trained in iql mode
    actor: NoiseNetwork
    target_actor: NoiseNetwork
    critic_optimiser: optax.OptState
    value_optimiser: optax.OptState
    actor_optimiser: optax.OptState


class EDP(eqx.Module):
    """Hyper-parameters of EDP; the defaults are the paper's for locomotion."""

    q_weight: NonNegative = 2.0  # lambda before normalisation, td3 mode
    expectile: Fraction = 0.7  # tau, iql mode
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, all networks
    target_rate: Fraction = 0.005  # Polyak step of both averages
    gradient_norm: Positive = 9.0  # clip of the global norm of each network

    mode: Literal["td3", "crr", "iql"] = eqx.field(static=True, default="td3")
    diffusion_steps: Steps = eqx.field(static=True, default=100)  # T
    max_q_backup: bool = eqx.field(static=True, default=False)  # best of `draws` next actions per head
    draws: Count = eqx.field(static=True, default=10)  # of the max-Q backup and of crr's baseline
    candidates: Count = acting_field(50)  # chains when acting
    critic_network: Network = network_field()  # of Q and V
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))
    train_updates: Updates = eqx.field(static=True, default=2_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> EDPState:
        """Fresh networks, drawn as in the authors' code; targets start as copies."""
        critic_key, value_key, actor_key = jax.random.split(key, 3)
        how: dict[str, Any] = {"initialiser": lecun_normal, "network": self.critic_network}
        critic = QEnsemble(
            critic_key, spec.observation_size, spec.action_size, self.hidden_sizes, layer_norm=False, **how
        )
        value = ValueNetwork(value_key, spec.observation_size, self.hidden_sizes, **how)
        actor = dql_noise_network(actor_key, spec, self.hidden_sizes, self.actor_network, lecun_normal)
        moments = adam_init(critic), adam_init(value), adam_init(actor)
        return EDPState(critic, critic, value, actor, actor, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: EDPState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[EDPState, Metrics]:
        """Critic (and value), actor, averages."""
        target_key, actor_key = jax.random.split(key)
        batch = clip_actions(batch, state.actor.max_action, ACTION_MARGIN * state.actor.max_action)
        state, target = self._critic_target(state, batch, target_key)
        (q_loss, q), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(state.critic, batch, target)
        # Every network has an optimiser of its own, so each head is clipped by itself.
        heads = tuple(clip_by_global_norm(head, self.gradient_norm) for head in gradients.heads)
        gradients = eqx.tree_at(lambda q: q.heads, gradients, heads)
        critic, critic_optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.learning_rate)
        state = state._replace(critic=critic, critic_optimiser=critic_optimiser)

        gradients, metrics = eqx.filter_grad(self.actor_loss, has_aux=True)(state.actor, state, batch, actor_key)
        actor, actor_optimiser = clipped_adam_step(
            state.actor, gradients, state.actor_optimiser, self.learning_rate, self.gradient_norm
        )
        target_actor = average_when_due(state.target_actor, actor, self.target_rate, step, 0, AVERAGE_INTERVAL)
        state = state._replace(
            actor=actor,
            actor_optimiser=actor_optimiser,
            target_actor=target_actor,
            target_critic=polyak(state.target_critic, critic, self.target_rate),
        )
        return state, {"critic/q_loss": q_loss, "critic/q": jnp.mean(q)} | metrics

    def policy(self, state: EDPState) -> BestOfSamples:
        """The online actor, judged by the online critic."""
        sampler = NoiseSampler(state.actor, self.diffusion_steps, variance="posterior", schedule="linear")
        return BestOfSamples(sampler, state.critic, self.candidates, "softmax")

    def actor_loss(
        self, actor: NoiseNetwork, state: EDPState, batch: Transition, key: PRNGKey
    ) -> tuple[Scalar, Metrics]:
        """L_BC and the mode's term; one evaluation of the network serves both."""
        noise_key, extra_key = jax.random.split(key)
        schedule = self._schedule()
        diffused = vp.diffuse(schedule, batch.action, noise_key)
        predicted = jax.vmap(actor)(diffused.noisy_action, batch.observation, diffused.step)
        cloning = jnp.mean((predicted - diffused.noise) ** 2)
        clean = jax.vmap(lambda a, n, e: vp.predict_clean(schedule, a, n, e, actor.max_action))(
            diffused.noisy_action, diffused.step, predicted
        )
        if self.mode == "td3":
            loss = cloning + self._q_term(clean, state.critic, batch, extra_key)
        else:
            log_density = -0.5 * jnp.sum((batch.action - clean) ** 2, axis=1)
            loss = cloning - jnp.mean(self._weights(clean, state, batch, extra_key) * log_density)
        return loss, {"actor/loss": loss, "actor/cloning_loss": cloning}

    def _q_term(self, clean: Array, critic: QEnsemble, batch: Transition, key: PRNGKey) -> Scalar:
        """-lambda E[Q_i(s, x0)] with a random head."""
        q: Float[Array, "batch ensemble"] = jax.vmap(critic)(batch.observation, clean)
        head = q[:, jax.random.randint(key, (), 0, q.shape[1], jnp.int32)]
        return -self.q_weight * jnp.mean(head) / jax.lax.stop_gradient(jnp.mean(jnp.abs(head)))

    def _weights(self, clean: Array, state: EDPState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """Of the data's actions, in the modes crr and iql; without gradient."""
        if self.mode == "iql":
            q = jax.vmap(state.target_critic.least)(batch.observation, batch.action)
            advantage = q - jax.vmap(state.value)(batch.observation)
            return advantage_weights(advantage, IQL_INVERSE_TEMPERATURE, IQL_LIMIT)
        noise = jax.random.normal(key, (self.draws, *clean.shape), clean.dtype)
        around = jax.vmap(lambda n: jax.vmap(state.critic.least)(batch.observation, clean + n))(noise)
        q = jax.vmap(state.critic.least)(batch.observation, batch.action)
        return advantage_weights(q - around.mean(axis=0), 1.0, CRR_LIMIT)

    def _critic_target(
        self, state: EDPState, batch: Transition, key: PRNGKey
    ) -> tuple[EDPState, Float[Array, " batch"]]:
        """y; in iql mode V is trained first."""
        if self.mode != "iql":
            draw = ancestral_sampler(self._schedule(), clip_denoised=True)
            samples = self.draws if self.max_q_backup else 1
            target = chain_q_target(draw, state.target_actor, state.target_critic, batch, self.discount, samples, key)
            return state, target
        q = jax.vmap(state.target_critic.least)(batch.observation, batch.action)

        def value_loss(value: ValueNetwork) -> Scalar:
            return expectile_loss(q - jax.vmap(value)(batch.observation), self.expectile)

        gradients = eqx.filter_grad(value_loss)(state.value)
        value, optimiser = clipped_adam_step(
            state.value, gradients, state.value_optimiser, self.learning_rate, self.gradient_norm
        )
        next_value = jax.vmap(value)(batch.next_observation)
        target = td_target(batch.reward, self.discount, batch.terminal, next_value)
        return state._replace(value=value, value_optimiser=optimiser), target

    def _schedule(self) -> vp.VP:
        return vp.linear_schedule(self.diffusion_steps)
