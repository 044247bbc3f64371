"""`tether sweep`: algorithms x data sets x settings x seeds, on Ray, here, or with Slurm."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from tether.cli.parts import hint, print_out
from tether.errors import InputError

__all__ = ["Sweep"]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Train many programs: algorithms x data sets x settings x seeds, from a spec in TOML.

    Jobs run on a Ray cluster, with --local here. The same command again does what is left.

    docs/sweeps.md describes the spec.

    Examples:
      tether sweep sweep.toml --out sweeps/first
      tether sweep sweep.toml --out sweeps/first --local --workers 2
      tether sweep sweep.toml --out sweeps/first --slurm
      tether sweep sweep.toml --out sweeps/first --table
    """

    spec: Annotated[Positional[Path], arg(metavar="SPEC")]
    """The TOML file."""
    out: Annotated[Path | None, hint("sweeps/NAME, by the spec's name", "DIR")] = None
    """The folder of the sweep; one that was begun with the same spec is continued."""
    local: bool = False
    """Run the jobs on this machine, without Ray."""
    workers: Annotated[int, arg(metavar="N")] = 1
    """Jobs at a time, with --local."""
    slurm: bool = False
    """Run nothing; write sweep.sbatch, a job array for Slurm."""
    table: bool = False
    """Run nothing; show what is known so far."""
    dry_run: bool = False
    """Run and write nothing; say what would be trained, for about how long, with how much memory."""
    job: Annotated[int | None, hint("all of them", "N")] = None
    """Run only the job with this number, here (what --local and --slurm call)."""
    address: Annotated[str | None, hint("RAY_ADDRESS, or a cluster of this machine", "HOST")] = None
    """Address of the Ray cluster."""
    quiet: bool = False
    """No progress on stderr."""

    def run(self) -> int:
        """Run the jobs and write the table; 1 if a job failed or a lane diverged."""
        from tether.studies.sweep.jobs import SweepFolder
        from tether.studies.sweep.spec import load_spec

        if sum([self.local, self.slurm, self.table, self.dry_run, self.job is not None]) > 1:
            raise InputError("--local, --slurm, --table, --dry-run and --job exclude each other")
        if self.workers < 1:
            raise InputError(f"workers {self.workers}: at least 1 is needed")
        spec = load_spec(self.spec)
        if self.dry_run:
            return self._dry_run(spec)
        folder = SweepFolder.open((self.out or Path("sweeps") / self.spec.stem).resolve(), spec)
        if self.job is not None:
            return self._one(folder)
        if self.slurm:
            from tether.studies.sweep.slurm import write_script

            print_out(f"sbatch {write_script(folder)}")
            return 0
        return self.show_report(folder, [] if self.table else self._all(folder))

    def _dry_run(self, spec: Any) -> int:
        """What is left to do, in words."""
        from tether.studies.dry_run import describe_sweep
        from tether.studies.sweep.jobs import job_result

        folder = self.out or Path("sweeps") / self.spec.stem
        left = [job for job in spec.jobs if job_result(folder / "jobs" / job.name) is None]
        print_out(describe_sweep(left, folder))
        return 0

    def _one(self, folder: Any) -> int:
        """The work of one job; 1 if a lane diverged is left to the table."""
        from tether.studies.sweep.jobs import run_job

        jobs = folder.spec.jobs
        assert self.job is not None
        if not 0 <= self.job < len(jobs):
            raise InputError(f"job {self.job}: the spec has jobs 0 to {len(jobs) - 1}")
        run_job(jobs[self.job], folder.run_folder(jobs[self.job]), quiet=self.quiet)
        return 0

    def _all(self, folder: Any) -> list[Any]:
        """Run what is not finished -> the jobs that failed."""

        def say(text: str) -> None:
            if not self.quiet:
                sys.stderr.write(f"{text}\n")

        jobs = folder.spec.jobs
        say(f"{len(jobs)} jobs with {sum(len(job.lanes) for job in jobs)} lanes, {len(folder.unfinished())} to do")
        if self.local:
            from tether.studies.sweep.local import run_locally

            return run_locally(folder, self.workers, say)
        from tether.studies.sweep.ray import run_on_ray

        return run_on_ray(folder, self.address, say)

    def show_report(self, folder: Any, failed: list[Any]) -> int:
        from tether.studies.sweep.table import sweep_table, write_table

        rows = write_table(folder)
        print_out(sweep_table(rows, folder.path.name))
        print_out(f"table   {folder.path / 'table.csv'}")
        missing = sum(row.seeds - row.finished for row in rows)
        diverged = sum(row.diverged for row in rows)
        if failed or missing or diverged:
            names = f" ({', '.join(job.name for job in failed)})" if failed else ""
            sys.stderr.write(f"tether: {missing} lanes have no result{names}, {diverged} diverged\n")
        return 1 if failed or diverged or (missing and not self.table) else 0
