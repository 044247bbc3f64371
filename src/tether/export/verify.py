"""Whether an exported policy acts as the one in JAX does: many observations with the same noise, action by action.

Rounding differs between runtimes, and some decisions hang on it: among candidates of nearly one value another is
taken, and a long chain of diffusion makes much of little. Such a decision is told from a wrong one by JAX itself: where
the observation is changed in its last bits, its own action moves as far. These rows are counted and must be few. In
half precision candidates' values have three digits: there every row beyond the tolerance counts as one of these.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.errors import InputError
from tether.export.graph import Graph
from tether.policies.deployed import DeployedPolicy, step_each
from tether.policies.loaded import LoadedPolicy

__all__ = ["LOAD_FACTOR", "TOLERANCE", "Agreement", "Sample", "check", "golden_sample", "sample_inputs", "tolerances"]

TOLERANCE = {"float32": 1e-5, "float16": 2e-2}  # of half an action's range
LAST_BITS = {"float32": 2e-6, "float16": 4e-3}  # relative change of an observation that only rounds otherwise
MOST_ILL_CONDITIONED = {"float32": 0.05, "float16": 0.1}  # of the rows; IDQL of its default size has 0.025, untrained
MOVES = 4.0  # a runtime rounds at every operation, the observation is disturbed once
LOAD_FACTOR = 10.0  # another machine rounds otherwise than this one: the golden pairs are allowed so much more there
DISTURBANCES = 16
CHUNK = 64
EPISODE_STEPS = 40  # longer than the contexts that policies with a memory are trained with
GOLDEN_ROWS = 8

Run = Callable[[list[Any]], Sequence[Any]]
"""Inputs in the graph's order, each (batch, ...) -> action and memory, as `tether_runtime.graphs.Graph.run`."""


class Sample(NamedTuple):
    """Steps of episodes, with what JAX does in them; of a policy without memory one step each."""

    observations: np.ndarray  # (steps, batch, observation)
    rewards: np.ndarray  # (steps, batch)
    keys: Any  # (steps, batch)
    noise: tuple[np.ndarray, ...]  # each (steps, batch, ...)
    actions: np.ndarray  # (steps, batch, action)


class Agreement(NamedTuple):
    """How an exported policy compares with JAX."""

    rows: int
    largest: float  # difference of an action, in halves of its range; ill-conditioned rows left out
    ill_conditioned: int  # rows in which JAX's own action hangs on the last bits of the observation


def tolerances(policy: DeployedPolicy, dtype: str, factor: float = 1.0) -> np.ndarray:
    """How far each action may be off, in the robot's units: the tolerance, and the last bits of a large offset."""
    scale, offset = np.asarray(policy.action_scale), np.asarray(policy.action_offset)
    return factor * TOLERANCE[dtype] * scale + 4 * np.finfo(np.float32).eps * (np.abs(offset) + scale)


