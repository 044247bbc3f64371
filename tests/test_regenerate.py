"""OGBench's data sets, made again by its oracles: the published recipe, the layout, the same bytes however made."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_data import tether

from tether.collect import RegenerateOptions, regenerate
from tether.collect.oracles import close_by, crossings, open_world, play
from tether.collect.recipes import RECIPES, Recipe, find_recipe_of
from tether.collect.regeneration import missing_episodes
from tether.data import load_dataset
from tether.errors import InputError
from tether.machine.signals import Interrupted

ogbench = pytest.importorskip("ogbench")  # not for Python 3.13
STEPS = 31


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each recipe with episodes of STEPS observations."""
    for name, recipe in list(RECIPES.items()):
        monkeypatch.setitem(RECIPES, name, recipe._replace(steps=STEPS))


def made(folder: Path, name: str = "pointmaze-medium-navigate-v0", **changes: Any) -> tuple[list[Path], dict[str, Any]]:
    return regenerate(RegenerateOptions(name, folder, **{"episodes": 10, **changes}), quiet=True)


def test_recipes_are_the_published_ones() -> None:
    """The paper's table of data sets: episodes and lengths; the commands: noise and random actions."""
    assert len(RECIPES) == 26
    assert RECIPES["pointmaze-giant-stitch-v0"].episodes == 5000
    expected = {"cube-quadruple-noisy-v0": (5000, 0.1, 0.1), "puzzle-4x5-noisy-v0": (3000, 0.2, 0.1)}
    expected |= {"scene-play-v0": (1000, 0.0, 0.1), "pointmaze-large-navigate-v0": (1000, 0.0, 0.5)}
    for name, (episodes, random_actions, noise) in expected.items():
        recipe = RECIPES[name]
        assert (recipe.episodes, recipe.random_actions, recipe.noise) == (episodes, random_actions, noise)
    assert find_recipe_of("scene-play-singletask-task4-v0") is RECIPES["scene-play-v0"]


@pytest.mark.parametrize("name", ["scene-play-v0", "puzzle-3x3-noisy-v0", "cube-double-noisy-v0"])
def test_an_episode_is_what_the_environment_did(name: str) -> None:
    """Put back into each recorded state, the world is observed as recorded; an episode depends on its number alone."""
    recipe = RECIPES[name]
    with open_world(recipe) as environment:
        first, second = (play(environment, recipe, 0, episode) for episode in (3, 4))
        world: Any = environment.unwrapped
        columns = first.columns
        assert columns["observations"].shape[0] == STEPS
        np.testing.assert_array_equal(np.flatnonzero(columns["terminals"]), [STEPS - 1])
        assert np.abs(columns["actions"]).max() <= 1.0
        assert columns["actions"].std() > 0.1
        np.testing.assert_array_equal(columns["observations"].shape[1:], environment.observation_space.shape)
        arm = world._arm_joint_ids
        np.testing.assert_allclose(columns["observations"][:, :6], columns["qpos"][:, arm], atol=1e-6)
        np.testing.assert_array_equal(play(environment, recipe, 0, 3).columns["qpos"], columns["qpos"])
        assert not np.array_equal(second.columns["actions"], columns["actions"])
        if "button_states" in columns:
            buttons = columns["button_states"].shape[1]
            place = columns["observations"].shape[1] - (4 if name.startswith("scene") else 0) - 4 * buttons
            states = columns["observations"][:, place:].reshape(STEPS, -1)[:, : 4 * buttons].reshape(STEPS, buttons, 4)
            np.testing.assert_array_equal(states[..., :2].argmax(-1), columns["button_states"])
    if not name.startswith("scene"):  # whose world carries most from one episode to the next
        return
    with open_world(recipe) as fresh:
        np.testing.assert_array_equal(play(fresh, recipe, 0, 4).columns["qvel"], second.columns["qvel"])


def test_noise_is_as_published() -> None:
    """Without noise and random actions an oracle's episode is another one; a random action is uniform."""
    recipe = RECIPES["puzzle-3x3-noisy-v0"]._replace(steps=150, random_actions=1.0)
    with open_world(recipe) as environment:
        actions = play(environment, recipe, 1, 0).columns["actions"]
    assert abs(actions.mean()) < 0.1
    np.testing.assert_allclose(actions.std(0), 1 / np.sqrt(3), atol=0.1)


def test_the_global_generator_is_put_back() -> None:
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    with open_world(RECIPES["pointmaze-medium-stitch-v0"]) as environment:
        play(environment, RECIPES["pointmaze-medium-stitch-v0"], 0, 0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_mazes_have_crossings_and_cells_close_by() -> None:
    walls = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 1], [1, 0, 1, 1, 0, 1], [1, 0, 1, 1, 1, 1], [1] * 6])
    assert crossings(walls) == [(1, 1), (1, 4), (2, 4), (3, 1)]  # corners and dead ends
    assert set(close_by(walls, (3, 1))) == {(1, 3)}
    assert close_by(walls, (1, 2)) == [(1, 2)]  # nothing is four cells away: (2, 4) is three, (3, 1) too


