"""IDQL: implicit Q-learning as an actor-critic with a diffusion policy (Hansen-Estruch et al. 2023, arXiv 2304.10573).

    behaviour  E[ |eps(a_k, k, s) - eps|^2 ], summed over coordinates: pure cloning, independent of the critic
    critic     IQL's Q and V (expectile tau)
    acting     argmax over N samples of the averaged behaviour of min_i Q_i,target                      (IDQL-A)

Samples are drawn in the paper's dialect: the clean action is never formed, the running sample is clipped at every step.

Deviations. From the authors' code:
  1. No dropout (networks/residual.py) and no validation split, which costs theirs a twentieth of the rows.
  2. The critic sees the whole minibatch of 512, as in their newest code (December 2023). Before, it saw the first 256
     of 2,048 rows, and the behaviour took a second step without rows, on Adam's momentum alone.
  3. The theory's implicit policy (weights tau and 1 - tau) is not offered: the tabulated one is the argmax.
  4. y takes V from before its update (iql.py: update_critic), theirs from after it.
  5. Adam without the newest code's weight decay of 1e-4, 4 % of a weight over a whole run.
  6. The noise network is given the step n = 1..T, theirs n - 1: with the same fresh weights that changes its output by
     0.8 of its size. Its LayerNorm adds 1e-5 to the variance, Flax 1e-6: 3e-5 of it. Sines come before cosines, theirs
     after: a renaming of random weights. Policies on disk shall act as they did.
  7. The networks are those of the paper's code (April 2023): the newest has SiLU in place of Mish, twice as many time
     features and as wide layers behind them, and LayerNorm on the observation that V sees.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Network, Phase, acting_field, network_field
from tether.algorithms.iql import InSampleCritic, init_critic, update_critic
from tether.algorithms.ranges import Count, Depth, Fraction, Interval, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import clip_actions, polyak
from tether.algorithms.shared.optimisers import adam_init, adam_step, decay_factor
from tether.diffusion import vp
from tether.networks import QEnsemble, ResidualNoiseNetwork, glorot_uniform, lecun_normal
from tether.policies.acting import BestOfSamples
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["IDQL", "DirectSampler", "IDQLState"]


class IDQLState(NamedTuple):
    """Everything that training carries; array leaves only."""

    critic: InSampleCritic
    target_critic: QEnsemble  # Polyak average of critic.q
    actor: ResidualNoiseNetwork
    target_actor: ResidualNoiseNetwork  # Polyak average
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState


class DirectSampler(eqx.Module):
    """A noise network as a sampler of actions, in IDQL's dialect."""

    network: ResidualNoiseNetwork
    diffusion_steps: int = eqx.field(static=True)

    @property
    def max_action(self) -> float:
        """Of the actions it draws."""
        return self.network.max_action

    def sample(
        self, observation: Float[Array, " observation"], key: PRNGKey, count: int
    ) -> Float[Array, "{count} action"]:
        """`count` independent chains."""
        schedule, network = vp.vp_schedule(self.diffusion_steps), self.network

        def draw(key: PRNGKey) -> Array:
            return vp.sample_direct(schedule, network, observation, key, network.action_size, network.max_action)

        return jax.vmap(draw)(jax.random.split(key, count))


def behaviour_loss(
    network: ResidualNoiseNetwork, observation: Float[Array, "batch observation"], diffused: vp.Diffused
) -> Scalar:
    """E[ |eps(a_k, k, s) - eps|^2 ], summed over coordinates."""
    predicted = jax.vmap(network)(diffused.noisy_action, observation, diffused.step)
    return jnp.mean(jnp.sum((predicted - diffused.noise) ** 2, axis=1))


class IDQL(eqx.Module):
    """Hyper-parameters of IDQL; the defaults are the paper's for locomotion."""

    expectile: Fraction = 0.7  # tau
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, behaviour
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q and V, constant
    target_rate: Fraction = 0.005  # Polyak step of the target critic
    actor_target_rate: Fraction = 0.001  # Polyak step of the behaviour's average

    cosine_decay: bool = eqx.field(static=True, default=True)  # the behaviour's rate falls to 0
    decay_updates: Interval | None = eqx.field(static=True, default=None)  # horizon of the decay; None: train_updates
    diffusion_steps: Count = eqx.field(static=True, default=5)  # T
    candidates: Count = acting_field(64)  # N
    critic_network: Network = network_field()  # of Q and V
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256))  # Q and V
    width: Count = eqx.field(static=True, default=256)  # of the behaviour's residual network
    block_count: Depth = eqx.field(static=True, default=3)
    train_updates: Updates = eqx.field(static=True, default=3_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> IDQLState:
        """Fresh networks, drawn as in the authors' code; averages start as copies."""
        critic_key, actor_key = jax.random.split(key)
        how: dict[str, Any] = {"initialiser": glorot_uniform, "network": self.critic_network}
        critic = init_critic(spec, critic_key, self.hidden_sizes, **how)
        how = {"frequency_scale": 0.2, "frequencies_train": True}
        how |= {"initialiser": glorot_uniform, "block_initialiser": lecun_normal}
        actor = ResidualNoiseNetwork(actor_key, spec, width=self.width, block_count=self.block_count, **how)
        return IDQLState(critic, critic.q, actor, actor, adam_init(critic), adam_init(actor))

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: IDQLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[IDQLState, Metrics]:
        """Critic and behaviour, then both averages."""
        batch = clip_actions(batch, state.actor.max_action)
        critic, critic_optimiser, metrics = update_critic(
            state.critic,
            state.target_critic,
            state.critic_optimiser,
            batch,
            self.expectile,
            self.discount,
            self.critic_learning_rate,
        )
        diffused = vp.diffuse(vp.vp_schedule(self.diffusion_steps), batch.action, key)
        loss, gradients = eqx.filter_value_and_grad(behaviour_loss)(state.actor, batch.observation, diffused)
        rate = self.learning_rate * decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)
        actor, actor_optimiser = adam_step(state.actor, gradients, state.actor_optimiser, rate)
        target_critic = polyak(state.target_critic, critic.q, self.target_rate)
        target_actor = polyak(state.target_actor, actor, self.actor_target_rate)
        return IDQLState(critic, target_critic, actor, target_actor, critic_optimiser, actor_optimiser), metrics | {
            "actor/loss": loss
        }

    def policy(self, state: IDQLState) -> BestOfSamples:
        """The best of N samples by the averaged heads' minimum."""
        sampler = DirectSampler(state.target_actor, self.diffusion_steps)
        return BestOfSamples(sampler, state.target_critic, self.candidates, "min")
