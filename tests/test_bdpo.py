"""BDPO's identities (arXiv 2502.04778). The closed-form case has behaviour N(0, I) and Q(a) = g.a, for which the
optimal noise prediction, the diffusion values, the policy's mean and the path KL are all known."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms.bdpo import BDPO
from tether.algorithms.registry import parse_fields
from tether.algorithms.shared.losses import polyak
from tether.bandits.problems import EIGHT_CENTRES, EIGHT_DEVIATION, EIGHT_ENERGIES
from tether.diffusion import vp
from tether.networks import DiffusionValueEnsemble, NoiseNetwork, QEnsemble
from tether.presets import load_presets
from tether.types import Array, Spec, Transition

KINDS = ("medium", "medium-replay", "medium-expert")
SPEC = Spec(observation_size=1, action_size=2)
TINY: dict[str, Any] = {
    "hidden_sizes": (4,),
    "noise_hidden_sizes": (4,),
    "time_embedding_size": 4,
    "ensemble_size": 2,
    "pessimism": 0.0,
}
G, ETA = np.array([0.3, -0.2], np.float32), 0.25
SCHEDULE = vp.vp_schedule(5)
ABAR = SCHEDULE.alpha_bar


class GaussianNoise(NoiseNetwork):
    """The behaviour's exact noise prediction, shifted by `shift` times the optimal policy's shift."""

    shift: Array

    def __init__(self, shift: float):
        self.shift = jnp.asarray(shift, jnp.float32)
        self.action_size, self.max_action, self.time_features, self.activate_time = 2, 1.0, 4, True
        self.time = self.trunk = None  # pyright: ignore

    def __call__(self, noisy_action: Array, observation: Array, step: Array) -> Array:
        abar = jnp.asarray(ABAR)[step]
        optimal = jnp.sqrt(abar * (1 - abar)) * G / ETA
        return jnp.sqrt(1 - abar) * noisy_action - self.shift * optimal


class LinearQ(QEnsemble):
    """Two heads, both g.a."""

    def __init__(self):
        self.heads = ()

    def __call__(self, observation: Array, action: Array) -> Array:
        return jnp.broadcast_to(action @ jnp.asarray(G), (2,))


class ExactValue(DiffusionValueEnsemble):
    """Two heads, both the optimal V_n; raises its voice at n = 0, which nothing may read."""

    def __init__(self):
        self.heads = ()

    def __call__(self, observation: Array, noisy_action: Array, step: Array) -> Array:
        value = jnp.where(step > 0, exact_value(noisy_action, step), 1e6)
        return jnp.broadcast_to(value, (2,))


def exact_value(noisy_action: Array, step: Array) -> Array:
    """sqrt(abar_n) g.a_n + (1 - abar_n) |g|^2 / (2 eta)."""
    abar = jnp.asarray(ABAR)[step]
    return jnp.sqrt(abar) * (noisy_action @ jnp.asarray(G)) + (1 - abar) * float(G @ G) / (2 * ETA)


def closed_form(samples: int, shift: float = 1.0) -> tuple[BDPO, Any]:
    """Algorithm and a state in which everything is exact; the actor is off by 1 - shift."""
    algorithm = BDPO(**TINY, eta=ETA, samples=samples, clip_denoised=False)
    state = algorithm.init(SPEC, jax.random.key(0))
    critics, actor = state.target_critics._replace(q=LinearQ(), value=ExactValue()), GaussianNoise(shift)
    return algorithm, state._replace(
        target_critics=critics, target_behaviour=GaussianNoise(0.0), actor=actor, target_actor=actor
    )


def every_step(key: Array, rows: int = 40) -> vp.Diffused:
    """Noised actions with each n equally often."""
    step = jnp.tile(jnp.arange(1, 6, dtype=jnp.int32), rows // 5)
    return vp.Diffused(jax.random.normal(key, (rows, 2)), step, jnp.zeros((rows, 2)))


@pytest.mark.parametrize(("sizes", "counts"), [((11, 3), (226_691, 135_681, 170_177))])
def test_parameter_counts(sizes, counts):
    state = jax.eval_shape(lambda key: BDPO().init(Spec(*sizes), key), jax.random.key(0))
    parts = state.actor, state.critics.q, state.critics.value
    found = [sum(leaf.size for leaf in jax.tree.leaves(part)) for part in parts]
    assert found == [counts[0], 10 * counts[1], 10 * counts[2]]


def test_the_optimal_values_are_a_fixed_point_of_the_value_target():
    algorithm, state = closed_form(samples=256)
    diffused = every_step(jax.random.key(1))
    rows = jnp.zeros((40, 1))
    step = eqx.filter_jit(lambda s: algorithm.one_step_value(s.target_actor, s, rows, diffused, jax.random.key(2)))
    value, _ = step(state)
    expected = jax.vmap(exact_value)(diffused.noisy_action, diffused.step)
    # 256 draws of noise: standard error |g| sqrt(beta abar) / 16 < 0.011, four of them
    np.testing.assert_allclose(value, expected, atol=0.045)


def test_the_optimal_actor_is_stationary_and_others_are_pushed_towards_it():
    algorithm, state = closed_form(samples=64)
    diffused, rows = every_step(jax.random.key(1)), jnp.zeros((40, 1))

    @eqx.filter_jit
    def slope(shift: float) -> Array:
        loss = lambda actor: algorithm.actor_loss(actor, state, rows, diffused, jax.random.key(2))[0]  # noqa: E731
        return eqx.filter_grad(loss)(GaussianNoise(shift)).shift

    # The noise does not enter: Q and V are linear, so the slope does not depend on it.
    assert abs(float(slope(1.0))) < 1e-4
    assert float(slope(0.5)) < -1e-2
    assert float(slope(1.5)) > 1e-2


def test_path_kl_and_policy_mean_are_the_closed_form():
    algorithm, state = closed_form(samples=2000)
    batch = Transition(*(jnp.zeros(s) for s in ((2, 1), (2, 2), (2,), (2, 1), (2,))))
    target, kl = eqx.filter_jit(algorithm.q_target)(state, batch, jax.random.key(0))
    left = 1 - ABAR[5]
    assert float(kl) == pytest.approx(left * float(G @ G) / (2 * ETA**2), rel=1e-3)  # 1.0333: the same on every path
    assert float(kl) == pytest.approx(1.0333, abs=1e-3)
    value = left * float(G @ G) / (2 * ETA)  # E[Q] - eta KL
    np.testing.assert_allclose(target, 0.99 * value, atol=4 * 0.4 / np.sqrt(2000))
    draw = jax.jit(jax.vmap(lambda k: vp.sample(SCHEDULE, GaussianNoise(1.0), jnp.zeros(1), k, 2, None)))
    actions = draw(jax.random.split(jax.random.key(1), 20_000))
    np.testing.assert_allclose(actions.mean(axis=0), [1.1923, -0.7949], atol=4 / np.sqrt(20_000))
    np.testing.assert_allclose(actions.var(axis=0), SCHEDULE.alpha[1], rtol=0.04)  # no noise in the last step

    # Theorem 4.2: what the actions alone differ by, N(mean, I) from N(0, I), tends to the path's KL as abar_N -> 0.
    marginal = 0.5 * (left * float(np.linalg.norm(G)) / ETA) ** 2
    assert marginal == pytest.approx(float(kl) * left, rel=1e-3)


class MixtureNoise(NoiseNetwork):
    """The exact noise prediction of the eight Gaussians with these weights, N = FINE.steps."""

    log_weights: Array

    def __init__(self, weights: np.ndarray):
        self.log_weights = jnp.log(jnp.asarray(weights, jnp.float32))
        self.action_size, self.max_action, self.time_features, self.activate_time = 2, 1.0, 4, True
        self.time = self.trunk = None  # pyright: ignore

    def __call__(self, noisy_action: Array, observation: Array, step: Array) -> Array:
        abar = jnp.asarray(FINE.alpha_bar)[step]
        away, variance, log_share = parts_of_mixture(noisy_action, abar)
        share = jax.nn.softmax(log_share + self.log_weights)
        return jnp.sqrt(1 - abar) * share @ away / variance


def parts_of_mixture(noisy_action: Array, abar: Array) -> tuple[Array, Array, Array]:
    """(distances to the shrunken centres, variance around them, log likelihood of each up to a constant)."""
    away = noisy_action[None] - jnp.sqrt(abar) * jnp.asarray(EIGHT_CENTRES, jnp.float32)
    variance = abar * EIGHT_DEVIATION**2 + 1 - abar
    return away, variance, -0.5 * jnp.sum(away**2, axis=1) / variance


class NearestQ(LinearQ):
    """Two heads, both the energy of the nearest centre."""

    def __init__(self):
        super().__init__()

    def __call__(self, observation: Array, action: Array) -> Array:
        nearest = jnp.sum((action[None] - jnp.asarray(EIGHT_CENTRES, jnp.float32)) ** 2, axis=1).argmin()
        return jnp.broadcast_to(jnp.asarray(EIGHT_ENERGIES, jnp.float32)[nearest], (2,))


def mixture_value(noisy_action: Array, step: Array) -> Array:
    """V_n = eta log E[exp(E / eta) | a_n] under the data."""
    share = jax.nn.softmax(parts_of_mixture(noisy_action, jnp.asarray(FINE.alpha_bar)[step])[2])
    return COLD * jax.nn.logsumexp(jnp.asarray(EIGHT_ENERGIES, jnp.float32) / COLD, b=share)


class MixtureValue(ExactValue):
    """Two heads, both the closed form of the eight Gaussians."""

    def __init__(self):
        super().__init__()

    def __call__(self, observation: Array, noisy_action: Array, step: Array) -> Array:
        return jnp.broadcast_to(mixture_value(noisy_action, step), (2,))


FINE, COLD = vp.vp_schedule(400), 0.06  # many small steps: in the limit the reverse kernels are Gaussian


def eight_gaussians() -> tuple[BDPO, Any, np.ndarray]:
    """Algorithm, a state in which behaviour, Q, V_n and the optimal actor are exact, and the target's weights."""
    algorithm = BDPO(**TINY, eta=COLD, discount=1.0, samples=1000, diffusion_steps=FINE.steps, clip_denoised=False)
    tilt = np.exp(EIGHT_ENERGIES / COLD)
    weights, state = tilt / tilt.sum(), algorithm.init(SPEC, jax.random.key(0))
    critics, actor = state.target_critics._replace(q=NearestQ(), value=MixtureValue()), MixtureNoise(weights)
    behaviour = MixtureNoise(np.full(8, 1 / 8))
    state = state._replace(target_critics=critics, target_behaviour=behaviour, actor=actor, target_actor=actor)
    return algorithm, state, weights


