"""D4RL's data sets by name: which file each one is (arXiv 2004.07219).

Paths are those of the original host, below `DEFAULT_MIRRORS`. Where its documentation gives no file name (gym and
Adroit v0, kitchen, maze2d) it is the one that the D4RL package's own table lists.
"""

from collections.abc import Iterator, Mapping

from tether.errors import unknown

__all__ = ["D4RL_FILES", "DEFAULT_MIRRORS", "d4rl_file", "d4rl_name"]

DEFAULT_MIRRORS = ("http://rail.eecs.berkeley.edu/datasets/offline_rl",)

GYM_KINDS = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
ANTMAZE_FILES = {
    "umaze": "u-maze_noisy_multistart_False_multigoal_False",
    "umaze-diverse": "u-maze_noisy_multistart_True_multigoal_True",
    "medium-play": "big-maze_noisy_multistart_True_multigoal_False",
    "medium-diverse": "big-maze_noisy_multistart_True_multigoal_True",
    "large-play": "hardest-maze_noisy_multistart_True_multigoal_False",
    "large-diverse": "hardest-maze_noisy_multistart_True_multigoal_True",
}
ADROIT_V0_FILES = {
    "human": "{}-v0_demos_clipped",
    "cloned": "{}-demos-v0-bc-combined",
    "expert": "{}-v0_expert_clipped",
}
KITCHEN_FILES = {
    "complete": "mini_kitchen_microwave_kettle_light_slider",
    "partial": "kitchen_microwave_kettle_light_slider",
    "mixed": "kitchen_microwave_kettle_bottomburner_light",
}


def _gym() -> Iterator[tuple[str, str]]:
    for environment in ("hopper", "halfcheetah", "walker2d", "ant"):
        for kind in GYM_KINDS:
            for version in ("v2", "v1"):
                file = f"{environment}_{kind.replace('-', '_')}-{version}"
                yield f"{environment}-{kind}-{version}", f"gym_mujoco_{version}/{file}.hdf5"
            if kind != "full-replay":
                stem = "walker" if (environment, kind) == ("walker2d", "medium-replay") else environment
                kind_v0 = "mixed" if kind == "medium-replay" else kind.replace("-", "_")
                yield f"{environment}-{kind}-v0", f"gym_mujoco/{stem}_{kind_v0}.hdf5"


def _antmaze() -> Iterator[tuple[str, str]]:
    for kind, file in ANTMAZE_FILES.items():
        yield f"antmaze-{kind}-v2", f"ant_maze_v2/Ant_maze_{file}_sparse_fixed.hdf5"
        yield f"antmaze-{kind}-v0", f"ant_maze_new/Ant_maze_{file}_sparse.hdf5"


def _adroit() -> Iterator[tuple[str, str]]:
    for hand in ("pen", "door", "hammer", "relocate"):
        for kind, file in ADROIT_V0_FILES.items():
            yield f"{hand}-{kind}-v1", f"hand_dapg_v1/{hand}-{kind}-v1.hdf5"
            yield f"{hand}-{kind}-v0", f"hand_dapg/{file.format(hand)}.hdf5"


def _kitchen() -> Iterator[tuple[str, str]]:
    for kind, file in KITCHEN_FILES.items():
        yield f"kitchen-{kind}-v0", f"kitchen/{file}-v0.hdf5"


def _maze2d() -> Iterator[tuple[str, str]]:
    yield "maze2d-open-v0", "maze2d/maze2d-open-sparse.hdf5"
    yield "maze2d-open-dense-v0", "maze2d/maze2d-open-dense.hdf5"
    for maze in ("umaze", "medium", "large"):
        yield f"maze2d-{maze}-v1", f"maze2d/maze2d-{maze}-sparse-v1.hdf5"
        yield f"maze2d-{maze}-dense-v1", f"maze2d/maze2d-{maze}-dense-v1.hdf5"
        yield f"maze2d-eval-{maze}-v1", f"maze2d/maze2d-eval-{maze}-sparse-v1.hdf5"
        yield f"maze2d-{maze}-v0", f"maze2d/maze2d-{maze}-sparse.hdf5"


D4RL_FILES: Mapping[str, str] = dict([*_gym(), *_antmaze(), *_adroit(), *_kitchen(), *_maze2d()])
"""Data set -> its file's path on the host."""


def d4rl_name(name: str) -> str:
    """The name as D4RL spells it: `Hopper_medium-v2` is `hopper-medium-v2`. Raises InputError for unknown names."""
    spelled = name.lower().replace("_", "-")
    if spelled not in D4RL_FILES:
        raise unknown("D4RL data set", name, D4RL_FILES)
    return spelled


def d4rl_file(name: str) -> str:
    """The path of a data set's file below a mirror's address. Raises InputError for unknown names."""
    return D4RL_FILES[d4rl_name(name)]
