"""The settings that the papers report: one TOML file per algorithm, one row per task."""

import functools
import tomllib
from importlib import resources
from typing import Any

from tether.environments.names import is_single_task
from tether.errors import unknown

__all__ = ["demo_preset", "domain_of", "get_preset", "load_presets", "preset_names"]


def get_preset(algorithm: str, task: str) -> dict[str, Any]:
    """Field name -> value for one task, such as `get_preset("dtql", "hopper-medium-v2")`.

    Raises: InputError for an unknown algorithm or task, with the nearest names.
    """
    presets = load_presets(algorithm)
    if task not in presets:
        raise unknown(f"{algorithm} preset", task, presets)
    return presets[task]


def preset_names(algorithm: str) -> tuple[str, ...]:
    """The tasks that have a preset, in the file's order; none for an algorithm without a file, such as a user's own."""
    return tuple(load_presets(algorithm)) if algorithm in _files() else ()


def load_presets(algorithm: str) -> dict[str, dict[str, Any]]:
    """Task -> settings, in the file's order: `[common]`, overridden by the task's domain, then by its row.

    The dictionaries are the caller's to change.
    Raises: InputError for an algorithm without presets.
    """
    table = _read(algorithm)
    common, domains = table["common"], table.get("domains", {})
    return {task: common | domains.get(domain_of(task), {}) | row for task, row in table["tasks"].items()}


def domain_of(task: str) -> str:
    """`ogbench` for OGBench's single tasks, whose mazes begin with the names of D4RL's; else the first word."""
    return "ogbench" if is_single_task(task) else task.split("-")[0]


def demo_preset(algorithm: str) -> dict[str, Any]:
    """Values of our own for the bundled data set: a few minutes on 2 cores. Empty where there are none."""
    return dict(_read(algorithm).get("demo", {})) if algorithm in _files() else {}


@functools.cache
def _files() -> dict[str, Any]:
    """Algorithm -> the file of its presets."""
    found = [file for file in resources.files(__name__).iterdir() if file.name.endswith(".toml")]
    return {file.name.removesuffix(".toml"): file for file in found}


@functools.cache
def _read(algorithm: str) -> dict[str, Any]:
    files = _files()
    if algorithm not in files:
        raise unknown("algorithm with presets", algorithm, files)
    return tomllib.loads(files[algorithm].read_text(encoding="utf-8"))
