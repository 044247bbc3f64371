"""Loggers, each by its real package in its offline or file mode, read back; what fails or hangs is reported once and
changes nothing; a resumed run goes on in the logger's run."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from make_data import SETTINGS, TRAIN, data_file, outcome, tether

from tether import BC, Callback, InputError, api, register, resume, train
from tether.machine.registry import registry
from tether.machine.signals import Interrupted
from tether.runs import background
from tether.runs import report as report_module
from tether.runs.background import Background, recall, remember, remembered_names
from tether.runs.callbacks import RunInfo
from tether.runs.loggers import LOGGERS, MLflow, Numbers, TensorBoard, Trackio, WeightsAndBiases, find_loggers

Said = list[str]
SMALL = BC(hidden_sizes=(8, 8), train_updates=TRAIN)


def run_info(folder: Path, lanes: int = 1, metrics: Any = (), evaluations: Any = (), resumed: bool = False) -> RunInfo:
    """A run of two phases."""
    config = {
        "algorithm": "dtql",
        "data": {"dataset": "hopper-medium"},
        "hyperparameters": {"expectile": 0.9, "hidden_sizes": [16, 16]},
        "lanes": [{"seed": seed, "settings": {}} for seed in range(lanes)],
    }
    phases = ("pretrain", 20), ("train", 100)
    return RunInfo(folder, config, phases, resumed, list(metrics), list(evaluations), -1, lambda *_, **__: False)


def metric_rows(phase: str, update: int, lanes: int = 1) -> list[dict[str, Any]]:
    values = [{"critic/q_loss": update / 8 + lane, "actor/loss": None} for lane in range(lanes)]
    return [{"phase": phase, "update": update, "lane": lane, **row} for lane, row in enumerate(values)]


def evaluation_rows(update: int, lanes: int = 1) -> list[dict[str, Any]]:
    """Two episodes for each lane."""
    return [
        {"update": update, "lane": lane, "episode": e, "return": 10.0 * lane + e, "length": 5, "normalized_score": None}
        for lane in range(lanes)
        for e in (0, 1)
    ]


RESULT = {"last": {"mean": 12.5, "iqm": 12.0}}


def log_two_sessions(logger: str, folder: Path, lanes: int = 1) -> Said:
    """A run that is interrupted after update 40 of `train`, though its rows of 60 were out, and goes on -> warnings."""
    said: Said = []

    def session(info: RunInfo, *events: Callable[[Background], None]) -> None:
        one = Background(logger, LOGGERS[logger], said.append)
        one.on_start(info)
        for event in events:
            event(one)

    session(
        run_info(folder, lanes),
        lambda to: to.on_metrics(metric_rows("pretrain", 20, lanes)),
        lambda to: to.on_metrics(metric_rows("train", 40, lanes)),
        lambda to: to.on_evaluation(evaluation_rows(50, lanes)),
        lambda to: to.on_checkpoint(folder / "checkpoints", "train", 40),
        lambda to: to.on_metrics(metric_rows("train", 60, lanes)),
        lambda to: to.on_end("interrupted", None),
    )
    before = metric_rows("pretrain", 20, lanes) + metric_rows("train", 40, lanes)
    session(
        run_info(folder, lanes, before, resumed=True),
        lambda to: to.on_evaluation(evaluation_rows(50, lanes)),
        lambda to: to.on_metrics(metric_rows("train", 60, lanes)),
        lambda to: to.on_metrics(metric_rows("train", 80, lanes)),
        lambda to: to.on_evaluation(evaluation_rows(100, lanes)),
        lambda to: to.on_end("done", RESULT),
    )
    return said


LOSSES = [(20, 2.5), (60, 5.0), (80, 7.5), (100, 10.0)]  # (step, value): pretraining's 20 updates come first
RETURNS = [(70, 0.5), (120, 0.5)]


# --- the real packages --------------------------------------------------------------------------------------

# What the packages and theirs warn of is their own affair.
theirs = pytest.mark.filterwarnings("default")


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) in all event files of a folder, by tensorboardX's own protocol buffers."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
            data = data[16 + size :]
    return found


@theirs
def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    assert log_two_sessions("tensorboard", tmp_path) == []
    found = tensorboard_scalars(tmp_path / "tensorboard")
    assert found["critic/q_loss"] == LOSSES
    assert found["evaluation/return"] == RETURNS
    assert found["evaluation/length"] == [(70, 5.0), (120, 5.0)]
    assert "actor/loss" not in found  # never finite
    assert len(found["config/text_summary"]) == 1
    lanes = tmp_path / "lanes"
    lanes.mkdir()
    assert log_two_sessions("tensorboard", lanes, lanes=2) == []
    second = tensorboard_scalars(lanes / "tensorboard" / "lane-1")
    assert second["critic/q_loss"] == [(step, value + 1) for step, value in LOSSES]
    assert second["evaluation/return"] == [(70, 10.5), (120, 10.5)]


def wandb_records(path: Path) -> list[Any]:
    """The records of wandb's own file: seven bytes, then LevelDB's log, by wandb's own protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, found = path.read_bytes(), 7, b"", []
    while at + 7 < len(data):
        left = 32768 - at % 32768  # of the block; a record's header is checksum, length, kind
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


