"""What lanes have collected while they learn: rows on the device, drawn together with those of the data.

A minibatch is the one that training on the data alone would draw, with rows at even distances exchanged for collected
ones: symmetric sampling (RLPD, arXiv 2302.02948) where half of them are. So with none exchanged, or while nothing is
collected yet, nothing changes. Even distances, since algorithms may take a minibatch for rows in random order: BDPO
gives its first rows other diffusion steps than its last ones.
"""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.types import Array, Int, PRNGKey

__all__ = ["Replay", "empty_replay", "insert_rows"]

T = TypeVar("T")
BLOCK_ROWS = 64  # written at once: one program, however many rows there are


class Replay(eqx.Module):
    """Rows of one lane; in most places with a leading axis `lanes` on every array."""

    columns: Any  # a `Transition` of as many rows as it can hold
    written: Int[Array, "*lanes"]  # rows so far; where they are more than it holds the oldest are overwritten
    exchanged: int = eqx.field(static=True)  # rows of a minibatch that are drawn from it

    @property
    def rows(self) -> Int[Array, ""]:
        """How many it has."""
        return jnp.minimum(self.written, jax.tree.leaves(self.columns)[0].shape[0])

    def mixed_into(self, batch: T, key: PRNGKey) -> T:
        """`batch`, `exchanged` of its rows in exchange for as many drawn from these, uniformly with replacement."""
        if self.exchanged == 0:
            return batch
        indices = jax.random.randint(key, (self.exchanged,), 0, jnp.maximum(self.rows, 1), jnp.int32)

        def exchange(old: Array, own: Array) -> Array:
            places = np.arange(self.exchanged) * len(old) // self.exchanged
            return old.at[places].set(jnp.where(self.rows > 0, own[indices], old[places]))

        return jax.tree.map(exchange, batch, self.columns)


def empty_replay(like: Any, lanes: int, capacity: int, exchanged: int) -> Replay:
    """Room for `capacity` rows of each lane, of the columns `like`, whose leading axis is rows."""
    columns = jax.tree.map(lambda column: jnp.zeros((lanes, capacity, *column.shape[1:]), column.dtype), like)
    return Replay(columns, jnp.zeros(lanes, jnp.int32), exchanged)


def insert_rows(replay: Replay, rows: Sequence[Any]) -> Replay:
    """`replay` with the rows of each lane behind its others; the one that was given must not be used again.

    rows: for each lane columns as in `replay`, NumPy arrays, or None.
    """
    counts = np.array([0 if own is None else len(jax.tree.leaves(own)[0]) for own in rows])
    capacity = jax.tree.leaves(replay.columns)[0].shape[1]
    size = min(BLOCK_ROWS, capacity)
    for start in range(0, int(counts.max(initial=0)), size):
        parts = [_block(own, replay.columns, start, size) for own in rows]
        block = jax.tree.map(lambda *columns: np.stack(columns), *parts)
        replay = _insert(replay, block, np.clip(counts - start, 0, size).astype(np.int32))
    return replay


def _block(own: Any, columns: Any, start: int, size: int) -> Any:
    """Rows start .. start+size-1 of one lane, zeros behind its last one."""

    def cut(column: Any, own: Any) -> np.ndarray:
        block = np.zeros((size, *column.shape[2:]), column.dtype)
        part = own[start : start + size]
        block[: len(part)] = part
        return block

    if own is None:
        return jax.tree.map(lambda column: np.zeros((size, *column.shape[2:]), column.dtype), columns)
    return jax.tree.map(cut, columns, own)


@functools.partial(jax.jit, donate_argnums=0)
def _insert(replay: Replay, block: Any, counts: Int[Array, " lanes"]) -> Replay:
    """The first `counts` rows of each lane's block, in place."""

    def one_lane(columns: Any, written: Array, block: Any, count: Array) -> tuple[Any, Array]:
        size, capacity = (jax.tree.leaves(tree)[0].shape[0] for tree in (block, columns))
        number = jnp.arange(size, dtype=jnp.int32)
        place = jnp.where(number < count, (written + number) % capacity, capacity)  # beyond its end: dropped
        put = jax.tree.map(lambda column, new: column.at[place].set(new, mode="drop"), columns, block)
        return put, written + count

    return Replay(*jax.vmap(one_lane)(replay.columns, replay.written, block, counts), replay.exchanged)
