"""Loggers: TensorBoard, Weights & Biases, MLflow, trackio, and whatever users register.

A logger is a factory(folder, config) -> Callback, called with the run folder and what config.json holds; it runs in a
thread of its own (`runs/background.py`). Those here import their package when they are made, and keep the id of their
run in `loggers/NAME.json`, so that a resumed run goes on in it.
"""

import contextlib
import importlib.util
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tether.errors import InputError
from tether.machine.files import TEMPORARY_PREFIX, temporary_suffix
from tether.machine.registry import registry
from tether.runs.background import Background, recall, remember, remembered_names
from tether.runs.callbacks import Callback, Row, RunInfo, lane_means

__all__ = ["LOGGERS", "MLflow", "Numbers", "TensorBoard", "Trackio", "WeightsAndBiases", "find_loggers", "make_loggers"]

PROJECT = "tether"
ABOUT = ("phase", "update", "lane", "alarm")  # what rows hold beside metrics
SUCCESS = ("done", "stopped-early")


def find_loggers(names: str | Iterable[str]) -> list[str]:
    """The names, once each. Raises: InputError for one that nobody has, or whose package is not installed."""
    if not isinstance(names, Iterable):
        raise InputError(f"logger {names!r}: give a name or a list of them, none: ()")
    names = list(dict.fromkeys([names] if isinstance(names, str) else names))
    for name in names:
        package = getattr(LOGGERS.find(name), "package", None)
        if package is not None and importlib.util.find_spec(package) is None:
            raise InputError(f"logger {name!r} needs the package {package}: pip install 'tether-rl[loggers]'")
    return names


def make_loggers(folder: Path, names: Iterable[str] | None, warn: Callable[[str], None]) -> list[Callback]:
    """A logger for each name; None: those that the run in `folder` has had, as far as they are here."""
    found: list[Callback] = []
    for name in remembered_names(folder) if names is None else names:
        try:
            find_loggers(name)
        except InputError as error:
            if names is not None:
                raise
            warn(f"{error}; the run goes on without it")
        else:
            found.append(Background(name, LOGGERS[name], warn))
    return found


class Numbers(Callback):
    """A logger of numbers by name. Several lanes: means over them, and each by itself as "lane-0/NAME"."""

    def __init__(self) -> None:
        self._run: RunInfo | None = None

    def on_start(self, run: RunInfo) -> None:
        """Nothing yet but to know the run."""
        self._run = run

    def on_metrics(self, rows: list[Row]) -> None:
        """Each number of the rows."""
        lanes = {row["lane"]: {name: value for name, value in row.items() if name not in ABOUT} for row in rows}
        self._write(rows[0]["phase"], rows[0]["update"], lanes)

    def on_evaluation(self, rows: list[Row]) -> None:
        """Means over the episodes."""
        means = {name: lane_means(rows, name) for name in ("score", "return", "length")}
        lanes = {
            row["lane"]: {f"evaluation/{name}": mean.get(row["lane"]) for name, mean in means.items()} for row in rows
        }
        assert self._run is not None
        self._write(self._run.phases[-1][0], rows[0]["update"], lanes)

    def _write(self, phase: str, update: int, lanes: Mapping[int, Mapping[str, float | None]]) -> None:
        assert self._run is not None
        known = {lane: {name: value for name, value in row.items() if value is not None} for lane, row in lanes.items()}
        self.write_lanes(self._run.step(phase, update), known)

    def write_lanes(self, step: int, lanes: Mapping[int, Mapping[str, float]]) -> None:
        """`lanes`: lane -> name -> value, after `step` updates."""
        assert self._run is not None
        if len(self._run.config["lanes"]) == 1:
            self.write(step, next(iter(lanes.values())))
            return
        columns: dict[str, list[float]] = {}
        for row in lanes.values():
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        means = {name: sum(values) / len(values) for name, values in columns.items()}
        each = {f"lane-{lane}/{name}": value for lane, row in lanes.items() for name, value in row.items()}
        self.write(step, means | each)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Name -> value, after `step` updates."""
        raise NotImplementedError


class TensorBoard(Numbers):
    """Event files in `tensorboard/` of the run folder, with several lanes a folder for each: tensorboard --logdir runs.
    A resumed run adds a file."""

    package = "tensorboardX"

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        super().__init__()
        self._folder, self._config, self._writers = folder / "tensorboard", config, dict[str, Any]()

    def on_start(self, run: RunInfo) -> None:
        """Also write the configuration, once."""
        super().on_start(run)
        if not self._folder.exists():
            self._writer("").add_text("config", f"```\n{json.dumps(self._config, indent=2)}\n```")

    def write_lanes(self, step: int, lanes: Mapping[int, Mapping[str, float]]) -> None:
        """Lanes under the same names, so that their curves lie in one picture."""
        several = len(self._config["lanes"]) > 1
        for lane, row in lanes.items():
            writer = self._writer(f"lane-{lane}" if several else "")
            for name, value in row.items():
                writer.add_scalar(name, value, step)
            writer.flush()

    def on_end(self, status: str, result: dict[str, Any] | None) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, name: str) -> Any:
        from tensorboardX import SummaryWriter

        if name not in self._writers:
            # Its names tell files apart by the second: a run that is resumed at once must not replace what it had.
            suffix = f".{secrets.token_hex(4)}"
            self._writers[name] = SummaryWriter(str(self._folder / name), filename_suffix=suffix)
        return self._writers[name]


class WeightsAndBiases(Numbers):
    """A run of the project WANDB_PROJECT, by default "tether". As WANDB_MODE says; where it says nothing online if
    somebody is logged in, else offline: files in `wandb/` of the run folder, for `wandb sync`."""

    package = "wandb"

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        super().__init__()
        import wandb

        run_id = _run_id(folder, "wandb", secrets.token_hex(4))
        mode: Any = os.environ.get("WANDB_MODE")
        if mode is None:
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        self._wandb = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            name=folder.resolve().name,
            dir=str(folder),
            config=dict(config),
            resume="allow",
            mode=mode,
            settings=wandb.Settings(console="off", silent=mode != "online"),
        )
        self._wandb.define_metric("update")
        self._wandb.define_metric("*", step_metric="update")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """A row with its own axis: wandb's steps are the rows."""
        self._wandb.log({"update": step, **values})

    def on_end(self, status: str, result: dict[str, Any] | None) -> None:
        """Summary and exit code."""
        self._wandb.summary.update({"status": status, **_final(result)})
        self._wandb.finish(exit_code=0 if status in SUCCESS else 1)


