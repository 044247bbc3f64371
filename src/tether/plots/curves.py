"""Learning curves: score over updates, one colour per curve, labelled in the picture instead of in a legend.

The line is the mean over lanes, the band reaches from the lowest to the highest lane, thin lines are single
lanes. A lane counts as long as its score is finite; where it ends before the others a cross marks its end.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tether.errors import InputError
from tether.machine.files import atomic_write_bytes

__all__ = [
    "Curve",
    "new_figure",
    "plot_curves",
    "plot_panels",
    "png_bytes",
    "short_count",
    "style_axes",
    "style_frame",
]

SIZE_INCHES, DOTS_PER_INCH = (8.0, 4.5), 160
PANEL_INCHES, PANEL_COLUMNS = (4.0, 2.6), 3
# Okabe and Ito's colours, told apart by the colour-blind; yellow is left out, too pale for a line on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TEXT, MUTED, GRID = "#222222", "#6B6B6B", "#E4E4E4"
MOST_SINGLE_LINES = 10  # with more thin lines than this in the picture only the bands are drawn
LABEL_DISTANCE = 0.062  # of the height of the axes, between two labels at the right edge
LONGEST_LABEL = 28  # characters; longer ones would leave no room for the curves


@dataclass(frozen=True)
class Curve:
    """Scores of one run: `updates` (T,) and `scores` (lanes, T), NaN where a lane has diverged."""

    label: str
    updates: np.ndarray
    scores: np.ndarray

    def __post_init__(self):
        shape = np.shape(self.scores)
        if len(shape) != 2 or 0 in shape or np.shape(self.updates) != shape[1:]:
            shapes = f"updates {np.shape(self.updates)} and scores {shape}"
            raise InputError(f"curve {self.label!r}: {shapes} must be (T,) and (lanes, T)")


class _Label(NamedTuple):
    """What is written where a line ends."""

    score: float  # NaN: the curve has no finite score
    name: str
    colour: str


def plot_curves(path: Path, curves: list[Curve], behaviour_score: float | None, ylabel: str, title: str = "") -> None:
    """Draw `curves` to the PNG file `path` (1280 x 720 pixels, written atomically).

    behaviour_score: the score of the policy that collected the data, drawn as a dashed line; None: no line.
    Raises: InputError without curves; OSError where the file cannot be written.
    """
    if not curves:
        raise InputError("there is no curve to plot")
    figure = new_figure(SIZE_INCHES)
    axes = figure.add_subplot()
    style_axes(axes, "updates", ylabel, title)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10], integer=True))
    singles = sum(len(curve.scores) for curve in curves) <= MOST_SINGLE_LINES
    labels = []
    for index, curve in enumerate(curves):
        colour = PALETTE[index % len(PALETTE)]
        labels.append(_Label(_draw_curve(axes, curve, colour, singles), curve.label, colour))
    axes.set_xlim(*_horizontal_limits(curves))
    if behaviour_score is not None:
        axes.axhline(behaviour_score, color=TEXT, linewidth=1.2, linestyle=(0, (5, 4)), zorder=2)
        labels.append(_Label(behaviour_score, "behaviour", TEXT))
    axes.margins(y=0.08)
    _label_ends(axes, labels)
    figure.supxlabel(_caption(curves, singles), fontsize=7.5, color=MUTED, x=0.99, ha="right")
    atomic_write_bytes(path, png_bytes(figure))


def plot_panels(
    path: Path, curves: list[Curve], captions: list[str], behaviour_score: float | None, ylabel: str, title: str = ""
) -> None:
    """Draw each curve in a panel of its own, all on the same axes, to the PNG file `path` (written atomically).

    captions: one above each panel. Raises: InputError without curves; OSError where the file cannot be written.
    """
    if not curves:
        raise InputError("there is no curve to plot")
    columns = min(PANEL_COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    size = columns * PANEL_INCHES[0], 0.5 + rows * PANEL_INCHES[1]
    figure = new_figure(size)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for index, (axes, curve, caption) in enumerate(zip(grid.flat, curves, captions, strict=False)):
        style_axes(axes, "updates", ylabel if index % columns == 0 else "", "")
        axes.set_title(caption, loc="left", fontsize=9, color=TEXT, parse_math=False, wrap=True)
        _draw_curve(axes, curve, PALETTE[index % len(PALETTE)], singles=True)
        if behaviour_score is not None:
            axes.axhline(behaviour_score, color=TEXT, linewidth=1.0, linestyle=(0, (5, 4)), zorder=2)
    grid[0, 0].set_xlim(*_horizontal_limits(curves))
    figure.suptitle(title, fontsize=11, color=TEXT, x=0.01, ha="left")
    dashed = "" if behaviour_score is None else "; dashed: behaviour"
    figure.supxlabel(_caption(curves, True) + dashed, fontsize=7.5, color=MUTED, x=0.99, ha="right")
    atomic_write_bytes(path, png_bytes(figure))


def new_figure(size_inches: tuple[float, float], dots_per_inch: int = DOTS_PER_INCH) -> Figure:
    """An empty figure (width, height) that needs no display."""
    figure = Figure(figsize=size_inches, dpi=dots_per_inch, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file: same numbers, same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def style_axes(axes: Axes, xlabel: str, ylabel: str, title: str) -> None:
    """How all pictures look: a light grid, no frame, muted words."""
    axes.set_title(title, loc="left", fontsize=12, color=TEXT, pad=10, parse_math=False)
    axes.set_xlabel(xlabel, fontsize=10, color=MUTED)
    axes.set_ylabel(ylabel, fontsize=10, color=MUTED)
    style_frame(axes, 9.0)


def style_frame(axes: Axes, label_size: float) -> None:
    """The grid and the ticks of `style_axes`; label_size: of the ticks, in points."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=label_size, labelcolor=MUTED)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)


