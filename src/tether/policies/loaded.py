"""A policy for deployment: NumPy in, NumPy out."""

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.algorithms.registry import change_acting, hyperparameters_of
from tether.data.framing import ONE_STEP, Framing
from tether.data.schema import Schema, join, summary
from tether.errors import InputError
from tether.machine.deprecation import warn_deprecated
from tether.policies.deployed import DeployedPolicy
from tether.policies.framed import framed_policy
from tether.policies.trusted import FLAGGED, Decision, Judge, Trust
from tether.trust import Support
from tether.types import Array, Float, PRNGKey, Spec

__all__ = ["DOCUMENT", "LoadedPolicy", "schema_of"]

DOCUMENT = "policy.json"

_step_batch = eqx.filter_jit(lambda policy, *rows: jax.vmap(policy.step)(*rows))


@functools.partial(jax.jit, static_argnames=("structure", "generator"))
def _step(
    leaves: list[Array],
    observation: Float[Array, " observation"],
    key_data: Array,
    from_stream: Array,
    memory: Any,
    reward: Float[Array, ""],
    *,
    structure: Any,
    generator: Any,
) -> tuple[Float[Array, " action"], Any, Array]:
    """One step of the policy with these leaves -> (action, memory, the stream to go on with).

    Made for latency: leaves in a list and keys as their numbers are handed to a program in microseconds, modules and
    typed keys are not; and what a call draws from the stream it draws inside.
    """
    following, own = jax.random.split(jax.random.wrap_key_data(key_data, impl=generator))
    numbers = jnp.where(from_stream, jax.random.key_data(own), key_data)
    policy = jax.tree.unflatten(structure, leaves)
    action, memory = policy.step(observation, jax.random.wrap_key_data(numbers, impl=generator), memory, reward)
    return action, memory, jax.random.key_data(following)


