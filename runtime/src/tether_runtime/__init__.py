"""Policies that tether exported, in use: NumPy in, NumPy out, without JAX.

import tether_runtime

policy = tether_runtime.load("hopper-export")
action = policy(observation)
"""

from tether_runtime.errors import InputError
from tether_runtime.policy import Policy, load

__all__ = ["InputError", "Policy", "__version__", "load"]
__version__ = "0.1.0"
