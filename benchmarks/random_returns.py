"""What random actions return in each task, beside D4RL's return of score 0, which is meant to be just that.

python benchmarks/random_returns.py [--episodes 50] [TASK ...]
"""

import argparse
import time

import numpy as np

from tether.environments import TASKS, get_task
from tether.environments.make import make_environment
from tether.evaluation.rollout import FIRST_EVALUATION_SEED


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--episodes", type=int, default=50)
    arguments = parser.parse_args()
    print("| task | random | standard error | score 0 | ms per step |\n|---|---|---|---|---|")
    for task in map(get_task, arguments.tasks):
        environment, rng = make_environment(task), np.random.default_rng(0)
        returns, steps, start = np.zeros(arguments.episodes), 0, time.perf_counter()
        for episode in range(arguments.episodes):
            environment.reset(seed=FIRST_EVALUATION_SEED + episode)
            over = False
            while not over:
                _, reward, terminated, truncated, _ = environment.step(rng.uniform(-1, 1, task.action_size))
                returns[episode] += float(reward)
                steps, over = steps + 1, terminated or truncated
        error = returns.std(ddof=1) / np.sqrt(arguments.episodes)
        milliseconds = (time.perf_counter() - start) / steps * 1e3
        print(f"| {task.name} | {returns.mean():.2f} | {error:.2f} | {task.reference_min:.2f} | {milliseconds:.2f} |")
        environment.close()


if __name__ == "__main__":
    main()
