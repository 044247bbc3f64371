"""Checkpoints that survive a kill, a full disk and a flipped bit.

    checkpoints/
      train-00012000/           one folder per checkpoint, complete from the moment it has this name
        state.safetensors       every array of the state
        manifest.json           format, the caller's notes, size and SHA-256 of the state, and of itself
      train-00012000.old/       only between two renames, while a checkpoint of the same name is replaced
      .tmp-train-00014000-4711/ being written (or left by a crash); never read, removed by the next save

A checkpoint is written under a temporary name, flushed to the disk and renamed; older ones are removed only
after that. One process at a time writes to a folder of checkpoints.
"""

import contextlib
import hashlib
import inspect
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import PyTree

from tether.errors import InputError
from tether.machine.files import (
    TEMPORARY_PREFIX,
    decode_arrays,
    describe_arrays,
    encode_arrays,
    fsync_directory,
    sha256_file,
    to_json,
    write_synced,
)
from tether.machine.reading import parse_json, read_bytes

__all__ = [
    "STATE",
    "CheckpointError",
    "DamagedCheckpoint",
    "Found",
    "find_latest",
    "load_checkpoint",
    "load_latest",
    "save_checkpoint",
]

FORMAT_VERSION = 1
STATE = "state.safetensors"
MANIFEST = "manifest.json"
REPLACED = ".old"
BLANK = "0" * 64  # stands in for the manifest's own checksum while that is computed


class Found(NamedTuple):
    """A checkpoint whose bytes are those of its manifest."""

    path: Path
    notes: dict[str, Any]  # the caller's
    sha256: str  # of its state


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or is not fit to be read; the message names path and reason."""


class DamagedCheckpoint(CheckpointError, InputError):
    """A checkpoint is not fit to be read."""


def save_checkpoint(directory: Path, name: str, tree: PyTree, manifest: dict[str, Any], *, keep: int = 2) -> Path:
    """Write `directory/name` such that no crash loses the previous checkpoint, then keep the newest `keep`.

    name:     a folder name such as `train-00012000`; an existing checkpoint of this name is replaced.
    tree:     a pytree of arrays (see `tether.machine.files.encode_arrays`).
    manifest: the caller's notes, JSON (see `tether.machine.files.to_json`). `manifest["global_update"]` tells which
              checkpoint is newer; without it the number that ends `name` does.
    Returns the checkpoint's path.
    Raises: CheckpointError where writing fails (a full disk, say), with earlier checkpoints untouched and the
    temporary folder removed; TypeError or ValueError, before the disk is touched, for a tree, name or
    manifest that cannot be saved.
    """
    order = _order(name, manifest)
    state = encode_arrays(tree)
    text = _seal(
        {
            "format_version": FORMAT_VERSION,
            "order": order,
            "run": manifest,
            "files": {STATE: {"size": len(state), "sha256": hashlib.sha256(state).hexdigest()}},
            "tensors": describe_arrays(tree),
        }
    )
    target = directory / name
    temporary = directory / f"{TEMPORARY_PREFIX}{name}-{os.getpid()}"
    try:
        _create(directory)
        _remove_stale(directory)  # first, as they may be what fills the disk
        temporary.mkdir()
        write_synced(temporary / STATE, state)
        write_synced(temporary / MANIFEST, text.encode())
        fsync_directory(temporary)
        _put_in_place(temporary, target)
        fsync_directory(directory)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"{target}: checkpoint not written: {reason}; earlier ones are untouched") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already if all went well
    _prune(directory, target, keep)
    return target


def load_checkpoint(path: Path, like: Any) -> tuple[PyTree, dict[str, Any]]:
    """Read one checkpoint, every byte of it verified.

    like: structure, shapes and dtypes of the state (`tether.machine.files.decode_arrays`), or a function that gives
          them for the caller's notes, where they depend on what was saved.
    Returns the state and the caller's notes that were given to `save_checkpoint`.
    Raises: DamagedCheckpoint naming the file and what is wrong with it.
    """
    document = _read_manifest(path / MANIFEST)
    state = path / STATE
    data = _read(state)
    try:
        expected = document["files"][STATE]
        size, sha256, run = expected["size"], expected["sha256"], document["run"]
    except (KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path / MANIFEST}: entry {error} is missing or malformed") from error
    if len(data) != size:
        kind = "truncated" if len(data) < size else "too long"
        raise DamagedCheckpoint(f"{state}: {kind}: {len(data)} bytes, the manifest says {size}")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedCheckpoint(f"{state}: altered: its SHA-256 is not the manifest's")
    try:
        return decode_arrays(data, like(run) if inspect.isfunction(like) else like, str(state)), run
    except InputError as error:
        raise DamagedCheckpoint(str(error)) from error


def find_latest(directory: Path) -> Found | None:
    """The newest valid checkpoint, without reading its arrays; None where there is none at all. Raises:
    DamagedCheckpoint with all reasons where none is valid."""
    reasons = []
    for path in _newest_first(directory):
        try:
            document = _read_manifest(path / MANIFEST)
            notes, sha256 = document["run"], document["files"][STATE]["sha256"]
            if sha256_file(path / STATE) == sha256:
                return Found(path, notes, sha256)
            reasons.append(f"{path / STATE}: altered: its SHA-256 is not the manifest's")
        except (CheckpointError, OSError, KeyError, TypeError) as error:
            reasons.append(str(error))
    if reasons:
        raise DamagedCheckpoint("; ".join([f"no valid checkpoint in {directory}", *reasons]))
    return None


def load_latest(directory: Path, like: Any, on_refused: Callable[[str], None]) -> tuple[PyTree, dict[str, Any], Path]:
    """Read the newest valid checkpoint; newer ones that are not go to `on_refused`, each with its reason.

    Returns state, notes and path. Raises: DamagedCheckpoint with all reasons where no checkpoint is valid.
    """
    reasons = []
    for path in _newest_first(directory):
        try:
            return *load_checkpoint(path, like), path
        except CheckpointError as error:
            reasons.append(str(error))
            on_refused(f"checkpoint {path.name} refused: {error}")
    raise DamagedCheckpoint("; ".join([f"no valid checkpoint in {directory}", *reasons]))


# --- the manifest -------------------------------------------------------------------------------------------


def _order(name: str, manifest: dict[str, Any]) -> int:
    """The number that says which checkpoint is newer."""
    if not re.fullmatch(r"\w[\w.+=-]*", name) or name.endswith(REPLACED):
        raise ValueError(f"{name!r} cannot name a checkpoint")
    if "global_update" in manifest:
        return int(manifest["global_update"])
    digits = re.search(r"\d+$", name)
    if digits is None:
        raise ValueError(f"checkpoint {name!r} needs manifest['global_update'] or a number at its name's end")
    return int(digits.group())


def _seal(document: dict[str, Any]) -> str:
    """`document` as JSON text that holds its own SHA-256, taken with zeros in the place of the digits."""
    text = to_json({"manifest_sha256": BLANK, **document})
    return text.replace(BLANK, hashlib.sha256(text.encode()).hexdigest(), 1)


def _read_manifest(path: Path) -> dict[str, Any]:
    data = _read(path)
    try:
        document = parse_json(data)
        version, seal = document["format_version"], document["manifest_sha256"].encode()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedCheckpoint(f"{path}: truncated or altered: not a manifest ({error})") from error
    if version != FORMAT_VERSION:
        raise DamagedCheckpoint(f"{path}: format version {version!r}, this tether reads {FORMAT_VERSION}")
    if hashlib.sha256(data.replace(seal, BLANK.encode(), 1)).hexdigest().encode() != seal:
        raise DamagedCheckpoint(f"{path}: altered: its SHA-256 is not the one it holds")
    return document


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except InputError as error:
        raise DamagedCheckpoint(str(error)) from error
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{path}: missing") from error
    except OSError as error:
        raise DamagedCheckpoint(f"{path}: cannot be read: {error.strerror or error}") from error


# --- the folder of checkpoints ------------------------------------------------------------------------------


def _create(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        fsync_directory(directory.parent)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename `temporary` to `target`; at every moment the old target, its `.old` or the new target exists."""
    if not target.is_dir():
        os.rename(temporary, target)
        return
    replaced = target.with_name(target.name + REPLACED)
    _discard(replaced)  # left by a crash after `target` was complete
    os.rename(target, replaced)
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(replaced, target)
        raise


