"""A job on disk: begun, resumed, or left alone because it is complete; and the folder that holds all jobs.

DIR/
  spec.toml           the spec, as it was when the sweep began
  jobs/NAME/          the run folder of each job (README, "A run on disk")
  events.jsonl        what happened to jobs: started, done, failed, retried
  table.csv, table.md, table.json, lanes.csv      the outcome (`tether.studies.sweep.table`)
"""

import json
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tether.environments.make import check_imported
from tether.errors import InputError
from tether.machine.files import atomic_write_text, lasting
from tether.machine.locks import only_writer
from tether.machine.reading import parse_json, read_bytes
from tether.runs.jsonlines import JsonLines
from tether.runs.report import lane_score
from tether.studies.sweep.spec import Job, SweepSpec, load_spec

__all__ = ["SweepFolder", "job_result", "run_job"]


class SweepFolder:
    """The folder of a sweep; the same spec finds its jobs there again."""

    def __init__(self, path: Path, spec: SweepSpec):
        self.path = path
        self.spec = spec
        self.events = JsonLines(path / "events.jsonl")

    @classmethod
    def open(cls, path: Path, spec: SweepSpec) -> "SweepFolder":
        """Make the folder, or go on with it. Raises InputError where it belongs to another spec."""
        stored = path / "spec.toml"
        cls.check(path, spec.jobs)
        if not stored.exists():
            empty = path / "jobs"  # which a kill before the first file leaves
            if any(entry != empty or not entry.is_dir() or any(entry.iterdir()) for entry in lasting(path)):
                raise InputError(f"{path}: exists and holds no sweep; name another folder")
            (path / "jobs").mkdir(parents=True, exist_ok=True)
            # Data sets are still found beside the spec.
            base = "" if "base" in tomllib.loads(spec.text) else f"base = {json.dumps(str(spec.base))}\n"
            atomic_write_text(stored, base + spec.text)
        return cls(path, spec)

    @staticmethod
    def check(path: Path, jobs: Sequence[Job]) -> None:
        """Raises InputError where the folder holds a sweep of other jobs."""
        stored = path / "spec.toml"
        if stored.exists() and (difference := _difference(load_spec(stored).jobs, jobs)):
            raise InputError(f"{path}: holds another sweep: {difference}; name another folder")

    def run_folder(self, job: Job) -> Path:
        """Where the job's run is."""
        return self.path / "jobs" / job.name

    def note(self, job: Job, event: str, **more: Any) -> None:
        """A line of events.jsonl."""
        row = {"time": round(time.time(), 3), "job": job.number, "name": job.name, "event": event, **more}
        self.events.append([row])

    def unfinished(self) -> list[Job]:
        """The jobs that have no result yet."""
        return [job for job in self.spec.jobs if job_result(self.run_folder(job)) is None]


def _difference(there: Sequence[Job], asked: Sequence[Job]) -> str:
    """In what the jobs that a folder holds are not those that are asked for; empty where they are the same."""
    if len(there) != len(asked):
        return f"of {len(there)} jobs, not {len(asked)}"
    for old, new in zip(there, asked, strict=True):
        if old == new:
            continue
        pairs = [(name, getattr(old, name), getattr(new, name)) for name in ("algorithm", "dataset")]
        for part in ("options", "hyperparameters"):
            ours, theirs = getattr(old, part), getattr(new, part)
            pairs += [(name, ours.get(name), theirs.get(name)) for name in sorted({*ours, *theirs})]
        pairs.append(("lanes", _lane_names(old), _lane_names(new)))
        different = [f"{name} {_said(was)}, not {_said(now)}" for name, was, now in pairs if was != now]
        return f"in job {old.name} {', '.join(different) or 'another order'}"
    return ""


def _lane_names(job: Job) -> str:
    return "; ".join(lane.name for lane in job.lanes)


def _said(value: Any) -> Any:
    return "unset" if value is None else value


def job_result(folder: Path) -> dict[str, Any] | None:
    """The result of a run folder; None while there is none, or it is damaged, as the run then writes it again."""
    try:
        result = parse_json(read_bytes(folder / "result.json"))
        _ = result["status"], result["dataset"], [(lane["diverged"], lane_score(lane)) for lane in result["lanes"]]
        return result
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def run_job(job: Job, folder: Path, *, quiet: bool = True) -> None:
    """Train the job in its run folder: from the start, from its newest checkpoint, or not at all if it is complete.

    Where another process trains it, such as the one that this is to replace, it waits for that one's end.
    Raises: InputError for what no second attempt would change; otherwise as `tether.api.train`.
    """
    from tether.api import resume, train

    with only_writer(folder, wait=lambda text: sys.stderr.write(f"{text}\n")):
        if job_result(folder) is not None:
            return
        if (folder / "config.json").exists():
            resume(folder, quiet=quiet)
            return
        algorithm, arguments, preset = job.request().resolve()
        check_imported(arguments["environment"] or "")  # which a file names, not the user
        notes = {"sweep_job": job.name, "preset": preset}
        train(algorithm, job.dataset, **arguments, lanes=job.lanes, out=folder, quiet=quiet, notes=notes)
