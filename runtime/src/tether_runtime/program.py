"""The NumPy form of a policy: a list of array operations, and what runs it.

A step is [operation, inputs, outputs, parameters]; inputs and outputs are numbers of values. The first values are the
program's inputs, the next its constants. A size "b" in a parameter is that of the batch. Operations are those of
StableHLO (https://openxla.org/stablehlo/spec) that policies use, under JAX's names for them. The one that chooses,
"cond", has branches of steps and outputs, which use the same numbers; its first input is the branch's number, the
others are all that the branches take from outside.
"""

from __future__ import annotations

import functools
import io
import json
import math
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether_runtime.errors import InputError

__all__ = ["OPERATIONS", "Program"]

Array = np.ndarray
Operation = Callable[..., Any]  # an array, or several
BATCH = "b"
ALIGNED = 16  # float32 numbers of a cache line


class _Step(NamedTuple):
    operation: Operation
    inputs: list[int]
    outputs: list[int]
    parameters: dict[str, Any]


class Program:
    """A program that is ready to run."""

    def __init__(self, document: dict[str, Any], values: dict[int, Array], path: Path):
        """document: inputs, outputs and steps; values: the constants; path: where both are from, for messages."""
        self._inputs: list[int] = document["inputs"]
        self._outputs: list[int] = document["outputs"]
        left_to_users = _left_to_users(document["steps"], values, set(self._outputs))
        steps_left: list[_Step] = []
        for name, inputs, outputs, parameters in document["steps"]:
            if name == "cond":
                branches = [Program({**branch, "inputs": inputs[1:]}, {}, path) for branch in parameters["branches"]]
                steps_left.append(_Step(functools.partial(_choose, branches), inputs, outputs, {"batch": [BATCH]}))
                continue
            if name not in OPERATIONS:
                raise InputError(f"{path}: operation {name!r} is not known here; a newer tether-runtime may know it")
            step = _Step(OPERATIONS["unsqueeze" if outputs[0] in left_to_users else name], inputs, outputs, parameters)
            if not _sized(parameters) and all(number in values for number in inputs):  # once, and not in every run
                with np.errstate(all="ignore"):
                    found = step.operation(*(values[number] for number in inputs), **parameters)
                values.update(zip(outputs, found if len(outputs) > 1 else [found]))
            else:
                steps_left.append(step)
        self._steps = _prepared(steps_left, {*values, *self._outputs})
        count = 1 + max([*values, *self._inputs, *(number for step in steps_left for number in step.outputs)])
        self._start: list[Any] = [values.get(number) for number in range(count)]

    @classmethod
    def load(cls, steps: bytes, constants: bytes, path: Path) -> Program:
        """The program of two files, .json and .npz. Raises InputError for an operation that is not known."""
        with np.load(io.BytesIO(constants), allow_pickle=False) as arrays:
            values = _in_one_block({int(name): arrays[name] for name in arrays.files})
        return cls(json.loads(steps), values, path)

    def run(self, inputs: list[Array]) -> list[Array]:
        """The outputs, for inputs with a leading batch axis."""
        with np.errstate(all="ignore"):  # as JAX and ONNX Runtime: what overflows becomes infinite without a word
            return self._run(inputs, len(inputs[0]))

    def _run(self, inputs: Sequence[Array], batch: int) -> list[Array]:
        values = [*self._start, batch]
        for number, array in zip(self._inputs, inputs):
            values[number] = array
        for operation, arguments, outputs, free in self._steps:
            if type(outputs) is int:
                values[outputs] = operation(*arguments(values))
            else:
                for number, value in zip(outputs, operation(*arguments(values))):
                    values[number] = value
            for number in free:
                values[number] = None
        return [values[number] for number in self._outputs]


def _choose(branches: list[Program], which: Array, *inputs: Array, batch: list[int]) -> Any:
    found = branches[int(which)]._run(inputs, *batch)
    return found if len(found) > 1 else found[0]


