"""What an update costs: the floating-point operations of its matmuls and XLA's own count.

Counted in the program, not measured: the numbers do not depend on the machine.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.data import VIEWS, Trajectories, View, view_of
from tether.data.views import of_random_episodes
from tether.machine.traces import scan_sizes
from tether.networks import stack_heads
from tether.training.derive import derived_shapes
from tether.types import Spec, Transition

__all__ = [
    "COUNTED_UPDATES",
    "FIRST_UPDATE",
    "Counted",
    "dot_types",
    "matmul_flops",
    "single_update",
    "synthetic",
    "synthetic_shapes",
    "update_bytes",
    "update_flops",
    "update_work",
    "xla_flops",
]

ROWS = 50_000  # synthetic transitions; enough that minibatches do not sit in the cache
EPISODE_STEPS = 1000
FIRST_UPDATE = 100_000  # past every warm-up, so that delayed updates are in the time and in the count
COUNTED_UPDATES = 20  # a whole number of every algorithm's update intervals


def single_update(algorithm: Any, phase: int, spec: Spec, batch_size: int) -> Any:
    """(function, arguments) of one update of one lane."""
    # As the training loop holds it.
    state = jax.eval_shape(lambda key: stack_heads(algorithm.init(spec, key)), jax.random.key(0))
    view, indices = view_of(algorithm), jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    data = synthetic_shapes(view, spec)
    if (derived := derived_shapes(algorithm, state, data, phase)) is not None:
        data = data._replace(derived=derived)
    batch = jax.eval_shape(lambda data, i: data.take(i), data, indices)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return algorithm.phases()[phase].update, (state, batch, key, jax.ShapeDtypeStruct((), jnp.int32))


class Counted(NamedTuple):
    """Floating-point operations of the matmuls of an update."""

    total: float
    weights: float  # those that sum over the rows of the minibatch: gradients of weights


def update_work(algorithm: Any, phase: int, spec: Spec, batch_size: int) -> Counted:
    """Counted in the program of an update, averaged over the algorithm's update intervals.

    batch_size: a number that no layer's width is a multiple of, else `weights` means nothing.
    """
    function, arguments = single_update(algorithm, phase, spec, batch_size)
    program = jax.make_jaxpr(function)(*arguments).jaxpr  # once: BDPO's takes seconds

    def sums_over_rows(equation: Any) -> bool:
        return any(size % batch_size == 0 for size in _contracted(equation))

    def mean(counts: Callable[[Any], bool]) -> float:
        """Over updates, which take different branches."""
        steps = [np.int32(FIRST_UPDATE + i) for i in range(COUNTED_UPDATES)]
        return float(np.mean([_dot_flops(program, counts, {program.invars[-1]: step}) for step in steps]))

    return Counted(mean(lambda equation: True), mean(sums_over_rows))


def update_flops(algorithm: Any, phase: int, spec: Spec, batch_size: int) -> float:
    """Floating-point operations of the matmuls of an update, averaged over the algorithm's update intervals."""
    return update_work(algorithm, phase, spec, batch_size).total


def update_bytes(algorithm: Any, phase: int, spec: Spec, batch_size: int) -> float:
    """The least that an update must move: what it reads of state and minibatch, and what it writes, each number once.

    Averages that move in some updates only count as if in all.
    """
    function, arguments = single_update(algorithm, phase, spec, batch_size)
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    read = {variable for equation in program.eqns for variable in equation.invars if not hasattr(variable, "val")}
    moved = [variable for variable in program.invars if variable in read]
    moved += [variable for variable in program.outvars if variable not in program.invars]
    return float(sum(np.prod(variable.aval.shape) * variable.aval.dtype.itemsize for variable in moved))


def matmul_flops(program: tuple[Callable, tuple]) -> float:
    """Floating-point operations of the matmuls in a function's jaxpr, those in loops once per trip.

    Of a branch that depends on a number the one taken counts, of one that depends on an argument none.
    """
    function, arguments = program
    return _dot_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _contracted(equation: Any) -> list[int]:
    """The sizes of the axes that a matmul sums over."""
    contracted = equation.params["dimension_numbers"][0][0]
    return [equation.invars[0].aval.shape[axis] for axis in contracted]


