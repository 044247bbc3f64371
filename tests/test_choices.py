"""Actions of whole numbers: which are choices, for every reader alike, and how to say that they are levels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pandas
import pytest
from make_data import tether

import tether as library
from tether import BC, Dataset, InputError, load_dataset
from tether.data.choices import refuse_choices
from tether.data.logs.columns import ColumnOptions
from tether.data.logs.importing import import_logs
from tether.doctor import check

ROWS = 60
FOUR = np.resize([0.0, 1.0, 2.0, 3.0], (ROWS, 1))
THIRDS = FOUR / 1.5 - 1
GENERATOR = np.random.default_rng(0)
BASE = {
    "observations": GENERATOR.normal(size=(ROWS, 2)).astype(np.float32),
    "rewards": GENERATOR.normal(size=ROWS).astype(np.float32),
    "terminals": np.arange(ROWS) % 10 == 9,
}
BESIDE = GENERATOR.uniform(-1, 1, (ROWS, 1))


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ([FOUR], "0, 1, 2, 3"),
        ([FOUR + 1], "1, 2, 3, 4"),
        ([FOUR * 10], "0, 10, 20, 30"),
        ([FOUR // 2], "0, 1"),
        ([FOUR > 1], "0, 1"),
        ([FOUR.astype(np.int8)], "0, 1, 2, 3"),
        ([FOUR, BESIDE], "0, 1, 2, 3"),
        ([BESIDE - 5, FOUR // 2 * 0, FOUR], "0, 1, 2, 3"),
        ([np.arange(ROWS)[:, None]], "0, 1, 2, 3, 4, 5, 6, 7, ..."),
    ],
)
def test_choices(columns: list[np.ndarray], values: str) -> None:
    with pytest.raises(InputError, match=f"integer choices {values}; .* say continuous=True"):
        refuse_choices("here", np.concatenate(columns, axis=1))


@pytest.mark.parametrize(
    "columns",
    [
        [FOUR // 2 * 2 - 1],  # bang-bang
        [FOUR - 1],
        [(FOUR // 2 * 2 - 1).astype(np.int8)],
        [FOUR // 2 * 100],  # off and on, in percent
        [FOUR // 2, BESIDE],  # a gripper
        [FOUR // 2, FOUR // 2 * 2 - 1],
        [FOUR * 0 + 3],  # never changes
        [FOUR + 0.5],
        [np.where(FOUR == 3, np.nan, FOUR)],  # refused for that
    ],
)
def test_levels(columns: list[np.ndarray]) -> None:
    refuse_choices("here", np.concatenate(columns, axis=1))


# --- every reader -------------------------------------------------------------------------------------------


def _d4rl(folder: Path, actions: np.ndarray) -> str:
    with h5py.File(folder / "a.hdf5", "w") as file:
        for name, column in (BASE | {"actions": actions}).items():
            file[name] = column
    return str(folder / "a.hdf5")


def _npz(folder: Path, actions: np.ndarray) -> str:
    np.savez(folder / "a.npz", **BASE, actions=actions)
    return str(folder / "a.npz")


def _frame(actions: np.ndarray) -> pandas.DataFrame:
    columns = {"observation_0": BASE["observations"][:, 0], "reward": BASE["rewards"], "episode": np.arange(ROWS) // 10}
    return pandas.DataFrame(columns | {f"action_{i}": column for i, column in enumerate(actions.T)})


def _csv(folder: Path, actions: np.ndarray) -> str:
    _frame(actions).to_csv(folder / "a.csv", index=False)
    return str(folder / "a.csv")


def _parquet(folder: Path, actions: np.ndarray) -> str:
    _frame(actions).to_parquet(folder / "a.parquet")
    return str(folder / "a.parquet")


def _groups(folder: Path, actions: np.ndarray) -> str:
    with h5py.File(folder / "a.hdf5", "w") as file:
        for i in range(0, ROWS, 10):
            for name, column in (("obs/x", BASE["observations"]), ("actions", actions), ("rewards", BASE["rewards"])):
                file[f"data/demo_{i}/{name}"] = column[i : i + 10]
    return str(folder / "a.hdf5")


def _files(folder: Path, actions: np.ndarray) -> str:
    (folder / "runs").mkdir()
    for i in range(0, ROWS, 10):
        part = slice(i, i + 10)
        np.savez(folder / "runs" / f"{i}.npz", obs=BASE["observations"][part], action=actions[part])
    return str(folder / "runs")


def _minari(folder: Path, actions: np.ndarray) -> str:
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        for i in range(0, ROWS, 10):
            rows, group = slice(i, i + 10), f"episode_{i // 10}"
            file[f"{group}/observations"] = np.resize(BASE["observations"], (11, 2))
            file[f"{group}/actions"] = actions[rows]
            file[f"{group}/rewards"] = BASE["rewards"][rows]
            file[f"{group}/terminations"] = np.zeros(10, bool)
            file[f"{group}/truncations"] = np.arange(10) == 9
    return str(folder / "main_data.hdf5")


def _lerobot(folder: Path, actions: np.ndarray) -> str:
    frame = pandas.DataFrame(
        {
            "observation.state": BASE["observations"].tolist(),
            "action": actions.astype(np.float32).tolist(),
            "episode_index": np.arange(ROWS) // 10,
            "frame_index": np.arange(ROWS) % 10,
            "timestamp": np.arange(ROWS) % 10 / 10,
        }
    )
    features = {"observation.state": ("float32", [2]), "action": ("float32", [actions.shape[1]])}
    features |= {"episode_index": ("int64", [1]), "frame_index": ("int64", [1]), "timestamp": ("float32", [1])}
    described = {name: {"dtype": dtype, "shape": shape, "names": None} for name, (dtype, shape) in features.items()}
    info = {"codebase_version": "v2.1", "fps": 10, "features": described}
    (folder / "meta").mkdir()
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    lengths = [json.dumps({"episode_index": i, "length": 10}) for i in range(ROWS // 10)]
    (folder / "meta" / "episodes.jsonl").write_text("\n".join(lengths))
    (folder / "data" / "chunk-000").mkdir(parents=True)
    frame.to_parquet(folder / "data" / "chunk-000" / "episode_000000.parquet")
    return str(folder)


READERS: list[Callable[[Path, np.ndarray], str]] = [*(_d4rl, _npz, _csv, _parquet, _groups, _files, _minari, _lerobot)]


@pytest.mark.parametrize("write", READERS)
def test_every_reader_has_the_same_rule(write: Callable[[Path, np.ndarray], str], tmp_path: Path) -> None:
    (tmp_path / "gear").mkdir()
    source = write(tmp_path / "gear", FOUR)
    with pytest.raises(InputError, match=r"integer choices 0, 1, 2, 3; .* are levels, say continuous=True$"):
        load_dataset(source)
    data = load_dataset(source, continuous=True)
    np.testing.assert_allclose(data.actions, THIRDS, atol=1e-6)
    assert data.schema is not None
    assert (data.schema.box.low, data.schema.box.high) == ((0.0,), (3.0,))  # the policy answers in the recorded numbers
    assert data.replace(rewards=data.rewards * 2).continuous
    again = load_dataset(str(data.to_hdf5(tmp_path / "again.hdf5")))
    np.testing.assert_array_equal(again.actions, data.actions)
    (tmp_path / "switch").mkdir()
    np.testing.assert_array_equal(
        load_dataset(write(tmp_path / "switch", FOUR // 2 * 2 - 1)).actions, FOUR // 2 * 2 - 1
    )


def test_switches_that_are_said_to_be_levels_stay_and_are_read_again(tmp_path: Path) -> None:
    data = load_dataset(_d4rl(tmp_path, FOUR // 2), continuous=True)
    np.testing.assert_array_equal(data.actions, FOUR // 2)
    again = load_dataset(str(data.to_hdf5(tmp_path / "again.hdf5")))
    assert again.continuous
    assert again.content_sha256() == data.content_sha256()


def test_minari_says_that_a_space_is_a_box(tmp_path: Path) -> None:
    source = _minari(tmp_path, FOUR)
    space = {"type": "Box", "dtype": "float32", "shape": [1], "low": [0.0], "high": [3.0]}
    (tmp_path / "metadata.json").write_text(json.dumps({"action_space": json.dumps(space)}))
    np.testing.assert_allclose(load_dataset(source).actions, THIRDS, atol=1e-6)


# --- in memory ----------------------------------------------------------------------------------------------


def test_data_in_memory() -> None:
    bounds = {"action_low": 0, "action_high": 3}
    for actions in (FOUR, FOUR.astype(np.int64)):
        with pytest.raises(InputError, match=r"continuous=True"):
            Dataset.from_arrays(**BASE, actions=actions, **bounds)
        data = Dataset.from_arrays(**BASE, actions=actions, **bounds, continuous=True)
        np.testing.assert_allclose(data.actions, THIRDS, atol=1e-6)
    parts = [{name: column[i : i + 10] for name, column in BASE.items()} for i in range(0, ROWS, 10)]
    episodes = [part | {"actions": FOUR[i * 10 : i * 10 + 10]} for i, part in enumerate(parts)]
    with pytest.raises(InputError, match=r"action '0' holds integer choices 0, 1, 2, 3; .*continuous=True"):
        Dataset.from_episodes(episodes, **bounds)
    assert Dataset.from_episodes(episodes, **bounds, continuous=True).continuous
    frame: dict[str, Any] = {"observation": "observation_0", "action": "action_0", "reward": "reward"}
    with pytest.raises(
        InputError, match=r"action 'action_0' holds integer choices 0, 1, 2, 3; .*continuous=True"
    ) as told:
        Dataset.from_frame(_frame(FOUR), **frame, episode="episode", **bounds)
    assert "--" not in str(told.value)
    data = Dataset.from_frame(_frame(FOUR), **frame, episode="episode", **bounds, continuous=True)
    np.testing.assert_allclose(data.actions, THIRDS, atol=1e-6)


def test_an_environment_with_a_box_says_it() -> None:
    class Heater(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-9, 9, (1,))
        action_space = gymnasium.spaces.Box(0, 3, (1,))

    episode = {"observations": np.zeros((11, 1)), "actions": FOUR[:10], "rewards": np.ones(10)}
    episode |= {"terminations": np.zeros(10), "truncations": np.arange(10) == 9}
    np.testing.assert_allclose(Dataset.from_gymnasium([episode], environment=Heater()).actions, THIRDS[:10], atol=1e-6)
    with pytest.raises(InputError, match="integer choices 0, 1, 2, 3"):
        Dataset.from_gymnasium([episode])
    torque = episode | {"actions": FOUR[:10] - 1.5}
    with pytest.raises(InputError, match=r"beyond \[-1, 1\]; give environment=, which says their range"):
        Dataset.from_gymnasium([torque])


# --- the command line ---------------------------------------------------------------------------------------


def plain(table: str) -> str:
    return " ".join(table.replace("│", " ").split())


def test_commands_name_their_own_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = _npz(tmp_path, FOUR)
    for words in (
        ["data", "show", source],
        ["train", "bc", source],
        ["compare", "--data", source, "--algorithms", "bc"],
    ):
        code, _, err = tether(*words)
        assert (code, err.count("\n")) == (2, 1), err
        assert "integer choices 0, 1, 2, 3" in err
        assert err.rstrip().endswith("say --continuous")
    assert tether("data", "show", source, "--continuous")[0] == 0
    code, out, _ = tether("data", "check", source, "--quiet")
    assert "load_dataset refuses it" in (head := plain(out).partition(" findings ")[0])
    assert "say --continuous" in head
    assert "continuous=True" not in head
    code, out, _ = tether("data", "check", source, "--quiet", "--continuous")
    assert "load_dataset reads it" in plain(out)
    assert "discrete-actions" not in out
    assert check(source, continuous=True).grade in "AB"


def test_a_run_reads_its_data_again_as_it_did(tmp_path: Path) -> None:
    source, small = _d4rl(tmp_path, FOUR), BC(train_updates=2, hidden_sizes=(4,))
    with pytest.raises(InputError, match="continuous=True"):
        library.train(small, source, environment="none", out=tmp_path / "run", quiet=True)
    options = library.Options(batch_size=8)
    how: dict[str, Any] = {"environment": "none", "quiet": True, "options": options}
    library.train(small, source, out=tmp_path / "run", continuous=True, **how)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["continuous"] is True
    assert library.resume(tmp_path / "run", quiet=True, updates=3).updates == 3
    assert 0 <= library.load_policy(tmp_path / "run")(np.zeros(2)).item() <= 3


def test_import_says_what_it_takes_for_levels(tmp_path: Path) -> None:
    source = Path(_csv(tmp_path, FOUR // 2 * 2 - 1))
    options = ColumnOptions(("observation_0",), ("action_0",), reward="reward", episode="episode")
    done = import_logs([source], options, tmp_path / "out.hdf5")
    assert "action_0: whole numbers on both sides of 0: taken as levels" in done.assumed
