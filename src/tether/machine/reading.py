"""Files of strangers: read only where they are files, as large as they say, and no larger than the machine.

A JSON document may nest without end or hold a number of a million digits, a file may be a link to a device that never
ends, and a few bytes may declare an array of terabytes. Each is one InputError here, before anything is allocated.
"""

import json
import stat
from pathlib import Path
from typing import Any

from tether.errors import InputError

__all__ = ["as_document", "check_expansion", "check_memory", "one_line", "parse_json", "read_bytes", "read_json"]

LARGEST_DOCUMENT = 256 * 2**20  # bytes of a JSON file
MOST_DIGITS = 400  # of a number in JSON: the largest double has 309
EXPANSION = 1100
"""How much larger than a file its content may be: deflate, the usual compression, reaches 1032 where all is zero."""
SMALL = 16 * 2**20  # bytes that any file may declare
LARGE = 64 * 2**20  # bytes from which memory is asked about


def one_line(error: object) -> str:
    """The error's text in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises: InputError where it is none, or larger than the memory that is free;
    OSError."""
    found = path.stat()  # not `open`, which would wait for the other end of a pipe
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, a pipe or a socket"
        raise InputError(f"{path}: is {kind}, not a file")
    check_memory(f"{path}: it", found.st_size)
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises InputError, naming it, where it cannot be read or is no JSON."""
    try:
        if path.is_file() and (size := path.stat().st_size) > LARGEST_DOCUMENT:
            raise InputError(f"{path}: {size:,} bytes; a JSON file has at most {LARGEST_DOCUMENT:,}")
        return parse_json(read_bytes(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: truncated or altered: not JSON: {one_line(error)}") from None


def parse_json(text: str | bytes) -> Any:
    """The value of JSON text. Raises ValueError, where `json.loads` also raises other exceptions or gives numbers that
    no double holds."""
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    number = int(digits)
    if len(digits) > 300:
        try:
            float(number)
        except OverflowError:
            raise ValueError(f"a number of {len(digits)} digits") from None
    return number


def as_document(path: Path, value: Any, schema: Any) -> Any:
    """A JSON value as what `schema`, a type that msgspec knows, says. Raises InputError that names file and entry."""
    import msgspec  # here, because most commands read no document

    try:
        return msgspec.convert(value, schema)
    except (msgspec.ValidationError, OverflowError) as error:
        raise InputError(f"{path}: altered: {one_line(error)}") from None


def check_expansion(where: str, declared: int, stored: int) -> None:
    """Refuse a file of `stored` bytes that declares more content than it can hold. Raises InputError."""
    from tether.machine.memory import human_bytes

    if declared > max(SMALL, EXPANSION * stored):
        raise InputError(
            f"{where}: declares {human_bytes(declared)} of numbers and holds {human_bytes(stored)}: damaged, or made "
            "to exhaust the memory"
        )


def check_memory(what: str, needed: int) -> None:
    """Refuse what needs more memory than is free. Raises InputError that begins with `what`."""
    if needed < LARGE:
        return
    from tether.machine.memory import free_memory, human_bytes

    free = free_memory()
    if free is not None and needed > free:
        raise InputError(f"{what} needs {human_bytes(needed)} of memory, {human_bytes(free)} are free")
