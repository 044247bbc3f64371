"""What the columns of logs mean: the names and patterns of a user, resolved to columns or refused with the choices."""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tether.data.logs.expression import parse_expression
from tether.data.logs.pieces import HEADER_BYTES, Kind, Table, after, natural
from tether.data.logs.tables import TABLE_SUFFIXES
from tether.data.schema import Layout, layout_of, size_of
from tether.errors import InputError, shortened, unknown

__all__ = ["ColumnOptions", "ColumnPlan", "Reward", "find_files", "function_of", "matches", "resolve"]

EVERY_ROW = "every-row"
MOST_CATEGORIES = 100


@dataclass(frozen=True)
class ColumnOptions:
    """What each column of the logs means. Patterns may hold * and ?."""

    observation: tuple[str, ...]
    action: tuple[str, ...]
    reward: str | None = None  # a column, arithmetic over columns, module:function, or "none"
    episode: str | None = None  # a column, or "none" for one recording without a break
    terminal: str | None = None  # a column, or "every-row" for decisions of one step
    truncated: str | None = None
    time: str | None = None
    next_observation: tuple[str, ...] = ()
    action_low: tuple[float, ...] = ()  # one for all actions, or one each
    action_high: tuple[float, ...] = ()
    continuous: bool = False  # whole numbers in the action columns are levels, no choices
    one_hot: tuple[str, ...] | None = None  # of the observation; (): all that hold text
    keep: tuple[str, ...] = ()
    missing: Literal["refuse", "drop", "hold"] = "refuse"
    max_gap: float | None = None  # in the clock's unit, in seconds where it shows times
    time_format: str | None = None
    join: tuple[str, ...] = ()
    header: Literal["first", "none"] = "first"
    decimal: Literal["auto", "point", "comma"] = "auto"
    encoding: str | None = None  # of CSV files; None: as their bytes tell
    side_by_side: bool = False  # arrays are (steps, environments, ...)

    def __post_init__(self) -> None:
        """Raises InputError for values that Python programs may give and the command line does not let through."""
        if self.missing not in ("refuse", "drop", "hold"):
            raise unknown("--missing", self.missing, ("refuse", "drop", "hold"))
        if self.max_gap is not None and not (isinstance(self.max_gap, int | float) and self.max_gap > 0):
            raise InputError(f"--max-gap {self.max_gap!r}: the longest step of the clock is a number above 0")


def find_files(paths: Sequence[Path]) -> list[Path]:
    """`paths` with folders replaced by their tables, in natural order of the names."""
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = [file for file in path.iterdir() if file.suffix.lower() in TABLE_SUFFIXES and file.is_file()]
        inside = sorted((file for file in inside if file.name[0] != "."), key=lambda file: natural(file.name))
        if not inside:
            raise InputError(f"{path}: a folder without a file of {', '.join(TABLE_SUFFIXES)}")
        kinds = {file.suffix.lower(): file for file in inside}
        if len(kinds) > 1:
            examples = ", ".join(sorted(file.name for file in kinds.values()))
            raise InputError(f"{path}: holds files of several kinds ({examples}); name those that are meant")
        files += inside
    if not files:
        raise InputError("name at least one file or folder of logs")
    if double := sorted({str(file) for file in files if files.count(file) > 1}):
        raise InputError(f"{double[0]} is named twice")
    return files


class ColumnPlan(NamedTuple):
    """ColumnOptions with every pattern resolved to columns."""

    observation: Layout
    action: Layout
    kinds: dict[str, Kind]  # all columns that are read
    reward: "Reward"
    episode: str | None
    terminal: str | None
    truncated: str | None
    time: str | None  # the clock, which is kept
    order: str | None  # sorts the rows of an episode
    options: ColumnOptions
    assumed: tuple[str, ...]
    next_observation: tuple[str, ...] = ()  # keys of the pieces, in the order of `observation`
    categories: Mapping[str, tuple[str, ...]] = {}  # of columns of text: each one becomes a number
    keep: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = {}  # of columns whose numbers have names of their own: `Column.parts`
    every_row_ends: bool = False
    own_names: Mapping[str, str] = {}  # of columns that are called otherwise in the data set

    def named(self, layout: Layout) -> Layout:
        """`layout` as the data set names it: with a name for each number of the columns that give them one."""
        sizes: dict[str, int] = {}
        for column, (start, stop) in layout.items():
            name = self.own_names.get(column, column)
            parts = [f"={text}" for text in self.categories.get(column, ())] or self.parts.get(column, ())
            sizes |= dict.fromkeys((name + part for part in parts), 1) if parts else {name: stop - start}
        return layout_of(sizes)


