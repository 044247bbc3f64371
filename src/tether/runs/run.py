"""A run: from data and algorithm to a folder with metrics, evaluations, checkpoints, policy and picture.

The trainer knows no algorithm by name: it asks for phases and runs their updates. Everything that decides what
comes next (state, keys, position, living lanes, sums of metrics not yet written) is in the checkpoint, and update
number i depends on nothing but the lane's key and i, so a resumed run repeats the uninterrupted one bit for bit.
"""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from tether.evaluation.rollout import Episodes
from tether.machine.memory import USABLE, Memory, device_limit, human_bytes, measure, release_freed_memory, tree_bytes
from tether.machine.reading import read_json
from tether.machine.signals import Interrupted, StopSignals
from tether.machine.start import Compilations, compilations, since_start
from tether.policies.deployed import DeployedPolicy, deploy
from tether.policies.framed import framed_policy
from tether.runs.alarms import alarms_of, describe_alarm, reachable_values, strange_metrics
from tether.runs.callbacks import Callback, Callbacks, RunInfo
from tether.runs.checkpoint import load_checkpoint, load_latest, save_checkpoint
from tether.runs.evaluations import QUEUE, Evaluations, How, evaluation_keys
from tether.runs.jsonlines import Mark
from tether.runs.plan import Plan
from tether.runs.policies import save_lane_policy
from tether.runs.records import Display, Records
from tether.runs.timeline import TRAINING, Timeline, timeline_log
from tether.training.derive import derived_shapes
from tether.training.devices import any_process, choose_devices, is_primary, together
from tether.training.groups import LaneGroups
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.training.loop import NEVER
from tether.training.validation import minibatches

__all__ = ["Frozen", "Position", "Run"]

PIECE_UPDATES = 100  # between two looks of the host: for signals, the bar, and freezing diverged lanes


class Position(NamedTuple):
    """How far training has come: `update` updates of phase number `phase` are done."""

    phase: int
    update: int


class Frozen(NamedTuple):
    """Where a lane turned non-finite: in update number `update` (the first is 1) of a phase."""

    phase: str
    update: int

    def __str__(self) -> str:
        return f"{self.phase} update {self.update}"


