"""Names to algorithms, and hyper-parameters from text: what the rest of the library asks of an algorithm's class."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from tether import errors
from tether.algorithms import ALGORITHMS
from tether.errors import InputError

T = TypeVar("T")

__all__ = [
    "acting_fields",
    "change_acting",
    "hyperparameters_of",
    "make_algorithm",
    "numeric_fields",
    "parse_fields",
    "parse_values",
]


def acting_fields(algorithm: Any) -> list[str]:
    """Names of the hyper-parameters that only the policy reads: those that may change once it is trained."""
    return [field.name for field in dataclasses.fields(algorithm) if field.metadata.get("acting", False)]


def change_acting(name: str, algorithm: T, changes: Mapping[str, Any]) -> T:
    """The algorithm called `name` with other values of acting hyper-parameters, given as text or numbers.

    Raises InputError for one that training depends on, one that does not exist, or a value of the wrong kind.
    """
    values, acting = parse_fields(name, changes), acting_fields(algorithm)
    if refused := [field for field in values if field not in acting]:
        allowed = f"only {', '.join(acting)} may change" if acting else f"of {name} nothing may change"
        raise InputError(f"{refused[0]!r} was trained with: on a trained policy {allowed}")
    return dataclasses.replace(algorithm, **values)  # pyright: ignore[reportArgumentType, reportCallIssue]


def make_algorithm(name: str, hyperparameters: Mapping[str, Any]) -> Any:
    """The registered algorithm called `name`, with these hyper-parameters as text or TOML/JSON values.

    Raises InputError for an unknown algorithm, and as `parse_fields`.
    """
    if name not in ALGORITHMS:
        raise errors.unknown("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name](**parse_fields(name, hyperparameters))


def numeric_fields(algorithm: Any) -> list[str]:
    """Names of the hyper-parameters that are leaves: those that can be swept over lanes."""
    return [field.name for field in dataclasses.fields(algorithm) if not field.metadata.get("static", False)]


def parse_fields(algorithm_name: str, assignments: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters from text or TOML/JSON values, checked against the algorithm's fields.

    Raises InputError for an unknown name (nearest ones offered) or a value of the wrong kind.
    """
    cls = ALGORITHMS[algorithm_name]
    hints = typing.get_type_hints(cls)  # of class attributes, too
    kinds = {name: hints[name] for name in hyperparameters_of(cls)} | dict.fromkeys(numeric_fields(cls), float)
    return parse_values(f"hyper-parameter of {algorithm_name}", kinds, assignments)


def parse_values(what: str, kinds: Mapping[str, Any], assignments: Mapping[str, Any]) -> dict[str, Any]:
    """`assignments` as the types `kinds` (name -> annotation); raises InputError like `parse_fields`."""
    parsed = {}
    for name, value in assignments.items():
        if name not in kinds:
            raise errors.unknown(what, name, kinds)
        try:
            parsed[name] = _parse(kinds[name], value)
        except (TypeError, ValueError, KeyError, OverflowError):
            raise InputError(f"{name}={value!r}: expected {_describe(kinds[name])}") from None
    return parsed


def hyperparameters_of(algorithm: Any) -> dict[str, Any]:
    """Every hyper-parameter by name, as JSON-able values."""
    return {field.name: getattr(algorithm, field.name) for field in dataclasses.fields(algorithm)}


def _parse(kind: Any, value: Any) -> Any:
    """`value` as `kind`, where text stands for the value it spells."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(value)
        return value
    if origin in (types.UnionType, typing.Union):  # int | None
        if value in (None, "none", "None"):
            return None
        return _parse(next(a for a in arguments if a is not types.NoneType), value)
    if origin is tuple:
        parts = value.strip("()[]").split(",") if isinstance(value, str) else value
        parsed = tuple(_parse(arguments[0], part) for part in parts if part != "")
        if not parsed:
            raise ValueError(value)
        return parsed
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        return value if isinstance(value, bool) else words[str(value).lower()]
    if isinstance(value, bool):  # True is no 1
        raise ValueError(value)
    number = float(value)
    if kind is int:
        if number != int(number):
            raise ValueError(value)
        return int(number)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _describe(kind: Any) -> str:
    """What a user may write for `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(a) if a is not types.NoneType else "none" for a in arguments)
    if origin is tuple:
        return "whole numbers separated by commas"
    return {bool: "true or false", int: "a whole number", float: "a finite number"}.get(kind, str(kind))
