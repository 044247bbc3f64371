"""ReBRAC against the numbers of its authors' code: four updates, the actor's in the first and third."""

import equinox as eqx
import jax
import jax.numpy as jnp
from fixture import Fixture, Link, act, drawing, heads

from tether.algorithms.rebrac import ReBRAC
from tether.algorithms.shared.losses import q_regression

ACTOR, Q = [Link("actor", lambda s: s.actor.network)], heads(lambda s: s.critic, "q1", "q2")
TARGETS = [Link("target_actor", lambda s: s.target_actor.network)]
ALL = ACTOR + Q + TARGETS + heads(lambda s: s.target_critic, "target_q1", "target_q2")


def test_every_number_is_the_authors() -> None:
    x = Fixture("rebrac")
    penalties = {name: x.number(f"hyper/{name}") for name in ("actor_penalty", "critic_penalty")}
    learner = ReBRAC(hidden_sizes=(x.number("hyper/hidden_size"),) * 3, **penalties)
    state = x.start(learner, ALL)
    with drawing():
        update = jax.jit(learner.update)
        for u in range(4):
            before, noise = state, x.row("draw/next", u)
            batch = x.batch(u)._replace(next_action=x.row("batch/next_action", u))
            state, metrics = update(state, batch, noise, jnp.int32(u))
            x.compare_update("", u, {"critic_loss": metrics["critic/q_loss"]})
            if u % 2 == 0:
                often = learner.actor_update_interval  # metrics are those of all updates, in the mean
                ours = {"actor_loss": metrics["actor/loss"], "cloning_loss": metrics["actor/cloning_loss"]}
                x.compare_update("", u // 2, {name: value / often for name, value in ours.items()})
            if u == 0:
                target = jax.jit(learner.critic_target)(before, batch, noise)
                critic, _ = eqx.filter_jit(eqx.filter_grad(q_regression, has_aux=True))(before.critic, batch, target)
                actor, _ = eqx.filter_jit(eqx.filter_grad(learner.actor_loss, has_aux=True))(
                    before.actor, state.critic, batch
                )
                x.compare_weights("gradient1", before._replace(critic=critic, actor=actor), ACTOR + Q)
                x.compare_weights("update1", state, ALL)
    x.compare_weights("update4", state, ALL)
    x.compare("acting/action", act(learner.policy(state), x["acting/observation"]))
    x.verdict()
