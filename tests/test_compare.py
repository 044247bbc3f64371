"""`tether compare`: one protocol for all, resumable, and its table says what the run folders say."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats
from make_data import SCRATCH, columns, data_file, digest, rows, snapshot, tether, write_d4rl

from tether.algorithms import ALGORITHMS, FAMILIES
from tether.algorithms.catalogue import catalogue
from tether.data import load_dataset
from tether.errors import InputError
from tether.evaluation.statistics import aggregate
from tether.machine import start
from tether.plots.tradeoff import Point, _overlap, plot_tradeoff
from tether.runs.run import Run
from tether.studies import compare
from tether.studies.comparison import Cost, Row, best_first, points, read_row

UPDATES = 60
TINY = ["--updates", UPDATES, "--batch-size", 32, "--seeds", 2, "--eval-episodes", 2, "--eval-every-updates", 30]
TINY += ["--set", "hidden_sizes=8,8", "--quiet"]
NAMES = ("bc", "iql")


@pytest.fixture(autouse=True)
def _keep_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next test needs the same programs as this one."""
    monkeypatch.setattr(jax, "clear_caches", lambda: None)


def arguments(out: Path, *more: Any, names: tuple[str, ...] = NAMES, data: Path | None = None) -> list[Any]:
    source = data or data_file()
    return ["compare", "--data", source, "--algorithms", ",".join(names), "--out", out, *TINY, *more]


@functools.cache
def finished() -> Path:
    """A comparison without any trouble. Tests read it; those that change something copy it first."""
    code, _, err = tether(*arguments(SCRATCH / "comparison"))
    assert code == 0, err
    return SCRATCH / "comparison"


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished(), tmp_path / "copy"))


def document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "comparison.json").read_text())


def row_of(folder: Path, name: str) -> dict[str, Any]:
    return next(row for row in document(folder)["rows"] if row["algorithm"] == name)


def result_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name / "result.json").read_text())


# --- a comparison without trouble ---------------------------------------------------------------------------


def test_the_table_says_what_the_run_folders_say() -> None:
    folder = finished()
    text = (folder / "comparison.md").read_text()
    for name in NAMES:
        row, result = row_of(folder, name), result_of(folder, name)
        best = dict(result["best"])
        assert row["best_update"] == best.pop("update")
        assert (row["last"], row["best"], row["status"]) == (result["last"], best, "done")
        assert (row["updates"], row["updates_per_second"]) == (UPDATES, result["updates_per_second"])
        assert row["total_seconds"] == result["wall_seconds"]
        last, written = result["last"], next(line for line in text.splitlines() if line.startswith(f"| {name} "))
        assert (
            f"| {last['iqm']:.1f} [{last['ci95_low']:.1f}, {last['ci95_high']:.1f}] | {last['mean']:.1f} [" in written
        )
        seeds = [lane["score"] for lane in result["lanes"]]
        low, high = scipy.stats.t.interval(0.95, 1, np.mean(seeds), scipy.stats.sem(seeds))  # two seeds
        assert f"| {last['mean']:.1f} [{low:.1f}, {high:.1f}] |" in written
        assert catalogue()[name].family in written
        assert f"at {row['best_update']} |" in written
        evaluated = [r["normalized_score"] for r in rows(folder / name / "evaluations.jsonl") if r["update"] == UPDATES]
        assert row["last"]["mean"] == pytest.approx(np.mean(evaluated))
    assert document(folder)["behaviour"] == result_of(folder, "bc")["behaviour"]
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert table[2].startswith("| the data | behaviour |")
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_all_share_data_seeds_and_episodes() -> None:
    configs = [json.loads((finished() / name / "config.json").read_text()) for name in NAMES]
    for config in configs:
        assert [lane["seed"] for lane in config["lanes"]] == [0, 1]
    for what in ("settings", "environment", "lanes"):
        assert configs[0][what] == configs[1][what]
    for what in ("source", "sha256", "rows"):
        assert configs[0]["data"][what] == configs[1]["data"][what]
    places = [
        [(r["update"], r["lane"], r["episode"]) for r in rows(finished() / name / "evaluations.jsonl")]
        for name in NAMES
    ]
    assert places[0] == places[1]


