"""Evaluations in worker processes: the run they leave is, bit for bit, that of evaluations which training waits for,
whenever their answers come, and whatever happens to the workers."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from make_data import (
    OPTIONS,
    SETTINGS,
    algorithm,
    copy_run,
    data_file,
    digest,
    finished_run,
    outcome,
    rows,
    tether,
)

from tether import InputError, Options, resume, train
from tether.algorithms import ALGORITHMS
from tether.data import Normaliser
from tether.environments import Task
from tether.environments.make import make_environment
from tether.evaluation import pool as pool_module
from tether.evaluation.pool import Evaluation, Piece, WorkerPool, automatic_workers, cut
from tether.evaluation.rollout import Episodes, rollout
from tether.machine.cores import usable_cores
from tether.policies.deployed import DeployedPolicy, deploy
from tether.runs import evaluations
from tether.runs.callbacks import Callbacks
from tether.runs.evaluations import QUEUE
from tether.runs.jsonlines import JsonLines
from tether.runs.records import Display
from tether.runs.run import Run
from tether.runs.timeline import Timeline, draw_timeline
from tether.training.lanes import Lane, stack_lanes
from tether.types import Spec

PENDULUM = Task("pendulum", 3, 1, horizon=6, gymnasium_id="Pendulum-v1")
SPEC = Spec(3, 1)
SMALL = ALGORITHMS["bc"](hidden_sizes=(8, 8))
WORKERS = dataclasses.replace(SETTINGS, eval_workers=2)


def policies(lanes: int, name: str = "bc", small: Any = SMALL) -> DeployedPolicy:
    """Random ones, as NumPy arrays."""
    zeros, generator = np.zeros(3, np.float32), np.random.default_rng(lanes)

    def build(algorithm: Any, key: Any) -> DeployedPolicy:
        return deploy(algorithm.policy(algorithm.init(SPEC, key)), SPEC, Normaliser(zeros, zeros + 1))

    stacked, keys = stack_lanes(small, [Lane(0, {})] * lanes), jax.random.split(jax.random.key(0), lanes)
    shapes = jax.eval_shape(jax.vmap(build), stacked, keys)
    return jax.tree.map(lambda leaf: generator.normal(0.0, 0.5, leaf.shape).astype(leaf.dtype), shapes)


def raw_keys(lanes: int) -> np.ndarray:
    return np.asarray(jax.random.key_data(jax.random.split(jax.random.key(7), lanes)))


# --- what an episode depends on -----------------------------------------------------------------------------


@pytest.mark.parametrize(("lanes", "episodes", "workers"), [(1, 10, 4), (3, 10, 4), (8, 5, 4), (5, 1, 5), (2, 2, 1)])
def test_pieces_hold_every_episode_once(lanes: int, episodes: int, workers: int) -> None:
    pieces = cut(lanes, episodes, workers)
    held = [(lane, episode) for piece in pieces for lane in piece.lanes for episode in piece.episodes]
    assert sorted(held) == [(lane, episode) for lane in range(lanes) for episode in range(episodes)]
    sizes = [len(piece.lanes) * len(piece.episodes) for piece in pieces]
    assert min(workers, lanes * episodes) <= len(pieces) < workers + lanes
    assert max(sizes) <= 2 * min(sizes)


SIZES: dict[str, dict[str, Any]] = {
    "dtql": {"hidden_sizes": (8, 8), "denoiser_hidden_sizes": (8, 8), "candidates": 4},  # noise
    "dt": {"width": 8, "block_count": 1, "context_length": 3, "episode_length": 6},  # a memory
}


@pytest.mark.parametrize("name", SIZES)
def test_an_episode_is_the_same_in_any_company(name: str) -> None:
    both, keys = policies(2, name, ALGORITHMS[name](**SIZES[name])), jax.random.split(jax.random.key(1), 2)
    whole = rollout(both, PENDULUM, 3, keys)
    assert len(set(whole.returns.ravel())) == 6
    for lanes, episodes in cut(2, 3, 4):
        some = jax.tree.map(lambda leaf, lanes=lanes: leaf[lanes.start : lanes.stop], both)
        part = rollout(some, PENDULUM, len(episodes), keys[np.asarray(lanes)], first=episodes.start)
        np.testing.assert_array_equal(part.returns, whole.returns[np.ix_(lanes, episodes)])


def test_environments_are_not_all_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An arm of OGBench's takes 150 MB: 50 episodes took 8 GB."""
    open_now, most = set[int](), 0

    def make(task: Task) -> gymnasium.Env:
        nonlocal most
        environment = make_environment(task)
        open_now.add(id(environment))
        most = max(most, len(open_now))
        monkeypatch.setattr(environment, "close", lambda: open_now.discard(id(environment)))
        return environment

    both, keys = policies(2, "dtql", ALGORITHMS["dtql"](**SIZES["dtql"])), jax.random.split(jax.random.key(1), 2)
    whole = rollout(both, PENDULUM, 5, keys, first=2, make=make)
    assert (most, open_now) == (10, set())
    monkeypatch.setattr("tether.evaluation.rollout.ENVIRONMENTS_AT_ONCE", 5)
    most = 0
    parts = rollout(both, PENDULUM, 5, keys, first=2, make=make)
    assert (most, open_now) == (4, set())
    np.testing.assert_array_equal(parts.returns, whole.returns)
    np.testing.assert_array_equal(parts.lengths, whole.lengths)


