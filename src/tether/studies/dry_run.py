"""What `tether train`, `finetune`, `compare` and `sweep` would do, without doing it: nothing is trained, downloaded or
written."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from tether.algorithms.registry import name_of
from tether.bench.forecast import (
    Forecast,
    about,
    duration,
    evaluation_seconds,
    forecast,
    forecast_basis,
    matmul_rate,
    size_of,
)
from tether.data import Dataset, Downloads, Framing, load_dataset, view_of
from tether.data.holdout import NO_HOLDOUT
from tether.data.readers.d4rl_names import d4rl_file, d4rl_name
from tether.data.readers.ogbench import locate_ogbench
from tether.environments import Task
from tether.environments.choose import NO_ENVIRONMENT, known_task, task_for
from tether.environments.ids import find_environment, import_environment
from tether.environments.tasks import find_task
from tether.errors import InputError
from tether.machine.memory import device_limit, free_memory, human_bytes, tree_bytes
from tether.machine.reading import read_json
from tether.presets.recipes import TrainRequest
from tether.runs.config import check_counts, check_framing, fresh_folder, prepare_training
from tether.runs.folder import check_free
from tether.runs.parent import FinetuneRequest, plan_finetuning
from tether.runs.plan import Options
from tether.studies.compare import Request, plan_comparison
from tether.training.lanes import Lane, make_lanes
from tether.types import Spec

__all__ = ["describe_comparison", "describe_finetuning", "describe_sweep", "describe_training"]

TRANSFORMS = ("reward_transform", "observation_transform", "data_filter")
PROCESS_BYTES = 1_000_000_000  # about what Python, JAX and its compiler take beside the arrays


class Data(NamedTuple):
    """What is known of a data set without downloading it."""

    source: str
    dataset: Dataset | None  # None: it is not on this machine
    sizes: tuple[int, int]  # of observations and actions

    @property
    def spec(self) -> Spec:
        """Sizes that the networks are built for."""
        return Spec(*self.sizes)

    def __str__(self) -> str:
        sizes = "observations of size {}, actions of size {}".format(*self.sizes)
        if self.dataset is None:
            how = "has to be fetched or regenerated" if self.source.startswith("ogbench:") else "would be downloaded"
            return f"{self.source}: not on this machine, {how}; {sizes}"
        return f"{self.dataset.name}: {len(self.dataset):,} rows; {sizes}"


class Estimate(NamedTuple):
    """One run: its costs in seconds and bytes; None where nobody knows."""

    forecast: Forecast
    evaluations: int
    evaluation_seconds: float | None  # of all of them
    memory: int
    rate: float  # GFLOP/s of matmuls that it reckons with

    @property
    def seconds(self) -> float | None:
        """Training and evaluating."""
        return None if self.forecast.seconds is None else self.forecast.seconds + (self.evaluation_seconds or 0.0)


def describe_training(
    request: TrainRequest, seeds: Sequence[int], swept: Mapping[str, Sequence[float]], out: Path | None
) -> Table:
    """The run that `tether train` would make. Raises InputError for all that it would refuse."""
    algorithm, arguments, preset = request.resolve()
    options: Options = arguments["options"]
    check_counts(algorithm, options)
    lanes, data = make_lanes(algorithm, seeds, swept), _find_data(request.dataset, request.continuous)
    import_environment(request.environment)
    task, why_not = _task(data, request.environment, request.horizon)
    name = name_of(algorithm)
    folder = out or fresh_folder(f"{name}-{data.dataset.name if data.dataset else d4rl_name(data.source[5:])}")
    if out is not None:
        check_free(out)
    rate = matmul_rate(precision=options.precision)
    found = _estimate(algorithm, options, data, arguments, lanes, task, rate)
    phases = (
        f"{phase.name} {phase.updates:,} updates" + ("" if phase.seconds is None else f" ({about(phase.seconds)})")
        for phase in found.forecast.phases
    )
    evaluated = why_not and f"none: {why_not}"
    if task is not None:
        evaluated = (
            f"{task.name}, {task.evaluated_in}: {found.evaluations} times {options.eval_episodes} episodes a lane"
        )
        evaluated += f" (at most {duration(found.evaluation_seconds or 0.0)})"
    return _table(
        {
            "algorithm": f"{name}, {'preset ' + preset if preset else 'its defaults'}",
            "data": str(data),
            "lanes": _lanes_words(lanes),
            "phases": ", ".join(phases) + f"; minibatches of {options.batch_size}",
            "transforms": ", ".join(f"{field} {arguments[field]}" for field in TRANSFORMS),
            "environment": evaluated,
            "time": _time_words(found),
            "estimated by": forecast_basis(found.forecast, rate),
            "memory": _memory_words(found, data),
            "folder": str(folder),
        }
    )


def describe_finetuning(run: Path, request: FinetuneRequest, out: Path | None, dataset: str | None) -> Table:
    """The run that `tether finetune` would make. Raises InputError for all that it would refuse."""
    plan = plan_finetuning(run, request, out, True, dataset)
    if out is not None:
        check_free(out)
    finetuning, options, task = plan.finetuning, plan.options, plan.task
    assert finetuning is not None
    assert task is not None
    parent, updates = finetuning.parent, finetuning.updates_after(request.env_steps)
    online = round(finetuning.online_fraction * options.batch_size)
    noise, evaluations = finetuning.exploration_noise, 1 + -(-updates // options.eval_every_updates)
    try:
        rate = float(read_json(run / "result.json")["updates_per_second"])
    except (OSError, InputError, KeyError, TypeError, ValueError):  # it is not finished
        rate = 0.0
    row = tree_bytes(plan.prepared.transitions) / plan.prepared.transitions.rows
    rows = min(request.env_steps, finetuning.replay_capacity or request.env_steps)
    return _table(
        {
            "goes on from": f"{run}, update {parent.update:,}",
            "algorithm": f"{plan.algorithm_name} on {plan.prepared.record['dataset']}",
            "lanes": _lanes_words(plan.lanes),
            "environment": f"{task.name}, {task.evaluated_in}: {request.env_steps:,} steps of each lane",
            "updates": f"{updates:,}, {finetuning.updates_per_step} after each step"
            + (f" behind the first {finetuning.warmup_env_steps:,}" if finetuning.warmup_env_steps else ""),
            "minibatches": f"{options.batch_size}, {online} of them collected",
            "exploration": "the policy's own, noise of 0.1 where it has none"
            if noise is None
            else f"Gaussian noise of {noise:g}",
            "evaluations": f"{evaluations} times {options.eval_episodes} episodes a lane",
            "time": f"{duration(updates / rate)} or more, as fast as the run was" if rate else "not known",
            "memory": f"about {human_bytes(len(plan.lanes) * rows * row)} for what is collected",
            "folder": str(plan.folder),
        }
    )


def describe_comparison(request: Request, out: Path | None) -> Table:
    """The runs that `tether compare` would make. Raises InputError for all that it would refuse."""
    data = _find_data(request.source, request.continuous)
    if data.dataset is None:
        raise InputError(f"{request.source}: not on this machine; `tether data show {request.source}` downloads it")
    planned, _ = plan_comparison(request, out, data=data.dataset)
    protocol = planned.protocol
    task = known_task(data.dataset, protocol.environment, protocol.horizon) if planned.scored else None
    rate, found = matmul_rate(precision=protocol.precision), {}
    for name, entrant in planned.entrants.items():
        arguments = {field: getattr(entrant, field) for field in TRANSFORMS} | {"framing": protocol.framing}
        algorithm, options = planned.algorithm(name), planned.options(name)
        lanes = [Lane(seed, {}) for seed in protocol.seeds]
        found[name] = (entrant.where_from, _estimate(algorithm, options, data, arguments, lanes, task, rate))
    return _many(f"{data}; in {planned.folder}", found)


def describe_sweep(jobs: Sequence[Any], folder: Path) -> Table:
    """The programs of a sweep that are not finished."""
    found: dict[str, tuple[str, Estimate]] = {}
    rate = functools.cache(lambda precision: matmul_rate(precision=precision))
    find, place = functools.cache(_find_data), functools.cache(_task)
    estimates: dict[Any, Estimate] = {}  # jobs of one size cost the same
    for job in jobs:
        algorithm, arguments, preset = job.request().resolve()
        check_counts(algorithm, arguments["options"])
        data = find(job.dataset, job.request().continuous)
        task, _ = place(data, arguments["environment"], arguments["horizon"])
        words = f"{preset or 'defaults'}, {len(job.lanes)} lanes"
        transforms = tuple(arguments[field] for field in (*TRANSFORMS, "framing"))
        size = data.source if data.dataset else data.sizes, transforms, arguments["options"], len(job.lanes), task
        key = *size_of(algorithm), *size
        if key not in estimates:
            options = arguments["options"]
            estimates[key] = _estimate(algorithm, options, data, arguments, job.lanes, task, rate(options.precision))
        found[job.name] = words, estimates[key]
    return _many(f"{len(jobs)} programs; in {folder}", found)


def _estimate(
    algorithm: Any,
    options: Options,
    data: Data,
    arguments: Mapping[str, Any],
    lanes: Sequence[Lane],
    task: Task | None,
    rate: float,
) -> Estimate:
    framing: Framing = arguments["framing"]
    spec, rows = framing.decision(data.spec), 0
    check_framing(framing, lanes)
    if data.dataset is not None:
        how = {field: arguments[field] for field in TRANSFORMS} | {"view": view_of(algorithm, framing)}
        how |= {"holdout": arguments.get("holdout", NO_HOLDOUT)}
        algorithm, prepared = prepare_training(algorithm, lanes, data.dataset, options, how)
        spec, rows = prepared.decision, tree_bytes(prepared.transitions)
    found = forecast(algorithm, spec, options.batch_size, len(lanes), rate)
    evaluations = 0 if task is None else -(-algorithm.phases()[-1].updates // options.eval_every_updates)
    seconds = (
        None if task is None else evaluations * evaluation_seconds(algorithm, task, len(lanes), options.eval_episodes)
    )
    return Estimate(found, evaluations, seconds, found.memory_bytes + rows, rate)


def _find_data(source: str, continuous: bool) -> Data:
    """The data set, if it is on this machine; nothing is downloaded. Raises InputError as `load_dataset`."""
    if source.startswith("d4rl:"):
        name = d4rl_name(source.removeprefix("d4rl:"))
        path = Downloads().cache / "d4rl" / d4rl_file(name)
        if not path.is_file():
            task = find_task(name)
            assert task is not None  # every file of D4RL has one
            return Data(source, None, (task.observation_size, task.action_size))
        dataset = dataclasses.replace(load_dataset(str(path), continuous=continuous), name=name)
    elif source.startswith("ogbench:") and not (place := locate_ogbench(source.removeprefix("ogbench:")))[1].is_file():
        task = find_environment(f"ogbench:{place[0]}")
        return Data(source, None, (task.observation_size, task.action_size))
    else:
        dataset = load_dataset(source, continuous=continuous)
    return Data(source, dataset, (dataset.observations.shape[1], dataset.actions.shape[1]))


def _task(data: Data, environment: str | None, horizon: int | None) -> tuple[Task | None, str]:
    """(the task to evaluate in, or None; why nothing is evaluated), as `task_for`."""
    if data.dataset is not None:
        found = task_for(data.dataset, environment, horizon)
        return found.task, found.why_not
    if environment == NO_ENVIRONMENT:
        return None, "as asked"
    if environment is None and data.source.startswith("ogbench:"):
        environment = f"ogbench:{locate_ogbench(data.source.removeprefix('ogbench:'))[0]}"
    return find_environment(environment or d4rl_name(data.source[5:]), horizon), ""


def _lanes_words(lanes: Sequence[Lane]) -> str:
    """`6: 2 arms x seeds 0, 1, 2`."""
    seeds = ", ".join(map(str, dict.fromkeys(lane.seed for lane in lanes)))
    arms = len({tuple(lane.swept.items()) for lane in lanes})
    return f"{len(lanes)}: " + (f"{arms} arms x " if arms > 1 else "") + f"seeds {seeds}"


def _time_words(found: Estimate) -> str:
    if found.seconds is None:
        return "not known"
    compiling = (
        ""
        if found.forecast.compile_seconds is None
        else (
            f", and {duration(found.forecast.compile_seconds)} to compile where the programs are not kept from before"
        )
    )
    return f"{about(found.seconds)}{compiling}"


def _memory_words(found: Estimate, data: Data) -> str:
    limit = device_limit()
    free = free_memory() if limit is None else limit
    room = "" if free is None else f"; {human_bytes(free)} are free"
    parts = "lanes, work space" + ("" if data.dataset is None else ", data")
    process = "" if limit is not None else f", and about {human_bytes(PROCESS_BYTES)} for Python, JAX and its compiler"
    return f"about {human_bytes(found.memory)} for {parts}{process}{room}"


def _table(rows: Mapping[str, str]) -> Table:
    table = Table(title="dry run: nothing was trained or written", title_justify="left", show_header=False, box=None)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    for name, words in rows.items():
        table.add_row(name, words)
    return table


def _many(title: str, found: Mapping[str, tuple[str, Estimate]]) -> Table:
    """A row for each run, and their sum."""
    table = Table(title=f"dry run, nothing was trained or written: {title}", title_justify="left")
    for column in ("run", "settings", "updates", "training", "evaluating, at most", "memory"):
        table.add_column(column, justify="left" if column in ("run", "settings") else "right")
    for name, (words, estimate) in found.items():
        updates = " + ".join(f"{phase.updates:,}" for phase in estimate.forecast.phases)
        times = (estimate.forecast.seconds, estimate.evaluation_seconds)
        cells = ("-" if seconds is None else duration(seconds) for seconds in times)
        table.add_row(name, words, updates, *cells, human_bytes(estimate.memory))
    estimates = [estimate for _, estimate in found.values()]
    if estimates:
        known = [estimate.seconds for estimate in estimates if estimate.seconds is not None]
        total = f"{about(sum(known))}, one after the other" if len(known) == len(estimates) else "-"
        table.caption = f"in all {total}; by {forecast_basis(estimates[0].forecast, estimates[0].rate)}"
        table.caption_justify = "left"
    return table
