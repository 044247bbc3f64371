"""Checks of the columns one by one: there, shaped, finite, in range, scaled, copied."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tether.data.choices import Choices
from tether.data.source import ACTION_TOLERANCE
from tether.doctor.episodes import mismatched_rows
from tether.doctor.findings import Finding, Grade, Place
from tether.doctor.logged import Logged, finite_in_float32, numeric, once
from tether.doctor.raw import STANDARD
from tether.doctor.regression import fit
from tether.doctor.sensors import codes_of_columns
from tether.types import Bool

__all__ = [
    "action_coverage",
    "action_scaling",
    "already_standardised",
    "bad_flags",
    "column_vectors",
    "constant_columns",
    "deterministic_behaviour",
    "directions_of_variance",
    "discrete_actions",
    "distinct_observations",
    "double_precision",
    "duplicated_columns",
    "few_states",
    "missing_columns",
    "missing_rewards",
    "not_finite",
    "not_finite_repair",
    "not_numbers",
    "observation_scale",
    "out_of_range",
    "outliers",
    "saturated_actions",
    "size_of_task",
    "unequal_rows",
    "unused_action_range",
    "wrong_rank",
]

REQUIRED = ("observations", "actions", "rewards", "terminals")
MATRICES = ("observations", "actions", "next_observations")
FLAT = ("rewards", "terminals", "timeouts")
AT_LIMIT = 0.999
MOST_DROPPED = 0.5
"""Share of the rows; where more than these would be dropped, columns are to be left out or filled instead."""
CLIPPABLE_SHARE, CLIPPABLE_LIMIT = 0.05, 1.5
"""Up to this share of the rows, and up to this value, clipping actions repeats what the environment did."""

Findings = Iterator[Finding]


# --- structure ----------------------------------------------------------------------------------------------


def missing_columns(data: Logged) -> Findings:
    """Columns that training needs; OGBench computes its rewards, imitation needs none."""
    unpaid = data.raw.layout == "ogbench" or data.purpose == "imitation"
    required = [name for name in REQUIRED if name != "rewards" or not unpaid]
    if data.raw.layout == "minari":
        required.append("timeouts")
    missing = [name for name in required if name not in data.raw.columns]
    if missing:
        found = sorted([*data.raw.columns, *data.raw.extras])
        yield Finding("missing-column", "error", f"no {', '.join(missing)}; found {', '.join(found) or 'nothing'}")
    if not missing and data.rows == 0:
        yield Finding("empty", "error", "at least one column has no rows")


def missing_rewards(data: Logged) -> Findings:
    """Where the user did not say that the data are for imitation."""
    if "rewards" not in data.raw.columns and data.purpose == "imitation" and not data.purpose_is_said:
        yield Finding("no-rewards", "note", "the data are judged for imitation")


def not_numbers(data: Logged) -> Findings:
    for name, column in data.raw.columns.items():
        if not numeric(column):
            yield Finding("not-numbers", "error", f"{name} has type {column.dtype}", Place(columns=(name,)))


def unequal_rows(data: Logged) -> Findings:
    rows = {name: len(column) for name, column in data.raw.columns.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} {count:,}" for name, count in rows.items())
        yield Finding("unequal-rows", "error", f"rows: {counts}; checked up to row {data.rows:,}")


def wrong_rank(data: Logged) -> Findings:
    for name, column in data.raw.columns.items():
        flat_matrix = name in MATRICES and column.ndim == 1
        if flat_matrix or (name in MATRICES and (column.ndim != 2 or not column.shape[1])):
            what = f"{name} has shape {column.shape}, (rows, size) is needed"
        elif name in FLAT and column.ndim != 1 and column.shape[1:] != (1,):
            what = f"{name} has shape {column.shape}, (rows,) is needed"
        else:
            continue
        yield Finding("wrong-rank", "error", what, Place(columns=(name,)), fixable=flat_matrix)


def column_vectors(data: Logged) -> Findings:
    names = [name for name in FLAT if name in data.raw.columns and data.raw.columns[name].shape[1:] == (1,)]
    if names:
        yield Finding("column-vector", "note", f"{', '.join(names)} of shape (N, 1)", Place(columns=tuple(names)), True)


def double_precision(data: Logged) -> Findings:
    names = [name for name in STANDARD if name in data.raw.columns and data.raw.columns[name].dtype == np.float64]
    if names:
        yield Finding("float64", "note", f"{', '.join(names)} in float64", Place(columns=tuple(names)), True)


def not_finite(data: Logged) -> Findings:
    """NaN, infinity, and what overflows float32, column by column."""
    lacking = any(finding.code == "missing-last-observation" for finding in data.raw.findings)
    for name, column in data.raw.columns.items():
        if not numeric(column) or column.size == 0 or name in ("terminals", "timeouts"):
            continue
        bad = ~finite_in_float32(column).reshape(len(column), -1)
        if name == "next_observations" and lacking:
            bad &= ~bad.all(axis=1, keepdims=True)  # reported under its own code
        if bad.any():
            rows = np.flatnonzero(bad.any(axis=1))
            columns = data.column_names(name, np.flatnonzero(bad.any(axis=0))) if column.ndim > 1 else [name]
            what = f"{name}: {int(bad.sum()):,} entries in {len(rows):,} rows are not finite"
            dropped = int(not_finite_repair(data).dropped.sum())
            fixable = dropped < MOST_DROPPED * data.rows
            if not fixable:
                counts = bad.sum(axis=0)
                worst = np.flatnonzero(counts > 0.5 * counts.max())
                where = f", most in {', '.join(data.column_names(name, worst))}" if column.ndim > 1 else ""
                what += f"{where}; without such rows {data.rows - dropped:,} of {data.rows:,} are left"
            yield Finding("not-finite", "error", what, Place.of(rows, columns), fixable)


class Repair(NamedTuple):
    """What `--fix` does about entries that are not finite: rows that it drops, (N,) bool, and whether it leaves out the
    column of next observations."""

    dropped: Bool[np.ndarray, " rows"]
    leaves_out_next: bool


@once
def not_finite_repair(data: Logged) -> Repair:
    """Drops the rows, also for a next observation alone, unless the next rows tell what the column told."""
    column = data.raw.columns.get("next_observations")
    if not numeric(column) or column.size == 0:
        return Repair(~data.valid, False)
    bad = np.zeros(data.rows, np.bool_)
    bad[np.nonzero(~finite_in_float32(column[: data.rows]))[0]] = True
    if not bad.any():
        return Repair(~data.valid, False)
    compared = data.has("next_observations") and (data.inside & ~bad[:-1]).any()
    # Exact ones also tell what followed a time-out.
    follows = compared and not data.raw.exact_next_observations and len(mismatched_rows(data)) == 0
    if follows or bad.all():
        return Repair(~data.valid, True)
    return Repair(~data.valid | bad, False)


def bad_flags(data: Logged) -> Findings:
    for name in ("terminals", "timeouts"):
        column = data.raw.columns.get(name)
        if not numeric(column) or column.size == 0 or column.dtype == np.bool_:
            continue
        flags = column.reshape(len(column), -1)
        bad = ~((flags == 0) | (flags == 1)).all(axis=1)
        if bad.any():
            values = ", ".join(f"{value:g}" for value in np.unique(flags[bad].astype(np.float64))[:5])
            yield Finding("bad-flag", "error", f"{name} holds {values}", Place.of(np.flatnonzero(bad), [name]))


def size_of_task(data: Logged) -> Findings:
    task = data.task
    if task is None:
        return
    sizes = data.observations.shape[1], data.actions.shape[1]
    if sizes != (task.observation_size, task.action_size):
        what = (
            f"observations of {sizes[0]} and actions of {sizes[1]} numbers; "
            f"task {task.name} has {task.observation_size} and {task.action_size}"
        )
        yield Finding("wrong-size", "error", what)


# --- actions ------------------------------------------------------------------------------------------------


def action_scaling(data: Logged) -> str | None:
    """How `--fix` brings actions into range: `limits` that the source states, `clip`, or None where it cannot."""
    if data.has_other_limits:
        return "limits"
    outside = (np.abs(data.actions) > 1 + ACTION_TOLERANCE).any(axis=1)
    small = np.abs(data.actions).max() <= CLIPPABLE_LIMIT and outside.mean() <= CLIPPABLE_SHARE
    return "clip" if small else None


def out_of_range(data: Logged) -> Findings:
    outside = np.abs(data.actions) > 1 + ACTION_TOLERANCE
    if not outside.any():
        return
    rows, columns = np.flatnonzero(outside.any(axis=1)), np.flatnonzero(outside.any(axis=0))
    ranges = ", ".join(f"{data.actions[:, c].min():.3g}..{data.actions[:, c].max():.3g}" for c in columns[:8])
    how = action_scaling(data)
    suggestion = {"limits": "; the source states limits to rescale by", "clip": "; few and small: clipping repairs"}
    unknown = "; their limits are not stated"
    what = f"{len(rows) / data.rows:.2%} of the rows; ranges {ranges}{suggestion.get(how or '', unknown)}"
    place = Place.of(rows, data.column_names("actions", columns))
    # Where the reader maps them from the limits that the data state, the policy maps them back.
    grade: Grade = "note" if how == "limits" and data.raw.maps_actions else "error"
    yield Finding("actions-out-of-range", grade, what, place, fixable=how is not None)


def saturated_actions(data: Logged) -> Findings:
    """At ±1; of actions in other units, which `out_of_range` reports, that is no limit."""
    share = (np.abs(data.actions[data.sample]) >= AT_LIMIT).mean(axis=0)
    if action_scaling(data) != "clip":
        share[(np.abs(data.actions) > 1 + ACTION_TOLERANCE).any(axis=0)] = 0.0
    if share.max() > 0.05:
        grade: Grade = "warning" if share.mean() > 0.5 else "note"
        worst = int(share.argmax())
        what = f"{share.mean():.1%} of all entries at ±1; most in actions[{worst}]: {share[worst]:.1%}"
        columns = data.column_names("actions", np.flatnonzero(share > 0.05))
        yield Finding("saturated-actions", grade, what, Place(columns=tuple(columns)))


def unused_action_range(data: Logged) -> Findings:
    """Less than half of [-1, 1] is used, and actions pile up at the limit that they do reach."""
    if _whole_numbers(data.actions[data.sample]):
        return
    found = {}
    for index, column in enumerate(data.actions.T):
        low, high = float(column.min()), float(column.max())
        piled = max(np.mean(column == low), np.mean(column == high)) > 0.005 and low < high
        if max(abs(low), abs(high)) < 0.5 and piled:
            found[index] = f"{low:.3g}..{high:.3g}"
    if found:
        what = f"ranges {', '.join(list(found.values())[:8])}, with many actions exactly at these limits"
        columns = data.column_names("actions", np.array(list(found)))
        yield Finding("unused-action-range", "note", what, Place(columns=tuple(columns)))


def discrete_actions(data: Logged) -> Findings:
    """Whole numbers that may be indices of actions, by the rule of the readers."""
    choices = Choices()
    choices.see(data.actions)
    found = {} if data.raw.continuous else choices.columns()
    if found:
        values = sorted(set().union(*found.values()))
        what = f"{len(values)} values from {values[0]:g} to {values[-1]:g}"
        place = Place(columns=tuple(data.column_names("actions", np.array(list(found)))))
        # Whoever wrote a schema into a file has looked: training takes such actions there, and nowhere else.
        taken = data.raw.layout in ("d4rl", "dataset") and data.raw.schema is not None
        yield Finding("discrete-actions", "warning" if taken else "error", what, place)


def _whole_numbers(actions: np.ndarray) -> bool:
    return bool((actions == np.round(actions)).all())


# --- observations and actions -------------------------------------------------------------------------------


def constant_columns(data: Logged) -> Findings:
    for name, column in (("observations", data.observations), ("actions", data.actions)):
        grade: Grade = "warning" if name == "actions" else "note"
        if data.rows < 2:
            continue
        constant = np.flatnonzero((column == column[0]).all(axis=0))
        if len(constant):
            what = f"{len(constant)} of {column.shape[1]} {name}"
            place = Place(columns=tuple(data.column_names(name, constant)))
            yield Finding("constant-column", grade, what, place)


def duplicated_columns(data: Logged) -> Findings:
    """Equal columns that are not constant."""
    for name, column in (("observations", data.observations), ("actions", data.actions)):
        grade: Grade = "warning" if name == "actions" else "note"
        if data.rows < 10:
            continue
        known: dict[bytes, int] = {}
        pairs = []
        for index in np.flatnonzero((column != column[0]).any(axis=0)):
            first = known.setdefault(np.ascontiguousarray(column[:1000, index]).tobytes(), int(index))
            if first != index and np.array_equal(column[:, first], column[:, index]):
                pairs.append((first, int(index)))
        if pairs:
            text = ", ".join(f"{name}[{a}] = {name}[{b}]" for a, b in pairs[:5])
            columns = data.column_names(name, np.array([b for _, b in pairs]))
            yield Finding("duplicated-columns", grade, text, Place(columns=tuple(columns)))


def observation_scale(data: Logged) -> Findings:
    """Spreads that differ a hundredfold, or means far from 0 against the spread."""
    sample = data.observations[data.sample].astype(np.float64)
    mean, spread = sample.mean(axis=0), sample.std(axis=0)
    moving = spread > 1e-6 * np.maximum(np.abs(mean), 1e-30)
    if not moving.any():
        return
    ratio = float(spread[moving].max() / spread[moving].min())
    offset = float((np.abs(mean[moving]) / spread[moving]).max())
    if ratio > 30 or offset > 10 or spread[moving].max() > 30:
        what = (
            f"spreads from {spread[moving].min():.3g} to {spread[moving].max():.3g}, "
            f"largest |mean| / spread {offset:.3g}"
        )
        yield Finding("observation-scale", "note", what, figures={"mean": mean.tolist(), "std": spread.tolist()})


def outliers(data: Logged) -> Findings:
    """Values that a gap of 100 times the range of all others separates from them, in at most one row in 100."""
    for name, column in (("observations", data.observations), ("rewards", data.rewards)):
        if data.rows < 1000:
            continue
        matrix = column.reshape(data.rows, -1)
        told = codes_of_columns(data) if name == "observations" else ()
        others = (index for index in range(matrix.shape[1]) if index not in told)
        places = {index: rows for index in others if len(rows := _isolated(matrix[:, index]))}
        if places:
            rows = np.unique(np.concatenate(list(places.values())))
            values = ", ".join(f"{matrix[rows[0], index]:.4g}" for index, rows in list(places.items())[:5])
            columns = data.column_names(name, np.array(list(places))) if column.ndim > 1 else [name]
            grade: Grade = "warning" if name == "observations" else "note"
            yield Finding("outliers", grade, f"{name}: such as {values}", Place.of(rows, columns))


def _isolated(column: np.ndarray) -> np.ndarray:
    """Rows beyond a gap that is 100 times as wide as everything else is spread."""
    few = max(1, len(column) // 100)
    distance = np.abs(column.astype(np.float64) - np.median(column))
    top = np.sort(np.partition(distance, -few - 1)[-few - 1 :])  # the bulk's largest, then the candidates
    below, above = top[:-1], top[1:]
    gaps = np.flatnonzero((above > 100 * below) & (below > 0))
    return np.flatnonzero(distance > below[gaps[0]]) if len(gaps) else np.array([], np.int64)


def already_standardised(data: Logged) -> Findings:
    """Means closer to 0 (and spreads to 1) than sampling alone would ever bring them."""
    close = 0.05 / np.sqrt(max(data.rows, 1))
    if data.rows >= 100:
        mean = data.observations.mean(axis=0, dtype=np.float64)
        spread = data.observations.std(axis=0, dtype=np.float64)
        moving = spread > 0
        if moving.sum() >= 4 and (np.abs(mean[moving]) < close).all() and (np.abs(spread[moving] - 1) < 0.1).all():
            yield Finding("already-standardised", "warning", "every observation has mean 0 and spread 1")
    if data.rows >= 100 and data.purpose != "imitation" and len(np.unique(data.rewards[data.sample])) > 3:
        mean, spread = data.rewards.mean(), data.rewards.std()
        if abs(mean) < close / 5 and abs(spread - 1) < close / 5:
            yield Finding("already-standardised", "warning", "rewards have mean 0 and spread 1")


# --- coverage -----------------------------------------------------------------------------------------------


def deterministic_behaviour(data: Logged) -> Findings:
    """Actions that a regression predicts from observations almost without error, on episodes it has not seen."""
    if data.rows < 1000:
        return
    rows = data.sample[:: max(1, len(data.sample) // 10_000)]
    x, y = data.narrow[rows].astype(np.float64), data.actions[rows].astype(np.float64)
    seen = data.episode[rows] % 2 == 0 if len(data.lengths) > 3 else np.arange(len(rows)) < len(rows) // 2
    if min(seen.sum(), (~seen).sum()) < 200:
        return
    spread = y[~seen].var(axis=0)
    if not (spread > 0).any():
        return
    error = ((fit(x[seen], y[seen], flexible=True, ridge=1e-4).predict(x[~seen]) - y[~seen]) ** 2).mean(axis=0)
    share = float(1 - error[spread > 0].sum() / spread.sum())
    if share > 0.98:
        yield Finding("deterministic-behaviour", "note", f"observations explain {share:.2%} of the actions' variance")


def few_states(data: Logged) -> Findings:
    if data.rows < 1000:
        return
    distinct = distinct_observations(data)
    if distinct < 0.02 * data.rows:
        yield Finding("few-states", "note", f"{distinct:,} distinct observations in {data.rows:,} rows")


@once
def distinct_observations(data: Logged) -> int:
    return len(np.unique(data.state_hashes))


def directions_of_variance(data: Logged, share: float = 0.95) -> int:
    """How many principal components of the standardised observations hold `share` of their variance."""
    sample = data.narrow[data.sample].astype(np.float64)
    spread = sample.std(axis=0)
    if not (spread > 0).any():
        return 0
    z = (sample - sample.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    variance = np.linalg.eigvalsh(z.T @ z)[::-1].clip(0)
    return int(np.searchsorted(np.cumsum(variance), share * variance.sum()) + 1)


def action_coverage(data: Logged, cells: int = 10) -> float:
    """Share of [-1, 1] that is used: of `cells` equal parts of each dimension, those that hold any action, averaged."""
    sample = data.actions[data.sample].clip(-1, 1)
    part = np.minimum(((sample + 1) / 2 * cells).astype(np.int64), cells - 1)
    return float(np.mean([len(np.unique(column)) / cells for column in part.T]))
