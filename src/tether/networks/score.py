"""The networks of SfBC (arXiv 2209.14548) and QGPO (arXiv 2304.12824): a U-shaped noise predictor, and the energy that
tilts it."""

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from tether.errors import InputError
from tether.networks.denoiser import fixed_frequencies, fourier_embedding
from tether.networks.layers import MLP, Linear, torch_uniform
from tether.types import Array, Float, PRNGKey, Scalar, Spec

__all__ = ["EnergyNetwork", "ScoreNetwork"]

TIME_FEATURES, FREQUENCY_SCALE = 32, 30.0
STATE_FEATURES = 32


class TimeFeatures(eqx.Module):
    """Fixed Fourier features of the time and an affine map of them."""

    out: Linear

    def __init__(self, key: PRNGKey):
        self.out = Linear(key, TIME_FEATURES, TIME_FEATURES, torch_uniform)

    def __call__(self, time: Scalar) -> Float[Array, " features"]:
        frequencies = jnp.asarray(fixed_frequencies(TIME_FEATURES // 2, FREQUENCY_SCALE))
        return self.out(fourier_embedding(time, frequencies))


class Block(eqx.Module):
    """h = SiLU(Dense x) + Dense(SiLU c);  SiLU(Dense h) + x, where widths differ an affine map of x."""

    into: Linear
    condition: Linear
    out: Linear
    shortcut: Linear | None

    def __init__(self, key: PRNGKey, in_size: int, width: int, condition_size: int):
        in_key, condition_key, out_key, shortcut_key = jax.random.split(key, 4)
        self.into = Linear(in_key, in_size, width, torch_uniform)
        self.condition = Linear(condition_key, condition_size, width, torch_uniform)
        self.out = Linear(out_key, width, width, torch_uniform)
        self.shortcut = None if in_size == width else Linear(shortcut_key, in_size, width, torch_uniform)

    def __call__(self, x: Float[Array, " in"], condition: Float[Array, " condition"]) -> Float[Array, " width"]:
        hidden = jax.nn.silu(self.into(x)) + self.condition(jax.nn.silu(condition))
        return jax.nn.silu(self.out(hidden)) + (x if self.shortcut is None else self.shortcut(x))


class ScoreNetwork(eqx.Module):
    """eps(a_t, observation, t): residual blocks down to a narrow middle and up again, with skip connections.

    Observation and time enter every block through one small network. The published network is divided by sigma_t to be
    a score; its noise prediction is then its raw output with the sign changed, and random weights have no sign.
    """

    observation: Linear
    time: TimeFeatures
    condition: MLP
    down: tuple[Block, ...]  # the widths, widest first
    middle: Block
    up: tuple[Block, ...]  # narrowest first: each sees the block below it and its equal on the way down
    last: Linear
    action_size: int = eqx.field(static=True)
    max_action: float = eqx.field(static=True)  # of the actions it stands for; its output is noise, unbounded

    def __init__(self, key: PRNGKey, spec: Spec, widths: Sequence[int] = (512, 256, 128)):
        """widths: on the way down, each half of the one before; the last is the condition's, too.

        Raises InputError for other widths: on the way up, two joined blocks must be as wide as the next.
        """
        if len(widths) < 2 or any(wide != 2 * narrow for wide, narrow in itertools.pairwise(widths)):
            raise InputError(f"score network widths {tuple(widths)}: two or more, each half of the one before")
        observation_key, time_key, condition_key, middle_key, last_key, key = jax.random.split(key, 6)
        down_key, up_key = jax.random.split(key)
        narrow = widths[-1]
        self.observation = Linear(observation_key, spec.observation_size, STATE_FEATURES, torch_uniform)
        self.time = TimeFeatures(time_key)
        sizes = STATE_FEATURES + TIME_FEATURES, (narrow,), narrow
        self.condition = MLP(condition_key, *sizes, activation=jax.nn.silu)
        down_keys, up_keys = jax.random.split(down_key, len(widths)), jax.random.split(up_key, len(widths) - 1)
        ins = (spec.action_size, *widths[:-1])
        self.down = tuple(Block(k, i, w, narrow) for k, i, w in zip(down_keys, ins, widths, strict=True))
        self.middle = Block(middle_key, narrow, narrow, narrow)
        self.up = tuple(Block(k, w, w, narrow) for k, w in zip(up_keys, reversed(widths[:-1]), strict=True))
        self.last = Linear(last_key, 2 * widths[0], spec.action_size, torch_uniform)
        self.action_size, self.max_action = spec.action_size, spec.max_action

    def __call__(
        self, noisy_action: Float[Array, " action"], observation: Float[Array, " observation"], time: Scalar
    ) -> Float[Array, " action"]:
        features = jnp.concatenate([jax.nn.silu(self.observation(observation)), self.time(time)])
        condition = self.condition(features)
        x, skips = noisy_action, []
        for block in self.down:
            x = block(x, condition)
            skips.append(x)
        x = self.middle(x, condition)
        for block in self.up:
            x = block(jnp.concatenate([skips.pop(), x]), condition)
        return self.last(jnp.concatenate([skips.pop(), x]))


class EnergyNetwork(eqx.Module):
    """q(a_t, observation, t): how much more likely than the behaviour's the noised action shall be, as a logarithm.

    It is defined up to a constant, so there is no last bias (the published one has a gradient of rounding errors only).
    """

    time: TimeFeatures
    network: MLP
    last: Float[Array, " hidden"]

    def __init__(self, key: PRNGKey, spec: Spec, hidden_sizes: Sequence[int]):
        time_key, network_key, last_key = jax.random.split(key, 3)
        self.time = TimeFeatures(time_key)
        in_size = spec.action_size + TIME_FEATURES + spec.observation_size
        self.network = MLP(network_key, in_size, hidden_sizes[:-1], hidden_sizes[-1], activation=jax.nn.silu)
        self.last = torch_uniform(last_key, hidden_sizes[-1], 1)[0][0]

    def __call__(
        self, noisy_action: Float[Array, " action"], observation: Float[Array, " observation"], time: Scalar
    ) -> Scalar:
        features = jnp.concatenate([noisy_action, self.time(time), observation])
        return jnp.dot(jax.nn.silu(self.network(features)), self.last)
