"""What every algorithm owes to the trainer: the clauses of `tether.testing`, for each entry of ALGORITHMS with what
cases.py says of it. A new algorithm inherits all of them: add its row there."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import CASES

from tether.algorithms import ALGORITHMS
from tether.testing import Expected, acting, numbers, structure
from tether.testing.check import CLAUSES, FIRST, SPEC
from tether.testing.subject import Subject

# What needs programs of its own is tested of two methods at every run, of BDPO (whose programs take as long as both of
# theirs), their kin and the baselines with `long`: they share all of the machinery and most of the equations, and
# `make test` has to end within a coffee break.
OWN = ("dtql", "dac")


def when(name: str, variant: str) -> Any:
    """The mark of a test that shares its case's programs, whose compilation is what takes time: `long` for second
    variants."""
    return () if variant == next(iter(CASES[name].variants)) else pytest.mark.long


each_case = pytest.mark.parametrize(
    ("name", "variant"),
    [
        pytest.param(name, variant, id=f"{name}-{variant}", marks=when(name, variant))
        for name, case in CASES.items()
        for variant in case.variants
    ],
)
each_algorithm = pytest.mark.parametrize(
    ("name", "variant"),
    [
        pytest.param(name, next(iter(case.variants)), id=name, marks=() if name in OWN else pytest.mark.long)
        for name, case in CASES.items()
    ],
)
each_phase = pytest.mark.parametrize(
    ("name", "variant", "phase"),
    [
        pytest.param(name, variant, phase, id=f"{name}-{variant}-{phase}", marks=when(name, variant))
        for name, case in CASES.items()
        for variant in case.variants
        for phase in case.changes
        if variant == next(iter(case.variants)) or phase == "train"  # earlier phases once: compiling takes seconds
    ],
)


@functools.cache
def subject(name: str, variant: str) -> Subject:
    """The case's three lanes, and all that it declares."""
    case = CASES[name]
    expected = Expected(
        changes=case.changes,
        swept=case.swept,
        targets=case.targets,
        lagging=case.lagging,
        unread=case.unread,
        deterministic=variant in case.deterministic,
        distinct=case.distinct,
        structural=case.structural,
        refusal="vectors of one length",
    )
    return Subject(ALGORITHMS[name](**(case.sizes | case.variants[variant])), expected, SPEC)


def holds(clause: Callable[[Subject], Iterator[str]], name: str, variant: str) -> None:
    assert list(clause(subject(name, variant))) == []


def test_every_algorithm_is_in_the_tables() -> None:
    assert set(CASES) == set(ALGORITHMS)


def test_no_clause_is_left_out() -> None:
    """Every one that `check_algorithm` looks at is a test here."""
    known = {clause for clause in (FIRST | CLAUSES).values() if clause.__name__ != "<lambda>"}
    here = Path(__file__).read_text()
    assert [clause.__name__ for clause in known if f".{clause.__name__}" not in here] == []


# --- what it is made of ---


@each_case
def test_it_speaks_the_contract(name: str, variant: str) -> None:
    for clause in (structure.interface, structure.numbers_are_leaves, structure.phase_names, acting.policy_is_one):
        holds(clause, name, variant)
    holds(structure.recorded, name, variant)


@each_case
def test_state_leaves_are_arrays(name: str, variant: str) -> None:
    assert list(structure.state_arrays(subject(name, variant))) == []
    assert list(structure.state_arrays(subject(name, variant), after_training=True)) == []


@each_algorithm
def test_state_keeps_its_form(name: str, variant: str) -> None:
    holds(structure.state_keeps_its_form, name, variant)
    holds(structure.host_calls, name, variant)


# --- keys ---


@each_case
def test_same_key_same_parameters(name: str, variant: str) -> None:
    holds(numbers.same_seed_same_numbers, name, variant)


@each_algorithm
def test_nobody_keeps_a_constant_key(name: str, variant: str) -> None:
    holds(structure.constant_keys, name, variant)


@pytest.mark.parametrize("name", CASES)
def test_phases_that_imitate_read_no_rewards(name: str) -> None:
    holds(numbers.imitation_reads_no_rewards, name, next(iter(CASES[name].variants)))


# --- the compiled loop ---


@each_algorithm
def test_the_loop_is_so_many_single_calls_of_one_trace(name: str, variant: str) -> None:
    holds(numbers.loop_is_single_calls, name, variant)


@each_case
def test_stretches_are_cut_anywhere(name: str, variant: str) -> None:
    holds(numbers.stretches, name, variant)


@each_case
def test_save_load_continue(name: str, variant: str) -> None:
    holds(numbers.checkpoints, name, variant)


@each_case
def test_metrics_are_finite_scalars(name: str, variant: str) -> None:
    holds(numbers.metrics_are_scalars, name, variant)


# --- lanes ---


@each_algorithm
def test_lanes_are_single_runs(name: str, variant: str) -> None:
    holds(numbers.lanes_are_single_runs, name, variant)


@each_case
def test_different_lanes_differ(name: str, variant: str) -> None:
    holds(numbers.lanes_differ, name, variant)


@each_algorithm
def test_every_number_counts(name: str, variant: str) -> None:
    holds(numbers.every_number_counts, name, variant)


# --- gradients and targets ---


@each_phase
def test_updates_change_what_they_declare(name: str, variant: str, phase: str) -> None:
    assert list(numbers.updates_change_what_they_declare(subject(name, variant), phase)) == []


@each_case
def test_targets_move_on_the_polyak_line(name: str, variant: str) -> None:
    holds(numbers.targets_move_on_a_line, name, variant)


# --- the policy ---


@each_case
def test_a_memory_keeps_its_shape(name: str, variant: str) -> None:
    holds(acting.memory_keeps_its_shape, name, variant)


@each_case
def test_policy_acts_in_bounds_with_fresh_noise(name: str, variant: str) -> None:
    holds(acting.actions_in_bounds_with_fresh_noise, name, variant)


# --- shapes and dtypes ---


@each_case
def test_column_vectors_are_refused(name: str, variant: str) -> None:
    holds(structure.column_vectors, name, variant)


@pytest.mark.long  # every test here would fail of it, too (conftest.py)
@each_algorithm
def test_nothing_broadcasts_over_ranks(name: str, variant: str) -> None:
    holds(structure.broadcasting, name, variant)


@each_algorithm
def test_float32_stays_with_x64_enabled(name: str, variant: str) -> None:
    holds(structure.double_precision, name, variant)
