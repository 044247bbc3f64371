"""Episodes against environments whose every number is known, and against one stepped by hand."""

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.environments import TASKS, Task, get_task
from tether.environments.make import make_environment
from tether.errors import InputError
from tether.evaluation.rollout import FIRST_EVALUATION_SEED, rollout
from tether.policies.deployed import DeployedPolicy

ENVIRONMENT = "tether-tests/Countdown-v0"
TASK = Task("countdown", observation_size=2, action_size=1, horizon=9, gymnasium_id=ENVIRONMENT)


class Countdown(gymnasium.Env):
    """Observes (steps left, start); a step pays the action times the steps left and ends the episode at none."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    steps_after_end: ClassVar[int] = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        assert seed is not None
        self.start = self.left = 2 + (seed - FIRST_EVALUATION_SEED) * 3
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        Countdown.steps_after_end += self.left == 0
        reward = float(action[0]) * self.left
        self.left -= 1
        return self._observe(), reward, self.left == 0, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.left, self.start], np.float32)


@pytest.fixture(autouse=True)
def countdown() -> Iterator[None]:
    gymnasium.register(ENVIRONMENT, Countdown)
    yield
    del gymnasium.registry[ENVIRONMENT]


class Constant(eqx.Module):
    """Always the same action, plus a little noise where asked."""

    action: jax.Array
    noise: jax.Array

    def __call__(self, observation: jax.Array, key: jax.Array) -> jax.Array:
        return self.action + self.noise * jax.random.normal(key, self.action.shape)


class Linear(eqx.Module):
    """Depends on every coordinate, so that a wrong observation shows."""

    weight: jax.Array

    def __call__(self, observation: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.tanh(self.weight @ observation)


def deployed(policy: Any, observation_size: int, action_size: int) -> DeployedPolicy:
    """Lanes of `policy`, whose arrays have a leading axis, without normalisation."""
    fixed = jnp.zeros(observation_size), jnp.ones(observation_size), jnp.ones(action_size), jnp.zeros(action_size)
    low, high = (-1.0,) * action_size, (1.0,) * action_size
    return jax.vmap(lambda one: DeployedPolicy(one, *fixed, action_low=low, action_high=high))(policy)


def constants(actions: list[float], noise: float = 0.0) -> DeployedPolicy:
    noises = jnp.full((len(actions), 1), noise)
    return deployed(Constant(jnp.array(actions)[:, None], noises), 2, 1)


def keys(lanes: int) -> jax.Array:
    return jax.random.split(jax.random.key(3), lanes)


def test_returns_lengths_and_the_horizon() -> None:
    Countdown.steps_after_end = 0
    steps = []
    outcome = rollout(constants([1.0, -0.5]), TASK, 4, keys(2), lambda step, horizon: steps.append((step, horizon)))
    lengths = np.array([2, 5, 8, 9])  # the fourth would last 11 steps but for the horizon
    sums = np.array([2 + 1, 15, 36, sum(range(3, 12))])
    np.testing.assert_array_equal(outcome.lengths, [lengths, lengths])  # common starts
    np.testing.assert_allclose(outcome.returns, [sums, -0.5 * sums])
    assert steps == [(step, 9) for step in range(1, 10)]
    assert Countdown.steps_after_end == 0  # an environment that has ended is left alone


def test_same_keys_same_episodes() -> None:
    policies = constants([0.3, 0.3], noise=0.1)
    first = rollout(policies, TASK, 2, keys(2))
    again = rollout(policies, TASK, 2, keys(2))
    other = rollout(policies, TASK, 2, jax.random.split(jax.random.key(4), 2))
    np.testing.assert_array_equal(first.returns, again.returns)
    assert (first.returns != other.returns).all()
    assert len(set(first.returns[:, 0])) == 2  # lanes have noise of their own
    by_start = first.returns / np.array([3, 15])
    assert len(set(by_start.ravel())) == 4  # and so have episodes


def test_on_step_may_stop_it() -> None:
    def stop(step: int, horizon: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout(constants([1.0]), TASK, 2, keys(1), stop)


def test_rewards_may_be_arrays_of_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, step = rollout(constants([1.0]), TASK, 2, keys(1)), Countdown.step

    def pays(array: Callable[[Any], Any]) -> None:
        def stepped(self: Any, action: Any) -> Any:
            observation, reward, *rest = step(self, action)
            return observation, array(reward), *rest

        monkeypatch.setattr(Countdown, "step", stepped)

    pays(lambda reward: np.array([reward]))
    np.testing.assert_array_equal(rollout(constants([1.0]), TASK, 2, keys(1)).returns, plain.returns)
    pays(lambda reward: np.array([reward, 0.0]))
    with pytest.raises(InputError, match=r"environment countdown: step gives the reward array\(.*; needs one number"):
        rollout(constants([1.0]), TASK, 2, keys(1))


def test_hopper_stepped_by_hand() -> None:
    weight = jax.random.normal(jax.random.key(0), (2, 3, 11))
    short = Task("hopper", 11, 3, horizon=8, gymnasium_id="Hopper-v4")
    outcome = rollout(deployed(Linear(weight), 11, 3), short, 2, keys(2))
    for lane in range(2):
        for episode in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                environment = gymnasium.make("Hopper-v4", max_episode_steps=8)
            observation, _ = environment.reset(seed=FIRST_EVALUATION_SEED + episode)
            total, length, over = 0.0, 0, False
            while not over:
                action = np.tanh(np.asarray(weight[lane]) @ observation.astype(np.float32))
                observation, reward, terminated, truncated, _ = environment.step(action)
                total, length, over = total + float(reward), length + 1, terminated or truncated
            environment.close()
            assert outcome.lengths[lane, episode] == length
            assert outcome.returns[lane, episode] == pytest.approx(total, rel=1e-4)


def test_numbers_that_are_not_finite_come_back_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = Task("halfcheetah", 17, 6, horizon=3, gymnasium_id="HalfCheetah-v4")
    policy = deployed(Constant(jnp.full((1, 6), jnp.nan), jnp.zeros((1, 6))), 17, 6)
    assert np.isnan(rollout(policy, short, 1, keys(1)).returns).all()
    assert list(tmp_path.iterdir()) == []  # MuJoCo would write MUJOCO_LOG.TXT


def test_a_task_without_environment_is_refused() -> None:
    with pytest.raises(InputError, match="task 'robot' cannot be evaluated: it stands elsewhere"):
        make_environment(Task("robot", 3, 1, unavailable="it stands elsewhere"))


@pytest.mark.parametrize("name", TASKS)
def test_environments_are_built_without_a_word(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    task = get_task(name)
    if task.extra == "robotics" and importlib.util.find_spec("gymnasium_robotics") is None:
        pytest.skip("gymnasium-robotics is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        environment = make_environment(task)
    spec = environment.spec
    assert spec is not None
    assert spec.max_episode_steps == task.horizon
    assert environment.observation_space.shape == (task.observation_size,)
    assert environment.action_space == gymnasium.spaces.Box(-1.0, 1.0, (task.action_size,))
    observation, _ = environment.reset(seed=0)
    assert observation.shape == (task.observation_size,)
    assert np.isfinite(observation).all()
    environment.close()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_printed_in_a_fresh_process(tmp_path: Path) -> None:
    program = (
        "from tether.environments import get_task\n"
        "from tether.evaluation.rollout import make_environment\n"
        "make_environment(get_task('hopper')).reset(seed=0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []
