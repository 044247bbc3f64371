"""Reader of Minari's data sets: by id through the `minari` package, by folder with h5py.

One group per episode: `observations` with T+1 rows, all other columns (`actions`, `rewards`, `terminations`,
`truncations`) with T. Every row therefore has its true next observation, the last one of an episode too, and
none needs to be dropped. Dictionary observations are flattened in the natural order of their keys, which the schema
records. The id also reads Minari's other formats (Arrow, Parquet), which only the package knows.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from tether.data.choices import IN_PYTHON, levels_box, refuse_choices
from tether.data.dataset import Dataset
from tether.data.entries import flat, joined, schema_of, widths
from tether.data.hdf5 import as_scalar, open_hdf5, read_array, values_of
from tether.data.logs.tables import natural
from tether.data.schema import ActionBox
from tether.data.source import ACTION_TOLERANCE, SUCCESS, Source, successes_of
from tether.environments.tasks import Task, recorded_task
from tether.errors import InputError
from tether.machine.files import sha256_file
from tether.machine.reading import parse_json, read_json

__all__ = [
    "find_minari_file",
    "is_minari_hdf5",
    "local_minari_files",
    "minari_scores",
    "read_minari",
    "read_minari_hdf5",
]

COLLECTION = "Minari"
MAIN_FILE = "main_data.hdf5"
REQUIRED = ("observations", "actions", "rewards", "terminations", "truncations")
SUCCESSES = f"infos/{SUCCESS}"  # where the environment tells


class Episode(NamedTuple):
    """One episode of T steps. Observations and actions are flattened: entry -> (rows, size)."""

    observations: dict[str, np.ndarray]  # T+1 rows
    actions: dict[str, np.ndarray]
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    successes: np.ndarray | None  # (T,)


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
    """Whether an HDF5 file is laid out in episodes as Minari's are: groups of these names, the first with one of
    its own columns, or its metadata beside the file."""
    with open_hdf5(path) as file:
        keys = _episode_keys(file)
        first: Any = file[keys[0]] if keys else ()
        return bool(keys) and (path.with_name("metadata.json").is_file() or any(name in first for name in REQUIRED[3:]))


def minari_scores(data: Dataset) -> np.ndarray | None:
    """Returns of the data's episodes, normalised with the references in Minari's own metadata; None without any.

    These are Minari's: scores on Minari data are not D4RL scores, even where the names agree.
    """
    references = _references(data.metadata) if data.source.collection == COLLECTION else None
    return None if references is None else 100.0 * (data.episode_returns() - references[0]) / np.ptp(references)


def _references(metadata: Mapping[str, Any]) -> tuple[float, float] | None:
    """Returns that score 0 and 100."""
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low >= high:
        return None
    return float(low), float(high)


def _recorded_in(document: Mapping[str, Any], sizes: tuple[int, int]) -> Task | None:
    """The environment of Minari's `env_spec`: gymnasium's specification as JSON."""
    try:
        spec = parse_json(str(document.get("env_spec", "null")))
        return recorded_task(spec["id"], spec["kwargs"], spec["max_episode_steps"], sizes, _references(document))
    except (TypeError, ValueError, KeyError):
        return None


# --- by id, through the package -----------------------------------------------------------------------------


def read_minari(dataset_id: str, continuous: bool = False) -> Dataset:
    """A local Minari data set by its id, such as `D4RL/door/human-v2`; nothing is downloaded.

    continuous: as of `load_dataset`.

    Raises:
        InputError: no package `minari`; no such data set in MINARI_DATASETS_PATH; as `read_minari_hdf5`.
    """
    source = f"minari:{dataset_id}"
    try:
        import minari
    except ImportError as error:
        raise InputError(f"{source} needs the package minari: pip install 'tether-rl[minari]' ({error})") from None
    if not re.fullmatch(r"[\w-]+(/[\w-]+)*", dataset_id) or not (minari_root() / dataset_id / "data").is_dir():
        names = ", ".join(name for name, _ in local_minari_files()) or "none"
        raise InputError(
            f"{source} is not in {minari_root()} (there: {names}); fetch it with: minari download {dataset_id}, or set "
            "MINARI_DATASETS_PATH"
        )
    try:
        stored = minari.load_dataset(dataset_id)
        folder = Path(stored.storage.data_path)
        episodes = [_package_episode(episode, f"{source}: episode {episode.id}") for episode in stored]
    except InputError:
        raise
    # The package lets through whatever h5py, pyarrow and gymnasium meet first in a damaged file.
    except (OSError, ValueError, KeyError, TypeError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{source} cannot be read by the package minari: {type(error).__name__} {reason}") from error
    return _dataset(episodes, folder, Source(source, _folder_sha256(folder), COLLECTION), continuous=continuous)


def _package_episode(episode: Any, where: str) -> Episode:
    return _checked(
        where,
        flat(episode.observations, f"{where}: observations"),
        flat(episode.actions, f"{where}: actions"),
        np.asarray(episode.rewards),
        np.asarray(episode.terminations),
        np.asarray(episode.truncations),
        (episode.infos or {}).get(SUCCESS),
    )


def _folder_sha256(folder: Path) -> str:
    """SHA-256 of the one HDF5 file; of several files (Arrow) that of their hashes in the order of their names."""
    if (folder / MAIN_FILE).is_file():
        return sha256_file(folder / MAIN_FILE)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "metadata.json")
    return hashlib.sha256("".join(sha256_file(path) for path in files).encode()).hexdigest()


# --- by folder, with h5py -----------------------------------------------------------------------------------


def read_minari_hdf5(path: str | Path, continuous: bool = False) -> Dataset:
    """Reads a Minari file; `metadata.json` beside it gives the data set's name, metadata and range of actions.

    continuous: as of `load_dataset`; a range that the metadata state says it, too.

    An episode whose recording stops without a flag is marked as timed out at its last row. Reference scores
    in the metadata are Minari's own, and scores on Minari data are not D4RL scores.

    Raises:
        InputError: as for D4RL files; also images, texts and discrete actions, and episodes whose columns
            disagree in length.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        keys = _episode_keys(file)
        if not keys:
            found = sorted(map(str, file))
            raise InputError(f"{path}: no 'episode_<number>' group among its keys {found}; not Minari's layout")
        episodes = [_read_episode(file[key], f"{path}: {key}", path) for key in keys]
    return _dataset(episodes, path.parent, Source.at(path, sha256_file(path), COLLECTION), path.stem, continuous)


