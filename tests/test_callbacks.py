"""Callbacks: what they hear and when, that they change no number, that they can end a run, early stopping, the best
policy; all of it the same with a run that was interrupted and resumed, and however evaluations are played."""

import dataclasses
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_data import (
    PRETRAIN,
    SETTINGS,
    TRAIN,
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

from tether import BC, Callback, EarlyStopping, InputError, KeepBest, api, load_policy, resume, train
from tether.evaluation import rollout
from tether.machine.registry import registry
from tether.machine.signals import Interrupted
from tether.runs import evaluations
from tether.runs import report as report_module
from tether.runs.callbacks import Callbacks, RunInfo, check_callbacks, lane_means

SMALL = BC(hidden_sizes=(8, 8), train_updates=TRAIN)


class Listener(Callback):
    """Notes what it hears; `stop`: (event, update) at which it asks to stop."""

    def __init__(self, stop: tuple[str, int] | None = None):
        self.heard: list[tuple[Any, ...]] = []
        self.stop, self.run, self.ends = stop, None, []

    def _note(self, event: str, *what: Any) -> str | None:
        self.heard.append((event, *what))
        return "enough" if self.stop == (event, what[-1]) else None

    def on_start(self, run: RunInfo) -> str | None:
        self.run = run
        return self._note("start", run.resumed, len(run.metrics))

    def on_metrics(self, rows: list[dict[str, Any]]) -> str | None:
        self.metrics = rows
        return self._note("metrics", rows[0]["phase"], rows[0]["update"])

    def on_evaluation(self, rows: list[dict[str, Any]]) -> str | None:
        self.evaluation = rows
        return self._note("evaluation", rows[0]["update"])

    def on_checkpoint(self, path: Path, phase: str, update: int) -> None:
        assert (path / "manifest.json").exists()
        self._note("checkpoint", phase, update)

    def on_end(self, status: str, result: dict[str, Any] | None) -> None:
        self.ends.append((status, result))


def run(out: Path, *callbacks: Callback, **changes: Any) -> Any:
    """A small run with callbacks: half a second."""
    settings = dataclasses.replace(SETTINGS, **changes)
    return train(SMALL, str(data_file()), seeds=2, options=settings, out=out, quiet=True, callbacks=callbacks)


def run_dtql(out: Path, *callbacks: Callback) -> Any:
    """The run of `finished_run`, with callbacks."""
    return train(algorithm(), str(data_file()), seeds=2, options=SETTINGS, out=out, quiet=True, callbacks=callbacks)


def trail(folder: Path) -> list[str]:
    """Hashes of what a run has written, but for what it leaves at its end."""
    return [digest(folder / name) for name in ("metrics.jsonl", "evaluations.jsonl")] + [last_state(folder)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run without callbacks."""
    return run(tmp_path_factory.mktemp("plain") / "run").folder


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, plain: Path) -> None:
    """At its end a run leaves neither picture nor policies, which take most of the time."""
    monkeypatch.setattr(report_module, "plot_runs", lambda *_: None)
    monkeypatch.setattr(api, "_save_policies", lambda *_: None)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, bare: None) -> Any:
    """Evaluations with made-up returns, none of them played: update -> (lane 0's, lane 1's)."""

    def make_up(returns: dict[int, tuple[float, float]]) -> None:
        ask, update = evaluations.Evaluations.request, [0]

        def note(self: Any, asked: int, *others: Any) -> None:
            update[0] = asked
            ask(self, asked, *others)

        def play(self: Any, policies: Any, keys: Any, episodes: int, how: Any) -> evaluations.Episodes:
            values = np.array(returns[update[0]])[:, None] + np.zeros((2, episodes))
            return evaluations.Episodes(values, np.full(values.shape, 7))

        monkeypatch.setattr(evaluations.Evaluations, "request", note)
        monkeypatch.setattr(evaluations.Evaluations, "play", play)

    return make_up


# --- the protocol -------------------------------------------------------------------------------------------


def test_what_is_heard_and_that_it_changes_nothing(tmp_path: Path) -> None:
    class Vandal(Listener):
        """Writes into everything that it is given."""

        def on_start(self, run: RunInfo) -> None:
            run.config.clear()
            run.metrics.append({})

        def on_metrics(self, rows: list[dict[str, Any]]) -> None:
            rows[0].clear()
            rows.clear()

        def on_evaluation(self, rows: list[dict[str, Any]]) -> None:
            self.on_metrics(rows)

        def on_end(self, status: str, result: dict[str, Any] | None) -> None:
            assert result is not None
            result.clear()

    listener = Listener()
    report = run_dtql(tmp_path / "run", Vandal(), listener)
    assert outcome(report.folder) == outcome(finished_run())
    assert listener.heard == [
        ("start", False, 0),
        *[("metrics", "pretrain", update) for update in (70, 140, PRETRAIN)],
        ("checkpoint", "pretrain", PRETRAIN),
        ("metrics", "train", 70),
        ("evaluation", 100),
        ("checkpoint", "train", 100),
        ("metrics", "train", 140),
        ("evaluation", 200),
        ("checkpoint", "train", 200),
        ("metrics", "train", 210),
        ("metrics", "train", TRAIN),
        ("evaluation", TRAIN),
        ("checkpoint", "train", TRAIN),
    ]
    written = rows(report.folder / "evaluations.jsonl")
    assert listener.evaluation == [row for row in written if row["update"] == TRAIN]
    assert listener.metrics == rows(report.folder / "metrics.jsonl")[-2:]
    assert listener.run is not None
    assert listener.run.config == json.loads((report.folder / "config.json").read_text())
    assert listener.run.step("train", 7) == PRETRAIN + 7
    assert listener.ends == [("done", json.loads((report.folder / "result.json").read_text()))]


def test_bad_callbacks_are_refused() -> None:
    class Wrong(Callback):
        def on_metrics(self, rows: list[dict[str, Any]]) -> Any:
            return True

    for wrong in (Listener, print, "tensorboard"):
        with pytest.raises(InputError, match=r"subclass of tether\.Callback"):
            check_callbacks([Listener(), wrong])
    for wrong in (None, 3):
        with pytest.raises(InputError, match="give a list of them"):
            check_callbacks(wrong)
    given = [Listener(), Listener()]
    assert check_callbacks(callback for callback in given) == given  # a generator is heard, too
    with pytest.raises(TypeError, match=r"Wrong\.on_metrics returned True: return why the run should stop, or None"):
        Callbacks([Wrong()]).tell("on_metrics", [])


@pytest.mark.usefixtures("bare")
def test_a_callback_that_fails_ends_the_run_which_can_be_resumed(tmp_path: Path, plain: Path) -> None:
    class Broken(Listener):
        def on_evaluation(self, rows: list[dict[str, Any]]) -> None:
            raise ZeroDivisionError("mine")

        def on_end(self, status: str, result: dict[str, Any] | None) -> None:
            super().on_end(status, result)
            raise ValueError("and again")

    broken, listener = Broken(), Listener()
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        run(tmp_path / "run", listener, broken)
    assert caught.value.__notes__ == ["a callback failed at the end, too: ValueError and again"]
    assert listener.ends == broken.ends == [("failed", None)]
    resume(tmp_path / "run", quiet=True)
    assert trail(tmp_path / "run") == trail(plain)


@pytest.mark.usefixtures("bare")
def test_an_interruption_is_heard_and_so_is_the_way_on(tmp_path: Path, plain: Path) -> None:
    class Signal(Listener):
        def on_metrics(self, rows: list[dict[str, Any]]) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    first, second = Signal(), Listener()
    with pytest.raises(Interrupted):
        run(tmp_path / "run", first)
    assert first.ends == [("interrupted", None)]
    resume(tmp_path / "run", quiet=True, callbacks=[second])
    assert second.heard[0] == ("start", True, 2)
    assert second.run is not None
    assert second.run.metrics == rows(plain / "metrics.jsonl")[:2]
    assert second.ends[0][0] == "done"
    assert trail(tmp_path / "run") == trail(plain)


def test_a_number_that_there_is_not(tmp_path: Path) -> None:
    table: list[dict[str, Any]] = [{"lane": 0, "a": 1.0, "b": None}, {"lane": 0, "a": 3.0, "b": 2.0}]
    assert lane_means(table, "a") == {0: 2.0}
    assert lane_means(table, "b") == {}
    with pytest.raises(InputError, match=r"unknown metric 'c'; choices: a, length, return, score"):
        lane_means(table, "c")


# --- stopping -----------------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_has_its_policies_and_trains_on_when_resumed(tmp_path: Path) -> None:
    listener = Listener(stop=("metrics", 140))
    report = run_dtql(tmp_path / "run", listener)
    # Pretraining's 140 comes first.
    assert (report.status, report.stopped_early, report.updates) == ("stopped-early", "enough", 0)
    assert listener.ends[0][0] == "stopped-early"
    assert listener.ends[0][1]["stopped_early"] == "enough"
    assert load_policy(report.folder).document["notes"]["update"] == 0
    code, printed, _ = tether("resume", report.folder)
    assert code == 0
    assert "train on with" not in printed
    assert outcome(report.folder) == outcome(finished_run())


@pytest.mark.usefixtures("bare")
def test_the_end_of_a_run_that_is_stopped_is_evaluated(tmp_path: Path, plain: Path) -> None:
    report = run(tmp_path / "run", Listener(stop=("metrics", 210)))
    assert (report.status, report.updates, report.last is None) == ("stopped-early", 210, False)
    assert [row["update"] for row in rows(report.folder / "evaluations.jsonl")][-1] == 210
    resume(report.folder, quiet=True)
    assert last_state(report.folder) == last_state(plain)


def test_the_command_line_says_that_a_run_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_run(tmp_path / "run")
    report = dataclasses.replace(
        resume(folder, quiet=True), status="stopped-early", stopped_early="no more patience", updates=200
    )
    monkeypatch.setattr(api, "resume", lambda *_, **__: report)
    code, printed, errors = tether("resume", folder)
    assert (code, errors) == (0, "")
    assert "stopped at update 200: no more patience; train on with: tether resume" in printed


RETURNS = {40: (5.0, 5.0), 80: (4.0, 5.0), 120: (5.0, 4.0), 160: (3.0, 3.0), 200: (9.0, 9.0), 240: (1.0, 1.0)}
RETURNS |= {TRAIN: (0.0, 0.0)}


def early(out: Path, *callbacks: Callback) -> Any:
    return run(out, *callbacks, eval_every_updates=40)


def test_early_stopping_ends_where_training_acts_on_the_evaluation(tmp_path: Path, played: Any) -> None:
    """The first stays the best: 120 asks to stop, and training acts on that right before 200, the last to be played."""
    played(RETURNS)
    report = early(tmp_path / "run", EarlyStopping("return", 2))
    assert (report.status, report.updates) == ("stopped-early", 200)
    assert report.stopped_early == "no lane's return got better for 2 evaluations"
    assert [row["update"] for row in rows(tmp_path / "run" / "evaluations.jsonl")][-1] == 200
    again = resume(tmp_path / "run", quiet=True, callbacks=[EarlyStopping("return", 3)])
    assert (again.status, again.updates) == ("done", TRAIN)  # 200 was better


def test_early_stopping_is_the_same_after_an_interruption(tmp_path: Path, played: Any) -> None:
    played(RETURNS)

    class Signal(Callback):
        def __init__(self, at: int):
            self.at = at

        def on_metrics(self, rows: list[dict[str, Any]]) -> None:
            if rows[0]["update"] == self.at:
                os.kill(os.getpid(), signal.SIGINT)

    early(tmp_path / "whole", EarlyStopping("return", 2))
    whole = digest(tmp_path / "whole" / "checkpoints" / "train-000000200" / "state.safetensors")
    for at in (110, 130, 200):  # before the evaluation that asks to stop, after it, and where that is acted on
        out = tmp_path / str(at)
        with pytest.raises(Interrupted):
            run(out, EarlyStopping("return", 2), Signal(at), eval_every_updates=40, log_every_updates=10)
        report = resume(out, quiet=True, callbacks=[EarlyStopping("return", 2)])
        assert (report.status, report.updates) == ("stopped-early", 200)
        assert digest(out / "checkpoints" / "train-000000200" / "state.safetensors") == whole
        assert digest(out / "evaluations.jsonl") == digest(tmp_path / "whole" / "evaluations.jsonl")


def test_early_stopping_does_not_depend_on_how_fast_evaluations_are_played(
    tmp_path: Path, played: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With workers so slow that training waits for every evaluation."""
    played(RETURNS)
    early(tmp_path / "now", EarlyStopping("return", 2))

    def ask(self: Any, update: int, lanes: Any, policies: Any, keys: Any, how: Any) -> None:
        self.pending.append(evaluations.Requested(update, tuple(lanes), policies))

    def play(self: Any, *_: Any) -> evaluations.Episodes:
        values = np.array(RETURNS[min(self.missing)])[:, None] + np.zeros((2, 2))
        return evaluations.Episodes(values, np.full(values.shape, 7))

    monkeypatch.setattr(evaluations.Evaluations, "request", ask)
    monkeypatch.setattr(evaluations.Evaluations, "play", play)
    report = early(tmp_path / "late", EarlyStopping("return", 2))
    assert (report.status, report.updates) == ("stopped-early", 200)
    for name in ("evaluations.jsonl", "metrics.jsonl", "checkpoints/train-000000200/state.safetensors"):
        assert digest(tmp_path / "late" / name) == digest(tmp_path / "now" / name)


def test_a_run_that_ran_out_of_patience_ends_again_at_once(tmp_path: Path, played: Any) -> None:
    played(RETURNS | {200: (0.0, 0.0)})
    early(tmp_path / "run", EarlyStopping("return", 2))
    listener = Listener()
    report = resume(tmp_path / "run", quiet=True, callbacks=[EarlyStopping("return", 2), listener])
    assert (report.status, report.updates) == ("stopped-early", 200)
    assert [event for event, *_ in listener.heard] == ["start"]
    report = resume(tmp_path / "run", quiet=True)
    assert (report.status, report.updates, report.stopped_early) == ("done", TRAIN, None)


def test_patience_that_ends_with_the_run_is_no_early_stop(tmp_path: Path, played: Any) -> None:
    played(RETURNS)
    report = early(tmp_path / "run", EarlyStopping("length", 4))
    assert (report.status, report.updates, report.stopped_early) == ("done", TRAIN, None)


def look(
    stopping: EarlyStopping, every: int, tables: list[dict[int, float | None]], name: str = "x/loss"
) -> list[bool]:
    """Whether it asks to stop at each of the tables lane -> value, `every` updates apart."""
    settings: Any = {"settings": {"eval_every_updates": 100}}
    stopping.on_start(RunInfo(Path(), settings, (("train", 900),), False, [], [], -1, lambda *_, **__: False))
    asked = []
    for index, table in enumerate(tables, 1):
        one = [{"phase": "train", "update": every * index, "lane": lane, name: v} for lane, v in table.items()]
        asked.append(stopping.on_metrics(one) is not None)
    return asked


def test_early_stopping_by_a_training_metric() -> None:
    losses = EarlyStopping("x/loss", 2, higher_is_better=False)
    falling: list[dict[int, float | None]] = [{0: 5.0}, {0: 4.0}, {0: 4.0}, {0: 3.9}, {0: 3.95}, {0: 9.0}, {0: 3.9}]
    assert look(losses, 100, falling) == [False] * 5 + [True, True]
    assert look(losses, 50, falling[:4] + [{0: 3.9}] * 4) == [False] * 7 + [True]  # patience is 200 updates
    gain = EarlyStopping("x/loss", 1, higher_is_better=False, least_gain=0.5)
    assert look(gain, 100, [{0: 5.0}, {0: 4.6}, {0: 4.4}]) == [False, True, False]
    two = EarlyStopping("x/loss", 1)
    assert look(two, 100, [{0: 1.0, 1: 1.0}, {0: 0.0, 1: 2.0}, {0: 0.0, 1: 0.0}]) == [False, False, True]
    assert look(two, 100, [{0: None}, {0: None}, {0: 1.0}, {0: None}]) == [False, False, False, True]
    for bad in ({"patience_evaluations": 0}, {"least_gain": -1.0}, {"least_gain": float("nan")}):
        with pytest.raises(InputError):
            EarlyStopping(**bad)


# --- the best policy ----------------------------------------------------------------------------------------


def test_the_best_policy_is_kept(tmp_path: Path, played: Any, plain: Path) -> None:
    played({100: (1.0, 2.0), 200: (3.0, 4.0), TRAIN: (2.0, 0.0)})
    report = run(tmp_path / "run", KeepBest("return"))
    notes = load_policy(report.folder / "policy-best").document["notes"]
    assert notes == {"dataset": "hopper-medium", "lane": 1, "seed": 1, "update": 200, "metric": "return", "value": 4.0}
    assert last_state(report.folder) == last_state(plain)
    with pytest.raises(InputError, match="metric to keep the best policy by"):
        KeepBest("loss")


def test_the_best_policy_is_the_one_that_was_evaluated(tmp_path: Path, played: Any, plain: Path) -> None:
    """The last one, against what the run itself leaves."""
    played({100: (1.0, 2.0), 200: (3.0, 4.0), TRAIN: (5.0, 6.0)})
    report = run(tmp_path / "run", KeepBest("return"), KeepBest("return", higher_is_better=False, folder="worst"))
    best = digest(report.folder / "policy-best" / "policy.safetensors")
    assert best == digest(plain / "policies" / "lane-1" / "policy.safetensors")
    assert load_policy(report.folder / "worst").document["notes"]["value"] == 1.0


def test_the_best_policy_is_the_same_after_an_interruption(tmp_path: Path, played: Any) -> None:
    played({100: (1.0, 2.0), 200: (3.0, 4.0), TRAIN: (2.0, 0.0)})

    class Signal(Callback):
        def on_evaluation(self, rows: list[dict[str, Any]]) -> None:
            if rows[0]["update"] == 200:
                os.kill(os.getpid(), signal.SIGTERM)

    whole = run(tmp_path / "whole", KeepBest("return")).folder
    with pytest.raises(Interrupted):
        run(tmp_path / "run", KeepBest("return"), Signal())
    resume(tmp_path / "run", quiet=True, callbacks=[KeepBest("return")])
    for name in ("policy.safetensors", "policy.json"):
        assert digest(tmp_path / "run" / "policy-best" / name) == digest(whole / "policy-best" / name)


@pytest.mark.parametrize(("metric", "values"), [("return", [-9.0, -5.0]), ("validation/loss", [])])
def test_the_best_policy_by_another_metric_is_another_one(tmp_path: Path, metric: str, values: list[float]) -> None:
    """Of a resumed run: a loss of 0.3 is no return to beat."""
    saved: list[float] = []

    def save(folder: Path, lane: int, *, value: float, **notes: Any) -> bool:
        saved.append(value)
        return True

    (tmp_path / "policy-best").mkdir()
    notes = {"update": 50, "metric": "validation/loss", "value": 0.3}
    (tmp_path / "policy-best" / "policy.json").write_text(json.dumps({"notes": notes}))
    callback = KeepBest(metric, higher_is_better=metric == "return")
    config: Any = {"data": {"holdout": {"name": "fraction"}}}
    callback.on_start(RunInfo(tmp_path, config, (("train", 90),), True, [], [], -1, save))
    for update, value in ((60, -9.0), (70, -5.0)):
        callback.on_evaluation([{"update": update, "lane": 0, "episode": 0, "return": value}])
        callback.on_metrics([{"phase": "train", "update": update, "lane": 0, "validation/loss": 0.4}])
    assert saved == values


# --- the page -----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/callbacks.md, with shorter training and episodes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry("logger"), "_registered", {})
    make = rollout.make_environment
    monkeypatch.setattr(rollout, "make_environment", lambda task: make(dataclasses.replace(task, horizon=3)))
    page = (Path(__file__).parents[1] / "docs" / "callbacks.md").read_text()
    first, held_out, second = re.findall(
        r"^```python\n(.*?)^```", re.sub(r"_updates=[\d_]+", "_updates=4", page), re.DOTALL | re.M
    )
    scope: dict[str, Any] = {}
    exec(
        first.replace("tether.DTQL(", "tether.DTQL(candidates=4, hidden_sizes=(8, 8), denoiser_hidden_sizes=(8, 8), "),
        scope,
    )
    assert scope["policy"](np.zeros(17)).shape == (6,)
    assert "done {" in capsys.readouterr().out
    exec(held_out, scope)
    assert "validation/actor/loss" in (tmp_path / "runs" / "held-out" / "metrics.jsonl").read_text()
    exec(second.replace("tether.BC(", "tether.BC(hidden_sizes=(8, 8), "), scope)
    written = (tmp_path / "runs" / "scored" / "scores.txt").read_text().split()
    returns = [row["return"] for row in rows(tmp_path / "runs" / "scored" / "evaluations.jsonl")]
    assert written == ["4", str(sum(returns) / len(returns))]
