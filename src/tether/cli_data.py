"""`tether data VERB`: one dataclass per verb. A new verb is a class here and a line in `DATA_VERBS`."""

import dataclasses
from typing import Annotated

from tyro.conf import Positional, arg

from tether.cli_parts import print_out

__all__ = ["DATA_VERBS", "DEFAULT_DATASET"]

DEFAULT_DATASET = "halfcheetah-medium-replay-small"


@dataclasses.dataclass(frozen=True)
class Show:
    """Look at a data set: sizes, episodes, returns, ranges, columns, task.

    Examples:
      tether data show
      tether data show hopper-medium.hdf5
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


DATA_VERBS: dict[str, type] = {
    "show": Show,
    "list": List,
}
