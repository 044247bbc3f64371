"""Damaged, hostile and hand-edited files: one line and exit code 2, nothing written, no time and no memory lost."""

import dataclasses
import io
import json
import os
import resource
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fuzz
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_data import tether

import tether as package
from tether import ALGORITHMS, DTQL, InputError, Options, load_policy
from tether.algorithms import SAC
from tether.data.logs.expression import parse_expression
from tether.machine.reading import parse_json, read_bytes, read_json
from tether.ranges import ranges_of
from tether.runs.config import restored_plan
from tether.training.lanes import make_lanes, stack_lanes

IMPORT = ("--observation", "observations", "--action", "actions", "--reward", "rewards", "--episode", "none")


def refused(*words: Any) -> str:
    """The one line that refuses; nothing is printed beside it."""
    code, out, err = tether(*words)
    assert (code, out) == (2, ""), err
    assert err.count("\n") == 1
    return err


def refused_everywhere(path: Path, tmp_path: Path, *words: str) -> None:
    """By each command that reads data, in a line that names the file and has these words; nothing is left."""
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "out"
    for command in (
        ("data", "show", path),
        ("data", "check", path, "--out", out, "--quiet"),
        ("data", "import", path, *IMPORT, "--out", out.with_suffix(".hdf5")),
    ):
        line = refused(*command)
        assert str(path) in line
        assert all(word in line for word in words), line
    assert sorted(tmp_path.rglob("*")) == before


# --- seeded damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fuzz.SUBJECTS)
def test_a_whole_subject_is_read(tmp_path: Path, name: str) -> None:
    """Otherwise its damage would prove nothing."""
    subject = fuzz.SUBJECTS[name]
    given = subject.make(tmp_path)
    for command in subject.commands:
        if command[:2] == ("data", "check"):
            continue  # draws pictures
        words = [word.replace("{out}", str(tmp_path / "out")).replace("{}", str(given)) for word in command]
        code, errors, *_ = fuzz.run(words)
        assert code == 0, errors


@pytest.mark.parametrize("name", fuzz.SUBJECTS)
def test_damage_is_refused_in_a_line_or_does_no_harm(tmp_path: Path, name: str) -> None:
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert fuzz.attack(name, seed, folder, quick=True).fault == ""


@pytest.mark.long
def test_two_thousand_mutations() -> None:
    assert fuzz.main(["--count", "2000"]) == 0


# --- HDF5 ---------------------------------------------------------------------------------------------------


def _without_observations(path: Path) -> h5py.File:
    file = h5py.File(path, "w")
    for name, column in fuzz.columns().items():
        if name != "observations":
            file[name] = column
    return file


def _external_link(path: Path, other: Path) -> None:
    with _without_observations(path) as file:
        file["observations"] = h5py.ExternalLink(str(other), "/observations")


def _link_in_a_group(path: Path, other: Path) -> None:
    with _without_observations(path) as file:
        file["observations"] = fuzz.columns()["observations"]
        file["infos/goal"] = h5py.ExternalLink(str(other), "/observations")


def _raw_storage(path: Path, other: Path) -> None:
    with _without_observations(path) as file:
        file.create_dataset("observations", (60, 4), "u1", external=[("/etc/passwd", 0, 240)])


def _virtual(path: Path, other: Path) -> None:
    layout = h5py.VirtualLayout((60, 4), "f4")
    layout[:] = h5py.VirtualSource(str(other), "observations", (60, 4))
    with _without_observations(path) as file:
        file.create_virtual_dataset("observations", layout)


@pytest.mark.parametrize("how", [_external_link, _link_in_a_group, _raw_storage, _virtual])
def test_content_of_other_files_is_refused(tmp_path: Path, how: Callable[[Path, Path], None]) -> None:
    """The SHA-256 of the file would not cover it."""
    other = fuzz.SUBJECTS["hdf5"].make(tmp_path)
    how(path := tmp_path / "stranger.hdf5", other)
    refused_everywhere(path, tmp_path, "only what the file itself holds is read")


