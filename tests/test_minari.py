"""Minari's data sets by id and by folder: the same rows, dictionaries in a fixed order, the robot's own actions."""

import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import minari
import numpy as np
import pytest
from gymnasium import spaces
from make_data import tether
from minari.data_collector import EpisodeBuffer

from tether.data import load_dataset, prepare
from tether.data.readers.minari import minari_scores
from tether.data.schema import ActionBox
from tether.environments.make import make_environment
from tether.errors import InputError
from tether.policies.deployed import deploy
from tether.policies.loaded import LoadedPolicy

DICTIONARY = spaces.Dict(
    {
        "goal": spaces.Box(-9, 9, (2,)),
        "arm": spaces.Dict({"joint_10": spaces.Box(-9, 9, (1,)), "joint_2": spaces.Box(-9, 9, (3,))}),
        "contacts": spaces.Discrete(3),
    }
)
ACTIONS = spaces.Box(np.array([-0.4, 0.0], np.float32), np.array([0.4, 10.0], np.float32))


def episodes(observation_space: Any, action_space: Any, infos: bool) -> list[EpisodeBuffer]:
    """Random episodes; every second one ends in a success and a termination, the others are cut."""
    observation_space.seed(0)
    action_space.seed(0)
    buffers = []
    for number, length in enumerate((4,) * 11 + (6,)):
        last = np.arange(length) == length - 1
        observations: Any = [observation_space.sample() for _ in range(length + 1)]
        if isinstance(observation_space, spaces.Dict):
            observations = stacked(observations)
        buffers.append(
            EpisodeBuffer(
                observations=observations,
                actions=np.stack([action_space.sample() for _ in range(length)]),
                rewards=np.arange(length, dtype=float) + number,
                terminations=last & (number % 2 == 1),
                truncations=last & (number % 2 == 0),
                infos={"success": np.append(False, last & (number % 2 == 1))} if infos else None,
            )
        )
    return buffers


def stacked(samples: list[Any]) -> Any:
    if isinstance(samples[0], dict):
        return {key: stacked([sample[key] for sample in samples]) for key in samples[0]}
    return samples if isinstance(samples[0], str) else np.stack(samples)


