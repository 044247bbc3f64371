"""Decisions as JSON lines, which `tether data import` reads back: what was decided becomes data.

A row is a decision: its time, episode and step, the observation, the action, the reward that the action earned, whether
the episode ended with it, the policy, seed and fallback. The reward is known only when the next observation comes, so
the last row of each episode waits for it.
"""

from __future__ import annotations

import collections
import json
import os
import threading
from pathlib import Path
from typing import Any

__all__ = ["DecisionLog"]

MOST_UNWRITTEN = 10_000  # rows that wait for room on the disk; later ones are lost
MOST_OPEN = 10_000  # episodes whose last row waits; of more, the oldest is written without its reward


class DecisionLog:
    """Appends rows to a file, each with one call, whoever else appends. What a full disk does not take is written when
    there is room, before what comes later."""

    def __init__(self, path: Path):
        """Raises OSError where the file cannot be written."""
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._open: collections.OrderedDict[str, dict[str, Any]] = collections.OrderedDict()
        self._unwritten: collections.deque[bytes] = collections.deque()
        self._lock = threading.Lock()

    def decided(self, episode: str, row: dict[str, Any], reward: float | None = None) -> None:
        """A decision of an episode. reward: what its last action earned. Raises OSError where rows wait for room."""
        with self._lock:
            before = self._open.pop(episode, None)
            self._open[episode] = {"episode": episode, "step": 0 if before is None else before["step"] + 1, **row}
            if before is not None:
                self._finish(before, reward, False, is_last=False)
            while len(self._open) > MOST_OPEN:
                self._finish(self._open.popitem(last=False)[1], None, False)
            self._flush()

    def ended(self, episode: str, reward: float | None, terminal: bool) -> bool:
        """The episode's last action earned `reward`. terminal: the task ended, rather than its recording -> whether
        there was such an episode. Raises OSError where rows wait for room: then there was one."""
        with self._lock:
            row = self._open.pop(episode, None)
            if row is None:
                return False
            self._finish(row, reward, terminal)
            self._flush()
            return True

    def close(self) -> None:
        """Write what waits, without rewards. Raises OSError where there is no room."""
        with self._lock:
            while self._open:
                self._finish(self._open.popitem(last=False)[1], None, False)
            try:
                self._flush()
            finally:
                os.close(self._file)

    def _finish(self, row: dict[str, Any], reward: float | None, terminal: bool, *, is_last: bool = True) -> None:
        """A row that waited for its reward now waits to be written."""
        if len(self._unwritten) < MOST_UNWRITTEN:
            whole = {**row, "reward": reward, "terminal": terminal, "truncated": is_last and not terminal}
            self._unwritten.append((json.dumps(whole, allow_nan=False) + "\n").encode())

    def _flush(self) -> None:
        """Write what waits; of a row that the disk took a part of, the rest comes next."""
        while self._unwritten:
            rest = self._unwritten[0][os.write(self._file, self._unwritten[0]) :]
            if rest:
                self._unwritten[0] = rest
            else:
                self._unwritten.popleft()
