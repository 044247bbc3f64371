"""Tables (CSV, Parquet, npz) for the doctor: what `load_dataset` would refuse in them is read and reported."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tether.data.logs.columns import ColumnPlan, resolve
from tether.data.logs.delimited import FLAGS
from tether.data.logs.importing import conventional_options
from tether.data.logs.interleaved import put_together
from tether.data.logs.tables import open_table
from tether.data.schema import ActionBox, Layout, Schema, size_of
from tether.doctor.findings import Finding, Place
from tether.errors import InputError

__all__ = ["TableColumns", "read_table_columns"]

SPELLED = {spelling: float(flag) for flag, spellings in FLAGS.items() for spelling in spellings}
"""How a CSV file may write flags, as its reader has it."""


class TableColumns(NamedTuple):
    """Columns under D4RL's names, the others under their own, and what was found on the way.

    source_rows: the row of the table that each one was; None where they stand in its order."""

    columns: dict[str, np.ndarray]
    extras: dict[str, np.ndarray]
    schema: Schema
    findings: tuple[Finding, ...]
    source_rows: np.ndarray | None


def read_table_columns(path: Path, widest: int | None) -> TableColumns:
    """Reads a table whose columns follow the convention of `read_table`, whatever their entries are.

    widest: leaves out other columns with more numbers in each row; None for none.

    Raises: InputError for a damaged file, and for column names that say nothing.
    """
    table = open_table(path)
    options = conventional_options(table)
    plan = resolve([table], options, refuse_text=False)
    others = [
        name
        for name, column in table.columns.items()
        if name not in plan.kinds and (widest is None or column.size <= widest)
    ]
    read = list(table.read(dict.fromkeys([*plan.kinds, *others], "stored")))
    if not read:
        raise InputError(f"{path}: holds no rows")
    stored = {name: np.concatenate([piece[name] for piece in read]) for name in read[0]}
    found: list[Finding] = []
    flags = (plan.terminal, plan.truncated) if path.suffix.lower() == ".csv" else ()
    for name in plan.kinds:
        if name != plan.episode:
            stored[name] = _numbers(name, stored[name], found, SPELLED if name in flags else {})
    order = _together(plan, stored)
    stored = stored if order is None else {name: column[order] for name, column in stored.items()}
    columns = _columns(plan, stored)
    extras = {name: stored[name] for name in (*others, plan.episode) if name is not None}
    size = size_of(plan.action)
    schema = Schema(plan.observation, plan.action, ActionBox((-1.0,) * size, (1.0,) * size))
    return TableColumns(columns, extras, schema, tuple(found), order)


def _together(plan: ColumnPlan, stored: dict[str, np.ndarray]) -> np.ndarray | None:
    """The order with the rows of each episode together, where `read_table` puts them together."""
    if plan.episode is None:
        return None
    labels = _numbered(stored[plan.episode])
    flags = [stored[name] == 1 for name in (plan.terminal, plan.truncated) if name is not None]
    ended = np.logical_or.reduce([np.full(len(labels), bool(plan.next_observation)), *flags])
    order, sure = put_together(labels, ended, None)
    return order if sure and (np.diff(order) != 1).any() else None


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Numbers for the labels of episodes, in the order in which they appear; all missing ones share one."""
    known: dict[object, int] = {}
    found = [known.setdefault(None if _is_missing(label) else label, len(known)) for label in labels.tolist()]
    return np.array(found, np.int64)


def _numbers(name: str, column: np.ndarray, found: list[Finding], spelled: Mapping[str, float]) -> np.ndarray:
    """`column` as float64; entries that are neither numbers nor `spelled` become NaN and are reported."""
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    values = np.array([_number(entry, spelled) for entry in column.reshape(-1)]).reshape(column.shape)
    bad = np.isnan(values).reshape(len(column), -1).any(axis=1)
    rows = np.flatnonzero(bad & np.array([not _is_missing(entry) for entry in column.reshape(len(column), -1)[:, 0]]))
    if len(rows):
        entry = column[rows[0]] if column.ndim == 1 else column[rows[0], 0]
        found.append(Finding("not-numbers", "error", f"{name} holds {entry!r}", Place.of(rows, [name])))
    return values


def _is_missing(entry: object) -> bool:
    return entry is None or entry != entry


def _number(entry: object, spelled: Mapping[str, float]) -> float:
    try:
        return spelled[entry] if isinstance(entry, str) and entry in spelled else float(entry)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return np.nan


def _columns(plan: ColumnPlan, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """D4RL's columns; an episode that changes without a flag ends with a time-out, as `read_table` has it."""
    rows = len(stored[next(iter(plan.action))])
    columns = {
        "observations": _stacked(stored, plan.observation, rows),
        "actions": _stacked(stored, plan.action, rows),
        **({"rewards": _single(stored[plan.reward.columns[0]])} if plan.reward.recorded else {}),
        "terminals": np.zeros(rows, np.bool_) if plan.terminal is None else stored[plan.terminal],
        **({"next_observations": _stacked(stored, plan.next_observation, rows)} if plan.next_observation else {}),
    }
    if plan.truncated is not None:
        columns["timeouts"] = stored[plan.truncated]
    if plan.episode is not None:
        label = _numbered(stored[plan.episode])
        last = np.append(label[1:] != label[:-1], True) & ~(columns["terminals"] == 1)
        flags = columns.get("timeouts", np.zeros(rows))
        columns["timeouts"] = np.where(last & (flags == 0), 1.0, flags)
    # Flags that are 0 and 1 only are flags; anything else stays for the check of flags to report.
    flag_names = ("terminals", "timeouts")
    return {k: v.astype(np.bool_) if k in flag_names and np.isin(v, (0, 1)).all() else v for k, v in columns.items()}


def _stacked(stored: dict[str, np.ndarray], layout: Layout | Sequence[str], rows: int) -> np.ndarray:
    """The columns of `layout` side by side, (rows, size)."""
    return _single(np.concatenate([stored[name].reshape(rows, -1) for name in layout], axis=1))


def _single(array: np.ndarray) -> np.ndarray:
    """Text has no precision: float32, as training has it, unless something overflows."""
    return array.astype(np.float32) if np.nanmax(np.abs(array), initial=0.0) < np.finfo(np.float32).max else array
