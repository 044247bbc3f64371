"""`tether reproduce`: a published table, row or cell trained again, with a verdict."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from tether.cli.parts import Assignments, Precision, assignments, hint, print_out
from tether.errors import InputError

if TYPE_CHECKING:  # it imports JAX, which --help does not wait for
    from tether.studies.reproduce.study import Reproduction

__all__ = ["Reproduce"]

Jobs = list[Any]  # that failed; below, `list` is an option


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Train what a paper reports, by its preset, and say whether the published number comes out.

    TARGET is a table (--list), a row or a cell of it.

    The verdict: inside, below or above the published band, or not comparable and why.

    Where a learning curve is published, a shorter run is compared at the same number of updates.

    The same command goes on where it was stopped; finished runs are kept. docs/reproduce.md has more.

    Examples:
      tether reproduce --list
      tether reproduce dtql-table-1/hopper-medium-v2 --seeds 4
      tether reproduce corl-locomotion/hopper-medium-v2/IQL --dry-run
      tether reproduce ogbench-qc/scene-play --updates 100000 --seeds 1
      tether reproduce bdpo-eta/halfcheetah-medium-v2 --slurm
      tether reproduce dac-table-1/halfcheetah-medium-v2 --runs runs/dac-mine
    """

    target: Annotated[Positional[str | None], hint("none, with --list", "TARGET")] = None
    """TABLE, TABLE/TASK, TABLE/TASK/METHOD, TABLE/TASK/VARIANT."""
    list: bool = False
    """Show the published tables; with a target, its numbers."""
    seeds: Annotated[int, arg(metavar="N")] = 3
    """Seeds of each run, side by side in one program."""
    updates: Annotated[int | None, hint("as published")] = None
    """Updates of the training phase; rates decay as in the whole length."""
    pretrain_updates: Annotated[int | None, hint("as published")] = None
    """Updates of the pretraining phase."""
    eval_episodes: Annotated[int | None, hint("as published")] = None
    """Episodes of each seed in an evaluation."""
    data: Annotated[Path | None, hint("D4RL by name; OGBench's regenerated", "DIR")] = None
    """Folder with files named after data sets: hopper-medium-v2.hdf5, hopper-medium.hdf5, scene-play-v0.npz."""
    protocol: Literal["", "last", "best"] = ""
    """Which number of tables that have both (CORL's); by default the last."""
    set: Assignments = ()
    """Hyper-parameters, over the preset's: then it is no longer the published setting."""
    precision: Precision = "float32"
    """Precision of the matmuls of training."""
    out: Annotated[Path | None, hint("reproduce/TARGET", "DIR")] = None
    """The study's folder; one that was begun with the same options is continued."""
    runs: Annotated[tuple[Path, ...], hint("none: train", "RUN ...")] = ()
    """Judge these run folders, of the target's methods and tasks; nothing is trained."""
    verdict: bool = False
    """Run nothing; say what is known so far."""
    dry_run: bool = False
    """Run and write nothing; say what would be trained, for about how long, with how much memory."""
    workers: Annotated[int, arg(metavar="N")] = 1
    """Runs at a time on this machine."""
    ray: bool = False
    """Run on a Ray cluster."""
    address: Annotated[str | None, hint("RAY_ADDRESS, or a cluster of this machine", "HOST")] = None
    """Address of the Ray cluster."""
    slurm: bool = False
    """Run nothing; write sweep.sbatch, a job array for Slurm."""
    quiet: bool = False
    """No progress on stderr."""

    def run(self) -> int:
        """Train what is missing, then the verdicts; 1 if a run failed, a seed diverged or a verdict is `below`."""
        if sum([self.ray, self.slurm, self.dry_run, self.verdict, bool(self.runs)]) > 1:
            raise InputError("--ray, --slurm, --dry-run, --verdict and --runs exclude each other")
        if self.workers < 1:
            raise InputError(f"workers {self.workers}: at least 1 is needed")
        if self.list or self.target is None:
            return self._list()
        from tether.studies.reproduce.study import judged, open_reproduction, outcome_table

        if self.runs:
            outcomes = judged(self.target, self.runs, self.protocol)
            print_out(outcome_table(outcomes, self.target))
            return _exit_code(outcomes)
        study = open_reproduction(self._options())
        if self.dry_run or self.verdict:
            study.check_folder()
        if self.dry_run:
            return self._dry_run(study)
        return self._verdicts(study, [] if self.verdict else self._train(study))

    def _list(self) -> int:
        from rich.table import Table

        from tether.studies.reproduce.targets import find_numbers, table_lines

        if self.target is not None:
            print_out(_numbers_table(*find_numbers(self.target)))
            return 0
        table = Table("target", "what", "numbers", "methods trained", title="published results", title_justify="left")
        for row in table_lines():
            table.add_row(*row)
        print_out(table)
        return 0

    def _options(self) -> Any:
        from tether.studies.reproduce.study import ReproduceOptions

        assert self.target is not None
        own = {field.name for field in dataclasses.fields(ReproduceOptions)} - {"out", "hyperparameters"}
        out = self.out or Path("reproduce") / self.target.strip("/").replace("/", "-").replace(" ", "-")
        given = {name: getattr(self, name) for name in own}
        return ReproduceOptions(**given, out=out, hyperparameters=assignments("--set", self.set))

    def _dry_run(self, study: "Reproduction") -> int:
        """What is left to do, in words."""
        from tether.studies.dry_run import describe_sweep
        from tether.studies.sweep.jobs import job_result

        if study.spec is not None:
            done = [job for job in study.spec.jobs if job_result(self._options().out / "jobs" / job.name) is not None]
            left = [job for job in study.spec.jobs if job not in done]
            print_out(describe_sweep(left, self._options().out))
        for name, folder in study.missing_data():
            print_out(f"data    {name} would be regenerated into {folder} (about 45 minutes of processor time)")
        for cell in study.cells:
            if cell.obstacle:
                print_out(f"not run {cell.name}: {cell.obstacle}")
        return 0

    def _train(self, study: "Reproduction") -> Jobs:
        """Run what is not finished -> the jobs that failed."""

        def say(text: str) -> None:
            if not self.quiet:
                sys.stderr.write(f"{text}\n")

        folder = study.open()
        study.fetch(self.quiet, shlex.join(["tether", *sys.argv[1:]]))
        if self.slurm:
            from tether.studies.sweep.slurm import write_script

            print_out(f"sbatch {write_script(folder)}")
            return []
        if self.ray:
            from tether.studies.sweep.ray import run_on_ray

            return run_on_ray(folder, self.address, say)
        from tether.studies.sweep.local import run_locally

        return run_locally(folder, self.workers, say)

    def _verdicts(self, study: "Reproduction", failed: Jobs) -> int:
        from tether.studies.reproduce.study import outcome_table, write_verdicts

        outcomes = study.outcomes()
        print_out(outcome_table(outcomes, str(self.target)))
        print_out(f"verdicts {write_verdicts(study.options, outcomes)}")
        for job in failed:
            sys.stderr.write(f"tether: {job.name} failed; see its log beside it\n")
        return 1 if failed else _exit_code(outcomes)


