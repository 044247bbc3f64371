"""Several algorithms on the same data under one protocol (docs/compare.md).

    DIR/comparison.json   the protocol, what each algorithm is trained with, the table's numbers
    DIR/comparison.md     the table          DIR/comparison.png   score against the cost of training
    DIR/choice.json       where there is no environment: what `tether choose` says of all seeds
    DIR/ALGORITHM/        an ordinary run folder, its lanes the seeds: `tether resume`, `evaluate`, `plot` work on it

What is done lies in the run folders, so a comparison can be stopped, killed and gone on with at any moment.
"""

import dataclasses
import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tether import errors
from tether.algorithms import ALGORITHMS, FAMILIES
from tether.algorithms.callables import with_value_range
from tether.algorithms.catalogue import entry_of
from tether.algorithms.registry import hyperparameters_of, make_algorithm
from tether.api import resume, train
from tether.bench import act_latency, update_flops
from tether.data import ONE_STEP, Dataset, Downloads, Framing, load_dataset, view_of
from tether.data.holdout import NO_HOLDOUT
from tether.data.transforms import no_rewards
from tether.environments.choose import NO_ENVIRONMENT, known_task, task_for
from tether.environments.ids import import_environment
from tether.environments.make import check_imported
from tether.environments.tasks import find_task
from tether.errors import InputError
from tether.evaluation.statistics import Summary
from tether.machine.files import atomic_write_json, atomic_write_text, lasting, to_json
from tether.machine.locks import Busy, only_writer
from tether.machine.reading import as_document, parse_json, read_bytes, read_json
from tether.machine.signals import Interrupted
from tether.machine.start import note_next_run
from tether.networks.factories import without_range
from tether.plots.markdown import markdown_table
from tether.plots.tradeoff import plot_tradeoff
from tether.presets import preset_names
from tether.presets.recipes import find_recipe
from tether.runs.arms import as_text
from tether.runs.config import check_counts, check_rewards, commit, fresh_folder, versions
from tether.runs.document import DataRecord
from tether.runs.folder import make_fresh
from tether.runs.moved import find_source, findable, relative_source
from tether.runs.plan import Options
from tether.runs.records import Display
from tether.runs.report import behaviour_summary
from tether.studies import comparison as tables
from tether.studies.choose import answer_line, choose
from tether.studies.comparison import Cost, Row
from tether.types import Spec

__all__ = [
    "Comparison",
    "Request",
    "comparison_table",
    "continue_comparison",
    "draw",
    "plan_comparison",
    "start_comparison",
]

FORMAT = 1
CHOICE, CHOOSE_ROWS = "choice.json", 20_000  # rows of the log on which many policies are judged


