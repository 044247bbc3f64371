"""One grammar for data sources (design section 5): from what a user writes to a `Dataset`."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tether.data.choices import IN_PYTHON
from tether.data.dataset import Dataset
from tether.data.hdf5 import open_hdf5
from tether.data.logs.importing import read_table
from tether.data.readers.d4rl import read_d4rl_hdf5
from tether.data.readers.d4rl_names import D4RL_FILES, d4rl_file, d4rl_name
from tether.data.readers.download import Downloads, cached_file
from tether.data.readers.groups import has_episode_groups, read_episode_files, read_episode_groups
from tether.data.readers.lerobot import is_lerobot_folder, read_lerobot, read_lerobot_folder
from tether.data.readers.minari import (
    find_minari_file,
    is_minari_hdf5,
    local_minari_files,
    read_minari,
    read_minari_hdf5,
)
from tether.data.readers.ogbench import local_ogbench_files, read_ogbench
from tether.data.readers.recording import Recording
from tether.data.source import Source
from tether.environments.tasks import find_task
from tether.errors import InputError
from tether.machine.registry import Registry, registry

__all__ = [
    "READERS",
    "LocalSource",
    "bundled_names",
    "d4rl_path",
    "find_recording",
    "load_dataset",
    "local_sources",
]

BUNDLED = Path(__file__).parent / "bundled"
HDF5_SUFFIXES = (".hdf5", ".h5")
LATER_PREFIXES = ("bandit",)
TABLE_SUFFIXES = (".npz", ".parquet", ".csv")


class LocalSource(NamedTuple):
    """A data set on this machine that has a name."""

    name: str  # what `load_dataset` takes
    bytes: int
    where: str


def local_sources() -> list[LocalSource]:
    """Bundled data sets, D4RL's in the cache, Minari's (below MINARI_DATASETS_PATH), OGBench's; each sorted by name."""
    bundled = [(name, BUNDLED / f"{name}.hdf5", "bundled") for name in bundled_names()]
    cached = [(name, Downloads().cache / "d4rl" / file) for name, file in sorted(D4RL_FILES.items())]
    d4rl = [(f"d4rl:{name}", path, str(path)) for name, path in cached if path.is_file()]
    minari = [(f"minari:{name}", path, str(path)) for name, path in local_minari_files()]
    ogbench = [(f"ogbench:{name}", path, str(path)) for name, path in local_ogbench_files()]
    found = [*bundled, *d4rl, *minari, *ogbench]
    return [LocalSource(name, path.stat().st_size, where) for name, path, where in found]


def bundled_names() -> list[str]:
    """Names of the data sets that come with tether, sorted."""
    return sorted(path.stem for path in BUNDLED.glob("*.hdf5"))


def load_dataset(source: str | Path, *, downloads: Downloads | None = None, continuous: bool = False) -> Dataset:
    """Loads a data set by name or path.

    A bundled name (`halfcheetah-medium-small`), `d4rl:NAME`, `minari:ID`, `ogbench:NAME`, `lerobot:PATH`, a `*.hdf5`
    file in D4RL's or Minari's layout or with a group for each episode (robomimic), a folder of Minari's, of LeRobot's
    or with an episode in each `*.npz` or `*.hdf5` file, a `*.csv`, `*.parquet` or `*.npz` table with columns by
    convention.
    A bundled name wins over a file or folder of the same name; write `./name` for the latter.

    downloads: mirrors, cache, offline mode of `d4rl:`; by default as the environment says.
    continuous: actions of whole numbers are levels. Without it those that may be choices are refused (docs/data.md).
        Levels beyond [-1, 1] are mapped to it from their own range; the policy answers in the recorded numbers.

    Raises:
        InputError: a source of another kind, an unknown name, a file that its reader refuses, or that no mirror
            gives.
    """
    source = str(source)
    if source in bundled_names():
        dataset = _read_d4rl(BUNDLED / f"{source}.hdf5", continuous)
        return replace(dataset, source=Source(source, dataset.source.digest))
    prefix, colon, name = source.partition(":")
    if colon and prefix == "d4rl" and downloads is not None:
        return _read_d4rl_by_name(name, downloads, continuous)
    if colon and prefix in READERS:
        return _named(_read_by_prefix(prefix, name, continuous), prefix, name)
    if colon and prefix == "memory":
        raise _refused(source, "these were data in memory; give a file that `Dataset.to_hdf5` wrote of them")
    if colon and prefix in LATER_PREFIXES:
        raise _refused(source, f"'{prefix}:' is not supported yet")
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        return _read_folder(path, continuous)
    if suffix in TABLE_SUFFIXES:
        return read_table(path, continuous)
    if (recording := find_recording(path)) is not None:
        return recording.dataset(continuous)
    if suffix in HDF5_SUFFIXES:
        return read_minari_hdf5(path, continuous) if is_minari_hdf5(path) else _read_d4rl(path, continuous)
    if path.exists():
        raise _refused(source, f"a file with the ending {suffix!r} is not known")
    if colon and re.fullmatch(r"\w[\w.-]+", prefix):
        raise _refused(source, f"nobody here reads '{prefix}:'; a reader of yours is imported by --plugin MODULE")
    raise _refused(source, "no such name, file or folder")


