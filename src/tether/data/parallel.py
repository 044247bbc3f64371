"""Work on the rows of large arrays on several cores: NumPy's loops and file reads let other threads run meanwhile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_parts"]

T = TypeVar("T")
THREADS = 4


def in_parts(count: int, at_once: int, job: Callable[[slice], T]) -> list[T]:
    """What `job` gives for slices of at most `at_once` of the numbers below `count`, in order."""
    parts = [slice(start, min(count, start + at_once)) for start in range(0, count, at_once)]
    if len(parts) < 2:
        return [job(part) for part in parts]
    with ThreadPoolExecutor(min(len(parts), THREADS)) as pool:
        return list(pool.map(job, parts))
