"""A program of array operations as an ONNX model.

Not by jax2onnx: its 0.17.1 gives wrong actions for a row that is picked by a computed index in a batch (candidates by
their value), has no rule for writing one (the Decision Transformer's memory), and broadcasts by a handful of operations
where ONNX does so by itself. A policy needs some fifty operations.

Broadcasts are left to the operation that uses the value, wherever ONNX broadcasts, too; others expand it first.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tether.errors import InputError
from tether.export.program import BATCH, Program

if TYPE_CHECKING:
    import onnx

__all__ = ["IR_VERSION", "OPSET", "onnx_model"]

OPSET, IR_VERSION = 18, 8  # ONNX Runtime 1.14 and newer

Shape = list[Any]


def onnx_model(
    program: Program, inputs: Sequence[str], outputs: Sequence[str], notes: dict[str, str]
) -> "onnx.ModelProto":
    """The model, with a dynamic first axis `batch`.

    inputs, outputs: names, in the program's order. notes: kept in the model's metadata. Raises InputError where the
    package onnx is not installed, or for an operation in a form that has no rule.
    """
    try:
        from onnx import checker, helper, shape_inference
    except ImportError:
        raise InputError("format onnx: needs the package onnx: pip install tether-rl[export]") from None
    writer = _Writer(program, inputs)
    for name, given, made, how in program.document["steps"]:
        writer.step(name, given, made, how)
    ends = [
        _described(name, *program.types[number])
        for names, numbers in ((inputs, program.document["inputs"]), (outputs, program.document["outputs"]))
        for name, number in zip(names, numbers, strict=True)
    ]
    for name, number in zip(outputs, program.document["outputs"], strict=True):
        writer.node("Identity", [writer.full(number)], name)
    used = set(_read(writer.nodes))  # ONNX Runtime warns of others
    constants = [array for array in writer.initialisers if array.name in used]
    graph = helper.make_graph(writer.nodes, notes["algorithm"], ends[: len(inputs)], ends[len(inputs) :], constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="tether"
    )
    helper.set_model_props(model, notes)
    try:
        checker.check_model(model, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(f"format onnx: what the policy does is no graph of it: {line}; try --format numpy") from error
    return model


def _read(nodes: Iterable[Any]) -> Iterator[str]:
    """The names of all values that these nodes, and those of their branches, take."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _read(attribute.g.node)


def _described(name: str, shape: Shape, dtype: np.dtype) -> Any:
    from onnx import helper

    sizes = ["batch" if size == BATCH else size for size in shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), sizes)


