"""The page of a study: aggregates by their published definitions, a page that needs nothing else, tables, figures."""

import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_data import tether

from tether.errors import InputError
from tether.evaluation.aggregates import (
    interval_of,
    optimality_gap,
    performance_profile,
    pooled_interquartile_mean,
    pooled_mean,
    probability_of_improvement,
    profile_band,
)
from tether.plots.curves import _caption
from tether.studies.report import make_report
from tether.studies.report.figures import _curves, _published
from tether.studies.report.material import read_material
from tether.studies.report.tables import latex, latex_table, markdown_scores, score_rows
from tether.studies.reproduce.outcomes import outcome_of
from tether.studies.reproduce.study import ReproduceOptions, write_verdicts
from tether.studies.reproduce.targets import find_cells

# --- aggregates ---------------------------------------------------------------------------------------------

FIRST = [np.array([10.0, 20.0, 30.0]), np.array([50.0, 120.0])]
SECOND = [np.array([20.0, 5.0]), np.array([60.0, 60.0, 130.0])]


def test_aggregates_by_hand() -> None:
    assert pooled_mean(FIRST) == (20 + 85) / 2
    assert pooled_interquartile_mean(FIRST) == np.mean([20, 30, 50])  # of 10 20 30 50 120 one is cut at either end
    assert optimality_gap(FIRST) == ((100 - 20) + (100 - 75)) / 2  # 120 counts as 100
    thresholds = np.array([-1.0, 20.0, 60.0, 200.0])
    shares = np.mean([[1, 1 / 3, 0, 0], [1, 1, 1 / 2, 0]], axis=0)
    np.testing.assert_allclose(performance_profile(FIRST, thresholds), shares)  # strictly more
    # task 1: 10>5, 20=20 (half), 20>5, 30>20, 30>5 -> 4.5 of 6; task 2: 120>60 twice -> 2 of 6
    assert probability_of_improvement(FIRST, SECOND) == pytest.approx((4.5 / 6 + 2 / 6) / 2)
    assert probability_of_improvement(SECOND, FIRST) == pytest.approx(1 - (4.5 / 6 + 2 / 6) / 2)


def test_probability_of_improvement_is_mann_whitneys() -> None:
    """rliable's own way to it: U / (n m) of scipy, mean over tasks."""
    from scipy.stats import mannwhitneyu

    random = np.random.default_rng(0)
    ours, theirs = ([random.integers(0, 9, size).astype(float) for size in sizes] for sizes in ((4, 7), (6, 3)))
    pairs = zip(ours, theirs, strict=True)
    expected = [mannwhitneyu(x, y, alternative="greater").statistic / (len(x) * len(y)) for x, y in pairs]
    assert probability_of_improvement(ours, theirs) == pytest.approx(np.mean(expected))


def test_intervals_hold_their_statistic() -> None:
    low, high = interval_of(pooled_mean, FIRST, resamples=200)
    assert low <= pooled_mean(FIRST) <= high
    assert interval_of(pooled_mean, FIRST, resamples=50) == interval_of(pooled_mean, FIRST, resamples=50)
    alone = [np.array([5.0]), np.array([7.0])]
    assert interval_of(pooled_mean, alone, resamples=20) == (6.0, 6.0)
    pair = interval_of(probability_of_improvement, FIRST, SECOND, resamples=100)
    assert 0 <= pair[0] <= pair[1] <= 1
    lower, upper = profile_band(FIRST, np.linspace(0, 130, 14), resamples=50)
    assert (lower <= upper).all()
    for bad in ([], [np.array([])], [np.array([np.nan])]):
        with pytest.raises(InputError, match="finite score"):
            pooled_mean(bad)
    with pytest.raises(InputError, match="2 tasks against 1"):
        probability_of_improvement(FIRST, FIRST[:1])


# --- runs that nobody trained -------------------------------------------------------------------------------


