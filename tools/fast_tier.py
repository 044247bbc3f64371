"""Chooses the tests of `make test-fast` by what they cost, and writes the others into tests/slow.txt.

python -m pytest -q -n 2 --dist loadgroup -p tools.fast_tier --costs costs.jsonl     measures: seconds of processor time
python tools/fast_tier.py costs.jsonl                                                chooses tests
python -m pytest -q -n 2 --dist loadgroup -p tools.fast_tier --costs tier.jsonl -m 'not long and not slow'
python tools/fast_tier.py costs.jsonl tier.jsonl                                     and leaves out groups

The cheapest tests are taken, one after the other, as long as all of them together cost SECONDS. What the tests of a
group share (compiled programs, above all) is then paid by tests that found it ready in the first measurement, so the
tier is measured once more: the groups that cost most for each of their tests are left out until the rest costs
TIER_SECONDS: two minutes on 2 cores, less what starting and collecting takes. A test that no measurement knows is in
the tier until the next.
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
SECONDS = 60.0
TIER_SECONDS = 120.0
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
            test, _, group = item.nodeid.rpartition("@") if "@" in item.nodeid else (item.nodeid, "", "")
            file.write(json.dumps({"test": test, "group": group, "seconds": round(seconds, 3)}) + "\n")
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


def choose_groups(rows: list[dict[str, Any]], seconds: float) -> tuple[set[str], float]:
    """(tests of the groups that are left out, what the others cost together)."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
    total, slow = 0.0, set()
    for group in sorted(groups.values(), key=lambda group: sum(row["seconds"] for row in group) / len(group)):
        cost = sum(row["seconds"] for row in group)
        if total + cost <= seconds:
            total += cost
        else:
            slow |= {row["test"] for row in group}
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
    costs = {row["test"]: row["seconds"] for row in _rows(sys.argv[1])}
    slow, total = choose(costs, SECONDS)
    for path in sys.argv[2:]:
        more, total = choose_groups([row for row in _rows(path) if row["test"] not in slow], TIER_SECONDS)
        slow |= more
    SLOW.write_text(HEAD + "".join(f"{line}\n" for line in collapsed(slow, set(costs))), encoding="utf-8")
    left = len(costs) - len(slow & set(costs))
    sys.stdout.write(f"{left} of {len(costs)} tests, {total:.0f} of {sum(costs.values()):.0f} processor seconds\n")


def _rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
