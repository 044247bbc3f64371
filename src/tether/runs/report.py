"""From a finished run to result.json, curve.png and the table that people see."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from tether.environments import Task
from tether.errors import InputError
from tether.evaluation.statistics import IQM_WORDS, Statistic, Summary, aggregate, interval_text
from tether.machine.files import atomic_write_json, atomic_write_text
from tether.machine.reading import parse_json, read_bytes
from tether.runs.alarms import alarms_of
from tether.runs.arms import Arm, arms_table, as_text, summarise_arms, swept_names
from tether.runs.callbacks import score_of, scores_by_update, statistic_of_run
from tether.runs.curves import Curves, lanes_by_setting, read_curves
from tether.runs.records import evaluation_log

# Pictures are drawn with matplotlib, which is imported where one is drawn: the start of a run does not wait for it.

__all__ = [
    "Report",
    "behaviour_summary",
    "curve_of",
    "lane_score",
    "plot_run_losses",
    "plot_runs",
    "report_table",
    "summarise",
    "write_report",
]


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of a run. Scores are normalised, or returns where the task has no references; None where nothing was
    evaluated. Lanes that diverged are in no summary."""

    folder: Path
    status: str  # done, stopped-early (a callback asked for it), partly-diverged (some lanes), diverged (all lanes)
    stopped_early: str | None  # why, where a callback ended the run; None where it came to its end
    updates: int  # done in the last phase
    score_name: str  # what scores are: `Task.score_name`
    behaviour: Summary | None  # of the episodes in the data set
    last: Summary | None  # at the last evaluation
    last_by_arm: dict[str, Summary]  # the same for each swept combination, e.g. "expectile 0.9"; else empty
    best: Summary | None  # at the evaluation with the highest mean; chosen with hindsight
    best_update: int | None
    lane_scores: dict[int, float]  # lane -> mean score at the last evaluation
    best_lane: int | None  # the lane with the highest of these; None where every lane diverged
    diverged: dict[int, str]  # lane -> where, e.g. "train update 1234"
    arms: tuple[Arm, ...]  # swept combinations, in their order; empty where there is only one
    updates_per_second: float

    @property
    def curves(self) -> Curves:
        """Scores, returns and losses over updates, as arrays: `report.curves.scores` (lanes, points, episodes)."""
        return read_curves(self.folder)

    @property
    def curve(self) -> Path:
        """The picture; exists where something was evaluated."""
        return self.folder / "curve.png"

    @property
    def sweep(self) -> Path:
        """The picture of each arm; exists where there are several and something was evaluated."""
        return self.folder / "sweep.png"


def summarise(run: Any) -> Report:
    """The outcome of a `tether.runs.run.Run` that has come to its end."""
    plan, rows = run.plan, run.records.evaluations.read()
    survivors = np.flatnonzero(run.alive).tolist()
    scores, statistic = scores_by_update(rows, survivors), statistic_of_run(rows)
    by_update = {update: aggregate(values, statistic=statistic) for update, values in scores.items()}
    best_update = max(by_update, key=lambda update: by_update[update].mean, default=None)
    last = max((row["update"] for row in rows), default=-1)  # not in `scores` where damage has taken rows of it
    last_scores = dict(zip(survivors, scores[last], strict=True)) if last in scores else {}
    lane_scores = {lane: float(values.mean()) for lane, values in last_scores.items()}
    arms = summarise_arms(plan.lanes, lane_scores, run.frozen)
    return Report(
        folder=plan.folder,
        status=_status(len(survivors), len(plan.lanes), run.stopped_early),
        stopped_early=run.stopped_early,
        updates=run.updates,
        score_name=plan.task.score_name if plan.task else "",
        behaviour=behaviour_summary(plan.behaviour_returns, plan.task),
        last=by_update.get(last),
        last_by_arm=_by_arm(arms, last_scores, statistic),
        best=None if best_update is None else by_update[best_update],
        best_update=best_update,
        lane_scores=lane_scores,
        best_lane=max(survivors, key=lambda lane: lane_scores.get(lane, 0.0), default=None),
        diverged={lane: str(where) for lane, where in run.frozen.items()},
        arms=arms,
        updates_per_second=run.updates_per_second(),
    )


def write_report(run: Any, report: Report) -> None:
    """result.json, and the pictures and tables of it. Whoever finds it takes the run for finished, so it is written
    when all else is there that is not made of it."""
    plan, rows = run.plan, run.records.evaluations.read()
    atomic_write_json(plan.folder / "result.json", _result(run, report, rows))
    if rows:
        plot_runs([plan.folder], report.curve)
    elif losses := _losses(plan.folder):
        _draw_losses(plan.folder, losses, plan.folder / "losses.png")
    if report.arms:
        _write_sweep(report, rows, f"{plan.algorithm_name} on {plan.prepared.record['dataset']}")


