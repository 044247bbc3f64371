"""The compiled loop: many updates of all lanes in one program, data on the device, host out of the way."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from tether.networks import stack_heads, unstack_heads
from tether.training.precision import at_precision
from tether.training.replay import Replay
from tether.types import Array, Bool, Int, Key, Spec

__all__ = ["NEVER", "Progress", "init_lanes", "run_updates"]

NEVER = jnp.iinfo(jnp.int32).max
"""`first_nonfinite` of a lane whose numbers all stayed finite."""
REPLAY_STREAM = 1  # folded into the key of a minibatch for the rows that are the lane's own


class Progress(NamedTuple):
    """What a stretch of updates gives, leading axis `lanes` everywhere."""

    state: Any
    metric_sums: dict[str, Array]  # over the stretch's updates
    first_nonfinite: Int[Array, " lanes"]  # update in the phase whose metrics or result were not finite, or NEVER


@functools.partial(jax.jit, static_argnames=("spec", "mesh", "stacked"))
def init_lanes(
    algorithm: Any, spec: Spec, keys: Key[Array, " lanes"], *, mesh: Mesh | None = None, stacked: bool = False
) -> Any:
    """Initial states of all lanes; `algorithm` and the result have a leading axis `lanes`. `mesh`: as `run_updates`.

    stacked: large ensembles as `networks.stack_heads` makes them, which compiles faster here and in `run_updates`.
    """

    def init(algorithm: Any, keys: Key[Array, " lanes"]) -> Any:
        # Mapped, not vmapped: half the compile time, and a lane starts from the same bits however many there are.
        def one(lane: Any) -> Any:
            state = lane[0].init(spec, lane[1])
            return stack_heads(state) if stacked else state

        return jax.lax.map(one, (algorithm, keys))

    return _on_each_device(init, mesh, (algorithm, keys), ())


@functools.partial(jax.jit, static_argnames=("phase", "batch_size", "sequential", "precision", "mesh"))
def run_updates(
    algorithm: Any,
    state: Any,
    keys: Key[Array, " lanes"],
    alive: Bool[Array, " lanes"],
    data: Any,
    start: Int[Array, ""],
    count: Int[Array, ""],
    *,
    phase: int,
    batch_size: int,
    sequential: bool,
    precision: str = "float32",
    derived: Any = None,
    replay: Replay | None = None,
    mesh: Mesh | None = None,
) -> Progress:
    """Runs updates start .. start+count-1 of a phase for all lanes; one compilation serves every stretch.

    Update number i of a lane depends on its key, the phase and i alone, so cutting training into stretches
    changes nothing and resuming needs no other random state. A lane that is not `alive`, or whose numbers
    turn non-finite in this stretch, leaves with the state it came with. A state whose ensembles are stacked
    (`networks.stack_heads`) comes back stacked. `sequential` runs lanes one after
    the other inside the program instead of batching them: on a CPU, whose cores one lane already fills,
    batched matmuls of this size are slower than plain ones. `precision`: that of the updates' matmuls
    (`training/precision.py`). `data` is what the algorithm's view made
    (`tether.data.views`): its `rows` are drawn, its `take` turns them into a minibatch. `derived`: each lane's own
    column of that name (`training/derive.py`), leading axes `lanes` and rows, where the phase has one. `replay`: what
    each lane has collected itself, of which a part of its minibatches is. `mesh`: devices over which the lanes are
    spread, along its one axis; each then runs this program on its own lanes.
    """

    def one_lane(lane: Any, data: Any, start: Int[Array, ""], count: Int[Array, ""]) -> Progress:
        algorithm, given, key, alive, derived, replay = lane
        state = stack_heads(given)
        columns = data if derived is None else data._replace(derived=derived)
        # Where lanes take turns, one that is not alive costs nothing.
        todo = jnp.where(alive, count, 0) if sequential else count
        new, sums, first = _run_lane(
            *(algorithm, state, jax.random.fold_in(key, phase), columns, replay, start, todo),
            *(phase, batch_size, precision),
        )
        first = jnp.where(_all_finite(new), first, jnp.minimum(first, start + count - 1))
        keep = alive & (first == NEVER)
        new = jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, state)
        as_given = jax.tree.structure(state) == jax.tree.structure(given)
        return Progress(new if as_given else unstack_heads(new), sums, first)

    def lanes_of_one_device(lanes: Any, *shared: Any) -> Progress:
        if sequential:
            return jax.lax.map(lambda lane: one_lane(lane, *shared), lanes)
        return jax.vmap(lambda lane: one_lane(lane, *shared))(lanes)

    lanes = (algorithm, state, keys, alive, derived, replay)
    return _on_each_device(lanes_of_one_device, mesh, (lanes,), (data, start, count))


def _on_each_device(function: Any, mesh: Mesh | None, lanes: tuple[Any, ...], shared: tuple[Any, ...]) -> Any:
    """`function(*lanes, *shared)`, where each device of `mesh` has its part of the lanes and all of what is shared."""
    if mesh is None:
        return function(*lanes, *shared)
    own, whole = PartitionSpec(*mesh.axis_names), PartitionSpec()
    specs = (own,) * len(lanes) + (whole,) * len(shared)
    # check_vma off: loops start from constants, which are the same everywhere until a lane's numbers are added.
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=own, check_vma=False)(*lanes, *shared)


def _run_lane(algorithm, state, key, data, replay, start, count, phase, batch_size, precision):
    """The update loop of one lane -> (state, metric sums, first non-finite update)."""

    def step(i, state):
        how = {"phase": phase, "batch_size": batch_size, "precision": precision}
        return _one_update(algorithm, state, key, data, replay, i, **how)

    def body(i, carry):
        state, sums, first = carry
        state, metrics = step(i, state)
        first = jnp.minimum(first, jnp.where(_all_finite(metrics), NEVER, i))
        return state, jax.tree.map(jnp.add, sums, metrics), first

    shapes = jax.eval_shape(step, start, state)[1]
    zeros = jax.tree.map(lambda metric: jnp.zeros(metric.shape, metric.dtype), shapes)
    return jax.lax.fori_loop(start, start + count, body, (state, zeros, jnp.asarray(NEVER, jnp.int32)))


# Compiled as a part of its caller; a function of its own so that it is traced once, for its result and its shapes.
@functools.partial(jax.jit, static_argnames=("phase", "batch_size", "precision"), inline=True)
def _one_update(algorithm, state, key, data, replay, i, *, phase, batch_size, precision):
    """Update number i on a minibatch of its own -> (state, metrics)."""
    index_key, update_key = jax.random.split(jax.random.fold_in(key, i))
    indices = jax.random.randint(index_key, (batch_size,), 0, data.rows, jnp.int32)
    batch = data.take(indices)
    if replay is not None:
        batch = replay.mixed_into(batch, jax.random.fold_in(index_key, REPLAY_STREAM))
    update = at_precision(algorithm.phases()[phase].update, precision)
    return update(state, batch, update_key, i)


def _all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every number is finite. Laid end to end, as one reduction for each leaf would take a third to a half of
    the program's compilation; the copy of a state is made once in a stretch of updates."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    return jnp.isfinite(jnp.concatenate([leaf.ravel() for leaf in floats])).all()
