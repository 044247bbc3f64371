"""`tether finetune`: what is collected, what is drawn of it, and that a run is the same however it is interrupted."""

import dataclasses
import functools
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract.cases import CASES
from make_data import SCRATCH, digest, rows, tether
from safetensors.numpy import load_file

from tether import AWAC, TD3BC, Dataset, Framing, InputError, Options, api, finetune, load_policy, resume, train
from tether.algorithms.registry import make_algorithm
from tether.data import prepare, view_of
from tether.data.growing import GrowingEpisode
from tether.diffusion import vp
from tether.evaluation import collector
from tether.evaluation.collector import Collector, episode_seed
from tether.machine.signals import Interrupted
from tether.policies.acting import Mode, Sampled
from tether.policies.exploring import DETERMINISTIC_NOISE, WithNoise, exploring
from tether.runs import finetuning as module
from tether.runs import report
from tether.runs.plan import Finetuning, Parent
from tether.runs.report import plot_runs
from tether.training.replay import Replay, empty_replay, insert_rows
from tether.types import Transition

OPTIONS = Options(batch_size=16, eval_every_updates=30, eval_episodes=2, log_every_updates=20)
STEPS, OFFLINE = 70, 40
PARENT = Parent("parent", "train-000000040", OFFLINE, "0" * 64)


class Walk(gymnasium.Env):
    """A point that is pushed, with a wind of its own: it ends when it is blown away, else after 12 steps. The actions
    are not in [-1, 1], and whatever it answers is written down."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-3.0, 1.0, (1,), np.float32)
    heard: ClassVar[list[tuple[int, np.ndarray, np.ndarray, float, np.ndarray, bool, bool]]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed, self.state, self.count = seed, self.np_random.normal(0.0, 0.3, 2), 0
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        before, self.count = self.state.copy(), self.count + 1
        self.state = before + np.array([0.2 * before[1], 0.1 * float(action[0])]) + self.np_random.normal(0.0, 0.1, 2)
        reward, lost = 3.0 - float(self.state @ self.state), bool(abs(self.state[0]) > 0.6)
        Walk.heard.append((self.seed, before, np.array(action), reward, self.state.copy(), lost, self.count == 12))
        return self.state.copy(), reward, lost, self.count == 12, {}


@pytest.fixture(autouse=True)
def _walk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment, without pictures of curves, which would take most of the time."""
    gymnasium.register("TetherWalk-v0", Walk, max_episode_steps=12)
    monkeypatch.setattr(report, "plot_runs", lambda folders, path: None)
    Walk.heard = []
    yield
    del gymnasium.registry["TetherWalk-v0"]


def data() -> Dataset:
    """Random walks."""
    generator, episodes = np.random.default_rng(3), []
    walk = Walk()
    for seed in range(12):
        seen, acted, paid, ended, over = [walk.reset(seed=seed)[0]], [], [], False, False
        while not over:
            acted.append(generator.uniform(-3.0, 1.0, 1))
            observation, reward, ended, truncated, _ = walk.step(acted[-1])
            seen.append(observation)
            paid.append(reward)
            over = ended or truncated
        episodes.append({"observations": np.array(seen), "actions": np.array(acted), "rewards": np.array(paid)})
        episodes[-1]["terminals"] = ended
    Walk.heard = []
    return Dataset.from_episodes(episodes, name="walk", action_low=-3.0, action_high=1.0)


HOW = {"environment": "TetherWalk-v0", "reward_transform": "minmax_pm1", "observation_transform": "standardise"}
_parents: dict[str, Path] = {}


def parent(algorithm: Any = None, seeds: Any = 2, name: str = "two", **how: Any) -> Path:
    """A small offline run, made once."""
    if name not in _parents:
        algorithm = algorithm or TD3BC(hidden_sizes=(8,), train_updates=OFFLINE)
        given = {"seeds": seeds, "options": OPTIONS, "out": SCRATCH / f"finetune-{name}", "quiet": True, **HOW, **how}
        _parents[name] = train(algorithm, data(), **given).folder
        Walk.heard = []
    return _parents[name]