class Reward(NamedTuple):
    """How rewards come about."""

    evaluate: Callable[[Mapping[str, np.ndarray], int], Any]  # (columns, rows) -> (rows,)
    columns: tuple[str, ...]
    whole_episodes: bool
    recorded: bool = True  # False: zeros, which mean nothing


NO_REWARD = Reward(lambda values, rows: np.zeros(rows), (), whole_episodes=False, recorded=False)
ROLES: dict[str, Kind] = {"episode": "label", "terminal": "flag", "truncated": "flag", "time": "order"}


def resolve(tables: Sequence[Table], options: ColumnOptions, refuse_text: bool = True) -> ColumnPlan:
    """Patterns -> columns of the first table. refuse_text: that of observations, unless it becomes categories.

    Raises InputError for what is missing, meant twice, or can be meant in two ways.
    """
    table = tables[0]
    taken = _Taken(table, {})
    named = {role: name for role in ROLES if (name := getattr(options, role)) is not None}
    for role, word in (("episode", "none"), ("terminal", EVERY_ROW)):
        if named.get(role) == word and word not in table.columns:
            del named[role]
    every_row_ends = options.terminal == EVERY_ROW and "terminal" not in named
    for role, name in named.items():
        taken.take(role, name)
    order = _lerobot_order(taken, named)
    reward = _reward(taken, options.reward)
    observation = taken.names("observation", options.observation)
    action = taken.names("action", options.action)
    following = taken.names("next-observation", options.next_observation) if options.next_observation else []
    for name in action:
        if refuse_text and table.columns[name].holds == "text":
            raise _text_refused(table, name, "these are choices; tether trains continuous actions")
    observation, categories = _one_hot(taken, observation, options, tables, refuse_text)
    layout = layout_of({k: len(categories.get(k, ())) or table.columns[k].size for k in observation})
    following = _paired(table, layout, following, options) if following else _ahead(table, observation)
    pairs = [f"{name} -> {follower}" for name, follower in zip(observation, following, strict=False)]
    keep = _kept(taken, options, every_row_ends)

    loose = options.missing != "refuse"
    kinds: dict[str, Kind] = dict.fromkeys(reward.columns, "float64?" if loose else "float64")
    kinds |= {k: "float32?" if loose else "float32" for k in (*observation, *action) if k not in kinds}
    kinds |= dict.fromkeys(categories, "text")
    kinds |= dict.fromkeys((k for k in following if k in table.columns), "float32?")
    kinds |= {name: ROLES[role] for role, name in named.items()}
    kinds |= {k: "flag?" for k in kinds if options.missing == "drop" and kinds[k] == "flag"}
    kinds |= {order: "order"} if order is not None else {}
    kinds |= {named["time"]: "text"} if options.time_format is not None and "time" in named else {}
    kinds |= {k: "float64?" for k in keep if k not in kinds}
    _check_episodes(taken, named, options, len(tables), bool(following) or every_row_ends)
    return ColumnPlan(
        layout,
        layout_of({name: table.columns[name].size for name in action}),
        kinds,
        reward,
        **{role: named.get(role) for role in ROLES},
        order=order or named.get("time"),
        options=options,
        assumed=(*table.notes, *_assumed(taken, named, options, len(tables), pairs, keep)),
        next_observation=tuple(following),
        categories=categories,
        keep=keep,
        parts={name: column.parts for name, column in table.columns.items() if column.parts},
        every_row_ends=every_row_ends,
        own_names=_own_names(table, "observation", observation) | _own_names(table, "action", action),
    )


def _own_names(table: Table, option: str, names: Sequence[str]) -> dict[str, str]:
    """Entries of an object that is called as the option itself -> their names in it, by which a policy knows them: logs
    of decisions have `"observation": {"level": 1.0}`. Nothing where others are called so."""
    own = {name: name.removeprefix(f"{option}.") if table.columns[name].inside == option else name for name in names}
    return own if len(set(own.values())) == len(names) else {}


def _lerobot_order(taken: "_Taken", named: dict[str, str]) -> str | None:
    """The column that orders the rows of a LeRobot file, whose clock is made the clock in `named`; else nothing."""
    free = set(taken.left())
    if named.get("episode") != "episode_index" or "time" in named or not {"frame_index", "timestamp"} <= free:
        return None
    named["time"] = taken.take("time", "timestamp")
    return taken.take("time", "frame_index")


