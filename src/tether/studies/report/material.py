"""What a report is made of: the runs below some folders, their scores by task and method, and verdicts where there are.

A study's folder (of `tether reproduce`, `compare` or `sweep`) and single runs are read alike: every folder with a
config.json and evaluations below it is a run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.errors import InputError
from tether.machine.reading import parse_json, read_bytes
from tether.runs.curves import Curves, read_curves

__all__ = ["Material", "RunRecord", "read_material"]

MOST_DEPTH = 4  # folders below a study in which runs are looked for


class RunRecord(NamedTuple):
    """One run folder."""

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any]  # empty while it trains
    curves: Curves

    @property
    def task(self) -> str:
        """Its data set, by the preset where that says more: a file's name may lack the version."""
        name = str(self.config["data"]["dataset"])
        preset = str(self.config.get("notes", {}).get("preset") or "")
        return preset if preset.startswith(name) else name

    @property
    def scores(self) -> np.ndarray:
        """(seeds,) of the last evaluation; NaN where a lane had diverged."""
        if not len(self.curves.updates):
            return np.full(len(self.config["lanes"]), np.nan)
        return self.curves.scores[:, -1].mean(axis=1)

    @property
    def updates(self) -> int:
        """Up to which it was evaluated."""
        return int(self.curves.updates[-1]) if len(self.curves.updates) else 0

    @property
    def command(self) -> str:
        """As it was called."""
        notes = self.config.get("notes", {})
        return str(notes.get("command") or notes.get("sweep_job") or f"tether.train: {self.folder.name}")


class Material(NamedTuple):
    """All of a report."""

    title: str
    runs: dict[str, list[RunRecord]]  # method -> its runs
    verdicts: list[dict[str, Any]]  # rows of reproduce.json
    options: dict[str, Any]  # of the reproduction
    left_out: list[str]  # folders that could not be read, and why

    @property
    def tasks(self) -> list[str]:
        """All of them, sorted."""
        return sorted({run.task for runs in self.runs.values() for run in runs})

    def scores(self, method: str, task: str) -> np.ndarray:
        """(seeds,) finite ones of all runs of a method on a task."""
        found = [run.scores for run in self.runs[method] if run.task == task]
        joined = np.concatenate(found) if found else np.zeros(0)
        return joined[np.isfinite(joined)]

    @property
    def score_name(self) -> str:
        """What scores are."""
        names = {str(run.config.get("score") or "normalised score") for runs in self.runs.values() for run in runs}
        return names.pop() if len(names) == 1 else "score"


def read_material(folders: Sequence[Path], title: str | None = None) -> Material:
    """Raises InputError where there is no run with an evaluation below the folders."""
    found, left_out = [], []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        for place in _run_folders(folder):
            try:
                found.append(_read(place))
            except InputError as error:
                left_out.append(str(error))
    found = [run for run in found if len(run.curves.updates)]
    verdicts, options = _verdicts(folders)
    if not found and not verdicts:
        raise InputError(f"{', '.join(map(str, folders))}: no run with an evaluation in it")
    names = title or ", ".join(folder.resolve().name for folder in folders[:3]) + (" ..." if len(folders) > 3 else "")
    return Material(options.get("target") or names, _by_method(found), verdicts, options, left_out)


def _run_folders(folder: Path, depth: int = 0) -> list[Path]:
    if (folder / "config.json").is_file():
        return [folder]
    if depth == MOST_DEPTH:
        return []
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [run for path in inner for run in _run_folders(path, depth + 1)]


def _read(folder: Path) -> RunRecord:
    curves = read_curves(folder)  # which refuses what is no run
    config = parse_json(read_bytes(folder / "config.json"))
    try:
        result = parse_json(read_bytes(folder / "result.json"))
    except (OSError, ValueError):
        result = {}
    if not isinstance(config.get("data", {}).get("dataset"), str):
        raise InputError(f"{folder}: config.json names no data set")
    return RunRecord(folder, config, result, curves)


def _verdicts(folders: Sequence[Path]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows, options = [], {}
    for folder in folders:
        try:
            found = parse_json(read_bytes(folder / "reproduce.json"))
            rows += found["cells"]
            options = found["options"]
        except OSError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / 'reproduce.json'}: truncated or altered: {error}") from None
    return rows, options


def _by_method(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """By algorithm; runs of one algorithm and task that differ in hyper-parameters are methods of their own."""
    settings = [_changes(run, runs) for run in runs]
    found: dict[str, list[RunRecord]] = {}
    for run, words in zip(runs, settings, strict=True):
        found.setdefault(" ".join(filter(None, [run.config["algorithm"], words])), []).append(run)
    return dict(sorted(found.items()))


def _changes(run: RunRecord, runs: Sequence[RunRecord]) -> str:
    """In which hyper-parameters a run differs from others of its algorithm on its task."""
    like = [r for r in runs if (r.config["algorithm"], r.task) == (run.config["algorithm"], run.task)]
    own = run.config.get("hyperparameters", {})
    differ = [
        name for name in own if any(other.config.get("hyperparameters", {}).get(name) != own[name] for other in like)
    ]
    return ", ".join(f"{name} {_text(own[name])}" for name in differ if not name.endswith("_updates"))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
