"""A kill before the first file is in place: the same command begins anew (at random: benchmarks/random_kills.py)."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from make_data import OPTIONS, data_file, finished_run, outcome, tether

from tether import InputError
from tether.runs.folder import new_folder, open_folder
from tether.studies.sweep import load_spec
from tether.studies.sweep.jobs import SweepFolder, run_job

VICTIM = """
import os, signal, sys
from tether import cli

left = int(sys.argv[1])

def replace(source, target, real=os.replace):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)

os.replace = replace
cli.main(sys.argv[2:])
"""


def nothing(folder: Path) -> None:
    """The folder alone."""
    folder.mkdir(parents=True)


def litter(folder: Path) -> None:
    """Also a lock, and files that never got their names."""
    (folder / ".tmp-train-4711").mkdir(parents=True)
    for name in (".lock", ".lock.json", ".tmp-config.json-4711", ".tmp-collect.json-4711"):
        (folder / name).write_text('{"process": 47')


@pytest.mark.parametrize("left", [nothing, litter])
def test_a_run_begins_anew(tmp_path: Path, left: Callable[[Path], None]) -> None:
    out = tmp_path / "run"
    left(out)
    with pytest.raises(InputError, match="killed before its first file; begin it again"), open_folder(out):
        pass
    with new_folder(out, {"algorithm": "dtql"}):
        assert (out / "config.json").exists()
    with pytest.raises(InputError, match="exists already"), new_folder(out, {}):
        pass


@pytest.mark.long
def test_a_job_a_comparison_and_a_collection_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    how = "updates = 1\nbatch_size = 16\nenvironment = 'none'\n[set]\nhidden_sizes = [8]\n"
    path.write_text(f'algorithms = ["bc"]\ndatasets = ["{data_file()}"]\n[options]\n{how}')
    folder = tmp_path / "sweep"
    (folder / "jobs").mkdir(parents=True)
    (folder / ".tmp-spec.toml-4711").write_text("algo")
    sweep = SweepFolder.open(folder, load_spec(path))
    (job,) = sweep.spec.jobs
    litter(sweep.run_folder(job))
    run_job(job, sweep.run_folder(job))
    assert sweep.unfinished() == []
    words: dict[str, list[Any]] = {
        "compare": ["compare", "--data", data_file(), "--algorithms", "bc", "--updates", 1, "--seeds", 1],
        "collect": ["data", "collect", "Pendulum-v1", "--policy", "random", "--rows", 10],
    }
    words["compare"] += ["--environment", "none", "--batch-size", 16, "--set", "hidden_sizes=8"]
    for name, command in words.items():
        litter(tmp_path / name)
        code, _, err = tether(*command, "--out", tmp_path / name, "--quiet")
        assert code == 0, err
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "jobs").mkdir()
    (tmp_path / "kept" / "jobs" / "thesis").touch()
    with pytest.raises(InputError, match="holds no sweep"):
        SweepFolder.open(tmp_path / "kept", load_spec(path))


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 2, 3])
def test_killed_at_the_first_files(tmp_path: Path, count: int) -> None:
    out = tmp_path / "run"
    command = ["train", "dtql", *OPTIONS, "--seeds", "2", str(data_file()), "--out", str(out), "--quiet"]
    victim = subprocess.run([sys.executable, "-c", VICTIM, str(count), *command], capture_output=True)
    assert victim.returncode == -9
    again = ["resume", out, "--quiet"] if (out / "config.json").exists() else command
    assert tether(*again)[0] == 0
    assert outcome(out) == outcome(finished_run())
