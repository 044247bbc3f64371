"""QC-FQL as its authors' code trains it, on a file of ours: does theirs learn from regenerated data what ours does?

python -m benchmarks.peer_qc --peer FOLDER --data puzzle-3x3-play-v0.npz --task puzzle-3x3-singletask-task1-v0 \\
    --weight 300 --out peer-qc.jsonl

FOLDER: a checkout of ColinQiyangLi/qc (nothing of it is in this repository). Agent, sampler and evaluation are theirs,
the loop around them and the values before the goal are ours. Needs an environment with what they pin (jax 0.6.0, flax,
distrax, ml_collections, ogbench 1.1.2), which need not have tether. One line of JSON for each 500 updates (means of
every 20th update), each 5,000 (benchmarks/goal_values.py) and each evaluation.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.goal_values import DRAWS, before_goals, profile

LOG_UPDATES, SAMPLED_UPDATES, PROFILE_UPDATES = 500, 20, 5000
CLIP = 1e-5  # how far inside the box their data's actions are


def load(data: Path, task: str) -> dict[str, np.ndarray]:
    """The transitions with the task's sparse rewards, as their main.py makes them."""
    import ogbench  # pyright: ignore[reportMissingImports]
    from ogbench.relabel_utils import relabel_dataset  # pyright: ignore[reportMissingImports]

    found = ogbench.load_dataset(str(data), add_info=True)
    relabel_dataset(task, _environment(task), found)
    kept = {name: found[name] for name in ("observations", "next_observations", "terminals", "masks")}
    actions = np.clip(found["actions"], -1 + CLIP, 1 - CLIP)
    return kept | {"actions": actions, "rewards": (found["rewards"] != 0.0) * -1.0}


def _environment(task: str) -> Any:
    import gymnasium
    import ogbench  # noqa: F401  (registers its environments)  # pyright: ignore[reportMissingImports]

    return gymnasium.make(task)


def values_before_goals(agent: Any, decisions: Any) -> list[dict[str, float]]:
    """`goal_values.profile` of their networks."""
    size = next(iter(decisions.values()))[1].shape[1]
    noise = jax.random.normal(jax.random.PRNGKey(0), (DRAWS, size))

    def value(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return np.asarray(agent.network.select("critic")(observations, actions).mean(axis=0))

    def policy(observations: np.ndarray) -> np.ndarray:
        act = agent.network.select("actor_onestep_flow")
        return np.stack([jnp.clip(act(observations, _rows(z, observations)), -1, 1) for z in noise])

    def flow(observations: np.ndarray) -> np.ndarray:
        return np.stack([agent.compute_flow_actions(observations, _rows(z, observations)) for z in noise])

    return profile(decisions, value, policy, flow)


def _rows(noise: jax.Array, observations: np.ndarray) -> jax.Array:
    return jnp.broadcast_to(noise, (len(observations), len(noise)))


def main() -> None:
    """Train theirs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="checkout of qc")
    parser.add_argument("--data", type=Path, required=True, help="OGBench's file, or a regenerated one")
    parser.add_argument("--task", required=True, help="id of the environment with a single task")
    parser.add_argument("--weight", type=float, default=300.0, help="of distillation; alpha")
    parser.add_argument("--chunk", type=int, default=5)
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[512, 512, 512, 512])
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--eval-every-updates", type=int, default=25_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="file for the lines; must not exist")
    options = parser.parse_args()
    if not (options.peer / "agents" / "acfql.py").exists():
        raise SystemExit(f"{options.peer}: no agents/acfql.py in it; give a checkout of qc")
    if options.out.exists():
        raise SystemExit(f"{options.out}: exists")
    sys.path.insert(0, str(options.peer))
    from agents.acfql import ACFQLAgent, get_config  # pyright: ignore[reportMissingImports]
    from envs.env_utils import EpisodeMonitor  # pyright: ignore[reportMissingImports]
    from evaluation import evaluate  # pyright: ignore[reportMissingImports]
    from utils.datasets import Dataset  # pyright: ignore[reportMissingImports]

    random.seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002  (their sampler draws from it)
    data = Dataset.create(**load(options.data, options.task))
    decisions = before_goals(options.data, options.task, options.chunk)
    world = EpisodeMonitor(_environment(options.task), filter_regexes=[".*privileged.*", ".*proprio.*"])  # as theirs
    config = get_config()
    config.horizon_length, config.alpha = options.chunk, options.weight
    config.value_hidden_dims = config.actor_hidden_dims = tuple(options.hidden_sizes)
    example = data.sample(())
    agent = ACFQLAgent.create(options.seed, example["observations"], example["actions"], config)

    def log(update: int, **row: Any) -> None:
        with options.out.open("a") as file:
            file.write(json.dumps({"update": update} | row) + "\n")

    sums, started = {}, time.perf_counter()
    for update in range(1, options.updates + 1):
        agent, metrics = agent.update(data.sample_sequence(config.batch_size, options.chunk, config.discount))
        if update % SAMPLED_UPDATES == 0:
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in metrics.items()}
        if update % LOG_UPDATES == 0:
            means = {name: value * SAMPLED_UPDATES / LOG_UPDATES for name, value in sums.items()}
            log(update, **means, updates_per_second=LOG_UPDATES / (time.perf_counter() - started))
            sums = {}
        if update % PROFILE_UPDATES == 0:
            for row in values_before_goals(agent, decisions):
                log(update, **row)
        if update % options.eval_every_updates == 0:
            found, _, _ = evaluate(agent=agent, env=world, action_dim=example["actions"].shape[-1])
            log(update, success=float(found["success"]), length=float(found["episode.length"]))
        if update % LOG_UPDATES == 0:
            started = time.perf_counter()


if __name__ == "__main__":
    main()
