"""The outcome of a sweep in one table: a row for each algorithm, data set and setting."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from tether.evaluation.statistics import mean_interval
from tether.machine.files import atomic_write_json, atomic_write_text
from tether.plots.markdown import markdown_table
from tether.runs.arms import short_numbers
from tether.runs.report import lane_score
from tether.studies.sweep.jobs import SweepFolder, job_result
from tether.studies.sweep.spec import Job, value_text
from tether.training.lanes import Lane

__all__ = ["JobRow", "job_rows", "sweep_table", "write_table"]


class JobRow(NamedTuple):
    """The lanes of one algorithm, data set and setting. Scores (`Task.score`) are those of the last evaluation."""

    algorithm: str
    dataset: str  # its name; of several that are called so, as much of the source as tells them apart
    settings: dict[str, Any]  # what the sweep chooses, and all else in which the algorithm's rows differ
    seeds: int  # wanted
    finished: int  # of these, diverged ones included
    diverged: int
    scored: int  # how many the mean is over
    mean: float | None  # over seeds
    low: float | None  # 95 % interval of the mean; None for fewer than two seeds
    high: float | None


def job_rows(folder: SweepFolder) -> tuple[list[JobRow], list[dict[str, Any]]]:
    """(rows, lanes): what is known so far; jobs without a result count as not finished."""
    jobs = folder.spec.jobs
    results = [job_result(folder.run_folder(job)) for job in jobs]
    names = _dataset_names(jobs, results)
    algorithms = {job.algorithm for job in jobs}
    shown = {algorithm: _shown([job for job in jobs if job.algorithm == algorithm]) for algorithm in algorithms}
    lanes = []
    for job, result in zip(jobs, results, strict=True):
        lanes += _lanes(job, result, names[job.dataset], shown[job.algorithm])
    groups: dict[tuple[str, str, frozenset[Any]], list[dict[str, Any]]] = {}
    for lane in lanes:
        settings = frozenset((name, _comparable(value)) for name, value in lane["settings"].items())
        groups.setdefault((lane["algorithm"], lane["dataset"], settings), []).append(lane)
    return [_row(group) for group in groups.values()], lanes


def _dataset_names(jobs: Sequence[Job], results: Sequence[Mapping[str, Any] | None]) -> dict[str, str]:
    """Source -> a name that no other source of the sweep has, as short as can be."""
    own = {job.dataset: Path(job.dataset).stem for job in jobs}
    own |= {job.dataset: result["dataset"] for job, result in zip(jobs, results, strict=True) if result is not None}
    choices = {}
    for source, name in own.items():
        parts = source.replace("\\", "/").split("/")
        choices[source] = [name, *("/".join(parts[start:]) for start in reversed(range(len(parts)))), source]

    def name_of(source: str) -> str:
        others = {name for other, names in choices.items() if other != source for name in names}
        return next((name for name in choices[source] if name not in others), source)

    return {source: name_of(source) for source in choices}


def _settings(job: Job, lane: Lane) -> dict[str, Any]:
    """All that a lane is trained with and a spec says."""
    return {**job.options, **job.hyperparameters, **lane.swept}


def _shown(jobs: Sequence[Job]) -> list[str]:
    """Of the jobs of one algorithm: the settings that the sweep chooses, then others in which they differ."""
    chosen = [name for job in jobs for lane in job.lanes for name in (*job.grid, *lane.swept)]
    every = [_settings(job, lane) for job in jobs for lane in job.lanes]
    names = dict.fromkeys(name for settings in every for name in settings)
    differing = [name for name in names if len({_comparable(settings.get(name)) for settings in every}) > 1]
    return list(dict.fromkeys([*chosen, *differing]))


def _comparable(value: Any) -> Any:
    """Equal for settings that mean the same: [8, 8] and "8,8" do."""
    return value_text(value) if isinstance(value, list) else value


def _lanes(job: Job, result: Mapping[str, Any] | None, dataset: str, shown: Sequence[str]) -> list[dict[str, Any]]:
    if result is not None and len(result["lanes"]) != len(job.lanes):
        result = None
    rows = []
    for index, lane in enumerate(job.lanes):
        found, settings = None if result is None else result["lanes"][index], _settings(job, lane)
        rows.append(
            {
                "algorithm": job.algorithm,
                "dataset": dataset,
                "settings": {name: settings[name] for name in shown if name in settings},
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
    return ["; ".join(f"{name} {value_text(value)}" for name, value in own.items()) for own in short_numbers(settings)]
