"""EDM against closed forms."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.diffusion.edm import EDM, denoise, denoising_loss, sample_sigma, scalings
from tether.networks import Denoiser
from tether.types import Array

SCHEDULE = EDM()
D0 = 0.25  # sigma_data squared
DRAWS = 2**19

QUANTILES = {  # of the untruncated law
    0.01: 0.0503,
    0.05: 0.1147,
    0.10: 0.1667,
    0.25: 0.2887,
    0.50: 0.5000,
    0.75: 0.8659,
    0.90: 1.4997,
    0.95: 2.1786,
    0.99: 4.9653,
}
F_MIN, F_MAX = 1.59997e-5, 0.99996094  # its distribution function at sigma_min and sigma_max


@functools.cache
def perfect(mean: float, variance: float) -> Callable[[Array, Array, Array], Array]:
    """The raw network whose denoiser is E[a | a_sigma] for behaviour N(mean, variance)."""

    def network(scaled: Array, observation: Array, c_noise: Array) -> Array:
        sigma = jnp.exp(4.0 * c_noise)
        c = scalings(SCHEDULE, sigma)
        noisy = scaled / c.input
        best = (variance * noisy + sigma**2 * mean) / (variance + sigma**2)
        return (best - c.skip * noisy) / c.out

    return network


@functools.partial(jax.jit, static_argnames=("network", "bound"))
def loss(network: Callable, action: Array, key: Array, bound: float | None = None) -> Array:
    return denoising_loss(SCHEDULE, network, action, jnp.zeros((len(action), 1)), key, bound)


# --- noise levels ---


def test_noise_levels_are_truncated_between_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inverse of the distribution function, probability by probability."""
    probabilities = np.array([F_MIN, *QUANTILES, F_MAX])
    uniform = jnp.asarray((probabilities - F_MIN) / (F_MAX - F_MIN), jnp.float32)
    monkeypatch.setattr(jax.random, "uniform", lambda *_: uniform)
    sigma = sample_sigma(SCHEDULE, jax.random.key(0), len(uniform))
    # The table has 3 to 5 digits; the upper end loses 1e-3 to float32 (the header of edm.py).
    np.testing.assert_allclose(sigma, [0.002, *QUANTILES.values(), 80.0], rtol=2e-3)


def test_noise_levels_follow_the_truncated_law() -> None:
    sigma = np.asarray(sample_sigma(SCHEDULE, jax.random.key(0), DRAWS))
    assert sigma.dtype == np.float32
    assert sigma.min() >= 0.002 * (1 - 1e-3)
    assert sigma.max() <= 80.0 * (1 + 1e-3)
    for probability, value in QUANTILES.items():
        expected = (probability - F_MIN) / (F_MAX - F_MIN)
        five_deviations = 5 * math.sqrt(probability * (1 - probability) / DRAWS)
        rounding = 5e-5 / value * 2 * probability * (1 - probability)  # of the table, times dF/d ln sigma
        assert abs(np.mean(sigma < value) - expected) < five_deviations + rounding


def test_the_ends_can_be_moved() -> None:
    narrow = np.asarray(sample_sigma(EDM(0.5, 0.4, 0.6), jax.random.key(0), 10_000))
    assert 0.4 * (1 - 1e-5) <= narrow.min() < 0.401
    assert 0.599 < narrow.max() <= 0.6 * (1 + 1e-5)


def test_weight_times_density_is_an_elbo() -> None:
    """Per d ln sigma it is 2 / (sigma^2 + D0) = (2 / sigma^2) v with v increasing (section 14), whose integral is
    ln(sigma^2 / (sigma^2 + D0)) / D0."""
    sigma = np.asarray(sample_sigma(SCHEDULE, jax.random.key(1), DRAWS), np.float64)
    weight = 1.0 / np.asarray(jax.vmap(lambda s: scalings(SCHEDULE, s).out)(jnp.asarray(sigma, jnp.float32))) ** 2
    for low, high in [(0.05, 0.2), (0.2, 1.0), (1.0, 5.0)]:
        exact = np.diff([math.log(s**2 / (s**2 + D0)) / D0 for s in (low, high)])[0]
        terms = weight * ((low < sigma) & (sigma < high))
        assert abs(terms.mean() - exact) < 5 * terms.std() / math.sqrt(DRAWS)  # five standard errors


# --- preconditioning ---


@pytest.mark.parametrize("sigma", [0.002, 0.5, 3.0, 80.0])
def test_scalings(sigma: float) -> None:
    variance = sigma**2 + D0
    expected = (D0 / variance, sigma * 0.5 / math.sqrt(variance), variance**-0.5, math.log(sigma) / 4)
    np.testing.assert_allclose(jax.jit(scalings)(SCHEDULE, jnp.asarray(sigma)), expected, rtol=1e-6)


def test_scalings_make_a_network_of_unit_scale() -> None:
    """What the factors are for: for data of variance D0, input and target of the network have variance 1."""
    key_a, key_e = jax.random.split(jax.random.key(0))
    clean, noise = 0.5 * jax.random.normal(key_a, (DRAWS,)), jax.random.normal(key_e, (DRAWS,))
    for sigma in (0.01, 0.5, 20.0):
        c = scalings(SCHEDULE, jnp.asarray(sigma))
        noisy = clean + sigma * noise
        five_errors = 5 * math.sqrt(2 / DRAWS)
        assert abs(jnp.var(c.input * noisy) - 1) < five_errors
        assert abs(jnp.var((clean - c.skip * noisy) / c.out) - 1) < five_errors


