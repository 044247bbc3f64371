"""What a run writes while it trains: JSON lines, and a progress display for people."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tether.files import atomic_write_text

__all__ = ["Display", "JsonLines"]


class JsonLines:
    """An append-only file of JSON objects, one a line. NaN is written as null, so that every reader can read it."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, rows: list[Mapping[str, Any]]) -> None:
        """Write `rows` and force them to the disk: a checkpoint may refer to them next."""
        with self.path.open("a") as file:
            file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """All whole rows; a line that a kill cut short is left out."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the rows that are not `wanted`: those a resumed run is about to write again."""
        rows = [row for row in self.read() if wanted(row)]
        atomic_write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))


class Display:
    """Progress on stderr: a bar on a terminal, a line per evaluation elsewhere, nothing when quiet."""

    def __init__(self, quiet: bool):
        self.console = Console(stderr=True, quiet=quiet)
        self._live = self.console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
            disable=not self._live,
        )
        self._task = None
        self._score = ""

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, name: str, done: int, total: int) -> None:
        """A new stretch of work, replacing the bar of the last one."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total, completed=done, note=self._score)
        if not self._live:
            self.console.print(f"{name}: {done:,} of {total:,} updates", highlight=False)

    def advance(self, done: int, updates_per_second: float) -> None:
        """Updates done so far in this stretch."""
        if self._task is not None:
            note = f"{updates_per_second:.0f} updates/s {self._score}"
            self._progress.update(self._task, completed=done, note=note)

    def note(self, text: str) -> None:
        """What the bar says of the moment, e.g. that it evaluates."""
        if self._task is not None:
            self._progress.update(self._task, note=text)

    def score(self, update: int, text: str) -> None:
        """The outcome of an evaluation; stays beside the bar and is printed as a line."""
        self._score = f"score {text}"
        self.console.print(f"update {update:>9,}  score {text}", highlight=False)

    def message(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
