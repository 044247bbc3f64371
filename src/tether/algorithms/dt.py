"""DT: Decision Transformer, actions predicted from the return to reach (Chen et al. 2021, arXiv 2106.01345).

A step t of an episode is three tokens, R_t (the return still to come), s_t and a_t, embedded in the same width, each
with the embedding of t added. A causal transformer reads the last K steps:

    training   E[ (a^(.., R_t, s_t) - a_t)^2 ],  windows of K steps of the data, their own R_t = sum_{i>=t} r_i
    acting     R_0 = the return asked for, R_{t+1} = R_t - r_t,  a_t = a^(the last K steps)

Deviations. From the authors' code:
  1. Windows that an episode's end cuts short are padded on the right, theirs on the left. Attention is causal and the
     loss reads no padding, so predictions are the same; no token needs a mask.
  2. Only the action is predicted; their heads for return and state take no part in the loss either.
  3. One target return for each lane (sweep it for several); they report two.
  4. A step later than `episode_length` has the embedding of the last one.
  5. All episodes are trained on; theirs never draws the one of the least return.
The blocks' MLP has ReLU, as their experiments (CORL's has GELU).
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Hyperparameter, Phase, acting_field
from tether.algorithms.ranges import Count, Depth, FractionBelowOne, NonNegative, Positive, Updates, check_ranges
from tether.algorithms.shared.optimisers import adam_init, adamw_step, clip_by_global_norm
from tether.errors import InputError
from tether.networks import CausalTransformer, Dropout, Linear, dropout, torch_uniform
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Windows

__all__ = ["DT", "DTMemory", "DTPolicy", "DTState", "SequenceModel", "cloning_loss"]


class SequenceModel(eqx.Module):
    """(returns, observations, actions, times) of successive steps -> the action predicted at each of them."""

    embed_return: Linear
    embed_observation: Linear
    embed_action: Linear
    embed_time: Float[Array, "times width"]
    norm: eqx.nn.LayerNorm
    transformer: CausalTransformer
    head: Linear
    max_action: float = eqx.field(static=True)

    def __init__(self, key: PRNGKey, spec: Spec, width: int, block_count: int, heads: int, episode_length: int):
        keys = jax.random.split(key, 6)
        self.embed_return = Linear(keys[0], 1, width, torch_uniform)
        self.embed_observation = Linear(keys[1], spec.observation_size, width, torch_uniform)
        self.embed_action = Linear(keys[2], spec.action_size, width, torch_uniform)
        self.embed_time = jax.random.normal(keys[3], (episode_length, width), jnp.float32)
        self.norm = eqx.nn.LayerNorm(width, dtype=jnp.float32)
        self.transformer = CausalTransformer(keys[4], width, block_count, heads)
        self.head = Linear(keys[5], width, spec.action_size, torch_uniform)
        self.max_action = spec.max_action

    def __call__(
        self,
        return_to_go: Float[Array, " steps"],
        observation: Float[Array, "steps observation"],
        action: Float[Array, "steps action"],
        timestep: Int[Array, " steps"],
        how: Dropout | None = None,
    ) -> Float[Array, "steps action"]:
        """Action t is predicted from the tokens up to s_t: `action[t]` and all that follows have no part in it."""
        embedding_how, blocks_how = (None, None) if how is None else how.split(2)
        time = self.embed_time[jnp.minimum(timestep, self.embed_time.shape[0] - 1)]
        tokens = jnp.stack(
            [
                jax.vmap(self.embed_return)(return_to_go[:, None]) + time,
                jax.vmap(self.embed_observation)(observation) + time,
                jax.vmap(self.embed_action)(action) + time,
            ],
            axis=1,
        )
        steps, _, width = tokens.shape
        embedded = dropout(jax.vmap(self.norm)(tokens.reshape(3 * steps, width)), embedding_how)
        seen = self.transformer(embedded, blocks_how, slice(1, None, 3))  # a return, a state, an action, a return, ...
        return self.max_action * jnp.tanh(jax.vmap(self.head)(seen))


class DTState(NamedTuple):
    """Everything that training carries; array leaves only."""

    model: SequenceModel
    optimiser: optax.OptState


class DTMemory(NamedTuple):
    """What a policy knows of its episode: the last K steps, the oldest first. Entries not yet reached are zeros."""

    return_to_go: Float[Array, " steps"]  # divided by the return scale
    observation: Float[Array, "steps observation"]
    action: Float[Array, "steps action"]  # that of the current step is not decided yet: zeros
    step: Int[Array, ""]  # of the episode, the next one to act in
    asked: Float[Array, ""]  # R of the last step, or of the first before there was one; scaled


class DTPolicy(eqx.Module):
    """Reaches for `target_return`; without noise. It remembers: see `PolicyWithMemory`."""

    model: SequenceModel
    target_return: Float[Array, ""]
    return_scale: Float[Array, ""]
    context_length: int = eqx.field(static=True)
    observation_size: int = eqx.field(static=True)
    action_size: int = eqx.field(static=True)

    def initial_memory(self) -> DTMemory:
        """At an episode's start."""
        steps = self.context_length
        return DTMemory(
            jnp.zeros(steps, jnp.float32),
            jnp.zeros((steps, self.observation_size), jnp.float32),
            jnp.zeros((steps, self.action_size), jnp.float32),
            jnp.zeros((), jnp.int32),
            self.target_return / self.return_scale,
        )

    def __call__(
        self, observation: Float[Array, " observation"], key: PRNGKey, memory: DTMemory, reward: Scalar
    ) -> tuple[Float[Array, " action"], DTMemory]:
        """The action for one observation and the memory to act with next; `reward` of the last action, 0 at first."""
        last = self.context_length - 1
        asked = memory.asked - reward / self.return_scale
        full = memory.step > last
        now = jnp.minimum(memory.step, last)

        def make_room(history: Array) -> Array:
            return jnp.where(full, jnp.roll(history, -1, axis=0), history)

        returns = make_room(memory.return_to_go).at[now].set(asked)
        observations = make_room(memory.observation).at[now].set(observation)
        actions = make_room(memory.action).at[now].set(0.0)
        times = jnp.maximum(memory.step - last, 0) + jnp.arange(self.context_length, dtype=jnp.int32)
        action = self.model(returns, observations, actions, times)[now]
        return action, DTMemory(returns, observations, actions.at[now].set(action), memory.step + 1, asked)

    def corrected(self, memory: DTMemory, action: Float[Array, " action"]) -> DTMemory:
        """The memory had `action` been taken in the last step."""
        last = jnp.minimum(memory.step, self.context_length) - 1
        return memory._replace(action=memory.action.at[last].set(action))


