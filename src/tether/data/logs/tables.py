"""Tables of logs: CSV, Parquet, JSON lines, npz and HDF5 files as named columns, read in pieces of bounded memory."""

from collections.abc import Callable
from pathlib import Path

from tether.data.logs.arrays import open_hdf5_table, open_npz
from tether.data.logs.delimited import Header, open_csv
from tether.data.logs.lines import open_lines
from tether.data.logs.numerals import Decimal
from tether.data.logs.parquet import open_parquet
from tether.data.logs.pieces import Table, natural
from tether.errors import InputError

__all__ = ["TABLE_SUFFIXES", "Table", "natural", "open_table"]


def open_table(path: Path, header: Header = "first", decimal: Decimal = "auto", encoding: str | None = None) -> Table:
    """The table in `path`, by its ending.

    Of CSV files: header is `none` where one begins with its first row; decimal is what stands before the fraction;
    encoding is how the text is written, as Python calls it, by default as the bytes tell.

    Raises InputError where there is no such file, it cannot be read, or its ending is none of `TABLE_SUFFIXES`;
    reading raises it for what cannot be read as asked, naming file, column and (from 0) row.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    suffix = path.suffix.lower()
    if suffix not in OPENERS:
        raise InputError(f"{path}: tables are read from {', '.join(OPENERS)} files, not {path.suffix or 'this'}")
    return open_csv(path, header, decimal, encoding) if suffix == ".csv" else OPENERS[suffix](path)


OPENERS: dict[str, Callable[[Path], Table]] = {
    ".csv": open_csv,
    ".parquet": open_parquet,
    ".jsonl": open_lines,
    ".npz": open_npz,
    ".hdf5": open_hdf5_table,
    ".h5": open_hdf5_table,
}
TABLE_SUFFIXES = tuple(OPENERS)
"""The endings of files that hold tables."""
