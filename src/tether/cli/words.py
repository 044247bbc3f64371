"""Words of a command line that nobody knows: one line that says which, and what was perhaps meant."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_type_hints

from tyro.conf import Positional

from tether.errors import InputError

__all__ = ["check_words", "given_fields", "nearest", "option_name", "options_of"]

MOST = 3  # names offered


def check_words(words: Sequence[str], verbs: Mapping[str, Any], place: str = "tether") -> None:
    """Refuse an unknown verb and unknown options; everything else is for the parser to judge.

    verbs: name -> a command's dataclass, or the verbs below it. place: the words before, for the message.
    Raises: InputError.
    """
    if not words:
        return
    if words[0].startswith("-"):
        name = words[0].partition("=")[0]
        known = ("--help", "-h", *(("--version", "--plugin") if place == "tether" else ()))
        if name not in known:
            raise InputError(f"{place} has no option {name}; {_offer(name, known, place)}")
        return
    verb, *rest = words
    if verb not in verbs:
        raise InputError(f"unknown command {f'{place} {verb}'!r}; {_offer(verb, verbs, place)}")
    place = f"{place} {verb}"
    if isinstance(below := verbs[verb], Mapping):
        check_words(rest, below, place)
        return
    known = options_of(below)
    for word in rest:
        name = option_name(word[2:].partition("=")[0])
        if word.startswith("--") and len(word) > 2 and name not in known:
            raise InputError(f"{place} has no option {word.partition('=')[0]}; {_offer(name, known, place)}")


def given_fields(command: Any) -> list[str]:
    """The fields of a command that are not as they are by default, in their order."""
    return [field.name for field in dataclasses.fields(command) if getattr(command, field.name) != field.default]


def option_name(field: str) -> str:
    """`eval_episodes` -> `--eval-episodes`."""
    return f"--{field.replace('_', '-')}"


def options_of(command: type) -> list[str]:
    """The options of a command's dataclass, as they are written: `--eval-episodes`."""
    found = ["--help"]
    hints = get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        notes = getattr(hints[field.name], "__metadata__", ())
        if Positional not in notes:
            found.append(option_name(field.name))
        found += [alias for note in notes for alias in getattr(note, "aliases", None) or ()]
    return found


def nearest(word: str, names: Iterable[str]) -> list[str]:
    """What may have been meant, likeliest first: names that begin so, shortest first; then names that look alike or
    contain it."""
    names = list(dict.fromkeys(names))
    begin = sorted((name for name in names if name.startswith(word)), key=len)
    alike = difflib.get_close_matches(word, names, n=MOST, cutoff=0.6)
    inside = [name for name in names if word.strip("-") and word.strip("-") in name]
    return list(dict.fromkeys([*begin, *alike, *inside]))[:MOST]


def _offer(word: str, names: Iterable[str], place: str) -> str:
    """`did you mean --updates? `tether train --help` lists all`."""
    near = nearest(word, names)
    listed = f"`{place} --help` lists all"
    return f"did you mean {', '.join(near)}? {listed}" if near else listed
