"""Lanes and settings: what is refused, what is read, and that a diverging lane harms nobody."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms import ALGORITHMS, DTQL
from tether.algorithms.registry import hyperparameters_of, numeric_fields, parse_fields
from tether.bench.counting import synthetic
from tether.data import view_of
from tether.errors import InputError
from tether.networks import unstack_heads
from tether.training.lanes import Lane, make_lanes, stack_lanes, take_lane
from tether.training.loop import NEVER, Progress, init_lanes, run_updates
from tether.types import Array, Spec, Transition

# --- making lanes ---


def test_lanes_are_the_product_settings_outermost() -> None:
    lanes = make_lanes(DTQL(), [3, 5], {"expectile": [0.5, 0.9], "discount": [1.0]})
    assert lanes == [
        Lane(seed, {"expectile": expectile, "discount": 1.0}) for expectile in (0.5, 0.9) for seed in (3, 5)
    ]
    assert lanes[0].name == "seed 3, expectile 0.5, discount 1"
    assert make_lanes(DTQL(), [0], {}) == [Lane(0, {})]


@pytest.mark.parametrize(
    ("seeds", "sweep", "message"),
    [
        ([], {}, "at least one is needed"),
        ([1, 2, 1], {}, r"seeds \[1, 2, 1\]: each may stand once"),
        ([0], {"expectil": [0.5]}, "unknown hyper-parameter 'expectil'; did you mean expectile"),
        ([0], {"hidden_sizes": [1.0]}, "'hidden_sizes' changes the program's structure and cannot be swept"),
        ([0], {"candidates": [1.0, 2.0]}, "'candidates' changes the program's structure.*--set"),
        ([0], {"expectile": []}, "needs distinct finite numbers"),
        ([0], {"expectile": [0.5, 0.5]}, "sweep expectile=0.5,0.5: needs distinct finite numbers"),
        ([0], {"expectile": [0.5, float("nan")]}, "needs distinct finite numbers"),
    ],
)
def test_refused_lanes(seeds: list[int], sweep: dict[str, list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_lanes(DTQL(), seeds, sweep)
    assert "\n" not in str(caught.value)


def test_stacking_and_taking() -> None:
    algorithm = DTQL(expectile=0.8, candidates=7)
    stacked = stack_lanes(algorithm, make_lanes(algorithm, [0, 1], {"discount": [0.5, 0.9]}))
    for name in numeric_fields(algorithm):
        assert getattr(stacked, name).shape == (4,)
        assert getattr(stacked, name).dtype == jnp.float32
    np.testing.assert_allclose(stacked.discount, [0.5, 0.5, 0.9, 0.9])
    assert stacked.candidates == 7
    one = take_lane(stacked, 2)
    assert one.discount == jnp.float32(0.9)
    assert one.expectile == jnp.float32(0.8)


def test_numeric_and_other_fields() -> None:
    assert "expectile" in numeric_fields(DTQL())
    assert "candidates" not in numeric_fields(DTQL())
    assert hyperparameters_of(DTQL(candidates=7))["candidates"] == 7


# --- settings from text and files ---


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("expectile", "0.9", 0.9),
        ("expectile", 1, 1.0),
        ("learning_rate", "3e-5", 3e-5),
        ("candidates", "32", 32),
        ("train_updates", "1e6", 1_000_000),
        ("train_updates", 5.0, 5),
        ("cosine_decay", "True", True),
        ("cosine_decay", "no", False),
        ("cosine_decay", True, True),
        ("decay_updates", "none", None),
        ("decay_updates", None, None),
        ("decay_updates", "100", 100),
        ("hidden_sizes", "64,32", (64, 32)),
        ("hidden_sizes", "(64, 32)", (64, 32)),
        ("hidden_sizes", "64", (64,)),
        ("hidden_sizes", [64, 32], (64, 32)),
        ("actor_kind", "implicit", "implicit"),
    ],
)
def test_every_kind_of_field_is_read(name: str, value: Any, expected: Any) -> None:
    parsed = parse_fields(DTQL, {name: value})
    assert parsed == {name: expected}
    assert type(parsed[name]) is type(expected)
    DTQL(**parsed)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("expectile", "high", "a finite number"),
        ("expectile", "nan", "a finite number"),
        ("expectile", float("inf"), "a finite number"),
        ("expectile", True, "a finite number"),
        ("expectile", [0.5], "a finite number"),
        ("candidates", "1.5", "a whole number"),
        ("candidates", True, "a whole number"),
        ("candidates", "inf", "a whole number"),
        ("candidates", None, "a whole number"),
        ("cosine_decay", "maybe", "true or false"),
        ("cosine_decay", 0.5, "true or false"),
        ("decay_updates", "soon", "a whole number or none"),
        ("hidden_sizes", "64,wide", "whole numbers separated by commas"),
        ("hidden_sizes", "64,1.5", "whole numbers separated by commas"),
        ("hidden_sizes", "", "whole numbers separated by commas"),
        ("hidden_sizes", 64, "whole numbers separated by commas"),
        ("actor_kind", "gausian", "one of gaussian, implicit"),
    ],
)
def test_bad_values_name_what_is_expected(name: str, value: Any, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_fields(DTQL, {name: value})
    assert str(caught.value) == f"{name}={value!r}: expected {expected}"


def test_unknown_settings_get_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown hyper-parameter of dtql 'expectil'; did you mean expectile"):
        parse_fields(DTQL, {"expectil": 0.5})


# --- a lane that diverges ---

# Sizes are those of contract/test_algorithms.py: in one session the compiled programs are shared.
SPEC, ROWS, BATCH = Spec(3, 2, 0.5), 64, 16
TINY: dict[str, Any] = {"hidden_sizes": (8,), "denoiser_hidden_sizes": (8,), "time_embedding_size": 4, "candidates": 16}
BAD = {"critic_learning_rate": 1e18}


@functools.cache
def states() -> list[Any]:
    return [DTQL(**TINY).init(SPEC, jax.random.key(seed)) for seed in (0, 1)]


def stretch(
    seeds: list[int],
    settings: list[dict[str, float]],
    *,
    state: Any = None,
    start: int = 0,
    count: int = 3,
    alive: list[bool] | None = None,
) -> Progress:
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    algorithm = DTQL(**TINY)
    data = Transition(normal(ROWS, 3), jnp.tanh(normal(ROWS, 2)) / 2, normal(ROWS), normal(ROWS, 3), jnp.zeros(ROWS))
    lanes = stack_lanes(algorithm, [Lane(seed, {}) for seed in seeds])
    for name in {name for one in settings for name in one}:  # also values that no lane may have
        values = jnp.asarray([one.get(name, getattr(algorithm, name)) for one in settings], jnp.float32)
        lanes = eqx.tree_at(lambda stacked, name=name: getattr(stacked, name), lanes, values)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    return run_updates(
        lanes,
        initial(seeds) if state is None else state,
        keys,
        jnp.asarray(alive or [True] * len(seeds)),
        data,
        jnp.asarray(start, jnp.int32),
        jnp.asarray(count, jnp.int32),
        phase=1,
        batch_size=BATCH,
        sequential=True,
    )


def initial(seeds: list[int]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(states()[seed] for seed in seeds))


def bits(tree: Any, lane: int) -> list[bytes]:
    return [np.asarray(leaf[lane]).tobytes() for leaf in jax.tree.leaves(tree)]


def test_a_diverging_lane_is_named_and_left_as_it_was() -> None:
    progress = stretch([0, 1, 1], [{}, BAD, {}], start=10)
    # Update 10 leaves parameters of 1e18, with which values are 1e36; update 11 squares these.
    assert progress.first_nonfinite.tolist() == [NEVER, 11, NEVER]
    before = initial([0, 1, 1])
    assert bits(progress.state, 1) == bits(before, 1)
    assert bits(progress.state, 0) != bits(before, 0)


def test_the_other_lanes_do_as_if_alone() -> None:
    together = stretch([0, 1, 1], [{}, BAD, {}])
    for lane, seed in ((0, 0), (2, 1)):
        alone = stretch([seed], [{}])
        assert bits(together.state, lane) == bits(alone.state, 0)
        assert bits(together.metric_sums, lane) == bits(alone.metric_sums, 0)


def test_a_result_that_is_not_finite_counts_though_metrics_are() -> None:
    """No metric reads the targets. Which update it was is not known then; the stretch's last is named."""
    progress = stretch([0, 1, 1], [{}, {"target_rate": float("inf")}, {}])
    assert all(np.isfinite(sums).all() for sums in progress.metric_sums.values())
    assert progress.first_nonfinite.tolist() == [NEVER, 2, NEVER]
    assert bits(progress.state, 1) == bits(initial([1]), 0)


