"""From pieces of columns to the rows of a data set: where episodes end, in which order rows come, what they pay.

Every step is a generator over pieces, so memory is bounded by a piece, or by the longest episode where rows are sorted
by time or a function computes rewards.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tether.data.logs.clock import sorted_rows
from tether.data.logs.columns import ColumnPlan
from tether.data.logs.interleaved import put_together
from tether.data.logs.pieces import EPISODE, Piece, Table, nanoseconds
from tether.data.schema import Layout, size_of
from tether.data.source import follows
from tether.errors import InputError, unknown
from tether.machine.reading import check_memory

__all__ = ["Interleaved", "Mended", "Rows", "joined", "rows_of"]

LABEL, ENDS, RECORDED = "\0label", "\0ends", "\0recorded"  # keys of pieces that are no column's name


class Interleaved(InputError):
    """Rows of an episode lie among those of others: they are put together where all rows are gathered first."""


class Rows(NamedTuple):
    """Consecutive rows of the data set."""

    observations: np.ndarray  # (rows, observation) float32
    actions: np.ndarray  # (rows, action) float32, in the robot's units
    rewards: np.ndarray  # (rows,) float32
    terminals: np.ndarray  # (rows,) bool
    timeouts: np.ndarray  # (rows,) bool
    next_observations: np.ndarray | None  # (rows, observation) float32
    recorded: np.ndarray  # (rows,) number of the episode that the row was recorded in
    infos: dict[str, np.ndarray]  # (rows, ...), the clock and what else is kept


@dataclass
class Mended:
    """What was done to rows on their way, counted."""

    dropped: Counter[str] = field(default_factory=Counter)  # column -> rows that lack it
    dropped_rows: int = 0
    held: Counter[str] = field(default_factory=Counter)  # column -> rows that repeat the one before
    held_rows: int = 0
    gaps: int = 0
    unfollowed: int = 0
    continued: int = 0  # episodes that go on in the next file
    interleaved: bool = False
    incomplete: set[int] = field(default_factory=set)  # recorded episodes of which rows are missing, or lie apart

    def lack(self, recorded: np.ndarray, bad: np.ndarray) -> None:
        """Note the episodes of these rows."""
        self.incomplete.update(np.unique(recorded[bad]).tolist())

    def episodes(self, recorded: np.ndarray) -> np.ndarray | None:
        """`Dataset.recorded_episodes`; None where no row is missing."""
        if not self.incomplete:
            return None
        return np.where(np.isin(recorded, list(self.incomplete)), -1 - recorded, recorded)

    def notes(self, plan: ColumnPlan) -> Iterator[str]:
        """In words."""
        names = ", ".join(f"{name} {count:,}" for name, count in self.dropped.items())
        if plan.options.missing == "drop":
            cut = f" ({names}); the episode is cut there, as truncated" if names else ""
            yield f"--missing drop: {self.dropped_rows:,} rows are left out{cut}"
        if plan.options.missing == "hold":
            held = ", ".join(f"{name} {count:,}" for name, count in self.held.items())
            yield f"--missing hold: {self.held_rows:,} rows repeat a value of the row before" + (held and f" ({held})")
            if self.dropped_rows:
                yield f"--missing hold: {self.dropped_rows:,} rows at the start of episodes have none before ({names})"
        if plan.options.max_gap is not None:
            yield f"--max-gap {plan.options.max_gap:g}: {self.gaps:,} longer steps of {plan.time!r} end an episode"
        if self.interleaved:
            order = "their order" if plan.order is None else f"the order of {plan.order!r}"
            yield f"episodes lie among each other: the rows of each {plan.episode!r} are put together, in {order}"
        if self.continued and plan.order is None:
            yield (
                f"{self.continued:,} episodes go on in the next file, which begins with the same {plan.episode!r}: if "
                "that is another run, give each run a number of its own"
            )
        if self.unfollowed:
            yield f"{self.unfollowed:,} rows are not followed by the next one: each ends a piece, as truncated"


def rows_of(
    tables: Sequence[Table],
    plan: ColumnPlan,
    mended: Mended | None = None,
    close_last: bool = True,
    gathered: bool = False,
) -> Iterator[Rows]:
    """The rows of all tables in order. close_last: the last row of all ends its episode, as nothing follows. gathered:
    all rows are held in memory, and those of episodes that lie among each other are put together.

    Raises Interleaved for such episodes where rows are not gathered.
    """
    mended = Mended() if mended is None else mended
    pieces = _gathered(tables, plan, mended) if gathered else _labelled(tables, plan, mended)
    if plan.order is not None:
        pieces = (_in_order(piece, plan) for piece in _whole(_with_ends(pieces, True)))
    if plan.time is not None:
        pieces = _with_seconds(pieces, plan, tables[0])
    told_apart = plan.episode is not None or plan.terminal is not None or plan.truncated is not None
    if told_apart:
        pieces = _numbered(pieces, plan)
    if plan.options.max_gap is not None:
        pieces = _cut_at_gaps(pieces, plan, mended)
    if not told_apart:  # gaps are all that tells them apart
        pieces = _numbered(pieces, plan)
    if plan.options.missing == "drop":
        pieces = _dropped(pieces, plan, mended)
    if plan.options.missing == "hold":
        pieces = _held(pieces, plan, mended)
    pieces = (_with_flags(piece, plan) for piece in _with_ends(pieces, close_last))
    if plan.reward.whole_episodes:
        pieces = _whole(pieces)
    rows = _each(pieces, plan)
    return _cut_where_unfollowed(rows, mended) if plan.next_observation else rows


def joined(parts: Sequence[Rows]) -> Rows:
    """`parts` one below the other."""

    def column(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    infos = {name: np.concatenate([part.infos[name] for part in parts]) for name in parts[0].infos}
    return Rows(**{name: column(name) for name in Rows._fields if name != "infos"}, infos=infos)


# --- episodes -----------------------------------------------------------------------------------------------


def _labelled(
    tables: Sequence[Table], plan: ColumnPlan, mended: Mended, again: list[str] | None = None
) -> Iterator[Piece]:
    """The columns of all tables, and LABEL: a number for each row, equal within an episode and greater in the next.

    again: where an episode goes on after another one, which without this is refused, is noted in it, in words.
    """
    seen: dict[Any, int] = {}
    last: Any = None
    current = 0
    for number, table in enumerate(tables):
        _check_columns(table, tables[0], plan)
        file = number if plan.episode is None or table.has_episodes else -1  # an episode may go on in the next file
        row = 0
        for piece in table.read(plan.kinds):
            rows = len(next(iter(piece.values())))
            parts = piece.pop(EPISODE, np.zeros(rows, np.int64))
            labels = parts if plan.episode is None else piece[plan.episode]
            changes = (labels[1:] != labels[:-1]) | (parts[1:] != parts[:-1])
            starts = np.append((file, parts[0], labels[0]) != last, changes)
            mended.continued += int(row == 0 and not starts[0])
            numbers = [current]
            for start in np.flatnonzero(starts).tolist():
                key = (file, parts[start], labels[start])
                if key in seen:
                    where = f"{table.path}: episode {labels[start]} goes on in row {row + start}, after another one"
                    if again is None:
                        raise Interleaved(where)
                    again += [] if again else [where]
                numbers.append(seen.setdefault(key, len(seen) + 1))
            if plan.time is not None and plan.options.time_format is not None:
                texts = piece[plan.time].tolist()
                piece[plan.time] = nanoseconds(table.path, plan.time, texts, plan.options.time_format, row)
            last, row = (file, parts[-1], labels[-1]), row + rows
            current = numbers[-1]
            yield {**piece, LABEL: np.array(numbers)[np.cumsum(starts)]}


def _gathered(tables: Sequence[Table], plan: ColumnPlan, mended: Mended) -> Iterator[Piece]:
    """The same in one piece, in which the rows of each episode stand together. Raises InputError where that may splice
    two runs that are numbered alike."""
    again: list[str] = []
    parts: list[Piece] = []
    for part in _labelled(tables, plan, mended, again):
        parts.append(part)
        check_memory(f"{tables[0].path}: putting its episodes together", sum(a.nbytes for a in part.values()))
    if not parts:
        return
    piece = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    if again:
        flags = [piece[name] == 1 for name in (plan.terminal, plan.truncated) if name is not None]
        kept_apart = plan.every_row_ends or bool(plan.next_observation)  # nothing is spliced
        ended = np.logical_or.reduce([np.full(len(piece[LABEL]), kept_apart), *flags])
        order, sure = put_together(piece[LABEL], ended, None if plan.order is None else piece[plan.order])
        if not sure and plan.order is not None:
            why = f"and {plan.order!r} begins anew, as with another run: give each run a number of its own"
            raise InputError(f"{again[0]}, {why}")
        if not sure:
            raise InputError(
                f"{again[0]}; sort the log by {plan.episode!r} first, or name its clock with --time, if that is the "
                "same run; if it is another one, give each run a number of its own"
            )
        piece, mended.interleaved = {name: column[order] for name, column in piece.items()}, True
    yield piece


def _numbered(pieces: Iterator[Piece], plan: ColumnPlan) -> Iterator[Piece]:
    """And RECORDED: the number of the episode that a row was recorded in, before anything is left out."""
    flags = [name for name in (plan.terminal, plan.truncated) if name is not None]
    number, last, ended = -1, None, True
    for piece in pieces:
        labels = piece[LABEL]
        ends = np.logical_or.reduce([np.full(len(labels), plan.every_row_ends), *(piece[name] == 1 for name in flags)])
        starts = np.append(ended or labels[0] != last, ends[:-1] | (labels[1:] != labels[:-1]))
        recorded = number + np.cumsum(starts)
        number, last, ended = int(recorded[-1]), labels[-1], bool(ends[-1])
        yield {**piece, RECORDED: recorded}


def _check_columns(table: Table, first: Table, plan: ColumnPlan) -> None:
    """Raises InputError unless `table` has the columns of the first one."""
    for name in plan.kinds:
        if name not in table.columns:
            if name in table.skipped:
                raise InputError(f"{table.path}: column {name!r} holds {table.skipped[name]}")
            raise unknown(f"column in {table.path} (it is in {first.path}):", name, table.columns)
        found, expected = table.columns[name], first.columns[name]
        if found.size != expected.size:
            raise InputError(
                f"{table.path}: column {name!r} holds {found.size} numbers in each row, in {first.path} {expected.size}"
            )
        if found.ahead != expected.ahead:
            with_more, without = (table, first) if found.ahead else (first, table)
            raise InputError(
                f"{with_more.path}: {name!r} has a row more than the actions, in {without.path} it has not"
            )


def _with_ends(pieces: Iterator[Piece], close_last: bool) -> Iterator[Piece]:
    """And ENDS: whether the next row has another label. A piece is held until the next one is there."""
    held: Piece | None = None
    for piece in pieces:
        labels = piece[LABEL]
        if held is not None:
            held[ENDS][-1] = held[LABEL][-1] != labels[0]
            yield held
        held = {**piece, ENDS: np.append(labels[1:] != labels[:-1], False)}
    if held is not None:
        held[ENDS][-1] = close_last
        yield held


def _with_flags(piece: Piece, plan: ColumnPlan) -> Piece:
    """Flagged rows end episodes, too."""
    flags = {name: piece[name].astype(np.bool_) for name in (plan.terminal, plan.truncated) if name is not None}
    ends = np.ones_like(piece[ENDS]) if plan.every_row_ends else piece[ENDS]
    return {**piece, **flags, ENDS: np.logical_or.reduce([ends, *flags.values()])}


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


# --- time ---------------------------------------------------------------------------------------------------


def _in_order(piece: Piece, plan: ColumnPlan) -> Piece:
    """A piece of whole episodes, each in the order of the clock."""
    assert plan.order is not None
    flags = [name for name in (plan.terminal, plan.truncated) if name is not None]
    labelled = plan.episode is not None or EPISODE in piece
    return sorted_rows(piece, plan.order, piece[ENDS], flags, labelled)


def _with_seconds(pieces: Iterator[Piece], plan: ColumnPlan, first: Table) -> Iterator[Piece]:
    """The clock's times as float64 seconds, its numbers as they are."""
    assert plan.time is not None
    times = plan.options.time_format is not None or first.columns[plan.time].holds in ("times", "text")
    for piece in pieces:
        yield {**piece, plan.time: piece[plan.time] / 1e9} if times else piece


