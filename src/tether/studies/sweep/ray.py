"""A sweep on a Ray cluster: every job is a task, and the engine finds the machines.

Nodes need tether with the extra `ray` and see the sweep's folder under the same path: a job that lost its machine
goes on elsewhere from its checkpoint.
"""

import os
from collections.abc import Callable
from typing import Any

from tether.errors import InputError
from tether.machine.cores import CORES
from tether.machine.locks import only_writer
from tether.machine.plugins import plugin_names
from tether.machine.signals import Interrupted, StopSignals
from tether.studies.sweep.jobs import SweepFolder, job_result, run_job
from tether.studies.sweep.spec import Job, load_spec

__all__ = ["run_on_ray"]

POLL_SECONDS = 0.5  # between two looks for a signal


def run_on_ray(folder: SweepFolder, address: str | None, say: Callable[[str], None]) -> list[Job]:
    """Run all unfinished jobs as Ray tasks -> the jobs that failed for good.

    address: of the cluster; None: `RAY_ADDRESS`, or the cluster of this machine, or else one that is started for the
    purpose, of which nothing can be reached from another machine.
    Raises: InputError where Ray is not installed or no cluster is at `address`; Busy where another process runs this
    sweep; Interrupted after Ctrl-C, SIGTERM or
    SIGHUP, when the jobs have written their checkpoints and ended.
    """
    try:
        import ray
    except ImportError:
        raise InputError('Ray is not installed: pip install "tether-rl[ray]", or use --local or --slurm') from None
    if not ray.is_initialized():
        _connect(ray, address or os.environ.get("RAY_ADDRESS"))
    resources = folder.spec.resources
    # A process per job: it gives back its GPU's memory at the end. Retries are ours, as only we know what is worth one.
    task = ray.remote(num_cpus=resources["cpus"], num_gpus=resources["gpus"], max_calls=1, max_retries=0)(_work)

    def submit(job: Job, attempt: int) -> None:
        folder.note(job, "submitted", attempt=attempt)
        pending[task.remote(str(folder.path), job.number, plugin_names())] = (job, attempt)

    def settle(reference: Any, job: Job, attempt: int) -> None:
        """A task has ended."""
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

    pending: dict[Any, tuple[Job, int]] = {}
    failed: list[Job] = []
    with only_writer(folder.path), StopSignals() as stop:  # after ray.init, which leaves handlers of its own
        try:
            for job in folder.unfinished():
                submit(job, 0)
            while pending and stop.number is None:
                for reference in ray.wait(list(pending), num_returns=1, timeout=POLL_SECONDS)[0]:
                    settle(reference, *pending.pop(reference))
        finally:
            _cancel(ray, list(pending))
        if stop.number is not None and pending:
            raise Interrupted(stop.number, folder.path, "the same command")
    return failed


def _connect(ray: Any, address: str | None) -> None:
    """Join the cluster at `address`, or that of this machine; where there is none, start one that listens on the
    loopback address alone. Raises: InputError where none is at `address`."""
    options = {"log_to_driver": False, "include_dashboard": False}
    if address != "local":
        try:
            ray.init(address=address or "auto", **options)
            return
        except ConnectionError as error:
            if address is not None:
                raise InputError(f"address {address!r}: no Ray cluster there: {' '.join(str(error).split())}") from None
    # Ray's own way to a cluster of one machine, which it goes by itself on Windows and macOS.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # for the processes that it starts
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # for this one, which has imported it already
    ray.init(address="local", **options)


def _cancel(ray: Any, references: list[Any]) -> None:
    """Let tasks that run write their checkpoints, as Ctrl-C does, and wait until they have; others do not begin."""
    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(references, num_returns=len(references))


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
