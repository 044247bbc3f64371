"""What a log says about policies that did not write it: rows to fit values to, first states, and what its own episodes
were worth."""

from typing import NamedTuple

import jax
import numpy as np

from tether.data import Dataset
from tether.data.dataset import recordings_of
from tether.data.transforms import no_rewards
from tether.data.views import View, build, raw_table, returns_to_go
from tether.errors import InputError
from tether.types import Float, Int, Transition

__all__ = ["Evidence", "evidence_of", "first_weight", "value_scale"]

FIRST_STATES = PLACES = 1000  # at most
SMALLEST_SPREAD = 1e-2  # of values, as a part of their mean: what rewards are divided by


class Evidence(NamedTuple):
    """The part of a log that policies are judged on, NumPy arrays in the data's units, actions in [-1, 1]."""

    rows: Transition  # as recorded; `next_action` is None where rows do not follow each other
    episode: Int[np.ndarray, " rows"]  # whose each row is, of `Dataset.episode_bounds`
    recording: Int[np.ndarray, " rows"]  # the same for all pieces of an episode of which rows are missing
    step: Int[np.ndarray, " rows"]  # of its episode, from 0
    first_observation: Float[np.ndarray, "episodes observation"]
    first_action: Float[np.ndarray, "episodes action"]  # the log's own
    places: Int[np.ndarray, " states"]  # some of the rows, where support is looked at
    returns: Float[np.ndarray, " episodes"]  # discounted, of the whole episodes; one that was cut is taken to earn on
    reachable: tuple[float, float]  # what discounted rewards of this size can add up to
    to_go: Float[np.ndarray, " rows"]  # discounted returns from each row on, likewise
    discount: float


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
        recordings_of(data)[episode].astype(np.int32),
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


def first_weight(evidence: Evidence) -> Float[np.ndarray, " rows"]:
    """Half of the rows are drawn as they lie in the log, half by how much the values of first states are made of them:
    discount^step. Episodes of a thousand steps have few first states, and it is these that are judged."""
    powers = evidence.discount**evidence.step
    return 0.5 / len(powers) + 0.5 * powers / powers.sum()


def spread_of(columns: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " columns"]:
    """Standard deviations, however small the unit; 1 for a column that never changes but by round-off."""
    std, size = columns.std(axis=0, dtype=np.float64), np.abs(columns).max(axis=0)
    return np.where(std > 1e-6 * size, std, 1.0).astype(np.float32)


def value_scale(evidence: Evidence) -> float:
    """By which rewards are divided, so that values have a spread of about 1."""
    return max(float(evidence.to_go.std()), SMALLEST_SPREAD * abs(float(evidence.to_go.mean())), 1e-12)
