"""What Python code calls: `train`, `finetune`, `resume`, `evaluate`. The command line calls these, too."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from tether.algorithms.callables import values_beyond_bins
from tether.algorithms.interface import Algorithm
from tether.algorithms.registry import ALGORITHMS, change_acting, name_of
from tether.bench.forecast import long_run_warning
from tether.data import ONE_STEP, Dataset, Downloads, Framing, load_dataset, view_of
from tether.data.scale import unscaled
from tether.environments.choose import task_for
from tether.environments.ids import import_environment
from tether.errors import InputError, shortened, unknown
from tether.evaluation.rollout import Episodes
from tether.evaluation.video import check_video, prepare_rendering
from tether.export.folder import CHECKED_DECISIONS, DType, Exported, Format, write_export
from tether.machine.deprecation import renamed_keywords
from tether.machine.files import atomic_write_json
from tether.machine.keywords import explain_function
from tether.machine.reading import read_json
from tether.machine.signals import StopSignals
from tether.policies.folder import load_policy
from tether.policies.loaded import LoadedPolicy
from tether.ranges import at_least, check_value
from tether.runs.callbacks import Callback, check_callbacks
from tether.runs.config import (
    check_counts,
    check_framing,
    check_rewards,
    config_of,
    fresh_folder,
    make_plan,
    note_data,
    note_environment,
    note_length,
    prepare_training,
    restored_plan,
    with_device_here,
)
from tether.runs.exported import rollout_exported
from tether.runs.film import film
from tether.runs.finetuning import make_run
from tether.runs.folder import changed_versions, new_folder, open_folder
from tether.runs.loggers import find_loggers, make_loggers
from tether.runs.parent import FinetuneRequest, plan_finetuning
from tether.runs.plan import Options, Plan
from tether.runs.policies import save_lane_policy
from tether.runs.records import Display
from tether.runs.repair import repair_logs
from tether.runs.report import Report, summarise, write_report
from tether.runs.run import Run
from tether.training.devices import is_primary, together
from tether.training.lanes import Lane, make_lanes

__all__ = ["evaluate", "export_policy", "finetune", "resume", "train"]

SEEDS_END = 2**31


@renamed_keywords("0.3", settings="options")
@explain_function
def train(
    algorithm: Algorithm,
    dataset: str | Path | Dataset,
    *,
    seeds: int | Sequence[int] = 1,
    sweep: Mapping[str, Sequence[float]] | None = None,
    options: Options | None = None,
    reward_transform: str = "none",
    observation_transform: str = "none",
    data_filter: str = "none",
    holdout: str | float = "none",
    continuous: bool = False,
    framing: Framing = ONE_STEP,
    environment: str | None = None,
    horizon: int | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    notes: Mapping[str, Any] | None = None,
    lanes: Sequence[Lane] | None = None,
    callbacks: Sequence[Callback] = (),
    logger: str | Sequence[str] = (),
) -> Report:
    """Train `algorithm`, such as `DTQL(expectile=0.9)`, on `dataset` and leave a run folder.

    dataset: a `Dataset`, or a source such as a bundled name or a path (`tether.load_dataset`).
    seeds: how many lanes, or the seeds. sweep: numeric hyper-parameter -> values; lanes are the product with the seeds.
    data_filter: which episodes to train on, such as "top=0.1" (`tether.data.filters`).
    holdout: episodes not to train on: a fraction such as 0.1, or "mask=NAME"; losses on them are "validation/NAME".
    continuous: as of `tether.load_dataset`, of a source.
    framing: what one decision sees and gives, such as `Framing(chunk=5)` or `Framing(history=4)` (docs/framing.md).
    environment: task (`tether tasks`) or gymnasium id to evaluate in, or "none"; by default what the data say.
    horizon: steps after which evaluated episodes are cut; needed for an environment without a time limit.
    out: the run folder; must not exist, or be empty. Default `runs/<algorithm>-<dataset>-<time>`.
    quiet: no progress on stderr. notes: for readers of config.json.
    lanes: in the place of `seeds` and `sweep`.
    callbacks: hear of the run while it trains, and may end it, such as `EarlyStopping()` (docs/callbacks.md).
    logger: one name or several of tensorboard, wandb, mlflow, trackio, and loggers of your own.
    Raises InputError for bad input, before anything is written; Interrupted (a KeyboardInterrupt) after Ctrl-C, SIGTERM
    or SIGHUP; Busy where another process writes there; CheckpointError or OSError where the disk fails.
    """
    options, loggers, callbacks = _options(options), find_loggers(logger), check_callbacks(callbacks)
    _check_algorithm(algorithm)
    name = name_of(algorithm)
    check_counts(algorithm, options)
    lanes = _lanes(algorithm, seeds, sweep, lanes, framing)
    data = _loaded(dataset, quiet, continuous)
    import_environment(environment)
    place = task_for(data, environment, horizon)
    check_callbacks(callbacks, evaluated=place.task is not None)
    how: dict[str, Any] = {"reward_transform": reward_transform, "observation_transform": observation_transform}
    how |= {"data_filter": data_filter, "holdout": str(holdout), "view": view_of(algorithm, framing)}
    beyond = values_beyond_bins(algorithm)
    algorithm, prepared = prepare_training(algorithm, lanes, data, options, how)
    folder = _folder(out, f"{name}-{data.name}")
    learns = view_of(algorithm).name != "trajectories" and any(phase.reads_rewards for phase in algorithm.phases())
    warnings = [place.note, *unscaled(data, reward_transform, observation_transform, rewards=learns), *beyond]
    plan = make_plan(folder, name, algorithm, lanes, options, data, prepared, place.task, place.limits)
    del data, prepared, dataset  # only what the plan keeps of them is needed: unless the caller holds them, freed
    with new_folder(folder, config_of(plan) | {"notes": dict(notes or {})}, fresh=out is None) as made:
        plan = dataclasses.replace(plan, folder=made)
        return _finish(plan, quiet, callbacks, loggers, why_not=place.why_not, warnings=warnings)


@explain_function
def resume(
    folder: str | Path,
    *,
    dataset: str | Path | Dataset | None = None,
    algorithm: Algorithm | type | None = None,
    quiet: bool = False,
    environment: str | None = None,
    horizon: int | None = None,
    eval_workers: int | None = None,
    updates: int | None = None,
    callbacks: Sequence[Callback] = (),
    logger: str | Sequence[str] | None = None,
    repair: bool = False,
) -> Report:
    """Continue the run in `folder` from its newest valid checkpoint, exactly as if it had not stopped.

    A run that is complete is only reported again; one that a callback has ended trains on to its whole length.
    dataset: the data that it trained on, where they were in memory or lie elsewhere now; with the same SHA-256.
    algorithm: its class, or an instance, where that is not registered here.
    environment: task or gymnasium id to evaluate in from here on, where the run has none; from now on the run's. Of
        a run that is evaluated already it must be the same, and imports the module of `module:id`.
    horizon: with `environment`, steps after which evaluated episodes are cut.
    eval_workers: processes that play evaluations, where not as the run began (another machine, say).
    updates: another length of the training phase, from now on the run's: to train on after the end, or to end early
        and have the policies. A rate that decays over the phase then decays over the new length.
    callbacks: as of `train`; those that the run had before are not stored in it.
    logger: as of `train`; None: those that the run has had, with which it goes on.
    repair: leave damaged lines out of metrics.jsonl and evaluations.jsonl, which without this are refused; the damaged
        files stay under another name, and what is missing is said.
    Raises InputError where the folder is no run, the data set is not the one it trained on, a log is not what it was
    at the checkpoint or so many updates are done already, CheckpointError where all checkpoints are damaged, otherwise
    as `train`.
    """
    import_environment(environment)
    if horizon is not None and environment is None:
        raise InputError(f"horizon {horizon}: name the environment that a run without one is evaluated in, too")
    loggers = None if logger is None else find_loggers(logger)
    callbacks = check_callbacks(callbacks)
    with open_folder(Path(folder)):
        plan = before = restored_plan(Path(folder), quiet, algorithm, dataset, environment, horizon)
        if updates is not None:
            plan = dataclasses.replace(plan, algorithm=dataclasses.replace(plan.algorithm, train_updates=updates))
        check_callbacks(callbacks, evaluated=plan.task is not None)
        if eval_workers is not None:
            plan = dataclasses.replace(plan, options=dataclasses.replace(plan.options, eval_workers=eval_workers))
        plan, warning = with_device_here(plan)
        check_counts(plan.algorithm, plan.options)
        if updates is not None:
            prepared = plan.prepared
            check_rewards(plan.algorithm_name, plan.algorithm, prepared.record["source"], prepared.no_rewards)
        new_length = plan.phases() != before.phases()
        how: dict[str, Any] = {"new_length": new_length, "repair": repair, "warnings": [warning]}
        return _finish(plan, quiet, callbacks, loggers, resumed=True, **how)


@explain_function
def finetune(
    run: str | Path,
    *,
    env_steps: int,
    online_fraction: float = 0.5,
    warmup_env_steps: int = 0,
    updates_per_step: int = 1,
    exploration_noise: float | None = None,
    replay_capacity: int | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    eval_every_env_steps: int | None = None,
    eval_episodes: int | None = None,
    dataset: str | Path | Dataset | None = None,
    algorithm: Algorithm | type | None = None,
    environment: str | None = None,
    horizon: int | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    notes: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    logger: str | Sequence[str] = (),
) -> Report:
    """Go on training the policies of `run` in their environment (docs/finetune.md) and leave another run folder.

    env_steps: of each lane's environment; 0 only evaluates.
    online_fraction: which part of each minibatch is drawn from what the lane has collected, the rest from the data;
        0.5 is symmetric sampling, 1 leaves the data out.
    warmup_env_steps: of these, so many are collected before the first update.
    updates_per_step: updates for each step after that.
    exploration_noise: standard deviation of Gaussian noise on actions in [-1, 1]. None: the policy's own randomness,
        0.1 where it has none.
    replay_capacity: rows that are kept of each lane, the newest; None: all.
    hyperparameters: those that are not as in the run, such as {"expectile": 0.9}; acting ones, too.
    batch_size, eval_episodes: where they are not as in the run.
    eval_every_env_steps: None: a tenth of the steps that are trained on. The run's own policy is evaluated first.
    dataset, algorithm, environment, horizon: as of `resume`. quiet, notes, callbacks, logger: as of `train`.
    out: the new run folder; must not exist, or be empty. Default `runs/finetune-<algorithm>-<dataset>-<time>`.
    Raises InputError where the run has no environment, no checkpoint of its last phase or an algorithm that nothing can
    be added to, otherwise as `train`.
    """
    loggers, callbacks = find_loggers(logger), check_callbacks(callbacks)
    request = FinetuneRequest(
        env_steps=env_steps,
        online_fraction=online_fraction,
        warmup_env_steps=warmup_env_steps,
        updates_per_step=updates_per_step,
        exploration_noise=exploration_noise,
        replay_capacity=replay_capacity,
        hyperparameters=hyperparameters or {},
        batch_size=batch_size,
        eval_every_env_steps=eval_every_env_steps,
        eval_episodes=eval_episodes,
        environment=environment,
        horizon=horizon,
    )
    plan = plan_finetuning(Path(run), request, out, quiet, dataset, algorithm)
    with new_folder(plan.folder, config_of(plan) | {"notes": dict(notes or {})}, fresh=out is None) as made:
        return _finish(dataclasses.replace(plan, folder=made), quiet, callbacks, loggers)


def _lanes(algorithm: Any, seeds: Any, sweep: Any, lanes: Sequence[Lane] | None, framing: Framing) -> Sequence[Lane]:
    """The lanes that are given, or the product of seeds and swept values. Raises InputError."""
    if lanes is None:
        lanes = make_lanes(algorithm, _seeds(seeds), {} if sweep is None else sweep)
    _check_seeds(lanes)
    check_framing(framing, lanes)
    return lanes


def _folder(out: str | Path | None, stem: str) -> Path:
    """`out`, or a fresh one."""
    if out is None and jax.process_count() > 1:
        raise InputError("several processes train this run together: name its folder with --out")
    return Path(out) if out is not None else fresh_folder(stem)


def _options(options: Any) -> Options:
    """The options, or those by default. Raises InputError for anything else."""
    if options is not None and not isinstance(options, Options):
        raise InputError(f"options {shortened(repr(options))}: give tether.Options(batch_size=256, ...)")
    return options or Options()


def _loaded(dataset: Any, quiet: bool, continuous: bool) -> Dataset:
    """The data set, or that of a source. Raises InputError for anything else."""
    if isinstance(dataset, str | Path):
        return load_dataset(dataset, downloads=Downloads(quiet=quiet), continuous=continuous)
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"dataset is a {type(dataset).__name__}: give a tether.Dataset (Dataset.from_arrays, from_episodes, "
            "from_frame), or a source, such as a path or a bundled name"
        )
    return dataset


def _seeds(seeds: Any) -> list[int]:
    """0, 1, ... of a number of lanes, or the seeds themselves. Raises InputError for what is not whole."""
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        return list(range(int(seeds)))
    given = list(seeds) if isinstance(seeds, Sequence | np.ndarray | range) else [seeds]
    if isinstance(seeds, str | bool | float) or not all(isinstance(seed, int | np.integer) for seed in given):
        raise InputError(f"seeds {shortened(repr(seeds))}: needs a whole number of lanes, or a list of whole seeds")
    return [int(seed) for seed in given]


def _check_seeds(lanes: Sequence[Lane]) -> None:
    if not all(0 <= lane.seed < SEEDS_END for lane in lanes):
        raise InputError(f"seeds {[lane.seed for lane in lanes]}: each must be from 0 to {SEEDS_END - 1}")


def _check_algorithm(algorithm: Any) -> None:
    """Refuse names, classes and what is no algorithm."""
    if isinstance(algorithm, str | type):
        found = algorithm if isinstance(algorithm, str) else algorithm.__name__
        cls = ALGORITHMS.get(found.lower(), algorithm) if isinstance(algorithm, str) else algorithm
        example = f"{cls.__name__}()" if isinstance(cls, type) else "tether.DTQL()"
        raise InputError(f"algorithm {found!r}: give an instance, such as {example}; presets: tether.find_preset")
    if missing := [name for name in ("init", "phases", "policy") if not callable(getattr(algorithm, name, None))]:
        raise InputError(f"algorithm {type(algorithm).__name__}: has no {', '.join(missing)}; see tether.Phase")


@renamed_keywords("0.3", settings="acting")
@explain_function
def evaluate(
    folder: str | Path,
    *,
    dataset: str | Path | Dataset | None = None,
    algorithm: Algorithm | type | None = None,
    episodes: int = 10,
    quiet: bool = False,
    acting: Mapping[str, Any] | None = None,
    runtime: Literal["jax"] | Format = "jax",
    video: str | Path | None = None,
) -> tuple[Episodes, np.ndarray]:
    """Play episodes with all lanes of a run's newest checkpoint -> (outcomes, scores (lanes, episodes)).

    dataset, algorithm: as of `resume`.
    acting: how the policies shall act, such as {"candidates": 64}, where that is not as they were trained.
    runtime: "onnx", "numpy" or "stablehlo": what is exported plays, from the same starts with the same noise.
    video: a file, such as "out.mp4", for a film of the best lane's first episode; a sheet of pictures lies beside it.
    Lanes that have diverged hold NaN. Also writes `evaluate-<update>-<episodes>.json` in the run folder, with the
    acting options and the runtime in its name where there are any; a warning says where it cannot be written.
    Raises InputError where the folder is no run, has no checkpoint or environment, all its lanes have diverged, or an
    option is one that training depends on; CheckpointError where all checkpoints are damaged.
    """
    check_value("episodes", episodes, at_least(1, whole=True))
    if runtime not in (choices := ("jax", *get_args(Format))):
        raise unknown("runtime", runtime, choices)
    if video is not None:
        check_video(Path(video))
        prepare_rendering()
    plan = _acting_with(restored_plan(Path(folder), quiet, algorithm, dataset), acting or {})
    if plan.task is None:
        raise InputError(f"{folder}: its config.json names no environment, so nothing can be evaluated")
    with Display(quiet) as display:
        run = make_run(plan, display)
        if not run.restore():
            raise InputError(f"{folder}: holds no checkpoint yet; train on with: tether resume {folder}")
        if not run.alive.any():
            raise InputError(f"{folder}: every lane diverged; there is no policy to evaluate")
        display.begin("evaluate", 0, plan.task.horizon or 1, "steps")
        if runtime == "jax":
            played = run.rollout(episodes, lambda step, horizon: display.advance(step))
        else:
            played = rollout_exported(run, runtime, episodes, lambda step, horizon: display.advance(step))
    alive = run.alive[:, None]
    outcome = Episodes(np.where(alive, played.returns, np.nan), np.where(alive, played.lengths, 0))
    scores = plan.task.score(outcome.returns)
    rows = {
        "update": run.updates,
        "task": plan.task.name,
        "returns": outcome.returns,
        "lengths": outcome.lengths,
        "normalized_scores": scores if plan.task.has_references else None,
        "settings": dict(acting or {}),
        "runtime": runtime,
    }
    changed = "".join(f"-{name}={value}" for name, value in (acting or {}).items())
    changed += "" if runtime == "jax" else f"-{runtime}"
    path = plan.folder / f"evaluate-{run.updates}-{episodes}{changed}.json"
    try:
        atomic_write_json(path, rows)
    except OSError as error:  # somebody else's run: what was played is worth more than the file
        with Display(quiet) as display:
            display.warn(f"{path}: not written: {error.strerror or error}")
    if video is not None:
        with Display(quiet) as display:
            film(run, int(np.nanargmax(outcome.returns.mean(axis=1))), Path(video), display)
    return outcome, scores


@explain_function
def export_policy(
    policy: str | Path | LoadedPolicy,
    out: str | Path,
    *,
    format: Format = "onnx",
    dtype: DType = "float32",
    candidates: Sequence[int] = (),
    units: Mapping[str, str] | None = None,
    noise: bool = False,
    check_decisions: int = CHECKED_DECISIONS,
) -> Exported:
    """Write a policy for a runtime without JAX into the folder `out` (docs/export.md).

    policy: a policy folder, a run that has one, or a policy that is loaded.
    format: "onnx" (ONNX Runtime), "numpy" (NumPy alone) or "stablehlo".
    dtype: "float16": networks in half precision; of "onnx" only.
    candidates: a graph for each number of them, the first by default; none: as the policy has it.
    units: column -> unit, kept for readers.
    noise: a Gaussian actor acts with its noise and says how likely each action was, in the place of its mode.
    check_decisions: so many are compared with JAX before anything is written.
    Raises InputError where the policy does not load, cannot be exported so, a package is missing, or what was exported
    does not act as JAX does.
    """
    loaded = policy if isinstance(policy, LoadedPolicy) else load_policy(policy)
    how = {"format": format, "dtype": dtype, "candidates": candidates, "units": units, "noise": noise}
    return write_export(loaded, out, **how, rows=check_decisions)


def _acting_with(plan: Plan, acting: Mapping[str, Any]) -> Plan:
    """The plan with policies that act otherwise."""
    acting = dict(acting)
    if "execute" in acting:
        framing = plan.prepared.framing.executing(acting.pop("execute"))
        plan = dataclasses.replace(plan, prepared=plan.prepared._replace(framing=framing))
    algorithm = change_acting(plan.algorithm, acting)
    for name in acting:
        if name in plan.lanes[0].swept:
            raise InputError(f"{name!r} was swept over lanes: it cannot be changed for all of them")
    return dataclasses.replace(plan, algorithm=algorithm)


def _finish(
    plan: Plan,
    quiet: bool,
    callbacks: Sequence[Callback],
    loggers: Sequence[str] | None,
    resumed: bool = False,
    new_length: bool = False,
    repair: bool = False,
    why_not: str = "config.json names no environment",
    warnings: Sequence[str] = (),
) -> Report:
    """Train to the end, then write policies, result and picture.

    loggers: names; None: those that the run has had.
    new_length: the training phase has another one than config.json says.
    repair: as of `resume`.
    why_not: why nothing is evaluated, where it is not. warnings: lines, empty ones among them.
    """
    with Display(quiet, silent=not is_primary()) as display, StopSignals() as stop:
        lanes, rows = len(plan.lanes), plan.prepared.transitions.rows
        what = f"{plan.algorithm_name} on {plan.prepared.record['dataset']}: {rows:,} transitions"
        display.message(f"{what}, {lanes} lane{'s' if lanes > 1 else ''}, in {plan.folder}")
        for note in plan.prepared.record.get("notes", ()):
            display.message(f"data: {note}")
        if plan.task is None:
            display.message(f"training without evaluation: {why_not}")
        for warning in filter(None, warnings):
            display.warn(warning)
        run = make_run(plan, display, stop, [*callbacks, *make_loggers(plan.folder, loggers, display.warn)])
        if resumed:
            if changed := changed_versions(plan.folder):
                display.warn(changed)
            if not run.restore():
                display.message("no checkpoint was written yet: starting over")
            if repair:
                for line in repair_logs(run):
                    display.warn(line)
            run.check_logs()
            together("checked the logs")  # nobody reads what the first is about to cut
            if new_length:
                note_length(run)
            note_environment(plan)
            if moved := note_data(plan):
                display.message(f"data: at {moved} now")
            run.drop_later_rows()
            if run.is_complete:
                display.message(f"complete at update {run.updates:,}: shown again; a higher --updates trains on")
            if run.primary and not run.is_complete:  # until it has another result, nobody may take it for finished
                (plan.folder / "result.json").unlink(missing_ok=True)
        elif plan.finetuning is None:
            how_much = plan.algorithm, plan.prepared.spec, plan.options.batch_size, lanes
            if slow := long_run_warning(*how_much):
                display.warn(slow)
        with run.callbacks:
            run.execute()
            together("trained")
            report = summarise(run)
            _save_policies(run, report)
            if run.primary:
                write_report(run, report)
            together("finished")
            if run.primary:
                run.callbacks.end(report.status, read_json(plan.folder / "result.json"))
    return report


def _save_policies(run: Run, report: Report) -> None:
    """`policy/` holds the lane with the best last score (the first lane where nothing was evaluated); with
    several lanes each one that did not diverge also has its own `policies/lane-<n>/`."""
    plan = run.plan
    folders = {} if report.best_lane is None else {plan.folder / "policy": report.best_lane}
    if len(plan.lanes) > 1:
        folders |= {plan.folder / "policies" / f"lane-{lane}": lane for lane in np.flatnonzero(run.alive).tolist()}
    known = [plan.folder / "policy", *(plan.folder / "policies" / f"lane-{lane}" for lane in run.frozen)]
    for folder in known:
        if run.primary and folder not in folders and folder.exists():
            run.display.warn(f"{folder}: still the policy of the shorter run, from before it diverged")
    for folder, lane in folders.items():
        policy = run.policy(lane)
        if run.primary:
            save_lane_policy(
                plan, folder, policy, lane, run.display, update=run.updates, score=report.lane_scores.get(lane)
            )


# --- plans and config.json ----------------------------------------------------------------------------------
