"""The Adroit hand as D4RL evaluates it, on Gymnasium-Robotics' AdroitHand environments (arXiv 2004.07219).

- Pen ends when the pen is dropped, below 0.075 m, with the penalty of 5 that the new environment still pays; there it
  never ends. Time limits are D4RL's 100 steps (pen) and 200 (door, hammer, relocate).
- Door, hammer and relocate: -v1 pays +0.1 |palm - object| for reaching, where D4RL and -v2 pay -0.1. All releases from
  1.2.1 to 1.4.2 have -v1 with the wrong sign; it is put right here, from the distance in the observation.
"""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from tether.environments.robotics import make_robotics
from tether.errors import unknown

__all__ = ["Adroit", "make_adroit"]

PEN_HEIGHT = 26  # where in pen's observation
DROPPED = 0.075  # metres

PALM_TO_OBJECT: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "door": lambda observation: observation[35:38],  # palm - handle
    "hammer": lambda observation: observation[33:36] - observation[36:39],  # palm, hammer
    "relocate": lambda observation: observation[30:33],  # palm - ball
}
HANDS = ("pen", *PALM_TO_OBJECT)


class Adroit(gymnasium.Wrapper):
    """Observations and actions are those of the wrapped environment, which are D4RL's."""

    def __init__(self, hand: str) -> None:
        """hand: pen, door, hammer or relocate."""
        if hand not in HANDS:
            raise unknown("Adroit task", hand, HANDS)
        stem = f"AdroitHand{hand.capitalize()}"
        name, environment = make_robotics(f"{stem}-v2", f"{stem}-v1")
        super().__init__(environment)
        self.hand = hand
        self.wrong_sign = hand != "pen" and name.endswith("-v1")

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step, paid and ended as in D4RL."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.wrong_sign:
            reward = float(reward) - 0.2 * float(np.linalg.norm(PALM_TO_OBJECT[self.hand](observation)))
        if self.hand == "pen":
            terminated = terminated or bool(observation[PEN_HEIGHT] < DROPPED)
        return observation, float(reward), terminated, truncated, info


def make_adroit(hand: str) -> Adroit:
    """`Adroit`, for gymnasium."""
    return Adroit(hand)
