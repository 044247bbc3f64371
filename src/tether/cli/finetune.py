"""`tether finetune`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from tether.cli.parts import (
    Assignments,
    Folder,
    Loggers,
    assignments,
    hint,
    print_out,
    show_report,
)

__all__ = ["Finetune"]


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Go on training a run's policies in their environment, on what they collect and on the data.

    DIR is left as it is; a new run folder goes on from its newest checkpoint.

    Every lane collects in an environment of its own, into a replay of its own.

    Examples:
      tether finetune runs/iql-hopper-medium-20260101-120000 --env-steps 50000
      tether finetune runs/NAME --env-steps 50000 --online-fraction 1 --warmup-env-steps 5000
      tether finetune runs/NAME --env-steps 20000 --exploration-noise 0.1 --set candidates=32
    """

    folder: Folder
    """The run folder to go on from."""
    env_steps: Annotated[int, arg(metavar="N")]
    """Steps of each lane's environment; 0 evaluates only."""
    online_fraction: Annotated[float, arg(metavar="F")] = 0.5
    """Part of each minibatch that is drawn from what the lane has collected, the rest from the data; 1: no data."""
    warmup_env_steps: Annotated[int, arg(metavar="N")] = 0
    """So many of the steps are collected before the first update."""
    updates_per_step: Annotated[int, arg(metavar="N")] = 1
    """Updates for each step after that."""
    exploration_noise: Annotated[float | None, hint("the policy's own randomness, 0.1 where it has none", "STD")] = None
    """Gaussian noise on actions in [-1, 1]; Gaussian actors then act with their mean."""
    replay_capacity: Annotated[int | None, hint("all")] = None
    """Rows that are kept of each lane, the newest."""
    set: Assignments = ()
    """Hyper-parameters that are not as in the run, of those that its networks do not depend on."""
    batch_size: Annotated[int | None, hint("the run's")] = None
    """Transitions in a minibatch."""
    eval_every_env_steps: Annotated[int | None, hint("a tenth of the steps that are trained on")] = None
    """Environment steps between evaluations; the run's own policy is evaluated first."""
    eval_episodes: Annotated[int | None, hint("the run's")] = None
    """Episodes of each lane in an evaluation."""
    environment: Annotated[str | None, hint("the run's", "TASK")] = None
    """Task (`tether tasks`) or gymnasium id, where the run has none."""
    horizon: Annotated[int | None, hint("the environment's own limit")] = None
    """With --environment: steps after which episodes are cut."""
    data: Annotated[str | None, hint("as config.json says", "DATASET")] = None
    """The data that the run trained on, where they were in memory or lie elsewhere now."""
    out: Annotated[Path | None, hint("runs/finetune-ALGORITHM-DATASET-TIME", "DIR")] = None
    """The new run folder; must not exist, or be empty."""
    logger: Loggers = ()
    """As of `tether train`."""
    quiet: bool = False
    """No progress on stderr, only warnings."""
    dry_run: bool = False
    """Write nothing: say what would be done, for about how long."""

    def run(self) -> int:
        """Fine-tune, then show the table; 1 if a lane diverged."""
        from tether.api import finetune

        if self.dry_run:
            from tether.studies.dry_run import describe_finetuning

            print_out(describe_finetuning(self.folder, self.request(), self.out, self.data))
            return 0
        notes = {"command": " ".join(["tether", *sys.argv[1:]])}
        how: dict[str, Any] = {"out": self.out, "quiet": self.quiet, "notes": notes, "logger": self.logger}
        return show_report(finetune(self.folder, **vars(self.request()), dataset=self.data, **how))

    def request(self) -> Any:
        """The `FinetuneRequest` of these options. Raises InputError."""
        from tether.runs.parent import FinetuneRequest

        own = {field.name for field in dataclasses.fields(FinetuneRequest)} - {"hyperparameters"}
        changed = assignments("--set", self.set)
        return FinetuneRequest(**{name: getattr(self, name) for name in own}, hyperparameters=changed)
