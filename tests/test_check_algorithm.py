"""`check_algorithm` passes an algorithm that keeps the contract, and says in a sentence what another one breaks."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tether.algorithms import Phase
from tether.algorithms.shared.losses import polyak, q_regression, td_target
from tether.algorithms.shared.optimisers import adam_init, adam_step
from tether.networks import DeterministicActor, QEnsemble
from tether.policies.acting import Mode
from tether.testing import Expected, check_algorithm
from tether.testing.check import CLAUSES, FIRST, SPEC, broken
from tether.testing.subject import Subject
from tether.types import Array, Spec, Transition


class State(NamedTuple):
    critic: QEnsemble
    target_critic: QEnsemble
    actor: DeterministicActor
    critic_optimiser: optax.OptState
    actor_optimiser: optax.OptState
    extra: Any  # what a broken one carries beside


class Good(eqx.Module):
    """TD learning of the data's actions, cloning, noise on the target action: everything that the clauses look at."""

    rate: float = 1e-2
    target_rate: float = 0.1
    discount: float = 0.9
    noise: float = 0.3
    hidden_sizes: tuple[int, ...] = eqx.field(static=True, default=(4,))
    train_updates: int = eqx.field(static=True, default=100)

    def init(self, spec: Spec, key: Array) -> State:
        critic_key, actor_key = jax.random.split(key)
        sizes = spec.observation_size, spec.action_size, self.hidden_sizes
        critic = QEnsemble(critic_key, *sizes, layer_norm=False)
        actor = DeterministicActor(actor_key, *sizes, spec.max_action)
        return State(critic, critic, actor, adam_init(critic), adam_init(actor), self.extra())

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("train", self.train_updates, self.update),)

    def update(self, state: State, batch: Transition, key: Array, step: Array) -> Any:
        action = jax.vmap(state.actor)(batch.next_observation)
        action = action + self.noise * jax.random.normal(self.key(key), action.shape, jnp.float32)
        q = jax.vmap(state.target_critic.least)(batch.next_observation, action)
        target = self.target(batch, q)
        (loss, _), gradients = eqx.filter_value_and_grad(q_regression, has_aux=True)(state.critic, batch, target)
        critic, critic_optimiser = adam_step(state.critic, gradients, state.critic_optimiser, self.rate)
        cloning, gradients = eqx.filter_value_and_grad(self.cloning)(state.actor, batch)
        actor, actor_optimiser = adam_step(state.actor, gradients, state.actor_optimiser, self.rate)
        target_critic = polyak(state.target_critic, critic, self.target_rate)
        state = State(critic, target_critic, actor, critic_optimiser, actor_optimiser, state.extra)
        return self.after(state, step), self.metrics({"critic/loss": loss, "actor/loss": cloning})

    def cloning(self, actor: DeterministicActor, batch: Transition) -> Array:
        return jnp.mean((jax.vmap(actor)(batch.observation) - batch.action) ** 2)

    def policy(self, state: State) -> Any:
        return Mode(state.actor)

    # --- what a broken one does otherwise ---

    def extra(self) -> Any:
        return ()

    def key(self, key: Array) -> Array:
        return key

    def target(self, batch: Transition, q: Array) -> Array:
        return td_target(batch.reward, self.discount, batch.terminal, q)

    def after(self, state: State, step: Array) -> State:
        return state

    def metrics(self, metrics: Any) -> Any:
        return metrics


DECLARED = {
    "changes": {"train": {"critic", "target_critic", "actor", "critic_optimiser", "actor_optimiser", "extra"}},
    "swept": "rate",
    "targets": (("target_critic", "critic", "target_rate"),),
    "unread": frozenset(),
    "deterministic": True,
}
CONSTANT = jax.random.key(17)
memory = itertools.count()


class Changed(eqx.Module):
    """A policy that does something else with the actor."""

    own: Any
    act: Callable[..., Array] = eqx.field(static=True)

    def __call__(self, observation: Array, key: Array) -> Array:
        return self.act(self.own, observation, key)


# --- broken ones, each in one way ---


class NotAModule:
    def init(self, spec: Any, key: Any) -> Any: ...
    def phases(self) -> Any: ...
    def policy(self, state: Any) -> Any: ...


class NoPolicy(eqx.Module):
    def init(self, spec: Any, key: Any) -> Any: ...
    def phases(self) -> Any: ...


class StaticNumber(Good):
    weight: float = eqx.field(static=True, default=0.5)


class ListField(Good):
    sizes: Any = eqx.field(static=True, default_factory=lambda: [4, 4])