@dataclasses.dataclass(frozen=True)
class Request:
    """What a user asks for; None is left to presets, algorithms and data."""

    source: str
    algorithms: tuple[str, ...]
    seeds: int = 3
    updates: int = 100_000
    pretrain_updates: int | None = None
    batch_size: int | None = None
    preset: str = "auto"
    assignments: tuple[str, ...] = ()  # NAME=VALUE or ALGORITHM.NAME=VALUE
    environment: str | None = None
    horizon: int | None = None
    reward_transform: str | None = None
    observation_transform: str | None = None
    continuous: bool = False  # as of `load_dataset`
    eval_every_updates: int | None = None
    eval_episodes: int = 10
    precision: str = "float32"
    framing: Framing = ONE_STEP
    command: str = ""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What all algorithms of a comparison share."""

    source: str
    dataset: str
    sha256: str
    observation_size: int
    action_size: int
    environment: str  # the task's name, or "none"
    seeds: tuple[int, ...]
    updates: int  # of the last phase
    eval_every_updates: int
    eval_episodes: int
    score_name: str = "normalised score"  # `Task.score_name`
    precision: str = "float32"  # of the matmuls of training
    horizon: int | None = None  # where it is not the environment's own
    continuous: bool = False  # whole numbers among the actions are levels
    relative_source: str | None = None  # from the comparison's folder; those of tether 0.1 do not say
    framing: Framing = ONE_STEP  # of the decisions of all


@dataclasses.dataclass(frozen=True)
class Entrant:
    """What one algorithm is trained with."""

    preset: str | None  # None: its defaults
    assigned: dict[str, str]  # by hand, over them
    hyperparameters: dict[str, Any]  # all
    batch_size: int
    reward_transform: str
    observation_transform: str
    data_filter: str

    @property
    def where_from(self) -> str:
        """For the table: `hopper-medium-v2, batch 256, expectile=0.9`."""
        changed = [f"{name}={value}" for name, value in self.assigned.items()]
        return ", ".join([self.preset or "defaults", f"batch {self.batch_size}", *changed])


@dataclasses.dataclass
class Comparison:
    """A comparison and how far it has come. `costs` and `errors` are filled as it goes on."""

    folder: Path
    protocol: Protocol
    entrants: dict[str, Entrant]
    behaviour: Summary | None
    command: str
    costs: dict[str, Cost] = dataclasses.field(default_factory=dict)
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    choice: dict[str, Any] | None = None  # without an environment: what `tether choose` says of all seeds

    def __str__(self) -> str:
        return as_text(comparison_table(self))

    @property
    def scored(self) -> bool:
        """Whether there is an environment."""
        return self.protocol.environment != NO_ENVIRONMENT

    @property
    def succeeded(self) -> bool:
        """Whether every algorithm came to its end with all its seeds."""
        return all(row.status == "done" for row in self.rows())

    def algorithm(self, name: str) -> Any:
        """The algorithm called `name` with its hyper-parameters here."""
        return make_algorithm(name, self.entrants[name].hyperparameters)

    def options(self, name: str) -> Options:
        """Run options of the algorithm called `name`."""
        protocol = self.protocol
        return Options(
            batch_size=self.entrants[name].batch_size,
            eval_every_updates=protocol.eval_every_updates,
            eval_episodes=protocol.eval_episodes,
            precision=protocol.precision,
        )

    def rows(self) -> list[Row]:
        """One per algorithm, from the run folders as they are now."""
        rows = []
        for name, entrant in self.entrants.items():
            entry = entry_of(name)
            about = {"algorithm": name, "family": entry.family, "paper": entry.paper}
            about["settings"] = entrant.where_from
            row = tables.read_row(self.folder / name, about, self.costs.get(name), self.errors.get(name))
            rows.append(dataclasses.replace(row, **self._value(name)))
        return rows

    def _value(self, name: str) -> dict[str, Any]:
        """Of the best seed that passes the gates."""
        found = [row for row in (self.choice or {}).get("rows", ()) if Path(row["folder"]).name == name]
        best = next((row for row in found if not row["refused"]), None)  # they are sorted
        return {} if best is None else {"value": best["value"], "value_low": best["low"], "value_high": best["high"]}

    def closing_lines(self) -> list[str]:
        """Below the table: what failed, and where everything is."""
        lines = [f"{name} failed: {reason}" for name, reason in self.errors.items()]
        if not self.scored:
            judged = "training losses only" if self.choice is None else "values estimated from the data"
            lines.append(f"no environment is known for {self.protocol.dataset}, so there are {judged}")
            if self.choice is not None:
                lines.append(answer_line(self.choice["recommended"], self.choice["reason"]))
        elif self.behaviour is None:
            lines.append("returns of these data are no scores, so the behaviour has no row")
        picture = self.folder / "comparison.png"
        lines += [f"picture {picture}"] if picture.exists() else []
        return [*lines, f"table   {self.folder / 'comparison.md'}", f"runs    {self.folder}"]


class Stopped(Interrupted):
    """A comparison was asked to stop and did; its run wrote a checkpoint."""

    def __init__(self, signal_number: int, folder: Path):
        super().__init__(signal_number, folder, f"`tether compare --out {folder}`")


def start_comparison(
    request: Request, out: Path | None, cost: str = "compute", quiet: bool = False, data: Dataset | None = None
) -> Comparison:
    """Train all that is asked for into the folder `out`; where it holds the same comparison already, go on with it.

    An algorithm that is not in it yet is added. cost: of the picture, compute or time. data: in the place of those that
    the request names.
    Raises InputError for bad input, before anything is trained, and where `out` holds another comparison or
    something else; Stopped after Ctrl-C, SIGTERM or SIGHUP; Busy where another process trains it; OSError
    where the folder cannot be written.
    """
    asked, data = plan_comparison(request, out, quiet, data)
    if out is None:
        asked = dataclasses.replace(asked, folder=make_fresh(asked.folder))
    folder = asked.folder
    if folder.exists() and (not folder.is_dir() or lasting(folder)) and not (folder / "comparison.json").exists():
        raise InputError(f"{folder}: exists already and holds no comparison; name another with --out")
    there = folder / "comparison.json"
    if there.exists():
        _joined(_load(folder), asked)  # what is refused is left as it is, without a lock in it
    with only_writer(folder):
        if there.exists():
            asked = _joined(_load(folder), asked)
        return _train_all(asked, data, cost, quiet)


def plan_comparison(
    request: Request, out: Path | None, quiet: bool = False, data: Dataset | None = None
) -> tuple[Comparison, Dataset]:
    """The comparison that is asked for, and its data; nothing is trained or written yet.

    Raises InputError for bad input.
    """
    if data is None:
        data = load_dataset(request.source, downloads=Downloads(quiet=quiet), continuous=request.continuous)
    folder = out or fresh_folder(f"compare-{data.name}")
    return _plan(request, data, folder), data


def continue_comparison(folder: Path, cost: str = "compute", quiet: bool = False) -> Comparison:
    """Go on with the comparison in `folder` as it began. Raises as `start_comparison`."""
    found = _load(folder)
    check_imported(found.protocol.environment)  # the user has not named it in this command
    protocol = found.protocol
    source = find_source(protocol.source, protocol.relative_source, protocol.sha256, folder)
    data = load_dataset(source, downloads=Downloads(quiet=quiet), continuous=protocol.continuous)
    if data.source.sha256 != found.protocol.sha256:
        raise InputError(f"{found.protocol.source}: not the data that {folder} was begun with: its SHA-256 differs")
    with only_writer(folder):
        found = _load(folder)
        place = {"source": findable(source), "relative_source": relative_source(source, folder)}
        return _train_all(
            dataclasses.replace(found, protocol=dataclasses.replace(protocol, **place)), data, cost, quiet
        )


def draw(folder: Path, cost: str = "compute") -> Comparison:
    """Write table and picture of the comparison in `folder` anew, as far as it has come; also while it trains.

    Raises InputError where it is none.
    """
    found = _load(folder)
    try:
        with only_writer(folder):
            found = _load(folder)
            _write(found, cost)
    except Busy:  # comparison.json is the business of the process that trains
        _write_table(found, found.rows(), cost)
    return found


def comparison_table(comparison: Comparison) -> Any:
    """The table for the terminal."""
    return tables.rich_table(_title(comparison), comparison.rows(), comparison.behaviour, comparison.scored)


# --- the plan -----------------------------------------------------------------------------------------------


def _plan(request: Request, data: Dataset, folder: Path) -> Comparison:
    """Every algorithm with its settings, checked. Raises InputError for what cannot be trained."""
    names = request.algorithms
    if not names:
        raise InputError("algorithms: at least one is needed")
    for name in names:
        if name not in ALGORITHMS:
            raise errors.unknown("algorithm", name, ALGORITHMS)
    if len(set(names)) < len(names):
        raise InputError(f"algorithms {','.join(names)}: each may stand once")
    if request.seeds < 1:
        raise InputError(f"seeds {request.seeds}: at least 1 is needed")
    if request.preset not in ("auto", "none") and not any(request.preset in preset_names(name) for name in names):
        raise errors.unknown("preset", request.preset, {task for name in names for task in preset_names(name)})
    import_environment(request.environment)
    task = task_for(data, request.environment, request.horizon).task
    every = request.eval_every_updates
    protocol = Protocol(
        source=findable(data.source),
        relative_source=relative_source(data.source, folder),
        dataset=data.name,
        sha256=data.source.sha256,
        observation_size=data.observations.shape[1],
        action_size=data.actions.shape[1],
        environment=task.name if task else NO_ENVIRONMENT,
        score_name=task.score_name if task else Protocol.score_name,
        seeds=tuple(range(request.seeds)),
        updates=request.updates,
        eval_every_updates=max(1, request.updates // 10) if every is None else every,
        eval_episodes=request.eval_episodes,
        precision=request.precision,
        horizon=request.horizon,
        continuous=data.continuous,
        framing=request.framing,
    )
    assigned = _assigned(request)
    entrants = {name: _entrant(name, request, assigned[name]) for name in names}
    planned = Comparison(folder, protocol, entrants, behaviour_summary(data.episode_returns(), task), request.command)
    for name in names:
        check_counts(planned.algorithm(name), planned.options(name))
        if entrants[name].reward_transform == "none":  # others make new ones
            check_rewards(name, planned.algorithm(name), data.source.location, no_rewards(data, data.rewards))
    return planned


def _assigned(request: Request) -> dict[str, dict[str, str]]:
    """Algorithm -> its part of --set."""
    fields = {name: {field.name for field in dataclasses.fields(ALGORITHMS[name])} for name in request.algorithms}
    found: dict[str, dict[str, str]] = {name: {} for name in request.algorithms}
    for word in request.assignments:
        left, equals, value = word.partition("=")
        algorithm, dot, field = left.rpartition(".")
        if not equals or not field or not value:
            raise InputError(f"--set {word!r}: write ALGORITHM.NAME=VALUE, or NAME=VALUE for all that have it")
        if dot and algorithm not in fields:
            raise errors.unknown("algorithm of --set in this comparison", algorithm, fields)
        concerned = [algorithm] if dot else [name for name in fields if field in fields[name]]
        if not concerned or (dot and field not in fields[algorithm]):
            known = fields[algorithm] if dot else set().union(*fields.values())
            raise errors.unknown("hyper-parameter", field, known)
        for name in concerned:
            if not dot and field in found[name]:
                continue  # what is said of one algorithm goes over what is said of all
            found[name][field] = value
    return found


def _entrant(name: str, request: Request, assigned: dict[str, str]) -> Entrant:
    """Preset or defaults, then --set, then the options for all."""
    wanted = request.preset
    if wanted not in ("auto", "none") and wanted not in preset_names(name):
        wanted = "none"
    recipe = find_recipe(name, request.source, wanted)
    values: dict[str, Any] = recipe.hyperparameters | assigned
    *earlier, _ = ALGORITHMS[name]().phases()
    if request.pretrain_updates is not None:
        values |= {f"{phase.name}_updates": request.pretrain_updates for phase in earlier}
    algorithm = make_algorithm(name, values | {"train_updates": request.updates})
    batch_size = recipe.options.get("batch_size", 256) if request.batch_size is None else request.batch_size
    transforms = {"reward_transform": request.reward_transform, "observation_transform": request.observation_transform}
    chosen = {key: recipe.options.get(key, "none") if asked is None else asked for key, asked in transforms.items()}
    chosen["data_filter"] = recipe.options.get("data_filter", "none")
    return Entrant(recipe.preset, assigned, hyperparameters_of(algorithm), batch_size, **chosen)


def _joined(found: Comparison, asked: Comparison) -> Comparison:
    """`found`, with the algorithms of `asked` that it lacks. Raises InputError where they are not the same."""
    _refuse_difference(found.folder, "", found.protocol, asked.protocol)
    for name in asked.entrants.keys() & found.entrants.keys():
        _refuse_difference(found.folder, f"{name}: ", found.entrants[name], asked.entrants[name])
    commands = dict.fromkeys([*found.command.splitlines(), asked.command])  # one for each time something was added
    return dataclasses.replace(found, entrants=found.entrants | asked.entrants, command="\n".join(commands))


def _refuse_difference(folder: Path, who: str, found: Any, asked: Any) -> None:
    before, now = (_flat(json.loads(json.dumps(dataclasses.asdict(side)))) for side in (found, asked))
    for name in before.keys() | now.keys():
        moved = name in ("source", "relative_source")  # the same file may be found by another path
        if not moved and before.get(name) != now.get(name):
            raise InputError(
                f"{folder}: holds a comparison with {who}{name} {before.get(name)}, not {now.get(name)}; "
                "name another folder with --out"
            )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters beside the rest, so that a difference can be named."""
    inner = values.get("hyperparameters", {})
    return {key: value for key, value in values.items() if key not in ("hyperparameters", "assigned")} | inner


