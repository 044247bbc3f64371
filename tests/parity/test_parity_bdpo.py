"""BDPO against the numbers of the authors' code: samplers, path KL, targets, and the updates of both phases."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from fixture import Fixture, Link, act, drawing, heads, norm

from tether.algorithms import bdpo
from tether.diffusion import vp
from tether.networks import stack_heads, unstack_heads
from tether.policies.samplers import NoiseSampler
from tether.types import Array

FEATURES = 16  # of the time: cosines first in the fixture, sines in tether
TIME = [*range(FEATURES // 2, FEATURES), *range(FEATURES // 2)]
INPUT = [0, 1, *range(2 + FEATURES, 7 + FEATURES), *range(2, 2 + FEATURES)]  # tether's: action, observation, time
HEADS = range(3)


def noise_links(name: str) -> list[Link]:
    time = Link(f"{name}/time", lambda s: getattr(s, name).time, TIME)
    return [time, Link(f"{name}/trunk", lambda s: getattr(s, name).trunk, INPUT)]


def critic_links(field: str, prefix: str = "") -> list[Link]:
    links = heads(lambda s: getattr(s, field).q, *(f"{prefix}q/{k}" for k in HEADS))
    for k in HEADS:
        value = lambda s, k=k: getattr(s, field).value.heads[k]  # noqa: E731
        links.append(Link(f"{prefix}value/{k}/time", lambda s, value=value: value(s).time, TIME))
        links.append(Link(f"{prefix}value/{k}/network", lambda s, value=value: value(s).network))
    return links


ACTOR, TARGET_ACTOR = noise_links("actor"), noise_links("target_actor")
BEHAVIOUR, TARGET_BEHAVIOUR = noise_links("behaviour"), noise_links("target_behaviour")
ONLINE = critic_links("critics") + BEHAVIOUR + ACTOR
AVERAGES = critic_links("target_critics", "target_") + TARGET_BEHAVIOUR + TARGET_ACTOR


@pytest.fixture(scope="module")
def x() -> Fixture:
    return Fixture("bdpo")


def algorithm(x: Fixture, **how) -> bdpo.BDPO:
    names = ("eta", "pessimism", "learning_rate", "critic_learning_rate", "actor_warmup_updates")
    names += ("actor_update_interval", "ensemble_size", "samples", "candidates", "time_embedding_size")
    numbers, size = {name: x.number(f"hyper/{name}") for name in names}, x.number("hyper/hidden_size")
    sizes = {"hidden_sizes": (size,) * 3, "noise_hidden_sizes": (size,) * 4}
    choices = {"cosine_decay": False, "behaviour_in_training": "continuing"}
    return bdpo.BDPO(**(numbers | sizes | choices | how))


def keys(x: Fixture, update: int) -> tuple:
    """For Q, V, the actor and the behaviour."""
    d = x.draws(update)
    value, actor = (((d[f"{of}_offset"], d[f"{of}_noise"]), d[f"{of}_reverse"]) for of in ("value", "actor"))
    return (d["start"], d["chain"]), value, actor, (d["behaviour_step"], d["behaviour_noise"])


def test_every_number_is_the_authors(x: Fixture) -> None:
    learner, schedule = algorithm(x), vp.vp_schedule(x.number("hyper/diffusion_steps"))
    start = x.start(learner, ONLINE + AVERAGES)
    x.compare("schedule/beta", schedule.beta)
    x.compare("schedule/alpha_bar", schedule.alpha_bar)
    with drawing():
        for name, number in chains(learner, start, x.batch(0), keys(x, 0)[0]).items():
            x.compare(name, number)
        best = eqx.filter_jit(algorithm(x, max_q_backup=True).q_target)
        x.compare("q_target/max", best(start, x.batch(0), keys(x, 0)[0])[0])
        numbers, gradients = value_and_gradients(learner, start, x.batch(0), keys(x, 0))
        for name, number in numbers.items():
            x.compare(name, number)
        x.compare_weights("gradient1", gradients, ONLINE)
        parts = {"q": gradients.critics.q, "value": gradients.critics.value}
        for name, part in (parts | {"actor": gradients.actor, "behaviour": gradients.behaviour}).items():
            x.compare(f"out/gradient_norm_{name}", norm(part))
        update = jax.jit(learner.update)
        choose(x, learner, train(x, learner, update, start))
        handed, _ = update(stack_heads(start), x.batch(0), keys(x, 0), jnp.int32(0))
        x.compare_weights("handover/update1", handed, ACTOR + TARGET_ACTOR)
        pretrain(x, learner, start)
    x.verdict()


@eqx.filter_jit
def chains(learner: bdpo.BDPO, start: bdpo.BDPOState, batch, key: tuple) -> dict[str, Array]:
    """The averaged actor's chains, their path KL, and Q's target."""
    schedule, steps = vp.vp_schedule(learner.diffusion_steps), jnp.arange(learner.diffusion_steps, 0, -1, jnp.int32)

    def chain(observation: Array, key: tuple) -> tuple[vp.Path, Array, Array, Array]:
        path = vp.sample_path(schedule, start.target_actor, observation, key, 2, 1.0)
        behaviour = jax.vmap(lambda a, n: start.target_behaviour(a, observation, n))(path.noisy_actions, steps)
        kls = jax.vmap(lambda n, e, b: vp.kernel_kl(schedule, n, e, b))(steps, path.predicted_noises, behaviour)
        return path, behaviour, kls, start.target_critics.q(observation, path.action)

    path, behaviour, kls, q = jax.vmap(jax.vmap(chain, in_axes=(None, 0)))(batch.next_observation, key)
    return {
        "sampler/path": path.noisy_actions,
        "sampler/predicted_noise": path.predicted_noises,
        "sampler/action": path.action,
        "path_kl/behaviour_noise": behaviour,
        "path_kl/steps": kls,
        "path_kl/mean": kls.sum(axis=2).mean(axis=1),
        "q_target/next_q": jnp.moveaxis(q, 2, 0),
        "q_target/mean": learner.q_target(start, batch, key)[0],
    }


@eqx.filter_jit
def value_and_gradients(learner: bdpo.BDPO, start: bdpo.BDPOState, batch, key: tuple):
    """V's target and what it is made of; the gradients of the four losses, all at `start`."""
    q_key, (noise_key, step_key), (actor_noise_key, actor_step_key), behaviour_key = key
    schedule, observation = vp.vp_schedule(learner.diffusion_steps), batch.observation
    diffused = vp.diffuse_evenly(schedule, batch.action, noise_key)
    rows = diffused.noisy_action, observation, diffused.step
    predicted, behaviour = jax.vmap(start.target_actor)(*rows), jax.vmap(start.target_behaviour)(*rows)

    def reverse(action: Array, step: Array, predicted: Array, noises: Array) -> Array:
        return jax.vmap(lambda z: vp.reverse_step(schedule, action, step, predicted, z, 1.0))(noises)

    target, _ = learner.one_step_value(start.target_actor, start, observation, diffused, step_key, True)
    of_actor = vp.diffuse_evenly(schedule, batch.action, actor_noise_key)
    q_target, _ = learner.q_target(start, batch, q_key)
    q, _ = eqx.filter_grad(bdpo.q_loss, has_aux=True)(start.critics.q, batch, q_target)
    grad = eqx.filter_grad(bdpo.value_loss, has_aux=True)
    value, _ = grad(start.critics.value, observation, diffused, target)
    grad = eqx.filter_grad(learner.actor_loss, has_aux=True)
    actor, metrics = grad(start.actor, start, observation, of_actor, actor_step_key, True)
    noised = vp.diffuse(schedule, batch.action, behaviour_key)
    of_behaviour = eqx.filter_grad(vp.noise_loss)(start.behaviour, observation, noised)
    numbers = {
        "value_target/noisy_action": diffused.noisy_action,
        "value_target/reverse": jax.vmap(reverse)(diffused.noisy_action, diffused.step, predicted, step_key),
        "value_target/kl": jax.vmap(lambda *row: vp.kernel_kl(schedule, *row))(diffused.step, predicted, behaviour),
        "value_target/target": target,
        "out/actor_loss_at_start": metrics["actor/loss"],
    }
    return numbers, start._replace(critics=bdpo.Critics(q, value), actor=actor, behaviour=of_behaviour)