def test_how_many_workers_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in ((1, 0), (2, 0), (3, 1), (8, 6), (100, 8)):
        monkeypatch.setenv("TETHER_CORES", str(cores))
        assert usable_cores() == cores
        assert automatic_workers() == workers
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert automatic_workers() == 0
    monkeypatch.setenv("TETHER_CORES", "many")
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


# --- the pool -----------------------------------------------------------------------------------------------

# Stands in for a worker without its imports: says it is ready, reads requests and answers the numbers of episodes.
IMPOSTOR = """
import json, os, sys, time
flag = {flag!r}
def answer(request):
    first = request["first"]
    numbers = [list(range(first, first + request["episodes"]))] * len(request["keys"])
    return {{"returns": numbers, "lengths": numbers}}
def say(content):
    print(json.dumps(content) if isinstance(content, dict) else content, flush=True)
def once():
    if os.path.exists(flag):
        return False
    open(flag, "w").close()
    return True
{start}
say({{"ready": True}})
while line := sys.stdin.buffer.readline():
    request = json.loads(line)
    sys.stdin.buffer.read(request["size"])
    say({{"step": 1, "horizon": 2}})
    {act}
    say(answer(request))
"""
DEATHS = {
    "raise SystemExit('no simulator')": r"died with exit code 1 \(no simulator\)",
    "os.kill(os.getpid(), 9)": "died with exit code -9",
    "say('what?')": "died with exit code",
    "time.sleep(60)": "said nothing for 0.3 s",
    "say({'error': 'ValueError: broken'}); continue": r"failed \(ValueError: broken\)",
    "say({'returns': [1], 'lengths': 'none'}); continue": r"failed \(an answer that means nothing\)",
}


