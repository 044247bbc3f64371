"""The contract between algorithms and everything that runs them (docs: CONTRIBUTING, "Adding an algorithm").

An algorithm is an `equinox.Module`. Numeric hyper-parameters are leaves: the trainer stacks them over
lanes and sweeps them under `vmap` without recompiling. Structural ones (sizes, flags, counts) are static.
Its methods are pure; keys are consumed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx

from tether.networks import Network
from tether.types import Array, Float, Int, Metrics, PRNGKey, Spec, Transition

__all__ = [
    "Algorithm",
    "Derive",
    "Hyperparameter",
    "Network",
    "Phase",
    "Policy",
    "PolicyWithMemory",
    "Update",
    "acting_field",
    "network_field",
]

Hyperparameter = float | Float[Array, "..."]
"""A number when an algorithm is written down, a scalar array when it is traced, [lanes] when it is stacked."""


def acting_field(default: Any, *, static: bool = True) -> Any:
    """A hyper-parameter that nothing but `policy` reads, so that it may be changed on a policy that is trained.

    static: whether it is structural, such as a count.
    """
    return eqx.field(static=static, default=default, metadata={"acting": True})


def network_field(*, scalar: bool = False, beyond: str = "") -> Any:
    """A hyper-parameter that says what networks are made of: by default the MLP of the paper, else a name or a factory
    (`tether.networks.factories`).

    scalar: whether distributions are refused: those of critics that do not learn by `q_regression`, or of other
        returns than those of the data, of which their range is taken.
    beyond: why values may leave a range that is taken of the data's returns, where distributions serve all the same; it
        is said at the start of a run.
    """
    metadata = {"registry": "network", "scalar": scalar, "beyond": beyond}
    return eqx.field(static=True, default="mlp", metadata=metadata)


Update = Callable[[Any, Any, PRNGKey, Int[Array, ""]], tuple[Any, Metrics]]
"""(state, batch, key, step) -> (state, metrics); `batch` is a `Transition`, or what the algorithm's view takes;
`step` counts updates of the phase and is shared by all lanes."""


class Derive(NamedTuple):
    """What a phase makes of the whole data set before its first update: the column `Transition.derived`.

    It may read only what the phase leaves as it is, because a run that is resumed within the phase makes it again.
    """

    each: Callable[[Any, Transition, PRNGKey], Any]
    """(state, one transition, key) -> arrays of that row; mapped over rows, each with a key of its own."""
    together: Callable[[Any, Transition], Any] | None = None
    """(what `each` gave, all transitions in recording order) -> the column; None: as `each` gave it."""


class Phase(NamedTuple):
    """A stretch of training with one update rule."""

    name: str
    updates: int
    update: Update
    derive: Derive | None = None  # before the first update; few phases need it
    reads_rewards: bool = True  # False: it imitates, so demonstrations without rewards will do
    gives_policy: bool = False  # True: a run may end after it, as its last phase may: `policy` is what it has trained


@runtime_checkable
class Policy(Protocol):
    """What is evaluated, exported and deployed; an `equinox.Module` that contains all it needs."""

    def __call__(self, observation: Float[Array, " observation"], key: PRNGKey) -> Float[Array, " action"]:
        """The action for one observation; callers `vmap`. Actions lie in ±max_action."""
        ...


@runtime_checkable
class PolicyWithMemory(Protocol):
    """A policy that looks back, as the Decision Transformer does: who acts with it keeps its memory for it."""

    def initial_memory(self) -> Any:
        """At the start of an episode; a pytree of arrays."""
        ...

    def __call__(
        self, observation: Float[Array, " observation"], key: PRNGKey, memory: Any, reward: Float[Array, ""]
    ) -> tuple[Float[Array, " action"], Any]:
        """The action for one observation and the memory to give next time. `reward`: what the environment paid for
        the last action, 0 at first."""
        ...


@runtime_checkable
class CorrectedMemory(PolicyWithMemory, Protocol):
    """A memory that can be told what was done in the place of what its policy decided: by somebody else, whose log it
    is led along (`tether choose`)."""

    def corrected(self, memory: Any, action: Float[Array, " action"]) -> Any:
        """What a call returned, as it were had the policy's action been this one."""
        ...


@runtime_checkable
class Algorithm(Protocol):
    """What the trainer asks of an algorithm. State: a NamedTuple or Module whose leaves are arrays.

    Optional: the class attribute `view: ClassVar[str]`, where it trains on anything but plain transitions
    (`tether.data.views`). Whether it needs rewards its phases say (`Phase.reads_rewards`): data without any, or with
    rewards that say nothing, are refused where a phase reads them.
    """

    def init(self, spec: Spec, key: PRNGKey) -> Any:
        """Fresh networks and optimiser moments."""
        ...

    def phases(self) -> tuple[Phase, ...]:
        """In order. The last one is `train`; its `updates` is what `--updates` sets."""
        ...

    def policy(self, state: Any) -> Policy | PolicyWithMemory:
        """The policy of `state`."""
        ...
