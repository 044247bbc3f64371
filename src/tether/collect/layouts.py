"""Collected rows as files: D4RL's HDF5 layout, and a folder as Minari keeps its data sets."""

import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tether.collect.environments import Place
from tether.collect.rows import Columns
from tether.data.hdf5 import new_hdf5
from tether.data.schema import COLLECT_KEY, SCHEMA_KEY
from tether.machine.files import fsync_directory, to_json, write_synced

__all__ = ["write_d4rl", "write_minari"]

MINARI_VERSION = "0.5.3"  # whose files these are, where the package is not installed


def write_d4rl(path: Path, columns: Columns, place: Place, provenance: Mapping[str, Any]) -> None:
    """Actions in [-1, 1]; where the environment's are others, the schema says so and policies map them back."""
    with new_hdf5(path) as file:
        for name, column in columns.items():
            file[name] = column
        for name, value in _short(provenance).items():
            file[f"metadata/{name}"] = value
        file[COLLECT_KEY] = json.dumps(provenance)
        if place.schema is not None:
            file[SCHEMA_KEY] = json.dumps(place.schema.to_json())


def _short(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What `tether data show` has room for."""
    return {
        "environment": provenance["environment"]["id"],
        "kind": provenance["kind"],
        "behaviour": provenance["behaviour"],
        "seed": provenance["seed"],
        "command": provenance["command"],
    }


def write_minari(root: Path, dataset_id: str, columns: Columns, place: Place, provenance: Mapping[str, Any]) -> Path:
    """A data set that the minari package loads with MINARI_DATASETS_PATH=root -> its folder.

    One group per episode, T+1 observations in each, dictionaries as dictionaries, actions in the environment's units.
    """
    folder = root / dataset_id
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a crash
    try:
        _fill_minari(temporary / "data", dataset_id, columns, place, provenance)
        fsync_directory(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except BaseException:  # Ctrl-C leaves no litter either
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_directory(folder.parent)
    return folder


def _fill_minari(folder: Path, dataset_id: str, columns: Columns, place: Place, provenance: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True)
    ends = (np.flatnonzero(columns["terminals"] | columns["timeouts"]) + 1).tolist()
    with new_hdf5(folder / "main_data.hdf5", track_order=True) as file:
        for number, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            group = file.create_group(f"episode_{number}")
            group.attrs["id"], group.attrs["total_steps"] = number, stop - start
            _write_episode(group, {name: column[start:stop] for name, column in columns.items()}, place)
    metadata = _minari_metadata(dataset_id, len(ends), len(columns["rewards"]), place, provenance)
    write_synced(folder / "metadata.json", to_json(metadata).encode())


def _write_episode(group: h5py.Group, rows: Columns, place: Place) -> None:
    observations = np.concatenate([rows["observations"], rows["next_observations"][-1:]])
    actions = rows["actions"]
    if place.schema is None:
        group["observations"] = observations
    else:
        dictionary = json.loads(place.spaces["observation_space"])["type"] == "Dict"
        for name, (start, stop) in place.schema.observation.items():
            group[f"observations/{name}" if dictionary else "observations"] = observations[:, start:stop]
        box = place.schema.box
        mapped = actions.astype(np.float64) * box.scale + box.offset
        actions = np.clip(mapped, box.low, box.high).astype(np.float32)
    group["actions"] = actions
    group["rewards"] = rows["rewards"].astype(np.float64)
    group["terminations"], group["truncations"] = rows["terminals"], rows["timeouts"]
    for name, column in rows.items():
        if name.startswith("infos/"):
            group[name] = column


def _minari_metadata(
    dataset_id: str, episodes: int, rows: int, place: Place, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        version = importlib.metadata.version("minari")
    except importlib.metadata.PackageNotFoundError:
        version = MINARI_VERSION
    return {
        "data_format": "hdf5",
        "dataset_id": dataset_id,
        "total_episodes": episodes,
        "total_steps": rows,
        "minari_version": version,
        "algorithm_name": provenance["behaviour"],
        "description": f"{provenance['kind']} data of {provenance['environment']['id']}, collected with tether",
        "collect": json.dumps(provenance),
        **place.spaces,
    }
