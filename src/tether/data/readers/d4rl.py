"""Reader of D4RL's HDF5 files, every generation of them, without the `d4rl` package (docs/data.md).

A D4RL file holds flat columns (`observations`, `actions`, `rewards`, `terminals`, mostly `timeouts`, in gym
v1/v2 also `next_observations`) beside groups (`infos`, `metadata`) of which only scalars are of
interest here.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tether.data.choices import levels_box
from tether.data.dataset import Dataset
from tether.data.entries import schema_of
from tether.data.hdf5 import as_scalar, open_hdf5, read_array
from tether.data.schema import (
    COLLECT_KEY,
    DENSITY_KEY,
    IMPORT_KEY,
    LAYOUT_KEY,
    MASKS_KEY,
    RECORDED_KEY,
    SCHEMA_KEY,
    Schema,
)
from tether.data.source import FileDigest, Source, follows
from tether.environments.tasks import Task, recorded_task
from tether.errors import InputError
from tether.machine.reading import parse_json
from tether.types import Bool, Int

__all__ = [
    "layout_rules",
    "note_of_lost",
    "pieces_at",
    "read_d4rl_hdf5",
    "read_schema",
    "rows_in_no_order",
    "scalar_metadata",
]

REQUIRED = ("observations", "actions", "terminals")
SOME_ROWS = 10_000  # of which it is looked whether the next one follows


def read_d4rl_hdf5(path: str | Path, max_episode_steps: int | None = None, continuous: bool = False) -> Dataset:
    """Reads a D4RL file, with or without `rewards`, `timeouts` and `next_observations`; other arrays are skipped.

    Where stored next observations are mostly not the next rows' observations, rows are in no order: the stored ones
    are exact then, and time-outs are set where a row is not followed.

    A file without `timeouts` (legacy gym v0, perhaps kitchen) leaves three cases; which one applied is
    written to `metadata["timeouts"]`:

    - `max_episode_steps` is given: the last step of every episode that ran that long counts as a time-out, as
      in D4RL. (D4RL's counter starts at 1 instead of 0 in episodes that follow a terminal row, so it cuts
      those one step early and then emits a transition across two episodes; that is not reproduced.)
    - it is not given but some row is terminal: episodes end at terminal rows only. Right for kitchen, where
      every demonstration ends so; wrong where episodes also time out, so give the horizon if there is one.
    - it is not given and no row is terminal: refused, since nothing tells episodes apart.

    Args:
        path: the file; its stem becomes the data set's name.
        max_episode_steps: horizon of the environment in steps; used only where the file has no `timeouts`.
        continuous: as of `load_dataset`.

    Raises:
        InputError: no such file, a folder, not HDF5, damaged, a column missing or not as `Dataset` needs it.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        digest = FileDigest(path)
        _check_keys(file, path)
        columns = {key: read_array(file, key, path) for key in REQUIRED}
        rules = layout_rules(file, path)
        named = ("rewards", "timeouts", "next_observations", *(("successes",) if rules else ()))
        optional = {k: read_array(file, k, path) for k in named if k in file}
        masks = _masks(file, path) if rules else {}
        recorded, densities = (read_array(file, k, path) if k in file else None for k in (RECORDED_KEY, DENSITY_KEY))
        metadata = scalar_metadata(file)
        schema = read_schema(file, path)
        recorded_in = _recorded_in(file, (columns["observations"].shape[-1], columns["actions"].shape[-1]))
    if continuous and schema is None:
        columns["actions"], schema = _as_levels(columns)
    dataset = Dataset(
        name=path.stem,
        observations=columns["observations"],
        actions=columns["actions"],
        rewards=optional.get("rewards", np.zeros(len(columns["observations"]), np.float32)),
        terminals=columns["terminals"],
        timeouts=optional.get("timeouts", np.zeros(len(columns["observations"]), np.bool_)),
        next_observations=optional.get("next_observations"),
        source=Source.at(path, digest),
        metadata=metadata,
        schema=schema,
        recorded_in=recorded_in,
        successes=optional.get("successes"),
        masks=masks,
        has_rewards="rewards" in optional,
        recorded_episodes=recorded,
        log_densities=densities,
        **{"continuous": continuous, **rules},
    )
    dataset = dataset if "timeouts" in optional else _with_timeouts(dataset, max_episode_steps)
    return dataset if rules else _with_own_successors(dataset)


