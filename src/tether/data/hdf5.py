"""HDF5 files: opened, their arrays and attributes read, new ones written; what is wrong with one is an InputError.

A file is looked through before anything of it is read. One that takes its content from other files (external links,
raw storage, virtual data sets) is refused: the SHA-256 that pins it would not cover them, and they may be anybody's.
So is one that declares more than it can hold.
"""

import contextlib
import functools
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5l, h5o  # pyright: ignore[reportAttributeAccessIssue]

from tether.data.parallel import in_parts
from tether.errors import InputError
from tether.machine.locks import new_file
from tether.machine.reading import check_expansion, check_memory, one_line

__all__ = [
    "METADATA_TEXT_LIMIT",
    "PARALLEL_BYTES",
    "NewFile",
    "as_scalar",
    "new_hdf5",
    "open_hdf5",
    "read_array",
    "values_of",
]

PARALLEL_BYTES = 8 * 2**20  # from here on, arrays are read in parts of this size

MOST_LEVELS = 50  # of groups within groups
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)
METADATA_TEXT_LIMIT = 200
"""Longest text kept as metadata, in characters: names and versions, not whole specifications."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens `path` for reading; whatever HDF5 cannot open or read inside the block becomes an InputError."""
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "is a device or a pipe" if path.exists() else "no such file"
        raise InputError(f"{path}: {kind}; an HDF5 file is needed here")
    try:
        found = path.stat()
        _look_through(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    # h5py reports damage with whatever its reader met first: a bad checksum, link, offset, type, or size.
    except DAMAGE as error:
        reason = one_line(error)
        raise InputError(f"{path} cannot be read as HDF5, it may be damaged or cut short: {reason}") from error


@functools.lru_cache(maxsize=1000)  # a file is opened several times, and may have thousands of arrays
def _look_through(path: Path, stamp: tuple[int, ...]) -> None:
    """Raises InputError for content that lies in other files, and for more than this one can hold."""
    with h5py.File(path, "r") as file:
        _refuse_other_files(file, path)


def _refuse_other_files(file: h5py.File, path: Path) -> None:
    """Each object once, whatever the number of its links. HDF5's own visitor is recursive: groups in groups without end
    end the process."""
    declared, groups, seen = 0, [(file.id, "", 0)], set()
    while groups:
        group, name, depth = groups.pop()
        if depth > MOST_LEVELS:
            raise InputError(f"{path}: groups within groups, more than {MOST_LEVELS} of them")
        for child in _own_links(group, name, path):
            info = h5o.get_info(group, child)
            if (info.fileno, info.addr) in seen:
                continue
            seen.add((info.fileno, info.addr))
            where = f"{name}/{child.decode(errors='replace')}"
            if info.type == h5o.TYPE_GROUP:
                groups.append((h5o.open(group, child), where, depth + 1))
            elif info.type == h5o.TYPE_DATASET:
                declared += _declared_bytes(path, where, h5o.open(group, child))
    check_expansion(str(path), declared, path.stat().st_size)


def _own_links(group: Any, name: str, path: Path) -> list[bytes]:
    """The hard links of a group. Raises InputError for one to another file."""
    kinds: dict[bytes, int] = {}
    group.links.iterate(lambda child, info: kinds.update({child: info.type}), info=True)
    for child, kind in kinds.items():
        if kind not in (h5l.TYPE_HARD, h5l.TYPE_SOFT):
            raise _elsewhere(path, f"{name}/{child.decode(errors='replace')}", "is a link to another file")
    return [child for child, kind in kinds.items() if kind == h5l.TYPE_HARD]


def _declared_bytes(path: Path, name: str, dataset: Any) -> int:
    """What the array, or one of its chunks if that is larger, takes in memory."""
    plan, item = dataset.get_create_plist(), dataset.get_type().get_size()
    if plan.get_external_count():
        raise _elsewhere(path, name, "keeps its numbers in another file")
    layout = plan.get_layout()
    if layout == h5d.VIRTUAL:
        sources = {plan.get_virtual_filename(index) for index in range(plan.get_virtual_count())}
        if sources - {"."}:
            raise _elsewhere(path, name, f"takes its numbers from {sorted(sources - {'.'})[0]!r}")
    chunk = math.prod(plan.get_chunk()) if layout == h5d.CHUNKED else 0
    return item * max(math.prod(dataset.shape or ()), chunk)


def _elsewhere(path: Path, name: str, how: str) -> InputError:
    return InputError(f"{path}: {name!r} {how}; only what the file itself holds is read")


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
    check_memory(f"{path}: {key!r}", node.nbytes)
    plain = _read_contiguous(node, path)
    return np.asarray(node[()]) if plain is None else plain


def values_of(node: h5py.Dataset) -> np.ndarray:
    """The whole array, or scalar. Raises InputError where memory does not hold it."""
    check_memory(f"{node.file.filename}: {node.name!r}", node.nbytes)
    return np.asarray(node[()])


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


# --- new files ----------------------------------------------------------------------------------------------


class NewFile(h5py.File):
    """An HDF5 file that is being written."""

    def __init__(self, disk: "_Disk", **options: Any):
        super().__init__(disk, "w", **options)
        self._disk = disk

    def check_disk(self) -> None:
        """Raises OSError where the disk has failed: to be called now and then by who writes for long."""
        self._disk.check()


@contextmanager
def new_hdf5(path: Path, **options: Any) -> Iterator[NewFile]:
    """A new file `path`: complete when the block ends, gone when it or the disk fails. options: of `h5py.File`.

    Raises InputError where it exists, Busy where another process makes it, OSError such as a full disk's.
    """
    with new_file(path) as temporary, _Disk(temporary) as disk:
        with NewFile(disk, **options) as file:
            yield file
        disk.check()


class _Disk(io.RawIOBase):
    """A file on a disk that may fail. HDF5 does not outlive a failed write (it keeps what it could not write, and ends
    the process when it closes the file), so it never hears of one: the first failure is kept, for `check`."""

    def __init__(self, path: Path):
        super().__init__()
        self._path = path
        self._raw = path.open("w+b", buffering=0)
        self._failure: OSError | None = None

    def check(self) -> None:
        """Raises the first failure."""
        if (failure := self._failure) is not None:
            raise OSError(failure.errno, failure.strerror, str(self._path)) from failure

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self._failure is None:
                rest = rest[self._raw.write(rest) or 0 :]
        except OSError as error:
            self._failure = error
        if self._failure is not None:
            self._raw.seek(len(rest), io.SEEK_CUR)
        return size

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        count = self._raw.readinto(view) or 0
        view[count:] = bytes(len(view) - count)  # what was not written
        return len(view)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self._failure = self._failure or error
            return size or 0

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._raw.close()
        super().close()

    def readable(self) -> bool:
        return True

    writable = seekable = readable
