"""The policies that a server has, by name, and how a new version takes the place of an old one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple

from tether_runtime.errors import InputError
from tether_runtime.fallback import Guard
from tether_runtime.folder import DOCUMENT, document_hash
from tether_runtime.policy import DAMAGE, Policy, load

__all__ = ["Served", "Store", "parse_places"]


class Served(NamedTuple):
    """A policy that is served. Replaced as a whole: who has one in hand ends with it."""

    name: str
    folder: Path
    policy: Policy
    guard: Guard
    stamp: tuple[int, int]  # of export.json
    loaded_at: float  # seconds since 1970
    version: str  # the first digits of the export's own hash, in which those of all its files are


def parse_places(words: list[str]) -> dict[str, Path]:
    """`FOLDER` or `NAME=FOLDER` each -> name to folder. Raises InputError where a name is there twice."""
    places: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        path = Path(folder if equals else word)
        name = name if equals else path.resolve().name
        if not name or "/" in name:
            raise InputError(f"policy {word!r}: write NAME=FOLDER, the name without slashes")
        if name in places:
            raise InputError(f"policy {name!r} is given twice: {places[name]} and {path}; name them: NAME=FOLDER")
        places[name] = path
    return places


class Store:
    """Names and their policies."""

    def __init__(self, places: dict[str, Path], guard: Callable[[Policy], Guard], threads: int = 1):
        """guard: makes the rules of a policy. Raises InputError where a policy does not load."""
        self._places, self._guard, self._threads = places, guard, threads
        self._failed: dict[str, Any] = {}  # name -> the files, as they were when they did not load
        self.served: dict[str, Served] = {name: self._load(name) for name in places}

    def get(self, name: str | None) -> Served | None:
        """By name, `walker@2`; by the name before the @, the one named last; the first of all for None."""
        if name is None:
            return next(iter(self.served.values()))
        if name in self.served:
            return self.served[name]
        versions = [served for full, served in self.served.items() if full.split("@")[0] == name]
        return versions[-1] if versions else None

    def refresh(self, again: str | None = None) -> list[tuple[str, str | None]]:
        """Load what has changed on disk -> (name, what was wrong with it, None where it is served now).

        The old version goes on until the new one is loaded and verified, and where that fails; then it is tried anew
        when a file of the folder has changed. again: the name of one that is tried all the same.
        """
        found: list[tuple[str, str | None]] = []
        for name, served in list(self.served.items()):
            if _stamp(served.folder) in (served.stamp, None):
                continue
            files = _files(served.folder)
            if files == self._failed.get(name) and name != again:
                continue
            self._failed[name] = files  # until it has loaded
            try:
                self.served[name] = self._load(name)
                del self._failed[name]
                found.append((name, None))
            except (InputError, OSError) as error:
                found.append((name, str(error)))
        return found

    def _load(self, name: str) -> Served:
        folder = self._places[name]
        stamp = _stamp(folder)
        policy = load(folder, threads=self._threads)
        try:
            for number in range(len(policy.document["graphs"])):  # now, not while somebody waits
                policy.graph(number)
            policy.milliseconds()
            guard = self._guard(policy)
        except InputError:
            raise
        except DAMAGE as error:  # entries of another kind than are written there
            raise InputError(f"{folder / DOCUMENT}: altered: {type(error).__name__} {error}") from error
        version = document_hash(policy.document)[:12]
        return Served(name, folder, policy, guard, stamp or (0, 0), time.time(), version)


def _files(folder: Path) -> Any:
    """What tells that a file of the folder was changed: whoever copies into it may still be at work."""
    try:
        each = [(entry.name, entry.stat()) for entry in os.scandir(folder)]
    except OSError:
        return None
    return sorted((name, status.st_mtime_ns, status.st_ino, status.st_size) for name, status in each)


def _stamp(folder: Path) -> Any:
    try:
        status = os.stat(folder / DOCUMENT)
    except OSError:  # in the middle of being replaced
        return None
    return status.st_mtime_ns, status.st_ino
