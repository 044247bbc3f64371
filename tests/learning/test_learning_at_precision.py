"""Learning is unharmed by matmuls in bfloat16: the same answers as in float32, for a regression and for a climb."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether import Options, train
from tether.algorithms import ALGORITHMS
from tether.bandits.problems import get_problem
from tether.bandits.scores import energy_distance
from tether.bandits.train import train_bandit
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.training.loop import NEVER, init_lanes, run_updates
from tether.types import Spec, Transition

ROWS, BEST = 2000, 0.4
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (ROWS, 1)).astype(np.float32)
DATA = Transition(
    observation=jnp.ones((ROWS, 1)),
    action=jnp.asarray(ACTIONS),
    reward=jnp.asarray(1.0 - (ACTIONS[:, 0] - BEST) ** 2),
    next_observation=jnp.ones((ROWS, 1)),
    terminal=jnp.ones(ROWS),
)
HALFCHEETAH = Path(__file__).parents[3] / "shared" / "data" / "halfcheetah-medium.hdf5"
SETTINGS = {"bc": {}, "td3-bc": {"q_weight": 50.0, "critic_learning_rate": 1e-3, "learning_rate": 1e-3}}
ANSWERS = {"bc": float(ACTIONS.mean()), "td3-bc": BEST}  # of this weight cloning has hardly a say


@functools.cache
def modes(name: str, precision: str) -> np.ndarray:
    """What three seeds do in the one state."""
    algorithm = ALGORITHMS[name](hidden_sizes=(32, 32), **SETTINGS[name])
    lanes = stack_lanes(algorithm, [Lane(seed, {}) for seed in range(3)])
    keys = jax.random.split(jax.random.key(0), 3)
    state = init_lanes(lanes, Spec(1, 1), keys)
    span = jnp.ones(3, bool), DATA, jnp.int32(0), jnp.int32(1500)
    how = {"phase": 0, "batch_size": 128, "sequential": True, "precision": precision}
    state, _, first = run_updates(lanes, state, keys, *span, **how)
    assert (first == NEVER).all()
    policies = [take_lane(lanes, i).policy(take_lane(state, i)) for i in range(3)]
    return np.array([policy(jnp.ones(1), jax.random.key(1))[0] for policy in policies])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "bc" else pytest.mark.long) for name in SETTINGS]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_answer_is_found_in_both_precisions(name: str, precision: str) -> None:
    np.testing.assert_allclose(modes(name, precision), ANSWERS[name], atol=0.1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "bc" else pytest.mark.long) for name in SETTINGS]
)
def test_bfloat16_is_no_copy_of_float32(name: str) -> None:
    assert (modes(name, "float32") != modes(name, "bfloat16")).all()


SMALL = {  # bfloat16 is slow on a CPU
    "dtql": {"hidden_sizes": (64, 64), "denoiser_hidden_sizes": (64, 64), "pretrain_updates": 2000},
    "dac": {"hidden_sizes": (64, 64), "ensemble_size": 2, "next_actions": 2},
}


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL)
def test_bandits_score_alike(name: str) -> None:
    """Energy distance of the policy's samples to the target on a 2-D problem: means over 3 seeds within their noise."""
    problem = get_problem("8gaussians")
    target = problem.target(2000, np.random.default_rng(7)).actions
    settings = {"train_updates": 2000, **SMALL[name]}
    found = {}
    for precision in ("float32", "bfloat16"):
        runs = [train_bandit(name, problem, settings, seed=seed, quiet=True, precision=precision) for seed in range(3)]
        found[precision] = np.array([energy_distance(run.sample(2000, 1), target) for run in runs])
    one, other = found.values()
    noise = np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 3)
    assert abs(one.mean() - other.mean()) < 3 * noise + 0.02, found
    data = energy_distance(problem.sample(2000, np.random.default_rng(8)).actions, target)
    assert max(one.mean(), other.mean()) < data, found  # both have learned: untrained policies score 7, the data 2.7


@pytest.mark.long
@pytest.mark.skipif(not HALFCHEETAH.exists(), reason="the shared data are not here")
def test_halfcheetah_scores_alike(tmp_path: Path) -> None:
    """Scores of four seeds after 25,000 updates on 200,000 real transitions: means within the noise over seeds."""
    found = {}
    for precision in ("float32", "bfloat16"):
        settings = Options(eval_every_updates=25_000, eval_episodes=5, precision=precision)
        algorithm = ALGORITHMS["td3-bc"](train_updates=25_000)
        train(algorithm, str(HALFCHEETAH), seeds=4, options=settings, out=tmp_path / precision, quiet=True)
        rows = [json.loads(line) for line in (tmp_path / precision / "evaluations.jsonl").read_text().splitlines()]
        scores = np.array([row["normalized_score"] for row in sorted(rows, key=lambda row: row["lane"])])
        found[precision] = scores.reshape(4, 5).mean(axis=1)
    one, other = found.values()
    noise = np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 4)
    assert abs(one.mean() - other.mean()) < 3 * noise + 1, found
    assert min(one.mean(), other.mean()) > 35, found
