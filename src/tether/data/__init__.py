"""Data sets: the container, one reader per kind of source, transforms."""

from tether.data.d4rl import read_d4rl_hdf5
from tether.data.dataset import Dataset, EpisodeBounds, Source
from tether.data.download import Downloads
from tether.data.minari import read_minari_hdf5
from tether.data.sources import bundled_names, load_dataset
from tether.data.transforms import OBSERVATION_TRANSFORMS, REWARD_TRANSFORMS, Normaliser, Prepared, prepare

__all__ = [
    "OBSERVATION_TRANSFORMS",
    "REWARD_TRANSFORMS",
    "Dataset",
    "Downloads",
    "EpisodeBounds",
    "Normaliser",
    "Prepared",
    "Source",
    "bundled_names",
    "load_dataset",
    "prepare",
    "read_d4rl_hdf5",
    "read_minari_hdf5",
]
