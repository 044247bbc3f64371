"""The Decision Transformer's identities: what a prediction may see, what the loss averages, what acting remembers."""

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from make_data import data_file, rows, tether

from tether.algorithms import ALGORITHMS
from tether.algorithms.dt import DT, DTPolicy, DTState, cloning_loss
from tether.algorithms.shared.optimisers import adam_init, adamw_step
from tether.data import Normaliser
from tether.errors import InputError
from tether.networks import CausalTransformer, Dropout, dropout
from tether.policies.deployed import DeployedPolicy, deploy
from tether.policies.folder import load_policy, save_policy
from tether.policies.golden import verify_golden_pairs
from tether.policies.loaded import LoadedPolicy
from tether.presets import load_presets
from tether.types import Array, Spec, Windows

SPEC = Spec(observation_size=3, action_size=2, max_action=0.5)
SIZES: dict[str, Any] = {"width": 8, "block_count": 2, "heads": 2, "context_length": 4, "episode_length": 6}
STEPS, BATCH = SIZES["context_length"], 5


@functools.cache
def made() -> tuple[DT, DTState]:
    algorithm = DT(**SIZES, target_return=30.0, return_scale=10.0)
    state = algorithm.init(SPEC, jax.random.key(0))
    # Larger weights than at the start, so that attention is far from uniform and every input shows.
    model = jax.tree.map(lambda leaf: 3.0 * leaf, state.model)
    return algorithm, state._replace(model=model)


def windows(seed: int = 1) -> Windows:
    keys = jax.random.split(jax.random.key(seed), 3)
    valid = jnp.arange(STEPS)[None, :] < jnp.asarray([4, 1, 3, 4, 2])[:, None]
    return Windows(
        jax.random.normal(keys[0], (BATCH, STEPS, 3)),
        jax.random.uniform(keys[1], (BATCH, STEPS, 2), minval=-0.5, maxval=0.5),
        10.0 * jax.random.normal(keys[2], (BATCH, STEPS)),
        jnp.tile(jnp.arange(STEPS, dtype=jnp.int32), (BATCH, 1)),
        valid.astype(jnp.float32),
    )


@jax.jit
def predicted(model: Any, batch: Windows) -> Array:
    return jax.vmap(model)(batch.return_to_go / 10.0, batch.observation, batch.action, batch.timestep)


@jax.jit
def loss_and_gradient(model: Any, batch: Windows) -> tuple[Array, Any]:
    return jax.value_and_grad(cloning_loss)(model, batch, 10.0, None)


# --- what a prediction sees ---


def test_a_prediction_sees_what_came_before_it_and_nothing_else() -> None:
    """Action t depends on R_t and s_t and earlier steps, not on a_t, nor on anything later."""
    model, batch = made()[1].model, windows()
    reference = np.asarray(predicted(model, batch))
    for column in ("return_to_go", "observation", "action", "timestep"):
        for step in range(STEPS):
            old = getattr(batch, column)
            changed = batch._replace(**{column: old.at[:, step].add(1)})
            moved = np.abs(np.asarray(predicted(model, changed)) - reference).max(axis=(0, 2)) > 1e-6
            first = step + 1 if column == "action" else step
            np.testing.assert_array_equal(moved, np.arange(STEPS) >= first, err_msg=f"{column} {step}")


def test_actions_are_in_the_box() -> None:
    model, batch = made()[1].model, windows()
    far = predicted(model, batch._replace(observation=1e4 * batch.observation))
    assert np.abs(far).max() <= SPEC.max_action


def test_late_steps_share_the_last_embedding() -> None:
    model, batch = made()[1].model, windows()
    last, beyond = (jnp.full_like(batch.timestep, time) for time in (5, 99))
    same = predicted(model, batch._replace(timestep=last)), predicted(model, batch._replace(timestep=beyond))
    np.testing.assert_array_equal(*same)


