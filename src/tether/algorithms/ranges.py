"""Hyper-parameters with the range that is allowed, stated beside the default: `discount: Fraction = 0.99  # gamma`.

An algorithm checks them by `check_ranges(self)` in `__check_init__`; its page in the docs shows them. A plain
`Hyperparameter` is any finite number; options (`Literal`, `bool`) are checked likewise.
"""

from typing import Annotated

from tether.algorithms.interface import Hyperparameter
from tether.ranges import COUNTED, above, at_least, between, check_ranges

__all__ = [
    "Count",
    "Depth",
    "EmbeddingSize",
    "Fraction",
    "FractionBelowOne",
    "Interval",
    "NonNegative",
    "Positive",
    "Sizes",
    "StaticFraction",
    "StaticFractionBelowOne",
    "Updates",
    "check_ranges",
]

Fraction = Annotated[Hyperparameter, between(0, 1)]
FractionBelowOne = Annotated[Hyperparameter, between(0, 1, without_high=True)]
"""Of what divides by what is left of it, such as dropout."""
Positive = Annotated[Hyperparameter, above(0)]
NonNegative = Annotated[Hyperparameter, at_least(0)]
StaticFraction = Annotated[float, between(0, 1)]
"""Of a number that is no leaf, because it decides the program or a column of the data."""
StaticFractionBelowOne = Annotated[float, between(0, 1, without_high=True)]
Updates = Annotated[int, between(0, COUNTED)]
"""Of a phase, or of a part of one."""
Interval = Annotated[int, between(1, COUNTED)]
"""In updates."""
Count = Annotated[int, between(1, 100_000)]
"""Of networks, samples, steps of diffusion, candidates."""
Depth = Annotated[int, between(1, 100)]
"""Of what a program unrolls: blocks of a network, steps of an optimiser in an update."""
EmbeddingSize = Annotated[int, between(2, 100_000, even=True)]
"""Of a time in sines and cosines, one of each for a frequency."""
Sizes = Annotated[tuple[int, ...], between(1, 100_000, length=100)]
"""Widths of hidden layers."""
