"""The task table: data-set name -> environment, horizon, reference scores (from `reference_scores.toml`)."""

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tether.environments.names import is_single_task, without_version
from tether.errors import InputError, unknown
from tether.machine.registry import Registry, registry

__all__ = ["TASKS", "Task", "d4rl_datasets", "find_task", "get_task", "recorded_task", "single_task"]


@dataclass(frozen=True)
class Task:
    """An environment as D4RL scores it.

    Attributes:
        name: the environment in D4RL's spelling, e.g. `hopper`; with the version if references vary.
        observation_size, action_size: numbers in one observation and one action.
        datasets: the data sets recorded in it, e.g. D4RL's `hopper-medium-v2`: such names are found to be of this task.
        horizon: steps until a time-out; None where it is not known.
        gymnasium_id: what to evaluate on; None where there is nothing, for the reason `unavailable`.
        options: what `gymnasium.make` is given with it.
        extra: the extra of tether-rl that it needs (`pip install "tether-rl[robotics]"`); empty if none.
        unavailable: why there is no `gymnasium_id`; empty where there is one.
        recorded_returns: why returns of recorded episodes cannot be compared to those of evaluation, and so are
            no scores; empty where they can.
        reference_min, reference_max: raw returns that score 0 and 100; None where nobody published them.
        references_by: whose references they are, where they are not D4RL's.
        success_is_return: what counts of an episode is whether it ended in success, 1 or 0, not what it paid.
        aliases: other beginnings of file names that mean this task.
        observation_names: name -> (start, stop) of the data's observations, where they have names: an environment that
            observes a dictionary is laid out by them.
    """

    name: str
    observation_size: int
    action_size: int
    datasets: tuple[str, ...] = ()
    horizon: int | None = None
    gymnasium_id: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    extra: str = ""
    unavailable: str = ""
    recorded_returns: str = ""
    reference_min: float | None = None
    reference_max: float | None = None
    references_by: str = ""
    success_is_return: bool = False
    aliases: tuple[str, ...] = ()
    observation_names: Mapping[str, tuple[int, int]] | None = field(default=None, hash=False)

    @property
    def evaluated_in(self) -> str:
        """The environment in words, for tables: `tether/AntMaze-v0 maze=umaze`; or why there is none."""
        if self.gymnasium_id is None:
            return self.unavailable
        values = {k: "+".join(map(str, v)) if isinstance(v, list) else v for k, v in self.options.items()}
        return " ".join([self.gymnasium_id, *(f"{name}={value}" for name, value in values.items())])

    @property
    def has_references(self) -> bool:
        """Whether its scores are normalised; they are plain returns where nobody published references."""
        return self.reference_min is not None and self.reference_max is not None

    @property
    def score_name(self) -> str:
        """What its scores are, for axes and tables."""
        if self.success_is_return:
            return "success rate"
        if not self.has_references:
            return "return"
        return f"{self.references_by} score" if self.references_by else "normalised score"

    def score(self, returns: Any) -> np.ndarray:
        """Normalised scores where the task has references, else the returns as they are; float64."""
        return self.normalized_score(returns) if self.has_references else np.asarray(returns, np.float64)

    def normalized_score(self, returns: Any) -> np.ndarray:
        """100 (R - R_min) / (R_max - R_min), float64, in the shape of `returns` (arXiv 2004.07219).

        Args:
            returns: number or array of undiscounted sums of the environment's raw rewards, one per episode.

        Raises:
            InputError: the task has no reference returns.
        """
        if self.reference_min is None or self.reference_max is None:
            raise InputError(
                f"task {self.name!r} has no reference returns, so its scores cannot be normalised; "
                f"tasks that have: {', '.join(TASKS)}"
            )
        spread = self.reference_max - self.reference_min
        return np.asarray(100.0 * (np.asarray(returns, np.float64) - self.reference_min) / spread)


def _read_tasks() -> Mapping[str, Task]:
    rows = tomllib.loads(Path(__file__).with_name("reference_scores.toml").read_text(encoding="utf-8"))
    tasks: dict[str, Task] = {}
    for name, row in rows.items():
        lists = {key: tuple(row.pop(key, ())) for key in ("datasets", "aliases")}
        tasks[name] = Task(name=name, **lists, **row)
    return tasks


TASKS: Mapping[str, Task] = _read_tasks()


def _beginnings(task: Task) -> set[str]:
    """What a data-set name may begin with to belong to `task`."""
    if without_version(task.name) != task.name:  # the references differ between versions: the version must be there
        return {*task.datasets, *task.aliases}
    return {without_version(dataset) for dataset in task.datasets} | set(task.aliases)


_BEGINNINGS = {beginning: task for task in TASKS.values() for beginning in _beginnings(task)}


ENVIRONMENTS: Registry[Task | Callable[[], Task]] = registry("environment").provide(
    {}, reserved=lambda name: _spelled(name) in (*TASKS, "none")
)
"""Names that others registered -> their task, or what makes it."""


