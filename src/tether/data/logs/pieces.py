"""What all readers of logs speak: a table of named columns, read in pieces of bounded memory, each column as a kind.

Nothing here knows what a column means. A reader is told as what to read each column (`Kind`) and yields dictionaries
of NumPy arrays: (rows,) for a plain column, (rows, size) for one that holds a vector in each row.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from tether.errors import InputError

__all__ = [
    "EPISODE",
    "ArrayFile",
    "Column",
    "Cursor",
    "Kind",
    "Piece",
    "Read",
    "Table",
    "after",
    "array_column",
    "as_kind",
    "missing",
    "nanoseconds",
    "natural",
    "pictures",
    "refuse_doubles",
]

Kind = Literal["float32", "float64", "float32?", "float64?", "flag", "flag?", "label", "order", "text", "stored"]
"""float32, float64: numbers; flag: bool; each with ?: as floats, NaN where an entry is missing or not finite;
label: what tells episodes apart, whole numbers or text; order: numbers, or times as int64 nanoseconds since 1970;
text: as text, "" where it is missing; stored: whatever is there, for the doctor: numbers as float64, NaN where an entry
is missing, text as text."""

Piece = dict[str, np.ndarray]

PIECE_BYTES = 16 * 2**20  # of a file's text, or of the numbers of the columns that are read
HEADER_BYTES = 2**20  # of a file's text, from which the types of its columns are taken
LARGEST_MATRIX = 4096  # numbers in a row; what has more, in two axes, is a picture
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPISODE = "\0episode"
"""Key of the pieces of a table that keeps its episodes apart by itself: a number for each row, the same in an episode
and another one in the next."""


class Column(NamedTuple):
    """What a file says of a column."""

    size: int  # numbers in each row
    holds: Literal["numbers", "flags", "text", "times"]
    parts: tuple[str, ...] = ()  # what follows its name in those of its numbers, as /0 and /1; (): one name for all
    ahead: bool = False  # whether a piece holds what follows each row, too, under `after(name)`
    inside: str = ""  # the object or structure that it is an entry of, with which its name begins; "": none


Cursor = Callable[[int], np.ndarray]
"""Gives the next rows of an array, of which it remembers the place."""


class ArrayFile(NamedTuple):
    """An npz or HDF5 file: arrays by name, each read from its beginning on."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]  # at least one axis
    dtypes: Mapping[str, np.dtype]
    opened: Callable[[], AbstractContextManager[Callable[[str], Cursor]]]  # within which arrays can be read


class Read(Protocol):
    """Columns from the beginning of a file on, in pieces of about `piece_bytes`; None: PIECE_BYTES."""

    def __call__(self, kinds: Mapping[str, Kind], piece_bytes: int | None = None) -> Iterator[Piece]: ...


class Table(NamedTuple):
    """An open question to a file: its columns in its order, and how to read some of them."""

    path: Path
    columns: Mapping[str, Column]
    read: Read
    skipped: Mapping[str, str] = {}  # what is in the file but no column, in words
    notes: tuple[str, ...] = ()  # what was found out about the file that its user may want to know
    arrays: ArrayFile | None = None
    has_episodes: bool = False  # whether pieces tell episodes apart by EPISODE
    hint: str = ""  # how else its episodes may be told apart


def after(name: str) -> str:
    """The key under which a piece holds the row that follows each row of the column `name`."""
    return f"\0after {name}"


def refuse_doubles(path: Path, names: Sequence[str]) -> None:
    """Raises InputError where a name means several columns."""
    counts = Counter(names)
    if double := sorted(name for name, count in counts.items() if count > 1):
        raise InputError(f"{path}: several columns are called {', '.join(map(repr, double))}; rename them")


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sorts joint_2 before joint_10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def array_column(shape: tuple[int, ...], dtype: np.dtype) -> Column | str:
    """The column that an array is, or in words what else it is. shape: with the rows."""
    holds: Any = {"b": "flags", "M": "times", "S": "text", "U": "text", "O": "text"}.get(dtype.kind, "numbers")
    inner = shape[1:]
    if dtype.kind not in "biufMSUO":
        return f"entries of the type {dtype}"
    if what := pictures(inner, str(dtype)):
        return what
    if 0 in inner:
        return "arrays without a number"
    # A vector keeps its name for all its numbers; those of a matrix are found by theirs.
    parts = tuple("/" + "/".join(map(str, place)) for place in np.ndindex(*inner)) if len(inner) > 1 else ()
    return Column(int(np.prod(inner, dtype=np.int64)), holds, parts)


def pictures(shape: tuple[int, ...], dtype: str) -> str:
    """What a row of this shape is, in words, if it is a picture or another thing that is no vector; else nothing."""
    small = int(np.prod(shape, dtype=np.int64)) <= LARGEST_MATRIX
    if len(shape) < 2 or (small and len(shape) == 2 and dtype != "uint8"):
        return ""
    return f"images or other arrays of {' x '.join(map(str, shape))} ({dtype})"


