"""`tether bandit gallery`: the papers' 2-D figures, redrawn from our own training, with the numbers beside them."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
)
from tether.bandits.problems import Points, Problem, get_problem
from tether.bandits.scores import reference_scores, score
from tether.bandits.train import Trained, bandit_settings, train_bandit
from tether.errors import unknown
from tether.files import atomic_write_json, atomic_write_text

__all__ = ["FIGURES", "draw_gallery", "score_run"]

SAMPLES, DATA_POINTS = 2000, 10_000  # of a policy scored; of the data drawn
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5)  # in units of the data's largest coordinate
DTQL_COLUMNS = ("25gaussians-far", "25gaussians-hard", "25gaussians-near", "roll-far", "roll-near")
DAC_PROBLEMS = ("dac-two", "dac-three", "dac-moons", "dac-circles")
ENERGY_PROBLEMS = ("8gaussians", "moons", "2spirals", "swissroll", "rings", "checkerboard")
PATH_STEPS = (50, 40, 30, 20, 10, 0)
PATHS = 200
VALUE_DRAWS = 1000


def score_run(trained: Trained, samples: np.ndarray) -> dict[str, Any]:
    """The scores of `samples` against the problem's ground truth, with V's error where there is a V_N. JSON-able."""
    rng = np.random.default_rng(0)
    row: dict[str, Any] = score(samples, trained.problem, rng)._asdict()
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


@dataclasses.dataclass
class Studio:
    """Trains each (algorithm, problem, settings) once, however many figures show it."""

    quiet: bool
    runs: dict[tuple, Trained] = dataclasses.field(default_factory=dict)
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def train(self, algorithm: str, problem: str, kind: str = "fair", **changes: Any) -> Trained:
        """The trained policy; `changes` override settings."""
        key = (algorithm, problem, kind, *sorted(changes.items()))
        if key not in self.runs:
            settings = bandit_settings(algorithm, problem, kind) | changes
            self.runs[key] = train_bandit(algorithm, get_problem(problem), settings, quiet=self.quiet)
        return self.runs[key]

    def samples(self, label: str, trained: Trained) -> np.ndarray:
        """2000 samples, scored into the figure's table under `label`."""
        samples = trained.sample(SAMPLES)
        self.rows.append({"problem": trained.problem.name, "method": label} | score_run(trained, samples))
        return samples

    def data(self, problem: Problem) -> Points:
        """Points to draw and compare with."""
        return problem.sample(min(problem.published_size, DATA_POINTS), np.random.default_rng(0))

    def references(self, problem: Problem) -> None:
        """The rows of data, ideal sampler and target itself."""
        for method, row in reference_scores(problem, np.random.default_rng(0)).items():
            self.rows.append({"problem": problem.name, "method": method} | row._asdict())


def dtql_1(studio: Studio, path: Path) -> None:
    """DTQL fig. 1: the trust-region loss over the plane at growing noise: low where the noised data are dense."""
    rows = []
    for name in ("25gaussians-same", "roll-same"):
        trained = studio.train("dtql", name)
        data = studio.data(trained.problem)
        fields = [
            Panel(trained.problem, f"L_TR, sigma {sigma:g}", data, field=trust_region_loss(trained, data, sigma))
            for sigma in SIGMAS
        ]
        rows.append([Panel(trained.problem, name, data), *fields])
    draw_grid(path, "DTQL fig. 1: trust-region loss of the learned denoiser (dark: low)", rows)


def dtql_2(studio: Studio, path: Path) -> None:
    """DTQL fig. 2: without Q, KL distillation covers the data, the trust region picks a mode."""
    panels = []
    for name in ("25gaussians-same", "roll-same"):
        for algorithm in ("dtql-kl", "dtql"):
            trained = studio.train(algorithm, name)
            samples = studio.samples(f"{algorithm} (fair)", trained)
            panels.append(Panel(trained.problem, f"{name}, {algorithm}", studio.data(trained.problem), [samples]))
    draw_grid(path, "DTQL fig. 2: no reward; KL distillation beside the trust region", [panels])


def dtql_3(studio: Studio, path: Path) -> None:
    """DTQL fig. 3: trust region and KL with Q."""
    _dtql_rows(studio, path, ("25gaussians-far", "roll-near"), "fair", "DTQL fig. 3: trust region and KL with Q")


def dtql_6_published(studio: Studio, path: Path) -> None:
    """DTQL fig. 6 with the published toy settings."""
    _dtql_rows(studio, path, DTQL_COLUMNS, "published", "DTQL fig. 6, the published toy settings")


def dtql_6_fair(studio: Studio, path: Path) -> None:
    """DTQL fig. 6 with fair settings."""
    _dtql_rows(studio, path, DTQL_COLUMNS, "fair", "DTQL fig. 6, settings of ours for which the claim holds")


