"""One process at a time writes to a folder; the second is told who does, and nobody waits for the dead."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest
from make_data import OPTIONS, copy_run, data_file, finished_run, outcome, snapshot, tether

from tether import InputError
from tether.machine import files, locks
from tether.machine.files import LOCK, atomic_write_text, lasting
from tether.machine.locks import Busy, new_file, only_writer

HOLD = """
import sys, time
from pathlib import Path
from tether.machine.locks import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(folder: Path) -> subprocess.Popen:
    """A process that holds the folder's lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_writes_and_the_dead_hold_nothing(tmp_path: Path) -> None:
    process = hold(tmp_path)
    with (
        pytest.raises(Busy, match=rf"{tmp_path}: process {process.pid} on .+ \(since 20.+\) writes there"),
        only_writer(tmp_path),
    ):
        pass
    process.kill()
    process.communicate()
    assert json.loads((tmp_path / f"{LOCK}.json").read_text())["process"] == process.pid  # it could not tidy up
    with only_writer(tmp_path):
        assert json.loads((tmp_path / f"{LOCK}.json").read_text())["process"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] in ([LOCK], [])
    assert lasting(tmp_path) == []


def test_the_same_thread_may_enter_again_and_another_not(tmp_path: Path) -> None:
    found = []

    def enter() -> None:
        try:
            with only_writer(tmp_path):
                found.append("in")
        except Busy as error:
            found.append(str(error))

    with only_writer(tmp_path):
        with only_writer(tmp_path / "." / ""):
            found.append("in")
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    enter()
    assert (found[0], found[2]) == ("in", "in")
    assert f"process {os.getpid()}" in found[1]


def test_who_waits_says_for_whom_and_gets_the_lock(tmp_path: Path) -> None:
    process, told = hold(tmp_path), []

    def wait(text: str) -> None:
        told.append(text)
        process.kill()
        process.communicate()

    with only_writer(tmp_path, wait=wait):
        assert "waiting for it" in told[0]
    assert len(told) == 1


def test_a_new_file_is_made_by_one_process_and_replaces_none(tmp_path: Path) -> None:
    path = tmp_path / "set.hdf5"
    with new_file(path) as temporary:
        temporary.write_text("mine")
        with pytest.raises(Busy, match=str(path)):
            _in_thread(path)
    assert path.read_text() == "mine"
    with pytest.raises(InputError, match="exists already"), new_file(path):
        pass
    assert os.listdir(tmp_path) == ["set.hdf5"]


def _in_thread(path: Path) -> None:
    errors = []

    def make() -> None:
        try:
            with new_file(path):
                pass
        except Busy as error:
            errors.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    raise errors[0]


def test_every_verb_that_writes_asks_for_the_lock(tmp_path: Path) -> None:
    run, comparison, collection, sweep = (
        copy_run(tmp_path / "run"),
        tmp_path / "compare",
        tmp_path / "collect",
        tmp_path / "sweep",
    )
    spec = tmp_path / "spec.toml"
    spec.write_text(f'algorithms = ["bc"]\ndatasets = ["{data_file()}"]\n[options]\nupdates = 1\n')
    log = tmp_path / "log.csv"
    log.write_text("s,a,r\n1,0.5,1\n2,-0.5,0\n3,0.25,1\n4,0.1,0\n")
    imported = [
        "data",
        "import",
        log,
        "--observation",
        "s",
        "--action",
        "a",
        "--reward",
        "r",
        "--episode",
        "none",
        "--out",
    ]
    commands = {
        run: ["resume", run],
        tmp_path / "new": ["train", "dtql", data_file(), *OPTIONS, "--out", tmp_path / "new"],
        comparison: ["compare", "--data", data_file(), "--algorithms", "bc", "--updates", 1, "--out", comparison],
        collection: ["data", "collect", "Pendulum-v1", "--policy", "random", "--rows", 10, "--out", collection],
        sweep: ["sweep", spec, "--local", "--out", sweep],
    }
    before = snapshot(run)
    with filelock.FileLock(tmp_path / f".set.hdf5{LOCK}"):
        code, _, err = tether(*imported, tmp_path / "set.hdf5")
    assert (code, err.count("\n")) == (1, 1)
    assert "another process writes there" in err
    for folder, command in commands.items():
        folder.mkdir(exist_ok=True)
        with filelock.FileLock(folder / LOCK):
            code, out, err = tether(*command, "--quiet")
        assert (code, out, err.count("\n")) == (1, "", 1), (command, err)
        assert f"{folder}: another process writes there" in err
    assert snapshot(run) == before
    with filelock.FileLock(run / LOCK):  # readers do not wait
        assert tether("plot", run)[0] == 0


def resumes(folder: Path, count: int) -> tuple[list[int], list[str]]:
    """Exit codes and stderr of so many `tether resume` that begin at once."""
    command = [sys.executable, "-m", "tether", "resume", str(folder), "--quiet"]
    begun = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(count)
    ]
    errors = [process.communicate(timeout=600)[1] for process in begun]
    return [process.returncode for process in begun], errors


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 4, 8])
def test_of_several_resumes_one_goes_on(tmp_path: Path, count: int) -> None:
    run = copy_run(tmp_path / "run")
    for name in ("train-000000250", "train-000000200"):  # as if stopped before
        (run / "checkpoints" / name).rename(tmp_path / name)
    (run / "result.json").unlink()
    codes, errors = resumes(run, count)
    # One that began when the first had ended shows the finished run.
    assert set(codes) <= {0, 1}
    assert 0 in codes
    assert [error for error in errors if error] == [error for error in errors if "writes there" in error]
    assert sum(bool(error) for error in errors) == codes.count(1) >= 1
    assert outcome(run) == outcome(finished_run())


def test_a_network_file_system_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(locks, "_network_kind", lambda path: "nfs4")
    for _ in range(2):
        with only_writer(tmp_path):
            pass
    assert capsys.readouterr().err == (
        f"tether: {tmp_path}: on a network file system (nfs4): do not write there from two machines at once\n"
    )


def test_where_there_are_no_locks_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def acquire(self: filelock.FileLock, **_: object) -> None:
        raise OSError(locks.NO_LOCKS[0], "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with only_writer(tmp_path):
        pass
    assert "knows no locks" in capsys.readouterr().err


def test_what_dead_processes_left_more_than_a_day_ago_goes(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    living = subprocess.Popen(["sleep", "600"])
    old = time.time() - files.ABANDONED_SECONDS - 60
    gone = [f".tmp-set.hdf5-{ended.pid}.tether", f".tmp-set.hdf5-{os.getpid()}.tether"]
    kept = [f".tmp-set.hdf5-{living.pid}.tether", f"set-{ended.pid}.tether"]
    kept += [".tmp-draft.md", f".tmp-notes-{ended.pid}", f".tmp-{ended.pid}.tether", ".tmp-set-x.tether"]  # others'
    for name in (*gone, *kept):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (old, old))
    (tmp_path / f".tmp-young-{ended.pid}.tether").write_text("x")
    kept += [f".tmp-young-{ended.pid}.tether", ".tmp-backup"]
    for folder in (tmp_path / f".tmp-folder-{ended.pid}.tether", tmp_path / ".tmp-backup"):
        (folder / "data").mkdir(parents=True)
        for path in (folder / "data", folder):
            os.utime(path, (old, old))
    atomic_write_text(tmp_path / "new", "x")
    living.send_signal(signal.SIGKILL)
    living.wait()
    assert set(os.listdir(tmp_path)) == {*kept, "new"}
