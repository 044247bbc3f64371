"""`tether bench`: how fast an algorithm trains and acts here, against the matmul rate of the same process.

Machines are noisy and shared, so nothing is compared across processes: rounds of updates and rounds of a plain
jitted matmul of the same layer shape alternate, and the fraction is taken round by round.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from tether.algorithms import ALGORITHMS
from tether.api import commit, versions
from tether.counting import FIRST_UPDATE, matmul_flops, synthetic, update_flops, xla_flops
from tether.data import Normaliser, view_of
from tether.errors import InputError, unknown
from tether.policy import DeployedPolicy, deploy
from tether.training.derive import derived_shapes
from tether.training.lanes import make_lanes, parse_fields, stack_lanes, take_lane
from tether.training.loop import init_lanes, run_updates
from tether.training.precision import at_precision, check_precision
from tether.types import Spec

__all__ = ["act_latency", "bench", "bench_table", "committed_costs", "matmul_flops", "update_flops"]

WIDTH = 256  # of the reference matmul, the field's layer width
ROUNDS = 5
ACT_CALLS = 200


def bench(
    names: Sequence[str],
    *,
    batch_size: int,
    observation_size: int,
    action_size: int,
    lanes: int,
    seconds: float,
    assignments: Mapping[str, Any],
    precision: str = "float32",
) -> dict[str, Any]:
    """Figures of the named algorithms (all if none is named), JSON-able.

    seconds: time for each phase's measurement. precision: of the updates' matmuls and of those they are compared with.
    Raises InputError for an unknown name or bad number.
    """
    check_precision(precision)
    for name in names:
        if name not in ALGORITHMS:
            raise unknown("algorithm", name, ALGORITHMS)
    sizes = {"batch_size": batch_size, "observation_size": observation_size, "action_size": action_size, "lanes": lanes}
    for label, value in {**sizes, "seconds": seconds}.items():
        if value <= 0:
            raise InputError(f"{label} {value}: must be positive")
    spec = Spec(observation_size, action_size)
    rows = []
    for name in names or ALGORITHMS:
        algorithm = ALGORITHMS[name](**parse_fields(name, assignments))
        rows += [
            _bench_phase(name, algorithm, index, spec, batch_size, lanes, seconds, precision)
            for index in range(len(algorithm.phases()))
        ]
        rows.append(_bench_act(name, algorithm, spec))
    about = {"machine": _machine(), "versions": versions(), "commit": commit(), "precision": precision}
    return about | {"sizes": sizes, "results": rows}


def _bench_phase(
    name: str, algorithm: Any, phase: int, spec: Spec, batch_size: int, lane_count: int, seconds: float, precision: str
) -> dict[str, Any]:
    """Updates per second of one phase, and what fraction of the matmul rate that is."""
    lanes = make_lanes(algorithm, range(lane_count), {})
    stacked = stack_lanes(algorithm, lanes)
    keys = jax.random.split(jax.random.key(0), lane_count)
    state, data = init_lanes(stacked, spec, keys, stacked=True), synthetic(view_of(algorithm), spec, jax.random.key(1))
    derived = _zeros(derived_shapes(algorithm, take_lane(state, 0), data, phase), lane_count)
    first, alive = jnp.asarray(FIRST_UPDATE, jnp.int32), jnp.ones(lane_count, bool)
    started = time.perf_counter()
    compiled = run_updates.lower(
        stacked,
        state,
        keys,
        alive,
        data,
        first,
        first,
        phase=phase,
        batch_size=batch_size,
        sequential=jax.default_backend() == "cpu",
        precision=precision,
        derived=derived,
    ).compile()
    compile_seconds = time.perf_counter() - started

    def updates(count: int) -> None:
        number = jnp.asarray(count, jnp.int32)
        jax.block_until_ready(compiled(stacked, state, keys, alive, data, first, number, derived=derived))

    rounds = _alternate(updates, matmul_program(batch_size, precision), seconds)
    flops = update_flops(algorithm, phase, spec, batch_size)
    per_second = [lane_count * round_.update_rate for round_ in rounds]
    fractions = [flops * lane_count * round_.update_rate / round_.matmul_rate for round_ in rounds]
    return {
        "algorithm": name,
        "what": algorithm.phases()[phase].name,
        "updates_per_second": statistics.median(per_second),
        "matmul_flops_per_update": flops,
        "xla_flops_per_update": xla_flops(algorithm, phase, spec, batch_size),
        "matmul_rate_gflops": statistics.median(r.matmul_rate for r in rounds) / 1e9,
        "fraction_of_matmul_rate": statistics.median(fractions),
        "fraction_by_round": fractions,
        "compile_seconds": compile_seconds,
    }


class _Round:
    """One alternation: updates per second (of one lane) and the matmul's flops per second."""

    def __init__(self, update_rate: float, matmul_rate: float):
        self.update_rate = update_rate
        self.matmul_rate = matmul_rate


def _alternate(
    updates: Callable[[int], None], matmul: tuple[Callable[[int], None], float], seconds: float
) -> list[_Round]:
    """ROUNDS rounds of both, `seconds` of each in all."""
    run_matmul, flops = matmul
    counts = [_calibrate(run, seconds / ROUNDS) for run in (updates, run_matmul)]
    rounds = []
    for _ in range(ROUNDS):
        rates = []
        for run, count in zip((updates, run_matmul), counts, strict=True):
            started = time.perf_counter()
            run(count)
            rates.append(count / (time.perf_counter() - started))
        rounds.append(_Round(rates[0], rates[1] * flops))
    return rounds


