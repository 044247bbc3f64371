"""The server over real sockets: right answers, and nothing wrong for whoever misuses it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for package in ("starlette", "uvicorn", "websockets", "msgpack", "prometheus_client", "onnxruntime"):
    pytest.importorskip(package)
import msgpack  # noqa: E402
import uvicorn  # noqa: E402
import websockets.sync.client  # noqa: E402
from starlette.datastructures import URL  # noqa: E402
from starlette.requests import HTTPConnection  # noqa: E402

import tether_runtime  # noqa: E402
from tether_runtime import InputError  # noqa: E402
from tether_runtime.client import Client  # noqa: E402
from tether_runtime.decisions import DecisionLog  # noqa: E402
from tether_runtime.fallback import Guard  # noqa: E402
from tether_runtime.folder import document_hash  # noqa: E402
from tether_runtime.program import Program  # noqa: E402
from tether_runtime.serve import store  # noqa: E402
from tether_runtime.serve.command import Options, make_server, serve  # noqa: E402

EXPORTS = Path(__file__).parent / "exports"
OBSERVATIONS = np.random.default_rng(3).normal(size=(32, 3)).astype(np.float32)


@contextlib.contextmanager
def running(*policies: str, **options: Any) -> Iterator[str]:
    """The address of a server in a thread of this process."""
    app = make_server(Options(policies, **options), several_processes=False).app
    # ws: websockets' own legacy server warns that it is one
    config = uvicorn.Config(app, port=0, log_level="error", ws="websockets-sansio", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    names = ("bc-onnx", "dtql-onnx", "dt-numpy")
    with running(*(f"{name.split('-')[0]}={EXPORTS / name}" for name in names), largest_body_bytes=20_000) as where:
        yield where


def ask(address: str, path: str, body: bytes | None, **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and content of one request that is sent as it is."""
    import urllib.error
    import urllib.request

    request = urllib.request.Request(address + path, body, {name.replace("_", "-"): v for name, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_an_answer_is_the_policy_s(address: str):
    policy = tether_runtime.load(EXPORTS / "dtql-onnx")
    with Client(address, "dtql") as client:
        for seed, row in enumerate(OBSERVATIONS[:8]):
            assert client.act(row, seed=seed) == pytest.approx(policy(row, seed=seed), abs=1e-5)
        assert client.act(OBSERVATIONS[0], seed=1, candidates=2) == pytest.approx(
            policy(OBSERVATIONS[0], seed=1, candidates=2), abs=1e-5
        )
        answer = client.ask({"height": 1.0, "joint": [2.0, 3.0]}, seed=3)
        assert answer["named"] == pytest.approx({"hip": answer["action"][0], "knee": answer["action"][1]})
        assert client.ask(OBSERVATIONS[0])["seed"] != client.ask(OBSERVATIONS[0])["seed"]


def test_requests_at_once_do_not_mix(address: str):
    """Each answer belongs to its question, however they were put together."""
    policy = tether_runtime.load(EXPORTS / "dtql-numpy")
    wanted = [policy(row, seed=seed) for seed, row in enumerate(OBSERVATIONS)]

    def one(first: int) -> list[tuple[int, np.ndarray]]:
        with Client(address, "dtql") as client:
            return [(seed, client.act(OBSERVATIONS[seed], seed=seed)) for seed in range(first, 32, 8)]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for answers in threads.map(one, range(8)):
            for seed, action in answers:
                assert action == pytest.approx(wanted[seed], abs=1e-5)


def test_a_connection_keeps_the_memory(address: str):
    policy = tether_runtime.load(EXPORTS / "dt-onnx")
    memory = policy.initial_memory()
    uri = address.replace("http", "ws") + "/policies/dt/stream"
    with websockets.sync.client.connect(uri) as wire, Client(address, "dt") as client:

        def say(**content: Any) -> dict[str, Any]:
            wire.send(msgpack.packb(content))
            return msgpack.unpackb(wire.recv())

        carried = None
        for step, row in enumerate(OBSERVATIONS[:6]):
            wanted, memory = policy.step(row, memory, 0.1 * step)
            found = say(observation=row.tolist(), reward=0.1 * step)
            assert found["action"] == pytest.approx(wanted, abs=2e-5)
            question = {} if carried is None else {"memory": carried}
            answer = client.ask(row, reward=0.1 * step, **question)  # HTTP: the client carries it
            carried = answer["memory"]
            assert answer["action"] == pytest.approx(wanted, abs=2e-5)
        first = policy.step(OBSERVATIONS[0], policy.initial_memory())[0]
        assert say(observation=OBSERVATIONS[0].tolist(), reset=True)["action"] == pytest.approx(first, abs=2e-5)
        wire.send(b"\xc1 no msgpack")
        assert msgpack.unpackb(wire.recv())["status"] == 400
        wire.send("a text")
        assert msgpack.unpackb(wire.recv()) == {"error": "the message is a text; msgpack is binary", "status": 400}
        assert say(observation=[1.0])["status"] == 422
        assert "action" in say(observation=OBSERVATIONS[0].tolist())


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/act", b"[1", 400, "not JSON"),
        ("/act", b"[" * 10_000, 400, "not JSON"),
        ("/act", b"[]", 400, "no JSON object"),
        ("/act", b"{}", 422, "no observation"),
        ("/act", b'{"observation": [1, 2]}', 422, "shape"),
        ("/act", b'{"observation": [1, 2, NaN]}', 422, "not finite"),
        ("/act", b'{"observation": [1, 2, 1e999]}', 422, "not finite"),
        ("/act", b'{"observation": [[1, 2, 3]]}', 422, "one at a time"),
        ("/act", b'{"observation": [1, 2, 3], "seed": -1}', 422, "seed -1"),
        ("/act", b'{"observation": [1, 2, 3], "sead": 1}', 422, "no such entry"),
        ("/act", b'{"observation": [1, 2, 3], "candidates": 3}', 422, "candidates 3"),
        ("/policies/dt/act", b'{"observation": [1, 2, 3], "memory": [1]}', 422, "memory"),
        ("/policies/dt/act", b'{"observation": [1, 2, 3], "reward": "x"}', 422, "reward 'x'"),
        ("/policies/nobody/act", b"{}", 404, "there are bc, dtql, dt"),
        ("/act", b'{"observation": [1, 2, 3], "time": 1' + b"0" * 400 + b"}", 422, "time 1000"),
        ("/act", b'{"observation": [1, 2, 1' + b"0" * 400 + b"]}", 422, "not finite"),
        ("/act", b'{"observation": ["1", "2", "3"]}', 422, "no array of numbers"),
        ("/nowhere", b"{}", 404, "POST /nowhere: Not Found"),
        ("/act", None, 405, "GET /act: Method Not Allowed"),
        ("/outcome", b"{}", 422, "episode"),
        ("/outcome", b'{"episode": "a", "terminal": "false"}', 422, "terminal 'false'"),
        ("/outcome", b'{"episode": "a", "rewart": 1}', 422, "no such entry"),
        ("/act", b'{"observation": [' + b"1," * 20_000 + b"1]}", 413, "20,000 bytes"),
    ],
)
def test_what_is_wrong_is_answered_with_one_line(
    address: str, path: str, body: bytes | None, status: int, message: str
):
    found, content = ask(address, path, body)
    assert found == status
    assert message in content["error"]
    assert "\n" not in content["error"]


def test_a_huge_body_is_refused_before_it_is_read(address: str):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as wire:
        wire.sendall(b"POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-length: 104857600\r\n\r\n")
        assert wire.recv(100).startswith(b"HTTP/1.1 413")
    with socket.create_connection((host, int(port)), 5) as wire:  # the same without saying how much will come
        wire.sendall(
            b"POST /act HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n" + b"7000\r\n" + b"1" * 0x7000
        )
        assert wire.recv(100).startswith(b"HTTP/1.1 413")
    assert ask(address, "/health", None)[0] == 200


def test_health_metrics_and_what_is_served(address: str):
    import urllib.request

    assert ask(address, "/ready", None) == (200, {"ready": True})
    with Client(address) as client:
        assert [about["name"] for about in client.policies()] == ["bc", "dtql", "dt"]
        client.act(OBSERVATIONS[0])
    with urllib.request.urlopen(address + "/metrics") as answer:
        text = answer.read().decode()
    assert 'tether_decisions_total{policy="bc"}' in text
    assert "tether_decision_seconds_bucket" in text
    with urllib.request.urlopen(address + "/") as answer:
        text = answer.read()
        assert b"<title>tether serve</title>" in text
        assert b'<link rel="icon" href="data:,">' in text  # a browser would look for one, and say that there is none


def test_token_rate_and_slow_clients(tmp_path: Path):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    how = {"token_file": str(tmp_path / "token"), "rate": 5.0, "body_seconds": 0.2}
    with running(f"bc={EXPORTS / 'bc-numpy'}", **how) as address:
        body, right = b'{"observation": [1, 2, 3]}', "Bearer 0123456789abcdef"
        assert ask(address, "/act", body)[0] == 401
        assert ask(address, "/act", body, authorization="Bearer 0123456789abcdee")[0] == 401
        assert ask(address, "/health", None)[0] == 200
        uri = address.replace("http", "ws") + "/policies/bc/stream"
        with pytest.raises(websockets.exceptions.InvalidStatus):
            websockets.sync.client.connect(uri)
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 5) as wire:
            head = f"POST /act HTTP/1.1\r\nhost: x\r\nauthorization: {right}\r\ncontent-length: 26\r\n\r\n"
            wire.sendall(head.encode() + b'{"obs')
            assert wire.recv(100).startswith(b"HTTP/1.1 408")
        time.sleep(1.0)
        statuses = [ask(address, "/act", body, authorization=right)[0] for _ in range(12)]
        assert statuses[0] == 200
        assert set(statuses) == {200, 429}


