"""Online SAC: the algorithm that D4RL's locomotion data were made with, on the trainer's own update.

The environment steps on the host. Every CHUNK_STEPS steps their rows are put into the replay buffer, which lies on the
device, and as many updates run in one compiled program. The buffer is as large as the run is long: nothing is ever
overwritten, and what it holds is the replay data set.

Everything that happens depends on the seed, the number of the episode, of the step and of the update. Checkpoints lie
between episodes, where an environment is nothing but its next seed, so a run that was stopped or killed repeats what
came after its last checkpoint bit for bit. (An environment that carries more than its seed over `reset` does not.)
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from tether.algorithms import SAC
from tether.collect.environments import Place
from tether.collect.rows import Columns, Log, Recorder
from tether.data import Normaliser
from tether.data.transforms import column_statistics
from tether.environments.make import silent_mujoco
from tether.evaluation.rollout import FIRST_EVALUATION_SEED
from tether.machine.signals import Interrupted, StopSignals
from tether.policies.density import with_noise
from tether.policies.deployed import DeployedPolicy, deploy
from tether.policies.folder import save_policy
from tether.runs.checkpoint import load_latest, save_checkpoint
from tether.runs.jsonlines import JsonLines
from tether.runs.records import Display
from tether.types import Array, Int, PRNGKey, Spec, Transition

__all__ = ["Online", "Training", "level_name"]

CHUNK_STEPS = 50
CHECKPOINT_STEPS = 10_000
TRAINING_STREAM = 0  # of the seed; rollouts have others
JUDGE_STREAM = 1_000  # of the seed's key
GOLDEN_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Training:
    """What decides a training run, beside the environment."""

    algorithm: SAC
    seed: int = 0
    batch_size: int = 256
    random_steps: int = 1_000  # uniform actions and no updates
    updates_per_step: int = 1
    eval_every_steps: int = 2_000
    eval_episodes: int = 5
    judged_with_noise: bool = True  # levels are of the policy that collects: a Gaussian actor's draws, or its mode


def level_name(level: float) -> str:
    """Name of the policy folder that first reached the level."""
    return f"at-{level:g}"


class Online:
    """A training run in its folder; make it, then `run` it, again and further if need be."""

    def __init__(self, folder: Path, place: Place, training: Training, steps: int, display: Display, stop: StopSignals):
        """steps: the most that will be taken; an episode may end a little later."""
        self.folder, self.place, self.training, self.steps = folder, place, training, steps
        self.display, self.stop = display, stop
        folder.mkdir(parents=True, exist_ok=True)
        self.log = Log(folder / "replay")
        self.evaluations = JsonLines(folder / "evaluations.jsonl", _fault_of)
        self.levels: dict[str, dict[str, Any]] = {}  # name -> the evaluation that reached it
        self.updates = self.evaluated = 0
        self.diverged = False
        init_key, self._act_key, self._learn_key = jax.random.split(jax.random.key(training.seed), 3)
        self._judge_key = jax.random.fold_in(jax.random.key(training.seed), JUDGE_STREAM)
        self.spec = Spec(place.task.observation_size, place.task.action_size)
        self.algorithm = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), training.algorithm)
        self.state = jax.jit(lambda key: self.algorithm.init(self.spec, key))(init_key)
        self._restore()
        self.buffer = _buffer(self.log, self.spec, steps + (place.task.horizon or 1) + CHUNK_STEPS)
        self._saved = self.log.rows
        self._metrics: dict[str, Array] = {}
        self._rate: float | None = None

    # --- where it stands ---

    def _restore(self) -> None:
        folder = self.folder / "checkpoints"
        if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            self.state, notes, _ = load_latest(folder, self.state, self.display.warn)
            self.levels, self.updates, self.evaluated = notes["levels"], notes["updates"], notes["evaluated"]
            self.log.restore(notes["steps"])
        else:
            self.log.restore(0)
        self.evaluations.keep(lambda row: row["step"] <= self.evaluated)

    def _save(self) -> None:
        self.log.save()
        notes = {"global_update": self.log.rows, "steps": self.log.rows, "updates": self.updates}
        notes |= {"levels": self.levels, "evaluated": self.evaluated}
        save_checkpoint(self.folder / "checkpoints", f"train-{self.log.rows:09d}", self.state, notes)
        self._saved = self.log.rows

    # --- training ---

    def run(self, levels: Sequence[float], to_the_end: bool) -> None:
        """Train until all `levels` are reached, or through all steps.

        Raises Interrupted after SIGINT or SIGTERM: when the episode has ended and a checkpoint is written.
        """
        if not to_the_end and (missing := self._missing(levels)):
            self.display.message(
                f"until an evaluation, every {self.training.eval_every_steps:,} steps, reaches {missing[-1]:g} "
                f"({self.place.task.score_name}); at most {self.steps:,} steps"
            )
        self.display.begin("collect", self.log.rows, self.steps, "steps")
        with contextlib.ExitStack() as stack:
            environment, other = (stack.enter_context(contextlib.closing(self.place.open())) for _ in range(2))
            while not self.diverged and self.log.rows < self.steps and (to_the_end or self._missing(levels)):
                self._episode(environment)
                reached = self._evaluate(other, levels) if self._evaluation_due() else False
                if reached or self.log.rows - self._saved >= CHECKPOINT_STEPS or self.stop.number is not None:
                    self._save()
                if self.stop.number is not None:
                    raise Interrupted(self.stop.number, self.folder, "the same command")
        self._save()

    def _missing(self, levels: Sequence[float]) -> list[float]:
        return [level for level in levels if level_name(level) not in self.levels]

    def _episode(self, environment: gymnasium.Env) -> None:
        """One episode and the updates that are due after its steps."""
        random = np.random.default_rng([self.training.seed, TRAINING_STREAM, self.log.blocks])
        recorder, first, taken, over = Recorder(), self.log.rows, 0, False
        with silent_mujoco():
            observation, _ = environment.reset(seed=int(random.integers(2**31)))
            while not over:
                action = self._action(observation, first + len(recorder.rows), random)
                recorder.add(environment, observation, action)
                played = environment.step(self.place.from_unit(action))
                observation, reward, terminated, truncated, info = played
                recorder.finish(observation, reward, terminated, truncated, info)
                over = terminated or truncated
                if over or len(recorder.rows) - taken == CHUNK_STEPS:
                    self._learn(recorder.columns(taken), first + taken)
                    taken = len(recorder.rows)
                    self.display.advance(min(first + taken, self.steps), self._rate)
        self.log.append(recorder.columns())

    def _action(self, observation: np.ndarray, step: int, random: np.random.Generator) -> np.ndarray:
        if step < self.training.random_steps:
            return random.uniform(-1.0, 1.0, self.spec.action_size).astype(np.float32)
        acting = self.algorithm.behaviour(self.state)
        return np.asarray(_act(acting, np.asarray(observation, np.float32), self._act_key, np.int32(step)))

    def _learn(self, rows: Columns, start: int) -> None:
        """The rows into the buffer, and the updates that they are worth."""
        count = len(rows["rewards"])
        padded = jax.tree.map(lambda column: _padded(column, CHUNK_STEPS), _transitions(rows))
        self.buffer = _insert(self.buffer, padded, np.int32(start))
        if start + count <= self.training.random_steps:
            return
        updates, started = count * self.training.updates_per_step, time.perf_counter()
        numbers = np.int32(start + count), np.int32(self.updates), np.int32(updates)
        batch_size = self.training.batch_size
        found = _updates(self.algorithm, self.state, self.buffer, *numbers, self._learn_key, batch_size=batch_size)
        self.state, sums = jax.block_until_ready(found)
        self._metrics = {name: value / updates for name, value in sums.items()}
        self._rate = updates / (time.perf_counter() - started)
        self.updates += updates

    # --- evaluation ---

    def _evaluation_due(self) -> bool:
        every, rows = self.training.eval_every_steps, self.log.rows
        ended = rows >= self.steps and self.evaluated < rows
        return self.updates > 0 and (rows // every > self.evaluated // every or ended)

    def _evaluate(self, environment: gymnasium.Env, levels: Sequence[float]) -> bool:
        """Play episodes, note them, keep the policy of levels that were reached for the first time."""
        self.display.note("evaluating")
        policy, returns = self._deployed(), []
        if self.training.judged_with_noise:
            policy, _ = with_noise(policy)
        key, steps = jax.random.fold_in(self._judge_key, self.log.rows), 0
        with silent_mujoco():
            for episode in range(self.training.eval_episodes):
                observation, _ = environment.reset(seed=FIRST_EVALUATION_SEED + episode)
                total, over = 0.0, False
                while not over:
                    action = _act(policy, np.asarray(observation, np.float32), key, np.int32(steps))
                    steps += 1
                    observation, reward, terminated, truncated, _ = environment.step(np.asarray(action))
                    total, over = total + float(reward), terminated or truncated
                returns.append(total)
        self.evaluated = self.log.rows
        if not np.isfinite(returns).all():
            self.diverged = True
            return False
        row = {"step": self.log.rows, "updates": self.updates, "return": float(np.mean(returns)), "returns": returns}
        if self.place.task.has_references:
            row["score"] = float(self.place.task.score(row["return"]))
        self.evaluations.append([row | {name: _plain(value) for name, value in self._metrics.items()}])
        measured = float(self.place.task.score(row["return"]))
        word = "score" if self.place.task.has_references else "return"
        self.display.score(self.log.rows, f"{word} {measured:.1f} (mean)")
        reached = [level for level in self._missing(levels) if measured >= level]
        for level in reached:
            self.levels[level_name(level)] = row
            self.keep_policy(level_name(level), row)
        return bool(reached)

    def _deployed(self) -> DeployedPolicy:
        """The policy as it is now, without noise; it answers in the environment's units."""
        size = self.spec.observation_size
        unscaled = Normaliser(np.zeros(size, np.float32), np.ones(size, np.float32))
        return deploy(self.algorithm.policy(self.state), self.spec, unscaled, self.place.schema, self.place.limits)

    def keep_policy(self, name: str, notes: dict[str, Any]) -> Path:
        """The policy as it is now, in `policies/NAME`; without noise."""
        observations = self.log.parts[-1]["observations"]
        folder = self.folder.parent / "policies" / name
        save_policy(
            folder,
            self._deployed(),
            algorithm=self.training.algorithm,
            spec=self.spec,
            observations=observations[np.linspace(0, len(observations) - 1, GOLDEN_ROWS).astype(int)],
            schema=self.place.schema,
            seen=column_statistics(np.concatenate([part["observations"] for part in self.log.parts])),
            notes={"environment": self.place.task.gymnasium_id, "seed": self.training.seed, **notes},
        )
        return folder