def test_compute_is_counted() -> None:
    """BC: two layers of 8 between 11 and 3 numbers; forward, and backward twice as much but for the first layer."""
    row = row_of(finished(), "bc")
    forward = 2 * 32 * (11 * 8 + 8 * 8 + 8 * 3)
    assert row["gflop_per_update"] == pytest.approx((3 * forward - 2 * 32 * 11 * 8) / 1e9)
    assert row["total_tflop"] == pytest.approx(UPDATES * row["gflop_per_update"] / 1000)
    assert row_of(finished(), "iql")["gflop_per_update"] > 2 * row["gflop_per_update"]
    assert row["act_ms"] > 0


def test_its_runs_are_ordinary_ones(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    assert tether("evaluate", folder / "bc", "--episodes", 1)[0] == 0
    before = digest(folder / "bc" / "policy" / "policy.safetensors")
    assert tether("resume", folder / "bc", "--quiet")[0] == 0
    assert digest(folder / "bc" / "policy" / "policy.safetensors") == before


def test_again_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(tmp_path)
    before = {name: snapshot(folder / name) for name in NAMES}

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be trained or measured")

    for name in ("train", "resume", "_measure"):
        monkeypatch.setattr(compare, name, forbidden)
    json_before = document(folder)
    for again in (arguments(folder), ["compare", "--out", folder], ["compare", folder]):
        code, out, err = tether(*again)
        assert (code, "failed" in out + err) == (0, False), err
        for words in ("the data", *NAMES, f"table   {folder / 'comparison.md'}"):
            assert words in out
        now = document(folder)
        now["protocol"]["relative_source"] = json_before["protocol"]["relative_source"]  # the folder was moved here
        assert now == json_before
    assert {name: snapshot(folder / name) for name in NAMES} == before


def test_an_algorithm_can_be_added(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert tether(*arguments(out, names=("bc",)))[0] == 0
    before = snapshot(out / "bc")
    code, printed, err = tether(*arguments(out, names=("iql",)))
    assert code == 0, err
    assert set(document(out)["entrants"]) == set(NAMES)
    assert snapshot(out / "bc") == before
    assert all(name in printed for name in NAMES)


def test_drawing_against_time_is_another_picture(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    before = digest(folder / "comparison.png")
    assert tether("compare", folder)[0] == 0
    assert digest(folder / "comparison.png") == before
    assert tether("compare", folder, "--cost", "time")[0] == 0
    assert digest(folder / "comparison.png") != before


# --- trouble ------------------------------------------------------------------------------------------------


def outcome(folder: Path, name: str) -> dict[str, str]:
    """What must not depend on interruptions."""
    files = ["metrics.jsonl", "evaluations.jsonl", "policies/lane-0/policy.safetensors"]
    return {file: digest(folder / name / file) for file in files}


@pytest.mark.long
def test_ctrl_c_and_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, evaluate, calls = tmp_path / "out", Run._evaluate, []

    def interrupted(self: Run) -> None:
        evaluate(self)
        calls.append(self.plan.algorithm_name)
        if len(calls) == 3:  # the first of the second algorithm
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "_evaluate", interrupted)
    code, _, err = tether(*arguments(out))
    assert code == 130
    assert err.splitlines()[-1] == f"tether: stopped by SIGINT; continue with `tether compare --out {out}`"
    monkeypatch.undo()
    assert (row_of(out, "bc")["status"], row_of(out, "iql")["status"]) == ("done", "stopped")
    assert row_of(out, "iql")["updates"] == 30
    code, printed, _ = tether("compare", out)  # drawn as far as it has come
    assert code == 0
    assert "stopped, evaluated at 30" in printed
    before = snapshot(out / "bc")
    assert tether("compare", "--out", out, "--quiet")[0] == 0
    assert snapshot(out / "bc") == before
    assert outcome(out, "iql") == outcome(finished(), "iql")
    assert row_of(out, "iql")["last"] == row_of(finished(), "iql")["last"]


VICTIM = """
import os, signal, sys
from tether import cli
from tether.runs.run import Run
evaluate, calls = Run._evaluate, []
def killed(self):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    evaluate(self)
Run._evaluate = killed
cli.main(sys.argv[1:])
"""


@pytest.mark.long
def test_sigkill_and_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", VICTIM, *map(str, arguments(out))]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert not (out / "iql" / "result.json").exists()
    code, _, err = tether(*arguments(out))
    assert code == 0, err
    for name in NAMES:
        assert outcome(out, name) == outcome(finished(), name)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell when a process began")
def test_each_start_counts_from_its_own_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_began", 0.0)  # as in a process of the command's own
    began = time.perf_counter()
    code, _, err = tether(*arguments(tmp_path / "out"))
    assert code == 0, err
    results = [json.loads((tmp_path / "out" / name / "result.json").read_text()) for name in NAMES]
    starts = [result["seconds_to_first_update"] for result in results]
    assert min(starts) > 0
    assert sum(starts) < time.perf_counter() - began + 0.1  # the system counts in hundredths


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, train = tmp_path / "out", compare.train

    def failing(algorithm: Any, *args: Any, **options: Any) -> Any:
        if isinstance(algorithm, ALGORITHMS["bc"]):
            raise RuntimeError("out of\nmemory")
        return train(algorithm, *args, **options)

    monkeypatch.setattr(compare, "train", failing)
    code, printed, err = tether(*arguments(out))
    assert code == 1
    assert "bc failed: RuntimeError: out of memory (bc-error.txt); the others go on" in err
    assert "bc failed: RuntimeError: out of memory" in printed
    assert "failed: RuntimeError: out of memory" in (out / "comparison.md").read_text()
    assert "raise RuntimeError" in (out / "bc-error.txt").read_text()
    assert [row["status"] for row in document(out)["rows"]] == ["done", "failed"]
    monkeypatch.undo()
    code, printed, _ = tether("compare", "--out", out, "--quiet")
    assert (code, "failed" in printed) == (0, False)
    assert outcome(out, "bc") == outcome(finished(), "bc")


def test_seeds_that_diverge_are_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = ["hidden_sizes=8,8", "iql.critic_learning_rate=1e30"]
    code, printed, _ = tether(*arguments(out, names=("iql",))[:-3], "--set", *more, "--quiet")
    assert code == 1
    assert "diverged: seeds 0, 1 diverged" in printed
    assert row_of(out, "iql")["last"] is None


def test_another_comparison_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    before = snapshot(folder)
    for option, value, words in (
        ("--seeds", 3, "seeds [0, 1], not [0, 1, 2]"),
        ("--updates", 70, f"updates {UPDATES}, not 70"),
        ("--eval-episodes", 3, "eval_episodes 2, not 3"),
        ("--batch-size", 16, ": batch_size 32, not 16"),
        ("--set", "hidden_sizes=4,4", ": hidden_sizes [8, 8], not [4, 4]"),
    ):
        line = arguments(folder)
        line[line.index(option) + 1] = value
        code, _, err = tether(*line)
        assert (code, words in err) == (2, True), err
    other = write_d4rl(tmp_path / "hopper-medium.hdf5", rewards=columns()["rewards"] + 1)
    assert "sha256" in tether(*arguments(folder, data=other))[2]
    assert snapshot(folder) == before


def test_a_run_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    path = folder / "bc" / "config.json"
    config = json.loads(path.read_text())
    config["lanes"][0]["seed"] = 7
    path.write_text(json.dumps(config))
    code, printed, _ = tether("compare", "--out", folder, "--quiet")
    assert code == 1
    assert f"bc failed: {folder / 'bc'}: a run with other seeds than this comparison's" in printed
    assert row_of(folder, "bc")["last"] is None  # its score is none of this comparison's


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("reward transform", {"data": {"reward_transform": {"name": "scale"}}}),
        ("observation transform", {"data": {"observation_transform": {"name": "standardise"}}}),
        ("data filter", {"data": {"filter": {"name": "top-10%"}}}),
        ("hold-out", {"data": {"holdout": {"name": "10%"}}}),
        ("framing", {"data": {"framing": {"history": 2}}}),
        ("reading of the actions", {"data": {"continuous": True}}),
        ("horizon", {"horizon": 7}),
    ],
)
def test_a_run_on_data_that_were_changed_otherwise_is_refused(
    tmp_path: Path, words: str, changes: dict[str, Any]
) -> None:
    found = compare._load(finished())
    found = dataclasses.replace(found, folder=tmp_path)
    config, data = json.loads((finished() / "bc" / "config.json").read_text()), load_dataset(str(data_file()))
    (tmp_path / "bc").mkdir()
    path = tmp_path / "bc" / "config.json"
    path.write_text(json.dumps(config))
    compare._check_run(found, "bc", data)
    path.write_text(json.dumps({**config, **changes, "data": {**config["data"], **changes.get("data", {})}}))
    with pytest.raises(InputError, match=f"bc: a run with other {words} than this comparison's; move it away"):
        compare._check_run(found, "bc", data)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([], "name --data and --algorithms"),
        (["--data", "x", "--out", "o"], "name --data and --algorithms"),
        (["--data", "nothing.hdf5", "--algorithms", "bc"], "nothing.hdf5: no such file"),
        (["--data", "DATA", "--algorithms", "bc,td3bc"], "unknown algorithm 'td3bc'; did you mean td3-bc"),
        (["--data", "DATA", "--algorithms", ","], "at least one is needed"),
        (["--data", "DATA", "--algorithms", "bc,bc"], "each may stand once"),
        (["--data", "DATA", "--algorithms", "bc", "--seeds", "0"], "at least 1"),
        (["--data", "DATA", "--algorithms", "bc", "--updates", "0"], "updates 0"),
        (["--data", "DATA", "--algorithms", "bc", "--eval-episodes", "0"], "eval_episodes 0"),
        (["--data", "DATA", "--algorithms", "bc", "--preset", "hoper-medium-v2"], "did you mean hopper-medium"),
        (["--data", "DATA", "--algorithms", "bc", "--set", "expectile"], "write ALGORITHM.NAME=VALUE"),
        (["--data", "DATA", "--algorithms", "bc", "--set", "expectile=0.9"], "unknown hyper-parameter 'expectile'"),
        (["--data", "DATA", "--algorithms", "bc", "--set", "bc.expectile=0.9"], "unknown hyper-parameter 'expectile'"),
        (["--data", "DATA", "--algorithms", "bc", "--set", "iql.expectile=0.9"], "unknown algorithm of --set"),
        (["--data", "DATA", "--algorithms", "bc", "--set", "bc.learning_rate=fast"], "expected a finite number"),
        (["--data", "DATA", "--algorithms", "bc", "--environment", "hoper"], "did you mean hopper"),
        (["--data", "DATA", "--algorithms", "bc", "--preset", "x", "--preset-less"], "exclude each other"),
        (["--out", "nowhere"], "not a comparison"),
        (["nowhere"], "not a comparison"),
        (["nowhere", "--seeds", "5"], "--seeds: DIR alone draws"),
        (["--out", "nowhere", "--eval-episodes", "5"], "--eval-episodes: nowhere goes on as it began"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = tether("compare", *[str(data_file()) if word == "DATA" else word for word in line])
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_folders_that_are_no_comparison_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("words")
    code, _, err = tether(*arguments(tmp_path))
    assert (code, "exists already and holds no comparison" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    folder = copied(tmp_path)
    (folder / "comparison.json").write_text('{"format_version": 1}')
    assert "truncated or altered" in tether("compare", folder)[2]
    (folder / "comparison.json").write_text('{"format_version": 9}')
    assert "this version of tether reads 1" in tether("compare", folder)[2]


def test_comparisons_of_one_second_have_their_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that begins where another has just begun must not join it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "fresh_folder", lambda _: Path("runs/mine"))
    monkeypatch.setattr(compare, "_train_all", lambda asked, *_: asked)
    request = compare.Request(str(data_file()), ("bc",))
    made = [compare.start_comparison(request, None, quiet=True).folder.name for _ in range(2)]
    assert made == ["mine", "mine-2"]


def test_without_an_environment_values_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "choose", functools.partial(compare.choose, updates=64, members=2))
    out = tmp_path / "out"
    code, printed, err = tether(*arguments(out, names=("bc",), data=write_d4rl(tmp_path / "mine.hdf5")))
    assert code == 0, err
    assert printed.count("no environment is known for mine, so there are values estimated from the data") == 1
    assert not (out / "comparison.png").exists()
    last = [row["actor/loss"] for row in rows(out / "bc" / "metrics.jsonl") if row["update"] == UPDATES]
    assert len(last) == 2
    assert row_of(out, "bc")["losses"] == {"actor/loss": pytest.approx(np.mean(last))}
    assert f"actor/loss {np.mean(last):.3g}" in printed
    assert "| the data" not in printed
    choice, row = json.loads((out / "choice.json").read_text()), row_of(out, "bc")
    best = next(one for one in choice["rows"] if not one["refused"])
    assert (row["value"], row["value_low"], row["value_high"]) == (best["value"], best["low"], best["high"])
    answer = "recommended: " if choice["recommended"] else "cannot rank these: "
    assert sum(line.startswith(answer) for line in printed.splitlines()) == 1
    _, again, _ = tether("compare", out)
    assert f"{row['value']:.1f} [" in again
    (out / "choice.json").write_text("{}")
    assert "choice.json: truncated or altered: KeyError" in tether("compare", out)[2]


