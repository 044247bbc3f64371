"""Reader of LeRobot's folders, format v2 and v3, as far as they are numbers: `meta/info.json` and the Parquet files of
`data/chunk-*`. Videos, pictures and task texts are not read, and named.

v2 keeps an episode in each file (`episode_000000.parquet`) and the episodes' lengths in `meta/episodes.jsonl`, v3 many
episodes in a file (`file-000.parquet`) and the lengths in `meta/episodes/chunk-*/*.parquet`. In both a row is a frame:
`observation.*`, `action`, `episode_index`, `frame_index`, `timestamp`, `task_index`, perhaps `next.reward`, `next.done`
and `next.success`: what followed the row's action.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.data.dataset import Dataset
from tether.data.logs.parquet import DAMAGE
from tether.data.logs.tables import natural
from tether.data.readers.recording import (
    Recording,
    as_flags,
    files_digest,
    flags_of_episodes,
    is_picture,
    missing_column,
)
from tether.data.schema import Layout, layout_of
from tether.data.source import Source
from tether.errors import InputError, shortened
from tether.machine.reading import one_line, parse_json, read_bytes, read_json

__all__ = ["find_lerobot", "is_lerobot_folder", "lerobot_root", "read_lerobot", "read_lerobot_folder"]

INFO = Path("meta") / "info.json"
VERSIONS = ("v2.", "v3.")
OBSERVATIONS, ACTIONS = ("observation", "observations", "state"), ("action", "actions")
FRAME_COLUMNS = ("episode_index", "frame_index", "timestamp", "index", "task_index")
NEXT = {"rewards": "reward", "terminals": "done", "truncations": "truncated", "successes": "success"}


class Feature(NamedTuple):
    """What info.json says of a column."""

    dtype: str
    shape: tuple[int, ...]
    names: Any

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return int(np.prod(self.shape))

    @property
    def is_numbers(self) -> bool:
        """Whether it is a vector of numbers, and no video, picture or text."""
        try:
            kind = np.dtype(self.dtype)
        except TypeError:
            return False
        return kind.kind in "biuf" and not is_picture(self.shape, kind)


def lerobot_root() -> Path:
    """Where LeRobot keeps what it downloads: HF_LEROBOT_HOME, else below the cache of its hub."""
    stated = os.environ.get("HF_LEROBOT_HOME")
    cache = os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    return Path(stated) if stated else Path(cache) / "lerobot"


def is_lerobot_folder(folder: Path) -> bool:
    """Whether it has LeRobot's `meta/info.json`."""
    return (folder / INFO).is_file()


def read_lerobot(name: str, continuous: bool = False) -> Dataset:
    """`lerobot:PATH` or `lerobot:OWNER/NAME`, see `find_lerobot`; continuous: as of `load_dataset`.

    Raises InputError as `read_lerobot_folder`.
    """
    return read_lerobot_folder(find_lerobot(name)).dataset(continuous)


def find_lerobot(name: str) -> Path:
    """The folder of that path, or that name below `lerobot_root`. Raises InputError where it is in neither place."""
    path = Path(name).expanduser()
    folder = path if is_lerobot_folder(path) else lerobot_root() / name
    if not is_lerobot_folder(folder):
        raise InputError(
            f"lerobot:{name}: there is no {path / INFO}, nor {folder / INFO}; name a folder, or fetch it with: "
            f"hf download --repo-type dataset {name} --local-dir {path}"
        )
    return folder


def read_lerobot_folder(folder: Path) -> Recording:
    """The frames of a folder, sorted by episode and frame.

    Raises: InputError for another format version, columns that are missing, no vectors among observations or actions,
        episodes that `meta` lists and `data` does not have whole, damaged files, no package `pyarrow`.
    """
    info = _info(folder)
    features = _features(folder, info)
    files = sorted((folder / "data").rglob("*.parquet"), key=lambda path: natural(str(path)))
    if not files:
        raise InputError(f"{folder}: no *.parquet file below data")
    observation = _of_kind(folder, features, "observations", OBSERVATIONS)
    action = _of_kind(folder, features, "actions", ACTIONS)
    following = {role: name for role, word in NEXT.items() if (name := _next(features, word)) is not None}
    frame = [name for name in FRAME_COLUMNS if name in features]
    frames = _frames(files, {name: features[name] for name in (*frame, *observation, *action, *following.values())})
    frames = _in_order(folder, frames)
    episode = frames["episode_index"][:, 0].astype(np.int64)
    lengths = _lengths(folder, episode)
    columns = _columns(frames, observation, action)
    flags = {
        role: as_flags(str(folder), name, frames[name][:, 0]) for role, name in following.items() if role != "rewards"
    }
    none = np.zeros(len(episode), bool)
    terminals, timeouts, ends = flags_of_episodes(lengths, flags.get("terminals", none), flags.get("truncations", none))
    columns |= {"terminals": terminals, "timeouts": timeouts}
    if "rewards" in following:
        columns["rewards"] = frames[following["rewards"]][:, 0]
    used = {*FRAME_COLUMNS, *observation, *action, *following.values()}
    return Recording(
        folder.resolve().name,
        Source.at(folder, files_digest([folder / INFO, *files])),
        columns,
        _names(observation),
        _names(action),
        terminals_end_episodes=ends,
        extras={"timestamp": frames["timestamp"][:, 0]} if "timestamp" in frames else {},
        masks=_masks(info, frames, episode),
        successes=flags.get("successes"),
        metadata=_metadata(info),
        notes=tuple(_notes({name: f for name, f in features.items() if name not in used}, frames, following)),
    )


