"""Rows in the order of their clock, where that order can be known."""

from collections.abc import Sequence

import numpy as np

from tether.data.logs.pieces import Piece
from tether.errors import InputError
from tether.types import Bool

__all__ = ["begins_anew", "sorted_rows"]

DAY_NANOSECONDS = 86_400 * 10**9
FIRST_DAYS = (0, -25_567)  # since 1970: where Arrow puts times of the day, and where strptime puts them (1900)
LONG_STRETCH = 4  # rows on average in which the clock goes on, where several runs lie one behind the other


def sorted_rows(
    piece: Piece, clock: str, ends: Bool[np.ndarray, " rows"], flags: Sequence[str], labelled: bool
) -> Piece:
    """`piece`, each episode sorted by the column `clock`; rows of the same time stay as they are.

    ends: where episodes end by their labels, of whole ones. flags: the columns that end episodes, too. labelled: a
        column says which episode a row belongs to.

    A clock that starts anew with every run says nothing about the order of rows of different runs. So rows that go back
    in time are left as they are where flags divide them into runs in which the clock goes on, and sorted where it has
    no time twice. Raises InputError where neither can be: several runs, and nothing that tells them apart, or the same
    label on them.
    """
    time = piece[clock]
    episode = _numbers(ends)
    back = _back(time, episode)
    if not back.any():
        return piece
    if (going_on := _past_midnight(time, episode)) is not None:
        return {**piece, clock: going_on}
    flagged = np.logical_or.reduce([piece[name] == 1 for name in flags]) if flags else np.zeros(len(time), bool)
    in_runs = flagged.any() and not _back(time, _numbers(ends | flagged)).any()
    repeated, overlapping = _repeated(time, episode), _overlapping(time, episode, back)
    if in_runs and (repeated or overlapping or not labelled):
        return piece
    if overlapping or (repeated and not labelled):
        row = int(np.flatnonzero(back)[0]) + 1
        remedy = (
            "runs are numbered alike, give each a number of its own"
            if labelled
            else "say what tells them apart with --episode or --terminal"
        )
        raise InputError(
            f"--time {clock}: the clock goes back in row {row}, as if another run began, and times come again: sorted, "
            f"the rows of several runs would be mixed; {remedy}"
        )
    order = np.lexsort((time, episode))
    return {name: column[order] for name, column in piece.items()}


def begins_anew(time: np.ndarray, episode: np.ndarray) -> bool:
    """Whether the clock goes back within an episode as where another run begins, and not as among shuffled rows.

    episode: its number in each row.
    """
    back = _back(time, episode)
    if not back.any() or _past_midnight(time, episode) is not None:
        return False
    return _repeated(time, episode) or _overlapping(time, episode, back)


def _past_midnight(time: np.ndarray, episode: np.ndarray) -> np.ndarray | None:
    """Times of the day that go on over midnight, a day added each time; None for what is no such clock."""
    if time.dtype.kind != "i" or not set((time // DAY_NANOSECONDS).tolist()) <= set(FIRST_DAYS):
        return None
    falls = np.append(False, (time[1:] < time[:-1] - DAY_NANOSECONDS // 2) & (episode[1:] == episode[:-1]))
    days = np.cumsum(falls)
    going_on = time + DAY_NANOSECONDS * (days - days[np.searchsorted(episode, episode)])
    return None if _back(going_on, episode).any() else going_on


def _numbers(ends: np.ndarray) -> np.ndarray:
    """The number of each row's stretch, of which `ends` marks the last rows."""
    return np.cumsum(ends) - ends


def _back(time: np.ndarray, stretch: np.ndarray) -> np.ndarray:
    """(rows - 1,) bool: whether the next row is of the same stretch and earlier."""
    return (time[1:] < time[:-1]) & (stretch[1:] == stretch[:-1])


def _repeated(time: np.ndarray, episode: np.ndarray) -> bool:
    """Whether an episode has a time twice."""
    order = np.lexsort((time, episode))
    return bool(((np.diff(time[order]) == 0) & (np.diff(episode[order]) == 0)).any())


def _overlapping(time: np.ndarray, episode: np.ndarray, back: np.ndarray) -> bool:
    """Whether there are long stretches in which the clock goes on, and some cover the same times: runs, not shuffled
    rows."""
    starts = np.concatenate([[0], np.flatnonzero(back | (np.diff(episode) != 0)) + 1])
    if len(time) < LONG_STRETCH * len(starts):
        return False
    stops = np.append(starts[1:], len(time)) - 1
    order = np.lexsort((time[starts], episode[starts]))
    first, last, own = time[starts][order], time[stops][order], episode[starts][order]
    return bool(((first[1:] < np.maximum.accumulate(last)[:-1]) & (own[1:] == own[:-1])).any())