class SaysTextMeansNumber(Good):
    sizes: tuple[int, ...] = eqx.field(static=True, default=("4", "4"))  # pyright: ignore[reportAssignmentType]


class FieldThatIsNoNumber(Good):
    kind: str = "fast"


class LastPhaseIsFinetune(Good):
    def phases(self) -> Any:
        return (Phase("train", 5, self.update), Phase("finetune", self.train_updates, self.update))


class LengthOfItsOwn(Good):
    def phases(self) -> Any:
        return (Phase("train", 1000, self.update),)


class PythonLeaf(Good):
    def extra(self) -> Any:
        return {"temperature": 0.5}


class DoubleLeaf(Good):
    def extra(self) -> Any:
        return jnp.zeros((), jnp.float16)


class StateLosesAPart(Good):
    def extra(self) -> Any:
        return {"count": jnp.zeros((), jnp.int32), "best": jnp.zeros((), jnp.float32)}

    def after(self, state: State, step: Array) -> State:
        return state._replace(extra={"count": state.extra["count"]})


class StateGrows(Good):
    def extra(self) -> Any:
        return jnp.zeros(2, jnp.float32)

    def after(self, state: State, step: Array) -> State:
        return state._replace(extra=jnp.zeros(3, jnp.float32))


class NoPolicyAtAll(Good):
    def policy(self, state: State) -> Any:
        return 3


class FunctionForPolicy(Good):
    def policy(self, state: State) -> Any:
        return lambda observation, key: state.actor(observation)


class IgnoresTheSeed(Good):
    def init(self, spec: Spec, key: Array) -> State:
        return super().init(spec, jax.random.key(0))


class ConstantKey(Good):
    def key(self, key: Array) -> Array:
        return jax.random.key(5)


class KeyOfTheModule(Good):
    def key(self, key: Array) -> Array:
        return CONSTANT


class KeyInTheState(Good):
    def extra(self) -> Any:
        return jax.random.split(CONSTANT)[0]


class CountsOutside(Good):
    """State that is not in State: a counter on the host."""

    def after(self, state: State, step: Array) -> State:
        from jax.experimental import io_callback

        count = io_callback(lambda: np.float32(next(memory)), jax.ShapeDtypeStruct((), jnp.float32))
        return state._replace(actor=jax.tree.map(lambda leaf: leaf + 1e-3 * count, state.actor))


class DrawsWhileTraced(Good):
    """Python's randomness is drawn once for each trace."""

    def target(self, batch: Transition, q: Array) -> Array:
        return super().target(batch, q) + float(next(memory))


class WeakNumber(Good):
    """A Python number takes the place of an array: JAX compiles the next update again."""

    def extra(self) -> Any:
        return jnp.zeros((), jnp.float32)

    def after(self, state: State, step: Array) -> State:
        return state._replace(extra=jnp.asarray(0.5))


@jax.custom_batching.custom_vmap
def treacherous(x: Array) -> Array:
    return x


@treacherous.def_vmap
def _(size: int, batched: Any, x: Array) -> Any:
    return 1.1 * x, True


class OtherUnderVmap(Good):
    def after(self, state: State, step: Array) -> State:
        return state._replace(extra=treacherous(jax.tree.leaves(state.critic.heads[0])[1]))

    def extra(self) -> Any:
        return jnp.zeros(4, jnp.float32)


class NoEffect(Good):
    weight: float = 0.5


class Sleeping(Good):
    """No update does anything."""

    def after(self, state: State, step: Array) -> State:
        return jax.tree.map(jnp.zeros_like, state)


class HalfTrained(Good):
    """The gradient reaches only one head."""

    def update(self, state: State, batch: Transition, key: Array, step: Array) -> Any:
        after, metrics = super().update(state, batch, key, step)
        return eqx.tree_at(lambda s: s.critic.heads[1], after, state.critic.heads[1]), metrics


class Leaks(Good):
    """The actor's phase changes the critic, too."""

    def phases(self) -> Any:
        return (Phase("pretrain", 10, self.update), Phase("train", self.train_updates, self.update))


class SaysThatItImitates(Good):
    def phases(self) -> Any:
        return (Phase("train", self.train_updates, self.update, reads_rewards=False),)


class TargetJumps(Good):
    def after(self, state: State, step: Array) -> State:
        return state._replace(target_critic=jax.tree.map(lambda leaf: 1.01 * leaf, state.target_critic))


class OutOfBounds(Good):
    def policy(self, state: State) -> Any:
        return Changed(state.actor, lambda actor, observation, key: 3.0 * actor(observation))


class OtherShape(Good):
    def policy(self, state: State) -> Any:
        return Changed(state.actor, lambda actor, observation, key: actor(observation)[:1])


