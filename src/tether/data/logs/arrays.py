"""npz and HDF5 files as tables: arrays side by side, read row by row; fields of compound arrays are columns."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tether.data.hdf5 import open_hdf5
from tether.data.logs import pieces
from tether.data.logs.pieces import ArrayFile, Column, Cursor, Kind, Piece, Table, array_column, as_kind
from tether.data.npz import Archive, open_npz_archive
from tether.errors import InputError

__all__ = ["PICKLED", "open_hdf5_table", "open_npz"]

PICKLED = "pickled Python objects, which are never read"
"""What `Table.skipped` says of arrays of objects."""


def open_npz(path: Path) -> Table:
    """The table in an npz file. Raises InputError as `open_table`."""
    with open_npz_archive(path) as archive:
        headers = {name: (header.shape, header.dtype) for name, header in archive.headers.items() if header.shape}
        skipped = dict.fromkeys(archive.pickled, PICKLED)

    @contextlib.contextmanager
    def opened() -> Iterator[Callable[[str], Cursor]]:
        with open_npz_archive(path) as archive, contextlib.ExitStack() as stack:
            yield lambda name: _npy_cursor(archive, name, stack)

    return _table(path, headers, skipped, opened)


def _npy_cursor(archive: Archive, name: str, stack: contextlib.ExitStack) -> Cursor:
    shape, fortran, dtype = archive.headers[name]
    if fortran and len(shape) > 1:  # its rows are not together: the whole array has to be there
        return _array_cursor(archive.read(name))
    file, row_bytes = stack.enter_context(archive.open(name)), dtype.itemsize * math.prod(shape[1:])

    def read_rows(rows: int) -> np.ndarray:
        return np.frombuffer(file.read(rows * row_bytes), dtype).reshape(rows, *shape[1:])

    return read_rows


def open_hdf5_table(path: Path) -> Table:
    """The table in an HDF5 file, whose arrays in groups are named by their paths. Raises InputError as `open_table`."""
    headers: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    skipped: dict[str, str] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape:
            if node.dtype.kind == "O" and h5py.check_string_dtype(node.dtype) is None:
                skipped[name] = "lists of different lengths, or references"
            else:
                headers[name] = node.shape, node.dtype

    with open_hdf5(path) as file:
        file.visititems(visit)

    @contextlib.contextmanager
    def opened() -> Iterator[Callable[[str], Cursor]]:
        with open_hdf5(path) as file:
            yield lambda name: _array_cursor(file[name])

    return _table(path, headers, skipped, opened)


def _array_cursor(array: Any) -> Cursor:
    place = 0

    def read_rows(rows: int) -> np.ndarray:
        nonlocal place
        place += rows
        return array[place - rows : place]

    return read_rows


# --- what both share ----------------------------------------------------------------------------------------

Opened = Callable[[], contextlib.AbstractContextManager[Callable[[str], Cursor]]]


def _table(
    path: Path, headers: Mapping[str, tuple[tuple[int, ...], np.dtype]], skipped: dict[str, str], opened: Opened
) -> Table:
    shapes = {name: shape for name, (shape, _) in headers.items()}
    arrays = _with_fields(ArrayFile(path, shapes, {name: dtype for name, (_, dtype) in headers.items()}, opened))
    columns: dict[str, Column] = {}
    for name, shape in arrays.shapes.items():
        column = array_column(shape, arrays.dtypes[name])
        if isinstance(column, Column):
            columns[name] = column
        else:
            skipped[name] = column

    def read(kinds: Mapping[str, Kind], piece_bytes: int | None = None) -> Iterator[Piece]:
        total = _common_rows(path, {name: arrays.shapes[name][0] for name in kinds})
        row_bytes = 8 * max(1, sum(columns[name].size for name in kinds))
        step = max(1, (piece_bytes or pieces.PIECE_BYTES) // row_bytes)
        with arrays.opened() as cursor:
            cursors = {name: cursor(name) for name in kinds}
            for row in range(0, total, step):
                rows = min(step, total - row)
                yield {name: as_kind(path, name, cursors[name](rows), kind, row) for name, kind in kinds.items()}

    return Table(path, columns, read, skipped, arrays=arrays)


def _with_fields(arrays: ArrayFile) -> ArrayFile:
    """The same, with each field of a compound array under a name of its own: `log.x`."""
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, np.dtype] = {}
    place: dict[str, tuple[str, tuple[str, ...]]] = {}

    def add(name: str, shape: tuple[int, ...], dtype: np.dtype, top: str, fields: tuple[str, ...]) -> None:
        for field, (inner, *_) in (dtype.fields or {}).items():
            add(f"{name}.{field}", shape, inner, top, (*fields, field))
        if not dtype.fields:
            base, own = dtype.subdtype or (dtype, ())
            shapes[name], dtypes[name], place[name] = (*shape, *own), base, (top, fields)

    for name, shape in arrays.shapes.items():
        add(name, shape, arrays.dtypes[name], name, ())
    if all(not fields for _, fields in place.values()):
        return arrays

    @contextlib.contextmanager
    def opened() -> Iterator[Callable[[str], Cursor]]:
        with arrays.opened() as whole:

            def cursor(name: str) -> Cursor:
                top, fields = place[name]
                rows_of = whole(top)

                def read_rows(rows: int) -> np.ndarray:
                    array = rows_of(rows)
                    for field in fields:
                        array = array[field]
                    return array

                return read_rows

            yield cursor

    return ArrayFile(arrays.path, shapes, dtypes, opened)


def _common_rows(path: Path, rows: Mapping[str, int]) -> int:
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise InputError(f"{path}: columns have different numbers of rows: {found}")
    return next(iter(rows.values()), 0)
