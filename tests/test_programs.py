"""Programs that are kept are the same programs, and a start that finds them traces and compiles nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from make_data import data_file

from tether.algorithms import BC
from tether.bench.counting import synthetic
from tether.data import view_of
from tether.machine import programs, start
from tether.runs.run import _lane_keys
from tether.training.devices import Devices
from tether.training.groups import LaneGroups
from tether.training.lanes import make_lanes, stack_lanes
from tether.types import Spec

SPEC, BATCH = Spec(3, 2), 8
HOW: dict[str, Any] = {"phase": 0, "batch_size": BATCH, "sequential": True}
ALGORITHM = BC(hidden_sizes=(8,))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Programs are kept here, for the length of a test."""
    programs.keep_programs_in(tmp_path / "programs")
    yield tmp_path / "programs"
    programs.keep_programs_in(None)


def groups(algorithm: Any = ALGORITHM) -> LaneGroups:
    """Two lanes, initialised."""
    lanes = tuple(make_lanes(algorithm, [0, 1], {}))
    made = LaneGroups(stack_lanes(algorithm, lanes), *_lane_keys(lanes), Devices(None), 2)
    made.init(SPEC)
    return made


def trained(algorithm: Any = ALGORITHM) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """State and metrics after three updates."""
    made, data = groups(algorithm), synthetic(view_of(algorithm), SPEC, jax.random.key(0))
    made.program(data, **HOW)
    sums, _ = made.run(np.ones(2, bool), data, 0, 3, **HOW)
    return jax.tree.leaves(made.state()), sums


def test_a_kept_program_gives_the_same_bits(folder: Path) -> None:
    programs.keep_programs_in(None)
    state, sums = trained()
    programs.keep_programs_in(folder)
    first, second = trained(), trained()
    assert len(list(folder.iterdir())) == 2  # of the networks' beginning, of the updates
    for kept_state, kept_sums in (first, second):
        assert list(kept_sums) == list(sums)
        assert all((kept_sums[name] == sums[name]).all() for name in sums)
        assert all((a == b).all() for a, b in zip(kept_state, state, strict=True))


def test_a_program_that_is_kept_is_not_traced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, _ = trained()
    jax.clear_caches()

    def traced(*_: Any) -> Any:
        raise AssertionError("an update was traced")

    monkeypatch.setattr(BC, "update", traced)
    again, _ = trained()
    assert all((a == b).all() for a, b in zip(again, state, strict=True))


@pytest.mark.parametrize("damage", ["empty", "truncated", "altered", "other"])
def test_a_damaged_file_is_replaced(folder: Path, damage: str) -> None:
    state, _ = trained()
    files = sorted(folder.iterdir())
    whole = [file.read_bytes() for file in files]
    for file, content in zip(files, whole, strict=True):
        middle = len(content) // 2
        altered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        contents = {"empty": b"", "truncated": content[:middle], "altered": altered, "other": b"{}"}
        file.write_bytes(contents[damage])
    again, _ = trained()
    assert all((a == b).all() for a, b in zip(again, state, strict=True))
    assert sorted(folder.iterdir()) == files
    assert all(programs._read(file) is not None for file in files)


def test_a_folder_that_cannot_be_written_keeps_nothing(folder: Path) -> None:
    folder.write_text("not a folder")
    assert len(trained()[0]) > 0


def test_what_decides_a_program_is_in_its_key() -> None:
    leaves, structure = jax.tree.flatten((np.zeros(3, np.float32),))
    about = {"phase": 0, "batch_size": 8}
    base = programs._key(ALGORITHM, about, leaves, structure)
    same = BC(hidden_sizes=(8,), learning_rate=1e-5)
    assert programs._key(same, about, leaves, structure) == base  # a number is an argument of the program
    other = BC(hidden_sizes=(9,))
    keys = {
        base,
        programs._key(other, about, leaves, structure),
        programs._key(ALGORITHM, about | {"phase": 1}, leaves, structure),
        programs._key(ALGORITHM, about | {"precision": "tf32"}, leaves, structure),
        programs._key(ALGORITHM, about, [np.zeros(4, np.float32)], structure),
        programs._key(ALGORITHM, about, [np.zeros(3, np.int32)], structure),
    }
    with jax.default_matmul_precision("bfloat16"):
        keys.add(programs._key(ALGORITHM, about, leaves, structure))
    assert len(keys) == 7


def test_an_algorithm_from_elsewhere_is_not_kept(folder: Path) -> None:
    """Its source is in no key."""

    class Mine(BC):
        pass

    groups(Mine(hidden_sizes=(8,)))
    assert not folder.exists()


def test_unused_programs_go(folder: Path) -> None:
    folder.mkdir()
    old, young = folder / "old.program", folder / "young.program"
    for file, days in ((old, 31), (young, 29)):
        file.write_bytes(b"")
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 86_400 * days))
    groups()
    assert young.exists()
    assert not old.exists()


def test_compilations_are_counted() -> None:
    early = start.Compilations(7, 3)
    late = start.Compilations(10, 5)
    assert late.since(early) == (3, 2)
    assert late.since(early).compiled == 1


def test_seconds_since_the_process_began() -> None:
    code = "import time; time.sleep(0.3); from tether.machine.start import since_process_start as s; print(s())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if sys.platform == "linux":
        assert 0.3 <= float(run.stdout) < 60


def test_seconds_since_a_command_or_its_last_run_began(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 5.0
    monkeypatch.setattr(start, "since_process_start", lambda: seconds)
    monkeypatch.setattr(start, "_began", None)
    start.note_next_run()
    assert start.since_start() is None  # a library in somebody else's process
    start.note_command()
    assert start.since_start() == 5.0
    start.note_next_run()
    seconds = 7.5
    assert start.since_start() == 2.5
    monkeypatch.setattr(start, "since_process_start", lambda: None)
    assert start.since_start() is None


@pytest.mark.long
def test_the_second_start_compiles_nothing(tmp_path: Path) -> None:
    """The `tether` command as users run it, twice: the second one finds every program on disk."""
    counts = tmp_path / "counts.json"
    # Counts from before the first program on: those that JAX compiles for single operations, too.
    code = f"""
import atexit, json, sys
from tether.machine import start
start.compilations()
atexit.register(lambda: json.dump(list(start.compilations()), open({str(counts)!r}, "w")))
from tether.cli.command import main
main(sys.argv[1:])
"""
    found = []
    for name in ("first", "second"):
        out = tmp_path / name
        options = ["--updates", "2", "--batch-size", "8", "--environment", "none", "--set", "hidden_sizes=8"]
        command = [sys.executable, "-c", code, "train", "bc", str(data_file()), *options, "--out", str(out)]
        environment = {variable: value for variable, value in os.environ.items() if "_CACHE_" not in variable}
        environment |= {"TETHER_COMPILATION_CACHE": "on", "TETHER_CACHE": str(tmp_path / "cache")}
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        found.append((start.Compilations(*json.loads(counts.read_text())), run.stderr))
        result = json.loads((out / "result.json").read_text())
        assert result["seconds_to_first_update"] > 0
        assert result["compiled"]["train"]["from_cache"] == (name == "second")
    (first, said), (second, said_again) = found
    assert first.from_cache < first.requested
    assert second.compiled == 0
    assert second.requested > 0
    assert "train: compiled in" in said
    assert "train: from the cache in" in said_again
    assert "after the start" in said_again
