"""Tables of logs: CSV, Parquet, npz and HDF5 files as named columns, read in pieces of bounded memory.

Nothing here knows what a column means. A reader is told as what to read each column (`Kind`) and yields dictionaries
of NumPy arrays: (rows,) for a plain column, (rows, size) for one that holds a vector in each row.
"""

import contextlib
import csv
import itertools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import h5py
import numpy as np

from tether.data.readers.d4rl import open_hdf5
from tether.errors import InputError

__all__ = ["TABLE_SUFFIXES", "Column", "Kind", "Piece", "Table", "arrow_table", "natural", "open_table"]

T = TypeVar("T")

Kind = Literal["float32", "float64", "flag", "label", "order", "stored"]
"""float32, float64: numbers; flag: bool; label: what tells episodes apart, whole numbers or text; order: numbers or
times of the clock, as int64 nanoseconds; stored: whatever is there, for the doctor: numbers as float64, NaN where an
entry is missing, text as text."""

Piece = dict[str, np.ndarray]

PIECE_BYTES = 16 * 2**20  # of a file's text, or of the numbers of the columns that are read
HEADER_BYTES = 2**20  # of a file's text, from which the types of its columns are taken


class Column(NamedTuple):
    """What a file says of a column."""

    size: int  # numbers in each row
    holds: Literal["numbers", "flags", "text", "times"]


class Table(NamedTuple):
    """An open question to a file: its columns in its order, and how to read some of them from the beginning."""

    path: Path
    columns: dict[str, Column]
    read: Callable[[Mapping[str, Kind]], Iterator[Piece]]


def open_table(path: Path) -> Table:
    """The table in `path`, by its ending.

    Raises InputError where there is no such file, it cannot be read, or its ending is none of `TABLE_SUFFIXES`;
    reading raises it for what cannot be read as asked, naming file, column and (from 0) row.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise InputError(f"{path}: tables are read from {', '.join(_OPENERS)} files, not {path.suffix or 'this'}")
    return opener(path)


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sorts joint_2 before joint_10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.compute
    except ImportError as error:
        raise InputError(
            f"{path}: reading *{path.suffix} needs the package pyarrow: pip install 'tether-rl[tables]' ({error})"
        ) from None
    return pyarrow


# --- CSV ----------------------------------------------------------------------------------------------------


def _open_csv(path: Path) -> Table:
    arrow = _pyarrow(path)
    from pyarrow import csv as arrow_csv

    parse = arrow_csv.ParseOptions(delimiter=_delimiter(path))

    try:
        head = arrow_csv.ReadOptions(block_size=HEADER_BYTES)
        with arrow_csv.open_csv(path, read_options=head, parse_options=parse) as first:
            names, types = first.schema.names, first.schema.types
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as CSV: {_line(error)}") from None
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: several columns are called {', '.join(map(repr, double))}; rename them")
    columns = {name: Column(1, _holds(arrow, type_)) for name, type_ in zip(names, types, strict=True)}

    def forced(name: str, kind: Kind) -> Any:
        """The type to read as, whatever the first block looks like."""
        holds, number = columns[name].holds, arrow.float32() if kind == "float32" else arrow.float64()
        if kind in ("label", "flag") and arrow.types.is_floating(types[names.index(name)]):
            return number  # 1.0 where 1 is meant
        if kind == "label" or (kind == "stored" and holds == "text"):
            return arrow.string()
        if kind == "flag" or holds == "flags":
            return arrow.bool_()  # 0 and 1, true and false
        return types[names.index(name)] if holds == "times" else number

    def read(kinds: Mapping[str, Kind]) -> Iterator[Piece]:
        wanted = {name: forced(name, kind) for name, kind in kinds.items()}
        convert = arrow_csv.ConvertOptions(column_types=wanted, include_columns=list(wanted))

        def batches() -> Iterator[Any]:
            """Arrow's reader of whole tables uses every core, its streaming one a single core."""
            for number, block in enumerate(_whole_lines(path)):
                # The first block has the names; the others are told them.
                given = arrow_csv.ReadOptions(column_names=names if number else None)
                source = arrow.py_buffer(block)
                table = arrow_csv.read_csv(source, read_options=given, parse_options=parse, convert_options=convert)
                yield from table.combine_chunks().to_batches()

        try:
            yield from _arrow_pieces(arrow, path, _ahead(batches()), kinds)
        except arrow.ArrowException as error:
            raise InputError(_csv_fault(path, names, parse.delimiter, _line(error))) from None

    return Table(path, columns, read)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The file in blocks of about PIECE_BYTES that end with a line; a longer line makes a longer block."""
    with path.open("rb") as file:
        rest = b""
        while block := file.read(PIECE_BYTES):
            end = block.rfind(b"\n") + 1
            if end:
                yield rest + block[:end]
            rest = block[end:] if end else rest + block
        if rest:
            yield rest


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made in another thread while this one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _csv_fault(path: Path, names: list[str], delimiter: str, error: str) -> str:
    """Arrow tells the column's number and the entry; which row it is in has to be looked for."""
    found = re.match(r"In CSV column #(\d+): .*conversion error to \w+: invalid value '(.*)'$", error)
    if not found:
        return f"{path}: {error}"
    column, entry = int(found[1]), found[2]
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = itertools.islice(csv.reader(file, delimiter=delimiter), 1, None)
        rows = (row for row, cells in enumerate(lines) if column < len(cells) and cells[column] == entry)
        row = next(rows, None)
    place = "" if row is None else f" in row {row}"
    return f"{path}: column {names[column]!r} holds {entry!r}{place}, which is not what is needed there"


