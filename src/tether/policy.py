"""The deployable policy: a network with its normaliser and action range, and the folder it travels in.

    policy/policy.safetensors   every array: networks, normaliser, action range
    policy/policy.json          algorithm, hyper-parameters, sizes, golden pairs, hashes; for readers also the
                                normaliser and the action range; names of the columns where the data have any

Loading rebuilds the policy from the two files alone, verifies the hashes, and makes the policy act on the
golden observations: a policy that would act differently here from where it was trained is refused. One with a
memory is made to act in a golden episode instead.
"""

import functools
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import tether
from tether.algorithms import Policy, PolicyWithMemory
from tether.data import Normaliser
from tether.data.schema import Schema, join, size_of, summary
from tether.errors import InputError
from tether.files import decode_arrays, encode_arrays, fsync_directory, to_json, write_synced
from tether.training.lanes import change_acting, make_algorithm, settings_of
from tether.types import Array, Float, Key, PRNGKey, Spec

__all__ = ["DeployedPolicy", "LoadedPolicy", "act_each", "deploy", "load_policy", "save_policy", "step_each"]

FORMAT_VERSION = 2
READABLE = (1, 2)  # 1 had neither `action_range` nor `schema`: its actions are those of [-1, 1]
ARRAYS, DOCUMENT = "policy.safetensors", "policy.json"
GOLDEN_PAIRS = 8
GOLDEN_STEPS = 32  # of the one episode that stands for the pairs where a policy has a memory
GOLDEN_TOLERANCE = 1e-4  # in [-1, 1], before the robot's range; processors differ in the last bits
DISTURBANCES = (1e-4, -1e-4, 1e-6)  # relative; far more than the last bits
# What loading needs of the document; the rest is for readers.
REQUIRED = {"algorithm", "hyperparameters", "spec", "normaliser", "sha256", "golden"}


class DeployedPolicy(eqx.Module):
    """Raw observation in, the robot's action out: normalise, act in [-1, 1], map to the robot's action range."""

    policy: Policy | PolicyWithMemory
    observation_mean: Float[Array, " observation"]
    observation_std: Float[Array, " observation"]
    action_scale: Float[Array, " action"]
    action_offset: Float[Array, " action"]

    def __call__(self, observation: Float[Array, " observation"], key: PRNGKey) -> Float[Array, " action"]:
        """The action for one observation as the robot gives it, in the robot's units; callers `vmap`. For policies
        without memory."""
        return self.step(observation, key, (), jnp.zeros((), jnp.float32))[0]

    @property
    def has_memory(self) -> bool:
        """Whether it must be given back what `step` returned."""
        return isinstance(self.policy, PolicyWithMemory)

    def initial_memory(self) -> Any:
        """At the start of an episode; nothing where there is no memory."""
        return self.policy.initial_memory() if isinstance(self.policy, PolicyWithMemory) else ()

    def step(
        self, observation: Float[Array, " observation"], key: PRNGKey, memory: Any, reward: Float[Array, ""]
    ) -> tuple[Float[Array, " action"], Any]:
        """As a call, for policies of both kinds: also the memory to give next time. `reward`: of the last action."""
        observation = (observation - self.observation_mean) / self.observation_std
        if isinstance(self.policy, PolicyWithMemory):
            action, memory = self.policy(observation, key, memory, reward)
        else:
            action = self.policy(observation, key)
        low, high = self.action_offset - self.action_scale, self.action_offset + self.action_scale
        action = jnp.clip(action * self.action_scale + self.action_offset, low, high)  # not a bit beyond the range
        return action, memory


def deploy(
    policy: Policy | PolicyWithMemory, spec: Spec, normaliser: Normaliser, schema: Schema | None = None
) -> DeployedPolicy:
    """`policy` with everything around it. Data sets hold actions in [-1, 1]; the schema's box maps them back."""
    scale, offset = jnp.ones(spec.action_size), jnp.zeros(spec.action_size)
    if schema is not None:
        scale, offset = jnp.asarray(schema.box.scale), jnp.asarray(schema.box.offset)
    return DeployedPolicy(policy, jnp.asarray(normaliser.mean), jnp.asarray(normaliser.std), scale, offset)


