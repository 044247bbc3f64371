"""`tether serve`: the loop closes, what was decided becomes data again. The server's own tests: runtime/tests."""

import ast
import inspect
import itertools
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from make_data import columns, documented_words, finished_run
from make_data import tether as command

from tether import InputError, load_dataset
from tether.cli.serve import Serve
from tether.data.logs.columns import ColumnOptions
from tether.data.logs.importing import import_logs
from tether.data.schema import ActionBox, Schema, check_order, layout_of

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
tether_runtime = pytest.importorskip("tether_runtime")


def test_a_run_is_exported_and_served(monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []

    def serve(options: Any) -> int:
        policies = dict(word.split("=") for word in options.policies)
        seen.append((options, tether_runtime.load(policies["hopper"])))
        return 0

    command = pytest.importorskip("tether_runtime.serve.command")
    monkeypatch.setattr(command, "serve", serve)
    assert Serve((f"hopper={finished_run()}",), port=8765, on=("late=safe",)).run() == 0
    ((options, policy),) = seen
    assert (options.port, options.on) == (8765, ("late=safe",))
    assert policy(np.zeros(11)).shape == (3,)
    guard = pytest.importorskip("tether_runtime.fallback").Guard(policy, margin=0.0)
    assert guard.check(columns()["observations"]).trouble is None  # no row of the data lies outside of their range
    assert guard.check(columns()["observations"].max(axis=0) + 0.01).trouble == "outside"
    assert not Path(options.policies[0].split("=")[1]).exists()  # it lived as long as the server


def test_what_cannot_be_served_is_one_line(tmp_path: Path):
    with pytest.raises(InputError, match=r"export\.json"):
        Serve((str(tmp_path / "nowhere"),)).run()


def test_decisions_become_data(tmp_path: Path):
    """Two episodes, one of which ended."""
    pytest.importorskip("pyarrow")
    from tether_runtime.decisions import DecisionLog

    log = DecisionLog(tmp_path / "decisions.jsonl")
    for episode, ends in (("a", True), ("b", False)):
        for step in range(4):
            seen, action = {"height": float(step), "joint": [1.0, 2.0 * step]}, {"hip": 0.5, "knee": -0.25 * step}
            row = {
                "time": 0.1 * step,
                "observation": seen,
                "action": action,
                "fallback": None,
                "log_density": -0.5 * step,
            }
            log.decided(episode, row, float(step) if step else None)
        log.ended(episode, 9.0, terminal=ends)
    log.close()
    assert len([json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]) == 8
    meant = ColumnOptions(
        observation=("observation.*",),
        action=("action.*",),
        reward="reward",
        episode="episode",
        terminal="terminal",
        keep=("log_density",),
    )
    import_logs([tmp_path / "decisions.jsonl"], meant, tmp_path / "out.hdf5")
    data = load_dataset(str(tmp_path / "out.hdf5"))
    assert data.observations.shape[1] == 3
    assert np.allclose(data.rewards[:4], [1.0, 2.0, 3.0, 9.0])
    assert data.terminals.sum() == 1
    with h5py.File(tmp_path / "out.hdf5") as file:  # what `tether.ope.importance_ratios` divides by
        assert np.allclose(file["infos/log_density"], [0.0, -0.5, -1.0, -1.5] * 2)


def test_both_commands_say_the_same_of_their_options():
    command = pytest.importorskip("tether_runtime.serve.command")
    (serve,) = (node for node in ast.parse(inspect.getsource(Serve)).body if isinstance(node, ast.ClassDef))
    said = {
        before.target.id: node.value.value
        for before, node in itertools.pairwise(serve.body)
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    assert {name: text for name, text in said.items() if name != "policies"} == command.HELP


def test_decisions_of_a_policy_with_names_are_a_log_of_it(tmp_path: Path):
    """The command of docs/serve.md, and the check that `tether report` and `tether choose` make."""
    pytest.importorskip("pyarrow")
    from tether_runtime.columns import split
    from tether_runtime.decisions import DecisionLog

    box = ActionBox((-40.0, -40.0), (40.0, 40.0))
    policy = Schema(layout_of({"level": 1, "arm/joints": 2, "mode=auto": 1}), layout_of({"hip": 1, "knee": 1}), box)
    sides = [{name: list(slice_) for name, slice_ in side.items()} for side in (policy.observation, policy.action)]
    seen, done = np.arange(20.0).reshape(5, 4), np.linspace(-3, 7, 10).reshape(5, 2)
    log = DecisionLog(tmp_path / "decisions.jsonl")
    for vector, action in zip(seen, done, strict=True):
        log.decided("a", {"observation": split(sides[0], vector), "action": split(sides[1], action)}, 1.0)
    log.decided("a", {"observation": None, "action": split(sides[1], done[0])}, 1.0)  # a fallback decided
    log.ended("a", 1.0, terminal=True)
    log.close()
    code, _, wrong = command(*documented_words("serve.md", "tether data import decisions.jsonl", tmp_path))
    assert (code, wrong) == (0, "")
    data = load_dataset(str(tmp_path / "decisions.hdf5"))
    assert data.schema == policy
    check_order("the log", data.schema, policy)
    assert np.allclose(data.observations, seen)
    assert np.allclose(data.schema.box.from_unit(data.actions), done)


@pytest.mark.parametrize("given", ["level", "observation.level"])
def test_logs_and_policies_from_before_their_names_were_the_policys_own(given: str):
    def schema(name: str) -> Schema:
        return Schema({name: (0, 1)}, {"valve": (0, 1)}, ActionBox((-1.0,), (1.0,)))

    for policy in ("level", "observation.level"):
        check_order("the log", schema(given), schema(policy))
    with pytest.raises(InputError, match=rf"number 0 is '{given}'; the policy takes 'pose.level' there"):
        check_order("the log", schema(given), schema("pose.level"))


def test_entries_of_an_object_keep_its_name_where_they_would_be_called_alike(tmp_path: Path):
    pytest.importorskip("pyarrow")
    log = tmp_path / "log.jsonl"
    with log.open("w") as file:
        for step in range(4):
            row = {"observation": {"level": step}, "level": -step, "action": {"u": 0.5}, "end": step == 3}
            file.write(json.dumps(row) + "\n")
    meant = ColumnOptions(("observation.*", "level"), ("action.*",), "1", terminal="end")
    done = import_logs([log], meant, tmp_path / "out.hdf5")
    assert list(done.observation) == ["observation.level", "level"]
    assert list(done.action) == ["u"]