def _paired(table: Table, observation: Layout, following: list[str], options: ColumnOptions) -> list[str]:
    """The columns of next observations in the order of those that they follow: by what is left of their names without
    what all have in common, else as they are named one by one. Raises InputError where a pattern gives the order."""
    sizes = [table.columns[name].size for name in following]
    if sum(sizes) != size_of(observation):
        raise InputError(
            f"{table.path}: --next-observation has {sum(sizes)} numbers ({', '.join(following)}), --observation "
            f"{size_of(observation)} ({', '.join(observation)})"
        )
    own, others = _distinct(list(observation)), dict(zip(_distinct(following), following, strict=True))
    in_order = [others[part] for part in own] if set(own) == set(others) else following
    if set(own) != set(others) and len(options.next_observation) < len(following):
        raise InputError(
            f"{table.path}: --next-observation {' '.join(options.next_observation)} are {', '.join(following)}, whose "
            f"names do not tell which follows which of {', '.join(observation)}; name them one by one in that order"
        )
    for (name, (start, stop)), follower in zip(observation.items(), in_order, strict=False):
        size = table.columns[follower].size
        if len(observation) == len(following) and size != stop - start:
            raise InputError(
                f"{table.path}: {follower!r} for --next-observation holds {size} numbers in each row, {name!r} for "
                f"--observation {stop - start}"
            )
    return in_order


def _distinct(names: list[str]) -> list[str]:
    """What is left of each name without the beginning and the end that all share."""
    if len(names) == 1:
        return [""]
    start = _common(names)
    rest = [name[start:] for name in names]
    end = _common([name[::-1] for name in rest])
    return [name[: len(name) - end] for name in rest]


def _common(names: Sequence[str]) -> int:
    """How many letters they all begin with."""
    alike = [len(set(letters)) == 1 for letters in zip(*names, strict=False)]
    return alike.index(False) if False in alike else len(alike)


def _ahead(table: Table, observation: Sequence[str]) -> list[str]:
    """Next observations that the file's longer arrays hold, if all of them do."""
    return [after(name) for name in observation] if all(table.columns[name].ahead for name in observation) else []


def _kept(taken: "_Taken", options: ColumnOptions, every_row_ends: bool) -> tuple[str, ...]:
    """Columns that are only passed on; of decisions of one step all others, among which is how probable each was."""
    names = [name for pattern in options.keep for name in taken.matching("keep", pattern)]
    if every_row_ends and not names:
        names = [name for name in taken.left() if taken.table.columns[name].holds in ("numbers", "flags")]
    for name in names:
        if taken.table.columns[name].holds == "text":
            raise InputError(f"{taken.table.path}: column {name!r} for --keep holds text; numbers can be kept")
        inside = [other for other in names if other.startswith(f"{name}/")]  # in HDF5 a folder cannot be numbers, too
        if inside or {".", ".."} & set(name.split("/")):
            beside = f" beside {inside[0]!r}" if inside else ""
            raise InputError(f"{taken.table.path}: column {name!r}{beside} for --keep has no name in HDF5; rename it")
    return tuple(dict.fromkeys(names))


def _check_episodes(taken: "_Taken", named: Mapping[str, str], options: ColumnOptions, files: int, apart: bool) -> None:
    """Raises InputError unless something tells episodes apart. apart: whether something but a column does."""
    if options.max_gap is not None and "time" not in named:
        raise InputError("--max-gap: it is the longest step of the clock; name the clock: --time COLUMN")
    if options.time_format is not None and "time" not in named:
        raise InputError("--time-format: it says how the clock is written; name the clock: --time COLUMN")
    said = {"episode", "terminal", "truncated"} & set(named) or options.episode == "none" or options.max_gap is not None
    if not (files > 1 or said or apart or taken.table.has_episodes):
        raise InputError(
            f"{taken.table.path}: nothing tells its episodes apart; give --episode COLUMN, --terminal COLUMN or "
            f"--truncated COLUMN (columns without a meaning yet: {', '.join(taken.left()) or 'none'}), "
            "or --episode none for one recording without a break" + (taken.table.hint and f"; {taken.table.hint}")
        )


