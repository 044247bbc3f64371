"""A report as one HTML page without any outside reference: tables, figures as inline SVG, costs, protocol, commands."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tether._version import __version__
from tether.bench.forecast import duration
from tether.studies.report.material import Material, RunRecord
from tether.studies.report.tables import improvement_rows, score_rows, verdict_cells

__all__ = ["page"]

MARKS = {"inside": "✓", "below": "▼", "above": "▲", "not comparable": "○"}  # so that words also read in grey
STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1F2328; background: #fff; max-width: 1280px; margin: 0 auto;
  padding: 2rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; border-top: 1px solid #E4E4E4; padding-top: 1.2rem; }
p, li { max-width: 75ch; } .muted, figcaption { color: #59636E; font-size: .9rem; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #1F2328; white-space: nowrap; }
tbody td, tbody th { border-bottom: 1px solid #ECECEC; } tbody th { font-weight: normal; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
td.best { font-weight: 700; } td.why { min-width: 16rem; max-width: 34rem; }
.verdict { display: inline-block; white-space: nowrap; padding: .05rem .55rem; border-radius: 1rem; border: 2px solid; }
.inside { background: #D9F2E6; border-color: #00734F; color: #00412D; }
.below { background: #8F1D12; border-color: #5C0F08; color: #fff; }
.above { background: #CFE4F5; border-color: #0072B2; border-style: double; border-width: 4px; color: #00395A; }
.not { background: #fff; border-color: #8A8A8A; border-style: dashed; color: #4A4A4A; }
figure { margin: 1.2rem 0; } figure svg { width: 100%; height: auto; max-width: 900px; }
pre { background: #F6F8FA; padding: .7rem .9rem; overflow-x: auto; border-radius: 6px; font-size: .84rem; }
ul.notes { margin: .3rem 0 0; padding-left: 1.1rem; } ul.notes li { font-size: .84rem; color: #59636E; }
@media (max-width: 600px) { body { font-size: 15px; padding-top: 1rem; } h1 { font-size: 1.3rem; }
  tbody th { white-space: normal; overflow-wrap: anywhere; min-width: 7.5rem; }
  figure svg { min-width: 560px; } figure .wide { border: 1px solid #ECECEC; } }
@page { size: A4; margin: 14mm; }
@media print { body { padding: 0; max-width: none; font-size: 10.5px; } .wide { overflow: visible; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; } h2, figure, tr { break-inside: avoid; }
  table { font-size: 9px; } td.why { min-width: 0; } th, td { padding-right: .5rem; white-space: normal !important; } }
"""


def page(material: Material, figures: Mapping[str, tuple[str, Path]], command: str) -> str:
    """figures: name -> (caption, SVG file)."""
    title, runs = html.escape(material.title), [run for runs in material.runs.values() for run in runs]
    parts = [_head(material, runs)]
    if material.verdicts:
        parts.append(_section("Verdicts", _verdicts(material.verdicts)))
    if runs:
        parts.append(_section("Scores", _scores(material)))
        parts += [_section("Figures", "".join(_figure(*figure) for figure in figures.values()))] if figures else []
        if improvements := improvement_rows(material):
            parts.append(_section("Probability of improvement", _improvements(improvements)))
        parts.append(_section("Costs", _costs(material)))
        parts.append(_section("Protocol", _protocol(material)))
        parts.append(_section("Commands", _commands(runs, command)))
    if material.left_out:
        parts.append(_section("Left out", _list(material.left_out)))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n'
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _head(material: Material, runs: Sequence[RunRecord]) -> str:
    seeds = sum(len(run.config["lanes"]) for run in runs)
    counts = f"{len(runs)} runs, {seeds} seeds, {len(material.tasks)} tasks, {len(material.runs)} methods"
    words = [counts if runs else "nothing trained yet", f"tether {__version__}"]
    if material.verdicts:
        found = [row["verdict"]["word"] for row in material.verdicts]
        words.insert(0, ", ".join(f"{found.count(word)} {word}" for word in MARKS if word in found))
    return f'<h1>{html.escape(material.title)}</h1><p class="muted">{html.escape("; ".join(words))}</p>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """rows: of cells that are HTML already, each with its own tag."""
    head = "".join(f'<th scope="col"{_right(word)}>{html.escape(word.removeprefix(">"))}</th>' for word in heads)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    words = f'<p class="muted">{html.escape(caption)}</p>' if caption else ""
    return f'{words}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _right(head: str) -> str:
    """A head that begins with > stands over numbers."""
    return ' class="number"' if head.startswith(">") else ""


