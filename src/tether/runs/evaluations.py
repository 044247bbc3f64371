"""The evaluations of a run: requested at fixed updates, played here or by worker processes, applied at fixed updates.

What a run computes must not depend on how fast evaluations are played, nor on where. So each has three moments:

    requested   training reaches its update: the policies are copied and the copy is played
    recorded    its rows are in evaluations.jsonl, in the order of updates; with workers that is some time later
    applied     training acts on it: a lane whose return was not finite is frozen; if a callback asked for it, all ends

The first and the last are fixed: evaluation k is applied right before evaluation k + QUEUE is requested, or at the end
of training, and training waits for it where it is not recorded by then. That bounds the queue, and holds for
evaluations that are played here and now just the same, so that the number of workers can change between a run and its
resumption.
Rows of a lane end with the evaluation in which its return was not finite, whenever it is frozen. A checkpoint holds the
policies of every evaluation that is not recorded, so none gets lost.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from tether.environments import Task
from tether.evaluation.pool import Evaluation, WorkerPool, automatic_workers, can_be_made_elsewhere
from tether.evaluation.rollout import Episodes, rollout, seconds_per_step
from tether.policies.deployed import DeployedPolicy
from tether.runs.callbacks import Callbacks
from tether.runs.policies import save_lane_policy
from tether.runs.records import Display
from tether.runs.timeline import TRAINING, Timeline
from tether.types import PRNGKey

__all__ = ["QUEUE", "Evaluations", "How", "Requested", "evaluation_key", "evaluation_keys", "processor"]

QUEUE = 2  # so many evaluations may be not applied while training goes on
EVALUATION_STREAM = 1_000  # folded into a lane's key for rollouts; phases take 0, 1, ... for their updates
WAIT_SECONDS = 0.02  # between two looks at what the workers do

OnStep = Callable[[int, int], None]
"""Called with (steps done, most steps) while training waits; may raise to stop."""


@dataclasses.dataclass
class Requested:
    """An evaluation that is requested and not applied yet."""

    update: int
    lanes: tuple[int, ...]  # those that were not frozen then
    policies: DeployedPolicy | None  # NumPy arrays, leading axis as `lanes`; None once it is recorded
    lost: tuple[int, ...] | None = None  # lanes whose return was not finite; None: it is not recorded yet
    stop: str | None = None  # why training should end with it, where a callback says so
    by_workers: Evaluation | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether its rows are written."""
        return self.lost is not None


