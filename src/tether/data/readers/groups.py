"""Reader of files that keep each episode by itself: HDF5 with a group for each (robomimic, ManiSkill, LIBERO, ...), and
folders of HDF5 or npz files with an episode in each (ALOHA, DeepMind's control suite).

An episode is whatever holds actions and observations under one of the usual names; arrays may lie deeper
(`obs/joint_pos`). Observations may have one row more than actions; then next observations are exact.

robomimic: `data/demo_0/{obs/KEY, actions, rewards, dones, next_obs/KEY}`. `dones` says that the action ends the task,
perhaps at every row where it stands solved; the group goes on. `mask/NAME` lists demonstrations by name.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from tether.data.hdf5 import open_hdf5, values_of
from tether.data.logs.tables import natural
from tether.data.npz import open_npz_archive
from tether.data.readers.recording import (
    Recording,
    as_flags,
    files_digest,
    flags_of_episodes,
    is_picture,
    missing_column,
    numbered,
)
from tether.data.source import FileDigest, Source
from tether.errors import InputError
from tether.machine.reading import parse_json

__all__ = ["has_episode_groups", "read_episode_files", "read_episode_groups"]

OBSERVATIONS = ("obs", "observations", "observation", "states", "state")
ACTIONS = ("actions", "action")
NEXT_OBSERVATIONS = ("next_obs", "next_observations", "next_observation")
REWARDS = ("rewards", "reward")
TERMINALS = ("terminals", "terminal", "terminated", "terminations", "is_terminal", "dones", "done")
TRUNCATIONS = ("timeouts", "timeout", "truncated", "truncations", "is_truncated")
DISCOUNTS = ("discount", "discounts")
SUCCESSES = ("successes", "success", "is_success", "infos/success")
CLOCKS = ("timestamps", "timestamp", "times", "time")
SHOWN = 6


class Array(NamedTuple):
    """An array of an episode, read when it is asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class Episode(NamedTuple):
    """name: of the group, or of the file; file: its name without the ending."""

    name: str
    file: str
    arrays: Mapping[str, Array]


class Roles(NamedTuple):
    """What the arrays of an episode mean: path -> numbers in a row, or the path of a flat one."""

    observation: Mapping[str, int]
    action: Mapping[str, int]
    next_observation: tuple[str, ...]  # in the order of `observation`; empty where they are not stored
    reward: str | None
    terminal: str | None
    truncation: str | None
    success: str | None
    discount: str | None
    clock: str | None
    notes: tuple[str, ...]


# --- finding episodes ---------------------------------------------------------------------------------------


def has_episode_groups(path: Path) -> bool:
    """Whether an HDF5 file keeps each episode in a group, or is one (ALOHA: a group of observations beside actions)."""
    with open_hdf5(path) as file:
        if isinstance(file.get("observations"), h5py.Dataset):  # D4RL's layout
            return False
        inner = any(isinstance(file.get(name), h5py.Group) for name in OBSERVATIONS)
        return bool(_groups(file)) or (inner and _is_episode(file))


def _groups(file: h5py.File) -> list[str]:
    """The groups that are episodes, in natural order; HDF5 lists `demo_10` before `demo_2`."""
    found: list[str] = []

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Group) and _is_episode(node):
            found.append(name)

    file.visititems(visit)
    return sorted(found, key=natural)


def _is_episode(group: h5py.Group) -> bool:
    return all(any(name in group for name in names) for names in (ACTIONS, OBSERVATIONS))


def _hdf5_episodes(file: h5py.File, stem: str) -> list[Episode]:
    """Those of an open file, which has to stay open while they are read."""
    if _is_episode(file):
        return [Episode(stem, stem, _hdf5_arrays(file))]
    return [Episode(name, stem, _hdf5_arrays(file[name])) for name in _groups(file)]


def _hdf5_arrays(group: Any) -> dict[str, Array]:
    arrays: dict[str, Array] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape:
            arrays[name] = Array(node.shape, node.dtype, lambda: values_of(node))

    group.visititems(visit)
    return arrays


