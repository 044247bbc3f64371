"""The shapes that everything else speaks: specification, transition batch, metrics.

Shape letters, the only place that defines them:
    batch        transitions of one minibatch (or rows of a data set, where the array is the whole set)
    observation  size of one observation         action     size of one action
    ensemble     critic heads                    candidates actions drawn for one observation
    hidden       width of a hidden layer         steps      of a window cut out of an episode
"""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int, Key

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Metrics", "PRNGKey", "Scalar", "Spec", "Transition", "Windows"]

PRNGKey = Key[Array, ""]
Scalar = Float[Array, ""]
Metrics = dict[str, Scalar]
"""Logged, never carried: name -> scalar, averaged over the updates between two log rows."""


class Spec(NamedTuple):
    """What an algorithm must know of a data set to build its networks (hashable, no arrays)."""

    observation_size: int
    action_size: int
    max_action: float = 1.0  # actions lie in [-max_action, max_action] in every coordinate


class Transition(NamedTuple):
    """A batch of logged transitions, leading axis `batch`, all float32.

    `terminal` is 1 where the task truly ended (no bootstrapping) and 0 elsewhere, at time-outs too. The optional
    columns are there for the algorithms whose view has them (`tether.data.views`).
    """

    observation: Float[Array, "batch observation"]
    action: Float[Array, "batch action"]
    reward: Float[Array, " batch"]
    next_observation: Float[Array, "batch observation"]
    terminal: Float[Array, " batch"]
    next_action: Float[Array, "batch action"] | None = None  # the data's own; zeros where `terminal`
    return_to_go: Float[Array, " batch"] | None = None  # sum of discount^i r over the rest of the trajectory
    trajectory_end: Float[Array, " batch"] | None = None  # 1 in the last row of a trajectory, else 0
    derived: Any = None  # what the phase made of the data when it began (`Phase.derive`), leading axis `batch`

    @property
    def rows(self) -> int:
        """How many transitions there are."""
        return self.reward.shape[0]

    def take(self, indices: Int[Array, " batch"]) -> "Transition":
        """The transitions with these indices."""
        return jax.tree.map(lambda column: column[indices], self)


class Windows(NamedTuple):
    """A minibatch of stretches of trajectories, for algorithms that see a history (the view "trajectories").

    Where an episode ends before its window does, the rest is zeros and `valid` is 0.
    """

    observation: Float[Array, "batch steps observation"]
    action: Float[Array, "batch steps action"]
    return_to_go: Float[Array, "batch steps"]  # undiscounted, the step's own reward included
    timestep: Int[Array, "batch steps"]  # since the episode's start
    valid: Float[Array, "batch steps"]
