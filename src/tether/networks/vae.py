"""The conditional variational auto-encoder of actions that BCQ and BEAR sample behaviour from."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.networks.layers import MLP
from tether.types import Array, Float, PRNGKey, Scalar, Spec

__all__ = ["ActionVAE", "vae_loss"]

LOG_STD_RANGE = (-4.0, 15.0)
LATENT_LIMIT = 0.5  # behaviour is decoded from latents clipped to ±this, nearer to the data than the prior


class ActionVAE(eqx.Module):
    """Encoder (s, a) -> latent of twice the action's size; decoder (s, latent) -> max_action tanh."""

    encoder: MLP
    decoder: MLP
    action_size: int = eqx.field(static=True)
    max_action: float = eqx.field(static=True)

    def __init__(self, key: PRNGKey, spec: Spec, hidden_sizes: Sequence[int]):
        encoder_key, decoder_key = jax.random.split(key)
        latent, both = 2 * spec.action_size, spec.observation_size + spec.action_size
        self.encoder = MLP(encoder_key, both, hidden_sizes, 2 * latent, activation=jax.nn.relu)
        in_size = spec.observation_size + latent
        self.decoder = MLP(decoder_key, in_size, hidden_sizes, spec.action_size, activation=jax.nn.relu)
        self.action_size, self.max_action = spec.action_size, spec.max_action

    def encode(
        self, observation: Float[Array, " observation"], action: Float[Array, " action"]
    ) -> tuple[Float[Array, " latent"], Float[Array, " latent"]]:
        """(mean, log standard deviation) of the latent."""
        mean, log_std = jnp.split(self.encoder(jnp.concatenate([observation, action])), 2)
        return mean, jnp.clip(log_std, *LOG_STD_RANGE)

    def before_tanh(
        self, observation: Float[Array, " observation"], latent: Float[Array, " latent"]
    ) -> Float[Array, " action"]:
        """The decoded action before its tanh, where BEAR compares actions."""
        return self.decoder(jnp.concatenate([observation, latent]))

    def decode(
        self, observation: Float[Array, " observation"], latent: Float[Array, " latent"]
    ) -> Float[Array, " action"]:
        """The decoded action."""
        return self.max_action * jnp.tanh(self.before_tanh(observation, latent))

    def draw_latents(self, key: PRNGKey, count: int) -> Float[Array, "{count} latent"]:
        """Clipped normal latents to decode behaviour from."""
        draw = jax.random.normal(key, (count, 2 * self.action_size), jnp.float32)
        return jnp.clip(draw, -LATENT_LIMIT, LATENT_LIMIT)


def vae_loss(
    vae: ActionVAE, observation: Float[Array, "batch observation"], action: Float[Array, "batch action"], key: PRNGKey
) -> Scalar:
    """mean (decoded - a)^2 + 1/2 mean KL, both means over batch *and* coordinates.

    So the KL weighs less than in a textbook's bound, as in BCQ's code.
    """
    mean, log_std = jax.vmap(vae.encode)(observation, action)
    latent = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)
    decoded = jax.vmap(vae.decode)(observation, latent)
    kl = -0.5 * jnp.mean(1.0 + 2.0 * log_std - mean**2 - jnp.exp(2.0 * log_std))
    return jnp.mean((decoded - action) ** 2) + 0.5 * kl
