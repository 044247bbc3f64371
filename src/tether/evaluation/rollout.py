"""Episodes in a gymnasium environment: all lanes and episodes advance together, one policy call per step.

Episode i of a lane has a start and random numbers of its own, which depend on the lane's key and i alone, and an
action is computed by the same instructions whoever acts beside it. So on a CPU an episode is the same bit for bit in
whatever company it is played: all lanes at once, or a part of them in another process (`evaluation/pool.py`). On
an accelerator episodes act as a batch, whose size leaves the last bits of a matmul open.
"""

import contextlib
import functools
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tether.environments import Task
from tether.environments.make import ignore_ogbench, make_environment, silent_mujoco
from tether.errors import InputError, shortened
from tether.machine.memory import release_freed_memory
from tether.policies.deployed import DeployedPolicy
from tether.types import Array, Bool, Float, Int, Key

if TYPE_CHECKING:
    import gymnasium  # imported where an environment is made: training and policies work without any simulator

__all__ = [
    "FIRST_EVALUATION_SEED",
    "Actor",
    "Episodes",
    "LaneActor",
    "episode_keys",
    "one_number",
    "rollout",
    "seconds_per_step",
]

ENVIRONMENTS_AT_ONCE = 32  # where a CPU acts: one of OGBench's arms takes 150 MB
FIRST_EVALUATION_SEED = 100  # episode i starts from reset(seed=100 + i), in every lane and every evaluation


class Episodes(NamedTuple):
    """Outcomes, (lanes, episodes) each."""

    # undiscounted sums of the environment's own rewards, or 1 for a success (`Task.success_is_return`)
    returns: Float[np.ndarray, "lanes episodes"]
    lengths: Int[np.ndarray, "lanes episodes"]  # steps


def rollout(
    policies: DeployedPolicy,
    task: Task,
    episodes: int,
    keys: Key[Array, " lanes"],
    on_step: Callable[[int, int], None] = lambda done, total: None,
    *,
    first: int = 0,
    device: Any = None,
    actor: "Actor | None" = None,
    make: "Callable[[Task], gymnasium.Env] | None" = None,
) -> Episodes:
    """Episodes number first .. first+episodes-1 of every lane's policy.

    policies: leading axis `lanes` on every array.
    keys: one per lane, consumed.
    on_step: called with (steps done, most steps) of some or all episodes after each step; may raise to stop.
    device: where policies act; None: where JAX computes by default.
    actor: acts in the place of `policies`, such as what was exported of them.
    make: makes an environment in the place of `make_environment`, such as one that is filmed.

    Every environment plays one episode and is then left alone. Each lane meets the same starts (common random
    numbers), which takes noise out of comparisons between lanes; lanes with the same key also act with the same noise.
    Where a CPU acts, for which company changes nothing, some episodes follow the others, so that memory suffices.
    """
    lanes, numbers = len(keys), np.arange(first, first + episodes)
    parts = -(-episodes // max(1, ENVIRONMENTS_AT_ONCE // lanes))
    if parts > 1 and actor is None and (device or next(iter(keys.devices()))).platform == "cpu":
        shares = [range(part[0], part[-1] + 1) for part in np.array_split(numbers, parts)]
        how: dict[str, Any] = {"device": device, "make": make}
        played = [rollout(policies, task, len(part), keys, on_step, first=part.start, **how) for part in shares]
        return Episodes(*(np.concatenate(arrays, axis=1) for arrays in zip(*played, strict=True)))
    with contextlib.ExitStack() as stack:
        environments = [
            stack.enter_context(contextlib.closing((make or make_environment)(task))) for _ in range(lanes * episodes)
        ]
        stack.enter_context(silent_mujoco())
        stack.enter_context(warnings.catch_warnings())
        ignore_ogbench()
        seeds = np.tile(FIRST_EVALUATION_SEED + numbers, lanes).tolist()
        starts = [env.reset(seed=seed)[0] for env, seed in zip(environments, seeds, strict=True)]
        observations = np.stack(starts).astype(np.float32)
        actor = actor or LaneActor(policies, keys, numbers, device)
        rewards = np.zeros(len(environments), np.float32)
        returns = np.zeros(len(environments))
        lengths = np.zeros(len(environments), np.int64)
        running = np.ones(len(environments), bool)
        step, horizon = 0, task.horizon or 1
        while running.any():
            seen = [array.reshape(lanes, episodes, *array.shape[1:]) for array in (observations, rewards, running)]
            actions = actor.act(seen[0], seen[1], seen[2], step).reshape(len(environments), -1)
            for i in np.flatnonzero(running):
                observation, reward, terminated, truncated, info = environments[i].step(actions[i])
                reward = one_number(reward, task)
                observations[i], rewards[i] = observation, reward
                lengths[i] += 1
                if not task.success_is_return:
                    returns[i] += reward
                elif terminated or truncated:
                    returns[i] = float(info["success"])
                running[i] = not (terminated or truncated)
            step += 1
            on_step(step, horizon)
    del environments
    release_freed_memory()  # of which simulators leave pieces: a run grew by 0.8 GB with every 50 episodes of an arm's
    return Episodes(returns.reshape(lanes, episodes), lengths.reshape(lanes, episodes))


def one_number(reward: Any, task: Task) -> float:
    """Environments that people write give arrays of one number, too."""
    if isinstance(reward, float):
        return reward
    number = np.asarray(reward)
    if number.size != 1 or number.dtype.kind not in "fiub":
        raise InputError(f"environment {task.name}: step gives the reward {shortened(repr(reward))}; needs one number")
    return float(number.item())


def seconds_per_step(
    policies: DeployedPolicy, episodes: int, keys: Key[Array, " lanes"], device: Any, calls: int = 5
) -> float:
    """How long one step of so many episodes of every lane waits for its actions on `device`: the fastest of a few
    calls, the way of observations and actions to and from the device included, compilation not."""
    actor = LaneActor(policies, keys, np.arange(episodes), device)
    observations = np.zeros((len(keys), episodes, policies.observation_mean.shape[-1]), np.float32)
    rewards, seconds = np.zeros((len(keys), episodes), np.float32), []
    for step in range(1 + calls):
        started = time.perf_counter()
        actor.act(observations, rewards, np.ones(rewards.shape, bool), step)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


class Actor(Protocol):
    """Who acts in the episodes of a rollout."""

    def act(self, observations: np.ndarray, rewards: np.ndarray, running: np.ndarray, step: int) -> np.ndarray:
        """Actions (lanes, episodes, action), those of episodes that are not `running` mean nothing.

        step: of the episodes, from 0.
        """
        ...


class LaneActor:
    """The policies of some lanes, acting in some episodes each."""

    def __init__(self, policies: DeployedPolicy, keys: Any, numbers: np.ndarray, device: Any):
        self._device = device
        self._policies = jax.device_put(policies, device)
        self._keys = jax.device_put(episode_keys(keys, numbers), device)
        self._fresh = self.memories = jax.device_put(_initial_memories(self._policies, len(numbers)), device)
        self._batched = next(iter(self._keys.devices())).platform != "cpu"

    def act(self, observations: np.ndarray, rewards: np.ndarray, running: np.ndarray, step: int) -> np.ndarray:
        """As of `Actor`."""
        seen = observations, self.memories, rewards, running
        actions, self.memories = _act(self._policies, *seen, self._keys, np.int32(step), batched=self._batched)
        return np.asarray(actions)

    def follow(self, policies: DeployedPolicy) -> None:
        """Act by other policies of the same form from here on."""
        self._policies = jax.device_put(policies, self._device)

    def forget(self, lane: int) -> None:
        """Begin the episodes of a lane anew."""
        self.memories = jax.tree.map(lambda kept, new: kept.at[lane].set(new[lane]), self.memories, self._fresh)


@jax.jit
def episode_keys(keys: Key[Array, " lanes"], numbers: Int[Array, " episodes"]) -> Key[Array, "lanes episodes"]:
    """A key for each episode; folded with the number of a step, that of its decision."""
    return jax.vmap(lambda key: jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers))(keys)


