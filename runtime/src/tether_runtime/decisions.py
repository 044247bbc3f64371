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

MOST_OPEN = 10_000  # episodes whose last row waits; of more, the oldest is written without its reward


class DecisionLog:
    """Appends rows to a file; a row is whole or not there, whoever else appends."""

    def __init__(self, path: Path):
        """Raises OSError where the file cannot be written."""
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._open: collections.OrderedDict[str, dict[str, Any]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def decided(self, episode: str, row: dict[str, Any], reward: float | None = None) -> None:
        """A decision of an episode. reward: what its last action earned."""
        with self._lock:
            step = self._finish(episode, reward, False)
            self._open[episode] = {"episode": episode, "step": step, **row}
            while len(self._open) > MOST_OPEN:
                self._write({**self._open.popitem(last=False)[1], "reward": None, "terminal": False, "truncated": True})

    def ended(self, episode: str, reward: float | None, terminal: bool) -> bool:
        """The episode's last action earned `reward`. terminal: the task ended, rather than its recording -> whether
        there was such an episode."""
        with self._lock:
            known = episode in self._open
            self._finish(episode, reward, terminal, truncated=not terminal)
            return known

    def close(self) -> None:
        """Write what waits, without rewards."""
        with self._lock:
            try:
                for episode in list(self._open):
                    self._finish(episode, None, False, truncated=True)
            finally:
                os.close(self._file)

    def _finish(self, episode: str, reward: float | None, terminal: bool, truncated: bool = False) -> int:
        """Write the episode's waiting row -> the number of the next one."""
        row = self._open.pop(episode, None)
        if row is None:
            return 0
        self._write({**row, "reward": reward, "terminal": terminal, "truncated": truncated})
        return row["step"] + 1

    def _write(self, row: dict[str, Any]) -> None:
        os.write(self._file, (json.dumps(row, allow_nan=False) + "\n").encode())
