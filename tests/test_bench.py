"""The bench counts what it says it counts."""

import functools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from make_data import tether

from tether.algorithms import ALGORITHMS
from tether.bench import BenchOptions, bench, bench_table, committed_costs, matmul_flops, merge_figures, read_figures
from tether.bench import suite as suite_module
from tether.bench.pictures import draw_pictures
from tether.bench.results import COSTS, add_rows, empty_figures
from tether.bench.rounds import Timing, alternate
from tether.bench.training import MATMUL, _rates
from tether.errors import InputError
from tether.machine.traces import scan_sizes

SMALL = BenchOptions(8, 3, 2, (1, 2), 0.1, changes={"hidden_sizes": (8, 8)})


def run(commit: str = "abc", size: int = 3, **changes: Any) -> dict[str, Any]:
    """What rows of one invocation have in common."""
    sizes = {"batch_size": 8, "observation_size": size, "action_size": 2}
    machine = {"device": "cpu", "backend": "cpu", "cores": 2}
    return {
        "machine": machine,
        "versions": {},
        "commit": commit,
        "command": "",
        "sizes": sizes,
        "precision": "float32",
        "changes": changes,
    }


def row(algorithm: str = "dtql", what: str = "train", lanes: int = 1, seconds: float = 0.01) -> dict[str, Any]:
    """A row of training."""
    return {
        **{"algorithm": algorithm, "what": what, "lanes": lanes, "compile_seconds": 1.0},
        **{"updates_per_second": lanes / seconds, "seconds_per_update": seconds, "fraction_of_matmul_rate": 0.5},
        **{"matmul_flops_per_update": 1e6, "matmul_rate_gflops": 10.0},
    }


def test_matmul_flops_of_known_programs():
    x, w, batched = jnp.ones((3, 4)), jnp.ones((4, 5)), jnp.ones((7, 4, 5))
    assert matmul_flops((lambda a, b: a @ b, (x, w))) == 2 * 3 * 4 * 5
    assert matmul_flops((lambda a, b: jax.vmap(lambda m: a @ m)(b), (x, batched))) == 7 * 2 * 3 * 4 * 5
    loop = lambda a, b: jax.lax.fori_loop(0, 6, lambda _, y: y @ b, a)  # noqa: E731
    assert matmul_flops((jax.jit(loop), (x, jnp.ones((4, 4))))) == 6 * 2 * 3 * 4 * 4


