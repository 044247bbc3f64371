"""`tether report`: a page for a study, for any runs, or for a policy beside a log."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from tether.cli.parts import hint, print_out, several
from tether.errors import InputError

__all__ = ["Report"]


@dataclasses.dataclass(frozen=True)
class Report:
    """Make a page of a study or of any runs, or of what a policy would do beside what was logged.

    Of runs: verdicts, scores, curves, aggregates, costs, protocol.

    With --data, of a policy: its actions beside the log's, disagreements, sensitivity, trust.

    One self-contained HTML file; the tables also for LaTeX and Markdown, figures as SVG and PDF.

    Examples:
      tether report reproduce/dac-table-1
      tether report runs/first runs/second --out mine
      tether report sweeps/first --title "Learning rates"
      tether report runs/first --data logs.hdf5
    """

    folders: Annotated[Positional[tuple[Path, ...]], several("RUN|FOLDER ...")]
    """Run folders, or folders of studies: all runs below them; with --data, one run or policy folder."""
    data: Annotated[str | None, hint("none", "DATASET")] = None
    """A log: say what the policy would do there beside what was done."""
    rows: Annotated[int, arg(metavar="N")] = 2000
    """With --data: at so many logged observations the policy is asked."""
    continuous: bool = False
    """With --data: actions of whole numbers are levels, as of `tether train`."""
    out: Annotated[Path | None, hint("report, or policy-report, in the folder where there is one", "DIR")] = None
    """Folder for page, tables and figures; files that are there are replaced."""
    title: Annotated[str | None, hint("the target, or the folders' names", "TEXT")] = None
    """Of the page."""

    def run(self) -> int:
        """Write and say where."""
        from tether.studies.report import make_report

        if self.data is not None:
            return self._of_policy(self.data)
        if not self.folders:
            raise InputError("report: name at least one folder")
        out = self.out or (self.folders[0] / "report" if len(self.folders) == 1 else Path("report"))
        command = shlex.join(["tether", *sys.argv[1:]])
        for path in make_report(list(self.folders), out, title=self.title, command=command):
            print_out(str(path))
        return 0

    def _of_policy(self, source: str) -> int:
        """With --data."""
        from tether.data import load_dataset
        from tether.studies.policy_report import make_policy_report

        if len(self.folders) != 1:
            raise InputError(f"report --data: name one run or policy folder; {len(self.folders)} are named")
        if self.rows < 1:
            raise InputError(f"rows {self.rows}: at least 1 is needed")
        out = self.out or self.folders[0] / "policy-report"
        command = shlex.join(["tether", *sys.argv[1:]])
        how = {"most_rows": self.rows, "title": self.title, "command": command}
        data = load_dataset(source, continuous=self.continuous)
        for path in make_policy_report(self.folders[0], data, out, **how):
            print_out(str(path))
        return 0
