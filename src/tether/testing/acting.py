"""The clauses about the policy."""

from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.algorithms import Policy, PolicyWithMemory
from tether.testing.structure import uses_randomness
from tether.testing.subject import Subject, act, act_once, bits, take_lane

__all__ = ["actions_in_bounds_with_fresh_noise", "memory_keeps_its_shape", "policy_is_one"]

FAR = 100.0  # drives networks to where nothing but a bound keeps them in bounds
KEYS = 64

Sentences = Iterator[str]


def policy_is_one(it: Subject) -> Sentences:
    """policy(state) can be called with an observation and a key."""
    policy = it.one.policy(it.one_state)
    if not isinstance(policy, Policy | PolicyWithMemory):
        yield f"policy(state) gives a {type(policy).__name__}, which cannot be called with (observation, key)"
    elif not isinstance(policy, eqx.Module):
        yield f"policy(state) gives a {type(policy).__name__}: a policy is an equinox.Module, saved with its arrays"


def memory_keeps_its_shape(it: Subject) -> Sentences:
    """So that it can be carried through a loop; and every step of an episode is acted on with another one."""
    policy = it.one.policy(it.one_state)
    if not isinstance(policy, PolicyWithMemory):
        return
    memory = policy.initial_memory()
    shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(memory)]
    seen, observation = set(), jnp.ones(it.spec.observation_size, jnp.float32)
    for _ in range(3):
        seen.add(b"".join(bits(memory)))
        _, memory = policy(observation, it.keys[0], memory, jnp.ones((), jnp.float32))
        if [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(memory)] != shapes:
            yield "its policy gives a memory of other shapes than initial_memory's, so it cannot be carried"
            return
    if len(seen) < 3:
        yield "its policy's memory is the same after a step: it remembers nothing"


def actions_in_bounds_with_fresh_noise(it: Subject) -> Sentences:
    """Actions are float32, within ±max_action, and of every key another noise."""
    policy = it.one.policy(take_lane(it.trained.state, 0))
    keys = jax.random.split(jax.random.key(3), KEYS)
    far = np.asarray(act(policy, jnp.full(it.spec.observation_size, FAR), keys))
    if far.shape != (KEYS, it.spec.action_size):
        yield f"its policy gives an action of shape {far.shape[1:]}: ({it.spec.action_size},) is needed"
        return
    if far.dtype != np.float32:
        yield f"its policy's actions have dtype {far.dtype}: float32 is needed"
    if not np.isfinite(far).all():
        yield f"its policy's actions are not finite for an observation of {FAR:g}s"
    elif (most := np.abs(far).max()) > it.spec.max_action:
        yield (
            f"its policy gives {most:.3g} for an observation of {FAR:g}s, out of bounds: clip or squash actions to "
            f"±spec.max_action, here {it.spec.max_action:g}"
        )
    zeros = jnp.zeros(it.spec.observation_size)
    ordinary = np.asarray(act(policy, zeros, keys))
    yield from _noise(it, policy, len(np.unique(ordinary, axis=0)))
    if np.asarray(act(policy, zeros, keys)).tobytes() != ordinary.tobytes():
        yield "its policy gives another action for the same observation and key: something beside them decides"


def _noise(it: Subject, policy: object, distinct: int) -> Sentences:
    deterministic = it.expected.deterministic
    if deterministic is None:
        observation = jnp.zeros(it.spec.observation_size, jnp.float32)
        program = jax.make_jaxpr(lambda key: act_once(policy, observation, key))(it.keys[0])
        deterministic = not uses_randomness(program.jaxpr)
    if deterministic and distinct != 1:
        yield f"its policy is said to be deterministic, but {KEYS} keys gave {distinct} actions for one observation"
    if not deterministic and distinct <= it.expected.distinct:
        yield f"its policy draws noise, but {KEYS} keys gave {distinct} actions for one observation: it is not fresh"
