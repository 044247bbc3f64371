"""Checks of rewards, and of what belongs to which row."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tether.data.doctor.findings import Finding, Grade, Place
from tether.data.doctor.logged import Logged
from tether.data.doctor.regression import fit

__all__ = [
    "actions_shifted",
    "constant_reward",
    "family_rules",
    "few_rewards",
    "repaid_rewards",
    "returns_of_task",
    "reward_of_state",
    "reward_shifted",
    "sparse_reward_shifted",
]

ALIGNED_ROWS = 8_000
"""Rows that the regressions of the alignment tests look at, half of them to be judged on."""
GOAL_BOXES = {  # lower corner of AntMaze's goals; they reach 1.5 further in x and y (d4rl-facts 5, 5.1)
    "umaze": (0.0, 8.0),
    "medium": (20.0, 20.0),
    "large": (32.0, 24.0),
}
GOAL_EXTENT, GOAL_RADIUS = 1.5, 0.5

Findings = Iterator[Finding]


# --- distribution -------------------------------------------------------------------------------------------


def constant_reward(data: Logged) -> Findings:
    assert data.rewards is not None
    if data.rows < 2 or (data.rewards != data.rewards[0]).any():
        return
    lengths_tell = bool(data.terminals.any()) and len(np.unique(data.lengths)) > 1 and data.rewards[0] != 0
    grade: Grade = "note" if lengths_tell else "error"
    yield Finding("constant-reward", grade, f"all {data.rows:,} rewards are {data.rewards[0]:g}")


def few_rewards(data: Logged) -> Findings:
    """Sparse rewards: one value in more than 95 % of the rows."""
    assert data.rewards is not None
    values, counts = np.unique(data.rewards, return_counts=True)
    if len(values) < 2 or counts.max() < 0.95 * data.rows or data.rows < 100:
        return
    common = float(values[counts.argmax()])
    rows = np.flatnonzero(data.rewards != common)
    episodes = len(np.unique(data.episode[rows]))
    what = (
        f"{len(rows):,} rows ({len(rows) / data.rows:.3%}) in {episodes:,} of {len(data.lengths):,} episodes differ "
        f"from {common:g}"
    )
    few = len(rows) < 10 and data.rows >= 1000
    yield Finding("few-rewarded-rows" if few else "sparse-reward", "warning" if few else "note", what, Place.of(rows))


def repaid_rewards(data: Logged) -> Findings:
    """Kitchen's reward: a small count that is paid each step and hardly ever falls inside an episode."""
    assert data.rewards is not None
    kitchen = data.raw.name.lower().replace("_", "-").startswith(("kitchen", "d4rl/kitchen"))
    values = np.unique(data.rewards[data.sample])
    counts = len(values) <= 8 and bool((values == np.round(values)).all()) and values.min() >= 0 and values.max() >= 2
    if not counts or data.rows < 10:
        return
    steps = np.diff(data.rewards)[data.inside]
    held = (steps == 0) & (data.rewards[:-1][data.inside] > 0)
    up, down = int((steps > 0).sum()), int((steps < 0).sum())
    if up >= 3 and down <= 0.2 * up and held.sum() > 3 * up:
        grade: Grade = "warning" if kitchen else "note"
        what = f"rewards {', '.join(f'{value:g}' for value in values)} rise {up:,} times, fall {down:,} times"
        yield Finding("repaid-rewards", grade, what)


def returns_of_task(data: Logged) -> Findings:
    """Normalised scores far outside 0 to 100."""
    task = data.task
    if task is None or task.reference_min is None or data.rewards is None:
        return
    if any(finding.grade == "warning" for finding in repaid_rewards(data)):
        return
    scores = task.normalized_score(data.returns[data.complete])
    if not len(scores):
        return
    stream = data.horizon is not None and data.lengths[data.complete].max() > 3 * data.horizon
    # 150: D4RL's own best data are below 130; -50: an agent that does worse than random, but not by scale.
    if not stream and (scores.max() > 150 or np.median(scores) < -50):
        what = f"normalised scores from {scores.min():.0f} to {scores.max():.0f}, median {np.median(scores):.0f}"
        yield Finding("returns-out-of-scale", "warning", what)


