"""What tether 0.1.0 has written is read, evaluated and gone on with: fixtures/written_by_0_1_0, see its README.

Only what users call is used here. Numbers come from another processor and another version of the code, so they are
compared up to the last bits of float32 and what training makes of these; counts, names and files exactly.
"""

import dataclasses
import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from make_data import rows, tether

import tether as package

OLD = Path(__file__).parent / "fixtures" / "written_by_0_1_0"
EXPECTED = json.loads((OLD / "expected.json").read_text())
PNG = b"\x89PNG\r\n"
LAST_BITS = {"rtol": 1e-5, "atol": 1e-6}  # fifty times what code without optimisation makes of them
PLAYED = 1e-3  # of a return: a thousand steps of a simulator add to them

POLICIES = sorted(name for name in EXPECTED["policies"] if "uninterrupted" not in name and "longer" not in name)
ARM = ["--observation", "joint_*", "grip", "target", "--action", "torque", "heat"]
ARM += ["--reward=-abs(joint_0 - target) - abs(joint_1 - target)", "--episode", "run", "--terminal", "fault"]
ARM += ["--time", "time", "--action-low", -10, 1, "--action-high", 40, 3]
SWINGS = ["Pendulum-v1", "--rows", 200, "--steps", 400, "--checkpoint-at=-2000", "--random-steps", 100]
SWINGS += ["--batch-size", 16, "--eval-every-steps", 200, "--eval-episodes", 1, "--set", "hidden_sizes=8"]


def copied(name: str, tmp_path: Path) -> Path:
    """A copy that may be written to, under another path than it was made at."""
    return Path(shutil.copytree(OLD / name, tmp_path / Path(name).name))


def unpacked(name: str, tmp_path: Path) -> Path:
    """A data set, where it is packed unpacked."""
    if (OLD / name).exists():
        return OLD / name
    path = tmp_path / name
    path.write_bytes(gzip.decompress((OLD / f"{name}.gz").read_bytes()))
    return path


def succeed(*arguments: Any) -> str:
    """What the command prints."""
    code, out, err = tether(*arguments)
    assert code == 0, err
    return out


def assert_same_rows(found: Path, expected: Path) -> None:
    """Metrics at the same places, with the same numbers."""
    for row, wanted in zip(rows(found), rows(expected), strict=True):
        assert row.keys() == wanted.keys()
        for name, value in wanted.items():
            if name in ("phase", "update", "lane"):
                assert row[name] == value
            else:
                np.testing.assert_allclose(row[name], value, **LAST_BITS, err_msg=name)  # pyright: ignore[reportCallIssue]


def assert_same_episodes(found: Path, expected: Path) -> None:
    """Evaluations of the same lanes at the same updates, with about the same returns."""
    found_rows, expected_rows = rows(found), rows(expected)
    for name in ("update", "lane", "episode", "length"):
        assert [row[name] for row in found_rows] == [row[name] for row in expected_rows]
    for name in ("return", "normalized_score"):
        assert [row[name] for row in found_rows] == pytest.approx([row[name] for row in expected_rows], rel=PLAYED)


def assert_same_policies(found: Path, expected: Path) -> None:
    """Below both folders the same policies, with the same arrays."""
    names = [path.relative_to(expected) for path in sorted(expected.rglob("policy.safetensors"))]
    assert names
    for name in names:
        arrays, wanted = (safetensors.numpy.load_file(folder / name) for folder in (found, expected))
        assert arrays.keys() == wanted.keys()
        for entry, array in wanted.items():
            np.testing.assert_allclose(arrays[entry], array, **LAST_BITS, err_msg=f"{name} {entry}")  # pyright: ignore[reportCallIssue]
        package.load_policy((found / name).parent)


# --- runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "updates"), [pytest.param("dtql", 400, marks=pytest.mark.long), ("awac", 100)])
def test_a_stopped_run_ends_as_if_it_had_not_stopped(tmp_path: Path, name: str, updates: int) -> None:
    run, whole = copied(f"stopped/{name}", tmp_path), OLD / "uninterrupted" / name
    report = package.resume(run, quiet=True, eval_workers=0)
    assert (report.status, report.updates) == ("done", updates)
    assert_same_rows(run / "metrics.jsonl", whole / "metrics.jsonl")
    assert_same_policies(run, whole)
    if name == "awac":  # the first evaluation is by the policy in the checkpoint, which nobody had played
        assert_same_episodes(run / "evaluations.jsonl", whole / "evaluations.jsonl")


