"""`tether bench`: how fast an algorithm trains and acts here, against the matmul rate of the same process.

Machines are noisy and shared, so nothing is compared across processes: rounds of updates and rounds of a plain
jitted matmul of the same layer shape alternate, and the fraction is taken round by round.
"""

import functools
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
from tether.data import Normaliser, Trajectories, View, view_of
from tether.errors import InputError, unknown
from tether.policy import DeployedPolicy, deploy
from tether.training.derive import derived_shapes
from tether.training.lanes import make_lanes, parse_fields, stack_lanes, take_lane
from tether.training.loop import init_lanes, run_updates
from tether.types import Spec, Transition

__all__ = ["act_latency", "bench", "bench_table", "committed_costs", "matmul_flops", "update_flops"]

ROWS = 50_000  # synthetic transitions; enough that minibatches do not sit in the cache
WIDTH = 256  # of the reference matmul, the field's layer width
ROUNDS = 5
EPISODE_STEPS = 1000
FIRST_UPDATE = 100_000  # past every warm-up, so that delayed updates are in the time and in the count
COUNTED_UPDATES = 10  # a whole number of every algorithm's update intervals
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
) -> dict[str, Any]:
    """Figures of the named algorithms (all if none is named), JSON-able.

    seconds: time for each phase's measurement. Raises InputError for an unknown name or bad number.
    """
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
            _bench_phase(name, algorithm, index, spec, batch_size, lanes, seconds)
            for index in range(len(algorithm.phases()))
        ]
        rows.append(_bench_act(name, algorithm, spec))
    return {"machine": _machine(), "versions": versions(), "commit": commit(), "sizes": sizes, "results": rows}


def _bench_phase(
    name: str, algorithm: Any, phase: int, spec: Spec, batch_size: int, lane_count: int, seconds: float
) -> dict[str, Any]:
    """Updates per second of one phase, and what fraction of the matmul rate that is."""
    lanes = make_lanes(algorithm, range(lane_count), {})
    stacked = stack_lanes(algorithm, lanes)
    keys = jax.random.split(jax.random.key(0), lane_count)
    state, data = init_lanes(stacked, spec, keys), _synthetic(view_of(algorithm), spec, jax.random.key(1))
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
        derived=derived,
    ).compile()
    compile_seconds = time.perf_counter() - started

    def updates(count: int) -> None:
        number = jnp.asarray(count, jnp.int32)
        jax.block_until_ready(compiled(stacked, state, keys, alive, data, first, number, derived=derived))

    rounds = _alternate(updates, matmul_program(batch_size), seconds)
    flops = update_flops(algorithm, phase, spec, batch_size)
    per_second = [lane_count * round_.update_rate for round_ in rounds]
    fractions = [flops * lane_count * round_.update_rate / round_.matmul_rate for round_ in rounds]
    return {
        "algorithm": name,
        "what": algorithm.phases()[phase].name,
        "updates_per_second": statistics.median(per_second),
        "matmul_flops_per_update": flops,
        "xla_flops_per_update": _xla_flops(algorithm, phase, spec, batch_size),
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


def matmul_program(batch_size: int) -> tuple[Callable[[int], None], float]:
    """A chain of [batch, 256] @ [256, 256] matmuls in one program -> (run(count), flops of one)."""
    x, w = jnp.ones((batch_size, WIDTH)), jnp.eye(WIDTH)
    chain = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda _, y: y @ w, x))
    return lambda count: jax.block_until_ready(chain(count)), 2.0 * batch_size * WIDTH * WIDTH


def _single_update(algorithm: Any, phase: int, spec: Spec, batch_size: int) -> Any:
    """(function, arguments) of one update of one lane."""
    state = jax.eval_shape(lambda key: algorithm.init(spec, key), jax.random.key(0))
    view, indices = view_of(algorithm), jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    data = jax.eval_shape(lambda key: _synthetic(view, spec, key), jax.random.key(0))
    if (derived := derived_shapes(algorithm, state, data, phase)) is not None:
        data = data._replace(derived=derived)
    batch = jax.eval_shape(lambda data, i: data.take(i), data, indices)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return algorithm.phases()[phase].update, (state, batch, key, jax.ShapeDtypeStruct((), jnp.int32))


