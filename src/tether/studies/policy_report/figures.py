"""Figures of a policy's report: episodes, distributions, sensitivity."""

from pathlib import Path
from typing import Any

import numpy as np

from tether.plots.figures import MUTED, PALETTE, new_figure, save_figure, style_axes
from tether.studies.policy_report.played import Played, Seeds, Stretch

__all__ = ["draw_figures"]

FORMATS = ("svg", "pdf")
LOGGED, POLICY, FLAG = PALETTE[6], PALETTE[0], PALETTE[1]
MOST_ACTIONS, MOST_COLUMNS, EPISODES, BINS = 6, 24, 3, 40


def draw_figures(played: Played, seeds: Seeds, folder: Path) -> dict[str, str]:
    """Write every figure as SVG and PDF -> its caption, by name. OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = {}
    band = f"the range of {len(seeds.each)} seeds" if len(seeds.each) > 1 else "the range of its own draws"
    for word, stretch in _shown(played).items():
        name = f"episode-{stretch.episode}-{int(played.step[played.of(stretch)][0])}"
        _episode(played, seeds, stretch, folder / name)
        captions[name] = (
            f"Episode {stretch.episode}, where the two are {word} apart: what was done (black), what the policy does "
            f"(blue; the band is {band})" + ("." if played.trust is None else "; orange marks: decisions flagged.")
        )
    _distributions(played, folder / "distributions")
    captions["distributions"] = "How often each action was taken, and how often the policy takes it."
    _sensitivity(played, folder / "sensitivity")
    captions["sensitivity"] = (
        "How far an action moves when a column moves by one deviation, in hundredths of the action's logged range: "
        "mean over logged observations and seeds, with the same random numbers."
    )
    return captions


def _shown(played: Played) -> dict[str, Stretch]:
    """The episodes in which policy and log are farthest, usually and least apart."""
    apart = [float(played.apart[played.of(stretch)].mean()) for stretch in played.stretches]
    order = np.argsort(apart)[::-1]
    places = {"farthest": order[0], "usually": order[len(order) // 2], "least": order[-1]}
    found: dict[str, Stretch] = {}
    for word, place in places.items():
        if played.stretches[place] not in found.values():
            found[word] = played.stretches[place]
    return found


def _most_apart(played: Played) -> list[int]:
    """The actions to show, in their order: where there are many, those in which policy and log differ most."""
    chosen = np.argsort(-played.apart.mean(axis=0), kind="stable")[:MOST_ACTIONS]
    return sorted(chosen.tolist())


def _episode(played: Played, seeds: Seeds, stretch: Stretch, path: Path) -> None:
    shown, rows = _most_apart(played), played.of(stretch)
    figure = new_figure((9.0, 0.6 + 1.7 * len(shown)))
    panels: Any = np.atleast_1d(figure.subplots(len(shown), 1, sharex=True))  # pyright: ignore
    # Over seeds their means; of one seed, its draws.
    several = len(seeds.each) > 1
    each = played.done[:, :, rows].mean(axis=1) if several else played.done[0][:, rows]
    step = played.step[rows]
    for axes, j in zip(panels, shown, strict=True):
        low, high = each[..., j].min(axis=0), each[..., j].max(axis=0)
        axes.fill_between(step, low, high, color=POLICY, alpha=0.25, linewidth=0)
        axes.plot(step, played.logged[rows, j], color=LOGGED, linewidth=1.1, label="logged")
        axes.plot(step, played.middle[rows, j], color=POLICY, linewidth=1.3, label="policy")
        if played.trust is not None:
            marks, bottom = step[played.trust.flagged[rows]], axes.get_xaxis_transform()
            axes.plot(marks, np.full(len(marks), 0.04), "|", color=FLAG, markersize=8, transform=bottom)
        style_axes(axes, "step" if j == shown[-1] else "", "", played.names[1][j])
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, frameon=False, fontsize=9, labelcolor=MUTED, ncols=2, loc="outside upper right")
    _save(figure, path)


def _distributions(played: Played, path: Path) -> None:
    shown = _most_apart(played)
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure = new_figure((9.0, 0.4 + 2.2 * lines))
    panels: Any = np.atleast_1d(figure.subplots(lines, columns)).ravel()  # pyright: ignore
    for axes, j in zip(panels, shown, strict=False):
        policy = played.done[..., j].ravel()
        low, high = min(policy.min(), played.seen[0][j]), max(policy.max(), played.seen[1][j])
        bins = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
        for values, colour, label in ((played.logged[:, j], LOGGED, "logged"), (policy, POLICY, "policy")):
            counts = np.histogram(values, bins)[0] / len(values)
            axes.stairs(100 * counts, bins, color=colour, linewidth=1.4, label=label)
        style_axes(axes, "", "%", played.names[1][j])
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    panels[0].legend(frameon=False, fontsize=9, labelcolor=MUTED)
    _save(figure, path)


def _sensitivity(played: Played, path: Path) -> None:
    """A cell for each column and action, the columns that matter most first."""
    shown = _most_apart(played)
    width = played.seen[1] - played.seen[0]
    share = 100 * played.sensitivity / np.where(width > 0, width, 1.0)
    rows = np.argsort(-share.max(axis=1), kind="stable")[:MOST_COLUMNS]
    cells = share[rows][:, shown]
    figure = new_figure((9.0, 1.2 + 0.32 * len(rows)))
    axes: Any = figure.subplots()
    axes.imshow(cells, aspect="auto", cmap="Blues", vmin=0.0, vmax=max(float(cells.max()), 1e-9))
    for (i, j), value in np.ndenumerate(cells):
        dark = value > 0.6 * cells.max()
        axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=9, color="white" if dark else "#222222")
    names, moved = played.names, played.deviation
    axes.set_yticks(range(len(rows)), [f"{names[0][i]} (+{moved[i]:.3g})" for i in rows], parse_math=False)
    axes.set_xticks(range(len(shown)), [names[1][j] for j in shown], rotation=20, ha="right", parse_math=False)
    axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)
    for spine in axes.spines.values():
        spine.set_visible(False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    for kind in FORMATS:
        save_figure(figure, path.with_name(f"{path.name}.{kind}"))
