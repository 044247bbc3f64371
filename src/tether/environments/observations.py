"""Observations as vectors: dictionaries and matrices flattened in the order in which data sets have them."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from tether.data.logs.tables import natural
from tether.data.schema import Layout, join, layout_of, size_of, summary
from tether.errors import InputError

__all__ = ["FlatObservations", "flat_observations", "observation_layout", "space_size", "unnamed_order"]


class FlatObservations(gymnasium.ObservationWrapper):
    """Vectors in place of dictionaries, in the order of `layout`; matrices by rows."""

    def __init__(self, environment: gymnasium.Env, layout: Layout) -> None:
        super().__init__(environment)
        self.layout = layout
        self.is_dictionary = isinstance(environment.observation_space, gymnasium.spaces.Dict)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size_of(layout),), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        """float32."""
        if not self.is_dictionary:
            return np.ravel(observation).astype(np.float32)
        return join(self.layout, _by_rows(observation))


def flat_observations(environment: gymnasium.Env, layout: Layout | None = None) -> gymnasium.Env:
    """`environment`, wrapped if its observations are no vectors already.

    layout: the data's names, where they have some. Entries of a dictionary then stand where the data have those names;
    where the names are others, and where there are none, in the space's own order, as gymnasium flattens it.
    Raises InputError for pictures and for what is no number.
    """
    space = environment.observation_space
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        return environment
    own = layout_of(_sizes(space, "", lambda names: names))
    return FlatObservations(environment, layout if layout is not None and _names_fit(layout, space) else own)


def unnamed_order(environment: gymnasium.Env, layout: Layout | None) -> str:
    """One line where the entries of an environment's dictionary were not found by the data's names; else empty."""
    if not isinstance(environment, FlatObservations) or not environment.is_dictionary or environment.layout == layout:
        return ""
    names = "the data name no columns" if layout is None else f"the data name them {summary(layout)}"
    return f"its observations are a dictionary and {names}: taken in the order {summary(environment.layout)}"


def _names_fit(layout: Layout, space: gymnasium.Space) -> bool:
    """Whether the entries of the space, a dictionary, are those of the layout by name and size."""
    if not isinstance(space, gymnasium.spaces.Dict):
        return False
    zeros = {name: np.zeros(size) for name, size in _sizes(space, "", lambda names: names).items()}
    try:
        join(layout, zeros)
    except InputError:
        return False
    return True


def _by_rows(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same dictionary with each array as a vector."""
    return {key: _by_rows(value) if isinstance(value, Mapping) else np.ravel(value) for key, value in values.items()}


def observation_layout(space: gymnasium.Space) -> Layout:
    """Entry -> its slice; entries of a dictionary in natural order, as the reader of Minari has them."""
    return layout_of(_sizes(space, "", lambda names: sorted(names, key=natural)))


def _sizes(space: gymnasium.Space, name: str, order: Callable[[list[str]], list[str]]) -> dict[str, int]:
    if isinstance(space, gymnasium.spaces.Dict):
        names = order(list(space.spaces))
        parts = [_sizes(space.spaces[key], f"{name}/{key}" if name else key, order) for key in names]
        return {key: size for part in parts for key, size in part.items()}
    return {name or "observation": space_size(space, name)}


def space_size(space: gymnasium.Space, name: str = "") -> int:
    """How many numbers an element of `space` has. Raises InputError for pictures and what is no Box."""
    if not isinstance(space, gymnasium.spaces.Box) or (len(space.shape) > 2 and space.dtype == np.uint8):
        raise InputError(f"observations {name or 'of this environment'} are {space}; vectors of numbers are needed")
    return int(np.prod(space.shape, dtype=np.int64))
