"""Diffusion-BC: behaviour cloning by noise regression (the policy of Diffusion-QL, arXiv 2208.06193, without a critic).

    actor   E[ (eps(a_k, k, s) - eps)^2 ]

One sample per state when acting: the data's own variety. It is Diffusion-QL with eta = 0. IDQL with one candidate
learns the same law with another network.

Deviations.
  1. The samples come from the actor's Polyak average; neither Diffusion-QL's cloning nor DAC's has one.
  2. The network is given the step n = 1..T, theirs n - 1 (dql.py, 3).
  3. Rate, decay and clip of the gradient's norm are those of DAC's cloning, whose loss sums over the action's
     coordinates where this one averages: the same clip is felt less often. Diffusion-QL's cloning has no clip, no
     decay, and rates of its tasks.
  4. DAC's cloning has DAC's own network and initialisation, and, run as it is, samples without noise in the chain.
"""

from typing import NamedTuple

import equinox as eqx
import optax

from tether.algorithms.dql import dql_noise_network
from tether.algorithms.interface import Network, Phase, network_field
from tether.algorithms.ranges import Count, Fraction, Interval, NonNegative, Positive, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import polyak
from tether.algorithms.shared.optimisers import adam_init, clipped_adam_step, decay_factor
from tether.diffusion import vp
from tether.networks import NoiseNetwork
from tether.policies.acting import Sampled
from tether.policies.samplers import NoiseSampler
from tether.types import Array, Int, Metrics, PRNGKey, Spec, Transition

__all__ = ["DiffusionBC", "DiffusionBCState"]


class DiffusionBCState(NamedTuple):
    """Everything that training carries; array leaves only."""

    actor: NoiseNetwork
    target_actor: NoiseNetwork  # Polyak average
    actor_optimiser: optax.OptState


class DiffusionBC(eqx.Module):
    """Hyper-parameters of diffusion cloning."""

    learning_rate: NonNegative = 3e-4  # Adam
    target_rate: Fraction = 0.005  # Polyak step of the average
    gradient_norm: Positive = 1.0  # clip of the global norm

    cosine_decay: bool = eqx.field(static=True, default=True)  # the rate falls to 0
    decay_updates: Interval | None = eqx.field(static=True, default=None)  # horizon of the decay; None: train_updates
    diffusion_steps: Count = eqx.field(static=True, default=5)  # T
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> DiffusionBCState:
        """A fresh network; the average starts as a copy."""
        actor = dql_noise_network(key, spec, self.hidden_sizes, self.actor_network)
        return DiffusionBCState(actor, actor, adam_init(actor))

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update, reads_rewards=False),)

    def update(
        self, state: DiffusionBCState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[DiffusionBCState, Metrics]:
        """One step of noise regression."""
        diffused = vp.diffuse(self._schedule(), batch.action, key)
        loss, gradients = eqx.filter_value_and_grad(vp.noise_loss)(state.actor, batch.observation, diffused)
        rate = self.learning_rate * decay_factor(step, self.cosine_decay, self.decay_updates, self.train_updates)
        actor, optimiser = clipped_adam_step(state.actor, gradients, state.actor_optimiser, rate, self.gradient_norm)
        return DiffusionBCState(actor, polyak(state.target_actor, actor, self.target_rate), optimiser), {
            "actor/loss": loss
        }

    def policy(self, state: DiffusionBCState) -> Sampled:
        """One sample of the averaged network."""
        return Sampled(NoiseSampler(state.target_actor, self.diffusion_steps, variance="posterior"))

    def _schedule(self) -> vp.VP:
        return vp.vp_schedule(self.diffusion_steps, variance="posterior")
