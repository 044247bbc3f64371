"""Reader of OGBench's single-task data sets (arXiv 2410.20092) with the `ogbench` package.

A file holds T+1 observation rows for each trajectory and no rewards; the package's regular view makes T transitions
of them and computes rewards and masks for the task's goal from the simulator states, with its own environment, which
is also the one that policies are evaluated in. The data pay for the state before the action, in every version. So does
the environment from version 1.2 on; before that it judged the state after the action, so the version is recorded.
`masks` becomes `terminals` (0 and 1 exchanged), so nothing is bootstrapped from a success; the package's `terminals`,
which mark where a trajectory ends, become `timeouts`. The recording goes on after a success.
"""

import importlib.metadata
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tether.data.dataset import Dataset
from tether.data.logs.tables import open_table
from tether.data.npz import DAMAGE
from tether.data.source import Source
from tether.environments.tasks import Task, single_task
from tether.errors import InputError, unknown
from tether.machine.files import sha256_file
from tether.machine.reading import parse_json

__all__ = ["PROVENANCE", "local_ogbench_files", "locate_ogbench", "ogbench_root", "read_ogbench"]

COLLECTION = "OGBench"
SINGLETASK = "singletask"
PROVENANCE = "provenance"
"""The entry of a file that `tether data collect` made: JSON of how it came about. OGBench's own files have none."""


def ogbench_root() -> Path:
    """Where the package keeps its files."""
    return Path.home() / ".ogbench" / "data"


def local_ogbench_files() -> list[tuple[str, Path]]:
    """(name with its default task, file) of the training sets in `ogbench_root`, sorted."""
    files = sorted(ogbench_root().glob("*-v*.npz"))
    return [(_with_task(path.stem), path) for path in files if not path.stem.endswith("-val")]


def read_ogbench(name: str) -> Dataset:
    """A single-task data set such as `cube-single-play-singletask-v0` (task 2) or `...-singletask-task4-v0`.

    name: looked for in `ogbench_root`; as FOLDER/NAME in that folder.

    Raises:
        InputError: no package `ogbench`; a name that is no single task of OGBench; pixels; no such file, or a damaged
            one.
    """
    source = f"ogbench:{name}"
    try:
        import gymnasium
        import ogbench
    except ImportError as error:
        raise InputError(
            f"{source} needs the package ogbench: pip install 'tether-rl[ogbench]' (Python 3.11, 3.12; {error})"
        ) from None
    environment_id, path = locate_ogbench(name)
    name = name.rpartition("/")[2]
    tasks = sorted(known for known in gymnasium.registry if f"-{SINGLETASK}-" in known)
    if environment_id not in tasks:
        raise unknown("OGBench environment", environment_id, tasks)
    if name.startswith("visual-"):
        raise InputError(f"{source}: observations are images; this version reads vectors")
    if not path.is_file():
        raise InputError(
            f'{source}: {path} is not there; fetch it with: python -c "import ogbench; '
            f"ogbench.download_datasets(['{path.stem}'])\", or say where it is: ogbench:FOLDER/{name}"
        )
    columns = _columns(ogbench, path, environment_id)
    success = np.asarray(columns["masks"]) == 0
    return Dataset(
        name=name,
        observations=columns["observations"],
        actions=columns["actions"],
        rewards=columns["rewards"],
        terminals=success,
        timeouts=columns["terminals"],
        next_observations=columns["next_observations"],
        source=Source(source, sha256_file(path), COLLECTION),
        metadata={"environment": environment_id, "file": path.stem, **_origin(path)},
        recorded_in=_evaluated_in(environment_id, columns),
        exact_next_observations=True,
        terminals_end_episodes=False,
        successes=success,
    )


def locate_ogbench(name: str) -> tuple[str, Path]:
    """(id of the environment, file) of a single task's name, with or without a folder before it; the file need not be
    there. Raises InputError for a name without a single task."""
    folder, _, name = name.rpartition("/")
    environment_id, file_name = _parts(f"ogbench:{folder}/{name}" if folder else f"ogbench:{name}", name)
    return environment_id, (Path(folder).expanduser() if folder else ogbench_root()) / f"{file_name}.npz"


def _origin(path: Path) -> dict[str, str]:
    """Whose file it is, and whose rewards."""
    found = {"ogbench": importlib.metadata.version("ogbench")}
    with np.load(path, allow_pickle=False) as file:
        if PROVENANCE not in file:
            return found
        try:
            made = parse_json(str(file[PROVENANCE]))
            versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("tether", "ogbench", "mujoco"))
            return found | {"origin": f"regenerated with {versions}, seed {made['seed']}: not OGBench's own file"}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: its provenance is altered: {type(error).__name__} {error}") from None


def _parts(source: str, name: str) -> tuple[str, str]:
    """(id of the environment, name of the file) of `{env}-{type}-singletask[-task{n}]-{version}`."""
    words = name.split("-")
    if SINGLETASK not in words[2:]:
        raise InputError(f"{source}: without a single task there are no rewards; name one: ogbench:{_with_task(name)}")
    place = words.index(SINGLETASK)
    return "-".join(words[: place - 1] + words[place:]), "-".join([*words[:place], words[-1]])


def _evaluated_in(environment_id: str, columns: dict[str, np.ndarray]) -> Task:
    """The environment of the single task, under a name with which gymnasium imports the package first."""
    import gymnasium

    sizes = columns["observations"].shape[-1], columns["actions"].shape[-1]
    horizon = gymnasium.spec(environment_id).max_episode_steps
    why = "trajectories head for many goals, go on after a success, and have lengths of their own"
    return single_task(f"ogbench:{environment_id}", sizes, horizon, why)


def _with_task(name: str) -> str:
    stem, _, version = name.rpartition("-")
    return f"{stem}-{SINGLETASK}-{version}"


def _columns(ogbench: Any, path: Path, environment_id: str) -> dict[str, np.ndarray]:
    """The regular view of the file with the rewards and masks of the environment's task."""
    import gymnasium
    from ogbench.relabel_utils import relabel_dataset

    found = open_table(path).columns  # also refuses what is no npz file, and pickles
    missing = [name for name in ("observations", "actions", "terminals", "qpos") if name not in found]
    if missing:
        raise InputError(f"{path}: no {', '.join(map(repr, missing))} in it; it holds {', '.join(found)}")
    try:
        columns = ogbench.load_dataset(str(path), add_info=True)
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as an OGBench file: {type(error).__name__} {reason}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium tells that it rounds the bounds of the actions
        environment = gymnasium.make(environment_id, disable_env_checker=True)
        try:
            relabel_dataset(environment_id, environment, columns)
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(f"{path}: no rewards can be computed from it: {type(error).__name__} {error}") from None
        finally:
            environment.close()
    return columns
