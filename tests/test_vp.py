"""The VP diffusion against the specifications' test vectors and against Gaussians, for which all is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.diffusion import vp

FIVE = vp.vp_schedule(5)


def at(n: int):
    return jnp.asarray(n)


def test_five_step_vectors():
    """dac.md 3.1 and bdpo.md 3."""
    np.testing.assert_allclose(FIVE.beta[1:], [0.195875, 0.458818, 0.635781, 0.754878, 0.835031], atol=1e-6)
    np.testing.assert_allclose(FIVE.alpha_bar[1:], [0.804125, 0.435178, 0.158500, 0.038852, 0.006409], atol=1e-6)
    assert (FIVE.beta[0], FIVE.alpha[0], FIVE.alpha_bar[0]) == (0, 1, 1)
    on_clean = [float(vp.reverse_mean(FIVE, jnp.zeros(1), at(n), noise_of(1.0, 0.0, n), None)[0]) for n in range(1, 6)]
    on_noisy = [float(vp.reverse_mean(FIVE, jnp.ones(1), at(n), noise_of(0.0, 1.0, n), None)[0]) for n in range(1, 6)]
    np.testing.assert_allclose(on_clean, [1.0, 0.72844, 0.49841, 0.31268, 0.16565], atol=2e-5)
    np.testing.assert_allclose(on_noisy, [0.0, 0.25512, 0.40508, 0.43347, 0.39290], atol=2e-5)


def noise_of(clean: float, noisy: float, n: int):
    """The noise prediction that implies this clean action."""
    abar = FIVE.alpha_bar[n]
    return jnp.asarray([(noisy - np.sqrt(abar) * clean) / np.sqrt(1 - abar)], jnp.float32)


@pytest.mark.parametrize("steps", [1, 5, 50])
def test_the_end_does_not_depend_on_the_number_of_steps(steps):
    assert vp.vp_schedule(steps).alpha_bar[-1] == pytest.approx(np.exp(-5.05), rel=1e-5)
    assert vp.vp_schedule(steps).steps == steps


def test_fifty_step_vectors():
    fifty = vp.vp_schedule(50)
    np.testing.assert_allclose(fifty.beta[[1, 50]], [0.0040, 0.1796], atol=5e-5)
    weights = [float(vp.kernel_kl(fifty, at(n), jnp.ones(1), jnp.zeros(1))) for n in (1, 2, 10, 20, 30, 50)]
    np.testing.assert_allclose(weights, [0.5020, 0.3364, 0.1032, 0.0730, 0.0750, 0.1102], atol=5e-5)


def test_kernel_kl_is_the_kl_of_the_two_kernels():
    """Against ||mean - mean'||^2 / (2 beta) with the unclipped means; it is a sum over coordinates."""
    x, one, other = jax.random.normal(jax.random.key(0), (3, 4))
    for n, weight in zip(range(1, 6), [0.6218, 0.7505, 1.0372, 1.6020, 2.5472], strict=True):
        means = [vp.reverse_mean(FIVE, x, at(n), noise, None) for noise in (one, other)]
        expected = jnp.sum((means[0] - means[1]) ** 2) / (2 * FIVE.beta[n])
        kl = vp.kernel_kl(FIVE, at(n), one, other)
        assert kl == pytest.approx(float(expected), rel=1e-3)
        assert kl / jnp.sum((one - other) ** 2) == pytest.approx(weight, abs=1e-4)
        assert vp.kernel_kl(FIVE, at(n), one, one) == 0


def test_unclipped_mean_is_ddpm_equation_11():
    x, noise = jax.random.normal(jax.random.key(0), (2, 3))
    for n in range(1, 6):
        expected = (x - FIVE.beta[n] * noise / np.sqrt(1 - FIVE.alpha_bar[n])) / np.sqrt(FIVE.alpha[n])
        np.testing.assert_allclose(vp.reverse_mean(FIVE, x, at(n), noise, None), expected, rtol=1e-3, atol=1e-4)


def test_forward_marginal_has_the_stated_moments():
    keys = jax.random.split(jax.random.key(0), 40_000)
    clean = jnp.asarray([0.7, -0.2])
    noisy = jax.vmap(lambda key: vp.add_noise(FIVE, clean, at(3), jax.random.normal(key, (2,))))(keys)
    abar = FIVE.alpha_bar[3]
    np.testing.assert_allclose(noisy.mean(axis=0), np.sqrt(abar) * clean, atol=5 * np.sqrt((1 - abar) / 40_000))
    np.testing.assert_allclose(noisy.var(axis=0), 1 - abar, rtol=5 * np.sqrt(2 / 40_000))


def gaussian_noise_network(schedule, deviation):
    """The exact noise prediction for actions N(0, deviation^2)."""

    def network(noisy, observation, step):
        abar = jnp.asarray(schedule.alpha_bar)[step]
        return jnp.sqrt(1 - abar) * noisy / (abar * deviation**2 + 1 - abar)

    return network


