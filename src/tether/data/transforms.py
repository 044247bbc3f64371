"""Reward and observation transforms by name (docs/data.md), recorded with the numbers they used.

All statistics are taken over the table that is trained on (`views.raw_table`), as the papers' codes take them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tether.data.dataset import Dataset
from tether.data.decisions import Decisions, sample_decisions
from tether.data.filters import NO_FILTER, filter_episodes
from tether.data.framing import ONE_STEP, Framing, framed
from tether.data.holdout import NO_HOLDOUT, hold_out
from tether.data.schema import Schema
from tether.data.source import Source
from tether.data.views import Trajectories, View, build, raw_table, return_bounds, step_returns
from tether.errors import InputError
from tether.machine.files import to_json
from tether.machine.registry import Registry, registry
from tether.types import Bool, Float, Int, Spec, Transition

__all__ = [
    "OBSERVATION_TRANSFORMS",
    "REWARD_TRANSFORMS",
    "Change",
    "ColumnStatistics",
    "Normaliser",
    "Prepared",
    "column_statistics",
    "no_rewards",
    "prepare",
    "rewards_tell_nothing",
    "trajectory_returns",
]

Rewards = Float[np.ndarray, " batch"]
Numbers = dict[str, float]
RewardFit = tuple[Callable[[Rewards], Rewards], Numbers]
RewardTransform = Callable[[Transition], RewardFit]
"""Transition table -> a function of float64 rewards, and the numbers that it took from the table."""
Observations = Float[np.ndarray, "batch observation"]
ROWS_AT_ONCE = 10_000
ObservationTransform = Callable[[Observations], "Normaliser"]
"""Observations of the table -> the affine map that networks see them through."""


class Normaliser(NamedTuple):
    """The affine map of observations, applied in training and, with the same numbers, by the deployed policy.

    `std` is the divisor itself: the constant that a transform adds to the standard deviation is in it.
    """

    mean: Float[np.ndarray, " observation"]
    std: Float[np.ndarray, " observation"]

    def normalise(self, x: Any) -> Any:
        """(x - mean) / std for one observation or a NumPy batch; `vmap` it over a JAX batch."""
        return (x - self.mean) / self.std


class ColumnStatistics(NamedTuple):
    """Of each number of some observations, as the data have them."""

    rows: int
    mean: Float[np.ndarray, " observation"]
    std: Float[np.ndarray, " observation"]
    low: Float[np.ndarray, " observation"]
    high: Float[np.ndarray, " observation"]


def column_statistics(observations: Observations) -> ColumnStatistics:
    """Over all rows; few at a time are held in float64."""
    mean = observations.mean(axis=0, dtype=np.float64)
    parts = [observations[start : start + ROWS_AT_ONCE] for start in range(0, len(observations), ROWS_AT_ONCE)]
    squares = np.sum([np.square(part - mean).sum(axis=0) for part in parts], axis=0)
    std = np.sqrt(squares / len(observations))
    return ColumnStatistics(len(observations), mean, std, observations.min(axis=0), observations.max(axis=0))


class Change(NamedTuple):
    """What is done to every table before a view makes columns of it; None where a quantity is left as it is.
    The numbers are those of the data that are trained on, whichever episodes are given."""

    view: View = View()
    reward: Callable[[Rewards], Rewards] | None = None
    observation: "Normaliser | None" = None

    def rewards(self, dataset: Dataset) -> Rewards:
        """Of every row of the file."""
        return dataset.rewards if self.reward is None else self.reward(dataset.rewards.astype(np.float64))

    def columns(self, dataset: Dataset, table: Transition, rows: Any) -> Any:
        """What training reads of `table`, the view's own of `dataset`; where decisions are framed, of these."""
        if self.view.framing.changes_data:
            return self.decisions(dataset)[0]
        changed: dict[str, Any] = {}
        rewards = self.rewards(dataset)
        if self.reward is not None:
            changed["reward"] = rewards[rows].astype(np.float32)
        if self.observation is not None:
            changed["observation"] = self.observation.normalise(np.asarray(table.observation))
            changed["next_observation"] = self.observation.normalise(np.asarray(table.next_observation))
        return build(self.view, dataset, rows, table._replace(**changed), rewards)

    def decisions(self, dataset: Dataset) -> tuple[Any, Int[np.ndarray, " decisions"]]:
        """What the view makes of the decisions in `dataset`, and the row that each begins at."""
        view = self.view
        changed: dict[str, Any] = {"rewards": self.rewards(dataset)}
        for name in ("observations", "next_observations"):
            if self.observation is not None and (column := getattr(dataset, name)) is not None:
                changed[name] = self.observation.normalise(column)
        steps = dataclasses.replace(dataset, **changed)
        decisions, begins = framed(steps, view.framing, view.discount)
        table, rows = raw_table(view, decisions)
        made, begins = build(view, decisions, rows, table, decisions.rewards), begins[rows]
        if getattr(made, "return_to_go", None) is None:
            return made, begins
        # What is paid after the last whole decision of an episode belongs to the returns, too.
        returns = step_returns(steps, steps.rewards, view.discount, view.endless)
        return made._replace(return_to_go=returns[begins].astype(np.float32)), begins

    def rows_of(self, dataset: Dataset) -> tuple[Any, Int[np.ndarray, " rows"]]:
        """What training reads of other episodes, and the row of `dataset` that each entry begins at. Raises InputError
        where they are too short for any."""
        if self.view.framing.changes_data:
            return self.decisions(dataset)
        table, rows = raw_table(self.view, dataset)
        return self.columns(dataset, table, rows), rows