def _refused(source: str, reason: str) -> InputError:
    names = ", ".join(bundled_names()) or "none"
    others = "".join(f"{prefix}:NAME, " for prefix in READERS if not READERS.is_ours(prefix))
    return InputError(
        f"data source {source!r}: {reason}; this version reads bundled names ({names}), d4rl:NAME, minari:ID, "
        f"ogbench:NAME, lerobot:PATH, {others}*.hdf5 and *.h5 files in D4RL's or Minari's layout or with a group for "
        "each episode, folders of Minari's, of LeRobot's or with an episode in each file, *.csv, *.parquet and *.npz "
        "tables"
    )


def _read_folder(folder: Path, continuous: bool) -> Dataset:
    path = find_minari_file(folder)
    if path is not None:
        return read_minari_hdf5(path, continuous)
    recording = find_recording(folder)
    if recording is None:
        raise _refused(str(folder), "a folder without data/main_data.hdf5, meta/info.json, *.npz or *.hdf5")
    return recording.dataset(continuous)


def find_recording(path: Path) -> Recording | None:
    """The episodes of LeRobot's folders, of folders with an episode in each file, and of HDF5 files with a group for
    each; None for anything else. Raises InputError where they cannot be read."""
    if path.is_dir() and find_minari_file(path) is None:
        return read_lerobot_folder(path) if is_lerobot_folder(path) else read_episode_files(path)
    if path.suffix.lower() not in HDF5_SUFFIXES or not path.is_file() or is_minari_hdf5(path):
        return None
    return read_episode_groups(path) if has_episode_groups(path) else None


def _read_d4rl(path: Path, continuous: bool = False) -> Dataset:
    """Read with the horizon of the task that the file is named after: it matters where no time-outs are stored."""
    task = find_task(path.stem)
    return read_d4rl_hdf5(path, None if task is None else task.horizon, continuous)


def d4rl_path(name: str, downloads: Downloads) -> Path:
    """The file of `d4rl:NAME`, downloaded if it is not in the cache. Raises InputError as `load_dataset`."""
    name = d4rl_name(name)
    return cached_file(name, d4rl_file(name), downloads, _check_hdf5)


def _read_d4rl_by_name(name: str, downloads: Downloads, continuous: bool = False) -> Dataset:
    name, path = d4rl_name(name), d4rl_path(name, downloads)
    task = find_task(name)
    dataset = read_d4rl_hdf5(path, None if task is None else task.horizon, continuous)
    return replace(dataset, name=name, source=Source(f"d4rl:{name}", dataset.source.digest))


def _read_by_prefix(prefix: str, name: str, continuous: bool) -> Any:
    """What the reader of a prefix gives. Raises InputError where it is asked for levels and knows of none."""
    if not continuous:
        return READERS.call(prefix, name)
    if "continuous" not in inspect.signature(READERS[prefix]).parameters:
        raise InputError(f"data source {f'{prefix}:{name}'!r}: its reader does not take {IN_PYTHON}")
    return READERS.call(prefix, name, continuous=True)


def _named(dataset: Any, prefix: str, name: str) -> Dataset:
    """What a reader gave, as a data set that is found again by its source, from another folder too."""
    if not isinstance(dataset, Dataset):
        kind = type(dataset).__name__
        raise InputError(f"data source {f'{prefix}:{name}'!r}: its reader gave a {kind}, not a tether.Dataset")
    if READERS.is_ours(prefix):
        return dataset
    path = Path(name).expanduser()
    source = f"{prefix}:{path.resolve() if path.exists() else name}"
    read = dataset.source
    return replace(dataset, source=replace(read, location=source, digest=read.sha256, in_memory=False, path=None))


READERS: Registry[Callable[..., Dataset]] = registry("reader").provide(
    {
        "d4rl": lambda name, continuous=False: _read_d4rl_by_name(name, Downloads(), continuous),
        "lerobot": read_lerobot,
        "minari": read_minari,
        "ogbench": read_ogbench,
    }
)
"""Prefix of the source grammar -> (what follows the colon, perhaps `continuous=True`) -> data set."""


def _check_hdf5(path: Path) -> None:
    """HDF5 knows how long its file must be: one that is cut short does not open."""
    with open_hdf5(path) as file:
        list(file)
