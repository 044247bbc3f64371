"""Numbers of a size that networks do not learn from, and the transforms that mend them."""

import numpy as np

from tether.data.dataset import Dataset
from tether.data.transforms import REWARD_TRANSFORMS
from tether.errors import InputError
from tether.types import Transition

__all__ = ["LARGEST_VALUES", "SMALLEST_VALUES", "STEPS_OF_VALUE", "mending_transform", "root_mean_square", "unscaled"]

STEPS_OF_VALUE = 100.0
"""What a discount of 0.99 looks ahead."""
SMALLEST_VALUES, LARGEST_VALUES = 1e-3, 3e4
"""Sums over so many steps that a critic can learn. Those of D4RL's tasks are 1 to 8,000 (hammer)."""
LARGEST_INPUT = 50.0
"""Root mean square of an observation's column: beyond, the first layer hears nothing else."""
FAR_INPUT, FAR = 10.0, 5.0
"""The same for a column that lies so many spreads from 0: most of what is heard is its offset."""
NAMED_COLUMNS, ROWS = 3, 100_000


def unscaled(data: Dataset, reward_transform: str, observation_transform: str, *, rewards: bool = True) -> list[str]:
    """A line for each kind of number that these transforms leave at a size that networks do not learn from.

    rewards: whether anybody learns from them, and may transform them.
    """
    found = []
    if observation_transform == "none" and (columns := _large_columns(data)):
        more = f" and {len(columns) - NAMED_COLUMNS} more" if len(columns) > NAMED_COLUMNS else ""
        named = ", ".join(columns[:NAMED_COLUMNS]) + more
        found.append(f"observations in physical units, {named}: add --observation-transform standardise")
    if rewards and reward_transform == "none" and (data.rewards != data.rewards[0]).any():
        steps = min(STEPS_OF_VALUE, float(data.episode_lengths().mean()))
        size, largest = root_mean_square(data.rewards) * steps, float(np.abs(data.rewards).max()) * steps
        if size > LARGEST_VALUES or largest < SMALLEST_VALUES:
            adding = f"rewards of which a hundred steps add up to about {size:.2g}, which no critic learns"
            name = mending_transform(data.transitions(), data.rewards, steps)
            found.append(f"{adding}: " + (f"add --reward-transform {name}" if name else "scale them"))
    return found


def _large_columns(data: Dataset) -> list[str]:
    """`name about 351`, of columns whose size or offset is what a network would mostly see."""
    some = data.observations[:: max(1, len(data) // ROWS)]
    mean, spread = some.mean(axis=0, dtype=np.float64), some.std(axis=0, dtype=np.float64)
    size = np.sqrt(mean**2 + spread**2)
    far = (size > FAR_INPUT) & (np.abs(mean) > FAR * spread) & (spread > 0)
    names = {} if data.schema is None else data.schema.observation
    known = {start: key for key, (start, stop) in names.items() if stop - start == 1}
    found = np.flatnonzero((size > LARGEST_INPUT) | far)
    return [f"{known.get(index, f'column {index}')} about {mean[index]:.3g}" for index in found.tolist()]


def root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def mending_transform(table: Transition, rewards: np.ndarray, steps: float) -> str:
    """The first transform after which rewards can be learnt, empty where none helps. What only scales goes before what
    also shifts where episodes truly end: a shift then changes which of them is worth more."""
    names = ("iql_locomotion", "standardise", "minmax_pm1")
    for name in names if np.asarray(table.terminal).any() else names[1:]:
        try:
            changed = REWARD_TRANSFORMS.find(name)(table)[0](rewards.astype(np.float64))
        except InputError:  # it would divide by zero
            continue
        if SMALLEST_VALUES < root_mean_square(changed) * steps < LARGEST_VALUES:
            return name
    return ""
