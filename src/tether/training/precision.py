"""The precision of the matmuls of training: `--precision float32|bfloat16|tf32`.

Parameters, optimiser moments, targets, losses and everything between matmuls stay float32. What changes is what a
matmul multiplies:

    float32    float32 numbers, on every device (a GPU's own default is tf32)
    bfloat16   both inputs are rounded to bfloat16 (8 bits of mantissa); products are summed in float32
    tf32       the GPU's tensor cores round both inputs to 10 bits of mantissa; products are summed in float32

One transformation of a whole update does it, after gradients were taken: so the matmuls of backward passes are at the
chosen precision as those of forward passes are, and no network or loss knows of it. Acting stays as it is.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend import core

from tether.errors import InputError, unknown
from tether.types import Array

__all__ = ["PRECISIONS", "at_precision", "check_precision"]

PRECISIONS = ("float32", "bfloat16", "tf32")


def check_precision(precision: str) -> None:
    """Raises InputError for a name that is none, and for tf32 where there is nothing that could do it."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "tf32" and jax.default_backend() == "cpu":
        raise InputError("precision 'tf32': means nothing on a CPU; choices here: float32, bfloat16")


def at_precision(function: Callable, precision: str) -> Callable:
    """`function` of arrays with its matmuls at `precision`, one of PRECISIONS."""
    if precision == "bfloat16":
        return functools.partial(_run_with_rounded_inputs, function)
    if jax.default_backend() == "cpu":  # float32 is all that a plain matmul does there
        return function

    def with_default(*arguments: Any) -> Any:
        with jax.default_matmul_precision("tensorfloat32" if precision == "tf32" else "float32"):
            return function(*arguments)

    return with_default


def _run_with_rounded_inputs(function: Callable, *arguments: Any) -> Any:
    """`function(*arguments)`, where every matmul of float32 numbers rounds its inputs to bfloat16.

    `jax.default_matmul_precision` would say it in a line, and on a CPU XLA ignores that.
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    results = _run(program, jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


def _run(program: core.ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
    """The results of a program, equation by equation."""
    values: dict[Any, Any] = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    values |= zip(program.jaxpr.invars, arguments, strict=True)

    def value(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for equation in program.jaxpr.eqns:
        results = _run_equation(equation, [value(variable) for variable in equation.invars])
        values |= zip(equation.outvars, results, strict=True)
    return [value(variable) for variable in program.jaxpr.outvars]


def _run_equation(equation: Any, inputs: list[Any]) -> list[Any]:
    """One equation, a matmul with rounded inputs; programs within it (loops, branches, calls) likewise."""
    primitive, parameters = equation.primitive, dict(equation.params)
    if primitive.name == "dot_general" and all(variable.aval.dtype == jnp.float32 for variable in equation.invars):
        left, right = (jnp.asarray(each).astype(jnp.bfloat16) for each in inputs)
        if jax.default_backend() == "cpu":
            left, right, parameters["dimension_numbers"] = _row_major(left, right, parameters["dimension_numbers"])
        inputs = [left, right]
        parameters["preferred_element_type"] = jnp.dtype(jnp.float32)
    elif (called := parameters.get("call_jaxpr", parameters.get("jaxpr"))) is not None and primitive.name != "scan":
        # A call, such as that of a jitted function, or one whose derivative is our own: gradients are taken already.
        return _run(called if isinstance(called, core.ClosedJaxpr) else core.ClosedJaxpr(called, ()), inputs)
    else:
        parameters = {name: _rounded(parameter) for name, parameter in parameters.items()}
    results = primitive.bind(*inputs, **parameters)
    return results if primitive.multiple_results else [results]


def _row_major(left: Array, right: Array, dimensions: Any) -> tuple[Array, Array, Any]:
    """The same product with its inputs laid out as [batch, free, contracted] and [batch, contracted, free].

    XLA's CPU has fast bfloat16 products for that order alone; a transpose alone is no remedy: XLA takes it back.
    A batch of 256 and 512 x 512 weights, one core with avx512_bf16: x W^T takes 1.30 ms as it comes, 0.84 so (1.32 in
    float32); x^T g takes 1.52 and 0.74 (1.48).
    """
    (contracted, right_contracted), (batch, right_batch) = dimensions
    left_free = [i for i in range(left.ndim) if i not in contracted and i not in batch]
    right_free = [i for i in range(right.ndim) if i not in right_contracted and i not in right_batch]
    left = _laid_out(left, (*batch, *left_free, *contracted))
    right = _laid_out(right, (*right_batch, *right_contracted, *right_free))
    batch, last = tuple(range(len(batch))), left.ndim - len(contracted)
    contracted = tuple(range(last, left.ndim))
    right_contracted = tuple(range(len(batch), len(batch) + len(contracted)))
    return left, right, ((contracted, right_contracted), (batch, batch))


def _laid_out(array: Array, order: tuple[int, ...]) -> Array:
    """`array` transposed to `order`, in memory too."""
    return with_layout_constraint(jnp.transpose(array, order), Layout(tuple(range(array.ndim))))


def _rounded(parameter: Any) -> Any:
    """A parameter of an equation, with the matmuls of the programs in it rounded."""
    if isinstance(parameter, tuple) and parameter and all(isinstance(each, core.ClosedJaxpr) for each in parameter):
        return tuple(_rounded(each) for each in parameter)  # the branches of a condition
    if not isinstance(parameter, core.ClosedJaxpr):
        return parameter
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in parameter.in_avals]
    return jax.make_jaxpr(lambda *arguments: _run(parameter, arguments))(*shapes)
