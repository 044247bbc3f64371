"""The clauses that need no training: what an algorithm is made of, and what its update and policy are as programs.

A clause is a generator: it gives a sentence for whatever does not hold.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
from jax.extend.core import jaxpr_as_fun

from tether.algorithms.registry import check_recorded
from tether.errors import InputError
from tether.testing.subject import Subject, act_once, bits, is_key, take_lane
from tether.training.derive import derived_shapes

__all__ = [
    "broadcasting",
    "column_vectors",
    "constant_keys",
    "double_precision",
    "host_calls",
    "interface",
    "numbers_are_leaves",
    "phase_names",
    "recorded",
    "state_arrays",
    "state_keeps_its_form",
]

SHOWN = 3  # of many faults of one kind
HOST_CALLS = {
    "pure_callback": "jax.pure_callback",
    "io_callback": "jax.experimental.io_callback",
    "debug_callback": "jax.debug.callback or print",
    "debug_print": "jax.debug.print",
}
"""JAX's name of what a program asks of the host -> what made it."""

Sentences = Iterator[str]


def interface(it: Subject) -> Sentences:
    """An equinox.Module with init, phases and policy."""
    cls = type(it.one)
    if isinstance(it.one, type):
        yield f"{it.one.__name__} is a class: give an instance, {it.one.__name__}(...), as small as it works"
    elif not isinstance(it.one, eqx.Module):
        yield f"it is no equinox.Module, so its numbers cannot be stacked over lanes: class {cls.__name__}(eqx.Module)"
    else:
        missing = [name for name in ("init", "phases", "policy") if not callable(getattr(it.one, name, None))]
        if missing:
            yield f"it has no {', '.join(missing)}: an algorithm has init(spec, key), phases() and policy(state)"


def numbers_are_leaves(it: Subject) -> Sentences:
    """Numeric hyper-parameters can be swept, structural ones are part of the program's key."""
    for field in dataclasses.fields(it.one):
        value, static = getattr(it.one, field.name), field.metadata.get("static", False)
        number = isinstance(value, float) or (eqx.is_array(value) and value.ndim == 0)
        if static and number and field.name not in it.expected.structural:
            yield (
                f"{field.name}={value!r} is a number but static, so it cannot be swept over lanes: leave out "
                f'static=True (or say structural={{"{field.name}"}} if it decides shapes or the data)'
            )
        if not static and not number and type(value) is not int:
            yield (
                f"{field.name}={value!r} is no number, so lanes cannot stack it: declare it eqx.field(static=True, ...)"
            )
        if static:
            with contextlib.suppress(Exception):
                hash(value)
                continue
            yield f"{field.name}={value!r} is static but cannot be hashed: take a tuple in the place of a list"


def recorded(it: Subject) -> Sentences:
    """A record of its hyper-parameters gives it back."""
    try:
        check_recorded(it.one)
    except InputError as error:
        yield str(error)


def phase_names(it: Subject) -> Sentences:
    """The phases have names of their own; the last is `train`, whose length is the hyper-parameter train_updates."""
    phases = it.phases
    if not phases:
        yield "phases() gives none: at least Phase('train', self.train_updates, self.update) is needed"
        return
    names = [phase.name for phase in phases]
    if names[-1] != "train":
        yield f"its last phase is called {names[-1]!r}: call it 'train', whose length --updates sets"
    if len(set(names)) < len(names):
        yield f"its phases are called {names}: each needs a name of its own"
    if it.expected.changes is not None and set(names) != set(it.expected.changes):
        yield f"its phases are {names}, `changes` names {sorted(it.expected.changes)}"
    try:
        longer = dataclasses.replace(it.one, train_updates=17)  # pyright: ignore[reportCallIssue]
    except TypeError:
        yield "it has no hyper-parameter train_updates, which --updates sets: train_updates: int, static"
    else:
        if (found := longer.phases()[-1].updates) != 17:
            yield f"with train_updates=17 its last phase has {found} updates: take self.train_updates for its length"


def state_arrays(it: Subject, after_training: bool = False) -> Sentences:
    """All that training carries are arrays of float32 or int32, or random keys."""
    state = it.trained.state if after_training else it.one.init(it.spec, it.keys[0])
    faults = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        where = f"state{jax.tree_util.keystr(path)}"
        if not isinstance(leaf, jax.Array):
            faults.append(f"{where} is a {type(leaf).__name__}, no JAX array: wrap it, jnp.asarray(x, jnp.float32)")
        elif not is_key(leaf) and leaf.dtype not in (jnp.float32, jnp.int32):
            faults.append(f"{where} has dtype {leaf.dtype}: state is carried in float32 and int32")
    yield from faults[:SHOWN]
    if not jax.tree.leaves(state):
        yield "init gives a state without any array"


def state_keeps_its_form(it: Subject) -> Sentences:
    """What an update gives can be given to the next one."""
    for number, phase in enumerate(it.phases):
        _, (after, _metrics) = trace(it, number)
        given = jax.eval_shape(lambda state: state, it.one_state)
        if jax.tree.structure(after) != jax.tree.structure(given):
            yield (
                f"the update of phase {phase.name!r} gives a state of another structure than init's, so it cannot be "
                f"carried: {_difference(given, after)}"
            )
            continue
        pairs = zip(*map(jax.tree_util.tree_leaves_with_path, (given, after)), strict=True)
        changed = [
            (path, old, new) for (path, old), (_, new) in pairs if (old.shape, old.dtype) != (new.shape, new.dtype)
        ]
        for path, old, new in changed[:SHOWN]:
            where, kinds = f"state{jax.tree_util.keystr(path)}", [f"{x.dtype}{list(x.shape)}" for x in (old, new)]
            yield f"the update of phase {phase.name!r} turns {where} from {kinds[0]} into {kinds[1]}"


def _difference(one: Any, two: Any) -> str:
    """In words, where two trees part."""
    paths = [
        {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)} for tree in (one, two)
    ]
    gone, new = sorted(paths[0] - paths[1]), sorted(paths[1] - paths[0])
    parts = [f"{', '.join(names[:SHOWN])} {what}" for names, what in ((gone, "are gone"), (new, "are new")) if names]
    return "; ".join(parts) or f"{jax.tree.structure(two)}"


def constant_keys(it: Subject) -> Sentences:
    """Noise comes from the keys that are given: nobody makes or keeps a constant one."""
    found = [("init", jax.make_jaxpr(lambda key: it.one.init(it.spec, key))(it.keys[0]))]
    found += [(f"the update of phase {phase.name!r}", trace(it, i)[0]) for i, phase in enumerate(it.phases)]
    policy = it.one.policy(it.one_state)
    found += [("the policy", jax.make_jaxpr(lambda p, o, k: act_once(p, o, k))(policy, *_observed(it)))]
    for where, program in found:
        if _makes_a_key(program):
            yield f"{where} makes a key of a constant (jax.random.key(...)), so its noise is the same at every call"
        # Two networks that begin as copies may well be made with one key.
        if where != "init" and _uses_a_key_twice(program):
            yield (
                f"{where} uses a key twice, so what is drawn with it is not independent: split it first, "
                "first, second = jax.random.split(key), and draw with each once"
            )
    stored = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(policy) if is_key(leaf)]
    if stored:
        yield f"the policy keeps a key, {stored[0].lstrip('.')}: what acts is given a fresh one at every call"
    for path, leaf in jax.tree_util.tree_leaves_with_path(it.one_state):
        if is_key(leaf):
            after = take_lane(it.trained.state, 0)
            same = [new for p, new in jax.tree_util.tree_leaves_with_path(after) if p == path]
            if bits(same) == bits([leaf]):
                where = f"state{jax.tree_util.keystr(path)}"
                yield f"{where} is a key that updates leave as it is: use the key that they are given"


def _observed(it: Subject) -> tuple[Any, Any]:
    return jnp.zeros(it.spec.observation_size, jnp.float32), it.keys[0]


def _uses_a_key_twice(program: Any) -> bool:
    """Whether JAX's own checker of programs finds it so; draws within a loop from a key that stays, too."""
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in program.in_avals]
    try:
        with jax.debug_key_reuse(True):
            jax.jit(jaxpr_as_fun(program)).lower(*shapes)
    except jax.errors.KeyReuseError:
        return True
    return False


def _makes_a_key(program: Any) -> bool:
    """Whether a program makes a key of a number, or has one among its constants."""
    return any(
        any(map(is_key, getattr(part, "consts", ())))
        or any(e.primitive.name == "random_seed" for e in _equations(part))
        for part in _programs(program)
    )


def host_calls(it: Subject) -> Sentences:
    """An update is one program on the device: whatever waits for Python breaks it, or costs more than the update."""
    for number, phase in enumerate(it.phases):
        program = trace(it, number)[0]
        names = {equation.primitive.name for part in _programs(program) for equation in _equations(part)}
        for name in sorted(names & set(HOST_CALLS)):
            yield (
                f"the update of phase {phase.name!r} calls Python on the host while it runs ({HOST_CALLS[name]}): "
                "compute it with jnp, and log numbers as metrics"
            )


def uses_randomness(program: Any) -> bool:
    """Whether a program draws random numbers."""
    names = {equation.primitive.name for part in _programs(program) for equation in _equations(part)}
    return bool(names & {"random_bits", "threefry2x32"})


def _programs(program: Any) -> Iterator[Any]:
    """A program, and all that are within it."""
    yield program
    for equation in _equations(program):
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
                    yield from _programs(part)


def _equations(program: Any) -> Any:
    return getattr(program, "jaxpr", program).eqns


# --- shapes and dtypes ---


def _batch(it: Subject, phase: int, change: Callable[[Any], Any] = lambda batch: batch) -> Any:
    """A minibatch of every row, changed."""
    batch = change(it.data.take(jnp.arange(it.data.rows, dtype=jnp.int32)))
    state = jax.eval_shape(lambda key: it.one.init(it.spec, key), it.keys[0])
    derived = derived_shapes(it.one, state, it.data, phase)
    return batch if derived is None else batch._replace(derived=derived)


def _shapes(it: Subject, phase: int, change: Callable[[Any], Any] = lambda batch: batch) -> Any:
    """What an update gives, as shapes."""
    state = jax.eval_shape(lambda key: it.one.init(it.spec, key), it.keys[0])
    return jax.eval_shape(it.phases[phase].update, state, _batch(it, phase, change), it.keys[0], jnp.int32(0))


def trace(it: Subject, phase: int) -> tuple[Any, Any]:
    """(an update's program, what it gives as shapes); once for each phase."""
    traced = it.__dict__.setdefault("_traced", {})
    if phase not in traced:
        update, batch = it.phases[phase].update, _batch(it, phase)
        traced[phase] = jax.make_jaxpr(update, return_shape=True)(it.one_state, batch, it.keys[0], jnp.int32(0))
    return traced[phase]


def broadcasting(it: Subject) -> Sentences:
    """Arrays of different ranks never meet without a word."""
    for number, phase in enumerate(it.phases):
        try:
            with jax.numpy_rank_promotion("raise"):
                _shapes(it, number)
        except (ValueError, TypeError) as error:
            if "rank" not in str(error):
                raise
            yield f"the update of phase {phase.name!r} broadcasts over ranks, which hides bugs: {_first_line(error)}"


def column_vectors(it: Subject) -> Sentences:
    """(B, 1) rewards would broadcast against (B,) values to (B, B) without a word: a phase that reads them refuses."""
    for number, phase in enumerate(it.phases):
        for column in ("reward", "terminal"):
            if hasattr(it.data, column) and _reads(it, number, column):
                yield from _column_vector(it, number, phase.name, column)


def _column_vector(it: Subject, number: int, phase: str, column: str) -> Sentences:
    what = f"the update of phase {phase!r} takes a {column} of shape (batch, 1)"
    try:
        with _no_shape_checks():
            _shapes(it, number, lambda batch: batch._replace(**{column: getattr(batch, column)[:, None]}))
    except Exception as error:
        if it.expected.refusal and not (isinstance(error, ValueError) and it.expected.refusal in str(error)):
            yield f"{what}: it must refuse with {it.expected.refusal!r}, not with: {_first_line(error)}"
    else:
        yield (
            f"{what} without a word, where it broadcasts against (batch,) to (batch, batch): make targets with "
            "tether.algorithms.shared.losses.td_target, which refuses it, or compare shapes"
        )


def _reads(it: Subject, number: int, column: str) -> bool:
    """Whether a phase's update depends on a column: other numbers show it. Of those whose words of refusal are known,
    which are tether's own, a phase that trains a critic must refuse whatever it reads."""
    if it.expected.refusal and it.expected.changes is not None:
        return any("critic" in field for field in it.expected.changes[it.phases[number].name])
    other = it.data._replace(**{column: 1.0 - getattr(it.data, column)})
    before, after = (it.run(it.state, number, 0, 1, data=data) for data in (it.data, other))
    return bits(before.state) != bits(after.state)


@contextlib.contextmanager
def _no_shape_checks() -> Iterator[None]:
    """As outside pytest, where nobody checks the annotations."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def double_precision(it: Subject) -> Sentences:
    """float32 stays float32 where somebody has enabled 64 bits."""
    it.prepare()
    with jax.enable_x64(True):
        parts: dict[str, Any] = {"init": jax.eval_shape(lambda: it.one.init(it.spec, jax.random.key(0)))}
        for number, phase in enumerate(it.phases):
            shapes = [_shapes(it, number)]
            if not any(map(_wide, jax.tree.leaves(shapes))):  # else the loop could not carry it
                shapes.append(jax.eval_shape(lambda state, phase=number: it.run(state, phase, 0, 1), it.state))
            parts[f"the update of phase {phase.name!r}"] = shapes
        policy = it.one.policy(it.one_state)
        zeros = jnp.zeros(it.spec.observation_size, jnp.float32)
        parts["the policy"] = jax.eval_shape(lambda: act_once(policy, zeros, jax.random.key(0)))
    for where, shapes in parts.items():
        leaves = jax.tree_util.tree_leaves_with_path(shapes)
        wide = [(jax.tree_util.keystr(path[-1:]).lstrip("."), str(leaf.dtype)) for path, leaf in leaves if _wide(leaf)]
        if wide:
            names = ", ".join(dict.fromkeys(name for name, _ in wide[:SHOWN] if not name.startswith("[")))
            yield (
                f"where 64 bits are enabled (jax_enable_x64), {where} gives {', '.join(sorted({d for _, d in wide}))}"
                f"{' for ' + names if names else ''}: noise and constants take JAX's default; name the dtype, as in "
                "jax.random.normal(key, shape, jnp.float32) and jnp.zeros(n, jnp.float32)"
            )


def _wide(leaf: Any) -> bool:
    """Whether it is of a type that neither state nor metrics are carried in."""
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) and leaf.dtype not in (jnp.float32, jnp.int32)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