def test_a_frozen_lane_stays() -> None:
    progress = stretch([0, 1, 1], [{}, {}, {}], alive=[True, False, True])
    assert bits(progress.state, 1) == bits(initial([1]), 0)
    assert bits(progress.state, 2) != bits(initial([1]), 0)
    assert bits(progress.state, 0) == bits(stretch([0, 1, 1], [{}, {}, {}]).state, 0)


def test_lanes_start_from_their_seeds_alone() -> None:
    """Whatever their settings and neighbours."""
    algorithm = DTQL(**TINY)
    lanes = [Lane(0, {}), Lane(1, {}), Lane(0, {"learning_rate": 0.1})]
    keys = jnp.stack([jax.random.key(lane.seed) for lane in lanes])
    state = init_lanes(stack_lanes(algorithm, lanes), SPEC, keys)
    assert bits(state, 0) == bits(state, 2)
    assert bits(state, 0) != bits(state, 1)
    for compiled, plain in zip(jax.tree.leaves(state), jax.tree.leaves(initial([0, 1, 0])), strict=True):
        np.testing.assert_allclose(compiled, plain, atol=1e-6)  # XLA may fuse what stands apart uncompiled


@pytest.mark.long
def test_large_ensembles_train_alike_stacked_or_not() -> None:
    """Three heads as one network with an axis of heads, in the program of two lanes: the same numbers."""
    algorithm = ALGORITHMS["dac"](
        hidden_sizes=(8,), time_embedding_size=4, diffusion_steps=2, ensemble_size=3, next_actions=2
    )
    lanes, keys = stack_lanes(algorithm, [Lane(0, {}), Lane(1, {})]), jax.random.split(jax.random.key(0), 2)
    spec = Spec(3, 2)
    data = synthetic(view_of(algorithm), spec, jax.random.key(1))
    how: dict[str, Any] = {"phase": 0, "batch_size": 8, "sequential": True}
    ends = []
    for stacked in (False, True):
        state = init_lanes(lanes, spec, keys, stacked=stacked)
        span = jnp.ones(2, bool), data, jnp.int32(0), jnp.int32(3)
        ends.append(run_updates(lanes, state, keys, *span, **how).state)
    assert isinstance(ends[0].critic.heads, tuple)
    assert not isinstance(ends[1].critic.heads, tuple)
    back = unstack_heads(ends[1], axis=1)
    assert jax.tree.structure(back) == jax.tree.structure(ends[0])
    for one, other in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(back), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
