"""Logs as users have them: what each kind must give, or the line that says why not. All readers alike."""

import subprocess
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
from make_data import tether

from tether import Dataset, Framing, load_dataset
from tether.data import prepare
from tether.data.logs.columns import ColumnOptions
from tether.data.logs.importing import import_logs
from tether.data.schema import join
from tether.data.views import View, raw_table
from tether.doctor.raw import read_raw
from tether.errors import InputError

GENERATOR = np.random.default_rng(0)


def write_csv(path: Path, columns: Mapping[str, Any]) -> Path:
    rows = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(_cell, row)) for row in rows)]) + "\n")
    return path


def _cell(value: Any) -> str:
    return "" if value != value else str(value)


def write_parquet(path: Path, columns: Mapping[str, Any]) -> Path:
    pyarrow.parquet.write_table(
        pa.table({k: v if isinstance(v, pa.Array) else list(v) for k, v in columns.items()}), path
    )
    return path


def write_npz(path: Path, columns: Mapping[str, Any]) -> Path:
    np.savez(path, **columns)
    return path


def write_hdf5(path: Path, columns: Mapping[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            array = np.asarray(column)
            file[name] = array.astype("S") if array.dtype.kind == "U" else array
    return path


WRITERS: dict[str, Callable[[Path, Mapping[str, Any]], Path]] = {
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".npz": write_npz,
    ".hdf5": write_hdf5,
}
each_reader = pytest.mark.parametrize("suffix", WRITERS)


def run(path: Path | list[Path], **options: Any) -> Dataset:
    """The imported data set; what was said is its `notes`-like attribute of the test, `run.said`."""
    paths = path if isinstance(path, list) else [path]
    number = len(list(paths[0].parent.glob("out*.hdf5")))
    out = paths[0].parent / f"out{number}.hdf5"
    done = import_logs(paths, ColumnOptions(**options), out)
    said[:] = done.assumed
    return load_dataset(str(out))


said: list[str] = []


def refused(path: Path | list[Path], **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        run(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def infos(data: Dataset, name: str) -> np.ndarray:
    with h5py.File(data.source.location) as file:
        return np.asarray(file[f"infos/{name}"])


# --- choices ------------------------------------------------------------------------------------------------


def choices(values: np.ndarray, rows: int = 60) -> dict[str, np.ndarray]:
    return {
        "x": GENERATOR.normal(size=rows),
        "a": np.resize(values, rows),
        "r": GENERATOR.normal(size=rows),
        "e": np.arange(rows) // 10,
    }


CHOICES = {"observation": ("x",), "action": ("a",), "reward": "r", "episode": "e"}


@each_reader
def test_actions_that_are_choices_are_refused(tmp_path: Path, suffix: str) -> None:
    for number, values in enumerate(([0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0], [1, 2, 3, 0])):
        path = WRITERS[suffix](tmp_path / f"{number}{suffix}", choices(np.array(values)))
        assert "'a' holds integer choices 0, 1, 2, 3; " in (message := refused(path, **CHOICES))
        assert "name a continuous column" in message
        assert "--continuous" in message
    data = run(path, **CHOICES, continuous=True)  # pyright: ignore[reportPossiblyUnboundVariable]
    np.testing.assert_allclose(np.unique(data.actions), [-1, -1 / 3, 1 / 3, 1], atol=1e-6)
    path = WRITERS[suffix](tmp_path / f"flag{suffix}", choices(np.array([True, False])))
    assert "integer choices 0, 1" in refused(path, **CHOICES)
    assert set(np.unique(run(path, **CHOICES, continuous=True).actions)) == {-1, 1}  # and can be loaded again


def test_levels_and_switches_are_no_choices(tmp_path: Path) -> None:
    columns = choices(np.array([0.5, 0.25])) | {"grip": np.resize([0, 1], 60), "gear": np.resize([0, 1, 2], 60)}
    path = write_npz(tmp_path / "a.npz", columns)
    data = run(path, **{**CHOICES, "action": ("a", "grip")})
    assert set(np.unique(data.actions[:, 1])) == {0, 1}
    assert "grip: two whole values only beside continuous actions: taken as levels" in said
    assert "'gear' holds integer choices 0, 1, 2; " in refused(path, **{**CHOICES, "action": ("a", "gear")})
    text = choices(np.array(["left", "right"]))
    for suffix, write in WRITERS.items():
        message = refused(write(tmp_path / f"text{suffix}", text), **CHOICES)
        assert "'a' holds 'left' in row 0, which is not a number: these are choices" in message


def test_data_sets_of_choices_are_refused(tmp_path: Path) -> None:
    columns = {
        "observations": GENERATOR.normal(size=(40, 2)),
        "rewards": np.zeros(40),
        "terminals": np.arange(40) % 10 == 9,
    }
    for number, actions in enumerate((np.arange(40) % 4, (np.arange(40) % 4)[:, None], (np.arange(40) % 2.0)[:, None])):
        for write, suffix in ((write_npz, "npz"), (write_hdf5, "hdf5")):
            path = write(tmp_path / f"{number}.{suffix}", {**columns, "actions": actions})
            with pytest.raises(InputError, match=r"integer choices 0, 1.*continuous"):
                load_dataset(str(path))


def test_the_command_ends_with_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_npz(Path("a.npz"), choices(np.arange(4)))
    words = ["data", "import", "a.npz", "--observation", "x", "--action", "a", "--reward", "r", "--episode", "e"]
    code, out, err = tether(*words, "--out", "b.hdf5")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "integer choices 0, 1, 2, 3" in err
    assert tether(*words, "--out", "b.hdf5", "--continuous")[0] == 0


# --- next observations --------------------------------------------------------------------------------------


def in_any_order(rows: int = 120) -> dict[str, np.ndarray]:
    """s, a, r, s', done: s' = s + 1, an episode ends every 20 rows."""
    order = GENERATOR.permutation(rows)
    state = np.arange(float(rows))[order]
    return {
        "obs_y": state,
        "obs_x": 1000 - state,
        "new_obs_x": 999 - state,  # in another order than the observations
        "new_obs_y": state + 1,
        "action": GENERATOR.uniform(-1, 1, rows)[order],
        "reward": GENERATOR.normal(size=rows)[order],
        "done": ((np.arange(rows) % 20) == 19)[order],
    }


REPLAY: dict[str, Any] = {"observation": ("obs_*",), "action": ("action",), "reward": "reward", "terminal": "done"}


@each_reader
def test_tables_of_transitions_in_any_order(tmp_path: Path, suffix: str) -> None:
    columns = in_any_order()
    path = WRITERS[suffix](tmp_path / f"replay{suffix}", columns)
    data = run(path, **REPLAY, next_observation=("new_obs_*",))
    table = data.transitions()
    assert len(table.reward) == 120
    y, x = list(data.schema.observation).index("obs_y"), list(data.schema.observation).index("obs_x")
    np.testing.assert_array_equal(table.next_observation[:, y], table.observation[:, y] + 1)
    np.testing.assert_array_equal(table.next_observation[:, x], table.observation[:, x] - 1)
    np.testing.assert_array_equal(table.terminal, columns["done"])
    for view in ("sarsa", "returns", "trajectories"):  # nobody knows what came after the next observation
        with pytest.raises(InputError, match="do not follow each other"):
            raw_table(View(view), data)
    for framing in (Framing(chunk=2), Framing(n_step=3), Framing(history=2)):
        with pytest.raises(InputError, match=r"do not follow each other.*single transitions"):
            prepare(data, view=View(framing=framing))
    message = refused(path, **REPLAY)
    assert "rows do not follow each other" in message
    assert "--next-observation new_obs_" in message


@pytest.mark.parametrize("names", [("s", "s_next"), ("state", "next_state"), ("obs", "obs2"), ("s", "sp"), ("x", "zz")])
def test_next_observations_are_known_by_name_or_by_value(tmp_path: Path, names: tuple[str, str]) -> None:
    columns = in_any_order()
    path = write_npz(
        tmp_path / "replay.npz",
        {
            names[0]: columns["obs_y"],
            names[1]: columns["new_obs_y"],
            **{k: columns[k] for k in ("action", "reward", "done")},
        },
    )
    options = {**REPLAY, "observation": (names[0],)}
    assert f"--next-observation {names[1]}" in refused(path, **options)
    assert len(run(path, **options, next_observation=(names[1],)).transitions().reward) == 120


def test_a_clock_that_runs_to_and_fro(tmp_path: Path) -> None:
    rows, order = 200, GENERATOR.permutation(200)
    columns = {"t": np.arange(rows)[order] * 0.1, "x": GENERATOR.normal(size=rows), "a": GENERATOR.uniform(-1, 1, rows)}
    path = write_csv(tmp_path / "log.csv", columns)
    options: dict[str, Any] = {"observation": ("x",), "action": ("a",), "reward": "0", "episode": "none"}
    assert "'t' runs to and fro within an episode; sort them by it: --time t" in refused(path, **options)
    data = run(path, **options, time="t")
    np.testing.assert_allclose(infos(data, "t"), np.arange(rows) * 0.1)
    temperature = {**columns, "t": GENERATOR.normal(20, 1, rows)}  # not every t is a clock
    assert len(run(write_csv(tmp_path / "other.csv", temperature), **options)) == rows


def test_rows_that_follow_keep_their_episodes(tmp_path: Path) -> None:
    steps = np.arange(40.0)
    columns = {"s": steps, "s2": steps + 1, "a": np.sin(steps), "e": np.arange(40) // 10}
    path = write_csv(tmp_path / "a.csv", columns)
    options: dict[str, Any] = {"observation": ("s",), "action": ("a",), "reward": "0", "episode": "e"}
    data = run(path, **options, next_observation=("s2",))
    np.testing.assert_array_equal(data.episode_lengths(), [10] * 4)
    assert len(data.transitions().reward) == 40  # time-outs included: what followed is known
    np.testing.assert_array_equal(run(path, **options).episode_lengths(), [10] * 4)  # they agree: nothing to refuse
    lost = {**columns, "s2": np.where(steps == 4, np.nan, steps + 1)}
    path = write_csv(tmp_path / "b.csv", lost)
    assert "row 4 of the logs has none" in refused(path, **options, next_observation=("s2",))
    dropped = run(path, **options, next_observation=("s2",), missing="drop")
    np.testing.assert_array_equal(dropped.episode_lengths(), [4, 5, 10, 10, 10])
    assert "--next-observation has 1 numbers (s2), --observation 2 (s, e)" in refused(
        path, **{**options, "observation": ("s", "e"), "episode": "none"}, next_observation=("s2",)
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz", ".hdf5"])
def test_stored_next_observations_are_used(tmp_path: Path, suffix: str) -> None:
    o = GENERATOR.normal(size=(60, 2))
    wide = {"actions": GENERATOR.uniform(-1, 1, (60, 1)), "observations": o, "next_observations": o + 1}
    columns: dict[str, Any] = {"rewards": o[:, 0], "terminals": np.arange(60) % 10 == 9, "timeouts": np.zeros(60, bool)}
    if suffix == ".csv":
        columns |= {f"{k[:-1]}_{i}": v[:, i] for k, v in wide.items() for i in range(v.shape[1])}
    else:
        columns |= {k: v.tolist() if suffix == ".parquet" else v for k, v in wide.items()}
    data = load_dataset(str(WRITERS[suffix](tmp_path / f"next{suffix}", columns)))
    table = data.transitions()
    assert len(table.reward) == 60
    np.testing.assert_allclose(table.next_observation, table.observation + 1, atol=1e-6)


def test_frames_of_transitions() -> None:
    frame = pa.table(in_any_order())
    options = {"observation": "obs_*", "action": "action", "reward": "reward", "terminal": "done"}
    table = Dataset.from_frame(frame, **options, next_observation="new_obs_*").transitions()
    np.testing.assert_array_equal(np.abs(table.next_observation - table.observation), 1)
    with pytest.raises(InputError, match="say so: next_observation new_obs_"):
        Dataset.from_frame(frame, **options)


# --- groups, and arrays of episodes -------------------------------------------------------------------------


def demonstrations(extra: int = 0) -> dict[str, np.ndarray]:
    """12 groups of 20 to 31 steps."""
    arrays = {}
    for i in range(12):
        t = 20 + i
        arrays[f"data/demo_{i}/obs/joint_pos"] = np.full((t + extra, 4), i) + np.arange(t + extra)[:, None] / 100
        arrays[f"data/demo_{i}/obs/object"] = GENERATOR.normal(size=(t + extra, 3))
        arrays[f"data/demo_{i}/actions"] = GENERATOR.uniform(-1, 1, (t, 2))
        arrays[f"data/demo_{i}/rewards"] = np.append(np.zeros(t - 1), 1)
        arrays[f"data/demo_{i}/dones"] = np.append(np.zeros(t - 1), 1).astype(int)
        arrays[f"data/demo_{i}/obs/camera"] = np.zeros((t + extra, 8, 8, 3), np.uint8)
    return arrays | {"mask/train": np.array([b"demo_0"])}


GROUPS: dict[str, Any] = {
    "observation": ("data/*/obs/joint_pos", "data/*/obs/object"),
    "action": ("data/*/actions",),
    "reward": "data/*/rewards",
    "terminal": "data/*/dones",
}


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
@pytest.mark.parametrize("extra", [0, 1])
def test_groups_are_episodes(tmp_path: Path, suffix: str, extra: int) -> None:
    path = WRITERS[suffix](tmp_path / f"demos{suffix}", demonstrations(extra))
    data = run(path, **GROUPS)
    np.testing.assert_array_equal(data.episode_lengths(), 20 + np.arange(12))  # demo_2 before demo_10
    np.testing.assert_array_equal(data.observations[data.episode_bounds().starts, 0], np.arange(12))
    names = [*(f"obs/joint_pos/{i}" for i in range(4)), *(f"obs/object/{i}" for i in range(3))]
    assert list(data.schema.observation) == names
    assert data.terminals.sum() == 12
    assert any("groups are an episode each" in note for note in said)
    if extra:
        table = data.transitions()
        assert len(table.reward) == len(data)
        np.testing.assert_allclose(table.next_observation[:, 0] - table.observation[:, 0], 0.01, atol=1e-5)
    message = refused(path, **{**GROUPS, "observation": ("data/*/obs/*",)})
    assert "obs/camera" in message
    assert "8 x 8 x 3 (uint8)" in message
    few = run(path, **{**GROUPS, "observation": ("data/demo_1?/obs/joint_pos",)})
    np.testing.assert_array_equal(few.episode_lengths(), [30, 31])
    short = run(path, observation=("obs/object",), action=("actions",), reward="-norm(column('obs/object'))")
    np.testing.assert_allclose(short.rewards, -np.linalg.norm(short.observations, axis=1), rtol=1e-5)


def test_groups_that_do_not_fit(tmp_path: Path) -> None:
    arrays = demonstrations()
    del arrays["data/demo_7/obs/object"]
    path = write_hdf5(tmp_path / "a.hdf5", arrays)
    assert "no 'obs/object' in data/demo_7" in refused(path, **GROUPS)
    arrays["data/demo_7/obs/object"] = np.zeros((27, 2))
    path = write_hdf5(tmp_path / "b.hdf5", arrays)
    assert "(2,) numbers in each row of data/demo_7" in refused(path, **GROUPS)
    arrays["data/demo_7/obs/object"] = np.zeros((29, 3))
    path = write_hdf5(tmp_path / "c.hdf5", arrays)
    assert "data/demo_7/obs/object 29, actions 27" in refused(path, **GROUPS)


def test_arms_stand_side_by_side(tmp_path: Path) -> None:
    arrays = {f"{arm}/{name}": GENERATOR.normal(size=(30, 2)) / 9 for arm in ("left", "right") for name in ("q", "u")}
    path = write_hdf5(tmp_path / "a.hdf5", arrays)
    data = run(path, observation=("*/q",), action=("*/u",), reward="0", episode="none")
    assert list(data.schema.observation) == ["left/q", "right/q"]
    assert data.observations.shape == (30, 4)
    how = "left, right are columns side by side; if each is an episode, name arrays as they are called in it: "
    how += "--observation q --action u"
    assert how in said
    assert how in refused(path, observation=("*/q",), action=("*/u",), reward="0")


@pytest.mark.parametrize("people", [["alice", "bob"], ["alice"]])
@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_groups_that_are_called_by_words(tmp_path: Path, suffix: str, people: list[str]) -> None:
    """Of equal lengths: arrays that are named as in their groups, or a reward in each, can mean nothing else."""
    arrays = {f"{who}/{name}": GENERATOR.normal(size=(30, 2)) / 9 for who in people for name in ("q", "u")}
    arrays |= {f"{who}/r": np.arange(30.0) for who in people}
    path = WRITERS[suffix](tmp_path / f"a{suffix}", arrays)
    data = run(path, observation=("q",), action=("u",), reward="r")
    assert list(data.schema.observation) == (["q/0", "q/1"])
    np.testing.assert_array_equal(data.episode_lengths(), [30] * len(people))
    np.testing.assert_array_equal(data.rewards, np.tile(np.arange(30), len(people)))
    np.testing.assert_allclose(data.observations[:30], arrays["alice/q"].astype(np.float32))
    if len(people) > 1:
        same = run(path, observation=("*/q",), action=("*/u",), reward="*/r")
        np.testing.assert_array_equal(same.observations, data.observations)


def test_policies_take_vectors_whose_numbers_have_names() -> None:
    layout = {"arm/q/0": (0, 1), "arm/q/1": (1, 2), "x": (2, 3), "mode=auto": (3, 4), "mode=manual": (4, 5)}
    np.testing.assert_array_equal(join(layout, {"arm": {"q": [1, 2]}, "x": 3, "mode": "manual"}), [1, 2, 3, 0, 1])
    batch = join(layout, {"arm/q": np.ones((2, 2)), "x": np.zeros(2), "mode": np.array(["auto", "manual"])})
    np.testing.assert_array_equal(batch, [[1, 1, 0, 1, 0], [1, 1, 0, 0, 1]])
    one = join(layout, {"arm/q": np.ones((1, 2)), "x": np.zeros(1), "mode": np.array(["auto"])})
    np.testing.assert_array_equal(one, batch[:1])
    with pytest.raises(InputError, match="'mode' is 'off'; it may be auto, manual"):
        join(layout, {"arm/q": [1, 2], "x": 3, "mode": "off"})


LONGER: dict[str, Any] = {"observation": ("o",), "action": ("a",), "reward": "r"}


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_one_observation_more_than_actions(tmp_path: Path, suffix: str) -> None:
    lengths = [5, 9, 7]
    steps = np.concatenate([np.arange(n + 1) + 100 * i for i, n in enumerate(lengths)])[:, None].astype(float)
    rows = sum(lengths)
    ends = np.zeros(rows, bool)
    ends[np.cumsum(lengths) - 1] = True
    arrays = {"o": steps, "a": np.sin(np.arange(rows)), "r": np.zeros(rows), "end": ends, "last": np.zeros(rows, bool)}
    path = WRITERS[suffix](tmp_path / f"a{suffix}", arrays)
    data = run(path, **LONGER, truncated="end")
    np.testing.assert_array_equal(data.episode_lengths(), lengths)
    table = data.transitions()
    np.testing.assert_array_equal(table.next_observation, table.observation + 1)
    assert len(table.reward) == rows
    assert "3 more would be one for each episode, but 1 are told apart" in refused(path, **LONGER, truncated="last")
    one = WRITERS[suffix](tmp_path / f"one{suffix}", {"o": steps[:6], "a": np.sin(np.arange(5)), "r": np.zeros(5)})
    data = run(one, **LONGER)  # an episode, without being told so
    np.testing.assert_array_equal(data.episode_lengths(), [5])
    assert data.transitions().next_observation[-1] == 5
    stream = {**arrays, "o": np.arange(rows + 1.0)[:, None]}
    data = run(WRITERS[suffix](tmp_path / f"stream{suffix}", stream), **LONGER, truncated="end")
    assert data.next_observations is None  # of the rows before a reset nobody knows
    np.testing.assert_array_equal(data.episode_lengths(), lengths)


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
@pytest.mark.parametrize("extra", [0, 1])
def test_an_episode_in_each_row(tmp_path: Path, suffix: str, extra: int) -> None:
    o = np.arange(6)[:, None, None] * 100.0 + np.arange(8 + extra)[:, None] + np.zeros((6, 8 + extra, 3))
    arrays = {"o": o, "a": GENERATOR.uniform(-1, 1, (6, 8, 2)), "r": np.arange(48.0).reshape(6, 8)}
    data = run(WRITERS[suffix](tmp_path / f"a{suffix}", arrays), **LONGER)
    np.testing.assert_array_equal(data.episode_lengths(), [8] * 6)
    np.testing.assert_array_equal(data.observations, o[:, :8].reshape(48, 3))
    np.testing.assert_array_equal(data.rewards, np.arange(48))
    table = data.transitions()
    assert len(table.reward) == (48 if extra else 42)
    np.testing.assert_array_equal(table.next_observation, table.observation + 1)


# --- episodes that lie among each other -----------------------------------------------------------------------


def machines(rows: int = 40, block: int = 1) -> dict[str, np.ndarray]:
    """Two machines that log side by side, `block` rows at a time: x tells the machine and the step."""
    machine = np.arange(rows) // block % 2
    step = np.arange(rows) // (2 * block) * block + np.arange(rows) % block
    columns = {"machine": machine, "t": step * 0.5, "x": 100.0 * machine + step}
    return {**columns, "u": GENERATOR.uniform(-1, 1, rows), "r": np.ones(rows)}


MACHINES: dict[str, Any] = {"observation": ("x",), "action": ("u",), "reward": "r", "episode": "machine"}


@each_reader
def test_rows_of_parallel_machines_are_put_together(tmp_path: Path, suffix: str, monkeypatch: Any) -> None:
    path = WRITERS[suffix](tmp_path / f"a{suffix}", machines())
    expected = np.concatenate([np.arange(20), 100 + np.arange(20)])
    data = run(path, **MACHINES)
    np.testing.assert_array_equal(data.observations[:, 0], expected)
    np.testing.assert_array_equal(data.episode_lengths(), [20, 20])
    assert "episodes lie among each other: the rows of each 'machine' are put together, in their order" in said
    blocks = WRITERS[suffix](tmp_path / f"b{suffix}", machines(block=10))
    message = refused(blocks, **MACHINES)
    assert "episode 0 goes on in row 20, after another one; sort the log by 'machine' first" in message
    assert "name its clock with --time" in message
    monkeypatch.setattr("tether.data.logs.pieces.PIECE_BYTES", 80)
    np.testing.assert_array_equal(run(blocks, **MACHINES, time="t").observations[:, 0], expected)


def test_runs_that_are_numbered_alike_are_not_spliced(tmp_path: Path) -> None:
    columns = machines(block=10) | {"t": np.arange(40) % 10 * 0.5, "done": np.arange(40) % 10 == 9}
    path = write_csv(tmp_path / "a.csv", columns)
    message = refused(path, **MACHINES, time="t")
    assert "'t' begins anew, as with another run: give each run a number of its own" in message
    alike = write_csv(tmp_path / "c.csv", machines(12) | {"machine": np.resize([0, 0, 1, 1, 2, 2], 12)})
    assert "if it is another one, give each run a number of its own" in refused(alike, **MACHINES)
    data = run(path, **MACHINES, time="t", terminal="done")  # which end before they go on
    np.testing.assert_array_equal(data.episode_lengths(), [10] * 4)
    order = GENERATOR.permutation(40)
    shuffled = write_csv(tmp_path / "b.csv", {name: column[order] for name, column in machines().items()})
    observations = run(shuffled, **MACHINES, time="t").observations[:, 0]
    np.testing.assert_array_equal(np.sort(observations), np.concatenate([np.arange(20), 100 + np.arange(20)]))
    assert (np.diff(observations) == 1).sum() == 38


def test_tables_by_convention_and_frames_are_put_together(tmp_path: Path) -> None:
    names = {"machine": "episode", "x": "observation_x", "u": "action_u", "r": "reward"}
    columns = {names[name]: column for name, column in machines().items() if name in names}
    path = write_parquet(tmp_path / "a.parquet", columns)
    data = load_dataset(str(path))
    np.testing.assert_array_equal(data.observations[:, 0], np.concatenate([np.arange(20), 100 + np.arange(20)]))
    assert any("put together" in note for note in data.notes)
    np.testing.assert_array_equal(read_raw(path).columns["observations"], data.observations)
    frame = Dataset.from_frame(
        pa.table(columns), observation="observation_x", action="action_u", reward="reward", episode="episode"
    )
    np.testing.assert_array_equal(frame.observations, data.observations)


# --- missing rows and time ----------------------------------------------------------------------------------


def process(rows: int = 30) -> dict[str, np.ndarray]:
    """Two runs of a minute and a half each, a row every ten seconds; the sensor of row 4 and of rows 20, 21 failed."""
    temperature = np.round(np.sin(np.arange(rows)), 3)
    temperature[[4, 20, 21]] = np.nan
    return {
        "run": np.arange(rows) // 15,
        "time": 1_700_000_000 + 10 * np.arange(rows) + 5000 * (np.arange(rows) // 15),
        "temp": temperature,
        "valve": np.round(np.cos(np.arange(rows)), 3),
        "r": np.ones(rows),
    }


PROCESS: dict[str, Any] = {
    "observation": ("temp",),
    "action": ("valve",),
    "reward": "r",
    "episode": "run",
    "time": "time",
}


@each_reader
def test_rows_that_lack_a_number(tmp_path: Path, suffix: str) -> None:
    columns = process()
    path = WRITERS[suffix](tmp_path / f"process{suffix}", columns)
    assert "--missing drop or --missing hold" in refused(path, **PROCESS)
    data = run(path, **PROCESS, missing="drop")
    np.testing.assert_array_equal(data.episode_lengths(), [4, 10, 5, 8])
    assert not data.terminals.any()
    clock = infos(data, "time")
    np.testing.assert_array_equal(clock, columns["time"][~np.isnan(columns["temp"])])
    _, rows = data.transitions_and_rows()
    np.testing.assert_array_equal(np.diff(clock)[rows], 10)  # none spans a gap
    assert any("3 rows are left out (temp 3); the episode is cut there, as truncated" in note for note in said)
    held = run(path, **PROCESS, missing="hold")
    np.testing.assert_array_equal(held.episode_lengths(), [15, 15])
    expected = columns["temp"].copy()
    expected[[4, 20, 21]] = expected[[3, 19, 19]]
    np.testing.assert_array_equal(held.observations[:, 0], expected.astype(np.float32))
    assert any("3 rows repeat a value of the row before (temp 3)" in note for note in said)


def test_missing_numbers_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = process()
    columns["temp"][[0, 15]] = np.nan  # nothing before them to hold
    columns["valve"][22] = np.inf
    path = write_npz(tmp_path / "a.npz", columns)
    whole = {missing: run(path, **PROCESS, missing=missing) for missing in ("drop", "hold")}
    assert len(whole["hold"]) == 28
    np.testing.assert_array_equal(whole["drop"].episode_lengths(), [3, 10, 4, 7])
    monkeypatch.setattr("tether.data.logs.pieces.PIECE_BYTES", 80)
    for missing, expected in whole.items():
        pieces = run(path, **PROCESS, missing=missing)
        for name in ("observations", "actions", "rewards", "timeouts"):
            np.testing.assert_array_equal(getattr(pieces, name), getattr(expected, name))


def test_a_flag_that_is_missing(tmp_path: Path) -> None:
    columns = process() | {"temp": np.arange(30.0), "done": np.zeros(30)}
    columns["done"][7] = np.nan
    path = write_csv(tmp_path / "a.csv", columns)
    data = run(path, **PROCESS, terminal="done", missing="drop")
    np.testing.assert_array_equal(data.episode_lengths(), [7, 7, 15])
    assert "column 'done'" in refused(path, **PROCESS, terminal="done", missing="hold")


@each_reader
def test_gaps_in_the_clock_end_episodes(tmp_path: Path, suffix: str) -> None:
    columns = {k: v[~np.isnan(process()["temp"])] for k, v in process().items()}  # rows that were never written
    path = WRITERS[suffix](tmp_path / f"a{suffix}", columns)
    data = run(path, **PROCESS, max_gap=15.0)
    np.testing.assert_array_equal(data.episode_lengths(), [4, 10, 5, 8])
    assert any("--max-gap 15: 2 longer steps of 'time' end an episode" in note for note in said)
    alone = run(path, **{**PROCESS, "episode": None}, max_gap=15.0)  # which tells the runs apart, too
    np.testing.assert_array_equal(alone.episode_lengths(), [4, 10, 5, 8])
    assert "name the clock: --time" in refused(path, **{**PROCESS, "time": None}, max_gap=15.0)
    loose = run(path, **PROCESS)
    np.testing.assert_array_equal(loose.episode_lengths(), [14, 13])
    np.testing.assert_array_equal(infos(loose, "time"), columns["time"])


# --- one-step decisions -------------------------------------------------------------------------------------


@each_reader
def test_every_row_is_an_end(tmp_path: Path, suffix: str) -> None:
    rows = 50
    columns = {
        "x": GENERATOR.normal(size=rows),
        "u": GENERATOR.uniform(-1, 1, rows),
        "r": GENERATOR.normal(size=rows),
        "propensity": GENERATOR.uniform(0.1, 1, rows),
        "name": np.array(["a"] * rows),
    }
    path = WRITERS[suffix](tmp_path / f"bandit{suffix}", columns)
    data = run(path, observation=("x",), action=("u",), reward="r", terminal="every-row")
    assert data.terminals.all()
    np.testing.assert_array_equal(data.episode_lengths(), np.ones(rows))
    np.testing.assert_allclose(infos(data, "propensity"), columns["propensity"])
    assert "kept beside the data: propensity" in said
    with h5py.File(data.source.location) as file:
        assert list(file["infos"]) == ["propensity"]
    logged = run(path, observation=("x",), action=("u",), reward="r", episode="none", keep=("prop*",))
    np.testing.assert_allclose(infos(logged, "propensity"), columns["propensity"])


@each_reader
def test_demonstrations_without_rewards(tmp_path: Path, suffix: str) -> None:
    columns = {"observation_0": np.arange(6) / 6, "action_0": np.linspace(-1, 1, 6), "episode": [0, 0, 0, 1, 1, 1]}
    path = WRITERS[suffix](tmp_path / f"a{suffix}", columns)
    data = run(path, observation=("observation_0",), action=("action_0",), reward="none", episode="episode")
    assert not data.has_rewards
    if suffix != ".hdf5":
        assert not load_dataset(str(path)).has_rewards
    options: dict[str, Any] = {"observation": ("observation_0",), "action": ("action_0",), "episode": "episode"}
    assert "or none for demonstrations to imitate" in refused(path, **options)


# --- Parquet ------------------------------------------------------------------------------------------------


def test_lerobots_files(tmp_path: Path) -> None:
    rows, order = 20, np.append(GENERATOR.permutation(10), 10 + GENERATOR.permutation(10))
    columns = {
        "observation.state": [[0.1 * i, 1.0] for i in order],
        "action": [[0.5, -0.5]] * rows,
        "episode_index": [i // 10 for i in order],
        "frame_index": [i % 10 for i in order],
        "timestamp": [i % 10 / 30 for i in order],
    }
    path = write_parquet(tmp_path / "a.parquet", columns)
    data = run(path, observation=("observation.state",), action=("action",), episode="episode_index", reward="0")
    np.testing.assert_array_equal(data.episode_lengths(), [10, 10])
    np.testing.assert_allclose(data.observations[:, 0], 0.1 * np.arange(20), rtol=1e-6)
    np.testing.assert_allclose(infos(data, "timestamp"), np.tile(np.arange(10) / 30, 2))


def test_columns_of_every_type(tmp_path: Path) -> None:
    rows = 6
    numbers = np.arange(rows, dtype=float) / 4
    poses = [{"at": {"x": i, "y": -i}, "turn": [i, i + 1, i + 2]} for i in numbers]
    columns: dict[str, Any] = {
        "pose": poses,
        "matrix": [[[i, 1.0], [2.0, 3.0]] for i in numbers],
        "half": pa.array(numbers.astype(np.float16)),
        "money": pa.array([str(i) for i in numbers]).cast(pa.decimal128(10, 2)),
        "coded": pa.array(numbers).dictionary_encode(),
        "on": numbers > 0.5,
        "large": pa.array([[i, i] for i in numbers], pa.large_list(pa.float32())),
        "u": numbers - 0.6,
        "when": pa.array([0] * rows, pa.timestamp("s")),
        "image": pa.array(np.zeros((rows, 96, 96, 3), np.uint8).tolist(), pa.list_(pa.list_(pa.list_(pa.uint8())))),
        "photo": [{"bytes": b"png", "path": "a"}] * rows,
        "run": pa.array(["a"] * 3 + ["b"] * 3).dictionary_encode(),
    }
    path = write_parquet(tmp_path / "a.parquet", columns)
    names = ("pose.at.x", "pose.turn", "matrix", "half", "money", "coded", "on", "large")
    options: dict[str, Any] = {"observation": names, "action": ("u",), "reward": "money", "episode": "run"}
    data = run(path, **{**options, "reward": "column('pose.at.y')"})
    expected = [[i, i, i + 1, i + 2, i, 1, 2, 3, i, i, i, i > 0.5, i, i] for i in numbers]
    np.testing.assert_array_equal(data.observations, np.array(expected, np.float32))
    np.testing.assert_array_equal(data.rewards, -numbers)
    assert [*data.schema.observation][:4] == ["pose.at.x", "pose.turn", "matrix/0/0", "matrix/0/1"]
    np.testing.assert_array_equal(data.episode_lengths(), [3, 3])
    assert any("image (images or other arrays of 96 x 96 x 3 (uint8))" in note for note in said)
    for name, words in (("image", "96 x 96 x 3"), ("photo.bytes", "bytes, such as images"), ("im*", "96 x 96 x 3")):
        assert words in refused(path, **{**options, "observation": (name,)})


def test_entries_of_lists_that_are_missing(tmp_path: Path) -> None:
    numbers: list[Any] = [[1.0, 2.0], None, [3.0, None], [5.0, 6.0]]
    columns = {"s": numbers, "u": [0.1, 0.2, 0.3, 0.4], "e": [1, 1, 1, 1], "d": [1, None, 3, 4]}
    path = write_parquet(tmp_path / "a.parquet", columns)
    options: dict[str, Any] = {"observation": ("s",), "action": ("u",), "reward": "d", "episode": "e"}
    assert "column 's' is empty or not a number in row 1" in refused(path, **{**options, "reward": "0"})
    assert "column 'd' is empty or not a number in row 1" in refused(path, **options)
    data = run(path, **options, missing="drop")
    np.testing.assert_array_equal(data.observations, [[1, 2], [5, 6]])
    np.testing.assert_array_equal(run(path, **options, missing="hold").observations, [[1, 2], [1, 2], [3, 2], [5, 6]])


READ = """
import sys
from pathlib import Path
from tether.data.logs.tables import open_table
table = open_table(Path(sys.argv[1]))
print(sum(len(piece["x"]) for piece in table.read({"x": "float32"})), table.columns["x"].size)
"""


@each_reader
def test_each_reader_in_a_process_of_its_own(tmp_path: Path, suffix: str) -> None:
    column = [0.5, 1.5] if suffix == ".csv" else [[0.5, 1.0], [1.5, 2.0]]
    path = WRITERS[suffix](tmp_path / f"a{suffix}", {"x": column})
    done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["2", "1" if suffix == ".csv" else "2"], "")


# --- tables as they come ------------------------------------------------------------------------------------

LINES = [(i // 10, round(np.sin(i), 3), round(np.cos(i), 3), round(np.sin(2 * i), 3)) for i in range(30)]
PLAIN: dict[str, Any] = {"observation": ("c1", "c2"), "action": ("c3",), "reward": "0", "episode": "c0"}


def test_a_file_without_names(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{','.join(map(str, line))}\n" for line in LINES))
    data = run(path, **PLAIN, header="none")
    np.testing.assert_array_equal(data.observations, np.array(LINES, np.float32)[:, 1:3])
    assert "its first line holds numbers (0, 0.0, 1.0, 0.0)" in refused(path, **PLAIN)
    assert "--header none" in refused(path, **PLAIN)
    numbered = tmp_path / "pandas.csv"  # frames without names are written with 0, 1, 2, ...
    numbered.write_text("0,1,2,3\n" + path.read_text())
    assert len(run(numbered, observation=("1", "2"), action=("3",), reward="0.0", episode="0")) == 30
    noted = tmp_path / "numpy.csv"
    np.savetxt(noted, np.array(LINES), delimiter=",", header="e,x,y,u")  # "# e,x,y,u"
    data = run(noted, observation=("x", "y"), action=("u",), reward="0", episode="e")
    np.testing.assert_allclose(data.observations, np.array(LINES)[:, 1:3], atol=1e-6)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-32"])
def test_files_of_other_countries(tmp_path: Path, mark: str, encoding: str) -> None:
    head = mark.join(["lauf", "zeit", "druck", "stellung", "güte"])
    rows = [
        mark.join([str(e), f"{1 + e:02d}.03.2026 08:{i % 10:02d}", *(str(v).replace(".", ",") for v in (x, u)), "1,5"])
        for i, (e, x, _, u) in enumerate(LINES)
    ]
    path = tmp_path / "a.csv"
    path.write_bytes("\r\n".join([head, *rows]).encode(encoding))
    options: dict[str, Any] = {"observation": ("druck",), "action": ("stellung",), "reward": "güte", "episode": "lauf"}
    data = run(path, **options, time="zeit", time_format="%d.%m.%Y %H:%M")
    np.testing.assert_array_equal(data.observations[:, 0], np.array(LINES, np.float32)[:, 1])
    np.testing.assert_array_equal(data.rewards, 1.5)
    start = np.datetime64("2026-03-01T08:00").astype("datetime64[s]").astype(int)
    np.testing.assert_array_equal(infos(data, "zeit")[:2], [start, start + 60])
    assert any("numbers have a decimal comma" in note and "the separator is a" in note for note in said)
    assert "'01.03.2026 08:00' in row 0" in (message := refused(path, **options, time="zeit"))
    assert "--time-format '%d.%m.%Y %H:%M'" in message
    assert "not written as --time-format" in refused(path, **options, time="zeit", time_format="%Y-%m-%d")


ABROAD = {
    "shift_jis": "温度",
    "euc_jp": "圧力",
    "gb18030": "时间",
    "big5": "溫度",
    "euc_kr": "온도",
    "cp1251": "Давление",
}
ABROAD |= {"koi8-r": "температура", "cp1253": "θερμοκρασία", "utf-16-le": "größe"}


@pytest.mark.parametrize("encoding", ABROAD)
def test_text_that_is_not_western(tmp_path: Path, encoding: str) -> None:
    name = ABROAD[encoding]
    lines = [f"{name},u,r,e", *(f"{i / 7},{i / 50},1,{i // 10}" for i in range(40))]
    path = tmp_path / "a.csv"
    path.write_bytes("\n".join(lines).encode(encoding))
    options: dict[str, Any] = {"observation": (name,), "action": ("u",), "reward": "r", "episode": "e"}
    if encoding != "utf-16-le":  # without its mark it is plain text with zeros in it
        message = refused(path, **options)
        assert "its text is not written in UTF-8 or cp1252 (western Europe)" in message
        assert "tether data import --encoding NAME, such as shift_jis" in message
    data = run(path, **options, encoding=encoding)
    assert list(data.schema.observation) == [name]
    np.testing.assert_allclose(data.observations[:, 0], np.arange(40) / 7, rtol=1e-6)
    assert any(f"the file is written in {encoding}" in note for note in said)


@pytest.mark.parametrize("name", ["Größe", "température", "Ventilöffnung °C", "año", "µm²", "naïveté, über", "prix €"])
def test_text_that_is_western(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("\n".join([f'"{name}",u,r,e', *("0.5,0.5,1,0" for _ in range(9))]).encode("cp1252"))
    options: dict[str, Any] = {"observation": (name,), "action": ("u",), "reward": "r", "episode": "e"}
    assert list(run(path, **options).schema.observation) == [name]
    assert "if names are garbled, say how the file is written: --encoding NAME" in refused(
        path, **{**options, "observation": ("łą",)}
    )
    assert "--encoding 'utf_9': no encoding that Python knows" in refused(path, **options, encoding="utf_9")


@each_reader
def test_times_in_words(tmp_path: Path, suffix: str) -> None:
    columns = {
        "when": [f"2026-05-01T08:0{i}:00+02:00" for i in (1, 0, 2)],
        "day": [f"{d:02d}/02/2026" for d in (2, 1, 3)],
        "x": [1.5, 0.5, 2.5],
        "u": [0.1, 0.2, 0.3],
    }
    path = WRITERS[suffix](tmp_path / f"a{suffix}", columns)
    options: dict[str, Any] = {"observation": ("x",), "action": ("u",), "reward": "0", "episode": "none"}
    for time, time_format in (("when", None), ("day", "%d/%m/%Y")):
        data = run(path, **options, time=time, time_format=time_format)
        np.testing.assert_array_equal(data.observations[:, 0], [0.5, 1.5, 2.5])
    assert infos(data, "day")[1] - infos(data, "day")[0] == 86_400


@each_reader
def test_files_side_by_side(tmp_path: Path, suffix: str) -> None:
    ids, order = np.arange(20), GENERATOR.permutation(20)
    states = WRITERS[suffix](tmp_path / f"states{suffix}", {"id": ids, "x": np.sin(ids), "t": ids * 0.1})
    actions = {"id": order.astype(float), "u": np.cos(order), "reward": order * 0.5, "t": order * 0.1 + 1}
    others = WRITERS[suffix](tmp_path / f"actions{suffix}", actions)
    options: dict[str, Any] = {"observation": ("x",), "action": ("u",), "reward": "reward", "episode": "none"}
    data = run([states, others], **options, join=("id",), time="actions.t")
    np.testing.assert_allclose(data.observations[:, 0], np.sin(ids), atol=1e-6)
    np.testing.assert_allclose(data.actions[:, 0], np.cos(ids), atol=1e-6)
    np.testing.assert_allclose(data.rewards, ids * 0.5)
    np.testing.assert_allclose(infos(data, "actions.t"), ids * 0.1 + 1)
    assert "unknown column for --time" in refused([states, others], **options, join=("id",), time="t")
    fewer = WRITERS[suffix](tmp_path / f"fewer{suffix}", {k: v[order < 15] for k, v in actions.items()})
    assert "no row with id 15, which" in refused([states, fewer], **options, join=("id",))
    twice = WRITERS[suffix](tmp_path / f"twice{suffix}", {k: np.append(v, v[:1]) for k, v in actions.items()})
    assert "stands in several rows; --join needs one" in refused([states, twice], **options, join=("id",))
    assert "unknown column for --join" in refused([states, others], **options, join=("key",))
    assert "name the several files" in refused([states], **options, join=("id",))


@each_reader
def test_text_becomes_categories_when_asked(tmp_path: Path, suffix: str) -> None:
    columns = {
        "mode": np.array(["manual", "auto", "auto", "off"]),
        "x": np.arange(4) / 2,
        "u": np.array([0.1, 0.2, 0.3, 0.4]),
        "level": np.array([3, 10, 3, 10]),
    }
    path = WRITERS[suffix](tmp_path / f"a{suffix}", columns)
    options: dict[str, Any] = {"observation": ("mode", "x"), "action": ("u",), "reward": "0", "episode": "none"}
    message = refused(path, **options)
    assert "column 'mode' holds 'manual' in row 0" in message
    assert "--one-hot mode makes a number of each of its 3 texts" in message
    for one_hot in ((), ("mode",)):
        data = run(path, **options, one_hot=one_hot)
        assert list(data.schema.observation) == ["mode=auto", "mode=manual", "mode=off", "x"]
        np.testing.assert_array_equal(data.observations[:, :3], [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]])
    data = run(path, **{**options, "observation": ("x",)}, one_hot=("level",))
    assert list(data.schema.observation) == ["x", "level=3", "level=10"]
    np.testing.assert_array_equal(data.observations[:, 2], [0, 1, 0, 1])


def test_a_stray_text_among_numbers(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", {"x": [*map(str, np.arange(9) / 2), "bad"], "u": np.arange(10) / 20})
    message = refused(path, observation=("x",), action=("u",), reward="0", episode="none")
    assert "column 'x' holds 'bad' in row 9, which is not a number, as most of its entries are" in message


@each_reader
def test_patterns_mean_columns_in_the_files_order(tmp_path: Path, suffix: str) -> None:
    names = ["T_supply", "T_room", "T_2", "T_10", "T_1", "T_air"]
    columns = {name: np.array([i, i + 1.0]) for i, name in enumerate(names)} | {"u": np.array([0.1, 0.2])}
    path = WRITERS[suffix](tmp_path / f"a{suffix}", columns)
    data = run(path, observation=("T_*",), action=("u",), reward="0", episode="none")
    # HDF5 itself keeps names in alphabetical order.
    expected = ["T_supply", "T_room", "T_1", "T_2", "T_10", "T_air"]
    if suffix == ".hdf5":
        expected = ["T_1", "T_2", "T_10", "T_air", "T_room", "T_supply"]
    assert list(data.schema.observation) == expected


def test_objects_are_read_around(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.mkdir, (tmp_path / "exploded",)

    rows = 30
    columns = {"obs": GENERATOR.normal(size=(rows, 3)), "acts": GENERATOR.uniform(-1, 1, rows), "rews": np.ones(rows)}
    columns |= {"episode": np.arange(rows) // 10, "infos": np.array([Bomb()] * rows, object)}
    path = write_npz(tmp_path / "a.npz", columns)
    options: dict[str, Any] = {"observation": ("obs",), "action": ("acts",), "reward": "rews", "episode": "episode"}
    assert len(run(path, **options)) == rows
    assert "not read: infos (pickled Python objects, which are never read)" in said
    assert "pickled Python objects" in refused(path, **{**options, "observation": ("infos",)})
    standard = {"observations": columns["obs"], "actions": columns["acts"][:, None], "rewards": columns["rews"]}
    standard |= {"terminals": np.arange(rows) % 10 == 9, "infos": columns["infos"]}
    path = write_npz(tmp_path / "b.npz", standard)
    assert len(load_dataset(str(path))) == rows
    assert read_raw(path).columns.keys() == {"observations", "actions", "rewards", "terminals"}
    assert not (tmp_path / "exploded").exists()


def test_fields_of_compound_arrays(tmp_path: Path) -> None:
    table = np.zeros(6, [("x", "f4"), ("pose", "f4", (2,)), ("u", "f8"), ("e", "i4")])
    table["x"], table["pose"], table["u"], table["e"] = (
        np.arange(6),
        np.ones((6, 2)),
        np.linspace(-1, 1, 6),
        [0, 0, 0, 1, 1, 1],
    )
    for write, suffix in ((write_npz, "npz"), (write_hdf5, "hdf5")):
        path = write(tmp_path / f"a.{suffix}", {"log": table})
        data = run(path, observation=("log.x", "log.pose"), action=("log.u",), reward="0", episode="log.e")
        np.testing.assert_array_equal(data.observations, np.stack([np.arange(6), np.ones(6), np.ones(6)], axis=1))
        np.testing.assert_array_equal(data.episode_lengths(), [3, 3])


def test_small_logs_make_small_files(tmp_path: Path) -> None:
    columns = {
        "x": GENERATOR.normal(size=(200, 10)),
        "u": GENERATOR.uniform(-1, 1, (200, 2)),
        "e": np.arange(200) // 50,
    }
    path = write_npz(tmp_path / "a.npz", columns)
    data = run(path, observation=("x",), action=("u",), reward="0", episode="e")
    assert Path(data.source.location).stat().st_size < 40_000
