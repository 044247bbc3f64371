"""What a run writes while it trains: JSON lines, and a progress display for people. Both are its callbacks."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tether.evaluation.statistics import aggregate, statistic_of
from tether.runs.callbacks import Callback, Row, RunInfo, score_of, scores_by_update
from tether.runs.jsonlines import JsonLines, Mark

__all__ = ["Display", "Records", "evaluation_log", "metric_log"]

MOST = 2**53  # what is written is a count or a float; greater whole numbers are damage
SILENCE_SECONDS = 30.0  # without a terminal, a line at least this often shows that a run is alive


def metric_log(folder: Path, *, write: bool = False) -> JsonLines:
    """metrics.jsonl of a run folder. write: as of `JsonLines`."""
    return JsonLines(folder / "metrics.jsonl", _metric_fault, write=write, remedy=_remedy(folder))


def evaluation_log(folder: Path, *, write: bool = False) -> JsonLines:
    """evaluations.jsonl of a run folder. write: as of `JsonLines`."""
    return JsonLines(folder / "evaluations.jsonl", _evaluation_fault, write=write, remedy=_remedy(folder))


def _remedy(folder: Path) -> str:
    return f"`tether resume {folder} --repair` keeps what is whole"


def _metric_fault(row: Row) -> str | None:
    if not isinstance(row.get("phase"), str):
        return "no phase"
    numbers = (value for name, value in row.items() if name != "phase")
    if not all(value is None or _is_number(value) for value in numbers):
        return "a metric that is no number"
    return _count_fault(row, "update", "lane")


def _evaluation_fault(row: Row) -> str | None:
    score = row.get("normalized_score", "missing")
    if not _is_number(row.get("return")) or not (score is None or _is_number(score)):
        return "no return or score"
    return _count_fault(row, "update", "lane", "episode", "length")


def _count_fault(row: Row, *names: str) -> str | None:
    wrong = [name for name in names if type(row.get(name)) is not int or not 0 <= row[name] < MOST]
    return f"no {', '.join(wrong)}" if wrong else None


def _is_number(value: Any) -> bool:
    return (isinstance(value, float) and math.isfinite(value)) or (type(value) is int and abs(value) < MOST)


class Records(Callback):
    """metrics.jsonl and evaluations.jsonl of the run in `folder`."""

    def __init__(self, folder: Path, *, write: bool = True):
        """write: as of `JsonLines`."""
        self.metrics = metric_log(folder, write=write)
        self.evaluations = evaluation_log(folder, write=write)
        self.logs = (self.metrics, self.evaluations)

    def marks(self) -> dict[str, Mark]:
        """How far both have come, for a checkpoint."""
        return {log.path.name: log.mark() for log in self.logs}

    def verify(self, marks: Mapping[str, Sequence[Any]]) -> None:
        """Raises: InputError where they are not what they were at `marks`."""
        for log in self.logs:
            log.verify(Mark(*marks[log.path.name]))

    def cut(self, marks: Mapping[str, Sequence[Any]]) -> None:
        """Drop the rows after `marks`, which are true."""
        for log in self.logs:
            log.cut(Mark(*marks[log.path.name]))

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
        self._counted = False  # whether a line of this stretch has said how much is done
        self._score = ""
        self._values: set[float] = set()  # that scores of episodes have had in this run
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
        self._total, self._counted = total, False
        if not self._live:
            self.message(f"{name}: {total:,} {unit}" + (f", from {done:,} on" if done else ""))

    def advance(self, done: int, updates_per_second: float | None = None) -> None:
        """How much of this stretch is done."""
        speed = "" if updates_per_second is None else f"{updates_per_second:,.0f} updates/s"
        if self._task is not None:
            self._progress.update(self._task, completed=done, note="  ".join(filter(None, [speed, self._score])))
        late = time.monotonic() - self._spoke > SILENCE_SECONDS
        if not self._live and (late or (self._counted and done == self._total)):
            self._counted = True
            self.message(f"{done:,} of {self._total:,}  {speed}")

    def note(self, text: str) -> None:
        """What the bar says of the moment, e.g. that it evaluates."""
        if self._task is not None:
            self._progress.update(self._task, note=text)

    def on_start(self, run: RunInfo) -> None:
        """Recall what scores there have been."""
        self._values = {score_of(row) for row in run.evaluations}

    def on_evaluation(self, rows: list[Row]) -> None:
        """Show the score."""
        (update, scores), *_ = scores_by_update(rows).items()
        self._values.update(scores.flat)
        summary = aggregate(scores, statistic=statistic_of(np.array([*self._values])))
        word = "return" if rows[0]["normalized_score"] is None else "score"
        self.score(update, f"{word} {summary} ({summary.statistic})")

    def score(self, update: int, text: str) -> None:
        """The outcome of an evaluation, in words; stays beside the bar and is printed as a line."""
        self._score = text
        self.message(f"update {update:>9,}  {text}")

    def message(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._console.print(text)
            self._spoke = time.monotonic()

    def warn(self, text: str) -> None:
        """A line that stays, even when quiet."""
        self._console.print(text, style="yellow")