class StaleNoise(Good):
    """It draws noise, from its own numbers and not from the key."""

    def policy(self, state: State) -> Any:
        def act(actor: Any, observation: Array, key: Array) -> Array:
            numbers = jax.lax.bitcast_convert_type(actor.network.layers[0].bias[:2], jnp.uint32)
            return 0.1 * jnp.tanh(jax.random.normal(jax.random.wrap_key_data(numbers), (2,), jnp.float32))

        return Changed(state.actor, act)


class KeepsAKey(Good):
    def policy(self, state: State) -> Any:
        return Changed((state.actor, CONSTANT), lambda own, observation, key: own[0](observation))


class VectorMetrics(Good):
    def metrics(self, metrics: Any) -> Any:
        return {**metrics, "q": jnp.ones(3, jnp.float32)}


class NoMetrics(Good):
    def metrics(self, metrics: Any) -> Any:
        return {}


class Diverges(Good):
    def metrics(self, metrics: Any) -> Any:
        return {**metrics, "q": jnp.full((), jnp.nan, jnp.float32)}


class Broadcasts(Good):
    """(B, 1) rewards become (B, B) targets, of which the mean is taken."""

    def target(self, batch: Transition, q: Array) -> Array:
        return (batch.reward + self.discount * (1.0 - batch.terminal) * q).reshape(-1)[: q.shape[0]]


class MixesRanks(Good):
    def target(self, batch: Transition, q: Array) -> Array:
        return jnp.mean(q[:, None] + batch.reward, axis=1)


class Doubles(Good):
    def target(self, batch: Transition, q: Array) -> Array:
        return super().target(batch, q) + jnp.linspace(0.0, 1.0, q.shape[0], dtype=float).astype(q.dtype)

    def metrics(self, metrics: Any) -> Any:
        return {**metrics, "half": jnp.asarray(np.float64(0.5))}


class DefaultNoise(Good):
    def after(self, state: State, step: Array) -> State:
        kick = jax.random.normal(jax.random.fold_in(jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32)), step), (2,))
        return state._replace(extra=state.extra + kick)

    def extra(self) -> Any:
        return jnp.zeros(2, jnp.float32)


class UsesAKeyTwice(Good):
    def key(self, key: Array) -> Array:
        jax.random.normal(key, (), jnp.float32)
        return key


class Decides(Good):
    def after(self, state: State, step: Array) -> State:
        if step > 3:
            return state
        return state


class DecidesByANumber(Good):
    def target(self, batch: Transition, q: Array) -> Array:
        if self.discount > 0.5:
            q = 2 * q
        return super().target(batch, q)


class NeedsNumPy(Good):
    def after(self, state: State, step: Array) -> State:
        return state._replace(extra=jnp.asarray(np.asarray(step), jnp.float32))


class AsksTheHost(Good):
    def after(self, state: State, step: Array) -> State:
        jax.debug.callback(lambda step: None, step)
        return state


class NeedsTheHost(Good):
    def extra(self) -> Any:
        return jnp.zeros((), jnp.float32)

    def after(self, state: State, step: Array) -> State:
        kind = jax.ShapeDtypeStruct((), jnp.float32)
        return state._replace(extra=jax.pure_callback(lambda x: np.float32(x), kind, state.extra))


class Raises(Good):
    def target(self, batch: Transition, q: Array) -> Array:
        raise KeyError("next_q")


