"""The policy folders that a run leaves."""

import dataclasses
from pathlib import Path
from typing import Any

from tether.policies.deployed import DeployedPolicy
from tether.policies.folder import save_policy
from tether.runs.plan import Plan
from tether.runs.records import Display

__all__ = ["save_lane_policy"]


def save_lane_policy(
    plan: Plan, folder: Path, policy: DeployedPolicy, lane: int, display: Display, **notes: Any
) -> None:
    """Write `policy`, that of `lane`, with notes that say where it is from, and `notes`. Raises: OSError."""
    if plan.trust_takes_long:
        display.message("calibrating trust on the data's decisions, once for this run: some 5 to 20 s of a core")
    where_from = {"dataset": plan.prepared.record["dataset"], "lane": lane, "seed": plan.lanes[lane].seed}
    save_policy(
        folder,
        policy,
        algorithm=dataclasses.replace(plan.algorithm, **plan.lanes[lane].swept),
        spec=plan.prepared.spec,
        observations=plan.observations,
        schema=plan.prepared.schema,
        trust=plan.trust,
        framing=plan.prepared.framing,
        seen=plan.prepared.seen,
        notes=where_from | notes,
    )
