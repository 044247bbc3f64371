"""What a sweep is made of: a TOML file, cut into jobs that each train one program.

algorithms = ["dtql", "td3-bc"]
datasets = ["d4rl:hopper-medium-v2", "my-logs.hdf5"]
seeds = 4                              # 0, 1, 2, 3; or a list of them
lanes_per_job = 8                      # lanes of one program; default: all of a combination
retries = 3                            # of a job that fails or is pre-empted

[options]                              # of `tether train`, with underscores
updates = 100_000
[set]                                  # hyper-parameters of all runs
discount = 0.99
[sweep]                                # numeric hyper-parameters: lanes of one program
learning_rate = [3e-4, 1e-3]
[grid]                                 # anything else, also options: a program for each combination
hidden_sizes = ["256,256", "512,512"]
[algorithm.dtql.sweep]                 # for one algorithm only; also .set, .options and .grid
trust_region_weight = [0.5, 1, 5]
[[runs]]                               # single combinations, beside or in place of algorithms x datasets
algorithm = "iql"
dataset = "d4rl:walker2d-medium-v2"
options = { preset = "walker2d-medium-v2" }      # over those of all runs; so .set, .sweep and .grid
[resources]                            # of a job on Ray
cpus = 4
gpus = 1
[slurm]                                # any option of sbatch
partition = "gpu"
time = "12:00:00"
"""

import dataclasses
import difflib
import itertools
import json
import math
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tether import errors
from tether.algorithms import ALGORITHMS
from tether.data import bundled_names
from tether.errors import InputError
from tether.presets.recipes import TrainRequest
from tether.training.lanes import Lane, make_lanes

__all__ = ["Job", "SweepSpec", "load_spec", "parse_spec", "spec_text", "value_text"]

KEYS = {"algorithms", "datasets", "seeds", "lanes_per_job", "retries", "options", "set", "sweep", "grid", "algorithm"}
KEYS |= {"runs", "resources", "slurm", "base"}
RUN_KEYS = {"algorithm", "dataset", "options", "set", "sweep", "grid"}
PARTS = ("options", "set", "sweep", "grid")  # those that an algorithm may have of its own
OPTIONS = {field.name for field in dataclasses.fields(TrainRequest)} - {"algorithm", "dataset", "hyperparameters"}


@dataclasses.dataclass(frozen=True)
class Job:
    """One program: a run folder with some lanes of one algorithm on one data set."""

    number: int
    name: str  # of its folder
    algorithm: str
    dataset: str
    options: Mapping[str, Any]  # of `tether train`
    hyperparameters: Mapping[str, Any]
    grid: Mapping[str, Any]  # what of these the grid chose
    lanes: tuple[Lane, ...]

    def request(self) -> TrainRequest:
        """As `tether train` would make it."""
        hyperparameters = {name: value_text(value) for name, value in self.hyperparameters.items()}
        return TrainRequest(self.algorithm, self.dataset, hyperparameters, **self.options)


@dataclasses.dataclass(frozen=True)
class SweepSpec:
    """A spec that was read and checked."""

    path: Path
    text: str
    base: Path  # where relative paths of data sets begin
    jobs: tuple[Job, ...]
    retries: int
    resources: Mapping[str, float]
    slurm: Mapping[str, Any]


