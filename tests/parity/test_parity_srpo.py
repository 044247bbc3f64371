"""SRPO against the numbers of the authors' code: three updates of each phase, raw and normalised gradients."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from fixture import Fixture, Link, act, drawing, heads, norm

from tether.algorithms.iql import InSampleCritic
from tether.algorithms.shared.losses import expectile_loss, q_regression, td_target
from tether.algorithms.srpo import SRPO, SRPOState
from tether.diffusion import vp_sde
from tether.networks.denoiser import fixed_frequencies
from tether.types import Array

INPUT = [*range(2, 7), 0, 1]  # Q's; tether's order is observation, action
BLOCKS = 2
TIME, ACTOR = [Link("behaviour_time", lambda s: s.behaviour.time)], [Link("actor", lambda s: s.actor.network)]
BEHAVIOUR = [Link(f"behaviour/{part}", lambda s, part=part: getattr(s.behaviour, part)) for part in ("first", "last")]
BEHAVIOUR += [
    Link(f"behaviour/block{i}/{part}", lambda s, i=i, part=part: getattr(s.behaviour.blocks[i], part))
    for i in range(BLOCKS)
    for part in ("norm", "widen", "narrow")
]
CRITIC = [*heads(lambda s: s.critic.q, "q1", "q2", columns=INPUT), Link("value", lambda s: s.critic.value.network)]
TARGET = heads(lambda s: s.target_critic, "target_q1", "target_q2", columns=INPUT)


@pytest.fixture(scope="module")
def x() -> Fixture:
    return Fixture("srpo")


def algorithm(x: Fixture, case: str) -> SRPO:
    size = x.number("hyper/hidden_size")
    return SRPO(
        q_weight=x.number(f"{case}/hyper/q_weight"),
        expectile=x.number(f"{case}/hyper/expectile"),
        normalize_gradient=bool(x.number(f"{case}/hyper/normalize_gradient")),
        decay_updates=x.number("hyper/decay_updates"),
        hidden_sizes=(size, size),
        actor_hidden_sizes=(size, size),
        width=size,
        block_count=BLOCKS,
    )


def keys(x: Fixture, phase: str, update: int) -> tuple[Array, Array]:
    """Times and noise."""
    return x.row(f"draw/{phase}_u", update), x.row(f"draw/{phase}_noise", update)


def test_every_number_is_the_authors(x: Fixture) -> None:
    assert (fixed_frequencies(32, 30.0) == x["input/frequencies"]).all()
    for case in ("plain", "normalized"):
        learner = algorithm(x, case)
        start = x.start(learner, TIME + BEHAVIOUR + ACTOR + CRITIC + TARGET)
        with drawing():
            end = train_policy(x, case, learner, start)
            train_critic(x, case, learner, start)
            if case == "plain":
                x.compare("acting/action", act(learner.policy(end), x["acting/observation"]))
                train_behaviour(x, learner, start)
    x.verdict()


def train_policy(x: Fixture, case: str, learner: SRPO, state: SRPOState) -> SRPOState:
    update = jax.jit(learner.update)
    for u in range(3):
        before, batch, key = state, x.batch(u), keys(x, "actor", u)
        state, metrics = update(state, batch, key, jnp.int32(u))
        x.compare_update(case, u, {"q": metrics["actor/q"]})
        if u == 0:
            grad = eqx.filter_jit(eqx.filter_grad(learner.actor_loss, has_aux=True))
            gradient, _ = grad(before.actor, before, batch.observation, key)
            x.compare_weights(f"{case}/gradient1", before._replace(actor=gradient), ACTOR)
            x.compare(f"{case}/out/gradient_norm_actor", norm(gradient))
        if u != 1:
            x.compare_weights(f"{case}/update{u + 1}", state, ACTOR)
    return state


def train_critic(x: Fixture, case: str, learner: SRPO, state: SRPOState) -> None:
    """The fixture's loss of Q is the heads' mean, tether's metric their sum."""
    if case == "plain":
        x.compare_weights("plain/gradient1", critic_gradients(learner, state, x.batch(0)), CRITIC)
    update = jax.jit(learner.critic_update)
    for u in range(3):
        state, metrics = update(state, x.batch(u), None, jnp.int32(u))
        losses = {"q_loss": metrics["critic/q_loss"] / 2, "value_loss": metrics["critic/value_loss"]}
        x.compare_update(case, u, losses)
    x.compare_weights(f"{case}/critic3", state, CRITIC + TARGET)


@eqx.filter_jit
def critic_gradients(learner: SRPO, state: SRPOState, batch) -> SRPOState:
    goal = jax.vmap(state.target_critic.least)(batch.observation, batch.action)
    next_value = jax.vmap(state.critic.value)(batch.next_observation)
    target = td_target(batch.reward, learner.discount, batch.terminal, next_value)

    def value_loss(value) -> Array:
        return expectile_loss(goal - jax.vmap(value)(batch.observation), learner.expectile)

    q = eqx.filter_grad(lambda q: q_regression(q, batch, target)[0] / 2)(state.critic.q)
    return state._replace(critic=InSampleCritic(q, eqx.filter_grad(value_loss)(state.critic.value)))


def train_behaviour(x: Fixture, learner: SRPO, state: SRPOState) -> None:
    update = jax.jit(learner.behaviour_update)
    for u in range(3):
        batch, key = x.batch(u), keys(x, "behaviour", u)
        if u == 0:
            grad = eqx.filter_jit(eqx.filter_grad(vp_sde.noise_loss))
            gradient = grad(state.behaviour, batch.observation, vp_sde.diffuse(batch.action, key))
            x.compare_weights("plain/gradient1", state._replace(behaviour=gradient), BEHAVIOUR)
            x.compare("plain/out/gradient_norm_behaviour", norm(gradient))
        state, metrics = update(state, batch, key, jnp.int32(u))
        x.compare_update("plain", u, {"behaviour_loss": metrics["behaviour/loss"]})
    x.compare_weights("plain/behaviour3", state, TIME + BEHAVIOUR)
