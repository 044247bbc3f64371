"""Lanes in groups, on several devices and in several processes: the same numbers as all at once on one device."""

import dataclasses
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from make_data import (
    OPTIONS,
    SCRATCH,
    SETTINGS,
    algorithm,
    data_file,
    digest,
    finished_run,
    outcome,
    rows,
    tether,
)

import tether as package
from tether import InputError, Options, load_policy, resume, train
from tether.algorithms import BC
from tether.machine import memory
from tether.machine.memory import Memory
from tether.runs import run
from tether.training import groups as groups_module
from tether.training.devices import Devices, connect
from tether.training.groups import LaneGroups, cut_lanes
from tether.training.lanes import make_lanes, stack_lanes
from tether.types import Spec, Transition

SOURCE = str(Path(package.__file__).parents[1])


# --- cutting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 40])
def test_every_lane_is_in_one_group(most: int, devices: int) -> None:
    for count in range(1, 30):
        groups = cut_lanes(count, most, devices)
        (size,) = {len(group) for group in groups}
        assert size % devices == 0
        assert size <= max(most, devices) or (len(groups) == 1 and size < count + devices)
        flat = np.concatenate(groups)
        np.testing.assert_array_equal(flat[:count], np.arange(count))
        assert (flat[count:] == count - 1).all()
        assert len(flat) - count < size  # no group is nothing but padding


def test_groups_are_of_even_size() -> None:
    assert [len(group) for group in cut_lanes(8, 5, 1)] == [4, 4]
    assert [len(group) for group in cut_lanes(4, 100, 1)] == [4]
    assert [len(group) for group in cut_lanes(3, 3, 2)] == [4]  # not two groups: a place stays empty


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


@pytest.mark.long
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


@pytest.mark.long
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
        train(algorithm(), str(data_file()), options=Options(lanes_per_group=0), out=tmp_path / "no")


def test_groups_wait_in_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which JAX's CPU devices can play: states move to and fro, also when groups are cut anew."""

    def train_some(most: int) -> tuple[LaneGroups, list[bytes]]:
        made = BC(hidden_sizes=(8,))
        lanes = make_lanes(made, range(4), {"learning_rate": [1e-3]})
        groups = LaneGroups(stack_lanes(made, lanes), *run._lane_keys(tuple(lanes)), Devices(None), most)
        generator = np.random.default_rng(0)
        columns = [generator.normal(size=(64, 3)), generator.uniform(-1, 1, (64, 2)), generator.normal(size=64)]
        columns += [generator.normal(size=(64, 3)), np.zeros(64)]
        data = Transition(*(jax.numpy.asarray(column, jax.numpy.float32) for column in columns))
        how: dict[str, Any] = {"phase": 0, "batch_size": 16, "sequential": True}
        groups.init(Spec(3, 2))
        groups.run(np.ones(4, bool), data, 0, 5, **how)
        groups.regroup(min(most, 3))
        groups.run(np.array([True, True, True, False]), data, 5, 5, **how)
        return groups, [leaf.tobytes() for leaf in jax.tree.leaves(groups.state())]

    together = train_some(4)[1]
    monkeypatch.setattr(groups_module, "_has_own_memory", lambda: True)
    groups, apart = train_some(2)
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(groups.groups[1].state)} == {"pinned_host"}
    assert apart == together


def forget_after(folder: Path, update: int) -> None:
    """As if the run had been killed before it wrote what came after this checkpoint."""
    for path in (folder / "checkpoints").iterdir():
        if path.name > f"train-{update:09d}":
            shutil.rmtree(path)
    (folder / "result.json").unlink()
    assert (folder / "checkpoints" / f"train-{update:09d}").exists()


# --- a lane that diverges -----------------------------------------------------------------------------------


@pytest.mark.long
def test_nan_in_one_lane_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN is put into lane 2's networks before the first update: it is named and counted, the rest is as without."""
    put = run.LaneGroups.init

    def poisoned(self: Any, spec: Any) -> None:
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
    assert (first["swept"], first["lanes"], first["diverged"]) == ({"learning_rate": 3e-4}, [0, 1], [])
    assert (second["swept"], second["lanes"], second["diverged"]) == ({"learning_rate": 1e-3}, [2, 3], [2])
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

SHORT = {"pretrain_updates": 60, "train_updates": 80}
SHORT_SETTINGS = dataclasses.replace(SETTINGS, eval_every_updates=1000, checkpoint_every_updates=40)
LANES = 5
DATA = "TETHER_TEST_DATA"
DEVICES = """
import sys
sys.path[:0] = {paths!r}
import jax
from test_groups import *
assert jax.device_count() == {count}
{what}
"""


def short_run(out: Path, lanes: int = LANES) -> Path:
    """A run of some lanes on all devices that this process has."""
    data = os.environ.get(DATA) or str(data_file())  # a process of a test reads the file of the one that began it
    return train(algorithm(**SHORT), data, seeds=lanes, options=SHORT_SETTINGS, out=out, quiet=True).folder


