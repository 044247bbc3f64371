"""Episodes in a gymnasium environment: all lanes and episodes advance together, one policy call per step."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.environments import Task
from tether.errors import InputError
from tether.policy import DeployedPolicy, step_each
from tether.types import Array, Float, Int, Key

if TYPE_CHECKING:
    import gymnasium  # imported where an environment is made: training and policies work without any simulator

__all__ = ["FIRST_EVALUATION_SEED", "Episodes", "bare_environment", "make_environment", "rollout", "silent_mujoco"]

FIRST_EVALUATION_SEED = 100  # episode i starts from reset(seed=100 + i), in every lane and every evaluation


class Episodes(NamedTuple):
    """Outcomes, (lanes, episodes) each."""

    returns: Float[np.ndarray, "lanes episodes"]  # undiscounted sums of the environment's own rewards
    lengths: Int[np.ndarray, "lanes episodes"]  # steps


def make_environment(task: Task) -> "gymnasium.Env":
    """The environment that `task` is scored on: it observes vectors and is acted in by numbers in [-1, 1].

    Raises InputError where there is none, or what it needs is not installed.
    """
    environment = bare_environment(task)
    from tether.environments.actions import unit_actions
    from tether.environments.observations import flat_observations

    return unit_actions(flat_observations(environment))


def bare_environment(task: Task) -> "gymnasium.Env":
    """The same as gymnasium makes it, with its own observations and actions."""
    if task.gymnasium_id is None:
        raise InputError(f"task {task.name!r} cannot be evaluated: {task.unavailable}")
    try:
        import gymnasium

        import tether.environments.registry  # noqa: F401  (so that gymnasium knows tether/...)
        from tether.environments.robotics import know_robotics

        know_robotics(task.gymnasium_id)
        with warnings.catch_warnings(), silent_mujoco():
            # gymnasium says at each construction that -v4 is out of date, which it is not for D4RL scores.
            warnings.simplefilter("ignore", DeprecationWarning)
            horizon = {"max_episode_steps": task.horizon, "disable_env_checker": True}
            return gymnasium.make(task.gymnasium_id, **horizon, **task.options)
    except InputError:
        raise
    # Whatever a simulator's own package meets: a missing dependency, a display, a file.
    except Exception as error:
        reason = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise InputError(f"environment {task.name}: {reason}") from error


def rollout(
    policies: DeployedPolicy,
    task: Task,
    episodes: int,
    keys: Key[Array, " lanes"],
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Episodes:
    """`episodes` episodes of every lane's policy.

    policies: leading axis `lanes` on every array.
    keys: one per lane, consumed.
    on_step: called with (steps done, most steps) after each step; may raise to stop.

    Every environment plays one episode and is then left alone; its rows of the batched policy call are
    ignored until the last one ends. Each lane meets the same starts (common random numbers), which takes
    noise out of comparisons between lanes.
    """
    lanes = len(keys)
    with contextlib.ExitStack() as stack:
        environments = [
            stack.enter_context(contextlib.closing(make_environment(task))) for _ in range(lanes * episodes)
        ]
        stack.enter_context(silent_mujoco())
        starts = [env.reset(seed=FIRST_EVALUATION_SEED + i % episodes)[0] for i, env in enumerate(environments)]
        observations = np.stack(starts).astype(np.float32)
        memories, rewards = _initial_memories(policies, episodes), np.zeros(len(environments), np.float32)
        returns = np.zeros(len(environments))
        lengths = np.zeros(len(environments), np.int64)
        running = np.ones(len(environments), bool)
        step, horizon = 0, task.horizon or 1
        while running.any():
            seen = observations.reshape(lanes, episodes, -1), memories, rewards.reshape(lanes, episodes)
            actions, memories, keys = _act(policies, *seen, keys)
            actions = np.asarray(actions).reshape(len(environments), -1)
            for i in np.flatnonzero(running):
                observation, reward, terminated, truncated, _ = environments[i].step(actions[i])
                observations[i], rewards[i] = observation, reward
                returns[i] += float(reward)
                lengths[i] += 1
                running[i] = not (terminated or truncated)
            step += 1
            on_step(step, horizon)
    return Episodes(returns.reshape(lanes, episodes), lengths.reshape(lanes, episodes))


def _initial_memories(policies: DeployedPolicy, episodes: int) -> Any:
    """Leading axes `lanes` and `episodes`."""

    def one_lane(policy: DeployedPolicy) -> Any:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (episodes, *leaf.shape)), policy.initial_memory())

    return jax.vmap(one_lane)(policies)


@jax.jit
def _act(
    policies: DeployedPolicy, observations: Any, memories: Any, rewards: Any, keys: Key[Array, " lanes"]
) -> tuple[Float[Array, "lanes episodes action"], Any, Key[Array, " lanes"]]:
    """Actions and memories of all lanes and episodes, and the next keys."""

    def one_lane(lane):
        policy, observations, memories, rewards, key = lane
        next_key, key = jax.random.split(key)
        keys = jax.random.split(key, observations.shape[0])
        return *step_each(policy, observations, keys, memories, rewards), next_key

    return jax.lax.map(one_lane, (policies, observations, memories, rewards, keys))


@contextlib.contextmanager
def silent_mujoco() -> Iterator[None]:
    """MuJoCo warns on stderr and into a file in the working folder: of an attribute in gymnasium's model files,
    and of unstable simulations when a policy sends numbers that are not finite (the return tells that, too)."""
    import mujoco

    # Made by MuJoCo's C bindings, so type checkers do not see it.
    set_handler = mujoco.set_mju_user_warning  # pyright: ignore[reportAttributeAccessIssue]
    set_handler(lambda message: None)
    try:
        yield
    finally:
        set_handler(None)
