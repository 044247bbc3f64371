"""Rows of several episodes that lie among each other, as machines that log side by side write them."""

import numpy as np

from tether.data.logs.clock import begins_anew
from tether.types import Bool, Int

__all__ = ["put_together"]

SHORT_STRETCH = 4
MANY_STRETCHES = 4
"""Episodes alternate if they have fewer rows at a time than the first, on average, and go on at least as often as the
second: runs that are logged one after the other and numbered alike have whole episodes at a time."""


def put_together(
    labels: Int[np.ndarray, " rows"], ended: Bool[np.ndarray, " rows"], clock: np.ndarray | None
) -> tuple[Int[np.ndarray, " rows"], bool]:
    """The order in which the rows of each label stand together, in their own order; and whether nothing speaks against
    it: rows that go on elsewhere may be those of another run with the same number. A clock tells, as it begins anew.
    Without one, episodes must alternate.

    labels: numbers of the episodes, smaller ones first. ended: after which rows nothing is spliced. clock: (rows,).
    """
    order = np.argsort(labels, kind="stable")
    same = np.diff(labels[order]) == 0
    seams = same & (np.diff(order) != 1) & ~ended[order][:-1]
    if not seams.any():
        return order, True
    if clock is not None:
        episode = np.append(0, np.cumsum(~same | ended[order][:-1]))
        return order, not begins_anew(clock[order], episode)
    several = labels[order][:-1][seams]
    again = np.isin(labels, several)
    stretches = int(np.append(True, np.diff(labels) != 0)[again].sum())
    often = stretches >= MANY_STRETCHES * len(np.unique(several))
    return order, bool(often and again.sum() < SHORT_STRETCH * stretches)
