"""Which environment a data set is evaluated in."""

import dataclasses
from typing import NamedTuple

from tether.data import Dataset
from tether.data.schema import ActionBox, unit_box
from tether.environments.actions import action_limits
from tether.environments.ids import find_environment
from tether.environments.make import make_environment
from tether.environments.tasks import Task, find_task
from tether.errors import InputError
from tether.ranges import at_least, check_value

__all__ = ["NO_ENVIRONMENT", "Evaluated", "data_box", "known_task", "limits_of", "task_for"]


class Evaluated(NamedTuple):
    """Where policies are evaluated."""

    task: Task | None  # None: nowhere
    limits: ActionBox | None = None  # of its actions
    why_not: str = ""  # where nothing is evaluated
    note: str = ""  # what the user should know of how it is evaluated


def task_for(data: Dataset, environment: str | None, horizon: int | None = None) -> Evaluated:
    """The task to evaluate in and the actions that its environment takes, or why nothing is evaluated.

    environment: what the user asked for; None: what the data set's name or its record of collection says, as far as
    that can be made here. horizon: steps after which episodes are cut, where not as the environment says.
    Raises InputError where an environment was asked for that does not exist or cannot be made, or the data do not fit.
    """
    if horizon is not None:
        check_value("horizon", horizon, at_least(1, whole=True))
    if environment == NO_ENVIRONMENT:
        return Evaluated(None, why_not="as asked")
    try:
        task = known_task(data, environment, horizon)
        if task is None:
            return Evaluated(None, why_not="no environment is known for these data (see --environment)")
        made = make_environment(task)  # better now than at the first evaluation
    except InputError as error:
        if environment is not None:
            raise
        return Evaluated(None, why_not=str(error))
    made.close()
    found = data.observations.shape[1], data.actions.shape[1]
    wanted = tuple(space.shape[0] for space in (made.observation_space, made.action_space) if space.shape)
    if found != wanted:
        raise InputError(
            f"data set {data.name!r} has observations of size {found[0]} and actions of size {found[1]}, "
            f"environment {task.name!r} has {wanted[0]} and {wanted[1]}; name another with --environment, or none"
        )
    limits = action_limits(made)
    data_box(data).within(limits)  # which refuses ranges that have nothing in common
    from tether.environments.observations import unnamed_order  # training needs no simulator

    notes = [unnamed_order(made, task.observation_names), _assumed_unit(data, limits)]
    return Evaluated(task, limits, note="; ".join(f"environment {task.name}: {note}" for note in notes if note))


def _assumed_unit(data: Dataset, limits: ActionBox) -> str:
    """One line where the data do not say what their actions from -1 to 1 mean in an environment that takes others."""
    if data.schema is not None or limits.is_unit():
        return ""
    low, high = (", ".join(f"{bound:g}" for bound in bounds) for bounds in limits)
    return (
        f"the data state no range of actions, so theirs, from -1 to 1, are taken as its own; it takes {low} to {high} "
        "(state another range when importing: --action-low, --action-high)"
    )


def limits_of(task: Task) -> ActionBox:
    """The actions that the task's environment takes. Raises InputError where it cannot be made."""
    made = make_environment(task)
    made.close()
    return action_limits(made)


def data_box(data: Dataset) -> ActionBox:
    """The range of the data's actions in their own units: the schema's, or [-1, 1]."""
    return unit_box(data.actions.shape[1]) if data.schema is None else data.schema.box


def known_task(data: Dataset, environment: str | None, horizon: int | None = None) -> Task | None:
    """What `environment` means for these data: their own record of it, if it is the one; None: nothing is known."""
    recorded = data.recorded_in
    if recorded is not None and environment in (recorded.name, recorded.gymnasium_id):
        task = recorded
    elif environment is not None:
        task = find_environment(environment, horizon)
    else:
        task = find_task(data.name) or recorded
    if task is None:
        return None
    names = None if data.schema is None else dict(data.schema.observation)
    return dataclasses.replace(task, horizon=horizon or task.horizon, observation_names=names)


NO_ENVIRONMENT = "none"
