"""From rows to result.json, table and picture, on evaluations whose summary is known."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from make_data import copy_run, finished_run, tether
from rich.console import Console

from tether.environments import get_task
from tether.errors import InputError
from tether.evaluation.statistics import aggregate, interquartile_mean
from tether.plots import curves as plot_module
from tether.runs.callbacks import RunInfo
from tether.runs.jsonlines import JsonLines
from tether.runs.records import Display
from tether.runs.report import Report, behaviour_summary, plot_runs, report_table, summarise, write_report
from tether.runs.run import Frozen
from tether.studies.comparison import read_row
from tether.training.lanes import Lane


def run_of(
    folder: Path,
    scores: dict[int, list[list[float | None]]],
    lanes: list[Lane] | None = None,
    frozen: dict[int, Frozen] | None = None,
) -> Any:
    """What `write_report` looks at of a run; `scores`: update -> lane -> episode, None where there is no row."""
    count = len(lanes) if lanes else len(next(iter(scores.values())))
    lanes = lanes or [Lane(seed, {}) for seed in range(count)]
    rows = [
        {"update": u, "lane": lane, "episode": e, "return": 10 * score, "length": 5, "normalized_score": score}
        for u, table in scores.items()
        for lane, values in enumerate(table)
        for e, score in enumerate(values)
        if score is not None
    ]
    evaluations = JsonLines(folder / "evaluations.jsonl")
    evaluations.append(rows)
    config = {
        "algorithm": "dtql",
        "data": {"dataset": "hopper-medium"},
        "lanes": [{"seed": lane.seed, "settings": dict(lane.swept)} for lane in lanes],
        "environment": "hopper",
    }
    (folder / "config.json").write_text(json.dumps(config))
    plan = SimpleNamespace(
        folder=folder,
        lanes=lanes,
        task=get_task("hopper"),
        behaviour_returns=np.array([1000.0, 2000.0]),
        algorithm_name="dtql",
        prepared=SimpleNamespace(record={"dataset": "hopper-medium"}),
    )
    frozen = frozen or {}
    return SimpleNamespace(
        plan=plan,
        records=SimpleNamespace(evaluations=evaluations, metrics=JsonLines(folder / "metrics.jsonl")),
        own_record=dict,
        stopped_early=None,
        reachable=[None] * count,
        frozen=frozen,
        alive=np.array([lane not in frozen for lane in range(count)]),
        updates=max(scores, default=0),
        seconds={"compile": 1.0, "evaluation": 2.0, "wall": 3.0},
        updates_per_second=lambda: 7.0,
        memory_record=lambda: {},
        evaluation_record=lambda: {"evaluation_seconds": 2.0},
        compiled={"train": {"seconds": 1.0, "from_cache": False}},
        seconds_to_first_update=4.0,
    )


def reported(run: Any) -> Report:
    """The report of a run, which is written, too."""
    report = summarise(run)
    write_report(run, report)
    return report


def lines(table: Any) -> list[str]:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return [line.strip() for line in console.export_text().splitlines()]


def test_last_and_best(tmp_path: Path) -> None:
    run = run_of(tmp_path, {100: [[1, 3], [2, 2]], 200: [[9, 5], [6, 8]], 300: [[4, 4], [4, 5]]})
    report = reported(run)
    assert (report.status, report.updates, report.best_update) == ("done", 300, 200)
    assert report.last == aggregate(np.array([[4, 4], [4, 5]]), statistic=interquartile_mean)
    assert report.best == aggregate(np.array([[9, 5], [6, 8]]))
    assert report.lane_scores == {0: 4.0, 1: 4.5}
    assert report.best_lane == 1
    assert report.last_by_arm == {}
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["best"]["update"] == 200
    assert result["best"]["mean"] == 7.0
    assert result["lanes"][1] == {
        "seed": 1,
        "settings": {},
        "score": 4.5,
        "normalized_score": 4.5,
        "returns": [40, 50],
        "diverged": None,
    }
    times = [result[f"{name}_seconds"] for name in ("compile", "evaluation", "wall")]
    assert (times, result["updates_per_second"]) == ([1.0, 2.0, 3.0], 7.0)
    table = lines(report_table(report))
    assert table[0].startswith(f"{tmp_path.name}: normalised score")
    (behaviour,) = [line for line in table if "behaviour (the data)" in line]
    assert behaviour.endswith("│        2 │")
    (best,) = [line for line in table if "best (update 200)" in line]
    assert "│  7.0 │    2 x 2 │" in best


def test_behaviour_summary() -> None:
    task = get_task("hopper")
    summary = behaviour_summary(np.array([1000.0, 2000.0]), task)
    assert summary is not None
    assert summary.mean == pytest.approx(float(task.normalized_score(1500.0)))
    assert (summary.lanes, summary.episodes) == (1, 2)
    assert behaviour_summary(np.array([1.0]), None) is None
    # Kitchen's data pay at every step: that is no score of 5000.
    assert behaviour_summary(np.array([200.0]), get_task("kitchen-mixed")) is None


def test_diverged_lanes_are_in_no_summary(tmp_path: Path) -> None:
    scores: dict[int, list[list[float | None]]] = {100: [[1, 1], [99, 99]], 200: [[3, 5], [None, None]]}
    report = reported(run_of(tmp_path, scores, frozen={1: Frozen("train", 150)}))
    assert report.status == "partly-diverged"
    assert report.last == aggregate(np.array([[3, 5]]), statistic=interquartile_mean)
    assert report.best_update == 200  # the diverged lane's 99 does not count
    assert (report.best_lane, report.lane_scores) == (0, {0: 4.0})
    lanes = json.loads((tmp_path / "result.json").read_text())["lanes"]
    assert lanes[1]["diverged"] == "train update 150"
    assert (lanes[1]["normalized_score"], lanes[1]["returns"]) == (None, [])
    assert report.curve.exists()


def test_all_lanes_diverged_after_an_evaluation(tmp_path: Path) -> None:
    frozen = {0: Frozen("train", 150), 1: Frozen("train", 160)}
    report = reported(run_of(tmp_path, {100: [[1, 2], [3, 4]]}, frozen=frozen))
    assert report.status == "diverged"
    assert (report.last, report.best, report.best_lane, report.lane_scores) == (None, None, None, {})
    assert report.curve.exists()  # what there was can be looked at


def test_a_sweep_is_summarised_by_its_settings(tmp_path: Path) -> None:
    lanes = [Lane(seed, {"expectile": value}) for value in (0.7, 0.9) for seed in (0, 1)]
    report = reported(run_of(tmp_path, {100: [[1, 1], [2, 2], [8, 8], [9, 9]]}, lanes))
    assert report.last_by_arm == {
        "expectile 0.7": aggregate(np.array([[1, 1], [2, 2]]), statistic=interquartile_mean),
        "expectile 0.9": aggregate(np.array([[8, 8], [9, 9]]), statistic=interquartile_mean),
    }
    (row,) = [line for line in lines(report_table(report)) if "expectile 0.9" in line]
    assert "│  8.5 │" in row


def test_a_picture_of_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = copy_run(tmp_path / "first"), copy_run(tmp_path / "second")  # the first use trains, and draws
    drawn: list[Any] = []
    finished_run()  # which draws, too, if this test is the first to ask for it
    monkeypatch.setattr(plot_module, "plot_curves", lambda *arguments: drawn.append(arguments))
    plot_runs([first, second], tmp_path / "both.png")
    ((path, curves, behaviour, score_name, title),) = drawn
    assert path == tmp_path / "both.png"
    assert [curve.label for curve in curves] == ["first", "second"]  # the same algorithm and data: by folder
    assert curves[0].updates.tolist() == [100, 200, 250]
    assert (curves[0].lanes.shape, curves[0].episodes) == ((2, 3), 2)
    result = json.loads((first / "result.json").read_text())
    last = [values[-1] for values in (curves[0].middle, curves[0].low, curves[0].high)]
    assert last == [result["iqm"], *result["ci95"]]  # the numbers of the table
    assert (behaviour, score_name, title) == (result["behaviour"]["iqm"], "normalised score", "dtql on hopper-medium")
    plot_runs([first], tmp_path / "one.png")
    assert ([curve.label for curve in drawn[1][1]], drawn[1][4]) == (["dtql"], "hopper-medium")
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps(config | {"algorithm": "bc"}))
    plot_runs([first, second], tmp_path / "two.png")
    assert ([curve.label for curve in drawn[2][1]], drawn[2][4]) == (["dtql", "bc"], "hopper-medium")


def test_a_sweep_has_a_line_for_each_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = [Lane(seed, {"expectile": value}) for value in (0.7, 0.9) for seed in (0, 1)]
    report = reported(run_of(tmp_path, {100: [[1, 1], [2, 4], [8, 8], [9, 9]]}, lanes))
    drawn: list[Any] = []
    monkeypatch.setattr(plot_module, "plot_curves", lambda *arguments: drawn.append(arguments))
    plot_runs([tmp_path], tmp_path / "picture.png")
    ((_, curves, _, _, title),) = drawn
    assert ([curve.label for curve in curves], title) == (["expectile 0.7", "expectile 0.9"], "dtql on hopper-medium")
    for curve in curves:
        assert curve.middle[-1] == report.last_by_arm[curve.label].iqm
        assert curve.lanes.shape == (2, 1)


def test_arms_whose_numbers_read_alike_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plot_module, "plot_curves", lambda *arguments: drawn.append(arguments))
    lanes = [Lane(seed, {"target_return": value}) for value in (3600000.0, 3600001.0, 0.1 + 0.2) for seed in (0, 1)]
    report = reported(run_of(tmp_path, {100: [[1, 1], [2, 4], [8, 8], [9, 9], [5, 5], [6, 6]]}, lanes))
    means = {"target_return 3600000": 2, "target_return 3600001": 8.5, "target_return 0.3": 5.5}
    assert {name: summary.mean for name, summary in report.last_by_arm.items()} == means
    assert {arm.name: arm.mean for arm in report.arms} == means
    ((_, curves, *_),) = drawn
    drawn_lanes = dict(zip(means, ([1, 3], [8, 9], [5, 6]), strict=True))
    assert {curve.label: curve.lanes[:, 0].tolist() for curve in curves} == drawn_lanes


def test_a_lane_that_ended_early_is_drawn_until_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plot_module, "plot_curves", lambda *arguments: drawn.append(arguments))
    run_of(tmp_path, {100: [[1, 1], [2, 4]], 200: [[3, 5], [None, None]]})
    plot_runs([tmp_path], tmp_path / "picture.png")
    ((_, (curve,), behaviour, _, _),) = drawn
    np.testing.assert_array_equal(curve.lanes, [[1, 4], [3, np.nan]])
    np.testing.assert_array_equal(curve.middle, [1.5, 4])  # of 1, 1, 2, 4 the middle half
    assert behaviour is None  # there is no result.json yet


def test_a_line_of_successes_is_their_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plot_module, "plot_curves", lambda *arguments: drawn.append(arguments))
    run_of(tmp_path, {100: [[0, 0, 0, 0, 0]], 200: [[100, 0, 0, 0, 0]]})
    plot_runs([tmp_path], tmp_path / "picture.png")
    ((_, (curve,), *_),) = drawn
    np.testing.assert_array_equal([curve.middle, *curve.lanes], [[0, 20], [0, 20]])
    assert curve.high[1] > 20
    assert curve.statistic == "mean"


def test_a_run_is_summed_up_by_one_statistic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kitchen's scores are five, of which a single evaluation may show two: they are no success rate for that."""
    drawn: list[Any] = []
    monkeypatch.setattr(plot_module, "plot_curves", lambda *arguments: drawn.append(arguments))
    last = [75] * 8 + [100] * 2
    lanes = [Lane(0, {"expectile": value}) for value in (0.7, 0.9)]
    run = run_of(tmp_path, {100: [[25, 50, 75, 75, 75] * 2, [0] * 10], 200: [last, last]}, lanes)
    report = reported(run)
    expected = aggregate(np.array([last, last]), statistic=interquartile_mean)
    assert report.last == expected
    assert (expected.iqm, expected.mean, expected.statistic) == (75, 80, "IQM")
    assert {(arm.iqm, arm.statistic) for arm in report.last_by_arm.values()} == {(75, "IQM")}
    plot_runs([tmp_path], tmp_path / "picture.png")
    assert {(curve.middle[-1], curve.statistic) for _, curves, *_ in drawn for curve in curves} == {(75, "IQM")}
    rows = run.records.evaluations.read()
    (tmp_path / "result.json").unlink()
    about = {"algorithm": "dtql", "family": "", "paper": "", "settings": ""}
    assert read_row(tmp_path, about, None, None).last == expected  # stopped, in a comparison
    capsys.readouterr()
    told = [[row for row in rows if row["update"] == update] for update in (100, 200)]
    display = Display(quiet=False)
    display.on_evaluation(told[0])
    display.on_evaluation(told[1])
    resumed = Display(quiet=False)
    resumed.on_start(RunInfo(tmp_path, {}, (("train", 200),), True, [], told[0], 100, lambda *_, **__: False))
    resumed.on_evaluation(told[1])
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == lines[2]
    assert lines[2].endswith(f"score {expected} (IQM)")


