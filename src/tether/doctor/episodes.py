"""Checks of flags, episodes and the order of rows."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tether.data.dataset import recorded_numbers
from tether.doctor.findings import Finding, Grade, Place
from tether.doctor.logged import Logged, once, spread_rows
from tether.doctor.steps import FEW, explained_share
from tether.types import Bool, Float

__all__ = [
    "block_rows",
    "clocks",
    "copied_episodes",
    "counts_of_published",
    "cut_episodes",
    "duplicated_rows",
    "duplicates_of_episodes",
    "episode_ids",
    "horizon_terminal_rows",
    "jump_rows",
    "long_episodes",
    "lost_as_timeouts",
    "mismatched_rows",
    "missing_ends",
    "next_observation_after_end",
    "next_observations",
    "one_step_episodes",
    "order_of_rows",
    "repeated_rows",
    "teleports",
    "terminal_and_timeout",
    "terminals_at_horizon",
    "terminals_that_go_on",
    "time_stamps",
    "timeouts_that_go_on",
    "transitions_left",
    "unfinished_last_episode",
]

LONGEST_UNFLAGGED = 2000
"""Steps; more rows than this without any end flag are probably several episodes."""
SHORT_HORIZON = 10
"""Steps; a decision problem that is no longer than this may well end by itself at one step."""
PAID_APART = 1.5
"""Rewards that change into the last row by this many times the usual change are paid for the end."""
CROWD = 5
"""Steps; a jump with two others this near is none."""
KNOWN_ROWS, RESTS = 20_000, 0.98
"""Rows that tell which columns rest, and in which share of them a set point does."""
GAP, SHORT_GAP, UNEVEN = 1.5, 20, 0.2
"""Of a clock's usual step: what is longer is a gap, what is shorter a gap in one recording, and what may differ."""
TIME_NAMES = frozenset({"time", "times", "timestamp", "timestamps", "time_stamp", "t", "stamp"})
EPISODE_NAMES = frozenset(
    {"episode", "episode_id", "episode_ids", "episode_index", "trajectory", "trajectory_id", "traj_id", "demo_id"}
)
PUBLISHED = {  # trajectories and rows (D4RL, arXiv 2004.07219, and its files)
    "halfcheetah-medium-v2": (1000, 1_000_000),
    "halfcheetah-medium-replay-v2": (202, 202_000),
    "halfcheetah-medium-expert-v2": (2000, 2_000_000),
    "halfcheetah-expert-v2": (1000, 1_000_000),
    "hopper-medium-v2": (2186, 999_906),
    "hopper-medium-replay-v2": (2041, 402_000),
    "walker2d-medium-v2": (1190, 999_995),
    "walker2d-medium-replay-v2": (1093, 302_000),
    "pen-human-v1": (25, 5000),
    "pen-cloned-v1": (3736, 500_000),
    "pen-expert-v1": (4958, 499_206),
    "door-human-v1": (25, 6729),
    "door-cloned-v1": (4356, 1_000_000),
    "door-expert-v1": (5000, 1_000_000),
    "hammer-expert-v1": (5000, 1_000_000),
    "relocate-expert-v1": (5000, 1_000_000),
    "kitchen-complete-v0": (19, 3680),
}

Findings = Iterator[Finding]


# --- flags --------------------------------------------------------------------------------------------------


def missing_ends(data: Logged) -> Findings:
    """No `timeouts`, or no flag at all where there must be some."""
    if "terminals" not in data.raw.columns:
        return
    if not data.stores_timeouts and data.ends.any():
        assumed = int((data.timeouts & ~data.terminals).sum())
        note = f"{assumed:,} assumed at the task's horizon {data.horizon}" if data.horizon else "none assumed"
        yield Finding("no-timeouts-column", "note", f"{note}; {int(data.terminals.sum()):,} terminals")
    if data.ends.any() or data.rows < 2:
        return
    if not data.stores_timeouts:
        yield Finding("no-episode-ends", "error", "`timeouts` is not stored and no row is terminal")
    elif data.horizon is not None and data.rows > data.horizon:
        what = f"{data.rows:,} rows without a flag; task {data.raw.name} has a horizon of {data.horizon}"
        yield Finding("no-episode-ends", "error", what, fixable=_resets_at_horizon(data, data.horizon))
    elif data.rows > LONGEST_UNFLAGGED:
        yield Finding("no-episode-ends", "warning", f"{data.rows:,} rows without a flag")


