"""What Arrow gives, of CSV and Parquet alike, as NumPy arrays."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.data.logs.pieces import Column, Kind, Piece, as_kind, missing, pictures
from tether.errors import InputError

__all__ = ["Leaf", "arrow_pieces", "holds", "leaves", "pyarrow_for"]


def pyarrow_for(path: Path) -> Any:
    """The package, with its submodule `compute`. Raises InputError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.compute
    except ImportError as error:
        raise InputError(
            f"{path}: reading *{path.suffix} needs the package pyarrow: pip install 'tether-rl[tables]' ({error})"
        ) from None
    return pyarrow


def holds(arrow: Any, type_: Any) -> Any:
    """What `Column.holds` says of an Arrow type of single entries."""
    types = arrow.types
    if types.is_dictionary(type_):
        return holds(arrow, type_.value_type)
    if types.is_boolean(type_):
        return "flags"
    if types.is_temporal(type_):
        return "times"
    numbers = types.is_integer(type_) or types.is_floating(type_) or types.is_decimal(type_) or types.is_null(type_)
    return "numbers" if numbers else "text"


# --- nested columns -----------------------------------------------------------------------------------------


class Leaf(NamedTuple):
    """A column of a table, and where it lies in the file's own, which may be nested."""

    column: Column
    top: str  # the file's column
    path: tuple[str | None, ...] = ()  # from there inwards: a structure's field, None for a list


def leaves(arrow: Any, name: str, array: Any) -> tuple[dict[str, Leaf], dict[str, str]]:
    """(the columns in the file's column `name`, of which `array` are some first rows; what else is in it, in words).

    Fields of structures are named with dots, as Arrow and Parquet do: `pose.x`. Numbers of matrices have their place
    after a slash.
    """
    found: dict[str, Leaf] = {}
    skipped: dict[str, str] = {}
    types = arrow.types

    def visit(label: str, array: Any, path: tuple[str | None, ...], shape: tuple[int, ...]) -> None:
        array, type_ = _stored_as(arrow, array)
        if types.is_struct(type_):
            for field in type_:
                inner = arrow.compute.struct_field(array, field.name)
                visit(f"{label}.{field.name}", inner, (*path, field.name), shape)
        elif _is_list(arrow, type_):
            rows = array.drop_null()
            length = len(rows[0]) if len(rows) else 0
            visit(label, rows.flatten(), (*path, None), (*shape, length))
        elif what := _no_column(arrow, type_, shape):
            skipped[label] = what
        else:
            places = ["/" + "/".join(map(str, place)) for place in np.ndindex(*shape)] if len(shape) > 1 else []
            inside = name if path[:1] not in ((), (None,)) else ""
            column = Column(int(np.prod(shape, dtype=np.int64)), holds(arrow, type_), tuple(places), inside=inside)
            found[label] = Leaf(column, name, path)

    visit(name, array, (), ())
    return found, skipped


def _is_list(arrow: Any, type_: Any) -> bool:
    types = arrow.types
    return types.is_fixed_size_list(type_) or types.is_list(type_) or types.is_large_list(type_)


def _no_column(arrow: Any, type_: Any, shape: tuple[int, ...]) -> str:
    """What entries of this type are, in words, where they are no column; else nothing."""
    types = arrow.types
    if types.is_binary(type_) or types.is_large_binary(type_) or types.is_fixed_size_binary(type_):
        return "bytes, such as images"
    if types.is_nested(type_):
        return f"entries of the type {type_}"
    if 0 in shape:
        return "lists, of which the first is empty"
    if shape and holds(arrow, type_) in ("text", "times"):
        return f"lists of {holds(arrow, type_)}"
    return pictures(shape, str(type_))


def _stored_as(arrow: Any, array: Any) -> tuple[Any, Any]:
    """(array, type) without an extension type's name, such as that of tensors."""
    if isinstance(array.type, arrow.BaseExtensionType):
        return array.storage, array.storage.type
    return array, array.type


# --- arrays -------------------------------------------------------------------------------------------------


def arrow_pieces(
    arrow: Any, path: Path, batches: Iterable[Any], kinds: Mapping[str, Kind], columns: Mapping[str, Leaf]
) -> Iterator[Piece]:
    """The columns `kinds` of record batches."""
    row = 0
    for batch in batches:
        if batch.num_rows:
            piece = {}
            for name, kind in kinds.items():
                entry = _Entry(arrow, path, name, kind, row, columns[name])
                array = batch.column(batch.schema.get_field_index(columns[name].top))
                piece[name] = as_kind(path, name, entry.values(array), kind, row)
            yield piece
        row += batch.num_rows


