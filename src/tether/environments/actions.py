"""What actions an environment takes.

A policy answers in the environment's own units: `DeployedPolicy` is the one place where numbers in [-1, 1] become an
action. Here is only what an environment says of its actions, so that policies can keep within it.
"""

from typing import Any

import numpy as np

from tether.data.schema import ActionBox
from tether.errors import InputError

__all__ = ["action_limits", "bounded_limits"]


def action_limits(environment: Any) -> ActionBox:
    """The lowest and highest action of each kind; infinite where the environment sets no bound.

    Raises InputError for actions that are no vector of numbers.
    """
    import gymnasium  # training needs no simulator, not even an installed one

    box = environment.action_space
    if not isinstance(box, gymnasium.spaces.Box) or len(box.shape) != 1 or not np.issubdtype(box.dtype, np.floating):
        name = _name(environment)
        raise InputError(f"{name}: its actions are {box}; a vector of continuous numbers (a Box) is needed")
    return ActionBox(tuple(box.low.astype(float).tolist()), tuple(box.high.astype(float).tolist()))


def bounded_limits(environment: Any) -> ActionBox:
    """The same of an environment that is explored in by numbers in [-1, 1]. Raises InputError without bounds, too."""
    limits = action_limits(environment)
    if not np.isfinite([limits.low, limits.high]).all():
        raise InputError(f"{_name(environment)}: its actions are {environment.action_space}; a bounded box is needed")
    return limits


def _name(environment: Any) -> str:
    """Its id, where it has one: in words it is all its wrappers."""
    spec = getattr(environment, "spec", None)
    return str(environment) if spec is None else str(spec.id)
