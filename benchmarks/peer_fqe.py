"""d3rlpy's fitted Q evaluation of the policies that benchmarks/choosing.py has made, on the same rows and decisions.

python benchmarks/peer_fqe.py --out DIR [--updates 10000] [SET ...]   # needs d3rlpy, and no tether

Needs DIR/SET/decisions.npz, which `choosing.py judge` leaves, and writes DIR/SET/peer.json. Configuration as d3rlpy has
it by default, one critic for each policy, one policy after the other; observations are standardised and rewards divided
by the spread of values as for tether, which is kinder to it than the raw ones.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

DISCOUNT = 0.99


class Decided:
    """In the place of an algorithm: what its policy does at the next observations of the minibatch that is coming."""

    def __init__(self) -> None:
        self.next_actions = np.zeros((0, 0), np.float32)
        self.impl = self

    def predict_best_action(self, observations: Any) -> Any:
        """Those that were put there."""
        assert len(observations) == len(self.next_actions)
        return observations.new_tensor(self.next_actions)


def evaluated(arrays: Any, candidate: int, updates: int) -> float:
    """The value of a candidate at the first states, in the units of discounted returns."""
    import d3rlpy  # pyright: ignore[reportMissingImports]
    from d3rlpy.dataset import TransitionMiniBatch  # pyright: ignore[reportMissingImports]

    d3rlpy.seed(0)
    mean, std = arrays["observation"].mean(axis=0), arrays["observation"].std(axis=0) + 1e-3
    observation, following, first = (
        ((arrays[name] - mean) / std).astype(np.float32)
        for name in ("observation", "next_observation", "first_observation")
    )
    scale, actions = float(arrays["scale"]), arrays["following"][candidate]
    reward = (arrays["reward"] / scale).astype(np.float32)[:, None]
    terminal, policy = arrays["terminal"].astype(np.float32)[:, None], Decided()
    config = d3rlpy.ope.FQEConfig(gamma=DISCOUNT)
    fqe, random = d3rlpy.ope.FQE(algo=policy, config=config), np.random.default_rng(0)
    fqe.create_impl((observation.shape[1],), arrays["action"].shape[1])
    size = config.batch_size
    for _ in range(updates):
        rows = random.integers(len(reward), size=size)
        policy.next_actions = actions[rows]
        fqe.update(
            TransitionMiniBatch(
                observations=observation[rows],
                actions=arrays["action"][rows],
                rewards=reward[rows],
                next_observations=following[rows],
                next_actions=actions[rows],
                terminals=terminal[rows],
                intervals=np.ones((size, 1), np.float32),
                transitions=[],
            )
        )
    draws = arrays["first"][candidate]  # (episodes, draws, action)
    values = [fqe.predict_value(first, np.ascontiguousarray(draws[:, i])) for i in range(draws.shape[1])]
    return float(np.mean(values)) * scale


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=10_000)
    given = parser.parse_intermixed_args()  # sets may stand last
    places = [given.out / name for name in given.sets] or sorted(given.out.iterdir())
    for place in places:
        if not (place / "decisions.npz").exists() or (place / "peer.json").exists():
            continue
        arrays, started = dict(np.load(place / "decisions.npz")), time.perf_counter()
        names = list(json.loads((place / "truth.json").read_text()))
        values = {name: evaluated(arrays, index, given.updates) for index, name in enumerate(names)}
        seconds = time.perf_counter() - started
        (place / "peer.json").write_text(json.dumps({"values": values, "seconds": seconds, "updates": given.updates}))
        print(f"{place.name}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