# --- training -----------------------------------------------------------------------------------------------


def _train_all(comparison: Comparison, data: Dataset, cost: str, quiet: bool) -> Comparison:
    """Train what is not finished, one algorithm after the other; table and picture are written between them."""
    display = Display(quiet)
    for index, name in enumerate(comparison.entrants, 1):
        comparison.errors.pop(name, None)
        display.message(f"[{index}/{len(comparison.entrants)}] {name}: {_announcement(comparison, name)}")
        try:
            _note_cost(comparison, name, display)
            if not _finished(comparison.folder / name):
                _write(comparison, cost)
                _train_one(comparison, name, data, quiet)
            _check_run(comparison, name, data)
        except Interrupted as stop:
            _write(comparison, cost)
            raise Stopped(stop.signal_number, comparison.folder) from None
        except Exception as error:
            comparison.errors[name] = _failure(comparison.folder, name, error)
            display.warn(f"{name} failed: {comparison.errors[name]}; the others go on")
        jax.clear_caches()  # the next algorithm has no use for this one's programs, which take memory
    if not comparison.scored:
        _choose(comparison, data, display, quiet)
    _write(comparison, cost)
    return comparison


def _choose(comparison: Comparison, data: Dataset, display: Display, quiet: bool) -> None:
    """Rank the seeds of all algorithms by what the data say of them, into choice.json; what was ranked is kept."""
    runs = [name for name in comparison.entrants if name not in comparison.errors]
    runs = [name for name in runs if (comparison.folder / name / "policy" / "policy.json").exists()]
    if comparison.choice is not None and {Path(row["folder"]).name for row in comparison.choice["rows"]} == set(runs):
        return
    try:
        choice = choose([comparison.folder / name for name in runs], data, rows=CHOOSE_ROWS, quiet=quiet)
    except InputError as error:  # data without rewards
        display.warn(f"not ranked: {error}")
        return
    comparison.choice = json.loads(to_json(choice.to_json()))
    atomic_write_json(comparison.folder / CHOICE, comparison.choice)


