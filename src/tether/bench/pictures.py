"""The figures as pictures: time against lanes, and how far from the machine's limits every algorithm is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tether.errors import InputError
from tether.plots.figures import MUTED, PALETTE, TEXT, new_figure, save_figure, style_axes, style_frame

__all__ = ["draw_lanes", "draw_limits", "draw_pictures"]

PANEL_INCHES, COLUMNS = (2.7, 2.2), 4
TARGET = 0.7  # of the matmul rate, on a CPU
BAR_INCHES = 0.19


def draw_pictures(figures: Mapping[str, Any], folder: Path) -> list[Path]:
    """lanes.png (where there are several numbers of lanes) and limits.png in `folder`, which is made.

    Raises InputError where nothing was trained; OSError.
    """
    rows = [row for row in figures["results"] if "seconds_per_update" in row]
    if not rows:
        raise InputError("there is no measurement of training to draw")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [folder / "limits.png"]
    draw_limits(drawn[0], figures)
    series = _by_lanes(figures)
    if series:
        drawn.insert(0, folder / "lanes.png")
        draw_lanes(drawn[0], series)
    return drawn


def _by_lanes(figures: Mapping[str, Any]) -> dict[tuple[str, str], dict[int, float]]:
    """(algorithm, phase) -> lanes -> milliseconds of an update, of those measured with several numbers of lanes."""
    series: dict[tuple[str, str], dict[int, float]] = {}
    for row in figures["results"]:
        if "seconds_per_update" in row:
            series.setdefault((row["algorithm"], row["what"]), {})[row["lanes"]] = 1e3 * row["seconds_per_update"]
    return {name: times for name, times in series.items() if len(times) > 1}


def draw_lanes(path: Path, series: Mapping[tuple[str, str], Mapping[int, float]]) -> None:
    """Milliseconds of an update of all lanes against their number, a panel for each phase of an algorithm; dashed what
    as many single lanes would take."""
    columns = min(COLUMNS, len(series))
    rows = -(-len(series) // columns)
    figure = new_figure((columns * PANEL_INCHES[0], 0.6 + rows * PANEL_INCHES[1]))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(series) :]:
        axes.set_visible(False)
    for index, (axes, ((name, what), times)) in enumerate(zip(grid.flat, series.items(), strict=False)):
        lanes = np.array(sorted(times))
        milliseconds = np.array([times[count] for count in lanes.tolist()])
        style_axes(axes, "lanes" if index >= len(series) - columns else "", "ms" if index % columns == 0 else "", "")
        axes.set_title(f"{name}, {what}", loc="left", fontsize=9, color=TEXT, parse_math=False)
        axes.plot(lanes, milliseconds[0] * lanes / lanes[0], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.plot(lanes, milliseconds, color=PALETTE[0], linewidth=2, marker="o", markersize=3.5)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(lanes, [str(count) for count in lanes.tolist()])
    caption = "line: one update of all lanes; dashed: as many times the first"
    figure.supxlabel(caption, fontsize=7.5, color=MUTED, x=0.99, ha="right")
    save_figure(figure, path)


def draw_limits(path: Path, figures: Mapping[str, Any]) -> None:
    """On a CPU the fraction of the matmul rate that every phase reaches with one lane, sorted; on an accelerator the
    time of its update beside the time that its matmuls alone would take and that of an empty program."""
    rows = [row for row in figures["results"] if "seconds_per_update" in row]
    fewest = min(row["lanes"] for row in rows)
    rows = [row for row in rows if row["lanes"] == fewest]
    on_cpu = all(run["machine"]["backend"] == "cpu" for run in figures["runs"])
    key = "fraction_of_matmul_rate" if on_cpu else "seconds_per_update"
    rows.sort(key=lambda row: row[key], reverse=not on_cpu)
    figure = new_figure((7.0, 1.0 + BAR_INCHES * len(rows)))
    axes = figure.add_subplot()
    names, places = [f"{row['algorithm']}, {row['what']}" for row in rows], np.arange(len(rows))
    lanes = f"{fewest} lane{'s' if fewest > 1 else ''}"
    if on_cpu:
        style_axes(axes, f"fraction of the matmul rate of the same process, {lanes}", "", "")
        axes.barh(places, [row[key] for row in rows], color=PALETTE[0], height=0.7)
        axes.axvline(TARGET, color=TEXT, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set_xlim(0.0, max(1.0, *(row[key] for row in rows)))
    else:
        style_axes(axes, f"microseconds of an update, {lanes}", "", "")
        floor = [1e6 * fewest * row["matmul_flops_per_update"] / (1e9 * row["matmul_rate_gflops"]) for row in rows]
        axes.plot([1e6 * row[key] for row in rows], places, "o", color=PALETTE[0], label="an update")
        axes.plot(floor, places, "|", color=PALETTE[1], markersize=10, label="its matmuls at a plain matmul's rate")
        launch = [run["launch_seconds"] for run in figures["runs"] if "launch_seconds" in run]
        if launch:
            axes.axvline(1e6 * min(launch), color=TEXT, linewidth=1.0, linestyle=(0, (4, 3)), label="an empty program")
        axes.set_xscale("log")
        axes.legend(fontsize=7.5, frameon=False, loc="lower left")
    axes.set_yticks(places, names, parse_math=False)
    style_frame(axes, 7.5)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    save_figure(figure, path)