class Run:
    """One training run in progress. Make it, perhaps `restore` it, then `execute` it. `with run.callbacks` these hear
    of its end."""

    def __init__(
        self, plan: Plan, display: Display, stop: StopSignals | None = None, callbacks: Sequence[Callback] = ()
    ):
        self.plan = plan
        self.display = display
        self.stop = stop or StopSignals()
        self.primary = is_primary()  # of several processes only this one writes
        self.records = Records(plan.folder, write=self.primary)
        self.callbacks = Callbacks([self.records, display, *callbacks] if self.primary else [])
        self.timeline = Timeline(timeline_log(plan.folder, write=self.primary))
        self.queue = Evaluations(plan, self.callbacks, display, self.timeline)
        devices = choose_devices(len(plan.lanes) if plan.finetuning is None else 1)
        stacked = stack_lanes(plan.prepared.framing.discounted(plan.algorithm), plan.lanes)
        self._stacked = stacked
        self.groups = LaneGroups(
            stacked, *_lane_keys(plan.lanes), devices, self._first_group_size(stacked, devices.total)
        )
        self.memory: dict[str, Memory] = {}  # by phase
        self._data = devices.everywhere(plan.prepared.transitions)
        held_out = plan.prepared.held_out
        self._held_out = None if held_out is None else minibatches(held_out.rows, plan.options.batch_size)
        self.position = Position(0, 0)
        self.first_update = 0  # of the last phase: from there on intervals are counted
        self.resumed = False
        self._stop_reason: str | None = None  # of a callback
        self.evaluated = -1  # updates of the last phase that were done when an evaluation was last requested
        self.frozen: dict[int, Frozen] = {}  # by lane
        self.seconds = {"compile": 0.0, "train": 0.0, "evaluation": 0.0, "waiting": 0.0, "wall": 0.0}
        self.updates_timed = 0
        self.compiled: dict[str, dict[str, Any]] = {}  # phase -> seconds, and whether they came from the cache
        self.seconds_to_first_update: float | None = None  # since the command or, of several, this run began
        self._sums: dict[str, np.ndarray] = {}  # metric -> float64 (lanes,), summed since the last row
        self._summed = np.zeros(len(plan.lanes), np.int64)  # (lanes,): over how many updates
        self._alarmed: set[str] = set()  # metrics that were found strange
        self.reachable = reachable_values(plan.algorithm, plan.lanes, plan.prepared.record.get("rewards"))
        self._marks: Mapping[str, Sequence[Any]] | None = None  # of the logs, in the checkpoint; tether 0.1 had none

    @property
    def alive(self) -> np.ndarray:
        """Which lanes are not frozen, bool (lanes,)."""
        return np.array([lane not in self.frozen for lane in range(len(self.plan.lanes))])

    @property
    def updates(self) -> int:
        """Updates of the last phase that are done."""
        return self.position.update if self.position.phase == len(self.plan.phases()) - 1 else 0

    @property
    def is_complete(self) -> bool:
        """Whether all updates are done and evaluated."""
        last = len(self.plan.phases()) - 1
        return self.position == (last, self.plan.phases()[last][1]) and not self.queue.pending

    @property
    def stopped_early(self) -> str | None:
        """Why a callback ended the run where there were updates left to do."""
        last = len(self.plan.phases()) - 1
        return None if self.position == (last, self.plan.phases()[last][1]) else self._stop_reason

    def updates_per_second(self) -> float:
        """Of all lanes side by side; compilation and evaluation left out."""
        return self.updates_timed / self.seconds["train"] if self.seconds["train"] else 0.0

    # --- training ---

    def execute(self) -> None:
        """Train from the current position to the end.

        Raises: Interrupted when a stop was asked for, after writing a checkpoint; CheckpointError; OSError.
        """
        if not self.groups.initialised:
            self._begin()
        try:
            self._note_stop(self.callbacks.start(self._info()) if self.primary else None)
            self._go_on_evaluating()
            for phase in range(self.position.phase, len(self.plan.phases())):
                self._run_phase(phase)
            if self.queue.pending:
                with self._standing_still():
                    self._apply(0)
                self.save()
        finally:
            self.queue.close()
        self._count_seconds()
        self.timeline.write()

    def _begin(self) -> None:
        """Go to where nothing is trained yet."""
        self.groups.init(self.plan.prepared.decision)

    def _first_group_size(self, stacked: Any, devices: int) -> int:
        """How many lanes to begin with at once: those chosen, else all whose states fit on the devices, which is
        known before anything is compiled. In main memory states have their place whether they are grouped or not."""
        lanes, chosen, limit = len(self.plan.lanes), self.plan.options.lanes_per_group, device_limit()
        if chosen is not None:
            return min(chosen, lanes)
        if limit is None:
            return lanes
        one, spec, data = take_lane(stacked, 0), self.plan.prepared.decision, self.plan.prepared.transitions
        state = jax.eval_shape(lambda key: one.init(spec, key), jax.random.key(0))
        derived = [derived_shapes(one, state, data, phase) for phase in range(len(one.phases()))]
        each = 2 * tree_bytes(state) + max(map(tree_bytes, derived))  # a state goes in and one comes out
        return max(1, min(lanes, devices * int((USABLE * limit - tree_bytes(data)) // each)))

    def _run_phase(self, phase: int) -> None:
        name, updates = self.plan.phases()[phase]
        if not self.alive.any() or self._stop_reason is not None:  # then the position stays where that was
            return
        if self.position.phase < phase:
            self.position = Position(phase, 0)
        if self.position.update >= updates:
            return
        self.display.begin(name, self.position.update, updates)
        self._derive()
        if self._evaluates():
            everybody = list(range(len(self.plan.lanes)))
            self.queue.prepare(lambda: self._snapshot(everybody), self.groups.keys)
        self._compile()
        while not self._ended():
            self._run_piece(min(PIECE_UPDATES, self._next_stop() - self.position.update))
            self._log_if_due()
            self.queue.collect()
            if any_process(self.stop.number is not None):
                self._interrupt()
            due = self._evaluation_due()
            if due:
                self._evaluate()
            if self._ended() and not self.queue.missing:
                self._apply(0)
            if due or self._ended() or self._is_multiple(self.plan.options.checkpoint_every_updates):
                self.save()

    def _is_multiple(self, interval: int) -> bool:
        """Whether what happens after every `interval` updates happens now."""
        return (self.position.update - self.first_update) % interval == 0

    def _derive(self) -> None:
        """Make the columns that the phase trains on beside the data's, if it has any."""

        def on_piece(done: int, rows: int) -> None:
            self.display.note(f"preparing the data, {done:,} of {rows:,} rows")
            self._interrupt_alone()

        self.groups.derive(self.plan.prepared.transitions, self.position.phase, on_piece)

    def _compile(self) -> None:
        """Compile the phase's program, with as many lanes at once as the device has room for."""
        started, before = time.perf_counter(), compilations()
        while True:
            self._measure(self.groups.program(self._data, **self._how()))
            memory = self.memory.get(self.plan.phases()[self.position.phase][0])
            most = self._most_lanes(memory)
            if most is None:
                break
            self.groups.regroup(most)
        release_freed_memory()
        self._note_compiled(time.perf_counter() - started, compilations().since(before))
        self.timeline.add(TRAINING, "compile", started, time.perf_counter())
        if memory is not None:
            self._describe_memory(memory)

    def _note_compiled(self, seconds: float, programs: Compilations) -> None:
        """Keep and tell how long the phase's program took, and whether it was on disk already."""
        self.seconds["compile"] += seconds
        name = self.plan.phases()[self.position.phase][0]
        cached = programs.requested > 0 and programs.compiled == 0
        self.compiled[name] = {"seconds": seconds, "from_cache": cached}
        self.display.message(
            f"{name}: " + (f"from the cache in {seconds:.1f} s" if cached else f"compiled in {seconds:.1f} s")
        )

    def _note_first_update(self, piece_seconds: float, count: int) -> None:
        """When the first update was done, where this process was started to do it; a piece does `count`."""
        now = since_start()
        if self.updates_timed == 0 and now is not None:
            self.seconds_to_first_update = now - piece_seconds * (1 - 1 / count)
            self.display.message(f"first update {self.seconds_to_first_update:.1f} s after the start")

    def _how(self) -> dict[str, Any]:
        """The static arguments of the current phase's program."""
        options, sequential = self.plan.options, jax.default_backend() == "cpu"
        how: dict[str, Any] = {"batch_size": options.batch_size, "precision": options.precision}
        return {"phase": self.position.phase, "sequential": sequential} | how

    def _measure(self, program: Any) -> None:
        """Note what the phase's program takes."""
        memory = measure(
            program,
            data_bytes=tree_bytes(self.plan.prepared.transitions),
            lanes=self.groups.lanes_on_device,
            sequential=self._how()["sequential"],
            local_devices=min(self.groups.devices.total, jax.local_device_count()),
        )
        if memory is not None:
            self.memory[self.plan.phases()[self.position.phase][0]] = memory

    def _most_lanes(self, memory: Memory | None) -> int | None:
        """How many lanes to go on with at once where the program does not fit; None where it does, or nothing helps."""
        if memory is None or self.plan.options.lanes_per_group is not None:
            return None
        too_many = any_process(not memory.fits)  # all must cut alike
        if not too_many or memory.lanes == 1:
            return None
        fewer = min(memory.most_lanes(), memory.lanes - 1)
        if jax.process_count() > 1:
            fewer = int(np.min(multihost_utils.process_allgather(np.asarray(fewer))))
        return fewer * self.groups.devices.total

    def _describe_memory(self, memory: Memory) -> None:
        groups, devices = len(self.groups.groups), self.groups.devices.total
        where = f" on each of {devices} devices" if devices > 1 else ""
        turns = f", in {groups} groups of {self.groups.groups[0].size} lanes that take turns" if groups > 1 else ""
        self.display.message(f"memory: {memory}{where}{turns}")
        if not memory.fits:
            self.display.warn(
                f"{human_bytes(memory.needed)} may be more than there is; fewer lanes at once do not help"
            )

    def memory_record(self) -> dict[str, Any]:
        """For result.json: what was measured of memory, in bytes, by phase; how lanes were laid out."""
        # Not how much was free: that is another number at every start.
        shown = ("per_lane", "shared", "lanes", "needed")
        phases = {name: {key: getattr(memory, key) for key in shown} for name, memory in self.memory.items()}
        groups, devices = self.groups.groups, self.groups.devices.total
        return {"phases": phases, "groups": len(groups), "lanes_per_group": groups[0].size, "devices": devices}

    def _run_piece(self, count: int) -> None:
        """`count` updates of all lanes; a lane whose numbers turn non-finite is frozen and named."""
        started = time.perf_counter()
        (phase, before), alive = self.position, self.alive
        sums, first_nonfinite = self.update_lanes(alive, count)
        ended = time.perf_counter()
        self._note_first_update(ended - started, count)
        self.seconds["train"] += ended - started
        self.timeline.add(TRAINING, "train", started, ended)
        self.updates_timed += count
        for name, values in sums.items():
            self._sums[name] = self._sums.get(name, np.zeros(len(alive))) + np.where(alive, values, 0.0)
        self._summed += np.where(alive, count, 0)
        self.position = Position(phase, before + count)
        for lane in np.flatnonzero(alive & (first_nonfinite != NEVER)).tolist():
            where = Frozen(self.plan.phases()[phase][0], int(first_nonfinite[lane]) + 1)
            self._freeze(lane, where, f"it stays as it was at update {before}")
        self.display.advance(self.position.update, count / (ended - started))

    def update_lanes(self, alive: np.ndarray, count: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """`count` updates -> as of `LaneGroups.run`."""
        return self.groups.run(alive, self._data, self.position.update, count, **self._how())

    def _freeze(self, lane: int, where: Frozen, consequence: str) -> None:
        self.frozen[lane] = where
        name = self.plan.lanes[lane].name
        self.display.warn(f"lane {lane} ({name}) turned non-finite in {where}: {consequence}, the other lanes go on")

    def _next_stop(self) -> int:
        """The next update of the phase at which a row, an evaluation or a checkpoint is due."""
        options, (phase, done) = self.plan.options, self.position
        since = done - self.first_update
        steps = [options.log_every_updates, options.checkpoint_every_updates]
        if self._evaluates() or self._held_out is not None:
            steps.append(options.eval_every_updates)
        return min([self.plan.phases()[phase][1], *(done - since % step + step for step in steps)])

    def _ended(self) -> bool:
        """Whether the phase is over: all updates are done, no lane is left, or a callback asked to stop."""
        done = self.position.update == self.plan.phases()[self.position.phase][1]
        return done or not self.alive.any() or self._stop_reason is not None

    def _info(self) -> RunInfo:
        """What callbacks hear at the start."""
        pending, records = self.queue.pending, self.records
        return RunInfo(
            folder=self.plan.folder,
            config=read_json(self.plan.folder / "config.json"),
            phases=tuple(self.plan.phases()),
            resumed=self.resumed,
            metrics=records.metrics.read(),
            evaluations=records.evaluations.read(),
            applied=pending[0].update - 1 if pending else self.evaluated,
            save_policy=lambda *place, **notes: self._save_policy(*place, **notes),  # a method would copy the run
        )

    def _save_policy(self, folder: Path, lane: int, **notes: Any) -> bool:
        """`RunInfo.save_policy`."""
        if self.queue.telling:
            return self.queue.save_policy(folder, lane, **notes)
        if lane in self.frozen or jax.process_count() > 1:  # all would have to come here
            return False
        save_lane_policy(
            self.plan, folder, self.policy(lane), lane, self.display, **{"update": self.position.update} | notes
        )
        return True

    def _note_stop(self, reason: str | None) -> None:
        """Keep why a callback asks to stop, if it does; all processes come here at the same point."""
        if self._stop_reason is None and any_process(reason is not None):
            self._stop_reason = reason or "a callback asked for it"
            if self.stopped_early is not None:
                self.display.message(f"stopping early at update {self.position.update:,}: {self._stop_reason}")

    def _interrupt(self) -> None:
        self.save()
        raise Interrupted(self.stop.number or signal.SIGTERM, self.plan.folder)  # another process may have been asked

    def _interrupt_alone(self) -> None:
        """Stop here if asked to, at a point that other processes do not come to: among several, later."""
        if self.stop.number is not None and jax.process_count() == 1:
            self._interrupt()

    def _log_if_due(self) -> None:
        """A row of means since the last row for each lane that was alive then, and of what was held out."""
        phase, done = self.position
        validates = self._validation_due()
        if not (self._is_multiple(self.plan.options.log_every_updates) or validates or self._ended()):
            return
        name = self.plan.phases()[phase][0]
        means = {metric: sums / np.maximum(self._summed, 1) for metric, sums in self._sums.items()}
        rows = []
        if validates:
            means |= self._validate(means)
        means |= self._own_metrics()
        for lane in np.flatnonzero(self._summed).tolist():
            values = {metric: _number_or_none(mean[lane]) for metric, mean in means.items()}
            alarm = {"alarm": 1} if strange_metrics(values, self.reachable[lane]) else {}
            rows.append({"phase": name, "update": done, "lane": lane, **values, **alarm})
        if rows:
            self._note_stop(self.callbacks.tell("on_metrics", rows))
        self._raise_alarms(rows)
        self._sums, self._summed = {}, np.zeros_like(self._summed)

    def _own_metrics(self) -> dict[str, np.ndarray]:
        """Metric -> (lanes,) that no update gives, NaN where a lane has none."""
        return {}

    def _validation_due(self) -> bool:
        """Whether the losses on held-out episodes are to be looked at: where evaluations are, in every phase."""
        if self._held_out is None or not self.alive.any():
            return False
        return self._is_multiple(self.plan.options.eval_every_updates) or self._ended()

    def _validate(self, means: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """validation/METRIC -> (lanes,), NaN for lanes that are frozen. means: the same metrics of training."""
        assert self._held_out is not None
        started, alive = time.perf_counter(), self.alive
        self.display.note("validating")
        how = {name: value for name, value in self._how().items() if name != "batch_size"}
        held_out = self.plan.prepared.held_out
        found = self.groups.validate(alive, held_out, self._held_out, self.position.update, **how)
        self.timeline.add(TRAINING, "validate", started, time.perf_counter())
        lanes = np.flatnonzero(alive)
        losses = [
            f"{name} {values[lanes].mean():.4g} ({means[name][lanes].mean():.4g})"
            for name, values in found.items()
            if name.endswith(("loss", "nll")) and name in means
        ]
        if losses:
            self.display.message(f"update {self.position.update:>9,}  held out (training): {', '.join(losses)}")
        return {f"validation/{name}": np.where(alive, values, np.nan) for name, values in found.items()}

    def _raise_alarms(self, rows: list[dict[str, Any]]) -> None:
        """A line, once for each metric, where it is beyond what can be learnt."""
        for alarm in alarms_of(rows, self.reachable):
            if alarm.metric in self._alarmed:
                continue
            self._alarmed.add(alarm.metric)
            lanes = [row["lane"] for row in rows if alarm.metric in strange_metrics(row, self.reachable[row["lane"]])]
            rewards = self.plan.prepared.record.get("rewards")
            self.display.warn(describe_alarm(alarm, lanes, rewards, self.reachable[alarm.lane]))

    # --- evaluation ---

    def policies(self, lanes: Sequence[int]) -> DeployedPolicy:
        """The policies of these lanes, leading axis `len(lanes)`; in all processes at the same point."""
        return jax.vmap(lambda algorithm, state: self._deploy(algorithm.policy(state)))(*self.groups.take(lanes))

    def policy(self, lane: int) -> DeployedPolicy:
        """The policy of one lane; in all processes at the same point."""
        algorithm, state = self.groups.take(lane)
        return self._deploy(algorithm.policy(state))

    def _deploy(self, policy: Any) -> DeployedPolicy:
        prepared = self.plan.prepared
        policy = framed_policy(policy, prepared.framing, prepared.spec)
        return deploy(policy, prepared.spec, prepared.normaliser, prepared.schema, self.plan.limits)

    def rollout(self, episodes: int, on_step: Callable[[int, int], None]) -> Episodes:
        """Episodes of all lanes at the current position; the same position gives the same episodes. Those of frozen
        lanes mean nothing."""
        lanes = np.flatnonzero(self.alive)
        keys = evaluation_keys(self.groups.keys, self.position.update)[lanes]
        played = self.queue.play(self._snapshot(lanes.tolist()), keys, episodes, self._how_to_play(on_step))
        shape = len(self.plan.lanes), episodes
        whole = Episodes(np.full(shape, np.nan), np.zeros(shape, played.lengths.dtype))
        for values, part in zip(whole, played, strict=True):
            values[lanes] = part
        return whole

    def _snapshot(self, lanes: Sequence[int]) -> DeployedPolicy:
        """The policies of these lanes in main memory, where all of them have room; in all processes at the same
        point."""
        at_once = self._lanes_at_once()
        shares = [lanes[start : start + at_once] for start in range(0, len(lanes), at_once)]
        parts = [jax.device_get(self.policies(share)) for share in shares]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def _lanes_at_once(self) -> int:
        """How many lanes the device has room for."""
        return self.groups.groups[0].size if len(self.groups.groups) == 1 else self.groups.lanes_on_device

    def _how_to_play(self, on_step: Callable[[int, int], None]) -> How:
        return How(on_step, self._lanes_at_once())

    def _evaluates(self) -> bool:
        """Whether the phase is one that is evaluated: the last, where an environment is known."""
        return self.plan.task is not None and self.position.phase == len(self.plan.phases()) - 1

    def _evaluation_due(self) -> bool:
        done = self.position.update
        if not self._evaluates() or done == 0 or done == self.evaluated or not self.alive.any():
            return False
        return self._is_multiple(self.plan.options.eval_every_updates) or self._ended()

    def _evaluate(self) -> None:
        """Request an evaluation of all living lanes, after applying the one that is due."""
        with self._standing_still():
            self._apply(QUEUE - 1)
            self.evaluated = self.position.update
            lanes = np.flatnonzero(self.alive).tolist()
            if lanes:
                policies, how = self._snapshot(lanes), self._how_to_play(self._while_evaluating)
                self.queue.request(self.position.update, lanes, policies, self.groups.keys, how)

    def _go_on_evaluating(self) -> None:
        """What a checkpoint left to do: evaluations that were not recorded, and one that was not requested yet."""
        if self.queue.missing:
            with self._standing_still():
                self.queue.begin(self.groups.keys, self._how_to_play(self._while_evaluating))
            if not self.queue.missing:
                self.save()
        if self._evaluation_due():
            self._evaluate()
            self.save()

    def _apply(self, most: int) -> None:
        """Wait until at most so many evaluations are not applied. Lanes whose return was not finite are frozen, and
        training ends if a callback asked for it: here, and not when that is known, so that it does not depend on how
        fast evaluations are played."""
        while len(self.queue.pending) > most:
            applied = self.queue.apply_first(self.groups.keys, self._how_to_play(self._while_evaluating))
            for lane in applied.lost or ():
                if lane not in self.frozen:
                    where = Frozen(self.plan.phases()[-1][0], applied.update)
                    self._freeze(lane, where, "its return is not a number")
            self._note_stop(applied.stop)

    @contextlib.contextmanager
    def _standing_still(self) -> Iterator[None]:
        """Count the time for which training waits for evaluations."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds["waiting"] += time.perf_counter() - started
            if self.queue.workers:
                self.timeline.add(TRAINING, "wait", started, time.perf_counter())

    def _while_evaluating(self, step: int, horizon: int) -> None:
        """While training stands still for an evaluation."""
        self.display.note(f"evaluating, step {step} of {horizon}" if step else "waiting for evaluations")
        self._interrupt_alone()

    def evaluation_record(self) -> dict[str, Any]:
        """For result.json: what evaluating took."""
        wall, waited = self.seconds["wall"], self.seconds["waiting"]
        return {
            "evaluation_seconds": self.seconds["evaluation"],  # of playing, all processes together
            "evaluation_wait_seconds": waited,  # for which training stood still
            "evaluation_wait_share": waited / wall if wall else 0.0,
        }

    def own_record(self) -> dict[str, Any]:
        """For result.json: what a kind of run has beside the others."""
        return {}

    # --- checkpoints ---

    def save(self) -> None:
        """Write a checkpoint; in all processes at the same point. Raises: CheckpointError, OSError."""
        started = time.perf_counter()
        phase, update = self.position
        phases = self.plan.phases()
        self._count_seconds()
        notes = {
            "position": list(self.position),
            "global_update": sum(updates for _, updates in phases[:phase]) + update,
            "evaluated": self.evaluated,
            "evaluations": self.queue.notes(),
            "frozen": {str(lane): list(where) for lane, where in self.frozen.items()},
            "sums": self._sums,  # JSON keeps float64 exactly; what is not finite becomes null, as in the rows
            "summed_updates": self._summed,
            "seconds": self.seconds,
            "updates_timed": self.updates_timed,
            "compiled": self.compiled,
            "seconds_to_first_update": self.seconds_to_first_update,
            "memory": {name: list(memory) for name, memory in self.memory.items()},
            **self._own_notes(),
        }
        name = f"{phases[phase][0]}-{update:09d}"
        arrays = {"state": self.groups.state(), "keys": self.groups.keys, "evaluations": self.queue.arrays()}
        arrays |= self._own_arrays()
        if self.primary:
            notes["logs"] = self._marks = self.records.marks()
            path = save_checkpoint(self.plan.folder / "checkpoints", name, arrays, notes)
            self.callbacks.tell("on_checkpoint", path, phases[phase][0], update)
        self.timeline.add(TRAINING, "save", started, time.perf_counter())
        self.timeline.write()
        together("saved")

    def _count_seconds(self) -> None:
        """Bring the clocks up to date that run by themselves."""
        self.seconds["wall"] = time.perf_counter() - self.timeline.began
        self.seconds["evaluation"] = self.queue.seconds_played

    def restore(self, checkpoint: Path | None = None) -> bool:
        """Go to the newest valid checkpoint, or to another one; False, and nothing happens, where there is none at all.

        Raises: CheckpointError where there are checkpoints but none is valid, or the one that is asked for is not.
        """
        folder = self.plan.folder / "checkpoints"
        if checkpoint is None and (not folder.exists() or all(path.name[0] == "." for path in folder.iterdir())):
            return False
        refused: list[str] = []  # shown only where another one is used, else they are in the error
        if checkpoint is None:
            arrays, notes, used = load_latest(folder, self._stored_shapes(), refused.append)
            for reason in refused:
                self.display.warn(f"{reason}; going on from {used.name}")
        else:
            arrays, notes = load_checkpoint(checkpoint, self._stored_shapes())
        self.groups.put(arrays["state"], arrays["keys"])
        self.position = Position(*notes["position"])
        self.evaluated = notes["evaluated"]
        self.frozen = {int(lane): Frozen(*where) for lane, where in notes["frozen"].items()}
        self._sums = {name: np.asarray(sums, np.float64) for name, sums in notes["sums"].items()}
        # One number in checkpoints of tether 0.1 until lanes had their own.
        self._summed = np.zeros_like(self._summed) + np.asarray(notes["summed_updates"], np.int64)
        self.seconds |= notes["seconds"]
        self.updates_timed = notes["updates_timed"]
        self.compiled = notes.get("compiled", {})
        self.seconds_to_first_update = notes.get("seconds_to_first_update")
        if "evaluations" in notes:
            self.queue.restore(notes["evaluations"], arrays["evaluations"])
        self.queue.seconds_played = self.seconds["evaluation"]
        self.memory = {name: Memory(*numbers) for name, numbers in notes.get("memory", {}).items()}
        self.timeline.began -= self.seconds["wall"]
        self._marks = notes.get("logs")
        self._restore_own(notes, arrays)
        self.resumed = True
        return True

    def _stored_shapes(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """A function of a checkpoint's notes that gives the structure of its arrays."""
        shapes = self.groups.state_shapes(self.plan.prepared.decision)
        # NumPy arrays that take no memory: all lanes at once may be too many for the device.
        state = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes)

        def like(notes: dict[str, Any]) -> dict[str, Any]:
            missing = {str(update): len(lanes) for update, lanes, lost, *_ in _queued(notes) if lost is None}
            policies = {update: self._policy_shapes(state, count) for update, count in missing.items()}
            own = self._own_shapes(notes, state)
            return {"state": state, "keys": self.groups.keys, "evaluations": policies, **own}

        return like

    # What a kind of run keeps in checkpoints beside that.

    def _own_notes(self) -> dict[str, Any]:
        return {}

    def _own_arrays(self) -> dict[str, Any]:
        return {}

    def _own_shapes(self, notes: dict[str, Any], state: Any) -> dict[str, Any]:
        """The structure of `_own_arrays` in a checkpoint with these notes; state: that of all lanes."""
        return {}

    def _restore_own(self, notes: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Go to where such a checkpoint was written."""

    def _policy_shapes(self, state: Any, count: int) -> DeployedPolicy:
        """What `_snapshot` gives for so many lanes, as arrays that take no memory; `state`: that of all lanes, so."""

        def some(leaf: Any) -> Any:
            return jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype)

        deploy_each = jax.vmap(lambda algorithm, state: self._deploy(algorithm.policy(state)))
        shapes = jax.eval_shape(deploy_each, *jax.tree.map(some, (self._stacked, state)))
        return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes)

    def check_logs(self) -> None:
        """Raises: InputError where metrics and evaluations up to the checkpoint are not what they were then."""
        if self._marks is not None:
            self.records.verify(self._marks)
        elif self.resumed:
            for log in self.records.logs:
                log.read()
            if self.evaluated >= 0 and self.evaluated not in self.queue.missing:
                self.records.evaluations.require()

    def drop_later_rows(self) -> None:
        """Drop the rows written after the current position, which `check_logs` has found whole until there: training
        will write them again."""
        if self._marks is not None:
            self.records.cut(self._marks)
        else:
            for log in self.records.logs:
                log.keep(self.wrote) if self.resumed else log.cut(Mark(0, ""))
        bars, _ = self.timeline.rows.read_whole()  # damage in them costs nothing but a picture
        until = self.seconds["wall"] + 1e-3  # rows are rounded
        if self.primary:
            self.timeline.rows.replace([bar for bar in bars if bar["start"] <= until])

    def lived(self, lane: int, phase: str, update: int) -> bool:
        """Whether a lane was not frozen by then."""
        order = [name for name, _ in self.plan.phases()]
        where = self.frozen.get(lane)
        return where is None or (order.index(phase), update) < (order.index(where.phase), where.update)

    def play_last_again(self) -> bool:
        """Let the evaluation at the current position be asked for once more; False, and nothing happens, where it is
        not the last one of a run at its end."""
        if not self._evaluates() or self.evaluated != self.position.update or self.queue.pending:
            return False
        self.evaluated = -1
        return True

    def wrote(self, row: dict[str, Any]) -> bool:
        """Whether a row of metrics or evaluations is from before the current position."""
        if "episode" in row:
            return row["update"] <= self.evaluated and row["update"] not in self.queue.missing
        order = {name: index for index, (name, _) in enumerate(self.plan.phases())}
        return (order.get(row["phase"], len(order)), row["update"]) <= self.position


def _queued(notes: dict[str, Any]) -> list[Any]:
    """(update, lanes, lost, stop) of the evaluations that a checkpoint has not applied; those of tether 0.1 had applied
    all until workers played them."""
    return notes.get("evaluations", {"pending": []})["pending"]


def _number_or_none(value: Any) -> float | None:
    """For strict JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None


def _lane_keys(lanes: tuple[Lane, ...]) -> tuple[Any, Any]:
    """Per lane a key for initialisation and one for everything after; equal seeds start equal."""
    return _keys_of(np.array([lane.seed for lane in lanes], np.int32))


@jax.jit
def _keys_of(seeds: Any) -> tuple[Any, Any]:
    """One program: as single operations it would be six, each compiled."""
    pairs = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(seeds)
    return pairs[:, 0], pairs[:, 1]
