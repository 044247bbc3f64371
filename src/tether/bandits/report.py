"""`tether bandit ALGORITHM PROBLEM`: train, score beside the references, draw."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from tether.bandits.gallery import DATA_POINTS, SAMPLES, score_run
from tether.bandits.pictures import draw_run
from tether.bandits.problems import get_problem
from tether.bandits.scores import reference_scores
from tether.bandits.train import bandit_settings, train_bandit

__all__ = ["run_bandit"]

COLUMNS = {
    "closed": "share of the distance closed",
    "energy_distance": "energy distance",
    "sliced_wasserstein": "sliced W1",
    "mean_energy": "mean energy",
    "off_support": "off the support",
    "modes_covered": "modes",
    "best_mode_share": "in best modes",
    "value_error": "|E V_N - V*|",
}


def run_bandit(
    algorithm: str,
    problem_name: str,
    kind: str,
    changes: Mapping[str, Any],
    seed: int,
    out: Path,
    quiet: bool,
    precision: str = "float32",
) -> tuple[Table, int | None]:
    """Train with the settings `kind` and `changes` over them, draw to `out` -> (table, update where it diverged).

    Raises InputError for unknown names or values, OSError where the picture cannot be written.
    """
    problem = get_problem(problem_name)
    settings = bandit_settings(algorithm, problem_name, kind) | dict(changes)
    trained = train_bandit(algorithm, problem, settings, seed=seed, quiet=quiet, precision=precision)
    samples = trained.sample(SAMPLES, seed)
    rows = {name: row._asdict() for name, row in reference_scores(problem, np.random.default_rng(0)).items()}
    rows |= {algorithm: score_run(trained, samples)}
    rng = np.random.default_rng(seed)
    title = f"{algorithm} on {problem_name}, {kind} settings, seed {seed}"
    data = problem.sample(min(problem.published_size, DATA_POINTS), rng)
    draw_run(out, trained, data, problem.target(SAMPLES, rng), samples, title)

    table = Table("", *COLUMNS.values(), title=title, title_justify="left")
    for name, row in rows.items():
        table.add_row(name, *(_cell(row.get(column)) for column in COLUMNS))
    target = rows[algorithm]["target_mean_energy"]
    weights = f"exp(energy / {problem.temperature:g})"
    table.caption = f"{SAMPLES:,} samples; the target is the data re-weighted by {weights}, mean energy {target:.3f}"
    return table, trained.diverged_at


def _cell(value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.3f}"
