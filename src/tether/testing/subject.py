"""What the contract is checked on: three small lanes of an algorithm, and what its author says of it."""

import dataclasses
import functools
import operator
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.algorithms import PolicyWithMemory
from tether.algorithms.registry import numeric_fields
from tether.data import VIEWS, Trajectories, view_of
from tether.data.views import of_random_episodes
from tether.ranges import ranges_of
from tether.training.derive import derive_columns
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.training.loop import Progress, run_updates
from tether.types import Array, Spec, Transition

__all__ = [
    "BATCH",
    "COUNT",
    "Expected",
    "Subject",
    "act",
    "act_once",
    "bits",
    "changed",
    "is_key",
    "same_bits",
    "take_lane",
]

ROWS, BATCH, COUNT = 64, 16, 4  # transitions, of a minibatch, updates
EPISODE = 8  # steps


def changed(algorithm: Any, field: str) -> float:
    """Another value of a numeric hyper-parameter: twice as large, or half where its range ends before that."""
    value, allowed = getattr(algorithm, field), ranges_of(type(algorithm)).get(field)
    return 2 * value if allowed is None or not allowed.refusal(2 * value) else value / 2


class Expected(NamedTuple):
    """What an author knows of an algorithm; None: found out, as far as it can be. Fields of State are named as in what
    `init` returns."""

    changes: Mapping[str, set[str]] | None = None
    """Phase -> State fields of which an update changes every array; no others may change."""
    swept: str | None = None
    """A number that the last phase feels at once."""
    targets: tuple[tuple[str, str, str], ...] | None = None
    """(target, online, rate), moved by the last phase; a dotted path leads into a field."""
    lagging: frozenset[str] = frozenset()
    """Those targets that move towards the online network as it was before the update."""
    unread: frozenset[str] | None = None
    """Numbers that the last phase does not read at all."""
    deterministic: bool | None = None
    """Whether the policy gives one action for one observation, whatever the key."""
    distinct: int = 1
    """More of 64 actions for one observation than this must differ, where it is not deterministic."""
    structural: frozenset[str] = frozenset()
    """Numbers that are static on purpose."""
    refusal: str = ""
    """Words of the ValueError with which a column of rewards is refused."""


