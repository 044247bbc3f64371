"""A run from start to end: what it writes, what its numbers depend on, and what happens when lanes diverge."""

import contextlib
import gc
import json
import math
import shutil
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from make_data import (
    OPTIONS,
    PRETRAIN,
    SETTINGS,
    TRAIN,
    algorithm,
    columns,
    data_file,
    digest,
    finished_run,
    last_state,
    rows,
    snapshot,
    tether,
    write_d4rl,
)

from tether import InputError, Options, api, load_dataset, load_policy, resume, train
from tether.data import Dataset
from tether.environments import get_task
from tether.evaluation.rollout import Episodes
from tether.evaluation.statistics import interquartile_mean
from tether.runs import evaluations
from tether.runs import run as run_module
from tether.runs.records import Display
from tether.training.groups import LaneGroups

FROZEN_SWEEP = ["--sweep", "learning_rate=3e-4,1e30"]


def lane_policy(folder: Path, lane: int) -> str:
    return digest(folder / "policies" / f"lane-{lane}" / "policy.safetensors")


# --- the folder ---------------------------------------------------------------------------------------------


def test_files_of_a_run() -> None:
    checkpoints = [f"checkpoints/train-{update:09d}" for update in (200, TRAIN)]
    assert set(snapshot(finished_run())) - {".lock"} == {
        "config.json",
        "metrics.jsonl",
        "evaluations.jsonl",
        "timeline.jsonl",
        "curve.png",
        "result.json",
        *(f"{folder}/{name}" for folder in checkpoints for name in ("state.safetensors", "manifest.json")),
        *(
            f"{folder}/{name}"
            for folder in ("policy", "policies/lane-0", "policies/lane-1")
            for name in ("policy.json", "policy.safetensors", "trust.safetensors")
        ),
    }
    assert (finished_run() / "curve.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_config_rebuilds_the_run() -> None:
    config = json.loads((finished_run() / "config.json").read_text())
    assert config["algorithm"] == "dtql"
    assert config["hyperparameters"]["hidden_sizes"] == [16, 16]
    assert config["hyperparameters"]["candidates"] == 8
    assert config["phases"] == [{"name": "pretrain", "updates": PRETRAIN}, {"name": "train", "updates": TRAIN}]
    assert config["lanes"] == [{"seed": 0, "settings": {}}, {"seed": 1, "settings": {}}]
    assert config["settings"]["batch_size"] == 32
    data = config["data"]
    assert (data["dataset"], data["source"], data["sha256"]) == ("hopper-medium", str(data_file()), digest(data_file()))
    assert (data["rows"], data["transitions"]) == (400, 396)  # four time-outs end no transition
    assert data["reward_transform"] == {"name": "none"}
    assert data["normaliser"] == {"mean": [0.0] * 11, "std": [1.0] * 11}
    assert config["environment"] == "hopper"
    assert {"tether", "jax", "numpy", "gymnasium", "mujoco"} <= set(config["versions"])
    assert len(config["commit"] or "0" * 40) == 40


def test_metrics_have_a_row_per_lane_and_interval() -> None:
    metrics = rows(finished_run() / "metrics.jsonl")
    expected = [("pretrain", update) for update in (70, 140, 150)] + [("train", u) for u in (70, 140, 210, 250)]
    assert [(row["phase"], row["update"], row["lane"]) for row in metrics] == [
        (phase, update, lane) for phase, update in expected for lane in (0, 1)
    ]
    for row in metrics:
        names = {"critic/q_loss", "critic/value_loss", "denoiser/loss"}
        assert names <= set(row)
        assert ("actor/loss" in row) == (row["phase"] == "train")
        assert all(isinstance(value, float) and math.isfinite(value) for name, value in row.items() if "/" in name)


def test_evaluations_have_a_row_per_episode() -> None:
    evaluations = rows(finished_run() / "evaluations.jsonl")
    assert [(row["update"], row["lane"], row["episode"]) for row in evaluations] == [
        (update, lane, episode) for update in (100, 200, 250) for lane in (0, 1) for episode in (0, 1)
    ]
    task = get_task("hopper")
    for row in evaluations:
        assert row["normalized_score"] == pytest.approx(float(task.normalized_score(row["return"])))
        assert 1 <= row["length"] <= 1000


def test_result_summarises_the_evaluations() -> None:
    result = json.loads((finished_run() / "result.json").read_text())
    evaluations = rows(finished_run() / "evaluations.jsonl")
    last = [row for row in evaluations if row["update"] == TRAIN]
    scores = np.array([row["normalized_score"] for row in last])
    assert (result["algorithm"], result["dataset"], result["status"]) == ("dtql", "hopper-medium", "done")
    assert [lane["seed"] for lane in result["lanes"]] == [0, 1]
    for index, lane in enumerate(result["lanes"]):
        assert lane["returns"] == [row["return"] for row in last if row["lane"] == index]
        assert lane["normalized_score"] == pytest.approx(scores.reshape(2, 2)[index].mean())
        assert lane["diverged"] is None
    assert result["iqm"] == result["last"]["iqm"] == pytest.approx(interquartile_mean(scores))
    assert result["ci95"][0] <= result["iqm"] <= result["ci95"][1]
    means = {u: np.mean([r["normalized_score"] for r in evaluations if r["update"] == u]) for u in (100, 200, 250)}
    assert result["best"]["update"] == max(means, key=lambda update: means[update])
    assert result["best"]["mean"] == pytest.approx(max(means.values()))
    assert result["updates"] == TRAIN
    assert result["updates_per_second"] > 0
    assert result["wall_seconds"] >= result["compile_seconds"] + result["evaluation_seconds"] > 0


def test_behaviour_row_is_the_data_sets_own_score() -> None:
    returns = columns()["rewards"].reshape(4, 100).sum(axis=1)
    behaviour = json.loads((finished_run() / "result.json").read_text())["behaviour"]
    assert behaviour["mean"] == pytest.approx(float(get_task("hopper").normalized_score(returns).mean()), abs=1e-4)
    assert (behaviour["lanes"], behaviour["episodes"]) == (1, 4)


def test_policy_is_that_of_the_best_lane() -> None:
    result = json.loads((finished_run() / "result.json").read_text())
    scores = [lane["normalized_score"] for lane in result["lanes"]]
    assert digest(finished_run() / "policy" / "policy.safetensors") == lane_policy(
        finished_run(), scores.index(max(scores))
    )
    assert load_policy(finished_run()).document["notes"]["update"] == TRAIN


# --- what the numbers depend on -----------------------------------------------------------------------------


@pytest.mark.long
def test_cutting_into_pieces_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "PIECE_UPDATES", 33)
    paces = slow_training(monkeypatch, piece_seconds=(10.0, 100.0))
    settings = Options(32, eval_every_updates=1000, eval_episodes=1, log_every_updates=41, checkpoint_every_updates=60)
    train(algorithm(), str(data_file()), seeds=2, options=settings, out=tmp_path / "run", quiet=True)
    assert last_state(tmp_path / "run") == last_state(finished_run())
    assert len(rows(tmp_path / "run" / "evaluations.jsonl")) == 2  # the end is always evaluated
    ours, theirs = rows(tmp_path / "run" / "metrics.jsonl"), rows(finished_run() / "metrics.jsonl")
    total = {}
    for name, table, every in (("ours", ours, 41), ("theirs", theirs, 70)):
        kept = [row for row in table if row["phase"] == "train" and row["lane"] == 1]
        weights = [min(every, row["update"]) if row["update"] % every == 0 else row["update"] % every for row in kept]
        total[name] = np.dot(weights, [row["critic/q_loss"] for row in kept])
    assert total["ours"] == pytest.approx(total["theirs"], rel=1e-4)  # every update is in exactly one row
    assert max(paces) > 1, paces
    assert paces[-1] < 33 / 100, paces  # the pace shown is the phase's own, not a mean over both


