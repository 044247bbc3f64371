"""IQL's pieces, in the order of CORL's code, against its numbers: one update.

The authors' code, and tether, take the value after its step where CORL takes it before, and move Q last.
"""

import equinox as eqx
import jax
import pytest
from fixture import Fixture, Link, act, heads, norm

from tether.algorithms import iql
from tether.algorithms.shared.losses import advantage_weights, expectile_loss, polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_step
from tether.types import Array

ACTOR = [Link("actor", lambda s: s.actor.network), Link("actor/log_std", lambda s: s.actor.log_std)]
Q, VALUE = heads(lambda s: s.critic, "q1", "q2"), [Link("value", lambda s: s.value.network)]
ALL = ACTOR + Q + VALUE + heads(lambda s: s.target_critic, "target_q1", "target_q2")


@pytest.fixture(scope="module")
def x() -> Fixture:
    return Fixture("iql")


def test_every_number_is_corls(x: Fixture) -> None:
    learner = iql.IQL(hidden_sizes=(x.number("hyper/hidden_size"),) * 2)
    numbers, gradients, end = update(learner, x.start(learner, ALL), x.batch(0))
    for name, ours in numbers.items():
        x.compare(f"out/{name}", ours)
    x.compare_weights("gradient1", gradients, ACTOR + Q + VALUE)
    networks = {"value": gradients.value, "actor": gradients.actor}
    networks |= dict(zip(("q1", "q2"), gradients.critic.heads, strict=True))
    for name, network in networks.items():
        x.compare(f"out/gradient_norm_{name}", norm(network))
    x.compare_weights("update1", end, ALL)
    x.compare("acting/action", act(learner.policy(end), x["acting/observation"]))
    x.verdict()


@eqx.filter_jit
def update(learner: iql.IQL, start: iql.IQLState, batch) -> tuple[dict[str, Array], iql.IQLState, iql.IQLState]:
    """Every number of the update, the gradients, and the state after it."""
    q = iql.least_q(start, batch)
    advantage = q - jax.vmap(start.value)(batch.observation)
    weight = advantage_weights(advantage, learner.inverse_temperature, iql.WEIGHT_LIMIT)
    next_value = jax.vmap(start.value)(batch.next_observation)
    target = td_target(batch.reward, learner.discount, batch.terminal, next_value)

    def value_loss(values: Array) -> Array:
        return expectile_loss(q - values, learner.expectile)

    def grad(loss, network):
        return eqx.filter_value_and_grad(loss)(network)

    of_value, value = grad(lambda value: value_loss(jax.vmap(value)(batch.observation)), start.value)
    of_q, critic = grad(lambda critic: q_regression(critic, batch, target)[0] / 2, start.critic)
    of_actor, actor = grad(lambda actor: iql.weighted_cloning_loss(actor, batch, weight), start.actor)
    numbers = {"advantage": advantage, "weight": weight, "target": target}
    numbers |= {"value_loss": of_value, "q_loss": of_q, "actor_loss": of_actor}
    numbers["log_density"] = jax.vmap(start.actor.log_density)(batch.observation, batch.action)
    gradients = start._replace(value=value, critic=critic, actor=actor)

    valued, _ = iql.step_value(start, batch.observation, value_loss, learner.critic_learning_rate)
    acted, _ = iql.step_actor(start, batch, weight, learner.learning_rate, None)
    moved, _ = adam_step(start.critic, critic, start.critic_optimiser, learner.critic_learning_rate)
    average = polyak(start.target_critic, moved, learner.target_rate)
    end = start._replace(value=valued.value, actor=acted.actor, critic=moved, target_critic=average)
    return numbers, gradients, end
