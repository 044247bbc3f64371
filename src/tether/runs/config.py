"""config.json: everything to rebuild a run, and the folder that it lies in."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tether import _version
from tether.algorithms.callables import check_networks, with_value_range, without_value_range
from tether.algorithms.registry import check_recorded, hyperparameters_of, name_of, origin_of, recover_algorithm
from tether.data import Dataset, Downloads, Framing, Prepared, load_dataset, prepare, view_of
from tether.data.schema import ActionBox
from tether.environments import Task
from tether.environments.choose import NO_ENVIRONMENT, known_task, limits_of, task_for
from tether.environments.make import check_imported
from tether.errors import InputError
from tether.machine.files import atomic_write_json, file_stem
from tether.machine.reading import read_json
from tether.networks.factories import value_range
from tether.runs.document import CONFIG_FORMAT, DataRecord, RunDocument, read_config
from tether.runs.moved import find_source, findable, relative_source
from tether.runs.plan import Options, Plan
from tether.runs.run import Run
from tether.training.devices import is_primary, together
from tether.training.lanes import Lane, check_lanes
from tether.training.precision import check_precision

__all__ = [
    "check_batch_size",
    "check_counts",
    "check_framing",
    "check_rewards",
    "commit",
    "config_of",
    "fresh_folder",
    "make_plan",
    "note_data",
    "note_environment",
    "note_length",
    "prepare_training",
    "restored_plan",
    "versions",
    "with_device_here",
]

SAMPLED_OBSERVATIONS = 256  # kept of the data set for the golden pairs of policies


def make_plan(
    folder: Path,
    name: str,
    algorithm: Any,
    lanes: Sequence[Lane],
    options: Options,
    data: Dataset,
    prepared: Prepared,
    task: Task | None,
    limits: ActionBox | None,
) -> Plan:
    """A plan that holds the transitions on the device and of the data set no more than it needs."""
    rows = np.linspace(0, len(data) - 1, min(SAMPLED_OBSERVATIONS, len(data))).astype(int)
    columns = jax.device_put((prepared.transitions, prepared.held_out))
    on_device = prepared._replace(transitions=columns[0], held_out=columns[1])
    returns, observations = data.episode_returns(), data.observations[rows]
    return Plan(folder, name, algorithm, tuple(lanes), options, on_device, task, limits, returns, observations)


def config_of(plan: Plan) -> dict[str, Any]:
    """Everything to rebuild `plan`, and what was used to run it."""
    record, source = plan.prepared.record, plan.prepared.source
    sha256 = None if source is None else source.sha256
    return {
        "format_version": CONFIG_FORMAT,
        "algorithm": plan.algorithm_name,
        **origin_of(type(plan.algorithm)),
        **_length(plan),
        "lanes": [{"seed": lane.seed, "settings": dict(lane.swept)} for lane in plan.lanes],
        "settings": dataclasses.asdict(plan.options),
        "data": record
        | {
            "source": findable(source or record["source"]),
            "relative_source": relative_source(source or record["source"], plan.folder),
            "sha256": sha256,
            "in_memory": source is not None and source.in_memory,
        },
        **_place(plan),
        **({} if plan.finetuning is None else {"finetuning": dataclasses.asdict(plan.finetuning)}),
        "versions": versions(),
        "commit": commit(),
        "device": str(jax.devices()[0].device_kind),
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


def restored_plan(
    folder: Path,
    quiet: bool,
    given: Any = None,
    dataset: str | Path | Dataset | None = None,
    asked: str | None = None,
    horizon: int | None = None,
) -> Plan:
    """The plan that config.json describes.

    given: the algorithm's class, or an instance, where it is not registered.
    dataset: the data that the run trained on, or where they lie now; None: where config.json says.
    asked: the environment for a run that has none, whose episodes are cut after `horizon` steps; of one that has one,
        it must be the same.
    """
    path = folder / "config.json"
    config, document = read_config(folder)
    try:
        algorithm = recover_algorithm(config, given)
        lanes, options = document.named_lanes(), document.options
        check_lanes(algorithm, lanes)
        check_framing(document.data.framing, lanes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    record = document.data
    found = find_source(record.source, record.relative_source, record.sha256, folder)
    source = found if dataset is None else dataset
    data = _same_data(path, source, record, quiet)
    task, limits = _restored_place(path, document, data, asked, horizon)
    transforms = record.reward_transform.name, record.observation_transform.name
    episodes: dict[str, Any] = {"data_filter": record.filter.name, "holdout": record.holdout.name}
    prepared = prepare(data, *transforms, view=view_of(algorithm, record.framing), **episodes)
    plan = make_plan(folder, document.algorithm, algorithm, lanes, options, data, prepared, task, limits)
    return dataclasses.replace(plan, finetuning=document.finetuning)


def _restored_place(
    path: Path, document: RunDocument, data: Dataset, asked: str | None, horizon: int | None
) -> tuple[Task | None, ActionBox | None]:
    """The task of the run's environment and the actions that this takes; of `asked` where the run has none."""
    name = document.environment
    if name == NO_ENVIRONMENT:
        return (None, None) if asked is None else task_for(data, asked, horizon)[:2]
    if horizon not in (None, document.horizon):
        raise InputError(
            f"{path}: episodes are cut after {document.horizon} steps; horizon {horizon} cannot change that"
        )
    if asked is not None and (wanted := known_task(data, asked)) is not None and wanted.name != name:
        raise InputError(f"{path}: the run is evaluated in {name}, which --environment {asked} cannot change")
    task = known_task(data, name, document.horizon)
    if task is not None and task.gymnasium_id is not None:
        check_imported(task.gymnasium_id)  # now, and not at the next evaluation
    return task, None if task is None else _limits_from(document, task)


