"""Importance ratios from logged log densities, as `tether serve` writes them (docs/serve.md)."""

import numpy as np

from tether.errors import InputError
from tether.policies.density import log_density
from tether.policies.deployed import DeployedPolicy
from tether.types import Float

__all__ = ["importance_ratios"]


def importance_ratios(
    policy: DeployedPolicy,
    observations: Float[np.ndarray, "rows observation"],
    actions: Float[np.ndarray, "rows action"],
    logged: Float[np.ndarray, " rows"],
) -> Float[np.ndarray, " rows"]:
    """pi(a|s) / mu(a|s) for `importance_sampling`: `policy` acts with its actor's noise, mu is whoever wrote the log.

    observations, actions: as logged, in the robot's units. logged: log mu(a|s) of each row.
    Raises InputError for rows without a density, and for a policy of which none is known.
    """
    if without := int((~np.isfinite(logged)).sum()):
        raise InputError(f"log densities: {without} of {len(logged)} rows have none (a fallback decided them?)")
    return np.exp(log_density(policy, observations, actions).astype(np.float64) - logged)
