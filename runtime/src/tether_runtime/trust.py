"""Whether a decision is like those of the data, by what the export carries for it (`tether_runtime.support`)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether_runtime.errors import InputError
from tether_runtime.support import Support, reasons, score, trust_of

__all__ = ["FLAGGED", "Decision", "Judge", "Trust", "read_support"]

Array = np.ndarray
CONSTANT = 1e-6
FLAGGED = 0.01  # share of the data's own decisions that are flagged, unless another one is asked for
LAYERS = ("weights", "biases")


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

    action: Array
    """(action,), or (batch, action), in the robot's units."""
    trust: Any
    flagged: Any
    reasons: list[Any]
    memory: Sequence[Array] = ()
    """To give next time; of a policy that looks back."""


class Judge:
    """Judges decisions in the robot's units by `support`."""

    def __init__(self, support: Support, scale: Array, offset: Array, names: tuple[Sequence[str], Sequence[str]]):
        """scale, offset: (action,) from [-1, 1] to the robot's actions. names: of observations and actions."""
        self.support, self._offset, self._names = support, offset, names
        never = CONSTANT * np.maximum(np.abs(offset), 1.0)  # in an action that never changed, more is foreign
        self._scale = np.where(scale > 0, scale, never).astype(np.float32)

    def __call__(self, observation: Array, action: Array, share: float) -> Trust:
        """Of one decision, or of a batch. Raises InputError for actions of another shape and shares outside (0, 1)."""
        if not 0 < share < 1:
            raise InputError(f"share {share}: of the data's own decisions that are flagged, between 0 and 1")
        if action.shape != (*observation.shape[:-1], len(self._scale)) or not np.isfinite(action).all():
            raise InputError(
                f"action of shape {action.shape}: {len(self._scale)} finite numbers for each of the observations "
                f"{observation.shape}"
            )
        states, actions = np.atleast_2d(observation), np.atleast_2d((action - self._offset) / self._scale)
        scores = score(self.support, states, actions)
        trust = trust_of(self.support, scores.total)
        lines = reasons(self.support, states, actions, scores, share, self._names, self._in_units)
        if observation.ndim == 1:
            return Trust(float(trust[0]), bool(trust[0] <= share), lines[0])
        return Trust(trust, trust <= share, lines)

    def _in_units(self, action: Array) -> Array:
        return action * self._scale + self._offset


def read_support(content: bytes, path: Path) -> Support:
    """What `tether export` wrote. path: where it is from, for messages. Raises InputError where entries are missing."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        found: dict[str, Any] = {name: arrays[name] for name in arrays.files}
    for layers in LAYERS:
        count = sum(name.startswith(f"{layers}_") for name in found)
        found[layers] = tuple(found.pop(f"{layers}_{layer}") for layer in range(count))
    if not set(Support._fields) - set(Support._field_defaults) <= set(found) <= set(Support._fields):
        raise InputError(f"{path}: altered: other entries than an export's")
    return Support(**found)
