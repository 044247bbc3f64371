"""FQL against the numbers of the authors' code: both aggregations, three updates each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from fixture import Fixture, Link, act, drawing, heads, norm

from tether.algorithms import fql
from tether.algorithms.fql import FQL, FQLState, one_step_action
from tether.algorithms.shared.losses import q_regression
from tether.diffusion.flow import euler_flow
from tether.types import Array

Q = heads(lambda s: s.critic, "q1", "q2")
TARGET = heads(lambda s: s.target_critic, "target_q1", "target_q2")
ACTORS = [Link("flow", lambda s: s.actors.flow.network), Link("one_step", lambda s: s.actors.one_step.network)]


@pytest.fixture(scope="module")
def x() -> Fixture:
    return Fixture("fql")


def keys(x: Fixture, update: int) -> tuple:
    """For the critic's target, and for the actors."""
    d = x.draws(update)
    return d["next_noise"], ((d["flow_noise"], d["time"]), d["noise"])


def algorithm(x: Fixture, case: str) -> FQL:
    return FQL(
        distillation_weight=x.number(f"{case}/hyper/distillation_weight"),
        discount=x.number(f"{case}/hyper/discount"),
        normalize_q=bool(x.number(f"{case}/hyper/normalize_q")),
        aggregation="min" if x.number(f"{case}/hyper/minimum") else "mean",
        hidden_sizes=(x.number("hyper/hidden_size"),) * 4,
    )


def test_every_number_is_the_authors(x: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code's loader clips the data's actions, tether's update does; the fixture has some at the bounds."""
    monkeypatch.setattr(fql, "clip_actions", lambda batch, max_action: batch)
    for case in ("mean", "min"):
        learner = algorithm(x, case)
        start = x.start(learner, Q + TARGET + ACTORS)
        with drawing():
            end = train(x, case, learner, start)
            if case == "mean":
                actions_of(x, learner, start)
                noise = x["acting/noise"][:, None]
                x.compare("acting/action", act(learner.policy(end), x["acting/observation"], noise))
    x.verdict()


def train(x: Fixture, case: str, learner: FQL, state: FQLState) -> FQLState:
    update = jax.jit(learner.update)
    for u in range(3):
        before, batch, key = state, x.batch(u), keys(x, u)
        state, metrics = update(state, batch, key, jnp.int32(u))
        ours = {
            "critic_loss": metrics["critic/q_loss"],
            "q": metrics["critic/q"],
            "flow_loss": metrics["actor/flow_loss"],
            "distillation_loss": metrics["actor/distillation_loss"],
            "actor_q": metrics["actor/q"],
            "actor_loss": metrics["actor/loss"],
        }
        x.compare_update(case, u, ours)
        if u == 0:
            target, gradients = first_gradients(learner, before, batch, key)
            x.compare(f"{case}/out/target", target)
            x.compare_weights(f"{case}/gradient1", gradients, Q + ACTORS)
            x.compare(f"{case}/out/gradient_norm_critic", norm(gradients.critic))
            x.compare(f"{case}/out/gradient_norm_actors", norm(gradients.actors))
        if u == 2 or (u == 0 and case == "mean"):
            x.compare_weights(f"{case}/update{u + 1}", state, Q + TARGET + ACTORS)
    return state


@eqx.filter_jit
def first_gradients(learner: FQL, before: FQLState, batch, key: tuple) -> tuple[Array, FQLState]:
    """y and the gradients of the first update; the critic's loss is the heads' mean."""
    target = learner.critic_target(before, batch, key[0])
    critic = eqx.filter_grad(lambda critic: q_regression(critic, batch, target)[0] / 2)(before.critic)
    actors, _ = eqx.filter_grad(learner.actor_loss, has_aux=True)(before.actors, before.critic, batch, key[1])
    return target, before._replace(critic=critic, actors=actors)


def actions_of(x: Fixture, learner: FQL, start: FQLState) -> None:
    """Both actors' actions for the first update's noise."""
    batch, key, actors = x.batch(0), keys(x, 0), start.actors
    one = jax.jit(jax.vmap(lambda o, z: one_step_action(actors.one_step, o, z)))
    x.compare("out/next_action", one(batch.next_observation, key[0]))
    flow = jax.jit(jax.vmap(lambda z, o: euler_flow(actors.flow, z, o, learner.flow_steps, 1.0)))
    x.compare("out/flow_action", flow(key[1][1], batch.observation))
