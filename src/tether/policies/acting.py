"""Policies that several algorithms act with. Each is what `Algorithm.policy` returns: one observation, one action."""

from typing import Literal, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.networks import QEnsemble
from tether.policies.selection import best_by_q, sample_by_min_q
from tether.types import Array, Float, PRNGKey, Scalar

__all__ = ["BestOfSamples", "DensitySampler", "Mode", "Sampled", "sample_each"]


@runtime_checkable
class HasMode(Protocol):
    """A network with an action that needs no noise."""

    @property
    def max_action(self) -> float: ...

    def mode(self, observation: Float[Array, " observation"]) -> Float[Array, " action"]: ...


@runtime_checkable
class Sampler(Protocol):
    """A network that draws actions."""

    @property
    def max_action(self) -> float: ...

    def sample(self, observation: Float[Array, " observation"], key: PRNGKey, count: int) -> Array: ...


def sample_each(
    actor: Sampler, observation: Float[Array, "batch observation"], key: PRNGKey
) -> Float[Array, "batch action"]:
    """One action for each observation."""
    keys = jax.random.split(key, len(observation))
    return jax.vmap(lambda o, k: actor.sample(o, k, 1)[0])(observation, keys)


@runtime_checkable
class DensitySampler(Sampler, Protocol):
    """A sampler whose actions have a density that is known."""

    def sample_with_log_density(
        self, observation: Float[Array, " observation"], key: PRNGKey
    ) -> tuple[Float[Array, " action"], Scalar]: ...

    def log_density_of(self, observation: Float[Array, " observation"], action: Float[Array, " action"]) -> Scalar: ...


class Mode(eqx.Module):
    """The actor's mode, clipped to the action box; the key is not used."""

    actor: HasMode

    def __call__(self, observation: Float[Array, " observation"], key: PRNGKey) -> Float[Array, " action"]:
        return jnp.clip(self.actor.mode(observation), -self.actor.max_action, self.actor.max_action)


class Sampled(eqx.Module):
    """One draw of the actor, clipped to the action box."""

    actor: Sampler

    def __call__(self, observation: Float[Array, " observation"], key: PRNGKey) -> Float[Array, " action"]:
        action = self.actor.sample(observation, key, 1)[0]
        return jnp.clip(action, -self.actor.max_action, self.actor.max_action)

    @property
    def has_density(self) -> bool:
        """Whether `with_log_density` can be asked: of Gaussian actors, not of diffusion chains and flows."""
        return isinstance(self.actor, DensitySampler)

    def with_log_density(
        self, observation: Float[Array, " observation"], key: PRNGKey
    ) -> tuple[Float[Array, " action"], Scalar]:
        """The action of a call and its log density."""
        assert isinstance(self.actor, DensitySampler)
        action, log_density = self.actor.sample_with_log_density(observation, key)
        return jnp.clip(action, -self.actor.max_action, self.actor.max_action), log_density


class BestOfSamples(eqx.Module):
    """One of several draws of the actor, clipped to the action box, chosen by Q.

    choice: the largest "mean" or "min" over the heads, or the largest "first" head; or "softmax": number i with
    probability softmax(min over the heads)_i (Diffusion-QL).
    """

    actor: Sampler
    critic: QEnsemble
    candidates: int = eqx.field(static=True)
    choice: Literal["mean", "min", "first", "softmax"] = eqx.field(static=True, default="mean")

    def __call__(self, observation: Float[Array, " observation"], key: PRNGKey) -> Float[Array, " action"]:
        choice_key, draw_key = jax.random.split(key) if self.choice == "softmax" else (key, key)
        actions = self.actor.sample(observation, draw_key, self.candidates)
        actions = jnp.clip(actions, -self.actor.max_action, self.actor.max_action)
        if self.choice == "softmax":
            return sample_by_min_q(choice_key, self.critic, observation, actions)
        return best_by_q(self.critic, observation, actions, self.choice)
