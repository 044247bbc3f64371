"""An environment of one's own, registered by a module: who names the module, and what is said where nobody does."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from make_data import tether

from tether.environments.tasks import recorded_task
from tether.errors import InputError

MODULE = """
import gymnasium
from gymnasium.envs.classic_control.pendulum import PendulumEnv

gymnasium.register("Swing-v0", PendulumEnv, max_episode_steps=50)
"""
QUICK = ["--updates", "4", "--batch-size", "16", "--eval-episodes", "1", "--set", "hidden_sizes=8", "--quiet"]


def forget() -> None:
    """As a new process begins."""
    sys.modules.pop("swinging", None)
    gymnasium.registry.pop("Swing-v0", None)
    os.environ.pop("TETHER_PLUGINS", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A working folder with the module `swinging` and a set that was collected with it, and says so."""
    path = tmp_path_factory.mktemp("swinging")
    (path / "swinging.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr(sys, "path", list(sys.path))
        words = ["--policy", "random", "--rows", "200", "--name", "swings", "--out", "set", "--quiet"]
        code, _, err = tether("data", "collect", "swinging:Swing-v0", *words)
        assert code == 0, err
        (found,) = (path / "set").rglob("*.hdf5")
        shutil.copy(found, path / "swings.hdf5")
        yield path
        forget()


@pytest.fixture
def collected(folder: Path) -> Path:
    """The set, in a process that has imported nothing."""
    forget()
    return folder / "swings.hdf5"


def environment_of(run: str) -> str:
    return json.loads(Path(run, "config.json").read_text())["environment"]


def test_a_module_that_a_file_names_is_not_imported(collected: Path) -> None:
    code, _, err = tether("train", "bc", collected, *[word for word in QUICK if word != "--quiet"], "--out", "unscored")
    assert code == 0, err
    assert "training without evaluation: environment swinging:Swing-v0: a module that a file names" in err
    assert "--plugin swinging" in err
    assert "--environment swinging:Swing-v0" in err
    assert "swinging" not in sys.modules
    assert environment_of("unscored") == "none"


def test_a_plugin_or_the_option_makes_it_known(collected: Path) -> None:
    assert tether("train", "bc", collected, *QUICK, "--out", "plugged", "--plugin", "swinging")[0] == 0
    assert environment_of("plugged") == "swinging:Swing-v0"
    forget()
    assert tether("train", "bc", collected, *QUICK, "--out", "named", "--environment", "swinging:Swing-v0")[0] == 0
    assert environment_of("named") == "swinging:Swing-v0"
    forget()
    code, _, err = tether("resume", "named")  # config.json is a file, too
    assert (code, err.count("\n")) == (2, 1)
    assert "--plugin swinging" in err
    assert "swinging" not in sys.modules
    assert tether("resume", "named", "--quiet", "--environment", "swinging:Swing-v0")[0] == 0


def test_resume_adds_an_environment_to_a_run_that_has_none(collected: Path) -> None:
    assert tether("train", "bc", collected, *QUICK, "--environment", "none", "--out", "run")[0] == 0
    assert not Path("run/evaluations.jsonl").exists()
    assert tether("resume", "run", "--environment", "swinging:Swing-v0", "--quiet")[0] == 0
    assert environment_of("run") == "swinging:Swing-v0"
    assert json.loads(Path("run/config.json").read_text())["score"] == "return"
    rows = [json.loads(line) for line in Path("run/evaluations.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [4]  # the end, which is all that is left
    assert tether("evaluate", "run", "--episodes", "1", "--quiet")[0] == 0
    code, _, err = tether("resume", "run", "--environment", "hopper")
    assert (code, err.count("\n")) == (2, 1)
    assert "evaluated in swinging:Swing-v0" in err


def test_problems_of_the_path_are_explained_in_one_line(collected: Path) -> None:
    for words, expected in (
        (["--environment", "swimming:Swing-v0"], "environment swimming:Swing-v0: plugin 'swimming': no such module"),
        (["--environment", "Swing-v0"], "MODULE:Swing-v0, or --plugin MODULE"),
    ):
        code, _, err = tether("train", "bc", collected, *QUICK, "--out", "never", *words)
        assert (code, err.count("\n")) == (2, 1)
        assert expected in err
    assert "PYTHONPATH" in tether("data", "collect", "swimming:Swing-v0", "--out", "never")[2]
    assert not Path("never").exists()


def test_a_registered_id_of_nobody_here_is_explained() -> None:
    from tether.environments.make import make_environment

    task = recorded_task("Swing-v0", {}, 50, (3, 1))
    assert task is not None
    with pytest.raises(InputError, match="--plugin MODULE, or --environment MODULE:Swing-v0"):
        make_environment(task)
