"""Golden pairs: what a policy does where it was saved, and must do where it is loaded."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tether._version import __version__
from tether.errors import InputError
from tether.policies.deployed import DeployedPolicy, act_each
from tether.types import PRNGKey

Step = Callable[[np.ndarray, Any, Any, PRNGKey], tuple[np.ndarray, Any]]
"""(observation, memory, reward, key) -> (action, memory), as `LoadedPolicy.step`."""

__all__ = ["golden_episode", "golden_pairs", "tolerances", "verify_golden_pairs"]

GOLDEN_PAIRS = 8


GOLDEN_STEPS = 32  # of the one episode that stands for the pairs where a policy has a memory


GOLDEN_TOLERANCE = 1e-4  # in [-1, 1], before the robot's range; processors differ in the last bits


DISTURBANCES = (1e-4, -1e-4, 1e-6)  # relative; far more than the last bits


def golden_pairs(policy: DeployedPolicy, observations: np.ndarray) -> dict[str, Any]:
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
    moved = (np.abs(np.asarray(disturbed) - actions) / tolerances(policy)).max(axis=(0, 2))
    keep = np.argsort(moved, kind="stable")[:GOLDEN_PAIRS]
    return {
        "seeds": seeds[keep].tolist(),
        "observations": chosen[keep].tolist(),
        "actions": actions[keep].tolist(),
    }


def golden_episode(policy: DeployedPolicy, observations: np.ndarray) -> dict[str, Any]:
    """Observations, rewards and seeds of successive steps and the actions they give, as `golden_pairs`."""
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


def tolerances(policy: DeployedPolicy) -> np.ndarray:
    """How far each action may be off, in the robot's units: the tolerance, and the last bits of a large offset."""
    scale, offset = np.asarray(policy.action_scale), np.asarray(policy.action_offset)
    return GOLDEN_TOLERANCE * scale + 4 * np.finfo(np.float32).eps * (np.abs(offset) + scale) + np.float32(1e-30)


def verify_golden_pairs(document: Mapping[str, Any], module: DeployedPolicy, step: Step, path: Path) -> None:
    """Refuse, with InputError, a policy whose `step` does not give the actions that its document in `path` states."""
    golden = document["golden"]
    seeds, observations, actions = golden["seeds"], golden["observations"], golden["actions"]
    memory, rewards = module.initial_memory(), golden.get("rewards")
    if rewards is None:
        if module.has_memory:
            raise InputError(f"{path}: altered: no rewards in its golden episode")
        rewards = [0.0] * len(seeds)
    allowed = tolerances(module)
    for seed, observation, reward, action in zip(seeds, observations, rewards, actions, strict=True):
        found, memory = step(observation, memory, reward, jax.random.key(seed))
        difference = np.abs(found - np.asarray(action, np.float32))
        if not (difference <= allowed).all():
            raise InputError(
                f"{path}: the policy does not reproduce its golden pair with seed {seed}: actions differ by "
                f"{difference.max():.3g} (allowed {allowed.max():.3g}); saved with tether "
                f"{document.get('tether')} and jax {document.get('jax')}, "
                f"loaded with {__version__} and {jax.__version__}"
            )
