"""Writes docs/algorithms/NAME.md of the baselines from their header, fields, presets and results, and which checks each
algorithm has passed (src/tether/algorithms/checks.json), and docs/api.md, the public names: `python docs/generate.py`.

The pages of the library's own methods are written by hand (HAND_WRITTEN). tests/test_docs.py checks that the rest is
what this script would write.
"""

import ast
import dataclasses
import inspect
import json
import re
import sys
import tomllib
import typing
from pathlib import Path
from typing import Any

import tether
from tether.algorithms import ALGORITHMS
from tether.algorithms.catalogue import catalogue
from tether.presets import domain_of, preset_names
from tether.ranges import ranges_of
from tether.runs.plan import EVAL_DEVICES, Options
from tether.training.precision import PRECISIONS

ROOT = Path(__file__).resolve().parents[1]
HAND_WRITTEN = ("dtql", "dtql-kl", "dac", "bdpo", "bdpo-unimodal")
TESTS, RESULTS = ROOT / "tests", ROOT / "benchmarks" / "results"
CHECKS = ROOT / "src" / "tether" / "algorithms" / "checks.json"
EQUATIONS = (  # the files that hold algorithms to their equations
    *("baselines", "bdpo", "bdpo_unimodal", "dac", "dt", "dtql", "dtql_kl", "in_sample", "online_algorithms", "qgpo"),
    *("sfbc", "soft_actors"),
)
BOOKKEEPING = ("test_every_baseline_has_an_answer",)  # names all algorithms and tests none
TRAINING = re.compile(r"\brun_updates\(|\blax\.(scan|fori_loop)\(")  # a test of equations that learns its answer
GALLERY, CLOSED = ROOT / "docs" / "gallery", 0.8  # of the energy distance between data and exact target
STATIC = re.compile(r"(?:eqx\.field\(static=True, default=|acting_field\()((?:(?!, static=False).)*)\)")
SWEPT_ACTING = re.compile(r"acting_field\((.*), static=False\)")
FIELD = re.compile(r"^    (\w+): [^=]+= (.+?)(?:  # (.*))?$")


PUBLIC = {
    "Train and evaluate": (
        "train",
        "finetune",
        "resume",
        "evaluate",
        "load_policy",
        "export_policy",
        "find_preset",
        "Options",
        "Report",
    ),
    "Data": ("load_dataset", "Dataset", "Framing"),
    "Watch a run": ("Callback", "EarlyStopping", "KeepBest"),
    "Studies": ("compare", "choose", "sweep"),
    "Build on it": ("register", "check_algorithm", "ALGORITHMS", "Phase", "Spec", "Transition"),
    "Faults": ("InputError",),
}
"""The sections of docs/api.md; algorithms have one of their own."""
MODULES = {
    "data": ("Downloads",),
    "doctor": ("check", "fix"),
    "environments": ("Task", "find_task"),
    "ope": ("importance_ratios", "importance_sampling", "doubly_robust", "fit_values"),
}
"""Public names of modules that `import tether` has besides."""
CONSTANTS = {"ALGORITHMS": "Name -> class of every algorithm, the library's own and those that are registered."}
API_HEAD = """# The public API

`import tether` takes no time: names are resolved when they are used. Those on this page are public and follow semantic
versioning ([how](../CONTRIBUTING.md#versions-and-what-is-public)): what worked in a version works in the next one, or
warns for a version first. Whoever builds an algorithm, a reader or a view needs more than these names: what `__all__`
lists in `tether.algorithms.interface`, `tether.algorithms.shared`, `tether.networks`, `tether.diffusion`,
`tether.policies.acting`, `tether.policies.selection`, `tether.data.views` and `tether.data.transforms` is public as
well. Whatever else can be imported is internal and may change at any time.

Every argument, shape and exception stands in the docstring: `help(tether.train)`. A misspelt name is answered with
those that are near: `tether.DTQL(expectil=0.9)`, `tether.dtql`. Bad input raises `tether.InputError`, one line that
names the value, the place and the choices.
"""


RANGES_HEAD = """# Hyper-parameters and options

Every number states what is allowed, beside its default in the source; a value that is not is refused where it is given,
by `--set`, `--sweep`, a preset, a recorded run or in Python. The other algorithms' tables stand on
[their pages](choosing.md). Those marked *swept* are numbers that `--sweep` takes.
"""


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
        "The header of the file, with the objective and every deviation.",
        _prose(rest.strip("\n")),
        "## Hyper-parameters",
        "Those marked *swept* are numbers that `--sweep` takes; the others change the program. A value that is not "
        "allowed is refused.",
        _hyperparameters(cls),
        "## Presets",
        _presets(name),
        f"```\n{_example(name)}\n```",
        "## Results",
        _results(name),
    ]
    return "\n\n".join(parts) + "\n"