def _cut_at_gaps(pieces: Iterator[Piece], plan: ColumnPlan, mended: Mended) -> Iterator[Piece]:
    """Another label from each row on that comes more than `max_gap` after the one before it."""
    assert plan.time is not None
    assert plan.options.max_gap is not None
    last: dict[str, Any] | None = None  # the row before
    for piece in pieces:
        before = {name: column[0] if last is None else last[name] for name, column in piece.items()}
        same = np.diff(piece[LABEL], prepend=before[LABEL]) == 0
        clock, earlier = piece[plan.time].astype(np.float64), float(before[plan.time])
        gaps = same & (np.diff(clock, prepend=earlier) > plan.options.max_gap)
        last = {name: column[-1] for name, column in piece.items()}
        if RECORDED in piece:  # a gap between two of them is none within one
            mended.lack(piece[RECORDED], gaps & (np.diff(piece[RECORDED], prepend=before[RECORDED]) == 0))
        yield {**piece, LABEL: piece[LABEL] + mended.gaps + np.cumsum(gaps)}
        mended.gaps += int(gaps.sum())


# --- what is missing ----------------------------------------------------------------------------------------


def _lacking(piece: Piece, names: Sequence[str]) -> dict[str, np.ndarray]:
    """(rows, ...) of each column: which of its entries are missing."""
    return {name: piece[name] == "" if piece[name].dtype == object else np.isnan(piece[name]) for name in names}


