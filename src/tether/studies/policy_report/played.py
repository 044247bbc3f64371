"""What a policy would do on logged episodes, beside what was done there."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.data import Dataset
from tether.data.schema import Schema, check_order, column_names
from tether.errors import InputError
from tether.policies.deployed import step_each
from tether.policies.folder import load_policy
from tether.policies.loaded import DOCUMENT, LoadedPolicy
from tether.policies.trusted import Trust
from tether.types import Bool, Float, Int

__all__ = ["DRAWS", "Played", "Seeds", "Stretch", "load_seeds", "play"]

DRAWS = 4  # actions of each seed at each observation: policies are random
STRETCHES = 8  # at least, of the episodes: one long log is looked at in several places
SENSITIVITY_ROWS = 4000  # observations moved, of all columns together
SEED = 0


class Seeds(NamedTuple):
    """The policies of a run's seeds, or one alone."""

    each: tuple[LoadedPolicy, ...]
    names: tuple[str, ...]
    number: int  # of the one that would be deployed

    @property
    def best(self) -> LoadedPolicy:
        """The one that would be deployed."""
        return self.each[self.number]


class Stretch(NamedTuple):
    """Successive rows of an episode."""

    episode: int
    start: int  # row of the data set
    end: int


class Played(NamedTuple):
    """All numbers of a report; actions and observations in the units of the log."""

    names: tuple[list[str], list[str]]  # of each number of an observation, and of an action
    stretches: tuple[Stretch, ...]
    rows: Int[np.ndarray, " rows"]  # of the data set
    step: Int[np.ndarray, " rows"]  # of the episode
    observation: Float[np.ndarray, "rows observation"]
    logged: Float[np.ndarray, "rows action"]
    done: Float[np.ndarray, "seeds draws rows action"]  # by the policy
    seen: tuple[Float[np.ndarray, " action"], Float[np.ndarray, " action"]]  # lowest and highest logged actions
    sensitivity: Float[np.ndarray, "observation action"]  # move of the action when a column moves by a deviation
    deviation: Float[np.ndarray, " observation"]
    trust: Trust | None  # of the best seed's first draw; None where its folder carries none
    trust_logged: Trust | None  # of what was done

    @property
    def middle(self) -> Float[np.ndarray, "rows action"]:
        """What the policy does: the median over seeds of their means."""
        return np.median(self.done.mean(axis=1), axis=0)

    @property
    def apart(self) -> Float[np.ndarray, "rows action"]:
        """Distance of the two, in widths of the logged range of each action."""
        width = self.seen[1] - self.seen[0]
        return np.abs(self.middle - self.logged) / np.where(width > 0, width, 1.0)

    @property
    def outside(self) -> Bool[np.ndarray, "seeds draws rows action"]:
        """Where the policy does what nobody ever did."""
        slack = 1e-5 * (self.seen[1] - self.seen[0])
        return (self.done < self.seen[0] - slack) | (self.done > self.seen[1] + slack)

    def of(self, stretch: Stretch) -> slice:
        """Its rows in the arrays."""
        start = int(np.flatnonzero(self.rows == stretch.start)[0])
        return slice(start, start + stretch.end - stretch.start)


def load_seeds(folder: Path) -> Seeds:
    """The policy in a policy folder, or those of all seeds of a run. Raises InputError where there is none."""
    best = load_policy(folder)
    own = sorted((folder / "policies").glob(f"lane-*/{DOCUMENT}"), key=lambda path: int(path.parent.name[5:]))
    each = tuple(load_policy(path.parent) for path in own)
    number = next((i for i, one in enumerate(each) if one.document["sha256"] == best.document["sha256"]), None)
    if number is None:
        each, number = (best, *each), 0
    return Seeds(each, tuple(map(_seed_of, each)), number)


def _seed_of(policy: LoadedPolicy) -> str:
    notes = policy.document.get("notes", {})
    return f"seed {notes['seed']}" if "seed" in notes else policy.document["algorithm"]


def play(seeds: Seeds, dataset: Dataset, most_rows: int) -> Played:
    """What the policies do at up to so many logged rows. Raises InputError where the log is not of their kind."""
    check_columns(seeds.best, dataset)
    stretches = choose_stretches(dataset, most_rows)
    rows = np.concatenate([np.arange(each.start, each.end) for each in stretches])
    starts, observation = dataset.episode_bounds().starts, dataset.observations[rows]
    everything = _in_units(seeds.best, dataset, dataset.actions)
    logged = everything[rows]
    done = np.stack([_acted(policy, dataset, stretches) for policy in seeds.each])
    deviation = dataset.observations.std(axis=0, dtype=np.float64).astype(np.float32)
    moved = [_sensitivity(policy, observation, deviation) for policy in seeds.each]
    judged = seeds.best.support is not None
    schema, spec = seeds.best.schema, seeds.best.spec
    return Played(
        names=_names(schema, spec.observation_size, spec.action_size),
        stretches=stretches,
        rows=rows,
        step=rows - np.concatenate([np.full(s.end - s.start, starts[s.episode]) for s in stretches]),
        observation=observation,
        logged=logged,
        done=done,
        seen=(everything.min(axis=0), everything.max(axis=0)),
        sensitivity=np.mean(moved, axis=0),
        deviation=deviation,
        trust=seeds.best.trust(observation, done[seeds.number, 0]) if judged else None,
        trust_logged=seeds.best.trust(observation, logged) if judged else None,
    )