def _spelled(name: str) -> str:
    """As the table's own names are."""
    return name.lower().replace("_", "-").replace("ant-maze-", "antmaze-")


def _registered(name: str) -> Task | None:
    if name not in ENVIRONMENTS:
        return None
    found = ENVIRONMENTS[name]
    task = found if isinstance(found, Task) else ENVIRONMENTS.call(name)
    if not isinstance(task, Task):
        raise InputError(f"environment {name!r}: what is registered gave a {type(task).__name__}, not a Task")
    return dataclasses.replace(task, name=name)


def _registered_beginnings() -> dict[str, Task | None]:
    """As `_BEGINNINGS`, of what others registered; None where several tasks list the same data set. What cannot be made
    is passed over: it is said where its own name is used."""
    found: dict[str, Task | None] = {}
    for name in ENVIRONMENTS:
        try:
            task = _registered(name)
        except InputError:
            continue
        assert task is not None  # its name is there
        for beginning in map(_spelled, _beginnings(task)):
            found[beginning] = None if beginning in found else task
    return found


def find_task(dataset_name: str) -> Task | None:
    """The task of a data set, by its name or its file's stem; None if the name does not say it.

    The name must be a task's own, or begin with that of one of its data sets, version aside:
    `hopper-medium`, `hopper_medium-v2` and `hopper-medium-small` are hopper; `hopper-mine` and `door-robot`
    are nobody's, since a wrong environment would score silently. The longest beginning counts; tasks that others
    registered are asked, too, but not about D4RL's own data sets.
    """
    name = _spelled(dataset_name)
    if name in TASKS:
        return TASKS[name]
    if (own := _registered(dataset_name)) is not None:
        return own
    is_ours = name in _BEGINNINGS or without_version(name) in _BEGINNINGS
    beginnings = _BEGINNINGS if is_ours else {**_registered_beginnings(), **_BEGINNINGS}
    found = [known for known in beginnings if name == known or name.startswith(f"{known}-")]
    return beginnings[max(found, key=len)] if found else None


def get_task(name: str) -> Task:
    """The task called `name`, or that of the D4RL data set called so.

    Raises:
        InputError: there is none.
    """
    task = find_task(name)
    if task is None:
        raise unknown("task", name, TASKS)
    return task


RECORDED_RETURNS = "what counts of an episode is success, to which recorded rewards do not add up"
"""Of a single task of OGBench, where a file does not say it in words of its own."""


def recorded_task(
    gymnasium_id: Any,
    options: Any,
    horizon: Any,
    sizes: tuple[int, int],
    references: tuple[float, float] | None = None,
    recorded_returns: str = "",
) -> Task | None:
    """The environment that a file says it was collected in; None where it says nothing of use.

    sizes: of the file's observations and actions. references: Minari's own. Without them it is a single task of
    OGBench, with its `recorded_returns`, or the task of the table that has this environment, if there is just one. An
    id may name a module: it is made only where the user has named that module, too
    (`tether.environments.make.check_imported`).
    """
    if not isinstance(gymnasium_id, str) or not isinstance(options, Mapping):
        return None
    horizon = horizon if isinstance(horizon, int) and horizon > 0 else None
    if references is not None:
        low, high = references
        how = {"reference_min": low, "reference_max": high, "references_by": "Minari"}
        return Task(gymnasium_id, *sizes, horizon=horizon, gymnasium_id=gymnasium_id, options=options, **how)
    prefix, _, bare = gymnasium_id.partition(":")
    if prefix == "ogbench" and is_single_task(bare) and not options:
        return single_task(gymnasium_id, sizes, horizon, recorded_returns or RECORDED_RETURNS)
    known = [
        task for task in TASKS.values() if (task.gymnasium_id, dict(task.options)) == (gymnasium_id, dict(options))
    ]
    if len(known) == 1 and known[0].horizon == horizon:
        return known[0]
    return Task(gymnasium_id, *sizes, horizon=horizon, gymnasium_id=gymnasium_id, options=options)


def single_task(gymnasium_id: str, sizes: tuple[int, int], horizon: int | None, recorded_returns: str = "") -> Task:
    """A single task of OGBench (`ogbench:scene-singletask-task2-v0`), scored as there: the rate of success in percent.

    sizes: of observations and actions.
    """
    how = {"reference_min": 0.0, "reference_max": 1.0, "references_by": "OGBench", "success_is_return": True}
    where = {"horizon": horizon, "gymnasium_id": gymnasium_id, "recorded_returns": recorded_returns}
    return Task(gymnasium_id, *sizes, **where, **how)


def d4rl_datasets() -> dict[str, Task]:
    """Every D4RL data set of the table and its task, in the table's order."""
    return {dataset: task for task in TASKS.values() for dataset in task.datasets}
