"""Value networks: V(s) and ensembles of Q(s, a)."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.networks.denoiser import sinusoidal_embedding
from tether.networks.distributions import Distribution
from tether.networks.factories import Network, make_network
from tether.networks.layers import FLAX_EPSILON, MLP, Initialiser, Layers, mish
from tether.types import Array, Float, Int, PRNGKey, Scalar

__all__ = ["DiffusionValue", "DiffusionValueEnsemble", "QEnsemble", "ValueNetwork", "stack_heads", "unstack_heads"]

STACKED_FROM = 3  # heads

T = TypeVar("T")


class ValueNetwork(eqx.Module):
    """V(s): an MLP, or another `network`, with one output."""

    network: Layers

    def __init__(
        self,
        key: PRNGKey,
        observation_size: int,
        hidden_sizes: Sequence[int],
        activation: Callable = mish,
        *,
        layer_norm: bool = False,
        network: Network = "mlp",
        **how: Any,  # of the MLP
    ):
        how |= {"activation": activation, "layer_norm": layer_norm}
        self.network = make_network(network, key, (observation_size,), hidden_sizes, 1, **how)

    def __call__(self, observation: Float[Array, " observation"]) -> Scalar:
        return self.network(observation)[0]


class QEnsemble(eqx.Module):
    """Independently initialised Q(s, a) heads.

    A tuple: on CPU two plain matmuls take half the time of a batched one (256 x 256, one core: 0.40 against 0.73 ms).
    Within the training loop many heads are one network with a leading axis (`stack_heads`).
    """

    heads: tuple[Layers, ...]  # within the training loop perhaps one network with a leading axis

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
        network: Network = "mlp",
        **how: Any,  # of the MLPs
    ):
        how |= {"activation": activation, "layer_norm": layer_norm}
        sizes = (observation_size, action_size), hidden_sizes, 1
        self.heads = _make_heads(lambda k: make_network(network, k, *sizes, **how), key, ensemble_size)

    def __call__(
        self, observation: Float[Array, " observation"], action: Float[Array, " action"]
    ) -> Float[Array, " ensemble"]:
        x = jnp.concatenate([observation, action])
        return _of_each(self.heads, lambda head: head(x)[0])

    @property
    def is_distributional(self) -> bool:
        """Whether heads are distributions, of which the values are the means (`tether.networks.distributions`)."""
        return isinstance(self.heads[0] if isinstance(self.heads, tuple) else self.heads, Distribution)

    def errors(
        self, observation: Float[Array, " observation"], action: Float[Array, " action"], target: Scalar
    ) -> Float[Array, " ensemble"]:
        """The loss of each distribution for one target."""
        x = jnp.concatenate([observation, action])
        return _of_each(self.heads, lambda head: head.error(x, target))

    def least(self, observation: Float[Array, " observation"], action: Float[Array, " action"]) -> Scalar:
        """min_i Q_i(s, a), with the gradient of that head.

        Not `min`: its gradient divides by the number of heads that equal the minimum. That is none, and the gradient
        NaN, where XLA computes Q once for the minimum and once for the comparison and rounds the two differently.
        """
        q = self(observation, action)
        return jnp.sum(jnp.where(jnp.arange(len(q)) == jnp.argmin(q), q, 0.0))

    def subset(self, indices: Int[Array, " subset"]) -> "QEnsemble":
        """An ensemble of these heads, which may be drawn within a compiled program."""
        heads = self.heads
        if isinstance(heads, tuple):
            heads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *heads)
        return _with_heads(self, jax.tree.map(lambda leaf: leaf[indices], heads))

    def first(self, observation: Float[Array, " observation"], action: Float[Array, " action"]) -> Scalar:
        """The first head alone."""
        head = self.heads[0] if isinstance(self.heads, tuple) else jax.tree.map(lambda leaf: leaf[0], self.heads)
        return head(jnp.concatenate([observation, action]))[0]


class DiffusionValue(eqx.Module):
    """V_n(s, a_n): the value of a partly denoised action. Flax's LayerNorm before every Mish, unless left out."""

    time: MLP
    network: Layers
    time_features: int = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKey,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        *,
        time_features: int,
        initialiser: Initialiser,
        layer_norm: bool = True,
        network: Network = "mlp",
    ):
        time_key, network_key = jax.random.split(key)
        how = {"activation": mish, "initialiser": initialiser}
        self.time = MLP(time_key, time_features, (2 * time_features,), time_features, **how)
        how |= {"layer_norm": layer_norm, "norm_epsilon": FLAX_EPSILON}
        in_sizes = observation_size, action_size, time_features
        self.network = make_network(network, network_key, in_sizes, hidden_sizes, 1, **how)
        self.time_features = time_features

    def __call__(
        self, observation: Float[Array, " observation"], noisy_action: Float[Array, " action"], step: Int[Array, ""]
    ) -> Scalar:
        time = mish(self.time(sinusoidal_embedding(step.astype(jnp.float32), self.time_features)))
        return self.network(jnp.concatenate([observation, noisy_action, time]))[0]


