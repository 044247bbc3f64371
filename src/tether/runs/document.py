"""config.json, as this version reads it: one schema at the border, so that nothing behind it meets another type.

Entries that are not named here are for readers.
"""

import math
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tether.data.dataset import Dataset
from tether.data.framing import ONE_STEP, Framing
from tether.data.schema import ActionBox
from tether.errors import InputError
from tether.machine.reading import as_document, read_json
from tether.runs.plan import Finetuning, Options
from tether.training.lanes import Lane

__all__ = ["CONFIG_FORMAT", "DataRecord", "RunDocument", "read_config"]

CONFIG_FORMAT = 1
SEEDS_END = 2**31

Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class LaneRecord(msgspec.Struct):
    """A lane: its seed and what is swept."""

    seed: Annotated[int, msgspec.Meta(ge=0, lt=SEEDS_END)]
    settings: dict[str, float]


class Named(msgspec.Struct):
    """A transform or a filter; what else is noted of it is for readers."""

    name: str


class DataRecord(msgspec.Struct):
    """The data that were trained on. Tether 0.1 knew neither filters, nor data in memory, nor the way from here."""

    source: str
    sha256: Hash
    reward_transform: Named
    observation_transform: Named
    filter: Named = msgspec.field(default_factory=lambda: Named("none"))
    holdout: Named = msgspec.field(default_factory=lambda: Named("none"))
    framing: Framing = ONE_STEP
    in_memory: bool = False
    continuous: bool = False  # whole numbers among the actions are levels
    relative_source: str | None = None

    def digest_of(self, data: Dataset) -> str:
        """The SHA-256 that `sha256` is compared with: of the content of what was in memory, else of the file."""
        return data.content_sha256() if self.in_memory else data.source.sha256


class ActionLimits(msgspec.Struct):
    """The actions that the environment takes; null where there is no bound, as JSON has no infinity."""

    low: list[float | None]
    high: list[float | None]

    def box(self) -> ActionBox:
        """As the library speaks of it."""
        low = (-math.inf if bound is None else bound for bound in self.low)
        high = (math.inf if bound is None else bound for bound in self.high)
        return ActionBox(tuple(low), tuple(high))


class RunDocument(msgspec.Struct):
    """What a run is rebuilt from."""

    format_version: int
    algorithm: str
    hyperparameters: dict[str, Any]
    lanes: Annotated[list[LaneRecord], msgspec.Meta(min_length=1, max_length=100_000)]
    settings: dict[str, int | float | str | None]
    data: DataRecord
    environment: str
    horizon: Annotated[int, msgspec.Meta(ge=1)] | None = None
    environment_actions: ActionLimits | None = None
    finetuning: Finetuning | None = None
    algorithm_class: str | None = None
    algorithm_distribution: str | None = None

    @property
    def options(self) -> Options:
        """The options of the run; of runs from before there was one: its default. Raises InputError for bad ones."""
        return Options(**self.settings)  # pyright: ignore[reportArgumentType]

    def named_lanes(self) -> list[Lane]:
        """The lanes as the library speaks of them."""
        return [Lane(lane.seed, lane.settings) for lane in self.lanes]


def read_config(folder: Path) -> tuple[dict[str, Any], RunDocument]:
    """config.json of a run folder, and what it says. Raises InputError where there is none, or it is altered."""
    path = folder / "config.json"
    if not path.exists():
        raise InputError(f"{folder}: not a run folder: config.json: No such file or directory")
    config = read_json(path)
    found = config.get("format_version") if isinstance(config, dict) else None
    if found != CONFIG_FORMAT:
        raise InputError(f"{path}: format {found!r}; this version of tether reads {CONFIG_FORMAT}")
    return config, as_document(path, config, RunDocument)
