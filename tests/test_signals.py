"""Ctrl-C, SIGTERM and SIGHUP: checkpoints are written, processes that were begun end, nothing half-made stays."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from make_data import OPTIONS, PRETRAIN, TRAIN, data_file, digest, finished_run, outcome, tether

from tether.data.logs import importing
from tether.evaluation import pool
from tether.machine.signals import Interrupted, StopSignals, Terminated, end_orderly
from tether.runs.run import Run
from tether.studies.sweep import load_spec, local
from tether.studies.sweep.jobs import SweepFolder

SPEC = f"""
algorithms = ["dtql"]
datasets = ["{{data}}"]
seeds = 4
lanes_per_job = 2
[options]
updates = {TRAIN}
pretrain_updates = {PRETRAIN}
batch_size = 32
eval_episodes = 2
eval_every_updates = 100
log_every_updates = 70
[set]
hidden_sizes = [16, 16]
denoiser_hidden_sizes = [16, 16]
candidates = 8
"""


def spec_file(folder: Path) -> Path:
    """A sweep of two jobs, of which the first is `finished_run`."""
    path = folder / "spec.toml"
    path.write_text(SPEC.format(data=data_file()))
    return path


def send(number: int) -> None:
    os.kill(os.getpid(), number)


# --- what a signal is to a process --------------------------------------------------------------------------


def test_terminations_are_noted_once_and_a_second_ctrl_c_raises() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        before = signal.getsignal(number)
        with StopSignals() as stop:
            assert stop.number is None
            send(number)
            send(signal.SIGTERM)  # from whoever began this process, when a scheduler sent the first to everybody
            send(signal.SIGHUP)
            assert stop.number == number
            with pytest.raises(KeyboardInterrupt):
                send(signal.SIGINT)
        assert signal.getsignal(number) == before


def test_nohup_stays_nohup() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with end_orderly(), StopSignals() as stop:
            send(signal.SIGHUP)
            assert stop.number is None
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_outside_of_training_a_signal_ends_in_order(number: signal.Signals) -> None:
    tidied = []

    def work() -> None:
        try:
            send(number)
            time.sleep(60)
        finally:
            send(signal.SIGTERM)  # again, while it tidies up
            tidied.append(True)

    with pytest.raises(Terminated, match=f"stopped by {number.name}") as stop, end_orderly():
        work()
    assert (stop.value.signal_number, tidied) == (number, [True])


def test_a_stopped_import_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, out = tmp_path / "log.csv", tmp_path / "out"
    log.write_text("s,a,r\n1,0.5,1\n2,-0.5,0\n")
    out.mkdir()
    monkeypatch.setattr(importing, "rows_of", lambda *_, **__: send(signal.SIGTERM) or [])
    words = ["--observation", "s", "--action", "a", "--reward", "r", "--episode", "none", "--out", out / "set.hdf5"]
    assert tether("data", "import", log, *words) == (143, "", "tether: stopped by SIGTERM\n")
    assert os.listdir(out) == []


# --- processes that a command begins ------------------------------------------------------------------------


@pytest.mark.long
def test_training_with_a_worker_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen] = []
    popen, run_piece = subprocess.Popen, Run._run_piece

    def begin(*arguments: Any, **options: Any) -> subprocess.Popen:
        begun.append(popen(*arguments, **options))
        return begun[-1]

    def stop(self: Run, count: int) -> None:
        if self.position == (1, 200):
            send(signal.SIGHUP)
        run_piece(self, count)

    monkeypatch.setattr(pool.subprocess, "Popen", begin)
    monkeypatch.setattr(Run, "_run_piece", stop)
    out = tmp_path / "run"
    command = ["train", "dtql", *OPTIONS, "--seeds", "2", data_file(), "--eval-workers", 1, "--out", out, "--quiet"]
    code, _, err = tether(*command)
    monkeypatch.undo()
    assert code == 129
    assert f"stopped by SIGHUP; continue with `tether resume {out}`" in err
    (worker,) = [process for process in begun if "tether.evaluation.worker" in list(process.args)]
    assert worker.returncode is not None
    assert tether("resume", out, "--eval-workers", 0, "--quiet")[0] == 0
    assert outcome(out) == outcome(finished_run())


JOB = """
import signal, sys, time
from pathlib import Path
def stop(number, frame):
    time.sleep(0.3)
    Path(sys.argv[1]).write_text("checkpoint")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_local_sweep_ends_its_jobs_and_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    folder = SweepFolder.open(tmp_path / "out", load_spec(spec_file(tmp_path)))
    begun: list[subprocess.Popen] = []

    def start(folder: SweepFolder, job: Any, cores: int) -> subprocess.Popen:
        command = [sys.executable, "-c", JOB, str(tmp_path / f"job-{job.number}")]
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert begun[-1].stdout.readline() == "ready\n"
        if len(begun) == 2:
            send(number)
        return begun[-1]

    monkeypatch.setattr(local, "_start", start)
    with pytest.raises(Interrupted, match="continue with the same command") as stop:
        local.run_locally(folder, 2, lambda text: None)
    assert stop.value.signal_number == number
    for process in begun:
        process.stdout.close()
    assert [process.returncode for process in begun] == [143, 143]
    assert all((tmp_path / f"job-{job}").read_text() == "checkpoint" for job in (0, 1))


