"""`tether report POLICY --data LOGS`: from a policy and a log to a page.

OUT/report.html             one page, no network needed
OUT/rows.csv                every logged row that was looked at: what was done, what the policy does, its trust
OUT/figures/NAME.svg .pdf   every figure of the page
"""

import csv
import io
from pathlib import Path

import numpy as np

from tether.data import Dataset
from tether.machine.files import atomic_write_text
from tether.studies.policy_report.figures import draw_figures
from tether.studies.policy_report.page import page
from tether.studies.policy_report.played import Played, load_seeds, play

__all__ = ["MOST_ROWS", "make_policy_report"]

MOST_ROWS = 2000


def make_policy_report(
    folder: Path,
    dataset: Dataset,
    out: Path,
    *,
    most_rows: int = MOST_ROWS,
    title: str | None = None,
    command: str = "",
) -> list[Path]:
    """Write everything -> the paths of page and table; what is there is replaced.

    folder: of a policy, or of a run with those of all its seeds. most_rows: of the log that the policies are asked at.
    Raises InputError where there is no policy or the log has other columns, OSError where `out` cannot be written.
    """
    seeds = load_seeds(folder)
    played = play(seeds, dataset, most_rows)
    out.mkdir(parents=True, exist_ok=True)
    captions = draw_figures(played, seeds, out / "figures")
    figures = {name: (caption, out / "figures" / f"{name}.svg") for name, caption in captions.items()}
    title = title or f"{seeds.best.document['algorithm']} beside {dataset.name}"
    texts = {"report.html": page(played, seeds, dataset, figures, title, command), "rows.csv": _table(played)}
    for name, text in texts.items():
        atomic_write_text(out / name, text)
    return [out / name for name in texts]


def _table(played: Played) -> str:
    """A line for each row that was looked at."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    observations, actions = played.names
    middle, low, high = played.middle, played.done.min(axis=(0, 1)), played.done.max(axis=(0, 1))
    heads = ["row", "episode", "step", *observations]
    for name in actions:
        heads += [f"{name} logged", f"{name} policy", f"{name} policy lowest", f"{name} policy highest"]
    writer.writerow([*heads, *([] if played.trust is None else ["trust", "trust of logged", "reasons"])])
    for stretch in played.stretches:
        rows = np.arange(len(played.rows))[played.of(stretch)]
        for i in rows.tolist():
            line = [int(played.rows[i]), stretch.episode, int(played.step[i])]
            numbers = [*played.observation[i], *np.stack([played.logged, middle, low, high])[:, i].T.ravel()]
            line += [f"{number:.6g}" for number in numbers]
            if played.trust is not None and played.trust_logged is not None:
                line += [f"{played.trust.trust[i]:.4g}", f"{played.trust_logged.trust[i]:.4g}"]
                line.append("; ".join(played.trust.reasons[i]))
            writer.writerow(line)
    return text.getvalue()
