"""Train an algorithm on a 2-D problem: the compiled loop of real runs, one state, no environment."""

import dataclasses
import time
import tomllib
import typing
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.algorithms.registry import make_algorithm, parse_values
from tether.bandits.problems import Problem
from tether.errors import InputError, unknown
from tether.machine.files import load_arrays, save_arrays
from tether.networks import unstack_heads
from tether.ranges import above, at_least, check_ranges, check_seed
from tether.runs.records import Display
from tether.training.derive import derive_columns
from tether.training.lanes import Lane, stack_lanes, take_lane
from tether.training.loop import NEVER, init_lanes, run_updates
from tether.training.precision import check_precision
from tether.types import Array, Float, Spec, Transition

__all__ = ["BANDIT_ALGORITHMS", "Setup", "Trained", "bandit_settings", "load_trained", "save_trained", "train_bandit"]

PIECE_UPDATES = 100  # between two looks at the numbers and moves of the progress bar
NOISE_COPIES = 64  # of every point, each with its own reward noise: as good as noise drawn anew at every batch
OBSERVATION_SIZE, ACTION_SIZE = 1, 2
NOT_DIVERGED = -1.0  # in a kept run's numbers
BANDIT_ALGORITHMS = ("dtql", "dtql-kl", "dac", "bdpo")  # those with settings for 2-D problems


@dataclasses.dataclass(frozen=True)
class Setup:
    """How a problem is put before an algorithm."""

    points: Annotated[int, at_least(1)] | None = None  # rows of the data set; None: the published number
    batch_size: Annotated[int, at_least(1)] = 256
    state: float = 1.0  # the constant observation; the DTQL paper's 0 leaves a ReLU policy only its last bias
    terminal: bool = True  # one step and over; False bootstraps from the same state, as DTQL's toy code does
    unit_scale: bool = False  # actions into [-1, 1] and energies into [0, 1]; samples come back in the problem's units
    box: Annotated[float, above(0)] = 1.0  # the action bound, in largest coordinates of the data

    def __post_init__(self):
        check_ranges(self)


class Trained(NamedTuple):
    """An algorithm after training on a problem."""

    name: str  # of the algorithm
    problem: Problem
    algorithm: Any
    state: Any
    setup: Setup
    scale: float  # problem's units per unit of the networks
    diverged_at: int | None  # the update whose numbers were not finite; `state` is that of the piece before
    seconds: float  # of processor time in training, compilation included
    data: Float[np.ndarray, "points action"]  # in the problem's units

    @property
    def observation(self) -> Float[Array, " observation"]:
        """The one state."""
        return jnp.full((OBSERVATION_SIZE,), self.setup.state, jnp.float32)

    def sample(self, count: int, seed: int = 0) -> Float[np.ndarray, "{count} action"]:
        """`count` actions of the policy, in the problem's units."""
        policy = self.algorithm.policy(self.state)
        keys = jax.random.split(jax.random.key(seed), count)
        actions = jax.jit(jax.vmap(policy, in_axes=(None, 0)))(self.observation, keys)
        return np.asarray(actions) * self.scale


def bandit_settings(algorithm: str, problem: str, kind: str) -> dict[str, Any]:
    """The settings of `algorithm` on `problem`: `[algorithm.kind]`, overridden by the problem's row in it.

    kind: "fair" (ours) or "published" (where the method's paper has this problem).
    Raises InputError where there are none.
    """
    table = tomllib.loads(resources.files("tether.bandits").joinpath("settings.toml").read_text(encoding="utf-8"))
    if algorithm not in table:
        raise unknown("algorithm with 2-D settings", algorithm, table)
    if kind not in table[algorithm]:
        raise unknown(f"kind of 2-D settings of {algorithm}", kind, table[algorithm])
    settings = dict(table[algorithm][kind])
    rows = settings.pop("problems", {})
    if kind == "published" and problem not in rows:
        raise unknown(f"problem that was published for {algorithm}", problem, rows)
    return settings | rows.get(problem, {})