def values_of(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


@theirs
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert log_two_sessions("wandb", tmp_path) == []
    run_id = recall(tmp_path, "wandb")["run_id"]
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{run_id}*/run-{run_id}.wandb"))
    assert len(files) == 2  # `wandb sync` puts them into one run
    until = time.monotonic() + 20.0
    while True:  # wandb's own process writes the end of a file after `finish` has returned
        records = [record for path in files for record in wandb_records(path)]
        if sum(record.HasField("exit") for record in records) == 2 or time.monotonic() > until:
            break
        time.sleep(0.05)
    assert {record.run.run_id for record in records if record.HasField("run")} == {run_id}
    history = [values_of(record.history.item) for record in records if record.HasField("history")]
    summary: dict[str, Any] = {}
    for record in records:
        summary |= values_of(record.summary.update)
    assert [(row["update"], row["critic/q_loss"]) for row in history if "critic/q_loss" in row] == LOSSES
    assert [(row["update"], row["evaluation/return"]) for row in history if "evaluation/return" in row] == RETURNS
    assert (summary["status"], summary["final/score"]) == ("done", 12.5)


@pytest.mark.long
@theirs
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "run"
    folder.mkdir()
    assert log_two_sessions("mlflow", folder, lanes=2) == []
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tether")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == recall(folder, "mlflow")["run_id"]
    assert (run.info.run_name, run.info.status, run.data.tags["status"]) == ("run", "FINISHED", "done")
    assert run.data.params | {"algorithm": "dtql", "expectile": "0.9", "seeds": "[0, 1]"} == run.data.params

    def history(name: str) -> list[tuple[int, float]]:
        return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]

    assert history("lane-0/critic/q_loss") == LOSSES
    assert history("critic/q_loss") == [(step, value + 0.5) for step, value in LOSSES]
    assert history("lane-1/evaluation/return") == [(70, 10.5), (120, 10.5)]
    assert history("final/score") == [(0, 12.5)]


@theirs
def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # before it is imported
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    assert log_two_sessions("trackio", tmp_path) == []
    name = recall(tmp_path, "trackio")["run_id"]
    assert SQLiteStorage.get_runs("tether") == [name]
    logs = SQLiteStorage.get_logs("tether", name)
    assert [(row["step"], row["critic/q_loss"]) for row in logs if "critic/q_loss" in row] == LOSSES
    assert [(row["step"], row["evaluation/return"]) for row in logs if "evaluation/return" in row] == RETURNS
    assert capsys.readouterr().out == ""


# --- whatever a logger does ---------------------------------------------------------------------------------


