"""How likely the actions of a policy are, where that is known: of Gaussian actors that act with their noise.

A mode is one action and has no density. Of diffusion chains, flows, and the best of several candidates none is known
in closed form.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tether.errors import InputError
from tether.policies.acting import DensitySampler, Mode, Sampled, Sampler
from tether.policies.deployed import DeployedPolicy
from tether.types import Array, Float, Scalar

__all__ = ["log_density", "log_volume", "with_noise"]


def with_noise(module: DeployedPolicy) -> tuple[DeployedPolicy, bool]:
    """The policy with a Gaussian actor's draws in place of its mode, and whether it is one."""
    if isinstance(module.policy, Mode) and isinstance(module.policy.actor, Sampler):
        return dataclasses.replace(module, policy=Sampled(module.policy.actor)), True
    return module, False


def log_volume(module: DeployedPolicy) -> Scalar:
    """log of the robot's volume that one of the policy's own has; actions that never change do not count."""
    return jnp.sum(jnp.where(module.action_scale > 0, jnp.log(module.action_scale), 0.0))


@jax.jit
def _log_densities(module: DeployedPolicy, observations: Array, actions: Array) -> Array:
    scale = jnp.where(module.action_scale > 0, module.action_scale, 1.0)
    actor = module.policy.actor  # pyright: ignore[reportAttributeAccessIssue]

    def one(observation: Array, action: Array) -> Array:
        own = (action - module.action_offset) / scale
        return actor.log_density_of(module.normalise(observation), own) - log_volume(module)

    return jax.vmap(one)(observations, actions)


def log_density(
    module: DeployedPolicy,
    observations: Float[np.ndarray, "rows observation"],
    actions: Float[np.ndarray, "rows action"],
) -> Float[np.ndarray, " rows"]:
    """log density of actions in the robot's units, where the actor acts with its noise, as exports state it.

    Raises: InputError for a policy whose density is not known.
    """
    noisy, _ = with_noise(module)
    if not (isinstance(noisy.policy, Sampled) and isinstance(noisy.policy.actor, DensitySampler)):
        raise InputError(f"policy {type(module.policy).__name__}: its actions have no density that is known")
    return np.asarray(_log_densities(noisy, jnp.asarray(observations), jnp.asarray(actions)))