def _draw_curve(axes: Axes, curve: Curve, colour: str, singles: bool) -> float:
    """Draw band, lanes and mean; returns the last mean (NaN without any finite score)."""
    scores = np.where(np.isfinite(curve.scores), curve.scores, np.nan).astype(np.float64)
    _mark_diverged(axes, curve.updates, scores, colour)
    some = np.isfinite(scores).any(axis=0)  # a column without any score has neither mean nor range
    if not some.any():
        return float("nan")
    updates, scores, lanes = curve.updates[some], scores[:, some], len(scores)
    low, mean, high = np.nanmin(scores, axis=0), np.nanmean(scores, axis=0), np.nanmax(scores, axis=0)
    if lanes > 1 and len(updates) > 1:
        axes.fill_between(updates, low, high, color=colour, alpha=0.13, linewidth=0)
    if lanes > 1 and len(updates) == 1:  # a band without width would not be seen
        axes.vlines(updates, low, high, color=colour, alpha=0.13, linewidth=12)
    if lanes > 1 and singles:
        dash = "_" if len(updates) == 1 else None
        axes.plot(updates, scores.T, color=colour, linewidth=0.7, alpha=0.45, marker=dash, markersize=8)
    dot = "o" if len(updates) <= 25 else None
    axes.plot(updates, mean, color=colour, linewidth=2, marker=dot, markersize=4, zorder=3)
    return float(mean[-1])


def _mark_diverged(axes: Axes, updates: np.ndarray, scores: Float[np.ndarray, "lanes T"], colour: str) -> None:
    """A cross at the last score of every lane that has none at the end."""
    for lane in scores:
        last = np.flatnonzero(np.isfinite(lane)).max(initial=-1)
        if 0 <= last < len(lane) - 1:
            axes.plot(updates[last], lane[last], "x", color=colour, markersize=6, zorder=4)


def _horizontal_limits(curves: list[Curve]) -> tuple[float, float]:
    updates = np.concatenate([curve.updates for curve in curves])
    low, high = float(updates.min()), float(updates.max())
    margin = 0.02 * (high - low) or max(1.0, 0.1 * abs(high))  # a single point sits in the middle
    return low - margin, high + margin


def _label_ends(axes: Axes, labels: list[_Label]) -> None:
    """Write name and score beside the right edge, at the height where the line ends or near it."""
    axes.autoscale_view(scalex=False)
    low, high = axes.get_ylim()
    ends = np.array([label.score if np.isfinite(label.score) else low for label in labels])
    for label, height in zip(labels, _apart((ends - low) / (high - low), LABEL_DISTANCE), strict=True):
        name = label.name if len(label.name) <= LONGEST_LABEL else f"{label.name[: LONGEST_LABEL - 1]}…"
        axes.annotate(
            f"{name}  {label.score:.1f}" if np.isfinite(label.score) else f"{name}  diverged",
            xy=(1.0, height),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            fontweight="normal" if label.colour == TEXT else "bold",
            color=label.colour,
            parse_math=False,
        )


def _apart(heights: Float[np.ndarray, " n"], distance: float) -> Float[np.ndarray, " n"]:
    """The nearest heights (least squares) in the same order with neighbours at least `distance` apart.

    With i * distance taken from the i-th smallest, "apart" becomes "not falling": isotonic regression, solved
    by merging neighbours that are out of order into blocks that share their mean.
    """
    order = np.argsort(heights, kind="stable")
    steps = distance * np.arange(len(heights))
    blocks: list[list[float]] = []
    for height in heights[order] - steps:
        blocks.append([height])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    apart = np.empty_like(heights)
    apart[order] = np.concatenate([np.full(len(block), np.mean(block)) for block in blocks]) + steps
    return apart


def _caption(curves: list[Curve], singles: bool) -> str:
    lanes = sorted({len(curve.scores) for curve in curves})
    if lanes == [1]:
        return "one lane"
    count = f"{lanes[0]}" if len(lanes) == 1 else f"{lanes[0]} to {lanes[-1]}"
    thin = ", thin: single lanes" if singles else ""
    ended = any(not np.isfinite(curve.scores[:, -1]).all() for curve in curves)
    return f"{count} lanes; line: mean, band: lowest to highest{thin}" + ("; cross: diverged" if ended else "")


def short_count(value: float) -> str:
    """1500 -> 1.5k, 2000000 -> 2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
