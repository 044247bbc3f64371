"""The algorithms in words, for tables: what each is, its paper and family, which checks it has passed."""

import json
from pathlib import Path
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tether.algorithms.catalogue import catalogue
from tether.bench import committed_costs
from tether.evaluation.statistics import three_digits
from tether.presets import domain_of, preset_names

__all__ = ["LEGEND", "Checks", "algorithms_table", "committed_checks"]

CHECKS = Path(__file__).parents[1] / "algorithms" / "checks.json"
BENCHMARKS = {  # the domain of a preset's task -> the letter of its benchmark
    **dict.fromkeys(("halfcheetah", "hopper", "walker2d", "ant"), "L"),
    **dict.fromkeys(("pen", "door", "hammer", "relocate"), "D"),
    **{"antmaze": "A", "kitchen": "K", "maze2d": "M", "ogbench": "O"},
}

NUMBERS = ("GFLOP", "upd/s", "act ms")

LEGEND = (
    "presets: tasks with published settings; L locomotion, A AntMaze, D Adroit, K Kitchen, M Maze2D, O OGBench.",
    "checks: C contract suite, E its equations against exact values, B a known answer in 1-D or 2-D, "
    "M scored at or above its data in MuJoCo; . not yet.",
    "GFLOP: matmuls of an update of the last phase. upd/s: updates a second. act ms: median time to choose an action.",
    "These three as `tether bench` measured them on one machine, batch 256; - not measured. `tether bench NAME`: here.",
)
"""What the table's columns mean."""


class Checks(NamedTuple):
    """Which checks an algorithm has passed (docs/generate.py finds them)."""

    contract: bool = False
    equations: bool = False
    bandit: bool = False
    mujoco: bool = False

    def letters(self) -> str:
        """`CEB.`"""
        return "".join(letter if passed else "." for letter, passed in zip("CEBM", self, strict=True))


def committed_checks() -> dict[str, Checks]:
    """Algorithm -> what the tests and benchmarks of this version say of it."""
    return {name: Checks(**checks) for name, checks in json.loads(CHECKS.read_text(encoding="utf-8")).items()}


def algorithms_table() -> Table:
    """`tether algorithms`: a row each, by family."""
    costs, checks = committed_costs(), committed_checks()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))  # narrow: there is much to say
    for column in ("name", "what", "arXiv", "presets", "checks", "GFLOP", "upd/s", "act ms"):
        table.add_column(
            column, justify="right" if column in NUMBERS else "left", no_wrap=column != "what", overflow="fold"
        )
    family = None
    for name, entry in catalogue().items():
        if entry.family != family:
            family = entry.family
            table.add_section()
            table.add_row("", family, style="bold")
        cost = costs.get(name, {})
        cells = (three_digits(cost[key]) if key in cost else "-" for key in ("gflop", "updates", "milliseconds"))
        passed = checks.get(name, Checks()).letters()
        table.add_row(name, entry.what, entry.paper or "-", _presets(name), passed, *cells)
    return table


def _presets(name: str) -> str:
    """`26 LADK`: how many, and of which benchmarks."""
    tasks = preset_names(name)
    found = {BENCHMARKS.get(domain_of(task), "?") for task in tasks}
    return f"{len(tasks):>2} {''.join(letter for letter in 'LADKMO?' if letter in found)}"
