"""`tether bandit gallery`: the papers' 2-D figures, redrawn from our own training, with the numbers beside them."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.bandits.pictures import (
    Panel,
    chain,
    diffusion_value,
    draw_grid,
    draw_panel,
    grid,
    new_panels,
    q_value,
    save,
    trust_region_loss,
    write_title,
)
from tether.bandits.problems import Points, Problem, get_problem
from tether.bandits.scores import reference_scores, score
from tether.bandits.train import Trained, bandit_settings, load_trained, save_trained, train_bandit
from tether.errors import unknown
from tether.machine.files import atomic_write_json, atomic_write_text, to_json
from tether.machine.reading import parse_json, read_bytes
from tether.plots.markdown import markdown_table
from tether.runs.records import Display

__all__ = ["FIGURES", "draw_gallery", "score_run"]

Row = dict[str, Any]

SAMPLES, DATA_POINTS = 2000, 10_000  # of a policy scored; of the data drawn
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5)  # in units of the data's largest coordinate
SAME = ("25gaussians-same", "roll-same")
GUIDANCES = ("soft", "hard", "denoised")
DTQL_COLUMNS = ("25gaussians-far", "25gaussians-hard", "25gaussians-near", "roll-far", "roll-near")
DAC_PROBLEMS = ("dac-two", "dac-three", "dac-moons", "dac-circles")
ENERGY_PROBLEMS = ("8gaussians", "moons", "2spirals", "swissroll", "rings", "checkerboard")
PATH_STEPS = (50, 40, 30, 20, 10, 0)
PATHS = 200
VALUE_DRAWS = 1000


def score_run(trained: Trained, samples: np.ndarray) -> Row:
    """The scores of `samples` against the problem's ground truth, with V's error where there is a V_N. JSON-able."""
    rng = np.random.default_rng(0)
    row: Row = score(samples, trained.problem, rng)._asdict()
    row["value_error"] = value_error(trained)
    row["diverged_at"] = trained.diverged_at
    return row


def value_error(trained: Trained) -> float | None:
    """BDPO: |E[V_N(a_N)] - V*|, a_N ~ N(0, I), averaged networks and heads; None for the other methods."""
    if not hasattr(trained.state, "target_critics"):
        return None
    value = trained.state.target_critics.value
    step = jnp.asarray(trained.algorithm.diffusion_steps, jnp.int32)
    noise = jax.random.normal(jax.random.key(1), (VALUE_DRAWS, 2), jnp.float32)
    values = jax.vmap(lambda a: value(trained.observation, a, step).mean())(noise)
    return abs(float(values.mean()) - trained.problem.v_star(float(trained.algorithm.eta)))


class Run(NamedTuple):
    """One training that figures show; `changes` are laid over the settings of that kind."""

    algorithm: str
    problem: str
    kind: str = "fair"
    changes: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.algorithm, self.problem, self.kind, *(f"{name}={value}" for name, value in self.changes)])

    def settings(self) -> dict[str, Any]:
        """All settings in force, as JSON gives them back."""
        return json.loads(to_json(bandit_settings(self.algorithm, self.problem, self.kind) | dict(self.changes)))


@dataclasses.dataclass
class Shelf:
    """Trains each run once, however many figures show it, and keeps it in `folder` for the next gallery.

    A kept run is found again by its settings: where they have changed it is trained anew. `fresh` trains all anew.
    """

    folder: Path
    fresh: bool
    quiet: bool
    taken: dict[Run, Trained] = dataclasses.field(default_factory=dict)

    def take(self, run: Run, place: str) -> Trained:
        """The trained run, from memory, disk or training; `place` says in the progress where we are."""
        if run not in self.taken:
            problem, settings = get_problem(run.problem), run.settings()
            path = self.folder / kept_name(run.algorithm, run.problem, settings)
            kept = None if self.fresh else load_trained(path, run.algorithm, problem, settings)
            with Display(self.quiet) as display:
                display.message(f"{place}: {run}" + ("" if kept is None else ", kept"))
            if kept is None:
                kept = train_bandit(run.algorithm, problem, settings, quiet=self.quiet)
                save_trained(path, kept)
            self.taken[run] = kept
        return self.taken[run]


def kept_name(algorithm: str, problem: str, settings: dict[str, Any]) -> str:
    """The file of a kept run; its settings are in the name, in any order."""
    key = hashlib.sha256(to_json(sorted(settings.items())).encode()).hexdigest()[:16]
    return f"{algorithm}-{problem}-{key}.safetensors"


def _scored(label: str, trained: Trained) -> tuple[np.ndarray, Row]:
    """2000 samples and their row of the figure's table."""
    samples = trained.sample(SAMPLES)
    return samples, {"problem": trained.problem.name, "method": label} | score_run(trained, samples)