# --- settings -----------------------------------------------------------------------------------------------


def planned(data: Path, *names: str, **options: Any) -> compare.Comparison:
    request = compare.Request(str(data), names, **options)
    return compare._plan(request, load_dataset(str(data)), Path("unused"))


def test_presets_and_options_in_their_order(tmp_path: Path) -> None:
    named = write_d4rl(tmp_path / "hopper-medium-v2.hdf5")
    plan = planned(
        named, "iql", "qgpo", "onestep", updates=500, pretrain_updates=20, assignments=("qgpo.discount=0.9",)
    )
    assert plan.entrants["iql"].where_from == "hopper-medium-v2, batch 256"
    assert plan.entrants["iql"].reward_transform == "iql_locomotion"
    assert plan.entrants["qgpo"].where_from.endswith("discount=0.9")
    assert plan.algorithm("qgpo").discount == 0.9
    for name in plan.entrants:
        *earlier, last = plan.algorithm(name).phases()
        assert (last.updates, {phase.updates for phase in earlier} - {20}) == (500, set())
    assert (plan.protocol.eval_every_updates, plan.protocol.eval_episodes) == (50, 10)  # no preset's: the same for all
    assert planned(named, "iql", preset="none").entrants["iql"].where_from == "defaults, batch 256"
    some = planned(data_file(), "td3-bc", "dac", preset="pen-human-v1")  # dac has none for it
    assert [entrant.preset for entrant in some.entrants.values()] == ["pen-human-v1", None]
    assert some.entrants["td3-bc"].observation_transform == "standardise"
    both = planned(data_file(), "iql", "sql", assignments=("iql.discount=0.9", "discount=0.8"))
    assert (both.algorithm("iql").discount, both.algorithm("sql").discount) == (0.9, 0.8)


