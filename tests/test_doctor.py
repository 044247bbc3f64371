"""Every known fault is found where it was planted, and clean data of several kinds get nothing above a note."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import doctor_data as make
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from doctor_data import Columns, put, raw, shift, take, without

from tether.doctor import CODES, Finding, RawColumns, fix, read_raw
from tether.doctor.checks import run_checks
from tether.doctor.episodes import block_rows, horizon_terminal_rows, jump_rows, mismatched_rows
from tether.doctor.findings import KEPT_ROWS
from tether.doctor.fixes import apply_fixes, write_d4rl
from tether.doctor.logged import Logged
from tether.errors import InputError


def findings(data: RawColumns) -> dict[str, Finding]:
    return {finding.code: finding for finding in run_checks(Logged(data))}


# --- clean data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", make.CLEAN)
def test_clean_data_have_nothing_above_a_note(kind: str) -> None:
    found = run_checks(Logged(raw(make.CLEAN[kind]())))
    assert [(f.code, f.what) for f in found if f.grade != "note"] == []


# --- the table of faults ------------------------------------------------------------------------------------


def nan_rows(columns: Columns) -> Columns:
    return put(put(columns, "observations", (37, 2), np.nan), "rewards", 1005, np.inf)


def unsynchronised_timeouts(columns: Columns) -> Columns:
    """AntMaze v0: time-outs a few rows away from the resets (D4RL 77, 146)."""
    columns = without(columns, "next_observations")
    moved = np.zeros_like(columns["timeouts"])
    moved[np.minimum(np.flatnonzero(columns["timeouts"]) + 7, len(moved) - 1)] = True
    return {**columns, "timeouts": moved}


def some_ends_unmarked(columns: Columns) -> Columns:
    """Half of the flags are lost."""
    lost = make.ends(columns)[::2]
    return put(put(without(columns, "next_observations"), "terminals", lost, False), "timeouts", lost, False)


def rows_lost(columns: Columns) -> Columns:
    """Every 50th row is missing; the stored next observations tell."""
    return take(columns, np.flatnonzero(np.arange(len(columns["rewards"])) % 50 != 49))


def shuffled(columns: Columns) -> Columns:
    return take(without(columns, "next_observations"), np.random.default_rng(0).permutation(len(columns["rewards"])))


def interleaved(columns: Columns) -> Columns:
    """Four environments write by turns; the flags travel with their rows."""
    rows = len(columns["rewards"]) // 4 * 4
    return take(without(columns, "next_observations"), np.arange(rows).reshape(4, -1).T.reshape(-1))


def reset_observations(columns: Columns) -> Columns:
    """Vector environments that reset themselves: the next observation after an end is the next episode's."""
    following = np.concatenate([columns["observations"][1:], columns["observations"][:1]])
    return {**columns, "next_observations": following}


def done_includes_timeouts(columns: Columns) -> Columns:
    """`done` of old interfaces: terminals at the horizon too, and no time-outs."""
    flags = columns["terminals"] | columns["timeouts"]
    return {**without(columns, "next_observations"), "terminals": flags, "timeouts": np.zeros_like(flags)}


def block_cut(columns: Columns) -> Columns:
    """Medium-replay: a collection block ends every 250 rows, whatever the episode does; then a new one begins."""
    kept: list[int] = []
    cuts = []
    for start, length in zip(make.starts(columns), make.lengths(columns), strict=True):
        left = 250 - len(kept) % 250
        kept.extend(range(start, start + min(length, left)))
        if length > left:
            cuts.append(len(kept) - 1)
    cut = take(columns, np.array(kept))
    return put(cut, "timeouts", cuts, True)


def split_at_evaluation_horizon(columns: Columns) -> Columns:
    """door-human: demonstrations of up to 260 steps, time-outs at the environment's own limit inside them."""
    middle = make.starts(columns) + 79
    return put(columns, "timeouts", middle, True)


def clusters(columns: Columns) -> Columns:
    """AntMaze: the recording goes on after success, reward and terminal are labelled row by row (HIQL 2)."""
    columns = without(make._navigation(False), "next_observations")
    return {**columns, "terminals": columns["rewards"] == 1}


def success_flags(columns: Columns) -> Columns:
    """`terminal` set once in the middle of each episode, though it goes on."""
    return put(without(columns, "next_observations"), "terminals", make.starts(columns) + 30, True)


def flags_twice(columns: Columns) -> Columns:
    """The time-out of each episode again one row later."""
    rows = make.ends(columns)[:-1]
    rows = rows[columns["timeouts"][rows]]
    return put(without(columns, "next_observations"), "timeouts", rows + 1, True)


def copies(columns: Columns) -> Columns:
    """Cloned sets: half of the episodes are copies of the demonstrations."""
    return take(columns, np.tile(np.arange(len(columns["rewards"])), 2))


def copied_rows(columns: Columns) -> Columns:
    """Stretches of 4 rows are copied over others."""
    rows = np.arange(len(columns["rewards"]))
    for start in range(100, len(rows) - 300, 120):
        rows[start : start + 4] += 200
    return {**take(columns, rows), "terminals": columns["terminals"], "timeouts": columns["timeouts"]}


def stutter(columns: Columns) -> Columns:
    """Every 40th step is recorded twice."""
    rows = np.sort(np.concatenate([np.arange(len(columns["rewards"])), make.starts(columns) + 40]))
    return take(without(columns, "next_observations"), rows)


