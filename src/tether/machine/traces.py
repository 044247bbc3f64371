"""What JAX's traces say, read so that its versions agree."""

from typing import Any

__all__ = ["scan_sizes"]


def scan_sizes(equation: Any) -> tuple[int, int]:
    """Of a scan the number of inputs that are the same in every turn, and of those that it carries on.

    They come first and second among its inputs, the rows of arrays last; what it carries comes first among its outputs.
    Told by their shapes, as rows have an axis more outside than inside: parameters that say it are gone in JAX 0.12.
    """
    inside = equation.params["jaxpr"].jaxpr
    rows = sum(one.aval.ndim > other.aval.ndim for one, other in zip(equation.invars, inside.invars, strict=True))
    carried = sum(one.aval.ndim == other.aval.ndim for one, other in zip(equation.outvars, inside.outvars, strict=True))
    return len(equation.invars) - rows - carried, carried
