"""Actions that are planned ahead: a robot plays a queue of them while the next ones are decided.

A policy with chunks decides several actions at once. `ChunkPlayer` keeps them, asks for the next chunk in a thread of
its own before they run out, and joins what overlaps. The conventions, in LeRobot's words where it has them:

    actions_per_chunk      of each chunk, so many are used
    chunk_size_threshold   a chunk is asked for when no more than this share of one is left; 0: when none is, and the
                           robot waits; 1: always
    steps                  a chunk's first action is for the step whose observation it was decided at. The actions of
                           steps that are over when it comes are dropped; a step is over when its action was played
    aggregate              of a step that is planned already, what becomes of the older and the newer action:
                           latest_only (the newer), weighted_average (0.3 older + 0.7 newer), average, conservative
                           (0.7 older + 0.3 newer). What the newer chunk does not reach is dropped
    ticks_per_action       a robot whose clock is N times the policy's moves in N equal steps from the last action to
                           the next, which it reaches with the last of them

No clock is looked at but for how long to wait: an action is for the next step, whenever that is.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from tether_runtime.errors import InputError

__all__ = ["AGGREGATES", "UNDERRUNS", "ActionQueue", "Chunk", "ChunkPlayer"]

Array = np.ndarray
AGGREGATES = {"latest_only": 1.0, "weighted_average": 0.7, "average": 0.5, "conservative": 0.3}
"""Name -> the weight of the newer action."""
UNDERRUNS = ("wait", "hold", "safe")
RETRY_SECONDS = 0.1  # between questions to a server that is not there


class Chunk(NamedTuple):
    """What a decision gave."""

    actions: Array  # (chunk, action), the next one first
    fallback: str | None = None  # hold or safe, where the policy did not decide (`tether_runtime.fallback`)


class ActionQueue:
    """Planned actions by the step that each is for."""

    def __init__(self, aggregate: str = "weighted_average"):
        """Raises InputError for an aggregate that is not one of `AGGREGATES`."""
        if aggregate not in AGGREGATES:
            raise InputError(f"aggregate {aggregate!r}: there are {', '.join(AGGREGATES)}")
        self._weight = AGGREGATES[aggregate]
        self._planned: dict[int, Array] = {}
        self.step = 0  # the next one

    def __len__(self) -> int:
        return len(self._planned)

    def pop(self) -> Array:
        """The next step's action. Raises KeyError where there is none."""
        action = self._planned.pop(self.step)
        self.step += 1
        return action

    def merge(self, actions: Array, first_step: int) -> None:
        """Join a chunk whose first action is for `first_step`; one that is over as a whole changes nothing."""
        if first_step + len(actions) <= self.step:
            return
        joined: dict[int, Array] = {}
        for step, newer in enumerate(actions, first_step):
            if step >= self.step:
                older: Any = self._planned.get(step, newer)
                joined[step] = (1.0 - self._weight) * older + self._weight * newer
        self._planned = joined

    def replace(self, actions: Array) -> None:
        """Plan these from the next step on, and nothing else."""
        self._planned = dict(enumerate(actions, self.step))

    def clear(self) -> None:
        """Plan nothing."""
        self._planned = {}


class _Wanted(NamedTuple):
    """A chunk that is asked for."""

    episode: int
    step: int
    observation: Any


