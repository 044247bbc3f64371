"""What a log says about policies that did not write it: rows to fit values to, first states, and what its own episodes
were worth; and the actions that candidate policies would have taken there, sampled once."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from tether.data import Dataset
from tether.data.schema import ActionBox
from tether.data.transforms import no_rewards
from tether.data.views import View, build, raw_table, returns_to_go
from tether.environments.choose import data_box
from tether.errors import InputError
from tether.ope.fitted_q import EvaluationData
from tether.policies.deployed import DeployedPolicy
from tether.types import Array, Float, Int, Key, Transition

__all__ = ["Decisions", "Evidence", "decisions_of", "evaluation_data", "evidence_of", "value_scale"]

FIRST_STATES = PLACES = 1000  # at most
AT_ONCE = 64  # observations: with a thousand candidate actions each they still fit into a CPU's caches
ROWS_A_CALL = 4096
SMALLEST_SPREAD = 1e-2  # of values, as a part of their mean: what rewards are divided by


class Evidence(NamedTuple):
    """The part of a log that policies are judged on, NumPy arrays in the data's units, actions in [-1, 1]."""

    rows: Transition  # as recorded; `next_action` is None where rows do not follow each other
    episode: Int[np.ndarray, " rows"]  # whose each row is
    step: Int[np.ndarray, " rows"]  # of its episode, from 0
    first_observation: Float[np.ndarray, "episodes observation"]
    first_action: Float[np.ndarray, "episodes action"]  # the log's own
    places: Int[np.ndarray, " states"]  # some of the rows, where support is looked at
    returns: Float[np.ndarray, " episodes"]  # discounted, of the whole episodes; one that was cut is taken to earn on
    reachable: tuple[float, float]  # what discounted rewards of this size can add up to
    to_go: Float[np.ndarray, " rows"]  # discounted returns from each row on, likewise
    discount: float


class Decisions(NamedTuple):
    """What a policy does where the log has been."""

    following: Float[np.ndarray, "rows action"]  # at the rows' next observations, a draw each; zeros after an end
    there: Float[np.ndarray, "states action"]  # at the observations of `Evidence.places`
    first: Float[np.ndarray, "episodes draws action"]  # at the first observations


def evidence_of(data: Dataset, discount: float, most_rows: int, seed: int = 0) -> Evidence:
    """At most so many rows of a log, drawn without replacement, and up to a thousand first states.

    Raises: InputError where there are no rewards, or none that tell anything.
    """
    if why := no_rewards(data, data.rewards):
        raise InputError(f"{data.source.location} {why}: nothing can be said about what policies earn")
    random, bounds = np.random.default_rng(seed), data.episode_bounds()
    table, place = _table(data)
    low, high = min(float(data.rewards.min()), 0.0), max(float(data.rewards.max()), 0.0)
    to_go = _going_on(data, discount)
    if len(place) > most_rows:
        kept = np.sort(random.permutation(len(place))[:most_rows])
        table, place = jax.tree.map(lambda column: column[kept], table), place[kept]
    starts, _ = data.whole_episodes()
    firsts = starts if len(starts) else bounds.starts
    if len(firsts) > FIRST_STATES:
        firsts = np.sort(random.permutation(firsts)[:FIRST_STATES])
    horizon = 1 / (1 - discount)
    return Evidence(
        table,
        (episode := np.searchsorted(bounds.ends, place, side="right").astype(np.int32)),
        place - bounds.starts[episode],
        data.observations[firsts],
        data.actions[firsts],
        np.sort(random.permutation(len(place))[:PLACES]),
        to_go[starts],
        (low * horizon, high * horizon),
        to_go[place],
        discount,
    )


def _table(data: Dataset) -> tuple[Transition, Int[np.ndarray, " rows"]]:
    """With the log's own next actions where it has them."""
    for name in ("sarsa", "transitions"):
        try:
            table, rows = raw_table(View(name), data)
            return build(View(name), data, rows, table, data.rewards), rows
        except InputError:
            if name == "transitions":
                raise
    raise AssertionError


