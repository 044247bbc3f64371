"""Small clean data sets of several kinds for the data doctor, and the known faults to plant in them.

The kinds: locomotion (falls and time-outs), sparse goals, an ant in a maze, a gripper with goals, demonstrations, a
kitchen, short episodes, deterministic control, a one-step bandit, a grid, a replay buffer's growing skill. The faults
are those that D4RL's files have (docs/data.md) and that users ask about in public threads.
"""

import functools
from collections.abc import Callable

import numpy as np

from tether.doctor import Finding, RawColumns
from tether.doctor.checks import run_checks
from tether.doctor.logged import Logged

Columns = dict[str, np.ndarray]


def findings_of(data: RawColumns) -> list[Finding]:
    return run_checks(Logged(data))


def raw(columns: Columns, name: str = "data", extras: Columns | None = None) -> RawColumns:
    return RawColumns(name, "memory", "d4rl", columns, extras or {})


# --- clean data ---------------------------------------------------------------------------------------------


def roll_out(
    start: Callable[[np.random.Generator], np.ndarray],
    act: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    step: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray],
    reward: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    done: Callable[[np.ndarray], bool],
    horizon: int,
    episodes: int,
    seed: int = 0,
) -> Columns:
    """Plays episodes and stores them in D4RL's layout with next observations."""
    generator = np.random.default_rng(seed)
    rows: list[tuple] = []
    for _ in range(episodes):
        state = start(generator)
        for t in range(horizon):
            action = act(state, generator)
            after = step(state, action, generator)
            ended = done(after)
            rows.append((state, action, reward(state, action, after), ended, not ended and t == horizon - 1, after))
            state = after
            if ended:
                break
    names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    columns = {name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in columns.items()}


PULL = np.random.default_rng(1).normal(size=(4, 2)) * 1.5
GAIN = np.random.default_rng(2).normal(size=(8, 2)) * 0.6