@pytest.fixture
def own() -> Any:
    """Registers loggers for a test."""
    loggers = registry("logger")
    before = dict(loggers._registered)
    yield lambda name, factory: loggers.add(name, factory)
    loggers._registered.clear()
    loggers._registered.update(before)


class Good(Callback):
    heard: list[tuple[Any, ...]]

    def __init__(self, folder: Path, config: dict[str, Any]):
        self.folder, self.config, self.heard = folder, config, []
        self.thread = threading.current_thread()

    def on_metrics(self, rows: list[dict[str, Any]]) -> None:
        self.heard.append((rows[0]["phase"], rows[0]["update"], len(rows)))

    def on_evaluation(self, rows: list[dict[str, Any]]) -> None:
        self.heard.append(("evaluation", rows[0]["update"], len(rows)))

    def on_end(self, status: str, result: dict[str, Any] | None) -> None:
        self.heard.append((status,))


class Failing(Good):
    def on_metrics(self, rows: list[dict[str, Any]]) -> None:
        raise RuntimeError("the server\nsays no")


class Hanging(Good):
    release = threading.Event()

    def on_metrics(self, rows: list[dict[str, Any]]) -> None:
        self.release.wait()


def test_nothing_of_a_logger_changes_a_number_or_ends_a_run(
    tmp_path: Path, own: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(background, "END_SECONDS", 0.5)
    monkeypatch.setattr(background, "WAITING_EVENTS", 5)
    made: list[Good] = []

    def good(folder: Path, config: dict[str, Any]) -> Good:
        made.append(Good(folder, config))
        return made[0]

    def quits(folder: Path, config: dict[str, Any]) -> Callback:
        raise SystemExit("not on my machine")

    for name, factory in {"good": good, "failing": Failing, "hanging": Hanging, "quits": quits, "none": print}.items():
        own(name, factory)
    began = time.monotonic()
    plain = train(SMALL, str(data_file()), seeds=2, options=SETTINGS, out=tmp_path / "plain", quiet=True)
    report = train(
        SMALL, str(data_file()), seeds=2, options=SETTINGS, out=tmp_path / "run", quiet=True,
        logger=["good", "failing", "hanging", "quits", "none", "good"],
    )  # fmt: skip
    Hanging.release.set()
    assert time.monotonic() - began < 300
    assert report.status == "done"
    assert outcome(report.folder) == outcome(plain.folder)
    said = sorted(line for line in capsys.readouterr().err.splitlines() if line.startswith("logger "))
    assert said == [
        "logger failing: on_metrics failed: RuntimeError the server says no; the run goes on without it",
        "logger hanging: it is too slow, or hangs: 5 events are waiting for it; the run goes on without it",
        "logger none: on_start failed: TypeError it made None, which is no tether.Callback; the run goes on without it",
        "logger quits: on_start failed: SystemExit not on my machine; the run goes on without it",
    ]
    (one,) = made
    assert one.thread is not threading.main_thread()
    assert one.config == json.loads((report.folder / "config.json").read_text())
    assert one.heard == [
        ("train", 70, 2), ("evaluation", 100, 4), ("train", 140, 2), ("evaluation", 200, 4), ("train", 210, 2),
        ("train", TRAIN, 2), ("evaluation", TRAIN, 4), ("done",),
    ]  # fmt: skip


def test_a_resumed_run_goes_on_with_its_loggers(
    tmp_path: Path, own: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_module, "plot_runs", lambda *_: None)
    monkeypatch.setattr(api, "_save_policies", lambda *_: None)

    class Signal(Callback):
        def on_evaluation(self, rows: list[dict[str, Any]]) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    made: list[Good] = []

    def good(folder: Path, config: dict[str, Any]) -> Good:
        made.append(Good(folder, config))
        return made[-1]

    own("good", good)
    how: Any = {"seeds": 2, "options": SETTINGS, "out": tmp_path / "run", "quiet": True}
    with pytest.raises(Interrupted):
        train(SMALL, str(data_file()), **how, logger="good", callbacks=[Signal()])
    assert made[0].heard[-2:] == [("train", 140, 2), ("interrupted",)]
    remember(tmp_path / "run", "a/gone.one")
    resume(tmp_path / "run", quiet=True)
    assert made[1].heard[0] == ("evaluation", 200, 4)
    assert made[1].heard[-1] == ("done",)
    assert "unknown logger 'a/gone.one'" in capsys.readouterr().err
    resume(tmp_path / "run", quiet=True, logger=())
    assert len(made) == 2
    own("late", good)  # one that the run has not had hears all of it
    resume(tmp_path / "run", quiet=True, logger="late")
    assert sorted(map(str, made[2].heard)) == sorted(map(str, made[0].heard[:-1] + made[1].heard))


def test_the_command_line_names_loggers(tmp_path: Path, own: Any) -> None:
    made: list[Path] = []

    def note(folder: Path, config: dict[str, Any]) -> Callback:
        made.append(folder)
        return Callback()

    own("one", note)
    own("two", note)
    out = tmp_path / "run"
    brief = "--updates", 2, "--batch-size", 8, "--environment", "none", "--set", "hidden_sizes=8,8"
    code, _, errors = tether("train", "bc", data_file(), *brief, "--out", out, "--logger", "one", "--logger", "two")
    assert code == 0, errors
    assert remembered_names(out) == ["one", "two"]
    assert made == [out, out]
    assert tether("resume", out, "--logger", "none")[0] == 0
    assert len(made) == 2
    assert tether("resume", out)[0] == 0
    assert len(made) == 4


def test_loggers_that_are_not_there_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorBoard, "package", "no_such_package")
    for name, message in (
        ("tensorbord", "unknown logger 'tensorbord'"),
        ("tensorboard", "logger 'tensorboard' needs the package no_such_package: pip install"),
    ):
        code, printed, errors = tether("train", "bc", data_file(), "--out", tmp_path / "run", "--logger", name)
        assert (code, printed, errors.count("\n")) == (2, "", 1)
        assert message in errors
        with pytest.raises(InputError):
            resume(tmp_path, logger=name)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="is tether's own"):
        register("wandb", kind="logger")(Good)


