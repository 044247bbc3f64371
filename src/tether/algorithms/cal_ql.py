"""Cal-QL: conservative Q-learning, calibrated for fine-tuning (Nakamoto et al. 2023, arXiv 2303.05479).

CQL pushes values down until they lie far below any return. The first online episodes then look better than all that the
policy knows, and it unlearns what it could. Cal-QL pushes no further than to the value V_mu of the behaviour, of which
the return to go of the row's own trajectory is a sample:

    Z_i(s)   log sum over CQL's 3 n proposals of exp(q_ij - log density of a_j),
             q_ij = Q_i(s, a_j) for the n uniform ones,  max(Q_i(s, a_j), return to go of the row) for the policy's 2 n

All else is CQL's (cql.py): target, TD errors, penalty w (E[ Z_i - Q_i(s, a) ]) with its multiplier, actor, temperature.
Where the return is the larger one there is no gradient: that proposal is pushed down no more.

A recording that was cut while it failed is worth more than failing on. As in the authors' code, where all rewards of
such a trajectory are equal, r, its return to go is r / (1 - gamma) (`endless_failures`).

Deviations. From the authors' code:
  1. Deviations 3 and 7 of cql.py, and as in 4 `penalty_target` is in units of the weighted gap: their 0.8 is 4.
  2. The last layer of the actor starts as that of CQL here, Glorot-uniform, theirs orthogonal; both times 0.01.
  3. Data actions are not clipped; theirs are, to 1e-5 inside the box.
  4. Its rule for failures asks no task what its rewards are, so it holds on every task; theirs on AntMaze and Adroit.
"""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.algorithms.cql import CQL, CQLState, Proposals
from tether.algorithms.interface import Hyperparameter, Network, Phase, network_field
from tether.algorithms.ranges import Count, Fraction, NonNegative, Sizes, StaticFraction, Updates, check_ranges
from tether.networks import orthogonal
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Spec, Transition

__all__ = ["CalQL", "calibrated"]


def calibrated(proposals: Proposals, return_to_go: Float[Array, " batch"], uniform: int) -> Proposals:
    """Proposals of which all but the first `uniform` are worth at least the return of their row."""
    shape = proposals.log_density.shape
    of_policy = jnp.arange(shape[1]) >= uniform
    least = jnp.where(of_policy, jnp.broadcast_to(return_to_go[:, None], shape), -jnp.inf)
    return proposals._replace(least_value=least)


class CalQL(eqx.Module):
    """Hyper-parameters of Cal-QL: CQL's, and the returns; the defaults are the authors' for AntMaze."""

    view: ClassVar[str] = "returns"

    penalty_weight: NonNegative = 5.0  # w
    penalty_target: Hyperparameter = 4.0  # tau of the Lagrange form
    entropy_target: Hyperparameter = -1.0  # per coordinate of the action
    learning_rate: NonNegative = 1e-4  # Adam, actor and temperature
    critic_learning_rate: NonNegative = 3e-4  # Adam, Q and multiplier
    target_rate: Fraction = 0.005  # Polyak step of the target critic

    discount: StaticFraction = eqx.field(static=True, default=0.99)  # gamma: decides a column of the data
    endless_failures: bool = eqx.field(static=True, default=True)  # cut while all rewards were equal: r / (1 - gamma)
    lagrange: bool = eqx.field(static=True, default=True)  # alpha' by dual ascent
    max_q_backup: bool = eqx.field(static=True, default=True)  # best of `proposals` next actions
    gap_floor: float | None = eqx.field(static=True, default=None)  # the least Z - Q of a row that counts
    proposals: Count = eqx.field(static=True, default=10)  # n of each of the three kinds
    critic_network: Network = network_field(beyond="the penalty pushes values down")  # of Q
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256, 256, 256))  # Q
    actor_hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> CQLState:
        """Fresh networks, multipliers 1; the target starts as a copy."""
        return self.conservative.init(spec, key, orthogonal(2.0**0.5))

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(
        self, state: CQLState, batch: Transition, key: PRNGKey, step: Int[Array, ""]
    ) -> tuple[CQLState, Metrics]:
        """As CQL's. Raises ValueError for a return to go of another shape than the rewards', which would broadcast."""
        cql, returns = self.conservative, batch.return_to_go
        if returns is None or returns.shape != batch.reward.shape:
            raise ValueError("reward and return to go must be vectors of one length")
        target_key, proposal_key, actor_key = jax.random.split(key, 3)
        target = cql.critic_target(state, batch, target_key)
        proposals = calibrated(cql.propose(state.actor, batch, proposal_key), returns, self.proposals)
        return cql.learn(state, batch, target, proposals, actor_key)

    def policy(self, state: CQLState) -> Mode:
        """The actor without noise."""
        return Mode(state.actor)

    @property
    def conservative(self) -> CQL:
        """CQL with the same hyper-parameters."""
        return CQL(**{field.name: getattr(self, field.name) for field in dataclasses.fields(CQL)})
