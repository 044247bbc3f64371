"""The `tether` command. Each subcommand is a dataclass: its fields are the options, its `run` the work.

Exit codes: 0 done; 1 a fault, or a run in which a lane diverged; 2 wrong usage or bad input, one line on stderr;
130 stopped by Ctrl-C (143 by SIGTERM) after writing a checkpoint.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from tether.errors import InputError, unknown

DEFAULT_ALGORITHM = "dtql"
DEFAULT_DATASET = "halfcheetah-medium-replay-small"


@dataclasses.dataclass(frozen=True)
class Train:
    """Train an algorithm on logged data, watch its score, keep its policy.

    Without arguments: DTQL on the bundled data set, a few minutes on 2 cores.

    Examples:
      tether train dtql halfcheetah-medium.hdf5 --updates 100000 --pretrain-updates 20000
      tether train dtql hopper-medium.hdf5 --preset hopper-medium-v2 --seeds 4
      tether train dtql data.hdf5 --sweep trust_region_weight=0.5,1,5 --set candidates=64
    """

    algorithm: Positional[str] = DEFAULT_ALGORITHM
    """Name of the algorithm; `tether algorithms` lists them."""
    dataset: Positional[str] = DEFAULT_DATASET
    """A bundled name or a path; `tether data show SOURCE` tells what is in it."""
    updates: int | None = None
    """Updates of the training phase [default: the preset's, or the algorithm's]."""
    pretrain_updates: int | None = None
    """Updates of the pretraining phase [default: likewise]."""
    batch_size: int | None = None
    """Transitions in a minibatch [default: the preset's, or 256]."""
    seeds: Annotated[int, arg(aliases=["--lanes.seeds"])] = 1
    """How many seeds to train side by side in one program."""
    first_seed: int = 0
    """The seeds are FIRST_SEED, FIRST_SEED + 1, ..."""
    set: tuple[str, ...] = ()
    """Hyper-parameters as name=value, over preset and defaults."""
    sweep: tuple[str, ...] = ()
    """Numeric hyper-parameters as name=v1,v2,...: one lane for each combination and seed."""
    preset: str = "auto"
    """A task whose published settings to take, `none`, or `auto`: those of the data set's own name."""
    environment: str | None = None
    """Task to evaluate in (`tether tasks`) or `none` [default: the data set's name tells]."""
    eval_every_updates: int | None = None
    """Updates between evaluations [default: the preset's, or a tenth of the training phase]."""
    eval_episodes: int | None = None
    """Episodes of each lane in an evaluation [default: the preset's, or 10]."""
    log_every_updates: int = 500
    """Updates between rows of metrics.jsonl."""
    reward_transform: str | None = None
    """How training sees rewards, e.g. iql_locomotion [default: the preset's, or none]."""
    observation_transform: str | None = None
    """How networks see observations, e.g. standardise [default: the preset's, or none]."""
    out: Path | None = None
    """The run folder; must not exist [default: runs/<algorithm>-<dataset>-<time>]."""
    quiet: bool = False
    """No progress on stderr."""

    def run(self) -> int:
        """Train, then show the table; 1 if a lane diverged."""
        from tether.api import train
        from tether.training.run import Settings

        algorithm, chosen = self._algorithm_and_settings()
        every = chosen.get("eval_every_updates") or max(1, algorithm.phases()[-1].updates // 10)
        settings = Settings(
            batch_size=chosen.get("batch_size", 256),
            eval_every_updates=every,
            eval_episodes=chosen.get("eval_episodes", 10),
            log_every_updates=self.log_every_updates,
            checkpoint_every_updates=min(every, 10_000) if every > 0 else every,
        )
        if self.seeds < 1:
            raise InputError(f"seeds {self.seeds}: at least 1 is needed")
        report = train(
            algorithm,
            self.dataset,
            seeds=range(self.first_seed, self.first_seed + self.seeds),
            sweep=_sweep(self.sweep),
            settings=settings,
            reward_transform=chosen.get("reward_transform", "none"),
            observation_transform=chosen.get("observation_transform", "none"),
            environment=self.environment,
            out=self.out,
            quiet=self.quiet,
            notes={"command": " ".join(["tether", *sys.argv[1:]]), "preset": chosen["preset"]},
        )
        return _show(report)

    def _algorithm_and_settings(self) -> tuple[Any, dict[str, Any]]:
        """The algorithm with preset, --set and the named options applied in this order; the run's own settings."""
        from tether.algorithms import ALGORITHMS
        from tether.training.lanes import parse_fields

        if self.algorithm not in ALGORITHMS:
            raise unknown("algorithm", self.algorithm, ALGORITHMS)
        preset_name, values = self._preset()
        fields = {field.name for field in dataclasses.fields(ALGORITHMS[self.algorithm])}
        settings = {name: value for name, value in values.items() if name not in fields}
        hyperparameters = {name: value for name, value in values.items() if name in fields}
        hyperparameters |= _assignments("--set", self.set)
        named = {"train_updates": self.updates, "pretrain_updates": self.pretrain_updates}
        hyperparameters |= {name: value for name, value in named.items() if value is not None}
        algorithm = ALGORITHMS[self.algorithm](**parse_fields(self.algorithm, hyperparameters))
        own = (
            "batch_size",
            "eval_every_updates",
            "eval_episodes",
            "reward_transform",
            "observation_transform",
        )
        settings |= {name: getattr(self, name) for name in own if getattr(self, name) is not None}
        if self.updates is not None and self.eval_every_updates is None:
            settings.pop("eval_every_updates", None)  # the preset's interval is meant for its own length
        return algorithm, settings | {"preset": preset_name}

    def _preset(self) -> tuple[str | None, dict[str, Any]]:
        """Name and values of the preset in force."""
        from tether.data import bundled_names
        from tether.presets import demo_preset, get_preset, preset_names

        if self.preset == "none":
            return None, {}
        if self.preset != "auto":
            return self.preset, get_preset(self.algorithm, self.preset)
        if self.dataset in bundled_names():
            return "demo", demo_preset(self.algorithm)
        name = self.dataset.removeprefix("d4rl:")
        if name in preset_names(self.algorithm):
            return name, get_preset(self.algorithm, name)
        return None, {}


@dataclasses.dataclass(frozen=True)
class Resume:
    """Continue a run that was stopped, exactly as if it had not been."""

    folder: Positional[Path]
    """The run folder."""
    quiet: bool = False
    """No progress on stderr."""

    def run(self) -> int:
        """Train to the end, then show the table; 1 if a lane diverged."""
        from tether.api import resume

        return _show(resume(self.folder, quiet=self.quiet))


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Play more episodes with the policies of a run's newest checkpoint."""

    folder: Positional[Path]
    """The run folder."""
    episodes: int = 10
    """Episodes of each lane."""
    quiet: bool = False
    """No progress on stderr."""

    def run(self) -> int:
        """Print a row for each lane and one for all."""
        from rich.table import Table

        from tether.api import evaluate
        from tether.evaluation.statistics import aggregate

        outcome, scores = evaluate(self.folder, episodes=self.episodes, quiet=self.quiet)
        table = Table(title=f"{self.folder.name}: {self.episodes} episodes of each lane", title_justify="left")
        for column in ("lane", "mean return", "mean length", "mean score", "IQM", "95 % interval"):
            table.add_column(column, justify="right")
        for lane in range(len(scores)):
            table.add_row(str(lane), *_outcome(outcome.returns[[lane]], outcome.lengths[[lane]], scores[[lane]]))
        if len(scores) > 1:
            table.add_row("all", *_outcome(outcome.returns, outcome.lengths, scores))
        _print(table)
        return 0 if aggregate(scores) else 1


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw score over updates of one or several runs."""

    folders: Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path | None = None
    """The picture [default: curve.png in the first folder]."""

    def run(self) -> int:
        """Write the picture and say where."""
        from tether.evaluation.report import plot_runs

        if not self.folders:
            raise InputError("plot: name at least one run folder")
        path = self.out or self.folders[0] / "curve.png"
        plot_runs(list(self.folders), path)
        _print(str(path))
        return 0


@dataclasses.dataclass(frozen=True)
class Algorithms:
    """List the algorithms."""

    def run(self) -> int:
        """One row each."""
        from rich.table import Table

        from tether.algorithms import ALGORITHMS
        from tether.presets import preset_names

        table = Table("name", "what", "presets", title="algorithms", title_justify="left")
        for name, cls in ALGORITHMS.items():
            header = (sys.modules[cls.__module__].__doc__ or "").splitlines()[0]
            table.add_row(name, header.split(": ", 1)[-1], str(len(preset_names(name))))
        _print(table)
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
        for column in ("task", "evaluated in", "steps", "return of score 0", "of score 100", "presets"):
            table.add_column(column)
        for task in TASKS.values():
            presets = [f"{a}: {p}" for a in ALGORITHMS for p in preset_names(a) if p in task.datasets]
            table.add_row(
                task.name,
                task.gymnasium_id or f"not yet: {task.unavailable}",
                str(task.horizon or "?"),
                *("?" if bound is None else f"{bound:g}" for bound in (task.reference_min, task.reference_max)),
                "\n".join(presets),
            )
        _print(table)
        return 0


@dataclasses.dataclass(frozen=True)
class Data:
    """Look at a data set."""

    action: Positional[Literal["show"]]
    """show: sizes, episodes, returns, ranges."""
    source: Positional[str] = DEFAULT_DATASET
    """A bundled name or a path."""

    def run(self) -> int:
        """Print the summary."""
        from tether.data import load_dataset
        from tether.data.show import summary_table

        _print(summary_table(load_dataset(self.source)))
        return 0


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure updates per second and latency against the matmul rate of this machine."""

    algorithms: Positional[tuple[str, ...]] = ()
    """Names of algorithms [default: all]."""
    batch_size: int = 256
    """Transitions in a minibatch."""
    observation_size: int = 11
    """As Hopper's."""
    action_size: int = 3
    """As Hopper's."""
    lanes: int = 1
    """Seeds side by side."""
    seconds: float = 5.0
    """Time for each measurement."""
    set: tuple[str, ...] = ()
    """Hyper-parameters as name=value."""
    out: Path | None = None
    """JSON file to write the figures to."""

    def run(self) -> int:
        """Measure, print the table, write the JSON."""
        from tether.bench import bench, bench_table
        from tether.files import atomic_write_json

        figures = bench(
            self.algorithms,
            batch_size=self.batch_size,
            observation_size=self.observation_size,
            action_size=self.action_size,
            lanes=self.lanes,
            seconds=self.seconds,
            assignments=_assignments("--set", self.set),
        )
        _print(bench_table(figures))
        if self.out is not None:
            atomic_write_json(self.out, figures)
        return 0


Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Resume, subcommand("resume")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Plot, subcommand("plot")]
    | Annotated[Algorithms, subcommand("algorithms")]
    | Annotated[Tasks, subcommand("tasks")]
    | Annotated[Data, subcommand("data")]
    | Annotated[Bench, subcommand("bench")]
)


