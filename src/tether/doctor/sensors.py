"""Checks of single sensors over time: codes in the place of values, values that stand still."""

from collections.abc import Iterator

import numpy as np

from tether.doctor.findings import Finding, Place
from tether.doctor.logged import Logged, once, spread_rows

__all__ = ["codes_of_columns", "error_codes", "frozen_columns"]

COLUMNS = 1_000
"""How many observation columns are looked at."""
RARE, OFTEN = 3, 0.3
"""An error code stands in so many rows at least, and in this share of them at most."""
FAR, FAR_OF_A_CODE = 10.0, 2.0
"""Distance of a code from all other values, in their range; less is enough for the usual ones."""
USUAL_CODES = frozenset(
    float(np.float32(sign * code))
    for code in (*(10**n - 1 for n in range(3, 8)), *(10**n for n in range(5, 13)), 32767, 32768, 65535, 2**31, 2**32)
    for sign in (1, -1)
)
STUCK = 20
"""Rows for which a value must stand still to be a fault."""

Findings = Iterator[Finding]


def _columns(data: Logged) -> list[int]:
    return spread_rows(data.observations.shape[1], COLUMNS).tolist()


def error_codes(data: Logged) -> Findings:
    found = codes_of_columns(data)
    if not found:
        return
    names = data.column_names("observations", np.array(list(found)))
    hit = {column: data.observations[:, column] == code for column, code in found.items()}
    shown = [
        f"{name} is {code:.9g} in {hit[c].sum():,} rows" for name, (c, code) in zip(names, found.items(), strict=False)
    ]
    rows = np.flatnonzero(np.any(list(hit.values()), axis=0))
    yield Finding("error-code", "warning", ", ".join(shown[:5]), Place.of(rows, names))


@once
def codes_of_columns(data: Logged) -> dict[int, float]:
    """Column -> one value, again and again, far from all others of a column that varies: what a driver writes where it
    has nothing to say."""
    if data.rows < 100:
        return {}
    return {column: code for column in _columns(data) if (code := _code_of(data.observations[:, column])) is not None}


def _code_of(column: np.ndarray) -> float | None:
    """The lowest or highest value of a column, where it is one."""
    for code, sign in ((column.min(), -1.0), (column.max(), 1.0)):
        hit = column == code
        if not RARE <= hit.sum() <= OFTEN * len(column):
            continue
        others = column[~hit].astype(np.float64)
        extent = others.max() - others.min()
        gap = sign * (float(code) - (others.max() if sign > 0 else others.min()))
        far = FAR_OF_A_CODE if float(code) in USUAL_CODES else FAR
        # Of a flag or a counter a far value may mean something.
        if extent > 0 and gap > far * extent and len(np.unique(others[:1000])) > min(20, len(others) // 4):
            return float(code)
    return None


def frozen_columns(data: Logged) -> Findings:
    """A column that changes with nearly every row, and for a while not at all, though others do.

    What comes to rest, again and again, is no fault (in a third of the episodes), nor is a sensor at the end of its
    range, nor a robot that stands still as a whole.
    """
    if data.rows < 500:
        return
    still = data.observations[1:] == data.observations[:-1]
    moving = [c for c in _columns(data) if still[:, c].mean() < 0.5]
    if len(moving) < 2:
        return
    resting = still[:, moving].mean(axis=1)
    found: dict[int, np.ndarray] = {}
    for column in moving:
        rows = _stuck_rows(data.observations[:, column], still[:, column], resting, len(moving))
        share = len(np.unique(data.episode[rows])) / len(data.lengths) if len(rows) else 0.0
        if len(rows) and (len(data.lengths) < 4 or share < 1 / 3):
            found[column] = rows
    if not found:
        return
    names = data.column_names("observations", np.array(list(found)))
    shown = [f"{name} stands still for {len(rows):,} rows" for name, rows in zip(names, found.values(), strict=False)]
    what = f"{', '.join(shown[:5])}, though others go on"
    rows = np.unique(np.concatenate(list(found.values())))
    yield Finding("frozen-column", "warning", what, Place.of(rows, names))


def _stuck_rows(column: np.ndarray, still: np.ndarray, resting: np.ndarray, count: int) -> np.ndarray:
    """Rows in which a lively column repeats the one before for at least `STUCK` rows, while most others go on.

    resting: the share of the `count` moving columns, this one among them, that repeat the row before.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], still, [False]]).astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]  # pairs begins..ends-1 are still
    long = np.flatnonzero(ends - begins >= STUCK)
    stretches = [np.arange(begins[i], ends[i]) for i in long]
    rows = np.concatenate(stretches) if stretches else np.array([], np.int64)
    if not len(rows) or still.sum() - len(rows) > 0.02 * (len(still) - len(rows)):
        return np.array([], np.int64)
    low, high = column.min(), column.max()
    others = (resting * count - 1) / (count - 1)
    kept = [pairs + 1 for pairs in stretches if low < column[pairs[0]] < high and others[pairs].mean() < 0.5]
    return np.concatenate(kept) if kept else np.array([], np.int64)
