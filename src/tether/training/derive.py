"""The columns that a phase makes of the whole data set before its first update (`algorithms/interface.py: Derive`)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tether.training.lanes import take_lane
from tether.training.loop import NEVER
from tether.types import Array, Int, Key, PRNGKey, Transition

__all__ = ["derive_columns", "derived_shapes"]

PIECE_ROWS = 512  # at once: bounds the memory, and the host looks up in between


def derive_columns(
    algorithm: Any,
    state: Any,
    keys: Key[Array, " lanes"],
    data: Any,
    *,
    phase: int,
    on_piece: Callable[[int, int], None] = lambda done, rows: None,
) -> Any:
    """`Transition.derived` of all lanes, leading axes `lanes` and rows; None where the phase has no such column.

    data: a `Transition`, where the phase has such columns; whatever the algorithm's view made, where it has none.
    algorithm, state, keys: stacked over lanes, as `run_updates` takes them. Lanes are done one after the other, each by
    the program of a single one, so that a lane gets the same bits however many there are.
    on_piece: told (rows done, rows to do, of all lanes) after every piece; what it raises ends the work.
    A row's result depends on its lane's key, the phase and its number alone, not on how the rows are cut.
    """
    if algorithm.phases()[phase].derive is None:
        return None
    count, rows, lanes = len(keys), len(data.reward), []
    for lane in range(count):
        one, one_state = take_lane(algorithm, lane), take_lane(state, lane)
        # A stream beside those of the updates, whose numbers are all below NEVER.
        key, pieces = jax.random.fold_in(jax.random.fold_in(keys[lane], phase), NEVER), []
        for start in range(0, rows, PIECE_ROWS):
            # The last piece has as many rows as the others (one program for all); what is too much is cut off below.
            numbers = jnp.minimum(start + jnp.arange(min(rows, PIECE_ROWS), dtype=jnp.int32), rows - 1)
            pieces.append(jax.block_until_ready(_each(one, one_state, key, data, numbers, phase=phase)))
            on_piece(lane * rows + min(start + PIECE_ROWS, rows), count * rows)
        columns = jax.tree.map(lambda *parts: jnp.concatenate(parts)[:rows], *pieces)
        lanes.append(_together(one, columns, data, phase=phase))
    return jax.tree.map(lambda *columns: jnp.stack(columns), *lanes)


def derived_shapes(algorithm: Any, state: Any, data: Transition, phase: int) -> Any:
    """Shapes and dtypes of `Transition.derived` of one lane that is not stacked, computed without computing it."""
    if algorithm.phases()[phase].derive is None:
        return None

    def make(state: Any, data: Transition, key: PRNGKey) -> Any:
        numbers = jnp.arange(len(data.reward), dtype=jnp.int32)
        return _together(algorithm, _each(algorithm, state, key, data, numbers, phase=phase), data, phase=phase)

    return jax.eval_shape(make, state, data, jax.eval_shape(lambda: jax.random.key(0)))


@functools.partial(jax.jit, static_argnames="phase")
def _each(
    algorithm: Any, state: Any, key: PRNGKey, data: Transition, numbers: Int[Array, " rows"], *, phase: int
) -> Any:
    """One piece of one lane: the rows with these numbers."""

    def one_row(number: Array) -> Any:
        row = jax.tree.map(lambda column: column[number], data)
        return algorithm.phases()[phase].derive.each(state, row, jax.random.fold_in(key, number))

    return jax.vmap(one_row)(numbers)


@functools.partial(jax.jit, static_argnames="phase")
def _together(algorithm: Any, columns: Any, data: Transition, *, phase: int) -> Any:
    together = algorithm.phases()[phase].derive.together
    return columns if together is None else together(columns, data)