def write_run(folder: Path, algorithm: str, dataset: str, level: float, seeds: int = 2, **more: Any) -> Path:
    """A run folder with made-up evaluations around `level`."""
    folder.mkdir(parents=True)
    lanes = [{"seed": seed, "settings": {}} for seed in range(seeds)]
    config = {"algorithm": algorithm, "hyperparameters": {"rate": 0.1}, "lanes": lanes, "device": "cpu", "devices": 1}
    config |= {"settings": {"batch_size": 256, "eval_episodes": 3}, "environment": dataset.split("-")[0]}
    config |= {"data": {"dataset": dataset, "source": f"d4rl:{dataset}", "sha256": "ab" * 32}}
    config |= {"versions": {"tether": "0.1.0", "mujoco": "3.3.7"}, "score": "normalised score"}
    config |= {"notes": {"command": f"tether train {algorithm} <{dataset}>"}} | more
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(len(algorithm))
    rows = [
        {"update": update, "lane": lane, "episode": episode, "return": 0.0, "length": 9,
         "normalized_score": level + float(random.normal()) + update / 1e5}
        for update in range(10_000, 110_000, 10_000) for lane in range(seeds) for episode in range(3)
    ]  # fmt: skip
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {"status": "done", "updates_per_second": 12.3, "wall_seconds": 4000.0, "compile_seconds": 3.0}
    (folder / "result.json").write_text(
        json.dumps(result | {"evaluation_seconds": 10.0, "lanes": [], "behaviour": None})
    )
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on two tasks, with the verdicts of one of them."""
    folder = tmp_path_factory.mktemp("study")
    for robot, level in (("halfcheetah", 54.0), ("hopper", 5.0)):
        write_run(folder / "jobs" / f"dac-{robot}", "dac", f"{robot}-medium-v2", level)
        write_run(folder / "jobs" / f"bc-{robot}", "bc", f"{robot}-medium-v2", level - 9)
    cells = [find_cells(f"dac-table-1/{robot}-medium-v2")[0] for robot in ("halfcheetah", "hopper", "walker2d")]
    outcomes = [outcome_of(cell, folder / "jobs" / f"dac-{cell.task.split('-')[0]}") for cell in cells]
    write_verdicts(ReproduceOptions("dac-table-1", folder), outcomes)
    make_report([folder], folder / "report", command="tether report <here>")
    return folder


class Links(HTMLParser):
    """Everything that a page would fetch, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not str(value).startswith(("#", "data:")):
                self.fetched.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "link", "br"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(study: Path) -> None:
    text = (study / "report" / "report.html").read_text()
    links = Links()
    links.feed(text)
    assert (links.fetched, links.open) == ([], [])
    assert len(set(links.ids)) == len(links.ids)
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert references <= set(links.ids)
    assert "<script" not in text
    assert "@import" not in text
    for words in (
        "tether train dac &lt;halfcheetah-medium-v2&gt;",
        "tether report &lt;here&gt;",
        "mujoco 3.3.7",
        "67 min",
    ):
        assert words in text
    assert text.count("<svg") == 4  # two tasks, profiles, aggregates
    assert len(text) < 2_000_000


def test_verdicts_are_told_by_more_than_colour(study: Path) -> None:
    text = (study / "report" / "report.html").read_text()
    assert '<span class="verdict inside">✓ inside' in text  # 54 at 100,000 updates
    assert '<span class="verdict below">▼ below' in text
    assert '<span class="verdict not">○ not comparable' in text  # walker2d was not run
    assert "published: D4RL of MuJoCo 2.1" in text
    markdown = (study / "report" / "verdicts.md").read_text()
    assert "| dac-table-1/halfcheetah-medium-v2/DAC | 54 |" in markdown


def test_tables_and_figures(study: Path) -> None:
    material = read_material([study])
    assert material.tasks == ["halfcheetah-medium-v2", "hopper-medium-v2"]
    assert list(material.runs) == ["DAC", "bc"]  # as published where a reproduction trained it
    table = latex_table(material)
    assert table.count("\\\\") == 4  # heads, two tasks, mean
    assert "\\mathbf" in table
    assert "\\toprule" in table
    assert markdown_scores(material).splitlines()[0] == "| task | DAC | bc |"
    assert latex("a_b & 10% {x}") == "a\\_b \\& 10\\% \\{x\\}"
    names = {path.name for path in (study / "report" / "figures").iterdir()}
    stems = ("curves-halfcheetah-medium-v2", "curves-hopper-medium-v2", "profiles", "aggregates")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "pdf")}
    assert "DAC, published" in (study / "report" / "figures" / "curves-halfcheetah-medium-v2.svg").read_text()


