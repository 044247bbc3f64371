"""Observations and actions that are dictionaries or tuples of arrays, as matrices whose columns keep their names."""

from collections.abc import Iterable, Mapping
from typing import Any

import h5py
import numpy as np

from tether.data.hdf5 import values_of
from tether.data.logs.tables import natural
from tether.data.schema import ActionBox, Layout, Schema, layout_of
from tether.errors import InputError

__all__ = ["flat", "joined", "schema_of", "widths"]


def flat(value: Any, where: str) -> dict[str, np.ndarray]:
    """An array, or a tree of them (dictionaries, HDF5 groups, tuples), as matrices by name: `arm/joints`.

    A plain array has the name "". Names are in natural order. Raises InputError, naming `where`, for texts and images.
    """
    if isinstance(value, tuple):
        value = {f"_index_{index}": item for index, item in enumerate(value)}  # Minari's names in its files
    if isinstance(value, Mapping | h5py.Group):
        entries = {}
        for key in sorted(map(str, value), key=natural):
            for name, array in flat(value[key], f"{where}/{key}").items():
                entries[f"{key}/{name}" if name else key] = array if array.ndim == 2 else array[:, None]
        return entries
    array = np.asarray(values_of(value) if isinstance(value, h5py.Dataset) else value)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise InputError(f"{where} holds {array.dtype}, not arrays of numbers (texts and images cannot be read)")
    if array.ndim > 2 and array.dtype == np.uint8:
        raise InputError(f"{where} holds images of shape {array.shape[1:]}; this version reads vectors")
    return {"": array.reshape(len(array), -1) if array.ndim > 1 else array}


def widths(entries: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Name -> numbers in each row."""
    return {name: array.shape[1] if array.ndim == 2 else 1 for name, array in entries.items()}


def joined(parts: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
    """The entries of each part side by side, the parts one below the other."""
    rows = [next(iter(p.values())) if len(p) == 1 else np.concatenate(list(p.values()), axis=1) for p in parts]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def schema_of(sizes: Mapping[str, Mapping[str, int]], box: ActionBox | None) -> Schema:
    """Of the `widths` of "observations" and "actions"; a column without a name is called as what it is."""

    def layout(name: str) -> Layout:
        return layout_of({key or name: size for key, size in sizes[f"{name}s"].items()})

    count = sum(sizes["actions"].values())
    return Schema(layout("observation"), layout("action"), box or ActionBox((-1.0,) * count, (1.0,) * count))
