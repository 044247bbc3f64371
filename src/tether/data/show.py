"""`tether data show`: a data set at a glance; `tether data list`: those that have a name."""

import numpy as np
from rich.table import Table

from tether.data.dataset import Dataset
from tether.data.sources import local_sources
from tether.environments import find_task
from tether.errors import InputError

__all__ = ["local_table", "summary_table"]


def summary_table(data: Dataset) -> Table:
    """Sizes, episodes, returns, rewards, flags and action range of `data`."""
    returns, lengths = data.episode_returns(), data.episode_lengths()
    bounds, task = data.episode_bounds(), find_task(data.name)
    table = Table(title=data.name, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    rows = {
        "source": data.source.location,
        "sha256": data.source.sha256,
        "rows": f"{len(data):,}",
        "transitions for training": _transitions(data),
        "observation": f"{data.observations.shape[1]} numbers, {_range(data.observations)}",
        "action": f"{data.actions.shape[1]} numbers, {_range(data.actions)}, "
        f"{np.mean(np.abs(data.actions) > 0.99):.1%} beyond ±0.99",
        "reward": f"{_range(data.rewards)}, mean {data.rewards.mean():.3f}",
        "next observations": "stored" if data.next_observations is not None else "not stored: the next row's",
        "terminals, time-outs": f"{data.terminals.sum():,}, {data.timeouts.sum():,}",
        "episodes": f"{len(bounds.starts):,}" + (", the last one is cut off" if bounds.last_is_partial else ""),
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


def local_table() -> Table:
    """The data sets of `local_sources`: what to type, and the size of the file."""
    table = Table("source", "MB", "where", title="data sets on this machine", title_justify="left")
    for source in local_sources():
        table.add_row(source.name, f"{source.bytes / 1e6:.1f}", source.where)
    return table


def _transitions(data: Dataset) -> str:
    try:
        return f"{len(data.transitions().reward):,}"
    except InputError as error:
        return f"none: {error}"


def _range(values: np.ndarray) -> str:
    return f"from {values.min():.4g} to {values.max():.4g}"