class Prepared(NamedTuple):
    """What training needs of a data set: the view's float32 NumPy columns, sizes, normaliser, record of it."""

    transitions: Transition | Trajectories
    spec: Spec
    normaliser: Normaliser
    record: dict[str, Any]  # JSON-able; goes to config.json
    seen: ColumnStatistics  # of the observations of all rows that are trained on
    schema: Schema | None = None  # names of the columns, the robot's range of actions
    source: Source | None = None  # whose SHA-256 goes to config.json, too
    no_rewards: str = ""  # why nothing can be learnt from the rewards; empty where something can
    held_out: Any = None  # as `transitions`, of the episodes that are held out; None where none are
    decisions: Decisions | None = None  # of which the trust in a policy is made; None where they are too few
    framing: Framing = ONE_STEP  # of the decisions that `transitions` are; `spec` is that of a step
    change: Change = Change()  # by which `transitions` were made

    @property
    def decision(self) -> Spec:
        """Sizes of what the algorithm trains on."""
        return self.framing.decision(self.spec)


def trajectory_returns(transitions: Transition) -> Float[np.ndarray, " trajectories"]:
    """Undiscounted returns of the trajectories in a transition table, segmented as IQL's authors do.

    A trajectory ends at a terminal row, where the next observation is not the next row's observation
    (|o'_i - o_{i+1}| > 1e-6), and with the table. The last trajectory counts
    even if it is unfinished, as it does for the authors.
    """
    observation, next_observation = (
        np.asarray(transitions.observation),
        np.asarray(transitions.next_observation),
    )
    jumps = np.linalg.norm(next_observation[:-1] - observation[1:], axis=1) > 1e-6
    ends: Bool[np.ndarray, " rows"] = (np.asarray(transitions.terminal)[:-1] > 0) | jumps
    starts = np.concatenate([[0], np.flatnonzero(ends) + 1])
    return np.add.reduceat(np.asarray(transitions.reward, np.float64), starts)


def _rewards(transitions: Transition) -> Rewards:
    return np.asarray(transitions.reward, np.float64)


def _none(transitions: Transition) -> RewardFit:
    """r."""
    return lambda r: r, {}


