"""Numbers of training that are finite and yet wrong: said while a run goes on, and kept.

Three kinds. A value or a loss is beyond what a critic can learn. The critic's mean is far outside of what the rewards
can add up to. The critic's loss is nothing at all, as only a target that never changes lets it be.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tether.algorithms.registry import numeric_fields
from tether.training.lanes import Lane

__all__ = ["Alarm", "Values", "alarms_of", "describe_alarm", "reachable_values", "strange_metrics"]

LARGEST_VALUE = 1e5
"""Of a value or a reward: Adam with usual rates moves a network's output there in a million updates, hardly beyond."""
WIDTHS = 2.0
"""How far beyond the reachable values a critic may be, in their width: its target may hold a penalty or an entropy."""
CONSTANT = 1e-10
"""Mean squared error, as a part of the squared value, that no target with noise in it leaves."""
SCALE = "rewards"
"""The metric of the alarm that rewards themselves raise, before anything is learnt."""


class Alarm(NamedTuple):
    """The first row of a lane in which a metric was strange."""

    lane: int
    phase: str
    update: int
    metric: str
    value: float


class Values(NamedTuple):
    """What discounted rewards can add up to."""

    low: float
    high: float

    @property
    def largest(self) -> float:
        """By absolute value."""
        return max(abs(self.low), abs(self.high))

    def are_left_by(self, value: float) -> bool:
        """Whether `value` is far outside."""
        slack = WIDTHS * (self.high - self.low)
        return not self.low - slack <= value <= self.high + slack


def reachable_values(algorithm: Any, lanes: Sequence[Lane], rewards: Sequence[float] | None) -> list[Values | None]:
    """Of each lane; None where nobody knows. rewards: the lowest and the highest that are trained on."""
    if rewards is None or "discount" not in numeric_fields(algorithm):
        return [None] * len(lanes)
    low, high = min(rewards[0], 0.0), max(rewards[1], 0.0)  # an episode may end at once
    discounts = [float(lane.swept.get("discount", algorithm.discount)) for lane in lanes]
    return [Values(low / (1 - d), high / (1 - d)) if d < 1 else None for d in discounts]


def strange_metrics(row: Mapping[str, Any], reachable: Values | None = None) -> dict[str, float]:
    """The metrics of a row that raise an alarm."""
    found = {}
    for name, value in row.items():
        if "/" not in name or not isinstance(value, float | int) or not math.isfinite(value):
            continue
        if _is_huge(name, value) or (name == "critic/q" and reachable and reachable.are_left_by(value)):
            found[name] = float(value)
    loss, q = row.get("critic/q_loss"), row.get("critic/q")
    if isinstance(loss, float | int) and isinstance(q, float | int) and 0 <= loss < CONSTANT * q * q:
        found["critic/q_loss"] = float(loss)
    if reachable is not None and reachable.largest > LARGEST_VALUE:
        found[SCALE] = reachable.largest
    return found


def _is_huge(name: str, value: float) -> bool:
    """Beyond `LARGEST_VALUE`, or its square where it is a loss."""
    part, _, what = name.rpartition("/")
    is_loss = "loss" in what
    is_value = part == "critic" or what in ("q", "value")
    return (is_loss or is_value) and abs(value) > (LARGEST_VALUE**2 if is_loss else LARGEST_VALUE)


def describe_alarm(
    alarm: Alarm, lanes: Sequence[int], rewards: Sequence[float] | None, reachable: Values | None = None
) -> str:
    """For people. lanes: those with this alarm; rewards: as of `reachable_values`."""
    more = f" and {len(lanes) - 1} more" if len(lanes) > 1 else ""
    where = f"at {alarm.phase} update {alarm.update} of lane {lanes[0]}{more}"
    largest = max(map(abs, rewards)) if rewards else 0.0
    advice = f"rewards reach {largest:.2g}: scale them with --reward-transform, as tether data check suggests"
    if alarm.metric == SCALE:
        return f"alarm: values may reach {alarm.value:.2g}, which no critic learns: {advice}"
    if "loss" in alarm.metric and alarm.value < 1:
        return f"alarm: {alarm.metric} is {alarm.value:.2g} {where}: the critic's target never changes"
    if largest > LARGEST_VALUE / 100:
        why = advice
    elif reachable is not None and abs(alarm.value) <= LARGEST_VALUE:
        why = f"the rewards add up to {reachable.low:.3g} to {reachable.high:.3g}; the critic runs away from them"
    else:
        why = "the critic runs away from what the rewards can add up to"
    return f"alarm: {alarm.metric} is {alarm.value:.2g} {where}: {why}"


def alarms_of(rows: Sequence[Mapping[str, Any]], reachable: Sequence[Values | None] = ()) -> list[Alarm]:
    """One for each lane and metric, from the rows of metrics.jsonl. reachable: of each lane, if known."""
    found: dict[tuple[int, str], Alarm] = {}
    for row in rows:
        lane = row["lane"]
        for name, value in strange_metrics(row, reachable[lane] if reachable else None).items():
            found.setdefault((lane, name), Alarm(lane, row["phase"], row["update"], name, value))
    return list(found.values())