class Subject:
    """Three lanes of an algorithm: seed 0, seed 1, and seed 0 with the swept number changed. What is costly is done
    once, when a clause first asks for it."""

    def __init__(self, algorithm: Any, expected: Expected, spec: Spec):
        self.one, self.expected, self.spec = algorithm, expected, spec  # `one`: as a user writes it
        self.name = type(algorithm).__name__

    @functools.cached_property
    def phases(self) -> Any:
        return self.one.phases()

    @property
    def last(self) -> int:
        """The number of the last phase."""
        return len(self.phases) - 1

    def phase(self, name: str) -> int:
        return [phase.name for phase in self.phases].index(name)

    @functools.cached_property
    def keys(self) -> Array:
        return jnp.stack([jax.random.key(seed) for seed in (0, 1, 0)])

    @functools.cached_property
    def state(self) -> Any:
        """Of all lanes. Not compiled: quicker, as an algorithm's variants share most shapes."""
        states = [self.one.init(self.spec, key) for key in self.keys]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    @functools.cached_property
    def one_state(self) -> Any:
        """Of lane 0."""
        return take_lane(self.state, 0)

    @functools.cached_property
    def data(self) -> Any:
        return sample(view_of(self.one), self.spec)

    @functools.cached_property
    def plain_lanes(self) -> Any:
        """All with the same numbers."""
        return stack_lanes(self.one, [Lane(0, {}), Lane(1, {}), Lane(0, {})])

    @functools.cached_property
    def swept(self) -> str | None:
        """The number that lane 2 has changed; None where there is none with an effect."""
        if self.expected.swept is not None:
            return self.expected.swept
        before = self.run(self.state, self.last, 0, COUNT, lanes=self.plain_lanes)
        for field in numeric_fields(self.one):
            if getattr(self.one, field) != 0:
                after = self.run(self.state, self.last, 0, COUNT, lanes=self.with_third(field))
                if not same_bits(take_lane(after.state, 2), take_lane(before.state, 2)):
                    return field
        return None

    def prepare(self) -> None:
        """Make what the loop takes; for who traces it, as what is first made within a trace belongs to it."""
        _ = self.lanes, self.state, self.data

    def with_third(self, field: str) -> Any:
        """The lanes, the third with this number changed."""
        return stack_lanes(self.one, [Lane(0, {}), Lane(1, {}), Lane(0, {field: changed(self.one, field)})])

    @functools.cached_property
    def lanes(self) -> Any:
        return self.plain_lanes if self.swept is None else self.with_third(self.swept)

    @functools.cached_property
    def trained(self) -> Progress:
        """COUNT updates of the last phase, from the start."""
        return self.run(self.state, self.last, 0, COUNT)

    def run(
        self,
        state: Any,
        phase: int,
        start: int,
        count: int,
        *,
        sequential: bool = True,
        lanes: Any = None,
        data: Any = None,
        keys: Any = None,
    ) -> Progress:
        """So many updates of a phase, by the trainer's own loop; of these lanes, data, keys in the place of its own."""
        lanes = self.lanes if lanes is None else lanes
        data, keys = self.data if data is None else data, self.keys if keys is None else keys
        first, number = jnp.asarray(start, jnp.int32), jnp.asarray(count, jnp.int32)
        alive = jnp.ones(len(keys), bool)
        derived = derive_columns(lanes, state, keys, data, phase=phase)
        how = {"phase": phase, "batch_size": BATCH, "sequential": sequential, "derived": derived}
        return run_updates(lanes, state, keys, alive, data, first, number, **how)

    def state_fields(self) -> Iterator[tuple[str, Any]]:
        """The top fields of State, with their parts."""
        fields = getattr(self.one_state, "_fields", None) or [f.name for f in dataclasses.fields(self.one_state)]
        return ((name, operator.attrgetter(name)) for name in fields)


def sample(view: Any, spec: Spec) -> Any:
    """ROWS of random experience, as the view gives them to training."""
    if not VIEWS.is_ours(view.name):
        return of_random_episodes(view, spec, ROWS, EPISODE)
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    size = spec.observation_size
    action = spec.max_action * jnp.tanh(normal(ROWS, spec.action_size))
    if view.name == "trajectories":  # episodes that end within some windows
        timestep = jnp.arange(ROWS, dtype=jnp.int32) % EPISODE
        left = EPISODE - timestep
        return Trajectories(normal(ROWS, size), action, normal(ROWS), timestep, left, steps=view.steps)
    terminal = jnp.asarray(generator.random(ROWS) < 0.1, jnp.float32)
    usual = normal(ROWS, size), action, normal(ROWS), normal(ROWS, size), terminal
    optional = {"next_action": jnp.roll(action, -1, axis=0), "return_to_go": normal(ROWS), "trajectory_end": terminal}
    return Transition(*usual, **optional)


# --- arrays and actions ---


def bits(tree: Any) -> list[bytes]:
    """Every leaf, bit by bit."""
    leaves = jax.tree.leaves(tree)
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x).tobytes() for x in leaves]


def same_bits(one: Any, two: Any) -> bool:
    """Whether two trees hold the same numbers to the last bit."""
    return bits(one) == bits(two)


def is_key(leaf: Any) -> bool:
    """Whether it is one of JAX's typed random keys."""
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@jax.jit
def act(policy: Any, observation: Array, keys: Array) -> Array:
    """An action for each key."""
    return jax.vmap(lambda key: act_once(policy, observation, key))(keys)


def act_once(policy: Any, observation: Array, key: Array) -> Array:
    """An action; of a policy with memory the first of an episode."""
    if isinstance(policy, PolicyWithMemory):
        return policy(observation, key, policy.initial_memory(), jnp.zeros((), jnp.float32))[0]
    return policy(observation, key)
