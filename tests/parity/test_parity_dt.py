"""The Decision Transformer against the numbers of CORL's model with the authors' loss: three updates."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixture import Fixture, Link, norm

from tether.algorithms.dt import DT, cloning_loss
from tether.types import Windows

SIZES = ("context_length", "width", "block_count", "heads", "episode_length", "warmup_updates")
PARTS = ("embed_return", "embed_observation", "embed_action", "embed_time", "norm", "head")
BLOCK = ("attention_norm", "attention_in", "attention_out", "norm", "widen", "narrow")


@pytest.fixture(scope="module")
def x() -> Fixture:
    return Fixture("dt")


def links(blocks: int) -> list[Link]:
    found = [Link(f"model/{part}", lambda s, part=part: getattr(s.model, part)) for part in PARTS]
    found.append(Link("model/out_norm", lambda s: s.model.transformer.norm))
    for i in range(blocks):
        for part in BLOCK:
            find = lambda s, i=i, part=part: getattr(s.model.transformer.blocks[i], part)  # noqa: E731
            found.append(Link(f"model/block{i}/{part}", find))
    return found


def windows(x: Fixture, update: int) -> Windows:
    return Windows(*(x.row(f"batch/{field}", update) for field in Windows._fields))


def test_every_number_is_corls(x: Fixture) -> None:
    sizes = {size: x.number(f"hyper/{size}") for size in SIZES}
    learner, model = (
        DT(dropout=0.0, target_return=x.number("hyper/target_return"), **sizes),
        links(sizes["block_count"]),
    )
    state = x.start(learner, model)
    first = windows(x, 0)
    returns = first.return_to_go / learner.return_scale
    predicted = eqx.filter_jit(eqx.filter_vmap(state.model))(returns, first.observation, first.action, first.timestep)
    x.compare("out/prediction", np.asarray(predicted) * np.asarray(first.valid)[..., None])
    update, grad = jax.jit(learner.update), eqx.filter_jit(eqx.filter_grad(cloning_loss))
    for u in range(3):
        batch = windows(x, u)
        gradient = grad(state.model, batch, learner.return_scale, None)
        if u == 0:
            x.compare_weights("gradient1", state._replace(model=gradient), model)
        state, metrics = update(state, batch, jax.random.key(u), jnp.int32(u))
        loss = metrics["actor/loss"]
        ours = {"loss": loss, "gradient_norm": norm(gradient), "loss_corl": loss * np.mean(batch.valid)}
        x.compare_update("", u, ours)
        if u != 1:
            x.compare_weights(f"update{u + 1}", state, model)
    play(x, learner.policy(state))
    x.verdict()


def play(x: Fixture, policy) -> None:
    """An episode with the fixture's observations and rewards."""
    step, memory, reward, actions = eqx.filter_jit(policy), policy.initial_memory(), jnp.float32(0.0), []
    for observation, following in zip(x.arrays["acting/observation"], x.arrays["acting/reward"], strict=True):
        action, memory = step(jnp.asarray(observation), jax.random.key(0), memory, reward)
        actions.append(action)
        reward = jnp.asarray(following)
    x.compare("acting/action", np.stack(actions))
