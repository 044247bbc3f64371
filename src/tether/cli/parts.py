"""What the files of the command line share: hints for defaults, and printing to stdout."""

from typing import Any, Literal

from tyro.conf import arg

from tether.errors import InputError

__all__ = ["Precision", "assignments", "hint", "print_out"]

Precision = Literal["float32", "bfloat16", "tf32"]
"""`tether.training.precision.PRECISIONS`, which this must not import: it starts JAX."""


def hint(text: str, metavar: str = "N") -> Any:
    """An option whose default is not a plain value: `text` says what it is."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {text})")


def print_out(what: Any) -> None:
    """To stdout. Nothing is wrapped where nobody sees columns, so that output can be searched and copied."""
    from rich.console import Console

    console = Console(soft_wrap=isinstance(what, str))
    if not console.is_terminal:
        console.width = 1000  # tables take what they need
    console.print(what, highlight=False, markup=False)


def assignments(option: str, words: tuple[str, ...]) -> dict[str, str]:
    """name=value words as a dict."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise InputError(f"{option} {word!r}: write name=value")
        if name in pairs:
            raise InputError(f"{option}: {name!r} is given twice")
        pairs[name] = value
    return pairs
