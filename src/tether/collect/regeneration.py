"""`tether data collect ogbench:scene-play-v0`: an OGBench data set made again, in its own npz layout.

DIR/NAME.npz, DIR/NAME-val.npz   read as ogbench:DIR/NAME-with-singletask; each holds its `provenance`, too
DIR/NAME.json                    how they came about, what is in them, their hashes
DIR/partial/NAME-...             finished episodes, until the files are written

The data are regenerated: the published recipe and the package's own oracles, but other random numbers, other versions
of the simulator, and so not OGBench's files. The same seed and versions give the same bytes, with any number of
processes and however often it was stopped.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors

from tether import _version
from tether.collect.oracles import episode_path, open_world, write_episode
from tether.collect.recipes import PREFIX, Recipe, find_recipe_of
from tether.data.readers.ogbench import PROVENANCE
from tether.data.sources import load_dataset
from tether.environments.names import without_single_task
from tether.errors import InputError
from tether.machine.files import atomic_path, atomic_write_json, sha256_file
from tether.machine.locks import only_writer
from tether.machine.reading import parse_json, read_bytes
from tether.machine.signals import Interrupted, StopSignals
from tether.runs.config import commit, versions
from tether.runs.records import Display

__all__ = ["RegenerateOptions", "missing_episodes", "regenerate"]

FORMAT = 1
SINGLE_TASKS = 5  # of every environment
WAIT_SECONDS = 0.2  # between two looks at what the processes have finished
COMMAND = [sys.executable, "-P", "-m", "tether.collect.oracle_worker"]


@dataclasses.dataclass(frozen=True)
class RegenerateOptions:
    """What to make; see `tether data collect --help`."""

    name: str  # scene-play-v0
    out: Path
    episodes: int | None = None  # for training; None: as published
    seed: int = 0
    processes: int = 1


def regenerate(
    options: RegenerateOptions, *, quiet: bool = False, command: str = ""
) -> tuple[list[Path], dict[str, Any]]:
    """Make the training and the validation file, or go on with them -> (their paths, how they came about).

    Files that are there stay as they are. Raises InputError for bad input or a package that is missing, Busy where
    another process makes them, Interrupted after SIGINT, SIGTERM or SIGHUP (the same call goes on), OSError where the
    disk fails.
    """
    name = without_single_task(options.name.removeprefix(PREFIX))
    recipe = find_recipe_of(name)
    versions_now = _versions()
    if min(options.episodes or 1, options.processes) < 1 or options.seed < 0:
        raise InputError("--episodes, --processes: at least 1; --seed: not negative")
    recipe = recipe._replace(episodes=options.episodes or recipe.episodes)
    paths = [options.out / f"{name}.npz", options.out / f"{name}-val.npz"]
    about = {"name": name, "recipe": recipe._asdict(), "seed": options.seed, "versions": versions_now}
    note = options.out / f"{name}.json"
    if note.exists() and (found := _found(note, about)) is not None:
        return paths, _with_rates(note, found, options.out)
    for path in filter(Path.exists, paths):
        _check_own(path, about)
    folder = options.out / "partial" / f"{name}-{_digest(about)}"
    with Display(quiet) as display, StopSignals() as stop, only_writer(folder):
        count = recipe.episodes + recipe.validation_episodes
        display.begin(name, count - len(missing_episodes(folder, count)), count, "episodes")
        _fill(folder, recipe, options, display, stop)
        if stop.number is not None:
            raise Interrupted(stop.number, options.out, "the same command")
        display.note("writing")
        provenance = {"format_version": FORMAT, "kind": "regenerated", **about, "commit": commit()}
        parts = np.split(np.arange(count), [recipe.episodes])
        for path, episodes in zip(paths, parts, strict=True):
            _write(path, [episode_path(folder, int(i)) for i in episodes], provenance)
        files = {path.name: {"sha256": sha256_file(path), **_summary(path)} for path in paths if path.exists()}
        provenance |= {"command": command, "files": files, **_reports(folder, count)}
        atomic_write_json(note, provenance)
        shutil.rmtree(folder)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
    return paths, _with_rates(note, provenance, options.out)


def _versions() -> dict[str, str]:
    """Of what decides the data. Raises InputError where the package is missing."""
    found = {name: number for name, number in versions().items() if name in ("tether", "numpy", "gymnasium", "mujoco")}
    for package in ("ogbench", "dm_control"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise InputError(f"{PREFIX} sets need the package {package}: pip install 'tether-rl[ogbench]'") from None
    return found


def _digest(about: dict[str, Any]) -> str:
    """Other settings or versions have another place for their episodes. How many there are does not matter."""
    recipe = {name: value for name, value in about["recipe"].items() if name != "episodes"}
    text = json.dumps({**about, "recipe": recipe}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _found(note: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """The record of what is there already; None where a file of it is gone. Raises InputError where it is something
    else."""
    try:
        found = parse_json(read_bytes(note))
        pairs = [(name, found[name], about[name]) for name in ("recipe", "seed")]
        _ = found["files"], found["episodes"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{note}: truncated or altered: {type(error).__name__} {error}") from None
    for name, old, new in pairs:
        if old != new:
            raise InputError(f"{note}: was made with {name} {old}, not {new}; name another folder with --out")
    for name, file in found["files"].items():
        path = note.parent / name
        if not path.is_file():
            return None
        if sha256_file(path) != file["sha256"]:
            raise InputError(f"{path}: is not the file that {note.name} tells of; move it away, or name another --out")
    return found


def _check_own(path: Path, about: dict[str, Any]) -> None:
    """Refuse a file that was not made so: it would be taken for one that was."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            made = parse_json(str(file[PROVENANCE]))
        same = all(made[name] == about[name] for name in ("name", "recipe", "seed"))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        same = False
    if not same:
        raise InputError(f"{path}: is there, and was not made by this; move it away, or name another folder with --out")


