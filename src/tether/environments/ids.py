"""Environments that the task table does not have: any gymnasium id with vectors in and a bounded Box of actions."""

import dataclasses
import difflib
import importlib

from tether.environments.make import OWN_MODULES, check_imported, make_environment
from tether.environments.names import is_single_task
from tether.environments.tasks import ENVIRONMENTS, TASKS, Task, find_task, single_task
from tether.errors import InputError
from tether.machine.plugins import load_plugins

__all__ = ["find_environment", "import_environment", "task_of_id"]


def import_environment(name: str | None) -> None:
    """Import the module of an id `module:id` that the user has named, also from the working folder.

    Processes that this one begins import it, too. Never for an id that was found in a file. Raises InputError.
    """
    module, colon, _ = (name or "").rpartition(":")
    if colon and module not in OWN_MODULES:
        try:
            load_plugins([module])
        except InputError as error:
            raise InputError(f"environment {name}: {error}") from None


def find_environment(name: str, horizon: int | None = None) -> Task:
    """The task called `name`, that of the D4RL data set called so, or one made up for the gymnasium id `name`.

    horizon: steps after which its episodes are cut, where not as the task or id says.
    Raises InputError: there is none, its module is not imported (`import_environment`), or it cannot be made here.
    """
    task = find_task(name)
    if task is None:
        return task_of_id(name, horizon)
    return task if horizon is None else dataclasses.replace(task, horizon=horizon)


def task_of_id(name: str, horizon: int | None = None) -> Task:
    """A row for a gymnasium id: without data sets and references, so scored by its returns; single tasks of OGBench by
    success, as there.

    horizon: steps until a time-out, for ids that register none.
    Raises InputError: no such id; no time limit; not installed; actions or observations that tether has no use for.
    """
    try:  # here, as training and policies work without any simulator
        import gymnasium

        from tether.environments.observations import space_size
        from tether.environments.robotics import know_robotics
    except ImportError as error:
        raise InputError(f"environment {name}: {error}") from None
    know_robotics(name)
    if ":" not in name and name not in gymnasium.registry:
        near = difflib.get_close_matches(name, [*TASKS, *ENVIRONMENTS, *gymnasium.registry], n=3, cutoff=0.4)
        known = f"did you mean {', '.join(near)}?" if near else f"tasks: {', '.join(TASKS)} (`tether tasks`)"
        raise InputError(
            f"unknown environment {name!r}; {known}; besides, {len(gymnasium.registry):,} ids of gymnasium, or one "
            f"that a module of yours registers: MODULE:{name}, or --plugin MODULE"
        )
    check_imported(name)
    module, _, bare = name.rpartition(":")
    try:
        if module:  # `gymnasium.make` imports it, `gymnasium.spec` does not
            importlib.import_module(module)
        registered = gymnasium.spec(bare).max_episode_steps
    except (gymnasium.error.Error, ImportError) as error:
        raise InputError(f"environment {name}: {' '.join(str(error).split())}") from None
    if horizon is None and registered is None:
        raise InputError(f"environment {name} has no time limit; say where its episodes are cut: --horizon N")
    task = Task(name, 0, 0, horizon=horizon or registered, gymnasium_id=name)
    environment = make_environment(task)
    sizes = space_size(environment.observation_space), space_size(environment.action_space)
    environment.close()
    if module == "ogbench" and is_single_task(bare):
        return single_task(name, sizes, task.horizon)
    return dataclasses.replace(task, observation_size=sizes[0], action_size=sizes[1])
