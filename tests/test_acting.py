"""Trained policies that act otherwise: what may change, what it changes, and the search for what is fast enough."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from contract.cases import CASES
from make_data import copy_run, finished_run, tether

from tether import InputError, load_policy
from tether.algorithms import ALGORITHMS
from tether.algorithms.registry import acting_fields
from tether.bench import BenchOptions, bench_acting
from tether.bench import acting as acting_module
from tether.bench.acting import find_setting, untrained_policy
from tether.types import Spec

SPEC = Spec(3, 2)
WITH_ACTING = [name for name in ALGORITHMS if acting_fields(ALGORITHMS[name]())]


def small(name: str, **changes: Any) -> Any:
    """The contract suite's small settings."""
    return ALGORITHMS[name](**CASES[name].sizes | changes)


def test_which_algorithms_have_acting_fields() -> None:
    assert len(WITH_ACTING) >= 14
    assert acting_fields(ALGORITHMS["dtql"]()) == ["candidates"]
    assert acting_fields(ALGORITHMS["ifql"]()) == ["flow_steps", "candidates"]
    assert acting_fields(ALGORITHMS["sfbc"]()) == ["sharpness", "candidates", "chosen"]
    assert acting_fields(ALGORITHMS["iql"]()) == []


@pytest.mark.parametrize("name", WITH_ACTING)
def test_training_does_not_read_acting_fields(name: str) -> None:
    """No method but `policy` and the checks of `__init__` names one: whatever it is, training is the same."""
    cls = ALGORITHMS[name]
    for attribute, method in vars(cls).items():
        code = getattr(method, "__wrapped__", method)  # as jaxtyping wraps it
        code = getattr(code, "__code__", None)
        if code is None or attribute in ("policy", "__init__", "__check_init__"):
            continue
        assert not set(acting_fields(cls())) & set(code.co_names), attribute


@pytest.mark.long
def test_fewer_candidates_are_fewer_candidates() -> None:
    policy = load_policy(finished_run())
    one = load_policy(finished_run(), candidates=1)
    assert policy.document["hyperparameters"]["candidates"] == 8
    assert one.document["hyperparameters"]["candidates"] == 1
    assert one.module.policy.candidates == 1
    arrays = zip(*(jax.tree.leaves(eqx.filter(p.module, eqx.is_array)) for p in (policy, one)), strict=True)
    assert all(np.array_equal(a, b) for a, b in arrays)
    observation, key = np.ones(11, np.float32), jax.random.key(3)
    np.testing.assert_array_equal(policy.with_acting(candidates=8)(observation, key), policy(observation, key))
    assert one(observation, key).shape == (3,)


def test_a_number_that_only_acting_reads_changes() -> None:
    policy = untrained_policy("dt", small("dt"), SPEC)
    asked = policy.with_acting(target_return=7.0)
    assert float(asked.module.policy.target_return) == 7.0
    assert float(policy.module.policy.target_return) == 3600.0
    differ = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(policy.module), jax.tree.leaves(asked.module), strict=True
        )
        if not np.array_equal(a, b)
    ]
    assert differ == [".policy.target_return"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_sizes": (3,)}, r"'hidden_sizes' was trained with: on a trained policy only candidates may change"),
        ({"candidates": "many"}, r"candidates='many': expected a whole number"),
        ({"candidate": 3}, r"'candidate'; did you mean candidates\?$"),
        ({"hidden_size": 3}, r"choices: candidates$"),  # not one that was trained with
    ],
)
def test_other_settings_are_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_policy(finished_run(), **changes)


def test_an_algorithm_without_any_says_so() -> None:
    with pytest.raises(InputError, match="of iql nothing may change"):
        untrained_policy("iql", small("iql"), SPEC).with_acting(expectile=0.5)


def test_evaluate_with_other_candidates(tmp_path: Path) -> None:
    folder = copy_run(tmp_path / "run")
    code, _, err = tether("evaluate", str(folder), "--episodes", "1", "--quiet", "--set", "candidates=2")
    assert (code, err) == (0, "")
    outcome = json.loads((folder / "evaluate-250-1-candidates=2.json").read_text())
    assert outcome["settings"] == {"candidates": "2"}
    code, _, err = tether("evaluate", str(folder), "--episodes", "1", "--quiet", "--set", "discount=0.9")
    assert code == 2
    assert "only candidates may change" in err


# --- the search ---------------------------------------------------------------------------------------------


def search(name: str, milliseconds: Any, budget: float) -> tuple[Any, list[dict[str, int]]]:
    """`find_setting` where a setting takes `milliseconds(setting)`; also what was tried."""
    tried: list[dict[str, int]] = []

    def measure(settings: Mapping[str, int]) -> dict[str, Any]:
        tried.append(dict(settings))
        return {"milliseconds_p99": milliseconds(settings)}

    return find_setting(untrained_policy(name, small(name), SPEC), budget, measure), tried


@pytest.mark.parametrize("most", [1, 2, 7, 100, 1000, 5000])
def test_the_search_comes_near_the_largest_number_that_fits(most: int) -> None:
    chosen, tried = search("dtql", lambda settings: settings["candidates"] / most, 1.0)
    found = chosen.settings["candidates"]
    assert chosen.met
    assert most / 1.15 - 1 < found <= most
    assert len(tried) <= 16
    assert len({trial["candidates"] for trial in tried}) == len(tried)


def test_when_nothing_fits_the_fastest_is_told() -> None:
    chosen, tried = search("dtql", lambda settings: 5.0 + settings["candidates"], 1.0)
    assert not chosen.met
    assert chosen.settings == {"candidates": 1}
    assert len(tried) == 1


def test_steps_are_given_up_only_where_one_candidate_takes_too_long() -> None:
    cost = lambda settings: settings["candidates"] * settings.get("flow_steps", 10)  # noqa: E731
    steps = small("ifql").flow_steps
    chosen, _ = search("ifql", lambda settings: cost({"flow_steps": steps, **settings}), 100.0 * steps)
    assert "flow_steps" not in chosen.settings
    chosen, _ = search("ifql", lambda settings: cost({"flow_steps": steps, **settings}), float(steps // 2))
    assert chosen.settings == {"flow_steps": steps // 2, "candidates": 1}


def test_a_policy_without_candidates_is_measured_as_it_is() -> None:
    chosen, tried = search("iql", lambda settings: 0.5, 1.0)
    assert (chosen.met, chosen.settings, tried) == (True, {}, [{}])


def test_candidates_that_an_algorithm_refuses_are_left_out() -> None:
    chosen, _ = search("sfbc", lambda settings: settings["candidates"], 9.0)
    assert chosen.settings["candidates"] >= small("sfbc").chosen


def test_measured_for_a_folder_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting_module, "CALLS", 5)
    rows: list[dict[str, Any]] = []
    bench_acting([str(finished_run())], BenchOptions(), candidates=[1, 4], keep=rows.extend)
    assert [row["settings"] for row in rows] == [{"candidates": 1}, {"candidates": 4}]
    assert all(0 < row["milliseconds_p50"] <= row["milliseconds_p99"] for row in rows)
    with pytest.raises(InputError, match="budget"):
        bench_acting(["dtql"], BenchOptions(), budget_ms=0.0)
    with pytest.raises(InputError, match="candidates"):
        bench_acting(["dtql"], BenchOptions(), candidates=[0])


def test_the_command_needs_act() -> None:
    code, _, err = tether("bench", "--budget-ms", "1", "dtql")
    assert code == 2
    assert "add --act" in err
    code, _, err = tether("bench", "--lanes", "one", "dtql")
    assert code == 2
    assert "1,4,16" in err
