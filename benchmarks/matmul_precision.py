"""How fast a [256, 256] @ [256, 256] matmul is here in float32 and in bfloat16, in alternating rounds of one process.

python benchmarks/matmul_precision.py --out benchmarks/results/matmul-precision.json
"""

import argparse
import json
import statistics
from pathlib import Path

from tether.bench.options import machine
from tether.bench.rounds import alternate, matmul_program

PRECISIONS = ("float32", "bfloat16")
UNITS = ("amx_bf16", "avx512_bf16")  # what a processor must have for bfloat16 to be the faster one


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    programs = {precision: matmul_program(256, precision) for precision in PRECISIONS}
    rounds = alternate({name: run for name, (run, _) in programs.items()}, seconds=2.0)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    found: dict = {"machine": machine(), "units": [unit for unit in UNITS if unit in flags]}
    for clock in ("wall", "processor"):
        for name, (_, flops) in programs.items():
            found[f"{name}_gflops_{clock}"] = [flops / getattr(timing, clock) / 1e9 for timing in rounds[name]]
        pairs = zip(*(found[f"{name}_gflops_{clock}"] for name in PRECISIONS), strict=True)
        found[f"bfloat16_over_float32_{clock}"] = statistics.median(other / one for one, other in pairs)
        print(f"{clock}: bfloat16 at {found[f'bfloat16_over_float32_{clock}']:.2f} times the rate of float32")
    print(f"units: {', '.join(found['units']) or 'none of ' + ', '.join(UNITS)}")
    if arguments.out is not None:
        command = "python benchmarks/matmul_precision.py --out benchmarks/results/matmul-precision.json"
        arguments.out.write_text(json.dumps({"command": command, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