def _names(schema: Schema | None, observation_size: int, action_size: int) -> tuple[list[str], list[str]]:
    layouts = (None, None) if schema is None else (schema.observation, schema.action)
    sizes = observation_size, action_size
    kinds = "observation", "action"
    first, second = (column_names(*each) for each in zip(layouts, kinds, sizes, strict=True))
    return first, second


def check_columns(policy: LoadedPolicy, dataset: Dataset) -> None:
    """Refuse a log whose columns are not those that the policy takes."""
    where, spec = dataset.source.location, policy.spec
    for kind, size in (("observation", spec.observation_size), ("action", spec.action_size)):
        found = getattr(dataset, f"{kind}s").shape[1]
        if found != size:
            raise InputError(f"{where}: {kind}s of {found} numbers; the policy takes {size}")
    check_order(where, dataset.schema, policy.schema)


def choose_stretches(dataset: Dataset, most_rows: int) -> tuple[Stretch, ...]:
    """Episodes, or stretches of long ones, spread evenly over the log, of at most so many rows together."""
    starts, ends, _ = dataset.episode_bounds()
    longest = max(1, most_rows // STRETCHES)
    every = [
        Stretch(episode, start, min(start + longest, int(end)))
        for episode, (first, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True))
        for start in range(first, int(end), longest)
    ]
    lengths = np.array([stretch.end - stretch.start for stretch in every])
    chosen = np.arange(len(every))
    while len(chosen) > 1 and lengths[chosen].sum() > most_rows:
        fewer = min(len(chosen) - 1, int(len(chosen) * most_rows / lengths[chosen].sum()))
        chosen = np.linspace(0, len(every) - 1, max(1, fewer)).astype(int)
    return tuple(every[i] for i in chosen)


def _in_units(policy: LoadedPolicy, dataset: Dataset, actions: np.ndarray) -> np.ndarray:
    """Logged actions in the units of the log; of one that names none, in those of the policy."""
    if dataset.schema is not None:
        return dataset.schema.box.from_unit(actions)
    return actions * np.asarray(policy.module.action_scale) + np.asarray(policy.module.action_offset)


def _acted(policy: LoadedPolicy, dataset: Dataset, stretches: tuple[Stretch, ...]) -> np.ndarray:
    """(draws, rows, action): what the policy does at the logged observations. Its memory, where it has one, begins with
    each stretch and holds its own actions."""
    if policy.has_memory:
        return np.stack([_remembering(policy, dataset, stretches, draw) for draw in range(DRAWS)])
    rows = np.concatenate([np.arange(each.start, each.end) for each in stretches])
    many = np.tile(dataset.observations[rows], (DRAWS, 1))
    keys = jax.random.split(jax.random.key(SEED), len(many))
    actions = step_each(policy.module, jnp.asarray(many), keys, (), jnp.zeros(len(many)))[0]
    return np.asarray(actions).reshape(DRAWS, len(rows), -1)


def _remembering(policy: LoadedPolicy, dataset: Dataset, stretches: tuple[Stretch, ...], draw: int) -> np.ndarray:
    """(rows, action): all stretches side by side, those that are over stand still."""
    starts, ends = np.array([(each.start, each.end) for each in stretches]).T
    memory, reward, keys = policy.initial_memory(len(starts)), np.zeros(len(starts)), jax.random.key(SEED + draw)
    steps = []
    for step in range(int((ends - starts).max())):
        now = np.minimum(starts + step, ends - 1)
        action, memory = policy.step(dataset.observations[now], memory, reward, jax.random.fold_in(keys, step))
        reward = dataset.rewards[now]
        steps.append(action)
    acted = np.stack(steps)
    return np.concatenate([acted[: end - start, i] for i, (start, end) in enumerate(zip(starts, ends, strict=True))])


def _sensitivity(policy: LoadedPolicy, observation: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(observation, action): how far the action moves, on average, when a column moves by one of its deviations."""
    size = observation.shape[1]
    rows = np.linspace(0, len(observation) - 1, min(len(observation), max(4, SENSITIVITY_ROWS // (2 * size)))).astype(
        int
    )
    base = observation[rows][None, :, None, :]
    moves = 0.5 * np.eye(size, dtype=np.float32) * deviation
    both = np.stack([base - moves, base + moves])[:, 0].reshape(-1, size)  # (2, rows, columns, observation)
    keys = jnp.tile(jnp.repeat(jax.random.split(jax.random.key(SEED), len(rows)), size), 2)
    memory: Any = policy.initial_memory(len(both))
    actions = np.asarray(step_each(policy.module, jnp.asarray(both), keys, memory, jnp.zeros(len(both)))[0])
    low, high = actions.reshape(2, len(rows), size, -1)
    return np.abs(high - low).mean(axis=0)
