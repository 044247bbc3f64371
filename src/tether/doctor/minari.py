"""Minari's HDF5 layout for the doctor: episodes that the strict reader refuses are read and reported."""

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from tether.data.hdf5 import as_scalar, open_hdf5, values_of
from tether.data.readers.minari import SUCCESSES
from tether.data.readers.minari import _episode_keys as episode_keys
from tether.data.source import successes_of
from tether.doctor.findings import Finding, Place
from tether.errors import InputError
from tether.machine.reading import parse_json, read_json

__all__ = ["MinariColumns", "read_minari_columns"]

FLAGS = {"terminations": "terminals", "truncations": "timeouts"}


class MinariColumns(NamedTuple):
    """Columns under D4RL's names, one row per step, and what was found on the way."""

    name: str
    columns: dict[str, np.ndarray]
    successes: np.ndarray | None
    metadata: dict[str, str | float | int]
    action_limits: tuple[np.ndarray, np.ndarray] | None
    horizon: int | None
    findings: tuple[Finding, ...]


def read_minari_columns(path: Path) -> MinariColumns:
    """Reads every episode, however broken; columns that no episode has are left out.

    A step whose next observation is not stored gets NaN there. Raises: InputError for a damaged file.
    """
    parts: dict[str, list[np.ndarray]] = {}
    successes: list[np.ndarray] | None = []  # None: an episode has none
    short: list[int] = []  # last row of each episode that lacks its last observation
    unflagged: list[int] = []
    stored: set[str] = set()  # flags that some episode has
    uneven: dict[str, list[str]] = {}  # of each flag, where it has not one row for each step
    dictionaries: set[str] = set()
    rows = 0
    with open_hdf5(path) as file:
        keys = episode_keys(file)
        for key in keys:
            group = file[key]
            if not isinstance(group, h5py.Group):
                continue
            columns = {name: _array(group.get(name), dictionaries) for name in ("observations", "actions", "rewards")}
            columns |= {name: _array(group.get(old), dictionaries) for old, name in FLAGS.items()}
            steps = _steps(columns)
            if steps == 0:
                continue
            rows += steps
            for old, name in FLAGS.items():
                flags = columns[name]
                stored.update([name] if flags is not None else [])
                if flags is None or len(flags) != steps:
                    uneven.setdefault(name, []).append(f"{key}/{old}")
                    columns[name] = _in_step(flags, steps)
            told = successes_of(_array(group.get(SUCCESSES), set()), steps)
            successes = None if told is None or successes is None else [*successes, told]
            observations = columns.pop("observations")
            if observations is not None:
                parts.setdefault("observations", []).append(observations[:steps])
                following = observations[1 : steps + 1]
                if len(following) < steps:
                    short.append(rows - 1)
                    following = _pad(following, steps)
                parts.setdefault("next_observations", []).append(following)
            if not any(_last(columns.get(name)) for name in ("terminals", "timeouts")):
                unflagged.append(rows - 1)
            for name, column in columns.items():
                if column is not None:
                    parts.setdefault(name, []).append(column)
    joined = _join({name: part for name, part in parts.items() if name in stored or name not in FLAGS.values()}, path)
    if unflagged and "timeouts" in joined:
        joined["timeouts"] = joined["timeouts"].astype(np.bool_)
        joined["timeouts"][unflagged] = True  # an episode is a group of its own: it ends with its last row
    content = _json(path)
    uneven = {name: where for name, where in uneven.items() if name in stored}
    findings = [*_findings(short, dictionaries), *_uneven(uneven, len(keys)), *_counts(content, len(keys), rows)]
    metadata = {key: scalar for key, value in content.items() if (scalar := as_scalar(value)) is not None}
    name = str(metadata.get("dataset_id", path.stem))
    told = np.concatenate(successes) if successes else None
    flags = told if told is not None and np.isin(told, (0, 1)).all() else None  # others no reader would take
    return MinariColumns(name, joined, flags, metadata, _action_limits(content), _horizon(content), tuple(findings))


