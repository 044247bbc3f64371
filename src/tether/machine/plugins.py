"""Modules that a user names to be imported before anything else: `--plugin MODULE`, and TETHER_PLUGINS.

What they register is then known to the command, to the processes that play its evaluations, and to its jobs on Ray and
Slurm. Only the command line and the environment name them, never a file.
"""

import importlib
import os
import re
import sys
from collections.abc import Sequence

from tether.errors import InputError, reason

__all__ = ["PLUGINS", "load_plugins", "plugin_names", "take_plugin_words"]

PLUGINS = "TETHER_PLUGINS"  # modules, separated by commas
OPTION = "--plugin"
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def plugin_names() -> list[str]:
    """What TETHER_PLUGINS names, in order."""
    return [name for name in re.split(r"[,\s]+", os.environ.get(PLUGINS, "")) if name]


def take_plugin_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the words without `--plugin MODULE`, the modules). Raises InputError where a module is missing."""
    rest: list[str] = []
    modules: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if word == OPTION:
            if not remaining:
                raise InputError(f"{OPTION}: name a module")
            modules.append(remaining.pop(0))
        elif word.startswith(f"{OPTION}="):
            modules.append(word.removeprefix(f"{OPTION}="))
        else:
            rest.append(word)
    return rest, modules


def load_plugins(more: Sequence[str] = ()) -> None:
    """Import the modules of TETHER_PLUGINS and `more`, which processes that this one begins will import, too.

    A module may also lie in the working folder. Raises InputError for one that is not there or that fails.
    """
    names = list(dict.fromkeys([*plugin_names(), *more]))
    for name in names:
        if not MODULE.fullmatch(name):
            raise InputError(f"plugin {name!r}: name a module as `import` does, such as my_package.algorithms")
    for name in names:
        _load(name)
    if names:
        os.environ[PLUGINS] = ",".join(names)


def _load(name: str) -> None:
    if name in sys.modules:
        return
    here = os.getcwd()
    sys.path.append(here)  # behind everything: a file there takes no module's place
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise InputError(
                f"plugin {name!r}: no such module in this environment, on PYTHONPATH or in {here}"
            ) from None
        raise InputError(f"plugin {name!r}: {error}") from error
    except InputError as error:
        raise InputError(f"plugin {name!r}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever somebody's module meets; a command must not end with 0 for it
        raise InputError(f"plugin {name!r}: {reason(error)}") from error
    finally:
        if not _lies_in(name, here):  # else what it imports later is found, too
            sys.path.remove(here)


def _lies_in(name: str, folder: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and os.path.realpath(file).startswith(os.path.realpath(folder) + os.sep)