def sample_inputs(graph: Graph, policy: LoadedPolicy, rows: int, seed: int = 0) -> Sample:
    """`rows` decisions at observations like those of the training data, as far as the policy's folder knows them."""
    steps = EPISODE_STEPS if policy.has_memory else 1
    batch = -(-rows // steps)
    generator = np.random.default_rng(seed)
    mean, std = _statistics(policy.document)
    observations = generator.normal(mean, std, (steps, batch, len(mean))).astype(np.float32)
    golden = np.asarray(policy.document["golden"]["observations"], np.float32)
    observations[0, : len(golden)] = golden[:batch]
    rewards = generator.normal(size=(steps, batch)).astype(np.float32)
    rewards[0] = 0.0
    keys = jax.random.split(jax.random.key(seed), (steps, batch))
    noise = jax.jit(jax.vmap(jax.vmap(graph.noise)))(keys)
    actions = _expected(policy.module, observations, keys, rewards)
    return Sample(observations, rewards, keys, tuple(map(np.asarray, noise)), actions)


def _statistics(document: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the observations: of the data, or of the few that golden pairs are made of."""
    stated = document.get("observation_statistics")
    if stated is not None:
        return np.asarray(stated["mean"]), np.asarray(stated["std"])
    golden = np.asarray(document["golden"]["observations"], np.float32)
    return golden.mean(axis=0), golden.std(axis=0)


def _expected(policy: DeployedPolicy, observations: np.ndarray, keys: Any, rewards: np.ndarray) -> np.ndarray:
    """What JAX does in these steps. Rows go in parts of one size, so that one program is compiled for all questions."""
    rows = observations.shape[1]
    parts = [np.arange(start, start + CHUNK).clip(max=rows - 1) for start in range(0, rows, CHUNK)]
    memory = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (CHUNK, *leaf.shape)), policy.initial_memory())
    found = []
    for part in parts:
        actions, own = [], memory
        for seen, key, earned in zip(observations, keys, rewards, strict=True):
            action, own = step_each(policy, seen[part], key[part], own, earned[part])
            actions.append(np.asarray(action))
        found.append(np.stack(actions))
    return np.concatenate(found, axis=1)[:, :rows]


def golden_sample(sample: Sample, policy: DeployedPolicy, dtype: str) -> dict[str, np.ndarray]:
    """The golden pairs by the names of the graph's inputs, and `action`: the rows of `sample` in which rounding matters
    least; the first episode of a policy with a memory."""
    if policy.initial_memory() != ():
        rows = np.zeros(1, int)
    else:
        pool = np.arange(min(4 * GOLDEN_ROWS, sample.actions.shape[1]))
        moves = (_moves(policy, sample, pool, dtype) / tolerances(policy, dtype)).max(axis=1)
        rows = np.sort(np.argsort(moves, kind="stable")[:GOLDEN_ROWS])

    def flat(array: np.ndarray) -> np.ndarray:
        return array[:, rows].reshape(-1, *array.shape[2:])

    noise = {f"noise_{i}": flat(array) for i, array in enumerate(sample.noise)}
    reward = {"reward": flat(sample.rewards)} if policy.has_memory else {}
    return {"observation": flat(sample.observations), **noise, **reward, "action": flat(sample.actions)}


def check(run: Run, sample: Sample, policy: DeployedPolicy, dtype: str) -> Agreement:
    """Compare the exported policy that `run` computes. Raises InputError where it differs by more than the tolerance in
    a row that is not ill-conditioned, or where too many are."""
    found = _found(run, sample, policy)
    difference = np.abs(found - sample.actions)
    scale = np.maximum(np.asarray(policy.action_scale), np.finfo(np.float32).tiny)
    wrong: np.ndarray = np.any(difference > tolerances(policy, dtype), axis=2)
    rows = wrong.size
    ill = np.zeros(0, int)
    if wrong.any() and not policy.has_memory:
        ill = np.flatnonzero(wrong[0])
        if dtype == "float32" or not sample.noise:
            allowed = MOVES * _moves(policy, sample, ill, dtype) + tolerances(policy, dtype)
            ill = ill[(difference[0, ill] <= allowed).all(axis=1)]
        wrong[0, ill] = False
    if wrong.any() or len(ill) > max(3, MOST_ILL_CONDITIONED[dtype] * rows):
        worst = float((difference / scale)[wrong].max()) if wrong.any() else 0.0
        raise InputError(
            f"the exported policy does not act as JAX does: {int(wrong.sum())} of {rows} decisions differ by up to "
            f"{worst:.3g} of half an action's range (allowed {TOLERANCE[dtype]:g}), {len(ill)} hang on the last bits"
        )
    difference[0, ill] = 0.0
    return Agreement(rows, float((difference / scale).max()), len(ill))


def _found(run: Run, sample: Sample, policy: DeployedPolicy) -> np.ndarray:
    batch = sample.actions.shape[1]
    memory = [np.stack([np.asarray(leaf)] * batch) for leaf in jax.tree.leaves(policy.initial_memory())]
    actions = []
    for step, observations in enumerate(sample.observations):
        noise = [array[step] for array in sample.noise]
        rest = [*memory, sample.rewards[step]] if policy.has_memory else []
        action, *memory = run([observations, *noise, *rest])
        actions.append(np.asarray(action))
    return np.stack(actions)


def _moves(policy: DeployedPolicy, sample: Sample, rows: np.ndarray, dtype: str) -> np.ndarray:
    """How far JAX's action moves in these rows when the observation is changed in its last bits, (rows, action)."""
    generator = np.random.default_rng(1)
    observations, keys = sample.observations[0, rows], sample.keys[0, rows]
    sizes = generator.uniform(-1.0, 1.0, (DISTURBANCES, *observations.shape)) * LAST_BITS[dtype]
    disturbed = (observations * (1.0 + sizes)).astype(np.float32).reshape(-1, observations.shape[1])
    many = jnp.tile(keys, DISTURBANCES)
    actions = _expected(policy, disturbed[None], many[None], np.zeros((1, len(disturbed)), np.float32))[0]
    moved = np.abs(actions.reshape(DISTURBANCES, len(rows), -1) - sample.actions[0, rows])
    return moved.max(axis=0)
