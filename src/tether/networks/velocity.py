"""The networks of flow policies: v(x, observation, t), and without the time a one-step map from noise to action."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.networks.factories import Network, make_network
from tether.networks.layers import Layers, glorot_uniform
from tether.types import Array, Float, PRNGKey, Scalar, Spec

__all__ = ["VelocityNetwork"]


class VelocityNetwork(eqx.Module):
    """A GELU network on (observation, x, t), Glorot-uniform as in FQL's code."""

    network: Layers
    action_size: int = eqx.field(static=True)
    max_action: float = eqx.field(static=True)  # of the actions it leads to; its own output is unbounded

    def __init__(self, key: PRNGKey, spec: Spec, hidden_sizes: Sequence[int], *, timed: bool, network: Network = "mlp"):
        in_sizes = (spec.observation_size, spec.action_size) + ((1,) if timed else ())
        how = {"activation": jax.nn.gelu, "initialiser": glorot_uniform}
        self.network = make_network(network, key, in_sizes, hidden_sizes, spec.action_size, **how)
        self.action_size, self.max_action = spec.action_size, spec.max_action

    def __call__(
        self, x: Float[Array, " action"], observation: Float[Array, " observation"], time: Scalar | None
    ) -> Float[Array, " action"]:
        """time: from 0 (noise) to 1 (action); None for a network made without it."""
        parts = [observation, x] if time is None else [observation, x, time[None]]
        return self.network(jnp.concatenate(parts))