def _data(problem: Problem) -> Points:
    """Points to draw and compare with."""
    return problem.sample(min(problem.published_size, DATA_POINTS), np.random.default_rng(0))


def _references(problem: Problem) -> list[Row]:
    """The rows of data, ideal sampler and target itself."""
    rows = reference_scores(problem, np.random.default_rng(0)).items()
    return [{"problem": problem.name, "method": method} | row._asdict() for method, row in rows]


# --- the figures: each draws its runs, given in the order of its `runs`, and returns the rows of its table ------------


def _trust_region_maps(title: str, path: Path, runs: Sequence[Trained]) -> list[Row]:
    """A row per run: the data, then the trust-region loss over the plane at growing noise."""
    rows = []
    for trained in runs:
        data = _data(trained.problem)
        fields = [  # logarithms: far from the data the loss is hundreds of times what it is between them
            Panel(trained.problem, f"log L_TR, sigma {s:g}", data, field=np.log(trust_region_loss(trained, data, s)))
            for s in SIGMAS
        ]
        rows.append([Panel(trained.problem, trained.problem.name, data), *fields])
    draw_grid(path, title, rows)
    return []


def _sample_rows(title: str, path: Path, runs: Sequence[Trained]) -> list[Row]:
    """A row of panels per algorithm, a column per problem: samples over the data."""
    panels: dict[str, list[Panel]] = {}
    rows = [
        row for problem in dict.fromkeys(run.problem.name for run in runs) for row in _references(get_problem(problem))
    ]
    for trained in runs:
        samples, row = _scored(trained.name, trained)
        rows.append(row)
        panel = Panel(trained.problem, f"{trained.name}, {trained.problem.name}", _data(trained.problem), [samples])
        panels.setdefault(trained.name, []).append(panel)
    draw_grid(path, title, list(panels.values()))
    return sorted(rows, key=lambda row: row["problem"])  # stable: references first, then the runs in their order


def _guidance_panels(title: str, path: Path, runs: Sequence[Trained]) -> list[Row]:
    """A column per problem: samples of the three guidance styles, which follow each other in `runs`, over the data
    coloured by reward, as the paper draws them, and over the learned Q."""
    over_data, over_q, rows = [], [], []
    for start in range(0, len(runs), len(GUIDANCES)):
        trained = runs[start : start + len(GUIDANCES)]
        problem, drawn = trained[0].problem, []
        rows += _references(problem)
        for guidance, run in zip(GUIDANCES, trained, strict=True):
            samples, row = _scored(f"dac {guidance}", run)
            rows.append(row)
            drawn.append(samples[:200])
        data, field = _data(problem), q_value(trained[0], _data(problem))
        name, labels = f"{problem.name}: data by reward", GUIDANCES if not start else ()
        over_data.append(Panel(problem, name, data, drawn, labels, coloured_by_energy=True))
        over_q.append(Panel(problem, f"{problem.name}: over Q (soft)", data, drawn, field=field))
    draw_grid(path, title, [over_data, over_q])
    return rows