def test_runs_of_one_algorithm_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "bc", "hopper-medium-v2", 10.0)
    write_run(tmp_path / "b", "bc", "hopper-medium-v2", 20.0, hyperparameters={"rate": 0.5})
    assert list(read_material([tmp_path]).runs) == ["bc rate 0.1", "bc rate 0.5"]
    write_run(tmp_path / "c", "bc", "hopper-medium-v2", 30.0, hyperparameters={"rate": 0.50000001})
    assert list(read_material([tmp_path]).runs) == ["bc rate 0.1", "bc rate 0.5", "bc rate 0.50000001"]


def test_a_copy_of_a_run_does_not_count_its_seeds_twice(tmp_path: Path) -> None:
    write_run(tmp_path / "study" / "run", "iql", "hopper-medium-v2", 50.0)
    shutil.copytree(tmp_path / "study", tmp_path / "backup")
    material = read_material([tmp_path / "study", tmp_path / "backup"])
    assert material.scores("iql", "hopper-medium-v2").shape == (2,)
    assert any(f"left out: {tmp_path / 'backup' / 'run'}: the same seeds" in note for note in material.reservations)


def test_curves_are_means_as_what_is_published_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "dac", "halfcheetah-medium-v2", 50.0)
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    for row in rows:
        row["normalized_score"] = 20.0 if row["episode"] == 0 else 60.0 + row["lane"]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours, published = _curves(read_material([run]), "halfcheetah-medium-v2")
    assert ours.statistic == published.statistic == "mean"
    np.testing.assert_allclose(ours.middle, (20.0 + 60.0 + 60.0 + 20.0 + 61.0 + 61.0) / 6)
    assert "line: mean of 2 lanes x 3 episodes" in _caption([ours, published], True, True, False)


def test_unlike_runs_are_no_seeds_of_one_method(tmp_path: Path) -> None:
    task = "hopper-medium-v2"
    about = {"dataset": task, "source": f"d4rl:{task}"}
    write_run(tmp_path / "one" / "a", "fql", task, 10.0, data=about | {"framing": {"chunk": 1}})
    write_run(tmp_path / "one" / "b", "fql", task, 20.0, data=about | {"framing": {"chunk": 5}})
    write_run(tmp_path / "two" / "a", "iql", task, 10.0, settings={"batch_size": 256, "precision": "bfloat16"})
    write_run(tmp_path / "two" / "b", "iql", task, 20.0, settings={"batch_size": 64, "precision": "bfloat16"})
    lanes = [{"seed": seed, "settings": {"rate": rate}} for rate in (0.1, 0.9) for seed in (0, 1)]
    write_run(tmp_path / "three", "bc", task, 10.0, seeds=4, lanes=lanes)
    write_run(tmp_path / "four", "cql", task, 10.0, hyperparameters={"train_updates": 1000})
    write_run(tmp_path / "five", "cql", task, 20.0, hyperparameters={"train_updates": 2000})
    material = read_material([tmp_path, tmp_path / "one", tmp_path / "one" / "a"])  # each folder counts once
    assert list(material.runs) == [
        "bc rate 0.1", "bc rate 0.9", "cql train_updates 1000", "cql train_updates 2000", "fql chunk 1", "fql chunk 5",
        "iql batch_size 256", "iql batch_size 64",
    ]  # fmt: skip
    assert {name: len(material.scores(name, task)) for name in material.runs} == dict.fromkeys(material.runs, 2)
    assert [run.lanes for name in ("bc rate 0.1", "bc rate 0.9") for run in material.runs[name]] == [(0, 1), (2, 3)]


def test_every_task_has_its_figure(tmp_path: Path) -> None:
    for number, name in enumerate(("a/b", "a-b", "x" * 200)):
        write_run(tmp_path / str(number), "bc", name, 10.0)
    make_report([tmp_path], tmp_path / "report")
    found = sorted(path.stem for path in (tmp_path / "report").rglob("curves-*.svg"))
    assert found == ["curves-a-b", "curves-a-b-2", f"curves-{'x' * 100}"]


