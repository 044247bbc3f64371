"""Decisions that are asked for at the same time are computed together."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
from typing import Any, NamedTuple

import numpy as np

from tether_runtime.policy import Memory, Policy

__all__ = ["Batcher", "Overloaded"]

Array = np.ndarray
MOST_WAITING = 10_000


class Overloaded(Exception):
    """More decisions wait than will be answered in any useful time."""


Answer = tuple[Array, Memory, dict[str, Array]]
"""Action, memory, and by name what else the policy says (`Graph.extras`)."""


class _Asked(NamedTuple):
    policy: Policy  # as it was when the observation was checked
    number: int
    vector: Array
    noise: list[Array]
    memory: Memory
    reward: Array | None
    answer: asyncio.Future[Answer]


class Batcher:
    """Waits `wait_seconds` after a first decision for others, then computes up to `largest` of them at once.

    One thread computes, so that the event loop goes on taking requests; those that come meanwhile are the next batch.
    """

    def __init__(self, wait_seconds: float, largest: int):
        self._wait, self._largest = wait_seconds, largest
        self._queue: collections.deque[_Asked] = collections.deque()
        self._woken = asyncio.Event()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "policy")
        self._task: asyncio.Task[None] | None = None

    async def act(
        self, policy: Policy, number: int, vector: Array, noise: list[Array], memory: Memory, reward: Array | None
    ) -> Answer:
        """What is answered to one observation. Raises Overloaded."""
        if len(self._queue) >= MOST_WAITING:
            raise Overloaded(f"{MOST_WAITING} decisions are waiting")
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append(_Asked(policy, number, vector, noise, memory, reward, answer))
        self._woken.set()
        return await answer

    def close(self) -> None:
        """Answer nothing more."""
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        while True:
            await self._woken.wait()
            if self._wait and len(self._queue) < self._largest:
                await asyncio.sleep(self._wait)
            batch = self._take()
            if not self._queue:
                self._woken.clear()
            if not batch:
                continue
            try:
                answers = await asyncio.get_running_loop().run_in_executor(self._thread, _compute, batch)
            except Exception as error:  # of any kind: whoever waits must hear of it
                answers = [error] * len(batch)
            for asked, answer in zip(batch, answers):
                if asked.answer.done():
                    continue  # its client has gone
                if isinstance(answer, Exception):
                    asked.answer.set_exception(answer)
                else:
                    asked.answer.set_result(answer)

    def _take(self) -> list[_Asked]:
        """The first in the queue and others for the same graph, in order."""
        batch: list[_Asked] = []
        rest: collections.deque[_Asked] = collections.deque()
        while self._queue and len(batch) < self._largest:
            asked = self._queue.popleft()
            if asked.answer.done():
                continue
            same = not batch or (asked.policy is batch[0].policy and asked.number == batch[0].number)
            (batch if same else rest).append(asked)
        self._queue.extendleft(reversed(rest))
        return batch


def _compute(batch: list[_Asked]) -> list[Any]:
    first = batch[0]
    inputs = [np.stack([asked.vector for asked in batch])]
    inputs += [np.stack(arrays) for arrays in zip(*(asked.noise for asked in batch))]
    if first.policy.has_memory:
        inputs += [np.stack(arrays) for arrays in zip(*(asked.memory for asked in batch))]
        inputs.append(np.asarray([asked.reward for asked in batch], np.float32))
    (action, *memory), extras = first.policy.graph(first.number).run_with_extras(inputs)
    return [
        (action[row], [part[row] for part in memory], {name: array[row] for name, array in extras.items()})
        for row in range(len(batch))
    ]
