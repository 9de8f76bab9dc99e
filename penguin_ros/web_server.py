"""What the local web pages share: a port, a server that no slow or idle client holds up, and checked JSON bodies."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import h11
import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from penguin_models.errors import PenguinError

_UNSENT_S = 20
"""A connection is closed when its client has accepted no data for this long; only Linux can do it."""
_END_S = 1


class PortError(PenguinError):
    """An address or port cannot be served."""


class WebServer:
    """Serves an application on one port. Every response must close its connection.

    Attributes:
        host: The address as given.
        port: The port.
    """

    def __init__(
        self, app_for: Callable[[int], ASGIApp], host: str, port: int, max_connections: int, read_s: float = 10.0
    ):
        """Opens a port.

        Args:
            app_for: Returns the application for a port.
            host: Address or name of the network interface.
            port: The port; 0 chooses a free one.
            max_connections: Further connections get status 503.
            read_s: Limit for a whole request to arrive, in seconds.

        Raises:
            PortError: The port cannot be opened.
        """
        self.host, self._socket = host, listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(
                app_for(self.port),
                http=partial(_TimedProtocol, read_s=read_s),  # type: ignore[arg-type]
                limit_concurrency=max_connections,
                timeout_graceful_shutdown=_END_S,
                lifespan="off",
                log_level="critical",
                interface="asgi3",
                proxy_headers=False,
                ws="none",
            )
        )

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the port."""
        return ipaddress.ip_address(self._socket.getsockname()[0].split("%")[0]).is_loopback

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"

    def run(self) -> None:
        """Serves until `stop`, or until Ctrl-C."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Ends `run`; may be called from another thread."""
        self._server.should_exit = True

    def close(self) -> None:
        """Gives the port back if `run` was not called."""
        self._socket.close()


def listen(host: str, port: int) -> socket.socket:
    """Opens a port; 0 chooses a free one. Raises PortError if it cannot be opened."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as err:
        raise PortError(f"address {host!r} cannot be used: {getattr(err, 'strerror', None) or err}") from err
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNSENT_S * 1000)
        opened.bind(address)
        opened.listen()
    except (OSError, OverflowError) as err:
        opened.close()
        reason = getattr(err, "strerror", None) or err
        raise PortError(f"port {port} of {host} cannot be opened: {reason}; choose another with --port") from err
    return opened


async def json_object(request: Request, max_bytes: int) -> dict[str, Any]:
    """Returns the JSON object that a page sent; raises HTTPException for anything else."""
    if request.headers.get("Content-Type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "send JSON")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise HTTPException(413, f"the limit is {max_bytes} bytes")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise HTTPException(400, f"not JSON: {err}") from err
    if not isinstance(values, dict):
        raise HTTPException(400, "send a JSON object")
    return values


class _TimedProtocol(H11Protocol):
    """Closes a connection on which no whole request arrives in time, for which uvicorn waits for ever."""

    def __init__(self, *args: Any, read_s: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._read_s = read_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Every response closes its connection, so that there is one request to wait for.
        self.loop.call_later(self._read_s, self._close_if_incomplete)

    def _close_if_incomplete(self) -> None:
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self.transport.close()
