"""From Python: `train`, `resume`, `evaluate`. The command line calls these and nothing else."""

import contextlib
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
from tether.data import Dataset, Downloads, Prepared, bundled_names, load_dataset, prepare, view_of
from tether.environments import Task, find_task
from tether.environments.ids import find_environment
from tether.errors import InputError
from tether.evaluation.report import Report, write_report
from tether.evaluation.rollout import Episodes, make_environment
from tether.files import atomic_write_json
from tether.policy import save_policy
from tether.training.devices import any_process, is_primary, together
from tether.training.lanes import Lane, change_acting, make_algorithm, make_lanes, settings_of
from tether.training.precision import check_precision
from tether.training.records import Display
from tether.training.run import EVAL_DEVICES, Plan, Run, Settings
from tether.training.signals import StopSignals

__all__ = [
    "NO_ENVIRONMENT",
    "check_counts",
    "commit",
    "evaluate",
    "findable",
    "fresh_folder",
    "resume",
    "task_for",
    "train",
    "versions",
]

CONFIG_FORMAT = 1
NO_ENVIRONMENT = "none"
SEEDS_END = 2**31
SAMPLED_OBSERVATIONS = 256  # kept of the data set for the golden pairs of policies


def train(
    algorithm: Any,
    dataset: str | Dataset,
    *,
    seeds: int | Sequence[int] = 1,
    sweep: Mapping[str, Sequence[float]] | None = None,
    settings: Settings | None = None,
    reward_transform: str = "none",
    observation_transform: str = "none",
    data_filter: str = "none",
    environment: str | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    notes: Mapping[str, Any] | None = None,
    lanes: Sequence[Lane] | None = None,
) -> Report:
    """Train `algorithm` on `dataset` and leave a run folder.

    algorithm: an instance such as `DTQL(expectile=0.9)`.
    dataset: a `Dataset`, or a source such as a bundled name or a path (`tether.load_dataset`). A run on a
        `Dataset` that was not read from a file cannot be resumed.
    seeds: how many lanes, seeds 0, 1, ...; or the seeds themselves.
    sweep: numeric hyper-parameter -> values; lanes are the product with the seeds.
    data_filter: which episodes to train on, such as "top=0.1" (`tether.data.filters`).
    environment: task (`tether tasks`) or gymnasium id to evaluate in, "none" for no evaluation; by default what the
        data set's name says, or the record of its collection.
    out: the run folder; must not exist. Default `runs/<algorithm>-<dataset>-<time>`.
    quiet: no progress on stderr; warnings stay.
    notes: kept in config.json for readers.
    lanes: exactly these, in the place of `seeds` and `sweep`.

    Raises InputError for bad input (before anything is written), Interrupted (a KeyboardInterrupt) after Ctrl-C or
    SIGTERM, CheckpointError or OSError where the disk fails.
    """
    settings = settings or Settings()
    name = _name_of(algorithm)
    check_counts(algorithm, settings)
    if lanes is None:
        lanes = make_lanes(algorithm, range(seeds) if isinstance(seeds, int) else list(seeds), sweep or {})
    if not all(0 <= lane.seed < SEEDS_END for lane in lanes):
        raise InputError(f"seeds {[lane.seed for lane in lanes]}: each must be from 0 to {SEEDS_END - 1}")
    data = load_dataset(dataset, downloads=Downloads(quiet=quiet)) if isinstance(dataset, str) else dataset
    task, why_not = task_for(data, environment)
    prepared = prepare(data, reward_transform, observation_transform, view=view_of(algorithm), data_filter=data_filter)
    rows = prepared.transitions.rows
    if settings.batch_size > rows:
        raise InputError(f"batch size {settings.batch_size} is larger than the data: {rows} transitions")
    if out is None and jax.process_count() > 1:
        raise InputError("several processes train this run together: name its folder with --out")
    folder = Path(out) if out is not None else fresh_folder(f"{name}-{data.name}")
    plan = _plan(folder, name, algorithm, lanes, settings, data, prepared, task)
    _create_folder(folder, _config(plan) | {"notes": dict(notes or {})})
    # From here on only what the plan keeps of the data is needed: unless the caller holds them, they are freed.
    del data, prepared, dataset
    return _finish(plan, quiet, why_not=why_not)