def _paths_over_values(title: str, path: Path, runs: Sequence[Trained]) -> list[Row]:
    """A row per run: sample paths (green start, red end) over the diffusion values V_n, and the samples."""
    figure, axes = new_panels(len(runs), len(PATH_STEPS))
    for row, trained in zip(axes, runs, strict=True):
        name, data, paths = trained.problem.name, _data(trained.problem), chain(trained, PATHS)
        _, half = grid(trained.problem, data)
        for place, first, last in zip(row, PATH_STEPS[:-1], PATH_STEPS[1:], strict=False):
            field = diffusion_value(trained, data, last)
            draw_panel(
                place, Panel(trained.problem, f"{name}: n = {first} to {last}, over V_{last}", data, field=field)
            )
            piece = np.clip(paths[last : first + 1], -half, half)
            place.plot(piece[:, :, 0], piece[:, :, 1], color="#DDDDDD", linewidth=0.3)
            place.scatter(*piece[-1].T, s=3, c="#2CA02C", linewidths=0)
            place.scatter(*piece[0].T, s=3, c="#D62728", linewidths=0)
        samples = trained.sample(SAMPLES)
        draw_panel(row[-1], Panel(trained.problem, f"{name}: samples", data, [samples]))
    write_title(figure, title)
    save(figure, path)
    return []


def _energy_rows(title: str, path: Path, runs: Sequence[Trained]) -> list[Row]:
    """A column per run: data by energy, the re-weighted target, the samples."""
    panels: list[list[Panel]] = [[], [], []]
    rows = []
    for trained in runs:
        problem, data = trained.problem, _data(trained.problem)
        samples, row = _scored(trained.name, trained)
        rows += [*_references(problem), row]
        target = problem.target(SAMPLES, np.random.default_rng(1))
        panels[0].append(Panel(problem, problem.name, data, coloured_by_energy=True))
        panels[1].append(Panel(problem, "target", data, [target.actions]))
        panels[2].append(Panel(problem, trained.name, data, [samples]))
    draw_grid(path, title, panels)
    return rows


class Figure(NamedTuple):
    """What a figure shows, what it must train, and how it is drawn."""

    title: str
    runs: tuple[Run, ...]
    draw: Callable[[str, Path, Sequence[Trained]], list[Row]]

    def settings(self) -> dict[str, dict[str, Any]]:
        """Settings of every run: a figure drawn with the same ones is not drawn again."""
        return {str(run): run.settings() for run in self.runs}


def _runs(algorithms: Sequence[str], problems: Sequence[str], kind: str = "fair") -> tuple[Run, ...]:
    return tuple(Run(algorithm, problem, kind) for algorithm in algorithms for problem in problems)


BOTH = ("dtql", "dtql-kl")
FIGURES: dict[str, Figure] = {
    "dtql-1": Figure(
        "DTQL fig. 1: trust-region loss of the learned denoiser at growing noise (dark: low)",
        _runs(["dtql"], SAME),
        _trust_region_maps,
    ),
    "dtql-2": Figure(
        "DTQL fig. 2: without reward KL distillation covers the data, the trust region picks a mode",
        _runs(BOTH, SAME),
        _sample_rows,
    ),
    "dtql-3": Figure(
        "DTQL fig. 3: trust region and KL with Q", _runs(BOTH, ("25gaussians-far", "roll-near")), _sample_rows
    ),
    "dtql-6-published": Figure(
        "DTQL fig. 6 with the published toy settings", _runs(BOTH, DTQL_COLUMNS, "published"), _sample_rows
    ),
    "dtql-6-fair": Figure(
        "DTQL fig. 6 with settings of ours for which the claim holds", _runs(BOTH, DTQL_COLUMNS), _sample_rows
    ),
    "dac-2": Figure(
        "DAC fig. 2: guidance styles over the data, coloured by reward (yellow: high), and over the learned Q; "
        "the reward's peak (0.4, -0.4) lies off the data",
        tuple(Run("dac", name, changes=(("guidance", style),)) for name in DAC_PROBLEMS for style in GUIDANCES),
        _guidance_panels,
    ),
    "bdpo-4": Figure(
        "BDPO figs. 4 and 13: denoising paths over the diffusion value functions",
        _runs(["bdpo"], ENERGY_PROBLEMS),
        _paths_over_values,
    ),
    "bdpo-5": Figure("BDPO fig. 5: data by energy; target; BDPO", _runs(["bdpo"], ENERGY_PROBLEMS), _energy_rows),
    "bdpo-14": Figure(
        "BDPO fig. 14: data by energy; target; DAC at the same temperature",
        _runs(["dac"], ENERGY_PROBLEMS),
        _energy_rows,
    ),
}