def train(x: Fixture, learner: bdpo.BDPO, update, start: bdpo.BDPOState) -> bdpo.BDPOState:
    """Three updates with the heads stacked, as the training loop has them; the actor moves in the first and third."""
    state = stack_heads(start)
    for u in range(3):
        before, batch, key = unstack_heads(state), x.batch(u), keys(x, u)
        state, metrics = update(state, batch, key, jnp.int32(x.number("hyper/first_update") + u))
        kl, spread, behaviour_loss = beside(learner, before, batch, key)
        names = ("critic/q_loss", "critic/q", "critic/value_loss", "critic/value")
        ours = {name.removeprefix("critic/"): metrics[name] for name in names}
        ours |= {"penalty": metrics["critic/path_kl"], "value_penalty": kl, "value_std": spread}
        x.compare_update("train", u, ours)
        if u != 1:
            loss = metrics["actor/loss"] / learner.actor_update_interval
            x.compare_update("train", u // 2, {"actor_loss": loss, "behaviour_loss": behaviour_loss})
            x.compare_weights(f"train/update{u + 1}", unstack_heads(state), ONLINE + (AVERAGES if u == 2 else []))
    return unstack_heads(state)


@eqx.filter_jit
def beside(learner: bdpo.BDPO, before: bdpo.BDPOState, batch, key: tuple) -> tuple[Array, Array, Array]:
    """What tether does not log: half the mean KL and V's spread at V's rows, and the behaviour's loss."""
    schedule = vp.vp_schedule(learner.diffusion_steps)
    diffused = vp.diffuse_evenly(schedule, batch.action, key[1][0])
    rows = diffused.noisy_action, batch.observation, diffused.step
    noises = jax.vmap(before.target_actor)(*rows), jax.vmap(before.target_behaviour)(*rows)
    kl = jax.vmap(lambda *row: vp.kernel_kl(schedule, *row))(diffused.step, *noises)
    value = jax.vmap(before.critics.value)(batch.observation, diffused.noisy_action, diffused.step)
    noised = vp.diffuse(schedule, batch.action, key[3])
    return kl.mean() / 2, value.std(axis=1).mean(), vp.noise_loss(before.behaviour, batch.observation, noised)


def choose(x: Fixture, learner: bdpo.BDPO, state: bdpo.BDPOState) -> None:
    """What the policy makes of its candidates."""
    observation, key = x["acting/observation"], (x["acting/start"], x["acting/chain"])
    x.compare("acting/action", act(learner.policy(state), observation, key))
    sampler = NoiseSampler(state.target_actor, learner.diffusion_steps, True)

    @jax.jit
    def judged(observation: Array, key: tuple) -> tuple[Array, Array]:
        candidates = jax.vmap(lambda o, k: sampler.sample(o, k, learner.candidates))(observation, key)
        q = jax.vmap(jax.vmap(state.target_critics.q, in_axes=(None, 0)))(observation, candidates)
        return candidates, q.mean(axis=2)

    candidates, q = judged(observation, key)
    x.compare("acting/candidates", candidates)
    x.compare("acting/q", q)


def pretrain(x: Fixture, learner: bdpo.BDPO, state: bdpo.BDPOState) -> None:
    update = jax.jit(learner.pretrain_update)
    for u in range(3):
        state, metrics = update(state, x.batch(u), keys(x, u)[3], jnp.int32(u))
        x.compare_update("pretrain", u, {"behaviour_loss": metrics["behaviour/loss"]})
    x.compare_weights("pretrain/update3", state, BEHAVIOUR + TARGET_BEHAVIOUR)
