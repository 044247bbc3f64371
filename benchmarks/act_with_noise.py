"""How policies score when they act with Gaussian noise, as the policies did that collected some data sets.

python benchmarks/act_with_noise.py --task hopper --policies DIR/bc DIR/iql --noise 0 0.1 --out noise.json
"""

import argparse
from pathlib import Path

import numpy as np

from tether import load_policy
from tether.environments import get_task
from tether.environments.make import make_environment
from tether.machine.files import atomic_write_json

FIRST_SEED = 1000  # of the episodes; not those of evaluations


def scores(folder: Path, task_name: str, noise: float, episodes: int) -> np.ndarray:
    """Normalised scores of so many episodes of a run's policy; noise: standard deviation, actions are in [-1, 1]."""
    task, policy, random = get_task(task_name), load_policy(folder), np.random.default_rng(0)
    environment, returns = make_environment(task), []
    for episode in range(episodes):
        observation, _ = environment.reset(seed=FIRST_SEED + episode)
        total, over = 0.0, False
        while not over:
            action = policy(observation) + noise * random.standard_normal(task.action_size)
            observation, reward, terminated, truncated, _ = environment.step(np.clip(action, -1, 1).astype(np.float32))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    environment.close()
    return task.normalized_score(returns)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", required=True)
    parser.add_argument("--policies", type=Path, nargs="+", required=True)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for folder in arguments.policies:
        for noise in arguments.noise:
            found = scores(folder, arguments.task, noise, arguments.episodes)
            quartiles = np.percentile(found, [0, 25, 50, 75, 100]).round(1).tolist()
            rows.append({"policy": folder.name, "noise": noise, "mean": found.mean(), "quartiles": quartiles})
            print(f"{folder.name:8} noise {noise:g}: mean {found.mean():.1f}, quartiles {quartiles}", flush=True)
    atomic_write_json(arguments.out, {"task": arguments.task, "episodes": arguments.episodes, "results": rows})


if __name__ == "__main__":
    main()
