"""Small recordings in the layouts that robot-learning tools write: robomimic's HDF5, LeRobot's folders v2.1 and v3."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as arrow
from pyarrow import parquet

JOINTS = ["shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"]
LENGTHS = (5, 7, 4)


def write_robomimic(path: Path, lengths: tuple[int, ...] = (3, 5, 4), scale: float = 1.0, **changes: Any) -> Path:
    """Demonstrations named as robomimic's; `changes` replace arrays of every demonstration, or leave them out."""
    generator = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(lengths)
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_type": 1, "env_kwargs": {}})
        for number, steps in zip((0, 2, 10), lengths, strict=True):
            group = data.create_group(f"demo_{number}")
            group.attrs["num_samples"] = steps
            states = generator.normal(size=(steps + 1, 3)).astype(np.float32)
            arrays = {
                "obs/object": states[:-1],
                "obs/robot0_gripper_qpos": number + np.zeros(steps),
                "obs/agentview_image": np.zeros((steps, 8, 8, 3), np.uint8),
                "next_obs/object": states[1:],
                "next_obs/robot0_gripper_qpos": number + np.zeros(steps),
                "next_obs/agentview_image": np.zeros((steps, 8, 8, 3), np.uint8),
                "actions": scale * np.tanh(generator.normal(size=(steps, 2))),
                "rewards": (np.arange(steps) >= steps - 2).astype(float),
                "dones": (np.arange(steps) >= steps - 2).astype(np.int64),
                "states": generator.normal(size=(steps, 6)),
                **changes,
            }
            for name, array in arrays.items():
                if array is not None:
                    group[name] = array
        file["mask/train"] = np.array([b"demo_0", b"demo_10"])
        file["mask/valid"] = np.array([b"demo_2"])
    return path


def frames(names: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(features of info.json, columns of 16 frames): 3 joints in degrees at 10 Hz, two tasks, a success at each end."""
    generator = np.random.default_rng(2)
    total = sum(LENGTHS)
    episode = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    frame = np.concatenate([np.arange(n) for n in LENGTHS])
    last = frame == np.repeat(LENGTHS, LENGTHS) - 1
    columns = {
        "observation.state": generator.normal(0, 60, (total, 3)).astype(np.float32).tolist(),
        "observation.effort": generator.normal(size=total).astype(np.float32),
        "action": generator.normal(0, 60, (total, 3)).astype(np.float32).tolist(),
        "next.reward": last.astype(np.float32),
        "next.done": last,
        "next.success": last & (episode != 1),
        "timestamp": (frame / 10).astype(np.float32),
        "frame_index": frame,
        "episode_index": episode,
        "index": np.arange(total),
        "task_index": (episode == 2).astype(int),
    }
    one = {"shape": [1], "names": None}
    features = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": names or JOINTS},
        "observation.effort": {"dtype": "float32", **one},
        "action": {"dtype": "float32", "shape": [3], "names": names or JOINTS},
        "observation.images.top": {
            "dtype": "video",
            "shape": [480, 640, 3],
            "names": ["height", "width", "channels"],
            "info": {"video.fps": 10.0, "video.codec": "av1"},
        },
        "next.reward": {"dtype": "float32", **one},
        "next.done": {"dtype": "bool", **one},
        "next.success": {"dtype": "bool", **one},
        "timestamp": {"dtype": "float32", **one},
        **{name: {"dtype": "int64", **one} for name in ("frame_index", "episode_index", "index", "task_index")},
    }
    return features, columns


def write_lerobot(
    folder: Path, version: str = "v3.0", without: tuple[str, ...] = (), order: Any = None, names: Any = None
) -> Path:
    """A folder of 3 episodes. order: of the frames in v3's file. without: features that are not there."""
    features, columns = frames(names)
    for name in without:
        del features[name], columns[name]
    table = arrow.table({name: arrow.array(list(column)) for name, column in columns.items()})
    info: dict[str, Any] = {
        "codebase_version": version,
        "robot_type": "so100_follower",
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "fps": 10,
        "splits": {"train": "0:2", "test": "2:3"},
        "features": features,
    }
    (folder / "meta").mkdir(parents=True)
    chunk = folder / "data" / "chunk-000"
    chunk.mkdir(parents=True)
    tasks = [["pick the cube"]] * 2 + [["place it"]]
    episodes = [{"episode_index": n, "tasks": tasks[n], "length": steps} for n, steps in enumerate(LENGTHS)]
    if version.startswith("v2"):
        info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        (folder / "meta" / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in episodes))
        for number, start in enumerate(np.cumsum((0, *LENGTHS[:-1])).tolist()):
            parquet.write_table(table.slice(start, LENGTHS[number]), chunk / f"episode_{number:06d}.parquet")
    else:
        info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        listed = folder / "meta" / "episodes" / "chunk-000"
        listed.mkdir(parents=True)
        stats = [{**row, "data/file_index": 0, "stats/action/min": [0.0, 0.0, 0.0]} for row in episodes]
        parquet.write_table(arrow.Table.from_pylist(stats), listed / "file-000.parquet")
        parquet.write_table(table if order is None else table.take(order), chunk / "file-000.parquet")
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    return folder
