"""The local web server of `penguin-vl evaluate record`: the page, and what it reads and changes.

Any page that the browser shows can send requests to this machine, so a request must name this server as its host and
must not come from another site.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial, wraps
from importlib import resources
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from penguin_models.errors import EvaluationError, PenguinError
from penguin_models.quoting import shortened
from penguin_ros.evaluation.question_file import format_question
from penguin_ros.evaluation.question_recorder import Recorder

_HOSTS = ("127.0.0.1", "localhost")
_MAX_BYTES = 1_000_000
_READ_S = 10.0
"""Limit for a whole request to arrive."""
_MAX_CONNECTIONS = 200

_Endpoint = Callable[[Request], Awaitable[Response]]


class RecorderServer:
    """Serves the page and its data on this machine only."""

    def __init__(self, recorder: Recorder, port: int = 0, read_s: float = _READ_S):
        """Opens a port; 0 chooses a free one. Raises EvaluationError if the port cannot be opened."""
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((_HOSTS[0], port))
            self._socket.listen()
        except OSError as err:
            self._socket.close()
            raise EvaluationError(f"port {port} cannot be opened: {err.strerror}; choose another with --port") from err
        self.port: int = self._socket.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(
                _app(recorder, self.port),
                http=partial(_TimedProtocol, read_s=read_s),  # type: ignore[arg-type]
                limit_concurrency=_MAX_CONNECTIONS,
                lifespan="off",
                log_level="critical",
                ws="none",
            )
        )

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://{_HOSTS[0]}:{self.port}/"

    def run(self) -> None:
        """Serves until `stop`, or until Ctrl-C."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Ends `run`; may be called from another thread."""
        self._server.should_exit = True


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


def _app(recorder: Recorder, port: int) -> Starlette:
    async def page(request: Request) -> Response:
        return HTMLResponse((resources.files("penguin_ros.evaluation") / "question_recorder.html").read_bytes())

    async def info(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(recorder.info))

    async def frame(request: Request) -> Response:
        query = request.query_params
        try:
            index = int(query.get("index", ""))
            jpeg = await run_in_threadpool(recorder.frame, query.get("camera", ""), index)
        except ValueError as err:  # every PenguinError is one
            raise HTTPException(404, str(err)) from err
        return Response(jpeg, media_type="image/jpeg")

    async def question(request: Request) -> Response:
        added = await run_in_threadpool(recorder.add, await _values(request))
        return JSONResponse(json.loads(format_question(added)))

    async def remove(request: Request) -> Response:
        await run_in_threadpool(recorder.remove, str((await _values(request)).get("id")))
        return JSONResponse({})

    gets, posts = {"/": page, "/info": info, "/frame": frame}, {"/question": question, "/remove": remove}
    origins = (None, *(f"http://{host}:{port}" for host in _HOSTS))
    routes = [
        *(Route(path, _closing(endpoint, origins)) for path, endpoint in gets.items()),
        *(Route(path, _closing(endpoint, origins), methods=["POST"]) for path, endpoint in posts.items()),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=list(_HOSTS), www_redirect=False)
    return Starlette(routes=routes, middleware=[hosts], exception_handlers={HTTPException: _error})


def _closing(endpoint: _Endpoint, origins: Sequence[str | None]) -> _Endpoint:
    @wraps(endpoint)
    async def closing(request: Request) -> Response:
        if (origin := request.headers.get("Origin")) not in origins:
            raise HTTPException(403, f"requests from {shortened(str(origin))} are refused")
        try:
            response = await endpoint(request)
        except PenguinError as err:
            raise HTTPException(400, str(err)) from err
        response.headers.update({"Connection": "close", "Cache-Control": "no-store"})
        return response

    return closing


async def _error(request: Request, err: Exception) -> Response:
    assert isinstance(err, HTTPException)
    return JSONResponse({"error": err.detail}, err.status_code, {"Connection": "close"})


async def _values(request: Request) -> dict[str, Any]:
    """Returns the JSON object that a page sent; raises HTTPException for anything else."""
    if request.headers.get("Content-Type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "send JSON")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BYTES:
            raise HTTPException(413, f"the limit is {_MAX_BYTES} bytes")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise HTTPException(400, f"not JSON: {err}") from err
    if not isinstance(values, dict):
        raise HTTPException(400, "a question is a JSON object")
    return values