@pytest.mark.parametrize("steps", [5, 50])
def test_ancestral_samples_have_the_variance_of_the_linear_recursion(steps):
    """With a linear noise prediction each reverse step is linear, so the sampler's variance is a product."""
    schedule, deviation = vp.vp_schedule(steps), 0.5
    network = gaussian_noise_network(schedule, deviation)
    variance = 1.0
    for n in range(steps, 0, -1):
        slope = float(vp.reverse_mean(schedule, jnp.ones(1), at(n), network(jnp.ones(1), None, at(n)), None)[0])
        variance = slope**2 * variance + (schedule.beta[n] if n > 1 else 0.0)
    draw = jax.jit(jax.vmap(lambda key: vp.sample(schedule, network, jnp.zeros(1), key, 2, None)))
    actions = draw(jax.random.split(jax.random.key(1), 20_000))
    assert float(actions.var()) == pytest.approx(variance, rel=5 * np.sqrt(2 / 40_000))
    if steps == 50:  # many steps: the law itself, within what beta_n as variance leaves
        assert variance == pytest.approx(deviation**2, rel=0.1)


def sample_ddim(schedule, network, observation, key, action_size, bound):
    """One action by the deterministic chain, as the gallery's pictures draw it."""

    def body(noisy_action, step):
        predicted = network(noisy_action, observation, step)
        return vp.ddim_step(schedule, noisy_action, step, predicted, bound), None

    start = jax.random.normal(key, (action_size,), jnp.float32)
    return jax.lax.scan(body, start, jnp.arange(schedule.steps, 0, -1, jnp.int32))[0]


def test_ddim_is_one_linear_map_that_tends_to_the_exact_one():
    """For actions N(0, 0.25) the deterministic flow multiplies the start by 0.5; the error falls like 1/steps."""
    errors = []
    for steps in (50, 200, 800):
        schedule = vp.vp_schedule(steps)
        network = gaussian_noise_network(schedule, 0.5)
        draw = jax.jit(lambda key, s=schedule, n=network: sample_ddim(s, n, jnp.zeros(1), key, 2, None))
        slopes = draw(jax.random.key(1)) / jax.random.normal(jax.random.key(1), (2,))
        assert slopes[0] == pytest.approx(float(slopes[1]), rel=1e-3)
        errors.append(abs(float(slopes[0]) - 0.5))
    # abar_N is not quite 0, so a start of variance 1 is not quite the noised data's: that error stays.
    assert errors[0] < 0.03
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.005


@pytest.mark.parametrize("sampler", [vp.sample, sample_ddim])
def test_a_point_is_recovered_and_samples_stay_in_the_box(sampler):
    point = jnp.asarray([0.3, -0.9])

    def towards(target):
        def network(noisy, observation, step):
            abar = jnp.asarray(FIVE.alpha_bar)[step]
            return (noisy - jnp.sqrt(abar) * target) / jnp.sqrt(1 - abar)

        return network

    keys = jax.random.split(jax.random.key(0), 50)
    actions = jax.vmap(lambda key: sampler(FIVE, towards(point), jnp.zeros(1), key, 2, 1.0))(keys)
    np.testing.assert_allclose(actions, jnp.broadcast_to(point, (50, 2)), atol=1e-5)
    outside = jax.vmap(lambda key: sampler(FIVE, towards(5 * point), jnp.zeros(1), key, 2, 1.0))(keys)
    assert float(jnp.abs(outside).max()) <= 1.0


def test_path_holds_what_the_network_saw():
    network = gaussian_noise_network(FIVE, 0.5)
    path = vp.sample_path(FIVE, network, jnp.zeros(1), jax.random.key(0), 2, 1.0)
    for row, n in enumerate(range(5, 0, -1)):
        expected = network(path.noisy_actions[row], None, at(n))
        np.testing.assert_allclose(path.predicted_noises[row], expected, rtol=1e-5)
    last = vp.predict_clean(FIVE, path.noisy_actions[-1], at(1), path.predicted_noises[-1], 1.0)
    np.testing.assert_allclose(path.action, last, atol=1e-6)


@pytest.mark.parametrize(("rows", "steps"), [(10, 5), (13, 5), (3, 5), (256, 5)])
def test_even_steps_are_sorted_balanced_and_uniform_over_the_draws(rows, steps):
    schedule = vp.vp_schedule(steps)
    draw = jax.jit(lambda key: vp.diffuse_evenly(schedule, jnp.zeros((rows, 2)), key).step)
    drawn = np.array([draw(key) for key in jax.random.split(jax.random.key(0), 60)])
    counts = np.stack([(drawn == n).sum(axis=1) for n in range(1, steps + 1)], axis=1)
    assert (np.diff(drawn, axis=1) >= 0).all()
    assert set(np.unique(counts)) <= {rows // steps, -(-rows // steps)}
    assert counts.sum(axis=1).tolist() == [rows] * 60
    # Each of the `steps` offsets is equally likely, and over all of them every step has the same number of rows.
    firsts = {tuple(row): row for row in drawn}
    assert len(firsts) == (1 if rows % steps == 0 else len({(rows * k) % steps for k in range(steps)}))
    if rows % steps:
        total = np.sum([[(row == n).sum() for n in range(1, steps + 1)] for row in firsts.values()], axis=0)
        assert set(total) == {rows}