def test_every_algorithm_can_be_compared() -> None:
    plan = planned(data_file(), *ALGORITHMS, updates=100, preset="hopper-medium-v2")
    assert {name: plan.algorithm(name).phases()[-1].updates for name in ALGORITHMS} == dict.fromkeys(ALGORITHMS, 100)


# --- rows and points ----------------------------------------------------------------------------------------

ABOUT = {"algorithm": "bc", "family": "cloning", "paper": "", "settings": "defaults"}


def test_an_unfinished_run_counts_to_its_last_whole_evaluation(tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished() / "iql", tmp_path / "iql"))
    (run / "result.json").unlink()
    lines = (run / "evaluations.jsonl").read_text().splitlines()
    (run / "evaluations.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:10])  # a kill
    row = read_row(run, ABOUT, Cost({"train": 2.0}, 0.5), None)
    scores = [json.loads(line)["normalized_score"] for line in lines[:4]]
    assert (row.status, row.updates) == ("stopped", 30)
    assert row.last == aggregate(np.reshape(scores, (2, 2)))
    assert row.total_tflop == pytest.approx(30 * 2.0 / 1000)
    assert read_row(tmp_path / "nothing", ABOUT, None, None) == Row(**ABOUT, status="waiting")


def test_order_and_points() -> None:
    def scored(name: str, iqm: float, **changes: Any) -> Row:
        summary = aggregate(np.full((2, 2), iqm))
        about = {"algorithm": name, "family": "cloning", "paper": "", "settings": ""}
        return Row(**about, **{"status": "done", "last": summary, "total_tflop": 1.0, "total_seconds": 5.0, **changes})

    table = [
        Row(**ABOUT, status="waiting"),
        scored("low", -3.0),
        scored("high", 9.0),
        scored("free", 1.0, total_tflop=None),
    ]
    assert [row.algorithm for row in best_first(table)] == ["high", "free", "low", "bc"]
    assert [point.label for point in points(table, "compute")] == ["low", "high"]
    assert [point.cost for point in points(table, "time")] == [5.0, 5.0, 5.0]
    (hollow,) = points([scored("half", 1.0, status="stopped", updates=1500)], "compute")
    assert (hollow.label, hollow.finished) == ("half (at 1,500)", False)


def draw(path: Path, many: list[Point], behaviour: float | None = 20.0) -> bytes:
    words = {"cost_label": "TFLOP", "title": "a title", "caption": "a caption", "families": tuple(FAMILIES)}
    plot_tradeoff(path, many, behaviour, **words)
    return path.read_bytes()


def random_points(count: int) -> list[Point]:
    generator = np.random.default_rng(count)
    families = [catalogue()[name].family for name in ALGORITHMS]
    middle, cost = generator.uniform(0, 90, count), 10 ** generator.uniform(1, 4, count)
    return [
        Point(name, cost[i], middle[i], middle[i] - 4, middle[i] + 6, families[i], i % 5 > 0)
        for i, name in zip(range(count), ALGORITHMS, strict=False)
    ]


@pytest.mark.parametrize("count", [1, 2, 32])
def test_pictures(tmp_path: Path, count: int) -> None:
    path = tmp_path / "picture.png"
    assert draw(path, random_points(count)) == draw(path, random_points(count))
    assert draw(path, random_points(count), None).startswith(b"\x89PNG\r\n")
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]


