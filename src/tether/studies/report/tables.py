"""Tables of a report in three languages: scores by task and method, with 95 % intervals over seeds."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tether.evaluation.aggregates import probability_of_improvement
from tether.evaluation.statistics import mean_interval
from tether.plots.markdown import markdown_table
from tether.studies.report.material import Material

__all__ = [
    "Cell",
    "improvement_rows",
    "latex_table",
    "markdown_scores",
    "markdown_verdicts",
    "score_rows",
    "verdict_cells",
]

NOTHING = "-"


class Cell(NamedTuple):
    """A method on a task."""

    mean: float | None  # None: no score
    low: float | None
    high: float | None
    seeds: int
    best: bool  # of its row

    @property
    def text(self) -> str:
        """`43.1 [41.0, 45.2]`."""
        if self.mean is None:
            return NOTHING
        return f"{self.mean:.1f}" + ("" if self.low is None else f" [{self.low:.1f}, {self.high:.1f}]")


def score_rows(material: Material) -> list[tuple[str, list[Cell]]]:
    """(task, a cell for each method); the last row is the mean over tasks, of methods that have all of them,
    where all are scored alike."""
    rows = []
    for task in material.tasks:
        found = [material.scores(method, task) for method in material.runs]
        means = [float(np.mean(scores)) if len(scores) else None for scores in found]
        known = [mean for mean in means if mean is not None]
        cells = []
        for scores, mean in zip(found, means, strict=True):
            _, low, high = mean_interval(scores.tolist())
            cells.append(Cell(mean, low, high, len(scores), len(known) > 1 and mean == max(known)))
        rows.append((task, cells))
    if len(rows) > 1 and len(material.score_names) == 1:
        columns = zip(*([cell.mean for cell in cells] for _, cells in rows), strict=True)
        means = [None if None in column else float(np.mean(np.asarray(column))) for column in columns]
        rows.append(("mean over tasks", [Cell(mean, None, None, 0, False) for mean in means]))
    return rows


def improvement_rows(material: Material) -> list[tuple[str, str, float]]:
    """(X, Y, P(X > Y)) for pairs of methods that share tasks, the surest first."""
    found, names = [], list(material.runs)
    for ours in names:
        for theirs in names:
            both = ours, theirs
            shared = [task for task in material.tasks if all(len(material.scores(name, task)) for name in both)]
            if ours != theirs and shared:
                pair = [[material.scores(name, task) for task in shared] for name in both]
                value = probability_of_improvement(*pair)
                if value > 0.5 or (value == 0.5 and ours < theirs):
                    found.append((ours, theirs, value))
    return sorted(found, key=lambda row: -row[2])


def markdown_scores(material: Material) -> str:
    """The score table in Markdown; the best of a row is bold."""
    lines = []
    for task, cells in score_rows(material):
        lines.append([task, *(f"**{cell.text}**" if cell.best else cell.text for cell in cells)])
    return markdown_table(["task", *material.runs], lines)


def latex_table(material: Material) -> str:
    """The score table for LaTeX with booktabs; it stands alone in an \\input."""
    columns = "l" + "r" * len(material.runs)
    rows = []
    for task, cells in score_rows(material):
        if task == "mean over tasks":
            rows.append("\\midrule")
        rows.append(" & ".join([latex(task), *map(_latex_cell, cells)]) + " \\\\")
    lines = [
        "% needs \\usepackage{booktabs}; mean and 95 % interval over seeds (Student's t)",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(["task", *map(latex, material.runs)]) + " \\\\",
        "\\midrule",
        *rows,
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_cell(cell: Cell) -> str:
    if cell.mean is None:
        return "--"
    number = f"\\mathbf{{{cell.mean:.1f}}}" if cell.best else f"{cell.mean:.1f}"
    interval = "" if cell.low is None else f"\\,{{\\scriptstyle [{cell.low:.1f}, {cell.high:.1f}]}}"
    return f"${number}{interval}$"


def latex(text: str) -> str:
    """Text with what LaTeX would take for commands written out."""
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda found: special.get(found[0], f"\\{found[0]}"), text)


def markdown_verdicts(verdicts: Sequence[dict]) -> str:
    """The verdicts of a reproduction in Markdown."""
    heads = ["cell", "published", "measured", "updates", "verdict", "why"]
    return markdown_table(heads, [verdict_cells(row) for row in verdicts])


def verdict_cells(row: dict) -> list[str]:
    """A row of reproduce.json as text."""
    verdict = row["verdict"]
    measured = Cell(verdict["measured"], verdict["low"], verdict["high"], 0, False).text
    published = NOTHING if row["published"] is None else f"{row['published']:g}"
    return [row["cell"], published, measured, f"{row['updates']:,}", verdict["word"], verdict["reason"]]
