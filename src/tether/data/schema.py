"""What the numbers of an observation and of an action are called, and the robot's own range of its actions.

Data sets and policies hold plain vectors; a schema says which slice of a vector is which column of a log or which
entry of a dictionary observation, in an order that never changes. It travels with the data set, the run's
config.json and the policy folder.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tether.errors import InputError
from tether.types import Float

__all__ = [
    "COLLECT_KEY",
    "DENSITY_KEY",
    "IMPORT_KEY",
    "LAYOUT_KEY",
    "MASKS_KEY",
    "RECORDED_KEY",
    "SCHEMA_KEY",
    "UNIT",
    "ActionBox",
    "Layout",
    "Schema",
    "check_order",
    "column_names",
    "inner_float32",
    "join",
    "layout_of",
    "size_of",
    "summary",
    "unit_box",
]

Layout = Mapping[str, tuple[int, int]]
"""Name -> (start, stop) of its numbers, in the order of the vector, without gaps."""

SCHEMA_KEY = "metadata/schema"
IMPORT_KEY = "metadata/import"
COLLECT_KEY = "metadata/collect"
LAYOUT_KEY = "metadata/layout"
MASKS_KEY = "masks"
RECORDED_KEY = "metadata/recorded_episodes"
DENSITY_KEY = "infos/log_density"
"""Where an HDF5 data set of tether's keeps its schema, how it was imported or collected, which of `Dataset`'s rules its
rows follow, as JSON; and how likely its actions were."""
SHOWN_NAMES = 6


class ActionBox(NamedTuple):
    """The range of each action in the robot's own units; [-1, 1] of a data set is mapped onto it."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def scale(self) -> Float[np.ndarray, " action"]:
        """Half the width, float32; 0 for an action that never changes."""
        return ((np.asarray(self.high) - np.asarray(self.low)) / 2).astype(np.float32)

    @property
    def offset(self) -> Float[np.ndarray, " action"]:
        """The middle, float32."""
        return ((np.asarray(self.high) + np.asarray(self.low)) / 2).astype(np.float32)

    def from_unit(self, actions: Float[np.ndarray, "*batch action"]) -> Float[np.ndarray, "*batch action"]:
        """[-1, 1] -> actions of the robot, float32, not a bit beyond the range."""
        low, high = inner_float32(self.low, self.high)
        return np.clip(actions.astype(np.float32) * self.scale + self.offset, low, high)

    def to_unit(self, actions: Float[np.ndarray, "batch action"]) -> Float[np.ndarray, "batch action"]:
        """Actions of the robot -> [-1, 1], float32; an action that never changes becomes 0."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        half = (high - low) / 2
        centred = actions.astype(np.float64) - (high + low) / 2
        scaled = np.divide(centred, half, out=np.zeros_like(centred), where=half > 0)
        return np.clip(scaled, -1.0, 1.0).astype(np.float32)

    def within(self, limits: "ActionBox | None") -> "ActionBox":
        """What this range and `limits` have in common. Raises InputError where that is nothing."""
        if limits is None:
            return self
        low, high = np.maximum(self.low, limits.low), np.minimum(self.high, limits.high)
        if (low > high).any():
            i = int(np.argmax(low > high))
            raise InputError(
                f"action {i}: the data's lie in {self.low[i]:g} to {self.high[i]:g}, the environment takes "
                f"{limits.low[i]:g} to {limits.high[i]:g}: none fits"
            )
        return ActionBox(tuple(low.tolist()), tuple(high.tolist()))

    def first_outside(self, actions: Float[np.ndarray, "batch action"], tolerance: float) -> tuple[int, int] | None:
        """(row, index) of the first action of the robot beyond the range, by more than `tolerance` of its bounds."""
        slack = tolerance * np.maximum(np.abs(self.low), np.abs(self.high))
        outside = np.argwhere((actions < np.asarray(self.low) - slack) | (actions > np.asarray(self.high) + slack))
        return (int(outside[0, 0]), int(outside[0, 1])) if len(outside) else None

    def in_words(self, start: int, stop: int) -> str:
        """That of some actions: `-2 to 2` where all have the same, `(-2, 0) to (2, 5)` where not."""
        return " to ".join(_in_words(bounds[start:stop]) for bounds in self)

    def is_unit(self) -> bool:
        """Whether it is [-1, 1] in every action, so that nothing has to be mapped."""
        return all(value == -1.0 for value in self.low) and all(value == 1.0 for value in self.high)


def _in_words(bounds: tuple[float, ...]) -> str:
    texts = [f"{bound:g}" for bound in bounds]
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"


UNIT = (-1.0, 1.0)


def unit_box(size: int) -> ActionBox:
    """[-1, 1] in `size` actions."""
    return ActionBox((UNIT[0],) * size, (UNIT[1],) * size)


def inner_float32(low: Iterable[float], high: Iterable[float]) -> tuple[np.ndarray, np.ndarray]:
    """The range in float32, which is never wider: a bound that float32 does not have is rounded inwards."""
    lows, highs = np.asarray(low, np.float64), np.asarray(high, np.float64)
    with np.errstate(over="ignore"):
        down, up = lows.astype(np.float32), highs.astype(np.float32)
    down = np.where(down < lows, np.nextafter(down, np.float32(np.inf)), down)
    up = np.where(up > highs, np.nextafter(up, np.float32(-np.inf)), up)
    return down, np.maximum(up, down)


class Schema(NamedTuple):
    """Names and order of a data set's columns, and the range of its actions."""

    observation: Layout
    action: Layout
    box: ActionBox

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dicts; JSON keeps the order of the names."""
        layouts = {name: {key: list(slice_) for key, slice_ in getattr(self, name).items()} for name in LAYOUTS}
        return {**layouts, "action_low": list(self.box.low), "action_high": list(self.box.high)}

    @classmethod
    def from_json(cls, value: Any, where: str) -> "Schema":
        """The inverse of `to_json`. Raises InputError, naming `where`, for anything that it cannot have written."""
        try:
            layouts = [{str(k): (int(s[0]), int(s[1])) for k, s in value[name].items()} for name in LAYOUTS]
            low, high = (tuple(float(number) for number in value[f"action_{end}"]) for end in ("low", "high"))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(f"{where}: altered schema: {type(error).__name__} {error}") from None
        schema = cls(layouts[0], layouts[1], ActionBox(low, high))
        for name, layout in zip(LAYOUTS, layouts, strict=True):
            starts, stops = [0, *(stop for _, stop in layout.values())], [*(start for start, _ in layout.values())]
            if not layout or starts[:-1] != stops or any(stop <= start for start, stop in layout.values()):
                raise InputError(f"{where}: altered schema: the slices of its {name} have gaps or overlap")
        if not len(low) == len(high) == size_of(schema.action) or not all(map(math.isfinite, low + high)):
            raise InputError(f"{where}: altered schema: its action range is not one finite pair for each action")
        if any(a > b for a, b in zip(low, high, strict=True)):
            raise InputError(f"{where}: altered schema: an action's low is above its high")
        return schema


LAYOUTS = ("observation", "action")


def layout_of(sizes: Mapping[str, int]) -> Layout:
    """Names with how many numbers each has -> their slices, one after the other."""
    layout, start = {}, 0
    for name, size in sizes.items():
        layout[name] = (start, start + size)
        start += size
    return layout


def size_of(layout: Layout) -> int:
    """How many numbers the whole vector has."""
    return max((stop for _, stop in layout.values()), default=0)


def column_names(layout: Layout | None, kind: str, size: int) -> list[str]:
    """A name for each number of a vector: `joint_1`, `camera[2]`; without a layout `kind[0]` and so on."""
    if layout is None:
        return [f"{kind}[{index}]" for index in range(size)]
    return [
        name if stop - start == 1 else f"{name}[{index}]"
        for name, (start, stop) in layout.items()
        for index in range(stop - start)
    ]


def check_order(where: str, given: Schema | None, wanted: Schema | None) -> None:
    """Raises InputError where two schemas of the same sizes name their numbers otherwise; one that names none may be
    anything. Earlier versions imported logs of decisions with `observation.` before each name."""
    if given is None or wanted is None:
        return
    for kind in ("observation", "action"):
        size = size_of(getattr(wanted, kind))
        named, names = (column_names(getattr(each, kind), kind, size) for each in (given, wanted))
        bare, wanted_bare = ([name.removeprefix(f"{kind}.") for name in each] for each in (named, names))
        if bare != wanted_bare and column_names(None, kind, size) not in (named, names):
            first = next(i for i in range(size) if bare[i] != wanted_bare[i])
            raise InputError(
                f"{where}: {kind} number {first} is {named[first]!r}; the policy takes {names[first]!r} there: import "
                "the log with the columns in the same order"
            )


def summary(layout: Layout) -> str:
    """`joint_1, joint_2, camera[3]`, shortened in the middle where there are many."""
    names = [name if stop - start == 1 else f"{name}[{stop - start}]" for name, (start, stop) in layout.items()]
    if len(names) > SHOWN_NAMES:
        names = [*names[: SHOWN_NAMES - 2], "...", names[-1]]
    return ", ".join(names)


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _by_number(layout: Layout, values: dict[str, Any]) -> dict[str, Any]:
    """`values` with the numbers of a vector, and the text of a category, under the names that `layout` has for each."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        numbers = [key for key in layout if key.startswith(f"{name}/")] if name not in layout else []
        texts = [key for key in layout if key.startswith(f"{name}=")] if name not in layout else []
        if texts and np.asarray(value).dtype.kind in "US":
            known = [key.removeprefix(f"{name}=") for key in texts]
            if unknown_texts := set(np.ravel(value).tolist()) - set(known):
                raise InputError(f"observation: {name!r} is {sorted(unknown_texts)[0]!r}; it may be {', '.join(known)}")
            found |= {key: np.asarray(value) == text for key, text in zip(texts, known, strict=True)}
        elif numbers and np.ndim(value) and np.shape(value)[-1] == len(numbers):
            found |= {key: np.asarray(value)[..., index : index + 1] for index, key in enumerate(numbers)}
        else:
            found[name] = value
    return found


