"""Rows by their clock: sorted where that is known to be right, left or refused where it would mix runs."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tether.data import Dataset, load_dataset
from tether.data.logs.columns import ColumnOptions
from tether.data.logs.importing import import_logs
from tether.errors import InputError

RUNS = [(run, step) for run in range(4) for step in range(5)]


def imported(folder: Path, rows: list[str], head: str = "t,x,u,r,done,run", **options: Any) -> Dataset:
    path = folder / "log.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    import_logs([path], ColumnOptions(("x",), ("u",), reward="r", time="t", **options), folder / "out.hdf5")
    return load_dataset(str(folder / "out.hdf5"))


def rows_of(times: Any = None) -> list[str]:
    """Four runs of five steps; x is 10 run + step."""
    return [
        f"{step if times is None else times(run, step)},{10 * run + step},0.5,{step},{int(step == 4)},{run}"
        for run, step in RUNS
    ]


AS_RECORDED = [10 * run + step for run, step in RUNS]


@pytest.mark.parametrize("flag", ["terminal", "truncated"])
@pytest.mark.parametrize("times", [None, lambda run, step: step + 0.013 * run])
def test_a_clock_that_starts_anew_where_flags_tell_the_runs(flag: str, times: Any, tmp_path: Path) -> None:
    data = imported(tmp_path, rows_of(times), **{flag: "done"})
    assert data.observations[:, 0].tolist() == AS_RECORDED
    assert np.flatnonzero(data.terminals | data.timeouts).tolist() == [4, 9, 14, 19]


@pytest.mark.parametrize("options", [{"episode": "none"}, {"max_gap": 10.0}])
@pytest.mark.parametrize("times", [None, lambda run, step: step + 0.013 * run])
def test_where_nothing_tells_them_apart_it_is_refused(options: dict[str, Any], times: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--time t: the clock goes back in row 5, as if another run began"):
        imported(tmp_path, rows_of(times), **options)


def test_shuffled_rows_are_sorted(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(RUNS))
    absolute = rows_of(lambda run, step: 100 * run + step)
    data = imported(tmp_path, [absolute[i] for i in order], terminal="done")
    assert data.observations[:, 0].tolist() == AS_RECORDED
    data = imported(tmp_path / "..", [absolute[i] for i in order], episode="none")
    assert data.observations[:, 0].tolist() == AS_RECORDED


def test_two_recordings_in_the_wrong_order_are_sorted(tmp_path: Path) -> None:
    absolute = rows_of(lambda run, step: 100 * run + step)
    data = imported(tmp_path, absolute[10:] + absolute[:10], episode="none")
    assert data.observations[:, 0].tolist() == AS_RECORDED


def test_each_labelled_run_is_sorted_by_its_own_clock(tmp_path: Path) -> None:
    plain = rows_of()
    mixed = [plain[5 * run + step] for run in range(4) for step in (3, 0, 4, 1, 2)]
    data = imported(tmp_path, mixed, episode="run")
    assert data.observations[:, 0].tolist() == AS_RECORDED


@pytest.mark.parametrize("files", [1, 2])
def test_runs_that_are_numbered_alike_are_not_mixed(files: int, tmp_path: Path) -> None:
    """Two runs called 0, in a file each or one behind the other. Without a clock it is said that a file goes on."""
    runs = [[f"{step / 10},{10 * run + step},0.5,{step},0,0" for step in range(6)] for run in (0, 1)]
    paths = [tmp_path / f"log{number}.csv" for number in range(files)]
    for path, rows in zip(paths, runs if files == 2 else [runs[0] + runs[1]], strict=True):
        path.write_text("\n".join(["t,x,u,r,done,run", *rows]) + "\n")
    options = ColumnOptions(("x",), ("u",), reward="r", episode="run")
    with pytest.raises(InputError, match=r"--time t: the clock goes back in row 6, .* runs are numbered alike"):
        import_logs(paths, dataclasses.replace(options, time="t"), tmp_path / "out.hdf5")
    if files == 2:
        done = import_logs(paths, options, tmp_path / "out.hdf5")
        assert any(note.startswith("1 episodes go on in the next file") for note in done.assumed)
    flagged = dataclasses.replace(options, time="t", terminal="done")
    for path in paths:
        path.write_text(path.read_text().replace("0.5,5,0,", "0.5,5,1,"))
    import_logs(paths, flagged, tmp_path / "flagged.hdf5")
    data = load_dataset(str(tmp_path / "flagged.hdf5"))
    assert data.observations[:, 0].tolist() == [*range(6), *range(10, 16)]


def test_times_of_the_day_go_on_over_midnight(tmp_path: Path) -> None:
    seconds = [23 * 3600 + 59 * 60 + 50 + 2 * i for i in range(20)]
    rows = [f"{s // 3600 % 24:02d}:{s // 60 % 60:02d}:{s % 60:02d},{i},0.5,{i},0,0" for i, s in enumerate(seconds)]
    for options in ({}, {"time_format": "%H:%M:%S"}):
        folder = tmp_path / str(len(options))
        folder.mkdir()
        data = imported(folder, rows, episode="none", max_gap=10.0, **options)
        assert data.observations[:, 0].tolist() == list(range(20))
        assert len(data.episode_bounds().starts) == 1  # midnight is no gap


def test_what_float32_does_not_hold_is_said(tmp_path: Path) -> None:
    seconds = 1_700_000_000.0 + np.arange(27)
    rows = [f"{int(t)},{i / 7},0.5,{i},0,0" for i, t in enumerate(seconds)]
    (tmp_path / "log.csv").write_text("\n".join(["t,x,u,r,done,run", *rows]) + "\n")
    done = import_logs(
        [tmp_path / "log.csv"], ColumnOptions(("t", "x"), ("u",), reward="r", episode="run"), tmp_path / "out.hdf5"
    )
    assert [note for note in done.assumed if note.startswith("'t': 27 different values become 1 in float32")]
    matrix, flags = np.stack([np.arange(27) / 7, seconds], axis=1), np.zeros(27, bool)
    data = Dataset.from_arrays(matrix, np.zeros((27, 1)), np.arange(27.0), flags, timeouts=flags)
    assert data.notes == ("observation 1: 27 different values become 1 in float32; subtract its beginning",)
    fine = Dataset.from_arrays(matrix - [0, 1.7e9], np.zeros((27, 1)), np.arange(27.0), flags, timeouts=flags)
    assert fine.notes == ()


def test_environments_side_by_side(tmp_path: Path) -> None:
    """(steps, environments, numbers), with flags in the midst of rows, as vector environments record them."""
    steps, count = 12, 3
    generator = np.random.default_rng(0)
    arrays = {
        "obs": generator.normal(size=(steps, count, 2)).astype(np.float32),
        "act": generator.uniform(-1, 1, (steps, count, 1)).astype(np.float32),
        "rew": generator.normal(size=(steps, count)).astype(np.float32),
        "done": np.zeros((steps, count), bool),
    }
    arrays["done"][[3, 7, 11], [0, 1, 2]] = True
    np.savez(tmp_path / "log.npz", **arrays)
    how = {"reward": "rew", "terminal": "done"}
    with pytest.raises(InputError, match=r"'done' is set in step 0 of row 3, before its last step: .* --side-by-side"):
        import_logs([tmp_path / "log.npz"], ColumnOptions(("obs",), ("act",), **how), tmp_path / "out.hdf5")
    options = ColumnOptions(("obs",), ("act",), side_by_side=True, **how)
    done = import_logs([tmp_path / "log.npz"], options, tmp_path / "out.hdf5")
    assert any("3 environments of 12 steps, side by side" in note for note in done.assumed)
    data = load_dataset(str(tmp_path / "out.hdf5"))
    np.testing.assert_array_equal(data.observations, arrays["obs"].transpose(1, 0, 2).reshape(-1, 2))
    assert np.flatnonzero(data.terminals).tolist() == [3, 12 + 7, 24 + 11]
    assert np.flatnonzero(data.timeouts).tolist() == [11, 23]  # where the recording of an environment was cut