def _fault_of(row: dict[str, Any]) -> str | None:
    """What is wrong with a row of evaluations.jsonl."""
    whole = type(row.get("step")) is int and isinstance(row.get("return"), float)
    return None if whole and isinstance(row.get("score", 0.0), float) else "no step, return or score"


def _plain(value: Any) -> float | None:
    """The number, or None where strict JSON has none."""
    return float(value) if np.isfinite(value) else None


def _transitions(rows: Columns) -> Transition:
    """NumPy columns as a transition table."""
    columns: tuple[Any, ...] = (
        rows["observations"],
        rows["actions"],
        rows["rewards"],
        rows["next_observations"],
        rows["terminals"].astype(np.float32),
    )
    return Transition(*columns)


def _padded(column: np.ndarray, rows: int) -> np.ndarray:
    """Zeros up to `rows` rows."""
    padded = np.zeros((rows, *column.shape[1:]), np.float32)
    padded[: len(column)] = column
    return padded


def _buffer(log: Log, spec: Spec, capacity: int) -> Transition:
    """The rows of the log and zeros, on the device."""
    if log.rows:
        return jax.tree.map(lambda column: jnp.asarray(_padded(column, capacity)), _transitions(log.columns()))
    sizes = (spec.observation_size,), (spec.action_size,), (), (spec.observation_size,), ()
    return Transition(*(jnp.zeros((capacity, *size), jnp.float32) for size in sizes))