class Evaluations:
    """The evaluations of a run that are not applied. `plan` is a `tether.runs.run.Plan`."""

    def __init__(self, plan: Any, callbacks: Callbacks, display: Display, timeline: Timeline):
        self.pending: list[Requested] = []  # in the order of their updates
        self.lost: set[int] = set()  # lanes with a return that was not finite in any recorded evaluation
        self.device: str | None = None  # where policies act: cpu or accelerator; None: not chosen yet
        self.seconds_played = 0.0  # of all processes
        self._plan, self._callbacks, self._display, self._timeline = plan, callbacks, display, timeline
        self._told: tuple[Requested, DeployedPolicy] | None = None  # what callbacks are told of right now
        self._pool: WorkerPool | None = None
        self._lock = threading.Lock()
        wanted = plan.options.eval_workers
        wanted = 0 if plan.task is None else automatic_workers() if wanted is None else wanted
        if wanted and not can_be_made_elsewhere(plan.algorithm):
            name = type(plan.algorithm).__qualname__
            display.message(f"evaluations are played here: worker processes cannot import {name} from a module")
            wanted = 0
        self.workers = min(wanted, len(plan.lanes) * plan.options.eval_episodes)

    @property
    def task(self) -> Task:
        """The environment."""
        assert self._plan.task is not None
        return self._plan.task

    # --- requesting and playing ---

    def prepare(self, policies: Callable[[], DeployedPolicy], keys: Any) -> None:
        """Before the phase that is evaluated: choose where policies act and begin the workers.

        policies, keys: those of all lanes, to measure with.
        """
        if self.device is None:
            self._choose_device(policies, keys)
        if self.workers and self._pool is None:
            plan, accelerator = self._plan, self.device == "accelerator"
            about = self.task, plan.algorithm, plan.prepared.spec, plan.prepared.framing
            self._pool = WorkerPool(self.workers, *about, accelerator=accelerator, record=self._note)

    def request(self, update: int, lanes: Sequence[int], policies: DeployedPolicy, keys: Any, how: "How") -> None:
        """Have the policies of `lanes` evaluated: here and now, or by workers while training goes on.

        policies: leading axis as `lanes`. keys: of all lanes of the run. Raises: what `how.on_step` raises; the
        evaluation is then among those that are not recorded.
        """
        self.pending.append(Requested(update, tuple(lanes), jax.device_get(policies)))
        self.begin(keys, how)

    def begin(self, keys: Any, how: "How") -> None:
        """Have every evaluation played that is neither recorded nor in the hands of workers, such as those of a
        checkpoint. Raises as `request`."""
        for requested in [each for each in self.pending if not each.is_recorded and each.by_workers is None]:
            assert requested.policies is not None
            own = evaluation_keys(keys, requested.update)[np.asarray(requested.lanes)]
            self.prepare(lambda policies=requested.policies: policies, own)
            if self.workers:
                self._send(requested, own)
            else:
                started = time.perf_counter()
                outcome = self.play(requested.policies, own, self._plan.options.eval_episodes, how)
                self._note(TRAINING, "evaluate", started, time.perf_counter(), requested.update)
                self._record(requested, outcome)

    def play(self, policies: DeployedPolicy, keys: Any, episodes: int, how: "How") -> Episodes:
        """Episodes of some lanes, played in this process; of several processes each plays a part. `keys`: of these
        lanes and this evaluation."""
        own = _own_share(len(keys))
        played = []
        for start in range(0, len(own), how.lanes_at_once):
            part = own[start : start + how.lanes_at_once]
            some = jax.tree.map(lambda leaf, part=part: leaf[part], policies)
            played.append(rollout(some, self.task, episodes, keys[part], how.on_step, device=self._jax_device()))
        return _gather(Episodes(*(np.concatenate(parts) for parts in zip(*played, strict=True))), len(keys))

    def _send(self, requested: Requested, keys: Any) -> None:
        """Give it to the workers."""
        assert self._pool is not None
        own = _own_share(len(keys))
        policies = jax.tree.map(lambda leaf: leaf[own], requested.policies)
        raw = np.asarray(jax.random.key_data(keys[own]))
        requested.by_workers = self._pool.ask(requested.update, policies, raw, self._plan.options.eval_episodes)

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        for requested in self.pending:
            requested.by_workers = None

    # --- recording and applying ---

    def collect(self) -> None:
        """Write the rows of evaluations that workers have played, without waiting for any."""
        if self._pool is None:
            return
        for warning in self._pool.look_after():
            self._display.warn(warning)
        if jax.process_count() > 1:  # all must do this at the same point, which `apply_first` is
            return
        for requested in self.pending:
            outcome = None if requested.by_workers is None else requested.by_workers.outcome
            if not requested.is_recorded and outcome is None:
                break
            if outcome is not None and not requested.is_recorded:
                self._record(requested, outcome)

    def apply_first(self, keys: Any, how: "How") -> Requested:
        """Wait until the earliest evaluation is recorded, take it out and return it. Raises: what `how.on_step`
        raises; it is then still there."""
        requested = self.pending[0]
        while not requested.is_recorded:
            self.begin(keys, how)
            self.collect()
            if requested.is_recorded:
                break
            assert requested.by_workers is not None
            if requested.by_workers.over:
                self._play_failed(requested, keys, how)
                assert requested.by_workers.outcome is not None
                self._record(requested, _gather(requested.by_workers.outcome, len(requested.lanes)))
            else:
                how.on_step(0, 0)
                time.sleep(WAIT_SECONDS)
        return self.pending.pop(0)

    def _play_failed(self, requested: Requested, keys: Any, how: "How") -> None:
        """Play here what workers could not."""
        evaluation = requested.by_workers
        assert evaluation is not None
        own = _own_share(len(requested.lanes))
        keys = evaluation_keys(keys, requested.update)[np.asarray(requested.lanes)]
        for number in sorted(evaluation.failed):
            piece, started = evaluation.pieces[number], time.perf_counter()
            part = own[piece.lanes.start : piece.lanes.stop]
            policies = jax.tree.map(lambda leaf, part=part: leaf[part], requested.policies)
            whole = len(piece.episodes), keys[part], how.on_step
            outcome = rollout(policies, self.task, *whole, first=piece.episodes.start, device=self._jax_device())
            evaluation.put(number, outcome)
            self._note(TRAINING, "evaluate", started, time.perf_counter(), requested.update)

    def _record(self, requested: Requested, outcome: Episodes) -> None:
        """Tell its rows, of which the first callback writes them."""
        finite = [bool(np.isfinite(returns).all()) for returns in outcome.returns]
        # A network can turn finite parameters into infinite actions, for which a reward is not a number.
        requested.lost = tuple(lane for lane, good in zip(requested.lanes, finite, strict=True) if not good)
        policies, requested.policies, requested.by_workers = requested.policies, None, None
        self.lost |= set(requested.lost)
        kept = np.array([lane not in self.lost for lane in requested.lanes])
        if not kept.any():
            return
        lanes, returns, lengths = np.asarray(requested.lanes)[kept], outcome.returns[kept], outcome.lengths[kept]
        scores = self.task.score(returns)
        rows = [
            {
                "update": requested.update,
                "lane": int(lanes[row]),
                "episode": episode,
                "return": float(returns[row, episode]),
                "length": int(lengths[row, episode]),
                "normalized_score": float(scores[row, episode]) if self.task.has_references else None,
            }
            for row, episode in np.ndindex(scores.shape)
        ]
        assert policies is not None
        self._told = requested, policies
        requested.stop = self._callbacks.tell("on_evaluation", rows)
        self._told = None

    @property
    def telling(self) -> bool:
        """Whether callbacks are told of an evaluation right now."""
        return self._told is not None

    def save_policy(self, folder: Path, lane: int, **notes: Any) -> bool:
        """`RunInfo.save_policy`."""
        if self._told is None or lane not in self._told[0].lanes:
            return False
        requested, policies = self._told
        index = requested.lanes.index(lane)
        policy = jax.tree.map(lambda leaf: leaf[index], policies)
        save_lane_policy(self._plan, folder, policy, lane, self._display, **{"update": requested.update} | notes)
        return True

    # --- checkpoints ---

    def notes(self) -> dict[str, Any]:
        """What a checkpoint keeps beside `arrays`."""
        pending = [[each.update, each.lanes, each.lost, each.stop] for each in self.pending]
        return {"pending": pending, "lost": sorted(self.lost), "device": self.device}

    def arrays(self) -> dict[str, DeployedPolicy]:
        """The policies of evaluations that are not recorded, by update."""
        return {str(each.update): each.policies for each in self.pending if each.policies is not None}

    def restore(self, notes: dict[str, Any], arrays: dict[str, DeployedPolicy]) -> None:
        """Go on from what a checkpoint holds."""
        self.pending = [
            Requested(update, tuple(lanes), arrays.get(str(update)), None if lost is None else tuple(lost), *stop)
            for update, lanes, lost, *stop in notes["pending"]  # runs from before there were callbacks have no `stop`
        ]
        self.lost, self.device = set(notes["lost"]), notes["device"]

    @property
    def missing(self) -> set[int]:
        """The updates of evaluations that are not recorded."""
        return {each.update for each in self.pending if not each.is_recorded}

    # --- devices ---

    def _choose_device(self, policies: Callable[[], DeployedPolicy], keys: Any) -> None:
        """Let policies act where they are faster: measured once in a run, as the choice decides last bits."""
        wanted = self._plan.options.eval_device
        if jax.default_backend() == "cpu":
            self.device = "cpu"
        elif wanted != "auto":
            self.device = wanted
        else:
            accelerator, cpu = jax.local_devices()[0], processor()
            if cpu is None:
                self.device = "accelerator"
                return
            part, episodes = _own_share(len(keys)), self._plan.options.eval_episodes
            some = jax.tree.map(lambda leaf: leaf[part], policies())
            devices = {"cpu": cpu, "accelerator": accelerator}
            measured = [seconds_per_step(some, episodes, keys[part], device) for device in devices.values()]
            if jax.process_count() > 1:  # all do as the first
                measured = multihost_utils.broadcast_one_to_all(np.asarray(measured))
            seconds = dict(zip(devices, map(float, measured), strict=True))
            self.device = min(seconds, key=lambda name: seconds[name])
            times = ", ".join(f"{1e3 * seconds[name]:.2f} ms on the {name}" for name in devices)
            self._display.message(f"policies act on the {self.device}: a step of all episodes takes {times}")

    def _jax_device(self) -> Any:
        """The device as JAX knows it; None: the default one."""
        return processor() if self.device == "cpu" and jax.default_backend() != "cpu" else None

    def _note(self, process: str, what: str, start: float, end: float, update: int | None) -> None:
        """Add a bar to the timeline; any thread may call it."""
        self._timeline.add(process, what, start, end, update)
        if what == "evaluate":
            with self._lock:
                self.seconds_played += end - start