class ChunkPlayer:
    """The next action, tick by tick, of a policy that decides in chunks.

    with Client("http://127.0.0.1:8000", "arm") as client, ChunkPlayer(client.chunk, ticks_per_action=4) as player:
        while True:
            robot.send(player.act(robot.observation()))
            clock.wait()                                  # 4 times the policy's own rate

    ask: observation -> the chunk decided there: `Client.chunk`, or `Policy.chunk` in one's own process. It is called in
    another thread, one call at a time, and may raise.
    What a fallback decided (hold, safe) is played at once and joined with nothing.
    underruns: actions that were due and not there.
    """

    def __init__(
        self,
        ask: Callable[[Any], Chunk | Array],
        *,
        actions_per_chunk: int | None = None,
        chunk_size_threshold: float = 0.5,
        aggregate: str = "weighted_average",
        ticks_per_action: int = 1,
        underrun: str = "wait",
        safe_action: Sequence[float] | None = None,
        patience_seconds: float = 10.0,
    ):
        """actions_per_chunk: None: all that come.
        underrun: when an action is due and not there: wait for it, hold the last one, or the safe action.
        patience_seconds: after so long without one, waiting and holding end with the error; a safe action goes on.
        Raises InputError for what makes no sense.
        """
        for name, count in (("actions_per_chunk", actions_per_chunk), ("ticks_per_action", ticks_per_action)):
            if count is not None and (not isinstance(count, int) or count < 1):
                raise InputError(f"{name} {count!r}: a whole number of at least 1")
        if not 0.0 <= chunk_size_threshold <= 1.0:
            raise InputError(f"chunk_size_threshold {chunk_size_threshold}: a share of a chunk, from 0 to 1")
        if underrun not in UNDERRUNS:
            raise InputError(f"underrun {underrun!r}: it may be {', '.join(UNDERRUNS)}")
        if (underrun == "safe") != (safe_action is not None):
            raise InputError("a safe action is needed where underrun is safe, and only there")
        if not patience_seconds > 0:
            raise InputError(f"patience_seconds {patience_seconds}: more than 0")
        self._ask, self._most, self._threshold = ask, actions_per_chunk, chunk_size_threshold
        self._ticks, self._underrun, self._patience = ticks_per_action, underrun, patience_seconds
        self._safe = None if safe_action is None else np.asarray(safe_action, np.float32)
        self._queue = ActionQueue(aggregate)
        self._changed = threading.Condition()
        self._wanted: _Wanted | None = None
        self._asked_episode: int | None = None  # of the call that is under way
        self._episode = 0
        self._largest = 1  # actions of a chunk, so far
        self._begin()
        self.underruns = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="chunks", daemon=True)
        self._thread.start()

    def _begin(self) -> None:
        self._tick = 0  # of the action that is being played
        self._from: Array | None = None  # where the robot was before it
        self._to: Array | None = None
        self._error: Exception | None = None
        self._missing_since: float | None = None

    @property
    def trouble(self) -> str | None:
        """What was wrong with the last chunk that was asked for; None: nothing."""
        return None if self._error is None else f"{type(self._error).__name__}: {self._error}"

    def reset(self) -> None:
        """Begin an episode: what is planned, or still being decided, is forgotten."""
        with self._changed:
            self._episode += 1
            self._queue.clear()
            self._wanted = None
            self._begin()

    def act(self, observation: Any) -> Array:
        """What to do in this tick, (action,).

        observation: of now; or a function that gives it, which is called only when a chunk is asked for.
        Raises what `ask` raised, and TimeoutError, where no action came within `patience_seconds`.
        """
        with self._changed:
            if self._closed:
                raise InputError("this player is closed")
            if self._tick == 0:
                self._ask_early(observation)
                if not self._queue and (self._underrun == "wait" or self._is_without_action()):
                    self._wait(observation)
                if not self._queue:
                    return self._instead()
                self._from, self._to = self._to, self._queue.pop()
                self._missing_since = None
            assert self._to is not None
            self._tick = (self._tick + 1) % self._ticks
            if self._from is None or self._tick == 0:
                return self._to.copy()
            part = np.float32(self._tick / self._ticks)
            return self._from + part * (self._to - self._from)

    def close(self) -> None:
        """Ask for nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(1.0)  # a call that hangs is left to itself

    def __enter__(self) -> ChunkPlayer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- of the robot's thread

    def _is_without_action(self) -> bool:
        return self._underrun == "hold" and self._to is None

    def _ask_early(self, observation: Any) -> None:
        """Ask for a chunk where few actions are left and none is being decided for this episode."""
        asked = self._wanted is not None or self._asked_episode == self._episode
        if not asked and len(self._queue) <= self._threshold * self._largest:
            seen = observation() if callable(observation) else observation
            # a robot may write its next observation into the same arrays
            self._wanted = _Wanted(self._episode, self._queue.step, copy.deepcopy(seen))
            self._changed.notify_all()

    def _wait(self, observation: Any) -> None:
        """Until there is an action. An answer that failed is asked for again, as long as patience lasts."""
        if self._to is not None:
            self.underruns += 1
        self._error = None  # of an answer that was not needed yet
        ends = time.monotonic() + self._patience
        while not self._queue and not self._closed:
            self._ask_early(observation)
            left = ends - time.monotonic()
            if left <= 0 or (self._error is not None and not isinstance(self._error, OSError)):
                raise self._error or TimeoutError(f"no chunk within {self._patience:g} s")
            self._changed.wait(left)
        if self._closed:
            raise InputError("this player is closed")

    def _instead(self) -> Array:
        """What is done where an action is due and not there."""
        self.underruns += 1
        if self._safe is not None:
            self._to = self._safe
            return self._safe.copy()
        now = time.monotonic()
        self._missing_since = now if self._missing_since is None else self._missing_since
        if now - self._missing_since > self._patience:
            raise self._error or TimeoutError(f"no chunk within {self._patience:g} s")
        assert self._to is not None
        return self._to.copy()

    # --- of the thread that asks

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted is not None or self._closed)
                if self._closed or self._wanted is None:
                    return
                wanted, self._wanted = self._wanted, None
                self._asked_episode = wanted.episode
            found, error = None, None
            try:
                found = self._checked(self._ask(wanted.observation))
            except Exception as problem:  # of any kind: the robot's thread is told
                error = problem
            with self._changed:
                self._asked_episode = None
                if wanted.episode == self._episode:
                    self._error = error
                    if found is not None:
                        self._take(found, wanted.step)
                self._changed.notify_all()
                if error is not None:
                    self._changed.wait_for(lambda: self._closed, RETRY_SECONDS)

    def _take(self, chunk: Chunk, step: int) -> None:
        if chunk.fallback is not None:
            self._queue.replace(chunk.actions)
            return
        self._largest = max(self._largest, len(chunk.actions))
        self._queue.merge(chunk.actions, step)

    def _checked(self, answer: Chunk | Array) -> Chunk:
        chunk = answer if isinstance(answer, Chunk) else Chunk(answer)
        actions = np.asarray(chunk.actions, np.float32)
        if actions.ndim != 2 or not actions.size or not np.isfinite(actions).all():
            raise InputError(f"chunk of shape {actions.shape}: finite numbers (chunk, action) are needed")
        for known in (self._to, self._safe):
            if known is not None and known.shape != actions.shape[1:]:
                raise InputError(f"chunk of shape {actions.shape}: actions have {known.shape[0]} numbers here")
        return Chunk(actions[: self._most], chunk.fallback)
