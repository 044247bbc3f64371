"""Worker processes that play evaluations while training goes on (`tether.evaluation.worker` is what they run).

An evaluation is cut into pieces, lanes times episodes, that wait in one queue; each worker has a thread here that
gives it one piece after the other. A worker that dies, falls silent or answers nonsense is replaced and its piece tried
once more; a piece that fails twice is given back, for whoever asked to play it himself. Cutting changes no number: see
`tether.evaluation.rollout`.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tether import _version
from tether.algorithms.callables import callables_of, networks_of
from tether.algorithms.registry import hyperparameters_of
from tether.data.framing import ONE_STEP, Framing
from tether.environments import Task
from tether.evaluation.rollout import Episodes
from tether.machine.cores import usable_cores
from tether.machine.files import encode_arrays, to_json
from tether.policies.deployed import DeployedPolicy
from tether.types import Spec

__all__ = ["Evaluation", "Piece", "WorkerPool", "automatic_workers", "can_be_made_elsewhere", "cut"]

MOST_WORKERS = 8  # that are begun unasked: each takes some 400 MB
SILENCE_SECONDS = 300.0  # a worker that says nothing for so long, compiling included, hangs
# -P: a file in the working folder must not take the place of a module.
COMMAND = [sys.executable, "-P", "-m", "tether.evaluation.worker"]
HOPELESS = 3  # so many pieces in a row that failed for good, and no more workers are begun
# Options of JAX that decide the numbers of an action, or where compiled programs are kept.
INHERITED = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)

Record = Callable[[str, str, float, float, int | None], None]
"""(process, what it did, start, end in time.perf_counter's seconds, update)"""


def automatic_workers() -> int:
    """How many workers a run begins where nobody says: as many as there are cores that training leaves alone, and
    none where several processes train together, which may share a machine."""
    if jax.process_count() > 1:
        return 0
    training = 2 if jax.default_backend() == "cpu" else 1
    return max(0, min(MOST_WORKERS, usable_cores() - training))


class Piece(NamedTuple):
    """A part of an evaluation: some lanes (positions among those played), some episodes of each."""

    lanes: range
    episodes: range


def cut(lanes: int, episodes: int, workers: int) -> list[Piece]:
    """All episodes of all lanes in pieces of nearly one size, one for each worker or a few more; fewer only where
    there are not so many episodes."""
    if lanes >= workers:
        return [Piece(part, range(episodes)) for part in _parts(lanes, workers)]
    shares = _parts(episodes, min(episodes, -(-workers // lanes)))
    return [Piece(range(lane, lane + 1), share) for lane in range(lanes) for share in shares]


def _parts(count: int, parts: int) -> list[range]:
    ends = [count * i // parts for i in range(parts + 1)]
    return [range(start, end) for start, end in itertools.pairwise(ends)]


class Evaluation:
    """An evaluation that workers play."""

    def __init__(self, update: int, shape: tuple[int, int], pieces: list[Piece]):
        self.update = update
        self.pieces = pieces
        self.failed: set[int] = set()  # pieces that workers could not play
        self._outcome = Episodes(np.zeros(shape), np.zeros(shape, np.int64))
        self.left = set(range(len(pieces)))  # pieces without an outcome

    @property
    def over(self) -> bool:
        """Whether workers have nothing to do for it any more."""
        return self.left == self.failed

    @property
    def outcome(self) -> Episodes | None:
        """(lanes, episodes), None as long as a piece is missing."""
        return None if self.left else self._outcome

    def put(self, number: int, outcome: Episodes) -> None:
        """The outcome of piece `number`."""
        lanes, episodes = self.pieces[number]
        for whole, part in zip(self._outcome, outcome, strict=True):
            whole[lanes.start : lanes.stop, episodes.start : episodes.stop] = part
        self.failed.discard(number)
        self.left.discard(number)


class WorkerFault(RuntimeError):
    """What was wrong with a worker, in a few words."""


@dataclasses.dataclass
class _Work:
    """A piece in the queue."""

    evaluation: Evaluation
    number: int
    request: dict[str, Any]
    arrays: bytes


class WorkerPool:
    """Some worker processes, begun at once: they import and compile while training does."""

    def __init__(
        self,
        count: int,
        task: Task,
        algorithm: Any,
        spec: Spec,
        framing: Framing = ONE_STEP,
        *,
        accelerator: bool = False,
        record: Record = lambda *_: None,
    ):
        """spec: of a step of a policy whose decisions are framed so. accelerator: policies act on it, else on a core of
        the CPU. record: told of everything workers do."""
        self.count = count
        self.warnings: collections.deque[str] = collections.deque()
        cls, called = type(algorithm), callables_of(algorithm)
        who = {
            "algorithm": [cls.__module__, cls.__qualname__],
            "hyperparameters": hyperparameters_of(algorithm),
            "callables": {name: [thing.__module__, thing.__qualname__] for name, thing in called.items()},
            "modules": sorted({thing.__module__ for thing in networks_of(algorithm)}),  # they register networks
        }
        self._about = json.loads(
            to_json(
                {"task": dataclasses.asdict(task), "spec": list(spec), "framing": dataclasses.asdict(framing)} | who
            )
        )
        self._environment = _environment(accelerator, [cls, *called.values(), *networks_of(algorithm)])
        self._record = record
        self._work: queue.Queue[_Work | None] = queue.Queue()
        self._workers: dict[int, _Worker] = {}
        self._failures = 0  # pieces that failed for good, in a row
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def ask(self, update: int, policies: DeployedPolicy, keys: np.ndarray, episodes: int) -> Evaluation:
        """Have `episodes` episodes of every lane played.

        policies: leading axis `lanes`. keys: (lanes, ...) raw data of one key for each.
        """
        lanes = len(keys)
        evaluation = Evaluation(update, (lanes, episodes), cut(lanes, episodes, self.count))
        for number, piece in enumerate(evaluation.pieces):
            own = slice(piece.lanes.start, piece.lanes.stop)
            arrays = encode_arrays(jax.tree.map(lambda leaf, own=own: leaf[own], policies))
            request = {"keys": keys[own].tolist(), "first": piece.episodes.start, "episodes": len(piece.episodes)}
            request |= {"low": policies.action_low, "high": policies.action_high}
            self._work.put(_Work(evaluation, number, self._about | request | {"size": len(arrays)}, arrays))
        return evaluation

    def look_after(self) -> list[str]:
        """End workers that hang -> what people should be told of since the last time. To be called now and then."""
        for worker in list(self._workers.values()):
            worker.end_if_silent(SILENCE_SECONDS)
        return [self.warnings.popleft() for _ in range(len(self.warnings))]

    def close(self) -> None:
        """End all workers, in the middle of what they do."""
        self._closed = True
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            while thread.is_alive():
                for worker in list(self._workers.values()):  # also one that has just begun
                    worker.kill()
                thread.join(0.05)

    def _serve(self, index: int) -> None:
        """The life of a thread: give worker number `index` one piece after the other."""
        try:
            self._begin(index)
        except Exception:  # tried again with the first piece, which then has something to say
            self._dismiss(index)
        while (work := self._work.get()) is not None and not self._closed:
            faults = 0
            while work.number in work.evaluation.left and faults < 2 and self._failures < HOPELESS:
                try:
                    work.evaluation.put(work.number, self._play(index, work))
                    self._failures = 0
                except Exception as fault:  # of any kind: whoever waits for the piece must hear of it
                    self._dismiss(index)
                    faults += 1
                    if not self._closed:
                        self._failures += faults == 2
                        self.warnings.append(self._warning(index, work.evaluation.update, fault, faults))
            if work.number in work.evaluation.left:
                work.evaluation.failed.add(work.number)
        self._dismiss(index)

    def _warning(self, index: int, update: int, fault: Exception, faults: int) -> str:
        reason = str(fault) if isinstance(fault, WorkerFault) else f"failed ({type(fault).__name__}: {fault})"
        remedy = "trying again in a fresh one" if faults == 1 else "this part is played while training waits"
        if self._failures >= HOPELESS:
            remedy += ", and so are all others from here on"
        return f"evaluation of update {update}: worker {index} {reason}; {remedy}"

    def _dismiss(self, index: int) -> None:
        worker = self._workers.pop(index, None)
        if worker is not None:
            worker.end()

    def _begin(self, index: int) -> None:
        """Raises: WorkerFault, OSError."""
        started = time.perf_counter()
        self._workers[index] = _Worker(self._environment)
        self._workers[index].wait_until_ready()
        self._record(f"worker {index}", "start", started, time.perf_counter(), None)

    def _play(self, index: int, work: _Work) -> Episodes:
        """Raises: WorkerFault."""
        if index not in self._workers:
            self._begin(index)
        started = time.perf_counter()
        try:
            return self._workers[index].play(work.request, work.arrays)
        finally:
            self._record(f"worker {index}", "evaluate", started, time.perf_counter(), work.evaluation.update)


class _Worker:
    """A worker process. One thread speaks to it; `kill` and `end_if_silent` may be called by others."""

    def __init__(self, environment: dict[str, str]):
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (its stderr, for when it dies; closed by `end`)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._said}
        self.process = subprocess.Popen(COMMAND, env=environment, **pipes)
        self._heard = time.monotonic()
        self._busy = True
        self._hung = False

    def wait_until_ready(self) -> None:
        """Raises: WorkerFault."""
        self._answer()
        self._busy = False

    def play(self, request: dict[str, Any], arrays: bytes) -> Episodes:
        """Raises: WorkerFault."""
        self._heard, self._busy = time.monotonic(), True
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.write(arrays)
            self.process.stdin.flush()
        except OSError:
            raise WorkerFault(self._cause()) from None
        while "step" in (answer := self._answer()):
            pass
        self._busy = False
        try:
            shape = len(request["keys"]), request["episodes"]
            returns, lengths = np.asarray(answer["returns"], np.float64), np.asarray(answer["lengths"], np.int64)
            return Episodes(returns.reshape(shape), lengths.reshape(shape))
        except (KeyError, TypeError, ValueError):
            raise WorkerFault(f"failed ({answer.get('error', 'an answer that means nothing')})") from None

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self._heard = time.monotonic()
        try:
            answer = json.loads(line)
        except ValueError:
            raise WorkerFault(self._cause()) from None
        if not isinstance(answer, dict):
            raise WorkerFault(f"said {answer!r}")
        return answer

    def _cause(self) -> str:
        """Why there is no answer."""
        if self._hung:
            return f"said nothing for {SILENCE_SECONDS:g} s"
        self.process.kill()
        code = self.process.wait()
        with contextlib.suppress(OSError, ValueError):
            self._said.seek(0)
            lines = self._said.read().decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            return f"died with exit code {code}" + (f" ({last[:200]})" if last else "")
        return f"died with exit code {code}"

    def end_if_silent(self, seconds: float) -> None:
        """End it where it owes an answer for so long."""
        if self._busy and time.monotonic() - self._heard > seconds:
            self._hung = True
            self.process.kill()

    def kill(self) -> None:
        """It holds nothing that anybody needs."""
        self.process.kill()

    def end(self) -> None:
        """Kill it and free what it took here; for the thread that speaks to it."""
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self._said):
            with contextlib.suppress(OSError):  # what could not be written to it any more
                file.close()  # pyright: ignore[reportOptionalMemberAccess]


def can_be_made_elsewhere(algorithm: Any) -> bool:
    """Whether another process gets the algorithm's class, and its networks, by importing their modules: not what is
    defined in a notebook or a script."""
    return all(map(_is_in_a_module, [type(algorithm), *callables_of(algorithm).values(), *networks_of(algorithm)]))


def _is_in_a_module(thing: Any) -> bool:
    module, path = getattr(thing, "__module__", "__main__"), getattr(thing, "__qualname__", "")
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    return module != "__main__" and found is thing


def _home(thing: Any) -> str | None:
    """The folder in which the import of a thing's module is found."""
    file = getattr(sys.modules.get(thing.__module__), "__file__", None)
    return None if file is None else str(Path(file).resolve().parents[thing.__module__.count(".")])


def _environment(accelerator: bool, things: list[Any]) -> dict[str, str]:
    """The environment variables of a worker: JAX as it is set here, on one core or with what the run leaves of the
    accelerator's memory; modules as they are found here, those of these classes and functions too."""
    environment = dict(os.environ)
    for option in INHERITED:
        value = getattr(jax.config, option, None)
        if value is not None:
            environment[option.upper()] = str(value)
    root = str(Path(_version.__file__).parents[1])
    paths = [root, environment.get("PYTHONPATH"), *map(_home, things)]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
    # NPROC: the number of threads of XLA on a CPU. A policy for one observation gains nothing from a second one.
    threads = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment |= dict.fromkeys(threads, "1")
    if accelerator:
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    else:
        environment["JAX_PLATFORMS"] = "cpu"
        flags = environment.get("XLA_FLAGS", "").split()
        kept = [flag for flag in flags if not flag.startswith("--xla_force_host_platform_device_count")]
        environment["XLA_FLAGS"] = " ".join(kept)
    # A worker is no member of the run's group of processes.
    environment.pop("TETHER_DISTRIBUTED", None)
    return environment
