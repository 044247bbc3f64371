"""Repairs that need no judgement, each into new columns; nothing is ever changed in place.

A fix looks at the columns as the fixes before it left them, finds its rows again and returns what it changed. The order
is that of `FIXES`: shapes first, then the order of rows and flags, rows are dropped last.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from tether.data.dataset import recorded_numbers
from tether.data.hdf5 import new_hdf5
from tether.data.schema import LAYOUT_KEY, RECORDED_KEY, SCHEMA_KEY, ActionBox, Schema, layout_of
from tether.doctor import episodes
from tether.doctor.columns import action_scaling, not_finite_repair
from tether.doctor.findings import CODES
from tether.doctor.logged import Logged
from tether.doctor.raw import RawColumns
from tether.errors import InputError, unknown

__all__ = ["FIXES", "Change", "apply_fixes", "check_target", "write_d4rl"]


class Change(NamedTuple):
    """What one fix did."""

    code: str
    what: str


Fixed = tuple[RawColumns, str]


def apply_fixes(raw: RawColumns, codes: Collection[str]) -> tuple[RawColumns, tuple[Change, ...]]:
    """Applies the fixes of `codes` in the order of `FIXES`; raises InputError for a code without one."""
    for code in codes:
        if code not in FIXES:
            raise unknown("automatic fix", code, FIXES)
    changes = []
    for code, fix in FIXES.items():
        if code in codes:
            raw, what = fix(Logged(raw))
            changes.append(Change(code, what))
    return raw, tuple(changes)


# --- shapes and types ---------------------------------------------------------------------------------------


def _add_axis(data: Logged) -> Fixed:
    names = [name for name in ("observations", "actions", "next_observations") if _rank(data, name) == 1]
    changed = {name: data.raw.columns[name][:, None] for name in names}
    return data.raw.with_columns(**changed), f"(N,) to (N, 1): {', '.join(names)}"


def _rank(data: Logged, name: str) -> int:
    return data.raw.columns[name].ndim if name in data.raw.columns else 0


def _flatten(data: Logged) -> Fixed:
    names = [name for name in ("rewards", "terminals", "timeouts") if _rank(data, name) == 2]
    changed = {name: data.raw.columns[name].reshape(-1) for name in names if data.raw.columns[name].shape[1] == 1}
    return data.raw.with_columns(**changed), f"(N, 1) to (N,): {', '.join(changed)}"


def _single_precision(data: Logged) -> Fixed:
    changed = {name: column for name, column in data.raw.columns.items() if column.dtype == np.float64}
    with np.errstate(over="ignore"):  # what overflows is reported as not finite
        changed = {name: column.astype(np.float32) for name, column in changed.items()}
    return data.raw.with_columns(**changed), f"float64 to float32: {', '.join(changed)}"


def _rescale_actions(data: Logged) -> Fixed:
    actions = data.raw.columns["actions"]
    if action_scaling(data) == "limits":
        assert data.raw.action_limits is not None
        low, high = data.raw.action_limits
        # The box goes into the file: the policy that is trained on it maps its actions back.
        box = ActionBox(tuple(low.tolist()), tuple(high.tolist()))
        sizes = {"observation": data.observations.shape[1], "action": data.actions.shape[1]}
        observation, action = (layout_of({name: size}) for name, size in sizes.items())
        plain = Schema(observation, action, box)
        schema = plain if data.raw.schema is None else data.raw.schema._replace(box=box)
        raw = replace(data.raw.with_columns(actions=box.to_unit(actions)), action_limits=None, schema=schema)
        return raw, "every action rescaled from the limits that the source states to [-1, 1], limits kept as schema"
    outside = int((np.abs(actions) > 1).any(axis=1).sum())
    return data.raw.with_columns(actions=np.clip(actions, -1, 1)), f"actions of {outside:,} rows clipped to [-1, 1]"


# --- flags and order ----------------------------------------------------------------------------------------


def _mark(data: Logged, rows: np.ndarray) -> RawColumns:
    """Time-outs at `rows`, besides those that are there."""
    timeouts = data.timeouts.copy()
    timeouts[rows] = True
    return data.raw.with_columns(timeouts=timeouts)


def _deinterleave(data: Logged) -> Fixed:
    environments = data.interleaving
    rows = np.arange(data.rows).reshape(-1, environments).T.reshape(-1)
    sorted_rows = data.raw.select(rows)
    ends = np.arange(1, environments + 1) * (data.rows // environments) - 1
    timeouts = data.timeouts[rows]
    timeouts[ends] |= ~data.terminals[rows][ends]
    return sorted_rows.with_columns(
        timeouts=timeouts
    ), f"rows of {environments} environments stored one after the other"


def _horizon_ends(data: Logged) -> Fixed:
    assert data.horizon is not None
    rows = np.arange(data.horizon - 1, data.rows, data.horizon)
    return _mark(data, rows), f"{len(rows):,} time-outs set, every {data.horizon:,} rows"


def _terminals_to_timeouts(data: Logged) -> Fixed:
    rows = episodes.horizon_terminal_rows(data)
    terminals = data.terminals.copy()
    terminals[rows] = False
    lost = episodes.lost_as_timeouts(data, rows)
    cost = f"{lost:,} transitions fewer to train on" if lost else "no transition lost"
    return _mark(data, rows).with_columns(terminals=terminals), f"{len(rows):,} terminals made time-outs, {cost}"


def _keep_terminal(data: Logged) -> Fixed:
    both = data.terminals & data.timeouts
    return data.raw.with_columns(timeouts=data.timeouts & ~both), f"{int(both.sum()):,} time-outs cleared on terminals"


def _cut_mismatches(data: Logged) -> Fixed:
    rows = episodes.mismatched_rows(data)
    return _mark(data, rows), f"{len(rows):,} time-outs set where the next row is not the next observation"


def _cut_jumps(data: Logged) -> Fixed:
    rows = episodes.jump_rows(data)
    return _mark(data, rows), f"{len(rows):,} time-outs set before jumps"


def _without_next(data: Logged) -> Fixed:
    return data.raw.with_columns(next_observations=None), "column next_observations left out"


# --- rows ---------------------------------------------------------------------------------------------------


def _drop(data: Logged, dropped: np.ndarray) -> RawColumns:
    """Without the rows where `dropped` is True; an episode that loses rows is cut before them by a time-out, and its
    pieces are known as such (`Dataset.recorded_episodes`)."""
    timeouts = data.timeouts.copy()
    before = np.flatnonzero(dropped[1:] & ~dropped[:-1] & ~data.ends[:-1])
    timeouts[before] = True
    recorded = data.raw.extras.get(RECORDED_KEY, data.episode)[: data.rows]
    number = recorded_numbers(recorded)
    recorded = np.where(np.isin(number, number[dropped]), -1 - number, recorded)
    raw = replace(data.raw, extras={**data.raw.extras, RECORDED_KEY: recorded})
    return raw.with_columns(timeouts=timeouts).select(np.flatnonzero(~dropped))


def _drop_not_finite(data: Logged) -> Fixed:
    parts = []
    raw = data.raw
    dropped, leaves_out_next = not_finite_repair(data)
    if leaves_out_next:
        raw = raw.with_columns(next_observations=None)
        parts.append("column next_observations left out")
    if dropped.any():
        raw = _drop(Logged(raw), dropped)
        parts.append(f"{int(dropped.sum()):,} rows dropped")
    return raw, ", ".join(parts)


def _drop_unfollowed(data: Logged) -> Fixed:
    following = data.raw.columns["next_observations"].reshape(data.rows, -1)
    dropped = data.ends & np.isnan(following.astype(np.float64)).all(axis=1)
    return _drop(data, dropped), f"the last step of {int(dropped.sum()):,} episodes dropped"


def _drop_copies(data: Logged) -> Fixed:
    copies = episodes.copied_episodes(data)
    dropped = np.isin(data.episode, copies)
    # Whole episodes go: the row before each is an end already.
    return data.raw.select(np.flatnonzero(~dropped)), f"{len(copies):,} episodes, {int(dropped.sum()):,} rows dropped"


FIXES: Mapping[str, Callable[[Logged], Fixed]] = {
    "missing-last-observation": _drop_unfollowed,
    "wrong-rank": _add_axis,
    "column-vector": _flatten,
    "float64": _single_precision,
    "interleaved-rows": _deinterleave,
    "actions-out-of-range": _rescale_actions,
    "no-episode-ends": _horizon_ends,
    "terminals-at-horizon": _terminals_to_timeouts,
    "terminal-and-timeout": _keep_terminal,
    "next-equals-current": _without_next,
    "next-observation-from-reset": _without_next,
    "next-observation-mismatch": _cut_mismatches,
    "teleports": _cut_jumps,
    "not-finite": _drop_not_finite,
    "duplicated-episodes": _drop_copies,
}
assert set(FIXES) == {name for name, code in CODES.items() if code.automatic}


# --- writing ------------------------------------------------------------------------------------------------


def check_target(path: Path) -> None:
    """Raises InputError unless `path` is a new HDF5 file in an existing folder."""
    if path.suffix.lower() not in (".hdf5", ".h5"):
        raise InputError(f"{path}: the repaired data is written as HDF5; choose a name that ends in .hdf5")
    if path.exists():
        raise InputError(f"{path} exists; the repaired data goes into a new file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")


def write_d4rl(path: Path, raw: RawColumns, record: Mapping[str, Any]) -> tuple[str, ...]:
    """Writes the columns in D4RL's layout, atomically; `record` goes to `metadata/`.

    Returns: the extras that were left out, as HDF5 or the layout keeps their names for itself.

    Raises: InputError as `check_target`; OSError.
    """
    check_target(path)
    own = {SCHEMA_KEY, LAYOUT_KEY, *raw.documents, *(f"metadata/{name}" for name in {**raw.metadata, **record})}
    extras = _storable(raw.extras, own.union(raw.columns))
    with new_hdf5(path) as file:
        for name, column in {**extras, **raw.columns}.items():
            _create(file, name, column)
        for name, value in {**raw.metadata, **record}.items():
            file[f"metadata/{name}"] = value
        for key, text in raw.documents.items():
            file[key] = text
        if raw.schema is not None:
            file[SCHEMA_KEY] = json.dumps(raw.schema.to_json())
        if raw.states_rules or raw.continuous:
            exact = raw.exact_next_observations and "next_observations" in raw.columns
            rules = {"exact_next_observations": exact, "terminals_end_episodes": raw.terminals_end_episodes}
            file[LAYOUT_KEY] = json.dumps(rules | ({"continuous": True} if raw.continuous else {}))
    return tuple(name for name in raw.extras if name not in extras)


def _storable(extras: Mapping[str, np.ndarray], own: Collection[str]) -> dict[str, np.ndarray]:
    """Those whose names are paths of HDF5 that no array lies on: not `metadata` besides `metadata/fixes`, nor `a/b`
    besides `a`."""
    arrays, groups = set(own), {folder for name in own for folder in _folders(name)}
    kept = {}
    for name, column in extras.items():
        legal = not {"", ".", ".."}.intersection(name.split("/")) and "\0" not in name
        if legal and name not in arrays | groups and arrays.isdisjoint(_folders(name)):
            kept[name] = column
            arrays.add(name)
            groups.update(_folders(name))
    return kept


def _folders(name: str) -> list[str]:
    """`a` and `a/b` of `a/b/c`."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _create(file: h5py.File, name: str, column: np.ndarray) -> None:
    """Times, which HDF5 does not know, as nanoseconds (since 1970); text as text, empty where it is missing."""
    if column.dtype.kind in "mM":
        ticks = column.astype(f"{column.dtype.kind}8[ns]")
        missing = np.isnat(ticks)
        numbers = ticks.astype(np.int64)
        file.create_dataset(name, data=np.where(missing, np.nan, numbers) if missing.any() else numbers)
    elif column.dtype.kind == "U" or (column.dtype.kind == "O" and h5py.check_vlen_dtype(column.dtype) is None):
        text = np.array([_text(entry) for entry in column.reshape(-1)], object).reshape(column.shape)
        file.create_dataset(name, data=text, dtype=h5py.string_dtype())
    else:
        file.create_dataset(name, data=column)


def _text(entry: object) -> str:
    if entry is None or entry != entry:
        return ""
    text = entry.decode("utf-8", errors="replace") if isinstance(entry, bytes) else str(entry)
    return text.replace("\0", "")  # HDF5 ends a text there
