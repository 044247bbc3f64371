"""Which environment a data set is evaluated in."""

from tether.data import Dataset
from tether.environments.ids import find_environment
from tether.environments.make import make_environment
from tether.environments.tasks import Task, find_task
from tether.errors import InputError

__all__ = ["NO_ENVIRONMENT", "known_task", "task_for"]


def task_for(data: Dataset, environment: str | None) -> tuple[Task | None, str]:
    """(the task to evaluate in, "") or (None, why nothing is evaluated).

    environment: what the user asked for; None: what the data set's name or its record of collection says, as far as
    that can be made here.
    Raises InputError where an environment was asked for that does not exist or cannot be made, or the data do not fit.
    """
    if environment == NO_ENVIRONMENT:
        return None, "as asked"
    try:
        task = known_task(data, environment)
        if task is None:
            return None, "no environment is known for these data (see --environment)"
        made = make_environment(task)  # better now than at the first evaluation
    except InputError as error:
        if environment is not None:
            raise
        return None, str(error)
    made.close()
    found = data.observations.shape[1], data.actions.shape[1]
    wanted = tuple(space.shape[0] for space in (made.observation_space, made.action_space) if space.shape)
    if found != wanted:
        raise InputError(
            f"data set {data.name!r} has observations of size {found[0]} and actions of size {found[1]}, "
            f"environment {task.name!r} has {wanted[0]} and {wanted[1]}; name another with --environment, or none"
        )
    return task, ""


def known_task(data: Dataset, environment: str | None) -> Task | None:
    """What `environment` means for these data: their own record of it, if it is the one; None: nothing is known."""
    recorded = data.recorded_in
    if recorded is not None and environment in (recorded.name, recorded.gymnasium_id):
        return recorded
    if environment is not None:
        return find_environment(environment)
    return find_task(data.name) or recorded


NO_ENVIRONMENT = "none"
