"""The server: HTTP with JSON, a websocket with msgpack. Nothing is unpickled, on any wire.

POST /act, /policies/NAME/act    {"observation": ..., "seed"?, "candidates"?, "budget_ms"?, "time"?, "episode"?,
                                  "reward"?, "memory"?, "chunk"?}  ->  {"action": ..., "policy", "version", ...}
POST /outcome                    {"episode", "reward"?, "terminal"?}: the last action of an episode
GET  /policies, /policies/NAME   what is served, and what it takes
POST /policies/NAME/reload       look at the folder now, rather than within a second
WS   /policies/NAME/stream       the same questions and answers in msgpack; memory and episode are the connection's;
                                  {"reward"?, "terminal"} alone, or with "reset": the last action of its episode
GET  /health, /ready, /metrics, /
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tether_runtime.columns import split
from tether_runtime.decisions import DecisionLog
from tether_runtime.errors import InputError
from tether_runtime.fallback import Decision
from tether_runtime.folder import DOCUMENT
from tether_runtime.noise import draw, generator
from tether_runtime.serve.batching import Batcher, Overloaded
from tether_runtime.serve.limits import Limits, Refused
from tether_runtime.serve.monitor import Monitor
from tether_runtime.serve.store import Served, Store

__all__ = ["Server"]

PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
LOGGER = logging.getLogger("tether.serve")
ASKED = {"observation", "seed", "candidates", "budget_ms", "time", "episode", "reward", "memory", "reset", "chunk"}
LAST = {"reward", "terminal"}  # of an episode's last action
OUTCOME = {"episode", *LAST}
MOST = float(np.finfo(np.float32).max)  # of a number beside the observation
RELOAD_SECONDS = 1.0
MOST_EPISODES = 10_000
WEBSOCKET_SECONDS = 600.0  # without a word


class _Question(NamedTuple):
    """What was asked, before the observation was looked at."""

    observation: Any
    seed: int
    number: int
    clock: float | None
    episode: str | None
    reward: float | None
    memory: list[np.ndarray[Any, Any]]
    chunk: bool  # whether all actions that are decided are asked for


class Server:
    """The application of one process."""

    def __init__(
        self,
        store: Store,
        batcher: Batcher,
        limits: Limits,
        monitor: Monitor,
        log: DecisionLog | None,
        several_processes: bool = False,
    ):
        self._several = several_processes
        self.store, self.batcher, self.limits, self.monitor, self.log = store, batcher, limits, monitor, log
        self.ready = False
        self._loader = concurrent.futures.ThreadPoolExecutor(1, "loader")
        self._last: dict[str, np.ndarray[Any, Any]] = {}  # episode -> its last action
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/metrics", self._metrics),
                Route("/policies", self._policies),
                Route("/policies/{name}", self._policy),
                Route("/policies/{name}/reload", self._reload, methods=["POST"]),
                Route("/policies/{name}/act", self._act, methods=["POST"]),
                Route("/act", self._act, methods=["POST"]),
                Route("/outcome", self._outcome, methods=["POST"]),
                WebSocketRoute("/policies/{name}/stream", self._stream),
            ],
            lifespan=self._life,
            exception_handlers={
                **dict.fromkeys((Refused, InputError, Overloaded), self._refuse),
                **dict.fromkeys((HTTPException, Exception), self._fail),
            },
        )

    @contextlib.asynccontextmanager
    async def _life(self, _: Any) -> AsyncIterator[None]:
        watch = asyncio.get_running_loop().create_task(self._watch())
        self.ready = True
        try:
            yield
        finally:
            self.ready = False
            watch.cancel()
            self._loader.shutdown(wait=False)
            self.batcher.close()
            if self.log is not None:
                try:
                    self.log.close()
                except OSError as error:
                    self._unlogged(self.log, error)

    async def _watch(self) -> None:
        """Load policies whose folders were replaced."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                await self._refresh()
            except Exception:
                LOGGER.exception("reload failed")

    async def _refresh(self, again: str | None = None) -> list[tuple[str, str | None]]:
        """`Store.refresh`, in a thread that nobody waits for who asks for a decision."""
        found = await asyncio.get_running_loop().run_in_executor(self._loader, self.store.refresh, again)
        for name, wrong in found:
            self.monitor.reloads.labels(name, "failed" if wrong else "done").inc()
            LOGGER.warning("%s: %s", name, wrong or f"version {self.store.served[name].version}")
        return found

    # --- requests

    def _admit(self, asker: HTTPConnection) -> None:
        """Raises Refused. The path is the one that is routed: that of `url` is made from the Host header, too."""
        self.limits.admit(asker.scope["path"], asker.headers, _address(asker))

    async def _refuse(self, request: Request, error: Exception) -> Response:
        status = _status(error)
        self.monitor.refused.labels(str(status)).inc()
        headers = {"connection": "close"} if status in (408, 413) else {}
        return JSONResponse({"error": str(error)}, status, headers)

    async def _fail(self, request: Request, error: Exception) -> Response:
        """No such place or method; anything else is a fault of ours, which the server's own log has."""
        if isinstance(error, HTTPException):
            line = f"{request.method} {request.scope['path']}: {error.detail}"
            return JSONResponse({"error": line}, error.status_code)
        return JSONResponse({"error": "a fault of the server's, see its log"}, 500)

    def _find(self, name: str | None) -> Served:
        served = self.store.get(name)
        if served is None:
            raise Refused(404, f"no policy {name!r}; there are {', '.join(self.store.served)}")
        return served

    async def _json(self, request: Request) -> dict[str, Any]:
        body = await self.limits.body(request.headers, request.receive)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused(400, "the body is not JSON") from None
        if not isinstance(content, dict):
            raise Refused(400, "the body is no JSON object")
        return content

    async def _act(self, request: Request) -> Response:
        started = time.perf_counter()
        self._admit(request)
        served = self._find(request.path_params.get("name"))
        content = await self._json(request)
        answer = await self._answer(served, content, None)
        self.monitor.seconds.labels(served.name).observe(time.perf_counter() - started)
        return JSONResponse(answer)

    async def _outcome(self, request: Request) -> Response:
        self._admit(request)
        content = await self._json(request)
        _refuse_unknown(content, OUTCOME)
        episode, reward, terminal = content.get("episode"), _number(content, "reward"), _flag(content, "terminal")
        if not isinstance(episode, str):
            raise InputError("episode: the name that the decisions had is needed")
        self._check_episode(episode)
        self._last.pop(episode, None)
        return JSONResponse({"known": self._ended(episode, reward, terminal)})

    async def _stream(self, socket: WebSocket) -> None:
        try:
            self._admit(socket)
            served_name = self._find(socket.path_params["name"]).name
        except Refused as error:
            self.monitor.refused.labels(str(error.status)).inc()
            await socket.close(4000 + error.status, str(error))
            return
        await socket.accept()
        episode = _Episode()
        try:
            while True:
                message = await asyncio.wait_for(socket.receive(), WEBSOCKET_SECONDS)
                if message["type"] == "websocket.disconnect":
                    return
                data = message.get("bytes")
                answer = await self._streamed(served_name, data, episode, socket)
                await asyncio.wait_for(socket.send_bytes(msgpack.packb(answer) or b""), WEBSOCKET_SECONDS)
        except (WebSocketDisconnect, asyncio.TimeoutError):
            return
        finally:
            self._end(episode, {})

    async def _streamed(self, name: str, data: bytes | None, episode: _Episode, socket: WebSocket) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            if data is None:
                raise Refused(400, "the message is a text; msgpack is binary")
            if len(data) > self.limits.largest_body_bytes:
                raise Refused(413, f"a message may have {self.limits.largest_body_bytes:,} bytes")
            self.limits.count(_address(socket))
            try:
                content = msgpack.unpackb(data)
            except Exception:  # its exceptions have no common base
                raise Refused(400, "the message is not msgpack") from None
            if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
                raise Refused(400, "the message is no map with names")
            if "terminal" in content and "observation" not in content:
                return {"known": self._end(episode, content)}
            answer = await self._answer(self._find(name), content, episode)
        except (Refused, InputError, Overloaded) as error:
            status = _status(error)
            self.monitor.refused.labels(str(status)).inc()
            return {"error": str(error), "status": status}
        self.monitor.seconds.labels(name).observe(time.perf_counter() - started)
        return answer

    # --- decisions

    def _end(self, session: _Episode, content: Mapping[str, Any]) -> bool:
        """A connection's episode ended with what `content` says -> whether the log has it. Raises InputError.

        One that was given a name may still have its outcome told elsewhere, if nothing is told here.
        """
        told = {name: value for name, value in content.items() if name in LAST}
        reward, terminal, logged = _number(told, "reward"), _flag(told, "terminal"), session.logged
        is_own = logged == session.name
        session.restart()
        return bool(told or is_own) and self._ended(logged, reward, terminal)

    def _ended(self, episode: str, reward: float | None, terminal: bool) -> bool:
        """`DecisionLog.ended`, on a full disk, too."""
        if self.log is None:
            return False
        try:
            return self.log.ended(episode, reward, terminal)
        except OSError as error:
            self._unlogged(self.log, error)
            return True

    def _unlogged(self, log: DecisionLog, error: OSError) -> None:
        """A full disk stops no robot."""
        self.monitor.unlogged.inc()
        LOGGER.error("%s: a row is not written: %s", log.path, error.strerror or error)

    def _check_episode(self, episode: str | None) -> None:
        """Raises InputError where another process may have had the episode's last action."""
        holds = any("hold" in served.guard.rules.values() for served in self.store.served.values())
        if self._several and episode is not None and (holds or self.log is not None):
            raise InputError(
                "episode: this server has several processes, and each knows its own connections' episodes alone: ask "
                "over a websocket, or serve with --workers 1"
            )

    async def _answer(self, served: Served, content: Mapping[str, Any], session: _Episode | None) -> dict[str, Any]:
        """The answer to one question, over whichever wire it came. Raises InputError, Refused, Overloaded."""
        if _flag(content, "reset") and session is not None:
            self._end(session, content)
            content = {name: value for name, value in content.items() if name not in LAST}
        if session is not None and session.version != served.version:
            session.version, session.memory = served.version, None  # it is another policy's
        question = _question(served, content, session)
        if session is None:
            self._check_episode(question.episode)
        last = session.last if session is not None else self._last.get(question.episode or "")
        checked = served.guard.check(question.observation, question.clock)
        if checked.vector is not None and checked.vector.ndim != 1:
            raise InputError("observation: one at a time; those that come together are computed together")
        if checked.trouble is not None:
            self.monitor.troubles.labels(served.name, checked.trouble).inc()
        decision, extras = served.guard.instead(checked, question.memory, last), {}
        if decision is None:
            assert checked.vector is not None
            self.monitor.observed(served, checked.vector)
            kinds = served.policy.graph(question.number).noise
            stream = generator(question.seed)
            noise = [draw(stream, kind["law"], tuple(kind["shape"])) for kind in kinds]
            reward = np.asarray(question.reward or 0.0, np.float32)
            asked = checked.vector, noise, question.memory, reward
            action, memory, extras = await self.batcher.act(served.policy, question.number, *asked)
            if question.chunk:
                action, memory = _first_of(extras["chunk"]), memory if served.policy.history > 1 else question.memory
            decision = served.guard.after(checked, action, memory, last, question.memory)
            if decision.trouble == "foreign":
                self.monitor.troubles.labels(served.name, "foreign").inc()
        return self._noted(served, question, decision, extras, checked.vector, session)

    def _noted(
        self,
        served: Served,
        question: _Question,
        decision: Decision,
        extras: dict[str, Any],
        vector: Any,
        session: _Episode | None,
    ) -> dict[str, Any]:
        """Log and count a decision -> its answer."""
        self.monitor.decisions.labels(served.name).inc()
        if decision.fallback is not None:
            self.monitor.fallbacks.labels(served.name, decision.trouble).inc()
        if session is not None:
            session.last, session.logged = decision.action, question.episode or session.name
            if not question.chunk or served.policy.history > 1:
                session.memory = list(decision.memory)
        elif question.episode is not None:
            self._last.pop(question.episode, None)  # the one that was asked for last goes last
            self._last[question.episode] = decision.action
            if len(self._last) > MOST_EPISODES:
                self._last.pop(next(iter(self._last)))
        action = decision.action.tolist()
        answer = {"action": action, "policy": served.name, "version": served.version, "seed": question.seed}
        columns = served.policy.action_columns
        if columns is not None:
            answer["named"] = split(columns, decision.action)
        if decision.trust is not None:
            self.monitor.trust.labels(served.name).observe(decision.trust)
            answer["trust"] = decision.trust
        if decision.trouble is not None:
            answer |= {"trouble": decision.trouble, "message": decision.message, "fallback": decision.fallback}
        if question.chunk:
            answer["chunk"] = extras["chunk"].tolist() if decision.fallback is None else [action]
        if decision.fallback is None and np.isfinite(extras.get("log_density", np.nan)):
            answer["log_density"] = float(extras["log_density"])
        if served.policy.has_memory and session is None and not (question.chunk and served.policy.history == 1):
            answer["memory"] = [np.asarray(part).tolist() for part in decision.memory]
        if self.log is not None:
            self._log(served, question, decision, vector, answer)
        return answer

    def _log(self, served: Served, question: _Question, decision: Decision, vector: Any, answer: Any) -> None:
        assert self.log is not None
        columns = served.policy.columns
        seen = None if vector is None else vector.tolist() if columns is None else split(columns, vector)
        row = {"time": time.time(), "policy": served.name, "version": served.version, "seed": question.seed}
        row |= {"observation": seen, "action": answer.get("named", answer["action"])}
        row |= {"trouble": decision.trouble, "fallback": decision.fallback}
        if decision.trust is not None:
            row["trust"] = decision.trust
        row |= {name: answer[name] for name in ("log_density",) if name in answer}
        episode = question.episode or uuid.uuid4().hex
        try:
            self.log.decided(episode, row, question.reward)
            if question.episode is None:  # nobody will say what it earned
                self.log.ended(episode, None, False)
        except OSError as error:
            self._unlogged(self.log, error)

    # --- about the server

    async def _page(self, request: Request) -> Response:
        policy = "default-src 'self' 'unsafe-inline'; img-src data:"  # the empty icon: browsers ask for one otherwise
        return HTMLResponse(PAGE, headers={"content-security-policy": policy})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _ready(self, request: Request) -> Response:
        return JSONResponse({"ready": self.ready}, 200 if self.ready else 503)

    async def _metrics(self, request: Request) -> Response:
        self._admit(request)
        return Response(self.monitor.text(), media_type="text/plain; version=0.0.4")

    async def _policies(self, request: Request) -> Response:
        self._admit(request)
        return JSONResponse([_about(served) for served in self.store.served.values()])

    async def _policy(self, request: Request) -> Response:
        self._admit(request)
        return JSONResponse(_about(self._find(request.path_params["name"])))

    async def _reload(self, request: Request) -> Response:
        self._admit(request)
        served = self._find(request.path_params["name"])
        name, folder = served.name, served.folder
        wrong = dict(await self._refresh(name)).get(name)
        if wrong is None and not (folder / DOCUMENT).is_file():
            wrong = f"{folder / DOCUMENT}: is not there"
        if wrong is not None:
            raise Refused(409, wrong)
        return JSONResponse(_about(self.store.served[name]))