def _limits_json(limits: ActionBox) -> dict[str, list[float | None]]:
    """null where there is no bound: JSON has no infinity."""
    return {name: [x if np.isfinite(x) else None for x in getattr(limits, name)] for name in ("low", "high")}


def _limits_from(document: RunDocument, task: Task) -> ActionBox | None:
    """The actions that the run's environment takes; runs of tether 0.1 do not say, so the environment is asked."""
    if document.environment_actions is not None:
        return document.environment_actions.box()
    try:
        return limits_of(task)
    except InputError:  # it cannot be made here: whoever needs it will hear of it
        return None


def _same_data(path: Path, given: str | Path | Dataset, record: DataRecord, quiet: bool) -> Dataset:
    """The data that the run of the config.json at `path` trained on. Raises InputError where they are not `given`."""
    sha256, in_memory = record.sha256, record.in_memory
    if in_memory and isinstance(given, str) and given.startswith("memory:"):
        raise InputError(
            f"{path.parent}: trained on data in memory, {given} with the SHA-256 {sha256[:12]}...: give them as "
            "dataset=data, or the file that Dataset.to_hdf5 wrote of them with --data FILE"
        )
    if not isinstance(given, Dataset):
        given = load_dataset(given, downloads=Downloads(quiet=quiet), continuous=record.continuous)
    data = given
    found = record.digest_of(data)
    if found != sha256:
        what = "data" if in_memory else "file"
        raise InputError(
            f"{data.source.location}: not the {what} this run trained on: its SHA-256 is {found[:12]}..., "
            f"{path} says {sha256[:12]}..."
        )
    return data


def _length(plan: Plan) -> dict[str, Any]:
    """The entries of config.json that say how long the phases are."""
    phases = [{"name": phase, "updates": updates} for phase, updates in plan.phases()]
    return {"hyperparameters": hyperparameters_of(plan.algorithm), "phases": phases}


def _place(plan: Plan) -> dict[str, Any]:
    """The entries of config.json that say where the run is evaluated."""
    return {
        "environment": plan.task.name if plan.task else NO_ENVIRONMENT,
        "horizon": plan.task.horizon if plan.task else None,
        "environment_actions": None if plan.limits is None else _limits_json(plan.limits),
        "score": plan.task.score_name if plan.task else None,
    }


def note_data(plan: Plan) -> str | None:
    """Write where the data lie now into config.json -> that place, None where it is the same or they are in memory."""
    path, source = plan.folder / "config.json", plan.prepared.source
    config = read_json(path)
    now = findable(source or plan.prepared.record["source"])
    together("read where the data were")  # nobody reads what the first has written
    if config["data"].get("in_memory") or source is None or source.in_memory or config["data"]["source"] == now:
        return None
    if is_primary():
        place = {"source": now, "relative_source": relative_source(now, plan.folder)}
        atomic_write_json(path, config | {"data": config["data"] | place})
    return now


def note_environment(plan: Plan) -> None:
    """Write the environment into config.json, where the run had none."""
    path = plan.folder / "config.json"
    config = read_json(path)
    added = plan.task is not None and config["environment"] == NO_ENVIRONMENT
    together("read the environment")  # nobody reads what the first has written
    if added and is_primary():
        atomic_write_json(path, config | _place(plan))


