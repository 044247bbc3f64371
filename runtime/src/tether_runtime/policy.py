"""A policy in use: NumPy in, NumPy out."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tether_runtime.columns import SHOWN_NAMES as SHOWN
from tether_runtime.columns import Columns, column_names, join, numbers
from tether_runtime.errors import InputError
from tether_runtime.folder import DOCUMENT, read_document, read_file
from tether_runtime.graphs import Graph, make_graph
from tether_runtime.noise import draw, generator
from tether_runtime.trust import FLAGGED, Decision, Judge, Trust, read_support

__all__ = ["DAMAGE", "Memory", "Policy", "load"]

Array = np.ndarray
Memory = Sequence[Array]
"""What a policy with a memory is given back at the next step; empty for the others."""
MEASURED_CALLS = 20
DAMAGE = (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError, OSError, zipfile.BadZipFile)


class Policy:
    """A policy that was exported: observation in, action in the robot's units out.

    Actions are random where the policy is a distribution: calls draw from a stream that `seed` starts; with a seed of
    their own they depend on their arguments alone. A policy with a memory (`has_memory`, the Decision Transformer's) is
    used with `step`:

        memory, reward = policy.initial_memory(), 0.0
        while playing:
            action, memory = policy.step(observation, memory, reward)
            observation, reward, ... = environment.step(action)
    """

    def __init__(self, folder: Path, document: dict[str, Any], *, seed: int = 0, threads: int = 1):
        """document: the folder's, verified. threads: of ONNX Runtime."""
        self.folder = folder
        self.document = document
        self.algorithm: str = document["algorithm"]
        self.observation_size: int = document["observation"]["size"]
        self.action_size: int = document["action"]["size"]
        self.columns: Columns | None = document["observation"].get("columns")
        self.action_columns: Columns | None = document["action"].get("columns")
        framing = document.get("framing") or {}  # of exports before there were chunks
        self.chunk_size = int(framing.get("chunk", 1))  # actions that one decision plans
        self.history = int(framing.get("history", 1))  # observations that one decision sees
        self._threads = threads
        self._graphs: dict[int, Graph] = {}  # number in export.json -> loaded
        self._milliseconds: dict[int, float] = {}  # candidates -> of one decision
        self._random = self._stream(seed)
        self._judge = self._read_judge()
        self.graph(0)

    @property
    def has_memory(self) -> bool:
        """Whether it must be used with `step`."""
        return bool(self.document["memory"])

    @property
    def candidates(self) -> list[int]:
        """The numbers of candidates that it can choose among; empty where it draws none, or was exported with one."""
        return [graph["candidates"] for graph in self.document["graphs"] if graph["candidates"] is not None]

    @property
    def has_density(self) -> bool:
        """Whether it says how likely its actions are: it was exported with its noise."""
        return "log_density" in self.graph(0).extras

    def reseed(self, seed: int) -> None:
        """Start the stream anew that calls without a seed draw from."""
        self._random = self._stream(seed)

    def noise(self, count: int | None = None, seed: int | None = None) -> list[Array]:
        """Random numbers for one decision, or for `count` of them: what `noise` of a call takes."""
        lead = () if count is None else (count,)
        stream = self._stream(seed)
        return [draw(stream, kind["law"], (*lead, *kind["shape"])) for kind in self.document["graphs"][0]["noise"]]

    def _stream(self, seed: int | None) -> np.random.Generator:
        """What a call draws from. Raises InputError for what is no seed."""
        if seed is None:
            return self._random
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise InputError(f"seed {seed!r}: a whole number of at least 0")
        return generator(int(seed))

    def initial_memory(self, count: int | None = None) -> Memory:
        """What `step` takes at the start of an episode; of `count` episodes where that is given."""
        memory = [np.asarray(part["initial"], part["dtype"]) for part in self.document["memory"]]
        if count is None:
            return memory
        return [np.broadcast_to(part, (count, *part.shape)).copy() for part in memory]

    def __call__(
        self,
        observation: Any,
        *,
        seed: int | None = None,
        noise: Sequence[Array] | None = None,
        budget_ms: float | None = None,
        candidates: int | None = None,
    ) -> Array:
        """Action (action,) for an observation (observation,), or actions (batch, action) for a batch.

        observation: numbers in the order of the columns; or, where they have names, a dictionary of them by name.
        seed: of the random numbers of this call; None: the policy's own stream goes on.
        noise: the random numbers themselves, as `noise()` gives them.
        budget_ms: among as many candidates as fit into so many milliseconds a decision, of those exported.
        candidates: among so many.
        Raises InputError for another shape, for entries that are not finite, and where the policy has a memory.
        """
        if self.has_memory:
            raise InputError(f"{self.algorithm}: this policy has a memory: use initial_memory() and step()")
        vector = self.vector(observation)
        number = self.number(candidates, budget_ms)
        return self._act(number, vector, seed, noise, (), None)[0]

    def step(
        self,
        observation: Any,
        memory: Memory = (),
        reward: Any = 0.0,
        *,
        seed: int | None = None,
        noise: Sequence[Array] | None = None,
    ) -> tuple[Array, Memory]:
        """The action, as of a call, and the memory to give next time.

        reward: what the last action earned, 0 at first; (batch,) for a batch.
        Raises InputError as a call, and for rewards of another shape or not finite.
        """
        vector = self.vector(observation)
        rewards = numbers("reward", reward)
        if rewards.shape != vector.shape[:-1] or not np.isfinite(rewards).all():
            raise InputError(f"reward {reward}: one finite number for each of the observations {vector.shape}")
        return self._act(0, vector, seed, noise, self.checked_memory(memory, vector.shape[:-1]), rewards)

    def checked_memory(self, memory: Any, lead: tuple[int, ...]) -> Memory:
        """A memory as the graph takes it, for decisions of this batch shape; lists of numbers become arrays.

        Raises InputError for another number of arrays, other shapes, and entries that are not finite.
        """
        parts, wanted = self.document["memory"], "give what initial_memory() or the last step gave"
        if not isinstance(memory, (list, tuple)) or len(memory) != len(parts):
            count = len(memory) if isinstance(memory, (list, tuple)) else "no"
            raise InputError(f"memory of {count} arrays: {len(parts)} are needed; {wanted}")
        found = [numbers("memory", array, part["dtype"]) for array, part in zip(memory, parts)]
        for array, part in zip(found, parts):
            if array.shape != (*lead, *part["shape"]):
                raise InputError(f"memory of shape {array.shape}: {(*lead, *part['shape'])} is needed; {wanted}")
            if not np.isfinite(array).all():
                raise InputError(f"memory has entries that are not finite; {wanted}")
        return found

    def decide(
        self,
        observation: Any,
        memory: Memory | None = None,
        reward: Any = None,
        *,
        flagged_share: float = FLAGGED,
        seed: int | None = None,
        noise: Sequence[Array] | None = None,
        candidates: int | None = None,
        budget_ms: float | None = None,
    ) -> Decision:
        """The action, as of a call or of `step`, and whether it is like the data's own decisions.

        memory, reward: as of `step`; None: those of an episode's start.
        flagged_share: of the data's own decisions that are flagged, too.
        Raises InputError as `step`, and where the export carries no trust.
        """
        judge = self._judged_by()
        vector = self.vector(observation)
        if self.has_memory:
            given = self.initial_memory(None if vector.ndim == 1 else len(vector)) if memory is None else memory
            earned = np.zeros(vector.shape[:-1], np.float32) if reward is None else reward
            action, memory = self.step(vector, given, earned, seed=seed, noise=noise)
        else:
            action, memory = self._act(self.number(candidates, budget_ms), vector, seed, noise, (), None)
        return Decision(action, *judge(vector, action, flagged_share), memory)

    def trust(self, observation: Any, action: Any, *, flagged_share: float = FLAGGED) -> Trust:
        """How like the data's own decisions it is to take `action` (in the robot's units), whoever proposes it.

        Of one decision or of a batch. Raises InputError for another shape, and where the export carries no trust.
        """
        return self._judged_by()(self.vector(observation), np.asarray(action, np.float32), flagged_share)

    @property
    def has_trust(self) -> bool:
        """Whether `decide` and `trust` can be asked."""
        return self._judge is not None

    def _judged_by(self) -> Judge:
        if self._judge is None:
            raise InputError("this export carries no trust: its decisions cannot be judged; export the policy again")
        return self._judge

    def _read_judge(self) -> Judge | None:
        stated = self.document.get("trust")
        if stated is None:
            return None
        names = (
            column_names(self.columns, "observation", self.observation_size),
            column_names(self.action_columns, "action", self.action_size),
        )
        scale, offset = np.asarray(stated["action_scale"], np.float32), np.asarray(stated["action_offset"], np.float32)
        content = read_file(self.folder, self.document, stated["file"])
        return Judge(read_support(content, self.folder / stated["file"]), scale, offset, names)

    def chunk(
        self, observation: Any, *, seed: int | None = None, noise: Sequence[Array] | None = None, **how: Any
    ) -> Array:
        """The actions (chunk, action) that are decided at an observation, the next one first, for whoever keeps a queue
        of them (`tether_runtime.chunks`); of a batch (batch, chunk, action).

        how: `candidates` or `budget_ms`, as of a call.
        Raises InputError as a call, and for a policy that gives single actions or sees a history.
        """
        self.check_chunks()
        if self.history > 1:
            raise InputError(f"this policy sees {self.history} observations: use step(), which remembers them")
        vector = self.vector(observation)
        batch = None if vector.ndim == 1 else len(vector)
        rest = self.initial_memory(batch), np.zeros(vector.shape[:-1], np.float32)
        return self._run(self.number(**how), vector, seed, noise, *rest)[2]["chunk"]

    def check_chunks(self) -> None:
        """Raises InputError where decisions are single actions."""
        if "chunk" not in self.graph(0).extras:
            raise InputError(
                f"{self.algorithm}: this policy gives single actions; `tether train --chunk` makes chunks (an export "
                "that is older than they are has to be made again)"
            )

    def with_log_density(
        self, observation: Any, *, seed: int | None = None, noise: Sequence[Array] | None = None
    ) -> tuple[Array, Array]:
        """The action of a call and its log density in the robot's units; of a batch, each.

        Raises InputError as a call, and for a policy that was not exported with its noise.
        """
        if not self.has_density:
            raise InputError(
                f"{self.algorithm}: no density of its actions is known; `tether export --noise` tells some"
            )
        action, _, extras = self._run(0, self.vector(observation), seed, noise, (), None)
        return action, extras["log_density"]

    def vector(self, observation: Any) -> Array:
        """The observation as float32, checked for shape and finite numbers."""
        if isinstance(observation, Mapping) and self.columns is not None:
            try:
                observation = join(self.columns, observation)
            except InputError:
                raise
            except (TypeError, ValueError) as error:
                raise InputError(f"observation is no array of numbers: {error}") from None
        vector = numbers("observation", observation)
        size = self.observation_size
        if vector.ndim not in (1, 2) or vector.shape[-1] != size or not vector.size:
            raise InputError(f"observation of shape {vector.shape}: this policy takes ({size},) or (batch, {size})")
        if not np.isfinite(vector).all():
            names = column_names(self.columns, "observation", size)
            wrong = np.unique(np.argwhere(~np.isfinite(vector))[:, -1])
            which = ", ".join(names[index] for index in wrong[:SHOWN])
            raise InputError(f"observation has entries that are not finite: {which}{' ...' * (len(wrong) > SHOWN)}")
        return vector

    def milliseconds(self) -> dict[int, float]:
        """Candidates -> how long one decision takes here, the 9th of 10 calls; measured at the first call."""
        if not self._milliseconds:
            observation = np.asarray(self.document["observation"]["example"], np.float32)
            self._milliseconds = {
                count: self._measure(number, observation) for number, count in enumerate(self.candidates)
            }
        return self._milliseconds

    def _measure(self, number: int, observation: Array) -> float:
        times, start = [], (self.initial_memory(), np.zeros((), np.float32))
        for _ in range(MEASURED_CALLS):
            started = time.perf_counter()
            self._act(number, observation, 0, None, *start)
            times.append(time.perf_counter() - started)
        return 1e3 * sorted(times)[MEASURED_CALLS * 9 // 10 - 1]

    def number(self, candidates: int | None = None, budget_ms: float | None = None) -> int:
        """Which graph to act with. Raises InputError for a number of candidates that was not exported."""
        if candidates is not None:
            if candidates not in self.candidates:
                raise InputError(f"candidates {candidates}: exported with {self.candidates or 'no choice of them'}")
            return self.candidates.index(candidates)
        if budget_ms is None:
            return 0
        if not isinstance(budget_ms, (int, float, np.number)) or budget_ms != budget_ms:
            raise InputError(f"budget_ms {budget_ms!r}: a number")
        if len(self.candidates) < 2:
            return 0
        times = self.milliseconds()
        fitting = [count for count in self.candidates if times[count] <= budget_ms] or [min(self.candidates)]
        return self.candidates.index(max(fitting))

    def graph(self, number: int) -> Graph:
        """Graph `number` of export.json, loaded and its golden pairs verified at the first call.

        Raises InputError where its files are no longer those of export.json, as it was when the policy was loaded.
        """
        if number not in self._graphs:
            graph = make_graph(self.folder, self.document, number, self._threads)
            _verify_golden(self, graph, read_file(self.folder, self.document, graph.golden))
            self._graphs[number] = graph
        return self._graphs[number]

    def _act(
        self,
        number: int,
        observation: Array,
        seed: int | None,
        noise: Sequence[Array] | None,
        memory: Memory,
        reward: Array | None,
    ) -> tuple[Array, Memory]:
        """One decision, or a batch of them."""
        return self._run(number, observation, seed, noise, memory, reward)[:2]

    def _run(
        self,
        number: int,
        observation: Array,
        seed: int | None,
        noise: Sequence[Array] | None,
        memory: Memory,
        reward: Array | None,
    ) -> tuple[Array, Memory, dict[str, Array]]:
        """One decision, or a batch of them, with the graph's extras."""
        single = observation.ndim == 1
        graph = self.graph(number)
        lead = () if single else (len(observation),)
        if noise is None:
            stream = self._stream(seed)
            noise = [draw(stream, kind["law"], (*lead, *kind["shape"])) for kind in graph.noise]
        else:
            noise = _checked_noise(noise, [(*lead, *kind["shape"]) for kind in graph.noise])
        inputs = [observation, *noise, *([*memory, reward] if self.has_memory else [])]
        outputs, extras = graph.run_with_extras([np.asarray(array)[None] for array in inputs] if single else inputs)
        if single:
            outputs, extras = [output[0] for output in outputs], {name: array[0] for name, array in extras.items()}
        return outputs[0], outputs[1:], extras

    def __repr__(self) -> str:
        return f"Policy({self.algorithm}, observation ({self.observation_size},) -> action ({self.action_size},))"


def load(folder: str | os.PathLike[str], *, seed: int = 0, threads: int = 1) -> Policy:
    """The policy in a folder that `tether export` wrote, after its hashes and golden pairs are verified.

    seed: of the stream that calls draw from. threads: of ONNX Runtime.
    Raises InputError where a file is missing or altered, the format is unknown, ONNX Runtime is needed and not
    installed, or the policy does not act here as it did in JAX.
    """
    path = Path(folder)
    try:
        return Policy(path, read_document(path), seed=seed, threads=threads)
    except InputError:
        raise
    except DAMAGE as error:  # entries of another kind than are written there
        raise InputError(f"{path / DOCUMENT}: altered: {type(error).__name__} {error}") from error


def _checked_noise(noise: Any, shapes: list[tuple[int, ...]]) -> list[Array]:
    try:
        found = [numbers("noise", array) for array in noise]
    except TypeError:
        raise InputError("noise: a list of arrays is needed, as noise() gives them") from None
    if [array.shape for array in found] != shapes:
        raise InputError(f"noise of shapes {[array.shape for array in found]}: this policy takes {shapes}")
    if not all(np.isfinite(array).all() for array in found):
        raise InputError("noise has entries that are not finite")
    return found


def _verify_golden(policy: Policy, graph: Graph, pairs: bytes) -> None:
    """Refuse a policy that does not act as it did in JAX."""
    with np.load(io.BytesIO(pairs), allow_pickle=False) as arrays:
        golden = {name: arrays[name] for name in arrays.files}
    memory, actions = list(policy.initial_memory(1)), golden["action"]
    noise = [golden[kind["name"]] for kind in graph.noise]
    found = []
    for row in range(len(actions)):
        own = slice(row, row + 1)
        rest = [*memory, golden["reward"][own]] if policy.has_memory else []
        action, *memory = graph.run([golden["observation"][own], *(array[own] for array in noise), *rest])
        found.append(action[0])
    difference = np.abs(np.asarray(found) - actions).max(axis=0)
    allowed = np.asarray(policy.document["golden_tolerance"], np.float32)
    if not (difference <= allowed).all():
        worst = int(np.argmax(difference - allowed))
        raise InputError(
            f"{policy.folder / graph.golden}: the policy does not reproduce its golden pairs: action {worst} differs "
            f"by {difference[worst]:.3g} (allowed {allowed[worst]:.3g}); exported with tether "
            f"{policy.document.get('tether')} and jax {policy.document.get('jax')}"
        )