def slow_training(monkeypatch: pytest.MonkeyPatch, piece_seconds: tuple[float, ...]) -> list[float]:
    """A run's clock says that a piece of each phase took so long -> the paces shown, as they come."""
    passed, paces = [0.0], list[float]()
    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + passed[0])
    run_piece = LaneGroups.run

    def run(self: LaneGroups, *arguments: Any, phase: int, **options: Any) -> Any:
        passed[0] += piece_seconds[phase]
        return run_piece(self, *arguments, phase=phase, **options)

    monkeypatch.setattr(run_module, "time", clock)
    monkeypatch.setattr(LaneGroups, "run", run)
    monkeypatch.setattr(Display, "advance", lambda self, done, pace=None: paces.append(pace))
    return paces


def test_seeds_and_sweeps_are_lanes(tmp_path: Path) -> None:
    assert lane_policy(finished_run(), 0) != lane_policy(finished_run(), 1)
    sweep = {"learning_rate": [3e-4, 1e-3]}
    out = tmp_path / "sweep"
    report = train(algorithm(), str(data_file()), sweep=sweep, options=SETTINGS, out=out, quiet=True)
    assert lane_policy(out, 0) == lane_policy(finished_run(), 0)  # seed 0 at the default rate
    assert lane_policy(out, 1) not in (lane_policy(finished_run(), 0), lane_policy(finished_run(), 1))
    lanes = json.loads((out / "result.json").read_text())["lanes"]
    assert [lane["settings"] for lane in lanes] == [{"learning_rate": 3e-4}, {"learning_rate": 1e-3}]
    assert list(report.last_by_arm) == ["learning_rate 0.0003", "learning_rate 0.001"]
    document = json.loads((out / "policies" / "lane-1" / "policy.json").read_text())
    assert document["hyperparameters"]["learning_rate"] == 1e-3


