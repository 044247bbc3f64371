"""Networks against the papers' code: sizes, layers, initialisers, laws."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tether.networks import (
    MLP,
    Denoiser,
    DiffusionValueEnsemble,
    GaussianActor,
    ImplicitActor,
    QEnsemble,
    TanhGaussian,
    ValueNetwork,
    fan_in_uniform,
    lecun_normal,
    mish,
    orthogonal,
    sinusoidal_embedding,
    stack_heads,
    torch_uniform,
    uniform,
    unstack_heads,
)
from tether.types import Array

WIDE = (256, 256, 256)


def count(network: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(network))


def test_parameter_counts() -> None:
    """For 17 observations and 6 actions, from the specification."""
    key = jax.random.key(0)
    shapes = eqx.filter_eval_shape
    assert count(shapes(QEnsemble, key, 17, 6, WIDE)) == 2 * 139_521
    assert count(shapes(ValueNetwork, key, 17, WIDE)) == 136_449
    assert count(shapes(Denoiser, key, 17, 6, WIDE, 16)) == 210_230
    assert count(shapes(ImplicitActor, key, 17, 6, WIDE, 1.0, 16)) == 210_230
    assert count(shapes(GaussianActor, key, 17, 6, WIDE, 1.0)) == 139_276


# --- pieces ---


@pytest.mark.parametrize(
    ("size", "frequencies"),
    [(16, [1, 0.26827, 0.071969, 0.019307, 0.0051795, 0.0013895, 0.00037276, 0.0001]), (4, [1, 0.0001])],
)
def test_time_embedding(size: int, frequencies: list[float]) -> None:
    """All sines first; the specification has 5 digits."""
    for level in (-1.55, 2.5, 30.0):
        angles = level * np.array(frequencies)
        expected = np.concatenate([np.sin(angles), np.cos(angles)])
        np.testing.assert_allclose(sinusoidal_embedding(jnp.asarray(level), size), expected, atol=2e-4)


def test_mish_and_its_derivative() -> None:
    z = np.concatenate([np.linspace(-30, 30, 601), [-1e4, -200.0, -88.0, 88.0, 200.0, 1e10]])
    tanh, sigmoid = np.tanh(np.logaddexp(0, z)), np.exp(-np.logaddexp(0, -z))
    derivative = tanh + z * sigmoid * (1 - tanh) * (1 + tanh)
    z32 = jnp.asarray(z, jnp.float32)
    np.testing.assert_allclose(mish(z32), z * tanh, rtol=2e-6, atol=1e-30)
    np.testing.assert_allclose(jax.vmap(jax.grad(mish))(z32), derivative, rtol=1e-5, atol=1e-6)


def test_torch_uniform() -> None:
    """Uniform in ±1/sqrt(fan in), weights and biases."""
    weight, bias = torch_uniform(jax.random.key(0), 16, 4000)
    assert weight.shape == (4000, 16)
    assert bias.shape == (4000,)
    for values in (weight, bias):
        assert 0.249 < jnp.abs(values).max() <= 0.25
        # Variance of a uniform law b^2/3; its estimate from n values has relative deviation sqrt(0.8/n).
        assert jnp.var(values) == pytest.approx(0.25**2 / 3, rel=5 * math.sqrt(0.8 / values.size))
    assert len(np.unique(weight)) > 60_000  # independent numbers, but for 24-bit coincidences


def test_lecun_normal() -> None:
    """Standard deviation 1/sqrt(fan in), sqrt(3) times that of `torch_uniform`; cut; zero bias."""
    weight, bias = lecun_normal(jax.random.key(0), 16, 4000)
    assert weight.shape == (4000, 16)
    assert jnp.std(weight) == pytest.approx(0.25, rel=0.02)
    assert 0.5 < jnp.abs(weight).max() < 0.25 * 2.3
    assert (bias == jnp.zeros(4000)).all()


def test_a_last_layer_that_starts_small() -> None:
    """Hidden weights in ±1/sqrt(fan in), hidden biases the constant, the last layer within its own bound."""
    how: dict[str, Any] = {"initialiser": fan_in_uniform(0.1), "last_initialiser": uniform(0.003)}
    *hidden, last = MLP(jax.random.key(0), 16, (100, 100), 50, activation=jax.nn.relu, **how).layers
    for layer, bound in zip(hidden, (0.25, 0.1), strict=True):
        assert 0.98 * bound < jnp.abs(layer.weight).max() <= bound
        assert (layer.bias == jnp.float32(0.1)).all()
    for values in last.weight, last.bias:
        assert 0.9 * 0.003 < jnp.abs(values).max() <= 0.003


@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
def test_orthogonal(shape: tuple[int, int]) -> None:
    weight, bias = orthogonal(2.0)(jax.random.key(0), *shape)
    assert weight.shape == shape[::-1]
    product = weight @ weight.T if shape[0] >= shape[1] else weight.T @ weight
    np.testing.assert_allclose(product, 4 * np.eye(min(shape)), atol=1e-5)
    assert (bias == 0).all()


def filled(build: Any, *arguments: Any) -> Any:
    """A network whose every parameter is a random number: unit norms and zero biases would hide mistakes."""
    generator = np.random.default_rng(0)
    shapes = eqx.filter_eval_shape(build, jax.random.key(0), *arguments)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.normal(0.1, 0.5, leaf.shape), jnp.float32), shapes)


def by_hand(network: MLP, x: np.ndarray, activation: Any) -> np.ndarray:
    """Linear, LayerNorm (eps 1e-5) if there is one, activation; then a Linear."""
    for index, layer in enumerate(network.layers):
        x = np.asarray(layer.weight, np.float64) @ x + np.asarray(layer.bias, np.float64)
        if index < len(network.layers) - 1:
            if network.norms:
                norm = network.norms[index]
                x = activation(x) if network.norm_last else x
                x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
                x = x * np.asarray(norm.weight, np.float64) + np.asarray(norm.bias, np.float64)
            x = x if network.norms and network.norm_last else activation(x)
    return x


def numpy_mish(z: np.ndarray) -> np.ndarray:
    return z * np.tanh(np.logaddexp(0, z))


# --- critics ---


@pytest.mark.parametrize("norm_last", [False, True])
def test_q_heads_are_independent_and_normalise_on_the_asked_side_of_mish(norm_last: bool) -> None:
    critic = filled(lambda key, *sizes: QEnsemble(key, *sizes, norm_last=norm_last), 3, 2, (8, 8))
    generator = np.random.default_rng(1)
    observation, action = generator.normal(size=(5, 3)), generator.normal(size=(5, 2))
    q = jax.jit(jax.vmap(critic))(jnp.asarray(observation, jnp.float32), jnp.asarray(action, jnp.float32))
    assert q.shape == (5, 2)
    for index, head in enumerate(critic.heads):
        assert len(head.norms) == 2
        for row in range(5):
            x = np.concatenate([observation[row], action[row]])
            np.testing.assert_allclose(q[row, index], by_hand(head, x, numpy_mish)[0], rtol=1e-4, atol=1e-5)


def test_q_heads_start_apart() -> None:
    one, other = (head.layers[0].weight for head in QEnsemble(jax.random.key(0), 3, 2, ()).heads)  # pyright: ignore[reportFunctionMemberAccess]
    assert (one != other).all()


def test_value_network_has_no_normalisation() -> None:
    network = filled(ValueNetwork, 3, (8, 8))
    assert network.network.norms == ()
    x = np.array([0.3, -1.0, 2.0])
    expected = by_hand(network.network, x, numpy_mish)[0]
    np.testing.assert_allclose(jax.jit(network.__call__)(jnp.asarray(x, jnp.float32)), expected, rtol=1e-4)


# --- denoiser and policies ---


def test_denoiser_by_hand() -> None:
    """[x, s, embedding] in this order, no activation after the first affine map."""
    network = filled(Denoiser, 3, 2, (8, 8), 4)
    action, observation, level = np.array([0.5, -0.2]), np.array([0.3, -1.0, 2.0]), 0.7
    angles = level * np.array([1.0, 1e-4])
    embedding = np.concatenate([np.sin(angles), np.cos(angles)])
    embedding = np.asarray(network.time_in.weight) @ embedding + np.asarray(network.time_in.bias)
    embedding = np.asarray(network.time_out.weight) @ numpy_mish(embedding) + np.asarray(network.time_out.bias)
    x = np.concatenate([action, observation, embedding])
    x = np.asarray(network.stem.weight) @ x + np.asarray(network.stem.bias)
    inputs = jnp.asarray(action, jnp.float32), jnp.asarray(observation, jnp.float32), jnp.asarray(level)
    found = jax.jit(network.__call__)(*inputs)
    np.testing.assert_allclose(found, by_hand(network.trunk, x, numpy_mish), rtol=1e-4, atol=1e-5)
    assert len(network.trunk.layers) == 3  # two hidden sizes; with stem and three hidden sizes: five affine maps
    assert network.trunk.norms == ()


def test_gaussian_actor_is_orthogonal_relu_and_clamped() -> None:
    actor = jax.jit(GaussianActor, static_argnums=range(1, 5))(jax.random.key(0), 3, 2, (8, 8), 1.0)
    for layer in actor.network.layers:
        weight = np.asarray(layer.weight)
        gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)
        assert (layer.bias == 0).all()
    observation = jnp.array([0.3, -1.0, 2.0])
    law = jax.jit(actor.__call__)(observation)
    raw = by_hand(actor.network, np.asarray(observation, np.float64), lambda z: np.maximum(z, 0))
    np.testing.assert_allclose(np.concatenate([law.mean, law.log_std]), raw, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("raw", "clamped", "slope"), [(10.0, 2.0, 0), (-10.0, -5.0, 0), (0.5, 0.5, 1)])
def test_log_std_has_no_gradient_outside_its_range(raw: float, clamped: float, slope: float) -> None:
    actor = filled(GaussianActor, 3, 1, (8,), 1.0)
    actor = eqx.tree_at(lambda a: a.network.layers[-1].weight, actor, jnp.zeros((2, 8)))

    def log_std(bias: Array) -> Array:
        moved = eqx.tree_at(lambda a: a.network.layers[-1].bias, actor, jnp.stack([jnp.zeros(()), bias]))
        return moved(jnp.ones(3)).log_std[0]

    value, gradient = jax.value_and_grad(log_std)(jnp.asarray(raw))
    assert value == clamped
    assert gradient == slope


@pytest.mark.parametrize("max_action", [1.0, 0.4])
def test_log_likelihood_is_that_of_the_gaussian_before_tanh(max_action: float) -> None:
    """artanh(a / (max_action + 0.001)) under the Normal, without tanh's Jacobian, summed over coordinates."""
    mean, log_std = np.array([[0.2, -0.5], [0.0, 1.0]]), np.array([[-1.0, 0.5], [0.0, -0.3]])
    action = max_action * np.array([[0.9, -0.3], [1.0, -1.0]])
    law = TanhGaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32), max_action)
    z = np.arctanh(action / (max_action + 0.001))
    expected = scipy.stats.norm(mean, np.exp(log_std)).logpdf(z).sum(axis=1)
    np.testing.assert_allclose(law.log_likelihood(jnp.asarray(action, jnp.float32)), expected, rtol=1e-4)


