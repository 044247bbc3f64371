"""`tether reproduce`: the cells of a target as jobs of a sweep, and the verdicts on what they have come to.

DIR/spec.toml, jobs/, events.jsonl    a sweep like any other (docs/sweeps.md), resumable, here, on Ray or on Slurm
DIR/reproduce.json                    the target, the options, and a verdict for every cell
DIR/data/                             what had to be regenerated
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from tether.algorithms import ALGORITHMS
from tether.algorithms.registry import field_names
from tether.collect import RegenerateOptions, is_recipe, regenerate
from tether.environments.names import is_single_task, without_single_task
from tether.errors import InputError
from tether.machine.cores import usable_cores
from tether.machine.files import atomic_write_json
from tether.presets.recipes import find_recipe
from tether.studies.reproduce.outcomes import Outcome, outcome_of, run_for
from tether.studies.reproduce.targets import Cell, environment_of, find_cells, source_of
from tether.studies.sweep.jobs import SweepFolder
from tether.studies.sweep.spec import SweepSpec, parse_spec, spec_text

__all__ = [
    "ReproduceOptions",
    "Reproduction",
    "judged",
    "open_reproduction",
    "outcome_table",
    "reproduce_command",
    "write_verdicts",
]

DEFAULT_SEEDS = 3


@dataclasses.dataclass(frozen=True)
class ReproduceOptions:
    """What to reproduce, and how much of it; see `tether reproduce --help`."""

    target: str
    out: Path
    seeds: int = DEFAULT_SEEDS
    updates: int | None = None  # None: as published
    pretrain_updates: int | None = None
    eval_episodes: int | None = None
    data: Path | None = None  # where files named after data sets lie
    protocol: str = ""
    precision: str = "float32"
    hyperparameters: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def check(self) -> None:
        """Raises InputError for numbers that cannot be."""
        for name in ("seeds", "updates", "eval_episodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        if (self.pretrain_updates or 0) < 0:
            raise InputError(f"--pretrain-updates {self.pretrain_updates}: must be at least 0")
        if self.protocol not in ("", "last", "best"):
            raise InputError(f"--protocol {self.protocol!r}: last or best")


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """A target, its cells, and the sweep of those that can be run."""

    options: ReproduceOptions
    cells: tuple[Cell, ...]
    spec: SweepSpec | None  # None: none of them can be run

    def job_of(self, cell: Cell) -> int | None:
        """The number of the cell's job; None where it cannot be run."""
        runnable = [other.name for other in self.cells if not other.obstacle]
        return None if cell.obstacle else runnable.index(cell.name)

    def outcomes(self) -> list[Outcome]:
        """A verdict for every cell, from what is there."""
        found = []
        for cell in self.cells:
            number = self.job_of(cell)
            run = None
            if number is not None and self.spec is not None:
                run = self.options.out / "jobs" / self.spec.jobs[number].name
            found.append(outcome_of(cell, run, self.options.protocol))
        return found

    def open(self) -> SweepFolder:
        """The sweep's folder, made or gone on with. Raises InputError where it holds another."""
        if self.spec is None:
            reasons = dict.fromkeys(cell.obstacle for cell in self.cells)
            raise InputError(f"{self.options.target}: nothing of it can be run: {'; '.join(reasons)}")
        return SweepFolder.open(self.options.out.resolve(), self.spec)

    def check_folder(self) -> None:
        """Raises InputError where the folder holds the jobs of another study."""
        SweepFolder.check(self.options.out.resolve(), () if self.spec is None else self.spec.jobs)

    def fetch(self, quiet: bool, command: str) -> None:
        """Regenerate what is missing of OGBench's data. D4RL's are downloaded by the jobs."""
        for name, folder in self.missing_data():
            options = RegenerateOptions(name, folder, processes=usable_cores())
            regenerate(options, quiet=quiet, command=command)

    def missing_data(self) -> list[tuple[str, Path]]:
        """(data set of OGBench's, folder) of what would have to be regenerated."""
        wanted = {}
        for cell in self.cells:
            if not cell.obstacle and is_single_task(cell.task):
                file = without_single_task(cell.task)
                folder = _data_folder(self.options, file)
                if folder is not None and not (folder / f"{file}.npz").is_file() and is_recipe(f"ogbench:{file}"):
                    wanted[file] = folder
        return list(wanted.items())


def open_reproduction(options: ReproduceOptions) -> Reproduction:
    """Find the cells of a target and make a sweep of them; nothing is written. Raises InputError."""
    options.check()
    cells = tuple(find_cells(options.target))
    able = [cell for cell in cells if not cell.obstacle]
    if able and (options.updates or 0) > (longest := max(cell.published_updates for cell in able)):
        raise InputError(f"updates {options.updates:,}: the published runs have {longest:,}")
    if options.data is not None and not options.data.is_dir() and not any(is_single_task(c.task) for c in able):
        raise InputError(f"data {options.data}: no such folder")  # OGBench's sets would be made there
    runs = [_run(cell, options) for cell in able]
    if not runs:
        return Reproduction(options, cells, None)
    table: dict[str, Any] = {"seeds": options.seeds, "retries": 3, "runs": runs}
    text = spec_text(table)
    return Reproduction(options, cells, parse_spec(text, (options.out / "spec.toml").resolve()))