# --- episodes -----------------------------------------------------------------------------------------------


def missing_episodes(folder: Path, count: int) -> list[int]:
    """The numbers below `count` of the episodes that are not in the folder."""
    there = {path.name for path in folder.glob("episode-*.safetensors")}
    return [i for i in range(count) if episode_path(folder, i).name not in there]


def _fill(folder: Path, recipe: Recipe, options: RegenerateOptions, display: Display, stop: StopSignals) -> None:
    """Have all episodes played that are missing; fewer where it is stopped."""
    count = recipe.episodes + recipe.validation_episodes
    missing = missing_episodes(folder, count)
    if options.processes == 1 or len(missing) < 2:
        with open_world(recipe) as environment:
            for done, episode in enumerate(missing, count - len(missing) + 1):
                if stop.number is not None:
                    return
                write_episode(folder, environment, recipe, options.seed, episode)
                display.advance(done)
        return
    shares = [missing[i :: options.processes] for i in range(min(options.processes, len(missing)))]
    requests = [
        {"folder": str(folder), "recipe": recipe._asdict(), "seed": options.seed, "episodes": share} for share in shares
    ]
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(request)) for request in requests]
        while stop.number is None and (running := [_runs(*worker) for worker in workers]) and any(running):
            display.advance(count - len(missing_episodes(folder, count)))
            time.sleep(WAIT_SECONDS)


@contextlib.contextmanager
def _worker(request: dict[str, Any]) -> Iterator[tuple[subprocess.Popen, IO[bytes]]]:
    """A process that plays some episodes; it ends with this block, or when this process does."""
    root = str(Path(_version.__file__).parents[1])
    paths = os.pathsep.join(dict.fromkeys(filter(None, [root, os.environ.get("PYTHONPATH")])))
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with tempfile.TemporaryFile() as said:
        environment = os.environ | one_thread | {"PYTHONPATH": paths}
        process = subprocess.Popen(
            COMMAND, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            yield process, said
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(OSError):
                process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]


