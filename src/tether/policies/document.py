"""policy.json, as this version reads it: one schema at the border, so that nothing behind it meets another type.

The document itself stays a dictionary, whose order and entries its SHA-256 covers; entries that are not named here are
for readers.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tether.data.framing import ONE_STEP, Framing
from tether.errors import InputError
from tether.machine.files import to_json
from tether.machine.reading import as_document, read_json
from tether.types import Spec

__all__ = ["READABLE", "PolicyDocument", "document_hash", "read_document"]

READABLE = (1, 2, 3, 4, 5)
# 1 had neither `action_range` nor `schema`: its actions are those of [-1, 1]. 2 had no `low` and `high` in the former:
# its actions reach from offset - scale to offset + scale. 3 had no `trust`.
# 4 had neither a density nor relations in it.

Number = Annotated[float, msgspec.Meta(ge=-3.4e38, le=3.4e38)]  # of float32
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
Size = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Sizes(msgspec.Struct, forbid_unknown_fields=True):
    """`tether.types.Spec`."""

    observation_size: Size
    action_size: Size
    max_action: Annotated[float, msgspec.Meta(gt=0)]


class Affine(msgspec.Struct):
    """The normaliser."""

    mean: list[Number]
    std: list[Number]


class ActionRange(msgspec.Struct):
    """From [-1, 1] to the robot's actions."""

    scale: list[Number]
    offset: list[Number]
    low: list[Number] | None = None
    high: list[Number] | None = None


class Golden(msgspec.Struct):
    """What the policy did where it was saved; `rewards` where it has a memory."""

    seeds: Annotated[list[Seed], msgspec.Meta(min_length=1, max_length=1000)]
    observations: list[list[Number]]
    actions: list[list[Number]]
    rewards: list[Number] | None = None


class Trust(msgspec.Struct):
    """What trust.safetensors holds, and what it was calibrated on."""

    sha256: Hash
    references: Size
    hidden_sizes: Annotated[list[Size], msgspec.Meta(max_length=10)]
    calibrated: Size  # decisions
    pieces: Size  # episodes that they are from, or stretches of episodes
    stretch_rows: Size | None  # None: episodes
    held_out: bool  # from training
    flagged_in_pieces: list[Number]  # share of the decisions of a piece: of the least, median and most flagged one
    density: bool = False  # whether the network gives one, beside the expected action
    relations: bool = False  # whether it is known what columns are by the others


class PolicyDocument(msgspec.Struct):
    """What loading needs."""

    format_version: int
    algorithm: str
    hyperparameters: dict[str, Any]
    spec: Sizes
    normaliser: Affine
    sha256: Hash
    golden: Golden
    action_range: ActionRange | None = None
    trust: Trust | None = None
    schema: dict[str, Any] | None = None
    framing: Framing = ONE_STEP
    algorithm_class: str | None = None
    algorithm_distribution: str | None = None

    @property
    def sizes(self) -> Spec:
        """The sizes as the library speaks of them."""
        return Spec(self.spec.observation_size, self.spec.action_size, self.spec.max_action)

    @property
    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Lowest and highest actions."""
        import numpy as np

        if self.action_range is None:
            return (-1.0,) * self.spec.action_size, (1.0,) * self.spec.action_size
        if self.action_range.low is None and self.action_range.high is None:
            scale, offset = (np.asarray(x, np.float32) for x in (self.action_range.scale, self.action_range.offset))
            return tuple((offset - scale).tolist()), tuple((offset + scale).tolist())
        return tuple(self.action_range.low or ()), tuple(self.action_range.high or ())


def read_document(path: Path) -> tuple[dict[str, Any], PolicyDocument]:
    """policy.json without its own hash, and what it says. Raises InputError where it is altered."""
    document = read_json(path)
    found = document.get("format_version") if isinstance(document, dict) else None
    if found not in READABLE or isinstance(found, bool | float):
        raise InputError(f"{path}: format {found!r}; this version of tether reads {', '.join(map(str, READABLE))}")
    stated = document.pop("document_sha256", None)
    if stated != document_hash(document):
        raise InputError(f"{path}: altered: its SHA-256 is not the one it states")
    needed = {"action_range", "schema"} if found > 1 else set()
    if missing := (needed | ({"trust"} if found > 3 else set())) - set(document):
        raise InputError(f"{path}: altered: no {', '.join(sorted(missing))} in it")
    parsed = as_document(path, document, PolicyDocument)
    _check_sizes(path, parsed)
    return document | {"spec": parsed.sizes._asdict()}, parsed


def document_hash(document: dict[str, Any]) -> str:
    """Of everything in it."""
    return hashlib.sha256(to_json(document).encode()).hexdigest()


def _check_sizes(path: Path, document: PolicyDocument) -> None:
    """Refuse lists that have not as many numbers as the sizes say: nothing is allocated for sizes alone."""
    spec, golden = document.spec, document.golden
    lists: dict[str, tuple[Any, int]] = {
        "normaliser": ([document.normaliser.mean, document.normaliser.std], spec.observation_size)
    }
    if document.action_range is not None:
        ends = document.bounds
        lists["action range"] = ([document.action_range.scale, document.action_range.offset, *ends], spec.action_size)
        if len(ends[0]) == len(ends[1]) and not all(a <= b for a, b in zip(*ends, strict=True)):
            raise InputError(f"{path}: altered: an action's low is above its high")
    lists["golden observations"] = golden.observations, spec.observation_size
    lists["golden actions"] = golden.actions, spec.action_size
    for name, (rows, size) in lists.items():
        if wrong := [len(row) for row in rows if len(row) != size]:
            raise InputError(f"{path}: altered: its {name} has {wrong[0]} numbers, its spec says {size}")
    pairs = [golden.observations, golden.actions, *([] if golden.rewards is None else [golden.rewards])]
    if any(len(part) != len(golden.seeds) for part in pairs):
        raise InputError(f"{path}: altered: its golden pairs are not pairs")
