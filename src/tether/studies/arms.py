"""What each setting of a sweep came to: mean over its seeds, interval, and the lanes that do not count."""

import io
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tether.evaluation.statistics import interval_text, mean_interval
from tether.training.lanes import Lane

__all__ = ["Setting", "as_text", "describe_setting", "settings_table", "summarise_settings"]


class Setting(NamedTuple):
    """The lanes of one swept combination. Scores (`Task.score`): None where nothing was evaluated."""

    settings: dict[str, float]
    lanes: tuple[int, ...]  # all of them
    diverged: tuple[int, ...]  # those of them that are in no number here
    mean: float | None  # over the seeds that are left, each with the mean of its episodes
    low: float | None  # 95 % interval of that mean; None for fewer than two seeds
    high: float | None

    @property
    def name(self) -> str:
        """For people: `expectile 0.9, discount 0.5`."""
        return ", ".join(f"{name} {value:g}" for name, value in self.settings.items())


def summarise_settings(
    lanes: Sequence[Lane], scores: Mapping[int, float], diverged: Container[int]
) -> tuple[Setting, ...]:
    """One `Setting` for each swept combination, in the lanes' order; none where there is only one.

    scores: lane -> mean of its episodes, for lanes that have one.
    """
    groups: dict[tuple[tuple[str, float], ...], list[int]] = {}
    for number, lane in enumerate(lanes):
        groups.setdefault(tuple(lane.settings.items()), []).append(number)
    if len(groups) < 2:
        return ()
    found = []
    for settings, numbers in groups.items():
        values = [scores[lane] for lane in numbers if lane in scores and lane not in diverged]
        lost = tuple(lane for lane in numbers if lane in diverged)
        found.append(Setting(dict(settings), tuple(numbers), lost, *mean_interval(values)))
    return tuple(found)


def describe_setting(setting: Setting) -> str:
    """`43.1 [41.0, 45.2], 1 of 4 diverged`."""
    parts = [] if setting.mean is None else [interval_text(setting.mean, setting.low, setting.high)]
    if setting.diverged:
        parts.append(f"{len(setting.diverged)} of {len(setting.lanes)} diverged")
    return ", ".join(parts)


def settings_table(settings: Sequence[Setting]) -> Table:
    """One row each: mean score over seeds, interval, how many seeds count and which lanes do not."""
    table = Table(title="by setting: last score, mean over seeds", title_justify="left")
    table.add_column("setting")
    for column in ("mean", "95 % interval", "seeds", "diverged"):
        table.add_column(column, justify="right")
    for setting in settings:
        interval = "-" if setting.low is None else f"[{setting.low:.1f}, {setting.high:.1f}]"
        lost = f"{len(setting.diverged)} (lane {', '.join(map(str, setting.diverged))})" if setting.diverged else "0"
        left = len(setting.lanes) - len(setting.diverged)
        mean = "-" if setting.mean is None else f"{setting.mean:.1f}"
        table.add_row(setting.name, mean, interval, f"{left} of {len(setting.lanes)}", lost)
    return table


def as_text(table: Table) -> str:
    """A table as plain text for a file."""
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"
