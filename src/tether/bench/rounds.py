"""Timing: programs that are compared take turns in one process, and are compared round by round.

Machines are noisy and shared. Beside the wall clock stands the processor time of all threads, which neighbours disturb
less; on several cores it is the larger one.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from tether.training.precision import at_precision

__all__ = ["Timing", "alternate", "floors", "matmul_program"]

WIDTH = 256  # of the reference matmul, the field's layer width
ROUNDS = 5
LAUNCHES = 200
TRIPS = 10_000

Run = Callable[[int], Any]
"""Does so many repetitions, and returns when they are done."""

K = TypeVar("K")


class Timing(NamedTuple):
    """Seconds of one repetition in one round."""

    wall: float
    processor: float


def alternate(
    programs: Mapping[K, Run], seconds: float, rounds: int = ROUNDS, multiple: int = 1, pause_seconds: float = 0.0
) -> dict[K, list[Timing]]:
    """`rounds` rounds in which every program has its turn, about `seconds` in all for each.

    multiple: a turn is so many repetitions, or twice as many, and so on: what is due in every fifth repetition alone
    is then in the time as often as it should be. pause_seconds: before each turn, for threads of other libraries that
    spin on for a while after their work.
    """
    counts = {name: _calibrate(run, seconds / rounds, multiple) for name, run in programs.items()}
    found: dict[K, list[Timing]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, run in programs.items():
            time.sleep(pause_seconds)
            found[name].append(_time(run, counts[name]))
    return found


def _time(run: Run, count: int) -> Timing:
    wall, processor = time.perf_counter(), time.process_time()
    run(count)
    return Timing((time.perf_counter() - wall) / count, (time.process_time() - processor) / count)


def _calibrate(run: Run, seconds: float, multiple: int) -> int:
    """How many repetitions take about `seconds`, a multiple of `multiple`."""
    run(1)
    count = multiple
    while True:
        elapsed = count * _time(run, count).wall
        if elapsed > 0.1 * seconds:
            return multiple * max(1, round(count * seconds / elapsed / multiple))
        count *= 4


def matmul_program(batch_size: int, precision: str = "float32") -> tuple[Run, float]:
    """A chain of [batch, 256] @ [256, 256] matmuls in one program -> (run, flops of one)."""
    x, w = jnp.ones((batch_size, WIDTH)), jnp.eye(WIDTH)
    step = at_precision(lambda y: y @ w, precision)
    chain = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda _, y: step(y), x))
    return lambda count: jax.block_until_ready(chain(count)), 2.0 * batch_size * WIDTH * WIDTH


def floors() -> dict[str, float]:
    """Seconds of a program that does nothing, started by the host (`launch`), and of one more trip of a loop on the
    device that does next to nothing (`trip`): no update can take less."""
    empty = jax.jit(lambda x: x)
    loop = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda i, x: x + i, 0))
    zero = jnp.zeros(())

    def launch(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(empty(zero))

    launch(1)
    jax.block_until_ready(loop(1))
    launched = min(_time(launch, LAUNCHES).wall for _ in range(ROUNDS))
    trips = min(_time(lambda count: jax.block_until_ready(loop(count)), TRIPS).wall for _ in range(ROUNDS))
    return {"launch_seconds": launched, "trip_seconds": trips}
