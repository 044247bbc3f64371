"""BC: behaviour cloning with a deterministic or tanh-Gaussian policy.

    deterministic  E[ (pi(s) - a)^2 ],  pi = tanh(MLP)                              (the form of CORL, arXiv 2210.07105)
    gaussian       E[ alpha log pi(b|s) - log pi(a|s) ],  b ~ pi(.|s)               (the form of BRAC, arXiv 1911.11361)
                   alpha >= 0 by dual descent, so that the entropy stays near -A

Both act without noise: the mode. The gaussian form is the behaviour model of BRAC, which trains it with hidden sizes
200-200 and 5e-4 for both rates: `--set actor_kind=gaussian hidden_sizes=200,200 learning_rate=5e-4
entropy_learning_rate=5e-4`.
On the best episodes alone it is %BC: `tether train bc ... --data-filter top=0.1`.

Deviations.
  1. The Gaussian's alpha is the exponential of the trained number; BRAC's code clips a trained number at 0.
  2. Its entropy is estimated once per update, for both steps; BRAC's code draws anew after the policy's.
  3. %BC takes whole episodes. CORL cuts its table at terminal rows and every 1,000 rows, of which an episode that timed
     out has 999: its pieces straddle episodes, and what follows the last cut is lost, of all data (100 %), too.
"""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from tether.algorithms.interface import Hyperparameter, Network, Phase, network_field
from tether.algorithms.ranges import NonNegative, Sizes, Updates, check_ranges
from tether.algorithms.sac import entropy_weight_step
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.networks import DeterministicActor, GaussianActor, glorot_uniform
from tether.policies.acting import Mode
from tether.types import Array, Float, Int, Metrics, PRNGKey, Scalar, Spec, Transition

__all__ = ["BC", "BCState", "gaussian_cloning_loss"]

DATA_MARGIN = 1e-3  # data actions are moved this far inside the box before their density is asked


class Entropy(NamedTuple):
    """The dual variable of the Gaussian kind."""

    log_weight: Float[Array, ""]
    optimiser: optax.OptState


class BCState(NamedTuple):
    """Everything that training carries; array leaves only."""

    actor: DeterministicActor | GaussianActor
    actor_optimiser: optax.OptState
    entropy: Entropy | None  # None in the deterministic kind


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

    learning_rate: NonNegative = 3e-4  # Adam
    entropy_target: Hyperparameter = -1.0  # of the Gaussian kind, per coordinate of the action
    entropy_learning_rate: NonNegative = 3e-4  # Adam, of log alpha

    actor_kind: Literal["deterministic", "gaussian"] = eqx.field(static=True, default="deterministic")
    actor_network: Network = network_field(scalar=True)  # of the policy
    hidden_sizes: Sizes = eqx.field(static=True, default=(256, 256))
    train_updates: Updates = eqx.field(static=True, default=1_000_000)

    def __check_init__(self):
        check_ranges(self)

    def init(self, spec: Spec, key: PRNGKey) -> BCState:
        """Fresh networks; alpha starts at 1."""
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes, spec.max_action
        if self.actor_kind == "deterministic":
            actor, entropy = DeterministicActor(key, *sizes, network=self.actor_network), None
        else:
            how = {"log_std_range": (-5.0, 0.0), "squashed_log_std": True}
            actor = GaussianActor(key, *sizes, initialiser=glorot_uniform, network=self.actor_network, **how)
            log_weight = jnp.zeros((), jnp.float32)
            entropy = Entropy(log_weight, adam_init(log_weight))
        return BCState(actor, adam_init(actor), entropy)

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `train`."""
        return (Phase("train", self.train_updates, self.update, reads_rewards=False),)

    def update(self, state: BCState, batch: Transition, key: PRNGKey, step: Int[Array, ""]) -> tuple[BCState, Metrics]:
        """One step on the data."""
        if isinstance(state.actor, DeterministicActor) or state.entropy is None:
            loss, gradients = eqx.filter_value_and_grad(_squared_error)(state.actor, batch)
            entropy, metrics = None, {"actor/loss": loss}
        else:
            weight = jnp.exp(state.entropy.log_weight)
            grad = eqx.filter_value_and_grad(gaussian_cloning_loss, has_aux=True)
            (loss, estimate), gradients = grad(state.actor, batch, weight, key)
            target, rate = self.entropy_target * batch.action.shape[1], self.entropy_learning_rate
            entropy = Entropy(
                *entropy_weight_step(state.entropy.log_weight, -estimate, target, state.entropy.optimiser, rate)
            )
            metrics = {"actor/loss": loss, "actor/entropy": estimate, "actor/entropy_weight": weight}
        actor, optimiser = adam_step(state.actor, gradients, state.actor_optimiser, self.learning_rate)
        return BCState(actor, optimiser, entropy), metrics

    def policy(self, state: BCState) -> Mode:
        """The actor without noise."""
        return Mode(state.actor)


def _squared_error(actor: DeterministicActor | GaussianActor, batch: Transition) -> Scalar:
    return jnp.mean((jax.vmap(actor.mode)(batch.observation) - batch.action) ** 2)
