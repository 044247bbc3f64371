"""Array files (npz, HDF5) that keep episodes by themselves: in a group each, in a row of more axes each, or with one
observation more than actions.

Patterns decide: `--observation "data/*/obs/*"` over groups that are numbered, or of different lengths, means the same
arrays of many episodes, which come one after the other under the names that they have in their groups. So do names that
arrays have in their groups only (`--observation obs`), and a reward in each. Arrays of other groups stand side by side,
which is said.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tether.data.logs.columns import ColumnOptions, by_number, matches
from tether.data.logs.pieces import (
    EPISODE,
    ArrayFile,
    Column,
    Cursor,
    Kind,
    Piece,
    Table,
    after,
    array_column,
    as_kind,
    natural,
)
from tether.errors import InputError, shortened

__all__ = ["in_episodes"]

SINGLE = ("reward", "episode", "terminal", "truncated", "time")
"""Options that name one column."""
SEVERAL = ("observation", "action", "next_observation", "keep")


class Episode(NamedTuple):
    """Where one is: rows of its actions, and the array in the file of each column."""

    steps: int
    arrays: Mapping[str, str]


def in_episodes(table: Table, options: ColumnOptions) -> tuple[Table, ColumnOptions]:
    """The table with its own episodes, if `options` mean such, and the options in the names of its columns.

    Raises InputError where arrays of an episode do not fit together.
    """
    if table.arrays is None:
        return table, options
    fitting = list(_fitting(table.arrays, options))
    if (groups := next((found.groups for found in fitting if found.are_episodes), None)) is not None:
        options = _in_groups(groups, options)
        return _of_groups(table, table.arrays, groups, options), options
    if options.side_by_side:
        return _stacked(table, _swapped(table.arrays, options), options, "environments"), options
    if _are_stacked(table.arrays, options):
        return _stacked(table, table.arrays, options, "episodes"), options
    arrays = table.arrays
    if beside := _beside(fitting, options):
        table = table._replace(notes=(*table.notes, beside), hint=beside)
    return _with_last_observations(table, arrays, options), options


# --- a group for each episode -------------------------------------------------------------------------------


class Groups(NamedTuple):
    """path: of what holds the groups, with a slash; members: group -> array's name in it -> in the file."""

    path: str
    members: Mapping[str, Mapping[str, str]]

    def meant(self, pattern: str) -> dict[str, str]:
        """Arrays in the file that a pattern means, by their whole names or by those in the groups -> the latter."""
        names = {full: name for found in self.members.values() for name, full in found.items()}
        whole = {full: name for full, name in names.items() if matches(pattern, full)}
        return whole or {full: name for full, name in names.items() if matches(pattern, name)}


class Fitting(NamedTuple):
    """Groups that hold what all patterns mean, and what speaks for taking them for episodes."""

    groups: Groups
    numbered: bool
    repeated: bool  # they hold the same arrays
    unlike: bool  # of different lengths
    named_inside: bool  # arrays are named as they are called in them, or the reward is one in each

    @property
    def are_episodes(self) -> bool:
        """Whether they are, rather than parts of a robot side by side."""
        single = len(self.groups.members) == 1
        if self.repeated:
            return self.numbered or self.unlike or self.named_inside
        return single and (self.numbered or self.named_inside)


def _fitting(arrays: ArrayFile, options: ColumnOptions) -> Iterator[Fitting]:
    """From the outermost groups on; none where arrays are named one by one."""
    patterns = [*options.observation, *options.action, *options.next_observation]
    if any(pattern in arrays.shapes for pattern in patterns):
        return
    single = [text for role in SINGLE if (text := getattr(options, role)) is not None]
    if any(text in arrays.shapes for text in single):
        return
    for groups in _candidates(arrays):
        meant = [groups.meant(pattern) for pattern in patterns]
        everywhere = {full for pattern in patterns for full in arrays.shapes if matches(pattern, full)}
        if not all(meant) or not everywhere <= {full for found in meant for full in found}:
            continue
        observed = set(meant[0])
        used = {group: found for group, found in groups.members.items() if observed & set(found.values())}
        yield Fitting(
            Groups(groups.path, {group: used[group] for group in sorted(used, key=natural)}),
            numbered=all(any(letter.isdigit() for letter in group) for group in used),
            repeated=len(set(meant[0].values())) < len(observed),
            unlike=len({arrays.shapes[full][0] for full in observed}) > 1,
            named_inside=not everywhere or any(_in_each(groups.meant(text)) for text in single),
        )