def _prepared(steps: list[_Step], kept: set[int]) -> list[tuple[Operation, Callable[..., Any], Any, list[int]]]:
    """Of each step the operation, what takes its inputs out of all values, its output or outputs, and the values that
    nobody needs after it: little is left to do in a run, in which a policy has hundreds of steps."""
    last_use = {number: index for index, step in enumerate(steps) for number in step.inputs}
    prepared = []
    for index, (operation, inputs, outputs, parameters) in enumerate(steps):
        free = [number for number in set(inputs) if last_use[number] == index and number not in kept]
        if _sized(parameters):  # the size of the batch is the last value
            operation, inputs = functools.partial(_run_sized, operation, parameters), [-1, *inputs]
        elif parameters:
            operation = functools.partial(operation, **parameters)
        one = slice(inputs[0], inputs[0] + 1 or None) if inputs else slice(0)  # itemgetter gives no tuple of one
        arguments = operator.itemgetter(*inputs) if len(inputs) > 1 else operator.itemgetter(one)
        prepared.append((operation, arguments, outputs[0] if len(outputs) == 1 else outputs, free))
    return prepared


def _run_sized(operation: Operation, parameters: dict[str, Any], batch: int, *inputs: Array) -> Any:
    """An operation with the size of the batch in its parameters."""
    return operation(*inputs, **{name: _sizes(value, batch) for name, value in parameters.items()})