def test_a_host_header_opens_no_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Starlette before 1.0 makes the path of a URL from the Host, too: of `x/health?` it is one that needs no token."""
    monkeypatch.setattr(HTTPConnection, "url", property(lambda _: URL("http://x/health?/act")))
    (tmp_path / "token").write_text("0123456789abcdef\n")
    with running(f"bc={EXPORTS / 'bc-numpy'}", token_file=str(tmp_path / "token")) as address:
        assert ask(address, "/act", b'{"observation": [1, 2, 3]}')[0] == 401
        with pytest.raises(websockets.exceptions.InvalidStatus):
            websockets.sync.client.connect(address.replace("http", "ws") + "/policies/bc/stream")


def test_other_sites_pages_ask_nothing_without_a_token(address: str, tmp_path: Path):
    """By Origin; or by Host, where a site gave its own name this machine's address."""
    body, own = b'{"observation": [1, 2, 3]}', address[len("http://") :]
    foreign = ({"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"})
    for headers in (*foreign, {"host": "evil.example"}, {"host": "[::1"}, {"host": "a", "origin": "http://a"}):
        status, content = ask(address, "/act", body, **headers)
        assert (status, "without a token" in content["error"]) == (403, True)
        assert ask(address, "/health", None, **headers)[0] == 200
    for headers in (
        {"origin": address},
        {"host": "localhost:1"},
        {"host": "[::1]:8000", "origin": "http://[::1]:8000"},
    ):
        assert ask(address, "/act", body, **headers)[0] == 200
    connect, uri = websockets.sync.client.connect, f"ws://{own}/policies/bc/stream"
    with pytest.raises(websockets.exceptions.InvalidStatus):
        connect(uri, origin="http://evil.example")
    with connect(uri, origin=address):
        pass
    (tmp_path / "token").write_text("0123456789abcdef\n")  # which no other page has: a proxy may stand before it
    with running(f"bc={EXPORTS / 'bc-numpy'}", token_file=str(tmp_path / "token")) as where:
        asked = {"authorization": "Bearer 0123456789abcdef", "host": "robot", "origin": "https://robot.example"}
        assert ask(where, "/act", body, **asked)[0] == 200


