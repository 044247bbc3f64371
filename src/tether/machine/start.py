"""How long a start takes: from the beginning of the process to the first update, and what was compiled for it."""

import functools
import os
import time
from typing import Any, NamedTuple

__all__ = ["Compilations", "compilations", "note_command", "note_next_run", "since_process_start", "since_start"]

REQUESTS, HITS = "/jax/compilation_cache/compile_requests_use_cache", "/jax/compilation_cache/cache_hits"

_began: float | None = None  # in seconds of this process; None: it was not started for a command


def note_command() -> None:
    """This process was started for one command: its own start is the command's; of a second one, this moment."""
    global _began
    _began = 0.0 if _began is None else since_process_start()


def note_next_run() -> None:
    """Restart the clock for the command's next run."""
    global _began
    if _began is not None:
        _began = since_process_start()


def since_start() -> float | None:
    """Seconds since the command, or the last of its runs, began; None where the process was not started for a command,
    as it may have done other things before, or the system does not tell."""
    now = since_process_start()
    return None if _began is None or now is None else now - _began


def since_process_start() -> float | None:
    """Seconds since this process began; None where the system does not tell."""
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])  # field 22; the name in field 2 may hold anything
        began = ticks / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, AttributeError, ValueError, IndexError):
        return None


class Compilations(NamedTuple):
    """Programs that were asked for since the process began, and how many of them came from the cache on disk."""

    requested: int = 0
    from_cache: int = 0

    @property
    def compiled(self) -> int:
        """How many were compiled anew."""
        return self.requested - self.from_cache

    def since(self, earlier: "Compilations") -> "Compilations":
        """Those between two moments."""
        return Compilations(self.requested - earlier.requested, self.from_cache - earlier.from_cache)


_counts = Compilations()


def compilations() -> Compilations:
    """Until now, as far as JAX's cache on disk was asked; counting begins with the first call."""
    _listen()
    return _counts


@functools.cache
def _listen() -> None:
    """Let JAX tell of every program, once."""
    from jax import monitoring

    def count(event: str, **_: Any) -> None:
        global _counts
        _counts = Compilations(_counts.requested + (event == REQUESTS), _counts.from_cache + (event == HITS))

    monitoring.register_event_listener(count)
