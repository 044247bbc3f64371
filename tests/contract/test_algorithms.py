"""What every algorithm owes to the trainer. An entry of ALGORITHMS inherits all of it: add its row to cases.py."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from cases import CASES

from tether.algorithms import ALGORITHMS, Algorithm, Policy, PolicyWithMemory
from tether.algorithms.registry import numeric_fields
from tether.data import Trajectories, View, view_of
from tether.runs.checkpoint import load_checkpoint, save_checkpoint
from tether.training.derive import derive_columns, derived_shapes
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.training.loop import NEVER, Progress, run_updates
from tether.types import Array, Metrics, Spec, Transition

# What needs programs of its own is tested of two methods at every run, of BDPO (whose programs take as long as both of
# theirs), their kin and the baselines with `long`: they share all of the machinery and most of the equations, and
# `make test` has to end within a coffee break.
OWN = ("dtql", "dac")


def when(name: str, variant: str) -> Any:
    """The mark of a test that shares its case's programs, whose compilation is what takes time: `long` for second
    variants."""
    return () if variant == next(iter(CASES[name].variants)) else pytest.mark.long


each_case = pytest.mark.parametrize(
    ("name", "variant"),
    [
        pytest.param(name, variant, id=f"{name}-{variant}", marks=when(name, variant))
        for name, case in CASES.items()
        for variant in case.variants
    ],
)
each_algorithm = pytest.mark.parametrize(
    ("name", "variant"),
    [
        pytest.param(name, next(iter(case.variants)), id=name, marks=() if name in OWN else pytest.mark.long)
        for name, case in CASES.items()
    ],
)

SPEC = Spec(observation_size=3, action_size=2, max_action=0.5)
ROWS, BATCH, COUNT = 64, 16, 4


class World(NamedTuple):
    """Three lanes of an algorithm: seed 0, seed 1, and seed 0 with the swept number doubled."""

    one: Algorithm  # as a user writes it
    lanes: Any  # stacked
    state: Any
    keys: Array
    data: Transition | Trajectories

    def phase(self, name: str) -> int:
        return [phase.name for phase in self.one.phases()].index(name)

    def run(self, state: Any, phase: int, start: int, count: int, *, sequential: bool = True) -> Progress:
        first, number = jnp.asarray(start, jnp.int32), jnp.asarray(count, jnp.int32)
        alive = jnp.ones(len(self.keys), bool)
        derived = derive_columns(self.lanes, state, self.keys, self.data, phase=phase)
        how = {"phase": phase, "batch_size": BATCH, "sequential": sequential, "derived": derived}
        return run_updates(self.lanes, state, self.keys, alive, self.data, first, number, **how)


def make(name: str, variant: str) -> Algorithm:
    return ALGORITHMS[name](**(CASES[name].sizes | CASES[name].variants[variant]))


def seed_key(seed: int) -> Array:
    return jax.random.key(seed)


@functools.cache
def world(name: str, variant: str) -> World:
    one = make(name, variant)
    swept = {CASES[name].swept: 2 * getattr(one, CASES[name].swept)}
    lanes = stack_lanes(one, [Lane(0, {}), Lane(1, {}), Lane(0, swept)])
    seeds = [seed_key(seed) for seed in (0, 1, 0)]
    states = [one.init(SPEC, key) for key in seeds]  # not compiled: quicker, as the variants share most shapes
    return World(
        one, lanes, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), jnp.stack(seeds), make_data(view_of(one))
    )


def make_data(view: View = View()) -> Transition | Trajectories:  # noqa: B008
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    action = SPEC.max_action * jnp.tanh(normal(ROWS, SPEC.action_size))
    if view.name == "trajectories":  # episodes of 8 steps, which end within some windows
        timestep = jnp.arange(ROWS, dtype=jnp.int32) % 8
        return Trajectories(normal(ROWS, 3), action, normal(ROWS), timestep, 8 - timestep, steps=view.steps)
    terminal = jnp.asarray(generator.random(ROWS) < 0.1, jnp.float32)
    usual = normal(ROWS, 3), action, normal(ROWS), normal(ROWS, 3), terminal
    optional = {"next_action": jnp.roll(action, -1, axis=0), "return_to_go": normal(ROWS), "trajectory_end": terminal}
    return Transition(*usual, **optional)


@functools.cache
def trained(name: str, variant: str) -> Progress:
    """COUNT updates of the last phase, from the start."""
    it = world(name, variant)
    return it.run(it.state, len(it.one.phases()) - 1, 0, COUNT)


def bits(tree: Any) -> list[bytes]:
    """Every leaf, bit by bit."""
    leaves = jax.tree.leaves(tree)
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x).tobytes() for x in leaves]


def is_key(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def assert_close(one: Any, two: Any) -> None:
    """Equal up to how XLA orders sums: 1e-6 of a gradient, which Adam's first steps turn into up to 1e-3 of a step
    of 3e-4 where a gradient nearly cancels; 1e-5 leaves room for that and is 1/100 of what COUNT updates move."""
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


# --- the registry ---


def test_every_algorithm_is_in_the_tables() -> None:
    assert set(CASES) == set(ALGORITHMS)


@each_case
def test_it_speaks_the_contract(name: str, variant: str) -> None:
    algorithm = make(name, variant)
    assert isinstance(algorithm, Algorithm)
    assert isinstance(algorithm.policy(take_lane(world(name, variant).state, 0)), Policy)
    phases = algorithm.phases()
    assert phases[-1].name == "train"
    assert {phase.name for phase in phases} == set(CASES[name].changes)
    hash(jax.tree.structure(algorithm))  # static fields are part of the key under which programs are kept


@each_case
def test_state_leaves_are_arrays(name: str, variant: str) -> None:
    for state in (world(name, variant).state, trained(name, variant).state):
        for leaf in jax.tree.leaves(state):
            assert isinstance(leaf, jax.Array)
            assert is_key(leaf) or leaf.dtype in (jnp.float32, jnp.int32)


# --- keys ---


@each_case
def test_same_key_same_parameters(name: str, variant: str) -> None:
    """Initialisation and training alike: lanes 0 and 2 share a seed, lane 1 has another."""
    state = world(name, variant).state
    zero, one, two = (take_lane(state, lane) for lane in range(3))
    assert bits(zero) == bits(two)
    assert bits(zero) != bits(one)
    again = world(name, variant).run(state, len(CASES[name].changes) - 1, 0, COUNT)
    assert bits(again) == bits(trained(name, variant))


@pytest.mark.parametrize("name", CASES)
def test_phases_that_imitate_read_no_rewards(name: str) -> None:
    """Whatever stands there, NaN too."""
    it = world(name, next(iter(CASES[name].variants)))
    for phase in (it.phase(phase.name) for phase in it.one.phases() if not phase.reads_rewards):
        assert isinstance(it.data, Transition)
        unpaid = it._replace(data=it.data._replace(reward=jnp.full(ROWS, jnp.nan)))
        assert bits(unpaid.run(it.state, phase, 0, 3)) == bits(it.run(it.state, phase, 0, 3))


# --- the compiled loop ---


@each_algorithm
def test_the_loop_is_so_many_single_calls_of_one_trace(name: str, variant: str) -> None:
    """And update i depends on the lane's key, the phase and i alone."""
    it, number = world(name, variant), len(CASES[name].changes) - 1
    traces = []

    @jax.jit
    def update(algorithm: Any, state: Any, batch: Any, key: Array, step: Array) -> tuple[Any, Metrics]:
        traces.append(step)
        return algorithm.phases()[number].update(state, batch, key, step)

    algorithm, state, start = take_lane(it.lanes, 0), take_lane(it.state, 0), 7
    derived = take_lane(derive_columns(it.lanes, it.state, it.keys, it.data, phase=number), 0)
    data = it.data if derived is None else it.data._replace(derived=derived)
    totals: dict[str, Any] = {}
    for step in range(start, start + COUNT):
        key = jax.random.fold_in(jax.random.fold_in(it.keys[0], number), step)
        index_key, update_key = jax.random.split(key)
        rows = jax.random.randint(index_key, (BATCH,), 0, ROWS)
        state, metrics = update(algorithm, state, data.take(rows), update_key, jnp.asarray(step, jnp.int32))
        totals = {metric: value + totals.get(metric, 0.0) for metric, value in metrics.items()}
    assert len(traces) == 1
    progress = take_lane(it.run(it.state, number, start, COUNT), 0)
    assert_close(progress.state, state)
    assert_close(progress.metric_sums, totals)


