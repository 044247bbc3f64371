"""Files of JSON lines: one process appends, others read meanwhile, and damage is found before it does harm.

A line is whole once its newline is on the disk, so only what follows the last newline may be left out without a word:
a kill leaves that. Any other line that is no row is damage, and named.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tether.errors import InputError
from tether.machine.files import atomic_write_text
from tether.machine.reading import read_bytes

__all__ = ["Damage", "JsonLines", "Mark"]

PIECE_BYTES = 2**20


class Mark(NamedTuple):
    """How far a file had come: its first bytes, and their SHA-256."""

    size: int
    sha256: str


class Damage(NamedTuple):
    """A line that is no row; the first is number 1."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line} is damaged ({self.reason})"


class JsonLines:
    """An append-only file of JSON objects, one a line. Rows hold null, never NaN, so that every reader can read it."""

    def __init__(
        self,
        path: Path,
        fault_of: Callable[[dict[str, Any]], str | None] = lambda row: None,
        *,
        write: bool = True,
        remedy: str = "mend or remove the line",
    ):
        """fault_of: what is wrong with an object as a row of this file, None where nothing is. write: False in a
        process that only reads what another one writes. remedy: what a user can do about damage."""
        self.path = path
        self._fault_of, self._write, self._remedy = fault_of, write, remedy
        self._end: tuple[int, Any] | None = None  # size of the whole lines and their hash so far; None: not looked at

    # --- writing ---

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `rows` behind the last whole line and force them to the disk: the next checkpoint relies on them.

        Raises: OSError; the rows are then not there, or an unfinished line that the next ones replace.
        """
        if not self._write:
            return
        data = _lines(rows).encode()
        try:
            size, sha256 = self._whole_lines()
            with open(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b") as file:
                file.truncate(size)
                file.seek(size)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # of itself it does not name the file
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        sha256.update(data)
        self._end = size + len(data), sha256

    def mark(self) -> Mark:
        """How far the file has come."""
        size, sha256 = self._whole_lines()
        return Mark(size, sha256.hexdigest())

    def cut(self, mark: Mark) -> None:
        """Go back to `mark`, which `verify` has found to be true; later rows go."""
        self._end = None
        if self._write and self.path.exists():
            with self.path.open("r+b") as file:
                file.truncate(mark.size)
                os.fsync(file.fileno())

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the rows that are not `wanted`. Raises: as `read`."""
        if self._write:
            self.replace([row for row in self.read() if wanted(row)])

    def replace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Make these the file's rows, all at once. Raises: OSError."""
        atomic_write_text(self.path, _lines(rows))
        self._end = None

    def set_aside(self) -> Path | None:
        """Keep the file as it is under another name, too -> that name; None where there is no file. Raises: OSError."""
        if not self.path.exists():
            return None
        names = (f"{self.path.stem}.damaged{f'-{n}' if n else ''}{self.path.suffix}" for n in range(10_000))
        target = next(path for path in map(self.path.with_name, names) if not path.exists())
        with contextlib.suppress(OSError):
            os.link(self.path, target)  # costs nothing, and what takes the old name is another file
            return target
        shutil.copy2(self.path, target)
        return target

    def _whole_lines(self) -> tuple[int, Any]:
        """How many bytes the whole lines are, and their hash, read from the file the first time."""
        if self._end is None:
            size, sha256, rest = 0, hashlib.sha256(), b""
            with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    whole, newline, rest = (rest + piece).rpartition(b"\n")
                    sha256.update(whole + newline)
                    size += len(whole) + len(newline)
            self._end = size, sha256
        return self._end

    # --- reading ---

    def read(self) -> list[dict[str, Any]]:
        """All rows but an unfinished last one, which a kill leaves; none where there is no file.

        Raises: InputError for damage anywhere else, naming file and line; OSError.
        """
        rows, damaged = self.read_whole()
        if damaged:
            raise InputError(f"{self.path}: {_several(damaged)}; {self._remedy}")
        return rows

    def read_whole(self) -> tuple[list[dict[str, Any]], list[Damage]]:
        """(the rows that are whole, the lines that are damaged). Raises: OSError."""
        rows, damaged = [], []
        for number, line in enumerate(self._content().split(b"\n")[:-1], 1):
            try:
                rows.append(self._row(line))
            except (ValueError, RecursionError) as error:
                damaged.append(Damage(number, " ".join(str(error).split())[:100]))
        return rows, damaged

    def require(self) -> None:
        """Raises: InputError where there is no such file."""
        if not self.path.exists():
            raise InputError(f"{self.path}: missing, and its checkpoint counts on it; {self._remedy}")

    def verify(self, mark: Mark) -> None:
        """Raises: InputError where the file does not begin with what it was at `mark`, naming the line if possible."""
        if mark.size:
            self.require()
        content = self._content()
        if hashlib.sha256(content[: mark.size]).hexdigest() == mark.sha256:
            return
        _, damaged = self.read_whole()
        if damaged:
            raise InputError(f"{self.path}: {_several(damaged)}; {self._remedy}")
        if (whole := content.rfind(b"\n") + 1) < mark.size:
            what = f"cut short: {whole:,} bytes of whole lines, and its checkpoint counts on {mark.size:,}"
        else:
            what = "altered: every line is a row, but they are not those that its checkpoint was written beside"
        raise InputError(f"{self.path}: {what}; {self._remedy}")

    def _content(self) -> bytes:
        """Raises: InputError for a device; OSError, as for a folder."""
        try:
            return self.path.read_bytes() if self.path.is_dir() else read_bytes(self.path)
        except FileNotFoundError:
            return b""

    def _row(self, line: bytes) -> dict[str, Any]:
        """Raises: ValueError or RecursionError, which say why it is none."""
        row = json.loads(line.decode(), parse_constant=_refuse_constant)
        if not isinstance(row, dict):
            raise ValueError("no JSON object")
        if (fault := self._fault_of(row)) is not None:
            raise ValueError(fault)
        return row


def _several(damaged: Sequence[Damage]) -> str:
    return str(damaged[0]) + (f", and so are {len(damaged) - 1} more" if len(damaged) > 1 else "")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
