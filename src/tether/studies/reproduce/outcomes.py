"""From run folders to verdicts: scores at the published updates, what they are compared with, what must be said."""

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.algorithms import ALGORITHMS
from tether.algorithms.registry import hyperparameters_of
from tether.data.hdf5 import open_hdf5
from tether.data.readers.ogbench import PROVENANCE, locate_ogbench
from tether.data.schema import COLLECT_KEY
from tether.environments.choose import NO_ENVIRONMENT
from tether.environments.names import is_single_task, without_version
from tether.environments.tasks import find_task
from tether.errors import InputError
from tether.presets.recipes import find_recipe
from tether.runs.curves import Curves, lanes_by_setting, read_curves, read_record, read_result, until
from tether.studies.reproduce.bands import Number, PublishedTable, find_table
from tether.studies.reproduce.targets import Cell
from tether.studies.reproduce.verdict import Verdict, band_of, judge

__all__ = [
    "Milestone",
    "Outcome",
    "changes_of",
    "decides_alike",
    "diverged_seeds",
    "last_scores",
    "origin_of",
    "outcome_of",
    "run_for",
    "scores_at",
]

FRAMING = {"chunk": 1, "n_step": 1, "history": 1}  # options that say what a decision is, and those of single steps


class Milestone(NamedTuple):
    """A published number and what became of it."""

    updates: int
    number: Number
    verdict: Verdict


class Outcome(NamedTuple):
    """A cell, the run behind it, and its verdicts."""

    cell: Cell
    run: Path | None
    updates: int  # that have been evaluated
    verdict: Verdict  # of the last number that can be compared
    milestones: tuple[Milestone, ...]  # of a curve, in order
    config: dict[str, Any]  # of the run
    result: dict[str, Any]  # of the run, as far as it has one
    protocol: str = ""  # which of the table's numbers was asked for

    @property
    def published(self) -> float | None:
        """The number that the verdict is about, else the cell's last one."""
        if self.verdict.band is not None:
            return self.verdict.band.value
        cell = self.cell
        values = [number.value for number in cell.table.find(cell.task, cell.method, cell.variant, self.protocol)]
        return values[-1] if values else None

    @property
    def diverged(self) -> list[str]:
        """Each seed that diverged, and where."""
        return diverged_seeds(self.result)


def scores_at(curves: Curves, update: int, evaluations: int = 1, every_updates: int = 1) -> np.ndarray | None:
    """Scores (lanes, episodes) of the evaluation at `update`; None where there was none.

    evaluations: of so many around it, at most, which are no further away than if they were `every_updates` apart. As
    many before it as behind it: of a rising curve the mean would else be another. At the end of a run it stands alone.
    """
    if update not in curves.updates:
        return None
    wing = evaluations // 2
    near = np.flatnonzero(np.abs(curves.updates - update) <= wing * every_updates)
    place = int(np.flatnonzero(curves.updates == update)[0])
    wing = min(wing, place - near[0], near[-1] - place)
    window = curves.scores[:, place - wing : place + wing + 1]
    return window.reshape(len(window), -1)


def last_scores(curves: Curves, table: PublishedTable) -> np.ndarray:
    """Scores (lanes, episodes) of the last evaluations, as many as the table's numbers are means over; none that are
    further back than the table's would be."""
    near = curves.updates[-1] - (table.last_evaluations - 1) * table.evaluation_every_updates
    last = curves.scores[:, curves.updates >= near][:, -table.last_evaluations :]
    return last.reshape(len(last), -1)


def _fewer(scores: np.ndarray, curves: Curves, table: PublishedTable) -> tuple[str, ...]:
    """A reservation where scores are of fewer evaluations than the published ones."""
    found = scores.shape[1] // curves.scores.shape[2]
    return () if found >= table.last_evaluations else (f"a mean of {found} of {table.last_evaluations} evaluations",)


def outcome_of(cell: Cell, run: Path | None, protocol: str = "") -> Outcome:
    """The verdicts on a cell, from its run folder as far as it has come. Raises InputError for a damaged folder."""
    if cell.obstacle or run is None or not (run / "config.json").exists():
        reason = cell.obstacle or "not run yet"
        return Outcome(cell, None, 0, Verdict("not comparable", reason), (), {}, {}, protocol)
    config, curves, result = read_record(run), read_curves(run), read_result(run)
    if config.get("finetuning"):
        reason = "fine-tuned in its environment, and the published numbers are of training on data alone"
        return Outcome(cell, run, 0, Verdict("not comparable", reason), (), config, result, protocol)
    if len(settings := lanes_by_setting(config)) > 1:
        names = ", ".join(sorted({name for swept, _ in settings for name in swept}))
        reason = f"its lanes are {len(settings)} settings of a sweep over {names}, not seeds of one"
        return Outcome(cell, run, 0, Verdict("not comparable", reason), (), config, result, protocol)
    notes, published = _reservations(cell, config), cell.published_updates
    if lost := diverged_seeds(result):
        notes += (f"{len(lost)} of {len(config['lanes'])} seeds diverged: {'; '.join(lost)}",)
    done = int(curves.updates[-1]) if len(curves.updates) else 0
    if done > published:
        notes += (f"trained on to {done:,} updates, and judged as it was at {published:,}, as published",)
        curves = until(curves, published)
        done = int(curves.updates[-1]) if len(curves.updates) else 0
    milestones = _milestones(cell, curves, notes)
    final = _final(cell, curves, done, protocol, notes)
    found = final
    if final is None or final.word == "not comparable":
        compared = [m.verdict for m in milestones if m.verdict.word != "not comparable"]
        found = compared[-1] if compared else final
    if found is None:  # nothing but a curve, and none of its points was reached
        said = {"obstacle": _too_short(cell, done), "reservations": (*cell.table.reservations, *notes)}
        found = judge(scores_at(curves, done), "", **said)
    if lost and len(lost) == len(config["lanes"]):  # what it came to is no score, whatever it had been before
        found = found._replace(word="not comparable", reason=f"diverged: {'; '.join(lost)}", certain=False)
    return Outcome(cell, run, done, found, tuple(milestones), config, result, protocol)


