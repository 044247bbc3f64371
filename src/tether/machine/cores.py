"""How many cores of the machine this process may count on."""

import contextlib
import os
from pathlib import Path

__all__ = ["CORES", "usable_cores"]

CORES = "TETHER_CORES"


def usable_cores() -> int:
    """How many cores this process may count on: TETHER_CORES, or those it may run on and its container grants."""
    with contextlib.suppress(ValueError):
        if chosen := os.environ.get(CORES):
            return max(1, int(chosen))
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # "max", where the container has no limit, is no number
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        cores = min(cores, quota // period)
    return max(1, cores)
