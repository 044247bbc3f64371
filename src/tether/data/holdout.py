"""Episodes that training does not see, to judge what it learns: a random part, or those of a mask of the data."""

from typing import Any

import numpy as np

from tether.data.dataset import Dataset, part_of, recordings_of
from tether.errors import InputError, unknown

__all__ = ["NO_HOLDOUT", "hold_out"]

NO_HOLDOUT = "none"
SEED = 0  # of the draw: the same data give the same parts in every run, so that runs compare


def hold_out(dataset: Dataset, rule: str) -> tuple[Dataset, Dataset | None, dict[str, Any]]:
    """(episodes to train on, episodes held out, JSON-able record of the cut); None where nothing is held out.

    rule: `none`; a FRACTION of the episodes (rounded, at least one), drawn without replacement; or `mask=NAME`, the
        episodes of one of `Dataset.masks`. Both parts keep the file's order. All pieces of an episode of which rows are
        missing are drawn together. In a table whose rows do not follow each other every row is an episode.

    Raises: InputError for another rule, for a mask that the data do not have, and where a part would be empty.
    """
    if rule == NO_HOLDOUT:
        return dataset, None, {"name": rule}
    starts, ends, _ = dataset.episode_bounds()
    recording = recordings_of(dataset)
    held = _of_mask(dataset, rule, starts) if rule.startswith("mask=") else _drawn(dataset, rule, recording)
    rows = np.repeat(held, ends - starts)
    record = {
        "name": rule,
        "seed": SEED,
        "episodes": int(recording.max()) + 1,
        "held_out_episodes": len(np.unique(recording[held])),
        "held_out_rows": int(rows.sum()),
    }
    return part_of(dataset, np.flatnonzero(~rows)), part_of(dataset, np.flatnonzero(rows)), record


def _drawn(dataset: Dataset, rule: str, recording: np.ndarray) -> np.ndarray:
    """bool (episodes,): a random part of the recordings."""
    episodes = int(recording.max()) + 1
    try:
        fraction = float(rule)
    except ValueError:
        fraction = 0.0
    if not 0.0 < fraction < 1.0:
        raise InputError(f"holdout {rule!r}: write a fraction between 0 and 1 such as 0.1, or mask=NAME, or none")
    if episodes < 2:
        raise InputError(f"holdout {rule}: {dataset.source.location} has a single episode, of which none can be spared")
    count = min(max(1, round(fraction * episodes)), episodes - 1)
    held = np.zeros(episodes, bool)
    held[np.random.default_rng(SEED).permutation(episodes)[:count]] = True
    return held[recording]


def _of_mask(dataset: Dataset, rule: str, starts: np.ndarray) -> np.ndarray:
    """bool (episodes,): those in the mask."""
    name = rule.removeprefix("mask=")
    if name not in dataset.masks:
        if not dataset.masks:
            raise InputError(f"holdout {rule!r}: {dataset.source.location} has no masks; write a fraction such as 0.1")
        raise unknown(f"mask of {dataset.source.location}", name, dataset.masks)
    held = dataset.masks[name][starts]
    if held.all() or not held.any():
        which = "every" if held.all() else "no"
        raise InputError(f"holdout {rule!r}: {which} episode of {dataset.source.location} is in this mask")
    return held
