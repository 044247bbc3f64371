"""`tether data show`: a data set at a glance."""

import numpy as np
from rich.table import Table

from tether.data.dataset import Dataset
from tether.environments import find_task

__all__ = ["summary_table"]


def summary_table(data: Dataset) -> Table:
    """Sizes, episodes, returns, rewards, flags and action range of `data`."""
    returns, lengths = data.episode_returns(), data.episode_lengths()
    task = find_task(data.name)
    table = Table("", "", title=data.name, title_justify="left", show_header=False)
    rows = {
        "source": data.source.location,
        "sha256": data.source.sha256,
        "rows": f"{len(data):,}",
        "transitions for training": f"{len(data.transitions().reward):,}",
        "observation": f"{data.observations.shape[1]} numbers, {_range(data.observations)}",
        "action": f"{data.actions.shape[1]} numbers, {_range(data.actions)}, "
        f"{np.mean(np.abs(data.actions) > 0.99):.1%} beyond ±0.99",
        "reward": f"{_range(data.rewards)}, mean {data.rewards.mean():.3f}",
        "next observations": "stored" if data.next_observations is not None else "not stored: the next row's",
        "terminals, time-outs": f"{data.terminals.sum():,}, {data.timeouts.sum():,}",
        "episodes": f"{len(returns):,} complete",
        "episode length": f"mean {lengths.mean():.0f}, {_range(lengths)}",
        "return": f"mean {returns.mean():.1f}, {_range(returns)}",
        "task": "none known" if task is None else f"{task.name} ({task.gymnasium_id or task.unavailable})",
    }
    if task is not None and task.reference_min is not None:
        scores = task.normalized_score(returns)
        rows["normalised score"] = f"mean {scores.mean():.1f}, {_range(scores)}"
    for name, value in {**rows, **{f"metadata {k}": str(v) for k, v in data.metadata.items()}}.items():
        table.add_row(name, value)
    return table


def _range(values: np.ndarray) -> str:
    return f"from {values.min():.4g} to {values.max():.4g}"
