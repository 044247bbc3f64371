"""Observations by name: a dictionary of columns as the vector that a policy takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tether_runtime.errors import InputError

__all__ = ["SHOWN_NAMES", "Columns", "column_names", "join", "numbers", "split"]

Columns = dict[str, list[int]]
"""Name -> [start, stop] of its numbers in the vector, in order and without gaps."""
SHOWN_NAMES = 6
SHOWN_LETTERS = 60


def join(columns: Columns, values: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """A dictionary of numbers and arrays, or of batches of them, as the vector or matrix of `columns`, float32.

    Dictionaries within it are named with a slash: `arm/joints`. A vector may stand for the columns `name/0`, `name/1`
    ..., a text for the columns `name=text`.
    Raises InputError for names that are missing or too many, and for entries of another size.
    """
    try:
        given = _by_column(columns, dict(_flat(values, "")))
    except RecursionError:
        raise InputError("observation: dictionaries too deep within each other") from None
    missing = (f"no {name!r}" for name in columns if name not in given)
    unknown = (f"no such entry as {_short(name)}" for name in given if name not in columns)
    faults = list(itertools.islice(itertools.chain(missing, unknown), SHOWN_NAMES + 1))
    if faults:
        shown = faults[:SHOWN_NAMES] + ["..."] * (len(faults) > SHOWN_NAMES)
        raise InputError(f"observation: {', '.join(shown)}; its entries are {_summary(columns)}")
    arrays = {name: numbers(f"observation: {name!r}", given[name]) for name in columns}
    is_batch = any(array.ndim == 2 for array in arrays.values())
    parts = []
    for name, (start, stop) in columns.items():
        part = arrays[name]
        if stop - start == 1 and (part.ndim == 0 or part.shape[-1] != 1 or (part.ndim == 1 and is_batch)):
            part = part[..., None]  # of a batch (rows,), of one row too
        if part.ndim not in (1, 2) or part.shape[-1] != stop - start:
            raise InputError(f"observation: {name!r} has shape {part.shape}; it has {stop - start} numbers")
        parts.append(part)
    if len({part.shape[:-1] for part in parts}) > 1:
        raise InputError("observation: its entries are batches of different sizes")
    return np.concatenate(parts, axis=-1)


def numbers(what: str, value: Any, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    """An array of numbers; what is too large for `dtype` becomes infinite.

    Raises InputError for texts, dates and complex numbers, lists of uneven lengths and what is no number at all.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            if not isinstance(value, np.ndarray):
                np.asarray(value, dtype)  # of uneven lengths NumPy before 1.24 makes objects otherwise, with a warning
            array = np.asarray(value)
            if array.dtype.kind not in "biufO" or any(isinstance(item, (str, bytes)) for item in _objects(array)):
                raise InputError(f"{what} is no array of numbers: {_short(value)}")
            if np.dtype(dtype).kind == "i" and not np.all(array.astype(float) % 1 == 0):
                raise InputError(f"{what}: whole numbers are needed")
            return array.astype(dtype, copy=False)
    except OverflowError:
        raise InputError(f"{what} has entries that are too large: not finite in {np.dtype(dtype).name}") from None
    except InputError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} is no array of numbers: {error}") from None


def _objects(array: np.ndarray[Any, Any]) -> Any:
    return array.flat if array.dtype.kind == "O" else ()


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]} ..."


def column_names(columns: Columns | None, kind: str, size: int) -> list[str]:
    """A name for each number of a vector; without columns `kind[0]` and so on."""
    if columns is None:
        return [f"{kind}[{index}]" for index in range(size)]
    return [
        name if stop - start == 1 else f"{name}[{index}]"
        for name, (start, stop) in columns.items()
        for index in range(stop - start)
    ]


def split(columns: Columns, vector: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The inverse, for one vector: numbers, and lists where a column has several."""
    return {
        name: float(vector[start]) if stop - start == 1 else [float(number) for number in vector[start:stop]]
        for name, (start, stop) in columns.items()
    }


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _by_column(columns: Columns, values: dict[str, Any]) -> dict[str, Any]:
    """Vectors and texts that stand for several columns, as those columns."""
    if values.keys() <= columns.keys():
        return values
    # looked up, for a body of a megabyte may hold a hundred thousand names
    numbered, worded = _groups(columns, "/"), _groups(columns, "=")
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in columns:
            found[name] = value
            continue
        parts, texts = numbered.get(name, []), worded.get(name, [])
        if texts and isinstance(value, str):
            choices = [key[len(name) + 1 :] for key in texts]
            if value not in choices:
                raise InputError(f"observation: {name!r} is {value!r}; it may be {', '.join(choices)}")
            found.update({key: float(choice == value) for key, choice in zip(texts, choices)})
        elif parts and np.ndim(value) and np.shape(value)[-1] == len(parts):
            found.update({key: np.asarray(value)[..., index : index + 1] for index, key in enumerate(parts)})
        else:
            found[name] = value
    return found


def _groups(columns: Columns, mark: str) -> dict[str, list[str]]:
    """What stands before a mark in names of columns -> those columns, in order."""
    found: dict[str, list[str]] = {}
    for name in columns:
        for at, letter in enumerate(name):
            if letter == mark:
                found.setdefault(name[:at], []).append(name)
    return found


def _summary(columns: Columns) -> str:
    names = [name if stop - start == 1 else f"{name}[{stop - start}]" for name, (start, stop) in columns.items()]
    return ", ".join(names if len(names) <= SHOWN_NAMES else [*names[: SHOWN_NAMES - 2], "...", names[-1]])