def _check_keys(file: h5py.File, path: Path) -> None:
    """Raises InputError where a column is missing."""
    if missing := [key for key in REQUIRED if key not in file]:
        raise InputError(
            f"{path}: no {', '.join(map(repr, missing))} among its keys {sorted(map(str, file))}; a D4RL file needs "
            f"{', '.join(REQUIRED)} and may have rewards, timeouts, next_observations; of another layout say what the "
            "arrays mean: tether data import"
        )


def _as_levels(columns: dict[str, np.ndarray]) -> tuple[np.ndarray, Schema | None]:
    """The actions in [-1, 1], and a schema with the range that was mapped to it; None where they lie in it."""
    box = levels_box(columns["actions"])
    if box is None:
        return columns["actions"], None
    widths = {key: {"": int(np.prod(columns[key].shape[1:]))} for key in ("observations", "actions")}
    return box.to_unit(columns["actions"]), schema_of(widths, box)


def _with_own_successors(dataset: Dataset) -> Dataset:
    """`dataset`; one whose rows mostly do not follow each other (a replay buffer) with its next observations as exact
    ones, and a time-out at each row that the next one does not follow."""
    following, ends = dataset.next_observations, dataset.terminals | dataset.timeouts
    lost = None if following is None else rows_in_no_order(dataset.observations, following, ends)
    if lost is None:
        return dataset
    timeouts = dataset.timeouts.copy()
    timeouts[lost] = True
    metadata = {**dataset.metadata, "next_observations": note_of_lost(lost)}
    changed = {"timeouts": timeouts, "exact_next_observations": True, "recorded_episodes": pieces_at(ends, lost)}
    return replace(dataset, **changed, metadata=metadata)


