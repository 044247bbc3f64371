"""A process that plays episodes of an OGBench data set: `python -m tether.collect.oracle_worker`.

`tether.collect.regeneration` begins it. On stdin comes one line of JSON, what to play; each finished episode is a file
in the folder that it names. The process ends when all are there, or when stdin ends: then whoever asked is gone.
Ctrl-C, SIGTERM and SIGHUP, which a terminal sends to everybody, are for that one to answer.
"""

import json
import os
import sys
import threading
from pathlib import Path

from tether.machine.signals import ignore_signals

__all__ = ["main"]


def main() -> None:
    """Play what is asked for."""
    ignore_signals()
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()

    from tether.collect.oracles import open_world, write_episode
    from tether.collect.recipes import Recipe

    recipe = Recipe(**request["recipe"])
    with open_world(recipe) as environment:
        for episode in request["episodes"]:
            write_episode(Path(request["folder"]), environment, recipe, request["seed"], episode)


def _end_with_stdin() -> None:
    while os.read(0, 1024):  # not through Python's file, whose lock would be held while the interpreter ends
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
