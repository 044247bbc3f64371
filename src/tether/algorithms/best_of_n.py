"""Best-of-N: the best of N draws of a behaviour flow, in targets and acting (Li, Zhou, Levine 2025, arXiv 2507.07969).

    flow      E[ |v(s, x_t, t) - (a - x_0)|^2 ]:  behaviour cloning by flow matching, independent of the critic
    pi(s)     argmax over N flows a_1..a_N of v of  mean_i Q_i(s, a_j)
    critic    mean_i E[ (Q_i(s, a) - y)^2 ],  y = r + gamma (1 - d) mean_i Q_i,target(s', pi(s'))

KL(pi || behaviour) is at most log N - (N - 1)/N, so N alone says how far the policy may go from the data. With N = 4 it
is their BFN; with chunks of 5 and N = 32 it is their QC:

    tether train best-of-n DATA --chunk 5 --set candidates=32 --set next_candidates=32

As in the authors' code, candidates are chosen by the online critic, Flax's LayerNorm follows the GELU in the critics,
all layers start Glorot-uniform, the target moves towards the critic as it was before its step, and data actions are
clipped to 1e-5 inside the box.

tests/parity has the numbers of the authors' updates.

Deviations. From the code, all of data/framing.py, so of every algorithm with chunks:
  1. Rows with fewer than H of their episode left have no part, H - 1 of each episode. Theirs count 0 in the critic's
     loss, and the flow clones the actions that are left; what is noised beside them is the next episode's.
  2. Rewards end with a terminal row; theirs add what is paid behind it, if the chunk goes on.
  3. n-step returns that a terminal row ends are kept, theirs are not where the episode ends there; their flow clones
     the last n - 1 rows of an episode, too.
"""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Network, Phase, acting_field, network_field
from tether.algorithms.ranges import Count, Fraction, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.shared.losses import aggregate_heads, clip_actions, mean_q_regression, polyak, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.diffusion.flow import flow_loss
from tether.networks import FLAX_EPSILON, QEnsemble, VelocityNetwork, glorot_uniform
from tether.policies.acting import BestOfSamples
from tether.policies.samplers import FlowSampler
from tether.types import Array, Float, Int, Metrics, PRNGKey, Spec, Transition

__all__ = ["BestOfN", "BestOfNState"]


class BestOfNState(NamedTuple):
    """Everything that training carries; array leaves only."""

    critic: QEnsemble
    target_critic: QEnsemble  # Polyak average
    flow: VelocityNetwork
    critic_optimiser: optax.OptState
    flow_optimiser: optax.OptState


class BestOfN(eqx.Module):
    """Hyper-parameters of best-of-N; the defaults are the paper's for single actions (BFN)."""

    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-4  # Adam, flow
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    candidates: Count = acting_field(4)  # N when acting
    next_candidates: Count = eqx.field(static=True, default=4)  # N in the target
    aggregation: Literal["mean", "min"] = eqx.field(static=True, default="mean")  # of the heads, in pi and in y
    flow_steps: Count = eqx.field(static=True, default=10)
    critic_network: Network = network_field()  # of Q
    actor_network: Network = network_field(scalar=True)  # of the flow
    hidden_sizes: Sizes = eqx.field(static=True, default=(512, 512, 512, 512))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> BestOfNState:
        """Fresh networks; the target starts as a copy."""
        critic_key, flow_key = jax.random.split(key)
        how = {"activation": jax.nn.gelu, "initialiser": glorot_uniform, "network": self.critic_network}
        how |= {"layer_norm": True, "norm_last": True, "norm_epsilon": FLAX_EPSILON}
        critic = QEnsemble(critic_key, spec.observation_size, spec.action_size, self.hidden_sizes, **how)
        flow = VelocityNetwork(flow_key, spec, self.hidden_sizes, timed=True, network=self.actor_network)
        return BestOfNState(critic, critic, flow, adam_init(critic), adam_init(flow))

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: BestOfNState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[BestOfNState, Metrics]:
        """Critic, flow and target, all against the state before, as one joint loss would."""
        target_key, flow_key = jax.random.split(key)
        batch = clip_actions(batch, state.flow.max_action)
        target = self.critic_target(state, batch, target_key)
        grad = eqx.filter_value_and_grad(mean_q_regression, has_aux=True)
        (q_loss, q), gradients = grad(state.critic, batch, target)
        critic, critic_optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.critic_learning_rate)
        loss, gradients = eqx.filter_value_and_grad(flow_loss)(state.flow, batch.action, batch.observation, flow_key)
        flow, flow_optimiser = adam_step(state.flow, gradients, state.flow_optimiser, self.learning_rate)
        target_critic = polyak(state.target_critic, state.critic, self.target_rate)
        state = BestOfNState(critic, target_critic, flow, critic_optimiser, flow_optimiser)
        return state, {"critic/q_loss": q_loss, "critic/q": jnp.mean(q), "actor/flow_loss": loss}

    def policy(self, state: BestOfNState) -> BestOfSamples:
        """The best of N flows by the online heads."""
        return self._best_of(state, self.candidates)

    def critic_target(self, state: BestOfNState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """y, from the best of N flows per next state."""
        keys = jax.random.split(key, len(batch.reward))
        action = jax.vmap(self._best_of(state, self.next_candidates))(batch.next_observation, keys)
        q: Float[Array, "batch ensemble"] = jax.vmap(state.target_critic)(batch.next_observation, action)
        return td_target(batch.reward, self.discount, batch.terminal, aggregate_heads(q.T, self.aggregation))

    def _best_of(self, state: BestOfNState, count: int) -> BestOfSamples:
        return BestOfSamples(FlowSampler(state.flow, self.flow_steps), state.critic, count, self.aggregation)
