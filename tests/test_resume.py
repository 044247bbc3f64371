"""A run that is killed, stopped or damaged and then resumed is, bit for bit, the run that was not."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from make_data import (
    OPTIONS,
    SETTINGS,
    TRAIN,
    algorithm,
    copy_run,
    data_file,
    digest,
    finished_run,
    last_state,
    outcome,
    rows,
    snapshot,
    tether,
    write_d4rl,
)

from tether import InputError, api
from tether.runs import checkpoint, evaluations
from tether.runs.run import Run

TRAIN_ARGUMENTS = ("train", "dtql", *OPTIONS, "--seeds", "2")

# Runs the command line and kills itself, with no chance to clean up, at a moment that the first arguments choose.
VICTIM = """
import os, signal, sys
from tether import cli
from tether.runs import checkpoint
from tether.runs import evaluations
from tether.runs import jsonlines

where, count, *arguments = sys.argv[1:]
left = int(count)

def die_or_not():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def halfway(write):
    def wrapped(path, data):
        if left == 1:
            write(path, data[: len(data) // 2])
        die_or_not()
        write(path, data)
    return wrapped

def half_a_row(self, rows):
    if left == 1:
        with self.path.open("a") as file:
            file.write(jsonlines._lines(rows)[:-20])
    die_or_not()
    append(self, rows)

def in_evaluation(policies, task, episodes, keys, on_step, **how):
    def step(done, horizon):
        die_or_not()
        on_step(done, horizon)
    return rollout(policies, task, episodes, keys, step, **how)

if where == "checkpoint":
    checkpoint.write_synced = halfway(checkpoint.write_synced)
elif where == "rows":
    append, jsonlines.JsonLines.append = jsonlines.JsonLines.append, half_a_row
elif where == "evaluation":
    rollout, evaluations.rollout = evaluations.rollout, in_evaluation
cli.main(arguments)
"""


def run_victim(where: str, count: int, *arguments: Any) -> subprocess.Popen:
    command = [sys.executable, "-c", VICTIM, where, str(count), *map(str, arguments), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_killed(process: subprocess.Popen) -> None:
    out, err = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL, (process.returncode, out, err)


def newest_checkpoint(folder: Path) -> Path:
    return max((folder / "checkpoints").iterdir(), key=lambda path: (path.name.startswith("train"), path.name))


# --- SIGKILL ------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_sigkill_in_the_middle_of_writing(tmp_path: Path) -> None:
    """Killed while writing the second checkpoint, and halfway through a row."""
    out = tmp_path / "run"
    assert_killed(run_victim("checkpoint", 3, *TRAIN_ARGUMENTS, data_file(), "--out", out))
    assert [path.name for path in (out / "checkpoints").iterdir() if path.name[0] != "."] == ["pretrain-000000150"]
    assert_killed(run_victim("rows", 2, "resume", out))
    with pytest.raises(json.JSONDecodeError):  # or else the moment was badly chosen
        [rows(out / file) for file in ("evaluations.jsonl", "metrics.jsonl")]
    _assert_it_ends_as_if_never_killed(out)


@pytest.mark.long
def test_sigkill_while_computing(tmp_path: Path) -> None:
    """Killed in an evaluation, and at a random moment."""
    out = tmp_path / "run"
    assert_killed(run_victim("evaluation", 7, *TRAIN_ARGUMENTS, data_file(), "--out", out))
    _kill_at_random(out)
    _assert_it_ends_as_if_never_killed(out)


def _assert_it_ends_as_if_never_killed(out: Path) -> None:
    code, printed, _ = tether("resume", out)
    assert code == 0
    assert "policy, last (update 250)" in printed
    assert outcome(out) == outcome(finished_run())
    result, clean = (json.loads((folder / "result.json").read_text()) for folder in (out, finished_run()))
    timed = {name for name in result if "second" in name or "share" in name} | {"compiled"}
    assert {name: result[name] for name in result.keys() - timed} == {
        name: clean[name] for name in clean.keys() - timed
    }
    assert not [path for path in (out / "checkpoints").iterdir() if path.name.startswith(".")]


def _kill_at_random(folder: Path) -> None:
    """From outside, some time between the first new row and the end."""
    metrics = folder / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns
    process = run_victim("nowhere", 0, "resume", folder)
    while process.poll() is None and metrics.stat().st_mtime_ns == before:
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.5))
    process.kill()
    process.communicate()


@pytest.mark.long
@pytest.mark.parametrize("attempt", range(6))
def test_sigkill_again_and_again(tmp_path: Path, attempt: int) -> None:
    expected, out = outcome(finished_run()), tmp_path / "run"
    choice = random.Random(attempt)
    arguments: tuple[Any, ...] = (*TRAIN_ARGUMENTS, data_file(), "--out", out)
    for _ in range(5):
        where, most = choice.choice([("checkpoint", 6), ("rows", 6), ("evaluation", 60)])
        run_victim(where, choice.randint(1, most), *arguments).communicate(timeout=600)
        arguments = ("resume", out)
    assert tether("resume", out)[0] == 0
    assert outcome(out) == expected


@pytest.mark.long
def test_killed_before_the_first_checkpoint_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    _call_in_piece(monkeypatch, 2, _fail)
    with pytest.raises(ZeroDivisionError):
        tether(*TRAIN_ARGUMENTS, data_file(), "--out", out)
    assert not (out / "checkpoints").exists()
    assert len(rows(out / "metrics.jsonl")) == 2
    code, _, errors = tether("evaluate", out)
    assert code == 2
    assert "no checkpoint yet" in errors
    monkeypatch.undo()
    code, _, progress = tether("resume", out)
    assert code == 0
    assert "starting over" in progress
    assert outcome(out) == outcome(finished_run())


def _fail() -> None:
    raise ZeroDivisionError


def _call_in_piece(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], Any]) -> None:
    """Do something at the start of a piece of updates; pieces are counted from 1."""
    real, left = Run._run_piece, [number]

    def run_piece(self: Run, count: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            action()
        real(self, count)

    monkeypatch.setattr(Run, "_run_piece", run_piece)


# --- Ctrl-C and SIGTERM -------------------------------------------------------------------------------------


def _send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("piece", "number"),
    [(1, signal.SIGINT), (3, signal.SIGINT), (5, signal.SIGTERM), (6, signal.SIGINT), (8, signal.SIGINT)],
    # updates at the piece's end: pretrain 70, pretrain 150, train 100 (evaluation due), train 140, train 210
)
def test_stopped_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, number: int) -> None:
    out, handlers = tmp_path / "run", [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    _call_in_piece(monkeypatch, piece, _send(number))
    code, printed, errors = tether(*TRAIN_ARGUMENTS, data_file(), "--out", out, "--quiet")
    assert code == 128 + number
    assert printed == ""
    name = signal.Signals(number).name
    assert errors == f"tether: stopped by {name}; continue with `tether resume {out}`\n"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert newest_checkpoint(out).is_dir()
    monkeypatch.undo()
    assert tether("resume", out)[0] == 0
    assert outcome(out) == outcome(finished_run())


@pytest.mark.parametrize("evaluation", [1, 3])
def test_stopped_in_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluation: int) -> None:
    out, real, left = tmp_path / "run", evaluations.rollout, [evaluation]

    def rollout(policies: Any, task: Any, episodes: int, keys: Any, on_step: Any, **how: Any) -> Any:
        def step(done: int, horizon: int) -> None:
            left[0] -= done == 3
            if left[0] == 0 and done == 3:
                os.kill(os.getpid(), signal.SIGINT)
            on_step(done, horizon)

        return real(policies, task, episodes, keys, step, **how)

    monkeypatch.setattr(evaluations, "rollout", rollout)
    code, _, errors = tether(*TRAIN_ARGUMENTS, data_file(), "--out", out)
    assert code == 130
    assert errors.splitlines()[-1].startswith("tether: stopped by SIGINT")
    updates = [row["update"] for row in rows(out / "evaluations.jsonl")] if evaluation > 1 else []
    assert sorted(set(updates)) == [100, 200][: evaluation - 1]
    assert newest_checkpoint(out).name == f"train-{[100, 200, 250][evaluation - 1]:09d}"
    monkeypatch.undo()
    assert tether("resume", out)[0] == 0
    assert outcome(out) == outcome(finished_run())


def test_a_second_signal_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    _call_in_piece(monkeypatch, 2, twice)
    code, _, errors = tether(*TRAIN_ARGUMENTS, data_file(), "--out", tmp_path / "run", "--quiet")
    assert (code, errors) == (130, "tether: stopped\n")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_signal_when_all_is_done_lets_it_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = api.write_report

    def write_report(run: Run, report: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(run, report)

    monkeypatch.setattr(api, "write_report", write_report)
    copy_run(tmp_path / "run")
    assert tether("resume", tmp_path / "run")[0] == 0
    assert outcome(tmp_path / "run") == outcome(finished_run())


# --- damage -------------------------------------------------------------------------------------------------


def _unfinished(target: Path) -> Path:
    """A copy of the finished run without what is written at the end."""
    folder = copy_run(target)
    shutil.rmtree(folder / "policy")
    shutil.rmtree(folder / "policies")
    (folder / "result.json").unlink()
    return folder


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("state.safetensors", _truncate, "truncated"),
        ("state.safetensors", _flip, "altered"),
        ("manifest.json", _truncate, "truncated or altered"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_previous_used(
    tmp_path: Path, file: str, damage: Callable[[Path], None], reason: str
) -> None:
    folder = _unfinished(tmp_path / "run")
    newest = folder / "checkpoints" / f"train-{TRAIN:09d}"
    damage(newest / file)
    code, _, progress = tether("resume", folder)
    assert code == 0
    lines = [line for line in progress.splitlines() if str(newest / file) in line]
    assert len(lines) == 1
    assert reason in lines[0]
    assert lines[0].endswith("going on from train-000000200")
    assert outcome(folder) == outcome(finished_run())


def test_only_damaged_checkpoints_change_nothing(tmp_path: Path) -> None:
    folder = _unfinished(tmp_path / "run")
    for path in (folder / "checkpoints").iterdir():
        _flip(path / "state.safetensors")
    before = snapshot(folder)
    for command in ("resume", "evaluate"):
        code, printed, errors = tether(command, folder, "--quiet")
        assert (code, printed) == (2, "")
        assert errors.startswith("tether: error: no valid checkpoint")
        assert errors.count("\n") == 1
        assert str(folder / "checkpoints" / f"train-{TRAIN:09d}" / "state.safetensors") in errors
    assert snapshot(folder) == before


def test_full_disk_at_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left, out = checkpoint.write_synced, [5], tmp_path / "run"

    def write_synced(path: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] <= 0:
            real(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    monkeypatch.setattr(checkpoint, "write_synced", write_synced)
    code, printed, errors = tether(*TRAIN_ARGUMENTS, data_file(), "--out", out, "--quiet")
    assert (code, printed) == (1, "")
    assert errors.startswith("tether: error: ")
    assert errors.count("\n") == 1
    assert "No space left on device" in errors
    assert str(out / "checkpoints" / "train-000000200") in errors
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["pretrain-000000150", "train-000000100"]
    monkeypatch.undo()
    assert tether("resume", out)[0] == 0
    assert outcome(out) == outcome(finished_run())


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
def test_full_disk_at_a_row(tmp_path: Path, name: str) -> None:
    folder = _unfinished(tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / f"train-{TRAIN:09d}")
    (folder / name).unlink()
    (folder / name).mkdir()  # cannot be written to
    code, _, errors = tether("resume", folder, "--quiet")
    assert code == 1
    assert errors.startswith("tether: error: ")
    assert errors.count("\n") == 1
    assert name in errors


def test_a_changed_data_set_is_refused(tmp_path: Path) -> None:
    source = write_d4rl(tmp_path / "hopper-medium.hdf5")
    arguments = ["train", "dtql", source, *OPTIONS, "--seeds", "2", "--environment", "none", "--out", tmp_path / "run"]
    assert tether(*arguments)[0] == 0
    before = snapshot(tmp_path / "run")
    _flip(source)
    for command in ("resume", "evaluate"):
        code, _, errors = tether(command, tmp_path / "run")
        assert code == 2
        assert str(source) in errors
    source.unlink()
    code, _, errors = tether("resume", tmp_path / "run")
    assert code == 2
    assert str(source) in errors
    assert snapshot(tmp_path / "run") == before


# --- finished runs and other folders ------------------------------------------------------------------------


def test_resuming_a_finished_run_shows_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_run(tmp_path / "run")
    monkeypatch.setattr(Run, "_run_piece", _fail)
    monkeypatch.setattr(Run, "_compile", _fail)
    code, printed, said = tether("resume", folder)
    assert code == 0
    assert "complete at update 250: shown again" in said
    assert "policy, last (update 250)" in printed
    after, before = snapshot(folder), snapshot(finished_run())
    changed = {name for name in after | before if after.get(name) != before.get(name)}
    # the time it took, and the number of updates per second to the last digit, are all that may differ
    assert changed <= {"result.json"}


@pytest.mark.long
def test_a_finished_run_trained_on_is_the_longer_run(tmp_path: Path) -> None:
    folder, longer = copy_run(tmp_path / "run"), tmp_path / "longer"
    code, printed, _ = tether("resume", folder, "--updates", 300)
    assert code == 0
    assert "policy, last (update 300)" in printed
    api.train(algorithm(train_updates=300), str(data_file()), seeds=2, options=SETTINGS, out=longer, quiet=True)
    for path in ("checkpoints/train-000000300/state.safetensors", "policy/policy.safetensors"):
        assert digest(folder / path) == digest(longer / path)
    ends = [[row for row in rows(run / "evaluations.jsonl") if row["update"] == 300] for run in (folder, longer)]
    assert ends[0] == ends[1] != []
    configs = [json.loads((run / "config.json").read_text()) for run in (folder, longer)]
    for name in ("hyperparameters", "phases"):
        assert configs[0][name] == configs[1][name]
    code, printed, _ = tether("resume", folder)  # the length is the run's from now on
    assert code == 0
    assert "policy, last (update 300)" in printed


def test_a_stopped_run_ends_early_with_its_policies(tmp_path: Path) -> None:
    folder = copy_run(tmp_path / "run")
    for name in ("policy", "policies", "checkpoints/train-000000250"):
        shutil.rmtree(folder / name)
    code, printed, _ = tether("resume", folder, "--updates", 210)
    assert code == 0
    assert "policy, last (update 210)" in printed
    assert [row["update"] for row in rows(folder / "evaluations.jsonl")][-1] == 210
    assert (folder / "policies" / "lane-1" / "policy.json").exists()


def test_a_run_that_trains_on_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result of the shorter run would let sweeps and reports take it for finished, with another length."""
    folder = copy_run(tmp_path / "run")
    _call_in_piece(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    code, _, _ = tether("resume", folder, "--updates", 300)
    assert code == 130
    assert not (folder / "result.json").exists()


def test_another_horizon_is_refused(tmp_path: Path) -> None:
    folder = copy_run(tmp_path / "run")
    task = json.loads((folder / "config.json").read_text())["environment"]
    with pytest.raises(InputError, match=r"episodes are cut after \d+ steps; horizon 7 cannot change that"):
        api.resume(folder, environment=task, horizon=7, quiet=True)


def test_what_cannot_be_evaluated_is_refused_at_once() -> None:
    """Before anything is read, in one line; in a process of its own, without the types that tests check."""
    program = """
import tether
for how in ({"episodes": "3"}, {"episodes": 2.5}, {"episodes": 0}, {"runtime": "onx"}):
    try:
        tether.evaluate("nowhere", **how)
    except tether.InputError as error:
        print(error)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == [
        "episodes 3: must be whole, at least 1",
        "episodes 2.5: must be whole, at least 1",
        "episodes 0: must be at least 1",
        "unknown runtime 'onx'; did you mean onnx?",
    ]


@pytest.mark.parametrize(
    ("updates", "message"), [(249, "250 updates of train are done; --updates 249"), (0, "updates 0")]
)
def test_a_length_that_is_behind_is_refused_and_nothing_changes(tmp_path: Path, updates: int, message: str) -> None:
    folder = copy_run(tmp_path / "run")
    code, printed, errors = tether("resume", folder, "--updates", updates)
    assert (code, printed) == (2, "")
    assert message in errors
    assert errors.splitlines()[-1].startswith("tether: error: ")
    assert snapshot(folder) == snapshot(finished_run())


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for text in ("", "{", "[]", "{}", '{"format_version": 1}', '{"format_version": 9}'):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(text)
        for path in (folder, tmp_path / "empty", tmp_path / "missing", data_file()):
            for command in ("resume", "evaluate", "plot"):
                code, printed, errors = tether(command, path)
                assert (code, printed) == (2, "")
                assert errors.startswith("tether: error: ")
                assert errors.count("\n") == 1
                assert str(path) in errors


def test_an_altered_config_is_refused(tmp_path: Path) -> None:
    folder = copy_run(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    for change in (
        {"algorithm": "dtqk"},
        {"algorithm": ["dtql"]},
        {"hyperparameters": {**config["hyperparameters"], "expectil": 1}},
        {"hyperparameters": 3},
        {"settings": {"batch": 3}},
        {"lanes": [0]},
        {"data": {}},
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        code, _, errors = tether("resume", folder)
        assert code == 2, change
        assert errors.startswith("tether: error: ")
        assert errors.count("\n") == 1
    # other sizes do not fit the checkpoints
    config["hyperparameters"]["hidden_sizes"] = [16]
    (folder / "config.json").write_text(json.dumps(config))
    code, _, errors = tether("resume", folder, "--quiet")
    assert code == 2
    assert "no valid checkpoint" in errors


def test_times_add_up_over_interruptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    _call_in_piece(monkeypatch, 4, lambda: (time.sleep(0.3), os.kill(os.getpid(), signal.SIGINT)))
    tether(*TRAIN_ARGUMENTS, data_file(), "--out", out)
    monkeypatch.undo()
    notes = json.loads((newest_checkpoint(out) / "manifest.json").read_text())["run"]
    assert notes["seconds"]["wall"] >= 0.3
    tether("resume", out)
    result = json.loads((out / "result.json").read_text())
    assert result["wall_seconds"] > notes["seconds"]["wall"]
    assert last_state(out) == last_state(finished_run())