def test_boundary_actions_map_to_a_finite_number() -> None:
    """artanh(1/1.001) = 3.8007: under N(3.8007, tiny) a boundary action is as likely as can be."""
    law = TanhGaussian(jnp.array([3.8007, -3.8007]), jnp.array([-5.0, -5.0]), 1.0)
    peak = 2 * (5.0 - 0.5 * math.log(2 * math.pi))
    assert law.log_likelihood(jnp.array([1.0, -1.0])) == pytest.approx(peak, abs=1e-3)


def test_samples_follow_the_law() -> None:
    """artanh of the samples is Normal(mean, std): Kolmogorov-Smirnov does not object."""
    actor = jax.tree.map(lambda leaf: 0.3 * leaf, filled(GaussianActor, 3, 2, (8,), 0.5))
    observation = jnp.array([0.1, -0.2, 0.3])
    law, actions = jax.jit(lambda x: (actor(x), actor.sample(x, jax.random.key(1), 2000)))(observation)
    assert actions.shape == (2000, 2)
    z = np.arctanh(np.asarray(actions, np.float64) / 0.5)
    standard = (z - np.asarray(law.mean)) / np.exp(np.asarray(law.log_std))
    for column in standard.T:
        assert scipy.stats.kstest(column, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(standard.T)[0, 1]) < 5 / math.sqrt(2000)  # pyright: ignore[reportIndexIssue]