def load_spec(path: str | Path) -> SweepSpec:
    """Read a spec and check all of it, except that data sets are there.

    Raises InputError naming the file, the entry and the choices.
    """
    path = Path(path)
    try:
        return parse_spec(path.read_text(), path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None


def parse_spec(text: str, path: Path) -> SweepSpec:
    """The spec that `text` spells; `path` is where it is from, beside which relative data sets lie."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    try:
        base = table.get("base", str(path.resolve().parent))
        if not isinstance(base, str):
            raise InputError(f"base {base!r}: must be a folder")
        return SweepSpec(
            path,
            text,
            Path(base),
            tuple(_jobs(table, Path(base))),
            _count(table, "retries", 3, least=0),
            _resources(table),
            _table(table, "slurm"),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _jobs(table: dict[str, Any], folder: Path) -> list[Job]:
    """All jobs in order: algorithms, data sets, the grid, groups of lanes."""
    for key in table:
        if key not in KEYS:
            raise _unknown_entry("entry", key, KEYS)
    own, runs = _table(table, "algorithm"), _runs(table)
    product = () if runs and not {"algorithms", "datasets"} & set(table) else ("algorithms", "datasets")
    combinations = itertools.product(*(_names(table, key) for key in product)) if product else ()
    wanted = [(name, dataset, {}) for name, dataset in combinations]
    wanted += [(run["algorithm"], run["dataset"], run) for run in runs]
    for name in [*(name for name, _, _ in wanted), *own]:
        if name not in ALGORITHMS:
            raise errors.unknown("algorithm", name, ALGORITHMS)
    _check_own(own, {name for name, _, _ in wanted})
    most = table.get("lanes_per_job")
    size = None if most is None else _count(table, "lanes_per_job", 0, least=1)
    jobs: list[Job] = []
    for name, dataset, run in wanted:
        parts = {part: _table(table, part) | _table(own.get(name, {}), part) | _table(run, part) for part in PARTS}
        where = dataset if dataset in bundled_names() or not (folder / dataset).exists() else str(folder / dataset)
        for values in itertools.product(*(_several(key, values) for key, values in parts["grid"].items())):
            grid = dict(zip(parts["grid"], values, strict=True))
            jobs += _combination(len(jobs), name, where, parts, grid, _seeds(table), size)
    return jobs


def _unknown_entry(kind: str, key: str, known: set[str]) -> InputError:
    """The refusal of an entry; of an option of `tether train`, or one that is nearly called so, where it belongs."""
    near = difflib.get_close_matches(key, sorted(known | OPTIONS), n=1, cutoff=0.4)
    if near and near[0] in OPTIONS - known:
        return InputError(f"unknown {kind} {key!r}; did you mean {near[0]}, which stands below [options]?")
    return errors.unknown(kind, key, known)


def _check_own(own: dict[str, Any], used: set[str]) -> None:
    """Refuse what nothing would read below [algorithm]: algorithms without a run, and parts that are none."""
    for name, parts in own.items():
        if name not in used:
            raise errors.unknown("algorithm of this sweep", name, used)
        if not isinstance(parts, dict):
            raise InputError(f"[algorithm.{name}]: must hold tables, not {parts!r}")
        for key in parts:
            if key not in PARTS:
                raise errors.unknown(f"part of [algorithm.{name}]", key, PARTS)


def _runs(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of [[runs]], each with an algorithm and a data set."""
    found = table.get("runs", [])
    if not isinstance(found, list) or not all(isinstance(run, dict) for run in found):
        raise InputError(f"runs {found!r}: must be tables: [[runs]]")
    for run in found:
        for key in run:
            if key not in RUN_KEYS:
                raise _unknown_entry("entry of [[runs]]", key, RUN_KEYS)
        if not all(isinstance(run.get(key), str) for key in ("algorithm", "dataset")):
            raise InputError(f"runs {run!r}: needs an algorithm and a dataset")
    return found


def _combination(
    number: int,
    algorithm: str,
    dataset: str,
    parts: dict[str, dict[str, Any]],
    grid: dict[str, Any],
    seeds: list[int],
    size: int | None,
) -> list[Job]:
    """The jobs of one algorithm, data set and combination of the grid: its lanes, cut into groups."""
    known = OPTIONS
    options = parts["options"] | {name: value for name, value in grid.items() if name in known}
    for name in options:
        if name not in known:
            raise errors.unknown("option of tether train", name, known)
    hyperparameters = parts["set"] | {name: value for name, value in grid.items() if name not in known}
    whole = Job(number, "", algorithm, dataset, options, hyperparameters, grid, ())
    made = whole.request().resolve()[0]
    sweep = {name: _several(name, values) for name, values in parts["sweep"].items()}
    for name, values in sweep.items():
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            raise InputError(f"sweep {name}: needs numbers; what is none goes into [grid]")
    numbers = {name: [float(value) for value in values] for name, values in sweep.items()}
    try:
        lanes = make_lanes(made, seeds, numbers)
    except InputError as error:
        raise InputError(f"{algorithm}: {error}") from None
    size = size or len(lanes)
    groups = [tuple(lanes[start : start + size]) for start in range(0, len(lanes), size)]
    chosen = [f"{name}={value_text(value)}" for name, value in grid.items()]
    jobs = []
    for part, group in enumerate(groups):
        words = [f"{number + part:04d}", algorithm, Path(dataset).stem, *chosen]
        words += [f"part{part}"] if len(groups) > 1 else []
        name = re.sub(r"[^\w.=,+-]+", "_", "-".join(words))[:150]
        jobs.append(dataclasses.replace(whole, number=number + part, name=name, lanes=group))
    return jobs


def _table(table: dict[str, Any], key: str) -> dict[str, Any]:
    found = table.get(key, {})
    if not isinstance(found, dict):
        raise InputError(f"{key} {found!r}: must be a table: [{key}]")
    return found


def _names(table: dict[str, Any], key: str) -> list[str]:
    found = table.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise InputError(f"{key}: must be a list of names")
    if len(set(found)) < len(found):
        raise InputError(f"{key} {found}: each may stand once")
    return found


def _several(key: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise InputError(f"{key} {values!r}: must be a list of values")
    return values


def _seeds(table: dict[str, Any]) -> list[int]:
    seeds = table.get("seeds", 1)
    if isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds):
        return seeds
    return list(range(_count(table, "seeds", 1, least=1)))


def _count(table: dict[str, Any], key: str, default: int, least: int) -> int:
    value = table.get(key, default)
    if type(value) is not int or value < least:
        raise InputError(f"{key} {value!r}: must be a whole number, at least {least}")
    return value


def _resources(table: dict[str, Any]) -> dict[str, float]:
    found = {"cpus": 1.0, "gpus": 0.0, **_table(table, "resources")}
    for name, value in found.items():
        if name not in ("cpus", "gpus"):
            raise errors.unknown("resource", name, ("cpus", "gpus"))
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise InputError(f"resources {name} {value!r}: must be a number, at least 0")
    return {name: float(value) for name, value in found.items()}


def value_text(value: Any) -> str:
    """A value as --set takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def spec_text(table: Mapping[str, Any], name: str = "") -> str:
    """A spec as TOML, which `parse_spec` reads back. Values are spelled as in JSON, which is the same for texts, finite
    numbers and lists; tables in lists are `[[runs]]`."""
    lines, inner = [f"[{name}]"] if name else [], []
    for key, value in table.items():
        path = f"{name}.{json.dumps(key)}".lstrip(".")
        if isinstance(value, Mapping):
            inner.append(spec_text(value, path))
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            inner += [f"[{spec_text(item, path).replace(']', ']]', 1)}" for item in value]
        else:
            lines.append(f"{json.dumps(key)} = {json.dumps(_plain(key, value))}")
    return "\n".join([*lines, *inner])


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, list | tuple | np.ndarray | range):
        return [_plain(key, item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    value = os.fspath(value) if isinstance(value, Path) else value
    if not isinstance(value, str | bool | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise InputError(f"{key} {value!r}: a text, a finite number, true, false or a list of these is needed")
    return value
