"""DAC against the numbers of the authors' code: every kind of guidance and of reduction, three updates each."""

import functools

import jax
import jax.numpy as jnp
import pytest
from fixture import Fixture, Link, act, drawing, heads, norm

from tether.algorithms import dac
from tether.diffusion import vp
from tether.policies.samplers import NoiseSampler, ancestral_sampler
from tether.types import Array

SCHEDULE = vp.vp_schedule(5)
HALF = 8  # of the time features: cosines first in the fixture, sines in tether
TIME = [*range(HALF, 2 * HALF), *range(HALF)]
INPUT = [5, 6, *range(5), *range(7, 7 + 4 * HALF)]  # tether's order is action, observation, time
GUIDANCE, REDUCTION = ("soft", "hard", "denoised"), ("lcb", "min", "convex")


def actor_links(name: str) -> list[Link]:
    time = Link(f"{name}/time", lambda s: getattr(s, name).time, TIME)
    return [time, Link(f"{name}/trunk", lambda s: getattr(s, name).trunk, INPUT)]


ACTOR, TARGET_ACTOR = actor_links("actor"), actor_links("target_actor")
CRITIC = heads(lambda s: s.critic, "critic/0", "critic/1", "critic/2")
TARGET_CRITIC = heads(lambda s: s.target_critic, "target_critic/0", "target_critic/1", "target_critic/2")
ALL = [*ACTOR, *TARGET_ACTOR, *CRITIC, *TARGET_CRITIC]


@pytest.fixture(scope="module")
def x() -> Fixture:
    return Fixture("dac")


def chains(noise: Array) -> tuple[Array, Array]:
    """(start, the steps' noises) of chains."""
    return noise[..., 0, :], noise[..., 1:, :]


def keys(x: Fixture, update: int) -> tuple:
    """For the critic, and for the actor."""
    d = x.draws(update)
    return chains(d["critic_noise"]), ((d["step"], d["noise"]), chains(d["chain_noise"]))


def algorithm(x: Fixture, case: str, **how) -> dac.DAC:
    names = ("pessimism", "noise_bound", "eta_learning_rate", "critic_learning_rate")
    numbers = {name: x.number(f"{case}/hyper/{name}") for name in names}
    sizes = {name: x.number(f"hyper/{name}") for name in ("decay_updates", "next_actions", "candidates")}
    choices = {
        "eta_init": x.number(f"{case}/hyper/eta"),
        "guidance": GUIDANCE[int(x.number(f"{case}/hyper/guidance"))],
        "head_aggregation": REDUCTION[int(x.number(f"{case}/hyper/head_aggregation"))],
        "max_q_backup": bool(x.number(f"{case}/hyper/max_q_backup")),
        "ensemble_size": x.number("hyper/ensemble_size"),
        "hidden_sizes": (x.number("hyper/hidden_size"),) * 3,
    }
    return dac.DAC(**(numbers | sizes | choices | how))


def test_every_number_is_the_authors(x: Fixture) -> None:
    x.compare("schedule/beta", SCHEDULE.beta)
    x.compare("schedule/alpha_bar", SCHEDULE.alpha_bar)
    for case in ("soft", "hard", "denoised", "min", "convex", "max"):
        learner = algorithm(x, case)
        start = x.start(learner, ALL)._replace(eta=jnp.float32(learner.eta_init))
        with drawing():
            end = train(x, case, learner, start)
            if case == "soft":
                choose(x, learner, end)
    constant = algorithm(x, "soft", cosine_decay=False)
    step = jnp.int32(x.number("average/hyper/step"))
    start = x.start(constant, ALL)._replace(eta=jnp.float32(constant.eta_init))
    with drawing():
        averaged, _ = jax.jit(constant.update)(start, x.batch(0), keys(x, 0), step)
    x.compare_weights("average/update1", averaged, TARGET_ACTOR)
    x.verdict()


