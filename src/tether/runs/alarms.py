"""Numbers of training that are finite and yet beyond what a critic can learn: said while a run goes on, and kept."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Alarm", "alarms_of", "describe_alarm", "huge_metrics"]

LARGEST_VALUE = 1e5
"""Of a value or a reward: Adam with usual rates moves a network's output there in a million updates, hardly beyond."""


class Alarm(NamedTuple):
    """The first row of a lane in which a metric was huge."""

    lane: int
    phase: str
    update: int
    metric: str
    value: float


def huge_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a row that are beyond `LARGEST_VALUE`, or its square where they are losses."""
    found = {}
    for name, value in row.items():
        if "/" not in name or not isinstance(value, float | int) or not math.isfinite(value):
            continue
        part, _, what = name.rpartition("/")
        is_loss = "loss" in what
        is_value = part == "critic" or what in ("q", "value")
        if abs(value) > (LARGEST_VALUE**2 if is_loss else LARGEST_VALUE) and (is_loss or is_value):
            found[name] = float(value)
    return found


def describe_alarm(alarm: Alarm, lanes: Sequence[int], rewards: Sequence[float] | None) -> str:
    """For people. rewards: the lowest and the highest that are trained on; None where that is not known."""
    what = f"{alarm.metric} is {alarm.value:.2g} at {alarm.phase} update {alarm.update} of lane {lanes[0]}"
    more = f" and {len(lanes) - 1} more" if len(lanes) > 1 else ""
    largest = max(map(abs, rewards)) if rewards else 0.0
    if largest > LARGEST_VALUE / 100:
        why = f"rewards reach {largest:.2g}: scale them with --reward-transform, as tether data check suggests"
    else:
        why = "the critic runs away from what the rewards can add up to"
    return f"alarm: {what}{more}: {why}"


def alarms_of(rows: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    """One for each lane and metric, from the rows of metrics.jsonl."""
    found: dict[tuple[int, str], Alarm] = {}
    for row in rows:
        for name, value in huge_metrics(row).items():
            found.setdefault((row["lane"], name), Alarm(row["lane"], row["phase"], row["update"], name, value))
    return list(found.values())
