"""Recordings of robots: robomimic, LeRobot, groups and files that are an episode each."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from recordings import JOINTS, LENGTHS, frames, write_lerobot, write_robomimic

from tether.data import Dataset, filter_episodes, load_dataset
from tether.doctor import check, fix, read_raw
from tether.errors import InputError

# --- robomimic ----------------------------------------------------------------------------------------------


def test_robomimic(tmp_path: Path) -> None:
    """A demonstration is an episode, in the order of the numbers; rows at the goal are terminal and do not end it."""
    data = load_dataset(str(write_robomimic(tmp_path / "lift.hdf5")))
    assert data.episode_lengths().tolist() == [3, 5, 4]
    assert data.schema is not None
    names = ["obs/object/0", "obs/object/1", "obs/object/2", "obs/robot0_gripper_qpos"]
    assert list(data.schema.observation) == names
    assert list(data.schema.action) == ["actions/0", "actions/1"]
    assert data.schema.box.is_unit()
    np.testing.assert_array_equal(data.observations[:, 3], np.repeat([0, 2, 10], [3, 5, 4]))
    assert data.episode_returns().tolist() == [2, 2, 2]
    assert data.terminals.tolist() == data.rewards.tolist()
    assert np.flatnonzero(data.timeouts).tolist() == [2, 7, 11]
    with h5py.File(tmp_path / "lift.hdf5") as file:
        stored: Any = file["data/demo_2/next_obs/object"]
        assert data.next_observations is not None
        np.testing.assert_allclose(data.next_observations[3:8, :3], stored[()])
    assert len(data.transitions().reward) == 12  # next observations are known in every row
    assert data.notes == ("not read: obs/agentview_image (8 x 8 x 3, pictures), states (6)",)
    assert data.metadata["environment"] == "Lift"


def test_the_masks_of_robomimic_are_filters(tmp_path: Path) -> None:
    data = load_dataset(str(write_robomimic(tmp_path / "lift.hdf5")))
    kept, record = filter_episodes(data, "mask=train")
    assert record == {"name": "mask=train", "episodes": 3, "kept_episodes": 2, "kept_rows": 7}
    assert kept.episode_lengths().tolist() == [3, 4]
    assert np.unique(kept.observations[:, 3]).tolist() == [0, 10]
    with pytest.raises(InputError, match=r"unknown mask of .*'tain'; did you mean train"):
        filter_episodes(data, "mask=tain")


def test_actions_beyond_the_limits_are_mapped_and_reported(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "poses.hdf5", scale=3.0)
    data = load_dataset(str(path))
    assert any("actions are beyond ±1 in" in note and "actions/0 -" in note for note in data.notes)
    assert data.schema is not None
    low, high = np.array(data.schema.box.low), np.array(data.schema.box.high)
    with h5py.File(path) as file:
        stored: Any = np.concatenate([np.asarray(file[f"data/demo_{n}/actions"]) for n in (0, 2, 10)])
    np.testing.assert_allclose((data.actions + 1) / 2 * (high - low) + low, stored, atol=1e-5)
    report = check(path)
    assert "actions-out-of-range" in report.codes("note")
    assert report.refused == ""


def test_choices_are_refused(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "a.hdf5", (4, 4, 4), actions=np.array([[0], [1], [2], [3]]))
    with pytest.raises(InputError, match="action 'actions' holds integer choices 0, 1, 2, 3"):
        load_dataset(str(path))


def test_demonstrations_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        del file["data/demo_2/obs/object"]
    with pytest.raises(InputError, match=r"data/demo_2 holds .*; the first episode .*obs/object\[3\]"):
        load_dataset(str(path))
    short = write_robomimic(tmp_path / "b.hdf5", rewards=np.zeros(3))
    with pytest.raises(InputError, match=r"data/demo_2: rewards has 3 rows, expected 5 for 5 actions"):
        load_dataset(str(short))
    unobserved = write_robomimic(tmp_path / "c.hdf5", **{"obs/object": None, "obs/robot0_gripper_qpos": None})
    with pytest.raises(InputError, match=r"observations are no vectors: obs/agentview_image \(8 x 8 x 3, pictures\)"):
        load_dataset(str(unobserved))


# --- any groups and files -----------------------------------------------------------------------------------


def episode(steps: int, extra: int = 0, **changes: Any) -> dict[str, Any]:
    generator = np.random.default_rng(steps)
    arrays = {
        "observations": generator.normal(size=(steps + extra, 2)),
        "actions": np.tanh(generator.normal(size=(steps, 1))),
        "rewards": generator.normal(size=steps),
    }
    return {**arrays, **changes}


def write_groups(path: Path, groups: dict[str, dict[str, Any]]) -> Path:
    with h5py.File(path, "w") as file:
        for name, arrays in groups.items():
            for key, array in arrays.items():
                file[f"{name}/{key}"] = array
    return path


@pytest.mark.parametrize("pattern", ["traj_{}", "episode_{}", "a/b/trajectory{}"])
def test_groups_are_episodes_whatever_they_are_called(tmp_path: Path, pattern: str) -> None:
    """Also under Minari's names, where the columns are not Minari's."""
    groups = {pattern.format(n): episode(steps) for n, steps in ((1, 4), (2, 6), (10, 3))}
    data = load_dataset(str(write_groups(tmp_path / "x.h5", groups)))
    assert data.episode_lengths().tolist() == [4, 6, 3]
    np.testing.assert_allclose(data.rewards[4:10], groups[pattern.format(2)]["rewards"], rtol=1e-6)
    assert data.timeouts.sum() == 3
    assert len(data.transitions().reward) == 10


def test_one_more_observation_than_actions_is_the_last_next_one(tmp_path: Path) -> None:
    groups = {f"traj_{n}": episode(4, extra=1, terminated=np.arange(4) == 3) for n in range(3)}
    groups["traj_1"]["truncated"] = groups["traj_1"].pop("terminated")
    with pytest.raises(InputError, match="traj_1"):  # one has no `terminated`
        load_dataset(str(write_groups(tmp_path / "unlike.h5", groups)))
    for n in range(3):
        ended = n != 1
        flags = {"terminated": (np.arange(4) == 3) & ended, "truncated": (np.arange(4) == 3) & (not ended)}
        groups[f"traj_{n}"] = episode(4, extra=1, **flags)
    data = load_dataset(str(write_groups(tmp_path / "x.h5", groups)))
    assert np.flatnonzero(data.terminals).tolist() == [3, 11]
    assert np.flatnonzero(data.timeouts).tolist() == [7]
    assert data.next_observations is not None
    np.testing.assert_allclose(data.next_observations[4:8], groups["traj_1"]["observations"][1:], rtol=1e-6)
    assert len(data.transitions().reward) == 12


def test_several_parents_are_masks(tmp_path: Path) -> None:
    groups = {"train/ep_0": episode(4), "train/ep_1": episode(5), "valid/ep_0": episode(3)}
    data = load_dataset(str(write_groups(tmp_path / "x.h5", groups)))
    assert {name: int(mask.sum()) for name, mask in data.masks.items()} == {"train": 9, "valid": 3}


def test_a_folder_of_npz_files_is_an_episode_each(tmp_path: Path) -> None:
    lengths = {"ep_2": 5, "ep_10": 4}
    for name, steps in lengths.items():
        np.savez(tmp_path / f"{name}.npz", **episode(steps, infos=np.array([{}] * steps, object)))
    data = load_dataset(str(tmp_path))
    assert data.episode_lengths().tolist() == [5, 4]
    assert data.notes == ("not read: infos (text or Python objects)",)
    digest = data.source.sha256
    np.savez(tmp_path / "ep_10.npz", **episode(6))
    np.savez(tmp_path / "ep_2.npz", **episode(5))
    assert load_dataset(str(tmp_path)).source.sha256 != digest


def test_replay_buffers_of_the_control_suite(tmp_path: Path) -> None:
    """A row holds the action and reward that led to its observation; the first ones stand for nothing."""
    seen = np.random.default_rng(0).normal(size=(3, 6, 2)).astype(np.float32)
    led = np.arange(6.0)[:, None] / 10
    discount = np.ones((6, 1), np.float32)
    for n in range(3):
        discount[-1] = n != 1
        np.savez(tmp_path / f"ep_{n}.npz", observation=seen[n], action=led, reward=2 * led, discount=discount)
    data = load_dataset(str(tmp_path))
    transitions = data.transitions()
    assert len(transitions.reward) == 15
    np.testing.assert_array_equal(transitions.observation[:5], seen[0, :-1])
    np.testing.assert_array_equal(transitions.next_observation[:5], seen[0, 1:])
    np.testing.assert_allclose(transitions.action[:5, 0], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)
    np.testing.assert_allclose(transitions.reward, 2 * transitions.action[:, 0], rtol=1e-6)
    assert np.flatnonzero(transitions.terminal).tolist() == [9]
    assert data.notes == (
        "discount: every episode begins with zeros, so a row's action and reward led to its observation",
    )
    np.savez(tmp_path / "ep_3.npz", observation=seen[0], action=led + 0.1, reward=led, discount=discount)
    data = load_dataset(str(tmp_path))  # the first action of an episode was taken: rows are as everywhere else
    assert data.notes == ("not read: discount (1)",)
    np.testing.assert_allclose(data.actions[18:, 0], led[:, 0] + 0.1, rtol=1e-6)


def test_a_folder_of_aloha_episodes_has_no_rewards(tmp_path: Path) -> None:
    for n, steps in ((0, 5), (1, 6)):
        arrays = {
            "observations/qpos": np.random.default_rng(n).normal(size=(steps, 3)),
            "observations/images/cam_high": np.zeros((steps, 8, 8, 3), np.uint8),
            "action": 2 * np.random.default_rng(n).normal(size=(steps, 3)),
        }
        write_groups(tmp_path / f"episode_{n}.hdf5", {"": arrays})
    data = load_dataset(str(tmp_path))
    assert data.episode_lengths().tolist() == [5, 6]
    assert not data.has_rewards
    assert load_dataset(str(tmp_path / "episode_1.hdf5")).episode_lengths().tolist() == [6]
    with pytest.raises(InputError, match="has no rewards to rank its episodes by"):
        filter_episodes(data, "top=0.5")


def test_other_folders_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder without"):
        load_dataset(str(tmp_path))
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(InputError, match=r"no actions \(actions or action\) among x"):
        load_dataset(str(tmp_path))


# --- LeRobot ------------------------------------------------------------------------------------------------


def columns_of(data: Dataset) -> dict[str, np.ndarray]:
    names = [field.name for field in dataclasses.fields(Dataset) if isinstance(getattr(data, field.name), np.ndarray)]
    return {name: getattr(data, name) for name in names}


def test_lerobot_v2_and_v3_hold_the_same(tmp_path: Path) -> None:
    """Also where v3's file does not have its frames in order."""
    new = load_dataset(str(write_lerobot(tmp_path / "v3")))
    old = load_dataset(f"lerobot:{write_lerobot(tmp_path / 'v2', 'v2.1')}")
    mixed = load_dataset(str(write_lerobot(tmp_path / "m", order=np.random.default_rng(0).permutation(16))))
    for other in (old, mixed):
        assert columns_of(other).keys() == columns_of(new).keys()
        for name, column in columns_of(new).items():
            np.testing.assert_array_equal(columns_of(other)[name], column)
        assert other.schema == new.schema
    _, stored = frames()
    assert new.schema is not None
    assert list(new.schema.observation) == [*JOINTS, "observation.effort"]
    assert list(new.schema.action) == JOINTS
    np.testing.assert_allclose(new.observations[:, :3], stored["observation.state"])
    np.testing.assert_array_equal(new.rewards, stored["next.reward"])
    np.testing.assert_array_equal(new.terminals, stored["next.done"])
    np.testing.assert_array_equal(new.successes, stored["next.success"])
    assert new.episode_lengths().tolist() == list(LENGTHS)
    actions = np.array(stored["action"])
    np.testing.assert_allclose(new.schema.box.low, actions.min(axis=0))
    np.testing.assert_allclose(new.schema.box.high, actions.max(axis=0))
    assert {name: int(mask.sum()) for name, mask in new.masks.items()} == {
        "train": 12,
        "test": 4,
        "task-0": 12,
        "task-1": 4,
    }
    assert new.metadata == {"format": "v3.0", "fps": 10, "robot_type": "so100_follower"}
    notes = " | ".join(new.notes)
    assert "not read: observation.images.top (video, 480 x 640 x 3)" in notes
    assert "the texts of 2 tasks are not read" in notes
    assert Path(new.source.location) == tmp_path / "v3"  # a path, by which a run finds it again


