"""Which environment data are collected in: a task of tether's table or any gymnasium id with a Box action space."""

import json
import re
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from tether.data.schema import ActionBox, Schema, inner_float32, layout_of, size_of
from tether.environments import TASKS, Task
from tether.environments.actions import bounded_limits
from tether.environments.ids import import_environment, task_of_id
from tether.environments.make import bare_environment, make_environment
from tether.environments.observations import observation_layout, space_size
from tether.errors import InputError

__all__ = ["Place", "find_place"]


class Place(NamedTuple):
    """An environment that data are collected in."""

    task: Task  # a row of the table, or one made up for the gymnasium id: without references
    label: str  # what files are called after: halfcheetah, pendulum-v1
    schema: Schema | None  # names of a dictionary's entries, the range of the actions; None: a vector, [-1, 1]
    limits: ActionBox  # of the actions
    spaces: dict[str, Any]  # observation_space and action_space as JSON, in Minari's words, and env_spec where known

    def open(self) -> gymnasium.Env:
        """A new environment that observes float vectors and takes actions as it defines them."""
        return make_environment(self.task)

    def from_unit(self, action: np.ndarray) -> np.ndarray:
        """Numbers in [-1, 1], which behaviours that explore give, as an action of the environment, float32."""
        return self.limits.from_unit(action)

    def to_unit(self, action: np.ndarray) -> np.ndarray:
        """The environment's own action as the numbers in [-1, 1] that data sets hold, float32."""
        return self.limits.to_unit(action[None])[0]

    def checked(self, action: Any) -> np.ndarray:
        """A controller's action within the limits, float32. Raises InputError for what is none."""
        try:
            action = np.asarray(action, np.float32).reshape(-1)
        except (TypeError, ValueError):
            raise InputError(f"controller: action {action!r}: not an array of numbers") from None
        if len(action) != self.task.action_size or not np.isfinite(action).all():
            raise InputError(f"controller: action {action}: {self.task.action_size} finite numbers are needed")
        return np.clip(action, *inner_float32(self.limits.low, self.limits.high))


def find_place(name: str, horizon: int | None = None) -> Place:
    """The environment called `name`: a task (`tether tasks`) or a gymnasium id, of which some are a task's.

    horizon: steps until a time-out, for ids that register none.
    Raises InputError: no such environment; not installed; no bounded Box of actions; observations that are no vectors.
    """
    task = TASKS.get(name) or next((t for t in TASKS.values() if t.gymnasium_id == name and not t.options), None)
    label = name if task is None else task.name
    if task is None:
        import_environment(name)  # the user names it, not a file
        task = task_of_id(name, horizon)
    elif horizon is not None:
        task = replace(task, horizon=horizon)
    make_environment(task).close()  # which refuses what is no vector
    bare = bare_environment(task)
    try:
        schema, limits = _schema(bare), bounded_limits(bare)
        sizes = space_size(bare.observation_space) if schema is None else size_of(schema.observation)
        spaces = {
            "observation_space": json.dumps(_space(bare.observation_space, np.float32)),
            "action_space": json.dumps(_space(bare.action_space)),
        }
        spaces |= _spec(bare)
    finally:
        bare.close()
    task = replace(task, observation_size=sizes, action_size=space_size(bare.action_space))
    return Place(task, re.sub(r"[^a-z0-9.]+", "-", label.lower()), schema, limits, spaces)


def _schema(environment: gymnasium.Env) -> Schema | None:
    """Needed where observations are dictionaries or of several axes, or the actions' box is not [-1, 1]."""
    space, limits = environment.observation_space, bounded_limits(environment)
    plain = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1
    if plain and limits.is_unit():
        return None
    return Schema(observation_layout(space), layout_of({"action": len(limits.low)}), limits)


def _space(space: Any, dtype: Any = None) -> dict[str, Any]:
    """A space as Minari writes it; `dtype`: as the numbers are stored."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {"type": "Dict", "subspaces": {key: _space(part, dtype) for key, part in space.spaces.items()}}
    return {
        "type": "Box",
        "dtype": str(np.dtype(dtype or space.dtype)),
        "shape": [space_size(space)] if len(space.shape) > 1 else list(space.shape),  # matrices are stored as rows
        "low": np.ravel(space.low).tolist() if space.shape else space.low.tolist(),
        "high": np.ravel(space.high).tolist() if space.shape else space.high.tolist(),
    }


def _spec(environment: gymnasium.Env) -> dict[str, str]:
    """The gymnasium specification; nothing for what only this process can make."""
    try:
        return {} if environment.spec is None else {"env_spec": environment.spec.to_json()}
    except ValueError:
        return {}
