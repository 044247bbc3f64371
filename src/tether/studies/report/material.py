"""What a report is made of: the runs below some folders, their scores by task and method, and verdicts where there are.

A study's folder (of `tether reproduce`, `compare` or `sweep`) and single runs are read alike: every folder with a
config.json and evaluations below it is a run. Where a reproduction trained it, it goes by the published method's name.
"""

import functools
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.environments.names import without_version
from tether.errors import InputError
from tether.machine.reading import parse_json, read_bytes
from tether.runs.arms import short_numbers
from tether.runs.curves import Curves, lanes_by_setting, of_lanes, read_curves, read_record, read_result
from tether.studies.reproduce.study import reproduce_command

__all__ = ["Material", "RunRecord", "read_material"]

MOST_DEPTH = 4  # folders below a study in which runs are looked for


class RunRecord(NamedTuple):
    """One run folder; of a run that sweeps hyper-parameters the lanes of one setting, which are its seeds."""

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any]  # empty while it trains
    curves: Curves
    lanes: tuple[int, ...]  # that `curves` are of
    study: dict[str, Any]  # reproduce.json of the study whose job it is; empty where it is none's

    @property
    def method(self) -> str:
        """As published where a reproduction trained it, with what was changed there; else its algorithm."""
        for row in self.study.get("cells", ()):
            if row["run"] is not None and Path(row["run"]).name == self.folder.name:
                changed = self.study["options"].get("hyperparameters", {})
                words = [f"{name} {value}" for name, value in changed.items()]
                return ", ".join([row["cell"].split("/", 2)[-1], *words])
        return str(self.config["algorithm"])

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
        """That made it."""
        notes, parent = self.config["notes"], self.folder.parent.parent
        if notes.get("command") or not notes.get("sweep_job"):
            return str(notes.get("command") or f"tether.train: {self.folder.name}")
        if self.study:
            return reproduce_command(self.study["options"])
        return shlex.join(["tether", "sweep", str(parent / "spec.toml"), "--out", str(parent)])


class Material(NamedTuple):
    """All of a report."""

    title: str
    runs: dict[str, list[RunRecord]]  # method -> its runs
    verdicts: list[dict[str, Any]]  # rows of reproduce.json
    reservations: list[str]  # what a reader must know: folders that could not be read, seeds that are missing, and why

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
    read_study = functools.cache(_study)  # a study has many runs
    studies = [study for folder in dict.fromkeys(map(Path.resolve, folders)) if (study := read_study(folder))]
    found, reservations, seen = [], [], set()
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        for place in _run_folders(folder):
            if place.resolve() in seen:
                continue
            seen.add(place.resolve())
            try:
                job = place.resolve()  # STUDY/jobs/RUN, where it is one
                found += _read(place, read_study(job.parents[1]) if job.parent.name == "jobs" else {})
            except InputError as error:
                reservations.append(f"left out: {error}")
    reservations += [f"left out: {run.folder}: no evaluation yet" for run in found if not len(run.curves.updates)]
    found = _once([run for run in found if len(run.curves.updates)], reservations)
    for run in found:
        if lost := int((~np.isfinite(run.scores)).sum()):
            seeds = f"{lost} of {len(run.lanes)} seeds, which diverged or were not evaluated"
            reservations.append(f"left out: {run.folder}: {seeds}")
        if not run.result:
            reservations.append(f"{run.folder}: not finished, and scored as it was after {run.updates:,} updates")
    verdicts = [row for study in studies for row in study["cells"]]
    if not found and not verdicts:
        raise InputError(f"{', '.join(map(str, folders))}: no run with an evaluation in it")
    names = ", ".join(folder.resolve().name for folder in folders[:3]) + (" ..." if len(folders) > 3 else "")
    if len(folders) == len(studies) == 1:
        names = str(studies[0]["options"].get("target") or names)
    material = Material(title or names, _by_method(found), verdicts, reservations)
    if len(material.score_names) > 1:
        kinds = ", ".join(material.score_names)
        reservations.append(f"left out: means and profiles over tasks, as their scores are {kinds}")
    reservations += _unequal(material)
    return material


def _once(runs: Sequence[RunRecord], reservations: list[str]) -> list[RunRecord]:
    """Each run but its copies: the same training and the same scores, which would count its seeds twice."""
    first: dict[tuple[str, bytes], RunRecord] = {}
    for run in runs:
        config = {name: run.config.get(name) for name in ("algorithm", "hyperparameters", "settings")}
        config["seeds"] = [run.config["lanes"][lane].get("seed") for lane in run.lanes]
        config["data"] = {name: value for name, value in run.config["data"].items() if name != "source"}
        key = json.dumps(config, sort_keys=True, default=str), run.curves.scores.tobytes()
        if (known := first.setdefault(key, run)) is not run:
            reservations.append(f"left out: {run.folder}: the same seeds and scores as {known.folder}")
    return list(first.values())


def _unequal(material: Material) -> list[str]:
    """Of which tasks the runs are not equally far."""
    found = []
    for task in material.tasks:
        updates = [run.updates for runs in material.runs.values() for run in runs if material.task_of(run) == task]
        if min(updates) < max(updates):
            found.append(f"{task}: scores after {min(updates):,} to {max(updates):,} updates stand side by side")
    return found


def _run_folders(folder: Path, depth: int = 0) -> list[Path]:
    if (folder / "config.json").is_file():
        return [folder]
    if depth == MOST_DEPTH:
        return []
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [run for path in inner for run in _run_folders(path, depth + 1)]


def _read(folder: Path, study: dict[str, Any]) -> list[RunRecord]:
    """A record for each swept setting, with it among the hyper-parameters."""
    config, curves = read_record(folder), read_curves(folder)
    result = read_result(folder)
    found = []
    for swept, lanes in lanes_by_setting(config):
        own = config | {"hyperparameters": config.get("hyperparameters", {}) | swept}
        found.append(RunRecord(folder, own, result, of_lanes(curves, lanes), lanes, study))
    return found


def _study(folder: Path) -> dict[str, Any]:
    """reproduce.json; empty where there is none. Raises InputError where it is damaged."""
    path = folder / "reproduce.json"
    try:
        found = parse_json(read_bytes(path))
        _ = [(row["verdict"]["word"], row["cell"].split("/"), row["run"]) for row in found["cells"]]
        _ = reproduce_command(found["options"])
        return found
    except OSError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: truncated or altered: {type(error).__name__} {error}") from None


def _by_method(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """By method; runs of one method and task that differ in settings are methods of their own."""
    texts = short_numbers([run.settings for run in runs])
    settings = [_changes(run, runs, own) for run, own in zip(runs, texts, strict=True)]
    found: dict[str, list[RunRecord]] = {}
    for run, words in zip(runs, settings, strict=True):
        found.setdefault(" ".join(filter(None, [run.method, words])), []).append(run)
    return dict(sorted(found.items()))


def _changes(run: RunRecord, runs: Sequence[RunRecord], texts: Mapping[str, Any]) -> str:
    """In which settings a run differs from others of its method on its task. texts: its own, for people."""
    like = [r.settings for r in runs if (r.method, r.task) == (run.method, run.task)]
    differ = [name for name, value in run.settings.items() if any(other.get(name) != value for other in like)]
    return ", ".join(f"{name} {_text(texts[name])}" for name in differ)


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