def tuned(folder: Path, out: Path, **how: Any) -> Path:
    """A fine-tuned run of it."""
    given = {"env_steps": STEPS, "warmup_env_steps": 10, "eval_every_env_steps": 30, "dataset": data(), "quiet": True}
    return finetune(folder, out=out, **given | how).folder


@functools.cache
def whole() -> tuple[Path, list[Any]]:
    """The run that nothing interrupted, and what its environments gave."""
    folder = tuned(parent(), SCRATCH / "finetune-whole")
    return folder, list(Walk.heard)


def state(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the newest checkpoint."""
    return load_file(sorted((folder / "checkpoints").iterdir())[-1] / "state.safetensors")


def networks(folder: Path) -> dict[str, np.ndarray]:
    """Those that an algorithm carries."""
    return {name: array for name, array in state(folder).items() if "state" in name.split("/")[0].split(".")[0]}


def outcome(folder: Path) -> dict[str, str]:
    """Hashes of all that must not depend on how a run was interrupted."""
    files = ["metrics.jsonl", "evaluations.jsonl", "policy/policy.safetensors"]
    last = max((folder / "checkpoints").iterdir()).name
    return {name: digest(folder / name) for name in [*files, f"checkpoints/{last}/state.safetensors"]}


# --- the run ---


def test_its_curve_begins_with_the_run_that_it_went_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("tether.plots.curves.plot_curves", lambda path, curves, *_: drawn.extend(curves))
    plot_runs([whole()[0]], tmp_path / "curve.png")
    offline, online = ({row["update"] for row in rows(f / "evaluations.jsonl")} for f in (parent(), whole()[0]))
    assert drawn[0].online_from == OFFLINE
    assert drawn[0].updates.tolist() == sorted(offline | online)
    together = shutil.copytree(whole()[0], tmp_path / "moved" / "tuned").parent
    config = json.loads((together / "tuned" / "config.json").read_text())
    config["finetuning"]["parent"]["folder"] = "/elsewhere/before"
    (together / "tuned" / "config.json").write_text(json.dumps(config))
    plot_runs([together / "tuned"], tmp_path / "curve.png")  # the parent is gone: what is there is drawn
    assert (drawn[1].updates.tolist(), drawn[1].online_from) == (sorted(online), OFFLINE)
    shutil.copytree(parent(), together / "before")
    plot_runs([together / "tuned"], tmp_path / "curve.png")  # moved together
    assert drawn[2].updates.tolist() == sorted(offline | online)


def test_no_steps_leave_the_policy_as_it_was(tmp_path: Path) -> None:
    before = digest(parent() / "policy" / "policy.safetensors")
    folder = tuned(parent(), tmp_path / "none", env_steps=0, warmup_env_steps=0)
    assert digest(folder / "policy" / "policy.safetensors") == before
    last = [row for row in rows(parent() / "evaluations.jsonl") if row["update"] == OFFLINE]
    assert rows(folder / "evaluations.jsonl") == last  # the same episodes: one quantity, one number
    assert Walk.heard  # of evaluations


def test_a_run_folder_as_any_other(tmp_path: Path) -> None:
    before = {path: digest(path) for path in parent().rglob("*") if path.is_file()}
    folder = tuned(parent(), tmp_path / "run")
    assert {path: digest(path) for path in parent().rglob("*") if path.is_file()} == before
    config = json.loads((folder / "config.json").read_text())
    assert config["phases"] == [{"name": "train", "updates": OFFLINE + 60}]
    checkpoint = parent() / "checkpoints" / config["finetuning"]["parent"]["checkpoint"]
    assert config["finetuning"]["parent"]["update"] == OFFLINE
    assert config["finetuning"]["parent"]["sha256"] == digest(checkpoint / "state.safetensors")
    metrics = rows(folder / "metrics.jsonl")
    assert [row["update"] for row in metrics if row["lane"] == 0] == [60, 80, 100]
    assert [row["online/env_steps"] for row in metrics if row["lane"] == 1] == [30, 50, 70]
    assert sorted({row["update"] for row in rows(folder / "evaluations.jsonl")}) == [40, 70, 100]
    result = json.loads((folder / "result.json").read_text())
    assert (result["env_steps"], result["updates"], result["status"]) == (70, 100, "done")
    assert tether("plot", folder, parent(), "--out", tmp_path / "curves.png")[0] == 0
    api.evaluate(folder, dataset=data(), episodes=1, quiet=True)
    observation = np.zeros(2, np.float32)
    assert -3.0 <= float(load_policy(folder)(observation)[0]) <= 1.0


def test_replay_is_what_the_environment_gave() -> None:
    """Every row: observation and reward as the data's were changed, the action in [-1, 1], true ends alone terminal."""
    (folder, heard), prepared = whole(), prepare(data(), "minmax_pm1", "standardise")
    arrays, numbers = state(folder), prepared.record["reward_transform"]
    played = {seed: [step for step in heard if step[0] == seed] for seed in {step[0] for step in heard}}
    for lane in (0, 1):
        steps: list[Any] = []
        for episode in range(60):
            steps += played.get(episode_seed(lane, episode), [])
        assert len(steps) == STEPS
        _, before, action, reward, after, lost, _ = (np.array(column) for column in zip(*steps, strict=True))
        low, high = numbers["reward_min"], numbers["reward_max"]
        own = {name.split(".")[-1].split("/")[-1]: array[lane] for name, array in arrays.items() if "replay" in name}
        np.testing.assert_allclose(own["observation"], prepared.normaliser.normalise(before), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(own["next_observation"], prepared.normaliser.normalise(after), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(own["reward"], 2 * (reward - low) / (high - low) - 1, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(own["action"], (action + 1.0) / 2.0, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(own["terminal"], lost.astype(np.float32))
        assert 0 < lost.sum() < 50


def test_without_online_rows_it_is_training_on(tmp_path: Path) -> None:
    offline = Path(shutil.copytree(parent(), tmp_path / "offline"))
    resume(offline, dataset=data(), updates=OFFLINE + STEPS, quiet=True)
    online = tuned(parent(), tmp_path / "online", online_fraction=0.0, warmup_env_steps=0)
    before, after = networks(offline), networks(online)
    assert before.keys() == after.keys()
    assert len(before) > 8
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)


def test_a_lane_of_two_is_a_run_of_one(tmp_path: Path) -> None:
    """But for the last bit: a product for two lanes may add up in another order (with JAX 0.12 it does)."""
    alone = tuned(parent(seeds=[1], name="seed-1"), tmp_path / "alone")
    pair, single = state(whole()[0]), state(alone)
    own = [name for name in single if "replay" in name]
    assert len(own) == 5
    for name in [*own, *networks(alone)]:
        np.testing.assert_allclose(pair[name][1], single[name][0], 1e-4, 1e-5, err_msg=name)


def test_a_second_round_collects_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other episodes: those of the first round are no longer learnt from, and would not be news."""
    before, _ = whole()
    Walk.heard = []
    again = tuned(before, tmp_path / "again", env_steps=20, quiet=False)
    assert "rows that it had collected are left behind" in capsys.readouterr().err
    assert json.loads((again / "config.json").read_text())["finetuning"]["parent"]["rounds"] == 1
    heard = {step[0] for step in Walk.heard}
    assert {episode_seed(lane, 0, rounds=1) for lane in (0, 1)} <= heard
    assert not heard & {episode_seed(lane, episode) for lane in (0, 1) for episode in range(60)}


def test_repair_looks_for_no_rows_of_the_run_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(shutil.copytree(whole()[0], tmp_path / "run"))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        (out / name).write_text("x" + (out / name).read_text())  # its first row is lost
    capsys.readouterr()
    resume(out, dataset=data(), quiet=True, repair=True)
    assert [line for line in capsys.readouterr().err.splitlines() if "missing" in line] == [
        "metrics.jsonl: 1 rows are missing: phase train, update 60, lane 0",
        "evaluations.jsonl: 1 rows are missing: update 40, lane 0, episode 0",
    ]


# --- interruptions ---


class Killed(Exception):
    """A kill, as far as a process can survive one."""


def interrupted(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[int], kill: bool, **how: Any
) -> Path:
    """The run, stopped in its pieces of these numbers and resumed each time."""
    counter = {"pieces": 0}
    collect = Collector.collect

    def counted(self: Collector, *arguments: Any) -> Any:
        counter["pieces"] += 1
        if pieces and counter["pieces"] == pieces[0]:
            pieces.pop(0)
            if kill:
                raise Killed
            signal.raise_signal(signal.SIGTERM)
        return collect(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Collector, "collect", counted)
        try:
            tuned(folder, out, **how)
        except (Killed, Interrupted):
            while True:
                try:
                    resume(out, dataset=data(), quiet=True)
                    break
                except (Killed, Interrupted):
                    continue
    assert not pieces
    return out


@pytest.mark.parametrize("kill", [False, True])
def test_an_interrupted_run_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: bool) -> None:
    before = outcome(whole()[0])
    stopped = interrupted(parent(), tmp_path / "stopped", monkeypatch, [1, 3, 5], kill)
    assert outcome(stopped) == before


def test_killed_before_its_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: Any) -> None:
        raise Killed

    folder = parent()
    with monkeypatch.context() as patch:
        patch.setattr(module.FinetuningRun, "_go_on_evaluating", killed)
        with pytest.raises(Killed):
            tuned(folder, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "checkpoints").exists()
    resume(tmp_path / "stopped", dataset=data(), quiet=True)
    assert outcome(tmp_path / "stopped") == outcome(whole()[0])


def test_an_environment_that_does_not_repeat_itself_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def collect(self: Collector, *arguments: Any) -> Any:
        if self.steps > 25:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *arguments)

    original, folder = Collector.collect, parent()
    with monkeypatch.context() as patch:
        patch.setattr(Collector, "collect", collect)
        with pytest.raises(Interrupted):
            tuned(folder, tmp_path / "run")
    monkeypatch.setattr(collector, "episode_seed", lambda _, episode, rounds: 1000 + episode)  # it ignores its seed
    resume(tmp_path / "run", dataset=data(), quiet=True)
    assert "does not repeat an episode" in capsys.readouterr().err


def test_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped run may end before the steps that are collected already are all used; it keeps them."""
    original, folder = Collector.collect, parent()

    def collect(self: Collector, *arguments: Any) -> Any:
        if self.steps > 35:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Collector, "collect", collect)
        with pytest.raises(Interrupted):
            tuned(folder, tmp_path / "run", warmup_env_steps=0)
    name = next(name for name in state(tmp_path / "run") if "replay" in name and "reward" in name)
    before = state(tmp_path / "run")[name]
    updates = 1 + int(max((tmp_path / "run" / "checkpoints").iterdir()).name.removeprefix("train-"))
    assert before.shape[1] > updates - OFFLINE  # more than the shorter run's steps
    for more in (0, 40):
        report = resume(tmp_path / "run", dataset=data(), updates=updates + more, quiet=True)
        assert (report.status, report.updates) == ("done", updates + more)
        after = state(tmp_path / "run")[name]
        np.testing.assert_array_equal(after[:, : before.shape[1]], before)
    assert after.shape[1] == updates + 40 - OFFLINE


@pytest.mark.long
def test_longer(tmp_path: Path) -> None:
    """A finished run takes more steps with `resume --updates`, replay and episodes as they were."""
    folder = tuned(parent(), tmp_path / "run", replay_capacity=70)
    name = next(name for name in state(folder) if "replay" in name and "reward" in name)
    before = state(folder)[name]
    resume(folder, dataset=data(), updates=OFFLINE + 90, quiet=True)
    after = state(folder)[name]
    assert json.loads((folder / "result.json").read_text())["env_steps"] == 100
    assert before.shape == after.shape == (2, 70)
    np.testing.assert_array_equal(before[:, 30:], after[:, 30:])  # the oldest 30 are overwritten
    assert (before[:, :30] != after[:, :30]).all()


def test_a_lane_whose_environment_breaks_is_frozen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def collect(self: Collector, actor: Any, count: int, alive: Any) -> Any:
        found = original(self, actor, count, alive)
        if self.steps > 30 and alive[1]:
            found[1][-1] = found[1][-1]._replace(reward=float("nan"))
        return found

    original = Collector.collect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Collector, "collect", collect)
        folder = tuned(parent(), tmp_path / "run")
    assert json.loads((folder / "result.json").read_text())["status"] == "partly-diverged"
    assert "its environment gave a number that is not finite" in capsys.readouterr().err


# --- chunks, histories, other algorithms ---


@pytest.mark.parametrize(
    "framing",
    [
        Framing(),
        Framing(chunk=3),
        Framing(chunk=3, history=2),
        Framing(n_step=3),
        Framing(history=3, history_actions=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("name", ["td3-bc", "rebrac", "awr"])
def test_rows_of_a_growing_episode_are_those_of_the_data(framing: Framing, ends: bool, name: str) -> None:
    """Whenever they are asked for: the same rows as `prepare` makes of the whole episode."""
    walk = data()
    view = view_of(make_algorithm(name, {}), framing)
    change = prepare(walk, "minmax_pm1", "standardise", view=view).change
    generator, length = np.random.default_rng(1), 11
    observations = generator.normal(size=(length + 1, 2)).astype(np.float32)
    actions = generator.uniform(-1, 1, (length, 1)).astype(np.float32)
    rewards = generator.normal(size=length).astype(np.float32)
    episode = {"observations": observations, "actions": actions, "rewards": rewards, "terminals": ends}
    whole, begins = change.rows_of(Dataset.from_episodes([episode]))
    order = np.argsort(begins, kind="stable")
    reach_the_end = list(range(length - framing.steps, length - framing.chunk + 1)) if ends else []
    assert sorted(begins[whole.terminal > 0]) == reach_the_end
    for gap in (1, 4, 20):
        growing, parts = GrowingEpisode(change), []
        for step in range(length):
            growing.add(
                observations[step],
                actions[step],
                float(rewards[step]),
                observations[step + 1],
                ends and step == length - 1,
            )
            if step % gap == gap - 1 or step == length - 1:
                parts.append(growing.new_rows(over=step == length - 1))
        found = jax.tree.map(lambda *columns: np.concatenate(columns), *[part for part in parts if part is not None])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, np.asarray(b)[order], rtol=1e-6), found, whole)
        assert len(found.reward) == len(whole.reward)


def test_an_episode_of_one_cut_step_is_a_row_where_its_return_is_known() -> None:
    change = prepare(data(), view=view_of(make_algorithm("awr", {}), Framing())).change
    growing = GrowingEpisode(change)
    growing.add(np.zeros(2, np.float32), np.zeros(1, np.float32), 3.0, np.ones(2, np.float32), False)
    row = growing.new_rows(over=True)
    assert row.return_to_go.tolist() == [3.0]


def test_chunks_are_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open-loop, across pieces and interruptions; the replay holds the chunks that were carried out."""
    algorithm = AWAC(hidden_sizes=(8,), train_updates=OFFLINE)
    folder = parent(algorithm, 1, "chunks", framing=Framing(chunk=3, history=2))
    straight = tuned(folder, tmp_path / "straight", env_steps=50)
    stopped = interrupted(folder, tmp_path / "stopped", monkeypatch, [3], True, env_steps=50)
    assert outcome(stopped) == outcome(straight)
    reward = next(array for name, array in state(straight).items() if "replay" in name and "reward" in name)
    assert 20 < reward.shape[1] < 50  # of the last steps of an episode there is no whole chunk
    api.evaluate(straight, dataset=data(), episodes=1, acting={"execute": 1}, quiet=True)  # without a plan to remember


# --- its parts ---


@pytest.mark.parametrize(("warmup", "each"), [(0, 1), (7, 1), (5, 3), (0, 20)])
def test_steps_and_updates(warmup: int, each: int) -> None:
    how = Finetuning(PARENT, warmup_env_steps=warmup, updates_per_step=each)
    assert how.steps_for(0) == 0
    for updates in range(1, 50):
        steps = how.steps_for(updates)
        assert how.updates_after(steps - 1) < updates <= how.updates_after(steps)


def transitions(start: int, count: int) -> Transition:
    numbers = np.arange(start, start + count, dtype=np.float32)
    column = np.stack([numbers, -numbers], axis=1)
    return Transition(column, column, numbers, column, numbers)


def test_replay_overwrites_the_oldest() -> None:
    replay = empty_replay(transitions(0, 1), 2, 10, 3)
    replay = insert_rows(replay, [transitions(0, 4), None])
    np.testing.assert_array_equal(replay.written, [4, 0])
    replay = insert_rows(replay, [transitions(4, 9), transitions(100, 25)])
    np.testing.assert_array_equal(replay.columns.reward[0], [10, 11, 12, 3, 4, 5, 6, 7, 8, 9])
    np.testing.assert_array_equal(sorted(np.asarray(replay.columns.reward[1])), np.arange(115, 125))
    np.testing.assert_array_equal(replay.columns.observation[1, :, 1], -np.asarray(replay.columns.reward[1]))


def test_mixed_minibatches() -> None:
    lane = jax.tree.map(
        lambda leaf: leaf[0], insert_rows(empty_replay(transitions(0, 1), 1, 50, 3), [transitions(100, 5)])
    )
    batch = jax.tree.map(jnp.asarray, transitions(0, 8))
    places, kept = np.array([0, 2, 5]), np.array([1, 3, 4, 6, 7])  # at even distances
    mixed = jax.jit(lambda key: lane.mixed_into(batch, key))(jax.random.key(0))
    np.testing.assert_array_equal(mixed.reward[kept], kept)
    assert set(np.asarray(mixed.reward[places]).tolist()) <= {100.0, 101.0, 102.0, 103.0, 104.0}
    np.testing.assert_array_equal(mixed.observation[:, 0], mixed.reward)  # whole rows
    empty = dataclasses.replace(lane, written=jnp.int32(0))
    jax.tree.map(np.testing.assert_array_equal, empty.mixed_into(batch, jax.random.key(0)), batch)
    drawn = jax.vmap(lambda key: lane.mixed_into(batch, key).reward[places])(jax.random.split(jax.random.key(1), 500))
    counts = np.unique(np.asarray(drawn), return_counts=True)[1]
    assert (np.abs(counts - 300) < 80).all()  # uniformly


def test_bdpo_meets_collected_rows_at_every_diffusion_step() -> None:
    """Its steps ascend over a minibatch: collected rows behind all others met none of the first, where actions end."""
    lane = Replay(jax.tree.map(jnp.asarray, transitions(1000, 64)), jnp.int32(64), exchanged=64)
    schedule, batch = vp.vp_schedule(5), jax.tree.map(jnp.asarray, transitions(0, 128))
    mixed = lane.mixed_into(batch, jax.random.key(0))
    step = np.asarray(vp.diffuse_evenly(schedule, mixed.action, jax.random.key(1)).step)
    own = np.asarray(mixed.reward) >= 1000
    assert [abs(np.mean(own[step == n]) - 0.5) < 0.05 for n in range(1, 6)] == [True] * 5


def test_exploring() -> None:
    """A Gaussian actor draws, a deterministic one gets noise, and noise that is asked for takes the place of both."""
    for algorithm, kind in ((AWAC(hidden_sizes=(8,)), Sampled), (TD3BC(hidden_sizes=(8,)), WithNoise)):
        policy = algorithm.policy(algorithm.init(prepare(data()).spec, jax.random.key(0)))
        assert isinstance(policy, Mode)
        assert isinstance(exploring(policy, None), kind)
        assert exploring(policy, 0.0) is policy
        observation, keys = jnp.ones(2), jax.random.split(jax.random.key(1), 2000)
        actions = jax.vmap(exploring(policy, 0.05), (None, 0))(observation, keys)
        assert float(jnp.abs(actions).max()) <= 1.0
        np.testing.assert_allclose(actions.mean(axis=0), policy(observation, keys[0]), atol=0.01)
        np.testing.assert_allclose(actions.std(axis=0), 0.05, atol=0.01)
    assert exploring(policy, None).noise == DETERMINISTIC_NOISE
    algorithm = make_algorithm("bdpo-unimodal", CASES["bdpo-unimodal"].sizes | {"actor_kind": "deterministic"})
    policy = algorithm.policy(algorithm.init(prepare(data()).spec, jax.random.key(0)))
    assert exploring(policy, None).noise == DETERMINISTIC_NOISE  # its actor has a spread, which is not trained


# --- what is refused ---


def refused(tmp_path: Path, folder: Path | None = None, **how: Any) -> str:
    with pytest.raises(InputError) as caught:
        tuned(folder or parent(), tmp_path / "refused", **how)
    assert not (tmp_path / "refused").exists()
    return str(caught.value)


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    assert "online_fraction 1.5: must be 0 to 1" in refused(tmp_path, online_fraction=1.5)
    assert "must be shorter than the run, which takes 70" in refused(tmp_path, warmup_env_steps=70)
    assert "env_steps -1" in refused(tmp_path, env_steps=-1)
    assert "exploration_noise -0.1" in refused(tmp_path, exploration_noise=-0.1)
    assert "changes the networks" in refused(tmp_path, hyperparameters={"hidden_sizes": "16,16"})
    assert "its environment steps" in refused(tmp_path, hyperparameters={"train_updates": 5})
    assert "larger than the data" in refused(tmp_path, batch_size=10_000)
    assert "discont" in refused(tmp_path, hyperparameters={"discont": 0.9})
    with pytest.raises(InputError, match="not a run folder"):
        finetune(tmp_path, env_steps=10)


def test_what_cannot_go_on(tmp_path: Path) -> None:
    stopped = Path(shutil.copytree(parent(), tmp_path / "stopped"))
    shutil.rmtree(stopped / "checkpoints")
    assert "holds no checkpoint yet" in refused(tmp_path, stopped)
    config = json.loads((parent() / "config.json").read_text())
    nowhere = Path(shutil.copytree(parent(), tmp_path / "nowhere"))
    (nowhere / "config.json").write_text(json.dumps(config | {"environment": "none"}))
    assert "names no environment" in refused(tmp_path, nowhere)


# --- every algorithm ---


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_every_algorithm_goes_on_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Stopped in the middle, too: collected rows are in the replay, networks move, and nothing is not finite."""
    algorithm = make_algorithm(name, CASES[name].sizes)
    lengths = {field.name: 3 for field in dataclasses.fields(algorithm) if field.name.endswith("_updates")}
    algorithm = dataclasses.replace(algorithm, **{key: lengths[key] for key in lengths if getattr(algorithm, key)})
    how = {"options": dataclasses.replace(OPTIONS, eval_episodes=1), "environment": "TetherWalk-v0", "quiet": True}
    folder = train(algorithm, data(), out=tmp_path / "offline", **how).folder
    if name in ("dt", "awr", "sfbc", "qgpo"):
        refused(tmp_path, folder, env_steps=30)
        return
    straight = tuned(folder, tmp_path / "straight", env_steps=50)
    stopped = interrupted(folder, tmp_path / "stopped", monkeypatch, [3], True, env_steps=50)
    assert outcome(stopped) == outcome(straight)
    result = json.loads((straight / "result.json").read_text())
    assert (result["status"], result["env_steps"]) == ("done", 50)
    before, after = networks(folder), networks(straight)
    assert any((before[key] != after[key]).any() for key in before)
    kept = next(array for key, array in state(straight).items() if "replay" in key and "reward" in key)
    assert kept.shape[1] > 20
