"""Checks of rewards, and of what belongs to which row."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tether.data.scale import (
    LARGEST_VALUES,
    SMALLEST_VALUES,
    STEPS_OF_VALUE,
    mending_transform,
    root_mean_square,
)
from tether.data.transforms import REWARD_TRANSFORMS, rewards_tell_nothing
from tether.doctor.findings import Finding, Grade, Place
from tether.doctor.leaks import leaks
from tether.doctor.logged import Logged, once
from tether.doctor.regression import fit
from tether.types import Transition

__all__ = [
    "actions_shifted",
    "constant_reward",
    "family_rules",
    "few_rewards",
    "repaid_rewards",
    "returns_of_task",
    "reward_of_state",
    "reward_scale",
    "reward_shifted",
    "sparse_reward_shifted",
]

ALIGNED_ROWS, WIDE = 8_000, 100
"""Rows that the regressions of the alignment tests look at, half of them to be judged on; half as many where
observations have more than `WIDE` columns."""
GOAL_BOXES = {  # lower corner of AntMaze's goals; they reach 1.5 further in x and y (the D4RL package)
    "umaze": (0.0, 8.0),
    "medium": (20.0, 20.0),
    "large": (32.0, 24.0),
}
GOAL_EXTENT, GOAL_RADIUS = 1.5, 0.5

Findings = Iterator[Finding]


# --- distribution -------------------------------------------------------------------------------------------


def constant_reward(data: Logged) -> Findings:
    if data.rows < 2 or (data.rewards != data.rewards[0]).any():
        return
    grade: Grade = "error" if rewards_tell_nothing(data.rewards, data.terminals, data.lengths) else "note"
    yield Finding("constant-reward", grade, f"all {data.rows:,} rewards are {data.rewards[0]:g}")


def reward_scale(data: Logged) -> Findings:
    """Rewards whose sums over a hundred steps are beyond what a critic reaches, or below its noise."""
    steps = min(STEPS_OF_VALUE, float(data.lengths.mean())) if data.rows else 0.0
    if data.rows < 2 or (data.rewards == data.rewards[0]).all():
        return
    size = root_mean_square(data.rewards) * steps
    largest = float(np.abs(data.rewards).max()) * steps
    if size > LARGEST_VALUES:
        what = f"a hundred steps add up to about {size:.2g}"
    elif largest < SMALLEST_VALUES:
        what = f"a hundred steps add up to {largest:.2g} at most"
    else:
        return
    found = f"rewards from {data.rewards.min():.3g} to {data.rewards.max():.3g}: {what}; "
    yield Finding("reward-scale", "warning", found + _suggested(data, steps))


def _suggested(data: Logged, steps: float) -> str:
    """The first transform after which the rewards can be learnt."""
    observations = data.narrow if data.has("observations") else np.zeros((data.rows, 1), np.float32)
    if data.raw.exact_next_observations and data.has("observations", "next_observations"):  # time-outs are kept
        rows, observations, following = np.arange(data.rows), data.observations, data.next_observations
    else:
        rows = np.flatnonzero(data.terminals[:-1] | ~data.timeouts[:-1])
        following = observations[rows + 1]
    ended = data.terminals[rows].astype(np.float32)
    table = Transition(observations[rows], data.actions[rows], data.rewards[rows], following, ended)  # pyright: ignore[reportArgumentType]
    with np.errstate(over="ignore"):  # distances of huge observations
        name = mending_transform(table, data.rewards, steps)
    if not name:
        return "scale them where they are computed"
    with np.errstate(over="ignore"):
        rewards = REWARD_TRANSFORMS.find(name)(table)[0](data.rewards)
    return f"with --reward-transform {name} they are {rewards.min():.3g} to {rewards.max():.3g}"


def few_rewards(data: Logged) -> Findings:
    """Sparse rewards: one value in more than 95 % of the rows."""
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
    if task is None or task.reference_min is None or task.recorded_returns:
        return
    scores = task.normalized_score(data.returns)
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
    by_target: np.ndarray
    """The mean squared error of each hypothesis (row) in each target (column)."""

    def explained(self) -> np.ndarray:
        return 1 - self.squared.mean(axis=0) / self.variance

    def confidence(self, better: int, worse: int) -> float:
        """By how many standard errors hypothesis `better` has the smaller error, blocks taken as independent."""
        return self._mean_over_blocks(self.squared[:, worse] - self.squared[:, better])[1]

    def typical_gain(self, better: int, worse: int, floor: float = 1e-4) -> tuple[float, float]:
        """The mean logarithm of the ratio of their errors, and its size in standard errors.

        Unlike the mean error it is not ruled by the few rows (contacts) that no hypothesis explains. Squared errors
        below `floor` of the variance count as equal, by default those below a hundredth of the spread.
        """
        errors = np.log(self.squared + floor * self.variance)
        return self._mean_over_blocks(errors[:, worse] - errors[:, better])

    def _mean_over_blocks(self, values: np.ndarray) -> tuple[float, float]:
        blocks = np.unique(self.block, return_inverse=True)[1]
        means = np.bincount(blocks, values) / np.bincount(blocks)
        if len(means) < 5:
            return 0.0, 0.0
        mean = float(means.mean())
        return mean, float(mean / (means.std(ddof=1) / np.sqrt(len(means)) + 1e-300))


def _rows_with_neighbours(data: Logged) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows i with i-1 to i+2 in the same episode, and a block number for each: its episode, or a stretch of 500."""
    if data.rows < 500:
        return None
    same = data.inside[:-2] & data.inside[1:-1] & data.inside[2:]
    rows = np.flatnonzero(same) + 1
    wide = data.narrow.shape[1] > WIDE
    rows = rows[:: max(1, len(rows) // (ALIGNED_ROWS // 2 if wide else ALIGNED_ROWS))]
    if len(rows) < 300:
        return None
    blocks = data.episode[rows] if len(data.lengths) >= 20 else rows // max(50, data.rows // 40)
    return rows, blocks


def _joined(*parts: np.ndarray) -> np.ndarray:
    """Side by side, in double precision."""
    return np.concatenate(parts, axis=1, dtype=np.float64)


def _errors_of(inputs: list[np.ndarray], target: np.ndarray, blocks: np.ndarray) -> Errors | None:
    """Held-out errors of predicting `target` from each of `inputs`; every second block is held out."""
    seen = np.unique(blocks, return_inverse=True)[1] % 2 == 0
    if min(seen.sum(), (~seen).sum()) < 100 or target[~seen].var(axis=0).sum() == 0:
        return None
    target = target.reshape(len(target), -1)
    squared, by_target = [], []
    for x in inputs:
        predicted = fit(x[seen], target[seen], flexible=True, ridge=1e-4).predict(x[~seen])
        each = (predicted - target[~seen]) ** 2
        squared.append(each.sum(axis=1))
        by_target.append(each.mean(axis=0))
    variance = float(target[~seen].var(axis=0).sum())
    return Errors(np.stack(squared, axis=1), blocks[~seen], variance, np.stack(by_target))


def reward_shifted(data: Logged) -> Findings:
    """Which transition explains the stored reward best: its own (o_i, a_i, o_{i+1}), the one before, the one after?

    Three equal regressions are compared on episodes that none has seen. A shift is reported if the best is not the
    own one, explains more than half of the reward, has less than 0.7 of its error on average and in the typical row
    (or half of it in the typical row), is better in the average episode by 5 (8) standard errors, and the opposite
    shift is no better than the own. A reward of a single state fits two of the three equally well, and is not reported
    here.
    """
    found = _rows_with_neighbours(data)
    if found is None:
        return
    rows, blocks = found
    o, a = data.narrow, data.actions
    if shifted_actions(data)[0]:
        a = a[:, :0]  # whose action it is, is not known
    inputs = [_joined(o[rows + k], a[rows + k], o[rows + k + 1]) for k in (0, -1, 1)]
    errors = _errors_of(inputs, data.rewards[rows], blocks)
    if errors is None:
        return
    explained = errors.explained()
    for best, opposite, direction in ((1, 2, "before"), (2, 1, "after")):
        surprise = _surprise(errors, best, opposite)
        if surprise and explained[best] > 0.5:
            grade: Grade = "error" if explained[best] > 0.9 else "warning"
            what = (
                f"the transition {direction} explains {explained[best]:.2%} of the rewards, their own "
                f"{explained[0]:.2%} ({surprise:.0f} standard errors)"
            )
            yield Finding("reward-shifted", grade, what, figures={"explained": explained.tolist()})


def _surprise(errors: Errors, best: int, opposite: int) -> float:
    """By how many standard errors hypothesis `best` beats the own one (0) clearly, if `opposite` does not; else 0."""
    mean = errors.squared.mean(axis=0)
    gain, confidence = errors.typical_gain(best, 0)
    better = mean[best] < 0.7 * mean[0] and mean[opposite] >= 0.95 * mean[0] and gain > 0.4
    if better and errors.confidence(best, 0) > 5:
        return errors.confidence(best, 0)
    clear = gain > np.log(2) and confidence > 8 and errors.typical_gain(0, opposite)[0] > 0.2
    return confidence if clear else 0.0


def sparse_reward_shifted(data: Logged) -> Findings:
    """Sparse rewards that fall on the first row of an episode (one row late) or on the row before the terminal.

    The first row follows a reset: that nearly all rewards fall there, and there are terminals that none falls on, is
    the mark of a column that was shifted by one. The same of the last row but one, if terminals are 20 steps apart.
    """
    if data.rows < 100:
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
    """Rewards of the row's own observation instead of the next one's: 0/1 in a disc, or a smooth function. Where an
    episode's first reward is not of its first observation, the column is a row late."""
    if data.rows < 500:
        return
    values = np.unique(data.rewards[data.sample])
    what = _disc_of_current_state(data, values) if len(values) == 2 else _smooth_of_current_state(data)
    late = _first_rewards_are_not_own(data) if what and len(values) > 2 else ""
    if late and not any(reward_shifted(data)):
        yield Finding("reward-shifted", "error", f"one row late: {what}; {late}")
    elif what and not late:
        grade: Grade = "warning" if data.raw.name.lower().startswith("maze2d") else "note"
        yield Finding("reward-of-current-state", grade, what)


def _disc_of_current_state(data: Logged, values: np.ndarray) -> str:
    """Two-valued rewards: the disc around the rewarded places, in two neighbouring columns, is free of others.

    Under the right alignment the smallest circle around all rewarded places holds no place without reward; one row off,
    each way in or out of the goal blurs it by a step. Demanded: at most 2 % as many intruders as there are changes
    for the own observation, at least 20 % for the next one.
    """
    rows = np.flatnonzero(data.inside)
    paid = data.rewards[rows] == values[np.argmin([(data.rewards == value).sum() for value in values])]
    changes = int((np.diff(data.rewards) != 0)[data.inside].sum())
    if changes < 20 or paid.sum() < 20:
        return ""
    for first in range(min(8, data.observations.shape[1] - 1)):
        plane = data.observations[:, first : first + 2].astype(np.float64)
        own = _intruders(plane[rows], paid)
        if own > 0.02 * changes:
            continue
        following = _intruders(plane[rows + 1], paid)
        if following >= 0.2 * changes:
            return (
                f"observations {first} and {first + 1}: the circle around the rewarded places holds {own:,} others, "
                f"that around the places after them {following:,}; the reward changes {changes:,} times"
            )
    return ""


def _intruders(points: np.ndarray, paid: np.ndarray) -> int:
    """Points that are not `paid` within the smallest circle around those that are (Badoiu and Clarkson's iteration)."""
    inner = points[paid]
    centre, some = inner.mean(axis=0), inner[:: max(1, len(inner) // 2000)]
    for step in range(1, 200):
        farthest = some[((some - centre) ** 2).sum(axis=1).argmax()]
        centre = centre + (farthest - centre) / (step + 1)
    radius = ((inner - centre) ** 2).sum(axis=1).max()
    return int((((points[~paid] - centre) ** 2).sum(axis=1) < 0.98 * radius).sum())


def _smooth_of_current_state(data: Logged) -> str:
    """Other rewards: o_i explains them well and leaves less than 0.6 of the errors of o_{i+1} and o_{i-1}."""
    found = _rows_with_neighbours(data)
    if found is None:
        return ""
    rows, blocks = found
    o = data.narrow
    errors = _errors_of([_joined(o[rows + k]) for k in (0, 1, -1)], data.rewards[rows], blocks)
    if errors is None:
        return ""
    mean, explained = errors.squared.mean(axis=0), errors.explained()
    clear = errors.confidence(0, 1) > 5 and mean[0] < 0.6 * min(mean[1], mean[2])
    # Motion is smooth: neighbours explain nearly everything, too, where the own observation explains all.
    exact = explained[0] > 1 - 1e-4 and mean[0] < 0.05 * min(mean[1], mean[2])
    exact = exact and all(errors.typical_gain(0, other, floor=1e-8)[1] > 5 for other in (1, 2))
    if explained[0] > 0.5 and (clear or exact):
        return f"the row's observation explains {explained[0]:.2%} of the rewards, the next one {explained[1]:.2%}"
    return ""


def _first_rewards_are_not_own(data: Logged) -> str:
    """What stands in the first rows of episodes where a reward of the state was shifted by a row: the last episode's
    reward, or a filler. Empty where their own observations explain them."""
    found, first = _rows_with_neighbours(data), data.first_rows[1:]
    if found is None or len(first) < 5:
        return ""
    inside, rewards = found[0], data.rewards
    model = fit(_joined(data.narrow[inside]), rewards[inside][:, None], flexible=True, ridge=1e-4)

    def errors(rows: np.ndarray, paid: np.ndarray) -> np.ndarray:
        return np.abs(model.predict(_joined(data.narrow[rows]))[:, 0] - rewards[paid])

    own, last = errors(first, first), errors(first - 1, first)
    strange = own > 10 * np.quantile(errors(inside, inside), 0.99) + 1e-3 * rewards.std()
    if strange.mean() < 0.8:
        return ""
    if (rewards[first] == rewards[first[0]]).all():
        return f"in first rows of episodes it is always {rewards[first[0]]:g}"
    return "in first rows of episodes it is the last episode's" if np.median(last) < 0.3 * np.median(own) else ""


def actions_shifted(data: Logged) -> Findings:
    direction, gains = shifted_actions(data)
    if direction:
        other = "after" if direction == "late" else "before"
        what = (
            f"one row {direction}: the row's own action removes {max(gains['own'], 0):.1%} of the error in predicting "
            f"the next observation, that of the row {other} {gains[other]:.1%}"
        )
        grade: Grade = "warning" if "lag" in direction else "error"
        yield Finding("actions-shifted", grade, what, figures={"gain": gains})


@once
def shifted_actions(data: Logged) -> tuple[str, dict[str, float]]:
    """`late`, `early`, `early, or the actuators lag`, or nothing: whose action moves the state from o_i to o_{i+1}?

    The gain of an action is the share of the error that it removes where o_{i+1} - o_i is predicted from o_{i-1} and
    o_i, on unseen episodes. A shift needs a neighbour's action with a gain above 20 % while those of the row's own and
    of the other neighbour are below 0.4 of it. This alone has innocent explanations, so:

    - late (the action stored at i+1 acts): a policy a_{i+1} = f(o_{i+1}) gives the next state away where actions have
      no effect. But then o_{i-1} adds nothing to what o_i tells of the action stored at i, while for a late one
      (o_{i-1}, o_i) are the states before and after it: the pair must remove 30 % of the error of o_i alone.
      Nor may any column answer to the row's own action more than to the one after it: those that do not are then
      read-back, not motion.
    - early (the action stored at i-1 acts): a plant with a lag of one step looks the same, but there the policy reads
      o_i. For an early action it read o_{i+1}: if this explains the stored action better, by 3 standard errors, it is
      a shift, else it may be either.
    """
    found = _rows_with_neighbours(data)
    if found is None:
        return "", {}
    rows, blocks = found
    # A column that holds the action itself says nothing of what moves the state.
    told = list(leaks(data)) if data.narrow is data.observations else []
    o, a = np.delete(data.narrow, told, axis=1), data.actions
    if o.shape[1] == 0:
        return "", {}
    change = _joined(o[rows + 1]) - _joined(o[rows])
    change = change[:, change.std(axis=0) > 0]
    history = _joined(o[rows - 1], o[rows])
    inputs = [history, *(_joined(history, a[rows + k]) for k in (0, -1, 1))]
    moved = _errors_of(inputs, change / change.std(axis=0), blocks)
    if moved is None:
        return "", {}
    error = moved.squared.mean(axis=0)
    own, before, after = (float(gain) for gain in 1 - error[1:] / error[0])
    gains = {"own": own, "before": before, "after": after}

    def rules(index: int, best: float, other: float) -> bool:
        return best > 0.2 and max(own, other) < 0.4 * best and moved.confidence(index, 1) > 5

    late, early = rules(3, after, before), rules(2, before, after)
    if not late and not early:
        return "", gains
    chosen = _errors_of([_joined(o[rows]), history, _joined(o[rows + 1])], _joined(a[rows]), blocks)
    if chosen is None:
        return "", gains
    choice = chosen.squared.mean(axis=0)
    by_column = 1 - moved.by_target[1:] / moved.by_target[0].clip(1e-300)
    answers = (by_column[0] > 0.2) & (by_column[0] > by_column[2] + 0.1)
    if late and choice[1] < 0.7 * choice[0] and not answers.any():
        return "late", gains
    if early:
        return "early" if chosen.confidence(2, 0) > 3 else "early, or the actuators lag", gains
    return "", gains


# --- rules of known families --------------------------------------------------------------------------------


def family_rules(data: Logged) -> Findings:
    """What the published D4RL sets of a family keep to (docs/data.md)."""
    name = data.raw.name.lower().replace("_", "-")
    if data.raw.layout == "minari":
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
    strange = np.flatnonzero(~np.isin(data.rewards, np.arange(5)))
    if len(strange):
        yield Finding("not-as-published", "warning", "rewards are 0 to 4 in the published sets", Place.of(strange))
    if data.observations.shape[1] == 60:
        goals = data.observations[:, 30:]
        rows = np.flatnonzero((goals != goals[0]).any(axis=1))
        if len(rows):
            yield Finding("not-as-published", "warning", "observations[30:] are constant goals there", Place.of(rows))