@pytest.mark.parametrize("names", [{"motors": JOINTS}, dict(zip(JOINTS, range(3), strict=True))])
def test_lerobot_names_joints_in_several_ways(tmp_path: Path, names: Any) -> None:
    schema = load_dataset(str(write_lerobot(tmp_path / "a", names=names))).schema
    assert schema is not None
    assert list(schema.action) == JOINTS
    plain = load_dataset(str(write_lerobot(tmp_path / "b", names=["dim"]))).schema
    assert plain is not None
    assert list(plain.action) == ["action/0", "action/1", "action/2"]


def test_lerobot_without_rewards(tmp_path: Path) -> None:
    without = ("next.reward", "next.done", "next.success")
    data = load_dataset(str(write_lerobot(tmp_path / "a", without=without)))
    assert not data.has_rewards
    assert np.flatnonzero(data.timeouts).tolist() == [4, 11, 15]


def test_lerobot_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "a", "v2.1")
    (folder / "data" / "chunk-000" / "episode_000001.parquet").unlink()
    with pytest.raises(InputError, match="episode 1 has 7 frames, data hold 0; 1 episodes differ"):
        load_dataset(str(folder))
    twice = write_lerobot(tmp_path / "b", order=[*range(16), 6])
    with pytest.raises(InputError, match="frame 1 of episode 1 is there twice"):
        load_dataset(str(twice))


