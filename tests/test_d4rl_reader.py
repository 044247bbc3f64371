"""The D4RL HDF5 reader on small files in the real layouts."""

import gc
import hashlib
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tether.data import hdf5, read_d4rl_hdf5
from tether.data.hdf5 import METADATA_TEXT_LIMIT
from tether.errors import InputError


def layout(lengths: list[int], terminal: list[bool]) -> dict[str, Any]:
    """gym v2's columns: episodes of these lengths, each ended by `terminals` or by `timeouts`."""
    rng, rows = np.random.default_rng(0), sum(lengths)
    states = [rng.normal(size=(length + 1, 3)).astype(np.float32) for length in lengths]
    ends, ended = np.cumsum(lengths) - 1, np.array(terminal)
    columns = {
        "observations": np.concatenate([state[:-1] for state in states]),
        "next_observations": np.concatenate([state[1:] for state in states]),
        "actions": rng.uniform(-1, 1, size=(rows, 2)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": np.isin(np.arange(rows), ends[ended]),
        "timeouts": np.isin(np.arange(rows), ends[~ended]),
    }
    columns["actions"][0] = [1.0, -1.0]
    return columns


def write(path: Path, columns: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in columns.items():
            file[name] = value
    return path


@pytest.fixture
def columns() -> dict[str, Any]:
    return layout([4, 5, 3], [True, False, True])


def test_gym_v2_layout(tmp_path: Path, columns: dict[str, Any]) -> None:
    """Self-tests 1 and 4: finite, in range; next observations equal the next row inside episodes only."""
    extra = {
        "infos/qpos": np.zeros((12, 2)),
        "infos/action_log_probs": np.zeros(12),
        "metadata/algorithm": np.bytes_("SAC"),
        "metadata/iteration": 600,
        "metadata/policy/fc0/weight": np.zeros((4, 4)),
        "metadata/policy/nonlinearity": "relu",
        "metadata/long": "x" * (METADATA_TEXT_LIMIT + 1),
        "metadata/diverged": np.nan,
    }
    path = write(tmp_path / "hopper_medium-v2.hdf5", columns | extra)
    data = read_d4rl_hdf5(path)
    for name, value in columns.items():
        np.testing.assert_array_equal(getattr(data, name), value)
    assert data.name == "hopper_medium-v2"
    assert data.source.location == str(path)
    assert data.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert data.metadata == {
        "algorithm": "SAC",
        "iteration": 600,
        "policy/nonlinearity": "relu",
        "diverged": "nan",
    }
    assert not data.exact_next_observations
    assert data.next_observations is not None
    same = (data.next_observations[:-1] == data.observations[1:]).all(axis=1)
    np.testing.assert_array_equal(~same, (data.terminals | data.timeouts)[:-1])
    np.testing.assert_array_equal(data.episode_lengths(), [4, 5, 3])
    assert np.isfinite(data.observations).all()
    assert np.abs(data.actions).max() <= 1 + 1e-6


def test_columns_as_older_generations_store_them(tmp_path: Path, columns: dict[str, Any]) -> None:
    """float64 (medium-replay), (N, 1) columns and float flags (kitchen, antmaze), integer flags."""
    stored = {
        "observations": columns["observations"].astype(np.float64),
        "actions": columns["actions"].astype(np.float64),
        "rewards": columns["rewards"][:, None],
        "terminals": columns["terminals"][:, None].astype(np.float32),
        "timeouts": columns["timeouts"].astype(np.int64),
    }
    data = read_d4rl_hdf5(write(tmp_path / "a.hdf5", stored))
    for name in stored:
        np.testing.assert_array_equal(getattr(data, name), columns[name])
    assert data.next_observations is None
    assert data.observations.dtype == np.float32


def without(columns: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if name not in names}


def test_missing_timeouts_are_the_last_steps_of_full_episodes(tmp_path: Path) -> None:
    # Horizon 5: 3 steps to a terminal, then two full episodes, a terminal on the very last step, a rest of 2.
    columns = layout([3, 5, 5, 5, 2], [True, False, False, True, False])
    columns["timeouts"][-1] = False
    path = write(tmp_path / "a.hdf5", without(columns, "timeouts"))
    data = read_d4rl_hdf5(path, max_episode_steps=5)
    expected = columns["timeouts"] | np.isin(np.arange(20), [17])  # row 17 is terminal *and* the horizon's
    np.testing.assert_array_equal(data.timeouts, expected)
    np.testing.assert_array_equal(data.episode_lengths(), [3, 5, 5, 5])
    assert data.metadata["timeouts"] == "not stored; every 5 steps of an episode"
    # No transition leads from one episode into another.
    next_state = columns["next_observations"]
    kept = [i for i in range(19) if i not in (7, 12)]
    table = data.transitions()
    running = table.terminal == 0
    np.testing.assert_array_equal(table.next_observation[running], next_state[kept][running])


@pytest.mark.parametrize("seed", range(20))
def test_missing_timeouts_equal_a_counting_loop(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, horizon = int(rng.integers(1, 60)), int(rng.integers(1, 9))
    columns = layout([rows], [False]) | {"terminals": rng.random(rows) < rng.random() / 3}
    data = read_d4rl_hdf5(write(tmp_path / "a.hdf5", without(columns, "timeouts")), max_episode_steps=horizon)
    step, expected = 0, []
    for terminal in columns["terminals"]:
        last = step == horizon - 1
        expected.append(last)
        step = 0 if last or terminal else step + 1
    np.testing.assert_array_equal(data.timeouts, expected)


def test_stored_timeouts_win_over_the_horizon(tmp_path: Path, columns: dict[str, Any]) -> None:
    data = read_d4rl_hdf5(write(tmp_path / "a.hdf5", columns), max_episode_steps=2)
    np.testing.assert_array_equal(data.timeouts, columns["timeouts"])


def test_kitchen_layout_without_timeouts(tmp_path: Path) -> None:
    """Self-test 6: every demonstration ends with a terminal, rewards count subtasks, goals are constant."""
    columns = without(layout([3, 4], [True, True]), "timeouts", "next_observations")
    columns |= {"rewards": np.array([[0], [1], [1], [0], [2], [3], [4]]), "observations": np.ones((7, 60))}
    data = read_d4rl_hdf5(write(tmp_path / "kitchen.hdf5", columns))
    assert data.terminals.sum() == 2
    assert not data.timeouts.any()
    assert data.metadata["timeouts"] == "not stored; none assumed, episodes end at terminal rows"
    assert set(data.rewards) <= {0, 1, 2, 3, 4}
    assert np.ptp(data.observations[:, 30:], axis=0).max() == 0


def test_no_way_to_tell_episodes_apart_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", without(layout([9], [False]), "timeouts"))
    with pytest.raises(InputError, match="no row is terminal, so episodes cannot be told apart; give max_episode"):
        read_d4rl_hdf5(path)
    with pytest.raises(InputError, match="max_episode_steps is 0"):
        read_d4rl_hdf5(path, max_episode_steps=0)


def test_antmaze_layout(tmp_path: Path) -> None:
    """Self-test 5: reward 1 and terminal 1 are the same rows, in clusters; xy jumps after time-outs only."""
    success = np.isin(np.arange(10), [2, 3, 4, 8])
    xy = np.concatenate([np.linspace(0, 1, 6), np.linspace(8, 9, 4)])
    columns = {
        "observations": np.stack([xy, xy], axis=1),
        "actions": np.zeros((10, 8)),
        "rewards": success.astype(np.float32),
        "terminals": success.astype(np.float32),
        "timeouts": np.isin(np.arange(10), [5]).astype(np.float32),
        "infos/goal": np.zeros((10, 2)),
    }
    data = read_d4rl_hdf5(write(tmp_path / "Ant_maze.hdf5", columns))
    np.testing.assert_array_equal(data.rewards == 1, data.terminals)
    jumps = np.linalg.norm(np.diff(data.observations, axis=0), axis=1) > 1
    np.testing.assert_array_equal(jumps, data.timeouts[:-1])
    table = data.transitions()
    assert table.terminal.sum() == 4
    running = table.terminal == 0
    moved = np.linalg.norm(np.asarray(table.next_observation - table.observation), axis=1)
    assert moved[running].max() < 1


@pytest.mark.parametrize("key", ["observations", "actions", "terminals"])
def test_missing_column_is_named_beside_those_found(tmp_path: Path, columns: dict[str, Any], key: str) -> None:
    path = write(tmp_path / "a.hdf5", without(columns, key))
    with pytest.raises(InputError, match=f"no '{key}' among its keys .*'timeouts'.*needs observations, actions"):
        read_d4rl_hdf5(path)


def test_demonstrations_need_no_rewards(tmp_path: Path, columns: dict[str, Any]) -> None:
    data = read_d4rl_hdf5(write(tmp_path / "a.hdf5", without(columns, "rewards")))
    assert not data.has_rewards
    assert not data.rewards.any()


def test_group_or_scalar_in_place_of_a_column(tmp_path: Path, columns: dict[str, Any]) -> None:
    grouped = without(columns, "observations") | {"observations/image": np.zeros(12)}
    with pytest.raises(InputError, match="'observations' is a group"):
        read_d4rl_hdf5(write(tmp_path / "a.hdf5", grouped))
    with pytest.raises(InputError, match="'rewards' is not an array"):
        read_d4rl_hdf5(write(tmp_path / "b.hdf5", columns | {"rewards": 1.0}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"terminals": np.full(12, 3)}, "terminals holds 3 at row 0"),
        ({"rewards": np.zeros(11)}, "rewards has 11 rows"),
        ({"actions": np.full((12, 2), 2.0)}, "actions reach from 2 to 2"),
        ({"observations": np.full((12, 3), np.nan)}, "observations holds nan at row 0"),
        ({"rewards": np.array([b"x"] * 12)}, "rewards has type"),
    ],
)
def test_bad_values_are_refused_with_the_file(tmp_path: Path, columns: dict, changed: dict, message: str) -> None:
    path = write(tmp_path / "bad.hdf5", columns | changed)
    with pytest.raises(InputError, match=f"bad.hdf5: {message}"):
        read_d4rl_hdf5(path)


def test_zero_rows_are_refused(tmp_path: Path, columns: dict[str, Any]) -> None:
    path = write(tmp_path / "a.hdf5", {name: value[:0] for name, value in columns.items()})
    with pytest.raises(InputError, match="no rows"):
        read_d4rl_hdf5(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_d4rl_hdf5(tmp_path / "absent.hdf5")
    with pytest.raises(InputError, match="is a folder"):
        read_d4rl_hdf5(tmp_path)
    (tmp_path / "text.hdf5").write_text("not HDF5")
    with pytest.raises(InputError, match=r"text\.hdf5 cannot be read as HDF5"):
        read_d4rl_hdf5(tmp_path / "text.hdf5")
    (tmp_path / "empty.hdf5").touch()
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        read_d4rl_hdf5(tmp_path / "empty.hdf5")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_truncated_file(tmp_path: Path, columns: dict[str, Any], part: float) -> None:
    path = write(tmp_path / "a.hdf5", columns)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(InputError, match="cannot be read as HDF5") as caught:
        read_d4rl_hdf5(path)
    assert "\n" not in str(caught.value)


def test_damaged_compressed_column(tmp_path: Path, columns: dict[str, Any]) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for name, value in columns.items():
            file.create_dataset(name, data=value, compression="gzip", chunks=value.shape)
        chunk = file["observations"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        read_d4rl_hdf5(path)


def test_large_arrays_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(500, 3))
    whole = {
        "plain": values,
        "double": values.astype(np.float32),
        "big-endian": values.astype(">f4"),
        "flat": values[:, 0],
    }
    path = tmp_path / "arrays.hdf5"
    with h5py.File(path, "w", userblock_size=512) as file:  # what is before HDF5's part of the file
        file["plain"] = values
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        for name, array in whole.items():
            file[name] = array
        file.create_dataset("packed", data=values, compression="gzip", chunks=(100, 3))
        file.create_dataset("empty", shape=(500, 3), dtype="f4")  # HDF5 allots it no room
    monkeypatch.setattr(hdf5, "PARALLEL_BYTES", 1000)
    for name in (path, tmp_path / "b.hdf5"):
        with h5py.File(name) as file:
            for key in list(file):  # not items(), which holds HDF5's lock: see read_array
                node = file[key]
                assert isinstance(node, h5py.Dataset)
                np.testing.assert_array_equal(hdf5.read_array(file, key, name), node[()], err_msg=key)
                found = hdf5._read_contiguous(node, name)
                assert (found is None) == (name == path or key in ("packed", "empty", "big-endian"))


@pytest.mark.timeout(60)
def test_threads_that_read_may_free_what_is_hdf5s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python collects garbage in whichever thread it runs, and HDF5's objects take HDF5's lock when they go: a reader
    that held the lock while it waits for its threads would wait for ever, now and then; here it would every time."""
    path = write(tmp_path / "some.hdf5", layout([60, 40], [True, False]))
    collected: list[int] = []
    open_file = Path.open

    def collect_and_open(self: Path, *arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            collected.append(gc.collect())
        return open_file(self, *arguments, **options)

    monkeypatch.setattr(hdf5, "PARALLEL_BYTES", 100)
    monkeypatch.setattr(Path, "open", collect_and_open)
    gc.disable()  # or the garbage is gone before the threads begin
    try:
        garbage: list[Any] = [h5py.File(tmp_path / "other.hdf5", "w")]
        garbage.append(garbage)
        del garbage
        read_d4rl_hdf5(path)
    finally:
        gc.enable()
    assert max(collected) > 0