def test_attention_by_hand() -> None:
    """One block with the MLP switched off against softmax(q k^T / sqrt(d)) v, token by token and head by head."""
    width, heads, tokens = 6, 2, 4
    transformer = CausalTransformer(jax.random.key(0), width, 1, heads)
    block = transformer.blocks[0]
    weights = np.random.default_rng(0).normal(size=(3 * width, width)).astype(np.float32)
    block = eqx.tree_at(lambda b: b.attention_in.weight, block, jnp.asarray(weights))
    block = eqx.tree_at(lambda b: b.narrow.weight, block, jnp.zeros((width, 4 * width)))
    x = np.random.default_rng(1).normal(size=(tokens, width)).astype(np.float32)
    normed = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    stacked = normed @ weights.T  # biases are zero at the start
    expected = np.zeros((tokens, width))
    for head in range(heads):
        part = slice(3 * head, 3 * head + 3)
        query, key, value = (stacked[:, width * k : width * (k + 1)][:, part] for k in range(3))
        for token in range(tokens):
            scores = np.array([query[token] @ key[other] / math.sqrt(3) for other in range(token + 1)])
            softmax = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            expected[token, part] = sum(w * value[other] for other, w in enumerate(softmax))
    expected = x + expected @ np.asarray(block.attention_out.weight).T
    np.testing.assert_allclose(block(jnp.asarray(x), None), expected, rtol=1e-4, atol=1e-5)


# --- the loss ---


def test_the_loss_averages_real_positions_only() -> None:
    model, batch = made()[1].model, windows()
    loss, gradient = loss_and_gradient(model, batch)
    errors = np.mean((np.asarray(predicted(model, batch)) - np.asarray(batch.action)) ** 2, axis=2)
    real = np.asarray(batch.valid) == 1
    assert real.sum() == 14
    np.testing.assert_allclose(loss, errors[real].mean(), rtol=1e-5)
    padding = 1.0 - batch.valid
    garbage = batch._replace(
        observation=batch.observation + 7.0 * padding[..., None],
        action=batch.action + 7.0 * padding[..., None],
        return_to_go=batch.return_to_go + 7.0 * padding,
        timestep=batch.timestep + padding.astype(jnp.int32),
    )
    again, other = loss_and_gradient(model, garbage)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    for one, two in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_dropout_keeps_the_mean() -> None:
    x = jnp.ones(100_000)
    dropped = np.asarray(dropout(x, Dropout(0.25, jax.random.key(0))))
    np.testing.assert_allclose(np.unique(dropped), [0.0, 1.0 / 0.75], rtol=1e-6)
    assert np.mean(dropped == 0) == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 1e5))
    assert dropout(x, None) is x


# --- the step ---


def test_the_learning_rate_rises_and_gradients_are_clipped() -> None:
    """Against optax: clipping, then AdamW at learning_rate min(1, (step + 1) / warm-up)."""
    rates = {"learning_rate": 0.01, "weight_decay": 0.1, "gradient_norm": 0.01}
    algorithm = DT(**SIZES, **rates, return_scale=10.0, dropout=0.0, warmup_updates=4)
    state, batch = made()[1], windows()
    gradient = loss_and_gradient(state.model, batch)[1]

    @jax.jit
    def reference(factor: Array) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            chain = optax.chain(optax.clip_by_global_norm(0.01), optax.adamw(0.01 * factor, weight_decay=0.1))
            return chain.update(gradient, chain.init(state.model), state.model)[0]

    update = jax.jit(algorithm.update)
    for step, factor in ((0, 0.25), (2, 0.75), (9, 1.0)):
        after, _ = update(state, batch, jax.random.key(0), jnp.asarray(step, jnp.int32))
        directions = reference(jnp.asarray(factor))
        for old, new, direction in zip(*map(jax.tree.leaves, (state.model, after.model, directions)), strict=True):
            np.testing.assert_allclose(new - old, direction, rtol=1e-3, atol=1e-6)  # a difference of larger numbers