@jax.jit
def act_each(
    policy: DeployedPolicy, observations: Float[Array, "batch observation"], keys: Key[Array, " batch"]
) -> Float[Array, "batch action"]:
    """Actions of a policy without memory for many observations."""
    return step_each(policy, observations, keys, (), jnp.zeros(len(observations)))[0]


@jax.jit
def step_each(
    policy: DeployedPolicy,
    observations: Float[Array, "batch observation"],
    keys: Key[Array, " batch"],
    memories: Any,
    rewards: Float[Array, " batch"],
) -> tuple[Float[Array, "batch action"], Any]:
    """`DeployedPolicy.step` for many observations, one after the other: one already fills a CPU with its candidates,
    and the space it takes stays that of one. Memories have a leading axis `batch`."""
    return jax.lax.map(lambda row: policy.step(*row), (observations, keys, memories, rewards))


def save_policy(
    folder: Path,
    policy: DeployedPolicy,
    *,
    algorithm_name: str,
    algorithm: Any,
    spec: Spec,
    observations: Float[np.ndarray, "rows observation"],
    notes: dict[str, Any],
    schema: Schema | None = None,
) -> None:
    """Write the policy folder; an existing one is replaced, and at no moment is a half-written one readable.

    observations: real ones, of which the golden pairs are made.
    notes: for readers (data set, lane, scores), kept as they are.
    schema: names of the data's columns.
    Raises: OSError; an existing folder is then still there.
    """
    data = encode_arrays(policy)
    document = {
        "format_version": FORMAT_VERSION,
        "tether": tether.__version__,
        "jax": jax.__version__,
        "algorithm": algorithm_name,
        "hyperparameters": settings_of(algorithm),
        "spec": spec._asdict(),
        "normaliser": {
            "mean": np.asarray(policy.observation_mean).tolist(),
            "std": np.asarray(policy.observation_std).tolist(),
        },
        "action_range": {
            "scale": np.asarray(policy.action_scale).tolist(),
            "offset": np.asarray(policy.action_offset).tolist(),
        },
        "schema": None if schema is None else schema.to_json(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "golden": (_golden_episode if policy.has_memory else _golden_pairs)(policy, observations),
        "notes": notes,
    }
    document["document_sha256"] = _document_hash(document)
    _write_folder(folder, {ARRAYS: data, DOCUMENT: to_json(document).encode()})


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Put `files` into `folder`, all or none; what was there before goes only when they are complete."""
    temporary, replaced = (folder.with_name(f".{kind}-{folder.name}") for kind in ("tmp", "old"))
    for left in (temporary, replaced):  # by a crash
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():
            write_synced(temporary / name, data)
        fsync_directory(temporary)
        if folder.exists():
            folder.rename(replaced)
        try:
            temporary.rename(folder)
        except OSError:
            if replaced.exists():
                replaced.rename(folder)
            raise
        fsync_directory(folder.parent)
    except OSError as error:
        raise OSError(error.errno, f"policy not written: {error.strerror or error}", str(folder)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


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

    def __init__(self, module: DeployedPolicy, document: dict[str, Any], seed: int = 0):
        self.module = module
        self.document = document
        self.spec = Spec(**document["spec"])
        self.schema = _schema_of(document)
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

    def with_settings(self, **changes: Any) -> "LoadedPolicy":
        """The same networks acting with other settings, such as `candidates=64`; the stream starts anew.

        Raises InputError for a hyper-parameter that training depends on, for one that the algorithm does not have, and
        for a bad value.
        """
        name, hyperparameters = self.document["algorithm"], self.document["hyperparameters"]
        before = make_algorithm(name, hyperparameters)
        after = change_acting(name, before, changes)
        module = _with_algorithm(self.module, self.spec, before, after)
        changed = LoadedPolicy(module, self.document | {"hyperparameters": settings_of(after)}, self._seed)
        changed.compile()
        return changed

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

    def _next_key(self) -> PRNGKey:
        """From the policy's own stream, which moves on."""
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

    def _observation(self, observation: Any) -> np.ndarray:
        """As float32, checked."""
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


def load_policy(folder: str | Path, seed: int = 0, **settings: Any) -> LoadedPolicy:
    """The policy in `folder` (a `policy/` folder, or a run folder that holds one).

    settings: how it shall act, such as `candidates=64`, in the place of what it was saved with; only
        hyper-parameters that training does not depend on (`LoadedPolicy.with_settings`).
    Raises InputError where a file is missing or altered, the format is unknown, the policy does not
    reproduce its golden pairs, or a setting cannot be changed.
    """
    folder = Path(folder)
    if not (folder / DOCUMENT).exists() and (folder / "policy" / DOCUMENT).exists():
        folder = folder / "policy"
    document = _read_document(folder / DOCUMENT)
    try:
        data = (folder / ARRAYS).read_bytes()
    except OSError as error:
        raise InputError(f"{folder / ARRAYS}: cannot be read: {error.strerror or error}") from None
    if hashlib.sha256(data).hexdigest() != document["sha256"]:
        raise InputError(f"{folder / ARRAYS}: truncated or altered: its SHA-256 is not the one in {DOCUMENT}")
    path = folder / DOCUMENT
    module = decode_arrays(data, _skeleton(document, path), str(folder / ARRAYS))
    try:
        policy = LoadedPolicy(module, document, seed)
        _verify_affine_maps(policy, path)
        _verify_golden_pairs(policy, path)
    except (KeyError, TypeError, AttributeError) as error:  # entries of another kind than are written there
        raise InputError(f"{path}: altered: {type(error).__name__} {error}") from error
    return policy.with_settings(**settings) if settings else policy


def _with_algorithm(module: DeployedPolicy, spec: Spec, before: Any, after: Any) -> DeployedPolicy:
    """The policy of algorithm `before` as `after` makes it of the same state; they differ in acting fields alone."""
    shapes = jax.eval_shape(lambda key: before.init(spec, key), jax.random.key(0))
    nothing = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    old, new = before.policy(nothing), after.policy(nothing)
    # What the two make differently of an empty state is what the settings decide; all else was trained.
    leaves = [
        trained if np.array_equal(a, b) else b
        for trained, a, b in zip(*map(jax.tree.leaves, (module.policy, old, new)), strict=True)
    ]
    policy = jax.tree.unflatten(jax.tree.structure(new), leaves)
    return eqx.tree_at(lambda deployed: deployed.policy, module, policy)


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; a policy folder holds it") from None
    except ValueError:
        raise InputError(f"{path}: truncated or altered: not JSON") from None
    found = document.get("format_version") if isinstance(document, dict) else None
    if found not in READABLE:
        raise InputError(f"{path}: format {found!r}; this version of tether reads {', '.join(map(str, READABLE))}")
    stated = document.pop("document_sha256", None)
    if stated != _document_hash(document):
        raise InputError(f"{path}: altered: its SHA-256 is not the one it states")
    required = REQUIRED | ({"action_range", "schema"} if found > 1 else set())
    if missing := required - set(document):
        raise InputError(f"{path}: altered: no {', '.join(sorted(missing))} in it")
    return document


def _schema_of(document: dict[str, Any]) -> Schema | None:
    value = document.get("schema")
    return None if value is None else Schema.from_json(value, DOCUMENT)


def _document_hash(document: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(document).encode()).hexdigest()


def _skeleton(document: dict[str, Any], path: Path) -> DeployedPolicy:
    """The policy's structure, without arrays."""
    name = document["algorithm"]
    try:
        algorithm = make_algorithm(str(name), document["hyperparameters"])
        spec = Spec(**document["spec"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (TypeError, AttributeError) as error:
        raise InputError(f"{path}: altered: {type(error).__name__} {error}") from error
    zeros = np.zeros(spec.observation_size, np.float32)

    def build(key: PRNGKey) -> DeployedPolicy:
        return deploy(algorithm.policy(algorithm.init(spec, key)), spec, Normaliser(zeros, zeros))

    return eqx.filter_eval_shape(build, jax.random.key(0))  # the key's value is never looked at


def _golden_pairs(policy: DeployedPolicy, observations: np.ndarray) -> dict[str, Any]:
    """Observations, seeds and the actions they give.

    A policy that picks among candidates can jump to another one when the last bits of its numbers change, as
    they do between processors. So of four times as many pairs those are kept whose actions move least when the
    observation is disturbed.
    """
    count = min(4 * GOLDEN_PAIRS, len(observations))
    rows = np.linspace(0, len(observations) - 1, count).astype(int)
    seeds = np.arange(count)
    keys = jax.vmap(jax.random.key)(seeds)
    chosen = np.asarray(observations[rows], np.float32)
    actions = np.asarray(act_each(policy, chosen, keys))
    disturbed = [act_each(policy, chosen * np.float32(1 + size), keys) for size in DISTURBANCES]
    moved = (np.abs(np.asarray(disturbed) - actions) / _tolerances(policy)).max(axis=(0, 2))
    keep = np.argsort(moved, kind="stable")[:GOLDEN_PAIRS]
    return {
        "seeds": seeds[keep].tolist(),
        "observations": chosen[keep].tolist(),
        "actions": actions[keep].tolist(),
    }


def _golden_episode(policy: DeployedPolicy, observations: np.ndarray) -> dict[str, Any]:
    """Observations, rewards and seeds of successive steps and the actions they give, as `_golden_pairs`."""
    count = min(GOLDEN_STEPS, len(observations))
    rows = np.linspace(0, len(observations) - 1, count).astype(int)
    chosen, rewards = np.asarray(observations[rows], np.float32), np.linspace(0.0, 1.0, count, dtype=np.float32)

    def step(memory: Any, row: Any) -> tuple[Any, Any]:
        observation, seed, reward = row
        action, memory = policy.step(observation, jax.random.key(seed), memory, reward)
        return memory, action

    seeds = np.arange(count)
    actions = jax.lax.scan(step, policy.initial_memory(), (chosen, seeds, rewards))[1]
    return {
        "seeds": seeds.tolist(),
        "observations": chosen.tolist(),
        "rewards": rewards.tolist(),
        "actions": np.asarray(actions).tolist(),
    }


def _tolerances(policy: DeployedPolicy) -> np.ndarray:
    """How far each action may be off, in the robot's units: the tolerance, and the last bits of a large offset."""
    scale, offset = np.asarray(policy.action_scale), np.asarray(policy.action_offset)
    return GOLDEN_TOLERANCE * scale + 4 * np.finfo(np.float32).eps * (np.abs(offset) + scale) + np.float32(1e-30)


def _verify_affine_maps(policy: LoadedPolicy, path: Path) -> None:
    """Normaliser and action range for readers are those in the arrays, and the schema fits them."""
    document, module = policy.document, policy.module
    stated = {"normaliser": {"mean": module.observation_mean, "std": module.observation_std}}
    if "action_range" in document:
        stated["action_range"] = {"scale": module.action_scale, "offset": module.action_offset}
    for entry, arrays in stated.items():
        for name, array in arrays.items():
            if not np.array_equal(np.asarray(document[entry][name], np.float32), array):
                raise InputError(f"{path}: its {entry}'s {name} is not the one in {ARRAYS}")
    if policy.schema is not None:
        sizes = Spec(size_of(policy.schema.observation), size_of(policy.schema.action), policy.spec.max_action)
        box = policy.schema.box
        if sizes != policy.spec or not np.array_equal(box.scale, module.action_scale):
            raise InputError(f"{path}: altered: its schema is not that of its policy")


def _verify_golden_pairs(policy: LoadedPolicy, path: Path) -> None:
    golden, document = policy.document["golden"], policy.document
    if not golden["seeds"]:
        raise InputError(f"{path}: altered: no golden pairs in it")
    seeds, observations, actions = golden["seeds"], golden["observations"], golden["actions"]
    memory, rewards = policy.initial_memory(), golden["rewards"] if policy.has_memory else [0.0] * len(seeds)
    if not len(seeds) == len(observations) == len(rewards) == len(actions):
        raise InputError(f"{path}: altered: its golden pairs are not pairs")
    tolerances = _tolerances(policy.module)
    for seed, observation, reward, action in zip(seeds, observations, rewards, actions, strict=True):
        found, memory = policy.step(observation, memory, reward, jax.random.key(seed))
        difference = np.abs(found - np.asarray(action, np.float32))
        if not (difference <= tolerances).all():
            raise InputError(
                f"{path}: the policy does not reproduce its golden pair with seed {seed}: actions differ by "
                f"{difference.max():.3g} (allowed {tolerances.max():.3g}); saved with tether "
                f"{document.get('tether')} and jax {document.get('jax')}, "
                f"loaded with {tether.__version__} and {jax.__version__}"
            )
