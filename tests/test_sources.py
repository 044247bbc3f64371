"""Data sources: bundled names, files, Minari folders, and one-line refusals of everything else."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tether.data import bundled_names, load_dataset, read_d4rl_hdf5, read_minari_hdf5, sources
from tether.errors import InputError

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


def write_d4rl(path: Path, rows: int = 8, **changed: Any) -> Path:
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.normal(size=(rows, 3)),
        "actions": rng.uniform(-1, 1, size=(rows, 2)),
        "rewards": np.arange(float(rows)),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.arange(rows) % 4 == 3,
    }
    with h5py.File(path, "w") as file:
        for name, value in (columns | changed).items():
            if value is not None:
                file[name] = value
    return path


def minari_episode(steps: int, first: float) -> dict[str, np.ndarray]:
    """One episode whose observations count up from `first`; ends with a truncation."""
    return {
        "observations": np.stack([first + np.arange(steps + 1.0)] * 2, axis=1),
        "actions": np.zeros((steps, 1), np.float32),
        "rewards": np.ones(steps),
        "terminations": np.zeros(steps, bool),
        "truncations": np.arange(steps) == steps - 1,
        "infos/success": np.zeros(steps + 1, bool),
    }


def write_minari(folder: Path, episodes: list[dict[str, Any]]) -> Path:
    """A Minari data-set folder with these episodes."""
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for index, episode in enumerate(episodes):
            for name, value in episode.items():
                file[f"episode_{index}/{name}"] = value
    metadata = {
        "dataset_id": "mine/robot/human-v0",
        "total_episodes": len(episodes),
        "author": ["A"],
        "long": "x" * 999,
    }
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def test_paths_of_both_suffixes(tmp_path: Path) -> None:
    for name in ("hopper-medium.hdf5", "robot.h5"):
        data = load_dataset(str(write_d4rl(tmp_path / name)))
        assert data.name == name.partition(".")[0]
        assert len(data) == 8


def test_horizon_comes_from_the_task_where_timeouts_are_missing(tmp_path: Path) -> None:
    data = load_dataset(str(write_d4rl(tmp_path / "pen-human-v0.hdf5", rows=250, timeouts=None)))
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [99, 199])
    with pytest.raises(InputError, match="give max_episode_steps"):
        load_dataset(str(write_d4rl(tmp_path / "robot.hdf5", timeouts=None)))


def test_bundled_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BUNDLED", tmp_path)
    assert bundled_names() == []
    write_d4rl(tmp_path / "hopper-medium-small.hdf5")
    (tmp_path / "hopper-medium-small.json").write_text("{}")
    assert bundled_names() == ["hopper-medium-small"]
    data = load_dataset("hopper-medium-small")
    assert data.name == data.source.location == "hopper-medium-small"
    with pytest.raises(InputError, match=r"'hopper-smal': no such name.* bundled names \(hopper-medium-small\)"):
        load_dataset("hopper-smal")


@pytest.mark.parametrize("name", bundled_names())
def test_what_is_bundled_loads_and_says_where_it_is_from(name: str) -> None:
    data = load_dataset(name)
    provenance = json.loads((sources.BUNDLED / f"{name}.json").read_text())
    assert data.source.sha256 == provenance["sha256"]
    assert not data.episode_bounds().last_is_partial


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("bandit:25gaussians", "'bandit:' is not supported yet"),
        ("nothing", "no such name, file or folder"),
        ("data.bin", "no such name, file or folder"),
    ],
)
def test_other_sources_are_refused_in_one_line(source: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        load_dataset(source)
    message = str(caught.value)
    assert repr(source) in message
    assert reason in message
    assert "this version reads bundled names" in message
    assert "\n" not in message


def test_a_path_is_a_source_as_its_text_is(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "data.hdf5")
    assert load_dataset(path).source.location == load_dataset(str(path)).source.location


def test_files_and_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder without data/main_data\.hdf5"):
        load_dataset(str(tmp_path))
    for suffix in ("hdf5", "csv", "npz", "parquet"):
        with pytest.raises(InputError, match="no such file"):
            load_dataset(str(tmp_path / f"absent.{suffix}"))
    (tmp_path / "a.bin").touch()
    with pytest.raises(InputError, match=r"the ending '\.bin' is not known"):
        load_dataset(str(tmp_path / "a.bin"))
    (tmp_path / "broken.hdf5").write_text("text")
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        load_dataset(str(tmp_path / "broken.hdf5"))


def test_minari_folder_and_file(tmp_path: Path) -> None:
    episodes = [minari_episode(steps=2, first=100.0 * k) for k in range(12)]  # 10 sorts before 2 by name
    episodes[3]["terminations"] = np.array([False, True])
    episodes[4]["truncations"] = np.zeros(2, bool)  # its recording just stops
    folder = write_minari(tmp_path / "human-v0", episodes)
    for source in (folder, folder / "data", folder / "data" / "main_data.hdf5"):
        data = load_dataset(str(source))
        assert data.name == "mine/robot/human-v0"
        assert data.metadata == {"dataset_id": "mine/robot/human-v0", "total_episodes": 12}
        np.testing.assert_array_equal(data.observations[:, 0].reshape(12, 2)[:, 0], 100.0 * np.arange(12))
        np.testing.assert_array_equal(data.timeouts.reshape(12, 2)[:, 1], True)
        np.testing.assert_array_equal(data.episode_lengths(), [2] * 12)
        table = data.transitions()
        assert len(table.reward) == 24
        np.testing.assert_array_equal(table.next_observation, table.observation + 1)  # across no cut
        np.testing.assert_array_equal(np.flatnonzero(table.terminal), [7])


def test_minari_without_metadata_is_named_after_its_file(tmp_path: Path) -> None:
    folder = write_minari(tmp_path / "a", [minari_episode(3, 0.0)])
    (folder / "data" / "metadata.json").unlink()
    assert load_dataset(str(folder)).name == "main_data"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"observations": None, "observations/xy": np.zeros((3, 2))}, "episode 1 has columns .*'xy'"),
        ({"actions": None, "actions/left": np.zeros((2, 2))}, "episode 1 has columns .*'left'"),
        ({"observations": np.array([b"a"] * 3)}, "episode_1/observations holds .*not arrays of numbers"),
        ({"observations": np.zeros((3, 2, 2, 3), np.uint8)}, "episode_1/observations holds images"),
        ({"observations": np.zeros((2, 2))}, "episode_1/observations has 2 rows, expected 3 for 2 actions"),
        ({"rewards": np.zeros(3)}, "episode_1/rewards has 3 rows, expected 2"),
        ({"truncations": None}, "episode_1 has no 'truncations'; found"),
        ({"observations": np.zeros((3, 5))}, "episode 1 has columns"),
        ({"actions": np.full((2, 1), 3.0)}, "actions reach from 0 to 3, .* row 2"),
    ],
)
def test_minari_refusals(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    second = {k: v for k, v in (minari_episode(2, 0.0) | changed).items() if v is not None}
    folder = write_minari(tmp_path / "a", [minari_episode(2, 0.0), second])
    with pytest.raises(InputError, match=message):
        load_dataset(str(folder))


def test_minari_reader_refuses_other_layouts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not Minari"):
        read_minari_hdf5(write_d4rl(tmp_path / "a.hdf5"))
    folder = write_minari(tmp_path / "b", [minari_episode(2, 0.0)])
    for content in ("{", "[]"):
        (folder / "data" / "metadata.json").write_text(content)
        with pytest.raises(InputError, match=r"metadata\.json"):
            load_dataset(str(folder))


def test_cutting_whole_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    source = write_d4rl(tmp_path / "robot.hdf5", rows=18)  # four episodes of 4 and a rest of 2
    output = tmp_path / "new" / "robot-small.hdf5"
    script = str(ROOT / "benchmarks" / "cut_bundled_dataset.py")

    def cut(last: int) -> None:
        command = f"{script} {source} {output} --first-episode 1 --last-episode {last}"
        command += " --licence MIT --how-made robot"
        monkeypatch.setattr(sys, "argv", command.split())
        runpy.run_path(script, run_name="__main__")

    cut(last=2)
    whole, small = read_d4rl_hdf5(source), read_d4rl_hdf5(output)
    for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
        np.testing.assert_array_equal(getattr(small, name), getattr(whole, name)[4:12])
    provenance = json.loads(output.with_suffix(".json").read_text())
    assert provenance["source_sha256"] == whole.source.sha256
    assert provenance["sha256"] == small.source.sha256
    assert provenance["rows"] == 8
    assert provenance["returns"] == {"mean": 30.0, "min": 22.0, "max": 38.0}
    assert "MB" in capsys.readouterr().out
    first = output.read_bytes()
    cut(last=2)
    assert output.read_bytes() == first
    with pytest.raises(SystemExit, match=r"do not lie in 0\.\.3"):
        cut(last=4)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not on this machine")
@pytest.mark.parametrize(
    ("source", "rows", "episodes", "mean", "low", "high"),
    [  # shared/data/README.md
        ("hopper-medium.hdf5", 200_330, 542, 1330, 866, 3380),
        ("hopper-medium-expert.hdf5", 200_638, 378, 1904, 942, 3597),
        ("hopper-medium-replay.hdf5", 200_000, 1329, 419, 4, 2955),
        ("halfcheetah-medium.hdf5", 200_000, 200, 4922, 630, 5220),
        ("halfcheetah-medium-replay.hdf5", 100_000, 100, 2406, -369, 5143),
        ("door-human-v0.hdf5", 6_729, 50, None, None, None),
        ("minari/D4RL/door/human-v2", 6_729, 25, 803, 235, 1505),
        ("minari/D4RL/door/human-v2/data/main_data.hdf5", 6_729, 25, 803, 235, 1505),
    ],
)
def test_shared_data(source: str, rows: int, episodes: int, mean: Any, low: Any, high: Any) -> None:
    data = load_dataset(str(SHARED / source))
    returns = data.episode_returns()
    assert len(data) == rows
    assert len(returns) == episodes
    if mean is not None:
        np.testing.assert_allclose([returns.mean(), returns.min(), returns.max()], [mean, low, high], atol=1.0)
    flagged = data.terminals | data.timeouts
    if data.exact_next_observations:
        assert len(data.transitions().reward) == rows
    else:  # self-test 3: all rows but the time-outs, and the last row if it is not one
        assert len(data.transitions().reward) == rows - data.timeouts.sum() - (not data.timeouts[-1])
    if data.next_observations is not None:  # self-test 4
        same = (np.abs(data.next_observations[:-1] - data.observations[1:]) <= 1e-6).all(axis=1)
        np.testing.assert_array_equal(~same, flagged[:-1])
