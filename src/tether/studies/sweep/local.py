"""A sweep on this machine without any engine: one process per job, some at a time."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tether.machine.cores import CORES, usable_cores
from tether.machine.locks import only_writer
from tether.machine.signals import Interrupted, StopSignals
from tether.studies.sweep.jobs import SweepFolder, job_result
from tether.studies.sweep.spec import Job

__all__ = ["run_locally"]

POLL_SECONDS = 0.2


def run_locally(folder: SweepFolder, workers: int, say: Callable[[str], None]) -> list[Job]:
    """Run all unfinished jobs, `workers` at a time -> the jobs that failed for good.

    Every job has a process of its own, so that one that is killed (by hand, for memory) takes no other with it; it is
    tried again and goes on from its checkpoint.
    Raises: Busy where another process runs this sweep (a job's folder has a lock of its own); Interrupted after Ctrl-C,
    SIGTERM or SIGHUP, when the jobs have written their checkpoints and ended.
    """
    waiting = [(job, 0) for job in folder.unfinished()]
    running: dict[subprocess.Popen, tuple[Job, int]] = {}
    failed: list[Job] = []
    with only_writer(folder.path), StopSignals() as stop:
        try:
            while (waiting or running) and stop.number is None:
                while waiting and len(running) < workers:
                    job, attempt = waiting.pop(0)
                    folder.note(job, "started", attempt=attempt)
                    say(f"{job.name}: started" + (f" again, attempt {attempt + 1}" if attempt else ""))
                    running[_start(folder, job, max(1, usable_cores() // workers))] = (job, attempt)
                ended = [process for process in running if process.poll() is not None]
                for process in ended:
                    job, attempt = running.pop(process)
                    if _succeeded(folder, job, process, attempt, say):
                        continue
                    # 2: bad input, which another attempt would not change.
                    if attempt < folder.spec.retries and process.returncode != 2:
                        waiting.insert(0, (job, attempt + 1))
                    else:
                        failed.append(job)
                if not ended:
                    time.sleep(POLL_SECONDS)
        finally:
            _stop(list(running))
        if stop.number is not None and folder.unfinished():
            raise Interrupted(stop.number, folder.path, "the same command")
    return failed


def _start(folder: SweepFolder, job: Job, cores: int) -> subprocess.Popen:
    """cores: that the job may count on where it begins processes of its own."""
    command = [sys.executable, "-m", "tether", "sweep", str(folder.path / "spec.toml")]
    command += ["--out", str(folder.path), "--job", str(job.number)]
    with _log(folder, job).open("a") as log:
        environment = os.environ | {CORES: str(cores)}
        # In a group of its own: what a terminal sends to everybody reaches it once, through this process.
        group: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log, **group)


def _log(folder: SweepFolder, job: Job) -> Path:
    """Where what the job says is kept."""
    return folder.run_folder(job).with_name(f"{job.name}.log")


def _succeeded(
    folder: SweepFolder, job: Job, process: subprocess.Popen, attempt: int, say: Callable[[str], None]
) -> bool:
    """Whether a job that has ended left its result; noted and said in either case."""
    result = job_result(folder.run_folder(job))
    if result is not None:
        folder.note(job, "done", attempt=attempt, status=result["status"])
        say(f"{job.name}: {result['status']}")
        return True
    folder.note(job, "failed", attempt=attempt, exit_code=process.returncode)
    say(f"{job.name}: failed with exit code {process.returncode}; see {_log(folder, job)}")
    return False


def _stop(processes: list[subprocess.Popen]) -> None:
    """Ask jobs to write a checkpoint and stop, and wait until they have. A second Ctrl-C ends them at once."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
            process.wait()
        raise
