"""What the columns of logs mean: the names and patterns of a user, resolved to columns or refused with the choices."""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.data.logs.expression import parse_expression
from tether.data.logs.tables import TABLE_SUFFIXES, Column, Kind, natural
from tether.data.schema import Layout, layout_of
from tether.errors import InputError, unknown

__all__ = ["ColumnOptions", "ColumnPlan", "Reward", "find_files", "function_of", "resolve"]


@dataclass(frozen=True)
class ColumnOptions:
    """What each column of the logs means. Patterns may hold * and ?."""

    observation: tuple[str, ...]
    action: tuple[str, ...]
    reward: str | None = None  # a column, arithmetic over columns, or module:function
    episode: str | None = None  # a column, or "none" for one recording without a break
    terminal: str | None = None
    truncated: str | None = None
    time: str | None = None
    action_low: tuple[float, ...] = ()  # one for all actions, or one each
    action_high: tuple[float, ...] = ()


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
    time: str | None
    assumed: tuple[str, ...]


class Reward(NamedTuple):
    """How rewards come about."""

    evaluate: Callable[[Mapping[str, np.ndarray], int], Any]  # (columns, rows) -> (rows,)
    columns: tuple[str, ...]
    whole_episodes: bool


def resolve(columns: Mapping[str, Column], options: ColumnOptions, files: Sequence[Path]) -> ColumnPlan:
    """Patterns -> columns, of which `columns` are those of the first file.

    Raises InputError for what is missing, meant twice, or can be meant in two ways.
    """
    where, taken = files[0], _Taken(columns, files[0], {})
    one_recording = options.episode == "none" and "none" not in columns
    roles: dict[str, Kind] = {"episode": "label", "terminal": "flag", "truncated": "flag", "time": "order"}
    named = {role: getattr(options, role) for role in roles if getattr(options, role) is not None}
    if one_recording:
        del named["episode"]
    for role, name in named.items():
        taken.take(role, name)
    reward = _reward(taken, options.reward)
    observation, action = (taken.layout(option, getattr(options, option)) for option in ("observation", "action"))

    kinds: dict[str, Kind] = dict.fromkeys(reward.columns, "float64")
    kinds |= {name: "float32" for name in (*observation, *action) if name not in kinds}
    kinds |= {name: roles[role] for role, name in named.items()}
    if len(files) == 1 and not one_recording and not {"episode", "terminal", "truncated"} & set(named):
        raise InputError(
            f"{where}: nothing tells its episodes apart; give --episode COLUMN, --terminal COLUMN or --truncated "
            f"COLUMN (columns without a meaning yet: {', '.join(taken.left()) or 'none'}), "
            "or --episode none for one recording without a break"
        )
    return ColumnPlan(
        observation, action, kinds, reward, **{role: named.get(role) for role in roles}, assumed=_assumed(named, files)
    )


def _assumed(named: Mapping[str, str], files: Sequence[Path]) -> tuple[str, ...]:
    """What is taken for granted because the user did not say it."""
    notes = []
    if "episode" not in named and len(files) > 1:
        notes.append(f"no --episode: each of the {len(files)} files is an episode, or several where flags say so")
    elif "episode" not in named and not {"terminal", "truncated"} & set(named):
        notes.append("--episode none: the file is one recording without a break")
    if "terminal" not in named:
        notes.append("no --terminal: no episode truly ended; training values what would have followed")
    if "truncated" not in named:
        notes.append("no --truncated: an episode whose last row is not terminal was cut there")
    if "time" not in named:
        notes.append("no --time: rows are in the order of time")
    return tuple(notes)


class _Taken(NamedTuple):
    """Columns that have a meaning; none has two."""

    columns: Mapping[str, Column]
    where: Path
    by: dict[str, str]  # column -> option

    def take(self, option: str, name: str) -> str:
        if name not in self.columns:
            raise unknown(f"column for --{option} in {self.where}:", name, self.columns)
        if name in self.by:
            options = " and ".join(dict.fromkeys((f"--{self.by[name]}", f"--{option}")))
            hint = f"; a reward may use it as arithmetic: --reward '1 * {name}'" if "--reward" in options else ""
            raise InputError(f"{self.where}: column {name!r} is meant twice, by {options}{hint}")
        self.by[name] = option
        return name

    def left(self) -> list[str]:
        """Those without a meaning yet."""
        return [name for name in self.columns if name not in self.by]

    def layout(self, option: str, patterns: Iterable[str]) -> Layout:
        """The columns that patterns mean, pattern by pattern, each in natural order, and the numbers in them."""
        names = [self.take(option, name) for pattern in patterns for name in self._matching(option, pattern)]
        if not names:
            raise InputError(f"--{option}: name columns, such as '{option}_*'; there are {', '.join(self.left())}")
        return layout_of({name: self.columns[name].size for name in names})

    def _matching(self, option: str, pattern: str) -> list[str]:
        if pattern in self.columns:
            return [pattern]
        parts = {"*": ".*", "?": "."}
        expression = "".join(parts.get(letter, re.escape(letter)) for letter in pattern)
        names = sorted((name for name in self.columns if re.fullmatch(expression, name, re.DOTALL)), key=natural)
        if not names:
            raise unknown(f"column for --{option} in {self.where}:", pattern, self.columns)
        return names


def _reward(taken: _Taken, text: str | None) -> Reward:
    sizes = {name: column.size for name, column in taken.columns.items() if taken.by.get(name) != "episode"}
    if text is None:
        choices = ", ".join(name for name in taken.left() if sizes[name] == 1)
        raise InputError(
            f"{taken.where}: --reward is needed: a column ({choices}), arithmetic over columns such as "
            "'1 - angle**2', or a Python function as module:function"
        )
    if text in taken.columns:
        taken.take("reward", text)
        if sizes[text] > 1:
            raise InputError(f"{taken.where}: column {text!r} for --reward holds {sizes[text]} numbers in each row")
        return Reward(lambda values, rows: values[text], (text,), whole_episodes=False)
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        numbers = [name for name in sizes if taken.columns[name].holds in ("numbers", "flags")]
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
