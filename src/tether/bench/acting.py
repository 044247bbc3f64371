"""Rows of the bench: how long a policy takes to choose an action for one observation, host to host.

A budget of milliseconds is met where the 99th percentile of the quietest round stays within it: neighbours on a shared
machine lengthen the slowest calls of a round, never shorten them, and what they do is not the policy's doing.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tether.algorithms.registry import acting_fields, change_acting, hyperparameters_of
from tether.bench.options import BenchOptions
from tether.bench.table import settings_text
from tether.data import Normaliser
from tether.errors import InputError
from tether.policies.deployed import deploy
from tether.policies.folder import load_policy
from tether.policies.loaded import LoadedPolicy
from tether.types import Spec

__all__ = ["Chosen", "act_latency", "bench_acting", "find_setting", "measure_acting", "untrained_policy"]

ROUNDS, CALLS = 3, 200
WARM_UP = 20
MOST_CANDIDATES = 16_384
FACTOR = 4  # between the numbers of candidates that are tried first
CLOSE_ENOUGH = 1.15  # the search ends where a number that fits and one that does not are so near

Tell = Callable[[str], None]


class Chosen(NamedTuple):
    """What a search came to."""

    settings: dict[str, int]  # acting hyper-parameters, changed ones alone
    row: dict[str, Any]  # its measurement
    met: bool  # whether it keeps within the budget; else it is the fastest there is


def act_latency(algorithm: Any, spec: Spec) -> tuple[list[float], float]:
    """Milliseconds of CALLS actions, each for one observation, host to host, and the seconds of compiling.

    The policy is an untrained one: how long it takes does not depend on its weights.
    """
    policy = untrained_policy("", algorithm, spec)
    seconds = policy.compile()
    return _quietest(policy), seconds


def untrained_policy(name: str, algorithm: Any, spec: Spec) -> LoadedPolicy:
    """A policy with untrained networks, as if it had been loaded."""
    unscaled = Normaliser(np.zeros(spec.observation_size, np.float32), np.ones(spec.observation_size, np.float32))
    module = deploy(algorithm.policy(algorithm.init(spec, jax.random.key(0))), spec, unscaled)
    document = {"algorithm": name, "hyperparameters": hyperparameters_of(algorithm), "spec": spec._asdict()}
    return LoadedPolicy(module, document, algorithm)


def _quietest(policy: LoadedPolicy, rounds: int = 1) -> list[float]:
    """Milliseconds of CALLS calls, in the round with the lowest 99th percentile."""
    observation = np.zeros(policy.spec.observation_size, np.float32)
    memory = policy.initial_memory()
    best: list[float] = []
    for _ in range(rounds):
        milliseconds = []
        for _ in range(WARM_UP + CALLS):
            started = time.perf_counter()
            _, memory = policy.step(observation, memory)
            milliseconds.append(1e3 * (time.perf_counter() - started))
        counted = milliseconds[WARM_UP:]
        if not best or np.percentile(counted, 99) < np.percentile(best, 99):
            best = counted
    return best


def measure_acting(name: str, policy: LoadedPolicy, settings: Mapping[str, int]) -> dict[str, Any]:
    """A row: the policy with these acting hyper-parameters changed."""
    started = time.perf_counter()
    acting = policy.with_acting(**settings) if settings else policy
    acting.compile()
    seconds = time.perf_counter() - started
    milliseconds = _quietest(acting, ROUNDS)
    return {
        "algorithm": name,
        "what": "act",
        "lanes": 1,
        "settings": dict(settings),
        "candidates": acting.document["hyperparameters"].get("candidates"),
        "milliseconds_p50": float(np.percentile(milliseconds, 50)),
        "milliseconds_p95": float(np.percentile(milliseconds, 95)),
        "milliseconds_p99": float(np.percentile(milliseconds, 99)),
        "compile_seconds": seconds,
    }


def bench_acting(
    what: Sequence[str],
    settings: BenchOptions,
    *,
    candidates: Sequence[int] = (),
    budget_ms: float | None = None,
    tell: Tell = lambda text: None,
    keep: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
    known: Callable[[str, Mapping[str, int]], dict[str, Any] | None] = lambda name, changes: None,
) -> dict[str, Chosen]:
    """Measure algorithms or policy folders with these numbers of candidates (their own where none are given), or
    search the largest setting that keeps within `budget_ms` -> of each, with a budget, what was chosen.

    keep: is given rows as they are measured. known: the row of an algorithm with these changes, where it was measured
        before and need not be again; policy folders, which may have changed, always are.
    Raises InputError for what is neither, or for bad numbers.
    """
    if budget_ms is not None and not budget_ms > 0:
        raise InputError(f"budget-ms {budget_ms}: must be positive")
    if any(count < 1 for count in candidates):
        raise InputError(f"candidates {list(candidates)}: each must be at least 1")
    chosen = {}
    for name in what:
        policy = _policy_of(name, settings)

        def measure(changes: Mapping[str, int], name: str = name, policy: LoadedPolicy = policy) -> dict[str, Any]:
            before = None if Path(name).is_dir() else known(name, changes)
            if before is not None:
                tell(f"{name}: {settings_text(changes) or 'its own settings'}: measured before")
                return before
            tell(f"{name}: {settings_text(changes) or 'its own settings'}")
            row = measure_acting(name, policy, changes)
            tell(f"{name}: p50 {row['milliseconds_p50']:.3f} ms, p99 {row['milliseconds_p99']:.3f} ms")
            keep([row])
            return row

        if budget_ms is not None:
            chosen[name] = find_setting(policy, budget_ms, measure)
            keep([_budget_row(name, budget_ms, chosen[name])])
        elif candidates and "candidates" in acting_fields(policy.algorithm):
            for count in candidates:
                with _left_out_where_refused(tell, name):
                    measure({"candidates": count})
        else:
            measure({})
        jax.clear_caches()
    return chosen


def find_setting(policy: LoadedPolicy, budget_ms: float, measure: Callable[[Mapping[str, int]], Any]) -> Chosen:
    """The most candidates whose 99th percentile is within the budget, with as many sampler steps as the policy was
    trained with; with half as many, and so on, where even one candidate takes too long."""
    algorithm = policy.algorithm
    counts = [field for field in acting_fields(algorithm) if isinstance(getattr(algorithm, field), int)]
    steps = [field for field in counts if field.endswith("_steps")]
    fastest: Chosen | None = None
    for fewer in _halvings(algorithm, steps):
        if "candidates" in counts:
            found = _most_candidates(policy, fewer, budget_ms, measure)
        else:
            row = measure(fewer)
            found = Chosen(dict(fewer), row, row["milliseconds_p99"] <= budget_ms)
        if found.met:
            return found
        if fastest is None or found.row["milliseconds_p99"] < fastest.row["milliseconds_p99"]:
            fastest = found
    assert fastest is not None
    return fastest


def _halvings(algorithm: Any, fields: Sequence[str]) -> list[dict[str, int]]:
    """No change, then the steps halved again and again, down to 1."""
    found: list[dict[str, int]] = [{}]
    for field in fields:
        steps = getattr(algorithm, field) // 2
        while steps >= 1:
            found.append({field: steps})
            steps //= 2
    return found


def _most_candidates(policy: LoadedPolicy, base: Mapping[str, int], budget_ms: float, measure: Any) -> Chosen:
    """Growing by a factor until it takes too long, then in between until near enough."""
    tried: dict[int, Chosen] = {}

    def fits(count: int) -> bool:
        row = measure({**base, "candidates": count})
        tried[count] = Chosen({**base, "candidates": count}, row, row["milliseconds_p99"] <= budget_ms)
        return tried[count].met

    count = least = _least_candidates(policy)
    while fits(count) and count * FACTOR <= MOST_CANDIDATES:
        count *= FACTOR
    low = max((number for number, one in tried.items() if one.met), default=None)
    if low is None:
        return tried[least]
    high = min((number for number, one in tried.items() if not one.met), default=None)
    while high is not None and high > CLOSE_ENOUGH * low and high - low > 1:
        middle = max(low + 1, min(high - 1, round((low * high) ** 0.5)))
        low, high = (middle, high) if fits(middle) else (low, middle)
    return tried[low]


def _least_candidates(policy: LoadedPolicy) -> int:
    """The smallest number that the algorithm takes (SfBC's `chosen` must be drawn from them)."""
    name, algorithm = policy.document["algorithm"], policy.algorithm
    for count in (2**power for power in range(14)):
        with contextlib.suppress(InputError):
            change_acting(algorithm, {"candidates": count})
            return count
    raise InputError(f"{name}: no number of candidates is allowed")


@contextlib.contextmanager
def _left_out_where_refused(tell: Tell, name: str) -> Any:
    """Numbers of candidates that one of many algorithms does not take are not an error of all."""
    try:
        yield
    except InputError as error:
        tell(f"{name}: left out: {error}")


def _policy_of(what: str, settings: BenchOptions) -> LoadedPolicy:
    """The policy in the folder `what`, or an untrained one of the algorithm of that name."""
    if Path(what).is_dir():
        return load_policy(what)
    return untrained_policy(what, settings.algorithm(what), settings.spec)


def _budget_row(name: str, budget_ms: float, chosen: Chosen) -> dict[str, Any]:
    return {**chosen.row, "what": "budget", "budget_milliseconds": budget_ms, "met": chosen.met}
