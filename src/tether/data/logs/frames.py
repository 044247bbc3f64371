"""A frame in memory as a table of logs: pandas, polars, Arrow, or whatever else gives its columns to Arrow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tether.data.logs.parquet import arrow_table
from tether.data.logs.pieces import Table
from tether.errors import InputError

__all__ = ["OpenedTable", "frame_table"]


def frame_table(frame: Any, where: str) -> Table:
    """The columns of anything with `__arrow_c_stream__`; `where` is what errors call it.

    A pandas index that is more than a count is a column, too. Raises InputError without pyarrow, for what is no frame
    and for columns that Arrow cannot hold.
    """
    try:
        import pyarrow
        import pyarrow.compute
    except ImportError as error:
        raise InputError(
            f"{where}: a frame needs the package pyarrow: pip install 'tether-rl[tables]' ({error})"
        ) from None
    if not hasattr(frame, "__arrow_c_stream__"):
        lazy = "; collect() it first" if hasattr(frame, "collect") else ""
        raise InputError(f"{where}: a {type(frame).__name__} is no frame that Arrow can read{lazy}")
    try:
        table = pyarrow.table(frame)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from None
    return arrow_table(pyarrow, Path(where), lambda: OpenedTable(table))


class OpenedTable:
    """An Arrow table, asked as `pyarrow.parquet.ParquetFile` is."""

    def __init__(self, table: Any):
        self._table = table
        self.schema_arrow = table.schema

    def __enter__(self) -> "OpenedTable":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def iter_batches(self, batch_size: int, columns: list[str]) -> Iterator[Any]:
        yield from self._table.select(columns).to_batches(batch_size)
