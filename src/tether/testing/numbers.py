"""The clauses about training: seeds, the compiled loop, lanes, hyper-parameters, what updates change."""

import dataclasses
import operator
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.algorithms.registry import numeric_fields
from tether.runs.checkpoint import load_checkpoint, save_checkpoint
from tether.testing.structure import trace
from tether.testing.subject import BATCH, COUNT, Subject, act, bits, changed, same_bits
from tether.training.derive import derive_columns
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.training.loop import NEVER, run_updates
from tether.types import Array, Metrics

__all__ = [
    "checkpoints",
    "every_number_counts",
    "imitation_reads_no_rewards",
    "lanes_are_single_runs",
    "lanes_differ",
    "loop_is_single_calls",
    "metrics_are_scalars",
    "same_seed_same_numbers",
    "stretches",
    "targets_move_on_a_line",
    "updates_change_what_they_declare",
]

Sentences = Iterator[str]


def same_seed_same_numbers(it: Subject) -> Sentences:
    """Initialisation and training alike: lanes 0 and 2 share a seed, lane 1 has another."""
    zero, one, two = (take_lane(it.state, lane) for lane in range(3))
    if not same_bits(zero, two):
        yield "init gives other numbers for the same key: it must depend on its key alone"
    if same_bits(zero, one):
        yield "init gives the same numbers for two keys: it ignores its key"
    again = it.run(it.state, it.last, 0, COUNT)
    if not same_bits(again, it.trained):
        yield f"the same {COUNT} updates gave other numbers the second time: not state, batch and key alone decide"


def imitation_reads_no_rewards(it: Subject) -> Sentences:
    """Of a phase that says that it reads no rewards, whatever stands there changes nothing, NaN neither."""
    for number, phase in enumerate(it.phases):
        if not phase.reads_rewards and hasattr(it.data, "reward"):
            unpaid = it.data._replace(reward=jnp.full(it.data.rows, jnp.nan))
            if not same_bits(it.run(it.state, number, 0, 3, data=unpaid), it.run(it.state, number, 0, 3)):
                yield f"phase {phase.name!r} says reads_rewards=False, but rewards change what it does"


def loop_is_single_calls(it: Subject) -> Sentences:
    """The compiled loop is so many single calls of one trace; update i depends on the lane's key, the phase and i."""
    traces = []

    @jax.jit
    def update(algorithm: Any, state: Any, batch: Any, key: Array, step: Array) -> tuple[Any, Metrics]:
        traces.append(step)
        return algorithm.phases()[it.last].update(state, batch, key, step)

    algorithm, state, start = take_lane(it.lanes, 0), it.one_state, 7
    derived = take_lane(derive_columns(it.lanes, it.state, it.keys, it.data, phase=it.last), 0)
    data = it.data if derived is None else it.data._replace(derived=derived)
    totals: dict[str, Any] = {}
    for step in range(start, start + COUNT):
        key = jax.random.fold_in(jax.random.fold_in(it.keys[0], it.last), step)
        index_key, update_key = jax.random.split(key)
        rows = jax.random.randint(index_key, (BATCH,), 0, it.data.rows)
        state, metrics = update(algorithm, state, data.take(rows), update_key, jnp.asarray(step, jnp.int32))
        totals = {metric: value + totals.get(metric, 0.0) for metric, value in metrics.items()}
    if len(traces) != 1:
        yield (
            f"its update was traced {len(traces)} times for {COUNT} batches: a Python number that becomes part of the "
            "state, or something that changes between calls, makes JAX compile it again"
        )
    progress = take_lane(it.run(it.state, it.last, start, COUNT), 0)
    for what, found, expected in (("state", progress.state, state), ("metrics", progress.metric_sums, totals)):
        if where := _apart(found, expected):
            yield f"{COUNT} updates in the compiled loop and {COUNT} single calls part in {what}{where}"


def stretches(it: Subject) -> Sentences:
    """Training can be cut anywhere."""
    first = it.run(it.state, it.last, 0, 1)
    rest = it.run(first.state, it.last, 1, COUNT - 1)
    if not same_bits(rest.state, it.trained.state):
        yield f"1 update and then {COUNT - 1} give other numbers than {COUNT} in one go: something is not in the state"


def checkpoints(it: Subject) -> Sentences:
    """Saved, loaded and continued is bit-identical to going on."""
    before = it.trained.state
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(Path(folder), "train-4", before, {})
        loaded, _ = load_checkpoint(path, it.state)
    if not same_bits(loaded, before):
        yield "a state that is saved and loaded is another one"
    if not same_bits(it.run(loaded, it.last, COUNT, 2), it.run(before, it.last, COUNT, 2)):
        yield "training on from a saved state gives other numbers than training on: something is not in the state"


