"""The doctor examines sources of every kind as they are stored, also where `load_dataset` refuses them, and what it
repairs passes its own examination."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import doctor_data as make
import h5py
import numpy as np
import pyarrow as arrow
import pytest
from doctor_data import Columns, put, take, without
from make_data import digest, tether
from pyarrow import csv, parquet
from recordings import write_robomimic
from test_doctor import FAULTS, write_minari
from test_doctor_report import write

from tether.data import Dataset, load_dataset
from tether.doctor import check, fix, read_raw
from tether.errors import InputError

NAMES = {"rewards": "reward", "terminals": "terminal", "timeouts": "timeout"}


def table(columns: Columns, **others: Any) -> dict[str, Any]:
    """The convention's names: a column for each number."""
    named: dict[str, Any] = {}
    for name, column in without(columns, "next_observations").items():
        if column.ndim == 2:
            named |= {f"{name[:-1]}_{index}": part for index, part in enumerate(column.T)}
        else:
            named[NAMES[name]] = column
    return named | others


def write_table(path: Path, named: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **named)
    else:
        whole = arrow.table({name: arrow.array(list(column)) for name, column in named.items()})
        (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(whole, path)
    return path


def small() -> Columns:
    """Twelve whole episodes, about 1500 rows."""
    return make.take(make.locomotion(), np.arange(make.ends(make.locomotion())[11] + 1))


# --- every kind of source -----------------------------------------------------------------------------------

Place = Callable[[Path, pytest.MonkeyPatch, Columns], str]


def as_hdf5(folder: Path, _: pytest.MonkeyPatch, columns: Columns) -> str:
    return str(write(folder / "set.hdf5", columns))


def as_npz(folder: Path, _: pytest.MonkeyPatch, columns: Columns) -> str:
    np.savez(folder / "set.npz", **columns)
    return str(folder / "set.npz")


def as_table(suffix: str) -> Place:
    return lambda folder, _, columns: str(write_table(folder / f"set{suffix}", table(columns)))


def as_minari_folder(folder: Path, _: pytest.MonkeyPatch, columns: Columns) -> str:
    return str(write_minari(folder / "set", columns))


def as_minari_name(folder: Path, monkeypatch: pytest.MonkeyPatch, columns: Columns) -> str:
    write_minari(folder / "x" / "set-v0", columns, dataset_id="x/set-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return "minari:x/set-v0"


def as_d4rl_name(folder: Path, monkeypatch: pytest.MonkeyPatch, columns: Columns) -> str:
    (folder / "kitchen").mkdir()
    write(folder / "kitchen" / "kitchen_microwave_kettle_light_slider-v0.hdf5", columns)
    monkeypatch.setenv("TETHER_D4RL_MIRRORS", str(folder))
    monkeypatch.setenv("TETHER_CACHE", str(folder / "cache"))
    return "d4rl:Kitchen_Partial-v0"


KINDS: dict[str, Place] = {
    "HDF5": as_hdf5,
    "npz": as_npz,
    "npz table": as_table(".npz"),
    "CSV": as_table(".csv"),
    "Parquet": as_table(".parquet"),
    "Minari folder": as_minari_folder,
    "Minari name": as_minari_name,
    "D4RL name": as_d4rl_name,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_it_is(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in row 37 is named, though training refuses the source; everything else is what was stored."""
    columns = put(small(), "observations", (37, 2), np.nan)
    read = read_raw(KINDS[kind](tmp_path, monkeypatch, columns))
    for name in ("observations", "actions", "rewards", "terminals"):
        np.testing.assert_array_equal(read.columns[name], columns[name])
    whole = dataclasses.replace(read, name="data")
    found = [f for f in make.findings_of(whole) if f.code == "not-finite" and f.what.startswith("observations:")]
    assert [f.place.rows for f in found] == [(37,)]
    assert len(read.sha256) == 64


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_repaired_passes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = KINDS[kind](tmp_path, monkeypatch, put(small(), "actions", (9, 0), 1.2))
    before = {path: digest(path) for path in tmp_path.rglob("*") if path.is_file()}
    report, after = fix(source, tmp_path / "out.hdf5", only=["actions-out-of-range"])
    assert [f.place.rows for f in report.findings if f.code == "actions-out-of-range"] == [(9,)]
    assert report.refused
    assert (after.count("error"), after.refused) == (0, "")
    assert float(load_dataset(str(tmp_path / "out.hdf5")).actions[9, 0]) == 1.0
    assert all(digest(path) == content for path, content in before.items())


def test_a_repair_keeps_the_rules_of_the_rows(tmp_path: Path) -> None:
    """Demonstrations that go on at the goal stay whole, exact next observations exact, masks and successes theirs."""
    states = np.random.default_rng(0).normal(size=(6, 9, 3))
    states[5] = states[0]
    episodes = [{"observations": s, "actions": np.tanh(s[:-1]), "rewards": np.ones(8)} for s in states]
    data = dataclasses.replace(
        Dataset.from_episodes(episodes), masks={"even": np.arange(48) // 8 % 2 == 0}, successes=np.arange(48) % 8 == 7
    )
    for source, rows in (
        (write_robomimic(tmp_path / "lift.hdf5", (8, 8, 8), success=np.arange(8) == 5), 24),
        (data.to_hdf5(tmp_path / "memory.hdf5"), 40),  # without the copy
    ):
        report, _ = fix(source, out := tmp_path / f"{source.stem}-fixed.hdf5")
        before, after = load_dataset(str(source)).select(np.arange(rows)), load_dataset(str(out))
        assert report.changes
        assert (len(after), len(after.transitions()[0])) == (rows, rows)
        assert after.content_sha256() == before.content_sha256()


def test_a_repair_of_minari_keeps_what_the_infos_say_of_success(tmp_path: Path) -> None:
    """Flags, the start's first: what the strict reader makes of them is there after the repair, and no score is."""
    columns = put(small(), "actions", (9, 0), 1.2)
    ends = make.ends(columns)
    for name, high in (("flags", 2), ("scores", 3)):
        folder = write_minari(tmp_path / name, columns)
        told = np.random.default_rng(0).integers(high, size=(12, 4000))
        with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
            for index, steps in enumerate(np.diff([-1, *ends])):
                file[f"episode_{index}/infos/success"] = told[index, : steps + 1]
        fix(folder, out := tmp_path / f"{name}.hdf5", only=["actions-out-of-range"])
        expected = np.concatenate([told[index, 1 : steps + 1] for index, steps in enumerate(np.diff([-1, *ends]))])
        successes = load_dataset(str(out)).successes
        assert successes is None if name == "scores" else np.array_equal(successes, expected)


def test_names_give_names_and_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_raw(as_d4rl_name(tmp_path, monkeypatch, small()))
    assert (read.name, read.location) == ("kitchen-partial-v0", "d4rl:Kitchen_Partial-v0")
    with pytest.raises(InputError, match="no-such-set"):
        check("d4rl:no-such-set")
    with pytest.raises(InputError, match="minari:no/such"):
        check("minari:no/such-v0")


# --- tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_faults_of_tables(tmp_path: Path, suffix: str) -> None:
    """An empty cell, a word among numbers, a flag of 2, a clock that stutters: each at its row."""
    columns = small()
    observation, terminal = columns["observations"][:, 2].astype(object), columns["terminals"].astype(float)
    observation[37], terminal[50] = None, 2.0
    words = [str(value) for value in columns["observations"][:, 3]]
    words[90] = "lost"
    time = np.arange(len(terminal)) * 0.05
    time[700:] += 3.0
    time[701:] -= 3.0
    named = table(columns, observation_2=observation, observation_3=words, terminal=terminal, time=time)
    path = write_table(tmp_path / f"log{suffix}", named)
    report = check(path)
    places = {(f.code, f.place.columns): f.place.rows for f in report.findings}
    assert places["not-numbers", ("observation_3",)] == (90,)
    assert places["not-finite", ("observation_2", "observation_3")] == (37, 90)
    assert places["bad-flag", ("terminals",)] == (50,)
    assert places["time-not-increasing", ("time",)] == (700,)
    assert "row" in report.refused
    assert report.data.raw.layout == "table"


def test_episodes_of_tables(tmp_path: Path) -> None:
    """An episode that changes without a flag ends with a time-out, as training has it."""
    columns = make.locomotion()
    named = table(columns, episode=np.repeat(np.arange(len(make.starts(columns))), make.lengths(columns)))
    del named["timeout"]
    report = check(write_table(tmp_path / "log.parquet", named))
    assert np.array_equal(report.data.timeouts, columns["timeouts"])
    assert [(f.code, f.what) for f in report.findings if f.grade != "note"] == []
    assert np.array_equal(load_dataset(str(tmp_path / "log.parquet")).timeouts, columns["timeouts"])


@pytest.mark.parametrize("suffix", [".hdf5", ".npz", ".csv", ".parquet"])
def test_rows_in_no_order_with_their_own_successors(tmp_path: Path, suffix: str) -> None:
    """Replay buffers that training reads as they are meant: no fault is seen, and no return of their pieces."""
    columns = take(make.locomotion(), np.random.default_rng(0).permutation(len(make.locomotion()["rewards"])))
    path = tmp_path / f"buffer{suffix}"
    if suffix == ".hdf5":
        write(path, columns)
    else:
        following = {f"next_observation_{i}": part for i, part in enumerate(columns["next_observations"].T)}
        write_table(path, columns if suffix == ".npz" else table(columns, **following))
    data, report = load_dataset(str(path)), check(path)
    assert (report.grade, report.refused) == ("A", "")
    np.testing.assert_array_equal(report.data.timeouts, data.timeouts)
    np.testing.assert_array_equal(report.data.recorded, data.recorded_episodes)
    what = next(finding.what for finding in report.findings if finding.code == "left-out")
    assert what.startswith(f"{int((data.timeouts & ~columns['timeouts']).sum()):,} rows are not followed")
    assert report.figures["return"] == {}
    report.save(tmp_path / "report")


def test_rewards_of_rows_in_no_order_are_scaled_over_all_of_them(tmp_path: Path) -> None:
    """No row but time-outs is left to a reader that does not know what followed."""
    columns = take(make.deterministic(), np.random.default_rng(0).permutation(3600))
    report = check(write(tmp_path / "buffer.hdf5", {**columns, "rewards": 1e6 * columns["rewards"].astype(float)}))
    assert report.codes("warning") == {"reward-scale"}


def test_next_observations_that_are_the_rows_own_are_no_successors(tmp_path: Path) -> None:
    report = check(write(tmp_path / "own.hdf5", {**small(), "next_observations": small()["observations"]}))
    assert (report.codes("error"), report.grade) == ({"next-equals-current"}, "C")


@pytest.mark.parametrize(("no", "yes"), [("no", "yes"), ("No", "Yes"), (" false", " true"), ("f", "t")])
def test_flags_of_csv_files_are_spelled_as_their_reader_has_them(tmp_path: Path, no: str, yes: str) -> None:
    columns = small()
    spelled = np.where(columns["terminals"], yes, no).astype(object)
    report = check(write_table(tmp_path / "log.csv", table(columns, terminal=spelled)))
    np.testing.assert_array_equal(report.data.terminals, columns["terminals"])
    assert (report.grade, report.refused) == ("A", "")
    other = np.where(columns["terminals"], "over", no).astype(object)
    assert "not-numbers" in check(write_table(tmp_path / "other.csv", table(columns, terminal=other))).codes("error")


def test_rows_of_sorted_tables_have_the_numbers_of_the_source(tmp_path: Path) -> None:
    """Two machines that log by turns: NaN is named where it stands in the file."""
    columns = make.take(without(make.deterministic(), "next_observations", "timeouts"), np.arange(120))
    turns = np.arange(120).reshape(2, -1).T.reshape(-1)
    mixed = take(put(columns, "observations", (80, 2), np.nan), turns)
    path = write_table(tmp_path / "log.csv", table(mixed, episode=np.repeat(np.arange(2), 60)[turns]))
    found = {finding.code: finding.place.rows for finding in check(path).findings}
    assert found["not-finite"] == (int(np.flatnonzero(turns == 80)[0]),)


def test_returns_are_those_of_whole_recorded_episodes(tmp_path: Path) -> None:
    """An episode that lost a row is two pieces, of which training counts none."""
    columns = without(make.deterministic(), "next_observations")
    broken = put(columns, "observations", (make.starts(columns)[1:] + 30, 1), np.nan)
    _, after = fix(write(tmp_path / "broken.hdf5", broken), out := tmp_path / "out.hdf5")
    returns = load_dataset(str(out)).episode_returns()
    assert len(returns) == 1
    np.testing.assert_allclose(after.data.returns, returns, rtol=1e-5)
    assert (after.figures["episodes"], after.figures["recorded_episodes"]) == (119, 60)
    assert after.figures["return"]["mean"] == pytest.approx(returns.mean(), rel=1e-5)


def test_what_training_refuses_is_neither_a_nor_b(tmp_path: Path) -> None:
    columns = small()
    source = write(tmp_path / "two.hdf5", {**columns, "actions": (columns["actions"][:, :1] > 0).astype(np.float32)})
    report = check(source)
    assert "integer choices" in report.refused
    assert report.grade == "D"
    assert dataclasses.replace(report, findings=()).grade == "D"
    assert check(source, continuous=True).grade in "AB"


def test_names_that_say_nothing_are_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "log.csv", {"q": np.zeros(5), "u": np.zeros(5)})
    with pytest.raises(InputError, match="do not follow the convention"):
        check(path)


# --- several faults at once ---------------------------------------------------------------------------------


def plant(columns: Columns, *names: str) -> Columns:
    for name in names:
        columns = FAULTS[name][1](columns)
    return columns


TOGETHER = {
    "NaN, shape, precision, copies": lambda: plant(
        make.demonstrations(), "copied episodes", "unclipped", "float64", "(N, 1)"
    ),
    "interleaved, clipped, NaN": lambda: plant(make.locomotion(), "interleaved", "unclipped", "overflow"),
    "jumps and NaN": lambda: put(plant(make.locomotion(), "unmarked ends"), "observations", (37, 2), np.nan),
    "lost rows and wrong next": lambda: plant(make.locomotion(), "rows lost", "unclipped"),
    "horizon and both flags": lambda: plant(make.deterministic(), "both flags at the horizon", "(N, 1)", "float64"),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_several_faults_are_repaired_together(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / "source.hdf5", TOGETHER[name]())
    before = digest(source)
    report, after = fix(source, tmp_path / "out.hdf5")
    assert len({change.code for change in report.changes}) >= 2
    assert after.count("error") == 0
    assert not after.fixable()
    assert after.refused == ""
    assert digest(source) == before


def view_of_d4rl(columns: Columns) -> Columns:
    """What D4RL's Q-learning helper emits, saved: time-out rows are gone, and with them the flags; the next observation
    of a terminal row is the next episode's."""
    columns = without(columns, "next_observations")
    following = np.append(columns["observations"][1:], columns["observations"][:1], axis=0)
    kept = np.flatnonzero(~columns["timeouts"][:-1])
    return make.take(without({**columns, "next_observations": following}, "timeouts"), kept)


def test_a_saved_qlearning_view(tmp_path: Path) -> None:
    """Every place where a time-out row is missing is named, and marked again by the repair."""
    columns = make.locomotion()
    kept = np.flatnonzero(~columns["timeouts"][:-1])
    last = np.flatnonzero(columns["timeouts"][1:])
    expected = np.searchsorted(kept, last[~columns["terminals"][last] & (last < kept[-1])])
    report, after = fix(write(tmp_path / "view.hdf5", view_of_d4rl(columns)), tmp_path / "out.hdf5")
    places = {f.code: f.place.rows for f in report.findings}
    assert places["next-observation-mismatch"] == tuple(expected.tolist())
    assert "next-observation-from-reset" in places
    assert after.count("error") == 0
    assert after.data.timeouts[expected].all()


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_to_repair_is_no_failure(here: Path) -> None:
    """The report is printed and saved all the same; no file is written."""
    write(here / "clean.hdf5", small())
    code, out, err = tether("data", "check", "clean.hdf5", "--fix", "out.hdf5", "--out", "report")
    assert (code, err) == (0, "")
    assert "nothing that needs no judgement" in out
    assert sorted(path.name for path in here.iterdir()) == ["clean.hdf5", "report"]
    write(here / "late.hdf5", make.shift(make.locomotion(), "rewards", 1))
    code, out, _ = tether("data", "check", "late.hdf5", "--fix", "out.hdf5", "--out", "report")
    assert code == 1
    assert "reward-shifted" in out


def test_coverage_is_told(tmp_path: Path) -> None:
    """Two of eight directions vary, actions stay in a tenth of their range."""
    columns = make.bandit()
    plane = np.random.default_rng(0).normal(size=(2000, 2)) @ np.random.default_rng(1).normal(size=(2, 8))
    narrow = {**columns, "observations": plane.astype(np.float32), "actions": 0.05 + 0.04 * columns["actions"]}
    figures = check(write(tmp_path / "narrow.hdf5", narrow)).figures
    assert (figures["directions_of_variance"], figures["distinct_observations"]) == (2, 2000)
    assert figures["action_coverage"] == pytest.approx(0.1)
    assert check(write(tmp_path / "wide.hdf5", columns)).figures["action_coverage"] == 1.0
