"""Cal-QL against the numbers of the authors' code: Lagrange with max-Q backup, and neither, three updates each."""

import equinox as eqx
import jax
import jax.numpy as jnp
from fixture import Fixture, Link, drawing, heads

from tether.algorithms.cal_ql import CalQL, calibrated
from tether.algorithms.cql import CQLState
from tether.algorithms.sac import soft_actor_loss
from tether.types import Array, Transition

ACTOR, Q = [Link("actor", lambda s: s.actor.network)], heads(lambda s: s.critic, "q1", "q2")
ALL = ACTOR + Q + heads(lambda s: s.target_critic, "target_q1", "target_q2")


def algorithm(x: Fixture, case: str) -> CalQL:
    sizes, lagrange = (x.number("hyper/hidden_size"),) * 2, bool(x.number(f"{case}/hyper/lagrange"))
    return CalQL(
        penalty_weight=x.number(f"{case}/hyper/penalty_weight"),
        penalty_target=x.number(f"{case}/hyper/penalty_target"),
        proposals=x.number("hyper/proposals"),
        lagrange=lagrange,
        max_q_backup=lagrange,
        hidden_sizes=sizes,
        actor_hidden_sizes=sizes,
    )


def keys(x: Fixture, learner: CalQL, update: int) -> tuple:
    """For the target, the proposals and the actor."""
    d, count = x.draws(update), learner.proposals if learner.max_q_backup else 1
    return d["target"][:, :count], (d["uniform"], d["own"], d["next"]), d["actor"]


def test_every_number_is_the_authors() -> None:
    x = Fixture("cal_ql")
    for case in ("lagrange", "plain"):
        learner = algorithm(x, case)
        state = x.start(learner, ALL)
        with drawing():
            update = jax.jit(learner.update)
            for u in range(3):
                before, key = state, keys(x, learner, u)
                batch = x.batch(u)._replace(return_to_go=x.row("batch/return_to_go", u))
                state, metrics = update(state, batch, key, jnp.int32(u))
                ours = {"td_loss": metrics["critic/q_loss"], "penalty": metrics["critic/penalty"]}
                ours |= {"policy_loss": metrics["actor/loss"], "log_entropy_weight": state.log_entropy_weight}
                if state.multiplier is not None:
                    ours["log_multiplier"] = state.multiplier.log_value
                x.compare_update(case, u, ours)
                if u == 0:
                    target, gradients = first_update(learner, before, batch, key)
                    x.compare(f"{case}/out/target", target)
                    x.compare_weights(f"{case}/gradient1", gradients, ACTOR + Q)
        x.compare_weights(f"{case}/update3", state, ALL)
    x.verdict()


@eqx.filter_jit
def first_update(learner: CalQL, before: CQLState, batch: Transition, key: tuple) -> tuple[Array, CQLState]:
    """y and the gradients of the first update, each network's at the others as they were."""
    cql = learner.conservative
    target = cql.critic_target(before, batch, key[0])
    proposals = calibrated(cql.propose(before.actor, batch, key[1]), batch.return_to_go, learner.proposals)
    multiplier = None if before.multiplier is None else jnp.exp(before.multiplier.log_value)
    critic, _ = eqx.filter_grad(cql.critic_loss, has_aux=True)(before.critic, batch, target, proposals, multiplier)
    weight = jnp.exp(before.log_entropy_weight)
    actor, _ = eqx.filter_grad(soft_actor_loss, has_aux=True)(before.actor, before.critic, batch, weight, key[2])
    return target, before._replace(critic=critic, actor=actor)
