"""Learning curves: score over updates, one line per curve, named where it ends instead of in a legend.

The line is the interquartile mean over lanes and episodes, the band its 95 % interval, thin lines are single lanes. A
lane counts as long as its score is finite; where it ends before the others a cross marks its end. Lines differ in
colour, marker and dashes, so that they are told apart in grey, too.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

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

__all__ = ["Curve", "plot_curves", "plot_panels"]

WIDTH_INCHES, HEIGHT_INCHES = 8.0, 4.5
LABEL_INCHES = 0.225  # of height for each label; where there are many the picture grows
LETTER_INCHES = 0.085  # of width for each letter of the longest label beyond those that there is room for
SHORT_LABEL, LONGEST_LABEL = 28, 44  # letters: there is room for; shown
CAPTION_LETTERS_PER_INCH = 17.5
GUTTER = 0.07  # of the width of the curves, between them and their labels
PANEL_INCHES, PANEL_COLUMNS = (4.0, 2.6), 3
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("solid", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKS = 10  # on a line, at most
WORDS = {"IQM": "interquartile mean", "mean": "mean"}
BEHAVIOUR_DASHES = (0, (5, 4))
ONLINE_DASHES = (0, (1, 2))
MOST_SINGLE_LINES = 10  # with more thin lines than this in the picture only the bands are drawn
MOST_BANDS = 7  # with more curves than this, bands would hide the lines: intervals stand in the labels


@dataclass(frozen=True)
class Curve:
    """What one line shows; NaN where there is no score (a lane that has diverged).

    updates: (T,). middle, low, high: (T,), `statistic` over lanes and episodes, and its 95 % interval.
    lanes: (lanes, T), the same of each lane's own episodes. episodes: of each lane in an evaluation; 0 of what is
        published, which is no run's.
    online_from: the update from which on the policy also learned from its environment; None: it never did.
    statistic: "IQM", the interquartile mean, or "mean".
    """

    label: str
    updates: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    lanes: np.ndarray
    episodes: int
    online_from: int | None = None
    statistic: str = "IQM"

    def __post_init__(self):
        shape, points = np.shape(self.lanes), np.shape(self.updates)
        summaries = [np.shape(values) for values in (self.middle, self.low, self.high)]
        if len(shape) != 2 or 0 in shape or points != shape[1:] or summaries != [points] * 3:
            shapes = f"updates {points}, summaries {summaries} and lanes {shape}"
            raise InputError(f"curve {self.label!r}: {shapes} must be (T,), (T,) and (lanes, T)")


class Style(NamedTuple):
    """How a line looks."""

    colour: str
    dashes: str | tuple[float, tuple[float, ...]]
    marker: str

    @classmethod
    def number(cls, index: int) -> "Style":
        """The style of line number `index`; the first 28 differ."""
        colours = len(PALETTE)
        return cls(PALETTE[index % colours], DASHES[index // colours % len(DASHES)], MARKERS[index % colours])


class _Label(NamedTuple):
    """What is written where a line ends."""

    score: float  # NaN: the curve has no finite score
    text: str
    style: Style | None  # None: the line of the behaviour


def plot_curves(path: Path, curves: list[Curve], behaviour_score: float | None, score_name: str, title: str) -> None:
    """Draw `curves` to the file `path` (.pdf, .png or .svg; as PNG 1280 x 720 pixels, more for many curves).

    behaviour_score: interquartile mean of the episodes in the data, drawn as a dashed line; None: no line.
    Raises: InputError without curves or for a name of another ending; OSError where the file cannot be written.
    """
    picture_format(path)
    if not curves:
        raise InputError("there is no curve to plot")
    banded, singles = len(curves) <= MOST_BANDS, sum(len(curve.lanes) for curve in curves) <= MOST_SINGLE_LINES
    labels = [_curve_label(curve, Style.number(index), banded) for index, curve in enumerate(curves)]
    if behaviour_score is not None:
        labels.append(_Label(behaviour_score, f"behaviour (the data)  {behaviour_score:.1f}", None))
    longest = max(len(label.text) for label in labels)
    width = WIDTH_INCHES + LETTER_INCHES * max(0, longest - SHORT_LABEL)
    figure = new_figure((width, max(HEIGHT_INCHES, 1.2 + LABEL_INCHES * len(labels))))
    axes, gutter = figure.subplots(1, 2, sharey=True, width_ratios=(1, GUTTER), gridspec_kw={"wspace": 0.0})
    style_axes(axes, "training updates", score_words(score_name), title)
    for index, curve in enumerate(curves):
        _draw_curve(axes, curve, Style.number(index), banded, singles)
    _start_at_zero(axes, curves)
    if behaviour_score is not None:
        axes.axhline(behaviour_score, color=TEXT, linewidth=1.2, linestyle=BEHAVIOUR_DASHES, zorder=2)
    for update in {curve.online_from for curve in curves} - {None}:
        axes.axvline(update, color=TEXT, linewidth=1.2, linestyle=ONLINE_DASHES, zorder=2)
    axes.margins(y=0.08)
    _write_caption(figure, _caption(curves, banded, singles, behaviour_score is not None))
    axes.autoscale_view(scalex=False)
    figure.draw_without_rendering()  # now the axes have their height
    _label_ends(gutter, labels, LABEL_INCHES / (axes.get_position().height * figure.get_figheight()))
    save_figure(figure, path)


def plot_panels(
    path: Path, curves: list[Curve], captions: list[str], behaviour_score: float | None, score_name: str, title: str
) -> None:
    """Draw each curve in a panel of its own, all on the same axes, to the file `path`, written atomically.

    captions: one above each panel. The rest as of `plot_curves`.
    """
    picture_format(path)
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
        lowest = index + columns >= len(curves)  # of its column
        style_axes(axes, "training updates" if lowest else "", score_name if index % columns == 0 else "", "")
        axes.tick_params(labelbottom=lowest)
        axes.set_title(caption, loc="left", fontsize=9, color=TEXT, parse_math=False, wrap=True)
        _draw_curve(axes, curve, Style.number(0), banded=True, singles=True)
        if behaviour_score is not None:
            axes.axhline(behaviour_score, color=TEXT, linewidth=1.0, linestyle=BEHAVIOUR_DASHES, zorder=2)
    _start_at_zero(grid[0, 0], curves)
    figure.suptitle(title, fontsize=11, color=TEXT, x=0.01, ha="left")
    _write_caption(figure, _caption(curves, True, True, behaviour_score is not None))
    save_figure(figure, path)


def _curve_label(curve: Curve, style: Style, banded: bool) -> _Label:
    """Name and last score; without bands its interval, too."""
    known = np.flatnonzero(np.isfinite(curve.middle))
    if not known.size:
        return _Label(float("nan"), f"{_shortened(curve.label)}  diverged", style)
    middle, low, high = (float(values[known[-1]]) for values in (curve.middle, curve.low, curve.high))
    interval = "" if banded else f" [{low:.1f}, {high:.1f}]"
    return _Label(middle, f"{_shortened(curve.label)}  {middle:.1f}{interval}".strip(), style)


def _shortened(name: str) -> str:
    """A long name without its middle: folders differ at their ends."""
    half = (LONGEST_LABEL - 1) // 2
    return name if len(name) <= LONGEST_LABEL else f"{name[:half]}…{name[-half:]}"


def _draw_curve(axes: Axes, curve: Curve, style: Style, banded: bool, singles: bool) -> None:
    """Band, single lanes and middle."""
    lanes = np.where(np.isfinite(curve.lanes), curve.lanes, np.nan).astype(np.float64)
    _mark_diverged(axes, curve.updates, lanes, style.colour)
    some = np.isfinite(curve.middle)
    if not some.any():
        return
    updates, lanes = curve.updates[some], lanes[:, some]
    middle, low, high = curve.middle[some], curve.low[some], curve.high[some]
    if banded and len(updates) > 1:
        axes.fill_between(updates, low, high, color=style.colour, alpha=0.15, linewidth=0)
    if banded and len(updates) == 1:  # a band without width would not be seen
        axes.vlines(updates, low, high, color=style.colour, alpha=0.15, linewidth=12)
    if len(lanes) > 1 and singles:
        dash = "_" if len(updates) == 1 else None
        axes.plot(updates, lanes.T, color=style.colour, linewidth=0.7, alpha=0.45, marker=dash, markersize=8)
    every = -(-len(updates) // MARKS)
    axes.plot(
        updates, middle, color=style.colour, linewidth=2 if banded else 1.5, linestyle=style.dashes, zorder=3,
        marker=style.marker, markersize=4.5, markevery=every,
    )  # fmt: skip


def _mark_diverged(axes: Axes, updates: np.ndarray, lanes: Float[np.ndarray, "lanes T"], colour: str) -> None:
    """A cross at the last score of every lane that has none at the end."""
    for lane in lanes:
        last = np.flatnonzero(np.isfinite(lane)).max(initial=-1)
        if 0 <= last < len(lane) - 1:
            axes.plot(updates[last], lane[last], "x", color=colour, markersize=7, zorder=4)


def _start_at_zero(axes: Axes, curves: list[Curve]) -> None:
    """Training begins at update 0, evaluated or not."""
    axes.set_xlim(0.0, 1.02 * max(1.0, *(float(curve.updates.max()) for curve in curves)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10], integer=True))


def _label_ends(gutter: Axes, labels: list[_Label], distance: float) -> None:
    """Write each label beside the axes, at the height where its line ends or near it, with a piece of the line.

    distance: between two labels, of the height of the axes. gutter: narrow axes that share the curves' heights.
    """
    gutter.set_axis_off()
    gutter.set_xlim(0.0, 1.0)
    low, high = gutter.get_ylim()
    ends = np.array([label.score if np.isfinite(label.score) else low for label in labels])
    heights = low + (high - low) * _apart((ends - low) / (high - low), distance)
    for label, end, height in zip(labels, ends, heights, strict=True):
        style = label.style or Style(TEXT, BEHAVIOUR_DASHES, "")
        gutter.plot([0.0, 0.3], [end, height], color=style.colour, linewidth=0.7, alpha=0.7, clip_on=False)
        piece = {"linestyle": style.dashes, "linewidth": 1.5 if label.style else 1.2, "clip_on": False}
        gutter.plot([0.3, 0.6, 0.9], [height] * 3, color=style.colour, **piece)
        gutter.plot([0.6], [height], color=style.colour, marker=style.marker, markersize=4.5, clip_on=False)
        gutter.annotate(
            label.text,
            xy=(1.0, height),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=TEXT,
            annotation_clip=False,
            parse_math=False,
        )
    gutter.set_ylim(low, high)


def _apart(heights: Float[np.ndarray, " n"], distance: float) -> Float[np.ndarray, " n"]:
    """The nearest heights (least squares) in the same order with neighbours at least `distance` apart, all of them
    from 0 to 1 where there is room.

    With i * distance taken from the i-th smallest, "apart" becomes "not falling": isotonic regression, solved
    by merging neighbours that are out of order into blocks that share their mean, then cut off at the bounds.
    """
    order = np.argsort(heights, kind="stable")
    steps = distance * np.arange(len(heights))
    blocks: list[list[float]] = []
    for height in heights[order] - steps:
        blocks.append([height])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    nearest = np.concatenate([np.full(len(block), np.mean(block)) for block in blocks])
    apart = np.empty_like(heights)
    apart[order] = np.clip(nearest, 0.0, max(0.0, 1.0 - steps[-1])) + steps
    return apart


def _write_caption(figure: Figure, caption: str) -> None:
    """Below the axes, in as many lines as the figure is narrow."""
    lines = textwrap.fill(caption, int(CAPTION_LETTERS_PER_INCH * figure.get_figwidth()))
    figure.supxlabel(lines, fontsize=7.5, color=MUTED, x=0.99, ha="right", multialignment="right", parse_math=False)


def _caption(curves: list[Curve], banded: bool, singles: bool, behaviour: bool) -> str:
    """What line, band and the rest are."""
    own = [curve for curve in curves if curve.episodes] or curves
    lanes = _range({len(curve.lanes) for curve in own}, "lane")
    episodes = _range({curve.episodes for curve in own}, "episode")
    many = max(len(curve.lanes) for curve in own) > 1
    interval = "its 95 % bootstrap interval" + ("" if many else " over the episodes")
    statistics = " or ".join(sorted({WORDS[curve.statistic] for curve in curves}))
    parts = [f"line: {statistics} of {lanes} x {episodes}", f"{'band' if banded else 'in brackets'}: {interval}"]
    parts += ["thin: single lanes"] if singles and many else []
    parts += ["cross: diverged"] if any(not np.isfinite(curve.lanes[:, -1]).all() for curve in curves) else []
    parts += ["dashed: the same of the data's episodes"] if behaviour else []
    parts += ["dotted: online from there on"] if any(curve.online_from is not None for curve in curves) else []
    return "; ".join(parts)


def _range(counts: set[int], word: str) -> str:
    """`1 lane`, `3 to 5 lanes`."""
    low, high = min(counts), max(counts)
    return (f"{low}" if low == high else f"{low} to {high}") + f" {word}" + ("s" if high > 1 else "")