def _in_each(meant: Mapping[str, str]) -> bool:
    """Whether these are one array in each of several groups."""
    return len(meant) > 1 and len(set(meant.values())) == 1


def _beside(fitting: Iterable[Fitting], options: ColumnOptions) -> str:
    """What to say of groups that hold the same arrays and are taken for columns side by side; "" if there are none."""
    for found in fitting:
        if found.repeated:
            observation, action = (
                " ".join(dict.fromkeys(name for pattern in patterns for name in found.groups.meant(pattern).values()))
                for patterns in (options.observation, options.action)
            )
            return (
                f"{shortened(', '.join(found.groups.members))} are columns side by side; if each is an episode, name "
                f"arrays as they are called in it: --observation {observation} --action {action}"
            )
    return ""


def _candidates(arrays: ArrayFile) -> Iterator[Groups]:
    """All groups that hold groups, from the outermost on."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for full in arrays.shapes:
        words = full.split("/")
        for depth in range(len(words) - 1):
            path = "".join(f"{word}/" for word in words[:depth])
            found.setdefault(path, {}).setdefault(words[depth], {})["/".join(words[depth + 1 :])] = full
    for path in sorted(found, key=lambda path: path.count("/")):
        yield Groups(path, found[path])


def _in_groups(groups: Groups, options: ColumnOptions) -> ColumnOptions:
    """`options` with the names of the arrays in their groups in place of patterns over whole paths."""

    def single(text: str | None) -> str | None:
        names = set(groups.meant(text).values()) if text is not None else set()
        return names.pop() if len(names) == 1 else text

    def several(patterns: Iterable[str]) -> tuple[str, ...]:
        names = [by_number(list(dict.fromkeys(groups.meant(text).values()))) or [text] for text in patterns]
        return tuple(name for found in names for name in found)

    changes = {role: several(getattr(options, role)) for role in SEVERAL}
    return replace(options, **changes, **{role: single(getattr(options, role)) for role in SINGLE})  # pyright: ignore[reportArgumentType]


def _of_groups(table: Table, arrays: ArrayFile, groups: Groups, options: ColumnOptions) -> Table:
    wanted = _wanted(options)
    first = next(iter(groups.members))
    skipped = {name: what for name, what in table.skipped.items() if not name.startswith(groups.path)}
    columns: dict[str, Column] = {}
    for name, full in groups.members[first].items():
        column = array_column(arrays.shapes[full], arrays.dtypes[full])
        if isinstance(column, Column):
            columns[name] = _numbered(column)
        else:
            skipped[name] = column
    episodes = []
    for group, found in groups.members.items():
        for name in wanted & set(columns):
            if name not in found:
                raise InputError(f"{table.path}: no {name!r} in {groups.path}{group}; it is in {groups.path}{first}")
            shapes = [arrays.shapes[members[name]][1:] for members in (found, groups.members[first])]
            if shapes[0] != shapes[1]:
                raise InputError(
                    f"{table.path}: {name!r} holds {shapes[0] or 1} numbers in each row of {groups.path}{group}, in "
                    f"{groups.path}{first} {shapes[1] or 1}"
                )
        steps = min((arrays.shapes[found[name]][0] for name in options.action if name in found), default=0)
        episodes.append(Episode(steps, found))
    columns = _checked_lengths(table, arrays, columns, episodes, options)
    count = len(episodes)
    note = f"{groups.path}{first} and {count - 1:,} more groups are an episode each" if count > 1 else ""
    return _table(table._replace(skipped=skipped), arrays, columns, episodes, (note,) if note else ())


def _numbered(column: Column) -> Column:
    """With a name for each of its numbers."""
    parts = column.parts or tuple(f"/{index}" for index in range(column.size))
    return column._replace(parts=parts if column.size > 1 else ())


def _wanted(options: ColumnOptions) -> set[str]:
    """The columns that options name plainly."""
    several = {name for role in SEVERAL for name in getattr(options, role)}
    return several | {name for role in SINGLE if (name := getattr(options, role)) is not None}


def _checked_lengths(
    table: Table,
    arrays: ArrayFile,
    columns: Mapping[str, Column],
    episodes: list[Episode],
    options: ColumnOptions,
) -> dict[str, Column]:
    """The columns, of which observations may have a row more in every episode. Raises InputError for other lengths."""
    wanted = _wanted(options)
    checked = {}
    for name, column in columns.items():
        more = {
            arrays.shapes[episode.arrays[name]][0] - episode.steps for episode in episodes if name in episode.arrays
        }
        ahead = more == {1} and name in options.observation
        if name in wanted and not ahead and more != {0}:
            bad = next(e for e in episodes if arrays.shapes[e.arrays[name]][0] != e.steps)
            raise InputError(
                f"{table.path}: arrays of an episode have different numbers of rows: {bad.arrays[name]} "
                f"{arrays.shapes[bad.arrays[name]][0]}, actions {bad.steps}; only observations may have one more"
            )
        if ahead or more == {0}:
            checked[name] = column._replace(ahead=ahead)
    return checked


# --- an episode in each row ---------------------------------------------------------------------------------


def _are_stacked(arrays: ArrayFile, options: ColumnOptions) -> bool:
    """Whether arrays are (episodes, steps, ...): the reward is a matrix, or actions have three axes."""
    shapes = arrays.shapes
    reward = shapes.get(options.reward or "", ())
    actions = [shape for name, shape in shapes.items() if any(matches(pattern, name) for pattern in options.action)]
    steps = reward[1] if len(reward) == 2 and reward[1] > 1 else None
    if steps is None and actions and all(len(shape) == 3 for shape in actions):
        steps = actions[0][1]
    observations = [s for name, s in shapes.items() if any(matches(p, name) for p in options.observation)]
    fits = [len(s) in (2, 3) and s[1] in (steps, (steps or 0) + 1) for s in observations]
    return steps is not None and bool(fits) and all(fits)


def _swapped(arrays: ArrayFile, options: ColumnOptions) -> ArrayFile:
    """(steps, environments, ...) as (environments, steps, ...). Raises InputError where the arrays cannot be that."""
    named = [n for n in arrays.shapes if any(matches(p, n) for p in (*options.observation, *options.action))]
    for name in named:
        if len(arrays.shapes[name]) not in (2, 3):
            raise InputError(
                f"{arrays.path}: --side-by-side: {name!r} has shape {arrays.shapes[name]}; (steps, environments, "
                "numbers) is needed"
            )
    shapes = {
        name: (shape[1], shape[0], *shape[2:]) if len(shape) > 1 else shape for name, shape in arrays.shapes.items()
    }

    @contextlib.contextmanager
    def opened() -> Iterator[Callable[[str], Cursor]]:
        with arrays.opened() as cursors:

            def cursor(name: str) -> Cursor:
                if len(arrays.shapes[name]) < 2:
                    return cursors(name)
                whole = np.swapaxes(cursors(name)(arrays.shapes[name][0]), 0, 1)
                rows = iter(whole)
                return lambda count: np.stack([next(rows) for _ in range(count)])

            yield cursor

    return arrays._replace(shapes=shapes, opened=opened)


def _refuse_early_ends(table: Table, arrays: ArrayFile, options: ColumnOptions) -> None:
    """Raises InputError where an episode ends before the row that should hold it does."""
    for name in (options.terminal, options.truncated):
        if name is None or len(arrays.shapes.get(name, ())) < 2:
            continue
        with arrays.opened() as cursors:
            flags = cursors(name)(arrays.shapes[name][0]).reshape(*arrays.shapes[name][:2])
        early = np.argwhere(flags[:, :-1] == 1)
        if len(early):
            row, step = early[0].tolist()
            raise InputError(
                f"{table.path}: {name!r} is set in step {step} of row {row}, before its last step: these rows are no "
                "whole episodes; for (steps, environments, ...), as vector environments record them, say "
                "--side-by-side, and cut episodes that are filled up to one length"
            )


def _stacked(table: Table, arrays: ArrayFile, options: ColumnOptions, what: str) -> Table:
    """what: a row of the arrays is one of these."""
    if what == "episodes":
        _refuse_early_ends(table, arrays, options)
    actions = [n for n in arrays.shapes if any(matches(pattern, n) for pattern in options.action)]
    count, steps = arrays.shapes[actions[0]][:2]
    columns: dict[str, Column] = {}
    for name, shape in arrays.shapes.items():
        more = shape[1] - steps if len(shape) > 1 and shape[0] == count else -1
        column = array_column(shape[1:], arrays.dtypes[name]) if more in (0, 1) else "no array of these episodes"
        observed = any(matches(pattern, name) for pattern in options.observation)
        if isinstance(column, Column) and (more == 0 or observed):
            columns[name] = column._replace(ahead=more == 1)
    episodes = [Episode(steps, {name: name for name in columns})] * count
    where = "one in each row" if what == "episodes" else "side by side"
    note = f"arrays hold {count:,} {what} of {steps:,} steps, {where}"
    return _table(table._replace(skipped={}), arrays, columns, episodes, (note,), whole_rows=True)


# --- one observation more than actions ----------------------------------------------------------------------


def _with_last_observations(table: Table, arrays: ArrayFile, options: ColumnOptions) -> Table:
    """The table itself unless its observations have more rows than its actions: one for each episode."""

    def lengths(patterns: Iterable[str]) -> dict[str, int]:
        return {name: arrays.shapes[name][0] for name in table.columns if any(matches(p, name) for p in patterns)}

    observed, acted = lengths(options.observation), lengths(options.action)
    if not acted or not observed or max(observed.values()) <= (rows := min(acted.values())):
        return table
    more = {count - rows for count in observed.values()} - {0}
    if len(more) != 1:
        return table
    extra = more.pop()
    steps = _steps(table, options, rows, extra)
    ahead = len(steps) == extra
    may_have = {*observed, *([options.episode] if options.episode is not None else [])}
    columns = {}
    for name, column in table.columns.items():
        has = arrays.shapes[name][0] - rows
        if has == 0 or (has == extra and name in may_have):
            columns[name] = column._replace(ahead=has == extra and ahead)
    which = ", ".join(name for name, count in observed.items() if count > rows)
    if not ahead:
        steps, note = [rows], f"{which}: one row more than actions, which follows the last one only, is left out"
    else:
        note = f"{which}: one row more in each of {len(steps):,} episodes, the observation after its last action"
    episodes = [Episode(length, {name: name for name in columns}) for length in steps]
    return _table(table, arrays, columns, episodes, (note,))


def _steps(table: Table, options: ColumnOptions, rows: int, extra: int) -> list[int]:
    """Steps of each episode, where observations have `extra` rows more. Raises InputError where that cannot be said."""
    ends = np.zeros(rows, np.bool_)
    for role in ("terminal", "truncated", "episode"):
        name = getattr(options, role)
        if name is None or name not in table.columns:
            continue
        kind: Kind = "label" if role == "episode" else "flag"
        values = np.concatenate([piece[name] for piece in table.read({name: kind})])
        if role == "episode" and len(values) == rows + extra:  # it tells those of the observations
            starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
            return (np.diff([*starts.tolist(), len(values)]) - 1).tolist()
        if len(values) == rows:
            ends |= np.append(values[1:] != values[:-1], True) if role == "episode" else values
    ends[-1] = True
    steps = np.diff(np.flatnonzero(ends), prepend=-1).tolist()
    if len(steps) != extra != 1:
        raise InputError(
            f"{table.path}: observations have {rows + extra:,} rows for {rows:,} actions; {extra:,} more would be one "
            f"for each episode, but {len(steps):,} are told apart; give --episode, --terminal or --truncated"
        )
    return steps


# --- reading ------------------------------------------------------------------------------------------------


def _table(
    table: Table,
    arrays: ArrayFile,
    columns: Mapping[str, Column],
    episodes: list[Episode],
    notes: tuple[str, ...],
    whole_rows: bool = False,
) -> Table:
    """whole_rows: an episode is one row of its arrays."""

    def read(kinds: Mapping[str, Kind], piece_bytes: int | None = None) -> Iterator[Piece]:
        row = 0
        with arrays.opened() as opened:
            cursors: dict[str, Cursor] = {}
            for number, episode in enumerate(episodes):
                piece: Piece = {}
                for name, kind in kinds.items():
                    source = episode.arrays[name]
                    if source not in cursors:
                        cursors[source] = opened(source)
                    rows = episode.steps + columns[name].ahead
                    array = cursors[source](1)[0] if whole_rows else cursors[source](rows)
                    values = as_kind(table.path, name, array, kind, row)
                    piece[name] = values[: episode.steps]
                    if columns[name].ahead:
                        piece[after(name)] = values[1:]
                row += episode.steps
                if episode.steps:
                    yield {**piece, EPISODE: np.full(episode.steps, number)}

    return table._replace(columns=columns, read=read, notes=(*table.notes, *notes), has_episodes=True, arrays=None)
