"""Who may ask, how much and how often: token, size of a body, time to send it, requests a second."""

from __future__ import annotations

import asyncio
import collections
import hmac
import time
from collections.abc import Awaitable
from typing import Any, Callable

__all__ = ["Limits", "Refused"]

OPEN = ("/health", "/ready")  # asked by orchestrators, without a token
MOST_ADDRESSES = 10_000


class Refused(Exception):
    """A request that is answered with a status and a line."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Limits:
    """Of one process; `rate` is requests a second of each address, None: any number."""

    def __init__(self, token: str | None, largest_body_bytes: int, body_seconds: float, rate: float | None):
        self._token, self.largest_body_bytes = token, largest_body_bytes
        self._body_seconds, self._rate = body_seconds, rate
        self._left: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def admit(self, path: str, headers: Any, address: str) -> None:
        """Raises Refused for a wrong token or too many requests."""
        if path in OPEN:
            return
        given = headers.get("authorization", "")
        if self._token is not None and not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise Refused(401, "a token is needed: Authorization: Bearer TOKEN")
        self.count(address)

    def count(self, address: str) -> None:
        """One more request of an address. Raises Refused where there are too many."""
        if self._rate is None:
            return
        now = time.monotonic()
        left, before = self._left.pop(address, (max(1.0, self._rate), now))  # a bucket that holds a second's worth
        left = min(max(1.0, self._rate), left + (now - before) * self._rate)
        if len(self._left) >= MOST_ADDRESSES:
            self._left.popitem(last=False)
        self._left[address] = (left - 1.0 if left >= 1.0 else left, now)
        if left < 1.0:
            raise Refused(429, f"more than {self._rate:g} requests a second")

    async def body(self, headers: Any, receive: Callable[[], Awaitable[Any]]) -> bytes:
        """A request's body. Raises Refused where it is too large or does not come in time."""
        stated = headers.get("content-length")
        if stated is not None and stated.isdigit() and int(stated) > self.largest_body_bytes:
            raise self._too_large()
        try:
            return await asyncio.wait_for(self._read(receive), self._body_seconds)
        except asyncio.TimeoutError:
            raise Refused(408, f"the body did not come within {self._body_seconds:g} s") from None

    async def _read(self, receive: Callable[[], Awaitable[Any]]) -> bytes:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "disconnected")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.largest_body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> Refused:
        return Refused(413, f"a body may have {self.largest_body_bytes:,} bytes")