class _Entry(NamedTuple):
    """A column of a batch, on its way to NumPy."""

    arrow: Any
    path: Path
    name: str
    kind: Kind
    row: int  # of the batch's first in the file
    leaf: Leaf

    def values(self, array: Any) -> np.ndarray:
        """(rows, ...); NaN where an entry is missing, if that may be."""
        if self.kind == "stored" and self.leaf.path:
            return self._stored_lists(array)
        values = self._inside(array, self.leaf.path)
        if values.size != len(array) * self.leaf.column.size:
            found = values.size // len(array)
            raise self._refusal(f"holds {found} numbers in a row, before that {self.leaf.column.size}")
        return values

    def _stored_lists(self, array: Any) -> np.ndarray:
        """Vectors of equal length as rows, of different lengths as objects."""
        try:
            return self._inside(array, self.leaf.path)
        except InputError:
            return np.array([str(row) for row in array.to_pylist()], object)

    def _inside(self, array: Any, path: tuple[str | None, ...]) -> np.ndarray:
        array, _ = _stored_as(self.arrow, array)
        if not path:
            return self._numpy(array)
        if path[0] is not None:
            return self._inside(self.arrow.compute.struct_field(array, path[0]), path[1:])
        valid = np.ones(len(array), np.bool_)
        if array.null_count:
            self._refuse_missing(array)
            valid = array.is_valid().to_numpy(zero_copy_only=False)
            array = array.drop_null()
        lengths = self.arrow.compute.list_value_length(array).to_numpy(zero_copy_only=False)
        if len(lengths) and lengths.min() != lengths.max():
            raise self._refusal(f"holds {lengths.min()} to {lengths.max()} numbers in a row")
        inner = self._inside(array.flatten(), path[1:])
        inner = inner.reshape(len(array), inner.size // max(1, len(array)))
        if valid.all():
            return inner
        filled = np.full((len(valid), inner.shape[1] or self.leaf.column.size), np.nan)
        filled[valid] = inner
        return filled

    def _numpy(self, array: Any) -> np.ndarray:
        """Single entries."""
        types, type_ = self.arrow.types, array.type
        may_lack = self.kind in ("float32?", "float64?", "flag?", "stored")
        if types.is_dictionary(type_) and self.kind != "label":
            array = array.dictionary_decode()
            type_ = array.type
        if array.null_count:
            self._refuse_missing(array)
        kind = holds(self.arrow, type_)
        if self.kind == "text" or (self.kind == "order" and kind == "text"):
            return np.array(array.to_pylist(), object)
        if self.kind == "label" and not types.is_integer(type_):  # many rows share few texts
            encoded = array if types.is_dictionary(type_) else array.dictionary_encode()
            if "" in encoded.dictionary.to_pylist():  # a CSV file's empty cell
                self._refuse_missing(self.arrow.compute.if_else(self.arrow.compute.equal(encoded, ""), None, array))
            return encoded.dictionary.to_numpy(zero_copy_only=False)[encoded.indices.to_numpy(zero_copy_only=False)]
        if types.is_decimal(type_) or (kind in ("numbers", "flags") and (self.kind == "stored" or array.null_count)):
            array = array.cast(self.arrow.float64(), safe=False)
        if types.is_time(type_) or types.is_duration(type_):
            return _ticks(self.arrow, array)
        assert may_lack or not array.null_count
        return array.to_numpy(zero_copy_only=False)

    def _refuse_missing(self, array: Any) -> None:
        """InputError for an entry that is not there, unless it may be missing."""
        if self.kind in ("float32?", "float64?", "flag?", "text", "stored"):
            return
        inside = len(self.leaf.path) > 1  # of lists in lists: the row is not the file's
        place = self.row + int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        what = "is empty or not a number" + ("" if inside else f" in row {place}")
        if self.kind in ("float32", "float64"):
            raise missing(self.path, self.name, what)
        raise self._refusal(f"{what}; every entry is needed")

    def _refusal(self, what: str) -> InputError:
        return InputError(f"{self.path}: column {self.name!r} {what}")


def _ticks(arrow: Any, array: Any) -> np.ndarray:
    """Times of the day and durations."""
    bits = arrow.int32() if array.type.bit_width == 32 else arrow.int64()
    return array.cast(bits).to_numpy(zero_copy_only=False).astype(f"timedelta64[{array.type.unit}]")