def test_at_the_optimum_the_path_kl_is_that_of_the_actions_and_the_value_is_v_star():
    """Theorem 4.2 where behaviour and target are mixtures: KL 1.74 and V* 0.881 (spec section 14.4)."""
    algorithm, state, weights = eight_gaussians()
    batch = Transition(*(jnp.zeros(s) for s in ((2, 1), (2, 2), (2,), (2, 1), (2,))))
    target, kl = eqx.filter_jit(algorithm.q_target)(state, batch, jax.random.key(0))
    marginal = float(np.sum(weights * np.log(8 * weights)))
    v_star = COLD * float(np.log(np.mean(np.exp(EIGHT_ENERGIES / COLD))))
    assert (marginal, v_star) == (pytest.approx(1.74, abs=0.005), pytest.approx(0.881, abs=0.001))
    assert float(kl) == pytest.approx(marginal, abs=0.06)
    np.testing.assert_allclose(target, v_star, atol=0.01)


def test_the_closed_form_of_v_n_is_a_fixed_point_for_a_mixture():
    algorithm, state, _ = eight_gaussians()
    steps = jnp.asarray([1, 2, 20, 50, 100, 150, 200, 300, 400], jnp.int32)
    rows = len(steps)
    centre = jnp.asarray(EIGHT_CENTRES[6], jnp.float32)  # the second best: there the actor is pulled away
    scale = jnp.sqrt(jnp.asarray(FINE.alpha_bar)[steps])[:, None]
    noisy = scale * centre[None] + jnp.sqrt(1 - scale**2) * 0.5
    diffused = vp.Diffused(noisy, steps, jnp.zeros((rows, 2)))
    value, _ = eqx.filter_jit(algorithm.one_step_value)(
        state.actor, state, jnp.zeros((rows, 1)), diffused, jax.random.key(0)
    )
    np.testing.assert_allclose(value, jax.vmap(mixture_value)(noisy, steps), atol=0.005)


