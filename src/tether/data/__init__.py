"""Data sets: the container, one reader per kind of source, transforms."""

from tether.data.dataset import Dataset, EpisodeBounds
from tether.data.filters import filter_episodes
from tether.data.framing import ONE_STEP, Framing
from tether.data.readers.d4rl import read_d4rl_hdf5
from tether.data.readers.download import Downloads
from tether.data.readers.minari import read_minari_hdf5
from tether.data.source import Source
from tether.data.sources import bundled_names, load_dataset
from tether.data.transforms import OBSERVATION_TRANSFORMS, REWARD_TRANSFORMS, Normaliser, Prepared, prepare
from tether.data.views import VIEWS, Trajectories, View, view_of

__all__ = [
    "OBSERVATION_TRANSFORMS",
    "ONE_STEP",
    "REWARD_TRANSFORMS",
    "VIEWS",
    "Dataset",
    "Downloads",
    "EpisodeBounds",
    "Framing",
    "Normaliser",
    "Prepared",
    "Source",
    "Trajectories",
    "View",
    "bundled_names",
    "filter_episodes",
    "load_dataset",
    "prepare",
    "read_d4rl_hdf5",
    "read_minari_hdf5",
    "view_of",
]
