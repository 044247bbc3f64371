"""What values a hyper-parameter or an option may have: stated once, beside its default.

    discount: Annotated[float, between(0, 1)] = 0.99

A class that states ranges checks them where it is made (`check_ranges(self)`); the docs show them (`ranges_of`). What a
`Literal`, `bool` or `float` says is checked there, too: anything else would be taken for one of the values in silence.
"""

import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tether.errors import InputError, shortened

__all__ = [
    "COUNTED",
    "Range",
    "above",
    "at_least",
    "between",
    "check_ranges",
    "check_seed",
    "check_value",
    "describe",
    "ranges_of",
]


COUNTED = 2**31 - 1
"""As far as JAX counts; who is told a range need not hear of it."""

UNIONS = (types.UnionType, typing.Union)  # such as int | None


class Range(NamedTuple):
    """Numbers from `low` to `high`; of a tuple each, and at most `length` of them."""

    low: float | int
    high: float | int = math.inf
    without_low: bool = False
    without_high: bool = False
    length: int | None = None
    even: bool = False
    whole: bool = False  # said by the annotation's type
    optional: bool = False  # None, too; likewise

    def __str__(self) -> str:
        if self.length is not None:
            return f"1 to {self.length} numbers, each {self._inside()}"
        return self._inside()

    def _inside(self) -> str:
        if self.high >= COUNTED:
            return f"{'above' if self.without_low else 'at least'} {self.low:,g}"
        low = f"above {self.low:,g}" if self.without_low else f"{self.low:,g}"
        high = f"below {self.high:,}" if self.without_high else f"{self.high:,}"
        return f"{low} to {high}" + (", even" if self.even else "")

    def refusal(self, value: Any) -> str:
        """What `value` must be and is not; "" where it is, or where it is not there yet, as a tracer."""
        if value is None:
            return "" if self.optional else str(self)
        numbers = _numbers(value)
        if numbers is None:
            return ""
        if self.length is not None and np.ndim(value) != 1:
            return f"{self}, such as ({shortened(value)},)" if np.ndim(value) == 0 else str(self)
        if self.whole and (np.asarray(value).dtype.kind == "f" or (numbers != np.floor(numbers)).any()):
            return f"whole, {self}"
        long_enough = self.length is None or 1 <= numbers.size <= self.length
        low = numbers > self.low if self.without_low else numbers >= self.low
        high = numbers < self.high if self.without_high else numbers <= self.high
        fitting = low & high & (numbers % 2 == 0) if self.even else low & high
        if not (long_enough and bool(fitting.all())):
            return str(self)
        return "" if np.isfinite(numbers).all() else f"finite, {self}"


def between(
    low: float | int, high: float | int, *, without_high: bool = False, length: int | None = None, even: bool = False
) -> Range:
    """From `low` to `high`, both included unless said otherwise. length: the most entries of a tuple."""
    return Range(low, high, without_high=without_high, length=length, even=even)


def at_least(low: float | int, *, whole: bool = False) -> Range:
    """`low` and more. whole: as an annotation's `int` says it elsewhere."""
    return Range(low, whole=whole)


def above(low: float | int) -> Range:
    """More than `low`."""
    return Range(low, without_low=True)


@functools.cache
def ranges_of(cls: type) -> Mapping[str, Range]:
    """Field -> the range that its annotation states; fields without one are left out."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {name: _range_in(hint) for name, hint in hints.items()}
    return {name: stated for name, stated in found.items() if stated is not None}


def _range_in(hint: Any) -> Range | None:
    if typing.get_origin(hint) is typing.Annotated:
        own = next((extra for extra in hint.__metadata__ if isinstance(extra, Range)), None)
        whole = hint.__origin__ is int or typing.get_args(hint.__origin__)[:1] == (int,)
        return own._replace(whole=whole) if own else _range_in(hint.__origin__)
    if typing.get_origin(hint) in UNIONS:
        parts = typing.get_args(hint)
        found = next((found for part in parts if (found := _range_in(part))), None)
        return found._replace(optional=types.NoneType in parts) if found else None
    return None


@functools.cache
def _kinds_of(cls: type) -> Mapping[str, Any]:
    """Field -> the Literal, bool or float that its annotation is, with None where that may stand there; fields with a
    range are left out, and those of other kinds."""
    found = {name: _kind_in(hint) for name, hint in typing.get_type_hints(cls).items() if name not in ranges_of(cls)}
    return {name: kind for name, kind in found.items() if kind is not None}


def _kind_in(hint: Any) -> Any:
    parts = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
    kinds = (part for part in parts if part in (bool, float) or typing.get_origin(part) is typing.Literal)
    kind = next(kinds, None)
    return kind | None if kind is not None and types.NoneType in parts else kind


def check_ranges(instance: Any) -> None:
    """Refuse a field whose value is outside of the range that its annotation states, is none of its Literal's, no bool
    or no finite number where it says so. Raises InputError.

    Values that are not there yet are left alone: tracers, shapes, arrays of other processes.
    """
    for name, kind in _kinds_of(type(instance)).items():
        if not _is_of(kind, value := getattr(instance, name)):
            raise InputError(f"{name}={shortened(repr(value))}: expected {describe(kind)}")
    for name, allowed in ranges_of(type(instance)).items():
        check_value(name, getattr(instance, name), allowed)


def check_value(name: str, value: Any, allowed: Range) -> None:
    """Refuse `value` where it is outside of what is allowed. Raises InputError, which calls it `name`."""
    if wanted := allowed.refusal(value):
        raise InputError(f"{name} {shortened(value)}: must be {wanted}")


def check_seed(seed: int) -> None:
    """Refuse what cannot seed JAX's keys and NumPy's generators alike. Raises InputError."""
    if not 0 <= seed <= COUNTED:
        raise InputError(f"seed {seed}: must be from 0 to {COUNTED}")


def _is_of(kind: Any, value: Any) -> bool:
    """Whether `value` is one of `kind`, or not there yet."""
    if value is None:
        return bool({None, types.NoneType}.intersection(typing.get_args(kind)))
    numbers = _numbers(value)
    if numbers is None:
        return True
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) in UNIONS else kind
    if kind is bool:
        return isinstance(value, bool)
    if kind is float:
        return bool(np.isfinite(numbers).all())
    return any(isinstance(value, type(choice)) and value == choice for choice in typing.get_args(kind))


def describe(kind: Any) -> str:
    """What a user may write for a field of this type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in UNIONS:
        return " or ".join(describe(a) if a is not types.NoneType else "none" for a in arguments)
    if kind is tuple or arguments == (int, ...):
        return ("values" if kind is tuple else "whole numbers") + " separated by commas"
    if origin is tuple:
        own = [describe(a) for a in arguments if a is not Ellipsis]
        return f"entries separated by commas, each {own[0]}" if Ellipsis in arguments else f"({', '.join(own)})"
    words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    return words.get(kind, str(kind))


def _numbers(value: Any) -> np.ndarray | None:
    """The numbers that a value is made of; None where it has none (yet)."""
    if isinstance(value, int | float | str | tuple | list | Mapping | np.ndarray | np.generic):
        try:
            return np.asarray(np.nan if isinstance(value, str | bool) else value, np.float64)  # True is no 1
        except (TypeError, ValueError, OverflowError):
            return np.asarray(np.nan)  # in no range
    import jax
    from jax.core import Tracer

    if isinstance(value, jax.Array) and not isinstance(value, Tracer) and value.is_fully_addressable:
        return np.asarray(value, np.float64)
    return None