def test_what_is_not_counted_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "bc", "hopper-medium-v2", 10.0)
    silent = write_run(tmp_path / "b", "bc", "hopper-medium-v2", 10.0) / "evaluations.jsonl"
    lines = silent.read_text().splitlines()
    silent.write_text("")
    ((tmp_path / "a") / "evaluations.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    for number, text in enumerate(("[1]", '{"algorithm": "bc", "lanes": [], "data": null}', '{"lanes": []}')):
        (write_run(tmp_path / f"c{number}", "bc", "hopper-medium-v2", 1.0) / "config.json").write_text(text)
    material = read_material([tmp_path])
    assert list(material.runs) == ["bc"]
    assert sum("config.json" in line for line in material.reservations) == 3
    assert f"left out: {tmp_path / 'b'}: no evaluation yet" in material.reservations
    assert f"left out: {tmp_path / 'a'}: 1 of 2 seeds, which diverged or were not evaluated" in material.reservations


def test_what_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run with an evaluation"):
        read_material([tmp_path])
    with pytest.raises(InputError, match="no such folder"):
        read_material([tmp_path / "none"])
    (write_run(tmp_path / "a", "bc", "hopper-medium-v2", 10.0) / "config.json").write_text("{")
    write_run(tmp_path / "b", "bc", "hopper-medium-v2", 10.0)
    assert "not a run folder" in read_material([tmp_path]).reservations[0]
    code, out, err = tether("report", str(tmp_path), "--out", str(tmp_path / "report"), "--title", "Mine")
    assert (code, err) == (0, "")
    assert "report.html" in out
    assert "<title>Mine</title>" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.long
def test_twenty_runs_are_quick_and_small(tmp_path: Path) -> None:
    for number in range(20):
        write_run(tmp_path / "runs" / str(number), f"bc{number % 5}", f"task{number // 5}-medium", 10.0 + number)
    started = time.process_time()
    make_report([tmp_path / "runs"], tmp_path / "report")
    assert time.process_time() - started < 10
    assert (tmp_path / "report" / "report.html").stat().st_size < 5_000_000


@pytest.mark.long
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [400, 1600])
def test_a_browser_shows_it(study: Path, tmp_path: Path, width: int) -> None:
    """No word on the console, nothing wider than the window, and a PDF for printing."""
    page = (study / "report" / "report.html").read_text()
    probe = "<script>console.log('width', document.documentElement.scrollWidth, window.innerWidth)</script></body>"
    (tmp_path / "probe.html").write_text(page.replace("</body>", probe))
    how = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    log = ["--enable-logging=stderr", "--log-level=0", f"--screenshot={tmp_path}/shot.png"]
    found = subprocess.run([*how, *log, f"file://{tmp_path}/probe.html"], capture_output=True, text=True, timeout=120)
    lines = [line for line in found.stderr.splitlines() if "CONSOLE" in line]
    assert len(lines) == 1, lines
    scroll, inner = map(int, re.findall(r"width (\d+) (\d+)", lines[0])[0])
    assert scroll <= inner
    printed = [*how, f"--print-to-pdf={tmp_path}/page.pdf", f"file://{study}/report/report.html"]
    subprocess.run(printed, capture_output=True, timeout=120, check=True)
    assert b"/MediaBox [0 0 594" in (tmp_path / "page.pdf").read_bytes()  # A4: 595 x 842 points


@pytest.mark.parametrize(("framing", "first"), [({"chunk": 1}, 21.56), ({"chunk": 5}, 61.42), ({"n_step": 5}, 10.57)])
def test_the_published_line_is_that_of_the_same_decisions(framing: dict[str, int], first: float) -> None:
    """FQL, QC-FQL and FQL-n are one algorithm."""
    config = {"algorithm": "fql", "data": {"framing": framing}}
    numbers = _published(config, "scene-play-singletask-task2-v0", 100_000)
    assert numbers[-1].value == first


