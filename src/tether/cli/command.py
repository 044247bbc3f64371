"""The `tether` command. Each subcommand is a dataclass: its docstring is the help, its fields are the options, its
`run` is the work.

Exit codes: 0 done; 1 a fault, or a run in which a lane diverged; 2 wrong usage or bad input, one line on stderr;
130 stopped by Ctrl-C (143 by SIGTERM, 129 by SIGHUP), while training after writing a checkpoint. A folder that another
process writes to is a fault (1): the command was right, and succeeds when that one is done. Results go to stdout,
progress and errors to stderr. JAX is imported by the subcommands that need it, not for `--help`.
"""

import dataclasses
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn, Union

import tyro
from tyro.conf import FlagCreatePairsOff, arg, subcommand

from tether._version import __version__
from tether.cli.bandit import Bandit
from tether.cli.bench import Bench
from tether.cli.choose import Choose
from tether.cli.compare import Compare
from tether.cli.data import DATA_VERBS, Data
from tether.cli.evaluate import Evaluate
from tether.cli.export import Export
from tether.cli.finetune import Finetune
from tether.cli.lists import Algorithms, Tasks
from tether.cli.parts import fail
from tether.cli.plot import Plot
from tether.cli.report import Report
from tether.cli.reproduce import Reproduce
from tether.cli.resume import Resume
from tether.cli.serve import Serve
from tether.cli.sweep import Sweep
from tether.cli.train import Train
from tether.cli.usage import gathered, one_line_usage, whole_numbers
from tether.cli.words import check_words
from tether.errors import InputError
from tether.machine.plugins import load_plugins, take_plugin_words

COMMANDS: dict[str, type] = {
    "train": Train,
    "finetune": Finetune,
    "resume": Resume,
    "evaluate": Evaluate,
    "export": Export,
    "serve": Serve,
    "plot": Plot,
    "compare": Compare,
    "choose": Choose,
    "algorithms": Algorithms,
    "tasks": Tasks,
    "data": Data,
    "bandit": Bandit,
    "bench": Bench,
    "sweep": Sweep,
    "reproduce": Reproduce,
    "report": Report,
}
DESCRIPTION = (
    "Offline reinforcement learning with diffusion behaviour models. `tether train` shows it at work. "
    "Anywhere: --plugin MODULE imports a module of yours first, which registers algorithms, readers, loggers ...; "
    "--version."
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the `tether` command; `arguments` default to the process's own."""
    try:
        _main(arguments)
    except BrokenPipeError:  # who read us has seen enough: `tether train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        sys.exit(1)


def _main(arguments: Sequence[str] | None) -> NoReturn:
    words = sys.argv[1:] if arguments is None else list(arguments)
    _degrade_output()
    command = parse(_without_plugins(words))
    # Not Bench, which reports what compiling costs.
    dry = getattr(command, "dry_run", False)  # which writes nothing
    cached = (
        Train | Finetune | Resume | Evaluate | Export | Serve | Compare | Choose | Sweep | Reproduce | Bandit | Data
    )
    if isinstance(command, cached) and not dry:
        from tether.machine.cache import use_compilation_cache
        from tether.machine.start import note_command

        note_command()
        use_compilation_cache()
    sys.exit(_guarded(command))


def _degrade_output() -> None:
    """A terminal or pipe that knows ASCII alone gets `?` for other letters, in the place of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", "") in ("strict", "surrogateescape"):  # stderr's own way loses nothing
            stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]


def _without_plugins(words: list[str]) -> list[str]:
    """The other words, after importing what --plugin and TETHER_PLUGINS name: before anything looks names up. Of
    --version alone nothing is imported, the process ends."""
    try:
        rest, plugins = take_plugin_words(words)
        if rest[:1] == ["--version"]:
            sys.stdout.write(f"tether {__version__}\n")
            sys.exit(0)
        load_plugins(plugins)
    except InputError as error:
        sys.exit(fail(2, f"error: {error}"))
    return rest


def parse(arguments: Sequence[str]) -> Any:
    """The command that `arguments` spell. Wrong ones end the process with code 2 and one line."""
    verbs = {**COMMANDS, "data": DATA_VERBS}
    try:
        check_words(arguments, verbs)
        words = gathered(whole_numbers(arguments, verbs), verbs)
        how: dict[str, Any] = {"prog": "tether", "description": DESCRIPTION, "config": (FlagCreatePairsOff,)}
        return one_line_usage(lambda: tyro.cli(_grammar(*words[:2]), args=words, **how), words, verbs)
    except InputError as error:
        sys.exit(fail(2, f"error: {error}"))


def _grammar(*asked: str) -> Any:
    """All subcommands for tyro, described by one line each, those that are asked for by their whole docstrings."""
    verbs = _union(DATA_VERBS, asked[1] if asked[:1] == ("data",) and asked[1:] else "")
    field = ("verb", Annotated[verbs, arg(name="")])  # no name: `tether data show`, not `tether data verb:show`
    data = dataclasses.make_dataclass("Data", [field], bases=(Data,), frozen=True)
    data.__doc__ = Data.__doc__
    return _union({**COMMANDS, "data": data}, asked[0] if asked else "")


def _union(commands: dict[str, type], asked: str) -> Any:
    members = []
    for name, command in commands.items():
        text = inspect.getdoc(command) or ""
        description = text if name == asked else text.splitlines()[0]
        members.append(Annotated[command, subcommand(name, description=description)])
    return Union[tuple(members)]  # noqa: UP007  (made at run time)


def _guarded(command: Any) -> int:
    """Run a command; what can go wrong becomes one line on stderr and an exit code."""
    from tether.machine.signals import Terminated, end_orderly

    try:
        with end_orderly():
            return command.run()
    except InputError as error:
        return fail(2, f"error: {error}")
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise
        return fail(1, f"error: {error}")
    except Terminated as stop:
        return fail(128 + stop.signal_number, str(stop))
    except KeyboardInterrupt:
        return fail(130, "stopped")
    except RuntimeError as error:
        from tether.machine.locks import Busy
        from tether.runs.checkpoint import CheckpointError

        if isinstance(error, Busy | CheckpointError):
            return fail(1, f"error: {error}")
        raise  # a bug: its traceback is what helps


def _nobody_reads() -> bool:
    """Whether it is stdout whose other end is closed, and not a connection of a server or a logger."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False