BROKEN: list[tuple[Callable[..., Any], str, dict[str, Any], str]] = [
    (NotAModule, "interface", {}, r"is no equinox\.Module.*class NotAModule\(eqx\.Module\)"),
    (NoPolicy, "interface", {}, "it has no policy: an algorithm has init"),
    (StaticNumber, "numbers are leaves", {}, r"weight=0\.5 is a number but static.*leave out static=True"),
    (ListField, "numbers are leaves", {}, r"sizes=\[4, 4\] is static but cannot be hashed"),
    (
        SaysTextMeansNumber,
        "records give it back",
        {},
        r"nobody could load or .*sizes=\('4', '4'\) comes back as \(4, 4\)",
    ),
    (FieldThatIsNoNumber, "numbers are leaves", {}, "kind='fast' is no number.*declare it eqx.field"),
    (LastPhaseIsFinetune, "phases", {}, "last phase is called 'finetune'; it must|last phase is called 'finetune'"),
    (LengthOfItsOwn, "phases", {}, "with train_updates=17 its last phase has 1000 updates"),
    (PythonLeaf, "state is arrays", {}, r"state\.extra\['temperature'\] is a float, no JAX array"),
    (DoubleLeaf, "state is arrays", {}, r"state\.extra has dtype float16"),
    (StateLosesAPart, "state keeps its form", {}, r"another structure than init's.*\.extra\['best'\] are gone"),
    (StateGrows, "state keeps its form", {}, r"turns state\.extra from float32\[2\] into float32\[3\]"),
    (NoPolicyAtAll, "policy", {}, "gives a int, which cannot be called"),
    (FunctionForPolicy, "policy", {}, "gives a function: a policy is an equinox.Module"),
    (IgnoresTheSeed, "same seed, same numbers", {}, "the same numbers for two keys: it ignores its key"),
    (CountsOutside, "same seed, same numbers", {}, "gave other numbers the second time"),
    (ConstantKey, "keys are consumed", {}, "the update of phase 'train' makes a key of a constant"),
    (IgnoresTheSeed, "keys are consumed", {}, "init makes a key of a constant"),
    (KeyOfTheModule, "keys are consumed", {}, "the update of phase 'train' makes a key of a constant"),
    (KeyInTheState, "keys are consumed", {}, r"state\.extra is a key that updates leave as it is"),
    (KeepsAKey, "keys are consumed", {}, "the policy keeps a key"),
    (CountsOutside, "checkpoints", {}, "training on from a saved state gives other numbers"),
    (CountsOutside, "stretches", {}, "something is not in the state"),
    (
        DrawsWhileTraced,
        "the loop is single calls",
        {},
        r"and 4 single calls part in state\.critic",
    ),
    (WeakNumber, "the loop is single calls", {}, "was traced 2 times for 4 batches"),
    (
        OtherUnderVmap,
        "lanes are single runs",
        {},
        r"lane 0 under vmap parts from .* in progress\.state\.extra",
    ),
    (Sleeping, "lanes differ", {}, "two seeds are trained to the same numbers"),
    (Sleeping, "lanes differ", {}, "none of its numeric hyper-parameters changes"),
    (NoEffect, "lanes differ", {"swept": "weight"}, "weight at another value changes nothing"),
    (NoEffect, "every number counts", {}, "weight has no effect"),
    (NoEffect, "every number counts", {"unread": frozenset()}, "weight has no effect"),
    (HalfTrained, "updates change what they declare", {}, r"changes 4 of the 8 arrays of state\.critic"),
    (
        HalfTrained,
        "updates change what they declare",
        DECLARED,
        r"leaves 4 of the 8 arrays of state\.critic as",
    ),
    (
        Leaks,
        "updates change what they declare",
        DECLARED | {"changes": DECLARED["changes"] | {"pretrain": {"actor", "actor_optimiser"}}},
        r"phase 'pretrain' changes state\.critic, which it shall leave alone: a gradient leaks",
    ),
    (SaysThatItImitates, "imitation reads no rewards", {}, "'train' says reads_rewards=False, but rewards change"),
    (TargetJumps, "targets move on a line", {}, r"state\.target_critic moves, but not on the line to state\.critic"),
    (TargetJumps, "targets move on a line", DECLARED, r"target_critic does not move by target_rate=0\.1 of the way"),
    (OutOfBounds, "actions in bounds, fresh noise", {}, r"out of bounds: clip or squash actions to ±spec\.max_action"),
    (OtherShape, "actions in bounds, fresh noise", {}, r"gives an action of shape \(1,\): \(2,\) is needed"),
    (StaleNoise, "actions in bounds, fresh noise", {}, "draws noise, but 64 keys gave 1 actions .* it is not fresh"),
    (VectorMetrics, "metrics are scalars", {}, r"metric 'q' has shape \(3,\): metrics are scalars, take a mean"),
    (NoMetrics, "metrics are scalars", {}, "gives no metrics"),
    (Diverges, "metrics are scalars", {}, "metric 'q' is not finite"),
    (Broadcasts, "column vectors are refused", {}, r"takes a reward of shape \(batch, 1\) without a word"),
    (MixesRanks, "broadcasting", {}, "broadcasts over ranks, which hides bugs"),
    (Doubles, "float32 stays", {}, "the update of phase 'train' gives float64"),
    (
        DefaultNoise,
        "float32 stays",
        {},
        r"the update of phase 'train' gives float64 for extra: .*jax\.random\.normal\(key, shape, jnp\.float32\)",
    ),
    (UsesAKeyTwice, "keys are consumed", {}, "the update of phase 'train' uses a key twice.*split it first"),
    (
        Decides,
        "state keeps its form",
        {},
        r"Python decides by a number .* \(if step > 3:, test_check_algorithm\.py line \d+\): write jnp\.where",
    ),
    (DecidesByANumber, "same seed, same numbers", {}, r"Python decides by .* \(if self\.discount > 0\.5:, "),
    (NeedsNumPy, "state keeps its form", {}, r"NumPy is given an array .*: write jnp in the place of np"),
    (AsksTheHost, "nothing is asked of the host", {}, r"calls Python on the host .*\(jax\.debug\.callback or print\)"),
    (NeedsTheHost, "nothing is asked of the host", {}, r"calls Python on the host .*\(jax\.pure_callback\)"),
    (Raises, "state keeps its form", {}, "it raises KeyError: 'next_q'"),
]


