"""A run that goes on in its environment: it collects, and trains on what it collects and on the data.

It is a run as any other, whose last phase is longer than its parent's. Update number i and everything that it depends
on are as they would be without an environment; what is added is a replay for each lane, of which a part of each
minibatch is drawn.

The environments step while the device updates, both by the same policy: that of the last update that was done. In turns

    update     a piece of updates, on the steps that are there
    collect    meanwhile the steps that the next piece needs
    insert     their rows into the replay, when both are done

so a row is learnt from at most two pieces after its policy. What is collected depends on the position alone, and a
checkpoint lies between two pieces: it holds the replay and of episodes in progress the actions so far, which are played
again from the episode's start (`evaluation/collector.py`).
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.data.growing import GrowingEpisode
from tether.data.schema import unit_box
from tether.errors import InputError
from tether.evaluation.collector import COLLECTING_STREAM, Collector, Step
from tether.evaluation.rollout import LaneActor
from tether.machine.files import sha256_file
from tether.machine.reading import read_json
from tether.policies.deployed import DeployedPolicy, deploy
from tether.policies.exploring import exploring
from tether.policies.framed import framed_policy
from tether.runs.checkpoint import STATE, load_checkpoint
from tether.runs.evaluations import processor
from tether.runs.plan import Plan
from tether.runs.run import PIECE_UPDATES, Frozen, Position, Run
from tether.training.replay import Replay, empty_replay, insert_rows

__all__ = ["FinetuningRun", "make_run"]

PIECE_STEPS = 20  # of the environments, that updates are done after together; fewer where these are many

Returns = list[tuple[float, int]]
"""(undiscounted return, steps) of episodes."""


def make_run(plan: Plan, *arguments: Any, **keywords: Any) -> Run:
    """The run of a plan. arguments, keywords: as of `Run`."""
    return (Run if plan.finetuning is None else FinetuningRun)(plan, *arguments, **keywords)


class FinetuningRun(Run):
    """A run whose plan has `finetuning`, on one device."""

    def __init__(self, plan: Plan, *arguments: Any, **keywords: Any):
        super().__init__(plan, *arguments, **keywords)
        assert plan.finetuning is not None
        assert plan.task is not None
        self.finetuning, lanes = plan.finetuning, len(plan.lanes)
        self.first_update = self.finetuning.parent.update
        self._piece = min(PIECE_UPDATES, PIECE_STEPS * self.finetuning.updates_per_step)
        self._exchanged = round(self.finetuning.online_fraction * plan.options.batch_size)
        schema = plan.prepared.schema
        self._box = unit_box(plan.prepared.spec.action_size) if schema is None else schema.box
        seeds = [lane.seed for lane in plan.lanes]
        rounds = self.finetuning.parent.rounds
        self.collector = Collector(plan.task, seeds, plan.prepared.spec.observation_size, rounds)
        self._episodes = [GrowingEpisode(plan.prepared.change) for _ in range(lanes)]
        self._played: Returns = [(0.0, 0)] * lanes  # of the episode that each lane is in
        self._ended_episodes: list[Returns] = [[] for _ in range(lanes)]  # since the last row of metrics
        self._stored: dict[str, Any] | None = None  # arrays of the checkpoint, until there are environments
        self._written = np.zeros(lanes, np.int32)  # rows of the replay then, of which so many are kept:
        self._rows_kept = 0
        self._actor: LaneActor | None = None
        self._deployed = jax.jit(jax.vmap(lambda algorithm, state: self._exploring(algorithm.policy(state))))

    # --- where it stands ---

    @property
    def updates_since(self) -> int:
        """Updates since the parent's."""
        return self.position.update - self.first_update

    @property
    def env_steps(self) -> int:
        """Steps of each lane's environment that the updates so far have had; a few more may be collected."""
        return self.finetuning.steps_for(self.updates_since)

    @property
    def all_env_steps(self) -> int:
        """The same at the end of the run."""
        return self.finetuning.steps_for(self.plan.phases()[-1][1] - self.first_update)

    def own_record(self) -> dict[str, Any]:
        """For result.json."""
        return {"env_steps": self.env_steps, "episodes": list(self.collector.episodes)}

    def execute(self) -> None:
        """As of `Run`."""
        try:
            super().execute()
        finally:
            self.collector.close()

    def begin_collecting(self) -> None:
        """Go to where the parent was, and take the first steps."""
        self._begin()
        self._derive()
        assert self._actor is not None
        self.groups.replay = insert_rows(self.groups.replay, self._collect(PIECE_STEPS))

    def _begin(self) -> None:
        """Go to where the parent was. Raises: InputError where its checkpoint is no longer there."""
        parent = self.finetuning.parent
        path = Path(parent.folder) / "checkpoints" / parent.checkpoint
        if not (path / STATE).is_file() or sha256_file(path / STATE) != parent.sha256:
            raise InputError(f"{path}: not the checkpoint that {self.plan.folder} goes on from; begin it anew")
        arrays, notes = load_checkpoint(path, self._stored_shapes())
        self.groups.put(arrays["state"], arrays["keys"])
        self.position = Position(*notes["position"])
        self.frozen = {int(lane): Frozen(*where) for lane, where in notes["frozen"].items()}
        self.display.message(
            f"from update {parent.update:,} of {parent.folder}: {self.all_env_steps:,} env steps a lane"
        )
        if parent.rounds:
            self.display.message("the rows that it had collected are left behind: the replay begins empty")
        before = read_json(Path(parent.folder) / "config.json")["hyperparameters"]
        if before.get("cosine_decay") and not getattr(self.plan.algorithm, "cosine_decay", False):
            self.display.message("learning rates no longer decay (--set cosine_decay=true: they go on to)")

    def _evaluation_due(self) -> bool:
        """Also where it begins: the parent's policy is the first point of the curve."""
        begins = self.updates_since == 0 and self.evaluated < 0 and self._evaluates() and bool(self.alive.any())
        return begins or super()._evaluation_due()

    # --- collecting ---

    def _derive(self) -> None:
        super()._derive()
        if not self.collector.is_open:
            self._open()

    def _open(self) -> None:
        """Make replay and environments, as the checkpoint has them."""
        stored, lanes = self._stored, len(self.plan.lanes)
        capacity = self._capacity()
        replay = empty_replay(self.plan.prepared.transitions, lanes, capacity, self._exchanged)
        if stored is not None:

            def fill(column: Any, rows: Any) -> Any:
                return column.at[:, : rows.shape[1]].set(rows)

            replay = Replay(
                jax.tree.map(fill, replay.columns, stored["replay"]), jnp.asarray(self._written), self._exchanged
            )
        self.groups.replay = replay
        keys = jax.vmap(lambda key: jax.random.fold_in(key, COLLECTING_STREAM))(self.groups.keys)
        device = None if jax.default_backend() == "cpu" else processor()
        rounds = np.array([self.finetuning.parent.rounds], np.int32)
        self._actor = LaneActor(self._collecting_policies(), keys, rounds, device)
        if stored is not None:
            structure = jax.tree.structure(self._actor.memories)
            self._actor.memories = jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in stored["memories"]])
        steps, strayed = self.collector.open(self.alive)
        for lane, own in enumerate(steps):
            for step in own:
                self._live_through(lane, step)
        for lane in strayed:
            self.display.warn(
                f"lane {lane}: the environment does not repeat an episode from its seed and actions: from here on "
                "this run is another one than if it had not been stopped"
            )
        self._stored = None

    def _capacity(self) -> int:
        """Rows of each lane's replay."""
        asked = self.finetuning.replay_capacity
        wanted = self.all_env_steps if asked is None else min(asked, self.all_env_steps)
        return max(wanted, self._rows_kept)  # a run that is made shorter keeps what it has

    def _exploring(self, policy: Any) -> DeployedPolicy:
        """A policy as it collects: framed as its data, whatever an evaluation executes of each chunk."""
        prepared = self.plan.prepared
        framing = prepared.change.view.framing
        policy = framed_policy(exploring(policy, self.finetuning.exploration_noise), framing, prepared.spec)
        return deploy(policy, prepared.spec, prepared.normaliser, prepared.schema, self.plan.limits)

    def _collecting_policies(self) -> DeployedPolicy:
        """Those of all lanes as they are now."""
        policies = self._deployed(*self.groups.take(range(len(self.plan.lanes))))
        return policies if jax.default_backend() == "cpu" else jax.device_get(policies)

    def _run_piece(self, count: int) -> None:
        """At most `count` updates; before them, where there are no steps for any yet, all that it takes."""
        while self.alive.any() and self._updates_there() == 0:
            self.display.note(f"collecting, step {self.collector.steps:,} of {self.finetuning.warmup_env_steps:,}")
            assert self._actor is not None
            self._actor.follow(self._collecting_policies())
            self.groups.replay = insert_rows(self.groups.replay, self._collect(self._steps_ahead(0)))
            if self.stop.number is not None:
                self._interrupt()
        if self.alive.any():
            super()._run_piece(min(count, self._piece, self._updates_there()))

    def _updates_there(self) -> int:
        """Updates for which there are steps."""
        return self.finetuning.updates_after(self.collector.steps) - self.updates_since

    def _steps_ahead(self, count: int) -> int:
        """Steps to collect so that after `count` updates there are enough for another piece."""
        wanted = self.finetuning.steps_for(self.updates_since + count + self._piece)
        ahead = min(wanted, self.all_env_steps) - self.collector.steps
        return max(0, ahead if count else min(ahead, PIECE_STEPS))  # a run that was made shorter may have more

    def update_lanes(self, alive: np.ndarray, count: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The updates, and meanwhile the steps that the next ones need."""
        assert self._actor is not None
        self._actor.follow(self._collecting_policies())
        steps = self._steps_ahead(count)
        # A thread, as some backends compute what they are asked for one after the other, by thread.
        with ThreadPoolExecutor(1) as device:
            updating = device.submit(super().update_lanes, alive, count)
            rows = self._collect(steps)
            outcome = updating.result()
        self.groups.replay = insert_rows(self.groups.replay, rows)
        return outcome

    def _collect(self, count: int) -> list[Any]:
        """`count` steps of the environments of all living lanes -> by lane the rows of these, and of those before that
        have waited for them, None where there are none. A lane with a step that is not finite is frozen."""
        assert self._actor is not None
        rows = []
        for lane, own in enumerate(self.collector.collect(self._actor, count, self.alive)):
            if own and not own[-1].is_finite:
                where = Frozen(self.plan.phases()[-1][0], self.position.update)
                self._freeze(lane, where, "its environment gave a number that is not finite")
                own = own[:-1]
            parts = [part for step in own for part in self._live_through(lane, step)]
            parts.append(self._episodes[lane].new_rows(over=False))
            parts = [part for part in parts if part is not None]
            rows.append(jax.tree.map(lambda *columns: np.concatenate(columns), *parts) if parts else None)
        return rows

    def _live_through(self, lane: int, step: Step) -> list[Any]:
        """Take note of a step -> the rows of its episode, where it ends with it."""
        action = self._box.to_unit(step.action[None])[0]
        self._episodes[lane].add(step.observation, action, step.reward, step.next_observation, step.terminal)
        paid, length = self._played[lane]
        self._played[lane] = paid + step.reward, length + 1
        if not step.over:
            return []
        rows = self._episodes[lane].new_rows(over=True)
        self._ended_episodes[lane].append(self._played[lane])
        self._episodes[lane], self._played[lane] = GrowingEpisode(self.plan.prepared.change), (0.0, 0)
        return [rows]

    def _own_metrics(self) -> dict[str, np.ndarray]:
        """How far collecting has come; of the episodes that have ended since the last row their means."""
        lanes = len(self.plan.lanes)
        means = np.full((2, lanes), np.nan)
        for lane, episodes in enumerate(self._ended_episodes):
            if episodes:
                means[:, lane] = np.mean(episodes, axis=0)
        self._ended_episodes = [[] for _ in range(lanes)]
        return {
            "online/env_steps": np.full(lanes, float(self.env_steps)),
            "online/episodes": np.asarray(self.collector.episodes, np.float64),
            "online/return": means[0],
            "online/length": means[1],
            "online/replay_rows": np.minimum(self._rows_written(), self._capacity()).astype(np.float64),
        }

    def _rows_written(self) -> np.ndarray:
        """Rows that were put into the replay of each lane, (lanes,)."""
        replay = self.groups.replay
        return self._written if replay is None else np.asarray(replay.written)

    # --- checkpoints ---

    def _own_notes(self) -> dict[str, Any]:
        collector, written = self.collector, self._rows_written()
        return {
            "collected": {
                "steps": collector.steps,
                "episodes": collector.episodes,
                "actions": [len(actions) for actions in collector.actions],  # of the episodes in progress
                "rows_done": [episode.rows_done for episode in self._episodes],
                "ended": self._ended_episodes,
                "written": written,
                "rows": int(np.minimum(written, max(1, self._capacity())).max()),
            }
        }

    def _own_arrays(self) -> dict[str, Any]:
        notes = self._own_notes()["collected"]
        actions = {str(lane): np.stack(own) for lane, own in enumerate(self.collector.actions) if own}
        if self._actor is None:
            before = self._stored or self._nothing_collected()
            memories, columns = before["memories"], before["replay"]
        else:
            memories = jax.tree.leaves(self._actor.memories)
            columns = jax.tree.map(lambda column: column[:, : notes["rows"]], self.groups.replay.columns)
        return {
            "collected": {
                "actions": actions,
                "observations": self.collector.observations,
                "memories": jax.device_get(memories),
                "replay": jax.device_get(columns),
            }
        }

    def _nothing_collected(self) -> dict[str, Any]:
        return self._shapes_of(0, self.groups.state_shapes(self.plan.prepared.decision))

    def _own_shapes(self, notes: dict[str, Any], state: Any) -> dict[str, Any]:
        if "collected" not in notes:  # the parent's
            return {}
        size, collected = self.plan.prepared.spec.action_size, notes["collected"]
        actions = {
            str(lane): np.zeros((count, size), np.float32) for lane, count in enumerate(collected["actions"]) if count
        }
        shapes = self._shapes_of(collected["rows"], state)
        return {"collected": {"actions": actions, "observations": self.collector.observations, **shapes}}

    def _shapes_of(self, rows: int, state: Any) -> dict[str, Any]:
        """What memories and a replay of so many rows look like, as zeros."""
        lanes = len(self.plan.lanes)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (self._stacked, state))
        memories = jax.eval_shape(
            lambda *both: jax.vmap(lambda policy: policy.initial_memory())(self._deployed(*both)), *shapes
        )
        return {
            "memories": [np.zeros((lanes, 1, *leaf.shape[1:]), leaf.dtype) for leaf in jax.tree.leaves(memories)],
            "replay": jax.tree.map(
                lambda column: np.zeros((lanes, rows, *column.shape[1:]), column.dtype), self.plan.prepared.transitions
            ),
        }

    def _restore_own(self, notes: dict[str, Any], arrays: dict[str, Any]) -> None:
        collected, stored = notes["collected"], arrays["collected"]
        self.collector.steps, self.collector.episodes = collected["steps"], list(collected["episodes"])
        self.collector.observations = np.array(stored["observations"])
        self.collector.actions = [
            list(np.asarray(stored["actions"][str(lane)])) if count else []
            for lane, count in enumerate(collected["actions"])
        ]
        change = self.plan.prepared.change
        self._episodes = [GrowingEpisode(change, rows_done) for rows_done in collected["rows_done"]]
        self._ended_episodes = [[(paid, length) for paid, length in own] for own in collected["ended"]]
        self._written, self._stored = np.asarray(collected["written"], np.int32), stored
        self._rows_kept = collected["rows"]
