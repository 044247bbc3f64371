"""A run finds its data where they lie now, by their SHA-256; and says what else is not as it was."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from make_data import copy_run, data_file, digest, tether

from tether import InputError, load_dataset
from tether.runs.config import config_of, restored_plan
from tether.runs.moved import find_source, findable, relative_source
from tether.studies.compare import Protocol

SHA256 = load_dataset(str(data_file())).source.sha256
GONE = "/gone/data/hopper-medium.hdf5"
NAME = "hopper-medium.hdf5"


def put(path: Path) -> Path:
    """The data at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(data_file(), path))


def changed(run: Path, **entries: object) -> None:
    """Change entries of the part `data` of config.json."""
    config = json.loads((run / "config.json").read_text())
    config["data"] |= entries
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("place", ["data", "project/runs", "project/runs/mine", "project", "elsewhere"])
def test_data_are_found_where_they_may_have_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    run = tmp_path / "project" / "runs" / "mine"
    run.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_source(GONE, "../../../data/hopper-medium.hdf5", SHA256, run) == GONE
    (tmp_path / "project" / NAME).write_text("others of the same name")
    now = put(tmp_path / place / NAME)
    assert find_source(GONE, "../../../data/hopper-medium.hdf5", SHA256, run) == str(now)
    assert find_source(GONE, None, "0" * 64, run) == GONE


def test_places_that_may_not_be_entered_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A colleague's run: its data lay in a folder that is closed to others, and were copied with it."""
    stat, closed = os.stat, tmp_path / "closed"

    def refused(path: Any, *arguments: Any, **how: Any) -> Any:
        if str(path).startswith(str(closed)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *arguments, **how)

    now, was = put(tmp_path / "runs" / NAME), closed / NAME
    monkeypatch.setattr(os, "stat", refused)
    assert find_source(str(was), "../../closed/hopper-medium.hdf5", SHA256, tmp_path / "runs" / "mine") == str(now)
    assert findable(str(was)) == str(was)


def test_what_is_no_path_is_not_looked_for(tmp_path: Path) -> None:
    for source in ("halfcheetah-medium-replay-small", "d4rl:hopper-medium-v2", "minari:D4RL/door/human-v2"):
        assert find_source(source, None, SHA256, tmp_path) == source
        assert relative_source(source, tmp_path) is None
    assert find_source(f"own:{GONE}", None, SHA256, tmp_path) == f"own:{GONE}"


def test_a_relative_path_means_the_folder_that_it_was_read_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program goes elsewhere before it trains."""
    path, elsewhere = put(tmp_path / NAME), tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    source = load_dataset(NAME).source
    monkeypatch.chdir(elsewhere)
    assert source.location == NAME  # as the user calls it
    assert findable(source) == str(path.resolve())
    assert relative_source(source, elsewhere / "runs" / "mine") == f"../../../{NAME}"
    assert source.sha256 == SHA256


def test_run_and_data_move_together(tmp_path: Path) -> None:
    """The first folder is where the run was made, the second where both are now; nothing else tells."""
    before, after = tmp_path / "before", tmp_path / "after"
    put(before / "data" / NAME)
    run = copy_run(before / "runs" / "mine")
    source = str(before / "data" / NAME)
    changed(run, source=source, relative_source=relative_source(source, run))
    before.rename(after)
    run = after / "runs" / "mine"
    assert tether("evaluate", run, "--episodes", 1, "--quiet")[0] == 0
    assert json.loads((run / "config.json").read_text())["data"]["source"] == source  # who only reads changes nothing
    code, _, err = tether("resume", run)
    assert code == 0
    assert f"data: at {after / 'data' / NAME} now" in err
    data = json.loads((run / "config.json").read_text())["data"]
    assert (data["source"], data["relative_source"]) == (str(after / "data" / NAME), f"../../data/{NAME}")


def test_data_are_named_and_others_refused(tmp_path: Path) -> None:
    run, now = copy_run(tmp_path / "run"), put(tmp_path / "far" / "away" / "renamed-hopper-medium.hdf5")
    changed(run, source=GONE, relative_source=None)
    code, _, err = tether("resume", run, "--quiet")
    assert (code, err.count("\n")) == (2, 1)
    assert GONE in err
    assert tether("evaluate", run, "--data", now, "--episodes", 1, "--quiet")[0] == 0
    plan = restored_plan(run, True, dataset=str(now))
    assert config_of(plan)["data"]["source"] == str(now)
    now.write_bytes(now.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="not the file this run trained on"):
        restored_plan(run, True, dataset=str(now))
    assert digest(now) != SHA256


def test_packages_of_another_version_are_named(tmp_path: Path) -> None:
    run = copy_run(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["versions"] |= {"jax": "0.0.1", "numpy": "0.0.2"}
    (run / "config.json").write_text(json.dumps(config))
    _, _, err = tether("resume", run, "--quiet")
    now = {name: __import__(name).__version__ for name in ("jax", "numpy")}
    assert err == (
        f"jax 0.0.1 is now {now['jax']}, numpy 0.0.2 is now {now['numpy']}: numbers may differ in their last bits from "
        "those of a run that was not stopped\n"
    )
    config["versions"] |= now
    (run / "config.json").write_text(json.dumps(config))
    assert tether("resume", run, "--quiet")[2] == ""


def test_comparisons_know_the_way_too() -> None:
    assert Protocol.relative_source is None  # those of tether 0.1 do not say it