def metrics_are_scalars(it: Subject) -> Sentences:
    """Metrics are finite float32 scalars."""
    try:
        progress = it.trained
    except Exception:
        if trace(it, it.last)[1][1]:
            raise
        yield "its update gives no metrics: at least its losses, a dictionary of scalars"
        return
    for name, value in progress.metric_sums.items():
        if value.shape != (len(it.keys),):
            yield f"metric {name!r} has shape {value.shape[1:]}: metrics are scalars, take a mean"
        elif value.dtype != jnp.float32:
            yield f"metric {name!r} has dtype {value.dtype}: metrics are float32"
        elif not jnp.isfinite(value).all():
            yield f"metric {name!r} is not finite after {COUNT} updates of ordinary data"
    if (progress.first_nonfinite != NEVER).any():
        yield f"its numbers are not finite after {COUNT} updates of ordinary data"


# --- lanes ---


def lanes_are_single_runs(it: Subject) -> Sentences:
    """Bit for bit where lanes run one after the other, and up to rounding where they are batched.

    The third lane's single run has its swept number *set*: sweeping and setting are the same.
    """
    together, batched = it.trained, it.run(it.state, it.last, 0, COUNT, sequential=False)
    swept = it.one
    if it.swept is not None:
        swept = dataclasses.replace(it.one, **{it.swept: changed(it.one, it.swept)})
    for lane, algorithm in enumerate((it.one, it.one, swept)):
        state = jax.tree.map(lambda leaf, lane=lane: leaf[lane : lane + 1], it.state)
        how = {"lanes": stack_lanes(algorithm, [Lane(0, {})]), "keys": it.keys[lane : lane + 1]}
        alone = take_lane(it.run(state, it.last, 0, COUNT, **how), 0)
        if not same_bits(take_lane(together, lane), alone):
            yield f"lane {lane} trained beside others gives other numbers than alone"
        if where := _apart(take_lane(batched, lane), alone):
            yield f"lane {lane} under vmap parts from the same lane alone in progress{where}"


def lanes_differ(it: Subject) -> Sentences:
    """Seeds and swept numbers make a difference."""
    zero, one, two = (bits(take_lane(it.trained.state, lane)) for lane in range(3))
    if zero == one:
        yield "two seeds are trained to the same numbers"
    if it.swept is None and numeric_fields(it.one):
        yield "none of its numeric hyper-parameters changes what its last phase does: a sweep has no effect"
    elif it.swept is not None and zero == two:
        yield f"{it.swept} at another value changes nothing in {COUNT} updates: a sweep of it has no effect"


def every_number_counts(it: Subject) -> Sentences:
    """Each numeric hyper-parameter changes what the last phase does, without another compilation."""
    reference = bits(take_lane(it.run(it.state, it.last, 0, COUNT).state, 0))
    compiled = getattr(run_updates, "_cache_size", lambda: 0)  # JAX has it, though not in its documents
    programs = compiled()
    for field in sorted(set(numeric_fields(it.one)) - (it.expected.unread or set())):
        changed = _with(it, field)
        if bits(take_lane(it.run(it.state, it.last, 0, COUNT, lanes=changed).state, 0)) != reference:
            continue
        if it.expected.unread is not None or not _counts_elsewhere(it, field, changed):
            yield f"{field} has no effect: another value of it changes nothing, and a sweep of it shows equal lanes"
    if it.expected.unread is not None and compiled() != programs:
        yield "another value of a numeric hyper-parameter made JAX compile the update again"


def _with(it: Subject, field: str) -> Any:
    """All lanes with another value of a number."""
    value = getattr(it.one, field)
    value = 0.9 * value if value != 0 else 0.1
    return dataclasses.replace(it.lanes, **{field: jnp.full(len(it.keys), value, jnp.float32)})


def _counts_elsewhere(it: Subject, field: str, changed: Any) -> bool:
    """Whether a number that the last phase does not read decides the beginning, an earlier phase or the policy."""
    one = take_lane(changed, 0)
    if not same_bits(one.init(it.spec, it.keys[0]), it.one.init(it.spec, it.keys[0])):
        return True
    for phase in range(it.last):
        runs = (it.run(it.state, phase, 0, 1, lanes=lanes) for lanes in (it.lanes, changed))
        before, after = (take_lane(run.state, 0) for run in runs)
        if not same_bits(before, after):
            return True
    state, keys = take_lane(it.trained.state, 0), jax.random.split(it.keys[0], 8)
    acts = (act(a.policy(state), jnp.ones(it.spec.observation_size), keys) for a in (take_lane(it.lanes, 0), one))
    before, after = acts
    return not same_bits(before, after)


# --- gradients and targets ---