@pytest.fixture
def impostor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Workers are impostors from here on that run some Python first, or when asked for something."""

    def replace(start: str = "", act: str = "pass") -> None:
        program = IMPOSTOR.format(flag=str(tmp_path / "flag"), start=start, act=act)
        monkeypatch.setattr(pool_module, "COMMAND", [sys.executable, "-c", program])

    return replace


def pool_of(workers: int, **how: Any) -> WorkerPool:
    return WorkerPool(workers, PENDULUM, SMALL, SPEC, **how)


def wait_for(evaluation: Evaluation, pool: WorkerPool, seconds: float = 60.0) -> list[str]:
    """Until workers have nothing to do for it any more -> warnings."""
    end, warnings = time.monotonic() + seconds, []
    while not evaluation.over and time.monotonic() < end:
        warnings += pool.look_after()
        time.sleep(0.01)
    assert evaluation.over
    return warnings + pool.look_after()


def test_a_worker_plays_what_this_process_would() -> None:
    """A real one; and what the timeline is told."""
    bars: list[tuple[Any, ...]] = []
    pool = pool_of(1, record=lambda *bar: bars.append(bar))
    three = policies(3)
    played = pool.ask(40, three, raw_keys(3), 2), pool.ask(80, three, raw_keys(3)[::-1], 2)
    expected = rollout(three, PENDULUM, 2, jax.random.wrap_key_data(raw_keys(3)))
    for evaluation in played:
        assert wait_for(evaluation, pool) == []
    pool.close()
    first, second = played[0].outcome, played[1].outcome
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.returns, expected.returns)
    np.testing.assert_array_equal(first.lengths, expected.lengths)
    np.testing.assert_array_equal(second.returns[1], first.returns[1])  # the middle key is the same
    assert [(bar[0], bar[1], bar[4]) for bar in bars] == [
        ("worker 0", "start", None), ("worker 0", "evaluate", 40), ("worker 0", "evaluate", 80)
    ]  # fmt: skip
    assert all(start <= end for _, _, start, end, _ in bars)


def test_answers_are_put_where_they_belong(impostor: Callable[..., None]) -> None:
    impostor()
    pool = pool_of(3)
    evaluation = pool.ask(1, policies(2), raw_keys(2), 5)
    assert wait_for(evaluation, pool) == []
    pool.close()
    assert len(evaluation.pieces) == 4
    assert evaluation.outcome is not None
    np.testing.assert_array_equal(evaluation.outcome.returns, [range(5)] * 2)
    assert evaluation.outcome.lengths.dtype == np.int64


@pytest.mark.parametrize(("fault", "reason"), DEATHS.items())
def test_a_worker_that_fails_is_replaced_once(
    impostor: Callable[..., None], monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    monkeypatch.setattr(pool_module, "SILENCE_SECONDS", 0.3)
    impostor(act=f"if once(): {fault}")
    pool = pool_of(1)
    evaluation = pool.ask(7, policies(1), raw_keys(1), 2)
    (warning,) = wait_for(evaluation, pool)
    pool.close()
    assert not evaluation.failed
    assert evaluation.outcome is not None
    with pytest.raises(
        AssertionError, match=f"^evaluation of update 7: worker 0 {reason}.*; trying again in a fresh one"
    ):
        raise AssertionError(warning)


def test_a_piece_that_fails_twice_is_given_back(impostor: Callable[..., None]) -> None:
    impostor(act="if request['first'] == 1: sys.exit(5)")
    pool = pool_of(2)
    evaluation = pool.ask(7, policies(1), raw_keys(1), 2)
    first, second = wait_for(evaluation, pool)
    pool.close()
    assert "died with exit code 5; trying again" in first
    assert second.endswith("died with exit code 5; this part is played while training waits")
    assert evaluation.outcome is None
    assert [evaluation.pieces[number] for number in evaluation.failed] == [Piece(range(1), range(1, 2))]
    evaluation.put(*evaluation.failed, Episodes(np.array([[8.0]]), np.array([[9]])))  # pyright: ignore[reportCallIssue]
    assert evaluation.outcome is not None
    np.testing.assert_array_equal(evaluation.outcome.returns, [[0.0, 8.0]])


def test_workers_that_never_start_are_given_up(impostor: Callable[..., None]) -> None:
    impostor(start="sys.exit('no memory')")
    pool = pool_of(1)
    played = [pool.ask(update, policies(1), raw_keys(1), 1) for update in range(6)]
    warnings = [warning for evaluation in played for warning in wait_for(evaluation, pool)]
    pool.close()
    assert [evaluation.failed for evaluation in played] == [{0}] * 6
    assert len(warnings) == 6  # two for each of three evaluations, and then no more processes are begun
    assert warnings[-1].endswith("while training waits, and so are all others from here on")


def test_closing_ends_workers_in_the_middle(impostor: Callable[..., None]) -> None:
    impostor(act="time.sleep(60)")
    pool = pool_of(2)
    pool.ask(1, policies(2), raw_keys(2), 1)
    while not all(worker._busy for worker in pool._workers.values()) or len(pool._workers) < 2:
        time.sleep(0.01)
    processes = [worker.process for worker in pool._workers.values()]
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 10
    assert all(process.returncode == -signal.SIGKILL for process in processes)


def test_a_worker_heeds_its_parent_alone(tmp_path: Path) -> None:
    """Signals to the whole group of processes do not end it; the death of its parent does, which has no chance to
    say so."""
    parent = (
        "import time\n"
        "from tether.evaluation.pool import _environment, _Worker\n"
        "worker = _Worker(_environment(False, []))\n"
        "worker.wait_until_ready()\n"
        "print(worker.process.pid, flush=True)\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker, number)
    time.sleep(0.3)
    assert _lives(worker)
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while _lives(worker) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _lives(worker)


def _lives(process: int) -> bool:
    """Whether there is such a process that is not merely waiting for its parent to look (Linux)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- the run ------------------------------------------------------------------------------------------------