def test_lerobot_of_other_formats_is_refused(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "a", "v1.6")
    with pytest.raises(InputError, match=r"format v1\.6; v2\.x and v3\.x in Parquet are read"):
        load_dataset(str(folder))
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text()) | {"codebase_version": "v3.0", "storage_format": "lance"}
    path.write_text(json.dumps(info))
    with pytest.raises(InputError, match="stored as lance"):
        load_dataset(str(folder))
    path.write_text("{}")
    with pytest.raises(InputError, match="not LeRobot's"):
        load_dataset(str(folder))


def test_lerobot_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lerobot(tmp_path / "someone" / "cubes")
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    assert load_dataset("lerobot:someone/cubes").name == "cubes"
    with pytest.raises(InputError, match="lerobot:someone/else: there is no"):
        load_dataset("lerobot:someone/else")


def test_written_to_a_file_they_stay_what_they_are(tmp_path: Path) -> None:
    without = ("next.reward", "next.done", "next.success")
    for source in (write_robomimic(tmp_path / "lift.hdf5"), write_lerobot(tmp_path / "a", without=without)):
        data = load_dataset(str(source))
        again = load_dataset(str(data.to_hdf5(tmp_path / f"{source.stem}-again.hdf5")))
        assert again.content_sha256() == data.content_sha256()
        assert again.has_rewards == data.has_rewards
        assert {name: mask.tolist() for name, mask in again.masks.items()} == {
            name: mask.tolist() for name, mask in sorted(data.masks.items())
        }


