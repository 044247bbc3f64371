"""Minutes on an accelerator, used well: rows of speed, memory and latency as they come, then a real run.

    python benchmarks/accelerator.py --minutes 8 --out accelerator.jsonl
    python benchmarks/accelerator.py --minutes 8 --out $OUT/accelerator.jsonl --run-folder $OUT/run

What says most is measured first: one lane and many of each algorithm in float32, how long acting takes, the other
precisions, then what lies between. Every row is on the disk before the next begins, so that a machine that is taken
away takes nothing with it. The last minutes train DTQL on `--data`, 8 lanes, by the paper's preset with less
pretraining. On a CPU it runs, too: `--lanes 1 2 --algorithms bc --seconds 0.2`.
"""

import argparse
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

import tether
from tether.bench.acting import measure_acting, untrained_policy
from tether.bench.forecast import evaluation_seconds
from tether.bench.options import BenchOptions, describe_run
from tether.bench.rounds import floors
from tether.bench.training import measure_phase
from tether.environments.ids import find_environment

ALGORITHMS = ("dtql", "dac", "bdpo", "iql", "fql")
SIZES = {"halfcheetah": (17, 6), "hopper": (11, 3)}
LANES = (1, 8, 32, 4, 16, 2)  # in the order in which they are measured
PRECISIONS = ("float32", "tf32", "bfloat16")
BENCH_SHARE = 0.6  # of the minutes; the rest is the run's
MOST = 10_000  # updates of pretraining, so that minutes are enough for the policy, too; the paper has 50,000


class Deadline(tether.Callback):
    """Ends a run when its time is over."""

    def __init__(self, at: float):
        self.at = at

    def on_metrics(self, rows: list[dict[str, Any]]) -> str | None:
        """Look at the clock."""
        return "its time is over" if time.monotonic() > self.at else None


class Rows:
    """The file of rows: each is flushed to the disk at once."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict[str, Any]) -> None:
        """Write and print."""
        with self.path.open("a") as file:
            file.write(json.dumps(row, default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())
        words = {key: row[key] for key in ("what", "algorithm", "size", "lanes", "precision", "fault") if key in row}
        numbers = {key: f"{row[key]:,.4g}" for key in row if key.startswith(("updates_per", "milliseconds_p50"))}
        print(" ".join(f"{key} {value}" for key, value in (words | numbers).items()), flush=True)


def plan(
    algorithms: Sequence[str], sizes: Sequence[str], lanes: Sequence[int], precisions: Sequence[str]
) -> Iterator[tuple[str, str, str, int]]:
    """(size, precision, algorithm, lanes), the most telling first; lanes 0 stand for acting."""
    first, *others = precisions
    edges, between = lanes[:3], lanes[3:]
    seen = set()
    for size, precision, counts in (
        (sizes[0], first, edges),
        (sizes[0], first, (0,)),
        *((sizes[0], precision, edges[1:2] or edges) for precision in others),
        *((size, first, edges) for size in sizes[1:]),
        *((size, precision, (*edges, *between)) for size, precision in itertools.product(sizes, precisions)),
        *((size, first, (0,)) for size in sizes[1:]),
    ):
        for count, algorithm in itertools.product(counts, algorithms):
            if (key := (size, precision, algorithm, count)) not in seen:
                seen.add(key)
                yield key


def measure(size: str, precision: str, algorithm: str, lanes: int, seconds: float) -> dict[str, Any]:
    """One row; what goes wrong (no memory, no such precision) is a row, too."""
    row = {"algorithm": algorithm, "size": size, "precision": precision, "lanes": lanes}
    try:
        options = BenchOptions(256, *SIZES[size], lanes=(max(1, lanes),), seconds=seconds, precision=precision)
        made = options.algorithm(algorithm)
        if lanes == 0:
            return row | measure_acting(algorithm, untrained_policy(algorithm, made, options.spec), {}) | {"size": size}
        (found,) = measure_phase(algorithm, made, len(made.phases()) - 1, options, [lanes])
        return row | found | {"updates_per_second_and_lane": found["updates_per_second"] / lanes}
    except Exception as error:  # the next row may well work
        return row | {"what": "fault", "fault": fault_of(error)}
    finally:
        jax.clear_caches()


def fault_of(error: Exception) -> str:
    """What went wrong, in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def train(rows: Rows, data: str, folder: Path, lanes: int, deadline: float) -> None:
    """DTQL by the paper's preset until the time is over, but for that of the last evaluation."""
    preset = tether.find_preset("dtql", "halfcheetah-medium-v2")
    episodes = preset.arguments["options"].eval_episodes
    # A third of the time at most: on an accelerator all episodes act at once, and the bound is of one after the other.
    bound = evaluation_seconds(preset.algorithm, find_environment("halfcheetah"), lanes, episodes)
    last_evaluation = max(0.0, min(bound, (deadline - time.monotonic()) / 3))
    arguments = preset.arguments | {"seeds": lanes, "out": folder, "quiet": True}
    arguments |= {"callbacks": [Deadline(deadline - last_evaluation)]}
    algorithm = dataclasses.replace(preset.algorithm, pretrain_updates=min(preset.algorithm.pretrain_updates, MOST))
    started = time.monotonic()
    report = tether.train(algorithm, data, **arguments)
    row = {"what": "run", "algorithm": "dtql", "data": data, "lanes": lanes, "status": report.status}
    row |= {
        "pretrain_updates": algorithm.pretrain_updates,
        "updates": report.updates,
        "wall_seconds": time.monotonic() - started,
        "folder": folder.name,
    }
    row |= {"score": None if report.last is None else report.last.iqm}
    rows.add(row | {"result": json.loads((folder / "result.json").read_text())})


