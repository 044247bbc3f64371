"""`Logged`: the raw columns made fit for statistics, with everything that several checks need computed once.

Shapes are forced, non-finite entries replaced by the column's median and marked invalid, unequal columns cut to the
shortest, missing time-outs filled in as the reader would. What had to be forced is reported by `columns.py`.
"""

from collections.abc import Callable
from functools import cached_property, wraps
from typing import Any, TypeGuard, TypeVar

import numpy as np

from tether.data.schema import RECORDED_KEY, ActionBox
from tether.data.source import ACTION_TOLERANCE
from tether.doctor.findings import Purpose
from tether.doctor.raw import RawColumns
from tether.doctor.steps import StepScores, explained_share, score_steps
from tether.environments import Task, find_task
from tether.types import Bool, Float, Int

__all__ = ["SAMPLE", "Logged", "finite_in_float32", "numeric", "once", "row_hashes", "spread_rows"]

T = TypeVar("T")
FLAGS = ("terminals", "timeouts")
LAYOUT_OF = {"observations": "observation", "next_observations": "observation", "actions": "action"}
SAMPLE = 100_000
"""Quantiles and histograms look at no more rows than this, evenly spread."""
NARROW = 400
"""Regressions look at no more columns than this (images have tens of thousands)."""


LAGS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 64)
"""Numbers of environments whose rows might take turns."""


def once(function: Callable[["Logged"], T]) -> Callable[["Logged"], T]:
    """Keeps what a function found in a data set: several checks and fixes ask again."""

    @wraps(function)
    def remembered(data: "Logged") -> T:
        name = function.__qualname__
        if name not in data.memory:
            data.memory[name] = function(data)
        return data.memory[name]

    return remembered


def row_hashes(*columns: np.ndarray) -> np.ndarray:
    """(N,) uint64: equal for rows with equal float32 entries, different otherwise but for a chance of 10^-19 a pair."""
    total = np.zeros(len(columns[0]), np.uint64)
    generator = np.random.default_rng(0)
    for column in columns:
        matrix = column.reshape(len(column), -1).astype(np.float32) + np.float32(0)  # -0.0 is 0.0
        for part in matrix.view(np.uint32).T:
            word = part.astype(np.uint64) + generator.integers(1, 2**63, dtype=np.uint64)
            word ^= word >> np.uint64(29)
            word *= np.uint64(0xBF58476D1CE4E5B9)
            word ^= word >> np.uint64(32)
            total = total * np.uint64(0x9E3779B97F4A7C15) + word
    return total


def numeric(array: np.ndarray | None) -> TypeGuard[np.ndarray]:
    """Whether an array holds real numbers."""
    return array is not None and array.dtype.kind in "biuf"


