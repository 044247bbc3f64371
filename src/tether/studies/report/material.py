"""What a report is made of: the runs below some folders, their scores by task and method, and verdicts where there are.

A study's folder (of `tether reproduce`, `compare` or `sweep`) and single runs are read alike: every folder with a
config.json and evaluations below it is a run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.environments.names import without_version
from tether.errors import InputError
from tether.machine.reading import parse_json, read_bytes
from tether.runs.curves import Curves, lanes_by_setting, of_lanes, read_curves, read_record, read_result

__all__ = ["Material", "RunRecord", "read_material"]

MOST_DEPTH = 4  # folders below a study in which runs are looked for


class RunRecord(NamedTuple):
    """One run folder; of a run that sweeps hyper-parameters the lanes of one setting, which are its seeds."""

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any]  # empty while it trains
    curves: Curves
    lanes: tuple[int, ...]  # that `curves` are of

    @property
    def task(self) -> str:
        """Its data set, by the preset where that says more: a file's name may lack the version."""
        name, preset = self.config["data"]["dataset"], str(self.config["notes"].get("preset"))
        return preset if without_version(preset) == name else name

    @property
    def score_name(self) -> str:
        """What its scores are."""
        return str(self.config.get("score") or "normalised score")

    @property
    def settings(self) -> dict[str, Any]:
        """All that makes it another method than a run of the same algorithm."""
        data, options = self.config["data"], self.config.get("settings", {})
        named = {name: data.get(name, {}).get("name") for name in ("reward_transform", "observation_transform")}
        named |= {"data_filter": data.get("filter", {}).get("name")}
        named |= {name: options.get(name) for name in ("batch_size", "precision")}
        online = (self.config.get("finetuning") or {}).get("online_fraction")
        return self.config.get("hyperparameters", {}) | data.get("framing", {}) | named | {"online_fraction": online}

    @property
    def scores(self) -> np.ndarray:
        """(seeds,) of the last evaluation; NaN where a lane had diverged."""
        if not len(self.curves.updates):
            return np.full(len(self.lanes), np.nan)
        return self.curves.scores[:, -1].mean(axis=1)

    @property
    def updates(self) -> int:
        """Up to which it was evaluated."""
        return int(self.curves.updates[-1]) if len(self.curves.updates) else 0

    @property
    def command(self) -> str:
        """As it was called."""
        notes = self.config["notes"]
        return str(notes.get("command") or notes.get("sweep_job") or f"tether.train: {self.folder.name}")


class Material(NamedTuple):
    """All of a report."""

    title: str
    runs: dict[str, list[RunRecord]]  # method -> its runs
    verdicts: list[dict[str, Any]]  # rows of reproduce.json
    options: dict[str, Any]  # of the reproduction
    left_out: list[str]  # folders that could not be read and whatever else is missing, and why

    @property
    def tasks(self) -> list[str]:
        """All of them, sorted."""
        return sorted({self.task_of(run) for runs in self.runs.values() for run in runs})

    def task_of(self, run: RunRecord) -> str:
        """Its task; with what is scored, where that is not the same everywhere: no row then holds two kinds."""
        return run.task if len(self.score_names) == 1 else f"{run.task} ({run.score_name})"

    def scores(self, method: str, task: str) -> np.ndarray:
        """(seeds,) finite ones of all runs of a method on a task."""
        found = [run.scores for run in self.runs[method] if self.task_of(run) == task]
        joined = np.concatenate(found) if found else np.zeros(0)
        return joined[np.isfinite(joined)]

    @property
    def score_names(self) -> list[str]:
        """What scores are, sorted; several where runs are scored in different ways."""
        return sorted({run.score_name for runs in self.runs.values() for run in runs})

    def score_on(self, task: str) -> str:
        """What the scores on a task are."""
        return next(run.score_name for runs in self.runs.values() for run in runs if self.task_of(run) == task)

    @property
    def score_name(self) -> str:
        """What scores are, in a word."""
        return self.score_names[0] if len(self.score_names) == 1 else "score"


def read_material(folders: Sequence[Path], title: str | None = None) -> Material:
    """Raises InputError where there is no run with an evaluation below the folders."""
    found, left_out, seen = [], [], set()
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        for place in _run_folders(folder):
            if place.resolve() in seen:
                continue
            seen.add(place.resolve())
            try:
                found += _read(place)
            except InputError as error:
                left_out.append(str(error))
    left_out += [f"{run.folder}: no evaluation yet" for run in found if not len(run.curves.updates)]
    found = [run for run in found if len(run.curves.updates)]
    for run in found:
        if lost := int((~np.isfinite(run.scores)).sum()):
            left_out.append(f"{run.folder}: {lost} of {len(run.lanes)} seeds, which diverged or were not evaluated")
    verdicts, options = _verdicts(folders)
    if not found and not verdicts:
        raise InputError(f"{', '.join(map(str, folders))}: no run with an evaluation in it")
    names = title or ", ".join(folder.resolve().name for folder in folders[:3]) + (" ..." if len(folders) > 3 else "")
    material = Material(options.get("target") or names, _by_method(found), verdicts, options, left_out)
    if len(material.score_names) > 1:
        left_out.append(f"means and profiles over tasks, as their scores are {', '.join(material.score_names)}")
    return material


def _run_folders(folder: Path, depth: int = 0) -> list[Path]:
    if (folder / "config.json").is_file():
        return [folder]
    if depth == MOST_DEPTH:
        return []
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [run for path in inner for run in _run_folders(path, depth + 1)]


def _read(folder: Path) -> list[RunRecord]:
    """A record for each swept setting, with it among the hyper-parameters."""
    config, curves = read_record(folder), read_curves(folder)
    result = read_result(folder)
    found = []
    for swept, lanes in lanes_by_setting(config):
        own = config | {"hyperparameters": config.get("hyperparameters", {}) | swept}
        found.append(RunRecord(folder, own, result, of_lanes(curves, lanes), lanes))
    return found


def _verdicts(folders: Sequence[Path]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows, options = [], {}
    for folder in folders:
        try:
            found = parse_json(read_bytes(folder / "reproduce.json"))
            rows += found["cells"]
            _ = [row["verdict"]["word"] for row in found["cells"]]
            options = found["options"]
        except OSError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / 'reproduce.json'}: truncated or altered: {error}") from None
    return rows, options


def _by_method(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """By algorithm; runs of one algorithm and task that differ in settings are methods of their own."""
    settings = [_changes(run, runs) for run in runs]
    found: dict[str, list[RunRecord]] = {}
    for run, words in zip(runs, settings, strict=True):
        found.setdefault(" ".join(filter(None, [run.config["algorithm"], words])), []).append(run)
    return dict(sorted(found.items()))


def _changes(run: RunRecord, runs: Sequence[RunRecord]) -> str:
    """In which settings a run differs from others of its algorithm on its task."""
    like = [r.settings for r in runs if (r.config["algorithm"], r.task) == (run.config["algorithm"], run.task)]
    own = run.settings
    differ = [name for name, value in own.items() if any(other.get(name) != value for other in like)]
    return ", ".join(f"{name} {_text(own[name])}" for name in differ)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
