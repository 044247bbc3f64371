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
from tether.export.graph import Graph, decide_with_extras
from tether.policies.deployed import DeployedPolicy
from tether.policies.loaded import LoadedPolicy

__all__ = ["LOAD_FACTOR", "TOLERANCE", "Agreement", "Sample", "check", "golden_sample", "sample_inputs", "tolerances"]

TOLERANCE = {"float32": 1e-5, "float16": 2e-2}  # of half an action's range
LOG_DENSITY_TOLERANCE = 1e-3  # an importance ratio is off by a thousandth
LAST_BITS = {"float32": 2e-6, "float16": 4e-3}  # relative change of an observation that only rounds otherwise
MOST_ILL_CONDITIONED = {"float32": 0.05, "float16": 0.1}  # of the rows; IDQL of its default size has 0.025, untrained
MOVES = 4.0  # a runtime rounds at every operation, the observation is disturbed once
LOAD_FACTOR = 10.0  # another machine rounds otherwise than this one: the golden pairs are allowed so much more there
DISTURBANCES = 16
CHUNK = 64
EPISODE_STEPS = 40  # longer than the contexts that policies with a memory are trained with
GOLDEN_ROWS = 8
GOLDEN_POOL = 4 * GOLDEN_ROWS  # rows that they are chosen from
GOLDEN_EPISODES = 2  # that the one of a policy with a memory is chosen from

Run = Callable[[list[Any]], Sequence[Any]]
"""Inputs in the graph's order, each (batch, ...) -> action, memory and extras, likewise."""


class Sample(NamedTuple):
    """Steps of episodes, with what JAX does in them; of a policy without memory one step each."""

    observations: np.ndarray  # (steps, batch, observation)
    rewards: np.ndarray  # (steps, batch)
    keys: Any  # (steps, batch)
    noise: tuple[np.ndarray, ...]  # each (steps, batch, ...)
    memory: list[np.ndarray]  # before each step, each (steps, batch, ...)
    outputs: list[np.ndarray]  # action, memory after the step, extras, each (steps, batch, ...)

    @property
    def actions(self) -> np.ndarray:
        """(steps, batch, action)."""
        return self.outputs[0]


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
    start = policy.module.initial_memory()
    memory = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape)), start)
    outputs, memories = _expected(policy.module, observations, keys, rewards, memory)
    return Sample(observations, rewards, keys, tuple(map(np.asarray, noise)), memories, outputs)