def finite_in_float32(array: np.ndarray) -> np.ndarray:
    """Where the entries are finite after the cast to float32."""
    if array.dtype.kind != "f":
        return np.ones(array.shape, np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(array.astype(np.float32, copy=False))


def spread_rows(rows: int, most: int) -> Int[np.ndarray, " sample"]:
    """At most `most` of the row numbers 0 to rows - 1, evenly spread; the same ones every time."""
    return np.arange(rows) if rows <= most else np.linspace(0, rows - 1, most).astype(np.int64)


class Logged:
    """One data set as the checks see it.

    Attributes:
        raw: what is stored.
        rows: N, that of the shortest column.
        usable: names of the columns below that the source has and that can be used; the others are empty or zero.
        observations, next_observations: (N, O) float32, finite.
        actions: (N, A) float32, finite, as training sees them: mapped to [-1, 1] where the source's reader maps them.
        stored_actions: (N, A) float32, finite, as stored.
        rewards: (N,) float64, finite.
        terminals: (N,) bool.
        timeouts: (N,) bool; where the source has none: at the task's horizon, else none.
        valid: (N,) bool, every entry of the row's observation, action and reward was finite.
        memory: what `once` keeps.
        purpose: what the data are judged for: unless it is said, offline RL, and imitation where there are no rewards.
    """

    def __init__(self, raw: RawColumns, purpose: Purpose | None = None):
        self.raw = raw
        paid = "rewards" in raw.columns or raw.layout == "ogbench"  # whose rewards are computed
        self.purpose: Purpose = purpose or ("offline-rl" if paid else "imitation")
        self.purpose_is_said = purpose is not None
        self.memory: dict[str, Any] = {}
        self.usable: set[str] = set()
        lengths = [len(column) for column in raw.columns.values() if numeric(column) and column.ndim > 0]
        self.rows = min(lengths, default=0)
        self.valid = np.ones(self.rows, np.bool_)
        self.observations = self._matrix("observations")
        self.stored_actions = self._matrix("actions")
        # Minari's reader, for one, maps actions to [-1, 1], and the policy maps them back.
        mapped = raw.maps_actions and self.has_other_limits
        self.actions = self._in_limits(self.stored_actions) if mapped else self.stored_actions
        self.rewards = self._flat("rewards").astype(np.float64)
        self.next_observations = self._matrix("next_observations")
        if self.next_observations.shape != self.observations.shape:
            self.usable.discard("next_observations")
        if not self.valid.any():  # no row to learn from: nothing can be judged
            self.usable.clear()
        self.terminals = self._flag("terminals")
        self.timeouts = self._flag("timeouts") if self.stores_timeouts else self._assumed_timeouts()

    def has(self, *names: str) -> bool:
        """Whether all these columns can be used."""
        return self.rows > 0 and self.usable.issuperset(names)

    @property
    def stores_timeouts(self) -> bool:
        return numeric(self.raw.columns.get("timeouts"))

    @cached_property
    def task(self) -> Task | None:
        """The task that the data set is named after."""
        return find_task(self.raw.name)

    @property
    def horizon(self) -> int | None:
        """The time limit that the source states, else the task's."""
        return self.raw.horizon or (None if self.task is None else self.task.horizon)

    @property
    def has_other_limits(self) -> bool:
        """Whether the source states limits of its actions, other than -1 and 1, that all of them keep."""
        limits, actions = self.raw.action_limits, self.stored_actions
        if limits is None or len(limits[0]) != actions.shape[1]:
            return False
        low, high = limits
        slack = ACTION_TOLERANCE * np.maximum(np.abs(low), np.abs(high)) + ACTION_TOLERANCE
        return bool(((actions >= low - slack) & (actions <= high + slack)).all() and ((low != -1) | (high != 1)).any())

    def _in_limits(self, actions: np.ndarray) -> np.ndarray:
        assert self.raw.action_limits is not None
        low, high = self.raw.action_limits
        return ActionBox(tuple(low.tolist()), tuple(high.tolist())).to_unit(actions).astype(np.float32)

    # --- columns --------------------------------------------------------------------------------------------

    def _matrix(self, name: str) -> np.ndarray:
        """(N, any width) float32; (N, 0) where there is nothing to use."""
        column = self.raw.columns.get(name)
        if self.rows == 0 or not numeric(column) or column.ndim == 0 or column[0].size == 0:
            return np.zeros((self.rows, 0), np.float32)
        self.usable.add(name)
        return self._finite(name, column[: self.rows].reshape(self.rows, -1)).astype(np.float32, copy=False)

    def _flat(self, name: str) -> np.ndarray:
        """(N,); zeros where there is nothing to use."""
        column = self.raw.columns.get(name)
        if self.rows == 0 or not numeric(column) or column[: self.rows].size != self.rows:
            return np.zeros(self.rows)
        self.usable.add(name)
        return self._finite(name, column[: self.rows].reshape(self.rows, 1))[:, 0]

    def _flag(self, name: str) -> np.ndarray:
        flag = self._flat(name)
        return (flag != 0) & ~np.isnan(flag)

    def _finite(self, name: str, column: np.ndarray) -> np.ndarray:
        """`column` with the median of its finite entries where it is not finite."""
        finite = finite_in_float32(column)
        if finite.all() or name in FLAGS:
            return column
        if name != "next_observations":
            self.valid &= finite.all(axis=1)
        column = column.copy()
        for index in np.flatnonzero(~finite.all(axis=0)):
            good = column[finite[:, index], index]
            column[~finite[:, index], index] = np.median(good) if len(good) else 0.0
        return column

    def _assumed_timeouts(self) -> np.ndarray:
        timeouts = np.zeros(self.rows, np.bool_)
        if self.horizon is None:
            return timeouts
        starts = np.concatenate([[0], np.flatnonzero(self.terminals) + 1])
        for start, end in zip(starts, [*starts[1:], self.rows], strict=True):
            timeouts[start + self.horizon - 1 : end : self.horizon] = True
        return timeouts

    # --- episodes -------------------------------------------------------------------------------------------

    @cached_property
    def ends(self) -> Bool[np.ndarray, " rows"]:
        """Rows that end an episode."""
        return self.terminals | self.timeouts if self.raw.terminals_end_episodes else self.timeouts

    @cached_property
    def last_rows(self) -> Int[np.ndarray, " episodes"]:
        """Last row of each episode; the last one may be unfinished."""
        last = np.flatnonzero(self.ends)
        unfinished = self.rows > 0 and (len(last) == 0 or last[-1] != self.rows - 1)
        return np.append(last, self.rows - 1) if unfinished else last

    @cached_property
    def first_rows(self) -> Int[np.ndarray, " episodes"]:
        return np.concatenate([[0], self.last_rows[:-1] + 1]).astype(np.int64) if self.rows else self.last_rows

    @cached_property
    def lengths(self) -> Int[np.ndarray, " episodes"]:
        return self.last_rows - self.first_rows + 1

    @cached_property
    def complete(self) -> Bool[np.ndarray, " episodes"]:
        """Which episodes have an end flag; all if there is only one."""
        return self.ends[self.last_rows] if self.ends.any() else np.ones(len(self.last_rows), np.bool_)

    @cached_property
    def episode(self) -> Int[np.ndarray, " rows"]:
        """The episode of each row."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def recorded(self) -> Int[np.ndarray, " rows"] | None:
        """`Dataset.recorded_episodes`; None where what flags end are the episodes."""
        found = self.raw.extras.get(RECORDED_KEY)
        return found[: self.rows] if numeric(found) and found.ndim == 1 and len(found) >= self.rows else None

    @cached_property
    def whole(self) -> tuple[Int[np.ndarray, " episodes"], Float[np.ndarray, " episodes"]]:
        """(first rows, undiscounted sums of the rewards) of the complete episodes of which no row is missing, as
        `Dataset.whole_episodes` has them: pieces of others have no return."""
        starts, complete = self.first_rows, self.complete
        if self.recorded is not None and self.rows:
            last = np.append(np.flatnonzero(np.diff(self.recorded)), self.rows - 1)
            starts = np.append(0, last[:-1] + 1)
            complete = (self.recorded[starts] >= 0) & self.ends[last]
        return starts[complete], np.add.reduceat(self.rewards, starts)[complete]

    @property
    def returns(self) -> Float[np.ndarray, " episodes"]:
        """Those of `whole`."""
        return self.whole[1]

    @cached_property
    def inside(self) -> Bool[np.ndarray, " steps"]:
        """(N-1,) whether row i+1 is claimed to be the successor of row i, and both are finite."""
        return ~self.ends[:-1] & self.valid[:-1] & self.valid[1:]

    # --- statistics -----------------------------------------------------------------------------------------

    @cached_property
    def narrow(self) -> Float[np.ndarray, "rows columns"]:
        """The observations; where they have more than `NARROW` columns, that many of those that change."""
        if self.observations.shape[1] <= NARROW:
            return self.observations
        moving = np.flatnonzero((self.observations != self.observations[0]).any(axis=0))
        return np.ascontiguousarray(self.observations[:, moving[spread_rows(len(moving), NARROW)]])

    @cached_property
    def steps(self) -> StepScores | None:
        """How unusual each pair of neighbouring rows is as a transition; None where that cannot be judged."""
        return score_steps(self.narrow, self.actions, self.inside)

    @cached_property
    def interleaving(self) -> int:
        """The number of environments whose rows take turns; 0 if they do not."""
        shares = {lag: self.follows(lag) for lag in LAGS[:1]}
        if shares[1] > 0.9:
            return 0
        shares |= {lag: self.follows(lag) for lag in LAGS[1:]}
        best = max(shares, key=lambda lag: shares[lag])
        return best if best > 1 and shares[best] > 0.5 and shares[1] < 0.2 * shares[best] else 0

    def follows(self, lag: int) -> float:
        """How much of the observation `lag` rows later is predicted (R^2 of the best column); 1 for too few rows."""
        left = np.flatnonzero(self.valid[: max(0, self.rows - lag)] & self.valid[lag:])
        if len(left) < 500 or self.lengths.max() < 3:
            return 1.0
        pairs = left[:: max(1, len(left) // 5000)]
        return explained_share(self.narrow, self.actions, pairs, lag)

    @cached_property
    def state_hashes(self) -> np.ndarray:
        """Equal for equal observations."""
        return row_hashes(self.observations)

    @cached_property
    def pair_hashes(self) -> np.ndarray:
        """Equal for equal observations and actions."""
        return self.state_hashes * np.uint64(3) + row_hashes(self.actions) * np.uint64(5)

    @cached_property
    def row_hashes(self) -> np.ndarray:
        """Equal for equal observations, actions and rewards."""
        return self.pair_hashes * np.uint64(7) + row_hashes(self.rewards)

    @cached_property
    def sample(self) -> Int[np.ndarray, " sample"]:
        """Valid rows for quantiles."""
        rows = np.flatnonzero(self.valid)
        return rows[spread_rows(len(rows), SAMPLE)]

    def column_names(self, name: str, columns: np.ndarray) -> list[str]:
        """`observations[3]`, ... or the schema's names, the first eight."""
        layout = getattr(self.raw.schema, LAYOUT_OF.get(name, ""), {})
        known = {start: key for key, (start, stop) in layout.items() if stop - start == 1}
        names = [known.get(int(column), f"{name}[{int(column)}]") for column in columns[:8]]
        return [*names, "..."] if len(columns) > 8 else names