def resume(
    folder: str | Path, *, quiet: bool = False, eval_workers: int | None = None, updates: int | None = None
) -> Report:
    """Continue the run in `folder` from its newest valid checkpoint, exactly as if it had not stopped.

    A run that is complete is only reported again.
    eval_workers: processes that play evaluations, where not as the run began (another machine, say).
    updates: another length of the training phase, from now on the run's: to train on after the end, or to end early
        and have the policies. A rate that decays over the phase then decays over the new length.
    Raises InputError where the folder is no run, the data set is not the one it trained on or so many updates are
    done already, CheckpointError where all checkpoints are damaged, otherwise as `train`.
    """
    plan = before = _restored_plan(Path(folder), quiet)
    if updates is not None:
        plan = dataclasses.replace(plan, algorithm=dataclasses.replace(plan.algorithm, train_updates=updates))
    if eval_workers is not None:
        plan = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, eval_workers=eval_workers))
    check_counts(plan.algorithm, plan.settings)
    return _finish(plan, quiet, resumed=True, new_length=plan.phases() != before.phases())


def evaluate(
    folder: str | Path, *, episodes: int = 10, quiet: bool = False, settings: Mapping[str, Any] | None = None
) -> tuple[Episodes, np.ndarray]:
    """Play episodes with all lanes of a run's newest checkpoint -> (outcomes, scores (lanes, episodes)).

    settings: how the policies shall act, such as {"candidates": 64}, where that is not as they were trained.
    Lanes that have diverged hold NaN. Also writes `evaluate-<update>-<episodes>.json` in the run folder, with the
    settings in its name where there are any.
    Raises InputError where the folder is no run, has no checkpoint yet, all its lanes have diverged, no
    environment is known for it, or a setting is one that training depends on; CheckpointError where all checkpoints
    are damaged.
    """
    if episodes < 1:
        raise InputError(f"episodes {episodes}: at least 1 is needed")
    plan = _acting_with(_restored_plan(Path(folder), quiet), settings or {})
    if plan.task is None:
        raise InputError(f"{folder}: its config.json names no environment, so nothing can be evaluated")
    with Display(quiet) as display:
        run = Run(plan, display)
        if not run.restore():
            raise InputError(f"{folder}: holds no checkpoint yet; train on with: tether resume {folder}")
        if not run.alive.any():
            raise InputError(f"{folder}: every lane diverged; there is no policy to evaluate")
        display.begin("evaluate", 0, plan.task.horizon or 1, "steps")
        played = run.rollout(episodes, lambda step, horizon: display.advance(step))
    alive = run.alive[:, None]
    outcome = Episodes(np.where(alive, played.returns, np.nan), np.where(alive, played.lengths, 0))
    scores = plan.task.score(outcome.returns)
    rows = {
        "update": run.updates,
        "task": plan.task.name,
        "returns": outcome.returns,
        "lengths": outcome.lengths,
        "normalized_scores": scores if plan.task.has_references else None,
        "settings": dict(settings or {}),
    }
    changed = "".join(f"-{name}={value}" for name, value in (settings or {}).items())
    atomic_write_json(plan.folder / f"evaluate-{run.updates}-{episodes}{changed}.json", rows)
    return outcome, scores


def _acting_with(plan: Plan, settings: Mapping[str, Any]) -> Plan:
    """The plan with policies that act otherwise."""
    algorithm = change_acting(plan.algorithm_name, plan.algorithm, settings)
    for name in settings:
        if name in plan.lanes[0].settings:
            raise InputError(f"{name!r} was swept over lanes: it cannot be changed for all of them")
    return dataclasses.replace(plan, algorithm=algorithm)


def _finish(
    plan: Plan,
    quiet: bool,
    resumed: bool = False,
    new_length: bool = False,
    why_not: str = "config.json names no environment",
) -> Report:
    """Train to the end, then write policies, result and picture.

    new_length: the training phase has another one than config.json says.
    why_not: why nothing is evaluated, where it is not.
    """
    with Display(quiet, silent=not is_primary()) as display, StopSignals() as stop:
        lanes, rows = len(plan.lanes), plan.prepared.transitions.rows
        what = f"{plan.algorithm_name} on {plan.prepared.record['dataset']}: {rows:,} transitions"
        display.message(f"{what}, {lanes} lane{'s' if lanes > 1 else ''}, in {plan.folder}")
        if plan.task is None:
            display.message(f"training without evaluation: {why_not}")
        run = Run(plan, display, stop)
        if resumed:
            if not run.restore():
                display.message("no checkpoint was written yet: starting over")
            if new_length:
                _note_length(run)
            run.drop_later_rows()
        run.execute()
        together("trained")
        report = write_report(run)
        _save_policies(run, report)
        together("finished")
    return report