def test_a_finished_run_is_shown_again(tmp_path: Path) -> None:
    run = copied("finished", tmp_path)
    before = (run / "metrics.jsonl").read_bytes(), (run / "evaluations.jsonl").read_bytes()
    assert "policy, last (update 60)" in succeed("resume", run, "--quiet")
    assert before == ((run / "metrics.jsonl").read_bytes(), (run / "evaluations.jsonl").read_bytes())
    assert_same_policies(run, OLD / "finished")
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, OLD / "finished")]
    for entry in ("algorithm", "dataset", "score", "status", "lanes", "updates"):
        assert results[0][entry] == results[1][entry]
    assert results[0]["behaviour"] == results[1]["behaviour"] | {"statistic": "IQM"}  # unknown to tether 0.1.0


def test_a_finished_run_trains_on(tmp_path: Path) -> None:
    run = copied("finished", tmp_path)
    assert "policy, last (update 90)" in succeed("resume", run, "--updates", 90, "--quiet")
    assert_same_rows(run / "metrics.jsonl", OLD / "finished-longer" / "metrics.jsonl")
    assert_same_episodes(run / "evaluations.jsonl", OLD / "finished-longer" / "evaluations.jsonl")
    assert_same_policies(run, OLD / "finished-longer")


def test_a_finished_run_is_evaluated_and_drawn(tmp_path: Path) -> None:
    run = copied("finished", tmp_path)
    outcome, scores = package.evaluate(run, episodes=1, quiet=True)
    last = [row for row in rows(run / "evaluations.jsonl") if row["update"] == 60]  # the same episodes
    assert outcome.returns[:, 0] == pytest.approx([row["return"] for row in last], rel=PLAYED)
    assert scores[:, 0] == pytest.approx([row["normalized_score"] for row in last], rel=PLAYED)
    assert json.loads((run / "evaluate-60-1.json").read_text())["lengths"] == [[1000], [1000]]
    for picture, options in (("curve.png", []), ("timeline.png", ["--timeline"])):
        succeed("plot", run, *options)
        assert (run / picture).read_bytes().startswith(PNG)


# --- policies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_policies_act_as_they_did(name: str) -> None:
    folder = OLD / name
    assert hashlib.sha256((folder / "policy.safetensors").read_bytes()).hexdigest() == EXPECTED["policies"][name]
    policy, document = package.load_policy(folder), json.loads((folder / "policy.json").read_text())
    golden, scale = document["golden"], np.asarray(document["action_range"]["scale"])
    memory = policy.initial_memory()
    pairs = zip(golden["observations"], golden["seeds"], golden["actions"], strict=True)
    for step, (observation, seed, action) in enumerate(pairs):
        reward = golden["rewards"][step] if policy.has_memory else 0.0
        found, memory = policy.step(observation, memory, reward, key=jax.random.key(seed))
        np.testing.assert_allclose(found / scale, np.asarray(action) / scale, atol=1e-4)


def test_a_policy_takes_names_and_other_settings() -> None:
    policy = package.load_policy(OLD / "policies" / "arm")
    assert list(policy.schema.observation) == ["joint_0", "joint_1", "grip", "target"]
    assert list(policy.schema.action) == ["torque", "heat"]
    key, observation = jax.random.key(3), {"joint_0": 0.1, "joint_1": -0.2, "grip": 0.5, "target": 0.3}
    action = policy(observation, key)
    np.testing.assert_array_equal(action, policy(list(observation.values()), key))
    far = policy(np.random.default_rng(0).normal(0, 100, (50, 4)).astype(np.float32))
    assert (far >= [-10, 1]).all()
    assert (far <= [40, 3]).all()
    assert np.ptp(far[:, 0]) > 2  # in the robot's units
    assert package.load_policy(OLD / "policies" / "dtql", candidates=2)(np.zeros(17)).shape == (6,)


# --- data sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED["data"])
def test_data_sets_hold_what_they_held(tmp_path: Path, name: str) -> None:
    data = package.load_dataset(str(unpacked(name, tmp_path)))
    for column, (*shape, total) in EXPECTED["data"][name].items():
        found = getattr(data, column)
        assert list(found.shape) == shape
        assert found.sum(dtype=float) == pytest.approx(total, rel=1e-6)
    low, high = ((-10, 1), (40, 3)) if name == "arm.hdf5" else ((-2,), (2,))
    assert (tuple(data.schema.box.low), tuple(data.schema.box.high)) == (low, high)