def trained(out: Path, settings: Options = WORKERS) -> Path:
    return train(algorithm(), str(data_file()), seeds=2, options=settings, out=out, quiet=True).folder


def test_workers_leave_the_run_of_none(tmp_path: Path) -> None:
    """Real ones, on the command line; with the timeline and what is said of the time."""
    out = tmp_path / "run"
    arguments = ["train", "dtql", *OPTIONS, "--seeds", "2", "--eval-workers", "2", data_file(), "--out", out]
    code, _, progress = tether(*arguments)
    assert code == 0
    assert rows(out / "evaluations.jsonl") == rows(finished_run() / "evaluations.jsonl")
    assert outcome(out) == outcome(finished_run())
    assert [line.split()[1] for line in progress.splitlines() if line.startswith("update ")] == ["100", "200", "250"]
    result = json.loads((out / "result.json").read_text())
    assert result["evaluation_seconds"] > 0
    assert 0 < result["evaluation_wait_share"] == result["evaluation_wait_seconds"] / result["wall_seconds"] < 1
    bars = rows(out / "timeline.jsonl")
    played = {(bar["process"], bar["update"]) for bar in bars if bar["what"] == "evaluate"}
    assert {update for _, update in played} == {100, 200, 250}
    assert {process for process, _ in played} <= {"worker 0", "worker 1"}
    assert {bar["what"] for bar in bars if bar["process"] == "training"} == {"compile", "train", "wait", "save"}
    assert tether("plot", out, "--timeline") == (0, f"{out / 'timeline.png'}\n", "")
    assert (out / "timeline.png").read_bytes().startswith(b"\x89PNG\r\n")
    serial = [bar["what"] for bar in rows(finished_run() / "timeline.jsonl")]
    assert serial.count("evaluate") == 3
    assert "wait" not in serial


class LatePool:
    """Plays here, at once, and lets nobody know until it has been looked at so many times."""

    patience = 0
    most_at_once = 0
    spoiled: int | None = None  # a lane whose returns from the second evaluation on are no numbers

    def __init__(self, count: int, task: Task, *about: Any, **how: Any):
        self.task = task
        self.waiting: list[tuple[Evaluation, Episodes]] = []
        self.looks = 0

    def ask(self, update: int, policies: DeployedPolicy, keys: np.ndarray, episodes: int) -> Evaluation:
        played = rollout(policies, self.task, episodes, jax.random.wrap_key_data(jax.numpy.asarray(keys)))
        evaluation = Evaluation(update, played.returns.shape, [Piece(range(len(keys)), range(episodes))])
        self.waiting.append((evaluation, played))
        LatePool.most_at_once = max(LatePool.most_at_once, len(self.waiting))
        return evaluation

    def look_after(self) -> list[str]:
        self.looks += 1
        if self.waiting and self.looks % (LatePool.patience + 1) == 0:
            evaluation, played = self.waiting.pop()  # the last first
            evaluation.put(0, played)
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[LatePool]]:
    monkeypatch.setattr(evaluations, "WorkerPool", LatePool)
    monkeypatch.setattr(evaluations, "WAIT_SECONDS", 0.0)
    LatePool.patience = LatePool.most_at_once = 0
    yield LatePool
    LatePool.patience = 0