# --- alignment ----------------------------------------------------------------------------------------------


class Errors(NamedTuple):
    """Squared errors on unseen rows, one column per hypothesis, and the block of rows that each belongs to."""

    squared: np.ndarray
    block: np.ndarray
    variance: float

    def explained(self) -> np.ndarray:
        return 1 - self.squared.mean(axis=0) / self.variance

    def confidence(self, better: int, worse: int) -> float:
        """By how many standard errors hypothesis `better` has the smaller error, blocks taken as independent."""
        difference = self.squared[:, worse] - self.squared[:, better]
        blocks = np.unique(self.block, return_inverse=True)[1]
        means = np.bincount(blocks, difference) / np.bincount(blocks)
        if len(means) < 5:
            return 0.0
        return float(means.mean() / (means.std(ddof=1) / np.sqrt(len(means)) + 1e-300))


def _rows_with_neighbours(data: Logged) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows i with i-1 to i+2 in the same episode, and a block number for each: its episode, or a stretch of 500."""
    if data.rows < 500:
        return None
    same = data.inside[:-2] & data.inside[1:-1] & data.inside[2:]
    rows = np.flatnonzero(same) + 1
    rows = rows[:: max(1, len(rows) // ALIGNED_ROWS)]
    if len(rows) < 300:
        return None
    blocks = data.episode[rows] if len(data.lengths) >= 20 else rows // max(50, data.rows // 40)
    return rows, blocks


def _errors_of(inputs: list[np.ndarray], target: np.ndarray, blocks: np.ndarray) -> Errors | None:
    """Held-out errors of predicting `target` from each of `inputs`; every second block is held out."""
    seen = np.unique(blocks, return_inverse=True)[1] % 2 == 0
    if min(seen.sum(), (~seen).sum()) < 100 or target[~seen].var(axis=0).sum() == 0:
        return None
    target = target.reshape(len(target), -1)
    squared = []
    for x in inputs:
        predicted = fit(x[seen], target[seen], flexible=True, ridge=1e-4).predict(x[~seen])
        squared.append(((predicted - target[~seen]) ** 2).sum(axis=1))
    variance = float(target[~seen].var(axis=0).sum())
    return Errors(np.stack(squared, axis=1), blocks[~seen], variance)


def reward_shifted(data: Logged) -> Findings:
    """Which transition explains the stored reward best: its own (o_i, a_i, o_{i+1}), the one before, the one after?

    Three equal regressions are compared on episodes that none has seen. A shift is reported if the best is not the
    own one, explains more than half of the reward, has less than 0.7 of its error, is better in the average episode by
    5 standard errors, and the opposite shift is no better than the own. A reward of a single state fits two of the three
    equally well, and is not reported here.
    """
    if data.observations is None or data.actions is None or data.rewards is None:
        return
    found = _rows_with_neighbours(data)
    if found is None:
        return
    rows, blocks = found
    o, a = data.observations, data.actions
    inputs = [
        np.concatenate([o[rows + k], a[rows + k], o[rows + k + 1]], axis=1).astype(np.float64) for k in (0, -1, 1)
    ]
    errors = _errors_of(inputs, data.rewards[rows], blocks)
    if errors is None:
        return
    explained, mean = errors.explained(), errors.squared.mean(axis=0)
    best, opposite = (1, 2) if mean[1] < mean[2] else (2, 1)
    shifted = mean[best] < 0.7 * mean[0] and mean[opposite] >= 0.95 * mean[0]
    if shifted and explained[best] > 0.5 and errors.confidence(best, 0) > 5:
        direction = "before" if best == 1 else "after"
        grade: Grade = "error" if explained[best] > 0.9 else "warning"
        what = (
            f"the transition {direction} explains {explained[best]:.2%} of the rewards, their own "
            f"{explained[0]:.2%} ({errors.confidence(best, 0):.0f} standard errors)"
        )
        yield Finding("reward-shifted", grade, what, figures={"explained": explained.tolist()})


def sparse_reward_shifted(data: Logged) -> Findings:
    """Sparse rewards that fall on the first row of an episode (one row late) or on the row before the terminal.

    The first row follows a reset: that nearly all rewards fall there, and there are terminals that none falls on, is
    the mark of a column that was shifted by one. The same of the last row but one, if terminals are 20 steps apart.
    """
    if data.rewards is None or data.rows < 100:
        return
    values, counts = np.unique(data.rewards, return_counts=True)
    rows = np.flatnonzero(data.rewards != values[counts.argmax()])
    if len(rows) < 5 or len(rows) > 0.05 * data.rows or data.terminals.sum() < 5 or np.median(data.lengths) < 5:
        return
    # The very first row follows no terminal; a terminal in the last row is followed by none.
    after_terminal = (data.terminals[np.maximum(rows - 1, 0)] & (rows > 0)).mean()
    before_terminal = data.terminals[np.minimum(rows + 1, data.rows - 1)].mean()
    on_terminal = data.terminals[rows].mean()
    for share, where in ((after_terminal, "on the row after a terminal"), (before_terminal, "on the row before one")):
        if share > 0.9 and on_terminal < 0.1:
            what = f"{share:.0%} of the {len(rows):,} rewards are {where}, {on_terminal:.0%} on a terminal"
            yield Finding("reward-shifted", "error", what, Place.of(rows))


def reward_of_state(data: Logged) -> Findings:
    """Rewards that the row's observation explains far better than the next one, and the action does not matter."""
    if data.observations is None or data.actions is None or data.rewards is None:
        return
    found = _rows_with_neighbours(data)
    if found is None:
        return
    rows, blocks = found
    rows, blocks = _around_changes(data, rows, blocks)
    o = data.observations.astype(np.float64)
    errors = _errors_of([o[rows], o[rows + 1], o[rows - 1]], data.rewards[rows], blocks)
    if errors is None:
        return
    mean, explained = errors.squared.mean(axis=0), errors.explained()
    if explained[0] > 0.6 and mean[0] < 0.5 * mean[1] and mean[0] < 0.5 * mean[2] and errors.confidence(0, 1) > 5:
        grade: Grade = "warning" if data.raw.name.lower().startswith("maze2d") else "note"
        what = f"the row's observation explains {explained[0]:.1%} of the rewards, the next one {explained[1]:.1%}"
        yield Finding("reward-of-current-state", grade, what)


