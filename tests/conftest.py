"""Strict arrays, under pytest only: broadcasting over ranks and mixing dtypes are errors, as they hide bugs."""

import os
from collections.abc import Callable

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
os.environ["TETHER_COMPILATION_CACHE"] = "off"  # tests leave the user's cache alone; their processes inherit it


@pytest.fixture
def getkey() -> Callable[[], jax.Array]:
    """Calls give independent keys, the same ones in every run of the test."""
    keys = iter(jax.random.split(jax.random.key(2405_19690), 1000))
    return lambda: next(keys)
