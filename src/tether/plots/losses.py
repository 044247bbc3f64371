"""The picture of a run's losses over updates, beside those on held-out episodes where it has such."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tether.errors import InputError
from tether.plots.figures import MUTED, PALETTE, TEXT, new_figure, picture_format, save_figure, short_count, style_axes

__all__ = ["VALIDATION", "plot_losses"]

VALIDATION = "validation/"
PANEL_INCHES, COLUMNS = (4.0, 2.6), 3
Points = tuple[np.ndarray, np.ndarray]
"""(T,) updates and (lanes, T) values, NaN where a lane has none."""


def plot_losses(path: Path, losses: Mapping[str, Points], phase_ends: Sequence[int], title: str) -> None:
    """Draw each metric in a panel of its own, training solid, held-out dashed, to the file `path`.

    losses: NAME, and "validation/NAME" for the same on held-out episodes -> points, over the updates of all phases.
    phase_ends: the updates at which a phase but the last ends.
    Raises: InputError without losses or for a name of another ending; OSError where the file cannot be written.
    """
    picture_format(path)
    names = [name for name in losses if not name.startswith(VALIDATION)]
    if not names:
        raise InputError("there is no loss to plot")
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure((columns * PANEL_INCHES[0], 0.6 + rows * PANEL_INCHES[1]))
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for index, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        lowest = index + columns >= len(names)
        style_axes(axes, "training updates" if lowest else "", "", "")
        axes.tick_params(labelbottom=lowest)
        axes.set_title(name, loc="left", fontsize=9, color=TEXT, parse_math=False)
        for key, colour, dashes in ((name, PALETTE[0], "solid"), (VALIDATION + name, PALETTE[1], (0, (5, 2)))):
            if key not in losses:
                continue
            updates, values = losses[key]
            axes.plot(updates, values.T, color=colour, linewidth=0.6, alpha=0.4, linestyle=dashes)
            with np.errstate(all="ignore"):
                middle = np.nanmean(values, axis=0) if np.isfinite(values).any() else values[0]
            axes.plot(updates, middle, color=colour, linewidth=1.8, linestyle=dashes, zorder=3)
        for end in phase_ends:
            axes.axvline(end, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set_xlim(left=0.0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=True))
    figure.suptitle(title, fontsize=11, color=TEXT, x=0.01, ha="left", parse_math=False)
    held_out = "dashed: on held-out episodes; " if any(name.startswith(VALIDATION) for name in losses) else ""
    caption = f"solid: training; {held_out}thick: mean over lanes; dotted: a phase ends"
    figure.supxlabel(caption, fontsize=7.5, color=MUTED, x=0.99, ha="right", parse_math=False)
    save_figure(figure, path)