def _needed(plan: ColumnPlan) -> list[str]:
    """The columns of which every entry is needed."""
    names = [*plan.observation, *plan.action, *(() if plan.reward.whole_episodes else plan.reward.columns)]
    return list(dict.fromkeys(name for name in names if plan.kinds[name] in ("float32?", "float64?", "text")))


def _dropped(pieces: Iterator[Piece], plan: ColumnPlan, mended: Mended) -> Iterator[Piece]:
    """Without the rows that lack an entry; what follows them has another label."""
    flags = [name for name in (plan.terminal, plan.truncated) if name is not None]
    before = 0
    for piece in pieces:
        lacking = _lacking(piece, [*_needed(plan), *flags])
        if plan.next_observation:
            goes_on = ~_ended(piece, plan)
            unknown_next = _lacking(piece, plan.next_observation).items()
            lacking |= {name: _by_row(lacks) & goes_on for name, lacks in unknown_next}
        bad = _count(lacking, mended.dropped)
        kept = ~bad
        labels = piece[LABEL] + before + np.cumsum(bad)
        before += int(bad.sum())
        mended.dropped_rows = before
        mended.lack(piece[RECORDED], bad)
        if kept.any():
            yield {name: column[kept] for name, column in {**piece, LABEL: labels}.items()}