def _save_policies(run: Run, report: Report) -> None:
    """`policy/` holds the lane with the best last score (the first lane where nothing was evaluated); with
    several lanes each one that did not diverge also has its own `policies/lane-<n>/`."""
    plan = run.plan
    folders = {} if report.best_lane is None else {plan.folder / "policy": report.best_lane}
    if len(plan.lanes) > 1:
        folders |= {plan.folder / "policies" / f"lane-{lane}": lane for lane in np.flatnonzero(run.alive).tolist()}
    for folder, lane in folders.items():
        policy = run.policy(lane)
        if not run.primary:
            continue
        save_policy(
            folder,
            policy,
            algorithm_name=plan.algorithm_name,
            algorithm=dataclasses.replace(plan.algorithm, **plan.lanes[lane].settings),
            spec=plan.prepared.spec,
            observations=plan.observations,
            schema=plan.prepared.schema,
            notes={
                "dataset": plan.prepared.record["dataset"],
                "lane": lane,
                "seed": plan.lanes[lane].seed,
                "update": run.updates,
                "score": report.lane_scores.get(lane),
            },
        )


# --- plans and config.json ----------------------------------------------------------------------------------


def _plan(
    folder: Path,
    name: str,
    algorithm: Any,
    lanes: Sequence[Lane],
    settings: Settings,
    data: Dataset,
    prepared: Prepared,
    task: Task | None,
) -> Plan:
    """A plan that holds the transitions on the device and of the data set no more than it needs."""
    rows = np.linspace(0, len(data) - 1, min(SAMPLED_OBSERVATIONS, len(data))).astype(int)
    on_device = prepared._replace(transitions=jax.device_put(prepared.transitions))
    returns, observations = data.episode_returns(), data.observations[rows]
    return Plan(folder, name, algorithm, tuple(lanes), settings, on_device, task, returns, observations)


def _config(plan: Plan) -> dict[str, Any]:
    """Everything to rebuild `plan`, and what was used to run it."""
    record, source = plan.prepared.record, plan.prepared.source
    sha256 = None if source is None else source.sha256
    return {
        "format_version": CONFIG_FORMAT,
        "algorithm": plan.algorithm_name,
        **_length(plan),
        "lanes": [{"seed": lane.seed, "settings": dict(lane.settings)} for lane in plan.lanes],
        "settings": dataclasses.asdict(plan.settings),
        "data": record | {"source": findable(record["source"]), "sha256": sha256},
        "environment": plan.task.name if plan.task else NO_ENVIRONMENT,
        "score": plan.task.score_name if plan.task else None,
        "versions": versions(),
        "commit": commit(),
        "device": str(jax.devices()[0].device_kind),
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


def _restored_plan(folder: Path, quiet: bool) -> Plan:
    """The plan that config.json describes."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
        found = config.get("format_version")
        if found != CONFIG_FORMAT:
            raise InputError(f"format {found!r}; this version of tether reads {CONFIG_FORMAT}")
        name, record = config["algorithm"], config["data"]
        algorithm = make_algorithm(name, config["hyperparameters"])
        lanes = [Lane(lane["seed"], lane["settings"]) for lane in config["lanes"]]
        settings = Settings(**config["settings"])  # of runs from before there was a precision: the default
        check_precision(settings.precision)
        source, sha256, environment = record["source"], record["sha256"], config["environment"]
        transforms = record["reward_transform"]["name"], record["observation_transform"]["name"]
        data_filter = record.get("filter", {"name": "none"})["name"]  # configs of tether 0.1 have none
    except OSError as error:
        raise InputError(f"{folder}: not a run folder: {path.name}: {error.strerror or error}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: truncated or altered: {type(error).__name__} {error}") from None
    data = load_dataset(source, downloads=Downloads(quiet=quiet))
    if data.source.sha256 != sha256:
        raise InputError(
            f"{source}: not the file this run trained on: its SHA-256 is {data.source.sha256[:12]}..., "
            f"{path} says {sha256[:12]}..."
        )
    task = None if environment == NO_ENVIRONMENT else _known_task(data, environment)
    prepared = prepare(data, *transforms, view=view_of(algorithm), data_filter=data_filter)
    return _plan(folder, name, algorithm, lanes, settings, data, prepared, task)


def _name_of(algorithm: Any) -> str:
    for name, cls in ALGORITHMS.items():
        if isinstance(algorithm, cls):
            return name
    raise InputError(
        f"algorithm {type(algorithm).__name__} is not registered; registered: {', '.join(sorted(ALGORITHMS))}"
    )


def check_counts(algorithm: Any, settings: Settings) -> None:
    """Refuse settings that cannot train: sizes, intervals and the last phase's updates must be positive, the precision
    one that there is."""
    check_precision(settings.precision)
    for name, value in dataclasses.asdict(settings).items():
        least = 0 if name == "eval_workers" else 1
        if type(value) is int and value < least:
            raise InputError(f"{name} {value}: must be at least {least}")
    if settings.eval_device not in EVAL_DEVICES:
        raise errors.unknown("eval_device", settings.eval_device, EVAL_DEVICES)
    if settings.eval_device == "accelerator" and jax.default_backend() == "cpu":
        raise InputError("eval_device 'accelerator': JAX finds none on this machine; choices here: auto, cpu")
    *earlier, last = algorithm.phases()
    if last.updates < 1:
        raise InputError(f"updates {last.updates}: the {last.name} phase needs at least 1")
    for phase in earlier:
        if phase.updates < 0:
            raise InputError(f"{phase.name} updates {phase.updates}: must not be negative")
    phase_updates = {f"{phase.name}_updates" for phase in earlier}
    for name, value in settings_of(algorithm).items():
        counts = value if isinstance(value, tuple) else (value,)
        for count in counts:
            if type(count) is int and count < 1 and name not in phase_updates:
                raise InputError(f"{name} {value}: must be at least 1")


def task_for(data: Dataset, environment: str | None) -> tuple[Task | None, str]:
    """(the task to evaluate in, "") or (None, why nothing is evaluated).

    environment: what the user asked for; None: what the data set's name or its record of collection says, as far as
    that can be made here.
    Raises InputError where an environment was asked for that does not exist or cannot be made, or the data do not fit.
    """
    if environment == NO_ENVIRONMENT:
        return None, "as asked"
    try:
        task = _known_task(data, environment)
        if task is None:
            return None, "no environment is known for these data (see --environment)"
        made = make_environment(task)  # better now than at the first evaluation
    except InputError as error:
        if environment is not None:
            raise
        return None, str(error)
    made.close()
    found = data.observations.shape[1], data.actions.shape[1]
    wanted = tuple(space.shape[0] for space in (made.observation_space, made.action_space) if space.shape)
    if found != wanted:
        raise InputError(
            f"data set {data.name!r} has observations of size {found[0]} and actions of size {found[1]}, "
            f"environment {task.name!r} has {wanted[0]} and {wanted[1]}; name another with --environment, or none"
        )
    return task, ""


def _known_task(data: Dataset, environment: str | None) -> Task | None:
    """What `environment` means for these data: their own record of it, if it is the one; None: nothing is known."""
    recorded = data.recorded_in
    if recorded is not None and environment in (recorded.name, recorded.gymnasium_id):
        return recorded
    if environment is not None:
        return find_environment(environment)
    return find_task(data.name) or recorded


def fresh_folder(stem: str) -> Path:
    """`runs/STEM-TIME`, or with a number behind it where that is taken; not created."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder, count = Path("runs") / f"{stem}-{stamp}", 1
    while folder.exists():
        count += 1
        folder = Path("runs") / f"{stem}-{stamp}-{count}"
    return folder


def _create_folder(folder: Path, config: dict[str, Any]) -> None:
    """The run folder with config.json in it, or nothing. Of several processes only the first makes it."""
    if any_process(folder.exists()):  # nobody makes it before everybody has looked
        raise InputError(f"{folder}: exists already; name another with --out, or continue it: tether resume")
    if not is_primary():
        return
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"{folder}: exists already; name another with --out, or continue it: tether resume") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be created: {error.strerror or error}") from None
    try:
        atomic_write_json(folder / "config.json", config)
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def _length(plan: Plan) -> dict[str, Any]:
    """The entries of config.json that say how long the phases are."""
    phases = [{"name": phase, "updates": updates} for phase, updates in plan.phases()]
    return {"hyperparameters": settings_of(plan.algorithm), "phases": phases}


