"""Rows of the bench: how fast a phase of an algorithm trains, with several numbers of lanes in turn."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tether.bench.counting import COUNTED_UPDATES, FIRST_UPDATE, synthetic, update_flops, xla_flops
from tether.bench.options import BenchOptions
from tether.bench.rounds import Run, Timing, alternate, matmul_program
from tether.data import view_of
from tether.training.derive import derived_shapes
from tether.training.lanes import make_lanes, stack_lanes, take_lane
from tether.training.loop import init_lanes, run_updates

__all__ = ["Program", "measure_phase", "phase_program"]

MATMUL = "matmul"  # beside numbers of lanes, what a round holds


class Program(NamedTuple):
    """The updates of some number of lanes, compiled."""

    run: Callable[[int], Any]
    compile_seconds: float
    memory_bytes: int | None  # arguments, results and work space


def measure_phase(
    name: str,
    algorithm: Any,
    phase: int,
    options: BenchOptions,
    lanes: Sequence[int],
    tell: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """A row for each number of lanes, JSON-able. tell: hears what is being done."""
    data = synthetic(view_of(algorithm), options.spec, jax.random.key(1))
    programs = {}
    for count in lanes:
        tell(f"compiling {count} lane{'s' if count > 1 else ''}")
        programs[count] = phase_program(algorithm, phase, options, count, data)
    tell("measuring")
    matmul, matmul_flops = matmul_program(options.batch_size, options.precision)
    runs: dict[Any, Run] = {count: program.run for count, program in programs.items()} | {MATMUL: matmul}
    rounds = alternate(runs, options.seconds, multiple=COUNTED_UPDATES)
    tell("counting")
    flops = {
        "matmul_flops_per_update": update_flops(algorithm, phase, options.spec, options.batch_size),
        "xla_flops_per_update": xla_flops(algorithm, phase, options.spec, options.batch_size),
    }
    what = {"algorithm": name, "what": algorithm.phases()[phase].name}
    return [
        what
        | {"lanes": count}
        | _rates(count, rounds, flops["matmul_flops_per_update"], matmul_flops)
        | flops
        | {"compile_seconds": program.compile_seconds, "memory_bytes": program.memory_bytes}
        for count, program in programs.items()
    ]


def phase_program(algorithm: Any, phase: int, options: BenchOptions, lane_count: int, data: Any) -> Program:
    """The trainer's own program, past every warm-up."""
    lanes = make_lanes(algorithm, range(lane_count), {})
    stacked = stack_lanes(algorithm, lanes)
    keys = jax.random.split(jax.random.key(0), lane_count)
    state = init_lanes(stacked, options.spec, keys, stacked=True)
    derived = _zeros(derived_shapes(algorithm, take_lane(state, 0), data, phase), lane_count)
    first, alive = jnp.asarray(FIRST_UPDATE, jnp.int32), jnp.ones(lane_count, bool)
    how: dict[str, Any] = {"batch_size": options.batch_size, "precision": options.precision}
    how |= {"phase": phase, "sequential": jax.default_backend() == "cpu"}
    started = time.perf_counter()
    compiled = run_updates.lower(stacked, state, keys, alive, data, first, first, **how, derived=derived).compile()
    seconds = time.perf_counter() - started

    def run(count: int) -> None:
        number = jnp.asarray(count, jnp.int32)
        jax.block_until_ready(compiled(stacked, state, keys, alive, data, first, number, derived=derived))

    memory = compiled.memory_analysis()
    used = None if memory is None else memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return Program(run, seconds, None if memory is None else used + memory.output_size_in_bytes)


def _rates(lanes: int, rounds: dict[Any, list[Timing]], flops: float, matmul_flops: float) -> dict[str, Any]:
    """What the rounds say of the program with so many lanes: beside the matmul, and beside one lane's."""
    own, matmul, one = rounds[lanes], rounds[MATMUL], rounds.get(1)

    def fractions(clock: str) -> list[float]:
        pairs = zip((getattr(t, clock) for t in own), (getattr(t, clock) for t in matmul), strict=True)
        return [lanes * flops / seconds / (matmul_flops / reference) for seconds, reference in pairs if seconds > 0]

    row = {
        "updates_per_second": lanes / statistics.median(t.wall for t in own),
        "seconds_per_update": statistics.median(t.wall for t in own),  # of all lanes
        "processor_seconds_per_update": statistics.median(t.processor for t in own),
        "matmul_rate_gflops": statistics.median(matmul_flops / t.wall for t in matmul) / 1e9,
        "fraction_of_matmul_rate": statistics.median(fractions("wall")),
        "fraction_by_round": fractions("wall"),
        "fraction_of_processor_time": statistics.median(fractions("processor") or [float("nan")]),
    }
    if one is not None and lanes > 1:
        ratios = [t.wall / reference.wall for t, reference in zip(own, one, strict=True)]
        row |= {"times_one_lane": statistics.median(ratios), "times_one_lane_by_round": ratios}
        processor = [t.processor / reference.processor for t, reference in zip(own, one, strict=True)]
        row |= {"times_one_lane_in_processor_time": statistics.median(processor)}
    return row


def _zeros(shapes: Any, lanes: int) -> Any:
    """What stands for derived columns: speed does not depend on their values."""
    return jax.tree.map(lambda column: jnp.zeros((lanes, *column.shape), column.dtype), shapes)
