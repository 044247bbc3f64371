"""The deployable policy: a network with its normaliser and action range."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.algorithms.interface import CorrectedMemory, Policy, PolicyWithMemory
from tether.data import Normaliser
from tether.data.schema import ActionBox, Schema, inner_float32, unit_box
from tether.types import Array, Float, Key, PRNGKey, Spec

__all__ = ["DeployedPolicy", "act_each", "deploy", "step_each"]


class DeployedPolicy(eqx.Module):
    """Raw observation in, the robot's action out: normalise, act in [-1, 1], map to the robot's action range."""

    policy: Policy | PolicyWithMemory
    observation_mean: Float[Array, " observation"]
    observation_std: Float[Array, " observation"]
    action_scale: Float[Array, " action"]
    action_offset: Float[Array, " action"]
    action_low: tuple[float, ...] = eqx.field(static=True)  # what the robot or its environment takes, within the range
    action_high: tuple[float, ...] = eqx.field(static=True)

    def __call__(self, observation: Float[Array, " observation"], key: PRNGKey) -> Float[Array, " action"]:
        """The action for one observation as the robot gives it, in the robot's units; callers `vmap`. For policies
        without memory."""
        return self.step(observation, key, (), jnp.zeros((), jnp.float32))[0]

    @property
    def has_memory(self) -> bool:
        """Whether it must be given back what `step` returned."""
        return isinstance(self.policy, PolicyWithMemory)

    def initial_memory(self) -> Any:
        """The memory at the start of an episode; empty where there is none."""
        return self.policy.initial_memory() if isinstance(self.policy, PolicyWithMemory) else ()

    def step(
        self, observation: Float[Array, " observation"], key: PRNGKey, memory: Any, reward: Float[Array, ""]
    ) -> tuple[Float[Array, " action"], Any]:
        """The action and the memory for the next step, for policies with and without memory.

        reward: what the last action earned.
        """
        observation = self.normalise(observation)
        if isinstance(self.policy, PolicyWithMemory):
            action, memory = self.policy(observation, key, memory, reward)
        else:
            action = self.policy(observation, key)
        return self.in_units(action), memory

    def corrected(self, memory: Any, action: Float[Array, " action"]) -> Any:
        """The memory that `step` returned, had `action`, in the robot's units, been carried out; of a policy whose
        memory can be told so."""
        if not isinstance(self.policy, CorrectedMemory):
            return memory
        scale = jnp.where(self.action_scale > 0, self.action_scale, 1.0)
        return self.policy.corrected(memory, (action - self.action_offset) / scale)

    def normalise(self, observation: Float[Array, " observation"]) -> Float[Array, " observation"]:
        """An observation as the robot gives it, as the networks see it."""
        return (observation - self.observation_mean) / self.observation_std

    def in_units(self, action: Float[Array, " action"]) -> Float[Array, " action"]:
        """An action in [-1, 1] in the robot's units, not a bit beyond its range."""
        low, high = inner_float32(self.action_low, self.action_high)
        return jnp.clip(action * self.action_scale + self.action_offset, low, high)


def deploy(
    policy: Policy | PolicyWithMemory,
    spec: Spec,
    normaliser: Normaliser,
    schema: Schema | None = None,
    limits: ActionBox | None = None,
) -> DeployedPolicy:
    """`policy` with everything around it. Data sets hold actions in [-1, 1]; the schema's box maps them back.

    limits: what the environment takes, where one is known: the policy then answers nothing else.
    Raises InputError where the data's actions and these have nothing in common.
    """
    box = unit_box(spec.action_size) if schema is None else schema.box
    low, high = box.within(limits)
    around = jnp.asarray(normaliser.mean), jnp.asarray(normaliser.std), jnp.asarray(box.scale), jnp.asarray(box.offset)
    return DeployedPolicy(policy, *around, low, high)


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
