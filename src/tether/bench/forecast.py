"""How long a run would take on this machine and how much memory, before it begins.

The time of an update is the committed one (costs.json: one lane, a minibatch of 256, Hopper's sizes, 2 cores), times
the ratio of the work, times the ratio of the rates at which that machine and this one multiply matrices. What is done
to the whole data set between phases (QGPO, SfBC, AWR) is not in it.
"""

import functools
import statistics
import time
import warnings
from typing import Any, NamedTuple

import jax

from tether.algorithms.callables import with_value_range
from tether.algorithms.registry import field_names, name_of, numeric_fields
from tether.bench.counting import synthetic_shapes, update_flops
from tether.bench.results import COSTS, read_figures
from tether.bench.rounds import alternate, matmul_program
from tether.data import view_of
from tether.environments import Task
from tether.environments.make import ignore_ogbench, make_environment
from tether.machine.memory import tree_bytes
from tether.types import Spec

__all__ = [
    "Forecast",
    "PhaseTime",
    "about",
    "duration",
    "evaluation_seconds",
    "forecast",
    "forecast_basis",
    "long_run_warning",
    "matmul_rate",
    "size_of",
]

ASSUMED_FRACTION = 0.5  # of the matmul rate, for an algorithm that was never measured
RATE_SECONDS = 0.5  # of measuring the matmul rate
LONG_SECONDS = 24 * 3600.0  # a run that takes longer is announced before it starts
SURELY_SHORT = 0.25  # of that, by the committed rates: then the machine's rate is not measured
# Transitions of a run that no algorithm takes hours for (the slowest: 300 a second on 2 cores). Counting the work of an
# update means tracing it, which takes seconds.
FEW_TRANSITIONS = 2_000_000
SAMPLED_STEPS = 100  # of an environment

_KNOWN_STATE_BYTES: dict[Any, int] = {}  # size of an algorithm and spec -> bytes of a lane's state


class PhaseTime(NamedTuple):
    """How long a phase would take."""

    name: str
    updates: int
    seconds: float | None  # of all lanes; None: nobody knows, on an accelerator


class Forecast(NamedTuple):
    """What a run would take, evaluations apart."""

    phases: tuple[PhaseTime, ...]
    compile_seconds: float | None
    memory_bytes: int  # of states and work space; the data and the process come on top
    measured: bool  # whether there is a committed measurement of the algorithm

    @property
    def seconds(self) -> float | None:
        """Seconds of all phases."""
        known = [phase.seconds for phase in self.phases if phase.seconds is not None]
        return sum(known) if len(known) == len(self.phases) else None


def size_of(algorithm: Any) -> tuple[Any, ...]:
    """What the time and memory of a run depend on: two algorithms of one size cost the same."""
    lengths = tuple((phase.name, phase.updates) for phase in algorithm.phases())
    return type(algorithm), lengths, *(repr(getattr(algorithm, name)) for name in _structural(algorithm))


def forecast(algorithm: Any, spec: Spec, batch_size: int, lanes: int, rate: float | None) -> Forecast:
    """The time and memory of a run of `lanes` lanes.

    rate: of matmuls on this machine, GFLOP/s (`matmul_rate`); None: that of the committed measurement.
    """
    algorithm, rows = with_value_range(algorithm), _committed().get(name_of(algorithm), {})
    on_cpu = jax.default_backend() == "cpu"
    phases, work_bytes, compiling = [], 0, 0.0
    for index, phase in enumerate(algorithm.phases()):
        row = rows.get(phase.name)
        seconds = _update_seconds(algorithm, index, row, spec, batch_size, rate) if on_cpu else None
        phases.append(PhaseTime(phase.name, phase.updates, seconds and seconds * lanes * phase.updates))
        if row is not None:
            work_bytes = max(work_bytes, _work_bytes(algorithm, row, batch_size))
            compiling += row["compile_seconds"] * (row["matmul_rate_gflops"] / rate if rate else 1.0)
    state = _state_bytes(algorithm, spec)  # one goes in and one comes out
    memory = lanes * 2 * state + work_bytes * (1 if on_cpu else lanes)
    measured = all(phase.name in rows for phase in algorithm.phases())
    return Forecast(tuple(phases), compiling if on_cpu and measured else None, memory, measured)


def forecast_basis(found: Forecast, rate: float) -> str:
    """Where the estimate comes from, in words."""
    if any(phase.seconds is None for phase in found.phases):
        return "no committed measurement of this device; `tether bench ALGORITHM` measures"
    machine = read_figures(COSTS)["runs"][0]["machine"]
    if not found.measured:
        return f"matmuls counted, at {ASSUMED_FRACTION:.0%} of the {rate:,.0f} GFLOP/s of matmuls measured here now"
    return (
        f"the committed measurement on {machine['cores']} cores ({machine['processor']}), scaled by the work and by "
        f"the {rate:,.0f} GFLOP/s of matmuls measured here now"
    )


def matmul_rate(batch_size: int = 256, precision: str = "float32") -> float:
    """GFLOP/s of matmuls here and now; measured in about a second."""
    run, flops = matmul_program(batch_size, precision)
    return flops / 1e9 / statistics.median(t.wall for t in alternate({"matmul": run}, RATE_SECONDS)["matmul"])


