"""One process at a time writes to a folder or makes a file; whoever comes second is told who does. Readers never wait.

The system lets go of a lock when its process ends, however it ends (`filelock`). Beside the lock lies a small file that
says who holds it, for people alone.
"""

import contextlib
import errno
import functools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock

from tether.errors import InputError
from tether.machine.files import LOCK, atomic_path
from tether.machine.reading import parse_json, read_bytes

__all__ = ["Busy", "new_file", "only_writer", "wait_for_lock"]

WAIT_SECONDS = 0.2  # between two looks at a lock that is waited for
NETWORK = {"9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb2"}
NETWORK |= {"smb3", "smbfs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "ocfs2"}
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

_held: dict[Path, tuple[int, int]] = {}  # lock file -> process and thread that hold it
_own = threading.Lock()


class Busy(RuntimeError):
    """Another process writes there; the message says which. The same call succeeds when that one is done."""


@contextlib.contextmanager
def only_writer(folder: Path, *, wait: Callable[[str], Any] | None = None) -> Iterator[None]:
    """Be the only process that writes to `folder`, which is made where it is not there.

    wait: told once whom this waits for; None: nobody is waited for. Inside, the same thread may enter again.
    Raises: Busy at once where another process, or thread, writes there; OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / LOCK, folder, wait):
        yield


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """As `atomic_path`, for a file that must not exist yet and that one process at a time makes.

    Raises: InputError where it exists; Busy; OSError.
    """
    lock = path.with_name(f".{path.name}{LOCK}")
    with _locked(lock, path, None, keep=False):
        if path.exists():
            raise InputError(f"{path}: exists already")
        with atomic_path(path) as temporary:
            yield temporary


@contextlib.contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` as soon as nobody else does, for work of seconds that others then find done. Where the
    file system knows no locks, nothing is held."""
    lock = filelock.FileLock(path)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):
            stack.enter_context(lock)
        yield


@contextlib.contextmanager
def _locked(path: Path, what: Path, wait: Callable[[str], Any] | None, keep: bool = True) -> Iterator[None]:
    """Hold the lock file `path`. what: the folder or file that it stands for, as people call it. keep: whether the lock
    file stays."""
    path = path.parent.resolve() / path.name
    me = os.getpid(), threading.get_ident()
    with _own:
        entered = _held.get(path) == me
    if entered:
        yield
        return
    holder = path.with_name(f"{path.name}.json")
    if (kind := _network_kind(path)) is not None:
        _say_once(
            path.parent, f"{what}: on a network file system ({kind}): do not write there from two machines at once"
        )
    lock = filelock.FileLock(path)
    _acquire(lock, what, holder, wait)
    try:
        with _own:
            _held[path] = me
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError):  # a full disk: whoever comes second is told less
            holder.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        for left in (holder, *([] if keep else [path])):
            with contextlib.suppress(OSError):  # Windows removes no file that is open: an empty one stays
                left.unlink()
        with _own:
            _held.pop(path, None)
        lock.release()


def _acquire(lock: filelock.BaseFileLock, what: Path, holder: Path, wait: Callable[[str], Any] | None) -> None:
    """Take the lock; where the file system knows none, say so and go on."""
    told = False
    while True:
        try:
            lock.acquire(blocking=False)
            return
        except filelock.Timeout:
            if wait is None:
                raise Busy(f"{what}: {_holder(holder)} writes there; wait for it, or end it") from None
            if not told:
                told = True
                wait(f"{what}: {_holder(holder)} writes there; waiting for it")
            time.sleep(WAIT_SECONDS)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            _say_once(what, f"{what}: the file system knows no locks: see to it that nobody else writes there")
            return


def _holder(path: Path) -> str:
    """Who holds a lock, as far as it has said so."""
    try:
        found = parse_json(read_bytes(path))
        return f"process {found['process']} on {found['host']} (since {found['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@functools.cache
def _say_once(folder: Path, text: str) -> None:
    sys.stderr.write(f"tether: {text}\n")


def _network_kind(path: Path) -> str | None:
    """What kind of network file system a path lies on; None where it lies on none, or the system does not tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found: tuple[int, str] = 0, ""
    for mount in mounts:
        _, place, kind, *_ = mount.split()
        place = place.replace("\\040", " ")
        if path.is_relative_to(place) and len(place) >= found[0]:  # of several on one place the last is seen
            found = len(place), kind
    return found[1] if found[1] in NETWORK else None