def test_adamw_without_decay_is_adam() -> None:
    x, gradient = jnp.asarray([1.0, -2.0]), jnp.asarray([0.3, 0.1])
    stepped, _ = adamw_step(x, gradient, adam_init(x), 0.1, 0.0)
    np.testing.assert_allclose(stepped, [0.9, -2.1], rtol=1e-6)
    decayed, _ = adamw_step(x, gradient, adam_init(x), 0.1, 0.5)
    np.testing.assert_allclose(decayed, [0.9 - 0.05, -2.1 + 0.1], rtol=1e-6)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InputError, match="width 8: must be a multiple of heads 3"):
        DT(width=8, heads=3).init(SPEC, jax.random.key(0))


# --- acting ---


def act(policy: Any, observations: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """Actions of an episode; reward number t is paid for action t."""

    def step(memory: Any, row: Any) -> tuple[Any, Any]:
        action, memory = policy(row[0], jax.random.key(0), memory, row[1])
        return memory, action

    before = np.concatenate([[0.0], rewards[:-1]]).astype(np.float32)
    return np.asarray(jax.lax.scan(step, policy.initial_memory(), (observations, before))[1])


def test_acting_step_by_step_is_the_model_on_its_window() -> None:
    """At every step of an episode of twice the context: R_t is what was asked less what was paid, the window holds the
    last K steps with the actions that were taken, and steps keep their own time."""
    algorithm, state = made()
    policy = algorithm.policy(state)
    generator = np.random.default_rng(2)
    observations = generator.normal(size=(9, 3)).astype(np.float32)
    rewards = generator.normal(size=9).astype(np.float32)
    actions = act(policy, observations, rewards)
    asked = (30.0 - np.concatenate([[0.0], np.cumsum(rewards)[:-1]])) / 10.0
    for step in range(9):
        first = max(0, step - STEPS + 1)
        rows = slice(first, step + 1)
        pad = [(0, STEPS - (step + 1 - first))]
        history = np.pad(asked[rows], pad).astype(np.float32)
        seen = np.pad(observations[rows], [*pad, (0, 0)]), np.pad(actions[rows], [*pad, (0, 0)])
        times = np.arange(first, first + STEPS, dtype=np.int32)
        whole = state.model(jnp.asarray(history), *map(jnp.asarray, seen), jnp.asarray(times))  # pyright: ignore[reportCallIssue]
        np.testing.assert_allclose(actions[step], whole[step - first], rtol=1e-4, atol=1e-5, err_msg=str(step))


@functools.cache
def deployed() -> DeployedPolicy:
    algorithm, state = made()
    normaliser = Normaliser(np.array([1.0, -1.0, 0.5], np.float32), np.array([2.0, 0.5, 1.0], np.float32))
    return deploy(algorithm.policy(state), SPEC, normaliser)


def saved(folder: Path, policy: DeployedPolicy) -> LoadedPolicy:
    rows = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
    save_policy(folder, policy, algorithm=made()[0], spec=SPEC, observations=rows, notes={})
    return load_policy(folder)


def test_the_policy_folder_keeps_the_memory(tmp_path: Path) -> None:
    """What is loaded acts as what was saved, through an episode, alone and in a batch."""
    loaded = saved(tmp_path / "policy", deployed())
    assert loaded.has_memory
    generator = np.random.default_rng(4)
    observations, rewards = generator.normal(size=(7, 3)).astype(np.float32), generator.normal(size=7)
    standard = (observations - [1.0, -1.0, 0.5]) / [2.0, 0.5, 1.0]
    expected = act(deployed().policy, standard.astype(np.float32), rewards)
    memory, reward, batch = loaded.initial_memory(), 0.0, loaded.initial_memory(2)
    for step in range(7):
        action, memory = loaded.step(observations[step], memory, reward)
        np.testing.assert_allclose(action, expected[step], rtol=1e-4, atol=1e-5)
        pair, batch = loaded.step(np.stack([observations[step], -observations[step]]), batch, [reward, 0.0])
        np.testing.assert_allclose(pair[0], action, rtol=1e-4, atol=1e-5)
        reward = float(rewards[step])
    with pytest.raises(InputError, match=r"dt: this policy has a memory: use initial_memory\(\) and step\(\)"):
        loaded(observations[0])
    for wrong in ([0.0], math.nan, [[0.0]]):
        with pytest.raises(InputError, match="one finite number for each"):
            loaded.step(observations[0], loaded.initial_memory(), wrong)


class Forgetful(DTPolicy):
    """Loses its own actions."""

    def __call__(self, observation: Any, key: Any, memory: Any, reward: Any) -> Any:
        action, after = DTPolicy.__call__(self, observation, key, memory, reward)
        return action, after._replace(action=jnp.zeros_like(after.action))


def test_a_policy_that_forgets_is_refused(tmp_path: Path) -> None:
    """What is verified is an episode, longer than the context: single observations would not show it."""
    loaded, original = saved(tmp_path / "policy", deployed()), deployed().policy
    assert len(loaded.document["golden"]["seeds"]) == 32
    forgetful = Forgetful(**{field.name: getattr(original, field.name) for field in dataclasses.fields(original)})
    module = eqx.tree_at(lambda d: d.policy, loaded.module, forgetful)
    with pytest.raises(InputError, match="does not reproduce its golden pair with seed"):
        verify_golden_pairs(
            loaded.document, module, LoadedPolicy(module, loaded.document, loaded.algorithm).step, tmp_path
        )


# --- presets ---


def test_presets_ask_for_the_returns_of_the_paper() -> None:
    presets = load_presets("dt")
    returns = {"hopper": 3600, "halfcheetah": 12_000, "walker2d": 5000, "pen": 3100, "door": 2900, "hammer": 12_800}
    returns |= {"relocate": 4300, "antmaze": 1}
    for task, settings in presets.items():
        domain = task.split("-")[0]
        assert settings["target_return"] == returns[domain], task
        assert settings["return_scale"] == (1000 if domain in ("hopper", "halfcheetah", "walker2d") else 1), task
        assert settings["observation_transform"] == "standardise-1e-6", task
        fields = {name: value for name, value in settings.items() if hasattr(DT, name)}
        assert ALGORITHMS["dt"](**fields).train_updates == 100_000


# --- a run ---


@pytest.mark.long
def test_a_run_from_data_to_policy(tmp_path: Path) -> None:
    """The command line trains it on windows, evaluates it with its memory, resumes it and saves what acts."""
    arguments = ["--updates", "4", "--batch-size", "4", "--eval-every-updates", "2", "--eval-episodes", "2", "--quiet"]
    sizes = ["width=8", "block_count=1", "context_length=3", "episode_length=50", "warmup_updates=1"]
    more = ["--preset", "none", "--sweep", "target_return=1,100", "--out", tmp_path / "run"]
    code, _, error = tether("train", "dt", data_file(), *arguments, "--set", *sizes, *more)
    assert code == 0, error
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["transitions"] == 400  # every row of the four complete episodes
    evaluations = rows(tmp_path / "run" / "evaluations.jsonl")
    assert {(row["update"], row["lane"]) for row in evaluations} == {(2, 0), (2, 1), (4, 0), (4, 1)}
    one, other = ([r["return"] for r in evaluations if r["lane"] == lane and r["update"] == 4] for lane in (0, 1))
    assert one != other  # the same network, asked for something else
    policy = load_policy(tmp_path / "run")
    assert policy.initial_memory().asked in (1.0 / 1000, 100.0 / 1000)
    code, _, error = tether("evaluate", tmp_path / "run", "--episodes", "2", "--quiet")
    assert code == 0, error
    again = json.loads((tmp_path / "run" / "evaluate-4-2.json").read_text())
    np.testing.assert_allclose(again["returns"], [one, other])