@each_case
def test_stretches_are_cut_anywhere(name: str, variant: str) -> None:
    it, number = world(name, variant), len(CASES[name].changes) - 1
    first = it.run(it.state, number, 0, 1)
    rest = it.run(first.state, number, 1, COUNT - 1)
    assert bits(rest.state) == bits(trained(name, variant).state)


@each_case
def test_save_load_continue(name: str, variant: str, tmp_path: Path) -> None:
    it, number = world(name, variant), len(CASES[name].changes) - 1
    before = trained(name, variant).state
    path = save_checkpoint(tmp_path, "train-4", before, {})
    loaded, _ = load_checkpoint(path, it.state)
    assert bits(loaded) == bits(before)
    assert bits(it.run(loaded, number, COUNT, 2)) == bits(it.run(before, number, COUNT, 2))


@each_case
def test_metrics_are_finite_scalars(name: str, variant: str) -> None:
    progress = trained(name, variant)
    assert progress.metric_sums
    for value in progress.metric_sums.values():
        assert value.shape == (3,)
        assert value.dtype == jnp.float32
        assert jnp.isfinite(value).all()
    assert (progress.first_nonfinite == NEVER).all()


# --- lanes ---


@each_algorithm
def test_lanes_are_single_runs(name: str, variant: str) -> None:
    """Bit for bit where lanes run one after the other, and up to rounding where they are batched.

    The third lane's single run has its swept number *set*: sweeping and setting are the same.
    """
    it, number = world(name, variant), len(CASES[name].changes) - 1
    together, batched = trained(name, variant), it.run(it.state, number, 0, COUNT, sequential=False)
    swept = dataclasses.replace(it.one, **{CASES[name].swept: 2 * getattr(it.one, CASES[name].swept)})
    for lane, algorithm in enumerate((it.one, it.one, swept)):
        single = it._replace(lanes=stack_lanes(algorithm, [Lane(0, {})]), keys=it.keys[lane : lane + 1])
        state = jax.tree.map(lambda leaf, lane=lane: leaf[lane : lane + 1], it.state)
        alone = take_lane(single.run(state, number, 0, COUNT), 0)
        assert bits(take_lane(together, lane)) == bits(alone)
        assert_close(take_lane(batched, lane), alone)


