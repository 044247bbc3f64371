"""The doctor's repairs go into a new file and remove what they claim to; its report says so in table, JSON and HTML."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import doctor_data as make
import h5py
import numpy as np
import pytest
from doctor_data import Columns, put, raw, without
from make_data import digest, tether
from test_doctor import FAULTS, write_minari

from tether.data import load_dataset
from tether.doctor import CODES, check, fix, read_raw
from tether.doctor.checks import run_checks
from tether.doctor.fixes import FIXES, apply_fixes
from tether.doctor.logged import Logged
from tether.doctor.pictures import PICTURES, draw_pictures
from tether.doctor.report import OVERALL
from tether.errors import InputError


def write(path: Path, columns: Columns) -> Path:
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file[name] = column
        file["infos/qpos"] = columns["observations"][:, :6]
        file["metadata/algorithm"] = "SAC"
    return path


def planted(path: Path, fault: str) -> Path:
    clean, plant, _, _ = FAULTS[fault]
    return write(path, plant(clean()))


# --- repairs ------------------------------------------------------------------------------------------------

REPAIRED = (
    "flat actions",
    "(N, 1)",
    "float64",
    "NaN",
    "unclipped",
    "both flags",
    "done at the horizon",
    "done at the horizon, falls too",
    "timeouts out of step",
    "unmarked ends",
    "rows lost",
    "next is current",
    "next from reset",
    "interleaved",
    "copied episodes",
)


@pytest.mark.parametrize("fault", REPAIRED)
def test_a_repair_removes_the_finding(tmp_path: Path, fault: str) -> None:
    source, out, code = planted(tmp_path / "source.hdf5", fault), tmp_path / "out.hdf5", FAULTS[fault][2]
    before = digest(source)
    report, after = fix(source, out)
    assert digest(source) == before
    assert code in {change.code for change in report.changes}
    assert code not in after.codes()
    assert after.count("error") == 0
    assert after.refused == ""
    assert len(load_dataset(str(out))) == after.data.rows
    assert not list(tmp_path.glob(".tmp-*"))
    with h5py.File(out) as file:
        assert file["metadata/algorithm"][()] == b"SAC"  # pyright: ignore[reportIndexIssue]
        assert code in file["metadata/fixes"][()].decode().split()  # pyright: ignore[reportIndexIssue]
        assert len(file["infos/qpos"]) == after.data.rows  # other columns keep step


def test_repairs_have_tests() -> None:
    covered = {FAULTS[fault][2] for fault in REPAIRED} | {"missing-last-observation", "no-episode-ends"}
    assert covered == set(FIXES) == {name for name, code in CODES.items() if code.automatic}


def repaired(columns: Columns, code: str, name: str = "data") -> Columns:
    return dict(apply_fixes(raw(columns, name), [code])[0].columns)


def test_flags_come_back_exactly() -> None:
    """Undone: terminals at the horizon, both flags, wiped flags, interleaving."""
    columns = without(make.locomotion(), "next_observations")
    at_horizon = repaired({**columns, "terminals": columns["terminals"] | columns["timeouts"]}, "terminals-at-horizon")
    both = repaired({**columns, "timeouts": columns["timeouts"] | columns["terminals"]}, "terminal-and-timeout")
    for fixed in (at_horizon, both):
        np.testing.assert_array_equal(fixed["terminals"], columns["terminals"])
        np.testing.assert_array_equal(fixed["timeouts"], columns["timeouts"])
    nothing = np.zeros_like(columns["terminals"])
    fixed = repaired({**columns, "terminals": nothing, "timeouts": nothing}, "teleports")
    np.testing.assert_array_equal(np.flatnonzero(fixed["timeouts"]), make.ends(columns)[:-1])


def test_interleaved_rows_are_sorted() -> None:
    columns = without(make.locomotion(), "next_observations")
    columns = make.take(columns, np.arange(len(columns["rewards"]) // 4 * 4))
    fixed = repaired(FAULTS["interleaved"][1](columns), "interleaved-rows")
    for name in ("observations", "actions", "rewards", "terminals"):
        np.testing.assert_array_equal(fixed[name], columns[name])
    quarter = len(columns["rewards"]) // 4
    expected = columns["timeouts"].copy()
    expected[quarter - 1 :: quarter] |= ~columns["terminals"][quarter - 1 :: quarter]
    np.testing.assert_array_equal(fixed["timeouts"], expected)


def test_rows_that_are_not_finite_cut_their_episode() -> None:
    columns = without(make.locomotion(), "next_observations")
    inside = int(make.starts(columns)[3]) + 20
    fixed = repaired(put(columns, "observations", ([inside, inside + 1], 0), np.nan), "not-finite")
    keep = np.delete(np.arange(len(columns["rewards"])), [inside, inside + 1])
    np.testing.assert_array_equal(fixed["observations"], columns["observations"][keep])
    assert np.setdiff1d(np.flatnonzero(fixed["timeouts"]), np.flatnonzero(columns["timeouts"][keep])) == [inside - 1]


def test_episodes_that_lost_rows_are_pieces(tmp_path: Path) -> None:
    """As after `tether data import --missing drop`: their returns are nobody's. A second repair leaves that so."""
    columns = without(make.locomotion(), "next_observations")
    returns = np.add.reduceat(columns["rewards"], make.starts(columns))
    lost = int(make.starts(columns)[3]) + 20
    source = write(tmp_path / "0.hdf5", put(columns, "observations", (lost, 0), np.nan))
    for number, whole in ((1, np.delete(returns, 3)), (2, np.delete(returns, [3, len(returns) - 1]))):
        fix(source, out := tmp_path / f"{number}.hdf5", only=["not-finite"])
        data = load_dataset(str(out))
        np.testing.assert_allclose(data.episode_returns(), whole, rtol=1e-4)
        assert data.recorded_episodes is not None
        assert len(np.unique(data.recorded_episodes)) == len(returns)
        source = out
        with h5py.File(source, "a") as file:
            file["observations"][-1] = np.nan  # pyright: ignore[reportIndexIssue, reportArgumentType]