def _status(survivors: int, lanes: int, stopped_early: str | None) -> str:
    if survivors < lanes:
        return "partly-diverged" if survivors else "diverged"
    return "done" if stopped_early is None else "stopped-early"


def behaviour_summary(returns: np.ndarray, task: Task | None) -> Summary | None:
    """The scores of the data's own episodes, as one lane.

    None without a task or without rewards, and where recorded returns are no scores (`Task.recorded_returns`).
    """
    if task is None or task.recorded_returns or not len(returns):
        return None
    return aggregate(task.score(returns)[None])


def _write_sweep(report: Report, rows: list[dict[str, Any]], title: str) -> None:
    """sweep.json and sweep.txt, and where something was evaluated sweep.png: what each arm came to."""
    atomic_write_json(report.folder / "sweep.json", [setting._asdict() for setting in report.arms])
    atomic_write_text(report.folder / "sweep.txt", as_text(arms_table(report.arms)))
    if rows:
        from tether.plots.curves import plot_panels

        curves = [curve_of(arm.name, rows, arm.lanes) for arm in report.arms]
        captions = [f"{arm.name}\n{_last_words(curve, arm)}" for curve, arm in zip(curves, report.arms, strict=True)]
        behaviour = None if report.behaviour is None else report.behaviour.iqm
        plot_panels(report.sweep, curves, captions, behaviour, report.score_name, title)


def _last_words(curve: Any, arm: Arm) -> str:
    """`IQM 43.1 [41.0, 45.2], 1 of 4 diverged`: what a panel shows at its end."""
    known = np.flatnonzero(np.isfinite(curve.middle))
    ends = [float(values[known[-1]]) for values in (curve.middle, curve.low, curve.high)] if known.size else []
    parts = [f"{curve.statistic} {interval_text(*ends)}"] if ends else []
    parts += [f"{len(arm.diverged)} of {len(arm.lanes)} diverged"] if arm.diverged else []
    return ", ".join(parts)


def report_table(report: Report) -> Table:
    """Behaviour, last and best evaluation, a row each; with a sweep also one for each combination."""
    table = Table(title=f"{report.folder.resolve().name}: {report.score_name}", title_justify="left")
    table.caption, table.caption_justify = IQM_WORDS, "left"
    table.add_column("")
    for column in ("IQM", "95 % interval of it", "mean", "episodes"):
        table.add_column(column, justify="right")
    rows = {
        "behaviour (the data)": report.behaviour,
        f"policy, last (update {report.updates:,})": report.last,
        **{f"  {settings}": summary for settings, summary in report.last_by_arm.items()},
        f"policy, best (update {report.best_update or 0:,})": report.best,
    }
    for label, summary in rows.items():
        if summary is not None:
            interval = f"[{summary.ci95_low:.1f}, {summary.ci95_high:.1f}]"
            episodes = f"{summary.lanes} x {summary.episodes}" if summary.lanes > 1 else str(summary.episodes)
            table.add_row(label, f"{summary.iqm:.1f}", interval, f"{summary.mean:.1f}", episodes)
    return table


def plot_runs(folders: list[Path], path: Path) -> None:
    """Score over updates of one or several runs of the same task: one line each, of a sweep one for each arm.

    The line of a fine-tuned run begins with the run that it went on from, where that is still there.

    path: .pdf, .png or .svg. Raises InputError for another ending, where a folder holds no evaluations, or the runs
    were scored on different tasks.
    """
    from tether.plots.curves import plot_curves

    runs = [_read_run(folder) for folder in folders]
    if len(tasks := sorted({run.environment for run in runs})) > 1:
        raise InputError(f"runs of different tasks do not share an axis: {', '.join(tasks)}")
    title, names = _names(runs)
    curves = [
        curve_of(
            ", ".join(filter(None, [name, arm])), run.rows, lanes, earlier=run.earlier, online_from=run.online_from
        )
        for run, name in zip(runs, names, strict=True)
        for arm, lanes in run.arms
    ]
    behaviours = {run.behaviour for run in runs}
    plot_curves(path, curves, behaviours.pop() if len(behaviours) == 1 else None, runs[0].score_name, title)


def plot_run_losses(folder: Path, path: Path) -> None:
    """The losses of a run over the updates of all its phases, and those on held-out episodes.

    path: as of `plot_runs`. Raises: InputError where the folder is no run or holds no metrics.
    """
    losses = _losses(folder)
    if not losses:
        raise InputError(f"{folder}: holds no losses to plot")
    _draw_losses(folder, losses, path)