def _dtql_rows(studio: Studio, path: Path, problems: Sequence[str], kind: str, title: str) -> None:
    """A row for the trust region, a row for KL."""
    rows = []
    for algorithm in ("dtql", "dtql-kl"):
        row = []
        for name in problems:
            trained = studio.train(algorithm, name, kind)
            samples = studio.samples(f"{algorithm} ({kind})", trained)
            row.append(Panel(trained.problem, f"{algorithm}, {name}", studio.data(trained.problem), [samples]))
        rows.append(row)
    draw_grid(path, title, rows)


def dac_2(studio: Studio, path: Path) -> None:
    """DAC fig. 2: soft, hard and denoised guidance; the reward's peak (0.4, -0.4) lies off the data."""
    panels = []
    for name in DAC_PROBLEMS:
        problem = get_problem(name)
        studio.references(problem)
        trained = {kind: studio.train("dac", name, guidance=kind) for kind in ("soft", "hard", "denoised")}
        samples = [studio.samples(f"dac {kind}", run) for kind, run in trained.items()]
        data = studio.data(problem)
        field = q_value(trained["soft"], data)
        panels.append(Panel(problem, name, data, [s[:200] for s in samples], tuple(trained), field=field))
    draw_grid(path, "DAC fig. 2: guidance styles over the learned Q (soft stays on the data)", [panels])


def bdpo_4(studio: Studio, path: Path) -> None:
    """BDPO figs. 4 and 13: sample paths (green start, red end) over the diffusion values V_n, and the samples."""
    figure, axes = new_panels(len(ENERGY_PROBLEMS), len(PATH_STEPS))
    for row, name in zip(axes, ENERGY_PROBLEMS, strict=True):
        trained = studio.train("bdpo", name)
        data, paths = studio.data(trained.problem), chain(trained, PATHS)
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
    figure.suptitle(
        "BDPO figs. 4 and 13: denoising paths over the diffusion value functions", fontsize=9, x=0.01, ha="left"
    )
    save(figure, path)


def bdpo_5(studio: Studio, path: Path) -> None:
    """BDPO fig. 5: data by energy, the re-weighted target, BDPO's samples."""
    _energy_rows(studio, path, "bdpo", "BDPO fig. 5: data by energy; target; BDPO")


def bdpo_14(studio: Studio, path: Path) -> None:
    """BDPO fig. 14: DAC at the same temperature."""
    _energy_rows(studio, path, "dac", "BDPO fig. 14: data by energy; target; DAC at the same temperature")


def _energy_rows(studio: Studio, path: Path, algorithm: str, title: str) -> None:
    rows: list[list[Panel]] = [[], [], []]
    for name in ENERGY_PROBLEMS:
        trained = studio.train(algorithm, name)
        problem, data = trained.problem, studio.data(trained.problem)
        studio.references(problem)
        samples = studio.samples(algorithm, trained)
        target = problem.target(SAMPLES, np.random.default_rng(1))
        rows[0].append(Panel(problem, name, data, coloured_by_energy=True))
        rows[1].append(Panel(problem, "target", data, [target.actions]))
        rows[2].append(Panel(problem, algorithm, data, [samples]))
    draw_grid(path, title, rows)


FIGURES: dict[str, Callable[[Studio, Path], None]] = {
    "dtql-1": dtql_1,
    "dtql-2": dtql_2,
    "dtql-3": dtql_3,
    "dtql-6-published": dtql_6_published,
    "dtql-6-fair": dtql_6_fair,
    "dac-2": dac_2,
    "bdpo-4": bdpo_4,
    "bdpo-5": bdpo_5,
    "bdpo-14": bdpo_14,
}


def draw_gallery(folder: Path, only: Sequence[str] = (), quiet: bool = False) -> None:
    """Draw the figures (all, or those in `only`) into `folder`: NAME.png, NAME.json with its scores, tables.md of all.

    A figure is complete when its JSON is there, so a stopped gallery goes on with `only`.
    Raises InputError for an unknown figure.
    """
    for name in only:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
    folder.mkdir(parents=True, exist_ok=True)
    studio = Studio(quiet)
    for name in only or FIGURES:
        studio.rows = []
        FIGURES[name](studio, folder / f"{name}.png")
        atomic_write_json(folder / f"{name}.json", studio.rows)
    atomic_write_text(folder / "tables.md", tables(folder))


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
    for name, draw in FIGURES.items():
        path = folder / f"{name}.json"
        rows = json.loads(path.read_text()) if path.exists() else []
        if not rows:
            continue
        head = ["problem", "method", *(column.replace("_", " ") for column in COLUMNS)]
        lines = [f"## {name}", "", (draw.__doc__ or "").splitlines()[0], "", _line(head), _line(["---"] * len(head))]
        for row in rows:
            cells = [_cell(text, row.get(column)) for column, text in COLUMNS.items()]
            diverged = "" if row.get("diverged_at") is None else f", diverged at {row['diverged_at']:,}"
            lines.append(_line([row["problem"], row["method"] + diverged, *cells]))
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _cell(text: str, value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else text.format(value)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
