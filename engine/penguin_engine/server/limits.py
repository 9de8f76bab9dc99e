"""What a request must satisfy before its body is read: host, key, size, and room in the queue. ASGI middleware.

A page in a browser could send requests to a server on the same machine: the host's name must be a known one (against
DNS rebinding), and what comes from a page (with the header Origin) is refused, because this server has no pages.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response

from penguin_engine.server.errors import error_response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OPEN_PATHS = ("/health",)
_BODY_PAUSE_S = 15.0
"""Longest time between two pieces of a body; one that waits longer must not keep its place in the queue."""


@dataclass(frozen=True)
class Limits:
    """What requests may cost."""

    max_body_bytes: int = 64 * 2**20
    max_pixels: int = 50_000_000  # of the images of a request together, and of a frame of a video
    queue_size: int = 8  # requests that wait; more are refused
    time_limit_s: float = 300.0  # from the request to the end of its answer
    upload_age_s: float = 3600.0


class BodyRefusedError(Exception):
    """A body exceeds a limit while it is read."""


@dataclass(eq=False)
class Guard:
    """Refuses requests early."""

    app: App
    limits: Limits
    api_key: str | None  # None if there is none
    hosts: tuple[str, ...]  # names of this server in the Host header; empty for any
    count: Callable[[Response], object]  # is told of responses to conversations that the application never sees
    in_flight: int = field(default=0, init=False)  # questions that are read, wait or are answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope["path"], headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        if scope["path"] != "/v1/chat/completions" or scope["method"] != "POST":
            await self._handle(scope, receive, send)
            return
        if self.in_flight > self.limits.queue_size:
            busy = error_response(
                429,
                f"{self.in_flight} requests are being answered or wait, the limit is {self.limits.queue_size + 1}; "
                "try again later",
                "rate_limit_error",
                headers={"Retry-After": "1"},
            )
            self.count(busy)
            await busy(scope, receive, send)
            return
        self.in_flight += 1
        try:
            await self._handle(scope, receive, send)
        finally:
            self.in_flight -= 1

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets the application handle a request; a body that is too large or does not come is refused in its place."""
        read, complete, refused = 0, False, False

        async def refuse(response: Response) -> None:
            nonlocal refused
            refused = True
            await response(scope, receive, send)
            raise BodyRefusedError

        async def checked() -> MutableMapping[str, Any]:
            nonlocal read, complete
            try:
                message = await asyncio.wait_for(receive(), None if complete else _BODY_PAUSE_S)
            except asyncio.TimeoutError:
                await refuse(_too_slow())
                raise
            read += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if read > self.limits.max_body_bytes:
                await refuse(self._too_large())
            return message

        async def unless_refused(message: MutableMapping[str, Any]) -> None:
            if not refused:
                await send(message)

        with suppress(BodyRefusedError):
            await self.app(scope, checked, unless_refused)

    def _refusal(self, path: str, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
        if self.hosts and name.lower() not in self.hosts:
            return error_response(
                421, f"this server is not called {name[:100]!r}, but {' or '.join(self.hosts)}", "invalid_request_error"
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return error_response(
                403, f"requests of web pages are refused; this one is of {origin[:100]!r}", "invalid_request_error"
            )
        if self.api_key is not None and path not in _OPEN_PATHS:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.api_key.encode()):
                return error_response(
                    401,
                    "the API key is missing or wrong: send it as `Authorization: Bearer KEY`",
                    "authentication_error",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self.limits.max_body_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> Response:
        return error_response(
            413,
            f"the body has more than {self.limits.max_body_bytes} bytes, the limit; send smaller images or videos",
            "invalid_request_error",
        )


def _too_slow() -> Response:
    message = f"no byte of the body came for {_BODY_PAUSE_S:g} s; send the request again"
    return error_response(408, message, "invalid_request_error")
