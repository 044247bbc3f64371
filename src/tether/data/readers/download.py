"""Files from mirrors into a cache: resumed, verified, pinned; or refused with one line.

    <cache>/d4rl/gym_mujoco_v2/hopper_medium-v2.hdf5            whole and verified: nothing else bears this name
    <cache>/d4rl/gym_mujoco_v2/hopper_medium-v2.hdf5.part       what has arrived so far, and
    <cache>/d4rl/gym_mujoco_v2/hopper_medium-v2.hdf5.part.json  of which version of which address
    <cache>/pins.json                                           SHA-256 of each file when it was first used

A broken transfer goes on where it stopped (HTTP Range) if the server still has the same version (ETag or
Last-Modified, and size); otherwise it starts over.
"""

import contextlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tether._version import __version__
from tether.data.readers.d4rl_names import DEFAULT_MIRRORS
from tether.errors import InputError
from tether.machine.cache import cache_folder
from tether.machine.files import LOCK, atomic_write_json, fsync_directory, sha256_file
from tether.machine.locks import wait_for_lock
from tether.machine.reading import parse_json, read_bytes

__all__ = ["Downloads", "cached_file"]

PINS_FORMAT = 1
TIMEOUT = 30.0  # seconds without a byte
SLOW_SECONDS = 60.0  # over which the least speed is measured
PAUSES = (0.0, 1.0, 4.0)  # seconds before try 1, 2, ... after one that got no further than those before it
BLOCK = 1 << 16
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses after which trying again may help
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

Check = Callable[[Path], None]
"""Raises InputError for a file that is not what it should be."""
Report = Callable[[int, int | None], None]
"""Told (bytes so far, bytes in all)."""


def _mirrors() -> tuple[str, ...]:
    given = re.split(r"[,\s]+", os.environ.get("TETHER_D4RL_MIRRORS", ""))
    return tuple(mirror for mirror in given if mirror) or DEFAULT_MIRRORS


def _offline() -> bool:
    value = os.environ.get("TETHER_OFFLINE", "").strip().lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("", "0", "false", "no", "off"):
        return False
    raise InputError(f"TETHER_OFFLINE={value!r}: write 1 or 0")


@dataclass(frozen=True)
class Downloads:
    """Where data sets come from and go to. What is not given is taken from the environment.

    Attributes:
        mirrors: addresses, tried in order (TETHER_D4RL_MIRRORS, separated by commas or spaces). A file is sought
            at its path below the address, or where `{file}` in the address is replaced by its bare name. A
            mirror that does not begin with http:// or https:// is a folder: its files are read where they are.
        cache: folder for what is downloaded and for pins.json (TETHER_CACHE; ~/.cache/tether).
        offline: the network is never used (TETHER_OFFLINE=1).
        quiet: no progress on stderr.
        largest_bytes: no larger file is taken, whatever a server announces; of a pinned file the pin says its size.
        least_bytes_per_second: a mirror that is slower for a minute is left; what has arrived is kept.
    """

    mirrors: tuple[str, ...] = field(default_factory=_mirrors)
    cache: Path = field(default_factory=cache_folder)
    offline: bool = field(default_factory=_offline)
    quiet: bool = False
    largest_bytes: int = 2**35
    least_bytes_per_second: int = 1_000


def cached_file(name: str, file: str, downloads: Downloads, check: Check) -> Path:
    """The file of a data set, whole and with the SHA-256 that was pinned when it was first used.

    name: of the data set, for messages.
    file: its path below a mirror's address.
    check: looks at a complete file before it is first used.

    Raises:
        InputError: no mirror has it, offline without it, another SHA-256 than the pinned one, or `check` says so.
    """
    target = downloads.cache / "d4rl" / file
    folders = [mirror for mirror in downloads.mirrors if not _is_address(mirror)]
    places = [target, *(place for folder in folders for place in _places(folder, file))]
    found = next((place for place in places if place.is_file()), None)
    pins = downloads.cache / "pins.json"
    if found is not None and file in _read_pins(pins):
        _verify(found, file, pins)
        return found
    if found is None and downloads.offline:
        source = next((f" (from {_address(m, file)})" for m in downloads.mirrors if _is_address(m)), "")
        raise InputError(
            f"data set {name!r}: offline (TETHER_OFFLINE) and there is no file {target}; put it there{source}"
        )
    downloads.cache.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(downloads.cache / LOCK):  # one fetches and pins; the others then find the file
        pinned = _read_pins(pins).get(file)
        if found is None and target.is_file():  # another process fetched it meanwhile
            found = target
        if found is None:
            _download(name, file, target, downloads, check, pinned)
        elif pinned:
            _verify(found, file, pins)
        else:
            check(found)
        if not pinned:
            _pin(found or target, file, pins)
    return found or target


