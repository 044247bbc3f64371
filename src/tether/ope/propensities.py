"""Importance ratios from logged log densities, as `tether serve` writes them (docs/serve.md)."""

import numpy as np

from tether.data import Dataset
from tether.errors import InputError
from tether.ope.decisions import logged_box
from tether.ope.estimators import Estimate, importance_sampling
from tether.ope.evidence import Evidence
from tether.policies.density import log_density
from tether.policies.deployed import DeployedPolicy
from tether.types import Float

__all__ = ["by_propensities", "importance_ratios"]

SMALLEST_WEIGHT = 1e-12  # of discounting, to which what an episode goes on to earn is still added


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


def by_propensities(policy: DeployedPolicy, data: Dataset, evidence: Evidence) -> Estimate | None:
    """The value of a policy, acting with its actor's noise, by weighted importance sampling of whole episodes.

    An episode that was cut goes on to earn as `Evidence.returns` say, so that the log's own policy is worth what they
    are. None where the log has no densities in any of its episodes, or none is known of the policy.
    """
    starts, ends = data.whole_episodes()
    if data.log_densities is None:
        return None
    missing = np.append(0, np.cumsum(~np.isfinite(data.log_densities)))
    known = missing[ends] == missing[starts]
    if not known.any():
        return None
    starts, lengths, returns = starts[known], (ends - starts)[known], evidence.returns[known]
    steps = np.arange(lengths.max())
    valid = steps < lengths[:, None]
    rows = (starts[:, None] + steps)[valid]
    actions = logged_box(policy, data).from_unit(data.actions[rows])
    try:
        own = importance_ratios(policy, data.observations[rows], actions, data.log_densities[rows])
    except InputError:
        return None
    ratio, reward = np.ones(valid.shape), np.zeros(valid.shape)
    ratio[valid], reward[valid] = own, data.rewards[rows]
    powers = evidence.discount**steps
    weight = powers[lengths - 1]
    later = np.where(weight > SMALLEST_WEIGHT, (returns - reward @ powers) / np.maximum(weight, SMALLEST_WEIGHT), 0.0)
    reward[np.arange(len(starts)), lengths - 1] += later
    return importance_sampling(ratio, reward, valid, evidence.discount)
