"""A run: from data and algorithm to a folder with metrics, evaluations, checkpoints, policy and picture.

The trainer knows no algorithm by name: it asks for phases and runs their updates. Everything that decides what
comes next (state, keys, position, living lanes, sums of metrics not yet written) is in the checkpoint, and update
number i depends on nothing but the lane's key and i, so a resumed run repeats the uninterrupted one bit for bit.
"""

import dataclasses
import math
import time
from collections.abc import Callable
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
from tether.training.derive import derive_columns
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.training.loop import NEVER, init_lanes, run_updates
from tether.training.records import Display, JsonLines
from tether.training.signals import Interrupted, StopSignals

__all__ = ["Frozen", "Plan", "Position", "Run", "Settings", "describe"]

PIECE_UPDATES = 100  # between two looks of the host: for signals, the bar, and freezing diverged lanes
EVALUATION_STREAM = 1_000  # folded into a lane's key for rollouts; phases take 0, 1, ... for their updates


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
    prepared: Prepared  # its transitions lie on the device
    task: Task | None  # None: no environment is known, so nothing is evaluated
    behaviour_returns: np.ndarray  # (episodes,) of the data's own episodes
    observations: np.ndarray  # (rows, observation): some raw ones, for golden pairs

    def phases(self) -> list[tuple[str, int]]:
        """(name, updates) in order."""
        return [(phase.name, phase.updates) for phase in self.algorithm.phases()]


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
    """One training run in progress. Make it, perhaps `restore` it, then `execute` it."""

    def __init__(self, plan: Plan, display: Display, stop: StopSignals | None = None):
        self.plan = plan
        self.display = display
        self.stop = stop or StopSignals()
        self.metrics = JsonLines(plan.folder / "metrics.jsonl")
        self.evaluations = JsonLines(plan.folder / "evaluations.jsonl")
        self.algorithm = stack_lanes(plan.algorithm, plan.lanes)
        self._init_keys, self.keys = _lane_keys(plan.lanes)
        self.state: Any = None  # until it is restored or drawn
        self.position = Position(0, 0)
        self.evaluated = -1  # updates of the last phase that were done when it was last evaluated
        self.frozen: dict[int, Frozen] = {}  # by lane
        self.seconds = {"compile": 0.0, "train": 0.0, "evaluation": 0.0, "wall": 0.0}
        self.updates_timed = 0
        self._started = time.perf_counter()  # restoring a run moves it back by the time already spent
        self._derived: Any = None  # columns that the current phase made of the data
        self._sums: dict[str, np.ndarray] = {}  # metric -> float64 (lanes,), summed since the last row
        self._summed_updates = 0

    @property
    def alive(self) -> np.ndarray:
        """Which lanes are not frozen, bool (lanes,)."""
        return np.array([lane not in self.frozen for lane in range(len(self.plan.lanes))])

    @property
    def updates(self) -> int:
        """Updates of the last phase that are done."""
        return self.position.update if self.position.phase == len(self.plan.phases()) - 1 else 0

    def updates_per_second(self) -> float:
        """Of all lanes side by side; compilation and evaluation left out."""
        return self.updates_timed / self.seconds["train"] if self.seconds["train"] else 0.0

    # --- training ---

    def execute(self) -> None:
        """Train from the current position to the end.

        Raises: Interrupted when a stop was asked for, after writing a checkpoint; CheckpointError; OSError.
        """
        if self.state is None:
            self.state = self._initial_state(self._init_keys)
        if self._evaluation_due():  # it was interrupted
            self._evaluate()
            self._save()
        for phase in range(self.position.phase, len(self.plan.phases())):
            self._run_phase(phase)
        self.seconds["wall"] = time.perf_counter() - self._started

    def _initial_state(self, keys: Any) -> Any:
        """Fresh networks of all lanes."""
        return init_lanes(self.algorithm, self.plan.prepared.spec, keys)

    def _run_phase(self, phase: int) -> None:
        name, updates = self.plan.phases()[phase]
        if not self.alive.any():  # then the position stays where the last lane was lost
            return
        if self.position.phase < phase:
            self.position = Position(phase, 0)
        if self.position.update >= updates:
            return
        self.display.begin(name, self.position.update, updates)
        self._derive()
        self._compile()
        while self.position.update < updates and self.alive.any():
            self._run_piece(min(PIECE_UPDATES, self._next_stop() - self.position.update))
            self._log_if_due()
            if self.stop.number is not None:
                self._interrupt()
            due = self._evaluation_due()
            if due:
                self._evaluate()
            if due or self._ended() or self.position.update % self.plan.settings.checkpoint_every_updates == 0:
                self._save()

    def _derive(self) -> None:
        """Make the columns that the phase trains on beside the data's, if it has any."""

        def on_piece(done: int, rows: int) -> None:
            self.display.note(f"preparing the data, {done:,} of {rows:,} rows")
            if self.stop.number is not None:
                self._interrupt()

        data, phase = self.plan.prepared.transitions, self.position.phase
        self._derived = None  # the one before is not needed any more
        self._derived = derive_columns(self.algorithm, self.state, self.keys, data, phase=phase, on_piece=on_piece)

    def _compile(self) -> None:
        """Compile the phase's program, by a call that runs no update, so that its cost is known apart."""
        started = time.perf_counter()
        jax.block_until_ready(self._run_updates(0))
        self.seconds["compile"] += time.perf_counter() - started

    def _run_updates(self, count: int) -> Any:
        """`count` updates from the current position -> Progress."""
        phase, done = self.position
        return run_updates(
            self.algorithm,
            self.state,
            self.keys,
            jnp.asarray(self.alive),
            self.plan.prepared.transitions,
            jnp.asarray(done, jnp.int32),
            jnp.asarray(count, jnp.int32),
            phase=phase,
            batch_size=self.plan.settings.batch_size,
            sequential=jax.default_backend() == "cpu",
            derived=self._derived,
        )

    def _run_piece(self, count: int) -> None:
        """`count` updates of all lanes; a lane whose numbers turn non-finite is frozen and named."""
        started = time.perf_counter()
        self.state, sums, first_nonfinite = jax.block_until_ready(self._run_updates(count))
        self.seconds["train"] += time.perf_counter() - started
        self.updates_timed += count
        for name, values in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + np.asarray(values, np.float64)
        self._summed_updates += count
        phase, before = self.position
        self.position = Position(phase, before + count)
        for lane in np.flatnonzero(self.alive & (np.asarray(first_nonfinite) != NEVER)).tolist():
            self._freeze(lane, int(first_nonfinite[lane]) + 1, f"it stays as it was at update {before}")
        self.display.advance(self.position.update, self.updates_per_second())

    def _freeze(self, lane: int, update: int, consequence: str) -> None:
        where = Frozen(self.plan.phases()[self.position.phase][0], update)
        self.frozen[lane] = where
        name = self.plan.lanes[lane].name
        self.display.warn(f"lane {lane} ({name}) turned non-finite in {where}: {consequence}, the other lanes go on")

    def _next_stop(self) -> int:
        """The next update of the phase at which a row, an evaluation or a checkpoint is due."""
        settings, (phase, done) = self.plan.settings, self.position
        steps = [settings.log_every_updates, settings.checkpoint_every_updates]
        if self._evaluates():
            steps.append(settings.eval_every_updates)
        return min([self.plan.phases()[phase][1], *(done - done % step + step for step in steps)])

    def _ended(self) -> bool:
        """Whether the phase is over: all updates are done, or no lane is left."""
        return self.position.update == self.plan.phases()[self.position.phase][1] or not self.alive.any()

    def _interrupt(self) -> None:
        self._save()
        assert self.stop.number is not None
        raise Interrupted(self.stop.number, self.plan.folder)

    def _log_if_due(self) -> None:
        """A row of means since the last row for each lane that was alive then."""
        phase, done = self.position
        if not (done % self.plan.settings.log_every_updates == 0 or self._ended()):
            return
        name, start = self.plan.phases()[phase][0], done - self._summed_updates
        means = {metric: sums / self._summed_updates for metric, sums in self._sums.items()}
        rows = []
        for lane in range(len(self.plan.lanes)):
            frozen = self.frozen.get(lane)
            if frozen is None or (frozen.phase == name and frozen.update > start):
                values = {metric: _number_or_none(mean[lane]) for metric, mean in means.items()}
                rows.append({"phase": name, "update": done, "lane": lane, **values})
        self.metrics.append(rows)
        self._sums, self._summed_updates = {}, 0

    # --- evaluation ---

    def policies(self) -> DeployedPolicy:
        """The policies of all lanes, leading axis `lanes`."""
        return jax.vmap(lambda algorithm, state: self._deploy(algorithm.policy(state)))(self.algorithm, self.state)

    def policy(self, lane: int) -> DeployedPolicy:
        """The policy of one lane."""
        algorithm, state = take_lane(self.algorithm, lane), take_lane(self.state, lane)
        return self._deploy(algorithm.policy(state))

    def _deploy(self, policy: Any) -> DeployedPolicy:
        prepared = self.plan.prepared
        return deploy(policy, prepared.spec, prepared.normaliser, prepared.schema)

    def rollout(self, episodes: int, on_step: Callable[[int, int], None]) -> Episodes:
        """Episodes of all lanes at the current position; the same position gives the same episodes."""
        assert self.plan.task is not None

        def evaluation_key(key: Any) -> Any:
            return jax.random.fold_in(jax.random.fold_in(key, EVALUATION_STREAM), self.position.update)

        return rollout(self.policies(), self.plan.task, episodes, jax.vmap(evaluation_key)(self.keys), on_step)

    def _evaluates(self) -> bool:
        """Whether the phase is one that is evaluated: the last, where an environment is known."""
        return self.plan.task is not None and self.position.phase == len(self.plan.phases()) - 1

    def _evaluation_due(self) -> bool:
        done = self.position.update
        if not self._evaluates() or done == 0 or done == self.evaluated or not self.alive.any():
            return False
        return done % self.plan.settings.eval_every_updates == 0 or self._ended()

    def _evaluate(self) -> None:
        """Play episodes and write their rows; a lane whose returns are not finite is frozen."""

        def on_step(step: int, horizon: int) -> None:
            self.display.note(f"evaluating, step {step} of {horizon}")
            if self.stop.number is not None:
                self._interrupt()

        started = time.perf_counter()
        outcome = self.rollout(self.plan.settings.eval_episodes, on_step)
        self.seconds["evaluation"] += time.perf_counter() - started
        self.evaluated = self.position.update
        # A network can turn finite parameters into infinite actions, for which a reward is not a number.
        for lane in np.flatnonzero(self.alive & ~np.isfinite(outcome.returns).all(axis=1)).tolist():
            self._freeze(lane, self.position.update, "its return is not a number")
        if not self.alive.any():
            return
        assert self.plan.task is not None
        scores = self.plan.task.normalized_score(outcome.returns)
        rows = [
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
        self.evaluations.append(rows)
        self.display.score(self.position.update, describe(aggregate(scores[self.alive])))

    # --- checkpoints ---

    def _save(self) -> None:
        phase, update = self.position
        phases = self.plan.phases()
        self.seconds["wall"] = time.perf_counter() - self._started
        notes = {
            "position": list(self.position),
            "global_update": sum(updates for _, updates in phases[:phase]) + update,
            "evaluated": self.evaluated,
            "frozen": {str(lane): list(where) for lane, where in self.frozen.items()},
            "sums": self._sums,  # JSON keeps float64 exactly; what is not finite becomes null, as in the rows
            "summed_updates": self._summed_updates,
            "seconds": self.seconds,
            "updates_timed": self.updates_timed,
        }
        name = f"{phases[phase][0]}-{update:09d}"
        arrays = {"state": self.state, "keys": self.keys}
        save_checkpoint(self.plan.folder / "checkpoints", name, arrays, notes)

    def restore(self) -> bool:
        """Go to the newest valid checkpoint; False, and nothing happens, where there is none at all.

        Raises: CheckpointError where there are checkpoints but none is valid.
        """
        folder = self.plan.folder / "checkpoints"
        if not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir()):
            return False
        like = {"state": jax.eval_shape(self._initial_state, self._init_keys), "keys": self.keys}
        refused: list[str] = []  # shown only where another one is used, else they are in the error
        arrays, notes, used = load_latest(folder, like, refused.append)
        for reason in refused:
            self.display.warn(f"{reason}; going on from {used.name}")
        self.state, self.keys = arrays["state"], arrays["keys"]
        self.position = Position(*notes["position"])
        self.evaluated = notes["evaluated"]
        self.frozen = {int(lane): Frozen(*where) for lane, where in notes["frozen"].items()}
        self._sums = {name: np.asarray(sums, np.float64) for name, sums in notes["sums"].items()}
        self._summed_updates = notes["summed_updates"]
        self.seconds, self.updates_timed = notes["seconds"], notes["updates_timed"]
        self._started -= self.seconds["wall"]
        return True

    def drop_later_rows(self) -> None:
        """Drop the rows written after the current position: training will write them again."""
        order = {name: index for index, (name, _) in enumerate(self.plan.phases())}
        self.metrics.keep(lambda row: (order[row["phase"]], row["update"]) <= self.position)
        self.evaluations.keep(lambda row: row["update"] <= self.evaluated)


def describe(summary: Summary) -> str:
    """`43.1 [41.0, 45.2]`: interquartile mean and 95 % interval."""
    return f"{summary.iqm:.1f} [{summary.ci95_low:.1f}, {summary.ci95_high:.1f}]"


def _number_or_none(value: Any) -> float | None:
    """For strict JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None


def _lane_keys(lanes: tuple[Lane, ...]) -> tuple[Any, Any]:
    """Per lane a key for initialisation and one for everything after; equal seeds start equal."""
    keys = jnp.stack([jax.random.key(lane.seed) for lane in lanes])
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]
