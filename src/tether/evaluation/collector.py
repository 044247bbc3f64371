"""Environments that lanes learn in: one for each, stepped on and on, one policy call for all of them.

Everything depends on the seed of a lane, the number of an episode and the number of a step (and of the round, where a
fine-tuned run is fine-tuned again): an episode begins with `reset(seed=...)`, and an action is drawn with the lane's
key and the number of the step. Most environments cannot be
saved, so what a checkpoint keeps of an episode that goes on is its number and the actions so far: they are played again
from its start. An environment in which these lead elsewhere (one that carries more than its seed over `reset`) is
reported.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tether.environments import Task
from tether.environments.make import ignore_ogbench, make_environment, silent_mujoco
from tether.evaluation.rollout import LaneActor, one_number
from tether.types import Bool, Float

if TYPE_CHECKING:
    import gymnasium  # imported where an environment is made: training and policies work without any simulator

__all__ = ["Collector", "Step", "episode_seed"]

COLLECTING_STREAM = 1_001  # of a lane's seed, for the starts of its episodes


class Step(NamedTuple):
    """What happened in a lane's environment."""

    observation: Float[np.ndarray, " observation"]  # before the action
    action: Float[np.ndarray, " action"]  # in the environment's units
    reward: float  # the environment's own
    next_observation: Float[np.ndarray, " observation"]
    terminal: bool  # the task truly ended
    over: bool  # the episode did, perhaps by its limit of time

    @property
    def is_finite(self) -> bool:
        """Whether it is fit to be learnt from."""
        return bool(np.isfinite(self.reward) and np.isfinite(self.next_observation).all())


def episode_seed(seed: int, episode: int, rounds: int = 0) -> int:
    """What the environment of the lane with this seed is reset with for its episode of this number, after so many
    earlier rounds of fine-tuning."""
    numbers = [seed, COLLECTING_STREAM, episode, *([rounds] if rounds else [])]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


class Collector:
    """The environments of some lanes, and where they are. Give it what a checkpoint held before the first step."""

    def __init__(self, task: Task, seeds: Sequence[int], observation_size: int, rounds: int = 0):
        """rounds: of fine-tuning before this one, whose episodes are not to be had again."""
        self.task, self.seeds, self.rounds = task, seeds, rounds
        self.steps = 0  # of each lane, all its episodes together
        self.episodes = [0] * len(seeds)  # number of the episode that each lane is in
        self.actions: list[list[np.ndarray]] = [[] for _ in seeds]  # of that episode so far
        self.observations = np.zeros((len(seeds), observation_size), np.float32)  # the latest
        self._rewards = np.zeros((len(seeds), 1), np.float32)
        self._environments: list[gymnasium.Env] = []

    @property
    def is_open(self) -> bool:
        """Whether there are environments."""
        return bool(self._environments)

    def open(self, alive: Bool[np.ndarray, " lanes"]) -> tuple[list[list[Step]], list[int]]:
        """Make the environments and bring each where its actions lead -> (the steps of the episodes that go on, by
        lane; the lanes in which they have led elsewhere than before).

        Raises: InputError where an environment cannot be made.
        """
        self._environments = [make_environment(self.task) for _ in self.seeds]
        steps: list[list[Step]] = [[] for _ in self.seeds]
        strayed = []
        with quiet_environments():
            for lane in np.flatnonzero(alive).tolist():
                before, actions = self.observations[lane].copy(), self.actions[lane]
                self._reset(lane)
                steps[lane] = [self._step(lane, action) for action in actions]
                if self.steps and not np.array_equal(before, self.observations[lane]):
                    strayed.append(lane)
        return steps, strayed

    def close(self) -> None:
        """End the environments."""
        for environment in self._environments:
            environment.close()
        self._environments = []

    def collect(self, actor: LaneActor, count: int, alive: Bool[np.ndarray, " lanes"]) -> list[list[Step]]:
        """`count` steps of every living lane, of which `actor` plays one episode each -> the steps, by lane. That of an
        episode ends with the first step that is not finite, and its lane with it."""
        found: list[list[Step]] = [[] for _ in self.seeds]
        running = alive.copy()
        with quiet_environments():
            for _ in range(count):
                seen = self.observations[:, None], self._rewards, running[:, None]
                actions = actor.act(*seen, self.steps)[:, 0]
                self.steps += 1
                for lane in np.flatnonzero(running).tolist():
                    step = self._step(lane, actions[lane])
                    found[lane].append(step)
                    running[lane] = step.is_finite
                    if step.over:
                        actor.forget(lane)
        return found

    def _step(self, lane: int, action: np.ndarray) -> Step:
        before = self.observations[lane].copy()
        self.actions[lane].append(action.copy())
        observation, reward, terminated, truncated, _ = self._environments[lane].step(action)
        paid, over = one_number(reward, self.task), bool(terminated or truncated)
        self.observations[lane], self._rewards[lane] = observation, paid
        step = Step(before, action.copy(), paid, self.observations[lane].copy(), bool(terminated), over)
        if over:
            self.episodes[lane] += 1
            self._reset(lane)
        return step

    def _reset(self, lane: int) -> None:
        seed = episode_seed(self.seeds[lane], self.episodes[lane], self.rounds)
        self.actions[lane] = []
        self.observations[lane], self._rewards[lane] = self._environments[lane].reset(seed=seed)[0], 0.0


@contextlib.contextmanager
def quiet_environments() -> Iterator[None]:
    """Inside, simulators do not speak."""
    with silent_mujoco(), warnings.catch_warnings():
        ignore_ogbench()
        yield
