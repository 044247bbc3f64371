"""Data sets made in memory: what is taken and refused, to a file and back, and runs on them."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pandas
import polars
import pyarrow
import pytest
from make_data import SETTINGS, algorithm, columns, data_file, digest, finished_run, last_state, tether

import tether as library
from tether import Dataset, load_dataset, resume, train
from tether.data.filters import filter_episodes
from tether.data.source import COLUMNS, Source
from tether.environments import Task
from tether.environments.choose import known_task
from tether.errors import InputError

N, SEEN, MOVES = 12, 3, 2  # rows, sizes of observations and actions


def arrays(**changes: Any) -> dict[str, Any]:
    """Three episodes of four rows: the first ends truly, the others were cut."""
    generator = np.random.default_rng(1)
    made: dict[str, Any] = {
        "observations": generator.normal(size=(N, SEEN)).astype(np.float32),
        "actions": generator.uniform(-1, 1, (N, MOVES)).astype(np.float32),
        "rewards": generator.normal(size=N).astype(np.float32),
        "terminals": np.isin(np.arange(N), [3]),
        "timeouts": np.isin(np.arange(N), [7, 11]),
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def episodes(last_observation: bool = True) -> list[dict[str, Any]]:
    """The same rows; the observation after an episode is ten times the sum of its own."""
    made, found = arrays(), []
    for start in range(0, N, 4):
        rows = slice(start, start + 4)
        seen = made["observations"][rows]
        after = 10 * seen.sum(axis=0, keepdims=True)
        found.append(
            {
                "observations": np.concatenate([seen, after]) if last_observation else seen,
                "actions": made["actions"][rows],
                "rewards": made["rewards"][rows],
                "terminations": made["terminals"][rows],
                "truncations": made["timeouts"][rows],
            }
        )
    return found


def assert_equal(found: Dataset, expected: Dataset, but: tuple[str, ...] = ()) -> None:
    """Everything but source and `but`."""
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    rest = {field.name for field in dataclasses.fields(Dataset)} - {*COLUMNS, "source", *but}
    for name in rest:
        assert getattr(found, name) == getattr(expected, name), name
    assert found.content_sha256() == expected.content_sha256()


def refusal(make: Any, *given: Any, **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        make(*given, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- arrays -------------------------------------------------------------------------------------------------


def test_arrays_are_kept_as_they_are_given() -> None:
    given = arrays()
    data = Dataset.from_arrays(**given, name="mine", metadata={"who": "me", "gain": np.float32(0.5)})
    for name, array in given.items():
        np.testing.assert_array_equal(getattr(data, name), array)
    assert (data.name, data.schema, data.next_observations) == ("mine", None, None)
    assert data.metadata == {"who": "me", "gain": 0.5}
    assert data.source == Source("memory:mine", data.content_sha256(), in_memory=True)
    before = data.content_sha256()
    for array in given.values():
        array[:] = 0  # the caller's; the data set has its own
    assert data.content_sha256() == before
    assert data.rewards.any()


@pytest.mark.parametrize("labels", [[5, 5, 5, 5, 9, 9, 9, 9, 1, 1, 1, 1], list("aaaabbbbcccc")])
def test_episodes_end_where_their_labels_change(labels: list[Any]) -> None:
    data = Dataset.from_arrays(**arrays(timeouts=None), episodes=labels)
    np.testing.assert_array_equal(data.timeouts, arrays()["timeouts"])  # not where it is terminal
    more = Dataset.from_arrays(**arrays(timeouts=np.arange(N) == 5), episodes=labels)
    np.testing.assert_array_equal(np.flatnonzero(more.timeouts), [5, 7, 11])


def test_next_observations_are_taken_at_their_word() -> None:
    following = arrays()["observations"] + 1
    data = Dataset.from_arrays(**arrays(), next_observations=following)
    table = data.transitions()
    assert table.rows == N  # time-outs bootstrap from what truly followed
    np.testing.assert_array_equal(table.next_observation, following)
    inexact = Dataset.from_arrays(**arrays(), next_observations=following, exact_next_observations=False)
    assert inexact.transitions().rows == N - 2
    assert inexact.content_sha256() != data.content_sha256()


def test_actions_of_a_robot_become_unit_actions_and_are_mapped_back() -> None:
    low, high = [-2.0, 10.0], [4.0, 20.0]
    unit = arrays()["actions"].astype(np.float64)
    robot = (unit + 1) / 2 * (np.array(high) - low) + low
    data = Dataset.from_arrays(**arrays(actions=robot), action_low=low, action_high=high, action_names=["lift", "turn"])
    np.testing.assert_allclose(data.actions, unit, atol=1e-6)
    assert data.schema is not None
    np.testing.assert_allclose(data.actions * data.schema.box.scale + data.schema.box.offset, robot, rtol=1e-6)
    assert data.schema.action == {"lift": (0, 1), "turn": (1, 2)}
    assert data.schema.observation == {"observation": (0, SEEN)}
    same = Dataset.from_arrays(**arrays(), action_low=-1, action_high=1)
    assert same.schema is None
    assert same.content_sha256() == Dataset.from_arrays(**arrays()).content_sha256()


def test_dictionaries_keep_their_names() -> None:
    seen = arrays()["observations"]
    parts = {"arm": {"joint_10": seen[:, 2], "joint_2": seen[:, :1]}, "base": seen[:, 1]}
    data = Dataset.from_arrays(**arrays(observations=parts), action_names={"wheels": 2})
    np.testing.assert_array_equal(data.observations, seen[:, [0, 2, 1]])
    assert data.schema is not None
    assert data.schema.observation == {"arm/joint_2": (0, 1), "arm/joint_10": (1, 2), "base": (2, 3)}
    assert data.schema.action == {"wheels": (0, 2)}


BAD = np.where(np.arange(N)[:, None] == 4, np.nan, arrays()["observations"])
REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "nan": ({"observations": BAD}, ("observations holds nan at row 4, entry 0",)),
    "infinite reward": ({"rewards": np.full(N, np.inf)}, ("rewards holds inf at row 0",)),
    "short": ({"rewards": np.zeros(N - 1)}, ("rewards has 11 rows", "12")),
    "long flags": ({"terminals": np.zeros(N + 2)}, ("terminals has 14 rows", "12")),
    "no rows": ({"observations": np.zeros((0, 3))}, ("observations have no rows",)),
    "flat observations": ({"observations": np.zeros(N)}, ("observations has shape (12,)", "two axes")),
    "cubes": ({"observations": np.zeros((N, 2, 2))}, ("observations has shape (12, 2, 2)",)),
    "texts": ({"rewards": ["a"] * N}, ("rewards has type <U1",)),
    "ragged": ({"observations": [[1.0], [1.0, 2.0]]}, ("observations is no array",)),
    "no flag": ({"terminals": np.arange(N)}, ("terminals holds 2 at row 2",)),
    "discrete": ({"actions": np.arange(N)}, ("actions are int64: discrete", "continuous=True")),
    "one-hot": ({"actions": np.eye(N, dtype=int)}, ("actions are int64: discrete",)),
    "flat actions": ({"actions": np.zeros(N)}, ("actions has shape (12,)",)),
    "beyond": (
        {"actions": np.full((N, MOVES), 1.5)},
        ("actions hold 1.5 at row 0, entry 0", "action_low and action_high"),
    ),
    "nothing ends": ({"terminals": np.zeros(N), "timeouts": None}, ("nothing tells episodes apart", "timeouts")),
    "labels": ({"episodes": [1] * 6 + [2] * 3 + [1] * 3}, ("episodes holds 1 again at row 9", "sort")),
    "label numbers": ({"episodes": np.linspace(0, 1, N)}, ("episodes has type float64",)),
    "label shape": ({"episodes": [1, 2]}, ("episodes has type int64 and shape (2,)",)),
    "one bound": ({"action_low": -1}, ("action_high is missing",)),
    "bounds": ({"action_low": [0, 0, 0], "action_high": 1}, ("action_low: 3 numbers for 2 actions",)),
    "turned": ({"action_low": 1, "action_high": [-1, 2]}, ("action_low 1 is above action_high -1 for action 0",)),
    "infinite bound": ({"action_low": -np.inf, "action_high": 1}, ("action_low -inf", "finite")),
    "leaves bounds": ({"action_low": -0.1, "action_high": 0.1}, ("actions hold", "entry", "beyond action_low -0.1")),
    "names": ({"observation_names": ["x", "y"]}, ("observation_names name 2 numbers, observations have 3",)),
    "equal names": ({"observation_names": ["x", "y", "x"]}, ("observation_names", "different")),
    "sizes": ({"action_names": {"a": 3, "b": -1}}, ("action_names",)),
    "names twice": ({"actions": {"a": np.zeros(N)}, "action_names": ["b"]}, ("action_names", "names of its own")),
    "entries": (
        {"observations": {"a": np.zeros(N), "b": np.zeros(3)}},
        ("entries of observations", "a 12, b 3"),
    ),
    "next entries": ({"next_observations": {"a": np.zeros(N)}}, ("next_observations has entries ['a']",)),
    "next width": ({"next_observations": np.zeros((N, 2))}, ("next_observations has shape (12, 2)",)),
    "metadata": ({"metadata": {"weights": [1, 2]}}, ("metadata 'weights'",)),
    "image": ({"observations": {"camera": np.zeros((N, 4, 4, 3), np.uint8)}}, ("camera", "images")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_on_is_refused_by_name(name: str) -> None:
    changes, words = REFUSED[name]
    message = refusal(Dataset.from_arrays, **arrays(**changes), name="mine")
    assert message.startswith("memory:mine: ")
    for word in words:
        assert word in message


# --- episodes -----------------------------------------------------------------------------------------------


def test_episodes_with_their_last_observation() -> None:
    data = Dataset.from_episodes(episodes())
    expected = Dataset.from_arrays(**arrays())
    for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
        np.testing.assert_array_equal(getattr(data, name), getattr(expected, name))
    seen = arrays()["observations"].reshape(3, 4, SEEN)
    after = np.concatenate([seen[:, 1:], 10 * seen.sum(axis=1, keepdims=True)], axis=1)
    np.testing.assert_allclose(data.transitions().next_observation, after.reshape(N, SEEN), rtol=1e-6)


def test_episodes_without_it_and_as_objects_with_single_flags() -> None:
    made = [
        SimpleNamespace(
            **{name: part[name] for name in ("observations", "actions", "rewards")},
            terminals=bool(part["terminations"][-1]),  # an episode that did not end truly was cut
        )
        for part in episodes(last_observation=False)
    ]
    assert_equal(Dataset.from_episodes(made), Dataset.from_arrays(**arrays()))
    assert Dataset.from_episodes(iter(made[:1])).terminals.tolist() == [False, False, False, True]


def test_demonstrations_have_no_rewards(tmp_path: Path) -> None:
    data = Dataset.from_arrays(**arrays(rewards=None), rewards=None)
    assert not data.has_rewards
    bare = [{name: part[name] for name in part if name != "rewards"} for part in episodes(last_observation=False)]
    assert_equal(Dataset.from_episodes(bare), data)
    assert_equal(load_dataset(str(data.to_hdf5(tmp_path / "memory.hdf5"))), data)
    assert data.content_sha256() != Dataset.from_arrays(**arrays(rewards=np.zeros(N))).content_sha256()
    assert "episode 0 has no rewards" in refusal(Dataset.from_episodes, [bare[0], episodes(last_observation=False)[1]])


def test_demonstrations_that_are_given_rewards_have_them() -> None:
    data = Dataset.from_arrays(**{k: v for k, v in arrays().items() if k != "rewards"})
    assert not data.has_rewards
    paid = data.replace(rewards=arrays()["rewards"])
    assert paid.has_rewards
    assert paid.episode_returns().sum() == pytest.approx(arrays()["rewards"].sum(), rel=1e-6)
    assert not data.replace(name="other").has_rewards


def test_demonstrations_need_neither_rewards_nor_ends() -> None:
    """Observations and actions are enough, as for `tether data import`: then no episode truly ended."""
    bare = arrays(rewards=None, terminals=None, timeouts=None)
    data = Dataset.from_arrays(**bare, episodes=np.arange(N) // 4)
    assert not data.has_rewards
    assert not data.terminals.any()
    assert np.flatnonzero(data.timeouts).tolist() == [3, 7, 11]
    assert "no episode truly ended" in data.notes[0]
    assert "give terminals, timeouts or episodes" in refusal(Dataset.from_arrays, **bare)
    made = [{name: part[name] for name in ("observations", "actions")} for part in episodes(last_observation=False)]
    assert_equal(Dataset.from_episodes(made), data)
    assert Dataset.from_episodes([part | {"rewards": np.ones(4)} for part in made]).has_rewards
    assert Dataset.from_arrays(**arrays()).notes == ()


def change(index: int, **changes: Any) -> list[dict[str, Any]]:
    made = episodes()
    made[index] |= changes
    return [{name: value for name, value in part.items() if value is not None} for part in made]


REFUSED_EPISODES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "none": ([], ("holds no episodes",)),
    "no actions": (change(1, actions=None), ("episode 1: has no actions",)),
    "no flags": (change(2, terminations=None), ("episode 2 has no terminals, others have",)),
    "two names": (change(0, terminals=True), ("episode 0: has terminals and terminations",)),
    "early end": (change(0, terminations=[0, 1, 0, 1]), ("episode 0: terminations is set at row 1", "last row 3")),
    "flag": (change(0, truncations=[0, 0, 0, 2]), ("episode 0: truncations holds 2 at row 3",)),
    "flag rows": (change(0, truncations=[0, 0, 0]), ("episode 0: truncations has 3 rows",)),
    "short actions": (change(1, actions=np.zeros((3, MOVES))), ("episode 1: actions has 3 rows for 4 rewards",)),
    "observations": (change(1, observations=np.zeros((6, SEEN))), ("episode 1: observations has 6 rows", "4 or 5")),
    "mixed": (change(1, observations=np.zeros((4, SEEN))), ("episode 1 has 4 observations for 4 actions", "5 for 4")),
    "width": (change(2, observations=np.zeros((5, 2))), ("episode 2 has columns", "episode 0")),
    "no steps": (change(0, rewards=np.zeros(0)), ("episode 0: rewards has shape (0,)",)),
    "discrete": (change(0, actions=np.zeros((4, 1), int)), ("episode 0: actions are int64: discrete",)),
    "nan": (change(1, rewards=[0, np.nan, 0, 0]), ("rewards holds nan at row 5",)),
}


@pytest.mark.parametrize("name", REFUSED_EPISODES)
def test_episodes_that_do_not_fit_are_refused_by_number(name: str) -> None:
    made, words = REFUSED_EPISODES[name]
    message = refusal(Dataset.from_episodes, made)
    for word in words:
        assert word in message


# --- gymnasium ----------------------------------------------------------------------------------------------


def record(environment: gymnasium.Env, steps: int, seed: int) -> dict[str, Any]:
    """An episode as a recorder keeps it: lists of what came, dictionaries of lists for dictionary spaces."""
    environment.action_space.seed(seed)
    observation, _ = environment.reset(seed=seed)
    seen, rows = [observation], []
    for _ in range(steps):
        action = environment.action_space.sample()
        observation, *outcome, _ = environment.step(action)
        seen.append(observation)
        rows.append((action, *outcome))
    actions, rewards, terminations, truncations = zip(*rows, strict=True)
    return {
        "observations": seen,
        "actions": list(actions),
        "rewards": list(rewards),
        "terminations": list(terminations),
        "truncations": list(truncations),
        "infos": {"success": [False] * (steps + 1)},
    }


def test_recordings_of_gymnasium(tmp_path: Path) -> None:
    environment = gymnasium.make("Pendulum-v1")
    made = [record(environment, 7, seed) for seed in range(2)]
    data = Dataset.from_gymnasium(made, environment=environment, name="swings")
    assert data.observations.shape == (14, 3)
    torques = np.concatenate([np.asarray(part["actions"]) for part in made])
    np.testing.assert_allclose(2 * data.actions, torques, atol=1e-6)  # its box is [-2, 2]
    assert np.abs(torques).max() > 1
    np.testing.assert_array_equal(data.next_observations[6], made[0]["observations"][7])
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [6, 13])
    assert data.successes is not None
    task = known_task(data, None)
    assert isinstance(task, Task)
    assert (task.gymnasium_id, task.horizon) == ("Pendulum-v1", 200)
    read = load_dataset(str(data.to_hdf5(tmp_path / "swings.hdf5")))
    assert_equal(read, data)  # the environment, too
    objects = [SimpleNamespace(**part) for part in made]
    assert_equal(Dataset.from_gymnasium(objects, environment=environment, name="swings"), data)


def test_spaces_of_dictionaries_and_wrapped_environments() -> None:
    class Reach(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict(
            {"goal": gymnasium.spaces.Box(-1, 1, (2,)), "arm": gymnasium.spaces.Box(-1, 1, (1,))}
        )
        action_space = gymnasium.spaces.Dict(
            {"turn": gymnasium.spaces.Box(-3, 3, (1,)), "lift": gymnasium.spaces.Box(0, 8, (1,))}
        )

    generator = np.random.default_rng(0)
    lift, turn = generator.uniform(0, 8, (4, 1)), generator.uniform(-3, 3, (4, 1))
    part = {
        "observations": {"goal": generator.normal(size=(5, 2)), "arm": generator.normal(size=(5, 1))},
        "actions": {"turn": turn, "lift": lift},
        "rewards": np.zeros(4),
        "terminations": np.zeros(4, bool),
        "truncations": np.zeros(4, bool),
    }
    data = Dataset.from_gymnasium([part], environment=Reach())
    np.testing.assert_allclose(data.actions, np.concatenate([lift / 4 - 1, turn / 3], axis=1), atol=1e-6)
    assert data.schema is not None
    assert list(data.schema.action) == ["lift", "turn"]
    assert list(data.schema.observation) == ["arm", "goal"]
    assert data.recorded_in is None  # nobody can make it by a name
    rescaled = gymnasium.wrappers.RescaleAction(gymnasium.make("Pendulum-v1"), np.float32(-1), np.float32(1))
    data = Dataset.from_gymnasium([record(rescaled, 3, 0)], environment=rescaled)
    assert data.schema is None
    assert data.recorded_in is None  # its actions are not those of Pendulum-v1


def test_what_is_no_recording_of_gymnasium_is_refused() -> None:
    made = episodes(last_observation=False)
    assert "one observation more" in refusal(Dataset.from_gymnasium, made)
    assert "episode 0: has no truncations" in refusal(Dataset.from_gymnasium, [{**made[0], "truncations": None}])
    cart = gymnasium.make("CartPole-v1")
    assert "discrete" in refusal(Dataset.from_gymnasium, [record(cart, 2, 0)], environment=cart)
    assert "int64: discrete" in refusal(Dataset.from_gymnasium, [record(cart, 2, 0)])


# --- frames -------------------------------------------------------------------------------------------------


def table() -> dict[str, Any]:
    made = arrays()
    return {
        "time": np.arange(N) % 4 * 0.1,
        **{f"joint_{i}": made["observations"][:, k] for k, i in enumerate((1, 2, 10))},
        "torque": (made["actions"] * 5).tolist(),
        "r": made["rewards"],
        "run": np.repeat(["a", "b", "c"], 4),
        "done": made["terminals"],
    }


MEANT = {"observation": "joint_*", "action": "torque", "reward": "r", "episode": "run", "terminal": "done"}
FRAMES = {
    "pandas": lambda columns: pandas.DataFrame(columns),
    "polars": lambda columns: polars.DataFrame(columns),
    "arrow": lambda columns: pyarrow.table(columns),
    "index": lambda columns: pandas.DataFrame(columns).set_index(["run", "time"]),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames(kind: str) -> None:
    frame = FRAMES[kind](table())
    data = Dataset.from_frame(frame, **MEANT, action_low=-5, action_high=5, time="time")
    expected = arrays()
    np.testing.assert_array_equal(data.observations, expected["observations"])
    np.testing.assert_allclose(data.actions, expected["actions"], atol=1e-6)
    np.testing.assert_array_equal(data.terminals, expected["terminals"])
    np.testing.assert_array_equal(data.timeouts, expected["timeouts"])
    assert data.schema is not None
    assert list(data.schema.observation) == ["joint_1", "joint_2", "joint_10"]
    arithmetic = Dataset.from_frame(frame, **(MEANT | {"reward": "2 * r"}), action_low=-5, action_high=5, time="time")
    np.testing.assert_allclose(arithmetic.rewards, 2 * expected["rewards"], rtol=1e-6)


def test_frames_that_lack_rows() -> None:
    """As of `tether data import`: see `tests/test_missing_rows.py` and `test_cases_tables.py`."""
    frame = pandas.DataFrame(table())
    how: dict[str, Any] = {**MEANT, "action_low": -5, "action_high": 5, "time": "time"}
    whole = Dataset.from_frame(frame, **how)
    hole = frame.assign(r=np.where(np.arange(N) == 6, np.nan, frame["r"]))
    message = refusal(Dataset.from_frame, hole, **how)
    assert "say what to do with such rows: missing='drop' or missing='hold'" in message
    dropped = Dataset.from_frame(hole, **how, missing="drop")
    assert len(dropped) == N - 1
    assert dropped.recorded_episodes is not None
    assert len(dropped.whole_episodes()[0]) == len(whole.whole_episodes()[0]) - 1
    assert any(note.startswith("missing='drop': 1 rows are left out") for note in dropped.notes)
    assert len(Dataset.from_frame(hole, **how, missing="hold")) == N
    late = frame.assign(time=frame["time"] + 100.0 * (np.arange(N) >= 2) * (frame["run"] == frame["run"][0]))
    cut = Dataset.from_frame(late, **how, max_gap=50.0)
    assert len(cut.episode_lengths()) == len(whole.episode_lengths()) + 1
    assert "max_gap -1.0" in refusal(Dataset.from_frame, frame, **how, max_gap=-1.0)


def test_frames_that_do_not_fit_are_refused() -> None:
    frame = pandas.DataFrame(table())
    message = refusal(Dataset.from_frame, frame, **(MEANT | {"reward": "rr"}))
    assert "rr" in message
    assert "--" not in message  # no words of the command line
    assert "'ru'; did you mean run" in refusal(Dataset.from_frame, frame, **(MEANT | {"episode": "ru"}))
    assert "action_low and action_high" in refusal(Dataset.from_frame, frame, **MEANT)
    assert "a list is no frame" in refusal(Dataset.from_frame, [1, 2], **MEANT)
    assert "collect() it first" in refusal(Dataset.from_frame, polars.LazyFrame(table()), **MEANT)
    missing = frame.assign(r=np.where(np.arange(N) == 6, np.nan, frame["r"]))
    assert "row 6" in refusal(Dataset.from_frame, missing, **MEANT)
    assert "holds no rows" in refusal(Dataset.from_frame, frame.drop(columns="torque").assign(torque=1.0)[:0], **MEANT)


# --- to a file and back -------------------------------------------------------------------------------------


def test_to_hdf5_and_back(tmp_path: Path) -> None:
    data = Dataset.from_arrays(
        **arrays(actions=arrays()["actions"] * 3, episodes=np.repeat([1, 2, 3], 4)),
        next_observations=arrays()["observations"] / 7,
        successes=np.arange(N) == 5,
        observation_names=["x", "y", "z"],
        action_low=[-3, -4],
        action_high=3.5,
        name="mine",
        metadata={"who": "me", "gain": 0.1, "count": 3},
    )
    path = data.to_hdf5(tmp_path / "mine.hdf5")
    assert path == tmp_path / "mine.hdf5"
    assert_equal(load_dataset(str(path)), data)
    plain = Dataset.from_arrays(**arrays(), name="plain")
    assert_equal(load_dataset(str(plain.to_hdf5(tmp_path / "plain.h5"))), plain)
    assert "exists already" in refusal(data.to_hdf5, path)
    assert "*.hdf5" in refusal(data.to_hdf5, tmp_path / "mine.csv")
    assert "no folder" in refusal(data.to_hdf5, tmp_path / "nowhere" / "mine.hdf5")


def test_every_number_counts_for_the_content() -> None:
    data = Dataset.from_arrays(**arrays(), successes=np.zeros(N), next_observations=arrays()["observations"])
    seen = {data.content_sha256()}
    for name in COLUMNS:
        array = getattr(data, name).copy()
        array.flat[-1] = not array.flat[-1] if array.dtype == np.bool_ else array.flat[-1] / 2
        changed = data.replace(**{name: array})
        assert changed.source.in_memory
        seen |= {changed.source.sha256}
    named = Dataset.from_arrays(**arrays(), observation_names=["x", "y", "z"])
    seen |= {named.content_sha256(), data.replace(exact_next_observations=False).content_sha256()}
    assert len(seen) == len(COLUMNS) + 3
    assert data.replace(name="other", metadata={"a": 1}).content_sha256() == data.content_sha256()
    wide = {name: array.astype(np.float64) for name, array in arrays().items()}  # the same numbers
    assert Dataset.from_arrays(**wide).content_sha256() == Dataset.from_arrays(**arrays()).content_sha256()


def test_selected_rows_are_data_of_their_own() -> None:
    """A run on a part is not resumed with the whole, nor a part of a file taken for the file."""
    for data in (load_dataset(str(data_file())), hopper()):
        part = data.select(np.arange(200))
        assert part.source.in_memory
        assert part.source.sha256 == part.content_sha256() != data.content_sha256()
        filtered, _ = filter_episodes(data, "top=0.5")  # its rule is recorded
        assert filtered.source is data.source


# --- runs ---------------------------------------------------------------------------------------------------


def hopper(**changes: Any) -> Dataset:
    """The rows of `data_file`, in memory."""
    return Dataset.from_arrays(**columns(), name="hopper-medium").replace(**changes)


@pytest.mark.long
def test_training_in_memory_is_training_from_the_file_and_goes_on(tmp_path: Path) -> None:
    out, data = tmp_path / "run", hopper()
    report = train(algorithm(), data, seeds=2, options=SETTINGS, out=out, quiet=True)
    assert last_state(out) == last_state(finished_run())
    config = json.loads((out / "config.json").read_text())
    assert config["data"]["in_memory"]
    assert (config["data"]["source"], config["data"]["sha256"]) == ("memory:hopper-medium", data.content_sha256())
    assert not json.loads((finished_run() / "config.json").read_text())["data"]["in_memory"]

    for call in (resume, library.evaluate):
        message = refusal(call, out, quiet=True)
        assert "trained on data in memory" in message
        assert "dataset=data" in message
    other = hopper(rewards=data.rewards + 1)
    assert "not the data this run trained on" in refusal(resume, out, dataset=other, quiet=True)
    assert "not the file this run trained on" in refusal(resume, finished_run(), dataset=data, quiet=True)

    assert resume(out, dataset=hopper(), quiet=True).lane_scores == report.lane_scores
    again = resume(out, dataset=str(data_file()), quiet=True, updates=270)  # the same rows from a file
    assert again.updates == 270
    outcome, _ = library.evaluate(out, dataset=data, episodes=1, quiet=True)
    assert outcome.returns.shape == (2, 1)
    code, _, errors = tether("evaluate", out, "--episodes", 1)
    assert (code, "--data FILE" in errors) == (2, True)
    assert tether("evaluate", out, "--episodes", 1, "--data", data_file())[0] == 0


def test_a_file_that_has_moved_is_named_again(tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.hdf5"
    moved.write_bytes(data_file().read_bytes())
    assert digest(moved) == digest(data_file())
    outcome, _ = library.evaluate(finished_run_copy(tmp_path), dataset=str(moved), episodes=1, quiet=True)
    assert outcome.returns.shape == (2, 1)


def finished_run_copy(tmp_path: Path) -> Path:
    """Of a run whose file is gone."""
    from make_data import copy_run

    folder = copy_run(tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["data"]["source"] = str(tmp_path / "gone.hdf5")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
