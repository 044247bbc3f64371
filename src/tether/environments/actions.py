"""Actions in [-1, 1] for every environment: data sets are recorded so, and policies act so."""

import gymnasium
import numpy as np

from tether.errors import InputError

__all__ = ["UnitActions", "unit_actions"]


class UnitActions(gymnasium.ActionWrapper):
    """Maps [-1, 1] to the simulator's box, after clipping: -1 is its lower end, 1 its upper."""

    def __init__(self, environment: gymnasium.Env) -> None:
        super().__init__(environment)
        box = environment.action_space
        if not isinstance(box, gymnasium.spaces.Box) or not box.is_bounded():
            raise InputError(f"{environment}: its actions are {box}; a bounded box is needed")
        self.middle, self.half = (box.high + box.low) / 2, (box.high - box.low) / 2
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, box.shape, np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        """The simulator's action."""
        return self.middle + self.half * np.clip(action, -1.0, 1.0)


def unit_actions(environment: gymnasium.Env) -> gymnasium.Env:
    """`environment`, wrapped if its box is another than [-1, 1] (simulators clip to theirs themselves)."""
    box = environment.action_space
    if isinstance(box, gymnasium.spaces.Box) and (box.low == -1.0).all() and (box.high == 1.0).all():
        return environment
    return UnitActions(environment)
