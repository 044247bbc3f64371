"""Value networks: V(s) and ensembles of Q(s, a)."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.networks.layers import MLP, mish
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
    """Independently initialised Q(s, a) heads, parameters stacked on a leading `ensemble` axis.

    The one network that takes batches: heads must be the outermost axis of every matmul. Mapping heads
    inside rows instead, or leaving the inputs unbatched over heads, contracts over the ensemble axis in the
    backward pass and ran 2 to 3 times slower on CPU.
    """

    heads: MLP  # every leaf [ensemble, ...]
    ensemble_size: int = eqx.field(static=True)

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
    ):
        def head(head_key: PRNGKey) -> MLP:
            in_size = observation_size + action_size
            return MLP(head_key, in_size, hidden_sizes, 1, activation=activation, layer_norm=layer_norm)

        self.heads = eqx.filter_vmap(head)(jax.random.split(key, ensemble_size))
        self.ensemble_size = ensemble_size

    def __call__(
        self, observation: Float[Array, "batch observation"], action: Float[Array, "batch action"]
    ) -> Float[Array, "ensemble batch"]:
        x = jnp.concatenate([observation, action], axis=1)
        x = jnp.broadcast_to(x, (self.ensemble_size, *x.shape))
        return jax.vmap(lambda head, rows: jax.vmap(head)(rows)[:, 0])(self.heads, x)
