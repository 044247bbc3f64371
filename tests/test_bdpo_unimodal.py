"""The ablation of BDPO's actor: analytic penalties, the hand-over, and closed-form optima."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms.bdpo_unimodal import BDPOUnimodal, gaussian_kl, squared_distance
from tether.algorithms.registry import parse_fields
from tether.networks import QEnsemble, TanhGaussian
from tether.presets import load_presets
from tether.types import Array, Spec, Transition

SPEC = Spec(observation_size=1, action_size=2)
TINY: dict[str, Any] = {
    "hidden_sizes": (4,),
    "actor_hidden_sizes": (16,),
    "ensemble_size": 2,
    "pessimism": 0.0,
    "discount": 1.0,
    "cosine_decay": False,
    "actor_warmup_updates": 0,
    "actor_update_interval": 1,
}
G = np.array([0.3, -0.2], np.float32)


class LinearQ(QEnsemble):
    """Two heads, both g.a."""

    def __init__(self):
        self.heads = ()

    def __call__(self, observation: Array, action: Array) -> Array:
        return jnp.broadcast_to(action @ jnp.asarray(G), (2,))


def law(mean: list[float], log_std: list[float]) -> TanhGaussian:
    return TanhGaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32), 1.0)


def batch(rows: int, terminal: float = 0.0) -> Transition:
    ones = jnp.ones((rows, 1))
    return Transition(ones, jnp.full((rows, 2), 0.25), jnp.zeros(rows), ones, jnp.full(rows, terminal))


def test_gaussian_kl_is_the_closed_form_and_the_sampled_one():
    policy, behaviour = law([0.5, -0.2], [-0.5, 0.1]), law([0.1, 0.3], [0.2, -0.3])
    s, t = np.exp([-0.5, 0.1]), np.exp([0.2, -0.3])
    expected = np.sum(np.log(t / s) + (s**2 + np.array([0.4, -0.5]) ** 2) / (2 * t**2) - 0.5)
    assert float(gaussian_kl(policy, behaviour)) == pytest.approx(expected, rel=1e-6)
    assert float(gaussian_kl(policy, policy)) == 0.0
    # tanh is invertible: the KL of the actions is the same. Densities of actions: the Jacobian cancels in the ratio.
    z = np.asarray(policy.mean) + s * np.asarray(jax.random.normal(jax.random.key(0), (200_000, 2)))
    log_ratio = np.sum(-0.5 * ((z - [0.5, -0.2]) / s) ** 2 + 0.5 * ((z - [0.1, 0.3]) / t) ** 2 - np.log(s / t), axis=1)
    assert log_ratio.mean() == pytest.approx(expected, abs=5 * log_ratio.std() / np.sqrt(len(z)))


def test_squared_distance_is_between_actions():
    expected = 0.5 * np.sum((np.tanh([0.5, -0.2]) - np.tanh([0.1, 0.3])) ** 2)
    assert float(squared_distance(law([0.5, -0.2], [0, 0]), law([0.1, 0.3], [1, 1]))) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["gaussian", "deterministic"])
def test_target_charges_the_penalty_where_it_says(kind: str):
    """penalty_order "separate" is R + g (1-d) Q' - eta (1-d) D, "discounted" R + g (1-d) (Q' - eta D)."""
    key = jax.random.key(0)
    found = {}
    for order in ("separate", "discounted"):
        algorithm = BDPOUnimodal(**TINY | {"discount": 0.5}, actor_kind=kind, penalty_order=order, eta=2.0)
        state = algorithm.init(SPEC, key)
        other = algorithm.init(SPEC, jax.random.key(1)).actor
        state = state._replace(target_critic=LinearQ(), target_actor=other)
        found[order], penalty = algorithm.q_target(state, batch(3), key)
        assert float(penalty) > 0.0
        assert (algorithm.q_target(state, batch(3, terminal=1.0), key)[0] == 0.0).all()
        same = algorithm.q_target(state._replace(target_actor=state.target_behaviour), batch(3), key)[1]
        assert float(same) == 0.0
    np.testing.assert_allclose(found["discounted"] - found["separate"], 0.5 * 2.0 * float(penalty), rtol=1e-4)


@pytest.mark.parametrize("kind", ["gaussian", "deterministic"])
def test_the_actor_trained_on_a_linear_q_reaches_the_optimum(kind: str):
    """Deterministic: pi = nu + g / eta. Gaussian with a narrow nu (tanh nearly linear): m = m_nu + s_nu^2 g / eta."""
    algorithm = BDPOUnimodal(
        **TINY, actor_kind=kind, eta=4.0 if kind == "deterministic" else 0.02, samples=16, learning_rate=3e-3
    )
    state = algorithm.init(SPEC, jax.random.key(0))
    # nu: middle 0.1, standard deviation 0.2, whatever the state
    layers = state.behaviour.network.layers  # pyright: ignore[reportFunctionMemberAccess]
    last = eqx.tree_at(
        lambda layer: (layer.weight, layer.bias),
        layers[-1],
        (jnp.zeros_like(layers[-1].weight), jnp.asarray([0.1, 0.1, np.log(0.2), np.log(0.2)], jnp.float32)),
    )
    nu = eqx.tree_at(lambda actor: actor.network.layers, state.behaviour, (*layers[:-1], last))
    state = state._replace(target_behaviour=nu, actor=nu, target_actor=nu, target_critic=LinearQ())

    @jax.jit
    def improve(state: Any, key: Array) -> Any:
        def one(state: Any, key: Array) -> tuple[Any, None]:
            return algorithm._update_actor(state, jnp.ones((16, 1)), key, 1.0)[0], None

        return jax.lax.scan(one, state, jax.random.split(key, 2000))[0]

    actor = improve(state, jax.random.key(1)).target_actor
    found = actor(jnp.ones(1))
    if kind == "deterministic":
        np.testing.assert_allclose(np.tanh(found.mean), np.tanh(0.1) + G / 4.0, atol=2e-3)
    else:  # E[tanh(m + s z)] has slope below 1 where s is 0.2: the optimum of g.a - eta KL, by a grid over the means
        z = np.linspace(-6, 6, 4001)
        weight = np.exp(-0.5 * z**2) / np.exp(-0.5 * z**2).sum()
        means = np.linspace(-1.5, 1.5, 601)
        best = []
        for slope in G:
            spread = np.exp(np.asarray(found.log_std))[len(best)]
            gain = slope * (np.tanh(means[:, None] + spread * z) @ weight)
            best.append(means[np.argmax(gain - 0.02 * (means - 0.1) ** 2 / (2 * 0.2**2))])
        np.testing.assert_allclose(found.mean, best, atol=0.03)
        assert (np.exp(np.asarray(found.log_std)) < 0.22).all()


@pytest.mark.parametrize("kind", ["gaussian", "deterministic"])
def test_hand_over_warm_up_and_one_step_problems(kind: str):
    changes = {"actor_warmup_updates": 2, "actor_update_interval": 2, "bootstrap": False}
    algorithm = BDPOUnimodal(**TINY | changes, actor_kind=kind)
    state = algorithm.init(SPEC, jax.random.key(0))
    state, _ = algorithm.pretrain_update(state, batch(4), jax.random.key(1), jnp.int32(0))
    update = jax.jit(algorithm.update)
    moved = []
    for step in range(5):
        before = state
        state, _ = update(state, batch(4)._replace(reward=jnp.ones(4)), jax.random.key(2 + step), jnp.int32(step))
        start = before.target_behaviour if step == 0 else before.actor
        moved.append(not eqx.tree_equal(start, state.actor))
        assert eqx.tree_equal(before.behaviour, state.behaviour)
    assert moved == [False, False, True, False, True]
    target, penalty = algorithm.q_target(state, batch(4)._replace(reward=jnp.ones(4)), jax.random.key(0))
    assert (target == 1.0).all()
    assert float(penalty) == 0.0


def test_presets_are_the_two_ablations():
    presets = load_presets("bdpo-unimodal")
    assert len(presets) == 18
    etas = {
        (task.split("-")[0], settings.get("actor_kind", "gaussian")): settings["eta"]
        for task, settings in presets.items()
    }
    assert etas == {
        **{("halfcheetah", "gaussian"): 0.75, ("halfcheetah", "deterministic"): 0.25},
        **{("hopper", "gaussian"): 0.1, ("hopper", "deterministic"): 1.0},
        **{("walker2d", "gaussian"): 0.25, ("walker2d", "deterministic"): 1.5},
    }
    assert presets["hopper-medium-v2-deterministic"]["ensemble_size"] == 20
    fields = set(BDPOUnimodal.__dataclass_fields__)
    for settings in presets.values():
        parse_fields(BDPOUnimodal, {name: value for name, value in settings.items() if name in fields})
