"""`tether report`: a page for a study, or for any runs."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from tether.cli.parts import hint, print_out
from tether.errors import InputError

__all__ = ["Report"]


@dataclasses.dataclass(frozen=True)
class Report:
    """Make a page of a study or of any runs: verdicts, scores, curves, aggregates, costs, protocol.

    One self-contained HTML file; the tables also for LaTeX and Markdown, the figures as SVG and PDF.

    Examples:
      tether report reproduce/dac-table-1
      tether report runs/first runs/second --out mine
      tether report sweeps/first --title "Learning rates"
    """

    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN|FOLDER ...")]
    """Run folders, or folders of studies: all runs below them."""
    out: Annotated[Path | None, hint("report, in the folder where there is one", "DIR")] = None
    """Folder for page, tables and figures; files that are there are replaced."""
    title: Annotated[str | None, hint("the target, or the folders' names", "TEXT")] = None
    """Of the page."""

    def run(self) -> int:
        """Write and say where."""
        from tether.studies.report import make_report

        if not self.folders:
            raise InputError("report: name at least one folder")
        out = self.out or (self.folders[0] / "report" if len(self.folders) == 1 else Path("report"))
        command = shlex.join(["tether", *sys.argv[1:]])
        for path in make_report(list(self.folders), out, title=self.title, command=command):
            print_out(str(path))
        return 0
