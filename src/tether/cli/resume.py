"""`tether resume`."""

import dataclasses
from typing import Annotated

from tether.cli.parts import (
    Folder,
    Loggers,
    hint,
    show_report,
)

__all__ = ["Resume"]


@dataclasses.dataclass(frozen=True)
class Resume:
    """Continue a run that was stopped, exactly as if it had not been.

    It goes on from its newest valid checkpoint. A run that is complete is only shown again.

    Examples:
      tether resume runs/dtql-hopper-medium-20260101-120000
      tether resume runs/dtql-hopper-medium-20260101-120000 --updates 2000000
      tether resume runs/mine-20260101-120000 --environment my_package:MyRobot-v0
    """

    folder: Folder
    """The run folder."""
    logger: Loggers = ()
    """As of `tether train`; by default those that the run has had, `none`: without."""
    quiet: bool = False
    """No progress on stderr, only warnings."""
    data: Annotated[str | None, hint("as config.json says", "DATASET")] = None
    """The data that it trained on, where they were in memory or lie elsewhere now."""
    updates: Annotated[int | None, hint("the run's", "N")] = None
    """Another length of the training phase: to train on after the end, or to end early and have the policies. A rate
    that decays over the phase then decays over the new length."""
    environment: Annotated[str | None, hint("as the run began", "TASK")] = None
    """Task (`tether tasks`) or gymnasium id to evaluate in from here on, where the run has none."""
    horizon: Annotated[int | None, hint("the environment's own limit")] = None
    """With --environment: steps after which evaluated episodes are cut."""
    eval_workers: Annotated[int | None, hint("as the run began")] = None
    """Processes that play evaluations while training goes on."""
    repair: bool = False
    """Leave damaged lines out of the run's logs, keep the damaged files under another name, say what is missing."""
    distributed: Annotated[str | None, hint("TETHER_DISTRIBUTED, or one process", "HOSTS")] = None
    """Spread lanes over processes, as in `tether train`; their number and the devices may have changed."""

    def run(self) -> int:
        """Train to the end, then show the table; 1 if a lane diverged."""
        from tether.api import resume
        from tether.training.devices import connect

        connect(self.distributed)
        loggers = None if not self.logger else () if self.logger == ("none",) else self.logger
        report = resume(
            self.folder,
            dataset=self.data,
            quiet=self.quiet,
            environment=self.environment,
            horizon=self.horizon,
            eval_workers=self.eval_workers,
            updates=self.updates,
            logger=loggers,
            repair=self.repair,
        )
        return show_report(report)
