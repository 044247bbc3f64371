"""Evaluation in worker processes against evaluation that training waits for: short runs in turn, one after the other.

python benchmarks/evaluation_workers.py hopper-medium.hdf5 --workers 0 1 --rounds 3 --out results.json

Each run is a process of its own (`tether train`), with the programs compiled before: a first round warms the cache and
does not count. Wall clock and processor time (the run and its workers) are those of the whole process.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = ["--seeds", "1", "--quiet", "--preset", "none"]


def run_once(arguments: list[str], workers: int, folder: Path) -> dict[str, float]:
    """Figures of one run."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "tether",
        "train",
        *arguments,
        "--eval-workers",
        str(workers),
        "--out",
        str(folder),
    ]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads((folder / "result.json").read_text())
    return {
        "workers": workers,
        "wall_seconds": wall,
        "processor_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "iqm": result["iqm"],
        **{name: result[name] for name in result if name.endswith(("_seconds", "_share", "_per_second"))},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--algorithm", default="dtql")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--options", default="--pretrain-updates 200 --updates 2000 --eval-every-updates 400")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    arguments = [chosen.algorithm, chosen.data, *TRAIN, *chosen.options.split()]
    with tempfile.TemporaryDirectory() as folder:
        for workers in chosen.workers:
            run_once(arguments, workers, Path(folder) / "warm")
        runs = []
        for _ in range(chosen.rounds):
            for workers in chosen.workers:
                runs.append(run_once(arguments, workers, Path(folder) / f"workers-{workers}"))
                print(json.dumps(runs[-1]), flush=True)
    summary = {
        str(workers): {
            name: statistics.median(run[name] for run in runs if run["workers"] == workers)
            for name in ("wall_seconds", "processor_seconds", "evaluation_wait_share")
        }
        for workers in chosen.workers
    }
    data = Path(chosen.data).name
    document = {
        "command": f"python benchmarks/evaluation_workers.py {data} --algorithm {chosen.algorithm} --workers "
        f"{' '.join(map(str, chosen.workers))} --rounds {chosen.rounds} --options '{chosen.options}'",
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "load_average": os.getloadavg(),
        "median": summary,
        "runs": runs,
    }
    chosen.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
