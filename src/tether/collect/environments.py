"""Which environment data are collected in: a task of tether's table or any gymnasium id with a Box action space."""

import json
import re
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from tether.data.schema import ActionBox, Layout, Schema, join, layout_of
from tether.data.tables import natural
from tether.environments import TASKS, Task
from tether.errors import InputError, unknown
from tether.evaluation.rollout import make_environment

__all__ = ["Place", "find_place"]


class Place(NamedTuple):
    """An environment that data are collected in."""

    task: Task  # a row of the table, or one made up for the gymnasium id: without references
    label: str  # what files are called after: halfcheetah, pendulum-v1
    schema: Schema | None  # names of a dictionary's entries, the range of the actions; None: a vector, [-1, 1]
    spaces: dict[str, Any]  # observation_space and action_space as JSON, in Minari's words, and env_spec where known

    def open(self) -> gymnasium.Env:
        """A new environment that observes float vectors and is acted in by numbers in [-1, 1]."""
        environment = make_environment(self.task)
        return environment if self.schema is None else _Flat(environment, self.schema.observation)

    def score(self, returns: Any) -> np.ndarray:
        """What levels are measured in: normalised scores where the task has references, else the returns."""
        return self.task.normalized_score(returns) if self.has_references else np.asarray(returns, np.float64)

    @property
    def has_references(self) -> bool:
        """Whether scores are normalised."""
        return self.task.reference_min is not None

    def to_unit(self, action: Any) -> np.ndarray:
        """The environment's own action as numbers in [-1, 1], float32."""
        action = np.asarray(action, np.float64).reshape(1, -1)
        if action.shape[1] != self.task.action_size or not np.isfinite(action).all():
            raise InputError(f"controller: action {action[0]}: {self.task.action_size} finite numbers are needed")
        box = None if self.schema is None else self.schema.box
        return np.clip(action, -1, 1).astype(np.float32)[0] if box is None else box.to_unit(action)[0]


def find_place(name: str, horizon: int | None = None) -> Place:
    """The environment called `name`: a task (`tether tasks`) or a gymnasium id, of which some are a task's.

    horizon: steps until a time-out, for ids that register none.
    Raises InputError: no such environment; not installed; no bounded Box of actions; observations that are no vectors.
    """
    task = TASKS.get(name) or next((t for t in TASKS.values() if t.gymnasium_id == name and not t.options), None)
    label = name if task is None else task.name
    if task is None:
        task = _task_of_id(name, horizon)
    elif horizon is not None:
        task = replace(task, horizon=horizon)
    environment = make_environment(task)
    try:
        plain = _before_scaling(environment)
        schema = _schema(plain)
        observation = environment if schema is None else _Flat(environment, schema.observation)
        sizes = _size(observation.observation_space), _size(environment.action_space)
        task = replace(task, observation_size=sizes[0], action_size=sizes[1])
        spaces = {
            "observation_space": json.dumps(_space(plain.observation_space, np.float32)),
            "action_space": json.dumps(_space(plain.action_space)),
        }
        spaces |= _spec(environment)
    finally:
        environment.close()
    return Place(task, re.sub(r"[^a-z0-9.]+", "-", label.lower()), schema, spaces)


def _task_of_id(name: str, horizon: int | None) -> Task:
    """A row for an id that the table does not have: no references, no data sets."""
    if ":" not in name and name not in gymnasium.registry:
        known = [*TASKS, *gymnasium.registry]
        raise unknown("environment", name, known)
    try:
        registered = gymnasium.spec(name).max_episode_steps
    except (gymnasium.error.Error, ImportError) as error:
        raise InputError(f"environment {name}: {' '.join(str(error).split())}") from None
    if horizon is None and registered is None:
        raise InputError(f"environment {name} has no time limit; say where its episodes are cut: --horizon N")
    try:
        task = Task(name, 0, 0, horizon=horizon or registered, gymnasium_id=name)
        make_environment(task).close()
    except InputError:
        raise
    # Whatever the environment's own package meets: a missing dependency, a display, a file.
    except Exception as error:
        raise InputError(f"environment {name}: {type(error).__name__} {' '.join(str(error).split())}") from None
    return task


class _Flat(gymnasium.ObservationWrapper):
    """Vectors in place of dictionaries, in the order of `layout`; other vectors as they are."""

    def __init__(self, environment: gymnasium.Env, layout: Layout):
        super().__init__(environment)
        self.layout = layout
        size = max(stop for _, stop in layout.values())
        self.is_dictionary = isinstance(environment.observation_space, gymnasium.spaces.Dict)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        """float32."""
        return join(self.layout, observation) if self.is_dictionary else np.ravel(observation).astype(np.float32)


def _before_scaling(environment: gymnasium.Env) -> gymnasium.Env:
    """Without the wrapper that makes actions [-1, 1]."""
    from tether.environments.actions import UnitActions

    return environment.env if isinstance(environment, UnitActions) else environment


def _schema(environment: gymnasium.Env) -> Schema | None:
    """Needed where observations are dictionaries or of several axes, or the actions' box is not [-1, 1]."""
    space, box = environment.observation_space, environment.action_space
    assert isinstance(box, gymnasium.spaces.Box)  # `unit_actions` has refused others
    if len(box.shape) != 1:
        raise InputError(f"{environment}: its actions have shape {box.shape}; vectors are needed")
    limits = ActionBox(tuple(box.low.astype(float).tolist()), tuple(box.high.astype(float).tolist()))
    plain = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1
    if plain and limits.is_unit():
        return None
    return Schema(layout_of(_sizes(space, "")), layout_of({"action": len(limits.low)}), limits)


def _sizes(space: gymnasium.Space, name: str) -> dict[str, int]:
    """Entry -> how many numbers, entries of a dictionary in natural order, as the reader of Minari has them."""
    if isinstance(space, gymnasium.spaces.Dict):
        names = sorted(space.spaces, key=natural)
        parts = [_sizes(space.spaces[key], f"{name}/{key}" if name else key) for key in names]
        return {key: size for part in parts for key, size in part.items()}
    if not isinstance(space, gymnasium.spaces.Box) or (len(space.shape) > 2 and space.dtype == np.uint8):
        raise InputError(f"observations {name or 'of this environment'} are {space}; vectors of numbers are needed")
    return {name or "observation": _size(space)}


def _size(space: Any) -> int:
    if not isinstance(space, gymnasium.spaces.Box) or (len(space.shape) > 2 and space.dtype == np.uint8):
        raise InputError(f"observations are {space}; vectors of numbers are needed")
    return int(np.prod(space.shape, dtype=np.int64))


def _space(space: Any, dtype: Any = None) -> dict[str, Any]:
    """A space as Minari writes it; `dtype`: as the numbers are stored."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {"type": "Dict", "subspaces": {key: _space(part, dtype) for key, part in space.spaces.items()}}
    return {
        "type": "Box",
        "dtype": str(np.dtype(dtype or space.dtype)),
        "shape": [_size(space)] if len(space.shape) > 1 else list(space.shape),  # matrices are stored as rows
        "low": np.ravel(space.low).tolist() if space.shape else space.low.tolist(),
        "high": np.ravel(space.high).tolist() if space.shape else space.high.tolist(),
    }


def _spec(environment: gymnasium.Env) -> dict[str, str]:
    """The gymnasium specification without tether's wrapper; nothing for what only this process can make."""
    spec = _before_scaling(environment).spec or environment.spec
    try:
        return {} if spec is None else {"env_spec": spec.to_json()}
    except ValueError:
        return {}
