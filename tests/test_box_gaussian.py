"""The normal policy in the action box, plain and truncated, against SciPy's distributions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tether.networks import BoxGaussian, BoxGaussianActor

MEAN, STD = np.array([0.95, -0.4, 0.0]), np.array([0.3, 1.0, 0.01])  # at the bound, wide, narrow
BOX = 0.5


def law(truncated: bool) -> BoxGaussian:
    return BoxGaussian(jnp.asarray(MEAN, jnp.float32), jnp.asarray(STD, jnp.float32), BOX, truncated)


def exact(truncated: bool) -> Any:
    if not truncated:
        return scipy.stats.norm(BOX * MEAN, BOX * STD)
    return scipy.stats.truncnorm((-1 - MEAN) / STD, (1 - MEAN) / STD, loc=BOX * MEAN, scale=BOX * STD)


@pytest.mark.parametrize("truncated", [False, True])
def test_density_mean_and_quantiles(truncated: bool) -> None:
    action = BOX * np.array([0.9, -1.0, 0.005])
    expected = exact(truncated)
    found = law(truncated).log_density(jnp.asarray(action, jnp.float32))
    np.testing.assert_allclose(found, expected.logpdf(action).sum(), rtol=1e-4)
    np.testing.assert_allclose(law(truncated).expectation(), expected.mean(), rtol=1e-4, atol=1e-6)
    for quantile in (0.02, 0.5, 0.98):
        x = law(truncated).transform(jnp.full(3, quantile, jnp.float32))
        np.testing.assert_allclose(x, expected.ppf(quantile), rtol=1e-3, atol=1e-5)


def test_the_ends_of_the_noise_give_finite_actions_and_gradients_in_the_box() -> None:
    for end in (0.0, 1.0 - 2.0**-24):

        def action(mean: Any, end: float = end) -> Any:
            return BoxGaussian(mean, jnp.asarray(STD, jnp.float32), BOX, True).transform(jnp.full(3, end, jnp.float32))

        value, gradient = action(law(True).mean), jax.jacobian(action)(law(True).mean)
        assert jnp.abs(value).max() <= BOX
        assert jnp.isfinite(gradient).all()
        assert jnp.isfinite(law(False).transform(jnp.full(3, end, jnp.float32))).all()


def test_truncated_samples_differentiate_as_quantiles_do() -> None:
    """d/d mean of a quantile of the truncated law, by differences in double precision."""
    uniform, step = 0.8, 1e-5

    def quantile(mean: np.ndarray) -> np.ndarray:
        return scipy.stats.truncnorm((-1 - mean) / STD, (1 - mean) / STD, loc=mean, scale=STD).ppf(uniform)

    expected = (quantile(MEAN + step) - quantile(MEAN - step)) / (2 * step)

    def sample(mean: Any) -> Any:
        return BoxGaussian(mean, jnp.asarray(STD, jnp.float32), 1.0, True).transform(jnp.full(3, uniform, jnp.float32))

    np.testing.assert_allclose(jnp.diag(jax.jacobian(sample)(law(True).mean)), expected, rtol=2e-3)


def test_actor_keeps_mean_and_deviation_in_their_ranges() -> None:
    for truncated in (False, True):
        actor = BoxGaussianActor(jax.random.key(0), 3, 2, (8,), BOX, truncated=truncated)
        for size in (0.0, 1e4):
            found = actor(jnp.full(3, size))
            assert jnp.abs(found.mean).max() <= 1.0
            assert (np.exp(-5.0) * 0.999 <= found.std).all()
            assert (found.std <= 1.0).all()
        draws = actor.sample(jnp.ones(3), jax.random.key(1), 400)
        assert draws.shape == (400, 2)
        assert jnp.abs(draws).max() <= BOX
        assert len(np.unique(np.asarray(draws)[:, 0])) > 100
        np.testing.assert_allclose(actor.mode(jnp.ones(3)), actor(jnp.ones(3)).expectation())
