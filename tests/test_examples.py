"""The tutorials are files of examples/, executed here as they stand, with smaller numbers."""

import ast
import dataclasses
import re
from pathlib import Path

import gymnasium
import pytest

import tether
from tether.evaluation import rollout

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {  # the constants that a tutorial states, and their values here
    "first_run.py": {"PRETRAIN_UPDATES, UPDATES, EPISODES": "2, 8, 1"},
    "own_data.py": {"DAYS, STEPS": "4, 100", "UPDATES": "5"},
    "own_environment.py": {"EPISODES, UPDATES": "4, 10"},
    "comparison.py": {"UPDATES, SEEDS, EPISODES": "4, 2, 1"},
}

SLOW = ("comparison.py",)


def small(name: str) -> str:
    """The source with small numbers, and small networks where an algorithm is made."""
    source = (EXAMPLES / name).read_text(encoding="utf-8")
    for constants, values in SMALL[name].items():
        source, found = re.subn(rf"^{constants} = .*$", f"{constants} = {values}", source, flags=re.MULTILINE)
        assert found == 1, f"{name} states no {constants}"
    source = source.replace("tether.DTQL(", "tether.DTQL(hidden_sizes=(8,), denoiser_hidden_sizes=(8,), candidates=4, ")
    return re.sub(r"tether\.(IQL|TD3BC)\(", r"tether.\1(hidden_sizes=(8,), ", source)


@pytest.fixture
def short_episodes(monkeypatch):
    """Evaluation stays real, but an episode ends after 3 steps."""
    make = rollout.make_environment
    monkeypatch.setattr(rollout, "make_environment", lambda task: make(dataclasses.replace(task, horizon=3)))


@pytest.fixture
def registered_nothing_else():
    """What an example registers goes with it."""
    before = dict(gymnasium.registry)
    yield
    for name in set(gymnasium.registry) - set(before):
        del gymnasium.registry[name]


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SMALL)


@pytest.mark.usefixtures("short_episodes", "registered_nothing_else")
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if n in SLOW else ()) for n in SMALL])
def test_examples_run(name, tmp_path, monkeypatch, capsys):
    if not set(re.findall(r"tether\.(\w+)\(", small(name))) <= set(tether.__all__):
        pytest.skip("uses names that are not public yet")
    monkeypatch.chdir(tmp_path)
    exec(compile(small(name), name, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out
    assert list(tmp_path.glob("runs/*"))


def test_tutorials_show_all_of_the_code():
    """The page of a script has every line of its code, in order."""
    site = pytest.importorskip("tools.site")  # needs mkdocs
    for path in EXAMPLES.glob("*.py"):
        page = site.tutorial(path)
        shown = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
        code = ast.unparse(ast.Module(ast.parse(path.read_text(encoding="utf-8")).body[1:], []))
        assert ast.unparse(ast.parse(shown)) == code
        assert page.startswith("# ")
