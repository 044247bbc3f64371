"""How exactly every algorithm's export agrees with JAX, played by a Python without JAX.

    python benchmarks/export_agreement.py --clean-python PATH --out rows.jsonl [--algorithms dtql dac ...]

It may be stopped at any time and begun again: rows that the file holds are not measured again, but for those with an
error.

Each algorithm has the networks of its defaults, untrained (agreement is a matter of arithmetic, and random weights
leave nothing out), Hopper's sizes, a normaliser and action ranges. JAX makes 1,000 observations, noise and actions;
the clean Python, in which only NumPy, ONNX Runtime and tether-runtime are installed, acts on the same with the export.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 1_000
REPLAY = """
import json, sys
import numpy as np
import tether_runtime
assert not {"jax", "tether"} & set(sys.modules)
policy = tether_runtime.load(sys.argv[1])
with np.load(sys.argv[2]) as arrays:
    sample = {name: arrays[name] for name in arrays.files}
graph, found, memory = policy.graph(0), [], list(policy.initial_memory(sample["actions"].shape[1]))
noise = [sample[kind["name"]] for kind in graph.noise]
for step, observations in enumerate(sample["observations"]):
    rest = [*memory, sample["rewards"][step]] if policy.has_memory else []
    inputs = [observations, *(array[step] for array in noise), *rest]
    starts = range(0, len(observations), 50)  # a thousand times a thousand candidates is much memory
    outputs = [graph.run([array[start : start + 50] for array in inputs]) for start in starts]
    action, *memory = (np.concatenate(parts) for parts in zip(*outputs))
    found.append(action)
difference = np.abs(np.stack(found) - sample["actions"]) / sample["scale"]
worst = difference.max(axis=2).ravel()
beyond = worst > {"float32": 1e-5, "float16": 2e-2}[policy.document["dtype"]]
print(json.dumps({"largest": float(worst.max()), "beyond_tolerance": int(beyond.sum()),
                  "largest_of_the_others": float(worst[~beyond].max())}))
"""


FORMATS = ["onnx-float32", "numpy-float32", "onnx-float16"]


def main() -> None:
    """A row of JSON for each algorithm and format."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clean-python", required=True)
    parser.add_argument("--out", type=Path, required=True, help="rows are appended to it")
    parser.add_argument("--algorithms", nargs="*")
    parser.add_argument("--formats", nargs="*", default=FORMATS)
    arguments = parser.parse_args()
    from tether import ALGORITHMS

    done = finished(arguments.out)
    if arguments.out.exists() and not arguments.out.read_bytes().endswith(b"\n"):
        arguments.out.write_text(arguments.out.read_text() + "\n")  # a line that was cut off stays one of its own
    for name in arguments.algorithms or ALGORITHMS:
        formats = [word for word in arguments.formats if (name, *word.split("-")) not in done]
        if not formats:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            policy = prepare(name, Path(scratch))
            for word in formats:
                row = measure(policy, Path(scratch), name, *word.split("-"), clean_python=arguments.clean_python)
                line = json.dumps({"benchmark": "agreement", **row}) + "\n"
                with arguments.out.open("a") as file:  # whole before the next one begins
                    file.write(line)
                sys.stdout.write(line)
                sys.stdout.flush()


def finished(path: Path) -> set[tuple[str, str, str]]:
    """(algorithm, format, dtype) of the rows without errors; a line that was cut off is none."""
    found = set()
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.get("benchmark", "agreement") == "agreement" and "error" not in row:
            found.add((row["algorithm"], row["format"], row["dtype"]))
    return found


def prepare(name: str, place: Path) -> Any:
    """The policy, and sample.npz with what JAX does."""
    import jax

    from tether import ALGORITHMS, load_policy
    from tether.data import Normaliser
    from tether.data.schema import ActionBox, Schema, layout_of
    from tether.export.graph import Graph
    from tether.export.verify import sample_inputs
    from tether.policies.deployed import deploy
    from tether.policies.folder import save_policy
    from tether.types import Spec

    spec = Spec(11, 3)
    schema = Schema(layout_of({"state": 11}), layout_of({"torque": 3}), ActionBox((-2.0, -1.0, 0.0), (2.0, 1.0, 9.0)))
    observations = np.random.default_rng(0).normal(1.0, 2.0, (256, 11)).astype(np.float32)
    normaliser = Normaliser(np.full(11, 1.0, np.float32), np.full(11, 2.0, np.float32))
    algorithm = ALGORITHMS[name]()
    state = jax.jit(algorithm.init, static_argnums=0)(spec, jax.random.key(0))
    module = deploy(algorithm.policy(state), spec, normaliser, schema)
    how = {"algorithm": algorithm, "spec": spec, "observations": observations, "notes": {}, "schema": schema}
    save_policy(place / "policy", module, **how)
    policy = load_policy(place / "policy")
    sample = sample_inputs(Graph(policy.module), policy, ROWS, seed=1)
    arrays = {"observations": sample.observations, "rewards": sample.rewards, "actions": sample.actions}
    arrays |= {f"noise_{i}": array for i, array in enumerate(sample.noise)}
    arrays["scale"] = np.asarray(module.action_scale)
    np.savez(place / "sample.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return policy


def measure(policy: Any, place: Path, name: str, form: str, dtype: str, *, clean_python: str) -> dict[str, Any]:
    """A row; where something goes wrong, one with `error`."""
    from tether import export_policy

    started, folder = time.perf_counter(), place / f"{form}-{dtype}"
    row = {"algorithm": name, "format": form, "dtype": dtype, "rows": ROWS}
    try:
        exported = export_policy(policy, folder, **{"format": form, "dtype": dtype, "check_decisions": 64})
        row |= {"export_seconds": round(time.perf_counter() - started, 1), "bytes": exported.bytes}
        command = [clean_python, "-c", REPLAY, str(folder), str(place / "sample.npz")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row |= json.loads(done.stdout)
    except Exception as error:
        row["error"] = str(getattr(error, "stderr", "") or error)[-300:]
    return row


if __name__ == "__main__":
    sys.exit(main())
