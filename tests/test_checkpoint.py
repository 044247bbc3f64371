"""Checkpoints under every fault that a disk, a kill or a user can cause."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.errors import InputError
from tether.machine.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    load_arrays,
    save_arrays,
    sha256_file,
    to_json,
)
from tether.runs.checkpoint import CheckpointError, load_checkpoint, load_latest, save_checkpoint

STATE, MANIFEST = "state.safetensors", "manifest.json"


class Critic(NamedTuple):
    layers: list[dict[str, Any]]
    count: Any


def make_tree() -> dict[str, Any]:
    """One of everything, with the bits that are easily lost: NaN payloads, -0, denormals."""
    odd = np.array([0x7FC01234, 0xFFC00001, 0x80000000, 0x00000001, 0x7F800000], np.uint32).view(np.float32)
    key = jax.random.key(7)
    return {
        "critic": Critic([{"weight": jnp.array(odd)}, {"weight": jnp.ones((2, 3), jnp.bfloat16)}], jnp.int32(3)),
        "mask": jnp.array([True, False]),
        "empty": jnp.zeros((0, 4), jnp.float32),
        "half": jnp.arange(3, dtype=jnp.float16),
        "strided": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "double": np.array(np.pi),
        "long": np.arange(2, dtype=np.int64),
        "key": key,
        "lane_keys": jax.random.split(key, 3),
        "rbg": jax.random.key(1, impl="rbg"),
        "nothing": None,
    }


def bits(leaf: Any) -> tuple[tuple[int, ...], str, bytes]:
    data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return tuple(leaf.shape), str(leaf.dtype), np.asarray(data).tobytes()


def assert_same(tree: Any, other: Any) -> None:
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for one, two in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert bits(one) == bits(two)


def small(value: float = 0.0) -> dict[str, np.ndarray]:
    return {"weight": np.full(5, value, np.float32), "count": np.array(int(value), np.int32)}


def save(directory: Path, update: int) -> Path:
    return save_checkpoint(directory, f"train-{update:08d}", small(update), {"global_update": update})


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def refuse(message: str) -> None:
    raise AssertionError(message)


# --- round trips --------------------------------------------------------------------------------------------


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    tree = make_tree()
    notes = {"global_update": 5, "phase": "train", "lanes": [1, 2], "nested": {"none": None}}
    path = save_checkpoint(tmp_path / "new" / "checkpoints", "train-00000005", tree, notes)
    loaded, manifest = load_checkpoint(path, tree)
    assert_same(loaded, tree)
    assert manifest == notes
    assert isinstance(loaded["double"], np.ndarray)
    assert loaded["double"].flags.writeable
    assert isinstance(loaded["mask"], jax.Array)
    # The restored key is a working key, not only equal bits.
    assert jnp.array_equal(jax.random.normal(loaded["key"], (3,)), jax.random.normal(tree["key"], (3,)))


def test_like_may_be_shapes_only(tmp_path: Path) -> None:
    tree = {name: leaf for name, leaf in make_tree().items() if name not in ("double", "long")}
    path = save_checkpoint(tmp_path, "train-1", tree, {})
    loaded, _ = load_checkpoint(path, jax.eval_shape(lambda: tree))
    assert_same(loaded, jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.array(leaf), tree))


def test_same_tree_same_bytes_and_readable_names(tmp_path: Path) -> None:
    one, two = (save_checkpoint(tmp_path, name, make_tree(), {}) for name in ("train-1", "train-2"))
    assert (one / STATE).read_bytes() == (two / STATE).read_bytes()
    manifest = json.loads((one / MANIFEST).read_text())
    assert manifest["tensors"]["critic/layers/1/weight"] == "bfloat16[2,3]"
    assert manifest["tensors"]["lane_keys"] == "key<fry>[3]"
    assert manifest["files"][STATE] == {
        "size": (one / STATE).stat().st_size,
        "sha256": sha256_file(one / STATE),
    }


def test_double_precision_needs_x64_on_device(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "train-1", {"x": np.ones(2)}, {})
    with pytest.raises(CheckpointError, match="x64"):
        load_checkpoint(path, {"x": jax.ShapeDtypeStruct((2,), np.dtype("float64"))})


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({"a": 1.0}, TypeError, "'a' is a float"),
        ({"a": np.array(["text"])}, TypeError, "'a' has dtype"),
        ({"a": {"b": np.ones(1)}, "a/b": np.ones(1)}, ValueError, "'a/b'"),
        ({"__metadata__": np.ones(1)}, ValueError, "__metadata__"),
    ],
)
def test_what_cannot_be_saved_touches_nothing(tmp_path: Path, tree: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        save_checkpoint(tmp_path, "train-1", tree, {})
    with pytest.raises(TypeError, match="JSON"):
        save_checkpoint(tmp_path, "train-1", small(), {"object": object()})
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".hidden-1", "a/b-1", "../up-1", "train-1.old", "no-number"])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        save_checkpoint(tmp_path, name, small(), {})


# --- which ones are kept and chosen -------------------------------------------------------------------------


def test_newest_two_are_kept_by_global_update(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "pretrain-00050000", small(1), {"global_update": 50_000})
    save_checkpoint(tmp_path, "train-00001000", small(2), {"global_update": 51_000})
    (tmp_path / "notes").mkdir()  # not a checkpoint: nobody's business
    save_checkpoint(tmp_path, "train-00002000", small(3), {"global_update": 52_000})
    assert names(tmp_path) == ["notes", "train-00001000", "train-00002000"]
    tree, manifest, path = load_latest(tmp_path, small(), refuse)
    assert (tree["count"], manifest["global_update"], path.name) == (3, 52_000, "train-00002000")


def test_number_in_the_name_orders_without_global_update(tmp_path: Path) -> None:
    for update in (9, 10, 11):
        save_checkpoint(tmp_path, f"train-{update}", small(update), {})
    assert names(tmp_path) == ["train-10", "train-11"]
    assert load_latest(tmp_path, small(), refuse)[2].name == "train-11"


def test_written_checkpoint_outlives_abandoned_newer_ones(tmp_path: Path) -> None:
    for update in (100, 200, 50):  # resumed from an earlier one
        save(tmp_path, update)
    assert names(tmp_path) == ["train-00000050", "train-00000200"]


def test_pruning_prefers_valid_ones(tmp_path: Path) -> None:
    save(tmp_path, 1)
    broken = save(tmp_path, 2)
    os.truncate(broken / STATE, 20)
    save(tmp_path, 3)
    assert names(tmp_path) == ["train-00000001", "train-00000003"]


def test_same_name_is_replaced(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "train-1", small(1), {})
    save_checkpoint(tmp_path, "train-1", small(2), {})
    assert names(tmp_path) == ["train-1"]
    assert load_latest(tmp_path, small(), refuse)[0]["count"] == 2


@pytest.mark.parametrize("renames_before_crash", [0, 1, 2])
def test_crash_while_replacing_leaves_a_valid_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames_before_crash: int
) -> None:
    save_checkpoint(tmp_path, "train-1", small(1), {})
    real, done = os.rename, []

    def rename(source: Any, target: Any) -> None:
        if len(done) == renames_before_crash:
            raise KeyboardInterrupt  # like a kill: no handler for OSError runs
        real(source, target)
        done.append(target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, "train-1", small(2), {})
    monkeypatch.undo()
    tree, _, _ = load_latest(tmp_path, small(), refuse)
    assert tree["count"] == (2 if renames_before_crash == 2 else 1)
    save_checkpoint(tmp_path, "train-1", small(3), {})
    assert names(tmp_path) == ["train-1"]


def test_everything_is_flushed_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, str]] = []
    paths: dict[int, str] = {}
    real_open, real_fsync, real_rename = os.open, os.fsync, os.rename

    def record_open(path: Any, *arguments: Any) -> int:
        descriptor = real_open(path, *arguments)
        paths[descriptor] = Path(path).name
        return descriptor

    def record_fsync(descriptor: int) -> None:
        events.append(("fsync", paths[descriptor]))
        real_fsync(descriptor)

    def record_rename(source: Any, target: Any) -> None:
        events.append(("rename", Path(target).name))
        real_rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", record_open)
        patch.setattr(os, "fsync", record_fsync)
        patch.setattr(os, "rename", record_rename)
        save(tmp_path, 1)
    temporary = f".tmp-train-00000001-{os.getpid()}"
    expected = [("fsync", STATE), ("fsync", MANIFEST), ("fsync", temporary)]
    assert events[:5] == [*expected, ("rename", "train-00000001"), ("fsync", tmp_path.name)]


# --- faults on disk -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [STATE, MANIFEST])
def test_truncation_at_any_length_is_refused(tmp_path: Path, file: str) -> None:
    path = save(tmp_path, 1)
    data = (path / file).read_bytes()
    for length in range(0, len(data), 7):
        (path / file).write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=f"{file}: truncated"):
            load_checkpoint(path, small())
    (path / file).write_bytes(data + b"\0")
    with pytest.raises(CheckpointError, match=file):
        load_checkpoint(path, small())


@pytest.mark.parametrize("file", [STATE, MANIFEST])
def test_every_flipped_byte_is_refused(tmp_path: Path, file: str) -> None:
    path = save(tmp_path, 1)
    data = (path / file).read_bytes()
    for position in range(len(data)):
        for flip in (1 << (position % 8), 0xFF):
            altered = bytearray(data)
            altered[position] ^= flip
            (path / file).write_bytes(altered)
            with pytest.raises(CheckpointError, match=file):
                load_checkpoint(path, small())


def test_whitespace_and_order_in_the_manifest_count_too(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    text = (path / MANIFEST).read_text()
    for other in (text.replace("  ", "\t", 1), json.dumps(json.loads(text)), text.rstrip()):
        (path / MANIFEST).write_text(other)
        with pytest.raises(CheckpointError, match="altered"):
            load_checkpoint(path, small())


@pytest.mark.parametrize("file", [STATE, MANIFEST])
def test_missing_file_is_refused_and_the_previous_is_used(tmp_path: Path, file: str) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / file).unlink()
    refused: list[str] = []
    tree, _, path = load_latest(tmp_path, small(), refused.append)
    assert (tree["count"], path.name) == (1, "train-00000001")
    (message,) = refused
    assert message.startswith("checkpoint train-00000002 refused")
    assert message.endswith(f"{file}: missing")


@pytest.mark.parametrize("file", [STATE, MANIFEST])
def test_swapped_files_are_refused(tmp_path: Path, file: str) -> None:
    one, two = save(tmp_path, 1), save(tmp_path, 2)
    os.rename(one / file, tmp_path / "spare")
    os.rename(two / file, one / file)
    os.rename(tmp_path / "spare", two / file)
    refused: list[str] = []
    with pytest.raises(CheckpointError) as caught:
        load_latest(tmp_path, small(), refused.append)
    assert len(refused) == 2
    assert all(name in str(caught.value) for name in ("train-00000001", "train-00000002", "altered"))


def test_other_format_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tether.runs import checkpoint

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", 2)
        path = save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="format version 2, this tether reads 1"):
        load_checkpoint(path, small())


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '"x"', "[" * 99_999, '{"format_version": 1}'])
def test_nonsense_manifests_are_refused(tmp_path: Path, text: str) -> None:
    path = save(tmp_path, 1)
    (path / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=MANIFEST):
        load_checkpoint(path, small())


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({**small(), "weight": np.zeros(6, np.float32)}, r"'weight' is float32\[5\], expected float32\[6\]"),
        ({**small(), "weight": np.zeros((5, 1), np.float32)}, r"expected float32\[5,1\]"),
        ({**small(), "weight": np.zeros(5, np.int32)}, r"expected int32\[5\]"),
        ({**small(), "count": jax.random.key(0)}, r"'count' is int32\[\], expected key<fry>\[2\]"),
        ({**small(), "bias": np.zeros(1)}, "missing 'bias'"),
        ({"weight": small()["weight"]}, "unexpected 'count'"),
        ({"weights": small()["weight"], "count": small()["count"]}, "missing 'weights'; unexpected 'weight'"),
    ],
)
def test_another_state_is_refused(tmp_path: Path, like: Any, message: str) -> None:
    path = save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, like)


def test_keys_and_their_numbers_are_not_confused(tmp_path: Path) -> None:
    key = jax.random.key(0)
    typed, raw = {"key": key}, {"key": jax.random.key_data(key)}
    path = save_checkpoint(tmp_path, "train-1", typed, {})
    for like in (raw, {"key": jax.random.key(0, impl="unsafe_rbg")}, {"key": jax.random.split(key, 1)}):
        with pytest.raises(CheckpointError, match="'key' is key<fry>"):
            load_checkpoint(path, like)
    path = save_checkpoint(tmp_path, "train-2", raw, {})
    with pytest.raises(CheckpointError, match="is uint32"):
        load_checkpoint(path, typed)


def test_nothing_to_load(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="no valid checkpoint in"):
            load_latest(directory, small(), refuse)


def test_half_written_folders_are_never_chosen_and_are_removed(tmp_path: Path) -> None:
    good = save(tmp_path, 1)
    shutil.copytree(good, tmp_path / ".tmp-train-00000009-123")  # complete, but never got its name
    assert load_latest(tmp_path, small(), refuse)[2] == good
    save(tmp_path, 2)
    assert names(tmp_path) == ["train-00000001", "train-00000002"]


# --- faults while writing -----------------------------------------------------------------------------------


def outcome(function: Callable[..., Any], *arguments: Any) -> str | None:
    """The message of the CheckpointError or InputError that a call ends with; None if it succeeds."""
    try:
        function(*arguments)
    except (CheckpointError, InputError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename", "mkdir"])
@pytest.mark.parametrize("replaces", [False, True])
def test_failing_writes_leave_the_previous_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, replaces: bool
) -> None:
    save(tmp_path, 1)
    if replaces:
        save_checkpoint(tmp_path, "train-00000002", small(-2), {"global_update": 2})
    real = getattr(os, call)
    for failing in range(1, 20):  # the first call fails, the second, ...
        calls = []

        def full(*arguments: Any, failing: int = failing, calls: list = calls, **settings: Any) -> Any:
            calls.append(arguments)
            if len(calls) == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **settings)

        monkeypatch.setattr(os, call, full)
        message = outcome(save, tmp_path, 2)
        monkeypatch.undo()
        if len(calls) < failing:  # no call is left to fail
            assert message is None
            break
        if message is not None:
            assert "train-00000002: checkpoint not written: No space left on device" in message
            load_checkpoint(tmp_path / "train-00000001", small())
            assert not replaces or load_checkpoint(tmp_path / "train-00000002", small())
        load_latest(tmp_path, small(), refuse)
        assert not [name for name in names(tmp_path) if name.startswith(".") and not name.endswith("-removed")]
    assert failing > 1  # pyright: ignore[reportPossiblyUnboundVariable]
    assert names(tmp_path) == ["train-00000001", "train-00000002"]
    assert load_latest(tmp_path, small(), refuse)[0]["count"] == 2


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:100]))
        path = save(tmp_path, 1)
    assert load_checkpoint(path, small())[0]["count"] == 1


def test_really_full_disk(tmp_path: Path) -> None:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mounted)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here; the same is tested with patched calls")
    try:
        directory = mounted / "checkpoints"
        save(directory, 1)
        big = {"weight": np.zeros(1_000_000, np.float32)}
        with pytest.raises(CheckpointError, match="No space left on device"):
            save_checkpoint(directory, "train-2", big, {})
        assert names(directory) == ["train-00000001"]
        save(directory, 3)  # the failed one left the space free
        assert load_latest(directory, small(), refuse)[0]["count"] == 3
    finally:
        subprocess.run(["umount", str(mounted)], check=True, capture_output=True)


SAVE_FOREVER = """
    import os, sys, time
    from pathlib import Path
    import numpy as np
    from tether.runs.checkpoint import save_checkpoint

    directory = Path(sys.argv[1])
    for line in sys.stdin:  # one line per child: JAX is imported once, the children are forked
        child = os.fork()
        if child == 0:
            update = int(line)
            while True:
                update += 1
                tree = {f"layer_{i}": np.full(20_000, update, np.int32) for i in range(4)}
                # every third time under the same name, to be killed while replacing, too
                save_checkpoint(directory, f"train-{update // 3:08d}", tree, {"global_update": update})
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_kill_at_random_moments(tmp_path: Path) -> None:
    generator = random.Random(0)
    like = {f"layer_{i}": np.zeros(20_000, np.int32) for i in range(4)}
    arguments = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SAVE_FOREVER), str(tmp_path)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    assert process.stdin is not None
    assert process.stdout is not None
    newest, leftovers = 0, 0
    try:
        for _ in range(25):
            changed = tmp_path.stat().st_mtime_ns
            print(newest, file=process.stdin, flush=True)
            child = int(process.stdout.readline())
            while tmp_path.stat().st_mtime_ns == changed or not any(tmp_path.glob("train-*")):
                time.sleep(0.001)
            time.sleep(generator.uniform(0, 0.04))
            os.kill(child, signal.SIGKILL)
            assert process.stdout.readline() == "dead\n"
            leftovers += any(tmp_path.glob(".tmp-*"))
            tree, manifest, _ = load_latest(tmp_path, like, refuse)
            update = manifest["global_update"]
            assert update >= newest
            assert all((layer == update).all() for layer in tree.values())
            assert len(list(tmp_path.glob("train-*"))) <= 4  # two, one just written, one being replaced
            newest = update
    finally:
        watchdog.cancel()
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()
    assert leftovers > 0  # some kills did hit a save half-way
    assert newest > 5


