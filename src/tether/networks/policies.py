"""Policy networks: one observation in, a distribution or a sample of actions out."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.errors import InputError
from tether.networks.denoiser import Denoiser
from tether.networks.factories import Network, ResidualMLP, make_network
from tether.networks.layers import MLP, Initialiser, Layers, orthogonal
from tether.types import Array, Float, PRNGKey, Scalar

__all__ = ["DeterministicActor", "FreeGaussianActor", "GaussianActor", "ImplicitActor", "TanhGaussian"]

LOG_STD_RANGE = (-5.0, 2.0)
END = 1e-4  # of the box: within this of its end, float32 tells little of what tanh was taken of
IMPLICIT_NOISE_LEVEL = 2.5  # scale of the input noise and the time input alike, as in the authors' code


class TanhGaussian(eqx.Module):
    """Law of max_action tanh(z), z ~ N(mean, exp(log_std)^2); any leading axes."""

    mean: Float[Array, "*batch action"]
    log_std: Float[Array, "*batch action"]
    max_action: float = eqx.field(static=True)

    def transform(self, noise: Float[Array, "*draws action"]) -> Float[Array, "*draws action"]:
        """The action that standard normal `noise` stands for; differentiable in mean and log_std."""
        return self.max_action * jnp.tanh(self.mean + jnp.exp(self.log_std) * noise)

    def log_likelihood(self, action: Float[Array, "*batch action"]) -> Float[Array, "*batch"]:
        """log N(artanh(a / (max_action + 0.001)); mean, std), summed over coordinates.

        Without tanh's Jacobian, which does not depend on the parameters. The 0.001 keeps artanh finite at
        the bounds: with max_action 1 a boundary action maps to ±3.8007.
        """
        before_tanh = jnp.arctanh(action / (self.max_action + 0.001))
        return jax.scipy.stats.norm.logpdf(before_tanh, self.mean, jnp.exp(self.log_std)).sum(axis=-1)

    def mode(self) -> Float[Array, "*batch action"]:
        """The action of the mean before tanh: what is acted on where no noise is wanted."""
        return self.max_action * jnp.tanh(self.mean)

    def log_density_of_noise(self, noise: Float[Array, "*draws action"]) -> Float[Array, "*draws"]:
        """log density of the action `transform(noise)`, tanh's Jacobian included (SAC, arXiv 1812.05905, app. C)."""
        before_tanh = self.mean + jnp.exp(self.log_std) * noise
        normal = jax.scipy.stats.norm.logpdf(noise) - self.log_std
        return jnp.sum(normal - self._log_slope(before_tanh), axis=-1)

    def log_density(self, action: Float[Array, "*batch action"], margin: float = 1e-6) -> Float[Array, "*batch"]:
        """log density of a given action, Jacobian included; it is first moved to `margin` inside the unit box."""
        inside = jnp.clip(action / self.max_action, -1.0 + margin, 1.0 - margin)
        before_tanh = jnp.arctanh(inside)
        normal = jax.scipy.stats.norm.logpdf(before_tanh, self.mean, jnp.exp(self.log_std))
        return jnp.sum(normal - self._log_slope(before_tanh), axis=-1)

    def log_density_in_box(self, action: Float[Array, "*batch action"]) -> Float[Array, "*batch"]:
        """log density of an action as float32 holds it: a coordinate within `END` of the box's end, where tanh cannot
        be inverted, stands for all that lies there, and counts with the probability of that."""
        action = action / self.max_action
        inside = jnp.clip(action, -1.0 + END, 1.0 - END)
        before_tanh, std = 0.5 * (jnp.log1p(inside) - jnp.log1p(-inside)), jnp.exp(self.log_std)
        normal = jax.scipy.stats.norm.logpdf(before_tanh, self.mean, std)
        beyond = jax.scipy.special.ndtr((jnp.sign(action) * self.mean - jnp.abs(before_tanh)) / std)
        at_end = jnp.log(jnp.maximum(beyond, jnp.finfo(jnp.float32).tiny))
        return jnp.where(jnp.abs(action) < 1.0 - END, normal - self._log_slope(before_tanh), at_end).sum(axis=-1)

    def _log_slope(self, before_tanh: Float[Array, "*draws action"]) -> Float[Array, "*draws action"]:
        """log d(max_action tanh u)/du, without overflow."""
        stable = 2.0 * (jnp.log(2.0) - before_tanh - jax.nn.softplus(-2.0 * before_tanh))
        return stable + jnp.log(self.max_action)