def _resets_at_horizon(data: Logged, horizon: int) -> bool:
    """Whether the rows divide into episodes of the task's length: most of the cuts look unlike transitions, and there
    is no jump anywhere else."""
    cuts = np.arange(horizon - 1, data.rows - 1, horizon)
    if data.rows % horizon or data.steps is None or len(cuts) == 0:
        return False
    reset = np.median(data.steps.scores[cuts]) > data.steps.usual
    return bool(reset) and bool(np.isin(jump_rows(data), cuts).all())


def unfinished_last_episode(data: Logged) -> Findings:
    if data.ends.any() and not data.ends[-1]:
        start = int(data.first_rows[-1])
        yield Finding("unfinished-last-episode", "note", f"{data.rows - start:,} rows", Place(1, (start,)))


def transitions_left(data: Logged) -> Findings:
    """What `Dataset.transitions` leaves of the rows."""
    if data.raw.exact_next_observations or data.rows == 0:
        return
    left = int((data.terminals[:-1] | ~data.timeouts[:-1]).sum())
    if left == 0:
        yield Finding("no-transition-left", "error", f"{data.rows:,} rows, {int(data.timeouts.sum()):,} time-outs")
    elif left < 0.5 * (data.rows - 1):
        what = f"{left:,} of {data.rows:,} rows are left: {int(data.timeouts.sum()):,} are time-outs"
        yield Finding("few-transitions-left", "warning", what)


def terminal_and_timeout(data: Logged) -> Findings:
    rows = np.flatnonzero(data.terminals & data.timeouts)
    if len(rows) and data.raw.terminals_end_episodes and not len(horizon_terminal_rows(data)):
        what = f"{len(rows):,} of {int(data.terminals.sum()):,} terminals"
        yield Finding("terminal-and-timeout", "warning", what, Place.of(rows), fixable=True)


def terminals_at_horizon(data: Logged) -> Findings:
    rows = horizon_terminal_rows(data)
    if not len(rows):
        return
    length = int(data.lengths.max())
    what = f"{len(rows):,} of {len(data.lengths):,} episodes end with a terminal after exactly {length:,} steps"
    if length <= SHORT_HORIZON:
        yield Finding("terminals-at-horizon", "note", what, Place.of(rows))
        return
    costly = lost_as_timeouts(data, rows) > 0 and _paid_apart(data, rows)
    what += "; their rewards are unlike those before, and as time-outs these rows would not be trained on" * costly
    yield Finding("terminals-at-horizon", "error", what, Place.of(rows), fixable=not costly)


def lost_as_timeouts(data: Logged, rows: np.ndarray) -> int:
    """How many of these rows `Dataset.transitions` leaves out once they are time-outs; the last of all it always does.

    Next observations that are a copy of the row's own do not count: their repair drops the column.
    """
    kept = data.raw.exact_next_observations and data.has("next_observations") and not _equals_current(data)
    return 0 if kept else int((rows < data.rows - 1).sum())


def _paid_apart(data: Logged, rows: np.ndarray) -> bool:
    """Whether rewards change into these last rows by more than in the steps just before: a pay-off at the end.

    Just before, as rewards may well drift over an episode. `rows` end episodes of more than `SHORT_HORIZON` steps.
    """
    before = rows[:, None] - np.arange(SHORT_HORIZON)
    changes = np.abs(data.rewards[before] - data.rewards[before - 1]).mean(axis=0)
    return bool(changes[0] > PAID_APART * changes[1:].mean())


