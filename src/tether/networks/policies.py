"""Policy networks: one observation in, a distribution or a sample of actions out."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.networks.denoiser import Denoiser
from tether.networks.layers import MLP, orthogonal
from tether.types import Array, Float, PRNGKey

__all__ = ["GaussianActor", "ImplicitActor", "TanhGaussian"]

LOG_STD_RANGE = (-5.0, 2.0)
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


class GaussianActor(eqx.Module):
    """Tanh-Gaussian policy: three ReLU layers, orthogonal(1) weights and zero biases throughout."""

    network: MLP
    max_action: float = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKey,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        max_action: float,
    ):
        sizes = observation_size, hidden_sizes, 2 * action_size
        self.network = MLP(key, *sizes, activation=jax.nn.relu, initialiser=orthogonal(1.0))
        self.max_action = max_action

    def __call__(self, observation: Float[Array, " observation"]) -> TanhGaussian:
        """log_std is clamped, so it has no gradient outside its range."""
        mean, log_std = jnp.split(self.network(observation), 2)
        return TanhGaussian(mean, jnp.clip(log_std, *LOG_STD_RANGE), self.max_action)

    def sample(
        self, observation: Float[Array, " observation"], key: PRNGKey, count: int
    ) -> Float[Array, "{count} action"]:
        """`count` independent actions; the network runs once."""
        law = self(observation)
        return jax.vmap(law.transform)(jax.random.normal(key, (count, law.mean.shape[0]), jnp.float32))


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
    ):
        self.network = Denoiser(key, observation_size, action_size, hidden_sizes, time_embedding_size)
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
