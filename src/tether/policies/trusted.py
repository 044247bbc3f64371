"""What a policy's folder knows of the data's decisions, as `LoadedPolicy` asks it: is this decision like them?"""

from typing import Any, NamedTuple

import numpy as np

from tether.data.schema import Schema, column_names
from tether.errors import InputError
from tether.trust import Support, reasons, score, trust_of

__all__ = ["FLAGGED", "Decision", "Judge", "Trust"]

CONSTANT = 1e-6
FLAGGED = 0.01  # share of the data's own decisions that are flagged, unless another one is asked for


class Trust(NamedTuple):
    """How like the data's own decisions a decision is. Of a batch, each entry has one item for each decision."""

    trust: Any
    """Share of the data's decisions that are as unlike the others, in (0, 1]: small where it is foreign."""
    flagged: Any
    """Whether `trust` is at most the share that was asked for (0.01), a bool."""
    reasons: list[Any]
    """Of a flagged one, by column: `T_reactor_C 95: seen 15.2 to 27.1`; nothing of the others."""


class Decision(NamedTuple):
    """An action and how far it may be trusted; see `Trust`."""

    action: np.ndarray
    """(action,), or (batch, action), in the robot's units."""
    trust: Any
    flagged: Any
    reasons: list[Any]
    memory: Any = ()
    """To give next time; of a policy that looks back."""


class Judge:
    """Judges decisions in the robot's units by `support`."""

    def __init__(self, support: Support, scale: np.ndarray, offset: np.ndarray, schema: Schema | None):
        """scale, offset: (action,) from [-1, 1] to the robot's actions. schema: names of the columns."""
        self.support, self._offset = support, offset
        never = CONSTANT * np.maximum(np.abs(offset), 1.0)  # in an action that never changed, more is foreign
        self._scale = np.where(scale > 0, scale, never).astype(np.float32)
        observation, action = (None, None) if schema is None else (schema.observation, schema.action)
        sizes = len(support.observation_mean), len(self._scale)
        self._names = column_names(observation, "observation", sizes[0]), column_names(action, "action", sizes[1])

    def __call__(self, observation: np.ndarray, action: np.ndarray, share: float) -> Trust:
        """Of one decision, or of a batch. Raises InputError for actions of another shape and shares outside (0, 1)."""
        if not 0 < share < 1:
            raise InputError(f"share {share}: of the data's own decisions that are flagged, between 0 and 1")
        if action.shape != (*observation.shape[:-1], len(self._scale)) or not np.isfinite(action).all():
            raise InputError(
                f"action of shape {action.shape}: {len(self._scale)} finite numbers for each of the observations "
                f"{observation.shape}"
            )
        states, actions = np.atleast_2d(observation), np.atleast_2d(self._to_unit(action))
        scores = score(self.support, states, actions)
        trust = trust_of(self.support, scores.total)
        lines = reasons(self.support, states, actions, scores, share, self._names, self._in_units)
        if observation.ndim == 1:
            return Trust(float(trust[0]), bool(trust[0] <= share), lines[0])
        return Trust(trust, trust <= share, lines)

    def _to_unit(self, action: np.ndarray) -> np.ndarray:
        """Actions of the robot -> [-1, 1] where the data's lie."""
        return (action - self._offset) / self._scale

    def _in_units(self, action: np.ndarray) -> np.ndarray:
        return action * self._scale + self._offset