def test_files_are_read_as_ogbench_files(tmp_path: Path) -> None:
    paths, record = made(tmp_path)
    assert [path.name for path in paths] == ["pointmaze-medium-navigate-v0.npz", "pointmaze-medium-navigate-v0-val.npz"]
    data = load_dataset(f"ogbench:{tmp_path}/pointmaze-medium-navigate-singletask-task1-v0")
    assert len(data) == 10 * (STEPS - 1)
    assert "regenerated with tether" in str(data.metadata["origin"])
    assert data.metadata["ogbench"] == record["versions"]["ogbench"]
    np.testing.assert_array_equal(data.episode_lengths(), STEPS - 1)
    theirs, validation = (ogbench.utils.load_dataset(str(path)) for path in paths)
    np.testing.assert_array_equal(theirs["observations"], data.observations)
    assert len(validation["observations"]) == STEPS - 1
    steps = np.linalg.norm(np.diff(theirs["observations"][: STEPS - 1], axis=0), axis=1)
    assert steps.max() < 0.5  # nothing jumps within an episode
    assert record["files"]["pointmaze-medium-navigate-v0.npz"]["observations_per_episode"] == [STEPS]
    assert json.loads((tmp_path / "pointmaze-medium-navigate-v0.json").read_text())["kind"] == "regenerated"
    assert not (tmp_path / "partial").exists()
    assert record["single_tasks"]["task1"]["mean_reward"] == pytest.approx(data.rewards.mean(), abs=1e-4)
    assert record["single_tasks"]["task1"]["rows_that_solve_it"] == pytest.approx(data.terminals.mean(), abs=1e-4)
    note = tmp_path / "pointmaze-medium-navigate-v0.json"
    note.write_text(json.dumps({name: value for name, value in record.items() if name != "single_tasks"}))
    assert made(tmp_path)[1] == record  # a record of before is completed


def test_the_same_bytes_however_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, record = made(tmp_path / "whole", episodes=3)
    interrupted = RegenerateOptions("pointmaze-medium-navigate-v0", tmp_path / "parts", 3)
    played = []

    def stop_after_two(environment: Any, recipe: Recipe, seed: int, episode: int) -> Any:
        if len(played) == 2:
            raise KeyboardInterrupt
        played.append(episode)
        return play(environment, recipe, seed, episode)

    with monkeypatch.context() as patch:
        patch.setattr("tether.collect.oracles.play", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            regenerate(interrupted, quiet=True)
    (folder,) = (tmp_path / "parts" / "partial").iterdir()
    assert missing_episodes(folder, 3) == [2]
    again, repeated = regenerate(interrupted, quiet=True)
    assert again[0].read_bytes() == whole[0].read_bytes()
    assert record["files"] == repeated["files"]
    assert made(tmp_path / "whole", episodes=3)[1] == record  # nothing is made twice
    with pytest.raises(InputError, match="was made with seed 0, not 1"):
        made(tmp_path / "whole", episodes=3, seed=1)
    (note,) = (tmp_path / "whole").glob("*.json")
    before = whole[0].read_bytes()
    whole[0].unlink()
    assert made(tmp_path / "whole", episodes=3)[0][0].read_bytes() == before  # a file that is gone is made again
    whole[0].write_bytes(before[:-1])
    with pytest.raises(InputError, match="is not the file that"):
        made(tmp_path / "whole", episodes=3)
    for there, seed in ((before, 1), (before[:-1], 0)):  # nobody knows whose it is
        note.unlink(missing_ok=True)
        whole[0].write_bytes(there)
        with pytest.raises(InputError, match="was not made by this"):
            made(tmp_path / "whole", episodes=3, seed=seed)


@pytest.mark.long
def test_several_processes_and_a_stop(tmp_path: Path) -> None:
    """Two processes, stopped in the middle, and one that goes on: what one alone would have made."""
    name = "pointmaze-medium-stitch-v0"

    def stop_soon() -> None:
        while not list(tmp_path.glob("two/partial/*/episode-*")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_soon, daemon=True).start()
    with pytest.raises(Interrupted, match="the same command"):
        made(tmp_path / "two", name, episodes=400, processes=2)
    assert 0 < len(list(tmp_path.glob("two/partial/*/episode-*"))) < 440
    for path in tmp_path.glob("two/partial/*/episode-*"):
        if int(path.stem[-6:]) >= 20:
            path.unlink()  # so that little is left to do
    paths, _ = made(tmp_path / "two", name, episodes=20)
    for path, other in zip(paths, made(tmp_path / "one", name, episodes=20)[0], strict=True):
        assert path.read_bytes() == other.read_bytes()


def test_the_command(tmp_path: Path) -> None:
    code, out, err = tether(
        "data", "collect", "ogbench:pointmaze-large-stitch-v0", "--episodes", "1", "--quiet", "--out", str(tmp_path)
    )
    assert (code, err) == (0, "")
    (by_task, _), _ = regenerate(
        RegenerateOptions("ogbench:pointmaze-large-stitch-singletask-task1-v0", tmp_path, episodes=1), quiet=True
    )
    assert by_task == tmp_path / "pointmaze-large-stitch-v0.npz"  # a single task has the data of all
    assert f"{STEPS} rows, 1 episodes of {STEPS} observations" in out
    assert f"ogbench:{tmp_path}/pointmaze-large-stitch-singletask-v0" in out
    assert "task5: solved in 0.00% of the rows" in out
    assert "regenerated, not OGBench's files" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scene-pley-v0", "did you mean scene-play-v0"),
        ("antmaze-large-navigate-v0", "made by a trained policy"),
        ("visual-scene-play-v0", "shows pictures"),
    ],
)
def test_sets_that_no_oracle_makes(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        made(tmp_path, name)


def test_options_of_other_collections_are_refused(tmp_path: Path) -> None:
    for arguments, word in (
        (("ogbench:scene-play-v0", "--rows", "5"), "--rows"),
        (("Pendulum-v1", "--episodes", "5"), "--episodes"),
    ):
        code, _, err = tether("data", "collect", *arguments, "--out", str(tmp_path / "set"))
        assert code == 2
        assert word in err
