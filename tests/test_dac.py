"""DAC's identities (arXiv 2405.20555)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms.dac import DAC, guided_loss
from tether.algorithms.shared.losses import aggregate_heads
from tether.diffusion import vp
from tether.networks import QEnsemble
from tether.policies.samplers import ancestral_sampler
from tether.presets import load_presets
from tether.types import Array, Spec, Transition

SPEC = Spec(observation_size=3, action_size=2)
TINY: dict[str, Any] = {"hidden_sizes": (8,), "ensemble_size": 3, "next_actions": 2, "candidates": 2}


def make_batch(rows: int = 16) -> Transition:
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    terminal = jnp.asarray(generator.random(rows) < 0.3, jnp.float32)
    return Transition(normal(rows, 3), jnp.tanh(normal(rows, 2)), normal(rows), normal(rows, 3), terminal)


def leaves_equal(one: Any, other: Any) -> bool:
    return all(bool((x == y).all()) for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.mark.parametrize(("sizes", "actor", "head"), [((11, 3), 145_987, 135_681), ((17, 6), 149_062, 137_985)])
def test_parameter_counts(sizes, actor, head):
    state = jax.eval_shape(lambda key: DAC().init(Spec(*sizes), key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.actor)) == actor
    assert sum(leaf.size for leaf in jax.tree.leaves(state.critic)) == 10 * head


def test_without_guidance_it_is_behaviour_cloning():
    algorithm = DAC(**TINY)
    state, batch = algorithm.init(SPEC, jax.random.key(0)), make_batch()
    diffused = vp.diffuse(vp.vp_schedule(5), batch.action, jax.random.key(1))
    nothing, one = jnp.zeros_like(batch.action), jnp.asarray(1.0)
    guided = jax.grad(lambda actor: guided_loss(actor, batch.observation, diffused, nothing, one)[0])(state.actor)
    cloned = jax.grad(lambda actor: vp.noise_loss(actor, batch.observation, diffused))(state.actor)
    assert leaves_equal(guided, cloned)


def test_linear_q_shifts_the_noise_by_minus_sigma_q_over_two_eta():
    """Pointwise minimum of the loss: eps - sigma_t q / (2 eta), for a critic whose slope is q everywhere."""
    noise, slope, eta, sigma = jnp.asarray([[0.3, -1.2]]), jnp.asarray([[2.0, -0.5]]), jnp.asarray(0.4), 0.75
    diffused = vp.Diffused(jnp.zeros((1, 2)), jnp.ones(1, jnp.int32), noise)

    def loss(output: Array) -> Array:
        return guided_loss(lambda x, s, t: output[0], jnp.zeros((1, 3)), diffused, sigma * slope, eta)[0]

    output = jnp.zeros((1, 2))
    for _ in range(2):  # Newton's method on a quadratic: exact after one step
        hessian = jax.hessian(loss)(output).reshape(2, 2)
        output = output - jnp.linalg.solve(hessian, jax.grad(loss)(output).reshape(2)).reshape(1, 2)
    np.testing.assert_allclose(output, noise - sigma * slope / (2 * eta), rtol=1e-5)


@pytest.mark.parametrize("guidance", ["soft", "hard"])
def test_guidance_is_the_normalised_slope_of_the_mean_head_at_the_noisy_action(guidance):
    algorithm = DAC(**TINY, guidance=guidance)
    state, batch = algorithm.init(SPEC, jax.random.key(0)), make_batch(4)
    diffused = vp.diffuse(vp.vp_schedule(5), batch.action, jax.random.key(1))
    field, scale = algorithm.guidance_field(state.target_critic, batch, diffused)
    q = jax.vmap(state.target_critic)(batch.observation, batch.action)
    assert scale == pytest.approx(float(jnp.abs(q).mean()) + 1e-6)
    sigma = np.sqrt(1 - vp.vp_schedule(5).alpha_bar)[np.asarray(diffused.step)]
    for row in range(4):
        for axis in range(2):
            nudge = jnp.zeros(2).at[axis].set(1e-2)
            up, down = (
                state.target_critic(batch.observation[row], diffused.noisy_action[row] + sign * nudge).mean()
                for sign in (1, -1)
            )
            slope = float(up - down) / 2e-2 / float(scale)
            expected = slope * (sigma[row] if guidance == "soft" else 1.0)
            assert field[row, axis] == pytest.approx(expected, rel=2e-2, abs=2e-3)


def test_target_reduces_actions_per_head_before_the_confidence_bound():
    heads = jnp.asarray([[1.0, 3.0], [5.0, 5.0], [3.0, 1.0]])  # [ensemble, batch]
    np.testing.assert_allclose(aggregate_heads(heads, "lcb", 0.0), [3.0, 3.0], rtol=1e-5)
    population = np.sqrt(8 / 3)
    np.testing.assert_allclose(aggregate_heads(heads, "lcb", 1.5), 3.0 - 1.5 * population, rtol=1e-5)
    np.testing.assert_allclose(aggregate_heads(heads, "mean"), [3.0, 3.0], rtol=1e-5)
    np.testing.assert_allclose(aggregate_heads(heads, "min", 9.0), [1.0, 1.0])
    np.testing.assert_allclose(aggregate_heads(heads, "convex", 0.75), [2.0, 2.0])


class LinearHeads(QEnsemble):
    """Three heads, each linear in the action, with other slopes."""

    def __init__(self):
        self.heads = ()

    def __call__(self, observation: Array, action: Array) -> Array:
        return jnp.asarray([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]]) @ action


@pytest.mark.parametrize("best", [False, True])
def test_every_head_picks_its_own_best_action(best):
    """Max-Q backup: the largest per head, then the bound. Heads with opposite slopes pick opposite actions."""
    sizes: dict[str, Any] = TINY | {"next_actions": 50}
    algorithm = DAC(**sizes, pessimism=0.5, discount=1.0, max_q_backup=best)
    state, batch = algorithm.init(SPEC, jax.random.key(0)), make_batch(2)
    state = state._replace(target_critic=LinearHeads())
    batch = batch._replace(terminal=jnp.zeros(2), reward=jnp.zeros(2))
    draw = ancestral_sampler(vp.vp_schedule(5), True)
    for row, key in enumerate(jax.random.split(jax.random.key(1), 2)):
        keys = jax.random.split(key, 50)
        actions = jax.vmap(lambda k, row=row: draw(state.target_actor, batch.next_observation[row], k))(keys)
        q = np.asarray(jax.vmap(lambda a: LinearHeads()(a, a))(actions))
        heads = q.max(axis=0) if best else q.mean(axis=0)
        expected = heads.mean() - 0.5 * heads.std()  # population
        assert algorithm.critic_target(state, batch, jax.random.key(1))[row] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("guidance", ["soft", "denoised"])
def test_actor_and_critic_learn_from_their_own_losses(guidance):
    """Neither step moves the other network, nor what the target is made of."""
    algorithm = DAC(**TINY, guidance=guidance)
    state, batch = algorithm.init(SPEC, jax.random.key(0)), make_batch()
    after, _ = jax.jit(algorithm._update_actor)(state, batch, jax.random.key(1), 1.0)
    assert not leaves_equal(after.actor, state.actor)
    assert leaves_equal((after.critic, after.target_critic), (state.critic, state.target_critic))
    after, _ = jax.jit(algorithm._update_critic)(state, batch, jax.random.key(1), 1.0)
    assert not leaves_equal(after.critic, state.critic)
    assert leaves_equal((after.actor, after.target_actor, after.eta), (state.actor, state.target_actor, state.eta))


def test_terminal_rows_and_discount_in_the_target():
    algorithm = DAC(**TINY, pessimism=0.0, discount=0.5)
    state, batch = algorithm.init(SPEC, jax.random.key(0)), make_batch()
    ended = batch._replace(terminal=jnp.ones(16))
    np.testing.assert_array_equal(algorithm.critic_target(state, ended, jax.random.key(1)), batch.reward)
    going = batch._replace(terminal=jnp.zeros(16))
    value = (algorithm.critic_target(state, going, jax.random.key(1)) - batch.reward) / 0.5
    best = DAC(**TINY, pessimism=0.0, discount=0.5, max_q_backup=True)
    assert (best.critic_target(state, going, jax.random.key(1)) - batch.reward >= 0.5 * value - 1e-5).all()


def test_eta_follows_the_noise_error_and_stays_in_its_range():
    batch, key = make_batch(), jax.random.key(1)
    for bound, direction in ((0.0, 1), (10.0, -1)):  # every error is above 0 and, untrained, below 10
        algorithm = DAC(**TINY, noise_bound=bound)
        state = algorithm.init(SPEC, jax.random.key(0))
        after, _ = jax.jit(algorithm.update)(state, batch, key, jnp.asarray(0))
        moved = float(after.eta - state.eta)
        assert np.sign(moved) == direction
        assert abs(moved) <= 0.001 + 1e-7
    low = algorithm.init(SPEC, jax.random.key(0))._replace(eta=jnp.asarray(1e-3))
    assert float(jax.jit(algorithm.update)(low, batch, key, jnp.asarray(0))[0].eta) == pytest.approx(1e-3)
    fixed = DAC(**TINY, eta_learning_rate=0.0, eta_init=0.1)
    state = fixed.init(SPEC, jax.random.key(0))
    assert jax.jit(fixed.update)(state, batch, key, jnp.asarray(0))[0].eta == state.eta


@pytest.mark.parametrize("guidance", ["soft", "denoised"])
def test_eta_moves_by_the_noise_error_of_the_actor_before_its_step(guidance):
    """The step is made long, so that the error after it is another one."""
    algorithm = DAC(**TINY, guidance=guidance, noise_bound=0.9, learning_rate=0.1, eta_learning_rate=0.5)
    state, batch, key = algorithm.init(SPEC, jax.random.key(0)), make_batch(), jax.random.key(1)
    after, metrics = jax.jit(algorithm._update_actor)(state, batch, key, 1.0)
    diffused = vp.diffuse(vp.vp_schedule(5), batch.action, jax.random.split(key)[0])
    before, then = (vp.noise_loss(actor, batch.observation, diffused) for actor in (state.actor, after.actor))
    assert metrics["actor/noise_error"] == pytest.approx(float(before), rel=1e-5)
    assert abs(float(then - before)) > 0.05
    moved = 0.5 * min(max(float(before) - 0.9, -1.0), 1.0)
    assert float(after.eta - state.eta) == pytest.approx(moved, abs=1e-5)


def test_actor_average_first_moves_in_update_1005():
    algorithm = DAC(**TINY)
    state, batch = algorithm.init(SPEC, jax.random.key(0)), make_batch()
    state = state._replace(target_actor=jax.tree.map(lambda leaf: leaf + 1.0, state.actor))
    update = jax.jit(algorithm.update)
    for step, moves in ((0, False), (1000, False), (1004, False), (1005, True), (1006, False), (1010, True)):
        after, _ = update(state, batch, jax.random.key(1), jnp.asarray(step))
        assert leaves_equal(after.target_actor, state.target_actor) != moves, step


def test_the_15_presets_build():
    presets = load_presets("dac")
    assert len(presets) == 15
    fields = DAC.__dataclass_fields__
    for task, values in presets.items():
        DAC(**{name: value for name, value in values.items() if name in fields})
        assert values["reward_transform"] == "iql_locomotion", task
    # Spec section 11, the numbers that differ between tasks: b, rho, reduction over actions, critic's rate.
    columns = ("noise_bound", "pessimism", "max_q_backup", "critic_learning_rate")
    rows = {task: tuple(values[column] for column in columns) for task, values in presets.items()}
    assert rows["halfcheetah-medium-expert-v2"] == (0.1, 0.0, False, 3e-4)
    assert rows["hopper-medium-v2"] == (1.0, 1.5, False, 3e-4)
    assert rows["hopper-medium-expert-v2"] == (0.05, 1.5, False, 3e-4)
    assert rows["walker2d-medium-replay-v2"] == (1.0, 1.0, False, 3e-4)
    assert rows["antmaze-umaze-v0"][1:] == (1.0, True, 3e-4)
    assert rows["antmaze-large-play-v0"][1:] == (1.1, True, 1e-3)
    assert rows["antmaze-large-diverse-v0"][1:] == (1.0, True, 1e-3)
