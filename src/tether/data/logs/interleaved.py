"""Rows of several episodes that lie among each other, as machines that log side by side write them."""

import numpy as np

from tether.data.logs.clock import begins_anew
from tether.types import Bool, Int

__all__ = ["put_together"]

SHORT_STRETCH = 4
"""Rows in a row of one episode, on average, below which episodes alternate; runs that are logged one after the other
and numbered alike have longer ones."""


def put_together(
    labels: Int[np.ndarray, " rows"], ended: Bool[np.ndarray, " rows"], clock: np.ndarray | None
) -> tuple[Int[np.ndarray, " rows"], str]:
    """The order in which the rows of each label stand together, in their own order; and what would be wrong with it:
    "" where nothing is.

    labels: numbers of the episodes, smaller ones first. ended: after which rows nothing is spliced. clock: (rows,).

    Rows that go on elsewhere may be those of another run with the same number. A clock tells: it begins anew. Without
    one, episodes must alternate.
    """
    order = np.argsort(labels, kind="stable")
    same = np.diff(labels[order]) == 0
    seams = same & (np.diff(order) != 1) & ~ended[order][:-1]
    if not seams.any():
        return order, ""
    if clock is not None:
        episode = np.append(0, np.cumsum(~same | ended[order][:-1]))
        return order, "its clock begins anew" if begins_anew(clock[order], episode) else ""
    again = np.isin(labels, labels[order][:-1][seams])
    stretches = int(np.append(True, np.diff(labels) != 0)[again].sum())
    return order, "" if again.sum() < SHORT_STRETCH * stretches else "no clock tells whether it is another run"
