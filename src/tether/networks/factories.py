"""What critics and actors are made of: an MLP, one of its variants by name, or somebody's own network.

Every network of this package that is an MLP between its inputs and its outputs (a Q head, V, the trunk of an actor or
of a noise predictor) asks `make_network` for it. Who wants another one gives the algorithm a factory:

    def mine(key, in_sizes, hidden_sizes, out_size, **how): ...     # -> an eqx.Module, x[sum(in_sizes)] -> [out_size]
    tether.DTQL(critic_network=mine)

or a name: a registered factory's, `mlp`, `residual`, and, joined by a plus, what changes one of these.

    layernorm              LayerNorm in every hidden layer
    no-layernorm           without it, where the paper has it
    relu gelu silu mish tanh elu
    512x512                other hidden sizes than the algorithm's `hidden_sizes`
    hl-gauss quantile      of Q networks: a distribution, of which Q is the mean (`tether.networks.distributions`).
                           `hl-gauss=-20,400` says the range of its bins, which `tether.train` else takes from the data
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.errors import InputError
from tether.machine.registry import Registry, registry
from tether.networks.distributions import (
    BINS,
    HL_GAUSS,
    QUANTILE,
    Distribution,
    HLGauss,
    Quantiles,
    has_distinct_bins,
)
from tether.networks.layers import MLP, Activation, Initialiser, Layers, Linear, mish, torch_uniform
from tether.types import Array, Float, PRNGKey

__all__ = [
    "NETWORKS",
    "Change",
    "Network",
    "ResidualMLP",
    "find_network",
    "has_unknown_range",
    "is_distributional",
    "make_network",
    "mlp",
    "residual",
    "value_range",
    "with_range",
    "without_range",
]

Network = str | Callable[..., Any]
"""A name, or a factory (key, in_sizes, hidden_sizes, out_size, **how) -> Layers.