def test_missing_timeouts_are_set_at_the_horizon() -> None:
    """Only where the rows divide by the horizon and the cuts look like resets."""
    columns = make.deterministic()
    wiped = {**without(columns, "next_observations"), "timeouts": np.zeros_like(columns["timeouts"])}
    for horizon, fixable in ((60, True), (50, False), (90, False)):
        data = dataclasses.replace(raw(wiped), horizon=horizon)
        found = next(f for f in run_checks(Logged(data)) if f.code == "no-episode-ends")
        assert found.fixable == fixable
    fixed, _ = apply_fixes(dataclasses.replace(raw(wiped), horizon=60), ["no-episode-ends"])
    np.testing.assert_array_equal(fixed.columns["timeouts"], columns["timeouts"])


def test_actions_are_rescaled_from_the_limits_of_minari(tmp_path: Path) -> None:
    columns = make.locomotion()
    low, high = np.array([-3.0, 0.0]), np.array([1.0, 8.0])
    scaled = {**columns, "actions": (low + (columns["actions"] + 1) / 2 * (high - low)).astype(np.float32)}
    limits = json.dumps({"low": low.tolist(), "high": high.tolist()})
    folder = write_minari(tmp_path / "m", scaled, short=1, action_space=limits)
    _, after = fix(folder, tmp_path / "out.hdf5")
    keep = np.delete(np.arange(len(columns["rewards"])), make.ends(columns)[0])
    np.testing.assert_allclose(after.data.actions, columns["actions"][keep], atol=1e-6)
    assert (after.count("error"), after.refused) == (0, "")
    schema = load_dataset(str(tmp_path / "out.hdf5")).schema  # the deployed policy maps its actions back
    assert schema is not None
    assert (schema.box.low, schema.box.high) == ((-3.0, 0.0), (1.0, 8.0))


def test_an_imported_set_keeps_its_schema(tmp_path: Path) -> None:
    """Names in the findings, and the robot's action range in the repaired file."""
    columns = make.locomotion()
    names = {"observation": {"hip": [0, 1], "rest": [1, 8]}, "action": {"left": [0, 1], "right": [1, 2]}}
    schema = {**names, "action_low": [-30.0, -30.0], "action_high": [30.0, 30.0]}
    source = write(tmp_path / "source.hdf5", put(columns, "observations", (7, 0), np.nan))
    with h5py.File(source, "a") as file:
        file["metadata/schema"], file["metadata/import"] = json.dumps(schema), json.dumps({"files": 3})
    report, after = fix(source, tmp_path / "out.hdf5", only=["not-finite"])
    assert [f.place.columns for f in report.findings if f.code == "not-finite"] == [("hip",)]
    assert after.data.raw.schema == report.data.raw.schema is not None
    assert after.data.raw.documents == {"metadata/import": json.dumps({"files": 3})}


