"""Cuts whole episodes from a D4RL-layout HDF5 file into a small one to ship, and records its provenance.

    .venv/bin/python benchmarks/cut_bundled_dataset.py ../shared/data/halfcheetah-medium.hdf5 \
        src/tether/data/bundled/halfcheetah-medium-small.hdf5 --first-episode 0 --last-episode 19

Writes the file and, beside it, NAME.json. The same command on the same file writes the same bytes.
"""

import argparse
import json
from pathlib import Path

import h5py
import numpy as np

from tether.data import Dataset, read_d4rl_hdf5
from tether.machine.files import sha256_file

CHUNK_ROWS = 8192
PUBLIC = "The public agents are MIT-licensed."
OWN = "Made for tether; distributed under the package's own licence (Apache-2.0)."
HOW_MADE = {  # from shared/data/README.md: how the rollouts were made, licence note
    "hopper-medium": ("Hopper-v4, a half-trained public SAC agent + N(0, 0.1^2) action noise", PUBLIC),
    "hopper-medium-expert": (
        "Hopper-v4, first half as hopper-medium, then a public TRPO expert + N(0, 0.05^2) action noise",
        PUBLIC,
    ),
    "hopper-medium-replay": (
        "Hopper-v5, the whole replay buffer of a SAC run stopped at 200k steps, in order",
        OWN,
    ),
    "halfcheetah-medium": (
        "HalfCheetah-v5, SAC stopped at 100k steps, its own stochastic actions",
        OWN,
    ),
    "halfcheetah-medium-replay": (
        "HalfCheetah-v5, the replay buffer of the SAC run of halfcheetah-medium, in order",
        OWN,
    ),
    "door-human-v0": ("an original D4RL file: human demonstrations, Adroit door", "CC BY 4.0"),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="D4RL-layout HDF5 file")
    parser.add_argument("output", type=Path, help="file to write, NAME.hdf5; NAME.json goes beside it")
    parser.add_argument("--first-episode", type=int, required=True, help="index of the first episode, from 0")
    parser.add_argument("--last-episode", type=int, required=True, help="index of the last episode, included")
    parser.add_argument("--how-made", help="where the rollouts come from; known for the files of shared/data")
    parser.add_argument("--licence", help="licence note; known for the files of shared/data")
    arguments = parser.parse_args()
    how_made, licence = HOW_MADE.get(arguments.source.stem, (None, None))
    arguments.how_made = arguments.how_made or how_made
    arguments.licence = arguments.licence or licence
    if not (arguments.how_made and arguments.licence):
        parser.error(f"nothing is known about {arguments.source.name}: give --how-made and --licence")
    return arguments


def rows_of_episodes(dataset: Dataset, first: int, last: int) -> slice:
    """The rows of the complete episodes first..last, both included."""
    starts, ends, last_is_partial = dataset.episode_bounds()
    complete = len(starts) - last_is_partial
    if not 0 <= first <= last < complete:
        raise SystemExit(f"episodes {first}..{last} do not lie in 0..{complete - 1}, the complete ones")
    return slice(int(starts[first]), int(ends[last]))


def write_hdf5(path: Path, dataset: Dataset, rows: slice) -> None:
    """Writes the rows without `next_observations`: inside an episode they are the next row's observation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
            column: np.ndarray = getattr(dataset, name)[rows]
            # A chunk holds one coordinate over time: successive steps are alike, different joints are not.
            chunks = (min(CHUNK_ROWS, len(column)), *(1 for _ in column.shape[1:]))
            file.create_dataset(name, data=column, chunks=chunks, compression="gzip", compression_opts=9, shuffle=True)
        for name, value in dataset.metadata.items():
            file[f"metadata/{name}"] = value


def main() -> None:
    arguments = parse_arguments()
    dataset = read_d4rl_hdf5(arguments.source)
    rows = rows_of_episodes(dataset, arguments.first_episode, arguments.last_episode)
    write_hdf5(arguments.output, dataset, rows)
    cut = read_d4rl_hdf5(arguments.output)
    returns = cut.episode_returns()
    provenance = {
        "name": cut.name,
        "sha256": cut.source.sha256,
        "source": arguments.source.name,
        "source_sha256": sha256_file(arguments.source),
        "episodes": [arguments.first_episode, arguments.last_episode],
        "rows": len(cut),
        "returns": {"mean": float(returns.mean()), "min": float(returns.min()), "max": float(returns.max())},
        "how_made": arguments.how_made,
        "licence": arguments.licence,
        "note": "Not a D4RL data set: no score on it is a D4RL score. next_observations are left out.",
    }
    beside = arguments.output.with_suffix(".json")
    beside.write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    print(cut)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB, and {beside.name}")


if __name__ == "__main__":
    main()