def _calibrate(run: Callable[[int], None], seconds: float) -> int:
    """How many repetitions take about `seconds`."""
    run(1)
    count = 4
    while True:
        started = time.perf_counter()
        run(count)
        elapsed = time.perf_counter() - started
        if elapsed > 0.1 * seconds:
            return max(1, round(count * seconds / elapsed))
        count *= 4


def matmul_program(batch_size: int, precision: str = "float32") -> tuple[Callable[[int], None], float]:
    """A chain of [batch, 256] @ [256, 256] matmuls in one program -> (run(count), flops of one)."""
    x, w = jnp.ones((batch_size, WIDTH)), jnp.eye(WIDTH)
    step = at_precision(lambda y: y @ w, precision)
    chain = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda _, y: step(y), x))
    return lambda count: jax.block_until_ready(chain(count)), 2.0 * batch_size * WIDTH * WIDTH


def _bench_act(name: str, algorithm: Any, spec: Spec) -> dict[str, Any]:
    """Latency of one action for one observation, host to host."""
    milliseconds, compile_seconds = act_latency(algorithm, spec)
    return {
        "algorithm": name,
        "what": "act",
        "milliseconds_p50": float(np.percentile(milliseconds, 50)),
        "milliseconds_p99": float(np.percentile(milliseconds, 99)),
        "compile_seconds": compile_seconds,
    }


def act_latency(algorithm: Any, spec: Spec) -> tuple[list[float], float]:
    """Milliseconds of ACT_CALLS actions, each for one observation, host to host, and the seconds of compiling.

    The policy is an untrained one: how long it takes does not depend on its weights.
    """
    unscaled = Normaliser(np.zeros(spec.observation_size, np.float32), np.ones(spec.observation_size, np.float32))
    policy = deploy(algorithm.policy(algorithm.init(spec, jax.random.key(0))), spec, unscaled)
    observation, key = np.zeros(spec.observation_size, np.float32), jax.random.key(1)
    memory, reward = policy.initial_memory(), np.zeros((), np.float32)
    started = time.perf_counter()
    act = jax.jit(DeployedPolicy.step).lower(policy, observation, key, memory, reward).compile()
    compile_seconds = time.perf_counter() - started
    milliseconds = []
    for _ in range(ACT_CALLS):
        started = time.perf_counter()
        np.asarray(act(policy, observation, key, memory, reward)[0])
        milliseconds.append(1e3 * (time.perf_counter() - started))
    return milliseconds, compile_seconds


def _zeros(shapes: Any, lanes: int) -> Any:
    """What stands for derived columns: speed does not depend on their values."""
    return jax.tree.map(lambda column: jnp.zeros((lanes, *column.shape), column.dtype), shapes)


def _machine() -> dict[str, Any]:
    return {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


COST_KEYS = {  # what -> name in a table -> (name in the results, factor)
    "train": {"gflop": ("matmul_flops_per_update", 1e-9), "updates": ("updates_per_second", 1.0)},
    "act": {"milliseconds": ("milliseconds_p50", 1.0)},
}
COSTS = Path(__file__).parent / "algorithms" / "costs.json"


def committed_costs() -> dict[str, dict[str, float]]:
    """Algorithm -> gflop, updates (per second), milliseconds, from the bench results that come with tether.

    What is not in them is left out.
    """
    if not COSTS.exists():
        return {}
    found: dict[str, dict[str, float]] = {}
    for row in json.loads(COSTS.read_text(encoding="utf-8"))["results"]:
        cost = found.setdefault(row["algorithm"], {})
        keys = COST_KEYS.get(row["what"], {})
        cost |= {key: row[figure] * scale for key, (figure, scale) in keys.items() if figure in row}
    return found


def bench_table(figures: Mapping[str, Any]) -> Table:
    """The figures for people."""
    sizes = figures["sizes"]
    title = f"batch {sizes['batch_size']}, {sizes['lanes']} lane(s), {figures['machine']['cores']} core(s)"
    title += f", {figures['precision']}"
    table = Table(title=title, title_justify="left")
    for column in (
        "algorithm",
        "what",
        "per second",
        "of matmul rate",
        "matmul GFLOP",
        "compile s",
        "p50 ms",
        "p99 ms",
    ):
        table.add_column(column, justify="right" if column not in ("algorithm", "what") else "left")
    for row in figures["results"]:
        if row["what"] == "act":
            cells = "", "", "", f"{row['compile_seconds']:.1f}"
            latency = f"{row['milliseconds_p50']:.2f}", f"{row['milliseconds_p99']:.2f}"
        else:
            cells = (
                f"{row['updates_per_second']:.1f} updates",
                f"{row['fraction_of_matmul_rate']:.2f}",
                f"{row['matmul_flops_per_update'] / 1e9:.2f}",
                f"{row['compile_seconds']:.1f}",
            )
            latency = "", ""
        table.add_row(row["algorithm"], row["what"], *cells, *latency)
    return table
