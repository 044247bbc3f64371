"""A graph as a list of array operations: what tether-runtime runs by NumPy alone, and `export/onnx_file.py` spells out
in ONNX.

Every operation is a primitive of JAX under its own name; parameters are brought to lists of numbers. What there is no
rule for is refused by name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.dtypes
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.interpreters import partial_eval

from tether.errors import InputError

__all__ = ["BATCH", "Program", "evaluated", "program"]

BATCH = "b"  # the size of the batch, in parameters
ELEMENTWISE = (
    *("add", "add_any", "sub", "mul", "div", "rem", "max", "min", "pow", "neg", "abs", "sign", "exp", "exp2", "log"),
    *("log1p", "expm1", "sqrt", "rsqrt", "sin", "cos", "tan", "tanh", "atan2", "floor", "ceil", "is_finite", "not"),
    *("and", "or", "xor", "eq", "ne", "lt", "le", "gt", "ge", "select_n", "clamp", "logistic", "square", "erf", "erfc"),
)
CALLS = ("jit", "pjit")
SAME = ("copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision")  # nothing to compute


class Program(NamedTuple):
    """What the runtime reads."""

    document: dict[str, Any]
    """inputs and outputs: numbers of values; steps: [operation, inputs, outputs, parameters]."""
    constants: dict[str, np.ndarray]
    """Number of the value, as text -> the array."""
    types: dict[int, tuple[list[Any], np.dtype]]
    """Number of the value -> shape, in which BATCH may stand, and type."""


def program(function: Callable[..., Any], inputs: Iterable[jax.ShapeDtypeStruct]) -> Program:
    """The program of `function` for a batch of any size, which is the first axis of all inputs and outputs.

    inputs: shapes without that axis. Raises InputError for an operation that the runtime does not have.
    """
    (batch,) = jax.export.symbolic_shape(BATCH)
    closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct((batch, *one.shape), one.dtype) for one in inputs))
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    return _Writer(jaxpr, closed.consts).write()


class _Writer:
    """Numbers the values of a trace."""

    def __init__(self, jaxpr: Any, constants: Any):
        self.jaxpr = jaxpr
        self.count = 0
        self.constants: dict[str, np.ndarray] = {}
        self.types: dict[int, tuple[list[Any], np.dtype]] = {}
        self.numbers: dict[Any, int] = {}
        for variable, value in zip(jaxpr.constvars, constants, strict=True):
            self.numbers[variable] = self._constant(value)
        for variable in jaxpr.invars:
            self.numbers[variable] = self._next(variable.aval)

    def write(self) -> Program:
        steps = self._steps(self.jaxpr)
        ends = {"inputs": self.jaxpr.invars, "outputs": self.jaxpr.outvars}
        document = {key: [self._number(atom) for atom in atoms] for key, atoms in ends.items()}
        used = {number for step in steps for number in step[1]} | set(document["outputs"])
        kept = {number: array for number, array in self.constants.items() if int(number) in used}
        return Program({**document, "steps": steps}, kept, self.types)

    def _steps(self, jaxpr: Any) -> list[list[Any]]:
        steps = []
        for equation in jaxpr.eqns:
            inputs = [self._number(atom) for atom in equation.invars]
            if equation.primitive.name in CALLS:
                called = equation.params["jaxpr"]
                self.numbers.update(zip(called.jaxpr.invars, inputs, strict=True))
                self.numbers.update(zip(called.jaxpr.constvars, map(self._constant, called.consts), strict=True))
                steps += self._steps(called.jaxpr)
                outputs = [self._number(atom) for atom in called.jaxpr.outvars]
            elif equation.primitive.name in SAME:
                outputs = inputs
            elif equation.primitive.name == "cond":
                outputs = [self._next(variable.aval) for variable in equation.outvars]
                steps.append(self._choice(inputs, outputs, equation.params["branches"]))
            else:
                outputs = [self._next(variable.aval) for variable in equation.outvars]
                steps.append([*_step(equation, inputs, outputs)])
            self.numbers.update(zip(equation.outvars, outputs, strict=True))
        return steps

    def _choice(self, inputs: list[int], outputs: list[int], branches: Sequence[Any]) -> list[Any]:
        """A step whose branches have steps and outputs of their own; its inputs are what it chooses by, a number from
        0, and all that the branches take from outside."""
        if len(branches) != 2:
            raise InputError("no rule for a choice among more than two ways in ONNX and NumPy; --format stablehlo")
        which, *given = inputs
        written, taken = [], {which: None}  # in order, each once
        for branch in branches:
            self.numbers.update(zip(branch.jaxpr.invars, given, strict=True))
            self.numbers.update(zip(branch.jaxpr.constvars, map(self._constant, branch.consts), strict=True))
            steps = self._steps(branch.jaxpr)
            ends = [self._number(atom) for atom in branch.jaxpr.outvars]
            own = {number for step in steps for number in step[2]}
            taken |= dict.fromkeys(number for step in steps for number in step[1] if number not in own)
            taken |= dict.fromkeys(number for number in ends if number not in own)
            written.append({"steps": steps, "outputs": ends})
        return ["cond", list(taken), outputs, {"branches": written}]

    def _number(self, atom: Any) -> int:
        kind: Any = atom.aval
        return self._constant(atom.val, kind.dtype) if isinstance(atom, Literal) else self.numbers[atom]

    def _constant(self, value: Any, dtype: Any = None) -> int:
        array = np.asarray(value, dtype, order="C")  # of transposed weights NumPy makes a product half as fast
        number = self._next(array)
        self.constants[str(number)] = array
        return number

    def _next(self, kind: Any) -> int:
        """The number of a new value with the shape and type of `kind`."""
        self.types[self.count] = _sizes(kind.shape), np.dtype(kind.dtype)
        self.count += 1
        return self.count - 1


def evaluated(equation: Any, inputs: Sequence[Any]) -> list[np.ndarray] | None:
    """What an operation makes of constants, by NumPy, which compiles nothing; None where there is no rule for it."""
    try:
        from tether_runtime.program import OPERATIONS
    except ImportError:
        return None
    if any(jnp.issubdtype(getattr(value, "dtype", float), jax.dtypes.extended) for value in inputs):
        return None  # keys
    try:
        name, _, _, parameters = _step(equation, [], [])
    except InputError:
        return None
    with np.errstate(all="ignore"):
        found = OPERATIONS[name](*map(np.asarray, inputs), **parameters)
    return list(found) if isinstance(found, list | tuple) else [np.asarray(found)]


def _step(equation: Any, inputs: list[int], outputs: list[int]) -> tuple[str, list[int], list[int], dict[str, Any]]:
    """A step of the runtime."""
    kind = equation.primitive.name
    if kind not in RULES and kind not in ELEMENTWISE:
        raise InputError(f"no rule for the operation {kind!r} in ONNX and NumPy; --format stablehlo takes all")
    name, parameters = (kind, {}) if kind in ELEMENTWISE else RULES[kind](equation, equation.params)
    return name, inputs, outputs, parameters


def _sizes(shape: Any) -> list[Any]:
    return [size if isinstance(size, int) else _symbol(size) for size in shape]


def _symbol(size: Any) -> str:
    if str(size) != BATCH:
        raise InputError(f"an axis has size {size}; only {BATCH}, that of the batch, may vary")
    return BATCH


def _list(values: Any) -> list[int]:
    return [int(value) for value in values]


Rule = Callable[[Any, Mapping[str, Any]], tuple[str, dict[str, Any]]]


def _reduction(name: str) -> Rule:
    return lambda equation, how: (name, {"axes": _list(how["axes"])})


def _shaped(name: str) -> Rule:
    return lambda equation, how: (name, {"shape": _sizes(equation.outvars[0].aval.shape)})


def _dot(equation: Any, how: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    contract, batch = how["dimension_numbers"]
    return "dot_general", {"contract": [*map(_list, contract)], "batch": [*map(_list, batch)]}


def _broadcast(equation: Any, how: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return "broadcast_in_dim", {"shape": _sizes(how["shape"]), "axes": _list(how["broadcast_dimensions"])}


def _iota(equation: Any, how: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return "iota", {"shape": _sizes(how["shape"]), "axis": how["dimension"], "dtype": np.dtype(how["dtype"]).name}


def _slice(equation: Any, how: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    steps = how["strides"] or [1] * len(how["start_indices"])
    return "slice", {"start": _list(how["start_indices"]), "stop": _sizes(how["limit_indices"]), "step": _list(steps)}


def _pad(equation: Any, how: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    low, high, inner = zip(*how["padding_config"], strict=True)
    if any(inner) or min(*low, *high, 0) < 0:
        raise InputError("no rule for padding between entries or by less than nothing")
    return "pad", {"low": _list(low), "high": _list(high)}


def _gather(equation: Any, how: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if how["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP:
        raise InputError("no rule for a look-up that fills in where an index is out of range; say mode='clip'")
    numbers = how["dimension_numbers"]
    return "gather", {
        "shape": _sizes(equation.outvars[0].aval.shape),
        "sizes": _sizes(how["slice_sizes"]),
        "offset": _list(numbers.offset_dims),
        "collapsed": _list(numbers.collapsed_slice_dims),
        "mapped": _list(numbers.start_index_map),
        "batch": [_list(numbers.operand_batching_dims), _list(numbers.start_indices_batching_dims)],
    }


def _scatter(equation: Any, how: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if how["mode"] == jax.lax.GatherScatterMode.CLIP:
        raise InputError("no rule for writing where an index is clipped; say mode='drop'")
    numbers = how["dimension_numbers"]
    operand, _, updates = (variable.aval.shape for variable in equation.invars)
    collapsed = _list(numbers.inserted_window_dims) + _list(numbers.operand_batching_dims)
    windows = iter(numbers.update_window_dims)
    sizes = [1 if axis in collapsed else _sizes([updates[next(windows)]])[0] for axis in range(len(operand))]
    return "scatter", {
        "sizes": sizes,
        "offset": _list(numbers.update_window_dims),
        "collapsed": _list(numbers.inserted_window_dims),
        "mapped": _list(numbers.scatter_dims_to_operand_dims),
        "batch": [_list(numbers.operand_batching_dims), _list(numbers.scatter_indices_batching_dims)],
    }


def _round(equation: Any, how: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if how["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise InputError("no rule for rounding halves away from 0; jnp.round takes them to the even number")
    return "round", {}


def _cumsum(equation: Any, how: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if how["reverse"]:
        raise InputError("no rule for a cumulative sum from the end; turn the array by jnp.flip, before and after")
    return "cumsum", {"axis": int(how["axis"])}


def _argument(name: str) -> Rule:
    return lambda equation, how: (name, {"axis": int(how["axes"][0])})


RULES: dict[str, Rule] = {
    "dot_general": _dot,
    "broadcast_in_dim": _broadcast,
    "iota": _iota,
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "scatter": _scatter,
    "reshape": _shaped("reshape"),
    "squeeze": _shaped("reshape"),
    "expand_dims": _shaped("reshape"),
    "transpose": lambda equation, how: ("transpose", {"order": _list(how["permutation"])}),
    "concatenate": lambda equation, how: ("concatenate", {"axis": int(how["dimension"])}),
    "split": lambda equation, how: ("split", {"sizes": _list(how["sizes"]), "axis": int(how["axis"])}),
    "rev": lambda equation, how: ("rev", {"axes": _list(how["dimensions"])}),
    "dynamic_slice": lambda equation, how: ("dynamic_slice", {"sizes": _list(how["slice_sizes"])}),
    "convert_element_type": lambda equation, how: ("convert_element_type", {"dtype": np.dtype(how["new_dtype"]).name}),
    "integer_pow": lambda equation, how: ("integer_pow", {"exponent": int(how["y"])}),
    "round": _round,
    "cumsum": _cumsum,
    "top_k": lambda equation, how: ("top_k", {"count": int(how["k"])}),
    "sort": lambda equation, how: ("sort", {"axis": int(how["dimension"]), "keys": int(how["num_keys"])}),
    "argmax": _argument("argmax"),
    "argmin": _argument("argmin"),
    **{name: _reduction(name) for name in ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod")},
    **{name: _reduction(name) for name in ("reduce_and", "reduce_or")},
}