OFTEN = dataclasses.replace(SETTINGS, eval_every_updates=50, eval_workers=0)


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """From update 100 on the second of two lanes has returns that are no numbers."""
    real = evaluations.Evaluations._record

    def record(self: Any, asked: Any, outcome: Episodes) -> None:
        if asked.update >= 100 and 1 in asked.lanes:
            outcome.returns[asked.lanes.index(1), 0] = np.nan
        real(self, asked, outcome)

    monkeypatch.setattr(evaluations.Evaluations, "_record", record)


def files(folder: Path) -> dict[str, str]:
    names = ["metrics.jsonl", "evaluations.jsonl", "policy/policy.safetensors"]
    return {name: digest(folder / name) for name in [*names, "checkpoints/train-000000250/state.safetensors"]}


@pytest.mark.long
def test_when_answers_come_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: type[LatePool]
) -> None:
    """Also not the update at which a lane with returns that are no numbers is frozen, nor its rows."""
    spoil(monkeypatch)
    serial = trained(tmp_path / "serial", OFTEN)
    found = rows(serial / "evaluations.jsonl")
    assert {row["update"] for row in found if row["lane"] == 1} == {50}
    assert {row["update"] for row in found if row["lane"] == 0} == {50, 100, 150, 200, 250}
    # Requested at 100, applied at 200; its metrics of the interval up to 210 are those of 60 updates.
    assert max(row["update"] for row in rows(serial / "metrics.jsonl") if row["lane"] == 1) == 210
    assert json.loads((serial / "result.json").read_text())["lanes"][1]["diverged"] == "train update 100"
    for patience in (0, 20):
        late.patience = patience
        out = trained(tmp_path / f"late-{patience}", dataclasses.replace(OFTEN, eval_workers=3))
        assert files(out) == files(serial)
        assert json.loads((out / "result.json").read_text())["lanes"][1]["diverged"] == "train update 100"
    assert late.most_at_once == QUEUE


def test_dead_workers_leave_the_run_to_training(
    tmp_path: Path, impostor: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    impostor(start="sys.exit('no memory')")
    assert outcome(trained(tmp_path / "run")) == outcome(finished_run())
    said = capsys.readouterr().err
    assert said.count("died with exit code 1 (no memory); trying again in a fresh one") >= 1
    assert "this part is played while training waits" in said


# --- interruptions ------------------------------------------------------------------------------------------


def _interrupt_at(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    """Ctrl-C at the start of the piece of the last phase that goes beyond an update."""
    real = Run._run_piece

    def run_piece(self: Run, count: int) -> None:
        if self.position.phase == 1 and self.position.update + count > update:
            os.kill(os.getpid(), signal.SIGINT)
        real(self, count)

    monkeypatch.setattr(Run, "_run_piece", run_piece)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.long)])