def _held(pieces: Iterator[Piece], plan: ColumnPlan, mended: Mended) -> Iterator[Piece]:
    """Missing entries repeat the one before in the episode; rows before the first one are left out."""
    needed, last = _needed(plan), None
    for piece in pieces:
        rows = len(piece[LABEL])
        if last is not None:
            piece = {name: np.concatenate([last[name], column]) for name, column in piece.items()}
        own = slice(len(piece[LABEL]) - rows, None)
        # Neither label ever falls. Flags end an episode that its label does not.
        starts = np.maximum(*(np.searchsorted(piece[label], piece[label]) for label in (LABEL, RECORDED)))
        lacking = _lacking(piece, needed)
        filled = {name: _filled(piece[name], lacks, starts) for name, lacks in lacking.items() if lacks.any()}
        still = {name: lacks[own] for name, lacks in _lacking({**piece, **filled}, needed).items()}
        bad = _count(still, mended.dropped)
        held = {name: (_by_row(lacks)[own] & ~_by_row(still[name]) & ~bad) for name, lacks in lacking.items()}
        mended.held_rows += int(_count(held, mended.held).sum())
        mended.dropped_rows += int(bad.sum())
        mended.lack(piece[RECORDED][own], bad)
        piece = {name: filled.get(name, column)[own][~bad] for name, column in piece.items()}
        if len(piece[LABEL]):
            last = {name: column[-1:] for name, column in piece.items()}
            yield piece


