"""Policies to choose among: the lanes of a run, as one of its checkpoints has them, and policy folders."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tether.data import Dataset, Normaliser
from tether.data.schema import Schema
from tether.errors import InputError
from tether.policies.deployed import DeployedPolicy
from tether.policies.folder import load_policy
from tether.policies.loaded import DOCUMENT
from tether.runs.alarms import alarms_of, reachable_values
from tether.runs.callbacks import VALIDATION
from tether.runs.config import restored_plan
from tether.runs.document import read_config
from tether.runs.finetuning import make_run
from tether.runs.records import Display, metric_log

__all__ = ["Candidate", "find_run", "read_candidates"]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A policy, and what its training left to judge it by."""

    name: str
    folder: Path  # run, checkpoint or policy folder, as it was named
    algorithm: str
    lane: int | None = None
    seed: int | None = None
    update: int | None = None  # of the last phase
    policy: DeployedPolicy | None = None  # None: its lane diverged
    schema: Schema | None = None  # of what it takes and gives
    state: Any = None  # of the algorithm; None where only the policy is there
    normaliser: Normaliser | None = None  # of the state's networks
    reward_factor: float | None = 1.0  # by which training saw rewards; None: not by a factor alone
    discount: float | None = None  # that it was trained for
    losses: dict[str, float] = dataclasses.field(default_factory=dict)  # the last ones on held-out episodes
    faults: tuple[str, ...] = ()  # of its training: what makes it no candidate


def find_run(path: Path) -> tuple[Path, Path | None]:
    """(the run folder that `path` means, the checkpoint in it); None: the newest.

    Raises: InputError where it is neither a run nor a checkpoint.
    """
    if (path / "config.json").is_file():
        return path, None
    if (path / "manifest.json").is_file() and (path.resolve().parents[1] / "config.json").is_file():
        return path.resolve().parents[1], path
    raise InputError(f"{path}: neither a run folder, nor a checkpoint in one, nor a policy folder")


def read_candidates(path: Path, data: Callable[[Path], Dataset]) -> list[Candidate]:
    """The candidates that a folder means: each lane of a run or of one of its checkpoints; or one policy.

    data: a run folder -> the data that it trained on.
    Raises: InputError where the folder is none of these, or cannot be read; CheckpointError where it is damaged.
    """
    if (path / DOCUMENT).is_file():
        return [_of_policy(path)]
    folder, checkpoint = find_run(path)
    plan = restored_plan(folder, True, dataset=data(folder))
    run = make_run(plan, Display(True))
    if not run.restore(checkpoint):
        raise InputError(f"{folder}: holds no checkpoint yet; train on with: tether resume {folder}")
    _, document = read_config(folder)
    rows = [row for row in metric_log(folder).read() if run.wrote(row)]
    alarms = alarms_of(rows, reachable_values(plan.algorithm, plan.lanes, plan.prepared.record.get("rewards")))
    where = folder.resolve().name + ("" if checkpoint is None else f"@{run.updates}")
    policies, states = run.policies(range(len(plan.lanes))), run.groups.take(range(len(plan.lanes)))[1]
    found = []
    for index, lane in enumerate(plan.lanes):
        faults = [f"lane diverged at {run.frozen[index]}"] if index in run.frozen else []
        faults += [f"its training raised an alarm: {a.metric} {a.value:.2g}" for a in alarms if a.lane == index]
        found.append(
            Candidate(
                name=where if len(plan.lanes) == 1 else f"{where}, {lane.name}",
                folder=path,
                algorithm=document.algorithm,
                lane=index,
                seed=lane.seed,
                update=run.updates,
                policy=None if index in run.frozen else _lane(policies, index),
                schema=plan.prepared.schema,
                state=_lane(states, index),
                normaliser=plan.prepared.normaliser,
                reward_factor=_factor(plan.prepared.record["reward_transform"]),
                discount=_discount(plan.algorithm, lane.swept),
                losses=_held_out(rows, index),
                faults=tuple(faults),
            )
        )
    return found


def _lane(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _of_policy(path: Path) -> Candidate:
    loaded = load_policy(path)
    notes, resolved = loaded.document.get("notes", {}), path.resolve()
    own = notes if isinstance(notes, dict) else {}
    name = f"{resolved.parent.name}/{resolved.name}"
    numbers: dict[str, Any] = {key: n for key in ("lane", "seed", "update") if isinstance(n := own.get(key), int)}
    algorithm = loaded.document["algorithm"]
    about = {"schema": loaded.schema, "discount": _discount(loaded.algorithm, {})}
    return Candidate(name, path, algorithm, policy=loaded.module, **about, **numbers)


def _discount(algorithm: Any, swept: Any) -> float | None:
    value = swept.get("discount", getattr(algorithm, "discount", None))
    return float(value) if isinstance(value, int | float | np.ndarray) else None


def _factor(transform: dict[str, Any]) -> float | None:
    """By what a reward transform multiplies, where it does nothing else."""
    name = transform["name"]
    return 1.0 if name == "none" else float(transform["factor"]) if name == "iql_locomotion" else None


def _held_out(rows: list[dict[str, Any]], lane: int) -> dict[str, float]:
    """The last losses on held-out episodes."""
    own = [row for row in rows if row["lane"] == lane and any(name.startswith(VALIDATION) for name in row)]
    last = own[-1] if own else {}
    return {
        name.removeprefix(VALIDATION): float(value)
        for name, value in last.items()
        if name.startswith(VALIDATION)
        and name.endswith(("loss", "nll"))
        and isinstance(value, int | float)
        and math.isfinite(value)
    }