@pytest.mark.parametrize(
    ("make", "clause", "known", "sentence"), BROKEN, ids=[f"{make.__name__}-{clause}" for make, clause, *_ in BROKEN]
)
def test_what_is_broken_is_said(make: Callable[..., Any], clause: str, known: dict[str, Any], sentence: str) -> None:
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as a user has it
        sentences = broken((FIRST | CLAUSES)[clause], Subject(make(), Expected(**known), SPEC))
    found = re.compile(sentence)
    assert any(found.search(each) for each in sentences), sentences
    assert all(len(each) < 400 and "\n" not in each for each in sentences)


class ReadsEnds(Good):
    """Regresses rewards where an episode goes on, with no shape that it would refuse."""

    def target(self, batch: Transition, q: Array) -> Array:
        return jnp.mean(batch.reward * (1.0 - batch.terminal)) + 0.0 * q


class NeverReadsEnds(Good):
    """A one-step critic: refuses columns of rewards, and never looks at the ends."""

    def target(self, batch: Transition, q: Array) -> Array:
        if batch.reward.ndim != 1:
            raise ValueError("rewards are vectors")
        return batch.reward + 0.0 * q


@pytest.mark.parametrize("known", [{}, {"changes": DECLARED["changes"]}], ids=["alone", "changes"])
def test_what_a_phase_reads_is_told_by_numbers_whatever_is_declared(known: dict[str, Any]) -> None:
    """Not by how the fields of the state are called."""
    clause = CLAUSES["column vectors are refused"]
    renamed = {"changes": {"train": {"q", "actor"}}} if known else {}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as a user has it
        assert broken(clause, Subject(NeverReadsEnds(), Expected(**known), SPEC)) == []
        said = broken(clause, Subject(ReadsEnds(), Expected(**renamed), SPEC))
    assert [sentence.split("takes a ")[1].split(" of")[0] for sentence in said] == ["reward", "terminal"]


@functools.cache
def report() -> Any:
    return check_algorithm(Good())


def test_a_good_one_passes_all_clauses() -> None:
    assert report().failures == ()
    assert report().passed == (*FIRST, *CLAUSES)
    assert str(report()) == f"Good keeps all {len(FIRST) + len(CLAUSES)} clauses of the contract"


@pytest.mark.long
def test_it_passes_with_everything_declared() -> None:
    assert check_algorithm(Good(), **DECLARED).failures == ()


def test_all_failures_are_collected() -> None:
    class Bad(NoEffect, VectorMetrics, OutOfBounds):
        pass

    with pytest.raises(AssertionError) as caught:
        check_algorithm(Bad())
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("Bad breaks 3 of 26 clauses of the contract:")
    assert [line.split(":")[0].strip(" -") for line in lines[1:]] == [
        *("metrics are scalars", "every number counts", "actions in bounds, fresh noise")
    ]


def test_an_exception_is_said_once() -> None:
    """It ends most clauses: one sentence of it is enough, the others could not be looked at."""
    found = check_algorithm(DecidesByANumber(), raises=False)
    assert [failure.clause for failure in found.failures] == ["same seed, same numbers"]
    assert "trained state is arrays" in found.skipped


def test_what_has_nothing_to_stand_on_is_not_looked_at() -> None:
    found = check_algorithm(LastPhaseIsFinetune(), raises=False)
    assert {failure.clause for failure in found.failures} == {"phases"}
    assert found.passed == ("interface", "numbers are leaves")
    assert len(found.skipped) == len(FIRST) + len(CLAUSES) - 3
    assert f"{len(found.skipped)} could not be looked at" in str(found)


def test_a_class_is_not_an_algorithm() -> None:
    with pytest.raises(AssertionError, match=r"Good is a class: give an instance, Good\(\.\.\.\)"):
        check_algorithm(Good)


def test_what_is_structural_on_purpose_may_be_static() -> None:
    clause = FIRST["numbers are leaves"]
    assert broken(clause, Subject(StaticNumber(), Expected(structural=frozenset({"weight"})), SPEC)) == []
    assert dataclasses.replace(Good(), rate=0.5).rate == 0.5