def write(name: str, observation_space: Any, action_space: Any, data_format: str = "hdf5") -> list[Any]:
    """A data set made by the package itself, and its episodes."""
    extra = {"observation_space": observation_space, "action_space": action_space, "data_format": data_format}
    # Minari 0.5.4 writes flags in the infos of its Arrow formats so that it cannot read them.
    buffers = episodes(observation_space, action_space, infos=data_format == "hdf5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no author is named
        minari.create_dataset_from_buffers(name, buffers, **extra)
    return buffers


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def test_by_id_and_by_folder(root: Path) -> None:
    plain = spaces.Box(-9, 9, (3,))
    buffers = write("mine/robot/human-v0", plain, spaces.Box(-1, 1, (2,)))
    data = load_dataset("minari:mine/robot/human-v0")
    assert (data.name, data.source.location) == ("mine/robot/human-v0", "minari:mine/robot/human-v0")
    for source in (root / "mine/robot/human-v0", root / "mine/robot/human-v0/data/main_data.hdf5"):
        again = load_dataset(str(source))
        for name in ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations", "successes"):
            np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
        assert (again.name, again.source.sha256, again.metadata) == (data.name, data.source.sha256, data.metadata)
    np.testing.assert_array_equal(data.episode_lengths(), [4] * 11 + [6])
    table = data.transitions()
    assert len(table.reward) == 50
    np.testing.assert_array_equal(table.observation[44:], buffers[11].observations[:-1])
    np.testing.assert_array_equal(table.next_observation[44:], buffers[11].observations[1:])
    np.testing.assert_array_equal(np.flatnonzero(data.successes), np.flatnonzero(data.terminals))
    assert data.schema is None  # nothing to name, nothing to map


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_dictionaries_are_flattened_in_a_fixed_order(root: Path, data_format: str) -> None:
    buffers = write("mine/arm-v0", DICTIONARY, ACTIONS, data_format=data_format)
    data = load_dataset("minari:mine/arm-v0")
    assert data.schema is not None
    assert data.schema.observation == {
        "arm/joint_2": (0, 3), "arm/joint_10": (3, 4), "contacts": (4, 5), "goal": (5, 7)
    }  # fmt: skip
    assert list(data.schema.observation) == ["arm/joint_2", "arm/joint_10", "contacts", "goal"]
    first = buffers[0].observations
    parts = [first["arm"]["joint_2"], first["arm"]["joint_10"], first["contacts"][:, None], first["goal"]]
    np.testing.assert_allclose(data.observations[:4], np.concatenate(parts, axis=1)[:4])
    np.testing.assert_allclose(data.next_observations[:4], np.concatenate(parts, axis=1)[1:])
    np.testing.assert_allclose(data.schema.box, ActionBox((-0.4, 0.0), (0.4, 10.0)), rtol=1e-6)
    actions = np.concatenate([buffer.actions for buffer in buffers])
    np.testing.assert_allclose(data.actions * data.schema.box.scale + data.schema.box.offset, actions, atol=1e-6)
    assert np.abs(data.actions).max() > 0.9
    if data_format == "hdf5":
        assert load_dataset(str(root / "mine/arm-v0")).schema == data.schema


class Constant(eqx.Module):
    """Always the same action in [-1, 1]."""

    action: jax.Array

    def __call__(self, observation: jax.Array, key: jax.Array) -> jax.Array:
        return self.action + 0.0 * observation[:2]


def test_a_policy_takes_the_dictionary_and_acts_in_the_robots_units(root: Path) -> None:
    write("mine/arm-v0", DICTIONARY, ACTIONS)
    prepared = prepare(load_dataset("minari:mine/arm-v0"))
    module = deploy(Constant(jnp.array([-1.0, 0.5])), prepared.spec, prepared.normaliser, prepared.schema)
    document = {"spec": prepared.spec._asdict(), "schema": prepared.record["schema"], "algorithm": "constant"}
    policy = LoadedPolicy(module, document, None)
    sample = DICTIONARY.sample()
    np.testing.assert_allclose(policy(sample), [-0.4, 7.5], rtol=1e-6)
    with pytest.raises(InputError, match="no 'goal'"):
        policy({"arm": sample["arm"], "contacts": 0})
    with pytest.raises(InputError, match=r"shape \(6,\).*arm/joint_2\[3\], arm/joint_10, contacts, goal\[2\]"):
        policy(np.zeros(6))


def test_scores_are_minaris_own(root: Path) -> None:
    write("D4RL/door/human-v2", spaces.Box(-9, 9, (3,)), spaces.Box(-1, 1, (2,)))
    assert minari_scores(load_dataset("minari:D4RL/door/human-v2")) is None
    document = root / "D4RL/door/human-v2/data/metadata.json"
    references = {"ref_min_score": 1.0, "ref_max_score": 11.0}  # which the package stores after playing a task only
    document.write_text(json.dumps(json.loads(document.read_text()) | references))
    data = load_dataset("minari:D4RL/door/human-v2")
    np.testing.assert_allclose(minari_scores(data), 10.0 * (data.episode_returns() - 1.0))  # pyright: ignore[reportCallIssue]
    code, out, err = tether("data", "show", "minari:D4RL/door/human-v2")
    assert (code, err) == (0, "")
    assert "by Minari's references, no D4RL score" in out
    assert "normalised score" not in out
    assert "50.0% of the episodes" in out
    assert "minari:D4RL/door/human-v2" in tether("data", "list")[1]


def test_refusals(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("mine/a-v0", spaces.Box(-9, 9, (3,)), spaces.Box(-1, 1, (2,)))
    for name in ("mine/b-v0", "../a", "", "mine"):
        with pytest.raises(InputError, match=r"is not in .* \(there: mine/a-v0\); fetch it with: minari download"):
            load_dataset(f"minari:{name}")
    write("mine/discrete-v0", spaces.Box(-9, 9, (3,)), spaces.Discrete(3))
    write("mine/image-v0", spaces.Box(0, 255, (40, 40, 3), np.uint8), spaces.Box(-1, 1, (2,)))
    write("mine/text-v0", spaces.Dict({"mission": spaces.Text(5, min_length=5)}), spaces.Box(-1, 1, (2,)))
    for name, message in [("discrete", "discrete"), ("image", "images"), ("text", "not arrays of numbers")]:
        with pytest.raises(InputError, match=message):
            load_dataset(f"minari:mine/{name}-v0")
    (root / "mine/a-v0/data/main_data.hdf5").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read by the package minari"):
        load_dataset("minari:mine/a-v0")
    shutil.rmtree(root / "mine/a-v0")
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(InputError, match=r"needs the package minari: pip install 'tether-rl\[minari\]'"):
        load_dataset("minari:mine/a-v0")


def test_actions_outside_the_stated_range(root: Path) -> None:
    write("mine/a-v0", spaces.Box(-9, 9, (3,)), ACTIONS)
    folder = root / "mine/a-v0"
    document = folder / "data" / "metadata.json"
    document.write_text(document.read_text().replace("10.0", "5.0"))
    with pytest.raises(InputError, match="actions leave the range that the metadata state, first at row"):
        load_dataset(str(folder))


# --- evaluation in the recorded environment -----------------------------------------------------------------

BRIEF = "--updates", 10, "--batch-size", 32, "--eval-episodes", 2, "--set", "hidden_sizes=16,16", "--quiet"


def written_in(environment: str, **references: float) -> None:
    """A data set of Pendulum's sizes that says it was recorded in `environment`."""
    write("mine/swing/random-v0", spaces.Box(-9, 9, (3,)), spaces.Box(-2, 2, (1,)))
    change_metadata(env_spec=gymnasium.spec(environment).to_json(), **references)


def change_metadata(**values: Any) -> None:
    path = Path(os.environ["MINARI_DATASETS_PATH"]) / "mine/swing/random-v0/data/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_data_set_is_evaluated_where_it_was_recorded_and_scored_by_minaris_references(root: Path) -> None:
    written_in("Pendulum-v1", ref_min_score=-1500.0, ref_max_score=-100.0)
    data = load_dataset("minari:mine/swing/random-v0")
    task = data.recorded_in
    assert task is not None
    assert (task.gymnasium_id, task.horizon, task.score_name) == ("Pendulum-v1", 200, "Minari score")
    np.testing.assert_allclose(task.score(data.episode_returns()), minari_scores(data))  # pyright: ignore[reportCallIssue]
    code, printed, errors = tether("train", "bc", "minari:mine/swing/random-v0", *BRIEF, "--out", root / "run")
    assert code == 0, errors
    assert "run: Minari score" in printed
    assert "normalised" not in printed
    result = json.loads((root / "run" / "result.json").read_text())
    returns = np.asarray(result["lanes"][0]["returns"])
    assert result["score"] == "Minari score"
    assert result["lanes"][0]["score"] == pytest.approx(np.mean(100 * (returns + 1500) / 1400))
    assert tether("evaluate", root / "run", "--episodes", 1)[0] == 0  # the same environment after a restart


def test_an_environment_that_is_not_here_or_names_a_module_is_not_made(root: Path) -> None:
    written_in("Pendulum-v1")
    spec = json.loads(json.loads((root / "mine/swing/random-v0/data/metadata.json").read_text())["env_spec"])
    for name, reason in {"Nowhere-v7": "Nowhere", "antigravity:Pendulum-v1": "a module that a file names"}.items():
        change_metadata(env_spec=json.dumps(spec | {"id": name}))
        out = root / name.replace(":", "-")
        code, _, progress = tether("train", "bc", str(root / "mine/swing/random-v0"), *BRIEF[:-1], "--out", out)
        assert code == 0
        said = [line for line in progress.splitlines() if "without evaluation" in line]
        assert len(said) == 1
        assert reason in said[0]
    change_metadata(env_spec="{broken")  # which the package itself does not read
    assert load_dataset(str(root / "mine/swing/random-v0")).recorded_in is None


def test_the_door_set_of_minari_is_evaluated_in_its_hand(root: Path) -> None:
    """AdroitHandDoor-v1 is gymnasium-robotics': known once that is imported."""
    written_in("Pendulum-v1")
    spec = {"id": "AdroitHandDoor-v1", "kwargs": {"reward_type": "dense"}, "max_episode_steps": 200}
    change_metadata(env_spec=json.dumps(spec), ref_min_score=-45.8, ref_max_score=2940.6)
    task = load_dataset(str(root / "mine/swing/random-v0")).recorded_in
    assert task is not None
    environment = make_environment(task)
    assert (environment.observation_space.shape, environment.action_space.shape) == ((39,), (28,))
    code, _, errors = tether("train", "bc", str(root / "mine/swing/random-v0"), *BRIEF, "--out", root / "run")
    assert code == 2
    assert "environment 'AdroitHandDoor-v1' has 39 and 28" in errors
