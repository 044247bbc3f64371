"""Logs in tables become data sets: every row, in its episode, in the robot's units, or a line that says why not."""

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from make_data import columns as d4rl_columns
from make_data import documented_words, tether, write_d4rl

from tether.data import load_dataset
from tether.data.logs import pieces, tables
from tether.data.logs.columns import ColumnOptions
from tether.data.logs.importing import Import, import_logs, import_report
from tether.errors import InputError

ROWS = 40
EPISODES = np.repeat([7, 3, 11, 5], [10, 5, 20, 5])  # no order in the names


def log(rows: int = ROWS) -> dict[str, np.ndarray]:
    """A small log: eleven joints, of which 2 comes before 10, two torques in newton metres, four runs."""
    generator = np.random.default_rng(0)
    joints = {f"joint_{i}": np.round(generator.normal(i, 1.0, rows), 4) for i in (0, 1, 10, 2)}
    torques = {f"torque_{i}": np.round(generator.uniform(-40, 60, rows), 3) for i in range(2)}
    ends = np.append(EPISODES[1:] != EPISODES[:-1], True)[:rows]
    return {
        "stamp": np.arange(rows) * 0.02,
        **joints,
        **torques,
        "r": np.round(generator.normal(size=rows), 4),
        "run_id": EPISODES[:rows],
        "done": (ends & (EPISODES[:rows] == 3)).astype(int),
        "timeout": (ends & (EPISODES[:rows] != 3)).astype(int),
    }