def test_jobs_do_not_hear_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else Ctrl-C reaches them twice, and the second one takes their checkpoint."""
    folder = SweepFolder.open(tmp_path / "out", load_spec(spec_file(tmp_path)))
    monkeypatch.setattr(local.sys, "executable", "/bin/true")
    process = local._start(folder, folder.spec.jobs[0], 1)
    assert os.getpgid(process.pid) == process.pid != os.getpgrp()
    process.wait()


# --- the whole commands -------------------------------------------------------------------------------------


def members(group: int) -> list[int]:
    """The living processes that have the environment's mark `group`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment, state = (
                (path / "environ").read_bytes(),
                (path / "stat").read_text().rpartition(")")[2].split()[0],
            )
        except OSError:
            continue
        if f"TETHER_TEST_GROUP={group}\0".encode() in environment and state != "Z":
            found.append(int(path.name))
    return found


def stopped(command: list[Any], ready: Callable[[], bool], number: int) -> tuple[int, str]:
    """Run a command until `ready`, send it a signal -> exit code and stderr; none of its processes is left."""
    group = time.monotonic_ns()
    environment = os.environ | {"TETHER_TEST_GROUP": str(group), "RAY_ADDRESS": "local", "RAY_worker_niceness": "0"}
    words = [sys.executable, "-m", "tether", *map(str, command)]
    with subprocess.Popen(
        words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        watch = threading.Thread(target=lambda: until(ready) and process.send_signal(number))
        watch.start()
        _, err = process.communicate(timeout=900)
        watch.join()
    for _ in range(100):  # Ray's own processes end after the one that began them
        if not members(group):
            break
        time.sleep(0.2)
    assert members(group) == []
    return process.returncode, err


def until(ready: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 600
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return True


@pytest.mark.long
@pytest.mark.parametrize("engine", ["--local", "ray"])
def test_a_whole_sweep_is_stopped_and_goes_on(tmp_path: Path, engine: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    spec, folder = spec_file(tmp_path), tmp_path / "out"
    finished_run()  # what it compiled, the jobs find
    command = ["sweep", spec, "--out", folder, *(["--local"] if engine == "--local" else [])]
    checkpoints = folder / "jobs"
    code, err = stopped(command, lambda: any(checkpoints.glob("0000-*/checkpoints/*/manifest.json")), signal.SIGTERM)
    assert code == 143, err
    assert "stopped by SIGTERM; continue with the same command" in err
    name = load_spec(spec).jobs[0].name
    newest = max((folder / "jobs" / name / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    assert json.loads((newest / "manifest.json").read_text())["run"]["position"]
    assert not (folder / "jobs" / name / "result.json").exists()
    assert tether(*command[:4], "--local", "--quiet")[0] == 0
    for lane in (0, 1):
        policy = f"policies/lane-{lane}/policy.safetensors"
        assert digest(folder / "jobs" / name / policy) == digest(finished_run() / policy)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_whole_comparison_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    words = ["--updates", 100_000, "--eval-every-updates", 50, "--eval-episodes", 1, "--batch-size", 16, "--seeds", 1]
    command = ["compare", "--data", data_file(), "--algorithms", "bc,iql", *words, "--out", out]
    code, err = stopped(command, lambda: any(out.glob("*/checkpoints/*/manifest.json")), number)
    assert code == 128 + number, err
    assert f"continue with `tether compare --out {out}`" in err
