"""DTQL's own losses and schedule (arXiv 2405.19690); what it learns is in learning/."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms.dtql import DTQL, Critic, DTQLState, critic_loss, q_term
from tether.errors import InputError
from tether.networks import Linear, QEnsemble
from tether.training.lanes import make_lanes
from tether.types import Array, Metrics, Spec, Transition

SPEC, BATCH, HORIZON = Spec(3, 2), 16, 1000
TINY: dict[str, Any] = {"hidden_sizes": (8,), "denoiser_hidden_sizes": (8,), "time_embedding_size": 4, "candidates": 4}
ALGORITHM = DTQL(**TINY, q_normalization="none", cosine_decay=True, train_updates=HORIZON, log_likelihood_weight=0.1)


def normal(generator: np.random.Generator, *shape: int) -> Array:
    return jnp.asarray(generator.normal(size=shape), jnp.float32)


@functools.cache
def start() -> tuple[DTQLState, Transition]:
    """A state with random numbers in every network (its own initialisation is the contract's affair)."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: ALGORITHM.init(SPEC, jax.random.key(0)))
    state = jax.tree.map(lambda leaf: normal(generator, *leaf.shape) / 2, shapes)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    optimisers = {field: getattr(zeros, field) for field in state._fields if field.endswith("optimiser")}
    terminal = jnp.asarray(generator.random(BATCH) < 0.3, jnp.float32)
    action = jnp.tanh(normal(generator, BATCH, 2))
    batch = Transition(
        normal(generator, BATCH, 3), action, normal(generator, BATCH), normal(generator, BATCH, 3), terminal
    )
    return state._replace(**optimisers), batch


@jax.jit
def update(algorithm: DTQL, state: DTQLState, batch: Transition, key: Array, step: Array) -> tuple[DTQLState, Metrics]:
    return algorithm.update(state, batch, key, step)


def after(step: int = 0, **settings: float) -> DTQLState:
    state, batch = start()
    algorithm = take_settings(settings)
    return update(algorithm, state, batch, jax.random.key(1), jnp.asarray(step, jnp.int32))[0]


def take_settings(settings: dict[str, float]) -> DTQL:
    """One lane's algorithm, numbers as arrays, so that all settings share one compilation."""
    algorithm = DTQL(**(TINY | {"q_normalization": "none", "cosine_decay": True, "train_updates": HORIZON} | settings))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), algorithm)


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


# --- the critic's loss ---


def numpy_critic_loss(critic: Critic, batch: Transition, tau: float, discount: float) -> dict[str, float]:
    q = np.asarray(jax.jit(jax.vmap(critic.q))(batch.observation, batch.action), np.float64)
    value, following = (
        np.asarray(jax.jit(jax.vmap(critic.value))(x), np.float64) for x in (batch.observation, batch.next_observation)
    )
    gap = q.min(axis=1) - value
    target = np.asarray(batch.reward) + discount * (1 - np.asarray(batch.terminal)) * following
    value_loss = np.mean(np.where(gap > 0, tau, 1 - tau) * gap**2)
    return {"critic/value_loss": value_loss, "critic/q_loss": sum(np.mean((head - target) ** 2) for head in q.T)}


def test_critic_loss_by_hand() -> None:
    state, batch = start()
    loss, metrics = jax.jit(critic_loss)(state.critic, batch, 0.7, 0.9)
    expected = numpy_critic_loss(state.critic, batch, 0.7, 0.9)
    assert expected["critic/value_loss"] > 0.01
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4)
    assert loss == pytest.approx(sum(expected.values()), rel=1e-4)


def test_each_critic_learns_from_its_own_loss() -> None:
    """L_V (the expectile is only there) gives no gradient to Q, and L_Q (the reward is only there) none to V."""
    state, batch = start()
    gradient = jax.jit(jax.grad(lambda *arguments: critic_loss(*arguments)[0]))
    base = gradient(state.critic, batch, 0.7, 0.9)
    expectile = gradient(state.critic, batch, 0.9, 0.9)
    reward = gradient(state.critic, batch._replace(reward=batch.reward + 1.0), 0.7, 0.9)
    assert bits(base.q) == bits(expectile.q)
    assert bits(base.value) != bits(expectile.value)
    assert bits(base.value) == bits(reward.value)
    assert bits(base.q) != bits(reward.q)


# --- one iteration ---


def test_policy_step_leaves_denoiser_and_critic_alone() -> None:
    """Whatever the policy's loss is, phi and the critic see only their own, and the policy sees phi."""
    base = after()
    for changed in (after(trust_region_weight=30.0), after(log_likelihood_weight=3.0)):
        for field in ("critic", "critic_optimiser", "denoiser", "denoiser_optimiser", "target_q"):
            assert bits(getattr(changed, field)) == bits(getattr(base, field)), field
        assert bits(changed.actor) != bits(base.actor)


def test_policy_learns_against_the_networks_just_updated() -> None:
    """So the critic's rate reaches the policy's first step, through Q alone."""
    slow, fast = after(), after(critic_learning_rate=0.1)
    assert bits(slow.denoiser) == bits(fast.denoiser)
    assert bits(slow.actor) != bits(fast.actor)