def _name(text: str) -> str:
    return f'<th scope="row">{html.escape(text)}</th>'


def _cell(text: str, kind: str = "number") -> str:
    return f'<td class="{kind}">{html.escape(text)}</td>'


def _list(lines: Sequence[str], kind: str = "") -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{html.escape(line)}</li>" for line in lines)}</ul>'


def _verdicts(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        cell, published, measured, updates, word, reason = verdict_cells(row)
        notes = _list(row["verdict"]["reservations"], "notes") if row["verdict"]["reservations"] else ""
        sure = "" if row["verdict"]["certain"] or word == "not comparable" else " ?"
        kind = word.split()[0]
        mark = f'<span class="verdict {kind}">{MARKS[word]} {word}{sure}</span>'
        why = f'<td class="why">{html.escape(reason)}{notes}</td>'
        lines.append([_name(cell), f"<td>{mark}</td>", _cell(published), _cell(measured), _cell(updates), why])
        for at in row["milestones"]:
            value = "-" if at["measured"] is None else f"{at['measured']:.1f}"
            goal = "-" if at["band"] is None else f"{at['band']['value']:g}"
            mark = f'<span class="verdict {at["word"].split()[0]}">{MARKS[at["word"]]} {at["word"]}</span>'
            cells = [_cell(goal), _cell(value), _cell(f"{at['updates']:,}")]
            lines.append([_name("at the same update"), f"<td>{mark}</td>", *cells, "<td></td>"])
    caption = "? : our 95 % interval reaches to the other side of the band's end. What is not the same stands below."
    return _table(["cell", "verdict", ">published", ">measured", ">updates", "why"], lines, caption)


def _scores(material: Material) -> str:
    rows = [
        [_name(task), *(_cell(cell.text, "number best" if cell.best else "number") for cell in cells)]
        for task, cells in score_rows(material)
    ]
    caption = f"{material.score_name}: mean of the last evaluation and its 95 % interval over seeds (Student's t)"
    return _table(["task", *(f">{method}" for method in material.runs)], rows, caption)


def _figure(caption: str, path: Path) -> str:
    words = html.escape(caption)
    return f'<figure><div class="wide">{_svg(path)}</div><figcaption>{words}</figcaption></figure>'


def _svg(path: Path) -> str:
    """The drawing alone, its ids made its own: several stand on one page."""
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    stem = re.sub(r"\W", "-", path.stem)
    text = re.sub(r'id="([^"]+)"', rf'id="{stem}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{stem}-", text)
    start = text.index(">")  # width and height come from the page; viewBox keeps the proportions
    return re.sub(r' (width|height)="[^"]*"', "", text[:start]) + text[start:]


def _improvements(rows: Sequence[tuple[str, str, float]]) -> str:
    lines = [[_name(ours), _cell(theirs, ""), _cell(f"{value:.2f}")] for ours, theirs, value in rows]
    caption = "P(a run of X scores more than one of Y), ties half, mean over the tasks that both have"
    return _table(["X", "Y", ">P(X > Y)"], lines, caption)


def _costs(material: Material) -> str:
    lines = []
    for method, runs in material.runs.items():
        for run in runs:
            found = run.result
            speed, wall = found.get("updates_per_second"), found.get("wall_seconds")
            cells = [f"{run.updates:,}", str(len(run.config["lanes"]))]
            cells += ["-" if speed is None else f"{speed:,.1f}", "-" if wall is None else duration(float(wall))]
            cells += [duration(float(found[name])) if name in found else "-" for name in COST_SECONDS]
            lines.append([_name(method), _cell(run.task, ""), *map(_cell, cells), _cell(_machine(run), "")])
    numbers = (">updates", ">seeds", ">updates/s", ">wall", ">compiling", ">evaluating")
    heads = ["method", "task", *numbers, "machine"]
    return _table(heads, lines)


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
            seeds = ", ".join(str(lane["seed"]) for lane in run.config["lanes"])
            lines.append([_name(method), _cell(run.task, ""), _cell(seeds, ""), *map(_cell, cells)])
            lines[-1] += [_cell(word, "") for word in words]
    heads = ["method", "data", "seeds", ">batch", ">episodes", "environment", "transforms", "precision", "data sha256"]
    return _table([*heads, "versions", "commit"], lines)


def _commands(runs: Sequence[RunRecord], command: str) -> str:
    lines = [*dict.fromkeys(run.command for run in runs), command]
    return f"<pre>{html.escape(chr(10).join(filter(None, lines)))}</pre>"
