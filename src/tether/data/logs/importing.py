"""`tether data import`: logs of a robot, in tables, to a data set in D4RL's HDF5 layout.

Nothing is guessed silently: what the user did not say is either refused with the choices or noted in
`Import.assumed`, which is printed and kept in the file. Units are left alone; only actions are mapped, from the range
that is recorded in the schema to [-1, 1], and the policy that is trained on them maps them back.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tether._version import __version__
from tether.data.choices import ON_THE_COMMAND_LINE, Choices, levels_box, refuse_choices
from tether.data.dataset import Dataset
from tether.data.hdf5 import new_hdf5
from tether.data.logs.columns import ColumnOptions, ColumnPlan, find_files, resolve
from tether.data.logs.episodes import in_episodes
from tether.data.logs.joined import join_tables
from tether.data.logs.order import refuse_unordered
from tether.data.logs.pieces import HEADER_BYTES, Table
from tether.data.logs.rows import Interleaved, Mended, Rows, joined, rows_of
from tether.data.logs.tables import open_table
from tether.data.schema import (
    IMPORT_KEY,
    LAYOUT_KEY,
    RECORDED_KEY,
    SCHEMA_KEY,
    ActionBox,
    Layout,
    Schema,
    size_of,
    summary,
    unit_box,
)
from tether.data.source import ACTION_TOLERANCE, Source, rounded_away
from tether.errors import InputError, shortened
from tether.machine.files import sha256_file

__all__ = ["ColumnOptions", "Import", "conventional_options", "import_logs", "import_report", "read_table"]

CHUNK_BYTES = 2**20  # of the HDF5 file's columns
WRITTEN_BYTES = 8 * 2**20  # rows are gathered until they are as many
MOST_NAMES = 40  # that are printed


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
    tables, own_options = _opened(files, options)
    plan = resolve(tables, own_options)
    refuse_unordered(tables[0], plan)
    try:
        return _written(files, tables, plan, options, out)
    except Interleaved:
        return _written(files, tables, plan, options, out, gathered=True)


def _written(
    files: Sequence[Path],
    tables: Sequence[Table],
    plan: ColumnPlan,
    options: ColumnOptions,
    out: Path,
    gathered: bool = False,
) -> Import:
    """The file that `plan` makes of the tables. gathered: see `rows_of`."""
    report = Import(out, observation=plan.named(plan.observation), action=plan.named(plan.action))
    mended = Mended()
    with new_hdf5(out) as file:
        columns = _Appender(file, plan.reward.recorded)
        for rows in rows_of(tables, plan, mended, gathered=gathered):
            columns.append(rows)
            file.check_disk()
            report.rows += len(rows.rewards)
            report.episodes += int((rows.terminals | rows.timeouts).sum())
        if not report.rows:
            raise InputError(f"{files[0]}: holds no rows" + (" without a gap" if mended.dropped_rows else ""))
        columns.flush()
        if (recorded := mended.episodes(np.concatenate(columns.recorded))) is not None:
            file[RECORDED_KEY] = recorded
        report.assumed = [*plan.assumed, *_rounding_notes(tables[0], plan), *mended.notes(plan)]
        _judge_choices(columns.choices, str(files[0]), options, report)
        report.box = _action_box(columns, report.action, options, report)
        _scale_actions(file, report.box)
        _write_metadata(file, Schema(report.observation, report.action, report.box), files, options, plan, report)
    return report


def _opened(files: Sequence[Path], options: ColumnOptions) -> tuple[list[Table], ColumnOptions]:
    """The files as tables, joined if they are to be, and the options in the names of their columns."""
    tables = [open_table(path, options.header, options.decimal, options.encoding) for path in files]
    if options.join:
        return [join_tables(tables, options.join)], options
    seen = [in_episodes(table, options) for table in tables]
    return [table for table, _ in seen], seen[0][1]


def _rounding_notes(table: Table, plan: ColumnPlan) -> Iterator[str]:
    """A line for each observation that float32 cannot hold, as the first rows show."""
    names = [name for name in plan.observation if plan.kinds[name] in ("float32", "float32?")]
    first = next(table.read(dict.fromkeys(names, "float64?"), HEADER_BYTES), {})
    for name, values in first.items():
        matrix = np.nan_to_num(values.reshape(len(values), -1)) if name in names else np.zeros((0, 1))
        for _, exact, kept in rounded_away(matrix):
            yield (
                f"{name!r}: {exact:,} different values become {kept:,} in float32, in which networks compute: leave it "
                "out, or subtract its beginning"
            )


def import_report(done: Import) -> list[str]:
    """What an import did, line by line."""
    names = [f"observation  {_described(done.observation)}", f"action       {_described(done.action)}"]
    ranges = [
        f"             {name}: {done.box.in_words(*slice_)} becomes -1 to 1"
        for name, slice_ in done.action.items()
        if not done.box.is_unit()
    ]
    counts = f"{done.out}: {done.rows:,} rows, {done.episodes:,} episodes"
    return [counts, *names, *ranges, *(f"assumed      {note}" for note in done.assumed)]


def _described(layout: Layout) -> str:
    return f"{size_of(layout)} numbers: {', '.join(layout) if len(layout) <= MOST_NAMES else summary(layout)}"


def read_table(path: Path, continuous: bool = False) -> Dataset:
    """A table whose columns follow the convention, as a data set without an import.

    The convention: `observation_*`, `action_*`, `reward`, `terminal`, `timeout`, or D4RL's plural names, and perhaps
    `episode` and `next_observation_*`; without a reward they are demonstrations. continuous: as of
    `load_dataset`. Raises InputError for other columns, naming `tether data import`, and as `Dataset`.
    """
    table = open_table(path)
    options = conventional_options(table)
    table, options = in_episodes(table, options)
    plan = resolve([table], options)
    mended = Mended()
    close_last = options.episode is not None or table.has_episodes
    pieces = list(rows_of([table], plan, mended, close_last, gathered=True))
    if not pieces:
        raise InputError(f"{path}: holds no rows")
    rows = joined(pieces)
    if not continuous:
        refuse_choices(str(path), rows.actions, list(plan.named(plan.action)))
    box = levels_box(rows.actions) if continuous else None
    if box is not None:
        rows = rows._replace(actions=box.to_unit(rows.actions))
    limit = np.abs(rows.actions).max()
    if limit > 1 + ACTION_TOLERANCE:
        raise InputError(
            f"{path}: actions reach {limit:g}, beyond [-1, 1]; tether data import scales them and keeps the scale"
        )
    columns = rows._asdict()
    del columns["infos"], columns["recorded"]
    return Dataset(
        name=path.stem,
        **columns,
        source=Source.at(path, sha256_file(path)),
        exact_next_observations=rows.next_observations is not None,
        has_rewards=plan.reward.recorded,
        notes=(*(() if plan.reward.recorded else ("no column is called reward or rewards",)), *mended.notes(plan)),
        recorded_episodes=mended.episodes(rows.recorded),
        schema=Schema(plan.named(plan.observation), plan.named(plan.action), box or unit_box(rows.actions.shape[1])),
        continuous=continuous,
    )


def conventional_options(table: Table) -> ColumnOptions:
    """The options of a table that follows the convention of `read_table`. Raises InputError for one that does not."""
    columns = table.columns

    def first(*names: str) -> str | None:
        return next((name for name in names if _matches(name, columns)), None)

    observation = first("observations", "observation", "observation_*")
    action = first("actions", "action", "action_*")
    following = first("next_observations", "next_observation", "next_observation_*")
    reward, episode = first("rewards", "reward"), first("episode")
    terminal, truncated = first("terminals", "terminal"), first("timeouts", "timeout")
    apart = terminal or truncated or episode or following
    simulated = reward is None and "qpos" in columns  # OGBench's own files: their rewards are computed
    if observation is None or action is None or simulated or not apart:
        raise InputError(
            f"{table.path}: its columns ({shortened(', '.join(columns))}) do not follow the convention (observation_*, "
            "action_*, reward, terminal, timeout, or D4RL's names); say what they mean to: tether data import"
        )
    return ColumnOptions(
        (observation,),
        (action,),
        reward or "none",
        episode,
        terminal,
        truncated,
        next_observation=() if following is None else (following,),
    )


def _matches(name: str, columns: Iterable[str]) -> bool:
    if not name.endswith("*"):
        return name in columns
    return any(column.startswith(name[:-1]) for column in columns)


# --- the HDF5 file ------------------------------------------------------------------------------------------


class _Appender:
    """D4RL's columns in an open file, which grow; remembers the range of the actions and whether they are choices."""

    def __init__(self, file: h5py.File, has_rewards: bool):
        self._file = file
        self._has_rewards = has_rewards
        self._gathered: list[Rows] = []
        self._bytes = 0
        self.low: np.ndarray = np.array(np.inf)
        self.high: np.ndarray = np.array(-np.inf)
        self.choices = Choices()
        self.recorded: list[np.ndarray] = []  # of all rows

    def append(self, rows: Rows) -> None:
        self.recorded.append(rows.recorded)
        self.low = np.minimum(self.low, rows.actions.min(axis=0))
        self.high = np.maximum(self.high, rows.actions.max(axis=0))
        self.choices.see(rows.actions)
        self._gathered.append(rows)
        self._bytes += sum(column.nbytes for column in _named_columns(rows).values())
        if self._bytes > WRITTEN_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered."""
        if not self._gathered:
            return
        rows = self._gathered[0] if len(self._gathered) == 1 else joined(self._gathered)
        self._gathered, self._bytes = [], 0
        for name, column in _named_columns(rows).items():
            if name == "rewards" and not self._has_rewards:
                continue
            if name not in self._file:
                chunk = max(1, CHUNK_BYTES // (column.itemsize * int(np.prod(column.shape[1:], dtype=np.int64))))
                chunk = min(chunk, len(column))  # a chunk is written whole: small data make a small file
                shape, most = (0, *column.shape[1:]), (None, *column.shape[1:])
                self._file.create_dataset(name, shape, column.dtype, maxshape=most, chunks=(chunk, *column.shape[1:]))
            stored: Any = self._file[name]
            stored.resize(len(stored) + len(column), axis=0)
            stored[-len(column) :] = column


def _named_columns(rows: Rows) -> dict[str, np.ndarray]:
    """As they are called in the file; `infos/` has what training does not read."""
    columns = {name: column for name, column in rows._asdict().items() if isinstance(column, np.ndarray)}
    del columns["recorded"]  # written at the end, where rows of some are missing
    return columns | {f"infos/{name}": column for name, column in rows.infos.items()}


def _judge_choices(choices: Choices, where: str, options: ColumnOptions, report: Import) -> None:
    """Raises InputError for actions that are choices, unless they are said to be levels."""
    names = list(report.action) if len(report.action) == size_of(report.action) else None
    names = names or [_name_at(report.action, index) for index in range(size_of(report.action))]
    refusal = None if options.continuous else choices.refusal(where, names, ON_THE_COMMAND_LINE)
    if refusal is not None:
        raise refusal
    levels = {} if options.continuous else choices.levels()
    for why in dict.fromkeys(levels.values()):
        which = ", ".join(names[index] for index, reason in levels.items() if reason == why)
        report.assumed.append(f"{which}: {why}: taken as levels")


def _action_box(seen: _Appender, names: Layout, options: ColumnOptions, report: Import) -> ActionBox:
    """The range that is mapped to [-1, 1]: what the user says, else [-1, 1] where it fits, else the data's own."""
    low, high = seen.low, seen.high
    size = len(low)
    if options.action_low or options.action_high:
        return _stated_box(low, high, names, options)
    # Levels 0 and 1 lie in [-1, 1] and would look like choices there.
    fits = (low >= -1 - ACTION_TOLERANCE).all() and (high <= 1 + ACTION_TOLERANCE).all()
    if fits and not (options.continuous and seen.choices.columns()):
        report.assumed.append("no --action-low and --action-high: all actions lie in [-1, 1] and are kept as they are")
        return ActionBox((-1.0,) * size, (1.0,) * size)
    report.assumed.append("no --action-low and --action-high: each action's range is the data's own")
    return ActionBox(tuple(low.astype(float).tolist()), tuple(high.astype(float).tolist()))


def _stated_box(low: np.ndarray, high: np.ndarray, names: Layout, options: ColumnOptions) -> ActionBox:
    """The user's. Raises InputError where actions lie beyond it."""
    size, ends = len(low), []
    for option, given in (("low", options.action_low), ("high", options.action_high)):
        if len(given) not in (1, size):
            raise InputError(f"--action-{option}: {len(given)} numbers for {size} actions; give 1 or {size}")
        if not np.isfinite(given).all():
            raise InputError(f"--action-{option} {' '.join(map(str, given))}: needs finite numbers")
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
    file: h5py.File,
    schema: Schema,
    files: Sequence[Path],
    options: ColumnOptions,
    plan: ColumnPlan,
    report: Import,
) -> None:
    """What the columns are, and how they came about."""
    origin = {
        "tether": __version__,
        "files": [path.name for path in files],
        "options": asdict(options),
        "assumed": report.assumed,
        "clock": None if plan.time is None else f"infos/{plan.time}",
    }
    file[SCHEMA_KEY] = json.dumps(schema.to_json())
    file[IMPORT_KEY] = json.dumps(origin)
    if plan.next_observation:
        file[LAYOUT_KEY] = json.dumps({"exact_next_observations": True, "terminals_end_episodes": True})
