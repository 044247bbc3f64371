"""benchmarks/results: few files, each study a table with its commands, and a summary that says the same."""

import ast
import json
import re
from pathlib import Path

import pytest

from tools import pack_results, results_page

BENCHMARKS = pack_results.RESULTS.parent
TABLES = sorted(pack_results.RESULTS.glob("*.jsonl.gz"))


def test_there_are_few_files():
    files = [path for path in pack_results.RESULTS.rglob("*") if path.is_file()]
    assert len(files) <= 30, "pack a study's runs: python tools/pack_results.py"


def test_the_summary_is_that_of_the_tables():
    known = json.loads((pack_results.RESULTS / "runs.json").read_text())
    names = [table.name.removesuffix(".jsonl.gz") for table in TABLES]
    found = [run for name, table in zip(names, TABLES, strict=True) for run in summary(name, table)]
    assert known == sorted(found, key=lambda run: (run["study"], run["run"]))
    assert all(run["command"].startswith("tether ") for run in known)


def summary(study: str, table: Path) -> list[dict]:
    return pack_results.summary_of(study, pack_results.read(table))


def test_every_result_says_how_it_came_about():
    for run in results_page.registry():
        assert run["versions"]["tether"]
        assert run["protocol"]["eval_episodes"]
        assert run["machine"]


def test_the_page_and_the_readme_are_made_of_the_registry():
    assert results_page.PAGE.read_text() == results_page.page(), "python tools/results_page.py"
    assert results_page.README.read_text() == results_page.readme(), "python tools/results_page.py"


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_still_finds_what_it_imports(script: Path):
    """Also what it imports where it needs it. Pyright reads them, too, but for those that run beside others' code."""
    imports = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if (node.module or "").startswith("tether"):
            for alias in node.names:
                exec(f"from {node.module} import {alias.name}", {})


def test_every_link_of_the_benchmarks_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", (BENCHMARKS / "README.md").read_text()):
        assert "://" in target or (BENCHMARKS / target).exists(), target


def test_packed_folders_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_results, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    run = tmp_path / "study" / "run"
    run.mkdir(parents=True)
    lines = '{"update": 1, "q": 0.1}\n{"update": 2, "q": NaN}\n'
    (run / "metrics.jsonl").write_text(lines)
    config = {"notes": {"command": "tether train"}, "lanes": [1, 2], "device": "cpu", "devices": 1}
    (run / "config.json").write_text(json.dumps(config))
    (tmp_path / "study" / "comparison.json").write_text('{"a": [1.5]}')
    first = pack_results.pack("mine", [tmp_path / "study"]).read_bytes()
    assert pack_results.pack("mine", [tmp_path / "study"]).read_bytes() == first
    [row] = json.loads((tmp_path / "results" / "runs.json").read_text())
    assert (row["study"], row["run"], row["seeds"], row["status"]) == ("mine", "study/run", 2, "stopped")
    assert (row["machine"], row["protocol"]["precision"]) == ("cpu x 1", "float32")
    pack_results.unpack("mine", tmp_path / "back")
    assert (tmp_path / "back/study/run/metrics.jsonl").read_text() == lines
    assert json.loads((tmp_path / "back/study/run/config.json").read_text()) == config
    assert json.loads((tmp_path / "back/study/comparison.json").read_text()) == {"a": [1.5]}
