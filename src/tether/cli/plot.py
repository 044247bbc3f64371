"""`tether plot`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from tether.cli.parts import (
    hint,
    print_out,
    several,
)
from tether.errors import InputError

__all__ = ["Plot"]


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw score over updates of one or several runs of the same task, or what a run's processes did when.

    A sweep has one line for each arm.

    Examples:
      tether plot runs/dtql-hopper-medium-20260101-120000
      tether plot runs/dtql-hopper-medium-20260101-120000 --losses
      tether plot runs/dtql-hopper-medium-20260101-120000 --timeline
      tether plot runs/first runs/second --out comparison.pdf
    """

    folders: Annotated[Positional[tuple[Path, ...]], several("DIR ...")]
    """Run folders."""
    losses: bool = False
    """The losses of one run, beside those on held-out episodes; also where nothing was evaluated."""
    timeline: bool = False
    """When the processes of one run trained, waited and evaluated."""
    out: Annotated[Path | None, hint("curve.png, losses.png or timeline.png in the first folder", "FILE")] = None
    """The picture, in the format of its name: .pdf, .png or .svg. Replaced where it exists."""

    def run(self) -> int:
        """Write the picture and say where."""
        from tether.runs.report import plot_run_losses, plot_runs
        from tether.runs.timeline import draw_timeline

        folders = list(self.folders)
        if not folders:
            raise InputError("plot: name at least one run folder")
        if (self.timeline or self.losses) and len(folders) > 1:
            raise InputError(f"plot --{'timeline' if self.timeline else 'losses'}: name one run folder")
        kind = "timeline" if self.timeline else "losses" if self.losses or _is_not_evaluated(folders) else "curve"
        path = self.out or folders[0] / f"{kind}.png"
        if self.out is not None and not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}")
        if kind == "timeline":
            draw_timeline(folders[0], path)
        elif kind == "losses":
            plot_run_losses(folders[0], path)
        else:
            plot_runs(folders, path)
        print_out(str(path))
        return 0


def _is_not_evaluated(folders: list[Path]) -> bool:
    """Whether it is a single run that has metrics and no evaluations."""
    from tether.runs.records import evaluation_log, metric_log

    one = len(folders) == 1 and (folders[0] / "config.json").exists()
    return one and not evaluation_log(folders[0]).read() and bool(metric_log(folders[0]).read())
