"""Several files side by side: rows that share a key, such as states in one file and actions in another."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tether.data.logs.pieces import Column, Kind, Piece, Table
from tether.errors import InputError, unknown

__all__ = ["join_tables"]


def join_tables(tables: Sequence[Table], keys: Sequence[str]) -> Table:
    """The rows of the first table, in its order, each beside the one of every other table that has the same keys.

    A column that several tables have is called FILE.COLUMN. The columns that are asked for are held in memory.
    Raises InputError for keys that a file does not have, that a later file has twice, and that a later file lacks.
    """
    for table in tables:
        for key in keys:
            if key not in table.columns:
                raise unknown(f"column for --join in {table.path}:", key, table.columns)
    if len(tables) < 2:
        raise InputError(f"--join {' '.join(keys)}: name the several files that have this column")
    columns: dict[str, Column] = {key: tables[0].columns[key] for key in keys}
    places: dict[str, tuple[int, str]] = {key: (0, key) for key in keys}
    names = [name for table in tables for name in table.columns if name not in keys]
    for number, table in enumerate(tables):
        for name, column in table.columns.items():
            if name not in keys:
                label = name if names.count(name) == 1 else f"{table.path.stem}.{name}"
                columns[label], places[label] = column, (number, name)

    own_keys = [_keys(table, keys) for table in tables]
    rows = [np.arange(len(own_keys[0]))]
    rows += [
        _matching_rows(tables[0], own_keys[0], *other, keys) for other in zip(tables[1:], own_keys[1:], strict=True)
    ]
    without = [
        f"{len(own) - len(np.unique(matched)):,} rows of {table.path.name} have no partner and are left out"
        for table, own, matched in zip(tables, own_keys, rows, strict=True)
        if len(own) > len(np.unique(matched))
    ]

    def read(kinds: Mapping[str, Kind], piece_bytes: int | None = None) -> Iterator[Piece]:
        wanted: list[dict[str, Kind]] = [{} for _ in tables]
        for label, kind in kinds.items():
            number, name = places[label]
            wanted[number][name] = kind
        found = [_whole(table, names) for table, names in zip(tables, wanted, strict=True)]
        if len(rows[0]):
            yield {
                label: found[number][name][rows[number]] for label, (number, name) in places.items() if label in kinds
            }

    skipped = {name: what for table in tables for name, what in table.skipped.items()}
    notes = tuple(dict.fromkeys(f"{table.path.name}: {note}" for table in tables for note in table.notes))
    note = f"--join {' '.join(keys)}: rows of {', '.join(table.path.name for table in tables)} side by side"
    return Table(tables[0].path, columns, read, skipped, (*notes, note, *without))


def _keys(table: Table, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    """Those of each row."""
    key_kinds: dict[str, Kind] = {key: "text" if table.columns[key].holds == "text" else "order" for key in keys}
    key_pieces = list(table.read(key_kinds))
    texts = [np.concatenate([piece[key] for piece in key_pieces]).tolist() if key_pieces else [] for key in keys]
    return list(zip(*texts, strict=True))


def _whole(table: Table, kinds: Mapping[str, Kind]) -> Piece:
    """The columns of a whole table."""
    pieces = list(table.read(kinds)) if kinds else []
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in kinds} if pieces else {}


def _matching_rows(
    first: Table, wanted: list[tuple[Any, ...]], table: Table, keys: list[tuple[Any, ...]], names: Sequence[str]
) -> np.ndarray:
    """Of each wanted key the row of `table` that has it."""
    row_of = dict(zip(keys, range(len(keys)), strict=True))
    if len(row_of) < len(keys):
        twice = next(key for row, key in enumerate(keys) if row_of[key] != row)
        raise InputError(f"{table.path}: {_said(names, twice)} stands in several rows; --join needs one")
    for row, key in enumerate(wanted):
        if key not in row_of:
            raise InputError(f"{table.path}: no row with {_said(names, key)}, which {first.path} has in row {row}")
    return np.array([row_of[key] for key in wanted], np.int64)


def _said(names: Sequence[str], key: tuple[Any, ...]) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in zip(names, key, strict=True)
    )
