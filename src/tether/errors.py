"""The one exception for wrong usage and bad input, and what is built on it."""

import difflib
from collections.abc import Iterable

LONGEST = 200  # characters of a value in a message

OPTIONS = {"continuous=True": "--continuous"}
"""What a Python program says, as messages of the library have it -> the option of the command line that means it."""


class InputError(ValueError):
    """Bad input or wrong usage: one line that names the value, the place and the choices.

    The command line prints it on stderr and exits with code 2.
    """


class ArgumentError(InputError, TypeError):
    """A keyword argument that a class or function does not take; also a TypeError, as Python raises one for it."""


def in_options(message: str) -> str:
    """A message of the library in the words of the command line."""
    for said, option in OPTIONS.items():
        message = message.replace(said, option)
    return message


def reason(error: BaseException) -> str:
    """What somebody else's code raised, in a line."""
    return " ".join(f"{type(error).__name__} {error}".split())


def shortened(value: object, longest: int = LONGEST) -> str:
    """A value in words, cut where it is long: a message is one line that people read."""
    text = str(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def unknown(kind: str, value: object, choices: Iterable[str], error: type[InputError] = InputError) -> InputError:
    """An InputError, or another `error`, for a name that is not among `choices`, nearest names first."""
    choices = sorted(choices)
    value = shortened(value)
    near = difflib.get_close_matches(value, choices, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"choices: {shortened(', '.join(choices), 5 * LONGEST)}"
    return error(f"unknown {kind} {value!r}; {hint}")
