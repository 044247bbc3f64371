"""What candidate policies would have done where a log has been, sampled once: a diffusion policy's actions cost far
more than fitting values to them.

A policy with a memory is led along the logged episodes: it sees what was seen, is paid what was paid, and remembers
what was done in the place of what it would have done. Of a chunk its later actions are those of its own plan.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.algorithms.interface import CorrectedMemory
from tether.data import Dataset
from tether.data.schema import ActionBox
from tether.errors import InputError
from tether.ope.evidence import Evidence, first_weight, spread_of, value_scale
from tether.ope.fitted_q import EvaluationData
from tether.policies.deployed import DeployedPolicy
from tether.types import Array, Float, Int, Key

__all__ = ["Decisions", "decisions_of", "evaluation_data", "logged_box"]

AT_ONCE = 64  # observations: with a thousand candidate actions each they still fit into a CPU's caches
ROWS_A_CALL = 4096
STEPS_A_CALL = ROWS_A_CALL // AT_ONCE  # of so many episodes side by side

OnRows = Callable[[int, int], None]
"""Told (rows done, all)."""


class Decisions(NamedTuple):
    """What a policy does where the log has been, in [-1, 1] as the data count actions; beyond it, outside their box."""

    following: Float[np.ndarray, "rows action"]  # at the rows' next observations, a draw each; zeros after an end
    there: Float[np.ndarray, "states action"]  # at the observations of `Evidence.places`
    first: Float[np.ndarray, "episodes draws action"]  # at the first observations

    def same(self, other: "Decisions") -> bool:
        """Whether two policies decide alike everywhere, to the last bit."""
        return all(np.array_equal(*pair) for pair in zip(self, other, strict=True))


def logged_box(policy: DeployedPolicy, data: Dataset) -> ActionBox:
    """What the data's actions from -1 to 1 mean; of data that do not say, what the policy's do."""
    if data.schema is not None:
        return data.schema.box
    scale, offset = (np.asarray(part, np.float64) for part in (policy.action_scale, policy.action_offset))
    return ActionBox(tuple((offset - scale).tolist()), tuple((offset + scale).tolist()))


def decisions_of(
    policy: DeployedPolicy,
    evidence: Evidence,
    data: Dataset,
    draws: int = 4,
    seed: int = 0,
    on_rows: OnRows = lambda done, rows: None,
) -> Decisions:
    """Sample the actions of a policy.

    Raises: InputError for a policy of other sizes than the data, for one whose actions are not finite, and for a memory
    that cannot be told what was done.
    """
    sizes = policy.observation_mean.shape[0], policy.action_scale.shape[0]
    found = data.observations.shape[1], data.actions.shape[1]
    if sizes != found:
        raise InputError(f"{data.source.location}: observations and actions of sizes {found}, the policy's are {sizes}")
    if policy.has_memory and not isinstance(policy.policy, CorrectedMemory):
        raise InputError("its memory cannot be told what was done in the log (it has no `corrected`)")
    goes_on, starts = np.flatnonzero(np.asarray(evidence.rows.terminal) == 0), evidence.first_observation
    ask = _along if policy.has_memory else _anywhere
    following_there, first = ask(policy, evidence, data, goes_on, np.repeat(starts, draws, axis=0), seed, on_rows)
    if bad := sum(int((~np.isfinite(part).all(axis=1)).sum()) for part in (following_there, first)):
        raise InputError(f"{bad:,} of its {len(following_there) + len(first):,} decisions are not finite")
    in_units = np.concatenate([following_there, first])
    actions = _to_unit(logged_box(policy, data), in_units)
    following = np.zeros((len(evidence.episode), found[1]), np.float32)
    following[goes_on], there, first = np.split(actions, [len(goes_on), len(following_there)])
    return Decisions(following, there, first.reshape(len(starts), draws, -1))


def _to_unit(box: ActionBox, actions: np.ndarray) -> Float[np.ndarray, "rows action"]:
    """As `ActionBox.to_unit`, but what lies outside of the box stays outside."""
    scale = np.asarray(box.scale, np.float32)
    return np.divide(actions - box.offset, scale, out=np.zeros_like(actions, np.float32), where=scale > 0)


def evaluation_data(evidence: Evidence, decisions: Sequence[Decisions]) -> tuple[EvaluationData, float]:
    """(what `fit_values` takes, what its values are to be multiplied by).

    Observations are standardised. Rewards are divided so that values have a spread of about 1, and never shifted:
    that would change what an early end is worth. Where the log has next actions, the policy that wrote it is the last
    candidate: what it is worth is known.
    """
    observation = np.asarray(evidence.rows.observation)
    mean, std = observation.mean(axis=0), spread_of(observation)
    scale = value_scale(evidence)
    candidates = list(decisions)
    if evidence.rows.next_action is not None:
        draws = candidates[0].first.shape[1] if candidates else 1
        own = np.repeat(evidence.first_action[:, None], draws, axis=1)
        there = np.asarray(evidence.rows.action)[evidence.places]
        candidates.append(Decisions(np.asarray(evidence.rows.next_action), there, own))
    rows = evidence.rows
    data = EvaluationData(
        observation=(observation - mean) / std,
        action=rows.action,
        reward=(rows.reward / scale).astype(np.float32),  # pyright: ignore[reportAttributeAccessIssue]
        next_observation=(rows.next_observation - mean) / std,  # pyright: ignore[reportArgumentType]
        terminal=rows.terminal,
        first_observation=(evidence.first_observation - mean) / std,  # pyright: ignore[reportArgumentType]
        next_action=np.stack([each.following for each in candidates]),  # pyright: ignore[reportArgumentType]
        first_action=np.stack([each.first for each in candidates]),  # pyright: ignore[reportArgumentType]
        episode=evidence.recording,  # pyright: ignore[reportArgumentType]
        weight=first_weight(evidence),  # pyright: ignore[reportArgumentType]
        to_go=(evidence.to_go / scale).astype(np.float32),  # pyright: ignore[reportArgumentType]
    )
    return data, scale


# --- without a memory ---------------------------------------------------------------------------------------


@jax.jit
def _act(policy: DeployedPolicy, observations: Float[Array, "rows observation"], keys: Key[Array, " rows"]) -> Array:
    def one(row: tuple[Array, Array]) -> Array:
        return policy.step(*row, policy.initial_memory(), jnp.zeros((), jnp.float32))[0]

    return jax.lax.map(one, (observations, keys), batch_size=AT_ONCE)


def _anywhere(
    policy: DeployedPolicy,
    evidence: Evidence,
    data: Dataset,
    goes_on: Int[np.ndarray, " going_on"],
    first: Float[np.ndarray, "firsts observation"],
    seed: int,
    on_rows: OnRows,
) -> tuple[np.ndarray, np.ndarray]:
    """(actions after the rows that go on, and at `Evidence.places`; actions at first observations), in units."""
    rows = evidence.rows
    seen = [np.asarray(rows.next_observation)[goes_on], np.asarray(rows.observation)[evidence.places], first]
    observations = np.concatenate(seen)
    actions = _sampled(policy, observations, jax.random.key(seed), on_rows)
    return actions[: -len(first)], actions[-len(first) :]


def _sampled(policy: DeployedPolicy, observations: np.ndarray, key: Array, on_rows: OnRows) -> np.ndarray:
    """At each observation, as the first of an episode."""
    keys, parts = jax.random.split(key, len(observations)), []
    for start in range(0, len(observations), ROWS_A_CALL):
        part = slice(start, start + ROWS_A_CALL)
        parts.append(np.asarray(_act(policy, observations[part], keys[part])))
        on_rows(min(start + ROWS_A_CALL, len(observations)), len(observations))
    return np.concatenate(parts)


# --- with one -----------------------------------------------------------------------------------------------


def _along(
    policy: DeployedPolicy,
    evidence: Evidence,
    data: Dataset,
    goes_on: Int[np.ndarray, " going_on"],
    first: Float[np.ndarray, "firsts observation"],
    seed: int,
    on_rows: OnRows,
) -> tuple[np.ndarray, np.ndarray]:
    """As `_anywhere`, each action after what its episode was up to there."""
    starts = data.episode_bounds().starts[evidence.episode]
    at = starts + evidence.step + evidence.episode  # an episode has a place more than it has rows
    own_key, first_key = jax.random.split(jax.random.key(seed))
    along = _led(policy, data, own_key, on_rows)
    actions = along[np.concatenate([at[goes_on] + 1, at[evidence.places]])]
    return actions, _sampled(policy, first, first_key, lambda done, rows: None)


def _led(policy: DeployedPolicy, data: Dataset, key: Array, on_rows: OnRows) -> Float[np.ndarray, "places action"]:
    """The actions at all rows of all episodes and after the last row of each, in units."""
    starts, ends, _ = data.episode_bounds()
    found = np.zeros((len(data) + len(starts), data.actions.shape[1]), np.float32)
    done = logged_box(policy, data).from_unit(data.actions)
    after = data.observations if data.next_observations is None else data.next_observations
    order, finished = np.argsort(starts - ends, kind="stable"), 0  # the longest first: those side by side are alike
    for group in range(0, len(order), AT_ONCE):
        chosen = np.resize(order[group : group + AT_ONCE], AT_ONCE)
        begin, length = starts[chosen], (ends - starts)[chosen]
        memory: Any = jax.tree.map(lambda leaf: jnp.stack([leaf] * AT_ONCE), policy.initial_memory())
        for step in range(0, int(length.max()) + 1, STEPS_A_CALL):
            now = np.arange(step, step + STEPS_A_CALL)[:, None]
            row, before = begin + np.minimum(now, length - 1), begin + np.clip(now - 1, 0, length - 1)
            seen = np.where((now < length)[..., None], data.observations[row], after[row])
            paid = np.where(now > 0, data.rewards[before], 0.0).astype(np.float32)
            keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, group), step), now.shape[0] * AT_ONCE)
            actions, memory = _play(policy, memory, seen, done[row], paid, keys.reshape(len(now), AT_ONCE))
            there = (now <= length) & (np.arange(AT_ONCE) < len(order) - group)
            found[(begin + chosen + now)[there]] = np.asarray(actions)[there]
            finished += int(there.sum())
            on_rows(min(finished, len(data)), len(data))
    return found


@jax.jit
def _play(
    policy: DeployedPolicy, memory: Any, seen: Array, done: Array, paid: Array, keys: Key[Array, "steps episodes"]
) -> tuple[Float[Array, "steps episodes action"], Any]:
    """Some steps of episodes side by side -> (what the policy would do, its memory of what was done)."""

    def one(memory: Any, seen: Array, done: Array, paid: Array, key: Array) -> tuple[Array, Any]:
        action, memory = policy.step(seen, key, memory, paid)
        return action, policy.corrected(memory, done)

    def step(memory: Any, rows: tuple[Array, ...]) -> tuple[Any, Array]:
        actions, memory = jax.vmap(one)(memory, *rows)
        return memory, actions

    memory, actions = jax.lax.scan(step, memory, (seen, done, paid, keys))
    return actions, memory
