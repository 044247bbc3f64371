"""`tether choose`: which of several policies to deploy, from logged data alone."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from tether.cli.parts import hint, print_out, several
from tether.errors import InputError

__all__ = ["Choose"]


@dataclasses.dataclass(frozen=True)
class Choose:
    """Say which of several policies to deploy, from logged data alone: no simulator is needed.

    Candidates: every lane of a run, a checkpoint in a run folder, a policy folder.

    Ends with 0 where one is recommended, with 1 where they cannot be ranked.

    Examples:
      tether choose runs/first runs/second --data held-out.hdf5
      tether choose runs/first runs/first/checkpoints/train-000010000 --json choice.json
    """

    candidates: Annotated[Positional[tuple[Path, ...]], several("RUN ...")]
    """Run folders, checkpoints in them, policy folders."""
    data: Annotated[str | None, hint("what the runs trained on", "DATASET")] = None
    """A source to judge them on, as for `tether train`; best one that none was trained on."""
    discount: Annotated[float | None, hint("the candidates' own", "GAMMA")] = None
    """Of the values."""
    updates: Annotated[int | None, hint("4,096")] = None
    """Updates of each network of fitted Q evaluation."""
    members: Annotated[int, arg(metavar="N")] = 5
    """Networks of fitted Q evaluation, each fitted to episodes of its own draw."""
    rows: Annotated[int, arg(metavar="N")] = 100_000
    """At most so many rows of the log, drawn at random."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Of networks and draws."""
    continuous: bool = False
    """Actions of whole numbers in --data are levels, as of `tether train`; runs say it themselves."""
    json: Annotated[str | None, hint("none", "FILE")] = None
    """Also write the answer as JSON; `-`: in the place of the table."""
    quiet: bool = False
    """No progress on stderr, only warnings."""

    def run(self) -> int:
        """Print the table and one answer; 1 if there is no recommendation."""
        from tether.machine.files import atomic_write_json, to_json
        from tether.studies.choose import answer_line, choice_table, choose

        if not self.candidates:
            raise InputError("choose: name at least one run, checkpoint or policy folder")
        if self.json not in (None, "-") and not Path(self.json).resolve().parent.is_dir():
            raise InputError(f"--json {self.json}: no such folder")
        length = {} if self.updates is None else {"updates": self.updates}
        how = {"discount": self.discount, "members": self.members, "rows": self.rows, "seed": self.seed, **length}
        choice = choose(self.candidates, self.data, continuous=self.continuous, quiet=self.quiet, **how)
        if self.json == "-":
            sys.stdout.write(to_json(choice.to_json()))
        else:
            print_out(choice_table(choice))
            print_out(answer_line(choice.recommended, choice.reason))
            if self.json is not None:
                atomic_write_json(Path(self.json), choice.to_json())
                print_out(f"json    {self.json}")
        return 0 if choice.recommended is not None else 1
