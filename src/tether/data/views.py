"""Data views: what an algorithm trains on, made once of a data set's rows and cut into minibatches on the device.

An algorithm declares its view by a class attribute, `view: ClassVar[str] = "sarsa"`; without one it has "transitions".

    transitions   `Transition`: the table of `Dataset.transitions`
    sarsa         and `next_action`, the data's own
    returns       and `return_to_go`, discounted by the algorithm's static field `discount`, and `trajectory_end`; its
                  static field `endless_failures`, where it has one, is `View.endless`
    trajectories  `Trajectories`, of which minibatches are windows of `context_length` (a static field) steps

What a view makes speaks two words, and training needs no others: `rows`, from which indices are drawn, and
`take(indices)`, which turns them into a minibatch inside the compiled loop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.data.dataset import Dataset
from tether.data.framing import ONE_STEP, Framing, rows_follow
from tether.errors import InputError
from tether.machine.registry import Registry, registry
from tether.types import Array, Float, Int, Spec, Transition, Windows

__all__ = [
    "VIEWS",
    "Trajectories",
    "View",
    "ViewKind",
    "build",
    "of_random_episodes",
    "raw_table",
    "return_bounds",
    "returns_to_go",
    "step_returns",
    "view_of",
]

Columns = Array | np.ndarray  # made on the host, read on the device
Table = tuple[Transition, Int[np.ndarray, " batch"]]


class View(NamedTuple):
    """A view with the numbers that decide what it makes."""

    name: str = "transitions"
    discount: float = 1.0  # of return_to_go, and of the rewards within a decision; from one step to the next
    endless: bool = False  # of return_to_go: what was cut while all its rewards were equal pays the same forever
    steps: int = 1  # of a window
    own: Any = None  # what a view that somebody registered needs beside
    framing: Framing = ONE_STEP  # of the decisions that rows become before the view sees them


def _plain_table(view: View, dataset: Dataset, keep_timeouts: bool | None) -> Table:
    return dataset.transitions_and_rows(keep_timeouts)


def _plain_view(algorithm: Any) -> View:
    return View()


class ViewKind(NamedTuple):
    """How a view is made: what `tether.register(name, kind="view")` takes."""

    build: Callable[[View, Dataset, Any, Transition, Any], Any]
    """(view, data set, the file's row of each transition, transformed table, transformed rewards of every row) -> what
    training reads."""
    table: Callable[[View, Dataset, bool | None], Table] = _plain_table
    """(view, data set, keep_timeouts) -> (the transitions that it trains on, the file's row of each)."""
    describe: Callable[[Any], View] = _plain_view
    """The algorithm -> the numbers that it wants the view made with."""


class Trajectories(eqx.Module):
    """Episodes laid end to end, one row per step; minibatches are windows of them.

    Row indices are window starts, so an episode is drawn in proportion to its length, its starts uniformly.
    """

    observation: Float[Columns, "rows observation"]
    action: Float[Columns, "rows action"]
    return_to_go: Float[Columns, " rows"]  # undiscounted, this row's reward included
    timestep: Int[Columns, " rows"]  # since the episode's start
    left: Int[Columns, " rows"]  # steps of the episode from this row on, itself included
    steps: int = eqx.field(static=True)

    @property
    def rows(self) -> int:
        """How many window starts there are."""
        return self.timestep.shape[0]

    def take(self, indices: Int[Array, " batch"]) -> Windows:
        """The windows that start at these rows; beyond an episode's end they are zeros with `valid` 0."""
        offset = jnp.arange(self.steps, dtype=jnp.int32)[None, :]
        valid = offset < self.left[indices][:, None]
        rows = indices[:, None] + jnp.where(valid, offset, 0)

        def window(column: Any) -> Array:
            entries = column[rows]
            return jnp.where(valid.reshape(valid.shape + (1,) * (entries.ndim - 2)), entries, jnp.zeros_like(entries))

        return Windows(
            window(self.observation),
            window(self.action),
            window(self.return_to_go),
            window(self.timestep),
            valid.astype(jnp.float32),
        )


def view_of(algorithm: Any, framing: Framing = ONE_STEP) -> View:
    """The view that `algorithm` (an instance) declares, of decisions that are framed so. Raises InputError for a name
    that nobody registered, and for `framing` with the view "trajectories"."""
    name = getattr(algorithm, "view", "transitions")
    kind = VIEWS.find(name)
    with VIEWS.guard(name):
        view = kind.describe(algorithm)._replace(name=name)
    if not framing.changes_data:
        return view
    if name == "trajectories":
        raise InputError(f"{framing}: {type(algorithm).__name__} is trained on trajectories, which are no decisions")
    return view._replace(framing=framing, discount=float(getattr(algorithm, "discount", 1.0)))


def raw_table(
    view: View, dataset: Dataset, keep_timeouts: bool | None = None
) -> tuple[Transition, Int[np.ndarray, " batch"]]:
    """The transitions that `view` trains on, as the file has them, and the file's row of each.

    Whatever a transform takes from the data it takes from this table.
    Raises: InputError as `Dataset.transitions`, and for `keep_timeouts` with "sarsa".
    """
    kind = VIEWS.find(view.name)
    with VIEWS.guard(view.name):
        return kind.table(view, dataset, keep_timeouts)


def build(
    view: View,
    dataset: Dataset,
    rows: Int[np.ndarray, " batch"],
    table: Transition,
    rewards: Float[np.ndarray, " file_rows"],
) -> Any:
    """What training reads, NumPy arrays: `table` with the view's columns, or trajectories.

    table: `raw_table`'s, transformed; rows: the file's row of each transition.
    rewards: of *every* row of the file, transformed: a time-out has lost its row in the table, not its reward.
    Raises InputError for what somebody's view must not give.
    """
    kind = VIEWS.find(view.name)
    with VIEWS.guard(view.name):
        made = kind.build(view, dataset, rows, table, rewards)
        if not (hasattr(made, "rows") and callable(getattr(made, "take", None))):
            raise InputError(f"view {view.name!r}: builds a {type(made).__name__} without rows and take(indices)")
        return made


def of_random_episodes(view: View, spec: Spec, rows: int, steps: int) -> Any:
    """What `view` makes of random episodes of `steps` steps, for those who need its shapes; arrays of JAX."""
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(rows, spec.observation_size))
    actions = spec.max_action * np.tanh(generator.normal(size=(rows, spec.action_size)))
    timeouts, none = np.arange(rows) % steps == steps - 1, np.zeros(rows, bool)
    rewards = generator.normal(size=rows)
    dataset = Dataset.from_arrays(observations, actions, rewards, none, timeouts=timeouts, name="random")
    table, kept = raw_table(view, dataset)
    return jax.tree.map(jnp.asarray, build(view, dataset, kept, table, dataset.rewards))


# --- the library's own ---


def _transitions(view: View, dataset: Dataset, rows: Any, table: Transition, rewards: Any) -> Transition:
    return table


def _sarsa_table(view: View, dataset: Dataset, keep_timeouts: bool | None) -> Table:
    """Rows whose next action the data do not hold are dropped, as D4RL drops them anyway, rather than masked: no
    algorithm then needs to look at a mask. A terminal row has none either but stays: everything about what follows it
    is masked by `terminal`. So does one that is the last of all, which D4RL drops: of an episode that has just been
    lived through it is the only one that tells of the end."""
    if keep_timeouts:
        where = dataset.source.location
        raise InputError(f"{where}: keep_timeouts: a timed-out row has no next action, which is asked for")
    _refuse_single_rows(view, dataset)
    if view.framing.changes_data and (dataset.timeouts & ~dataset.terminals).all():
        raise InputError(
            f"{dataset.source.location}: no decision ({view.framing}) is followed by another, whose action this "
            f"algorithm learns from: it needs an episode of {2 * view.framing.steps} steps"
        )
    return dataset.transitions_and_rows(False, keep_end=True)


def _sarsa(view: View, dataset: Dataset, rows: Any, table: Transition, rewards: Any) -> Transition:
    following = dataset.actions[np.minimum(rows + 1, len(dataset) - 1)]
    following[dataset.terminals[rows]] = 0.0
    return table._replace(next_action=following)


def _returns_table(view: View, dataset: Dataset, keep_timeouts: bool | None) -> Table:
    _refuse_single_rows(view, dataset)
    return dataset.transitions_and_rows(keep_timeouts)


def _returns_view(algorithm: Any) -> View:
    return View(discount=algorithm.discount, endless=getattr(algorithm, "endless_failures", False))


WORDS = {"sarsa": "next actions", "returns": "returns", "trajectories": "trajectories"}


def _refuse_single_rows(view: View, dataset: Dataset) -> None:
    """Raises InputError for a table of transitions in any order, in which nobody knows what came after the next one."""
    if view.framing.changes_data:
        return  # `framed` has looked at the rows; decisions that no other follows are the ends of short episodes
    if not rows_follow(dataset):
        raise InputError(
            f"{dataset.source.location}: its rows do not follow each other, so that there are no {WORDS[view.name]}, "
            "which this algorithm trains on; one for single transitions is needed, such as iql, td3-bc or dtql"
        )


def _returns(view: View, dataset: Dataset, rows: Any, table: Transition, rewards: Any) -> Transition:
    returns, ends = step_returns(dataset, rewards, view.discount, view.endless), _ends(dataset)
    episode = np.searchsorted(ends, rows, side="right")
    last = np.append(episode[1:] != episode[:-1], True)  # of the rows that are left of an episode
    return table._replace(return_to_go=returns[rows].astype(np.float32), trajectory_end=last.astype(np.float32))


def step_returns(
    dataset: Dataset, rewards: Float[np.ndarray, " rows"], discount: float, endless: bool = False
) -> Float[np.ndarray, " rows"]:
    """The discounted return from each row of the data on, float64.

    endless: a trajectory that no terminal row ends, all of whose rewards are r, is worth r / (1 - discount) everywhere.
    What was recorded of a failure is worth more than failing on.
    """
    ends = _ends(dataset)
    returns = returns_to_go(rewards, ends, discount)
    if not endless or discount == 1.0:
        return returns
    starts = np.append(0, ends[:-1])
    same = np.minimum.reduceat(rewards, starts) == np.maximum.reduceat(rewards, starts)
    goes_on = np.repeat(same & ~dataset.terminals[ends - 1], ends - starts)
    return np.where(goes_on, rewards.astype(np.float64) / (1.0 - discount), returns)


def return_bounds(
    dataset: Dataset, rewards: Float[np.ndarray, " rows"], discount: float, endless: bool = False
) -> tuple[float, float]:
    """The lowest and the highest discounted return from any row of the data on, as `step_returns`; and those of
    trajectories that no terminal row ends as if they went on for ever, which is what a critic is to learn of them:
    what was recorded of few steps is but a part of it. They go on with their mean reward, drawn towards that of all
    rows by 1 / (1 - discount) rows of it, so that a single row says little."""
    returns = step_returns(dataset, rewards, discount, endless)
    low, high = float(returns.min()), float(returns.max())
    ends = _ends(dataset)
    cut = ~dataset.terminals[ends - 1]
    if discount == 1.0 or not cut.any():
        return low, high
    lengths = np.diff(ends, prepend=0)
    horizon = 1.0 / (1.0 - discount)
    sums = np.add.reduceat(rewards.astype(np.float64), ends - lengths)
    means = (sums + horizon * rewards.mean(dtype=np.float64)) / (lengths + horizon)
    left = np.repeat(ends, lengths) - np.arange(len(rewards))  # rows of the trajectory, itself included
    rest = discount**left * horizon * np.repeat(means, lengths)
    recorded = returns_to_go(rewards, ends, discount) if endless else returns
    continued = (recorded + rest)[np.repeat(cut, lengths)]
    return min(low, float(continued.min())), max(high, float(continued.max()))


def _ends(dataset: Dataset) -> Int[np.ndarray, " trajectories"]:
    """The row after the last one of each trajectory. Nothing follows a terminal row, though recording may go on
    (OGBench marks successes in the midst of episodes)."""
    return np.union1d(dataset.episode_bounds().ends, np.flatnonzero(dataset.terminals) + 1)


def _trajectories_table(view: View, dataset: Dataset, keep_timeouts: bool | None) -> Table:
    """Every row of the complete episodes; nobody reads next observations there, so they are the rows' own."""
    _refuse_single_rows(view, dataset)
    _, ends = dataset.complete_episodes()
    rows = np.arange(int(ends[-1]))
    return dataset.table(rows, dataset.observations[rows]), rows


def _trajectories(view: View, dataset: Dataset, rows: Any, table: Transition, rewards: Any) -> Trajectories:
    starts, ends = dataset.complete_episodes()
    lengths = ends - starts
    timestep = rows - np.repeat(starts, lengths)
    columns: tuple[Any, ...] = (
        table.observation,
        table.action,
        returns_to_go(rewards[: len(rows)], ends, 1.0).astype(np.float32),
        timestep.astype(np.int32),
        (np.repeat(lengths, lengths) - timestep).astype(np.int32),
    )
    return Trajectories(*columns, steps=view.steps)


VIEWS: Registry[ViewKind] = registry("view").provide(
    {
        "transitions": ViewKind(_transitions),
        "sarsa": ViewKind(_sarsa, _sarsa_table),
        "returns": ViewKind(_returns, _returns_table, _returns_view),
        "trajectories": ViewKind(
            _trajectories, _trajectories_table, lambda algorithm: View(steps=algorithm.context_length)
        ),
    }
)


def returns_to_go(
    rewards: Float[np.ndarray, " rows"], ends: Int[np.ndarray, " episodes"], discount: float
) -> Float[np.ndarray, " rows"]:
    """sum_i discount^i r_{t+i} over the rest of each row's episode, float64; episode k ends before row `ends[k]`.

    An episode that the recording cut short counts what was recorded: its returns are too low near the end.
    """
    if discount == 1.0:
        sums = np.cumsum(rewards[::-1], dtype=np.float64)[::-1]
        after = np.append(sums, 0.0)[ends]  # what belongs to later episodes
        return sums - np.repeat(after, np.diff(ends, prepend=0))
    returns, total, last = [0.0] * len(rewards), 0.0, set((ends - 1).tolist())
    values = rewards.tolist()
    for row in range(len(values) - 1, -1, -1):
        total = values[row] + (0.0 if row in last else discount * total)
        returns[row] = total
    return np.asarray(returns)