def _in_one_block(arrays: dict[int, Array]) -> dict[int, Array]:
    """The same arrays, those of float32 side by side: a block of megabytes lies in large pages, which processors find
    their way in faster (DAC's ten critics: a fifth of a decision's time)."""
    large = {number: array for number, array in arrays.items() if array.dtype == np.float32 and array.ndim}
    sizes = [-(-array.size // ALIGNED) * ALIGNED for array in large.values()]
    block = np.empty(sum(sizes) + ALIGNED, np.float32)
    first = -block.ctypes.data % (4 * ALIGNED) // 4
    found = dict(arrays)
    for (number, array), size in zip(large.items(), sizes):
        found[number] = block[first : first + array.size].reshape(array.shape)
        found[number][...] = array
        first += size
    return found


def _left_to_users(steps: list[Any], constants: dict[int, Array], outputs: set[int]) -> set[int]:
    """Values whose broadcast can be left to the operations that use them: each has another input in its full shape."""
    users: dict[int, list[Any]] = {}
    for step in steps:
        for number in step[1]:
            users.setdefault(number, []).append(step)
    small = {number for number, array in constants.items() if array.ndim == 0}
    for name, _, (output, *_), _ in steps:
        if name == "broadcast_in_dim" and output not in outputs:
            own, others = users.get(output, []), small | {output}
            if own and all(user[0] in BROADCASTING and set(user[1]) - others for user in own):
                small.add(output)
    return small - set(constants)


def _sized(parameters: dict[str, Any]) -> bool:
    return any(BATCH in value for value in parameters.values() if isinstance(value, list))


def _sizes(value: Any, batch: int) -> Any:
    return [batch if size == BATCH else size for size in value] if isinstance(value, list) else value


# --- operations: products, shapes, indices ----------------------------------------------------------------------


def _dot(left: Array, right: Array, contract: list[list[int]], batch: list[list[int]]) -> Array:
    """A general product: batch axes first, then what is left of `left`, then of `right`."""
    if not batch[0] and contract == [[left.ndim - 1], [0]] and right.ndim == 2:
        if left.ndim == 2:
            return left @ right
        return (left.reshape(-1, left.shape[-1]) @ right).reshape(*left.shape[:-1], right.shape[1])
    left_free = [axis for axis in range(left.ndim) if axis not in contract[0] + batch[0]]
    right_free = [axis for axis in range(right.ndim) if axis not in contract[1] + batch[1]]
    shape = [left.shape[axis] for axis in batch[0] + left_free] + [right.shape[axis] for axis in right_free]
    lead, inner = [left.shape[axis] for axis in batch[0]], math.prod(left.shape[axis] for axis in contract[0])
    rows, columns = (
        math.prod(array.shape[a] for a in free) for array, free in ((left, left_free), (right, right_free))
    )
    left = left.transpose(batch[0] + left_free + contract[0]).reshape([*lead, rows, inner])
    right = right.transpose(batch[1] + contract[1] + right_free).reshape([*lead, inner, columns])
    return (left @ right).reshape(shape)


def _broadcast(value: Array, shape: list[int], axes: list[int]) -> Array:
    full = [1] * len(shape)
    for axis, size in zip(axes, value.shape):
        full[axis] = size
    value = value.reshape(full)
    return value if full == shape else np.broadcast_to(value, shape)  # NumPy's takes microseconds


def _unsqueeze(value: Array, shape: list[int], axes: list[int]) -> Array:
    """A broadcast that is left to whoever uses it."""
    if axes == list(range(len(shape) - value.ndim, len(shape))):
        return value
    full = [1] * len(shape)
    for axis, size in zip(axes, value.shape):
        full[axis] = size
    return value.reshape(full)


def _iota(shape: list[int], axis: int, dtype: str) -> Array:
    return _broadcast(np.arange(shape[axis], dtype=dtype), shape, [axis])


def _slice(value: Array, start: list[int], stop: list[Any], step: list[int]) -> Array:
    return value[tuple(map(slice, start, stop, step))]


def _pad(value: Array, fill: Array, low: list[int], high: list[int]) -> Array:
    return np.pad(value, list(zip(low, high)), constant_values=fill)


def _split(value: Array, sizes: list[int], axis: int) -> list[Array]:
    return np.split(value, np.cumsum(sizes)[:-1], axis)


def _gather(value: Array, start: Array, shape: list[int], **how: Any) -> Array:
    return value[_indices(value.shape, start, shape, **how)]


def _scatter(value: Array, start: Array, updates: Array, **how: Any) -> Array:
    """StableHLO's: a window that would reach out of the operand is not written."""
    places = _indices(value.shape, start, list(updates.shape), **how)
    limits = [value.shape[axis] - how["sizes"][axis] for axis in how["mapped"]]
    inside = ((start >= 0) & (start <= limits)).all(axis=-1)
    result = value.copy()
    if inside.all():
        result[places] = updates
        return result
    windows = tuple(how["offset"])
    there = np.broadcast_to(np.expand_dims(inside, windows), updates.shape)
    result[tuple(np.broadcast_to(place, updates.shape)[there] for place in places)] = updates[there]
    return result


def _indices(
    operand: tuple[int, ...],
    start: Array,
    shape: list[int],
    *,
    sizes: list[int],
    offset: list[int],
    collapsed: list[int],
    mapped: list[int],
    batch: list[list[int]],
) -> tuple[Any, ...]:
    """For every axis of the operand, the index that each entry of a window has in it, broadcasting to `shape`.

    StableHLO's gather: `offset` are the axes of `shape` that run over a window of `sizes`, the others those of `start`
    but its last, which holds an index for each axis in `mapped`. `batch`: axes of the operand and of `start` that go
    together. A window that would reach out of the operand is moved inside.
    """
    outer = [axis for axis in range(len(shape)) if axis not in offset]
    windows = iter(offset)

    def along(axis: int, numbers: Array) -> Array:
        return numbers.reshape([-1 if other == axis else 1 for other in range(len(shape))])

    found: list[Any] = []
    for axis, size in enumerate(operand):
        if axis in batch[0]:
            found.append(along(outer[batch[1][batch[0].index(axis)]], np.arange(size)))
            continue
        index: Any = 0
        if axis in mapped:
            first = np.clip(start[..., mapped.index(axis)], 0, size - sizes[axis])
            lengths = dict(zip(outer, first.shape))
            index = first.reshape([lengths.get(other, 1) for other in range(len(shape))])
        if axis not in collapsed:
            index = index + along(next(windows), np.arange(sizes[axis]))
        found.append(index)
    return tuple(found)


def _dynamic_slice(value: Array, *start: Array, sizes: list[int]) -> Array:
    first = [min(max(int(index), 0), size - wanted) for index, size, wanted in zip(start, value.shape, sizes)]
    return value[tuple(slice(index, index + wanted) for index, wanted in zip(first, sizes))]


def _top_k(value: Array, count: int) -> tuple[Array, Array]:
    """The largest, in falling order, and where they are; of equal ones the first."""
    order = np.argsort(-value, axis=-1, kind="stable")[..., :count]
    return np.take_along_axis(value, order, -1), order.astype(np.int32)


def _sort(*values: Array, axis: int, keys: int) -> Any:
    order = np.lexsort(values[:keys][::-1], axis=axis) if keys > 1 else np.argsort(values[0], axis, "stable")
    result = [np.take_along_axis(value, order, axis) for value in values]
    return result if len(values) > 1 else result[0]


# --- operations: element by element -----------------------------------------------------------------------------


def _select(which: Array, *cases: Array) -> Array:
    return np.where(which, cases[1], cases[0]) if which.dtype == bool else np.choose(which, cases)


def _logistic(value: Array) -> Array:
    return np.reciprocal(1 + np.exp(-value))


def _clamp(low: Array, value: Array, high: Array) -> Array:
    return np.minimum(np.maximum(value, low), high)


def _divide(left: Array, right: Array) -> Array:
    """Of whole numbers the quotient without its fraction, as XLA and ONNX have it."""
    if left.dtype.kind == "f":
        return np.divide(left, right)
    return np.trunc(np.divide(left, right)).astype(left.dtype)


def _integer_pow(value: Array, exponent: int) -> Array:
    return np.square(value) if exponent == 2 else value**exponent


def _each(function: Callable[[float], float]) -> Operation:
    return lambda value: np.vectorize(function, otypes=[value.dtype])(value)


def _along(reduce: Callable[..., Array]) -> Operation:
    return lambda value, axes: reduce(value, axis=tuple(axes))


def _sum(value: Array, axis: tuple[int, ...]) -> Array:
    return np.sum(value, axis=axis, dtype=value.dtype)  # NumPy's own choice for whole numbers is a wider one


def _position(find: Callable[..., Array]) -> Operation:
    return lambda value, axis: find(value, axis=axis).astype(np.int32)


OPERATIONS: dict[str, Operation] = {
    "dot_general": _dot,
    "broadcast_in_dim": _broadcast,
    "unsqueeze": _unsqueeze,
    "reshape": lambda value, shape: value.reshape(shape),
    "transpose": lambda value, order: value.transpose(order),
    "concatenate": lambda *values, axis: np.concatenate(values, axis),
    "slice": _slice,
    "pad": _pad,
    "split": _split,
    "rev": lambda value, axes: np.flip(value, axes),
    "iota": _iota,
    "gather": _gather,
    "scatter": _scatter,
    "dynamic_slice": _dynamic_slice,
    "convert_element_type": lambda value, dtype: value.astype(dtype),
    "reduce_sum": _along(_sum),
    "reduce_max": _along(np.max),
    "reduce_min": _along(np.min),
    "reduce_prod": _along(np.prod),
    "reduce_and": _along(np.all),
    "reduce_or": _along(np.any),
    "argmax": _position(np.argmax),
    "argmin": _position(np.argmin),
    "cumsum": lambda value, axis: np.cumsum(value, axis, value.dtype),
    "top_k": _top_k,
    "sort": _sort,
    "select_n": _select,
    "clamp": _clamp,
    "logistic": _logistic,
    "rsqrt": lambda value: np.reciprocal(np.sqrt(value)),
    "integer_pow": _integer_pow,
    "square": np.square,
    "erf": _each(math.erf),
    "erfc": _each(math.erfc),
    "copy": lambda value: value,
    **{"add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": _divide, "rem": np.fmod},
    **{"max": np.maximum, "min": np.minimum, "pow": np.power, "neg": np.negative, "abs": np.abs, "sign": np.sign},
    **{"exp": np.exp, "exp2": np.exp2, "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "sqrt": np.sqrt},
    **{"sin": np.sin, "cos": np.cos, "tan": np.tan, "tanh": np.tanh, "atan2": np.arctan2, "floor": np.floor},
    **{"ceil": np.ceil, "round": np.rint, "is_finite": np.isfinite, "not": np.invert},
    **{"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor},
    **{
        "eq": np.equal,
        "ne": np.not_equal,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
    },
}
BROADCASTING = frozenset(
    {name for name, operation in OPERATIONS.items() if isinstance(operation, np.ufunc)} | {"div", "select_n", "clamp"}
)
