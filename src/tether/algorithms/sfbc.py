"""SfBC: selecting from behaviour candidates (Chen et al. 2022, arXiv 2209.14548).

A diffusion model of the behaviour proposes actions, a critic chooses; the critic sees nothing but actions of the data:

    behaviour  E[ |eps(a_t, s, t) - eps|^2 ] on the VP-SDE, summed over coordinates
    critic     Q_1 regresses the discounted returns of the data: E[ (Q_1(s, a) - R)^2 ], R standardised
    train      planning along the trajectories, once, then a fresh regression Q_2 on its outcome, standardised again:
               V(s) = sum_j softmax_j(20 Q_1(s, a_j)) Q_1(s, a_j),  16 actions a_j of the behaviour
               R_i = max( r_i + gamma R_{i+1}, V(s_i) ), backwards from the trajectory's end

Acting: of 32 samples 4 are drawn without replacement with weights exp(100 Q_2(s, a)) and averaged (outside locomotion 1
is drawn).

Deviations. From the paper, following the authors' code:
  1. R_i itself is at least V(s_i); the paper takes the maximum in the next state, r_i + gamma max(R_{i+1}, V(s_{i+1})).
From the code:
  2. Trajectories are those of the transition table, so a timed-out one ends a row early (data/transforms.py), and none
     is skipped for being short. Wrong rewards of antmaze-medium-play-v2 are left as they are.
  3. Q_2 is a network of its own, not the first one reset. The number of critics is two, as in all published runs.
  4. Samples are clipped to the action box before Q judges them when acting; logits are not capped 40 above the 4th.
  5. The frequencies of the time features are quantiles, not draws (networks/denoiser.py: fixed_frequencies).
  6. Minibatches are drawn with replacement, not by passes over a permutation; the code's last critic has 99 epochs.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Derive, Network, Phase, acting_field, network_field
from tether.algorithms.qgpo import soft_value
from tether.algorithms.ranges import Count, NonNegative, Sizes, StaticFraction, Updates, check_ranges
from tether.algorithms.shared.losses import q_regression
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.diffusion import vp_sde
from tether.errors import InputError
from tether.networks import QEnsemble, ScoreNetwork
from tether.policies.samplers import SDESampler
from tether.policies.selection import sample_without_replacement
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["SfBC", "SfBCPolicy", "SfBCState", "planned_returns", "standardised"]

EARLIEST = 1e-5  # time of the behaviour's regression
SMALLEST_STD = 0.1  # of returns, in units of the rewards


class SfBCState(NamedTuple):
    """Everything that training carries; array leaves only."""

    behaviour: ScoreNetwork
    first_critic: QEnsemble  # one head, of the data's returns; plans
    critic: QEnsemble  # one head, of the planned returns; judges
    behaviour_optimiser: optax.OptState
    first_critic_optimiser: optax.OptState
    critic_optimiser: optax.OptState


def standardised(returns: Float[Array, " rows"]) -> tuple[Float[Array, " rows"], Scalar, Scalar]:
    """((R - mean) / std, mean, std), std at least 0.1."""
    mean, std = jnp.mean(returns), jnp.maximum(jnp.std(returns), SMALLEST_STD)
    return (returns - mean) / std, mean, std


def planned_returns(
    reward: Float[Array, " rows"], value: Float[Array, " rows"], end: Float[Array, " rows"], discount: float
) -> Float[Array, " rows"]:
    """R_i = max(r_i + gamma (1 - end_i) R_{i+1}, V_i), rows in recording order."""

    def step(following: Scalar, row: tuple[Scalar, Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        reward, value, end = row
        planned = jnp.maximum(reward + discount * (1.0 - end) * following, value)
        return planned, planned

    return jax.lax.scan(step, jnp.zeros((), reward.dtype), (reward, value, end), reverse=True)[1]


class SfBCPolicy(eqx.Module):
    """The mean of `chosen` of the behaviour's samples, drawn without replacement by exp(sharpness Q)."""

    behaviour: SDESampler
    critic: QEnsemble
    sharpness: Scalar
    candidates: int = eqx.field(static=True)
    chosen: int = eqx.field(static=True)

    def __call__(self, observation: Float[Array, " observation"], key: PRNGKey) -> Float[Array, " action"]:
        draw_key, choice_key = jax.random.split(key)
        actions = self.behaviour.sample(observation, draw_key, self.candidates)
        actions = jnp.clip(actions, -self.behaviour.max_action, self.behaviour.max_action)
        q = jax.vmap(self.critic.first, in_axes=(None, 0))(observation, actions)
        return sample_without_replacement(choice_key, actions, self.sharpness * q, self.chosen).mean(axis=0)


