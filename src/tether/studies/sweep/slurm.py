"""A sweep as a Slurm job array: one array task per job, put back into the queue when it is pre-empted."""

import shlex
import sys
from pathlib import Path

from tether.machine.files import atomic_write_text
from tether.machine.plugins import plugin_names
from tether.studies.sweep.jobs import SweepFolder

__all__ = ["write_script"]

# What makes pre-emption harmless; the spec's [slurm] may say otherwise.
DEFAULTS = {"requeue": True, "open-mode": "append", "signal": "TERM@60"}


def write_script(folder: SweepFolder) -> Path:
    """Write `sweep.sbatch` into the sweep's folder -> its path. Numbers in it are those of unfinished jobs."""
    numbers = [job.number for job in folder.unfinished()]
    root = folder.path.resolve()
    (root / "slurm").mkdir(exist_ok=True)
    options = {"job-name": f"tether-{root.name}", "output": str(root / "slurm" / "%a.log"), **DEFAULTS}
    given = {name.replace("_", "-"): value for name, value in folder.spec.slurm.items()}
    limit = given.pop("array-limit", None)
    options |= given
    array = _ranges(numbers) + (f"%{limit}" if limit else "")
    lines = ["#!/bin/bash", f"#SBATCH --array={array}"]
    for name, value in options.items():
        if value is not False:
            lines.append(f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={value}")
    command = [sys.executable, "-m", "tether", "sweep", str(root / "spec.toml"), "--out", str(root)]
    command += [word for name in plugin_names() for word in ("--plugin", name)]
    lines += [
        "",
        "# srun passes on the signal that announces the end: tether then writes a checkpoint and stops.",
        f"srun {shlex.join(command)} --job $SLURM_ARRAY_TASK_ID",
        "code=$?",
        "# 143: stopped by SIGTERM. Ask for another turn, which goes on from the checkpoint.",
        'if [ "$code" -eq 143 ]; then scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"; fi',
        "exit $code",
        "",
    ]
    path = root / "sweep.sbatch"
    atomic_write_text(path, "\n".join(lines))
    return path


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> `0-2,5`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{low}-{high}" if high > low else f"{low}" for low, high in parts)
