"""How fast data become arrays, beside the libraries below: HDF5 beside h5py, CSV beside pyarrow.csv.read_csv.

python benchmarks/data_speed.py --out benchmarks/results/data-speed.json [--rows 1000000] [--csv-bytes 1e9]

Rounds of both alternate in one process with the files in the page cache. Machines are shared: beside the wall clock
stands the processor time, which neighbours disturb less; on several cores it is more than the wall clock.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from tether.data import load_dataset, prepare
from tether.data.logs.importing import ColumnOptions, import_logs
from tether.machine.files import atomic_write_json
from tether.runs.config import commit, versions

OBSERVATION, ACTION, EPISODE = 17, 6, 1000
CSV = ColumnOptions(("q_*",), ("tau_*",), "r", "run_id", "done")


def write_hdf5(path: Path, rows: int) -> None:
    """D4RL's layout with next observations, HalfCheetah's sizes."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name, size in (("observations", OBSERVATION), ("next_observations", OBSERVATION)):
            file[name] = random.standard_normal((rows, size), np.float32)
        file["actions"] = random.uniform(-1, 1, (rows, ACTION)).astype(np.float32)
        file["rewards"] = random.standard_normal(rows, np.float32)
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = np.arange(rows) % EPISODE == EPISODE - 1


def write_csv(path: Path, size: float) -> None:
    """At least `size` bytes of a log of 17 joints, 6 torques, a reward, the run's number and a flag."""
    random, block = np.random.default_rng(0), 100_000
    names = [*(f"q_{i}" for i in range(OBSERVATION)), *(f"tau_{i}" for i in range(ACTION)), "r"]
    with path.open("wb") as file:
        rows = 0
        while file.tell() < size:
            columns: dict[str, Any] = {name: random.standard_normal(block, np.float32) for name in names}
            columns |= {"run_id": (rows + np.arange(block)) // EPISODE, "done": np.zeros(block, np.int64)}
            arrow_csv.write_csv(pa.table(columns), file, arrow_csv.WriteOptions(include_header=rows == 0))
            rows += block


def read_arrays(path: Path) -> dict[str, Any]:
    """The same bytes, by h5py alone."""
    with h5py.File(path) as file:
        nodes: dict[str, Any] = dict(file)
        return {name: node[()] for name, node in nodes.items()}


def to_device(path: Path) -> Any:
    """What `tether train` trains on."""
    return jax.block_until_ready(jax.device_put(prepare(load_dataset(str(path))).transitions))


def alternate(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Seconds of both in `rounds` rounds, after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in ("wall", "cpu", "their_wall", "their_cpu")}
    for number in range(rounds + 1):
        for prefix, run in (("their_", theirs), ("", ours)):
            wall, cpu = time.perf_counter(), time.process_time()
            kept = run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            del kept
            if number:
                found[f"{prefix}wall"].append(wall)
                found[f"{prefix}cpu"].append(cpu)
    return {
        "seconds": found,
        "median_ratio_wall": statistics.median(a / b for a, b in zip(found["wall"], found["their_wall"], strict=True)),
        "median_ratio_cpu": statistics.median(a / b for a, b in zip(found["cpu"], found["their_cpu"], strict=True)),
        "best_ratio_wall": min(found["wall"]) / min(found["their_wall"]),
        "best_ratio_cpu": min(found["cpu"]) / min(found["their_cpu"]),
    }


PEAK = """
import sys
from pathlib import Path
from tether.data.logs.importing import ColumnOptions, import_logs
def peak():
    return Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
before = peak()
import_logs([Path(sys.argv[1])], ColumnOptions(("q_*",), ("tau_*",), "r", "run_id", "done"), Path(sys.argv[2]))
print(before, peak())
"""


def peak_memory(source: Path, out: Path) -> dict[str, float]:
    """Megabytes of a process that imports, before and at its most. Linux only."""
    done = subprocess.run([sys.executable, "-c", PEAK, source, out], capture_output=True, text=True, check=True)
    out.unlink()
    before, peak = map(int, done.stdout.split())
    return {"before_mb": before / 1024, "peak_mb": peak / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--csv-bytes", type=float, default=1e9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        hdf5, csv, out = folder / "data.hdf5", folder / "log.csv", folder / "set.hdf5"
        write_hdf5(hdf5, arguments.rows)
        figures: dict[str, Any] = {"command": " ".join(sys.argv), "versions": versions(), "commit": commit()}
        figures["machine"] = {
            "cores": len(os.sched_getaffinity(0)),
            "processor": platform.processor() or platform.machine(),
            "load_average_before": os.getloadavg(),
        }
        figures["hdf5"] = {"rows": arguments.rows, "bytes": hdf5.stat().st_size}
        figures["hdf5"] |= alternate(lambda: to_device(hdf5), lambda: read_arrays(hdf5), 4 * arguments.rounds)
        print(figures["hdf5"], flush=True)
        hdf5.unlink()
        write_csv(csv, arguments.csv_bytes)

        def imported() -> None:
            out.unlink(missing_ok=True)
            import_logs([csv], CSV, out)

        figures["csv"] = {"bytes": csv.stat().st_size}
        figures["csv"] |= alternate(imported, lambda: arrow_csv.read_csv(csv), arguments.rounds)
        out.unlink()
        figures["csv"] |= peak_memory(csv, out)
        figures["machine"]["load_average_after"] = os.getloadavg()
        print(figures["csv"], flush=True)
    atomic_write_json(arguments.out, figures)


if __name__ == "__main__":
    main()
