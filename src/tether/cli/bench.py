"""`tether bench`."""

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from tether.cli.parts import Precision, assignments, hint, print_out
from tether.cli.words import given_fields, option_name
from tether.errors import InputError

__all__ = ["Bench"]

OF_TRAINING = ("lanes", "seconds", "precision", "pictures")  # acting has no use for them


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure updates per second and latency against the matmul rate of this machine.

    Rows are written to --out as they are measured; what it holds already is not measured again.

    Examples:
      tether bench dtql dac --lanes 1,4 --out bench.json --pictures pictures
      tether bench --act --budget-ms 1 dtql runs/dtql-hopper-medium-20260101-120000
      tether bench --act --candidates 1,16,64,256,1024 dtql
      tether bench --merge first.json second.json --out both.json
    """

    algorithms: Annotated[Positional[tuple[str, ...]], hint("all algorithms", "ALGORITHM|DIR ...")] = ()
    """Algorithms; with --act also folders of policies or runs."""
    batch_size: Annotated[int, arg(metavar="N")] = 256
    """Transitions in a minibatch."""
    observation_size: Annotated[int, arg(metavar="N")] = 11
    """Size of an observation; Hopper's by default."""
    action_size: Annotated[int, arg(metavar="N")] = 3
    """Size of an action; Hopper's by default."""
    chunk: Annotated[int, arg(metavar="H")] = 1
    """Actions that one decision gives (docs/framing.md)."""
    history: Annotated[int, arg(metavar="H")] = 1
    """Observations that a decision sees."""
    lanes: Annotated[str, arg(metavar="N1,N2,...")] = "1"
    """Seeds side by side: how many, each measured; several are compared in rounds."""
    seconds: Annotated[float, arg(metavar="S")] = 5.0
    """Time for each measurement."""
    precision: Precision = "float32"
    """Precision of the matmuls, those of the reference included."""
    set: Annotated[tuple[str, ...], hint("none", "NAME=VALUE ...")] = ()
    """Hyper-parameters."""
    act: bool = False
    """Measure acting only, on one core."""
    candidates: Annotated[str | None, hint("the algorithm's own", "N1,N2,...")] = None
    """Numbers of candidates to measure, with --act."""
    budget_ms: Annotated[float | None, hint("none", "MS")] = None
    """Find the most candidates whose 99th percentile is within so many milliseconds, with --act."""
    merge: Annotated[tuple[Path, ...], hint("none", "JSON ...")] = ()
    """Measure nothing: put the rows of these files together into --out."""
    out: Annotated[Path | None, hint("none", "JSON")] = None
    """The file for the figures."""
    fresh: bool = False
    """Measure also what --out holds already; policy folders, which may have changed, always are."""
    pictures: Annotated[Path | None, hint("none", "DIR")] = None
    """Folder for lanes.png and limits.png."""
    quiet: bool = False
    """No progress on stderr."""

    def run(self) -> int:
        """Measure, print the table, write the files."""
        if (self.candidates is not None or self.budget_ms is not None) and not self.act:
            raise InputError("--candidates and --budget-ms are of acting: add --act")
        if self.act and (refused := [option_name(name) for name in given_fields(self) if name in OF_TRAINING]):
            raise InputError(f"{refused[0]} is of training: leave out --act")
        if self.out is not None and not self.out.resolve().parent.is_dir():
            raise InputError(f"{self.out}: there is no folder {self.out.resolve().parent}")
        if self.merge:
            return self._merge()
        return self._act() if self.act else self._train()

    def _settings(self) -> Any:
        from tether.bench import BenchOptions
        from tether.data.framing import Framing
        from tether.types import Spec

        step = Spec(self.observation_size, self.action_size)
        decision = Framing(chunk=self.chunk, history=self.history).decision(step)
        return BenchOptions(
            batch_size=self.batch_size,
            observation_size=decision.observation_size,
            action_size=decision.action_size,
            lanes=_numbers("--lanes", self.lanes),
            seconds=self.seconds,
            precision=self.precision,
            changes=assignments("--set", self.set),
        )

    def _tell(self, text: str) -> None:
        if not self.quiet:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def _train(self) -> int:
        from tether.bench import bench, bench_table

        how = {"out": self.out, "fresh": self.fresh, "command": _command(), "tell": self._tell}
        figures = bench(self.algorithms, self._settings(), **how)
        print_out(bench_table(figures))
        self._draw(figures)
        return 0

    def _act(self) -> int:
        _keep_to_one_core()
        from tether.bench.acting import bench_acting
        from tether.bench.suite import Book, usable_algorithms
        from tether.bench.table import acting_table

        settings = self._settings()
        book, rows = Book(settings, self.out, _command()), []

        def keep(found: list[dict[str, Any]]) -> None:
            rows.extend(found)
            book.add(found)

        def known(name: str, changes: Mapping[str, int]) -> dict[str, Any] | None:
            row = None if self.fresh else book.acting(name, changes)
            rows.extend([] if row is None else [dict(row)])
            return None if row is None else dict(row)

        candidates = () if self.candidates is None else _numbers("--candidates", self.candidates)
        how: dict[str, Any] = {"candidates": candidates, "budget_ms": self.budget_ms}
        names = self.algorithms or usable_algorithms(self._tell)
        chosen = bench_acting(names, settings, **how, tell=self._tell, keep=keep, known=known)
        cores = book.run["machine"]["cores"]
        print_out(acting_table(rows, f"one observation, host to host, {cores} core{'s' if cores > 1 else ''}"))
        for name, found in chosen.items():
            print_out(_advice(name, found, self.budget_ms or 0.0))
        return 0

    def _merge(self) -> int:
        from tether.bench import bench_table, merge_figures, read_figures
        from tether.machine.files import atomic_write_json

        if self.out is None:
            raise InputError("--merge: name the file to write with --out")
        figures = merge_figures([read_figures(path) for path in self.merge])
        atomic_write_json(self.out, figures)
        print_out(bench_table(figures))
        self._draw(figures)
        return 0

    def _draw(self, figures: Mapping[str, Any]) -> None:
        if self.pictures is not None:
            from tether.bench.pictures import draw_pictures

            for path in draw_pictures(figures, self.pictures):
                print_out(f"picture {path}")


def _keep_to_one_core() -> None:
    """Pin this process to one core where the system can; before JAX starts, which makes a thread for each core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _advice(name: str, found: Any, budget: float) -> str:
    """One line: what to do with what was found."""
    from tether.bench.table import settings_text

    words = settings_text(found.settings) or "its own settings"
    time = f"p50 {found.row['milliseconds_p50']:.3f} ms, p99 {found.row['milliseconds_p99']:.3f} ms"
    if not found.met:
        return f"{name}: nothing keeps within {budget:g} ms; the fastest is {words}: {time}"
    if not found.settings:
        return f"{name}: its own settings keep within {budget:g} ms: {time}"
    python = ", ".join(f"{field}={value}" for field, value in found.settings.items())
    shell = " ".join(f"{field}={value}" for field, value in found.settings.items())
    folder = name if Path(name).is_dir() else "FOLDER"
    apply = f'load_policy("{folder}", {python}), or tether evaluate {folder} --set {shell}'
    return f"{name}: {words} keeps within {budget:g} ms: {time}; to act so: {apply}"


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """`1,4,16`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r}: write whole numbers with commas between them, such as 1,4,16") from None


def _command() -> str:
    return " ".join(["tether", *sys.argv[1:]])
