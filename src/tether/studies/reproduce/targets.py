"""From what a user writes (`dtql-table-1/hopper-medium-v2`) to runs: algorithm, data, preset, length.

    TABLE                   the table's own methods on all its tasks
    TABLE/PART/...          those of a task (or of all that begin so), a method, a variant

Everything comes from presets and from `tables.toml`; a run is then a job of a sweep.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tether.algorithms import ALGORITHMS
from tether.collect import is_recipe
from tether.data.readers.ogbench import locate_ogbench
from tether.environments.names import is_single_task, without_single_task, without_task_number, without_version
from tether.errors import InputError
from tether.presets import preset_names
from tether.presets.recipes import find_recipe
from tether.studies.reproduce.bands import Number, PublishedTable, all_tables, find_table

__all__ = ["Cell", "environment_of", "find_cells", "find_numbers", "source_of", "table_lines", "trained_as"]

# Published names that are not the algorithm's own in small letters.
METHODS = {
    "td3+bc": "td3-bc",
    "onestep rl": "onestep",
    "diffusion-ql": "dql",
    "diff-ql": "dql",
    "idql-a": "idql",
    "bfn": "best-of-n",
}


class Cell(NamedTuple):
    """One published number, or curve, and the run that would reproduce it."""

    table: PublishedTable
    task: str
    method: str
    variant: str
    algorithm: str  # empty where tether has none
    preset: str
    hyperparameters: dict[str, Any]  # over the preset's
    options: dict[str, Any]  # of the run, over the preset's
    obstacle: str  # why it cannot be run; empty where it can

    @property
    def name(self) -> str:
        """As a target."""
        return "/".join(filter(None, [self.table.name, self.task, self.method, self.variant]))

    @property
    def published_updates(self) -> int:
        """How long the published run was, by the preset."""
        recipe = find_recipe(self.algorithm, "", self.preset)
        return int(recipe.hyperparameters["train_updates"])


def find_cells(target: str) -> list[Cell]:
    """The cells that `target` names; those that cannot be run have an obstacle.

    Raises InputError for a table, task, method or variant that there is not, with the near ones.
    """
    table, parts, keys = _parts(target)
    asked_methods = any(_matches(part, method) for part in parts for method in table.methods)
    if not asked_methods:
        keys = [key for key in keys if key[1] in table.own or not table.own]
    found = _narrowed(target, keys)
    if not (tasks := [key for key in found if not key[0].endswith("-mean")]):
        raise InputError(f"target {target!r}: means over tasks, which no run has; name their tasks")
    return [_cell(table, *key) for key in tasks]


def find_numbers(target: str) -> tuple[PublishedTable, list[Number]]:
    """A table, and what of its numbers `target` names, of all methods. Raises InputError as `find_cells`."""
    table, _, keys = _parts(target)
    keys = _narrowed(target, keys)
    return table, [number for number in table.numbers if (number.task, number.method, number.variant) in keys]


def _parts(target: str) -> tuple[PublishedTable, list[str], list[tuple[str, str, str]]]:
    """The table, what else the target names, and every (task, method, variant) of the table."""
    name, *parts = target.strip("/").split("/")
    table = find_table(name.lower())
    return table, parts, list(dict.fromkeys((n.task, n.method, n.variant) for n in table.numbers))


def _narrowed(target: str, keys: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Those (task, method, variant) that all parts of the target name."""
    name, *parts = target.strip("/").split("/")
    found = keys
    for index, part in enumerate(parts):
        kept = [key for key in found if any(_matches(part, word) for word in key) or _begins(part, key[0])]
        if not kept:
            words = ", ".join(sorted({word for key in found for word in key if word}))
            place = "/".join([name, *parts[:index]])
            raise InputError(f"target {target!r}: nothing in {place} is called {part!r}; there are {words}")
        exact = [key for key in kept if any(_matches(part, word) for word in key)]
        found = exact or kept
    return found


def _plain(word: str) -> str:
    return re.sub(r"[\s_]+", "-", word.lower())


def _matches(part: str, word: str) -> bool:
    return bool(word) and _plain(part) == _plain(word)


def _begins(part: str, task: str) -> bool:
    return _plain(task).startswith(f"{_plain(part)}-")


def trained_as(table: PublishedTable, method: str) -> tuple[str, dict[str, Any]]:
    """(what tether calls the algorithm, if it has it; the options of `tether train` that make it this method)."""
    entry = table.trained.get(method, {})
    return entry.get("algorithm", METHODS.get(method.lower(), method.lower())), dict(entry.get("options", {}))


def _cell(table: PublishedTable, task: str, method: str, variant: str) -> Cell:
    algorithm, own_options = trained_as(table, method)
    changes: dict[str, Any] = {}
    for beginning, values in table.trained.get(method, {}).get("hyperparameters", {}).items():
        changes |= values if task.startswith(beginning) else {}
    changes |= table.variants.get(variant, {})
    preset = changes.pop("preset", "{task}").format(task=without_task_number(task))
    options = {"preset": preset} | own_options
    if any(task.startswith(beginning) for beginning in table.sparse):
        options["reward_transform"] = "sparse"
    obstacle = next((why for beginning, why in table.obstacles.items() if task.startswith(beginning)), "")
    if not table.own:
        obstacle = f"{table.title}: nothing here is trained for it"
    elif algorithm not in ALGORITHMS:
        algorithm, obstacle = "", f"tether has no algorithm {method}"
    elif variant and variant not in table.variants:
        obstacle = f"what {variant!r} means is not written down in tables.toml"
    elif preset not in preset_names(algorithm):
        obstacle = f"tether has no preset of {algorithm} for {preset}: the published settings are not known"
    return Cell(table, task, method, variant, algorithm, preset, changes, options, obstacle)


def source_of(cell: Cell, folder: Path | None) -> str:
    """The data source of a cell: a file in `folder` that is named after its data set, else by name.

    Files of `folder`, and of folders in it: `hopper-medium-v2.hdf5` or `hopper-medium.hdf5`; OGBench's `NAME.npz`, also
    where it is yet to be regenerated there.
    """
    if is_single_task(cell.task):
        file = without_single_task(cell.task)
        place = "" if folder is None else f"{folder}/"
        known = folder is not None and ((folder / f"{file}.npz").is_file() or is_recipe(f"ogbench:{file}"))
        return f"ogbench:{place if known else ''}{cell.task}"
    stems = [cell.task, without_version(cell.task)]
    for stem in stems if folder is not None else ():
        assert folder is not None
        if found := sorted([*folder.glob(f"{stem}.hdf5"), *folder.glob(f"*/{stem}.hdf5")]):
            return str(found[0].resolve())
    return f"d4rl:{cell.task}"


def environment_of(cell: Cell) -> str:
    """Where it is evaluated, by name."""
    if not is_single_task(cell.task):
        return cell.task
    return f"ogbench:{locate_ogbench(cell.task)[0]}"


def table_lines() -> Sequence[tuple[str, str, str, str]]:
    """For `--list`: name, title, numbers and tasks, what of it can be run."""
    rows = []
    for table in all_tables().values():
        runnable = [method for method in table.own if trained_as(table, method)[0] in ALGORITHMS]
        rows.append((table.name, table.title, f"{len(table.numbers):,}", ", ".join(runnable) or "-"))
    return rows
