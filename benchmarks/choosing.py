"""How well `tether choose` ranks policies whose true returns are known, beside d3rlpy's fitted Q evaluation and beside
the critic that each policy was trained with.

python benchmarks/choosing.py make   --out DIR [--data FOLDER] [SET ...]   # data, 12 policies each, their true returns
python benchmarks/choosing.py judge  --out DIR [SET ...]                   # what `tether choose` says of them
python benchmarks/peer_fqe.py        --out DIR [SET ...]                   # the same by d3rlpy, in its own environment
python benchmarks/choosing.py table  --out DIR [--rows benchmarks/results/choosing.csv]
python benchmarks/choosing.py cost   --out DIR SET                         # seconds of 12 policies and of one

FOLDER: where hopper-medium.hdf5 and its like lie; without it only the sets that need no file are made. Every set has
the checkpoints of six runs, early and late, small networks: bc, td3-bc held close to the data and hardly held, iql,
dtql, awac. Their true returns are the means of `EPISODES` episodes.

Measures, for each set: Spearman's rank correlation of values and true returns; regret at k, the best true return less
the best among the k highest values, as a share of the range of the true returns; coverage, the share of 90 % intervals
that hold the true discounted value; whether `choose` ranks or abstains. Abstentions are also looked at on every triple
and quadruple of a set's policies, of which there are enough to compare the regret of a forced choice.
"""

import argparse
import csv
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box

import tether
from tether.environments.make import bare_environment, silent_mujoco
from tether.environments.tasks import get_task

EPISODES, DISCOUNT = 20, 0.99
TAIL_STEPS = 500  # of a discounted value: 0.99^500 is below 0.01
EARLY, LATE = 500, 5000  # updates


# --- a process simulator ------------------------------------------------------------------------------------


class Reactor(gymnasium.Env):
    """A stirred tank in which A becomes B and heats it: feed faster to make more, cool or it runs away.

    Observation, in physical units: concentration of A in the tank (mol/l), its temperature (K), concentration and
    temperature of the feed, which drift. Action: feed (l/min), coolant's temperature (K). Pays for what is made, less
    cooling and less what is above 365 K; beyond 400 K it is over. Balances and constants are those of the textbooks'
    continuous stirred tank with a first-order exothermic reaction; a step is 0.1 minutes.
    """

    lowest, highest = np.array([60, 280], np.float32), np.array([140, 320], np.float32)  # actions
    observation_space = Box(np.array([0, 250, 0, 250], np.float32), np.array([2, 450, 2, 450], np.float32))
    action_space = Box(lowest, highest)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._state = np.array([self.np_random.uniform(0.3, 0.9), self.np_random.uniform(320, 355), 1.0, 350.0])
        return self._state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        feed, coolant = np.clip(action, self.lowest, self.highest).astype(float)
        concentration, temperature, fed, warm = self._state
        made = 0.0
        for _ in range(10):  # Euler's steps of 0.01 minutes
            rate = 7.2e10 * np.exp(-8750.0 / temperature) * concentration
            concentration += 0.01 * (feed / 100 * (fed - concentration) - rate)
            temperature += 0.01 * (feed / 100 * (warm - temperature) + 209.2 * rate + 2.092 * (coolant - temperature))
            temperature, made = min(temperature, 420.0), made + 0.01 * rate * 100
        fed = 1.0 + 0.95 * (fed - 1.0) + 0.02 * self.np_random.normal()
        warm = 350.0 + 0.95 * (warm - 350.0) + 0.8 * self.np_random.normal()
        self._state = np.array([max(concentration, 0.0), temperature, fed, warm])
        over = max(0.0, temperature - 365.0) / 10.0
        reward = made / 5 - 0.01 * abs(300 - coolant) - over**2
        return self._state.astype(np.float32), float(reward), bool(temperature > 400), False, {}


def run_reactor(random: np.random.Generator, skill: float) -> Callable[[np.ndarray], np.ndarray]:
    """An operator: holds a temperature by the coolant, with a habit of how much to feed; skill from 0 to 1."""
    target, gain = random.uniform(335, 352), random.uniform(0.5, 3.0)
    feed, noise = random.uniform(75, 95 + 30 * skill), random.uniform(0.5, 6.0) * (1.3 - skill)

    def act(observation: np.ndarray) -> np.ndarray:
        coolant = 300 + gain * (target - observation[1]) + noise * random.normal()
        return np.array([feed + noise * random.normal(), coolant])

    return act