def _npz_episode(path: Path) -> Episode:
    """Arrays of Python objects are left out: they are pickles, which are never read."""
    with open_npz_archive(path) as archive:
        values = {name: archive.read(name) for name in archive.headers}
        pickled = archive.pickled
    arrays = {name: Array(value.shape, value.dtype, lambda value=value: value) for name, value in values.items()}
    nothing = Array((0,), np.dtype(object), lambda: np.zeros(0))
    return Episode(path.stem, path.stem, arrays | dict.fromkeys(pickled, nothing))


# --- reading ------------------------------------------------------------------------------------------------


def read_episode_groups(path: Path) -> Recording:
    """The episodes of one HDF5 file. Raises InputError where they cannot be read or do not fit together."""
    with open_hdf5(path) as file:
        recording = _joined(_hdf5_episodes(file, path.stem), str(path))
        names = [name.rsplit("/", 1)[-1] for name in _groups(file)]
        masks = _masks(file, names, recording.lengths) if names else {}
        metadata, notes = _robomimic(file, len(recording.columns["actions"]))
    own = recording.recording(path.stem, Source.at(path, FileDigest(path)))
    return replace(own, masks={**own.masks, **masks}, metadata=metadata, notes=(*own.notes, *notes))


def read_episode_files(folder: Path) -> Recording | None:
    """The episodes of a folder of `*.npz` or HDF5 files, an episode or several in each; None for another folder."""
    for suffixes in ((".npz",), (".hdf5", ".h5")):
        files = sorted((p for p in folder.iterdir() if p.suffix.lower() in suffixes), key=lambda p: natural(p.name))
        if files:
            break
    else:
        return None
    joined = _joined(_episodes_of(files), str(folder))
    return joined.recording(folder.resolve().name, Source.at(folder, files_digest(files)))


def _episodes_of(files: Iterable[Path]) -> Iterator[Episode]:
    for path in files:
        if path.suffix.lower() == ".npz":
            yield _npz_episode(path)
            continue
        with open_hdf5(path) as file:
            found = _hdf5_episodes(file, path.stem)
            if not found:
                raise InputError(f"{path}: no episode in it: none of its groups has {ACTIONS[0]} and {OBSERVATIONS[0]}")
            yield from found


class Joined(NamedTuple):
    """All episodes below each other."""

    columns: dict[str, np.ndarray]
    lengths: list[int]
    places: list[tuple[str, str]]  # of each episode: the file, the group that its own is in
    roles: Roles
    exact: bool
    ends: bool
    successes: np.ndarray | None
    clock: np.ndarray | None

    def recording(self, name: str, source: Source) -> Recording:
        by_file = [file for file, _ in self.places]
        parts = by_file if len(set(by_file)) > 1 else [group for _, group in self.places]
        several = 1 < len(set(parts)) < len(parts)  # not a part for each episode
        names = sorted(set(parts)) if several else []
        masks = {name: np.repeat([part == name for part in parts], self.lengths) for name in names}
        return Recording(
            name,
            source,
            self.columns,
            numbered(self.roles.observation),
            numbered(self.roles.action),
            terminals_end_episodes=self.ends,
            exact_next_observations=self.exact,
            extras={} if self.clock is None else {"timestamp": self.clock},
            masks=masks,
            successes=self.successes,
            notes=self.roles.notes,
        )


def _joined(episodes: Iterable[Episode], where: str) -> Joined:
    """The columns of all episodes, which must have the same arrays."""
    read: list[dict[str, np.ndarray]] = []
    places: list[tuple[str, str]] = []
    roles: Roles | None = None
    for episode in episodes:
        place = f"{where}: {episode.name}"
        found = _roles(episode.arrays, place)
        roles = roles or found
        if found[:-1] != roles[:-1]:
            raise InputError(f"{place} holds {_described(found)}; the first episode {_described(roles)}")
        columns = _columns(episode.arrays, roles, place)
        if len(columns["actions"]):
            read.append(columns)
            places.append((episode.file, episode.name.rpartition("/")[0]))
    if roles is None or not read:
        raise InputError(f"{where}: holds no episode with a row in it")
    if roles.discount is not None:
        read, note = _by_discount(read, roles.discount)
        roles = roles._replace(notes=(note, *roles.notes))
    # What the last row of an episode leads to is known only where all episodes have it.
    names = [name for name in read[0] if all(name in columns for columns in read)]
    columns = {name: np.concatenate([part[name] for part in read]) for name in names}
    lengths = [len(part["actions"]) for part in read]
    none = np.zeros(sum(lengths), bool)
    terminals, truncations = columns.get("terminals", none), columns.pop("truncations", none)
    columns["terminals"], columns["timeouts"], ends = flags_of_episodes(lengths, terminals, truncations)
    successes, clock = columns.pop("successes", None), columns.pop("clock", None)
    return Joined(columns, lengths, places, roles, "next_observations" in columns, ends, successes, clock)