def main() -> None:
    """Entry point of the `tether` command."""
    command: Any = tyro.cli(Command, prog="tether", description=_DESCRIPTION)  # pyright: ignore[reportArgumentType]
    sys.exit(_guarded(command))


_DESCRIPTION = "Offline reinforcement learning with diffusion behaviour models. `tether train` shows it at work."


def _guarded(command: Any) -> int:
    """Run a command; what can go wrong becomes one line on stderr and an exit code."""
    from tether.training.checkpoint import CheckpointError
    from tether.training.run import Interrupted

    try:
        return command.run()
    except InputError as error:
        return _fail(2, f"error: {error}")
    except (CheckpointError, OSError) as error:
        return _fail(1, f"error: {error}")
    except Interrupted as stop:
        folder = stop.folder
        return _fail(128 + stop.signal_number, f"stopped; a checkpoint is written: tether resume {folder}")
    except KeyboardInterrupt:
        return _fail(130, "stopped")


def _fail(code: int, message: str) -> int:
    sys.stderr.write(f"tether: {message}\n")
    return code


def _show(report: Any) -> int:
    """Table, paths, and the exit code of a run."""
    from tether.evaluation.report import report_table

    if report.last is not None:
        _print(report_table(report))
        _print(f"curve   {report.curve}")
    _print(f"policy  {report.folder / 'policy'}" if report.best_lane is not None else "no policy: every lane diverged")
    _print(f"run     {report.folder}")
    return 0 if report.status == "done" else _fail(1, f"run {report.status}: see result.json in {report.folder}")


