"""Acting with a discrete diffusion model: sample candidates, keep the best by Q. Shared by DAC and BDPO."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.diffusion import vp
from tether.networks import NoiseNetwork, QEnsemble
from tether.selection import best_by_mean_q
from tether.types import Array, Float, PRNGKey

__all__ = ["DiffusionPolicy", "ancestral_sampler"]


def ancestral_sampler(
    diffusion_steps: int, clip_denoised: bool
) -> Callable[[NoiseNetwork, Float[Array, " observation"], PRNGKey], Float[Array, " action"]]:
    """(actor, observation, key) -> one action by the full stochastic chain."""
    schedule = vp.vp_schedule(diffusion_steps)

    def draw(actor: NoiseNetwork, observation: Array, key: PRNGKey) -> Array:
        bound = actor.max_action if clip_denoised else None
        return vp.sample(schedule, actor, observation, key, actor.action_size, bound)

    return draw


class DiffusionPolicy(eqx.Module):
    """The best of `candidates` samples by the mean over the heads of `critic`."""

    actor: NoiseNetwork
    critic: QEnsemble
    candidates: int = eqx.field(static=True)
    diffusion_steps: int = eqx.field(static=True)
    clip_denoised: bool = eqx.field(static=True)

    def __call__(self, observation: Float[Array, " observation"], key: PRNGKey) -> Float[Array, " action"]:
        draw = ancestral_sampler(self.diffusion_steps, self.clip_denoised)
        keys = jax.random.split(key, self.candidates)
        actions = jax.vmap(draw, in_axes=(None, None, 0))(self.actor, observation, keys)
        actions = jnp.clip(actions, -self.actor.max_action, self.actor.max_action)
        return best_by_mean_q(self.critic, observation, actions)
