"""What a critic promises for its policy's actions, and what the simulator keeps of it.

python benchmarks/promised_and_kept.py RUN --states 24 --out benchmarks/results/promised-and-kept.json

The simulator is put into states of the data set and plays on from there with the run's newest policy. Beside that, what
the same critic says of the data's own action in that state, and what the data earned from there. All four are sums of
rewards as training saw them, discounted, over so many steps that nothing worth mentioning follows. Of each lane, with
the spread of what is promised over the states beside the spread of what is kept, how far the two agree, and how far the
heads of the critic lie apart (over rows of the data): targets that take the least of them lose that much at every step.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.data import Dataset, load_dataset
from tether.environments import Task
from tether.environments.make import make_environment, silent_mujoco
from tether.machine.files import atomic_write_json
from tether.ope.own_critic import find_critic
from tether.policies.acting import BestOfSamples
from tether.policies.deployed import DeployedPolicy, act_each
from tether.runs.config import restored_plan
from tether.runs.records import Display
from tether.runs.run import Run
from tether.training.lanes import take_lane

STEPS = 400  # 0.99^400 is 0.018
SAMPLED_ROWS = 4096
OUTSIDE = 1  # coordinates of the position that a MuJoCo locomotion task does not show: how far it has run


def put_into(environment: Any, observation: np.ndarray) -> None:
    """Of a MuJoCo locomotion task whose observation is position and velocity."""
    simulator = environment.unwrapped
    shown = simulator.model.nq - OUTSIDE
    position = np.concatenate([np.zeros(OUTSIDE), observation[:shown]])
    simulator.set_state(position, observation[shown:])


def play(task: Task, policy: DeployedPolicy, observations: np.ndarray, discount: float, seed: int) -> tuple:
    """(first actions, discounted returns, share that fell over) of one episode from each observation."""
    environments = [make_environment(task) for _ in observations]
    current, returns = observations.copy(), np.zeros(len(observations))
    running, first = np.ones(len(observations), bool), None
    key = jax.random.key(seed)
    with silent_mujoco():
        for environment, observation in zip(environments, observations, strict=True):
            environment.reset(seed=seed)
            put_into(environment, observation)
        for step in range(STEPS):
            key, draw = jax.random.split(key)
            actions = np.asarray(act_each(policy, jnp.asarray(current), jax.random.split(draw, len(current))))
            first = actions if first is None else first
            for i in np.flatnonzero(running):
                current[i], reward, terminated, _, _ = environments[i].step(actions[i])
                returns[i] += discount**step * float(reward)
                running[i] = not terminated
    for environment in environments:
        environment.close()
    return first, returns, float(np.mean(~running))


def measure(folder: Path, states: int, within: int, seed: int) -> Iterator[dict[str, Any]]:
    """The numbers of each lane of a run."""
    plan = restored_plan(folder, quiet=True)
    run = Run(plan, Display(True))
    if not run.restore():
        raise SystemExit(f"{folder}: no checkpoint")
    data = load_dataset(plan.prepared.record["source"])
    for lane in np.flatnonzero(run.alive).tolist():
        policy = run.policy(lane)
        critic = find_critic(take_lane(run.groups.take([lane]), 0)[1])
        if isinstance(policy.policy, BestOfSamples):
            critic = policy.policy.critic  # the one that it chooses by
        if critic is None:
            raise SystemExit(f"{folder}: {plan.algorithm_name} has no critic")
        yield {"run": folder.name, "lane": lane} | _measured(run, data, policy, critic, states, within, seed)


def _measured(
    run: Run, data: Dataset, policy: DeployedPolicy, critic: Any, states: int, within: int, seed: int
) -> dict[str, Any]:
    assert run.plan.task is not None
    plan, task, discount = run.plan, run.plan.task, float(run.plan.algorithm.discount)
    factor = plan.prepared.record["reward_transform"].get("factor", 1.0)
    episodes = zip(*data.complete_episodes(), strict=True)
    candidates = np.concatenate([np.arange(start, min(start + within, end - STEPS + 1)) for start, end in episodes])
    rows = np.random.default_rng(seed).choice(candidates, states, replace=False)
    observations, actions = data.observations[rows], data.actions[rows]
    by_data = np.array([discount ** np.arange(STEPS) @ data.rewards[row : row + STEPS] for row in rows])
    first, by_policy, fell = play(task, policy, observations, discount, seed)

    def heads(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        seen = (observations - np.asarray(policy.observation_mean)) / np.asarray(policy.observation_std)
        return np.asarray(jax.vmap(critic)(seen, actions))

    def text(values: np.ndarray) -> dict[str, float]:
        spread = float(values.std(ddof=1))
        return {"mean": float(values.mean()), "standard_error": spread / states**0.5, "standard_deviation": spread}

    promises = heads(observations, actions).mean(axis=1), heads(observations, first).mean(axis=1)
    sampled = np.random.default_rng(seed).choice(len(data.observations), SAMPLED_ROWS)
    of_data = heads(data.observations[sampled], data.actions[sampled])
    return {
        "algorithm": plan.algorithm_name,
        "dataset": data.name,
        "update": run.updates,
        "states": states,
        "within": within,
        "promised for the data's action": text(promises[0]),
        "kept by the data": text(by_data * factor),
        "mean of heads less the least, rows of the data": float(np.mean(of_data.mean(axis=1) - of_data.min(axis=1))),
        "promised for the policy's action": text(promises[1]),
        "kept by the policy": text(by_policy * factor),
        "correlation of promise and data": float(np.corrcoef(promises[0], by_data)[0, 1]),
        "correlation of promise and policy": float(np.corrcoef(promises[1], by_policy)[0, 1]),
        "distance of the two actions": text(np.linalg.norm(first - actions, axis=1)),
        "share that fell": fell,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--states", type=int, default=24)
    parser.add_argument("--within", type=int, default=1000, help="states of the first so many steps of an episode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for folder in arguments.runs:
        for row in measure(folder, arguments.states, arguments.within, arguments.seed):
            print(row)
            rows.append(row)
    command = " ".join(["python", "benchmarks/promised_and_kept.py", *sys.argv[1:]])
    atomic_write_json(arguments.out, {"command": command, "steps": STEPS, "results": rows})


if __name__ == "__main__":
    main()