# --- the doctor ---------------------------------------------------------------------------------------------


def test_the_doctor_reads_them_also_where_training_refuses(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "nan.hdf5")
    with h5py.File(path, "r+") as file:
        file["data/demo_2/obs/object"][2, 1] = np.nan  # pyright: ignore[reportIndexIssue]
    report = check(path)
    found = {finding.code: finding for finding in report.findings}
    assert found["not-finite"].place.rows[:1] == (5,)
    assert "obs/object/1" in found["not-finite"].place.columns
    assert found["left-out"].grade == "note"
    assert "must be finite" in report.refused
    _, repaired = fix(path, tmp_path / "fixed.hdf5")
    assert repaired.refused == ""


def test_the_doctor_keeps_names_and_range_when_it_repairs(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "a")
    before = load_dataset(str(folder))
    fix(folder, tmp_path / "fixed.hdf5")
    after = load_dataset(str(tmp_path / "fixed.hdf5"))
    assert after.schema == before.schema
    np.testing.assert_allclose(after.actions, before.actions, atol=1e-6)


def test_the_clock_of_lerobot_is_examined(tmp_path: Path) -> None:
    raw = read_raw(f"lerobot:{write_lerobot(tmp_path / 'a')}")
    np.testing.assert_allclose(raw.extras["timestamp"][:5], np.arange(5) / 10, atol=1e-6)


# --- filters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["top=0.4", "mask=some"])
def test_every_column_follows_a_filter(tmp_path: Path, rule: str) -> None:
    """Those that data sets have today, and those that somebody adds: each row knows its number in every column."""
    rows = 40
    number = np.arange(rows, dtype=np.float32)
    made = load_dataset(str(write_groups(tmp_path / "x.h5", {f"g{n}": episode(10) for n in range(4)})))
    episodes = np.repeat(np.arange(4), 10)
    columns = {"observations": number[:, None], "next_observations": number[:, None], "rewards": episodes * 1.0}
    flags = {"successes": number % 3 == 0, "masks": {"some": episodes >= 2, "other": number % 2 == 0}}
    data = dataclasses.replace(made, **columns, **flags, schema=None)
    empty = [
        f.name for f in dataclasses.fields(Dataset) if "np.ndarray" in str(f.type) and getattr(data, f.name) is None
    ]
    assert empty == []  # a new optional column: give it a value above
    kept, _ = filter_episodes(data, rule)
    chosen = kept.observations[:, 0].astype(int)
    assert set(episodes[chosen]) == ({3} if rule == "top=0.4" else {2, 3})
    for name, column in columns_of(data).items():
        np.testing.assert_array_equal(columns_of(kept)[name], column[chosen])
    np.testing.assert_array_equal(kept.masks["other"], data.masks["other"][chosen])
