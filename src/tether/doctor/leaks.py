"""Observation columns that tell the action of their own row: alone, several together, or up to a little noise."""

from collections.abc import Iterator

import numpy as np

from tether.doctor.findings import Finding, Place
from tether.doctor.logged import Logged, once, spread_rows
from tether.doctor.regression import fit

__all__ = ["action_in_observation", "leaks"]

ROWS, COLUMNS = 5_000, 1_000
"""How many rows, and how many observation columns, are compared with actions."""
UNEXPLAINED = 0.01
"""Share of a column's variance that noise may leave to what was read back: a tenth of its spread."""
FRESH = 20
"""So many times more of it must the row before leave unexplained: what is told can be known from this action only."""
HISTORY = 100
"""Columns of the row before that the regressions look at."""


def action_in_observation(data: Logged) -> Iterator[Finding]:
    found = leaks(data)
    if found:
        columns = data.column_names("observations", np.array(list(found)))
        what = ", ".join(list(found.values())[:5])
        yield Finding("action-in-observation", "warning", what, Place(columns=tuple(columns)))


@once
def leaks(data: Logged) -> dict[int, str]:
    """Observation columns that tell actions of the same row, and what each tells, in words.

    A column that holds the *last* action equals this one wherever the action is held, so only rows whose action differs
    from that of the row before are looked at.
    """
    first = np.append(True, ~data.inside)
    moved = np.append(True, (data.stored_actions[1:] != data.stored_actions[:-1]).any(axis=1))
    rows = np.flatnonzero((first | moved) & data.valid)
    rows = rows[spread_rows(len(rows), ROWS)]
    actions = data.stored_actions[rows].astype(np.float64)
    # Few values are never told so: a threshold of one column is a good controller.
    several = [index for index, action in enumerate(actions.T) if len(np.unique(action)) > max(20, 0.05 * len(rows))]
    if len(rows) < 100 or not several:
        return {}
    found: dict[int, str] = {}
    columns = spread_rows(data.observations.shape[1], COLUMNS)
    for column in columns.tolist():
        for index, how in _told(data.observations[rows, column].astype(np.float64), actions, several).items():
            name = data.column_names("observations", np.array([column]))[0]
            found[column] = f"{name} {how} {data.column_names('actions', np.array([index]))[0]}"
    after = np.flatnonzero(data.inside & moved[1:]) + 1  # rows that have one before them
    return found | _read_back(
        data, after[spread_rows(len(after), ROWS)], [c for c in columns.tolist() if c not in found]
    )


def _told(x: np.ndarray, actions: np.ndarray, several: list[int]) -> dict[int, str]:
    """Which actions the column `x` `equals` or `determines` (by a straight line, or a smooth curve)."""
    spread = actions.std(axis=0)
    if x.std() == 0:
        return {}
    centred = x - x.mean()
    slope = centred @ actions / (centred @ centred)
    line = np.quantile(np.abs(actions - actions.mean(axis=0) - centred[:, None] * slope), 0.99, axis=0)
    # Along the sorted column a curve bends little from one row to the next, whatever is left of the spread is noise.
    along = actions[np.argsort(x, kind="stable")]
    bend = np.quantile(np.abs(along[2:] - 2 * along[1:-1] + along[:-2]), 0.8, axis=0)
    determined = (line <= 1e-4 * spread) | (bend <= min(0.05, 20 / len(x)) * spread)
    equal = np.mean(np.abs(x[:, None] - actions) <= 1e-6 * np.maximum(1, np.abs(actions)), axis=0) > 0.99
    return {index: "equals" if equal[index] else "determines" for index in several if determined[index]}


def _read_back(data: Logged, rows: np.ndarray, columns: list[int]) -> dict[int, str]:
    """Columns that this row's action explains and the row before does not: mixtures of actions, read-back with noise.

    A joint that follows its command is explained by the row before, whose command it followed; so is whatever a
    deterministic controller computes its action from, as far as the motion is smooth. Where the actions explain every
    column, they are rather computed from them.
    """
    if len(rows) < 300:
        return {}
    x = data.observations[rows][:, columns].astype(np.float64)
    actions = data.actions[rows].astype(np.float64)
    moving = np.flatnonzero(x.std(axis=0) > 1e-6 * np.maximum(np.abs(x.mean(axis=0)), 1e-30))
    values = [len(np.unique(action)) for action in actions.T]
    if not len(moving) or max(values) <= max(20, 0.05 * len(rows)):
        return {}
    x, history = x[:, moving], data.narrow[rows - 1].astype(np.float64)
    history = history[:, spread_rows(history.shape[1], HISTORY)]
    before = np.concatenate([history, data.actions[rows - 1]], axis=1)
    seen = np.arange(len(rows)) // 20 % 2 == 0

    def unexplained(inputs: np.ndarray) -> np.ndarray:
        predicted = fit(inputs[seen], x[seen], flexible=True, ridge=1e-4).predict(inputs[~seen])
        return ((predicted - x[~seen]) ** 2).mean(axis=0) / x[~seen].var(axis=0).clip(1e-300)

    now = unexplained(actions)
    few = now <= UNEXPLAINED
    if not few.any():
        return {}
    earlier = unexplained(before)
    told = few & (earlier > FRESH * now)
    if few.all() and len(moving) == x.shape[1] and len(columns) == data.observations.shape[1]:
        return {}
    found = {}
    for index in np.flatnonzero(told):
        column = columns[int(moving[index])]
        name = data.column_names("observations", np.array([column]))[0]
        shares = f"{1 - now[index]:.2%} of its variance; by the row before: {max(1 - earlier[index], 0):.0%}"
        found[column] = f"{name} is told by this row's actions ({shares})"
    return found