class LoadedPolicy:
    """A policy for deployment: NumPy in, NumPy out, one observation or a batch.

    Actions are random (the policy is a distribution). Without a `key`, calls draw from a stream that `seed`
    starts, so a run of a program can be repeated; with one, the call depends on its arguments alone.
    The program for one observation is compiled ahead, by `load_policy`: the first call is as fast as the others.

    A policy that looks back (`has_memory`, the Decision Transformer's) is given what it remembers, step by step; others
    may be used in the same way:

        memory, reward = policy.initial_memory(), 0.0
        while playing:
            action, memory = policy.step(observation, memory, reward)
            observation, reward, ... = environment.step(action)
    """

    def __init__(
        self,
        module: DeployedPolicy,
        document: dict[str, Any],
        algorithm: Any,
        seed: int = 0,
        support: Support | None = None,
        framing: Framing = ONE_STEP,
    ):
        """document: policy.json's; algorithm: the one that made the policy, on decisions that are framed so; support:
        what decisions are judged by."""
        self.module = module
        self.document = document
        self.algorithm = algorithm
        self.framing = framing
        self.spec = Spec(**document["spec"])
        self.schema = schema_of(document)
        self.support = support
        box = np.asarray(module.action_scale), np.asarray(module.action_offset)
        self._judge = None if support is None else Judge(support, *box, self.schema)
        self._seed = seed
        self._leaves, self._structure = jax.tree.flatten(module)
        self._programs: dict[str, Any] = {}  # kind of key -> compiled for one observation
        stream = jax.random.key(seed)
        self._generator = str(jax.random.key_impl(stream))
        self._stream: Any = np.asarray(jax.random.key_data(stream))
        self._no_reward = np.zeros((), np.float32)

    def compile(self) -> float:
        """Compile the program for one observation where that is not done yet -> the seconds it took."""
        started = time.perf_counter()
        self._program(self._generator, self._stream)
        return time.perf_counter() - started

    def _program(self, generator: str, key_data: Any) -> Any:
        if generator not in self._programs:
            observation, reward = np.zeros(self.spec.observation_size, np.float32), np.zeros((), np.float32)
            arguments = self._leaves, observation, key_data, np.bool_(True), self.initial_memory(), reward
            how = {"structure": self._structure, "generator": generator}
            self._programs[generator] = _step.lower(*arguments, **how).compile()
        return self._programs[generator]

    def with_acting(self, **changes: Any) -> "LoadedPolicy":
        """The same networks acting with other settings, such as `candidates=64`; the stream starts anew.

        execute: where a decision is a chunk of actions, how many of them are carried out before the next one.

        Raises InputError for a hyper-parameter that training depends on, for one that the algorithm does not have, and
        for a bad value.
        """
        framing = self.framing
        if "execute" in changes:
            framing = framing.executing(changes.pop("execute"))
        after = change_acting(self.algorithm, changes)
        module = with_algorithm(self.module, self.spec, self.algorithm, after, framing)
        document = self.document | {"hyperparameters": hyperparameters_of(after)}
        document |= {"framing": dataclasses.asdict(framing)}
        changed = LoadedPolicy(module, document, after, self._seed, self.support, framing)
        changed.compile()
        return changed

    def with_settings(self, **changes: Any) -> "LoadedPolicy":
        """The old name of `with_acting`."""
        warn_deprecated("LoadedPolicy.with_settings", "LoadedPolicy.with_acting", "0.3")
        return self.with_acting(**changes)

    @property
    def has_memory(self) -> bool:
        """Whether it must be used with `step`."""
        return self.module.has_memory

    def initial_memory(self, count: int | None = None) -> Any:
        """What `step` takes at the start of an episode; of a batch of `count` episodes where that is given."""
        memory = self.module.initial_memory()
        if count is None:
            return memory
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), memory)

    def step(
        self, observation: Any, memory: Any, reward: Any = 0.0, key: PRNGKey | None = None
    ) -> tuple[np.ndarray, Any]:
        """The action, as from a call, and the memory to give next time.

        reward: what the environment paid for the last action, 0 at first; (batch,) for a batch.
        Raises InputError as a call, and for rewards of another shape or not finite.
        """
        observation = self._observation(observation)
        reward = np.asarray(reward, np.float32)
        if reward.shape != observation.shape[:-1] or not np.isfinite(reward).all():
            raise InputError(f"reward {reward}: one finite number for each of the observations {observation.shape}")
        if observation.ndim == 1:
            return self._step_one(observation, memory, reward, key)
        if key is None:
            key = self._next_key()
        action, memory = _step_batch(self.module, observation, jax.random.split(key, len(observation)), memory, reward)
        return np.asarray(action), memory

    def reseed(self, seed: int) -> None:
        """Start the stream anew that calls without a key draw from."""
        self._seed, self._stream = seed, np.asarray(jax.random.key_data(jax.random.key(seed)))

    def _next_key(self) -> PRNGKey:
        """The next key of the policy's own stream."""
        stream, key = jax.random.split(jax.random.wrap_key_data(self._stream, impl=self._generator))
        self._stream = np.asarray(jax.random.key_data(stream))
        return key

    def _step_one(self, observation: np.ndarray, memory: Any, reward: Any, key: Any) -> tuple[np.ndarray, Any]:
        """`step` for one observation that is checked."""
        generator, numbers = self._generator, self._stream
        if key is not None:
            typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
            generator = str(jax.random.key_impl(key)) if typed else self._generator
            numbers = np.asarray(jax.random.key_data(key))
        program = self._program(generator, numbers)
        action, memory, following = program(self._leaves, observation, numbers, np.bool_(key is None), memory, reward)
        if key is None:
            self._stream = following
        return np.asarray(action), memory

    def __call__(self, observation: Any, key: PRNGKey | None = None) -> np.ndarray:
        """Action (action,) for an observation (observation,), or actions (batch, action) for a batch.

        observation: numbers in the order of `schema.observation`; or, where there is a schema, a dictionary of them
            by name, as the log or the environment names them.
        key: in a batch, each observation gets one of its own, split from it.
        Raises InputError for another shape, for entries that are not numbers or not finite, and where the policy has
        a memory.
        """
        if self.has_memory:
            raise InputError(f"{self.document['algorithm']}: this policy has a memory: use initial_memory() and step()")
        observation = self._observation(observation)
        if observation.ndim == 1:
            return self._step_one(observation, (), self._no_reward, key)[0]
        return self.step(observation, (), np.zeros(observation.shape[:-1]), key)[0]

    def decide(
        self,
        observation: Any,
        memory: Any = None,
        reward: Any = None,
        *,
        key: PRNGKey | None = None,
        flagged_share: float = FLAGGED,
    ) -> Decision:
        """The action, as from a call or from `step`, and whether it is like the data's own decisions.

        memory, reward: as of `step`; None: those of an episode's start.
        flagged_share: of the data's own decisions that are flagged, too.
        Raises InputError as `step`, and where the folder carries no trust.
        """
        judge = self._judged_by()
        observation = self._observation(observation)
        count = None if observation.ndim == 1 else len(observation)
        memory = self.initial_memory(count) if memory is None else memory
        reward = np.zeros(observation.shape[:-1], np.float32) if reward is None else reward
        action, memory = self.step(observation, memory, reward, key)
        return Decision(action, *judge(observation, action, flagged_share), memory)

    def trust(self, observation: Any, action: Any, *, flagged_share: float = FLAGGED) -> Trust:
        """How like the data's own decisions it is to take `action` (in the robot's units), whoever proposes it.

        Of one decision or of a batch. Raises InputError for another shape, and where the folder carries no trust.
        """
        judge = self._judged_by()
        return judge(self._observation(observation), np.asarray(action, np.float32), flagged_share)

    def _judged_by(self) -> Judge:
        if self._judge is None:
            raise InputError(
                f"this policy's folder (format {self.document.get('format_version')}) carries no trust: decisions can "
                "be made (policy(observation)) and not judged; `tether resume RUN` writes the folders of a run anew"
            )
        return self._judge

    def _observation(self, observation: Any) -> np.ndarray:
        """The observation as float32, checked for shape and finite numbers."""
        try:
            with np.errstate(over="ignore"):  # becomes infinite, which is refused
                if isinstance(observation, Mapping) and self.schema is not None:
                    observation = join(self.schema.observation, observation)
                observation = np.asarray(observation, np.float32)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"observation is no array of numbers: {error}") from None
        size = self.spec.observation_size
        if observation.ndim not in (1, 2) or observation.shape[-1] != size:
            raise InputError(
                f"observation of shape {observation.shape}: this policy takes ({size},) or (batch, {size})"
                + ("" if self.schema is None else f": {summary(self.schema.observation)}")
            )
        if not np.isfinite(observation).all():
            raise InputError(f"observation has entries that are not finite: {observation}")
        return observation

    def __repr__(self) -> str:
        spec = self.spec
        return (
            f"LoadedPolicy({self.document['algorithm']}, observation ({spec.observation_size},) -> "
            f"action ({spec.action_size},))"
        )


def with_algorithm(
    module: DeployedPolicy, spec: Spec, before: Any, after: Any, framing: Framing = ONE_STEP
) -> DeployedPolicy:
    """The policy of algorithm `before` as `after` makes it of the same state; they differ in acting fields alone. Its
    decisions are framed so; `spec` is that of a step."""
    shapes = jax.eval_shape(lambda key: before.init(framing.decision(spec), key), jax.random.key(0))
    nothing = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    old, new = (framed_policy(algorithm.policy(nothing), framing, spec) for algorithm in (before, after))
    # What the two make differently of an empty state is what the settings decide; all else was trained.
    leaves = [
        trained if np.array_equal(a, b) else b
        for trained, a, b in zip(*map(jax.tree.leaves, (module.policy, old, new)), strict=True)
    ]
    policy = jax.tree.unflatten(jax.tree.structure(new), leaves)
    return eqx.tree_at(lambda deployed: deployed.policy, module, policy)


def schema_of(document: dict[str, Any]) -> Schema | None:
    value = document.get("schema")
    return None if value is None else Schema.from_json(value, DOCUMENT)
