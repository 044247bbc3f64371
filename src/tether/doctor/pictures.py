"""The report's pictures, as PNG bytes: returns, lengths, rewards, actions, observations, coverage, order."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import NullFormatter

from tether.doctor.logged import Logged
from tether.plots.figures import MUTED, PALETTE, TEXT, figure_bytes, new_figure, style_frame

__all__ = ["PICTURES", "draw_pictures"]

SIZE_INCHES, DOTS_PER_INCH = (5.6, 3.6), 130
BLUE, ORANGE, GREEN = PALETTE[0], PALETTE[1], PALETTE[2]
SHADES = LinearSegmentedColormap.from_list("white to blue", ["#FFFFFF", "#BBD9EC", BLUE, "#002B45"])
MOST_POINTS = 4000
BINS = 60


def draw_pictures(data: Logged) -> dict[str, bytes]:
    """Title -> PNG, of those pictures for which there are columns, and whole episodes where they are of returns."""
    pictures = {}
    for title, (needs, draw) in PICTURES.items():
        if data.has(*needs) and (draw not in (_returns, _order) or len(data.returns)):
            pictures[title] = _png(title, draw, data)
    return pictures


def _png(title: str, draw: Callable[[Axes, Logged], None], data: Logged) -> bytes:
    figure = new_figure(SIZE_INCHES, DOTS_PER_INCH)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, color=TEXT, pad=8)
    style_frame(axes, 8.5)
    draw(axes, data)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=9, color=MUTED)
    return figure_bytes(figure)


def _bins(values: np.ndarray) -> np.ndarray:
    """Equal bins over the range; a range of nothing is widened."""
    low, high = float(values.min()), float(values.max())
    margin = 0.5 * max(1e-6, 1e-3 * abs(low)) if low == high else 0.0
    return np.linspace(low - margin, high + margin, BINS + 1)


def _returns(axes: Axes, data: Logged) -> None:
    returns = data.returns
    axes.hist(returns, bins=list(_bins(returns)), color=BLUE)
    axes.axvline(float(returns.mean()), color=ORANGE, linewidth=1.4)
    axes.set_xlabel(f"return of an episode (line: mean {returns.mean():.4g})")
    axes.set_ylabel("episodes")


def _lengths(axes: Axes, data: Logged) -> None:
    last = data.last_rows
    kinds = {
        "terminal": (data.terminals[last], ORANGE),
        "time-out": (data.timeouts[last] & ~data.terminals[last], BLUE),
        "no end": (~data.terminals[last] & ~data.timeouts[last], MUTED),
    }
    present = {kind: value for kind, value in kinds.items() if value[0].any()}
    bins = np.linspace(0.5, data.lengths.max() + 0.5, min(BINS, int(data.lengths.max())) + 1)
    axes.hist(
        [data.lengths[mask] for mask, _ in present.values()],
        bins=list(bins),
        stacked=True,
        color=[colour for _, colour in present.values()],
        label=[f"{kind}: {int(mask.sum()):,}" for kind, (mask, _) in present.items()],
    )
    axes.set_xlabel("length of an episode, steps")
    axes.set_ylabel("episodes")
    above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 3, "borderaxespad": 0.3}
    axes.legend(frameon=False, fontsize=8.5, labelcolor=TEXT, **above)


def _rewards(axes: Axes, data: Logged) -> None:
    axes.hist(data.rewards, bins=list(_bins(data.rewards)), color=BLUE)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.yaxis.set_minor_formatter(NullFormatter())
    zero = float((data.rewards == 0).mean())
    axes.set_xlabel(f"reward of a row (mean {data.rewards.mean():.4g}, {zero:.1%} are 0)")
    axes.set_ylabel("rows")


def _actions(axes: Axes, data: Logged) -> None:
    sample = data.actions[data.sample]
    edges = np.linspace(min(-1.0, float(sample.min())), max(1.0, float(sample.max())) + 1e-6, BINS + 1)
    shares = np.stack([np.histogram(column, bins=edges)[0] for column in sample.T]) / len(sample)
    size = len(shares)
    axes.imshow(np.sqrt(shares), aspect="auto", cmap=SHADES, extent=(edges[0], edges[-1], size - 0.5, -0.5), vmin=0)
    axes.grid(visible=False)
    axes.set_yticks(range(0, size, max(1, size // 12)))
    axes.set_xlabel(f"action (darker: more rows; darkest {shares.max():.0%} of a dimension)")
    axes.set_ylabel("dimension")


def _observations(axes: Axes, data: Logged) -> None:
    low, first, middle, third, high = np.quantile(data.observations[data.sample], [0, 0.05, 0.5, 0.95, 1], axis=0)
    index = np.arange(len(low))
    axes.vlines(index, low, high, color="#A9CCE3", linewidth=2)
    axes.vlines(index, first, third, color=BLUE, linewidth=4 if len(low) < 50 else 2)
    axes.plot(index, middle, "o", color=ORANGE, markersize=3)
    if max(abs(float(low.min())), abs(float(high.max()))) > 20:
        axes.set_yscale("symlog", linthresh=1.0)
    axes.set_xlabel("dimension (thin: range, thick: 5 % to 95 %, dot: median)")
    axes.set_ylabel("observation")


def _coverage(axes: Axes, data: Logged) -> None:
    plane = _principal_plane(data)
    axes.hexbin(plane[data.sample, 0], plane[data.sample, 1], gridsize=55, bins="log", cmap=SHADES, mincnt=1)
    starts = data.first_rows[:: max(1, len(data.first_rows) // 300)]
    axes.plot(plane[starts, 0], plane[starts, 1], "o", color=ORANGE, markersize=2.5, label="starts")
    terminal = np.flatnonzero(data.terminals)
    if len(terminal):
        terminal = terminal[:: max(1, len(terminal) // 300)]
        axes.plot(plane[terminal, 0], plane[terminal, 1], "x", color=GREEN, markersize=4, label="terminals")
    above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 2, "borderaxespad": 0.3}
    axes.legend(frameon=False, fontsize=8.5, labelcolor=TEXT, **above)
    axes.set_xlabel("first principal component (darker: more rows)")
    axes.set_ylabel("second")


def _principal_plane(data: Logged) -> np.ndarray:
    """(N, 2) standardised observations along the two directions of largest variance."""
    sample = data.narrow[data.sample].astype(np.float64)
    mean, spread = sample.mean(axis=0), sample.std(axis=0)
    spread[spread == 0] = np.inf
    z = (sample - mean) / spread
    directions = np.linalg.eigh(z.T @ z)[1][:, ::-1][:, :2]
    if directions.shape[1] < 2:
        directions = np.concatenate([directions, np.zeros_like(directions)], axis=1)
    return ((data.narrow - mean) / spread) @ directions


def _order(axes: Axes, data: Logged) -> None:
    first, returns = data.whole
    step = max(1, len(first) // MOST_POINTS)
    axes.plot(first[::step], returns[::step], ".", color=BLUE, markersize=3, alpha=0.6)
    axes.set_xlabel("first row of the episode in the file")
    axes.set_ylabel("return")


Needs = tuple[str, ...]
PICTURES: Mapping[str, tuple[Needs, Callable[[Axes, Logged], None]]] = {
    "Returns": (("rewards",), _returns),
    "Returns in the order of the file": (("rewards",), _order),
    "Lengths": (("terminals",), _lengths),
    "Rewards": (("rewards",), _rewards),
    "Actions": (("actions",), _actions),
    "Observations": (("observations",), _observations),
    "Coverage": (("observations",), _coverage),
}