def test_cosine_schedule_acts_on_all_three_optimisers() -> None:
    """Steps of Adam are in proportion to the rate: lr(0) = lr0, lr(T/2) = lr0/2, lr(T) = 0."""
    state, _ = start()
    settings = {"learning_rate": 0.01, "critic_learning_rate": 0.02}

    def moved(field: str, step: int) -> np.ndarray:
        pairs = zip(*(jax.tree.leaves(getattr(s, field)) for s in (after(step, **settings), state)), strict=True)
        return np.concatenate([np.ravel(new - old) for new, old in pairs])

    for field in ("critic", "denoiser"):  # the policy meets networks that moved differently, so only its end is exact
        whole, half = moved(field, 0), moved(field, HORIZON // 2)
        assert np.abs(whole).max() == pytest.approx(0.02 if field == "critic" else 0.01, rel=1e-3)
        np.testing.assert_allclose(half, whole / 2, atol=1e-6)  # a rounding of parameters of order 1
    assert 0.004 < np.abs(moved("actor", HORIZON // 2)).max() < 0.0051
    for field in ("critic", "denoiser", "actor"):
        assert np.abs(moved(field, HORIZON)).max() < 1e-8


def test_pretraining_knows_no_schedule() -> None:
    """Its step number is not used at all."""
    state, batch = start()
    flat, structure = jax.tree.flatten((state, batch, jax.random.key(0)))

    def pretrain(step: Array, *leaves: Array) -> Any:
        return ALGORITHM.pretrain_update(*jax.tree.unflatten(structure, leaves), step)  # pyright: ignore[reportCallIssue]

    jaxpr = jax.make_jaxpr(pretrain)(jnp.int32(0), *flat).jaxpr
    assert not any(variable is jaxpr.invars[0] for equation in jaxpr.eqns for variable in equation.invars)


def test_phases() -> None:
    phases = DTQL(pretrain_updates=5, train_updates=7).phases()
    assert [(phase.name, phase.updates) for phase in phases] == [("pretrain", 5), ("train", 7)]


# --- the policy's loss ---


def _last_layers(q: QEnsemble) -> list[Linear]:
    return [head.layers[-1] for head in q.heads]  # pyright: ignore[reportFunctionMemberAccess]


@pytest.mark.parametrize(("normalization", "invariant"), [("mean-abs", True), ("none", False)])
def test_mean_abs_makes_the_scale_of_rewards_irrelevant(normalization: str, invariant: bool) -> None:
    """Q multiplied by 50 gives the policy the same gradient, or else another. It was NaN, with the compiler options of
    conftest.py, when it was that of `min` over the heads."""
    state, batch = start()
    algorithm = DTQL(**TINY, q_normalization=normalization)

    @jax.jit
    def gradient(scale: Array) -> Any:
        q = eqx.tree_at(_last_layers, state.critic.q, replace_fn=lambda layer: jax.tree.map(lambda x: scale * x, layer))
        loss = jax.grad(lambda actor: algorithm.actor_loss(actor, q, state.denoiser, batch, jax.random.key(0))[0])
        return loss(state.actor)

    one, fifty = (jax.tree.leaves(gradient(jnp.asarray(scale))) for scale in (1.0, 50.0))
    same = all(np.allclose(x, y, rtol=1e-3, atol=1e-5) for x, y in zip(one, fifty, strict=True))
    assert same == invariant


def test_q_term_by_hand() -> None:
    q = jnp.array([3.0, -1.0])
    assert q_term(q, "none") == 1.0
    assert q_term(q, "mean-abs") == pytest.approx(0.5)
    np.testing.assert_allclose(jax.grad(q_term)(q, "mean-abs"), [0.25, 0.25])  # the divisor has no gradient


def test_actor_loss_is_the_sum_of_its_terms() -> None:
    state, batch = start()
    for algorithm in (take_settings({}), take_settings({"trust_region_weight": 3.0, "log_likelihood_weight": 2.0})):
        _, m = update(algorithm, state, batch, jax.random.key(0), jnp.int32(0))
        nll = algorithm.log_likelihood_weight * m["actor/nll"]
        total = algorithm.trust_region_weight * m["actor/trust_region_loss"] - m["actor/q"] + nll
        assert m["actor/loss"] == pytest.approx(float(total), rel=1e-5)


# --- refusals ---


def test_implicit_actor_has_no_likelihood() -> None:
    with pytest.raises(InputError, match="log_likelihood_weight must be 0 with actor_kind 'implicit'"):
        DTQL(actor_kind="implicit", log_likelihood_weight=0.1)


def test_implicit_actor_has_no_likelihood_to_sweep() -> None:
    algorithm = DTQL(actor_kind="implicit")
    with pytest.raises(InputError, match="log_likelihood_weight must be 0"):
        make_lanes(algorithm, [0], {"log_likelihood_weight": [0.0, 1.0]})
