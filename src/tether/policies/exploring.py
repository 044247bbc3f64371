"""Policies as they act where they are to learn from what happens."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.algorithms.interface import Policy
from tether.policies.acting import Mode, Sampled, Sampler
from tether.types import Array, Float, PRNGKey

__all__ = ["DETERMINISTIC_NOISE", "WithNoise", "exploring"]

DETERMINISTIC_NOISE = 0.1  # TD3's (arXiv 1802.09477)


class WithNoise(eqx.Module):
    """A policy with Gaussian noise on its actions, clipped to the action box [-1, 1]."""

    policy: Policy
    noise: float = eqx.field(static=True)  # standard deviation

    def __call__(self, observation: Float[Array, " observation"], key: PRNGKey) -> Float[Array, " action"]:
        action_key, noise_key = jax.random.split(key)
        action = self.policy(observation, action_key)
        return jnp.clip(action + self.noise * jax.random.normal(noise_key, action.shape, action.dtype), -1.0, 1.0)


def exploring(policy: Policy, noise: float | None) -> Any:
    """`policy` as it collects.

    noise: the standard deviation of what is added to the actions that it is evaluated with. None: its own randomness,
    where it has some: a Gaussian actor draws, diffusion and flow policies do so anyway; one that has none (the mode of
    another actor, a policy whose attribute `deterministic` says so) gets `DETERMINISTIC_NOISE`.
    """
    if noise is not None:
        return WithNoise(policy, noise) if noise > 0 else policy
    if isinstance(policy, Mode) and isinstance(policy.actor, Sampler):
        return Sampled(policy.actor)
    is_deterministic = isinstance(policy, Mode) or getattr(policy, "deterministic", False)
    return WithNoise(policy, DETERMINISTIC_NOISE) if is_deterministic else policy