def note_length(run: Run) -> None:
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
        atomic_write_json(path, read_json(path) | _length(plan))


def check_rewards(name: str, algorithm: Any, where: str, no_rewards: str) -> None:
    """Refuse rewards that say nothing to an algorithm that learns from them in one of its phases.

    where: the data; no_rewards: why theirs say nothing (`Prepared.no_rewards`), empty where they do.
    """
    reading = [phase.name for phase in algorithm.phases() if phase.updates and phase.reads_rewards]
    if no_rewards and reading:
        phase = "" if len(algorithm.phases()) == 1 else f" ({reading[0]})"
        raise InputError(
            f"{where} {no_rewards}, and {name} learns from rewards{phase}; imitate with bc or diffusion-bc, "
            "or give the rows rewards that differ"
        )


def prepare_training(
    algorithm: Any, lanes: Sequence[Lane], data: Dataset, options: Options, how: Mapping[str, Any]
) -> tuple[Any, Prepared]:
    """The algorithm with all that it takes from the data, and what it is trained on. Raises InputError where the two do
    not fit. how: arguments of `prepare`."""
    discounts: tuple[float, ...] = ()
    if without_value_range(algorithm):
        own = getattr(algorithm, "discount", 1.0)
        discounts = tuple({float(lane.swept.get("discount", own)) for lane in lanes})
    prepared = prepare(data, **how, value_discounts=discounts)
    check_rewards(name_of(algorithm), algorithm, data.source.location, prepared.no_rewards)
    check_batch_size(options, prepared)
    if discounts:
        algorithm = with_value_range(algorithm, *value_range(prepared.record["returns"]))
    return algorithm, prepared


def check_batch_size(options: Options, prepared: Prepared) -> None:
    """Refuse minibatches of more rows than there are."""
    if options.batch_size > (rows := prepared.transitions.rows):
        raise InputError(
            f"batch size {options.batch_size} is larger than the data: {rows} transitions; at most --batch-size {rows}"
        )


def check_framing(framing: Framing, lanes: Sequence[Lane]) -> None:
    """Refuse lanes of several discounts where rewards are summed up with one."""
    if framing.steps > 1 and any("discount" in lane.swept for lane in lanes):
        raise InputError(
            f"sweep of discount with {framing}: the rewards of a decision are summed up with one discount; train a run "
            "for each"
        )


def check_counts(algorithm: Any, options: Options) -> None:
    """Refuse what cannot train here: networks that nobody has registered, hyper-parameters that no record gives back,
    devices and precisions that are not there, phases without updates. Algorithm and options check their ranges
    themselves."""
    check_precision(options.precision)
    check_networks(algorithm)
    check_recorded(algorithm)
    if options.eval_device == "accelerator" and jax.default_backend() == "cpu":
        raise InputError("eval_device 'accelerator': JAX finds none on this machine; choices here: auto, cpu")
    *earlier, last = algorithm.phases()
    trained = [phase for phase in earlier if phase.updates > 0]
    if last.updates < (0 if trained and trained[-1].gives_policy else 1):  # a model of the behaviour alone
        raise InputError(f"updates {last.updates}: the {last.name} phase, which makes the policy, needs at least 1")
    for phase in earlier:
        if phase.updates < 0:
            raise InputError(f"{phase.name} updates {phase.updates}: must not be negative")


def with_device_here(plan: Plan) -> tuple[Plan, str]:
    """The plan with evaluations where there is a device for them, and a line where its run asks for another one."""
    if plan.options.eval_device != "accelerator" or jax.default_backend() != "cpu":
        return plan, ""
    options = dataclasses.replace(plan.options, eval_device="auto")
    return dataclasses.replace(plan, options=options), "no accelerator is here: evaluations are played on the CPU"


def fresh_folder(stem: str) -> Path:
    """`runs/STEM-TIME`; not created (`runs.folder.make_fresh`)."""
    return Path("runs") / f"{file_stem(stem)}-{time.strftime('%Y%m%d-%H%M%S')}"


def versions() -> dict[str, str]:
    """Package -> version of what decides a run's numbers."""
    packages = ("jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco", "ogbench")
    found = {"tether": _version.__version__}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):  # simulators are not needed to train
            found[package] = metadata.version(package)
    return found


def commit() -> str | None:
    """The commit of the checkout that tether runs from, None where it is an installed package."""
    git = Path(_version.__file__).parents[2] / ".git"
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
