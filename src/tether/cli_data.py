"""`tether data VERB`: one dataclass per verb. A new verb is a class here and a line in `DATA_VERBS`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from tether.cli_parts import hint, print_out

__all__ = ["DATA_VERBS", "DEFAULT_DATASET"]

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

    def run(self) -> int:
        """Print the summary."""
        from tether.data import load_dataset
        from tether.data.show import summary_table

        print_out(summary_table(load_dataset(self.source)))
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
    """

    source: Annotated[Positional[str], arg(metavar="DATASET")] = DEFAULT_DATASET
    """A source, as for `tether train`, or a file that training refuses."""
    out: Annotated[Path | None, hint("check-NAME", "DIR")] = None
    """Folder for report.json and report.html; a report that is there is replaced."""
    fix: Annotated[Path | None, hint("none", "OUT.hdf5")] = None
    """A new file for the data with everything repaired that needs no judgement."""
    only: Annotated[tuple[str, ...], hint("all that can be fixed", "CODE ...")] = ()
    """Of the fixes: those of these findings."""
    quiet: bool = False
    """No progress on stderr."""

    def run(self) -> int:
        """Print, save, repair; 1 if an error is left."""
        from tether.data.doctor import check, repair
        from tether.data.doctor.fixes import check_target
        from tether.data.doctor.progress import progress_line
        from tether.errors import InputError

        if self.only and self.fix is None:
            raise InputError(f"--only {' '.join(self.only)}: it selects repairs, so --fix OUT.hdf5 is needed")
        if self.fix is not None:
            check_target(self.fix)
        with progress_line(self.quiet) as progress:
            report = last = check(self.source, progress)
            repaired = self.fix is not None and bool(report.fixable() or self.only)
            if self.fix is not None and repaired:
                report, last = repair(self.source, report, self.fix, self.only, progress)
            progress("pictures")
            paths = report.save(self.out or Path(f"check-{report.data.raw.name.replace('/', '-')}"))
        print_out(report.table())
        for path in paths:
            print_out(f"report   {path}")
        if repaired:
            print_out(f"fixed    {self.fix}: grade {last.grade} ({last.counts()})")
        elif self.fix is not None:
            print_out(f"fixed    nothing that needs no judgement: {self.fix} is not written")
        return 1 if last.count("error") else 0


Patterns = Annotated[tuple[str, ...], arg(metavar="COLUMN ...")]


@dataclasses.dataclass(frozen=True)
class Import:
    """Turn logs (CSV, Parquet, npz, HDF5) into a data set.

    Several files, or a folder of them, are an episode each unless --episode says otherwise. What you do not say is
    assumed aloud, or refused with the choices. Actions are scaled to [-1, 1]; the policy scales them back.

    Examples:
      tether data import log.csv --observation "q_*" --action "tau_*" --reward r --out set.hdf5
      tether data import runs/ --observation "q*" tip --action u --reward="-norm(tip)" --time t --out set.hdf5
      tether data import a.npz b.npz --observation state --action u --reward rewards:progress --out set.hdf5
    """

    logs: Annotated[Positional[tuple[Path, ...]], arg(metavar="LOGS ...")]
    """Files or folders."""
    observation: Patterns
    """What the policy sees: columns, in this order; * and ? stand for any letters, joint_2 comes before joint_10."""
    action: Patterns
    """What the policy decides."""
    out: Annotated[Path, arg(metavar="HDF5")]
    """The data set; must not exist."""
    reward: Annotated[str | None, hint("refused, with the choices", "COLUMN|ARITHMETIC|MODULE:FUNCTION")] = None
    """A column; arithmetic over columns; or a function of an episode's columns that gives a number for each row."""
    episode: Annotated[str | None, hint("each file, or flags", "COLUMN")] = None
    """What changes from one episode to the next; `none`: one recording without a break."""
    terminal: Annotated[str | None, hint("no episode truly ended", "COLUMN")] = None
    """1 where the task truly ended (fallen, broken, done), so that nothing follows."""
    truncated: Annotated[str | None, hint("where an episode's rows end", "COLUMN")] = None
    """1 where the recording was cut (time limit, operator)."""
    time: Annotated[str | None, hint("rows are in order", "COLUMN")] = None
    """Sorts the rows of each episode."""
    action_low: Annotated[tuple[float, ...], hint("the data's, unless within [-1, 1]", "X ...")] = ()
    """The robot's lowest action: one number for all actions, or one each."""
    action_high: Annotated[tuple[float, ...], hint("the data's, unless within [-1, 1]", "X ...")] = ()
    """The robot's highest action."""

    def run(self) -> int:
        """Write the file and say what is in it."""
        from tether.data.importing import Options, import_logs, import_report

        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(Options)}
        for line in import_report(import_logs(self.logs, Options(**options), self.out)):
            print_out(line)
        return 0


DATA_VERBS: dict[str, type] = {
    "show": Show,
    "list": List,
    "check": Check,
    "import": Import,
}
