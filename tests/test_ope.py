"""Off-policy evaluation against values that are known."""

from typing import Any

import jax
import numpy as np
import pytest

from tether.errors import InputError
from tether.ope import FittedQ, doubly_robust, fit_values, importance_sampling
from tether.ope.fitted_q import EvaluationData

DISCOUNT = 0.8
GAINS = (0.0, 0.5, 1.0)


def linear_quadratic(gains: tuple[float, ...]) -> tuple[EvaluationData, np.ndarray]:
    """s' = 0.9 s + 0.5 a, r = -s^2 - a^2 / 10; the policies a = -k s, whose values are quadratic -> (data, values)."""
    generator = np.random.default_rng(0)
    state, first = (generator.normal(size=(rows, 1)).astype(np.float32) for rows in (4000, 100))
    action = generator.uniform(-1.5, 1.5, state.shape).astype(np.float32)
    following = (0.9 * state + 0.5 * action).astype(np.float32)
    reward = (-(state**2) - 0.1 * action**2)[:, 0]
    data = EvaluationData(
        state,
        action,
        reward,
        following,
        np.zeros(len(state), np.float32),
        first,
        np.stack([-k * following for k in gains]),
        np.stack([-k * first[:, None, :] for k in gains]),
    )
    closed = 0.9 - 0.5 * np.asarray(gains)
    weight = (1 + 0.1 * np.asarray(gains) ** 2) / (1 - DISCOUNT * closed**2)
    return data, -weight * float(np.mean(first**2))


SIZES = {"hidden_sizes": (48, 48), "members": 2, "updates": 1536, "batch_size": 128}
HOW = FittedQ(discount=DISCOUNT, learning_rate=2e-3, target_rate=0.02, **SIZES)


def test_values_of_linear_policies_are_the_closed_form() -> None:
    data, expected = linear_quadratic(GAINS)
    found = fit_values(HOW, data)
    values = found.first.mean(axis=(0, 2))
    np.testing.assert_allclose(values, expected, rtol=0.1)
    assert np.argsort(values).tolist() == np.argsort(expected).tolist()
    assert found.first.shape == (2, 3, 100)
    assert found.highest < 40  # (1.5^2 + 3.5^2) / (1 - 0.8) and a little