def test_a_new_version_takes_its_place_as_a_whole(tmp_path: Path):
    """Under questions: each answer is that of the version it names, and a damaged one is not taken."""
    place, other = tmp_path / "walker", tmp_path / "other"
    shutil.copytree(EXPORTS / "bc-numpy", place)
    shutil.copytree(EXPORTS / "dtql-numpy", other)
    by_version: dict[str, Any] = {}
    with running(f"walker@1={place}") as address:
        answers: list[dict[str, Any]] = []
        stop = threading.Event()

        def keep_asking() -> None:
            with Client(address, "walker") as client:
                while not stop.is_set():
                    answers.append(client.ask(OBSERVATIONS[0], seed=1))

        thread = threading.Thread(target=keep_asking)
        thread.start()
        try:
            place.rename(tmp_path / "old")
            other.rename(place)
            status, about = ask(address, "/policies/walker@1/reload", b"")
            assert (status, about["algorithm"]) == (200, "dtql")
            before = len(answers)
            while len(answers) < before + 20:
                time.sleep(0.01)
        finally:
            stop.set()
            thread.join()
        for folder in (tmp_path / "old", place):
            policy = tether_runtime.load(folder)
            version = document_hash(policy.document)[:12]
            by_version[version] = policy(OBSERVATIONS[0], seed=1)
        assert {answer["version"] for answer in answers} == set(by_version)
        for answer in answers:
            assert answer["action"] == pytest.approx(by_version[answer["version"]], abs=1e-6)
        shutil.copy(EXPORTS / "bc-numpy" / "policy.npz", place / "policy.npz")
        os.utime(place / "export.json")
        status, content = ask(address, "/policies/walker@1/reload", b"")
        assert status == 409
        assert "altered" in content["error"]
        assert ask(address, "/act", b'{"observation": [1, 2, 3]}')[0] == 200
        (place / "export.json").unlink()
        assert ask(address, "/policies/walker@1/reload", b"")[0] == 409


