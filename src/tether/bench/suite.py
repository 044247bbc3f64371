"""All rows that were asked for, one after the other; each is kept as soon as it is measured."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from tether.algorithms import ALGORITHMS
from tether.algorithms.callables import with_value_range
from tether.bench.acting import measure_acting, untrained_policy
from tether.bench.options import BenchOptions, describe_run
from tether.bench.results import add_rows, empty_figures, is_measured, measured_row, read_figures
from tether.bench.rounds import floors
from tether.bench.training import measure_phase
from tether.errors import InputError
from tether.machine.files import atomic_write_json

__all__ = ["Book", "bench", "usable_algorithms"]


class Book:
    """The figures of this invocation: what its file held before, and what is added, written at once."""

    def __init__(self, options: BenchOptions, out: Path | None = None, command: str = ""):
        """out: the file, which need not exist. Raises InputError where it exists and is no bench file."""
        self.out = out
        self.figures = read_figures(out) if out is not None and out.exists() else empty_figures()
        self.run: Mapping[str, Any] = describe_run(options, command) | floors()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep rows, and write them where there is a file. Raises: OSError."""
        self.figures = add_rows(self.figures, self.run, rows)
        if self.out is not None:
            atomic_write_json(self.out, self.figures)

    def has(self, name: str, what: str, lanes: int) -> bool:
        """Whether the row was measured already by the same code on the same machine."""
        return is_measured(self.figures, self.run, {"algorithm": name, "what": what, "lanes": lanes})

    def acting(self, name: str, settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The row of acting with these settings that was measured already by the same code on the same machine."""
        wanted = {"algorithm": name, "what": "act", "lanes": 1, "settings": settings}
        return measured_row(self.figures, self.run, wanted)


def bench(
    names: Sequence[str],
    options: BenchOptions,
    *,
    out: Path | None = None,
    fresh: bool = False,
    command: str = "",
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Figures of the named algorithms (all if none is named), JSON-able: a row for each phase and number of lanes, and
    one for acting.

    out: rows are written there as they come, and those that it holds already, measured by the same code on the same
        machine, are not measured again unless `fresh`.
    tell: hears, now and then, what is being done.
    Raises InputError for an unknown name; OSError.
    """
    algorithms = {name: with_value_range(options.algorithm(name)) for name in names or usable_algorithms(tell)}
    book = Book(options, out, command)
    for number, (name, algorithm) in enumerate(algorithms.items(), 1):
        at = f"[{number}/{len(algorithms)}] {name}"
        for index, phase in enumerate(algorithm.phases()):
            missing = [count for count in options.lanes if fresh or not book.has(name, phase.name, count)]
            if not missing:
                tell(f"{at} {phase.name}: measured before")
                continue
            if 1 in options.lanes and 1 not in missing:
                missing = [1, *missing]  # what the others are compared with

            def say(text: str, where: str = f"{at} {phase.name}") -> None:
                tell(f"{where}: {text}")

            rows = measure_phase(name, algorithm, index, options, missing, say)
            book.add(rows)
            for row in rows:
                say(_train_words(row))
        if fresh or not book.has(name, "act", 1):
            tell(f"{at} act: compiling, measuring")
            row = measure_acting(name, untrained_policy(name, algorithm, options.spec), {})
            book.add([row])
            tell(f"{at} act: p50 {row['milliseconds_p50']:.2f} ms, p99 {row['milliseconds_p99']:.2f} ms")
        jax.clear_caches()  # programs of all algorithms together would be gigabytes
    return book.figures


def usable_algorithms(tell: Callable[[str], None]) -> list[str]:
    """The names of all algorithms but those whose package cannot be used here, of which `tell` hears."""
    usable = []
    for name in ALGORITHMS:
        try:
            ALGORITHMS.find(name)
        except InputError as error:
            tell(f"{name}: left out: {error}")
        else:
            usable.append(name)
    return usable


def _train_words(row: Mapping[str, Any]) -> str:
    """A row, for people who wait."""
    lanes = f"{row['lanes']} lane{'s' if row['lanes'] > 1 else ''}"
    times = f", {row['times_one_lane']:.2f} times one lane" if "times_one_lane" in row else ""
    rate = f"{row['updates_per_second']:,.1f} updates/s, {row['fraction_of_matmul_rate']:.2f} of the matmul rate"
    return f"{lanes}: {rate}{times}"
