"""`tether train`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from tether.cli.data import DEFAULT_DATASET
from tether.cli.parts import (
    Assignments,
    Loggers,
    Precision,
    assignments,
    hint,
    print_out,
    show_report,
)
from tether.errors import InputError

__all__ = ["DEFAULT_ALGORITHM", "Train"]

DEFAULT_ALGORITHM = "dtql"


@dataclasses.dataclass(frozen=True)
class Train:
    """Train an algorithm on logged data, watch its score, keep its policy.

    Without arguments: DTQL on the bundled data set, a few minutes on 2 cores.

    Examples:
      tether train dtql halfcheetah-medium.hdf5 --updates 100000 --pretrain-updates 20000
      tether train dtql hopper-medium.hdf5 --preset hopper-medium-v2 --seeds 4
      tether train dtql data.hdf5 --sweep trust_region_weight=0.5,1,5 --set candidates=64
    """

    algorithm: Annotated[Positional[str], arg(metavar="ALGORITHM")] = DEFAULT_ALGORITHM
    """Name of the algorithm; `tether algorithms` lists them."""
    dataset: Annotated[Positional[str], arg(metavar="DATASET")] = DEFAULT_DATASET
    """A bundled name, d4rl:NAME or a path; `tether data show DATASET` tells what is in it."""
    updates: Annotated[int | None, hint("the preset's, or the algorithm's")] = None
    """Updates of the training phase."""
    pretrain_updates: Annotated[int | None, hint("the preset's, or the algorithm's")] = None
    """Updates of the pretraining phase."""
    batch_size: Annotated[int | None, hint("the preset's, or 256")] = None
    """Transitions in a minibatch."""
    seeds: Annotated[int, arg(metavar="N", aliases=["--lanes.seeds"])] = 1
    """How many seeds to train side by side in one program."""
    first_seed: Annotated[int, arg(metavar="N")] = 0
    """The seeds are this one and those after it."""
    set: Assignments = ()
    """Hyper-parameters, over preset and defaults."""
    sweep: Annotated[tuple[str, ...], hint("none", "NAME=V1,V2,... ...")] = ()
    """Numeric hyper-parameters with several values: one lane for each combination and seed."""
    preset: Annotated[str, hint("auto, by the data set's name", "TASK")] = "auto"
    """A task whose published settings to take (`tether tasks`), or `none`."""
    environment: Annotated[str | None, hint("by the data set's name", "TASK")] = None
    """Task (`tether tasks`) or gymnasium id to evaluate in, or `none`."""
    horizon: Annotated[int | None, hint("the environment's own limit")] = None
    """Steps after which evaluated episodes are cut; needed for an environment without a time limit."""
    eval_every_updates: Annotated[int | None, hint("the preset's, or a tenth of the training phase")] = None
    """Updates between evaluations."""
    eval_episodes: Annotated[int | None, hint("the preset's, or 10")] = None
    """Episodes of each lane in an evaluation."""
    eval_workers: Annotated[int | None, hint("by spare cores; none on 2 cores")] = None
    """Processes that play evaluations while training goes on; 0: training waits. Changes no number."""
    eval_device: Literal["auto", "cpu", "accelerator"] = "auto"
    """Device that policies act on in evaluations; auto measures which is faster."""
    log_every_updates: Annotated[int, arg(metavar="N")] = 500
    """Updates between rows of metrics.jsonl."""
    lanes_per_group: Annotated[int | None, hint("as many as the device has room for")] = None
    """Lanes trained at once; the others take turns with them. Changes no number."""
    precision: Precision = "float32"
    """Precision of the matmuls of training; parameters, optimiser and targets stay float32."""
    reward_transform: Annotated[str | None, hint("the preset's, or none", "NAME")] = None
    """How training sees rewards, e.g. iql_locomotion."""
    observation_transform: Annotated[str | None, hint("the preset's, or none", "NAME")] = None
    """How networks see observations, e.g. standardise."""
    data_filter: Annotated[str | None, hint("the preset's, or none", "RULE")] = None
    """Which episodes to train on: top=0.1 keeps the tenth with the highest returns."""
    holdout: Annotated[str, hint("none", "FRACTION")] = "none"
    """Episodes not to train on, or mask=NAME: losses on them are logged, to stop early and to choose by."""
    continuous: bool = False
    """Actions of whole numbers are levels, not choices among which they are indices."""
    chunk: Annotated[int, arg(metavar="H")] = 1
    """Actions that one decision gives: fql --chunk 5 is Q-chunking (docs/framing.md)."""
    execute: Annotated[int | None, hint("the whole chunk", "K")] = None
    """How many actions of a chunk are carried out before the next decision."""
    n_step: Annotated[int, arg(metavar="N")] = 1
    """Steps of the returns that critics learn from, where a decision is a single action."""
    history: Annotated[int, arg(metavar="H")] = 1
    """Observations that a decision sees, the last ones."""
    history_actions: bool = False
    """A decision also sees the actions between these observations."""
    out: Annotated[Path | None, hint("runs/ALGORITHM-DATASET-TIME", "DIR")] = None
    """The run folder; must not exist, or be empty."""
    logger: Loggers = ()
    """tensorboard, wandb, mlflow, trackio, or one of your own: also log there (docs/callbacks.md). May be repeated."""
    quiet: bool = False
    """No progress on stderr, only warnings."""
    distributed: Annotated[str | None, hint("TETHER_DISTRIBUTED, or one process", "HOSTS")] = None
    """Spread lanes over several processes: auto (Slurm, MPI), or ADDRESS:PORT,PROCESSES,INDEX."""
    dry_run: bool = False
    """Write nothing: say what would be trained, for about how long, with how much memory."""

    def run(self) -> int:
        """Train, then show the table; 1 if a lane diverged."""
        if self.dry_run:
            from tether.studies.dry_run import describe_training

            seeds = range(self.first_seed, self.first_seed + self.seeds)
            print_out(describe_training(self.request(), seeds, _sweep(self.sweep), self.out))
            return 0
        from tether.api import train
        from tether.training.devices import connect

        connect(self.distributed)
        algorithm, arguments, preset = self.request().resolve()
        notes = {"command": " ".join(["tether", *sys.argv[1:]]), "preset": preset}
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        swept = _sweep(self.sweep)
        how: dict[str, Any] = {"out": self.out, "quiet": self.quiet, "notes": notes, "logger": self.logger}
        return show_report(train(algorithm, self.dataset, **arguments, seeds=seeds, sweep=swept, **how))

    def request(self) -> Any:
        """The `TrainRequest` of these options. Raises InputError for fewer than one seed."""
        from tether.presets.recipes import TrainRequest

        if self.seeds < 1:
            raise InputError(f"seeds {self.seeds}: at least 1 is needed")
        own = {field.name for field in dataclasses.fields(TrainRequest)} - {"hyperparameters"}
        return TrainRequest(
            **{name: getattr(self, name) for name in own}, hyperparameters=assignments("--set", self.set)
        )


def _sweep(words: tuple[str, ...]) -> dict[str, list[float]]:
    """name=v1,v2 words as a dict of numbers."""
    try:
        return {n: [float(v) for v in values.split(",")] for n, values in assignments("--sweep", words).items()}
    except ValueError:
        raise InputError(f"--sweep {' '.join(words)!r}: write name=v1,v2,... with numbers") from None