def _initial_memories(policies: DeployedPolicy, episodes: int) -> Any:
    """Leading axes `lanes` and `episodes`."""

    def one_lane(policy: DeployedPolicy) -> Any:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (episodes, *leaf.shape)), policy.initial_memory())

    return jax.vmap(one_lane)(policies)


@functools.partial(jax.jit, static_argnames="batched")
def _act(
    policies: DeployedPolicy,
    observations: Float[Array, "lanes episodes observation"],
    memories: Any,
    rewards: Float[Array, "lanes episodes"],
    running: Bool[Array, "lanes episodes"],
    keys: Key[Array, "lanes episodes"],
    step: Int[Array, ""],
    *,
    batched: bool,
) -> tuple[Float[Array, "lanes episodes action"], Any]:
    """Actions and memories of all lanes and episodes. `batched`: the episodes of a lane act together; otherwise one
    after the other, as one already fills a CPU with its candidates, and those that are over cost nothing."""

    def one_lane(lane: Any) -> Any:
        policy, keys, *rows, running = lane
        keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)

        def one(row: Any) -> Any:
            key, observation, memory, reward = row
            return policy.step(observation, key, memory, reward)

        rows = keys, *rows
        return jax.vmap(one)(rows) if batched else _one_by_one(one, rows, running)

    lanes = policies, keys, observations, memories, rewards, running
    return _one_by_one(one_lane, lanes, running.any(axis=1))


def _one_by_one(function: Callable[[Any], Any], rows: Any, wanted: Bool[Array, " rows"]) -> Any:
    """`function` of each row that is wanted, zeros for the others.

    The branch also keeps the compiler from fusing the function with what is around it, which would change its last
    bits where there is one row only and no loop is left.
    """

    def one(row: Any) -> Any:
        wanted, row = row

        def nothing(row: Any) -> Any:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, row))

        return jax.lax.cond(wanted, function, nothing, row)

    return jax.lax.map(one, (wanted, rows))