def as_kind(path: Path, name: str, array: np.ndarray, kind: Kind, row: int) -> np.ndarray:
    """`array` as `kind` says; `row` is its first row's number in the file."""
    if array.ndim > 1:
        array = array.reshape(len(array), -1)
        array = array[:, 0] if array.shape[1] == 1 else array
    if kind == "stored":
        return array
    if kind not in NUMBERS and array.ndim != 1:
        raise InputError(f"{path}: column {name!r} holds {array.shape[1]} numbers in each row; one is needed")
    match kind:
        case "text":
            return np.array([_text(entry) for entry in array.tolist()], object)
        case "label":
            return array if array.dtype.kind in "iuUSO" else _whole(path, name, array, row)
        case "order":
            return _order(path, name, array, row)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: column {name!r} holds {array.dtype} such as {array.flat[0]!r}; numbers are needed")
    if kind in ("flag", "flag?"):
        return _flags(path, name, array, kind, row)
    with np.errstate(over="ignore"):
        values = array.astype(kind.rstrip("?"), copy=False)
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        if kind in ("float32?", "float64?"):
            return np.where(finite, values, values.dtype.type(np.nan))
        raise _not_finite(path, name, array, finite, row)
    return values


NUMBERS = ("float32", "float64", "float32?", "float64?", "stored")


def _not_finite(path: Path, name: str, array: np.ndarray, finite: np.ndarray, row: int) -> InputError:
    place = np.argwhere(~finite)[0]
    return missing(path, name, f"holds {array[tuple(place)]} in row {row + place[0]}")


def missing(path: Path, name: str, what: str) -> InputError:
    """The refusal of an entry that is no finite number."""
    return InputError(
        f"{path}: column {name!r} {what}; every entry must be a finite number, or say to tether data import what to do "
        "with such rows: --missing drop or --missing hold"
    )


def _flags(path: Path, name: str, array: np.ndarray, kind: Kind, row: int) -> np.ndarray:
    known = array == array  # all but NaN
    if kind == "flag?" and array.dtype.kind == "f":
        bad = np.flatnonzero((array != 0) & (array != 1) & known)
    else:
        bad = np.flatnonzero((array != 0) & (array != 1))
    if len(bad):
        at = f"{array[bad[0]]} in row {row + bad[0]}"
        raise InputError(f"{path}: column {name!r} holds {at}; a flag is false or true, 0 or 1")
    return array.astype(np.bool_ if kind == "flag" else np.float32)


def _whole(path: Path, name: str, array: np.ndarray, row: int) -> np.ndarray:
    """Whole numbers stored as floating ones, as pandas does, as whole ones."""
    bad = np.flatnonzero(array != np.floor(array)) if array.dtype.kind == "f" else []
    if len(bad):
        at = f"{array[bad[0]]} in row {row + bad[0]}"
        raise InputError(f"{path}: column {name!r} holds {at}; what tells episodes apart is text or a whole number")
    return array.astype(np.int64)


def _order(path: Path, name: str, array: np.ndarray, row: int) -> np.ndarray:
    """Numbers as they are; times, and texts of ISO 8601, as int64 nanoseconds since 1970."""
    if array.dtype.kind in "USO":
        return nanoseconds(path, name, [_text(entry) for entry in array.tolist()], None, row)
    if array.dtype.kind == "m":
        array = array.astype("timedelta64[ns]").astype(np.int64).astype("datetime64[ns]")
    if array.dtype.kind == "M":
        bad = np.flatnonzero(np.isnat(array))
        values = array.astype("datetime64[ns]").astype(np.int64)
    else:
        bad = np.flatnonzero(~np.isfinite(array)) if array.dtype.kind == "f" else []
        values = array
    if len(bad):
        raise InputError(f"{path}: column {name!r} is empty or not a time in row {row + bad[0]}; every row needs one")
    if values.dtype.kind not in "iuf":
        raise InputError(f"{path}: column {name!r} holds {array.dtype} such as {array[0]!r}; a clock is needed")
    return values


def nanoseconds(path: Path, name: str, texts: Sequence[str], time_format: str | None, row: int) -> np.ndarray:
    """Times in words as int64 nanoseconds since 1970, those without a zone as if in UTC. time_format: as of
    `datetime.strptime`; None for ISO 8601. Raises InputError for the first text that is no such time."""
    values = np.empty(len(texts), np.int64)
    for number, text in enumerate(texts):
        try:
            time = datetime.strptime(text, time_format) if time_format else datetime.fromisoformat(text.strip())
        except ValueError:
            said = f"which is not written as --time-format {time_format!r}" if time_format else (
                "which is no number and no time of ISO 8601; say how its times are written, day and month in their "
                "order: --time-format '%d.%m.%Y %H:%M'"
            )  # fmt: skip
            raise InputError(f"{path}: column {name!r} holds {text!r} in row {row + number}, {said}") from None
        since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - EPOCH
        values[number] = (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000
    return values


def _text(entry: Any) -> str:
    if entry is None or entry != entry:
        return ""
    if isinstance(entry, float) and entry.is_integer():  # whole numbers beside missing ones, as pandas keeps them
        return str(int(entry))
    return entry.decode("utf-8", errors="replace") if isinstance(entry, bytes) else str(entry)