def _dot_flops(
    jaxpr: Any, counts: Callable[[Any], bool] = lambda equation: True, numbers: Mapping[Any, Any] = MappingProxyType({})
) -> float:
    """FLOPs of the matmuls for which `counts(equation)` is true. numbers: whole numbers that variables are known to be,
    which tell the branches that are taken."""
    total, known = 0.0, dict(numbers)
    for equation in jaxpr.eqns:
        inputs = [variable.val if hasattr(variable, "val") else known.get(variable) for variable in equation.invars]
        if equation.primitive.name == "dot_general" and counts(equation):
            total += 2.0 * np.prod(_contracted(equation)) * np.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "cond":
            index, *rest = inputs
            if index is not None:
                taken = equation.params["branches"][int(index)].jaxpr
                total += _dot_flops(taken, counts, _numbers_in(taken, rest))
        elif _makes_numbers(equation, inputs):
            known |= zip(equation.outvars, _evaluated(equation, inputs), strict=True)
        else:
            trips, given = equation.params.get("length", 1), _constant(equation, inputs)
            total += sum(trips * _dot_flops(each, counts, _numbers_in(each, given)) for each in _nested(equation))
    return float(total)


def _numbers_in(jaxpr: Any, inputs: Sequence[Any]) -> dict[Any, Any]:
    """Those that a nested program is given."""
    return {variable: value for variable, value in zip(jaxpr.invars, inputs, strict=False) if value is not None}


def _constant(equation: Any, inputs: Sequence[Any]) -> Sequence[Any]:
    """The first inputs of the programs in an equation, without what a loop carries: it changes from trip to trip."""
    if equation.primitive.name == "while":
        return ()
    return inputs[: scan_sizes(equation)[0]] if equation.primitive.name == "scan" else inputs


def _makes_numbers(equation: Any, inputs: Sequence[Any]) -> bool:
    """Whether an equation makes single whole numbers or truth values of inputs that are known."""
    made = [variable.aval for variable in equation.outvars]
    whole = all(
        each.shape == () and (each.dtype == np.bool_ or jnp.issubdtype(each.dtype, np.integer)) for each in made
    )
    return whole and bool(inputs) and all(value is not None for value in inputs)


def _evaluated(equation: Any, inputs: Sequence[Any]) -> list[Any]:
    found = equation.primitive.bind(*inputs, **equation.params)
    return found if equation.primitive.multiple_results else [found]


def dot_types(jaxpr: Any) -> collections.Counter[tuple[str, str, str]]:
    """How many matmuls a program has, at any depth, by the types of both inputs and of the result."""
    found: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, right, out = (str(v.aval.dtype) for v in (*equation.invars, *equation.outvars))
            found[left, right, out] += 1
        for program in _nested(equation):
            found += dot_types(program)
    return found


def _nested(equation: Any) -> list[Any]:
    """The programs in an equation's parameters: bodies of loops, branches, called functions."""
    found = []
    for value in equation.params.values():
        for each in value if isinstance(value, tuple) else (value,):
            program = getattr(each, "jaxpr", each)
            found += [program] if hasattr(program, "eqns") else []
    return found


def xla_flops(algorithm: Any, phase: int, spec: Spec, batch_size: int) -> float | None:
    """XLA's own count for one update, element-wise work included, before it optimises; None where there is none.

    The optimised program's count would cost a second compilation (minutes for BDPO) and says nothing about loops,
    whose bodies it counts once.
    """
    function, arguments = single_update(algorithm, phase, spec, batch_size)
    analysis = jax.jit(function).lower(*arguments).cost_analysis()
    return None if not analysis else float(analysis.get("flops", float("nan")))


def synthetic_shapes(view: View, spec: Spec) -> Any:
    """Of `synthetic`, without making the numbers; what a registered view makes of them it makes of numbers alone."""
    key = jax.random.key(0)
    if VIEWS.is_ours(view.name):
        return jax.eval_shape(lambda key: synthetic(view, spec, key), key)
    return jax.eval_shape(lambda data: data, synthetic(view, spec, key))


def synthetic(view: View, spec: Spec, key: jax.Array) -> Any:
    """Random data of the right shapes; speed does not depend on their values."""
    if not VIEWS.is_ours(view.name):
        return of_random_episodes(view, spec, ROWS, EPISODE_STEPS)
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