def swing_up(random: np.random.Generator, skill: float) -> Callable[[np.ndarray], np.ndarray]:
    """Pendulum: pumps energy, then holds it upright, with a noise that skill takes away."""
    gain, noise = random.uniform(0.3, 1.2), random.uniform(0.1, 1.5) * (1.2 - skill)

    def act(observation: np.ndarray) -> np.ndarray:
        cosine, sine, speed = observation
        energy = speed**2 / 6 + 5 * cosine
        hold = -12.0 * np.arctan2(sine, cosine) - 3.0 * speed
        pump = gain * (5 - energy) * np.sign(speed) * skill
        return np.array([(hold if cosine > 0.85 else pump) + noise * random.normal()])

    return act


def logged(
    name: str, make: Callable[[], gymnasium.Env], operator: Callable[..., Any], skills: tuple[float, float], steps: int
) -> tether.Dataset:
    """200 episodes of operators whose skill is drawn between two bounds."""
    random, environment, episodes = np.random.default_rng(0), make(), []
    space: Any = environment.action_space
    low, high = space.low.tolist(), space.high.tolist()
    for number in range(200):
        act, rows = operator(random, random.uniform(*skills)), []
        observation, over = environment.reset(seed=number)[0], False
        while len(rows) < steps and not over:
            action = np.clip(act(observation), low, high).astype(np.float32)
            following, reward, over, *_ = environment.step(action)
            rows.append((observation, action, reward, over))
            observation = following
        columns = {key: np.array(values) for key, values in zip(NAMES, zip(*rows, strict=True), strict=True)}
        episodes.append(columns | {"observations": np.append(columns["observations"], observation[None], axis=0)})
    return tether.Dataset.from_episodes(episodes, name=name, action_low=low, action_high=high)


NAMES = ("observations", "actions", "rewards", "terminals")


# --- sets ---------------------------------------------------------------------------------------------------


class Set(NamedTuple):
    """Data, and where their policies truly play."""

    data: Callable[[Path | None], tether.Dataset]
    make: Callable[[], gymnasium.Env]  # without a time limit
    steps: int  # of an episode


def _file(name: str) -> Set:
    def load(folder: Path | None) -> tether.Dataset:
        return tether.load_dataset(name if folder is None or name.endswith("small") else str(folder / f"{name}.hdf5"))

    return Set(load, lambda: bare_environment(get_task(name)), 1000)


def _own(name: str, make: Callable[[], gymnasium.Env], operator: Any, skills: tuple[float, float], steps: int) -> Set:
    return Set(lambda folder: logged(name, make, operator, skills, steps), make, steps)


def pendulum() -> gymnasium.Env:
    return gymnasium.make("Pendulum-v1").unwrapped


FILES = ("halfcheetah-medium", "hopper-medium", "hopper-medium-replay", "hopper-medium-expert")
SETS: dict[str, Set] = {
    "pendulum-mixed": _own("pendulum-mixed", pendulum, swing_up, (0.0, 1.0), 200),
    "pendulum-poor": _own("pendulum-poor", pendulum, swing_up, (0.0, 0.4), 200),
    "reactor-mixed": _own("reactor-mixed", Reactor, run_reactor, (0.0, 1.0), 100),
    "reactor-narrow": _own("reactor-narrow", Reactor, run_reactor, (0.7, 1.0), 100),
    "halfcheetah-medium-replay-small": _file("halfcheetah-medium-replay-small"),
    **{name: _file(name) for name in FILES},
}


def algorithms() -> dict[str, Any]:
    """Small networks: what is compared is how well policies are ranked, not how good they are."""
    small: dict[str, Any] = {"hidden_sizes": (64, 64), "train_updates": LATE}
    return {
        "bc": tether.BC(**small),
        "td3-bc": tether.TD3BC(**small),
        "td3-bc-bold": tether.TD3BC(q_weight=25.0, **small),
        "iql": tether.IQL(**small),
        "dtql": tether.DTQL(**small, denoiser_hidden_sizes=(64, 64), candidates=8, pretrain_updates=500),
        "awac": tether.AWAC(**small),
    }


