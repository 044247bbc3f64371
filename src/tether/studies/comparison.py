"""The table of a comparison: a row per algorithm, read from its run folder, in words for terminal and Markdown."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tether.errors import InputError
from tether.evaluation.statistics import Summary, aggregate, interval_text, mean_interval, three_digits
from tether.machine.reading import one_line, read_json
from tether.plots.tradeoff import Point
from tether.runs.callbacks import scores_by_update, statistic_of_run
from tether.runs.records import evaluation_log, metric_log
from tether.runs.report import lane_score

__all__ = [
    "Cost",
    "Row",
    "behaviour_cells",
    "best_first",
    "cells",
    "columns",
    "legend",
    "points",
    "read_row",
    "rich_table",
]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What an algorithm costs with its settings on these data, measured apart from its training."""

    gflop: dict[str, float]  # phase -> of the matmuls of one update of one seed
    act_ms: float  # median time to choose one action


@dataclasses.dataclass(frozen=True)
class Row:
    """One algorithm of a comparison. What is not known (yet) is None."""

    algorithm: str
    family: str
    paper: str  # arXiv id, or empty
    settings: str  # where its hyper-parameters come from
    status: str  # done, partly-diverged, diverged (as in result.json), failed, damaged (its logs), stopped, waiting
    note: str = ""  # what is to be said about the status
    updates: int = 0  # of the last phase, done when it was last evaluated
    last: Summary | None = None  # scores at the last evaluation
    best: Summary | None = None  # at the evaluation with the highest mean, chosen with hindsight
    best_update: int | None = None
    seed_scores: tuple[float, ...] = ()  # the last ones, of the seeds that did not diverge, each a mean over episodes
    losses: dict[str, float] = dataclasses.field(default_factory=dict)  # the last ones, means over seeds
    value: float | None = None  # where there is no environment: of its best seed, as `tether choose` estimates it
    value_low: float | None = None  # of the 90 % interval
    value_high: float | None = None
    updates_per_second: float | None = None  # as in result.json: of all seeds side by side
    total_seconds: float | None = None  # compiling, training and evaluating all seeds
    gflop_per_update: float | None = None  # of the last phase, one seed
    total_tflop: float | None = None  # of all phases so far, one seed
    act_ms: float | None = None


# --- from run folders ---------------------------------------------------------------------------------------


def read_row(run: Path, about: Mapping[str, str], cost: Cost | None, error: str | None) -> Row:
    """The row of the run folder `run`, which may be unfinished or not there yet.

    about: algorithm, family, paper, settings. error: why it failed, if it did.
    """
    known: dict[str, Any] = {"gflop_per_update": cost.gflop["train"], "act_ms": cost.act_ms} if cost else {}
    if error is not None:  # whatever the folder holds is not to be trusted
        return Row(**about, status="failed", note=error, **known)
    result = _read_json(run / "result.json")
    config = _read_json(run / "config.json")
    try:
        known["losses"] = _last_losses(metric_log(run).read())
        progress = _progress(evaluation_log(run).read()) if result is None else _outcome(result)
    except InputError as damage:  # the other algorithms have their rows
        return Row(**about, status="damaged", note=str(damage), **known)
    except (KeyError, TypeError, AttributeError, ValueError) as damage:
        note = f"{run / 'result.json'}: altered: {type(damage).__name__} {one_line(damage)}"
        return Row(**about, status="damaged", note=note, **known)
    row = Row(**about, **{"status": "stopped" if config else "waiting"} | progress, **known)
    if cost is None or config is None or (result is None and row.last is None):
        return row
    updates = {phase["name"]: phase["updates"] for phase in config["phases"]} | {"train": row.updates}
    tflop = sum(cost.gflop[phase] * count for phase, count in updates.items()) / 1000
    return dataclasses.replace(row, total_tflop=tflop)


def _outcome(result: dict[str, Any]) -> dict[str, Any]:
    """What result.json says, taken over as it stands."""
    best = dict(result["best"] or {})
    best_update = best.pop("update", None)
    lost = [lane["seed"] for lane in result["lanes"] if lane["diverged"]]
    return {
        "status": result["status"],
        "note": f"seeds {', '.join(map(str, lost))} diverged" if lost else "",
        "updates": result["updates"],
        "last": Summary(**result["last"]) if result["last"] else None,
        "seed_scores": tuple(score for score in map(lane_score, result["lanes"]) if score is not None),
        "best": Summary(**best) if best else None,
        "best_update": best_update,
        "updates_per_second": result["updates_per_second"],
        "total_seconds": result["wall_seconds"],
    }


