"""Episodes of which rows are missing are pieces: their returns are nobody's returns."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_data import tether as command

import tether
from tether.data import Dataset, load_dataset
from tether.data.decisions import CALIBRATION, FITTING, SCALING, sample_decisions
from tether.data.filters import filter_episodes
from tether.data.holdout import hold_out
from tether.data.logs.columns import ColumnOptions
from tether.data.logs.importing import import_logs
from tether.errors import InputError
from tether.ope.evidence import evidence_of

RUNS, STEPS = 6, 10
RETURNS = [-1.5 * STEPS - run for run in range(RUNS)]  # of whole runs


def imported(folder: Path, holes: dict[int, int], **options: Any) -> Dataset:
    """Runs of ten steps; `holes`: run -> its step without an observation."""
    generator, rows = np.random.default_rng(0), ["run,t,x,u,r,done"]
    for run in range(RUNS):
        for step in range(STEPS):
            seen = "" if holes.get(run) == step else f"{generator.normal():.4f}"
            pay = -1.5 - (run if step == 0 else 0)
            rows.append(
                f"{run},{100 * run + step},{seen},{generator.uniform(-1, 1):.4f},{pay},{int(step == STEPS - 1)}"
            )
    (folder / "log.csv").write_text("\n".join(rows) + "\n")
    import_logs([folder / "log.csv"], ColumnOptions(("x",), ("u",), reward="r", **options), folder / "out.hdf5")
    return load_dataset(str(folder / "out.hdf5"))


APART = [{"episode": "run"}, {"terminal": "done"}]


@pytest.mark.parametrize("apart", APART)
@pytest.mark.parametrize("hole", [0, 4, STEPS - 1])
def test_returns_are_those_of_whole_episodes(apart: dict[str, str], hole: int, tmp_path: Path) -> None:
    data = imported(tmp_path, {1: hole, 4: hole}, missing="drop", **apart)
    whole = [RETURNS[run] for run in (0, 2, 3, 5)]
    assert data.episode_returns().tolist() == whole
    starts, ends = data.whole_episodes()
    assert (ends - starts).tolist() == [STEPS] * 4
    kept, record = filter_episodes(data, "top=0.5")
    assert record["kept_episodes"] == 2
    assert kept.episode_returns().tolist() == whole[:2]


def test_without_holes_nothing_changes(tmp_path: Path) -> None:
    data = imported(tmp_path, {}, missing="drop", episode="run")
    assert data.recorded_episodes is None
    assert data.episode_returns().tolist() == RETURNS


def test_gaps_are_cuts_where_something_else_tells_episodes_apart(tmp_path: Path) -> None:
    data = imported(tmp_path, {1: 4}, missing="drop", episode="run", time="t", max_gap=1.5)
    assert data.episode_returns().tolist() == [RETURNS[run] for run in (0, 2, 3, 4, 5)]
    (tmp_path / "gaps").mkdir()
    data = imported(tmp_path / "gaps", {}, time="t", max_gap=10.0)  # and are episodes where nothing does
    assert data.recorded_episodes is None
    assert data.episode_returns().tolist() == RETURNS


def test_where_rows_of_every_episode_are_missing(tmp_path: Path) -> None:
    data = imported(tmp_path, dict.fromkeys(range(RUNS), 3), missing="drop", episode="run")
    assert data.episode_returns().tolist() == []
    assert "returns not known" in repr(data)
    with pytest.raises(InputError, match=r"rows of every episode of .* are missing, so their returns are not known"):
        filter_episodes(data, "top=0.5")
    code, shown, _ = command("data", "show", tmp_path / "out.hdf5")
    assert code == 0
    assert "6 recorded, rows of 6 are missing: 12 pieces" in " ".join(shown.split())
    report = tether.train(
        tether.BC(hidden_sizes=(8,), train_updates=2), data, environment="none", out=tmp_path / "run", quiet=True,
        options=tether.Options(batch_size=8),
    )  # fmt: skip
    assert report.behaviour is None


def test_it_goes_with_the_data_into_a_file(tmp_path: Path) -> None:
    data = imported(tmp_path, {2: 5}, missing="drop", episode="run")
    again = load_dataset(str(data.to_hdf5(tmp_path / "again.hdf5")))
    assert again.episode_returns().tolist() == data.episode_returns().tolist()


def test_transitions_in_any_order_have_no_returns(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = ["x,u,r,done,y"]
    for i in range(60):
        rows.append(f"{generator.normal():.4f},{generator.uniform(-1, 1):.3f},1,{int(i % 9 == 8)},{i}.5")
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    options = ColumnOptions(("x",), ("u",), reward="r", terminal="done", next_observation=("y",))
    import_logs([tmp_path / "log.csv"], options, tmp_path / "out.hdf5")
    data = load_dataset(str(tmp_path / "out.hdf5"))
    assert data.episode_returns().tolist() == []


def test_next_observations_are_paired_by_name_or_one_by_one(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    state, rows = generator.normal(size=(41, 2)), ["pos,vel,new_v,new_p,u,r,done"]
    for i in range(40):
        (x, v), (y, w) = state[i], state[i + 1]
        rows.append(f"{x},{v},{w},{y},{generator.uniform(-1, 1)},1,{int(i == 39)}")
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    how = {"reward": "r", "terminal": "done"}
    options = ColumnOptions(("pos", "vel"), ("u",), next_observation=("new_*",), **how)
    with pytest.raises(InputError, match=r"--next-observation new_\* are new_v, new_p, whose names do not tell which"):
        import_logs([tmp_path / "log.csv"], options, tmp_path / "out.hdf5")
    options = ColumnOptions(("pos", "vel"), ("u",), next_observation=("new_p", "new_v"), **how)
    done = import_logs([tmp_path / "log.csv"], options, tmp_path / "out.hdf5")
    assert "--next-observation: pos -> new_p, vel -> new_v" in done.assumed
    data = load_dataset(str(tmp_path / "out.hdf5"))
    assert data.next_observations is not None
    np.testing.assert_allclose(data.next_observations, state[1:], rtol=1e-5)


def test_rows_without_a_partner_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,x,r\n" + "".join(f"{i},{i / 7},1\n" for i in range(10)))
    (tmp_path / "b.csv").write_text("id,u\n" + "".join(f"{i},{i / 20}\n" for i in range(19, -1, -1)))
    options = ColumnOptions(("x",), ("u",), reward="r", episode="none", join=("id",))
    done = import_logs([tmp_path / "a.csv", tmp_path / "b.csv"], options, tmp_path / "out.hdf5")
    assert "10 rows of b.csv have no partner and are left out" in done.assumed
    np.testing.assert_allclose(load_dataset(str(tmp_path / "out.hdf5")).actions[:, 0], np.arange(10) / 20, rtol=1e-5)


def broken(runs: int = 50, steps: int = 20) -> Dataset:
    """Runs of which a row in the middle is missing; each row's observation is the number of its run."""
    run = np.repeat(np.arange(runs), steps - 1)
    ends = np.tile(np.isin(np.arange(steps - 1), [steps // 2, steps - 2]), runs)
    data = Dataset.from_arrays(run[:, None], np.zeros((len(run), 1)), run, ~ends & False, timeouts=ends)
    return dataclasses.replace(data, recorded_episodes=-1 - run)


def test_pieces_of_an_episode_are_held_out_calibrated_on_and_drawn_together() -> None:
    data = broken()
    kept, held, record = hold_out(data, "0.2")
    assert held is not None
    runs = [set(part.observations[:, 0].tolist()) for part in (kept, held)]
    assert not runs[0] & runs[1]
    assert (len(runs[1]), record["episodes"], record["held_out_episodes"]) == (10, 50, 10)
    decisions = sample_decisions(data)
    assert decisions is not None
    parts = [set(decisions.of(part).observation[:, 0].tolist()) for part in (FITTING, SCALING, CALIBRATION)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 50
    calibrating = decisions.of(CALIBRATION)
    assert len(set(calibrating.piece.tolist())) == len(parts[2])
    evidence = evidence_of(data, 0.9, 10**6)
    np.testing.assert_array_equal(evidence.recording, evidence.rows.observation[:, 0])
    single = dataclasses.replace(data, recorded_episodes=np.full(len(data), -1))  # nothing but its pieces can be drawn
    assert hold_out(single, "0.2")[2]["episodes"] == 100
