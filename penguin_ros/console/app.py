"""What the console answers: the page, a stream of events, pictures, and what a page may do."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import Annotated, Any, TypeVar

from penguin_vl.action import Watch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from penguin_engine.scene.requests import MAX_QUESTION_CHARS
from penguin_models.errors import PenguinError
from penguin_models.quoting import shortened
from penguin_ros.console.guard import Access, Guard
from penguin_ros.console.hub import Hub
from penguin_ros.console.robot import Robot
from penguin_ros.web_server import json_object

_MAX_BODY_BYTES = 100_000
_MAX_BROWSERS, _MAX_QUESTIONS = 16, 4
_MAX_CONDITION_CHARS = 1000
_HEARTBEAT_S = 2.0
_LINES = "application/x-ndjson"
_FILES = {
    "index.html": "text/html",
    **dict.fromkeys(
        ("net.js", "console.js", "picture.js", "memory.js", "plots.js", "talk.js", "watches.js"), "text/javascript"
    ),
    "console.css": "text/css",
    "icon.svg": "image/svg+xml",
}

_Endpoint = Callable[[Request], Awaitable[Response]]


class _Body(BaseModel):
    model_config = ConfigDict(strict=False, extra="forbid", allow_inf_nan=False)


class _Question(_Body):
    question: str = Field(min_length=1, max_length=MAX_QUESTION_CHARS)
    camera: str = Field("", max_length=255)


class _Condition(_Body):
    condition: str = Field(min_length=1, max_length=_MAX_CONDITION_CHARS)
    camera: str = Field("", max_length=255)
    period_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    hold_s: Annotated[float, Field(ge=0, le=3600)] = 0.0


class _Number(_Body):
    id: int


_B = TypeVar("_B", bound=_Body)


class Console:
    """The endpoints of the console."""

    def __init__(self, robot: Robot, hub: Hub):
        self._robot, self._hub = robot, hub
        self._questions = 0

    def app(self, access: Access) -> Starlette:
        """Returns the application behind its guard."""
        gets: dict[str, _Endpoint] = {
            "/": self._page,
            "/page/{name}": self._page,
            "/events": self._events,
            "/picture": self._picture,
            "/thumbnail": self._thumbnail,
            "/alert": self._alert,
        }
        posts: dict[str, _Endpoint] = {"/ask": self._ask, "/watch": self._watch, "/watch/stop": self._stop_watch}
        routes = [
            *(Route(path, endpoint) for path, endpoint in gets.items()),
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
        ]
        handlers: dict[Any, Any] = {HTTPException: _http_error, PenguinError: _refused, Exception: self._failed}
        return Starlette(routes=routes, middleware=[Middleware(Guard, access)], exception_handlers=handlers)

    async def _failed(self, request: Request, err: Exception) -> Response:
        """Logs an error of the console itself."""
        self._robot.log_error("".join(traceback.format_exception(err)))
        return JSONResponse({"error": f"the console failed: {type(err).__name__}; its log says more"}, 500)

    async def _page(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in _FILES:
            raise HTTPException(404, "there is no such file")
        content = (resources.files("penguin_ros.console") / "page" / name).read_bytes()
        return Response(content, media_type=_FILES[name])

    async def _events(self, request: Request) -> Response:
        if self._hub.listeners >= _MAX_BROWSERS:
            raise HTTPException(503, f"{_MAX_BROWSERS} pages are open, the limit: close one")
        return StreamingResponse(self._hub.lines(), media_type=_LINES)

    async def _picture(self, request: Request) -> Response:
        """Answers with the newest picture of a camera, or with that of a captioned frame."""
        pictures, camera = self._robot.pictures, request.query_params.get("camera", "")
        if "stamp" in request.query_params:
            return _jpeg(pictures.at(camera, _integer(request, "stamp")))
        newest = pictures.newest(camera)
        return _jpeg(newest and newest.jpeg, {"X-Stamp": str(newest.stamp_ns)} if newest else {})

    async def _thumbnail(self, request: Request) -> Response:
        camera = request.query_params.get("camera", "")
        return _jpeg(self._robot.pictures.thumbnail(camera, _integer(request, "stamp")))

    async def _alert(self, request: Request) -> Response:
        return _jpeg(dict(self._robot.alert_pictures).get(_integer(request, "id")))

    async def _ask(self, request: Request) -> Response:
        body = await _values(request, _Question)
        if self._questions >= _MAX_QUESTIONS:
            raise HTTPException(503, f"{_MAX_QUESTIONS} questions are being answered, the limit: wait for one")
        return StreamingResponse(self._answer(body), media_type=_LINES)

    async def _answer(self, body: _Question) -> AsyncIterator[bytes]:
        """Yields pieces of text, then the answer; the question is cancelled if the browser goes away."""
        loop, lines = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()

        def put(event: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(lines.put_nowait, event)

        self._questions += 1
        goal = None
        try:
            goal = self._robot.ask(body.question, body.camera, lambda text: put({"kind": "text", "text": text}), put)
            event: dict[str, Any] = {}
            while event.get("kind") != "answer":
                try:
                    event = await asyncio.wait_for(lines.get(), _HEARTBEAT_S)
                except asyncio.TimeoutError:
                    yield b"\n"
                    continue
                yield json.dumps(event).encode() + b"\n"
        finally:
            self._questions -= 1
            if goal is not None and not goal.ended:
                self._robot.cancel(goal)

    async def _watch(self, request: Request) -> Response:
        body = await _values(request, _Condition)
        goal = Watch.Goal(
            condition=body.condition,
            cameras=[body.camera] if body.camera else [],
            period_s=body.period_s,
            threshold=body.threshold,
            hold_s=body.hold_s,
        )
        await run_in_threadpool(self._robot.watch, goal)
        return JSONResponse({})

    async def _stop_watch(self, request: Request) -> Response:
        await run_in_threadpool(self._robot.stop_watch, (await _values(request, _Number)).id)
        return JSONResponse({})


async def _values(request: Request, kind: type[_B]) -> _B:
    """Returns what a page sent; raises HTTPException if it is not what it should be."""
    try:
        return kind.model_validate(await json_object(request, _MAX_BODY_BYTES))
    except ValidationError as err:
        first = err.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the body"
        raise HTTPException(400, f"{shortened(field)}: {first['msg']}") from err


def _integer(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise HTTPException(400, f"{name} is {shortened(text)!r}, not a number")
    return int(text)


def _jpeg(jpeg: bytes | None, headers: dict[str, str] | None = None) -> Response:
    if jpeg is None:
        raise HTTPException(404, "the console has no such picture")
    return Response(jpeg, media_type="image/jpeg", headers=headers)


async def _http_error(request: Request, err: HTTPException) -> Response:
    return JSONResponse({"error": err.detail}, err.status_code)


async def _refused(request: Request, err: PenguinError) -> Response:
    return JSONResponse({"error": str(err)}, 400)
