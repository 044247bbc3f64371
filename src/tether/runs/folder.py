"""The folder of a run: made once, and written to by one run at a time, of whose processes the first one writes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tether.errors import InputError
from tether.machine.files import LOCK, atomic_write_json, lasting
from tether.machine.locks import Busy, only_writer
from tether.machine.reading import read_json
from tether.runs.config import versions
from tether.training.devices import any_process, is_primary

__all__ = ["changed_versions", "check_free", "make_fresh", "new_folder", "open_folder"]


@contextlib.contextmanager
def new_folder(folder: Path, config: dict[str, Any], *, fresh: bool = False) -> Iterator[Path]:
    """Make the run folder with config.json in it, or nothing, and be the one that writes to it -> the folder.

    fresh: nobody has named it, so that it gets another number where it is taken (`make_fresh`).
    A folder that a kill left before there was anything in it is taken for none.
    Raises: InputError where it exists or cannot be made; Busy; OSError.
    """
    if fresh:
        folder = make_fresh(folder)
    check_free(folder)  # nobody makes it before everybody has looked
    with _alone(folder):
        check_free(folder)  # of a run that ended just now
        if is_primary():
            try:
                atomic_write_json(folder / "config.json", config)
            except OSError:
                with contextlib.suppress(OSError):
                    for path in folder.glob(f"{LOCK}*"):
                        path.unlink()
                    folder.rmdir()
                raise
        yield folder


def make_fresh(folder: Path) -> Path:
    """Make `folder`, or with the next free number behind it where that is there -> what was made.

    Of several processes that begin in one second each makes its own. Raises: InputError where it cannot be made.
    """
    _make(folder.parent)
    made, count = folder, 1
    while True:
        try:
            made.mkdir()
            return made
        except FileExistsError:
            count += 1
            made = folder.with_name(f"{folder.name}-{count}")
        except OSError as error:
            raise InputError(f"{made}: cannot be created: {error.strerror or error}") from None


def check_free(folder: Path) -> None:
    """Refuse the folder of a run, or of anything else, for a new one."""
    if any_process(_is_taken(folder)):
        raise InputError(f"{folder}: exists already; name another with --out, or continue it: tether resume")


@contextlib.contextmanager
def open_folder(folder: Path) -> Iterator[None]:
    """Be the one that writes to a run folder. Raises: InputError where it is none; Busy; OSError."""
    if any_process(not (folder / "config.json").exists()):
        if folder.is_dir() and not lasting(folder):
            raise InputError(f"{folder}: empty: killed before its first file; begin it again with the same command")
        raise InputError(f"{folder}: not a run folder: config.json: No such file or directory")
    with _alone(folder):
        yield


def _is_taken(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or bool(lasting(folder)))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of several processes the first one holds the lock, and all hear where it cannot."""
    with contextlib.ExitStack() as stack:
        refused: Exception | None = None
        try:
            if is_primary():
                _make(folder)
                stack.enter_context(only_writer(folder))
        except (Busy, InputError, OSError) as error:
            refused = error
        if any_process(refused is not None):
            raise refused or Busy(f"{folder}: the first of these processes cannot write there")
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be created: {error.strerror or error}") from None


def changed_versions(folder: Path) -> str:
    """What decides numbers and is another version than when the run in `folder` began, in words; empty: nothing."""
    before = read_json(folder / "config.json").get("versions", {})
    changed = {name: now for name, now in versions().items() if before.get(name, now) != now}
    words = ", ".join(f"{name} {before[name]} is now {now}" for name, now in changed.items())
    return f"{words}: numbers may differ in their last bits from those of a run that was not stopped" if words else ""
