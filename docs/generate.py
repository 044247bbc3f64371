"""Writes docs/algorithms/NAME.md of the baselines from their header, fields and presets: `python docs/generate.py`.

The pages of the library's own methods are written by hand (HAND_WRITTEN). tests/test_docs.py checks that the others are
what this script would write.
"""

import inspect
import re
import sys
import tomllib
from pathlib import Path

from tether.algorithms import ALGORITHMS
from tether.presets import preset_names

ROOT = Path(__file__).resolve().parents[1]
HAND_WRITTEN = ("dtql", "dtql-kl", "dac", "bdpo", "bdpo-unimodal")
FIELD = re.compile(r"^    (\w+): [^=]+= (.+?)(?:  # (.*))?$")


def generated_names() -> list[str]:
    """The algorithms whose pages this script writes."""
    return [name for name in ALGORITHMS if name not in HAND_WRITTEN]


def page(name: str) -> str:
    """The Markdown page of one algorithm."""
    cls = ALGORITHMS[name]
    header = inspect.getdoc(sys.modules[cls.__module__]) or ""
    first, _, rest = header.partition("\n")
    file = Path(inspect.getfile(cls)).relative_to(ROOT)
    papers = sorted(set(re.findall(r"arXiv\s+(\d{4}\.\d{5})", header)))
    links = ", ".join(f"[arXiv {paper}](https://arxiv.org/abs/{paper})" for paper in papers)
    parts = [
        f"# `{name}`",
        first,
        f"{links}. Code: [`{file}`](../../{file}).",
        "The header of the file, with the objective and every deviation:",
        "```\n" + rest.strip("\n") + "\n```",
        "## Hyper-parameters",
        "Those marked *swept* are numbers that `--sweep` takes; the others change the program.",
        "| field | default | | meaning |\n|---|---|---|---|\n" + "\n".join(_rows(cls)),
        "## Presets",
        _presets(name),
        f"```\ntether train {name} hopper-medium.hdf5 --preset {_example(name)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _rows(cls: type) -> list[str]:
    """A row per field, in the source's order; a field without a comment explains itself."""
    rows = []
    for line in inspect.getsource(cls).splitlines():
        if line.startswith("    def "):
            break
        if (match := FIELD.match(line)) and "ClassVar" not in line:
            field, default, meaning = match.groups()
            static = re.fullmatch(r"eqx\.field\(static=True, default=(.*)\)", default)
            value = static.group(1) if static else default
            rows.append(
                f"| `{field}` | `{value}` | {'' if static else 'swept'} | {(meaning or '').replace('|', '¦')} |"
            )
    return rows


def _presets(name: str) -> str:
    path = ROOT / "src" / "tether" / "presets" / f"{name}.toml"
    tomllib.loads(path.read_text(encoding="utf-8"))  # a page must not name a broken file
    families = sorted({task.split("-")[0] for task in preset_names(name)})
    count = len(preset_names(name))
    return (
        f"{count} tasks ({', '.join(families)}), the source of every number beside it: "
        f"[`presets/{name}.toml`](../../src/tether/presets/{name}.toml)."
    )


def _example(name: str) -> str:
    names = preset_names(name)
    return "hopper-medium-v2" if "hopper-medium-v2" in names else names[0]


if __name__ == "__main__":
    for name in generated_names():
        (ROOT / "docs" / "algorithms" / f"{name}.md").write_text(page(name), encoding="utf-8")
