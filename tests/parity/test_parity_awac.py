"""AWAC against the numbers of CORL's code, three updates each: lambda 1/3, and one with weights at their limit."""

import equinox as eqx
import jax
import jax.numpy as jnp
from fixture import Fixture, Link, act, drawing, heads

from tether.algorithms.awac import AWAC, AWACState
from tether.algorithms.shared.losses import q_regression
from tether.types import Array, Transition

ACTOR = [Link("actor", lambda s: s.actor.network), Link("actor/log_std", lambda s: s.actor.log_std)]
Q = heads(lambda s: s.critic, "q1", "q2")
ALL = ACTOR + Q + heads(lambda s: s.target_critic, "target_q1", "target_q2")


def test_every_number_is_corls() -> None:
    x = Fixture("awac")
    for case in ("plain", "sharp"):
        sizes = (x.number("hyper/hidden_size"),) * 3
        learner = AWAC(temperature=x.number(f"{case}/hyper/temperature"), hidden_sizes=sizes)
        state = x.start(learner, ALL)
        with drawing():
            update = jax.jit(learner.update)
            for u in range(3):
                before, batch, d = state, x.batch(u), x.draws(u)
                key = d["next"][:, None], d["own"][:, None]  # one draw for each row
                state, metrics = update(state, batch, key, jnp.int32(u))
                target, weight, gradients = pieces(learner, before, state, batch, key)
                ours = {"critic_loss": metrics["critic/q_loss"], "actor_loss": metrics["actor/loss"]}
                x.compare_update(case, u, ours | {"weight": weight})
                if u == 0:
                    x.compare(f"{case}/out/target", target)
                    x.compare_weights(f"{case}/gradient1", gradients, ACTOR + Q)
        x.compare_weights(f"{case}/update3", state, ALL)
        x.compare(f"{case}/acting/action", act(learner.policy(state), x["acting/observation"]))
    x.verdict()


@eqx.filter_jit
def pieces(
    learner: AWAC, before: AWACState, after: AWACState, batch: Transition, key: tuple
) -> tuple[Array, Array, AWACState]:
    """y, the actor's weights and the gradients of an update; the actor looks at the critic after its step."""
    target = learner.critic_target(before, batch, key[0])
    critic, _ = eqx.filter_grad(q_regression, has_aux=True)(before.critic, batch, target)
    actor, weight = eqx.filter_grad(learner.actor_loss, has_aux=True)(before.actor, after.critic, batch, key[1])
    return target, weight, before._replace(critic=critic, actor=actor)
