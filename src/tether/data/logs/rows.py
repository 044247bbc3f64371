"""From pieces of columns to the rows of a data set: where episodes end, in which order rows come, what they pay.

Every step is a generator over pieces, so memory is bounded by a piece, or by the longest episode where rows are sorted
by time or a function computes rewards.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.data.logs.columns import ColumnPlan
from tether.data.logs.tables import Piece, Table, open_table
from tether.data.schema import Layout, size_of
from tether.errors import InputError, unknown

__all__ = ["Rows", "rows_of"]

LABEL, ENDS = "\0label", "\0ends"  # keys of pieces that are no column's name


class Rows(NamedTuple):
    """Consecutive rows of the data set."""

    observations: np.ndarray  # (rows, observation) float32
    actions: np.ndarray  # (rows, action) float32, in the robot's units
    rewards: np.ndarray  # (rows,) float32
    terminals: np.ndarray  # (rows,) bool
    timeouts: np.ndarray  # (rows,) bool


def rows_of(files: Sequence[Path | Table], plan: ColumnPlan, close_last: bool = True) -> Iterator[Rows]:
    """The rows of all files, or of tables that are open, in order.

    close_last: the last row of all ends its episode, as nothing follows.
    """
    pieces = _with_ends(_labelled(files, plan), close_last)
    if plan.time is not None:
        pieces = (_in_order(piece, piece[plan.time]) for piece in _whole(pieces))
    pieces = (_with_flags(piece, plan) for piece in pieces)
    if plan.reward.whole_episodes:
        pieces = _whole(pieces)
    done = 0
    for piece in pieces:
        yield _rows(piece, plan, done)
        done += len(piece[ENDS])


def _labelled(files: Sequence[Path | Table], plan: ColumnPlan) -> Iterator[Piece]:
    """The columns of all files, and LABEL: what the row's episode is called, equal within each and only there."""
    first = _opened(files[0])
    sizes = {name: column.size for name, column in first.columns.items()}
    seen: set[Any] = set()
    last: Any = object()
    for number, file in enumerate(files):
        table, row = _opened(file), 0
        path = table.path
        for name in plan.kinds:
            if name not in table.columns:
                raise unknown(f"column in {path} (it is in {first.path}):", name, table.columns)
            if table.columns[name].size != sizes[name]:
                found = table.columns[name].size
                raise InputError(
                    f"{path}: column {name!r} holds {found} numbers in each row, in {first.path} {sizes[name]}"
                )
        for piece in table.read(plan.kinds):
            rows = len(next(iter(piece.values())))
            labels = np.full(rows, number) if plan.episode is None else piece[plan.episode]
            starts = np.flatnonzero(np.append(labels[0] != last, labels[1:] != labels[:-1]))
            for start in starts.tolist():
                if labels[start] in seen:
                    raise InputError(
                        f"{path}: episode {labels[start]} goes on in row {row + start}, after another one; "
                        f"sort the log by {plan.episode!r} first"
                    )
                seen.add(labels[start])
            last, row = labels[-1], row + rows
            yield {**piece, LABEL: labels}


def _opened(file: Path | Table) -> Table:
    return file if isinstance(file, Table) else open_table(file)


def _with_ends(pieces: Iterator[Piece], close_last: bool) -> Iterator[Piece]:
    """ENDS in place of LABEL: whether the next row has another label. A piece is held until the next one is there."""
    held: Piece | None = None
    last_label: Any = None
    for piece in pieces:
        labels = piece.pop(LABEL)
        if held is not None:
            held[ENDS][-1] = last_label != labels[0]
            yield held
        held, last_label = {**piece, ENDS: np.append(labels[1:] != labels[:-1], False)}, labels[-1]
    if held is not None:
        held[ENDS][-1] = close_last
        yield held


def _with_flags(piece: Piece, plan: ColumnPlan) -> Piece:
    """Flagged rows end episodes, too."""
    flags = [piece[name] for name in (plan.terminal, plan.truncated) if name is not None]
    return {**piece, ENDS: np.logical_or.reduce([piece[ENDS], *flags])}


def _whole(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The same rows in pieces that hold whole episodes, one or several."""
    rest: list[Piece] = []
    for piece in pieces:
        ends = np.flatnonzero(piece[ENDS])
        stop = int(ends[-1]) + 1 if len(ends) else 0
        if stop:
            parts = [*rest, {name: column[:stop] for name, column in piece.items()}]
            yield {name: np.concatenate([part[name] for part in parts]) for name in piece}
            rest = []
        rest.append({name: column[stop:] for name, column in piece.items()})
    rest = [part for part in rest if len(part[ENDS])]
    if rest:
        yield {name: np.concatenate([part[name] for part in rest]) for name in rest[0]}


def _in_order(piece: Piece, time: np.ndarray) -> Piece:
    """Each episode of a piece of whole ones sorted by time; rows of the same time stay as they are."""
    episode = np.cumsum(piece[ENDS]) - piece[ENDS]
    order = np.lexsort((time, episode))
    return {name: column if name == ENDS else column[order] for name, column in piece.items()}


def _rows(piece: Piece, plan: ColumnPlan, done: int) -> Rows:
    """The data set's rows of a piece; `done` rows came before it."""
    ends = piece[ENDS]
    starts: list[int] = [0, *(np.flatnonzero(ends[:-1]) + 1).tolist()] if plan.reward.whole_episodes else [0]
    rewards = []
    for start, stop in zip(starts, [*starts[1:], len(ends)], strict=True):
        part = {name: piece[name][start:stop] for name in plan.reward.columns}
        rewards.append(_checked_rewards(plan.reward.evaluate(part, stop - start), stop - start, done + start))
    terminals = np.zeros(len(ends), bool) if plan.terminal is None else piece[plan.terminal]
    columns = _stacked(piece, plan.observation), _stacked(piece, plan.action)
    return Rows(*columns, np.concatenate(rewards), terminals, ends & ~terminals)


def _checked_rewards(value: Any, rows: int, first: int) -> np.ndarray:
    rewards = np.asarray(value)
    if rewards.shape not in ((rows,), ()) or rewards.dtype.kind not in "biuf":
        raise InputError(
            f"--reward gives {rewards.dtype} of shape {rewards.shape} for {rows} rows; one number for each is needed"
        )
    with np.errstate(over="ignore"):
        rewards = np.broadcast_to(rewards, (rows,)).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(rewards))
    if len(bad):
        raise InputError(f"--reward gives {rewards[bad[0]]} for row {first + bad[0]} of the logs; it must be finite")
    return rewards


def _stacked(piece: Piece, layout: Layout) -> np.ndarray:
    """The columns of `layout` side by side, (rows, size) float32."""
    rows = len(piece[ENDS])
    matrix = np.empty((rows, size_of(layout)), np.float32)
    for name, (start, stop) in layout.items():
        matrix[:, start:stop] = piece[name].reshape(rows, -1)
    return matrix
