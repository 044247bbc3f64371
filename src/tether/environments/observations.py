"""Observations as vectors: dictionaries and matrices flattened in the order in which data sets have them."""

from typing import Any

import gymnasium
import numpy as np

from tether.data.logs.tables import natural
from tether.data.schema import Layout, join, layout_of, size_of
from tether.errors import InputError

__all__ = ["FlatObservations", "flat_observations", "observation_layout", "space_size"]


class FlatObservations(gymnasium.ObservationWrapper):
    """Vectors in place of dictionaries, in the order of `layout`; matrices by rows."""

    def __init__(self, environment: gymnasium.Env, layout: Layout) -> None:
        super().__init__(environment)
        self.layout = layout
        self.is_dictionary = isinstance(environment.observation_space, gymnasium.spaces.Dict)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size_of(layout),), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        """float32."""
        return join(self.layout, observation) if self.is_dictionary else np.ravel(observation).astype(np.float32)


def flat_observations(environment: gymnasium.Env) -> gymnasium.Env:
    """`environment`, wrapped if its observations are no vectors already.

    Raises InputError for pictures and for what is no number.
    """
    space, layout = environment.observation_space, observation_layout(environment.observation_space)
    is_vector = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1
    return environment if is_vector else FlatObservations(environment, layout)


def observation_layout(space: gymnasium.Space) -> Layout:
    """Entry -> its slice; entries of a dictionary in natural order, as the reader of Minari has them."""
    return layout_of(_sizes(space, ""))


def _sizes(space: gymnasium.Space, name: str) -> dict[str, int]:
    if isinstance(space, gymnasium.spaces.Dict):
        names = sorted(space.spaces, key=natural)
        parts = [_sizes(space.spaces[key], f"{name}/{key}" if name else key) for key in names]
        return {key: size for part in parts for key, size in part.items()}
    return {name or "observation": space_size(space, name)}


def space_size(space: gymnasium.Space, name: str = "") -> int:
    """How many numbers an element of `space` has. Raises InputError for pictures and what is no Box."""
    if not isinstance(space, gymnasium.spaces.Box) or (len(space.shape) > 2 and space.dtype == np.uint8):
        raise InputError(f"observations {name or 'of this environment'} are {space}; vectors of numbers are needed")
    return int(np.prod(space.shape, dtype=np.int64))