class DiffusionValueEnsemble(eqx.Module):
    """Independently initialised diffusion values."""

    heads: tuple[DiffusionValue, ...]  # within the training loop perhaps one with a leading axis

    def __init__(self, key: PRNGKey, *sizes: Any, ensemble_size: int, **how: Any):
        """`sizes` and `how`: those of `DiffusionValue`."""
        self.heads = _make_heads(lambda k: DiffusionValue(k, *sizes, **how), key, ensemble_size)

    def __call__(
        self, observation: Float[Array, " observation"], noisy_action: Float[Array, " action"], step: Int[Array, ""]
    ) -> Float[Array, " ensemble"]:
        return _of_each(self.heads, lambda head: head(observation, noisy_action, step))


def _make_heads(make: Callable[[PRNGKey], T], key: PRNGKey, count: int) -> tuple[T, ...]:
    """`count` networks; many of them by one small program in turns, which gives the same bits."""
    keys = jax.random.split(key, count)
    if count < STACKED_FROM:
        return tuple(make(key) for key in keys)
    return _unstacked(jax.lax.map(make, keys))


def _of_each(heads: Any, function: Callable[[Any], Scalar]) -> Float[Array, " ensemble"]:
    """What `function` makes of each head. On a CPU, stacked heads run one by one (a sixth faster than a loop over a
    tuple of them: one head at a time stays in the caches); elsewhere they are vmapped."""
    if not isinstance(heads, tuple):
        if jax.default_backend() != "cpu":
            return jax.vmap(function)(heads)
        heads = _unstacked(heads)
    return jnp.stack([function(head) for head in heads])


def stack_heads(tree: T, axis: int = 0) -> T:
    """`tree` with the heads of every ensemble of three or more as one network with an axis of heads.

    What does not look into a head (clipping, Adam, averages, lanes, loops that carry the state) is a tenth of the
    operations for ten of them: BDPO's program compiles in half a minute instead of hours. The moments of an optimiser
    have the form of their network and are stacked with it. axis: 1 where there is one of lanes before it.
    What is stacked already stays as it is; NumPy arrays stay NumPy arrays.
    """

    def join(*leaves: Any) -> Any:
        return (np if isinstance(leaves[0], np.ndarray) else jnp).stack(leaves, axis)

    def stack(node: Any) -> Any:
        if not _is_ensemble(node) or not isinstance(node.heads, tuple) or len(node.heads) < STACKED_FROM:
            return node
        heads = jax.tree.map(join, *node.heads)
        return _with_heads(node, heads)

    return jax.tree.map(stack, tree, is_leaf=_is_ensemble)


def unstack_heads(tree: T, axis: int = 0) -> T:
    """The inverse of `stack_heads`."""

    def unstack(node: Any) -> Any:
        if not _is_ensemble(node) or isinstance(node.heads, tuple):
            return node
        return _with_heads(node, _unstacked(node.heads, axis))

    return jax.tree.map(unstack, tree, is_leaf=_is_ensemble)


def _unstacked(heads: T, axis: int = 0) -> tuple[T, ...]:
    """The networks along the axis of heads, 0 or 1."""
    count = jax.tree.leaves(heads)[0].shape[axis]
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i] if axis == 0 else leaf[:, i], heads) for i in range(count))


def _is_ensemble(node: Any) -> bool:
    return isinstance(node, QEnsemble | DiffusionValueEnsemble)


def _with_heads(ensemble: Any, heads: Any) -> Any:
    changed = copy.copy(ensemble)
    object.__setattr__(changed, "heads", heads)  # a module is frozen
    return changed