def _delimiter(path: Path) -> str:
    """Comma, semicolon or tabulator: whichever the first line has most of."""
    with path.open("rb") as file:
        first = file.readline(2**20)
    return max(",;\t", key=lambda mark: first.count(mark.encode()))


# --- Parquet ------------------------------------------------------------------------------------------------


def _open_parquet(path: Path) -> Table:
    arrow = _pyarrow(path)
    from pyarrow import parquet

    try:
        return arrow_table(arrow, path, lambda: parquet.ParquetFile(path))
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {_line(error)}") from None


def arrow_table(arrow: Any, path: Path, open_file: Callable[[], Any]) -> Table:
    """The table of what `open_file` opens: a Parquet file, or what has its `schema_arrow` and `iter_batches`."""
    with open_file() as file:
        fields = {field.name: _size(arrow, file, field) for field in file.schema_arrow}
    columns = {name: column for name, column in fields.items() if column is not None}
    row_bytes = 8 * sum(column.size for column in columns.values())

    def read(kinds: Mapping[str, Kind]) -> Iterator[Piece]:
        rows = max(1, PIECE_BYTES // row_bytes)
        try:
            with open_file() as file:
                batches = file.iter_batches(batch_size=rows, columns=list(kinds))
                yield from _arrow_pieces(arrow, path, batches, kinds)
        except arrow.ArrowException as error:
            raise InputError(f"{path}: {_line(error)}") from None

    return Table(path, columns, read)


def _size(arrow: Any, file: Any, field: Any) -> Column | None:
    """The column of an Arrow field; None for structures, maps and the like, which are no vectors."""
    types = arrow.types
    if types.is_fixed_size_list(field.type):
        return Column(field.type.list_size, _holds(arrow, field.type.value_type))
    if types.is_list(field.type) or types.is_large_list(field.type):
        first = next(file.iter_batches(batch_size=1, columns=[field.name]), None)
        size = 0 if first is None else len(first.column(0)[0].as_py() or ())
        return Column(size, _holds(arrow, field.type.value_type)) if size else None
    return None if types.is_nested(field.type) else Column(1, _holds(arrow, field.type))


# --- what Arrow gives ---------------------------------------------------------------------------------------


def _holds(arrow: Any, type_: Any) -> Any:
    types = arrow.types
    if types.is_boolean(type_):
        return "flags"
    if types.is_temporal(type_):
        return "times"
    numbers = types.is_integer(type_) or types.is_floating(type_) or types.is_decimal(type_) or types.is_null(type_)
    return "numbers" if numbers else "text"


def _arrow_pieces(arrow: Any, path: Path, batches: Any, kinds: Mapping[str, Kind]) -> Iterator[Piece]:
    row = 0
    for batch in batches:
        if batch.num_rows:
            columns = zip(batch.schema.names, batch.columns, strict=True)
            arrays = {name: _to_numpy(arrow, path, name, column, row, kinds[name]) for name, column in columns}
            yield {name: _as_kind(path, name, arrays[name], kind, row) for name, kind in kinds.items()}
        row += batch.num_rows


def _to_numpy(arrow: Any, path: Path, name: str, column: Any, row: int, kind: Kind) -> np.ndarray:
    if kind == "stored":
        return _as_stored(arrow, column)
    if column.null_count:
        place = row + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(f"{path}: column {name!r} is empty or not a number in row {place}; every entry is needed")
    if arrow.types.is_nested(column.type):
        lengths = arrow.compute.list_value_length(column).to_numpy(zero_copy_only=False)
        if lengths.min() != lengths.max():
            raise InputError(f"{path}: column {name!r} holds {lengths.min()} to {lengths.max()} numbers in a row")
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    if kind == "label" and not arrow.types.is_integer(column.type):  # many rows share few texts
        encoded = column.dictionary_encode() if not arrow.types.is_dictionary(column.type) else column
        return encoded.dictionary.to_numpy(zero_copy_only=False)[encoded.indices.to_numpy(zero_copy_only=False)]
    return column.to_numpy(zero_copy_only=False)


def _as_stored(arrow: Any, column: Any) -> np.ndarray:
    """Numbers and flags as float64 with NaN for what is missing, times and text as they are; vectors of equal length as
    rows, of different lengths as objects."""
    if arrow.types.is_nested(column.type):
        rows = column.to_pylist()
        lengths = {len(row) if row is not None else -1 for row in rows}
        if len(lengths) == 1 and -1 not in lengths:
            return _as_stored(arrow, column.flatten()).reshape(len(rows), -1)
        return np.array([str(row) for row in rows], object)
    if _holds(arrow, column.type) in ("numbers", "flags"):
        return column.cast(arrow.float64()).to_numpy(zero_copy_only=False)
    return column.to_numpy(zero_copy_only=False)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


# --- npz ----------------------------------------------------------------------------------------------------


def _open_npz(path: Path) -> Table:
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = {}
            for entry in archive.namelist():
                if entry.endswith(".npy"):
                    with archive.open(entry) as file:
                        shapes[entry.removesuffix(".npy")] = _npy_header(path, entry, file)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as npz: {_line(error)}") from None
    columns = {name: column for name, (shape, _, dtype) in shapes.items() if (column := _column(shape, dtype))}

    def read(kinds: Mapping[str, Kind]) -> Iterator[Piece]:
        total = _common_rows(path, {name: shapes[name][0][0] for name in kinds})
        try:
            with contextlib.ExitStack() as stack:
                archive = stack.enter_context(zipfile.ZipFile(path))
                files = {name: stack.enter_context(archive.open(f"{name}.npy")) for name in kinds}
                readers = {name: _npy_reader(path, name, file) for name, file in files.items()}
                yield from _sliced(path, kinds, columns, total, lambda name, start, rows: readers[name](rows))
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as npz, it may be damaged: {_line(error)}") from None

    return Table(path, columns, read)


def _npy_header(path: Path, entry: str, file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran's order, dtype); refuses arrays of Python objects, which are pickles."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise InputError(f"{path}: {entry} holds pickled Python objects, which are never read; save it as numbers")
    return shape, fortran, dtype


def _npy_reader(path: Path, name: str, file: Any) -> Callable[[int], np.ndarray]:
    """Calls give the next rows of the array `name`, of which `file` is the beginning."""
    shape, fortran, dtype = _npy_header(path, name, file)
    if fortran and len(shape) > 1:  # its rows are not together: the whole array has to be there
        whole = np.frombuffer(file.read(), dtype).reshape(shape, order="F")
        rows_left = [whole]

        def next_rows(rows: int) -> np.ndarray:
            taken, rows_left[0] = rows_left[0][:rows], rows_left[0][rows:]
            return taken

        return next_rows
    row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))

    def read_rows(rows: int) -> np.ndarray:
        return np.frombuffer(file.read(rows * row_bytes), dtype).reshape(rows, *shape[1:])

    return read_rows


