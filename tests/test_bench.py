"""The bench counts what it says it counts."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from tether.algorithms import ALGORITHMS
from tether.bench import bench, bench_table, committed_costs, matmul_flops
from tether.errors import InputError

TINY = {"hidden_sizes": (8, 8), "denoiser_hidden_sizes": (8, 8), "candidates": 4}


def test_matmul_flops_of_known_programs():
    x, w, batched = jnp.ones((3, 4)), jnp.ones((4, 5)), jnp.ones((7, 4, 5))
    assert matmul_flops((lambda a, b: a @ b, (x, w))) == 2 * 3 * 4 * 5
    assert matmul_flops((lambda a, b: jax.vmap(lambda m: a @ m)(b), (x, batched))) == 7 * 2 * 3 * 4 * 5
    loop = lambda a, b: jax.lax.fori_loop(0, 6, lambda _, y: y @ b, a)  # noqa: E731
    assert matmul_flops((jax.jit(loop), (x, jnp.ones((4, 4))))) == 6 * 2 * 3 * 4 * 4


@pytest.fixture
def _no_shape_checks() -> Iterator[None]:
    """As outside pytest: counting passes the update's number as NumPy's, so that branches are known while tracing."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_a_branch_counts_where_it_is_taken() -> None:
    x, w = jnp.ones((3, 4)), jnp.ones((4, 4))

    def update(x, step):
        return jax.lax.cond(step % 5 == 0, lambda x: x @ w, lambda x: x, x)

    counts = [matmul_flops((functools.partial(update, step=step), (x,))) for step in np.arange(5, dtype=np.int32)]
    assert counts == [2 * 3 * 4 * 4, 0, 0, 0, 0]


@pytest.mark.usefixtures("_no_shape_checks")
def test_figures_are_there_and_plausible():
    sizes = {"batch_size": 8, "observation_size": 3, "action_size": 2, "lanes": 2, "seconds": 0.2}
    figures = bench(["dtql"], **sizes, assignments=TINY)
    assert [row["what"] for row in figures["results"]] == ["pretrain", "train", "act"]
    pretrain, train, act = figures["results"]
    assert 0 < pretrain["matmul_flops_per_update"] < train["matmul_flops_per_update"]
    assert train["xla_flops_per_update"] > train["matmul_flops_per_update"]  # XLA counts element-wise work, too
    assert train["updates_per_second"] > 0
    assert 0 < train["fraction_of_matmul_rate"] < 1
    assert 0 < act["milliseconds_p50"] <= act["milliseconds_p99"]
    assert bench_table(figures).row_count == 3


def test_costs_are_committed_for_every_algorithm() -> None:
    costs = committed_costs()
    assert list(costs) == list(ALGORITHMS)
    # BC's are known: layers of 256 between 11 and 3 numbers; backward twice as much but for the first layer
    forward, first = 2 * 256 * (11 * 256 + 256 * 256 + 256 * 3), 2 * 256 * 11 * 256
    assert costs["bc"]["gflop"] == pytest.approx((3 * forward - first) / 1e9)
    assert all(cost["gflop"] > 0.01 for cost in costs.values())


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"lanes": -1}, {"seconds": 0.0}])
def test_bad_sizes_are_refused(bad):
    sizes = {"batch_size": 8, "observation_size": 3, "action_size": 2, "lanes": 1, "seconds": 0.1} | bad
    with pytest.raises(InputError, match=next(iter(bad))):
        bench(["dtql"], **sizes, assignments=TINY)


def test_unknown_algorithm_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="dtql"):
        bench(["dtqll"], batch_size=8, observation_size=3, action_size=2, lanes=1, seconds=0.1, assignments={})


@pytest.mark.usefixtures("_no_shape_checks")
def test_what_looks_back_is_measured_on_windows_and_with_its_memory():
    sizes = {"batch_size": 4, "observation_size": 3, "action_size": 2, "lanes": 1, "seconds": 0.1}
    small = {"width": 8, "block_count": 1, "context_length": 3, "dropout": 0.0}
    train, act = bench(["dt"], **sizes, assignments=small)["results"]
    window = 3 * 3  # tokens
    # Forwards: qkv and its output, attention's two products, the MLP's two; backwards twice as much. Embeddings and
    # head are more, so the whole lies above it, but not far.
    block = 2 * window * (4 * 8 * 8 + 2 * window * 8 + 8 * 8 * 8)
    assert 3 * 4 * block < train["matmul_flops_per_update"] < 1.6 * 3 * 4 * block
    assert act["milliseconds_p50"] > 0
