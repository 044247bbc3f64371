"""Choosing one of many candidate actions by their value."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tether.networks import QEnsemble
from tether.types import Array, Bool, Float, PRNGKey, Scalar

__all__ = ["best_by_q", "sample_by_min_q", "sample_by_q", "sample_without_replacement"]

SHORTLIST = 128


def sample_by_q(
    key: PRNGKey, actions: Float[Array, "candidates action"], q: Float[Array, " candidates"]
) -> Float[Array, " action"]:
    """One of the candidates, number i with probability softmax(q)_i.

    `q` are the logits themselves: softmax acts on them once (temperature 1).
    """
    return actions[jax.random.categorical(key, q)]


def sample_without_replacement(
    key: PRNGKey, actions: Float[Array, "candidates action"], logits: Float[Array, " candidates"], count: int
) -> Float[Array, "{count} action"]:
    """`count` different candidates, drawn one after the other with probability softmax(logits) among those left.

    The largest sums of logits and Gumbel noise are such a draw, in its order (Kool et al. 2019, arXiv 1903.06059).
    """
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    return actions[jax.lax.top_k(logits + noise, count)[1]]


def best_by_q(
    critic: QEnsemble,
    observation: Float[Array, " observation"],
    actions: Float[Array, "candidates action"],
    heads: str = "mean",
) -> Float[Array, " action"]:
    """The candidate with the largest Q: the "mean" or "min" over the heads of `critic`, or the "first" one alone."""
    reduce = jnp.min if heads == "min" else jnp.mean

    def value(action: Array) -> Scalar:
        return critic.first(observation, action) if heads == "first" else reduce(critic(observation, action))

    return actions[jnp.argmax(jax.vmap(value)(actions))]


def sample_by_min_q(
    key: PRNGKey,
    critic: QEnsemble,
    observation: Float[Array, " observation"],
    actions: Float[Array, "candidates action"],
) -> Float[Array, " action"]:
    """The action that `sample_by_q(key, actions, min over heads of critic)` gives, for about half the work.

    Sampling from softmax(q) is taking the largest of q_i + g_i with Gumbel noise g_i. The first head alone
    bounds the minimum from above, so the other heads are evaluated on the candidates with the largest bounds
    only. If the best of these is no worse than every bound left out, no other candidate can win; if it is
    not (rare, as the number of candidates within c of the largest Gumbel draw is about e^c), all are evaluated.
    """
    count = len(actions)
    inputs = jnp.concatenate([jnp.broadcast_to(observation, (count, *observation.shape)), actions], axis=1)
    noise = jax.random.gumbel(key, (count,), jnp.float32)  # the draw of jax.random.categorical

    def noisy_q(head: int, indices: Array) -> Array:
        return noise[indices] + jax.vmap(critic.heads[head])(inputs[indices])[:, 0]

    everyone = jnp.arange(count)
    bound = noisy_q(0, everyone)

    def score(indices: Array) -> Array:
        """min over heads of q, plus g, of the candidates at `indices`."""
        others = [noisy_q(head, indices) for head in range(1, len(critic.heads))]
        return functools.reduce(jnp.minimum, others, bound[indices])

    if count <= 2 * SHORTLIST:
        return actions[jnp.argmax(score(everyone))]
    largest, shortlist = jax.lax.top_k(bound, SHORTLIST + 1)
    scores = score(shortlist[:-1])
    best = shortcut(
        scores.max() >= largest[-1],
        lambda: shortlist[jnp.argmax(scores)],
        lambda: jnp.argmax(score(everyone)).astype(shortlist.dtype),
    )
    return actions[best]


def shortcut(holds: Bool[Array, ""], short: Callable[[], Array], exact: Callable[[], Array]) -> Array:
    """`short()` where that is known to be right, else `exact()`, which always is. A batch of decisions may take the
    short way only where it is right for all of them: `export/graph.py` sees to it, and knows this function by its name.
    """

    @jax.jit
    def shortcut(holds: Array) -> Array:
        return jax.lax.cond(holds, short, exact)

    return shortcut(holds)