def _episode_keys(file: h5py.File) -> list[str]:
    """`episode_0`, `episode_1`, ... in numerical order; HDF5 lists `episode_10` before `episode_2`."""
    return sorted((key for key in map(str, file) if re.fullmatch(r"episode_[0-9]+", key)), key=natural)


def _read_episode(group: Any, where: str, path: Path) -> Episode:
    if not isinstance(group, h5py.Group):
        raise InputError(f"{where} is not a group; Minari keeps an episode's columns in one")
    missing = [name for name in REQUIRED if name not in group]
    if missing:
        raise InputError(f"{where} has no {', '.join(map(repr, missing))}; found {sorted(map(str, group))}")
    success = group.get(SUCCESSES)
    return _checked(
        where,
        flat(group["observations"], f"{where}/observations"),
        flat(group["actions"], f"{where}/actions"),
        read_array(group, "rewards", path),
        read_array(group, "terminations", path),
        read_array(group, "truncations", path),
        values_of(success) if isinstance(success, h5py.Dataset) else None,
    )


# --- what both share ----------------------------------------------------------------------------------------


def _checked(
    where: str,
    observations: dict[str, np.ndarray],
    actions: dict[str, np.ndarray],
    rewards: np.ndarray,
    terminations: np.ndarray,
    truncations: np.ndarray,
    success: Any,
) -> Episode:
    """The columns as an episode; refuses lengths that disagree."""
    steps = len(next(iter(actions.values()), ()))
    columns = [("observations", column, steps + 1) for column in observations.values()]
    columns += [("actions", column, steps) for column in actions.values()]
    columns += zip(REQUIRED[2:], (rewards, terminations, truncations), (steps,) * 3, strict=True)
    for name, column, expected in columns:
        if len(column) != expected:
            raise InputError(f"{where}/{name} has {len(column)} rows, expected {expected} for {steps} actions")
    if steps and not (terminations[-1] or truncations[-1]):
        truncations = truncations.copy()
        truncations[-1] = True
    return Episode(observations, actions, rewards, terminations, truncations, successes_of(success, steps))


