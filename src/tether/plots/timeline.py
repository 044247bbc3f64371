"""When the processes of a run trained, waited and evaluated: a bar for each process."""

from collections.abc import Sequence
from pathlib import Path

from tether.plots.figures import MUTED, TEXT, new_figure, picture_format, save_figure, style_frame

__all__ = ["plot_timeline"]

FIRST = "training"  # the process at the top
COLOURS = {  # what is done -> colour and words, in the order of the legend
    "train": ("#0072B2", "trains"),
    "wait": ("#D55E00", "waits for evaluations"),
    "evaluate": ("#E69F00", "plays episodes"),
    "compile": ("#999999", "compiles"),
    "save": ("#000000", "writes a checkpoint"),
    "start": ("#CFCFCF", "starts"),
}
EDGE = 0.4  # points, so that one evaluation can be told from the next


def plot_timeline(path: Path, title: str, bars: Sequence[tuple[str, str, float, float]]) -> None:
    """Draw `bars` to the file `path` (.pdf, .png or .svg), written atomically.

    bars: (process, one of `COLOURS`, start, end), in seconds since the run began; at least one.
    Raises: InputError for a name of another ending; OSError where the file cannot be written.
    """
    picture_format(path)
    processes = sorted({process for process, *_ in bars}, key=lambda name: (name != FIRST, name))
    figure = new_figure((8.0, 1.5 + 0.38 * len(processes)))
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, color=TEXT, pad=22, parse_math=False)
    style_frame(axes, 9.0)
    axes.grid(visible=False, axis="y")
    for what, (colour, words) in COLOURS.items():
        own = [bar for bar in bars if bar[1] == what]
        for process in processes:
            spans = [(start, end - start) for name, _, start, end in own if name == process]
            row = processes.index(process)
            axes.broken_barh(spans, (row - 0.36, 0.72), facecolor=colour, edgecolor="white", linewidth=EDGE)
        if own:
            axes.plot([], [], "s", color=colour, markersize=8, label=words)
    axes.set_yticks(range(len(processes)), processes)
    axes.set_ylim(len(processes) - 0.4, -0.6)
    axes.set_xlim(0.0, max(end for *_, end in bars))
    axes.set_xlabel("seconds since the run began", fontsize=10, color=MUTED)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=6, frameon=False, fontsize=8, labelcolor=MUTED,
        handletextpad=0.1, columnspacing=1.0, borderpad=0.0,
    )  # fmt: skip
    save_figure(figure, path)