def _statistics(document: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the observations: of the data, or of the few that golden pairs are made of."""
    stated = document.get("observation_statistics")
    if stated is not None:
        return np.asarray(stated["mean"]), np.asarray(stated["std"])
    golden = np.asarray(document["golden"]["observations"], np.float32)
    return golden.mean(axis=0), golden.std(axis=0)


@jax.jit
def _decide_each(policy: DeployedPolicy, *rows: Any) -> Any:
    """`decide_with_extras`, one after the other, as `step_each`."""
    return jax.lax.map(lambda row: decide_with_extras(policy, *row), rows)


def _expected(
    policy: DeployedPolicy, observations: np.ndarray, keys: Any, rewards: np.ndarray, memory: Any
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What JAX does in these steps, and the memory before each; `memory` is that before the first, of each row.

    Rows go in parts of one size, so that one program is compiled for all questions.
    """
    rows = observations.shape[1]
    found = []
    for start in range(0, rows, CHUNK):
        part = np.arange(start, start + CHUNK).clip(max=rows - 1)
        own, steps = _at(memory, part), []
        for seen, key, earned in zip(observations, keys, rewards, strict=True):
            action, after, extras = _decide_each(policy, seen[part], key[part], own, earned[part])
            steps.append(([action, *jax.tree.leaves(after), *extras.values()], jax.tree.leaves(own)))
            own = after
        found.append(jax.tree.map(lambda *each: np.stack(each), *steps))
    return jax.tree.map(lambda *each: np.concatenate(each, axis=1)[:, :rows], *found)


def _at(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def golden_sample(sample: Sample, policy: DeployedPolicy, dtype: str) -> dict[str, np.ndarray]:
    """The golden pairs by the names of the graph's inputs, and `action`: the rows of `sample` in which rounding matters
    least; of a policy with a memory the beginning of an episode, up to where rounding matters."""
    steps, batch = sample.actions.shape[:2]
    pool = np.arange(steps * batch).reshape(steps, batch)[:, : GOLDEN_EPISODES if policy.has_memory else GOLDEN_POOL]
    moved = _moves(policy, sample, pool.ravel(), dtype)[:, : sample.actions.shape[2]]
    moves = (moved / tolerances(policy, dtype)).max(axis=1).reshape(pool.shape)
    if policy.has_memory:
        steady = (moves <= 1.0).cumprod(axis=0).sum(axis=0)  # steps, of each episode
        rows = pool[: max(1, steady.max()), steady.argmax()]
    else:
        rows = np.sort(np.argsort(moves[0], kind="stable")[:GOLDEN_ROWS])
    noise = {f"noise_{i}": _rows(array)[rows] for i, array in enumerate(sample.noise)}
    reward = {"reward": _rows(sample.rewards)[rows]} if policy.has_memory else {}
    seen, actions = _rows(sample.observations)[rows], _rows(sample.actions)[rows]
    return {"observation": seen, **noise, **reward, "action": actions}


def check(run: Run, sample: Sample, policy: DeployedPolicy, dtype: str, extras: Sequence[str] = ()) -> Agreement:
    """Compare the exported policy that `run` computes: actions, memories and extras, each step from JAX's own memory.

    extras: their names, in order. Raises InputError where it differs by more than the tolerance in a row that is not
    ill-conditioned, or where too many are.
    """
    rest = [*sample.memory, sample.rewards] if policy.has_memory else []
    found = _numbers(run([_rows(np.asarray(array)) for array in (sample.observations, *sample.noise, *rest)]))
    wanted = _numbers([_rows(array) for array in sample.outputs])
    allowed, names = _allowed(sample, policy, dtype, extras)
    difference = np.abs(found - wanted)
    beyond = ~(difference <= allowed)  # what is no number is wrong, too
    wrong: np.ndarray = np.any(beyond, axis=1)
    rows, ill = len(wrong), np.flatnonzero(wrong)
    if len(ill) and (dtype == "float32" or not sample.noise):
        near = difference[ill] <= MOVES * _moves(policy, sample, ill, dtype) + allowed[ill]
        ill = ill[near.all(axis=1)]
    wrong[ill] = False
    scale = np.maximum(np.asarray(policy.action_scale), np.finfo(np.float32).tiny)
    share = difference[:, : len(scale)] / scale
    if wrong.any() or len(ill) > max(3, MOST_ILL_CONDITIONED[dtype] * rows):
        worst = float(share[wrong].max()) if wrong.any() else 0.0
        where = ", ".join(dict.fromkeys(names[beyond[wrong].any(axis=0)]))
        raise InputError(
            f"the exported policy does not act as JAX does: {int(wrong.sum())} of {rows} decisions differ"
            f"{f' in {where}' if where else ''}: actions by up to {worst:.3g} of half their range (allowed "
            f"{TOLERANCE[dtype]:g}); {len(ill)} hang on the last bits"
        )
    share[ill] = 0.0
    return Agreement(rows, float(share.max()), len(ill))


def _allowed(
    sample: Sample, policy: DeployedPolicy, dtype: str, extras: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """How far each number of a decision may be off, (rows, numbers), and the name of the output that it is of."""
    own, parts = tolerances(policy, dtype), len(sample.memory)
    names = ["action", *["memory"] * parts, *extras]
    allowed, columns = [], []
    for name, array in zip(names, sample.outputs, strict=True):
        values = _numbers([_rows(array)])
        if name == "memory":  # in units of the policy's own; steps are counted exactly
            each = TOLERANCE[dtype] * (1.0 + np.abs(values)) * (array.dtype.kind == "f")
        else:
            each = (
                np.full_like(values, LOG_DENSITY_TOLERANCE) if name == "log_density" else np.resize(own, values.shape)
            )
        allowed.append(each)
        columns += [name] * values.shape[1]
    return np.concatenate(allowed, axis=1), np.asarray(columns)


def _rows(array: np.ndarray) -> np.ndarray:
    """(steps, batch, ...) -> (steps * batch, ...)."""
    return array.reshape(-1, *array.shape[2:])


def _numbers(arrays: Sequence[Any]) -> np.ndarray:
    """(rows, ...) each -> all side by side, (rows, numbers)."""
    return np.concatenate([np.asarray(array, np.float64).reshape(len(array), -1) for array in arrays], axis=1)


def _moves(policy: DeployedPolicy, sample: Sample, rows: np.ndarray, dtype: str) -> np.ndarray:
    """How far JAX's outputs move in these rows when the observation is changed in its last bits, (rows, numbers)."""
    generator = np.random.default_rng(1)
    observations = _rows(sample.observations)[rows]
    sizes = generator.uniform(-1.0, 1.0, (DISTURBANCES, *observations.shape)) * LAST_BITS[dtype]
    disturbed = (observations * (1.0 + sizes)).astype(np.float32).reshape(1, -1, observations.shape[1])
    many = np.tile(rows, DISTURBANCES)
    structure = jax.tree.structure(policy.initial_memory())
    memory = jax.tree.unflatten(structure, [_rows(array)[many] for array in sample.memory])
    keys, rewards = sample.keys.reshape(-1)[many][None], _rows(sample.rewards)[many][None]
    outputs, _ = _expected(policy, disturbed, keys, rewards, memory)
    moved = _numbers([_rows(array) for array in outputs]).reshape(DISTURBANCES, len(rows), -1)
    return np.abs(moved - _numbers([_rows(array)[rows] for array in sample.outputs])).max(axis=0)