def test_content_of_other_files_is_refused_by_readers_of_episodes(tmp_path: Path) -> None:
    other = fuzz.SUBJECTS["hdf5"].make(tmp_path)
    minari, episodes = fuzz.SUBJECTS["minari"].make(tmp_path), fuzz.SUBJECTS["episodes"].make(tmp_path)
    with h5py.File(minari / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = h5py.ExternalLink(str(other), "/rewards")
    with h5py.File(episodes, "a") as file:
        del file["data/demo_1"]
        file["data/demo_1"] = h5py.ExternalLink(str(other), "/")
    for path in (minari, episodes):
        assert "only what the file itself holds is read" in refused("data", "show", path)


def test_links_and_virtual_data_within_a_file_are_read(tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((60, 4), "f4")
    layout[:] = h5py.VirtualSource(".", "hidden", (60, 4))
    with _without_observations(tmp_path / "own.hdf5") as file:
        file["hidden"] = fuzz.columns()["observations"]
        file.create_virtual_dataset("observations", layout)
        file["real/terminals"] = file["terminals"]
        del file["terminals"]
        file["terminals"] = h5py.SoftLink("/real/terminals")
    data = package.load_dataset(str(tmp_path / "own.hdf5"))
    np.testing.assert_array_equal(data.observations, fuzz.columns()["observations"])
    np.testing.assert_array_equal(data.terminals, fuzz.columns()["terminals"])


def test_a_file_that_declares_more_than_it_can_hold(tmp_path: Path) -> None:
    path, rows = tmp_path / "bomb.hdf5", 400_000_000
    with h5py.File(path, "w") as file:
        for name, width in (("observations", 3), ("actions", 1)):
            file.create_dataset(name, (rows, width), "f4", chunks=(1000, width))
        for name in ("rewards", "terminals"):
            file.create_dataset(name, (rows,), "f4", chunks=(1000,))
    assert path.stat().st_size < 10_000
    refused_everywhere(path, tmp_path, "declares 9.6 GB", "made to exhaust the memory")


def test_groups_within_groups_without_end(tmp_path: Path) -> None:
    """HDF5's own visitors would end the process at some thousands of them."""
    path = tmp_path / "deep.hdf5"
    with _without_observations(path) as file:
        file["observations"] = fuzz.columns()["observations"]
        file["/".join("g" * 60)] = 1.0
    refused_everywhere(path, tmp_path, "more than 50 of them")


def test_repetition_is_no_bomb(tmp_path: Path) -> None:
    """A million equal rewards take a thousandth of their size on the disk."""
    with h5py.File(tmp_path / "sparse.hdf5", "w") as file:
        for name, column in fuzz.columns().items():
            rows = np.full((300_000, *column.shape[1:]), 0.3).astype(column.dtype)
            rows[-1] = name != "actions"
            file.create_dataset(name, data=rows, compression="gzip", compression_opts=9, chunks=rows.shape)
    assert len(package.load_dataset(str(tmp_path / "sparse.hdf5"))) == 300_000


# --- npz ----------------------------------------------------------------------------------------------------


def _npy(shape: tuple[int, ...], body: bytes = b"") -> bytes:
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + body


def _archive(path: Path, entry: bytes) -> None:
    np.savez(path, **{name: column for name, column in fuzz.columns().items() if name != "observations"})  # pyright: ignore[reportArgumentType]
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("observations.npy", entry)


def _in_directory(path: Path, offset: int, value: int) -> None:
    """A byte of the first entry of a zip archive's directory."""
    np.savez(path, **fuzz.columns())  # pyright: ignore[reportArgumentType]
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + offset] = value
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: _archive(p, _npy((400_000_000, 3))), ["declares 400000000 x 3 numbers", "holds 0 bytes"]),
        (lambda p: _archive(p, _npy((60, 4), bytes(100))), ["declares 60 x 4 numbers", "holds 100 bytes"]),
        (lambda p: _archive(p, _npy((-1, 4))), ["declares -1 x 4"]),
        (lambda p: _archive(p, b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{"), ["cannot be read as npz"]),
        (
            lambda p: _archive(p, b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000),
            ["cannot be read as npz"],
        ),
        (lambda p: _archive(p, b"no array"), ["cannot be read as npz"]),
        (lambda p: _in_directory(p, 8, 1), ["encrypted"]),
        (lambda p: _in_directory(p, 10, 99), ["compressed by method 99"]),
        (lambda p: _in_directory(p, 27, 0x7F), ["declares"]),
        (lambda p: p.write_bytes(_npy((60, 4), bytes(960))), ["cannot be read as npz", "not a zip file"]),
        (lambda p: p.write_bytes(b""), ["cannot be read as npz"]),
        (lambda p: p.symlink_to("/dev/zero"), ["not a file"]),
        (os.mkfifo, ["not a file"]),
    ],
)
def test_npz_files_that_are_none(tmp_path: Path, make: Callable[[Path], Any], words: list[str]) -> None:
    make(path := tmp_path / "log.npz")
    refused_everywhere(path, tmp_path, *words)


# --- CSV, Parquet, other tables -----------------------------------------------------------------------------

ROWS = "\n".join("0.1,0.2,1" for _ in range(50))


def test_names_in_an_old_encoding(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("größe,action_0,reward\n".encode("latin-1") + ROWS.encode())
    options = ("--observation", "größe", "--action", "action_0", "--reward", "reward", "--episode", "none")
    code, out, err = tether("data", "import", path, *options, "--out", tmp_path / "out.hdf5")
    assert code == 0, err
    assert "1 numbers: größe" in out
    path.write_bytes(b"gr\x81\x8d,action_0,reward\n" + ROWS.encode())  # bytes that no encoding has
    assert "cannot be read as CSV" in refused("data", "show", path)


def test_a_first_line_without_end(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(",".join(f"observation_{index}" for index in range(100_000)) + "\n" + ROWS)
    refused_everywhere(path, tmp_path, "its first line has more than 1,048,576 bytes")
    path.write_text("observation_0," + "x" * 200_000 + ",action_0,reward,episode\n" + "1,2,1,0,1\n" * 9)
    refused_everywhere(path, tmp_path, "field larger than field limit")


def test_a_damaged_page_of_a_parquet_file(tmp_path: Path) -> None:
    path = fuzz.SUBJECTS["parquet"].make(tmp_path)
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)
    options = ("--observation", "observation*", "--action", "action*", "--reward", "reward", "--episode", "none")
    line = refused("data", "import", path, *options, "--out", tmp_path / "out.hdf5")
    assert f"{path} cannot be read as Parquet" in line
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_terminal_would_obey_is_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("\x1b[31mred\x07,action_0,reward\n" + ROWS)
    assert "?[31mred?" in refused("data", "show", path)


def test_columns_without_a_number(tmp_path: Path) -> None:
    path = tmp_path / "nothing.hdf5"
    with _without_observations(path) as file:
        file["observations"] = np.zeros((60, 0), np.float32)
    assert "(60, 0)" in refused("data", "show", path)
    code, out, _ = tether("data", "check", path, "--out", tmp_path / "report", "--quiet")
    assert code == 1
    assert "wrong-rank" in out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("where(r, r, r, r)", "where takes 3, not 4"),
        ("where(r)", "where takes 3, not 1"),
        ("abs(r, r)", "abs takes 1, not 2"),  # NumPy's would write into the second
        ("0x" + "f" * 5000, "larger than any double"),
        ("9" * 5000, "no arithmetic"),
        ("v[True]", "there is no v[True]"),
        ("r" * 20_000, "10,000 are the most"),
        ("-" * 5000 + "r", "arithmetic"),  # too deep for Python's parser; from 3.13 on for ours
    ],
)
def test_expressions(text: str, words: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_expression(text, {"r": 1, "v": 3})
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 1000


# --- a full disk --------------------------------------------------------------------------------------------


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes: the system refuses writes as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 3000, 100_000, 700_000])
def test_an_import_onto_a_full_disk_leaves_nothing(tmp_path: Path, size: int) -> None:
    generator = np.random.default_rng(0)
    log = tmp_path / "log.npz"
    arrays = {"observations": generator.normal(size=(20_000, 8)), "actions": generator.uniform(-1, 1, (20_000, 2))}
    np.savez(log, **arrays, rewards=np.zeros(20_000))  # pyright: ignore[reportArgumentType]
    with full_disk(size):
        code, out, err = tether("data", "import", log, *IMPORT, "--out", tmp_path / "out.hdf5")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "File too large" in err
    assert "out.hdf5" in err
    assert list(tmp_path.iterdir()) == [log]


