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
from make_data import finished_run

from tether import InputError, load_dataset
from tether.cli.serve import Serve
from tether.data.logs.columns import ColumnOptions
from tether.data.logs.importing import import_logs

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
    columns = ColumnOptions(
        observation=("observation.*",),
        action=("action.*",),
        reward="reward",
        episode="episode",
        terminal="terminal",
        keep=("log_density",),
    )
    import_logs([tmp_path / "decisions.jsonl"], columns, tmp_path / "out.hdf5")
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