def test_a_memory_ends_with_its_version(tmp_path: Path):
    """A connection goes on with the new version as in an episode's first step."""
    place = Path(shutil.copytree(EXPORTS / "dt-numpy", tmp_path / "dt"))
    policy = tether_runtime.load(place)
    first, memory = policy.step(OBSERVATIONS[0], policy.initial_memory())
    second = policy.step(OBSERVATIONS[1], memory)[0]
    connect = websockets.sync.client.connect
    with running(f"dt={place}") as address, connect(f"ws{address[4:]}/policies/dt/stream") as wire:

        def say(row: np.ndarray) -> dict[str, Any]:
            wire.send(msgpack.packb({"observation": row.tolist()}))
            return msgpack.unpackb(wire.recv())

        assert say(OBSERVATIONS[0])["action"] == pytest.approx(first, abs=2e-5)
        assert say(OBSERVATIONS[1])["action"] == pytest.approx(second, abs=2e-5)
        document = json.loads((place / "export.json").read_text()) | {"notes": {"made": "anew"}}
        del document["document_sha256"]
        (place / "export.json").write_text(json.dumps({**document, "document_sha256": document_hash(document)}))
        assert ask(address, "/policies/dt/reload", b"")[0] == 200
        assert say(OBSERVATIONS[0])["action"] == pytest.approx(first, abs=2e-5)


def test_a_folder_that_does_not_load_stops_no_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Loading has a thread of its own; what failed is tried again when it has changed, or somebody asks."""
    place, load, tries, go_on = tmp_path / "bc", store.load, [], threading.Event()

    def slow(*given: Any, **how: Any) -> Any:
        tries.append(time.monotonic())
        assert go_on.wait(10)
        return load(*given, **how)

    shutil.copytree(EXPORTS / "bc-numpy", place)
    with running(f"bc={place}") as address, Client(address, "bc") as client:
        version = client.ask(OBSERVATIONS[0])["version"]
        monkeypatch.setattr(store, "load", slow)
        (place / "policy.npz").write_bytes(b"")
        os.utime(place / "export.json")
        deadline = time.monotonic() + 10
        while not tries:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert client.ask(OBSERVATIONS[0])["version"] == version  # while it loads
        go_on.set()
        time.sleep(2.5)
        assert len(tries) == 1
        assert ask(address, "/policies/bc/reload", b"")[0] == 409
        assert len(tries) == 2
        shutil.copy(EXPORTS / "bc-numpy" / "policy.npz", place)
        os.utime(place / "export.json")
        while len(tries) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_other_weights_are_another_version(tmp_path: Path):
    """Of NumPy's form the list of operations is the same, whatever was trained."""
    one, two = EXPORTS / "bc-numpy", tmp_path / "two"
    shutil.copytree(one, two)
    with np.load(one / "policy.npz") as arrays:
        changed = {name: array * np.float32(1 + 1e-6) if array.ndim == 2 else array for name, array in arrays.items()}
    np.savez(two / "policy.npz", **changed)
    document = json.loads((two / "export.json").read_text())
    document["files"]["policy.npz"] = hashlib.sha256((two / "policy.npz").read_bytes()).hexdigest()
    del document["document_sha256"]
    (two / "export.json").write_text(json.dumps({**document, "document_sha256": document_hash(document)}))
    served = store.Store({"one": one, "two": two}, Guard).served
    assert served["one"].version != served["two"].version