@functools.cache
def on_one_device() -> Path:
    return short_run(SCRATCH / "on-one-device")


def on_devices(count: int, what: str) -> None:
    """Some lines of Python, in a process that has so many CPU devices."""
    program = DEVICES.format(paths=[SOURCE, str(Path(__file__).parent)], count=count, what=what)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    environment = os.environ | {"XLA_FLAGS": flags, DATA: str(data_file())}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]


def last_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Everything that training carries, at its end."""
    (path,) = folder.glob("checkpoints/train-000000080/state.safetensors")
    return safetensors.numpy.load_file(path)


def assert_same_numbers(one: Path, other: Path) -> None:
    """States to the last bits of float32: for several devices XLA compiles another program, in which sums are fused in
    another way (differences of 6e-8 after 100 updates). Rows are the same ones, with close numbers."""
    found, expected = last_arrays(one), last_arrays(other)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=2e-6, err_msg=name)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        keys = [[(row["update"], row["lane"], row.get("episode")) for row in rows(run / name)] for run in (one, other)]
        assert keys[0] == keys[1]
    for ours, theirs in zip(rows(one / "metrics.jsonl"), rows(other / "metrics.jsonl"), strict=True):
        assert ours == pytest.approx({**theirs, "phase": ours["phase"]}, rel=1e-3, abs=1e-5) or ours == theirs
    for lane in range(len(json.loads((one / "config.json").read_text())["lanes"])):
        load_policy(one / "policies" / f"lane-{lane}")  # verifies hashes and golden pairs


@pytest.mark.long
def test_two_devices_give_the_numbers_of_one(tmp_path: Path) -> None:
    """Also where they do not divide the lanes, and where a run that began on one device goes on on two, or back."""
    begun, out = Path(shutil.copytree(on_one_device(), tmp_path / "begun")), tmp_path / "run"
    forget_after(begun, 40)
    on_devices(2, f"short_run(Path({str(out)!r})); resume({str(begun)!r}, quiet=True)")
    assert_same_numbers(out, on_one_device())
    assert_same_numbers(begun, on_one_device())
    record = json.loads((out / "result.json").read_text())["memory"]
    assert (record["groups"], record["lanes_per_group"], record["devices"]) == (1, 6, 2)  # one place is padding
    forget_after(out, 40)
    resume(out, quiet=True)
    assert_same_numbers(out, on_one_device())


@pytest.mark.long
def test_four_devices_give_the_numbers_of_one_and_the_bits_of_two(tmp_path: Path) -> None:
    """Three places are padding; fewer lanes than devices take fewer devices; groups are spread, too."""
    two, four, few = tmp_path / "two", tmp_path / "four", tmp_path / "few"
    on_devices(2, f"short_run(Path({str(two)!r}))")
    on_devices(4, f"short_run(Path({str(four)!r})); short_run(Path({str(few)!r}), lanes=2)")
    assert_same_numbers(four, on_one_device())
    for name in ("metrics.jsonl", "evaluations.jsonl", "checkpoints/train-000000080/state.safetensors"):
        assert digest(four / name) == digest(two / name)
    record = json.loads((four / "result.json").read_text())["memory"]
    assert (record["lanes_per_group"], record["devices"]) == (8, 4)
    assert json.loads((few / "result.json").read_text())["memory"]["devices"] == 2
    for lane in (0, 1):
        policy = f"policies/lane-{lane}/policy.safetensors"
        assert digest(few / policy) == digest(four / policy)


# --- processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["somewhere", "host:1,2", "host,2,0", "host:1,2,2", "host:1,two,0"])
def test_refused_connections(text: str) -> None:
    with pytest.raises(InputError, match=f"distributed '{text}'"):
        connect(text)


@pytest.mark.long
def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    """They share the lanes and the run folder; the first one writes it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = tmp_path / "run"
    program = DEVICES.format(
        paths=[SOURCE, str(Path(__file__).parent)],
        count=2,
        what=f"out = short_run(Path({str(out)!r})); print(jax.process_index(), (out / 'result.json').exists())",
    ).replace("from test_groups", "from tether.training.devices import connect; connect(None)\nfrom test_groups")
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = []
    for index in range(2):
        environment = os.environ | {DATA: str(data_file()), "TETHER_DISTRIBUTED": f"127.0.0.1:{port},2,{index}"}
        processes.append(subprocess.Popen([sys.executable, "-c", program], env=environment, **how))
    try:
        spoken = [process.communicate(timeout=1200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], [text[-3000:] for _, text in spoken]
    assert_same_numbers(out, on_one_device())
    # Before it the library that connects CPUs says that it did.
    assert [text.splitlines()[-1] for text, _ in spoken] == ["0 True", "1 True"]
    config, result = (json.loads((out / name).read_text()) for name in ("config.json", "result.json"))
    assert (config["devices"], config["processes"]) == (2, 2)
    assert [lane["normalized_score"] is not None for lane in result["lanes"]] == [True] * LANES
