"""What the critic that a policy was trained with says of it: a baseline, and seldom a good one, because the policy was
made to please it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.data import Normaliser
from tether.networks.critics import QEnsemble
from tether.ope.decisions import Decisions
from tether.ope.evidence import Evidence
from tether.types import Array

__all__ = ["find_critic", "own_value"]


def find_critic(state: Any) -> QEnsemble | None:
    """Q of an algorithm's state, the one that learns where there is an average of it; None where it has none."""
    parts, _ = jax.tree_util.tree_flatten_with_path(state, is_leaf=lambda node: isinstance(node, QEnsemble))
    found = {jax.tree_util.keystr(path): node for path, node in parts if isinstance(node, QEnsemble)}
    names = [name for name in found if "optimiser" not in name]  # whose moments have the same form
    return found[min(names, key=lambda name: ("target" in name, names.index(name)))] if names else None


def own_value(critic: QEnsemble, normaliser: Normaliser, evidence: Evidence, decisions: Decisions) -> float:
    """Mean over first states, draws and heads of Q(s_0, a), in the rewards that the critic was trained on."""
    observations = jnp.asarray(normaliser.normalise(evidence.first_observation), jnp.float32)
    return float(np.mean(_values(critic, observations, jnp.asarray(decisions.first))))


@jax.jit
def _values(critic: QEnsemble, observations: Array, actions: Array) -> Array:
    return jax.vmap(lambda s, draws: jax.vmap(lambda a: critic(s, a))(draws))(observations, actions)
