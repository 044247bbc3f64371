"""Shared equations against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from tether.algorithms.shared.losses import expectile_loss, polyak, td_target
from tether.policies.selection import sample_by_q


def test_expectile_loss_by_hand() -> None:
    difference = jnp.array([2.0, -1.0, 0.0, 1.0])
    assert expectile_loss(difference, 0.5) == pytest.approx(0.5 * (4 + 1 + 0 + 1) / 4)
    assert expectile_loss(difference, 0.9) == pytest.approx((0.9 * 4 + 0.1 * 1 + 0.9 * 1) / 4)
    assert expectile_loss(-difference, 0.9) == pytest.approx((0.1 * 4 + 0.9 * 1 + 0.1 * 1) / 4)


def test_the_minimiser_is_the_expectile() -> None:
    """Of {0, 1} with equal weight the tau-expectile is tau: tau (1 - m) = (1 - tau) m."""
    target = jnp.array([0.0, 1.0])
    for tau in (0.5, 0.7, 0.9):
        slope = jax.grad(lambda m, tau=tau: expectile_loss(target - m[None], tau))
        assert slope(jnp.asarray(tau)) == pytest.approx(0, abs=1e-6)
        assert slope(jnp.asarray(tau - 0.1)) < 0 < slope(jnp.asarray(tau + 0.1))


def test_td_target_masks_the_next_value_of_terminal_rows() -> None:
    reward, terminal, value = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.0, 1.0, 0.0]), jnp.array([2.0, 1e6, -4.0])
    np.testing.assert_allclose(td_target(reward, 0.9, terminal, value), [2.8, 1.0, -3.6], rtol=1e-6)


def test_td_target_has_no_gradient() -> None:
    one = jnp.ones(3)
    gradient = jax.grad(lambda value: td_target(one, 0.9, 0 * one, value).sum())(one)
    assert (gradient == 0).all()


@pytest.mark.parametrize("columns", [(0,), (1,), (2,), (0, 1, 2)])
def test_td_target_refuses_columns(columns: tuple[int, ...]) -> None:
    """By itself, without the shape checks that only pytest switches on."""
    reward, terminal, value = (jnp.zeros((4, 1) if index in columns else 4) for index in range(3))
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=r"vectors of one length, got shapes .*\(4, 1\)"):
            td_target(reward, 0.9, terminal, value)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_softmax_acts_on_q_once() -> None:
    """q = (0, ln 3): the second candidate 75 % of the time. Softmax applied twice would give 62 %."""
    keys, q = jax.random.split(jax.random.key(0), 4096), jnp.array([0.0, jnp.log(3.0)])
    actions = jnp.array([[0.0], [1.0]])
    chosen = jax.vmap(lambda key: sample_by_q(key, actions, q))(keys)
    assert chosen.shape == (4096, 1)
    assert abs(chosen.mean() - 0.75) < 5 * (0.75 * 0.25 / 4096) ** 0.5  # five standard deviations


def test_polyak_by_hand() -> None:
    target, online = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 2.0])}
    np.testing.assert_allclose(polyak(target, online, 0.25)["w"], [1.5, 2.0])
    np.testing.assert_allclose(polyak(target, online, jnp.asarray(1.0))["w"], online["w"])
