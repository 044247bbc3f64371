"""Names that have moved on: the old one works for a while and says what to write in its place (CONTRIBUTING.md)."""

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tether.errors import ArgumentError

__all__ = ["renamed_keywords", "warn_deprecated"]

P = ParamSpec("P")
R = TypeVar("R")


def warn_deprecated(old: str, new: str, removed_in: str, *, stacklevel: int = 2) -> None:
    """A DeprecationWarning that names both, where the function that calls this was called.

    removed_in: the version that no longer has the old name.
    """
    text = f"{old} is deprecated and will be removed in tether {removed_in}: use {new}"
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel + 1)


def renamed_keywords(removed_in: str, **renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For a function whose keyword arguments have other names now: `renamed` has old=\"new\"."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__name__

        @functools.wraps(function)
        def call(*arguments: P.args, **keywords: P.kwargs) -> R:
            for old, new in renamed.items():
                if old in keywords:
                    warn_deprecated(f"{name}({old}=)", f"{name}({new}=)", removed_in)
                    if new in keywords:
                        raise ArgumentError(f"{name}: {old} is the old name of {new}; give {new} alone")
                    keywords[new] = keywords.pop(old)
            return function(*arguments, **keywords)

        return call

    return decorate
