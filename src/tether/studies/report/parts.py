"""What pages are made of: HTML without any outside reference, figures as inline SVG."""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["document", "inline_figure", "listed", "name_cell", "section", "table", "value_cell"]

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


def document(title: str, parts: Sequence[str]) -> str:
    """The whole page; parts: HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{STYLE}</style></head>\n'
        "<body><main>\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A part of the page with a heading; body: HTML."""
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """rows: of cells that are HTML already, each with its own tag."""
    head = "".join(f'<th scope="col"{_right(word)}>{html.escape(word.removeprefix(">"))}</th>' for word in heads)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    words = f'<p class="muted">{html.escape(caption)}</p>' if caption else ""
    return f'{words}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _right(head: str) -> str:
    """A head that begins with > stands over numbers."""
    return ' class="number"' if head.startswith(">") else ""


def name_cell(text: str) -> str:
    """The first cell of a row."""
    return f'<th scope="row">{html.escape(text)}</th>'


def value_cell(text: str, kind: str = "number") -> str:
    """Another one; kind: its CSS class."""
    return f'<td class="{kind}">{html.escape(text)}</td>'


def listed(lines: Sequence[str], kind: str = "") -> str:
    """A line each."""
    return f'<ul class="{kind}">{"".join(f"<li>{html.escape(line)}</li>" for line in lines)}</ul>'


def inline_figure(caption: str, path: Path) -> str:
    """The drawing of an SVG file with its caption."""
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