# --- HDF5 ---------------------------------------------------------------------------------------------------


def _open_hdf5(path: Path) -> Table:
    columns: dict[str, Column] = {}
    lengths: dict[str, int] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape and (column := _column(node.shape, node.dtype)):
            columns[name], lengths[name] = column, node.shape[0]

    with open_hdf5(path) as file:
        file.visititems(visit)

    def read(kinds: Mapping[str, Kind]) -> Iterator[Piece]:
        total = _common_rows(path, {name: lengths[name] for name in kinds})
        with open_hdf5(path) as file:
            nodes: dict[str, Any] = {name: file[name] for name in kinds}
            yield from _sliced(path, kinds, columns, total, lambda name, start, rows: nodes[name][start : start + rows])

    return Table(path, columns, read)


# --- what npz and HDF5 share --------------------------------------------------------------------------------


def _column(shape: tuple[int, ...], dtype: np.dtype) -> Column | None:
    """None for what is no column: scalars, images, compound types."""
    holds: Any = {"b": "flags", "M": "times", "S": "text", "U": "text", "O": "text"}.get(dtype.kind, "numbers")
    if len(shape) not in (1, 2) or dtype.kind not in "biufMSUO":
        return None
    return Column(1 if len(shape) == 1 else shape[1], holds)