def draw_gallery(folder: Path, only: Sequence[str] = (), *, fresh: bool = False, quiet: bool = False) -> None:
    """Draw the figures (all, or those in `only`) into `folder`: NAME.png, NAME.json with its scores, tables.md of all.

    A figure whose picture is there, drawn with the settings now in force, is left alone, and a finished run is kept in
    `folder`/.runs: a gallery that was stopped goes on where it was. fresh: train and draw everything anew.
    Raises InputError for an unknown figure, OSError where the folder cannot be written.
    """
    for name in only:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
    folder.mkdir(parents=True, exist_ok=True)
    shelf = Shelf(folder / ".runs", fresh, quiet)
    names = list(dict.fromkeys(only)) or list(FIGURES)
    for index, name in enumerate(names, 1):
        figure, place = FIGURES[name], f"figure {index} of {len(names)}, {name}"
        if not fresh and is_drawn(folder, name):
            with Display(quiet) as display:
                display.message(f"{place}: drawn with these settings already")
            continue
        runs = [
            shelf.take(run, f"{place}, run {number} of {len(figure.runs)}") for number, run in enumerate(figure.runs, 1)
        ]
        rows = figure.draw(figure.title, folder / f"{name}.png", runs)
        seconds = {str(run): round(trained.seconds) for run, trained in zip(figure.runs, runs, strict=True)}
        document = {"settings": figure.settings(), "processor_seconds": seconds, "rows": rows}
        atomic_write_json(folder / f"{name}.json", document)
    atomic_write_text(folder / "tables.md", tables(folder))


def is_drawn(folder: Path, name: str) -> bool:
    """Whether the figure is there and was drawn with the settings that are now in force."""
    picture, numbers = folder / f"{name}.png", folder / f"{name}.json"
    if not (picture.exists() and numbers.exists()):
        return False
    return parse_json(read_bytes(numbers)).get("settings") == FIGURES[name].settings()


COLUMNS = {  # of the tables -> format
    "closed": "{:.3f}",
    "energy_distance": "{:.3f}",
    "sliced_wasserstein": "{:.3f}",
    "mean_energy": "{:.3f}",
    "target_mean_energy": "{:.3f}",
    "off_support": "{:.3f}",
    "modes_covered": "{:.0f}",
    "best_mode_share": "{:.3f}",
    "value_error": "{:.3f}",
}


def tables(folder: Path) -> str:
    """Markdown: a table per figure that has numbers."""
    parts = ["Written by `tether bandit gallery`; what the columns mean: README.md.\n"]
    for name, figure in FIGURES.items():
        path = folder / f"{name}.json"
        document = parse_json(read_bytes(path)) if path.exists() else {}
        if not document.get("rows"):
            continue
        head = ["problem", "method", *(column.replace("_", " ") for column in COLUMNS)]
        table = markdown_table(head, map(_cells, document["rows"]))
        parts.append(f"## {name}\n\n{figure.title}.{_cost(document)}\n\n{table}\n")
    return "\n".join(parts)


def _cost(document: dict[str, Any]) -> str:
    """What the figure's runs took to train."""
    seconds = document.get("processor_seconds", {}).values()
    return f" Training: {len(seconds)} runs, {sum(seconds) / 60:.0f} minutes of processor time." if seconds else ""


def _cells(row: Row) -> list[str]:
    diverged = "" if row.get("diverged_at") is None else f", diverged at {row['diverged_at']:,}"
    return [row["problem"], row["method"] + diverged, *(_cell(text, row.get(name)) for name, text in COLUMNS.items())]


def _cell(text: str, value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else text.format(value)