def _draw_losses(folder: Path, losses: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    from tether.plots.losses import plot_losses

    config = parse_json(read_bytes(folder / "config.json"))
    ends = np.cumsum([phase["updates"] for phase in config["phases"]])[:-1]
    plot_losses(
        path, losses, [end for end in ends.tolist() if end], f"{config['algorithm']} on {config['data']['dataset']}"
    )


def _losses(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Loss -> (updates of all phases, (lanes, T) values), where a lane had a number. Raises: InputError as
    `read_curves`."""
    losses = read_curves(folder).losses
    config = parse_json(read_bytes(folder / "config.json"))
    lengths = [phase["updates"] for phase in config["phases"]]
    begins = dict(zip((phase["name"] for phase in config["phases"]), np.cumsum([0, *lengths]).tolist(), strict=False))
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for key, (updates, values) in losses.items():
        phase, _, name = key.partition("/")
        there = np.isfinite(values).any(axis=0)
        if not name.endswith(("loss", "nll", "error")) or not there.any():
            continue
        own = updates[there] + begins.get(phase, 0), values[:, there]
        before = found.get(name)
        found[name] = own if before is None else (np.append(before[0], own[0]), np.hstack([before[1], own[1]]))
    return found


def _names(runs: Sequence["_StoredRun"]) -> tuple[str, list[str]]:
    """(title, a name for each run): the title says what they share, the names in what they differ."""
    first, algorithms, datasets = runs[0], [run.algorithm for run in runs], {run.dataset for run in runs}
    whole = f"{first.algorithm} on {first.dataset}"
    if len(runs) == 1:
        return (whole, [""]) if len(first.arms) > 1 else (first.dataset, algorithms)
    if len({(run.algorithm, run.dataset) for run in runs}) < len(runs):
        folders = [run.folder.resolve().name for run in runs]
        names = folders if len(set(folders)) == len(runs) else [str(run.folder) for run in runs]
        alike = len(set(algorithms)) == len(datasets) == 1
        return (whole if alike else first.dataset if len(datasets) == 1 else first.environment), names
    if len(datasets) == 1:
        return first.dataset, algorithms
    return first.environment, [f"{run.algorithm}, {run.dataset}" for run in runs]


def curve_of(
    label: str,
    rows: Sequence[Mapping[str, Any]],
    lanes: Sequence[int],
    *,
    most_points: int | None = None,
    resamples: int = 2000,
    earlier: Sequence[Mapping[str, Any]] = (),
    online_from: int | None = None,
    statistic: Statistic | None = None,
) -> Any:
    """The line of some lanes. One that lacks episodes at an update, as it has diverged, does not count there.

    rows: all of the run, which choose the line's statistic as they do in its result, and say how many episodes a whole
    evaluation has.
    most_points: so many evaluations at most, evenly, the last one among them. resamples: of each interval.
    earlier: rows of whole evaluations of the run that it went on from. online_from: as of `Curve`.
    statistic: of each evaluation; None: that of the run's result.
    """
    from tether.plots.curves import Curve

    statistic = statistic or statistic_of_run(rows)
    scores: dict[tuple[int, int], list[float]] = {}
    for row in (*earlier, *_whole(rows)):
        scores.setdefault((row["update"], row["lane"]), []).append(score_of(row))
    updates, episodes = sorted({update for update, _ in scores}), max(map(len, scores.values()))
    if most_points is not None and len(updates) > most_points:
        places = np.linspace(0, len(updates) - 1, most_points).round().astype(int)
        updates = [updates[place] for place in places]
    own, summaries = np.full((len(lanes), len(updates)), np.nan), np.full((3, len(updates)), np.nan)
    name = "IQM"
    for column, update in enumerate(updates):
        found = [scores.get((update, lane), []) for lane in lanes]
        whole = [len(values) > 0 and np.isfinite(values).all() for values in found]
        for lane, values in enumerate(found):
            own[lane, column] = statistic(np.asarray(values)) if whole[lane] else np.nan
        if any(whole):
            counted = [values for values, counts in zip(found, whole, strict=True) if counts]
            summary = aggregate(np.asarray(counted), resamples, statistic=statistic)
            summaries[:, column], name = (summary.iqm, summary.ci95_low, summary.ci95_high), summary.statistic
    middle, low, high = summaries
    return Curve(label, np.asarray(updates), middle, low, high, own, episodes, online_from, name)


def _whole(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of a run without those of lanes that lack episodes at an update, as after a kill; each row once."""
    table = {(row["update"], row["lane"], row["episode"]): row for row in rows}
    counts = Counter(key[:2] for key in table)
    episodes = max(counts.values(), default=0)
    return [row for key, row in table.items() if counts[key[:2]] == episodes]


def lane_score(lane: Mapping[str, Any]) -> float | None:
    """Score of a lane of result.json; those of tether 0.1 had only normalised ones."""
    return lane.get("score", lane["normalized_score"])


def _by_arm(arms: Sequence[Arm], scores: dict[int, np.ndarray], statistic: Statistic) -> dict[str, Summary]:
    """Name of an arm -> summary of its lanes, where any has scores."""
    own = {arm.name: [scores[lane] for lane in arm.lanes if lane in scores] for arm in arms}
    return {name: aggregate(np.asarray(values), statistic=statistic) for name, values in own.items() if values}


def _result(run: Any, report: Report, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of result.json (design section 4)."""
    plan, summary = run.plan, report.last
    normalised = plan.task is not None and plan.task.has_references
    final = [row for row in rows if row["update"] == report.updates]
    lanes = [
        {
            "seed": lane.seed,
            "settings": dict(lane.swept),
            "score": report.lane_scores.get(index),
            "normalized_score": report.lane_scores.get(index) if normalised else None,
            "returns": [row["return"] for row in final if row["lane"] == index],
            "diverged": report.diverged.get(index),
        }
        for index, lane in enumerate(plan.lanes)
    ]
    return {
        "algorithm": plan.algorithm_name,
        "dataset": plan.prepared.record["dataset"],
        "score": report.score_name or None,
        "status": report.status,
        "stopped_early": report.stopped_early,
        "lanes": lanes,
        "iqm": summary.iqm if summary else None,
        "ci95": [summary.ci95_low, summary.ci95_high] if summary else None,
        "behaviour": dataclasses.asdict(report.behaviour) if report.behaviour else None,
        "last": dataclasses.asdict(summary) if summary else None,
        "best": {"update": report.best_update, **dataclasses.asdict(report.best)} if report.best else None,
        "updates": report.updates,
        **run.own_record(),
        "alarms": [alarm._asdict() for alarm in alarms_of(run.records.metrics.read(), run.reachable)],
        "updates_per_second": report.updates_per_second,
        "compile_seconds": run.seconds["compile"],
        "compiled": run.compiled,
        "seconds_to_first_update": run.seconds_to_first_update,
        **run.evaluation_record(),
        "wall_seconds": run.seconds["wall"],
        "memory": run.memory_record(),
    }


class _StoredRun(NamedTuple):
    """What a picture needs of a run folder."""

    folder: Path
    algorithm: str
    dataset: str
    environment: str
    score_name: str
    arms: list[tuple[str, tuple[int, ...]]]  # (name, its lanes); the name is "" where nothing was swept
    rows: list[dict[str, Any]]  # of evaluations.jsonl
    earlier: list[Mapping[str, Any]]  # of whole evaluations of the run that it went on from, until there
    behaviour: float | None  # interquartile mean of the data's episodes
    online_from: int | None  # the update from which on it was fine-tuned


def _read_run(folder: Path, after: tuple[Path, ...] = ()) -> _StoredRun:
    """Raises InputError where it is none, or holds no evaluations. after: folders of runs that went on from it."""
    try:
        config = parse_json(read_bytes(folder / "config.json"))
        settings, lanes = zip(*lanes_by_setting(config), strict=True)
        arms = list(zip(swept_names(settings), lanes, strict=True))
        what = config["algorithm"], config["data"]["dataset"], config["environment"]
        score_name = config.get("score") or "normalised score"  # runs of tether 0.1 do not say
    except OSError as error:
        raise InputError(f"{folder}: not a run folder: config.json: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'config.json'}: truncated or altered: {type(error).__name__} {error}") from None
    rows = evaluation_log(folder).read()
    if not rows:
        raise InputError(f"{folder}: holds no evaluations to plot")
    earlier, online_from = _offline_part((*after, folder.resolve()), config)
    return _StoredRun(folder, *what, score_name, arms, rows, earlier, _stored_behaviour(folder), online_from)


def _offline_part(runs: tuple[Path, ...], config: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], int | None]:
    """The whole evaluations of the run that a fine-tuned one went on from, and the update of that; none where it is not
    there any more. Folders that were moved together are found beside each other.

    runs: folders of runs of which each went on from the next, the last with this config: none is its own parent."""
    parent = (config.get("finetuning") or {}).get("parent")
    if parent is None:
        return [], None
    for place in (Path(parent["folder"]), runs[-1].parent / Path(parent["folder"]).name):
        if place.resolve() in runs:
            continue
        try:
            before = _read_run(place, runs)
        except InputError:
            continue
        lanes = sum(len(own) for _, own in before.arms)
        if before.environment == config["environment"] and lanes == len(config["lanes"]):
            rows = [row for row in (*before.earlier, *_whole(before.rows)) if row["update"] < parent["update"]]
            return rows, parent["update"] if before.online_from is None else before.online_from
    return [], parent["update"]


def _stored_behaviour(folder: Path) -> float | None:
    try:
        behaviour = parse_json(read_bytes(folder / "result.json"))["behaviour"]
        return None if behaviour is None else behaviour["iqm"]
    except (OSError, ValueError, KeyError, TypeError):  # not finished
        return None
