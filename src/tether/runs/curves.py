"""What a run has recorded, as arrays."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.errors import InputError
from tether.machine.reading import parse_json, read_bytes
from tether.runs.records import evaluation_log, metric_log
from tether.types import Float, Int

__all__ = ["Curves", "Series", "lanes_by_setting", "of_lanes", "read_curves", "read_record", "read_result", "until"]


class Series(NamedTuple):
    """A metric over the updates of its phase."""

    updates: Int[np.ndarray, " points"]
    values: Float[np.ndarray, "lanes points"]  # means since the point before; NaN where a lane had diverged


@dataclasses.dataclass(frozen=True)
class Curves:
    """The evaluations and metrics of a run; NaN where a lane had diverged or was not evaluated yet.

    Attributes:
        updates: (points,) of the last phase, at which policies were evaluated; in order.
        scores: (lanes, points, episodes), normalised, or returns where the task has no references.
        returns: (lanes, points, episodes), as the environment paid them.
        lengths: (lanes, points, episodes), steps.
        losses: "phase/metric", such as "train/q_loss", -> its `Series`.
    """

    updates: Int[np.ndarray, " points"]
    scores: Float[np.ndarray, "lanes points episodes"]
    returns: Float[np.ndarray, "lanes points episodes"]
    lengths: Float[np.ndarray, "lanes points episodes"]
    losses: Mapping[str, Series]


def read_record(folder: Path) -> dict[str, Any]:
    """config.json of a run of any version, with `algorithm`, `lanes`, `notes` and the name in `data`. Raises InputError
    where it is none, or altered."""
    try:
        found = parse_json(read_bytes(folder / "config.json"))
        record = found | {"data": dict(found["data"]), "notes": dict(found.get("notes") or {})}
        words = record["algorithm"], record["data"]["dataset"]
        whole = all(isinstance(word, str) for word in words) and all(isinstance(x, dict) for x in record["lanes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: not a run folder: config.json: {type(error).__name__} {error}") from None
    if not whole:
        raise InputError(f"{folder}: config.json: algorithm, data set or lanes are not what they should be: altered")
    return record


def read_result(folder: Path) -> dict[str, Any]:
    """result.json of a run; empty where there is none yet, or none that can be read."""
    try:
        found = parse_json(read_bytes(folder / "result.json"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def lanes_by_setting(record: Mapping[str, Any]) -> list[tuple[dict[str, Any], tuple[int, ...]]]:
    """What a run's lanes sweep -> the lanes of each setting, which are its seeds; {} -> all of them where nothing is
    swept. record: `read_record`'s."""
    found: dict[str, tuple[dict[str, Any], list[int]]] = {}
    for number, lane in enumerate(record["lanes"]):
        swept = lane.get("settings") or {}
        found.setdefault(json.dumps(swept, sort_keys=True), (swept, []))[1].append(number)
    return [(swept, tuple(lanes)) for swept, lanes in found.values()]


def until(curves: Curves, update: int) -> Curves:
    """Without the evaluations behind `update`."""
    kept = curves.updates <= update
    parts = {name: getattr(curves, name)[:, kept] for name in ("scores", "returns", "lengths")}
    return dataclasses.replace(curves, updates=curves.updates[kept], **parts)


def of_lanes(curves: Curves, lanes: Sequence[int]) -> Curves:
    """The evaluations and metrics of some lanes."""
    own = list(lanes)
    parts = {name: getattr(curves, name)[own] for name in ("scores", "returns", "lengths")}
    losses = {name: Series(series.updates, series.values[own]) for name, series in curves.losses.items()}
    return dataclasses.replace(curves, losses=losses, **parts)


def read_curves(folder: Path) -> Curves:
    """Of a run folder, also of one that still trains. Raises InputError where it is none."""
    lanes = len(read_record(folder)["lanes"])
    played = evaluation_log(folder).read()
    updates = sorted({row["update"] for row in played})
    episodes = 1 + max((row["episode"] for row in played), default=-1)
    metrics = metric_log(folder).read()
    if episodes > len(played) or any(row["lane"] >= lanes for row in [*played, *metrics]):
        raise InputError(f"{folder}: its logs tell of lanes or episodes that it does not have: altered")
    table = np.full((3, lanes, len(updates), episodes), np.nan)
    place = {update: index for index, update in enumerate(updates)}
    for row in played:
        score = row["return"] if row["normalized_score"] is None else row["normalized_score"]
        numbers = [np.nan if number is None else number for number in (score, row["return"], row["length"])]
        table[:, row["lane"], place[row["update"]], row["episode"]] = numbers
    scores, returns, lengths = table
    losses = _losses(metrics, lanes)
    return Curves(np.asarray(updates, int), scores, returns, lengths, losses)


def _losses(rows: Sequence[Mapping[str, Any]], lanes: int) -> dict[str, Series]:
    """The metrics of every phase, in the order in which they came."""
    found = {}
    for phase in dict.fromkeys(row["phase"] for row in rows):
        own = [row for row in rows if row["phase"] == phase]
        place = {update: index for index, update in enumerate(sorted({row["update"] for row in own}))}
        for name in dict.fromkeys(name for row in own for name in row if name not in ("phase", "update", "lane")):
            values = np.full((lanes, len(place)), np.nan)
            for row in own:
                if row.get(name) is not None:
                    values[row["lane"], place[row["update"]]] = row[name]
            found[f"{phase}/{name}"] = Series(np.asarray(list(place), int), values)
    return found
