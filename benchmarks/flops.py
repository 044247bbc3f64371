"""What every algorithm's update must compute, what it does compute, and XLA's count: a table and a JSON file.

python -m benchmarks.flops --out benchmarks/results/flops.json          (counts only: no machine's speed is in it)
"""

import argparse
import json
from pathlib import Path

from tether.algorithms import ALGORITHMS
from tether.bench.counting import update_bytes, update_work, xla_flops
from tether.runs.config import commit, versions
from tether.types import Spec
from tools.minimal import minimal_work

SPEC, BATCH = Spec(11, 3), 256  # Hopper's sizes


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="*", default=list(ALGORITHMS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    print("| algorithm | phase | least GFLOP | ours | ratio | XLA | of ours gradients of weights | least MB |")
    print("|---|---|---|---|---|---|---|---|")
    for row in (row for name in arguments.algorithms for row in count(name)):
        rows.append(row)
        cells = [row["algorithm"], row["phase"], f"{row['least'] / 1e9:.3f}", f"{row['counted'] / 1e9:.3f}"]
        cells += [f"{row['ratio']:.3f}", "" if row["xla"] is None else f"{row['xla'] / 1e9:.2f}"]
        cells += [f"{row['counted_weights'] / row['counted']:.2f}", f"{row['least_bytes'] / 1e6:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    if arguments.out is not None:
        command = "python -m benchmarks.flops --out benchmarks/results/flops.json"
        about = {"command": command, "versions": versions(), "commit": commit(), "batch_size": BATCH}
        about |= {"observation_size": SPEC.observation_size, "action_size": SPEC.action_size}
        arguments.out.write_text(json.dumps(about | {"results": rows}, indent=1) + "\n")


def count(name: str) -> list[dict]:
    """One row for each phase."""
    algorithm, rows = ALGORITHMS[name](), []
    for index, phase in enumerate(algorithm.phases()):
        least = minimal_work(name, algorithm, index, SPEC, BATCH)
        # At 256 rows a sum over rows looks like one over a layer: the share of weights is taken at 252.
        counted, tell = (update_work(algorithm, index, SPEC, rows) for rows in (BATCH, 252))
        figures = {"least": least.total, "counted": counted.total, "ratio": least.total / counted.total}
        figures |= {"counted_weights": counted.total * tell.weights / tell.total}
        figures |= {"xla": xla_flops(algorithm, index, SPEC, BATCH)}
        figures |= {"least_bytes": update_bytes(algorithm, index, SPEC, BATCH)}
        rows.append({"algorithm": name, "phase": phase.name, **figures})
    return rows


if __name__ == "__main__":
    main()
