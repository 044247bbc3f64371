"""CQL: conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779), the CQL(H) form with importance weights.

SAC whose critics are pushed down on the policy's and random actions and up on the data's:

    target   y = r + gamma (1 - d) min_i Q_i,target(s', a'),  a' ~ pi(.|s')            (no entropy in the backup)
    Z_i(s)   log sum over 3 n proposals of exp(Q_i(s, a_j) - log density of a_j):
             n uniform in the box, n from pi(.|s), n from pi(.|s') (evaluated at s)
    critic   sum_i E[ (Q_i(s, a) - y)^2 ] + w ( E[ Z_i(s) - Q_i(s, a) ] )
    Lagrange sum_i E[ (Q_i - y)^2 ] + alpha' ( w E[ Z_i - Q_i ] - tau ),  alpha' in [0, 1e6] ascends on the brackets
    actor    E[ alpha log pi(b|s) - min_i Q_i(s, b) ]; alpha by its entropy target, as SAC

Deviations. From the authors' script, following CORL (arXiv 2210.07105):
  1. Hyper-parameters.
  2. `max_q_backup` takes the lower head of every action, then the best action. The script takes each head's best action
     first: y is then higher by up to 0.014 where it is 3.3 (tests/parity).
From CORL:
  3. The log standard deviation starts at -1 by the last layer's biases, one for each coordinate. CORL learns a scale
     and an offset for all of them, from 1 and -1, beside biases that start at 0.
  4. tau is in the authors' units, those of the weighted gap. CORL subtracts it before it multiplies by w: its 0.8 is 4.
  5. The warm start by cloning is left out: CORL ships with 0 such updates, and a wrong density in them.
  6. On AntMaze both critics have 5 layers; CORL's argument for it reaches the first one alone.
  7. alpha descends as SAC's does here, its slope times alpha; CORL's is without. The multiplier alpha' starts at 1 as
     the authors', CORL's at e.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Hyperparameter, Network, Phase, network_field
from tether.algorithms.ranges import Count, Fraction, NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.sac import LOG_STD_RANGE, soft_actor_step
from tether.algorithms.shared.losses import grad_in_parts, polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.networks import GaussianActor, Initialiser, QEnsemble, glorot_uniform, orthogonal, torch_uniform
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["CQL", "CQLState", "Proposals", "conservative_gap"]

LAGRANGE_LIMIT = 1e6
SMALL = 0.01  # gain of last layers
LOG_STD_START = -1.0
PART_ROWS = 16  # on CPU; with 30 proposals each, half a megabyte a hidden layer: 0.8 of the time of all at once


class Multiplier(NamedTuple):
    """alpha' of the Lagrange form."""

    log_value: Float[Array, ""]
    optimiser: optax.OptState


class CQLState(NamedTuple):
    """Everything that training carries; array leaves only."""

    critic: QEnsemble
    target_critic: QEnsemble  # Polyak average
    actor: GaussianActor
    log_entropy_weight: Float[Array, ""]  # log alpha
    multiplier: Multiplier | None  # in the Lagrange form
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState
    entropy_optimiser: optax.OptState


class Proposals(NamedTuple):
    """Actions at which the critics are pushed down, and the log densities they were drawn with."""

    actions: Float[Array, "batch proposals action"]
    log_density: Float[Array, "batch proposals"]
    least_value: Float[Array, "batch proposals"] | None = None  # what each counts as at least (Cal-QL)