@pytest.mark.parametrize("answered", [False, True])
def test_a_command_says_its_address_and_ends_when_asked_to(tmp_path: Path, answered: bool):
    """Even where it is asked before it has begun to serve: a signal that came into an import used to be lost."""
    command = [sys.executable, "-c", "import sys; from tether_runtime.serve.command import main; sys.exit(main())"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    words = [*command, f"bc={EXPORTS / 'bc-numpy'}", "--port", "0"]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            said = re.fullmatch(r"bc: (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", server.stdout.readline())
            assert said is not None
            if answered:
                assert ask(said[1], "/health", None)[0] == 200
            server.terminate()
            assert server.wait(60) == 0
        finally:
            server.kill()
    assert not list(tmp_path.iterdir())


def test_a_port_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}: is in use; choose another --port"):
            serve(Options((str(EXPORTS / "bc-numpy"),), port=port))


def test_fallbacks():
    policy = tether_runtime.load(EXPORTS / "bc-numpy")
    rules = {"missing": "hold", "not_finite": "safe", "late": "hold", "outside": "safe"}
    guard = Guard(policy, rules, safe_action=[0.5, 1.0], late_seconds=0.05, margin=0.5)
    usual = guard.act([1.0, 1.0, 1.0], clock=time.time())
    assert (usual.trouble, usual.fallback) == (None, None)
    assert np.array_equal(usual.action, policy([1.0, 1.0, 1.0]))
    cases = {
        "missing": guard.act({"height": 1.0}, last=usual.action),
        "not_finite": guard.act([1.0, np.nan, 1.0], last=usual.action),
        "late": guard.act([1.0, 1.0, 1.0], clock=time.time() - 1.0),
        "outside": guard.act([1.0, 1e4, 1.0], last=usual.action),
    }
    for trouble, decision in cases.items():
        assert decision.trouble == trouble
        held = trouble == "missing"  # late: nothing to hold yet
        assert decision.fallback == ("hold" if held else "safe")
        assert np.array_equal(decision.action, usual.action if held else np.float32([0.5, 1.0]))
    with pytest.raises(InputError, match="not finite"):
        Guard(policy).act([np.nan, 0.0, 0.0])
    seen = Guard(policy, margin=0.0).act([1.0, 1e4, 1.0])
    assert (seen.trouble, seen.fallback) == ("outside", None)
    assert "joint[0]" in seen.message
    for wrong in ({"late": "act"}, {"early": "hold"}, {"late": "hold"}):
        with pytest.raises(InputError):
            Guard(policy, wrong)
    with pytest.raises(InputError, match="outside of"):
        Guard(policy, safe_action=[3.0, 1.0])
    for last in ([0.0] * 5, [np.nan, 1.0]):  # of another policy, or none at all
        assert guard.act({"height": 1.0}, last=np.float32(last)).fallback == "safe"
    with pytest.raises(InputError, match="one at a time"):
        guard.act(np.zeros((2, 3)))
    with pytest.raises(InputError, match="margin nan"):
        Guard(policy, margin=float("nan"))