def _described(roles: Roles) -> str:
    sizes = {**roles.observation, **roles.action}
    return ", ".join(f"{name}[{size}]" for name, size in sizes.items())


def _columns(arrays: Mapping[str, Array], roles: Roles, where: str) -> dict[str, np.ndarray]:
    """An episode's columns, of as many rows as it has actions."""
    steps = arrays[next(iter(roles.action))].shape[0]
    following = bool(steps) and all(arrays[name].shape[0] == steps + 1 for name in roles.observation)

    def matrix(names: Iterable[str], most: int) -> np.ndarray:
        return np.concatenate([rows(name, most).reshape(most, -1) for name in names], axis=1)

    def rows(name: str, count: int) -> np.ndarray:
        if arrays[name].shape[0] != count:
            raise InputError(f"{where}: {name} has {arrays[name].shape[0]} rows, expected {count} for {steps} actions")
        return arrays[name].read()

    observations = matrix(roles.observation, steps + following)
    columns = {"observations": observations[:steps], "actions": matrix(roles.action, steps)}
    if following:
        columns["next_observations"] = observations[1:]
    elif roles.next_observation:
        columns["next_observations"] = matrix(roles.next_observation, steps)
    if roles.reward is not None:
        columns["rewards"] = rows(roles.reward, steps).reshape(steps)
    for name, path in (("terminals", roles.terminal), ("truncations", roles.truncation), ("successes", roles.success)):
        if path is not None and arrays[path].shape[0] == steps + 1:  # the state's, the first one included
            columns[name] = as_flags(where, path, arrays[path].read().reshape(-1)[1:])
        elif path is not None:
            columns[name] = as_flags(where, path, rows(path, steps).reshape(steps))
    if roles.discount is not None and arrays[roles.discount].shape[0] == steps:
        columns["discounts"] = rows(roles.discount, steps).reshape(steps)
    if roles.clock is not None and arrays[roles.clock].shape[0] >= steps:
        columns["clock"] = arrays[roles.clock].read().reshape(-1)[:steps]
    return columns


def _by_discount(episodes: Sequence[dict[str, np.ndarray]], name: str) -> tuple[list[dict[str, np.ndarray]], str]:
    """(columns of episodes that have discounts, what was made of these, in words).

    DeepMind's control suite gives with an observation the action, reward and discount that led to it, and zeros with
    the first one. So where all episodes begin with zeros, actions and rewards are moved to the observation before.
    """
    parts = [dict(columns) for columns in episodes]
    discounts = [part.pop("discounts", None) for part in parts]
    begin_with_nothing = (
        len(part["actions"]) > 1
        and "next_observations" not in part
        and not any(part[key][0].any() for key in ("actions", "rewards") if key in part)
        for part in parts
    )
    if any(discount is None for discount in discounts) or not all(begin_with_nothing):
        return parts, f"not read: {name} (1)"
    for part, discount in zip(parts, discounts, strict=True):
        seen = part["observations"]
        part.setdefault("terminals", discount == 0)  # pyright: ignore[reportArgumentType]
        part |= {key: column[1:] for key, column in part.items() if key not in ("observations", "clock")}
        part |= {"observations": seen[:-1], "next_observations": seen[1:]}
        part |= {"clock": part["clock"][:-1]} if "clock" in part else {}
    return parts, f"{name}: every episode begins with zeros, so a row's action and reward led to its observation"


# --- what the arrays mean -----------------------------------------------------------------------------------


