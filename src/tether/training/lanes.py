"""Lanes: (seed, hyper-parameters) pairs that one compiled program trains together."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from tether import errors
from tether.algorithms.registry import hyperparameters_of, numeric_fields
from tether.errors import InputError, shortened

__all__ = ["Lane", "check_lanes", "make_lanes", "stack_lanes", "take_lane"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Lane:
    """One run among those trained together."""

    seed: int
    swept: Mapping[str, float]  # swept hyper-parameters only

    @property
    def name(self) -> str:
        """For people: `seed 3, trust_region_weight 0.5`."""
        swept = [f"{name} {value:g}" for name, value in self.swept.items()]
        return ", ".join([f"seed {self.seed}", *swept])


def make_lanes(algorithm: Any, seeds: Sequence[int], sweep: Mapping[str, Sequence[float]]) -> list[Lane]:
    """The product of seeds and swept values, these outermost.

    Raises InputError for a name that is not numeric, an empty or repeated value, or repeated seeds.
    """
    if not seeds:
        raise InputError("seeds: at least one is needed")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds {list(seeds)}: each may stand once, equal seeds are equal runs")
    for name, values in _checked_sweep(sweep).items():
        if name not in numeric_fields(algorithm):
            if name in hyperparameters_of(algorithm):
                raise InputError(
                    f"{name!r} changes the program's structure and cannot be swept in one run; set it with --set"
                )
            raise errors.unknown("hyper-parameter", name, numeric_fields(algorithm))
        if not values or len(set(values)) < len(values) or not all(math.isfinite(v) for v in values):
            raise InputError(f"sweep {name}={','.join(map(str, values))}: needs distinct finite numbers")
    lanes = _product(seeds, _checked_sweep(sweep))
    check_lanes(algorithm, lanes)
    return lanes


def _checked_sweep(sweep: Any) -> Mapping[str, Sequence[float]]:
    """Names and lists of numbers. Raises InputError."""
    if not isinstance(sweep, Mapping):
        raise InputError(f"sweep {shortened(repr(sweep))}: needs a dictionary, such as {{'discount': [0.9, 0.99]}}")
    checked = {}
    for name, values in sweep.items():
        try:
            checked[name] = [float(value + 0.0) for value in values]
        except TypeError:  # texts, too
            given = shortened(repr(values))
            raise InputError(f"sweep {name}={given}: needs distinct finite numbers, such as [0.1, 0.3]") from None
    return checked


def check_lanes(algorithm: Any, lanes: Sequence[Lane]) -> None:
    """Refuse lanes with a hyper-parameter that is not numeric, or a value that the algorithm refuses."""
    names, values = numeric_fields(algorithm), {item for lane in lanes for item in lane.swept.items()}
    for name, value in sorted(values):
        if name not in names:
            raise errors.unknown("swept hyper-parameter", name, names)
        dataclasses.replace(algorithm, **{name: value})  # pyright: ignore[reportArgumentType, reportCallIssue]


def _product(seeds: Sequence[int], sweep: Mapping[str, Sequence[float]]) -> list[Lane]:
    combinations = itertools.product(*sweep.values())
    return [Lane(seed, dict(zip(sweep, map(float, values), strict=True))) for values in combinations for seed in seeds]


def stack_lanes(algorithm: T, lanes: Sequence[Lane]) -> T:
    """The algorithm with every numeric hyper-parameter a float32 array [lanes]."""

    def one(lane: Lane) -> T:
        replaced = dataclasses.replace(algorithm, **lane.swept)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), replaced)

    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(one, lanes))


def take_lane(tree: T, index: Any) -> T:
    """Lane `index` of a tree whose array leaves are [lanes, ...]; for an array of them those lanes."""
    return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, tree)
