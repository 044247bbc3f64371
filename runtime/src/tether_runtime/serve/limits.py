"""Who may ask, how much and how often: token, size of a body, time to send it, requests a second."""

from __future__ import annotations

import asyncio
import collections
import hmac
import time
import urllib.parse
from collections.abc import Awaitable
from typing import Any, Callable

__all__ = ["LOOPBACK", "Limits", "Refused"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
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
        """Raises Refused for a wrong token, without one for a page of another site, and for too many requests."""
        if path in OPEN:
            return
        if self._token is None:
            _refuse_pages(headers.get("host"), headers.get("origin"))
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


def _refuse_pages(host: str | None, origin: str | None) -> None:
    """A browser on this machine asks for any page that it shows, and says where that is from: in Origin, or, where a
    site gave its own name this machine's address, in Host. Raises Refused for others than this server's page."""
    if host is not None and _name(host) not in LOOPBACK:
        raise Refused(403, f"host {host[:80]!r}: without a token it may be {', '.join(LOOPBACK)}")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        raise Refused(403, f"a page of {origin[:80]!r} asks; without a token only this server's own may")


def _name(host: str) -> str | None:
    """Without the port."""
    try:
        return urllib.parse.urlsplit(f"//{host}").hostname
    except ValueError:  # brackets that do not match
        return None
