"""What each arm of a sweep came to: mean over its seeds, interval, and the lanes that do not count."""

import io
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from tether.evaluation.statistics import mean_interval
from tether.training.lanes import Lane

__all__ = ["Arm", "arms_table", "as_text", "short_numbers", "summarise_arms", "swept_names"]


class Arm(NamedTuple):
    """The lanes of one swept combination. Scores (`Task.score`): None where nothing was evaluated."""

    swept: dict[str, float]
    lanes: tuple[int, ...]  # all of them
    diverged: tuple[int, ...]  # those of them that are in no number here
    mean: float | None  # over the seeds that are left, each with the mean of its episodes
    low: float | None  # 95 % interval of that mean; None for fewer than two seeds
    high: float | None
    name: str  # for people: `expectile 0.9, discount 0.5`


def swept_names(settings: Sequence[Mapping[str, float]]) -> list[str]:
    """A name for each of these swept combinations: `expectile 0.9, discount 0.5`; empty where nothing is swept."""
    return [", ".join(f"{name} {text}" for name, text in setting.items()) for setting in short_numbers(settings)]


def short_numbers(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """These settings with their floats as texts of six digits, or of all where another setting's would read the same:
    different settings stay different."""
    alike: dict[tuple[str, str], set[float]] = {}  # (name, text) -> the numbers that read so
    for setting in settings:
        for name, value in setting.items():
            if isinstance(value, float):
                alike.setdefault((name, f"{value:g}"), set()).add(value)

    def text(name: str, value: float) -> str:
        short = f"{value:g}"
        return short if len(alike[name, short]) == 1 else repr(value).removesuffix(".0")

    return [
        {name: text(name, value) if isinstance(value, float) else value for name, value in setting.items()}
        for setting in settings
    ]


def summarise_arms(lanes: Sequence[Lane], scores: Mapping[int, float], diverged: Container[int]) -> tuple[Arm, ...]:
    """One `Arm` for each swept combination, in the lanes' order; none where there is only one.

    scores: lane -> mean of its episodes, for lanes that have one.
    """
    groups: dict[tuple[tuple[str, float], ...], list[int]] = {}
    for number, lane in enumerate(lanes):
        groups.setdefault(tuple(lane.swept.items()), []).append(number)
    if len(groups) < 2:
        return ()
    found, names = [], swept_names([dict(swept) for swept in groups])
    for (swept, numbers), name in zip(groups.items(), names, strict=True):
        values = [scores[lane] for lane in numbers if lane in scores and lane not in diverged]
        lost = tuple(lane for lane in numbers if lane in diverged)
        found.append(Arm(dict(swept), tuple(numbers), lost, *mean_interval(values), name))
    return tuple(found)


def arms_table(arms: Sequence[Arm]) -> Table:
    """One row each: mean score over seeds, interval, how many seeds count and which lanes do not."""
    table = Table(title="by arm: last score, each seed the mean of its episodes", title_justify="left")
    table.add_column("arm")
    for column in ("mean over seeds", "95 % interval of it (t)", "seeds", "diverged"):
        table.add_column(column, justify="right")
    for arm in arms:
        interval = "-" if arm.low is None else f"[{arm.low:.1f}, {arm.high:.1f}]"
        lost = f"{len(arm.diverged)} (lane {', '.join(map(str, arm.diverged))})" if arm.diverged else "0"
        left = len(arm.lanes) - len(arm.diverged)
        mean = "-" if arm.mean is None else f"{arm.mean:.1f}"
        table.add_row(arm.name, mean, interval, f"{left} of {len(arm.lanes)}", lost)
    return table


def as_text(table: Table) -> str:
    """A table as plain text for a file."""
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"
