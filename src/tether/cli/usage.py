"""What the parser says of wrong usage, a box of many lines, as one line."""

import contextlib
import dataclasses
import io
import itertools
import re
import shlex
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from tyro.conf import Positional, UseAppendAction

from tether.cli.words import option_name
from tether.errors import InputError

__all__ = ["gathered", "one_line_usage", "whole_numbers"]

T = TypeVar("T")
RULE = re.compile("───|---")
EXPONENT = re.compile(r"\d+(\.\d*)?[eE]\+?\d+")


def one_line_usage(parse: Callable[[], T], words: Sequence[str], verbs: Mapping[str, Any]) -> T:
    """What `parse` gives. Raises: InputError, one line, where it ends the process with a box on stderr; SystemExit as
    `parse` does otherwise, as for --help."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    except SystemExit as stop:
        if stop.code in (0, None) or not said.getvalue().strip():
            raise
        command, place = _command(words, verbs)
        raise InputError(_described(said.getvalue(), command, place, words)) from None


def whole_numbers(words: Sequence[str], verbs: Mapping[str, Any]) -> list[str]:
    """`words` with 1e6 written out where a whole number is meant."""
    command, _ = _command(words, verbs)
    kinds = {} if command is None else _kinds(command)
    changed, whole = [], False
    for word in words:
        option, equals, value = word.partition("=")
        if word.startswith("--"):  # what follows are its values, as far as the next one
            whole = kinds.get(option_name(option[2:])) == {int}
            changed.append(f"{option}={_written_out(value)}" if whole and equals else word)
        else:
            changed.append(_written_out(word) if whole else word)
    return changed


def _written_out(value: str) -> str:
    return str(int(float(value))) if EXPONENT.fullmatch(value) and float(value).is_integer() else value


def gathered(words: Sequence[str], verbs: Mapping[str, Any]) -> list[str]:
    """`words` with all values of an option that takes several where it is named first: `--set a=1 --set b=2` is
    `--set a=1 b=2`, of which the parser would forget a."""
    command, _ = _command(words, verbs)
    several = set() if command is None else _several(command)
    groups: dict[str | int, list[str]] = {}  # an option that takes several, or a word's place -> words, in order
    key: str | int = 0
    for place, word in enumerate(words):
        if not word.startswith("--"):
            groups.setdefault(key, []).append(word)
            continue
        name, equals, value = word.partition("=")
        name = option_name(name[2:])
        key = name if name in several else place
        if key == name:
            groups.setdefault(key, [name]).extend([value] if equals else [])
        else:
            groups[key] = [word]
    return [word for group in groups.values() for word in group]


def _several(command: type) -> set[str]:
    """The options that take any number of values in one place."""
    hints, found = typing.get_type_hints(command, include_extras=True), set()
    for field in dataclasses.fields(command):
        notes, hint = getattr(hints[field.name], "__metadata__", ()), hints[field.name]
        kinds = [hint, *typing.get_args(hint), *itertools.chain(*map(typing.get_args, typing.get_args(hint)))]
        if Ellipsis in kinds and UseAppendAction not in notes and Positional not in notes:
            found.add(option_name(field.name))
    return found


def _command(words: Sequence[str], verbs: Mapping[str, Any]) -> tuple[type | None, str]:
    """The command that the words begin with, and these words."""
    place, found = "tether", verbs
    for word in words:
        if not isinstance(found, Mapping) or word not in found:
            break
        place, found = f"{place} {word}", found[word]
    return (None if isinstance(found, Mapping) else found), place


def _kinds(command: type) -> dict[str, set[type]]:
    """Option, also by another name that it has -> the types of its value, None left out."""
    hints, found = typing.get_type_hints(command, include_extras=True), {}
    for field in dataclasses.fields(command):
        notes = getattr(hints[field.name], "__metadata__", ())
        aliases = [alias for note in notes for alias in getattr(note, "aliases", None) or ()]
        kinds = set(_types(typing.get_type_hints(command)[field.name]))
        found |= dict.fromkeys([option_name(field.name), *aliases], kinds)
    return found


def _types(hint: Any) -> Iterator[type]:
    arguments = [each for each in typing.get_args(hint) if each not in (type(None), ...)]
    if arguments and typing.get_origin(hint) is not typing.Literal:
        for each in arguments:
            yield from _types(each)
    elif isinstance(hint, type):
        yield hint


def _described(box: str, command: type | None, place: str, words: Sequence[str]) -> str:
    """The box's first part, in a line."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.strip() and not line.startswith(("╭", "╰"))]
    rules = [i for i, line in enumerate(lines) if RULE.match(line)]
    if "╭" not in box and rules[:1] == [1]:  # without Unicode the title stands within
        lines, rules = lines[2:], [i - 2 for i in rules[1:]]
    first = lines[: rules[0]] if rules else lines
    text, more = " ".join(" ".join(first).split()), f"; `{place} --help` lists all"
    if value := re.match(r"Error parsing (\S+): .*? from \[(.*?)\]", text):
        return f"{value[1].rstrip(':')} {value[2]}: {_needed(command, value[1])} is needed"
    if text.startswith("Missing from"):
        names = [line for line in first[1:] if re.match(r"--\S|[A-Z|]+( \.\.\.)?$", line)]
        return f"{place}: {', '.join(names)} {'is' if len(names) == 1 else 'are'} missing{more}"
    if text.startswith("Unrecognized options:"):
        return f"{place} takes no {text.partition(':')[2].strip()!r}{more}"
    if choices := re.match(r"Expected one of \{(.*?)\}", text):
        return f"{place}: say which, {choices[1]}"
    if choice := re.match(r"invalid choice '(.*?)' for argument '(.*?)'\. Expected one of \((.*?)\)", text):
        return f"{choice[2]} {choice[1]!r}: choices are {choice[3].replace(chr(39), '').rstrip(',')}"
    if missing := re.match(r"Missing value for argument '(.*?)'", text):
        return f"{missing[1]}: a value is missing{_taken_for_an_option(missing[1], words)}"
    return f"{text}{more}"


def _taken_for_an_option(option: str, words: Sequence[str]) -> str:
    """How a value such as -abs(x) is written, if there is one; "" where nothing follows."""
    follower = dict(itertools.pairwise(words)).get(option, "")
    if not follower.startswith("-") or follower.startswith("--"):
        return ""
    return f"; one that begins with - is written {shlex.quote(f'{option}={follower}')}"


def _needed(command: type | None, option: str) -> str:
    kinds = set() if command is None else _kinds(command).get(option, set())
    if kinds == {int}:
        return "a whole number"
    return "a number" if kinds <= {int, float} and kinds else "another value"
