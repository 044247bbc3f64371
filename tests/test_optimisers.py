"""Adam and its schedule against their definitions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms.shared.optimisers import adam_init, adam_step, cosine_decay, update_when_due
from tether.errors import InputError
from tether.types import Array, Metrics


def numpy_adam(parameter: np.ndarray, gradients: list[np.ndarray], rates: list[float]) -> np.ndarray:
    """Kingma and Ba 2015, algorithm 1, in float64."""
    first, second = np.zeros_like(parameter), np.zeros_like(parameter)
    for count, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9**count), second / (1 - 0.999**count)
        parameter = parameter - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return parameter


def test_adam_is_adam() -> None:
    """Huge and tiny gradients alike (nothing is clipped), zero ones (nothing decays), and a rate that changes."""
    generator = np.random.default_rng(0)
    scale = np.array([1e3, 1.0, 1e-4, 0.0])
    start = generator.normal(size=4)
    gradients = [scale * generator.normal(size=4) for _ in range(6)]
    rates = [0.1, 0.1, 0.05, 0.0, 0.01, 0.1]
    parameters = {"w": jnp.asarray(start, jnp.float32)}
    state = adam_init(parameters)
    for gradient, rate in zip(gradients, rates, strict=True):
        step = {"w": jnp.asarray(gradient, jnp.float32)}
        parameters, state = adam_step(parameters, step, state, jnp.asarray(rate, jnp.float32))
    np.testing.assert_allclose(parameters["w"], numpy_adam(start, gradients, rates), rtol=1e-5)
    assert parameters["w"][3] == jnp.float32(start[3])


def test_cosine_decay() -> None:
    factors = [cosine_decay(jnp.asarray(step, jnp.int32), 1000.0) for step in (0, 250, 500, 1000, 1500)]
    np.testing.assert_allclose(factors, [1.0, 0.5 + 0.25 * 2**0.5, 0.5, 0.0, 0.0], atol=1e-6)
    assert jax.eval_shape(lambda step: cosine_decay(step, 10.0), jnp.int32(0)).dtype == jnp.float32


def count_up(state: Array) -> tuple[Array, Metrics]:
    return state + 1.0, {"size": jnp.sum(state)}


def test_delayed_updates_come_at_their_interval_after_the_warm_up() -> None:
    """Metrics sum up to what they would be if every step had one: rows divide by all steps."""
    one, states, sizes = jnp.ones(()), [], []
    state = one
    for step in range(8):
        state, metrics = update_when_due(count_up, state, jnp.asarray(step, jnp.int32), 3, 2)
        states.append(float(state))
        sizes.append(float(metrics["size"]))
    assert states == [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    assert sizes == [0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 4.0, 0.0]


def test_delayed_updates_stay_branches_over_lanes() -> None:
    """`step` is shared: batching lanes must not turn the branch into a selection that computes both sides."""
    lanes = jax.vmap(lambda state, step: update_when_due(count_up, state, step, 0, 2)[0], in_axes=(0, None))
    jaxpr = jax.make_jaxpr(lanes)(jnp.ones(3), jnp.int32(0))
    assert "cond" in [equation.primitive.name for equation in jaxpr.eqns]


def test_functions_among_parameters_are_named():
    network = eqx.nn.MLP(2, "scalar", 4, 1, key=jax.random.key(0))
    with pytest.raises(InputError, match=r"parameters\.activation is .*, no array \(equinox.nn.MLP keeps"):
        adam_init(network)
