"""What an update costs: the floating-point operations of its matmuls and XLA's own count.

Counted in the program, not measured: the numbers do not depend on the machine.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.data import Trajectories, View, view_of
from tether.training.derive import derived_shapes
from tether.types import Spec, Transition

__all__ = ["FIRST_UPDATE", "matmul_flops", "synthetic", "update_flops", "xla_flops"]

ROWS = 50_000  # synthetic transitions; enough that minibatches do not sit in the cache
EPISODE_STEPS = 1000
FIRST_UPDATE = 100_000  # past every warm-up, so that delayed updates are in the time and in the count
COUNTED_UPDATES = 10  # a whole number of every algorithm's update intervals


def _single_update(algorithm: Any, phase: int, spec: Spec, batch_size: int) -> Any:
    """(function, arguments) of one update of one lane."""
    state = jax.eval_shape(lambda key: algorithm.init(spec, key), jax.random.key(0))
    view, indices = view_of(algorithm), jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    data = jax.eval_shape(lambda key: synthetic(view, spec, key), jax.random.key(0))
    if (derived := derived_shapes(algorithm, state, data, phase)) is not None:
        data = data._replace(derived=derived)
    batch = jax.eval_shape(lambda data, i: data.take(i), data, indices)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return algorithm.phases()[phase].update, (state, batch, key, jax.ShapeDtypeStruct((), jnp.int32))


def update_flops(algorithm: Any, phase: int, spec: Spec, batch_size: int) -> float:
    """Floating-point operations of the matmuls of an update, averaged over the algorithm's update intervals."""
    function, (state, batch, key, step) = _single_update(algorithm, phase, spec, batch_size)
    jaxpr = jax.make_jaxpr(function)(state, batch, key, step).jaxpr
    if not _branches(jaxpr):  # then all updates cost the same, and this one tracing tells (BDPO's takes seconds)
        return _dot_flops(jaxpr)
    steps = [np.int32(FIRST_UPDATE + i) for i in range(COUNTED_UPDATES)]
    # With `step` a number, `step % interval == 0` is one too: the jaxpr says which branches this update takes.
    counts = [matmul_flops((functools.partial(function, step=step), (state, batch, key))) for step in steps]
    return sum(counts) / len(counts)


def matmul_flops(program: tuple[Callable, tuple]) -> float:
    """Floating-point operations of the matmuls in a function's jaxpr, those in loops once per trip.

    Of a branch that depends on a number the one taken counts, of one that depends on an argument none.
    """
    function, arguments = program
    return _dot_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _dot_flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            inner = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
            total += 2.0 * inner * np.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "cond":
            index = equation.invars[0]
            if hasattr(index, "val"):
                total += _dot_flops(equation.params["branches"][int(index.val)].jaxpr)
            continue
        trips = equation.params.get("length", 1)
        for value in equation.params.values():
            nested = getattr(value, "jaxpr", value)
            if hasattr(nested, "eqns"):
                total += trips * _dot_flops(nested)
    return float(total)


def _branches(jaxpr: Any) -> bool:
    """Whether a program contains a `cond`, at any depth."""
    nested = [getattr(value, "jaxpr", value) for equation in jaxpr.eqns for value in equation.params.values()]
    inside = any(_branches(program) for program in nested if hasattr(program, "eqns"))
    return inside or any(equation.primitive.name == "cond" for equation in jaxpr.eqns)


def xla_flops(algorithm: Any, phase: int, spec: Spec, batch_size: int) -> float | None:
    """XLA's own count for one update, element-wise work included, before it optimises; None where there is none.

    The optimised program's count would cost a second compilation (minutes for BDPO) and says nothing about loops,
    whose bodies it counts once.
    """
    function, arguments = _single_update(algorithm, phase, spec, batch_size)
    analysis = jax.jit(function).lower(*arguments).cost_analysis()
    return None if not analysis else float(analysis.get("flops", float("nan")))


def synthetic(view: View, spec: Spec, key: jax.Array) -> Transition | Trajectories:
    """Random data of the right shapes; speed does not depend on their values."""
    keys = jax.random.split(key, 4)
    shape = (ROWS, spec.observation_size)
    if view.name == "trajectories":
        timestep = jnp.arange(ROWS, dtype=jnp.int32) % EPISODE_STEPS
        columns = jax.random.normal(keys[0], shape), jnp.zeros((ROWS, spec.action_size)), jnp.zeros(ROWS)
        return Trajectories(*columns, timestep, EPISODE_STEPS - timestep, steps=view.steps)
    return Transition(
        observation=jax.random.normal(keys[0], shape),
        action=jax.random.uniform(keys[1], (ROWS, spec.action_size), minval=-1.0, maxval=1.0),
        reward=jax.random.normal(keys[2], (ROWS,)),
        next_observation=jax.random.normal(keys[3], shape),
        terminal=jnp.zeros(ROWS),
        next_action=jnp.zeros((ROWS, spec.action_size)),
        return_to_go=jnp.zeros(ROWS),
        trajectory_end=jnp.zeros(ROWS),
    )