def test_what_is_not_finite_is_not_remembered(monkeypatch: pytest.MonkeyPatch):
    """A reading that overflows in the normaliser: one decision falls back, the next ones are as if it had not been."""
    policy, run, huge = tether_runtime.load(EXPORTS / "dt-numpy"), Program.run, np.full(3, 3e38, np.float32)
    guard = Guard(policy, {"not_finite": "safe"}, safe_action=[0.5, 1.0])
    with running(f"dt={EXPORTS / 'dt-numpy'}", on=("not_finite=safe",), safe_action=(0.5, 1.0)) as address:
        # a normaliser of small deviations, behind the golden pairs' back
        tenfold = np.errstate(over="ignore")(lambda own, inputs: run(own, [10 * inputs[0], *inputs[1:]]))
        monkeypatch.setattr(Program, "run", tenfold)
        usual = guard.act(OBSERVATIONS[0], memory=policy.initial_memory())
        assert not all(np.isfinite(part).all() for part in policy.step(huge, usual.memory)[1])
        bad = guard.act(huge, memory=usual.memory)
        assert (bad.trouble, bad.fallback) == ("not_finite", "safe")
        assert all(map(np.array_equal, bad.memory, usual.memory))
        assert guard.act(OBSERVATIONS[1], memory=bad.memory).fallback is None
        uri = address.replace("http", "ws") + "/policies/dt/stream"
        with websockets.sync.client.connect(uri) as wire, Client(address, "dt") as client:
            for row, fallback in ((OBSERVATIONS[0], None), (huge, "safe"), (OBSERVATIONS[1], None)):
                wire.send(msgpack.packb({"observation": row.tolist()}))
                assert msgpack.unpackb(wire.recv()).get("fallback") == fallback
                assert client.ask(row).get("fallback") == fallback
    endless = [np.full(np.shape(part), np.inf) for part in usual.memory]  # of which later actions would be made
    checked = guard.check(OBSERVATIONS[0])
    assert guard.after(checked, usual.action, endless, before=usual.memory).fallback == "safe"
    with pytest.raises(InputError, match="memory is not finite"):
        Guard(policy).after(checked, usual.action, endless, before=usual.memory)


def test_several_processes_know_no_episodes_of_requests(tmp_path: Path):
    """A question may come to another process than the one before: its reward would be another action's."""
    options = Options((str(EXPORTS / "bc-numpy"),), log=str(tmp_path / "log.jsonl"))
    server = make_server(options, several_processes=False)
    server._several = True
    with pytest.raises(InputError, match="several processes"):
        server._check_episode("a")
    server._check_episode(None)
    server.log = None  # nothing is remembered then
    server._check_episode("a")


def test_decisions_are_logged_with_their_rewards(tmp_path: Path):
    log = str(tmp_path / "log.jsonl")
    with running(f"bc={EXPORTS / 'bc-numpy'}", log=log) as address, Client(address) as client:
        for step in range(3):
            client.ask(OBSERVATIONS[step], episode="a", seed=step, **({"reward": step / 2} if step else {}))
        client.ask(OBSERVATIONS[9], episode="b")
        assert client.outcome("a", 5.0, terminal=True)
        assert not client.outcome("a", 5.0)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    own = [row for row in rows if row["episode"] == "a"]
    assert [row["reward"] for row in own] == [0.5, 1.0, 5.0]
    assert [row["terminal"] for row in own] == [False, False, True]
    assert [row["step"] for row in own] == [0, 1, 2]
    assert own[1]["observation"]["height"] == pytest.approx(float(OBSERVATIONS[1][0]))
    assert set(own[1]["action"]) == {"hip", "knee"}
    assert [(row["reward"], row["truncated"]) for row in rows if row["episode"] == "b"] == [(None, True)]


