"""Ctrl-C and SIGTERM as a request that training answers when it can."""

import signal
import threading
from pathlib import Path
from typing import Any

__all__ = ["Interrupted", "StopSignals"]


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and did, after writing a checkpoint."""

    def __init__(self, signal_number: int, folder: Path, remedy: str = ""):
        """remedy: what goes on from here, in words; by default the command for a run."""
        remedy = remedy or f"`tether resume {folder}`"
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; continue with {remedy}")
        self.signal_number = signal_number
        self.folder = folder


class StopSignals:
    """Inside `with`, the first SIGINT or SIGTERM is noted in `number` instead of ending the process; a second one
    raises KeyboardInterrupt. The previous handlers come back at the end.

    Python handles signals in the main thread only; in another one nothing is noted and nothing changed.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # None: a handler that was not installed from Python, which cannot be put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def _note(self, number: int, frame: Any) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