@pytest.mark.long  # compiles the program of one lane
def test_a_lane_alone_is_the_lane_among_others(tmp_path: Path) -> None:
    train(algorithm(), str(data_file()), seeds=[1], options=SETTINGS, out=tmp_path / "one", quiet=True)
    assert digest(tmp_path / "one" / "policy" / "policy.safetensors") == lane_policy(finished_run(), 1)
    assert not (tmp_path / "one" / "policies").exists()


# --- an environment that is not in the table ----------------------------------------------------------------


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pendulum")
    collect = "data", "collect", "Pendulum-v1", "--policy", "random", "--rows", 400, "--quiet", "--out", folder
    assert tether(*collect)[0] == 0
    return folder / "pendulum-v1-random.hdf5"


BRIEF = "--updates", 20, "--batch-size", 32, "--eval-episodes", 2, "--set", "hidden_sizes=16,16"


def test_collected_data_are_evaluated_where_they_were_collected_and_scored_by_returns(
    pendulum: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, printed, progress = tether("train", "bc", pendulum, *BRIEF, "--out", out)
    assert code == 0, progress
    assert "run: return" in printed
    assert "normalised" not in printed
    assert json.loads((out / "config.json").read_text())["environment"] == "Pendulum-v1"
    result, played = json.loads((out / "result.json").read_text()), rows(out / "evaluations.jsonl")
    last = [row for row in played if row["update"] == 20]
    assert {row["length"] for row in last} == {200}  # Pendulum's horizon
    assert all(-200 * 17 < row["return"] < 0 and row["normalized_score"] is None for row in last)
    assert result["last"]["mean"] == pytest.approx(np.mean([row["return"] for row in last]))
    assert (result["lanes"][0]["score"], result["lanes"][0]["normalized_score"]) == (result["last"]["mean"], None)
    behaviour = load_dataset(str(pendulum)).episode_returns()
    assert result["behaviour"]["mean"] == pytest.approx(behaviour.mean())
    assert (out / "curve.png").exists()
    code, printed, _ = tether("evaluate", out, "--episodes", 2)
    assert code == 0
    renamed = tmp_path / "mine.hdf5"
    renamed.write_bytes(pendulum.read_bytes())
    task = load_dataset(str(renamed)).recorded_in
    assert task is not None
    assert (task.name, task.horizon) == ("Pendulum-v1", 200)
    assert json.loads((out / "evaluate-20-2.json").read_text())["returns"] == [[row["return"] for row in last]]


def test_any_gymnasium_id_can_be_asked_for(pendulum: Path, tmp_path: Path) -> None:
    for name, problem in {
        "Pendulum-v11": "unknown environment 'Pendulum-v11'",
        "Hopper-v5": "environment 'Hopper-v5' has 11 and 3; name another",
        "CartPole-v1": "its actions are Discrete",
    }.items():
        code, _, errors = tether("train", "bc", pendulum, *BRIEF, "--environment", name, "--out", tmp_path / "no")
        assert (code, problem in errors, errors.count("\n")) == (2, True, 1), errors
    code, _, progress = tether(
        "train", "bc", pendulum, *BRIEF, "--environment", "Pendulum-v1", "--out", tmp_path / "run"
    )
    assert code == 0, progress
    assert tether("compare", "--data", pendulum, "--algorithms", "bc", "--seeds", 1, "--updates", 20, "--eval-episodes",
                  1, "--out", tmp_path / "compared")[0] == 0  # fmt: skip
    assert "of the returns over seeds" in (tmp_path / "compared" / "comparison.md").read_text()


def test_without_the_simulator_a_known_task_is_trained_and_one_line_says_why_it_is_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gymnasium

    def missing(*_: Any, **__: Any) -> None:
        raise gymnasium.error.DependencyNotInstalled("MuJoCo is not installed, run `pip install mujoco`")

    monkeypatch.setattr(gymnasium, "make", missing)
    out = tmp_path / "run"
    code, _, progress = tether("train", "bc", data_file(), *BRIEF, "--out", out)
    assert code == 0, progress
    said = [line for line in progress.splitlines() if "without evaluation" in line]
    assert len(said) == 1
    assert "environment hopper: DependencyNotInstalled MuJoCo is not installed, run `pip install mujoco`" in said[0]
    assert (out / "policy" / "policy.safetensors").exists()
    code, _, errors = tether("train", "bc", data_file(), *BRIEF, "--environment", "hopper", "--out", tmp_path / "asked")
    assert (code, errors.count("\n")) == (2, 1)
    assert "MuJoCo is not installed" in errors


# --- no environment -----------------------------------------------------------------------------------------


def test_without_an_environment_it_trains_and_says_so(tmp_path: Path) -> None:
    source, out = write_d4rl(tmp_path / "mystery.hdf5"), tmp_path / "run"
    code, printed, progress = tether("train", "dtql", source, *OPTIONS, "--seeds", 2, "--out", out)
    assert code == 0
    assert "no environment is known" in progress
    assert f"policy  {out / 'policy'}" in printed
    assert last_state(out) == last_state(finished_run())
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "done"
    assert [result[name] for name in ("iqm", "ci95", "behaviour", "last", "best")] == [None] * 5
    assert [lane["normalized_score"] for lane in result["lanes"]] == [None, None]
    assert not (out / "evaluations.jsonl").exists()
    assert not (out / "curve.png").exists()
    code, printed, errors = tether("evaluate", out)
    assert (code, printed) == (2, "")
    assert "names no environment" in errors
    code, printed, _ = tether("plot", out)  # nothing was scored, so the losses are drawn
    assert (code, printed) == (0, f"{out / 'losses.png'}\n")


# --- divergence ---------------------------------------------------------------------------------------------


def test_a_diverging_lane_is_frozen_and_the_other_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, printed, progress = tether("train", "dtql", data_file(), *OPTIONS, *FROZEN_SWEEP, "--out", out)
    assert code == 1
    assert "lane 1 (seed 0, learning_rate 1e+30) turned non-finite in pretrain update" in progress
    assert progress.splitlines()[-1].startswith("tether: diverged: lane 1 in pretrain update")
    assert "learning_rate 0.0003" in printed
    assert lane_policy(out, 0) == lane_policy(finished_run(), 0)
    assert not (out / "policies" / "lane-1").exists()
    assert digest(out / "policy" / "policy.safetensors") == lane_policy(out, 0)

    metrics = rows(out / "metrics.jsonl")
    kept, lost = ([row for row in metrics if row["lane"] == lane] for lane in (0, 1))
    baseline = [row for row in rows(finished_run() / "metrics.jsonl") if row["lane"] == 0]
    assert kept == baseline
    assert [(row["phase"], row["update"]) for row in lost] == [("pretrain", 70)]  # where it ended, and no further
    assert None in lost[0].values()

    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "partly-diverged"
    assert result["last"]["lanes"] == 1
    assert result["lanes"][1]["normalized_score"] is None
    assert result["lanes"][1]["returns"] == []
    assert result["lanes"][1]["diverged"].startswith("pretrain update ")
    assert {row["lane"] for row in rows(out / "evaluations.jsonl")} == {0}

    before = outcome_without_second_lane(out)
    assert tether("resume", out)[0] == 1
    assert outcome_without_second_lane(out) == before
    code, printed, errors = tether("evaluate", out, "--episodes", 2, "--quiet")
    assert code == 1
    assert "diverged" in printed
    assert errors == "tether: 1 of 2 lanes diverged\n"


def outcome_without_second_lane(folder: Path) -> dict[str, str]:
    names = ["metrics.jsonl", "evaluations.jsonl", "policy/policy.safetensors"]
    return {name: digest(folder / name) for name in names} | {"state": last_state(folder)}


def test_all_lanes_diverge(tmp_path: Path) -> None:
    out = tmp_path / "run"
    sweep = ["--sweep", "learning_rate=1e30,1e31"]
    code, printed, progress = tether("train", "dtql", data_file(), *OPTIONS, *sweep, "--out", out)
    assert code == 1
    assert progress.splitlines()[-1].endswith("no lane is left, so there is no policy")
    assert "policy" not in printed
    assert not (out / "policy").exists()
    assert not (out / "policies").exists()
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "diverged"
    assert [result[name] for name in ("iqm", "ci95", "last", "best")] == [None] * 4
    assert result["updates"] == 0
    before = digest(out / "metrics.jsonl")
    assert tether("resume", out)[0] == 1
    assert digest(out / "metrics.jsonl") == before
    code, _, errors = tether("evaluate", out)
    assert code == 2
    assert "every lane diverged" in errors


def test_a_return_that_is_no_number_freezes_the_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = evaluations.rollout

    def rollout(*arguments: Any, **how: Any) -> Episodes:
        outcome = real(*arguments, **how)
        outcome.returns[1:, 0] = np.nan  # of the second lane, as long as it is played
        return outcome

    monkeypatch.setattr(evaluations, "rollout", rollout)
    report = train(algorithm(), str(data_file()), seeds=2, options=SETTINGS, out=tmp_path / "run", quiet=True)
    assert report.status == "partly-diverged"
    assert report.diverged == {1: "train update 100"}
    assert lane_policy(tmp_path / "run", 0) == lane_policy(finished_run(), 0)
    metrics = rows(tmp_path / "run" / "metrics.jsonl")
    last = max(row["update"] for row in metrics if row["lane"] == 1 and row["phase"] == "train")
    assert last == 250  # of the interval that ends where that evaluation is applied: at the second one after it
    assert {row["lane"] for row in rows(tmp_path / "run" / "evaluations.jsonl")} == {0}


def test_warnings_are_shown_when_quiet(tmp_path: Path) -> None:
    arguments = ["train", "dtql", data_file(), *OPTIONS, *FROZEN_SWEEP, "--quiet", "--environment", "none"]
    code, _, errors = tether(*arguments, "--out", tmp_path / "run")
    assert code == 1
    first, second = errors.splitlines()
    assert first.startswith("lane 1 (seed 0, learning_rate 1e+30) turned non-finite")
    assert second.startswith("tether: diverged: lane 1")


# --- memory -------------------------------------------------------------------------------------------------


def test_the_data_set_is_freed_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(source: str, **_: Any) -> Dataset:
        data = load_dataset(source)
        loaded.append(weakref.ref(data))
        return data

    def execute(self: run_module.Run) -> None:
        gc.collect()
        assert [reference() for reference in loaded] == [None]
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "load_dataset", load)
    monkeypatch.setattr(run_module.Run, "execute", execute)
    with contextlib.suppress(KeyboardInterrupt):
        train(algorithm(), str(data_file()), seeds=2, options=SETTINGS, out=tmp_path / "run", quiet=True)
    assert len(loaded) == 1


# --- D4RL by name -------------------------------------------------------------------------------------------


def test_a_run_on_d4rl_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains as on the same file by its path, and finds its data again by the name, or says what is missing."""
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TETHER_OFFLINE", "1")
    cached = tmp_path / "cache" / "d4rl" / "gym_mujoco_v2" / "hopper_medium-v2.hdf5"
    cached.parent.mkdir(parents=True)
    shutil.copy(data_file(), cached)
    source = "d4rl:hopper-medium-v2"
    report = train(algorithm(), source, seeds=2, options=SETTINGS, out=tmp_path / "run", quiet=True)
    assert last_state(report.folder) == last_state(finished_run())
    config = json.loads((report.folder / "config.json").read_text())
    assert (config["data"]["source"], config["data"]["dataset"]) == (source, "hopper-medium-v2")
    assert resume(report.folder, quiet=True).last == report.last
    cached.unlink()
    with pytest.raises(InputError, match=f"'hopper-medium-v2': offline .*there is no file {cached}; put it there"):
        resume(report.folder, quiet=True)