@pytest.mark.long
def test_values_and_actor_trained_on_a_linear_q_reach_the_closed_form():
    """Section 16.3: behaviour N(0, I) and Q = g.a are given, V_n and the actor start from random weights."""
    updates, rows = 4000, 256
    settings: dict[str, Any] = {
        **{**TINY, "hidden_sizes": (32, 32), "noise_hidden_sizes": (32, 32), "time_embedding_size": 8},
        **{"eta": ETA, "samples": 2, "clip_denoised": False, "target_rate": 0.02, "train_updates": updates},
        **{"learning_rate": 3e-3, "critic_learning_rate": 3e-3},
    }
    algorithm = BDPO(**settings)
    state = algorithm.init(SPEC, jax.random.key(0))
    given = state.target_critics._replace(q=LinearQ())
    state = state._replace(target_critics=given, target_behaviour=GaussianNoise(0.0))

    def update(state: Any, step: Array) -> tuple[Any, None]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), step), 3)
        nothing = jnp.zeros(rows)
        action = jax.random.normal(keys[0], (rows, 2))
        batch = Transition(nothing[:, None], action, nothing, nothing[:, None], nothing)
        factor = 0.5 * (1 + jnp.cos(jnp.pi * step.astype(jnp.float32) / updates))
        state, _ = algorithm._update_value(state, batch, keys[1], factor)
        state, _ = algorithm._update_actor(state, batch, keys[2], factor)
        value = polyak(state.target_critics.value, state.critics.value, algorithm.target_rate)
        return state._replace(target_critics=state.target_critics._replace(value=value)), None

    state = jax.jit(lambda state: jax.lax.scan(update, state, jnp.arange(updates))[0])(state)
    some = every_step(jax.random.key(2))
    found = jax.vmap(state.target_critics.value)(jnp.zeros((40, 1)), some.noisy_action, some.step).mean(axis=1)
    np.testing.assert_allclose(found, jax.vmap(exact_value)(some.noisy_action, some.step), atol=0.08)
    nowhere = Transition(*(jnp.zeros(s) for s in ((500, 1), (500, 2), (500,), (500, 1), (500,))))
    _, kl = eqx.filter_jit(algorithm.q_target)(state, nowhere, jax.random.key(3))
    assert float(kl) == pytest.approx(1.0333, rel=0.1)
    draw = jax.jit(jax.vmap(lambda k: vp.sample(SCHEDULE, state.target_actor, jnp.zeros(1), k, 2, None)))
    actions = draw(jax.random.split(jax.random.key(4), 5000))
    np.testing.assert_allclose(actions.mean(axis=0), [1.1923, -0.7949], atol=0.1)


