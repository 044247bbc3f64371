"""`--logger csv`: the mean score of every evaluation, a line of `scores.csv` in the run folder."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tether

__all__ = ["CSVLogger"]


class CSVLogger(tether.Callback):
    """A resumed run goes on in the same file."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        self.path = folder / "scores.csv"
        if not self.path.exists():
            self._write(["update", "lane", "return"])

    def on_evaluation(self, rows: list[dict[str, Any]]) -> None:
        """The mean return of each lane."""
        for lane in sorted({row["lane"] for row in rows}):
            returns = [row["return"] for row in rows if row["lane"] == lane and row["return"] is not None]
            if returns:
                self._write([rows[0]["update"], lane, sum(returns) / len(returns)])

    def _write(self, cells: list[Any]) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(cells)
