"""No algorithm computes more than it must: its matmuls against the formulas of `tether.minimal`."""

from collections.abc import Iterator

import jaxtyping
import pytest

from tether.algorithms import ALGORITHMS
from tether.counting import update_bytes, update_work
from tether.minimal import MINIMAL, minimal_work
from tether.types import Spec

SPEC = Spec(11, 3)
FEW_HEADS = {name: {"ensemble_size": 3} for name in ("dac", "bdpo", "bdpo-unimodal")}  # ten take three times as long
BATCH = 252  # no layer's width is a multiple of it, so that sums over rows can be told from others


@pytest.fixture(autouse=True)
def _no_shape_checks() -> Iterator[None]:
    """Counting passes the update's number as NumPy's, so that branches are known while tracing."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_every_algorithm_has_a_formula_for_every_phase() -> None:
    assert list(MINIMAL) == list(ALGORITHMS)
    for name, cls in ALGORITHMS.items():
        algorithm = cls()
        assert list(MINIMAL[name](algorithm, SPEC, BATCH)) == [phase.name for phase in algorithm.phases()], name


def test_the_formula_of_cloning_by_hand() -> None:
    forward, first = 2 * BATCH * (11 * 256 + 256 * 256 + 256 * 3), 2 * BATCH * 11 * 256
    work = minimal_work("bc", ALGORITHMS["bc"](), 0, SPEC, BATCH)
    assert (work.forward, work.weights, work.inputs) == (forward, forward, forward - first)


# At every run those that the others share most with.
QUICK = ("dtql", "dac", "bdpo-unimodal", "dql", "iql", "td3-bc", "cql")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in ALGORITHMS]
)
def test_nothing_is_computed_that_need_not_be(name: str) -> None:
    """Gradients of weights are those of the networks that train in the phase, to the last operation: none of a frozen
    one. All in all no more than 5 % is beyond the formula (asked are 20 %)."""
    algorithm = ALGORITHMS[name](**FEW_HEADS.get(name, {}))
    for phase in range(len(algorithm.phases())):
        least, counted = minimal_work(name, algorithm, phase, SPEC, BATCH), update_work(algorithm, phase, SPEC, BATCH)
        assert counted.weights == pytest.approx(least.weights, rel=1e-6)
        assert 0.95 <= least.total / counted.total <= 1.0 + 1e-9


def test_bytes_of_cloning_by_hand() -> None:
    """Parameters and both moments are read and written, the step count too; of the minibatch states and actions."""
    parameters = 11 * 256 + 256 + 256 * 256 + 256 + 256 * 3 + 3
    moved = 2 * (3 * parameters + 1) + 8 * (11 + 3)
    loss = 1
    assert update_bytes(ALGORITHMS["bc"](), 0, SPEC, 8) == pytest.approx(4 * (moved + loss), rel=1e-3)
