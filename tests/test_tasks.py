"""The task table against D4RL's reference returns, and that no task is guessed."""

import numpy as np
import pytest

import tether
from tether.environments import TASKS, Task, d4rl_datasets, find_task, get_task
from tether.errors import InputError

REFERENCES = {  # of the D4RL package, copied by hand
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze-umaze": (0, 1),
    "antmaze-medium": (0, 1),
    "antmaze-large": (0, 1),
    "kitchen-complete": (0, 4),
    "kitchen-partial": (0, 4),
    "kitchen-mixed": (0, 4),
    "pen": (96.262799, 3076.8331017826877),
    "door": (-56.512833, 2880.5693087298737),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
    "maze2d-open-v0": (0.01, 20.66),
    "maze2d-umaze-v1": (23.85, 161.86),
    "maze2d-medium-v1": (13.13, 277.39),
    "maze2d-large-v1": (6.7, 273.99),
    "maze2d-umaze-v0": (0.94, 62.6),
    "maze2d-medium-v0": (5.77, 85.14),
    "maze2d-large-v0": (4.83, 191.99),
    "maze2d-eval-umaze-v1": (36.63, 141.4),
    "maze2d-eval-medium-v1": (13.07, 204.93),
    "maze2d-eval-large-v1": (16.4, 302.22),
    "maze2d-open-dense-v0": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense-v1": (68.537689, 193.66285642381482),
    "maze2d-medium-dense-v1": (44.264742, 297.4552547777125),
    "maze2d-large-dense-v1": (30.569041, 303.4857382709002),
}


def test_table_is_the_specification() -> None:
    assert {name: (task.reference_min, task.reference_max) for name, task in TASKS.items()} == REFERENCES


@pytest.mark.parametrize("name", REFERENCES)
def test_end_points_score_0_and_100(name: str) -> None:
    np.testing.assert_allclose(TASKS[name].normalized_score(REFERENCES[name]), [0.0, 100.0], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "episode_return", "score"),
    [
        ("hopper", 3000, 92.80),
        ("halfcheetah", 5000, 42.53),
        ("walker2d", 4000, 87.10),
        ("pen", 1000, 30.32),
        ("pen", 0, -3.23),
        ("kitchen-mixed", 3, 75.0),
        ("antmaze-large", 0.5, 50.0),
    ],
)
def test_scores_of_the_specification(name: str, episode_return: float, score: float) -> None:
    assert TASKS[name].normalized_score(episode_return).item() == pytest.approx(score, abs=5e-3)


def test_score_keeps_the_shape() -> None:
    returns = np.zeros((2, 3), np.float32)
    assert TASKS["hopper"].normalized_score(returns).shape == (2, 3)
    assert TASKS["hopper"].normalized_score([1.0, 2.0]).dtype == np.float64


def test_task_without_reference_is_refused_by_name() -> None:
    task = Task(name="my-robot", observation_size=3, action_size=1)
    with pytest.raises(InputError, match="task 'my-robot' has no reference returns"):
        task.normalized_score(1.0)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_rows_are_complete(task: Task) -> None:
    assert (task.gymnasium_id is None) == bool(task.unavailable)
    assert task.datasets
    for dataset in task.datasets:
        assert find_task(dataset) is task
        assert find_task(f"{dataset}-small") is task


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("hopper", "hopper"),
        ("hopper-medium", "hopper"),
        ("hopper-medium-v0", "hopper"),
        ("hopper_medium_replay-v2", "hopper"),
        ("halfcheetah-medium-v2", "halfcheetah"),
        ("halfcheetah-medium-small", "halfcheetah"),
        ("HalfCheetah-medium-v2", "halfcheetah"),
        ("ant-medium-v2", "ant"),
        ("antmaze-umaze-v2", "antmaze-umaze"),
        ("antmaze-umaze-diverse-v0", "antmaze-umaze"),
        ("antmaze-large-play-v2", "antmaze-large"),
        ("Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed", "antmaze-umaze"),
        ("Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse_fixed", "antmaze-medium"),
        ("Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed", "antmaze-large"),
        ("door-human-v0", "door"),
        ("pen-cloned-v1", "pen"),
        ("kitchen-mixed-v0", "kitchen-mixed"),
        ("maze2d-umaze-v0", "maze2d-umaze-v0"),
        ("maze2d-umaze-v1", "maze2d-umaze-v1"),
        ("maze2d-umaze-dense-v1", "maze2d-umaze-dense-v1"),
    ],
)
def test_names_that_say_their_task(dataset: str, name: str) -> None:
    assert find_task(dataset) is TASKS[name]
    assert get_task(dataset) is TASKS[name]


@pytest.mark.parametrize(
    "dataset",
    [
        "my-robot",
        "",
        "hopper-mine",
        "hopperlike-medium",
        "door-robot",
        "ant-maze-mine",
        "antmaze-large-navigate-singletask-v0",  # OGBench's, another robot
        "mujoco/hopper/medium-v0",  # Minari's, -v5
        "D4RL/door/human-v2",  # Minari's
        "maze2d-umaze",  # v0 and v1 have different references
        "maze2d-umaze-v10",
    ],
)
def test_other_names_are_not_guessed(dataset: str) -> None:
    assert find_task(dataset) is None


def test_data_sets_of_registered_tasks() -> None:
    def fails() -> Task:
        raise ValueError

    def arm() -> Task:
        sizes = find_task("hopper-medium-v2")  # while all registered tasks are asked
        assert sizes is not None
        return Task("any", 3, 2, datasets=("Arm_demos-v1", "hopper-medium-arm", "hopper-medium"), horizon=sizes.horizon)

    tether.register("broken", kind="environment")(fails)
    tether.register("arm", kind="environment")(arm)
    for name in ("Arm_demos-v1", "arm-demos", "arm-demos-small", "hopper-medium-arm"):
        task = find_task(name)
        assert task is not None
        assert (task.name, task.observation_size, task.horizon) == ("arm", 3, 1000)
    assert find_task("arm-others") is None
    for name in ("hopper-medium-v2", "hopper-medium", "hopper-medium-small"):  # D4RL's stay what they are
        assert find_task(name) is TASKS["hopper"]
    tether.register("twin", kind="environment")(Task("twin", 3, 2, datasets=("arm-demos",)))
    assert find_task("arm-demos") is None  # one of the two would score silently
    with pytest.raises(InputError, match="environment 'broken': ValueError"):
        find_task("broken")


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown task 'hoper'; did you mean hopper"):
        get_task("hoper")


def test_d4rl_datasets_list_every_kind() -> None:
    datasets = d4rl_datasets()
    for name in (
        "hopper-medium-expert-v2",
        "walker2d-full-replay-v2",
        "antmaze-umaze-diverse-v2",
        "pen-human-v1",
    ):
        assert name in datasets
    assert datasets["kitchen-partial-v0"].horizon == 280
    assert len(datasets) == 4 * 6 + 6 + 3 + 4 * 3 + 14
