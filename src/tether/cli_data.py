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


Patterns = Annotated[tuple[str, ...], arg(metavar="COLUMN ...")]


@dataclasses.dataclass(frozen=True)
class Import:
    """Turn logs (CSV, Parquet, npz, HDF5) into a data set to train on.

    Several files, or a folder of them, are an episode each unless --episode says otherwise. What you do not say is
    assumed aloud, or refused with the choices. Actions are scaled to [-1, 1]; the policy scales them back.

    Examples:
      tether data import log.csv --observation "joint_*" --action "torque_*" --reward r --episode run --out set.hdf5
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
    "import": Import,
}