def test_a_data_set_onto_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    columns = {name: np.repeat(column, 100, axis=0) for name, column in fuzz.columns().items()}
    data = package.Dataset.from_arrays(**columns)
    with full_disk(50_000), pytest.raises(OSError, match="too large"):
        data.to_hdf5(tmp_path / "out.hdf5")
    assert list(tmp_path.iterdir()) == []
    data.to_hdf5(tmp_path / "out.hdf5")
    np.testing.assert_array_equal(package.load_dataset(str(tmp_path / "out.hdf5")).observations, data.observations)


# --- policies -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(fuzz.OLD / "policies" / "dtql", tmp_path_factory.mktemp("hostile") / "policy"))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("spec/observation_size", 10**12, "spec.observation_size"),
        ("spec/observation_size", -1, "spec.observation_size"),
        ("spec/observation_size", "3", "spec.observation_size"),
        ("spec/observation_size", 17.0, "spec.observation_size"),
        ("spec/observation_size", 10**7, "its normaliser has 17 numbers"),
        ("spec/action_size", 10**6, "numbers, its spec says 1000000"),
        ("spec/max_action", [], "spec.max_action"),
        ("spec", {"a": {"b": 1}}, "spec"),
        ("golden/seeds/0", 10**30, "golden.seeds"),
        ("golden/seeds/0", -1, "golden.seeds"),
        ("golden/observations/0", [], "golden observations has 0 numbers"),
        ("golden/observations/0/0", 10**399, "400 digits"),
        ("golden/observations/0/0", 1e300, "golden.observations"),
        ("golden/actions/0/0", None, "golden.actions"),
        ("normaliser/mean", "zero", "normaliser.mean"),
        ("action_range/low", [3.0] * 6, "altered"),
        ("hyperparameters/candidates", 10**9, "candidates 1000000000: must be 1 to 100,000"),
        ("hyperparameters/hidden_sizes", [256] * 20_000, "hidden_sizes"),
        ("hyperparameters/hidden_sizes", {"a": 1}, "hidden_sizes"),
        ("hyperparameters/hidden_sizes", [10**12], "each 1 to 100,000"),
        ("hyperparameters/discount", 10**300, "discount"),
        ("hyperparameters/expectile", float("nan"), "expectile"),
        ("hyperparameters", [], "hyperparameters"),
        ("schema", [1], "schema"),
        ("sha256", None, "sha256"),
        ("algorithm", {}, "algorithm"),
    ],
)
def test_policies_edited_by_hand(policy: Path, place: str, value: Any, words: str) -> None:
    path = policy / "policy.json"
    before = path.read_bytes()
    document = json.loads(before)
    *holders, key = place.split("/")
    holder: Any = document
    for name in holders:
        holder = holder[int(name) if isinstance(holder, list) else name]
    holder[int(key) if isinstance(holder, list) else key] = value
    path.write_text(json.dumps(document))
    fuzz.seal(path)
    try:
        with pytest.raises(InputError) as refusal:
            load_policy(policy)
    finally:
        path.write_bytes(before)
    message = str(refusal.value)
    assert str(path) in message
    assert words in message
    assert len(message) < 1000