@once
def horizon_terminal_rows(data: Logged) -> np.ndarray:
    """Terminals at the longest episode's length, if that length stands out and the states there do not.

    The length stands out if none is longer and at least 5 episodes (2 at the task's horizon) end there by a terminal,
    more than could (one chance in 100,000) if terminals came there as often per step as in the fifth before it.
    """
    none = np.array([], np.int64)
    terminal = data.terminals[data.last_rows]
    if not terminal.any() or not data.raw.terminals_end_episodes:
        return none
    length = int(data.lengths.max())
    at_end = terminal & (data.lengths == length)
    just_before = int((terminal & (data.lengths < length) & (data.lengths >= 0.8 * length)).sum())
    if length < 3 or at_end.sum() < (2 if length == data.horizon else 5):
        return none
    rate = max(just_before, 1) / max(1.0, 0.2 * length)
    if _poisson_tail(int(at_end.sum()), rate) > 1e-5:
        return none
    rows = data.last_rows[at_end]
    return none if _told_by_state(data, rows) else rows


def _poisson_tail(count: int, rate: float) -> float:
    """An upper bound of P(X >= count) for Poisson X (Chernoff)."""
    return 1.0 if count <= rate else math.exp(count - rate + count * math.log(rate / count))


def _told_by_state(data: Logged, rows: np.ndarray) -> bool:
    """Whether these rows are recognised by their observations: the nearest neighbour (not of the same episode) of
    most of them is another end, though ends are rare among the candidates."""
    generator = np.random.default_rng(0)
    ends = np.sort(generator.choice(rows, min(len(rows), 200), replace=False))
    others = np.flatnonzero(~data.ends)
    others = np.sort(generator.choice(others, min(len(others), 4000), replace=False))
    if len(others) < len(ends):
        return False
    spread = data.narrow[data.sample].std(axis=0, dtype=np.float64)
    spread[spread == 0] = np.inf

    def nearest(candidates: np.ndarray) -> np.ndarray:
        x, y = data.narrow[ends] / spread, data.narrow[candidates] / spread
        distance = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T
        distance[data.episode[ends][:, None] == data.episode[candidates][None, :]] = np.inf
        return distance.min(axis=1)

    by_chance = len(ends) / (len(ends) + len(others))
    return bool((nearest(ends) <= nearest(others)).mean() > max(0.5, 3 * by_chance))


# --- order of rows ------------------------------------------------------------------------------------------


def order_of_rows(data: Logged) -> Findings:
    """Rows that do not follow each other: several environments by turns, or no order at all."""
    environments = data.interleaving
    if environments:
        what = f"row i + {environments} follows row i, row i + 1 does not: {environments} environments by turns"
        divides = data.rows % environments == 0
        yield Finding("interleaved-rows", "error", what, fixable=divides)
    elif data.follows(1) < 0.05:
        yield Finding("rows-look-shuffled", "warning", "the next row's observation cannot be predicted at all")


def teleports(data: Logged) -> Findings:
    rows = jump_rows(data)
    if len(rows):
        what = f"{len(rows):,} pairs of neighbouring rows inside episodes are as far apart as unrelated rows"
        yield Finding("teleports", "error", what, Place.of(rows), fixable=True)


@once
def jump_rows(data: Logged) -> np.ndarray:
    """Rows i inside episodes whose successor is no successor: they jump far, or back to where episodes start."""
    none = np.array([], np.int64)
    if data.steps is None or data.interleaving:
        return none
    inside = data.inside.copy()
    inside[mismatched_rows(data)] = False  # reported under their own code
    scores = np.where(inside, data.steps.scores, -np.inf)
    return np.union1d(_far_jumps(data, scores), _jumps_to_start(data, scores))