def test_short_minari_episodes_lose_their_last_step(tmp_path: Path) -> None:
    columns = make.locomotion()
    _, after = fix(write_minari(tmp_path / "m", columns, short=3), tmp_path / "out.hdf5")
    keep = np.delete(np.arange(len(columns["rewards"])), make.ends(columns)[:3])
    np.testing.assert_array_equal(after.data.observations, columns["observations"][keep])
    assert after.data.ends[make.ends(columns)[:3] - [1, 2, 3]].all()  # pyright: ignore[reportCallIssue]
    assert after.count("error") == 0


def test_only_the_chosen_repairs(tmp_path: Path) -> None:
    columns = {**FAULTS["NaN"][1](make.locomotion()), "timeouts": make.locomotion()["timeouts"][:, None]}
    source = write(tmp_path / "source.hdf5", columns)
    report, after = fix(source, tmp_path / "out.hdf5", only=["column-vector"])
    assert [change.code for change in report.changes] == ["column-vector"]
    assert "not-finite" in after.codes()
    with pytest.raises(InputError, match=r"cannot fix 'teleports' in .*column-vector, not-finite"):
        fix(source, tmp_path / "other.hdf5", only=["teleports"])


def test_targets_are_refused(tmp_path: Path) -> None:
    source = planted(tmp_path / "source.hdf5", "NaN")
    for target, message in (
        (source, "exists"),
        (tmp_path / "out.csv", "ends in .hdf5"),
        (tmp_path / "nowhere" / "out.hdf5", "no folder"),
    ):
        with pytest.raises(InputError, match=message):
            fix(source, target)
    with pytest.raises(InputError, match="nothing to fix"):
        fix(write(tmp_path / "clean.hdf5", make.locomotion()), tmp_path / "out.hdf5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.hdf5", "source.hdf5"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = planted(tmp_path / "source.hdf5", "NaN")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("tether.machine.files.os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        fix(source, tmp_path / "out.hdf5")
    assert [path.name for path in tmp_path.iterdir()] == ["source.hdf5"]


# --- grades and reports -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "grade"), [("sparse", "A"), ("stutter", "B"), ("NaN", "C"), ("reward late", "D"), ("no rewards", "D")]
)
def test_overall_grade(tmp_path: Path, fault: str, grade: str) -> None:
    purpose = {"purpose": "offline-rl"} if fault == "no rewards" else {}  # without rewards, data are for imitation
    report = check(planted(tmp_path / "data.hdf5", fault), **purpose)
    assert report.grade == grade
    assert set(OVERALL) == set("ABCD")


def test_what_dataset_refuses_is_examined(tmp_path: Path) -> None:
    report = check(planted(tmp_path / "data.hdf5", "NaN"))
    assert re.search(r"observations holds nan at row 37, entry 2", report.refused)
    assert report.data.rows == len(make.locomotion()["rewards"])
    report = check(planted(tmp_path / "other.hdf5", "no rewards"), purpose="offline-rl")
    assert "reward shifted" in report.skipped
    assert "teleports" not in report.skipped


def test_json_holds_everything(tmp_path: Path) -> None:
    report = check(planted(tmp_path / "data.hdf5", "timeouts out of step"))
    path, _ = report.save(tmp_path / "report")
    content = json.loads(path.read_text())
    assert (content["format_version"], content["grade"]) == (1, "C")
    assert content["sha256"] == digest(tmp_path / "data.hdf5")
    teleports = next(finding for finding in content["findings"] if finding["code"] == "teleports")
    assert teleports["where"]["count"] == len(teleports["where"]["rows"]) > 5
    assert all(teleports[key] for key in ("title", "what", "why", "fix", "fixable"))
    lengths = make.lengths(make.locomotion(60))
    assert content["figures"]["rows"] == lengths.sum()
    assert content["counts"]["error"] == sum(finding["grade"] == "error" for finding in content["findings"])


def test_page_is_self_contained(tmp_path: Path) -> None:
    report = check(planted(tmp_path / "data.hdf5", "NaN"))
    evil = dataclasses.replace(report.data.raw, name="<script>alert(1)</script>")
    report.data.raw = evil
    _, path = report.save(tmp_path / "report")
    page = path.read_text()
    assert page.count("data:image/png;base64,") == len(PICTURES)
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "not-finite" in page


def test_same_data_same_bytes(tmp_path: Path) -> None:
    source = planted(tmp_path / "data.hdf5", "timeouts out of step")
    first, second = (check(source).save(tmp_path / name) for name in ("first", "second"))
    assert [digest(path) for path in first] == [digest(path) for path in second]


STRANGE: dict[str, Callable[[Columns], Columns]] = {
    "empty": lambda c: make.take(c, np.arange(0)),
    "one row": lambda c: make.take(c, np.arange(1)),
    "two rows": lambda c: make.take(c, np.arange(2)),
    "all NaN": lambda c: {**c, "observations": np.full_like(c["observations"], np.nan)},
    "only observations": lambda c: {"observations": c["observations"]},
    "constant": lambda c: {**c, "observations": 0 * c["observations"], "next_observations": 0 * c["observations"]},
    "images": lambda c: {**c, "observations": np.zeros((len(c["rewards"]), 4, 4, 3), np.uint8)},
    "all flags": lambda c: {**c, "terminals": np.ones(len(c["rewards"]), bool)},
    "one value": lambda c: {name: np.ones_like(column) for name, column in c.items()},
    "huge": lambda c: {**c, "observations": c["observations"] * np.float32(1e30), "rewards": c["rewards"] * 1e30},
}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_data_do_not_crash(tmp_path: Path, kind: str) -> None:
    columns = STRANGE[kind](make.take(make.locomotion(), np.arange(600)))
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file[name] = column
    report = check(path)
    report.save(tmp_path / "report")
    assert report.findings or kind == "one row"


def test_npz_and_unreadable_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **make.locomotion())
    assert read_raw(tmp_path / "data.npz").layout == "npz"
    assert check(tmp_path / "data.npz").count("error") == 0
    (tmp_path / "broken.npz").write_bytes(b"PK no")
    (tmp_path / "broken.hdf5").write_bytes(b"no")
    for name in ("broken.npz", "broken.hdf5", "nothing.hdf5", "nothing"):
        with pytest.raises(InputError, match=name):
            check(tmp_path / name)
    np.savez(tmp_path / "pickle.npz", observations=np.array([{}], object))
    with pytest.raises(InputError, match="pickle"):
        check(tmp_path / "pickle.npz")