def _runs(process: subprocess.Popen, said: IO[bytes]) -> bool:
    """Whether it is at work; False once it has done all. Raises RuntimeError where it died."""
    code = process.poll()
    if code:
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines() or ["without a word"]
        raise RuntimeError(f"a process that plays episodes died with exit code {code}: {lines[-1]}")
    return code is None


# --- files --------------------------------------------------------------------------------------------------


def _write(path: Path, episodes: list[Path], provenance: dict[str, Any]) -> None:
    """One npz file, an episode below the other; no more than one episode is in memory."""
    if not episodes or path.exists():
        return
    with safetensors.safe_open(episodes[0], "np") as first:
        names = sorted(first.keys())
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            with _entry(archive, name) as entry:
                for number, episode in enumerate(episodes):
                    with safetensors.safe_open(episode, "np") as file:
                        column = file.get_tensor(name)
                    if number == 0:
                        shape = (len(column) * len(episodes), *column.shape[1:])
                        _header(entry, shape, column.dtype)
                    entry.write(np.ascontiguousarray(column).tobytes())
        text = np.array(json.dumps(provenance))
        with _entry(archive, PROVENANCE) as entry:
            _header(entry, (), text.dtype)
            entry.write(text.tobytes())


def _entry(archive: zipfile.ZipFile, name: str) -> Any:
    """A file in the archive, without the time of writing: the same data are the same bytes."""
    info = zipfile.ZipInfo(f"{name}.npy")
    info.compress_type = zipfile.ZIP_DEFLATED
    return archive.open(info, "w", force_zip64=True)


def _header(entry: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(entry, description)


def _summary(path: Path) -> dict[str, Any]:
    """What is in a file, in numbers."""
    with np.load(path, allow_pickle=False) as file:
        actions, terminals = file["actions"], file["terminals"]
    ends = np.flatnonzero(terminals) + 1
    lengths = np.diff(ends, prepend=0)
    return {
        "rows": len(actions),
        "transitions": int(len(actions) - len(ends)),
        "episodes": len(ends),
        "observations_per_episode": sorted({int(length) for length in lengths}),
        "action_mean": actions.mean(0, np.float64).round(4).tolist(),
        "action_std": actions.std(0, dtype=np.float64).round(4).tolist(),
        "actions_at_a_bound": float(np.mean(np.abs(actions) >= 1.0)),
    }


def _with_rates(note: Path, provenance: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the training file pays for each single task: the share of rows that solve it, of episodes that ever do, and
    the mean reward. Also noted in a record that lacks it."""
    if "single_tasks" in provenance:
        return provenance
    stem, _, version = str(provenance["name"]).rpartition("-")
    found = {}
    for task in range(1, SINGLE_TASKS + 1):
        data = load_dataset(f"{PREFIX}{folder}/{stem}-singletask-task{task}-{version}")
        assert data.successes is not None
        starts, ends, _ = data.episode_bounds()
        ever = np.logical_or.reduceat(data.successes[: ends[-1]], starts)
        rates = data.successes.mean(), ever.mean(), data.rewards.mean(dtype=np.float64)
        names = ("rows_that_solve_it", "episodes_that_solve_it", "mean_reward")
        found[f"task{task}"] = {name: round(float(rate), 5) for name, rate in zip(names, rates, strict=True)}
    provenance = provenance | {"single_tasks": found}
    atomic_write_json(note, provenance)
    return provenance


def _reports(folder: Path, count: int) -> dict[str, Any]:
    """What the oracles did in all episodes: how often they finished, and how often what they were to do was done."""
    finished: dict[str, np.ndarray] = {}
    attempts = 0
    for episode in range(count):
        with safetensors.safe_open(episode_path(folder, episode), "np") as file:
            report = parse_json(file.metadata()["report"])
        attempts += report["attempts"]
        for kind, numbers in report["targets"].items():
            finished[kind] = finished.get(kind, np.zeros(2, int)) + numbers
    behaviour = {
        kind: {"finished": int(number), "reached": round(float(reached / max(number, 1)), 4)}
        for kind, (number, reached) in finished.items()
    }
    return {"episodes": count, "episodes_thrown_away": attempts - count, "behaviour": behaviour}