def diverged_seeds(result: Mapping[str, Any]) -> list[str]:
    """Each seed of a result that diverged, and where: `seed 1 at train 12000`."""
    return [f"seed {lane['seed']} at {lane['diverged']}" for lane in result.get("lanes", ()) if lane.get("diverged")]


def _milestones(cell: Cell, curves: Curves, notes: tuple[str, ...]) -> list[Milestone]:
    """What a published curve says of the updates that were evaluated."""
    if not cell.table.curve or cell.variant:
        return []
    table = find_table(cell.table.curve)
    found = []
    for number in table.find(cell.task, cell.method):
        if not number.updates:
            continue
        scores = scores_at(curves, number.updates, table.last_evaluations, table.evaluation_every_updates)
        if number.updates == cell.published_updates and number.updates in curves.updates:
            scores = last_scores(curves, table)
        if scores is not None:
            said = (*table.reservations, *_fewer(scores, curves, table), *notes)
            verdict = judge(scores, band_of(number, table), at=number.updates, reservations=said)
            found.append(Milestone(number.updates, number, verdict))
    return found


def _final(cell: Cell, curves: Curves, done: int, protocol: str, notes: tuple[str, ...]) -> Verdict | None:
    """The verdict on the table's own number; None where the table is nothing but a curve."""
    table = cell.table
    numbers = table.find(cell.task, cell.method, cell.variant, protocol)
    plain = [number for number in numbers if number.updates is None]
    if not plain:
        return None
    if not done:
        return Verdict("not comparable", "no evaluation yet")
    if plain[-1].protocol == "best":
        whole = np.isfinite(curves.scores).all(axis=2)
        means = np.where(whole, np.nan_to_num(curves.scores).mean(axis=2), -np.inf)
        scores = curves.scores[np.arange(len(means)), means.argmax(axis=1)]  # the best evaluation of each lane
    else:
        scores = last_scores(curves, table)
        notes = (*_fewer(scores, curves, table), *notes)
    short = _too_short(cell, done) if done < cell.published_updates else ""
    return judge(scores, band_of(plain[-1], table), obstacle=short, reservations=(*table.reservations, *notes))


def _too_short(cell: Cell, done: int) -> str:
    curve = f"no published number of {cell.table.curve}" if cell.table.curve else "no curve is published that"
    return f"{done:,} of {cell.published_updates:,} updates, and {curve} stands at these updates"


def changes_of(cell: Cell, config: dict[str, Any]) -> list[str]:
    """In which hyper-parameters and options a run is not the published setting: `ensemble_size 2 (10)`."""
    recipe = find_recipe(cell.algorithm, "", cell.preset)
    wanted = {**recipe.hyperparameters, **cell.hyperparameters}
    own = config.get("hyperparameters", {})
    length = {"train_updates", "decay_updates"}
    found = {name: (own[name], value) for name, value in wanted.items() if name in own and name not in length}
    defaults = hyperparameters_of(ALGORITHMS[cell.algorithm]())
    rest = set(own) - set(wanted) - length
    found |= {name: (own[name], defaults[name]) for name in sorted(rest) if name in defaults}
    if own.get("cosine_decay"):  # by default over the run's own length, which may be shorter
        ours, theirs = (values.get("decay_updates") or values.get("train_updates") for values in (own, wanted))
        found["decay_updates"] = ours, theirs
    found["batch_size"] = config.get("settings", {}).get("batch_size"), recipe.options.get("batch_size")
    asked = recipe.options | cell.options
    for name in ("reward_transform", "observation_transform"):
        found[name] = config.get("data", {}).get(name, {}).get("name"), asked.get(name, "none")
    framing = config.get("data", {}).get("framing", {})
    found |= {name: (framing.get(name), asked.get(name, one)) for name, one in FRAMING.items()}
    found["data_filter"] = _filter(config), asked.get("data_filter", "none")
    found["holdout"] = config.get("data", {}).get("holdout", {}).get("name"), "none"
    swept: dict[str, list[Any]] = {}
    for lane in config.get("lanes", []):
        for name, value in lane.get("settings", {}).items():
            swept.setdefault(name, []).append(value)
    for name, values in swept.items():
        different = list(dict.fromkeys(values))
        was = different[0] if len(different) == 1 else " and ".join(map(str, different))
        found[name] = was, wanted.get(name, defaults.get(name))
    return [f"{name} {was} ({asked})" for name, (was, asked) in found.items() if not _same(was, asked)]