@each_case
def test_different_lanes_differ(name: str, variant: str) -> None:
    state = trained(name, variant).state
    zero, one, two = (bits(take_lane(state, lane)) for lane in range(3))
    assert zero != one
    assert zero != two


@each_algorithm
def test_every_number_counts(name: str, variant: str) -> None:
    """Each numeric hyper-parameter changes what the last phase does, without another compilation."""
    it, number = world(name, variant), len(CASES[name].changes) - 1
    reference = bits(take_lane(trained(name, variant).state, 0))
    programs = run_updates._cache_size()
    for field in set(numeric_fields(it.one)) - CASES[name].unread:
        changed = jnp.full(3, 0.9 * getattr(it.one, field), jnp.float32)  # a zero would not change, so there is none
        swept = it._replace(lanes=dataclasses.replace(it.lanes, **{field: changed}))
        assert bits(take_lane(swept.run(it.state, number, 0, COUNT).state, 0)) != reference, field
    assert run_updates._cache_size() == programs


# --- gradients and targets ---


@pytest.mark.parametrize(
    ("name", "variant", "phase"),
    [
        pytest.param(name, variant, phase, id=f"{name}-{variant}-{phase}", marks=when(name, variant))
        for name, case in CASES.items()
        for variant in case.variants
        for phase in case.changes
        if variant == next(iter(case.variants)) or phase == "train"  # earlier phases once: compiling takes seconds
    ],
)
def test_updates_change_what_they_declare(name: str, variant: str, phase: str) -> None:
    """Every array of the declared fields moves, every other stays as it was, bit for bit."""
    it = world(name, variant)
    before = it.state
    if CASES[name].lagging:  # they start as copies, and would not move yet
        targets = [target for target, *_ in CASES[name].targets]
        apart = {target: jax.tree.map(lambda leaf: leaf + 1.0, getattr(before, target)) for target in targets}
        before = before._replace(**apart)
    after = it.run(before, it.phase(phase), 0, 1).state
    for field in before._fields:
        pairs = list(zip(bits(getattr(before, field)), bits(getattr(after, field)), strict=True))
        if field in CASES[name].changes[phase]:
            assert all(old != new for old, new in pairs), field
        else:
            assert all(old == new for old, new in pairs), field


