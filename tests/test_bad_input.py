"""Every kind of bad input: one line on stderr, exit code 2, no traceback, nothing written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from make_data import OPTIONS, columns, data_file, rows, tether, write_d4rl

from tether import api
from tether.machine import files

COLUMNS = columns()


def refused(*arguments: Any, code: int = 2) -> str:
    """The one line that refuses, without `tether: error: `."""
    found, out, err = tether(*arguments)
    assert (found, out) == (code, "")
    assert err.count("\n") == 1, err
    assert err.startswith("tether: error: ")
    assert "Traceback" not in err
    return err.removeprefix("tether: error: ").strip()


def changed(name: str, index: Any, value: float) -> dict[str, np.ndarray]:
    """One column with one entry replaced."""
    column = COLUMNS[name].copy()
    column[index] = value
    return {name: column}


# --- data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        (
            {"actions": None},
            ["'actions'", "'observations'", "needs observations, actions, terminals and may have rewards"],
        ),
        ({"actions": None, "terminals": None}, ["'actions'", "'terminals'"]),
        ({name: column[:0] for name, column in COLUMNS.items()}, ["no rows"]),
        ({"rewards": COLUMNS["rewards"][:-1]}, ["rewards has 399 rows", "400"]),
        ({"actions": COLUMNS["actions"][:-1]}, ["actions has 399 rows", "400"]),
        ({"next_observations": COLUMNS["observations"][:-3]}, ["next_observations has 397 rows", "400"]),
        (changed("observations", (3, 2), np.nan), ["observations", "nan", "row 3, entry 2"]),
        (changed("rewards", 5, np.inf), ["rewards", "inf", "row 5"]),
        (changed("actions", (0, 1), np.nan), ["actions", "nan", "row 0, entry 1"]),
        (changed("actions", (7, 1), 2.0), ["actions", "2", "row 7", "[-1, 1]"]),
        ({"actions": COLUMNS["actions"][:, 0]}, ["actions", "(400,)", "(rows, size)"]),
        ({"observations": COLUMNS["observations"][:, 0]}, ["observations", "(400,)"]),
        ({"rewards": COLUMNS["actions"]}, ["rewards", "(400, 3)"]),
        ({"terminals": np.full(400, 7)}, ["terminals", "7"]),
        ({"rewards": np.array([b"one"] * 400)}, ["rewards", "type"]),
    ],
)
def test_data_that_cannot_be_trained_on(tmp_path: Path, replaced: dict[str, Any], words: list[str]) -> None:
    path, out = write_d4rl(tmp_path / "hopper-medium.hdf5", **replaced), tmp_path / "run"
    for command in (["train", "dtql", path, "--out", out], ["data", "show", path]):
        message = refused(*command)
        assert str(path) in message
        for word in words:
            assert word in message
    assert not out.exists()


@pytest.mark.parametrize(
    "source", ["missing.hdf5", "folder.hdf5", "text.hdf5", "cut.hdf5", "empty.hdf5", "notes.txt", "."]
)
def test_files_that_are_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.hdf5").mkdir()
    (tmp_path / "text.hdf5").write_text("observations, actions")
    (tmp_path / "empty.hdf5").touch()
    (tmp_path / "notes.txt").write_text("hello")
    whole = write_d4rl(tmp_path / "cut.hdf5").read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(whole[: len(whole) // 2])
    before = sorted(tmp_path.rglob("*"))
    for command in (["train", "dtql", source], ["data", "show", source]):
        assert source in refused(*command)
    assert sorted(tmp_path.rglob("*")) == before  # not even runs/


def test_a_group_in_place_of_a_column(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "data.hdf5", actions=None)
    with h5py.File(path, "a") as file:
        file.create_group("actions")
    assert "'actions' is a group" in refused("train", "dtql", path)


def test_an_unknown_bundled_name_lists_those_there_are() -> None:
    assert "halfcheetah-medium-replay-small" in refused("train", "dtql", "halfcheetah-small")


def test_a_single_episode_is_enough(tmp_path: Path) -> None:
    one = {name: column[:397] for name, column in COLUMNS.items()}
    one["timeouts"] = np.zeros(397, bool)
    path = write_d4rl(tmp_path / "hopper-medium.hdf5", **{**one, "terminals": np.arange(397) == 396})
    code, printed, _ = tether("data", "show", path)
    assert code == 0
    assert "episodes                 │ 1 " in printed
    options = ["--updates", 40, "--log-every-updates", 20, "--batch-size", 32, "--set", "hidden_sizes=8", "--seeds", 2]
    code, _, errors = tether("train", "bc", path, *options, "--environment", "none", "--out", tmp_path / "run")
    assert code == 0, errors
    assert len(rows(tmp_path / "run" / "metrics.jsonl")) == 4


def test_a_single_row_can_be_shown_but_not_trained_on(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "one.hdf5", **{name: column[:1] for name, column in COLUMNS.items()})
    code, printed, _ = tether("data", "show", path)
    assert code == 0
    assert "no transition is left" in printed
    assert "no transition is left" in refused("train", "dtql", path, "--out", tmp_path / "run")


def test_a_task_of_another_size(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "walker2d-medium.hdf5")
    message = refused("train", "dtql", path, "--out", tmp_path / "run")
    assert "size 11" in message
    assert "walker2d" in message
    assert "17" in message


def test_d4rl_by_name_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TETHER_OFFLINE", "1")
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    for command in (("train", "dtql"), ("data", "show")):
        message = refused(*command, "d4rl:hopper-medium-v2")
        assert str(tmp_path / "d4rl" / "gym_mujoco_v2" / "hopper_medium-v2.hdf5") in message
    assert "did you mean hopper-medium-v2" in refused("data", "show", "d4rl:hopper-medim-v2")
    assert list(tmp_path.iterdir()) == []


# --- names and numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dtlq"], ["unknown algorithm 'dtlq'", "dtql"]),
        (["--preset", "hopper-medum-v2"], ["unknown dtql preset 'hopper-medum-v2'", "hopper-medium-v2"]),
        (["--environment", "hoper"], ["unknown environment 'hoper'", "hopper"]),
        (["--environment", "pen"], ["'pen'", "45 and 24"]),
        (["--set", "expectil=0.9"], ["unknown hyper-parameter of dtql 'expectil'", "expectile"]),
        (["--set", "expectile"], ["--set 'expectile'", "name=value"]),
        (["--set", "=1"], ["--set '=1'"]),
        (["--set", "expectile="], ["--set 'expectile='"]),
        (["--set", "expectile=high"], ["expectile='high'", "a finite number"]),
        (["--set", "expectile=nan"], ["expectile='nan'", "a finite number"]),
        (["--set", "expectile=0.8", "expectile=0.9"], ["'expectile' is given twice"]),
        (["--set", "candidates=2.5"], ["candidates='2.5'", "a whole number"]),
        (["--set", "candidates=0"], ["candidates 0", "1 to 100,000"]),
        (["--set", "hidden_sizes=16,-16"], ["hidden_sizes", "-16", "each 1 to 100,000"]),
        (["--set", "discount=1.5"], ["discount 1.5", "0 to 1"]),
        (["--set", "learning_rate=-1"], ["learning_rate -1", "at least 0"]),
        (["--sweep", "discount=0.9,1.5"], ["discount 1.5", "0 to 1"]),
        (["--set", "q_normalization=max"], ["q_normalization='max'", "none, mean-abs"]),
        (["--set", "actor_kind=implicit", "log_likelihood_weight=1"], ["log_likelihood_weight must be 0"]),
        (["--sweep", "expectile"], ["--sweep 'expectile'"]),
        (["--sweep", "expectile=0.7,high"], ["--sweep 'expectile=0.7,high'", "numbers"]),
        (["--sweep", "expectile=0.7,"], ["--sweep 'expectile=0.7,'"]),
        (["--sweep", "expectile=0.7,0.7"], ["distinct"]),
        (["--sweep", "expectile=0.7,inf"], ["finite"]),
        (["--sweep", "expectil=0.7,0.8"], ["unknown hyper-parameter 'expectil'", "expectile"]),
        (["--sweep", "candidates=8,16"], ["'candidates'", "--set"]),
        (["--updates", "0"], ["updates 0", "at least 1"]),
        (["--updates", "-5"], ["updates -5", "at least 0"]),
        (["--pretrain-updates", "-1"], ["pretrain_updates -1", "at least 0"]),
        (["--seeds", "0"], ["seeds 0", "at least 1"]),
        (["--seeds", "-2"], ["seeds -2", "at least 1"]),
        (["--first-seed", "-1"], ["seeds [-1]", "from 0"]),
        (["--first-seed", "99999999999"], ["seeds [99999999999]"]),
        (["--batch-size", "0"], ["batch_size 0", "at least 1"]),
        (["--batch-size", "100000"], ["batch size 100000", "the data: 396 transitions; at most --batch-size 396"]),
        (["--eval-episodes", "0"], ["eval_episodes 0", "at least 1"]),
        (["--eval-every-updates", "0"], ["eval_every_updates 0", "at least 1"]),
        (["--log-every-updates", "-3"], ["log_every_updates -3", "at least 1"]),
        (["--reward-transform", "standardize"], ["unknown reward transform 'standardize'", "standardise"]),
        (["--observation-transform", "standardize"], ["unknown observation transform 'standardize'", "standardise"]),
    ],
)
def test_names_and_numbers(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    out = tmp_path / "run"
    if arguments[0].startswith("--"):
        arguments = ["dtql", *arguments]
    message = refused("train", arguments[0], data_file(), *arguments[1:], "--out", out)
    for word in words:
        assert word in message
    assert not out.exists()


@pytest.mark.parametrize("episodes", ["0", "-1"])
def test_no_episodes(tmp_path: Path, episodes: str) -> None:
    assert f"episodes {episodes}" in refused("evaluate", tmp_path, "--episodes", episodes)


# --- the out folder -----------------------------------------------------------------------------------------


def _file(path: Path) -> None:
    path.write_text("mine")


def _folder(path: Path) -> None:
    (path / "thesis").mkdir(parents=True)


@pytest.mark.parametrize("make", [_folder, _file])
def test_what_exists_is_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    out = tmp_path / "run"
    make(out)
    message = refused("train", "dtql", data_file(), "--out", out)
    assert f"{out}: exists already" in message
    assert {path.name for path in tmp_path.rglob("*")} <= {"run", "thesis"}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "run"
    assert str(out) in refused("train", "dtql", data_file(), "--out", out)
    assert "/proc/run" in refused("train", "dtql", data_file(), "--out", "/proc/run")


def test_a_full_disk_at_the_start_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_synced", fail)
    out = tmp_path / "run"
    assert "No space left on device" in refused("train", "dtql", data_file(), *OPTIONS, "--out", out, code=1)
    assert not out.exists()


# --- pictures -----------------------------------------------------------------------------------------------


def test_plot_of_nothing(tmp_path: Path) -> None:
    refused("plot")
    assert str(tmp_path) in refused("plot", tmp_path)


# --- Ctrl-C where there is no run yet -----------------------------------------------------------------------


def test_ctrl_c_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: str, **_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "load_dataset", interrupted)
    code, out, err = tether("train", "dtql", data_file(), "--out", tmp_path / "run")
    assert (code, out, err) == (130, "", "tether: stopped\n")
    assert not (tmp_path / "run").exists()
