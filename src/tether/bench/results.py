"""The bench's file: rows, each with the run (machine, versions, commit, command, sizes) that measured it.

{"format_version": 2, "runs": [{"machine", "versions", "commit", "command", "sizes", "precision", "changes", ...}],
 "results": [{"run": index, "algorithm", "what", "lanes", ...}]}

What says which row it is: algorithm, what, lanes, settings, and its run's sizes, precision and changes. Of two rows
that are the same in this the newer one counts.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.algorithms import ALGORITHMS
from tether.errors import InputError
from tether.machine.reading import parse_json, read_bytes

__all__ = [
    "add_rows",
    "committed_costs",
    "empty_figures",
    "is_measured",
    "measured_row",
    "merge_figures",
    "read_figures",
]

FORMAT_VERSION = 2
COST_KEYS = {  # what -> name in a table -> (name in the results, factor)
    "train": {"gflop": ("matmul_flops_per_update", 1e-9), "updates": ("updates_per_second", 1.0)},
    "act": {"milliseconds": ("milliseconds_p50", 1.0)},
}
COSTS = Path(__file__).parents[1] / "algorithms" / "costs.json"
SAME_RUN = ("machine", "versions", "commit", "sizes", "precision", "changes")  # what a row depends on, beside its name


def empty_figures() -> dict[str, Any]:
    """A file without rows."""
    return {"format_version": FORMAT_VERSION, "runs": [], "results": []}


def read_figures(path: Path) -> dict[str, Any]:
    """A bench file, also one of tether 0.1 before lanes stood in the rows. Raises InputError for anything else."""
    try:
        figures = parse_json(read_bytes(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except InputError:  # a folder, a pipe
        raise
    except ValueError:
        raise InputError(f"{path}: truncated or altered: not JSON") from None
    try:
        if "runs" in figures:
            if figures["format_version"] != FORMAT_VERSION:
                raise InputError(f"{path}: format {figures['format_version']}; this version reads {FORMAT_VERSION}")
            for row in figures["results"]:
                identity(row, figures["runs"][row["run"]])
            return figures
        run = {key: figures[key] for key in ("machine", "versions", "commit")} | {"command": None, "changes": {}}
        run["precision"] = figures.get("precision", "float32")  # the first files have none
        sizes = dict(figures["sizes"])
        lanes = sizes.pop("lanes")
        return {
            "format_version": FORMAT_VERSION,
            "runs": [run | {"sizes": sizes}],
            "results": [_first_format_row(row, lanes) for row in figures["results"]],
        }
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: no bench file: {type(error).__name__} {error}") from None


def _first_format_row(row: Mapping[str, Any], lanes: int) -> dict[str, Any]:
    """The row as it would be written now."""
    now = {"run": 0, "lanes": 1 if row["what"] == "act" else lanes, **row}
    if "updates_per_second" in row:
        now["seconds_per_update"] = lanes / row["updates_per_second"]
    return now


def identity(row: Mapping[str, Any], run: Mapping[str, Any]) -> tuple[Any, ...]:
    """What says which row it is."""
    own = row["algorithm"], row["what"], row["lanes"], row.get("budget_milliseconds")
    parts = row.get("settings", {}), run["sizes"], run["precision"], run["changes"]
    return *own, *(json.dumps(part, sort_keys=True) for part in parts)


def is_measured(figures: Mapping[str, Any], run: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether `measured_row` finds one."""
    return measured_row(figures, run, row) is not None


def measured_row(
    figures: Mapping[str, Any], run: Mapping[str, Any], row: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Such a row, measured by the same code on the same machine; None where there is none."""
    same = [index for index, other in enumerate(figures["runs"]) if all(other[key] == run[key] for key in SAME_RUN)]
    wanted = identity(row, run)
    rows = (found for found in figures["results"] if found["run"] in same and identity(found, run) == wanted)
    return next(rows, None)


def add_rows(figures: Mapping[str, Any], run: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`figures` with these rows of `run`, in the order of the algorithms; those that they replace are gone."""
    runs = list(figures["runs"])
    if run not in runs:
        runs.append(dict(run))
    kept = {identity(row, runs[row["run"]]): dict(row) for row in figures["results"]}
    for row in rows:
        kept[identity(row, run)] = {"run": runs.index(run), **{k: v for k, v in row.items() if k != "run"}}
    order = {name: index for index, name in enumerate(ALGORITHMS)}
    results = sorted(kept.values(), key=lambda row: order.get(row["algorithm"], len(order)))
    used = sorted({row["run"] for row in results})
    for row in results:
        row["run"] = used.index(row["run"])
    return {"format_version": FORMAT_VERSION, "runs": [runs[index] for index in used], "results": results}


def merge_figures(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All rows of several files; of two that are the same the one of the later file."""
    merged = empty_figures()
    for part in parts:
        for index, run in enumerate(part["runs"]):
            merged = add_rows(merged, run, [row for row in part["results"] if row["run"] == index])
    return merged


def committed_costs() -> dict[str, dict[str, float]]:
    """Algorithm -> gflop, updates (per second), milliseconds, from the bench results that come with tether.

    What is not in them is left out. Rows of one lane and of the algorithms' own settings count.
    """
    if not COSTS.exists():
        return {}
    found: dict[str, dict[str, float]] = {}
    for row in read_figures(COSTS)["results"]:
        cost = found.setdefault(row["algorithm"], {})
        keys = {} if row["lanes"] != 1 or row.get("settings") else COST_KEYS.get(row["what"], {})
        cost |= {key: row[figure] * scale for key, (figure, scale) in keys.items() if figure in row}
    return found
