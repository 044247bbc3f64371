"""Normal policies whose mean lies in the action box: plain, or truncated to the box (Onestep RL)."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.networks.factories import Network, make_network
from tether.networks.layers import Initialiser, Layers, torch_uniform
from tether.types import Array, Float, PRNGKey, Scalar

__all__ = ["BoxGaussian", "BoxGaussianActor"]

LOG_STD_RANGE = (-5.0, 0.0)


class BoxGaussian(eqx.Module):
    """Law of max_action x, x ~ N(mean, std^2), if `truncated` given that |x| <= 1; any leading axes.

    As the mean lies in the box, at least 0.47 of the normal's mass does (std <= 1): nothing underflows.
    """

    mean: Float[Array, "*batch action"]  # in [-1, 1]
    std: Float[Array, "*batch action"]
    max_action: float = eqx.field(static=True)
    truncated: bool = eqx.field(static=True)

    def transform(self, uniform: Float[Array, "*batch action"]) -> Float[Array, "*batch action"]:
        """The action that `uniform` noise in [0, 1) stands for, by inverting the distribution function."""
        if self.truncated:
            low, _, mass = self._truncation()
            uniform = low + uniform * mass
        standard = jax.scipy.special.ndtri(jnp.clip(uniform, 1e-7, 1.0 - 1e-7))  # finite in float32
        x = self.mean + self.std * standard
        return self.max_action * (jnp.clip(x, -1.0, 1.0) if self.truncated else x)

    def log_density(self, action: Float[Array, "*batch action"]) -> Float[Array, "*batch"]:
        """log density, summed over coordinates; for the truncated law that of actions in the box."""
        log_density = jax.scipy.stats.norm.logpdf(action / self.max_action, self.mean, self.std)
        if self.truncated:
            log_density = log_density - jnp.log(self._truncation()[2])
        return jnp.sum(log_density - jnp.log(self.max_action), axis=-1)

    def expectation(self) -> Float[Array, "*batch action"]:
        """The mean of the law; truncation moves it towards 0."""
        if not self.truncated:
            return self.max_action * self.mean
        low, high = (-1.0 - self.mean) / self.std, (1.0 - self.mean) / self.std
        slope = (jax.scipy.stats.norm.pdf(low) - jax.scipy.stats.norm.pdf(high)) / self._truncation()[2]
        return self.max_action * (self.mean + self.std * slope)

    def _truncation(self) -> tuple[Array, Array, Array]:
        """The normal's distribution function at both ends of the box, and the mass between them."""
        low, high = (jax.scipy.special.ndtr((end - self.mean) / self.std) for end in (-1.0, 1.0))
        return low, high, high - low


class BoxGaussianActor(eqx.Module):
    """ReLU layers; mean and log_std run smoothly through [-1, 1] and [-5, 0] by a tanh."""

    network: Layers
    max_action: float = eqx.field(static=True)
    truncated: bool = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKey,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        max_action: float,
        *,
        truncated: bool,
        initialiser: Initialiser = torch_uniform,
        network: Network = "mlp",
    ):
        sizes = (observation_size,), hidden_sizes, 2 * action_size
        self.network = make_network(network, key, *sizes, activation=jax.nn.relu, initialiser=initialiser)
        self.max_action = max_action
        self.truncated = truncated

    def __call__(self, observation: Float[Array, " observation"]) -> BoxGaussian:
        mean, log_std = jnp.split(jnp.tanh(self.network(observation)), 2)
        low, high = LOG_STD_RANGE
        std = jnp.exp(low + 0.5 * (high - low) * (log_std + 1.0))
        return BoxGaussian(mean, std, self.max_action, self.truncated)

    def mode(self, observation: Float[Array, " observation"]) -> Float[Array, " action"]:
        """The mean of the law: what is acted on where no noise is wanted."""
        return self(observation).expectation()

    def sample(
        self, observation: Float[Array, " observation"], key: PRNGKey, count: int
    ) -> Float[Array, "{count} action"]:
        """`count` independent actions, clipped to the action box; the network runs once."""
        law = self(observation)
        actions = jax.vmap(law.transform)(jax.random.uniform(key, (count, law.mean.shape[0]), jnp.float32))
        return jnp.clip(actions, -self.max_action, self.max_action)

    def sample_with_log_density(
        self, observation: Float[Array, " observation"], key: PRNGKey
    ) -> tuple[Float[Array, " action"], Scalar]:
        """The action of `sample` and its log density."""
        action = self.sample(observation, key, 1)[0]
        return action, self.log_density_of(observation, action)

    def log_density_of(self, observation: Float[Array, " observation"], action: Float[Array, " action"]) -> Scalar:
        """log density of an action, before it is clipped where the law is not truncated to the box."""
        return self(observation).log_density(action)
