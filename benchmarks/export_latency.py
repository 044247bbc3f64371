"""How long one decision takes, and how long a process takes to its first one: JAX, ONNX Runtime and NumPy, on one core.

    python benchmarks/export_latency.py > rows.jsonl

Networks of each algorithm's defaults, untrained, Hopper's sizes; one observation a call. `wall` is what a clock shows,
`cpu` the processor time of the process, which a busy machine hardly changes. Milliseconds, medians and 99th of 100.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CASES = (("iql", None), ("fql", None), ("dac", None), ("bdpo", None), ("dtql", 64), ("dtql", 1024))
RUNTIMES = ("jax", "onnx", "numpy")
STARTS = 5


def main() -> None:
    """A row of JSON for each algorithm and runtime."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--measure", nargs=2, metavar=("RUNTIME", "FOLDER"), help="used by itself")
    parser.add_argument("--start", nargs=2, metavar=("RUNTIME", "FOLDER"), help="used by itself")
    arguments = parser.parse_args()
    if arguments.start:
        act_with(*arguments.start)(observation())
    elif arguments.measure:
        say(measure(act_with(*arguments.measure), arguments.calls))
    else:
        compare(arguments.calls)


def observation() -> np.ndarray:
    """One of Hopper's size."""
    return np.linspace(-1.0, 1.0, 11, dtype=np.float32)


def act_with(runtime: str, folder: str) -> Any:
    """A policy, loaded."""
    if runtime == "jax":
        import tether

        return tether.load_policy(folder)
    import tether_runtime

    return tether_runtime.load(folder)


def measure(policy: Any, calls: int) -> dict[str, float]:
    """Milliseconds a call."""
    seen, wall, cpu = observation(), [], []
    for call in range(20 + calls):
        started = time.perf_counter(), time.process_time()
        policy(seen)
        if call >= 20:
            wall.append(time.perf_counter() - started[0])
            cpu.append(time.process_time() - started[1])
    both = (("wall", wall), ("cpu", cpu))
    return {f"{name}_p{p}_ms": round(1e3 * float(np.percentile(times, p)), 3) for name, times in both for p in (50, 99)}


def compare(calls: int) -> None:
    """Export every case, then measure each runtime in processes of its own, on one core."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, candidates in CASES:
            folders = export(name, candidates, Path(scratch) / f"{name}-{candidates}")
            for runtime in RUNTIMES:
                row = {"algorithm": name, "candidates": candidates, "runtime": runtime}
                how = [runtime, str(folders[runtime])]
                row |= json.loads(own_process("--calls", str(calls), "--measure", *how)[0])
                starts = [own_process("--start", *how)[1:] for _ in range(STARTS)]
                row |= {"start_wall_s": min(wall for wall, _ in starts), "start_cpu_s": min(cpu for _, cpu in starts)}
                say(row)


def export(name: str, candidates: int | None, place: Path) -> dict[str, Path]:
    """Runtime -> the folder that it loads."""
    import jax

    from tether import ALGORITHMS, export_policy
    from tether.data import Normaliser
    from tether.policies.deployed import deploy
    from tether.policies.folder import save_policy
    from tether.types import Spec

    algorithm = ALGORITHMS[name](**({} if candidates is None else {"candidates": candidates}))
    spec = Spec(11, 3)
    normaliser = Normaliser(np.zeros(11, np.float32), np.ones(11, np.float32))
    state = jax.jit(algorithm.init, static_argnums=0)(spec, jax.random.key(0))
    module = deploy(algorithm.policy(state), spec, normaliser)
    observations = np.random.default_rng(0).normal(size=(256, 11)).astype(np.float32)
    save_policy(place / "jax", module, algorithm=algorithm, spec=spec, observations=observations, notes={})
    export_policy(place / "jax", place / "onnx", format="onnx", check_decisions=32)
    export_policy(place / "jax", place / "numpy", format="numpy", check_decisions=32)
    return {runtime: place / runtime for runtime in RUNTIMES}


def own_process(*words: str) -> tuple[str, float, float]:
    """What a process on one core prints; its seconds, by a clock and of processor time."""
    core = str(min(os.sched_getaffinity(0)))
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = ["taskset", "-c", core, sys.executable, __file__, *words]
    done = subprocess.run(command, env={**os.environ, **single}, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, round(wall, 3), round(cpu, 3)


def say(row: dict[str, Any]) -> None:
    """A line of JSON."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