class SfBC(eqx.Module):
    """Hyper-parameters of SfBC; the defaults are the paper's for locomotion."""

    view: ClassVar[str] = "returns"  # critics regress returns, and V is planned along trajectories

    inverse_temperature: NonNegative = 20.0  # of V, per standard deviation of the returns
    sharpness: NonNegative = acting_field(100.0, static=False)  # of the choice when acting, likewise
    learning_rate: NonNegative = 1e-3  # Adam, both critics
    behaviour_learning_rate: NonNegative = 1e-4  # Adam, behaviour

    discount: StaticFraction = eqx.field(static=True, default=0.99)  # gamma: decides a column of the data
    support_actions: Count = eqx.field(static=True, default=16)  # per state, for V
    candidates: Count = acting_field(32)  # when acting
    chosen: Count = acting_field(4)  # of them, averaged; 1 outside locomotion
    solver_calls: Count = eqx.field(static=True, default=15)  # evaluations of the network per sample, a multiple of 3
    critic_network: Network = network_field(scalar=True)  # of Q
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256))  # critics
    score_widths: Sizes = eqx.field(static=True, default=(512, 256, 128))  # of the behaviour's U
    behaviour_updates: Updates = eqx.field(static=True, default=586_000)
    critic_updates: Updates = eqx.field(static=True, default=24_400)
    train_updates: Updates = eqx.field(static=True, default=24_400)

    def __check_init__(self):
        check_ranges(self)
        vp_sde.check_calls(self.solver_calls, 3)
        if self.chosen > self.candidates:
            raise InputError(f"chosen {self.chosen}: of {self.candidates} candidates that many cannot be drawn")

    def init(self, spec: Spec, key: PRNGKey) -> SfBCState:
        """Fresh networks."""
        behaviour_key, *critic_keys = jax.random.split(key, 3)
        behaviour = ScoreNetwork(behaviour_key, spec, self.score_widths)
        how = {"ensemble_size": 1, "activation": jax.nn.silu, "layer_norm": False, "network": self.critic_network}
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        first, critic = (QEnsemble(k, *sizes, **how) for k in critic_keys)
        return SfBCState(behaviour, first, critic, adam_init(behaviour), adam_init(first), adam_init(critic))

    def phases(self) -> tuple[Phase, ...]:
        """The behaviour, the critic of the data's returns, the critic of the planned ones."""
        returns = Derive(lambda state, row, key: row.return_to_go, lambda returns, data: standardised(returns)[0])
        return (
            Phase("behaviour", self.behaviour_updates, self.behaviour_update, reads_rewards=False),
            Phase("critic", self.critic_updates, self.first_critic_update, returns),
            Phase("train", self.train_updates, self.update, Derive(self.value, self.plan)),
        )

    def value(self, state: SfBCState, row: Transition, key: PRNGKey) -> Scalar:
        """V(s) of one transition's state, in standard deviations."""
        actions = SDESampler(state.behaviour, self.solver_calls, 3).sample(row.observation, key, self.support_actions)
        q = jax.vmap(state.first_critic.first, in_axes=(None, 0))(row.observation, actions)
        return soft_value(q, self.inverse_temperature)

    def plan(self, values: Float[Array, " rows"], data: Transition) -> Float[Array, " rows"]:
        """R of all rows, standardised."""
        assert data.return_to_go is not None
        assert data.trajectory_end is not None
        _, mean, std = standardised(data.return_to_go)
        planned = planned_returns(data.reward, mean + std * values, data.trajectory_end, self.discount)
        return standardised(planned)[0]

    def behaviour_update(
        self, state: SfBCState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[SfBCState, Metrics]:
        """One step of noise regression."""
        diffused = vp_sde.diffuse(batch.action, key, EARLIEST)
        grad = eqx.filter_value_and_grad(vp_sde.noise_loss)
        loss, gradients = grad(state.behaviour, batch.observation, diffused)
        rate = self.behaviour_learning_rate
        behaviour, optimiser = adam_step(state.behaviour, gradients, state.behaviour_optimiser, rate)
        return state._replace(behaviour=behaviour, behaviour_optimiser=optimiser), {"behaviour/loss": loss}

    def first_critic_update(
        self, state: SfBCState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[SfBCState, Metrics]:
        """One step of Q_1."""
        critic, optimiser, metrics = self._regress(state.first_critic, state.first_critic_optimiser, batch)
        return state._replace(first_critic=critic, first_critic_optimiser=optimiser), metrics

    def update(
        self, state: SfBCState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[SfBCState, Metrics]:
        """One step of Q_2."""
        critic, optimiser, metrics = self._regress(state.critic, state.critic_optimiser, batch)
        return state._replace(critic=critic, critic_optimiser=optimiser), metrics

    def policy(self, state: SfBCState) -> SfBCPolicy:
        """The behaviour's samples, judged by Q_2."""
        sampler, sharpness = SDESampler(state.behaviour, self.solver_calls, 3), jnp.asarray(self.sharpness, jnp.float32)
        return SfBCPolicy(sampler, state.critic, sharpness, self.candidates, self.chosen)

    def _regress(
        self, critic: QEnsemble, optimiser: optax.OptState, batch: Transition
    ) -> tuple[QEnsemble, optax.OptState, Metrics]:
        """Raises ValueError for columns of unequal shape, which would broadcast."""
        if not batch.derived.shape == batch.reward.shape == batch.terminal.shape:
            raise ValueError("reward, terminal and the returns to regress must be vectors of one length")
        (loss, q), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(critic, batch, batch.derived)
        critic, optimiser = adam_step(critic, gradients, optimiser, self.learning_rate)
        return critic, optimiser, {"critic/q_loss": loss, "critic/q": jnp.mean(q)}
