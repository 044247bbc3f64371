"""Adam and its schedule against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np

from tether.optimisers import adam_init, adam_step, cosine_decay


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
    factors = [cosine_decay(jnp.asarray(step, jnp.int32), 1000.0) for step in (0, 250, 500, 1000)]
    np.testing.assert_allclose(factors, [1.0, 0.5 + 0.25 * 2**0.5, 0.5, 0.0], atol=1e-6)
    assert jax.eval_shape(lambda step: cosine_decay(step, 10.0), jnp.int32(0)).dtype == jnp.float32