def _assumed(
    taken: "_Taken",
    named: Mapping[str, str],
    options: ColumnOptions,
    files: int,
    pairs: Sequence[str],
    keep: tuple[str, ...],
) -> Iterator[str]:
    """What is taken for granted because the user did not say it."""
    if options.terminal == EVERY_ROW and "terminal" not in named:
        yield "--terminal every-row: each row is an episode of one step, nothing follows it"
        if keep and not options.keep:
            yield f"kept beside the data: {', '.join(keep)}"
    else:
        yield from _assumed_of_episodes(taken, named, options, files, bool(options.next_observation))
    if options.reward == "none" and "none" not in taken.table.columns:
        yield "--reward none: demonstrations, from which algorithms that imitate can learn"
    if pairs and options.next_observation:
        yield f"--next-observation: {shortened(', '.join(pairs))}"
        yield "--next-observation: where it is not the next row's observation, a piece of an episode ends"
    if "time" not in named and not pairs and options.terminal != EVERY_ROW:
        yield "no --time: rows are in the order of time"
    if "time" in named and options.time is None:
        yield "no --time: LeRobot's frame_index orders the rows of an episode, timestamp is the clock"
    if skipped := taken.table.skipped:
        yield "not read: " + ", ".join(f"{name} ({what})" for name, what in skipped.items())


def _assumed_of_episodes(
    taken: "_Taken", named: Mapping[str, str], options: ColumnOptions, files: int, has_next: bool
) -> Iterator[str]:
    if "episode" not in named and files > 1:
        yield f"no --episode: each of the {files} files is an episode, or several where flags say so"
    elif options.episode == "none" and not {"terminal", "truncated"} & set(named):
        yield "--episode none: the file is one recording without a break"
    if "terminal" not in named:
        yield "no --terminal: no episode truly ended; training values what would have followed"
    if "truncated" not in named and not has_next:
        yield "no --truncated: an episode whose last row is not terminal was cut there"


class _Taken(NamedTuple):
    """Columns that have a meaning; none has two."""

    table: Table
    by: dict[str, str]  # column -> option

    def take(self, option: str, name: str) -> str:
        self.refuse_skipped(option, name)
        if name not in self.table.columns:
            raise self.no_such(option, name)
        if name in self.by:
            options = " and ".join(dict.fromkeys((f"--{self.by[name]}", f"--{option}")))
            hint = f"; a reward may use it as arithmetic: --reward '1 * {name}'" if "--reward" in options else ""
            raise InputError(f"{self.table.path}: column {name!r} is meant twice, by {options}{hint}")
        self.by[name] = option
        return name

    def left(self) -> list[str]:
        """Those without a meaning yet."""
        return [name for name in self.table.columns if name not in self.by]

    def names(self, option: str, patterns: Iterable[str]) -> list[str]:
        """The columns that patterns mean, pattern by pattern."""
        names = [self.take(option, name) for pattern in patterns for name in self.matching(option, pattern)]
        if not names:
            raise InputError(f"--{option}: name columns, such as '{option}_*'; there are {', '.join(self.left())}")
        return names

    def matching(self, option: str, pattern: str) -> list[str]:
        """In the order of the file, but where names differ by a number only, in that of the numbers."""
        if pattern in self.table.columns:
            return [pattern]
        for name in self.table.skipped:
            if matches(pattern, name):
                self.refuse_skipped(option, name)
        names = [name for name in self.table.columns if matches(pattern, name)]
        if not names:
            raise self.no_such(option, pattern)
        return by_number(names)

    def no_such(self, option: str, name: str) -> InputError:
        """The refusal of a name that no column has."""
        error = unknown(f"column for --{option} in {self.table.path}:", name, self.table.columns)
        if name.isascii() or self.table.path.suffix.lower() != ".csv":
            return error
        return InputError(f"{error} (if names are garbled, say how the file is written: --encoding NAME)")

    def refuse_skipped(self, option: str, name: str) -> None:
        """Raises InputError for what is in the file but no column."""
        if name in self.table.skipped:
            raise InputError(
                f"{self.table.path}: {name!r} for --{option} holds {self.table.skipped[name]}; vectors of numbers can "
                "be read: name the other columns"
            )