def test_names_do_not_hide_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tether.plots import tradeoff

    boxes, place = [], tradeoff._place
    monkeypatch.setattr(tradeoff, "_place", lambda *args: boxes.append(place(*args)[0]) or boxes[-1][None])
    draw(tmp_path / "picture.png", random_points(12))
    for index, box in enumerate(boxes):
        assert _overlap(box, np.array(boxes[:index]).reshape(-1, 4)).sum() == 0
    same = [Point(name, 10.0, 50.0, 49.0, 51.0, "cloning") for name in NAMES]  # two in one place
    boxes.clear()
    draw(tmp_path / "picture.png", same)
    assert _overlap(boxes[0], boxes[1][None]).sum() == 0


def test_the_legend_has_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tether.plots import tradeoff

    figures = []
    monkeypatch.setattr(tradeoff, "save_figure", lambda figure, path: figures.append(figure))
    words = {"title": "a title", "caption": "a caption", "families": tuple(FAMILIES)}
    plot_tradeoff(tmp_path / "picture.png", random_points(32), 40.0, cost_label="TFLOP", **words)  # every family
    (figure,) = figures
    (legend,) = figure.legends
    words = [legend.get_title(), *legend.get_texts()]
    assert [text.get_text() for text in words] == ["a caption", *FAMILIES]
    boxes = np.array([text.get_window_extent().extents for text in words])
    for index, box in enumerate(boxes):
        assert _overlap(box, boxes[:index]).sum() == 0
    assert boxes[:, 1].min() >= 0
    assert boxes[:, 2].max() <= figure.bbox.width
    assert boxes[:, 3].max() <= figure.axes[0].get_tightbbox().y0


def test_points_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no score to plot"):
        draw(tmp_path / "picture.png", [])
    for cost, score in ((0.0, 1.0), (1.0, float("nan"))):
        with pytest.raises(InputError, match="'bc'"):
            draw(tmp_path / "picture.png", [Point("bc", cost, score, 0.0, 2.0, "cloning")])