class MLflow(Numbers):
    """A run of the experiment MLFLOW_EXPERIMENT_NAME, by default "tether", at MLFLOW_TRACKING_URI, by default the file
    `mlflow.db` beside the run folder: mlflow ui --backend-store-uri sqlite:///runs/mlflow.db"""

    package = "mlflow"
    STATES = dict.fromkeys(SUCCESS, "FINISHED") | {"interrupted": "KILLED"}

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        super().__init__()
        from mlflow.tracking import MlflowClient

        beside = folder.resolve().parent
        known = recall(folder, "mlflow")
        uri = known.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI") or _mlflow_database(beside)
        self._client = MlflowClient(tracking_uri=uri)
        if "run_id" in known:
            self._id = known["run_id"]
            self._client.update_run(self._id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._id = self._client.create_run(experiment, run_name=folder.resolve().name).info.run_id
        remember(folder, "mlflow", run_id=self._id, tracking_uri=uri)
        for key, value in _parameters(config).items():
            self._client.log_param(self._id, key, value)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """All in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def on_end(self, status: str, result: dict[str, Any] | None) -> None:
        """Outcome and state."""
        self._client.set_tag(self._id, "status", status)
        for name, value in _final(result).items():
            self._client.log_metric(self._id, name, value)
        self._client.set_terminated(self._id, self.STATES.get(status, "FAILED"))


class Trackio(Numbers):
    """A run of the local project "tether": trackio show --project tether"""

    package = "trackio"

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        super().__init__()
        import trackio

        run_name = _run_id(folder, "trackio", f"{folder.resolve().name}-{secrets.token_hex(2)}")
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            self._trackio = trackio.init(
                PROJECT,
                name=run_name,
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """A row."""
        self._trackio.log(dict(values), step=step)

    def on_end(self, status: str, result: dict[str, Any] | None) -> None:
        """Wait until all is written."""
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.finish()


def _mlflow_database(folder: Path) -> str:
    """`mlflow.db` in `folder`, which is there with all of MLflow's tables or not at all: they take seconds, in which a
    run may end or another one look for them."""
    from mlflow.tracking import MlflowClient

    path = folder / "mlflow.db"
    if not path.exists():
        prefix = f"{TEMPORARY_PREFIX}{path.name}-"
        with tempfile.TemporaryDirectory(temporary_suffix(), prefix, folder) as temporary:
            made = Path(temporary) / path.name
            client = MlflowClient(tracking_uri=f"sqlite:///{made}")
            client.create_experiment(PROJECT, (folder / "mlartifacts").as_uri())
            with contextlib.suppress(FileExistsError):  # another run was faster
                os.link(made, path)
    return f"sqlite:///{path}"


def _run_id(folder: Path, name: str, new: str) -> str:
    """The id of the logger's run: what was kept, else `new`, which is kept before it is used."""
    known = recall(folder, name)
    if "run_id" not in known:
        remember(folder, name, run_id=new)
    return known.get("run_id", new)


def _parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a table of runs compares: names and hyper-parameters."""
    seeds = [lane["seed"] for lane in config["lanes"]]
    about = {"algorithm": config["algorithm"], "dataset": config["data"]["dataset"], "seeds": seeds}
    return about | config["hyperparameters"]


def _final(result: Mapping[str, Any] | None) -> dict[str, float]:
    """The outcome of a run, for a table of runs."""
    last = None if result is None else result["last"]
    return {} if last is None else {"final/score": last["mean"], "final/iqm": last["iqm"]}


LOGGERS = registry("logger").provide(
    {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow, "trackio": Trackio}
)