def join(layout: Layout, values: Mapping[str, Any]) -> np.ndarray:
    """A dictionary of numbers and arrays, or of batches of them, as the vector or matrix of `layout`, float32.

    Dictionaries within it are named as the layout names them: `arm/joints`. An entry of one number may be a scalar,
    in a batch (rows,); one of several has them on its last axis.
    Raises InputError for names that are missing or too many, and for entries of another size.
    """
    values = _by_number(layout, dict(_flat(values, "")))
    faults = [f"no {name!r}" for name in layout if name not in values]
    faults += [f"no such entry as {name!r}" for name in values if name not in layout]
    if faults:
        raise InputError(f"observation: {', '.join(faults)}; its entries are {summary(layout)}")
    arrays = {name: np.asarray(values[name], np.float32) for name in layout}
    is_batch = any(array.ndim == 2 for array in arrays.values())
    parts = []
    for name, (start, stop) in layout.items():
        part = arrays[name]
        if stop - start == 1 and (part.ndim == 0 or part.shape[-1] != 1 or (part.ndim == 1 and is_batch)):
            part = part[..., None]  # of a batch (rows,), of one row too
        if part.ndim not in (1, 2) or part.shape[-1] != stop - start:
            raise InputError(f"observation: {name!r} has shape {part.shape}; it has {stop - start} numbers")
        parts.append(part)
    if len({part.shape[:-1] for part in parts}) > 1:
        shapes = ", ".join(f"{name} {part.shape}" for name, part in zip(layout, parts, strict=True))
        raise InputError(f"observation: entries of different batches: {shapes}")
    return np.concatenate(parts, axis=-1)
