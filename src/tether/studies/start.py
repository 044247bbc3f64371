"""Studies from Python: `tether.compare` and `tether.sweep`, which the commands of the same names do, too."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tether.algorithms import ALGORITHMS
from tether.algorithms.registry import name_of
from tether.data import ONE_STEP, Dataset, Framing
from tether.errors import InputError, unknown
from tether.machine.locks import only_writer
from tether.machine.plugins import plugin_names
from tether.studies.compare import Comparison, Request, start_comparison
from tether.studies.sweep.jobs import SweepFolder, run_job
from tether.studies.sweep.local import run_locally
from tether.studies.sweep.spec import parse_spec, spec_text
from tether.studies.sweep.table import JobRow, write_table

__all__ = ["compare", "sweep"]


def compare(
    algorithms: Sequence[str | type],
    dataset: str | Dataset,
    *,
    seeds: int = 3,
    updates: int = 100_000,
    pretrain_updates: int | None = None,
    batch_size: int | None = None,
    preset: str = "auto",
    hyperparameters: Mapping[str, Any] | None = None,
    continuous: bool = False,
    environment: str | None = None,
    eval_every_updates: int | None = None,
    eval_episodes: int = 10,
    precision: str = "float32",
    framing: Framing = ONE_STEP,
    out: str | Path | None = None,
    cost: Literal["compute", "time"] = "compute",
    quiet: bool = False,
) -> Comparison:
    """Several algorithms on the same data, seeds and evaluation episodes: one table, one picture (docs/compare.md). The
    same call with the same `out` keeps what is finished and goes on with what was stopped.

    Args:
        algorithms: names (`tether algorithms`), or classes that are registered. dataset: as of `tether.train`.
        seeds: of each algorithm: 0, 1, ...
        updates: of each algorithm's last phase. pretrain_updates: of every phase before; None: the preset's.
        batch_size: of all; None: the preset's, or 256.
        preset: a task whose published settings all take that have some; "auto": by the data set's name; or "none".
        hyperparameters: name -> value for every algorithm that has it; or algorithm -> {name: value}, which go first.
        continuous, environment: as of `tether.train`.
        eval_every_updates: None: a tenth of the updates. eval_episodes: of each seed in an evaluation.
        precision: of the matmuls of training, "float32", "bfloat16" or "tf32". framing: as of `tether.train`.
        out: the comparison's folder. Default `runs/compare-<dataset>-<time>`.
        cost: what the picture draws the score against.

    Returns the comparison: `print` shows its table, `rows()` has the numbers, `folder` the runs.
    Raises InputError for bad input, before anything is trained, and where `out` holds another comparison; Interrupted
    after Ctrl-C or SIGTERM; OSError. An algorithm that fails has a line in `errors`, and the others go on.
    """
    data = None if isinstance(dataset, str) else dataset
    names = tuple(map(_name, algorithms))
    request = Request(
        source=dataset if isinstance(dataset, str) else dataset.name,
        algorithms=names,
        seeds=seeds,
        updates=updates,
        pretrain_updates=pretrain_updates,
        batch_size=batch_size,
        preset=preset,
        assignments=_assignments(hyperparameters or {}),
        continuous=continuous,
        environment=environment,
        eval_every_updates=eval_every_updates,
        eval_episodes=eval_episodes,
        precision=precision,
        framing=framing,
        command=f"tether.compare({list(names)}, ...)  # from Python",
    )
    return start_comparison(request, None if out is None else Path(out), cost, quiet, data)


def sweep(
    algorithms: Sequence[str | type],
    datasets: Sequence[str | Path],
    *,
    out: str | Path,
    seeds: int | Sequence[int] = 1,
    hyperparameters: Mapping[str, Any] | None = None,
    sweep: Mapping[str, Sequence[float]] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    options: Mapping[str, Any] | None = None,
    by_algorithm: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    lanes_per_job: int | None = None,
    retries: int = 3,
    workers: int = 1,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    resources: Mapping[str, float] | None = None,
    quiet: bool = False,
) -> list[JobRow]:
    """Many runs: algorithms x data sets x settings x seeds (docs/sweeps.md, which describes the parts of a spec).

    The same call with the same `out` does what is left.

    Args:
        algorithms: names, or classes that other processes find: of an installed package, or of a module that the
            environment variable TETHER_PLUGINS names. With `workers=0` any that are registered.
        datasets: sources, as of `tether.load_dataset`.
        out: the sweep's folder.
        seeds: how many, 0, 1, ...; or the seeds themselves.
        hyperparameters: of all runs, over their presets'.
        sweep: numeric hyper-parameter -> values: lanes of one program.
        grid: any hyper-parameter or option -> values: a program for each combination.
        options: of `tether train`, such as {"updates": 100_000, "eval_episodes": 20}.
        by_algorithm: algorithm -> {"set" | "sweep" | "grid" | "options": of this one only}.
        lanes_per_job: most lanes of one program. retries: of a job that fails.
        workers: jobs at a time on this machine, a process each; 0: one after the other in this process.
        engine: "ray" runs them on a cluster, at `address`, with `resources` (cpus, gpus) for each job.

    Returns a row for each algorithm, data set and setting. Jobs that failed have fewer `finished` than `seeds`.
    Raises InputError for bad input, before anything is trained, and where `out` holds another sweep.
    """
    names = [_name(algorithm) for algorithm in algorithms]
    if workers < 0 or engine not in ("local", "ray"):
        raise InputError(f"workers {workers}, engine {engine!r}: at least 0 workers, engines are local and ray")
    for name in names if workers or engine == "ray" else ():
        if not ALGORITHMS.is_findable_elsewhere(name) and not plugin_names():
            raise InputError(
                f"algorithm {name!r} is registered in this process only: name its module in TETHER_PLUGINS, or give "
                "workers=0"
            )
    table: dict[str, Any] = {"algorithms": names, "datasets": _sources(datasets), "seeds": seeds, "retries": retries}
    table |= {} if lanes_per_job is None else {"lanes_per_job": lanes_per_job}
    parts = {"options": options, "set": hyperparameters, "sweep": sweep, "grid": grid, "resources": resources}
    table |= {part: values for part, values in parts.items() if values}
    table |= {"algorithm": by_algorithm} if by_algorithm else {}
    folder = SweepFolder.open(Path(out).resolve(), parse_spec(spec_text(table), Path("sweep").resolve()))
    _run(folder, engine, workers, address, quiet)
    return write_table(folder)


def _run(folder: SweepFolder, engine: str, workers: int, address: str | None, quiet: bool) -> None:
    def say(text: str) -> None:
        if not quiet:
            sys.stderr.write(f"{text}\n")

    if engine == "ray":
        from tether.studies.sweep.ray import run_on_ray

        run_on_ray(folder, address, say)
    elif workers:
        run_locally(folder, workers, say)
    else:
        with only_writer(folder.path):
            for job in folder.unfinished():
                say(f"{job.name}: started")
                run_job(job, folder.run_folder(job), quiet=quiet)


def _name(algorithm: str | type) -> str:
    """Of a registered algorithm. Raises InputError for another."""
    if not isinstance(algorithm, str | type):
        raise InputError(
            f"algorithm {algorithm!r}: give its name or class; hyper-parameters have an argument of their own"
        )
    name = algorithm if isinstance(algorithm, str) else name_of(algorithm)
    if name in ALGORITHMS:
        return name
    if isinstance(algorithm, str):
        raise unknown("algorithm", name, ALGORITHMS)
    raise InputError(f"algorithm {name}: not registered: @tether.register({name.lower()!r})")


def _sources(datasets: Sequence[Any]) -> list[str]:
    """What the jobs, which are processes of their own, can load."""
    for dataset in datasets:
        if not isinstance(dataset, str | Path):
            raise InputError(f"datasets: {type(dataset).__name__} in memory: write it with to_hdf5 and name the file")
    return list(map(str, datasets))


def _assignments(hyperparameters: Mapping[str, Any]) -> tuple[str, ...]:
    """As --set of `tether compare`."""
    words = []
    for name, value in hyperparameters.items():
        if isinstance(value, Mapping):
            words += [f"{name}.{field}={_text(of_it)}" for field, of_it in value.items()]
        else:
            words.append(f"{name}={_text(value)}")
    return tuple(words)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
