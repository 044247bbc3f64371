"""The public API as a user writes it and type checkers see it: pyright reads this file, nothing runs it."""

# pyright: reportUnnecessaryTypeIgnoreComment=true, reportArgumentType=true, reportAttributeAccessIssue=true

from pathlib import Path
from typing import Any, assert_type

import numpy as np

import tether
from tether.evaluation.rollout import Episodes
from tether.policies.loaded import LoadedPolicy
from tether.presets.recipes import Preset
from tether.runs.curves import Curves
from tether.studies.compare import Comparison
from tether.studies.sweep.table import JobRow


def runs(folder: Path, rows: np.ndarray) -> None:
    data = tether.Dataset.from_arrays(rows, rows, rows[0], rows[0], action_low=[-1, -2], action_high=2)
    assert_type(data, tether.Dataset)
    assert_type(tether.load_dataset("hopper-medium.hdf5"), tether.Dataset)
    options = tether.Options(batch_size=64)
    report = tether.train(
        tether.DTQL(expectile=0.9), data, seeds=[0, 3], sweep={"discount": [0.9, 0.99]}, options=options
    )
    assert_type(report, tether.Report)
    assert_type(report.curves, Curves)
    assert_type(tether.resume(folder, dataset=data, algorithm=tether.DTQL), tether.Report)
    assert_type(tether.evaluate(folder, acting={"candidates": 8})[0], Episodes)
    assert_type(tether.load_policy(folder, candidates=8), LoadedPolicy)
    assert_type(tether.compare(["bc", tether.IQL], data), Comparison)
    assert_type(tether.sweep(["bc"], ["mine.hdf5"], out=folder, grid={"hidden_sizes": ["8,8"]}), list[JobRow])
    assert_type(tether.find_preset("dtql", data, candidates=8), Preset)


class Mine:
    """An algorithm without a base class: what it must have is what `tether.train` asks for."""

    def init(self, spec: tether.Spec, key: Any) -> Any: ...
    def phases(self) -> tuple[tether.Phase, ...]: ...
    def policy(self, state: Any) -> Any: ...


def what_is_wrong(data: tether.Dataset) -> None:
    tether.train(Mine(), data)
    tether.train("dtql", data)  # pyright: ignore[reportArgumentType]
    tether.train(tether.DTQL, data)  # pyright: ignore[reportArgumentType]
    tether.train(tether.DTQL(), data, seed=3)  # pyright: ignore[reportCallIssue]
    tether.DTQL(expectil=0.9)  # pyright: ignore[reportCallIssue]
    tether.Options(batch_size="many")  # pyright: ignore[reportArgumentType]
    print(tether.dtql)  # noqa: T201  # pyright: ignore[reportAttributeAccessIssue]


@tether.register("mine-again")
class MineAgain(Mine):
    """A decorated class keeps its type."""


assert_type(MineAgain(), MineAgain)