class GaussianActor(eqx.Module):
    """Tanh-Gaussian policy: ReLU layers, by default with orthogonal(1) weights and zero biases throughout.

    `squashed_log_std`: log_std runs smoothly through its range by a tanh (BRAC), instead of being clamped to it.
    `mean_limit`: the mean before tanh is clamped to ± this (BEAR). `how`: of the MLP.
    """

    network: Layers
    max_action: float = eqx.field(static=True)
    log_std_range: tuple[float, float] = eqx.field(static=True)
    squashed_log_std: bool = eqx.field(static=True)
    mean_limit: float | None = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKey,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        max_action: float,
        *,
        initialiser: Initialiser | None = None,
        last_initialiser: Initialiser | None = None,
        log_std_range: tuple[float, float] = LOG_STD_RANGE,
        squashed_log_std: bool = False,
        mean_limit: float | None = None,
        network: Network = "mlp",
        **how: Any,
    ):
        sizes = (observation_size,), hidden_sizes, 2 * action_size
        how = {"activation": jax.nn.relu, "last_initialiser": last_initialiser} | how
        self.network = make_network(network, key, *sizes, initialiser=initialiser or orthogonal(1.0), **how)
        self.max_action = max_action
        self.log_std_range = log_std_range
        self.squashed_log_std = squashed_log_std
        self.mean_limit = mean_limit

    def __call__(self, observation: Float[Array, " observation"]) -> TanhGaussian:
        """A clamped log_std has no gradient outside its range."""
        mean, log_std = jnp.split(self.network(observation), 2)
        if self.mean_limit is not None:
            mean = jnp.clip(mean, -self.mean_limit, self.mean_limit)
        low, high = self.log_std_range
        if self.squashed_log_std:
            log_std = low + 0.5 * (high - low) * (jnp.tanh(log_std) + 1.0)
        return TanhGaussian(mean, jnp.clip(log_std, low, high), self.max_action)

    def mode(self, observation: Float[Array, " observation"]) -> Float[Array, " action"]:
        """The action without noise."""
        return self(observation).mode()

    def sample(
        self, observation: Float[Array, " observation"], key: PRNGKey, count: int
    ) -> Float[Array, "{count} action"]:
        """`count` independent actions; the network runs once."""
        law = self(observation)
        return jax.vmap(law.transform)(jax.random.normal(key, (count, law.mean.shape[0]), jnp.float32))

    def sample_with_log_density(
        self, observation: Float[Array, " observation"], key: PRNGKey
    ) -> tuple[Float[Array, " action"], Scalar]:
        """The action of `sample` and its log density."""
        law = self(observation)
        noise = jax.random.normal(key, (1, law.mean.shape[0]), jnp.float32)[0]
        action = law.transform(noise)
        return action, law.log_density_in_box(action)

    def log_density_of(self, observation: Float[Array, " observation"], action: Float[Array, " action"]) -> Scalar:
        """log density of an action that `sample` may give (`TanhGaussian.log_density_in_box`)."""
        return self(observation).log_density_in_box(action)


class DeterministicActor(eqx.Module):
    """a = max_action tanh(MLP(s)), ReLU."""

    network: Layers
    max_action: float = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKey,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        max_action: float,
        *,
        network: Network = "mlp",
        **how: Any,  # of the MLP
    ):
        sizes = (observation_size,), hidden_sizes, action_size
        self.network = make_network(network, key, *sizes, activation=jax.nn.relu, **how)
        self.max_action = max_action

    def __call__(self, observation: Float[Array, " observation"]) -> Float[Array, " action"]:
        return self.max_action * jnp.tanh(self.network(observation))

    def mode(self, observation: Float[Array, " observation"]) -> Float[Array, " action"]:
        """The action."""
        return self(observation)


