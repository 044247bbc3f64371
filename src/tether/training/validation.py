"""What the losses are on episodes that training does not see: its own updates, made of held-out minibatches, whose
result is thrown away.

So every algorithm has validation losses, those of its metrics: denoising loss or likelihood, TD error, value. All
rates are 0 while they are computed, so that a loss late in an update is that of the state that was given, not of one
that has learnt from the held-out minibatch. Nothing is delayed: every minibatch has the losses of an actor that learns
in every second update only.
"""

import copy
import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.networks import stack_heads
from tether.training.precision import at_precision
from tether.types import Array, Bool, Int, Key

__all__ = ["at_rest", "minibatches", "validation_metrics"]

MOST_MINIBATCHES = 40  # of one validation: about 10,000 rows at the usual size
VALIDATION_STREAM = 2_000_000_011  # folded into a lane's key: beside updates, evaluations and derived columns
ROWS_SEED = 0


def minibatches(rows: int, batch_size: int) -> Int[np.ndarray, "minibatches batch"]:
    """The held-out rows that every validation of a run looks at: all of them once, or as many as are looked at, drawn
    without replacement. The last minibatch is filled up with rows of the others."""
    order = np.random.default_rng(ROWS_SEED).permutation(rows)
    count = min(MOST_MINIBATCHES, -(-rows // batch_size))
    return np.resize(order, count * batch_size).reshape(count, batch_size).astype(np.int32)


def at_rest(algorithm: Any) -> Any:
    """`algorithm` with every rate 0: an update then changes no parameter. Rates are the fields named `...rate`.

    Static fields named `...update_interval` are 1: few minibatches, of which those in a wrong turn say nothing, would
    otherwise give the losses of a delayed update several times too large, or 0 (`update_when_due`)."""
    fields = dataclasses.fields(algorithm)
    names = [f.name for f in fields if f.name.endswith("rate") and not f.metadata.get("static", False)]
    prompt = copy.copy(algorithm)
    for field in fields:
        if field.name.endswith("update_interval") and field.metadata.get("static", False):
            object.__setattr__(prompt, field.name, 1)  # a module is frozen
    return eqx.tree_at(
        lambda module: [getattr(module, name) for name in names],
        prompt,
        replace_fn=lambda rate: jnp.zeros_like(rate) if eqx.is_array(rate) else 0.0,
    )


@functools.partial(jax.jit, static_argnames=("phase", "sequential", "precision"))
def validation_metrics(
    algorithm: Any,
    state: Any,
    keys: Key[Array, " lanes"],
    alive: Bool[Array, " lanes"],
    data: Any,
    indices: Int[Array, "minibatches batch"],
    step: Int[Array, ""],
    *,
    phase: int,
    sequential: bool,
    precision: str = "float32",
    derived: Any = None,
) -> dict[str, Array]:
    """Metric -> its mean over the held-out minibatches, (lanes,); of a lane that is not `alive` it means nothing.

    algorithm, state, keys, derived: stacked over lanes, as `run_updates` takes them. data: what the view made of the
    held-out episodes. step: updates of the phase that are done. Minibatch number i is that of update step + i, because
    updates may take turns, and has the same rows and the same noise whenever it is looked at.
    """

    def one_lane(lane: Any) -> dict[str, Array]:
        algorithm, given, key, alive, derived = lane
        state, own = stack_heads(given), jax.random.fold_in(jax.random.fold_in(key, phase), VALIDATION_STREAM)
        columns = data if derived is None else data._replace(derived=derived)
        update = at_precision(at_rest(algorithm).phases()[phase].update, precision)

        def metrics(i: Array) -> dict[str, Array]:
            return update(state, columns.take(indices[i]), jax.random.fold_in(own, i), step + i)[1]

        count = jnp.where(alive, len(indices), 0) if sequential else len(indices)
        zeros = jax.tree.map(lambda metric: jnp.zeros(metric.shape, metric.dtype), jax.eval_shape(metrics, step))
        sums = jax.lax.fori_loop(0, count, lambda i, sums: jax.tree.map(jnp.add, sums, metrics(i)), zeros)
        return jax.tree.map(lambda total: total / len(indices), sums)

    lanes = (algorithm, state, keys, alive, derived)
    return jax.lax.map(one_lane, lanes) if sequential else jax.vmap(one_lane)(lanes)
