"""Parquet files, and frames of Arrow, as tables: nested columns are flattened, each of their numbers under a name."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tether.data.logs import pieces
from tether.data.logs.arrow import Leaf, arrow_pieces, leaves, pyarrow_for
from tether.data.logs.pieces import Kind, Piece, Table, refuse_doubles
from tether.errors import InputError
from tether.machine.reading import one_line

__all__ = ["arrow_table", "open_parquet"]

FIRST_ROWS = 64
"""Of these the shapes of lists are taken."""
DAMAGE = (OSError, ValueError, TypeError, LookupError, MemoryError, RuntimeError, AttributeError, NotImplementedError)
"""What Arrow raises of a damaged file, its own exceptions among them."""


def open_parquet(path: Path) -> Table:
    """The table in a Parquet file. Raises InputError as `open_table`."""
    arrow = pyarrow_for(path)
    from pyarrow import parquet

    try:
        return arrow_table(arrow, path, lambda: parquet.ParquetFile(path))
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as Parquet: {one_line(error)}") from None


def arrow_table(arrow: Any, path: Path, open_file: Callable[[], Any]) -> Table:
    """The table of what `open_file` opens: a Parquet file, or what has its `schema_arrow` and `iter_batches`."""
    columns: dict[str, Leaf] = {}
    skipped: dict[str, str] = {}
    with open_file() as file:
        refuse_doubles(path, file.schema_arrow.names)
        names: list[str] = []
        for field in file.schema_arrow:
            first = arrow.array([], field.type)
            if arrow.types.is_nested(field.type) or isinstance(field.type, arrow.BaseExtensionType):
                batch = next(file.iter_batches(batch_size=FIRST_ROWS, columns=[field.name]), None)
                first = first if batch is None else batch.column(batch.schema.get_field_index(field.name))
            found, others = leaves(arrow, field.name, first)
            columns |= found
            skipped |= others
            names += [*found, *others]
        refuse_doubles(path, names)  # `pose.x` may also be a field of the structure `pose`
    row_bytes = 8 * sum(leaf.column.size for leaf in columns.values())

    def read(kinds: Mapping[str, Kind], piece_bytes: int | None = None) -> Iterator[Piece]:
        rows = max(1, (piece_bytes or pieces.PIECE_BYTES) // max(1, row_bytes))
        wanted = list(dict.fromkeys(columns[name].top for name in kinds))
        try:
            with open_file() as file:
                batches = file.iter_batches(batch_size=rows, columns=wanted)
                yield from arrow_pieces(arrow, path, batches, kinds, columns)
        except DAMAGE as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} cannot be read as Parquet: {one_line(error)}") from None

    return Table(path, {name: leaf.column for name, leaf in columns.items()}, read, skipped)
