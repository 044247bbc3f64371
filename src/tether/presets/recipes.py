"""What a run is trained with where nothing else is said: the preset that is in force for an algorithm and its data."""

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

from tether.algorithms import ALGORITHMS
from tether.data import bundled_names
from tether.presets import demo_preset, get_preset, preset_names

__all__ = ["Recipe", "find_recipe"]


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
    name = re.sub(r"-singletask-task\d+-", "-singletask-", name)  # an OGBench environment's five tasks share settings
    return (name, get_preset(algorithm, name)) if name in preset_names(algorithm) else (None, {})