def _exit_code(outcomes: Sequence[Any]) -> int:
    return int(any(found.diverged or found.verdict.word == "below" for found in outcomes))


def _numbers_table(published: Any, numbers: Sequence[Any]) -> Any:
    """Some numbers of a table."""
    from rich.table import Table

    table = Table(title=f"{published.title} ({published.source})", title_justify="left")
    for name in ("task", "method", "variant", "protocol", "updates", "value", "spread", "interval"):
        table.add_column(name, justify="left" if name in ("task", "method", "variant", "protocol") else "right")
    for number in numbers:
        plain = ["" if value is None else f"{value:g}" for value in (number.value, number.spread)]
        interval = "" if number.low is None else f"{number.low:g} to {number.high:g}"
        updates = "" if number.updates is None else f"{number.updates:,}"
        table.add_row(number.task, number.method, number.variant, number.protocol, updates, *plain, interval)
    known = (f"unit: {published.unit}", f"protocol: {published.protocol}", f"spread: {published.spread or 'none'}")
    more = (f"seeds: {published.seeds or 'not known'}", f"episodes: {published.episodes or 'not known'}")
    licence = published.licence or "figures of a paper"
    table.caption = "; ".join([*known, *more, f"environments: {published.environments or '-'}", f"licence: {licence}"])
    table.caption_justify = "left"
    return table
