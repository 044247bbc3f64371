"""The noise predictor of IDQL (arXiv 2304.10573) and SRPO (arXiv 2310.07297): a residual network with LayerNorm."""

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.networks.denoiser import fixed_frequencies, fourier_embedding
from tether.networks.layers import MLP, Initialiser, Linear, mish, torch_uniform
from tether.types import Array, Float, PRNGKey, Spec

__all__ = ["ResidualNoiseNetwork"]

FOURIER_FEATURES = 64
WIDTH_FACTOR = 4  # of a block's inner layer


class Block(eqx.Module):
    """x + Dense( mish( Dense( LayerNorm(x) ) ) ), four times as wide inside."""

    norm: eqx.nn.LayerNorm
    widen: Linear
    narrow: Linear

    def __init__(self, key: PRNGKey, width: int, initialiser: Initialiser):
        widen_key, narrow_key = jax.random.split(key)
        self.norm = eqx.nn.LayerNorm(width, dtype=jnp.float32)
        self.widen = Linear(widen_key, width, WIDTH_FACTOR * width, initialiser)
        self.narrow = Linear(narrow_key, WIDTH_FACTOR * width, width, initialiser)

    def __call__(self, x: Float[Array, " width"]) -> Float[Array, " width"]:
        return x + self.narrow(mish(self.widen(self.norm(x))))


class ResidualNoiseNetwork(eqx.Module):
    """eps(a_t, observation, t): random Fourier features of the time, a small MLP on them, residual blocks.

    The published networks have dropout 0.1 in the blocks while training; it is left out, so that a network is a
    function of its input alone.
    """

    frequencies: Float[Array, " features"] | None  # trained with the rest (IDQL); None: fixed (SRPO)
    time: MLP
    first: Linear
    blocks: tuple[Block, ...]
    last: Linear
    action_size: int = eqx.field(static=True)
    max_action: float = eqx.field(static=True)
    frequency_scale: float = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKey,
        spec: Spec,
        *,
        width: int = 256,
        block_count: int = 3,
        frequency_scale: float,
        frequencies_train: bool,
        time_sizes: tuple[int, int] = (128, 128),
        initialiser: Initialiser = torch_uniform,
        block_initialiser: Initialiser = torch_uniform,
    ):
        """frequency_scale: standard deviation of the frequencies, in cycles; of those not trained, see
        `fixed_frequencies`. block_initialiser: of the layers within the residual blocks."""
        frequency_key, time_key, first_key, last_key, *block_keys = jax.random.split(key, 4 + block_count)
        draw = frequency_scale * jax.random.normal(frequency_key, (FOURIER_FEATURES // 2,), jnp.float32)
        self.frequencies = draw if frequencies_train else None
        how = {"activation": mish, "initialiser": initialiser}
        self.time = MLP(time_key, FOURIER_FEATURES, time_sizes[:1], time_sizes[1], **how)
        in_size = spec.action_size + spec.observation_size + time_sizes[1]
        self.first = Linear(first_key, in_size, width, initialiser)
        self.blocks = tuple(Block(k, width, block_initialiser) for k in block_keys)
        self.last = Linear(last_key, width, spec.action_size, initialiser)
        self.action_size, self.max_action = spec.action_size, spec.max_action
        self.frequency_scale = frequency_scale

    def __call__(
        self, noisy_action: Float[Array, " action"], observation: Float[Array, " observation"], time: Array
    ) -> Float[Array, " action"]:
        """time: an integer step or a real time, []."""
        frequencies = self.frequencies
        if frequencies is None:
            frequencies = jnp.asarray(fixed_frequencies(FOURIER_FEATURES // 2, self.frequency_scale))
        features = self.time(fourier_embedding(time.astype(jnp.float32), frequencies))
        x = self.first(jnp.concatenate([noisy_action, observation, features]))
        for block in self.blocks:
            x = block(x)
        return self.last(mish(x))
