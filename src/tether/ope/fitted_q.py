"""Fitted Q evaluation: the value of several policies at once (Le et al. 2019, arXiv 1903.08738; as an ensemble of
neural networks with averaged targets, Fu et al. 2021, arXiv 2103.16596).

    L_m = sum_c E[ (Q_mc(s, a) - y_mc)^2 ],   y_mc = r + gamma (1 - d) Qbar_mc(s', a'_c),   a'_c ~ pi_c(.|s') kept
    V_mc = mean over first states s of the episodes and draws a_c ~ pi_c(.|s) of Q_mc(s, a_c)

m are members of the ensemble, networks of their own from seeds of their own; c are candidate policies, outputs of each
network. Candidates share a network's hidden layers, because then twelve cost little more than one, and because the
errors of their values are then alike: their differences, which a choice is about, are surer than the values.

All candidates begin as the policy that wrote the log, whose returns are known: a first part of the updates regresses on
these. From there on values have only to move by what a candidate does otherwise, which takes a few updates where it is
little; from nothing they would need as many averaged targets as steps count.

Targets are computed for a pool of rows at a time, of which each is used several times before the next pool is drawn:
they cost one forward pass for each candidate, everything else one pass for all.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tether.algorithms.shared.losses import polyak
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.networks.layers import MLP, mish
from tether.types import Array, Float, Int, Key, PRNGKey, Scalar

__all__ = ["EvaluationData", "FittedQ", "Values", "fit_values"]


class EvaluationData(NamedTuple):
    """What policies are judged on, float32 arrays; observations and actions as the networks shall see them.

    The two of candidates are drawn once: sampling a diffusion policy costs far more than fitting.
    """

    observation: Float[Array, "rows observation"]
    action: Float[Array, "rows action"]
    reward: Float[Array, " rows"]
    next_observation: Float[Array, "rows observation"]
    terminal: Float[Array, " rows"]
    first_observation: Float[Array, "episodes observation"]
    next_action: Float[Array, "candidates rows action"]  # a'_c ~ pi_c(.|s')
    first_action: Float[Array, "candidates episodes draws action"]  # a_c ~ pi_c(.|s_0)
    episode: Int[Array, " rows"] | None = None  # number of each row's; then every member has a sample of episodes
    weight: Float[Array, " rows"] | None = None  # how often each row is drawn, beside the others; None: equally often
    to_go: Float[Array, " rows"] | None = None  # the log's own discounted returns from each row on


class Values(NamedTuple):
    """What fitted Q evaluation found."""

    first: Float[np.ndarray, "members candidates episodes"]  # value of each episode's first state, mean over draws
    td_error: Float[np.ndarray, " members"]  # root mean squared error of the last updates, in units of rewards
    highest: float  # |Q| of the data's own actions at the end; beyond what returns allow where it diverged


class _Member(NamedTuple):
    """Everything that fitting a member carries."""

    network: MLP
    target: MLP
    optimiser: optax.OptState


class FittedQ(eqx.Module):
    """How values are fitted."""

    discount: float = 0.99
    learning_rate: float = 1e-3  # Adam, falling to 0 by a cosine: the last updates average the noise of the targets
    target_rate: float = 0.01  # Polyak step of the averaged network, each update
    known_share: float = 0.25  # of the updates that regress on the log's own returns, where these are given
    hidden_sizes: tuple[int, ...] = eqx.field(static=True, default=(64, 64))
    members: int = eqx.field(static=True, default=5)
    updates: int = eqx.field(static=True, default=4096)
    batch_size: int = eqx.field(static=True, default=256)
    pool_minibatches: int = eqx.field(static=True, default=16)  # rows whose targets are computed at once
    uses: int = eqx.field(static=True, default=4)  # of each row of a pool, before the next pool

    @property
    def pool_updates(self) -> int:
        """Updates between two pools."""
        return self.pool_minibatches * self.uses

    def init(self, data: EvaluationData, key: PRNGKey) -> _Member:
        """A fresh network with an output for each candidate."""
        candidates, sizes = data.next_action.shape[0], (data.observation.shape[1] + data.action.shape[1],)
        network = MLP(key, sizes[0], self.hidden_sizes, candidates, activation=mish, layer_norm=True)
        return _Member(network, network, adam_init(network))

    def targets(self, target: MLP, data: EvaluationData, rows: Array) -> Float[Array, "rows candidates"]:
        """y_c = r + gamma (1 - d) Qbar_c(s', a'_c)."""

        def own(candidate: Array, next_action: Array) -> Array:
            q = jax.vmap(lambda s, a: target(jnp.concatenate([s, a]))[candidate])
            return q(data.next_observation[rows], next_action[rows])

        # One candidate after the other: their inputs differ, and on a CPU one already fills the caches.
        following = jax.lax.map(lambda each: own(*each), (jnp.arange(data.next_action.shape[0]), data.next_action))
        continuing = self.discount * (1.0 - data.terminal[rows])
        return data.reward[rows][:, None] + continuing[:, None] * following.T

    def loss(self, network: MLP, observation: Array, action: Array, target: Float[Array, "batch candidates"]) -> Scalar:
        """L_m: summed over candidates, a mean over the minibatch."""
        q = jax.vmap(lambda s, a: network(jnp.concatenate([s, a])))(observation, action)
        return jnp.mean(jnp.sum((q - target) ** 2, axis=1))

    def fit_pool(
        self,
        member: _Member,
        data: EvaluationData,
        own_rows: Int[Array, " rows"],
        key: PRNGKey,
        rate: Scalar,
        begins: Array,
    ) -> tuple[_Member, Scalar]:
        """`pool_updates` updates on one pool of a member's own rows -> (the member, mean loss per candidate).

        begins: whether they regress on the log's own returns.
        """
        rows_key, order_key = jax.random.split(key)
        size = self.pool_minibatches * self.batch_size
        rows = own_rows[jax.random.randint(rows_key, (size,), 0, own_rows.shape[0], jnp.int32)]
        if data.to_go is None:
            target = self.targets(member.target, data, rows)
        else:
            known = jnp.broadcast_to(data.to_go[rows][:, None], (size, data.next_action.shape[0]))
            target = jax.lax.cond(begins, lambda: known, lambda: self.targets(member.target, data, rows))
        observation, action = data.observation[rows], data.action[rows]
        orders = jax.vmap(lambda k: jax.random.permutation(k, size))(jax.random.split(order_key, self.uses))

        def step(member: _Member, chosen: Array) -> tuple[_Member, Scalar]:
            value, gradients = eqx.filter_value_and_grad(self.loss)(
                member.network, observation[chosen], action[chosen], target[chosen]
            )
            network, optimiser = adam_step(member.network, gradients, member.optimiser, rate)
            averaged = polyak(member.target, network, self.target_rate)
            return _Member(network, averaged, optimiser), value / target.shape[1]

        member, losses = jax.lax.scan(step, member, orders.reshape(self.pool_updates, self.batch_size))
        return member, jnp.mean(losses)

    def first_values(self, network: MLP, data: EvaluationData) -> Float[Array, "candidates episodes"]:
        """Mean over draws of Q_c(s_0, a_c)."""

        def own(candidate: Array, actions: Array) -> Array:
            def episode(observation: Array, draws: Array) -> Scalar:
                return jnp.mean(jax.vmap(lambda a: network(jnp.concatenate([observation, a]))[candidate])(draws))

            return jax.vmap(episode)(data.first_observation, actions)

        return jax.lax.map(lambda each: own(*each), (jnp.arange(data.first_action.shape[0]), data.first_action))


@functools.partial(jax.jit, static_argnames=("sequential",))
def _fit_pools(
    how: FittedQ,
    members: _Member,
    data: EvaluationData,
    own_rows: Int[Array, "members rows"],
    keys: Key[Array, " members"],
    start: Array,
    count: Array,
    pools: Array,
    *,
    sequential: bool,
) -> tuple[_Member, Float[Array, " members"]]:
    """Pools start .. start+count-1 of `pools`, of all members."""

    def one(lane: tuple[_Member, Array, Array]) -> tuple[_Member, Scalar]:
        member, rows, key = lane

        def pool(i: Array, carry: tuple[_Member, Scalar]) -> tuple[_Member, Scalar]:
            done = i.astype(jnp.float32) / pools.astype(jnp.float32)
            rate = how.learning_rate * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
            return how.fit_pool(carry[0], data, rows, jax.random.fold_in(key, i), rate, done < how.known_share)

        return jax.lax.fori_loop(start, start + count, pool, (member, jnp.zeros(())))

    lanes = members, own_rows, keys
    return jax.lax.map(one, lanes) if sequential else jax.vmap(one)(lanes)


def fit_values(
    how: FittedQ,
    data: EvaluationData,
    seed: int = 0,
    on_updates: Callable[[int, int], None] = lambda done, updates: None,
) -> Values:
    """Fit all members to all candidates in one compiled program.

    Where the data say whose row is whose, each member sees a bootstrap sample of the episodes, so that their spread is
    that of other logs of this size, and not of networks alone (Hao et al. 2021, arXiv 2102.03607).
    on_updates: told (updates done, all) a hundred times; what it raises ends the work.
    """
    own_rows = jnp.asarray(_rows_of_members(how.members, data, seed))
    data = jax.tree.map(jnp.asarray, data)
    init_keys, keys = (jax.random.split(key, how.members) for key in jax.random.split(jax.random.key(seed)))
    members = jax.lax.map(lambda key: how.init(data, key), init_keys)
    pools = -(-how.updates // how.pool_updates)
    piece, sequential, error = max(1, pools // 100), jax.default_backend() == "cpu", np.zeros(how.members)
    for start in range(0, pools, piece):
        count = min(piece, pools - start)
        numbers = jnp.int32(start), jnp.int32(count), jnp.int32(pools)
        members, loss = _fit_pools(how, members, data, own_rows, keys, *numbers, sequential=sequential)
        error = np.sqrt(np.asarray(jax.block_until_ready(loss), np.float64))
        on_updates(min((start + count) * how.pool_updates, how.updates), how.updates)
    first, highest = _judge(how, members, data)
    return Values(np.asarray(first, np.float64), error, float(highest))


def _rows_of_members(members: int, data: EvaluationData, seed: int) -> Int[np.ndarray, "members rows"]:
    """All rows for each; where episodes are known, rows of as many episodes, both drawn with replacement."""
    rows = len(data.reward)
    if data.episode is None:
        return np.tile(np.arange(rows, dtype=np.int32), (members, 1))
    weight = np.ones(rows) if data.weight is None else np.asarray(data.weight, np.float64)
    episode, random = np.asarray(data.episode), np.random.default_rng(seed)
    numbers, counts = np.unique(episode, return_counts=True)
    order, ends, found = np.argsort(episode, kind="stable"), np.cumsum(counts), np.empty((members, rows), np.int32)
    for member in range(members):
        drawn = random.integers(len(numbers), size=len(numbers))
        own = np.concatenate([order[ends[k] - counts[k] : ends[k]] for k in drawn])
        found[member] = own[np.searchsorted(np.cumsum(weight[own]), random.uniform(0, weight[own].sum(), rows))]
    return found


@jax.jit
def _judge(how: FittedQ, members: _Member, data: EvaluationData) -> tuple[Array, Scalar]:
    first = jax.lax.map(lambda network: how.first_values(network, data), members.network)
    rows = slice(0, 4096)

    def sizes(network: Any) -> Scalar:
        q = jax.vmap(lambda s, a: network(jnp.concatenate([s, a])))(data.observation[rows], data.action[rows])
        return jnp.max(jnp.abs(q))

    return first, jnp.max(jax.lax.map(sizes, members.network))