def _iql_locomotion(transitions: Transition) -> RewardFit:
    """r 1000 / (R_max - R_min), R the returns of the table's trajectories."""
    returns = trajectory_returns(transitions)
    low, high = float(returns.min()), float(returns.max())
    if high == low:
        raise InputError(
            "reward transform 'iql_locomotion' divides by R_max - R_min, but all trajectories of this data "
            f"set ({len(returns)}) return {low:g}; choose another, such as 'none' or 'standardise'"
        )
    factor = 1000.0 / (high - low)
    numbers = {"factor": factor, "return_min": low, "return_max": high, "trajectories": len(returns)}
    return lambda r: r * factor, numbers


def _iql_antmaze(transitions: Transition) -> RewardFit:
    """r - 1."""
    return lambda r: r - 1.0, {}


def _cql_antmaze(transitions: Transition) -> RewardFit:
    """4 (r - 0.5)."""
    return lambda r: 4.0 * (r - 0.5), {}


def _corl_antmaze(transitions: Transition) -> RewardFit:
    """10 r - 5."""
    return lambda r: 10.0 * r - 5.0, {}


def _standardise(transitions: Transition) -> RewardFit:
    """(r - mean) / std over the table."""
    rewards = _rewards(transitions)
    _refuse_constant("standardise", rewards)
    mean, std = float(rewards.mean()), float(rewards.std())
    return lambda r: (r - mean) / std, {"mean": mean, "std": std}


def _minmax_pm1(transitions: Transition) -> RewardFit:
    """2 (r - r_min) / (r_max - r_min) - 1."""
    rewards = _rewards(transitions)
    _refuse_constant("minmax_pm1", rewards)
    low, high = float(rewards.min()), float(rewards.max())
    return lambda r: 2.0 * (r - low) / (high - low) - 1.0, {"reward_min": low, "reward_max": high}


def _bdpo_antmaze(transitions: Transition) -> RewardFit:
    """100 r (BDPO, arXiv 2502.04778)."""
    return lambda r: 100.0 * r, {}


def _dice_antmaze(transitions: Transition) -> RewardFit:
    """0 where r > 0, else -1."""
    return lambda r: np.where(r > 0, 0.0, -1.0), {}


def _sparse(transitions: Transition) -> RewardFit:
    """0 where r = 0, else -1: all of an OGBench task or nothing (QC, arXiv 2507.07969)."""
    return lambda r: np.where(r == 0, 0.0, -1.0), {}


def _refuse_constant(name: str, rewards: Rewards) -> None:
    if rewards.min() == rewards.max():
        raise InputError(
            f"reward transform {name!r} divides by the spread of the rewards, but all {len(rewards)} of this "
            f"data set are {rewards[0]:g}; choose another, such as 'none'"
        )


REWARD_TRANSFORMS: Registry[RewardTransform] = registry("reward_transform").provide(
    {
        "none": _none,
        "iql_locomotion": _iql_locomotion,
        "iql_antmaze": _iql_antmaze,
        "cql_antmaze": _cql_antmaze,
        "corl_antmaze": _corl_antmaze,
        "standardise": _standardise,
        "minmax_pm1": _minmax_pm1,
        "dice_antmaze": _dice_antmaze,
        "bdpo_antmaze": _bdpo_antmaze,
        "sparse": _sparse,
    }
)


def _leave(observations: Observations) -> Normaliser:
    """o."""
    size = observations.shape[1]
    return Normaliser(np.zeros(size, np.float32), np.ones(size, np.float32))


def _standardise_observations(observations: Observations, *, added: float) -> Normaliser:
    """(o - mean) / (std + added), over the table."""
    mean = observations.mean(axis=0, dtype=np.float64)
    std = observations.std(axis=0, dtype=np.float64) + added
    return Normaliser(mean.astype(np.float32), std.astype(np.float32))


