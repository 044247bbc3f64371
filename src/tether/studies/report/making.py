"""`tether report`: from run folders to a page, tables and figures.

OUT/report.html             one page, no network needed
OUT/scores.md .tex          the score table; verdicts.md of a reproduction
OUT/figures/NAME.svg .pdf   every figure of the page
"""

from collections.abc import Sequence
from pathlib import Path

from tether.machine.files import atomic_write_text
from tether.studies.report.figures import draw_figures
from tether.studies.report.material import read_material
from tether.studies.report.page import page
from tether.studies.report.tables import latex_table, markdown_scores, markdown_verdicts

__all__ = ["make_report"]


def make_report(folders: Sequence[Path], out: Path, *, title: str | None = None, command: str = "") -> list[Path]:
    """Write everything -> the paths of page and tables; what is there is replaced.

    Raises InputError where the folders hold no run with an evaluation, OSError where `out` cannot be written.
    """
    material = read_material(folders, title)
    out.mkdir(parents=True, exist_ok=True)
    captions = draw_figures(material, out / "figures") if material.runs else {}
    figures = {name: (caption, out / "figures" / f"{name}.svg") for name, caption in captions.items()}
    texts = {"report.html": page(material, figures, command)}
    if material.runs:
        texts |= {"scores.md": markdown_scores(material) + "\n", "scores.tex": latex_table(material)}
    if material.verdicts:
        texts["verdicts.md"] = markdown_verdicts(material.verdicts) + "\n"
    for name, text in texts.items():
        atomic_write_text(out / name, text)
    return [out / name for name in texts]