def evaluation_seconds(algorithm: Any, task: Task, lanes: int, episodes: int) -> float:
    """Upper bound of the seconds of an evaluation: all episodes of full length, one action after the other."""
    row = _committed().get(name_of(algorithm), {}).get("act", {})
    step, horizon = _step_seconds(task)
    return lanes * episodes * horizon * (step + row.get("milliseconds_p50", 1.0) / 1e3)


@functools.cache
def _step_seconds(task: Task) -> tuple[float, int]:
    """(seconds of a step of the environment, most steps of an episode)."""
    with warnings.catch_warnings():
        ignore_ogbench()
        environment = make_environment(task)
        environment.action_space.seed(0)
        environment.reset(seed=0)
        actions = [environment.action_space.sample() for _ in range(SAMPLED_STEPS)]
        started = time.perf_counter()
        for action in actions:
            if any(environment.step(action)[2:4]):
                environment.reset()
        step = (time.perf_counter() - started) / SAMPLED_STEPS
    horizon = task.horizon or getattr(environment.spec, "max_episode_steps", None) or 1000
    environment.close()
    return step, horizon


def long_run_warning(algorithm: Any, spec: Spec, batch_size: int, lanes: int) -> str | None:
    """One line for a run that would take more than a day here; None for others, and where nobody knows."""
    if lanes * batch_size * sum(phase.updates for phase in algorithm.phases()) < FEW_TRANSITIONS:
        return None
    rough = forecast(algorithm, spec, batch_size, lanes, None)
    if rough.seconds is None or rough.seconds < SURELY_SHORT * LONG_SECONDS:
        return None
    rate = matmul_rate()
    found = forecast(algorithm, spec, batch_size, lanes, rate)
    if found.seconds is None or found.seconds < LONG_SECONDS:
        return None
    *earlier, _ = found.phases
    phases = ", ".join(f"{phase.name} {duration(phase.seconds or 0.0)}" for phase in found.phases)
    options = " ".join(["--pretrain-updates N"] * bool(earlier) + ["--updates N"])
    return (
        f"{name_of(algorithm)}: {about(found.seconds)} on this machine ({phases}; "
        f"{forecast_basis(found, rate)}); shorter with {options}"
    )


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for size, unit in ((86_400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"


def about(seconds: float) -> str:
    """`about 40 s`; `less than 1 s`."""
    return f"about {duration(seconds)}" if seconds >= 1 else duration(seconds)


@functools.cache
def _committed() -> dict[str, dict[str, dict[str, Any]]]:
    """Algorithm -> phase, or "act" -> its row, of one lane and the algorithm's own hyper-parameters."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    if COSTS.exists():
        figures = read_figures(COSTS)
        for row in figures["results"]:
            if row["lanes"] == 1 and not row.get("settings"):
                found.setdefault(row["algorithm"], {})[row["what"]] = row | figures["runs"][row["run"]]
    return found


def _update_seconds(
    algorithm: Any, phase: int, row: dict[str, Any] | None, spec: Spec, batch_size: int, rate: float | None
) -> float | None:
    """Seconds of one update of one lane."""
    if row is None:
        return (
            None if rate is None else update_flops(algorithm, phase, spec, batch_size) / (1e9 * rate * ASSUMED_FRACTION)
        )
    scale = row["matmul_rate_gflops"] / rate if rate else 1.0
    return row["seconds_per_update"] * scale * _work_ratio(algorithm, phase, row, spec, batch_size)


def _work_ratio(algorithm: Any, phase: int, row: dict[str, Any], spec: Spec, batch_size: int) -> float:
    """How many times the committed update's work. Counted in the program where structural hyper-parameters are not the
    algorithm's own; else by minibatch and parameters, which is quicker."""
    committed, default = Spec(row["sizes"]["observation_size"], row["sizes"]["action_size"]), type(algorithm)()
    if any(getattr(algorithm, name) != getattr(default, name) for name in _structural(algorithm)):
        return update_flops(algorithm, phase, spec, batch_size) / row["matmul_flops_per_update"]
    parameters = _state_bytes(algorithm, spec) / _state_bytes(default, committed)
    return parameters * batch_size / row["sizes"]["batch_size"]


def _structural(algorithm: Any) -> list[str]:
    """The hyper-parameters that say how large and how many, those of phases apart."""
    lengths = {f"{phase.name}_updates" for phase in algorithm.phases()}
    return [name for name in field_names(type(algorithm)) if name not in {*numeric_fields(algorithm), *lengths}]


def _state_bytes(algorithm: Any, spec: Spec) -> int:
    """A lane's state. A table's programs have few sizes, and tracing one takes a tenth of a second."""
    key = size_of(algorithm), spec
    if key not in _KNOWN_STATE_BYTES:
        state = jax.eval_shape(lambda key: algorithm.init(spec, key), jax.random.key(0))
        _KNOWN_STATE_BYTES[key] = tree_bytes(state)
    return _KNOWN_STATE_BYTES[key]


def _work_bytes(algorithm: Any, row: dict[str, Any], batch_size: int) -> int:
    """What the committed program took beside its data and states, for this minibatch."""
    committed, default = Spec(row["sizes"]["observation_size"], row["sizes"]["action_size"]), type(algorithm)()
    data = synthetic_shapes(view_of(default), committed)
    work = (row.get("memory_bytes") or 0) - tree_bytes(data) - 2 * _state_bytes(default, committed)
    return int(max(0, work) * batch_size / row["sizes"]["batch_size"])
