"""npz files: their arrays, whose declared sizes are held against what the file stores; damage is an InputError.

An npz file is a zip archive of `.npy` files. Whatever a zip archive or a header can be, damaged or made so, is refused
with one line: other compressions, encryption, sizes that the entry does not have. Arrays of Python objects are pickles
and are never read.
"""

import contextlib
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.errors import InputError
from tether.machine.reading import check_expansion, check_memory, one_line

__all__ = ["DAMAGE", "Archive", "Header", "open_npz_archive"]

ENCRYPTED = 0x1  # flag of an entry
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # np.savez, np.savez_compressed
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, KeyError, ValueError),
    *(MemoryError, OverflowError, SyntaxError, tokenize.TokenError),
)
"""What zipfile and NumPy raise, whatever they meet first."""


class Header(NamedTuple):
    """What an array's own header says of it."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


class Archive(NamedTuple):
    """An open npz file."""

    path: Path
    file: zipfile.ZipFile
    headers: dict[str, Header]  # of every array that holds no Python objects, in the file's order
    pickled: tuple[str, ...]  # the others

    def open(self, name: str) -> Any:
        """The entry of an array, behind its header."""
        entry = self.file.open(f"{name}.npy")
        _read_header(entry)
        return entry

    def read(self, name: str) -> np.ndarray:
        """The whole array. Raises InputError where memory does not hold it."""
        header = self.headers[name]
        check_memory(f"{self.path}: {name!r}", _bytes(header))
        with self.file.open(f"{name}.npy") as entry:
            return np.lib.format.read_array(entry, allow_pickle=False)


@contextlib.contextmanager
def open_npz_archive(path: Path) -> Iterator[Archive]:
    """Opens `path` for reading; whatever cannot be read of it inside the block becomes an InputError."""
    try:
        with zipfile.ZipFile(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header that Python 2 has written
            headers, pickled = {}, []
            for entry in file.infolist():
                _check_entry(path, entry)
                if not entry.filename.endswith(".npy"):
                    continue
                name, header = entry.filename.removesuffix(".npy"), _header(path, file, entry)
                if header.dtype.hasobject:
                    pickled.append(name)
                else:
                    headers[name] = header
            yield Archive(path, file, headers, tuple(pickled))
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{path} cannot be read as npz, it may be damaged: {one_line(error)}") from error


def _check_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    where = f"{path}: {entry.filename!r}"
    if entry.flag_bits & ENCRYPTED:
        raise InputError(f"{where} is encrypted, or the file is damaged; save it without a password")
    if entry.compress_type not in COMPRESSIONS:
        raise InputError(
            f"{where} is compressed by method {entry.compress_type} of zip, or the file is damaged; np.savez and "
            "np.savez_compressed write what is read"
        )
    check_expansion(where, entry.file_size, entry.compress_size)


def _header(path: Path, file: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Header:
    """The array's header. Raises InputError where it declares another size than the entry has."""
    with file.open(entry) as opened:
        header = _read_header(opened)
        rest = entry.file_size - opened.tell()
    if min(header.shape, default=0) < 0 or (not header.dtype.hasobject and _bytes(header) != rest):
        shape = " x ".join(map(str, header.shape)) or "1"
        raise InputError(
            f"{path}: {entry.filename!r} declares {shape} numbers ({header.dtype}) and holds {max(rest, 0):,} bytes: "
            "damaged or cut short"
        )
    return header


def _read_header(file: Any) -> Header:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return Header(*read(file))


def _bytes(header: Header) -> int:
    return header.dtype.itemsize * math.prod(header.shape)
