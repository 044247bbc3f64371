"""Rewards by arithmetic: `-(angle**2) - 0.1 * norm(torque_1, torque_2)` over the columns of a log.

The text is parsed, never executed: numbers, column names, + - * / // % **, comparisons, `and`, `or`, `not`,
`a if b else c`, and the functions below. A column whose name is no Python name is written column("its name"); of
one that holds a vector in each row, `pose[0]` is an entry and `norm(pose)` the length.
"""

import ast
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tether.errors import InputError, shortened, unknown

__all__ = ["Expression", "parse_expression"]

DEEPEST = 100  # levels of the tree
LONGEST = 10_000  # characters
OF_ONE = ("abs", "sqrt", "exp", "log", "sin", "cos", "tan", "tanh", "sign")
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in (*OF_ONE, "where")},
    "min": lambda *values: np.minimum.reduce(np.broadcast_arrays(*values)),
    "max": lambda *values: np.maximum.reduce(np.broadcast_arrays(*values)),
}
ARGUMENTS = {**dict.fromkeys(OF_ONE, 1), "where": 3}
"""How many a function takes: NumPy's would take more, one of them to write to. The others take any number."""
OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
    ast.USub: np.negative,
    ast.UAdd: np.positive,
    ast.Not: np.logical_not,
    ast.And: np.logical_and,
    ast.Or: np.logical_or,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


class Expression(NamedTuple):
    """Arithmetic over columns."""

    columns: tuple[str, ...]  # those it needs
    evaluate: Callable[[Mapping[str, np.ndarray], int], np.ndarray]  # (columns by name, rows) -> float64 (rows,)


def parse_expression(text: str, sizes: Mapping[str, int]) -> Expression:
    """`text` over the columns of `sizes` (name -> numbers in each row).

    Raises InputError for what is not arithmetic, and for names that are no column.
    """
    if len(text) > LONGEST:
        raise InputError(f"reward: arithmetic of {len(text):,} characters; {LONGEST:,} are the most")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise InputError(f"reward {shortened(text)!r} is no column and no arithmetic: {error}") from None
    level, depth = [tree], 0
    while level:
        level, depth = [child for node in level for child in ast.iter_child_nodes(node)], depth + 1
    if depth > DEEPEST:
        raise InputError(f"reward: arithmetic in {depth} levels; {DEEPEST} are the most")
    needed: dict[str, None] = {}
    compute = _Compiler(text, sizes, needed).compile(tree)

    def evaluate(values: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
        doubles = {name: np.asarray(values[name], np.float64) for name in needed}
        with np.errstate(all="ignore"):  # what is not finite is refused later, by row
            return np.broadcast_to(compute(doubles), (rows,))

    return Expression(tuple(needed), evaluate)


Compute = Callable[[Mapping[str, np.ndarray]], Any]


class _Compiler(NamedTuple):
    text: str
    sizes: Mapping[str, int]
    needed: dict[str, None]  # the columns met so far

    def compile(self, node: ast.AST) -> Compute:
        """`node` as a function of the columns; whatever is not listed here is refused."""
        match node:
            case ast.Constant(value=bool() | int() | float() as number):
                try:
                    constant = np.float64(number)  # not Python's integers, whose powers have no end
                except OverflowError:
                    raise self._refusal("it holds a number that is larger than any double") from None
                return lambda values: constant
            case ast.Name() | ast.Call(func=ast.Name(id="column")):
                return self._plain_column(node)
            case ast.Subscript(value=vector, slice=ast.Constant(value=int(index))):
                name = self._column(vector)
                if self.sizes[name] == 1 or index >= self.sizes[name] or isinstance(index, bool):
                    raise self._refusal(f"there is no {ast.unparse(node)}: {self._size(name)}")
                return lambda values: values[name][:, index]
            case ast.Call(func=ast.Name(id="norm"), args=[_, *_] as parts, keywords=[]):
                squares = [self._square(part) for part in parts]
                return lambda values: np.sqrt(sum(square(values) for square in squares))
            case ast.Call(func=ast.Name(id=function), args=[_, *_] as parts, keywords=[]) if function in FUNCTIONS:
                if len(parts) != ARGUMENTS.get(function, len(parts)):
                    raise self._refusal(f"{function} takes {ARGUMENTS[function]}, not {len(parts)} arguments")
                return _apply(FUNCTIONS[function], *map(self.compile, parts))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return _apply(OPERATORS[type(op)], self.compile(left), self.compile(right))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
                return _apply(OPERATORS[type(op)], self.compile(operand))
            case ast.BoolOp(op=op, values=parts):
                return _fold(OPERATORS[type(op)], map(self.compile, parts))
            case ast.Compare(left=left, ops=ops, comparators=rights) if all(type(op) in OPERATORS for op in ops):
                terms = [self.compile(term) for term in (left, *rights)]
                pairs = zip(ops, terms[:-1], terms[1:], strict=True)
                return _fold(np.logical_and, (_apply(OPERATORS[type(op)], one, two) for op, one, two in pairs))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return _apply(np.where, *map(self.compile, (test, body, orelse)))
        raise self._refusal(
            f"{ast.unparse(node)!r} is not arithmetic over columns; there are numbers, column names, + - * / // % **, "
            f"comparisons, and, or, not, if-else, column('name'), norm and {', '.join(FUNCTIONS)}"
        )

    def _column(self, node: ast.AST) -> str:
        match node:
            case (
                ast.Name(id=name)
                | ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str(name))], keywords=[])
            ):
                if name not in self.sizes:
                    written = [key if key.isidentifier() else f"column({key!r})" for key in self.sizes]
                    raise unknown(f"column in the reward {self.text!r}:", name, written)
                self.needed[name] = None
                return name
        raise self._refusal(f"{ast.unparse(node)!r} is no column")

    def _plain_column(self, node: ast.AST) -> Compute:
        name = self._column(node)
        if self.sizes[name] > 1:
            raise self._refusal(f"{self._size(name)}; write {name}[0] or norm({name})")
        return lambda values: values[name]

    def _square(self, node: ast.AST) -> Compute:
        """The sum of the squares of one argument of `norm`, which may be a vector."""
        match node:
            case ast.Name(id=name) | ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str(name))]):
                if self.sizes.get(name, 1) > 1:
                    name = self._column(node)
                    return lambda values: np.square(values[name]).sum(axis=1)
        return _apply(np.square, self.compile(node))

    def _size(self, name: str) -> str:
        return f"column {name!r} holds {self.sizes[name]} number{'s' * (self.sizes[name] > 1)} in each row"

    def _refusal(self, reason: str) -> InputError:
        return InputError(f"reward {shortened(self.text)!r}: {shortened(reason, 600)}")


def _apply(function: Callable[..., Any], *parts: Compute) -> Compute:
    # True and False become 1 and 0, so that they can be subtracted and negated.
    return lambda values: np.asarray(function(*(part(values) for part in parts)), np.float64)


def _fold(function: Callable[..., Any], parts: Iterable[Compute]) -> Compute:
    return functools.reduce(lambda one, two: _apply(function, one, two), parts)
