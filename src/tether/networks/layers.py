"""The field's small networks, made of Equinox layers with named initialisers.

Every network acts on one sample; callers `vmap` over batches. Leaves are arrays only: sizes and
activations are static, so a network is a pytree that optimisers, scans and checkpoints take as it is.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.types import Array, Float, PRNGKey

__all__ = [
    "FLAX_EPSILON",
    "MLP",
    "Activation",
    "Initialiser",
    "Layers",
    "Linear",
    "fan_in_uniform",
    "glorot_uniform",
    "lecun_normal",
    "mish",
    "orthogonal",
    "torch_uniform",
    "uniform",
]

TORCH_EPSILON, FLAX_EPSILON = 1e-5, 1e-6  # added to the variance in LayerNorm, by default

Activation = Callable[[Array], Array]
Initialiser = Callable[[PRNGKey, int, int], tuple[Array, Array]]
"""(key, in_features, out_features) -> (weight [out, in], bias [out])."""

Layers = Callable[..., Array]
"""An `MLP`, or a module in its place (`networks/factories.py`): x[in] -> [out], all leaves arrays."""


def torch_uniform(key: PRNGKey, in_features: int, out_features: int) -> tuple[Array, Array]:
    """PyTorch's default for `Linear`: weight and bias uniform in ±1/sqrt(in_features)."""
    return uniform(in_features**-0.5)(key, in_features, out_features)


def fan_in_uniform(bias: float) -> Initialiser:
    """Weight as `torch_uniform`, every bias the same."""

    def initialise(key: PRNGKey, in_features: int, out_features: int) -> tuple[Array, Array]:
        return torch_uniform(key, in_features, out_features)[0], jnp.full(out_features, bias, jnp.float32)

    return initialise


def uniform(bound: float) -> Initialiser:
    """Weight and bias uniform in ±bound: for last layers that shall start near 0."""

    def initialise(key: PRNGKey, in_features: int, out_features: int) -> tuple[Array, Array]:
        weight_key, bias_key = jax.random.split(key)
        weight = jax.random.uniform(weight_key, (out_features, in_features), jnp.float32, minval=-bound, maxval=bound)
        return weight, jax.random.uniform(bias_key, (out_features,), jnp.float32, minval=-bound, maxval=bound)

    return initialise


def orthogonal(gain: float = 1.0) -> Initialiser:
    """Orthogonal weight times `gain`, zero bias (Saxe et al. 2013)."""
    weight_initialiser = jax.nn.initializers.orthogonal(gain)

    def initialise(key: PRNGKey, in_features: int, out_features: int) -> tuple[Array, Array]:
        return weight_initialiser(key, (out_features, in_features), jnp.float32), jnp.zeros(out_features, jnp.float32)

    return initialise


def glorot_uniform(key: PRNGKey, in_features: int, out_features: int, gain: float = 1.0) -> tuple[Array, Array]:
    """Flax's Xavier uniform: weight uniform in ±gain sqrt(6/(in_features + out_features)), zero bias."""
    bound = gain * (6.0 / (in_features + out_features)) ** 0.5
    return jax.random.uniform(key, (out_features, in_features), jnp.float32, minval=-bound, maxval=bound), jnp.zeros(
        out_features, jnp.float32
    )


def lecun_normal(key: PRNGKey, in_features: int, out_features: int) -> tuple[Array, Array]:
    """Flax's default for `Dense`: weight normal with variance 1/in_features, cut at two deviations, zero bias.

    Its standard deviation is sqrt(3) times that of `torch_uniform`.
    """
    draw = jax.nn.initializers.lecun_normal(in_axis=1, out_axis=0)
    return draw(key, (out_features, in_features), jnp.float32), jnp.zeros(out_features, jnp.float32)


class Linear(eqx.Module):
    """The affine map x W^T + b, parameters drawn by a named initialiser.

    `equinox.nn.Linear` computes W x. Mapped over a batch, that order gives XLA a transposed product, which ran
    2.3 times slower on CPU than this one (256 x 256, one core: 73 against 167 GFLOP/s).
    """

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"]

    def __init__(self, key: PRNGKey, in_features: int, out_features: int, initialiser: Initialiser):
        self.weight, self.bias = initialiser(key, in_features, out_features)

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        return x @ self.weight.T + self.bias


@jax.custom_vjp
def mish(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Mish, z tanh(softplus(z)), in its algebraic form: one exponential and one division.

    With n = e^z (e^z + 2), tanh(log(1 + e^z)) = n / (n + 2). Above 20 the factor is 1 in float32, so
    the exponent is capped there to keep n finite.
    """
    return _mish_and_slope(z)[0]


def _mish_and_slope(z: Array) -> tuple[Array, Array]:
    """mish(z) and its derivative, which share the exponential and the division."""
    capped = jnp.minimum(z, 20.0)
    exponential = jnp.exp(capped)
    n = exponential * (exponential + 2.0)
    inverse = 1.0 / (n + 2.0)
    gate = n * inverse
    return z * gate, gate + 4.0 * capped * exponential * (exponential + 1.0) * inverse**2


def _mish_backward(slope: Array, gradient: Array) -> tuple[Array]:
    # Without the barrier XLA computes the slope anew in each of the reductions of a LayerNorm before it.
    return (jax.lax.optimization_barrier(gradient * slope),)


mish.defvjp(_mish_and_slope, _mish_backward)


class MLP(eqx.Module):
    """Linear -> [LayerNorm ->] activation for every hidden size, then a Linear without activation.

    `norm_last`: LayerNorm follows the activation. `norm_epsilon`: of LayerNorm. `last_initialiser`: of the last layer,
    where it differs.
    """

    layers: tuple[Linear, ...]
    norms: tuple[eqx.nn.LayerNorm, ...]  # one per hidden layer, or none
    activation: Activation = eqx.field(static=True)
    norm_last: bool = eqx.field(static=True)

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
        layer_norm: bool = False,
        norm_last: bool = False,
        norm_epsilon: float = TORCH_EPSILON,
    ):
        sizes = (in_size, *hidden_sizes, out_size)
        keys = jax.random.split(key, len(sizes) - 1)
        initialisers = (*(initialiser for _ in hidden_sizes), last_initialiser or initialiser)
        shapes = zip(keys, sizes[:-1], sizes[1:], initialisers, strict=True)
        self.layers = tuple(Linear(*shape) for shape in shapes)
        normed_sizes = hidden_sizes if layer_norm else ()
        self.norms = tuple(eqx.nn.LayerNorm(size, norm_epsilon, dtype=jnp.float32) for size in normed_sizes)
        self.activation = activation
        self.norm_last = norm_last

    def __call__(
        self, x: Float[Array, " in"], dropout_rate: float = 0.0, key: PRNGKey | None = None
    ) -> Float[Array, " out"]:
        """With a `key`, every hidden activation is dropped with probability `dropout_rate`, as in training."""
        keys = None if key is None or dropout_rate == 0.0 else jax.random.split(key, len(self.layers) - 1)
        for index, layer in enumerate(self.layers[:-1]):
            x = layer(x)
            if self.norms and not self.norm_last:
                x = self.norms[index](x)
            x = self.activation(x)
            if self.norms and self.norm_last:
                x = self.norms[index](x)
            if keys is not None:
                x = eqx.nn.Dropout(dropout_rate)(x, key=keys[index])
        return self.layers[-1](x)