def test_a_connection_tells_how_its_episodes_end(tmp_path: Path):
    """By its next question, by a message of its own, or by closing; a named one's outcome may be told elsewhere."""
    log = str(tmp_path / "log.jsonl")
    with running(f"bc={EXPORTS / 'bc-numpy'}", log=log) as address, Client(address) as client:
        with websockets.sync.client.connect(address.replace("http", "ws") + "/policies/bc/stream") as wire:

            def say(**content: Any) -> dict[str, Any]:
                wire.send(msgpack.packb(content))
                return msgpack.unpackb(wire.recv())

            seen = OBSERVATIONS[0].tolist()
            say(observation=seen)
            say(observation=seen, reward=1.0)
            assert "action" in say(observation=seen, reset=True, reward=2.0, terminal=True)
            assert say(reward=3.0, terminal=False) == {"known": True}
            assert say(terminal=True) == {"known": False}
            assert "no such entry" in say(observation=seen, terminal=True)["error"]
            say(observation=seen, episode="named")
            say(observation=seen, reset=True)
        assert client.outcome("named", 4.0, terminal=True)
        deadline = time.monotonic() + 5
        while (tmp_path / "log.jsonl").read_text().count("\n") < 5:  # the last one is written when the socket is closed
            assert time.monotonic() < deadline
            time.sleep(0.01)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [(row["step"], row["reward"], row["terminal"], row["truncated"]) for row in rows]
    wanted = [(0, 1.0, False, False), (1, 2.0, True, False), (0, 3.0, False, True)]
    assert found[:3] == wanted
    assert sorted(found[3:], key=repr) == [(0, 4.0, True, False), (0, None, False, True)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_stops_no_robot():
    with running(f"bc={EXPORTS / 'bc-numpy'}", log="/dev/full") as address, Client(address) as client:
        assert client.act(OBSERVATIONS[0]).shape == (2,)
        assert client.act(OBSERVATIONS[0], episode="a").shape == (2,)
        assert client.outcome("a", 1.0)


def test_what_a_full_disk_did_not_take_is_written_when_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whole rows, in order, with their own rewards, though some were taken in part."""
    log, write, room = DecisionLog(tmp_path / "log.jsonl"), os.write, [0]

    def write_some(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(file, data[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(os, "write", write_some)
    log.decided("a", {"seed": 0})
    for step in range(1, 5):
        room[0] = 0 if step < 3 else 30
        with pytest.raises(OSError, match="No space"):
            log.decided("a", {"seed": step}, float(step))
    room[0] = 10_000
    assert log.ended("a", 5.0, terminal=True)
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["step"], row["seed"], row["reward"]) for row in rows] == [
        (step, step, step + 1.0) for step in range(5)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "give a token file"),
        ({"tls_key": "key.pem"}, "both a certificate and a key"),
        ({"workers": 0}, "workers 0"),
        ({"on": ("late",)}, "TROUBLE=RULE"),
        ({"token_file": "nowhere"}, "nowhere: cannot be read"),
        ({"tls_certificate": "nowhere.pem", "tls_key": "nowhere.pem"}, "nowhere.pem: no such file"),
        ({"tls_certificate": __file__, "tls_key": __file__}, "no certificate and its key"),
        ({"log": str(EXPORTS)}, "cannot be written"),
        ({"rate": 0.0}, "rate 0"),
        ({"body_seconds": float("nan")}, "body_seconds nan"),
        ({"batch_wait_ms": -1.0}, "batch_wait_ms"),
        ({"late_ms": -1.0}, "late_seconds"),
    ],
)
def test_bad_options_are_refused_before_anything_listens(options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        serve(Options((str(EXPORTS / "bc-numpy"),), **options))


@pytest.mark.long
def test_a_killed_worker_is_replaced(tmp_path: Path):
    """Two processes; one is killed while questions are asked: it comes back, and no answer is wrong."""
    policy = tether_runtime.load(EXPORTS / "bc-numpy")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "import sys; from tether_runtime.serve.command import main; sys.exit(main())"]
    words = [f"bc={EXPORTS / 'bc-numpy'}", "--port", str(port), "--workers", "2"]
    server = subprocess.Popen([*command, *words], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    address = f"http://127.0.0.1:{port}"

    def children() -> list[int]:
        text = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
        return [int(pid) for pid in text.split() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def act() -> np.ndarray | None:
        try:
            with Client(address, seconds=2.0) as client:
                return client.act(OBSERVATIONS[0])
        except OSError:  # the killed one's connections end
            return None

    try:
        deadline = time.time() + 60
        while act() is None or len(children()) < 2:
            assert time.time() < deadline
            time.sleep(0.2)
        killed = children()[0]
        os.kill(killed, 9)
        wanted, answered = policy(OBSERVATIONS[0]), 0
        while time.time() < deadline and not (answered > 50 and len(children()) == 2 and killed not in children()):
            found = act()
            answered += found is not None
            assert found is None or found == pytest.approx(wanted, abs=1e-6)
        assert killed not in children()
        assert len(children()) == 2
    finally:
        server.terminate()
        assert server.wait(15) == 0
