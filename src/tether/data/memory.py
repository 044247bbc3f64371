"""Data sets made of what a program holds: arrays, episodes, recordings of gymnasium, frames; and from there to a file.

`Dataset.from_arrays` and its siblings document what is taken. Everything ends in one place, `_made`: arrays are copied,
actions mapped to [-1, 1], names and range kept as the schema; `Dataset` checks the rest.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.data.choices import IN_PYTHON, refuse_choices
from tether.data.entries import flat, joined, schema_of, widths
from tether.data.hdf5 import as_scalar, new_hdf5
from tether.data.logs.tables import natural
from tether.data.schema import COLLECT_KEY, DENSITY_KEY, LAYOUT_KEY, MASKS_KEY, RECORDED_KEY, SCHEMA_KEY, ActionBox
from tether.data.source import ACTION_TOLERANCE, COLUMNS, SUCCESS, Bound, Names, Source, flags_of, successes_of
from tether.environments.tasks import Task, recorded_task
from tether.errors import InputError

__all__ = ["arguments_of_arrays", "arguments_of_episodes", "arguments_of_frame", "arguments_of_gymnasium", "write_hdf5"]

Bounds = tuple[Bound | None, Bound | None]
"""Lowest and highest actions; None where not said."""
Metadata = Mapping[str, Any]
Arguments = dict[str, Any]
"""What `Dataset(**arguments)` takes: `Dataset` is made of them where it is defined, and checks them."""
GIVE_BOUNDS = "give action_low and action_high"
NO_TERMINALS = "no terminals: no episode truly ended; training values what would have followed"
FLAGS = {"terminals": ("terminals", "terminations"), "timeouts": ("timeouts", "truncations")}
"""Column -> what it is called in recordings."""


def arguments_of_arrays(
    name: str,
    arrays: Mapping[str, Any],
    names: tuple[Names | None, Names | None],
    bounds: Bounds,
    exact_next_observations: bool,
    metadata: Metadata,
    continuous: bool,
) -> Arguments:
    """See `Dataset.from_arrays`. arrays: its array arguments, those that are given."""
    where = Source.memory(name).location
    matrices = ("observations", "actions", "next_observations")
    entries = {key: _entries(where, key, arrays[key], continuous) for key in matrices if key in arrays}
    columns: dict[str, Any] = {key: _array(where, key, arrays[key]) for key in arrays if key not in matrices}
    columns |= {key: _side_by_side(where, key, parts) for key, parts in entries.items()}
    following = entries.get("next_observations")
    if following is None:
        columns["next_observations"] = None
    elif list(following) != list(entries["observations"]):
        raise InputError(
            f"{where}: next_observations has entries {list(following)}, observations {list(entries['observations'])}"
        )
    sizes = {
        key: _named(where, key, widths(entries[key]), given)
        for key, given in zip(("observations", "actions"), names, strict=True)
    }
    rows = columns["observations"].shape[0] if columns["observations"].ndim else 0
    if not rows:
        raise InputError(f"{where}: observations have no rows; a data set needs at least one transition")
    columns |= _checked_flags(where, columns, rows)
    more: dict[str, Any] = {"has_rewards": "rewards" in columns, "continuous": continuous}
    columns.setdefault("rewards", np.zeros(rows, np.float32))
    more["exact_next_observations"] = following is not None and exact_next_observations
    more["notes"] = () if "terminals" in arrays else (NO_TERMINALS,)
    return _made(name, columns, sizes, bounds, metadata, **more)


def _checked_flags(where: str, columns: dict[str, Any], rows: int) -> dict[str, np.ndarray]:
    """Terminals and time-outs; takes `episodes` out of the columns."""
    terminals = flags_of(where, "terminals", columns.pop("terminals", np.zeros(rows, bool)), rows)
    timeouts = flags_of(where, "timeouts", columns.get("timeouts", np.zeros(rows, bool)), rows)
    if "episodes" in columns:
        timeouts = timeouts | (_ends(where, columns.pop("episodes"), rows) & ~terminals)
    elif "timeouts" not in columns and not terminals.any():
        raise InputError(
            f"{where}: no row is terminal, so nothing tells episodes apart; give terminals, timeouts or episodes (for "
            "one recording without a break, timeouts that are all false)"
        )
    return {"terminals": terminals, "timeouts": timeouts}


def _made(
    name: str,
    columns: dict[str, Any],
    sizes: Mapping[str, Mapping[str, int]],
    bounds: Bounds,
    metadata: Metadata,
    **more: Any,
) -> Arguments:
    """The data set of columns in the robot's units."""
    where = Source.memory(name).location
    if more["continuous"] and columns["actions"].dtype.kind in "biu":
        columns["actions"] = columns["actions"].astype(np.float32)
    if not more["continuous"]:
        refuse_choices(where, columns["actions"], _numbered(sizes["actions"]))
    stated = any(bound is not None for bound in bounds)
    box = _box(where, bounds if stated else (-1, 1), sum(sizes["actions"].values()))
    columns["actions"] = _to_unit(where, columns["actions"], box, stated)
    plain = all(list(entries) == [""] for entries in sizes.values())
    box = None if box.is_unit() else box
    columns.setdefault("successes", None)
    return dict(
        name=name,
        **columns,
        source=Source.memory(name),
        metadata=_scalars(where, metadata),
        schema=None if plain and box is None else schema_of(sizes, box),
        **more,
    )