def matches(pattern: str, name: str) -> bool:
    """Whether `name` is what `pattern` means, in which * and ? stand for any letters and any letter."""
    parts = {"*": ".*", "?": "."}
    expression = "".join(parts.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(expression, name, re.DOTALL) is not None


def by_number(names: Sequence[str]) -> list[str]:
    """`names` in their order, but those that differ by their numbers only in the order of these, in the same places:
    many programs write joint_10 before joint_2."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    sorted_families = {family: iter(sorted(members, key=natural)) for family, members in families.items()}
    return [next(sorted_families[re.sub(r"\d+", "#", name)]) for name in names]


# --- text ---------------------------------------------------------------------------------------------------


def _one_hot(
    taken: _Taken, observation: list[str], options: ColumnOptions, tables: Sequence[Table], refuse_text: bool
) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """(the columns of the observation, the texts of those that are categories). Raises InputError for other text."""
    columns = taken.table.columns
    named = [name for pattern in options.one_hot or () for name in taken.matching("one-hot", pattern)]
    for name in named:
        if name not in observation:
            observation = [*observation, taken.take("one-hot", name)]
        if columns[name].size > 1:
            raise InputError(f"{taken.table.path}: column {name!r} for --one-hot holds {columns[name].size} numbers")
    if options.one_hot == ():
        named = [name for name in observation if columns[name].holds == "text"]
    for name in observation:
        if refuse_text and columns[name].holds == "text" and name not in named:
            raise _text_refused(taken.table, name)
    return observation, {name: _texts(tables, name) for name in dict.fromkeys(named)}


def _texts(tables: Sequence[Table], name: str) -> tuple[str, ...]:
    """All texts in a column, sorted; "" is a missing one."""
    found: set[str] = set()
    for table in tables:
        if name not in table.columns:
            continue  # refused where its rows are read
        for piece in table.read({name: "text"}):
            found |= set(piece[name].tolist()) - {""}
            if len(found) > MOST_CATEGORIES:
                raise InputError(
                    f"{table.path}: column {name!r} for --one-hot holds more than {MOST_CATEGORIES} texts, such as "
                    f"{', '.join(map(repr, sorted(found)[:3]))}: they are names rather than categories"
                )
    return tuple(sorted(found, key=natural))


def _text_refused(table: Table, name: str, advice: str = "") -> InputError:
    """Names what is no number in a column: a stray entry among numbers, or categories. advice: on the latter."""
    texts = next(table.read({name: "text"}, HEADER_BYTES), {name: np.array([], object)})[name].tolist()
    strange = [row for row, text in enumerate(texts) if text and not _is_number(text)]
    if not strange:
        return InputError(f"{table.path}: column {name!r} holds text; numbers are needed")
    entry = f"{table.path}: column {name!r} holds {texts[strange[0]]!r} in row {strange[0]}, which is not a number"
    if len(strange) < len(texts) / 2:
        return InputError(f"{entry}, as most of its entries are")
    kinds = len({texts[row] for row in strange})
    if advice:
        return InputError(f"{entry}: {advice}")
    return InputError(f"{entry}: leave the column out, or --one-hot {name} makes a number of each of its {kinds} texts")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- rewards ------------------------------------------------------------------------------------------------


def _reward(taken: _Taken, text: str | None) -> Reward:
    columns = taken.table.columns
    sizes = {name: column.size for name, column in columns.items() if taken.by.get(name) != "episode"}
    if text is None:
        choices = ", ".join(name for name in taken.left() if sizes[name] == 1)
        raise InputError(
            f"{taken.table.path}: --reward is needed: a column ({choices}), arithmetic over columns such as "
            "'1 - angle**2', a Python function as module:function, or none for demonstrations to imitate"
        )
    if text == "none" and text not in columns:
        return NO_REWARD
    if text in columns or text in taken.table.skipped:
        taken.take("reward", text)
        if sizes[text] > 1:
            raise InputError(
                f"{taken.table.path}: column {text!r} for --reward holds {sizes[text]} numbers in each row"
            )
        return Reward(lambda values, rows: values[text], (text,), whole_episodes=False)
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        numbers = [name for name in sizes if columns[name].holds in ("numbers", "flags")]
        return Reward(_function(text), tuple(numbers), whole_episodes=True)
    expression = parse_expression(text, sizes)
    return Reward(expression.evaluate, expression.columns, whole_episodes=False)


def function_of(option: str, text: str) -> Callable[..., Any]:
    """The function that `module:function` names; modules in the working folder are found, too.

    Raises InputError, naming the option, where there is none.
    """
    module_name, _, name = text.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{option} {text}: {error}") from None
    finally:
        sys.path.remove(os.getcwd())
    if not callable(function):
        raise InputError(f"{option} {text}: is a {type(function).__name__}, not a function")
    return function


def _function(text: str) -> Callable[[Mapping[str, np.ndarray], int], Any]:
    """A user's reward function, which is given an episode's columns."""
    function = function_of("--reward", text)
    return lambda values, rows: function(dict(values))
