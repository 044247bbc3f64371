"""Reader of Minari's HDF5 layout with plain h5py (d4rl-facts section 6.5).

One group per episode: `observations` with T+1 rows, all other columns (`actions`, `rewards`, `terminations`,
`truncations`) with T. Every row therefore has its true next observation, the last one of an episode too, and
none needs to be dropped.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from tether.data.d4rl import as_scalar, file_sha256, open_hdf5, read_array
from tether.data.dataset import Dataset, Source
from tether.errors import InputError

__all__ = ["find_minari_file", "is_minari_hdf5", "local_minari_files", "minari_root", "read_minari_hdf5"]

MAIN_FILE = "main_data.hdf5"
REQUIRED = ("observations", "actions", "rewards", "terminations", "truncations")


class Episode(NamedTuple):
    """One episode of T steps; `observations` has T+1 rows."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray


def find_minari_file(folder: Path) -> Path | None:
    """The data file of a Minari data-set folder (`<folder>/data/main_data.hdf5`), None if there is none."""
    candidates = (folder / "data" / MAIN_FILE, folder / MAIN_FILE)
    return next((path for path in candidates if path.is_file()), None)


def minari_root() -> Path:
    """The folder of local Minari data sets: MINARI_DATASETS_PATH, else Minari's own default."""
    stated = os.environ.get("MINARI_DATASETS_PATH")
    return Path(stated) if stated else Path.home() / ".minari" / "datasets"


def local_minari_files() -> list[tuple[str, Path]]:
    """(id, data file) of the HDF5 data sets below `minari_root`, sorted by id."""
    root = minari_root()
    return sorted((path.parent.parent.relative_to(root).as_posix(), path) for path in root.glob(f"**/data/{MAIN_FILE}"))


def is_minari_hdf5(path: Path) -> bool:
    """Whether an HDF5 file is laid out in episodes as Minari's are."""
    with open_hdf5(path) as file:
        return bool(_episode_keys(file))


def read_minari_hdf5(path: str | Path) -> Dataset:
    """Reads a Minari file; `metadata.json` beside it gives the data set's name and metadata.

    An episode whose recording stops without a flag is marked as timed out at its last row. Reference scores
    in the metadata are Minari's own, and scores on Minari data are not D4RL scores.

    Raises:
        InputError: as for D4RL files; also dictionary observations or actions, and episodes whose columns
            disagree in length.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        keys = _episode_keys(file)
        if not keys:
            found = sorted(map(str, file))
            raise InputError(f"{path}: no 'episode_<number>' group among its keys {found}; not Minari's layout")
        episodes = list(_read_episodes(file, keys, path))
    metadata = _metadata(path)
    name = str(metadata.get("dataset_id", path.stem))
    return Dataset(
        name=name,
        observations=np.concatenate([episode.observations[:-1] for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminals=np.concatenate([episode.terminations for episode in episodes]),
        timeouts=np.concatenate([episode.truncations for episode in episodes]),
        next_observations=np.concatenate([episode.observations[1:] for episode in episodes]),
        source=Source(location=str(path), sha256=file_sha256(path)),
        metadata=metadata,
        exact_next_observations=True,
    )


def _episode_keys(file: h5py.File) -> list[str]:
    """`episode_0`, `episode_1`, ... in numerical order; HDF5 lists `episode_10` before `episode_2`."""
    keys = [key for key in map(str, file) if re.fullmatch(r"episode_[0-9]+", key)]
    return sorted(keys, key=lambda key: int(key.removeprefix("episode_")))


def _read_episodes(file: h5py.File, keys: list[str], path: Path) -> Iterator[Episode]:
    first_shapes: list[tuple[int, ...]] = []
    for key in keys:
        group = file[key]
        if not isinstance(group, h5py.Group):
            raise InputError(f"{path}: {key!r} is not a group; Minari keeps an episode's columns in one")
        episode = _read_episode(group, key, path)
        shapes = [column.shape[1:] for column in episode]
        first_shapes = first_shapes or shapes
        if shapes != first_shapes:
            raise InputError(f"{path}: {key} has rows of shapes {shapes}, {keys[0]} of {first_shapes}")
        yield episode


def _read_episode(group: h5py.Group, key: str, path: Path) -> Episode:
    missing = [name for name in REQUIRED if name not in group]
    if missing:
        raise InputError(f"{path}: {key} has no {', '.join(map(repr, missing))}; found {sorted(map(str, group))}")
    for name in ("observations", "actions"):
        node = group[name]
        if isinstance(node, h5py.Group):
            raise InputError(
                f"{path}: {key}/{name} is a dictionary with keys {sorted(map(str, node))}; "
                "this version reads plain arrays only"
            )
    episode = Episode(*(read_array(group, name, path) for name in REQUIRED))
    steps = len(episode.actions)
    for name, column in zip(REQUIRED, episode, strict=True):
        expected = steps + 1 if name == "observations" else steps
        if len(column) != expected:
            raise InputError(f"{path}: {key}/{name} has {len(column)} rows, expected {expected} for {steps} actions")
    if steps and not (episode.terminations[-1] or episode.truncations[-1]):
        episode.truncations[-1] = True
    return episode


def _metadata(path: Path) -> dict[str, str | float | int]:
    """The short scalars of `metadata.json` beside the data file; {} without one."""
    file = path.with_name("metadata.json")
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds {type(content).__name__}; a JSON object is needed")
    scalars = {key: as_scalar(value) for key, value in content.items()}
    return {key: value for key, value in scalars.items() if value is not None}