def test_evaluations_that_are_not_in_are_played_after_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impostor: Callable[..., None], workers: int
) -> None:
    """Stopped in training, and then again while waiting; workers that never answer, and then real ones or none."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        impostor(act="time.sleep(600)")
        _interrupt_at(patch, 210)
        with pytest.raises(KeyboardInterrupt):
            trained(out)
    assert not (out / "evaluations.jsonl").exists()
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            resume(out, quiet=True)
    held = [json.loads((out / "checkpoints" / "train-000000250" / "manifest.json").read_text())["run"]]
    assert held[0]["evaluations"]["pending"] == [[100, [0, 1], None, None], [200, [0, 1], None, None]]
    assert held[0]["evaluated"] == 200  # the one at the end was not asked for: the queue is full
    monkeypatch.undo()
    resume(out, quiet=True, eval_workers=workers)
    assert rows(out / "evaluations.jsonl") == rows(finished_run() / "evaluations.jsonl")
    assert outcome(out) == outcome(finished_run())


@pytest.mark.long
@pytest.mark.parametrize("attempt", range(4))
def test_killed_again_and_again(tmp_path: Path, attempt: int) -> None:
    """The run and its workers at any moment, with no chance to clean up."""
    out, generator = tmp_path / "run", np.random.default_rng(attempt)
    arguments = ["train", "dtql", *OPTIONS, "--seeds", "2", "--eval-workers", "2", data_file(), "--out", out]
    for _ in range(6):
        command = [sys.executable, "-m", "tether", *map(str, arguments), "--quiet"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(generator.uniform(4, 25))
        process.kill()
        process.communicate()
        if (out / "config.json").exists():
            arguments = ["resume", out]
    assert tether(*arguments, "--quiet")[0] == 0
    assert rows(out / "evaluations.jsonl") == rows(finished_run() / "evaluations.jsonl")
    assert outcome(out) == outcome(finished_run())


def test_a_finished_run_begins_no_worker(tmp_path: Path, impostor: Callable[..., None]) -> None:
    impostor(start="sys.exit('unwanted')")
    folder = copy_run(tmp_path / "run")
    assert tether("resume", folder, "--eval-workers", "2")[0] == 0
    assert outcome(folder) == outcome(finished_run())


# --- settings, devices, the picture -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Options(eval_device="accelerator"), "eval_device 'accelerator': JAX finds none on this machine"),
    ],
)
def test_refused_settings(tmp_path: Path, settings: Options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(algorithm(), str(data_file()), options=settings, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_options_that_there_are_not() -> None:
    with pytest.raises(InputError, match="eval_workers -1: must be 0 to"):
        Options(eval_workers=-1)
    with pytest.raises(InputError, match="unknown eval_device 'gpu'"):
        Options(eval_device="gpu")


def test_policies_act_where_they_are_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured once: the choice is kept in the checkpoint. With a fake accelerator, as there is none here."""
    run_rows, said = JsonLines(tmp_path / "timeline.jsonl"), []
    display = Display(quiet=True)
    monkeypatch.setattr(display, "message", said.append)
    settings = dataclasses.replace(SETTINGS, eval_workers=0)
    plan: Any = type("Plan", (), {"task": PENDULUM, "options": settings, "lanes": (Lane(0, {}),)})()
    processor, accelerator = jax.devices()[0], object()
    seconds = {processor: 0.002, accelerator: 0.0005}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: [processor if backend == "cpu" else accelerator])
    monkeypatch.setattr(evaluations, "seconds_per_step", lambda *what: seconds[what[-1]])

    def chosen() -> evaluations.Evaluations:
        queue = evaluations.Evaluations(plan, Callbacks([]), display, Timeline(run_rows))
        queue._choose_device(lambda: policies(1), jax.random.wrap_key_data(jax.numpy.asarray(raw_keys(1))))
        return queue

    fast = chosen()
    assert fast.device == "accelerator"
    assert fast._jax_device() is None  # the default one
    assert said == [
        "policies act on the accelerator: a step of all episodes takes 2.00 ms on the cpu, 0.50 ms on the accelerator"
    ]
    seconds[accelerator] = 0.1
    slow = chosen()
    assert slow.device == "cpu"
    assert slow._jax_device() is processor
    fast.restore(slow.notes(), {})
    assert fast.device == "cpu"
    plan.options = dataclasses.replace(plan.options, eval_device="accelerator")
    assert chosen().device == "accelerator"
    assert len(said) == 2


def test_bars_that_touch_are_one(tmp_path: Path) -> None:
    path = tmp_path / "timeline.jsonl"
    timeline = Timeline(JsonLines(path))
    timeline.began = 100.0
    for start, end in ((100.0, 101.0), (101.01, 102.0), (103.0, 104.0)):
        timeline.add("training", "train", start, end)
    timeline.add("worker 0", "evaluate", 101.0, 103.5, 10)
    timeline.write()
    timeline.write()
    assert [(row["process"], row["start"], row["end"]) for row in rows(path)] == [
        ("training", 0.0, 2.0), ("training", 3.0, 4.0), ("worker 0", 1.0, 3.5)
    ]  # fmt: skip
    draw_timeline(tmp_path, tmp_path / "timeline.png")
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_no_timeline_is_said(tmp_path: Path) -> None:
    code, _, errors = tether("plot", tmp_path, "--timeline")
    assert code == 2
    assert "holds no timeline" in errors
    code, _, errors = tether("plot", tmp_path, tmp_path, "--timeline")
    assert (code, errors) == (2, "tether: error: plot --timeline: name one run folder\n")
