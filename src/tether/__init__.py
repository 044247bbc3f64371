"""tether: offline reinforcement learning with diffusion behaviour models.

import tether

data = tether.load_dataset("halfcheetah-medium.hdf5")
report = tether.train(tether.DTQL(train_updates=100_000), data, seeds=4)
policy = tether.load_policy(report.folder)
action = policy(observation)
"""

import importlib
from typing import TYPE_CHECKING, Any

from tether._version import __version__ as __version__

__all__ = [
    "ALGORITHMS",
    "BDPO",
    "DAC",
    "DTQL",
    "Dataset",
    "InputError",
    "Options",
    "evaluate",
    "load_dataset",
    "load_policy",
    "register",
    "resume",
    "train",
]

# Resolved on first use, so that `tether --help` does not wait for JAX.
_HOMES = {
    "ALGORITHMS": "tether.algorithms",
    "BDPO": "tether.algorithms",
    "DAC": "tether.algorithms",
    "DTQL": "tether.algorithms",
    "Dataset": "tether.data",
    "InputError": "tether.errors",
    "Options": "tether.runs.plan",
    "evaluate": "tether.api",
    "load_dataset": "tether.data",
    "load_policy": "tether.policies.folder",
    "register": "tether.machine.registry",
    "resume": "tether.api",
    "train": "tether.api",
}

if TYPE_CHECKING:
    from tether.algorithms import ALGORITHMS, BDPO, DAC, DTQL
    from tether.api import evaluate, resume, train
    from tether.data import Dataset, load_dataset
    from tether.errors import InputError
    from tether.machine.registry import register
    from tether.policies.folder import load_policy
    from tether.runs.plan import Options


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tether' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
