"""Diffusion-QL against the numbers of the authors' code: both backups, three updates each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from fixture import Fixture, Link, act, drawing, heads, norm

from tether.algorithms.dql import DQL, DQLState, chain_q_target
from tether.algorithms.shared.losses import q_regression
from tether.algorithms.shared.optimisers import clip_by_global_norm
from tether.diffusion import vp
from tether.policies.samplers import NoiseSampler, ancestral_sampler
from tether.types import Array

SCHEDULE = vp.vp_schedule(5, variance="posterior")
DRAW = ancestral_sampler(SCHEDULE, True)
INPUT = [0, 1, *range(18, 23), *range(2, 18)]  # tether's order is action, observation, time
ACTOR = [Link("actor/time", lambda s: s.actor.time), Link("actor/trunk", lambda s: s.actor.trunk, INPUT)]
Q = heads(lambda s: s.critic, "q1", "q2")
TARGETS = [
    Link("target_actor/time", lambda s: s.target_actor.time),
    Link("target_actor/trunk", lambda s: s.target_actor.trunk, INPUT),
    *heads(lambda s: s.target_critic, "target_q1", "target_q2"),
]
ALL = ACTOR + Q + TARGETS


@pytest.fixture(scope="module")
def x() -> Fixture:
    return Fixture("dql")


def algorithm(x: Fixture, case: str) -> DQL:
    return DQL(
        q_weight=x.number(f"{case}/hyper/q_weight"),
        gradient_norm=x.number(f"{case}/hyper/gradient_norm"),
        max_q_backup=bool(x.number(f"{case}/hyper/max_q_backup")),
        hidden_sizes=(x.number("hyper/hidden_size"),) * 3,
    )


def keys(x: Fixture, learner: DQL, update: int) -> tuple:
    """For the target's chains, and for the actor."""
    d = x.draws(update)
    of_actor = (d["step"], d["noise"]), (d["actor_start"], d["actor_chain"]), d["coin"].astype(bool)
    return (d["start"][:, : samples(learner)], d["chain"][:, : samples(learner)]), of_actor


def samples(learner: DQL) -> int:
    return learner.backup_samples if learner.max_q_backup else 1


def test_every_number_is_the_authors(x: Fixture) -> None:
    x.compare("schedule/betas", SCHEDULE.beta[1:])
    x.compare("schedule/alpha_bar", SCHEDULE.alpha_bar[1:])
    x.compare("schedule/posterior_variance", SCHEDULE.deviation[1:] ** 2)
    for case in ("mean", "max"):
        learner = algorithm(x, case)
        start = x.start(learner, ALL)
        with drawing():
            end = train(x, case, learner, start)
            if case == "mean":
                choose(x, learner, end)
    x.verdict()


def train(x: Fixture, case: str, learner: DQL, state: DQLState) -> DQLState:
    update = jax.jit(learner.update)
    for u in range(3):
        before, batch, key = state, x.batch(u), keys(x, learner, u)
        state, metrics = update(state, batch, key, jnp.int32(x.number("hyper/first_update") + u))
        cloning, loss = metrics["actor/cloning_loss"], metrics["actor/loss"]
        ours = {"critic_loss": metrics["critic/q_loss"], "cloning_loss": cloning, "actor_loss": loss}
        x.compare_update(case, u, ours | {"q_loss": (loss - cloning) / learner.q_weight})
        if u == 0:
            action, q, target, gradients = first_update(learner, before, state, batch, key)
            x.compare(f"{case}/out/next_action", action)
            x.compare(f"{case}/out/next_q", q)
            x.compare(f"{case}/out/target", target)
            x.compare_weights(f"{case}/gradient1", gradients, ACTOR + Q)
            x.compare(f"{case}/out/gradient_norm_critic", norm(gradients.critic))
            x.compare(f"{case}/out/gradient_norm_actor", norm(gradients.actor))
        if u == 2 or (u == 0 and case == "mean"):
            x.compare_weights(f"{case}/update{u + 1}", state, ALL)
    return state


@eqx.filter_jit
def first_update(learner: DQL, before: DQLState, after: DQLState, batch, key: tuple):
    """a', every head's Q of it, y, and the gradients after clipping, the actor's at the critic that has moved."""
    chain = jax.vmap(jax.vmap(DRAW, in_axes=(None, None, 0)), in_axes=(None, 0, 0))
    action = chain(before.target_actor, batch.next_observation, key[0])
    q = jax.vmap(jax.vmap(before.target_critic, in_axes=(None, 0)))(batch.next_observation, action)
    networks = before.target_actor, before.target_critic
    target = chain_q_target(DRAW, *networks, batch, learner.discount, samples(learner), key[0])
    critic, _ = eqx.filter_grad(q_regression, has_aux=True)(before.critic, batch, target)
    actor, _ = eqx.filter_grad(learner.actor_loss, has_aux=True)(before.actor, after.critic, batch, key[1])
    critic, actor = (clip_by_global_norm(gradient, learner.gradient_norm) for gradient in (critic, actor))
    return action, jnp.moveaxis(q, 2, 0), target, before._replace(critic=critic, actor=actor)


def choose(x: Fixture, learner: DQL, state: DQLState) -> None:
    """What the policy makes of its candidates."""
    observation, chains = x["acting/observation"], (x["acting/start"], x["acting/chain"])
    x.compare("acting/action", act(learner.policy(state), observation, (x["acting/gumbel"], chains)))
    sampler = NoiseSampler(state.actor, learner.diffusion_steps, variance="posterior")

    @jax.jit
    def judged(observation: Array, key: tuple) -> Array:
        actions = jax.vmap(lambda o, k: sampler.sample(o, k, learner.candidates))(observation, key)
        q = jax.vmap(jax.vmap(state.target_critic.least, in_axes=(None, 0)))(observation, actions)
        return jax.nn.softmax(q, axis=1)

    x.compare("acting/probability", judged(observation, chains))
