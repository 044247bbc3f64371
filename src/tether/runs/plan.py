"""What a run is made of, and its options."""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from tether.data import Prepared
from tether.data.decisions import FITTING
from tether.data.schema import ActionBox
from tether.environments import Task
from tether.errors import unknown
from tether.machine.keywords import explain_keywords
from tether.ranges import COUNTED, at_least, between, check_ranges
from tether.training.lanes import Lane
from tether.training.precision import PRECISIONS
from tether.trust import Calibrated, calibrate, has_density

__all__ = ["EVAL_DEVICES", "Finetuning", "Options", "Parent", "Plan"]

EVAL_DEVICES = ("auto", "cpu", "accelerator")
Positive = Annotated[int, between(1, COUNTED)]
Workers = Annotated[int, between(0, 10_000)]


@explain_keywords
@dataclasses.dataclass(frozen=True)
class Options:
    """How a run trains and reports, beside the algorithm's own hyper-parameters."""

    batch_size: Positive = 256
    eval_every_updates: Positive = 10_000  # of the last phase; its end is always evaluated
    eval_episodes: Positive = 10
    log_every_updates: Positive = 500
    checkpoint_every_updates: Positive = 10_000  # evaluations and the end of a phase save one, too
    lanes_per_group: Positive | None = None  # at most so many lanes at once; None: as many as fit. Changes no number
    eval_workers: Workers | None = None  # processes that play evaluations; None: by spare cores. Changes no number
    eval_device: str = "auto"  # where policies act then: cpu, accelerator, or measured; one of EVAL_DEVICES
    precision: str = "float32"  # of the matmuls of training (`training/precision.py`)

    def __post_init__(self) -> None:
        """Raises InputError for values that no run can have."""
        check_ranges(self)
        for name, choices in (("eval_device", EVAL_DEVICES), ("precision", PRECISIONS)):
            if (value := getattr(self, name)) not in choices:
                raise unknown(name, value, choices)


@dataclasses.dataclass(frozen=True)
class Parent:
    """The run that another one goes on from, which it leaves as it is."""

    folder: str
    checkpoint: str  # its name
    update: int  # of the last phase, where that checkpoint was written
    sha256: str  # of the checkpoint's state
    rounds: int = 0  # of fine-tuning that its policies have had


@explain_keywords
@dataclasses.dataclass(frozen=True)
class Finetuning:
    """How a run goes on in its environment (docs/finetune.md). Updates here are those since the parent's."""

    parent: Parent
    online_fraction: Annotated[float, between(0, 1)] = 0.5  # of the rows of a minibatch: those collected by the lane
    warmup_env_steps: Annotated[int, between(0, COUNTED)] = 0  # before the first update
    updates_per_step: Positive = 1
    exploration_noise: Annotated[float, at_least(0)] | None = None  # None: the policy's own (`policies/exploring.py`)
    replay_capacity: Positive | None = None  # rows of each lane; None: all that the run collects

    def __post_init__(self) -> None:
        """Raises InputError for values that no run can have."""
        check_ranges(self)

    def steps_for(self, updates: int) -> int:
        """Environment steps of a lane that must be there for so many updates."""
        return self.warmup_env_steps + -(-updates // self.updates_per_step) if updates else 0

    def updates_after(self, steps: int) -> int:
        """Updates that so many environment steps of a lane are worth."""
        return max(0, steps - self.warmup_env_steps) * self.updates_per_step


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that a run is made of; nothing here changes while it trains."""

    folder: Path
    algorithm_name: str
    algorithm: Any
    lanes: tuple[Lane, ...]
    options: Options
    prepared: Prepared  # its transitions lie on the device
    task: Task | None  # None: no environment is known, so nothing is evaluated
    limits: ActionBox | None  # of the actions of its environment
    behaviour_returns: np.ndarray  # (episodes,) of the data's own episodes; none where no rewards were recorded
    observations: np.ndarray  # (rows, observation): some raw ones, for golden pairs
    finetuning: Finetuning | None = None  # None: it learns from the data alone

    @functools.cached_property
    def trust(self) -> Calibrated | None:
        """What the decisions of its policies are judged by: of the data alone, made when the first policy is saved.

        None, so that their folders carry no trust, where decisions are too few, or no numbers came of them."""
        if self.prepared.decisions is None:
            return None
        calibrated = calibrate(self.prepared.decisions, self._updates)
        return calibrated if calibrated.is_finite else None

    @property
    def trust_takes_long(self) -> bool:
        """Whether `trust` is still to be made, and worth a word."""
        decisions = None if "trust" in self.__dict__ else self.prepared.decisions
        return decisions is not None and has_density(int((decisions.part == FITTING).sum()), self._updates)

    @property
    def _updates(self) -> int:
        """Of all phases: what judges a run takes no more of them than the run."""
        return sum(count for _, count in self.phases())

    def phases(self) -> list[tuple[str, int]]:
        """(name, updates) in order."""
        return [(phase.name, phase.updates) for phase in self.algorithm.phases()]
