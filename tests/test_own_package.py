"""examples/own_algorithm: a package outside the repository adds an algorithm, a reader and a logger, and every command
knows them in a fresh process; where it is not installed, what it made says what to import."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_data import digest, rows

import tether as package
from tether.algorithms.catalogue import OTHERS

ROOT = Path(__file__).parents[1]
SOURCE = str(Path(package.__file__).parents[1])
EXAMPLE = ROOT / "examples" / "own_algorithm"
SIZES = ("--batch-size", "16", "--set", "hidden_sizes=8", "actions=2", "--log-every-updates", "500")
TRAIN = ("train", "crr", "jsonl:swings.jsonl", "--environment", "Pendulum-v1", "--eval-episodes", "1", *SIZES)


class Home:
    """A working folder with data, and a place where the package is installed."""

    def __init__(self, folder: Path):
        self.folder, self.installed = folder, folder / "site-packages"
        copy = folder / "source"  # nothing is written into the repository
        shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        done = self._run([*pip, "--disable-pip-version-check", "--target", str(self.installed), str(copy)])
        assert done.returncode == 0, done.stderr
        write_episodes(folder / "swings.jsonl")

    def tether(self, *words: str, installed: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in a process of its own."""
        return self._run([sys.executable, "-P", "-m", "tether", *words], installed)

    def python(self, code: str, installed: bool = True) -> subprocess.CompletedProcess[str]:
        """A program in a process of its own."""
        return self._run([sys.executable, "-P", "-c", code], installed)

    def environment(self, installed: bool = True) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": os.pathsep.join([SOURCE, *([str(self.installed)] if installed else [])])}

    def _run(self, command: list[str], installed: bool = True) -> subprocess.CompletedProcess[str]:
        how: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
        return subprocess.run(command, cwd=self.folder, env=self.environment(installed), **how)


def write_episodes(path: Path) -> None:
    """Two episodes of Pendulum's sizes."""
    generator = np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(2):
            columns = {
                "observations": generator.normal(size=(31, 3)),
                "actions": np.tanh(generator.normal(size=(30, 1))),
            }
            episode = {name: column.tolist() for name, column in columns.items()}
            file.write(json.dumps(episode | {"rewards": generator.normal(size=30).tolist()}) + "\n")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("own_package"))


def test_a_package_that_is_installed_is_known(home: Home) -> None:
    """By its entry points: nobody imports it by name."""
    code = (
        "from tether.algorithms import ALGORITHMS\n"
        "from tether.data.sources import READERS, load_dataset\n"
        "from tether.runs.loggers import LOGGERS\n"
        "import sys; assert not any(name.startswith('own_algorithm') for name in sys.modules)\n"
        "assert 'csv' in LOGGERS and ALGORITHMS.origin('crr') == 'tether-own-algorithm 0.1.0'\n"
        "data = load_dataset('jsonl:swings.jsonl')\n"
        "print(ALGORITHMS['crr'].__name__, len(data), data.name, data.source.location)\n"
    )
    done = home.python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["CRR", "60", "swings", f"jsonl:{home.folder.resolve() / 'swings.jsonl'}"]


@pytest.fixture(scope="module")
def run(home: Home) -> Path:
    """Trained to the end, with an evaluation worker and the package's own logger."""
    words = (
        "--updates",
        "3000",
        "--eval-every-updates",
        "1000",
        "--eval-workers",
        "1",
        "--logger",
        "csv",
        "--out",
        "run",
    )
    done = home.tether(*TRAIN, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    return home.folder / "run"


@pytest.mark.long
def test_the_command_line_lists_it(home: Home) -> None:
    done = home.tether("algorithms")
    assert done.returncode == 0, done.stderr
    text = done.stdout[done.stdout.index(OTHERS) :]
    assert "crr" in text
    assert "2006.15134" in text


@pytest.mark.long
def test_it_trains_with_a_worker_and_its_logger(home: Home, run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["algorithm_class"] == "own_algorithm.crr:CRR"
    assert config["algorithm_distribution"] == "tether-own-algorithm 0.1.0"
    assert config["data"]["source"] == f"jsonl:{home.folder.resolve() / 'swings.jsonl'}"
    played = [row for row in rows(run / "timeline.jsonl") if row["process"] == "worker 0" and row["what"] == "evaluate"]
    assert {row["update"] for row in played} == {1000, 2000, 3000}
    returns = {row["update"]: row["return"] for row in rows(run / "evaluations.jsonl")}
    lines = (run / "scores.csv").read_text().splitlines()
    assert lines[0] == "update,lane,return"
    assert lines[1:] == [f"{update},0,{value}" for update, value in returns.items()]


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_bits(home: Home, run: Path) -> None:
    words = ("--updates", "3000", "--eval-every-updates", "1000", "--eval-workers", "0", "--out", "killed")
    command = [sys.executable, "-P", "-m", "tether", *TRAIN, *words, "--quiet"]
    process = subprocess.Popen(command, cwd=home.folder, env=home.environment(), stderr=subprocess.PIPE)
    killed = home.folder / "killed"
    while not list((killed / "checkpoints").glob("train-*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "result.json").exists()
    elsewhere = home.folder / "elsewhere"  # the data are found from another folder, too
    elsewhere.mkdir()
    command = [sys.executable, "-P", "-m", "tether", "resume", str(killed), "--quiet"]
    done = subprocess.run(command, cwd=elsewhere, env=home.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for file in ("policy/policy.safetensors", "evaluations.jsonl"):
        assert digest(killed / file) == digest(run / file)


@pytest.mark.long
def test_it_is_evaluated_and_its_policy_loaded(home: Home, run: Path) -> None:
    done = home.tether("evaluate", "run", "--episodes", "2", "--quiet")
    assert done.returncode == 0, done.stderr
    code = "import tether; p = tether.load_policy('run'); print(type(p.algorithm).__name__, p([0.1, 0.2, 0.3]).shape)"
    assert home.python(code).stdout.strip() == "CRR (1,)"


@pytest.mark.long
def test_it_is_compared(home: Home) -> None:
    words = ("--data", "jsonl:swings.jsonl", "--environment", "Pendulum-v1", "--updates", "200", "--seeds", "1")
    small = ("--batch-size", "16", "--set", "hidden_sizes=8", "--eval-episodes", "1", "--out", "both", "--quiet")
    done = home.tether("compare", "--algorithms", "crr,bc", *words, *small)
    assert done.returncode == 0, done.stderr[-3000:]
    table = (home.folder / "both" / "comparison.md").read_text()
    assert OTHERS in table
    assert "2006.15134" in table


@pytest.mark.long
def test_without_it_what_it_made_is_refused_by_name(home: Home, run: Path) -> None:
    said = "made by own_algorithm.crr:CRR of tether-own-algorithm 0.1.0, which is not registered here"
    remedy = "install tether-own-algorithm 0.1.0, or import it: --plugin own_algorithm.crr"
    done = home.tether("resume", "run", installed=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
    assert remedy in done.stderr
    code = "import tether\ntry: tether.load_policy('run')\nexcept tether.InputError as error: print(error)"
    text = home.python(code, installed=False).stdout
    assert said in text
    assert remedy in text
    assert "nobody here reads 'jsonl:'" in home.tether("data", "show", "jsonl:swings.jsonl", installed=False).stderr


@pytest.mark.long
def test_its_own_tests_pass(home: Home) -> None:
    """`check_algorithm`, as its author runs it."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "source/tests"]
    done = home._run(command)
    assert done.returncode == 0, done.stdout[-3000:]