def update_flops(algorithm: Any, phase: int, spec: Spec, batch_size: int) -> float:
    """Floating-point operations of the matmuls of an update, averaged over the algorithm's update intervals."""
    function, (state, batch, key, step) = _single_update(algorithm, phase, spec, batch_size)
    jaxpr = jax.make_jaxpr(function)(state, batch, key, step).jaxpr
    if not _branches(jaxpr):  # then all updates cost the same, and this one tracing tells (BDPO's takes seconds)
        return _dot_flops(jaxpr)
    steps = [np.int32(FIRST_UPDATE + i) for i in range(COUNTED_UPDATES)]
    # With `step` a number, `step % interval == 0` is one too: the jaxpr says which branches this update takes.
    counts = [matmul_flops((functools.partial(function, step=step), (state, batch, key))) for step in steps]
    return sum(counts) / len(counts)


def matmul_flops(program: tuple[Callable, tuple]) -> float:
    """Floating-point operations of the matmuls in a function's jaxpr, those in loops once per trip.

    Of a branch that depends on a number the one taken counts, of one that depends on an argument none.
    """
    function, arguments = program
    return _dot_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _dot_flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            inner = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
            total += 2.0 * inner * np.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "cond":
            index = equation.invars[0]
            if hasattr(index, "val"):
                total += _dot_flops(equation.params["branches"][int(index.val)].jaxpr)
            continue
        trips = equation.params.get("length", 1)
        for value in equation.params.values():
            nested = getattr(value, "jaxpr", value)
            if hasattr(nested, "eqns"):
                total += trips * _dot_flops(nested)
    return float(total)


def _branches(jaxpr: Any) -> bool:
    """Whether a program contains a `cond`, at any depth."""
    nested = [getattr(value, "jaxpr", value) for equation in jaxpr.eqns for value in equation.params.values()]
    inside = any(_branches(program) for program in nested if hasattr(program, "eqns"))
    return inside or any(equation.primitive.name == "cond" for equation in jaxpr.eqns)


def _xla_flops(algorithm: Any, phase: int, spec: Spec, batch_size: int) -> float | None:
    """XLA's own count for one update, element-wise work included, before it optimises; None where there is none.

    The optimised program's count would cost a second compilation (minutes for BDPO) and says nothing about loops,
    whose bodies it counts once.
    """
    function, arguments = _single_update(algorithm, phase, spec, batch_size)
    analysis = jax.jit(function).lower(*arguments).cost_analysis()
    return None if not analysis else float(analysis.get("flops", float("nan")))


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


def _synthetic(view: View, spec: Spec, key: jax.Array) -> Transition | Trajectories:
    """Random data of the right shapes; speed does not depend on their values."""
    keys = jax.random.split(key, 4)
    shape = (ROWS, spec.observation_size)
    if view.name == "trajectories":
        timestep = jnp.arange(ROWS, dtype=jnp.int32) % EPISODE_STEPS
        columns = jax.random.normal(keys[0], shape), jnp.zeros((ROWS, spec.action_size)), jnp.zeros(ROWS)
        return Trajectories(*columns, timestep, EPISODE_STEPS - timestep, steps=view.steps)
    return Transition(
        observation=jax.random.normal(keys[0], shape),
        action=jax.random.uniform(keys[1], (ROWS, spec.action_size), minval=-1.0, maxval=1.0),
        reward=jax.random.normal(keys[2], (ROWS,)),
        next_observation=jax.random.normal(keys[3], shape),
        terminal=jnp.zeros(ROWS),
        next_action=jnp.zeros((ROWS, spec.action_size)),
        return_to_go=jnp.zeros(ROWS),
        trajectory_end=jnp.zeros(ROWS),
    )


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
