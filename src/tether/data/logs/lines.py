"""Files of JSON lines as tables: an object in each line, as services log them (`tether serve --log` does)."""

from pathlib import Path

from tether.data.logs.arrow import pyarrow_for
from tether.data.logs.frames import OpenedTable
from tether.data.logs.parquet import DAMAGE, arrow_table
from tether.data.logs.pieces import Table
from tether.errors import InputError
from tether.machine.reading import one_line

__all__ = ["open_lines"]


def open_lines(path: Path) -> Table:
    """The table in a file of JSON lines, which is held in memory; objects within it are flattened as Parquet's
    structures are: `observation.height`. Raises InputError as `open_table`."""
    arrow = pyarrow_for(path)
    from pyarrow import json

    try:
        table = json.read_json(path)
        return arrow_table(arrow, path, lambda: OpenedTable(table))
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as JSON lines: {one_line(error)}") from None
