"""Which episodes are trained on: all, or those with the highest returns (%BC, baselines.md section 1)."""

from dataclasses import replace
from typing import Any

import numpy as np

from tether.data.dataset import Dataset
from tether.errors import InputError

__all__ = ["NO_FILTER", "filter_episodes"]

NO_FILTER = "none"


def filter_episodes(dataset: Dataset, rule: str = NO_FILTER) -> tuple[Dataset, dict[str, Any]]:
    """`dataset` with the episodes that `rule` keeps, in their order, and a JSON-able record of what it did.

    rule: `none`, or `top=FRACTION`: of the complete episodes the FRACTION (rounded down, at least one) with the
        highest undiscounted returns of the environment's own rewards. Episodes are cut at the file's flags; of equal
        returns the earlier one is kept. An unfinished last episode is left out, as its return is unknown.

    Raises: InputError for another rule.
    """
    if rule == NO_FILTER:
        return dataset, {"name": rule}
    fraction = _fraction(rule)
    starts, ends = dataset.complete_episodes()
    returns = dataset.episode_returns()
    count = max(1, int(fraction * len(starts)))
    chosen = np.sort(np.argsort(-returns, kind="stable")[:count])
    rows = np.concatenate([np.arange(int(starts[k]), int(ends[k])) for k in chosen])
    names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    columns = {name: getattr(dataset, name) for name in names}
    kept = {name: None if column is None else column[rows] for name, column in columns.items()}
    record = {
        "name": rule,
        "episodes": len(starts),
        "kept_episodes": count,
        "kept_rows": len(rows),
        "lowest_kept_return": float(returns[chosen].min()),
    }
    return replace(dataset, **kept), record


def _fraction(rule: str) -> float:
    kind, equals, value = rule.partition("=")
    try:
        fraction = float(value)
    except ValueError:
        fraction = 0.0
    if kind != "top" or not equals or not 0.0 < fraction <= 1.0:
        raise InputError(f"data filter {rule!r}: write none, or top=FRACTION with a number above 0 and at most 1")
    return fraction
