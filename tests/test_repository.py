"""What no program reads every day: workflows, templates, citation, requirements. They agree with each other."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import tether
from tools import fast_tier, lowest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(
    line.lower().replace("_", "-").split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line
)


def read_yaml(path: Path) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_run_what_there_is(path: Path) -> None:
    workflow = read_yaml(path)
    assert {"name", "permissions", "jobs"} <= set(workflow)
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            for target in re.findall(r"make (\S+)", step.get("run", "")):
                assert set(matrix["tier"] if target == "${{" else [target]) <= make_targets()
        assert job.get("needs") is None or job["needs"] in workflow["jobs"]


def test_the_pythons_of_ci_are_those_of_the_project() -> None:
    jobs = read_yaml(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    tested = {"3.11", *jobs["python"]["strategy"]["matrix"]["python-version"]}
    stated = {line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert tested == stated


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_forms_are_forms(path: Path) -> None:
    form = read_yaml(path)
    if path.stem != "config":
        assert {"name", "description", "body"} <= set(form)
        assert {part["type"] for part in form["body"]} <= {"textarea", "input", "markdown", "dropdown", "checkboxes"}


def test_hooks_run_what_there_is() -> None:
    for repository in read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]:
        for hook in repository["hooks"]:
            program, *words = hook["entry"].split()
            assert program.startswith(".venv/bin/") or (program == "make" and words[0] in make_targets())


def test_the_citation_has_the_version() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert (citation["version"], citation["license"]) == (tether.__version__, PROJECT["license"])


def test_pins_keep_the_lower_bounds() -> None:
    extras = [name for name in PROJECT["optional-dependencies"] if name != "cuda"]
    for line in lowest.lowest(extras):
        name, _, least = line.partition("==")
        pinned = PINS.get(name.lower().replace("_", "-"))
        assert pinned or not least, f"constraints.txt pins no {name}"
        assert not least or numbers(pinned) >= numbers(least), line


def numbers(version: str | None) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version or "")]


def test_the_lowest_versions_are_those_of_the_project() -> None:
    lines = lowest.lowest(["robotics"])
    (equinox,) = [text for text in PROJECT["dependencies"] if text.startswith("equinox")]
    assert equinox.replace(">=", "==") in lines
    assert "mujoco<3.12" in lines
    assert not [line for line in lines if "[" in line]


def test_the_cheapest_tests_are_the_fast_tier() -> None:
    costs = {"a.py::x[1]": 1.0, "a.py::x[2]": 9.0, "a.py::y": 8.0, "b.py::z": 20.0, "c.py::w": 0.5}
    slow, total = fast_tier.choose(costs, 10.0)
    assert (slow, total) == ({"a.py::x[2]", "b.py::z"}, 9.5)
    assert fast_tier.collapsed(slow, set(costs)) == ["a.py::x[2]", "b.py"]
    slow, _ = fast_tier.choose(costs, 2.0)
    assert fast_tier.collapsed(slow, set(costs)) == ["a.py::x[2]", "a.py::y", "b.py"]


def test_groups_that_cost_most_for_each_test_are_left_out() -> None:
    rows = [{"test": f"a::{i}", "group": "a", "seconds": 1.0} for i in range(3)]
    rows += [{"test": "b::x", "group": "b", "seconds": 2.0}, {"test": "c::x", "group": "c", "seconds": 0.1}]
    assert fast_tier.choose_groups(rows, 3.5) == ({"b::x"}, 3.1)


def test_what_is_called_slow_exists() -> None:
    """A test that was renamed would be in the fast tier unseen."""
    for line in fast_tier.SLOW.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            file, _, rest = line.partition("::")
            text = (ROOT / file).read_text(encoding="utf-8")
            name = rest.split("[")[0].split("::")[-1]
            assert not name or f"def {name}(" in text, line
