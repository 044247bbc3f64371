"""What the policies with a diffusion model or a flow share: the model as a sampler of actions."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.diffusion import vp, vp_sde
from tether.diffusion.flow import euler_flow
from tether.networks import NoiseNetwork, VelocityNetwork
from tether.types import Array, Float, PRNGKey

__all__ = ["Draw", "FlowSampler", "NoiseSampler", "SDESampler", "ancestral_sampler"]


Draw = Callable[[NoiseNetwork, Array, PRNGKey], Array]
"""(actor, observation [observation], key) -> one action [action]."""


def ancestral_sampler(schedule: vp.VP, clip_denoised: bool) -> Draw:
    """One action by the full stochastic chain."""

    def draw(actor: NoiseNetwork, observation: Array, key: PRNGKey) -> Array:
        bound = actor.max_action if clip_denoised else None
        return vp.sample(schedule, actor, observation, key, actor.action_size, bound)

    return draw


class NoiseSampler(eqx.Module):
    """A noise network as a sampler of actions, for the policies of `tether.policies.acting`."""

    network: NoiseNetwork
    diffusion_steps: int = eqx.field(static=True)
    clip_denoised: bool = eqx.field(static=True, default=True)
    variance: vp.Variance = eqx.field(static=True, default="beta")
    schedule: Literal["vp", "linear"] = eqx.field(static=True, default="vp")

    @property
    def max_action(self) -> float:
        """The bound of each coordinate of an action."""
        return self.network.max_action

    def sample(
        self, observation: Float[Array, " observation"], key: PRNGKey, count: int
    ) -> Float[Array, "{count} action"]:
        """`count` independent chains."""
        make = vp.vp_schedule if self.schedule == "vp" else vp.linear_schedule
        draw = ancestral_sampler(make(self.diffusion_steps, variance=self.variance), self.clip_denoised)
        return jax.vmap(draw, in_axes=(None, None, 0))(self.network, observation, jax.random.split(key, count))


class FlowSampler(eqx.Module):
    """A velocity network as a sampler of actions."""

    network: VelocityNetwork
    flow_steps: int = eqx.field(static=True)

    @property
    def max_action(self) -> float:
        """Of the actions it draws."""
        return self.network.max_action

    def sample(
        self, observation: Float[Array, " observation"], key: PRNGKey, count: int
    ) -> Float[Array, "{count} action"]:
        """`count` independent Euler flows."""
        noise = jax.random.normal(key, (count, self.network.action_size), jnp.float32)
        bound = self.network.max_action
        return jax.vmap(lambda z: euler_flow(self.network, z, observation, self.flow_steps, bound))(noise)


class SDESampler(eqx.Module):
    """A noise predictor in continuous time as a sampler of actions. They can leave the action box, as published."""

    network: Any  # a `vp_sde.Predictor` that knows its action_size and max_action
    calls: int = eqx.field(static=True)  # of the network, per action
    order: Literal[2, 3] = eqx.field(static=True)  # of the solver

    @property
    def max_action(self) -> float:
        """The bound of each coordinate of an action."""
        return self.network.max_action

    def sample(
        self, observation: Float[Array, " observation"], key: PRNGKey, count: int
    ) -> Float[Array, "{count} action"]:
        """`count` independent flows from noise."""
        starts = jax.random.normal(key, (count, self.network.action_size), jnp.float32)
        solve = jax.vmap(lambda start: vp_sde.dpm_solver(self.network, start, observation, self.calls, self.order))
        return solve(starts)
