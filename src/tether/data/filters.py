"""Which episodes are trained on: all, those with the highest returns (%BC), or those of a mask that the data carry."""

from typing import Any

import numpy as np

from tether.data.dataset import Dataset, part_of
from tether.errors import InputError, shortened, unknown

__all__ = ["NO_FILTER", "filter_episodes"]

NO_FILTER = "none"


def filter_episodes(dataset: Dataset, rule: str = NO_FILTER) -> tuple[Dataset, dict[str, Any]]:
    """`dataset` with the episodes that `rule` keeps, in their order, and a JSON-able record of what it did.

    rule: `none`; `mask=NAME`, the episodes of one of `Dataset.masks`; or `top=FRACTION`: of the complete episodes the
        FRACTION (rounded down, at least one) with the highest undiscounted returns of the environment's own rewards.
        Episodes are cut at the file's flags; of equal returns the earlier one is kept. An unfinished last episode is
        left out, as its return is unknown, and so is one of which rows are missing (`recorded_episodes`).

    Raises: InputError for another rule, a mask that the data do not have or that holds no row, and `top` without
        rewards.
    """
    if rule == NO_FILTER:
        return dataset, {"name": rule}
    kind, _, value = rule.partition("=")
    if kind == "mask" and value:
        return _masked(dataset, rule, value)
    fraction = _fraction(rule)
    if not dataset.has_rewards:
        raise InputError(f"data filter {rule!r}: {dataset.source.location} has no rewards to rank its episodes by")
    starts, ends = dataset.whole_episodes()
    returns = dataset.episode_returns()
    if not len(starts):
        raise InputError(
            f"data filter {rule!r}: rows of every episode of {dataset.source.location} are missing, so their returns "
            "are not known"
        )
    count = max(1, int(fraction * len(starts) + 1e-9))  # 0.29 * 100 is a little less than 29
    chosen = np.sort(np.argsort(-returns, kind="stable")[:count])
    rows = np.concatenate([np.arange(int(starts[k]), int(ends[k])) for k in chosen])
    record = {
        "name": rule,
        "episodes": len(starts),
        "kept_episodes": count,
        "kept_rows": len(rows),
        "lowest_kept_return": float(returns[chosen].min()),
    }
    return part_of(dataset, rows), record


def _masked(dataset: Dataset, rule: str, name: str) -> tuple[Dataset, dict[str, Any]]:
    if not dataset.masks:
        raise InputError(f"data filter {rule!r}: {dataset.source.location} has no masks")
    if name not in dataset.masks:
        raise unknown(f"mask of {dataset.source.location}", name, dataset.masks)
    rows = np.flatnonzero(dataset.masks[name])
    if len(rows) == 0:
        raise InputError(f"data filter {rule!r}: no episode of {dataset.source.location} is in this mask")
    kept = part_of(dataset, rows)
    before, after = (len(data.episode_bounds().starts) for data in (dataset, kept))
    return kept, {"name": rule, "episodes": before, "kept_episodes": after, "kept_rows": len(rows)}


def _fraction(rule: str) -> float:
    kind, equals, value = rule.partition("=")
    try:
        fraction = float(value)
    except ValueError:
        fraction = 0.0
    if kind != "top" or not equals or not 0.0 < fraction <= 1.0:
        raise InputError(
            f"data filter {shortened(rule)!r}: write none, or top=FRACTION with a number above 0 and at most 1, or "
            "mask=NAME"
        )
    return fraction
