"""Figures: how all pictures look, and how they become files. No display is needed; same numbers, same bytes."""

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tether.errors import InputError
from tether.machine.files import atomic_write_bytes

__all__ = [
    "FORMATS",
    "MUTED",
    "PALETTE",
    "TEXT",
    "figure_bytes",
    "new_figure",
    "picture_format",
    "save_figure",
    "score_words",
    "short_count",
    "style_axes",
    "style_frame",
]

DOTS_PER_INCH = 160
# Okabe and Ito's colours, told apart by the colour-blind; yellow is left out, too pale for a line on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TEXT, MUTED, GRID = "#222222", "#6B6B6B", "#E4E4E4"
FORMATS: dict[str, dict[str, Any]] = {  # ending of a file's name -> metadata, without the time and program of writing
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}


def new_figure(size_inches: tuple[float, float], dots_per_inch: int = DOTS_PER_INCH) -> Figure:
    """An empty figure (width, height) that needs no display."""
    figure = Figure(figsize=size_inches, dpi=dots_per_inch, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture_format(path: Path) -> str:
    """The format that the name asks for: pdf, png or svg. Raises InputError for any other ending."""
    ending = path.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        names = ", ".join(f".{name}" for name in FORMATS)
        raise InputError(f"{path}: a picture's name ends in one of {names}")
    return ending


def figure_bytes(figure: Figure, kind: str = "png") -> bytes:
    """The figure as a file of one of `FORMATS`."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "tether"}):  # else ids of an SVG are drawn at random
        figure.savefig(buffer, format=kind, metadata=FORMATS[kind])
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write the file atomically, in the format of its name. Raises: InputError as `picture_format`; OSError."""
    atomic_write_bytes(path, figure_bytes(figure, picture_format(path)))


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


def score_words(score_name: str) -> str:
    """What `Task.score_name` means, for an axis that is read without the documentation."""
    meaning = {"normalised score": " (0: random policy, 100: expert)", "return": " of an episode"}
    return score_name + meaning.get(score_name, "")


def short_count(value: float) -> str:
    """1500 -> 1.5k, 2000000 -> 2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
