"""`tether data VERB`: one dataclass per verb. A new verb is a class here and a line in `DATA_VERBS`."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from tether.cli.parts import (
    assignments,
    hint,
    print_out,
    several,
)
from tether.cli.words import given_fields, option_name
from tether.errors import InputError, in_options

__all__ = ["DATA_VERBS", "DEFAULT_DATASET", "Data"]

DEFAULT_DATASET = "halfcheetah-medium-replay-small"


@dataclasses.dataclass(frozen=True)
class Show:
    """Look at a data set: sizes, episodes, returns, ranges, columns, task.

    Examples:
      tether data show
      tether data show hopper-medium.hdf5
      tether data show d4rl:hopper-medium-v2
      tether data show minari:D4RL/door/human-v2
    """

    source: Annotated[Positional[str], arg(metavar="DATASET")] = DEFAULT_DATASET
    """A source, as for `tether train`: a name or a path."""
    continuous: bool = False
    """Actions of whole numbers are levels, not choices among which they are indices."""

    def run(self) -> int:
        """Print the summary."""
        from tether.data import load_dataset
        from tether.data.show import summary_table

        print_out(summary_table(load_dataset(self.source, continuous=self.continuous)))
        return 0


@dataclasses.dataclass(frozen=True)
class List:
    """List the data sets on this machine that have a name: bundled, cached, Minari's.

    Examples:
      tether data list
    """

    def run(self) -> int:
        """One row each."""
        from tether.data.show import local_table

        print_out(local_table())
        return 0


@dataclasses.dataclass(frozen=True)
class Check:
    """Examine a data set, also a broken one: a graded report of its faults, and repairs into a new file.

    Ends with 0 if nothing worse than a warning was found (with --fix: is left in the new file), else with 1.

    Examples:
      tether data check hopper-medium.hdf5
      tether data check logs.hdf5 --out report --fix repaired.hdf5
      tether data check logs.hdf5 --fix repaired.hdf5 --only not-finite teleports
      tether data check demonstrations.hdf5 --purpose imitation
    """

    source: Annotated[Positional[str], arg(metavar="DATASET")] = DEFAULT_DATASET
    """A source, as for `tether train`, or a file that training refuses."""
    out: Annotated[Path | None, hint("check-NAME", "DIR")] = None
    """Folder for report.json and report.html; a report that is there is replaced."""
    fix: Annotated[Path | None, hint("none", "OUT.hdf5")] = None
    """A new file for the data with everything repaired that needs no judgement."""
    only: Annotated[tuple[str, ...], hint("all that can be fixed", "CODE ...")] = ()
    """Apply only the fixes of these findings."""
    purpose: Annotated[
        Literal["imitation", "offline-rl"] | None, hint("offline-rl, or imitation without rewards", "PURPOSE")
    ] = None
    """What the data are judged for: offline-rl, or imitation, which looks at no rewards."""
    continuous: bool = False
    """Actions of whole numbers are levels, not choices among which they are indices."""
    quiet: bool = False
    """No progress on stderr."""

    def run(self) -> int:
        """Print, save, repair; 1 if an error is left, or training refuses the data."""
        from tether.doctor import check, repair
        from tether.doctor.fixes import check_target
        from tether.doctor.progress import progress_line
        from tether.machine.files import file_stem

        if self.only and self.fix is None:
            raise InputError(f"--only {' '.join(self.only)}: it selects repairs, so --fix OUT.hdf5 is needed")
        if self.fix is not None:
            check_target(self.fix)
        with progress_line(self.quiet) as progress:
            report = last = check(self.source, progress, self.purpose, self.continuous)
            repaired = self.fix is not None and bool(report.fixable() or self.only)
            if self.fix is not None and repaired:
                report, last = repair(self.source, report, self.fix, self.only, progress)
            report = dataclasses.replace(report, refused=in_options(report.refused))
            progress("pictures")
            paths = report.save(self.out or Path(f"check-{file_stem(report.data.raw.name)}"))
        print_out(report.table())
        for path in paths:
            print_out(f"report   {path}")
        if repaired:
            print_out(f"fixed    {self.fix}: grade {last.grade} ({last.counts()})")
        elif self.fix is not None:
            print_out(f"fixed    nothing that needs no judgement: {self.fix} is not written")
        return 1 if last.grade in ("C", "D") else 0


Patterns = Annotated[tuple[str, ...], arg(metavar="COLUMN ...")]


@dataclasses.dataclass(frozen=True)
class Import:
    """Turn logs (CSV, Parquet, JSON lines, npz, HDF5) into a data set.

    Several files, or a folder of them, are an episode each unless --episode says otherwise; so are groups of an HDF5 or
    npz file that a pattern reaches into. What you do not say is assumed aloud, or refused with the choices. Actions are
    scaled to [-1, 1]; the policy scales them back.

    Examples:
      tether data import log.csv --observation "q_*" --action "tau_*" --reward r --out set.hdf5
      tether data import runs/ --observation "q*" tip --action u --reward="-norm(tip)" --time t --out set.hdf5
      tether data import a.npz b.npz --observation state --action u --reward rewards:progress --out set.hdf5
      tether data import demos.hdf5 --observation "data/*/obs/*" --action "data/*/actions" --reward 0 --out set.hdf5
      tether data import t.csv --observation "s_*" --next-observation "n_*" --action a --reward r --out set.hdf5
      tether data import plant.csv --observation T --action u --reward r --time t --missing drop --out set.hdf5
    """

    logs: Annotated[Positional[tuple[Path, ...]], several("LOGS ...")]
    """Files or folders."""
    observation: Patterns
    """What the policy sees: columns, in this order. * and ? stand for any letters and mean columns in the file's order,
    but joint_2 before joint_10."""
    action: Patterns
    """What the policy decides."""
    out: Annotated[Path, arg(metavar="HDF5")]
    """The data set; must not exist."""
    reward: Annotated[str | None, hint("refused, with the choices", "COLUMN|ARITHMETIC|MODULE:FUNCTION")] = None
    """A column; arithmetic over columns; a function of an episode's columns that gives a number for each row; or
    `none`, for demonstrations to imitate."""
    episode: Annotated[str | None, hint("each file, or flags", "COLUMN")] = None
    """What changes from one episode to the next; `none`: one recording without a break."""
    terminal: Annotated[str | None, hint("no episode truly ended", "COLUMN")] = None
    """1 where the task truly ended (fallen, broken, done), so that nothing follows; `every-row`: decisions of one step,
    beside which all other columns are kept, such as how probable each was."""
    truncated: Annotated[str | None, hint("where an episode's rows end", "COLUMN")] = None
    """1 where the recording was cut (time limit, operator)."""
    time: Annotated[str | None, hint("rows are in order", "COLUMN")] = None
    """The clock: sorts the rows of each episode, and is kept in the data set."""
    time_format: Annotated[str | None, hint("numbers or ISO 8601", "FORMAT")] = None
    """How the clock is written, as Python's strptime reads it: "%d.%m.%Y %H:%M"."""
    max_gap: Annotated[float | None, hint("any", "X")] = None
    """A longer step of the clock ends an episode; in its unit, in seconds where it shows times."""
    next_observation: Annotated[tuple[str, ...], hint("the next row's", "COLUMN ...")] = ()
    """What was seen after the action, where rows are in any order (s, a, r, s')."""
    missing: Literal["refuse", "drop", "hold"] = "refuse"
    """Rows with an entry that is missing or not finite: drop them and end the episode there, or hold the last value."""
    one_hot: Annotated[tuple[str, ...] | None, hint("text is refused", "[COLUMN ...]")] = None
    """Makes a number of each text in these columns, or in all of the observation's that hold text."""
    keep: Annotated[tuple[str, ...], hint("none", "COLUMN ...")] = ()
    """Columns that are kept in the file, below infos/, and not trained on."""
    join: Annotated[tuple[str, ...], hint("files follow each other", "COLUMN ...")] = ()
    """The key by which the files' rows stand side by side."""
    header: Literal["first", "none"] = "first"
    """`none`: the CSV file's first line is a row, and its columns are called c0, c1, ..."""
    decimal: Literal["auto", "point", "comma"] = "auto"
    """What stands before the fraction in a CSV file, where its numbers do not tell ("1,201")."""
    encoding: Annotated[str | None, hint("UTF-8, UTF-16 with its mark, or cp1252", "NAME")] = None
    """How a CSV file's text is written: shift_jis, gb18030, cp1251, ..."""
    side_by_side: bool = False
    """Arrays are (steps, environments, ...), as vector environments record them, not (episodes, steps, ...)."""
    continuous: bool = False
    """Actions of whole numbers are levels, not choices among which they are indices."""
    action_low: Annotated[tuple[float, ...], hint("the data's, unless within [-1, 1]", "X ...")] = ()
    """The robot's lowest action: one number for all actions, or one each."""
    action_high: Annotated[tuple[float, ...], hint("the data's, unless within [-1, 1]", "X ...")] = ()
    """The robot's highest action."""

    def run(self) -> int:
        """Write the file and say what is in it."""
        from tether.data.logs.columns import ColumnOptions
        from tether.data.logs.importing import import_logs, import_report

        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(ColumnOptions)}
        for line in import_report(import_logs(self.logs, ColumnOptions(**options), self.out)):
            print_out(line)
        return 0


