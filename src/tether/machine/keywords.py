"""A misspelt keyword argument of a class or function is answered with the names that are near."""

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from tether.errors import ArgumentError, unknown

__all__ = ["explain_function", "explain_keywords"]

T = TypeVar("T", bound=type)
P = ParamSpec("P")
R = TypeVar("R")
_explained: weakref.WeakSet[type] = weakref.WeakSet()


def explain_keywords(cls: T, what: str = "argument") -> T:
    """The same class, whose construction with an unknown keyword raises `ArgumentError` with the names that are near.

    Python itself says only that the keyword is unexpected. what: that the keywords are called. A class that takes any
    keyword is left as it is.
    """
    init, names = cls.__init__, _keywords(cls)
    if names is None or cls in _explained:  # a notebook's cell may register it twice
        return cls

    @functools.wraps(init)
    def __init__(self: Any, *arguments: Any, **keywords: Any) -> None:
        if wrong := [name for name in keywords if name not in names]:
            raise unknown(f"{what} of {cls.__name__}", wrong[0], names, ArgumentError)
        init(self, *arguments, **keywords)

    _explained.add(cls)
    cls.__init__ = __init__
    return cls


def explain_function(function: Callable[P, R]) -> Callable[P, R]:
    """The same of a function: an unknown keyword is answered with the names that are near."""
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        if wrong := [name for name in keywords if name not in names]:
            raise unknown(f"argument of {function.__name__}", wrong[0], names, ArgumentError)
        return function(*arguments, **keywords)

    return call


def _keywords(cls: type) -> list[str] | None:
    """What may be given by name; None where anything may."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY]