def test_pictures_need_their_columns() -> None:
    columns = without(make.locomotion(), "rewards")
    drawn = draw_pictures(Logged(raw(columns)))
    assert set(drawn) == {"Lengths", "Actions", "Observations", "Coverage"}
    assert all(png.startswith(b"\x89PNG") for png in drawn.values())


# --- the command line ---------------------------------------------------------------------------------------


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planted(tmp_path / "bad.hdf5", "NaN")
    code, out, err = tether("data", "check", "bad.hdf5")
    assert (code, err) == (1, "")
    assert "not-finite" in out
    assert "2 rows" not in out.split("findings")[0]
    assert (tmp_path / "check-bad" / "report.html").is_file()
    code, out, _ = tether("data", "check", "bad.hdf5", "--out", "r", "--fix", "good.hdf5")
    assert code == 0
    assert "fixed    good.hdf5: grade A" in out
    assert (tmp_path / "r" / "report.json").is_file()
    code, _, err = tether("data", "check", "bad.hdf5", "--fix", "good.hdf5")
    assert (code, "exists" in err) == (2, True)
    code, _, err = tether("data", "check", "bad.hdf5", "--only", "not-finite")
    assert (code, "--fix OUT.hdf5 is needed" in err) == (2, True)
    write(tmp_path / "clean.hdf5", make.locomotion())
    code, out, _ = tether("data", "check", "clean.hdf5")
    assert code == 0
    assert "grade    A" in out


def test_page_of_codes_is_complete() -> None:
    """docs/doctor.md has a row for every code, and no other."""
    text = (Path(__file__).parents[1] / "docs" / "doctor.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \|", text, re.MULTILINE)
    assert dict(rows) == {name: code.title for name, code in CODES.items()}
