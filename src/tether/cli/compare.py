"""`tether compare`: several algorithms on the same data."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from tether.cli.parts import Precision, hint, print_out
from tether.cli.words import given_fields
from tether.errors import InputError

if TYPE_CHECKING:  # it imports JAX, which --help does not wait for
    from tether.studies.compare import Request

__all__ = ["Compare"]


@dataclasses.dataclass(frozen=True)
class Compare:
    """Train several algorithms on the same data, seeds and evaluation episodes: one table, one picture.

    Each takes its published settings for the data, if there are any, and leaves a run folder in --out.

    With the same --out again, what is finished is kept and what was stopped goes on.

    DIR alone: table and picture of what is there, drawn anew.

    Examples:
      tether compare --data hopper-medium.hdf5 --algorithms bc,td3-bc,iql --seeds 2 --out mine
      tether compare --out mine
      tether compare mine --cost time
    """

    folder: Annotated[Positional[Path | None], hint("none: train", "DIR")] = None
    """A comparison to draw again, also an unfinished one; nothing is trained."""
    data: Annotated[str | None, hint("that of --out, to go on", "DATASET")] = None
    """A source, as for `tether train`."""
    algorithms: Annotated[str | None, hint("those of --out, to go on", "NAME,NAME,...")] = None
    """Names, separated by commas; `tether algorithms` lists them."""
    out: Annotated[Path | None, hint("runs/compare-DATASET-TIME", "DIR")] = None
    """The comparison's folder: new, or one to go on with."""
    seeds: Annotated[int, arg(metavar="N")] = 3
    """Seeds of each algorithm, side by side in one program: 0, 1, ..."""
    updates: Annotated[int, arg(metavar="N")] = 100_000
    """Updates of each algorithm's last phase."""
    pretrain_updates: Annotated[int | None, hint("the preset's, or the algorithm's")] = None
    """Updates of every phase before the last."""
    batch_size: Annotated[int | None, hint("the preset's, or 256")] = None
    """Transitions in a minibatch."""
    preset: Annotated[str, hint("auto, by the data set's name", "TASK")] = "auto"
    """A task whose published settings every algorithm takes that has some, or `none`."""
    preset_less: bool = False
    """Every algorithm's defaults: the same as --preset none."""
    set: Annotated[tuple[str, ...], hint("none", "[ALGORITHM.]NAME=VALUE ...")] = ()
    """Hyper-parameters, over presets and defaults: of one algorithm, or of all that have it."""
    environment: Annotated[str | None, hint("by the data set's name", "TASK")] = None
    """Task to evaluate in (`tether tasks`), or `none`: then there are losses only."""
    horizon: Annotated[int | None, hint("the environment's own limit")] = None
    """Steps after which evaluated episodes are cut; needed for an environment without a time limit."""
    reward_transform: Annotated[str | None, hint("each preset's, or none", "NAME")] = None
    """How all see rewards, e.g. iql_locomotion."""
    observation_transform: Annotated[str | None, hint("each preset's, or none", "NAME")] = None
    """How all see observations, e.g. standardise."""
    continuous: bool = False
    """Actions of whole numbers are levels, not choices among which they are indices."""
    eval_every_updates: Annotated[int | None, hint("a tenth of the updates")] = None
    """Updates between evaluations."""
    eval_episodes: Annotated[int, arg(metavar="N")] = 10
    """Episodes of each seed in an evaluation, from the same starts for all."""
    precision: Precision = "float32"
    """Precision of the matmuls of training; parameters, optimiser and targets stay float32."""
    chunk: Annotated[int, arg(metavar="H")] = 1
    """Actions that one decision of all gives (docs/framing.md)."""
    execute: Annotated[int | None, hint("the whole chunk", "K")] = None
    """How many actions of a chunk are carried out before the next decision."""
    n_step: Annotated[int, arg(metavar="N")] = 1
    """Steps of the returns that critics learn from, where a decision is a single action."""
    history: Annotated[int, arg(metavar="H")] = 1
    """Observations that a decision sees, the last ones."""
    history_actions: bool = False
    """A decision also sees the actions between these observations."""
    cost: Literal["compute", "time"] = "compute"
    """What the picture draws the score against: FLOP of training, or seconds."""
    dry_run: bool = False
    """Write nothing: say what would be trained, for about how long, with how much memory."""
    quiet: bool = False
    """No progress on stderr, only warnings."""

    def run(self) -> int:
        """Train, or only draw; 1 if an algorithm failed or diverged."""
        from tether.studies.compare import comparison_table, continue_comparison, draw, start_comparison

        asked = self._asked()
        if self.dry_run and (self.data is None or self.algorithms is None):
            raise InputError("compare --dry-run: name --data and --algorithms")
        if self.folder is not None:
            if asked or self.out is not None:
                given = f"--{(asked or ['out'])[0]}".replace("_", "-")
                raise InputError(f"compare {self.folder} {given}: DIR alone draws what is there; to train, use --out")
            comparison = draw(self.folder, self.cost)
        elif self.data is None and self.algorithms is None and self.out is not None:
            if asked:
                raise InputError(f"--{asked[0].replace('_', '-')}: {self.out} goes on as it began; name --data, too")
            comparison = continue_comparison(self.out, self.cost, self.quiet)
        elif self.data is None or self.algorithms is None:
            raise InputError("compare: name --data and --algorithms, or the DIR of a comparison")
        elif self.dry_run:
            from tether.studies.dry_run import describe_comparison

            print_out(describe_comparison(self._request(self.data, self.algorithms), self.out))
            return 0
        else:
            comparison = start_comparison(self._request(self.data, self.algorithms), self.out, self.cost, self.quiet)
        print_out(comparison_table(comparison))
        for line in comparison.closing_lines():
            print_out(line)
        return 0 if self.folder is not None or comparison.succeeded else 1

    def _asked(self) -> list[str]:
        """The options of training that were given."""
        no_part = ("folder", "out", "cost", "dry_run", "quiet")
        return [name for name in given_fields(self) if name not in no_part]

    def _request(self, data: str, algorithms: str) -> "Request":
        from tether.studies.compare import Request

        if self.preset_less and self.preset not in ("auto", "none"):
            raise InputError(f"--preset {self.preset} and --preset-less exclude each other")
        from tether.data import Framing

        return Request(
            source=data,
            algorithms=tuple(name.strip() for name in algorithms.split(",") if name.strip()),
            seeds=self.seeds,
            updates=self.updates,
            pretrain_updates=self.pretrain_updates,
            batch_size=self.batch_size,
            preset="none" if self.preset_less else self.preset,
            assignments=self.set,
            environment=self.environment,
            horizon=self.horizon,
            reward_transform=self.reward_transform,
            observation_transform=self.observation_transform,
            continuous=self.continuous,
            eval_every_updates=self.eval_every_updates,
            eval_episodes=self.eval_episodes,
            precision=self.precision,
            framing=Framing.of(self),
            command=" ".join(["tether", *sys.argv[1:]]),
        )
