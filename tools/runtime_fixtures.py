"""Writes the small exports that tether-runtime's own tests read: python tools/runtime_fixtures.py [NAME ...]

They are committed, as those tests run without JAX. Untrained policies do: what is tested is that they act as they did.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from tether import BC, DT, DTQL, export_policy
from tether.data import ONE_STEP, Framing, Normaliser
from tether.data.schema import ActionBox, Schema, layout_of
from tether.policies.deployed import deploy
from tether.policies.folder import save_policy
from tether.policies.framed import framed_policy
from tether.types import Spec

EXPORTS = Path(__file__).parents[1] / "runtime" / "tests" / "exports"
SPEC = Spec(3, 2)
SCHEMA = Schema(
    layout_of({"height": 1, "joint": 2}), layout_of({"hip": 1, "knee": 1}), ActionBox((-2.0, 0.0), (2.0, 5.0))
)
ALGORITHMS = {
    "bc": BC(hidden_sizes=(8,)),
    "dtql": DTQL(hidden_sizes=(8,), denoiser_hidden_sizes=(8,), time_embedding_size=4, candidates=8),
    "chunk": DTQL(hidden_sizes=(8,), denoiser_hidden_sizes=(8,), time_embedding_size=4, candidates=8),
    "noise": BC(hidden_sizes=(8,), actor_kind="gaussian"),
    "dt": DT(width=4, block_count=1, context_length=3, episode_length=6),
}


CHUNK = 4  # actions of "chunk"


def main() -> None:
    """Replace those that are named, or all of them."""
    observations = np.random.default_rng(0).normal(1.0, 2.0, (64, 3)).astype(np.float32)
    normaliser = Normaliser(np.full(3, 1.0, np.float32), np.full(3, 2.0, np.float32))
    for name, algorithm in ALGORITHMS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        framing = Framing(chunk=CHUNK) if name == "chunk" else ONE_STEP
        acts = algorithm.policy(algorithm.init(framing.decision(SPEC), jax.random.key(0)))
        policy = deploy(framed_policy(acts, framing, SPEC), SPEC, normaliser, SCHEMA)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "policy"
            how = {"spec": SPEC, "observations": observations, "notes": {}, "schema": SCHEMA, "framing": framing}
            save_policy(folder, policy, algorithm=algorithm, **how)
            for form in ("numpy", "onnx"):
                out = EXPORTS / f"{name}-{form}"
                shutil.rmtree(out, ignore_errors=True)
                candidates = (8, 2) if name in ("dtql", "chunk") else ()
                given = {"candidates": candidates, "units": {"height": "m"}, "noise": name == "noise"}
                export_policy(folder, out, format=form, **given)


if __name__ == "__main__":
    main()
