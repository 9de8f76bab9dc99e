"""The routes of the server. A request waits for the one worker, as a question does in the node."""

from __future__ import annotations

import asyncio
import json
import logging
import mimetypes
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from penguin_engine.scene.generation import AnswerHooks, Sampling
from penguin_engine.server.answering import Answerer, Reply
from penguin_engine.server.chat_request import BadRequestError, ChatRequest, parse_chat
from penguin_engine.server.completions import DONE, Completion, event
from penguin_engine.server.errors import error_response, response_of
from penguin_engine.server.jobs import Job, Worker
from penguin_engine.server.limits import Guard, Limits
from penguin_engine.server.logprobs import TokenLog
from penguin_engine.server.media_parts import Conversation, to_conversation
from penguin_engine.server.metrics import Metrics
from penguin_engine.server.uploads import Uploads
from penguin_models.errors import CancelledError, PenguinError
from penguin_models.quoting import shortened

_PROMETHEUS = "text/plain; version=0.0.4"
_UPLOADED_BODIES = 8  # size of all uploads together, in largest bodies
_PURPOSES = "vision", "user_data"  # of uploads
_log = logging.getLogger(__name__)


def create_app(
    answerer: Answerer, model: str, limits: Limits, api_key: str | None = None, hosts: tuple[str, ...] = ()
) -> Guard:
    """Returns the ASGI application of a server; it closes the answerer when it ends.

    Args:
        answerer: Answers the requests.
        model: Name of the model for clients.
        limits: What requests may cost.
        api_key: Key that requests must have; None for none.
        hosts: Names of the server that requests must address it by; empty for any.
    """
    server = _Server(answerer, model, limits)
    app = FastAPI(title="Penguin-VL", docs_url=None, redoc_url=None, lifespan=server.running)
    server.guard = guard = Guard(app, limits, api_key, hosts, server.finished)
    app.add_api_route("/v1/chat/completions", server.chat, methods=["POST"])
    app.add_api_route("/v1/models", server.models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", server.model, methods=["GET"])
    app.add_api_route("/v1/files", server.upload, methods=["POST"])
    app.add_api_route("/v1/files", server.files, methods=["GET"])
    app.add_api_route("/v1/files/{number}", server.file, methods=["GET"])
    app.add_api_route("/v1/files/{number}", server.delete_file, methods=["DELETE"])
    app.add_api_route("/health", server.health, methods=["GET", "HEAD"])
    app.add_api_route("/metrics", server.metrics, methods=["GET"])
    app.add_exception_handler(404, _not_found)
    app.add_exception_handler(405, _not_found)
    app.add_exception_handler(PenguinError, _refused)
    return guard


class _Server:
    guard: Guard

    def __init__(self, answerer: Answerer, model: str, limits: Limits):
        self._answerer, self._model, self._limits = answerer, model, limits
        self._worker, self._metrics = Worker(), Metrics()
        self._created = int(time.time())

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        with TemporaryDirectory(prefix="penguin-vl-serve-") as folder:
            self._folder = Path(folder)
            self._uploads = Uploads(
                self._folder, _UPLOADED_BODIES * self._limits.max_body_bytes, self._limits.upload_age_s
            )
            try:
                yield
            finally:
                await asyncio.to_thread(self._worker.close)
                self._answerer.close()

    async def chat(self, request: Request) -> Response:
        """Answers a conversation."""
        start_s = time.monotonic()
        folder = Path(mkdtemp(dir=self._folder))
        clean_up = partial(shutil.rmtree, folder, ignore_errors=True)
        try:
            body = await self._body(request)
            wanted, conversation, sampling, log = await asyncio.to_thread(self._parsed, body, folder)
            del body  # may be large, and the answer may take a while
        except BaseException as err:
            clean_up()
            if not isinstance(err, PenguinError):
                raise
            return self.finished(response_of(err))

        def work(hooks: AnswerHooks) -> Reply:
            reply = self._answerer.answer(conversation, sampling, hooks, log)
            self._metrics.answered(reply, time.monotonic() - start_s)
            return reply

        job = self._worker.submit(work, self._limits.time_limit_s, clean_up, log)
        completion = Completion(self._model)
        usage = wanted.stream_options is not None and wanted.stream_options.include_usage
        answering = _stream(job, completion, usage) if wanted.stream else _whole(job, completion)
        return self.finished(await _while_connected(request, job, answering))

    def _parsed(self, body: bytes, folder: Path) -> tuple[ChatRequest, Conversation, Sampling, TokenLog | None]:
        wanted = parse_chat(body)
        self._check_model(wanted.model)
        conversation = to_conversation(wanted.messages, folder, self._uploads.link)
        return wanted, conversation, wanted.sampling(secrets.randbits(63)), wanted.token_log()

    async def upload(self, request: Request) -> Response:
        """Keeps an image or a video."""
        async with request.form(max_files=1, max_fields=4, max_part_size=1000) as form:
            file, purpose = form.get("file"), form.get("purpose", _PURPOSES[0])
            if purpose not in _PURPOSES:
                raise BadRequestError(f"purpose must be {' or '.join(_PURPOSES)}", "purpose")
            if not isinstance(file, UploadFile):
                raise BadRequestError("send the file as `file` of a form (multipart/form-data)", "file")
            name = file.filename or "file"
            kind = mimetypes.guess_type(name)[0] or file.content_type or ""
            upload = await asyncio.to_thread(self._uploads.add, name, kind, await file.read())
        return JSONResponse(upload.to_dict())

    async def files(self) -> Response:
        """Lists the uploads."""
        data = [upload.to_dict() for upload in self._uploads.all()]
        return JSONResponse({"object": "list", "data": data, "has_more": False})  # a client would ask for the next page

    async def file(self, number: str) -> Response:
        """Describes an upload."""
        return JSONResponse(self._uploads.get(number).to_dict())

    async def delete_file(self, number: str) -> Response:
        """Deletes an upload."""
        self._uploads.delete(number)
        return JSONResponse({"id": number, "object": "file", "deleted": True})

    async def models(self) -> Response:
        """Lists the one model."""
        return JSONResponse({"object": "list", "data": [self._model_object()]})

    async def model(self, name: str) -> Response:
        """Describes a model."""
        self._check_model(name)
        return JSONResponse(self._model_object())

    async def health(self) -> Response:
        """Says that the server answers."""
        return JSONResponse({"status": "ok", "in_flight": self.guard.in_flight})

    async def metrics(self) -> Response:
        """Returns the counters."""
        return Response(self._metrics.text(self.guard.in_flight), media_type=_PROMETHEUS)

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise BadRequestError(f"the body is of type {shortened(kind) or 'none'}; send application/json")
        try:
            return await request.body()
        except ClientDisconnect as err:
            raise CancelledError("the client went away") from err

    def _check_model(self, name: str) -> None:
        if name != self._model:
            raise BadRequestError(
                f"there is no model {shortened(name)}, only {self._model}", "model", "model_not_found"
            )

    def _model_object(self) -> dict[str, object]:
        return {"id": self._model, "object": "model", "created": self._created, "owned_by": "penguin-vl"}

    def finished(self, response: Response) -> Response:
        """Counts a response to a conversation."""
        self._metrics.finished(response.status_code)
        return response


async def _whole(job: Job, completion: Completion) -> Response:
    entries: list[dict[str, Any]] = []
    while not isinstance(item := await job.next(), Reply):
        entries += item.logprobs
    return JSONResponse(completion.whole(item, None if job.log is None else entries))


async def _stream(job: Job, completion: Completion, usage: bool) -> Response:
    """Returns a stream as soon as its first piece is there, so that an error before it has a status of its own."""
    first = await job.next()

    async def events() -> AsyncIterator[str]:
        item = first
        yield completion.event({"role": "assistant", "content": ""})
        try:
            while not isinstance(item, Reply):
                yield completion.event({"content": item.text}, None, None if job.log is None else item.logprobs)
                item = await job.next()
            yield completion.event({}, item)
            if usage:
                yield completion.usage_event(item)
        except Exception as err:  # noqa: BLE001 - the status has been sent: the client learns of it as an event
            _log_unexpected(err)
            yield event(json.loads(bytes(response_of(err).body)))
        finally:
            job.cancel()
        yield DONE

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _while_connected(request: Request, job: Job, answering: Coroutine[Any, Any, Response]) -> Response:
    """Returns a response, or cancels the job when the client goes away."""
    task = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            job.cancel()
        return await task
    except Exception as err:  # noqa: BLE001 - every error becomes a response
        _log_unexpected(err)
        return response_of(err)
    finally:
        if not task.done():
            job.cancel()
        for each in (task, gone):
            each.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _log_unexpected(error: Exception) -> None:
    if not isinstance(error, PenguinError):
        _log.error("a request failed unexpectedly", exc_info=error)


async def _refused(request: Request, error: Exception) -> Response:
    return response_of(error)


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return error_response(
        status, f"there is no {request.method} {shortened(request.url.path)}", "invalid_request_error"
    )