def cloning_loss(model: SequenceModel, batch: Windows, return_scale: Hyperparameter, how: Dropout | None) -> Scalar:
    """Mean of (a^ - a)^2 over the coordinates of the steps that are real."""
    returns = batch.return_to_go / return_scale
    if how is None:
        predicted = jax.vmap(model)(returns, batch.observation, batch.action, batch.timestep)
    else:
        keys = jax.random.split(how.key, len(returns))
        predicted = jax.vmap(lambda r, s, a, t, k: model(r, s, a, t, Dropout(how.rate, k)))(
            returns, batch.observation, batch.action, batch.timestep, keys
        )
    errors = jnp.mean((predicted - batch.action) ** 2, axis=2)
    return jnp.sum(errors * batch.valid) / jnp.sum(batch.valid)


class DT(eqx.Module):
    """Hyper-parameters of the Decision Transformer; the defaults are the authors' for hopper."""

    view: ClassVar[str] = "trajectories"

    target_return: Hyperparameter = acting_field(3600.0, static=False)  # asked for when acting, in raw rewards
    return_scale: Positive = 1000.0  # what returns are divided by before they are embedded
    learning_rate: NonNegative = 1e-4  # AdamW
    weight_decay: NonNegative = 1e-4  # AdamW
    gradient_norm: Positive = 0.25  # gradients are clipped to it, all as one
    dropout: FractionBelowOne = 0.1

    context_length: Count = eqx.field(static=True, default=20)  # K: steps that are seen
    episode_length: Count = eqx.field(static=True, default=1000)  # steps that have an embedding of their own
    width: Count = eqx.field(static=True, default=128)
    block_count: Depth = eqx.field(static=True, default=3)
    heads: Count = eqx.field(static=True, default=1)
    warmup_updates: Updates = eqx.field(static=True, default=10_000)  # over which the learning rate rises, linearly
    train_updates: Updates = eqx.field(static=True, default=100_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> DTState:
        """Fresh networks. Raises InputError for a width that the heads do not divide."""
        if self.width % self.heads:
            raise InputError(f"width {self.width}: must be a multiple of heads {self.heads}")
        model = SequenceModel(key, spec, self.width, self.block_count, self.heads, self.episode_length)
        return DTState(model, adam_init(model))

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update),)

    def update(self, state: DTState, batch: Windows, key: PRNGKey, step: Int[Array, ""]) -> tuple[DTState, Metrics]:
        """One step of AdamW on the data's windows."""
        how = Dropout(self.dropout, key)
        loss, gradients = eqx.filter_value_and_grad(cloning_loss)(state.model, batch, self.return_scale, how)
        gradients = clip_by_global_norm(gradients, self.gradient_norm)
        warmup = jnp.minimum(1.0, (step.astype(jnp.float32) + 1.0) / self.warmup_updates)
        rate = self.learning_rate * warmup
        model, optimiser = adamw_step(state.model, gradients, state.optimiser, rate, self.weight_decay)
        return DTState(model, optimiser), {"actor/loss": loss}

    def policy(self, state: DTState) -> DTPolicy:
        """The model, reaching for `target_return`."""
        model = state.model
        return DTPolicy(
            model,
            jnp.asarray(self.target_return, jnp.float32),
            jnp.asarray(self.return_scale, jnp.float32),
            self.context_length,
            model.embed_observation.weight.shape[1],
            model.embed_action.weight.shape[1],
        )