def api_page() -> str:
    """docs/api.md: every name of `tether.__all__`, with the first line of its docstring."""
    parts = [API_HEAD.strip()]
    for title, names in PUBLIC.items():
        parts += [f"## {title}", _table([line for name in names for line in _described(name)])]
    inner = [
        (f"`{room}.{name}`", _first_line(inspect.getdoc(getattr(getattr(tether, room), name)) or ""))
        for room, public in MODULES.items()
        for name in public
    ]
    parts += ["## Modules", _table(inner)]
    names = {cls.__name__: name for name, cls in ALGORITHMS.items()}
    rows = [(f"`{cls}`", f"[`{name}`](algorithms/{_page_of(name)}.md)", _what(cls)) for cls, name in names.items()]
    parts += ["## Algorithms", _table(rows, ("class", "name", "what it is"))]
    return "\n\n".join(parts) + "\n"


def _described(name: str) -> list[tuple[str, ...]]:
    """The rows of a public name: itself, and the public methods and properties of a class."""
    thing = getattr(tether, name)
    if name in CONSTANTS:
        return [(f"`{name}`", CONSTANTS[name])]
    rows = [(f"`{name}`" if isinstance(thing, type) else f"`{name}({_arguments(thing)})`", _what(name))]
    own = {} if not isinstance(thing, type) else {key: value for key, value in vars(thing).items() if key[0] != "_"}
    for key, member in own.items():
        text = inspect.getdoc(member) if isinstance(member, property | classmethod) or callable(member) else None
        if text:
            call = "" if isinstance(member, property) else f"({_arguments(getattr(thing, key))})"
            rows.append((f"`{name}.{key}{call}`", _first_line(text)))
    return rows


def _arguments(function: Any) -> str:
    """`algorithm, dataset, *, ...`: what has to be given."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in needed]
    if keywords:  # cannot be given by place
        needed.insert(needed.index(keywords[0]), "*")
    return ", ".join(needed + (["..."] if len(parameters) > len(needed) else []))


def _what(name: str) -> str:
    text = inspect.getdoc(getattr(tether, name)) or ""
    if name in {cls.__name__ for cls in ALGORITHMS.values()}:
        return next(entry.what for key, entry in catalogue().items() if ALGORITHMS[key].__name__ == name) + "."
    return _first_line(text)


def _first_line(text: str) -> str:
    """The first sentence or paragraph of a docstring."""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "¦").removesuffix(":")


def _page_of(name: str) -> str:
    """`bdpo-unimodal` is a section of BDPO's page."""
    return "bdpo" if name == "bdpo-unimodal" else name


def _table(rows: list[tuple[str, ...]], heads: tuple[str, ...] = ("name", "what it is")) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *lines])


def _prose(header: str) -> str:
    """A header as Markdown: equations, which are indented by four, as code; its numbered deviations as a list."""
    found: list[str] = []
    kind = ""
    for line in header.splitlines():
        number = re.match(r"  (\d+\. .*)", line)
        goes_on = kind == "list" and line.startswith("     ")
        now = "list" if number or goes_on else "code" if line.startswith("    ") else "text"
        if not line.strip() and kind == "code":
            continue  # the next line says whether the block goes on
        if now != kind:
            found += ["```"] if kind == "code" else []
            found += [""] if found and found[-1] else []
            found += ["```"] if now == "code" else []
        text = number.group(1) if number else "   " + line.strip() if goes_on else line.strip()
        found.append(line if now == "code" else _escaped(text))
        kind = now
    return "\n".join(found + (["```"] if kind == "code" else []))