def _swing(state: np.ndarray, action: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Four coupled pendulums, pushed by two motors: smooth, a little noisy."""
    angle, speed = state[:4], state[4:]
    force = -4 * np.sin(angle) + 1.5 * np.roll(angle, 1) - 0.2 * speed + PULL @ action
    speed = speed + 0.05 * force + 0.02 * generator.normal(size=4)
    return np.concatenate([angle + 0.05 * speed, speed])


def _noisy_policy(state: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.tanh(state @ GAIN + 0.5 * generator.normal(size=2))


@functools.cache
def _locomotion(horizon: int, seed: int) -> Columns:
    return roll_out(
        start=lambda g: np.concatenate([0.1 * g.normal(size=4), 0.1 * g.normal(size=4)]),
        act=_noisy_policy,
        step=_swing,
        reward=lambda s, a, n: float(1 + (n[0] - s[0]) / 0.05 - 0.1 * a @ a),
        done=lambda s: abs(s[1]) > 2.2,
        horizon=horizon,
        episodes=40,
        seed=seed,
    )


def locomotion(horizon: int = 150, seed: int = 0) -> Columns:
    """Dense rewards, falls (terminal) and time-outs."""
    return dict(_locomotion(horizon, seed))


@functools.cache
def _navigation(stop: bool) -> Columns:
    goal = np.array([2.0, 2.0])

    def near(state: np.ndarray) -> bool:
        return bool(np.linalg.norm(state[:2] - goal) < 0.5)

    return roll_out(
        start=lambda g: np.concatenate([g.uniform(-2, 1, 2), np.zeros(2)]),
        act=lambda s, g: np.clip(0.6 * (goal - s[:2]) - 0.5 * s[2:] + 0.5 * g.normal(size=2), -1, 1),
        step=lambda s, a, g: np.concatenate([s[:2] + 0.1 * s[2:], 0.9 * s[2:] + 0.2 * a + 0.005 * g.normal(size=2)]),
        reward=lambda s, a, n: float(near(n)),
        done=lambda s: stop and near(s),
        horizon=100,
        episodes=70,
    )


@functools.cache
def _maze() -> Columns:
    """maze2d: one stream from sub-goal to sub-goal; a time-out marks that one is reached; 1 is paid near the middle."""
    generator = np.random.default_rng(6)
    state, target = np.zeros(4), generator.uniform(-2, 2, 2)
    rows = []
    for _ in range(12_000):
        action = np.clip(2 * (target - state[:2]) - 1.5 * state[2:] + 0.1 * generator.normal(size=2), -1, 1)
        after = np.concatenate([state[:2] + 0.1 * state[2:], 0.95 * state[2:] + 0.15 * action])
        reached = bool(np.linalg.norm(after[:2] - target) < 0.3)
        rows.append((state, action, float(np.linalg.norm(after[:2]) < 0.7), False, reached))
        target = generator.uniform(-2, 2, 2) if reached else target
        state = after
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    columns = {name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in columns.items()}


def maze() -> Columns:
    """Its rewards are the environment's: for the next observation."""
    return dict(_maze())


def navigation() -> Columns:
    """Sparse: 1 on reaching the goal, which ends the episode."""
    return dict(_navigation(True))


@functools.cache
def _demonstrations() -> Columns:
    """Smooth reaching movements of different lengths; every demonstration ends in a time-out."""
    generator = np.random.default_rng(3)
    parts: list[Columns] = []
    for _ in range(25):
        steps = int(generator.integers(90, 260))
        phase = np.linspace(0, 1, steps + 1)[:, None]
        curve = 10 * phase**3 - 15 * phase**4 + 6 * phase**5  # minimum jerk
        start, end = generator.normal(size=(1, 6)), generator.normal(0.5, 0.2, size=(1, 6))
        wobble = 0.05 * np.sin(2 * np.pi * phase * generator.uniform(1, 3, (1, 6)))
        position = start + (end - start) * curve + wobble * phase * (1 - phase)
        velocity = np.gradient(position, axis=0) * 30
        observations = np.concatenate([position, velocity], axis=1)
        actions = np.clip(np.diff(position, axis=0) * 15 + 0.02 * generator.normal(size=(steps, 6)), -1, 1)
        rewards = np.where(curve[1:, 0] > 0.97, 10.0, -0.1 * np.linalg.norm(position[1:] - end, axis=1))
        timeouts = np.arange(steps) == steps - 1
        parts.append(
            {
                "observations": observations[:-1].astype(np.float32),
                "actions": actions.astype(np.float32),
                "rewards": rewards.astype(np.float32),
                "terminals": np.zeros(steps, bool),
                "timeouts": timeouts,
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def demonstrations() -> Columns:
    return dict(_demonstrations())


@functools.cache
def _short() -> Columns:
    return roll_out(
        start=lambda g: g.normal(size=3),
        act=lambda s, g: np.tanh(g.normal(size=1)),
        step=lambda s, a, g: 0.8 * s + np.array([0.5, -0.3, 0.2]) * a + 0.3 * g.normal(size=3),
        reward=lambda s, a, n: float(-(n @ n)),
        done=lambda s: abs(s[0]) < 0.25,
        horizon=10,
        episodes=500,
    )


def short_episodes() -> Columns:
    """One to ten steps."""
    return dict(_short())


@functools.cache
def _deterministic() -> Columns:
    return roll_out(
        start=lambda g: g.uniform(-1, 1, 4),
        act=lambda s, g: np.clip(-s[:2] - 0.8 * s[2:], -1, 1),
        step=lambda s, a, g: np.concatenate([s[:2] + 0.1 * s[2:], s[2:] + 0.1 * a]),
        reward=lambda s, a, n: float(-(s @ s)),
        done=lambda s: False,
        horizon=60,
        episodes=60,
    )


def deterministic() -> Columns:
    """No noise anywhere; every episode times out at step 60."""
    return dict(_deterministic())


def followed(command: np.ndarray) -> np.ndarray:
    """A joint that follows its command with a lag: a row sees what the rows before it were told."""
    joint, position = np.zeros(len(command)), 0.0
    for row, target in enumerate(command):
        joint[row] = position
        position += 0.9 * (target - position)
    return joint + 0.01 * np.random.default_rng(0).normal(size=len(command))


def bandit() -> Columns:
    """One step each, all terminal."""
    generator = np.random.default_rng(4)
    actions = generator.uniform(-1, 1, (2000, 2)).astype(np.float32)
    return {
        "observations": generator.normal(size=(2000, 3)).astype(np.float32),
        "actions": actions,
        "rewards": actions.sum(axis=1),
        "terminals": np.ones(2000, bool),
        "timeouts": np.zeros(2000, bool),
    }


@functools.cache
def _grid() -> Columns:
    moves = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float64)
    return roll_out(
        start=lambda g: np.zeros(2),
        act=lambda s, g: moves[g.choice(4, p=[0.35, 0.15, 0.35, 0.15])],
        step=lambda s, a, g: np.clip(s + a, 0, 6),
        reward=lambda s, a, n: float((n == 6).all()),
        done=lambda s: bool((s == 6).all()),
        horizon=60,
        episodes=80,
    )


def grid() -> Columns:
    """49 places, moves as unit vectors: rows repeat and states coincide by nature."""
    return dict(_grid())


@functools.cache
def _ant() -> Columns:
    """AntMaze's shape: 29 numbers, xy first; a corner to turn; 1 in the goal, which ends the episode."""
    corner, goal = np.array([8.0, 0.0]), np.array([8.0, 8.0])
    gait = np.random.default_rng(7).uniform(-1, 1, (8, 13))

    def act(state: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        target = corner if state[0] < 7 and state[1] < 1 else goal
        way = (target - state[:2]) / (0.1 + np.linalg.norm(target - state[:2]))
        return np.tanh(np.concatenate([way, np.sin(3 * state[3:9])]) + 0.4 * generator.normal(size=8))

    def step(state: np.ndarray, action: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        speed = 0.7 * state[15:17] + 0.9 * action[:2] + 0.1 * generator.normal(size=2)
        turn = 0.8 * state[17:29] + 0.5 * (action @ gait)[:12] + 0.05 * generator.normal(size=12)
        joints = np.clip(state[2:15] + 0.1 * np.append(turn, turn[0]), -1.2, 1.2)  # joints have limits
        return np.concatenate([state[:2] + 0.1 * speed, joints, speed, turn])

    def near(state: np.ndarray) -> bool:
        return bool(np.linalg.norm(state[:2] - goal) < 0.5)

    return roll_out(
        start=lambda g: np.concatenate([g.uniform(0, 4, 1), g.uniform(-1, 1, 1), 0.1 * g.normal(size=27)]),
        act=act,
        step=step,
        reward=lambda s, a, n: float(near(n)),
        done=near,
        horizon=90,
        episodes=60,
    )


@functools.cache
def _gripper() -> Columns:
    """Pick and place: a gripper that is open or closed, a goal that is the same in all rows and one that changes with
    the episode, -1 until the object is there; nothing ends before the horizon."""

    def act(state: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        holding = state[6] > 0.5
        target = state[7:10] if holding else state[3:6]
        move = np.clip(3 * (target - state[:3]) + 0.2 * generator.normal(size=3), -1, 1)
        close = holding or np.linalg.norm(state[:3] - state[3:6]) < 0.12
        return np.append(move, 1.0 if close else -1.0)

    def step(state: np.ndarray, action: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        hand = state[:3] + 0.06 * action[:3]
        closed = action[3] > 0 and np.linalg.norm(hand - state[3:6]) < 0.15
        thing = hand if closed else state[3:6]
        return np.concatenate([hand, thing, [float(closed)], state[7:]])

    return roll_out(
        start=lambda g: np.concatenate([g.uniform(-1, 1, 6), [0.0], g.uniform(-1, 1, 3), [0.4, -0.88, 0.0]]),
        act=act,
        step=step,
        reward=lambda s, a, n: -float(np.linalg.norm(n[3:6] - n[7:10]) > 0.1),
        done=lambda s: False,
        horizon=80,
        episodes=60,
    )


def kitchen_like() -> Columns:
    """Demonstrations with 10 constant goal entries, most of them zero; the last row of each is terminal, no time-outs;
    the reward counts what is done."""
    columns = without(demonstrations(), "next_observations")
    goals = np.tile(np.array([0, 0, -0.88, -0.01, 0, 0, 0, 1.45, 0, 0], np.float32), (len(columns["rewards"]), 1))
    step = np.arange(len(goals)) - np.repeat(starts(columns), lengths(columns))
    return {
        "observations": np.concatenate([columns["observations"], goals], axis=1),
        "actions": columns["actions"],
        "rewards": np.minimum(step // 25, 4).astype(np.float32),
        "terminals": columns["timeouts"].astype(np.float32)[:, None],  # as in kitchen's files
    }


@functools.cache
def _replay() -> Columns:
    """A replay buffer in order: noise shrinks, episodes grow longer, and it stops in the middle of one."""
    noise = iter(np.linspace(3.0, 0.2, 100_000))
    columns = roll_out(
        start=lambda g: 0.1 * g.normal(size=8),
        act=lambda s, g: np.tanh(s @ GAIN + next(noise) * g.normal(size=2)),
        step=_swing,
        reward=lambda s, a, n: float(1 + (n[0] - s[0]) / 0.05 - 0.1 * a @ a),
        done=lambda s: abs(s[1]) > 1.2,
        horizon=200,
        episodes=60,
        seed=9,
    )
    return take(columns, np.arange(len(columns["rewards"]) - 17))


CLEAN: dict[str, Callable[[], Columns]] = {
    "locomotion": locomotion,
    "locomotion without next observations": lambda: without(locomotion(), "next_observations"),
    "sparse": navigation,
    "antmaze": lambda: dict(_ant()),
    "antmaze without next observations": lambda: without(dict(_ant()), "next_observations"),
    "gripper": lambda: dict(_gripper()),
    "gripper without next observations": lambda: without(dict(_gripper()), "next_observations"),
    "kitchen": kitchen_like,
    "replay": lambda: dict(_replay()),
    "demonstrations": demonstrations,
    "short": short_episodes,
    "deterministic": deterministic,
    "bandit": bandit,
    "grid": grid,
}


# --- tools for faults ---------------------------------------------------------------------------------------


def without(columns: Columns, *names: str) -> Columns:
    return {name: column for name, column in columns.items() if name not in names}


def put(columns: Columns, name: str, index: object, value: object) -> Columns:
    """A copy with `columns[name][index] = value`."""
    column = columns[name].copy()
    column[index] = value  # pyright: ignore[reportCallIssue]
    return {**columns, name: column}


def take(columns: Columns, rows: np.ndarray) -> Columns:
    return {name: column[rows] for name, column in columns.items()}


def ends(columns: Columns) -> np.ndarray:
    return np.flatnonzero(columns["terminals"] | columns["timeouts"])


def starts(columns: Columns) -> np.ndarray:
    return np.concatenate([[0], ends(columns)[:-1] + 1])


def lengths(columns: Columns) -> np.ndarray:
    return ends(columns) - starts(columns) + 1


def shift(columns: Columns, name: str, by: int) -> Columns:
    """Every value of a column `by` rows later."""
    return {**columns, name: np.roll(columns[name], by, axis=0)}