def kitchen(columns: Columns) -> Columns:
    """Finished subtasks are paid again in every step."""
    step = np.arange(len(columns["rewards"])) - np.repeat(make.starts(columns), make.lengths(columns))
    return {**columns, "rewards": np.minimum(step // 25, 4).astype(np.float32)}


def maze2d_rewards(columns: Columns) -> Columns:
    """maze2d: the reward of a row is that of its own observation (D4RL 194)."""
    near = np.linalg.norm(columns["observations"][:, :2], axis=1) < 0.7
    return {**columns, "rewards": near.astype(np.float32)}


def led_here(columns: Columns) -> Columns:
    """Rows (a_{t-1}, r_{t-1}, o_t): `the action that led here`."""
    return shift(columns, "actions", 1)


def beside(columns: Columns, column: np.ndarray) -> Columns:
    """Another column of the observations."""
    without_next = without(columns, "next_observations")
    observations = np.column_stack([columns["observations"], column]).astype(np.float32)
    return {**without_next, "observations": observations}


def reported(action: np.ndarray) -> np.ndarray:
    """What a drive says that it was told, with 1 % of noise."""
    return action + 0.01 * np.random.default_rng(3).normal(size=len(action))


LEAK = ("action-in-observation", "warning")

SPIKED = np.arange(30, 4000, 200)
"""Rows: one in 200."""

FAULTS: dict[str, tuple[Callable[[], Columns], Callable[[Columns], Columns], str, str]] = {
    # name: (clean data, fault, code, grade)
    "no rewards": (make.locomotion, lambda c: without(c, "rewards"), "no-rewards", "note"),
    "no actions": (make.locomotion, lambda c: without(c, "actions"), "missing-column", "error"),
    "the action is observed": (make.locomotion, lambda c: beside(c, c["actions"][:, 1]), *LEAK),
    "in other units": (make.locomotion, lambda c: beside(c, 20 + 30 * c["actions"][:, 0]), *LEAK),
    "on a curve": (make.locomotion, lambda c: beside(c, np.tanh(2 * c["actions"][:, 0])), *LEAK),
    "read back with noise": (make.locomotion, lambda c: beside(c, reported(c["actions"][:, 0])), *LEAK),
    "the sum of actions": (make.locomotion, lambda c: beside(c, c["actions"].sum(axis=1)), *LEAK),
    "two mixtures": (make.locomotion, lambda c: beside(c, c["actions"] @ [[0.8, 0.6], [-0.6, 0.8]]), *LEAK),
    "rewards in grams": (
        make.locomotion,
        lambda c: {**c, "rewards": 1e6 * c["rewards"].astype(float)},
        "reward-scale",
        "warning",
    ),
    "rewards in light years": (
        make.locomotion,
        lambda c: {**c, "rewards": 1e-8 * c["rewards"].astype(float)},
        "reward-scale",
        "warning",
    ),
    "every row a time-out": (
        make.locomotion,
        lambda c: {**c, "timeouts": np.ones_like(c["timeouts"]), "terminals": np.zeros_like(c["terminals"])},
        "no-transition-left",
        "error",
    ),
    "most rows time-outs": (
        make.locomotion,
        lambda c: {**c, "timeouts": np.arange(len(c["timeouts"])) % 3 > 0, "terminals": np.zeros_like(c["terminals"])},
        "few-transitions-left",
        "warning",
    ),
    "no rows": (make.locomotion, lambda c: take(c, np.arange(0)), "empty", "error"),
    "text": (make.locomotion, lambda c: {**c, "rewards": c["rewards"].astype("S8")}, "not-numbers", "error"),
    "a row short": (make.locomotion, lambda c: {**c, "actions": c["actions"][:-1]}, "unequal-rows", "error"),
    "flat actions": (make.short_episodes, lambda c: {**c, "actions": c["actions"][:, 0]}, "wrong-rank", "error"),
    "two rewards": (
        make.locomotion,
        lambda c: {**c, "rewards": np.stack([c["rewards"]] * 2, 1)},
        "wrong-rank",
        "error",
    ),
    "(N, 1)": (make.locomotion, lambda c: {**c, "rewards": c["rewards"][:, None]}, "column-vector", "note"),
    "float64": (
        make.locomotion,
        lambda c: {**c, "observations": c["observations"].astype(float)},
        "float64",
        "note",
    ),
    "NaN": (make.locomotion, nan_rows, "not-finite", "error"),
    "overflow": (
        make.locomotion,
        lambda c: put({**c, "observations": c["observations"].astype(float)}, "observations", (3, 0), 1e300),
        "not-finite",
        "error",
    ),
    "flag of 2": (
        make.locomotion,
        lambda c: put({**c, "terminals": c["terminals"].astype(np.uint8)}, "terminals", 5, 2),
        "bad-flag",
        "error",
    ),
    "NaN flag": (
        make.locomotion,
        lambda c: put({**c, "timeouts": c["timeouts"].astype(np.float32)}, "timeouts", 5, np.nan),
        "bad-flag",
        "error",
    ),
    "torques": (make.locomotion, lambda c: {**c, "actions": 30 * c["actions"]}, "actions-out-of-range", "error"),
    "unclipped": (make.locomotion, lambda c: put(c, "actions", (9, 0), 1.2), "actions-out-of-range", "error"),
    "bang-bang": (make.locomotion, lambda c: {**c, "actions": np.sign(c["actions"])}, "saturated-actions", "warning"),
    "clipped at 0.4": (
        make.locomotion,
        lambda c: {**c, "actions": c["actions"].clip(-0.4, 0.4)},
        "unused-action-range",
        "note",
    ),
    "action indices": (
        make.short_episodes,
        lambda c: {**c, "actions": np.random.default_rng(0).integers(0, 4, (len(c["actions"]), 1))},
        "discrete-actions",
        "error",
    ),
    "dead motor": (make.locomotion, lambda c: put(c, "actions", (slice(None), 1), 0), "constant-column", "warning"),
    "dead sensor": (
        make.locomotion,
        lambda c: put(without(c, "next_observations"), "observations", (slice(None), 1), 3),
        "constant-column",
        "note",
    ),
    "sensor twice": (
        make.locomotion,
        lambda c: {
            **without(c, "next_observations"),
            "observations": np.concatenate([c["observations"], c["observations"][:, 2:3]], axis=1),
        },
        "duplicated-columns",
        "note",
    ),
    "motor twice": (
        make.locomotion,
        lambda c: {**c, "actions": np.concatenate([c["actions"], c["actions"][:, :1]], axis=1)},
        "duplicated-columns",
        "warning",
    ),
    "millimetres": (
        make.locomotion,
        lambda c: {
            **without(c, "next_observations"),
            "observations": c["observations"] * np.array([1000, 1, 1, 1, 1, 1, 1, 1], np.float32),
        },
        "observation-scale",
        "note",
    ),
    "placeholder": (
        make.locomotion,
        lambda c: put(without(c, "next_observations"), "observations", ([70, 900], 3), -9999),
        "outliers",
        "warning",
    ),
    "no reading": (
        make.locomotion,
        lambda c: put(without(c, "next_observations"), "observations", (slice(50, None, 500), 3), -9999),
        "error-code",
        "warning",
    ),
    "spikes": (
        make.locomotion,
        lambda c: put(without(c, "next_observations"), "observations", (SPIKED, 3), 1000.0 + SPIKED),
        "outliers",
        "warning",
    ),
    "sensor stopped": (
        make.locomotion,
        lambda c: put(without(c, "next_observations"), "observations", (slice(1000, 1300), 5), 0.123),
        "frozen-column",
        "warning",
    ),
    "standardised": (
        make.locomotion,
        lambda c: {
            **without(c, "next_observations"),
            "observations": (c["observations"] - c["observations"].mean(0)) / c["observations"].std(0),
        },
        "already-standardised",
        "warning",
    ),
    "standardised rewards": (
        make.locomotion,
        lambda c: {**c, "rewards": (c["rewards"] - c["rewards"].mean()) / c["rewards"].std()},
        "already-standardised",
        "warning",
    ),
    "deterministic": (make.deterministic, lambda c: c, "deterministic-behaviour", "note"),
    "few states": (make.grid, lambda c: c, "few-states", "note"),
    "no timeouts": (make.locomotion, lambda c: without(c, "timeouts"), "no-timeouts-column", "note"),
    "no flags": (
        make.deterministic,
        lambda c: without(c, "timeouts"),
        "no-episode-ends",
        "error",
    ),
    "flags never set": (
        make.deterministic,
        lambda c: {**c, "timeouts": np.zeros_like(c["timeouts"])},
        "no-episode-ends",
        "warning",
    ),
    "stopped early": (make.locomotion, lambda c: take(c, np.arange(1000)), "unfinished-last-episode", "note"),
    "both flags": (
        make.navigation,
        lambda c: {**c, "timeouts": c["timeouts"] | c["terminals"]},
        "terminal-and-timeout",
        "warning",
    ),
    "done at the horizon": (make.deterministic, done_includes_timeouts, "terminals-at-horizon", "error"),
    "done at the horizon, falls too": (make.locomotion, done_includes_timeouts, "terminals-at-horizon", "error"),
    "both flags at the horizon": (
        make.deterministic,
        lambda c: {**c, "terminals": c["timeouts"]},
        "terminals-at-horizon",
        "error",
    ),
    "timeouts out of step": (lambda: make.locomotion(60), unsynchronised_timeouts, "teleports", "error"),
    "unmarked ends": (make.locomotion, some_ends_unmarked, "teleports", "error"),
    "rows lost": (make.locomotion, rows_lost, "next-observation-mismatch", "error"),
    "next is current": (
        make.locomotion,
        lambda c: {**c, "next_observations": c["observations"]},
        "next-equals-current",
        "error",
    ),
    "next from reset": (make.locomotion, reset_observations, "next-observation-from-reset", "warning"),
    "shuffled": (make.locomotion, shuffled, "rows-look-shuffled", "warning"),
    "interleaved": (make.locomotion, interleaved, "interleaved-rows", "error"),
    "block cuts": (make.locomotion, block_cut, "block-cuts", "warning"),
    "stream": (make.maze, lambda c: c, "stream-timeouts", "warning"),
    "split": (make.demonstrations, split_at_evaluation_horizon, "split-episodes", "warning"),
    "terminal clusters": (make.navigation, clusters, "terminal-clusters", "warning"),
    "success flags": (make.locomotion, success_flags, "continues-after-terminal", "warning"),
    "every row terminal": (
        make.locomotion,
        lambda c: {**c, "terminals": np.ones_like(c["terminals"])},
        "continues-after-terminal",
        "error",
    ),
    "flags twice": (make.locomotion, flags_twice, "one-step-episodes", "warning"),
    "copied episodes": (make.demonstrations, copies, "duplicated-episodes", "warning"),
    "copied rows": (lambda: without(make.locomotion(), "next_observations"), copied_rows, "duplicated-rows", "warning"),
    "stutter": (make.locomotion, stutter, "repeated-rows", "warning"),
    "all rewards 0": (make.navigation, lambda c: {**c, "rewards": 0 * c["rewards"]}, "constant-reward", "error"),
    "sparse": (make.navigation, lambda c: c, "sparse-reward", "note"),
    "hardly any reward": (
        make.navigation,
        lambda c: put(c, "rewards", np.flatnonzero(c["rewards"])[5:], 0),
        "few-rewarded-rows",
        "warning",
    ),
    "reward late": (make.locomotion, lambda c: shift(c, "rewards", 1), "reward-shifted", "error"),
    "reward early": (make.locomotion, lambda c: shift(c, "rewards", -1), "reward-shifted", "error"),
    "sparse reward late": (make.navigation, lambda c: shift(c, "rewards", 1), "reward-shifted", "error"),
    "sparse reward early": (make.navigation, lambda c: shift(c, "rewards", -1), "reward-shifted", "error"),
    "reward of the state": (make.maze, maze2d_rewards, "reward-of-current-state", "note"),
    "re-paid": (make.demonstrations, kitchen, "repaid-rewards", "note"),
    "action late": (make.locomotion, led_here, "actions-shifted", "error"),
    "action early": (make.locomotion, lambda c: shift(c, "actions", -1), "actions-shifted", "warning"),
}


def truth(columns: Columns, name: str) -> np.ndarray:
    return np.flatnonzero(columns[name])


def unmarked_horizons(columns: Columns) -> np.ndarray:
    """Where episodes end and no flag stands, after `unsynchronised_timeouts`."""
    return np.setdiff1d(make.ends(columns)[:-1], make.ends(unsynchronised_timeouts(columns)))


def before_lost_rows(columns: Columns) -> np.ndarray:
    """Rows that `rows_lost` keeps, whose successor it drops, and that end no episode."""
    kept = np.flatnonzero(np.arange(len(columns["rewards"])) % 50 != 49)
    return np.flatnonzero((kept % 50 == 48) & ~np.isin(kept, make.ends(columns)))


def stuttered(columns: Columns) -> np.ndarray:
    """The second of two equal rows, inside an episode."""
    marks = make.starts(columns) + 40
    inside = ~np.isin(marks, make.ends(columns)) & (make.lengths(columns) > 40)
    return (marks + np.arange(len(marks)) + 1)[inside]


def overwritten(columns: Columns) -> np.ndarray:
    """The later of two equal rows, after `copied_rows`."""
    first = np.arange(100, len(columns["rewards"]) - 300, 120)
    return (first[:, None] + 200 + np.arange(4)).reshape(-1)


ROWS: dict[str, tuple[Callable[[Columns], Any], float]] = {
    # fault: (clean data -> the rows that the report must name and no others, the share of them that it must name)
    "overflow": (lambda c: [3], 1),
    "flag of 2": (lambda c: [5], 1),
    "NaN flag": (lambda c: [5], 1),
    "torques": (lambda c: np.flatnonzero((np.abs(30 * c["actions"]) > 1).any(axis=1)), 1),
    "unclipped": (lambda c: [9], 1),
    "placeholder": (lambda c: [70, 900], 1),
    "no reading": (lambda c: np.arange(50, len(c["rewards"]), 500), 1),
    "spikes": (lambda c: SPIKED, 1),
    "sensor stopped": (lambda c: np.arange(1001, 1300), 1),
    "stopped early": (lambda c: make.starts(c)[make.starts(c) < 1000][-1:], 1),
    "both flags": (lambda c: truth(c, "terminals"), 1),
    "done at the horizon": (lambda c: truth(c, "timeouts"), 1),
    "done at the horizon, falls too": (lambda c: truth(c, "timeouts"), 1),
    "both flags at the horizon": (lambda c: truth(c, "timeouts"), 1),
    "timeouts out of step": (unmarked_horizons, 0.95),
    "unmarked ends": (lambda c: make.ends(c)[::2], 0.95),
    "rows lost": (before_lost_rows, 1),
    "next from reset": (lambda c: make.ends(c)[:-1], 0.95),
    "block cuts": (lambda c: np.flatnonzero(np.arange(len(block_cut(c)["rewards"])) % 250 == 249), 0.4),
    "stream": (lambda c: truth(c, "timeouts"), 0.95),
    "split": (lambda c: make.starts(c) + 79, 0.9),
    "terminal clusters": (
        lambda c: truth(clusters(c), "terminals")[:-1][np.diff(truth(clusters(c), "terminals")) == 1],
        1,
    ),
    "success flags": (lambda c: make.starts(c) + 30, 0.9),
    "every row terminal": (lambda c: np.arange(len(c["rewards"])), 1),
    "flags twice": (lambda c: truth(c, "timeouts") + 1, 0.95),
    "copied episodes": (lambda c: make.starts(c) + len(c["rewards"]), 1),
    "copied rows": (overwritten, 1),
    "stutter": (stuttered, 1),
    "sparse": (lambda c: truth(c, "rewards"), 1),
    "hardly any reward": (lambda c: truth(c, "rewards")[:5], 1),
    "sparse reward late": (lambda c: truth(shift(c, "rewards", 1), "rewards"), 1),
    "sparse reward early": (lambda c: truth(shift(c, "rewards", -1), "rewards"), 1),
}
COLUMNS = {
    "overflow": ("observations[0]",),
    "bang-bang": ("actions[0]", "actions[1]"),
    "clipped at 0.4": ("actions[0]", "actions[1]"),
    "dead motor": ("actions[1]",),
    "dead sensor": ("observations[1]",),
    "sensor twice": ("observations[8]",),
    "motor twice": ("actions[2]",),
    "placeholder": ("observations[3]",),
    "no reading": ("observations[3]",),
    "spikes": ("observations[3]",),
    "sensor stopped": ("observations[5]",),
    "read back with noise": ("observations[8]",),
    "the sum of actions": ("observations[8]",),
    "two mixtures": ("observations[8]", "observations[9]"),
    "float64": ("observations",),
    "text": ("rewards",),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(name: str) -> None:
    """Under its code, with its grade, at the rows and columns where it was planted."""
    clean, fault, code, grade = FAULTS[name]
    found = findings(raw(fault(clean())))
    assert code in found
    assert found[code].grade == grade
    if name in ROWS:
        where, share = ROWS[name]
        planted, named = set(np.asarray(where(clean()))[:KEPT_ROWS].tolist()), set(found[code].place.rows)
        assert named <= planted
        assert len(named) >= share * len(planted) > 0
    assert found[code].place.columns == COLUMNS.get(name, found[code].place.columns)


def test_actions_in_other_units_are_not_at_their_limits() -> None:
    columns = make.locomotion()
    torques = findings(raw({**columns, "actions": 30 * columns["actions"]}))
    assert "tether data import --action-low" in CODES["actions-out-of-range"].fix
    assert "saturated-actions" not in torques
    clipped = np.sign(columns["actions"])
    one = findings(raw({**columns, "actions": clipped * [30.0, 1.0]}))["saturated-actions"]
    assert one.place.columns == ("actions[1]",)
    stray = findings(raw(put({**columns, "actions": clipped}, "actions", (9, 0), 1.2)))  # the units are right
    assert {"actions-out-of-range", "saturated-actions"} <= set(stray)


@pytest.mark.parametrize("later", [False, True])
def test_smooth_reward_of_the_state(later: bool) -> None:
    """-|o_i|^2 is reported, -|o_{i+1}|^2 (what environments pay) is not."""
    columns = make.locomotion()
    state = columns["next_observations" if later else "observations"]
    found = findings(raw({**columns, "rewards": -(state**2).sum(axis=1)}))
    assert ("reward-of-current-state" in found) != later


def test_maze2d_is_clean_where_the_rewards_are() -> None:
    """The stream itself is reported, its rewards are not: they follow the next observation."""
    found = findings(raw(make.maze(), "maze2d-umaze-v1"))
    assert not {"reward-of-current-state", "reward-shifted", "teleports", "longer-than-horizon"} & set(found)
    found = findings(raw(maze2d_rewards(make.maze()), "maze2d-umaze-v1"))
    assert found["reward-of-current-state"].grade == "warning"


# --- faults that need a name, another column, or another layout ---------------------------------------------


def widths(columns: Columns, observation: int, action: int) -> Columns:
    """As many columns as a task has: the first ones repeated with a little noise."""
    generator = np.random.default_rng(0)
    sizes = {"observations": observation, "next_observations": observation, "actions": action}
    wide = {}
    for name, size in sizes.items():
        if name in columns:
            column = np.tile(columns[name], (1, -(-size // columns[name].shape[1])))[:, :size]
            wide[name] = (0.9 * column + 0.01 * generator.normal(size=column.shape)).astype(np.float32)
    return {**columns, **wide}


def antmaze_rewards(columns: Columns) -> Columns:
    """Positions in the big maze; 1 where the next row is within 0.5 of (20.7, 20.7)."""
    columns = widths(without(columns, "next_observations"), 29, 8)
    columns["observations"][:, :2] = 18.7 + make._navigation(False)["observations"][:, :2]
    near = np.linalg.norm(np.roll(columns["observations"][:, :2], -1, axis=0) - 20.7, axis=1) < 0.5
    near &= ~columns["timeouts"]
    return {**columns, "rewards": near.astype(np.float32), "terminals": near}


def antmaze() -> Columns:
    return antmaze_rewards(make._navigation(False))


def test_antmaze_keeps_its_rules() -> None:
    found = findings(raw(antmaze(), "antmaze-medium-play-v2"))
    assert not {"not-as-published", "reward-away-from-goal", "returns-out-of-scale", "wrong-size"} & set(found)


def rewarded_elsewhere(columns: Columns) -> Columns:
    """medium-play-v2: rewards at rows that are not near the goal."""
    away = np.flatnonzero((columns["observations"][:, 0] < 18.5) & ~columns["timeouts"])[:20]
    return put(put(columns, "rewards", away, 1), "terminals", away, True)


NAMED: dict[str, tuple[str, Callable[[], Columns], str, str]] = {
    # name: (data set's name, data, code, grade)
    "published counts": ("hopper-medium-v2", lambda: widths(make.locomotion(), 11, 3), "counts-disagree", "warning"),
    "sizes": ("hopper-medium-v2", make.locomotion, "wrong-size", "error"),
    "long demonstrations": ("door-human-v1", make.demonstrations, "longer-than-horizon", "warning"),
    "cut anywhere": ("hopper-medium-v2", make.locomotion, "early-timeouts", "note"),
    "scaled rewards": (
        "hopper-medium-v2",
        lambda: {**make.locomotion(), "rewards": 100 * make.locomotion()["rewards"]},
        "returns-out-of-scale",
        "warning",
    ),
    "antmaze r - 1": (
        "antmaze-medium-play-v2",
        lambda: {**antmaze(), "rewards": antmaze()["rewards"] - 1},
        "returns-out-of-scale",
        "warning",
    ),
    "antmaze terminals": (
        "antmaze-medium-play-v2",
        lambda: {**antmaze(), "terminals": np.zeros_like(antmaze()["terminals"])},
        "not-as-published",
        "warning",
    ),
    "antmaze goal": (
        "antmaze-medium-play-v2",
        lambda: rewarded_elsewhere(antmaze()),
        "reward-away-from-goal",
        "warning",
    ),
    "kitchen": ("kitchen-partial-v0", lambda: kitchen(make.demonstrations()), "repaid-rewards", "warning"),
    "kitchen goals": (
        "kitchen-partial-v0",
        lambda: kitchen(widths(make.demonstrations(), 60, 9)),
        "not-as-published",
        "warning",
    ),
    "cheetah falls": ("halfcheetah-medium-v2", lambda: widths(make.locomotion(), 17, 6), "not-as-published", "warning"),
}


@pytest.mark.parametrize("name", NAMED)
def test_fault_of_a_named_set_is_found(name: str) -> None:
    dataset, columns, code, grade = NAMED[name]
    found = findings(raw(columns(), dataset))
    assert code in found
    assert found[code].grade == grade


def clock(columns: Columns, step: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Seconds that restart with each episode."""
    begin = np.repeat(make.starts(columns), make.lengths(columns))
    rows = np.arange(len(begin))
    time = np.cumsum(step(rows))
    return time - time[begin]


EXTRAS: dict[str, tuple[Callable[[Columns], Columns], set[str]]] = {
    "a good clock": (lambda c: {"infos/time": clock(c, lambda r: np.full(len(r), 0.05))}, set()),
    "two rates": (
        lambda c: {"timestamps": clock(c, lambda r: np.where(r < 2000, 0.05, 0.02))},
        {"uneven-time-steps"},
    ),
    "a lost row": (
        lambda c: {"time": clock(c, lambda r: np.where(np.isin(r, [30, 400]), 0.1, 0.05))},
        {"time-gaps"},
    ),
    "a slow start": (
        lambda c: {"time": clock(c, lambda r: np.where(r % 5 == 0, 0.07, 0.05))},
        {"uneven-time-steps"},
    ),
    "clock backwards": (
        lambda c: {"t": put({"t": clock(c, lambda r: np.ones(len(r)))}, "t", 100, -1)["t"]},
        {"time-not-increasing"},
    ),
    "a coarse clock": (
        lambda c: {"time": np.floor(clock(c, lambda r: np.full(len(r), 0.02)))},
        {"time-not-increasing"},
    ),
    "good numbers": (lambda c: {"episode_id": np.repeat(np.arange(len(make.starts(c))), make.lengths(c))}, set()),
    "shifted numbers": (
        lambda c: {"episode_id": np.roll(np.repeat(np.arange(len(make.starts(c))), make.lengths(c)), 3)},
        {"episode-ids-disagree"},
    ),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_other_columns(name: str) -> None:
    extra, codes = EXTRAS[name]
    columns = make.locomotion()
    found = findings(raw(columns, extras=extra(columns)))
    watched = {"uneven-time-steps", "time-gaps", "time-not-increasing", "episode-ids-disagree"}
    assert watched & set(found) == codes


def test_a_coarse_clock_is_no_fault() -> None:
    """Seconds at 50 Hz stand still in most rows; only one that runs backwards speaks against the rows."""
    columns = make.locomotion()
    seconds = np.floor(np.arange(len(columns["rewards"])) * 0.02)
    found = findings(raw(columns, extras={"infos/time": seconds}))
    assert found["time-not-increasing"].grade == "note"
    back = put({"time": seconds}, "time", 100, -1)
    [first] = [
        f
        for f in run_checks(Logged(raw(columns, extras=back)))
        if (f.code, f.grade) == ("time-not-increasing", "error")
    ]
    assert first.place.rows == (99,)


def test_gaps_are_told_by_row_and_by_where_they_are() -> None:
    """Inside episodes they are a fault; episodes that end at a gap are pieces of one recording, which is no fault."""
    columns = make.locomotion()
    seconds = np.cumsum(np.where(np.isin(np.arange(len(columns["rewards"])), [31, 400]), 0.15, 0.05))
    found = findings(raw(columns, extras={"infos/zeit": seconds}))
    assert "time-gaps" not in found  # nobody said that this is a clock
    pieces = dataclasses.replace(raw(columns, extras={"infos/zeit": seconds}), clock="infos/zeit")
    assert findings(pieces)["time-gaps"].place.rows == (30, 399)
    assert findings(pieces)["time-gaps"].grade == "warning"
    ended = put(put(columns, "timeouts", 30, True), "timeouts", 399, True)
    ended = dataclasses.replace(pieces, columns=without(ended, "next_observations"))
    assert findings(ended)["time-gaps"].grade == "note"


def test_columns_that_only_look_like_the_action_are_no_leak() -> None:
    """The last action, also of a policy that holds actions for long; the joint that follows its command."""
    columns = make.locomotion()
    held = np.repeat(columns["actions"][::10], 10, axis=0)[: len(columns["actions"])]
    last = np.roll(held, 1, axis=0)
    joint = make.followed(held[:, 0])
    for column in (last[:, 0], joint, np.sign(held[:, 0])):
        found = findings(raw(beside({**columns, "actions": held}, column)))
        assert "action-in-observation" not in found
    bang_bang = np.sign(columns["observations"][:, 0])[:, None].astype(np.float32)
    assert "action-in-observation" not in findings(raw({**columns, "actions": bang_bang}))


def test_a_leak_is_named_and_makes_no_other_finding() -> None:
    """Such a column is predicted by the next row's action: that says nothing of which action moved the state."""
    generator = np.random.default_rng(0)
    action = generator.uniform(-1, 1, (4000, 1)).astype(np.float32)
    observations = np.column_stack([generator.normal(size=(4000, 3)), action]).astype(np.float32)
    ends = np.arange(4000) % 100 == 99
    columns = {"observations": observations, "actions": action, "rewards": generator.normal(size=4000)}
    found = findings(raw({**columns, "terminals": np.zeros(4000, bool), "timeouts": ends}))
    assert found["action-in-observation"].what == "observations[3] equals actions[0]"
    assert found["action-in-observation"].place.columns == ("observations[3]",)
    assert "actions-shifted" not in found


@pytest.mark.parametrize(
    ("terminals", "factor", "transform"),
    [(False, 1e9, "standardise"), (True, 1e9, "iql_locomotion"), (True, 1e-9, "iql_locomotion")],
)
def test_the_transform_is_named_that_mends_the_scale(terminals: bool, factor: float, transform: str) -> None:
    columns = make.locomotion()
    if not terminals:
        columns = {**columns, "timeouts": columns["timeouts"] | columns["terminals"]}
        columns["terminals"] = np.zeros_like(columns["terminals"])
    what = findings(raw({**columns, "rewards": factor * columns["rewards"].astype(float)}))["reward-scale"].what
    assert f"with --reward-transform {transform} they are " in what


def test_mixtures_of_actions_make_no_other_finding() -> None:
    """The next row's mixture tells the next row's action: that is no action in the wrong row."""
    columns = make.locomotion()
    for column in (columns["actions"] @ [[0.8, 0.6], [-0.6, 0.8]], reported(columns["actions"][:, 1])):
        assert "actions-shifted" not in findings(raw(beside(columns, column)))


def test_what_controllers_compute_actions_from_is_no_leak() -> None:
    """As many actions as observations: each tells the other, and nothing was read back."""
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(3000, 2)).astype(np.float32)
    actions = np.tanh(observations @ np.array([[0.5, 0.2], [-0.3, 0.6]], np.float32))
    columns = {"observations": observations, "actions": actions, "rewards": generator.normal(size=3000)}
    ends = np.arange(3000) % 100 == 99
    found = findings(raw({**columns, "terminals": np.zeros(3000, bool), "timeouts": ends}))
    assert "action-in-observation" not in found


def test_values_that_stand_for_something_are_no_error_codes() -> None:
    """A rare large force, a counter that jumps, -1 until a thing is there."""
    columns = without(make.locomotion(), "next_observations")
    rows = np.arange(len(columns["rewards"]))
    force = np.where(rows % 50 == 0, 30.0 + columns["observations"][:, 0], 0.01 * columns["observations"][:, 1])
    for column in (force, np.where(rows % 100 == 0, 1000.0, rows % 4), np.where(rows < 900, -1.0, force / 60)):
        assert "error-code" not in findings(raw(beside(columns, column)))


def test_what_comes_to_rest_is_no_frozen_sensor() -> None:
    """A joint at its stop, one at rest at every episode's end, a robot that stands still as a whole."""
    columns = without(make.locomotion(), "next_observations")
    step = np.arange(len(columns["rewards"])) - np.repeat(make.starts(columns), make.lengths(columns))
    at_stop = columns["observations"][:, 0].clip(-0.05, None)
    at_rest = np.where(step > 60, 0.5, columns["observations"][:, 0])
    for column in (at_stop, at_rest):
        assert "frozen-column" not in findings(raw(beside(columns, column)))
    still = put(columns, "observations", slice(1000, 1100), columns["observations"][1000])
    assert "frozen-column" not in findings(raw(still))


def test_rewards_of_the_state_that_are_a_row_late() -> None:
    """-|o_{i+1}|^2, one row late, is -|o_i|^2 but in first rows; which is told from rewards that are meant so."""
    columns = make.locomotion()
    paid = -(columns["next_observations"] ** 2).sum(axis=1)
    late = np.roll(paid, 1)
    filled = np.where(np.isin(np.arange(len(paid)), make.starts(columns)), 0, late)
    for rewards, how in ((late, "the last episode's"), (filled, "always 0")):
        found = findings(raw({**columns, "rewards": rewards}))["reward-shifted"]
        assert found.grade == "error"
        assert found.what.startswith("one row late")
        assert found.what.endswith(how)
    own = findings(raw({**columns, "rewards": -(columns["observations"] ** 2).sum(axis=1)}))
    assert "reward-shifted" not in own
    assert own["reward-of-current-state"].grade == "note"


def test_demonstrations_of_like_lengths_are_no_blocks() -> None:
    """Of 100 rows, and one of 300; what replay buffers cut every so many rows is found as before."""
    one = make.take(make.locomotion(), np.arange(900))
    none = np.zeros(900, bool)
    for stops in ([99, 199, 299, 399, 499, 599, 899], [149, 299, 499, 699, 899]):
        ended = {**without(one, "next_observations"), "terminals": none, "timeouts": np.isin(np.arange(900), stops)}
        assert "block-cuts" not in findings(raw(ended))


def test_imitation_looks_at_no_rewards() -> None:
    columns = {**make.locomotion(), "rewards": np.zeros(len(make.locomotion()["rewards"]))}
    assert {"constant-reward"} <= {finding.code for finding in run_checks(Logged(raw(columns)))}
    found = run_checks(Logged(raw(columns), "imitation"))
    assert [finding.code for finding in found if finding.grade != "note"] == []
    demanding = run_checks(Logged(raw(without(columns, "rewards")), "offline-rl"))
    assert [finding.code for finding in demanding if finding.grade == "error"] == ["missing-column"]
    silent = run_checks(Logged(raw(without(columns, "rewards")), "imitation"))
    assert "no-rewards" not in {finding.code for finding in silent}  # the user said so


def write_minari(folder: Path, columns: Columns, short: int = 0, dictionary: bool = False, **content: Any) -> Path:
    """A Minari folder; the first `short` episodes lack their last observation."""
    path = folder / "data" / "main_data.hdf5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for index, (start, end) in enumerate(zip(make.starts(columns), make.ends(columns), strict=True)):
            group = file.create_group(f"episode_{index}")
            last = columns["next_observations"][end : end + 1]
            observations = np.concatenate([columns["observations"][start : end + 1], last])
            observations = observations[:-1] if index < short else observations
            if dictionary:
                group["observations/position"] = observations[:, :4]
                group["observations/speed"] = observations[:, 4:]
            else:
                group["observations"] = observations
            for name, key in (("actions", "actions"), ("rewards", "rewards"), ("terminals", "terminations")):
                group[key] = columns[name][start : end + 1]
            group["truncations"] = columns["timeouts"][start : end + 1]
    path.with_name("metadata.json").write_text(json.dumps(content))
    return folder


def test_minari_clean(tmp_path: Path) -> None:
    columns = make.locomotion()
    read = read_raw(write_minari(tmp_path / "m", columns, total_episodes=40, total_steps=len(columns["rewards"])))
    for name, column in columns.items():
        np.testing.assert_array_equal(read.columns[name], column)
    assert [f.code for f in run_checks(Logged(read)) if f.grade != "note"] == []


def test_minari_faults(tmp_path: Path) -> None:
    """Too few observations in 3 episodes (Minari 199), a dictionary, and counts that disagree."""
    folder = write_minari(tmp_path / "m", make.locomotion(), 3, True, dataset_id="x/y-v0", total_episodes=41)
    found = findings(read_raw(folder))
    assert found["missing-last-observation"].place.count == 3
    last = make.ends(make.locomotion())
    assert found["missing-last-observation"].place.rows == tuple(int(row) for row in last[:3])
    assert "not-finite" not in found
    assert found["dictionary-observations"].what == "observations: position, speed"
    assert found["counts-disagree"].what == "total_episodes is 41 in metadata.json, 40 in the file"


def test_minari_states_the_horizon_and_the_limits(tmp_path: Path) -> None:
    limits = {"low": [-2.0, -2.0], "high": [2.0, 2.0]}
    columns = {**make.locomotion(), "actions": 2 * make.locomotion()["actions"]}
    content = {"env_spec": json.dumps({"max_episode_steps": 100}), "action_space": json.dumps(limits)}
    found = findings(read_raw(write_minari(tmp_path / "m", columns, **content)))
    assert found["longer-than-horizon"].what.endswith("up to 150 steps; horizon 100")
    assert not {"actions-out-of-range", "saturated-actions"} & set(found)  # the reader maps them by these limits
    content["action_space"] = json.dumps({"low": [-1.5, -1.5], "high": [1.5, 1.5]})
    found = findings(read_raw(write_minari(tmp_path / "n", columns, **content)))
    assert "actions-out-of-range" in found


def test_minari_flags_that_are_missing(tmp_path: Path) -> None:
    """One short in one episode, none in another: the rows of all others stay where they are."""
    columns = make.deterministic()
    folder = write_minari(tmp_path / "m", columns)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        short = file["episode_3/truncations"][:-1]  # pyright: ignore[reportIndexIssue]
        del file["episode_3/truncations"], file["episode_5/truncations"]
        file["episode_3/truncations"] = short
    read = read_raw(folder)
    np.testing.assert_array_equal(read.columns["timeouts"], columns["timeouts"])
    what = findings(read)["unequal-rows"].what
    assert what.startswith("timeouts: 2 of ")
    assert "episode_3/truncations" in what
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for group in file.values():
            group.pop("truncations", None)
    assert "timeouts" in findings(read_raw(folder))["missing-column"].what


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_missing_labels_are_one_episode(tmp_path: Path, suffix: str) -> None:
    label = ["a", "a", None, None, "b", "b"]
    table = pa.table({"observation_x": np.arange(6.0), "action_u": np.linspace(-1, 1, 6), "reward": np.ones(6)})
    table = table.append_column("episode", pa.array(label))
    path = tmp_path / f"t.{suffix}"
    pyarrow.csv.write_csv(table, path) if suffix == "csv" else pyarrow.parquet.write_table(table, path)
    assert np.flatnonzero(read_raw(path).columns["timeouts"]).tolist() == [1, 3, 5]


def test_an_archive_without_rows_is_empty(tmp_path: Path) -> None:
    columns = {name: column[:0] for name, column in make.deterministic().items()}
    np.savez(tmp_path / "e.npz", **columns, extra=np.zeros((0, 3)))
    assert "empty" in findings(read_raw(tmp_path / "e.npz"))


def test_other_columns_are_written_as_hdf5_holds_them(tmp_path: Path) -> None:
    """Times, text, and names that the file needs for itself."""
    columns = make.deterministic()
    rows = len(columns["rewards"])
    time = np.datetime64("2026-03-01T00:00:00") + np.arange(rows)
    gap = time.astype("M8[ns]")
    gap[3] = np.datetime64("NaT")
    text = np.array([None, "aus", 3] * rows, object)[:rows]
    mode = np.where(np.arange(rows) % 2, "auto", "manual")
    extras = {
        "time": time,
        "gap": gap,
        "mode": mode,
        "text": text,
        "metadata": mode,
        "a": mode,
        "a/b": mode,
        "c//d": mode,
    }
    assert write_d4rl(tmp_path / "out.hdf5", raw(columns, extras=extras), {"fixes": ""}) == ("metadata", "a/b", "c//d")
    found = read_raw(tmp_path / "out.hdf5").extras
    assert sorted(found) == ["a", "gap", "mode", "text", "time"]
    np.testing.assert_array_equal(found["time"], time.astype("M8[ns]").astype(np.int64))
    assert np.flatnonzero(np.isnan(found["gap"])).tolist() == [3]
    assert found["mode"][:2].tolist() == [b"manual", b"auto"]
    assert found["text"][:3].tolist() == [b"", b"aus", b"3"]


def test_a_repair_says_which_columns_it_left_out(tmp_path: Path) -> None:
    columns = make.deterministic()
    np.savez(tmp_path / "t.npz", **{**columns, "rewards": columns["rewards"][:, None]}, metadata=columns["rewards"])
    before, _ = fix(tmp_path / "t.npz", tmp_path / "out.hdf5", only=["column-vector"])
    assert [(change.code, "'metadata'" in change.what) for change in before.changes] == [
        ("column-vector", False),
        ("left-out", True),
    ]


def test_ogbench_layout(tmp_path: Path) -> None:
    columns = make.deterministic()
    path = tmp_path / "antmaze-large-navigate-v0.npz"
    arrays = {"observations": columns["observations"], "actions": columns["actions"], "qpos": columns["observations"]}
    np.savez(path, terminals=columns["timeouts"].astype(np.float32), **arrays)
    read = read_raw(path)
    found = findings(read)
    assert "ogbench-layout" in found
    assert not {"missing-column", "terminals-at-horizon"} & set(found)
    assert Logged(read).terminals.sum() == 0
    assert Logged(read).timeouts.sum() == 60


# --- where exactly ------------------------------------------------------------------------------------------


def test_unmarked_ends_are_found_exactly() -> None:
    """All flags wiped: the jumps are the episodes' ends, all of them and nothing else."""
    columns = without(make.locomotion(), "next_observations")
    wiped = {
        **columns,
        "terminals": np.zeros_like(columns["terminals"]),
        "timeouts": np.zeros_like(columns["timeouts"]),
    }
    np.testing.assert_array_equal(jump_rows(Logged(raw(wiped))), make.ends(columns)[:-1])


def controlled(set_points: np.ndarray, reset: bool, names: str) -> RawColumns:
    """A tank whose level follows its set point: level, set point, their difference, as in a process's log. reset: the
    level begins anew where the set point does."""
    generator = np.random.default_rng(0)
    level, integral, rows = 5.0, 0.0, []
    for row, point in enumerate(set_points):
        if reset and row and point != set_points[row - 1]:
            level, integral = generator.uniform(2, 8), 0.0
        error = point - level
        integral += 0.01 * error
        action = float(np.clip(0.5 * error + 0.2 * integral + 0.05 * generator.normal(), -1, 1))
        rows.append(({"l": level, "s": point, "e": error, "i": integral}, action, -abs(error)))
        level += 0.05 * action + 0.01 * generator.normal()
    return raw(
        {
            "observations": np.array([[row[name] for name in names] for row, _, _ in rows], np.float32),
            "actions": np.array([[action] for _, action, _ in rows], np.float32),
            "rewards": np.array([reward for _, _, reward in rows], np.float32),
            "terminals": np.zeros(len(rows), np.bool_),
            "timeouts": np.arange(len(rows)) % 2000 == 1999,
        }
    )


@pytest.mark.parametrize("names", ["lse", "esl", "lsei"])
def test_set_points_that_change_are_no_teleports(names: str) -> None:
    """They move themselves and the control error; a level that begins anew is one all the same."""
    for every in (300, 700):
        points = np.repeat(np.random.default_rng(every).uniform(2, 8, 8000 // every + 1), every)[:8000]
        assert len(jump_rows(Logged(controlled(points, False, names)))) == 0
        jumps = jump_rows(Logged(controlled(points, True, names)))
        planted = np.flatnonzero(np.diff(points))
        assert set(jumps) <= set(planted)
        assert len(jumps) > 0.5 * len(planted)


def test_one_teleport_is_found() -> None:
    """A single unmarked end among 4000 rows."""
    columns = without(make.locomotion(), "next_observations")
    row = int(make.ends(columns)[20])
    wiped = put(put(columns, "terminals", row, False), "timeouts", row, False)
    assert jump_rows(Logged(raw(wiped))).tolist() == [row]


def test_rough_motion_is_no_jump() -> None:
    """Crashes: for ten steps now and then the state is thrown about as far as unrelated states lie apart."""
    columns = without(make.locomotion(), "next_observations")
    generator = np.random.default_rng(0)
    observations = columns["observations"].copy()
    for start in make.starts(columns)[::3] + 40:
        observations[start : start + 10] += 6 * observations.std(axis=0) * generator.normal(size=(10, 8))
    found = findings(raw({**columns, "observations": observations.astype(np.float32)}))
    assert "teleports" not in found


def test_lost_rows_are_found_exactly() -> None:
    columns = make.locomotion()
    rows = np.delete(np.arange(len(columns["rewards"])), [500, 501, 2000])
    inside = [row for row in (499, 1997) if not (columns["terminals"] | columns["timeouts"])[rows[row]]]
    assert mismatched_rows(Logged(raw(take(columns, rows)))).tolist() == inside == [499, 1997]


def test_horizon_terminals_are_those_at_the_horizon() -> None:
    columns = make.locomotion()
    rows = horizon_terminal_rows(Logged(raw(done_includes_timeouts(columns))))
    np.testing.assert_array_equal(rows, np.flatnonzero(columns["timeouts"]))


def test_true_terminals_at_one_length_are_left_alone() -> None:
    """Every episode reaches its goal, a place of its own, after exactly 40 steps."""
    generator = np.random.default_rng(0)
    steps, episodes = 40, 50
    begin = generator.normal(size=(episodes, 1, 3))
    path = begin * np.linspace(1, 0, steps + 1)[None, :, None] + 0.003 * generator.normal(size=(episodes, steps + 1, 3))
    columns = {
        "observations": path[:, :-1].reshape(-1, 3).astype(np.float32),
        "actions": generator.uniform(-1, 1, (steps * episodes, 3)).astype(np.float32),
        "rewards": -np.linalg.norm(path[:, 1:].reshape(-1, 3), axis=1).astype(np.float32),
        "terminals": np.tile(np.arange(steps) == steps - 1, episodes),
        "timeouts": np.zeros(steps * episodes, bool),
    }
    assert len(horizon_terminal_rows(Logged(raw(columns)))) == 0


@pytest.mark.parametrize("pay", ["sometimes", "noisy"])
def test_final_rewards_are_not_repaired_away(pay: str) -> None:
    """Batches of one length with a pay-off at their end: as time-outs without next observations, nothing pays."""
    columns = without(done_includes_timeouts(make.deterministic()), "next_observations")
    generator, rows = np.random.default_rng(0), len(columns["rewards"])
    noise = 0.1 * generator.normal(size=rows) if pay == "noisy" else np.zeros(rows)
    paid = columns["terminals"] * (generator.random(rows) < 0.5)
    found = findings(raw({**columns, "rewards": (noise + paid).astype(np.float32)}))["terminals-at-horizon"]
    assert (found.grade, found.fixable) == ("error", False)
    assert "would not be trained on" in found.what


def test_terminals_at_the_horizon_say_what_they_cost() -> None:
    """Exact next observations keep every row; a note is never repaired."""
    columns = make.deterministic()
    columns = {**columns, "terminals": columns["timeouts"], "timeouts": np.zeros_like(columns["timeouts"])}
    paid = {**columns, "rewards": columns["terminals"].astype(np.float32)}
    exact = dataclasses.replace(raw(paid), exact_next_observations=True)
    assert findings(exact)["terminals-at-horizon"].fixable
    ends = int(columns["terminals"].sum())
    for data, cost in ((exact, "no transition lost"), (raw(columns), f"{ends - 1} transitions fewer to train on")):
        _, changes = apply_fixes(data, ["terminals-at-horizon"])
        assert changes[0].what == f"{ends} terminals made time-outs, {cost}"
    short = take(columns, np.flatnonzero((np.arange(len(columns["rewards"])) - 1) % 60 >= 50))
    short["terminals"] = np.arange(len(short["rewards"])) % 10 == 9
    found = findings(raw(without(short, "next_observations")))["terminals-at-horizon"]
    assert (found.grade, found.fixable) == ("note", False)


def test_interleaving_is_counted() -> None:
    assert Logged(raw(interleaved(make.locomotion()))).interleaving == 4
    assert Logged(raw(make.locomotion())).interleaving == 0


@pytest.mark.parametrize(
    ("rows", "size"),
    [([999, 4999, 7999], 1000), ([999, 4999, 7998], 0), ([4, 304, 904, 1204], 300), ([5, 9], 0), ([1, 2, 3, 4], 0)],
)
def test_block_rows(rows: list[int], size: int) -> None:
    assert block_rows(np.array(rows)) == size


def test_nan_rows_are_named() -> None:
    found = [f for f in run_checks(Logged(raw(nan_rows(make.locomotion())))) if f.code == "not-finite"]
    assert {(f.place.rows, f.place.columns) for f in found} == {((37,), ("observations[2]",)), ((1005,), ("rewards",))}


def test_a_replay_buffer_keeps_its_next_observations() -> None:
    """Of rows in no order only the stored ones tell what followed."""
    columns = make.deterministic()
    columns = take(columns, np.random.default_rng(0).permutation(len(columns["rewards"])))
    fixed, _ = apply_fixes(raw(put(columns, "next_observations", (5, 1), np.nan)), ["not-finite"])
    kept = np.delete(np.arange(len(columns["rewards"])), 5)
    for name in ("observations", "next_observations"):
        np.testing.assert_array_equal(fixed.columns[name], columns[name][kept])


@pytest.mark.parametrize("exact", [False, True])
def test_next_observations_go_where_the_rows_tell_them(exact: bool) -> None:
    """Not where they are exact: they tell what followed a time-out, too."""
    columns = make.deterministic()
    data = dataclasses.replace(raw(put(columns, "next_observations", (5, 1), np.nan)), exact_next_observations=exact)
    fixed, changes = apply_fixes(data, ["not-finite"])
    assert changes[0].what == ("1 rows dropped" if exact else "column next_observations left out")
    assert len(fixed.columns["rewards"]) == len(columns["rewards"]) - exact


def test_a_column_of_nan_needs_a_hand(tmp_path: Path) -> None:
    columns = make.deterministic()
    for bad, fixable in ((slice(None), False), (slice(len(columns["rewards"]) // 3), True)):
        found = findings(raw(put(columns, "observations", (bad, 2), np.nan)))["not-finite"]
        assert found.fixable == fixable
        assert ("most in observations[2]; without such rows 0 of" in found.what) == (not fixable)
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file.update({name: column[:0].astype(np.float64) for name, column in columns.items()})
    with pytest.raises(InputError, match="would leave no row"):
        fix(tmp_path / "empty.hdf5", tmp_path / "out.hdf5")
    assert not (tmp_path / "out.hdf5").exists()


def test_shifted_rewards_say_which_way() -> None:
    for by, word in ((1, "before"), (-1, "after")):
        found = findings(raw(shift(make.locomotion(), "rewards", by)))
        assert found["reward-shifted"].what.startswith(f"the transition {word} explains")


def test_shifted_actions_do_not_pass_for_shifted_rewards() -> None:
    """The reward charges for the action; still the action column is blamed alone."""
    for by in (1, -1):
        assert "reward-shifted" not in findings(raw(shift(make.locomotion(), "actions", by)))


def test_terminals_that_end_nothing_by_declaration() -> None:
    """OGBench: the recording goes on after a success, and its reader says so."""
    data = dataclasses.replace(raw(clusters(make.navigation())), terminals_end_episodes=False)
    assert {f.code for f in run_checks(Logged(data)) if f.grade != "note"} == set()


def test_clocks() -> None:
    """Rows of another rate are named; clocks of other types are read, text is left alone."""
    columns = make.locomotion()
    seconds = clock(columns, lambda r: np.where((r > 1000) & (r < 1200), 0.02, 0.05))
    for stamps in (
        seconds,
        np.round(seconds * 1e9).astype(np.uint64) + np.uint64(1_700_000_000_000_000_000),
        np.round(seconds * 1e6).astype("M8[us]"),
    ):
        found = findings(raw(columns, extras={"time": stamps}))["uneven-time-steps"]
        inside = np.setdiff1d(np.arange(1000, 1199), make.ends(columns))
        assert found.place.rows == tuple(inside.tolist())
        assert "time-not-increasing" not in findings(raw(columns, extras={"time": stamps}))
    for strange in (
        np.full(len(seconds), b"noon"),
        np.full(len(seconds), "noon", object),
        np.full(len(seconds), np.nan),
    ):
        assert "uneven-time-steps" not in findings(raw(columns, extras={"time": strange, "episode": strange}))


def test_wide_observations_are_examined_in_bounded_time() -> None:
    """Images as long rows: regressions see 400 of the columns, and the jump is found among them."""
    columns = without(make.locomotion(), "next_observations")
    spread = np.random.default_rng(0).normal(size=(8, 3000)).astype(np.float32)
    row = int(make.ends(columns)[20])
    wide = put(
        put({**columns, "observations": columns["observations"] @ spread}, "terminals", row, False),
        "timeouts",
        row,
        False,
    )
    data = Logged(raw(wide))
    assert data.narrow.shape == (data.rows, 400)
    assert jump_rows(data).tolist() == [row]


def test_every_code_is_planted_somewhere() -> None:
    planted = {code for _, _, code, _ in FAULTS.values()} | {code for _, _, code, _ in NAMED.values()}
    planted |= {code for _, codes in EXTRAS.values() for code in codes}
    planted |= {"missing-last-observation", "dictionary-observations", "ogbench-layout"}
    planted |= {"left-out"}  # tests/test_recordings.py
    assert planted == set(CODES)
