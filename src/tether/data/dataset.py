"""The data-set container: logged rows in recording order, on the host, checked once when they arrive.

A `Dataset` keeps the *file's* rows, flags included; what an algorithm trains on is the transition table that
`Dataset.transitions` derives from them (docs/data.md). Episodes (returns, lengths, sequences) are
always cut from the file's rows, never from the table, in which every timed-out episode has lost a row.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tether.data.choices import refuse_choices
from tether.data.parallel import in_parts
from tether.data.schema import Schema, size_of
from tether.data.source import (
    ACTION_TOLERANCE,
    COLUMNS,
    Bound,
    Names,
    Source,
    check_rows,
    column_of,
    flags_of,
    numbers_of,
    rounded_away,
)
from tether.environments.tasks import Task
from tether.errors import InputError
from tether.types import Bool, Float, Int, Transition

__all__ = ["Dataset", "EpisodeBounds", "part_of", "recorded_numbers", "recordings_of"]

ALIGNMENT = 64  # bytes; JAX on a CPU takes such arrays as they are and copies others
NUMBERS_AT_ONCE = 2**20  # of one check
ROWS_AT_ONCE = 50_000  # of copies and checks


class EpisodeBounds(NamedTuple):
    """Episode k is the rows `starts[k] : ends[k]`; `last_is_partial`: the last one has no end flag."""

    starts: Int[np.ndarray, " episodes"]
    ends: Int[np.ndarray, " episodes"]
    last_is_partial: bool


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Logged experience, one row per environment step, rows of an episode adjacent and in order.

    Columns may be given in any numeric type and `(N, 1)` where `(N,)` is meant; they are kept as read-only
    float32 and bool arrays. One episode is enough, and so is the beginning of one (no flag set at all).

    Attributes:
        name: what the data set is called in results, e.g. `halfcheetah-medium-v2`; the task is found by it.
        observations: (N, O) float32, seen before the action of the row.
        actions: (N, A) float32, in [-1, 1].
        rewards: (N,) float32, as the environment paid them: never transformed here.
        terminals: (N,) bool, the task truly ended with this row.
        timeouts: (N,) bool, the recording was cut after this row (horizon, end of a collection block).
        next_observations: (N, O) float32 exactly as the file stores them, or None.
        source: the file.
        metadata: small scalars that the file carries (algorithm, reference scores, ...).
        exact_next_observations: the stored `next_observations` are right in *every* row, time-outs included
            (Minari's layout), so `transitions` need not drop any row.
        terminals_end_episodes: False where the recording goes on after a terminal row, so that only time-outs
            tell episodes apart (OGBench: a trajectory is not stopped by success).
        successes: (N,) bool, the task stood solved after this row's action; None where that is not recorded.
        schema: names of the columns and the robot's own range of its actions; None where they have none.
        recorded_in: the environment that the file says it was collected in; None where it does not say.
        masks: name -> (N,) bool, the rows of some whole episodes (robomimic's filter keys, LeRobot's splits).
        has_rewards: False where nobody recorded any (demonstrations): `rewards` are zeros then, and mean nothing.
        notes: what was left out or taken for granted when it was read, a line each.
        recorded_episodes: (N,) the number of the episode that each row was recorded in, -1 - number where rows of it
            are missing: then flags end pieces of it, whose returns are not those of episodes. None: what flags end are
            the episodes.
        continuous: actions of whole numbers are levels; otherwise such as can be choices are refused (docs/data.md).
        log_densities: (N,) float32, the logarithm of the density that whoever acted gave to the action, in the robot's
            units; NaN where that is not known. Training does not read them, importance sampling does (`tether.ope`).

    Raises:
        InputError: no rows; columns of unequal length or wrong rank; not numbers; NaN or infinity; flags
            other than 0 and 1; actions outside [-1, 1] by more than `ACTION_TOLERANCE`, or indices of choices; a
            schema of another size.
    """

    name: str
    # Not annotated by shape: a checker would refuse a wrong one before `__post_init__` can say what is wrong.
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray
    next_observations: np.ndarray | None
    source: Source
    metadata: dict[str, str | float | int] = field(default_factory=dict)
    exact_next_observations: bool = False
    terminals_end_episodes: bool = True
    successes: np.ndarray | None = None
    schema: Schema | None = None
    recorded_in: Task | None = None
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    has_rewards: bool = True
    notes: tuple[str, ...] = ()
    recorded_episodes: np.ndarray | None = None
    continuous: bool = False
    log_densities: np.ndarray | None = None

    def __post_init__(self) -> None:
        where = self.source.location
        rows = len(self.observations) if np.ndim(self.observations) else 0
        if rows == 0:
            raise InputError(f"{where}: observations have no rows; a data set needs at least one transition")
        if self.schema is None and not self.continuous:  # whoever gave a schema has looked
            refuse_choices(where, self.actions)
        columns: dict[str, np.ndarray] = {
            "observations": _matrix(where, "observations", self.observations, rows),
            "actions": _matrix(where, "actions", self.actions, rows),
            "rewards": _floats(where, "rewards", column_of(where, "rewards", self.rewards, rows)),
            "terminals": flags_of(where, "terminals", self.terminals, rows),
            "timeouts": flags_of(where, "timeouts", self.timeouts, rows),
        }
        if self.next_observations is not None:
            columns["next_observations"] = _matrix(where, "next_observations", self.next_observations, rows)
            _check_same_width(where, columns["observations"], columns["next_observations"])
        elif self.exact_next_observations:
            raise InputError(f"{where}: exact_next_observations is set but there are no next_observations")
        if self.successes is not None:
            columns["successes"] = flags_of(where, "successes", self.successes, rows)
        object.__setattr__(self, "notes", (*self.notes, *_rounding_notes(self.observations, self.schema)))
        _check_action_range(where, columns["actions"])
        _check_schema(where, self.schema, columns)
        for name, array in columns.items():
            object.__setattr__(self, name, _read_only(array))
        if self.recorded_episodes is not None:
            numbers = column_of(where, "recorded_episodes", self.recorded_episodes, rows).astype(np.int64)
            object.__setattr__(self, "recorded_episodes", _read_only(numbers))
        if self.log_densities is not None:
            densities = column_of(where, "log_densities", self.log_densities, rows).astype(np.float32)
            object.__setattr__(self, "log_densities", _read_only(densities))
        masks = {key: flags_of(where, f"mask {key}", mask, rows) for key, mask in self.masks.items()}
        object.__setattr__(self, "masks", {key: _read_only(mask) for key, mask in masks.items()})
        if self.source.digest is None:
            object.__setattr__(self, "source", dataclasses.replace(self.source, digest=self.content_sha256()))

    @classmethod
    def from_arrays(
        cls,
        observations: Any,
        actions: Any,
        rewards: Any = None,
        terminals: Any = None,
        *,
        timeouts: Any = None,
        episodes: Any = None,
        next_observations: Any = None,
        exact_next_observations: bool = True,
        successes: Any = None,
        name: str = "memory",
        observation_names: Names | None = None,
        action_names: Names | None = None,
        action_low: Bound | None = None,
        action_high: Bound | None = None,
        continuous: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> "Dataset":
        """Data in memory: N rows, one per environment step, rows of an episode adjacent and in order.

        The arrays are copied: what you do to yours later changes nothing here. Runs on these data are resumed and
        evaluated with the same data: `tether.resume(folder, dataset=data)`.

        Args:
            observations: (N, O) numbers; or a dictionary, also nested, of arrays, whose names the policy then takes.
            actions: (N, A) in [-1, 1], or in the range that `action_low` and `action_high` state; or a dictionary.
            rewards: (N,), as the environment paid them; None where nobody recorded any (demonstrations).
            terminals: (N,) flags: the task truly ended with this row; None where no episode did.
            timeouts: (N,) flags: the recording was cut after this row (gymnasium's truncations).
            episodes: (N,) whole numbers or texts, equal within each episode, where no flag tells episodes apart.
            next_observations: as `observations`, what was seen after the row's action.
            exact_next_observations: whether these are right in every row, time-outs included, so that no row is lost.
            successes: (N,) flags: the task stood solved after this row's action.
            name: of the data set in results; `hopper-medium-v2` is evaluated and scored as D4RL's.
            observation_names, action_names: what the columns are called: O names, or name -> how many numbers.
            action_low, action_high: the robot's own range, one number for all actions or one each. Policies act in it.
            continuous: actions of whole numbers are levels, which are refused where they may be choices (docs/data.md).
            metadata: small scalars to keep with the data.

        Raises:
            InputError: as `Dataset`, naming the array; discrete actions; bounds that the actions leave; names that are
                too few or too many; nothing that tells episodes apart.
        """
        from tether.data.memory import arguments_of_arrays

        arrays = {"observations": observations, "actions": actions}
        optional = {
            "rewards": rewards,
            "terminals": terminals,
            "timeouts": timeouts,
            "episodes": episodes,
            "next_observations": next_observations,
            "successes": successes,
        }
        arrays |= {column: value for column, value in optional.items() if value is not None}
        names, bounds = (observation_names, action_names), (action_low, action_high)
        exact = exact_next_observations
        return cls(**arguments_of_arrays(name, arrays, names, bounds, exact, metadata or {}, continuous))

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Any],
        *,
        name: str = "memory",
        observation_names: Names | None = None,
        action_names: Names | None = None,
        action_low: Bound | None = None,
        action_high: Bound | None = None,
        continuous: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> "Dataset":
        """Data in memory from a list of episodes: dictionaries, or objects with attributes.

        Args:
            episodes: each with `observations` (T+1, O), the one after the last action included, or (T, O);
                `actions` (T, A); `rewards` (T,), or none in any episode; `terminals` or `terminations`, (T,) or one
                flag for the last row, or none in any episode; perhaps `timeouts` or `truncations` in the same way. An
                episode without a flag was cut at its end. Observations and actions may be dictionaries of arrays.
            name, observation_names, action_names, action_low, action_high, continuous, metadata: as of `from_arrays`.

        Raises:
            InputError: as `from_arrays`, naming episode and array; a flag before an episode's last row; no episode.
        """
        from tether.data.memory import arguments_of_episodes

        names, bounds = (observation_names, action_names), (action_low, action_high)
        return cls(**arguments_of_episodes(name, episodes, names, bounds, metadata or {}, continuous))

    @classmethod
    def from_gymnasium(
        cls,
        episodes: Iterable[Any],
        *,
        environment: Any = None,
        name: str = "memory",
        continuous: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> "Dataset":
        """Data in memory from recorded gymnasium episodes, such as Minari's `EpisodeData` and `EpisodeBuffer`.

        Args:
            episodes: dictionaries or objects with `observations` (T+1), `actions`, `rewards`, `terminations` and
                `truncations` (T). Dictionary and tuple spaces are flattened by name. `infos["success"]` is kept.
            environment: the environment that was recorded: it states the range of the actions, and is what
                `tether.train` then evaluates in. None: actions lie in [-1, 1].
            name, continuous, metadata: as of `from_arrays`; an environment with a box of actions says continuous, too.

        Raises:
            InputError: as `from_episodes`; discrete or unbounded action spaces.
        """
        from tether.data.memory import arguments_of_gymnasium

        return cls(**arguments_of_gymnasium(name, episodes, environment, metadata or {}, continuous))

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        observation: str | Sequence[str],
        action: str | Sequence[str],
        reward: str,
        episode: str | None = None,
        terminal: str | None = None,
        truncated: str | None = None,
        time: str | None = None,
        next_observation: str | Sequence[str] = (),
        missing: Literal["refuse", "drop", "hold"] = "refuse",
        max_gap: float | None = None,
        name: str = "memory",
        action_low: Bound | None = None,
        action_high: Bound | None = None,
        continuous: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> "Dataset":
        """Data in memory from a pandas or polars frame, or whatever else has `__arrow_c_stream__`; needs pyarrow.

        Args:
            frame: a row per step. Columns may hold lists of equal length.
            observation, action: columns; patterns may hold * and ?, such as "joint_*" (joint_2 before joint_10).
            reward: a column, arithmetic over columns such as "1 - angle**2", or "none" for demonstrations.
            episode: the column that tells episodes apart, or "none" for one recording without a break.
            terminal, truncated: columns of flags.
            time: the column to sort each episode's rows by.
            next_observation: what was seen after the action, where rows are in any order (s, a, r, s').
            missing: rows with an entry that is missing or not finite are refused, dropped (the episode ends there, as
                truncated), or hold the value of the row before.
            max_gap: a longer step of `time` ends an episode; in its unit, in seconds where it shows times.
            name, action_low, action_high, continuous, metadata: as of `from_arrays`.

        Raises:
            InputError: no pyarrow; columns that are missing, meant twice or not of the kind needed, with the choices;
                as `from_arrays`.
        """
        from tether.data.memory import arguments_of_frame

        meant = {"observation": observation, "action": action, "reward": reward, "episode": episode}
        meant |= {"terminal": terminal, "truncated": truncated, "time": time, "next_observation": next_observation}
        meant |= {"missing": missing, "max_gap": max_gap}
        return cls(**arguments_of_frame(name, frame, meant, (action_low, action_high), metadata or {}, continuous))

    def replace(self, **columns: Any) -> "Dataset":
        """The same data with other columns, in memory: no longer those of the file they were read from.

        Demonstrations (`has_rewards`) that are given rewards have them.
        """
        if columns.get("rewards") is not None:
            columns.setdefault("has_rewards", True)
        return dataclasses.replace(self, **columns, source=Source.memory(columns.get("name", self.name)))

    def to_hdf5(self, path: str | Path) -> Path:
        """Write the data to a new HDF5 file in D4RL's layout, whole or not at all -> its path.

        `tether.load_dataset` reads the same data from it, and so does every command; the file's name becomes theirs.
        Raises InputError for a file that exists, another ending, or a folder that is not there; OSError where the disk
        fails.
        """
        from tether.data.memory import write_hdf5

        return write_hdf5(self, Path(path))

    def content_sha256(self) -> str:
        """SHA-256, in hexadecimal, of the columns and of the rules that they follow, whichever file they are from.

        Not of `name`, `metadata` and `recorded_in`, which training does not depend on.
        """
        rules = {
            "exact_next_observations": self.exact_next_observations,
            "terminals_end_episodes": self.terminals_end_episodes,
            "schema": None if self.schema is None else self.schema.to_json(),
        }
        if not self.has_rewards:
            rules["has_rewards"] = False
        digest = hashlib.sha256(json.dumps(rules).encode())
        columns = {name: getattr(self, name) for name in COLUMNS}
        columns |= {f"masks/{name}": self.masks[name] for name in sorted(self.masks)}
        for name, array in columns.items():
            if array is not None:
                stored = np.ascontiguousarray(array.astype("?" if array.dtype == np.bool_ else "<f4", copy=False))
                digest.update(f"{name} {stored.shape}".encode())
                digest.update(stored.data)
        return digest.hexdigest()

    def __len__(self) -> int:
        """The number of rows N in the file (not of transitions, see `transitions`)."""
        return len(self.rewards)

    def __repr__(self) -> str:
        bounds, returns, lengths = self.episode_bounds(), self.episode_returns(), self.episode_lengths()
        partial = ", the last one partial" if bounds.last_is_partial else ""
        paid = "no rewards"
        if self.has_rewards and not len(returns):
            paid = "returns not known: rows of every episode are missing"
        elif self.has_rewards:
            paid = f"return mean {returns.mean():.1f} (min {returns.min():.1f}, max {returns.max():.1f})"
        stored = "not stored" if self.next_observations is None else "stored"
        return (
            f"Dataset {self.name!r} from {self.source.location} (sha256 {self.source.sha256[:12]})\n"
            f"  observations {self.observations.shape}, actions {self.actions.shape}, "
            f"next observations {stored}\n"
            f"  {len(bounds.starts)} episodes{partial}; {self.terminals.sum()} terminal rows, "
            f"{self.timeouts.sum()} time-outs; length mean {lengths.mean():.1f} "
            f"(min {lengths.min()}, max {lengths.max()})\n"
            f"  {paid}"
        )

    def select(self, rows: Int[np.ndarray, " kept"]) -> "Dataset":
        """These rows of *every* column, the optional ones too, in this order, in memory: no longer the file's."""
        return part_of(self, rows, Source.memory(self.name))

    def episode_bounds(self) -> EpisodeBounds:
        """Where the episodes lie: a cut after every row whose `terminals` or `timeouts` is set (after time-outs
        only, where the recording goes on after terminal rows).

        Rows after the last flag form one more, partial episode (D4RL's sequence view drops it; here it is
        included and `last_is_partial` is set, so that no row is lost silently).
        """
        ends = np.flatnonzero(self._ended()) + 1
        last_is_partial = len(ends) == 0 or int(ends[-1]) != len(self)
        if last_is_partial:
            ends = np.append(ends, len(self))
        return EpisodeBounds(np.concatenate([[0], ends[:-1]]), ends, last_is_partial)

    def episode_returns(self) -> Float[np.ndarray, " episodes"]:
        """Undiscounted sums of the raw rewards, float64, of the whole episodes.

        A data set without any complete episode is one partial one: then it is that one's. One without rewards
        (`has_rewards`), and one of whose every episode rows are missing, has none at all.
        """
        starts, ends = self.whole_episodes()
        if not self.has_rewards or not len(starts):
            return np.zeros(0)
        sums = np.add.reduceat(
            np.append(self.rewards, 0.0).astype(np.float64), np.stack([starts, ends], axis=1).ravel()
        )
        return sums[::2]

    def episode_lengths(self) -> Int[np.ndarray, " episodes"]:
        """Steps of the complete episodes; of one of which rows are missing, of its pieces."""
        starts, ends = self.complete_episodes()
        return ends - starts

    def _ended(self) -> Bool[np.ndarray, " rows"]:
        """After which rows an episode, or a piece of one, is cut."""
        return self.terminals | self.timeouts if self.terminals_end_episodes else self.timeouts

    def whole_episodes(self) -> tuple[Int[np.ndarray, " episodes"], Int[np.ndarray, " episodes"]]:
        """(starts, ends) of the complete episodes of which no row is missing."""
        if self.recorded_episodes is None:
            return self.complete_episodes()
        numbers = self.recorded_episodes
        ends = np.append(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1, len(self))
        starts = np.concatenate([[0], ends[:-1]])
        whole = (numbers[starts] >= 0) & self._ended()[ends - 1]
        return starts[whole], ends[whole]

    def complete_episodes(self) -> tuple[Int[np.ndarray, " episodes"], Int[np.ndarray, " episodes"]]:
        """(starts, ends) of the episodes that end with a flag; of a data set with none, of its one partial episode."""
        starts, ends, last_is_partial = self.episode_bounds()
        if last_is_partial and len(starts) > 1:
            return starts[:-1], ends[:-1]
        return starts, ends

    def transitions(self, keep_timeouts: bool | None = None) -> Transition:
        """The table an algorithm trains on: (o, a, r, o', terminal), float32 NumPy arrays, M <= N rows.

        By default this is D4RL's Q-learning view (docs/data.md): rows with a time-out are dropped,
        since row i+1 is not what followed them; the last row of the file is always dropped; terminal rows are
        kept; o' is the observation of row i+1. Two documented differences from D4RL:

        1. A row that is both terminal and time-out is KEPT with terminal = 1; D4RL drops it, and with it
           every success on the last step of an episode (section 4, pitfall 2).
        2. A terminal row's o' is the stored next observation if there is one, else the row's own; D4RL puts
           the first observation of the *next* episode there. It is masked by 1 - terminal wherever a value is
           bootstrapped; anywhere else another episode's observation would be poison (pitfall 3).

        Args:
            keep_timeouts: True keeps *every* row and takes o' from the stored next observations (pitfall 7),
                so that time-outs bootstrap from what truly followed. None: True where those are exact in
                every row (`exact_next_observations`, Minari), else False as in D4RL.

        Raises:
            InputError: `keep_timeouts` without stored next observations; no row is left.
        """
        return self.transitions_and_rows(keep_timeouts)[0]

    def transitions_and_rows(
        self, keep_timeouts: bool | None = None, keep_end: bool = False
    ) -> tuple[Transition, Int[np.ndarray, " batch"]]:
        """`transitions`, and which row of the file each of them is.

        keep_end: also the last row of all, which D4RL drops, where it is terminal.
        """
        if self._keeps_timeouts(keep_timeouts):
            if self.next_observations is None:
                where = self.source.location
                raise InputError(f"{where}: keep_timeouts needs next_observations, which are not stored here")
            rows = np.arange(len(self))
            return self.table(rows, self.next_observations), rows
        last = len(self) - 1
        ends_terminal = keep_end and self.terminals[last]
        rows = np.flatnonzero((self.terminals | ~self.timeouts)[: last + ends_terminal])
        if len(rows) == 0:
            raise InputError(
                f"{self.source.location}: no transition is left of {len(self)} rows: "
                "rows with a time-out and the last row have no next observation"
            )
        # One pass over the file's rows: what has just been read for o' is read again for the next o.
        arrays = [self.observations, self.actions, self.rewards, self.observations[min(1, last) :]]
        observation, action, reward, next_observation = _taken(arrays, rows)
        ended = self.terminals[rows]
        after_end = self.observations if self.next_observations is None else self.next_observations
        next_observation[ended] = after_end[rows[ended]]
        return _transition(observation, action, reward, next_observation, ended), rows

    def _keeps_timeouts(self, asked: bool | None) -> bool:
        return self.exact_next_observations if asked is None else asked

    def table(
        self, rows: Int[np.ndarray, " batch"], next_observation: Float[np.ndarray, "batch observation"]
    ) -> Transition:
        """These rows of the file as transitions to `next_observation`, NumPy arrays."""
        observation, action, reward = _taken([self.observations, self.actions, self.rewards], rows)
        return _transition(observation, action, reward, next_observation, self.terminals[rows])


def part_of(dataset: Dataset, rows: Int[np.ndarray, " kept"], source: Source | None = None) -> Dataset:
    """These rows of every column. source: None keeps the data set's own, whose SHA-256 is of all rows: right only where
    the rule that chose the rows is recorded beside it."""
    found = {entry.name: getattr(dataset, entry.name) for entry in dataclasses.fields(dataset)}
    columns = {name: value[rows] for name, value in found.items() if isinstance(value, np.ndarray)}
    masks = {key: mask[rows] for key, mask in dataset.masks.items()}
    return dataclasses.replace(dataset, **columns, masks=masks, source=source or dataset.source)


def recorded_numbers(recorded: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """The number of each row's episode, of `Dataset.recorded_episodes`, whether or not rows of it are missing."""
    return np.where(recorded < 0, -1 - recorded, recorded)


def recordings_of(dataset: Dataset) -> Int[np.ndarray, " episodes"]:
    """The number of the recording that each of `Dataset.episode_bounds`' episodes is from, from 0: pieces of one share
    it, as they resemble each other.

    Pieces are taken as recordings of their own where there is a single one, and where most are a row long, as in tables
    in no order: there the numbers say nothing.
    """
    starts = dataset.episode_bounds().starts
    recorded = dataset.recorded_episodes
    if recorded is None or 2 * len(starts) > len(dataset):
        return np.arange(len(starts))
    first = recorded[starts]
    known, numbers = np.unique(recorded_numbers(first), return_inverse=True)
    return numbers if len(known) > 1 else np.arange(len(starts))


def _transition(observation: Any, action: Any, reward: Any, next_observation: Any, terminal: Any) -> Transition:
    """`Transition` is annotated for device arrays; on the host the same columns are NumPy arrays, flags float32."""
    return Transition(observation, action, reward, next_observation, terminal.astype(np.float32))


def _taken(arrays: list[np.ndarray], rows: Int[np.ndarray, " batch"]) -> list[np.ndarray]:
    """`array[rows]` of each float32 array, on several cores and where a CPU device uses it without another copy."""
    outs = [_aligned((len(rows), *array.shape[1:])) for array in arrays]

    def take(part: slice) -> None:
        for array, out in zip(arrays, outs, strict=True):
            np.take(array, rows[part], axis=0, out=out[part], mode="clip")  # "raise" would fill a copy first

    in_parts(len(rows), ROWS_AT_ONCE, take)
    return outs


def _surely_finite(values: np.ndarray) -> bool:
    """One pass without a temporary array settles the usual case: NaN and infinity pass through a sum of squares."""
    flat = values.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = in_parts(len(flat), NUMBERS_AT_ONCE, lambda part: np.dot(flat[part], flat[part]))
    return bool(np.isfinite(squares).all())  # False also where finite numbers are beyond 1e19


def _range(array: np.ndarray) -> tuple[Any, Any]:
    """(least, largest) entry; NaN where there is one. One pass without a temporary array."""
    ends = in_parts(len(array), ROWS_AT_ONCE, lambda part: (array[part].min(), array[part].max()))
    return np.min([low for low, _ in ends]), np.max([high for _, high in ends])


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Uninitialised float32 that begins at a multiple of ALIGNMENT bytes."""
    size = 4 * int(np.prod(shape))
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(np.float32).reshape(shape)


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()  # the caller's own array stays writeable
    view.flags.writeable = False
    return view


def _floats(where: str, column: str, array: np.ndarray) -> np.ndarray:
    """As contiguous float32; refuses NaN and infinity, also those that the cast to float32 makes."""
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, dtype=np.float32)
    if _surely_finite(values):
        return values
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = tuple(int(i) for i in bad[0])
        at = f"row {place[0]}" + "".join(f", entry {i}" for i in place[1:])
        raise InputError(
            f"{where}: {column} holds {array[place]} at {at}; every entry must be finite in float32 "
            f"({len(bad)} are not)"
        )
    return values


def _rounding_notes(observations: Any, schema: Schema | None) -> Iterator[str]:
    """A line for each column that float32 cannot hold."""
    matrix = np.asarray(observations)
    for column, exact, kept in rounded_away(matrix.reshape(len(matrix), -1)):
        layout = {} if schema is None else schema.observation
        name = next((repr(key) for key, (start, stop) in layout.items() if start <= column < stop), str(column))
        yield f"observation {name}: {exact:,} different values become {kept:,} in float32; subtract its beginning"


def _matrix(where: str, column: str, value: Any, rows: int) -> np.ndarray:
    array = numbers_of(where, column, value)
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{where}: {column} has shape {array.shape}; two axes (rows, size) are needed")
    check_rows(where, column, array, rows)
    return _floats(where, column, array)


def _check_same_width(where: str, observations: np.ndarray, next_observations: np.ndarray) -> None:
    if observations.shape != next_observations.shape:
        raise InputError(
            f"{where}: next_observations has shape {next_observations.shape} "
            f"but observations {observations.shape}; they must be equal"
        )


def _check_action_range(where: str, actions: np.ndarray) -> None:
    low, high = _range(actions)
    if low >= -1.0 - ACTION_TOLERANCE and high <= 1.0 + ACTION_TOLERANCE:
        return
    outside = np.flatnonzero((np.abs(actions) > 1.0 + ACTION_TOLERANCE).any(axis=1))
    if len(outside):
        raise InputError(
            f"{where}: actions reach from {actions.min():g} to {actions.max():g}, first outside [-1, 1] at "
            f"row {outside[0]}; rescale them to [-1, 1], or import the file with their range, which the policy then "
            "acts in: tether data import --action-low LOW --action-high HIGH"
        )


def _check_schema(where: str, schema: Schema | None, columns: dict[str, np.ndarray]) -> None:
    for name in ("observation", "action") if schema is not None else ():
        named, found = size_of(getattr(schema, name)), columns[f"{name}s"].shape[1]
        if named != found:
            raise InputError(f"{where}: {name}s have {found} numbers but the schema names {named}")