def test_implicit_actor_feeds_noise_and_level_to_the_denoiser() -> None:
    actor = filled(ImplicitActor, 3, 2, (8,), 1.0, 4)
    observation, noise = jnp.array([0.1, -0.2, 0.3]), jnp.array([1.0, -2.0])
    expected = jax.jit(actor.network.__call__)(2.5 * noise, observation, jnp.asarray(2.5))
    np.testing.assert_allclose(jax.jit(actor.__call__)(observation, noise), expected, rtol=1e-6)
    samples = jax.jit(lambda x: actor.sample(x, jax.random.key(1), 7))(observation)
    assert samples.shape == (7, 2)
    assert len(np.unique(samples, axis=0)) == 7


@pytest.mark.parametrize("count", [2, 3])
def test_stacked_heads_are_the_same_ensemble(count):
    """As the training loop holds them: same values, same slopes of actions, and back without a change."""
    q = QEnsemble(jax.random.key(0), 3, 2, (8, 8), ensemble_size=count)
    value = DiffusionValueEnsemble(
        jax.random.key(1), 3, 2, (8, 8), ensemble_size=count, time_features=4, initialiser=torch_uniform
    )
    tree = {"q": q, "other": [value, jnp.ones(3)]}
    stacked = stack_heads(tree)
    assert isinstance(stacked["q"].heads, tuple) == (count == 2)
    for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(unstack_heads(stacked)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert jax.tree.structure(unstack_heads(stacked)) == jax.tree.structure(tree)

    observation, action = jnp.arange(3.0), jnp.asarray([0.3, -0.4])
    for function in (lambda t, a: t["q"](observation, a), lambda t, a: t["other"][0](observation, a, jnp.asarray(2))):
        np.testing.assert_allclose(function(stacked, action), function(tree, action), rtol=1e-5)
        slopes = [jax.jacobian(lambda a, t=t, f=function: f(t, a))(action) for t in (stacked, tree)]
        np.testing.assert_allclose(*slopes, rtol=1e-4, atol=1e-6)
    assert stacked["q"].first(observation, action) == pytest.approx(float(q.first(observation, action)), rel=1e-6)
    assert stacked["q"].least(observation, action) == pytest.approx(float(q(observation, action).min()), rel=1e-6)


def test_the_gradient_of_the_least_head_is_that_heads(getkey: Any) -> None:
    q = QEnsemble(getkey(), 3, 2, (8,), ensemble_size=4)
    observation = jnp.arange(3.0)
    least = set()
    for action in jax.random.normal(getkey(), (20, 2)):
        values, slopes = q(observation, action), jax.jacobian(lambda a: q(observation, a))(action)
        least.add(int(jnp.argmin(values)))
        value, slope = jax.value_and_grad(lambda a: q.least(observation, a))(action)
        np.testing.assert_allclose(value, values.min(), rtol=1e-6)
        np.testing.assert_allclose(slope, slopes[jnp.argmin(values)], rtol=1e-5, atol=1e-7)
    assert len(least) > 1

    same = eqx.tree_at(lambda q: q.heads, q, (q.heads[0],) * 4)  # a tie has the gradient of any of them, too
    np.testing.assert_allclose(
        jax.grad(same.least, argnums=1)(observation, action),  # pyright: ignore[reportPossiblyUnboundVariable]
        jax.grad(q.first, argnums=1)(observation, action),  # pyright: ignore[reportPossiblyUnboundVariable]
        rtol=1e-5,
    )
    broken = eqx.tree_at(lambda q: q.heads[1].layers[-1].bias, q, jnp.full(1, jnp.nan))  # shows, as with min
    assert jnp.isnan(broken.least(observation, action))  # pyright: ignore[reportPossiblyUnboundVariable]
