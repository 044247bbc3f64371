"""Actions that are choices, coded as whole numbers: no algorithm here decides among choices, so they are refused.

One rule for every reader. A column of actions holds choices where all its entries are whole numbers, none is below 0,
and more than two differ; or two neighbours do, such as 0 and 1, and no other column is continuous or goes to both sides
of 0 (beside such a one it is a switch: a gripper). Indices are counted from 0 or 1, so whole numbers on both sides of 0
are levels: a bang-bang controller's -1 and 1. Whoever knows that the others are levels, too, says `continuous=True`.
"""

from collections.abc import Sequence

import numpy as np

from tether.data.schema import UNIT, ActionBox
from tether.errors import InputError, in_options

__all__ = ["IN_PYTHON", "ON_THE_COMMAND_LINE", "Choices", "levels_box", "refuse_choices"]

ENOUGH = 64
"""Values that are remembered of a column: that they are whole is what counts."""
SHOWN = 8
IN_PYTHON = "continuous=True"
"""How to say that whole numbers are levels."""
ON_THE_COMMAND_LINE = in_options(IN_PYTHON)


class Choices:
    """Which columns of actions, seen piece by piece, hold whole numbers only."""

    def __init__(self) -> None:
        self._values: list[set[float] | None] | None = None  # of each column; None once it has held another number
        self._signed: set[int] = set()  # columns with a number below 0

    def see(self, actions: np.ndarray) -> None:
        """actions: (rows, size); what is not finite is no choice and is left out."""
        if self._values is None:
            self._values = [set() for _ in range(actions.shape[1])]
        for index, known in enumerate(self._values):
            if known is None:
                continue
            column = actions[:, index]
            head = column[:100]  # of a continuous column that is enough, and it is never looked at again
            if (head != np.floor(head)).any() or (column != np.floor(column)).any():
                self._values[index] = None
                continue
            if (column < 0).any():
                self._signed.add(index)
            if len(known) < ENOUGH:
                known.update(np.unique(column).tolist())

    def columns(self) -> dict[int, list[float]]:
        """Columns that are choices -> the values met. An action that never changes is none."""
        return {i: values for i, values in self._whole().items() if self._why_levels(i, values) is None}

    def levels(self) -> dict[int, str]:
        """Columns of whole numbers that are no choices -> why not, in words."""
        reasons = {i: self._why_levels(i, values) for i, values in self._whole().items()}
        return {i: reason for i, reason in reasons.items() if reason is not None}

    def refusal(self, where: str, names: Sequence[str], say: str = IN_PYTHON) -> InputError | None:
        """Why these actions are refused; None if they are not. names: of each column. say: how to allow them."""
        found = self.columns()
        if not found:
            return None
        index, values = next(iter(found.items()))
        shown = ", ".join(f"{value:g}" for value in values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
        more = f" (and so do {len(found) - 1} more)" if len(found) > 1 else ""
        return InputError(
            f"{where}: action {names[index]!r} holds integer choices {shown}{more}; tether trains continuous actions: "
            f"name a continuous column, or, where whole numbers really are levels, say {say}"
        )

    def _why_levels(self, index: int, values: list[float]) -> str | None:
        """Why a column of whole numbers is no choice; None for one that is."""
        if index in self._signed:
            return "whole numbers on both sides of 0"
        if len(values) > 2:
            return None
        if values[1] - values[0] > 1:
            return "two whole values that are no neighbours"
        others = any(known is None for known in self._values or []) or any(i in self._signed for i in self._whole())
        return "two whole values only beside continuous actions" if others else None

    def _whole(self) -> dict[int, list[float]]:
        """Columns of whole numbers that change -> the values met."""
        return {i: sorted(known) for i, known in enumerate(self._values or []) if known is not None and len(known) > 1}


def refuse_choices(where: str, actions: np.ndarray, names: Sequence[str] | None = None) -> None:
    """Raises InputError for actions, (rows,) or (rows, size), of which a column holds choices.

    What is no matrix of finite numbers is left to others to refuse. names: of each column; by default its number.
    """
    matrix = _matrix(actions)
    if matrix is None or (matrix[:1] != np.floor(matrix[:1])).all():  # as nearly all data are
        return
    choices = Choices()
    choices.see(matrix)
    refusal = choices.refusal(where, names or [str(index) for index in range(matrix.shape[1])])
    if refusal is not None and np.isfinite(matrix).all():
        raise refusal


def levels_box(actions: np.ndarray) -> ActionBox | None:
    """The range that is mapped to [-1, 1] where whole numbers are said to be levels: their own in each column of whole
    numbers that leaves [-1, 1], which stays the range of all others. None where nothing is to be mapped."""
    matrix = _matrix(actions)
    if matrix is None or not np.isfinite(matrix).all():
        return None
    low, high = matrix.min(axis=0), matrix.max(axis=0)
    levels = (matrix == np.floor(matrix)).all(axis=0) & ((low < UNIT[0]) | (high > UNIT[1]))
    lows, highs = np.where(levels, low, UNIT[0]), np.where(levels, high, UNIT[1])
    return ActionBox(tuple(lows.tolist()), tuple(highs.tolist())) if levels.any() else None


def _matrix(actions: np.ndarray) -> np.ndarray | None:
    """(rows, size) floating numbers; None for anything else."""
    actions = np.asarray(actions)
    if actions.dtype.kind not in "biuf" or actions.size == 0 or actions.ndim not in (1, 2):
        return None
    matrix = actions.reshape(len(actions), -1)
    return matrix if matrix.dtype.kind == "f" else matrix.astype(np.float64)