def _numbered(sizes: Mapping[str, int]) -> list[str]:
    """A name for each number."""
    parts = [(name, index, size) for name, size in sizes.items() for index in range(size)]
    return [name if name and size == 1 else f"{name}/{index}".lstrip("/") for name, index, size in parts]


# --- arrays -------------------------------------------------------------------------------------------------


def _array(where: str, column: str, value: Any) -> np.ndarray:
    """A copy, so that what is done to `value` later changes nothing."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {column} is no array: {' '.join(str(error).split())}") from None
    return array.copy() if array.dtype in (np.float32, np.bool_) else array  # others are converted, which copies


def _entries(where: str, column: str, value: Any, continuous: bool, tuples: bool = False) -> dict[str, np.ndarray]:
    """The entries of a dictionary (or tuple) by name; a plain array, which `Dataset` checks, under the name ""."""
    if isinstance(value, Mapping) or (tuples and isinstance(value, tuple)):
        entries = flat(value, f"{where}: {column}")
    else:
        entries = {"": _array(where, column, value)}
    for name, array in entries.items() if column == "actions" and not continuous else ():
        if array.dtype.kind in "biu":
            raise InputError(
                f"{where}: actions{_quoted(name)} are {array.dtype}: discrete; tether trains on continuous actions "
                f"(where whole numbers really are levels, say {IN_PYTHON}; they become float32)"
            )
    return entries


def _quoted(name: str) -> str:
    return f" {name!r}" if name else ""


def _side_by_side(where: str, column: str, entries: Mapping[str, np.ndarray]) -> np.ndarray:
    if len(entries) == 1:
        return next(iter(entries.values()))
    if not entries:
        raise InputError(f"{where}: {column} is a dictionary without entries")
    rows = {name: len(array) for name, array in entries.items()}
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise InputError(f"{where}: entries of {column} have different numbers of rows: {found}")
    return joined([entries])


def _named(where: str, column: str, sizes: dict[str, int], names: Names | None) -> dict[str, int]:
    """The sizes under the names that were given for a plain matrix."""
    if names is None:
        return sizes
    option = f"{column[:-1]}_names"
    if list(sizes) != [""]:
        raise InputError(f"{where}: {option}: {column} is a dictionary and has names of its own")
    given = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, 1)
    if len(given) < len(names) or not all(isinstance(key, str) and key for key in given):
        raise InputError(f"{where}: {option} {list(names)}: must be different texts")
    if sum(given.values()) != sizes[""] or min(given.values(), default=1) < 1:
        raise InputError(f"{where}: {option} name {sum(given.values())} numbers, {column} have {sizes['']}")
    return given


def _ends(where: str, episodes: np.ndarray, rows: int) -> np.ndarray:
    """(rows,) whether the row is the last one of its episode."""
    if episodes.shape != (rows,) or episodes.dtype.kind not in "iuUSO":
        raise InputError(
            f"{where}: episodes has type {episodes.dtype} and shape {episodes.shape}; ({rows},) whole numbers or texts "
            "are needed"
        )
    starts = np.append(True, episodes[1:] != episodes[:-1])
    seen: set[Any] = set()
    for row in np.flatnonzero(starts).tolist():
        if episodes[row] in seen:
            raise InputError(
                f"{where}: episodes holds {episodes[row]} again at row {row}, after another; sort the rows"
            )
        seen.add(episodes[row])
    return np.append(starts[1:], True)


def _box(where: str, bounds: Bounds, size: int) -> ActionBox:
    ends = []
    for option, given in zip(("action_low", "action_high"), bounds, strict=True):
        if given is None:
            raise InputError(f"{where}: action_low and action_high belong together; {option} is missing")
        numbers = np.ravel(np.asarray(given, np.float64)).tolist()
        if len(numbers) not in (1, size):
            raise InputError(f"{where}: {option}: {len(numbers)} numbers for {size} actions; give 1 or {size}")
        if not all(map(math.isfinite, numbers)):
            raise InputError(f"{where}: {option} {given}: must be finite")
        ends.append(tuple(numbers) * (size if len(numbers) == 1 else 1))
    box = ActionBox(*ends)
    for index, (low, high) in enumerate(zip(*box, strict=True)):
        if low > high:
            raise InputError(f"{where}: action_low {low:g} is above action_high {high:g} for action {index}")
    return box


def _to_unit(where: str, actions: np.ndarray, box: ActionBox, stated: bool) -> np.ndarray:
    """What cannot be mapped is left to `Dataset`, which says why."""
    if actions.ndim != 2 or actions.dtype.kind != "f" or not np.isfinite(actions).all():
        return actions
    if outside := box.first_outside(actions, ACTION_TOLERANCE):
        row, index = outside
        low, high = box.low[index], box.high[index]
        bounds = f"action_low {low:g} and action_high {high:g}" if stated else f"[-1, 1]; {GIVE_BOUNDS}"
        raise InputError(f"{where}: actions hold {actions[outside]:g} at row {row}, entry {index}, beyond {bounds}")
    return actions if box.is_unit() else box.to_unit(actions)


def _scalars(where: str, metadata: Metadata) -> dict[str, str | float | int]:
    found = {str(key): as_scalar(value) for key, value in metadata.items()}
    for key, value in found.items():
        if value is None:
            raise InputError(f"{where}: metadata {key!r}: a number or a short text is needed")
    return {key: value for key, value in found.items() if value is not None}


# --- episodes -----------------------------------------------------------------------------------------------


class _Episode(NamedTuple):
    """One episode of T steps, checked by itself."""

    observations: dict[str, np.ndarray]  # T rows, or T+1
    actions: dict[str, np.ndarray]
    rewards: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray
    successes: np.ndarray | None
    has_rewards: bool  # else they are zeros
    has_terminals: bool  # else none is set

    @property
    def steps(self) -> int:
        return len(self.rewards)

    @property
    def has_last_observation(self) -> bool:
        """T+1 rows."""
        return len(next(iter(self.observations.values()))) == self.steps + 1


def arguments_of_episodes(
    name: str,
    episodes: Iterable[Any],
    names: tuple[Names | None, Names | None],
    bounds: Bounds,
    metadata: Metadata,
    continuous: bool,
    *,
    tuples: bool = False,
    recorded_in: Callable[[int, int], Task | None] = lambda observation_size, action_size: None,
) -> Arguments:
    """See `Dataset.from_episodes`.

    tuples: those of arrays are entries. recorded_in: the environment of data of these sizes.
    """
    where = Source.memory(name).location
    parts = [_episode(value, f"{where}: episode {number}", continuous, tuples) for number, value in enumerate(episodes)]
    if not parts:
        raise InputError(f"{where}: holds no episodes")
    first = parts[0]
    sizes = {key: widths(getattr(first, key)) for key in ("observations", "actions")}
    for number, part in enumerate(parts):
        found = {key: widths(getattr(part, key)) for key in sizes}
        if found != sizes:
            raise InputError(f"{where}: episode {number} has columns {found}, episode 0 {sizes}")
        for key, has in (("rewards", part.has_rewards), ("terminals", part.has_terminals)):
            if has != getattr(first, f"has_{key}"):
                raise InputError(f"{where}: episode {0 if has else number} has no {key}, others have")
        if part.has_last_observation != first.has_last_observation:
            raise InputError(
                f"{where}: episode {number} has {part.steps + part.has_last_observation} observations for {part.steps} "
                f"actions, episode 0 {first.steps + first.has_last_observation} for {first.steps}; all must have the "
                "observation after the last action, or none"
            )
    columns: dict[str, Any] = {
        "observations": joined(_rows(part.observations, 0, part.steps) for part in parts),
        "actions": joined(part.actions for part in parts),
        **{key: np.concatenate([getattr(part, key) for part in parts]) for key in ("rewards", "terminals", "timeouts")},
        "next_observations": None,
    }
    if first.has_last_observation:
        columns["next_observations"] = joined(_rows(part.observations, 1, part.steps + 1) for part in parts)
    successes = [part.successes for part in parts if part.successes is not None]
    columns["successes"] = np.concatenate(successes) if len(successes) == len(parts) else None
    for key, given in zip(sizes, names, strict=True):
        sizes[key] = _named(where, key, sizes[key], given)
    task = recorded_in(columns["observations"].shape[1], columns["actions"].shape[1])
    exact = first.has_last_observation
    more = {"exact_next_observations": exact, "recorded_in": task, "has_rewards": first.has_rewards}
    more |= {"continuous": continuous, "notes": () if first.has_terminals else (NO_TERMINALS,)}
    return _made(name, columns, sizes, bounds, metadata, **more)


def _rows(entries: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: array[start:stop] for name, array in entries.items()}


def _episode(value: Any, where: str, continuous: bool, tuples: bool) -> _Episode:
    """Raises InputError naming the episode and the array that does not fit."""
    get = _getter(value)
    for key in ("observations", "actions"):
        if get(key) is None:
            raise InputError(f"{where}: has no {key}; a dictionary or an object with {key} is needed")
    observations, actions = (_entries(where, key, get(key), continuous, tuples) for key in ("observations", "actions"))
    has_rewards = get("rewards") is not None
    given = get("rewards") if has_rewards else np.zeros(len(next(iter(actions.values()), ())), np.float32)
    rewards = _array(where, "rewards", given)
    rewards = rewards[:, 0] if rewards.ndim == 2 and rewards.shape[1] == 1 else rewards
    if rewards.ndim != 1 or not len(rewards):
        raise InputError(f"{where}: rewards has shape {rewards.shape}; (T,) with at least one step is needed")
    steps = len(rewards)
    for key, entries, allowed in (("observations", observations, (steps, steps + 1)), ("actions", actions, (steps,))):
        for name, array in entries.items():
            if not name and array.ndim != 2:
                raise InputError(f"{where}: {key} has shape {array.shape}; two axes (rows, size) are needed")
            if len(array) not in allowed or len(array) != len(next(iter(entries.values()))):
                wanted = " or ".join(map(str, allowed))
                raise InputError(
                    f"{where}: {key}{_quoted(name)} has {len(array)} rows for {steps} rewards; {wanted} needed"
                )
    terminals, timeouts = (_flag(get, key, steps, where) for key in ("terminals", "timeouts"))
    has_terminals = terminals is not None
    terminals = np.zeros(steps, bool) if terminals is None else terminals
    timeouts = np.zeros(steps, bool) if timeouts is None else timeouts
    timeouts[-1] |= not terminals[-1]
    infos = get("infos")
    successes = successes_of(infos.get(SUCCESS) if isinstance(infos, Mapping) else get("successes"), steps)
    return _Episode(observations, actions, rewards, terminals, timeouts, successes, has_rewards, has_terminals)


def _getter(value: Any) -> Callable[[str], Any]:
    """What a dictionary or an object has of a name; None where it has nothing."""
    return value.get if isinstance(value, Mapping) else lambda key: getattr(value, key, None)


def _flag(get: Callable[[str], Any], column: str, steps: int, where: str) -> np.ndarray | None:
    """(T,) of an array, or of one flag for the last row; None where there is none."""
    called = [key for key in FLAGS[column] if get(key) is not None]
    if not called:
        return None
    if len(called) > 1:
        raise InputError(f"{where}: has {' and '.join(called)}, which mean the same; give one")
    array = _array(where, called[0], get(called[0]))
    if array.ndim == 0:  # of the last row
        array = np.append(np.zeros(steps - 1, array.dtype), array)
    flags = flags_of(where, called[0], array, steps).copy()
    if flags[:-1].any():
        row = int(np.flatnonzero(flags)[0])
        raise InputError(f"{where}: {called[0]} is set at row {row}, before the episode's last row {steps - 1}")
    return flags


# --- gymnasium ----------------------------------------------------------------------------------------------


def arguments_of_gymnasium(
    name: str, episodes: Iterable[Any], environment: Any, metadata: Metadata, continuous: bool
) -> Arguments:
    """See `Dataset.from_gymnasium`."""
    where = Source.memory(name).location
    episodes = list(episodes)
    for number, value in enumerate(episodes):
        if missing := [key for key in ("terminations", "truncations") if _getter(value)(key) is None]:
            raise InputError(f"{where}: episode {number}: has no {' and no '.join(missing)}; see from_episodes")
    bounds, task = _space_bounds(where, environment), functools.partial(_recorded_in, environment)
    continuous = continuous or environment is not None  # its box says so
    try:
        data = arguments_of_episodes(
            name, episodes, (None, None), bounds, metadata, continuous, tuples=True, recorded_in=task
        )
    except InputError as error:  # the bounds are no arguments here
        raise InputError(str(error).replace(GIVE_BOUNDS, "give environment=, which says their range")) from None
    if not data.get("exact_next_observations"):
        raise InputError(f"{where}: gymnasium's episodes have one observation more than actions; see from_episodes")
    return data


def _space_bounds(where: str, environment: Any) -> Bounds:
    """The bounds of the environment's actions, in the order of `flat`."""
    if environment is None:
        return None, None
    space = environment.action_space
    boxes = _boxes(space)
    if any(not hasattr(box, "low") for box in boxes.values()):
        raise InputError(f"{where}: action space {space}: discrete; tether trains on continuous actions")
    low, high = (np.concatenate([np.ravel(getattr(box, end)) for box in boxes.values()]) for end in ("low", "high"))
    if not np.isfinite([low, high]).all():
        raise InputError(f"{where}: action space {space}: has no finite bounds; see from_episodes, action_low")
    return low.tolist(), high.tolist()


