"""Columns that a phase makes of the data set: each lane's and row's own, however they are cut, stopped and resumed."""

import functools
import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_data import data_file, tether

from tether import load_policy
from tether.algorithms.interface import Derive, Phase
from tether.runs import run
from tether.training import derive, groups
from tether.training.derive import derive_columns, derived_shapes
from tether.types import Array, Transition

ROWS, LANES = 10, 2
KEYS = jnp.stack([jax.random.key(seed) for seed in range(LANES)])


class Toy:
    """Not an algorithm, but enough of one: its columns are a state's number times a reward, and noise."""

    def phases(self) -> tuple[Phase, ...]:
        each = Derive(lambda state, row, key: (state * row.reward, jax.random.normal(key)))
        sums = Derive(lambda state, row, key: row.reward, lambda column, data: jnp.cumsum(column) + data.terminal)
        return (Phase("none", 1, _never), Phase("each", 1, _never, each), Phase("train", 1, _never, sums))


def _never(*_: Any) -> Any:
    raise AssertionError("an update was run")


jax.tree_util.register_static(Toy)


def data(rows: int = ROWS) -> Transition:
    reward = jnp.arange(rows, dtype=jnp.float32)
    return Transition(jnp.zeros((rows, 1)), jnp.zeros((rows, 1)), reward, jnp.zeros((rows, 1)), jnp.ones(rows))


@pytest.mark.parametrize("piece", [1, 3, 4, 10, 512])
def test_rows_do_not_depend_on_how_they_are_cut(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derive, "PIECE_ROWS", piece)
    told: list[tuple[int, int]] = []
    state = jnp.asarray([2.0, 3.0])
    found = derive_columns(Toy(), state, KEYS, data(), phase=1, on_piece=lambda done, rows: told.append((done, rows)))
    product, noise = found
    np.testing.assert_array_equal(product, np.outer([2.0, 3.0], np.arange(ROWS)))
    np.testing.assert_array_equal(noise, reference_noise())
    assert len(np.unique(noise)) == LANES * ROWS
    assert told[-1] == (LANES * ROWS, LANES * ROWS)
    assert len(told) == LANES * -(-ROWS // piece)


@functools.cache
def reference_noise() -> np.ndarray:
    """A key for every row: lane, phase, beyond all updates, row."""

    def noise(lane: int, row: int) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(KEYS[lane], 1), 2**31 - 1)
        return jax.random.normal(jax.random.fold_in(key, row))

    return np.array([[float(noise(lane, row)) for row in range(ROWS)] for lane in range(LANES)], np.float32)


def test_the_whole_column_is_finished_together() -> None:
    found = derive_columns(Toy(), jnp.zeros(LANES), KEYS, data(), phase=2)
    np.testing.assert_array_equal(found, np.tile(np.cumsum(np.arange(ROWS)) + 1.0, (LANES, 1)))
    assert derive_columns(Toy(), jnp.zeros(LANES), KEYS, data(), phase=0) is None


def test_shapes_are_known_beforehand() -> None:
    shapes = derived_shapes(Toy(), jnp.asarray(1.0), data(), 1)
    assert [shape.shape for shape in shapes] == [(ROWS,), (ROWS,)]
    assert derived_shapes(Toy(), jnp.asarray(1.0), data(), 2).shape == (ROWS,)
    assert derived_shapes(Toy(), jnp.asarray(1.0), data(), 0) is None


# --- a whole run: SfBC, whose second and third phase make columns ---

ARGUMENTS = [
    *("train", "sfbc", data_file(), "--environment", "none", "--preset", "none", "--updates", "40"),
    *("--batch-size", "32", "--log-every-updates", "20", "--seeds", "2", "--quiet"),
    *("--set", "hidden_sizes=8", "score_widths=8,4", "solver_calls=3", "support_actions=2", "candidates=4"),
    *("behaviour_updates=0", "critic_updates=0"),
]


def final_state(folder: Path) -> str:
    return hashlib.sha256((folder / "checkpoints" / "train-000000040" / "state.safetensors").read_bytes()).hexdigest()


@functools.cache
def whole_run(folder: Path) -> str:
    assert tether(*ARGUMENTS, "--out", folder)[0] == 0
    return final_state(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    whole_run(folder)
    return folder


@pytest.mark.long
def test_a_policy_with_a_number_is_saved_and_loaded(whole: Path) -> None:
    action = load_policy(whole)(np.zeros(11, np.float32))
    assert np.abs(action).max() <= 1.0


@pytest.mark.parametrize("moment", ["deriving", "training"])
def test_a_run_stopped_there_resumes_to_the_same_bits(
    moment: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, stop = tmp_path / "run", lambda: os.kill(os.getpid(), signal.SIGINT)
    if moment == "deriving":
        real = groups.derive_columns

        def derive_and_stop(*arguments: Any, phase: int, on_piece: Any) -> Any:
            def piece(done: int, rows: int) -> None:
                if phase == 2:
                    stop()
                on_piece(done, rows)

            return real(*arguments, phase=phase, on_piece=piece)

        monkeypatch.setattr(groups, "derive_columns", derive_and_stop)
    else:
        run_piece = run.Run._run_piece

        def run_and_stop(self: run.Run, count: int) -> None:
            if self.position == (2, 20):
                stop()
            run_piece(self, count)

        monkeypatch.setattr(run.Run, "_run_piece", run_and_stop)
    assert tether(*ARGUMENTS, "--out", out)[0] == 130
    monkeypatch.undo()
    assert tether("resume", out, "--quiet")[0] == 0
    assert final_state(out) == final_state(whole)
    assert (out / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
