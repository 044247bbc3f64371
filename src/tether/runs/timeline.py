"""What the processes of a run did when: `timeline.jsonl`."""

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tether.errors import InputError
from tether.machine.reading import parse_json, read_bytes
from tether.runs.jsonlines import JsonLines

__all__ = ["TRAINING", "Bar", "Timeline", "draw_timeline", "timeline_log"]

TRAINING = "training"  # the process that trains
GAP_SECONDS = 0.05  # bars of one kind that are nearer than this are one


class Bar(NamedTuple):
    """`process` did `what` from `start` to `end`, seconds since the run began; `update`: of the evaluation."""

    process: str
    what: str
    start: float
    end: float
    update: int | None = None


class Timeline:
    """The bars of a run, noted by any thread and written now and then."""

    def __init__(self, rows: JsonLines):
        self.rows = rows
        self.began = time.perf_counter()  # a run that goes on moves it back by the time already spent
        self._bars: list[Bar] = []
        self._lock = threading.Lock()

    def add(self, process: str, what: str, start: float, end: float, update: int | None = None) -> None:
        """Note a bar; `start` and `end` by `time.perf_counter`."""
        with self._lock:
            self._bars.append(Bar(process, what, start - self.began, end - self.began, update))

    def write(self) -> None:
        """Append what was noted to the file. Raises: OSError."""
        with self._lock:
            bars, self._bars = _joined(self._bars), []
        if bars:
            self.rows.append([bar._asdict() | {"start": round(bar.start, 3), "end": round(bar.end, 3)} for bar in bars])


def _joined(bars: Sequence[Bar]) -> list[Bar]:
    """Neighbours of one process and kind as one bar, by process and time."""
    joined: list[Bar] = []
    for bar in sorted(bars, key=lambda bar: (bar.process, bar.start)):
        last = joined[-1] if joined else None
        same = last is not None and last[:2] == bar[:2] and last.update == bar.update
        if last is not None and same and bar.start - last.end < GAP_SECONDS:
            joined[-1] = last._replace(end=max(bar.end, last.end))
        else:
            joined.append(bar)
    return joined


def timeline_log(folder: Path, *, write: bool = False) -> JsonLines:
    """timeline.jsonl of a run folder. write: as of `JsonLines`."""
    return JsonLines(folder / "timeline.jsonl", _fault_of, write=write)


def _fault_of(row: dict[str, Any]) -> str | None:
    kinds = {"process": str, "what": str, "start": float | int, "end": float | int, "update": int | None}
    wrong = [name for name, kind in kinds.items() if not isinstance(row.get(name), kind)]
    if wrong or len(row) > len(kinds):
        return f"no {', '.join(wrong)}" if wrong else "more than a bar"
    finite = math.isfinite(row["start"]) and math.isfinite(row["end"])
    return None if finite else "a time that is no number"


def draw_timeline(folder: Path, path: Path) -> None:
    """Draw the timeline of the run in `folder` to the file `path` (.pdf, .png or .svg), written atomically.

    Raises: InputError where the folder holds none, or for another ending; OSError where the picture cannot be written.
    """
    from tether.plots.timeline import plot_timeline  # and matplotlib, which a run does not wait for

    source = folder / "timeline.jsonl"
    bars = [Bar(**row) for row in timeline_log(folder).read()]
    if not bars:
        raise InputError(f"{folder}: holds no timeline: there is no {source.name}, or nothing in it")
    plot_timeline(path, _title(folder), [bar[:4] for bar in bars])


def _title(folder: Path) -> str:
    """The run's name, and how long training stood still for evaluations where its result says so."""
    name = folder.resolve().name
    try:
        result: dict[str, Any] = parse_json(read_bytes(folder / "result.json"))
        waited, wall = result["evaluation_wait_seconds"], result["wall_seconds"]
        return f"{name}: training stood still for evaluations {waited:.0f} of {wall:.0f} s ({waited / wall:.0%})"
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):  # not finished
        return name
