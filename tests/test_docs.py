"""What the documentation tells people to type works: its Python is executed, with smaller numbers, and its commands
are parsed (tests/test_cli.py runs each of them)."""

import dataclasses
import importlib.util
import json
import re
import shlex
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tether
from tether import cli
from tether.algorithms import ALGORITHMS
from tether.evaluation import rollout

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Those that tests of their own follow.
FOLLOWED = {
    ROOT / "docs" / name for name in ("bring-your-own-data.md", "callbacks.md", "choosing-a-policy.md", "extending.md")
}


def blocks(language: str, but: Collection[Path] = ()) -> list[str]:
    """The fenced blocks with this language, on all pages but some."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    found = [match for page in PAGES if page not in but for match in fence.findall(page.read_text())]
    return [text for name, text in found if name == language]


def commands() -> list[str]:
    """Every `tether ...` line, comments cut off."""
    lines = [line.split("#")[0] for text in blocks("") for line in text.splitlines()]
    parts = [part.strip() for line in lines for part in line.split(";")]
    return [part for part in parts if part.startswith("tether ")]


@pytest.fixture
def short_episodes(monkeypatch):
    """Evaluation stays real, but an episode ends after 3 steps."""
    make = rollout.make_environment
    monkeypatch.setattr(rollout, "make_environment", lambda task: make(dataclasses.replace(task, horizon=3)))


def test_there_is_something_to_execute():
    assert len(commands()) >= 8
    assert blocks("python")


def test_every_documented_command_parses():
    for command in commands():
        cli.parse(shlex.split(command)[1:])


@pytest.mark.long
@pytest.mark.usefixtures("short_episodes")
def test_readme_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in blocks("python", but=FOLLOWED):
        short = re.sub(r"(updates|episodes)=[\d_]+", r"\1=2", text)
        sizes = "hidden_sizes=(8, 8), denoiser_hidden_sizes=(8, 8), candidates=4"
        short = short.replace("tether.DTQL(", f"tether.DTQL({sizes}, ")
        scope: dict = {}
        exec(compile(short, "README.md", "exec"), scope)
        assert scope["action"].shape == (6,)
        assert np.abs(scope["action"]).max() <= 1


def test_pages_name_functions_that_exist():
    """The equation-to-line tables: `file.py: function` and `Class.method` must be found in the source."""
    sources = "\n".join(path.read_text() for path in Path(tether.__file__).parent.rglob("*.py"))
    for name in generate().HAND_WRITTEN:
        page = ROOT / "docs" / "algorithms" / f"{name}.md"
        if not page.exists():  # bdpo-unimodal is a section of BDPO's page
            assert f"`{name}`" in (ROOT / "docs" / "algorithms" / "bdpo.md").read_text()
            continue
        table = page.read_text().split("## Equation to line")[1].split("\n## ")[0]
        for names in re.findall(r"`([^`]+)`", table):
            for name in re.findall(r"[A-Za-z_]+", names.split(": ")[-1].split(".")[-1]):
                assert re.search(rf"(def|class) {name}\b", sources), f"{page.name}: {name}"


def generate() -> ModuleType:
    """docs/generate.py, which is no part of the package."""
    specification = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date():
    module = generate()
    pages = {page.stem for page in (ROOT / "docs" / "algorithms").glob("*.md")}
    assert pages == {*module.generated_names(), *module.HAND_WRITTEN} - {"bdpo-unimodal"}
    for name in module.generated_names():
        written = (ROOT / "docs" / "algorithms" / f"{name}.md").read_text(encoding="utf-8")
        assert written == module.page(name), f"{name}: run `python docs/generate.py`"
    ranges = (ROOT / "docs" / "hyperparameters.md").read_text(encoding="utf-8")
    assert ranges == module.ranges_page(), "run `python docs/generate.py`"
    assert "| `discount` | `0.99` | 0 to 1 | swept | gamma |" in ranges
    assert "| `batch_size` | `256` | at least 1 |  |" in ranges


def test_checks_are_up_to_date():
    found = generate().checks()
    assert json.loads((ROOT / "src/tether/algorithms/checks.json").read_text()) == found, (
        "run `python docs/generate.py`"
    )
    assert {name for name, passed in found.items() if passed["contract"]} == set(ALGORITHMS)
    assert found["iql"]["equations"]
    assert found["cql"]["bandit"]


def test_checks_are_not_found_where_there_are_none(tmp_path):
    module = generate()
    module.TESTS, module.RESULTS, module.GALLERY = tmp_path, tmp_path, tmp_path / "gallery"
    (tmp_path / "learning").mkdir()
    (tmp_path / "contract").mkdir()
    (tmp_path / "contract" / "cases.py").write_text('CASES = {"dtql": Case(1)}\n')
    for name in module.EQUATIONS:
        (tmp_path / f"test_{name}.py").write_text("from tether import IQL\nIQL\ndef helper(): return IQL\n")
    (tmp_path / "learning" / "test_x.py").write_text('ANSWERS = {"cql": 1}\n@mark(ANSWERS)\ndef test_it(): pass\n')
    result = {"algorithm": "bc", "status": "done", "last": {"mean": 1.0}, "behaviour": {"mean": 1.5}}
    (tmp_path / "runs.json").write_text(json.dumps([result]))
    found = {(name, what) for name, checks in module.checks().items() for what, passed in checks.items() if passed}
    assert found == {("dtql", "contract"), ("cql", "bandit")}
    (tmp_path / "runs.json").write_text(json.dumps([result | {"last": {"mean": 1.5}}]))
    (tmp_path / "gallery").mkdir()
    rows = [{"method": "dac soft", "closed": 0.9}, {"method": "dac hard", "closed": -3.0}, {"method": "bdpo"}]
    (tmp_path / "gallery" / "one.json").write_text(json.dumps({"rows": rows}))
    checks = module.checks()
    assert (checks["bc"]["mujoco"], checks["dac"]["bandit"], checks["bdpo"]["bandit"]) == (True, True, False)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
