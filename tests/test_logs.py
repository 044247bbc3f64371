"""Damage in a run's logs is refused by file and line, and never changes a score; `--repair` says what is lost."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from make_data import columns, copy_run, finished_run, outcome, rows, snapshot, tether, write_d4rl

import tether as package
from tether import Callback, InputError
from tether.runs.curves import read_curves
from tether.runs.jsonlines import JsonLines, Mark
from tether.runs.records import evaluation_log, metric_log
from tether.runs.report import plot_runs
from tether.runs.timeline import draw_timeline
from tether.studies.comparison import read_row

LOGS = ("metrics.jsonl", "evaluations.jsonl")


def change(path: Path, number: int, new: Callable[[str], str]) -> None:
    """Change line `number`, the first is 1."""
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1] = new(lines[number - 1])
    path.write_text("".join(lines))


@pytest.mark.parametrize("name", LOGS)
def test_a_damaged_line_is_refused_by_name_and_nothing_changes(tmp_path: Path, name: str) -> None:
    run = copy_run(tmp_path / "run")
    change(run / name, 5, lambda line: f"x{line}")
    before = snapshot(run)
    code, out, err = tether("resume", run, "--quiet")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{run / name}: line 5 is damaged" in err
    assert f"`tether resume {run} --repair`" in err
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: change(path, 2, lambda line: line.replace("0", "1", 1)), "altered"),
        (lambda path: change(path, 2, lambda line: ""), "cut short"),
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "cut short"),
        (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "cut short"),
        (lambda path: path.write_bytes(b"\xff\n" + path.read_bytes()), "line 1 is damaged"),
        (lambda path: change(path, 3, lambda line: "[1]\n"), "line 3 is damaged (no JSON object)"),
        (lambda path: change(path, 3, lambda line: '{"update": 1e3}\n'), "line 3 is damaged (no return or score)"),
        (
            lambda path: change(path, 3, lambda line: line.replace('"lane": ', '"lane": -7')),
            "line 3 is damaged (no lane)",
        ),
        (lambda path: change(path, 3, lambda line: "[" * 100_000 + "\n"), "line 3 is damaged"),
    ],
)
def test_every_difference_from_what_the_checkpoint_knows_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    log = evaluation_log(copy_run(tmp_path / "run"), write=True)
    mark = log.mark()
    log.verify(mark)
    damage(log.path)
    with pytest.raises(InputError, match=r"evaluations\.jsonl") as refusal:
        JsonLines(log.path, log._fault_of).verify(mark)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "without", ["checkpoints/train-000000250", pytest.param("checkpoints", marks=pytest.mark.long)]
)
def test_rows_after_the_checkpoint_are_made_again_whatever_they_are(tmp_path: Path, without: str) -> None:
    run = copy_run(tmp_path / "run")
    shutil.rmtree(run / without)
    with (run / "evaluations.jsonl").open("a") as file:
        file.write("x\n{")
    assert tether("resume", run, "--quiet")[0] == 0
    assert outcome(run) == outcome(finished_run())


def test_repair_keeps_what_is_whole_and_says_what_is_missing(tmp_path: Path) -> None:
    run = copy_run(tmp_path / "run")
    change(run / "evaluations.jsonl", 6, lambda line: f"x{line}")  # update 200, lane 0, episode 1
    change(run / "metrics.jsonl", 7, lambda line: "\n")
    damaged = {name: (run / name).read_bytes() for name in LOGS}
    lost = [rows(finished_run() / name)[line] for name, line in zip(LOGS, (6, 5), strict=True)]
    code, out, err = tether("resume", run, "--quiet", "--repair")
    assert code == 0
    assert "evaluations.jsonl: line 6 is damaged" in err
    assert "1 rows are missing: update 200, lane 0, episode 1" in err
    assert "metrics.jsonl: line 7 is damaged" in err
    for name, row in zip(LOGS, lost, strict=True):
        assert (run / f"{Path(name).stem}.damaged.jsonl").read_bytes() == damaged[name]
        assert rows(run / name) == [found for found in rows(finished_run() / name) if found != row]
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, finished_run())]
    assert results[0]["last"] == results[1]["last"]  # the evaluation that lacks a row counts in no summary
    assert "policy, last (update 250)" in out
    assert tether("resume", run, "--quiet")[0] == 0  # the checkpoint goes with the new logs
    assert "nothing to repair" in tether("resume", run, "--quiet", "--repair")[2]


def test_repair_plays_the_last_evaluation_again(tmp_path: Path) -> None:
    run = copy_run(tmp_path / "run")
    change(run / "evaluations.jsonl", 12, lambda line: line[:-20] + "\n")
    assert "update 250 is evaluated again" in tether("resume", run, "--quiet", "--repair")[2]
    assert outcome(run) == outcome(finished_run())
    (run / "evaluations.jsonl").unlink()
    code, _, err = tether("resume", run, "--quiet")
    assert (code, err.count("\n")) == (2, 1)
    assert "evaluations.jsonl: missing" in err


def test_repair_drops_what_two_processes_wrote_twice(tmp_path: Path) -> None:
    run = copy_run(tmp_path / "run")
    log = run / "evaluations.jsonl"
    log.write_text("".join(2 * line for line in log.read_text().splitlines(keepends=True)))
    assert tether("resume", run, "--quiet")[0] == 2
    assert tether("resume", run, "--quiet", "--repair")[0] == 0
    assert outcome(run) == outcome(finished_run())


def test_runs_whose_checkpoints_know_no_logs_are_checked_as_far_as_that_goes(tmp_path: Path) -> None:
    """As those of tether 0.1 (tests/test_older_files.py)."""
    old = Path(__file__).parent / "fixtures" / "written_by_0_1_0" / "finished"
    for name, message in (("metrics.jsonl", "line 1 is damaged"), ("evaluations.jsonl", "missing")):
        run = Path(shutil.copytree(old, tmp_path / name))
        (run / name).unlink() if message == "missing" else change(run / name, 1, lambda line: f"x{line}")
        code, _, err = tether("resume", run, "--quiet")
        said = [line for line in err.splitlines() if " is now " not in line]  # packages may be others than then
        assert (code, len(said)) == (2, 1)
        assert f"{run / name}: {message}" in said[0]


def test_whoever_reads_damaged_logs_says_so_in_one_line(tmp_path: Path) -> None:
    run = copy_run(tmp_path / "run")
    for name in (*LOGS, "timeline.jsonl"):
        change(run / name, 1, lambda line: line.replace(":", "", 1))
    for read in (
        lambda: plot_runs([run], tmp_path / "curve.png"),
        lambda: draw_timeline(run, tmp_path / "timeline.png"),
        lambda: read_curves(run),
    ):
        with pytest.raises(InputError, match="line 1 is damaged"):
            read()
    about = {"algorithm": "dtql", "family": "", "paper": "", "settings": ""}
    row = read_row(run, about, None, None)
    assert row.status == "damaged"
    assert "metrics.jsonl: line 1 is damaged" in row.note


def test_rows_that_cannot_be_of_the_run_are_refused(tmp_path: Path) -> None:
    for name, old, new in (
        ("metrics.jsonl", '"lane": 1', '"lane": 7'),
        ("evaluations.jsonl", '"episode": 1', '"episode": 99'),
    ):
        run = copy_run(tmp_path / name)
        (run / name).write_text((run / name).read_text().replace(old, new))
        with pytest.raises(InputError, match="lanes or episodes that it does not have"):
            read_curves(run)


def test_an_unfinished_last_line_is_replaced(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "rows.jsonl")
    log.append([{"a": 1}])
    log.path.write_text(log.path.read_text() + '{"a": 2')
    again = JsonLines(log.path)
    assert again.read() == [{"a": 1}]
    mark = again.mark()
    again.append([{"a": 3}])
    assert rows(log.path) == [{"a": 1}, {"a": 3}]
    again.verify(mark)
    again.cut(mark)
    again.append([{"a": 4}])
    assert rows(log.path) == [{"a": 1}, {"a": 4}]
    assert again.mark() == JsonLines(log.path).mark()


def test_marks_are_those_of_the_files(tmp_path: Path) -> None:
    manifest = json.loads((finished_run() / "checkpoints" / "train-000000250" / "manifest.json").read_text())
    for log in (metric_log(finished_run()), evaluation_log(finished_run())):
        assert log.mark() == Mark(*manifest["run"]["logs"][log.path.name])


class Footprint(Callback):
    """What the process takes at each evaluation."""

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self.files: list[int] = []

    def on_evaluation(self, rows: list[dict]) -> None:
        self.bytes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        self.files.append(len(os.listdir("/proc/self/fd")))


@pytest.mark.long
def test_memory_and_files_do_not_grow_with_rows(tmp_path: Path) -> None:
    """10,000 rows of metrics and 1,000 evaluations."""
    footprint = Footprint()
    small = package.ALGORITHMS["bc"](hidden_sizes=(8,), train_updates=10_000)
    every = {"log_every_updates": 1, "eval_every_updates": 10}
    options = package.Options(batch_size=16, eval_episodes=1, eval_workers=0, **every)
    data = write_d4rl(tmp_path / "set.hdf5", **columns(observation_size=3, action_size=1))
    how = {"environment": "Pendulum-v1", "horizon": 5, "options": options, "callbacks": [footprint], "quiet": True}
    report = package.train(small, str(data), out=tmp_path / "run", **how)
    assert len(rows(report.folder / "metrics.jsonl")) == 10_000
    assert len(footprint.bytes) == 1_000
    early, late = (sum(footprint.bytes[start : start + 50]) / 50 for start in (200, 950))
    assert late < 1.02 * early, f"{early / 2**20:.1f} MB at evaluation 200, {late / 2**20:.1f} MB at the end"
    assert len(set(footprint.files[1:])) == 1
