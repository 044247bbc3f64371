"""Chunks of actions: the queue and its conventions, the player that keeps it full, and the server that answers them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tether_runtime
from tether_runtime import InputError
from tether_runtime.chunks import ActionQueue, Chunk, ChunkPlayer

EXPORTS = Path(__file__).parent / "exports"
OBSERVATIONS = np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32)


def ramp(first: float, count: int = 4) -> np.ndarray:
    """`count` actions of one number, each one more than the last."""
    return np.arange(first, first + count, dtype=np.float32)[:, None]


def settled(player: ChunkPlayer) -> None:
    """Wait until nothing is asked any more."""
    deadline = time.monotonic() + 5
    while player._wanted is not None or player._asked_episode is not None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("form", ["numpy", "onnx"])
def test_a_chunk_is_what_steps_carry_out(form: str):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    policy = tether_runtime.load(EXPORTS / f"chunk-{form}")
    assert (policy.chunk_size, policy.history) == (4, 1)
    chunk, memory = policy.chunk(OBSERVATIONS[0], seed=1), policy.initial_memory()
    assert chunk.shape == (4, 2)
    for step, wanted in enumerate(chunk):
        action, memory = policy.step(OBSERVATIONS[step], memory, seed=1)  # looks at the first observation alone
        assert action == pytest.approx(wanted, abs=1e-6)
    noise = policy.noise(8, seed=2)
    one = policy.chunk(OBSERVATIONS[3], noise=[array[3] for array in noise])
    assert policy.chunk(OBSERVATIONS, noise=noise)[3] == pytest.approx(one, abs=1e-6)
    assert policy.chunk(OBSERVATIONS[0], candidates=2).shape == (4, 2)
    assert set(policy.milliseconds()) == {8, 2}
    with pytest.raises(InputError, match="gives single actions"):
        tether_runtime.load(EXPORTS / "bc-numpy").chunk(OBSERVATIONS[0])


@pytest.mark.parametrize(
    ("aggregate", "weight"),
    [("latest_only", 1.0), ("weighted_average", 0.7), ("average", 0.5), ("conservative", 0.3)],
)
def test_what_overlaps_is_joined(aggregate: str, weight: float):
    queue = ActionQueue(aggregate)
    queue.merge(ramp(0.0), 0)
    assert [float(queue.pop()[0]) for _ in range(2)] == [0.0, 1.0]
    queue.merge(ramp(10.0, 5), 1)  # decided at step 1, which is over: its first action is too late
    wanted = [(1 - weight) * older + weight * newer for older, newer in ((2.0, 11.0), (3.0, 12.0))]
    assert [float(queue.pop()[0]) for _ in range(len(queue))] == pytest.approx([*wanted, 13.0, 14.0])
    queue.merge(ramp(0.0), 6)
    queue.merge(ramp(0.0), 1)  # all of it is over
    assert len(queue) == 4
    queue.merge(ramp(50.0, 2), 6)  # a shorter one: what it does not reach is dropped
    assert len(queue) == 2


def test_a_chunk_is_asked_for_at_the_threshold():
    asked: list[float] = []

    def ask(observation: float) -> np.ndarray:
        asked.append(observation)
        return ramp(observation)

    with ChunkPlayer(ask, chunk_size_threshold=0.5, aggregate="latest_only") as player:
        played = []
        for step in range(8):
            played.append(float(player.act(float(step))[0]))
            settled(player)
    assert played == list(range(8))
    assert asked == [0.0, 2.0, 4.0, 6.0]  # two of four are left
    assert player.underruns == 0


def test_with_a_threshold_of_none_a_robot_waits_for_every_chunk():
    observed: list[int] = []

    def observation() -> float:
        observed.append(len(observed))
        return 0.0

    with ChunkPlayer(lambda seen: ramp(seen), chunk_size_threshold=0.0, actions_per_chunk=3) as player:
        assert [float(player.act(observation)[0]) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert len(observed) == 3  # nobody looks where no chunk is asked for


def test_ticks_lead_from_an_action_to_the_next():
    with ChunkPlayer(lambda seen: ramp(0.0, 3), chunk_size_threshold=0.0, ticks_per_action=4) as player:
        ticks = [float(player.act(0.0)[0]) for _ in range(12)]
    assert ticks == pytest.approx([0, 0, 0, 0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0])


def test_an_action_that_is_not_there_is_waited_for_held_or_safe():
    go = threading.Event()

    def slow(observation: float) -> np.ndarray:
        if observation:
            go.wait(5)
        return ramp(10 * observation, 2)

    with ChunkPlayer(slow, underrun="hold") as player:
        assert [float(player.act(0.0)[0]) for _ in range(1)] == [0.0]  # the first chunk is waited for
        assert [float(player.act(1.0)[0]) for _ in range(3)] == [1.0, 1.0, 1.0]
        assert player.underruns == 2
        go.set()
        settled(player)
        assert float(player.act(1.0)[0]) == 11.0  # decided at step 1; what was held was no step
    go.clear()
    with ChunkPlayer(slow, underrun="safe", safe_action=[-1.0]) as player:
        assert float(player.act(1.0)[0]) == -1.0
        go.set()
        settled(player)
        assert float(player.act(1.0)[0]) == 10.0
    go.clear()
    with ChunkPlayer(slow, underrun="wait", patience_seconds=0.05) as player:
        with pytest.raises(TimeoutError, match=r"no chunk within 0\.05 s"):
            player.act(1.0)
        go.set()
    go.clear()
    with ChunkPlayer(slow, underrun="hold", patience_seconds=0.05) as player:
        player.act(0.0)
        player.act(1.0)
        player.act(1.0)
        time.sleep(0.06)
        with pytest.raises(TimeoutError):
            player.act(1.0)
        go.set()


def test_an_episode_forgets_what_was_being_decided():
    go = threading.Event()

    def ask(observation: float) -> np.ndarray:
        if observation == 7.0:
            go.wait(5)
        return ramp(observation)

    with ChunkPlayer(ask, chunk_size_threshold=1.0) as player:
        player.act(0.0)
        settled(player)
        player.act(7.0)
        player.reset()
        threading.Timer(0.02, go.set).start()
        assert float(player.act(100.0)[0]) == 100.0
    with pytest.raises(InputError, match="closed"):
        player.act(0.0)


def test_what_goes_wrong_is_told_and_asked_for_again():
    answers: list[Any] = [OSError("away"), ramp(0.0, 2), OSError("away"), InputError("422: refused")]

    def ask(_: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with ChunkPlayer(ask, chunk_size_threshold=0.0) as player:
        assert [float(player.act(0.0)[0]) for _ in range(2)] == [0.0, 1.0]
        with pytest.raises(InputError, match="422"):
            player.act(0.0)
    for wrong in (np.zeros(3), np.zeros((0, 2)), np.full((2, 2), np.nan)):
        with ChunkPlayer(lambda _, wrong=wrong: wrong) as player, pytest.raises(InputError, match="chunk of shape"):
            player.act(0.0)
    for options, message in (
        ({"aggregate": "median"}, "there are latest_only"),
        ({"chunk_size_threshold": 1.5}, "from 0 to 1"),
        ({"underrun": "safe"}, "safe action"),
        ({"ticks_per_action": 0}, "at least 1"),
        ({"actions_per_chunk": 1.5}, "a whole number"),
        ({"patience_seconds": float("nan")}, "more than 0"),
    ):
        with pytest.raises(InputError, match=message):
            ChunkPlayer(ask, **options)


def test_a_fallback_is_played_at_once_and_joined_with_nothing():
    answers = [Chunk(ramp(0.0)), Chunk(np.float32([[-9.0]]), "safe"), Chunk(ramp(5.0))]
    with ChunkPlayer(lambda _: answers.pop(0), chunk_size_threshold=0.75, aggregate="conservative") as player:
        played = []
        for _ in range(4):
            played.append(float(player.act(0.0)[0]))
            settled(player)
    assert played == [0.0, 1.0, -9.0, 6.0]  # the chunk after it was decided at the step that the fallback had


def test_a_robot_may_write_into_its_observation():
    seen: list[np.ndarray] = []
    go = threading.Event()

    def ask(observation: np.ndarray) -> np.ndarray:
        if seen:
            go.wait(5)
        seen.append(observation)
        return ramp(0.0)

    buffer = np.zeros(3)
    with ChunkPlayer(ask, chunk_size_threshold=1.0) as player:
        player.act(buffer)
        player.act(buffer)
        buffer[:] = 1.0
        go.set()
        settled(player)
    assert not seen[1].any()


# --- over a wire ----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Any:
    for package in ("starlette", "uvicorn", "websockets", "msgpack", "prometheus_client"):
        pytest.importorskip(package)
    from test_runtime_server import running

    names = ("chunk", "noise", "bc")
    return running(*(f"{name}={EXPORTS / f'{name}-numpy'}" for name in names), log=str(tmp_path / "log.jsonl"))


def test_chunks_over_a_wire(server: Any, tmp_path: Path):
    from test_runtime_server import ask

    from tether_runtime.client import Client

    policy = tether_runtime.load(EXPORTS / "chunk-numpy")
    wanted = policy.chunk(OBSERVATIONS[0], seed=1)
    with server as address, Client(address, "chunk") as client:
        answer = client.ask(OBSERVATIONS[0], chunk=True, seed=1)
        assert np.asarray(answer["chunk"]) == pytest.approx(wanted, abs=1e-6)
        assert answer["action"] == answer["chunk"][0]
        assert "memory" not in answer
        with ChunkPlayer(lambda seen: client.chunk(seen, seed=1), chunk_size_threshold=0.0) as player:
            played = [player.act(OBSERVATIONS[0]) for _ in range(5)]
        assert np.stack(played) == pytest.approx(np.concatenate([wanted, wanted[:1]]), abs=1e-6)
        for name, body, message in (
            ("chunk", b'{"observation": [1, 2, 3], "chunk": 3}', "chunk 3: true or false"),
            ("chunk", b'{"observation": [1, 2, 3], "chunk": "yes"}', "true or false"),
            ("chunk", b'{"observation": [1, 2], "chunk": true}', "shape"),
            ("bc", b'{"observation": [1, 2, 3], "chunk": true}', "gives single actions"),
        ):
            status, content = ask(address, f"/policies/{name}/act", body)
            assert status == 422
            assert message in content["error"]
    with ChunkPlayer(client.chunk, patience_seconds=0.3) as player, pytest.raises((OSError, InputError)):
        player.act(OBSERVATIONS[0])  # the server has gone


def test_a_rule_decides_in_the_place_of_a_chunk_and_the_dead_disturb_nobody(server: Any):
    import socket

    from test_runtime_server import running

    from tether_runtime.client import Client

    rules = {"on": ("not_finite=safe", "missing=hold"), "safe_action": (0.5, 1.0)}
    body = b'{"observation": [1, 2, 3], "chunk": true}'
    with running(f"chunk={EXPORTS / 'chunk-numpy'}", **rules) as address, Client(address, "chunk") as client:
        found = client.chunk([1.0, float("nan"), 0.0], episode="a")
        assert (found.actions.tolist(), found.fallback) == ([[0.5, 1.0]], "safe")
        last = client.chunk(OBSERVATIONS[0], episode="a").actions[0]
        found = client.chunk([1.0], episode="a")
        assert (found.actions.tolist(), found.fallback) == ([pytest.approx(last)], "hold")
        host, port = address.removeprefix("http://").split(":")
        for cut in (20, 60, len(body) + 80):  # within the head, within the body, before the answer
            with socket.create_connection((host, int(port)), 5) as wire:
                text = f"POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
                wire.sendall(text[:cut])
        assert client.chunk(OBSERVATIONS[0]).actions.shape == (4, 2)


def test_a_player_outlives_its_server():
    """It goes away between two chunks and comes back; a wall clock that jumps has no part in it."""
    for package in ("starlette", "uvicorn", "websockets", "msgpack", "prometheus_client"):
        pytest.importorskip(package)
    from test_runtime_server import running

    from tether_runtime.client import Client

    clients: list[Client] = []
    with ChunkPlayer(lambda seen: clients[-1].chunk(seen, seed=1), chunk_size_threshold=0.0) as player:
        places = [running(f"chunk={EXPORTS / 'chunk-numpy'}") for _ in range(2)]
        with places[0] as address, Client(address, "chunk", seconds=1.0) as client:
            clients.append(client)
            first = [player.act(OBSERVATIONS[0]) for _ in range(4)]
        waiting: list[np.ndarray] = []
        thread = threading.Thread(target=lambda: waiting.append(player.act(OBSERVATIONS[0])))
        thread.start()  # asks a server that is not there
        with places[1] as address, Client(address, "chunk", seconds=1.0) as client:
            clients.append(client)
            thread.join(10)
        assert waiting[0] == pytest.approx(first[0])


def test_a_stream_with_chunks_keeps_its_memory(server: Any):
    import msgpack
    import websockets.sync.client

    policy = tether_runtime.load(EXPORTS / "chunk-numpy")
    with server as address:
        uri = address.replace("http", "ws") + "/policies/chunk/stream"
        with websockets.sync.client.connect(uri) as wire:

            def say(**content: Any) -> dict[str, Any]:
                wire.send(msgpack.packb(content))
                return msgpack.unpackb(wire.recv())

            first = policy.chunk(OBSERVATIONS[0], seed=1)
            assert say(seed=1, observation=OBSERVATIONS[0].tolist())["action"] == pytest.approx(first[0], abs=1e-6)
            found = say(observation=OBSERVATIONS[5].tolist(), seed=1, chunk=True)["chunk"]
            assert np.asarray(found) == pytest.approx(policy.chunk(OBSERVATIONS[5], seed=1), abs=1e-6)
            assert say(observation=OBSERVATIONS[1].tolist())["action"] == pytest.approx(first[1], abs=1e-6)


def test_an_action_of_a_noisy_policy_has_a_density(server: Any, tmp_path: Path):
    from tether_runtime.client import Client

    policy = tether_runtime.load(EXPORTS / "noise-numpy")
    action, log_density = policy.with_log_density(OBSERVATIONS[0], seed=4)
    assert action == pytest.approx(policy(OBSERVATIONS[0], seed=4), abs=1e-6)
    with server as address, Client(address, "noise") as client:
        answer = client.ask(OBSERVATIONS[0], seed=4)
        assert answer["log_density"] == pytest.approx(float(log_density), abs=1e-4)
        with Client(address, "bc") as other:
            assert "log_density" not in other.ask(OBSERVATIONS[0])
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {row["policy"]: row.get("log_density") for row in rows} == {"noise": answer["log_density"], "bc": None}
    with pytest.raises(InputError, match="no density"):
        tether_runtime.load(EXPORTS / "bc-numpy").with_log_density(OBSERVATIONS[0])


def test_the_density_is_that_of_the_actions():
    """That of the noise, over how much each action moves with its own."""
    policy = tether_runtime.load(EXPORTS / "noise-numpy")
    noise = np.float32([[0.3, -1.2]])
    _, log_density = policy.with_log_density(OBSERVATIONS[0], noise=[noise])
    above, below = (policy(OBSERVATIONS[0], noise=[noise + step]) for step in (0.01, -0.01))
    normal = -0.5 * noise[0] ** 2 - 0.5 * np.log(2 * np.pi)
    assert float(log_density) == pytest.approx(float(np.sum(normal - np.log((above - below) / 0.02))), abs=1e-3)
