"""DTQL against the numbers of the authors' code: two settings, three updates each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from fixture import Fixture, Link, act, drawing, heads, norm

from tether.algorithms.dtql import DTQL, DTQLState, critic_loss
from tether.algorithms.shared.losses import td_target
from tether.diffusion import edm
from tether.types import Array

CRITIC = [*heads(lambda s: s.critic.q, "q1", "q2"), Link("value", lambda s: s.critic.value.network)]
DENOISER = [
    Link("denoiser/time/0", lambda s: s.denoiser.time_in),
    Link("denoiser/time/1", lambda s: s.denoiser.time_out),
    Link("denoiser/layers/0", lambda s: s.denoiser.stem),
    *(Link(f"denoiser/layers/{i + 1}", lambda s, i=i: s.denoiser.trunk.layers[i]) for i in range(4)),
]
ACTOR = [Link("actor", lambda s: s.actor.network)]
ALL = [*CRITIC, *DENOISER, *ACTOR, *heads(lambda s: s.target_q, "target_q1", "target_q2")]


@pytest.fixture(scope="module")
def x() -> Fixture:
    return Fixture("dtql")


def keys(x: Fixture, update: int) -> tuple:
    """For the denoiser, and for the actor."""
    d = x.draws(update)
    return (d["behaviour_u"], d["behaviour_noise"]), (d["action_noise"], (d["trust_u"], d["trust_noise"]))


def algorithm(x: Fixture, case: str) -> DTQL:
    sizes = (x.number("hyper/hidden_size"),) * 3
    return DTQL(
        trust_region_weight=x.number(f"{case}/hyper/trust_region_weight"),
        log_likelihood_weight=x.number(f"{case}/hyper/log_likelihood_weight"),
        expectile=x.number(f"{case}/hyper/expectile"),
        cosine_decay=bool(x.number(f"{case}/hyper/cosine_decay")),
        decay_updates=x.number("hyper/decay_updates"),
        q_normalization="none",
        hidden_sizes=sizes,
        denoiser_hidden_sizes=sizes,
        candidates=x.number("hyper/candidates"),
    )


def test_every_number_is_the_authors(x: Fixture) -> None:
    for case in ("plain", "nll"):
        learner = algorithm(x, case)
        start = x.start(learner, ALL)
        with drawing():
            end = train(x, case, learner, start)
            if case == "plain":
                choose(x, learner, end)
                pretrained, _ = jax.jit(learner.pretrain_update)(start, x.batch(0), keys(x, 0)[0], jnp.int32(0))
                x.compare_weights("pretrain1", pretrained, [*CRITIC, *DENOISER])
    x.verdict()


def train(x: Fixture, case: str, learner: DTQL, state: DTQLState) -> DTQLState:
    update = jax.jit(learner.update)
    for u in range(3):
        before, batch = state, x.batch(u)
        state, metrics = update(state, batch, keys(x, u), jnp.int32(u))
        ours = {
            "critic_loss": metrics["critic/q_loss"] + metrics["critic/value_loss"],
            "denoiser_loss": metrics["denoiser/loss"],
            "trust_region_loss": metrics["actor/trust_region_loss"],
            "negative_q": -metrics["actor/q"],
            "actor_loss": metrics["actor/loss"],
        }
        if case == "nll":
            ours["nll"] = metrics["actor/nll"]
        x.compare_update(case, u, ours)
        if u == 0:
            gradients = first_gradients(learner, before, state, batch, keys(x, 0))
            x.compare_weights(f"{case}/gradient1", gradients, [*CRITIC, *DENOISER, *ACTOR])
            for name in ("critic", "denoiser", "actor"):
                x.compare(f"{case}/out/gradient_norm_{name}", norm(getattr(gradients, name)))
            if case == "plain":
                x.compare("plain/out/q_target", q_target(learner, before, batch))
        if u != 1:
            x.compare_weights(f"{case}/update{u + 1}", state, ALL)
    return state


@eqx.filter_jit
def q_target(learner: DTQL, before: DTQLState, batch) -> Array:
    value = jax.vmap(before.critic.value)(batch.next_observation)
    return td_target(batch.reward, learner.discount, batch.terminal, value)


@eqx.filter_jit
def first_gradients(learner: DTQL, before: DTQLState, after: DTQLState, batch, key: tuple) -> DTQLState:
    """Those of the first update, the actor's at the critic and denoiser that have moved."""
    schedule = edm.EDM(learner.sigma_data, learner.sigma_min, learner.sigma_max)

    def denoiser_loss(denoiser) -> Array:
        return edm.denoising_loss(schedule, denoiser, batch.action, batch.observation, key[0], 1.0)

    critic, _ = eqx.filter_grad(critic_loss, has_aux=True)(before.critic, batch, learner.expectile, learner.discount)
    denoiser = eqx.filter_grad(denoiser_loss)(before.denoiser)
    grad = eqx.filter_grad(learner.actor_loss, has_aux=True)
    actor, _ = grad(before.actor, after.critic.q, after.denoiser, batch, key[1])
    return before._replace(critic=critic, denoiser=denoiser, actor=actor)


def choose(x: Fixture, learner: DTQL, state: DTQLState) -> None:
    """The noise levels, and what the policy makes of its candidates."""
    levels = jax.jit(jax.vmap(lambda u: edm.sample_sigma(edm.EDM(), u, len(u))))
    for name in ("behaviour", "trust"):
        x.compare(f"out/sigma_{name}", levels(x[f"draw/{name}_u"]))
    observation, noise, gumbel = (x[f"acting/{name}"] for name in ("observation", "action_noise", "gumbel"))
    x.compare("acting/action", act(learner.policy(state), observation, (noise, gumbel)))

    @jax.jit
    def judged(observation: Array, noise: Array) -> tuple[Array, Array, Array]:
        candidates = jax.vmap(lambda o, z: jax.vmap(state.actor(o).transform)(z))(observation, noise)
        q = jax.vmap(jax.vmap(state.target_q.least, in_axes=(None, 0)))(observation, candidates)
        return candidates, q, jax.nn.softmax(q, axis=1)

    for name, ours in zip(("candidates", "min_q", "probability"), judged(observation, noise), strict=True):
        x.compare(f"acting/{name}", ours)