def _is_address(mirror: str) -> bool:
    return mirror.startswith(("http://", "https://"))


def _address(mirror: str, file: str) -> str:
    if "{file}" in mirror:
        return mirror.replace("{file}", file.rpartition("/")[2])
    return f"{mirror.rstrip('/')}/{file}"


def _places(folder: str, file: str) -> list[Path]:
    """Where a folder may hold the file: at its path, or flat, as D4RL's own ~/.d4rl/datasets."""
    if "{file}" in folder:
        return [Path(_address(folder, file)).expanduser()]
    return [Path(folder).expanduser() / file, Path(folder).expanduser() / file.rpartition("/")[2]]


# --- pins ---------------------------------------------------------------------------------------------------


def _read_pins(pins: Path) -> dict[str, dict[str, Any]]:
    if not pins.exists():
        return {}
    try:
        content = parse_json(read_bytes(pins))
        if content["format_version"] != PINS_FORMAT:
            raise InputError(f"{pins}: format {content['format_version']!r}; this version reads {PINS_FORMAT}")
        return dict(content["files"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{pins}: not a list of pins; mend or delete it") from error


def _pin(path: Path, file: str, pins: Path) -> None:
    row = {"sha256": sha256_file(path), "size": path.stat().st_size, "pinned": time.strftime("%Y-%m-%d")}
    atomic_write_json(pins, {"format_version": PINS_FORMAT, "files": {**_read_pins(pins), file: row}})


def _verify(path: Path, file: str, pins: Path) -> None:
    pinned, found = _read_pins(pins)[file]["sha256"], sha256_file(path)
    if found != pinned:
        raise InputError(
            f"{path}: its SHA-256 is {found[:12]}... but {pinned[:12]}... is pinned in {pins}: damaged or another "
            "version; delete the file to fetch it again, or its entry in pins.json if the change is meant"
        )


# --- transfers ----------------------------------------------------------------------------------------------


class _Refused(Exception):
    """This mirror does not give the file."""


class _Broken(Exception):
    """This transfer stopped; another may go on from there."""


@dataclass(frozen=True)
class _Version:
    """Which version of a file at which address a part belongs to; `size` is that of the whole file."""

    address: str
    size: int | None
    etag: str | None
    last_modified: str | None

    @property
    def condition(self) -> str | None:
        """What If-Range can hold: a strong ETag or a date."""
        return self.last_modified if self.etag is None else None if self.etag.startswith("W/") else self.etag

    def continues_as(self, other: "_Version") -> bool:
        """Whether the rest of `other` fits to a part of this version (a 206 may leave out the date)."""
        same_date = other.last_modified in (None, self.last_modified) or self.last_modified is None
        same_tag = other.etag == self.etag or (other.etag is None and self.condition is not None)
        return self.size == other.size and same_tag and same_date


class _Part:
    """What has arrived of a file, and the note of which version it is."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")

    def size(self) -> int:
        """Bytes held."""
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self, address: str) -> _Version | None:
        """The version to go on with from `address`; None where the part is of no use there."""
        try:
            version = _Version(**parse_json(read_bytes(self.note)))
        except (OSError, ValueError, TypeError):
            return None
        if (
            not isinstance(version.size, int)
            or not (version.etag or version.last_modified)
            or version.address != address
        ):
            return None
        return version if self.size() <= version.size else None

    def begin(self, version: _Version) -> None:
        """Forget what is held; what comes is of `version`."""
        self.note.unlink(missing_ok=True)
        self.path.write_bytes(b"")
        atomic_write_json(self.note, asdict(version))

    def discard(self) -> None:
        """Remove both files."""
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Limits:
    """How much is taken of a mirror, and how slow it may be."""

    largest_bytes: int
    least_bytes_per_second: int

    def check_size(self, part: _Part, size: int, held: int) -> None:
        """Refuse a file of at least `size` bytes that is too large, also for the disk; what has arrived is removed."""
        free = shutil.disk_usage(part.path.parent).free
        if size > self.largest_bytes:
            part.discard()
            raise _Refused(f"it has {size:,} bytes or more; at most {self.largest_bytes:,} are taken")
        if size - held > free:
            part.discard()
            raise _Refused(f"it has {size:,} bytes; the disk has {free:,} free")

    def watched(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """The same blocks. Raises _Refused, with what has arrived kept, where they come too slowly."""
        since, arrived = time.monotonic(), 0
        for block in blocks:
            yield block
            arrived += len(block)
            if (seconds := time.monotonic() - since) >= SLOW_SECONDS:
                if arrived < seconds * self.least_bytes_per_second:
                    raise _Refused(f"{arrived:,} bytes in {seconds:.0f} seconds: too slow")
                since, arrived = time.monotonic(), 0


def _download(
    name: str, file: str, target: Path, downloads: Downloads, check: Check, pinned: Mapping[str, Any] | None
) -> None:
    """Fetch `target` from the first mirror that gives it whole and right."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part, reasons = _Part(target), []
    largest = pinned.get("size", downloads.largest_bytes) if pinned else downloads.largest_bytes
    limits = _Limits(largest, downloads.least_bytes_per_second)
    sha256 = pinned["sha256"] if pinned else None
    with _progress(name, downloads.quiet) as report:
        for mirror in filter(_is_address, downloads.mirrors):
            address = _address(mirror, file)
            try:
                _transfer(address, part, limits, report)
                _accept(part, check, sha256)
            except _Refused as reason:
                reasons.append(f"{address}: {reason}")
                continue
            os.replace(part.path, target)
            fsync_directory(target.parent)
            part.discard()
            return
    why = f"no mirror gives it: {'; '.join(reasons)}" if reasons else "no mirror is an http:// or https:// address"
    raise InputError(
        f"data set {name!r}: {why}; name others with TETHER_D4RL_MIRRORS, or put the file at {target} yourself"
    )


def _accept(part: _Part, check: Check, pinned: str | None) -> None:
    """Refuse a complete transfer that is not the file it should be, and throw it away."""
    try:
        check(part.path)
        found = sha256_file(part.path)
        if pinned is not None and found != pinned:
            raise InputError(f"its SHA-256 is {found[:12]}..., pinned is {pinned[:12]}...")
    except InputError as error:
        part.discard()
        raise _Refused(str(error)) from error


def _transfer(address: str, part: _Part, limits: _Limits, report: Report) -> None:
    """Bring the part to its full size, in as many requests as it takes while each gets further than all before."""
    furthest, idle = 0, 0
    while True:
        try:
            _receive(address, part, limits, report)
            return
        except _Broken as error:
            idle = 0 if part.size() > furthest else idle + 1
            furthest = max(furthest, part.size())
            if idle >= len(PAUSES):
                raise _Refused(str(error)) from error
            time.sleep(PAUSES[idle])


def _receive(address: str, part: _Part, limits: _Limits, report: Report) -> None:
    """One request for what is missing. Raises _Broken where another may help, _Refused where none will."""
    version = part.version(address)
    held = part.size() if version else 0
    if version and held == version.size:
        return
    with _open(address, version, held, part) as response:
        offered = _offered(address, response)
        if response.status == 206 and version is not None:
            if not version.continues_as(offered) or _first_byte(response) != held:
                part.discard()
                raise _Broken("the file changed between two parts")
        elif response.status == 200:
            held = 0
            part.begin(offered)
        else:
            raise _Refused(f"HTTP {response.status} {response.reason}")
        limits.check_size(part, offered.size or 0, held)
        with part.path.open("ab") as out:
            for block in limits.watched(_blocks(response)):
                limits.check_size(part, held + len(block), held)
                if held == 0 and not block.startswith(HDF5_SIGNATURE[: len(block)]):
                    part.discard()
                    raise _Refused(f"not an HDF5 file but {response.headers.get('Content-Type', 'something else')}")
                out.write(block)
                held += len(block)
                report(held, offered.size)
            out.flush()
            os.fsync(out.fileno())
    if offered.size is not None and held < offered.size:
        raise _Broken(f"the connection broke after {held:,} of {offered.size:,} bytes")


def _open(address: str, version: _Version | None, held: int, part: _Part) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"tether/{__version__}", "Accept-Encoding": "identity"}
    if version is not None:
        headers["Range"] = f"bytes={held}-"
        if version.condition is not None:
            headers["If-Range"] = version.condition
    try:
        return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # what is held is no beginning of what the server has now
            part.discard()
        kind = _Broken if error.code in (416, *TRANSIENT) else _Refused
        raise kind(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(_words(getattr(error, "reason", error))) from error
    except ValueError as error:  # an address that is none
        raise _Refused(_words(error)) from error


def _offered(address: str, response: http.client.HTTPResponse) -> _Version:
    """The version that a response brings, whole (200) or in part (206)."""
    headers = response.headers
    size = headers.get("Content-Length", "")
    if response.status == 206:
        size = headers.get("Content-Range", "").rpartition("/")[2]
    return _Version(address, int(size) if size.isdigit() else None, headers.get("ETag"), headers.get("Last-Modified"))


def _first_byte(response: http.client.HTTPResponse) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else None


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """What arrives; faults of the network, and only those, become _Broken."""
    while True:
        try:
            block = response.read1(BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(_words(error)) from error
        if not block:
            return
        yield block


def _words(error: object) -> str:
    """An error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _progress(name: str, quiet: bool) -> Iterator[Report]:
    """A bar on stderr."""
    columns = TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        bar = progress.add_task(name, total=None)
        yield lambda held, size: progress.update(bar, completed=held, total=size)
