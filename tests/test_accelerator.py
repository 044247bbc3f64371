"""The script for minutes on an accelerator, with small settings on a CPU."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accelerator


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_plan_begins_with_what_says_most() -> None:
    plan = list(accelerator.plan(("dtql", "iql"), ("halfcheetah", "hopper"), (1, 8, 32, 4), ("float32", "tf32")))
    assert plan[0] == ("halfcheetah", "float32", "dtql", 1)
    assert plan.index(("halfcheetah", "float32", "iql", 0)) < plan.index(("halfcheetah", "tf32", "dtql", 8))
    assert len(plan) == len(set(plan)) == 2 * 2 * 2 * 4 + 2 * 2  # sizes, precisions, algorithms, lanes; acting


def test_rows_as_they_come_and_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, run = tmp_path / "rows.jsonl", tmp_path / "run"
    how = ["--minutes", "5", "--algorithms", "bc", "--sizes", "hopper", "--lanes", "1", "2", "--precisions", "float32"]
    small = ["--seconds", "0.05", "--run-lanes", "1", "--out", str(out), "--run-folder", str(run)]
    trained = []
    monkeypatch.setattr(accelerator, "train", lambda rows, *about: trained.append(about))
    accelerator.main([*how, *small])
    rows = read(out)
    assert [row["what"] for row in rows] == ["machine", "train", "train", "act"]
    assert rows[2]["updates_per_second_and_lane"] == rows[2]["updates_per_second"] / 2
    for name in ("memory_bytes", "compile_seconds", "fraction_of_matmul_rate"):
        assert rows[1][name] > 0
    assert rows[0]["machine"]["backend"] == "cpu"
    ((data, folder, lanes, _),) = trained
    assert (data, folder, lanes) == ("halfcheetah-medium-replay-small", run, 1)
    accelerator.main([*how, *small, "--minutes", "0"])
    assert read(out)[-1] == {"what": "left out", "rows": [["hopper", "float32", "bc", lanes] for lanes in (1, 2, 0)]}


def test_a_row_that_would_end_too_late_is_left_out_and_shorter_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, costs = [0.0], {"bdpo": 40.0, "bc": 5.0}
    monkeypatch.setattr(accelerator.time, "monotonic", lambda: now[0])

    def measure(size: str, precision: str, algorithm: str, lanes: int, seconds: float) -> dict[str, Any]:
        now[0] += costs[algorithm]
        return {"what": "train", "algorithm": algorithm, "lanes": lanes}

    monkeypatch.setattr(accelerator, "measure", measure)
    out = tmp_path / "rows.jsonl"
    how = ["--minutes", "1.6", "--algorithms", "bdpo", "bc", "--sizes", "hopper", "--lanes", "1", "8"]
    accelerator.main([*how, "--precisions", "float32", "--out", str(out), "--run-folder", "none"])
    rows = [(row["algorithm"], row["lanes"]) for row in read(out) if row["what"] == "train"]
    assert rows == [("bdpo", 1), ("bc", 1), ("bdpo", 8), ("bc", 8), ("bc", 0)]  # 95 of 96 seconds
    assert read(out)[-1] == {"what": "left out", "rows": [["hopper", "float32", "bdpo", 0]]}


def test_faults_are_rows(tmp_path: Path) -> None:
    for precision in ("float64", "tf32"):  # there is none; a CPU has none
        row = accelerator.measure("hopper", precision, "bc", 1, 0.1)
        assert row["what"] == "fault"
        assert precision in row["fault"]


def test_two_thirds_of_the_time_are_left_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow a CPU's evaluation of 8 lanes with 1024 candidates would be; and a fault of the run is a row."""
    seen: dict[str, Any] = {}

    def train(algorithm: Any, data: str, **arguments: Any) -> None:
        seen.update(arguments, pretrain_updates=algorithm.pretrain_updates, began=time.monotonic())
        raise RuntimeError("out of memory")

    monkeypatch.setattr(accelerator.tether, "train", train)
    out = tmp_path / "rows.jsonl"
    accelerator.main(["--minutes", "3", "--algorithms", "--out", str(out), "--run-folder", str(tmp_path / "run")])
    (deadline,) = seen["callbacks"]
    assert deadline.at - seen["began"] > 90
    assert seen["pretrain_updates"] == 10_000
    assert read(out)[-1]["fault"] == "RuntimeError: out of memory"


@pytest.mark.long
def test_a_run_ends_with_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tether

    small = tether.find_preset(
        "dtql", "halfcheetah-medium-v2", hidden_sizes=(8,), denoiser_hidden_sizes=(8,), pretrain_updates=0, candidates=2
    )
    quick = small._replace(
        arguments=small.arguments | {"options": tether.Options(log_every_updates=5, eval_episodes=1)}
    )
    monkeypatch.setattr(tether, "find_preset", lambda *_: quick)
    rows = accelerator.Rows(tmp_path / "rows.jsonl")
    accelerator.train(rows, "halfcheetah-medium-replay-small", tmp_path / "run", 1, deadline=0.0)
    (row,) = read(tmp_path / "rows.jsonl")
    assert row["status"] == "stopped-early"
    assert 0 < row["updates"] < 200
