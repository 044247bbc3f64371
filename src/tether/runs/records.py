"""What a run writes while it trains: JSON lines, and a progress display for people. Both are its callbacks."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tether.evaluation.statistics import aggregate
from tether.machine.files import atomic_write_text
from tether.runs.callbacks import Callback, Row, scores_by_update

__all__ = ["Display", "JsonLines", "Records"]

SILENCE_SECONDS = 30.0  # without a terminal, a line at least this often shows that a run is alive


class JsonLines:
    """An append-only file of JSON objects, one a line. Rows hold null, never NaN, so that every reader can read it."""

    def __init__(self, path: Path, *, write: bool = True):
        """write: False in a process that only reads what another one writes."""
        self.path = path
        self._write = write

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `rows` and force them to the disk: the next checkpoint relies on them. Raises: OSError."""
        if not self._write:
            return
        try:
            with self.path.open("a") as file:
                file.write(_lines(rows))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # of itself it does not name the file
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def read(self) -> list[dict[str, Any]]:
        """All whole rows; a line that a kill cut short is left out, with whatever follows it."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the rows that are not `wanted`: those a resumed run is about to write again."""
        if self._write:
            atomic_write_text(self.path, _lines([row for row in self.read() if wanted(row)]))


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


class Records(Callback):
    """metrics.jsonl and evaluations.jsonl of the run in `folder`."""

    def __init__(self, folder: Path, *, write: bool = True):
        """write: as of `JsonLines`."""
        self.metrics = JsonLines(folder / "metrics.jsonl", write=write)
        self.evaluations = JsonLines(folder / "evaluations.jsonl", write=write)

    def on_metrics(self, rows: list[Row]) -> None:
        """Write them."""
        self.metrics.append(rows)

    def on_evaluation(self, rows: list[Row]) -> None:
        """Write them."""
        self.evaluations.append(rows)


class Display(Callback):
    """Progress on stderr: a bar on a terminal, a line now and then elsewhere, nothing but warnings when quiet.

    As a callback it shows the scores of evaluations; beside that it is told how far any work has come.
    """

    def __init__(self, quiet: bool, *, silent: bool = False):
        """silent: not even warnings, as another process gives them."""
        # Lines of more than 80 columns are left whole where nobody sees columns: files and pipes.
        self._console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, quiet=silent)
        self._quiet = quiet
        self._live = self._console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._task = None
        self._total = 0
        self._score = ""
        self._spoke = time.monotonic()

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, name: str, done: int, total: int, unit: str = "updates") -> None:
        """A new stretch of work, replacing the bar of the last one."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        note = "compiling" if unit == "updates" else ""
        self._task = self._progress.add_task(name, total=total, completed=done, note=note)
        self._total = total
        if not self._live:
            self.message(f"{name}: {total:,} {unit}" + (f", from {done:,} on" if done else ""))

    def advance(self, done: int, updates_per_second: float | None = None) -> None:
        """How much of this stretch is done."""
        speed = "" if updates_per_second is None else f"{updates_per_second:,.0f} updates/s"
        if self._task is not None:
            self._progress.update(self._task, completed=done, note="  ".join(filter(None, [speed, self._score])))
        if not self._live and time.monotonic() - self._spoke > SILENCE_SECONDS:
            self.message(f"{done:,} of {self._total:,}  {speed}")

    def note(self, text: str) -> None:
        """What the bar says of the moment, e.g. that it evaluates."""
        if self._task is not None:
            self._progress.update(self._task, note=text)

    def on_evaluation(self, rows: list[Row]) -> None:
        """Show the score."""
        (update, scores), *_ = scores_by_update(rows).items()
        self.score(update, f"{aggregate(scores)} (IQM)")

    def score(self, update: int, text: str) -> None:
        """The outcome of an evaluation; stays beside the bar and is printed as a line."""
        self._score = f"score {text}"
        self.message(f"update {update:>9,}  score {text}")

    def message(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._console.print(text)
            self._spoke = time.monotonic()

    def warn(self, text: str) -> None:
        """A line that stays, even when quiet."""
        self._console.print(text, style="yellow")
