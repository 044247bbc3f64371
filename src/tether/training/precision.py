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
from jax.extend import core

from tether.errors import InputError, unknown

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
        inputs = [jnp.asarray(each).astype(jnp.bfloat16) for each in inputs]
        parameters["preferred_element_type"] = jnp.dtype(jnp.float32)
    elif (called := parameters.get("call_jaxpr", parameters.get("jaxpr"))) is not None and primitive.name != "scan":
        # A call, such as that of a jitted function, or one whose derivative is our own: gradients are taken already.
        return _run(called if isinstance(called, core.ClosedJaxpr) else core.ClosedJaxpr(called, ()), inputs)
    else:
        parameters = {name: _rounded(parameter) for name, parameter in parameters.items()}
    results = primitive.bind(*inputs, **parameters)
    return results if primitive.multiple_results else [results]


def _rounded(parameter: Any) -> Any:
    """A parameter of an equation, with the matmuls of the programs in it rounded."""
    if isinstance(parameter, tuple) and parameter and all(isinstance(each, core.ClosedJaxpr) for each in parameter):
        return tuple(_rounded(each) for each in parameter)  # the branches of a condition
    if not isinstance(parameter, core.ClosedJaxpr):
        return parameter
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in parameter.in_avals]
    return jax.make_jaxpr(lambda *arguments: _run(parameter, arguments))(*shapes)
