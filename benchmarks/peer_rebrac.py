"""ReBRAC as its authors' library (CORL) trains it, on a file of ours: does theirs learn from these data what ours does?

python benchmarks/peer_rebrac.py --peer FOLDER --data hopper-medium.hdf5 --task hopper --out peer-rebrac.jsonl

FOLDER: a checkout of CORL (nothing of it is in this repository). Its file runs as it is; d4rl, gym, wandb and pyrallis,
which no longer install together, are stood in for by what it uses of them. Needs flax, which tether does not.
One line of JSON for each 1,000 updates, and one for each evaluation.
"""

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import h5py
import jax
import numpy as np

from tether.environments import Task, get_task
from tether.environments.make import make_environment

EPOCH_UPDATES = 1000  # theirs


class OldEnvironment:
    """A gymnasium environment and a data file behind what their file calls of gym's and D4RL's interface of 2021."""

    def __init__(self, task: Task, path: Path):
        self.task, self.path, self.next_seed = task, path, 0
        self.environment = make_environment(task)
        self.action_space = self.observation_space = SimpleNamespace(seed=lambda seed: None)

    def get_dataset(self) -> dict[str, np.ndarray]:
        """The arrays of the file."""
        with h5py.File(self.path) as file:
            return {name: file[name][()] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}

    def seed(self, seed: int) -> None:
        """Episodes from here on start from seed + 1, seed + 2, ..."""
        self.next_seed = seed

    def reset(self) -> np.ndarray:
        """First observation."""
        self.next_seed += 1
        return self.environment.reset(seed=self.next_seed)[0]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict]:
        """(observation, reward, done, information)."""
        observation, reward, terminated, truncated, information = self.environment.step(action)
        return observation, float(reward), terminated or truncated, information

    def get_normalized_score(self, returns: np.ndarray) -> np.ndarray:
        """Of 1, as D4RL's."""
        return self.task.normalized_score(returns) / 100


def stand_in(task: Task, data: Path, out: Path) -> None:
    """Puts modules of the old names where their file's imports find them."""

    def log(record: dict[str, Any]) -> None:
        numbers = {name: float(np.asarray(value).reshape(-1)[0]) for name, value in record.items()}
        line = json.dumps({name: value for name, value in numbers.items() if np.isfinite(value)})
        print(line, flush=True)
        with out.open("a") as file:
            file.write(line + "\n")

    modules = {name: ModuleType(name) for name in ("d4rl", "gym", "pyrallis", "wandb")}
    modules["pyrallis"].wrap = lambda: lambda function: function
    modules["gym"].Env = object
    modules["gym"].make = lambda name: OldEnvironment(task, data)
    modules["gym"].wrappers = SimpleNamespace(TransformObservation=lambda environment, function: environment)
    modules["wandb"].init = lambda **settings: None
    modules["wandb"].mark_preempting = lambda: None
    modules["wandb"].log = log
    sys.modules |= modules
    jax.tree_map = jax.tree.map  # its name in the jax of then


def main() -> None:
    """Train theirs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="checkout of CORL")
    parser.add_argument("--data", type=Path, required=True, help="HDF5 file in D4RL's layout")
    parser.add_argument("--task", required=True, help="a MuJoCo locomotion task")
    parser.add_argument("--actor-penalty", type=float, default=0.01, help="beta_1; the default is for hopper-medium")
    parser.add_argument("--critic-penalty", type=float, default=0.001, help="beta_2")
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="file for the lines; must not exist")
    options = parser.parse_args()
    folder = options.peer / "algorithms" / "offline"
    if not (folder / "rebrac.py").exists():
        raise SystemExit(f"{folder}: no rebrac.py in it; give a checkout of CORL")
    if options.out.exists():
        raise SystemExit(f"{options.out}: exists")
    stand_in(get_task(options.task), options.data, options.out)
    sys.path.insert(0, str(folder))
    import rebrac  # pyright: ignore[reportMissingImports]

    config = rebrac.Config(
        dataset_name=options.task,
        actor_bc_coef=options.actor_penalty,
        critic_bc_coef=options.critic_penalty,
        num_epochs=options.updates // EPOCH_UPDATES,
        eval_every=10,
        eval_episodes=5,
        train_seed=options.seed,
    )
    rebrac.main(config)


if __name__ == "__main__":
    main()
