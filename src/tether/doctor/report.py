"""`check` and what it returns: a graded report as table, JSON and one self-contained HTML page."""

import base64
import html
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tether.data.dataset import recorded_numbers
from tether.data.sources import load_dataset
from tether.doctor.checks import CHECKS, run_checks
from tether.doctor.columns import action_coverage, directions_of_variance, distinct_observations
from tether.doctor.findings import CODES, GRADES, Finding, Grade, Purpose
from tether.doctor.fixes import Change, apply_fixes, check_target, write_d4rl
from tether.doctor.logged import Logged
from tether.doctor.pictures import draw_pictures
from tether.doctor.raw import STANDARD, as_levels, read_raw
from tether.errors import InputError
from tether.machine.files import atomic_write_json, atomic_write_text

__all__ = ["OVERALL", "Report", "check", "fix", "repair"]

FORMAT_VERSION = 1
MOST_ROUNDS = 4
"""Most rounds of repairs: one fault may hide another (interleaved rows hide jumps)."""
OVERALL = {
    "A": "nothing above a note",
    "B": "warnings: some algorithms or numbers come out wrong",
    "C": "errors, all of which --fix repairs",
    "D": "errors that need a hand, or training refuses the data",
}
COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
GRADE_COLOURS = {"A": "green", "B": "yellow", "C": "bold red", "D": "bold red"}