def train_bandit(
    algorithm_name: str,
    problem: Problem,
    settings: Mapping[str, Any],
    *,
    seed: int = 0,
    quiet: bool = False,
    precision: str = "float32",
) -> Trained:
    """Train on `problem` with `settings`: fields of `Setup` and hyper-parameters, mixed.

    precision: of the matmuls (`training/precision.py`).
    Raises InputError for a name or value that neither knows. Where numbers turn non-finite training ends there.
    """
    check_precision(precision)
    check_seed(seed)
    ready, started = _ready(algorithm_name, problem, settings, seed), time.process_time()
    lanes = stack_lanes(ready.algorithm, [Lane(seed, {})])
    init_key, train_key = jax.random.split(jax.random.key(seed))
    state, diverged_at = init_lanes(lanes, ready.spec, init_key[None], stacked=True), None
    with Display(quiet) as display:
        for index, phase in enumerate(ready.algorithm.phases()):
            display.begin(f"{algorithm_name} {problem.name} {phase.name}", 0, phase.updates)
            derived = derive_columns(lanes, state, train_key[None], ready.data, phase=index)
            for start in range(0, phase.updates, PIECE_UPDATES):
                count = min(PIECE_UPDATES, phase.updates - start)
                progress = run_updates(
                    lanes,
                    state,
                    train_key[None],
                    jnp.ones(1, bool),
                    ready.data,
                    jnp.asarray(start, jnp.int32),
                    jnp.asarray(count, jnp.int32),
                    phase=index,
                    batch_size=ready.setup.batch_size,
                    sequential=True,
                    precision=precision,
                    derived=derived,
                )
                state = progress.state
                if int(progress.first_nonfinite[0]) != NEVER:
                    diverged_at = int(progress.first_nonfinite[0])
                    display.warn(f"{algorithm_name} on {problem.name} diverged in {phase.name}, update {diverged_at:,}")
                    return ready.trained(unstack_heads(take_lane(state, 0)), diverged_at, time.process_time() - started)
                display.advance(start + count)
    return ready.trained(unstack_heads(take_lane(state, 0)), diverged_at, time.process_time() - started)


def save_trained(path: Path, trained: Trained) -> None:
    """Keep what training made, for `load_trained`. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    diverged_at = NOT_DIVERGED if trained.diverged_at is None else trained.diverged_at
    numbers = np.asarray([diverged_at, trained.seconds], np.float64)
    save_arrays(path, {"state": trained.state, "numbers": numbers})


def load_trained(
    path: Path, algorithm_name: str, problem: Problem, settings: Mapping[str, Any], *, seed: int = 0
) -> Trained | None:
    """What `train_bandit` with the same arguments gave, from the file of `save_trained`; None where there is none."""
    if not path.exists():
        return None
    ready = _ready(algorithm_name, problem, settings, seed)
    state = jax.eval_shape(lambda key: ready.algorithm.init(ready.spec, key), jax.random.key(0))
    kept = load_arrays(path, {"state": state, "numbers": np.zeros(2)})
    diverged_at, seconds = kept["numbers"]
    return ready.trained(kept["state"], None if diverged_at == NOT_DIVERGED else int(diverged_at), float(seconds))


class _Ready(NamedTuple):
    """A problem put before an algorithm."""

    name: str
    problem: Problem
    algorithm: Any
    setup: Setup
    data: Transition
    scale: float
    spec: Spec
    actions: Float[np.ndarray, "points action"]

    def trained(self, state: Any, diverged_at: int | None, seconds: float) -> Trained:
        """The same problem with the outcome of training."""
        parts = self.name, self.problem, self.algorithm, state, self.setup, self.scale
        return Trained(*parts, diverged_at, seconds, self.actions)


def _ready(algorithm_name: str, problem: Problem, settings: Mapping[str, Any], seed: int) -> _Ready:
    """Raises InputError for a name or value that neither algorithm nor `Setup` knows."""
    if algorithm_name not in BANDIT_ALGORITHMS:
        raise unknown("algorithm with 2-D settings", algorithm_name, BANDIT_ALGORITHMS)
    kinds = typing.get_type_hints(Setup)
    chosen = {name: value for name, value in settings.items() if name in kinds}
    setup = Setup(**parse_values("2-D setting", kinds, chosen))
    hyperparameters = {name: value for name, value in settings.items() if name not in kinds}
    algorithm = make_algorithm(algorithm_name, hyperparameters)
    data, scale, spec, actions = _data(problem, setup, np.random.default_rng(seed))
    if setup.batch_size > len(actions):
        raise InputError(f"batch_size {setup.batch_size} is larger than the data: {len(actions)} points")
    return _Ready(algorithm_name, problem, algorithm, setup, data, scale, spec, actions)


def _data(
    problem: Problem, setup: Setup, rng: np.random.Generator
) -> tuple[Transition, float, Spec, Float[np.ndarray, "points action"]]:
    """(what the loop reads, problem's units per network's unit, specification, the points in problem's units)."""
    points = problem.sample(setup.points or problem.published_size, rng)
    actions, energy = points.actions, points.energy
    furthest = float(np.abs(actions).max())
    scale = furthest if setup.unit_scale else 1.0
    reward = (energy - energy.min()) / max(float(np.ptp(energy)), 1e-6) if setup.unit_scale else energy
    copies = NOISE_COPIES if problem.reward_noise else 1
    reward = np.tile(reward, copies) + problem.reward_noise * rng.standard_normal(len(reward) * copies)
    rows = len(reward)
    state = jnp.full((rows, OBSERVATION_SIZE), setup.state, jnp.float32)
    data = Transition(
        observation=state,
        action=jnp.asarray(np.tile(actions, (copies, 1)) / scale, jnp.float32),
        reward=jnp.asarray(reward, jnp.float32),
        next_observation=state,
        terminal=jnp.full((rows,), float(setup.terminal), jnp.float32),
    )
    return data, scale, Spec(OBSERVATION_SIZE, ACTION_SIZE, setup.box * furthest / scale), actions
