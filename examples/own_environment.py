"""Your own environment

Policies are scored in any environment of gymnasium's interface: vectors in, bounded continuous actions out. Yours
becomes a name that tether knows; data from it find it, and so do evaluation workers and the command line.
"""

# %%
# ## The environment
#
# A point on a line must be pushed to the origin, against drag. Nothing here knows of tether.
import gymnasium
import numpy as np
from gymnasium import spaces

import tether
from tether.environments import Task


class Push(gymnasium.Env):
    """Position and velocity in, force in [-2, 2] N out; the reward is minus the distance to the origin."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Somewhere on [-1, 1], at rest."""
        super().reset(seed=seed)
        self.position, self.velocity = self.np_random.uniform(-1, 1), 0.0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """A twentieth of a second."""
        self.velocity += 0.05 * (float(action[0]) - 0.5 * self.velocity)
        self.position += 0.05 * self.velocity
        return self._seen(), -abs(self.position), False, False, {}

    def _seen(self) -> np.ndarray:
        return np.array([self.position, self.velocity], np.float32)


gymnasium.register("Push-v0", entry_point=Push, max_episode_steps=100)


# %%
# ## A name for tether
#
# Any gymnasium id works as it is: `environment="Push-v0"`, `--environment my_package:Push-v0`. Registering it as a task
# adds what an id cannot say: which data are recorded in it, and which returns score 0 and 100.
@tether.register("push", kind="environment")
def push() -> Task:
    """The point on the line, scored between doing nothing (0) and the best linear controller (100)."""
    return Task(
        name="push",
        observation_size=2,
        action_size=1,
        datasets=("push-noisy-v0",),
        horizon=100,
        gymnasium_id="Push-v0",
        reference_min=-51.4,
        reference_max=-5.8,
    )


# %%
# ## Data from it
#
# A controller with much noise, recorded for some episodes. `truncations` of gymnasium are tether's `timeouts`: the
# episodes do not end by themselves.
def record(episodes: int) -> tether.Dataset:
    """Episodes of the noisy controller."""
    random, environment, made = np.random.default_rng(0), gymnasium.make("Push-v0"), []
    for number in range(episodes):
        observation, _ = environment.reset(seed=number)
        rows = []
        for _ in range(100):
            action = -2 * observation[:1] - observation[1:] + random.normal(0, 1, 1)
            action = np.clip(action, -2, 2).astype(np.float32)
            after, reward, _, _, _ = environment.step(action)
            rows.append((observation, action, reward))
            observation = after
        made.append(rows)
    columns = [np.array([row[part] for rows in made for row in rows], np.float32) for part in range(3)]
    return tether.Dataset.from_arrays(
        *columns,
        terminals=np.zeros(100 * episodes, bool),
        episodes=np.repeat(np.arange(episodes), 100),
        action_low=-2,
        action_high=2,
        name="push-noisy-v0",
    )


# %%
# ## Train and score
#
# As a script this trains; as a module it only registers, which is what `--plugin own_environment` imports:
#
# ```
# tether train td3-bc push-noisy-v0.hdf5 --plugin own_environment --environment push --updates 5000 --out runs/push
# tether evaluate runs/push --plugin own_environment --episodes 50
# ```
#
# A package of its own names it in an entry point of the group `tether.environments` and needs no `--plugin`.
#
# This run went from the data's 79.8 to 92.5 [84.9, 100.3] in a minute; a second one needs another `out`.
EPISODES, UPDATES = 200, 5_000

if __name__ == "__main__":
    data = record(EPISODES)
    data.to_hdf5("push-noisy-v0.hdf5")
    options = tether.Options(eval_every_updates=UPDATES // 5, eval_episodes=10)
    algorithm = tether.TD3BC(train_updates=UPDATES)
    report = tether.train(algorithm, data, environment="push", options=options, out="runs/push")
    print("the data", report.behaviour, "the policy", report.last, report.score_name)