# --- making -------------------------------------------------------------------------------------------------


class KeepEarly(tether.Callback):
    """Keeps the checkpoint after `EARLY` updates, which the run would replace."""

    def on_checkpoint(self, path: Path, phase: str, update: int) -> None:
        import shutil

        if (phase, update) == ("train", EARLY):
            shutil.copytree(path, path.parents[1] / "kept" / path.name)


def make(folder: Path, name: str, files: Path | None) -> None:
    """Runs in FOLDER/NAME/ALGORITHM, true returns in FOLDER/NAME/truth.json."""
    place, what = folder / name, SETS[name]
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "data.hdf5").exists():
        what.data(files).to_hdf5(place / "data.hdf5")
    data = tether.load_dataset(str(place / "data.hdf5"))
    for label, algorithm in algorithms().items():
        if not (place / label / "result.json").exists():
            started = time.perf_counter()
            options = tether.Options(batch_size=128, checkpoint_every_updates=EARLY, log_every_updates=LATE)
            how: dict[str, Any] = {"environment": "none", "observation_transform": "standardise", "quiet": True}
            tether.train(algorithm, data, options=options, out=place / label, callbacks=[KeepEarly()], **how)
            print(f"{name} {label}: trained in {time.perf_counter() - started:.0f} s", flush=True)
    truth_file = place / "truth.json"
    truth = json.loads(truth_file.read_text()) if truth_file.exists() else {}
    for path in candidates(place):
        if str(path.relative_to(place)) not in truth:
            started = time.perf_counter()
            truth[str(path.relative_to(place))] = played(path, what)
            truth_file.write_text(json.dumps(truth, indent=1))
            print(f"{name} {path.relative_to(place)}: {time.perf_counter() - started:.0f} s", flush=True)


def candidates(place: Path) -> list[Path]:
    """Checkpoints of a set: two of each run."""
    early = [place / label / "kept" / f"train-{EARLY:09d}" for label in algorithms()]
    return early + [place / label / "checkpoints" / f"train-{LATE:09d}" for label in algorithms()]


def played(path: Path, what: Set) -> dict[str, float]:
    """True mean return of a checkpoint's policy, its discounted value, and their standard errors."""
    policy = policy_of(path)
    environments = [what.make() for _ in range(EPISODES)]
    with silent_mujoco():
        observations = np.stack([env.reset(seed=1000 + i)[0] for i, env in enumerate(environments)]).astype(np.float32)
        returns, values, running = np.zeros(EPISODES), np.zeros(EPISODES), np.ones(EPISODES, bool)
        for step in range(max(what.steps, TAIL_STEPS)):
            actions = policy(observations)
            for i in np.flatnonzero(running):
                observation, reward, terminated, *_ = environments[i].step(actions[i])
                observations[i], running[i] = observation, not terminated
                returns[i] += float(reward) if step < what.steps else 0.0
                values[i] += DISCOUNT**step * float(reward)
            if not running.any():
                break
    error = EPISODES**-0.5
    return {
        "return": float(returns.mean()),
        "return_error": float(returns.std(ddof=1)) * error,
        "value": float(values.mean()),
        "value_error": float(values.std(ddof=1)) * error,
    }


