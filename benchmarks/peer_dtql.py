"""DTQL beside the authors' PyTorch code: an update of training, and an action chosen among 1024 candidates, on a CPU.

python benchmarks/peer_dtql.py --peer FOLDER --out benchmarks/results/peer-dtql.json [--threads 2] [--seconds 10]

FOLDER: a checkout of the authors' repository (it has no licence: nothing of it is in this one). Needs torch and einops,
which tether does not. Both train the same networks on the same synthetic data, batch 256, without the NLL term, and act
for one observation, NumPy in and NumPy out. Rounds of theirs and ours alternate in one process; beside the wall clock
stands the processor time of all threads, which other processes on the machine disturb less. With several threads this
needs an idle machine: where cores are wanted by others, PyTorch's threads wait for each other by spinning, and its
update costs fifty times as much. On a busy one compare with --threads 1.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

BATCH, CANDIDATES, ROWS = 256, 1024, 50_000
PAUSE_SECONDS = 0.5  # PyTorch's threads wait for more work by spinning, 0.2 s by default
SIZES = {"hopper": (11, 3), "halfcheetah": (17, 6)}  # observation, action


def keep_to_cores(count: int) -> None:
    """Before anything starts threads, one per core it finds."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:count]))


def their_agent(peer: Path, observation_size: int, action_size: int) -> tuple[Any, Any]:
    """The authors' agent and replay buffer, made as their main.py makes them."""
    import numpy as np
    import torch

    sys.path.insert(0, str(peer))
    from agents.dtql import DTQL  # pyright: ignore[reportMissingImports]
    from utils.data_sampler import Data_Sampler  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    data = {
        "observations": random.standard_normal((ROWS, observation_size), np.float32),
        "actions": random.uniform(-1, 1, (ROWS, action_size)).astype(np.float32),
        "next_observations": random.standard_normal((ROWS, observation_size), np.float32),
        "rewards": random.standard_normal(ROWS, np.float32),
        "terminals": np.zeros(ROWS, np.float32),
    }
    box = SimpleNamespace(high=np.ones(action_size, np.float32))
    agent = DTQL("cpu", observation_size, action_size, action_space=box, gamma=0.0, repeats=CANDIDATES)
    return agent, Data_Sampler(data, "cpu")


def check_same_networks(agent: Any, state: Any) -> dict[str, int]:
    """Number of parameters of each network, which must be those of ours."""
    import jax

    pairs = {
        "critic": (agent.critic, state.critic),
        "denoiser": (agent.bc_actor, state.denoiser),
        "actor": (agent.distill_actor, state.actor),
    }
    counts = {}
    for name, (theirs, ours) in pairs.items():
        counts[name] = sum(parameter.numel() for parameter in theirs.parameters())
        own = sum(leaf.size for leaf in jax.tree.leaves(ours))
        if own != counts[name]:
            raise SystemExit(f"{name}: theirs has {counts[name]} parameters, ours {own}: not the same network")
    return counts


def compare(peer: Path, observation_size: int, action_size: int, seconds: float) -> dict[str, Any]:
    """Rounds of training and of acting for one size."""
    import jax
    import numpy as np

    from tether.algorithms import DTQL
    from tether.bench import BenchOptions
    from tether.bench.acting import untrained_policy
    from tether.bench.counting import synthetic
    from tether.bench.rounds import alternate
    from tether.bench.training import phase_program
    from tether.data.views import View

    settings = BenchOptions(BATCH, observation_size, action_size)
    algorithm, spec = DTQL(q_normalization="none"), settings.spec
    agent, sampler = their_agent(peer, observation_size, action_size)
    counts = check_same_networks(agent, algorithm.init(spec, jax.random.key(0)))
    data = synthetic(View(), spec, jax.random.key(1))
    policy = untrained_policy("dtql", algorithm, spec)
    policy.compile()
    observation = np.zeros(observation_size, np.float32)

    def repeat(call: Any) -> Any:
        def run(count: int) -> None:
            for _ in range(count):
                call()

        return run

    training = {
        "theirs": repeat(lambda: agent.train(sampler, batch_size=BATCH)),
        "ours": phase_program(algorithm, 1, settings, 1, data).run,
    }
    acting = {"theirs": repeat(lambda: agent.sample_action(observation)), "ours": repeat(lambda: policy(observation))}
    pairs = {"train": training, "act": acting}
    found = {what: alternate(pair, seconds, pause_seconds=PAUSE_SECONDS) for what, pair in pairs.items()}
    return {
        "sizes": {"batch_size": BATCH, "observation_size": observation_size, "action_size": action_size},
        "parameters": counts,
        **{what: summary(rounds) for what, rounds in found.items()},
    }


def summary(rounds: dict[str, list[Any]]) -> dict[str, Any]:
    """Milliseconds of both and how many times ours goes into theirs, by the wall clock and by processor time."""
    result: dict[str, Any] = {"candidates": CANDIDATES}
    for clock in ("wall", "processor"):
        theirs, ours = ([1e3 * getattr(t, clock) for t in rounds[who]] for who in ("theirs", "ours"))
        ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
        result[clock] = {
            "theirs_milliseconds": statistics.median(theirs),
            "ours_milliseconds": statistics.median(ours),
            "ratio": statistics.median(ratios),
            "ratio_by_round": ratios,
        }
    return result


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="checkout of the authors' repository")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args()
    if not (options.peer / "agents" / "dtql.py").exists():
        raise SystemExit(f"{options.peer}: no agents/dtql.py in it; give a checkout of the authors' repository")
    keep_to_cores(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # else as many as the machine has
    import torch

    torch.set_num_threads(options.threads)
    from tether.bench.options import BenchOptions, describe_run
    from tether.machine.files import atomic_write_json

    command = "python benchmarks/peer_dtql.py --peer FOLDER " + " ".join(sys.argv[3:])
    run = describe_run(BenchOptions(), command)
    run["versions"] |= {"torch": torch.__version__}
    figures: dict[str, Any] = {"run": run, "threads": options.threads, "load": os.getloadavg(), "results": {}}
    for name in options.sizes:
        figures["results"][name] = compare(options.peer, *SIZES[name], options.seconds)
        for what in ("train", "act"):
            for clock in ("wall", "processor"):
                row = figures["results"][name][what][clock]
                both = f"{row['theirs_milliseconds']:.2f} ms theirs, {row['ours_milliseconds']:.2f} ms ours"
                print(f"{name} {what} {clock}: {both}, ratio {row['ratio']:.2f}", flush=True)
        if options.out is not None:
            atomic_write_json(options.out, figures)


if __name__ == "__main__":
    main()