@pytest.fixture
def _no_shape_checks() -> Iterator[None]:
    """As outside pytest: counting passes the update's number as NumPy's, so that branches are known while tracing."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_a_branch_counts_where_it_is_taken() -> None:
    x, w = jnp.ones((3, 4)), jnp.ones((4, 4))

    def update(x, step):
        return jax.lax.cond(step % 5 == 0, lambda x: x @ w, lambda x: x, x)

    counts = [matmul_flops((functools.partial(update, step=step), (x,))) for step in np.arange(5, dtype=np.int32)]
    assert counts == [2 * 3 * 4 * 4, 0, 0, 0, 0]


@pytest.mark.usefixtures("_no_shape_checks")
def test_figures_are_there_and_plausible(tmp_path: Path) -> None:
    said: list[str] = []
    figures = bench(["bc"], SMALL, out=tmp_path / "bench.json", tell=said.append)
    one, two, act = figures["results"]
    assert [(row["what"], row["lanes"]) for row in (one, two, act)] == [("train", 1), ("train", 2), ("act", 1)]
    # layers of 8 between 3 and 2 numbers; backward twice as much but for the first layer
    forward, first = 2 * 8 * (3 * 8 + 8 * 8 + 8 * 2), 2 * 8 * 3 * 8
    assert one["matmul_flops_per_update"] == two["matmul_flops_per_update"] == 3 * forward - first
    assert one["xla_flops_per_update"] > one["matmul_flops_per_update"]  # XLA counts element-wise work, too
    assert 0 < one["fraction_of_matmul_rate"] < 1
    assert "times_one_lane" not in one
    assert two["times_one_lane"] > 0
    assert two["updates_per_second"] == pytest.approx(2 / two["seconds_per_update"])
    assert 0 < act["milliseconds_p50"] <= act["milliseconds_p95"] <= act["milliseconds_p99"]
    assert (act["candidates"], act["settings"]) == (None, {})
    assert bench_table(figures).row_count == 3
    assert any("bc train: 2 lanes:" in text for text in said)
    assert read_figures(tmp_path / "bench.json") == json.loads(json.dumps(figures))
    assert [path.name for path in draw_pictures(figures, tmp_path)] == ["lanes.png", "limits.png"]
    assert (tmp_path / "limits.png").read_bytes().startswith(b"\x89PNG")


def test_rounds_compare_what_ran_in_the_same_round() -> None:
    """Twice as slow in the second round for all: no ratio may feel it."""
    rounds = {
        1: [Timing(1.0, 1.5), Timing(2.0, 3.0)],
        4: [Timing(3.0, 4.5), Timing(6.0, 9.0)],
        MATMUL: [Timing(0.5, 1.0), Timing(1.0, 2.0)],
    }
    rates = _rates(4, rounds, flops=6.0, matmul_flops=10.0)
    assert rates["times_one_lane_by_round"] == [3.0, 3.0]
    assert rates["times_one_lane_in_processor_time"] == 3.0
    assert rates["fraction_by_round"] == pytest.approx([0.4, 0.4])  # 24 in 3 s beside 10 in 0.5 s
    assert rates["fraction_of_processor_time"] == pytest.approx(24 / 4.5 / 10)
    assert rates["updates_per_second"] == pytest.approx(4 / 4.5)


def test_programs_take_turns() -> None:
    calls: list[str] = []
    alternate({"a": lambda count: calls.append("a"), "b": lambda count: calls.append("b")}, 1e-9, rounds=3)
    assert calls[-6:] == ["a", "b"] * 3


def test_a_turn_holds_whole_intervals_of_delayed_updates() -> None:
    """What runs in every fifth update alone was in each turn of a slow algorithm, and counted as if in each update."""
    counts: list[int] = []

    def run(count: int) -> None:
        counts.append(count)
        time.sleep(1e-4 * count)

    alternate({"a": run}, 0.01, rounds=2, multiple=10)
    assert counts[0] == 1  # warms up
    assert all(count % 10 == 0 for count in counts[1:])
    assert min(counts[1:]) == 10


# --- the file -----------------------------------------------------------------------------------------------


def test_rows_that_are_there_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[int, ...]]] = []

    def measure(name: str, algorithm: Any, phase: int, settings: Any, lanes: Any, tell: Any) -> list[dict[str, Any]]:
        asked.append((name, tuple(lanes)))
        if name == "dac":
            raise KeyboardInterrupt
        return [row(name, "train", count) for count in lanes]

    monkeypatch.setattr(suite_module, "measure_phase", measure)
    acts: list[str] = []

    def act(name: str, policy: Any, settings: Any) -> dict[str, Any]:
        acts.append(name)
        times = dict.fromkeys(("milliseconds_p50", "milliseconds_p95", "milliseconds_p99"), 1.0)
        return {"algorithm": name, "what": "act", "lanes": 1, "settings": {}, **times}

    monkeypatch.setattr(suite_module, "measure_acting", act)
    monkeypatch.setattr(suite_module, "untrained_policy", lambda *_: None)
    out = tmp_path / "bench.json"
    with pytest.raises(KeyboardInterrupt):
        bench(["iql", "dac"], SMALL, out=out)
    assert asked == [("iql", (1, 2)), ("dac", (1, 2))]
    assert len(read_figures(out)["results"]) == 3  # what was measured before it was stopped
    asked.clear()
    bench(["iql"], SMALL, out=out)
    assert (asked, acts) == ([], ["iql"])
    more = BenchOptions(8, 3, 2, (1, 2, 4), 0.1, changes={"hidden_sizes": (8, 8)})
    bench(["iql"], more, out=out)
    assert asked == [("iql", (1, 4))]  # one lane again, as what four are compared with
    bench(["iql"], SMALL, out=out, fresh=True)
    assert asked[1:] == [("iql", (1, 2))]
    assert acts == ["iql", "iql"]
    assert [found["lanes"] for found in read_figures(out)["results"] if found["what"] == "train"] == [1, 2, 4]


def test_other_code_sizes_or_machines_are_measured_again() -> None:
    figures = add_rows(empty_figures(), run(), [row()])
    assert suite_module.is_measured(figures, run(), row())
    for other in (
        run(commit="def"),
        run(size=4),
        run(candidates="4"),
        run() | {"machine": {}},
        run() | {"precision": "bfloat16"},
    ):
        assert not suite_module.is_measured(figures, other, row())
    assert not suite_module.is_measured(figures, run(), row(lanes=2))


def test_newer_rows_take_the_place_of_older_ones() -> None:
    old = add_rows(empty_figures(), run(), [row("iql"), row("dtql")])
    assert [found["algorithm"] for found in old["results"]] == ["dtql", "iql"]  # the registry's order
    new = add_rows(empty_figures(), run(commit="def"), [row("iql", seconds=0.5), row("iql", lanes=2)])
    merged = merge_figures([old, new])
    found = [
        (r["algorithm"], r["lanes"], merged["runs"][r["run"]]["commit"], r["seconds_per_update"])
        for r in merged["results"]
    ]
    assert found == [("dtql", 1, "abc", 0.01), ("iql", 1, "def", 0.5), ("iql", 2, "def", 0.01)]
    both = merge_figures([merged, add_rows(empty_figures(), run(size=7), [row("iql")])])
    assert len(both["results"]) == 4  # other sizes are another row
    replaced = merge_figures([old, add_rows(empty_figures(), run(commit="def"), [row("iql"), row("dtql")])])
    assert [kept["commit"] for kept in replaced["runs"]] == ["def"]  # nothing is left of the old run


def test_files_of_the_first_format_are_read(tmp_path: Path) -> None:
    sizes = {"batch_size": 256, "observation_size": 11, "action_size": 3, "lanes": 2}
    rows = [{"algorithm": "bc", "what": "train", "updates_per_second": 9.0}, {"algorithm": "bc", "what": "act"}]
    first = {"machine": {"cores": 2}, "versions": {}, "commit": None, "sizes": sizes, "results": rows}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(first))
    figures = read_figures(path)
    assert [(found["what"], found["lanes"]) for found in figures["results"]] == [("train", 2), ("act", 1)]
    assert figures["results"][0]["seconds_per_update"] == pytest.approx(2 / 9)
    assert figures["runs"][0]["sizes"] == {"batch_size": 256, "observation_size": 11, "action_size": 3}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"runs": [], "results": [{}], "format_version": 2}'])
def test_what_is_no_bench_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"other\.json"):
        read_figures(path)


def test_costs_are_committed_for_every_algorithm() -> None:
    costs = committed_costs()
    assert list(costs) == list(ALGORITHMS)
    # BC's are known: layers of 256 between 11 and 3 numbers; backward twice as much but for the first layer
    forward, first = 2 * 256 * (11 * 256 + 256 * 256 + 256 * 3), 2 * 256 * 11 * 256
    assert costs["bc"]["gflop"] == pytest.approx((3 * forward - first) / 1e9)
    assert all(cost["gflop"] > 0.01 for cost in costs.values())


def test_costs_are_those_of_one_lane_and_of_the_own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    act = {"algorithm": "dtql", "what": "act", "lanes": 1, "milliseconds_p50": 3.0}
    rows = [row(), row(lanes=8, seconds=9.0), act, act | {"settings": {"candidates": 1}, "milliseconds_p50": 0.1}]
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(add_rows(empty_figures(), run(), rows)))
    monkeypatch.setattr("tether.bench.results.COSTS", path)
    assert committed_costs() == {"dtql": {"gflop": 1e-3, "updates": pytest.approx(100.0), "milliseconds": 3.0}}
    assert COSTS.name == "costs.json"


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_size": 0},
        {"lanes": (1, -1)},
        {"lanes": (1, 1)},
        {"seconds": 0.0},
        {"seconds": math.nan},
        {"seconds": math.inf},
    ],
)
def test_bad_sizes_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        BenchOptions(**bad)


def test_a_folder_is_no_bench_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, not a file"):
        read_figures(tmp_path)


@pytest.mark.parametrize(
    "words", [("--lanes", "1,4"), ("--seconds", "1"), ("--precision", "bfloat16"), ("--pictures", "drawn")]
)
def test_options_of_training_are_refused_with_those_of_acting(words: tuple[str, str]) -> None:
    code, out, err = tether("bench", "--act", "bc", *words)
    assert (code, out, err) == (2, "", f"tether: error: {words[0]} is of training: leave out --act\n")


def test_acting_that_is_there_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    def measure(name: str, policy: Any, settings: Any) -> dict[str, Any]:
        asked.append((name, settings))
        times = {f"milliseconds_p{part}": 1.0 for part in (50, 95, 99)}
        row = {"algorithm": name, "what": "act", "lanes": 1, "settings": dict(settings), "candidates": None}
        return row | times | {"compile_seconds": 1.0}

    monkeypatch.setattr("tether.bench.acting.measure_acting", measure)
    monkeypatch.setattr("tether.cli.bench._keep_to_one_core", lambda: None)
    words = ("bench", "--act", "bc", "--set", "hidden_sizes=4", "--out", str(tmp_path / "act.json"))
    first = tether(*words)
    second = tether(*words)
    assert (first[0], second[0], first[1]) == (0, 0, second[1])
    assert "bc: its own settings: measured before" in second[2]
    assert asked == [("bc", {})]
    tether(*words, "--fresh")
    assert asked == [("bc", {}), ("bc", {})]


def test_unknown_algorithm_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="dtql"):
        bench(["dtqll"], SMALL)


@pytest.mark.long
@pytest.mark.usefixtures("_no_shape_checks")
def test_what_looks_back_is_measured_on_windows_and_with_its_memory() -> None:
    small = {"width": 8, "block_count": 1, "context_length": 3, "dropout": 0.0}
    train, act = bench(["dt"], BenchOptions(4, 3, 2, (1,), 0.1, changes=small))["results"]
    tokens, wanted = 3 * 3, 3  # actions are read at the tokens of observations
    # Forwards: keys and values of all tokens; queries, attention's two products, its output and the MLP of the wanted
    # ones; backwards twice as much. Embeddings and head are more, so the whole lies above it, but not far.
    block = 2 * (tokens * 2 * 8 * 8 + wanted * (2 * 8 * 8 + 2 * tokens * 8 + 8 * 8 * 8))
    assert 3 * 4 * block < train["matmul_flops_per_update"] < 2 * 3 * 4 * block
    assert act["milliseconds_p50"] > 0


@pytest.mark.parametrize(("constants", "carried", "rows"), [(0, 1, 0), (2, 1, 3), (1, 3, 0), (0, 2, 1)])
def test_what_a_scan_carries_is_told_by_shapes(constants: int, carried: int, rows: int) -> None:
    def program(constants: list[Any], carry: list[Any], rows: list[Any]) -> Any:
        total = sum(constants) + sum(carry)
        return jax.lax.scan(lambda carry, row: ([one + total for one in carry], sum(row)), carry, rows, length=4)

    numbers = jnp.arange(3.0)
    given = [numbers] * constants, [numbers] * carried, [jnp.ones((4, 3))] * rows
    (scan,) = [each for each in jax.make_jaxpr(program)(*given).eqns if each.primitive.name == "scan"]
    assert scan_sizes(scan) == (1, carried)  # the sum of all is what every turn takes