def test_tasks_scored_in_several_ways_are_told_apart(tmp_path: Path) -> None:
    """A run that is scored by its returns stands in no row, mean or picture of normalised scores."""
    write_run(tmp_path / "a" / "bc", "bc", "hopper-medium-v2", 50.0)
    write_run(tmp_path / "a" / "iql", "iql", "hopper-medium-v2", 60.0)
    write_run(tmp_path / "a" / "iql-raw", "iql", "hopper-medium-v2", 2_000.0, score="return")
    material = read_material([tmp_path / "a"])
    assert material.tasks == ["hopper-medium-v2 (normalised score)", "hopper-medium-v2 (return)"]
    assert material.scores("iql", "hopper-medium-v2 (normalised score)").max() < 100
    assert material.scores("iql", "hopper-medium-v2 (return)").min() > 1_000
    assert "mean over tasks" not in markdown_scores(material)
    assert any("normalised score, return" in why for why in material.reservations)
    make_report([tmp_path / "a"], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "figures").glob("*.svg")) == [
        "curves-hopper-medium-v2--normalised-score-.svg",
        "curves-hopper-medium-v2--return-.svg",
    ]


def test_a_published_method_is_one_column_whatever_its_tasks_ask_for(tmp_path: Path) -> None:
    """QC's weights differ from task to task. A method has one published line, a study one command."""
    tasks = {"scene-play-singletask-task2-v0": 300.0, "puzzle-3x3-play-singletask-task1-v0": 100.0}
    for method, chunk in (("FQL", 1), ("QC-FQL", 5)):
        folder = tmp_path / method
        for number, (task, weight) in enumerate(tasks.items()):
            data = {"dataset": task, "source": "x", "framing": {"chunk": chunk}}
            job = folder / "jobs" / f"000{number}-fql"
            settings = {"hyperparameters": {"distillation_weight": weight * chunk}, "notes": {"sweep_job": job.name}}
            write_run(job, "fql", task, 20.0, data=data, **settings)
        cells = [find_cells(f"ogbench-qc/{task}/{method}")[0] for task in tasks]
        outcomes = [outcome_of(cell, folder / "jobs" / f"000{number}-fql") for number, cell in enumerate(cells)]
        write_verdicts(ReproduceOptions("ogbench-qc", folder, seeds=2, data=tmp_path / "sets"), outcomes)
    material = read_material([tmp_path / "FQL", tmp_path / "QC-FQL"])
    assert list(material.runs) == ["FQL", "QC-FQL"]
    assert material.title == "FQL, QC-FQL"  # of two studies neither names the page
    assert all(cell.mean is not None for _, cells in score_rows(material) for cell in cells)
    labels = [curve.label for curve in _curves(material, "scene-play-singletask-task2-v0")]
    assert labels == ["FQL", "QC-FQL", "FQL, published", "QC-FQL, published"]
    commands = {run.command for runs in material.runs.values() for run in runs}
    how = f"tether reproduce ogbench-qc --seeds 2 --precision float32 --data {tmp_path / 'sets'} --out {tmp_path}"
    assert commands == {f"{how}/FQL", f"{how}/QC-FQL"}
    assert read_material([tmp_path / "FQL"]).title == "ogbench-qc"
    assert read_material([tmp_path / "FQL"], "Mine").title == "Mine"
    alone = read_material([tmp_path / "FQL" / "jobs" / "0000-fql"])
    assert list(alone.runs) == ["FQL"]


def test_what_is_not_finished_or_not_equally_far_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "bc", "hopper-medium-v2", 10.0)
    (write_run(tmp_path / "b", "iql", "hopper-medium-v2", 10.0) / "result.json").unlink()
    rows = (tmp_path / "b" / "evaluations.jsonl").read_text().splitlines()
    (tmp_path / "b" / "evaluations.jsonl").write_text("\n".join(rows[:12]) + "\n")
    said = read_material([tmp_path]).reservations
    assert said == [
        f"{tmp_path / 'b'}: not finished, and scored as it was after 20,000 updates",
        "hopper-medium-v2: scores after 20,000 to 100,000 updates stand side by side",
    ]
