"""From Python: `train`, `resume`, `evaluate`. The command line calls these and nothing else."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

import tether
from tether import errors
from tether.algorithms import ALGORITHMS
from tether.data import Dataset, load_dataset, prepare
from tether.environments import Task, find_task, get_task
from tether.errors import InputError
from tether.evaluation.report import Report, write_report
from tether.evaluation.rollout import Episodes
from tether.files import atomic_write_json
from tether.policy import save_policy
from tether.training.lanes import Lane, make_lanes, parse_fields, settings_of
from tether.training.records import Display
from tether.training.run import Plan, Run, Settings

__all__ = ["NO_ENVIRONMENT", "evaluate", "resume", "train"]

CONFIG_FORMAT = 1
NO_ENVIRONMENT = "none"


def train(
    algorithm: Any,
    dataset: str | Dataset,
    *,
    seeds: int | Sequence[int] = 1,
    sweep: Mapping[str, Sequence[float]] | None = None,
    settings: Settings | None = None,
    reward_transform: str = "none",
    observation_transform: str = "none",
    environment: str | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    notes: Mapping[str, Any] | None = None,
) -> Report:
    """Train `algorithm` on `dataset` and leave a run folder.

    algorithm: an instance such as `DTQL(expectile=0.9)`.
    dataset: a `Dataset`, or a source such as a bundled name or a path (`tether.load_dataset`). A run on a
        `Dataset` that was not read from a file cannot be resumed.
    seeds: how many lanes, seeds 0, 1, ...; or the seeds themselves.
    sweep: numeric hyper-parameter -> values; lanes are the product with the seeds.
    environment: task to evaluate in (`tether tasks`), "none" for no evaluation; by default the data set's name tells.
    out: the run folder; must not exist. Default `runs/<algorithm>-<dataset>-<time>`.
    notes: kept in config.json for readers.

    Raises InputError for bad input (before anything is written), Interrupted after Ctrl-C, CheckpointError.
    """
    settings = settings or Settings()
    name = _name_of(algorithm)
    data = load_dataset(dataset) if isinstance(dataset, str) else dataset
    prepared = prepare(data, reward_transform, observation_transform)
    _check(algorithm, settings, len(prepared.transitions.reward))
    lanes = make_lanes(algorithm, range(seeds) if isinstance(seeds, int) else list(seeds), sweep or {})
    task = _task_for(data, environment)
    folder = Path(out) if out is not None else _fresh_folder(f"{name}-{data.name}")
    plan = Plan(folder, name, algorithm, tuple(lanes), settings, prepared, task, data.observations)
    config = {
        "format_version": CONFIG_FORMAT,
        "algorithm": name,
        "hyperparameters": settings_of(algorithm),
        "phases": [{"name": phase, "updates": updates} for phase, updates in plan.phases()],
        "lanes": [{"seed": lane.seed, "settings": dict(lane.settings)} for lane in lanes],
        "settings": dataclasses.asdict(settings),
        "data": prepared.record | {"source": _findable(data.source.location)},
        "environment": task.name if task else NO_ENVIRONMENT,
        "versions": _versions(),
        "commit": _commit(),
        "device": str(jax.devices()[0].device_kind),
        "notes": dict(notes or {}),
    }
    _create_folder(folder)
    atomic_write_json(folder / "config.json", config)
    return _finish(plan, data, quiet)


def resume(folder: str | Path, *, quiet: bool = False) -> Report:
    """Continue the run in `folder` from its newest valid checkpoint, exactly as if it had not stopped.

    Raises InputError where the folder is no run or the data set is not the one it trained on, otherwise as `train`.
    """
    plan, data = _restore_plan(Path(folder))
    return _finish(plan, data, quiet, restore=True)


def evaluate(folder: str | Path, *, episodes: int = 10, quiet: bool = False) -> tuple[Episodes, np.ndarray]:
    """Play episodes with all lanes of a run's newest checkpoint -> (outcomes, normalised scores (lanes, episodes)).

    Also writes them to `evaluate-<update>-<episodes>.json` in the run folder.
    Raises InputError where the folder is no run, or no environment is known for it.
    """
    if episodes < 1:
        raise InputError(f"episodes {episodes}: at least 1 is needed")
    plan, data = _restore_plan(Path(folder))
    if plan.task is None:
        raise InputError(f"{folder}: no environment is known for data set {data.name!r}, so nothing can be evaluated")
    with Display(quiet) as display:
        run = Run(plan, display)
        run.restore(rewrite=False)
        display.begin("evaluate", 0, episodes)
        outcome = run.rollout(episodes)
    scores = plan.task.normalized_score(outcome.returns)
    rows = {
        "update": run.position.update,
        "task": plan.task.name,
        "returns": outcome.returns.tolist(),
        "lengths": outcome.lengths.tolist(),
        "normalized_scores": scores.tolist(),
    }
    atomic_write_json(plan.folder / f"evaluate-{run.position.update}-{episodes}.json", rows)
    return outcome, scores


def _finish(plan: Plan, data: Dataset, quiet: bool, restore: bool = False) -> Report:
    """Train to the end, then write policies, result and picture."""
    with Display(quiet) as display:
        if plan.task is None:
            display.message(
                f"no environment is known for data set {data.name!r}: training without evaluation "
                "(name one with --environment)"
            )
        run = Run(plan, display)
        if restore:
            run.restore()
        run.execute()
    report = write_report(run, data)
    _save_policies(run, report)
    return report


def _save_policies(run: Run, report: Report) -> None:
    """`policy/` holds the lane with the best last score (the first lane where nothing was evaluated); with
    several lanes each one also has its own `policies/lane-<n>/`."""
    plan = run.plan
    folders = {plan.folder / "policy": report.best_lane}
    if len(plan.lanes) > 1:
        folders |= {plan.folder / "policies" / f"lane-{lane}": lane for lane in np.flatnonzero(run.alive).tolist()}
    for folder, lane in folders.items():
        if lane is None:  # every lane diverged: there is no policy to deploy
            continue
        save_policy(
            folder,
            run.policy(lane),
            algorithm_name=plan.algorithm_name,
            algorithm=dataclasses.replace(plan.algorithm, **plan.lanes[lane].settings),
            spec=plan.prepared.spec,
            observations=plan.observations,
            notes={
                "dataset": plan.prepared.record["dataset"],
                "lane": lane,
                "seed": plan.lanes[lane].seed,
                "update": run.position.update,
                "score": report.lane_scores.get(lane),
            },
        )


def _restore_plan(folder: Path) -> tuple[Plan, Dataset]:
    """The plan that config.json describes, and its data set."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{folder}: not a run folder: {path.name}: {error.strerror or error}") from None
    except ValueError:
        raise InputError(f"{path}: not JSON") from None
    if config.get("format_version") != CONFIG_FORMAT:
        raise InputError(f"{path}: format {config.get('format_version')!r}; this version reads {CONFIG_FORMAT}")
    name = config["algorithm"]
    if name not in ALGORITHMS:
        raise errors.unknown("algorithm", name, ALGORITHMS)
    algorithm = ALGORITHMS[name](**parse_fields(name, config["hyperparameters"]))
    record = config["data"]
    data = load_dataset(record["source"])
    if data.source.sha256 != record["sha256"]:
        raise InputError(
            f"{record['source']}: not the file this run trained on: SHA-256 {data.source.sha256[:12]}..., "
            f"config.json says {record['sha256'][:12]}..."
        )
    prepared = prepare(data, record["reward_transform"]["name"], record["observation_transform"]["name"])
    lanes = tuple(Lane(lane["seed"], lane["settings"]) for lane in config["lanes"])
    environment = config["environment"]
    task = None if environment == NO_ENVIRONMENT else get_task(environment)
    settings = Settings(**config["settings"])
    return Plan(folder, name, algorithm, lanes, settings, prepared, task, data.observations), data


