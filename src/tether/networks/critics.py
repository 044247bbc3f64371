"""Value networks: V(s) and ensembles of Q(s, a)."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.networks.layers import MLP, Initialiser, mish, torch_uniform
from tether.types import Array, Float, PRNGKey, Scalar

__all__ = ["QEnsemble", "ValueNetwork"]


class ValueNetwork(eqx.Module):
    """V(s): an MLP with one output."""

    network: MLP

    def __init__(self, key: PRNGKey, observation_size: int, hidden_sizes: Sequence[int], activation: Callable = mish):
        self.network = MLP(key, observation_size, hidden_sizes, 1, activation=activation)

    def __call__(self, observation: Float[Array, " observation"]) -> Scalar:
        return self.network(observation)[0]


class QEnsemble(eqx.Module):
    """Independently initialised Q(s, a) heads.

    A tuple and not parameters stacked on an ensemble axis: on CPU two plain matmuls take half the time of a
    batched one (256 x 256, one core: 0.40 against 0.73 ms).
    """

    heads: tuple[MLP, ...]

    def __init__(
        self,
        key: PRNGKey,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        *,
        ensemble_size: int = 2,
        activation: Callable = mish,
        layer_norm: bool = True,
        initialiser: Initialiser = torch_uniform,
    ):
        how = {"activation": activation, "layer_norm": layer_norm, "initialiser": initialiser}
        in_size = observation_size + action_size
        self.heads = tuple(MLP(k, in_size, hidden_sizes, 1, **how) for k in jax.random.split(key, ensemble_size))

    def __call__(
        self, observation: Float[Array, " observation"], action: Float[Array, " action"]
    ) -> Float[Array, " ensemble"]:
        x = jnp.concatenate([observation, action])
        return jnp.stack([head(x)[0] for head in self.heads])