def _far_jumps(data: Logged, scores: np.ndarray) -> np.ndarray:
    """Pairs that score as unrelated ones do, with a gap between them and the rest: the scores just below the threshold
    hold a tenth as many pairs at most. Heavy tails have no such gap.

    A jump moves most columns (a collision stops velocities, but positions go on), and it is alone: where most come in
    crowds the motion is rough (a robot that crashes into things), and nothing is said. A set point that changes moves
    itself and the control error, and is no jump.
    """
    assert data.steps is not None
    o = data.narrow
    inside = np.flatnonzero(data.inside)
    known = inside[spread_rows(len(inside), KNOWN_ROWS)]
    rests = (o[known] == o[known + 1]).mean(axis=0) >= RESTS
    for threshold in (factor * score for score in data.steps.thresholds for factor in (1.0, 1.15, 1.3)):
        rows, near = np.flatnonzero(scores > threshold), (scores > 0.85 * threshold).sum()
        if len(rows) == 0 or near - len(rows) > 0.1 * len(rows):
            continue
        neighbours = np.searchsorted(rows, rows + CROWD + 1) - np.searchsorted(rows, rows - CROWD) - 1
        moved = data.steps.moved(o[rows], data.actions[rows], o[rows + 1], o[known], rests)
        jumps = rows[(neighbours < 2) & (moved > FEW)]
        if len(jumps) > 0.5 * len(rows) and np.median(moved) > 0.5:
            return jumps
    return np.array([], np.int64)


