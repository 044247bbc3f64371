"""How much of the offline update rate is left while environments step beside the updates, one update for each step.

    python benchmarks/finetune_rate.py DATA --environment Pendulum-v1 [--algorithms iql,td3-bc,dtql,fql] [--rounds 20]

Pieces of 20 updates in turn, without and with the 20 steps of each lane's environment that the next piece needs: the
same program on the same rows. Medians over rounds of wall clock, and means of processor time, which other processes on
the machine disturb less. A share is offline over online: 1 where collecting costs nothing.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tether
from tether.algorithms.registry import make_algorithm
from tether.data import Dataset, load_dataset
from tether.machine.cache import use_compilation_cache
from tether.runs.finetuning import PIECE_STEPS, FinetuningRun
from tether.runs.parent import FinetuneRequest, plan_finetuning
from tether.runs.records import Display
from tether.runs.run import Run


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, processor) milliseconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)


def begun(name: str, data: Dataset, arguments: argparse.Namespace, scratch: Path) -> FinetuningRun:
    """A fine-tuning run that has taken its first steps."""
    lengths = [field for field in make_algorithm(name, {}).__dataclass_fields__ if field.endswith("_updates")]
    short = {field: 5 for field in lengths if field in ("train_updates", "pretrain_updates")}
    options = tether.Options(eval_every_updates=10**9, eval_episodes=1)
    how = {"options": options, "seeds": arguments.lanes, "environment": arguments.environment, "quiet": True}
    folder = tether.train(make_algorithm(name, short), data, out=scratch / name, **how).folder
    steps = (arguments.rounds + 3) * PIECE_STEPS
    plan = plan_finetuning(folder, FinetuneRequest(env_steps=steps), scratch / "online", True, data)
    run = FinetuningRun(plan, Display(True))
    run.begin_collecting()
    return run


def main() -> None:
    """Print a row for each algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--environment")
    parser.add_argument("--algorithms", default="iql,td3-bc,dtql,fql")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--lanes", type=int, default=1)
    arguments = parser.parse_args()
    use_compilation_cache()
    data = load_dataset(arguments.data)
    print(f"{'':<10}{'wall ms':>9}{'online':>9}{'share':>7}{'processor ms':>14}{'online':>9}{'share':>7}")
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.algorithms.split(","):
            run = begun(name, data, arguments, Path(scratch))
            pieces: tuple[list[tuple[float, float]], ...] = ([], [])
            for _ in range(arguments.rounds + 1):
                pieces[0].append(timed(lambda run=run: Run.update_lanes(run, run.alive, PIECE_STEPS)))
                pieces[1].append(timed(lambda run=run: run.update_lanes(run.alive, PIECE_STEPS)))
                run.position = run.position._replace(update=run.position.update + PIECE_STEPS)
            assert run.collector.steps == (arguments.rounds + 2) * PIECE_STEPS
            run.collector.close()
            (wall, online_wall), (processor, online_processor) = (
                [summary([piece[kind] for piece in own[1:]]) for own in pieces]  # the first ones compile
                for kind, summary in enumerate((statistics.median, statistics.fmean))
            )
            print(
                f"{name:<10}{wall:>9.0f}{online_wall:>9.0f}{wall / online_wall:>7.2f}"
                f"{processor:>14.0f}{online_processor:>9.0f}{processor / online_processor:>7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
