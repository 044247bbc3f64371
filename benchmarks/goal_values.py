"""What a run of FQL with chunks knows of the way to the goal of an OGBench puzzle: values some steps before each visit.

python -m benchmarks.goal_values RUN... --data puzzle-3x3-play-v0.npz --task puzzle-3x3-singletask-task1-v0

The data press buttons at random, so they come upon the goal now and then. A critic that has learnt the task values the
data's chunk, k steps before such a visit, at -(1 - discount^k) / (1 - discount), and a policy that has learnt it does
as well. One line of JSON for each run and k: medians over the visits of Q of the data's chunk, of the policy's and the
behaviour flow's (the mean and the best of 16), and how far policy and flow are apart in a coordinate, from equal noise.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

STEPS = (5, 10, 15, 20, 25, 30, 40)  # before the goal
DRAWS = 16
Decisions = tuple[np.ndarray, np.ndarray]
"""Observations (n, O) and the chunks (n, H A) that the data have there."""


def before_goals(data: Path, task: str, chunk: int) -> dict[int, Decisions]:
    """The decisions k steps before the visits of the task's goal, of those whose way there visits it nowhere else."""
    import gymnasium
    import ogbench  # noqa: F401  (registers its environments)

    environment = gymnasium.make(task, disable_env_checker=True)
    environment.reset()
    goal: Any = environment.unwrapped
    with np.load(data, allow_pickle=False) as file:
        columns = {name: file[name] for name in ("observations", "actions", "terminals", "button_states")}
    solved = (columns["button_states"] == goal._target_button_states).all(axis=1)
    ends = np.flatnonzero(columns["terminals"])
    starts = np.append(0, ends[:-1] + 1)
    start = np.repeat(starts, ends - starts + 1)  # of each row's episode
    visits = np.flatnonzero(solved[1:] & ~solved[:-1] & (start[1:] == start[:-1])) + 1
    found = {}
    for steps in STEPS:
        rows = [v - steps for v in visits if v - steps >= start[v] and not solved[v - steps : v].any()]
        chunks = np.stack([columns["actions"][np.array(rows) + i] for i in range(chunk)], axis=1)
        found[steps] = columns["observations"][rows], chunks.reshape(len(rows), -1)
    return found


def profile(
    decisions: dict[int, Decisions],
    value: Callable[[np.ndarray, np.ndarray], np.ndarray],
    policy: Callable[[np.ndarray], np.ndarray],
    flow: Callable[[np.ndarray], np.ndarray],
) -> list[dict[str, float]]:
    """A row for each number of steps.

    value: (n, O), (n, A) -> (n,). policy, flow: (n, O) -> (DRAWS, n, A), from the same noise.
    """
    rows = []
    for steps, (observations, chunks) in decisions.items():
        drawn = {"policy": policy(observations), "flow": flow(observations)}
        row = {"steps": steps, "visits": len(chunks), "data": float(np.median(value(observations, chunks)))}
        for name, actions in drawn.items():
            values = np.stack([value(observations, each) for each in actions])
            row[f"{name}_mean"] = float(np.median(values.mean(axis=0)))
            row[f"{name}_best"] = float(np.median(values.max(axis=0)))
        row["policy_from_flow"] = float(np.abs(drawn["policy"] - drawn["flow"]).mean())
        rows.append(row)
    return rows


def main() -> None:
    """Of runs of tether."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or checkpoints in them")
    parser.add_argument("--data", type=Path, required=True, help="OGBench's file")
    parser.add_argument("--task", required=True, help="id of its environment")
    options = parser.parse_args()
    import jax
    import jax.numpy as jnp

    import tether
    from tether.diffusion.flow import euler_flow
    from tether.runs.candidates import find_run, read_candidates

    for run in options.runs:
        config = json.loads((find_run(run)[0] / "config.json").read_text())
        decisions = before_goals(options.data, options.task, config["data"]["framing"]["chunk"])
        trained_on = tether.load_dataset(config["data"]["source"])
        for candidate in read_candidates(run, lambda folder, data=trained_on: data):
            state = candidate.state
            noise = jax.random.normal(jax.random.key(0), (DRAWS, next(iter(decisions.values()))[1].shape[1]))
            value = jax.jit(lambda o, a, q=state.critic: jax.vmap(q)(o, a).mean(axis=1))

            one_step, velocity = state.actors.one_step, state.actors.flow
            decide = {
                "policy": lambda z, o, net=one_step: jnp.clip(net(z, o, None), -1.0, 1.0),
                "flow": lambda z, o, net=velocity: euler_flow(net, z, o, 10, 1.0),
            }
            both = {name: jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None))) for name, one in decide.items()}
            drawn = {name: lambda o, act=act, noise=noise: np.asarray(act(noise, o)) for name, act in both.items()}
            for row in profile(decisions, value, drawn["policy"], drawn["flow"]):
                print(json.dumps({"run": candidate.name, "update": candidate.update} | row), flush=True)


if __name__ == "__main__":
    main()