def updates_change_what_they_declare(it: Subject, phase: str | None = None) -> Sentences:
    """Every array of the declared fields moves, every other stays as it was, bit for bit. Where nothing is declared:
    of each field all arrays move or none, and something does. phase: that one alone."""
    for name in [each.name for each in it.phases] if phase is None else [phase]:
        before = _with_targets_apart(it)
        after = it.run(before, it.phase(name), 0, 1).state
        moved_any = False
        for field, get in it.state_fields():
            pairs = list(zip(bits(get(before)), bits(get(after)), strict=True))
            moved = sum(old != new for old, new in pairs)
            moved_any |= moved > 0
            yield from _movement(it, name, field, moved, len(pairs), get)
        if not moved_any:
            yield f"an update of phase {name!r} changes nothing"


def _with_targets_apart(it: Subject) -> Any:
    """The state, with targets that lag away from what they start as copies of: they would not move yet."""
    apart = {t: jax.tree.map(lambda leaf: leaf + 1.0, getattr(it.state, t)) for t in it.expected.lagging}
    return it.state._replace(**apart)


def _movement(it: Subject, phase: str, field: str, moved: int, count: int, get: Any) -> Sentences:
    what = f"an update of phase {phase!r}"
    if it.expected.changes is None:
        if 0 < moved < count:
            yield (
                f"{what} changes {moved} of the {count} arrays of state.{field}: the gradient does not reach the others"
            )
    elif field in it.expected.changes[phase]:
        if moved < count:
            yield f"{what} leaves {count - moved} of the {count} arrays of state.{field} as they were"
    elif moved:
        yield f"{what} changes state.{field}, which it shall leave alone: a gradient leaks into it"


def targets_move_on_a_line(it: Subject) -> Sentences:
    """A target moves by its rate towards the online network as it is after the update, or was before if it lags."""
    before = it.trained.state  # target and online differ by now
    after = it.run(before, it.last, COUNT, 1).state
    if it.expected.targets is None:
        for target, online in _find_targets(it):
            yield from _found_target(it, before, after, target, online)
        return
    for target, online, rate_name in it.expected.targets:
        get, rate = operator.attrgetter(target), getattr(it.one, rate_name)
        goal = operator.attrgetter(online)(before if target in it.expected.lagging else after)
        if not _is_on_line(get(before), get(after), goal, rate):
            yield f"state.{target} does not move by {rate_name}={rate} of the way to state.{online} in each update"


def _is_on_line(old: Any, new: Any, goal: Any, rate: float) -> bool:
    for a, b, c in zip(*map(jax.tree.leaves, (old, new, goal)), strict=True):
        expected = (1 - rate) * np.asarray(a, np.float64) + rate * np.asarray(c, np.float64)
        if not np.allclose(b, expected, rtol=1e-6, atol=1e-7):  # one rounding to float32
            return False
    return True


def _find_targets(it: Subject) -> Iterator[tuple[str, str]]:
    """Fields of State called target_..., and the field or part of one that has the rest of the name and its form."""
    fields = dict(it.state_fields())
    for target in fields:
        if target.startswith("target_"):
            rest, form = target.removeprefix("target_"), jax.tree.structure(getattr(it.one_state, target))
            for path in [rest, *(f"{field}.{rest}" for field in fields)]:
                try:
                    found = operator.attrgetter(path)(it.one_state)
                except AttributeError:
                    continue
                if path != target and jax.tree.structure(found) == form:
                    yield target, path
                    break


def _found_target(it: Subject, before: Any, after: Any, target: str, online: str) -> Sentences:
    """A target that somebody's names suggest: it stays, or moves on the line by a rate that the algorithm has."""
    get, goal = operator.attrgetter(target), operator.attrgetter(online)
    if same_bits(get(before), get(after)):
        return
    names = [name for name in numeric_fields(it.one) if "rate" in name and "learning" not in name]
    rates = {name: float(getattr(it.one, name)) for name in names} | {"a copy": 1.0}
    goals = goal(after), goal(before)
    if not any(_is_on_line(get(before), get(after), end, rate) for end in goals for rate in rates.values()):
        tried = ", ".join(f"{name}={rate:g}" for name, rate in rates.items() if name != "a copy") or "no rate"
        yield f"state.{target} moves, but not on the line to state.{online} (of its numbers: {tried})"


def _apart(one: Any, two: Any) -> str:
    """The path of the first leaf in which two trees differ by more than how XLA orders sums: 1e-6 of a gradient, which
    Adam's first steps turn into up to 1e-3 of a step of 3e-4 where a gradient nearly cancels; 1e-5 leaves room for that
    and is 1/100 of what COUNT updates move. Empty where there is none."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True)
    for (path, x), y in pairs:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        if not np.allclose(x, y, rtol=1e-4, atol=1e-5):
            difference = float(np.max(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64))))
            return f"{jax.tree_util.keystr(path)} (by up to {difference:.2g})"
    return ""