def write_csv(path: Path, columns: Mapping[str, Any], mark: str = ",") -> Path:
    lines = [mark.join(columns), *(mark.join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_parquet(path: Path, columns: Mapping[str, Any]) -> Path:
    pyarrow.parquet.write_table(pa.table(dict(columns)), path, row_group_size=16)
    return path


def write_npz(path: Path, columns: Mapping[str, Any]) -> Path:
    np.savez_compressed(path, **columns)
    return path


def write_hdf5(path: Path, columns: Mapping[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file[name] = column
    return path


WRITERS: dict[str, Callable[[Path, Mapping[str, Any]], Path]] = {
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".npz": write_npz,
    ".hdf5": write_hdf5,
}
OPTIONS = ColumnOptions(("joint_*",), ("torque_*",), "r", "run_id", "done", "timeout")


def run(path: Path | list[Path], out: Path, options: ColumnOptions = OPTIONS, **changes: Any) -> tuple[Any, Import]:
    """The imported data set and the report."""
    done = import_logs(path if isinstance(path, list) else [path], dataclasses.replace(options, **changes), out)
    return load_dataset(str(out)), done


def refusal(tmp_path: Path, path: Path | list[Path], **changes: Any) -> str:
    """Why the import is refused; nothing is left of it."""
    out = tmp_path / "refused.hdf5"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        run(path, out, **changes)
    assert sorted(tmp_path.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_with_actions_in_other_units_says_how_they_are_stated(tmp_path: Path) -> None:
    """The command of docs/data.md reads it."""
    torques = 30 * d4rl_columns()["actions"]
    path = write_d4rl(tmp_path / "torques.hdf5", actions=torques)
    with pytest.raises(InputError, match="tether data import --action-low LOW --action-high HIGH"):
        load_dataset(str(path))
    code, _, wrong = tether(*documented_words("data.md", "tether data import torques.hdf5", tmp_path))
    assert (code, wrong) == (0, "")
    data = load_dataset(str(tmp_path / "arm.hdf5"))
    np.testing.assert_allclose(data.schema.box.from_unit(data.actions), torques, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [99, 199, 299, 399])


# --- what comes out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_row_arrives(tmp_path: Path, suffix: str) -> None:
    columns = log()
    data, done = run(WRITERS[suffix](tmp_path / f"log{suffix}", columns), tmp_path / "set.hdf5")
    joints = np.stack([columns[f"joint_{i}"] for i in (0, 1, 2, 10)], axis=1)
    np.testing.assert_array_equal(data.observations, joints.astype(np.float32))  # units left alone
    torques = np.stack([columns["torque_0"], columns["torque_1"]], axis=1)
    box = data.schema.box
    np.testing.assert_allclose(box.low, torques.min(axis=0).astype(np.float32))
    np.testing.assert_allclose(data.actions * box.scale + box.offset, torques, atol=1e-5)
    assert np.abs(data.actions).max() == 1
    np.testing.assert_array_equal(data.rewards, columns["r"].astype(np.float32))
    np.testing.assert_array_equal(np.flatnonzero(data.terminals), [14])
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [9, 34, 39])
    np.testing.assert_array_equal(data.episode_lengths(), [10, 5, 20, 5])
    assert data.name == "set"
    assert list(data.schema.observation) == ["joint_0", "joint_1", "joint_2", "joint_10"]
    assert list(data.schema.action) == ["torque_0", "torque_1"]
    assert (done.rows, done.episodes) == (40, 4)


@pytest.mark.parametrize("suffix", WRITERS)
def test_pieces_do_not_show(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = WRITERS[suffix](tmp_path / f"log{suffix}", log())
    options = {"time": "stamp", "reward": "r * 2 + joint_1"}
    whole, _ = run(path, tmp_path / "whole.hdf5", **options)
    for number in (300, 1000) if suffix == ".csv" else (40, 400):  # of bytes: a few rows
        monkeypatch.setattr(pieces, "PIECE_BYTES", number)
        assert len(list(tables.open_table(path).read({"joint_1": "float32", "r": "float64"}))) > 1
        in_pieces, _ = run(path, tmp_path / f"{number}.hdf5", **options)
        for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
            np.testing.assert_array_equal(getattr(in_pieces, name), getattr(whole, name))


def test_vectors_in_a_column(tmp_path: Path) -> None:
    columns = log()
    joints = np.stack([columns[f"joint_{i}"] for i in (0, 1, 2, 10)], axis=1)
    rest = {name: columns[name] for name in ("torque_0", "torque_1", "r", "run_id", "done", "timeout")}
    fixed = pa.FixedSizeListArray.from_arrays(joints.ravel(), 4)
    files = [
        write_npz(tmp_path / "a.npz", {"state": joints, **rest}),
        write_npz(tmp_path / "fortran.npz", {"state": np.asfortranarray(joints), **rest}),
        write_hdf5(tmp_path / "a.hdf5", {"robot/state": joints, **rest}),
        write_parquet(tmp_path / "a.parquet", {"state": fixed, **rest}),
        write_parquet(tmp_path / "b.parquet", {"state": joints.tolist(), **rest}),
    ]
    for number, path in enumerate(files):
        data, _ = run(path, tmp_path / f"{number}.hdf5", observation=("*state", "r"), reward="-norm(torque_0)")
        np.testing.assert_array_equal(data.observations[:, :4], joints.astype(np.float32))
        np.testing.assert_array_equal(data.observations[:, 4], columns["r"].astype(np.float32))
        assert list(data.schema.observation.values()) == [(0, 4), (4, 5)]
    ragged = write_parquet(tmp_path / "ragged.parquet", {"state": [[1.0], [1.0, 2.0]] * 20, **rest})
    assert "column 'state' holds 1 to 2 numbers in a row" in refusal(tmp_path, ragged, observation=("state",))
    assert "holds 4 numbers in each row; one is needed" in refusal(
        tmp_path, files[0], observation=("r",), reward="1", episode="state"
    )


def test_other_delimiters_and_quotes(tmp_path: Path) -> None:
    columns = {name: column for name, column in log().items() if name != "run_id"}
    columns['"run, id"'] = np.array(['"a, b"' if episode == 3 else f'"{episode}"' for episode in EPISODES])
    for mark in ",;\t":
        path = write_csv(tmp_path / "log.csv", columns, mark)
        data, _ = run(path, tmp_path / f"{ord(mark)}.hdf5", episode="run, id")
        np.testing.assert_array_equal(data.episode_lengths(), [10, 5, 20, 5])


# --- order and episodes -------------------------------------------------------------------------------------


def test_patterns_keep_their_own_order(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "log.csv", log())
    data, _ = run(path, tmp_path / "a.hdf5", observation=("joint_10", "stamp", "joint_?"))
    assert list(data.schema.observation) == ["joint_10", "stamp", "joint_0", "joint_1", "joint_2"]
    names = {f"q[{i}]": np.arange(4.0) for i in (0, 1)} | {"q*": np.arange(4.0), "u": np.zeros(4), "end": [0, 1, 0, 1]}
    path = write_npz(tmp_path / "b.npz", names)
    data, _ = run(path, tmp_path / "b.hdf5", ColumnOptions(("q[*]",), ("u",), "1", truncated="end"))
    assert list(data.schema.observation) == ["q[0]", "q[1]"]  # brackets are letters
    data, _ = run(path, tmp_path / "c.hdf5", ColumnOptions(("q*",), ("u",), "1", truncated="end"))
    assert list(data.schema.observation) == ["q*"]  # a column of that very name


def test_a_folder_of_episodes_in_natural_order(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    for number in (10, 2, 1):
        columns = {"x": np.full(3, float(number)), "u": np.zeros(3), "done": [0, 0, number == 2]}
        write_csv(folder / f"run_{number}.csv", columns)
    (folder / "notes.txt").write_text("hello")
    (folder / ".run_0.csv").write_text("x,u\n")
    data, done = run(folder, tmp_path / "set.hdf5", ColumnOptions(("x",), ("u",), "2*x", terminal="done"))
    np.testing.assert_array_equal(data.observations[:, 0], np.repeat([1, 2, 10], 3))
    np.testing.assert_array_equal(data.episode_lengths(), [3, 3, 3])
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [2, 8])
    assert any("each of the 3 files is an episode" in note for note in done.assumed)
    again, _ = run(sorted(folder.glob("*.csv")), tmp_path / "again.hdf5", ColumnOptions(("x",), ("u",), "2*x"))
    np.testing.assert_array_equal(again.observations[:, 0], np.repeat([1, 10, 2], 3))  # as they were named
    assert again.timeouts.sum() == 3


def test_an_episode_may_go_on_in_the_next_file(tmp_path: Path) -> None:
    columns = log()
    parts = [
        write_csv(tmp_path / f"{i}.csv", {name: column[start : start + 8] for name, column in columns.items()})
        for i, start in enumerate(range(0, ROWS, 8))
    ]
    data, _ = run(parts, tmp_path / "set.hdf5")
    np.testing.assert_array_equal(data.episode_lengths(), [10, 5, 20, 5])


def test_flags_alone_and_one_recording(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "log.csv", log())
    data, done = run(path, tmp_path / "a.hdf5", episode=None)
    np.testing.assert_array_equal(data.episode_lengths(), [10, 5, 20, 5])
    data, done = run(path, tmp_path / "b.hdf5", episode="none", terminal=None, truncated=None)
    np.testing.assert_array_equal(data.episode_lengths(), [40])
    assert [note.split(":")[0] for note in done.assumed] == [
        "--episode none", "no --terminal", "no --truncated", "no --time", "no --action-low and --action-high"
    ]  # fmt: skip
    data, _ = run(path, tmp_path / "c.hdf5", episode="none", truncated=None)
    np.testing.assert_array_equal(data.episode_lengths(), [15, 25])


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_rows_are_sorted_by_time_within_their_episode(tmp_path: Path, suffix: str) -> None:
    columns = log()
    generator = np.random.default_rng(1)
    starts = [0, 10, 15, 35, 40]
    order = np.concatenate([generator.permutation(np.arange(a, b)) for a, b in itertools.pairwise(starts)])
    shuffled = {name: column[order] for name, column in columns.items()}
    shuffled["run_id"] = columns["run_id"]
    if suffix == ".csv":
        clock = np.datetime64("2024-05-01T12:00:00") + (np.arange(ROWS) * 20).astype("timedelta64[ms]")
        shuffled["stamp"] = clock[order]
    data, done = run(WRITERS[suffix](tmp_path / f"log{suffix}", shuffled), tmp_path / "set.hdf5", time="stamp")
    np.testing.assert_array_equal(data.observations[:, 0], columns["joint_0"].astype(np.float32))
    np.testing.assert_array_equal(np.flatnonzero(data.terminals), [14])
    assert not any("--time" in note for note in done.assumed)


def test_rows_after_a_terminal_one_are_another_episode(tmp_path: Path) -> None:
    columns = {**log(), "done": np.arange(ROWS) % 10 == 4}
    data, _ = run(write_npz(tmp_path / "log.npz", columns), tmp_path / "set.hdf5", truncated=None)
    np.testing.assert_array_equal(np.flatnonzero(data.terminals), [4, 14, 24, 34])
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [9, 39])


def test_floats_and_texts_tell_episodes_apart(tmp_path: Path) -> None:
    for number, names in enumerate((EPISODES.astype(float), np.array([f"run {e}" for e in EPISODES]))):
        for suffix, write in WRITERS.items():
            if suffix == ".hdf5":
                names = np.array([name.encode() if isinstance(name, str) else name for name in names.tolist()])
            path = write(tmp_path / f"{number}{suffix}", {**log(), "run_id": names})
            data, _ = run(path, tmp_path / f"{number}{suffix}.hdf5")
            np.testing.assert_array_equal(data.episode_lengths(), [10, 5, 20, 5])


# --- rewards ------------------------------------------------------------------------------------------------


def test_rewards_by_arithmetic(tmp_path: Path) -> None:
    columns = log()
    data, _ = run(write_csv(tmp_path / "log.csv", columns), tmp_path / "a.hdf5", reward="-abs(joint_1) + (done == 1)")
    np.testing.assert_allclose(data.rewards, -np.abs(columns["joint_1"]) + columns["done"], rtol=1e-6)
    data, _ = run(tmp_path / "log.csv", tmp_path / "b.hdf5", reward="0")
    np.testing.assert_array_equal(data.rewards, 0)


def test_rewards_by_a_function_of_whole_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "import numpy as np\n"
        "def progress(columns):\n"
        "    assert 'name' not in columns\n"
        "    return np.diff(columns['joint_1'], append=columns['joint_1'][-1])\n"
        "def steps(columns):\n    return np.arange(len(columns['r']))\n"
        "def short(columns):\n    return [1.0]\n"
        "def nothing(columns):\n    return np.full(len(columns['r']), np.nan)\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    columns = {**log(), "name": np.array(["robot"] * ROWS)}
    path = write_csv(tmp_path / "log.csv", columns)
    data, _ = run(path, tmp_path / "a.hdf5", reward="my_rewards:progress")
    differences = np.diff(columns["joint_1"], append=0)
    differences[[9, 14, 34, 39]] = 0
    np.testing.assert_allclose(data.rewards, differences, atol=1e-6)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 300)
    data, _ = run(path, tmp_path / "b.hdf5", reward="my_rewards:steps")
    np.testing.assert_array_equal(data.rewards, [*range(10), *range(5), *range(20), *range(5)])
    (tmp_path / "__pycache__").exists()
    assert "of shape (1,) for 10 rows" in refusal(tmp_path, path, reward="my_rewards:short")
    assert "nan for row 0" in refusal(tmp_path, path, reward="my_rewards:nothing")
    assert "my_rewards" in refusal(tmp_path, path, reward="my_rewards:none")
    assert "no_such_module" in refusal(tmp_path, path, reward="no_such_module:f")
    assert "is a int, not a function" in refusal(tmp_path, path, reward="my_rewards:number")
    assert str(tmp_path) not in sys.path


# --- actions ------------------------------------------------------------------------------------------------


def test_the_robots_range_of_actions(tmp_path: Path) -> None:
    columns = log()
    path = write_csv(tmp_path / "log.csv", columns)
    data, done = run(path, tmp_path / "a.hdf5", action_low=(-50.0,), action_high=(100.0, 60.0))
    assert data.schema.box == ((-50.0, -50.0), (100.0, 60.0))
    np.testing.assert_allclose(data.actions[:, 0], (columns["torque_0"] - 25) / 75, atol=1e-6)
    np.testing.assert_allclose(data.actions[:, 1], (columns["torque_1"] - 5) / 55, atol=1e-6)
    assert not any("action" in note for note in done.assumed)
    assert "torque_0: -50 to 100 becomes -1 to 1" in "\n".join(import_report(done))
    vector = {"x": np.arange(3.0), "u": np.array([[-2.0, 0.5], [3.0, 0.25], [0.0, 30.0]]), "end": [0, 0, 1]}
    path, meant = write_npz(tmp_path / "vector.npz", vector), ColumnOptions(("x",), ("u",), "1", truncated="end")
    _, done = run(path, tmp_path / "vector.hdf5", meant)
    assert "u: (-2, 0.25) to (3, 30) becomes -1 to 1" in "\n".join(import_report(done))  # of each action


def test_actions_within_the_unit_box_are_kept(tmp_path: Path) -> None:
    columns = {**log(), "torque_0": np.linspace(-0.5, 0.25, ROWS), "torque_1": np.zeros(ROWS)}
    data, done = run(write_npz(tmp_path / "log.npz", columns), tmp_path / "a.hdf5")
    np.testing.assert_array_equal(data.actions[:, 0], columns["torque_0"].astype(np.float32))
    assert data.schema.box.is_unit()
    assert any("kept as they are" in note for note in done.assumed)


def test_an_action_that_never_changes(tmp_path: Path) -> None:
    data, _ = run(write_npz(tmp_path / "log.npz", {**log(), "torque_1": np.full(ROWS, 3.0)}), tmp_path / "a.hdf5")
    np.testing.assert_array_equal(data.actions[:, 1], 0)
    assert (data.schema.box.scale[1], data.schema.box.offset[1]) == (0, 3)


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"observation": ("jiont_*",)}, ["unknown column for --observation", "'jiont_*'", "joint_0"]),
        ({"observation": ()}, ["--observation: name columns", "stamp"]),
        ({"observation": ("joint_*", "joint_1")}, ["'joint_1' is meant twice, by --observation"]),
        ({"observation": ("*",)}, ["is meant twice, by --", "and --observation"]),
        ({"action": ("joint_1",)}, ["'joint_1' is meant twice, by --observation and --action"]),
        ({"observation": ("name",)}, ["column 'name' holds", "'robot'"]),
        ({"reward": "name"}, ["column 'name' holds", "'robot'"]),
        ({"reward": "name * 2"}, ["column 'name' holds", "'robot'"]),
        ({"reward": None}, ["--reward is needed", "stamp", "arithmetic", "module:function"]),
        ({"reward": "rr"}, ["unknown column in the reward 'rr'"]),
        ({"reward": "r if"}, ["no column and no arithmetic"]),
        ({"reward": "joint_1"}, ["'joint_1' is meant twice, by --reward and --observation", "--reward '1 * joint_1'"]),
        ({"reward": "log(joint_1 - 100)"}, ["--reward gives nan for row 0"]),
        ({"episode": "run"}, ["unknown column for --episode", "'run'", "run_id"]),
        ({"episode": "joint_1", "observation": ("joint_0",)}, ["tells episodes apart is text or a whole number"]),
        ({"episode": None, "terminal": None, "truncated": None}, ["give --episode COLUMN", "run_id", "--episode none"]),
        ({"terminal": "run_id", "episode": None}, ["column 'run_id'", "7"]),
        ({"time": "name"}, ["'name'"]),
        (
            {"action_low": (-50.0,), "action_high": (50.0,)},
            ["actions ", "beyond --action-low -50 and --action-high 50"],
        ),
        ({"action_low": (-50.0,)}, ["--action-high: 0 numbers for 2 actions; give 1 or 2"]),
        ({"action_low": (-9.0,) * 3, "action_high": (9.0,)}, ["--action-low: 3 numbers for 2 actions"]),
        ({"action_low": (90.0,), "action_high": (-90.0,)}, ["--action-low"]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_what_is_wrong_or_unclear_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: list[str], suffix: str
) -> None:
    columns = {**log(), "name": np.array(["robot"] * ROWS)}
    message = refusal(tmp_path, WRITERS[suffix](tmp_path / f"log{suffix}", columns), **changes)
    for word in words:
        assert word in message


@pytest.mark.parametrize("suffix", WRITERS)
def test_entries_that_are_no_numbers_are_named(tmp_path: Path, suffix: str) -> None:
    columns = log()
    columns["joint_2"][17] = np.nan
    path = WRITERS[suffix](tmp_path / f"log{suffix}", columns)
    assert "column 'joint_2'" in refusal(tmp_path, path)
    assert "row 17" in refusal(tmp_path, path)
    columns = log()
    columns["done"][5] = 2
    message = refusal(tmp_path, WRITERS[suffix](tmp_path / f"log{suffix}", columns))
    assert "column 'done' holds" in message
    assert "row 5" in message


def test_episodes_that_are_mixed_up(tmp_path: Path) -> None:
    columns = {**log(), "run_id": np.arange(ROWS) // 5 % 3}
    message = refusal(tmp_path, write_csv(tmp_path / "log.csv", columns))
    assert "episode 0 goes on in row 15, after another one; sort the log by 'run_id' first" in message


def test_files_that_do_not_fit_together(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "a.csv", log())
    other = {name: column for name, column in log().items() if name != "joint_2"}
    assert "unknown column in" in refusal(tmp_path, [first, write_csv(tmp_path / "b.csv", other)])
    one = write_npz(tmp_path / "c.npz", {"s": np.zeros((3, 2)), "u": np.zeros(3)})
    two = write_npz(tmp_path / "d.npz", {"s": np.zeros((3, 3)), "u": np.zeros(3)})
    options = {"observation": ("s",), "action": ("u",), "reward": "0"}
    options |= dict.fromkeys(("episode", "terminal", "truncated"))
    assert "holds 3 numbers in each row, in" in refusal(tmp_path, [one, two], **options)
    uneven = write_npz(tmp_path / "e.npz", {"s": np.zeros((3, 2)), "u": np.zeros(4)})
    assert "different numbers of rows: s 3, u 4" in refusal(tmp_path, uneven, **{**options, "episode": "none"})
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    write_csv(mixed / "a.csv", log())
    write_npz(mixed / "b.npz", log())
    assert "several kinds (a.csv, b.npz)" in refusal(tmp_path, mixed)
    (tmp_path / "empty").mkdir()
    assert "a folder without a file of .csv" in refusal(tmp_path, tmp_path / "empty")
    assert "no such file" in refusal(tmp_path, tmp_path / "none.csv")
    assert "named twice" in refusal(tmp_path, [first, first])
    (tmp_path / "notes.txt").write_text("x")
    assert "not .txt" in refusal(tmp_path, tmp_path / "notes.txt")


@pytest.mark.parametrize("names", [["a", "a", "b"], ["a.x", "a", "b"]])
def test_a_name_that_means_two_columns_is_refused(tmp_path: Path, names: list[str]) -> None:
    """Arrow gives the last column for a name that stands twice; `a.x` is a field of the structure `a`, too."""
    second = pa.array([{"x": 5.0}] * 3) if names[0] == "a.x" else pa.array([5.0] * 3)
    table = pa.Table.from_arrays([pa.array([1.0] * 3), second, pa.array([9.0] * 3)], names)
    pyarrow.parquet.write_table(table, path := tmp_path / "log.parquet")
    message = refusal(tmp_path, path, observation=(names[0],), action=("b",), reward="none", episode="none")
    assert f"several columns are called {names[0]!r}; rename them" in message


def test_damaged_files(tmp_path: Path) -> None:
    for suffix, write in WRITERS.items():
        path = write(tmp_path / f"log{suffix}", log())
        whole = path.read_bytes()
        for data in (b"", b"\0\1\2" * 50, *(() if suffix == ".csv" else (whole[: len(whole) // 2],))):
            path.write_bytes(data)
            assert str(path) in refusal(tmp_path, path)
    twice = tmp_path / "twice.csv"
    twice.write_text("a,b,a\n1,2,3\n")
    assert "several columns are called 'a'" in refusal(tmp_path, twice)
    header = tmp_path / "header.csv"
    header.write_text(",".join(log()) + "\n")
    assert "holds no rows" in refusal(tmp_path, header)
    late = tmp_path / "late.csv"
    write_csv(late, log())
    late.write_text(late.read_text() + ",".join(["oops"] * len(log())) + "\n")
    assert str(late) in refusal(tmp_path, late)
    assert "holds 'oops' in row 40" in refusal(tmp_path, late)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = write_npz(tmp_path / "log.npz", {**log(), "joint_5": np.array([Bomb()] * ROWS, object)})
    assert "pickled Python objects" in refusal(tmp_path, path)
    assert not (tmp_path / "exploded").exists()


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(tmp_path / "log.csv", log())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs the package pyarrow: pip install 'tether-rl[tables]'" in refusal(tmp_path, path)
    data, _ = run(write_npz(tmp_path / "log.npz", log()), tmp_path / "set.hdf5")  # which needs none
    assert len(data) == ROWS


# --- the file -----------------------------------------------------------------------------------------------


def test_the_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = write_npz(tmp_path / "log.npz", log()), tmp_path / "set.hdf5"
    for name in ("out.csv", "none/out.hdf5"):
        with pytest.raises(InputError, match="--out"):
            run(path, tmp_path / name)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tether.machine.files.os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            run(path, out)
    assert [file.name for file in tmp_path.iterdir()] == ["log.npz"]
    run(path, out)
    before = out.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        run(path, out)
    assert out.read_bytes() == before


def test_the_file_says_how_it_was_made(tmp_path: Path) -> None:
    data, done = run(write_npz(tmp_path / "log.npz", log()), tmp_path / "set.hdf5", reward="-r")
    with h5py.File(tmp_path / "set.hdf5") as file:
        origin = json.loads(file["metadata/import"].asstr()[()])
    assert origin["files"] == ["log.npz"]
    assert origin["options"]["reward"] == "-r"
    assert origin["assumed"] == done.assumed
    assert data.metadata == {}  # neither is shown as a scalar of the recording


def test_an_altered_schema_in_the_file_is_refused(tmp_path: Path) -> None:
    run(write_npz(tmp_path / "log.npz", log()), tmp_path / "set.hdf5")
    for value in ("{", '{"observation": {}}', 3):
        with h5py.File(tmp_path / "set.hdf5", "a") as file:
            del file["metadata/schema"]
            file["metadata/schema"] = value
        with pytest.raises(InputError, match=r"set\.hdf5: .*schema"):
            load_dataset(str(tmp_path / "set.hdf5"))


# --- tables as sources --------------------------------------------------------------------------------------


CONVENTION = {
    "observation_10": np.arange(6.0),
    "observation_9": np.ones(6),
    "action_0": np.linspace(-1, 1, 6),
    "reward": np.arange(6.0),
    "terminal": np.array([0, 0, 1, 0, 0, 0]),
    "timeout": np.array([0, 0, 0, 0, 1, 0]),
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_tables_that_follow_the_convention_are_sources(tmp_path: Path, suffix: str) -> None:
    path = WRITERS[suffix](tmp_path / f"robot{suffix}", CONVENTION)
    data = load_dataset(str(path))
    assert data.name == "robot"
    np.testing.assert_array_equal(data.observations, np.stack([np.ones(6), np.arange(6)], axis=1))
    assert data.episode_bounds().last_is_partial  # nothing is said of the last row
    np.testing.assert_array_equal(data.episode_lengths(), [3, 2])
    assert list(data.schema.observation) == ["observation_9", "observation_10"]
    path = WRITERS[suffix](tmp_path / f"wide{suffix}", {**CONVENTION, "action_0": np.arange(6.0) + 0.5})
    with pytest.raises(InputError, match=r"actions reach 5.5, beyond.*tether data import"):
        load_dataset(str(path))
    path = WRITERS[suffix](tmp_path / f"other{suffix}", log())
    with pytest.raises(InputError, match=r"\(stamp, .*\) do not follow the convention.*tether data import"):
        load_dataset(str(path))


def test_d4rls_names_in_an_npz(tmp_path: Path) -> None:
    columns = {
        "observations": np.arange(12.0).reshape(6, 2),
        "actions": np.zeros((6, 1)),
        "rewards": np.ones((6, 1)),
        "terminals": np.array([0, 0, 1, 0, 0, 0], bool),
        "timeouts": np.array([0, 0, 0, 0, 1, 0], bool),
    }
    data = load_dataset(str(write_npz(tmp_path / "a.npz", columns)))
    np.testing.assert_array_equal(data.episode_lengths(), [3, 2])
    np.testing.assert_array_equal(data.observations, columns["observations"])
    again = load_dataset(str(write_hdf5(tmp_path / "a.hdf5", columns)))
    np.testing.assert_array_equal(again.transitions().next_observation, data.transitions().next_observation)


def test_an_episode_column_closes_the_last_episode(tmp_path: Path) -> None:
    columns = {name: column for name, column in CONVENTION.items() if name not in ("terminal", "timeout")}
    path = write_csv(tmp_path / "a.csv", {**columns, "episode": [1, 1, 1, 2, 2, 2]})
    data = load_dataset(str(path))
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [2, 5])


# --- the command --------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(Path("log.csv"), log())
    words = ["data", "import", "log.csv", "--observation", "joint_*", "--action", "torque_*", "--reward=-r**2"]
    code, out, err = tether(*words, "--episode", "run_id", "--terminal", "done", "--out", "set.hdf5")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:3] == [
        "set.hdf5: 40 rows, 4 episodes",
        "observation  4 numbers: joint_0, joint_1, joint_2, joint_10",
        "action       2 numbers: torque_0, torque_1",
    ]
    assert "becomes -1 to 1" in lines[3]
    assert sum(line.startswith("assumed ") for line in lines) == 3
    code, out, err = tether("data", "show", "set.hdf5")
    assert (code, err) == (0, "")
    code, out, err = tether(*words, "--out", "again.hdf5")
    assert (code, out) == (2, "")
    assert err.startswith("tether: error: log.csv: nothing tells its episodes apart; give --episode COLUMN")
    assert err.count("\n") == 1
    code, _, err = tether("data", "import", "--out", "x.hdf5")
    assert code == 2


PLAIN: dict[str, Any] = {"observation": ("x",), "action": ("u",), "reward": "r"} | dict.fromkeys(
    ("episode", "terminal", "truncated")
)


def test_nothing_is_held_over_a_flagged_end(tmp_path: Path) -> None:
    """An episode that begins without a value has none of its own yet, whatever tells episodes apart."""
    position = [100.0, 101, 102, 103, None, 201, 202, None, None, 301, None, 303]
    columns = {"x": position, "u": [0.0] * 12, "r": [1.0] * 12, "done": [False, False, False, True] * 3}
    path = write_parquet(tmp_path / "log.parquet", columns)
    options = PLAIN | {"missing": "hold", "terminal": "done"}
    data, _ = run(path, tmp_path / "flags.hdf5", **options)
    np.testing.assert_array_equal(data.observations[:, 0], [100, 101, 102, 103, 201, 202, 202, 301, 301, 303])


def test_an_empty_label_is_no_episode(tmp_path: Path) -> None:
    text = "x,u,r,run\n" + "".join(f"{i},0,1,{'' if i % 5 == 0 else f'run {i // 5}'}\n" for i in range(15))
    path = tmp_path / "log.csv"
    path.write_text(text)
    options = PLAIN | {"episode": "run"}
    message = refusal(tmp_path, path, **options)
    assert "column 'run' is empty" in message
    assert "in row 0; every entry is needed" in message


@pytest.mark.parametrize("bound", [float("inf"), float("nan")])
def test_a_range_without_an_end_is_refused(tmp_path: Path, bound: float) -> None:
    path = write_parquet(tmp_path / "log.parquet", {"x": [1.0] * 4, "u": [0.0] * 4, "r": [1.0] * 4})
    options = PLAIN | {"episode": "none"}
    message = refusal(tmp_path, path, action_low=(0.0,), action_high=(bound,), **options)
    assert f"--action-high {bound}: needs finite numbers" in message


@pytest.mark.parametrize(("names", "named"), [(("a", "a/b"), "'a' beside 'a/b'"), ((".",), "'.' for --keep")])
def test_kept_columns_have_names_that_a_file_can_hold(tmp_path: Path, names: tuple[str, ...], named: str) -> None:
    columns = {"x": [1.0] * 4, "u": [0.0, 0.5] * 2, "r": [1.0] * 4} | {name: [1.0] * 4 for name in names}
    path = write_parquet(tmp_path / "log.parquet", columns)
    options = PLAIN | {"episode": "none"}
    assert named in refusal(tmp_path, path, keep=names, **options)
