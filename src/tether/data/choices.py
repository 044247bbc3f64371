"""Actions that are choices, coded as whole numbers: no algorithm here decides among choices, so they are refused."""

from collections.abc import Sequence

import numpy as np

from tether.errors import InputError

__all__ = ["Choices", "refuse_choices"]

ENOUGH = 64
"""Values that are remembered of a column: that they are whole is what counts."""
SHOWN = 8
REMEDY = (
    "tether trains continuous actions: name a continuous column, or, where whole numbers really are levels, import "
    "with --continuous"
)


class Choices:
    """Which columns of actions, seen piece by piece, hold whole numbers only."""

    def __init__(self) -> None:
        self._values: list[set[float] | None] | None = None  # of each column; None once it has held another number

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
            elif len(known) < ENOUGH:
                known.update(np.unique(column).tolist())

    def columns(self) -> dict[int, list[float]]:
        """Columns that are choices -> the values met.

        Whole numbers of more than two values; of two as well, such as 0 and 1, where no other action is continuous. An
        action that never changes is neither.
        """
        whole = {i: sorted(known) for i, known in enumerate(self._values or []) if known is not None and len(known) > 1}
        continuous = any(known is None for known in self._values or [])
        return {i: values for i, values in whole.items() if len(values) > 2 or not continuous}

    def switches(self) -> list[int]:
        """Columns of two whole values beside continuous ones, such as a gripper that is open or closed."""
        found = self.columns()
        return [i for i, known in enumerate(self._values or []) if known and len(known) == 2 and i not in found]

    def refusal(self, where: str, names: Sequence[str]) -> InputError | None:
        """Why these actions are refused; None if they are not. names: of each column."""
        found = self.columns()
        if not found:
            return None
        index, values = next(iter(found.items()))
        shown = ", ".join(f"{value:g}" for value in values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
        more = f" (and so do {len(found) - 1} more)" if len(found) > 1 else ""
        return InputError(f"{where}: action {names[index]!r} holds integer choices {shown}{more}; {REMEDY}")


def refuse_choices(where: str, actions: np.ndarray, names: Sequence[str] | None = None) -> None:
    """Raises InputError for actions that are indices of choices, from 0 on: (rows,) or (rows, size).

    Numbers below 0 are none: a data set of [-1, 1] may hold a controller that only switches. Nor are floats with wide
    gaps between them: they are a fault of another kind.
    """
    actions = np.asarray(actions)
    if actions.dtype.kind not in "biuf" or actions.size == 0 or (actions[:1] != np.floor(actions[:1])).all():
        return
    matrix = actions.reshape(len(actions), -1).astype(np.float64, copy=False) if actions.ndim < 3 else None
    if matrix is None or not np.isfinite(matrix).all() or matrix.min() < 0:
        return
    choices = Choices()
    choices.see(matrix)
    if actions.dtype.kind == "f" and any(2 * len(v) <= v[-1] - v[0] + 1 for v in choices.columns().values()):
        return
    names = names or [str(index) for index in range(matrix.shape[1])]
    if (refusal := choices.refusal(where, names)) is not None:
        raise refusal