@dataclasses.dataclass(frozen=True)
class Collect:
    """Collect data in an environment: while SAC learns there, or by a policy, a controller, or at random.

    ENV is a task (`tether tasks`) or a gymnasium id with a Box of actions. The kinds are D4RL's: random; medium, by the
    first policy to reach the level; medium-replay, all that was tried until then; full-replay; expert, by the policy of
    the highest level where two are given, else by that after all steps; medium-expert, both.

    The same command goes on where it was stopped or killed, exactly; files that are there stay. Ends with 1 where a
    level was not reached.

    A data set of OGBench's that scripted oracles made (play and noisy sets of cube, scene, puzzle; pointmaze) is
    regenerated by its published recipe: ogbench:scene-play-v0, with its validation set, in OGBench's own layout.

    Examples:
      tether data collect Pendulum-v1 --out pendulum --checkpoint-at=-400
      tether data collect halfcheetah --out cheetah --checkpoint-at 40,80 --kinds medium medium-replay --rows 1000000
      tether data collect maze2d-umaze-v1 --out maze --controller waypoints --rows 1000000
      tether data collect Pendulum-v1 --out swings --policy pendulum/policies/at--400 --rows 20000
      tether data collect ogbench:scene-play-v0 --out ogbench --processes 8
    """

    environment: Annotated[Positional[str], arg(metavar="ENV")]
    """A task, a gymnasium id, or a data set of OGBench's."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for data sets, policies and what is needed to go on."""
    kinds: Annotated[tuple[str, ...], hint("medium-replay, unless somebody else acts", "KIND ...")] = ()
    """random, medium, medium-replay, full-replay, medium-expert, expert."""
    policy: Annotated[str | None, hint("none", "FOLDER|random")] = None
    """Policy folder or run that acts instead of SAC; or `random`."""
    controller: Annotated[str | None, hint("none", "MODULE:FUNCTION|waypoints")] = None
    """Controller that acts instead of SAC: f(environment, generator), called at each episode's start, gives a function
    of the observation."""
    name: Annotated[str | None, hint("policy, or the function's", "NAME")] = None
    """Name for data of --policy or --controller."""
    rows: Annotated[int, arg(metavar="N")] = 100_000
    """Rows to collect of random, medium, expert, --policy and --controller."""
    steps: Annotated[int, arg(metavar="N")] = 1_000_000
    """Most steps that SAC may take; it stops when all levels are reached."""
    checkpoint_at: Annotated[
        str | None, hint("D4RL's medium score, or 40 where scores are normalised", "SCORE,...")
    ] = None
    """Levels whose policies are kept: normalised scores, or returns where the task has no references."""
    seed: int = 0
    """Seed of environment, networks and sampling."""
    layouts: Annotated[tuple[str, ...], hint("d4rl", "LAYOUT ...")] = ("d4rl",)
    """d4rl: one HDF5 file; minari: a folder for MINARI_DATASETS_PATH=DIR/minari."""
    no_noise: bool = False
    """Gaussian policies act by their mode, also in the evaluations that judge levels; D4RL's act with noise."""
    horizon: Annotated[int | None, hint("the environment's", "N")] = None
    """Steps until an episode is cut."""
    batch_size: Annotated[int, arg(metavar="N")] = 256
    """Transitions in a minibatch of SAC."""
    random_steps: Annotated[int, arg(metavar="N")] = 1_000
    """Steps with random actions before SAC learns."""
    updates_per_step: Annotated[int, arg(metavar="N")] = 1
    """Updates of SAC after each step."""
    eval_every_steps: Annotated[int, arg(metavar="N")] = 2_000
    """Steps between the evaluations by which levels are judged."""
    eval_episodes: Annotated[int, arg(metavar="N")] = 5
    """Episodes per evaluation."""
    set: Annotated[tuple[str, ...], hint("none", "NAME=VALUE ...")] = ()
    """Hyper-parameters of SAC."""
    episodes: Annotated[int | None, hint("as published", "N")] = None
    """OGBench's sets: episodes to train on; a tenth as many again validate."""
    processes: Annotated[int, arg(metavar="N")] = 1
    """OGBench's sets: processes that play episodes."""
    quiet: bool = False
    """No progress on stderr, only warnings."""

    def run(self) -> int:
        """Collect, then say what there is; 1 if a level was not reached."""
        from tether.collect import CollectOptions, collect, is_recipe

        if is_recipe(self.environment):
            return self._regenerate()
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if (given.pop("episodes"), given.pop("processes")) != (None, 1):
            raise InputError(f"--episodes, --processes: for OGBench's data sets, not for {self.environment}")
        given |= {"noise": not given.pop("no_noise"), "set": assignments("--set", self.set)}
        given["checkpoint_at"] = _numbers("--checkpoint-at", self.checkpoint_at)
        quiet = given.pop("quiet")
        made = collect(CollectOptions(**given), quiet=quiet, command=shlex.join(["tether", *sys.argv[1:]]))
        for path, found in made.files:
            rows = f"{found['rows']:,} rows, {found['episodes']:,.0f} episodes" if found else "as it was"
            score = f", mean score {found['mean_score']:.1f}" if "mean_score" in found else ""
            returns = f", mean return {found['return_mean']:.1f}" if found else ""
            length = f", mean length {found['length_mean']:.0f}" if "length_mean" in found else ""
            print_out(f"{path}: {rows}{returns}{score}{length}")
            if "d4rl" in found:
                theirs = found["d4rl"]
                print_out(
                    f"  {found['set']}; D4RL's: {theirs['rows']:,} rows, {theirs['episodes']:,} episodes, mean return "
                    f"{theirs['return_mean']:,.0f}, mean length {theirs['length_mean']:.0f}"
                )
        if made.failure:
            sys.stderr.write(f"tether: {made.failure}\n")
        return 1 if made.failure else 0

    def _regenerate(self) -> int:
        """An OGBench data set."""
        from tether.collect import RegenerateOptions, regenerate

        taken = {"environment", "out", "episodes", "seed", "processes", "quiet"}
        if refused := [option_name(name) for name in given_fields(self) if name not in taken]:
            raise InputError(f"{refused[0]}: {self.environment} is made by its recipe; it takes --episodes, --seed")
        options = RegenerateOptions(self.environment, self.out, self.episodes, self.seed, self.processes)
        command = shlex.join(["tether", *sys.argv[1:]])
        paths, made = regenerate(options, quiet=self.quiet, command=command)
        for path in paths:
            if (found := made["files"].get(path.name)) is not None:
                steps = "/".join(map(str, found["observations_per_episode"]))
                print_out(f"{path}: {found['rows']:,} rows, {found['episodes']:,} episodes of {steps} observations")
        for kind, found in made["behaviour"].items():
            print_out(f"{kind}: {found['finished']:,} times, reached in {found['reached']:.1%}")
        for task, found in made["single_tasks"].items():
            rows, episodes = found["rows_that_solve_it"], found["episodes_that_solve_it"]
            shares = f"{rows:.2%} of the rows, {episodes:.1%} of the episodes"
            print_out(f"{task}: solved in {shares}; mean reward {found['mean_reward']:.3f}")
        print_out(f"regenerated, not OGBench's files; train on ogbench:{self.out}/{_with_single_task(paths[0].stem)}")
        return 0


def _with_single_task(name: str) -> str:
    stem, _, version = name.rpartition("-")
    return f"{stem}-singletask-{version}"


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    try:
        return () if text is None else tuple(float(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r}: write numbers separated by commas") from None


DATA_VERBS: dict[str, type] = {
    "show": Show,
    "list": List,
    "check": Check,
    "import": Import,
    "collect": Collect,
}


@dataclasses.dataclass(frozen=True)
class Data:
    """Data sets: look at one, list them, check and mend, import logs, collect.

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