class _Writer:
    """Collects nodes; values are known by their numbers in the program."""

    def __init__(self, program: Program, inputs: Sequence[str]):
        self.program = program
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []
        self._names = dict(zip(program.document["inputs"], inputs, strict=True))
        self._shapes: dict[int, Shape] = {}  # of values that are still to be broadcast
        self._kept: dict[Any, str] = {}  # constants and shapes that are there already
        self._expanded: dict[int, str] = {}
        self._count = 0
        for number, array in program.constants.items():
            self._names[int(number)] = self.constant(array)

    # values

    def node(self, kind: str, inputs: Sequence[str], output: str | None = None, count: int = 1, **how: Any) -> Any:
        """Add a node -> the name of its output, or the names of `count` outputs."""
        from onnx import helper

        names = [output or self._name() for _ in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, names, **how))
        return names[0] if count == 1 else names

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of an array."""
        from onnx import numpy_helper

        array = np.asarray(value, dtype)
        key = (array.shape, array.dtype.str, array.tobytes())
        if key not in self._kept:
            self._kept[key] = self._name("c")
            self.initialisers.append(numpy_helper.from_array(array, self._kept[key]))
        return self._kept[key]

    def _name(self, letter: str = "v") -> str:
        self._count += 1
        return f"{letter}{self._count}"

    def shape(self, number: int) -> Shape:
        """The shape of a value after all broadcasts."""
        return self.program.types[number][0]

    def dtype(self, number: int) -> np.dtype:
        return self.program.types[number][1]

    def lazy(self, number: int) -> str:
        """The name of a value, perhaps with axes of size 1 that stand for more: for operations that broadcast."""
        return self._names[number]

    def full(self, number: int) -> str:
        """The name of a value in its full shape."""
        if number not in self._shapes:
            return self._names[number]
        if number not in self._expanded:
            wanted = self.sizes(self.shape(number))
            self._expanded[number] = self.node("Expand", [self._names[number], wanted])
        return self._expanded[number]

    def sizes(self, shape: Shape) -> str:
        """The name of a shape as an array; its BATCH is looked up in the first input."""
        if BATCH not in shape:
            return self.constant(shape, np.int64)
        key = ("shape", *shape)
        if key not in self._kept:
            if "batch" not in self._kept:
                first = self._names[self.program.document["inputs"][0]]
                self._kept["batch"] = self.node("Shape", [first], start=0, end=1)
            at = shape.index(BATCH)
            parts = [self.constant(shape[:at], np.int64), self._kept["batch"], self.constant(shape[at + 1 :], np.int64)]
            used = [part for part, sizes in zip(parts, (shape[:at], [1], shape[at + 1 :]), strict=True) if sizes]
            self._kept[key] = used[0] if len(used) == 1 else self.node("Concat", used, axis=0)
        return self._kept[key]

    def reshaped(self, name: str, shape: Shape) -> str:
        """A value in another shape, of which one size may be BATCH."""
        return self.node("Reshape", [name, self.constant([-1 if size == BATCH else size for size in shape], np.int64)])

    def cast(self, name: str, dtype: Any) -> str:
        from onnx import helper

        return self.node("Cast", [name], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    # steps

    def step(self, name: str, inputs: list[int], outputs: list[int], how: dict[str, Any]) -> None:
        """Add what computes a step of the program."""
        if name in ELEMENTWISE:
            self._elementwise(name, inputs, outputs[0], how)
        elif name == "broadcast_in_dim":
            self._broadcast(inputs[0], outputs[0], how)
        elif name == "cond":
            self._choice(inputs[0], outputs, how["branches"])
        elif name in RULES:
            made = RULES[name](self, inputs, outputs, how)
            self._names.update(zip(outputs, [made] if isinstance(made, str) else made, strict=True))
        else:
            raise InputError(f"format onnx: no rule for the operation {name!r}; try --format numpy or stablehlo")

    def _choice(self, which: int, outputs: list[int], branches: list[dict[str, Any]]) -> None:
        """An If; its branches see all values before it, and nobody after it sees theirs."""
        exact, short = (self._branch(outputs, branch) for branch in branches)
        how: dict[str, Any] = {"then_branch": short, "else_branch": exact}
        made = self.node("If", [self.cast(self.full(which), bool)], count=len(outputs), **how)
        self._names.update(zip(outputs, [made] if isinstance(made, str) else made, strict=True))

    def _branch(self, outputs: list[int], branch: dict[str, Any]) -> "onnx.GraphProto":
        from onnx import helper

        nodes, kept, expanded = self.nodes, dict(self._kept), dict(self._expanded)
        self.nodes = []
        for name, given, made, how in branch["steps"]:
            self.step(name, given, made, how)
        ends = [self.node("Identity", [self.full(number)]) for number in branch["outputs"]]
        kinds = [_described(name, *self.program.types[number]) for name, number in zip(ends, outputs, strict=True)]
        graph = helper.make_graph(self.nodes, self._name("g"), [], kinds)
        self.nodes, self._kept, self._expanded = nodes, kept, expanded
        return graph

    def _elementwise(self, name: str, inputs: list[int], output: int, how: dict[str, Any]) -> None:
        shapes = [self._shapes.get(number, self.shape(number)) for number in inputs]
        self._names[output] = ELEMENTWISE[name](
            self, [self.lazy(number) for number in inputs], self.dtype(inputs[0]), how
        )
        self._note(output, _broadcast_shape(shapes))

    def _note(self, number: int, found: Shape) -> None:
        if found != self.shape(number):
            self._shapes[number] = found

    def _broadcast(self, value: int, output: int, how: dict[str, Any]) -> None:
        before = self._shapes.get(value, self.shape(value))
        before = [1] * (len(how["axes"]) - len(before)) + before  # axes in front that an earlier broadcast left out
        after: Shape = [1] * len(how["shape"])
        for axis, size in zip(how["axes"], before, strict=True):
            after[axis] = size
        leading = len(after) - len(before)
        plain = how["axes"] == list(range(leading, len(after)))  # then axes of size 1 in front need not be there
        self._names[output] = self.lazy(value) if plain else self.reshaped(self.lazy(value), after)
        self._note(output, before if plain else after)


def _broadcast_shape(shapes: Sequence[Shape]) -> Shape:
    rank = max(map(len, shapes))
    padded = [[1] * (rank - len(shape)) + shape for shape in shapes]
    return [next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True)]


# --- element by element: (writer, names, type of the first input, parameters) -> name -------------------------

Elementwise = Callable[[_Writer, list[str], Any, dict[str, Any]], str]


def _plain(kind: str, **fixed: Any) -> Elementwise:
    return lambda w, x, dtype, how: w.node(kind, x, **fixed)


def _chain(first: str, *then: str) -> Elementwise:
    def write(w: _Writer, x: list[str], dtype: Any, how: dict[str, Any]) -> str:
        name = w.node(first, x)
        for kind in then:
            name = w.node(kind, [name])
        return name

    return write


def _log1p(w: _Writer, x: list[str], dtype: Any, how: dict[str, Any]) -> str:
    """log(u) x / (u - 1) with u = 1 + x, exact where x is small (Kahan); x where u is 1."""
    one = w.constant(1, dtype)
    u = w.node("Add", [x[0], one])
    ratio = w.node("Div", [x[0], w.node("Sub", [u, one])])
    return w.node("Where", [w.node("Equal", [u, one]), x[0], w.node("Mul", [w.node("Log", [u]), ratio])])


def _expm1(w: _Writer, x: list[str], dtype: Any, how: dict[str, Any]) -> str:
    """2 t / (1 - t) with t = tanh(x / 2), exact where x is small; e^x - 1 elsewhere."""
    one, two = w.constant(1, dtype), w.constant(2, dtype)
    t = w.node("Tanh", [w.node("Div", [x[0], two])])
    small = w.node("Div", [w.node("Mul", [two, t]), w.node("Sub", [one, t])])
    large = w.node("Sub", [w.node("Exp", x), one])
    return w.node("Where", [w.node("Less", [x[0], one]), small, large])


def _logical(kind: str) -> Elementwise:
    def write(w: _Writer, x: list[str], dtype: Any, how: dict[str, Any]) -> str:
        if dtype.kind != "b":
            raise InputError("format onnx: no rule for bits of whole numbers; try --format numpy or stablehlo")
        return w.node(kind, x)

    return write


def _select(w: _Writer, x: list[str], dtype: Any, how: dict[str, Any]) -> str:
    if dtype.kind != "b" or len(x) != 3:
        raise InputError("format onnx: no rule for a choice among more than two; try --format numpy or stablehlo")
    return w.node("Where", [x[0], x[2], x[1]])


def _clamp(w: _Writer, x: list[str], dtype: Any, how: dict[str, Any]) -> str:
    return w.node("Min", [w.node("Max", [x[1], x[0]]), x[2]])


def _is_finite(w: _Writer, x: list[str], dtype: Any, how: dict[str, Any]) -> str:
    return w.node("Not", [w.node("Or", [w.node("IsInf", x), w.node("IsNaN", x)])])


def _integer_pow(w: _Writer, x: list[str], dtype: Any, how: dict[str, Any]) -> str:
    return (
        w.node("Mul", [x[0], x[0]])
        if how["exponent"] == 2
        else w.node("Pow", [x[0], w.constant(how["exponent"], dtype)])
    )


ELEMENTWISE: dict[str, Elementwise] = {
    **{
        "add": _plain("Add"),
        "add_any": _plain("Add"),
        "sub": _plain("Sub"),
        "mul": _plain("Mul"),
        "div": _plain("Div"),
    },
    **{"rem": _plain("Mod", fmod=1), "max": _plain("Max"), "min": _plain("Min"), "pow": _plain("Pow")},
    **{"neg": _plain("Neg"), "abs": _plain("Abs"), "sign": _plain("Sign"), "exp": _plain("Exp"), "log": _plain("Log")},
    **{
        "sqrt": _plain("Sqrt"),
        "sin": _plain("Sin"),
        "cos": _plain("Cos"),
        "tan": _plain("Tan"),
        "tanh": _plain("Tanh"),
    },
    **{"floor": _plain("Floor"), "ceil": _plain("Ceil"), "round": _plain("Round"), "erf": _plain("Erf")},
    **{"logistic": _plain("Sigmoid"), "not": _logical("Not"), "and": _logical("And"), "or": _logical("Or")},
    **{"xor": _logical("Xor"), "eq": _plain("Equal"), "lt": _plain("Less"), "le": _plain("LessOrEqual")},
    **{"gt": _plain("Greater"), "ge": _plain("GreaterOrEqual"), "ne": _chain("Equal", "Not")},
    "erfc": lambda w, x, dtype, how: w.node("Sub", [w.constant(1, dtype), w.node("Erf", x)]),
    "rsqrt": _chain("Sqrt", "Reciprocal"),
    "exp2": lambda w, x, dtype, how: w.node("Pow", [w.constant(2, dtype), x[0]]),
    "square": lambda w, x, dtype, how: w.node("Mul", [x[0], x[0]]),
    "convert_element_type": lambda w, x, dtype, how: w.cast(x[0], how["dtype"]),
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "select_n": _select,
    "clamp": _clamp,
    "log1p": _log1p,
    "expm1": _expm1,
}


# --- shapes, products, indices: (writer, inputs, outputs, parameters) -> name or names --------------------------

Rule = Callable[[_Writer, list[int], list[int], dict[str, Any]], Any]


def _dot(w: _Writer, inputs: list[int], outputs: list[int], how: dict[str, Any]) -> str:
    """A product as MatMul: batch axes first, then rows and columns."""
    (left, right), (contract, batch) = inputs, (how["contract"], how["batch"])
    shapes = w.shape(left), w.shape(right)
    if not batch[0] and contract == [[len(shapes[0]) - 1], [0]] and len(shapes[1]) <= 2:
        return w.node("MatMul", [w.full(left), w.full(right)])
    free = [
        [axis for axis in range(len(shape)) if axis not in contract[side] + batch[side]]
        for side, shape in enumerate(shapes)
    ]
    lead = [shapes[0][axis] for axis in batch[0]]
    inner = _product([shapes[0][axis] for axis in contract[0]])
    rows, columns = (_product([shapes[side][axis] for axis in free[side]]) for side in (0, 1))
    first = _transposed(w, w.full(left), batch[0] + free[0] + contract[0])
    second = _transposed(w, w.full(right), batch[1] + contract[1] + free[1])
    product = [w.reshaped(first, [*lead, rows, inner]), w.reshaped(second, [*lead, inner, columns])]
    return w.reshaped(w.node("MatMul", product), w.shape(outputs[0]))


def _product(sizes: Shape) -> Any:
    return BATCH if BATCH in sizes else int(np.prod(sizes, dtype=int))


def _transposed(w: _Writer, name: str, order: list[int]) -> str:
    return name if order == sorted(order) else w.node("Transpose", [name], perm=order)


def _reduction(kind: str) -> Rule:
    def write(w: _Writer, inputs: list[int], outputs: list[int], how: dict[str, Any]) -> str:
        return w.node(kind, [w.full(inputs[0]), w.constant(how["axes"], np.int64)], keepdims=0)

    return write


def _truth(kind: str) -> Rule:
    def write(w: _Writer, inputs: list[int], outputs: list[int], how: dict[str, Any]) -> str:
        numbers = w.cast(w.full(inputs[0]), np.int32)
        return w.cast(w.node(kind, [numbers, w.constant(how["axes"], np.int64)], keepdims=0), bool)

    return write


def _position(kind: str) -> Rule:
    def write(w: _Writer, inputs: list[int], outputs: list[int], how: dict[str, Any]) -> str:
        return w.cast(w.node(kind, [w.full(inputs[0])], axis=how["axis"], keepdims=0), w.dtype(outputs[0]))

    return write


def _slice(w: _Writer, inputs: list[int], outputs: list[int], how: dict[str, Any]) -> str:
    end = np.iinfo(np.int64).max
    stop = [end if size == BATCH else size for size in how["stop"]]
    axes = list(range(len(stop)))
    arrays = [w.constant(numbers, np.int64) for numbers in (how["start"], stop, axes, how["step"])]
    return w.node("Slice", [w.full(inputs[0]), *arrays])


def _reverse(w: _Writer, inputs: list[int], outputs: list[int], how: dict[str, Any]) -> str:
    count, least = len(how["axes"]), np.iinfo(np.int64).min
    arrays = [w.constant(numbers, np.int64) for numbers in ([-1] * count, [least] * count, how["axes"], [-1] * count)]
    return w.node("Slice", [w.full(inputs[0]), *arrays])


def _iota(w: _Writer, inputs: list[int], outputs: list[int], how: dict[str, Any]) -> str:
    shape, axis = how["shape"], how["axis"]
    if shape[axis] == BATCH:
        raise InputError("format onnx: no rule for counting the batch; try --format numpy or stablehlo")
    column = [1] * len(shape)
    column[axis] = shape[axis]
    numbers = np.arange(shape[axis], dtype=how["dtype"]).reshape(column)
    return w.node("Expand", [w.constant(numbers), w.sizes(shape)])


def _top_k(w: _Writer, inputs: list[int], outputs: list[int], how: dict[str, Any]) -> list[str]:
    count = w.constant([how["count"]], np.int64)
    values, positions = w.node("TopK", [w.full(inputs[0]), count], count=2, axis=-1)
    return [values, w.cast(positions, w.dtype(outputs[1]))]


def _picked(w: _Writer, operand: int, how: dict[str, Any]) -> int:
    """The one axis of the operand in which a gather or scatter takes single entries by index.

    Axes that are taken whole have no choice of an index.
    """
    shape, sizes = w.shape(operand), how["sizes"]
    axes = [axis for axis in how["mapped"] if shape[axis] != sizes[axis]]
    if len(axes) != 1 or sizes[axes[0]] != 1 or how["batch"][0] not in ([], [0]) or how["batch"][1] not in ([], [0]):
        raise InputError("format onnx: no rule for this kind of indexing; try --format numpy or stablehlo")
    return axes[0]


def _index(w: _Writer, start: int, how: dict[str, Any], axis: int) -> str:
    """Where the entries are in the axis, or out of it, int64."""
    at = how["mapped"].index(axis)
    return w.cast(w.node("Gather", [w.full(start), w.constant(at, np.int64)], axis=-1), np.int64)


def _gather(w: _Writer, inputs: list[int], outputs: list[int], how: dict[str, Any]) -> str:
    operand, start = inputs
    shape = w.shape(operand)
    axis = _picked(w, operand, how)
    least, most = w.constant(0, np.int64), w.constant(shape[axis] - 1, np.int64)
    index = w.node("Min", [w.node("Max", [_index(w, start, how, axis), least]), most])
    index_axes = len(w.shape(start)) - 1
    rest = [other for other in range(len(shape)) if other != axis and other not in how["batch"][0]]
    if how["batch"][0]:  # [batch, axis, rest] and [batch, indices, 1] -> [batch, indices, rest]
        source = _transposed(w, w.full(operand), [0, axis, *rest])
        index = w.node("Unsqueeze", [index, w.constant([-1], np.int64)])
        found = w.node("GatherND", [source, index], batch_dims=1)
    else:
        found = w.node("Gather", [_transposed(w, w.full(operand), [axis, *rest]), index], axis=0)
    # Where the axes that are there now stand in the result; those of size 1 that were not dropped have no order.
    wide = [other for other in range(len(shape)) if other not in how["collapsed"] and other not in how["batch"][0]]
    places = dict(zip(wide, how["offset"], strict=True))
    outer = [place for place in range(len(how["shape"])) if place not in how["offset"]]
    now = [*outer[:index_axes], *(places[other] for other in rest)]
    order = sorted(range(len(now)), key=now.__getitem__)
    return w.reshaped(_transposed(w, found, order), how["shape"])


def _scatter(w: _Writer, inputs: list[int], outputs: list[int], how: dict[str, Any]) -> str:
    """One entry of an axis replaced: a choice, entry by entry, between the update and what was there. An index out of
    the axis is that of no entry."""
    operand, start, updates = inputs
    shape, batched = w.shape(operand), bool(how["batch"][0])
    axis = _picked(w, operand, how)
    if len(w.shape(start)) != 1 + batched:
        raise InputError("format onnx: no rule for writing several entries; try --format numpy or stablehlo")
    index = _index(w, start, how, axis)
    column: Shape = [1] * len(shape)
    if batched:
        column[0] = BATCH
    row = [1 if other == axis else size for other, size in enumerate(shape)]
    positions = np.arange(shape[axis]).reshape([-1 if other == axis else 1 for other in range(len(shape))])
    here = w.node("Equal", [w.reshaped(index, column), w.constant(positions, np.int64)])
    return w.node("Where", [here, w.reshaped(w.full(updates), row), w.full(operand)])


RULES: dict[str, Rule] = {
    "dot_general": _dot,
    "gather": _gather,
    "scatter": _scatter,
    "slice": _slice,
    "rev": _reverse,
    "iota": _iota,
    "top_k": _top_k,
    "reshape": lambda w, inputs, outputs, how: w.reshaped(w.full(inputs[0]), how["shape"]),
    "transpose": lambda w, inputs, outputs, how: _transposed(w, w.full(inputs[0]), how["order"]),
    "concatenate": lambda w, inputs, outputs, how: w.node("Concat", [*map(w.full, inputs)], axis=how["axis"]),
    "split": lambda w, inputs, outputs, how: w.node(
        "Split", [w.full(inputs[0]), w.constant(how["sizes"], np.int64)], count=len(outputs), axis=how["axis"]
    ),
    "pad": lambda w, inputs, outputs, how: w.node(
        "Pad", [w.full(inputs[0]), w.constant(how["low"] + how["high"], np.int64), w.full(inputs[1])]
    ),
    "cumsum": lambda w, inputs, outputs, how: w.node("CumSum", [w.full(inputs[0]), w.constant(how["axis"], np.int64)]),
    "argmax": _position("ArgMax"),
    "argmin": _position("ArgMin"),
    **{"reduce_sum": _reduction("ReduceSum"), "reduce_max": _reduction("ReduceMax")},
    **{"reduce_min": _reduction("ReduceMin"), "reduce_prod": _reduction("ReduceProd")},
    **{"reduce_and": _truth("ReduceMin"), "reduce_or": _truth("ReduceMax")},
}
