"""The outcome of a sweep in one table: a row for each algorithm, data set and setting."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from tether.evaluation.statistics import mean_interval
from tether.machine.files import atomic_write_json, atomic_write_text
from tether.plots.markdown import markdown_table
from tether.runs.arms import short_numbers
from tether.runs.report import lane_score
from tether.studies.sweep.jobs import SweepFolder, job_result

__all__ = ["JobRow", "job_rows", "sweep_table", "write_table"]


class JobRow(NamedTuple):
    """The lanes of one algorithm, data set and setting. Scores (`Task.score`) are those of the last evaluation."""

    algorithm: str
    dataset: str
    settings: dict[str, Any]
    seeds: int  # wanted
    finished: int  # of these, diverged ones included
    diverged: int
    scored: int  # how many the mean is over
    mean: float | None  # over seeds
    low: float | None  # 95 % interval of the mean; None for fewer than two seeds
    high: float | None


def job_rows(folder: SweepFolder) -> tuple[list[JobRow], list[dict[str, Any]]]:
    """(rows, lanes): what is known so far; jobs without a result count as not finished."""
    lanes = [lane for job in folder.spec.jobs for lane in _lanes(folder, job)]
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for lane in lanes:
        key = lane["algorithm"], lane["dataset"], json.dumps(lane["settings"], sort_keys=True)
        groups.setdefault(key, []).append(lane)
    return [_row(group) for group in groups.values()], lanes


def _lanes(folder: SweepFolder, job: Any) -> list[dict[str, Any]]:
    result = job_result(folder.run_folder(job))
    if result is not None and len(result["lanes"]) != len(job.lanes):
        result = None
    rows = []
    for index, lane in enumerate(job.lanes):
        found = None if result is None else result["lanes"][index]
        rows.append(
            {
                "algorithm": job.algorithm,
                "dataset": job.dataset if result is None else result["dataset"],
                "settings": {**job.grid, **lane.swept},
                "seed": lane.seed,
                "job": job.name,
                "lane": index,
                "status": "missing" if found is None else "diverged" if found["diverged"] else "done",
                "score": None if found is None else lane_score(found),
                "diverged": None if found is None else found["diverged"],
            }
        )
    return rows


def _row(lanes: Sequence[Mapping[str, Any]]) -> JobRow:
    scores = [lane["score"] for lane in lanes if lane["status"] == "done" and lane["score"] is not None]
    count = {status: sum(lane["status"] == status for lane in lanes) for status in ("done", "diverged")}
    first = lanes[0]
    done = count["done"] + count["diverged"]
    numbers = len(lanes), done, count["diverged"], len(scores), *mean_interval(scores)
    return JobRow(first["algorithm"], first["dataset"], first["settings"], *numbers)


def write_table(folder: SweepFolder) -> list[JobRow]:
    """table.csv, table.md, table.json (rows) and lanes.csv (every seed) of what is known so far."""
    rows, lanes = job_rows(folder)
    texts = _settings_texts([row.settings for row in rows])
    flat = [{**row._asdict(), "settings": text} for row, text in zip(rows, texts, strict=True)]
    texts = _settings_texts([lane["settings"] for lane in lanes])
    atomic_write_json(folder.path / "table.json", [row._asdict() for row in rows])
    atomic_write_text(folder.path / "table.csv", _csv(flat))
    by_lane = [{**lane, "settings": text} for lane, text in zip(lanes, texts, strict=True)]
    atomic_write_text(folder.path / "lanes.csv", _csv(by_lane))
    atomic_write_text(folder.path / "table.md", markdown_table(HEADINGS, _cells(rows)) + "\n")
    return rows


HEADINGS = ("algorithm", "data set", "setting", "mean", "95 % interval", "seeds", "diverged", "missing")


def _cells(rows: Sequence[JobRow]) -> list[list[str]]:
    """What stands under `HEADINGS`."""
    found = []
    for row, settings in zip(rows, _settings_texts([row.settings for row in rows]), strict=True):
        interval = "-" if row.low is None else f"[{row.low:.1f}, {row.high:.1f}]"
        mean = "-" if row.mean is None else f"{row.mean:.1f}"
        missing = row.seeds - row.finished
        counts = f"{row.scored} of {row.seeds}", str(row.diverged), str(missing)
        found.append([row.algorithm, row.dataset, settings, mean, interval, *counts])
    return found


def sweep_table(rows: Sequence[JobRow], title: str) -> Table:
    """The table for the terminal."""
    table = Table(title=title, title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in HEADINGS[:3] else "right")
    for cells in _cells(rows):
        table.add_row(*cells)
    return table


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _settings_texts(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """`hidden_sizes 256,256; expectile 0.9` of each; different settings have different texts."""

    def text(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    return ["; ".join(f"{name} {text(value)}" for name, value in own.items()) for own in short_numbers(settings)]
