"""What settings of XLA's CPU compiler do to the speed of training: `tether bench` under each, in turns.

python benchmarks/xla_settings.py dtql dac bdpo --rounds 3 --out benchmarks/results/xla-settings-cpu.json

XLA reads its settings once in a process, so each measurement is a process of its own; "default" is measured in every
round, and each setting is compared with that of the same round. Compile times beside it: a setting may only move them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DEFAULT = "default"
SETTINGS = {
    DEFAULT: "",
    "vectors of 512 bits": "--xla_cpu_prefer_vector_width=512",
    "vectors of 128 bits": "--xla_cpu_prefer_vector_width=128",
    "oneDNN matmuls": "--xla_cpu_use_onednn=true",
    "scheduler for concurrency": "--xla_cpu_enable_concurrency_optimized_scheduler=true",
    "no YNNPACK fusions": "--xla_cpu_experimental_ynn_fusion_type=",
    "fast math": "--xla_cpu_enable_fast_math=true",
}


def measure(flags: str, algorithms: list[str], seconds: float, folder: Path) -> dict[str, dict[str, float]]:
    """(algorithm, phase) -> figures, under these flags."""
    out = folder / "bench.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tether", "bench", *algorithms, "--lanes", "1", "--out", str(out)]
    environment = os.environ | {"XLA_FLAGS": flags}
    subprocess.run([*command, "--seconds", str(seconds)], env=environment, check=True, capture_output=True)
    rows = [row for row in json.loads(out.read_text())["results"] if "seconds_per_update" in row]
    names = ("updates_per_second", "fraction_of_matmul_rate", "matmul_rate_gflops", "compile_seconds")
    return {f"{row['algorithm']} {row['what']}": {name: row[name] for name in names} for row in rows}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rounds: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(arguments.rounds):
            rounds.append({})
            for name, flags in SETTINGS.items():
                if name in refused:
                    continue
                print(f"round {index + 1} of {arguments.rounds}: {name}", file=sys.stderr)
                try:
                    rounds[-1][name] = measure(flags, arguments.algorithms, arguments.seconds, Path(folder))
                except subprocess.CalledProcessError as error:
                    said = error.stderr.decode(errors="replace").strip().splitlines()
                    refused[name] = said[-1] if said else f"exit code {error.returncode}"
    ratios: dict[str, dict[str, float]] = {}
    for name in SETTINGS:
        if name in refused:
            continue
        for what in rounds[0][DEFAULT]:
            for key in ("updates_per_second", "compile_seconds"):
                found = [each[name][what][key] / each[DEFAULT][what][key] for each in rounds]
                ratios.setdefault(name, {})[f"{what}, {key}"] = statistics.median(found)
        print(name, {what: round(ratio, 3) for what, ratio in ratios[name].items()})
    figures = {
        "command": " ".join(["python", "benchmarks/xla_settings.py", *sys.argv[1:]]),
        "settings": SETTINGS,
        "refused": refused,
        "over_default": ratios,
        "rounds": rounds,
    }
    arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