def test_what_hangs_at_the_end_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "END_SECONDS", 0.1)
    said: Said = []
    release = threading.Event()

    class Slow(Callback):
        def on_end(self, status: str, result: dict[str, Any] | None) -> None:
            release.wait()

    one = Background("slow", lambda folder, config: Slow(), said.append)
    one.on_start(run_info(tmp_path))
    one.on_end("done", RESULT)
    release.set()
    assert said == ["logger slow: it does not come back, 0 events were not told; the run goes on without it"]
    late = Background("late", lambda folder, config: Slow(), said.append)
    late.on_end("failed", None)  # a run that failed before it began
    assert len(said) == 1


def test_steps_and_lanes(tmp_path: Path) -> None:
    class Kept(Numbers):
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[tuple[int, dict[str, float]]] = []

        def write(self, step: int, values: Any) -> None:
            self.rows.append((step, dict(values)))

    one, two = Kept(), Kept()
    one.on_start(run_info(tmp_path))
    one.on_metrics(metric_rows("train", 8))
    two.on_start(run_info(tmp_path, lanes=2))
    two.on_evaluation(evaluation_rows(8, lanes=2))
    assert one.rows == [(28, {"critic/q_loss": 1.0})]
    ((step, values),) = two.rows
    assert step == 28
    assert {name: value for name, value in values.items() if "return" in name} == {
        "evaluation/return": 5.5,
        "lane-0/evaluation/return": 0.5,
        "lane-1/evaluation/return": 10.5,
    }


def test_the_own_names() -> None:
    assert dict(LOGGERS) == {
        "tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow, "trackio": Trackio
    } | LOGGERS._registered  # fmt: skip
    assert find_loggers(["wandb", "wandb"]) == ["wandb"]