def _prune(directory: Path, written: Path, keep: int) -> None:
    """Remove all but `written` and the newest `keep - 1` others; incomplete ones count as oldest."""
    replaced = written.with_name(written.name + REPLACED)
    _discard(replaced)  # if that fails it must not take the place of another
    others = [path for path in _newest_first(directory) if path not in (written, replaced)]
    others.sort(key=lambda path: not _is_complete(path))  # stable: stays newest first within each kind
    for path in others[max(keep - 1, 0) :]:
        _discard(path)


def _newest_first(directory: Path) -> list[Path]:
    """All checkpoints by falling order, unreadable manifests first, so that `load_latest` reports them."""
    if not directory.is_dir():
        return []
    visible = [path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")]
    found = [path for path in visible if (path / STATE).exists() or (path / MANIFEST).exists()]
    # At equal order the shorter name: the longer is the `.old` of a replacement that a crash cut short.
    return sorted(found, key=lambda path: (-_stored_order(path), path.name))


def _stored_order(path: Path) -> float:
    try:
        return float(_read_manifest(path / MANIFEST)["order"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        return float("inf")


def _is_complete(path: Path) -> bool:
    """A cheap check, without reading the state."""
    try:
        return (path / STATE).stat().st_size == _read_manifest(path / MANIFEST)["files"][STATE]["size"]
    except (CheckpointError, OSError, KeyError, TypeError):
        return False


def _discard(path: Path) -> None:
    """Remove a checkpoint if there is one, hidden first: a kill halfway must not leave a broken one visible.

    A failure costs disk space only and the next save tries again, so it does not stop a run.
    """
    hidden = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-removed")
    with contextlib.suppress(OSError):
        os.rename(path, hidden)
        shutil.rmtree(hidden)


def _remove_stale(directory: Path) -> None:
    for path in directory.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
