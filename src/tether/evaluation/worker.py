"""A process that plays episodes for a run that trains in another one: `python -m tether.evaluation.worker`.

`tether.evaluation.pool` begins it and speaks to it. On stdin come requests: a line of JSON, and behind it as many
bytes as it says, the policies as the content of a safetensors file. On stdout go answers, a line of JSON each: "ready"
once, "step" at most once a second while it plays, and at the end of a request "returns" and "lengths", or "error".
Nothing is pickled.

It lives as long as its stdin: where that ends, the run is over or was killed, and the process ends in the middle of
whatever it does. Ctrl-C, SIGTERM and SIGHUP, which a terminal or a scheduler sends to everybody, are for
the run to answer.
"""

import contextlib
import functools
import importlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from tether.machine.signals import ignore_signals

__all__ = ["main"]

NICENESS = 10  # training goes first
SECONDS_BETWEEN_STEPS = 1.0

Answer = Callable[[dict[str, Any]], None]


def main() -> None:
    """Play what is asked for until stdin ends."""
    with contextlib.suppress(AttributeError, OSError):  # Windows has no niceness
        os.nice(NICENESS)
    ignore_signals()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    requests: queue.Queue[tuple[dict[str, Any], bytes]] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()

    def answer(content: dict[str, Any]) -> None:
        try:
            answers.write(json.dumps(content) + "\n")
            answers.flush()
        except OSError:  # nobody reads any more
            os._exit(0)

    import tether.evaluation.rollout  # noqa: F401  (all that is slow to import, JAX among it)
    from tether.machine.plugins import load_plugins

    load_plugins()
    answer({"ready": True})
    while True:
        request, arrays = requests.get()
        try:
            answer(_play(request, arrays, answer))
        except Exception as error:  # whatever it is, the run is told and goes on without this process
            answer({"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]})


def _listen(stdin: IO[bytes], requests: "queue.Queue[tuple[dict[str, Any], bytes]]") -> None:
    """Put requests into the queue; end the process where stdin ends, even in the middle of a request."""
    while line := stdin.readline():
        request = json.loads(line)
        arrays = stdin.read(request["size"])
        if len(arrays) < request["size"]:
            break
        requests.put((request, arrays))
    os._exit(0)


def _play(request: dict[str, Any], arrays: bytes, answer: Answer) -> dict[str, Any]:
    """The episodes of a request."""
    import jax
    import numpy as np

    from tether.environments import Task
    from tether.evaluation.rollout import rollout
    from tether.machine.files import decode_arrays

    policies = decode_arrays(arrays, _skeleton(request), "policies to evaluate")
    keys = jax.random.wrap_key_data(jax.numpy.asarray(request["keys"], np.uint32))
    spoke = time.monotonic()

    def on_step(step: int, horizon: int) -> None:
        nonlocal spoke
        if time.monotonic() - spoke > SECONDS_BETWEEN_STEPS:
            spoke = time.monotonic()
            answer({"step": step, "horizon": horizon})

    task = Task(**request["task"])
    outcome = rollout(policies, task, request["episodes"], keys, on_step, first=request["first"])
    return {"returns": outcome.returns.tolist(), "lengths": outcome.lengths.tolist()}


def _skeleton(request: dict[str, Any]) -> Any:
    """The structure of the policies without arrays, leading axis `lanes`."""
    import jax

    from tether.algorithms.registry import make_algorithm
    from tether.data import Framing
    from tether.policies.framed import untrained_policy
    from tether.training.lanes import Lane, stack_lanes
    from tether.types import Spec

    # Named by the run's own process, which has all of these at hand.
    cls = _named(*request["algorithm"])
    callables = {field: _named(*where) for field, where in request["callables"].items()}
    for module in request["modules"]:
        importlib.import_module(module)
    spec, algorithm = Spec(*request["spec"]), make_algorithm(cls, request["hyperparameters"], callables)
    lanes, framing = len(request["keys"]), Framing(**request["framing"])
    low, high = tuple(request["low"]), tuple(request["high"])

    def build(algorithm: Any, key: Any) -> Any:
        return untrained_policy(algorithm, spec, framing, low, high, key)

    stacked = stack_lanes(algorithm, [Lane(0, {})] * lanes)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), lanes))
    return jax.eval_shape(jax.vmap(build), stacked, keys)


def _named(module: str, name: str) -> Any:
    """What a module has under a name, perhaps with dots in it."""
    return functools.reduce(getattr, name.split("."), importlib.import_module(module))


if __name__ == "__main__":
    main()