in_sizes: of what is concatenated in the input, in order, such as (observation, action). how: what the algorithm's paper
has: `activation`, `initialiser`, `last_initialiser`, `layer_norm`, `norm_last`; whichever a factory has no use for it
leaves alone.
"""

SIZES = re.compile(r"[1-9]\d*(x[1-9]\d*)*")


def make_network(
    network: Network, key: PRNGKey, in_sizes: Sequence[int], hidden_sizes: Sequence[int], out_size: int, **how: Any
) -> Layers:
    """A network of one sample, x[sum(in_sizes)] -> [out_size]; its leaves are arrays.

    Raises InputError for an unknown name, and for a factory whose network is not of that kind.
    """
    if network == "mlp":  # what nearly everybody has
        return MLP(key, sum(in_sizes), hidden_sizes, out_size, **how)
    made = find_network(network)(key, tuple(in_sizes), tuple(hidden_sizes), out_size, **how)
    if callable(made) and not all(map(eqx.is_array, jax.tree.leaves(made))):  # eqx.nn.MLP has its activation there
        made = ArraysOnly(*eqx.partition(made, eqx.is_array))
    out = jax.eval_shape(made, jax.ShapeDtypeStruct((sum(in_sizes),), jnp.float32)) if callable(made) else None
    if (getattr(out, "shape", None), getattr(out, "dtype", None)) != ((out_size,), jnp.float32):
        name = network if isinstance(network, str) else getattr(network, "__qualname__", repr(network))
        what = f"gives {out} for {sum(in_sizes)} numbers" if callable(made) else f"its factory gave {made!r}"
        raise InputError(f"network {name!r}: {what}; a float32 array of shape ({out_size},) is needed")
    return made


def find_network(network: Network) -> Callable[..., Layers]:
    """The factory that a name stands for; a factory as it is. Raises InputError for an unknown name."""
    if not isinstance(network, str):
        if not callable(network):
            raise InputError(f"network {network!r}: is neither a name nor a factory")
        return network
    base: Callable[..., Layers] | None = None
    head: tuple[Callable[[Layers], Distribution], int] | None = None
    changes: dict[str, Any] = {}
    for part in network.split("+"):
        if part.partition("=")[0] in (HL_GAUSS, QUANTILE):
            if head is not None:
                raise InputError(f"network {network!r}: {part!r} is a second distribution; a head has one")
            head = _head(network, part)
            continue
        found = Change({"hidden_sizes": _sizes(part)}) if SIZES.fullmatch(part) else NETWORKS.find(part)
        if isinstance(found, Change):
            changes |= found.how
        elif base is None:
            base = found
        else:
            raise InputError(f"network {network!r}: {part!r} is a second one to build; join one with what changes it")
    factory = Change(changes, base or mlp) if changes else base or mlp
    return factory if head is None else Distributional(factory, *head)


def _head(network: str, part: str) -> tuple[Callable[[Layers], Distribution], int]:
    """What makes a distribution of a network, and of how many outputs. Raises InputError for a range that is none."""
    name, equals, text = part.partition("=")
    if name == QUANTILE:
        if equals:
            raise InputError(f"network {network!r}: {name} has no range")
        return Quantiles, Quantiles.outputs
    if not equals:
        return Unranged, BINS
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"network {network!r}: the range of the bins is LOW,HIGH, such as {HL_GAUSS}=-20,400")
    if not has_distinct_bins(low, high):
        raise InputError(f"network {network!r}: float32 does not hold {BINS} bins in that range")
    return functools.partial(HLGauss, low=low, high=high), BINS


class Unranged(HLGauss):
    """Bins of which nobody has said yet where they lie."""

    def __init__(self, network: Layers):
        raise InputError(
            f"network {HL_GAUSS!r}: say where its bins lie, {HL_GAUSS}=LOW,HIGH; tether.train asks the data"
        )


def has_unknown_range(network: Network) -> bool:
    """Whether it has bins of which nobody has said where they lie."""
    return isinstance(network, str) and HL_GAUSS in network.split("+")


def value_range(returns: Sequence[float]) -> tuple[float, float]:
    """Where the bins of a critic lie whose data have discounted returns from the first to the second: as far below as
    half of what the returns span, and as far above as all of it, as policies are to become better than the data."""
    low, high = returns
    span = max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-6)
    return low - 0.5 * span, high + span


def with_range(network: str, low: float, high: float) -> str:
    """The same network with its bins there."""
    ends = ",".join(f"{end:.6g}".replace("e+", "e") for end in (low, high))
    return "+".join(f"{part}={ends}" if part == HL_GAUSS else part for part in network.split("+"))


def without_range(network: str) -> str:
    """The same network as before `with_range`."""
    return "+".join(HL_GAUSS if part.startswith(f"{HL_GAUSS}=") else part for part in network.split("+"))


def is_distributional(network: Network) -> bool:
    """Whether its Q heads are distributions."""
    return isinstance(network, str) and any(
        part.partition("=")[0] in (HL_GAUSS, QUANTILE) for part in network.split("+")
    )


class Distributional(NamedTuple):
    """A factory of Q heads that are distributions; of V, which has no targets of its own, what `base` builds."""

    base: Callable[..., Layers]
    head: Callable[[Layers], Distribution]
    outputs: int  # of the network that `head` makes a distribution of

    def __call__(self, key: PRNGKey, in_sizes: Any, hidden_sizes: Any, out_size: int, **how: Any) -> Layers:
        if len(in_sizes) == 1:
            return self.base(key, in_sizes, hidden_sizes, out_size, **how)
        return self.head(self.base(key, in_sizes, hidden_sizes, self.outputs, **how))


class Change(NamedTuple):
    """A factory that builds as `base` does, with other arguments."""

    how: Mapping[str, Any]
    base: Callable[..., Layers] | None = None  # None: an MLP

    def __call__(self, key: PRNGKey, in_sizes: Any, hidden_sizes: Any, out_size: int, **how: Any) -> Layers:
        how = {"hidden_sizes": hidden_sizes, **how, **self.how}
        return (self.base or mlp)(key, in_sizes, out_size=out_size, **how)


class ArraysOnly(eqx.Module):
    """A network of which only the arrays are leaves, as training carries no others."""

    arrays: Any
    rest: Any = eqx.field(static=True)

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        return eqx.combine(self.arrays, self.rest)(x)


def mlp(key: PRNGKey, in_sizes: Sequence[int], hidden_sizes: Sequence[int], out_size: int, **how: Any) -> MLP:
    """What the papers have."""
    return MLP(key, sum(in_sizes), hidden_sizes, out_size, **how)


def residual(
    key: PRNGKey,
    in_sizes: Sequence[int],
    hidden_sizes: Sequence[int],
    out_size: int,
    *,
    activation: Activation,
    initialiser: Initialiser = torch_uniform,
    last_initialiser: Initialiser | None = None,
    **how: Any,
) -> "ResidualMLP":
    """A block for every hidden size, each with its own LayerNorm, whatever the paper has."""
    kinds = {"activation": activation, "initialiser": initialiser, "last_initialiser": last_initialiser}
    return ResidualMLP(key, sum(in_sizes), hidden_sizes, out_size, **kinds)


class ResidualBlock(eqx.Module):
    """x + Linear(activation(Linear(LayerNorm(x)))); an affine map of x in the place of x where the widths differ."""

    norm: eqx.nn.LayerNorm
    into: Linear
    out: Linear
    shortcut: Linear | None
    activation: Activation = eqx.field(static=True)

    def __init__(self, key: PRNGKey, in_size: int, width: int, activation: Activation, initialiser: Initialiser):
        into_key, out_key, shortcut_key = jax.random.split(key, 3)
        self.norm = eqx.nn.LayerNorm(in_size, dtype=jnp.float32)
        self.into = Linear(into_key, in_size, width, initialiser)
        self.out = Linear(out_key, width, width, initialiser)
        self.shortcut = None if in_size == width else Linear(shortcut_key, in_size, width, initialiser)
        self.activation = activation

    def __call__(
        self, x: Float[Array, " in"], dropout_rate: float = 0.0, key: PRNGKey | None = None
    ) -> Float[Array, " width"]:
        hidden = self.activation(self.into(self.norm(x)))
        hidden = eqx.nn.Dropout(dropout_rate, inference=key is None)(hidden, key=key)
        return (x if self.shortcut is None else self.shortcut(x)) + self.out(hidden)


class ResidualMLP(eqx.Module):
    """An affine map into the first hidden size, residual blocks, LayerNorm, an affine map out: deeper networks that
    still learn, as in SimBa (Lee et al. 2024, arXiv 2410.09754)."""

    first: Linear
    blocks: tuple[ResidualBlock, ...]
    norm: eqx.nn.LayerNorm
    last: Linear

    def __init__(
        self,
        key: PRNGKey,
        in_size: int,
        hidden_sizes: Sequence[int],
        out_size: int,
        *,
        activation: Activation,
        initialiser: Initialiser = torch_uniform,
        last_initialiser: Initialiser | None = None,
    ):
        if not hidden_sizes:
            raise InputError("network 'residual': needs at least one hidden size, a block for each")
        first_key, last_key, *block_keys = jax.random.split(key, 2 + len(hidden_sizes))
        self.first = Linear(first_key, in_size, hidden_sizes[0], initialiser)
        widths = zip(block_keys, (hidden_sizes[0], *hidden_sizes[:-1]), hidden_sizes, strict=True)
        self.blocks = tuple(ResidualBlock(k, before, width, activation, initialiser) for k, before, width in widths)
        self.norm = eqx.nn.LayerNorm(hidden_sizes[-1], dtype=jnp.float32)
        self.last = Linear(last_key, hidden_sizes[-1], out_size, last_initialiser or initialiser)

    def __call__(
        self, x: Float[Array, " in"], dropout_rate: float = 0.0, key: PRNGKey | None = None
    ) -> Float[Array, " out"]:
        """Dropout as of `MLP`."""
        keys = [None] * len(self.blocks) if key is None else jax.random.split(key, len(self.blocks))
        x = self.first(x)
        for block, block_key in zip(self.blocks, keys, strict=True):
            x = block(x, dropout_rate, block_key)
        return self.last(self.norm(x))


def _sizes(text: str) -> tuple[int, ...]:
    """`512x256` -> (512, 256)."""
    return tuple(int(size) for size in text.split("x"))


_ACTIVATIONS: dict[str, Activation] = {
    **{"relu": jax.nn.relu, "gelu": jax.nn.gelu, "silu": jax.nn.silu, "mish": mish},
    **{"tanh": jnp.tanh, "elu": jax.nn.elu},
}

NETWORKS: Registry[Callable[..., Layers]] = registry("network").provide(
    {
        "mlp": mlp,
        "residual": residual,
        "layernorm": Change({"layer_norm": True}),
        "no-layernorm": Change({"layer_norm": False}),
        **{name: Change({"activation": activation}) for name, activation in _ACTIVATIONS.items()},
        HL_GAUSS: Distributional(mlp, Unranged, BINS),
        QUANTILE: Distributional(mlp, Quantiles, Quantiles.outputs),
    },
    reserved=lambda name: SIZES.fullmatch(name) is not None,
)
"""Name -> factory, of the library and of whoever registered one."""
