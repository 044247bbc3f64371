"""Score against the cost of training: one labelled point with an error bar per algorithm, one colour per family."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import BboxBase

from tether.errors import InputError
from tether.plots.figures import (
    MUTED,
    PALETTE,
    TEXT,
    new_figure,
    picture_format,
    save_figure,
    score_words,
    short_count,
    style_axes,
)

__all__ = ["Point", "plot_tradeoff"]

SIZE_INCHES = (8.0, 5.4)
MARKER = 7.0  # points across
ANGLES = np.deg2rad([0, 180, 90, 270, 35, 145, 215, 325, 60, 120, 240, 300])  # of labels about their points, best first
DISTANCES = (8.0, 16.0, 26.0, 38.0, 52.0, 70.0)  # points
LEADER_FROM = 16.0  # a label farther away is tied to its point by a line
LOG_FROM = 4.0  # costs that differ by more than this factor are drawn on a logarithmic axis

Boxes = Float[np.ndarray, "boxes 4"]
"""Rectangles in pixels: left, bottom, right, top."""


class Point(NamedTuple):
    """One algorithm: what it cost and how well it did."""

    label: str
    cost: float  # > 0
    score: float
    low: float  # of the score's interval
    high: float
    family: str
    finished: bool = True  # False: drawn hollow


def plot_tradeoff(
    path: Path,
    points: Sequence[Point],
    behaviour_score: float | None,
    *,
    cost_label: str,
    score_name: str = "normalised score",
    title: str,
    caption: str,
    families: Sequence[str] = (),
) -> None:
    """Draw `points` to the file `path` (.pdf, .png or .svg; as PNG 1280 x 864 pixels), written atomically.

    behaviour_score: the score of the policy that collected the data, drawn as a dashed line; None: no line.
    families: all there are, so that a family has its colour whichever others are in the picture.
    Raises: InputError without points, or where one is not finite or its cost not positive; OSError.
    """
    picture_format(path)
    if not points:
        raise InputError("there is no score to plot")
    for point in points:
        if not all(map(math.isfinite, point[1:5])) or point.cost <= 0:
            raise InputError(f"point {point.label!r}: cost {point.cost}, score {point.score}: cannot be drawn")
    figure = new_figure(SIZE_INCHES)
    axes = figure.add_subplot()
    style_axes(axes, cost_label, score_words(score_name), title)
    colours = _colours([point.family for point in points], families)
    for point in points:
        _draw_point(axes, point, colours[point.family])
    _horizontal_axis(axes, [point.cost for point in points])
    if behaviour_score is not None:
        axes.axhline(behaviour_score, color=TEXT, linewidth=1.2, linestyle=(0, (5, 4)), zorder=1)
    axes.margins(y=0.12)
    marks = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for name, colour in colours.items()]
    words = {"title": caption, "title_fontsize": 8, "fontsize": 8, "labelcolor": MUTED}
    legend = figure.legend(handles=marks, loc="outside lower left", ncols=2, frameon=False, alignment="left", **words)
    legend.get_title().set_color(MUTED)
    figure.draw_without_rendering()  # now everything has its place
    figure.set_layout_engine("none")
    _label_points(axes, points, colours, behaviour_score)
    save_figure(figure, path)


def _colours(present: Sequence[str], families: Sequence[str]) -> dict[str, str]:
    """Family -> colour of those present, in the order of `families`."""
    order = list(dict.fromkeys([*families, *present]))
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(order) if name in present}


def _draw_point(axes: Axes, point: Point, colour: str) -> None:
    axes.errorbar(
        point.cost,
        point.score,
        yerr=[[max(0.0, point.score - point.low)], [max(0.0, point.high - point.score)]],
        fmt="o",
        color=colour,
        markersize=MARKER,
        markerfacecolor=colour if point.finished else "white",
        markeredgewidth=1.4,
        elinewidth=1.4,
        capsize=3,
        zorder=3,
    )


def _horizontal_axis(axes: Axes, costs: list[float]) -> None:
    low, high = min(costs), max(costs)
    if high / low > LOG_FROM:
        axes.set_xscale("log")
        margin = (high / low) ** 0.12
        axes.set_xlim(low / margin, high * margin)
        few = high / low < 300  # then whole decades are too few for an axis
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=12))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.15 * (high - low) or 0.5 * high  # a single point sits in the middle
        axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(float(f"{value:.4g}"))))


def _label_points(axes: Axes, points: Sequence[Point], colours: dict[str, str], behaviour: float | None) -> None:
    """Write each name beside its point, where it hides least."""
    frame = _box(axes.get_window_extent())
    taken = [_point_boxes(axes, point) for point in points]
    obstacles = np.concatenate(taken)
    if behaviour is not None:
        height = axes.transData.transform((1.0, behaviour))[1]
        text = axes.annotate(
            f"behaviour (the data)  {behaviour:.1f}",
            xy=(0.0, behaviour),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=9,
            color=TEXT,
        )
        line = [frame[0], height - 1, frame[2], height + 1]
        obstacles = np.concatenate([obstacles, np.array([line, _box(text.get_window_extent())])])
    for index in sorted(range(len(points)), key=lambda index: points[index].cost):
        placed = _place(axes, points[index], colours[points[index].family], obstacles, frame)
        obstacles = np.concatenate([obstacles, placed])


def _place(axes: Axes, point: Point, colour: str, obstacles: Boxes, frame: np.ndarray) -> np.ndarray:
    """Write one name -> its box, [1, 4]."""
    scale = axes.figure.dpi / 72
    centre = axes.transData.transform((point.cost, point.score))
    text = axes.annotate(
        point.label,
        xy=(point.cost, point.score),
        xytext=(0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=9.5,
        fontweight="bold",
        color=colour,
        parse_math=False,
        zorder=5,
    )
    extent = text.get_window_extent()
    half = np.array([extent.width, extent.height]) / 2
    best, best_cost = np.zeros(2), math.inf
    for distance, angle in itertools.product(DISTANCES, ANGLES):
        direction = np.array([math.cos(angle), math.sin(angle)])
        # beside the point a label moves out by its own half width, above it by its half height
        offset = direction * (distance * scale) + half * np.where(np.abs(direction) > 0.3, np.sign(direction), 0.0)
        box = np.concatenate([centre + offset - half, centre + offset + half])
        hidden = _overlap(box, obstacles).sum() / (4 * half[0] * half[1])
        outside = 1 - _overlap(box, frame[None]).sum() / (4 * half[0] * half[1])
        cost = 10 * hidden + 50 * outside + 0.02 * distance + 0.01 * ANGLES.tolist().index(angle)
        if cost < best_cost - 1e-9:
            best, best_cost = offset, cost
    text.set_position(tuple(best / scale))
    reach = np.linalg.norm(np.maximum(np.abs(best) - half, 0.0)) / scale
    if reach > LEADER_FROM:
        end = axes.transData.inverted().transform(centre + best - np.sign(best) * half * (np.abs(best) > half))
        axes.plot([point.cost, end[0]], [point.score, end[1]], color=colour, linewidth=0.7, alpha=0.6, zorder=2)
    return np.concatenate([centre + best - half, centre + best + half])[None]


def _point_boxes(axes: Axes, point: Point) -> Boxes:
    """Pixels of the marker and of the error bar."""
    low, middle, high = axes.transData.transform([(point.cost, y) for y in (point.low, point.score, point.high)])
    radius = MARKER / 2 * axes.figure.dpi / 72 + 2
    marker = [*(middle - radius), *(middle + radius)]
    bar = [low[0] - radius / 2, low[1], high[0] + radius / 2, high[1]]
    return np.array([marker, bar])


def _overlap(box: np.ndarray, others: Boxes) -> Float[np.ndarray, " boxes"]:
    """Areas that `box` shares with each of `others`."""
    size = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return np.prod(np.maximum(size, 0.0), axis=1)


def _box(extent: BboxBase) -> np.ndarray:
    return np.array([extent.x0, extent.y0, extent.x1, extent.y1])
