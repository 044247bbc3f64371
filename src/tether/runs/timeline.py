"""What the processes of a run did when: `timeline.jsonl`, and a picture of it with a bar for each process."""

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tether.errors import InputError
from tether.machine.files import atomic_write_bytes
from tether.plots.curves import MUTED, TEXT, new_figure, png_bytes, style_frame
from tether.runs.records import JsonLines

__all__ = ["Bar", "Timeline", "plot_timeline"]

TRAINING = "training"  # the process that trains
COLOURS = {  # what is done -> colour and words, in the order of the legend
    "train": ("#0072B2", "trains"),
    "wait": ("#D55E00", "waits for evaluations"),
    "evaluate": ("#E69F00", "plays episodes"),
    "compile": ("#999999", "compiles"),
    "save": ("#000000", "writes a checkpoint"),
    "start": ("#CFCFCF", "starts"),
}
EDGE = 0.4  # points, so that one evaluation can be told from the next
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


def plot_timeline(folder: Path, path: Path) -> None:
    """Draw the timeline of the run in `folder` to the PNG file `path`, written atomically.

    Raises: InputError where the folder holds none; OSError where the picture cannot be written.
    """
    source = folder / "timeline.jsonl"
    try:
        bars = [Bar(**row) for row in JsonLines(source).read()]
    except TypeError as error:
        raise InputError(f"{source}: altered: {error}") from None
    if not bars:
        raise InputError(f"{folder}: holds no timeline: there is no {source.name}, or nothing in it")
    processes = sorted({bar.process for bar in bars}, key=lambda name: (name != TRAINING, name))
    end = max(bar.end for bar in bars)
    figure = new_figure((8.0, 1.5 + 0.38 * len(processes)))
    axes = figure.add_subplot()
    axes.set_title(_title(folder), loc="left", fontsize=11, color=TEXT, pad=22, parse_math=False)
    style_frame(axes, 9.0)
    axes.grid(visible=False, axis="y")
    for what, (colour, words) in COLOURS.items():
        own = [bar for bar in bars if bar.what == what]
        for process in {bar.process for bar in own}:
            spans = [(bar.start, bar.end - bar.start) for bar in own if bar.process == process]
            row = processes.index(process)
            axes.broken_barh(spans, (row - 0.36, 0.72), facecolor=colour, edgecolor="white", linewidth=EDGE)
        if own:
            axes.plot([], [], "s", color=colour, markersize=8, label=words)
    axes.set_yticks(range(len(processes)), processes)
    axes.set_ylim(len(processes) - 0.4, -0.6)
    axes.set_xlim(0.0, end)
    axes.set_xlabel("seconds since the run began", fontsize=10, color=MUTED)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=6, frameon=False, fontsize=8, labelcolor=MUTED,
        handletextpad=0.1, columnspacing=1.0, borderpad=0.0,
    )  # fmt: skip
    atomic_write_bytes(path, png_bytes(figure))


def _title(folder: Path) -> str:
    """The run's name, and how long training stood still for evaluations where its result says so."""
    name = folder.resolve().name
    try:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        waited, wall = result["evaluation_wait_seconds"], result["wall_seconds"]
        return f"{name}: training stood still for evaluations {waited:.0f} of {wall:.0f} s ({waited / wall:.0%})"
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):  # not finished
        return name
