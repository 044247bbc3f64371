"""Best-of-N against the numbers of the authors' code: both aggregations, three updates each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from fixture import Fixture, Link, act, drawing, heads

from tether.algorithms import best_of_n
from tether.algorithms.best_of_n import BestOfN, BestOfNState
from tether.algorithms.shared.losses import q_regression
from tether.diffusion.flow import flow_loss

Q = heads(lambda s: s.critic, "q1", "q2")
TARGET = heads(lambda s: s.target_critic, "target_q1", "target_q2")
FLOW = [Link("flow", lambda s: s.flow.network)]


@pytest.fixture(scope="module")
def x() -> Fixture:
    return Fixture("best_of_n")


def keys(x: Fixture, update: int) -> tuple:
    """For the critic's target, and for the flow."""
    d = x.draws(update)
    return d["next_noise"], (d["flow_noise"], d["time"])


def test_every_number_is_the_authors(x: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code's loader clips the data's actions, tether's update does."""
    monkeypatch.setattr(best_of_n, "clip_actions", lambda batch, max_action: batch)
    sizes = (x.number("hyper/hidden_size"),) * 4
    for case in ("mean", "min"):
        learner = BestOfN(hidden_sizes=sizes, aggregation=case, discount=x.number("hyper/discount"))
        start = x.start(learner, Q + TARGET + FLOW)
        with drawing():
            end = train(x, case, learner, start)
            actions = act(learner.policy(end), x.batch(0).observation, keys(x, 0)[0])
        x.compare_weights(f"{case}/update3", end, Q + TARGET + FLOW)
        x.compare(f"{case}/out/action", actions)
    x.verdict()


def train(x: Fixture, case: str, learner: BestOfN, state: BestOfNState) -> BestOfNState:
    update = jax.jit(learner.update)
    for u in range(3):
        batch, key = x.batch(u), keys(x, u)
        if u == 0:
            x.compare_weights(f"{case}/gradient1", first_gradients(learner, state, batch, key), Q + FLOW)
        state, metrics = update(state, batch, key, jnp.int32(u))
        ours = {name: metrics[f"critic/{metric}"] for name, metric in (("critic_loss", "q_loss"), ("q", "q"))}
        x.compare_update(case, u, ours | {"flow_loss": metrics["actor/flow_loss"]})
    return state


@eqx.filter_jit
def first_gradients(learner: BestOfN, before: BestOfNState, batch, key: tuple) -> BestOfNState:
    """Of the first update; the critic's loss is the heads' mean."""
    target = learner.critic_target(before, batch, key[0])
    critic = eqx.filter_grad(lambda critic: q_regression(critic, batch, target)[0] / 2)(before.critic)
    flow = eqx.filter_grad(flow_loss)(before.flow, batch.action, batch.observation, key[1])
    return before._replace(critic=critic, flow=flow)
