"""A sweep on a Ray cluster: every job is a task, and the engine finds the machines.

Nodes need tether with the extra `ray` and see the sweep's folder under the same path: a job that lost its machine
goes on elsewhere from its checkpoint.
"""

import os
from collections.abc import Callable
from typing import Any

from tether.errors import InputError
from tether.machine.cores import CORES
from tether.machine.plugins import plugin_names
from tether.studies.sweep.jobs import SweepFolder, job_result, run_job
from tether.studies.sweep.spec import Job, load_spec

__all__ = ["run_on_ray"]


def run_on_ray(folder: SweepFolder, address: str | None, say: Callable[[str], None]) -> list[Job]:
    """Run all unfinished jobs as Ray tasks -> the jobs that failed for good.

    address: of the cluster; None: `RAY_ADDRESS`, or the cluster of this machine, or else one that is started for the
    purpose. Raises InputError where Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise InputError('Ray is not installed: pip install "tether-rl[ray]", or use --local or --slurm') from None
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    resources = folder.spec.resources
    # A process per job: it gives back its GPU's memory at the end. Retries are ours, as only we know what is worth one.
    task = ray.remote(num_cpus=resources["cpus"], num_gpus=resources["gpus"], max_calls=1, max_retries=0)(_work)

    def submit(job: Job, attempt: int) -> None:
        folder.note(job, "submitted", attempt=attempt)
        pending[task.remote(str(folder.path), job.number, plugin_names())] = (job, attempt)

    pending: dict[Any, tuple[Job, int]] = {}
    failed: list[Job] = []
    for job in folder.unfinished():
        submit(job, 0)
    while pending:
        (reference,), _ = ray.wait(list(pending), num_returns=1)
        job, attempt = pending.pop(reference)
        fault, hopeless = _fault(ray, reference)
        result = job_result(folder.run_folder(job))
        if fault is None and result is not None:
            folder.note(job, "done", attempt=attempt, status=result["status"])
            say(f"{job.name}: {result['status']}")
        elif attempt < folder.spec.retries and not hopeless:
            folder.note(job, "retried", attempt=attempt, fault=fault)
            say(f"{job.name}: {fault}; trying again, attempt {attempt + 2}")
            submit(job, attempt + 1)
        else:
            folder.note(job, "failed", attempt=attempt, fault=fault)
            say(f"{job.name}: failed: {fault}")
            failed.append(job)
    return failed


def _fault(ray: Any, reference: Any) -> tuple[str | None, bool]:
    """(what went wrong in a task, or None; whether another attempt is hopeless)."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        return f"{type(cause).__name__}: {cause}".splitlines()[0], isinstance(cause, InputError)
    except ray.exceptions.RayError as error:  # the worker or its machine is gone
        return f"{type(error).__name__}: {error}".splitlines()[0], False
    return None, False


def _work(folder: str, number: int, plugins: list[str]) -> None:
    """In a worker: one job, with the modules imported that the sweep's command named."""
    from pathlib import Path

    from tether.machine.cache import use_compilation_cache
    from tether.machine.plugins import load_plugins
    from tether.machine.signals import Interrupted

    load_plugins(plugins)
    use_compilation_cache()
    spec = load_spec(Path(folder) / "spec.toml")
    job = spec.jobs[number]
    os.environ.setdefault(CORES, str(max(1, int(spec.resources["cpus"]))))  # other tasks have the others
    try:
        run_job(job, SweepFolder(Path(folder), spec).run_folder(job))
    except Interrupted as stop:  # as an ordinary fault: Ray takes KeyboardInterrupt for a wish of its own
        raise RuntimeError(f"pre-empted: {stop}") from None
