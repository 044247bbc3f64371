"""Training on the best episodes only (%BC)."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from make_data import data_file, tether

from tether.data import Dataset, Source, View, filter_episodes, load_dataset, prepare
from tether.errors import InputError
from tether.runs.config import restored_plan

# Episodes of 2, 3, 2, 3 rows and an unfinished one of 1; returns 4, 9, 4, -3 and (unfinished) 100.
REWARDS = [1.0, 3.0, 3.0, 3.0, 3.0, 2.0, 2.0, -1.0, -1.0, -1.0, 100.0]
ENDS = [1, 4, 6, 9]


def dataset(**changes: Any) -> Dataset:
    count = len(REWARDS)
    columns = {
        "observations": np.arange(count, dtype=np.float32)[:, None],
        "actions": np.zeros((count, 1)),
        "rewards": np.array(REWARDS),
        "terminals": np.isin(np.arange(count), ENDS[::2]),
        "timeouts": np.isin(np.arange(count), ENDS[1::2]),
        "next_observations": np.arange(count, dtype=np.float32)[:, None] + 0.5,
    }
    return Dataset("eleven", source=Source("memory", "0" * 64), **{**columns, **changes})


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ("top=0.1", [2, 3, 4]),  # at least one
        ("top=0.5", [0, 1, 2, 3, 4]),  # of the two that return 4 the earlier
        ("top=0.75", [0, 1, 2, 3, 4, 5, 6]),
        ("top=1", list(range(10))),
        ("none", list(range(11))),
    ],
)
def test_the_best_episodes_are_kept_whole_and_in_order(rule: str, rows: list[int]) -> None:
    kept, record = filter_episodes(dataset(), rule)
    for name in ("observations", "rewards", "terminals", "timeouts", "next_observations"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(dataset(), name)[rows])
    assert record["name"] == rule
    assert kept.source == dataset().source


def test_a_fraction_is_that_of_its_decimal_digits() -> None:
    """0.29 of 100 are 29, though 0.29 * 100 is less in binary."""
    flags = np.ones(100, bool)
    episodes = {"terminals": flags, "timeouts": ~flags, "rewards": np.arange(100.0)}
    rest = {"observations": np.zeros((100, 1)), "actions": np.zeros((100, 1)), "next_observations": None}
    for percent in range(1, 101):
        kept, _ = filter_episodes(dataset(**episodes, **rest), f"top={percent / 100}")
        assert len(kept) == percent


def test_the_record_says_what_was_kept() -> None:
    prepared = prepare(dataset(), "standardise", view=View("returns"), data_filter="top=0.5")
    assert prepared.record["filter"] == {
        "name": "top=0.5",
        "episodes": 4,
        "kept_episodes": 2,
        "kept_rows": 5,
        "lowest_kept_return": 4.0,
    }
    assert (prepared.record["rows"], prepared.record["transitions"]) == (11, 4)
    trained = [0, 1, 2, 3]  # row 4 is a time-out, and the last row
    assert prepared.record["reward_transform"]["mean"] == pytest.approx(np.mean([REWARDS[row] for row in trained]))


def test_one_unfinished_episode_is_all_there_is() -> None:
    no_flags = np.zeros(len(REWARDS), bool)
    kept, _ = filter_episodes(dataset(terminals=no_flags, timeouts=no_flags), "top=0.1")
    assert len(kept) == len(REWARDS)


@pytest.mark.parametrize("rule", ["top", "top=", "top=0", "top=1.5", "top=x", "bottom=0.1", "top=nan", ""])
def test_other_rules_are_refused(rule: str) -> None:
    with pytest.raises(InputError, match=r"write none, or top=FRACTION"):
        filter_episodes(dataset(), rule)


def test_a_run_keeps_its_filter(tmp_path: Path) -> None:
    """On the command line, in config.json, and when the run is taken up again."""
    size = ("--preset", "none", "--set", "hidden_sizes=8", "--updates", "3", "--batch-size", "4")
    size += ("--environment", "none", "--quiet")
    code, _, error = tether("train", "bc", data_file(), *size, "--data-filter", "top=0.5", "--out", tmp_path / "run")
    assert code == 0, error
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["filter"]["kept_episodes"] == 2
    data = load_dataset(str(data_file()))
    best = np.sort(np.argsort(-data.episode_returns())[:2])
    expected = np.concatenate([data.rewards[100 * k : 100 * k + 99] for k in best])
    plan = restored_plan(tmp_path / "run", quiet=True)
    np.testing.assert_array_equal(jax.device_get(plan.prepared.transitions.reward), expected)
    assert len(plan.behaviour_returns) == 4  # what the data do is shown of all of them
    code, _, error = tether("train", "bc", data_file(), *size, "--data-filter", "0.5", "--out", tmp_path / "other")
    assert code == 2
    assert "data filter '0.5'" in error
    assert not (tmp_path / "other").exists()