def rows_in_no_order(
    observations: np.ndarray, following: np.ndarray, ends: Bool[np.ndarray, " rows"]
) -> Int[np.ndarray, " lost"] | None:
    """The rows inside episodes that the next one does not follow; None where rows mostly follow each other.

    following: the stored next observations. Rows that are not finite, which the doctor meets, do not tell."""
    inside = np.flatnonzero(~ends[:-1])
    some = inside[:: max(1, len(inside) // SOME_ROWS)]
    known = np.isfinite(following[some]).all(axis=1) & np.isfinite(observations[some + 1]).all(axis=1)
    some = some[known]
    if len(some) == 0 or follows(following[some], observations[some + 1]).mean() > 0.5:
        return None
    return inside[~follows(following[inside], observations[inside + 1])]


def note_of_lost(lost: Int[np.ndarray, " lost"]) -> str:
    return f"{len(lost):,} rows are not followed by the next one: the stored next observations are used"


def pieces_at(ends: Bool[np.ndarray, " rows"], lost: Int[np.ndarray, " lost"]) -> Int[np.ndarray, " rows"]:
    """`Dataset.recorded_episodes` where those that `ends` end are cut after the rows `lost`."""
    recorded = np.cumsum(ends) - ends
    return np.where(np.isin(recorded, recorded[lost]), -1 - recorded, recorded)


def _with_timeouts(dataset: Dataset, horizon: int | None) -> Dataset:
    """`dataset` with the time-outs that its file does not store (see `read_d4rl_hdf5`)."""
    where = dataset.source.location
    if horizon is not None and horizon < 1:
        raise InputError(f"{where}: max_episode_steps is {horizon}; at least 1 is needed")
    if horizon is not None:
        timeouts = _timeouts_at_horizon(dataset.terminals, horizon)
        note = f"not stored; every {horizon} steps of an episode"
    elif dataset.terminals.any():
        timeouts = dataset.timeouts
        note = "not stored; none assumed, episodes end at terminal rows"
    else:
        raise InputError(
            f"{where}: has no 'timeouts' and no row is terminal, so episodes cannot be told apart; "
            "give max_episode_steps (1000 for the gym locomotion tasks)"
        )
    return replace(dataset, timeouts=timeouts, metadata={**dataset.metadata, "timeouts": note})


def _timeouts_at_horizon(terminals: Bool[np.ndarray, " batch"], horizon: int) -> Bool[np.ndarray, " batch"]:
    """True at step `horizon - 1` of every episode; a new one starts after each terminal row and time-out."""
    rows = np.arange(len(terminals))
    starts_after_terminal = np.where(np.roll(terminals, 1), rows, 0)  # row 0 starts an episode in any case
    step_since_terminal = rows - np.maximum.accumulate(starts_after_terminal)
    return step_since_terminal % horizon == horizon - 1


def read_schema(file: h5py.File, path: Path) -> Schema | None:
    """The names and the action range that `tether data import` has stored; None in other files."""
    if SCHEMA_KEY not in file:
        return None
    node: Any = file[SCHEMA_KEY]
    try:
        value = parse_json(node.asstr()[()])
    except (TypeError, ValueError, AttributeError):
        raise InputError(f"{path}: {SCHEMA_KEY!r} is not the JSON that tether writes there") from None
    return Schema.from_json(value, str(path))


def layout_rules(file: h5py.File, path: Path) -> dict[str, Any]:
    """Which rules the rows of a file follow that `Dataset.to_hdf5` has written; {} in other files: D4RL's."""
    node: Any = file.get(LAYOUT_KEY)
    if node is None:
        return {}
    try:
        found = parse_json(node.asstr()[()])
        rules = {rule: bool(found[rule]) for rule in ("exact_next_observations", "terminals_end_episodes")}
        return rules | ({"continuous": True} if found.get("continuous") else {})
    except (TypeError, ValueError, AttributeError, KeyError):
        raise InputError(f"{path}: {LAYOUT_KEY!r} is not the JSON that tether writes there") from None


def _masks(file: h5py.File, path: Path) -> dict[str, np.ndarray]:
    """The parts of the episodes that `Dataset.to_hdf5` has written."""
    group = file.get(MASKS_KEY)
    names: list[str] = []  # arrays are not read while HDF5 visits
    if isinstance(group, h5py.Group):
        group.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
    return {name: read_array(file, f"{MASKS_KEY}/{name}", path) for name in names}


def _recorded_in(file: h5py.File, sizes: tuple[int, int]) -> Task | None:
    """The environment that `tether data collect` has noted; None in other files."""
    node: Any = file.get(COLLECT_KEY)
    try:
        found = parse_json(node.asstr()[()])["environment"]
        references = tuple(found["references"]) if "references" in found else None  # Minari's own
        returns = str(found.get("recorded_returns", ""))
        return recorded_task(found["id"], found["options"], found["horizon"], sizes, references, returns)
    except (TypeError, ValueError, AttributeError, KeyError):
        return None


def scalar_metadata(file: h5py.File) -> dict[str, str | float | int]:
    """The file's attributes and the scalars under `metadata/`, by name; arrays (weights) are skipped."""
    found: dict[str, str | float | int] = {}
    own = {Path(key).name for key in (SCHEMA_KEY, IMPORT_KEY, COLLECT_KEY, LAYOUT_KEY)}
    for key, value in file.attrs.items():
        _add_scalar(found, key, value)
    group = file.get("metadata")
    if isinstance(group, h5py.Group):

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset) and node.shape == () and name not in own:
                _add_scalar(found, name, node[()])

        group.visititems(visit)
    return found


def _add_scalar(found: dict[str, str | float | int], key: str, value: Any) -> None:
    scalar = as_scalar(value)
    if scalar is not None:
        found[key] = scalar
