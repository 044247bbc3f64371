"""Published results as data: `tables.toml` says what they are, `bands.csv.gz` holds the numbers.

A row of the file is one number: a cell of a table, or a point of a curve. Facts and figures only; sources and licences
stand in `tables.toml`.
"""

import csv
import functools
import gzip
import io
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

from tether.errors import InputError, unknown

__all__ = ["Number", "PublishedTable", "all_tables", "find_table"]


class Number(NamedTuple):
    """One published number."""

    task: str  # D4RL's name, or OGBench's with its single task
    method: str  # as published
    variant: str  # of an ablation; else empty
    protocol: str  # where a table has several (CORL: last, best); else empty
    updates: int | None  # of a curve; None: as the table's protocol says
    value: float | None  # None: published as a picture only
    spread: float | None
    low: float | None  # of a published interval
    high: float | None


class PublishedTable(NamedTuple):
    """One table, figure or set of curves."""

    name: str
    title: str
    source: str
    unit: str
    protocol: str
    own: tuple[str, ...]  # the methods that it is about
    numbers: tuple[Number, ...]
    licence: str = ""
    seeds: int | str = ""
    episodes: str = ""
    spread: str = ""  # what `Number.spread`, or the interval, is
    band: str = ""  # "interval", "deviations X", "points X"; empty: nothing is compared with it
    environments: str = ""
    curve: str = ""  # the table with the same numbers along training
    last_evaluations: int = 1  # over how many evaluations a number is a mean
    evaluation_every_updates: int = 10_000  # between these
    offline_updates: int | None = None  # behind which its runs go on in their environment
    variants: Mapping[str, Mapping[str, Any]] = {}
    trained: Mapping[str, Mapping[str, Any]] = {}  # method -> its algorithm, options, settings of tasks
    sparse: tuple[str, ...] = ()  # beginnings of tasks trained on sparse rewards
    obstacles: Mapping[str, str] = {}  # beginnings of tasks that cannot be run -> why
    reservations: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """In the table's order."""
        return list(dict.fromkeys(number.task for number in self.numbers))

    @property
    def methods(self) -> list[str]:
        """In the table's order."""
        return list(dict.fromkeys(number.method for number in self.numbers))

    def find(self, task: str, method: str, variant: str = "", protocol: str = "") -> list[Number]:
        """The numbers of one cell, of training on data alone: one, or a curve in the order of updates.

        protocol: of a table with several; empty: the table's own.
        """
        wanted = protocol or self.protocol
        found = [n for n in self.numbers if (n.task, n.method, n.variant) == (task, method, variant)]
        if self.offline_updates is not None:
            found = [number for number in found if (number.updates or 0) <= self.offline_updates]
        return sorted((n for n in found if n.protocol in ("", wanted)), key=lambda n: n.updates or 0)


def all_tables() -> Mapping[str, PublishedTable]:
    """Name -> table, in the file's order."""
    return _tables()


def find_table(name: str) -> PublishedTable:
    """Raises InputError where there is none of this name."""
    tables = _tables()
    if name not in tables:
        raise unknown("published table", name, tables)
    return tables[name]


@functools.cache
def _tables() -> Mapping[str, PublishedTable]:
    folder = resources.files(__name__.rpartition(".")[0])
    described = tomllib.loads((folder / "tables.toml").read_text(encoding="utf-8"))
    if described.pop("version") != 1:
        raise InputError("tables.toml: another version of the file than this code reads")
    text = gzip.decompress((folder / "bands.csv.gz").read_bytes()).decode()
    numbers: dict[str, list[Number]] = {name: [] for name in described}
    for row in csv.DictReader(io.StringIO(text)):
        numbers[row["table"]].append(_number(row))
    return {name: _table(name, entry, numbers[name]) for name, entry in described.items()}


def _number(row: Mapping[str, str]) -> Number:
    measured = {key: float(row[key]) if row[key] else None for key in ("value", "spread", "low", "high")}
    updates = int(row["updates"]) if row["updates"] else None
    return Number(row["task"], row["method"], row["variant"], row["protocol"], updates, **measured)


def _table(name: str, entry: dict[str, Any], numbers: list[Number]) -> PublishedTable:
    lists: dict[str, Any] = {key: tuple(entry.pop(key, ())) for key in ("own", "sparse", "reservations")}
    return PublishedTable(name, numbers=tuple(numbers), **entry, **lists)