def _minmax_observations(observations: Observations) -> Normaliser:
    """2 (o - least) / (greatest - least + 1e-6) - 1, over the table; a column that never changes is shifted alone."""
    low, high = (np.asarray(end, np.float64) for end in (observations.min(axis=0), observations.max(axis=0)))
    half = np.where(high > low, (high - low + 1e-6) / 2, 1.0)
    return Normaliser((low + half).astype(np.float32), half.astype(np.float32))


OBSERVATION_TRANSFORMS: Registry[ObservationTransform] = registry("observation_transform").provide(
    {
        "none": _leave,
        "standardise": functools.partial(_standardise_observations, added=1e-3),  # TD3+BC and all of CORL
        "standardise-1e-6": functools.partial(_standardise_observations, added=1e-6),  # Decision Transformer
        "minmax": _minmax_observations,  # DSRL, Diffusion Policy
    }
)


def _checked(given: Any, name: str, size: int) -> Normaliser:
    """The numbers as float32; InputError for what somebody's transform must not give."""
    needed = f"{size} finite means and as many positive divisors"
    if not (isinstance(given, tuple | list) and len(given) == 2):
        raise InputError(
            f"observation transform {name!r}: gives a {type(given).__name__}; needs Normaliser(mean, std): {needed}"
        )
    with OBSERVATION_TRANSFORMS.guard(name):
        mean, std = (np.asarray(numbers, np.float32) for numbers in given)
    if mean.shape != (size,) or std.shape != (size,) or not np.isfinite([mean, std]).all() or (std <= 0).any():
        raise InputError(f"observation transform {name!r}: needs {needed}")
    return Normaliser(mean, std)


def _checked_rewards(given: Any, name: str) -> RewardFit:
    """The same, but with InputError for what somebody's transform must not give."""
    if not (isinstance(given, tuple) and len(given) == 2 and callable(given[0]) and isinstance(given[1], Mapping)):
        kind = type(given).__name__
        raise InputError(
            f"reward transform {name!r}: gives a {kind}; needs (function of rewards, dictionary of its numbers)"
        )
    transform, numbers = given
    if "name" in numbers:  # it stands beside them in config.json
        raise InputError(f"reward transform {name!r}: call none of its numbers 'name'")
    with REWARD_TRANSFORMS.guard(name):
        to_json(numbers)

    def checked(rewards: np.ndarray) -> np.ndarray:
        with REWARD_TRANSFORMS.guard(name):
            changed = np.asarray(transform(rewards))
        if changed.shape != rewards.shape or changed.dtype.kind not in "fiu" or not np.isfinite(changed).all():
            raise InputError(f"reward transform {name!r}: its function must give a finite reward for each one")
        return changed

    return checked, dict(numbers)


