"""Do the rows of a log follow each other? Evidence against it, in columns that nobody has given a meaning."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from tether.data.logs.columns import ColumnPlan
from tether.data.logs.pieces import EPISODE, HEADER_BYTES, Kind, Piece, Table
from tether.data.source import follows
from tether.errors import InputError

__all__ = ["refuse_unordered"]

NEXT = "next|nxt|new|prime|succ|successor|following|tp1"
"""Words in the name of what was seen after a step: new_obs, state_next, obs_tp1, s_prime, nextObs."""
STATES = ("o", "s", "obs", "state", "states", "observation", "observations")
SHORT = "n|2|p|t1"  # the same after or before one of STATES: obs2, ns, sp
CLOCKS = ("t", "time", "timestamp", "timestamps", "stamp", "time_stamp", "step", "frame", "frame_index", "step_index")
LOOKED_AT = 10_000  # rows


def refuse_unordered(table: Table, plan: ColumnPlan) -> None:
    """Raises InputError where columns of `table` without a meaning say that its rows do not follow each other.

    They say so if they hold next observations, by their names or because their entries are those of other rows, that
    are not the next rows' observations; or a clock that runs to and fro.
    """
    if plan.next_observation or plan.order is not None or plan.every_row_ends:
        return
    free = _without_meaning(table, plan)
    observation = [name for name in plan.observation if name not in plan.categories]
    kinds: dict[str, Kind] = dict.fromkeys((*observation, *free), "float64?")
    kinds |= {name: plan.kinds[name] for name in (plan.episode, plan.terminal, plan.truncated) if name is not None}
    try:
        piece = _head(table, kinds)
    except InputError:
        return  # of the columns that matter it is said where rows are read
    if piece is None:
        return
    inside = _inside(piece, plan)
    for name in free:
        if name.rsplit("/", 1)[-1].lower() in CLOCKS and _runs_to_and_fro(piece[name], inside):
            raise InputError(
                f"{table.path}: rows do not follow each other: {name!r} runs to and fro within an episode; sort them "
                f"by it: --time {name}"
            )
    pairs = _by_name(observation, free) or _by_value(piece, observation, free)
    if pairs is None or _in_step(piece, pairs, inside):
        return
    names = " ".join(dict.fromkeys(pairs.values()))
    raise InputError(
        f"{table.path}: rows do not follow each other: {', '.join(pairs.values())} hold what was seen next, and that "
        f"is not the next row's observation; say so: --next-observation {names}"
    )


def _without_meaning(table: Table, plan: ColumnPlan) -> list[str]:
    """Columns of numbers, as many as the observation's, that are not read."""
    names = [name for name in table.columns if name not in plan.kinds and table.columns[name].holds == "numbers"]
    if table.arrays is None:
        return names
    rows = table.arrays.shapes[next(iter(plan.observation))][0]
    return [name for name in names if table.arrays.shapes[name][0] == rows]


def _head(table: Table, kinds: Mapping[str, Kind]) -> Piece | None:
    """The first rows."""
    piece = next(table.read(kinds, HEADER_BYTES), None)
    return None if piece is None else {name: column[:LOOKED_AT] for name, column in piece.items()}


def _inside(piece: Piece, plan: ColumnPlan) -> np.ndarray:
    """(rows - 1,) whether a row and the next one are in the same episode."""
    rows = len(next(iter(piece.values())))
    inside = np.ones(max(0, rows - 1), np.bool_)
    for name in (plan.episode, EPISODE):
        if name in piece:
            inside &= piece[name][1:] == piece[name][:-1]
    for name in (plan.terminal, plan.truncated):
        if name is not None:
            inside &= piece[name][:-1] != 1
    return inside


def _runs_to_and_fro(clock: np.ndarray, inside: np.ndarray) -> bool:
    """Whether a clock is in no order: its readings are as even as a clock's, but only once they are sorted."""
    if clock.ndim > 1 or not inside.any() or not np.isfinite(clock).all():
        return False
    steps = np.diff(clock)[inside]
    episode = np.append(0, np.cumsum(~inside))
    both_ways = 0.2 < float((steps < 0).mean()) < 0.8
    return both_ways and any(_is_even(clock, group) for group in (episode, np.zeros_like(episode)))


def _is_even(clock: np.ndarray, group: np.ndarray) -> bool:
    order = np.lexsort((clock, group))
    steps = np.diff(clock[order])[np.diff(group[order]) == 0]
    return (
        len(steps) > 0 and float(np.isclose(steps, np.median(steps), rtol=0.1).mean()) > 0.8 and bool(steps.min() > 0)
    )


def _in_step(piece: Piece, pairs: Mapping[str, str], inside: np.ndarray) -> bool:
    """Whether the columns agree with a neighbour's: the next row's, or, if they are older, the row's before."""

    def share(mine: slice, other: slice) -> float:
        same = [_alike(piece[after][mine], piece[name][other]) for name, after in pairs.items()]
        return float(np.logical_and.reduce(same)[inside].mean()) if inside.any() else 1.0

    return max(share(slice(None, -1), slice(1, None)), share(slice(1, None), slice(None, -1))) > 0.9


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    unknown = np.isnan(one) | np.isnan(other)
    same = np.where(unknown, other, one)
    return follows(*(np.nan_to_num(values).reshape(len(values), -1) for values in (same, other)))


def _by_name(observation: Sequence[str], free: Sequence[str]) -> dict[str, str] | None:
    """Observation -> the column that is called as it with a word for what comes next; None unless there is one each."""
    pairs = {}
    for name in observation:
        own = _words(name)
        found = [other for other in free if own in _without_mark(_words(other))]
        if len(found) != 1:
            return None
        pairs[name] = found[0]
    return pairs


def _words(name: str) -> list[str]:
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).replace("'", " prime ")
    return [word.lower() for word in re.findall(r"[A-Za-z]+|\d+", apart)]


def _without_mark(words: list[str]) -> list[list[str]]:
    """What `words` would be without a word, or a part of one, that says next."""
    found = []
    for place, word in enumerate(words):
        before, rest = words[:place], words[place + 1 :]
        if re.fullmatch(NEXT, word) or (re.fullmatch(SHORT, word) and before[-1:] and before[-1] in STATES):
            found.append(before + rest)
        if glued := re.fullmatch(f"(?:{NEXT})(.+)|(.+)(?:{NEXT})", word):
            found.append([*before, glued[1] or glued[2], *rest])
        found += [[*before, state, *rest] for state in STATES if word in (f"n{state}", f"{state}p", f"{state}n")]
    return found


def _by_value(piece: Piece, observation: Sequence[str], free: Sequence[str]) -> dict[str, str] | None:
    """Observation -> the column whose entries are those of its other rows; None unless there is one for each that has
    many different ones."""
    pairs = {}
    for name in observation:
        column = piece[name]
        known = np.unique(column, axis=0)
        if column.ndim > 1 or len(known) < max(10, 0.5 * len(column)):
            continue
        found = [
            other
            for other in free
            if piece[other].shape == column.shape
            and np.isin(piece[other][:200], known).mean() > 0.9  # soon settled for most
            and np.isin(piece[other], known).mean() > 0.9
            and (piece[other] != column).mean() > 0.5
        ]
        if len(found) != 1:
            return None
        pairs[name] = found[0]
    return pairs or None