def test_links_to_devices_and_pipes(policy: Path, tmp_path: Path) -> None:
    arrays, document = policy / "policy.safetensors", policy / "policy.json"
    for made, other in (("arrays", document), ("document", arrays)):
        folder = tmp_path / made
        folder.mkdir()
        shutil.copy(other, folder)
        missing = folder / (arrays if other is document else document).name
        missing.symlink_to("/dev/zero")
        with pytest.raises(InputError, match=f"{missing}: is a device"):
            load_policy(folder)
        missing.unlink()
        os.mkfifo(missing)
        with pytest.raises(InputError, match=f"{missing}: is a device, a pipe"):
            load_policy(folder)


def test_json_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "document.json"
    for text, words in (("[" * 100_000, "nested too deeply"), ("9" * 5000, "5000 digits"), ("1" * 320, "320 digits")):
        path.write_text(text)
        with pytest.raises(InputError, match=f"{path}: .*{words}"):
            read_json(path)
    assert parse_json("[1e400, -12345678901234567890, 3.0]") == [float("inf"), -12345678901234567890, 3.0]
    monkeypatch.setattr("tether.machine.memory.free_memory", lambda: 10**6)
    with path.open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(InputError, match=r"needs 1 GB of memory, 1 MB are free"):
        read_bytes(path)


