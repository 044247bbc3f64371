"""The policy folder: what comes out of it is what was trained, or nothing."""

import hashlib
import json
import os
import pickletools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_data import (
    SETTINGS,
    algorithm,
    columns,
    copy_run,
    data_file,
    finished_run,
    last_state,
    snapshot,
)

import tether
from tether import InputError, load_policy, train
from tether.data import Normaliser
from tether.data.schema import ActionBox, Schema, layout_of
from tether.machine.files import to_json
from tether.policies import folder as policy
from tether.policies import golden
from tether.policies.deployed import deploy
from tether.policies.folder import save_policy, write_folder
from tether.policies.golden import GOLDEN_PAIRS
from tether.policies.loaded import LoadedPolicy
from tether.types import Spec

OBSERVATION = columns()["observations"][7]


@pytest.fixture(scope="module")
def loaded() -> LoadedPolicy:
    return load_policy(finished_run() / "policy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy folder to damage."""
    return Path(shutil.copytree(finished_run() / "policy", tmp_path / "policy"))


def save(folder: Path, module: policy.DeployedPolicy, **changes: Any) -> None:
    """`save_policy` with what the tests do not care about filled in."""
    arguments = {
        "algorithm": algorithm(),
        "spec": Spec(11, 3),
        "observations": columns()["observations"],
        "notes": {},
    }
    save_policy(folder, module, **{**arguments, **changes})


# --- use ----------------------------------------------------------------------------------------------------


def test_one_observation_and_a_batch(loaded: LoadedPolicy) -> None:
    key = jax.random.key(0)
    action = loaded(OBSERVATION, key)
    assert isinstance(action, np.ndarray)
    assert (action.shape, action.dtype) == ((3,), np.float32)
    assert (np.abs(action) <= 1).all()
    batch = np.tile(OBSERVATION, (5, 1))
    actions = loaded(batch, key)
    assert actions.shape == (5, 3)
    assert len({tuple(row) for row in actions.tolist()}) == 5  # each has noise of its own
    np.testing.assert_allclose(actions[2], loaded(OBSERVATION, jax.random.split(key, 5)[2]), atol=1e-6)
    assert loaded(OBSERVATION.tolist(), key).tolist() == action.tolist()  # lists and doubles are welcome
    assert loaded(OBSERVATION.astype(np.float64), key).tolist() == action.tolist()


def test_with_a_key_or_from_a_stream(loaded: LoadedPolicy) -> None:
    key = jax.random.key(1)
    np.testing.assert_array_equal(loaded(OBSERVATION, key), loaded(OBSERVATION, key))
    one, two = (LoadedPolicy(loaded.module, loaded.document, loaded.algorithm, seed) for seed in (5, 5))
    other = LoadedPolicy(loaded.module, loaded.document, loaded.algorithm, seed=6)
    first = one(OBSERVATION)
    np.testing.assert_array_equal(first, two(OBSERVATION))
    assert (first != one(OBSERVATION)).any()
    assert (first != other(OBSERVATION)).any()


def test_it_says_what_it_is(loaded: LoadedPolicy) -> None:
    assert repr(loaded) == "LoadedPolicy(dtql, observation (11,) -> action (3,))"
    assert loaded.document["hyperparameters"]["candidates"] == 8
    assert loaded.document["notes"]["dataset"] == "hopper-medium"


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(10), r"shape \(10,\).*\(11,\) or \(batch, 11\)"),
        (np.zeros((2, 12)), r"shape \(2, 12\)"),
        (np.zeros((1, 2, 11)), r"shape \(1, 2, 11\)"),
        (0.0, r"shape \(\)"),
        (np.full(11, np.nan), "not finite"),
        (np.full(11, 1e39), "not finite"),
        (["a"] * 11, "no array of numbers"),
        ([[0.0] * 11, [0.0]], "no array of numbers"),
        (None, r"shape \(\)|no array of numbers|not finite"),
    ],
)
def test_other_observations_are_refused(loaded: LoadedPolicy, observation: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loaded(observation)


# --- round trip ---------------------------------------------------------------------------------------------


def test_saving_and_loading_keeps_every_bit(tmp_path: Path, loaded: LoadedPolicy) -> None:
    save(tmp_path / "again", loaded.module)
    again = load_policy(tmp_path / "again")
    for one, two in zip(jax.tree.leaves(loaded.module), jax.tree.leaves(again.module), strict=True):
        assert one.dtype == two.dtype
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()
    assert jax.tree.structure(loaded.module) == jax.tree.structure(again.module)
    first, second = (path / "policy.safetensors" for path in (finished_run() / "policy", tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_the_run_folder_stands_for_its_policy(loaded: LoadedPolicy) -> None:
    assert load_policy(finished_run()).document == loaded.document
    assert load_policy(str(finished_run())).document == loaded.document


def test_saving_again_replaces(tmp_path: Path, loaded: LoadedPolicy) -> None:
    save(tmp_path / "policy", loaded.module, notes={"turn": 1})
    for left in (f".tmp-policy-{os.getpid()}.tether", ".old-policy.tether"):  # by a crash
        (tmp_path / left / "x").mkdir(parents=True)
    save(tmp_path / "policy", loaded.module, notes={"turn": 2})
    assert load_policy(tmp_path / "policy").document["notes"] == {"turn": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def full(*_: Any) -> None:
    """What writes, where there is no space left."""
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("call", ["write_synced", "fsync_directory"])
def test_a_full_disk_keeps_the_old_one(
    tmp_path: Path, loaded: LoadedPolicy, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    save(tmp_path / "policy", loaded.module)
    before = snapshot(tmp_path)

    monkeypatch.setattr(policy, call, full)
    with pytest.raises(OSError, match=r"policy not written: No space left on device.*policy"):
        save(tmp_path / "policy", loaded.module, notes={"turn": 2})
    assert snapshot(tmp_path) == before


def test_a_link_stays_one(tmp_path: Path) -> None:
    """It may say which of several versions is served."""
    (tmp_path / "v1").mkdir()
    (tmp_path / "current").symlink_to("v1")
    for text in (b"one", b"two"):
        write_folder(tmp_path / "current", {"policy.json": text})
        assert os.readlink(tmp_path / "current") == "v1"
        assert (tmp_path / "v1" / "policy.json").read_bytes() == text
    assert sorted(os.listdir(tmp_path)) == ["current", "v1"]


def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one is there again, also where the next one cannot be written."""
    write_folder(tmp_path / "policy", {"policy.json": b"old"})
    rename, renamed = Path.rename, []

    class Killed(BaseException):
        """Nothing is tidied up behind it."""

    def killed(path: Path, to: Path) -> Path:
        renamed.append(path)
        if len(renamed) == 2:
            raise Killed
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(Killed):
        write_folder(tmp_path / "policy", {"policy.json": b"lost"})
    monkeypatch.setattr(Path, "rename", rename)
    assert not (tmp_path / "policy").exists()
    with monkeypatch.context() as patch:
        patch.setattr(policy, "write_synced", full)
        with pytest.raises(OSError, match="policy not written: No space left"):
            write_folder(tmp_path / "policy", {"policy.json": b"new"})
    assert snapshot(tmp_path) == {"policy/policy.json": hashlib.sha256(b"old").hexdigest()}
    write_folder(tmp_path / "policy", {"policy.json": b"new"})
    assert snapshot(tmp_path) == {"policy/policy.json": hashlib.sha256(b"new").hexdigest()}


def test_two_processes_do_not_mix_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One writes into a folder while another is at it."""
    written, own = policy.write_synced, os.getpid()

    def first_the_other(path: Path, data: bytes) -> None:
        monkeypatch.setattr(policy, "write_synced", written)
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: own + 1)
            write_folder(tmp_path / "out", {"a": b"theirs", "b": b"theirs"})
        written(path, data)

    monkeypatch.setattr(policy, "write_synced", first_the_other)
    write_folder(tmp_path / "out", {"a": b"ours"})
    assert snapshot(tmp_path) == {"out/a": hashlib.sha256(b"ours").hexdigest()}


def test_loading_needs_nothing_else(tmp_path: Path) -> None:
    shutil.copytree(finished_run() / "policy", tmp_path / "policy")
    program = (
        "import numpy as np, tether\npolicy = tether.load_policy('policy', seed=3)\nprint(policy(np.ones(11)).tolist())"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(tether.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    expected = load_policy(finished_run() / "policy", seed=3)(np.ones(11))
    np.testing.assert_allclose(json.loads(result.stdout), expected, atol=1e-6)
    assert result.stderr == ""


# --- damage -------------------------------------------------------------------------------------------------


def refusal(folder: Path) -> str | None:
    """Why `load_policy` refuses, None if it does not."""
    try:
        load_policy(folder)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ["policy.safetensors", "policy.json"])
def test_damaged_files_are_refused_by_name(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    damaged = [whole[:0], whole[: len(whole) // 2], whole[:-2], whole + b"x"]
    for position in generator.integers(0, len(whole), 40).tolist():
        data = bytearray(whole)
        data[position] ^= 1 << generator.integers(0, 8)
        damaged.append(bytes(data))
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        reason = refusal(folder)
        refused += reason is not None
        assert reason is None or str(path) in reason
        if reason is None:  # white space between two entries of the JSON file is no content
            assert json.loads(data) == json.loads(whole)
    assert refused == len(damaged) if name == "policy.safetensors" else refused >= len(damaged) - 8


@pytest.mark.parametrize("name", ["policy.safetensors", "policy.json"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{re.escape(str(folder / name))}.*No such file"):
        load_policy(folder)


def test_files_of_different_policies_do_not_mix(folder: Path) -> None:
    best = json.loads((folder / "policy.json").read_text())["notes"]["lane"]
    other = finished_run() / "policies" / f"lane-{1 - best}" / "policy.safetensors"
    shutil.copy(other, folder / "policy.safetensors")
    with pytest.raises(InputError, match="SHA-256"):
        load_policy(folder)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the document and make its hash right again, as only someone who means to would."""
    document = json.loads((folder / "policy.json").read_text())
    change(document)
    document.pop("document_sha256")
    document["document_sha256"] = hashlib.sha256(to_json(document).encode()).hexdigest()
    (folder / "policy.json").write_text(to_json(document))


def test_an_honest_rewrite_is_accepted(folder: Path) -> None:
    rewrite(folder, lambda document: document["notes"].update(comment="looks good"))
    assert load_policy(folder).document["notes"]["comment"] == "looks good"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["hyperparameters"].update(candidates=16), "golden pair"),
        (lambda d: d["hyperparameters"].update(hidden_sizes=[16, 32]), "expected float32"),
        (lambda d: d["hyperparameters"].update(hidden_sizes=[16]), "not the expected ones"),
        (lambda d: d["hyperparameters"].update(hidden_size=16), "unknown hyper-parameter"),
        (lambda d: d["hyperparameters"].update(candidates="many"), "whole number"),
        (lambda d: d["spec"].update(max_action=0.5), "golden pair"),
        (lambda d: d["spec"].update(observation_size=12), "normaliser has 11 numbers, its spec says 12"),
        (lambda d: d["spec"].update(size=12), "altered"),
        (lambda d: d["normaliser"]["mean"].__setitem__(0, 1e-6), "normaliser's mean"),
        (lambda d: d["normaliser"]["std"].pop(), "normaliser has 10 numbers, its spec says 11"),
        (lambda d: d["golden"]["actions"][3].__setitem__(1, 0.123), "golden pair"),
        (lambda d: d["golden"]["observations"][0].__setitem__(0, 9.0), "golden pair"),
        (lambda d: d["golden"]["seeds"].reverse(), "golden pair"),
        (lambda d: d["golden"].update(seeds=[], observations=[], actions=[]), "golden.seeds"),
        (lambda d: d["golden"]["actions"].pop(), "altered"),
        (lambda d: d["golden"].pop("seeds"), "altered"),
        (lambda d: d.pop("golden"), "required field `golden`"),
        (lambda d: d.update(algorithm="dtqm"), "unknown algorithm 'dtqm'; did you mean dtql"),
        (lambda d: d.update(algorithm=["dtql"]), "altered|unknown"),
        (lambda d: d.update(format_version=6), "format 6; this version of tether reads 1, 2, 3, 4, 5"),
        (lambda d: d.pop("trust"), "no trust in it"),
        (lambda d: d["trust"].update(references=129), "trust.safetensors: array"),
        (lambda d: d["trust"].update(hidden_sizes=[10**7] * 11), "hidden_sizes"),
        (lambda d: d.pop("schema"), "no schema"),
        (lambda d: d["action_range"]["scale"].__setitem__(0, 2.0), "action_range's scale"),
        (lambda d: d["action_range"].pop("offset"), "altered"),
        (lambda d: d.update(sha256="0" * 64), "SHA-256"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(InputError, match=message) as refusal:
        load_policy(folder)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '"policy"', "\ufeff{}", '{"format_version": 1}'])
def test_a_document_that_is_none(folder: Path, text: str) -> None:
    (folder / "policy.json").write_text(text)
    with pytest.raises(InputError, match=re.escape(str(folder / "policy.json"))):
        load_policy(folder)


def test_no_folder() -> None:
    with pytest.raises(InputError, match=r"/nowhere/policy.json: cannot be read: No such file"):
        load_policy("/nowhere")


# --- golden pairs -------------------------------------------------------------------------------------------


def test_golden_pairs_survive_other_last_bits(folder: Path) -> None:
    """Another processor rounds differently: as if every weight were off by some of its last bits."""
    original = load_policy(folder)
    assert len(original.document["golden"]["seeds"]) == GOLDEN_PAIRS
    for turn in range(2):
        generator = np.random.default_rng(turn)

        def disturb(leaf: Any, generator: np.random.Generator = generator) -> Any:
            noise = generator.uniform(-2e-6, 2e-6, leaf.shape).astype(np.float32)
            return leaf * (1 + noise) if eqx.is_inexact_array(leaf) else leaf

        disturbed = LoadedPolicy(jax.tree.map(disturb, original.module), original.document, original.algorithm)
        golden.verify_golden_pairs(disturbed.document, disturbed.module, disturbed.step, folder)


class Jumpy(eqx.Module):
    """Acts smoothly, except for a jump that is right beside some observations."""

    edge: jax.Array

    def __call__(self, observation: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.tanh(observation[:3]) + jnp.where(observation[0] > self.edge, 0.5, 0.0)


def test_golden_pairs_are_chosen_away_from_jumps() -> None:
    observations = columns()["observations"][:32].copy()
    observations[::2, 0] = 1.0  # on the edge
    observations[1::2, 0] = np.linspace(1.5, 3.0, 16)
    flat = Normaliser(np.zeros(11, np.float32), np.ones(11, np.float32))
    pairs = golden.golden_pairs(deploy(Jumpy(jnp.asarray(1.0)), Spec(11, 3), flat), observations)
    assert len(pairs["seeds"]) == GOLDEN_PAIRS
    assert all(observation[0] >= 1.5 for observation in pairs["observations"])


def test_fewer_observations_than_pairs(tmp_path: Path, loaded: LoadedPolicy) -> None:
    save(tmp_path / "policy", loaded.module, observations=columns()["observations"][:3])
    assert len(load_policy(tmp_path / "policy").document["golden"]["seeds"]) == 3


# --- the normaliser -----------------------------------------------------------------------------------------


def test_standardised_observations_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(
        algorithm(),
        str(data_file()),
        seeds=2,
        options=SETTINGS,
        observation_transform="standardise",
        environment="none",
        out=out,
        quiet=True,
    )
    assert last_state(out) != last_state(finished_run())
    config = json.loads((out / "config.json").read_text())["data"]
    deployed = load_policy(out)
    assert deployed.document["normaliser"] == config["normaliser"]
    observations = columns()["observations"]
    mean, std = observations[:-1].mean(axis=0), observations[:-1].std(axis=0)
    np.testing.assert_allclose(config["normaliser"]["mean"], mean, atol=0.05)
    np.testing.assert_allclose(config["normaliser"]["std"], std, atol=0.05)
    key = jax.random.key(0)
    stated = {name: np.asarray(values, np.float32) for name, values in config["normaliser"].items()}
    for observation in observations[:5]:
        normalised = (observation - stated["mean"]) / stated["std"]
        inner = jax.jit(lambda o: deployed.module.policy(o, key))(normalised)  # pyright: ignore[reportCallIssue]
        np.testing.assert_allclose(deployed(observation, key), inner, atol=1e-6)
    # and the network was trained on what it is given: resuming with the same data finds the same normaliser
    shutil.rmtree(out / "policy")
    tether.resume(out, quiet=True)
    assert load_policy(out).document["normaliser"] == config["normaliser"]


# --- the robot's units and names ----------------------------------------------------------------------------


ROBOT = Schema(
    observation=layout_of({"joints": 7, "camera_x": 1, "camera_y": 1, "camera_z": 1, "grip": 1}),
    action=layout_of({"left": 1, "right": 1, "lock": 1}),
    box=ActionBox(low=(-43.0, 0.0, 2.5), high=(43.0, 10.0, 2.5)),
)


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory, loaded: LoadedPolicy) -> LoadedPolicy:
    """The trained policy with a robot's action range and names around it, saved and loaded."""
    folder = tmp_path_factory.mktemp("robot") / "policy"
    module = deploy(
        loaded.module.policy, Spec(11, 3), Normaliser(np.zeros(11, np.float32), np.ones(11, np.float32)), ROBOT
    )
    save(folder, module, schema=ROBOT)
    return load_policy(folder)


def test_actions_come_out_in_the_robots_units(robot: LoadedPolicy, loaded: LoadedPolicy) -> None:
    key = jax.random.key(3)
    unit, action = loaded(OBSERVATION, key), robot(OBSERVATION, key)
    np.testing.assert_allclose(action, [43 * unit[0], 5 + 5 * unit[1], 2.5], rtol=1e-6)
    actions = robot(columns()["observations"][:50] * 100)
    assert (actions >= ROBOT.box.low).all()
    assert (actions <= ROBOT.box.high).all()  # to the last bit
    np.testing.assert_allclose(ROBOT.box.to_unit(action[None])[0], [unit[0], unit[1], 0.0], atol=1e-6)
    assert robot.document["action_range"] == {
        **{"scale": [43.0, 5.0, 0.0], "offset": [0.0, 5.0, 2.5]},
        **{"low": [-43.0, 0.0, 2.5], "high": [43.0, 10.0, 2.5]},
    }
    assert robot.schema == ROBOT
    assert list(robot.schema.observation) == list(ROBOT.observation)  # in their order


def test_observations_by_name(robot: LoadedPolicy, loaded: LoadedPolicy) -> None:
    key = jax.random.key(3)
    named = {"grip": OBSERVATION[10], "joints": OBSERVATION[:7].tolist()}
    named |= {f"camera_{axis}": OBSERVATION[7 + i] for i, axis in enumerate("xyz")}
    np.testing.assert_array_equal(robot(named, key), robot(OBSERVATION, key))
    batch = columns()["observations"][:4]
    rows = {name: batch[:, start:stop].squeeze() for name, (start, stop) in ROBOT.observation.items()}
    np.testing.assert_array_equal(robot(rows, key), robot(batch, key))
    with pytest.raises(
        InputError, match=r"no 'grip', no such entry as 'gripper'; its entries are joints\[7\], camera_x"
    ):
        robot({**{name: value for name, value in named.items() if name != "grip"}, "gripper": 0.0})
    with pytest.raises(InputError, match=r"'joints' has shape \(6,\); it has 7 numbers"):
        robot({**named, "joints": OBSERVATION[:6]})
    with pytest.raises(InputError, match="different batches"):
        robot({**named, "joints": batch[:, :7]})
    with pytest.raises(
        InputError, match=r"shape \(10,\): this policy takes \(11,\) or \(batch, 11\): joints\[7\], camera_x"
    ):
        robot(np.zeros(10))
    with pytest.raises(InputError, match="no array of numbers"):
        loaded({"joints": 1.0})  # it knows no names


def test_folders_of_the_first_format_still_load(folder: Path, loaded: LoadedPolicy) -> None:
    def first_format(document: dict[str, Any]) -> None:
        document["format_version"] = 1
        del document["action_range"], document["schema"]

    rewrite(folder, first_format)
    key = jax.random.key(4)
    np.testing.assert_array_equal(load_policy(folder)(OBSERVATION, key), loaded(OBSERVATION, key))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["observation"].update(grip=[10, 12]), "not that of its policy"),
        (lambda s: s["action_high"].__setitem__(0, 44.0), "not that of its policy"),
        (lambda s: s.pop("action"), "altered schema: KeyError"),
    ],
)
def test_an_altered_schema_is_refused(tmp_path: Path, robot: LoadedPolicy, change: Any, message: str) -> None:
    save(tmp_path / "policy", robot.module, schema=ROBOT)
    rewrite(tmp_path / "policy", lambda document: change(document["schema"]))
    with pytest.raises(InputError, match=message):
        load_policy(tmp_path / "policy")


# --- no pickle ----------------------------------------------------------------------------------------------


def test_the_sources_use_no_pickle() -> None:
    forbidden = r"import.*pickle|allow_pickle(?!=False)|torch\.load|joblib|pickle\.(dump|load)|np\.save\("
    np_load = r"np\.load\((?!.*allow_pickle=False)"  # the default, but said aloud
    found = []
    for path in Path(tether.__file__).parent.rglob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(f"{forbidden}|{np_load}", line):
                found.append(f"{path}:{number}: {line.strip()}")
    assert found == []


def test_a_run_holds_no_pickle(tmp_path: Path) -> None:
    run = copy_run(tmp_path / "run")
    for path in run.rglob("*"):
        if path.is_file():
            assert path.name == ".lock" or path.suffix in {".json", ".jsonl", ".safetensors", ".png"}, path
            data = path.read_bytes()
            begins_with_length = path.suffix == ".safetensors" and data[8:9] == b"{"  # which may be any bytes
            assert begins_with_length or data[:2] not in {b"PK", *(b"\x80" + bytes([n]) for n in range(2, 6))}, path
            with pytest.raises((ValueError, UnicodeDecodeError, AttributeError, IndexError)):
                list(pickletools.genops(data))
