"""`tether data show`: a data set at a glance; `tether data list`: those that have a name."""

import numpy as np
from rich.table import Table

from tether.data.dataset import Dataset
from tether.data.readers.minari import minari_scores
from tether.data.schema import Layout, Schema
from tether.data.sources import local_sources
from tether.environments.tasks import Task, find_task
from tether.errors import InputError

__all__ = ["local_table", "summary_table"]

BINS, BAR_LENGTH = 10, 30


def summary_table(data: Dataset) -> Table:
    """Sizes, episodes, returns, rewards, flags and action range of `data`."""
    returns, lengths = data.episode_returns(), data.episode_lengths()
    bounds, task = data.episode_bounds(), find_task(data.name) or data.recorded_in
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
        "reward": f"{_range(data.rewards)}, mean {data.rewards.mean():.3f}" if data.has_rewards else "not recorded",
        "next observations": "stored" if data.next_observations is not None else "not stored: the next row's",
        "terminals, time-outs": f"{data.terminals.sum():,}, {data.timeouts.sum():,}",
        "episodes": f"{len(bounds.starts):,}" + (", the last one is cut off" if bounds.last_is_partial else ""),
        "episode length": f"mean {lengths.mean():.0f}, {_range(lengths)}",
        "task": _task(task),
    }
    if data.recorded_episodes is not None:
        recorded = np.unique(data.recorded_episodes)
        rows["episodes"] = (
            f"{len(recorded):,} recorded, rows of {(recorded < 0).sum():,} are missing: {len(bounds.starts):,} pieces; "
            "returns are those of the whole ones"
        )
    if data.has_rewards and not len(returns):
        rows["return"] = "not known: rows of every episode are missing"
    elif data.has_rewards:
        rows |= {"return": f"mean {returns.mean():.1f}, {_range(returns)}", "returns": _histogram(returns)}
    if task is not None and task.recorded_returns:
        rows["normalised score"] = f"none: {task.recorded_returns}"
    elif task is not None and task.has_references and not task.references_by and len(returns):
        scores = task.normalized_score(returns)
        rows["normalised score"] = f"mean {scores.mean():.1f}, {_range(scores)}"
    minari = minari_scores(data) if len(returns) else None
    if minari is not None:
        rows["Minari score"] = f"mean {minari.mean():.1f}, {_range(minari)}; by Minari's references, no D4RL score"
    if data.schema is not None:
        rows |= _schema_rows(data.schema)
    if data.successes is not None:
        rows["success"] = f"{_success_rate(data):.1%} of the episodes"
    if data.masks:
        masks = (f"mask={name} ({mask.sum():,} rows)" for name, mask in data.masks.items())
        rows["--data-filter"] = ", ".join(masks)
    if data.notes:
        rows["notes"] = "\n".join(data.notes)
    for name, value in {**rows, **{f"metadata {k}": str(v) for k, v in data.metadata.items()}}.items():
        table.add_row(name, value)
    return table


def local_table() -> Table:
    """The data sets of `local_sources`: what to type, and the size of the file."""
    table = Table("source", "MB", "where", title="data sets on this machine", title_justify="left")
    for source in local_sources():
        table.add_row(source.name, f"{source.bytes / 1e6:.1f}", source.where)
    return table


def _histogram(values: np.ndarray) -> str:
    """How the values spread, a line for each bin: where it begins, how many it has, a bar."""
    if values.min() == values.max():
        return f"all {len(values)} are {values[0]:.4g}"
    counts, edges = np.histogram(values, bins=min(BINS, len(values)))
    lengths = np.round(BAR_LENGTH * counts / counts.max()).astype(int)
    starts = [f"{edge:.4g}" for edge in edges[:-1]]
    width, digits = max(map(len, starts)), len(str(counts.max()))
    rows = zip(starts, counts, lengths, strict=True)
    return "\n".join(f"{start:>{width}} {count:>{digits}} {'█' * length}".rstrip() for start, count, length in rows)


def _schema_rows(schema: Schema) -> dict[str, str]:
    """The names of the columns, and the robot's range where it is not [-1, 1]."""
    rows = {f"{name} columns": ", ".join(_slices(getattr(schema, name))) for name in ("observation", "action")}
    if not schema.box.is_unit():
        parts = [f"{name} {schema.box.in_words(*slice_)}" for name, slice_ in schema.action.items()]
        rows["action range of the robot"] = ", ".join(parts)
    return rows


def _slices(layout: Layout) -> list[str]:
    return [
        f"{start} {name}" if stop == start + 1 else f"{start}-{stop - 1} {name}"
        for name, (start, stop) in layout.items()
    ]


def _success_rate(data: Dataset) -> float:
    """The share of episodes in which some row was a success."""
    assert data.successes is not None
    starts, ends, _ = data.episode_bounds()
    return float(np.mean(np.logical_or.reduceat(data.successes[: ends[-1]], starts)))


def _task(task: Task | None) -> str:
    if task is None:
        return "none known"
    return task.name if task.name == task.evaluated_in else f"{task.name} ({task.evaluated_in})"


def _transitions(data: Dataset) -> str:
    try:
        return f"{len(data.transitions().reward):,}"
    except InputError as error:
        return f"none: {error}"


def _range(values: np.ndarray) -> str:
    return f"from {values.min():.4g} to {values.max():.4g}"
