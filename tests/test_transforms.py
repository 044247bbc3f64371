"""Reward and observation transforms by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tether
from tether.data import OBSERVATION_TRANSFORMS, REWARD_TRANSFORMS, Dataset, Source, prepare, transforms
from tether.data.scale import unscaled
from tether.data.transforms import trajectory_returns
from tether.errors import InputError
from tether.types import Spec

REWARDS = [0.0, 1.0, 1.0, 0.0, 0.0]


def dataset(rewards: Any = REWARDS, **changed: Any) -> Dataset:
    """One partial episode; the last row is not a transition, so its reward does not count."""
    rows = len(rewards) + 1
    made: dict[str, Any] = {
        "name": "test",
        "observations": np.arange(rows * 2.0).reshape(rows, 2),
        "actions": np.zeros((rows, 3)),
        "rewards": np.append(rewards, 99.0),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.zeros(rows, bool),
        "next_observations": None,
        "source": Source("somewhere.hdf5", "ab"),
    }
    return Dataset(**made | changed)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [0, 1, 1, 0, 0]),
        ("iql_antmaze", [-1, 0, 0, -1, -1]),
        ("cql_antmaze", [-2, 2, 2, -2, -2]),
        ("corl_antmaze", [-5, 5, 5, -5, -5]),
        ("dice_antmaze", [-1, 0, 0, -1, -1]),
        ("sparse", [0, -1, -1, 0, 0]),
        ("minmax_pm1", [-1, 1, 1, -1, -1]),
        ("standardise", (np.array(REWARDS) - 0.4) / np.sqrt(0.24)),
    ],
)
def test_reward_transforms(name: str, expected: Any) -> None:
    prepared = prepare(dataset(), name)
    np.testing.assert_allclose(prepared.transitions.reward, expected, rtol=1e-6)
    assert prepared.transitions.reward.dtype == np.float32


def test_every_row_of_the_table_is_there() -> None:
    rows = "none iql_locomotion iql_antmaze cql_antmaze corl_antmaze standardise minmax_pm1 dice_antmaze"
    assert list(REWARD_TRANSFORMS) == [*rows.split(), "bdpo_antmaze", "sparse"]  # BDPO's and QC's
    assert list(OBSERVATION_TRANSFORMS) == ["none", "standardise", "standardise-1e-6", "minmax"]


def test_transforms_leave_the_data_set_alone() -> None:
    data = dataset()
    prepare(data, "corl_antmaze", "standardise")
    np.testing.assert_array_equal(data.rewards, [*REWARDS, 99.0])


def test_iql_locomotion_scales_by_the_spread_of_trajectory_returns() -> None:
    """Episodes: rows 0-1 to a terminal, 2-4 timed out at 4 (dropped), 5-6 with the last row 7 lost."""
    data = dataset([1.0, 2.0, 10.0, 20.0, 40.0, 5.0, 6.0], terminals=np.arange(8) == 1, timeouts=np.arange(8) == 4)
    # Observations run on over the cuts, so only what is dropped or terminal can mark them.
    np.testing.assert_allclose(trajectory_returns(data.transitions()), [3.0, 30.0, 11.0])
    prepared = prepare(data, "iql_locomotion")
    factor = 1000.0 / (30.0 - 3.0)
    np.testing.assert_allclose(prepared.transitions.reward, np.array([1, 2, 10, 20, 5, 6]) * factor, rtol=1e-6)
    record = prepared.record["reward_transform"]
    assert record == {
        "name": "iql_locomotion",
        "factor": pytest.approx(factor),
        "return_min": 3.0,
        "return_max": 30.0,
        "trajectories": 3,
    }


def test_trajectories_of_exact_next_observations_are_cut_at_timeouts() -> None:
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(6, 2))
    following = np.concatenate([observations[1:3], rng.normal(size=(1, 2)), observations[4:], rng.normal(size=(1, 2))])
    data = dataset(
        [1.0, 1.0, 1.0, 2.0, 2.0],
        observations=observations,
        next_observations=following,
        timeouts=np.isin(np.arange(6), [2, 5]),
        exact_next_observations=True,
    )
    np.testing.assert_allclose(trajectory_returns(data.transitions()), [3.0, 2.0 + 2.0 + 99.0])


@pytest.mark.parametrize("seed", range(10))
def test_trajectory_returns_equal_a_slow_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = 30
    terminals, timeouts = rng.random(rows) < 0.1, rng.random(rows) < 0.1
    terminals[0] = timeouts[0] = False
    table = dataset(
        rng.normal(size=rows - 1),
        observations=rng.normal(size=(rows, 2)),
        terminals=terminals,
        timeouts=timeouts,
    ).transitions()
    returns, current = [], 0.0
    for i in range(len(table.reward)):
        current += float(table.reward[i])
        last = i + 1 == len(table.reward)
        jump = not last and np.linalg.norm(np.asarray(table.next_observation[i] - table.observation[i + 1])) > 1e-6
        if last or jump or table.terminal[i]:
            returns.append(current)
            current = 0.0
    np.testing.assert_allclose(trajectory_returns(table), returns, rtol=1e-6)


@pytest.mark.parametrize("name", ["standardise", "minmax_pm1", "iql_locomotion"])
def test_constant_rewards_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' divides by .* choose another"):
        prepare(dataset([2.0] * 5), name)


def test_one_trajectory_has_no_spread_of_returns() -> None:
    with pytest.raises(InputError, match=r"all trajectories .* \(1\) return 2"):
        prepare(dataset(), "iql_locomotion")


@pytest.mark.parametrize(("name", "added"), [("standardise", 1e-3), ("standardise-1e-6", 1e-6)])
def test_observations_are_standardised_over_the_table(name: str, added: float) -> None:
    data = dataset()
    table, prepared = data.transitions(), prepare(data, observation_transform=name)
    column = np.array([0.0, 2, 4, 6, 8])  # the last row, 10, is not in the table
    mean, std = column.mean(), column.std() + added
    np.testing.assert_allclose(prepared.normaliser.mean, [mean, mean + 1])
    np.testing.assert_allclose(prepared.normaliser.std, [std, std], rtol=1e-6)
    np.testing.assert_allclose(prepared.transitions.observation[:, 0], (column - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prepared.transitions.next_observation[:, 0], (column + 2 - mean) / std, rtol=1e-5)
    assert prepared.transitions.observation.dtype == prepared.transitions.next_observation.dtype == np.float32
    # The policy applies the same map to one observation.
    one = prepared.normaliser.normalise(np.asarray(table.observation)[3])
    np.testing.assert_array_equal(one, prepared.transitions.observation[3])
    assert prepared.record["observation_transform"] == {"name": name}


def test_minmax_takes_observations_to_the_unit_box() -> None:
    data = dataset(observations=np.stack([np.arange(0.0, 12.0, 2.0), np.full(6, 0.3)], axis=1))
    prepared = prepare(data, observation_transform="minmax")
    np.testing.assert_allclose(prepared.transitions.observation[:, 0], [-1.0, -0.5, 0.0, 0.5, 1.0], atol=1e-6)
    seen = prepared.normaliser.normalise(np.asarray([[4.0, 0.3], [4.0, 0.31]], np.float32))
    np.testing.assert_allclose(seen, [[0.0, -1.0], [0.0, -0.99]], atol=1e-6)  # a constant is not blown up


def test_constant_observations_become_zero() -> None:
    prepared = prepare(dataset(observations=np.full((6, 2), 0.3)), observation_transform="standardise-1e-6")
    np.testing.assert_allclose(prepared.transitions.observation, 0.0, atol=1e-6)


def test_what_is_seen_is_all_rows_as_the_data_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(observations=np.random.default_rng(0).normal(100.0, 3.0, (6, 2)))
    monkeypatch.setattr(transforms, "ROWS_AT_ONCE", 4)
    rows, mean, std, low, high = prepare(data, observation_transform="standardise").seen
    assert rows == 6
    np.testing.assert_allclose([mean, std], [data.observations.mean(axis=0), data.observations.std(axis=0)], rtol=1e-5)
    np.testing.assert_array_equal([low, high], [data.observations.min(axis=0), data.observations.max(axis=0)])


def test_none_is_the_identity() -> None:
    data = dataset()
    prepared = prepare(data)
    for got, raw in zip(prepared.transitions, data.transitions(), strict=True):
        np.testing.assert_array_equal(got, raw)
    np.testing.assert_array_equal(prepared.normaliser.normalise(data.observations), data.observations)
    assert prepared.spec == Spec(observation_size=2, action_size=3)


def test_record_is_json_and_says_where_the_data_came_from() -> None:
    prepared = prepare(dataset(), "standardise", "standardise")
    record = json.loads(json.dumps(prepared.record, allow_nan=False))
    assert record == prepared.record
    assert record["dataset"] == "test"
    assert record["source"] == "somewhere.hdf5"
    assert (record["rows"], record["transitions"]) == (6, 5)
    assert record["reward_transform"] == {
        "name": "standardise",
        "mean": pytest.approx(0.4),
        "std": pytest.approx(0.24**0.5),
    }
    np.testing.assert_array_equal(np.float32(record["normaliser"]["mean"]), prepared.normaliser.mean)
    np.testing.assert_array_equal(np.float32(record["normaliser"]["std"]), prepared.normaliser.std)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown reward transform 'iql_locomotive'; did you mean iql_locomotion"):
        prepare(dataset(), "iql_locomotive")
    with pytest.raises(InputError, match="unknown observation transform 'zzz'; choices: minmax, none, standardise"):
        prepare(dataset(), observation_transform="zzz")


def plant_like(mean: tuple[float, ...], spread: float = 1.0, pay: float = 1.0) -> Dataset:
    random = np.random.default_rng(0)
    observations = np.asarray(mean) + spread * random.normal(size=(400, len(mean)))
    names = [f"T{index}" for index in range(len(mean))]
    actions, rewards = random.uniform(-1, 1, (400, 1)), pay * random.normal(size=400)
    how = {"episodes": np.repeat(np.arange(8), 50), "observation_names": names}
    return Dataset.from_arrays(observations, actions, rewards, np.zeros(400, bool), **how)


def test_physical_units_are_answered_with_the_transform() -> None:
    assert unscaled(plant_like((0.0, 8.0)), "none", "none") == []  # joint angles and heights
    (line,) = unscaled(plant_like((0.0, 351.0, 21.0)), "none", "none")
    assert line.startswith("observations in physical units, T1 about 351, T2 about 21: add --observation-transform")
    assert unscaled(plant_like((351.0,)), "none", "standardise") == []
    (line,) = unscaled(plant_like((0.0,), spread=900.0), "none", "none")
    assert "T0 about" in line
    (line,) = unscaled(plant_like((0.0,), pay=1e4), "none", "none")
    assert line.startswith("rewards of which a hundred steps add up to about 4.6e+05")
    assert line.endswith("add --reward-transform standardise")
    assert unscaled(plant_like((0.0,), pay=1e4), "standardise", "none") == []
    assert unscaled(plant_like((0.0,), pay=1e4), "none", "none", rewards=False) == []


def test_training_on_physical_units_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    algorithm = tether.BC(hidden_sizes=(4,), train_updates=1)
    how = {"options": tether.Options(batch_size=8), "environment": "none", "quiet": True}
    tether.train(algorithm, plant_like((351.0,)), out=tmp_path / "raw", **how)
    assert capsys.readouterr().err.count("T0 about 351: add --observation-transform standardise") == 1
    tether.train(algorithm, plant_like((351.0,)), out=tmp_path / "mended", observation_transform="standardise", **how)
    assert capsys.readouterr().err == ""