class _Episode:
    """What a connection remembers."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.name = uuid.uuid4().hex
        self.logged = self.name  # or the name that the questions give it
        self.last: np.ndarray[Any, Any] | None = None
        self.memory: list[np.ndarray[Any, Any]] | None = None
        self.version: str | None = None  # of the policy whose memory it is


def _question(served: Served, content: Mapping[str, Any], session: _Episode | None) -> _Question:
    """What was asked, checked but for the observation. Raises InputError."""
    _refuse_unknown(content, ASKED)
    if "observation" not in content:
        raise InputError("no observation")
    seed = content.get("seed")
    if seed is None:
        seed = secrets.randbits(53)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed {seed!r}: a whole number from 0 to 2**63 - 1")
    episode = content.get("episode", None if session is None else session.name)
    if episode is not None and (not isinstance(episode, str) or len(episode) > 200):
        raise InputError("episode: a text of at most 200 characters")
    candidates = content.get("candidates")
    if candidates is not None and (isinstance(candidates, bool) or not isinstance(candidates, int)):
        raise InputError(f"candidates {candidates!r}: a whole number")
    policy = served.policy
    chunk = _flag(content, "chunk")
    if chunk:
        policy.check_chunks()
    number = policy.number(candidates, _number(content, "budget_ms"))
    memory = content.get("memory") if session is None else session.memory
    if chunk and policy.history == 1:
        memory = None  # a chunk is decided here and now, whatever else is planned
    given = list(policy.initial_memory() if memory is None else policy.checked_memory(memory, ()))
    clock, reward = _number(content, "time"), _number(content, "reward")
    return _Question(content["observation"], seed, number, clock, episode, reward, given, chunk)


def _address(asker: HTTPConnection) -> str:
    return asker.client.host if asker.client else ""


def _first_of(chunk: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The first action; of a chunk that is not finite, none that is."""
    return chunk[0] if np.isfinite(chunk).all() else np.full_like(chunk[0], np.nan)


def _number(content: Mapping[str, Any], name: str) -> float | None:
    value = content.get(name)
    if value is None:
        return None
    shown = repr(value)[:80]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MOST:
        raise InputError(f"{name} {shown}: a finite number")
    return float(value)


def _flag(content: Mapping[str, Any], name: str) -> bool:
    value = content.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{name} {repr(value)[:80]}: true or false")
    return value


def _refuse_unknown(content: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(content) - known)
    if unknown:
        raise InputError(f"{unknown[0][:80]!r}: no such entry; there are {', '.join(sorted(known))}")


def _status(error: Exception) -> int:
    return error.status if isinstance(error, Refused) else 503 if isinstance(error, Overloaded) else 422


def _about(served: Served) -> dict[str, Any]:
    document = served.policy.document
    kept = {name: document[name] for name in ("algorithm", "format", "dtype", "observation", "action", "notes")}
    rules = {"rules": served.guard.rules, "candidates": served.policy.candidates, "trust": document.get("trust")}
    about = {"name": served.name, "version": served.version, "loaded_at": served.loaded_at}
    return {**about, **kept, **rules, "has_memory": served.policy.has_memory, "framing": document.get("framing")}
