"""From a finished run to result.json, curve.png and the table that people see."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from tether.data import Dataset
from tether.environments import Task, get_task
from tether.errors import InputError
from tether.evaluation.plot import Curve, plot_curves
from tether.evaluation.statistics import Summary, aggregate
from tether.files import atomic_write_json
from tether.training.records import JsonLines

__all__ = ["Report", "plot_runs", "report_table", "write_report"]


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of a run. Scores are normalised; None where nothing was evaluated."""

    folder: Path
    status: str  # done, partly-diverged (some lanes), diverged (all lanes)
    updates: int
    behaviour: Summary | None  # of the episodes in the data set
    last: Summary | None  # at the last evaluation
    best: Summary | None  # at the evaluation with the highest mean; chosen with hindsight
    best_update: int | None
    lane_scores: dict[int, float]  # lane -> mean score at the last evaluation
    best_lane: int | None  # the lane with the highest of these; None where every lane diverged
    updates_per_second: float

    @property
    def curve(self) -> Path:
        """The picture; exists where something was evaluated."""
        return self.folder / "curve.png"


def write_report(run: Any, data: Dataset) -> Report:
    """result.json and curve.png of a `tether.training.run.Run` that has come to its end."""
    plan, alive = run.plan, run.alive
    scores = _scores(run.evaluations.read(), np.flatnonzero(alive))
    behaviour = behaviour_summary(data, plan.task)
    last = best = best_update = None
    lane_scores: dict[int, float] = {}
    if scores:
        by_update = {update: aggregate(values) for update, values in scores.items()}
        best_update = max(by_update, key=lambda update: by_update[update].mean)
        last, best = by_update[max(by_update)], by_update[best_update]
        means = scores[max(scores)].mean(axis=1)
        lane_scores = dict(zip(np.flatnonzero(alive).tolist(), means.tolist(), strict=True))
    survivors = np.flatnonzero(alive).tolist()
    report = Report(
        folder=plan.folder,
        status="done" if alive.all() else "partly-diverged" if alive.any() else "diverged",
        updates=run.position.update,
        behaviour=behaviour,
        last=last,
        best=best,
        best_update=best_update,
        lane_scores=lane_scores,
        best_lane=max(survivors, key=lambda lane: lane_scores.get(lane, 0.0), default=None),
        updates_per_second=run.updates_per_second(),
    )
    atomic_write_json(plan.folder / "result.json", _result(run, report))
    if scores:
        plot_runs([plan.folder], report.curve)
    return report


def behaviour_summary(data: Dataset, task: Task | None) -> Summary | None:
    """The normalised scores of the data's own episodes, as one lane; None without a task."""
    if task is None:
        return None
    return aggregate(task.normalized_score(data.episode_returns())[None])


def report_table(report: Report) -> Table:
    """Behaviour, last and best evaluation, a row each."""
    table = Table(title=f"{report.folder.name}: normalised score", title_justify="left")
    table.add_column("")
    for column in ("IQM", "95 % interval", "mean", "episodes"):
        table.add_column(column, justify="right")
    rows = {
        "behaviour (the data)": report.behaviour,
        f"policy, last (update {report.updates:,})": report.last,
        f"policy, best (update {report.best_update or 0:,})": report.best,
    }
    for label, summary in rows.items():
        if summary is not None:
            interval = f"[{summary.ci95_low:.1f}, {summary.ci95_high:.1f}]"
            episodes = f"{summary.lanes} x {summary.episodes}" if summary.lanes > 1 else str(summary.episodes)
            table.add_row(label, f"{summary.iqm:.1f}", interval, f"{summary.mean:.1f}", episodes)
    return table


def plot_runs(folders: list[Path], path: Path) -> None:
    """Score over updates of one or several runs of the same task, one colour each.

    Raises InputError where a folder holds no evaluations, or the runs were scored on different tasks.
    """
    curves, tasks, behaviours = [], [], []
    for folder in folders:
        config, rows = _read_config(folder), JsonLines(folder / "evaluations.jsonl").read()
        if not rows:
            raise InputError(f"{folder}: holds no evaluations to plot")
        curves.append(_curve(f"{config['algorithm']}, {config['data']['dataset']}", rows, len(config["lanes"])))
        tasks.append(config["environment"])
        behaviours.append(_stored_behaviour(folder))
    if len(set(tasks)) > 1:
        raise InputError(f"runs of different tasks do not share an axis: {', '.join(sorted(set(tasks)))}")
    if len({curve.label for curve in curves}) < len(curves):
        curves = [dataclasses.replace(c, label=f.name) for c, f in zip(curves, folders, strict=True)]
    behaviour = behaviours[0] if len(set(behaviours)) == 1 else None
    title = curves[0].label if len(curves) == 1 else f"{get_task(tasks[0]).name}"
    plot_curves(path, curves, behaviour, "normalised score", title)


def _curve(label: str, rows: list[dict[str, Any]], lanes: int) -> Curve:
    updates = sorted({row["update"] for row in rows})
    episodes: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        episodes.setdefault((row["lane"], row["update"]), []).append(row["normalized_score"])
    missing = [float("nan")]
    scores = [[np.mean(episodes.get((lane, update), missing)) for update in updates] for lane in range(lanes)]
    return Curve(label, np.asarray(updates), np.asarray(scores))


def _scores(rows: list[dict[str, Any]], lanes: np.ndarray) -> dict[int, np.ndarray]:
    """update -> scores (lanes, episodes) of the given lanes."""
    table: dict[int, dict[int, list[float]]] = {}
    for row in rows:
        if row["lane"] in lanes:
            table.setdefault(row["update"], {}).setdefault(row["lane"], []).append(row["normalized_score"])
    return {update: np.asarray([by_lane[lane] for lane in sorted(by_lane)]) for update, by_lane in table.items()}


def _result(run: Any, report: Report) -> dict[str, Any]:
    """The content of result.json (design section 4)."""
    plan = run.plan
    final = [row for row in run.evaluations.read() if row["update"] == report.updates]
    lanes = [
        {
            "seed": lane.seed,
            "settings": dict(lane.settings),
            "normalized_score": report.lane_scores.get(index),
            "returns": [row["return"] for row in final if row["lane"] == index],
            "diverged": run.frozen.get(index),
        }
        for index, lane in enumerate(plan.lanes)
    ]
    summary = report.last
    return {
        "algorithm": plan.algorithm_name,
        "dataset": plan.prepared.record["dataset"],
        "status": report.status,
        "lanes": lanes,
        "iqm": summary.iqm if summary else None,
        "ci95": [summary.ci95_low, summary.ci95_high] if summary else None,
        "behaviour": dataclasses.asdict(report.behaviour) if report.behaviour else None,
        "last": dataclasses.asdict(summary) if summary else None,
        "best": {"update": report.best_update, **dataclasses.asdict(report.best)} if report.best else None,
        "updates": report.updates,
        "updates_per_second": report.updates_per_second,
        "compile_seconds": run.seconds["compile"],
        "evaluation_seconds": run.seconds["evaluation"],
        "wall_seconds": run.seconds["wall"],
    }


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not a run folder: config.json: {error}") from None


def _stored_behaviour(folder: Path) -> float | None:
    try:
        behaviour = json.loads((folder / "result.json").read_text())["behaviour"]
    except (OSError, ValueError):
        return None
    return None if behaviour is None else behaviour["mean"]