def test_values_of_the_behaviour_itself_are_its_mean_q():
    """Section 16.4: without penalty V_n regresses E[Q | a_n] = sqrt(abar_n) g.a_n, whatever eta is."""
    algorithm, state = closed_form(samples=256, shift=0.0)

    class MeanQ(ExactValue):
        def __init__(self):
            super().__init__()

        def __call__(self, observation: Array, noisy_action: Array, step: Array) -> Array:
            return super().__call__(observation, noisy_action, step) - (1 - jnp.asarray(ABAR)[step]) * float(G @ G) / (
                2 * ETA
            )

    state = state._replace(target_critics=state.target_critics._replace(value=MeanQ()))
    some = every_step(jax.random.key(1))
    value, _ = eqx.filter_jit(algorithm.one_step_value)(
        state.target_actor, state, jnp.zeros((40, 1)), some, jax.random.key(2)
    )
    expected = jnp.sqrt(jnp.asarray(ABAR)[some.step]) * (some.noisy_action @ jnp.asarray(G))
    np.testing.assert_allclose(value, expected, atol=0.045)  # as above


def test_the_confidence_bound_is_of_means_over_samples():
    """Section 16.6: M first, then K. Two heads that disagree about single actions and agree on their mean lose nothing;
    the bound of single actions would take |g.noise| away."""

    class Opposite(ExactValue):
        def __init__(self):
            super().__init__()

        def __call__(self, observation: Array, noisy_action: Array, step: Array) -> Array:
            value = noisy_action @ jnp.asarray(G)
            return jnp.stack([value, -value])

    algorithm, state = closed_form(samples=4000, shift=0.0)
    cautious = eqx.tree_at(lambda a: a.pessimism, algorithm, 1.0)
    state = state._replace(target_critics=state.target_critics._replace(value=Opposite()))
    origin = vp.Diffused(jnp.zeros((1, 2)), jnp.asarray([3], jnp.int32), jnp.zeros((1, 2)))
    value, _ = cautious.one_step_value(state.actor, state, jnp.zeros((1, 1)), origin, jax.random.key(0))
    per_action = float(np.linalg.norm(G)) * SCHEDULE.deviation[3] * np.sqrt(2 / np.pi)  # 0.23
    assert abs(float(value[0])) < 0.1 * per_action