def main(words: Sequence[str] | None = None) -> None:
    """Measure until the share is used up, then train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="in all")
    parser.add_argument("--out", type=Path, default=Path("accelerator.jsonl"))
    parser.add_argument("--run-folder", type=Path, help="default: beside --out; `none`: no run")
    parser.add_argument("--algorithms", nargs="*", default=ALGORITHMS)
    parser.add_argument("--sizes", nargs="+", default=tuple(SIZES), choices=tuple(SIZES))
    parser.add_argument("--lanes", nargs="+", type=int, default=LANES)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--data", default="halfcheetah-medium-replay-small", help="what the run trains on")
    parser.add_argument("--run-lanes", type=int, default=8)
    given = parser.parse_args(words)
    began, end = time.monotonic(), time.monotonic() + 60 * given.minutes
    rows, folder = Rows(given.out), given.run_folder or given.out.with_suffix("").with_name(f"{given.out.stem}-run")
    wants_run = str(folder) != "none"
    rows.add({"what": "machine"} | describe_run(BenchOptions(), "benchmarks/accelerator.py") | floors())
    bench_end = began + (BENCH_SHARE if wants_run else 1.0) * 60 * given.minutes
    longest = dict.fromkeys(given.algorithms, 0.0)  # seconds of a row so far, most of them the compiler's
    left_out = []
    for size, precision, algorithm, lanes in plan(given.algorithms, given.sizes, given.lanes, given.precisions):
        started = time.monotonic()
        if started + longest[algorithm] >= bench_end:
            left_out.append([size, precision, algorithm, lanes])
            continue
        rows.add(measure(size, precision, algorithm, lanes, given.seconds))
        longest[algorithm] = max(longest[algorithm], time.monotonic() - started)
    if left_out:
        rows.add({"what": "left out", "rows": left_out})
    if wants_run:
        try:
            train(rows, given.data, folder, given.run_lanes, end)
        except Exception as error:  # what was measured stays, and why nothing was trained stands beside it
            rows.add({"what": "fault", "algorithm": "dtql", "lanes": given.run_lanes, "fault": fault_of(error)})


if __name__ == "__main__":
    main()
