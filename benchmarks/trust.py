"""Whether trust keeps its promise: 1 % of the data's own decisions are flagged, foreign ones nearly always.

    python benchmarks/trust.py SOURCE ... [--seeds 5] [--out benchmarks/results/trust.json]

Of each set a quarter of the episodes (of fewer than 40 episodes: of their stretches) is left out; the rest is all that
trust is fitted to and calibrated on. Then are judged:

    held_out   the decisions left out: 1 % shall be flagged
    shifted    their observations with one column, drawn at random, moved by 5 deviations up or down: above 95 %
    uniform    their observations with actions drawn uniformly from the range: above 95 %
    exchanged  their observations with the actions of other rows: what nobody did there, though it is done elsewhere

`reactor` is a plant of this file, logged by operators who set a pump and a valve. A source is otherwise anything that
`tether data show` takes; of a path the name alone is kept.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from tether._version import __version__
from tether.data import Dataset, load_dataset
from tether.data.decisions import FEWEST_EPISODES, STRETCHES, sample_decisions
from tether.data.schema import ActionBox, Schema, layout_of
from tether.machine.files import atomic_write_json
from tether.trust import calibrate, score, threshold

START = -60  # steps before the log of a batch begins
TEST_SHARE, MOST_ROWS, SHARE, DEVIATIONS = 0.25, 10_000, 0.01, 5.0


def reactor(episodes: int = 600, steps: int = 80, seed: int = 0) -> Dataset:
    """Batches in a stirred tank with a cooling jacket: temperature, jacket, concentration, level, feed, set point.

    Two shifts of operators, one quick and one careful, follow the set point with a pump and a valve.
    """
    random = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"observations": [], "actions": []}
    for _ in range(episodes):
        quick = random.random() < 0.5
        temperature, jacket, concentration, level = random.normal([22.0, 18.0, 0.8, 1.0], [2.0, 1.0, 0.1, 0.05])
        target, feed = random.uniform(18.0, 26.0), random.normal(1.0, 0.05)
        for step in range(START, steps):
            target += 3.0 * random.normal() * (random.random() < 0.02)
            feed = 0.98 * feed + 0.02 + 0.01 * random.normal()
            error = temperature - target
            pump = 450 + (25 if quick else 10) * error + 4 * random.normal()
            valve = 40 + (6 if quick else 2) * (1.0 - level) * 20 + 0.8 * random.normal()
            pump, valve = float(np.clip(pump, 300, 600)), float(np.clip(valve, 0, 100))
            if step >= 0:
                rows["observations"].append([temperature, jacket, concentration, level, feed, target])
                rows["actions"].append([pump, valve])
            heat = 3.0 * concentration * np.exp(0.06 * (temperature - 22.0))
            jacket += 0.1 * (15.0 - jacket) + 0.05 * (temperature - jacket) - 0.004 * (pump - 450)
            temperature += 0.1 * (jacket - temperature) + 0.15 * heat + 0.05 * random.normal()
            concentration += 0.05 * (feed - concentration) - 0.01 * heat + 0.005 * random.normal()
            level += 0.002 * (valve - 40) - 0.02 * (level - 1.0) + 0.003 * random.normal()
    box = ActionBox((300.0, 0.0), (600.0, 100.0))
    columns = ("T_reactor_C", "T_jacket_C", "c_A", "level_m", "feed", "T_set_C")
    ends = np.arange(1, episodes * steps + 1) % steps == 0
    return Dataset.from_arrays(
        observations=np.array(rows["observations"]),
        actions=box.to_unit(np.array(rows["actions"])),
        rewards=np.zeros(len(ends)),
        terminals=np.zeros(len(ends), bool),
        timeouts=ends,
        name="reactor",
    ).replace(schema=Schema(layout_of(dict.fromkeys(columns, 1)), layout_of({"pump_rpm": 1, "valve": 1}), box))


def cut(dataset: Dataset, random: np.random.Generator) -> tuple[Dataset, np.ndarray]:
    """What trust is made of, and the rows left out."""
    starts, ends, _ = dataset.episode_bounds()
    pieces = np.repeat(np.arange(len(starts)), ends - starts)
    if len(starts) < FEWEST_EPISODES:
        pieces = np.arange(len(dataset)) * STRETCHES // len(dataset)
    left_out = random.permutation(pieces.max() + 1)[: round(TEST_SHARE * (pieces.max() + 1))]
    out = np.isin(pieces, left_out)
    return dataset.select(np.flatnonzero(~out)), np.flatnonzero(out)


def measure(dataset: Dataset, seed: int) -> dict[str, Any]:
    """A row: shares of flagged decisions, and seconds."""
    random = np.random.default_rng(seed)
    rest, rows = cut(dataset, random)
    rows = np.sort(random.permutation(rows)[:MOST_ROWS])
    decisions = sample_decisions(rest)
    assert decisions is not None
    started, used = time.perf_counter(), time.process_time()
    calibrated = calibrate(decisions)
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    support, limit = calibrated.support, threshold(calibrated.support, SHARE)
    observation, action = dataset.observations[rows], dataset.actions[rows]
    deviation = rest.observations.std(axis=0)
    column = random.choice(np.flatnonzero(deviation > 0), len(rows))
    shifted = observation.copy()
    shifted[np.arange(len(rows)), column] += DEVIATIONS * random.choice([-1, 1], len(rows)) * deviation[column]
    uniform = random.uniform(-1, 1, action.shape).astype(np.float32)
    asked = {
        "held_out": (observation, action),
        "shifted": (shifted, action),
        "uniform": (observation, uniform),
        "exchanged": (observation, random.permutation(action)),
    }
    found = {name: float(np.mean(score(support, *each).total > limit)) for name, each in asked.items()}
    one = observation[:1], action[:1]
    times = []
    for _ in range(50):
        begun = time.perf_counter()
        score(support, *one)
        times.append(time.perf_counter() - begun)
    return {
        "seed": seed,
        **found,
        "calibrated": len(support.calibration),
        "pieces": calibrated.pieces,
        "stretch_rows": calibrated.stretch_rows,
        "calibrate_seconds": seconds,
        "calibrate_processor_seconds": processor,
        "decision_microseconds": 1e6 * float(np.median(times)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/trust.json"))
    options = parser.parse_args()
    document = json.loads(options.out.read_text()) if options.out.exists() else {"share": SHARE, "sets": {}}
    document["tether"] = __version__
    for source in options.sources:
        dataset = reactor() if source == "reactor" else load_dataset(source)
        rows = [measure(dataset, seed) for seed in range(options.seeds)]
        counts = {"rows": len(dataset), "episodes": len(dataset.episode_bounds().starts)}
        document["sets"][Path(source).stem if "/" in source else source] = counts | {"splits": rows}
        atomic_write_json(options.out, document)
        means = {name: np.mean([row[name] for row in rows]) for name in ("held_out", "shifted", "uniform", "exchanged")}
        spread = np.std([row["held_out"] for row in rows])
        words = ", ".join(f"{name} {100 * mean:.2f} %" for name, mean in means.items())
        print(f"{source}: {words}; held out from split to split +- {100 * spread:.2f}", flush=True)


if __name__ == "__main__":
    main()
