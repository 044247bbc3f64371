"""A report as one HTML page without any outside reference: tables, figures as inline SVG, costs, protocol, commands."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tether._version import __version__
from tether.bench.forecast import duration
from tether.studies.report.material import Material, RunRecord
from tether.studies.report.parts import document, inline_figure, listed, name_cell, section, table, value_cell
from tether.studies.report.tables import improvement_rows, score_rows, verdict_cells

__all__ = ["page"]

MARKS = {"inside": "✓", "below": "▼", "above": "▲", "not comparable": "○"}  # so that words also read in grey


def page(material: Material, figures: Mapping[str, tuple[str, Path]], command: str) -> str:
    """figures: name -> (caption, SVG file)."""
    runs = [run for runs in material.runs.values() for run in runs]
    parts = [_head(material, runs)]
    if material.verdicts:
        parts.append(section("Verdicts", _verdicts(material.verdicts)))
    if runs:
        parts.append(section("Scores", _scores(material)))
        parts += [section("Figures", "".join(inline_figure(*figure) for figure in figures.values()))] if figures else []
        if improvements := improvement_rows(material):
            parts.append(section("Probability of improvement", _improvements(improvements)))
        parts.append(section("Costs", _costs(material)))
        parts.append(section("Protocol", _protocol(material)))
        parts.append(section("Commands", _commands(runs, command)))
    if material.reservations:
        parts.append(section("Reservations", listed(material.reservations)))
    return document(material.title, parts)


def _head(material: Material, runs: Sequence[RunRecord]) -> str:
    seeds = sum(len(run.lanes) for run in runs)
    counts = f"{len(runs)} runs, {seeds} seeds, {len(material.tasks)} tasks, {len(material.runs)} methods"
    words = [counts if runs else "nothing trained yet", f"tether {__version__}"]
    if material.verdicts:
        found = [row["verdict"]["word"] for row in material.verdicts]
        words.insert(0, ", ".join(f"{found.count(word)} {word}" for word in MARKS if word in found))
    return f'<h1>{html.escape(material.title)}</h1><p class="muted">{html.escape("; ".join(words))}</p>'


def _verdicts(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        cell, published, measured, updates, word, reason = verdict_cells(row)
        notes = listed(row["verdict"]["reservations"], "notes") if row["verdict"]["reservations"] else ""
        sure = "" if row["verdict"]["certain"] or word == "not comparable" else " ?"
        kind = word.split()[0]
        mark = f'<span class="verdict {kind}">{MARKS[word]} {word}{sure}</span>'
        why = f'<td class="why">{html.escape(reason)}{notes}</td>'
        lines.append(
            [name_cell(cell), f"<td>{mark}</td>", value_cell(published), value_cell(measured), value_cell(updates), why]
        )
        for at in row["milestones"]:
            value = "-" if at["measured"] is None else f"{at['measured']:.1f}"
            goal = "-" if at["band"] is None else f"{at['band']['value']:g}"
            mark = f'<span class="verdict {at["word"].split()[0]}">{MARKS[at["word"]]} {at["word"]}</span>'
            cells = [value_cell(goal), value_cell(value), value_cell(f"{at['updates']:,}")]
            lines.append([name_cell("at the same update"), f"<td>{mark}</td>", *cells, "<td></td>"])
    caption = "? : our 95 % interval reaches to the other side of the band's end. What is not the same stands below."
    return table(["cell", "verdict", ">published", ">measured", ">updates", "why"], lines, caption)


def _scores(material: Material) -> str:
    rows = [
        [name_cell(task), *(value_cell(cell.text, "number best" if cell.best else "number") for cell in cells)]
        for task, cells in score_rows(material)
    ]
    interval = "its 95 % interval over seeds (Student's t; one seed has none)"
    caption = f"{material.score_name}: mean of the last evaluation and {interval}"
    return table(["task", *(f">{method}" for method in material.runs)], rows, caption)


def _improvements(rows: Sequence[tuple[str, str, float]]) -> str:
    lines = [[name_cell(ours), value_cell(theirs, ""), value_cell(f"{value:.2f}")] for ours, theirs, value in rows]
    caption = "P(a run of X scores more than one of Y), ties half, mean over the tasks that both have"
    return table(["X", "Y", ">P(X > Y)"], lines, caption)


def _costs(material: Material) -> str:
    lines = []
    for method, runs in material.runs.items():
        for run in runs:
            found = run.result
            speed, wall = found.get("updates_per_second"), found.get("wall_seconds")
            cells = [f"{run.updates:,}", str(len(run.lanes))]
            cells += ["-" if speed is None else f"{speed:,.1f}", "-" if wall is None else duration(float(wall))]
            cells += [duration(float(found[name])) if name in found else "-" for name in COST_SECONDS]
            lines.append(
                [name_cell(method), value_cell(run.task, ""), *map(value_cell, cells), value_cell(_machine(run), "")]
            )
    numbers = (">updates", ">seeds", ">updates/s", ">wall", ">compiling", ">evaluating")
    heads = ["method", "task", *numbers, "machine"]
    return table(heads, lines)


PACKAGES = ("tether", "jax", "gymnasium", "mujoco", "ogbench")
COST_SECONDS = ("compile_seconds", "evaluation_seconds")


def _machine(run: RunRecord) -> str:
    return f"{run.config.get('device', '?')} x {run.config.get('devices', 1)}"


def _protocol(material: Material) -> str:
    lines = []
    for method, runs in material.runs.items():
        for run in runs:
            settings, data = run.config.get("settings", {}), run.config.get("data", {})
            transforms = [data.get(f"{part}_transform", {}).get("name", "none") for part in ("reward", "observation")]
            versions = run.config.get("versions", {})
            kept = [f"{name} {versions[name]}" for name in PACKAGES if name in versions]
            cells = [str(settings.get("batch_size", "?")), str(settings.get("eval_episodes", "?"))]
            words = [f"{run.config.get('environment')}, horizon {run.config.get('horizon')}", ", ".join(transforms)]
            words += [settings.get("precision", "float32"), str(data.get("sha256") or "-")[:12], ", ".join(kept)]
            words += [str(run.config.get("commit") or "-")[:10]]
            seeds = ", ".join(str(lane["seed"]) for lane in map(run.config["lanes"].__getitem__, run.lanes))
            lines.append([name_cell(method), value_cell(run.task, ""), value_cell(seeds, ""), *map(value_cell, cells)])
            lines[-1] += [value_cell(word, "") for word in words]
    heads = ["method", "data", "seeds", ">batch", ">episodes", "environment", "transforms", "precision", "data sha256"]
    return table([*heads, "versions", "commit"], lines)


def _commands(runs: Sequence[RunRecord], command: str) -> str:
    lines = [*dict.fromkeys(run.command for run in runs), command]
    return f"<pre>{html.escape(chr(10).join(filter(None, lines)))}</pre>"
