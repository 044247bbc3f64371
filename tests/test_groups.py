"""Lanes in groups, on several devices and in several processes: the same numbers as all at once on one device."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_data import (
    ENVIRONMENT,
    OPTIONS,
    SETTINGS,
    algorithm,
    copy_run,
    data_file,
    digest,
    finished_run,
    last_state,
    outcome,
    rows,
    tether,
)

import tether as package
from tether import InputError, Settings, resume, train
from tether.training import memory, run
from tether.training.devices import connect
from tether.training.groups import cut_lanes
from tether.training.memory import Memory

SOURCE = str(Path(package.__file__).parents[1])


# --- cutting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 40])
def test_every_lane_is_in_one_group(most: int, devices: int) -> None:
    for count in range(1, 30):
        groups = cut_lanes(count, most, devices)
        (size,) = {len(group) for group in groups}
        assert size % devices == 0
        assert size <= max(most - most % devices, devices)
        flat = np.concatenate(groups)
        np.testing.assert_array_equal(flat[:count], np.arange(count))
        assert (flat[count:] == count - 1).all()
        assert len(flat) - count < size  # no group is nothing but padding


def test_groups_are_of_even_size() -> None:
    assert [len(group) for group in cut_lanes(8, 5, 1)] == [4, 4]
    assert [len(group) for group in cut_lanes(4, 100, 1)] == [4]


# --- memory -------------------------------------------------------------------------------------------------


def test_how_many_lanes_fit() -> None:
    found = Memory(per_lane=10, shared=100, lanes=8, usable=150)
    assert (found.needed, found.fits, found.most_lanes()) == (180, False, 5)
    assert Memory(10, 100, 5, 150).fits
    assert Memory(10, 100, 8, 105).most_lanes() == 1  # there is no fewer
    assert Memory(10, 100, 8, None).fits
    assert str(Memory(12_300_000, 5_000, 2, 10**9)) == "12.3 MB a lane, 5 kB shared: 24.6 MB of 1 GB"


def test_the_compiler_is_asked() -> None:
    """A lane's state goes in and comes out; a longer program's numbers are those of its lanes."""
    record = json.loads((finished_run() / "result.json").read_text())["memory"]
    state = finished_run() / "checkpoints" / "train-000000250" / "state.safetensors"
    one_state = state.stat().st_size / 2
    assert set(record["phases"]) == {"pretrain", "train"}
    for found in record["phases"].values():
        assert 1.5 * one_state < found["per_lane"] < 4 * one_state
        assert found["needed"] == found["shared"] + 2 * found["per_lane"]
    assert (record["groups"], record["lanes_per_group"], record["devices"]) == (1, 2, 1)


def test_free_memory_is_known_here() -> None:
    assert 10**7 < (memory.free_memory() or 10**9) < 10**14


def test_lanes_that_do_not_fit_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is made to say that it has room for one lane. Bit for bit the same, and the file says how."""
    phases = json.loads((finished_run() / "result.json").read_text())["memory"]["phases"]
    room = phases["train"]["shared"] + 1.5 * phases["train"]["per_lane"]
    monkeypatch.setattr(memory, "device_limit", lambda: int(room / memory.USABLE) + 1)
    out = tmp_path / "run"
    code, _, progress = tether("train", "dtql", data_file(), *OPTIONS, "--seeds", 2, "--out", out)
    assert code == 0
    assert outcome(out) == outcome(finished_run())
    record = json.loads((out / "result.json").read_text())["memory"]
    assert (record["groups"], record["lanes_per_group"]) == (2, 1)
    assert re.search(r"memory: .* a lane, .* shared: .* in 2 groups of 1 lanes that take turns", progress)


def test_a_chosen_group_size_changes_no_number(tmp_path: Path) -> None:
    """Nor does stopping, and going on with another one."""
    out = tmp_path / "run"
    code, _, progress = tether(
        "train", "dtql", data_file(), *OPTIONS, "--seeds", 2, "--lanes-per-group", 1, "--out", out
    )
    assert code == 0
    assert "in 2 groups of 1 lanes" in progress
    assert outcome(out) == outcome(finished_run())
    assert json.loads((out / "config.json").read_text())["settings"]["lanes_per_group"] == 1
    forget_after(out, 200)
    config = json.loads((out / "config.json").read_text())
    config["settings"]["lanes_per_group"] = None
    (out / "config.json").write_text(json.dumps(config))
    resume(out, quiet=True)
    assert outcome(out) == outcome(finished_run())
    with pytest.raises(InputError, match="lanes_per_group 0: must be at least 1"):
        train(algorithm(), str(data_file()), settings=Settings(lanes_per_group=0), out=tmp_path / "no")


def forget_after(folder: Path, update: int) -> None:
    """As if the run had been killed before it wrote what came after this checkpoint."""
    for path in (folder / "checkpoints").iterdir():
        if path.name > f"train-{update:09d}":
            shutil.rmtree(path)
    (folder / "result.json").unlink()
    assert (folder / "checkpoints" / f"train-{update:09d}").exists()


# --- a lane that diverges -----------------------------------------------------------------------------------


