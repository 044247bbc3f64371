"""What every algorithm owes to those who train, evaluate and deploy it, checked and said in sentences."""

from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, NamedTuple

from tether.testing import acting, numbers, structure
from tether.testing.raised import sentence_of
from tether.testing.subject import Expected, Subject
from tether.types import Spec

__all__ = ["CLAUSES", "FIRST", "CheckReport", "Failure", "broken", "check_algorithm"]

Clause = Callable[[Subject], Iterator[str]]

SPEC = Spec(observation_size=3, action_size=2, max_action=0.5)  # no number of which is 1, so that none goes unnoticed

FIRST: dict[str, Clause] = {
    "interface": structure.interface,
    "numbers are leaves": structure.numbers_are_leaves,
    "phases": structure.phase_names,
    "state is arrays": structure.state_arrays,
    "nothing is asked of the host": structure.host_calls,
    "state keeps its form": structure.state_keeps_its_form,
    "policy": acting.policy_is_one,
}
"""In order; where one does not hold, those behind it have nothing to stand on."""

CLAUSES: dict[str, Clause] = {
    "records give it back": structure.recorded,
    "same seed, same numbers": numbers.same_seed_same_numbers,
    "keys are consumed": structure.constant_keys,
    "metrics are scalars": numbers.metrics_are_scalars,
    "trained state is arrays": lambda it: structure.state_arrays(it, after_training=True),
    "imitation reads no rewards": numbers.imitation_reads_no_rewards,
    "the loop is single calls": numbers.loop_is_single_calls,
    "stretches": numbers.stretches,
    "checkpoints": numbers.checkpoints,
    "lanes are single runs": numbers.lanes_are_single_runs,
    "lanes differ": numbers.lanes_differ,
    "every number counts": numbers.every_number_counts,
    "updates change what they declare": numbers.updates_change_what_they_declare,
    "targets move on a line": numbers.targets_move_on_a_line,
    "a memory keeps its shape": acting.memory_keeps_its_shape,
    "actions in bounds, fresh noise": acting.actions_in_bounds_with_fresh_noise,
    "broadcasting": structure.broadcasting,
    "column vectors are refused": structure.column_vectors,
    "float32 stays": structure.double_precision,
}
"""The others, each by itself."""


class Failure(NamedTuple):
    """Something that does not hold."""

    clause: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.clause}: {self.sentence}"


class CheckReport(NamedTuple):
    """The outcome of `check_algorithm`."""

    algorithm: str
    failures: tuple[Failure, ...]
    passed: tuple[str, ...]  # clauses
    skipped: tuple[str, ...]  # clauses that had nothing to stand on

    def __str__(self) -> str:
        total = len(FIRST) + len(CLAUSES)
        if not self.failures:
            return f"{self.algorithm} keeps all {total} clauses of the contract"
        broken = len({failure.clause for failure in self.failures})
        skipped = f", {len(self.skipped)} could not be looked at" if self.skipped else ""
        lines = [f"{self.algorithm} breaks {broken} of {total} clauses of the contract{skipped}:"]
        return "\n".join([*lines, *(f"  - {failure}" for failure in self.failures)])


def check_algorithm(
    algorithm: Any,
    *,
    spec: Spec = SPEC,
    changes: Mapping[str, Set[str]] | None = None,
    swept: str | None = None,
    targets: tuple[tuple[str, str, str], ...] | None = None,
    unread: Set[str] | None = None,
    deterministic: bool | None = None,
    structural: Set[str] = frozenset(),
    raises: bool = True,
) -> CheckReport:
    """Whether an algorithm keeps the contract with the trainer; as `check_estimator` of scikit-learn.

        def test_mine():
            tether.check_algorithm(MyAlgorithm(hidden_sizes=(8,)))

    It trains a few updates on random transitions, some ten seconds, most of them to compile; give it small networks.
    Every clause that does not hold is said in a sentence. What the check is not told it finds out, as far as it can:

    algorithm: an instance.
    spec: sizes of observations and actions, and the bound of actions.
    changes: phase -> fields of State of which an update changes every array, and no others. Otherwise: each field moves
        as a whole or not at all. This is what finds gradients that leak from one network into another.
    swept: a numeric hyper-parameter that the last phase feels at once. Otherwise: the first that it feels.
    targets: (target, online, rate): `state.target` moves by that hyper-parameter towards `state.online`, such as
        ("target_critic", "critic", "target_rate"). Otherwise: fields called target_... are looked at.
    unread: numeric hyper-parameters that the last phase does not read. Otherwise: those that an earlier phase, `init`
        or the policy reads may be.
    deterministic: whether the policy gives one action for one observation, whatever the key.
    structural: numbers that are static on purpose.
    raises: raise AssertionError with the report's text where something does not hold.

    Returns the report; `report.failures` is empty where everything holds.
    """
    frozen = None if changes is None else {phase: set(fields) for phase, fields in changes.items()}
    read = None if unread is None else frozenset(unread)
    known = {"swept": swept, "targets": targets, "unread": read, "deterministic": deterministic}
    expected = Expected(frozen, **known, structural=frozenset(structural))
    report = _report(Subject(algorithm, expected, spec))
    if report.failures and raises:
        raise AssertionError(str(report))
    return report


def broken(clause: Clause, it: Subject) -> list[str]:
    """What does not hold of a clause, a sentence each; an exception of the algorithm is one, too."""
    sentences = []
    try:
        sentences += clause(it)
    except Exception as error:  # whatever somebody's algorithm raises
        sentences.append(sentence_of(error))
    return sentences


def _report(it: Subject) -> CheckReport:
    failures: list[Failure] = []
    passed: list[str] = []
    clauses = FIRST | CLAUSES
    for name, clause in clauses.items():
        sentences = broken(clause, it)
        if sentences and {failure.sentence for failure in failures}.issuperset(sentences):
            continue  # the same exception ends many clauses: it is said once, and they could not be looked at
        failures += [Failure(name, sentence) for sentence in sentences]
        if not sentences:
            passed.append(name)
        elif name in FIRST:
            break
    seen = {failure.clause for failure in failures} | set(passed)
    name = it.one.__name__ if isinstance(it.one, type) else it.name
    return CheckReport(name, tuple(failures), tuple(passed), tuple(name for name in clauses if name not in seen))
