"""Where the data of a run lie now, if they are no longer where they were."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tether.data import bundled_names, load_dataset
from tether.data.source import Source
from tether.errors import InputError
from tether.machine.files import sha256_file

__all__ = ["find_source", "findable", "relative_source"]

ANCESTORS = 4  # of a run's folder, in which data are looked for


def findable(source: str | Source) -> str:
    """A path as an absolute one, so that a run can be resumed from another folder; a bundled name as it is."""
    if isinstance(source, Source):
        return findable(source.location) if source.path is None else str(source.path)
    path = Path(source)
    return str(path.resolve()) if source not in bundled_names() and _is_there(path) else source


def relative_source(source: str | Source, folder: Path) -> str | None:
    """The way from a run's folder to its data, which stays true where both move together; None: they are no path."""
    _, path = _path_of(findable(source))
    with contextlib.suppress(ValueError):  # another drive of Windows
        return None if path is None else os.path.relpath(path, folder.resolve())
    return None


def find_source(source: str, relative: str | None, sha256: str, folder: Path) -> str:
    """`source`, or where its path is gone the first place that holds data with the same SHA-256; `source` as it is
    where there is none.

    source, relative: as config.json of the run in `folder` has them.
    """
    prefix, path = _path_of(source)
    if path is None or _is_there(path):
        return source
    for place in _places(path.name, relative, folder):
        if _is_there(place) and _sha256(prefix, place) == sha256:
            return f"{prefix}{place}"
    return source


def _path_of(source: str) -> tuple[str, Path | None]:
    """("PREFIX:" or nothing, the absolute path in a source); None where there is none."""
    if Path(source).is_absolute():
        return "", Path(source)
    prefix, colon, rest = source.partition(":")
    return (prefix + colon, Path(rest)) if colon and Path(rest).is_absolute() else ("", None)


def _places(name: str, relative: str | None, folder: Path) -> Iterator[Path]:
    folder = folder.resolve()
    if relative is not None:
        yield Path(os.path.normpath(folder / relative))
    parents = list(folder.parents)[:ANCESTORS]
    yield from (place / name for place in (*parents[:1], folder, *parents[1:], Path.cwd()))


def _is_there(path: Path) -> bool:
    """Whether anything is at `path`, as far as this user may look."""
    try:
        return path.exists()
    except OSError:  # Python 3.11 raises where a folder may not be entered
        return False


def _sha256(prefix: str, place: Path) -> str | None:
    """None where that place cannot be read as data."""
    with contextlib.suppress(InputError, OSError):
        return (
            load_dataset(f"{prefix}{place}", continuous=True).source.sha256
            if prefix or place.is_dir()
            else sha256_file(place)
        )
    return None
