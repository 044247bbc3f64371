"""Every baseline on one bandit whose answers are known: seconds each.

One state, one step. 70 % of the data lie around action -0.5 and earn 0, 30 % around +0.5 and earn 1. What a method must
do with that follows from its equations: weighted regression has closed forms, cloning reproduces the shares, the others
must prefer the rewarded actions, those that stay on the support without leaving it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms import ALGORITHMS
from tether.training.derive import derive_columns
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.training.loop import NEVER, init_lanes, run_updates
from tether.types import Spec, Transition

SPEC, ROWS, BATCH, DRAWS = Spec(observation_size=1, action_size=1), 1024, 128, 512
SMALL: dict[str, Any] = {"hidden_sizes": (32, 32)}
FAST: dict[str, Any] = {"learning_rate": 3e-3, "target_rate": 0.05}
CRITIC: dict[str, Any] = {"critic_learning_rate": 3e-3}


def bandit() -> Transition:
    """The data, in mixed order: the next action is any of them, and no step has a successor."""
    generator = np.random.default_rng(0)
    good = np.arange(ROWS) < 0.3 * ROWS
    generator.shuffle(good)
    action = np.where(good, 0.5, -0.5) + 0.05 * generator.standard_normal(ROWS)
    reward, ones = good.astype(np.float32), np.ones((ROWS, 1), np.float32)
    columns = ones, action[:, None], reward, ones, np.ones(ROWS)
    extra = {"next_action": np.zeros((ROWS, 1)), "return_to_go": reward, "trajectory_end": np.ones(ROWS)}
    as_array = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    return Transition(*map(as_array, columns), **{name: as_array(x) for name, x in extra.items()})


def act(name: str, updates: int, settings: dict[str, Any]) -> np.ndarray:
    """DRAWS actions of the policy after `updates` updates of each phase."""
    algorithm = ALGORITHMS[name](**settings)
    lanes, keys, data = stack_lanes(algorithm, [Lane(0, {})]), jax.random.key(0)[None], bandit()
    state, alive, start = init_lanes(lanes, SPEC, keys), jnp.ones(1, bool), jnp.asarray(0, jnp.int32)
    for phase in range(len(algorithm.phases())):
        derived = derive_columns(lanes, state, keys, data, phase=phase)
        how = {"phase": phase, "batch_size": BATCH, "sequential": True, "derived": derived}
        state, _, first = run_updates(lanes, state, keys, alive, data, start, jnp.int32(updates), **how)
        assert (first == NEVER).all()
    policy = take_lane(lanes, 0).policy(take_lane(state, 0))
    draw = jax.jit(jax.vmap(lambda key: policy(jnp.ones(1), key)))
    return np.asarray(draw(jax.random.split(jax.random.key(1), DRAWS)))[:, 0]


def near(value: float, tolerance: float = 0.05) -> Callable[[np.ndarray], bool]:
    """The mean action is `value`."""
    return lambda actions: abs(actions.mean() - value) < tolerance


def on_the_good_side(actions: np.ndarray) -> bool:
    """It prefers what is rewarded, wherever that leads."""
    return actions.mean() > 0.25


def in_the_good_cluster(actions: np.ndarray) -> bool:
    """And stays on the data: four standard deviations of a cluster."""
    return bool(np.mean(np.abs(actions - 0.5) < 0.2) > 0.9)


def weighted_mean(good: float, bad: float) -> float:
    """Of the two clusters, by the weights of their actions."""
    return 0.5 * (0.3 * good - 0.7 * bad) / (0.3 * good + 0.7 * bad)


EQL_VALUE = 2.0 * np.log(0.7 + 0.3 * np.exp(0.5))  # alpha log E[e^(Q/alpha)], alpha 2
SPREAD = np.sqrt(0.3 * 0.7)  # of the returns


class Answer(NamedTuple):
    """What an algorithm must answer, and with which settings."""

    check: Callable[[np.ndarray], bool]
    settings: dict[str, Any]
    updates: int = 800


ANSWERS: dict[str, Answer] = {
    "bc": Answer(near(weighted_mean(1, 1)), {"learning_rate": 3e-3}),
    "diffusion-bc": Answer(
        # mean and spread of the data are -0.2 and 0.46; so small a network smooths the gap, which narrows them
        lambda a: abs(a.mean() + 0.2) < 0.07 and 0.33 < a.std() < 0.5,
        # with 5 steps the last noise level is as wide as the gap, so all samples would lie in it
        {
            "gradient_norm": 10.0,
            "train_updates": 1500,
            "target_rate": 0.01,
            "learning_rate": 3e-3,
            "diffusion_steps": 20,
        },
        1500,
    ),
    # V is 0.5: the 0.7-expectile of 0 (70 %) and 1 (30 %)
    "iql": Answer(near(weighted_mean(np.exp(1.5), np.exp(-1.5))), FAST | CRITIC | {"train_updates": 800}),
    "sql": Answer(near(0.5), FAST | CRITIC | {"train_updates": 800}),  # V = E[Q] = 0.3 for alpha 1; weights 0.7 and 0
    "eql": Answer(
        near(weighted_mean(np.exp(5 * (1 - EQL_VALUE)), np.exp(-5 * EQL_VALUE))),
        FAST | CRITIC | {"train_updates": 800},
    ),
    "xql": Answer(
        near(weighted_mean(np.exp(3 * (1 - EQL_VALUE)), np.exp(-3 * EQL_VALUE))),
        FAST | CRITIC | {"train_updates": 800},
    ),
    # E over its own action of e^((Q - Q')/lambda) is e^(Q/lambda) times a number that is the same for all rows
    "awac": Answer(near(weighted_mean(np.exp(3), 1)), FAST | CRITIC),
    # standardised advantages are 0.7 and -0.3 over the spread
    "awr": Answer(
        near(weighted_mean(np.exp(0.7 / SPREAD), np.exp(-0.3 / SPREAD))),
        {"learning_rate": 3e-3, "value_learning_rate": 3e-3},
    ),
    "onestep": Answer(on_the_good_side, FAST | {"operator": "easy-bcq", "samples": 32}),
    "dql": Answer(on_the_good_side, FAST | CRITIC | {"train_updates": 800}),
    "edp": Answer(on_the_good_side, FAST | {"diffusion_steps": 21}),
    "idql": Answer(in_the_good_cluster, FAST | CRITIC | {"width": 32, "block_count": 1, "actor_target_rate": 0.05}),
    "srpo": Answer(
        in_the_good_cluster,
        FAST | CRITIC | {"width": 32, "block_count": 2, "q_weight": 0.1, "behaviour_learning_rate": 3e-3},
        1000,
    ),
    "fql": Answer(on_the_good_side, FAST | CRITIC | {"distillation_weight": 1.0}),
    "ifql": Answer(in_the_good_cluster, FAST | CRITIC),
    "dsrl": Answer(
        in_the_good_cluster,
        FAST
        | CRITIC
        | {"learning_rate": 1e-2, "behaviour_learning_rate": 3e-3, "behaviour_hidden_sizes": (32, 32)}
        | {"entropy_target": -1.0},  # narrow enough for the third of the noise that leads there
    ),
    "best-of-n": Answer(in_the_good_cluster, FAST | CRITIC | {"candidates": 16, "next_candidates": 1}),
}


def test_every_baseline_has_an_answer() -> None:
    others = {"dtql", "dtql-kl", "dac", "bdpo", "bdpo-unimodal"}  # test_known_answers.py and their own files
    others |= {"td3-bc", "rebrac", "bcq", "bear", "brac-p", "brac-v", "cql", "rem", "sac"}  # test_policy_constraints.py
    others |= {"cal-ql", "rlpd"}  # there, too
    others |= {"qgpo", "sfbc"}  # test_tilt.py
    others |= {"dt"}  # test_return_conditioning.py
    assert set(ANSWERS) == set(ALGORITHMS) - others


# What takes more than a few seconds to compile is `long`.
QUICK = ("bc", "diffusion-bc", "iql", "awr")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.long) for n in ANSWERS])
def test_known_answer(name: str) -> None:
    answer = ANSWERS[name]
    actions = act(name, answer.updates, SMALL | answer.settings)
    assert np.abs(actions).max() <= SPEC.max_action
    assert answer.check(actions), (actions.mean(), actions.std())