@dataclass(frozen=True, eq=False)
class Report:
    """What the doctor says of a source.

    Attributes:
        data: the columns that were looked at.
        findings: the gravest first.
        refused: why `load_dataset` refuses the source; empty if it reads it.
        skipped: checks that lacked a column.
        changes: what `fix` changed on the way to this data.
    """

    data: Logged
    findings: tuple[Finding, ...]
    refused: str = ""
    skipped: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def grade(self) -> Literal["A", "B", "C", "D"]:
        """A to D, see `OVERALL`."""
        errors = [finding for finding in self.findings if finding.grade == "error"]
        if self.refused and not errors:
            return "D"  # for what no check looks at
        if errors:
            return "C" if all(finding.fixable for finding in errors) else "D"
        return "B" if any(finding.grade == "warning" for finding in self.findings) else "A"

    @property
    def headline(self) -> str:
        """`B: warnings: ...`, with the purpose where it is not offline RL."""
        purpose = " for imitation" if self.data.purpose == "imitation" else ""
        return f"{self.grade}{purpose}: {OVERALL[self.grade]}"

    def codes(self, grade: Grade | None = None) -> set[str]:
        """The codes found, of one grade or of all."""
        return {finding.code for finding in self.findings if grade in (None, finding.grade)}

    def fixable(self) -> set[str]:
        """The codes of what `--fix` repairs."""
        return {finding.code for finding in self.findings if finding.fixable}

    def count(self, grade: Grade) -> int:
        return sum(finding.grade == grade for finding in self.findings)

    def counts(self) -> str:
        """`1 error, 2 warnings, no notes`."""
        parts = [(self.count(grade), grade) for grade in GRADES]
        return ", ".join(f"{n or 'no'} {grade}{'' if n == 1 else 's'}" for n, grade in parts)

    def record(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        raw = self.data.raw
        return {
            "format_version": FORMAT_VERSION,
            "name": raw.name,
            "source": raw.location,
            "sha256": raw.sha256,
            "layout": raw.layout,
            "grade": self.grade,
            "purpose": self.data.purpose,
            "counts": {grade: self.count(grade) for grade in GRADES},
            "refused": self.refused,
            "figures": self.figures,
            "findings": [finding.record() for finding in self.findings],
            "skipped": self.skipped,
            "changes": [change._asdict() for change in self.changes],
        }

    def table(self) -> Group:
        """The report for the terminal: figures, findings with their fixes, grade."""
        summary = Table(title=f"{self.data.raw.name}", title_justify="left", show_header=False)
        summary.add_column(no_wrap=True)
        summary.add_column()
        for name, value in _summary(self).items():
            summary.add_row(name, value)
        parts: list[Any] = [summary]
        if self.findings:
            findings = Table("grade", "code", "finding", title="findings", title_justify="left", show_lines=True)
            for finding in self.findings:
                grade = Text(finding.grade, style=COLOURS[finding.grade])
                findings.add_row(grade, Text(finding.code, no_wrap=True), "\n".join(_words(finding)))
            parts.append(findings)
        for change in self.changes:
            parts.append(Text(f"changed  {change.code}: {change.what}"))
        text = f"grade    {self.headline} ({self.counts()})"
        return Group(*parts, Text(text, style=GRADE_COLOURS[self.grade]))

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Writes report.json and report.html into `folder`, which is made if need be; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        json_path, html_path = folder / "report.json", folder / "report.html"
        atomic_write_json(json_path, self.record())
        atomic_write_text(html_path, page(self))
        return json_path, html_path


def check(
    source: str | Path,
    progress: Callable[[str], None] = lambda name: None,
    purpose: Purpose | None = None,
    continuous: bool = False,
) -> Report:
    """Examines a source that may be broken.

    Args:
        source: as for `load_dataset`; also files that it refuses.
        progress: told the name of each check as it starts.
        purpose: what the data are judged for; by default offline RL, and imitation where there are no rewards.
        continuous: as of `load_dataset`.

    Raises:
        InputError: there is no such source, or the file is damaged.
    """
    progress("reading")
    raw = read_raw(source)
    data = Logged(as_levels(raw) if continuous else raw, purpose)
    findings = tuple(run_checks(data, progress))
    skipped = tuple(check.name for check in CHECKS if check.wanted(data) and not check.possible(data))
    progress("load_dataset")
    return Report(data, findings, _refusal(source, continuous), skipped, figures=_figures(data))


def fix(
    source: str | Path,
    out: str | Path,
    only: Collection[str] = (),
    progress: Callable[[str], None] = lambda name: None,
    purpose: Purpose | None = None,
) -> tuple[Report, Report]:
    """Repairs what can be repaired without judgement, into the new file `out` in D4RL's layout.

    Args:
        source: as for `check`; never changed.
        out: a name ending in .hdf5 that does not exist.
        only: codes of findings to repair; all that are fixable by default.
        progress, purpose: as for `check`.

    Returns: the report of `source` (with `changes`) and that of `out`.

    Raises:
        InputError: as `check`; `out` exists; a code in `only` that has no automatic fix or was not found; no row would
            be left.
    """
    check_target(Path(out))
    before = check(source, progress, purpose)
    if not before.fixable() and not only:
        raise InputError(f"nothing to fix automatically in {source}: {before.counts()}")
    return repair(source, before, out, only, progress)


def repair(
    source: str | Path,
    before: Report,
    out: str | Path,
    only: Collection[str] = (),
    progress: Callable[[str], None] = lambda name: None,
) -> tuple[Report, Report]:
    """The same as `fix`, for a source whose report `before` is there already."""
    out = Path(out)
    check_target(out)
    wanted = set(only) or before.fixable()
    for code in sorted(wanted - before.fixable()):
        found = ", ".join(sorted(before.fixable())) or "nothing"
        raise InputError(f"cannot fix {code!r} in {source}: what can be fixed there is {found}")
    progress("fixing")
    if before.data.raw.maps_actions and before.data.has_other_limits:
        wanted = wanted | {"actions-out-of-range"}  # D4RL's layout holds them in [-1, 1], with the limits beside them
    raw, changes = read_raw(source, every_column=True), ()
    raw = as_levels(raw) if before.data.raw.continuous else raw
    for _ in range(MOST_ROUNDS):
        raw, made = apply_fixes(raw, wanted)
        changes += made
        found = [] if only else run_checks(Logged(raw, before.data.purpose))
        wanted = {finding.code for finding in found if finding.fixable}
        if not wanted:
            break
    if not all(len(column) for column in raw.columns.values()):
        raise InputError(f"{source}: a repair would leave no row of it; {out} is not written")
    codes = " ".join(dict.fromkeys(change.code for change in changes))
    left_out = write_d4rl(out, raw, {"fixed_from_sha256": raw.sha256, "fixes": codes})
    if left_out:
        what = f"{', '.join(map(repr, left_out))}: HDF5 or D4RL's layout has another use for the name"
        changes += (Change("left-out", what),)
    purpose = before.data.purpose if before.data.purpose_is_said else None
    return replace(before, changes=changes), check(out, progress, purpose, before.data.raw.continuous)


def _refusal(source: str | Path, continuous: bool) -> str:
    try:
        load_dataset(str(source), continuous=continuous)
    except InputError as error:
        return str(error)
    return ""


def _figures(data: Logged) -> dict[str, Any]:
    """The numbers of the report's head."""
    figures: dict[str, Any] = {
        "rows": data.rows,
        "columns": {
            name: {"shape": list(data.raw.columns[name].shape), "dtype": str(data.raw.columns[name].dtype)}
            for name in STANDARD
            if name in data.raw.columns
        },
        "other_columns": sorted(data.raw.extras),
        "terminals": int(data.terminals.sum()),
        "timeouts": int(data.timeouts.sum()),
    }
    if data.rows == 0:
        return figures
    complete = data.complete
    figures |= {"episodes": len(data.lengths), "length": _statistics(data.lengths[complete])}
    if data.recorded is not None:
        figures |= {"recorded_episodes": len(np.unique(recorded_numbers(data.recorded)))}
    if data.has("rewards"):
        figures |= {"return": _statistics(data.returns), "reward": _statistics(data.rewards)}
        task = data.task
        if task is not None and task.reference_min is not None and not task.recorded_returns and len(data.returns):
            figures["normalized_score"] = _statistics(task.normalized_score(data.returns))
    if data.has("observations"):
        figures["distinct_observations"] = distinct_observations(data)
        figures["directions_of_variance"] = directions_of_variance(data)
    if data.has("actions"):
        figures["action_range"] = [float(data.actions.min()), float(data.actions.max())]
        figures["action_coverage"] = action_coverage(data)
    return figures


def _statistics(values: np.ndarray) -> dict[str, float]:
    if len(values) == 0:
        return {}
    names = ("mean", "std", "min", "max")
    return {name: float(getattr(values, name)()) for name in names} | {"median": float(np.median(values))}


def _summary(report: Report) -> dict[str, str]:
    """The rows of the head, in words."""
    figures, raw = report.figures, report.data.raw
    rows = {
        "source": raw.location,
        "sha256": raw.sha256,
        "layout": raw.layout,
        "columns": ", ".join(f"{n} {tuple(c['shape'])} {c['dtype']}" for n, c in figures["columns"].items()),
        "rows": f"{figures['rows']:,}",
        "terminals, time-outs": f"{figures['terminals']:,}, {figures['timeouts']:,}",
        "episodes": f"{figures.get('episodes', 0):,}",
    }
    if (recorded := figures.get("recorded_episodes", 0)) != figures.get("episodes", 0) and recorded:
        rows["episodes"] += f", pieces among them: {recorded:,} were recorded; returns are of whole ones"
    for key, name in (
        ("length", "episode length"),
        ("return", "return"),
        ("normalized_score", "normalised score"),
        ("reward", "reward"),
    ):
        if figures.get(key):
            rows[name] = "mean {mean:.4g}, from {min:.4g} to {max:.4g}".format(**figures[key])
    coverage = []
    if "distinct_observations" in figures:
        size, directions = report.data.observations.shape[1], figures["directions_of_variance"]
        coverage.append(f"{figures['distinct_observations']:,} distinct observations")
        coverage.append(f"95 % of their variance in {directions} of {size} directions")
    if "action_coverage" in figures:
        coverage.append(f"actions use {figures['action_coverage']:.0%} of [-1, 1]")
    if coverage:
        rows["coverage"] = ", ".join(coverage)
    rows["load_dataset"] = f"refuses it: {report.refused}" if report.refused else "reads it"
    if report.skipped:
        rows["not checked"] = f"for want of columns: {', '.join(report.skipped)}"
    return rows


def _words(finding: Finding) -> list[str]:
    """What, where, why, fix: one line each."""
    code = CODES[finding.code]
    lines = [f"{code.title}: {finding.what}"]
    if str(finding.place):
        lines.append(f"where: {finding.place}")
    return [*lines, f"why: {code.why}", f"fix{' (--fix does it)' if finding.fixable else ''}: {code.fix}"]


# --- the page -----------------------------------------------------------------------------------------------

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0.2em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; } td, th { padding: 0.25em 0.8em 0.25em 0; text-align: left; vertical-align: top; }
th { color: #6B6B6B; font-weight: normal; white-space: nowrap; } td { overflow-wrap: anywhere; }
.grade { font-size: 1.1em; padding: 0.6em 1em; border-radius: 6px; background: #F3F3F3; }
.finding { border-left: 5px solid; padding: 0.3em 0 0.3em 1em; margin: 1em 0; }
.error { border-color: #C0392B; } .warning { border-color: #E69F00; } .note { border-color: #56B4E9; }
.A { border-left: 8px solid #009E73; } .B { border-left: 8px solid #E69F00; }
.C, .D { border-left: 8px solid #C0392B; }
.muted { color: #6B6B6B; } code { background: #F3F3F3; padding: 0 0.3em; border-radius: 3px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)); gap: 1em; }
img { width: 100%; }
"""


def page(report: Report) -> str:
    """The report as one HTML page without any outside reference; pictures are data URIs."""
    name = html.escape(report.data.raw.name)
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in _summary(report).items())
    findings = "".join(_finding_html(finding) for finding in report.findings) or "<p>None.</p>"
    changes = "".join(f"<li><code>{c.code}</code> {html.escape(c.what)}</li>" for c in report.changes)
    pictures = "".join(
        f'<img alt="{html.escape(title)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for title, png in draw_pictures(report.data).items()
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{name}: data check</title><style>{STYLE}</style></head><body>
<h1>{name}</h1>
<p class="grade {report.grade}"><b>Grade</b> {report.headline} ({report.counts()})</p>
<table>{rows}</table>
<h2>Findings</h2>
{findings}
{f"<h2>Changed</h2><ul>{changes}</ul>" if changes else ""}
<h2>Pictures</h2>
<div class="pictures">{pictures}</div>
</body></html>
"""


def _finding_html(finding: Finding) -> str:
    code = CODES[finding.code]
    where = str(finding.place)
    rows = {
        "what": finding.what,
        "where": where,
        "why it matters": code.why,
        "fix": code.fix + (" (automatic: --fix)" if finding.fixable else ""),
    }
    cells = "".join(f"<tr><th>{k}</th><td>{html.escape(v)}</td></tr>" for k, v in rows.items() if v)
    return (
        f'<div class="finding {finding.grade}"><b>{html.escape(code.title)}</b> '
        f'<span class="muted">{finding.grade}, <code>{finding.code}</code></span><table>{cells}</table></div>'
    )