def _steps(columns: dict[str, np.ndarray | None]) -> int:
    """Steps of an episode: rows of its actions, else of its rewards."""
    known = (columns["actions"], columns["rewards"], columns["terminals"])
    return next((len(column) for column in known if column is not None), 0)


def _array(node: Any, dictionaries: set[str]) -> np.ndarray | None:
    """An array; a dictionary's entries side by side, in the order of their names."""
    if isinstance(node, h5py.Group):
        parts = [part for key in sorted(node) if (part := _array(node[key], dictionaries)) is not None]
        rows = min((len(part) for part in parts), default=0)
        dictionaries.add(f"{node.name.rsplit('/', 1)[-1]}: {', '.join(sorted(node))}" if node.name else "")
        return np.concatenate([part[:rows].reshape(rows, -1) for part in parts], axis=1) if rows else None
    if isinstance(node, h5py.Dataset) and node.shape:
        return values_of(node)
    return None


def _pad(following: np.ndarray, steps: int) -> np.ndarray:
    missing = np.full((steps - len(following), *following.shape[1:]), np.nan, np.float32)
    return np.concatenate([following, missing.astype(np.result_type(following.dtype, np.float32))])


def _in_step(flags: np.ndarray | None, steps: int) -> np.ndarray:
    """`flags` with a row for each step: those that are not stored are not set."""
    flags = np.zeros(0, np.bool_) if flags is None else flags[:steps]
    return np.concatenate([flags, np.zeros((steps - len(flags), *flags.shape[1:]), flags.dtype)])


def _last(flags: np.ndarray | None) -> bool:
    return flags is not None and len(flags) > 0 and bool(np.all(flags[-1]))


def _join(parts: dict[str, list[np.ndarray]], path: Path) -> dict[str, np.ndarray]:
    joined = {}
    for name, arrays in parts.items():
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) > 1:
            raise InputError(f"{path}: {name} has rows of different shapes in different episodes: {sorted(shapes)}")
        joined[name] = np.concatenate(arrays)
    return joined


def _findings(short: list[int], dictionaries: set[str]) -> list[Finding]:
    found = []
    if short:
        what = f"{len(short)} episodes have no observation after their last step"
        found.append(Finding("missing-last-observation", "error", what, Place.of(short), fixable=True))
    for text in sorted(dictionaries):
        found.append(Finding("dictionary-observations", "note", text))
    return found


def _uneven(uneven: dict[str, list[str]], episodes: int) -> list[Finding]:
    found = []
    for name, where in uneven.items():
        what = f"{name}: {len(where):,} of {episodes:,} episodes, such as {where[0]}, have not one flag for each step"
        found.append(
            Finding("unequal-rows", "error", f"{what}; missing ones are taken as not set", Place(columns=(name,)))
        )
    return found


def _counts(content: dict[str, Any], episodes: int, rows: int) -> list[Finding]:
    """Whether `metadata.json` and the file agree."""
    pairs = {"total_episodes": episodes, "total_steps": rows}
    wrong = [
        f"{key} is {content[key]} in metadata.json, {count} in the file"
        for key, count in pairs.items()
        if isinstance(content.get(key), int) and content[key] != count
    ]
    return [Finding("counts-disagree", "warning", "; ".join(wrong))] if wrong else []


def _json(path: Path) -> dict[str, Any]:
    file = path.with_name("metadata.json")
    content = read_json(file) if file.is_file() else {}
    return content if isinstance(content, dict) else {}


def _action_limits(content: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """The box of the action space that Minari writes as JSON text; None unless it is finite."""
    try:
        space = parse_json(content.get("action_space", "null"))
        low, high = (np.asarray(space[key], np.float64).reshape(-1) for key in ("low", "high"))
    except (TypeError, ValueError, KeyError):
        return None
    finite = bool(np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all())
    return (low, high) if finite and low.shape == high.shape else None


def _horizon(content: dict[str, Any]) -> int | None:
    """Steps until the environment's time limit, from the specification that Minari writes as JSON text."""
    try:
        steps = parse_json(content.get("env_spec", "null"))["max_episode_steps"]
    except (TypeError, ValueError, KeyError):
        return None
    return steps if isinstance(steps, int) and steps > 0 else None