def _jumps_to_start(data: Logged, scores: np.ndarray) -> np.ndarray:
    """Pairs that score as flagged ends do and lead to a state like those after flagged ends.

    Nothing is said where flagged ends are no resets, or where a hundredth of all rows look like a start.
    """
    none = np.array([], np.int64)
    assert data.steps is not None
    known = np.flatnonzero(data.ends[:-1])
    if len(known) < 5:
        return none
    if np.quantile(data.steps.scores[known], 0.1) <= data.steps.usual:
        return none
    least = max(data.steps.usual, float(np.quantile(data.steps.scores[known], 0.02)))
    starts = data.narrow[known + 1].astype(np.float64)
    centre = np.median(starts, axis=0)
    spread = data.narrow[data.sample].std(axis=0, dtype=np.float64)
    scale = np.maximum(1.4826 * np.median(np.abs(starts - centre), axis=0), 1e-3 * spread)
    scale[spread == 0] = np.inf

    def distance(rows: np.ndarray) -> np.ndarray:
        return np.sqrt((((data.narrow[rows] - centre) / scale) ** 2).mean(axis=1))

    # The first steps of an episode are still near its start.
    late = np.arange(data.rows) - data.first_rows[data.episode] >= CROWD
    ordinary = np.flatnonzero(late)[:: max(1, int(late.sum()) // 20_000)]
    candidates = np.flatnonzero((scores >= least) & late[:-1])
    if len(ordinary) < 100 or len(candidates) == 0:
        return none
    farthest, usual = float(np.quantile(distance(known + 1), 0.95)), distance(ordinary)
    for limit in (1.3 * farthest, farthest):
        if (usual <= limit).mean() <= 0.01:
            return candidates[distance(candidates + 1) <= limit]
    return none


def next_observations(data: Logged) -> Findings:
    """The stored next observation against the next row."""
    if not data.has("next_observations"):
        return
    if _equals_current(data):
        yield Finding("next-equals-current", "error", "in every row", Place(data.rows, (0,)), fixable=True)
        return
    rows = mismatched_rows(data)
    if len(rows):
        share = len(rows) / max(1, int(data.inside.sum()))
        what = f"{len(rows):,} rows, {share:.2%} of those inside episodes"
        yield Finding("next-observation-mismatch", "error", what, Place.of(rows), fixable=share <= 0.2)


@once
def mismatched_rows(data: Logged) -> np.ndarray:
    """Rows inside episodes whose stored next observation is not the next row's, beyond rounding."""
    if not data.has("next_observations") or _equals_current(data):
        return np.array([], np.int64)
    stored = data.raw.columns["next_observations"][: data.rows].reshape(data.rows, -1)[:-1]
    finite = np.isfinite(stored).all(axis=1)
    return np.flatnonzero(data.inside & finite & ~_same_as_next_row(data))


def _equals_current(data: Logged) -> bool:
    if data.rows < 2:
        return False
    moves = float(np.mean((data.observations[1:] != data.observations[:-1]).any(axis=1)))
    equal = float(np.mean((data.observations == data.next_observations).all(axis=1)))
    return moves > 0.5 and equal > 0.99


@once
def _same_as_next_row(data: Logged) -> np.ndarray:
    """(N-1,) within 1e-4 of the column's spread."""
    tolerance = 1e-6 + 1e-4 * data.observations[data.sample].std(axis=0, dtype=np.float64)
    return (np.abs(data.next_observations[:-1] - data.observations[1:]) <= tolerance).all(axis=1)


def next_observation_after_end(data: Logged) -> Findings:
    """After an end flag the stored next observation must not be the next episode's first."""
    if not data.has("next_observations") or data.steps is None or _equals_current(data):
        return
    ends = np.flatnonzero(data.ends[:-1])
    if len(ends) < 3 or np.median(data.steps.scores[ends]) <= data.steps.usual:
        return  # the recording goes on: then the next row is right
    reset = ends[_same_as_next_row(data)[ends] & (data.steps.scores[ends] > data.steps.usual)]
    if len(reset) > 0.5 * len(ends):
        what = f"at {len(reset):,} of {len(ends):,} ends"
        yield Finding("next-observation-from-reset", "warning", what, Place.of(reset), fixable=True)


# --- ends at which the recording goes on --------------------------------------------------------------------


def _goes_on(data: Logged, rows: np.ndarray) -> np.ndarray | None:
    """Those of the end rows after which the motion continues in the next row; None where that cannot be told.

    A pair of rows continues if it scores as 99 % of the transitions do. How often that happens by chance is
    known from ends paired with the beginnings of other episodes: if often, the test has no power.
    """
    rows = rows[rows < data.rows - 1]
    if data.steps is None or len(rows) < 3:
        return None
    goes_on = rows[data.steps.scores[rows] <= data.steps.usual]
    starts = rows + 1
    pairs = [(rows, np.roll(starts, shift)) for shift in range(1, min(len(rows), 4))]
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    scores = data.steps.score(data.narrow[left], data.actions[left], data.narrow[right])
    by_chance = float((scores <= data.steps.usual).mean())
    share, error = len(goes_on) / len(rows), np.sqrt(by_chance * (1 - by_chance) / len(rows))
    powerful = by_chance < 0.3 and share > by_chance + 4 * error + 0.05
    return goes_on if powerful and len(goes_on) >= 3 else None


def timeouts_that_go_on(data: Logged) -> Findings:
    """Streams and split episodes. Where a clock jumps, rows were lost, and the cut is right."""
    lost = np.append(
        np.logical_or.reduce([clock.gaps for clock in clocks(data)] or [np.zeros(data.rows - 1, bool)]), False
    )
    rows = np.flatnonzero(data.timeouts & ~data.terminals & ~lost)
    goes_on = _goes_on(data, rows)
    if goes_on is None or not data.stores_timeouts:
        return
    what = f"after {len(goes_on):,} of {len(rows):,} time-outs the next row continues the motion"
    code = "stream-timeouts" if len(goes_on) > 0.9 * data.ends[:-1].sum() else "split-episodes"
    yield Finding(code, "warning", what, Place.of(goes_on))


def terminals_that_go_on(data: Logged) -> Findings:
    """Clusters of terminals (2.5 in a row on average), and single ones after which nothing is reset; not where the
    source says that they end no episode."""
    if not data.raw.terminals_end_episodes:
        return
    rows = np.flatnonzero(data.terminals)
    if len(rows) >= 0.95 * data.rows and data.rows >= 500:
        pairs = np.arange(data.rows - 1)[:: max(1, data.rows // 5000)]
        share = explained_share(data.narrow, data.actions, pairs, 1)
        if share > 0.9:
            what = f"{len(rows) / data.rows:.1%} of the rows are terminal, but row i predicts row i + 1 ({share:.1%})"
            yield Finding("continues-after-terminal", "error", what, Place.of(rows))
        return
    neighbours = rows[np.isin(rows + 1, rows)]
    clusters = len(rows) - len(neighbours)
    if len(neighbours) >= 3 and len(rows) >= 2.5 * clusters:
        what = f"{len(rows):,} terminals in {clusters:,} clusters"
        yield Finding("terminal-clusters", "warning", what, Place.of(neighbours))
        return
    goes_on = _goes_on(data, rows)
    if goes_on is not None:
        what = f"after {len(goes_on):,} of {len(rows):,} terminals the next row continues the motion"
        yield Finding("continues-after-terminal", "warning", what, Place.of(goes_on))


def cut_episodes(data: Logged) -> Findings:
    """Time-outs before the horizon: at the ends of collection blocks, or anywhere."""
    timed_out = data.timeouts[data.last_rows] & ~data.terminals[data.last_rows]
    lengths = data.lengths[timed_out]
    if not data.stores_timeouts or len(lengths) == 0:
        return
    horizon = data.horizon or int(lengths.max())
    early = data.last_rows[timed_out & (data.lengths < horizon)]
    if len(early) == 0 or _goes_on(data, early) is not None:
        return
    block = block_rows(early)
    if block and np.mean(data.lengths[timed_out & (data.lengths < horizon)] % block == 0) > 0.5:
        block = 0  # they begin where blocks do: demonstrations of like lengths, which are no blocks
    what = f"{len(early):,} time-outs before step {horizon:,}"
    if block:
        yield Finding("block-cuts", "warning", f"{what}, at ends of blocks of {block:,} rows", Place.of(early))
    elif data.horizon is not None or (lengths == horizon).mean() > 0.5:  # demonstrations end when they end
        yield Finding("early-timeouts", "note", what, Place.of(early))


def block_rows(rows: np.ndarray) -> int:
    """The block size if these rows lie a multiple of it (at least 50) apart, but for a tenth of them; else 0."""
    if len(rows) < 3:
        return 0
    sizes = {1000, 2000, 4000, 5000, 10_000, int(np.gcd.reduce(np.diff(rows)))}
    for size in sorted(size for size in sizes if size >= 50)[::-1]:
        _, counts = np.unique(rows % size, return_counts=True)
        if counts.max() >= max(3, 0.9 * len(rows)):
            return size
    return 0


# --- lengths, numbers, copies -------------------------------------------------------------------------------


def long_episodes(data: Logged) -> Findings:
    if data.horizon is None or not data.ends.any():
        return
    long = data.lengths > data.horizon + 1  # AntMaze's files have 1001 rows for 1000 steps
    if long.any() and not any(finding.code == "stream-timeouts" for finding in timeouts_that_go_on(data)):
        what = f"{int(long.sum()):,} episodes, up to {int(data.lengths.max()):,} steps; horizon {data.horizon:,}"
        yield Finding("longer-than-horizon", "warning", what, Place.of(data.first_rows[long]))


def one_step_episodes(data: Logged) -> Findings:
    short = (data.lengths == 1) & data.complete
    if short.all():
        return
    clustered = np.isin(np.flatnonzero(data.terminals) + 1, np.flatnonzero(data.terminals)).sum() > 3
    if short.sum() >= max(3, 0.01 * len(data.lengths)) and np.median(data.lengths[~short]) >= 10 and not clustered:
        what = f"{int(short.sum()):,} of {len(data.lengths):,} episodes"
        yield Finding("one-step-episodes", "warning", what, Place.of(data.first_rows[short]))


def counts_of_published(data: Logged) -> Findings:
    """Rows and episodes of the D4RL sets that the specification counts; the last one may be cut: 2 are tolerated."""
    name = data.raw.name.lower().replace("_", "-")
    if name not in PUBLISHED:
        return
    episodes, rows = PUBLISHED[name]
    found = int(data.complete.sum())
    if abs(found - episodes) > 2 or data.rows != rows:
        what = f"{found:,} episodes in {data.rows:,} rows; {name} has {episodes:,} in {rows:,}"
        yield Finding("counts-disagree", "warning", what)


def episode_ids(data: Logged) -> Findings:
    for name, ids in data.raw.extras.items():
        if name.rsplit("/", 1)[-1] not in EPISODE_NAMES or ids.size != len(ids) or len(ids) < data.rows:
            continue
        ids = ids[: data.rows].reshape(-1)
        ends = data.ends[:-1]
        if data.recorded is not None:  # not those of pieces of one episode
            ends = ends & (np.diff(recorded_numbers(data.recorded)) != 0)
        disagree = np.flatnonzero((ids[1:] != ids[:-1]) != ends)
        if len(disagree):
            what = f"{name} changes {int((ids[1:] != ids[:-1]).sum()):,} times, {int(ends.sum()):,} end flags"
            yield Finding("episode-ids-disagree", "warning", what, Place.of(disagree, [name]))


def duplicates_of_episodes(data: Logged) -> Findings:
    copies = copied_episodes(data)
    if len(copies):
        rows = int(data.lengths[copies].sum())
        grade: Grade = "note" if _few_values(data) else "warning"
        what = f"{len(copies):,} of {len(data.lengths):,} episodes ({rows / data.rows:.1%} of the rows)"
        yield Finding("duplicated-episodes", grade, what, Place.of(data.first_rows[copies]), fixable=grade == "warning")


@once
def copied_episodes(data: Logged) -> np.ndarray:
    """Episodes of 5 steps or more that repeat an earlier one to the last bit."""
    hashes = data.row_hashes
    step = np.arange(data.rows) - data.first_rows[data.episode]
    hashes = (hashes + step.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    hashes ^= hashes >> np.uint64(31)
    whole = np.add.reduceat(hashes, data.first_rows) + data.lengths.astype(np.uint64)
    _, first = np.unique(whole, return_index=True)
    copy = np.ones(len(whole), np.bool_)
    copy[first] = False
    return np.flatnonzero(copy & (data.lengths >= 5))


def duplicated_rows(data: Logged) -> Findings:
    """Equal rows in different places, outside copied episodes."""
    kept = ~np.isin(data.episode, copied_episodes(data))
    kept[repeated(data)] = False
    kept = np.flatnonzero(kept)
    hashes = data.row_hashes[kept]
    _, first = np.unique(hashes, return_index=True)
    copies = np.delete(kept, first)
    if len(copies):
        share = len(copies) / data.rows
        grade: Grade = "warning" if share > 0.01 and not _few_values(data) and not _at_rest(data, copies) else "note"
        yield Finding("duplicated-rows", grade, f"{share:.2%} of the rows", Place.of(copies))


def repeated_rows(data: Logged) -> Findings:
    rows = repeated(data)
    if len(rows) >= max(3, 1e-4 * data.rows):
        grade: Grade = "note" if _few_values(data) else "warning"
        what = f"{len(rows):,} rows with the observation and action of the row before, and motion afterwards"
        yield Finding("repeated-rows", grade, what, Place.of(rows))


@once
def repeated(data: Logged) -> np.ndarray:
    """Rows equal to the row before them inside an episode, unless the state rests so until the end."""
    if data.rows < 3:
        return np.array([], np.int64)
    hashes = data.pair_hashes
    equal = np.concatenate([[False], (hashes[1:] == hashes[:-1]) & data.inside])
    return np.flatnonzero(equal & ~_rest(data, equal))


def _rest(data: Logged, equal: np.ndarray) -> np.ndarray:
    """Rows of `equal` that belong to the run of equal rows with which their episode ends."""
    different = np.where(~equal, np.arange(data.rows), -1)
    last_different = np.maximum.reduceat(different, data.first_rows)[data.episode]
    return equal & (np.arange(data.rows) > last_different)


def _at_rest(data: Logged, rows: np.ndarray) -> bool:
    """Whether most of these rows are repetitions at the end of their episode (the state has settled)."""
    hashes = data.pair_hashes
    equal = np.concatenate([[False], (hashes[1:] == hashes[:-1]) & data.inside])
    return bool(_rest(data, equal)[rows].mean() > 0.5)


@once
def _few_values(data: Logged) -> bool:
    """Whether observations come from a small set (grids, bandits): then copies are natural."""
    rows = data.sample[:20_000]
    return bool(
        len(np.unique(data.state_hashes[rows])) < 0.05 * len(rows) or len(np.unique(data.observations[rows])) < 100
    )


class Clock(NamedTuple):
    """A column of times: the step from each row to the next, the usual one, and which are gaps in its ticking."""

    name: str
    steps: Float[np.ndarray, " steps"]
    usual: float
    gaps: Bool[np.ndarray, " steps"]


@once
def clocks(data: Logged) -> list[Clock]:
    """Of the columns that the source, or their name, call clocks."""
    found = []
    for name, stamps in data.raw.extras.items():
        known = name == data.raw.clock or name.rsplit("/", 1)[-1].lower() in TIME_NAMES
        if not known or stamps.dtype.kind not in "iufM" or stamps.size != len(stamps) or len(stamps) < data.rows:
            continue
        stamps = stamps[: data.rows].reshape(-1)
        stamps = stamps.astype("M8[ns]") if stamps.dtype.kind == "M" else stamps
        # Nanoseconds since 1970 do not fit into a double: their differences do.
        steps = np.diff(stamps if stamps.dtype.kind == "f" else stamps.astype(np.int64)).astype(np.float64)
        forward = data.inside & np.isfinite(steps) & (steps > 0)
        usual = float(np.median(steps[forward])) if forward.any() else np.nan
        gaps = np.isfinite(steps) & (steps > GAP * usual)
        gaps[1:] &= steps[:-1] > 0  # after a step back it only returns
        ticks = forward.any() and np.mean(np.abs(steps[forward] / usual - 1) <= UNEVEN) > 0.9
        found.append(Clock(name, steps, usual, gaps if ticks else np.zeros_like(gaps)))
    return found


def time_stamps(data: Logged) -> Findings:
    """Clock columns: must not run backwards, and tick evenly. Times that repeat are those of a coarse clock."""
    for clock in clocks(data):
        inside = data.inside & np.isfinite(clock.steps)
        grades: tuple[tuple[Grade, np.ndarray, str], ...] = (
            ("error", clock.steps < 0, "it runs backwards"),
            ("note", clock.steps == 0, "it stands still"),
        )
        for grade, steps, how in grades:
            if len(rows := np.flatnonzero(inside & steps)):
                what = f"{clock.name}: {how} after {len(rows):,} rows"
                yield Finding("time-not-increasing", grade, what, Place.of(rows, [clock.name]))
        yield from _gaps(data, clock)
        forward = inside & (clock.steps > 0)
        uneven = np.flatnonzero(forward & (np.abs(clock.steps / clock.usual - 1) > UNEVEN) & ~clock.gaps)
        if len(uneven) > max(2, 0.001 * forward.sum()):
            rates = _rates(clock.steps[forward])
            what = f"{clock.name}: {len(uneven):,} steps ({len(uneven) / forward.sum():.1%}) differ; {rates}"
            yield Finding("uneven-time-steps", "warning", what, Place.of(uneven, [clock.name]))


def _gaps(data: Logged, clock: Clock) -> Findings:
    """Gaps inside episodes, and between pieces of what looks like one recording."""
    name, steps, usual, gaps = clock
    inside = np.flatnonzero(gaps & data.inside)
    if len(inside):
        what = f"{name}: {len(inside):,} steps inside episodes are longer than {usual:g}, up to {steps[inside].max():g}"
        yield Finding("time-gaps", "warning", what, Place.of(inside, [name]))
    cut = np.flatnonzero(gaps & data.timeouts[:-1] & (steps < SHORT_GAP * usual))
    if len(cut):
        range_ = f"{steps[cut].min():g} to {steps[cut].max():g}"
        what = f"{name}: {len(cut):,} episodes end at gaps of {range_}, where steps are {usual:g}"
        yield Finding("time-gaps", "note", what, Place.of(cut, [name]))


def _rates(steps: np.ndarray) -> str:
    """The commonest steps (to 2 digits) and their shares."""
    rounded = np.array([float(f"{step:.2g}") for step in steps[:: max(1, len(steps) // 20_000)]])
    values, counts = np.unique(rounded, return_counts=True)
    order = np.argsort(-counts)[:3]
    return "commonest " + ", ".join(f"{values[i]:g} ({counts[i] / len(rounded):.0%})" for i in order)
