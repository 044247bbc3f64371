"""Figures of a report: curves of each task with what is published, performance profiles, intervals of aggregates."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tether.errors import shortened
from tether.evaluation.aggregates import (
    interval_of,
    optimality_gap,
    performance_profile,
    pooled_interquartile_mean,
    pooled_mean,
    profile_band,
)
from tether.plots.curves import Curve, Style, plot_curves
from tether.plots.figures import MUTED, new_figure, save_figure, score_words, style_axes
from tether.runs.records import JsonLines
from tether.runs.report import curve_of
from tether.studies.report.material import Material
from tether.studies.reproduce.bands import Number, all_tables
from tether.studies.reproduce.outcomes import decides_alike
from tether.studies.reproduce.targets import trained_as

__all__ = ["FORMATS", "draw_figures"]

FORMATS = ("svg", "pdf")
MOST_POINTS = 25  # of a curve: a page is no archive
RESAMPLES = 200  # of each point's interval, and of profiles
POINTS = 101
MOST_LETTERS = 100  # of a task's name in a file's
NO_SEEDS = "; a method with single seeds has none"
AGGREGATES = {"mean": pooled_mean, "IQM": pooled_interquartile_mean, "optimality gap": optimality_gap}


def draw_figures(material: Material, folder: Path) -> dict[str, str]:
    """Write every figure as SVG and PDF -> its caption, by name. OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = {}
    for number, task in enumerate(material.tasks, 1):
        name = f"curves-{re.sub(r'[^A-Za-z0-9._-]', '-', task)[:MOST_LETTERS]}"
        name = f"{name}-{number}" if name in captions else name
        curves = _curves(material, task)
        if curves:
            for kind in FORMATS:
                plot_curves(folder / f"{name}.{kind}", curves, None, material.score_on(task), shortened(task, 60))
            captions[name] = f"Score over updates on {task}."
    methods = _methods_on_all_tasks(material)
    comparable = len(material.score_names) == 1 and material.score_name != "return"
    if methods and comparable and len(methods) * len(material.tasks) > 1:
        _profiles(material, methods, folder)
        captions["profiles"] = (
            "Performance profiles: the share of runs (seeds of tasks) that score more than each threshold, with "
            f"pointwise 95 % intervals of a bootstrap over seeds, stratified by task{NO_SEEDS}."
        )
        _aggregates(material, methods, folder)
        captions["aggregates"] = (
            "Mean, interquartile mean and optimality gap (100 - E[min(score, 100)], smaller is better) over tasks, "
            f"with 95 % intervals of a bootstrap over seeds, stratified by task{NO_SEEDS}."
        )
    return captions


def _methods_on_all_tasks(material: Material) -> list[str]:
    return [name for name in material.runs if all(len(material.scores(name, task)) for task in material.tasks)]


def _has_seeds(scores: Sequence[np.ndarray]) -> bool:
    """Whether a bootstrap over seeds says anything: of one seed it is always the same number."""
    return any(len(task) > 1 for task in scores)


def _curves(material: Material, task: str) -> list[Curve]:
    """A line for each method, and for what is published of it along training."""
    found, published = [], {}
    for method, runs in material.runs.items():
        own = [run for run in runs if material.task_of(run) == task]
        for number, run in enumerate(own):
            label = method if len(own) == 1 else f"{method} ({run.folder.name})"
            rows = JsonLines(run.folder / "evaluations.jsonl").read()
            # Means, as the report's tables and the published curves are.
            how = {"most_points": MOST_POINTS, "resamples": RESAMPLES, "statistic": np.mean}
            found.append(curve_of(label, rows, run.lanes, **how))
            if number == 0 and (numbers := _published(run.config, run.task, run.updates)):
                label = f"{numbers[0].method}, published"  # once, however many settings of it there are
                published[label] = _published_curve(label, numbers)
    return [*found, *published.values()]


def _published(config: Mapping[str, Any], task: str, updates: int) -> list[Number]:
    """The points of a published curve of what a run trains on the task, as far as the run has come."""
    for table in all_tables().values():
        if table.curve in ("", None) and "curve" not in table.name:
            continue
        for method in table.methods:
            algorithm, options = trained_as(table, method)
            if algorithm == config["algorithm"] and decides_alike(config, options):
                numbers = [n for n in table.find(task, method) if n.updates and n.updates <= 1.25 * updates]
                if len(numbers) > 1 or (numbers and table.band):
                    return numbers
    return []


def _published_curve(label: str, numbers: Sequence[Number]) -> Curve:
    values = np.array([n.value for n in numbers], float)
    low = np.array([n.value if n.low is None else n.low for n in numbers], float)
    high = np.array([n.value if n.high is None else n.high for n in numbers], float)
    return Curve(label, np.array([n.updates for n in numbers]), values, low, high, values[None], 0, statistic="mean")


def _profiles(material: Material, methods: Sequence[str], folder: Path) -> None:
    figure = new_figure((8.0, 4.2))
    axes: Any = figure.subplots()
    scores = {name: [material.scores(name, task) for task in material.tasks] for name in methods}
    top = max(100.0, *(float(np.max(task)) for tasks in scores.values() for task in tasks))
    thresholds = np.linspace(min(0.0, *(float(np.min(t)) for ts in scores.values() for t in ts)), top, POINTS)
    for index, (name, tasks) in enumerate(scores.items()):
        style = Style.number(index)
        axes.step(
            thresholds, performance_profile(tasks, thresholds), color=style.colour, linestyle=style.dashes,
            marker=style.marker, markevery=POINTS // 8, markersize=4, label=name, where="post",
        )  # fmt: skip
        if _has_seeds(tasks):
            low, high = profile_band(tasks, thresholds, RESAMPLES)
            axes.fill_between(thresholds, low, high, color=style.colour, alpha=0.15, step="post", linewidth=0)
    style_axes(axes, score_words(material.score_name), "share of runs above", "Performance profiles")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(frameon=False, fontsize=9, labelcolor=MUTED)
    for kind in FORMATS:
        save_figure(figure, folder / f"profiles.{kind}")


def _aggregates(material: Material, methods: Sequence[str], folder: Path) -> None:
    figure = new_figure((8.0, 1.2 + 0.34 * len(methods)))
    panels: Any = figure.subplots(1, len(AGGREGATES), sharey=True)
    for axes, (title, statistic) in zip(panels, AGGREGATES.items(), strict=True):
        for index, name in enumerate(methods):
            scores, style = [material.scores(name, task) for task in material.tasks], Style.number(index)
            value = statistic(scores)
            if _has_seeds(scores):
                ends = interval_of(statistic, scores, resamples=RESAMPLES)
                axes.plot(ends, [index, index], color=style.colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.plot(value, index, marker=style.marker, color=style.colour, markersize=7)
            axes.annotate(f"{value:.1f}", (value, index), (0, 7), textcoords="offset points", ha="center", fontsize=8)
        style_axes(axes, material.score_name, "", title)
        axes.margins(y=0.35)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    for kind in FORMATS:
        save_figure(figure, folder / f"aggregates.{kind}")
