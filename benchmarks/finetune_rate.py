"""How much of the offline update rate is left while environments step beside the updates, one update for each step.

    python benchmarks/finetune_rate.py DATA [--environment TASK] [--algorithms iql,td3-bc,dtql,fql] [--env-steps 3000]

Every algorithm is trained on DATA for as many updates as it is then fine-tuned for, with its own sizes. Rates are those
of result.json: all lanes side by side, without compilation and evaluation. Run it on a quiet machine.
"""

import argparse
import tempfile
from pathlib import Path

import tether
from tether.algorithms.registry import make_algorithm
from tether.data import load_dataset
from tether.machine.cache import use_compilation_cache


def main() -> None:
    """Print a row for each algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--environment")
    parser.add_argument("--algorithms", default="iql,td3-bc,dtql,fql")
    parser.add_argument("--env-steps", type=int, default=3000)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="acting options while fine-tuning")
    arguments = parser.parse_args()
    use_compilation_cache()
    data, count = load_dataset(arguments.data), arguments.env_steps
    acting = dict(word.split("=", 1) for word in arguments.set)
    print(f"{'':<10}{'offline':>10}{'online':>10}{'share':>8}   updates per second, {arguments.lanes} lanes")
    for name in arguments.algorithms.split(","):
        lengths = {"train_updates": count}
        if "pretrain_updates" in make_algorithm(name, {}).__dataclass_fields__:
            lengths["pretrain_updates"] = 1
        options = tether.Options(eval_every_updates=10**9, eval_episodes=1, log_every_updates=1000)
        with tempfile.TemporaryDirectory() as scratch:
            how = {"quiet": True, "seeds": arguments.lanes, "environment": arguments.environment}
            offline = tether.train(
                make_algorithm(name, lengths), data, out=Path(scratch) / "offline", options=options, **how
            )
            online = tether.finetune(
                offline.folder,
                env_steps=count,
                eval_every_env_steps=10**9,
                out=Path(scratch) / "online",
                hyperparameters=acting if set(acting) <= set(make_algorithm(name, {}).__dataclass_fields__) else {},
                quiet=True,
            )
        rates = offline.updates_per_second, online.updates_per_second
        print(f"{name:<10}{rates[0]:>10.0f}{rates[1]:>10.0f}{rates[1] / rates[0]:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
