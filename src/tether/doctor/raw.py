"""`RawColumns`: what a source holds, as it is stored, before anybody refuses it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import h5py
import numpy as np

from tether.data.choices import levels_box
from tether.data.dataset import Dataset
from tether.data.hdf5 import open_hdf5, values_of
from tether.data.npz import open_npz_archive
from tether.data.readers.d4rl import (
    layout_rules,
    note_of_lost,
    pieces_at,
    read_schema,
    rows_in_no_order,
    scalar_metadata,
)
from tether.data.readers.d4rl_names import d4rl_name
from tether.data.readers.download import Downloads
from tether.data.readers.lerobot import find_lerobot, read_lerobot_folder
from tether.data.readers.minari import find_minari_file, is_minari_hdf5
from tether.data.readers.recording import Recording
from tether.data.schema import COLLECT_KEY, DENSITY_KEY, IMPORT_KEY, MASKS_KEY, RECORDED_KEY, Schema
from tether.data.source import follows
from tether.data.sources import (
    BUNDLED,
    HDF5_SUFFIXES,
    TABLE_SUFFIXES,
    bundled_names,
    d4rl_path,
    find_recording,
    load_dataset,
    local_sources,
)
from tether.doctor.findings import Finding
from tether.doctor.minari import read_minari_columns
from tether.doctor.table import read_table_columns
from tether.machine.files import sha256_file
from tether.machine.reading import parse_json

__all__ = ["STANDARD", "RawColumns", "as_levels", "read_raw"]

STANDARD = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
WIDEST_EXTRA = 4
"""Other columns (`infos/goal`, time stamps, episode numbers) up to this width are read for checking."""


@dataclass(frozen=True, eq=False)
class RawColumns:
    """The columns of a source exactly as stored: any shape, any type, any value.

    Attributes:
        name: the data set's name, by which its task is found.
        location: where it was read.
        layout: `d4rl`, `minari`, `npz`, `ogbench`, `table`, `episodes` (LeRobot, a group or file for each episode) or
            `dataset` (read through `load_dataset`).
        columns: those of `STANDARD` that are there. Minari's flags are called as D4RL's.
        extras: other arrays, e.g. `infos/goal`; masks, successes and the like under the names of `Dataset.to_hdf5`.
        metadata: small scalars.
        documents: texts of `tether data import` and `collect` that are only passed on.
        schema: names of the columns and the robot's own range of its actions.
        action_limits: lowest and highest action, (A,) each, where the source states them.
        maps_actions: the source's reader maps actions from these limits to [-1, 1].
        exact_next_observations: the next observation of every row is known (see `Dataset`).
        terminals_end_episodes: False where the recording goes on after a terminal row (see `Dataset`).
        states_rules: these two are known of the source; False: it is read by D4RL's conventions.
        horizon: steps until the environment's time limit, where the source states it.
        continuous: whole numbers among the actions are levels: the source or its user says so.
        clock: the one of `extras` that is the clock, where the source says so.
        findings: what was found while reading.
        source_rows: the row in the source that each one was; None where they stand in its order.
    """

    name: str
    location: str
    layout: str
    columns: Mapping[str, np.ndarray]
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    metadata: Mapping[str, str | float | int] = field(default_factory=dict)
    documents: Mapping[str, str] = field(default_factory=dict)
    schema: Schema | None = None
    action_limits: tuple[np.ndarray, np.ndarray] | None = None
    maps_actions: bool = False
    exact_next_observations: bool = False
    terminals_end_episodes: bool = True
    states_rules: bool = False
    horizon: int | None = None
    continuous: bool = False
    clock: str | None = None
    findings: tuple[Finding, ...] = ()
    sha256: str = ""
    source_rows: np.ndarray | None = None

    def with_columns(self, **changes: np.ndarray | None) -> "RawColumns":
        """A copy with some columns replaced, or left out where None is given."""
        columns = {**self.columns, **changes}
        return replace(self, columns={name: column for name, column in columns.items() if column is not None})

    def select(self, rows: np.ndarray) -> "RawColumns":
        """A copy with these rows, in this order, of every column that has as many rows as the observations."""
        count = len(self.columns["observations"])

        def pick(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: array[rows] for name, array in arrays.items() if len(array) == count}

        source_rows = None if self.source_rows is None else self.source_rows[rows]
        return replace(self, columns=pick(self.columns), extras=pick(self.extras), source_rows=source_rows)


def read_raw(source: str | Path, every_column: bool = False) -> RawColumns:
    """Reads a source as it is: a bundled name, `d4rl:NAME`, `minari:ID`, an HDF5 file (D4RL's or Minari's layout), a
    Minari folder, LeRobot's folders, episodes in groups or files of their own, a CSV, Parquet or npz table.

    `ogbench:NAME` is read by `load_dataset`, which computes its rewards and refuses what it refuses.

    Args:
        source: as for `load_dataset`. A set that is not on this machine is downloaded as it would be for training.
        every_column: also read other columns wider than `WIDEST_EXTRA` (for writing them out again).

    Raises:
        InputError: no such source, or a damaged file.
    """
    source = str(source)
    widest = None if every_column else WIDEST_EXTRA
    if source in bundled_names():
        return replace(_read_d4rl(BUNDLED / f"{source}.hdf5", widest), location=source)
    prefix, _, name = source.partition(":")
    if prefix == "d4rl" and name:
        # The file lies in the cache under the name that its server gave it.
        return replace(_read_d4rl(d4rl_path(name, Downloads()), widest), name=d4rl_name(name), location=source)
    if prefix == "minari" and name:
        return _read_minari_by_name(source)
    if prefix == "lerobot" and name:
        return _from_recording(read_lerobot_folder(find_lerobot(name)))
    path = Path(source).expanduser()
    if (recording := find_recording(path)) is not None:
        return _from_recording(recording)
    if path.is_dir() and (file := find_minari_file(path)) is not None:
        return _from_minari(file)
    if path.suffix.lower() in HDF5_SUFFIXES and path.is_file():
        return _from_minari(path) if is_minari_hdf5(path) else _read_d4rl(path, widest)
    if path.suffix.lower() == ".npz" and path.is_file() and (raw := _read_npz(path, widest)) is not None:
        return raw
    if path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
        return _read_table(path, widest)
    return _from_dataset(source)


def as_levels(raw: RawColumns) -> RawColumns:
    """`raw` with whole numbers among its actions as levels, whose own range is mapped to [-1, 1] as `load_dataset` does
    where it is told so."""
    box = levels_box(raw.columns["actions"]) if "actions" in raw.columns and raw.action_limits is None else None
    limits = raw.action_limits if box is None else (np.asarray(box.low), np.asarray(box.high))
    return replace(raw, continuous=True, action_limits=limits, maps_actions=raw.maps_actions or box is not None)


def _read_minari_by_name(source: str) -> RawColumns:
    """The file of `minari:ID`; one that is not on this machine yet is downloaded by `load_dataset`."""

    def local() -> Path | None:
        return next((Path(found.where) for found in local_sources() if found.name == source), None)

    path = local()
    if path is None:
        load_dataset(source)
        path = local()
    return _from_dataset(source) if path is None else replace(_from_minari(path), location=source)


def _read_table(path: Path, widest: int | None) -> RawColumns:
    read = read_table_columns(path, widest)
    raw = RawColumns(
        name=path.stem,
        location=str(path),
        layout="table",
        columns=read.columns,
        extras=read.extras,
        schema=read.schema,
        findings=read.findings,
        sha256=sha256_file(path),
        source_rows=read.source_rows,
    )
    return _with_own_successors(raw)


def _read_d4rl(path: Path, widest: int | None) -> RawColumns:
    columns: dict[str, np.ndarray] = {}
    extras: dict[str, np.ndarray] = {}
    with open_hdf5(path) as file:
        observations = file.get("observations")
        rows = observations.shape[0] if _is_array(observations) else None

        def visit(name: str, node: Any) -> None:
            if not _is_array(node):
                return
            if name in STANDARD:
                columns[name] = values_of(node)
            elif node.shape[0] == rows and (widest is None or int(np.prod(node.shape[1:])) <= widest):
                extras[name] = values_of(node)

        file.visititems(visit)
        metadata, schema = scalar_metadata(file), read_schema(file, path)
        found = {key: file.get(key) for key in (IMPORT_KEY, COLLECT_KEY)}
        documents = {key: str(node.asstr()[()]) for key, node in found.items() if isinstance(node, h5py.Dataset)}
        rules = layout_rules(file, path)
    raw = RawColumns(
        path.stem,
        str(path),
        "d4rl",
        columns,
        extras,
        metadata,
        documents,
        schema,
        states_rules=bool(rules),
        clock=_clock(documents.get(IMPORT_KEY, "{}")),
        sha256=sha256_file(path),
        **rules,
    )
    return raw if rules else _with_own_successors(raw)


def _with_own_successors(raw: RawColumns) -> RawColumns:
    """`raw` as its reader takes it where stored next observations are used as exact ones: of D4RL's files where rows
    mostly do not follow each other (replay buffers), of tables always. Episodes end where a row is not followed."""
    columns = raw.columns
    needed = [columns.get(name) for name in ("observations", "next_observations")]
    flags = [columns[name] for name in ("terminals", "timeouts") if name in columns]
    rows = len(columns["observations"]) if "observations" in columns else 0
    if not all(column is not None and column.dtype.kind in "biuf" and column.ndim == 2 for column in needed):
        return raw
    if rows < 2 or not flags or any(flag.dtype.kind not in "biuf" or flag.size != rows for flag in flags):
        return raw
    observations, following = (column for column in needed if column is not None)
    ends = np.logical_or.reduce([flag.reshape(-1) == 1 for flag in flags])
    told_apart = "timeouts" in columns or ends.any()
    if observations.shape != following.shape or not told_apart:
        return raw
    if (observations == following).all(axis=1).mean() > 0.99:  # not what followed: reported, and repaired
        return raw
    lost = rows_in_no_order(observations, following, ends)
    if lost is None and raw.layout == "d4rl":
        return raw
    if lost is None:
        known = np.isfinite(following[:-1]).all(axis=1) & np.isfinite(observations[1:]).all(axis=1)
        lost = np.flatnonzero(~ends[:-1] & known & ~follows(following[:-1], observations[1:]))
    raw = replace(raw, exact_next_observations=True, states_rules=True)
    if len(lost) == 0:
        return raw
    timeouts = columns["timeouts"].reshape(-1).copy() if "timeouts" in columns else np.zeros(rows, np.bool_)
    timeouts[lost] = True
    findings = (*raw.findings, Finding("left-out", "note", note_of_lost(lost)))
    extras = {**raw.extras, RECORDED_KEY: pieces_at(ends, lost)}
    return replace(raw.with_columns(timeouts=timeouts), extras=extras, findings=findings)


def _clock(origin: str) -> str | None:
    """The column that `tether data import` has kept as the clock."""
    try:
        return parse_json(origin).get("clock")
    except (ValueError, AttributeError):
        return None


def _is_array(node: Any) -> TypeGuard[h5py.Dataset]:
    return isinstance(node, h5py.Dataset) and node.shape is not None and len(node.shape) > 0


def _read_npz(path: Path, widest: int | None) -> RawColumns | None:
    """None for a table under names of its own."""
    with open_npz_archive(path) as archive:
        arrays = {name: archive.read(name) for name in archive.headers}
    if "observations" not in arrays:
        return None
    columns = {name: array for name, array in arrays.items() if name in STANDARD and array.ndim > 0}
    rows = len(columns["observations"]) if "observations" in columns else None
    extras = {
        name: array
        for name, array in arrays.items()
        if name not in columns
        and array.ndim > 0
        and len(array) == rows
        and (widest is None or int(np.prod(array.shape[1:])) <= widest)
    }
    layout, findings = "npz", ()
    if "rewards" not in columns and "qpos" in arrays and "terminals" in columns:
        layout = "ogbench"
        what = "no rewards, but `qpos` and `terminals`: a trajectory ends at each of these flags"
        findings = (Finding("ogbench-layout", "note", what),)
        columns["timeouts"], columns["terminals"] = columns["terminals"], np.zeros(rows or 0, np.bool_)
    raw = RawColumns(path.stem, str(path), layout, columns, extras, findings=findings, sha256=sha256_file(path))
    return _with_own_successors(raw)


def _from_minari(path: Path) -> RawColumns:
    read = read_minari_columns(path)
    return RawColumns(
        name=read.name,
        location=str(path),
        layout="minari",
        columns=read.columns,
        extras={} if read.successes is None else {"successes": read.successes},
        metadata=read.metadata,
        action_limits=read.action_limits,
        maps_actions=True,
        exact_next_observations=True,
        states_rules=True,
        horizon=read.horizon,
        findings=read.findings,
        sha256=sha256_file(path),
    )


def _from_recording(read: Recording) -> RawColumns:
    box = read.box
    findings = [Finding("left-out", "note", note) for note in read.notes]
    if not box.is_unit():
        what = f"{read.beyond}; each one's range in the data is read as -1 to 1"
        findings.append(Finding("actions-out-of-range", "note", what))
    return RawColumns(
        name=read.name,
        location=read.source.location,
        layout="episodes",
        columns=read.columns,
        extras={**read.extras, **_beside(read)},
        clock="timestamp",
        metadata=read.metadata,
        schema=Schema(read.observation, read.action, box),
        action_limits=None if box.is_unit() else (np.asarray(box.low), np.asarray(box.high)),
        maps_actions=True,
        exact_next_observations=read.exact_next_observations,
        terminals_end_episodes=read.terminals_end_episodes,
        states_rules=True,
        findings=tuple(findings),
        sha256=read.source.sha256,
    )


def _from_dataset(source: str) -> RawColumns:
    data = load_dataset(source)
    columns = {name: getattr(data, name) for name in STANDARD if getattr(data, name) is not None}
    kept = {RECORDED_KEY: data.recorded_episodes, DENSITY_KEY: data.log_densities}
    if not data.has_rewards:
        del columns["rewards"]
    return RawColumns(
        name=data.name,
        location=source,
        layout="dataset",
        columns=columns,
        extras=_beside(data) | {key: column for key, column in kept.items() if column is not None},
        metadata=data.metadata,
        schema=data.schema,
        exact_next_observations=data.exact_next_observations,
        terminals_end_episodes=data.terminals_end_episodes,
        states_rules=True,
        sha256=data.source.sha256,
    )


def _beside(read: Recording | Dataset) -> dict[str, np.ndarray]:
    """Masks and successes under the names that `Dataset.to_hdf5` gives them."""
    found = {f"{MASKS_KEY}/{name}": mask for name, mask in read.masks.items()}
    return found if read.successes is None else {**found, "successes": read.successes}