@jax.jit
def _act(policy: Any, observation: Any, key: PRNGKey, step: Int[Array, ""]) -> Any:
    return policy(observation, jax.random.fold_in(key, step))


@functools.partial(jax.jit, donate_argnums=0)
def _insert(buffer: Transition, rows: Transition, start: Int[Array, ""]) -> Transition:
    """Write rows into the buffer in place; the one that was given must not be used again."""
    return jax.tree.map(lambda all_, new: jax.lax.dynamic_update_slice_in_dim(all_, new, start, 0), buffer, rows)


@functools.partial(jax.jit, static_argnames="batch_size")
def _updates(
    algorithm: SAC,
    state: Any,
    buffer: Transition,
    size: Int[Array, ""],
    first: Int[Array, ""],
    count: Int[Array, ""],
    key: PRNGKey,
    *,
    batch_size: int,
) -> tuple[Any, dict[str, Array]]:
    """Updates number first .. first+count-1 on the first `size` rows -> (state, sums of the metrics)."""

    def step(i: Any, state: Any) -> Any:
        index_key, update_key = jax.random.split(jax.random.fold_in(key, i))
        indices = jax.random.randint(index_key, (batch_size,), 0, size, jnp.int32)
        return algorithm.update(state, buffer.take(indices), update_key, i)

    def body(i: Any, carry: Any) -> Any:
        state, metrics = step(i, carry[0])
        return state, jax.tree.map(jnp.add, carry[1], metrics)

    shapes = jax.eval_shape(step, first, state)[1]
    zeros = jax.tree.map(lambda metric: jnp.zeros(metric.shape, metric.dtype), shapes)
    return jax.lax.fori_loop(first, first + count, body, (state, zeros))