@each_case
def test_targets_move_on_the_polyak_line(name: str, variant: str) -> None:
    it, number = world(name, variant), len(CASES[name].changes) - 1
    before = trained(name, variant).state  # target and online differ by now
    after = it.run(before, number, COUNT, 1).state
    for target, online, rate_name in CASES[name].targets:
        get, rate = operator.attrgetter(target), getattr(it.one, rate_name)
        towards = operator.attrgetter(online)(before if CASES[name].lagging else after)
        for old, new, goal in zip(*map(jax.tree.leaves, (get(before), get(after), towards)), strict=True):
            expected = (1 - rate) * np.asarray(old, np.float64) + rate * np.asarray(goal, np.float64)
            np.testing.assert_allclose(new, expected, rtol=1e-6, atol=1e-7)  # one rounding to float32


# --- the policy ---


@jax.jit
def act(policy: Any, observation: Array, keys: Array) -> Array:
    return jax.vmap(lambda key: act_once(policy, observation, key))(keys)


def act_once(policy: Any, observation: Array, key: Array) -> Array:
    if isinstance(policy, PolicyWithMemory):
        return policy(observation, key, policy.initial_memory(), jnp.zeros((), jnp.float32))[0]
    return policy(observation, key)


@each_case
def test_a_memory_keeps_its_shape(name: str, variant: str) -> None:
    """So that it can be carried through a loop; and every step of an episode is acted on with another one."""
    it = world(name, variant)
    policy = it.one.policy(take_lane(it.state, 0))
    if not isinstance(policy, PolicyWithMemory):
        return
    memory = policy.initial_memory()
    shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(memory)]
    seen = set()
    for _ in range(3):
        seen.add(b"".join(bits(memory)))
        _, memory = policy(jnp.ones(3, jnp.float32), seed_key(0), memory, jnp.ones((), jnp.float32))
        assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(memory)] == shapes
    assert len(seen) == 3


@each_case
def test_policy_acts_in_bounds_with_fresh_noise(name: str, variant: str) -> None:
    policy = world(name, variant).one.policy(take_lane(trained(name, variant).state, 0))
    keys = jax.random.split(seed_key(3), 64)
    far = jnp.full(3, 100.0)  # drives networks to where nothing but a bound keeps them in bounds
    actions = np.asarray(act(policy, far, keys))
    assert actions.shape == (64, SPEC.action_size)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= SPEC.max_action
    ordinary = np.asarray(act(policy, jnp.zeros(3), keys))
    distinct = len(np.unique(ordinary, axis=0))
    assert distinct == 1 if variant in CASES[name].deterministic else distinct > CASES[name].distinct
    assert np.asarray(act(policy, jnp.zeros(3), keys)).tobytes() == ordinary.tobytes()


# --- shapes and dtypes ---


@pytest.fixture
def _no_shape_checks() -> Iterator[None]:
    """As outside pytest, where nobody checks the annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def _shapes(name: str, variant: str, change: Callable[[Any], Any], phase: int) -> Any:
    algorithm = make(name, variant)
    batch = change(make_data(view_of(algorithm)).take(jnp.arange(ROWS, dtype=jnp.int32)))
    state = jax.eval_shape(lambda key: algorithm.init(SPEC, key), seed_key(0))
    if (derived := derived_shapes(algorithm, state, make_data(), phase)) is not None:
        batch = batch._replace(derived=derived)
    return jax.eval_shape(algorithm.phases()[phase].update, state, batch, seed_key(0), jnp.int32(0))


@each_case
@pytest.mark.usefixtures("_no_shape_checks")
def test_column_vectors_are_refused(name: str, variant: str) -> None:
    """(B, 1) rewards would broadcast against (B,) values to (B, B) without a word."""
    for phase, changed in enumerate(CASES[name].changes.values()):
        if not any("critic" in field for field in changed):  # a phase that trains no critic reads no rewards
            continue
        for column in ("reward", "terminal"):
            with pytest.raises(ValueError, match="vectors of one length"):
                _shapes(name, variant, lambda b, c=column: b._replace(**{c: getattr(b, c)[:, None]}), phase)


@each_algorithm
def test_float32_stays_with_x64_enabled(name: str, variant: str) -> None:
    it = world(name, variant)
    with jax.enable_x64(True):
        shapes: list[Any] = [jax.eval_shape(lambda: it.one.init(SPEC, seed_key(0)))]
        for phase in range(len(CASES[name].changes)):
            shapes.append(_shapes(name, variant, lambda batch: batch, phase))
            shapes.append(jax.eval_shape(lambda state, phase=phase: it.run(state, phase, 0, 1), it.state))
        policy = it.one.policy(take_lane(it.state, 0))
        shapes += [jax.eval_shape(lambda: act_once(policy, jnp.zeros(3, jnp.float32), seed_key(0)))]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(shapes)} <= {"float32", "int32"}
