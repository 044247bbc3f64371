"""Policies of framed decisions: a history of observations goes in, a chunk of actions comes out, and the environment
still gives one observation and takes one action.

What is remembered between steps is the memory that policies may have anyway (`PolicyWithMemory`), so that evaluation,
policy folders and exports serve these as they serve others.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.algorithms.interface import Algorithm, Policy, PolicyWithMemory
from tether.data import Normaliser
from tether.data.framing import Framing
from tether.errors import InputError
from tether.policies.deployed import DeployedPolicy, deploy
from tether.types import Array, Float, Int, PRNGKey, Spec

__all__ = ["FramedMemory", "FramedPolicy", "framed_policy", "untrained_policy"]


class FramedMemory(eqx.Module):
    """What a framed policy keeps from step to step of an episode; None where its framing needs none of it."""

    observations: Float[Array, "earlier observation"] | None  # oldest first, this step's not among them
    actions: Float[Array, "earlier action"] | None  # that followed each
    planned: Float[Array, "chunk action"] | None  # the next one first
    steps: Int[Array, ""]  # of the episode, so far


class FramedPolicy(eqx.Module):
    """Decides where the last decision is carried out, with the last observations before it."""

    policy: Policy
    framing: Framing = eqx.field(static=True)
    spec: Spec = eqx.field(static=True)  # of a step

    def initial_memory(self) -> FramedMemory:
        """At the start of an episode."""
        framing, earlier = self.framing, self.framing.history - 1
        return FramedMemory(
            jnp.zeros((earlier, self.spec.observation_size)) if earlier else None,
            jnp.zeros((earlier, self.spec.action_size)) if framing.history_actions else None,
            jnp.zeros((framing.chunk, self.spec.action_size)) if framing.executed > 1 else None,
            jnp.zeros((), jnp.int32),
        )

    def __call__(
        self, observation: Float[Array, " observation"], key: PRNGKey, memory: FramedMemory, reward: Float[Array, ""]
    ) -> tuple[Float[Array, " action"], FramedMemory]:
        """The next action of the chunk, or the first one of a new chunk."""

        def decide() -> Float[Array, "chunk action"]:
            return self.decide(observation, key, memory)

        planned = memory.planned
        plan = decide() if planned is None else jax.lax.cond(self._is_due(memory), decide, lambda: planned)
        return self._carry_out(plan, observation, memory)

    def corrected(self, memory: FramedMemory, action: Float[Array, " action"]) -> FramedMemory:
        """The memory had `action` been carried out in the last step; what is planned stays planned."""
        actions = memory.actions
        corrected = None if actions is None else actions.at[-1].set(action)
        return FramedMemory(memory.observations, corrected, memory.planned, memory.steps)

    def decide(
        self, observation: Float[Array, " observation"], key: PRNGKey, memory: FramedMemory
    ) -> Float[Array, "chunk action"]:
        """The whole chunk as it is decided at this observation, whatever is planned."""
        parts = self._before(observation, memory), observation, memory.actions
        seen = [part.reshape(-1) for part in parts if part is not None]
        return self.policy(jnp.concatenate(seen), key).reshape(self.framing.chunk, -1)

    def act_and_decide(
        self, observation: Float[Array, " observation"], key: PRNGKey, memory: FramedMemory, reward: Float[Array, ""]
    ) -> tuple[Float[Array, " action"], FramedMemory, Float[Array, "chunk action"]]:
        """As a call, with the chunk that `decide` gives, which a call computes only where it is due."""
        chunk = self.decide(observation, key, memory)
        plan = chunk if memory.planned is None else jnp.where(self._is_due(memory), chunk, memory.planned)
        return *self._carry_out(plan, observation, memory), chunk

    def _is_due(self, memory: FramedMemory) -> Array:
        return memory.steps % self.framing.executed == 0

    def _before(self, observation: Float[Array, " observation"], memory: FramedMemory) -> Array | None:
        """The observations before this one; before the start, the first one."""
        earlier = memory.observations
        return None if earlier is None else jnp.where(memory.steps > 0, earlier, observation)

    def _carry_out(
        self, plan: Float[Array, "chunk action"], observation: Float[Array, " observation"], memory: FramedMemory
    ) -> tuple[Float[Array, " action"], FramedMemory]:
        """The first action of `plan`."""
        planned = None if memory.planned is None else jnp.roll(plan, -1, axis=0)
        earlier, actions = self._before(observation, memory), _newest(memory.actions, plan[0])
        return plan[0], FramedMemory(_newest(earlier, observation), actions, planned, memory.steps + 1)


def _newest(earlier: Any, now: Any) -> Any:
    """The last ones, `now` among them."""
    return None if earlier is None else jnp.concatenate([earlier, now[None]])[1:]


def framed_policy(policy: Policy | PolicyWithMemory, framing: Framing, spec: Spec) -> Any:
    """`policy`, whose decisions are framed so, as one that takes steps of these sizes."""
    if not framing.changes_acting:
        return policy
    if isinstance(policy, PolicyWithMemory):
        raise InputError(f"{framing}: this policy has a memory of its own, which knows steps and no decisions")
    return FramedPolicy(policy, framing, spec)


def untrained_policy(
    algorithm: Algorithm, spec: Spec, framing: Framing, low: tuple[float, ...], high: tuple[float, ...], key: PRNGKey
) -> DeployedPolicy:
    """What `algorithm` deploys before any update, for actions from `low` to `high`. Under `jax.eval_shape` it is the
    structure of the trained one, into which readers of policy folders and evaluation workers put the arrays."""
    policy = framed_policy(algorithm.policy(algorithm.init(framing.decision(spec), key)), framing, spec)
    zeros = np.zeros(spec.observation_size, np.float32)
    return dataclasses.replace(deploy(policy, spec, Normaliser(zeros, zeros)), action_low=low, action_high=high)
