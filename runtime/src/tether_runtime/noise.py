"""Random numbers from a seed, by NumPy: the same laws that the policy draws from in JAX, not the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["draw", "generator"]


def generator(seed: int) -> np.random.Generator:
    """The stream that a seed starts; the same for every form of a policy."""
    return np.random.Generator(np.random.Philox(seed))


def draw(stream: np.random.Generator, law: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Independent float32 numbers of a law: normal, gumbel, or uniform in [0, 1)."""
    if law == "normal":
        return stream.standard_normal(shape, np.float32)
    uniform = stream.random(shape, np.float32)
    if law == "uniform":
        return uniform
    return -np.log(-np.log(np.maximum(uniform, np.finfo(np.float32).tiny)))