def test_a_log_is_imported_as_it_was(tmp_path: Path) -> None:
    succeed("data", "import", OLD / "arm.csv", *ARM, "--out", tmp_path / "again.hdf5")
    before = package.load_dataset(str(unpacked("arm.hdf5", tmp_path)))
    now = package.load_dataset(str(tmp_path / "again.hdf5"))
    assert now.schema == before.schema
    for column in ("observations", "actions", "rewards", "terminals", "timeouts"):
        np.testing.assert_array_equal(getattr(now, column), getattr(before, column))


@pytest.mark.parametrize("name", ["swings/pendulum-v1-random.hdf5", "swings/minari/pendulum-v1/random-v0"])
def test_collected_data_are_trained_on_and_evaluated_where_they_are_from(tmp_path: Path, name: str) -> None:
    algorithm = package.ALGORITHMS["bc"](hidden_sizes=(8,), train_updates=10)
    options = package.Options(batch_size=16, eval_episodes=1)
    report = package.train(algorithm, str(OLD / name), options=options, out=tmp_path / "run", quiet=True)
    assert report.status == "done"
    [row] = rows(tmp_path / "run" / "evaluations.jsonl")
    assert row["length"] == 200
    assert package.load_policy(tmp_path / "run").schema.box.high == (2.0,)


def test_a_collection_goes_on(tmp_path: Path) -> None:
    folder = copied("swings", tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*.hdf5")}
    replay = package.load_dataset(str(folder / "pendulum-v1-medium-replay.hdf5"))
    out = succeed("data", "collect", *SWINGS, "--out", folder, "--kinds", "random", "full-replay", "--quiet")
    assert "pendulum-v1-full-replay.hdf5: 400 rows" in out
    assert all(path.read_bytes() == content for path, content in before.items())
    longer = package.load_dataset(str(folder / "pendulum-v1-full-replay.hdf5"))
    np.testing.assert_array_equal(longer.observations[:200], replay.observations)
    np.testing.assert_array_equal(longer.actions[:200], replay.actions)


# --- comparisons and sweeps ---------------------------------------------------------------------------------


def test_a_comparison_is_drawn_and_gone_on_with(tmp_path: Path) -> None:
    folder = copied("comparison", tmp_path)
    told = ("algorithm", "status", "updates", "last", "best", "best_update", "seed_scores", "losses")
    told += ("updates_per_second", "total_seconds", "gflop_per_update", "total_tflop", "act_ms")
    before = json.loads((folder / "comparison.json").read_text())
    for arguments in ([folder], ["--out", folder, "--quiet"]):  # nothing is left to do
        out = succeed("compare", *arguments)
        assert all(name in out for name in ("the data", "bc", "iql"))
        now = json.loads((folder / "comparison.json").read_text())
        for entry in ("entrants", "command"):
            assert now[entry] == before[entry]
        assert now["behaviour"] == before["behaviour"] | {"statistic": "IQM"}
        for row in before["rows"]:
            for summary in ("last", "best"):
                row[summary] = row[summary] and row[summary] | {"statistic": "IQM"}
        unknown = {"horizon": None, "relative_source": None, "continuous": False}  # to tether 0.1.0
        unknown |= {"framing": dataclasses.asdict(package.Framing())}
        assert now["protocol"] == before["protocol"] | unknown
        assert [[row[name] for name in told] for row in now["rows"]] == [
            [row[name] for name in told] for row in before["rows"]
        ]
        assert (folder / "comparison.png").read_bytes().startswith(PNG)


def test_a_sweep_is_shown_and_gone_on_with(tmp_path: Path) -> None:
    folder = copied("sweep", tmp_path)
    sweep = ["sweep", folder / "spec.toml", "--out", folder, "--quiet"]
    succeed(*sweep, "--table")
    for name in ("table.json", "table.csv", "lanes.csv"):
        assert (folder / name).read_bytes() == (OLD / "sweep" / name).read_bytes()
    result = folder / "jobs" / "0001-bc-halfcheetah-medium-replay-small-batch_size=32" / "result.json"
    before = json.loads(result.read_text())
    result.unlink()  # as if it had been killed before its end
    succeed(*sweep, "--job", 1)
    assert json.loads(result.read_text())["lanes"] == before["lanes"]
    succeed(*sweep, "--local")  # nothing is left to do
    assert (folder / "events.jsonl").read_bytes() == (OLD / "sweep" / "events.jsonl").read_bytes()