def _escaped(text: str) -> str:
    """Words that Markdown would take for emphasis, links or tags; code in backquotes stays."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_\[\\])", r"\\\1", part).replace("<", "&lt;") for part in parts
    )


def _hyperparameters(cls: type) -> str:
    return "| field | default | allowed | | meaning |\n|---|---|---|---|---|\n" + "\n".join(_rows(cls))


def ranges_page() -> str:
    """docs/hyperparameters.md: what is allowed of the algorithms whose pages are written by hand, and of options."""
    parts = [RANGES_HEAD.strip(), "## Options of a run", _options()]
    for name in HAND_WRITTEN:
        parts += [f"## `{name}`", _hyperparameters(ALGORITHMS[name])]
    return "\n\n".join(parts).replace("(../", "(") + "\n"


def _options() -> str:
    ranges, choices = ranges_of(Options), {"eval_device": EVAL_DEVICES, "precision": PRECISIONS}
    rows = []
    for line in inspect.getsource(Options).splitlines():
        if match := FIELD.match(line):
            field, default, meaning = match.groups()
            allowed = ", ".join(choices[field]) if field in choices else str(ranges[field])
            rows.append(f"| `{field}` | `{default}` | {allowed} | {(meaning or '').replace('|', '¦')} |")
    return "| field | default | allowed | meaning |\n|---|---|---|---|\n" + "\n".join(rows)


def _allowed(cls: type, field: dataclasses.Field) -> str:
    """The values that a hyper-parameter takes, in words."""
    kind = typing.get_type_hints(cls)[field.name]
    if (stated := ranges_of(cls).get(field.name)) is not None:
        return str(stated)
    if field.metadata.get("registry") == "network":
        return "[a network](../extending.md#networks)"
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    return "`True`, `False`" if kind is bool else "any number"


def _rows(cls: type) -> list[str]:
    """A row per field, in the source's order; a field without a comment explains itself."""
    rows, fields = [], {field.name: field for field in dataclasses.fields(cls)}
    for line in inspect.getsource(cls).splitlines():
        if line.startswith("    def "):
            break
        if (match := FIELD.match(line)) and "ClassVar" not in line:
            field, default, meaning = match.groups()
            default = re.sub(r"network_field\(.*\)", 'eqx.field(static=True, default="mlp")', default)
            static = STATIC.fullmatch(default)
            known = static or SWEPT_ACTING.fullmatch(default)
            value = known.group(1) if known else default
            swept, allowed = "" if static else "swept", _allowed(cls, fields[field])
            rows.append(f"| `{field}` | `{value}` | {allowed} | {swept} | {(meaning or '').replace('|', '¦')} |")
    return rows


def _presets(name: str) -> str:
    path = ROOT / "src" / "tether" / "presets" / f"{name}.toml"
    tomllib.loads(path.read_text(encoding="utf-8"))  # a page must not name a broken file
    families = sorted({domain_of(task) for task in preset_names(name)})
    count = len(preset_names(name))
    return (
        f"{count} tasks ({', '.join(families)}), the source of every number beside it: "
        f"[`presets/{name}.toml`](../../src/tether/presets/{name}.toml)."
    )


def _example(name: str) -> str:
    """A command that trains with a preset, on the data that the preset is for."""
    names = preset_names(name)
    task = "hopper-medium-v2" if "hopper-medium-v2" in names else names[0]
    return f"tether train {name} {task.rsplit('-', 1)[0]}.hdf5 --preset {task}"


def _results(name: str) -> str:
    """What benchmarks/results holds of it: a table, or that there is nothing."""
    runs = [run for run in measured().get(name, []) if run["last"]]
    rows = [
        f"| {_framed(run)} | {_length(run)} | {run['seeds']} | {_score(run['behaviour'])} "
        f"| {_score(run['last'])} | {_score(run['best'])} | {_raw(run)} |"
        for run in runs
    ]
    if not rows:
        return "Not measured on MuJoCo yet; `tether compare` does it ([how](../compare.md))."
    note = (
        "Interquartile mean [95 % interval] of normalised scores (of success rates the mean), at the last evaluation "
        "and at the best, which is chosen with hindsight. The command of each is in "
        "[`runs.json`](../../benchmarks/results/runs.json)."
    )
    if any(run["behaviour"] and run["last"]["iqm"] < run["behaviour"]["iqm"] for run in runs):
        note += " Why a last score is below the behaviour's: [what we know](../../benchmarks/README.md#learning)."
    heads = "| data | updates | seeds | behaviour | last | best | run |\n|---|---|---|---|---|---|---|"
    return f"{note}\n\n{heads}\n" + "\n".join(rows)


def _raw(run: dict[str, Any]) -> str:
    """A link to everything that is kept of a run."""
    return f"[{run['run'].rsplit('/', 1)[-1]}](../../benchmarks/results/{run['study']}.jsonl.gz)"