def test_the_clamp_has_no_gradient_outside_the_box() -> None:
    def denoised(level: Array, bound: float | None) -> Array:
        sigma = jnp.asarray(1.0)
        return denoise(SCHEDULE, lambda x, s, u: level, jnp.array([0.3]), sigma, jnp.zeros(1), bound)[0]

    derivative = jax.grad(lambda level, bound: denoised(level[None], bound))
    assert abs(denoised(jnp.array([9.0]), None)) > 1
    assert denoised(jnp.array([9.0]), 1.0) == 1.0
    assert denoised(jnp.array([-9.0]), 1.0) == -1.0
    assert derivative(jnp.asarray(9.0), 1.0) == 0
    assert derivative(jnp.asarray(9.0), None) > 0
    assert derivative(jnp.asarray(0.1), 1.0) == derivative(jnp.asarray(0.1), None)


# --- the loss ---


def behaviour_cloning_loss(v: float) -> float:
    return 1.0 if v == D0 else v * math.log(v / D0) / (v - D0)


def trust_region(v: float) -> tuple[float, float]:
    """(C, K) of L_TR(a) = K + C (a - m)^2."""
    if v == D0:
        return 2.0, 0.5
    gap, ratio = D0 - v, math.log(D0 / v)
    return D0 * ratio / gap**2 - 1 / gap, v / gap - v**2 * ratio / gap**2


VARIANCES = {0.25: (1.0, 2.0, 0.5), 0.01: (0.1341, 9.804, 0.0361), 1e-4: (0.003131, 27.32, 0.000399)}


@pytest.mark.parametrize("v", VARIANCES)
def test_losses_of_the_perfect_denoiser(v: float) -> None:
    """Monte Carlo against section 5.

    2 %: one draw weighs at most 1/(4v) times (a - m)^2, with probability about 4v where v is small, so its deviation
    is about C/2 sqrt(1/v)/10 and DRAWS of them leave a standard error of 0.5 % at v = 1e-4. F_MIN: truncation
    takes away the draws below sigma_min, whose loss would be 1.
    """
    mean, network = 0.3, perfect(0.3, v)
    cloning, c, k = VARIANCES[v]
    np.testing.assert_allclose([behaviour_cloning_loss(v), *trust_region(v)], VARIANCES[v], rtol=1e-3)  # the table
    keys = jax.random.split(jax.random.key(0), 3)
    data = mean + math.sqrt(v) * jax.random.normal(keys[0], (DRAWS, 1))
    np.testing.assert_allclose(loss(network, data, keys[1]), cloning, rtol=0.02, atol=F_MIN)
    for offset in (0.0, 0.2):
        action = jnp.full((DRAWS, 1), mean + offset)
        np.testing.assert_allclose(loss(network, action, keys[2]), k + c * offset**2, rtol=0.02, atol=F_MIN)


def test_the_loss_is_a_mean_over_coordinates() -> None:
    """Two coordinates at distances 0.2 and 0: half of what one at 0.2 has, plus K."""
    c, k = trust_region(0.01)
    action = jnp.tile(jnp.array([0.5, 0.3]), (DRAWS // 2, 1))
    found = loss(perfect(0.3, 0.01), action, jax.random.key(0))
    np.testing.assert_allclose(found, k + c * 0.2**2 / 2, rtol=0.02)


def test_gradient_flows_through_both_places_of_the_action() -> None:
    """Finite differences with the same noise, for a network and with the clamp.

    Central differences with h = 1e-2 in float32: 1e-7/h = 1e-5 of rounding in a loss of order 1.
    """
    network_key, action_key, key = jax.random.split(jax.random.key(0), 3)
    denoiser = jax.jit(Denoiser, static_argnums=range(1, 5))(network_key, 1, 2, (16,), 4)
    action = 0.5 * jnp.tanh(jax.random.normal(action_key, (8, 2)))

    def network(*inputs: Array) -> Array:
        return denoiser(*inputs)

    def frozen(*inputs: Array) -> Array:
        return jax.lax.stop_gradient(denoiser(*inputs))

    def value(action: Array) -> Array:
        return loss(network, action, key, bound=5.0)

    gradient = jax.grad(value)(action)
    for row, column in np.ndindex(3, 2):
        step = jnp.zeros_like(action).at[row, column].set(1e-2)
        difference = (value(action + step) - value(action - step)) / 2e-2
        np.testing.assert_allclose(gradient[row, column], difference, rtol=1e-2, atol=1e-3)
    assert (
        jnp.abs(gradient - jax.grad(lambda a: loss(frozen, a, key, bound=5.0))(action)).max() > 0.01
    )  # the Jacobian of D matters here


def test_noise_is_fresh_per_key_and_per_row() -> None:
    network, action = perfect(0.0, 0.25), jnp.zeros((4, 1))
    one, two = jax.random.split(jax.random.key(0))
    assert loss(network, action, one) == loss(network, action, one)
    assert loss(network, action, one) != loss(network, action, two)
    assert loss(network, action[:1], one) != loss(network, action, one)
