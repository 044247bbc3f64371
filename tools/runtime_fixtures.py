"""Writes the small exports that tether-runtime's own tests read: python tools/runtime_fixtures.py

They are committed, as those tests run without JAX. Untrained policies do: what is tested is that they act as they did.
"""

import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np

from tether import BC, DT, DTQL, export_policy
from tether.data import Normaliser
from tether.data.schema import ActionBox, Schema, layout_of
from tether.policies.deployed import deploy
from tether.policies.folder import save_policy
from tether.types import Spec

EXPORTS = Path(__file__).parents[1] / "runtime" / "tests" / "exports"
SPEC = Spec(3, 2)
SCHEMA = Schema(
    layout_of({"height": 1, "joint": 2}), layout_of({"hip": 1, "knee": 1}), ActionBox((-2.0, 0.0), (2.0, 5.0))
)
ALGORITHMS = {
    "bc": BC(hidden_sizes=(8,)),
    "dtql": DTQL(hidden_sizes=(8,), denoiser_hidden_sizes=(8,), time_embedding_size=4, candidates=8),
    "dt": DT(width=4, block_count=1, context_length=3, episode_length=6),
}


def main() -> None:
    """Replace all of them."""
    shutil.rmtree(EXPORTS, ignore_errors=True)
    observations = np.random.default_rng(0).normal(1.0, 2.0, (64, 3)).astype(np.float32)
    normaliser = Normaliser(np.full(3, 1.0, np.float32), np.full(3, 2.0, np.float32))
    for name, algorithm in ALGORITHMS.items():
        policy = deploy(algorithm.policy(algorithm.init(SPEC, jax.random.key(0))), SPEC, normaliser, SCHEMA)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "policy"
            how = {"spec": SPEC, "observations": observations, "notes": {}, "schema": SCHEMA}
            save_policy(folder, policy, algorithm=algorithm, **how)
            for form in ("numpy", "onnx"):
                candidates = (8, 2) if name == "dtql" else ()
                export_policy(
                    folder, EXPORTS / f"{name}-{form}", format=form, candidates=candidates, units={"height": "m"}
                )


if __name__ == "__main__":
    main()
