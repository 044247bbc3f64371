"""A film of a run's policy."""

from pathlib import Path

import jax
import numpy as np

from tether.evaluation.rollout import rollout
from tether.evaluation.video import Camera
from tether.runs.evaluations import evaluation_keys
from tether.runs.records import Display
from tether.runs.run import Run

__all__ = ["film"]


def film(run: Run, lane: int, path: Path, display: Display) -> None:
    """Play the first episode of `lane` again, with a camera. What goes wrong is said, and ends nothing."""
    assert run.plan.task is not None
    policies = jax.tree.map(lambda leaf: np.asarray(leaf)[None], run.policy(lane))
    keys = evaluation_keys(run.groups.keys, run.position.update)[lane : lane + 1]
    try:
        with Camera(path).filming() as camera:
            rollout(policies, run.plan.task, 1, keys, make=camera.make)
    except Exception as error:  # of any kind: drivers, ffmpeg, the simulator
        hint = "; without a display try MUJOCO_GL=egl or osmesa" if "GL" in f"{type(error).__name__}{error}" else ""
        display.warn(f"no video in {path}: {type(error).__name__} {' '.join(str(error).split())}{hint}")
    else:
        display.message(f"video of lane {lane}: {path}")