def _around_changes(data: Logged, rows: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rewards with few values only the rows around changes can tell one row from the next: those, if enough."""
    assert data.rewards is not None
    if len(np.unique(data.rewards[data.sample])) > 10:
        return rows, blocks
    changes = np.flatnonzero((np.diff(data.rewards) != 0) & data.inside)
    near = np.unique((changes[:, None] + np.arange(-2, 4)[None, :]).reshape(-1))
    near = near[(near >= 1) & (near < data.rows - 2)]
    near = near[data.inside[near - 1] & data.inside[near] & data.inside[np.minimum(near + 1, data.rows - 2)]]
    if len(near) < 400:
        return rows, blocks
    near = near[:ALIGNED_ROWS]
    many = len(np.unique(data.episode[near])) >= 20
    return near, data.episode[near] if many else np.arange(len(near)) // max(20, len(near) // 40)


def actions_shifted(data: Logged) -> Findings:
    """Is the state moved by the stored action of this row, of the next, or of the one before?

    One row late (`the action that led here`): the change o_{i+1} - o_i is explained by the next row's action and not
    at all by the row's own. That alone could be a policy a_{i+1} = f(o_{i+1}) that gives the state away, but then the
    stored action follows from its own row's observation; in shifted data it follows from the row before. Both are
    demanded. One row early, likewise: the change is explained by the action of the row before, and
    stored actions follow from the next row's observation.
    """
    if data.observations is None or data.actions is None:
        return
    found = _rows_with_neighbours(data)
    if found is None:
        return
    rows, blocks = found
    o, a = data.observations.astype(np.float64), data.actions.astype(np.float64)
    chosen = _errors_of([o[rows + k] for k in (0, -1, 1)], a[rows], blocks)
    if chosen is None:
        return
    choice = chosen.squared.mean(axis=0)
    sources = [k for k in (1, 2) if choice[k] < 0.9 * choice[0] and chosen.confidence(k, 0) > 5]
    if not sources:
        return
    change = o[rows + 1] - o[rows]
    change = change[:, change.std(axis=0) > 0]
    history = np.concatenate([o[rows - 1], o[rows]], axis=1)
    inputs = [history, *(np.concatenate([history, a[rows + k]], axis=1) for k in (0, -1, 1))]
    moved = _errors_of(inputs, change / change.std(axis=0), blocks)
    if moved is None:
        return
    error = moved.squared.mean(axis=0)
    gain = 1 - error[1:] / error[0]  # by the row's own action, by that before, by that after
    for source in sources:
        late = source == 1  # stored actions follow from the row before: the one that acts is in the row after
        index = 2 if late else 1
        explains = gain[index] > 0.1 and moved.confidence(index + 1, 1) > 5
        if explains and gain[0] < (0.2 * gain[index] if late else gain[index]):
            what = (
                f"one row {'late' if late else 'early'}: the row's own action removes {max(gain[0], 0):.1%} of the "
                f"error in predicting the next observation, that of the row {'after' if late else 'before'} "
                f"{gain[index]:.1%}"
            )
            yield Finding("actions-shifted", "error", what, figures={"gain": gain.tolist()})


# --- rules of known families --------------------------------------------------------------------------------


def family_rules(data: Logged) -> Findings:
    """What the published D4RL sets of a family keep to (d4rl-facts 3 and 9)."""
    name = data.raw.name.lower().replace("_", "-")
    if data.rewards is None or data.observations is None or data.raw.layout == "minari":
        return
    if name.startswith("antmaze"):
        yield from _antmaze(data, name)
    elif name.startswith("kitchen"):
        yield from _kitchen(data)
    elif name.startswith(("halfcheetah", "maze2d")) or re.match(r"(pen|door|hammer|relocate)-human-v1", name):
        rows = np.flatnonzero(data.terminals)
        if len(rows):
            what = f"{len(rows):,} terminals; sets of this task have none"
            yield Finding("not-as-published", "warning", what, Place.of(rows))


def _antmaze(data: Logged, name: str) -> Findings:
    assert data.rewards is not None and data.observations is not None
    values = np.unique(data.rewards[data.sample])
    if not np.isin(values, (0.0, 1.0)).all():
        what = f"rewards from {values.min():g} to {values.max():g}; raw ones are 0 and 1"
        yield Finding("returns-out-of-scale", "warning", what)
        return
    differ = np.flatnonzero((data.rewards == 1) != data.terminals)
    if name.endswith("-v2") and len(differ):
        yield Finding("not-as-published", "warning", "reward 1 and terminal disagree", Place.of(differ))
    size = next((size for size in GOAL_BOXES if f"-{size}" in name), None)
    rows = np.flatnonzero((data.rewards[:-1] == 1) & ~data.timeouts[:-1])
    if size is None or data.observations.shape[1] < 2 or len(rows) == 0:
        return
    xy, low = data.observations[rows + 1, :2], np.array(GOAL_BOXES[size])
    beyond = np.maximum(np.maximum(low - xy, xy - (low + GOAL_EXTENT)), 0)
    away = rows[np.linalg.norm(beyond, axis=1) > GOAL_RADIUS + 0.1]
    if len(away):
        what = f"{len(away):,} of {len(rows):,} rewarded rows lead to a place more than 0.5 from every goal"
        yield Finding("reward-away-from-goal", "warning", what, Place.of(away))


def _kitchen(data: Logged) -> Findings:
    assert data.rewards is not None and data.observations is not None
    strange = np.flatnonzero(~np.isin(data.rewards, np.arange(5)))
    if len(strange):
        yield Finding("not-as-published", "warning", "rewards are 0 to 4 in the published sets", Place.of(strange))
    if data.observations.shape[1] == 60:
        goals = data.observations[:, 30:]
        rows = np.flatnonzero((goals != goals[0]).any(axis=1))
        if len(rows):
            yield Finding("not-as-published", "warning", "observations[30:] are constant goals there", Place.of(rows))
