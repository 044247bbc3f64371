"""The noise predictor of discrete diffusion policies: eps(noisy action, observation, step n)."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.networks.denoiser import sinusoidal_embedding
from tether.networks.factories import Network, make_network
from tether.networks.layers import MLP, Initialiser, Layers, mish
from tether.types import Array, Float, Int, PRNGKey, Spec

__all__ = ["NoiseNetwork"]


class NoiseNetwork(eqx.Module):
    """Sinusoidal features of the integer step, a small MLP on them, then a Mish trunk on everything.

    The papers' codes list sines, cosines and inputs in other orders; with random weights that is a renaming.
    """

    time: MLP
    trunk: Layers
    time_features: int = eqx.field(static=True)
    activate_time: bool = eqx.field(static=True)
    action_size: int = eqx.field(static=True)
    max_action: float = eqx.field(static=True)  # of the actions it stands for; its output is noise, unbounded

    def __init__(
        self,
        key: PRNGKey,
        spec: Spec,
        hidden_sizes: Sequence[int],
        *,
        time_features: int,
        time_sizes: tuple[int, int],
        activate_time: bool,
        initialiser: Initialiser,
        network: Network = "mlp",
    ):
        """time_sizes: hidden and output width of the MLP on the time features.
        activate_time: Mish after its output, too (BDPO; DAC has none). network: of the trunk."""
        time_key, trunk_key = jax.random.split(key)
        how = {"activation": mish, "initialiser": initialiser}
        self.time = MLP(time_key, time_features, time_sizes[:1], time_sizes[1], **how)
        in_sizes = spec.action_size, spec.observation_size, time_sizes[1]
        self.trunk = make_network(network, trunk_key, in_sizes, hidden_sizes, spec.action_size, **how)
        self.time_features = time_features
        self.activate_time = activate_time
        self.action_size, self.max_action = spec.action_size, spec.max_action

    def __call__(
        self, noisy_action: Float[Array, " action"], observation: Float[Array, " observation"], step: Int[Array, ""]
    ) -> Float[Array, " action"]:
        time = self.time(sinusoidal_embedding(step.astype(jnp.float32), self.time_features))
        time = mish(time) if self.activate_time else time
        return self.trunk(jnp.concatenate([noisy_action, observation, time]))
