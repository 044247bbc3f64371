"""The `tether` command. Each subcommand is a dataclass: its docstring is the help, its fields are the options, its
`run` is the work.

Exit codes: 0 done; 1 a fault, or a run in which a lane diverged; 2 wrong usage or bad input, one line on stderr;
130 stopped by Ctrl-C (143 by SIGTERM), while training after writing a checkpoint. Results go to stdout, progress and
errors to stderr. JAX is imported by the subcommands that need it, not for `--help`.
"""

import dataclasses
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg, subcommand

from tether.cli.bench import Bench
from tether.cli.compare import Compare
from tether.cli.data import DATA_VERBS, DEFAULT_DATASET
from tether.cli.parts import Precision
from tether.cli.parts import assignments as _assignments
from tether.cli.parts import hint as _default
from tether.cli.parts import print_out as _print
from tether.cli.sweep import Sweep
from tether.errors import InputError, unknown

DEFAULT_ALGORITHM = "dtql"

Folder = Annotated[Positional[Path], arg(metavar="DIR")]
Assignments = Annotated[tuple[str, ...], _default("none", "NAME=VALUE ...")]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train an algorithm on logged data, watch its score, keep its policy.

    Without arguments: DTQL on the bundled data set, a few minutes on 2 cores.

    Examples:
      tether train dtql halfcheetah-medium.hdf5 --updates 100000 --pretrain-updates 20000
      tether train dtql hopper-medium.hdf5 --preset hopper-medium-v2 --seeds 4
      tether train dtql data.hdf5 --sweep trust_region_weight=0.5,1,5 --set candidates=64
    """

    algorithm: Annotated[Positional[str], arg(metavar="ALGORITHM")] = DEFAULT_ALGORITHM
    """Name of the algorithm; `tether algorithms` lists them."""
    dataset: Annotated[Positional[str], arg(metavar="DATASET")] = DEFAULT_DATASET
    """A bundled name, d4rl:NAME or a path; `tether data show DATASET` tells what is in it."""
    updates: Annotated[int | None, _default("the preset's, or the algorithm's")] = None
    """Updates of the training phase."""
    pretrain_updates: Annotated[int | None, _default("the preset's, or the algorithm's")] = None
    """Updates of the pretraining phase."""
    batch_size: Annotated[int | None, _default("the preset's, or 256")] = None
    """Transitions in a minibatch."""
    seeds: Annotated[int, arg(metavar="N", aliases=["--lanes.seeds"])] = 1
    """How many seeds to train side by side in one program."""
    first_seed: Annotated[int, arg(metavar="N")] = 0
    """The seeds are this one and those after it."""
    set: Assignments = ()
    """Hyper-parameters, over preset and defaults."""
    sweep: Annotated[tuple[str, ...], _default("none", "NAME=V1,V2,... ...")] = ()
    """Numeric hyper-parameters with several values: one lane for each combination and seed."""
    preset: Annotated[str, _default("auto, by the data set's name", "TASK")] = "auto"
    """A task whose published settings to take (`tether tasks`), or `none`."""
    environment: Annotated[str | None, _default("by the data set's name", "TASK")] = None
    """Task (`tether tasks`) or gymnasium id to evaluate in, or `none`."""
    eval_every_updates: Annotated[int | None, _default("the preset's, or a tenth of the training phase")] = None
    """Updates between evaluations."""
    eval_episodes: Annotated[int | None, _default("the preset's, or 10")] = None
    """Episodes of each lane in an evaluation."""
    eval_workers: Annotated[int | None, _default("by spare cores; none on 2 cores")] = None
    """Processes that play evaluations while training goes on; 0: training waits. Changes no number."""
    eval_device: Literal["auto", "cpu", "accelerator"] = "auto"
    """Where policies act in evaluations; auto measures where they are faster."""
    log_every_updates: Annotated[int, arg(metavar="N")] = 500
    """Updates between rows of metrics.jsonl."""
    lanes_per_group: Annotated[int | None, _default("as many as the device has room for")] = None
    """Lanes trained at once; the others take turns with them. Changes no number."""
    precision: Precision = "float32"
    """Of the matmuls of training; parameters, optimiser and targets stay float32."""
    reward_transform: Annotated[str | None, _default("the preset's, or none", "NAME")] = None
    """How training sees rewards, e.g. iql_locomotion."""
    observation_transform: Annotated[str | None, _default("the preset's, or none", "NAME")] = None
    """How networks see observations, e.g. standardise."""
    data_filter: Annotated[str | None, _default("the preset's, or none", "RULE")] = None
    """Which episodes to train on: top=0.1 keeps the tenth with the highest returns."""
    out: Annotated[Path | None, _default("runs/ALGORITHM-DATASET-TIME", "DIR")] = None
    """The run folder; must not exist."""
    quiet: bool = False
    """No progress on stderr, only warnings."""
    distributed: Annotated[str | None, _default("TETHER_DISTRIBUTED, or one process", "HOSTS")] = None
    """Spread lanes over several processes: auto (Slurm, MPI), or ADDRESS:PORT,PROCESSES,INDEX."""

    def run(self) -> int:
        """Train, then show the table; 1 if a lane diverged."""
        from tether.api import train
        from tether.training.devices import connect

        connect(self.distributed)
        algorithm, arguments = self.request()
        notes = {"command": " ".join(["tether", *sys.argv[1:]]), "preset": arguments.pop("preset")}
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        swept = _sweep(self.sweep)
        report = train(
            algorithm, self.dataset, **arguments, seeds=seeds, sweep=swept, out=self.out, quiet=self.quiet, notes=notes
        )
        return _show(report)

    def request(self) -> tuple[Any, dict[str, Any]]:
        """The algorithm and the other arguments of `tether.api.train` that do not concern lanes and folders; the
        preset's name is beside them. Raises InputError for what does not exist."""
        from tether.algorithms import ALGORITHMS

        if self.algorithm not in ALGORITHMS:
            raise unknown("algorithm", self.algorithm, ALGORITHMS)
        if self.seeds < 1:
            raise InputError(f"seeds {self.seeds}: at least 1 is needed")

        from tether.algorithms.registry import make_algorithm
        from tether.runs.plan import Options

        preset, hyperparameters, chosen = self._values()
        algorithm = make_algorithm(self.algorithm, hyperparameters)
        every = chosen.get("eval_every_updates", max(1, algorithm.phases()[-1].updates // 10))
        options = Options(
            batch_size=chosen.get("batch_size", 256),
            eval_every_updates=every,
            eval_episodes=chosen.get("eval_episodes", 10),
            log_every_updates=self.log_every_updates,
            lanes_per_group=self.lanes_per_group,
            eval_workers=self.eval_workers,
            eval_device=self.eval_device,
            precision=self.precision,
        )
        return algorithm, {
            "options": options,
            "reward_transform": chosen.get("reward_transform", "none"),
            "observation_transform": chosen.get("observation_transform", "none"),
            "data_filter": chosen.get("data_filter", "none"),
            "environment": self.environment,
            "preset": preset,
        }

    def _values(self) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
        """The preset's name, the algorithm's hyper-parameters and the run's options: the preset's values,
        overridden by --set and the named options."""
        from tether.presets.recipes import find_recipe

        preset, hyperparameters, chosen = find_recipe(self.algorithm, self.dataset, self.preset)
        if self.updates is not None:
            chosen.pop("eval_every_updates", None)  # the preset's interval is meant for its own length

        def given(names: dict[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in names.items() if value is not None}

        hyperparameters |= _assignments("--set", self.set)
        hyperparameters |= given({"train_updates": self.updates, "pretrain_updates": self.pretrain_updates})
        own = ("batch_size", "eval_every_updates", "eval_episodes")
        own += ("reward_transform", "observation_transform", "data_filter")
        return preset, hyperparameters, chosen | given({name: getattr(self, name) for name in own})


@dataclasses.dataclass(frozen=True)
class Resume:
    """Continue a run that was stopped, exactly as if it had not been.

    It goes on from its newest valid checkpoint. A run that is complete is only shown again.

    Examples:
      tether resume runs/dtql-hopper-medium-20260101-120000
      tether resume runs/dtql-hopper-medium-20260101-120000 --updates 2000000
    """

    folder: Folder
    """The run folder."""
    quiet: bool = False
    """No progress on stderr, only warnings."""
    updates: Annotated[int | None, _default("the run's", "N")] = None
    """Another length of the training phase: to train on after the end, or to end early and have the policies. A rate
    that decays over the phase then decays over the new length."""
    eval_workers: Annotated[int | None, _default("as the run began")] = None
    """Processes that play evaluations while training goes on."""
    distributed: Annotated[str | None, _default("TETHER_DISTRIBUTED, or one process", "HOSTS")] = None
    """As of `tether train`; the number of processes and devices may be another one."""

    def run(self) -> int:
        """Train to the end, then show the table; 1 if a lane diverged."""
        from tether.api import resume
        from tether.training.devices import connect

        connect(self.distributed)
        report = resume(self.folder, quiet=self.quiet, eval_workers=self.eval_workers, updates=self.updates)
        return _show(report)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Play more episodes with the policies of a run's newest checkpoint.

    The outcomes are also written to evaluate-UPDATE-EPISODES.json in the run folder.

    Examples:
      tether evaluate runs/dtql-hopper-medium-20260101-120000 --episodes 100
      tether evaluate runs/dtql-hopper-medium-20260101-120000 --set candidates=64
    """

    folder: Folder
    """The run folder."""
    episodes: Annotated[int, arg(metavar="N")] = 10
    """Episodes of each lane."""
    set: Assignments = ()
    """How the policies act, such as candidates=64: hyper-parameters that training does not depend on."""
    quiet: bool = False
    """No progress on stderr, only warnings."""

    def run(self) -> int:
        """Print a row for each lane and one for all; 1 if a lane diverged."""
        import numpy as np
        from rich.table import Table

        from tether.api import evaluate

        acting = _assignments("--set", self.set)
        outcome, scores = evaluate(self.folder, episodes=self.episodes, quiet=self.quiet, acting=acting)
        table = Table(title=f"{self.folder.resolve().name}: {self.episodes} episodes of each lane")
        table.title_justify = "left"
        for column in ("lane", "mean return", "mean length", "mean score", "IQM", "95 % interval"):
            table.add_column(column, justify="right")
        alive = [bool(np.isfinite(row).all()) for row in scores]
        for lane in range(len(scores)):
            cells = _outcome(outcome, scores, [lane]) if alive[lane] else ["diverged"]
            table.add_row(str(lane), *cells)
        if sum(alive) > 1:
            table.add_row("all", *_outcome(outcome, scores, np.flatnonzero(alive).tolist()))
        _print(table)
        return 0 if all(alive) else _fail(1, f"{alive.count(False)} of {len(alive)} lanes diverged")


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw score over updates of one or several runs of the same task, or what a run's processes did when.

    Examples:
      tether plot runs/dtql-hopper-medium-20260101-120000
      tether plot runs/dtql-hopper-medium-20260101-120000 --timeline
      tether plot runs/first runs/second --out comparison.png
    """

    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR ...")]
    """Run folders."""
    timeline: bool = False
    """Of one run: when it trained, waited and evaluated."""
    out: Annotated[Path | None, _default("curve.png or timeline.png in the first folder", "PNG")] = None
    """The picture; replaced where it exists."""

    def run(self) -> int:
        """Write the picture and say where."""
        from tether.runs.report import plot_runs
        from tether.runs.timeline import plot_timeline

        folders = list(self.folders)
        if not folders:
            raise InputError("plot: name at least one run folder")
        if self.timeline and len(folders) > 1:
            raise InputError("plot --timeline: name one run folder")
        path = self.out or folders[0] / ("timeline.png" if self.timeline else "curve.png")
        if self.out is not None and not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}")
        if self.timeline:
            plot_timeline(folders[0], path)
        else:
            plot_runs(folders, path)
        _print(str(path))
        return 0


@dataclasses.dataclass(frozen=True)
class Algorithms:
    """List the algorithms: what each is, its paper, published settings, checks passed, what it costs.

    Examples:
      tether algorithms
    """

    def run(self) -> int:
        """One row each, by family."""
        from tether.cli.catalogue import LEGEND, algorithms_table

        _print(algorithms_table())
        for line in LEGEND:
            _print(line)
        return 0


@dataclasses.dataclass(frozen=True)
class Tasks:
    """List the tasks: environment, reference returns, presets."""

    def run(self) -> int:
        """One row each."""
        from rich.table import Table

        from tether.algorithms import ALGORITHMS
        from tether.environments import TASKS
        from tether.presets import preset_names

        table = Table(title="tasks", title_justify="left")
        for column in ("task", "evaluated in", "steps", "return of score 0", "of score 100", "data sets with a preset"):
            table.add_column(column)
        for task in TASKS.values():
            presets = {preset for name in ALGORITHMS for preset in preset_names(name)}
            where = f"{task.evaluated_in} ({task.extra})" if task.extra else task.evaluated_in
            bounds = ("?" if bound is None else f"{bound:g}" for bound in (task.reference_min, task.reference_max))
            names = [dataset for dataset in task.datasets if dataset in presets]
            table.add_row(task.name, where, str(task.horizon or "?"), *bounds, "\n".join(names))
        _print(table)
        for extra in sorted({task.extra for task in TASKS.values() if task.extra}):
            _print(f'({extra}): needs pip install "tether-rl[{extra}]"')
        return 0


@dataclasses.dataclass(frozen=True)
class Data:
    """Data sets: look at one, list them, import logs.

    Examples:
      tether data show hopper-medium.hdf5
      tether data show d4rl:hopper-medium-v2
      tether data list
      tether data import log.csv --observation "q_*" --action "tau_*" --reward r --out set.hdf5
    """

    verb: Any
    """What to do."""

    def run(self) -> int:
        """The verb's work."""
        return self.verb.run()


@dataclasses.dataclass(frozen=True)
class Bandit:
    """Train on a 2-D problem with a known answer, print the scores, draw the picture.

    `tether bandit` alone lists the problems; `tether bandit gallery` redraws the papers' 2-D figures.

    Examples:
      tether bandit bdpo 8gaussians
      tether bandit dac dac-three --set guidance=hard --out hard.png
      tether bandit dtql 25gaussians-far --settings published
      tether bandit gallery --out gallery
      tether bandit gallery --only dac-2 --out gallery
    """

    algorithm: Annotated[Positional[str | None], _default("none: list the problems", "ALGORITHM")] = None
    """dtql, dtql-kl, dac or bdpo; or `gallery`."""
    problem: Annotated[Positional[str | None], _default("none", "PROBLEM")] = None
    """Which problem."""
    settings: Literal["fair", "published"] = "fair"
    """Options under which the method's claim holds, or those of the DTQL paper's toy code."""
    updates: Annotated[int | None, _default("the settings'", "N")] = None
    """Updates of the last phase."""
    seed: int = 0
    """Of data, networks and minibatches."""
    precision: Precision = "float32"
    """Of the matmuls of training."""
    set: Assignments = ()
    """Hyper-parameters, over the settings; also batch_size, points, state, terminal, unit_scale, box."""
    only: tuple[str, ...] = ()
    """Of the gallery: these figures."""
    fresh: bool = False
    """Of the gallery: train and draw again what is there already."""
    out: Annotated[Path | None, _default("bandit-ALGORITHM-PROBLEM.png; of the gallery: gallery", "PATH")] = None
    """The picture; of the gallery, its folder."""
    quiet: bool = False
    """No progress on stderr, only warnings."""

    def run(self) -> int:
        """Train and score, draw the gallery, or list."""
        if self.algorithm is None:
            _print(_problem_table())
            return 0
        if self.algorithm == "gallery":
            from tether.bandits.gallery import draw_gallery

            folder = self.out or Path("gallery")
            draw_gallery(folder, self.only, fresh=self.fresh, quiet=self.quiet)
            _print(f"gallery {folder}")
            return 0
        if self.problem is None:
            raise InputError(f"bandit {self.algorithm}: name a problem too; `tether bandit` lists them")
        from tether.bandits.report import run_bandit

        out = self.out or Path(f"bandit-{self.algorithm}-{self.problem}.png")
        changes: dict[str, Any] = dict(_assignments("--set", self.set))
        if self.updates is not None:
            changes["train_updates"] = self.updates
        table, diverged_at = run_bandit(
            self.algorithm, self.problem, self.settings, changes, self.seed, out, self.quiet, self.precision
        )
        _print(table)
        _print(f"picture {out}")
        return 0 if diverged_at is None else _fail(1, f"diverged at update {diverged_at:,}")


def _problem_table() -> Any:
    """The 2-D problems, one row each."""
    from rich.table import Table

    from tether.bandits import PROBLEMS

    table = Table("problem", "paper", "what", "temperature", title="2-D problems", title_justify="left")
    for problem in PROBLEMS.values():
        table.add_row(problem.name, problem.paper, problem.description, f"{problem.temperature:g}")
    return table


COMMANDS: dict[str, type] = {
    "train": Train,
    "resume": Resume,
    "evaluate": Evaluate,
    "plot": Plot,
    "compare": Compare,
    "algorithms": Algorithms,
    "tasks": Tasks,
    "data": Data,
    "bandit": Bandit,
    "bench": Bench,
    "sweep": Sweep,
}
DESCRIPTION = "Offline reinforcement learning with diffusion behaviour models. `tether train` shows it at work."


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the `tether` command; `arguments` default to the process's own."""
    command = parse(sys.argv[1:] if arguments is None else arguments)
    # Not Bench, which reports what compiling costs.
    if isinstance(command, Train | Resume | Evaluate | Compare | Sweep | Bandit | Data):
        from tether.machine.cache import use_compilation_cache
        from tether.machine.start import note_command

        note_command()
        use_compilation_cache()
    sys.exit(_guarded(command))


def parse(arguments: Sequence[str]) -> Any:
    """The command that `arguments` spell. Wrong ones end the process with code 2 (tyro's own message)."""
    return tyro.cli(
        _grammar(*arguments[:2]),
        prog="tether",
        description=DESCRIPTION,
        args=arguments,
        config=(FlagCreatePairsOff,),
    )


def _grammar(*asked: str) -> Any:
    """All subcommands for tyro, described by one line each, those that are asked for by their whole docstrings."""
    verbs = _union(DATA_VERBS, asked[1] if asked[:1] == ("data",) and asked[1:] else "")
    field = ("verb", Annotated[verbs, arg(name="")])  # no name: `tether data show`, not `tether data verb:show`
    data = dataclasses.make_dataclass("Data", [field], bases=(Data,), frozen=True)
    data.__doc__ = Data.__doc__
    return _union({**COMMANDS, "data": data}, asked[0] if asked else "")


def _union(commands: dict[str, type], asked: str) -> Any:
    members = []
    for name, command in commands.items():
        text = inspect.getdoc(command) or ""
        description = text if name == asked else text.splitlines()[0]
        members.append(Annotated[command, subcommand(name, description=description)])
    return Union[tuple(members)]  # noqa: UP007  (made at run time)


def _guarded(command: Any) -> int:
    """Run a command; what can go wrong becomes one line on stderr and an exit code."""
    try:
        return command.run()
    except InputError as error:
        return _fail(2, f"error: {error}")
    except OSError as error:
        return _fail(1, f"error: {error}")
    except KeyboardInterrupt as stop:
        from tether.machine.signals import Interrupted

        if isinstance(stop, Interrupted):
            return _fail(128 + stop.signal_number, str(stop))
        return _fail(130, "stopped")
    except RuntimeError as error:
        from tether.runs.checkpoint import CheckpointError

        if isinstance(error, CheckpointError):
            return _fail(1, f"error: {error}")
        raise  # a bug: its traceback is what helps


def _fail(code: int, message: str) -> int:
    """One line on stderr."""
    sys.stderr.write(f"tether: {' '.join(message.split())}\n")
    return code


def _show(report: Any) -> int:
    """Table, paths, and the exit code of a run."""
    from tether.runs.arms import arms_table
    from tether.runs.report import report_table
    from tether.training.devices import is_primary

    if is_primary():  # of several processes one speaks
        if report.last is not None:
            _print(report_table(report))
        if report.arms:
            _print(arms_table(report.arms))
        _show_paths(report)
    if report.status == "done":
        return 0
    lanes = ", ".join(f"lane {lane} in {where}" for lane, where in sorted(report.diverged.items()))
    return _fail(
        1, f"diverged: {lanes}" + ("; no lane is left, so there is no policy" if report.best_lane is None else "")
    )


def _show_paths(report: Any) -> None:
    """Where things are."""
    for name, path in (("curve", report.curve), ("sweep", report.sweep)):
        if path.exists():
            _print(f"{name:<7} {path}")
    if report.best_lane is not None:
        _print(f"policy  {report.folder / 'policy'}")
    _print(f"run     {report.folder}")


def _outcome(outcome: Any, scores: Any, lanes: list[int]) -> list[str]:
    """The cells of a row of `tether evaluate`."""
    from tether.evaluation.statistics import aggregate

    summary = aggregate(scores[lanes])
    interval = f"[{summary.ci95_low:.1f}, {summary.ci95_high:.1f}]"
    means = f"{outcome.returns[lanes].mean():.1f}", f"{outcome.lengths[lanes].mean():.0f}", f"{summary.mean:.1f}"
    return [*means, f"{summary.iqm:.1f}", interval]


def _sweep(words: tuple[str, ...]) -> dict[str, list[float]]:
    """name=v1,v2 words as a dict of numbers."""
    try:
        return {n: [float(v) for v in values.split(",")] for n, values in _assignments("--sweep", words).items()}
    except ValueError:
        raise InputError(f"--sweep {' '.join(words)!r}: write name=v1,v2,... with numbers") from None
