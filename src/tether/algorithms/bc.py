"""BC: behaviour cloning with a deterministic or tanh-Gaussian policy (baselines.md section 1).

    deterministic  E[ (pi(s) - a)^2 ],  pi = tanh(MLP)                              (the form of CORL, arXiv 2210.07105)
    gaussian       E[ alpha log pi(b|s) - log pi(a|s) ],  b ~ pi(.|s)               (the form of BRAC, arXiv 1911.11361)
                   alpha >= 0 by dual descent, so that the entropy stays near -A

Deviations.
  1. Both act without noise: the mode.
  2. The Gaussian's alpha is the exponential of the trained number; BRAC's code clips a trained number at 0.
"""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.acting import Mode
from tether.algorithms.interface import Hyperparameter, Phase
from tether.networks import DeterministicActor, GaussianActor, torch_uniform
from tether.optimisers import adam_init, adam_step
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["BC", "BCState", "gaussian_cloning_loss"]

DATA_MARGIN = 1e-3  # data actions are moved this far inside the box before their density is asked


class BCState(NamedTuple):
    """Everything that training carries; array leaves only."""

    actor: DeterministicActor | GaussianActor
    actor_optimiser: optax.OptState
    log_entropy_weight: Float[Array, ""]  # read by the Gaussian kind
    entropy_optimiser: optax.OptState


def gaussian_cloning_loss(
    actor: GaussianActor, batch: Transition, entropy_weight: Scalar, key: PRNGKey
) -> tuple[Scalar, Scalar]:
    """E[ alpha log pi(b|s) - log pi(a|s) ] -> (it, the entropy estimate -E log pi(b|s))."""
    law = jax.vmap(actor)(batch.observation)
    own = law.log_density_of_noise(jax.random.normal(key, batch.action.shape, batch.action.dtype))
    data = law.log_density(batch.action, DATA_MARGIN)
    return jnp.mean(jax.lax.stop_gradient(entropy_weight) * own - data), -jnp.mean(own)


class BC(eqx.Module):
    """Hyper-parameters of behaviour cloning."""

    learning_rate: Hyperparameter = 3e-4  # Adam
    entropy_target: Hyperparameter = -1.0  # of the Gaussian kind, per coordinate of the action
    entropy_learning_rate: Hyperparameter = 3e-4  # Adam, of log alpha

    actor_kind: Literal["deterministic", "gaussian"] = eqx.field(static=True, default="deterministic")
    hidden_sizes: tuple[int, ...] = eqx.field(static=True, default=(256, 256))
    train_updates: int = eqx.field(static=True, default=1_000_000)

    def init(self, spec: Spec, key: PRNGKey) -> BCState:
        """Fresh networks; alpha starts at 1."""
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes, spec.max_action
        if self.actor_kind == "deterministic":
            actor = DeterministicActor(key, *sizes)
        else:
            how = {"log_std_range": (-5.0, 0.0), "squashed_log_std": True}
            actor = GaussianActor(key, *sizes, initialiser=torch_uniform, **how)
        log_weight = jnp.zeros((), jnp.float32)
        return BCState(actor, adam_init(actor), log_weight, adam_init(log_weight))

    def phases(self) -> tuple[Phase, ...]:
        """One."""
        return (Phase("train", self.train_updates, self.update),)

    def update(self, state: BCState, batch: Transition, key: PRNGKey, step: Int[Array, ""]) -> tuple[BCState, Metrics]:
        """One step on the data."""
        if isinstance(state.actor, DeterministicActor):
            loss, gradients = eqx.filter_value_and_grad(_squared_error)(state.actor, batch)
            metrics = {"actor/loss": loss}
        else:
            weight = jnp.exp(state.log_entropy_weight)
            grad = eqx.filter_value_and_grad(gaussian_cloning_loss, has_aux=True)
            (loss, entropy), gradients = grad(state.actor, batch, weight, key)
            slope = weight * (entropy - self.entropy_target * batch.action.shape[1])
            log_weight, optimiser = adam_step(
                state.log_entropy_weight, slope, state.entropy_optimiser, self.entropy_learning_rate
            )
            state = state._replace(log_entropy_weight=log_weight, entropy_optimiser=optimiser)
            metrics = {"actor/loss": loss, "actor/entropy": entropy, "actor/entropy_weight": weight}
        actor, optimiser = adam_step(state.actor, gradients, state.actor_optimiser, self.learning_rate)
        return state._replace(actor=actor, actor_optimiser=optimiser), metrics

    def policy(self, state: BCState) -> Mode:
        """The actor without noise."""
        return Mode(state.actor)


def _squared_error(actor: DeterministicActor, batch: Transition) -> Scalar:
    return jnp.mean((jax.vmap(actor)(batch.observation) - batch.action) ** 2)
