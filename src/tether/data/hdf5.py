"""HDF5 files: opened, their arrays and attributes read; whatever is wrong with one is an InputError."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tether.data.parallel import in_parts
from tether.errors import InputError

__all__ = ["METADATA_TEXT_LIMIT", "PARALLEL_BYTES", "as_scalar", "open_hdf5", "read_array"]

PARALLEL_BYTES = 8 * 2**20  # from here on, arrays are read in parts of this size

METADATA_TEXT_LIMIT = 200
"""Longest text kept as metadata, in characters: names and versions, not whole specifications."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens `path` for reading; whatever HDF5 cannot open or read inside the block becomes an InputError."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; an HDF5 file is needed here")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    # h5py reports damage with whatever its reader met first: a bad checksum, link, offset, type, or size.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as HDF5, it may be damaged or cut short: {reason}") from error


def read_array(group: h5py.File | h5py.Group, key: str, path: Path) -> np.ndarray:
    """The whole array `key` of `group`; refuses a group or a scalar in its place.

    Not to be called where HDF5's lock is held, so not inside `for ... in group.items()`, `values()` or `visititems`:
    large arrays are read by threads, and a thread that happens to collect garbage with HDF5 objects in it waits for
    the lock, as the caller does for the thread.
    """
    node = group[key]
    if not isinstance(node, h5py.Dataset) or node.shape is None or len(node.shape) == 0:
        kind = "a group" if isinstance(node, h5py.Group) else "not an array"
        raise InputError(f"{path}: {key!r} is {kind}; an array with one row per step is needed")
    plain = _read_contiguous(node, path)
    return np.asarray(node[()]) if plain is None else plain


def as_scalar(value: Any) -> str | float | int | None:
    """`value` as a plain number or short text that JSON can hold, or None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, str):
        return value if len(value) <= METADATA_TEXT_LIMIT else None
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, int | float) else None


def _read_contiguous(node: h5py.Dataset, path: Path) -> np.ndarray | None:
    """A large array that lies in the file as it does in memory, read on several cores; None for any other."""
    offset, kind = node.id.get_offset(), node.dtype
    if offset is None or node.file.userblock_size or kind.kind != "f" or not kind.isnative:
        return None
    if node.nbytes < PARALLEL_BYTES or node.id.get_storage_size() != node.nbytes:
        return None
    array = np.empty(node.shape, kind)
    memory = array.reshape(-1).view(np.uint8).data

    def read(part: slice) -> None:
        with path.open("rb", buffering=0) as file:
            file.seek(offset + part.start)
            rest = memory[part]
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise OSError(f"{node.name} ends too early")
                rest = rest[count:]

    in_parts(node.nbytes, PARALLEL_BYTES, read)
    return array
