"""Exported policies in an environment: they act as those in JAX, with the same noise."""

from typing import Any

import jax
import numpy as np

from tether.evaluation.rollout import episode_keys
from tether.export.graph import Graph
from tether.export.verify import Run
from tether.policies.deployed import DeployedPolicy
from tether.types import Array, Key

__all__ = ["ExportedActor"]


class ExportedActor:
    """What was exported of some lanes, acting in some episodes each. JAX only makes the noise, from the keys."""

    def __init__(self, policies: list[DeployedPolicy], exported: list[Run], keys: Key[Array, " lanes"], episodes: int):
        """policies: one for each lane, and what was exported of it; keys: as of `rollout`."""
        self._exported = exported
        self._keys = episode_keys(keys, np.arange(episodes))
        self._has_memory = policies[0].has_memory
        leaves = [jax.tree.leaves(policy.initial_memory()) for policy in policies]
        self._memories = [[np.stack([np.asarray(leaf)] * episodes) for leaf in own] for own in leaves]
        graph = Graph(policies[0])  # how a policy draws is no question of its weights

        def noise(keys: Any, step: Any) -> Any:
            return jax.vmap(lambda key: graph.noise(jax.random.fold_in(key, step)))(keys)

        self._noise = jax.jit(noise)

    def act(self, observations: np.ndarray, rewards: np.ndarray, running: np.ndarray, step: int) -> np.ndarray:
        """Actions (lanes, episodes, action), as `Actor.act`."""
        actions = []
        for lane, run in enumerate(self._exported):
            noise = [np.asarray(array) for array in self._noise(self._keys[lane], np.int32(step))]
            rest = [*self._memories[lane], rewards[lane]] if self._has_memory else []
            action, *after = run([observations[lane], *noise, *rest])
            self._memories[lane] = after[: len(self._memories[lane])]  # extras come behind it
            actions.append(action)
        return np.stack(actions)