def _finished(run: Path) -> bool:
    """Whether a run folder holds all that a run leaves; after a kill between result and policy, `resume` is needed."""
    try:
        status = parse_json(read_bytes(run / "result.json"))["status"]
    except (OSError, ValueError, KeyError):
        return False
    return status == "diverged" or (run / "policy" / "policy.json").exists()


def _train_one(comparison: Comparison, name: str, data: Dataset, quiet: bool) -> None:
    note_next_run()
    run = comparison.folder / name
    if (run / "config.json").exists():
        _check_run(comparison, name, data)
        resume(run, dataset=data, quiet=quiet)
        return
    entrant, protocol = comparison.entrants[name], comparison.protocol
    train(
        comparison.algorithm(name),
        data,
        seeds=protocol.seeds,
        options=comparison.options(name),
        reward_transform=entrant.reward_transform,
        observation_transform=entrant.observation_transform,
        data_filter=entrant.data_filter,
        framing=protocol.framing,
        environment=protocol.environment,
        horizon=protocol.horizon,
        out=run,
        quiet=quiet,
        notes={"command": comparison.command, "preset": entrant.preset},
    )


def _check_run(comparison: Comparison, name: str, data: Dataset) -> None:
    """Refuse a run folder that is not of this comparison, such as one that was copied into it."""
    path, entrant, protocol = comparison.folder / name / "config.json", comparison.entrants[name], comparison.protocol
    try:
        config = parse_json(read_bytes(path))
        found = {
            "algorithm": config["algorithm"],
            "data": config["data"]["sha256"],
            "seeds": [lane["seed"] for lane in config["lanes"]],
            "environment": config["environment"],
            "settings": dataclasses.asdict(Options(**config["settings"])),
            "hyper-parameters": {
                key: without_range(value) if isinstance(value, str) else value  # a run's data say where bins lie
                for key, value in config["hyperparameters"].items()
            },
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: truncated or altered: {type(error).__name__} {error}") from None
    record = as_document(path, config["data"], DataRecord)  # which knows what older runs do not say
    found |= {
        "horizon": _horizon(data, protocol.environment, config.get("horizon")),
        "reward transform": record.reward_transform.name,
        "observation transform": record.observation_transform.name,
        "data filter": record.filter.name,
        "hold-out": record.holdout.name,
        "framing": dataclasses.asdict(record.framing),
        "reading of the actions": record.continuous,
    }
    wanted = {
        "algorithm": name,
        "data": protocol.sha256,
        "seeds": protocol.seeds,
        "environment": protocol.environment,
        "settings": dataclasses.asdict(comparison.options(name)),
        "hyper-parameters": entrant.hyperparameters,
        "horizon": _horizon(data, protocol.environment, protocol.horizon),
        "reward transform": entrant.reward_transform,
        "observation transform": entrant.observation_transform,
        "data filter": entrant.data_filter,
        "hold-out": NO_HOLDOUT,
        "framing": dataclasses.asdict(view_of(comparison.algorithm(name), protocol.framing).framing),
        "reading of the actions": protocol.continuous,
    }
    for what, value in json.loads(json.dumps(wanted)).items():
        if found[what] != value:
            raise InputError(f"{path.parent}: a run with other {what} than this comparison's; move it away")


def _horizon(data: Dataset, environment: str, said: int | None) -> int | None:
    """Where episodes are cut; `said` is None where that is the environment's own."""
    if said is not None or environment == NO_ENVIRONMENT:
        return said
    task = known_task(data, environment)
    return None if task is None else task.horizon


def _note_cost(comparison: Comparison, name: str, display: Display) -> None:
    """Measure what the algorithm costs; where that fails its row goes without, as training is what was asked for."""
    if name in comparison.costs:
        return
    try:
        comparison.costs[name] = _measure(comparison, name)
    except Exception as error:
        display.warn(f"{name}: its cost is not measured: {_failure(comparison.folder, name, error)}")


def _measure(comparison: Comparison, name: str) -> Cost:
    """Matmuls of an update and latency of an action, with the settings of this comparison."""
    algorithm, protocol = with_value_range(comparison.algorithm(name)), comparison.protocol
    spec = protocol.framing.decision(Spec(protocol.observation_size, protocol.action_size))
    batch_size = comparison.entrants[name].batch_size
    phases = enumerate(algorithm.phases())
    gflop = {phase.name: update_flops(algorithm, index, spec, batch_size) / 1e9 for index, phase in phases}
    return Cost(gflop, float(np.median(act_latency(algorithm, spec)[0])))


def _failure(folder: Path, name: str, error: Exception) -> str:
    """One line; of a bug the traceback is kept beside the run."""
    line = " ".join(str(error).split())
    line = line if len(line) <= 300 else f"{line[:300]}..."
    if isinstance(error, InputError):
        return line
    path = folder / f"{name}-error.txt"
    atomic_write_text(path, "".join(traceback.format_exception(error)))
    return f"{type(error).__name__}: {line} ({path.name})"


def _announcement(comparison: Comparison, name: str) -> str:
    """Where its settings come from and how long it trains."""
    if _finished(comparison.folder / name):
        return "finished, kept"
    phases = [f"{phase.name} {phase.updates:,}" for phase in comparison.algorithm(name).phases()]
    going = "goes on; " if (comparison.folder / name / "config.json").exists() else ""
    return f"{going}{comparison.entrants[name].where_from}; updates: {', '.join(phases)}"


# --- on disk ------------------------------------------------------------------------------------------------


def _write(comparison: Comparison, cost: str) -> None:
    """comparison.json, comparison.md and, where anything was scored, comparison.png."""
    rows = comparison.rows()
    document = {
        "format_version": FORMAT,
        "command": comparison.command,
        "protocol": dataclasses.asdict(comparison.protocol),
        "entrants": {name: dataclasses.asdict(entrant) for name, entrant in comparison.entrants.items()},
        "behaviour": dataclasses.asdict(comparison.behaviour) if comparison.behaviour else None,
        "costs": {name: dataclasses.asdict(cost) for name, cost in comparison.costs.items()},
        "errors": comparison.errors,
        "rows": [dataclasses.asdict(row) for row in tables.best_first(rows)],
        "versions": versions(),
        "commit": commit(),
        "device": str(jax.devices()[0].device_kind),
    }
    atomic_write_json(comparison.folder / "comparison.json", document)
    _write_table(comparison, rows, cost)


def _write_table(comparison: Comparison, rows: list[Row], cost: str) -> None:
    """comparison.png, where anything was scored, and comparison.md."""
    points, protocol = tables.points(rows, cost), comparison.protocol
    if points:
        seeds = f"{len(protocol.seeds)} seed{'s' if len(protocol.seeds) > 1 else ''}"
        hollow = "" if all(point.finished for point in points) else "; hollow: not finished"
        plot_tradeoff(
            comparison.folder / "comparison.png",
            points,
            comparison.behaviour.iqm if comparison.behaviour else None,
            cost_label={
                "compute": "arithmetic to train one seed, all phases (TFLOP: 10¹² operations of its matrix products)",
                "time": "time to compile, train and evaluate all seeds (seconds)",
            }[cost],
            score_name=protocol.score_name,
            title=f"{protocol.dataset}: {protocol.updates:,} updates",
            caption=f"point: interquartile mean of {seeds} x {protocol.eval_episodes} episodes at the last evaluation; "
            f"bar: its 95 % bootstrap interval{hollow}\n"
            "dashed: interquartile mean of the data's episodes; colour: family of the algorithm",
            families=tuple(FAMILIES),
        )
    atomic_write_text(comparison.folder / "comparison.md", _markdown(comparison, rows, bool(points)))


def _load(folder: Path) -> Comparison:
    """The comparison in `folder`. Raises: InputError where there is none."""
    path = folder / "comparison.json"
    if not path.exists():
        raise InputError(f"{folder}: not a comparison: {path.name}: No such file or directory")
    document = read_json(path)
    try:
        if document["format_version"] != FORMAT:
            raise InputError(f"{path}: format {document['format_version']}; this version of tether reads {FORMAT}")
        behaviour = document["behaviour"]
        return Comparison(
            folder=folder,
            protocol=as_document(path, document["protocol"], Protocol),
            entrants=as_document(path, document["entrants"], dict[str, Entrant]),
            behaviour=None if behaviour is None else Summary(**behaviour),
            command=document["command"],
            costs=as_document(path, document["costs"], dict[str, Cost]),
            errors=document["errors"],
            choice=_stored_choice(folder),
        )
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: truncated or altered: {type(error).__name__} {error}") from None


def _stored_choice(folder: Path) -> dict[str, Any] | None:
    """What an earlier call has chosen. Raises: InputError where it is altered."""
    path = folder / CHOICE
    if not path.exists():
        return None
    choice = read_json(path)
    try:
        texts = [choice["reason"], *(row["folder"] for row in choice["rows"])]
        numbers = [row[name] for row in choice["rows"] for name in ("value", "low", "high")]
        right = all(isinstance(text, str) for text in [*texts, choice["recommended"] or ""])
        if not right or not all(number is None or isinstance(number, int | float) for number in numbers):
            raise TypeError("texts and numbers are needed")
        all(row["refused"] for row in choice["rows"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: truncated or altered: {type(error).__name__} {error}") from None
    return choice


def _title(comparison: Comparison) -> str:
    protocol = comparison.protocol
    seeds = f"{len(protocol.seeds)} seed{'s' if len(protocol.seeds) > 1 else ''}"
    return f"{protocol.dataset}: {protocol.updates:,} updates, {seeds}"


def _markdown(comparison: Comparison, rows: list[Row], picture: bool) -> str:
    """comparison.md."""
    protocol, scored = comparison.protocol, comparison.scored
    lines = [tables.cells(row, scored) for row in tables.best_first(rows)]
    if comparison.behaviour and scored:
        lines = [tables.behaviour_cells(comparison.behaviour), *lines]
    task = find_task(protocol.environment)
    place = task.evaluated_in if task else protocol.environment
    judged = (
        f"Evaluated in {place} every {protocol.eval_every_updates:,} updates: {protocol.eval_episodes} episodes of "
        "each seed, from the same starts for all."
        if scored
        else f"No environment is known for {protocol.dataset}: "
        + ("these are training losses only." if comparison.choice is None else "values are estimated from the data.")
    )
    parts = [
        f"# {_title(comparison)}",
        f"Data: `{protocol.source}` (SHA-256 {protocol.sha256[:12]}). Seeds: {', '.join(map(str, protocol.seeds))}. "
        + judged,
        markdown_table(tables.columns(scored), lines),
        "\n".join(f"- {line}" for line in tables.legend(scored, comparison.protocol.score_name)),
        *(["![Score against the cost of training](comparison.png)"] if picture else []),
        f"```\n{comparison.command}\n```",
    ]
    return "\n\n".join(parts) + "\n"
