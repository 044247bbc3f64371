"""From a task to an environment that observes vectors."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tether.environments.tasks import Task
from tether.errors import InputError

if TYPE_CHECKING:
    import gymnasium  # imported where an environment is made: training and policies work without any simulator

__all__ = ["bare_environment", "check_imported", "ignore_ogbench", "make_environment", "silent_mujoco"]

OWN_MODULES = ("ogbench",)  # which `tether` itself names in ids


def make_environment(task: Task) -> "gymnasium.Env":
    """The environment that `task` is scored on: it observes vectors and takes actions as it defines them.

    Raises InputError where there is none, what it needs is not installed, or its actions are no vectors.
    """
    environment = bare_environment(task)
    from tether.environments.actions import action_limits
    from tether.environments.observations import flat_observations

    action_limits(environment)  # refuses what is no vector of numbers
    return flat_observations(environment, task.observation_names)


def check_imported(name: str) -> None:
    """Refuse an id `module:id` whose module is not imported: gymnasium would import it, and the id may be a file's."""
    module, colon, _ = name.rpartition(":")
    if colon and module not in OWN_MODULES and module not in sys.modules:
        raise InputError(
            f"environment {name}: a module that a file names is not imported; say --plugin {module}, or name the "
            f"environment yourself: --environment {name}"
        )


def bare_environment(task: Task) -> "gymnasium.Env":
    """The same as gymnasium makes it, with its own observations and actions."""
    if task.gymnasium_id is None:
        raise InputError(f"task {task.name!r} cannot be evaluated: {task.unavailable}")
    check_imported(task.gymnasium_id)
    try:
        import gymnasium

        import tether.environments.registry  # noqa: F401  (so that gymnasium knows tether/...)
        from tether.environments.robotics import know_robotics

        know_robotics(task.gymnasium_id)
        with warnings.catch_warnings(), silent_mujoco():
            ignore_ogbench()
            # gymnasium says at each construction that -v4 is out of date, which it is not for D4RL scores.
            warnings.simplefilter("ignore", DeprecationWarning)
            horizon = {"max_episode_steps": task.horizon, "disable_env_checker": True}
            made = gymnasium.make(task.gymnasium_id, **horizon, **task.options)
            if isinstance(made, gymnasium.Wrapper):  # asked once: OGBench's arms compute their spaces by a reset
                made.observation_space, made.action_space = made.observation_space, made.action_space
            return made
    except InputError:
        raise
    # Whatever a simulator's own package meets: a missing dependency, a display, a file.
    except Exception as error:
        reason = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise InputError(f"environment {task.name}: {reason}{_whose(task.gymnasium_id, error)}") from error


def _whose(name: str, error: Exception) -> str:
    """What to do about an id that nobody has registered."""
    if type(error).__name__ not in ("NameNotFound", "NamespaceNotFound", "VersionNotFound") or ":" in name:
        return ""
    return f" (if a module of yours registers it: --plugin MODULE, or --environment MODULE:{name})"


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


def ignore_ogbench() -> None:
    """Until the surrounding `catch_warnings` ends: OGBench's arms miss a display that they do not need, and round the
    bounds of their actions at every reset."""
    for message in (".*precision lowered by casting to float32", ".*DISPLAY environment variable is missing"):
        warnings.filterwarnings("ignore", message, UserWarning)
