"""A causal transformer of GPT-2's kind over one sequence of vectors."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.networks.layers import Initialiser, Linear
from tether.types import Array, Float, PRNGKey, Scalar

__all__ = ["CausalTransformer", "Dropout", "dropout", "normal"]

WIDTH_FACTOR = 4  # of a block's inner layer


def normal(std: float) -> Initialiser:
    """Normal weight with this standard deviation, zero bias (GPT-2: 0.02)."""

    def initialise(key: PRNGKey, in_features: int, out_features: int) -> tuple[Array, Array]:
        weight = std * jax.random.normal(key, (out_features, in_features), jnp.float32)
        return weight, jnp.zeros(out_features, jnp.float32)

    return initialise


class Dropout(NamedTuple):
    """How a training pass drops entries; None in its place: an evaluation, nothing is dropped."""

    rate: float | Scalar
    key: PRNGKey

    def split(self, count: int) -> "list[Dropout]":
        """Independent ones."""
        return [Dropout(self.rate, key) for key in jax.random.split(self.key, count)]


def dropout(x: Float[Array, "*shape"], how: Dropout | None) -> Float[Array, "*shape"]:
    """Entries set to 0 with probability `rate`, the others divided by 1 - rate."""
    return x if how is None else eqx.nn.Dropout(how.rate)(x, key=how.key)  # pyright: ignore[reportArgumentType]


class Block(eqx.Module):
    """x + attention(LayerNorm(x)), then x + MLP(LayerNorm(x)), the MLP with ReLU and four times as wide inside."""

    attention_norm: eqx.nn.LayerNorm
    attention_in: Linear  # queries, keys and values side by side
    attention_out: Linear
    norm: eqx.nn.LayerNorm
    widen: Linear
    narrow: Linear
    heads: int = eqx.field(static=True)

    def __init__(self, key: PRNGKey, width: int, heads: int):
        keys = jax.random.split(key, 4)
        self.attention_norm = eqx.nn.LayerNorm(width, dtype=jnp.float32)
        self.attention_in = Linear(keys[0], width, 3 * width, normal(0.02))
        self.attention_out = Linear(keys[1], width, width, normal(0.02))
        self.norm = eqx.nn.LayerNorm(width, dtype=jnp.float32)
        self.widen = Linear(keys[2], width, WIDTH_FACTOR * width, normal(0.02))
        self.narrow = Linear(keys[3], WIDTH_FACTOR * width, width, normal(0.02))
        self.heads = heads

    def __call__(
        self, x: Float[Array, "tokens width"], how: Dropout | None, wanted: slice = slice(None)
    ) -> Float[Array, "wanted width"]:
        """wanted: the tokens whose outputs are needed; the others are looked at, nothing else is made of them."""
        weights_how, attention_how, inner_how = (None, None, None) if how is None else how.split(3)
        attended = self._attend(jax.vmap(self.attention_norm)(x), weights_how, wanted)
        x = x[wanted] + dropout(jax.vmap(self.attention_out)(attended), attention_how)
        inner = jax.vmap(lambda row: self.narrow(jax.nn.relu(self.widen(self.norm(row)))))(x)
        return x + dropout(inner, inner_how)

    def _attend(
        self, x: Float[Array, "tokens width"], how: Dropout | None, wanted: slice
    ) -> Float[Array, "wanted width"]:
        """softmax(q k^T / sqrt(size)) v over a token and those before it, head by head."""
        tokens, width = x.shape
        if wanted == slice(None):
            parts = jnp.split(jax.vmap(self.attention_in)(x), 3, axis=1)
        else:
            weight, bias = self.attention_in.weight, self.attention_in.bias[None]
            parts = [x[wanted] @ weight[:width].T + bias[:, :width]]
            parts += jnp.split(x @ weight[width:].T + bias[:, width:], 2, axis=1)
        split = [part.reshape(len(part), self.heads, width // self.heads) for part in parts]
        query, key, value = (jnp.moveaxis(part, 0, 1) for part in split)  # each [heads, tokens or wanted, size]
        scores = query @ jnp.swapaxes(key, 1, 2) * (width // self.heads) ** -0.5
        earlier = jnp.tril(jnp.ones((tokens, tokens), bool))[None, wanted]
        weights = jax.nn.softmax(jnp.where(earlier, scores, jnp.full_like(scores, -jnp.inf)), axis=-1)
        return jnp.moveaxis(dropout(weights, how) @ value, 0, 1).reshape(len(parts[0]), width)


class CausalTransformer(eqx.Module):
    """Blocks, then a LayerNorm. What comes out for a token depends on it and on those before it only."""

    blocks: tuple[Block, ...]
    norm: eqx.nn.LayerNorm

    def __init__(self, key: PRNGKey, width: int, block_count: int, heads: int):
        """width: a multiple of `heads`."""
        self.blocks = tuple(Block(k, width, heads) for k in jax.random.split(key, block_count))
        self.norm = eqx.nn.LayerNorm(width, dtype=jnp.float32)

    def __call__(
        self, x: Float[Array, "tokens width"], how: Dropout | None = None, wanted: slice = slice(None)
    ) -> Float[Array, "wanted width"]:
        """wanted: the tokens whose outputs are needed."""
        parts = [None] * len(self.blocks) if how is None else how.split(len(self.blocks))
        for block, part in zip(self.blocks[:-1], parts[:-1], strict=True):
            x = block(x, part)
        return jax.vmap(self.norm)(self.blocks[-1](x, parts[-1], wanted))