# --- meta ---------------------------------------------------------------------------------------------------


def _info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    info = read_json(path)
    try:
        version = shortened(info["codebase_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not LeRobot's: {type(error).__name__} {one_line(error)}") from None
    if not version.startswith(VERSIONS) or info.get("storage_format", "parquet") not in ("parquet", None):
        stored = info.get("storage_format")
        what = f"format {version}" + (f", stored as {stored}" if stored else "")
        raise InputError(f"{folder}: {what}; v2.x and v3.x in Parquet are read: convert it with LeRobot's own scripts")
    return info


def _features(folder: Path, info: Mapping[str, Any]) -> dict[str, Feature]:
    try:
        found = {
            name: Feature(str(f["dtype"]), tuple(int(n) for n in f.get("shape") or (1,)), f.get("names"))
            for name, f in info["features"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{folder / INFO}: altered features: {type(error).__name__} {error}") from None
    if "episode_index" not in found:
        raise missing_column(f"{folder / INFO}", "episode_index", found, ("episode_index",))
    return found


def _of_kind(folder: Path, features: Mapping[str, Feature], what: str, prefixes: Sequence[str]) -> dict[str, Feature]:
    """The features `action`, else `action.*`, ...; of observations all, as each says something of the state."""
    for prefix in prefixes:
        found = {n: f for n, f in features.items() if n == prefix or n.startswith((f"{prefix}.", f"{prefix}/"))}
        vectors = {name: feature for name, feature in found.items() if feature.is_numbers}
        if what == "actions" and prefix in vectors:
            return {prefix: vectors[prefix]}
        if vectors:
            return vectors
    raise missing_column(f"{folder / INFO}", f"{what} that are numbers", features, prefixes)


def _next(features: Mapping[str, Feature], word: str) -> str | None:
    names = (f"next.{word}", word)
    return next((name for name in names if name in features and features[name].size == 1), None)


def _lengths(folder: Path, episode: np.ndarray) -> list[int]:
    """Rows of each episode in the data. Raises InputError where `meta` promises others."""
    numbers, counts = np.unique(episode, return_counts=True)
    found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    wrong = {number: n for number, n in _promised(folder).items() if found.get(number, 0) != n}
    if wrong:
        number, rows = next(iter(wrong.items()))
        raise InputError(
            f"{folder}: meta says that episode {number} has {rows} frames, data hold {found.get(number, 0)}; "
            f"{len(wrong)} episodes differ: the folder is not whole"
        )
    return counts.tolist()


def _promised(folder: Path) -> dict[int, int]:
    """Episode -> frames, as `meta` lists them; empty where it does not."""
    lines, files = folder / "meta" / "episodes.jsonl", sorted((folder / "meta" / "episodes").rglob("*.parquet"))
    try:
        if lines.is_file():
            rows = [parse_json(line) for line in read_bytes(lines).splitlines() if line.strip()]
            return {int(row["episode_index"]): int(row["length"]) for row in rows}
        found = {}
        for table in _tables(files, ["episode_index", "length"]):
            found |= dict(zip(table["episode_index"].to_pylist(), table["length"].to_pylist(), strict=True))
        return found
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{folder / 'meta'}: altered episodes: {type(error).__name__} {error}") from None


def _metadata(info: Mapping[str, Any]) -> dict[str, str | float | int]:
    names = {"codebase_version": "format", "fps": "fps", "robot_type": "robot_type"}
    return {name: info[key] for key, name in names.items() if isinstance(info.get(key), str | int | float)}


def _masks(info: Mapping[str, Any], frames: Mapping[str, np.ndarray], episode: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of each split (`"train": "0:40"`), and of each task where there are several."""
    masks = {}
    splits = info.get("splits")
    for name, text in splits.items() if isinstance(splits, dict) else ():
        first, colon, last = str(text).partition(":")
        if colon and first.isdigit() and last.isdigit():
            masks[str(name)] = (episode >= int(first)) & (episode < int(last))
    tasks = frames.get("task_index")
    if tasks is not None and len(np.unique(tasks)) > 1:
        masks |= {f"task-{int(task)}": tasks[:, 0] == task for task in np.unique(tasks)}
    return masks


def _notes(
    left: Mapping[str, Feature], frames: Mapping[str, np.ndarray], following: Mapping[str, str]
) -> Iterator[str]:
    if left:
        shapes = (f"{name} ({f.dtype}, {' x '.join(map(str, f.shape))})" for name, f in left.items())
        yield f"not read: {', '.join(shapes)}"
    tasks = len(np.unique(frames.get("task_index", np.zeros(1))))
    yield (
        "the text of the task is not read"
        if tasks == 1
        else (f"the texts of {tasks} tasks are not read: all are learnt as one, or one with --data-filter mask=task-0")
    )
    if "rewards" not in following:
        yield "no rewards (next.reward): methods that imitate can be trained, others refuse it"
    if "terminals" in following:
        yield f"{following['terminals']} counts as the true end of the task"


# --- data ---------------------------------------------------------------------------------------------------


def _tables(files: Sequence[Path], columns: list[str]) -> Iterator[Any]:
    """These columns of each file."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f"{files[0]}: reading *.parquet needs the package pyarrow: pip install 'tether-rl[tables]' ({error})"
        ) from None
    for path in files:
        try:
            with parquet.ParquetFile(path) as file:
                missing = [name for name in columns if name not in file.schema_arrow.names]
                if missing:
                    raise missing_column(str(path), ", ".join(missing), file.schema_arrow.names, missing)
                yield file.read(columns=columns)
        except DAMAGE as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} cannot be read as Parquet: {one_line(error)}") from None


def _frames(files: Sequence[Path], features: Mapping[str, Feature]) -> dict[str, np.ndarray]:
    """Feature -> (frames, size), of all files."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in features}
    for path, table in zip(files, _tables(files, list(features)), strict=True):
        for name, feature in features.items():
            parts[name].append(_matrix(path, name, table[name], feature.size))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _matrix(path: Path, name: str, column: Any, size: int) -> np.ndarray:
    """A column of numbers, or of lists of them (lists of lists), as (rows, size); what is missing is NaN."""
    rows, values = len(column), column.combine_chunks()
    while hasattr(values, "flatten") and hasattr(values.type, "value_type") and values.type.num_fields:
        values = values.flatten()
    numbers = np.asarray(values.to_numpy(zero_copy_only=False))
    if numbers.dtype == object and all(isinstance(value, bool | None) for value in numbers.tolist()):
        numbers = numbers.astype(float)
    if numbers.dtype.kind not in "biuf":
        raise InputError(f"{path}: column {name!r} holds {values.type}, not numbers")
    if len(numbers) != rows * size:
        raise InputError(
            f"{path}: column {name!r} holds {len(numbers)} numbers in {rows} rows; meta/info.json says {size} in each"
        )
    return numbers.reshape(rows, size)


def _in_order(folder: Path, frames: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sorted by episode and, where it is there, by frame. Raises InputError for a frame that is there twice."""
    episode = frames["episode_index"][:, 0]
    frame = frames["frame_index"][:, 0] if "frame_index" in frames else np.arange(len(episode))
    order = np.lexsort((frame, episode))
    twice = np.flatnonzero((np.diff(episode[order]) == 0) & (np.diff(frame[order]) == 0))
    if len(twice):
        row = order[twice[0]]
        raise InputError(f"{folder}: frame {int(frame[row])} of episode {int(episode[row])} is there twice")
    return frames if (np.diff(order) == 1).all() else {name: column[order] for name, column in frames.items()}


def _columns(
    frames: Mapping[str, np.ndarray], observation: Mapping[str, Feature], action: Mapping[str, Feature]
) -> dict[str, np.ndarray]:
    return {
        "observations": np.concatenate([frames[name] for name in observation], axis=1),
        "actions": np.concatenate([frames[name] for name in action], axis=1),
    }


def _names(features: Mapping[str, Feature]) -> Layout:
    """A name for each number: the joints' own, with the feature's before it where two are called alike."""
    names = [(feature, name) for feature, f in features.items() for name in _own_names(feature, f)]
    plain = [name for _, name in names]
    unique = [name if plain.count(name) == 1 else f"{feature}/{name}" for feature, name in names]
    if len(set(unique)) < len(unique):  # alike within one feature
        unique = [f"{feature}/{index}" for feature, f in features.items() for index in range(f.size)]
    return layout_of(dict.fromkeys(unique, 1))


def _own_names(feature: str, found: Feature) -> list[str]:
    """A list of names, one in a dictionary (`{"motors": [...]}`) or the keys of one (`{"x": 0, ...}`); else numbers."""
    names = found.names
    if isinstance(names, dict) and len(names) == 1:
        names = next(iter(names.values()))
    elif isinstance(names, dict):
        names = list(names)
    if isinstance(names, list) and len(names) == found.size and all(isinstance(name, str) for name in names):
        return names
    return [feature] if found.size == 1 else [f"{feature}/{index}" for index in range(found.size)]