def policy_of(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A checkpoint's policy, as its environment takes actions."""
    import jax

    from tether.policies.deployed import act_each
    from tether.runs.candidates import find_run, read_candidates

    (candidate,) = read_candidates(path, lambda folder: data_of(find_run(path)[0].parent))
    keys = iter(jax.random.split(jax.random.key(1), 2000))
    return lambda seen: np.asarray(act_each(candidate.policy, seen, jax.random.split(next(keys), len(seen))))


def data_of(place: Path) -> tether.Dataset:
    """A set's data, read once."""
    if place not in _READ:
        _READ[place] = tether.load_dataset(str(place / "data.hdf5"))
    return _READ[place]


_READ: dict[Path, tether.Dataset] = {}


# --- judging ------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """What is needed to judge a set's policies, in files that can be read again."""

    candidates: list[Any]
    evidence: Any
    decisions: dict[str, Any]


def decided(place: Path) -> Judged:
    """The candidates' decisions on a set's data, sampled once and kept in decisions.npz, which the peer reads."""
    from tether.ope.decisions import Decisions, decisions_of
    from tether.ope.evidence import evidence_of, value_scale
    from tether.runs.candidates import read_candidates

    data, found = data_of(place), []
    for path in candidates(place):
        (one,) = read_candidates(path, lambda folder: data)
        found.append(dataclasses.replace(one, name=str(path.relative_to(place))))
    evidence, file = evidence_of(data, DISCOUNT, ROWS), place / "decisions.npz"
    if not file.exists():
        each = [decisions_of(one.policy, evidence, data) for one in found]
        columns = {name: np.stack([getattr(d, name) for d in each]) for name in Decisions._fields}
        rows = {name: np.asarray(getattr(evidence.rows, name)) for name in ROW_COLUMNS}
        scale = value_scale(evidence)
        arrays: dict[str, Any] = {**columns, **rows, "scale": scale}
        np.savez(file, **arrays, first_observation=evidence.first_observation)
    arrays = np.load(file)
    columns = [arrays[name] for name in Decisions._fields]
    return Judged(
        found, evidence, {c.name: Decisions(*d) for c, d in zip(found, zip(*columns, strict=True), strict=True)}
    )


ROWS = 100_000
ROW_COLUMNS = ("observation", "action", "reward", "next_observation", "terminal")


def judge(folder: Path, name: str, **changes: Any) -> Any:
    """What `tether choose` answers for a set, in FOLDER/NAME/choice.json."""
    from tether.machine.files import atomic_write_json
    from tether.ope.decisions import evaluation_data
    from tether.ope.fitted_q import FittedQ, fit_values
    from tether.studies.choose import judge as answer

    place = folder / name
    found, evidence, decisions = decided(place)
    data, scale = evaluation_data(evidence, list(decisions.values()))
    how, started = FittedQ(discount=DISCOUNT, **changes), time.perf_counter()
    values = fit_values(how, data)
    seconds = time.perf_counter() - started
    np.savez(place / "values.npz", first=values.first * scale, returns=evidence.returns)
    choice = answer(found, evidence, decisions, {}, values, scale, name, {"fqe_seconds": seconds})
    atomic_write_json(place / "choice.json", choice.to_json())
    print(f"{name}: fitted in {seconds:.0f} s\n{choice}", flush=True)
    return choice


def cost(folder: Path, name: str) -> None:
    """Seconds of fitted Q evaluation of 12 policies and of one, compilation left out."""
    from tether.ope.decisions import evaluation_data
    from tether.ope.fitted_q import FittedQ, fit_values

    _, evidence, decisions = decided(folder / name)
    evidence = evidence._replace(rows=evidence.rows._replace(next_action=None))  # without the log's own policy
    some = dict(list(decisions.items())[:1])
    seconds: dict[int, list[float]] = {1: [], len(decisions): []}
    for _ in range(3):
        for asked in (some, decisions):
            data, _ = evaluation_data(evidence, list(asked.values()))
            fit_values(how := FittedQ(updates=2048), data)  # compiled, unless it is already
            started = time.perf_counter()
            fit_values(how, data)
            seconds[len(asked)].append(time.perf_counter() - started)
    one, all_of_them = min(seconds[1]), min(seconds[len(decisions)])
    print(f"{name}: 2,048 updates of 5 members: 1 policy {one:.1f} s, {len(decisions)} policies {all_of_them:.1f} s: "
          f"{all_of_them / one:.2f} times")  # fmt: skip


# --- the table ----------------------------------------------------------------------------------------------


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def correlation(values: np.ndarray, truth: np.ndarray) -> float:
    """Spearman's; 0 where one of both does not vary."""
    found = np.corrcoef(ranks(values), ranks(truth))[0, 1]
    return float(found) if np.isfinite(found) else 0.0


def regret(values: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Of the best among the k highest, as a share of the range."""
    chosen = np.argsort(-values)[:k]
    return float((truth.max() - truth[chosen].max()) / np.ptp(truth))


def measured(place: Path) -> list[dict[str, Any]]:
    """A row for each method of judging."""
    truth = json.loads((place / "truth.json").read_text())
    choice = json.loads((place / "choice.json").read_text())
    by_name = {row["name"]: row for row in choice["rows"]}
    names = list(truth)
    returns = np.array([truth[name]["return"] for name in names])
    order = [row["name"] for row in choice["rows"]]  # by value, those that a gate refused last
    judged: dict[str, list[float]] = {"tether choose": [-order.index(name) for name in names]}
    judged["tether, values without gates"] = [by_name[name]["value"] for name in names]
    own = [by_name[name]["own_critic"] for name in names]
    judged["highest own critic"] = [-np.inf if value is None else value for value in own]  # bc has none
    if (peer := place / "peer.json").exists():
        values = json.loads(peer.read_text())["values"]
        judged["d3rlpy FQE"] = [values[name] for name in names]
    rows = []
    for method, numbers in judged.items():
        values = np.array(numbers, float)
        row = {"set": place.name, "method": method, "policies": len(names)}
        row |= {"spearman": correlation(values, returns)}
        row |= {f"regret_{k}": regret(values, returns, k) for k in (1, 3)}
        row |= {"range": float(np.ptp(returns)), "coverage": "", "answer": "", "seconds": ""}
        if method == "tether choose":
            inside = [by_name[n]["low"] <= truth[n]["value"] <= by_name[n]["high"] for n in names]
            row |= {"coverage": float(np.mean(inside)), "seconds": choice["settings"]["fqe_seconds"]}
            row["answer"] = choice["recommended"] or "cannot rank"
        rows.append(row)
    return rows


def table(folder: Path, out: Path | None) -> None:
    """All sets, their means, and what abstaining is worth."""
    rows = [row for place in sorted(folder.iterdir()) if (place / "choice.json").exists() for row in measured(place)]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        mean = {key: float(np.mean([row[key] for row in own])) for key in ("spearman", "regret_1", "regret_3")}
        cover = [row["coverage"] for row in own if row["coverage"] != ""]
        rows.append(
            {"set": f"mean of {len(own)}", "method": method, **mean, "coverage": np.mean(cover) if cover else ""}
        )
    for row in rows:
        print("  ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    for line in abstentions(folder):
        print(line)
    if out is not None:
        with out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), restval="")
            writer.writeheader()
            writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def abstentions(folder: Path) -> Iterator[str]:
    """Every three and every four of a set's policies: the regret of the highest value where `choose` recommends one of
    them, and where it abstains."""
    from tether.ope.fitted_q import Values
    from tether.ope.ranking import rank
    from tether.studies.choose import verdict

    answered: dict[bool, list[float]] = {True: [], False: []}
    for place in sorted(folder.iterdir()):
        if not (place / "choice.json").exists():
            continue
        truth, saved = json.loads((place / "truth.json").read_text()), np.load(place / "values.npz")
        choice = json.loads((place / "choice.json").read_text())
        passing = {row["name"] for row in choice["rows"] if not row["refused"]}
        returns, names = np.array([each["return"] for each in truth.values()]), list(truth)
        ranking = rank(Values(saved["first"], np.zeros(1), 0.0), known=choice["behaviour"])
        for size in (3, 4):
            for few in itertools.combinations([i for i, name in enumerate(names) if name in passing], size):
                among = np.isin(np.arange(len(ranking.value)), few)
                recommended, _ = verdict(ranking, among, [*names, "log"], None)
                chosen = few[int(np.argmax(ranking.value[list(few)]))]
                lost = (returns[list(few)].max() - returns[chosen]) / np.ptp(returns[list(few)])
                answered[recommended is not None].append(float(lost))
    for ranked, lost in answered.items():
        words = "recommended" if ranked else "abstained"
        mean = np.mean(lost) if lost else np.nan
        yield f"{words}: {len(lost)} choices among 3 or 4, mean regret of the highest value, of their range: {mean:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("verb", choices=("make", "judge", "table", "cost"))
    parser.add_argument("sets", nargs="*", help=", ".join(SETS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--rows", type=Path, default=None)
    given = parser.parse_intermixed_args()  # sets may stand last
    if given.verb == "table":
        return table(given.out, given.rows)
    sets = given.sets or [name for name in SETS if name not in FILES or given.data is not None]
    for name in sets:
        make(given.out, name, given.data) if given.verb == "make" else {"judge": judge, "cost": cost}[given.verb](
            given.out, name
        )
    return None


if __name__ == "__main__":
    main()
