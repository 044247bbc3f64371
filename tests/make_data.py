"""Small data sets in D4RL's layout, and the one tiny configuration that the tests of runs share.

Compiling a training program takes seconds, its few hundred updates here take milliseconds. So all tests train the
same program (two lanes, these sizes) and share what was compiled (conftest.py).
"""

import atexit
import contextlib
import functools
import hashlib
import io
import json
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tether import DTQL, Options, cli, train

SCRATCH = Path(tempfile.mkdtemp(prefix="tether-tests-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)

PRETRAIN, TRAIN = 150, 250
SETTINGS = Options(batch_size=32, eval_every_updates=100, eval_episodes=2, log_every_updates=70)
OPTIONS = [
    *("--updates", str(TRAIN), "--pretrain-updates", str(PRETRAIN), "--batch-size", "32", "--eval-episodes", "2"),
    *("--eval-every-updates", "100", "--log-every-updates", "70"),
    *("--set", "hidden_sizes=16,16", "denoiser_hidden_sizes=16,16", "candidates=8"),
]
"""The same on the command line."""


def algorithm(**changes: Any) -> DTQL:
    """DTQL, as small as it works."""
    sizes = {"hidden_sizes": (16, 16), "denoiser_hidden_sizes": (16, 16), "candidates": 8}
    return DTQL(**{**sizes, "pretrain_updates": PRETRAIN, "train_updates": TRAIN, **changes})


def columns(rows: int = 400, length: int = 100, observation_size: int = 11, action_size: int = 3) -> dict[str, Any]:
    """Random experience of Hopper's sizes: episodes of `length` rows that end in a time-out."""
    generator = np.random.default_rng(5)
    timeouts = np.zeros(rows, bool)
    timeouts[length - 1 :: length] = True
    return {
        "observations": generator.normal(2.0, 3.0, (rows, observation_size)).astype(np.float32),
        "actions": np.tanh(generator.normal(size=(rows, action_size))).astype(np.float32),
        "rewards": generator.normal(size=rows).astype(np.float32),
        "terminals": np.zeros(rows, bool),
        "timeouts": timeouts,
    }


def write_d4rl(path: Path, **changes: Any) -> Path:
    """A D4RL file of `columns()`, with some replaced, or left out where None is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, column in {**columns(), **changes}.items():
            if column is not None:
                file[name] = column
    return path


@functools.cache
def data_file() -> Path:
    """A data set whose name says that it is of Hopper."""
    return write_d4rl(SCRATCH / "hopper-medium.hdf5")


@functools.cache
def finished_run() -> Path:
    """The run of seeds 0 and 1 without any trouble. Tests read it; those that change something copy it first."""
    return train(algorithm(), str(data_file()), seeds=2, options=SETTINGS, out=SCRATCH / "run", quiet=True).folder


def copy_run(target: Path) -> Path:
    """A copy of `finished_run`."""
    return Path(shutil.copytree(finished_run(), target))


def tether(*arguments: Any) -> tuple[int, str, str]:
    """The command line in this process: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
    return (0 if code is None else code), out.getvalue(), err.getvalue()


def documented_words(page: str, beginning: str, folder: Path) -> list[str]:
    """The words after `tether` of the command in docs/`page` that begins so, its files in `folder`."""
    lines = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8").splitlines()
    typed = next(line for line in lines if line.startswith(beginning))
    return [str(folder / word) if word.endswith((".hdf5", ".jsonl")) else word for word in shlex.split(typed)[1:]]


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, read strictly."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path} holds {constant}")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def last_state(folder: Path) -> str:
    """The hash of everything that training carries, at its end."""
    return digest(folder / "checkpoints" / f"train-{TRAIN:09d}" / "state.safetensors")


def outcome(folder: Path) -> dict[str, str]:
    """Hashes of everything in a run that must not depend on when and how often it was interrupted."""
    names = ["metrics.jsonl", "evaluations.jsonl", "policy/policy.safetensors"]
    names += [f"policies/lane-{lane}/policy.safetensors" for lane in (0, 1)]
    return {name: digest(folder / name) for name in names} | {"state": last_state(folder)}


def snapshot(folder: Path) -> dict[str, str]:
    """Every file and its hash."""
    return {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
