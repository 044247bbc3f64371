"""What the readers of robot recordings share: columns as they are stored, and the data set that they become.

A `Recording` is read before anybody refuses what is in it, so that the doctor can look at it, too.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tether.data.choices import refuse_choices
from tether.data.dataset import Dataset
from tether.data.schema import ActionBox, Layout, Schema, layout_of
from tether.data.source import ACTION_TOLERANCE, Source
from tether.errors import InputError
from tether.machine.files import sha256_file

__all__ = [
    "Recording",
    "as_flags",
    "files_digest",
    "flags_of_episodes",
    "is_picture",
    "missing_column",
    "numbered",
    "own_range",
]

LARGEST_MATRIX = 4096
"""Numbers of one row of a column; what has more is a picture or a point cloud."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Episodes of a robot, one below the other.

    Attributes:
        name: the data set's name.
        source: the file, or the folder.
        columns: under D4RL's names, any type, any value; `rewards` is missing where nobody recorded any.
        observation, action: names of the numbers in a row.
        terminals_end_episodes, exact_next_observations: as in `Dataset`.
        extras: other arrays of as many rows, such as the clock.
        masks, successes, metadata, notes: as in `Dataset`.
    """

    name: str
    source: Source
    columns: Mapping[str, np.ndarray]
    observation: Layout
    action: Layout
    terminals_end_episodes: bool = True
    exact_next_observations: bool = False
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    successes: np.ndarray | None = None
    metadata: Mapping[str, str | float | int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def box(self) -> ActionBox:
        """What is mapped to [-1, 1]: [-1, 1] where the actions lie in it, else the range of each in the data."""
        return own_range(self.columns["actions"])

    @property
    def beyond(self) -> str:
        """Which actions leave [-1, 1], and how far, in words."""
        actions = self.columns["actions"]
        outside = np.abs(actions) > 1 + ACTION_TOLERANCE
        rows, columns = outside.any(axis=1).mean(), np.flatnonzero(outside.any(axis=0)).tolist()
        names = {start: name for name, (start, _) in self.action.items()}
        ranges = [f"{names[c]} {np.nanmin(actions[:, c]):.4g} to {np.nanmax(actions[:, c]):.4g}" for c in columns[:4]]
        more = f" and {len(columns) - 4} more" if len(columns) > 4 else ""
        return f"actions are beyond ±1 in {rows:.1%} of the rows ({', '.join(ranges)}{more})"

    def dataset(self, continuous: bool = False) -> Dataset:
        """The data set. continuous: as of `load_dataset`. Raises InputError for what `Dataset` refuses, and for actions
        that are choices."""
        columns, box, notes = dict(self.columns), self.box, list(self.notes)
        if not continuous:
            refuse_choices(self.source.location, columns["actions"], list(self.action))
        if not box.is_unit():
            columns["actions"] = box.to_unit(columns["actions"])
            notes.append(f"{self.beyond}: each action's range in the data becomes -1 to 1")
        rewards = columns.pop("rewards", None)
        return Dataset(
            name=self.name,
            **{"next_observations": None, **columns},
            rewards=np.zeros(len(columns["actions"]), np.float32) if rewards is None else rewards,
            has_rewards=rewards is not None,
            source=self.source,
            metadata=dict(self.metadata),
            exact_next_observations=self.exact_next_observations,
            terminals_end_episodes=self.terminals_end_episodes,
            successes=self.successes,
            schema=Schema(self.observation, self.action, box),
            masks=self.masks,
            notes=tuple(notes),
            continuous=continuous,
        )


def own_range(actions: np.ndarray) -> ActionBox:
    """[-1, 1] where all finite actions lie in it, else from the lowest to the highest of each."""
    finite = np.where(np.isfinite(actions), actions, np.nan).astype(np.float64)
    known = ~np.isnan(finite).all(axis=0)
    low, high = np.full(actions.shape[1], -1.0), np.full(actions.shape[1], 1.0)
    low[known], high[known] = np.nanmin(finite[:, known], axis=0), np.nanmax(finite[:, known], axis=0)
    if (low >= -1 - ACTION_TOLERANCE).all() and (high <= 1 + ACTION_TOLERANCE).all():
        low, high = -np.ones(len(low)), np.ones(len(high))
    return ActionBox(tuple(low.tolist()), tuple(high.tolist()))


def numbered(sizes: Mapping[str, int]) -> Layout:
    """A name for each number: `obs/joint_pos/0`, ...; the column's own where it holds one."""
    names = [name if size == 1 else f"{name}/{index}" for name, size in sizes.items() for index in range(size)]
    return layout_of(dict.fromkeys(names, 1))


def is_picture(shape: Sequence[int], dtype: Any) -> bool:
    """Whether rows of this shape are pictures or the like, and no vectors. shape: of one row."""
    small = int(np.prod(shape)) <= LARGEST_MATRIX
    return len(shape) >= 3 or not small or (len(shape) == 2 and np.dtype(dtype) == np.uint8)


def flags_of_episodes(
    lengths: Sequence[int], terminals: np.ndarray, truncations: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool]:
    """(terminals, timeouts, terminals_end_episodes) of recordings that end with their last rows.

    A recording that goes on after a terminal row (robomimic marks every row at the goal) stays one episode.
    """
    last = np.zeros(len(terminals), bool)
    last[np.cumsum(lengths) - 1] = True
    stops = bool((terminals & ~last).any())
    timeouts = truncations | (last if stops else last & ~terminals)
    return terminals, timeouts, not stops


def files_digest(files: Iterable[Path]) -> str:
    """SHA-256 over the SHA-256 of each file, in their order."""
    return hashlib.sha256("".join(sha256_file(path) for path in files).encode()).hexdigest()


def as_flags(where: str, name: str, values: np.ndarray) -> np.ndarray:
    """0 and 1 as bool. Raises InputError for anything else."""
    bad = np.flatnonzero((values != 0) & (values != 1))
    if len(bad):
        raise InputError(f"{where}: {name} holds {values[bad[0]]} at row {bad[0]}; a flag is false or true, 0 or 1")
    return values.astype(bool)


def missing_column(where: str, what: str, found: Iterable[str], wanted: Sequence[str]) -> InputError:
    """An InputError for columns that are nowhere."""
    return InputError(f"{where}: no {what} ({' or '.join(wanted)}) among {', '.join(sorted(found)) or 'nothing'}")