def _boxes(space: Any) -> dict[str, Any]:
    """Name -> space without subspaces; named and ordered as `flat` does it with actions."""
    inner = getattr(space, "spaces", None)
    if inner is None:
        return {"": space}
    pairs = inner.items() if isinstance(inner, Mapping) else ((f"_index_{i}", s) for i, s in enumerate(inner))
    found = {str(key): _boxes(subspace) for key, subspace in pairs}
    return {f"{key}/{name}": box for key in sorted(found, key=natural) for name, box in found[key].items()}


def _recorded_in(environment: Any, observation_size: int, action_size: int) -> Task | None:
    """The environment, where no wrapper has changed its spaces: making it by its specification gives the same."""
    spec = getattr(environment, "spec", None)
    if spec is None:
        return None
    bare = environment.unwrapped
    if (bare.observation_space, bare.action_space) != (environment.observation_space, environment.action_space):
        return None
    return recorded_task(spec.id, dict(spec.kwargs), spec.max_episode_steps, (observation_size, action_size))


# --- frames -------------------------------------------------------------------------------------------------


def arguments_of_frame(
    name: str, frame: Any, meant: Mapping[str, Any], bounds: Bounds, metadata: Metadata, continuous: bool
) -> Arguments:
    """See `Dataset.from_frame`. meant: what `ColumnOptions` takes, None where not said."""
    from tether.data.logs.columns import ColumnOptions, resolve
    from tether.data.logs.frames import frame_table
    from tether.data.logs.order import refuse_unordered
    from tether.data.logs.rows import Mended, rows_of
    from tether.data.logs.rows import joined as joined_rows

    where = Source.memory(name).location
    patterns = {
        key: (value,) if isinstance(value, str) else tuple(value)
        for key, value in meant.items()
        if key in ("observation", "action", "next_observation")
    }
    table = frame_table(frame, where)
    try:
        plan = resolve([table], ColumnOptions(**{**meant, **patterns}))
        refuse_unordered(table, plan)
        mended = Mended()
        pieces = list(rows_of([table], plan, mended, gathered=True))
    except InputError as error:  # written for the command line
        raise InputError(_in_python(str(error))) from None
    if not pieces:
        raise InputError(f"{where}: the frame holds no rows" + (" without a gap" if mended.dropped_rows else ""))
    rows = joined_rows(pieces)._asdict()
    del rows["infos"]
    rows["recorded_episodes"] = mended.episodes(rows.pop("recorded"))
    sizes = {
        f"{key}s": {column: stop - start for column, (start, stop) in plan.named(getattr(plan, key)).items()}
        for key in ("observation", "action")
    }
    exact = rows["next_observations"] is not None
    more = {"exact_next_observations": exact, "has_rewards": plan.reward.recorded, "continuous": continuous}
    notes = tuple(map(_in_python, mended.notes(plan)))
    return _made(name, rows, sizes, bounds, metadata, **more, notes=notes)


