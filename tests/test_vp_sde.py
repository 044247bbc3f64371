"""The continuous diffusion: samplers that are exact where theory says so, guidance against its closed form."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.diffusion import vp_sde
from tether.errors import InputError
from tether.networks import EnergyNetwork, ScoreNetwork
from tether.networks.denoiser import fixed_frequencies
from tether.types import Array, Spec

MEAN, STD = 0.4, 0.5
START = jnp.asarray([[-2.0], [-0.5], [0.0], [1.0], [2.0]])
FIRST, LAST = (np.asarray(vp_sde.marginal(jnp.asarray(t)), np.float64) for t in (1.0, vp_sde.FIRST_TIME))
NOWHERE = jnp.zeros(1)


def gaussian(noisy_action: Array, observation: Array, time: Array) -> Array:
    """The exact noise prediction for actions N(MEAN, STD^2)."""
    alpha, sigma = vp_sde.marginal(time)
    return sigma * (noisy_action - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def solve(network: Any, calls: int, order: Literal[2, 3]) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(lambda x: vp_sde.dpm_solver(network, x, NOWHERE, calls, order)))(START))


@pytest.mark.parametrize("calls", [1, 3, 15])
def test_order_2_is_exact_for_a_point(calls: int) -> None:
    """One possible action, so a constant clean prediction: a_t = alpha_t a + sigma_t (a_1 - alpha_1 a) / sigma_1."""

    def network(noisy_action: Array, observation: Array, time: Array) -> Array:
        alpha, sigma = vp_sde.marginal(time)
        return (noisy_action - alpha * MEAN) / sigma

    expected = LAST[0] * MEAN + LAST[1] * (np.asarray(START) - FIRST[0] * MEAN) / FIRST[1]
    np.testing.assert_allclose(solve(network, calls, 2), expected, atol=5e-5)


@pytest.mark.parametrize("calls", [3, 15])
def test_order_3_is_exact_for_constant_noise(calls: int) -> None:
    expected = LAST[0] * (np.asarray(START) - FIRST[1] * 0.7) / FIRST[0] + LAST[1] * 0.7
    found = solve(lambda a, o, t: jnp.full(1, 0.7), calls, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(("order", "calls", "gain"), [(2, (15, 31, 63), 2.3), (3, (15, 30, 60), 4.0)])
def test_solvers_tend_to_the_flow_of_a_gaussian(order: Any, calls: tuple[int, ...], gain: float) -> None:
    """The probability flow of N(m, s^2) is affine: it keeps the quantile. Twice the calls, so much less error: the
    last step, of first order and the same share of the time, hides the order of the others."""
    variance = [alpha**2 * STD**2 + sigma**2 for alpha, sigma in (FIRST, LAST)]
    quantile = (np.asarray(START) - FIRST[0] * MEAN) / np.sqrt(variance[0])
    expected = LAST[0] * MEAN + np.sqrt(variance[1]) * quantile
    errors = [np.abs(solve(gaussian, count, order) - expected).max() for count in calls]
    assert errors[0] < 0.15
    assert errors[0] > gain * errors[1] > gain**2 * errors[2]


def test_order_3_is_the_better_one() -> None:
    fine = solve(gaussian, 301, 2)
    assert np.abs(solve(gaussian, 15, 3) - fine).max() < np.abs(solve(gaussian, 15, 2) - fine).max()


@pytest.mark.parametrize(("calls", "order"), [(4, 2), (0, 2), (10, 3), (0, 3), (-3, 3)])
def test_other_numbers_of_calls_are_refused(calls: int, order: Any) -> None:
    with pytest.raises(InputError, match="odd number" if order == 2 else "multiple of 3"):
        vp_sde.dpm_solver(gaussian, START[0], NOWHERE, calls, order)


def test_guidance_moves_a_gaussian_as_the_tilt_does() -> None:
    """N(m, s^2) tilted by exp(w g a) is N(m + w g s^2, s^2). The energy of a noised action is g times the mean of the
    clean one, so every sample moves by w g s^2."""
    slope = 0.8

    def energy(noisy_action: Array, observation: Array, time: Array) -> Array:
        alpha, sigma = vp_sde.marginal(time)
        clean = (alpha * STD**2 * noisy_action + sigma**2 * MEAN) / (alpha**2 * STD**2 + sigma**2)
        return slope * clean[0]

    plain = solve(gaussian, 101, 2)
    for weight in (0.0, 1.0, 2.5):
        moved = solve(vp_sde.guided(gaussian, energy, weight), 101, 2) - plain
        np.testing.assert_allclose(moved, weight * slope * STD**2, atol=0.01)
    np.testing.assert_array_equal(solve(vp_sde.guided(gaussian, energy, 0.0), 101, 2), plain)


def test_noised_actions_have_the_stated_moments_and_times() -> None:
    action = jnp.broadcast_to(jnp.asarray([0.7, -0.2]), (40_000, 2))
    diffused = vp_sde.diffuse(action, jax.random.key(0), 0.02, 0.98)
    assert 0.02 <= float(diffused.time.min()) < 0.03
    assert 0.97 < float(diffused.time.max()) <= 0.98
    late = np.asarray(diffused.time) > 0.9
    alpha, sigma = (np.asarray(x)[late] for x in vp_sde.marginal(diffused.time))
    standard = (np.asarray(diffused.noisy_action)[late] - alpha[:, None] * np.asarray(action)[late]) / sigma[:, None]
    np.testing.assert_allclose(standard, np.asarray(diffused.noise)[late], atol=1e-4)
    assert abs(standard.std() - 1) < 0.02
    # the sum over coordinates of a prediction that is off by 1 everywhere
    off = lambda a, o, t: (a - vp_sde.marginal(t)[0] * action[0]) / vp_sde.marginal(t)[1] + 1.0  # noqa: E731
    observation = jnp.zeros((40_000, 1))
    assert float(vp_sde.noise_loss(off, observation, diffused)) == pytest.approx(2.0, rel=1e-2)


# --- the networks ---


def dense(*sizes: tuple[int, int]) -> int:
    """Parameters of affine maps."""
    return sum(m * n + n for m, n in sizes)


def block(into: int, width: int) -> int:
    """Parameters of a residual block under a condition of 128."""
    return dense((into, width), (128, width), (width, width)) + (dense((into, width)) if into != width else 0)


def test_parameter_counts() -> None:
    """Worked out from the authors' layer sizes, for Hopper."""
    score = jax.eval_shape(lambda key: ScoreNetwork(key, Spec(11, 3)), jax.random.key(0))
    features = dense((11, 32), (32, 32), (64, 128), (128, 128))
    blocks = [(3, 512), (512, 256), (256, 128), (128, 128), (256, 256), (512, 512)]
    expected = features + sum(block(*sizes) for sizes in blocks) + dense((1024, 3))
    assert sum(leaf.size for leaf in jax.tree.leaves(score)) == expected
    energy = jax.eval_shape(lambda key: EnergyNetwork(key, Spec(11, 3), (256,) * 4), jax.random.key(0))
    trunk = dense((3 + 32 + 11, 256), (256, 256), (256, 256), (256, 256)) + 256  # no last bias
    assert sum(leaf.size for leaf in jax.tree.leaves(energy)) == trunk + dense((32, 32))


def test_fixed_frequencies_are_half_a_normal_law() -> None:
    """All different but for rounding, none the negative of another; quantile p of |N| is where its law has passed p."""
    found = fixed_frequencies(16, 30.0)
    passed = [math.erf(frequency / 30.0 / math.sqrt(2.0)) for frequency in found]
    np.testing.assert_allclose(passed, (np.arange(16) + 0.5) / 16, atol=1e-5)


def test_every_input_counts_at_every_place() -> None:
    network = ScoreNetwork(jax.random.key(0), Spec(3, 2), (16, 8, 4))
    arguments = jnp.asarray([0.3, -0.2]), jnp.asarray([1.0, 0.5, -1.0]), jnp.asarray(0.4)
    for jacobian in jax.jit(jax.jacobian(network, argnums=(0, 1, 2)))(*arguments):
        assert (jnp.abs(jacobian) > 0).all()


@pytest.mark.parametrize("widths", [(512,), (512, 128), (256, 256)])
def test_widths_that_do_not_halve_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="half of the one before"):
        ScoreNetwork(jax.random.key(0), Spec(3, 2), widths)
