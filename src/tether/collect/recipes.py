"""OGBench's data sets that scripted oracles make, as published: which environment, how many episodes, how much noise.

Source: the paper (arXiv 2410.20092, appendix on data sets) and the generation commands of its authors' repository.
Sets that a trained policy made (antmaze, humanoidmaze, antsoccer), pictures and powderworld are not among them.
"""

import re
from typing import NamedTuple

from tether.environments.names import without_single_task
from tether.errors import InputError, unknown

__all__ = ["PREFIX", "RECIPES", "Recipe", "find_recipe_of", "is_recipe"]

PREFIX = "ogbench:"


class Recipe(NamedTuple):
    """How one data set is made."""

    environment: str  # the gymnasium id of its goal-conditioned form
    kind: str  # play: along a plan; noisy: closed loop with noise; navigate, stitch: through a maze
    episodes: int  # for training; a tenth as many again are for validation
    steps: int  # of an episode: observations in the file, one more than transitions
    random_actions: float = 0.0  # the probability of a uniform action in place of the oracle's
    noise: float = 0.1  # play: of the plan; noisy: the most of an episode's; mazes: of each action
    noise_smoothing: float = 0.5  # play: in steps of control
    least_move: float = 0.4  # noisy: the oracle's shortest way to aim for

    @property
    def validation_episodes(self) -> int:
        """A tenth of those for training, as published."""
        return self.episodes // 10


def _recipes() -> dict[str, Recipe]:
    found = {}
    for world, episodes, random_actions in (
        ("cube-single", 1000, 0.1),
        ("cube-double", 1000, 0.1),
        ("cube-triple", 3000, 0.1),
        ("cube-quadruple", 5000, 0.1),
        ("scene", 1000, 0.1),
        ("puzzle-3x3", 1000, 0.2),
        ("puzzle-4x4", 1000, 0.2),
        ("puzzle-4x5", 3000, 0.2),
        ("puzzle-4x6", 5000, 0.2),
    ):
        found[f"{world}-play-v0"] = Recipe(f"{world}-v0", "play", episodes, 1001)
        found[f"{world}-noisy-v0"] = Recipe(f"{world}-v0", "noisy", episodes, 1001, random_actions)
    for maze, episodes, steps in (
        ("medium", 1000, 1001),
        ("large", 1000, 1001),
        ("giant", 500, 2001),
        ("teleport", 1000, 1001),
    ):
        world = f"pointmaze-{maze}"
        found[f"{world}-navigate-v0"] = Recipe(f"{world}-v0", "navigate", episodes, steps, noise=0.5)
        found[f"{world}-stitch-v0"] = Recipe(f"{world}-v0", "stitch", 5000, 201, noise=0.5)
    return found


RECIPES: dict[str, Recipe] = _recipes()
"""Name of the data set -> how it is made."""


def is_recipe(environment: str) -> bool:
    """Whether `environment` asks for a data set of OGBench's and not for one of its environments."""
    return environment.startswith(PREFIX) and bool(re.search(r"-(play|noisy|navigate|stitch|explore)-", environment))


def find_recipe_of(name: str) -> Recipe:
    """The recipe of `scene-play-v0`, or of `scene-play-singletask-task2-v0`, which is the same data.

    Raises InputError where no scripted oracle makes that set.
    """
    name = without_single_task(name)
    if name in RECIPES:
        return RECIPES[name]
    if name.startswith(("ant", "humanoid", "visual", "powderworld")):
        raise InputError(
            f"{PREFIX}{name}: tether regenerates the sets of scripted oracles with vectors to see (cube, scene, "
            "puzzle, pointmaze); this one was made by a trained policy or shows pictures"
        )
    raise unknown("data set of OGBench", name, RECIPES)