def test_the_actor_step_moves_nothing_that_it_reads():
    """Section 16.5: behaviour and critics are constants of L_pi."""
    algorithm = BDPO(**TINY, samples=2, actor_warmup_updates=0)
    state = algorithm.init(SPEC, jax.random.key(0))
    columns = [jnp.full(shape, 0.3) for shape in ((4, 1), (4, 2), (4,), (4, 1))]
    batch = Transition(*columns, jnp.zeros(4))  # pyright: ignore[reportCallIssue]
    after, _ = jax.jit(algorithm._update_actor)(state, batch, jax.random.key(1), 1.0)
    assert not eqx.tree_equal(after.actor, state.actor)
    for field in ("critics", "target_critics", "behaviour", "target_behaviour"):
        assert eqx.tree_equal(getattr(after, field), getattr(state, field)), field


def test_without_a_difference_there_is_no_penalty():
    algorithm, state = closed_form(samples=2, shift=0.0)
    batch = Transition(*(jnp.zeros(s) for s in ((4, 1), (4, 2), (4,), (4, 1), (4,))))
    assert algorithm.q_target(state, batch, jax.random.key(0))[1] == 0
    value = algorithm.one_step_value(
        state.actor, state, jnp.zeros((40, 1)), every_step(jax.random.key(1)), jax.random.key(0)
    )
    assert value[1] == 0


@pytest.mark.long
def test_sorted_steps_give_the_value_that_any_order_gives():
    """Q is evaluated for the rows with n = 1 and V for the others: the same numbers as both for all."""
    algorithm, rows = BDPO(**TINY, samples=3), 13
    state = algorithm.init(SPEC, jax.random.key(0))
    for seed in range(5):
        diffused = vp.diffuse_evenly(SCHEDULE, jax.random.normal(jax.random.key(9), (rows, 2)), jax.random.key(seed))
        arguments = state.actor, state, jnp.zeros((rows, 1)), diffused, jax.random.key(2)
        either, certain = (algorithm.one_step_value(*arguments, evenly) for evenly in (False, True))
        np.testing.assert_allclose(certain[0], either[0], rtol=1e-5, atol=1e-6)


def test_penalty_orders_differ_where_they_should():
    """ "separate" charges the penalty undiscounted, and on terminal rows too."""
    algorithm, state = closed_form(samples=4)
    separate = BDPO(**TINY, eta=ETA, samples=4, clip_denoised=False, penalty_order="separate")
    batch = Transition(*(jnp.zeros(s) for s in ((2, 1), (2, 2), (2,), (2, 1))), jnp.asarray([0.0, 1.0]))  # pyright: ignore[reportCallIssue]
    (one, kl), (other, _) = (a.q_target(state, batch, jax.random.key(0)) for a in (algorithm, separate))
    np.testing.assert_allclose(one - other, [(1 - 0.99) * ETA * kl, ETA * kl], rtol=1e-4)


def test_the_penalty_pulls_even_where_the_clean_action_is_clipped():
    """With the clip active the value has no gradient; the penalty, of unclipped means, still does."""
    algorithm, state = closed_form(samples=2)
    clipping = BDPO(**TINY, eta=ETA, samples=2, clip_denoised=True)
    far = vp.Diffused(jnp.full((1, 2), 50.0), jnp.ones(1, jnp.int32), jnp.zeros((1, 2)))

    def slope(chosen: BDPO) -> float:
        loss = lambda actor: chosen.actor_loss(actor, state, jnp.zeros((1, 1)), far, jax.random.key(0))[0]  # noqa: E731
        return float(eqx.filter_grad(loss)(GaussianNoise(0.5)).shift)

    penalty_alone = float(
        jax.grad(
            lambda s: (
                ETA
                * vp.kernel_kl(SCHEDULE, jnp.asarray(1), s * jnp.sqrt(ABAR[1] * (1 - ABAR[1])) * G / ETA, jnp.zeros(2))
            )
        )(0.5)
    )
    assert slope(clipping) == pytest.approx(penalty_alone, rel=1e-4)
    assert slope(algorithm) < slope(clipping)


