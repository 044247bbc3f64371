"""What one decision sees and gives: action chunks, n-step returns and a history of observations, for every algorithm.

An algorithm knows rows (o, a, r, o', terminal) and nothing of how they were framed. So a data set of steps becomes one
of decisions before an algorithm sees it:

    observation       the last `history` observations, oldest first; before an episode's start its first one, repeated.
                      With `history_actions`, behind them the `history` - 1 actions in between (0 before the start)
    action            `chunk` actions of successive steps, one after the other
    reward            sum_{k < n} discount^k r_{t+k} over the n steps of a decision, up to a terminal row
    next observation  what the decision n steps later sees
    terminal          whether a terminal row is among the n steps

n is the length of the chunk (Q-chunking, arXiv 2507.07969, equation 5) or, for single actions, `n_step`. The algorithm
then discounts by discount^n from a decision to the next. No decision reaches across the end of an episode: where fewer
than n rows are left, there is none, except of an n-step return that a terminal row ends. Decisions start at every row;
they are kept in the order in which they follow each other, so that "the next row" is the next decision.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from tether.data.dataset import Dataset
from tether.data.schema import Schema, layout_of, unit_box
from tether.errors import InputError
from tether.types import Bool, Float, Int, Spec

__all__ = ["ONE_STEP", "Framed", "Framing", "framed", "rows_follow"]

LONGEST = 1000  # steps of a chunk or a return, and observations of a history


@dataclasses.dataclass(frozen=True)
class Framing:
    """How decisions are cut out of episodes (this module's text says what each does).

    chunk: actions that one decision gives.
    execute: how many of them are carried out before the next decision; None: all. An acting option.
    n_step: steps of the return, where a decision is a single action.
    history: observations that a decision sees.
    history_actions: whether it also sees the actions between them.

    Raises: InputError for numbers that make no sense, alone or together.
    """

    chunk: int = 1
    execute: int | None = None
    n_step: int = 1
    history: int = 1
    history_actions: bool = False

    def __post_init__(self) -> None:
        for name in ("chunk", "n_step", "history"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LONGEST:
                raise InputError(f"{name} {value!r}: a whole number from 1 to {LONGEST} is needed")
        if self.execute is not None and (not isinstance(self.execute, int) or not 1 <= self.execute <= self.chunk):
            raise InputError(
                f"execute {self.execute!r}: of a chunk of {self.chunk}, from 1 to {self.chunk} are executed"
            )
        if self.chunk > 1 and self.n_step > 1:
            raise InputError(
                f"n_step {self.n_step} with chunk {self.chunk}: the return of a chunk has the chunk's length; give one"
            )
        if self.history_actions and self.history == 1:
            raise InputError("history_actions: those between the last observations; give a history of 2 or more")

    @classmethod
    def of(cls, options: Any) -> "Framing":
        """What `options` say, which have entries of these names among others. Raises InputError."""
        return cls(**{field.name: getattr(options, field.name) for field in dataclasses.fields(cls)})

    @property
    def steps(self) -> int:
        """Steps from one decision to the next in the data."""
        return max(self.chunk, self.n_step)

    @property
    def executed(self) -> int:
        """Actions that are carried out before the next decision."""
        return self.chunk if self.execute is None else self.execute

    @property
    def changes_data(self) -> bool:
        """Whether decisions are anything but the rows as they are."""
        return self.steps > 1 or self.history > 1

    @property
    def changes_acting(self) -> bool:
        """Whether a policy must remember something."""
        return self.chunk > 1 or self.history > 1

    def executing(self, count: Any) -> "Framing":
        """The same with `count` actions carried out of each chunk, a number or its text. Raises InputError."""
        try:
            return dataclasses.replace(self, execute=int(count) if isinstance(count, str) else count)
        except ValueError as error:
            raise error if isinstance(error, InputError) else InputError(f"execute {count!r}: no number") from None

    def decision(self, spec: Spec) -> Spec:
        """Sizes of what a decision sees and gives, of those of a step."""
        seen = self.history * spec.observation_size
        seen += (self.history - 1) * spec.action_size if self.history_actions else 0
        return spec._replace(observation_size=seen, action_size=self.chunk * spec.action_size)

    def discounted(self, algorithm: Any) -> Any:
        """`algorithm` as decisions train it: discount^n from one to the next, where it discounts."""
        if self.steps == 1 or not hasattr(algorithm, "discount"):
            return algorithm
        return dataclasses.replace(algorithm, discount=algorithm.discount**self.steps)

    def __str__(self) -> str:
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed = [f"{name} {named[name]}" for name in named if named[name] != getattr(ONE_STEP, name)]
        return ", ".join(changed) or "single steps"


ONE_STEP = Framing()


class Framed(NamedTuple):
    """A data set of decisions."""

    dataset: Dataset
    """One row for each decision; those that follow each other in it are `Dataset.episode_bounds`' episodes."""
    rows: Int[np.ndarray, " decisions"]
    """The row of the data set of steps that each begins at."""


def rows_follow(dataset: Dataset) -> bool:
    """Whether rows follow each other. In a table of transitions in any order most are an episode of one step that
    nothing ends, and nobody knows what came before or after; one single episode is no such table."""
    starts, ends, _ = dataset.episode_bounds()
    single = (ends - starts == 1) & ~dataset.terminals[ends - 1]
    return len(starts) == 1 or bool(single.sum() <= 0.5 * len(dataset))


def framed(dataset: Dataset, framing: Framing, discount: float) -> Framed:
    """The decisions in `dataset`, whose observations and rewards are those that networks see.

    Raises: InputError where rows do not follow each other, and where no episode is as long as a decision.
    """
    if not rows_follow(dataset):
        raise InputError(
            f"{dataset.source.location}: its rows do not follow each other, so that there are no chunks, returns of "
            f"several steps or histories ({framing}); train on single transitions"
        )
    steps = _Steps(dataset, framing)
    rows = steps.first_rows()
    if not len(rows):
        raise InputError(
            f"{dataset.source.location}: no decision ({framing}) is left of {len(dataset)} rows: every episode is "
            f"shorter than the {framing.steps} steps and the observation after them"
        )
    last, terminal = steps.last_row(rows), steps.ends_terminal(rows)
    start = steps.start[rows]
    follows = np.append((rows[1:] == rows[:-1] + framing.steps) & (start[1:] == start[:-1]), False)
    spec = framing.decision(Spec(dataset.observations.shape[1], dataset.actions.shape[1]))
    names = layout_of({"observation": spec.observation_size}), layout_of({"action": spec.action_size})
    frames = dataclasses.replace(
        dataset,
        observations=steps.seen(start, rows, dataset.observations[rows]),
        actions=steps.actions(rows),
        rewards=steps.rewards(rows, last, discount),
        terminals=terminal,
        timeouts=~terminal & ~follows,
        next_observations=steps.seen(start, last + 1, steps.after(last, terminal)),
        exact_next_observations=True,
        successes=None,
        schema=Schema(*names, unit_box(spec.action_size)),
        masks={},
        recorded_episodes=None,
        log_densities=None,
    )
    return Framed(frames, rows)


class _Steps:
    """The rows of a data set: where their episodes begin and end, and what lies n steps ahead of each."""

    def __init__(self, dataset: Dataset, framing: Framing):
        self.dataset, self.framing = dataset, framing
        starts, ends, _ = dataset.episode_bounds()
        self.start = np.repeat(starts, ends - starts)  # (N,): of each row's episode
        self.end = np.repeat(ends, ends - starts)
        number = np.arange(len(dataset))
        marked = np.where(dataset.terminals, number, len(dataset))
        self.terminal_row = np.minimum.accumulate(marked[::-1])[::-1]  # the first from each row on, N where none is

    def ends_terminal(self, rows: Int[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
        """Whether a terminal row is among the n from each row on, in its episode."""
        return self.terminal_row[rows] < np.minimum(rows + self.framing.steps, self.end[rows])

    def last_row(self, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """The last row of each decision that is lived through: the terminal one, or number n."""
        return np.minimum(rows + self.framing.steps - 1, self.terminal_row[rows])

    def first_rows(self) -> Int[np.ndarray, " decisions"]:
        """Where decisions begin, each followed by the next one where there is one."""
        n, number = self.framing.steps, np.arange(len(self.dataset))
        terminal = self.ends_terminal(number)
        whole = number + n <= self.end
        # What comes after is seen in the next row of the episode, or stored.
        known = (number + n < self.end) | (whole if self.dataset.exact_next_observations else False)
        kept = np.flatnonzero(whole & terminal | known & ~terminal if self.framing.chunk > 1 else terminal | known)
        return kept[np.lexsort((kept, (kept - self.start[kept]) % n, self.start[kept]))]

    def after(
        self, last: Int[np.ndarray, " rows"], terminal: Bool[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows observation"]:
        """The observation after each decision; of a terminal one the stored one or its own, never another episode's."""
        data, following = self.dataset, np.minimum(last + 1, len(self.dataset) - 1)
        if data.next_observations is None:
            return data.observations[np.where(terminal, last, following)]
        stored = terminal | data.exact_next_observations
        return np.where(stored[:, None], data.next_observations[last], data.observations[following])

    def seen(
        self,
        start: Int[np.ndarray, " rows"],
        at: Int[np.ndarray, " rows"],
        latest: Float[np.ndarray, "rows observation"],
    ) -> Float[np.ndarray, "rows seen"]:
        """What a decision sees at row `at` of the episode that begins at `start`, where its own observation is
        `latest`; `at` may be the row after the episode's last one."""
        data, back = self.dataset, range(self.framing.history - 1, 0, -1)
        earlier = [np.maximum(at - steps, start) for steps in back]
        seen = [np.where((row < at)[:, None], data.observations[np.minimum(row, at - 1)], latest) for row in earlier]
        acted = []
        if self.framing.history_actions:
            none = np.float32(0)
            acted = [
                np.where((at - steps >= start)[:, None], data.actions[np.maximum(at - steps, 0)], none)
                for steps in back
            ]
        return np.concatenate([*seen, latest, *acted], axis=1)

    def actions(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows chunk_actions"]:
        """The chunk that begins at each row."""
        return np.concatenate([self.dataset.actions[rows + k] for k in range(self.framing.chunk)], axis=1)

    def rewards(
        self, rows: Int[np.ndarray, " rows"], last: Int[np.ndarray, " rows"], discount: float
    ) -> Float[np.ndarray, " rows"]:
        """sum_k discount^k r_{t+k} up to the last row of each decision, summed in float64."""
        total, end = np.zeros(len(rows)), len(self.dataset) - 1
        for k in range(self.framing.steps):
            paid = self.dataset.rewards[np.minimum(rows + k, end)].astype(np.float64)
            total += np.where(rows + k <= last, discount**k * paid, 0.0)
        return total