def _filled(column: np.ndarray, lacks: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Each lacking entry as the last one before it that is there, no earlier than the row `starts`."""
    rows = np.arange(len(column)).reshape(-1, *[1] * (column.ndim - 1))
    source = np.maximum.accumulate(np.where(lacks, -1, rows), axis=0)
    source = np.where(source >= starts.reshape(rows.shape), source, rows)
    return np.take_along_axis(column, source, axis=0)


def _by_row(lacks: np.ndarray) -> np.ndarray:
    return np.any(lacks.reshape(len(lacks), -1), axis=1)


def _count(lacking: dict[str, np.ndarray], counts: Counter[str]) -> np.ndarray:
    """(rows,) whether a row lacks anything; counted by column."""
    by_row = {name: _by_row(lacks) for name, lacks in lacking.items()}
    counts.update({name: int(lacks.sum()) for name, lacks in by_row.items() if lacks.any()})
    return np.any(np.stack(list(by_row.values())), axis=0)


# --- rows ---------------------------------------------------------------------------------------------------


def _each(pieces: Iterator[Piece], plan: ColumnPlan) -> Iterator[Rows]:
    done = 0
    for piece in pieces:
        yield _rows(piece, plan, done)
        done += len(piece[ENDS])


def _rows(piece: Piece, plan: ColumnPlan, done: int) -> Rows:
    """The data set's rows of a piece; `done` rows came before it."""
    ends = piece[ENDS]
    starts: list[int] = [0, *(np.flatnonzero(ends[:-1]) + 1).tolist()] if plan.reward.whole_episodes else [0]
    rewards = []
    for start, stop in zip(starts, [*starts[1:], len(ends)], strict=True):
        part = {name: piece[name][start:stop] for name in plan.reward.columns}
        rewards.append(_checked_rewards(plan.reward.evaluate(part, stop - start), stop - start, done + start))
    terminals = _ended(piece, plan)
    observations = _stacked(piece, plan.observation, plan)
    kept = (*((plan.time,) if plan.time is not None else ()), *plan.keep)
    return Rows(
        observations,
        _stacked(piece, plan.action, plan),
        np.concatenate(rewards),
        terminals,
        ends & ~terminals,
        _following(piece, plan, observations, terminals, done) if plan.next_observation else None,
        piece[RECORDED],
        {name: piece[name] for name in kept},
    )


def _ended(piece: Piece, plan: ColumnPlan) -> np.ndarray:
    """(rows,) bool: after which rows nothing follows."""
    rows = len(piece[LABEL])
    if plan.terminal is None:
        return np.full(rows, plan.every_row_ends)
    return piece[plan.terminal] == 1


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


def _stacked(piece: Piece, layout: Layout, plan: ColumnPlan) -> np.ndarray:
    """The columns of `layout` side by side, (rows, size) float32."""
    rows = len(piece[ENDS])
    matrix = np.empty((rows, size_of(layout)), np.float32)
    for name, (start, stop) in layout.items():
        if name in plan.categories:
            matrix[:, start:stop] = piece[name][:, None] == np.array(plan.categories[name], object)
        else:
            matrix[:, start:stop] = piece[name].reshape(rows, -1)
    return matrix


def _following(
    piece: Piece, plan: ColumnPlan, observations: np.ndarray, terminals: np.ndarray, done: int
) -> np.ndarray:
    """Next observations; where nothing follows and none is given, the row's own, which nobody reads."""
    rows = len(observations)
    following = np.concatenate([piece[key].reshape(rows, -1) for key in plan.next_observation], axis=1)
    following = following.astype(np.float32, copy=False)
    unknown_next = _by_row(np.isnan(following))
    bad = np.flatnonzero(unknown_next & ~terminals)
    if len(bad):
        raise InputError(
            f"--next-observation: row {done + bad[0]} of the logs has none, and is not terminal; "
            "--missing drop leaves such rows out"
        )
    return np.where(unknown_next[:, None], observations, following)


def _cut_where_unfollowed(parts: Iterator[Rows], mended: Mended) -> Iterator[Rows]:
    """A time-out at each row inside an episode whose next observation is not the next row's observation."""
    held: Rows | None = None

    def cut(rows: Rows, upcoming: np.ndarray) -> Rows:
        assert rows.next_observations is not None
        known = rows.next_observations[: len(upcoming)]
        ends = (rows.terminals | rows.timeouts)[: len(upcoming)]
        unfollowed = ~ends & ~follows(known, upcoming)
        mended.unfollowed += int(unfollowed.sum())
        mended.lack(rows.recorded[: len(upcoming)], unfollowed)
        timeouts = rows.timeouts.copy()
        timeouts[: len(upcoming)] |= unfollowed
        return rows._replace(timeouts=timeouts)

    for rows in parts:
        if held is not None:
            yield cut(held, np.concatenate([held.observations[1:], rows.observations[:1]]))
        held = rows
    if held is not None:
        yield cut(held, held.observations[1:])
