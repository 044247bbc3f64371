"""Chooses the tests of `make test-fast` by what they cost, and writes the others into tests/slow.txt.

python -m pytest -q -n 2 --dist loadgroup -p tools.fast_tier --costs costs.jsonl     measures: seconds of processor time
python tools/fast_tier.py costs.jsonl                                                chooses

The cheapest tests are taken, one after the other, as long as all of them together cost SECONDS: two minutes on 2 cores,
less what starting and collecting takes. A test that no measurement knows is in the tier until the next one.
"""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SLOW = Path(__file__).resolve().parents[1] / "tests" / "slow.txt"
SECONDS = 70.0
HEAD = "# What `make test-fast` leaves out: files, tests, or single parameters. Written by tools/fast_tier.py.\n"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The file to measure into."""
    parser.addoption("--costs", help="append the processor seconds of every test to this file, a line of JSON each")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Measures one test, with its fixtures and with processes that it started and waited for."""
    before = os.times()
    result = yield
    after = os.times()
    if path := item.config.getoption("--costs"):
        seconds = sum(after[:4]) - sum(before[:4])
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"test": item.nodeid.split("@")[0], "seconds": round(seconds, 3)}) + "\n")
    return result


def choose(costs: dict[str, float], seconds: float) -> tuple[set[str], float]:
    """(tests that are left out, what the others cost together)."""
    total, slow = 0.0, set()
    for test, cost in sorted(costs.items(), key=lambda pair: pair[1]):
        if total + cost <= seconds:
            total += cost
        else:
            slow.add(test)
    return slow, total


def collapsed(slow: set[str], tests: set[str]) -> list[str]:
    """`slow` in as few lines as say the same: whole files, whole functions, single parameters."""
    lines, left = [], set(slow)
    for level in (_file, _function):
        members: dict[str, set[str]] = defaultdict(set)
        for test in tests:
            members[level(test)].add(test)
        for name, group in members.items():
            if group <= left:
                lines.append(name)
                left -= group
    return sorted(lines + list(left))


def _file(test: str) -> str:
    return test.split("::")[0]


def _function(test: str) -> str:
    return test.split("[")[0]


def main() -> None:
    """The command line."""
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    costs = {row["test"]: row["seconds"] for row in rows}
    slow, total = choose(costs, SECONDS)
    SLOW.write_text(HEAD + "".join(f"{line}\n" for line in collapsed(slow, set(costs))), encoding="utf-8")
    left = len(costs) - len(slow)
    sys.stdout.write(f"{left} of {len(costs)} tests, {total:.0f} of {sum(costs.values()):.0f} processor seconds\n")


if __name__ == "__main__":
    main()