def test_the_same_seed_gives_the_same_values() -> None:
    data, _ = linear_quadratic(GAINS[:1])
    few = FittedQ(hidden_sizes=(8,), members=2, updates=64, batch_size=16)
    one, two, other = (fit_values(few, data, seed).first for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    assert (one[0] != one[1]).any()  # members are networks of their own


def test_gradients_do_not_reach_the_targets() -> None:
    data, _ = linear_quadratic(GAINS)
    data = jax.tree.map(jax.numpy.asarray, data)
    member = HOW.init(data, jax.random.key(0))
    target = HOW.targets(member.target, data, jax.numpy.arange(8))
    assert target.shape == (8, len(GAINS))
    following = [
        float(member.target(jax.numpy.concatenate([data.next_observation[3], data.next_action[c, 3]]))[c])
        for c in range(len(GAINS))
    ]
    np.testing.assert_allclose(target[3], data.reward[3] + DISCOUNT * np.asarray(following), rtol=1e-5)


# --- with propensities --------------------------------------------------------------------------------------


def bandit(rows: int = 20_000) -> tuple[np.ndarray, np.ndarray, float]:
    """Two choices, logged with odds 3 to 1, paid 1 and 2; the policy's are 1 to 3 -> (ratio, reward, its value)."""
    chosen = np.random.default_rng(0).random(rows) < 0.25
    ratio = np.where(chosen, 0.75 / 0.25, 0.25 / 0.75)
    return ratio[:, None], np.where(chosen, 2.0, 1.0)[:, None], 0.25 * 1 + 0.75 * 2


@pytest.mark.parametrize("weighted", [False, True])
def test_decisions_of_one_step(weighted: bool) -> None:
    ratio, reward, value = bandit()
    there = np.ones_like(reward, bool)
    found = importance_sampling(ratio, reward, there, weighted=weighted)
    assert found.value == pytest.approx(value, abs=0.05)
    assert found.contributions.sum() == pytest.approx(found.value)
    assert found.effective_episodes == pytest.approx(ratio.sum() ** 2 / (ratio**2).sum())
    model = doubly_robust(ratio, reward, there, q=reward, v=np.full_like(reward, value), weighted=weighted)
    assert model.value == pytest.approx(value)  # an exact model leaves no variance


def test_doubly_robust_needs_only_one_of_both() -> None:
    ratio, reward, value = bandit()
    there = np.ones_like(reward, bool)
    wrong_model = doubly_robust(ratio, reward, there, q=np.full_like(reward, 9.0), v=np.full_like(reward, 9.0))
    assert wrong_model.value == pytest.approx(value, abs=0.05)
    wrong_ratio = doubly_robust(np.ones_like(ratio), reward, there, q=reward, v=np.full_like(reward, value))
    assert wrong_ratio.value == pytest.approx(value)


def test_on_policy_it_is_the_mean_return_of_episodes_of_any_length() -> None:
    reward = np.array([[1.0, 2.0, 4.0], [3.0, 0.0, 99.0]])
    there = np.array([[True, True, True], [True, True, False]])
    ones = np.ones_like(reward)
    for weighted in (False, True):
        found = importance_sampling(ones, reward, there, discount=0.5, weighted=weighted)
        assert found.value == pytest.approx(((1 + 1 + 1) + 3) / 2)


def test_sequences_by_hand() -> None:
    ratio, reward = np.array([[2.0, 0.5], [0.5, 2.0]]), np.array([[1.0, 10.0], [2.0, 20.0]])
    there = np.ones_like(reward, bool)
    plain = importance_sampling(ratio, reward, there, weighted=False)
    assert plain.value == pytest.approx((2 * 1 + 1 * 10 + 0.5 * 2 + 1 * 20) / 2)
    weighted = importance_sampling(ratio, reward, there)
    assert weighted.value == pytest.approx((2 * 1 + 0.5 * 2) / 2.5 + (10 + 20) / 2)


@pytest.mark.parametrize("ratio", [-1.0, np.nan, np.inf])
def test_ratios_that_are_none(ratio: float) -> None:
    with pytest.raises(InputError, match="importance ratios"):
        importance_sampling(np.full((2, 1), ratio), np.ones((2, 1)), np.ones((2, 1), bool))


# --- sequences whose values are known ------------------------------------------------------------------------


def two_states(episodes: int, steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two states, two actions: action 1 moves to the other state, and ends the episode from state 1 with 1 in 4; paid
    1 for action 0 in state 0 and 3 for action 1 in state 1. Logged evenly -> (state, action, valid)."""
    random = np.random.default_rng(seed)
    state, action = np.zeros((2, episodes, steps), int)
    valid, now, there = np.zeros((episodes, steps), bool), np.zeros(episodes, int), np.ones(episodes, bool)
    for t in range(steps):
        state[:, t], valid[:, t] = now, there
        action[:, t] = random.integers(0, 2, episodes)
        there = there & ~((now == 1) & (action[:, t] == 1) & (random.random(episodes) < 0.25))
        now = np.where(action[:, t] == 1, 1 - now, now)
    return state, action, valid


POLICY = np.array([[0.3, 0.7], [0.4, 0.6]])  # of the actions in each state
PAID = np.array([[1.0, 0.0], [0.0, 3.0]])
STAYS, MOVES = np.eye(2), np.array([[0.0, 1.0], [0.75, 0.0]])


def exact(steps: int, discount: float) -> tuple[np.ndarray, np.ndarray]:
    """(Q (steps, state, action), V (steps, state)), by backward induction."""
    q, v = np.zeros((steps, 2, 2)), np.zeros((steps + 1, 2))
    for t in reversed(range(steps)):
        q[t] = PAID + discount * np.stack([STAYS @ v[t + 1], MOVES @ v[t + 1]], axis=1)
        v[t] = (POLICY * q[t]).sum(axis=1)
    return q, v[:-1]


@pytest.mark.parametrize("weighted", [False, True])
def test_values_of_a_small_process(weighted: bool) -> None:
    steps, discount = 4, 0.9
    state, action, valid = two_states(20_000, steps)
    ratio, reward = POLICY[state, action] / 0.5, PAID[state, action]
    q, v = exact(steps, discount)
    found = importance_sampling(ratio, reward, valid, discount, weighted=weighted)
    assert abs(found.value - v[0, 0]) < 4 * found.standard_error < 0.2
    time = np.arange(steps)
    right = q[time, state, action], v[time, state]
    model = doubly_robust(ratio, reward, valid, *right, discount, weighted=weighted)
    assert abs(model.value - v[0, 0]) < 4 * model.standard_error
    assert model.standard_error < 0.8 * found.standard_error
    other = q[time, 1 - state]  # a wrong model, whose v is the mean of its q
    of_it = other[np.arange(len(state))[:, None], time, action], (POLICY[state] * other).sum(axis=2)
    wrong = doubly_robust(ratio, reward, valid, *of_it, discount, weighted=weighted)
    assert abs(wrong.value - v[0, 0]) < 4 * wrong.standard_error


@pytest.mark.parametrize("weighted", [False, True])
def test_standard_errors_are_those_of_repetitions(weighted: bool) -> None:
    found = []
    for seed in range(200):
        state, action, valid = two_states(60, 3, seed)
        found.append(
            importance_sampling(POLICY[state, action] / 0.5, PAID[state, action], valid, 0.9, weighted=weighted)
        )
    spread = np.std([each.value for each in found])
    assert np.mean([each.standard_error for each in found]) == pytest.approx(spread, rel=0.15)


def test_long_episodes_do_not_overflow_and_padding_is_not_read() -> None:
    ratio = np.full((3, 3000), 2.0, np.float32)
    ratio[1] = 0.0  # an episode that the policy cannot have lived
    reward, valid = np.ones((3, 3000), np.float32), np.ones((3, 3000), bool)
    valid[2, 10:], ratio[2, 10:], reward[2, 10:] = False, np.nan, np.nan
    found = importance_sampling(ratio, reward, valid, 0.5)
    assert found.value == pytest.approx(2 - 0.5 * (2 - 2 * (1 - 2.0**-10)), abs=1e-2)
    assert found.effective_episodes == pytest.approx(1.0)
    none = importance_sampling(np.zeros((2, 1)), np.ones((2, 1)), np.ones((2, 1), bool))
    assert (none.value, none.effective_episodes) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"valid": np.ones(3, bool)}, r"bool of shape \(3,\)"),
        ({"valid": np.array([[True, False, True]])}, "padding comes last"),
        ({"reward": np.ones((1, 2))}, r"reward: of shape \(1, 2\)"),
        ({"reward": np.full((1, 3), np.nan)}, "reward: holds numbers"),
        ({"discount": 1.5}, "discount 1.5"),
    ],
)
def test_what_is_no_log(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"ratio": np.ones((1, 3)), "reward": np.ones((1, 3)), "valid": np.ones((1, 3), bool)}
    with pytest.raises(InputError, match=message):
        importance_sampling(**arguments | changed)