def train(x: Fixture, case: str, learner: dac.DAC, state: dac.DACState) -> dac.DACState:
    update = jax.jit(learner.update)
    for u in range(3):
        before, batch, key = state, x.batch(u), keys(x, u)
        state, metrics = update(state, batch, key, jnp.int32(u))
        steepness, scale = guidance(state.target_critic, batch, key[1][0])
        ours = {
            "critic_loss": metrics["critic/loss"],
            "q": metrics["critic/q"],
            "q_std": metrics["critic/q_std"],
            "noise_error": metrics["actor/noise_error"],
            "guidance": metrics["actor/guidance"],
            "actor_loss": before.eta * metrics["actor/noise_error"] + metrics["actor/guidance"],
            "q_scale": scale - 1e-6,
            "q_gradient": steepness,
            "eta": state.eta,
        }
        x.compare_update(case, u, ours)
        if u == 0:
            target = jax.jit(learner.critic_target)(before, batch, key[0])
            gradients = first_gradients(learner.guidance, before, state, batch, target, key[1])
            x.compare(f"{case}/out/target", target)
            x.compare(f"{case}/out/gradient_norm_critic", norm(gradients.critic))
            x.compare(f"{case}/out/gradient_norm_actor", norm(gradients.actor))
            if case in GUIDANCE:
                x.compare_weights(f"{case}/gradient1", gradients, [*ACTOR, *(CRITIC if case == "soft" else [])])
        if u == 0 and case == "soft":
            x.compare_weights("soft/update1", state, [*ACTOR, *CRITIC, *TARGET_CRITIC])
            actions, q = next_actions(before, batch, key[0])
            x.compare("sampler/next_action", actions)
            x.compare("sampler/next_q", q)
    if case in GUIDANCE:
        x.compare_weights(f"{case}/update3", state, [*ACTOR, *CRITIC, *(TARGET_CRITIC if case == "soft" else [])])
    return state


@jax.jit
def next_actions(state: dac.DACState, batch, key: tuple) -> tuple[Array, Array]:
    """Those of the averaged actor in the next states, and what every head thinks of them."""
    chain = jax.vmap(ancestral_sampler(SCHEDULE, True), in_axes=(None, None, 0))
    actions = jax.vmap(chain, in_axes=(None, 0, 0))(state.target_actor, batch.next_observation, key)
    q = jax.vmap(jax.vmap(state.target_critic, in_axes=(None, 0)))(batch.next_observation, actions)
    return actions, jnp.moveaxis(q, 2, 0)


@jax.jit
def guidance(target_critic, batch, key: tuple) -> tuple[Array, Array]:
    """Mean of |grad Q / C| at the noisy actions, before sigma_t fades it, and C."""
    field, scale = dac.DAC(guidance="hard").guidance_field(
        target_critic, batch, vp.diffuse(SCHEDULE, batch.action, key)
    )
    return jnp.mean(jnp.abs(field)), scale


@functools.partial(jax.jit, static_argnums=0)
def first_gradients(guidance: str, before: dac.DACState, after: dac.DACState, batch, target: Array, key: tuple):
    """Those of the first update, the actor's at the critics' averages that have moved."""
    learner, diffused = dac.DAC(guidance=guidance), vp.diffuse(SCHEDULE, batch.action, key[0])
    critic, _ = jax.grad(dac.critic_loss, has_aux=True)(before.critic, batch, target)
    if guidance == "denoised":
        grad = jax.grad(learner.denoised_loss, has_aux=True)
        actor, _ = grad(before.actor, after.target_critic, batch, diffused, before.eta, key[1])
    else:
        field, _ = learner.guidance_field(after.target_critic, batch, diffused)
        grad = jax.grad(dac.guided_loss, has_aux=True)
        actor, _ = grad(before.actor, batch.observation, diffused, field, before.eta)
    return before._replace(critic=critic, actor=actor)


def choose(x: Fixture, learner: dac.DAC, state: dac.DACState) -> None:
    """What the policy makes of its candidates."""
    observation, key = x["acting/observation"], chains(x["acting/noise"])
    x.compare("acting/action", act(learner.policy(state), observation, key))
    sampler = NoiseSampler(state.actor, learner.diffusion_steps, True)

    @jax.jit
    def judged(observation: Array, key: tuple) -> tuple[Array, Array]:
        candidates = jax.vmap(lambda o, k: sampler.sample(o, k, learner.candidates))(observation, key)
        q = jax.vmap(jax.vmap(state.target_critic, in_axes=(None, 0)))(observation, candidates)
        return candidates, q.mean(axis=2)

    candidates, q = judged(observation, key)
    x.compare("acting/candidates", candidates)
    x.compare("acting/q", q)