def _name_of(algorithm: Any) -> str:
    for name, cls in ALGORITHMS.items():
        if isinstance(algorithm, cls):
            return name
    raise InputError(
        f"algorithm {type(algorithm).__name__} is not registered; registered: {', '.join(sorted(ALGORITHMS))}"
    )


def _check(algorithm: Any, settings: Settings, rows: int) -> None:
    """Refuse numbers that cannot train."""
    if settings.batch_size > rows:
        raise InputError(f"batch size {settings.batch_size} is larger than the data: {rows} transitions")
    for field, value in dataclasses.asdict(settings).items():
        if value < 1:
            raise InputError(f"{field} {value}: must be at least 1")
    *earlier, last = algorithm.phases()
    if last.updates < 1:
        raise InputError(f"updates {last.updates}: the {last.name} phase needs at least 1")
    for phase in earlier:
        if phase.updates < 0:
            raise InputError(f"{phase.name} updates {phase.updates}: must not be negative")


def _task_for(data: Dataset, environment: str | None) -> Task | None:
    """The task to evaluate in; None where there is none. Raises InputError where the data do not fit it."""
    if environment == NO_ENVIRONMENT:
        return None
    task = find_task(data.name) if environment is None else get_task(environment)
    if task is None or (task.gymnasium_id is None and environment is None):
        return None
    if task.gymnasium_id is None:
        raise InputError(f"environment {task.name!r}: {task.unavailable}")
    found = data.observations.shape[1], data.actions.shape[1]
    wanted = task.observation_size, task.action_size
    if found != wanted:
        raise InputError(
            f"data set {data.name!r} has observations of size {found[0]} and actions of size {found[1]}, "
            f"environment {task.name!r} has {wanted[0]} and {wanted[1]}; name another with --environment, or none"
        )
    return task


def _fresh_folder(stem: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder, count = Path("runs") / f"{stem}-{stamp}", 1
    while folder.exists():
        count += 1
        folder = Path("runs") / f"{stem}-{stamp}-{count}"
    return folder


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"{folder}: exists already; name another with --out, or continue it: tether resume") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be created: {error.strerror or error}") from None


def _findable(location: str) -> str:
    """A path as an absolute one, so that a run can be resumed from another folder; a bundled name as it is."""
    path = Path(location)
    return str(path.resolve()) if path.exists() else location


def _versions() -> dict[str, str]:
    packages = ("jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco")
    return {"tether": tether.__version__} | {package: metadata.version(package) for package in packages}


def _commit() -> str | None:
    """The commit of the checkout that tether runs from, None where it is an installed package."""
    root = Path(tether.__file__).parents[2]
    try:
        head = (root / ".git" / "HEAD").read_text().strip()
        if head.startswith("ref: "):
            head = (root / ".git" / head[5:]).read_text().strip()
    except OSError:
        return None
    return head
