"""A client of `tether serve`: HTTP by the standard library, one connection that is used again."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.parse
from typing import Any

import numpy as np

from tether_runtime.chunks import Chunk
from tether_runtime.errors import InputError

__all__ = ["Client"]


class Client:
    """One policy behind a server.

    with Client("http://127.0.0.1:8000", "walker") as client:
        action = client.act(observation)
    """

    def __init__(self, address: str, policy: str | None = None, *, token: str | None = None, seconds: float = 10.0):
        """policy: its name; None: the server's first. seconds: how long an answer may take."""
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise InputError(f"address {address!r}: write http://HOST:PORT")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=seconds)
        self._lock = threading.Lock()  # a `ChunkPlayer` asks in a thread of its own
        self._base = parts.path.rstrip("/")
        self._place = "" if policy is None else f"/policies/{urllib.parse.quote(policy, safe='')}"
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}

    def act(self, observation: Any, **question: Any) -> np.ndarray[Any, Any]:
        """The action for one observation; `question`: seed, candidates, budget_ms, time, episode, reward."""
        return np.asarray(self.ask(observation, **question)["action"], np.float32)

    def ask(self, observation: Any, **question: Any) -> dict[str, Any]:
        """The whole answer. Raises InputError where the server refuses, OSError where it is not there."""
        plain = observation if isinstance(observation, dict) else np.asarray(observation).tolist()
        return self._request("POST", f"{self._place}/act", {"observation": _plain(plain), **question})

    def chunk(self, observation: Any, **question: Any) -> Chunk:
        """The actions that are decided at one observation, for a `ChunkPlayer`; `question` as of `act`.

        Raises InputError for a policy that gives single actions, or sees a history.
        """
        answer = self.ask(observation, chunk=True, **question)
        if "memory" in answer:
            raise InputError("this policy sees a history of observations: ask it step by step")
        return Chunk(np.asarray(answer["chunk"], np.float32), answer.get("fallback"))

    def outcome(self, episode: str, reward: float | None = None, terminal: bool = False) -> bool:
        """What an episode's last action earned -> whether the server has such an episode."""
        return self._request("POST", "/outcome", {"episode": episode, "reward": reward, "terminal": terminal})["known"]

    def policies(self) -> list[dict[str, Any]]:
        """What is served."""
        return self._request("GET", "/policies")

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, method: str, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content)
        with self._lock:
            try:
                answer, text = self._exchange(method, path, body)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):  # an idle connection ended
                answer, text = self._exchange(method, path, body)
        try:
            content = json.loads(text)
        except ValueError:
            raise ConnectionError(f"{answer.status}: the answer is not JSON: {text[:80]!r}") from None
        if answer.status >= 400:
            raise InputError(f"{answer.status}: {content.get('error', text)}")
        return content

    def _exchange(self, method: str, path: str, body: str | None) -> tuple[http.client.HTTPResponse, bytes]:
        try:
            self._connection.request(method, self._base + path, body, self._headers)
            answer = self._connection.getresponse()
            return answer, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # the next request begins a new one
            if isinstance(error, OSError):
                raise
            raise ConnectionError(f"the answer is no whole one: {type(error).__name__} {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value
