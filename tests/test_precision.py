"""Matmuls at a precision: inputs rounded, sums in float32, in backward passes, loops and branches too."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether import resume, train
from tether.algorithms import ALGORITHMS, BC
from tether.bench.counting import dot_types, single_update
from tether.errors import InputError
from tether.runs.config import restored_plan, with_device_here
from tether.training.precision import at_precision, check_precision
from tether.types import Spec

SPEC = Spec(3, 2)


def rounded(x):
    return jnp.asarray(x, jnp.float32).astype(jnp.bfloat16).astype(jnp.float32)


def matrices(*shapes):
    return [jax.random.normal(jax.random.key(i), shape, jnp.float32) for i, shape in enumerate(shapes)]


def test_inputs_are_rounded_and_products_summed_in_float32():
    x, w = matrices((4, 512), (512, 3))
    found = at_precision(lambda x, w: x @ w, "bfloat16")(x, w)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, rounded(x) @ rounded(w), rtol=1e-5, atol=1e-5)
    assert np.abs(found - x @ w).max() > 1e-3  # it did something
    # Summed in bfloat16, 512 ones and more would stop growing at 256.
    assert at_precision(lambda x, w: x @ w, "bfloat16")(jnp.ones((1, 512)), jnp.ones((512, 1)))[0, 0] == 512.0


def test_float32_is_the_function_itself_on_a_cpu():
    def double(x):
        return x @ x

    assert at_precision(double, "float32") is double


def test_backward_matmuls_are_rounded_too():
    x, w = matrices((5, 4), (4, 3))
    weight = jnp.arange(15.0).reshape(5, 3) / 7.0  # not representable in bfloat16

    def gradient(x, w):
        return jax.grad(lambda w: jnp.sum(weight * (x @ w)))(w)

    expected = rounded(x).T @ rounded(weight)
    np.testing.assert_allclose(at_precision(gradient, "bfloat16")(x, w), expected, rtol=1e-6, atol=1e-6)
    assert np.abs(expected - gradient(x, w)).max() > 1e-3


@pytest.mark.parametrize("kind", ["scan", "fori", "while", "cond", "jit", "map", "custom"])
def test_programs_within_are_rounded(kind):
    x, w = matrices((4, 4), (4, 4))

    @jax.custom_jvp
    def custom(x, w):
        return x @ w

    custom.defjvp(lambda primals, tangents: (custom(*primals), tangents[0]))

    def function(x, w):
        if kind == "scan":
            return jax.lax.scan(lambda y, _: (y @ w, None), x, length=1)[0]
        if kind == "fori":
            return jax.lax.fori_loop(0, 1, lambda _, y: y @ w, x)
        if kind == "while":
            return jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, c[1] @ w), (0, x))[1]
        if kind == "cond":
            return jax.lax.cond(x[0, 0] < 1e9, lambda: x @ w, lambda: x)
        if kind == "map":
            return jax.lax.map(lambda row: row @ w, x)
        return (jax.jit(lambda x, w: x @ w) if kind == "jit" else custom)(x, w)

    found = jax.jit(at_precision(function, "bfloat16"))(x, w)
    np.testing.assert_allclose(found, rounded(x) @ rounded(w), rtol=1e-6, atol=1e-6)


ORDERS = {  # shapes, ((contracted left, contracted right), (batch left, batch right))
    "x w": ((5, 4), (4, 3), (((1,), (0,)), ((), ()))),
    "x w^T": ((5, 4), (3, 4), (((1,), (1,)), ((), ()))),
    "x^T g": ((4, 5), (4, 3), (((0,), (0,)), ((), ()))),
    "two contracted": ((4, 5, 2), (2, 3, 4), (((2, 0), (0, 2)), ((), ()))),
    "a batch of heads, last": ((5, 4, 2), (3, 2, 4), (((1,), (2,)), ((2,), (1,)))),
    "vector": ((4,), (3, 4), (((0,), (1,)), ((), ()))),
    "outer": ((4,), (3,), (((), ()), ((), ()))),
}


@pytest.mark.parametrize(("left", "right", "dimensions"), ORDERS.values(), ids=list(ORDERS))
def test_every_order_of_dimensions_gives_the_product(left, right, dimensions):
    """The products are laid out anew for the CPU: rows of x, columns of w."""
    x, w = matrices(left, right)

    def product(x, w):
        return jax.lax.dot_general(x, w, dimensions)

    expected = product(rounded(x), rounded(w))
    np.testing.assert_allclose(jax.jit(at_precision(product, "bfloat16"))(x, w), expected, rtol=1e-5, atol=1e-5)
    mapped = jax.jit(jax.vmap(at_precision(product, "bfloat16")))(jnp.stack([x, 2 * x]), jnp.stack([w, w]))
    np.testing.assert_allclose(mapped, jnp.stack([expected, 2 * expected]), rtol=1e-5, atol=1e-5)


def test_it_can_be_mapped_and_closes_over_traced_values():
    x, w = matrices((6, 4, 4), (4, 4))

    def one(x, scale):
        return at_precision(lambda x: scale * (x @ w), "bfloat16")(x)

    found = jax.jit(jax.vmap(one))(x, jnp.arange(6.0))
    expected = jnp.arange(6.0)[:, None, None] * (rounded(x) @ rounded(w))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


SMALL = {"hidden_sizes": (8, 8)}


@pytest.mark.parametrize("name", ["dtql", "dac", "td3-bc", "iql", pytest.param("bdpo", marks=pytest.mark.long)])
def test_every_matmul_of_an_update_has_rounded_inputs(name):
    """Backward passes, chains in loops, delayed updates in branches; what comes out is float32 as it was."""
    algorithm = ALGORITHMS[name](**SMALL)
    function, arguments = single_update(algorithm, len(algorithm.phases()) - 1, SPEC, 4)
    plain, rounded = (jax.make_jaxpr(at_precision(function, p))(*arguments) for p in ("float32", "bfloat16"))
    kinds = dot_types(plain.jaxpr)
    assert set(kinds) == {("float32", "float32", "float32")}
    assert dot_types(rounded.jaxpr) == {("bfloat16", "bfloat16", "float32"): kinds["float32", "float32", "float32"]}
    assert [v.aval.dtype for v in plain.jaxpr.outvars] == [v.aval.dtype for v in rounded.jaxpr.outvars]


def test_unknown_names_and_tf32_on_a_cpu_are_refused_with_the_choices():
    check_precision("float32")
    check_precision("bfloat16")
    with pytest.raises(InputError, match="bfloat16"):
        check_precision("bf16")
    with pytest.raises(InputError, match=r"tf32.*float32, bfloat16"):
        check_precision("tf32")


def test_a_run_of_another_machine_is_evaluated_here(tmp_path: Path) -> None:
    """tf32 and an accelerator are of training and of its evaluations there; acting is float32 everywhere."""
    algorithm = BC(hidden_sizes=(8,), train_updates=2)
    train(algorithm, "halfcheetah-medium-replay-small", environment="none", out=tmp_path / "run", quiet=True)
    config = json.loads((path := tmp_path / "run" / "config.json").read_text())
    config["settings"] |= {"precision": "tf32", "eval_device": "accelerator"}
    path.write_text(json.dumps(config))
    plan = restored_plan(tmp_path / "run", quiet=True)
    assert plan.options.precision == "tf32"
    here, why = with_device_here(plan)
    assert (here.options.eval_device, why) == ("auto", "no accelerator is here: evaluations are played on the CPU")
    with pytest.raises(InputError, match="tf32"):  # training on would be another one
        resume(tmp_path / "run", updates=4, quiet=True)