# --- runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("lanes", [], "lanes"),
        ("lanes", None, "lanes"),
        ("lanes/0/seed", 10**30, "lanes"),
        ("lanes/0/settings", {"learning_speed": 1.0}, "unknown swept hyper-parameter 'learning_speed'"),
        ("lanes/0/settings", {"discount": 1.5}, "discount 1.5"),
        ("lanes/0/settings", {"discount": "high"}, "lanes"),
        ("data/sha256", None, "data.sha256"),
        ("data/source", 3, "data.source"),
        ("data/reward_transform", "none", "data.reward_transform"),
        ("settings", {"batch_size": -1}, "batch_size -1: must be at least 1"),
        ("settings", {"batch_size": "many"}, "batch_size"),
        ("settings", {"size": 1}, "'size'"),
        ("settings", {"eval_device": 3}, "unknown eval_device '3'"),
        ("hyperparameters", None, "hyperparameters"),
        ("hyperparameters/hidden_sizes", [[256]], "hidden_sizes"),
        ("environment", None, "environment"),
        ("horizon", -5, "horizon"),
        ("environment_actions", {"low": "x"}, "environment_actions"),
        ("format_version", [1], "format"),
    ],
)
def test_runs_edited_by_hand(tmp_path: Path, place: str, value: Any, words: str) -> None:
    folder = Path(shutil.copytree(fuzz.OLD / "stopped" / "awac", tmp_path / "run"))
    path = folder / "config.json"
    config = json.loads(path.read_text())
    *holders, key = place.split("/")
    holder: Any = config
    for name in holders:
        holder = holder[int(name) if isinstance(holder, list) else name]
    holder[key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(InputError) as refusal:
        restored_plan(folder, quiet=True)
    assert f"{path}: " in str(refusal.value)
    assert words in str(refusal.value)


def test_a_run_imports_no_module_that_its_config_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(fuzz.OLD / "stopped" / "awac", tmp_path / "run"))
    (tmp_path / "trap_of_a_run.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"environment": "trap_of_a_run:Arm-v0"}))
    line = refused("resume", folder)
    assert "--plugin trap_of_a_run" in line
    assert "trap_of_a_run" not in sys.modules


# --- ranges -------------------------------------------------------------------------------------------------

ANY = {"entropy_target", "penalty_target", "target_return", "gap_floor"}
"""Hyper-parameters that may be any number."""


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_hyperparameter_states_its_range(name: str) -> None:
    cls = ALGORITHMS[name]
    numbers = {key for key, value in vars(cls()).items() if type(value) in (int, float, tuple)}
    ranges = ranges_of(cls)
    assert numbers - set(ranges) <= ANY
    for key, allowed in ranges.items():
        number = allowed.low if allowed.without_low else allowed.low - 1
        value = (number,) if allowed.length else number if allowed.whole else float(number)
        with pytest.raises(InputError, match=rf"^{key} .*: must be"):
            cls(**{key: value})
        assert allowed.refusal(float("nan"))
        number = [allowed.low + 0.5] if allowed.length else allowed.low + 0.5
        assert not allowed.whole or allowed.refusal(number).startswith("whole, ")


def test_values_that_are_not_there_yet_are_left_alone() -> None:
    lanes = make_lanes(DTQL(), [0], {"discount": [0.9, 0.99]})
    stacked = stack_lanes(DTQL(), lanes)
    assert stacked.discount.shape == (2,)
    built = jax.jit(lambda rate: DTQL(learning_rate=rate).learning_rate)(jnp.float32(-1.0))
    assert built == -1.0
    with pytest.raises(InputError, match="learning_rate"):
        DTQL(learning_rate=jnp.array([1e-3, -1.0]))
    assert ranges_of(DTQL)["learning_rate"].refusal(jax.ShapeDtypeStruct((), jnp.float32)) == ""
    with pytest.raises(InputError, match=r"discount 1.5: must be 0 to 1"):
        make_lanes(DTQL(), [0], {"discount": [0.9, 1.5]})


def test_so_are_those_of_hyperparameters_that_may_be_any_number() -> None:
    stacked = stack_lanes(SAC(), make_lanes(SAC(), [0], {"entropy_target": [-1.0, -2.0]}))
    assert dataclasses.replace(stacked, train_updates=5).entropy_target.shape == (2,)
    targets = jnp.array([-1.0, jnp.nan])
    assert jax.jit(jax.vmap(lambda target: SAC(entropy_target=target).entropy_target))(targets).shape == (2,)
    assert jnp.isnan(jax.tree.map(lambda leaf: leaf * jnp.nan, SAC()).entropy_target)  # what JAX takes apart and joins
    with pytest.raises(InputError, match=r"^entropy_target=.*: expected a finite number"):
        SAC(entropy_target=targets)


def test_options_state_theirs() -> None:
    for name, value in (("batch_size", 0), ("eval_workers", -1), ("lanes_per_group", 0)):
        with pytest.raises(InputError, match=f"^{name} {value}: must be"):
            Options(**{name: value})
    assert not ranges_of(Options)["lanes_per_group"].refusal(None)
    assert ranges_of(Options)["batch_size"].refusal(None)
