"""A run: from data and algorithm to a folder with metrics, evaluations, checkpoints, policy and picture.

The trainer knows no algorithm by name: it asks for phases and runs their updates. Everything that decides
what is computed next (position, lanes alive, keys, state) is in the checkpoint, and update number i depends on
nothing but the lane's key and i, so a resumed run repeats the uninterrupted one bit for bit.
"""

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.data import Prepared
from tether.environments import Task
from tether.evaluation.rollout import Episodes, rollout
from tether.evaluation.statistics import Summary, aggregate
from tether.policy import DeployedPolicy, deploy
from tether.training.checkpoint import load_latest, save_checkpoint
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.training.loop import NEVER, init_lanes, run_updates
from tether.training.records import Display, JsonLines

__all__ = ["Interrupted", "Plan", "Run", "Settings"]

PIECE_UPDATES = 100  # between two looks of the host: for interrupts, the bar, and freezing diverged lanes


class Interrupted(Exception):
    """Ctrl-C or a termination signal; the checkpoint has been written."""

    def __init__(self, signal_number: int, folder: Path):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.folder = folder


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a run trains and reports, beside the algorithm's own hyper-parameters."""

    batch_size: int = 256
    eval_every_updates: int = 10_000  # of the last phase; its end is always evaluated
    eval_episodes: int = 10
    log_every_updates: int = 500
    checkpoint_every_updates: int = 10_000  # evaluations and the end of a phase save one, too


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that a run is made of; nothing here changes while it trains."""

    folder: Path
    algorithm_name: str
    algorithm: Any
    lanes: tuple[Lane, ...]
    settings: Settings
    prepared: Prepared
    task: Task | None  # None: no environment is known, so nothing is evaluated
    observations: np.ndarray  # raw (rows, observation), for golden pairs

    def phases(self) -> list[tuple[str, int]]:
        """(name, updates) in order."""
        return [(phase.name, phase.updates) for phase in self.algorithm.phases()]


class Position(NamedTuple):
    """How far training has come: `update` updates of phase number `phase` are done."""

    phase: int
    update: int


class Run:
    """One training run in progress."""

    def __init__(self, plan: Plan, display: Display):
        self.plan = plan
        self.display = display
        self.metrics = JsonLines(plan.folder / "metrics.jsonl")
        self.evaluations = JsonLines(plan.folder / "evaluations.jsonl")
        self.algorithm = stack_lanes(plan.algorithm, plan.lanes)
        init_keys, self.keys = _lane_keys(plan.lanes)
        self.state = init_lanes(self.algorithm, plan.prepared.spec, init_keys)
        self.alive = np.ones(len(plan.lanes), bool)
        self.frozen: dict[int, str] = {}  # lane -> where it turned non-finite
        self.position = Position(0, 0)
        self.seconds = {"compile": 0.0, "train": 0.0, "evaluation": 0.0, "wall": 0.0}
        self.updates_timed = 0
        self._pending: list[dict[str, np.ndarray]] = []  # metric sums since the last row
        self._pending_updates = 0
        self._signal: int | None = None

    # --- training ---

    def execute(self) -> None:
        """Train from the current position to the end.

        Raises: Interrupted on Ctrl-C or SIGTERM, after writing a checkpoint; CheckpointError.
        """
        started = time.perf_counter()
        data = jax.device_put(jax.tree.map(jnp.asarray, self.plan.prepared.transitions))
        with self._signals():
            try:
                self._catch_up()
                for phase in range(self.position.phase, len(self.plan.phases())):
                    self._run_phase(phase, data)
            finally:
                self.seconds["wall"] += time.perf_counter() - started

    def _run_phase(self, phase: int, data: Any) -> None:
        name, updates = self.plan.phases()[phase]
        if self.position.phase < phase:
            self.position = Position(phase, 0)
        done = self.position.update
        if done >= updates:
            return
        self.display.begin(name, done, updates)
        compiled = self._compile(phase, data)
        while done < updates and self.alive.any():
            count = min(PIECE_UPDATES, self._next_stop(phase, done) - done)
            self._run_piece(compiled, data, done, count)
            done += count
            self.position = Position(phase, done)
            self.display.advance(done, self.updates_per_second())
            if self._signal is not None:
                self._save()
                raise Interrupted(self._signal, self.plan.folder)
            self._at_stop()

    def _compile(self, phase: int, data: Any) -> Any:
        """The program of a phase, compiled ahead so that its cost is known apart."""
        started = time.perf_counter()
        zero = jnp.asarray(0, jnp.int32)
        compiled = run_updates.lower(
            self.algorithm,
            self.state,
            self.keys,
            jnp.asarray(self.alive),
            data,
            zero,
            zero,
            phase=phase,
            batch_size=self.plan.settings.batch_size,
            sequential=jax.default_backend() == "cpu",
        ).compile()
        self.seconds["compile"] += time.perf_counter() - started
        return compiled

    def _run_piece(self, compiled: Any, data: Any, start: int, count: int) -> None:
        """`count` updates of all lanes; a lane whose numbers turn non-finite is frozen and named."""
        started = time.perf_counter()
        alive = jnp.asarray(self.alive)
        first, number = jnp.asarray(start, jnp.int32), jnp.asarray(count, jnp.int32)
        progress = compiled(self.algorithm, self.state, self.keys, alive, data, first, number)
        self.state, sums, first_nonfinite = jax.block_until_ready(progress)
        self.seconds["train"] += time.perf_counter() - started
        self.updates_timed += count
        self._pending.append({name: np.asarray(value, np.float64) for name, value in sums.items()})
        self._pending_updates += count
        for lane in np.flatnonzero(self.alive & (np.asarray(first_nonfinite) != NEVER)):
            self._freeze(int(lane), int(first_nonfinite[lane]), start)

    def _freeze(self, lane: int, update: int, kept: int) -> None:
        phase = self.plan.phases()[self.position.phase][0]
        self.alive[lane] = False
        self.frozen[lane] = f"{phase} update {update}"
        self.display.message(
            f"lane {lane} ({self.plan.lanes[lane].name}) turned non-finite at {phase} update {update}; "
            f"it is frozen as it was at update {kept}, the others go on"
        )

    def _next_stop(self, phase: int, done: int) -> int:
        """The next update at which a row, an evaluation or a checkpoint is due."""
        settings, updates = self.plan.settings, self.plan.phases()[phase][1]
        steps = [settings.log_every_updates, settings.checkpoint_every_updates]
        if self._evaluates(phase):
            steps.append(settings.eval_every_updates)
        return min([updates, *(done - done % step + step for step in steps)])

    def _evaluates(self, phase: int) -> bool:
        return self.plan.task is not None and phase == len(self.plan.phases()) - 1

    def _at_stop(self) -> None:
        """Whatever is due at the current position: a row of metrics, an evaluation, a checkpoint."""
        settings, (phase, done) = self.plan.settings, self.position
        ended = done == self.plan.phases()[phase][1] or not self.alive.any()
        if done % settings.log_every_updates == 0 or ended:
            self._log()
        due = self._evaluates(phase) and (done % settings.eval_every_updates == 0 or ended)
        if due:
            self._evaluate()
        if due or ended or done % settings.checkpoint_every_updates == 0:
            self._save()

    def _log(self) -> None:
        phase, done = self.position
        name = self.plan.phases()[phase][0]
        rows = []
        for lane in range(len(self.plan.lanes)):
            values = {
                metric: float(sum(sums[metric][lane] for sums in self._pending) / self._pending_updates)
                for metric in self._pending[0]
            }
            finite = {metric: value if math.isfinite(value) else None for metric, value in values.items()}
            rows.append({"phase": name, "update": done, "lane": lane, **finite})
        self.metrics.append(rows)
        self._pending, self._pending_updates = [], 0

    # --- evaluation ---

    def policies(self) -> DeployedPolicy:
        """The policies of all lanes, leading axis `lanes`."""
        normaliser, spec = self.plan.prepared.normaliser, self.plan.prepared.spec
        return jax.vmap(lambda a, s: deploy(a.policy(s), spec, normaliser))(self.algorithm, self.state)

    def policy(self, lane: int) -> DeployedPolicy:
        """The policy of one lane."""
        algorithm, state = take_lane(self.algorithm, lane), take_lane(self.state, lane)
        return deploy(algorithm.policy(state), self.plan.prepared.spec, self.plan.prepared.normaliser)

    def rollout(self, episodes: int) -> Episodes:
        """Episodes of all lanes at the current position; the same position gives the same episodes."""
        assert self.plan.task is not None
        keys = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, 1_000), self.position.update))(self.keys)

        def on_step(step: int, horizon: int) -> None:
            self.display.note(f"evaluating, step {step} of {horizon}")
            if self._signal is not None:
                self._save()
                raise Interrupted(self._signal, self.plan.folder)

        return rollout(self.policies(), self.plan.task, episodes, keys, on_step)

    def _evaluate(self) -> None:
        started = time.perf_counter()
        outcome = self.rollout(self.plan.settings.eval_episodes)
        self.seconds["evaluation"] += time.perf_counter() - started
        assert self.plan.task is not None
        scores = self.plan.task.normalized_score(outcome.returns)
        self.evaluations.append(
            [
                {
                    "update": self.position.update,
                    "lane": lane,
                    "episode": episode,
                    "return": float(outcome.returns[lane, episode]),
                    "length": int(outcome.lengths[lane, episode]),
                    "normalized_score": float(scores[lane, episode]),
                }
                for lane, episode in np.ndindex(scores.shape)
                if self.alive[lane]
            ]
        )
        if self.alive.any():
            self.display.score(self.position.update, describe(aggregate(scores[self.alive])))

    def updates_per_second(self) -> float:
        """Of one lane, compilation and evaluation left out."""
        return self.updates_timed / self.seconds["train"] if self.seconds["train"] else 0.0

    # --- checkpoints ---

    def _save(self) -> None:
        phase, update = self.position
        phases = self.plan.phases()
        notes = {
            "position": list(self.position),
            "global_update": sum(updates for _, updates in phases[:phase]) + update,
            "frozen": {str(lane): where for lane, where in self.frozen.items()},
            "seconds": self.seconds,
            "updates_timed": self.updates_timed,
            "pending_updates": self._pending_updates,
        }
        name = f"{phases[phase][0]}-{update:09d}"
        save_checkpoint(self.plan.folder / "checkpoints", name, self._tree(), notes)

    def _tree(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        pending = {}
        if self._pending:
            pending = {m: sum(sums[m] for sums in self._pending) for m in self._pending[0]}
        return {"state": self.state, "keys": self.keys, "alive": self.alive, "pending": pending}

    def restore(self, rewrite: bool = True) -> None:
        """Go to the newest valid checkpoint.

        rewrite: drop the rows written after it, which will come again when training goes on.
        Without any checkpoint training starts over. Raises: CheckpointError where there are some but none is valid.
        """
        folder = self.plan.folder / "checkpoints"
        if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            tree, notes, _ = load_latest(folder, self._tree(), self.display.message)
            self.state, self.keys = tree["state"], tree["keys"]
            self.alive = np.array(tree["alive"])
            self.position = Position(*notes["position"])
            self.frozen = {int(lane): where for lane, where in notes["frozen"].items()}
            self.seconds, self.updates_timed = notes["seconds"], notes["updates_timed"]
        if not rewrite:
            return
        order = {name: index for index, (name, _) in enumerate(self.plan.phases())}
        self.metrics.keep(lambda row: (order[row["phase"]], row["update"]) <= self.position)
        last = len(order) - 1
        self.evaluations.keep(lambda row: (last, row["update"]) <= self.position)

    def _catch_up(self) -> None:
        """An interrupt during an evaluation saved the position but not the outcome: evaluate now."""
        phase, done = self.position
        if done == 0 or not self._evaluates(phase):
            return
        due = done % self.plan.settings.eval_every_updates == 0 or done == self.plan.phases()[phase][1]
        if due and not any(row["update"] == done for row in self.evaluations.read()):
            self._evaluate()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask for a checkpoint and an orderly end; a second Ctrl-C ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            if self._signal is not None:
                raise KeyboardInterrupt
            self._signal = number

        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def describe(summary: Summary) -> str:
    """`43.1 [41.0, 45.2]`: interquartile mean and 95 % interval."""
    return f"{summary.iqm:.1f} [{summary.ci95_low:.1f}, {summary.ci95_high:.1f}]"


def _lane_keys(lanes: tuple[Lane, ...]) -> tuple[Any, Any]:
    """Per lane a key for initialisation and one for everything after; equal seeds start equal."""
    keys = jnp.stack([jax.random.key(lane.seed) for lane in lanes])
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]
