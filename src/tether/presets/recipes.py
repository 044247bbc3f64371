"""What a run is trained with where nothing else is said: the preset that is in force for an algorithm and its data."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tether.algorithms import ALGORITHMS
from tether.algorithms.registry import make_algorithm, name_of
from tether.data import Dataset, Framing, bundled_names
from tether.environments.names import without_task_number
from tether.errors import unknown
from tether.presets import demo_preset, get_preset, preset_names
from tether.runs.plan import Options

__all__ = ["Preset", "Recipe", "TrainRequest", "find_preset", "find_recipe"]

TRANSFORMS = ("reward_transform", "observation_transform", "data_filter")


class Recipe(NamedTuple):
    """A preset, split into hyper-parameters and run options."""

    preset: str | None  # its name; None: the algorithm's defaults
    hyperparameters: dict[str, Any]  # fields of the algorithm
    options: dict[str, Any]  # of the run: batch_size, eval_every_updates, reward_transform, ...


def find_recipe(algorithm: str, source: str, preset: str = "auto") -> Recipe:
    """The preset called `preset`; with "auto" the one of the data set's name, if there is one; with "none" none.

    Raises: InputError for an unknown algorithm or preset.
    """
    name, values = _find_preset(algorithm, source, preset)
    fields = {field.name for field in dataclasses.fields(ALGORITHMS[algorithm])}
    hyperparameters = {key: value for key, value in values.items() if key in fields}
    return Recipe(name, hyperparameters, {key: value for key, value in values.items() if key not in fields})


@dataclasses.dataclass(frozen=True)
class TrainRequest:
    """What a user asked of one training, on the command line or in a sweep; None: as the preset says, or by default."""

    algorithm: str
    dataset: str
    hyperparameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # over the preset's
    preset: str = "auto"
    updates: int | None = None
    pretrain_updates: int | None = None
    batch_size: int | None = None
    environment: str | None = None
    horizon: int | None = None
    eval_every_updates: int | None = None
    eval_episodes: int | None = None
    eval_workers: int | None = None
    eval_device: str = "auto"
    log_every_updates: int = 500
    lanes_per_group: int | None = None
    precision: str = "float32"
    reward_transform: str | None = None
    observation_transform: str | None = None
    data_filter: str | None = None
    holdout: str = "none"
    continuous: bool = False
    chunk: int = 1
    execute: int | None = None
    n_step: int = 1
    history: int = 1
    history_actions: bool = False

    @property
    def framing(self) -> Framing:
        """What one decision sees and gives. Raises InputError."""
        return Framing.of(self)

    def resolve(self) -> tuple[Any, dict[str, Any], str | None]:
        """The algorithm, the other arguments of `tether.train` that concern neither lanes nor folders, and the name of
        the preset in force. Raises InputError for what does not exist."""
        if self.algorithm not in ALGORITHMS:
            raise unknown("algorithm", self.algorithm, ALGORITHMS)
        recipe = find_recipe(self.algorithm, self.dataset, self.preset)
        chosen = dict(recipe.options)
        if self.updates is not None:
            chosen.pop("eval_every_updates", None)  # the preset's interval is meant for its own length
        own = ("batch_size", "eval_every_updates", "eval_episodes", *TRANSFORMS)
        chosen |= _given({name: getattr(self, name) for name in own})
        lengths = _given({"train_updates": self.updates, "pretrain_updates": self.pretrain_updates})
        algorithm = make_algorithm(self.algorithm, recipe.hyperparameters | dict(self.hyperparameters) | lengths)
        options = Options(
            batch_size=chosen.get("batch_size", 256),
            eval_every_updates=chosen.get("eval_every_updates", max(1, algorithm.phases()[-1].updates // 10)),
            eval_episodes=chosen.get("eval_episodes", 10),
            log_every_updates=self.log_every_updates,
            lanes_per_group=self.lanes_per_group,
            eval_workers=self.eval_workers,
            eval_device=self.eval_device,
            precision=self.precision,
        )
        arguments = {name: chosen.get(name, "none") for name in TRANSFORMS}
        arguments |= {"holdout": self.holdout, "environment": self.environment, "horizon": self.horizon}
        arguments |= {"continuous": True} if self.continuous else {}
        arguments |= {"framing": self.framing}
        return algorithm, {"options": options, **arguments}, recipe.preset


class Preset(NamedTuple):
    """Published settings of an algorithm for a task, as `tether.train` takes them."""

    name: str
    algorithm: Any  # an instance with the preset's hyper-parameters
    arguments: dict[str, Any]  # of `tether.train`: options and transforms


def find_preset(algorithm: str | type, data: str | Dataset, **hyperparameters: Any) -> Preset:
    """The published settings of an algorithm for a data set.

        preset = tether.find_preset("dtql", "hopper-medium-v2", candidates=64)
        report = tether.train(preset.algorithm, data, **preset.arguments)

    algorithm: its name or class. data: a data set, which its name says, or a task or source (`tether tasks`).
    hyperparameters: others than the preset's.
    Raises InputError for an unknown algorithm or hyper-parameter, and where there is no preset, with the nearest ones.
    """
    name = algorithm if isinstance(algorithm, str) else name_of(algorithm)
    source = data if isinstance(data, str) else data.name
    resolved, arguments, preset = TrainRequest(name, source, hyperparameters).resolve()
    if preset is None:
        raise unknown(f"{name} preset", source, preset_names(name))
    del arguments["environment"]  # as the data say
    return Preset(preset, resolved, arguments)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _find_preset(algorithm: str, source: str, preset: str) -> tuple[str | None, dict[str, Any]]:
    """Name and values of the preset in force."""
    if preset == "none":
        return None, {}
    if preset != "auto":
        return preset, get_preset(algorithm, preset)
    if source in bundled_names():
        values = demo_preset(algorithm)
        return ("demo", values) if values else (None, {})
    name = Path(source.removeprefix("d4rl:").removeprefix("ogbench:")).stem
    name = without_task_number(name)  # an OGBench environment's five tasks share settings
    return (name, get_preset(algorithm, name)) if name in preset_names(algorithm) else (None, {})
