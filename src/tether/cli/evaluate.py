"""`tether evaluate`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from tether.cli.parts import (
    Assignments,
    Folder,
    assignments,
    fail,
    hint,
    print_out,
)

__all__ = ["Evaluate"]


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
    data: Annotated[str | None, hint("as config.json says", "DATASET")] = None
    """The data that the run trained on, where they were in memory or lie elsewhere now."""
    runtime: Literal["jax", "onnx", "numpy", "stablehlo"] = "jax"
    """Export the policies and let what was exported play, from the same starts with the same noise."""
    video: Annotated[Path | None, hint("none", "FILE.mp4")] = None
    """Film the first episode of the best lane; a sheet of its pictures lies beside it."""
    quiet: bool = False
    """No progress on stderr, only warnings."""

    def run(self) -> int:
        """Print a row for each lane and one for all; 1 if a lane diverged."""
        import numpy as np
        from rich.table import Table

        from tether.api import evaluate
        from tether.evaluation.statistics import IQM_WORDS, statistic_of
        from tether.runs.callbacks import score_of
        from tether.runs.records import evaluation_log

        acting = assignments("--set", self.set)
        how: dict[str, Any] = {"episodes": self.episodes, "quiet": self.quiet, "acting": acting, "video": self.video}
        outcome, scores = evaluate(self.folder, dataset=self.data, runtime=self.runtime, **how)
        table = Table(title=f"{self.folder.resolve().name}: {self.episodes} episodes of each lane")
        table.title_justify = "left"
        for column in ("lane", "mean return", "mean length", "mean score", "IQM of scores", "95 % interval of it"):
            table.add_column(column, justify="right")
        alive = [bool(np.isfinite(row).all()) for row in scores]
        before, _ = evaluation_log(self.folder).read_whole()  # they choose the statistic, as in the run's own tables
        statistic = statistic_of(np.array([*scores[alive].flat, *map(score_of, before)]))
        for lane in range(len(scores)):
            cells = _outcome(outcome, scores, [lane], statistic) if alive[lane] else ["diverged"]
            table.add_row(str(lane), *cells)
        if sum(alive) > 1:
            table.add_row("all", *_outcome(outcome, scores, np.flatnonzero(alive).tolist(), statistic))
        table.caption, table.caption_justify = IQM_WORDS, "left"
        print_out(table)
        return 0 if all(alive) else fail(1, f"{alive.count(False)} of {len(alive)} lanes diverged")


def _outcome(outcome: Any, scores: Any, lanes: list[int], statistic: Any) -> list[str]:
    """The cells of a row of `tether evaluate`."""
    from tether.evaluation.statistics import aggregate

    summary = aggregate(scores[lanes], statistic=statistic)
    interval = f"[{summary.ci95_low:.1f}, {summary.ci95_high:.1f}]"
    means = f"{outcome.returns[lanes].mean():.1f}", f"{outcome.lengths[lanes].mean():.0f}", f"{summary.mean:.1f}"
    return [*means, f"{summary.iqm:.1f}", interval]
