"""Evaluation of a run's policies as they are exported."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tether.evaluation.exported import ExportedActor
from tether.evaluation.rollout import Episodes, rollout
from tether.export.folder import Format, runner_of, write_export
from tether.policies.folder import load_policy
from tether.runs.evaluations import evaluation_keys
from tether.runs.policies import save_lane_policy
from tether.runs.run import Run

__all__ = ["rollout_exported"]

CHECKED_DECISIONS = 64  # of each lane: the episodes are the test


def rollout_exported(run: Run, format: Format, episodes: int, on_step: Callable[[int, int], None]) -> Episodes:
    """`Run.rollout` with each lane's policy exported and played by its runtime: same starts, same noise.

    Raises InputError where a policy cannot be exported so.
    """
    plan, lanes = run.plan, np.flatnonzero(run.alive)
    assert plan.task is not None
    policies, exported = [], []
    with tempfile.TemporaryDirectory(prefix="tether-evaluate-") as scratch:
        for lane in lanes.tolist():
            policy = run.policy(lane)
            folder = Path(scratch) / f"lane-{lane}"
            save_lane_policy(plan, folder / "policy", policy, lane, run.display)
            loaded = load_policy(folder / "policy", algorithm=plan.algorithm)
            write_export(loaded, folder / "export", format=format, rows=CHECKED_DECISIONS)
            policies.append(policy)
            exported.append(runner_of(folder / "export"))
        keys = evaluation_keys(run.groups.keys, run.position.update)[lanes]
        actor = ExportedActor(policies, exported, keys, episodes)
        played = rollout(policies[0], plan.task, episodes, keys, on_step, actor=actor)
    whole = Episodes(np.full((len(plan.lanes), episodes), np.nan), np.zeros((len(plan.lanes), episodes), np.int64))
    for values, part in zip(whole, played, strict=True):
        values[lanes] = part
    return whole