def decides_alike(config: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Whether a run's decisions are those of `options`: chunks, steps of returns, histories."""
    framing = config.get("data", {}).get("framing", {})
    return all(framing.get(name, one) == options.get(name, one) for name, one in FRAMING.items())


def _horizon(cell: Cell) -> int | None:
    """Steps of a published episode; None where that task's package is not here."""
    if (task := find_task(cell.task)) is not None:
        return task.horizon
    if not is_single_task(cell.task) or find_spec("ogbench") is None:
        return None
    import gymnasium
    import ogbench  # noqa: F401  (registers its environments)

    found = gymnasium.registry.get(locate_ogbench(cell.task)[0])
    return None if found is None else found.max_episode_steps


def _filter(config: dict[str, Any]) -> str | None:
    """The rule by which episodes were chosen; runs of tether 0.1 do not say."""
    return config.get("data", {}).get("filter", {}).get("name")


def _same(was: Any, asked: Any) -> bool:
    if isinstance(was, list | tuple) or isinstance(asked, list | tuple):
        return list(was or ()) == list(asked or ())
    return was is None or asked is None or was == asked


def _reservations(cell: Cell, config: dict[str, Any]) -> tuple[str, ...]:
    """What else is not the same: hyper-parameters, data, episodes, simulator, precision."""
    data, found, recipe = config.get("data", {}), [], find_recipe(cell.algorithm, "", cell.preset)
    if changed := changes_of(cell, config):
        found.append(f"not the published setting: {', '.join(changed)}")
    source = str(data.get("source", config.get("source", "")))
    if origin := origin_of(source):
        found.append(origin)
    place, task = config.get("environment"), find_task(cell.task)
    if place and task is not None and place not in (task.name, NO_ENVIRONMENT):
        found.append(f"evaluated in {place}, not in {task.name}")
    episodes, theirs = config.get("settings", {}).get("eval_episodes"), recipe.options.get("eval_episodes")
    if not _same(episodes, theirs):
        found.append(f"evaluated by {episodes} episodes, published: {theirs}")
    if not _same(steps := config.get("horizon"), horizon := _horizon(cell)):
        found.append(f"evaluated in episodes of {steps} steps, published: {horizon}")
    versions = config.get("versions", {})
    used = ", ".join(f"{name} {versions[name]}" for name in ("ogbench", "gymnasium", "mujoco") if name in versions)
    found.append(f"evaluated with {used or 'unknown versions'}; published: {cell.table.environments}")
    precision = config.get("settings", {}).get("precision", "float32")
    if precision != "float32":
        found.append(f"matmuls in {precision}")
    return tuple(found)


def origin_of(source: str) -> str:
    """Why the data are not the published ones, in words; empty for D4RL's and OGBench's own files."""
    if source.startswith("d4rl:"):
        return ""
    if source.startswith("ogbench:"):
        _, path = locate_ogbench(source.removeprefix("ogbench:"))
        if not path.is_file():
            return f"data of {source} are not here any more"
        with np.load(path, allow_pickle=False) as archive:
            return "the data are regenerated, not OGBench's file" if PROVENANCE in archive else ""
    path = Path(source)
    if path.suffix in (".hdf5", ".h5") and path.is_file():
        with open_hdf5(path) as file:
            if COLLECT_KEY in file:
                return f"trained on {path.name}, which tether collected: not D4RL's data"
    return f"trained on {path.name or source}, not on the published name"


def published_task(config: Mapping[str, Any], tasks: Collection[str]) -> str | None:
    """Which of `tasks` a run is on: that of its data's name, which may lack the version, else of its preset; None where
    neither says."""
    name, preset = str(config["data"]["dataset"]), config["notes"].get("preset")
    fits = [task for task in tasks if without_version(task) == without_version(name)]
    if name in tasks or len(fits) == 1:
        return name if name in tasks else fits[0]
    return preset if preset in (fits or tasks) else None


def run_for(cells: list[Cell], run: Path) -> Cell:
    """Which of the cells a run folder is of. Raises InputError where it is of none, or of several."""
    config = read_record(run)
    data, task = config["data"], published_task(config, {task for cell in cells for task in cell.table.tasks})
    fits = [cell for cell in cells if cell.algorithm == config["algorithm"] and task in (None, cell.task)]
    fits = [cell for cell in fits if _same(_filter(config), cell.options.get("data_filter", "none"))] or fits
    fits = [cell for cell in fits if decides_alike(config, cell.options)] or fits
    chosen = fits if task is not None or len(cells) == 1 else []
    if len(chosen) != 1:
        what = f"{config['algorithm']} on {data['dataset']}"
        names = ", ".join(cell.name for cell in chosen or cells)
        raise InputError(f"{run}: {what} is not one cell of the target; name one: {names}")
    return chosen[0]
