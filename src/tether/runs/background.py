"""A logger in a thread of its own: whatever it does or waits for, the run neither waits nor fails."""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tether.machine.files import atomic_write_json
from tether.machine.reading import parse_json, read_bytes
from tether.runs.callbacks import Callback, Row, RunInfo

__all__ = ["Background", "LoggerFactory", "recall", "remember", "remembered_names"]

LoggerFactory = Callable[[Path, dict[str, Any]], Callback]
"""Called with the run folder and what config.json holds."""

WAITING_EVENTS = 1000  # so many events may wait for a slow logger; later ones are dropped
END_SECONDS = 60.0  # a logger that is busy with one event for longer is not waited for at the end of a run
MEMORIES = "loggers"  # folder of a run


class Background(Callback):
    """Runs the logger that `factory` makes.

    The first thing that goes wrong is reported by `warn`, and the logger hears nothing after it. `loggers/NAME.json` in
    the run folder says what the logger has been told, so that it hears no row twice after a resumption, and those that
    it has missed.
    """

    def __init__(self, name: str, factory: LoggerFactory, warn: Callable[[str], None]):
        self.name = name
        self._factory, self._warn = factory, warn
        self._events: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(WAITING_EVENTS)
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        self._given_up = False
        self._busy_since: float | None = None  # with the event that it works on
        self._run: RunInfo | None = None  # in the thread alone from here on
        self._logger: Callback | None = None

    # --- in the thread that trains ---

    def on_start(self, run: RunInfo) -> None:
        """Begin; the rows of before follow, as far as the logger has not heard them."""
        self._put("on_start", run)
        self._put("on_metrics", run.metrics)
        self._put("on_evaluation", run.evaluations)
        self._thread.start()

    def on_metrics(self, rows: list[Row]) -> None:
        """Pass them on."""
        self._put("on_metrics", rows)

    def on_evaluation(self, rows: list[Row]) -> None:
        """Pass them on."""
        self._put("on_evaluation", rows)

    def on_checkpoint(self, path: Path, phase: str, update: int) -> None:
        """Pass it on."""
        self._put("on_checkpoint", path, phase, update)

    def on_end(self, status: str, result: dict[str, Any] | None) -> None:
        """Pass it on, and wait for the logger to finish as long as it gets anywhere."""
        self._put("on_end", status, result)
        while self._thread.is_alive() and not self._given_up:
            busy_since = self._busy_since
            if busy_since is not None and time.monotonic() - busy_since > END_SECONDS:
                waiting = self._events.qsize()
                self._give_up(f"it does not come back, {waiting} events were not told")
            self._thread.join(0.05)

    def _put(self, event: str, *content: Any) -> None:
        if self._given_up:
            return
        try:
            self._events.put_nowait((event, content))
        except queue.Full:
            self._give_up(f"it is too slow, or hangs: {WAITING_EVENTS} events are waiting for it")

    def _give_up(self, why: str) -> None:
        """Report what went wrong, once."""
        if not self._given_up:
            self._given_up = True
            self._warn(f"logger {self.name}: {why}; the run goes on without it")

    # --- in the logger's own thread ---

    def _work(self) -> None:
        event = ""
        try:
            while event != "on_end" and not self._given_up:
                event, content = self._events.get()
                self._busy_since = time.monotonic()
                self._tell(event, content)
                self._busy_since = None
        except BaseException as error:  # whatever somebody's logger does, even exiting
            reason = " ".join(str(error).split())
            self._give_up(f"{event} failed: {type(error).__name__} {reason}")

    def _tell(self, event: str, content: tuple[Any, ...]) -> None:
        if event == "on_start":
            self._begin(*content)
        elif event in ("on_metrics", "on_evaluation"):
            self._tell_rows(event, *content)
        else:
            getattr(self._logger, event)(*content)

    def _begin(self, run: RunInfo) -> None:
        self._run = run
        remember(run.folder, self.name)  # even if it fails now: the resumed run tries again
        self._logger = self._factory(run.folder, run.config)
        if not isinstance(self._logger, Callback):
            raise TypeError(f"it made {self._logger!r}, which is no tether.Callback")
        self._logger.on_start(run)

    def _tell_rows(self, event: str, rows: list[Row]) -> None:
        """The rows of one update after the other, without those that the logger has heard."""
        assert self._run is not None
        assert self._logger is not None
        folder, (last_phase, _) = self._run.folder, self._run.phases[-1]
        heard, steps = recall(folder, self.name).get(event, -1), dict[int, list[Row]]()
        for row in rows:
            steps.setdefault(self._run.step(row.get("phase", last_phase), row["update"]), []).append(row)
        for step in sorted(step for step in steps if step > heard):
            getattr(self._logger, event)(steps[step])
            remember(folder, self.name, **{event: step})


def recall(folder: Path, name: str) -> dict[str, Any]:
    """What `remember` has kept of the logger `name` of the run in `folder`."""
    path = _memory(folder, name)
    return parse_json(read_bytes(path)) if path.exists() else {}


def remember(folder: Path, name: str, **values: Any) -> None:
    """Keep `values` in the run folder, beside what was kept before. Raises: OSError."""
    path = _memory(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, recall(folder, name) | values)


def _memory(folder: Path, name: str) -> Path:
    return folder / MEMORIES / f"{name}.json"


def remembered_names(folder: Path) -> list[str]:
    """The loggers of the run in `folder`."""
    paths = (folder / MEMORIES).rglob("*.json")
    return sorted(str(path.relative_to(folder / MEMORIES)).removesuffix(".json") for path in paths)
