"""What the documentation tells people to type works: commands and Python of README and docs are executed.

Long runs are made short: file names in the examples become a tiny synthetic data set, and every training command
gets options that shrink it. Nothing else is changed.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import tether
from tether import cli
from tether.evaluation import rollout

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SMALL = "hidden_sizes=8,8 denoiser_hidden_sizes=8,8 candidates=4"
SHORT = ["--updates", "4", "--pretrain-updates", "2", "--eval-episodes", "1", "--eval-every-updates", "4"]


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of the fenced blocks with this language."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(page.name, match) for page in PAGES for match in pattern.findall(page.read_text())]


def commands() -> list[str]:
    """Every `tether ...` line, comments cut off."""
    lines = [line.split("#")[0] for _, text in blocks("") for line in text.splitlines()]
    parts = [part.strip() for line in lines for part in line.split(";")]
    return [part for part in parts if part.startswith("tether ")]


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch):
    """Evaluation stays real but stops after a few steps."""
    make = rollout.make_environment

    def shorter(task):
        environment = make(task)
        environment.spec.max_episode_steps = 3
        environment.get_wrapper_attr("set_wrapper_attr")("_max_episode_steps", 3)
        return environment

    monkeypatch.setattr(rollout, "make_environment", shorter)


def test_there_is_something_to_execute():
    assert len(commands()) >= 8
    assert blocks("python")


def test_every_documented_command_parses():
    for command in commands():
        cli.parse(shlex.split(command)[1:])


def test_readme_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _, text in blocks("python"):
        short = re.sub(r"(updates|episodes)=[\d_]+", r"\1=2", text)
        short = short.replace("tether.DTQL(", "tether.DTQL(hidden_sizes=(8, 8), candidates=4, ")
        scope: dict = {}
        exec(compile(short, "README.md", "exec"), scope)
        assert scope["action"].shape == (6,)
        assert np.abs(scope["action"]).max() <= 1


def test_pages_name_functions_that_exist():
    """The equation-to-line tables: `file.py: function` and `Class.method` must be found in the source."""
    sources = "\n".join(path.read_text() for path in Path(tether.__file__).parent.rglob("*.py"))
    for page in (ROOT / "docs" / "algorithms").glob("*.md"):
        table = page.read_text().split("## Equation to line")[1].split("\n## ")[0]
        for names in re.findall(r"`([^`]+)`", table):
            for name in re.findall(r"[A-Za-z_]+", names.split(": ")[-1].split(".")[-1]):
                assert re.search(rf"(def|class) {name}\b", sources), f"{page.name}: {name}"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
