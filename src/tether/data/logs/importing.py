"""`tether data import`: logs of a robot, in tables, to a data set in D4RL's HDF5 layout.

Nothing is guessed silently: what the user did not say is either refused with the choices or noted in
`Import.assumed`, which is printed and kept in the file. Units are left alone; only actions are mapped, from the range
that is recorded in the schema to [-1, 1], and the policy that is trained on them maps them back.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tether._version import __version__
from tether.data.dataset import ACTION_TOLERANCE, Dataset, Source
from tether.data.logs.columns import ColumnOptions, find_files, resolve
from tether.data.logs.rows import Rows, rows_of
from tether.data.logs.tables import Table, open_table
from tether.data.schema import IMPORT_KEY, SCHEMA_KEY, ActionBox, Layout, Schema, size_of
from tether.errors import InputError
from tether.machine.files import atomic_path, sha256_file

__all__ = ["ColumnOptions", "Import", "conventional_options", "import_logs", "import_report", "read_table"]

CHUNK_BYTES = 2**20  # of the HDF5 file's columns


@dataclass
class Import:
    """What an import has done and what it took for granted."""

    out: Path
    rows: int = 0
    episodes: int = 0
    observation: Layout = field(default_factory=dict)
    action: Layout = field(default_factory=dict)
    box: ActionBox = field(default_factory=lambda: ActionBox((), ()))
    assumed: list[str] = field(default_factory=list)


def import_logs(paths: Sequence[Path], options: ColumnOptions, out: Path) -> Import:
    """Write the logs in `paths` (files, or folders of files) to the HDF5 file `out`, whole or not at all.

    Raises InputError, with nothing written, for ambiguous options and for logs that cannot be read as asked; OSError
    where the disk fails.
    """
    if out.suffix.lower() not in (".hdf5", ".h5"):
        raise InputError(f"--out {out}: name a *.hdf5 file")
    if out.exists():
        raise InputError(f"--out {out}: exists already")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    files = find_files(paths)
    plan = resolve(open_table(files[0]).columns, options, files)
    report = Import(out, observation=plan.observation, action=plan.action, assumed=list(plan.assumed))
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        columns = _Appender(file)
        for rows in rows_of(files, plan):
            columns.append(rows)
            report.rows += len(rows.rewards)
            report.episodes += int((rows.terminals | rows.timeouts).sum())
        if not report.rows:
            raise InputError(f"{files[0]}: holds no rows")
        report.box = _action_box(columns.low, columns.high, plan.action, options, report)
        _scale_actions(file, report.box)
        _write_metadata(file, Schema(plan.observation, plan.action, report.box), files, options, report)
    return report


def import_report(done: Import) -> list[str]:
    """What an import did, line by line."""
    names = [f"observation  {_described(done.observation)}", f"action       {_described(done.action)}"]
    ranges = [
        f"             {name}: {done.box.low[start]:g} to {done.box.high[start]:g} becomes -1 to 1"
        + (f" (and {stop - start - 1} more)" if stop - start > 1 else "")
        for name, (start, stop) in done.action.items()
        if not done.box.is_unit()
    ]
    counts = f"{done.out}: {done.rows:,} rows, {done.episodes:,} episodes"
    return [counts, *names, *ranges, *(f"assumed      {note}" for note in done.assumed)]


def _described(layout: Layout) -> str:
    return f"{size_of(layout)} numbers: {', '.join(layout)}"


def read_table(path: Path) -> Dataset:
    """A table whose columns follow the convention, as a data set without an import.

    The convention: `observation_*`, `action_*`, `reward`, `terminal`, `timeout`, or D4RL's plural names, and perhaps
    `episode`. Raises InputError for other columns, naming `tether data import`, and as `Dataset`.
    """
    table = open_table(path)
    options = conventional_options(table)
    plan = resolve(table.columns, options, [path])
    pieces = list(rows_of([path], plan, close_last=options.episode is not None))
    if not pieces:
        raise InputError(f"{path}: holds no rows")
    rows = Rows(*(np.concatenate(column) for column in zip(*pieces, strict=True)))
    limit = np.abs(rows.actions).max()
    if limit > 1 + ACTION_TOLERANCE:
        raise InputError(
            f"{path}: actions reach {limit:g}, beyond [-1, 1]; tether data import scales them and keeps the scale"
        )
    ones = (1.0,) * rows.actions.shape[1]
    return Dataset(
        name=path.stem,
        **rows._asdict(),
        next_observations=None,
        source=Source(str(path), sha256_file(path)),
        schema=Schema(plan.observation, plan.action, ActionBox(tuple(-one for one in ones), ones)),
    )


def conventional_options(table: Table) -> ColumnOptions:
    """The options of a table that follows the convention of `read_table`. Raises InputError for one that does not."""
    columns = table.columns

    def first(*names: str) -> str | None:
        return next((name for name in names if _matches(name, columns)), None)

    observation, action = first("observations", "observation_*"), first("actions", "action_*")
    reward, episode = first("rewards", "reward"), first("episode")
    terminal, truncated = first("terminals", "terminal"), first("timeouts", "timeout")
    if observation is None or action is None or reward is None or not (terminal or truncated or episode):
        raise InputError(
            f"{table.path}: its columns ({', '.join(columns)}) do not follow the convention (observation_*, action_*, "
            "reward, terminal, timeout, or D4RL's names); say what they mean to: tether data import"
        )
    return ColumnOptions((observation,), (action,), reward, episode, terminal, truncated)


def _matches(name: str, columns: Iterable[str]) -> bool:
    if not name.endswith("*"):
        return name in columns
    return any(column.startswith(name[:-1]) for column in columns)


# --- the HDF5 file ------------------------------------------------------------------------------------------


class _Appender:
    """D4RL's columns in an open file, which grow; remembers the range of the actions."""

    def __init__(self, file: h5py.File):
        self._file = file
        self.low: np.ndarray = np.array(np.inf)
        self.high: np.ndarray = np.array(-np.inf)

    def append(self, rows: Rows) -> None:
        for name, column in rows._asdict().items():
            if name not in self._file:
                chunk = max(1, CHUNK_BYTES // (column.itemsize * int(np.prod(column.shape[1:], dtype=np.int64))))
                shape, most = (0, *column.shape[1:]), (None, *column.shape[1:])
                self._file.create_dataset(name, shape, column.dtype, maxshape=most, chunks=(chunk, *column.shape[1:]))
            stored: Any = self._file[name]
            stored.resize(len(stored) + len(column), axis=0)
            stored[-len(column) :] = column
        self.low = np.minimum(self.low, rows.actions.min(axis=0))
        self.high = np.maximum(self.high, rows.actions.max(axis=0))


def _action_box(low: np.ndarray, high: np.ndarray, names: Layout, options: ColumnOptions, report: Import) -> ActionBox:
    """The range that is mapped to [-1, 1]: what the user says, else [-1, 1] where it fits, else the data's own."""
    size = len(low)
    if options.action_low or options.action_high:
        ends = []
        for option, given in (("low", options.action_low), ("high", options.action_high)):
            if len(given) not in (1, size):
                raise InputError(f"--action-{option}: {len(given)} numbers for {size} actions; give 1 or {size}")
            ends.append(tuple(given) * (size if len(given) == 1 else 1))
        box = ActionBox(*ends)
        slack = ACTION_TOLERANCE * np.maximum(np.abs(box.low), np.abs(box.high))
        bad = np.flatnonzero((low < np.asarray(box.low) - slack) | (high > np.asarray(box.high) + slack))
        if len(bad):
            i, where = bad[0], f"actions {bad[0]} ({_name_at(names, int(bad[0]))})"
            raise InputError(
                f"{where} reach from {low[i]:g} to {high[i]:g}, beyond --action-low {box.low[i]:g} and --action-high "
                f"{box.high[i]:g}"
            )
        return box
    if (low >= -1 - ACTION_TOLERANCE).all() and (high <= 1 + ACTION_TOLERANCE).all():
        report.assumed.append("no --action-low and --action-high: all actions lie in [-1, 1] and are kept as they are")
        return ActionBox((-1.0,) * size, (1.0,) * size)
    report.assumed.append("no --action-low and --action-high: each action's range is the data's own")
    return ActionBox(tuple(low.astype(float).tolist()), tuple(high.astype(float).tolist()))


def _name_at(layout: Layout, index: int) -> str:
    return next(name for name, (start, stop) in layout.items() if start <= index < stop)


def _scale_actions(file: h5py.File, box: ActionBox) -> None:
    """The actions in the file, piece by piece, from `box` to [-1, 1]."""
    if box.is_unit():
        return
    actions: Any = file["actions"]
    step = actions.chunks[0] * 8
    for start in range(0, len(actions), step):
        actions[start : start + step] = box.to_unit(actions[start : start + step])


def _write_metadata(
    file: h5py.File, schema: Schema, files: Sequence[Path], options: ColumnOptions, report: Import
) -> None:
    """What the columns are, and how they came about."""
    origin = {
        "tether": __version__,
        "files": [path.name for path in files],
        "options": asdict(options),
        "assumed": report.assumed,
    }
    file[SCHEMA_KEY] = json.dumps(schema.to_json())
    file[IMPORT_KEY] = json.dumps(origin)