def _progress(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How far an unfinished run has come, by its evaluations. One that a kill cut short does not count."""
    statistic = statistic_of_run(rows)
    counts: dict[tuple[int, int], int] = {}  # (update, lane) -> episodes
    for row in rows:
        key = row["update"], row["lane"]
        counts[key] = counts.get(key, 0) + 1
    whole = max(counts.values(), default=0)
    cut = {update for (update, _), episodes in counts.items() if episodes < whole}
    rows = [row for row in rows if row["update"] not in cut]
    if not rows:
        return {}
    last = max(row["update"] for row in rows)
    lanes = sorted({row["lane"] for row in rows if row["update"] == last})
    scores = scores_by_update(rows, lanes)
    if last not in scores:
        return {}
    summaries = {update: aggregate(values, statistic=statistic) for update, values in scores.items()}
    best = max(summaries, key=lambda update: summaries[update].mean)
    seeds = {"seed_scores": tuple(scores[last].mean(axis=1).tolist())}
    return {"updates": last, "last": summaries[last], "best": summaries[best], "best_update": best} | seeds


def _last_losses(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The losses of the last rows, each the mean over the lanes that have one."""
    last = [row for row in rows if (row["phase"], row["update"]) == (rows[-1]["phase"], rows[-1]["update"])]
    names = [name for name in (last[0] if last else {}) if name.endswith("loss")]
    values = {name: [row[name] for row in last if row.get(name) is not None] for name in names}
    return {name: float(np.mean(found)) for name, found in values.items() if found}


def _read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file. Raises: InputError where it is none of ours."""
    return read_json(path) if path.exists() else None


# --- for people ---------------------------------------------------------------------------------------------


def best_first(rows: Sequence[Row]) -> list[Row]:
    """Rows by the score at the last evaluation, or by value; those without one last, in the order they were named."""

    def order(row: Row) -> float:
        if row.last:
            return -row.last.iqm
        return float("inf") if row.value is None else -row.value

    return sorted(rows, key=order)


NUMBERS = ("updates/s", "total s", "GFLOP/update", "act ms")


def columns(scored: bool) -> list[str]:
    """The heads of the table."""
    result = ["last score", "over seeds", "best score"] if scored else ["value", "last losses"]
    return ["algorithm", "family", "paper", "settings", *result, *NUMBERS, ""]


def cells(row: Row, scored: bool) -> list[str]:
    """A row under `columns`."""
    if scored:
        mean, low, high = mean_interval(row.seed_scores)
        best = f"{row.best} at {row.best_update:,}" if row.best else "-"
        result = [str(row.last or "-"), "-" if mean is None else interval_text(mean, low, high), best]
    else:
        value = "-" if row.value is None else interval_text(row.value, row.value_low, row.value_high)
        result = [value, ", ".join(f"{name} {value:.3g}" for name, value in row.losses.items()) or "-"]
    numbers = row.updates_per_second, row.total_seconds, row.gflop_per_update, row.act_ms
    cost = ["-" if number is None else three_digits(number) for number in numbers]
    return [row.algorithm, row.family, row.paper or "-", row.settings, *result, *cost, _status(row)]


def behaviour_cells(behaviour: Summary) -> list[str]:
    """The first row: the data's own episodes."""
    result = [str(behaviour), f"{behaviour.mean:.1f}", "-"]
    return ["the data", "behaviour", "-", f"{behaviour.episodes} episodes", *result, "-", "-", "-", "-", ""]


def rich_table(title: str, rows: Sequence[Row], behaviour: Summary | None, scored: bool) -> Table:
    """The table for the terminal; comparison.md has room for papers, settings and what the columns mean, too."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    left_out, short = ("paper", "settings"), {"updates/s": "upd/s", "GFLOP/update": "GFLOP"}
    names = columns(scored)
    if all(row.status == "done" for row in rows):
        names.pop()  # nothing is to be said about any of them
    for name in names:
        if name not in left_out:
            folds = name in (
                "family",
                "last score",
                "over seeds",
                "best score",
                "last losses",
                "",
            )  # on a narrow terminal
            justify = "left" if name in ("algorithm", "family", "last losses", "") else "right"
            table.add_column(short.get(name, name), justify=justify, no_wrap=not folds, overflow="fold")
    lines = [cells(row, scored) for row in best_first(rows)]
    if behaviour and scored:
        lines = [behaviour_cells(behaviour), *lines]
    for line in lines:
        table.add_row(*(cell for name, cell in zip(names, line, strict=False) if name not in left_out))
    return table


def legend(scored: bool, score_name: str) -> list[str]:
    """What the columns mean, a line each."""
    score = (
        f"last, best score: interquartile mean [95 % bootstrap interval] of the {score_name}s over seeds and "
        "episodes (the mean, where a run's only succeed or fail), at the last evaluation and at the one with the "
        "highest mean, which is chosen with hindsight. With few seeds the interval is too narrow: it covers the truth "
        "in 74 of 100 cases with 3, in 89 with 10. "
        "over seeds: plain mean at the last evaluation [95 % interval by Student's t over the seeds' means], which is "
        "as wide as few seeds make it."
    )
    losses = (
        "value: of the best seed that passes the gates of `tether choose` [90 % interval], discounted return from the "
        "log's first states by fitted Q evaluation. last losses: of the last log interval, means over seeds. They do "
        "not compare between algorithms."
    )
    return [
        score if scored else losses,
        "updates/s: of all seeds side by side, compilation and evaluation left out. total s: with them, all seeds.",
        "GFLOP/update: of the matmuls of one update of one seed in the last phase. "
        "act ms: median time to choose one action.",
    ]


def points(rows: Sequence[Row], cost: str) -> list[Point]:
    """The rows that have a score and a cost, for the picture; `cost` is compute or time."""
    found = []
    for row in rows:
        spent = row.total_tflop if cost == "compute" else row.total_seconds
        if row.last and spent:
            finished = row.status != "stopped"
            label = row.algorithm if finished else f"{row.algorithm} (at {row.updates:,})"
            score = row.last.iqm, row.last.ci95_low, row.last.ci95_high
            found.append(Point(label, spent, *score, row.family, finished))
    return found


def _status(row: Row) -> str:
    """Nothing for what went well."""
    words = "" if row.status == "done" else row.status
    if row.status == "stopped":
        words = f"stopped, evaluated at {row.updates:,}" if row.updates else "stopped"
    return f"{words}: {row.note}" if words and row.note else words