# --- tether.machine.files -------------------------------------------------------------------------------------------


def test_atomic_writes_replace_or_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    atomic_write_text(path, "\N{GREEK SMALL LETTER BETA}")
    assert path.read_bytes() == b"\xce\xb2"
    atomic_write_bytes(path, b"")
    assert path.read_bytes() == b""
    atomic_write_json(path, {"a": [1]})

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        atomic_write_text(path, "new")
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"a": [1]}
    assert names(tmp_path) == ["result.json"]


def test_json_is_strict() -> None:
    value = {
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "array": jnp.arange(2),
        "path": Path("a"),
        "t": (1,),
    }
    expected = {"nan": None, "inf": None, "array": [0, 1], "path": "a", "t": [1]}
    assert json.loads(to_json(value)) == expected
    with pytest.raises(TypeError, match="JSON"):
        to_json({"set": {1}})


def test_array_files_round_trip_and_refuse(tmp_path: Path) -> None:
    path, tree = tmp_path / "policy.safetensors", make_tree()
    save_arrays(path, tree)
    assert_same(load_arrays(path, tree), tree)
    with pytest.raises(InputError, match=r"absent\.safetensors: cannot be read"):
        load_arrays(tmp_path / "absent.safetensors", tree)
    save_arrays(path, np.ones(2))  # a tree that is one array
    assert_same(load_arrays(path, np.zeros(2)), np.ones(2))


def test_damaged_array_files_never_raise_anything_but_input_error(tmp_path: Path) -> None:
    """Without a manifest a flipped number goes unnoticed; a damaged header must not, nor crash the reader."""
    path, tree = tmp_path / "policy.safetensors", {"a": np.ones(2, np.float32), "key": jax.random.key(0)}
    save_arrays(path, tree)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for position in range(header):
        for flip in (1, 0x20, 0x80):
            altered = bytearray(data)
            altered[position] ^= flip
            path.write_bytes(altered)
            assert str(path) in (outcome(load_arrays, path, tree) or str(path))
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="not a valid safetensors file"):
            load_arrays(path, tree)
