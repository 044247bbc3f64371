"""What the documentation site has beyond docs/: hooks of mkdocs.yml.

Pages are made of examples/*.py (a tutorial each), of the Markdown outside docs/ (benchmarks, CONTRIBUTING, CHANGELOG),
of the public names (reference.md) and of the algorithms (algorithms/index.md). Links that work in a checkout are turned
into links of the site; what the site does not have, such as source files, stays as plain text.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = {
    "tutorials/first-run.md": "examples/first_run.py",
    "tutorials/own-data.md": "examples/own_data.py",
    "tutorials/own-environment.md": "examples/own_environment.py",
    "tutorials/comparison.md": "examples/comparison.py",
}
OUTSIDE = {  # page of the site -> file of the repository
    "benchmarks/index.md": "benchmarks/README.md",
    "benchmarks/compare-hopper-medium-100k.md": "benchmarks/results/compare-hopper-medium-100k.md",
    "benchmarks/compare-halfcheetah-medium-100k.md": "benchmarks/results/compare-halfcheetah-medium-100k.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
FILE = re.compile(r"^<!-- file: (\S+) -->$", re.MULTILINE)  # a file of the repository, shown there
CELL = re.compile(r"^# %%.*\n", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The algorithms' part of the navigation."""
    for part in config.nav or []:
        if "Algorithms" in part:
            part["Algorithms"] = _algorithm_pages()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages that are in no file of docs/."""
    made = {page: tutorial(ROOT / file) for page, file in TUTORIALS.items()}
    made |= {page: (ROOT / file).read_text(encoding="utf-8") for page, file in OUTSIDE.items()}
    made |= {"reference.md": reference(), "algorithms/index.md": overview()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Files that a page shows; links as the site has them, outside code blocks."""
    here = ROOT / source_of(page.file.src_uri)
    markdown = FILE.sub(_shown, markdown)
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else LINK.sub(lambda match: _link(match, here, page.file.src_uri, files), part)
        for part in parts
    )


def source_of(page: str) -> str:
    """The file of the repository that a page of the site is made of; its links begin there."""
    folder = page.removesuffix("/index.md") if page == "algorithms/index.md" else page
    return (TUTORIALS | OUTSIDE).get(page, f"docs/{folder}")


def _shown(match: re.Match[str]) -> str:
    path = ROOT / match.group(1)
    language = {".py": "python", ".toml": "toml", ".json": "json"}.get(path.suffix, "text")
    return f"`{match.group(1)}`:\n\n```{language}\n{path.read_text(encoding='utf-8').strip()}\n```"


def _link(match: re.Match[str], here: Path, page: str, files: Files) -> str:
    image, text, target = match.groups()
    path, _, anchor = target.partition("#")
    if "://" in target or not path or target.startswith("mailto:"):
        return match.group()
    pages = {(ROOT / source_of(file.src_uri)).resolve(): file.src_uri for file in files}
    found = pages.get((here.parent / path).resolve())
    if found is None:
        if not (here.parent / path).exists():
            return match.group()  # mkdocs says that it is broken
        return text if not image else f"*{text}*"
    return f"{image}[{text}]({os.path.relpath(found, Path(page).parent)}{'#' + anchor if anchor else ''})"


def tutorial(path: Path) -> str:
    """A page of a script: its docstring, then `# %%` cells: comments that begin one are text, the rest is code."""
    first, *cells = CELL.split(path.read_text(encoding="utf-8"))
    title, _, text = first.strip().removeprefix('"""').removesuffix('"""').partition("\n")
    where = path.relative_to(ROOT).as_posix()
    parts = [f"# {title.rstrip('.')}", text.strip(), f"All of it is one file, `{where}`: `python {where}` runs it."]
    for cell in cells:
        lines = cell.strip("\n").splitlines()
        prose = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
        parts.append("\n".join(re.sub(r"^# ?", "", line) for line in lines[:prose]))
        code = "\n".join(lines[prose:]).strip("\n")
        parts.append(f"```python\n{code}\n```" if code else "")
    return "\n\n".join(part for part in parts if part) + "\n"


def reference() -> str:
    """The docstrings of the public names, in the order of docs/api.md."""
    parts = [
        "# Python reference",
        "Everything [public](api.md), `tether.NAME`. An algorithm's hyper-parameters are on [its page](algorithms).",
    ]
    for section in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        title = section.splitlines()[0]
        names = dict.fromkeys(re.findall(r"^\| `(\w+)", section, re.MULTILINE))
        options = "\n    options: {members: [], show_source: false}" if title == "Algorithms" else ""
        parts += [f"## {title}", *(f"::: tether.{name}{options}" for name in names)]
    return "\n\n".join(parts) + "\n"


def overview() -> str:
    """The page that lists all algorithms, by family."""
    from tether.algorithms import ALGORITHMS
    from tether.algorithms.catalogue import catalogue

    entries = [entry for entry in catalogue().values() if entry.name in ALGORITHMS]
    text = (
        "# Algorithms\n\n[Which one?](../choosing.md) `tether algorithms` also shows what each costs and has passed.\n"
    )
    for family in dict.fromkeys(entry.family for entry in entries):
        text += f"\n## {family.capitalize()}\n\n| name | what it is | paper |\n|---|---|---|\n"
        for entry in entries:
            if entry.family == family:
                paper = f"[{entry.paper}](https://arxiv.org/abs/{entry.paper})" if entry.paper else ""
                text += f"| [`{entry.name}`]({_page(entry.name)}) | {entry.what} | {paper} |\n"
    return text


def _page(name: str) -> str:
    return "bdpo.md" if name == "bdpo-unimodal" else f"{name}.md"


def _algorithm_pages() -> list[Any]:
    from tether.algorithms import FAMILIES

    found: list[Any] = ["algorithms/index.md"]
    for family, names in FAMILIES.items():
        pages = dict.fromkeys(_page(name) for name in names)
        found.append({family.capitalize(): [{page.removesuffix(".md"): f"algorithms/{page}"} for page in pages]})
    return found
