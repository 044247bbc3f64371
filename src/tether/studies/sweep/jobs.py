"""A job on disk: begun, resumed, or left alone because it is complete; and the folder that holds all jobs.

DIR/
  spec.toml           the spec, as it was when the sweep began
  jobs/NAME/          the run folder of each job (README, "A run on disk")
  events.jsonl        what happened to jobs: started, done, failed, retried
  table.csv, table.md, table.json, lanes.csv      the outcome (`tether.studies.sweep.table`)
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tether.environments.make import check_imported
from tether.errors import InputError
from tether.machine.files import atomic_write_text
from tether.runs.records import JsonLines
from tether.studies.sweep.spec import Job, SweepSpec, load_spec

__all__ = ["Busy", "SweepFolder", "job_result", "run_job"]


class Busy(RuntimeError):
    """Another process works on this job."""


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
        if stored.exists():
            if load_spec(stored).jobs != spec.jobs:
                raise InputError(f"{path}: holds another sweep: its spec.toml is not {spec.path}; name another folder")
        else:
            if path.exists() and any(path.iterdir()):
                raise InputError(f"{path}: exists and holds no sweep; name another folder")
            (path / "jobs").mkdir(parents=True, exist_ok=True)
            # Data sets are still found beside the spec.
            base = "" if re.search(r"^base\s*=", spec.text, re.MULTILINE) else f"base = {json.dumps(str(spec.base))}\n"
            atomic_write_text(stored, base + spec.text)
        return cls(path, spec)

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


def job_result(folder: Path) -> dict[str, Any] | None:
    """The result of a run folder; None while there is none."""
    try:
        return json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return None


def run_job(job: Job, folder: Path, *, quiet: bool = True) -> None:
    """Train the job in its run folder: from the start, from its newest checkpoint, or not at all if it is complete.

    Raises: Busy where another process has it; InputError for what no second attempt would change; otherwise as
    `tether.api.train`.
    """
    from tether.api import resume, train

    with _alone(folder.with_name(f"{folder.name}.lock")):
        if job_result(folder) is not None:
            return
        if (folder / "config.json").exists():
            resume(folder, quiet=quiet)
            return
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()  # a kill between making it and writing its first file left it empty
        algorithm, arguments, preset = job.request().resolve()
        check_imported(arguments["environment"] or "")  # which a file names, not the user
        notes = {"sweep_job": job.name, "preset": preset}
        train(algorithm, job.dataset, **arguments, lanes=job.lanes, out=folder, quiet=quiet, notes=notes)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; the system frees it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:  # what another process wrote stays until the lock is ours
        if os.name != "nt":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"{path}: another process works on this job") from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