def _run(cell: Cell, options: ReproduceOptions) -> dict[str, Any]:
    """The entry of [[runs]]."""
    recipe = find_recipe(cell.algorithm, "", cell.preset)
    length, every = cell.published_updates, recipe.options.get("eval_every_updates")
    chosen = dict(cell.options) | {"precision": options.precision, "environment": environment_of(cell)}
    hyperparameters = {**cell.hyperparameters, **options.hyperparameters}
    if options.updates is not None:
        chosen["updates"] = min(options.updates, length)
        chosen["eval_every_updates"] = min(every or chosen["updates"], chosen["updates"])
        decays = recipe.hyperparameters.get("cosine_decay", getattr(ALGORITHMS[cell.algorithm], "cosine_decay", False))
        if chosen["updates"] < length and decays and "decay_updates" in field_names(ALGORITHMS[cell.algorithm]):
            hyperparameters.setdefault("decay_updates", length)  # the published schedule, of which this is a part
    for name in ("pretrain_updates", "eval_episodes"):
        if (value := getattr(options, name)) is not None:
            chosen[name] = value
    if "pretrain_updates" in hyperparameters:
        chosen["pretrain_updates"] = hyperparameters.pop("pretrain_updates")
    source = source_of(cell, _data_folder(options, without_single_task(cell.task)))
    return {"algorithm": cell.algorithm, "dataset": source, "options": chosen, "set": hyperparameters}


def _data_folder(options: ReproduceOptions, file: str) -> Path | None:
    """Where the data of a file are, or will be; None: where their package keeps them."""
    if options.data is not None:
        return options.data.resolve()
    own = options.out.resolve() / "data"
    packaged = Path.home() / ".ogbench" / "data" / f"{file}.npz"
    return None if packaged.is_file() or not is_recipe(f"ogbench:{file}") else own


def judged(target: str, runs: Sequence[Path], protocol: str = "") -> list[Outcome]:
    """Verdicts on runs that were made in another way. Raises InputError where a run is of no cell of the target."""
    cells = find_cells(target)
    return [outcome_of(run_for(cells, run), run, protocol) for run in runs]


def write_verdicts(options: ReproduceOptions, outcomes: list[Outcome]) -> Path:
    """reproduce.json."""
    path = options.out / "reproduce.json"
    given = json.loads(json.dumps(dataclasses.asdict(options), default=str))
    rows = [
        {
            "cell": found.cell.name,
            "run": None if found.run is None else str(found.run),
            "updates": found.updates,
            "published": found.published,
            "verdict": found.verdict.to_json(),
            "milestones": [{"updates": m.updates, **m.verdict.to_json()} for m in found.milestones],
        }
        for found in outcomes
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, {"format_version": 1, "options": given, "cells": rows})
    return path


def reproduce_command(options: Mapping[str, Any], folders: bool = True) -> str:
    """`tether reproduce` as `reproduce.json` says that it was told.

    folders: with the folders, which are a machine's own; else `DIR` stands for that of the data.
    Raises KeyError, TypeError, AttributeError for options of another form.
    """
    words = ["tether", "reproduce", str(options["target"])]
    for name in ("updates", "pretrain_updates", "eval_episodes", "seeds", "protocol", "precision"):
        if options.get(name) not in (None, ""):
            words += [f"--{name.replace('_', '-')}", str(options[name])]
    if options.get("data"):
        words += ["--data", str(options["data"]) if folders else "DIR"]
    for name, value in options.get("hyperparameters", {}).items():
        words += ["--set", f"{name}={value}"]
    return shlex.join([*words, "--out", str(options["out"])] if folders else words)


def outcome_table(outcomes: list[Outcome], title: str) -> Table:
    """The verdicts for the terminal."""
    table = Table(title=title, title_justify="left")
    for name in ("cell", "published", "measured", "updates", "verdict", "why"):
        table.add_column(name, justify="left" if name in ("cell", "verdict", "why") else "right", overflow="fold")
    for found in outcomes:
        verdict = found.verdict
        measured = (
            "-" if verdict.measured is None else f"{verdict.measured:.1f} [{verdict.low:.1f}, {verdict.high:.1f}]"
        )
        published = "-" if found.published is None else f"{found.published:g}"
        notes = "".join(f"\n  {note}" for note in verdict.reservations)
        updates = f"{found.updates:,}" if found.run else "-"
        table.add_row(found.cell.name, published, measured, updates, verdict.word, verdict.reason + notes)
        for milestone in found.milestones:
            at = f"{milestone.verdict.measured:.1f}" if milestone.verdict.measured is not None else "-"
            row = f"  at {milestone.updates:,}", f"{milestone.number.value:g}", at, f"{milestone.updates:,}"
            table.add_row(*row, milestone.verdict.word, "")
    return table