@dataclasses.dataclass(frozen=True)
class How:
    """How episodes are played in this process."""

    on_step: OnStep
    lanes_at_once: int


def evaluation_keys(keys: Any, update: int) -> Any:
    """A key for each lane, for the episodes after so many updates of the last phase."""

    def one(key: Any) -> Any:
        return jax.random.fold_in(jax.random.fold_in(key, EVALUATION_STREAM), update)

    return jax.vmap(one)(keys)


def evaluation_key(seed: int, update: int, episode: int) -> PRNGKey:
    """The key of one episode that a run evaluates, for whoever plays it again with the saved policy.

    seed: the lane's; update: of the last phase, after which it was evaluated; episode: from 0, which starts from
    `environment.reset(seed=100 + episode)`. Step number i of it acts with `jax.random.fold_in(key, i)`.
    """
    lane_key = jax.random.split(jax.random.key(seed))[1]
    return jax.random.fold_in(evaluation_keys(lane_key[None], update)[0], episode)


def processor() -> Any:
    """The CPU as a device of JAX; None where JAX was told to leave it out (JAX_PLATFORMS)."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _own_share(count: int) -> np.ndarray:
    """Which of so many lanes this process plays; every process has as many, so that of a number that does not divide
    some play the last lane for nothing."""
    each = -(-count // jax.process_count())
    return np.minimum(jax.process_index() * each + np.arange(each), count - 1)


def _gather(own: Episodes, lanes: int) -> Episodes:
    """The episodes of all processes, each of which played as many lanes, cut to `lanes`."""
    if jax.process_count() == 1:
        return own
    # As 32-bit halves: JAX would round 64-bit numbers.
    halves = [np.ascontiguousarray(values).view(np.int32) for values in (own.returns, own.lengths)]
    whole = multihost_utils.process_allgather(halves)
    returns, lengths = (np.asarray(values).reshape(-1, values.shape[-1])[:lanes] for values in whole)
    return Episodes(
        np.ascontiguousarray(returns).view(np.float64), np.ascontiguousarray(lengths).view(own.lengths.dtype)
    )