def test_warm_up_hand_over_and_interval():
    algorithm = BDPO(**TINY, samples=2, actor_warmup_updates=4, actor_update_interval=2)
    state = algorithm.init(SPEC, jax.random.key(0))
    trained = state._replace(target_behaviour=jax.tree.map(lambda leaf: leaf + 0.1, state.behaviour))
    generator = np.random.default_rng(0)
    columns = [generator.normal(size=s) for s in ((8, 1), (8, 2), (8,), (8, 1))]
    batch = Transition(*(jnp.asarray(np.tanh(c), jnp.float32) for c in columns), jnp.zeros(8))  # pyright: ignore[reportCallIssue]
    update, same = (
        jax.jit(algorithm.update),
        lambda a, b: jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)),
    )
    first, _ = update(trained, batch, jax.random.key(1), jnp.asarray(0))
    assert same(first.actor, trained.target_behaviour)
    assert same(first.target_actor, trained.target_behaviour)
    for step, moves in ((1, False), (3, False), (4, True), (5, False), (6, True)):
        after, metrics = update(first, batch, jax.random.key(1), jnp.asarray(step))
        assert same(after.actor, first.actor) != moves, step
        assert (float(metrics["actor/loss"]) != 0) == moves
        assert same(after.target_behaviour, first.target_behaviour)  # fixed is the default


@pytest.mark.long
def test_a_continuing_behaviour_learns_on_with_the_actor():
    fixed = BDPO(**TINY, samples=2, actor_warmup_updates=0)
    continuing = BDPO(**TINY, samples=2, actor_warmup_updates=0, behaviour_in_training="continuing")
    state = fixed.init(SPEC, jax.random.key(0))
    batch = Transition(*(jnp.full(s, 0.3) for s in ((4, 1), (4, 2), (4,), (4, 1))), jnp.zeros(4))  # pyright: ignore[reportCallIssue]
    for algorithm, moves in ((fixed, False), (continuing, True)):
        after, _ = jax.jit(algorithm.update)(state, batch, jax.random.key(1), jnp.asarray(0))
        moved = [
            bool((x != y).any()) for x, y in zip(*map(jax.tree.leaves, (after.behaviour, state.behaviour)), strict=True)
        ]
        assert any(moved) == moves


def test_the_15_presets_build():
    presets = load_presets("bdpo")
    assert len(presets) == 15
    fields = BDPO.__dataclass_fields__
    for values in presets.values():
        BDPO(**parse_fields(BDPO, {name: value for name, value in values.items() if name in fields}))
    # Spec section 10.2: eta, rho, K, max-Q, candidates.
    columns = ("eta", "pessimism", "ensemble_size", "max_q_backup", "candidates")
    rows = {task: tuple(values[column] for column in columns) for task, values in presets.items()}
    assert {rows[f"halfcheetah-{kind}-v2"] for kind in KINDS} == {(0.05, 0.5, 10, False, 10)}
    assert rows["hopper-medium-v2"] == (0.2, 2.0, 20, False, 10)
    assert rows["hopper-medium-expert-v2"] == (0.2, 2.0, 10, False, 10)
    assert {rows[f"walker2d-{kind}-v2"] for kind in KINDS} == {(0.15, 1.0, 10, False, 10)}
    assert rows["antmaze-umaze-v0"] == (0.5, 0.8, 10, True, 10)
    assert rows["antmaze-umaze-diverse-v0"] == (0.5, 0.8, 10, True, 1)
    assert rows["antmaze-medium-play-v0"] == rows["antmaze-medium-diverse-v0"] == (0.2, 0.8, 10, True, 10)
    assert rows["antmaze-large-play-v0"] == rows["antmaze-large-diverse-v0"] == (1.0, 0.8, 10, True, 10)
