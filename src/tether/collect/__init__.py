"""Collecting data: online SAC, rollouts of policies and controllers, a planner for mazes, OGBench's oracles."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tether.collect.plan import KINDS, LAYOUTS, CollectOptions, Made, collect
    from tether.collect.recipes import is_recipe
    from tether.collect.regeneration import RegenerateOptions, regenerate

__all__ = [
    "KINDS",
    "LAYOUTS",
    "CollectOptions",
    "Made",
    "RegenerateOptions",
    "collect",
    "is_recipe",
    "regenerate",
]

_HOMES = {"is_recipe": "recipes", "RegenerateOptions": "regeneration", "regenerate": "regeneration"}


def __getattr__(name: str) -> Any:
    """Imported when it is used: a process that plays an oracle's episodes starts no JAX."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'plan')}"), name)
