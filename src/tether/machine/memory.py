"""How much memory lanes take and how much there is: asked of the compiler and of the device."""

import contextlib
import ctypes
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["Memory", "device_limit", "free_memory", "human_bytes", "measure", "release_freed_memory", "tree_bytes"]

USABLE = 0.9  # of what is there: allocators do not fill the last gaps


class Memory(NamedTuple):
    """What one program takes, in bytes, on the device that has most of it."""

    per_lane: int  # for each lane that the program trains on the device
    shared: int  # whatever the number of lanes: the data, and work space that lanes use in turn
    lanes: int  # of the program on the device
    usable: int | None  # bytes that it may take; None where nobody knows

    @property
    def needed(self) -> int:
        """Bytes of all lanes and what they share."""
        return self.shared + self.lanes * self.per_lane

    @property
    def fits(self) -> bool:
        """Whether there is enough."""
        return self.usable is None or self.needed <= self.usable

    def most_lanes(self) -> int:
        """How many lanes would fit on a device, at least 1."""
        if self.usable is None:
            return self.lanes
        return max(1, int((self.usable - self.shared) // max(self.per_lane, 1)))

    def __str__(self) -> str:
        room = "" if self.usable is None else f" of {human_bytes(self.usable)}"
        parts = f"{human_bytes(self.per_lane)} a lane, {human_bytes(self.shared)} shared"
        return f"{parts}: {human_bytes(self.needed)}{room}"


def measure(compiled: Any, *, data_bytes: int, lanes: int, sequential: bool, local_devices: int) -> Memory | None:
    """The memory of a compiled program of `lanes` lanes on a device; None where the compiler does not tell.

    data_bytes: of the data set, one of the arguments. sequential: lanes use the work space in turn.
    local_devices: of this process; on a CPU they share the machine's memory.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    arguments, work = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    own = max(arguments - data_bytes, 0) + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    shared = data_bytes + (work if sequential else 0)
    per_lane = -(-(own + (0 if sequential else work)) // lanes)
    limit = device_limit()
    if limit is None and (free := free_memory()) is not None:
        limit = arguments + free // local_devices  # the arguments are in memory already
    return Memory(per_lane, shared, lanes, None if limit is None else int(USABLE * limit))


def device_limit() -> int | None:
    """The bytes that the accelerator lends to this process; None on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else stats.get("bytes_limit")


def free_memory() -> int | None:
    """Bytes of main memory that this process may still take: the machine's, or its container's; None if unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # "max", where the container has no limit, is no number
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        reclaimable = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
        cache = sum(int(value) for name, value in reclaimable if name == "inactive_file")
        found.append(max(limit - used + cache, 0))
    return min(found, default=None)


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays (or shapes) of a tree."""
    sizes = [np.prod(leaf.shape, dtype=np.int64) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)]
    return int(sum(sizes))


def human_bytes(count: int | float) -> str:
    """12_300_000 -> 12.3 MB."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def release_freed_memory() -> None:
    """Give what the allocator keeps back to the system: after compiling BDPO's program it was 0.8 of 1.7 GB, kept by
    the heaps of the compiler's threads. Does nothing where the C library is not glibc."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