def fine_tuned(folder: Path, parent: Path, scores: dict[int, list[list[float | None]]]) -> Any:
    """A run as of `run_of` that went on from `parent`, from its first evaluation on."""
    run = run_of(folder, scores)
    config = json.loads((folder / "config.json").read_text())
    config["finetuning"] = {"parent": {"folder": str(parent), "update": min(scores)}}
    (folder / "config.json").write_text(json.dumps(config))
    return run


def folders(tmp_path: Path, *names: str) -> list[Path]:
    """New ones."""
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    return [tmp_path / name for name in names]


def test_a_fine_tuned_run_is_summed_up_by_its_own_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plot_module, "plot_curves", lambda *arguments: drawn.append(arguments))
    before, tuned = folders(tmp_path, "before", "tuned")
    run_of(before, {100: [[10, 20, 30, 40, 50]]})
    report = reported(fine_tuned(tuned, before, {200: [[0, 0, 0, 0, 0]], 300: [[100, 0, 0, 0, 0]]}))
    assert report.last is not None
    ((_, (curve,), *_),) = drawn
    assert curve.updates.tolist() == [100, 200, 300]
    assert (curve.middle[-1], curve.statistic) == (report.last.iqm, report.last.statistic) == (20, "mean")


def test_a_fine_tuned_run_is_not_its_own_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a parent that is gone a folder of its name is looked for beside the run: that may be the run itself, or one
    that went on from it."""
    drawn: list[Any] = []
    monkeypatch.setattr(plot_module, "plot_curves", lambda *arguments: drawn.append(arguments))
    own, first, second = folders(tmp_path, "online/hopper", "online/first", "online/second")
    fine_tuned(own, tmp_path / "offline" / "hopper", {200: [[1, 2]], 300: [[3, 4]]})
    plot_runs([own], tmp_path / "picture.png")
    fine_tuned(first, tmp_path / "offline" / "second", {200: [[1, 2]], 300: [[3, 4]]})
    fine_tuned(second, first, {400: [[5, 6]]})
    plot_runs([second], tmp_path / "picture.png")
    assert [(curve.updates.tolist(), curve.online_from) for _, (curve,), *_ in drawn] == [
        ([200, 300], 200), ([200, 300, 400], 200)
    ]  # fmt: skip


def test_half_an_evaluation_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill left of it; a fine-tuned run may have played other numbers of episodes than the one before."""
    drawn: list[Any] = []
    monkeypatch.setattr(plot_module, "plot_curves", lambda *arguments: drawn.append(arguments))
    before, tuned = folders(tmp_path, "before", "tuned")
    run_of(before, {100: [[1, 2, 3, 4]], 200: [[9, 9, None, None]]})
    plot_runs([before], tmp_path / "picture.png")
    fine_tuned(tuned, before, {300: [[5, 6]], 400: [[7, None]]})
    plot_runs([tuned], tmp_path / "picture.png")
    assert [(curve.updates.tolist(), curve.middle.tolist()) for _, (curve,), *_ in drawn] == [
        ([100], [2.5]), ([100, 300], [2.5, 5.5])
    ]  # fmt: skip


def test_runs_of_different_tasks_do_not_share_a_picture(tmp_path: Path) -> None:
    other = copy_run(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"environment": "walker2d"}))
    with pytest.raises(InputError, match="hopper, walker2d"):
        plot_runs([finished_run(), other], tmp_path / "picture.png")
    code, _, errors = tether("plot", finished_run(), other, "--out", tmp_path / "picture.png")
    assert code == 2
    assert "different tasks" in errors
    assert not (tmp_path / "picture.png").exists()
