"""Ctrl-C, SIGTERM and SIGHUP (a lost terminal) as a request that work answers when it can."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Interrupted", "StopSignals", "Terminated", "end_orderly", "ignore_signals"]

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """A signal ended what was being done, in order: what was open is closed, processes that were begun are ended."""

    def __init__(self, signal_number: int, message: str = ""):
        super().__init__(message or f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Interrupted(Terminated):
    """Training was asked to stop and did, after writing a checkpoint."""

    def __init__(self, signal_number: int, folder: Path, remedy: str = ""):
        """remedy: what goes on from here, in words; by default the command for a run."""
        remedy = remedy or f"`tether resume {folder}`"
        super().__init__(signal_number, f"stopped by {signal.Signals(signal_number).name}; continue with {remedy}")
        self.folder = folder


class StopSignals:
    """Inside `with`, SIGINT, SIGTERM and SIGHUP are noted in `number` instead of ending the process. A second Ctrl-C
    raises KeyboardInterrupt; the others may come twice, from whoever began this process and from whoever began that.

    Python handles signals in the main thread only; in another one nothing is noted and nothing changed. A SIGHUP that
    is ignored (nohup) stays ignored. The previous handlers come back at the end.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        self._previous = _handle((signal.SIGINT, *ENDING), self._note)
        return self

    def __exit__(self, *_: object) -> None:
        _put_back(self._previous)
        self._previous = {}

    def _note(self, number: int, frame: Any) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number


@contextlib.contextmanager
def end_orderly() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `Terminated`, as Ctrl-C raises KeyboardInterrupt, so that temporary files and
    processes go. `StopSignals` within it answers them in its way."""

    def end(number: int, frame: Any) -> NoReturn:
        for other in ENDING:  # once is enough: what is done now is to be done in peace
            signal.signal(other, signal.SIG_IGN)
        raise Terminated(number)

    previous = _handle(ENDING, end)
    try:
        yield
    finally:
        _put_back(previous)


def ignore_signals() -> None:
    """In a process that ends with the one that began it: what a terminal sends to everybody is for that one."""
    for number in (signal.SIGINT, *ENDING):
        signal.signal(number, signal.SIG_IGN)


def _handle(numbers: tuple[int, ...], handler: Any) -> dict[int, Any]:
    """Set a handler where one can be set -> the previous ones."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    wanted = [n for n in numbers if n not in ENDING or n == signal.SIGTERM or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in wanted}


def _put_back(previous: dict[int, Any]) -> None:
    for number, handler in previous.items():
        # None: a handler that was not installed from Python, which cannot be put back
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