class FreeGaussianActor(eqx.Module):
    """Normal policy whose standard deviation is a free vector, the same in every state (IQL, AWAC).

    The density is that of a plain normal, without a correction for squashing: only the mean may be squashed.
    Dropout acts where a density is asked for with a key: in the loss.
    """

    network: Layers
    log_std: Float[Array, " action"]
    max_action: float = eqx.field(static=True)
    squashed_mean: bool = eqx.field(static=True)
    log_std_range: tuple[float, float] = eqx.field(static=True)
    dropout_rate: float = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKey,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        max_action: float,
        *,
        initialiser: Initialiser,
        squashed_mean: bool = True,
        log_std_range: tuple[float, float] = LOG_STD_RANGE,
        dropout_rate: float = 0.0,
        network: Network = "mlp",
    ):
        """Raises InputError for dropout with somebody's own network, which takes its input alone."""
        sizes = (observation_size,), hidden_sizes, action_size
        self.network = make_network(network, key, *sizes, activation=jax.nn.relu, initialiser=initialiser)
        if dropout_rate and not isinstance(self.network, MLP | ResidualMLP):
            raise InputError(f"actor_dropout {dropout_rate}: the actor's network {network!r} has none; set it to 0")
        self.log_std = jnp.zeros(action_size, jnp.float32)
        self.max_action = max_action
        self.squashed_mean = squashed_mean
        self.log_std_range = log_std_range
        self.dropout_rate = dropout_rate

    def mode(
        self, observation: Float[Array, " observation"], dropout_key: PRNGKey | None = None
    ) -> Float[Array, " action"]:
        """The mean; beyond the action box only where it is not squashed."""
        dropout = (self.dropout_rate, dropout_key) if self.dropout_rate else ()
        out = self.network(observation, *dropout)
        return self.max_action * jnp.tanh(out) if self.squashed_mean else out

    def log_density(
        self,
        observation: Float[Array, " observation"],
        action: Float[Array, " action"],
        dropout_key: PRNGKey | None = None,
    ) -> Scalar:
        """log N(a; mean(s), std^2), summed over coordinates."""
        return self.log_density_around(self.mode(observation, dropout_key), action)

    def log_density_around(self, mean: Float[Array, " action"], action: Float[Array, " action"]) -> Scalar:
        """The same where the mean is known."""
        return jax.scipy.stats.norm.logpdf(action, mean, jnp.exp(self._log_std())).sum()

    def sample(
        self, observation: Float[Array, " observation"], key: PRNGKey, count: int
    ) -> Float[Array, "{count} action"]:
        """`count` independent actions, clipped to the action box; the network runs once."""
        return self.sample_around(self.mode(observation), key, count)

    def sample_around(self, mean: Float[Array, " action"], key: PRNGKey, count: int) -> Float[Array, "{count} action"]:
        """The same where the mean is known."""
        noise, std = jax.random.normal(key, (count, *mean.shape), jnp.float32), jnp.exp(self._log_std())
        return jax.vmap(lambda n: jnp.clip(mean + std * n, -self.max_action, self.max_action))(noise)

    def sample_with_log_density(
        self, observation: Float[Array, " observation"], key: PRNGKey
    ) -> tuple[Float[Array, " action"], Scalar]:
        """The action of `sample` and its log density."""
        mean = self.mode(observation)
        action = self.sample_around(mean, key, 1)[0]
        return action, self._log_density_in_box(mean, action)

    def log_density_of(self, observation: Float[Array, " observation"], action: Float[Array, " action"]) -> Scalar:
        """log density of an action that `sample` may give: a coordinate at an end of the box stands for all that is
        clipped to it, and counts with the probability of that."""
        return self._log_density_in_box(self.mode(observation), action)

    def _log_density_in_box(self, mean: Float[Array, " action"], action: Float[Array, " action"]) -> Scalar:
        std, end = jnp.exp(self._log_std()), self.max_action
        inside = jax.scipy.stats.norm.logpdf(action, mean, std)
        beyond = jax.scipy.special.ndtr(-(end - jnp.sign(action) * mean) / std)
        clipped = jnp.log(jnp.maximum(beyond, jnp.finfo(jnp.float32).tiny))
        return jnp.where(jnp.abs(action) < end, inside, clipped).sum()

    def _log_std(self) -> Float[Array, " action"]:
        return jnp.clip(self.log_std, *self.log_std_range)


class ImplicitActor(eqx.Module):
    """a = F(2.5 noise, s, 2.5): the denoiser's architecture, its raw output is the action, unbounded."""

    network: Denoiser
    action_size: int = eqx.field(static=True)
    max_action: float = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKey,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        max_action: float,
        time_embedding_size: int,
        *,
        network: Network = "mlp",
    ):
        sizes = observation_size, action_size, hidden_sizes, time_embedding_size
        self.network = Denoiser(key, *sizes, network=network)
        self.action_size = action_size
        self.max_action = max_action

    def __call__(
        self, observation: Float[Array, " observation"], noise: Float[Array, " action"]
    ) -> Float[Array, " action"]:
        """The action that standard normal `noise` stands for."""
        level = jnp.asarray(IMPLICIT_NOISE_LEVEL, jnp.float32)
        return self.network(IMPLICIT_NOISE_LEVEL * noise, observation, level)

    def sample(
        self, observation: Float[Array, " observation"], key: PRNGKey, count: int
    ) -> Float[Array, "{count} action"]:
        """`count` independent actions, one network evaluation each."""
        noise = jax.random.normal(key, (count, self.action_size), jnp.float32)
        return jax.vmap(self, in_axes=(None, 0))(observation, noise)