def _common_rows(path: Path, rows: Mapping[str, int]) -> int:
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise InputError(f"{path}: columns have different numbers of rows: {found}")
    return next(iter(rows.values()), 0)


def _sliced(
    path: Path,
    kinds: Mapping[str, Kind],
    columns: Mapping[str, Column],
    total: int,
    rows_of: Callable[[str, int, int], np.ndarray],
) -> Iterator[Piece]:
    step = max(1, PIECE_BYTES // (8 * max(1, sum(columns[name].size for name in kinds))))
    for start in range(0, total, step):
        rows = min(step, total - start)
        yield {name: _as_kind(path, name, rows_of(name, start, rows), kind, start) for name, kind in kinds.items()}


def _as_kind(path: Path, name: str, array: np.ndarray, kind: Kind, row: int) -> np.ndarray:
    """`array` as `kind` says; `row` is its first row's number in the file."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if kind == "stored":
        return array
    if kind in ("label", "order", "flag") and array.ndim != 1:
        raise InputError(f"{path}: column {name!r} holds {array.shape[1]} numbers in each row; one is needed")
    if kind == "label":
        return array if array.dtype.kind in "iuUSO" else _whole(path, name, array, row)
    if kind == "order" and array.dtype.kind == "M":
        return array.astype("datetime64[ns]").astype(np.int64)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: column {name!r} holds {array.dtype} such as {array.flat[0]!r}; numbers are needed")
    if kind == "flag":
        bad = np.flatnonzero((array != 0) & (array != 1))
        if len(bad):
            at = f"{array[bad[0]]} in row {row + bad[0]}"
            raise InputError(f"{path}: column {name!r} holds {at}; a flag is false or true, 0 or 1")
        return array.astype(np.bool_)
    values = array
    if kind != "order":
        with np.errstate(over="ignore"):
            values = array.astype(kind, copy=False)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        place = np.argwhere(~np.isfinite(values))[0]
        at = f"{array[tuple(place)]} in row {row + place[0]}"
        raise InputError(f"{path}: column {name!r} holds {at}; every entry must be a finite number")
    return values


def _whole(path: Path, name: str, array: np.ndarray, row: int) -> np.ndarray:
    """Whole numbers stored as floating ones, as pandas does, as whole ones."""
    bad = np.flatnonzero(array != np.floor(array)) if array.dtype.kind == "f" else []
    if len(bad):
        at = f"{array[bad[0]]} in row {row + bad[0]}"
        raise InputError(f"{path}: column {name!r} holds {at}; what tells episodes apart is text or a whole number")
    return array.astype(np.int64)


_OPENERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _open_csv,
    ".parquet": _open_parquet,
    ".npz": _open_npz,
    ".hdf5": _open_hdf5,
    ".h5": _open_hdf5,
}
TABLE_SUFFIXES = tuple(_OPENERS)
"""The endings of files that hold tables."""