def small_actor_layer(key: PRNGKey, in_features: int, out_features: int) -> tuple[Array, Array]:
    """The actor's last layer: small weights, zero bias for the mean, LOG_STD_START for the log standard deviation."""
    weight, bias = glorot_uniform(key, in_features, out_features, gain=SMALL)
    return weight, bias.at[out_features // 2 :].set(LOG_STD_START)


def conservative_gap(
    critic: QEnsemble,
    observation: Float[Array, "batch observation"],
    q: Float[Array, "batch ensemble"],
    proposals: Proposals,
    floor: float | None = None,
) -> Float[Array, " ensemble"]:
    """E[ Z_i(s) - Q_i(s, a) ] of each head: a log-*sum*-exp over the proposals, not a log-mean.

    q: the values Q_i(s, a) at the data's actions. floor: rows whose difference is lower count as that and have no
    gradient.
    """

    def row(observation: Array, q: Array, others: Proposals) -> Float[Array, " ensemble"]:
        q_of_others = jax.vmap(critic, in_axes=(None, 0))(observation, others.actions)
        if others.least_value is not None:
            q_of_others = jnp.maximum(q_of_others, others.least_value[:, None])
        gap = jax.nn.logsumexp(q_of_others - others.log_density[:, None], axis=0) - q
        return gap if floor is None else jnp.maximum(gap, floor)

    return jax.vmap(row)(observation, q, proposals).mean(axis=0)


class CQL(eqx.Module):
    """Hyper-parameters of CQL; the defaults are CORL's for locomotion."""

    penalty_weight: NonNegative = 10.0  # w
    penalty_target: Hyperparameter = 5.0  # tau of the Lagrange form
    entropy_target: Hyperparameter = -1.0  # per coordinate of the action
    discount: Fraction = 0.99  # gamma
    learning_rate: NonNegative = 3e-5  # Adam, actor and temperature
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q and multiplier
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    lagrange: bool = eqx.field(static=True, default=False)  # alpha' by dual ascent
    max_q_backup: bool = eqx.field(static=True, default=False)  # best of `proposals` next actions (AntMaze)
    gap_floor: float | None = eqx.field(static=True, default=None)  # the least Z - Q of a row that counts (AntMaze)
    proposals: Count = eqx.field(static=True, default=10)  # n of each of the three kinds
    critic_network: Network = network_field(beyond="the penalty pushes values down")  # of Q
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))  # Q
    actor_hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey, actor_layer: Initialiser = torch_uniform) -> CQLState:
        """Fresh networks, multipliers 1; the target starts as a copy. actor_layer: the start of its hidden ones."""
        critic_key, actor_key = jax.random.split(key)
        sizes = spec.observation_size, spec.action_size
        critic = QEnsemble(
            critic_key,
            *sizes,
            self.hidden_sizes,
            activation=jax.nn.relu,
            layer_norm=False,
            initialiser=orthogonal(2.0**0.5),
            last_initialiser=orthogonal(SMALL),
            network=self.critic_network,
        )
        actor = GaussianActor(
            actor_key,
            *sizes,
            self.actor_hidden_sizes,
            spec.max_action,
            initialiser=actor_layer,
            last_initialiser=small_actor_layer,
            log_std_range=LOG_STD_RANGE,
            network=self.actor_network,
        )
        log_weight = jnp.zeros((), jnp.float32)
        multiplier = Multiplier(log_weight, adam_init(log_weight)) if self.lagrange else None
        moments = adam_init(critic), adam_init(actor), adam_init(log_weight)
        return CQLState(critic, critic, actor, log_weight, multiplier, *moments)

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: CQLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[CQLState, Metrics]:
        """Actor, temperature, critics and multiplier, each against the others as they were; then the target."""
        target_key, proposal_key, actor_key = jax.random.split(key, 3)
        target = self.critic_target(state, batch, target_key)
        proposals = self.propose(state.actor, batch, proposal_key)
        return self.learn(state, batch, target, proposals, actor_key)

    def learn(
        self, state: CQLState, batch: Transition, target: Array, proposals: Proposals, key: PRNGKey
    ) -> tuple[CQLState, Metrics]:
        """One update towards a given target, pushed down at given proposals."""
        state, actor_metrics = soft_actor_step(self, state, state.critic, batch, key)
        state, critic_metrics = self._update_critic(state, batch, target, proposals)
        target_critic = polyak(state.target_critic, state.critic, self.target_rate)
        return state._replace(target_critic=target_critic), critic_metrics | actor_metrics

    def policy(self, state: CQLState) -> Mode:
        """The actor without noise."""
        return Mode(state.actor)

    def critic_target(self, state: CQLState, batch: Transition, key: PRNGKey) -> Float[Array, " batch"]:
        """y; with `max_q_backup` of the best of several next actions (deviation 2)."""
        count = self.proposals if self.max_q_backup else 1

        def row(observation: Array, key: PRNGKey) -> Scalar:
            actions = state.actor.sample(observation, key, count)
            return jax.vmap(state.target_critic.least, in_axes=(None, 0))(observation, actions).max()

        q = jax.vmap(row)(batch.next_observation, jax.random.split(key, len(batch.next_observation)))
        return td_target(batch.reward, self.discount, batch.terminal, q)

    def propose(self, actor: GaussianActor, batch: Transition, key: PRNGKey) -> Proposals:
        """Uniform actions and those of the policy at s and at s'; no gradient reaches the policy."""
        uniform_key, own_key, next_key = jax.random.split(key, 3)
        rows, size = batch.action.shape
        shape, bound = (rows, self.proposals, size), actor.max_action
        uniform = jax.random.uniform(uniform_key, shape, jnp.float32, minval=-bound, maxval=bound)
        flat = jnp.full(shape[:2], -size * jnp.log(2.0 * bound), jnp.float32)

        def drawn(observation: Array, noise: Array) -> tuple[Array, Array]:
            law = actor(observation)
            return jax.vmap(law.transform)(noise), jax.vmap(law.log_density_of_noise)(noise)

        own = jax.vmap(drawn)(batch.observation, jax.random.normal(own_key, shape, jnp.float32))
        following = jax.vmap(drawn)(batch.next_observation, jax.random.normal(next_key, shape, jnp.float32))
        parts = zip((uniform, flat), own, following, strict=True)
        return Proposals(*(jax.lax.stop_gradient(jnp.concatenate(part, axis=1)) for part in parts))

    def critic_loss(
        self, critic: QEnsemble, batch: Transition, target: Array, proposals: Proposals, multiplier: Scalar | None
    ) -> tuple[Scalar, tuple[Float[Array, " ensemble"], Metrics]]:
        """TD error plus penalty -> (it, (the weighted gap of each head, metrics)). multiplier: alpha', or None."""
        td_loss, q = q_regression(critic, batch, target)
        gap = self.penalty_weight * conservative_gap(critic, batch.observation, q, proposals, self.gap_floor)
        penalty = jnp.sum(gap if multiplier is None else multiplier * (gap - self.penalty_target))
        metrics = {"critic/q_loss": td_loss, "critic/q": jnp.mean(q), "critic/penalty": jnp.mean(gap)}
        return td_loss + penalty, (gap, metrics)

    def _update_critic(
        self, state: CQLState, batch: Transition, target: Array, proposals: Proposals
    ) -> tuple[CQLState, Metrics]:
        multiplier = state.multiplier
        weight = None if multiplier is None else jnp.minimum(jnp.exp(multiplier.log_value), LAGRANGE_LIMIT)
        grad = grad_in_parts(self.critic_loss, PART_ROWS)
        gradients, (gap, metrics) = grad(state.critic, batch, target, proposals, multiplier=weight)
        rate = self.critic_learning_rate
        critic, optimiser = adam_step(state.critic, gradients, state.critic_optimiser, rate)
        if multiplier is not None and weight is not None:
            slope = -weight * jnp.mean(gap - self.penalty_target)
            multiplier = Multiplier(*adam_step(multiplier.log_value, slope, multiplier.optimiser, rate))
            metrics["critic/multiplier"] = weight
        return state._replace(critic=critic, critic_optimiser=optimiser, multiplier=multiplier), metrics