def _outcome(returns: Any, lengths: Any, scores: Any) -> list[str]:
    """The cells of a row of `tether evaluate`."""
    from tether.evaluation.statistics import aggregate

    summary = aggregate(scores)
    interval = f"[{summary.ci95_low:.1f}, {summary.ci95_high:.1f}]"
    cells = f"{returns.mean():.1f}", f"{lengths.mean():.0f}", f"{summary.mean:.1f}", f"{summary.iqm:.1f}"
    return [*cells, interval]


def _assignments(option: str, words: tuple[str, ...]) -> dict[str, str]:
    """name=value words as a dict."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise InputError(f"{option} {word!r}: write name=value")
        if name in pairs:
            raise InputError(f"{option}: {name!r} is given twice")
        pairs[name] = value
    return pairs


def _sweep(words: tuple[str, ...]) -> dict[str, list[float]]:
    """name=v1,v2 words as a dict of numbers."""
    try:
        return {n: [float(v) for v in values.split(",")] for n, values in _assignments("--sweep", words).items()}
    except ValueError:
        raise InputError(f"--sweep {' '.join(words)!r}: write name=v1,v2,... with numbers") from None


def _print(what: Any) -> None:
    """To stdout; lines are never wrapped, so that paths can be copied and piped."""
    from rich.console import Console

    console = Console(soft_wrap=isinstance(what, str))
    if not console.is_terminal:
        console.width = 160
    console.print(what, highlight=False, markup=False)
