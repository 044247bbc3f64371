"""What the files of the command line share: hints for defaults, and printing to stdout."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from tether.errors import InputError, in_options

__all__ = [
    "Assignments",
    "Folder",
    "Loggers",
    "Precision",
    "assignments",
    "fail",
    "hint",
    "print_out",
    "several",
    "show_report",
]

Precision = Literal["float32", "bfloat16", "tf32"]
"""`tether.training.precision.PRECISIONS`, which this must not import: it starts JAX."""


def hint(text: str, metavar: str = "N") -> Any:
    """An option whose default is not a plain value: `text` says what it is."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {text})")


def several(metavar: str) -> Any:
    """A positional of which at least one is needed: the parser, which takes none for a default, would say it so."""
    return arg(metavar=metavar, help_behavior_hint="(required)")


def print_out(what: Any) -> None:
    """Print to stdout. Nothing is wrapped where nobody sees columns, so that output can be searched and copied."""
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


Folder = Annotated[Positional[Path], arg(metavar="DIR")]


Assignments = Annotated[tuple[str, ...], hint("none", "NAME=VALUE ...")]


Loggers = Annotated[tuple[str, ...], UseAppendAction, arg(metavar="NAME")]


def fail(code: int, message: str) -> int:
    """One line on stderr, without what a terminal would obey: names in files are anybody's."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(in_options(message).split()))
    sys.stderr.write(f"tether: {line}\n")
    return code


def show_report(report: Any) -> int:
    """Table, paths, and the exit code of a run."""
    from tether.runs.arms import arms_table
    from tether.runs.report import report_table
    from tether.training.devices import is_primary

    if is_primary():  # of several processes one speaks
        if report.last is not None:
            print_out(report_table(report))
        if report.arms:
            print_out(arms_table(report.arms))
        _show_paths(report)
        if report.stopped_early is not None:
            print_out(f"stopped at update {report.updates:,}: {report.stopped_early}; train on with: tether resume")
    if report.status in ("done", "stopped-early"):
        return 0
    lanes = ", ".join(f"lane {lane} in {where}" for lane, where in sorted(report.diverged.items()))
    return fail(
        1, f"diverged: {lanes}" + ("; no lane is left, so there is no policy" if report.best_lane is None else "")
    )


def _show_paths(report: Any) -> None:
    """Print where curve, policy and run folder are."""
    for name, path in (("curve", report.curve), ("sweep", report.sweep)):
        if path.exists():
            print_out(f"{name:<7} {path}")
    if report.best_lane is not None:
        print_out(f"policy  {report.folder / 'policy'}")
    print_out(f"run     {report.folder}")