def _dataset(
    episodes: list[Episode], folder: Path, source: Source, stem: str = MAIN_FILE, continuous: bool = False
) -> Dataset:
    where = source.location
    if not episodes:
        raise InputError(f"{where}: holds no episodes")
    sizes = [{name: widths(getattr(episode, name)) for name in ("observations", "actions")} for episode in episodes]
    for number, found in enumerate(sizes):
        if found != sizes[0]:
            raise InputError(f"{where}: episode {number} has columns {found}, the first one {sizes[0]}")
    document = _document(folder)
    scalars = {key: as_scalar(value) for key, value in document.items()}
    box = _action_box(document, sizes[0]["actions"])
    plain = list(sizes[0]["observations"]) == [""] and list(sizes[0]["actions"]) == [""]
    actions = joined(episode.actions for episode in episodes)
    if continuous:
        actions = actions.reshape(len(actions), -1)
        box = box or levels_box(actions)
    if box is not None and actions.ndim == 2:
        if outside := box.first_outside(actions, ACTION_TOLERANCE):
            raise InputError(f"{where}: actions leave the range that the metadata state, first at row {outside[0]}")
        actions = box.to_unit(actions)
    if actions.ndim == 1:
        values = ", ".join(map(str, np.unique(actions)[:8].tolist()))
        raise InputError(
            f"{where}: actions are discrete, integer choices {values}: one number for each step; tether trains vectors "
            f"of continuous ones: where whole numbers really are levels, say {IN_PYTHON}"
        )
    if box is None and not continuous:
        refuse_choices(where, actions)
    known = [episode.successes for episode in episodes if episode.successes is not None]
    observations = [joined([episode.observations]) for episode in episodes]
    return Dataset(
        name=str(document.get("dataset_id", stem)),
        recorded_in=_recorded_in(document, (observations[0].shape[-1], actions.shape[-1])),
        observations=np.concatenate([rows[:-1] for rows in observations]),
        actions=actions,
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminals=np.concatenate([episode.terminations for episode in episodes]),
        timeouts=np.concatenate([episode.truncations for episode in episodes]),
        next_observations=np.concatenate([rows[1:] for rows in observations]),
        source=source,
        metadata={key: value for key, value in scalars.items() if value is not None},
        exact_next_observations=True,
        successes=np.concatenate(known) if len(known) == len(episodes) else None,
        schema=None if plain and box is None else schema_of(sizes[0], box),
        continuous=continuous,
    )


def _action_box(document: Mapping[str, Any], sizes: Mapping[str, int]) -> ActionBox | None:
    """The range of the actions that the metadata state, in the order of `sizes`; None for [-1, 1] and without one."""
    try:
        bounds = dict(_bounds(parse_json(str(document.get("action_space", "null"))), ""))
        low = tuple(float(x) for name in sizes for x in np.ravel(bounds[name][0]))
        high = tuple(float(x) for name in sizes for x in np.ravel(bounds[name][1]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    box = ActionBox(low, high)
    fits = len(low) == len(high) == sum(sizes.values()) and np.isfinite([low, high]).all()
    return box if fits and not box.is_unit() else None


def _bounds(space: Any, name: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """(entry's name, (low, high)) of the boxes in a space that Minari has written as JSON."""
    if space["type"] == "Box":
        yield name, (space["low"], space["high"])
    subspaces = space.get("subspaces", {})
    items = subspaces.items() if isinstance(subspaces, dict) else ((f"_index_{i}", s) for i, s in enumerate(subspaces))
    for key, subspace in items:
        yield from _bounds(subspace, f"{name}/{key}" if name else key)


def _document(folder: Path) -> dict[str, Any]:
    """`metadata.json` in the folder of the data; {} without one."""
    file = folder / "metadata.json"
    if not file.is_file():
        return {}
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file} holds {type(content).__name__}; a JSON object is needed")
    return content
