"""TD3+BC against the numbers of CORL's code: four updates."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from fixture import Fixture, Link, act, drawing, heads, norm

from tether.algorithms.shared.losses import q_regression, smoothed_action
from tether.algorithms.td3_bc import TD3BC, TD3BCState
from tether.networks import QEnsemble
from tether.types import Array

ACTOR, Q = [Link("actor", lambda s: s.actor.network)], heads(lambda s: s.critic, "q1", "q2")
TARGETS = [Link("target_actor", lambda s: s.target_actor.network)]
TARGETS += heads(lambda s: s.target_critic, "target_q1", "target_q2")
ALL = ACTOR + Q + TARGETS


@pytest.fixture(scope="module")
def x() -> Fixture:
    return Fixture("td3_bc")


def test_every_number_is_corls(x: Fixture) -> None:
    learner = TD3BC(hidden_sizes=(x.number("hyper/hidden_size"),) * 2)
    state = x.start(learner, ALL)
    with drawing():
        update = jax.jit(learner.update)
        for u in range(4):
            before, batch, noise = state, x.batch(u), x.row("draw/noise", u)
            # CORL's updates are numbered from 1; the actor moves in the even ones, as tether's from 0.
            state, metrics = update(state, batch, noise, jnp.int32(x.number("hyper/first_update") + u))
            x.compare_update("", u, {"critic_loss": metrics["critic/q_loss"]})
            if u == 0:
                action, target, gradient = first_critic_step(learner, before, batch, noise)
                x.compare("out/next_action", action)
                x.compare("out/target", target)
                x.compare_weights("gradient1", before._replace(critic=gradient), Q)
                x.compare_weights("update1", state, Q)
            if u == 1:
                grad = eqx.filter_jit(eqx.filter_grad(learner.actor_loss, has_aux=True))
                gradient, _ = grad(before.actor, state.critic, batch)
                x.compare_weights("gradient2", before._replace(actor=gradient), ACTOR)
                x.compare("out/gradient_norm_actor", norm(gradient))
            if u in (1, 3):
                loss = metrics["actor/loss"] / learner.actor_update_interval
                x.compare_update("", u // 2, {"actor_loss": loss})
                x.compare_weights(f"update{u + 1}", state, ALL)
    x.compare("acting/action", act(learner.policy(state), x["acting/observation"]))
    x.verdict()


@eqx.filter_jit
def first_critic_step(learner: TD3BC, before: TD3BCState, batch, noise: Array) -> tuple[Array, Array, QEnsemble]:
    """a', y and the critic's gradient."""
    how = learner.target_noise, learner.target_noise_limit, 1.0
    action = smoothed_action(jax.vmap(before.target_actor)(batch.next_observation), noise, *how)
    target = learner.critic_target(before, batch, noise)
    gradient, _ = eqx.filter_grad(q_regression, has_aux=True)(before.critic, batch, target)
    return action, target, gradient
