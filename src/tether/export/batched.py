"""A graph of one decision as a function of many: named inputs with a leading batch axis, as the formats store it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tether.export.graph import Graph

__all__ = ["Batched", "batched"]


class Batched(NamedTuple):
    """What every format writes down."""

    function: Callable[..., tuple[Any, ...]]
    """Inputs in order, each (batch, ...) -> action, memory and extras, each (batch, ...)."""
    inputs: dict[str, jax.ShapeDtypeStruct]
    """observation, noise_0, noise_1 ..., and with a memory memory_0 ..., reward; shapes are of one decision."""
    outputs: tuple[str, ...]
    """action, with a memory next_memory_0 ..., then `Graph.extras`."""


def batched(graph: Graph) -> Batched:
    """The graph for a batch of any size."""
    leaves, structure = jax.tree.flatten(graph.policy.initial_memory())
    draws, parts = len(graph.draws), len(leaves)

    def one(observation: Any, *rest: Any) -> tuple[Any, ...]:
        noise, memory = rest[:draws], jax.tree.unflatten(structure, rest[draws : draws + parts])
        reward = rest[-1] if graph.policy.has_memory else None
        action, memory, extras = graph.act_with_extras(observation, noise, memory, reward)
        return action, *jax.tree.leaves(memory), *extras.values()

    def struct(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    inputs = {"observation": struct(graph.policy.observation_mean.shape)}
    inputs |= {f"noise_{i}": struct(draw.shape) for i, draw in enumerate(graph.draws)}
    inputs |= {f"memory_{i}": struct(leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)}
    inputs |= {"reward": struct(())} if graph.policy.has_memory else {}
    return Batched(jax.vmap(one), inputs, ("action", *(f"next_memory_{i}" for i in range(parts)), *graph.extras))