def _roles(arrays: Mapping[str, Array], where: str) -> Roles:
    """The columns by their names. Raises InputError where there are no actions or no observations that are vectors."""
    action_name, observation_name = (_first(arrays, names) for names in (ACTIONS, OBSERVATIONS))
    if action_name is None:
        raise missing_column(where, "actions", arrays, ACTIONS)
    if observation_name is None:
        raise missing_column(where, "observations", arrays, OBSERVATIONS)
    action, observation = _vectors(arrays, action_name), _vectors(arrays, observation_name)
    if not action or not observation:
        wanted, found = ("actions", action_name) if not action else ("observations", observation_name)
        inside = ", ".join(_shape(name, arrays[name]) for name in _below(arrays, found))
        raise InputError(f"{where}: its {wanted} are no vectors: {inside}; pictures and texts are not read")
    next_name = _first(arrays, NEXT_OBSERVATIONS)
    following = [f"{next_name}{name.removeprefix(observation_name)}" for name in observation]
    flat = {
        role: next((name for name in names if name in arrays and _is_flat(arrays[name])), None)
        for role, names in (
            ("reward", REWARDS),
            ("terminal", TERMINALS),
            ("truncation", TRUNCATIONS),
            ("success", SUCCESSES),
            ("discount", DISCOUNTS),
            ("clock", CLOCKS),
        )
    }
    used = {*action, *observation, *_below(arrays, next_name or "\0"), *filter(None, flat.values())}
    left = [_shape(name, arrays[name]) for name in sorted(arrays, key=natural) if name not in used]
    more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    notes = (f"not read: {', '.join(left[:SHOWN])}{more}",) if left else ()
    stored = next_name is not None and all(name in arrays for name in following)
    return Roles(observation, action, tuple(following) if stored else (), **flat, notes=notes)


def _first(arrays: Mapping[str, Array], names: Sequence[str]) -> str | None:
    return next((name for name in names if _below(arrays, name)), None)


def _below(arrays: Mapping[str, Array], name: str) -> list[str]:
    """The array of that name, or those in the group of that name, in natural order."""
    return sorted((path for path in arrays if path == name or path.startswith(f"{name}/")), key=natural)


def _vectors(arrays: Mapping[str, Array], name: str) -> dict[str, int]:
    """Path -> numbers in a row."""
    found = {path: arrays[path] for path in _below(arrays, name)}
    return {
        path: int(np.prod(array.shape[1:]))
        for path, array in found.items()
        if array.dtype.kind in "biuf" and array.shape and not is_picture(array.shape[1:], array.dtype)
    }


def _is_flat(array: Array) -> bool:
    return array.dtype.kind in "biuf" and len(array.shape) > 0 and int(np.prod(array.shape[1:])) == 1


def _shape(name: str, array: Array) -> str:
    size = " x ".join(map(str, array.shape[1:])) or "1"
    kind = {"O": "text or Python objects", "S": "text", "U": "text"}.get(array.dtype.kind, "")
    picture = array.dtype.kind in "biuf" and is_picture(array.shape[1:], array.dtype)
    return f"{name} ({kind or size + (', pictures' if picture else '')})"


# --- robomimic ----------------------------------------------------------------------------------------------


def _masks(file: Any, names: list[str], lengths: list[int]) -> dict[str, np.ndarray]:
    """The filter keys: name -> the rows of the demonstrations that it lists."""
    group = file.get("mask")
    if not isinstance(group, h5py.Group) or len(names) != len(lengths):
        return {}
    masks = {}
    for key in map(str, group):
        node = group[key]
        if isinstance(node, h5py.Dataset) and node.shape:
            listed = {text.decode() if isinstance(text, bytes) else str(text) for text in values_of(node).tolist()}
            masks[key] = np.repeat([name in listed for name in names], lengths)
    return masks


def _robomimic(file: Any, rows: int) -> tuple[dict[str, str | float | int], tuple[str, ...]]:
    """(the environment's name, as metadata; what is odd)."""
    data = file.get("data")
    attributes: Any = data.attrs if isinstance(data, h5py.Group) else {}
    metadata, notes = {}, []
    with contextlib.suppress(KeyError, TypeError, ValueError):
        metadata["environment"] = str(parse_json(attributes["env_args"])["env_name"])
    total = attributes.get("total")
    if total is not None and np.ndim(total) == 0 and int(total) != rows:
        notes.append(f"the file says that it has {int(total):,} rows; {rows:,} are there")
    return metadata, tuple(notes)
