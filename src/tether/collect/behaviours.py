"""What collects rows: uniform actions, a policy folder, a controller of the user's, the planner of mazes.

A behaviour turns a block's number into the rows of that block, from a seed of its own: nothing is carried over.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from tether.collect.environments import Place
from tether.collect.mazes import MAZE_ID, play_stream
from tether.collect.rows import Columns, Recorder
from tether.data.logs.columns import function_of
from tether.data.schema import ActionBox
from tether.environments.make import silent_mujoco
from tether.errors import InputError
from tether.policies.density import with_noise
from tether.policies.deployed import DeployedPolicy
from tether.policies.folder import load_policy
from tether.policies.loaded import LoadedPolicy

__all__ = [
    "PLANNER",
    "Behaviour",
    "Episode",
    "controlled",
    "play_episode",
    "random_actions",
    "rollouts_of",
]

PLANNER = "waypoints"

Act = Callable[[np.ndarray, float], np.ndarray]
"""(observation, last reward) -> action as the environment takes it."""
Episode = Callable[[gymnasium.Env, np.random.Generator], Act]
"""Called at the start of an episode -> what acts in it."""


class Behaviour(NamedTuple):
    """Who acts, and how a block of rows comes about."""

    record: dict[str, Any]  # JSON-able, for the provenance; "behaviour" in few words
    play: Callable[[gymnasium.Env, np.random.Generator], Columns]  # of which actions are numbers in [-1, 1]


def random_actions(place: Place) -> Behaviour:
    """Uniform in the box of the actions."""
    size = place.task.action_size

    def begin(environment: gymnasium.Env, random: np.random.Generator) -> Act:
        return lambda observation, reward: place.from_unit(random.uniform(-1.0, 1.0, size))

    return _episodes({"behaviour": "uniform random actions"}, place, begin)


def rollouts_of(folder: Path, place: Place, noise: bool) -> Behaviour:
    """A policy folder; `noise`: a Gaussian actor's draws in place of its mode (D4RL's way), where it has them.

    Raises InputError where the policy is of other sizes, and as `load_policy`.
    """
    policy = load_policy(folder)
    found, wanted = tuple(policy.spec[:2]), (place.task.observation_size, place.task.action_size)
    if found != wanted:
        raise InputError(
            f"{folder}: takes {found[0]} numbers, gives {found[1]}; {place.task.name} has {wanted[0]} and {wanted[1]}"
        )
    module, drawn = _within(policy.module, place), False
    if noise:
        module, drawn = with_noise(module)
    playing = LoadedPolicy(module, policy.document, policy.algorithm, framing=policy.framing)

    def begin(environment: gymnasium.Env, random: np.random.Generator) -> Act:
        playing.reseed(int(random.integers(2**31)))
        memory = playing.initial_memory()

        def act(observation: np.ndarray, reward: float) -> np.ndarray:
            nonlocal memory
            action, memory = playing.step(observation, memory, reward)
            return action

        return act

    document = policy.document
    record = {
        "behaviour": f"{document['algorithm']} policy" + (", with its noise" if drawn else ""),
        "policy": {"folder": str(folder), "sha256": document["sha256"], "notes": document["notes"]},
    }
    return _episodes(record, place, begin)


def _within(module: DeployedPolicy, place: Place) -> DeployedPolicy:
    """The policy with actions that the environment takes."""
    box = ActionBox(module.action_low, module.action_high).within(place.limits)
    return dataclasses.replace(module, action_low=box.low, action_high=box.high)


def controlled(text: str, place: Place) -> Behaviour:
    """A scripted controller: `waypoints`, or `module:function`.

    The function is called at the start of each episode with the environment and a NumPy generator, and returns what
    acts in it: a function of the observation that gives an action in the environment's own units.
    """
    if text == PLANNER:
        if place.task.gymnasium_id != MAZE_ID:
            raise InputError(f"--controller {PLANNER}: plans through maze2d's mazes, not in {place.task.name}")
        return Behaviour({"behaviour": "waypoint planner with noise, sub-goal after sub-goal"}, play_stream)
    if ":" not in text:
        raise InputError(f"--controller {text!r}: name a function as module:function, or {PLANNER} (maze2d)")
    function = function_of("--controller", text)

    def begin(environment: gymnasium.Env, random: np.random.Generator) -> Act:
        act = function(environment, random)
        if not callable(act):
            raise InputError(f"--controller {text}: gives {type(act).__name__} at an episode's start, not a function")
        return lambda observation, reward: place.checked(act(observation))

    return _episodes({"behaviour": f"controller {text}"}, place, begin)


def _episodes(record: dict[str, Any], place: Place, begin: Episode) -> Behaviour:
    return Behaviour(record, lambda environment, random: play_episode(environment, random, begin, place.to_unit))


def play_episode(
    environment: gymnasium.Env,
    random: np.random.Generator,
    begin: Episode,
    to_unit: Callable[[np.ndarray], np.ndarray],
) -> Columns:
    """One episode from a start that `random` draws."""
    recorder, reward, over = Recorder(), 0.0, False
    with silent_mujoco():
        observation, _ = environment.reset(seed=int(random.integers(2**31)))
        act = begin(environment, random)
        while not over:
            action = act(observation, float(reward))
            recorder.add(environment, observation, to_unit(action))
            observation, reward, terminated, truncated, info = environment.step(action)
            recorder.finish(observation, reward, terminated, truncated, info)
            over = terminated or truncated
    return recorder.columns()
