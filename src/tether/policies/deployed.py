"""The deployable policy: a network with its normaliser and action range."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.algorithms.interface import Policy, PolicyWithMemory
from tether.data import Normaliser
from tether.data.schema import Schema
from tether.types import Array, Float, Key, PRNGKey, Spec

__all__ = ["DeployedPolicy", "act_each", "deploy", "step_each"]


class DeployedPolicy(eqx.Module):
    """Raw observation in, the robot's action out: normalise, act in [-1, 1], map to the robot's action range."""

    policy: Policy | PolicyWithMemory
    observation_mean: Float[Array, " observation"]
    observation_std: Float[Array, " observation"]
    action_scale: Float[Array, " action"]
    action_offset: Float[Array, " action"]

    def __call__(self, observation: Float[Array, " observation"], key: PRNGKey) -> Float[Array, " action"]:
        """The action for one observation as the robot gives it, in the robot's units; callers `vmap`. For policies
        without memory."""
        return self.step(observation, key, (), jnp.zeros((), jnp.float32))[0]

    @property
    def has_memory(self) -> bool:
        """Whether it must be given back what `step` returned."""
        return isinstance(self.policy, PolicyWithMemory)

    def initial_memory(self) -> Any:
        """At the start of an episode; nothing where there is no memory."""
        return self.policy.initial_memory() if isinstance(self.policy, PolicyWithMemory) else ()

    def step(
        self, observation: Float[Array, " observation"], key: PRNGKey, memory: Any, reward: Float[Array, ""]
    ) -> tuple[Float[Array, " action"], Any]:
        """As a call, for policies of both kinds: also the memory to give next time. `reward`: of the last action."""
        observation = (observation - self.observation_mean) / self.observation_std
        if isinstance(self.policy, PolicyWithMemory):
            action, memory = self.policy(observation, key, memory, reward)
        else:
            action = self.policy(observation, key)
        low, high = self.action_offset - self.action_scale, self.action_offset + self.action_scale
        action = jnp.clip(action * self.action_scale + self.action_offset, low, high)  # not a bit beyond the range
        return action, memory


def deploy(
    policy: Policy | PolicyWithMemory, spec: Spec, normaliser: Normaliser, schema: Schema | None = None
) -> DeployedPolicy:
    """`policy` with everything around it. Data sets hold actions in [-1, 1]; the schema's box maps them back."""
    scale, offset = jnp.ones(spec.action_size), jnp.zeros(spec.action_size)
    if schema is not None:
        scale, offset = jnp.asarray(schema.box.scale), jnp.asarray(schema.box.offset)
    return DeployedPolicy(policy, jnp.asarray(normaliser.mean), jnp.asarray(normaliser.std), scale, offset)


@jax.jit
def act_each(
    policy: DeployedPolicy, observations: Float[Array, "batch observation"], keys: Key[Array, " batch"]
) -> Float[Array, "batch action"]:
    """Actions of a policy without memory for many observations."""
    return step_each(policy, observations, keys, (), jnp.zeros(len(observations)))[0]


@jax.jit
def step_each(
    policy: DeployedPolicy,
    observations: Float[Array, "batch observation"],
    keys: Key[Array, " batch"],
    memories: Any,
    rewards: Float[Array, " batch"],
) -> tuple[Float[Array, "batch action"], Any]:
    """`DeployedPolicy.step` for many observations, one after the other: one already fills a CPU with its candidates,
    and the space it takes stays that of one. Memories have a leading axis `batch`."""
    return jax.lax.map(lambda row: policy.step(*row), (observations, keys, memories, rewards))
