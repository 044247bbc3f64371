"""Where data come from, and what the words of a data set mean to all who make one."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tether.errors import InputError
from tether.machine.files import sha256_file
from tether.types import Bool, Float

__all__ = [
    "ACTION_TOLERANCE",
    "COLUMNS",
    "SAME",
    "SUCCESS",
    "Bound",
    "FileDigest",
    "Names",
    "Source",
    "check_rows",
    "column_of",
    "flags_of",
    "follows",
    "numbers_of",
    "rounded_away",
    "successes_of",
]

SAME = 1e-5
"""How far a next observation and the next row's observation may be apart, of a number's size: text may be rounded."""

ACTION_TOLERANCE = 1e-6
"""How far an action may leave [-1, 1]: float32 rounding of a tanh, not another action range."""

SUCCESS = "success"
"""What gymnasium's environments call it in their infos that the task stands solved."""


class FileDigest:
    """The SHA-256 of a file, taken when it is asked for: that takes longer than reading the file."""

    def __init__(self, path: Path):
        self.path = path.absolute()  # the current folder may be another one by then
        self._stamp = self._now()

    @functools.cached_property
    def value(self) -> str:
        """In hexadecimal. Raises InputError where the file is another one by now."""
        value = sha256_file(self.path)
        if self._now() != self._stamp:
            raise InputError(f"{self.path} was changed after it was read; start again")
        return value

    def _now(self) -> tuple[int, int, int]:
        found = self.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Source:
    """Where a data set was read from (`load_dataset` takes it) and the SHA-256 of its file, or of its content where it
    was made in memory."""

    location: str
    digest: str | FileDigest | None  # None: `Dataset` takes that of its content
    collection: str = ""  # Minari, OGBench: whose data these are, and whose scores they are therefore not
    in_memory: bool = False
    path: Path | None = None  # what `location` means from any folder, where it is a path; people read `location`

    @classmethod
    def at(cls, path: Path, digest: str | FileDigest, collection: str = "") -> "Source":
        """Of a file or a folder."""
        return cls(str(path), digest, collection, path=path.resolve())

    @classmethod
    def memory(cls, name: str) -> "Source":
        """Of data that no file holds."""
        return cls(f"memory:{name}", None, in_memory=True)

    @property
    def sha256(self) -> str:
        """In hexadecimal."""
        if self.digest is None:
            raise InputError(f"{self.location}: a data set has a SHA-256, its source alone has none")
        return self.digest if isinstance(self.digest, str) else self.digest.value


Names = Sequence[str] | Mapping[str, int]
"""What the columns of a matrix are called: each, or name -> how many numbers."""


Bound = float | int | Sequence[float | int] | np.ndarray
"""The lowest or the highest action: of all, or of each."""


COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations", "successes")
"""The arrays of a data set, in the order of `Dataset.content_sha256`."""


def flags_of(where: str, column: str, value: Any, rows: int) -> Bool[np.ndarray, " rows"]:
    """`value` as `rows` flags. Raises InputError, naming `where` and `column`, for what cannot be that."""
    array = column_of(where, column, value, rows)
    if array.dtype == np.bool_:
        return array
    bad = np.flatnonzero((array != 0) & (array != 1))  # NaN is bad, too
    if len(bad):
        raise InputError(f"{where}: {column} holds {array[bad[0]]} at row {bad[0]}; a flag is false or true, 0 or 1")
    return array.astype(np.bool_)


def successes_of(found: Any, steps: int) -> np.ndarray | None:
    """(T,) one for each step, of T rows or of T+1 with the start's first, as gymnasium tells them; None of others."""
    if found is None or np.shape(found) not in ((steps,), (steps + 1,)):
        return None
    return np.asarray(found)[len(found) - steps :]


def column_of(where: str, column: str, value: Any, rows: int) -> np.ndarray:
    array = numbers_of(where, column, value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{where}: {column} has shape {array.shape}; (rows,) or (rows, 1) is needed")
    check_rows(where, column, array, rows)
    return array


def check_rows(where: str, column: str, array: np.ndarray, rows: int) -> None:
    if len(array) != rows:
        raise InputError(f"{where}: {column} has {len(array)} rows but observations have {rows}; they must be equal")


def numbers_of(where: str, column: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{where}: {column} has type {array.dtype}; real numbers are needed")
    return array


def rounded_away(values: np.ndarray) -> list[tuple[int, int, int]]:
    """(column, different values, how many of them float32 tells apart) of the columns of a float64 or integer matrix
    of which it loses more than half: a clock in seconds since 1970 becomes one number."""
    found = []
    if values.dtype.kind not in "iuf" or values.dtype.itemsize < 4 or values.dtype == np.float32 or not len(values):
        return found
    for column in np.flatnonzero(np.abs(values).max(axis=0) >= 2**10).tolist():  # smaller ones have 1e-4 of precision
        exact, kept = (len(np.unique(numbers)) for numbers in (values[:, column], values[:, column].astype(np.float32)))
        if exact > 2 * kept:
            found.append((column, exact, kept))
    return found


def follows(
    next_observations: Float[np.ndarray, "rows size"], observations: Float[np.ndarray, "rows size"]
) -> Bool[np.ndarray, " rows"]:
    """Whether next observations are, but for rounding, these observations."""
    return np.all(np.isclose(next_observations, observations, rtol=SAME, atol=SAME * 1e-3), axis=1)
