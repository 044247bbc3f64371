"""CQL against the numbers of CORL's code: plain, Lagrange and max-Q, three updates each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from fixture import Fixture, Link, act, drawing, heads, norm

from tether.algorithms.cql import CQL, CQLState
from tether.algorithms.sac import soft_actor_loss
from tether.types import Array

ACTOR, Q = [Link("actor", lambda s: s.actor.network)], heads(lambda s: s.critic, "q1", "q2")
ALL = ACTOR + Q + heads(lambda s: s.target_critic, "target_q1", "target_q2")
NO_FLOOR = -1e8  # what the fixture says where there is none


@pytest.fixture(scope="module")
def x() -> Fixture:
    return Fixture("cql")


def algorithm(x: Fixture, case: str) -> CQL:
    floor, sizes = x.number(f"{case}/hyper/gap_floor"), (x.number("hyper/hidden_size"),) * 3
    return CQL(
        penalty_weight=x.number(f"{case}/hyper/penalty_weight"),
        penalty_target=x.number(f"{case}/hyper/penalty_target"),
        gap_floor=None if floor < NO_FLOOR else floor,
        lagrange=bool(x.number(f"{case}/hyper/lagrange")),
        max_q_backup=bool(x.number(f"{case}/hyper/max_q_backup")),
        hidden_sizes=sizes,
        actor_hidden_sizes=sizes,
    )


def keys(x: Fixture, learner: CQL, update: int) -> tuple:
    """For the target, the proposals and the actor."""
    d, count = x.draws(update), learner.proposals if learner.max_q_backup else 1
    return d["target"][:, :count], (d["uniform"], d["own"], d["next"]), d["actor"]


def test_every_number_is_corls(x: Fixture) -> None:
    for case in ("plain", "lagrange", "max"):
        learner = algorithm(x, case)
        start = x.start(learner, ALL)
        with drawing():
            end = train(x, case, learner, start)
        if case == "plain":
            x.compare("acting/action", act(learner.policy(end), x["acting/observation"]))
    x.verdict()


def train(x: Fixture, case: str, learner: CQL, state: CQLState) -> CQLState:
    update = jax.jit(learner.update)
    for u in range(3):
        before, batch, key = state, x.batch(u), keys(x, learner, u)
        state, metrics = update(state, batch, key, jnp.int32(u))
        ours = {
            "td_loss": metrics["critic/q_loss"],
            "penalty": metrics["critic/penalty"],
            "policy_loss": metrics["actor/loss"],
            "log_entropy_weight": state.log_entropy_weight,
        }
        if learner.lagrange:
            ours["log_multiplier"] = state.multiplier.log_value
        x.compare_update(case, u, ours)
        if u == 0:
            next_action, target, gradients = first_update(learner, before, batch, key)
            x.compare(f"{case}/out/next_action", next_action)
            x.compare(f"{case}/out/target", target)
            x.compare_weights(f"{case}/gradient1", gradients, ACTOR + Q)
            x.compare(f"{case}/out/gradient_norm_critic", norm(gradients.critic))
            x.compare(f"{case}/out/gradient_norm_actor", norm(gradients.actor))
        if u == 2 or (u == 0 and case == "plain"):
            x.compare_weights(f"{case}/update{u + 1}", state, ALL)
    return state


@eqx.filter_jit
def first_update(learner: CQL, before: CQLState, batch, key: tuple) -> tuple[Array, Array, CQLState]:
    """a', y and the gradients of the first update, each network's at the others as they were."""
    next_action = jax.vmap(lambda o, k: before.actor.sample(o, k, len(k)))(batch.next_observation, key[0])
    target, proposals = learner.critic_target(before, batch, key[0]), learner.propose(before.actor, batch, key[1])
    multiplier = jnp.exp(before.multiplier.log_value) if learner.lagrange else None
    grad = eqx.filter_grad(learner.critic_loss, has_aux=True)
    critic, _ = grad(before.critic, batch, target, proposals, multiplier)
    weight = jnp.exp(before.log_entropy_weight)
    actor, _ = eqx.filter_grad(soft_actor_loss, has_aux=True)(before.actor, before.critic, batch, weight, key[2])
    return next_action, target, before._replace(critic=critic, actor=actor)