def _framed(run: dict[str, Any]) -> str:
    """The data, and what makes decisions of their rows."""
    return " ".join([run["dataset"], *(f"`--{name} {n}`" for name, n in run["protocol"].get("framing", {}).items())])


def _length(run: dict[str, Any]) -> str:
    """Updates, and from which of them on it was fine-tuned."""
    online = run["protocol"].get("online_from")
    return f"{run['updates']:,}" + ("" if online is None else f", online from {online:,}")


def _score(summary: dict[str, Any] | None) -> str:
    return "-" if not summary else f"{summary['iqm']:.1f} [{summary['ci95_low']:.1f}, {summary['ci95_high']:.1f}]"


def measured() -> dict[str, list[dict[str, Any]]]:
    """Algorithm -> what benchmarks/results/runs.json says of every committed run that came to its end."""
    path = RESULTS / "runs.json"
    found: dict[str, list[dict[str, Any]]] = {}
    for run in json.loads(path.read_text(encoding="utf-8")) if path.exists() else []:
        if run["status"] != "stopped":
            found.setdefault(run["algorithm"], []).append(run)
    return found


def checks() -> dict[str, dict[str, bool]]:
    """Algorithm -> which checks it has passed: tests that main holds (and `.ci/run` runs), and committed runs."""
    contract = _tests([TESTS / "contract" / "cases.py"])
    equations = _tests([TESTS / f"test_{name}.py" for name in EQUATIONS])
    bandit = _tests(sorted((TESTS / "learning").glob("*.py")))
    bandit += [text for text in equations if TRAINING.search(text)]
    runs, gallery = measured(), _gallery()
    return {
        name: {
            "contract": any(f'"{name}": Case(' in text for text in contract),
            "equations": any(_names(name, text) for text in equations),
            "bandit": name in gallery or any(_names(name, text) for text in bandit),
            "mujoco": any(
                run["last"] and run["behaviour"] and run["last"]["mean"] >= run["behaviour"]["mean"]
                for run in runs.get(name, [])
            ),
        }
        for name in ALGORITHMS
    }


def _gallery() -> set[str]:
    """The algorithms whose samples, on a 2-D problem of docs/gallery, are near the exact target."""
    figures = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(GALLERY.glob("*.json"))]
    rows = [row for figure in figures for row in figure["rows"]]
    return {row["method"].split()[0] for row in rows if (row.get("closed") or 0.0) >= CLOSED}


def _tests(files: list[Path]) -> list[str]:
    """The text of every test function, with its decorators, all of its file that it uses, and where it has the
    functions from that it uses: `tether.algorithms.iql.weighted_cloning_loss`."""
    texts = []
    for path in files:
        source = path.read_text(encoding="utf-8")
        body = ast.parse(source).body
        parts = {_name(node): _text(source, node) for node in body if _name(node)}
        tests = [name for name in parts if (name.startswith("test_") and name not in BOOKKEEPING) or name == "CASES"]
        parts |= {
            alias.name: f"{node.module}.{alias.name}"
            for node in body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tether.algorithms.")
            for alias in node.names
        }
        texts += ["\n".join(parts[name] for name in sorted(_used(test, parts))) for test in tests]
    return texts


def _used(name: str, parts: dict[str, str]) -> set[str]:
    """`name` and the definitions that its text leads to, directly and through others."""
    found, todo = {name}, [name]
    while todo:
        words = set(re.findall(r"\w+", parts[todo.pop()])) & parts.keys()
        todo += words - found
        found |= words
    return found


def _name(node: ast.stmt) -> str:
    """What a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else ""


def _text(source: str, node: Any) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    return "\n".join(source.splitlines()[first - 1 : node.end_lineno])


def _names(name: str, text: str) -> bool:
    """Whether a test is about the algorithm: it names it, its class, or a function of its file."""
    cls = ALGORITHMS[name]
    words = rf'"{name}"', rf"\b{cls.__name__}\b", rf"{re.escape(cls.__module__)}\.[a-z_]+\b"
    return any(re.search(word, text) for word in words)


if __name__ == "__main__":
    CHECKS.write_text(json.dumps(checks(), indent=1) + "\n", encoding="utf-8")
    for name in generated_names():
        (ROOT / "docs" / "algorithms" / f"{name}.md").write_text(page(name), encoding="utf-8")
    (ROOT / "docs" / "api.md").write_text(api_page(), encoding="utf-8")
    (ROOT / "docs" / "hyperparameters.md").write_text(ranges_page(), encoding="utf-8")