def _going_on(data: Dataset, discount: float) -> Float[np.ndarray, " rows"]:
    """Discounted returns from every row on. An episode that was cut, and not ended, is taken to earn on as in its last
    quarter: values know no time limit."""
    ends, rewards = np.union1d(data.episode_bounds().ends, np.flatnonzero(data.terminals) + 1), data.rewards
    lengths, rows = np.diff(ends, prepend=0), np.arange(len(data))
    to_go, number = returns_to_go(rewards.astype(np.float64), ends, discount), np.searchsorted(ends, rows, "right")
    sums, last = np.append(0.0, np.cumsum(rewards, dtype=np.float64)), -(-lengths // 4)
    earning = np.where(data.terminals[ends - 1], 0.0, (sums[ends] - sums[ends - last]) / last) / (1 - discount)
    return to_go + discount ** (ends[number] - rows) * earning[number]


# --- what policies would do ---------------------------------------------------------------------------------


@jax.jit
def _act(policy: DeployedPolicy, observations: Float[Array, "rows observation"], keys: Key[Array, " rows"]) -> Array:
    return jax.lax.map(lambda row: policy(*row), (observations, keys), batch_size=AT_ONCE)


def decisions_of(
    policy: DeployedPolicy,
    evidence: Evidence,
    data: Dataset,
    draws: int = 4,
    seed: int = 0,
    on_rows: Callable[[int, int], None] = lambda done, rows: None,
) -> Decisions:
    """Sample the actions of a policy, in [-1, 1] as `data` count them.

    Raises: InputError for a policy with a memory, and for one of other sizes than the data.
    """
    sizes = policy.observation_mean.shape[0], policy.action_scale.shape[0]
    found = data.observations.shape[1], data.actions.shape[1]
    if sizes != found:
        raise InputError(f"{data.source.location}: observations and actions of sizes {found}, the policy's are {sizes}")
    if policy.has_memory:
        raise InputError("a policy with a memory: what it does depends on more than the observation")
    rows, starts = evidence.rows, evidence.first_observation
    goes_on = np.flatnonzero(np.asarray(rows.terminal) == 0)
    seen = [np.asarray(rows.next_observation)[goes_on], np.asarray(rows.observation)[evidence.places]]
    observations = np.concatenate([*seen, np.repeat(starts, draws, axis=0)])
    actions = _sampled(policy, observations, seed, data_box(data), on_rows)
    following = np.zeros((len(evidence.episode), found[1]), np.float32)
    following[goes_on], there, first = np.split(actions, np.cumsum([len(part) for part in seen]))
    return Decisions(following, there, first.reshape(len(starts), draws, -1))


def _sampled(
    policy: DeployedPolicy,
    observations: Float[np.ndarray, "rows observation"],
    seed: int,
    box: ActionBox,
    on_rows: Callable[[int, int], None],
) -> Float[np.ndarray, "rows action"]:
    keys, parts = jax.random.split(jax.random.key(seed), len(observations)), []
    scale, offset = np.asarray(box.scale, np.float32), np.asarray(box.offset, np.float32)
    for start in range(0, len(observations), ROWS_A_CALL):
        part = slice(start, start + ROWS_A_CALL)
        action = np.asarray(_act(policy, observations[part], keys[part]))
        parts.append(np.clip((action - offset) / scale, -1.0, 1.0).astype(np.float32))
        on_rows(min(start + ROWS_A_CALL, len(observations)), len(observations))
    return np.concatenate(parts)


def evaluation_data(evidence: Evidence, decisions: Mapping[str, Decisions]) -> tuple[EvaluationData, float]:
    """(what `fit_values` takes, what its values are to be multiplied by).

    Observations are standardised. Rewards are divided so that values have a spread of about 1, and never shifted:
    that would change what an early end is worth. Where the log has next actions, the policy that wrote it is the last
    candidate: what it is worth is known.
    """
    mean, std = evidence.rows.observation.mean(axis=0), evidence.rows.observation.std(axis=0) + 1e-3
    scale = value_scale(evidence)
    candidates = list(decisions.values())
    if evidence.rows.next_action is not None:
        draws = candidates[0].first.shape[1] if candidates else 1
        own = np.repeat(evidence.first_action[:, None], draws, axis=1)
        there = np.asarray(evidence.rows.action)[evidence.places]
        candidates.append(Decisions(np.asarray(evidence.rows.next_action), there, own))
    rows = evidence.rows
    data = EvaluationData(
        observation=(rows.observation - mean) / std,  # pyright: ignore[reportArgumentType]
        action=rows.action,
        reward=(rows.reward / scale).astype(np.float32),  # pyright: ignore[reportAttributeAccessIssue]
        next_observation=(rows.next_observation - mean) / std,  # pyright: ignore[reportArgumentType]
        terminal=rows.terminal,
        first_observation=(evidence.first_observation - mean) / std,  # pyright: ignore[reportArgumentType]
        next_action=np.stack([each.following for each in candidates]),  # pyright: ignore[reportArgumentType]
        first_action=np.stack([each.first for each in candidates]),  # pyright: ignore[reportArgumentType]
        episode=evidence.episode,  # pyright: ignore[reportArgumentType]
        weight=_weight(evidence),  # pyright: ignore[reportArgumentType]
        to_go=(evidence.to_go / scale).astype(np.float32),  # pyright: ignore[reportArgumentType]
    )
    return data, scale


def _weight(evidence: Evidence) -> Float[np.ndarray, " rows"]:
    """Half of the rows are drawn as they lie in the log, half by how much the values of first states are made of them:
    discount^step. Episodes of a thousand steps have few first states, and it is these that are judged."""
    powers = evidence.discount**evidence.step
    return 0.5 / len(powers) + 0.5 * powers / powers.sum()


def value_scale(evidence: Evidence) -> float:
    """By which rewards are divided, so that values have a spread of about 1."""
    return max(float(evidence.to_go.std()), SMALLEST_SPREAD * abs(float(evidence.to_go.mean())), 1e-12)
