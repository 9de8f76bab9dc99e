"""The local web server of `penguin-vl evaluate record`: the page, and what it reads and changes.

Any page that the browser shows can send requests to this machine, so a request must name this server as its host and
must not come from another site.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from importlib import resources

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from penguin_models.errors import PenguinError
from penguin_models.quoting import shortened
from penguin_ros.evaluation.question_file import format_question
from penguin_ros.evaluation.question_recorder import Recorder
from penguin_ros.web_server import WebServer, json_object

_HOSTS = ("127.0.0.1", "localhost")
_MAX_BYTES = 1_000_000
_READ_S = 10.0
"""Limit for a whole request to arrive."""
_MAX_CONNECTIONS = 200

_Endpoint = Callable[[Request], Awaitable[Response]]


class RecorderServer(WebServer):
    """Serves the page and its data on this machine only."""

    def __init__(self, recorder: Recorder, port: int = 0, read_s: float = _READ_S):
        """Opens a port; 0 chooses a free one. Raises PortError if the port cannot be opened."""
        super().__init__(lambda port: _app(recorder, port), _HOSTS[0], port, _MAX_CONNECTIONS, read_s)


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
        added = await run_in_threadpool(recorder.add, await json_object(request, _MAX_BYTES))
        return JSONResponse(json.loads(format_question(added)))

    async def remove(request: Request) -> Response:
        await run_in_threadpool(recorder.remove, str((await json_object(request, _MAX_BYTES)).get("id")))
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
