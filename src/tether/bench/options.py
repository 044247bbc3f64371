"""What a bench measures, and the machine that it measures on."""

import dataclasses
import math
import os
import platform
from collections.abc import Mapping
from typing import Any

import jax

from tether.algorithms.registry import make_algorithm
from tether.errors import InputError
from tether.runs.config import commit, versions
from tether.training.precision import check_precision
from tether.types import Spec

__all__ = ["BenchOptions", "describe_run", "machine"]


@dataclasses.dataclass(frozen=True)
class BenchOptions:
    """Sizes are those of D4RL's hopper where nothing else is said."""

    batch_size: int = 256
    observation_size: int = 11
    action_size: int = 3
    lanes: tuple[int, ...] = (1,)  # each a program of its own; they are compared in rounds
    seconds: float = 5.0  # for each program's measurement
    precision: str = "float32"  # of the updates' matmuls, and of those that they are compared with
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # hyper-parameters by name, as text or values

    def __post_init__(self):
        sizes = {name: getattr(self, name) for name in ("batch_size", "observation_size", "action_size", "seconds")}
        for name, value in [*sizes.items(), *(("lanes", count) for count in self.lanes)]:
            if not 0 < value < math.inf:
                raise InputError(f"{name} {value}: must be positive and finite")
        check_precision(self.precision)
        if not self.lanes or len(set(self.lanes)) < len(self.lanes):
            raise InputError(f"lanes {self.lanes}: at least one number, each once")

    @property
    def spec(self) -> Spec:
        """Sizes of the synthetic data."""
        return Spec(self.observation_size, self.action_size)

    def sizes(self) -> dict[str, int]:
        """Sizes as results hold them."""
        return {name: getattr(self, name) for name in ("batch_size", "observation_size", "action_size")}

    def algorithm(self, name: str) -> Any:
        """The algorithm with the changes. Raises InputError for an unknown name or a bad value."""
        return make_algorithm(name, self.changes)


def describe_run(options: BenchOptions, command: str) -> dict[str, Any]:
    """What rows of one invocation have in common."""
    return {
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "command": command,
        "sizes": options.sizes(),
        "precision": options.precision,
        "changes": {name: str(value) for name, value in options.changes.items()},
    }


def machine() -> dict[str, Any]:
    """Device, processor and system."""
    return {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }
