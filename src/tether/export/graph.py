"""A policy with its randomness as an input: action = policy(observation, key) becomes

    noise = draw(key)                    normal and Gumbel numbers, a tuple of arrays
    action = act(observation, noise)     a function without keys, loops or calls, which other runtimes can take

Policies with chunks also give the whole chunk (`chunk`), Gaussian ones the action's log density (`log_density`).

The algorithms' files know nothing of this. Their policies are traced, and the trace is run again by an interpreter that
keeps the draws of `jax.random` (`DRAWS`) apart from everything else. With the key in hand it computes the draws alone;
without it, it takes them as given. On the way calls are inlined, loops of fixed length unrolled, and whatever depends
on weights alone (a schedule, the features of a diffusion's steps) becomes a constant.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.extend.core import Literal as Number

from tether.algorithms.interface import Policy, PolicyWithMemory
from tether.errors import InputError
from tether.export.program import evaluated
from tether.machine.traces import scan_sizes
from tether.policies.acting import Sampled
from tether.policies.density import log_volume
from tether.policies.deployed import DeployedPolicy
from tether.policies.framed import FramedPolicy
from tether.types import Array, Float, PRNGKey

__all__ = ["DRAWS", "Draw", "Graph", "Law", "decide_with_extras"]

Law = Literal["normal", "gumbel", "uniform"]
"""normal: N(0, 1); gumbel: -log(-log(uniform)); uniform: in [0, 1)."""

DRAWS: dict[str, Law] = {"_normal": "normal", "_normal_real": "normal", "_gumbel": "gumbel", "_uniform": "uniform"}
"""The compiled functions of `jax.random` whose results a graph takes as inputs, by the names they have in a trace."""
SHORTCUT = "shortcut"  # `tether.policies.selection.shortcut`, as it is called in a trace
CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # parameters in which a call keeps what it calls
MOST_FOLDED = 4_096  # numbers: a constant that is larger than what it is made of is made in the graph


class Draw(NamedTuple):
    """Random numbers that one decision takes: float32, independent of each other."""

    law: Law
    shape: tuple[int, ...]


class Graph:
    """A policy as a function of observation and noise, for one decision; `jax.vmap` makes it one of many.

    half: the policy computes in float16, what is around it (normaliser, range of the actions) in float32.
    """

    def __init__(self, policy: DeployedPolicy, *, half: bool = False):
        """Raises InputError for a policy that draws otherwise than by normal, Gumbel or uniform numbers."""
        self.policy = policy
        acts, self.extras = _with_extras(policy.policy)
        self._dtype = jnp.float16 if half else jnp.float32
        observation = jnp.zeros(policy.observation_mean.shape, jnp.float32)
        rest = (policy.initial_memory(), jnp.zeros((), jnp.float32)) if policy.has_memory else ()
        self._trace = jax.make_jaxpr(acts)(observation, jax.random.key(0), *rest)
        found: list[Draw] = []

        def note(law: Law, shape: tuple[int, ...], _: Any) -> Array:
            found.append(Draw(law, shape))
            return jnp.zeros(shape, jnp.float32)

        jax.eval_shape(lambda *inputs: self._run([inputs[0], UNKNOWN, *inputs[1:]], note), observation, *_leaves(rest))
        self.draws = tuple(found)

    def noise(self, key: PRNGKey) -> tuple[Float[Array, "..."], ...]:
        """What the policy draws with `key`, in the order of `draws`."""
        found: list[Array] = []

        def keep(law: Law, shape: tuple[int, ...], compute: Callable[[], Array]) -> Array:
            found.append(compute())
            return found[-1]

        unknown = [UNKNOWN] * (len(self._trace.jaxpr.invars) - 2)
        constants = [UNKNOWN] * len(self._trace.consts)  # nothing but the draws is computed
        _Interpreter(keep).run(self._trace.jaxpr, constants, [UNKNOWN, key, *unknown])
        return tuple(found)

    def act(
        self,
        observation: Float[Array, " observation"],
        noise: Sequence[Float[Array, "..."]],
        memory: Any = (),
        reward: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, " action"], Any]:
        """The action, in the robot's units, and the memory for the next decision, as `DeployedPolicy.step`."""
        return self.act_with_extras(observation, noise, memory, reward)[:2]

    def act_with_extras(
        self,
        observation: Float[Array, " observation"],
        noise: Sequence[Float[Array, "..."]],
        memory: Any = (),
        reward: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, " action"], Any, dict[str, Array]]:
        """As `act`, and by name what else the policy says, in the robot's units (the module's head)."""
        given = iter(noise)
        rest = [*_leaves(memory), *([reward] if self.policy.has_memory else [])]
        outputs = self._run([self.policy.normalise(observation), UNKNOWN, *rest], lambda *_: next(given))
        return _told(self.policy, self.extras, memory, outputs)

    def _run(self, inputs: Sequence[Any], draw: "OnDraw") -> list[Array]:
        """Action, memory and extras of the policy itself; a memory keeps its types."""
        interpreter = _Interpreter(draw, self._dtype)
        outputs = interpreter.run(self._trace.jaxpr, self._trace.consts, inputs)
        if any(output is UNKNOWN for output in outputs):
            culprit = next(iter(interpreter.others), "while loops")
            raise InputError(
                f"policy {type(self.policy.policy).__name__}: it draws random numbers by {culprit}; "
                "export knows jax.random.normal, gumbel, categorical and uniform from 0 to 1"
            )
        types = [jnp.float32, *(leaf.dtype for leaf in _leaves(self.policy.initial_memory()))]
        types += [jnp.float32] * len(self.extras)
        return [jnp.asarray(output, dtype) for output, dtype in zip(outputs, types, strict=True)]


def decide_with_extras(
    policy: DeployedPolicy,
    observation: Float[Array, " observation"],
    key: PRNGKey,
    memory: Any,
    reward: Float[Array, ""],
) -> tuple[Float[Array, " action"], Any, dict[str, Array]]:
    """What `Graph.act_with_extras` is to give, by the policy itself."""
    acts, extras = _with_extras(policy.policy)
    rest = (memory, reward) if policy.has_memory else ()
    return _told(policy, extras, memory, _leaves(acts(policy.normalise(observation), key, *rest)))


def _told(
    policy: DeployedPolicy, extras: Sequence[str], memory: Any, outputs: Sequence[Any]
) -> tuple[Float[Array, " action"], Any, dict[str, Array]]:
    """Outputs in order, in the policy's own units -> action, memory with the structure of `memory`, and extras."""
    leaves, structure = jax.tree.flatten(memory)
    action, *after = outputs
    found = dict(zip(extras, after[len(leaves) :], strict=True))
    if "chunk" in found:
        found["chunk"] = jax.vmap(policy.in_units)(found["chunk"])
    if "log_density" in found:
        found["log_density"] = found["log_density"] - log_volume(policy)
    memory = jax.tree.unflatten(structure, after[: len(leaves)])
    return policy.in_units(action.astype(jnp.float32)), memory, found


def _with_extras(policy: Policy | PolicyWithMemory) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """What acts and says more than a call does, and the names of what it says, which come last."""
    if isinstance(policy, FramedPolicy) and policy.framing.chunk > 1:
        return policy.act_and_decide, ("chunk",)
    if isinstance(policy, Sampled) and policy.has_density:
        return policy.with_log_density, ("log_density",)
    return policy, ()


OnDraw = Callable[[Law, tuple[int, ...], Callable[[], Array]], Array]
"""(law, shape, what computes the draw with its key) -> the draw."""


class _Unknown:
    """What stands for a value that depends on what is not given."""


UNKNOWN = _Unknown()


class _Interpreter:
    """Runs a trace under JAX's own tracing, see the module's head."""

    def __init__(self, draw: OnDraw, dtype: Any = jnp.float32):
        self.draw = draw
        self.dtype = dtype  # of all float32 numbers that are not constants
        self.others: list[str] = []  # functions of jax.random that are no draws

    def run(self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any], name: str = "the policy") -> list[Any]:
        """The outputs of `jaxpr`, UNKNOWN where they depend on an UNKNOWN input."""
        values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

        def value(atom: Any) -> Any:
            return atom.val if isinstance(atom, Number) else values[atom]

        for equation in jaxpr.eqns:
            outputs = self._outputs(equation, [value(atom) for atom in equation.invars], name)
            values.update(zip(equation.outvars, outputs, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def _outputs(self, equation: Any, inputs: list[Any], name: str) -> Sequence[Any]:
        kind, parameters = equation.primitive.name, equation.params
        law = DRAWS.get(parameters.get("name", ""))
        if law is not None and _is_standard(law, inputs) and equation.outvars[0].aval.dtype == jnp.float32:
            drawn = functools.partial(jaxpr_as_fun(parameters["jaxpr"]), *inputs)
            return [self.draw(law, equation.outvars[0].aval.shape, lambda: drawn()[0])]
        if kind == "stack" and not any(value is UNKNOWN for value in inputs):  # few converters know it yet
            return [_stacked([*map(self._cast, inputs)], parameters["axis"])]
        if kind == "select_n" and isinstance(inputs[0], np.ndarray | np.generic | bool) and np.ndim(inputs[0]) == 0:
            return [inputs[1 + int(inputs[0])]]  # as that of jnp.var, whether there is anything to take a mean of
        if kind == "scan":
            return self._scan(equation, inputs, name)
        if kind == "cond":
            return self._cond(parameters["branches"], *inputs, name=name)
        called = next((parameters[key] for key in CALLED if key in parameters), None)
        if called is not None and kind != "while":
            jaxpr, constants = (called.jaxpr, called.consts) if isinstance(called, ClosedJaxpr) else (called, ())
            return self.run(jaxpr, constants, inputs, parameters.get("name", name))
        if any(value is UNKNOWN for value in inputs):
            if kind == "random_bits":
                self.others.append(f"jax.random.{name.strip('_')}")
            return [UNKNOWN] * len(equation.outvars)
        return self._bind(equation, inputs)

    def _bind(self, equation: Any, inputs: list[Any]) -> Sequence[Any]:
        """A primitive, at once where its inputs are constants and nothing grows much."""
        parameters = equation.params  # of operations that call nothing, what they are bound with
        constant = not any(isinstance(value, jax.core.Tracer) for value in inputs)
        sizes = [sum(map(np.size, inputs)), sum(variable.aval.size for variable in equation.outvars)]
        if constant and sizes[1] <= max(sizes[0], MOST_FOLDED):
            folded = evaluated(equation, inputs)
            if folded is not None:
                return folded
            with jax.ensure_compile_time_eval():
                outputs = equation.primitive.bind(*inputs, **parameters)
        else:
            cast = [self._cast(value) for value in inputs]
            outputs = equation.primitive.bind(*cast, **{name: self._type(value) for name, value in parameters.items()})
        return outputs if equation.primitive.multiple_results else [outputs]

    def _cast(self, value: Any) -> Any:
        if getattr(value, "dtype", None) != jnp.float32:
            return value
        return (
            np.asarray(value, self.dtype) if isinstance(value, float) else value.astype(self.dtype)
        )  # a literal is one

    def _type(self, parameter: Any) -> Any:
        is_float = isinstance(parameter, np.dtype | type) and parameter in (np.float32, np.dtype(np.float32))
        return np.dtype(self.dtype) if is_float else parameter

    def _scan(self, equation: Any, inputs: list[Any], name: str) -> list[Any]:
        """All turns one after the other."""
        how = equation.params
        constants, carry, rows = _cut(inputs, *scan_sizes(equation))
        turns = range(how["length"])
        stacked: list[list[Any]] = []
        for turn in reversed(turns) if how["reverse"] else turns:
            row = [value if value is UNKNOWN else self._row(value, turn) for value in rows]
            outputs = self.run(how["jaxpr"].jaxpr, how["jaxpr"].consts, [*constants, *carry, *row], name)
            carry = outputs[: len(carry)]
            stacked.append(outputs[len(carry) :])
        if how["reverse"]:
            stacked.reverse()
        return [*carry, *(self._stack(column) for column in zip(*stacked, strict=True))]

    def _row(self, value: Any, turn: int) -> Any:
        if isinstance(value, jax.core.Tracer):
            return jax.lax.index_in_dim(value, turn, keepdims=False)
        return np.asarray(value)[turn] if isinstance(value, np.ndarray) else value[turn]

    def _stack(self, column: Sequence[Any]) -> Any:
        return UNKNOWN if any(value is UNKNOWN for value in column) else _stacked([*map(self._cast, column)])

    def _cond(self, branches: Sequence[ClosedJaxpr], which: Any, *inputs: Any, name: str) -> Sequence[Any]:
        """Both branches and a choice: one of many decisions has no other way."""
        if name == SHORTCUT and not any(value is UNKNOWN for value in (which, *inputs)):
            return self._shortcut(branches, which, inputs, name)
        each = [self.run(branch.jaxpr, branch.consts, inputs, name) for branch in branches]
        if which is UNKNOWN:  # what they draw is known all the same
            return [UNKNOWN] * len(branches[0].jaxpr.outvars)
        return [
            UNKNOWN
            if any(value is UNKNOWN for value in values)
            else jax.lax.select_n(which if len(branches) > 2 else which.astype(bool), *map(self._cast, values))
            for values in zip(*each, strict=True)
        ]

    def _shortcut(self, branches: Sequence[ClosedJaxpr], holds: Any, inputs: Sequence[Any], name: str) -> Sequence[Any]:
        """The short way where it is right for all decisions of a batch, else the exact one, which is right for any."""

        def way(branch: ClosedJaxpr) -> Callable[..., list[Any]]:
            return lambda *values: self.run(branch.jaxpr, branch.consts, values, name)

        exact, short = map(way, branches)

        @jax.custom_batching.custom_vmap
        def choose(holds: Array, *values: Any) -> list[Any]:
            return jax.lax.cond(holds != 0, short, exact, *values)

        @choose.def_vmap
        def choose_for_all(size: Any, batched: list[bool], holds: Array, *values: Any) -> Any:
            axes = tuple(0 if each else None for each in batched[1:])
            found = jax.lax.cond((holds != 0).all(), *(jax.vmap(each, axes) for each in (short, exact)), *values)
            return found, [True] * len(found)

        return choose(holds, *inputs)


def _is_standard(law: Law, inputs: Sequence[Any]) -> bool:
    """Whether a draw has no parameters but its key: a uniform one has its bounds, which may hang on the observation."""
    if law != "uniform":
        return True
    known = not any(isinstance(bound, jax.core.Tracer | _Unknown) for bound in inputs[1:])
    return known and [float(bound) for bound in inputs[1:]] == [0.0, 1.0]


def _stacked(values: Sequence[Any], axis: int = 0) -> Array:
    """`jnp.stack` in two operations that every converter knows."""
    return jax.lax.concatenate([jax.lax.expand_dims(value, (axis,)) for value in values], axis)


def _leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree)


def _cut(values: list[Any], *lengths: int) -> Iterator[list[Any]]:
    """Pieces of these lengths, and the rest."""
    ends = list(itertools.accumulate(lengths))
    return (values[start:end] for start, end in itertools.pairwise([0, *ends, len(values)]))
