"""BCQ: batch-constrained Q-learning (Fujimoto, Meger and Precup 2018, arXiv 1812.02900).

vae        E[(decode(s, z) - a)^2] + 1/2 KL
candidate  a_c = decode(s, clip(N(0, I), +-0.5)),  xi(s, a_c) = clip(a_c + 0.05 tanh(net(s, a_c)), +-1)
target     10 perturbed candidates of s' by the target network, q_j = 0.75 min_i Q_i + 0.25 max_i Q_i of the targets,
           y = r + gamma (1 - d) max_j q_j
critic     sum_i E[ (Q_i(s, a) - y)^2 ]
actor      -E[ Q_1(s, xi(s, decode(s, z))) ] over the perturbation alone
acting     the best of 100 perturbed candidates by Q_1
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Hyperparameter, Network, Phase, acting_field, network_field
from tether.algorithms.ranges import Count, Fraction, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import aggregate_heads, polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.networks import Layers, QEnsemble, make_network
from tether.networks.vae import ActionVAE, vae_loss
from tether.policies.acting import BestOfSamples
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["BCQ", "BCQState", "PerturbedVAE"]


class BCQState(NamedTuple):
    """Everything that training carries; array leaves only. Targets are Polyak averages."""

    vae: ActionVAE
    critic: QEnsemble
    target_critic: QEnsemble
    perturbation: Layers
    target_perturbation: Layers
    vae_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    perturbation_optimiser: optax.OptState


class PerturbedVAE(eqx.Module):
    """Candidates: decoded behaviour, moved by the perturbation network; also a sampler for acting."""

    vae: ActionVAE
    perturbation: Layers
    size: Hyperparameter  # of the largest move, in action boxes

    @property
    def max_action(self) -> float:
        """Of the actions it draws."""
        return self.vae.max_action

    def perturbed(
        self, observation: Float[Array, " observation"], action: Float[Array, " action"]
    ) -> Float[Array, " action"]:
        """xi(s, a)."""
        bound = self.vae.max_action
        move = self.size * bound * jnp.tanh(self.perturbation(jnp.concatenate([observation, action])))
        return jnp.clip(action + move, -bound, bound)

    def sample(
        self, observation: Float[Array, " observation"], key: PRNGKey, count: int
    ) -> Float[Array, "{count} action"]:
        """`count` independent candidates."""

        def one(latent: Array) -> Array:
            return self.perturbed(observation, self.vae.decode(observation, latent))

        return jax.vmap(one)(self.vae.draw_latents(key, count))


class BCQ(eqx.Module):
    """Hyper-parameters of BCQ; the defaults are the authors' for every task."""

    perturbation_size: NonNegative = 0.05  # Phi; 0 is cloning by the VAE
    pessimism: Fraction = 0.75  # lambda: weight of the lower head in the target
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 1e-3  # Adam, all networks
    target_rate: Fraction = 0.005  # Polyak step of both targets

    next_candidates: Count = eqx.field(static=True, default=10)  # per next state
    candidates: Count = acting_field(100)  # when acting
    critic_network: Network = network_field()  # of Q
    actor_network: Network = network_field(scalar=True)  # of the perturbation
    hidden_sizes: Sizes = eqx.field(static=True, default=(400, 300))  # Q and perturbation
    vae_hidden_sizes: Sizes = eqx.field(static=True, default=(750, 750))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> BCQState:
        """Fresh networks; targets start as copies."""
        vae_key, critic_key, perturbation_key = jax.random.split(key, 3)
        vae = ActionVAE(vae_key, spec, self.vae_hidden_sizes)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        critic = QEnsemble(critic_key, *sizes, activation=jax.nn.relu, layer_norm=False, network=self.critic_network)
        how = sizes[:2], self.hidden_sizes, spec.action_size
        perturbation = make_network(self.actor_network, perturbation_key, *how, activation=jax.nn.relu)
        moments = adam_init(vae), adam_init(critic), adam_init(perturbation)
        return BCQState(vae, critic, critic, perturbation, perturbation, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: BCQState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[BCQState, Metrics]:
        """VAE, critic, perturbation, targets."""
        vae_key, target_key, actor_key = jax.random.split(key, 3)
        grad = eqx.filter_value_and_grad(vae_loss)
        vae_value, gradients = grad(state.vae, batch.observation, batch.action, vae_key)
        vae, vae_optimiser = adam_step(state.vae, gradients, state.vae_optimiser, self.learning_rate)
        state = state._replace(vae=vae, vae_optimiser=vae_optimiser)

        target = self.critic_target(state, batch, target_key)
        (q_loss, q), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(state.critic, batch, target)
        critic, critic_optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.learning_rate)

        grad = eqx.filter_value_and_grad(self.actor_loss)
        actor_value, gradients = grad(state.perturbation, vae, critic, batch.observation, actor_key)
        perturbation, optimiser = adam_step(
            state.perturbation, gradients, state.perturbation_optimiser, self.learning_rate
        )
        state = state._replace(
            critic=critic,
            critic_optimiser=critic_optimiser,
            perturbation=perturbation,
            perturbation_optimiser=optimiser,
            target_critic=polyak(state.target_critic, critic, self.target_rate),
            target_perturbation=polyak(state.target_perturbation, perturbation, self.target_rate),
        )
        return state, {
            "critic/q_loss": q_loss,
            "critic/q": jnp.mean(q),
            "vae/loss": vae_value,
            "actor/loss": actor_value,
        }

    def policy(self, state: BCQState) -> BestOfSamples:
        """The best perturbed candidate by the first head."""
        sampler = PerturbedVAE(state.vae, state.perturbation, jnp.asarray(self.perturbation_size, jnp.float32))
        return BestOfSamples(sampler, state.critic, self.candidates, "first")

    def critic_target(self, state: BCQState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """y, from the best of several candidates of the target perturbation."""
        sampler = PerturbedVAE(state.vae, state.target_perturbation, self.perturbation_size)

        def row(observation: Array, key: PRNGKey) -> Scalar:
            actions = sampler.sample(observation, key, self.next_candidates)
            q = jax.vmap(state.target_critic, in_axes=(None, 0))(observation, actions)
            return aggregate_heads(q.T, "convex", self.pessimism).max()

        value = jax.vmap(row)(batch.next_observation, jax.random.split(key, len(batch.next_observation)))
        return td_target(batch.reward, self.discount, batch.terminal, value)

    def actor_loss(
        self,
        perturbation: Layers,
        vae: ActionVAE,
        critic: QEnsemble,
        observation: Float[Array, "batch observation"],
        key: PRNGKey,
    ) -> Scalar:
        """-E[ Q_1(s, xi(s, a_c)) ], one candidate per row."""
        sampler = PerturbedVAE(vae, perturbation, self.perturbation_size)
        keys = jax.random.split(key, len(observation))
        action = jax.vmap(lambda o, k: sampler.sample(o, k, 1)[0])(observation, keys)
        return -jnp.mean(jax.vmap(critic.first)(observation, action))