def prepare(
    dataset: Dataset,
    reward_transform: str = "none",
    observation_transform: str = "none",
    keep_timeouts: bool | None = None,
    view: View = View(),  # noqa: B008  (immutable)
    data_filter: str = NO_FILTER,
    holdout: str = NO_HOLDOUT,
    value_discounts: Sequence[float] = (),
) -> Prepared:
    """What `view` makes of `dataset`, with rewards and observations transformed, ready for training.

    Args:
        dataset: the file's rows.
        reward_transform: a key of `REWARD_TRANSFORMS`.
        observation_transform: a key of `OBSERVATION_TRANSFORMS`; next observations get the same affine map.
        keep_timeouts: see `Dataset.transitions`.
        view: what the algorithm trains on (`view_of`).
        data_filter: see `filter_episodes`.
        holdout: see `hold_out`; of the episodes that the filter keeps. Statistics are those of what is trained on.
        value_discounts: note the lowest and highest return from any row on, discounted by any of these, as "returns" in
            the record (`return_bounds`).

    Raises:
        InputError: an unknown name or rule; a transform that would divide by zero here, or of rewards for the view
            "trajectories"; no transition is left, or none of the episodes held out.
    """
    REWARD_TRANSFORMS.find(reward_transform)
    OBSERVATION_TRANSFORMS.find(observation_transform)
    if reward_transform != "none":
        _refuse_transform(reward_transform, dataset, view)
    file_rows = len(dataset)
    dataset, filtered = filter_episodes(dataset, data_filter)
    dataset, held_out, cut = hold_out(dataset, holdout)
    table, rows = raw_table(view, dataset, keep_timeouts)
    observation = np.asarray(table.observation)
    transform, numbers = _checked_rewards(REWARD_TRANSFORMS.call(reward_transform, table), reward_transform)
    fitted = OBSERVATION_TRANSFORMS.call(observation_transform, observation)
    normaliser = _checked(fitted, observation_transform, observation.shape[1])
    change = Change(
        view, None if reward_transform == "none" else transform, None if observation_transform == "none" else normaliser
    )
    columns = change.columns(dataset, table, rows)
    held = None if held_out is None else change.columns(held_out, *raw_table(view, held_out, keep_timeouts))
    record = {"rows": file_rows, "filter": filtered, "holdout": cut}
    record |= {"transitions": int(columns.rows)}
    record |= {"reward_transform": {"name": reward_transform, **numbers}}
    record |= {"observation_transform": {"name": observation_transform}}
    rewards = change.rewards(dataset)
    record |= _described(dataset, view, rewards, normaliser)
    if value_discounts:
        bounds = [return_bounds(dataset, rewards, each, view.endless) for each in value_discounts]
        record["returns"] = [min(low for low, _ in bounds), max(high for _, high in bounds)]
    about = dataset.schema, dataset.source, no_rewards(dataset, rewards)
    spec = Spec(observation_size=observation.shape[1], action_size=dataset.actions.shape[1])
    decisions = sample_decisions(dataset, held_out)
    seen = column_statistics(dataset.observations)
    return Prepared(columns, spec, normaliser, record, seen, *about, held, decisions, view.framing, change)


def _described(dataset: Dataset, view: View, rewards: Rewards, normaliser: Normaliser) -> dict[str, Any]:
    """For config.json. rewards: transformed."""
    return {
        "dataset": dataset.name,
        "source": dataset.source.location,
        "collection": dataset.source.collection,
        "continuous": dataset.continuous,
        "notes": list(dataset.notes),
        "framing": dataclasses.asdict(view.framing),
        "rewards": [float(rewards.min()), float(rewards.max())] if dataset.has_rewards else None,
        "normaliser": {"mean": normaliser.mean.tolist(), "std": normaliser.std.tolist()},
        "schema": None if dataset.schema is None else dataset.schema.to_json(),
    }


def _refuse_transform(name: str, dataset: Dataset, view: View) -> None:
    """Raises InputError where a transform of rewards has no meaning."""
    if not dataset.has_rewards:
        raise InputError(f"reward transform {name!r}: {dataset.source.location} has no rewards")
    if view.name == "trajectories":
        raise InputError(
            f"reward transform {name!r}: an algorithm that is told a return to reach is paid in the "
            "environment's own rewards when it acts; choose 'none'"
        )


def no_rewards(dataset: Dataset, rewards: np.ndarray) -> str:
    """Why nothing can be learnt from `rewards`, one for each row; empty where something can."""
    if not dataset.has_rewards:
        return "holds no rewards"
    lengths = dataset.episode_lengths()
    if rewards_tell_nothing(rewards, dataset.terminals, lengths):
        return f"holds {len(rewards):,} rewards that are all {float(rewards[0]):g}"
    return ""


def rewards_tell_nothing(rewards: np.ndarray, terminals: np.ndarray, lengths: np.ndarray) -> bool:
    """Whether all rewards are equal, and the lengths of episodes do not tell good from bad either: they do where a
    reward other than 0 is paid until a true end (a bonus for staying alive, a charge until the goal)."""
    if (rewards != rewards[0]).any():
        return False
    return not (rewards[0] != 0 and terminals.any() and len(np.unique(lengths)) > 1)