def _in_python(message: str) -> str:
    """A message about options of `tether data import` in the words of arguments."""
    message = message.replace("say to tether data import what", "say what")
    option = r"--([a-z][\w-]*)(?: (drop|hold|none|every-row)\b)?"
    return re.sub(option, lambda match: match[1].replace("-", "_") + (f"={match[2]!r}" if match[2] else ""), message)


# --- to a file ----------------------------------------------------------------------------------------------


def write_hdf5(data: Any, path: Path) -> Path:
    """See `Dataset.to_hdf5`."""
    if path.suffix.lower() not in (".hdf5", ".h5"):
        raise InputError(f"{path}: name a *.hdf5 file")
    if path.exists():
        raise InputError(f"{path}: exists already")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    with new_hdf5(path) as file:
        for column in COLUMNS:
            if (array := getattr(data, column)) is not None and (column != "rewards" or data.has_rewards):
                file[column] = array
        for key, mask in data.masks.items():
            file[f"{MASKS_KEY}/{key}"] = mask
        if data.recorded_episodes is not None:
            file[RECORDED_KEY] = data.recorded_episodes
        if data.log_densities is not None:
            file[DENSITY_KEY] = data.log_densities
        for key, value in data.metadata.items():
            file.attrs[key] = value
        rules = ("exact_next_observations", "terminals_end_episodes", *(("continuous",) if data.continuous else ()))
        file[LAYOUT_KEY] = json.dumps({rule: getattr(data, rule) for rule in rules})
        if data.schema is not None:
            file[SCHEMA_KEY] = json.dumps(data.schema.to_json())
        if data.recorded_in is not None and data.recorded_in.gymnasium_id is not None:
            file[COLLECT_KEY] = json.dumps({"environment": _environment(data.recorded_in)})
    return path


def _environment(task: Task) -> dict[str, Any]:
    """What the reader makes the task of again."""
    found = {"id": task.gymnasium_id, "options": dict(task.options), "horizon": task.horizon}
    if task.references_by == "Minari":
        found["references"] = [task.reference_min, task.reference_max]
    if task.recorded_returns:
        found["recorded_returns"] = task.recorded_returns
    return found