def _note_length(run: Run) -> None:
    """Write the training phase's new length into config.json; InputError where so many updates are done already."""
    plan, position = run.plan, run.position
    *earlier, (name, updates) = plan.phases()
    if position.phase == len(earlier) and position.update >= updates:
        raise InputError(
            f"{plan.folder}: {position.update:,} updates of {name} are done; --updates {updates} must be more"
        )
    together("read config.json")  # nobody reads what the first has written
    if is_primary():
        path = plan.folder / "config.json"
        atomic_write_json(path, json.loads(path.read_text(encoding="utf-8")) | _length(plan))


def findable(location: str) -> str:
    """A path as an absolute one, so that a run can be resumed from another folder; a bundled name as it is."""
    path = Path(location)
    return str(path.resolve()) if location not in bundled_names() and path.exists() else location


def versions() -> dict[str, str]:
    """Package -> version of what decides a run's numbers."""
    packages = ("jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco")
    found = {"tether": tether.__version__}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):  # simulators are not needed to train
            found[package] = metadata.version(package)
    return found


def commit() -> str | None:
    """The commit of the checkout that tether runs from, None where it is an installed package."""
    git = Path(tether.__file__).parents[2] / ".git"
    try:
        if git.is_file():  # a work tree beside the repository: the file says where its own part is
            git = (git.parent / git.read_text().removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        shared = git / "commondir"
        common = (git / shared.read_text().strip()).resolve() if shared.exists() else git
        return (common / head[5:]).read_text().strip()
    except OSError:
        return None