def test_nan_in_one_lane_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN is put into lane 2's networks before the first update: it is named and counted, the rest is as without."""
    put = run.LaneGroups.init

    def poisoned(self: Any, spec: Any) -> None:
        import jax

        put(self, spec)
        for group in self.groups:
            for position in np.flatnonzero(group.lanes[: group.real] == 2):
                group.state = jax.tree.map(
                    lambda leaf, p=position: (
                        leaf.at[p].set(float("nan")) if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating) else leaf
                    ),
                    group.state,
                )

    sweep = ["--sweep", "learning_rate=3e-4,1e-3", "--seeds", 2]
    monkeypatch.setattr(run.LaneGroups, "init", poisoned)
    out = tmp_path / "run"
    code, printed, progress = tether("train", "dtql", data_file(), *OPTIONS, *sweep, "--out", out)
    assert code == 1
    assert "lane 2 (seed 0, learning_rate 0.001) turned non-finite in pretrain update 1" in progress
    first, second = json.loads((out / "sweep.json").read_text())
    assert (first["settings"], first["lanes"], first["diverged"]) == ({"learning_rate": 3e-4}, [0, 1], [])
    assert (second["settings"], second["lanes"], second["diverged"]) == ({"learning_rate": 1e-3}, [2, 3], [2])
    result = json.loads((out / "result.json").read_text())
    scores = [lane["normalized_score"] for lane in result["lanes"]]
    assert first["mean"] == pytest.approx(np.mean(scores[:2]))
    half = 12.7062047 * np.std(scores[:2], ddof=1) / np.sqrt(2)  # Student's t with one degree of freedom
    assert (first["low"], first["high"]) == pytest.approx((first["mean"] - half, first["mean"] + half))
    assert (second["mean"], second["low"]) == (scores[3], None)
    assert result["last"]["lanes"] == 3
    for text in (printed, (out / "sweep.txt").read_text()):
        assert re.search(r"learning_rate 0.001 .*│ +1 of 2 │ +1 \(lane 2\) │", text)
    assert f"sweep   {out / 'sweep.png'}" in printed
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG\r\n")
    baseline = [row for row in rows(finished_run() / "metrics.jsonl") if row["lane"] == 0]
    assert [row for row in rows(out / "metrics.jsonl") if row["lane"] == 0] == baseline


# --- devices ------------------------------------------------------------------------------------------------

DEVICES = """
import sys
sys.path[:0] = {paths!r}
import jax
from make_data import algorithm, data_file, SETTINGS
from tether import resume, train
assert jax.device_count() == {count}
for what, out, *rest in {tasks!r}:
    if what == "train":
        train(algorithm(), {data!r}, seeds=rest[0], settings=SETTINGS, out=out, quiet=True)
    else:
        resume(out, quiet=True)
"""


def on_devices(count: int, tasks: list[tuple[Any, ...]]) -> None:
    """Trainings and resumptions in a process that has so many CPU devices."""
    paths = [SOURCE, str(Path(__file__).parent)]
    program = DEVICES.format(paths=paths, count=count, tasks=tasks, data=str(data_file()))
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    result = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT | {"XLA_FLAGS": flags}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]


def lanes_outcome(folder: Path, lanes: int) -> dict[str, Any]:
    """All that a lane leaves, by lane."""
    found: dict[str, Any] = {"state": last_state(folder)}
    for lane in range(lanes):
        found[f"policy {lane}"] = digest(folder / "policies" / f"lane-{lane}" / "policy.safetensors")
    return found | {name: digest(folder / f"{name}.jsonl") for name in ("metrics", "evaluations")}


def test_two_devices_give_the_numbers_of_one(tmp_path: Path) -> None:
    """Also where they do not divide the lanes, and where a run that began on one goes on on two."""
    begun, out = copy_run(tmp_path / "begun"), tmp_path / "run"
    three = train(algorithm(), str(data_file()), seeds=3, settings=SETTINGS, out=tmp_path / "three", quiet=True)
    forget_after(begun, 200)
    on_devices(2, [("train", str(out), 3), ("resume", str(begun))])
    assert lanes_outcome(out, 3) == lanes_outcome(three.folder, 3)
    assert outcome(begun) == outcome(finished_run())
    record = json.loads((out / "result.json").read_text())["memory"]
    assert (record["groups"], record["lanes_per_group"], record["devices"]) == (1, 4, 2)  # one lane is padding
    forget_after(out, 200)
    resume(out, quiet=True)  # and one that began on two, on one
    assert lanes_outcome(out, 3) == lanes_outcome(three.folder, 3)


def test_four_devices_give_the_numbers_of_one(tmp_path: Path) -> None:
    """Of five lanes, so that three places are padding; fewer lanes than devices take fewer devices."""
    five = train(algorithm(), str(data_file()), seeds=5, settings=SETTINGS, out=tmp_path / "five", quiet=True)
    on_devices(4, [("train", str(tmp_path / "run"), 5), ("train", str(tmp_path / "two"), 2)])
    assert lanes_outcome(tmp_path / "run", 5) == lanes_outcome(five.folder, 5)
    record = json.loads((tmp_path / "run" / "result.json").read_text())["memory"]
    assert (record["lanes_per_group"], record["devices"]) == (8, 4)
    assert outcome(tmp_path / "two") == outcome(finished_run())


# --- processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["somewhere", "host:1,2", "host,2,0", "host:1,2,2", "host:1,two,0"])
def test_refused_connections(text: str) -> None:
    with pytest.raises(InputError, match=f"distributed '{text}'"):
        connect(text)


def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    """They share the lanes and the run folder; the first one writes it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tether", "train", "dtql", str(data_file()), *OPTIONS, "--seeds", "2"]
    processes = []
    for index in range(2):
        environment = ENVIRONMENT | {"TETHER_DISTRIBUTED": f"127.0.0.1:{port},2,{index}", "PYTHONPATH": SOURCE}
        how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([*command, "--out", str(out)], env=environment, **how))
    try:
        spoken = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], spoken
    assert outcome(out) == outcome(finished_run())
    assert "policy, last (update 250)" in spoken[0][0]
    assert spoken[1][0] == ""
    config = json.loads((out / "config.json").read_text())
    assert (config["devices"], config["processes"]) == (2, 2)
